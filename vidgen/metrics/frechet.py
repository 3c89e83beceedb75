"""Fréchet distance between Gaussians, and the streaming moments that it is computed from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_EPSILON = torch.finfo(torch.float64).eps
_NEGATIVE = 1e-6
"""Share of the distance's scale by which rounding may take it below 0."""
_ROUGH = 1e-3
"""Share of a matrix's largest eigenvalue or entry by which rounding in single precision may spoil a covariance."""


class Moments(NamedTuple):
    """Count, mean and scatter of feature vectors: all that a Gaussian fit needs, of a size that does not grow.

    Args:
        count: int64 scalar.
        mean: float64 ``(D,)``; zeros where the count is 0.
        m2: float64 ``(D, D)``, the sum of ``(x - mean)(x - mean)^T``.
    """

    count: Tensor  # type: ignore[assignment]  # hides the method of tuple, which nobody needs here
    mean: Tensor
    m2: Tensor

    @classmethod
    def empty(cls, dim: int, device: torch.device | str | None = None) -> Moments:
        """Moments of no feature vectors of length ``dim``."""
        return cls(
            torch.zeros((), dtype=torch.int64, device=device),
            torch.zeros(dim, dtype=torch.float64, device=device),
            torch.zeros(dim, dim, dtype=torch.float64, device=device),
        )


def moments_of(features: Tensor) -> Moments:
    """Moments of a batch.

    Args:
        features: floating ``(N, D)`` of any precision; N may be 0.

    Returns:
        Moments on the device of the features.

    Raises:
        ValueError: another number of axes, or features that are NaN or infinite.
    """
    features = _checked(features, "features")
    if len(features) == 0:
        return Moments.empty(features.shape[1], features.device)
    mean = features.mean(0)
    centred = features - mean
    return Moments(torch.tensor(len(features), device=features.device), mean, centred.T @ centred)


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of two sets together (Chan, Golub and LeVeque 1983, eq. 2.1), unchanged where the other set is empty.

    The difference of the means enters, not their squares, so that no digits are lost where the mean is large.

    Raises:
        ValueError: the feature vectors have different lengths.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"moments of {len(a.mean)} and of {len(b.mean)} features cannot be merged")
    count = a.count + b.count
    share = b.count.double() / count.clamp(min=1)
    shift = b.mean - a.mean
    m2 = a.m2 + b.m2 + torch.outer(shift, shift) * (a.count * share)
    return Moments(count, a.mean + shift * share, m2)


def covariance(moments: Moments, ddof: int = 1) -> Tensor:
    """Covariance matrix.

    Args:
        moments: of the features.
        ddof: what is taken off the count in the denominator: 1 for the unbiased estimate, 0 for that of maximum
            likelihood.

    Returns:
        float64 ``(D, D)``.

    Raises:
        ValueError: fewer than ``ddof + 1`` samples.
    """
    count = int(moments.count)
    if count < ddof + 1:
        raise ValueError(f"a covariance divided by {_denominator(ddof)} needs at least {ddof + 1} samples, got {count}")
    return moments.m2 / (count - ddof)


def frechet_distance(mean_x: Tensor, cov_x: Tensor, mean_y: Tensor, cov_y: Tensor) -> Tensor:
    """Squared Fréchet distance of two Gaussians (Dowson and Landau 1982, eq. 4; Heusel et al. 2017, eq. 6).

    ``|mean_x - mean_y|^2 + Tr(cov_x) + Tr(cov_y) - 2 Tr((cov_x cov_y)^(1/2))``. With ``cov = F F^T`` the last trace is
    the sum of the singular values of ``F_x^T F_y``: always real, and exact to rounding for singular covariances, where
    a square root of the product loses half of the digits.

    Args:
        mean_x: ``(D,)``.
        cov_x: ``(D, D)``, symmetric, no negative eigenvalues.
        mean_y: ``(D,)``.
        cov_y: ``(D, D)``.

    Returns:
        float64 scalar, at least 0, in squared units of the features.

    Raises:
        ValueError: NaN or infinite numbers, shapes that do not fit, or matrices that are no covariances.
    """
    dim = len(mean_x)
    shapes = [tuple(value.shape) for value in (mean_x, cov_x, mean_y, cov_y)]
    if shapes != [(dim,), (dim, dim)] * 2 or dim == 0:
        raise ValueError(f"frechet_distance: takes (D,), (D, D), (D,) and (D, D), got {', '.join(map(str, shapes))}")
    named = {"mean_x": mean_x, "cov_x": cov_x, "mean_y": mean_y, "cov_y": cov_y}
    for name, value in named.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"frechet_distance: {name} holds NaN or infinity")
    mean_x, cov_x, mean_y, cov_y = (value.double() for value in named.values())
    overlap = torch.linalg.svdvals(_factor(cov_x, "cov_x").T @ _factor(cov_y, "cov_y")).sum()
    return _distance(mean_x - mean_y, cov_x.trace() + cov_y.trace(), overlap)


def frechet_from_moments(x: Moments, y: Moments, ddof: int = 1) -> Tensor:
    """Squared Fréchet distance of the Gaussians fitted to two sets.

    Args:
        x: moments of one set.
        y: moments of the other; the order makes no difference.
        ddof: what is taken off the counts in the covariances' denominators (see :func:`covariance`).

    Returns:
        float64 scalar, at least 0.

    Raises:
        ValueError: too few samples for the denominator, or NaN or infinite moments.
    """
    return frechet_distance(x.mean, covariance(x, ddof), y.mean, covariance(y, ddof))


def frechet_from_features(x: Tensor, y: Tensor, ddof: int = 1) -> Tensor:
    """Squared Fréchet distance of the Gaussians fitted to two sets whose features are at hand.

    Where the smaller set has no more samples than there are features, the trace of the root is the nuclear norm of
    ``X Y^T`` (X, Y centred) over the roots of the denominators: no covariance is built, and nothing is cut off.

    Args:
        x: ``(N, D)``.
        y: ``(M, D)``.
        ddof: what is taken off the counts in the covariances' denominators (see :func:`covariance`).

    Returns:
        float64 scalar, at least 0.

    Raises:
        ValueError: too few samples for the denominator, NaN or infinite features, ones so large that their squares
            overflow, not two axes, or features of different lengths.
    """
    if x.ndim == y.ndim == 2 and x.shape[1] != y.shape[1]:
        raise ValueError(f"x and y must have features of one length, got {x.shape[1]} and {y.shape[1]}")
    if min(len(x), len(y)) > x.shape[-1]:
        return frechet_from_moments(moments_of(x), moments_of(y), ddof)
    mean_x, root_x = _scaled_deviations(_checked(x, "x"), ddof)
    mean_y, root_y = _scaled_deviations(_checked(y, "y"), ddof)
    traces = root_x.square().sum() + root_y.square().sum()
    if not torch.isfinite(traces):
        raise ValueError(
            "x or y hold numbers so large that their squares overflow; the network or the videos are at fault"
        )
    return _distance(mean_x - mean_y, traces, torch.linalg.svdvals(root_x @ root_y.T).sum())


def _checked(features: Tensor, name: str) -> Tensor:
    """The features in float64."""
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"{name} must be (N, D), got {tuple(features.shape)}")
    if not torch.isfinite(features).all():
        raise ValueError(f"{name} hold NaN or infinity; the network or the videos are at fault")
    return features.detach().double()


def _denominator(ddof: int) -> str:
    return f"N - {ddof}" if ddof else "N"


def _factor(cov: Tensor, name: str) -> Tensor:
    """F ``(D, rank)`` with ``F F^T = cov``."""
    if (cov - cov.T).abs().max() > _ROUGH * cov.abs().max():
        raise ValueError(f"frechet_distance: {name} is not symmetric, so it is no covariance")
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)  # ascending
    if values[0] < -_ROUGH * values.abs().max():
        raise ValueError(f"frechet_distance: {name} has the eigenvalue {float(values[0]):.6g}, so it is no covariance")
    # Rounding makes the eigenvalues of the null space tiny, not zero, and their roots are not tiny.
    kept = values > values[-1].clamp(min=0) * len(values) * _EPSILON
    return vectors[:, kept] * values[kept].sqrt()


def _scaled_deviations(features: Tensor, ddof: int) -> tuple[Tensor, Tensor]:
    """Mean ``(D,)``, and X ``(N, D)`` with ``X^T X`` the covariance."""
    count = len(features)
    if count < ddof + 1:
        raise ValueError(f"a covariance divided by {_denominator(ddof)} needs at least {ddof + 1} samples, got {count}")
    mean = features.mean(0)
    return mean, (features - mean) / (count - ddof) ** 0.5


def _distance(mean_difference: Tensor, traces: Tensor, overlap: Tensor) -> Tensor:
    scale = mean_difference.square().sum() + traces
    distance = scale - 2 * overlap
    if distance < -_NEGATIVE * scale:
        raise ValueError(f"frechet_distance: {float(distance):.6g} is negative, so a matrix given is no covariance")
    if not torch.isfinite(distance):
        raise ValueError("frechet_distance: numbers so large that their squares overflow")
    return distance.clamp(min=0)
