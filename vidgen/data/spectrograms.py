"""Spectrograms as videos of one channel, to train a model of sound on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgen.data.annotations import Attributes, Labels
from vidgen.data.audio import fit_spectrogram, read_spectrogram, spectrogram_shape
from vidgen.data.clips import Clips
from vidgen.data.dataset import UnreadableVideo
from vidgen.data.decoding import Unreadable
from vidgen.data.request import ClipRequest
from vidgen.data.splits import Split
from vidgen.data.stored import Measured, StoredVideos
from vidgen.data.tables import FolderFiles, open_files
from vidgen.data.transforms import Frames
from vidgen.errors import UserError
from vidgen.registry import DATASETS


@DATASETS.register("spectrograms")
class Spectrograms(StoredVideos):
    """``.npy`` files of floats in [0, 1], each the sound of a video: ``(T, F, W)``, one slice for each frame.

    They are those that ``data.audio`` of the other data sets reads, here as ``video`` float32 (B, 1, T, H, W) in
    [-1, 1], and not rounded to bytes as pictures are.

    Args:
        root: folder of the arrays; its subfolders are the classes, numbered in sorted order.
        resolution: height of a slice, to which stored ones are brought by bilinear interpolation.
        num_frames: slices of a clip.
        width: width of a slice.
        fps: slices per second, which arrays do not tell; it is only passed on.
        stride: see :class:`~vidgen.data.stored.StoredVideos`.
        clips: by which rule clips are cut.
        min_length: see :class:`~vidgen.data.stored.StoredVideos`.
        split: which of the arrays are used.
        labels: where the class of an array comes from.
        attributes: where attributes of an array come from.
    """

    WHAT = "spectrograms (.npy)"

    def __init__(
        self,
        root: str,
        resolution: int = 64,
        num_frames: int = 16,
        *,
        width: int = 16,
        fps: float | None = None,
        stride: int = 1,
        clips: Clips = Clips(),  # noqa: B008 - frozen
        min_length: int | None = None,
        split: Split = Split(),  # noqa: B008 - frozen
        labels: Labels = Labels(),  # noqa: B008 - frozen
        attributes: Attributes = Attributes(),  # noqa: B008 - frozen
    ) -> None:
        if fps is not None and fps <= 0:
            raise UserError(f"data.fps is {fps:g}; it must be above 0")
        self.fps = fps
        self._files: FolderFiles
        super().__init__(
            root,
            resolution,
            num_frames,
            stride=stride,
            clips=clips,
            min_length=min_length,
            channels=1,
            width=width,
            resize="stretch",
            interpolation="plain_bilinear",
            split=split,
            labels=labels,
            attributes=attributes,
        )

    def find(self) -> Sequence[str]:
        """See :meth:`StoredVideos.find`."""
        files = open_files(self.root, self.WHAT)
        if not isinstance(files, FolderFiles):
            raise UserError(f"data.root {self.root!r} is a zip; unpack it to read the arrays in it")
        return [name for name in files.names if name.lower().endswith(".npy")]

    def measure(self, names: Sequence[str]) -> Measured:
        """See :meth:`StoredVideos.measure`; headers are read."""
        self._files = FolderFiles(Path(self.root), names)
        lengths, reasons = np.zeros(len(names), np.int64), [""] * len(names)
        for number in range(len(names)):
            try:
                lengths[number] = spectrogram_shape(Path(self._files.path(number)))[0]
            except Unreadable as error:
                reasons[number] = str(error)
        return Measured(lengths, reasons, self.fps)

    def keep(self, kept: NDArray[np.int64]) -> None:
        """See :meth:`StoredVideos.keep`."""
        self._files = self._files.take(kept)

    def signature(self) -> bytes:
        """See :meth:`StoredVideos.signature`."""
        return self._files.signature()

    def read_levels(self, request: ClipRequest) -> dict[str, Tensor]:
        """See :meth:`StoredVideos.read_levels`; the numbers as they are, not levels."""
        clip = self._fitted(request.video, request.times, request.resolution)
        return {"video": clip, **self.describe_clip(request)}

    def fitted(self, video: int, times: Sequence[int], resolution: int) -> Frames:
        """See :meth:`StoredVideos.fitted`; grey levels, for packs and pictures."""
        return _levels(self._fitted(video, times, resolution)[0])

    def frames(self, video: int, times: Sequence[int]) -> Iterable[Frames]:
        """See :meth:`StoredVideos.frames`; grey levels of the stored size."""
        slices = read_spectrogram(Path(self._files.path(video)), times)
        return list(_levels(torch.from_numpy(slices) * 2 - 1))

    def _fitted(self, video: int, times: Sequence[int], resolution: int) -> Tensor:
        try:
            slices = read_spectrogram(Path(self._files.path(video)), times)
        except Unreadable as error:
            raise UnreadableVideo(self.path(video), str(error), error.passing) from error
        return fit_spectrogram(slices, (resolution, self.width(resolution)))


def _levels(slices: Tensor) -> NDArray[Any]:
    """``(T, H, W)`` in [-1, 1] as uint8 ``(T, H, W, 1)``."""
    return ((slices + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()[..., None]
