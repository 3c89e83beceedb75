"""Divergences of normal distributions are those of torch.distributions, with the derivatives of finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from tests.pair import ProcessPair
from vidgen.distributed import world
from vidgen.losses.divergences import ACTIVE, active_units, kl_normals, kl_to_standard_normal


def normals(*shape: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means and log-variances of two distributions."""
    first, second, third, fourth = torch.randn(4, *shape, dtype=torch.float64).unbind()
    return first, 1.5 * second, 2 * third, 1.5 * fourth


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 4)])
def test_divergence_of_each_dimension(shape: tuple[int, ...]) -> None:
    mean, log_variance, prior_mean, prior_log_variance = normals(*shape)
    posterior = Normal(mean, (log_variance / 2).exp())
    prior = Normal(prior_mean, (prior_log_variance / 2).exp())
    found = kl_normals(mean, log_variance, prior_mean, prior_log_variance)
    torch.testing.assert_close(found, kl_divergence(posterior, prior))
    assert found.shape == shape and (found > 0).all()
    assert not torch.allclose(found, kl_divergence(prior, posterior))
    standard = kl_to_standard_normal(mean, log_variance)
    torch.testing.assert_close(standard, kl_divergence(posterior, Normal(0.0, 1.0)))
    torch.testing.assert_close(standard, kl_normals(mean, log_variance, 0 * mean, 0 * mean))


def test_values_known_by_heart() -> None:
    zero, one, four = torch.zeros(()), torch.ones(()), torch.tensor(math.log(4.0))
    assert kl_to_standard_normal(one, zero) == 0.5 and kl_to_standard_normal(zero, zero) == 0
    assert float(kl_to_standard_normal(zero, four)) == pytest.approx((3 - math.log(4)) / 2)
    assert float(kl_normals(zero, zero, zero, four)) == pytest.approx((math.log(4) - 3 / 4) / 2)
    assert float(kl_normals(one, zero, zero, four)) == pytest.approx((math.log(4) - 3 / 4 + 1 / 4) / 2)
    mean, log_variance, _, _ = normals(7)
    torch.testing.assert_close(kl_normals(mean, log_variance, mean, log_variance), torch.zeros(7).double())


def test_derivatives_are_finite_differences() -> None:
    given = [tensor.requires_grad_() for tensor in normals(2, 3)]
    assert torch.autograd.gradcheck(kl_normals, given)
    assert torch.autograd.gradcheck(kl_to_standard_normal, given[:2])
    step = 1e-6
    slopes = torch.autograd.grad(kl_normals(*given).sum(), given)
    with torch.no_grad():
        for number, slope in enumerate(slopes):
            ends = [[x + sign * step * (n == number) for n, x in enumerate(given)] for sign in (1, -1)]
            difference = (kl_normals(*ends[0]) - kl_normals(*ends[1])) / (2 * step)
            torch.testing.assert_close(slope, difference, rtol=1e-6, atol=1e-8)


def test_units_that_say_something_are_counted() -> None:
    kl = torch.zeros(2, 3, 5)
    assert active_units(kl) == 0
    kl[..., 0] = 1.0
    kl[1, 2, 1] = 7 * ACTIVE  # its mean over six is above
    kl[1, 2, 2] = 5 * ACTIVE  # and this one's below
    assert active_units(kl) == 2 and active_units(kl[:1]) == 1 and active_units(kl[1:, 2]) == 3
    assert active_units(kl, least=0.1) == 1 and active_units(kl, least=1.0) == 0
    assert active_units(kl.requires_grad_()).requires_grad is False and active_units(kl).shape == ()


@pytest.mark.parametrize("log_variance", [-100.0, 100.0])
def test_equal_distributions_have_no_divergence_however_wide(log_variance: float) -> None:
    mean, same = torch.zeros(1), torch.full((1,), log_variance)
    assert kl_normals(mean, same, mean, same).item() == 0


def units_on_rank() -> float:
    rank, _ = world()
    kl = torch.tensor([[0.015, 0.03]]) if rank else torch.tensor([[0.0, 0.0]])
    return active_units(kl).item()


def test_units_are_counted_over_all_ranks(pair: ProcessPair) -> None:
    assert pair.run(units_on_rank) == [1.0, 1.0], "0.0075 and 0.015 nats on the average"
