"""Stored frames, uint8 ``(T, H, W, C)``, to clips, float ``(C, T, H, W)`` in [-1, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vidgen.seeding import derive_seed

Frames = NDArray[np.uint8]
ResizeRule = Literal["crop", "crop_up", "crop_first", "stretch"]
Interpolation = Literal["bilinear", "bicubic", "lanczos", "box", "nearest", "plain_bilinear"]


def keep_channels(frames: Frames, channels: int) -> Frames:
    """Keep the first ``channels`` channels (which drops alpha); grey frames are repeated to fill them.

    Args:
        frames: ``(..., C)`` with C = 1 (grey), 2 (grey, alpha), 3 or 4 (colour, alpha).
        channels: 1 or 3.
    """
    if frames.shape[-1] < 3:
        return frames[..., :1].repeat(channels, axis=-1)
    return frames[..., :channels]


def resize_frames(
    frames: NDArray[Any],
    resolution: int,
    rule: ResizeRule = "crop",
    *,
    width: int | None = None,
    pixel_aspect: Fraction = Fraction(1),
    interpolation: Interpolation = "bilinear",
) -> NDArray[Any]:
    """Bring frames to a size, with antialiasing (the filter grows with the scale, as in PIL).

    Args:
        frames: ``(T, H, W, C)``, uint8, or int32 for ``nearest``.
        resolution: height of the result, and its width where that is not given, pixels.
        rule: ``crop`` scales the frame until it just covers the result and cuts out the centre; ``crop_up`` does the
            same, but rounds the longer side up and the place of the cut down, as VideoGPT's and TATS' loaders do;
            ``crop_first`` cuts the centre out of the stored frame and then scales it; ``stretch`` scales both sides,
            each by its own factor.
        width: width of the result, pixels.
        pixel_aspect: width of a stored pixel divided by its height.
        interpolation: filter; ``plain_bilinear`` is bilinear without antialiasing, see :func:`plain_bilinear`.

    Returns:
        ``(T, resolution, width, C)``; the same array where nothing is to be done.
    """
    width = width or resolution
    if rule == "crop_first":
        frames = _centre(frames, width, resolution, pixel_aspect)
    size = scaled_size(frames.shape[2], frames.shape[1], width, resolution, rule, pixel_aspect)
    if size != (frames.shape[2], frames.shape[1]):
        if interpolation == "plain_bilinear":
            frames = plain_bilinear(frames, size).round().astype(frames.dtype)
        else:
            resample = Image.Resampling[interpolation.upper()]
            frames = np.stack([_resize(frame, size, resample) for frame in frames])
    if rule == "crop_up":
        left, top = (size[0] - width) // 2, (size[1] - resolution) // 2
    else:
        left, top = round((size[0] - width) / 2), round((size[1] - resolution) / 2)
    return frames[:, top : top + resolution, left : left + width]


def scaled_size(
    width: int, height: int, to_width: int, to_height: int, rule: ResizeRule, pixel_aspect: Fraction
) -> tuple[int, int]:
    """Width and height to which a frame is scaled before its centre is cut out."""
    if rule in ("stretch", "crop_first"):
        return to_width, to_height
    shown = width * pixel_aspect
    upright = shown * to_height <= height * to_width
    if rule == "crop_up":  # in floats, as it is done there: a rounding error can add a row or column, which is cut off
        scale = float(to_width / shown) if upright else to_height / height
        return (to_width, math.ceil(height * scale)) if upright else (math.ceil(float(shown) * scale), to_height)
    return (to_width, int(to_width * height / shown)) if upright else (int(to_height * shown / height), to_height)


def plain_bilinear(frames: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """Bilinear interpolation without antialiasing: each pixel is made from the 2 x 2 around its centre.

    That is ``torch.nn.functional.interpolate(..., mode="bilinear", align_corners=False)``. Shrinking to less than half
    leaves pixels out.

    Args:
        frames: ``(T, H, W, C)``.
        size: width and height of the result, pixels.

    Returns:
        ``(T, height, width, C)`` of the same range, not rounded.
    """
    planes = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2), np.float32))
    scaled = F.interpolate(planes, size=(size[1], size[0]), mode="bilinear", align_corners=False)
    return scaled.permute(0, 2, 3, 1).numpy()


def _centre(frames: NDArray[Any], to_width: int, to_height: int, pixel_aspect: Fraction) -> NDArray[Any]:
    """The largest part around the centre that has the shape of the result."""
    height, width = frames.shape[1:3]
    kept_width = min(width, int(height * Fraction(to_width, to_height) / pixel_aspect))
    kept_height = min(height, int(width * pixel_aspect * Fraction(to_height, to_width)))
    left, top = (width - kept_width) // 2, (height - kept_height) // 2
    return frames[:, top : top + max(kept_height, 1), left : left + max(kept_width, 1)]


def _resize(frame: NDArray[Any], size: tuple[int, int], resample: Image.Resampling) -> NDArray[Any]:
    if frame.shape[-1] == 3 and frame.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(frame)).resize(size, resample))
    channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(frame, -1, 0)]
    return np.stack([np.asarray(channel.resize(size, resample)) for channel in channels], axis=-1)


def to_levels(frames: Frames) -> Tensor:
    """uint8 ``(T, H, W, C)`` to a uint8 copy ``(C, T, H, W)``."""
    planes = frames.transpose(3, 0, 1, 2)
    mirrored = planes.strides[-1] == -1  # torch turns bytes round faster than NumPy copies them backwards
    # Always a copy: a file that is mapped into memory is read-only.
    levels = torch.from_numpy(np.array(planes[..., ::-1] if mirrored else planes, order="C"))
    return levels.flip(-1) if mirrored else levels


def to_numbers(frames: NDArray[np.int32]) -> Tensor:
    """int32 ``(T, H, W, C)`` to int64 ``(C, T, H, W)``."""
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(3, 0, 1, 2)).astype(np.int64))


def to_clip(frames: Frames) -> Tensor:
    """uint8 ``(T, H, W, C)`` to float32 ``(C, T, H, W)``: 0 becomes -1 and 255 becomes 1."""
    return from_levels(to_levels(frames).float())


def to_clips(levels: Sequence[Tensor]) -> Tensor:
    """uint8 ``(C, T, H, W)`` each to float32 ``(B, C, T, H, W)``, every clip written to its place at once.

    Raises:
        ValueError: their shapes differ.
    """
    clips = torch.empty((len(levels), *levels[0].shape))
    for clip, level in zip(clips, levels, strict=True):
        if clip.shape != level.shape:
            raise ValueError(f"clips of shapes {tuple(clip.shape)} and {tuple(level.shape)} make no batch")
        from_levels(clip.copy_(level))
    return clips


def from_levels(levels: Tensor) -> Tensor:
    """Map stored levels, floats 0 to 255, to [-1, 1] in place."""
    return levels.div_(127.5).sub_(1)  # bit for bit (levels / 255 - 0.5) / 0.5: the factors are powers of two


def flips(seed: int | None) -> bool:
    """Whether a request with this seed is mirrored, where its data set flips at all: half of the seeds are."""
    return seed is not None and derive_seed(seed, "flip") % 2 == 1
