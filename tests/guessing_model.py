"""Tiny models that continue given videos: what tests of contexts, groups and comparisons make videos with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.models.base import Batch, VideoModel
from vidgen.registry import MODELS
from vidgen.seeding import derive_seed


@MODELS.register("guess")
class Guess(VideoModel):
    """Repeats the last given frame with noise, after the given ones.

    Args:
        n_past: frames that it is given.
        num_frames: frames of a video.
        channels: colour channels.
        noise: how much there is of it; without, the model has one answer.
        group: videos made together; the mean of their last given frames is added where there are several.
        optional: whether frames are given only where ``observed`` says so; else the video is noise on grey.
    """

    def __init__(
        self,
        n_past: int = 2,
        num_frames: int = 6,
        channels: int = 3,
        noise: float = 0.3,
        group: int = 1,
        optional: bool = False,
    ) -> None:
        super().__init__()
        self.n_past, self.num_frames, self.channels = n_past, num_frames, channels
        self.noise_level, self.group, self.optional = noise, group, optional
        self.shift = nn.Parameter(torch.zeros(()))
        self.calls: list[tuple[int, int, int]] = []
        self.given: list[Tensor] = []

    @property
    def task(self) -> str:
        """See the class."""
        return "prediction"

    @property
    def sample_keys(self) -> tuple[str, ...]:
        """Videos."""
        return () if self.optional else ("video",)

    @property
    def context_frames(self) -> int:
        """What ``n_past`` says."""
        return 0 if self.optional else self.n_past

    def keys_for(self, keywords: Mapping[str, Any]) -> tuple[str, ...]:
        """Videos, if any frame is observed."""
        return ("video",) if keywords.get("observed") else self.sample_keys

    def context_frames_for(self, keywords: Mapping[str, Any]) -> int:
        """As many as observed."""
        return keywords.get("observed") or self.context_frames

    @property
    def sampling_group(self) -> int:
        """What ``group`` says."""
        return self.group

    def sampling_group_for(self, keywords: Mapping[str, Any]) -> int:
        """1 for videos apart."""
        return 1 if keywords.get("apart") else self.group

    @property
    def stochastic(self) -> bool:
        """Whether there is noise."""
        return self.noise_level > 0

    def sample(
        self,
        num_videos: int,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch: Batch | None = None,
        observed: int | None = None,
        apart: bool = False,
    ) -> Tensor:
        """Guess.

        Args:
            num_videos: how many.
            num_frames: length in frames; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            batch: the videos.
            observed: given frames.
            apart: make each video by itself.
        """
        self.calls.append((first, num_videos, seed))
        length = num_frames or self.num_frames
        given = torch.zeros(num_videos, self.channels, 1, 16, 16)
        past = observed or self.context_frames
        if batch is not None:
            assert len(batch["video"]) == num_videos and batch["video"].shape[2] >= past
            given = batch["video"][:, :, :past]
        self.given.append(given)
        last = given[:, :, -1:] + self.shift
        if self.group > 1 and not apart:
            last = (last + last.mean(0, keepdim=True)) / 2
        predicted = [
            last[row] + self.noise_level * _noise(seed, first + row, (length, *last.shape[1:2], *last.shape[3:]))
            for row in range(num_videos)
        ]
        return torch.cat([given[:, :, :past], torch.stack(predicted)], 2)[:, :, :length].clamp(-1, 1)


def _noise(seed: int, number: int, shape: tuple[int, ...]) -> Tensor:
    """``(C, T, H, W)``, a function of seed and number."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "sample", number))
    return torch.randn(shape, generator=generator).transpose(0, 1)
