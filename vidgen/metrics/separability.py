"""Linear separability: how well a hyperplane in latent space tells an attribute of the images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor


def conditional_entropy(table: Tensor) -> Tensor:
    """H(Y|X) in bits: what is still to be told of the label once the side of the hyperplane is known.

    Args:
        table: ``(..., 2, 2)``, counts or shares; rows are the sides X, columns the labels Y.

    Returns:
        float64 ``(...)`` in 0 .. 1.

    Raises:
        ValueError: another shape, negative entries, or an empty table.
    """
    if table.shape[-2:] != (2, 2):
        raise ValueError(f"a table must be (..., 2, 2), got {tuple(table.shape)}")
    counts = table.double()
    total = counts.sum((-2, -1), keepdim=True)
    if not ((counts >= 0).all() and (total > 0).all()):
        raise ValueError("a table must have no negative entries, and one above 0")
    joint = counts / total
    # The empty sides' 0 / 0 does no harm: their cells have no share.
    surprise = (joint.sum(-1, keepdim=True) / joint).where(joint > 0, 1).log2()
    return (joint * surprise).sum((-2, -1))


def linear_separability(tables: Tensor) -> Tensor:
    """``2^(sum of H(Y|X))`` over attributes (Karras et al. 2019, section 4.2; the official code's base is 2 as well).

    Args:
        tables: ``(A, 2, 2)``, see :func:`conditional_entropy`.

    Returns:
        float64 scalar, 1 where each attribute is separated perfectly.
    """
    return 2 ** conditional_entropy(tables).sum()


def separation_table(latents: Tensor, labels: Tensor) -> Tensor:
    """How the sides of the best hyperplane and the labels go together.

    Args:
        latents: ``(N, D)``.
        labels: bool ``(N,)``.

    Returns:
        int64 ``(2, 2)``; rows are sides, columns labels. Diagonal where no hyperplane can be found, which counts as
        perfect: the published rule, met where all labels are equal.
    """
    sides = linear_svm_sides(latents, labels)
    cells = 2 * sides.long() + labels.to(sides.device).long()
    return torch.bincount(cells, minlength=4).view(2, 2)


def linear_svm_sides(latents: Tensor, labels: Tensor, penalty: float = 1.0, max_steps: int = 1000) -> Tensor:
    """On which side of the hyperplane of a linear support vector machine each latent lies.

    The machine is that of LIBLINEAR's defaults (Fan et al. 2008, section 2): squared hinge loss, an offset that is
    regularised like a weight. The problem is convex and smooth, so that any good minimiser finds its one solution.

    Args:
        latents: ``(N, D)``.
        labels: bool ``(N,)``.
        penalty: C, weight of the losses against half the squared length of the weights.
        max_steps: of the minimiser (L-BFGS).

    Returns:
        bool ``(N,)`` on the CPU; the labels themselves where all are equal.

    Raises:
        ValueError: shapes that do not fit, or NaN or infinite latents.
    """
    if latents.ndim != 2 or labels.shape != latents.shape[:1]:
        raise ValueError(f"latents (N, D) and labels (N,), got {tuple(latents.shape)} and {tuple(labels.shape)}")
    if not torch.isfinite(latents).all():
        raise ValueError("latents hold NaN or infinity")
    labels = labels.detach().cpu().bool()
    if labels.all() or not labels.any():
        return labels
    offset = torch.ones(len(labels), 1, dtype=torch.float64)
    points = torch.cat([latents.detach().cpu().double(), offset], dim=1).numpy()
    signs = np.where(labels.numpy(), 1.0, -1.0)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        missing = np.maximum(1 - signs * (points @ weights), 0)
        value = 0.5 * weights @ weights + penalty * missing @ missing
        return float(value), weights - 2 * penalty * points.T @ (signs * missing)

    found = optimize.minimize(
        loss, np.zeros(points.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": max_steps, "gtol": 1e-6}
    )
    return torch.from_numpy(points @ found.x > 0)
