"""What is known about every video file of a folder, kept so that no file is scanned twice.

The index of a folder lies in vidgen's cache folder, under a name made from the folder's path; an entry is valid while
the file's size and modification time are what they were. Processes that need the same index at the same time wait for
the first one; what it has scanned is saved every half minute, so that little is lost with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.atomic import atomic_file
from vidgen.cache import cache_dir
from vidgen.data.decoding import Unreadable, VideoScan, scan
from vidgen.data.tables import StringTable
from vidgen.errors import UserError
from vidgen.progress import Progress

FORMAT = 1
"""Raised when scans of an older version are no longer right."""
SECONDS_BETWEEN_SAVES = 30.0

_log = logging.getLogger("vidgen.data")

_ENTRY = np.dtype(
    [
        ("size", "i8"),
        ("modified", "i8"),  # nanoseconds
        ("length", "i8"),
        ("tick", "i8", 2),  # numerator, denominator
        ("first", "i8"),
        ("step", "i8"),  # ticks from frame to frame; 0 where they differ; -1 without times
        ("last_ticks", "i8"),
        ("width", "i4"),
        ("height", "i4"),
        ("pixel_aspect", "i8", 2),
        ("packets", "i1"),
    ]
)


class VideoIndex:
    """Scans of many files, in a few arrays.

    Args:
        names: the files, relative to the folder.
        entries: numbers of each file, of the type of this module.
        reasons: why a file cannot be used; empty where it can.
        times: ``times`` of the files whose frames are not evenly spaced, one after the other.
        times_ends: where each file's part of ``times`` ends.
        keys: ``keys`` of all files, one after the other.
        keys_ends: where each file's part of ``keys`` ends.
    """

    def __init__(
        self,
        names: StringTable,
        entries: NDArray[np.void],
        reasons: StringTable,
        times: NDArray[np.int64],
        times_ends: NDArray[np.int64],
        keys: NDArray[np.int64],
        keys_ends: NDArray[np.int64],
    ) -> None:
        self.names = names
        self.entries = entries
        self.reasons = reasons
        self.times = times
        self.times_ends = times_ends
        self.keys = keys
        self.keys_ends = keys_ends

    @classmethod
    def of(cls, items: Sequence[IndexItem]) -> VideoIndex:
        """The index of these files."""
        entries = np.zeros(len(items), _ENTRY)
        times, keys = [], []
        for number, item in enumerate(items):
            entry = entries[number]
            entry["size"], entry["modified"] = item.size, item.modified
            found = item.scan
            if found is None:
                times.append(np.empty(0, np.int64))
                keys.append(np.empty(0, np.int64))
                continue
            entry["length"], entry["last_ticks"] = found.length, found.last_ticks
            entry["width"], entry["height"] = found.width, found.height
            entry["tick"] = found.tick.as_integer_ratio()
            entry["pixel_aspect"] = found.pixel_aspect.as_integer_ratio()
            entry["packets"] = found.packets
            entry["step"], even = _step(found.times)
            entry["first"] = found.times[0] if len(found.times) else 0
            times.append(np.empty(0, np.int64) if even else found.times)
            keys.append(found.keys)
        return cls(
            StringTable(item.name for item in items),
            entries,
            StringTable(item.reason for item in items),
            np.concatenate([np.empty(0, np.int64), *times]),
            np.cumsum([len(part) for part in times], dtype=np.int64),
            np.concatenate([np.empty(0, np.int64), *keys]),
            np.cumsum([len(part) for part in keys], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.entries)

    def scan(self, number: int) -> VideoScan:
        """What is known about a usable file."""
        entry = self.entries[number]
        length, step, first = int(entry["length"]), int(entry["step"]), int(entry["first"])
        if step > 0:
            times = first + step * np.arange(length, dtype=np.int64)
        else:
            times = _part(self.times, self.times_ends, number)
        return VideoScan(
            times,
            length,
            _part(self.keys, self.keys_ends, number),
            Fraction(*entry["tick"].tolist()),
            int(entry["last_ticks"]),
            int(entry["width"]),
            int(entry["height"]),
            Fraction(*entry["pixel_aspect"].tolist()),
            bool(entry["packets"]),
        )

    def take(self, numbers: Sequence[int] | NDArray[np.int64]) -> VideoIndex:
        """The index of some of the files, in this order."""
        rows = np.asarray(numbers, np.int64)
        names, names_ends = _take_parts(self.names.data, self.names.ends, rows)
        reasons, reasons_ends = _take_parts(self.reasons.data, self.reasons.ends, rows)
        return VideoIndex(
            StringTable.from_arrays(names, names_ends),
            self.entries[rows],
            StringTable.from_arrays(reasons, reasons_ends),
            *_take_parts(self.times, self.times_ends, rows),
            *_take_parts(self.keys, self.keys_ends, rows),
        )

    def __add__(self, other: VideoIndex) -> VideoIndex:
        """The files of both, those of ``other`` last."""
        return VideoIndex(
            StringTable.from_arrays(*_join(self.names.data, self.names.ends, other.names.data, other.names.ends)),
            np.concatenate([self.entries, other.entries]),
            StringTable.from_arrays(
                *_join(self.reasons.data, self.reasons.ends, other.reasons.data, other.reasons.ends)
            ),
            *_join(self.times, self.times_ends, other.times, other.times_ends),
            *_join(self.keys, self.keys_ends, other.keys, other.keys_ends),
        )

    def write(self, path: Path) -> None:
        """Write the index as a file, whole or not at all.

        Raises:
            UserError: that is not possible.
        """
        with atomic_file(path) as file:
            np.savez(
                file,
                format=np.array(FORMAT),
                names=self.names.data,
                names_ends=self.names.ends,
                entries=self.entries,
                reasons=self.reasons.data,
                reasons_ends=self.reasons.ends,
                times=self.times,
                times_ends=self.times_ends,
                keys=self.keys,
                keys_ends=self.keys_ends,
            )

    @classmethod
    def read(cls, path: Path) -> VideoIndex:
        """The index in a file; an empty one where there is none, or none of this version, or a damaged one."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                if int(stored["format"]) != FORMAT or stored["entries"].dtype != _ENTRY:
                    return cls.of([])
                return cls(
                    StringTable.from_arrays(stored["names"], stored["names_ends"]),
                    stored["entries"],
                    StringTable.from_arrays(stored["reasons"], stored["reasons_ends"]),
                    stored["times"],
                    stored["times_ends"],
                    stored["keys"],
                    stored["keys_ends"],
                )
        except Exception:  # what a damaged zip raises is anything; the index can be made again
            return cls.of([])


@dataclass(frozen=True)
class IndexItem:
    """One file of an index.

    Args:
        name: relative to the folder, with ``/``.
        size: bytes; -1 where what was found must not be kept.
        modified: time of the last change, nanoseconds.
        scan: where its frames are; None where it cannot be used.
        reason: why it cannot be used; empty where it can.
    """

    name: str
    size: int
    modified: int
    scan: VideoScan | None
    reason: str = ""


def _step(times: NDArray[np.int64]) -> tuple[int, bool]:
    """Ticks from frame to frame (0: uneven, -1: without times), and whether the times follow from that."""
    if not len(times):
        return -1, True
    if len(times) == 1:
        return 1, True
    steps = np.diff(times)
    return (int(steps[0]), True) if (steps == steps[0]).all() else (0, False)


def _part(values: NDArray[np.int64], ends: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    return values[int(ends[number - 1]) if number else 0 : int(ends[number])]


def _take_parts(
    values: NDArray[Any], ends: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The parts of the given numbers, one after the other, and where each ends."""
    starts = np.concatenate([[0], ends[:-1]])[rows] if len(ends) else np.empty(0, np.int64)
    sizes = ends[rows] - starts
    new_ends = np.cumsum(sizes, dtype=np.int64)
    shift = np.repeat(starts - (new_ends - sizes), sizes)
    return values[np.arange(len(shift)) + shift], new_ends


def _join(
    values: NDArray[Any], ends: NDArray[np.int64], more: NDArray[Any], more_ends: NDArray[np.int64]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    return np.concatenate([values, more]), np.concatenate([ends, more_ends + len(values)])


def index_videos(root: Path, names: Sequence[str], quiet: bool = False) -> VideoIndex:
    """The index of files in a folder; files that are new or changed are scanned, many at a time.

    Args:
        root: the folder.
        names: files relative to it, with ``/``.
        quiet: show no progress.

    Returns:
        One entry for each of ``names``, in their order.
    """
    path = _place(root)
    stats = [_stat(root, name) for name in names]
    stored = VideoIndex.read(path)
    found = _valid(stored, names, stats)
    if None not in found:
        places = np.array(found, np.int64)
        whole = len(places) == len(stored) and (places == np.arange(len(places))).all()
        return stored if whole else stored.take(places)
    with _alone(path, root, quiet):
        stored = VideoIndex.read(path)  # another process may have done the work meanwhile
        found = _valid(stored, names, stats)
        new = _scan_missing(root, names, stats, found, stored, path, quiet) if None in found else {}
    order = [place if place is not None else len(stored) + new[number][0] for number, place in enumerate(found)]
    return (stored + VideoIndex.of([item for _, item in new.values()])).take(order)


def _place(root: Path) -> Path:
    """Where the index of a folder lies."""
    return cache_dir() / "index" / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]}.npz"


def _stat(root: Path, name: str) -> tuple[int, int]:
    """Size and modification time; (-1, 0) where there is nothing, which is scanned anew each time."""
    try:
        status = os.stat(os.path.join(root, name))
        return status.st_size, status.st_mtime_ns
    except OSError:
        return -1, 0


def _valid(stored: VideoIndex, names: Sequence[str], stats: Sequence[tuple[int, int]]) -> list[int | None]:
    """Where each file stands in a stored index, or None where it is not there as it is now."""
    place = {name: number for number, name in enumerate(stored.names)}
    sizes, times = stored.entries["size"].tolist(), stored.entries["modified"].tolist()
    found: list[int | None] = []
    for name, stat in zip(names, stats, strict=True):
        number = place.get(name)
        valid = number is not None and stat == (sizes[number], times[number]) and stat[0] >= 0
        found.append(number if valid else None)
    return found


@contextmanager
def _alone(path: Path, root: Path, quiet: bool) -> Iterator[None]:
    """Hold the lock of an index; where the file system has no locks, go on without."""
    lock = path.with_suffix(".lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock, "wb")  # noqa: SIM115 - closed below, which gives the lock back
    except OSError:
        yield
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not quiet:
                print(f"waiting for another process that indexes {root}", file=sys.stderr, flush=True)
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        yield
    finally:
        file.close()


def _scan_missing(
    root: Path,
    names: Sequence[str],
    stats: Sequence[tuple[int, int]],
    found: Sequence[int | None],
    stored: VideoIndex,
    path: Path,
    quiet: bool,
) -> dict[int, tuple[int, IndexItem]]:
    """Scan the files that are not in the stored index, and add them to it.

    Returns:
        Number of the file in ``names`` -> its position in this mapping and its scan.
    """
    missing = [number for number, place in enumerate(found) if place is None]
    new: dict[int, tuple[int, IndexItem]] = {}
    saved = time.monotonic()

    def one(number: int) -> IndexItem:
        size, modified = stats[number]
        try:
            return IndexItem(names[number], size, modified, scan(os.path.join(root, names[number])))
        except Unreadable as error:
            return IndexItem(names[number], -1 if error.passing else size, modified, None, str(error))

    workers = min(len(missing), 2 * (os.cpu_count() or 1), 32)
    with (
        ThreadPoolExecutor(workers) as pool,
        Progress(len(missing), "indexed", "videos", not quiet, last_line=False, file=sys.stderr) as progress,
    ):
        waiting: dict[Future[IndexItem], int] = {}
        todo = iter(missing)
        try:
            while True:
                while len(waiting) < 4 * workers and (number := next(todo, None)) is not None:
                    waiting[pool.submit(one, number)] = number
                if not waiting:
                    break
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    new[waiting.pop(future)] = (len(new), future.result())
                    progress.advance()
                if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                    _save(stored, new, path)
                    saved = time.monotonic()
        finally:
            for future in waiting:
                future.cancel()
            reason = _save(stored, new, path)
            if reason and not quiet:
                _log.warning("the index of %s cannot be kept, so that every start makes it anew: %s", root, reason)
    return new


def _save(stored: VideoIndex, new: dict[int, tuple[int, IndexItem]], path: Path) -> str | None:
    """Write the stored entries and the new ones; an index that cannot be kept is no reason to stop.

    Returns:
        Why it could not be kept.
    """
    fresh = [item for _, item in new.values() if item.size >= 0]
    if not fresh:
        return None
    names = {item.name for item in fresh}
    kept = [number for number, name in enumerate(stored.names) if name not in names]
    both = stored.take(kept) + VideoIndex.of(fresh)
    in_order = sorted(range(len(both)), key=both.names.__getitem__)
    try:
        both.take(in_order).write(path)
    except UserError as error:
        return str(error)
    return None
