"""One image per video, its frames side by side: the layout of MoCoGAN's data sets."""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from vidgen.data.dataset import VideoDataset, check_clip_settings
from vidgen.data.folders import Listing, list_videos
from vidgen.data.request import ClipRequest
from vidgen.data.spec import DataSpec
from vidgen.data.splits import Split, group_of
from vidgen.data.transforms import Frames, ResizeRule, flips, keep_channels, resize_frames, to_clip
from vidgen.errors import UserError
from vidgen.registry import DATASETS

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Formats that Pillow decodes by itself; others would start programs or are no images."""
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

_log = logging.getLogger("vidgen.data")


@rank_zero_only
def _report(line: str) -> None:
    _log.warning(line)


def strip_length(width: int, height: int, frame_step: int | None = None) -> int:
    """Frames of a strip of the given size in pixels: its longer side by the step, by default by its shorter side."""
    return max(width, height) // (frame_step or min(width, height))


def split_strip(strip: Frames, frame_step: int | None = None) -> Frames:
    """Cut a strip into its frames.

    Args:
        strip: ``(H, W, C)``; frames lie from left to right where W > H, else from top to bottom.
        frame_step: pixels from one frame to the next; None for square frames.

    Returns:
        ``(T, h, w, C)``.
    """
    height, width, channels = strip.shape
    step = frame_step or min(height, width)
    length = strip_length(width, height, frame_step)
    if width > height:
        return strip[:, : length * step].reshape(height, length, step, channels).transpose(1, 0, 2, 3)
    return strip[: length * step].reshape(length, step, width, channels)


def read_strip(path: str | Path) -> Frames:
    """Decode an image by its content, whatever its name: uint8 ``(H, W, C)`` with 1, 2, 3 or 4 channels.

    Raises:
        UserError: the file is gone or damaged; the message names it.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode.startswith("I"):  # 16 bits; older versions of Pillow call it I
                return (np.asarray(image) >> 8).astype(np.uint8)[..., None]
            plain = image.mode in ("L", "LA", "RGB", "RGBA")
            pixels = np.asarray(image if plain else image.convert("RGB"))
            return pixels if pixels.ndim == 3 else pixels[..., None]
    except FileNotFoundError:
        raise UserError(f"{str(path)!r} was there at the start and is gone; put it back or start anew") from None
    except UNREADABLE as error:
        raise UserError(f"{str(path)!r} cannot be decoded: {error}; repair or remove it") from error


def strip_size(path: str | Path) -> tuple[int, int] | None:
    """Width and height by the header of an image, or None where the file is not one."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except UNREADABLE:
        return None


@DATASETS.register("frame_strips")
class FrameStrips(VideoDataset):
    """Videos as image strips, ``root/<class>/<file>`` or without classes ``root/<file>``.

    Files are opened by content, not by extension. At the start only their headers are read; a worker decodes a strip
    when it first needs it and keeps the decoded and resized strips that fit into its cache.

    Args:
        root: folder of the strips; its subfolders are the classes, numbered in sorted order.
        resolution: height and width of the clips, pixels.
        num_frames: frames of a clip.
        stride: source frames from one clip frame to the next. A video shorter than ``num_frames * stride`` (and no
            shorter than ``min_length``) gives its first ``num_frames`` frames instead.
        min_length: videos of fewer frames are left out; None for ``num_frames * stride`` (with MoCoGAN's 16 and 2
            that is the 32 of its official loader).
        channels: 3 or 1; the first channels of an image are kept, so that alpha is dropped.
        resize: ``crop`` scales the shorter side of a frame to ``resolution`` and cuts out the centre, ``stretch``
            scales both sides; antialiased.
        frame_step: pixels from one frame to the next along the strip; None for square frames.
        flip: mirror every second clip, drawn at random, from left to right, all its frames together.
        split: which of the videos are used.
        cache_mb: megabytes of decoded strips that each worker process keeps.
    """

    def __init__(
        self,
        root: str,
        resolution: int,
        num_frames: int,
        *,
        stride: int = 1,
        min_length: int | None = None,
        channels: Literal[1, 3] = 3,
        resize: ResizeRule = "crop",
        frame_step: int | None = None,
        flip: bool = False,
        split: Split = Split(),  # noqa: B008 - frozen
        cache_mb: int = 256,
    ) -> None:
        check_clip_settings(resolution, num_frames, stride)
        if min_length is None:
            min_length = num_frames * stride
        if min_length < num_frames:
            raise UserError(f"data.min_length {min_length} is less than data.num_frames {num_frames}; raise it")
        if frame_step is not None and frame_step < 1:
            raise UserError(f"data.frame_step is {frame_step}; it must be at least 1")
        self.root = root
        self.channels = channels
        self.resize = resize
        self.frame_step = frame_step
        self.flip = flip
        self.notices: list[str] = []
        listing = list_videos(root, split, "frame strips (one image per video)")
        kept, lengths = self._measure(listing, min_length)
        self.paths = tuple(listing.root / listing.paths[i] for i in kept)
        labels = [listing.labels[i] for i in kept] if listing.class_names else None
        groups = [group_of(listing.paths[i], split.pattern, split.divide) for i in kept] if split.pattern else None
        spec = DataSpec(
            channels=channels,
            resolution=resolution,
            num_frames=num_frames,
            fps=None,
            num_videos=len(kept),
            min_length=min(lengths),
            max_length=max(lengths),
            class_names=listing.class_names,
        )
        super().__init__(spec, lengths, labels, groups, stride)
        self._cache = StripCache(cache_mb * 2**20)

    def _measure(self, listing: Listing, min_length: int) -> tuple[list[int], list[int]]:
        """Indices and lengths of the videos that are kept; what is left out is reported in a line each."""
        sizes = [strip_size(listing.root / path) for path in listing.paths]
        bad = [path for path, size in zip(listing.paths, sizes, strict=True) if size is None]
        if len(bad) == len(sizes):
            raise UserError(
                f"data.root {self.root!r}: none of its {len(bad)} files is an image (the first: {bad[0]!r})"
            )
        if bad:
            self._notice(f"{self.root}: skipped {_files(len(bad))} that cannot be read as an image: {_names(bad)}")
        lengths = [0 if size is None else strip_length(*size, self.frame_step) for size in sizes]
        kept = [i for i, length in enumerate(lengths) if length >= min_length]
        if not kept:
            raise UserError(
                f"data.root {self.root!r}: none of its {len(lengths) - len(bad)} videos has {min_length} frames"
                f" (the longest has {max(lengths)}); lower data.num_frames, data.stride or data.min_length"
            )
        num_short = len(lengths) - len(bad) - len(kept)
        if num_short:
            self._notice(f"{self.root}: left out {_videos(num_short)} shorter than {min_length} frames")
        return kept, [lengths[i] for i in kept]

    def _notice(self, line: str) -> None:
        self.notices.append(line)
        _report(line)

    def read(self, request: ClipRequest) -> dict[str, Tensor]:
        """See :meth:`VideoDataset.read`."""
        frames = self._frames(request.video, request.resolution)[list(request.times)]
        if self.flip and flips(request.seed):
            frames = frames[:, :, ::-1]
        return {"video": to_clip(frames), **self.describe_clip(request)}

    def _frames(self, video: int, resolution: int) -> Frames:
        """All frames of a video at a resolution, ``(T, H, W, C)``, from the cache where they are there."""
        key = (video, resolution)
        frames = self._cache.get(key)
        if frames is None:
            path = self.paths[video]
            frames = split_strip(read_strip(path), self.frame_step)
            if len(frames) != self.lengths[video]:
                raise UserError(
                    f"{str(path)!r} had {self.lengths[video]} frames at the start and has {len(frames)} now"
                )
            frames = resize_frames(keep_channels(frames, self.channels), resolution, self.resize)
            frames = np.ascontiguousarray(frames)
            self._cache.put(key, frames)
        return frames

    def describe(self) -> str:
        """See :meth:`VideoDataset.describe`."""
        return "\n".join([f"frame strips in {self.root}", super().describe(), *self.notices])


class StripCache:
    """Decoded strips, those not used for longest dropped first; a copy in another process starts empty.

    Args:
        max_bytes: bytes of pixels kept; a strip that is larger alone is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._strips: OrderedDict[tuple[int, int], Frames] = OrderedDict()

    def get(self, key: tuple[int, int]) -> Frames | None:
        """The strip, now the most recently used, or None."""
        if key not in self._strips:
            return None
        self._strips.move_to_end(key)
        return self._strips[key]

    def put(self, key: tuple[int, int], frames: Frames) -> None:
        """Keep a strip that is not kept yet."""
        if frames.nbytes > self.max_bytes:
            return
        self._strips[key] = frames
        self.num_bytes += frames.nbytes
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._strips.popitem(last=False)[1].nbytes

    def __len__(self) -> int:
        return len(self._strips)

    def __getstate__(self) -> dict[str, Any]:
        return {"max_bytes": self.max_bytes, "num_bytes": 0, "_strips": OrderedDict()}


def _files(number: int) -> str:
    return f"{number} file" + ("s" if number > 1 else "")


def _videos(number: int) -> str:
    return f"{number} video" + ("s" if number > 1 else "")


def _names(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
