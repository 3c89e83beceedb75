"""Versions of clips whose motion is destroyed; a judge of motion must refuse them."""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.seeding import NoiseStream


def controls(videos: Tensor, seed: int = 0) -> dict[str, Tensor]:
    """Frozen, flickering and time-shuffled versions of videos ``(N, C, T, H, W)`` in [-1, 1]."""
    noise = NoiseStream(seed)
    number, _, frames = videos.shape[:3]
    middle = videos[:, :, frames // 2 : frames // 2 + 1].expand_as(videos)
    order = noise.uniform(number, frames).argsort(1)
    return {
        "frozen": middle.clone(),
        "flickering": (middle + 0.2 * noise.normal(*videos.shape)).clamp(-1, 1),
        "flickering brightness": (middle + 0.2 * noise.normal(number, 1, frames, 1, 1)).clamp(-1, 1),
        "shuffled": torch.stack([video[:, times] for video, times in zip(videos, order, strict=True)]),
    }
