"""Decode and resize a data set once: uint8 shards that are mapped into memory.

A run that was stopped at any moment is given again and goes on with the shards that are missing; shards may be made by
any number of runs on any number of machines (``--shard i/n``), and the last one, or a merge, writes the index.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vidgen.atomic import PARTIAL_SUFFIX, atomic_file
from vidgen.data.dataset import UnreadableVideo, VideoDataset
from vidgen.data.pack_files import (
    FORMAT,
    INDEX,
    PACK,
    PLAN,
    Layout,
    Plan,
    Shard,
    file_digest,
    is_finished,
    read_plan,
    shard_path,
    write_json,
)
from vidgen.data.stored import NAMED, StoredVideos
from vidgen.data.tables import StringTable
from vidgen.errors import UserError
from vidgen.progress import Progress

CHUNK_BYTES = 2**26
"""Pixels that a process holds at once."""


@dataclass(frozen=True)
class PackReport:
    """What a run did.

    Args:
        out: the pack.
        num_videos: videos in it so far.
        num_frames: their frames.
        num_bytes: their pixels.
        skipped: videos that could not be read, and why.
        missing: shards that are still to be made.
    """

    out: Path
    num_videos: int
    num_frames: int
    num_bytes: int
    skipped: dict[str, str]
    missing: tuple[int, ...]

    def __str__(self) -> str:
        size = f"{self.num_videos} videos, {self.num_frames} frames, {self.num_bytes / 1e9:.2f} GB"
        lines = [f"{self.out}: {size}"]
        lines += [f"skipped {name}: {reason}" for name, reason in list(self.skipped.items())[:NAMED]]
        if len(self.skipped) > NAMED:
            lines.append(f"skipped {len(self.skipped) - NAMED} more; {self.out / PACK} lists them")
        if self.missing:
            number = f"{len(self.missing)} shards are still to be made"
            lines.append(f"{number}; when they are, `vidgen data merge {self.out}` joins them")
        else:
            lines.append(f"train from it with data='{{name: packed, root: {self.out}, ...}}'")
        return "\n".join(lines)


def pack(
    dataset: VideoDataset,
    settings: Mapping[str, Any],
    out: Path,
    *,
    workers: int = 1,
    part: tuple[int, int] = (0, 1),
    shard_bytes: int = 2**30,
    quiet: bool = False,
) -> PackReport:
    """Pack a data set, or go on with that.

    Args:
        dataset: what is packed, at its own resolution; all frames of all its videos.
        settings: its configuration.
        out: folder of the pack.
        workers: processes that decode.
        part: ``(i, n)`` makes every n-th shard, from the i-th, counted from 0.
        shard_bytes: pixels of a shard, about; a video is never split.
        quiet: show no progress.

    Returns:
        What is in the pack now; where no shard is missing its index has been written.

    Raises:
        UserError: the folder holds a pack of other data or settings, the disk is full, no video can be read, ...
    """
    plan = _agree(out, make_plan(dataset, settings, shard_bytes))
    mine = [shard for shard in range(part[0], plan.num_shards, part[1]) if not is_finished(out, shard)]
    for shard in mine:
        _drop_partials(out, shard)
    videos = sum(len(plan.videos(shard)) for shard in mine)
    with Progress(videos, "packed", "videos", not quiet, last_line=False, file=sys.stderr) as progress:
        if workers <= 1:
            for shard in mine:
                write_shard(dataset, out, shard, plan.videos(shard))
                progress.advance(len(plan.videos(shard)))
        else:
            for shard in _write_in_processes(dataset, out, plan, mine, workers):
                progress.advance(len(plan.videos(shard)))
    missing = tuple(shard for shard in range(plan.num_shards) if not is_finished(out, shard))
    if missing:
        return _report(out, plan, missing)
    return finish(out)


def make_plan(dataset: VideoDataset, settings: Mapping[str, Any], shard_bytes: int) -> Plan:
    """Divide a data set into shards of about equal size, the same ones whenever and wherever it is done."""
    spec = dataset.spec
    frame_bytes = spec.channels * spec.resolution * (spec.width or spec.resolution)
    bounds = [0]
    size = 0
    for video, length in enumerate(dataset.lengths.tolist()):
        if size and size + length * frame_bytes > shard_bytes:
            bounds.append(video)
            size = 0
        size += length * frame_bytes
    bounds.append(len(dataset))
    plain = json.loads(json.dumps(dict(settings), default=_plain, sort_keys=True))
    digest = hashlib.sha256(json.dumps([FORMAT, plain, bounds], sort_keys=True).encode())
    digest.update(dataset.lengths.tobytes())
    if isinstance(dataset, StoredVideos):
        digest.update(dataset.names.data.tobytes())
        digest.update(dataset.names.ends.tobytes())
    return Plan(digest.hexdigest(), plain, spec.to_dict(), tuple(bounds))


def _plain(value: Any) -> Any:
    return vars(value) if hasattr(value, "__dataclass_fields__") else str(value)


def _agree(out: Path, plan: Plan) -> Plan:
    """The plan of the folder, which is this one.

    Raises:
        UserError: the folder holds something else.
    """
    known = read_plan(out)
    if known is None:
        if out.is_dir() and any(not name.startswith(".") for name in os.listdir(out)):
            raise UserError(f"--out: {out} is not empty and holds no pack; choose another folder")
        write_json(out / PLAN, {"format": FORMAT, **vars(plan)})
        return plan
    if known.fingerprint == plan.fingerprint:
        return known
    for key in sorted({*known.settings, *plan.settings}):
        old, new = known.settings.get(key), plan.settings.get(key)
        if old != new:
            raise UserError(
                f"--out: {out} holds a pack with data.{key} {old!r}, now it is {new!r}; choose another folder"
            )
    raise UserError(f"--out: {out} holds a pack of other videos, or of other shards; choose another folder")


def _drop_partials(out: Path, shard: int) -> None:
    """Remove what a killed run has left of a shard."""
    for path in out.glob(f".shard-{shard:05d}.*{PARTIAL_SUFFIX}"):
        with suppress(OSError):
            path.unlink()


def write_shard(dataset: VideoDataset, out: Path, shard: int, videos: Sequence[int]) -> None:
    """Write one shard, whole or not at all.

    Raises:
        UserError: the disk is full, or writing is not possible.
    """
    packed: list[tuple[int, int, int]] = []  # video, length, offset
    checksums: list[NDArray[np.uint32]] = []
    skipped: dict[int, str] = {}
    layout: Layout = {}
    with atomic_file(shard_path(out, shard, "bin")) as file:
        for video in videos:
            start = file.tell()
            try:
                sums = _write_video(file, dataset, video, layout)
            except UnreadableVideo as error:
                file.seek(start)
                file.truncate()
                skipped[video] = error.reason
                continue
            packed.append((video, len(sums), start))
            checksums.append(sums)
        size = file.tell()
    rows = np.array(packed, np.int64).reshape(-1, 3)
    attributes = getattr(dataset, "attributes", None)
    Shard(
        size,
        layout,
        StringTable(_name(dataset, video) for video in rows[:, 0].tolist()),
        rows[:, 1],
        rows[:, 2],
        np.empty(0, np.int64) if dataset.labels is None else dataset.labels[rows[:, 0]],
        np.empty((len(rows), 0), np.float32) if attributes is None else attributes[rows[:, 0]],
        np.concatenate([np.empty(0, np.uint32), *checksums]),
        StringTable(_name(dataset, video) for video in skipped),
        StringTable(skipped.values()),
    ).write(shard_path(out, shard, "npz"))


def _name(dataset: VideoDataset, video: int) -> str:
    return dataset.names[video] if isinstance(dataset, StoredVideos) else f"{video:08d}"


def _write_video(file: BinaryIO, dataset: VideoDataset, video: int, layout: Layout) -> NDArray[np.uint32]:
    """Append a video to a shard.

    Returns:
        The checksum of each frame.
    """
    sums = []
    for chunk in _chunks(dataset, video):
        if not layout:
            layout.update({name: (array.dtype.str, list(array.shape[1:])) for name, array in chunk.items()})
        for frame in _frames(chunk, layout):
            sums.append(zlib.crc32(frame))
            file.write(frame)
    return np.array(sums, np.uint32)


def _chunks(dataset: VideoDataset, video: int) -> Iterator[dict[str, NDArray[Any]]]:
    """All frames of a video, a bounded number at a time."""
    spec = dataset.spec
    length = int(dataset.lengths[video])
    step = max(1, CHUNK_BYTES // (spec.channels * spec.resolution * (spec.width or spec.resolution)))
    for start in range(0, length, step):
        yield dataset.pack(video, range(start, min(start + step, length)))


def _frames(chunk: Mapping[str, NDArray[Any]], layout: Layout) -> Iterator[bytes]:
    """The bytes of each frame: all that there is of it, in the order of the layout."""
    for name, (dtype, shape) in layout.items():
        array = chunk[name]
        if array.dtype.str != dtype or list(array.shape[1:]) != shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape[1:]}, not {dtype} {shape} as in other videos")
    length = len(next(iter(chunk.values())))
    arrays = [np.ascontiguousarray(chunk[name]) for name in layout]
    for time in range(length):
        yield b"".join(array[time].tobytes() for array in arrays)


_dataset: VideoDataset | None = None


def _start_worker(dataset: VideoDataset) -> None:
    global _dataset
    _dataset = dataset


def _work(out: Path, shard: int, videos: range) -> tuple[int, str | None]:
    """One shard in a worker process; an error of the user travels as its message."""
    assert _dataset is not None
    try:
        write_shard(_dataset, out, shard, videos)
    except UserError as error:
        return shard, str(error)
    return shard, None


def _write_in_processes(
    dataset: VideoDataset, out: Path, plan: Plan, shards: Sequence[int], workers: int
) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, max(1, len(shards))), context, initializer=_start_worker, initargs=(dataset,)
    ) as pool:
        waiting = [pool.submit(_work, out, shard, plan.videos(shard)) for shard in shards]
        try:
            for future in as_completed(waiting):
                shard, message = future.result()
                if message is not None:
                    raise UserError(message)
                yield shard
        except BrokenProcessPool as error:
            raise UserError(
                f"--out: {out}: a process that packed was killed (out of memory?); run it again, with fewer --workers"
            ) from error
        finally:
            for future in waiting:
                future.cancel()


def merge(parts: Sequence[Path], out: Path) -> PackReport:
    """Join what several runs have made and write the index.

    Args:
        parts: folders with shards of the same pack; their files are linked, or else copied, into ``out``.
        out: the folder of the whole; it may be one of ``parts``.

    Raises:
        UserError: a folder is no pack, or of another one, or shards are missing.
    """
    plans = []
    for part in parts:
        plan = read_plan(part)
        if plan is None:
            raise UserError(f"{part} holds no {PLAN}; give folders that `vidgen data pack` has written to")
        plans.append(plan)
    for part, plan in zip(parts, plans, strict=True):
        if plan.fingerprint != plans[0].fingerprint:
            raise UserError(f"{part} and {parts[0]} are parts of different packs; merge parts of one")
    _agree(out, plans[0])
    for shard in range(plans[0].num_shards):
        _gather(parts, out, shard)
    missing = [shard for shard in range(plans[0].num_shards) if not is_finished(out, shard)]
    if missing:
        shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise UserError(
            f"{len(missing)} of {plans[0].num_shards} shards are missing ({shown}); run their `vidgen data pack` first"
        )
    return finish(out)


def _gather(parts: Sequence[Path], out: Path, shard: int) -> None:
    if is_finished(out, shard):
        return
    for part in parts:
        if is_finished(part, shard):
            for suffix in ("bin", "npz"):
                source = shard_path(part, shard, suffix)
                with open(source, "rb") as file, atomic_file(shard_path(out, shard, suffix)) as copy:
                    shutil.copyfileobj(file, copy, 2**22)
            return


def finish(out: Path) -> PackReport:
    """Write the index of a pack whose shards are all there.

    Raises:
        UserError: no video could be read, or writing is not possible.
    """
    plan = read_plan(out)
    assert plan is not None
    shards = [Shard.read(shard_path(out, shard, "npz")) for shard in range(plan.num_shards)]
    report = _report(out, plan, ())
    if not report.num_videos:
        first, reason = next(iter(report.skipped.items()))
        raise UserError(
            f"--out: {out}: none of {len(report.skipped)} videos could be read (the first, {first!r}: {reason})"
        )
    whole = Shard.joined(shards)
    whole.write(
        out / INDEX,
        shards=np.repeat(np.arange(len(shards)), [len(shard.lengths) for shard in shards]),
        sizes=np.array([shard.size for shard in shards]),
    )
    about = {"format": FORMAT, "index": file_digest(out / INDEX), **vars(plan), "skipped": report.skipped}
    write_json(out / PACK, about)
    return report


def _report(out: Path, plan: Plan, missing: tuple[int, ...]) -> PackReport:
    shards = [Shard.read(shard_path(out, n, "npz")) for n in range(plan.num_shards) if n not in missing]
    return PackReport(
        out,
        sum(len(shard.lengths) for shard in shards),
        int(sum(shard.lengths.sum() for shard in shards)),
        sum(shard.size for shard in shards),
        {name: reason for shard in shards for name, reason in zip(shard.skipped, shard.reasons, strict=True)},
        missing,
    )
