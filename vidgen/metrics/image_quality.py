"""How near the frames of a prediction are to the true ones: PSNR and SSIM, as published and as they should be.

Three protocols give three numbers for the same frame:

- ``standard``: that of Finn et al. 2016 and most of video prediction. SSIM with a Gaussian window of 11 x 11 (sigma
  1.5) on the frame's interior and a data range of 1, as in Wang et al. 2004; per channel, then the mean.
- ``svg``: that of SVG's curves (Denton and Fergus 2018). SSIM with a uniform window of 7 x 7, sample covariances and a
  data range of 2, although pixels span 1: the values are higher.
- ``common``: that of the widely copied "common metrics on video quality". SSIM as ``standard``; PSNR of the error over
  all channels at once, and 100 where that is below 1e-10.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.image import structural_similarity_index_measure

Protocol = Literal["standard", "svg", "common"]

_GAUSSIAN_WINDOW = 11
_UNIFORM_WINDOW = 7
_SVG_DATA_RANGE = 2.0
"""Of floats in skimage before 0.16, which took them to span -1 .. 1."""


def mean_squared_error(fake: Tensor, target: Tensor) -> Tensor:
    """Mean of the squared differences over channels and pixels.

    Args:
        fake: ``(B, C, T, H, W)``, uint8, or floating in [0, 1].
        target: of the same shape.

    Returns:
        float64 ``(B, T)``, of pixels in [0, 1].

    Raises:
        TypeError: neither uint8 nor floating.
        ValueError: shapes that differ, not five axes, or pixels out of range.
    """
    fake, target = _unit_range(fake, "fake"), _unit_range(target, "target")
    _check_equal_shapes(fake, target)
    return _error_of_channels(fake, target).mean(1)


def psnr(fake: Tensor, target: Tensor, protocol: Protocol = "standard") -> Tensor:
    """Peak signal-to-noise ratio of each frame.

    Args:
        fake: ``(B, C, T, H, W)``, uint8, or floating in [0, 1].
        target: of the same shape.
        protocol: see the module; ``standard`` and ``svg`` agree.

    Returns:
        float64 ``(B, T)`` in dB; infinite for equal frames, where ``common`` says 100.

    Raises:
        TypeError: neither uint8 nor floating.
        ValueError: shapes that differ, not five axes, pixels out of range, or an unknown protocol.
    """
    check_protocol(protocol)
    fake, target = _unit_range(fake, "fake"), _unit_range(target, "target")
    _check_equal_shapes(fake, target)
    errors = _error_of_channels(fake, target)
    if protocol == "common":
        error = errors.mean(1)
        return torch.where(error < 1e-10, 100.0, -10 * error.log10())
    return (-10 * errors.log10()).mean(1)


def ssim(fake: Tensor, target: Tensor, protocol: Protocol = "standard") -> Tensor:
    """Structural similarity of each frame.

    Args:
        fake: ``(B, C, T, H, W)``, uint8, or floating in [0, 1].
        target: of the same shape.
        protocol: see the module; ``standard`` and ``common`` agree.

    Returns:
        float64 ``(B, T)``, at most 1, which only equal frames have.

    Raises:
        TypeError: neither uint8 nor floating.
        ValueError: shapes that differ, not five axes, pixels out of range, frames smaller than the window, or an
            unknown protocol.
    """
    check_protocol(protocol)
    window = _UNIFORM_WINDOW if protocol == "svg" else _GAUSSIAN_WINDOW
    if min(fake.shape[-2:]) < window:
        height, width = fake.shape[-2:]
        raise ValueError(f"ssim ({protocol}): needs frames of {window}x{window} pixels at least, got {height}x{width}")
    fake, target = _unit_range(fake, "fake"), _unit_range(target, "target")
    _check_equal_shapes(fake, target)
    of_frames = _uniform_ssim if protocol == "svg" else _gaussian_ssim
    # Frame by frame: the maps of a whole video would take ten times its memory.
    return torch.stack([of_frames(fake[:, :, t], target[:, :, t]) for t in range(fake.shape[2])], dim=1)


def check_protocol(protocol: str) -> None:
    """Check the name of a protocol.

    Raises:
        ValueError: there is no such protocol.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}, not {protocol!r}")


def _unit_range(videos: Tensor, name: str) -> Tensor:
    """float64 in [0, 1]."""
    if videos.dtype == torch.uint8:
        return videos.double() / 255
    if not videos.is_floating_point():
        raise TypeError(f"{name}: takes uint8 videos, or floating ones in [0, 1], not {videos.dtype}")
    if not ((videos >= 0) & (videos <= 1)).all():
        raise ValueError(f"{name}: floating pixels must be in [0, 1]")
    return videos.double()


def _check_equal_shapes(fake: Tensor, target: Tensor) -> None:
    if fake.ndim != 5 or fake.shape != target.shape:
        shapes = f"{tuple(fake.shape)} and {tuple(target.shape)}"
        raise ValueError(f"videos to compare must both be (B, C, T, H, W) of one shape, got {shapes}")


def _error_of_channels(fake: Tensor, target: Tensor) -> Tensor:
    return (fake - target).square().mean((3, 4))  # (B, C, T)


def _gaussian_ssim(fake: Tensor, target: Tensor) -> Tensor:
    """``(B,)`` from ``(B, C, H, W)``."""
    _, similarity = structural_similarity_index_measure(
        fake, target, sigma=1.5, kernel_size=_GAUSSIAN_WINDOW, data_range=1.0, reduction="none", return_full_image=True
    )
    border = _GAUSSIAN_WINDOW // 2  # the map there is that of reflected pixels
    return similarity[..., border:-border, border:-border].mean((1, 2, 3))


def _uniform_ssim(fake: Tensor, target: Tensor) -> Tensor:
    """``(B,)`` from ``(B, C, H, W)``."""

    def mean(maps: Tensor) -> Tensor:
        return functional.avg_pool2d(maps, _UNIFORM_WINDOW, stride=1)

    mean_fake, mean_target = mean(fake), mean(target)
    unbiased = _UNIFORM_WINDOW**2 / (_UNIFORM_WINDOW**2 - 1)
    variance_fake = unbiased * (mean(fake * fake) - mean_fake**2)
    variance_target = unbiased * (mean(target * target) - mean_target**2)
    covariance = unbiased * (mean(fake * target) - mean_fake * mean_target)
    c1, c2 = (0.01 * _SVG_DATA_RANGE) ** 2, (0.03 * _SVG_DATA_RANGE) ** 2
    luminance = (2 * mean_fake * mean_target + c1) / (mean_fake**2 + mean_target**2 + c1)
    structure = (2 * covariance + c2) / (variance_fake + variance_target + c2)
    return (luminance * structure).mean((1, 2, 3))
