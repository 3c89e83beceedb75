"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vidgen.errors import UserError

PARTIAL_SUFFIX = ".partial"
"""What names of unfinished files and folders end with; they start with a dot and the final name."""
SECONDS_UNTIL_STALE = 24 * 3600.0


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Write a file beside ``path`` and move it there when the block ends without an error.

    Missing parent folders are made. After a failure or an interrupt ``path`` is what it was before.

    Args:
        path: the final file; an existing one is replaced.

    Yields:
        A binary file open for writing.

    Raises:
        UserError: the disk is full, or writing there is not permitted or not possible.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(partial) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Fill a folder beside ``path`` and move it there when the block ends without an error.

    Args:
        path: the final folder; an existing one is replaced as a whole.

    Yields:
        The folder to fill.

    Raises:
        UserError: the disk is full, or writing there is not permitted or not possible.
    """
    path = Path(path)
    partial = _partial(path)
    try:
        partial.mkdir(parents=True)
        yield partial
        if path.is_dir():
            previous = _partial(path)
            path.rename(previous)
            partial.rename(path)
            shutil.rmtree(previous, ignore_errors=True)
        else:
            partial.rename(path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_error(path: str | os.PathLike[str], error: OSError) -> UserError:
    """The one line that tells why ``path`` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{path}: no space left on the disk; free some, what was written before is intact")
    return UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place")


def drop_partial(path: Path) -> None:
    """Remove an unfinished file, unless somebody is still writing it.

    Whoever writes one holds its lock. Where the file system has no locks, only what nobody has written to for a day is
    removed.
    """
    with suppress(OSError), open(path, "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        except OSError:
            if time.time() - os.fstat(file.fileno()).st_mtime < SECONDS_UNTIL_STALE:
                return
        path.unlink()


def _locked(path: Path) -> BinaryIO:
    """A new file, open for writing and locked where the file system has locks."""
    while True:
        file = open(path, "wb")  # noqa: SIM115 - the caller closes it
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # it was taken for an abandoned one before it was locked


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
