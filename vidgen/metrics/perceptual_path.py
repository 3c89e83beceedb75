"""Perceptual path length: how much an image changes along a short step between two latents."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


class FilteredMean(NamedTuple):
    """Mean of what lies between two percentiles, and these; floats.

    Args:
        mean: of the distances kept.
        low: smallest one kept.
        high: largest one kept.
    """

    mean: float
    low: float
    high: float


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Spherical interpolation between directions (Karras et al. 2019, section 4.1; Shoemake 1985).

    Args:
        a: ``(..., D)``, of any length above 0.
        b: ``(..., D)``.
        t: share of the way from a to b, broadcast against ``(..., 1)``.

    Returns:
        Unit vectors ``(..., D)``; that of ``a`` where both are the same direction.
    """
    a, b = functional.normalize(a, dim=-1), functional.normalize(b, dim=-1)
    cosine = (a * b).sum(-1, keepdim=True)
    angle = t * cosine.clamp(-1, 1).acos()
    across = functional.normalize(b - cosine * a, dim=-1)
    return functional.normalize(a * angle.cos() + across * angle.sin(), dim=-1)


def slerp_with_length(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """:func:`slerp`, with the lengths of the ends interpolated linearly.

    A network that normalises its latent, as StyleGAN's do, sees no difference; others would be given vectors far from
    those that they were trained with.
    """
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    return slerp(a, b, t) * (length_a + t * (length_b - length_a))


def crop_face(images: Tensor) -> Tensor:
    """The part of an aligned face that StyleGAN's path lengths of faces look at: rows 3/8 to 7/8, columns 2/8 to 6/8.

    Args:
        images: ``(..., H, W)``.

    Raises:
        ValueError: no squares, or a side that eight does not divide.
    """
    height, width = images.shape[-2:]
    if height != width or height % 8:
        raise ValueError(f"faces must be squares with sides that 8 divides, got {height}x{width}")
    eighth = height // 8
    return images[..., 3 * eighth : 7 * eighth, 2 * eighth : 6 * eighth]


def shrink(images: Tensor, resolution: int = 256) -> Tensor:
    """Average boxes of pixels where images are larger than a multiple of the resolution; the networks know no others.

    Args:
        images: ``(N, C, H, W)``.
        resolution: shorter side from which nothing is averaged any more, pixels.
    """
    factor = min(images.shape[-2:]) // resolution
    return functional.avg_pool2d(images, factor) if factor > 1 else images


def filtered_mean(distances: Tensor, lower: float = 1, upper: float = 99) -> FilteredMean:
    """Mean without the smallest and largest distances, both bounds kept (Karras et al. 2019, official code).

    Args:
        distances: ``(N,)``, N at least 1.
        lower: percentile of the lower bound, the next smaller distance where it falls between two.
        upper: percentile of the upper bound, the next larger distance.

    Raises:
        ValueError: no distances, or NaN or infinite ones.
    """
    if distances.ndim != 1 or len(distances) == 0:
        raise ValueError(f"distances must be (N,) with N at least 1, got {tuple(distances.shape)}")
    if not torch.isfinite(distances).all():
        raise ValueError("distances hold NaN or infinity")
    values = distances.detach().cpu().double().numpy()
    low = np.percentile(values, lower, method="lower")
    high = np.percentile(values, upper, method="higher")
    kept = values[(low <= values) & (values <= high)]
    return FilteredMean(float(kept.mean()), float(low), float(high))
