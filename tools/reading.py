"""How fast clips are read: from a pack, by seeking in video files, and by decoding these from their start.

The set is rendered: a textured background that pans, shapes that cross it, and grain, 320 x 180 pixels, 30 frames per
second, H.264 with a key frame every 250 frames. Two ways to read are first shown to give the same clips, then timed in
turn on the same requests.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from pairing import describe_pairs
from torch import Tensor

from vidgen.data.module import VideoDataModule
from vidgen.data.pack_files import INDEX, Shard, shard_path
from vidgen.data.packed import Packed
from vidgen.data.packing import pack
from vidgen.data.request import ClipRequest
from vidgen.data.sampler import IterationSampler
from vidgen.data.transforms import resize_frames, to_clip
from vidgen.data.video_folder import VideoFolder
from vidgen.errors import UserError

WIDTH, HEIGHT, FPS, GOP = 320, 180, 30, 250
CLIP = {"resolution": 64, "num_frames": 16}
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # numbers of glibc's malloc.h
Turn = Callable[[Sequence[ClipRequest]], Tensor]


@dataclass(frozen=True)
class Pair:
    """Two ways to read the same clips.

    Args:
        ours: name of the way whose time is divided.
        theirs: name of the way that divides.
        read_ours: clips of some requests, ``(N, C, T, H, W)``.
        read_theirs: the same.
        clips: clips of a turn.
    """

    ours: str
    theirs: str
    read_ours: Turn
    read_theirs: Turn
    clips: int


def render_set(folder: Path, videos: int, seconds: int) -> None:
    """Render the set; a video that is there is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(videos):
        path = folder / f"{number:03d}.mp4"
        if not path.exists():
            partial = folder / f".{number:03d}.partial"
            _render(partial, number, seconds * FPS)
            partial.rename(path)


def _render(path: Path, seed: int, length: int) -> None:
    rng = np.random.default_rng(seed)
    texture = rng.integers(30, 220, (HEIGHT // 6 + 60, WIDTH // 6 + 60, 3), dtype=np.uint8)
    texture = texture.repeat(6, axis=0).repeat(6, axis=1)
    colors = rng.integers(0, 256, (4, 3), dtype=np.uint8)
    phases = rng.uniform(0, 2 * np.pi, (4, 2))
    with av.open(str(path), "w", format="mp4") as container:
        options = {"g": str(GOP), "preset": "fast", "x264-params": "scenecut=0"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for frame_number in range(length):
            image = _picture(texture, colors, phases, frame_number / FPS, rng)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = frame_number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _picture(
    texture: np.ndarray, colors: np.ndarray, phases: np.ndarray, seconds: float, rng: np.random.Generator
) -> np.ndarray:
    """The frame at a time, uint8 ``(HEIGHT, WIDTH, 3)``."""
    top, left = (int(160 * (1 + np.sin(seconds * speed)) / 2) for speed in (0.21, 0.13))
    image = texture[top : top + HEIGHT, left : left + WIDTH].copy()
    for color, phase in zip(colors, phases, strict=True):
        y, x = ((1 + np.sin(seconds * 1.3 + phase)) / 2 * (HEIGHT - 40, WIDTH - 40)).astype(int)
        image[y : y + 40, x : x + 40] = color
    grain = rng.integers(-6, 7, (HEIGHT, WIDTH, 1), dtype=np.int16)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


class FromStart:
    """The plain loop: decode a file from its start up to the last frame wanted.

    Args:
        dataset: says where the files are and how frames are resized.
    """

    def __init__(self, dataset: VideoFolder) -> None:
        self.dataset = dataset

    def __call__(self, requests: Sequence[ClipRequest]) -> Tensor:
        return torch.stack([self._read(request) for request in requests])

    def _read(self, request: ClipRequest) -> Tensor:
        frames = {}
        with av.open(self.dataset.path(request.video)) as container:
            container.streams.video[0].codec_context.thread_count = 1
            for number, frame in enumerate(container.decode(video=0)):
                if number in request.times:
                    frames[number] = frame.to_ndarray(format="rgb24")
                if len(frames) == len(request.times):
                    break
        stored = np.stack([frames[number] for number in request.times])
        return to_clip(resize_frames(stored, request.resolution))


class RawPack:
    """What reading a pack costs without vidgen: slices of mapped files, stacked and brought to [-1, 1].

    Args:
        root: the pack, of videos alone.
    """

    def __init__(self, root: Path) -> None:
        index = Shard.read(root / INDEX)
        with np.load(root / INDEX) as arrays:
            shards = arrays["shards"]
        shape = index.layout["video"][1]
        self.videos = [
            np.memmap(shard_path(root, int(shard), "bin"), np.uint8, "r", int(offset), (int(length), *shape))
            for shard, offset, length in zip(shards, index.offsets, index.lengths, strict=True)
        ]

    def __call__(self, requests: Sequence[ClipRequest]) -> Tensor:
        clips = []
        for request in requests:
            first, step = request.times[0], request.times[1] - request.times[0]
            frames = self.videos[request.video][first : request.times[-1] + 1 : step]
            clips.append(torch.from_numpy(frames.transpose(1, 0, 2, 3).copy()).float().div_(127.5).sub_(1))
        return torch.stack(clips)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed: else whether a batch's memory is fresh or used before decides its time."""
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, 2**30)
        libc.mallopt(_MMAP_THRESHOLD, 2**30)
    except (OSError, AttributeError):  # another C library
        pass


def read_each(dataset: VideoFolder | Packed) -> Turn:
    """Read clips one after the other through the data set."""
    return lambda requests: torch.stack([dataset.read(request)["video"] for request in requests])


class ThroughLoader:
    """Read batches through the data module, whose order is known beforehand.

    Args:
        dataset: what is read.
        batch_size: clips of a batch.
    """

    def __init__(self, dataset: Packed, batch_size: int) -> None:
        module = VideoDataModule(dataset, batch_size=batch_size, clips_per_video=1000)
        self._batches = iter(module.train_dataloader())

    def __call__(self, requests: Sequence[ClipRequest]) -> Tensor:
        return next(self._batches)["video"]


def requests_of(dataset: VideoFolder | Packed, batch_size: int) -> Iterator[tuple[ClipRequest, ...]]:
    """What the data module asks for, batch after batch."""
    sampler = IterationSampler(dataset, batch_size, clips_per_video=1000)
    return (element[0].clips for element in sampler)


def compare(pair: Pair, requests: Iterator[tuple[ClipRequest, ...]]) -> None:
    """Show that both ways give the same clips.

    Raises:
        UserError: they do not.
    """
    for batch in islice(requests, 2):
        ours, theirs = pair.read_ours(batch), pair.read_theirs(batch)
        if not torch.equal(ours, theirs):
            apart = float((ours - theirs).abs().max()) * 127.5
            raise UserError(f"{pair.ours} and {pair.theirs} do not read the same: {apart:.0f} levels apart")


def measure(pair: Pair, requests: Iterator[tuple[ClipRequest, ...]], turns: int) -> list[tuple[float, float]]:
    """Seconds of each way for each batch, in turn; which one begins changes from batch to batch."""
    pairs = []
    for number, batch in enumerate(islice(requests, turns)):
        pair.read_theirs(batch)  # not timed: else the first of the two would find the data colder than the second
        seconds = {}
        ways = [("ours", pair.read_ours), ("theirs", pair.read_theirs)]
        for name, read in ways if number % 2 else reversed(ways):
            start = time.perf_counter()
            read(batch)
            seconds[name] = time.perf_counter() - start
        pairs.append((seconds["ours"], seconds["theirs"]))
    return pairs


def compare_and_measure(pair: Pair, dataset: VideoFolder | Packed, turns: int) -> str:
    """Two ways to read, compared and timed, in a few lines of text."""
    requests = requests_of(dataset, pair.clips)
    compare(pair, requests)
    pairs = measure(pair, requests, turns)
    per_clip = [(ours / pair.clips, theirs / pair.clips) for ours, theirs in pairs]
    speed = statistics.median(theirs / ours for ours, theirs in per_clip)
    return f"{describe_pairs(per_clip, pair.ours, pair.theirs, 'clip')}\n{pair.ours}: {speed:.2f} x the clips/s"


def private_memory(process: int) -> float:
    """Megabytes that a process has for itself alone, without the files that it has mapped."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise UserError("the memory of a process is only known on Linux")


def worker_memory(dataset: Packed | VideoFolder, clips: int, batch_size: int = 32) -> list[tuple[int, float]]:
    """Private memory of a loading process while it reads.

    Returns:
        Clips read and megabytes, ten times.
    """
    module = VideoDataModule(dataset, batch_size=batch_size, clips_per_video=1000, num_workers=1)
    own = os.getpid()
    found = []
    batches = clips // batch_size
    marks = {round(batches * tenth / 10) for tenth in range(1, 11)}
    for number, _ in enumerate(islice(module.train_dataloader(), batches), 1):
        if number in marks:
            children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
            found.append((number * batch_size, max(private_memory(int(child)) for child in children)))
    return found


def run(folder: Path, videos: int, seconds: int, turns: int, memory_clips: int) -> Iterator[str]:
    """Render the set, pack it, and measure; yields lines of text as they are found.

    Args:
        folder: where the set and its pack lie, or are made.
        videos: files of the set.
        seconds: length of each.
        turns: pairs of each comparison.
        memory_clips: clips over which the memory of a loading process is watched; 0 for none.

    Raises:
        UserError: two ways to read do not give the same clips.
    """
    render_set(folder / "videos", videos, seconds)
    files = VideoFolder(str(folder / "videos"), **CLIP)
    settings = {"name": "video_folder", "root": str(folder / "videos"), **CLIP}
    pack(files, settings, folder / "pack", quiet=True)
    packed = Packed(str(folder / "pack"), **CLIP)
    yield f"{videos} files of {seconds} s, {WIDTH} x {HEIGHT}, {FPS} frames/s, H.264, a key frame every {GOP} frames"
    yield f"clips of {CLIP['num_frames']} x {CLIP['resolution']} x {CLIP['resolution']}"
    on_the_fly = read_each(files)
    yield compare_and_measure(Pair("packed", "by seeking", read_each(packed), on_the_fly, 4), files, turns)
    yield compare_and_measure(Pair("by seeking", "from the start", on_the_fly, FromStart(files), 4), files, turns)
    batch_size = 32
    loader = Pair("loader", "raw reading", ThroughLoader(packed, batch_size), RawPack(folder / "pack"), batch_size)
    keep_freed_memory()
    # A turn of these takes milliseconds, so that what else the machine does weighs more: ten times as many.
    yield compare_and_measure(loader, packed, 10 * turns)
    for clips, megabytes in worker_memory(packed, memory_clips) if memory_clips else ():
        yield f"memory of a loading process after {clips} clips: {megabytes:.1f} MB"
