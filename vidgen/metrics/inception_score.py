"""Inception score: how sure a classifier is of each sample, and how different its answers are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_ROW_SUM = 1e-3
"""By how much rounding in half precision may take the sum of a row of probabilities off 1."""


def inception_score(
    probabilities: Tensor, splits: int = 10, shuffle_seed: int | None = None, epsilon: float = 0.0
) -> tuple[Tensor, Tensor]:
    """``exp(mean KL(p(y|x) || p(y)))`` over parts of the samples (Salimans et al. 2016, section 4).

    The score grows with the number of samples in a part. In use are: 10 parts, shuffled with seed 2020
    (torch-fidelity, images) or 42 (StyleGAN-V, videos), no epsilon; one part and epsilon 1e-7 (TGAN, section 5.4) or
    1e-20 (TGANv2).

    Args:
        probabilities: ``(N, K)``, rows that sum to 1.
        splits: number of parts; part i has the rows from ``i * N // splits`` on.
        shuffle_seed: of NumPy's ``RandomState``, which permutes the rows first; None leaves their order.
        epsilon: added to the probabilities inside the logarithms; without it ``0 log 0`` is 0.

    Returns:
        Mean and population standard deviation over the parts, float64 scalars.

    Raises:
        ValueError: no probabilities, no samples, fewer samples than parts, or a negative epsilon.
    """
    rows = check_probabilities(probabilities)
    if len(rows) == 0:
        raise ValueError("an inception score needs at least 1 sample, got 0")
    if not epsilon >= 0:
        raise ValueError(f"epsilon: is {epsilon}; it must be at least 0")
    if not 1 <= splits <= len(rows):
        raise ValueError(f"splits: is {splits}, but there are {len(rows)} samples; choose 1 to {len(rows)}")
    if shuffle_seed is not None:
        order = np.random.RandomState(shuffle_seed).permutation(len(rows))
        rows = rows[torch.from_numpy(order).to(rows.device)]
    bounds = [part * len(rows) // splits for part in range(splits + 1)]
    scores = torch.stack([_score(rows[bounds[i] : bounds[i + 1]], epsilon) for i in range(splits)])
    return scores.mean(), scores.std(correction=0)


def probabilities_of(logits: Tensor) -> Tensor:
    """Class probabilities in float64, so that no probability of a sure classifier is rounded to 0 or 1.

    Args:
        logits: ``(N, K)``, floating.

    Raises:
        ValueError: not two axes, or NaN or infinite logits.
    """
    if logits.ndim != 2:
        raise ValueError(f"logits must be (N, K), got {tuple(logits.shape)}")
    if not torch.isfinite(logits).all():
        raise ValueError("logits hold NaN or infinity; the network or the videos are at fault")
    return logits.double().softmax(1)


def check_probabilities(probabilities: Tensor) -> Tensor:
    """The probabilities in float64.

    Args:
        probabilities: ``(N, K)``.

    Raises:
        ValueError: another number of axes, NaN, negative entries, or rows that do not sum to 1.
    """
    if probabilities.ndim != 2:
        raise ValueError(f"probabilities must be (N, K), got {tuple(probabilities.shape)}")
    rows = probabilities.double()
    if not ((rows >= 0).all() and ((rows.sum(1) - 1).abs() <= _ROW_SUM).all()):
        raise ValueError("probabilities must be at least 0 and sum to 1 in each row; were logits given?")
    return rows


def _score(rows: Tensor, epsilon: float) -> Tensor:
    divergence = torch.xlogy(rows, rows + epsilon) - torch.xlogy(rows, rows.mean(0) + epsilon)
    return divergence.sum(1).mean().exp()
