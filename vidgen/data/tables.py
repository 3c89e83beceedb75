"""Many names in little memory, and files by number, from a folder or from inside a zip.

A list of a million Python strings costs hundreds of megabytes, and every worker process copies it bit by bit merely by
looking at it, because looking changes reference counts. NumPy arrays have none.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.data.decoding import Unreadable
from vidgen.errors import UserError

BESIDE = frozenset(
    f".{suffix}"
    for suffix in (
        *("txt", "csv", "tsv", "json", "jsonl", "md", "yaml", "yml", "xml", "html", "pdf", "nfo", "log"),
        *("srt", "vtt", "ass", "wav", "mp3", "m4a", "npy", "npz", "mat", "pkl", "h5", "py", "sh"),
        *("zip", "tar", "gz", "rar", "7z", "md5", "sha256"),
    )
)
"""What lies beside videos and is passed over in silence."""

_log = logging.getLogger("vidgen.data")


class StringTable(Sequence[str]):
    """An immutable list of strings in two arrays.

    Args:
        strings: the strings; file names that are no valid text are kept byte for byte.
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        strings = list(strings)
        text = "".join(strings)
        if text.isascii():  # one byte per character: many times faster than one by one
            self.data = np.frombuffer(text.encode("ascii"), np.uint8)
            lengths = list(map(len, strings))
        else:
            encoded = [os.fsencode(string) for string in strings]
            self.data = np.frombuffer(b"".join(encoded), np.uint8)
            lengths = list(map(len, encoded))
        self.ends = np.cumsum(lengths, dtype=np.int64)

    @classmethod
    def from_arrays(cls, data: NDArray[np.uint8], ends: NDArray[np.int64]) -> StringTable:
        """The table that has these arrays."""
        table = cls()
        table.data, table.ends = data, ends
        return table

    def __len__(self) -> int:
        return len(self.ends)

    def __iter__(self) -> Iterator[str]:
        data, start = self.data.tobytes(), 0
        if data.isascii():
            text = data.decode("ascii")
            for end in self.ends.tolist():
                yield text[start:end]
                start = end
            return
        for end in self.ends.tolist():
            yield os.fsdecode(data[start:end])
            start = end

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.data[start : int(self.ends[index])].tobytes())

    def same(self, other: StringTable) -> bool:
        """Whether another table has the same strings in the same order."""
        return np.array_equal(self.ends, other.ends) and np.array_equal(self.data, other.data)

    def take(self, rows: NDArray[np.int64]) -> StringTable:
        """The strings of these numbers, in this order."""
        if _all_in_order(rows, len(self)):
            return self
        data, ends = self.data.tobytes(), self.ends[rows]
        lengths = np.diff(self.ends, prepend=0)[rows]
        parts = [data[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
        return StringTable.from_arrays(np.frombuffer(b"".join(parts), np.uint8), np.cumsum(lengths, dtype=np.int64))


def _all_in_order(rows: NDArray[np.int64], number: int) -> bool:
    return len(rows) == number and np.array_equal(rows, np.arange(number))


class FolderFiles:
    """Files under a folder, by number.

    Args:
        root: the folder.
        names: paths relative to it, with ``/``.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root = root
        self.names = names if isinstance(names, StringTable) else StringTable(names)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, number: int) -> str:
        """Where a file lies, for messages and for readers that open it themselves."""
        return os.path.join(self.root, self.names[number])

    def read(self, number: int) -> bytes:
        """All bytes of a file.

        Raises:
            Unreadable: it is gone or cannot be read.
        """
        path = self.path(number)
        try:
            with open(path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            reason = "a link that leads nowhere" if os.path.islink(path) else "it is gone"
            raise Unreadable(reason, passing=True) from None
        except OSError as error:
            loops = error.errno == errno.ELOOP
            reason = "a link that leads nowhere" if loops else error.strerror or str(error)
            raise Unreadable(reason, passing=True) from error

    def signature(self) -> bytes:
        """The size of every file; it differs where one was replaced by another of another size.

        Raises:
            UserError: one is gone.
        """
        sizes = np.empty(len(self), np.int64)
        for number in range(len(self)):
            path = self.path(number)
            try:
                sizes[number] = os.stat(path).st_size
            except OSError as error:
                raise UserError(
                    f"{path!r} was there at the start and cannot be read now ({error.strerror or error});"
                    " put that right and give the command again"
                ) from None
        return sizes.tobytes()

    def take(self, files: Sequence[str] | NDArray[np.int64]) -> FolderFiles:
        """The files of these names or numbers, in this order."""
        return FolderFiles(self.root, self.names.take(files) if isinstance(files, np.ndarray) else files)


_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, …, lengths of the name and of the extra field
_STORED, _DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


class ZipFiles:
    """Files inside a zip, by number; a copy in another process opens the zip anew.

    Args:
        root: the zip.
        names: paths inside it; None for all files in it.
        where: offsets, packed sizes, sizes, checksums and methods of these files, ``(N, 5)``; None reads them.

    Raises:
        UserError: it is damaged, encrypted, or packed by a method other than deflate.
    """

    _file: Any = None

    def __init__(self, root: Path, names: Sequence[str] | None = None, where: NDArray[np.int64] | None = None) -> None:
        self.root = root
        if names is None or where is None:
            directory = _zip_directory(root)
            names, where = list(directory), _where(directory.values())
        self.names = names if isinstance(names, StringTable) else StringTable(names)
        self._where = where
        self._process = -1

    def __del__(self) -> None:
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        return len(self.names)

    def path(self, number: int) -> str:
        """Where a file lies, for messages."""
        return os.path.join(self.root, self.names[number])

    def read(self, number: int) -> bytes:
        """All bytes of a file, its checksum verified.

        Raises:
            Unreadable: the zip is gone or damaged there.
        """
        offset, packed_size, size, checksum, method = (int(value) for value in self._where[number])
        try:
            if self._process != os.getpid():  # processes would share the place in a file that they share
                self._file, self._process = open(self.root, "rb"), os.getpid()  # noqa: SIM115 - kept open
            self._file.seek(offset)
            signature, name_length, extra_length = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size))
            self._file.seek(name_length + extra_length, os.SEEK_CUR)
            data = self._file.read(packed_size)
            if signature == b"PK\x03\x04" and method == _DEFLATED:
                data = zlib.decompressobj(-15).decompress(data, size + 1)
        except FileNotFoundError:
            raise Unreadable("the zip is gone", passing=True) from None
        except (OSError, ValueError, struct.error, zlib.error, MemoryError, OverflowError) as error:
            # A place that no file can have is an invalid argument to the system, any other error is one of the disk.
            passing = isinstance(error, OSError) and error.errno != errno.EINVAL
            raise Unreadable(f"damaged inside the zip ({error or 'its size is wrong'})", passing) from error
        if signature != b"PK\x03\x04" or len(data) != size or zlib.crc32(data) != checksum:
            raise Unreadable("damaged inside the zip (its checksum is wrong)")
        return data

    def signature(self) -> bytes:
        """The size and the checksum of every file, as the zip's directory has them."""
        return self._where[:, 2:4].tobytes()

    def take(self, files: Sequence[str] | NDArray[np.int64]) -> ZipFiles:
        """The files of these names or numbers, in this order; numbers take less time."""
        if isinstance(files, np.ndarray):
            return ZipFiles(self.root, self.names.take(files), self._where[files])
        names = StringTable(files)
        if names.same(self.names):
            return ZipFiles(self.root, self.names, self._where)
        number = {name: index for index, name in enumerate(self.names)}
        rows = np.fromiter((number[name] for name in files), np.int64, len(files))
        return ZipFiles(self.root, names, self._where[rows])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_process": -1}


def _where(places: Iterable[tuple[int, ...]]) -> NDArray[np.int64]:
    return np.array(list(places), np.int64).reshape(-1, 5)


def _zip_directory(path: Path) -> dict[str, tuple[int, ...]]:
    """Places of all files in a zip by their names; of several files of one name the last, as everywhere."""
    rows: dict[str, tuple[int, ...]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                name = _inside(info.filename)
                if info.is_dir() or not name:
                    continue
                if info.flag_bits & 1:
                    raise UserError(f"data.root {str(path)!r} is encrypted; unpack it")
                if info.compress_type not in (_STORED, _DEFLATED):
                    raise UserError(
                        f"data.root {str(path)!r}: {info.filename!r} is neither stored nor deflated; pack it again"
                    )
                place: tuple[int, ...]
                place = (info.header_offset, info.compress_size, info.file_size, info.CRC, info.compress_type)
                if max(place) > sys.maxsize:  # damaged sizes fill 64 bits
                    place = tuple(min(number, sys.maxsize) for number in place)
                rows[name] = place
    except (zipfile.BadZipFile, EOFError, struct.error, ValueError, NotImplementedError) as error:
        raise UserError(f"data.root {str(path)!r} is no zip that can be read: {error}; get it anew") from error
    except OSError as error:
        raise UserError(f"data.root {str(path)!r} cannot be read: {error.strerror or error}") from error
    return rows


def _inside(name: str) -> str:
    """A name in a zip as a path below the zip; nothing for one that leads outside."""
    parts = name.split("/")
    if ".." in parts:
        return ""
    return "/".join(part for part in parts if part not in ("", ".")) if "" in parts or "." in parts else name


Files = FolderFiles | ZipFiles


def open_files(root: str | Path, what: str) -> Files:
    """All files under a folder or in a zip, sorted; hidden ones (``.name``, ``__MACOSX``) are left out.

    Links are followed. A zip whose files all lie in one folder is read as that folder. Nothing but the zip's directory
    is opened. A folder that cannot be listed is passed over with a warning that names it.

    Args:
        root: a folder, or a file in zip format.
        what: what should be there, for messages (``"frame strips"``).

    Raises:
        UserError: there is no such place, or it cannot be read.
    """
    base = Path(root)
    if base.is_file() and (base.suffix.lower() == ".zip" or zipfile.is_zipfile(base)):
        places = _zip_directory(base)
        shown = _without_grids(sorted(filter(_shown, places)))
        return ZipFiles(base, shown, _where(places[name] for name in shown))
    check_folder(base, f"data.root {str(root)!r}", what)
    return FolderFiles(base, _without_grids(sorted(_walk(base))))


def _without_grids(names: list[str]) -> list[str]:
    """A folder of samples holds, beside them, the same samples in one grid, and each side by side with the truth."""
    sampled = {name.removesuffix("samples.json") for name in names if name.rpartition("/")[2] == "samples.json"}
    grids = {f"{folder}grid.{kind}" for folder in sampled for kind in ("mp4", "gif", "png")}
    compared = tuple(f"{folder}side_by_side/" for folder in sampled)
    return [name for name in names if name not in grids and not name.startswith(compared)] if grids else names


def check_folder(folder: Path, name: str, what: str) -> None:
    """Refuse what is no readable folder.

    Args:
        folder: the path.
        name: how the message calls it.
        what: what it should hold.

    Raises:
        UserError: it does not exist, is no folder, or may not be read.
    """
    if not folder.exists():
        raise UserError(f"{name} does not exist; it should be a folder of {what}")
    if not folder.is_dir():
        raise UserError(f"{name} is not a folder; it should be a folder of {what}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{name} cannot be read: permission denied")


def _shown(name: str) -> bool:
    path = f"/{name}/"
    return "/." not in path and "/__MACOSX/" not in path


def _walk(base: Path) -> Iterator[str]:
    """Files, and links that lead nowhere, below a folder; a folder that links to one above it is not entered again."""
    todo: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while todo:
        inside, above = todo.pop()
        place = os.path.join(base, inside) if inside else str(base)
        try:
            status = os.stat(place)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue
            with os.scandir(place) as found:
                entries = [entry for entry in found if not entry.name.startswith(".")]
        except OSError as error:
            _report(f"skipped {place}: {_why(error)}")
            continue
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if _leads_to(entry.is_dir):
                todo.append((name, above | {identity}))
            elif entry.is_symlink() or _leads_to(entry.is_file):
                yield name


def _leads_to(is_kind: Callable[[], bool]) -> bool:
    """False where an entry leads in a circle or to where nothing may be looked at."""
    try:
        return is_kind()
    except OSError:
        return False


def _why(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "permission denied"
    return "it is gone" if isinstance(error, FileNotFoundError) else error.strerror or str(error)


def _report(line: str) -> None:
    from pytorch_lightning.utilities.rank_zero import rank_zero_only  # takes long to import and is seldom needed

    rank_zero_only(_log.warning)(line)
