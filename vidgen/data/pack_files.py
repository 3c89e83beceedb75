"""The files of a pack.

A pack is a folder::

    plan.json           which videos go into which shard, made first
    shard-00000.bin     frames of its videos, one after the other, each channel of a frame by itself
    shard-00000.npz     where each video lies, its frames' checksums, and what could not be read
    ...
    index.npz           the same for all shards together
    pack.json           what the pack holds, and the checksum of the index; written last

Every file is written beside its place and moved there when it is whole, so a shard that is there is finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import uuid
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.atomic import PARTIAL_SUFFIX, atomic_file
from vidgen.data.tables import StringTable
from vidgen.errors import UserError

FORMAT = 1
PLAN, INDEX, PACK = "plan.json", "index.npz", "pack.json"

Layout = dict[str, tuple[str, list[int]]]
"""Name -> type and ``(C, H, W)`` of what there is of each frame, in order."""

_DAMAGED = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError),  # RuntimeError: zipfile's for odd headers
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""What reading a damaged file raises."""


@dataclass(frozen=True)
class Plan:
    """Which videos go into which shard.

    Args:
        fingerprint: of everything that decides the bytes of the pack.
        settings: how the data set was configured, for messages.
        spec: what the data set holds.
        folder: the folder that holds everything, with ``/``, where a zip was packed that has one; names in the pack are
            those below it, since lists, patterns and splits do not see it either.
        bounds: first video of each shard, and at the end the number of videos.
    """

    fingerprint: str
    settings: dict[str, Any]
    spec: dict[str, Any]
    folder: str
    bounds: tuple[int, ...]

    @property
    def num_shards(self) -> int:
        """How many shards there are."""
        return len(self.bounds) - 1

    def videos(self, shard: int) -> range:
        """The videos of a shard."""
        return range(self.bounds[shard], self.bounds[shard + 1])


@dataclass(frozen=True)
class Shard:
    """What a finished shard, or the index of all of them, says about its videos.

    Args:
        size: bytes of pixels.
        layout: name -> type and ``(C, H, W)`` of what there is of each frame, in order.
        names: the videos.
        lengths: frames of each.
        offsets: where each begins, bytes.
        labels: class of each; empty without labels.
        attributes: ``(N, A)``.
        checksums: CRC-32 of each frame of each video, one after the other.
        skipped: videos that could not be read.
        reasons: why each could not be read.
    """

    size: int
    layout: Layout
    names: StringTable
    lengths: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    attributes: NDArray[np.float32]
    checksums: NDArray[np.uint32]
    skipped: StringTable
    reasons: StringTable

    def write(self, path: Path, **more: NDArray[Any]) -> None:
        """Write it as arrays, whole or not at all."""
        arrays: dict[str, Any] = dict(more)
        for name, value in vars(self).items():
            if isinstance(value, StringTable):
                arrays[name], arrays[f"{name}_ends"] = value.data, value.ends
            elif isinstance(value, dict):
                arrays[name] = np.frombuffer(json.dumps(value).encode(), np.uint8)
            else:
                arrays[name] = np.asarray(value)
        with atomic_file(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def read(cls, path: Path) -> Shard:
        """The inverse of :meth:`write`.

        Raises:
            UserError: the file is gone or damaged.
        """
        try:
            with zipfile.ZipFile(path) as archive:  # before NumPy trusts sizes that it finds in there
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile(path)
            with np.load(path, allow_pickle=False) as stored:
                return cls(
                    size=int(stored["size"]),
                    layout=json.loads(stored["layout"].tobytes()),
                    names=_strings(stored, "names"),
                    lengths=stored["lengths"],
                    offsets=stored["offsets"],
                    labels=stored["labels"],
                    attributes=stored["attributes"],
                    checksums=stored["checksums"],
                    skipped=_strings(stored, "skipped"),
                    reasons=_strings(stored, "reasons"),
                )
        except _DAMAGED as error:
            raise UserError(f"{path}: gone or damaged; run its `vidgen data pack` again") from error

    @classmethod
    def joined(cls, shards: Sequence[Shard]) -> Shard:
        """All shards as one; offsets stay those inside each.

        Raises:
            UserError: their frames differ in kind.
        """
        layouts = [shard.layout for shard in shards if shard.layout]
        if any(layout != layouts[0] for layout in layouts):
            raise UserError("the shards of the pack hold frames of different sizes; remove it and pack anew")
        return cls(
            size=sum(shard.size for shard in shards),
            layout=layouts[0] if layouts else {},
            names=StringTable(name for shard in shards for name in shard.names),
            lengths=np.concatenate([shard.lengths for shard in shards]),
            offsets=np.concatenate([shard.offsets for shard in shards]),
            labels=np.concatenate([shard.labels for shard in shards]),
            attributes=np.concatenate([shard.attributes for shard in shards]),
            checksums=np.concatenate([shard.checksums for shard in shards]),
            skipped=StringTable(name for shard in shards for name in shard.skipped),
            reasons=StringTable(reason for shard in shards for reason in shard.reasons),
        )


def _strings(stored: Mapping[str, NDArray[Any]], name: str) -> StringTable:
    return StringTable.from_arrays(stored[name], stored[f"{name}_ends"])


def shard_path(out: Path, shard: int, suffix: str) -> Path:
    """A file of a shard."""
    return out / f"shard-{shard:05d}.{suffix}"


def read_plan(out: Path) -> Plan | None:
    """The plan in a folder, or None where there is none.

    Raises:
        UserError: it is damaged, or of another version.
    """
    try:
        text = json.loads((out / PLAN).read_text())
        if text["format"] != FORMAT:
            raise UserError(f"{out / PLAN}: of format {text['format']}, this version reads {FORMAT}; pack anew")
        return Plan(text["fingerprint"], text["settings"], text["spec"], text["folder"], tuple(text["bounds"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{out / PLAN}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out / PLAN}: damaged; remove the folder and pack anew") from error


def is_finished(out: Path, shard: int) -> bool:
    """Whether a shard is there, as long as it says, and what it says about its videos is intact."""
    try:
        return shard_path(out, shard, "bin").stat().st_size == Shard.read(shard_path(out, shard, "npz")).size
    except (OSError, UserError):
        return False


def link_or_copy(source: Path, target: Path) -> None:
    """The same file at another place, whole or not at all; on one disk it takes no room."""
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        os.link(source, partial)
        os.replace(partial, target)
    except OSError:  # another disk, or one without links
        with open(source, "rb") as file, atomic_file(target) as whole:
            shutil.copyfileobj(file, whole, 2**22)


def write_json(path: Path, value: Any) -> None:
    """Write plain values, whole or not at all."""
    with atomic_file(path) as file:
        file.write(json.dumps(value, indent=1).encode())


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
