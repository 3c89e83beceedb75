"""Stored frames, uint8 ``(T, H, W, C)``, to clips, float ``(C, T, H, W)`` in [-1, 1]."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vidgen.seeding import derive_seed

Frames = NDArray[np.uint8]
ResizeRule = Literal["crop", "stretch"]


def keep_channels(frames: Frames, channels: int) -> Frames:
    """Keep the first ``channels`` channels (which drops alpha); grey frames are repeated to fill them.

    Args:
        frames: ``(T, H, W, C)`` with C = 1 (grey), 2 (grey, alpha), 3 or 4 (colour, alpha).
        channels: 1 or 3.
    """
    if frames.shape[-1] < 3:
        return frames[..., :1].repeat(channels, axis=-1)
    return frames[..., :channels]


def resize_frames(frames: Frames, resolution: int, rule: ResizeRule = "crop") -> Frames:
    """Bring frames to a square, bilinear with antialiasing (the filter grows with the scale, as in PIL).

    Args:
        frames: ``(T, H, W, C)``.
        resolution: height and width of the result, pixels.
        rule: ``crop`` scales the shorter side to ``resolution`` and cuts out the centre; ``stretch`` scales both sides.

    Returns:
        ``(T, resolution, resolution, C)``; the same array where nothing is to be done.
    """
    height, width = frames.shape[1:3]
    if rule == "stretch":
        size = (resolution, resolution)
    elif width <= height:
        size = (resolution, resolution * height // width)
    else:
        size = (resolution * width // height, resolution)
    if size != (width, height):
        frames = np.stack([_resize(frame, size) for frame in frames])
    left, top = round((size[0] - resolution) / 2), round((size[1] - resolution) / 2)
    return frames[:, top : top + resolution, left : left + resolution]


def _resize(frame: Frames, size: tuple[int, int]) -> Frames:
    if frame.shape[-1] == 3:
        return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))
    channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(frame, -1, 0)]
    return np.stack([np.asarray(channel.resize(size, Image.Resampling.BILINEAR)) for channel in channels], axis=-1)


def to_clip(frames: Frames) -> Tensor:
    """uint8 ``(T, H, W, C)`` to float32 ``(C, T, H, W)``: 0 becomes -1 and 255 becomes 1."""
    clip = torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)))
    return from_levels(clip.float())


def from_levels(levels: Tensor) -> Tensor:
    """Map stored levels, floats 0 to 255, to [-1, 1] in place."""
    return levels.div_(255).sub_(0.5).div_(0.5)


def flips(seed: int | None) -> bool:
    """Whether a request with this seed is mirrored, where its data set flips at all: half of the seeds are."""
    return seed is not None and derive_seed(seed, "flip") % 2 == 1
