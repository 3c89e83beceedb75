"""One image per video, its frames side by side: the layout of MoCoGAN's data sets."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.data.dataset import UnreadableVideo
from vidgen.data.decoding import Unreadable
from vidgen.data.images import decode_image, image_size
from vidgen.data.stored import Measured, StoredVideos
from vidgen.data.tables import BESIDE, Files, FolderFiles, open_files
from vidgen.data.transforms import Frames
from vidgen.errors import UserError
from vidgen.registry import DATASETS


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


@DATASETS.register("frame_strips")
class FrameStrips(StoredVideos):
    """Videos as image strips, ``root/<class>/<file>`` or without classes ``root/<file>``.

    Files are opened by content, not by extension. At the start only their headers are read; a worker decodes a strip
    when it first needs it and keeps the decoded and resized strips that fit into its cache.

    Args:
        root: folder, or zip, of the strips; its subfolders are the classes, numbered in sorted order.
        frame_step: pixels from one frame to the next along the strip; None for square frames.
        cache_mb: megabytes of decoded strips that each worker process keeps.
    """

    WHAT = "frame strips (one image per video)"

    def __init__(
        self,
        root: str,
        resolution: int,
        num_frames: int,
        *,
        frame_step: int | None = None,
        cache_mb: int = 256,
        **stored: Any,
    ) -> None:
        if frame_step is not None and frame_step < 1:
            raise UserError(f"data.frame_step is {frame_step}; it must be at least 1")
        self.frame_step = frame_step
        self._files: Files
        self._cache = StripCache(cache_mb * 2**20)
        super().__init__(root, resolution, num_frames, **stored)

    def find(self) -> Sequence[str]:
        """See :meth:`StoredVideos.find`."""
        self._files = open_files(self.root, self.WHAT)
        return [name for name in self._files.names if PurePosixPath(name).suffix.lower() not in BESIDE]

    def measure(self, names: Sequence[str]) -> Measured:
        """See :meth:`StoredVideos.measure`; headers are read."""
        self._files = self._files.take(names)
        lengths, reasons = np.zeros(len(names), np.int64), []
        for number in range(len(names)):
            try:
                lengths[number] = strip_length(*self._size(number), self.frame_step)
                reasons.append("")
            except Unreadable as error:
                reasons.append(str(error))
        return Measured(lengths, reasons)

    def keep(self, kept: NDArray[np.int64]) -> None:
        """See :meth:`StoredVideos.keep`."""
        self._files = self._files.take(kept)

    def signature(self) -> bytes:
        """See :meth:`StoredVideos.signature`."""
        return self._files.signature()

    def _size(self, number: int) -> tuple[int, int]:
        in_folder = isinstance(self._files, FolderFiles)
        return image_size(self._files.path(number) if in_folder else self._files.read(number))

    def fitted(self, video: int, times: Sequence[int], resolution: int) -> Frames:
        """See :meth:`StoredVideos.fitted`; whole strips are kept in the cache."""
        key = (video, resolution)
        strip = self._cache.get(key)
        if strip is None:
            strip = super().fitted(video, range(int(self.lengths[video])), resolution)
            self._cache.put(key, strip)
        return strip[list(times)]

    def frames(self, video: int, times: Sequence[int]) -> Sequence[Frames]:
        """See :meth:`StoredVideos.frames`."""
        strip = split_strip(decode_image(self._files.read(video)), self.frame_step)
        if len(strip) != self.lengths[video]:
            raise Unreadable(f"it had {self.lengths[video]} frames at the start and has {len(strip)} now")
        return list(strip[list(times)])

    def video_size(self, video: int) -> tuple[int, int] | None:
        """See :meth:`StoredVideos.video_size`."""
        try:
            width, height = self._size(video)
        except Unreadable as error:
            raise UnreadableVideo(self.path(video), str(error), error.passing) from error
        step = self.frame_step or min(width, height)
        return (step, height) if width > height else (width, step)


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
