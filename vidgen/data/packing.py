"""Decode and resize a data set once: uint8 shards that are mapped into memory.

A run that was stopped at any moment is given again and goes on with the shards that are missing; shards may be made by
any number of runs on any number of machines (``--shard i/n``), and the last one, or a merge, writes the index.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from vidgen.atomic import atomic_file
from vidgen.data.dataset import UnreadableVideo, VideoDataset
from vidgen.data.inspection_report import printable
from vidgen.data.pack_files import (
    FORMAT,
    INDEX,
    PACK,
    PLAN,
    Layout,
    Plan,
    Shard,
    agree,
    command_of,
    drop_partials,
    file_digest,
    is_finished,
    link_or_copy,
    make_plan,
    read_plan,
    shard_path,
    write_json,
)
from vidgen.data.request import ClipRequest
from vidgen.data.stored import NAMED, StoredVideos, counted
from vidgen.data.tables import StringTable
from vidgen.errors import UserError
from vidgen.progress import Progress

CHUNK_BYTES = 2**26
"""Pixels that a process holds at once."""

MOST_UNREADABLE = 64
"""Videos in a row, over all shards of a process, that may be unreadable before it is taken for an error of the disk."""


@dataclass(frozen=True)
class PackReport:
    """What a run did.

    Args:
        out: the pack.
        num_videos: videos in it so far.
        num_frames: their frames; of encoded videos the steps of their codes.
        num_bytes: their pixels.
        skipped: files that the data set could not use and videos that could not be read, and why.
        missing: shards that are still to be made.
        encoding: see :class:`~vidgen.data.pack_files.Plan`; None for a pack of frames.
    """

    out: Path
    num_videos: int
    num_frames: int
    num_bytes: int
    skipped: dict[str, str]
    missing: tuple[int, ...]
    encoding: dict[str, Any] | None = None

    def __str__(self) -> str:
        encoding, verb = self.encoding, command_of(self.encoding).split()[-1]
        frames = counted(self.num_frames, "frame")
        if encoding is not None:
            frames = f"{frames.replace('frame', 'step')} of {counted(encoding['stride'], 'frame')}"
        lines = [f"{self.out}: {counted(self.num_videos, 'video')}, {frames}, {self.num_bytes / 1e9:.2f} GB"]
        lines += encoding["notices"] if encoding is not None else []
        lines += [f"skipped {name}: {reason}" for name, reason in list(self.skipped.items())[:NAMED]]
        if len(self.skipped) > NAMED:
            lines.append(f"skipped {len(self.skipped) - NAMED} more; {self.out / PACK} lists them")
        if self.missing:
            lines.append(
                f"shards still to be made: {len(self.missing)};"
                f" the last `vidgen data {verb}` joins them, or `vidgen data merge {self.out}`"
            )
        else:
            name = "packed" if encoding is None else "encoded"
            lines.append(f"train from it with data='{{name: {name}, root: {self.out}, ...}}'")
        return "\n".join(printable(line) for line in lines)


@dataclass
class Failures:
    """How many videos in a row a process could not read."""

    in_a_row: int = 0

    def count(self, error: UnreadableVideo) -> None:
        """Note a video that cannot be read, and stop where that is no fault of its own.

        A pack of what was read before would look whole.

        Raises:
            UserError: it may be readable another time, or as many in a row as is unlikely cannot be read.
        """
        self.in_a_row += 1
        if error.passing:
            raise UserError(
                f"{error.path!r} was there at the start and cannot be read now ({error.reason});"
                " put that right and give the command again"
            )
        if self.in_a_row >= MOST_UNREADABLE:
            raise UserError(
                f"{self.in_a_row} videos in a row cannot be read (the last, {error.path!r}: {error.reason});"
                " is the disk still there?"
            )


class Source:
    """What is written into a pack, video after video: here the frames of a data set.

    Args:
        dataset: the data set.
    """

    def __init__(self, dataset: VideoDataset) -> None:
        self.dataset = dataset

    def begin(self, items: Sequence[int]) -> None:
        """Told the items of a shard, whose :meth:`chunks` will be asked for in this order."""

    def chunks(self, item: int) -> Iterator[dict[str, NDArray[Any]]]:
        """Everything of an item, a bounded part at a time: name -> ``(T, ...)``.

        Raises:
            UnreadableVideo: the video cannot be read.
        """
        return _chunks(self.dataset, item)

    def video(self, item: int) -> int:
        """The video of the data set that an item is made of."""
        return item

    def name(self, item: int, name: str) -> str:
        """What an item is called.

        Args:
            item: its number.
            name: of its video.
        """
        return name


def pack(
    dataset: VideoDataset,
    settings: Mapping[str, Any],
    out: Path,
    *,
    workers: int = 1,
    part: tuple[int, int] = (0, 1),
    shard_bytes: int = 2**28,
    quiet: bool = False,
) -> PackReport:
    """Pack a data set, or go on with that.

    Args:
        dataset: what is packed, at its own resolution; all frames of all its videos.
        settings: its configuration.
        out: folder of the pack.
        workers: processes that decode.
        part: ``(i, n)`` makes every n-th shard, from the i-th, counted from 0.
        shard_bytes: pixels of a shard, at most about; see :func:`~vidgen.data.pack_files.make_plan`. A video is never
            split.
        quiet: show no progress.

    Returns:
        What is in the pack now; where no shard is missing its index has been written.

    Raises:
        UserError: the folder holds a pack of other data or settings, the disk is full, no video can be read, ...
    """
    plan = agree(out, make_plan(dataset, settings, shard_bytes))
    failures = Failures()
    mine = [shard for shard in range(part[0], plan.num_shards, part[1]) if not is_finished(out, shard)]
    drop_partials(out, mine)
    videos = sum(len(plan.videos(shard)) for shard in mine)
    with Progress(videos, "packed", "videos", not quiet, last_line=False, file=sys.stderr) as progress:
        if workers <= 1 or len(mine) <= 1:
            for shard in mine:
                write_shard(dataset, out, plan, shard, failures, progress.advance)
        else:
            try:
                for shard in _write_in_processes(dataset, out, plan, mine, workers):
                    progress.advance(len(plan.videos(shard)))
            finally:
                drop_partials(out, mine)  # of processes that were interrupted or killed
    missing = tuple(shard for shard in range(plan.num_shards) if not is_finished(out, shard))
    if missing:
        made = [Shard.read(shard_path(out, n, "npz")) for n in range(plan.num_shards) if n not in missing]
        return report_of(out, plan, made, missing)
    return finish(out)


def write_shard(
    dataset: VideoDataset,
    out: Path,
    plan: Plan,
    shard: int,
    failures: Failures,
    advance: Callable[[], None] = lambda: None,
    source: Source | None = None,
) -> None:
    """Write one shard, whole or not at all.

    Args:
        dataset: what is packed.
        out: folder of the pack.
        plan: what is packed into which shard.
        shard: number of the shard.
        failures: of this process so far.
        advance: called after each video.
        source: what is written of it; None for its frames.

    Raises:
        UserError: the disk is full, writing is not possible, a video is gone for the time being, or
            :data:`MOST_UNREADABLE` in a row cannot be read.
    """
    packed: list[tuple[int, int, int]] = []  # video, length, offset
    checksums: list[NDArray[np.uint32]] = []
    skipped: dict[int, str] = {}
    layout: Layout = {}
    source = source or Source(dataset)
    source.begin(plan.videos(shard))
    with atomic_file(shard_path(out, shard, "bin")) as file:
        for video in plan.videos(shard):
            start = file.tell()
            try:
                sums = _write_video(file, source.chunks(video), layout)
            except UnreadableVideo as error:
                file.seek(start)
                file.truncate()
                skipped[video] = error.reason
                failures.count(error)
            else:
                failures.in_a_row = 0
                packed.append((video, len(sums), start))
                checksums.append(sums)
            advance()
        size = file.tell()
    rows = np.array(packed, np.int64).reshape(-1, 3)
    items = rows[:, 0].tolist()
    videos = [source.video(item) for item in items]
    labels, attributes = _facts(dataset, videos)
    Shard(
        size,
        layout,
        StringTable(_name(source, plan, item) for item in items),
        rows[:, 1],
        rows[:, 2],
        labels,
        attributes,
        np.concatenate([np.empty(0, np.uint32), *checksums]),
        StringTable(_name(source, plan, item) for item in skipped),
        StringTable(skipped.values()),
        _captions(dataset, videos),
    ).write(shard_path(out, shard, "npz"))


def _facts(dataset: VideoDataset, videos: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Class of each video, ``(N,)`` or ``(0,)`` without labels, and attributes ``(N, A)``, also those left out."""
    spec = dataset.spec
    table = dataset.all_attributes if isinstance(dataset, StoredVideos) else None
    wanted = {"label"} if spec.class_names else set()
    if spec.attribute_names:
        wanted.add("attributes")
    labels, attributes = [], []
    for video in videos:
        request = ClipRequest(video, (0,), spec.resolution)
        facts = dataset.describe_clip(request)
        if not wanted <= facts.keys():  # what is drawn on the fly may know them only when it is read
            facts = dataset.read(request)
        labels += [int(facts["label"])] if "label" in wanted else []
        if "attributes" in wanted:
            attributes.append(facts["attributes"].tolist() if table is None else table[video].tolist())
    return np.array(labels, np.int64), np.array(attributes, np.float32).reshape(len(videos), len(spec.attribute_names))


def _captions(dataset: VideoDataset, videos: Sequence[int]) -> StringTable:
    """The captions of each video; of none where the data set has no texts."""
    captions = dataset.captions if isinstance(dataset, StoredVideos) else None
    return StringTable() if captions is None else StringTable(captions[video] for video in videos)


def _name(source: Source, plan: Plan, item: int) -> str:
    dataset, video = source.dataset, source.video(item)
    name = dataset.names[video].removeprefix(plan.folder) if isinstance(dataset, StoredVideos) else f"{video:08d}"
    return source.name(item, name)


def _write_video(file: BinaryIO, chunks: Iterable[dict[str, NDArray[Any]]], layout: Layout) -> NDArray[np.uint32]:
    """Append a video to a shard.

    Returns:
        The checksum of each frame.
    """
    sums = []
    for chunk in chunks:
        if not layout:
            layout.update({name: _kind(array) for name, array in chunk.items()})
        for frame in _frames(chunk, layout):
            sums.append(zlib.crc32(frame))
            file.write(frame)
    return np.array(sums, np.uint32)


def _chunks(dataset: VideoDataset, video: int) -> Iterator[dict[str, NDArray[Any]]]:
    """All frames of a video, ``(T, C, H, W)``, a bounded number at a time."""
    spec = dataset.spec
    length = int(dataset.lengths[video])
    step = max(1, CHUNK_BYTES // (spec.channels * spec.resolution * (spec.width or spec.resolution)))
    for start in range(0, length, step):
        chunk = dataset.pack(video, range(start, min(start + step, length)))
        yield {name: frames.transpose(0, 3, 1, 2) for name, frames in chunk.items()}


def _frames(chunk: Mapping[str, NDArray[Any]], layout: Layout) -> Iterator[bytes]:
    """The bytes of each frame: all that there is of it, in the order of the layout."""
    for name, (dtype, shape) in layout.items():
        found = _kind(chunk[name])
        if found != (dtype, shape):
            raise ValueError(f"{name} is {found}, not {(dtype, shape)} as in other videos")
    for frame in zip(*(chunk[name] for name in layout), strict=True):
        yield b"".join(part.tobytes() for part in frame)


def _kind(array: NDArray[Any]) -> tuple[str, list[int]]:
    """Type and shape of what there is of each frame, from that of ``(T, ...)``."""
    return array.dtype.str, list(array.shape[1:])


_task: tuple[VideoDataset, Path, Plan, Failures]
"""What a worker process works on."""


def _start_worker(dataset: VideoDataset, out: Path, plan: Plan) -> None:
    """Prepare a worker process: it ends with its parent, however that ends, and in silence after an interrupt."""
    global _task
    _task = dataset, out, plan, Failures()
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as it is for what a script has put into the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _work(shard: int) -> tuple[int, str | None]:
    """One shard in a worker process; an error of the user travels as its message."""
    dataset, out, plan, failures = _task
    try:
        write_shard(dataset, out, plan, shard, failures)
    except UserError as error:
        return shard, str(error)
    return shard, None


def _write_in_processes(
    dataset: VideoDataset, out: Path, plan: Plan, shards: Sequence[int], workers: int
) -> Iterator[int]:
    context = multiprocessing.get_context("spawn")
    waiting: list[Future[tuple[int, str | None]]] = []
    with ProcessPoolExecutor(
        min(workers, len(shards)), context, initializer=_start_worker, initargs=(dataset, out, plan)
    ) as pool:
        try:
            # Processes inherit the block, and are not interrupted before they are prepared for it.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                waiting += [pool.submit(_work, shard) for shard in shards]
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
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
    agree(out, plans[0])
    for shard in range(plans[0].num_shards):
        _gather(parts, out, shard)
    missing = [shard for shard in range(plans[0].num_shards) if not is_finished(out, shard)]
    if missing:
        shown = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise UserError(
            f"{len(missing)} of {plans[0].num_shards} shards are missing ({shown});"
            f" run their `{command_of(plans[0].encoding)}` first"
        )
    return finish(out)


def _gather(parts: Sequence[Path], out: Path, shard: int) -> None:
    """Bring a shard that some part has into the whole."""
    if is_finished(out, shard):
        return
    for part in parts:
        if is_finished(part, shard):
            for suffix in ("bin", "npz"):
                link_or_copy(shard_path(part, shard, suffix), shard_path(out, shard, suffix))
            return


def finish(out: Path) -> PackReport:
    """Write the index of a pack whose shards are all there.

    Raises:
        UserError: no video could be read, or writing is not possible.
    """
    plan = read_plan(out)
    assert plan is not None
    shards = [Shard.read(shard_path(out, shard, "npz")) for shard in range(plan.num_shards)]
    report = report_of(out, plan, shards, ())
    if not report.num_videos:
        first, reason = next(iter(report.skipped.items()))
        raise UserError(
            f"--out: {out}: none of its {counted(len(report.skipped), 'video')} could be read"
            f" (the first, {first!r}: {reason}); remove the folder, repair them and"
            f" {'pack' if plan.encoding is None else 'encode'} anew"
        )
    _write_index(out, plan, shards, report.skipped)
    drop_partials(out)
    return report


def _write_index(out: Path, plan: Plan, shards: Sequence[Shard], skipped: Mapping[str, str]) -> None:
    Shard.joined(shards).write(
        out / INDEX,
        shards=np.repeat(np.arange(len(shards)), [len(shard.lengths) for shard in shards]),
        sizes=np.array([shard.size for shard in shards]),
    )
    about = {"format": FORMAT, "index": file_digest(out / INDEX), **vars(plan), "skipped": skipped}
    write_json(out / PACK, about)


def report_of(out: Path, plan: Plan, shards: Sequence[Shard], missing: tuple[int, ...]) -> PackReport:
    """What a pack holds so far.

    Args:
        out: its folder.
        plan: its plan.
        shards: those that are there.
        missing: numbers of the others.
    """
    skipped = {name: reason for shard in shards for name, reason in zip(shard.skipped, shard.reasons, strict=True)}
    return PackReport(
        out,
        sum(len(shard.lengths) for shard in shards),
        int(sum(shard.lengths.sum() for shard in shards)),
        sum(shard.size for shard in shards),
        {**plan.skipped, **skipped},
        missing,
        plan.encoding,
    )
