"""Scores of stochastic prediction, of which several samples are drawn for each sequence.

What is published since SVG (Denton and Fergus 2018, section 4) is the curve of the best of N samples. It answers
whether the truth is among what a model can imagine. It is biased upwards in three ways, which
:func:`best_of_own_choice` keeps for the sake of comparison: it grows with N, so that only equal N may be compared; it
rewards variety at the cost of likelihood; and every metric chooses its own best sample, so that PSNR and SSIM of one
table are of different videos. :func:`best_of_one_choice` takes the last away: one criterion chooses, and all metrics
look at the sample chosen. :func:`mean_of_samples` takes all away: it is the score to expect of a sample, for any N.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor


class Interval(NamedTuple):
    """Mean over sequences with its 95% confidence interval.

    Args:
        mean: float64 ``(T,)``.
        half_width: float64 ``(T,)``, by Student's t distribution.
    """

    mean: Tensor
    half_width: Tensor


def best_sample(scores: Tensor, higher_is_better: bool = True) -> Tensor:
    """Number of the sample of each sequence that is best on the average over time, the first of equals.

    Args:
        scores: ``(B, N, T)``, of N samples of each sequence; frames that were given to the model left out.
        higher_is_better: False for distances such as LPIPS.

    Returns:
        int64 ``(B,)``.

    Raises:
        ValueError: not three axes, no samples or frames, or NaN.
    """
    if scores.ndim != 3 or 0 in scores.shape[1:]:
        raise ValueError(f"scores must be (B, N, T) with N and T at least 1, got {tuple(scores.shape)}")
    if scores.isnan().any():
        raise ValueError("scores hold NaN")
    means = scores.double().mean(2)
    return means.argmax(1) if higher_is_better else means.argmin(1)


def best_of_own_choice(scores: Tensor, higher_is_better: bool = True) -> Tensor:
    """SVG's protocol: the curve of the sample that this very score calls the best. Biased, see the module.

    Args:
        scores: ``(B, N, T)``.
        higher_is_better: False for distances.

    Returns:
        ``(B, T)``.

    Raises:
        ValueError: as :func:`best_sample`.
    """
    return best_of_one_choice(scores, best_sample(scores, higher_is_better))


def best_of_one_choice(scores: Tensor, chosen: Tensor) -> Tensor:
    """The curve of a sample that has been chosen for all metrics alike.

    Args:
        scores: ``(B, N, T)``.
        chosen: int64 ``(B,)``, by :func:`best_sample` of the criterion.

    Returns:
        ``(B, T)``.
    """
    return scores[torch.arange(len(scores), device=scores.device), chosen]


def mean_of_samples(scores: Tensor) -> Tensor:
    """The mean curve of all samples: unbiased for any N.

    Args:
        scores: ``(B, N, T)``.

    Returns:
        ``(B, T)``.
    """
    return scores.mean(1)


def confidence_interval(curves: Tensor) -> Interval:
    """Mean and 95% confidence interval over sequences, which are independent; samples of one sequence are not.

    Args:
        curves: ``(B, T)``, one of each sequence.

    Raises:
        ValueError: fewer than two sequences.
    """
    rows = curves.double()
    return interval_from_sums(len(rows), rows.sum(0), rows.square().sum(0))


def interval_from_sums(count: int, total: Tensor, squares: Tensor) -> Interval:
    """As :func:`confidence_interval`, from sums over sequences.

    Args:
        count: sequences.
        total: float64 ``(T,)``, sum of their curves.
        squares: float64 ``(T,)``, sum of the squares.

    Raises:
        ValueError: fewer than two sequences.
    """
    if count < 2:
        raise ValueError(f"a confidence interval needs at least 2 sequences, got {count}")
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0) * count / (count - 1)
    return Interval(mean, stats.t.ppf(0.975, count - 1) * (variance / count).sqrt())
