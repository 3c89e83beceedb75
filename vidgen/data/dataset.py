"""The contract of a data set: a pure function of a clip request."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgen.data.request import ClipRequest, clip_times
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.media import to_uint8


class UnreadableVideo(UserError):
    """A video that turned out to be damaged or gone when it was read; training goes on without it.

    Args:
        path: the file.
        reason: what is wrong with it.
        passing: whether it may be gone next time though the file is the same, as an error of the disk is.
    """

    def __init__(self, path: str, reason: str, passing: bool = False) -> None:
        super().__init__(f"{path!r} cannot be read: {reason}; repair or remove it")
        self.path = path
        self.reason = reason
        self.passing = passing


class VideoDataset(ABC):
    """Videos that can be read by request.

    A subclass finds out how many frames each of its videos has, calls this constructor, and implements :meth:`read`.
    Instances are copied to worker processes: they must pickle, and what they read must not depend on earlier reads.

    Args:
        spec: what the data set holds.
        lengths: frames of each video, ``(N,)``.
        labels: class number of each video, ``(N,)``; None without labels.
        groups: what each video must not be separated from (a performer, a source film); None where every video
            stands for itself.
        stride: source frames from one clip frame to the next.
        skipped: files that were found to be unusable, and why.
        more: what else the spec's digest should tell apart.
    """

    def __init__(
        self,
        spec: DataSpec,
        lengths: Sequence[int] | np.ndarray,
        labels: Sequence[int] | np.ndarray | None = None,
        groups: Sequence[str] | None = None,
        stride: int = 1,
        skipped: Mapping[str, str] | None = None,
        more: bytes = b"",
    ) -> None:
        self.skipped = dict(skipped or {})
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.labels = None if labels is None else np.asarray(labels, dtype=np.int64)
        facts = self.lengths.tobytes() + (b"" if self.labels is None else self.labels.tobytes())
        self.spec = replace(spec, digest=hashlib.sha256(facts + more).hexdigest()[:16])
        self.groups = None if groups is None else tuple(groups)
        self.stride = stride

    def __len__(self) -> int:
        return len(self.lengths)

    @abstractmethod
    def read(self, request: ClipRequest) -> dict[str, Tensor]:
        """Read the frames of a request.

        Returns:
            ``video`` float32 (C, T, H, W) in [-1, 1] and whatever :meth:`describe_clip` adds.

        Raises:
            UnreadableVideo: the video cannot be read.
        """

    def read_levels(self, request: ClipRequest) -> dict[str, Tensor]:
        """What :meth:`read` returns, but pixels may still be uint8 levels; the loader turns those of a batch to floats.

        Raises:
            UnreadableVideo: the video cannot be read.
        """
        return self.read(request)

    def pack(self, video: int, times: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Frames of a video as a pack stores them.

        Returns:
            Name -> ``(T, H, W, C)``: uint8 levels (``video`` and whatever is read as floats in [-1, 1]) or int32
            numbers (ids).

        Raises:
            UnreadableVideo: the video cannot be read.
        """
        clip = self.read(ClipRequest(video, tuple(times), self.spec.resolution))["video"]
        return {"video": to_uint8(clip).permute(1, 2, 3, 0).numpy()}

    def clip_times(self, video: int, draw: int) -> tuple[int, ...]:
        """Source frames of a training clip of a video; ``draw`` is a random number from 0 that picks its start."""
        return clip_times(int(self.lengths[video]), self.spec.num_frames, self.stride, draw)

    def describe_clip(self, request: ClipRequest) -> dict[str, Tensor]:
        """What a sample says beside its video.

        Returns:
            ``times`` float32 (T,) in source frames, ``length`` int64 () of the source, and where there are labels
            ``label`` int64 ().
        """
        sample = {
            "times": torch.tensor(request.times, dtype=torch.float32),
            "length": torch.tensor(int(self.lengths[request.video])),
        }
        if self.labels is not None:
            sample["label"] = torch.tensor(int(self.labels[request.video]))
        return sample

    def describe(self) -> str:
        """Counts, lengths and classes in a few lines of text."""
        lengths = self.lengths
        span = f"{lengths.min()}" if lengths.min() == lengths.max() else f"{lengths.min()} to {lengths.max()}"
        lines = [f"{len(self)} videos of {span} frames ({lengths.sum()} in all)"]
        spec = self.spec
        lines.append(self.describe_clips())
        if self.labels is not None:
            counts = np.bincount(self.labels, minlength=len(spec.class_names))
            shown = [f"{name} ({count})" for name, count in zip(spec.class_names, counts, strict=True)]
            more = [f"and {len(shown) - 12} more"] if len(shown) > 12 else []
            lines.append(f"{len(shown)} classes: {', '.join(shown[:12] + more)}")
        if spec.attribute_names:
            lines.append(f"attributes: {', '.join(spec.attribute_names)}")
        return "\n".join(lines)

    def describe_clips(self) -> str:
        """What a clip is, in a line of text."""
        spec = self.spec
        pixels = f"{spec.channels} x {spec.num_frames} x {spec.resolution} x {spec.width or spec.resolution}"
        return f"clips of {pixels} (channels, frames, height, width), stride {self.stride}"


def check_clip_settings(resolution: int, num_frames: int, stride: int) -> None:
    """Refuse clip settings that no data set can serve.

    Raises:
        UserError: one of them is below 1.
    """
    for name, value in (("resolution", resolution), ("num_frames", num_frames), ("stride", stride)):
        if value < 1:
            raise UserError(f"data.{name} is {value}; it must be at least 1")
