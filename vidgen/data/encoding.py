"""Encode a data set once: what a frozen encoder makes of every video, in the files of a pack.

Data know no model: an encoder is a function with a description, see :class:`Encoder`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgen import __version__
from vidgen.data.dataset import UnreadableVideo, VideoDataset
from vidgen.data.pack_files import (
    DECIDES_CODES,
    FORMAT,
    Plan,
    Shard,
    agree,
    drop_partials,
    is_finished,
    make_plan,
    plain_settings,
    shard_bounds,
    shard_path,
)
from vidgen.data.packing import Failures, PackReport, Source, finish, report_of, write_shard
from vidgen.data.request import ClipRequest
from vidgen.data.stored import StoredVideos, counted
from vidgen.data.transforms import from_levels
from vidgen.errors import UserError
from vidgen.progress import Progress

DEFAULT_WINDOW = 128
"""Frames of a video that are encoded at once, without those around them; at least so many."""

FRAMES_AT_ONCE = 512
"""Frames of a batch of windows, about."""

AHEAD = 8
"""Batches of windows of other sizes that may overtake one whose batch is not full."""

PATHS = ("root", "file", "bpe")
"""Settings of data sets that are paths."""


@dataclass(frozen=True)
class Encoding:
    """What an encoder makes of a video; a model that encodes has one as its attribute ``encoding``.

    Args:
        key: batch key of the codes: ``tokens`` are numbers of codes, ``latents`` are floats.
        stride: frames of one step of the codes.
        halo: frames on each side of a step's own that it depends on, or more; None where it depends on all frames, as
            under a normalisation over time.
        num_codes: of tokens, how many codes there are; None of latents.
        dtype: how codes are stored; None for the smallest integers that hold all tokens, and float32 for latents.
        fingerprint: of the weights that decide the codes, see :func:`vidgen.sampling.weights_fingerprint`. A model that
            is trained on the codes can compare it with its own copy of the encoder.
    """

    key: Literal["tokens", "latents"]
    stride: int
    halo: int | None
    num_codes: int | None = None
    dtype: Literal["int16", "int32", "float16", "float32"] | None = None
    fingerprint: str = ""

    @property
    def stored_dtype(self) -> np.dtype:
        """How codes are stored.

        Raises:
            ValueError: not every code can be.
        """
        if self.key == "latents":
            dtype = np.dtype(self.dtype or "float32")
            if dtype.kind != "f":
                raise ValueError(f"latents are floats, not {dtype}")
            return dtype
        if self.num_codes is None:
            raise ValueError("tokens need num_codes")
        dtype = np.dtype(self.dtype or ("int16" if self.num_codes <= 2**15 else "int32"))
        if dtype.kind != "i" or self.num_codes - 1 > np.iinfo(dtype).max:
            raise ValueError(f"{self.num_codes} codes do not fit into {dtype}")
        return dtype


@dataclass(frozen=True)
class Encoder:
    """A trained encoder, as far as data have to know it.

    Args:
        encode: takes videos, float32 ``(B, C, T, H, W)`` in [-1, 1] on the CPU with T a multiple of the stride, and
            returns their codes ``(B, T / stride, ...)`` on the CPU.
        encoding: what they are.
        model: its registry name.
        fingerprint: SHA-256 of its file.
        weights: ``ema`` or ``raw``.
        num_frames: frames of the clips that it was trained on.
    """

    encode: Callable[[Tensor], Tensor]
    encoding: Encoding
    model: str
    fingerprint: str
    weights: str
    num_frames: int


@dataclass(frozen=True)
class Items:
    """What is encoded by itself: whole videos, or clips of them; of their frames only those at the data set's stride.

    Args:
        videos: the video of each.
        starts: its first source frame.
        frames: how many frames are encoded, a multiple of the encoder's stride.
        notices: what is left out, a line each.
    """

    videos: NDArray[np.int64]
    starts: NDArray[np.int64]
    frames: NDArray[np.int64]
    notices: tuple[str, ...]


def whole_videos(dataset: VideoDataset, stride: int) -> Items:
    """Every video from its first frame to the last that fills a step.

    Args:
        dataset: the videos.
        stride: frames of a step.

    Raises:
        UserError: no video has one step.
    """
    there = -(-dataset.lengths // dataset.stride)
    frames = there // stride * stride
    kept = np.flatnonzero(frames)
    if not len(kept):
        raise UserError(f"none of the {counted(len(dataset), 'video')} has {stride} frames, which make one step")
    notices = []
    cut = (there - frames)[kept]
    if cut.any():
        ends = f"at the ends of {counted(int((cut > 0).sum()), 'video')}"
        notices.append(f"left out {counted(int(cut.sum()), 'frame')} {ends}, which fill no step of {stride}")
    if len(kept) < len(dataset):
        notices.append(f"left out {counted(len(dataset) - len(kept), 'video')} of fewer than {stride} frames")
    return Items(kept, np.zeros_like(kept), frames[kept], tuple(notices))


def clips_of(dataset: VideoDataset, num_frames: int, every: int) -> Items:
    """Clips of one length that begin every so many source frames, as far as they fit into their videos.

    Args:
        dataset: the videos.
        num_frames: frames of a clip, at the data set's stride.
        every: source frames from the start of one clip to that of the next.

    Raises:
        UserError: no video is as long as a clip.
    """
    span = (num_frames - 1) * dataset.stride + 1
    numbers = np.maximum(dataset.lengths - span, -every) // every + 1
    if not numbers.any():
        raise UserError(f"--clips: none of the {counted(len(dataset), 'video')} has the {span} frames of a clip")
    videos = np.repeat(np.arange(len(dataset)), numbers)
    firsts = np.repeat(np.cumsum(numbers) - numbers, numbers)
    starts = (np.arange(len(videos)) - firsts) * every
    short = int((numbers == 0).sum())
    notices = [f"clips of {num_frames} frames, one every {counted(every, 'frame')}"]
    notices += [f"left out {counted(short, 'video')} of fewer than {span} frames"] if short else []
    return Items(videos, starts, np.full(len(videos), num_frames), tuple(notices))


def encode(
    dataset: VideoDataset,
    settings: Mapping[str, Any],
    out: Path,
    encoder: Encoder,
    *,
    window: int | None = None,
    every: int | None = None,
    batch_size: int | None = None,
    part: tuple[int, int] = (0, 1),
    shard_bytes: int = 2**28,
    quiet: bool = False,
) -> PackReport:
    """Encode a data set, or go on with that.

    A video is encoded window by window, each with the frames around it that its codes depend on, so that the codes are
    those of the whole video at once while memory does not grow with its length.

    Args:
        dataset: what is encoded, at its own resolution; all its videos, at its stride, as they are stored (no flips).
        settings: its configuration.
        out: folder of the result.
        encoder: what encodes.
        window: frames of a window, a multiple of the encoder's stride; None for :data:`DEFAULT_WINDOW`, and at least
            twice the halo. It changes the codes by rounding errors only, as ``batch_size`` does.
        every: encode clips of the encoder's training length instead, each by itself, from every so many source frames.
        batch_size: windows that are encoded at once; None for about :data:`FRAMES_AT_ONCE` frames.
        part: ``(i, n)`` makes every n-th shard, from the i-th, counted from 0.
        shard_bytes: bytes of a shard, at most about.
        quiet: show no progress.

    Returns:
        What is there now; where no shard is missing its index has been written.

    Raises:
        UserError: the folder holds something else, the disk is full, no video can be read, codes are no numbers, ...
    """
    stride = encoder.encoding.stride
    if every is None:
        items = whole_videos(dataset, stride)
        window = _window(encoder, window, int(items.frames.max()))
    else:
        if window is not None:
            raise UserError("--window and --clips: a clip is encoded as a whole; leave --window out")
        items = clips_of(dataset, encoder.num_frames, every)
        window = encoder.num_frames
    halo = encoder.encoding.halo or 0
    largest = min(window + 2 * halo, int(items.frames.max()))
    batch_size = batch_size or max(1, FRAMES_AT_ONCE // largest)
    shape = _step_shape(encoder, dataset)
    plan = agree(out, _plan(dataset, settings, encoder, items, shape, every, shard_bytes))
    mine = [shard for shard in range(part[0], plan.num_shards, part[1]) if not is_finished(out, shard)]
    drop_partials(out, mine)
    todo = [item for shard in mine for item in plan.videos(shard)]
    failures = Failures()
    with Progress(int(items.frames[todo].sum()), "", "frames", not quiet, last_line=False, file=sys.stderr) as progress:
        source = EncodedSource(dataset, encoder, items, window, batch_size, every is not None, progress.advance)
        count = _VideoCount(progress, len(todo))
        with closing(source):
            for shard in mine:
                write_shard(dataset, out, plan, shard, failures, count.advance, source)
    missing = tuple(shard for shard in range(plan.num_shards) if not is_finished(out, shard))
    if missing:
        made = [Shard.read(shard_path(out, n, "npz")) for n in range(plan.num_shards) if n not in missing]
        return report_of(out, plan, made, missing)
    return finish(out)


class _VideoCount:
    """Shows videos beside the frames that a progress counts."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress, self.total, self.done = progress, total, -1
        self.advance()

    def advance(self) -> None:
        self.done += 1
        self.progress.verb = f"encoded {self.done}/{self.total} videos,"
        self.progress.bar.set_postfix_str(f"{self.done}/{self.total} videos", refresh=False)


def _window(encoder: Encoder, window: int | None, longest: int) -> int:
    """Frames of a window.

    Raises:
        UserError: those that were asked for are no whole steps, or too few for an encoder that looks at all frames.
    """
    stride, halo = encoder.encoding.stride, encoder.encoding.halo
    if window is None:
        window = -(-max(DEFAULT_WINDOW, 2 * (halo or 0)) // stride) * stride
    elif window < 1 or window % stride:
        raise UserError(f"--window {window}: must be a multiple of {stride}, the frames of one step of {encoder.model}")
    if halo is None and longest > window:
        raise UserError(
            f"--window {window}: {encoder.model} looks at all frames of a video at once, and the longest has {longest};"
            " raise it to that, or give --clips"
        )
    return window


def _step_shape(encoder: Encoder, dataset: VideoDataset) -> tuple[int, ...]:
    """Shape of one step of the codes, found by encoding a grey clip."""
    spec, stride = dataset.spec, encoder.encoding.stride
    frames = -(-encoder.num_frames // stride) * stride
    codes = encoder.encode(torch.zeros(1, spec.channels, frames, spec.resolution, spec.width or spec.resolution))
    _check_steps(encoder, codes, frames)
    return tuple(codes.shape[2:])


def _check_steps(encoder: Encoder, codes: Tensor, frames: int) -> None:
    if codes.shape[1] * encoder.encoding.stride != frames:
        raise ValueError(
            f"{encoder.model}: {frames} frames gave {codes.shape[1]} steps, and its stride is {encoder.encoding.stride}"
        )


def _plan(
    dataset: VideoDataset,
    settings: Mapping[str, Any],
    encoder: Encoder,
    items: Items,
    shape: tuple[int, ...],
    every: int | None,
    shard_bytes: int,
) -> Plan:
    encoding = encoder.encoding
    source = make_plan(dataset, settings, 2**28)
    notices = list(items.notices)
    if settings.get("flip"):
        notices.append("data.flip is passed over: videos are encoded as they are stored")
    given = {key: _given(value) for key, value in settings.items()}
    about: dict[str, Any] = {
        "model": encoder.model,
        "fingerprint": encoder.fingerprint,
        "weights": encoder.weights,
        "network": encoding.fingerprint,
        "key": encoding.key,
        "dtype": encoding.stored_dtype.name,
        "stride": encoding.stride,
        "num_codes": encoding.num_codes,
        "shape": list(shape),
        "frame_stride": dataset.stride,
        "every": every,
        "clip_frames": None if every is None else encoder.num_frames,
        "notices": notices,
        "version": __version__,
        "source": {"fingerprint": source.fingerprint, "data": _absolute(plain_settings(given))},
    }
    step_bytes = int(np.prod(shape)) * encoding.stored_dtype.itemsize
    bounds = shard_bounds((items.frames // encoding.stride * step_bytes).tolist(), shard_bytes)
    deciding = [FORMAT, source.fingerprint, {key: about[key] for key in DECIDES_CODES}, bounds]
    return Plan(
        hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest(),
        source.settings,
        source.spec,
        source.folder,
        tuple(bounds),
        source.skipped,
        source.label_fraction,
        source.label_seed,
        about,
    )


def _given(value: Any) -> Any:
    """A setting without the defaults of its parts, as a config would give it."""
    if not is_dataclass(value) or isinstance(value, type):
        return value
    parts = {part.name: (getattr(value, part.name), part.default) for part in fields(value)}
    return {name: _given(part) for name, (part, default) in parts.items() if part != default}


def _absolute(settings: Any) -> Any:
    """The settings with whole paths, so that the videos are found from any working folder."""
    if not isinstance(settings, dict):
        return settings
    return {
        key: os.path.abspath(value) if key in PATHS and isinstance(value, str) else _absolute(value)
        for key, value in settings.items()
    }


@dataclass(eq=False)
class _Window:
    """Frames of an item that are encoded together.

    Args:
        item: its number.
        frames: ``(C, T, H, W)``; None once they are encoded, and where they cannot be read.
        first: the first step of the codes that is wanted; those before it are of frames around the window.
        steps: how many are wanted.
        last: whether the item ends with it.
        codes: what was made of them, or why the video cannot be read.
    """

    item: int
    frames: Tensor | None
    first: int
    steps: int
    last: bool
    codes: NDArray[Any] | UnreadableVideo | None = None


class EncodedSource(Source):
    """The codes of videos, window by window; a thread reads frames while the encoder works.

    Windows of equal size are encoded together, also those of different videos. Which ones depends on the items of the
    shard alone, so that a shard made again has the same bytes.

    Args:
        dataset: the videos.
        encoder: what encodes.
        items: what is encoded by itself.
        window: frames of a window.
        batch_size: windows that are encoded together.
        named: whether the names of items tell where they begin.
        advance: told how many frames are done.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        encoder: Encoder,
        items: Items,
        window: int,
        batch_size: int,
        named: bool = False,
        advance: Callable[[int], None] = lambda frames: None,
    ) -> None:
        super().__init__(dataset)
        self.encoder = encoder
        self.items = items
        self.window = window
        self.batch_size = batch_size
        self.named = named
        self.advance = advance
        self._frames_only = copy.copy(dataset)
        if isinstance(self._frames_only, StoredVideos):  # captions are stored as they are, and sound is read with clips
            self._frames_only.texts = self._frames_only.audio = None
        self._stream: Generator[_Window] = self._encoded(())

    def begin(self, items: Sequence[int]) -> None:
        """See :meth:`Source.begin`."""
        self.close()
        self._stream = self._encoded(items)

    def close(self) -> None:
        """Read no further; the thread that does ends, also where an error keeps this alive."""
        self._stream.close()

    def chunks(self, item: int) -> Iterator[dict[str, NDArray[Any]]]:
        """See :meth:`Source.chunks`."""
        left = int(self.items.frames[item])
        for window in self._stream:
            if isinstance(window.codes, UnreadableVideo):
                self.advance(left)
                raise window.codes
            assert window.codes is not None and window.item == item
            yield {self.encoder.encoding.key: window.codes}
            done = window.steps * self.encoder.encoding.stride
            left -= done
            self.advance(done)
            if window.last:
                return

    def video(self, item: int) -> int:
        """See :meth:`Source.video`."""
        return int(self.items.videos[item])

    def name(self, item: int, name: str) -> str:
        """See :meth:`Source.name`."""
        return f"{name}#{int(self.items.starts[item]):06d}" if self.named else name

    def _encoded(self, items: Sequence[int]) -> Generator[_Window]:
        """All windows of some items in order, encoded."""
        with closing(self._read_ahead(items)) as windows:
            yield from self._batched(windows)

    def _batched(self, windows: Iterator[_Window]) -> Iterator[_Window]:
        waiting: deque[_Window] = deque()
        batches: dict[tuple[int, ...], list[_Window]] = {}
        for window in windows:
            waiting.append(window)
            if window.frames is not None:
                size = tuple(window.frames.shape)
                batches.setdefault(size, []).append(window)
                if len(batches[size]) == self.batch_size:
                    self._encode(batches.pop(size))
            oldest = waiting[0].frames
            if oldest is not None and len(waiting) > AHEAD * self.batch_size:
                self._encode(batches.pop(tuple(oldest.shape)))
            while waiting and waiting[0].codes is not None:
                yield waiting.popleft()
        for batch in batches.values():
            self._encode(batch)
        yield from waiting

    def _encode(self, windows: Sequence[_Window]) -> None:
        video = torch.stack([window.frames for window in windows if window.frames is not None])
        codes = self.encoder.encode(from_levels(video.float()) if video.dtype == torch.uint8 else video)
        _check_steps(self.encoder, codes, video.shape[2])
        for window, of_window in zip(windows, codes, strict=True):
            window.codes = self._stored(of_window[window.first : window.first + window.steps])
            window.frames = None

    def _stored(self, codes: Tensor) -> NDArray[Any]:
        """Codes as they are stored.

        Raises:
            UserError: they are no such codes.
        """
        encoding, name = self.encoder.encoding, self.encoder.model
        if encoding.num_codes is not None:
            low, high = int(codes.min()), int(codes.max())
            if not 0 <= low <= high < encoding.num_codes:
                raise ValueError(f"{name}: made tokens from {low} to {high}, and has {encoding.num_codes} codes")
        with np.errstate(over="ignore"):  # infinity is refused below
            stored = codes.numpy().astype(encoding.stored_dtype)
        if encoding.key == "latents" and not np.isfinite(stored).all():
            raise UserError(f"{name}: makes latents with NaN or infinity (as {stored.dtype}); its weights are unusable")
        return stored

    def _read_ahead(self, items: Sequence[int]) -> Generator[_Window]:
        """Windows in order, read by a thread of their own."""
        windows = (window for item in items for window in self._windows(item))
        pool = ThreadPoolExecutor(1, "vidgen-reading")
        coming: deque[Future[_Window | None]] = deque()
        try:
            while True:
                while len(coming) <= self.batch_size:
                    coming.append(pool.submit(next, windows, None))
                window = coming.popleft().result()
                if window is None:
                    return
                yield window
        finally:
            pool.shutdown(cancel_futures=True)

    def _windows(self, item: int) -> Iterator[_Window]:
        """The windows of an item; every frame is read once, those that the next window needs too are kept."""
        stride = self.encoder.encoding.stride
        halo = -(-(self.encoder.encoding.halo or 0) // stride) * stride
        total = int(self.items.frames[item])
        kept: Tensor | None = None
        low = read = 0  # the first frame in kept, and the first that was not read yet
        for start in range(0, total, self.window):
            end = min(start + self.window, total)
            first, after = max(0, start - halo), min(end + halo, total)
            parts = [] if kept is None else [kept[:, first - low :]]
            try:
                parts += [self._frames(item, range(read, after))] if read < after else []
            except UnreadableVideo as error:
                yield _Window(item, None, 0, 0, True, error)
                return
            kept, low, read = torch.cat(parts, dim=1), first, after
            yield _Window(item, kept, (start - first) // stride, (end - start) // stride, end == total)

    def _frames(self, item: int, numbers: range) -> Tensor:
        """Frames of an item, ``(C, T, H, W)``, levels or floats in [-1, 1]."""
        start, stride = int(self.items.starts[item]), self.dataset.stride
        times = tuple(start + number * stride for number in numbers)
        request = ClipRequest(self.video(item), times, self.dataset.spec.resolution)
        return self._frames_only.read_levels(request)["video"]
