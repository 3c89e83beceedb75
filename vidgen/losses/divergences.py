"""Divergences between diagonal normal distributions, in nats, dimension by dimension."""

from __future__ import annotations

from torch import Tensor

from vidgen.distributed import sum_over_ranks, world

ACTIVE = 0.01
"""KL in nats from which a dimension of a latent code counts as used."""


def kl_normals(mean: Tensor, log_variance: Tensor, prior_mean: Tensor, prior_log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(prior_mean, exp(prior_log_variance))), not summed.

    Args:
        mean: of the first distribution, any shape.
        log_variance: logarithm of its variance.
        prior_mean: of the second distribution.
        prior_log_variance: logarithm of its variance.

    Returns:
        KL of each dimension, of the shape of the arguments.
    """
    difference = log_variance - prior_log_variance  # first, so that equal variances give 0 however large they are
    distance = ((mean - prior_mean) * (-prior_log_variance / 2).exp()).square()
    return 0.5 * (difference.exp() - difference - 1 + distance)


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)), not summed; see :func:`kl_normals`."""
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1)


def active_units(kl: Tensor, least: float = ACTIVE) -> Tensor:
    """How many dimensions of a latent code are used: those whose mean KL is above ``least`` nats.

    Burda et al. (2016, arXiv 1509.00519, section 5.3) count dimensions whose posterior mean varies. With a learned
    prior that mean may vary while the code says nothing that the prior does not know; so the KL is looked at here, its
    mean over all elements of all ranks.

    Args:
        kl: ``(..., D)``, as :func:`kl_normals` returns it.
        least: nats.

    Returns:
        A scalar, 0 to D.
    """
    mean = sum_over_ranks(kl.detach().flatten(0, -2).mean(0)) / world()[1]
    return (mean > least).float().sum()
