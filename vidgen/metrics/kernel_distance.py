"""Polynomial kernel distance between two sets of features: KVD on all of them, KID on subsets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_kernel

_BLOCK = 2048
"""Rows and columns of the kernel matrix that are in memory at once."""


def polynomial_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy with the kernel ``(x.y / D + 1)^3`` (Bińkowski et al. 2018, eq. 4).

    With all features of videos this is KVD (Unterthiner et al. 2018, section 3.2).

    Args:
        x: ``(N, D)``, N at least 2.
        y: ``(M, D)``, M at least 2; another number than N is fine.

    Returns:
        float64 scalar; below 0 where chance has it so, because the estimate is unbiased.

    Raises:
        ValueError: fewer than two samples, features of different lengths, or NaN or infinite ones.
    """
    x, y = _checked(x, y)
    within = sum((_kernel_sum(z, z) - _kernel_diagonal(z)) / (len(z) * (len(z) - 1)) for z in (x, y))
    return within - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def subset_mmds(x: Tensor, y: Tensor, index_x: Tensor, index_y: Tensor) -> Tensor:
    """The distance of :func:`polynomial_mmd` between subsets.

    Args:
        x: ``(N, D)``.
        y: ``(M, D)``.
        index_x: int64 ``(S, m)``, rows of ``x`` for each subset.
        index_y: int64 ``(S, n)``, rows of ``y``.

    Returns:
        float64 ``(S,)``.

    Raises:
        ValueError: as :func:`polynomial_mmd`.
    """
    return torch.stack([polynomial_mmd(x[rows], y[columns]) for rows, columns in zip(index_x, index_y, strict=True)])


def kernel_inception_distance(
    x: Tensor, y: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[Tensor, Tensor]:
    """KID: the mean of :func:`polynomial_mmd` over random subsets (Bińkowski et al. 2018, section 4).

    Args:
        x: ``(N, D)``.
        y: ``(M, D)``.
        subsets: how many pairs of subsets.
        subset_size: samples of each, drawn without replacement from all.
        seed: of the draws, which are NumPy's ``RandomState(seed).choice``, for x and for y in turn.

    Returns:
        Mean and population standard deviation over the subsets, float64 scalars.

    Raises:
        ValueError: no subsets, subsets of one sample, a set smaller than a subset, or as :func:`polynomial_mmd`.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"subsets must be at least 1 and subset_size at least 2, got {subsets} and {subset_size}")
    smaller = min(len(x), len(y))
    if subset_size > smaller:
        raise ValueError(
            f"subset_size: is {subset_size}, but the smaller set has {smaller} samples; choose at most that"
        )
    draws = np.random.RandomState(seed)
    index_x, index_y = torch.empty(2, subsets, subset_size, dtype=torch.int64)
    for subset in range(subsets):
        index_x[subset] = torch.from_numpy(draws.choice(len(x), subset_size, replace=False))
        index_y[subset] = torch.from_numpy(draws.choice(len(y), subset_size, replace=False))
    distances = subset_mmds(x, y, index_x.to(x.device), index_y.to(y.device))
    return distances.mean(), distances.std(correction=0)


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise ValueError(f"features must be (N, D) and (M, D), got {tuple(x.shape)} and {tuple(y.shape)}")
    if min(len(x), len(y)) < 2:
        raise ValueError(f"an unbiased kernel distance needs at least 2 samples of each set, got {len(x)} and {len(y)}")
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise ValueError("features hold NaN or infinity; the network or the videos are at fault")
    return x.double(), y.double()


def _kernel_sum(x: Tensor, y: Tensor) -> Tensor:
    parts = [poly_kernel(rows, columns).sum() for rows in x.split(_BLOCK) for columns in y.split(_BLOCK)]
    return torch.stack(parts).sum()


def _kernel_diagonal(x: Tensor) -> Tensor:
    return ((x.square().sum(1) / x.shape[1] + 1) ** 3).sum()
