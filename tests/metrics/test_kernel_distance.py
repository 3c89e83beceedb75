"""Kernel distances on all samples and on subsets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from vidgen.metrics import kernel_distance
from vidgen.metrics.kernel_distance import kernel_inception_distance, polynomial_mmd, subset_mmds


def normal(number, dim, seed, offset=0.0):
    return torch.randn(number, dim, generator=torch.Generator().manual_seed(seed)) + offset


def test_equal_numbers_give_what_torchmetrics_gives():
    x, y = normal(30, 7, 1), normal(30, 7, 2, 0.5)
    torch.testing.assert_close(polynomial_mmd(x, y), poly_mmd(x.double(), y.double()), rtol=1e-12, atol=1e-12)


def test_numbers_of_samples_may_differ():
    x, y = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    kernel = lambda a, b: (a * b + 1) ** 3  # noqa: E731 - the formula
    within_x, within_y = kernel(1, 2), (kernel(0, 1) + kernel(0, 3) + kernel(1, 3)) / 3
    across = sum(kernel(a, b) for a in (1, 2) for b in (0, 1, 3)) / 6
    assert polynomial_mmd(x, y).item() == pytest.approx(within_x + within_y - 2 * across, rel=1e-14)


def test_blocks_of_any_size_give_the_same(monkeypatch):
    x, y = normal(23, 5, 1), normal(17, 5, 2, 1.0)
    whole = polynomial_mmd(x, y)
    monkeypatch.setattr(kernel_distance, "_BLOCK", 4)
    torch.testing.assert_close(polynomial_mmd(x, y), whole, rtol=1e-13, atol=0)


def test_the_estimate_has_no_bias():
    distances = [polynomial_mmd(normal(12, 3, seed), normal(9, 3, 1000 + seed)) for seed in range(300)]
    values = torch.stack(distances)
    assert values.min() < 0
    assert values.mean().abs() < 4 * values.std() / len(values) ** 0.5


def test_another_distribution_is_far():
    assert polynomial_mmd(normal(200, 4, 1), normal(200, 4, 2, 1.0)) > 20 * polynomial_mmd(
        normal(200, 4, 1), normal(200, 4, 2)
    )


def test_subsets_are_drawn_without_replacement_and_from_a_seed(monkeypatch):
    seen = []
    monkeypatch.setattr(kernel_distance, "subset_mmds", lambda x, y, *index: seen.append(index) or torch.ones(3))
    for _ in range(2):
        kernel_inception_distance(normal(20, 2, 1), normal(15, 2, 2), subsets=3, subset_size=15, seed=5)
    (rows, columns), again = seen
    assert torch.equal(rows, again[0]) and torch.equal(columns, again[1])
    assert all(len(set(subset)) == 15 for subset in (*rows.tolist(), *columns.tolist()))
    draws = np.random.RandomState(5)
    assert rows[0].tolist() == draws.choice(20, 15, replace=False).tolist()
    assert columns[0].tolist() == draws.choice(15, 15, replace=False).tolist()


def test_mean_and_population_deviation_over_subsets():
    x, y = normal(20, 3, 1), normal(20, 3, 2)
    index = torch.stack([torch.arange(8), torch.arange(4, 12), torch.arange(12, 20)])
    parts = subset_mmds(x, y, index, index.flip(0))
    assert parts[1] == polynomial_mmd(x[4:12], y[4:12])
    mean, deviation = kernel_inception_distance(x, y, subsets=4, subset_size=6, seed=0)
    draws = np.random.RandomState(0)
    chosen = [draws.choice(20, 6, replace=False) for _ in range(8)]
    values = [float(polynomial_mmd(x[chosen[i]], y[chosen[i + 1]])) for i in range(0, 8, 2)]
    assert mean.item() == pytest.approx(np.mean(values), rel=1e-12)
    assert deviation.item() == pytest.approx(np.std(values), rel=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((1, 3), (4, 3), r"an unbiased kernel distance needs at least 2 samples of each set, got 1 and 4"),
        ((5, 3), (4, 2), r"features must be \(N, D\) and \(M, D\), got \(5, 3\) and \(4, 2\)"),
    ],
)
def test_sets_that_cannot_be_compared_are_refused(x, y, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        polynomial_mmd(torch.ones(x), torch.ones(y))


def test_what_is_no_number_is_an_error():
    with pytest.raises(ValueError, match=r"^features hold NaN or infinity; the network or the videos are at fault$"):
        polynomial_mmd(torch.ones(3, 2), torch.full((3, 2), float("nan")))


def test_a_subset_is_no_larger_than_its_set():
    with pytest.raises(
        ValueError, match=r"^subset_size: is 1000, but the smaller set has 9 samples; choose at most that$"
    ):
        kernel_inception_distance(torch.ones(2000, 2), torch.ones(9, 2))


@pytest.mark.parametrize(("subsets", "size"), [(0, 3), (3, 1), (3, -2)])
def test_there_are_subsets_of_two_samples_at_least(subsets, size):
    message = rf"^subsets must be at least 1 and subset_size at least 2, got {subsets} and {size}$"
    with pytest.raises(ValueError, match=message):
        kernel_inception_distance(normal(9, 3, 0), normal(9, 3, 1), subsets, size)


def test_copies_of_one_sample_have_no_distance():
    x = normal(1, 5, 0)
    assert polynomial_mmd(x.expand(4, -1), x.expand(6, -1)).item() == pytest.approx(0, abs=1e-12)
