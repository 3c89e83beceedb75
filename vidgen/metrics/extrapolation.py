"""Fréchet distance at infinitely many samples, from how it falls with their number."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vidgen.metrics.frechet import Moments, frechet_from_moments, moments_of

LEAST = 512
"""Below this number of samples the distance is not yet linear in 1/N."""


class Extrapolation(NamedTuple):
    """A line through distances over 1/N.

    Args:
        value: its value at 1/N = 0. May be slightly below 0 for equal sets.
        slope: of the line; the bias of the distance at N samples is ``slope / N``.
        residual: root mean square of what the line leaves over.
        sizes: numbers of samples that were measured.
        distances: at these sizes.
    """

    value: float
    slope: float
    residual: float
    sizes: list[int]
    distances: list[float]


def frechet_at_infinity(
    real: Moments, fake: Tensor, sizes: int = 15, least: int = LEAST, seed: int = 0, ddof: int = 1
) -> Extrapolation:
    """FVD∞ and its kin (Chong and Forsyth 2020, section 4): the bias of the generated sample's size is taken away.

    Distances from random subsets of the fakes, drawn without replacement, to all of the real ones are fitted by a
    line over 1/N. The bias that the number of real samples gives remains.

    Args:
        real: moments of the real features.
        fake: ``(N, D)``.
        sizes: how many subsets; evenly spaced up to N, from N / 10 where that lies in ``least`` .. 5000.
        least: smallest size of a subset.
        seed: of the draws.
        ddof: what is taken off the counts in the covariances' denominators.

    Raises:
        ValueError: fewer than ``2 * least`` fakes, over which a line has no length, fewer than two sizes, or as
            :func:`frechet_from_moments`.
    """
    if len(fake) < 2 * least:
        raise ValueError(f"the distance at infinity needs at least {2 * least} generated samples, got {len(fake)}")
    if sizes < 2:
        raise ValueError(f"sizes: is {sizes}, but a line takes at least 2")
    counts = np.linspace(max(least, min(len(fake) // 10, 5000)), len(fake), sizes).round().astype(int).tolist()
    draws = torch.Generator().manual_seed(seed)
    distances = []
    for count in counts:
        rows = torch.randperm(len(fake), generator=draws)[:count].to(fake.device)
        distances.append(float(frechet_from_moments(real, moments_of(fake[rows]), ddof)))
    slope, value, residual = _line(1 / np.array(counts), np.array(distances))
    return Extrapolation(value, slope, residual, counts, distances)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope, value at 0 and root mean square residual of the least-squares line."""
    slope, value = np.polyfit(x, y, 1)
    return float(slope), float(value), float(np.sqrt(np.mean((y - value - slope * x) ** 2)))
