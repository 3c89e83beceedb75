"""The distance at infinitely many samples."""

from __future__ import annotations

import pytest
import torch

from vidgen.metrics.extrapolation import frechet_at_infinity
from vidgen.metrics.frechet import frechet_from_moments, moments_of


def normal(number, dim, seed, offset=0.0):
    return torch.randn(number, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset


def test_the_bias_of_few_samples_is_taken_away():
    real, fake = moments_of(normal(30000, 30, 1)), normal(2000, 30, 2, 0.2)
    distance = 30 * 0.2**2
    found = frechet_at_infinity(real, fake)
    assert found.distances[-1] - distance > 0.08
    assert abs(found.value - distance) < 0.06
    assert found.slope > 0 and 0 < found.residual < 0.05
    assert found.value + found.slope / 2000 == pytest.approx(found.distances[-1], abs=3 * found.residual)


def test_sizes_are_even_from_the_least_to_all():
    found = frechet_at_infinity(moments_of(normal(20, 2, 1)), normal(60, 2, 2), sizes=5, least=20)
    assert found.sizes == [20, 30, 40, 50, 60]
    assert len(found.distances) == 5


def test_large_sets_begin_at_a_tenth():
    found = frechet_at_infinity(moments_of(normal(20, 1, 1)), normal(400, 1, 2), sizes=2, least=20)
    assert found.sizes == [40, 400]


def test_all_fakes_give_the_plain_distance():
    real, fake = moments_of(normal(50, 3, 1)), normal(40, 3, 2)
    plain = frechet_from_moments(real, moments_of(fake), ddof=0)
    found = frechet_at_infinity(real, fake, sizes=3, least=10, ddof=0)
    assert found.distances[-1] == pytest.approx(plain.item(), rel=1e-12)


def test_a_line_is_found_exactly(monkeypatch):
    monkeypatch.setattr("vidgen.metrics.extrapolation.moments_of", len)
    monkeypatch.setattr("vidgen.metrics.extrapolation.frechet_from_moments", lambda real, count, ddof: 2 + 30 / count)
    found = frechet_at_infinity(None, torch.zeros(100, 1), sizes=4, least=10)
    assert found.value == pytest.approx(2) and found.slope == pytest.approx(30)
    assert found.residual == pytest.approx(0, abs=1e-12)


def test_what_the_line_leaves_over(monkeypatch):
    values = iter([1.0, 4.0, 1.0])
    monkeypatch.setattr("vidgen.metrics.extrapolation.moments_of", lambda rows: None)
    monkeypatch.setattr("vidgen.metrics.extrapolation.frechet_from_moments", lambda *_: next(values))
    # 1/N is 1/10, 1/15, 1/30: in units of 1/30 it is 3, 2, 1, and the line is constant at 2.
    found = frechet_at_infinity(None, torch.zeros(30, 1), sizes=3, least=10)
    sizes = torch.tensor(found.sizes, dtype=torch.float64)
    assert found.sizes == [10, 20, 30]
    line = found.value + found.slope / sizes
    left = (torch.tensor([1.0, 4.0, 1.0]) - line).square().mean().sqrt()
    assert found.residual == pytest.approx(left.item(), rel=1e-12) and left > 1


def test_subsets_are_without_repeats_and_from_the_seed(monkeypatch):
    seen = []
    monkeypatch.setattr("vidgen.metrics.extrapolation.moments_of", lambda rows: seen.append(rows[:, 0].tolist()))
    monkeypatch.setattr("vidgen.metrics.extrapolation.frechet_from_moments", lambda *_: 1.0)
    for seed in (1, 1, 2):
        frechet_at_infinity(None, torch.arange(30.0)[:, None], sizes=2, least=10, seed=seed)
    assert all(len(set(rows)) == len(rows) for rows in seen)
    assert seen[0] == seen[2] != seen[4]


def test_too_few_fakes_are_refused():
    with pytest.raises(ValueError, match=r"^the distance at infinity needs at least 1024 generated samples, got 1023$"):
        frechet_at_infinity(moments_of(normal(600, 2, 1)), normal(1023, 2, 2))


def test_a_line_takes_two_sizes():
    with pytest.raises(ValueError, match=r"^sizes: is 1, but a line takes at least 2$"):
        frechet_at_infinity(moments_of(normal(600, 2, 1)), normal(1100, 2, 2), sizes=1)
