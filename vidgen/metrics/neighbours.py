"""Precision, recall, density and coverage: which samples lie within the neighbourhoods of the other set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 1024
"""Rows of the distance matrix that are in memory at once."""
_ROUNDING = 64 * torch.finfo(torch.float64).eps
"""Of a squared distance, as a share of the squared lengths of both vectors."""


class PrecisionRecall(NamedTuple):
    """Shares in 0 .. 1, float64 scalars.

    Args:
        precision: of the fakes that lie where real samples are.
        recall: of the real samples that lie where fakes are.
    """

    precision: Tensor
    recall: Tensor


class DensityCoverage(NamedTuple):
    """Float64 scalars.

    Args:
        density: in how many real neighbourhoods a fake lies, over k; may exceed 1.
        coverage: share of the real neighbourhoods with a fake inside, 0 .. 1.
    """

    density: Tensor
    coverage: Tensor


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, closed: bool = True) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, eqs. 1 and 2).

    A sample's ball reaches to its k-th nearest neighbour in its own set, itself not counted.

    Args:
        real: ``(N, D)``.
        fake: ``(M, D)``.
        k: which neighbour; the paper's is 3.
        closed: whether the border belongs to a ball, as in the paper; not in the code of Naeem et al. 2020.

    Raises:
        ValueError: a set has no more than k samples, features of different lengths, or NaN or infinite ones.
    """
    real, fake = _checked(real, fake, k)
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    precise, recalled = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for rows, distances, rounding in _squared_distances(fake, real):
        precise += int(_within(distances, real_radii, rounding, closed).any(1).sum())
        recalled |= _within(distances, fake_radii[rows, None], rounding, closed).any(0)
    return PrecisionRecall(_share(precise, fake), recalled.double().mean())


def density_coverage(real: Tensor, fake: Tensor, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, eqs. 4 and 6), balls without their border as in its code.

    Args:
        real: ``(N, D)``.
        fake: ``(M, D)``.
        k: which neighbour in the real set is on a ball's border; the paper's is 5.

    Raises:
        ValueError: the real set has no more than k samples, features of different lengths, or NaN or infinite ones.
    """
    real, fake = _checked(real, fake, k, sides=1)
    radii = _squared_radii(real, k)
    inside, covered = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for _, distances, rounding in _squared_distances(fake, real):
        within = _within(distances, radii, rounding, closed=False)
        inside += int(within.sum())
        covered |= within.any(0)
    return DensityCoverage(_share(inside, fake) / k, covered.double().mean())


def _checked(real: Tensor, fake: Tensor, k: int, sides: int = 2) -> tuple[Tensor, Tensor]:
    """Both in float64, about the mean of the real ones: rounding is a share of the vectors' lengths."""
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(f"features must be (N, D) and (M, D), got {tuple(real.shape)} and {tuple(fake.shape)}")
    if len(fake) == 0:
        raise ValueError("there are no fake samples")
    for name, features in (("real", real), ("fake", fake))[:sides]:
        if len(features) < 2:
            raise ValueError(f"neighbours need at least 2 {name} samples, got {len(features)}")
        if not 1 <= k < len(features):
            raise ValueError(
                f"k: is {k}, but there are {len(features)} {name} samples; choose 1 to {len(features) - 1}"
            )
    if not (torch.isfinite(real).all() and torch.isfinite(fake).all()):
        raise ValueError("features hold NaN or infinity; the network or the videos are at fault")
    centre = real.double().mean(0)
    return real.double() - centre, fake.double() - centre


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Blocks of rows of the matrix of squared distances, and how far rounding may have moved each entry."""
    lengths = y.square().sum(1)
    for start in range(0, len(x), _BLOCK):
        rows = slice(start, start + _BLOCK)
        total = x[rows].square().sum(1, keepdim=True) + lengths
        yield rows, (total - 2 * x[rows] @ y.T).clamp(min=0), total * _ROUNDING


def _squared_radii(x: Tensor, k: int) -> Tensor:
    # Every sample is its own nearest neighbour, at distance 0.
    nearest = [distances.topk(k + 1, dim=1, largest=False).values[:, k] for _, distances, _ in _squared_distances(x, x)]
    return torch.cat(nearest)


def _within(distances: Tensor, radii: Tensor, rounding: Tensor, closed: bool) -> Tensor:
    # Equal distances, such as those of copied samples, are on the border whatever rounding made of them.
    return distances <= radii + rounding if closed else distances < radii - rounding


def _share(count: int, samples: Tensor) -> Tensor:
    return torch.tensor(count / len(samples), dtype=torch.float64, device=samples.device)
