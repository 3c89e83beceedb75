"""Fréchet distance and the moments that it is computed from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidgen.metrics.frechet import (
    Moments,
    covariance,
    frechet_distance,
    frechet_from_features,
    frechet_from_moments,
    merge,
    moments_of,
)


def features(number: int, dim: int, seed: int = 0, offset: float = 0.0, rank: int | None = None) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank or dim, dim, generator=rng)
    return torch.randn(number, rank or dim, generator=rng) @ basis + offset


def fed(rows: Tensor, batch: int) -> Moments:
    total = Moments.empty(rows.shape[1])
    for part in rows.split(batch):
        total = merge(total, moments_of(part))
    return total


def scale(x: Tensor, y: Tensor) -> float:
    x, y = x.double(), y.double()
    return float((x.mean(0) - y.mean(0)).square().sum() + x.var(0).sum() + y.var(0).sum())


# (samples, features, offset, rank): also fewer samples than features, and fewer dimensions than features
SETS = [(90, 6, 0.0, None), (90, 6, 3000.0, None), (9, 24, 3000.0, None), (90, 24, 3000.0, 4), (600, 24, 0.0, 4)]


@pytest.mark.parametrize(("number", "dim", "offset", "rank"), SETS)
@pytest.mark.parametrize("batch", [1, 7, 50])
def test_order_and_batches_change_nothing(number, dim, offset, rank, batch):
    x, y = features(number, dim, 1, offset, rank), 0.7 * features(number, dim, 1, offset, rank) + 0.3 * offset
    once = frechet_from_moments(moments_of(x), moments_of(y))
    order = torch.randperm(number, generator=torch.Generator().manual_seed(2))
    again = frechet_from_moments(fed(x[order], batch), fed(y, batch))
    assert abs(again - once) < 1e-9 * scale(x, y)


def test_shards_of_any_size_merge_to_the_whole():
    rows = features(40, 5, offset=100.0)
    shards = [moments_of(rows[start:end]) for start, end in ((0, 1), (1, 1), (1, 30), (30, 40))]
    left = merge(merge(shards[0], shards[1]), merge(shards[2], shards[3]))
    whole = moments_of(rows)
    assert left.count == 40
    torch.testing.assert_close(left.mean, whole.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(left.m2, whole.m2, rtol=1e-12, atol=1e-12)


def test_merging_with_nothing_changes_no_bit():
    moments, nothing = moments_of(features(5, 3, offset=0.1)), Moments.empty(3)
    for merged in (merge(moments, nothing), merge(nothing, moments)):
        assert all(torch.equal(a, b) for a, b in zip(merged, moments, strict=True))
    assert merge(nothing, nothing).count == 0 and not merge(nothing, nothing).mean.isnan().any()


def test_moments_of_nothing_are_empty():
    assert all(torch.equal(a, b) for a, b in zip(moments_of(torch.zeros(0, 4)), Moments.empty(4), strict=True))


def test_moments_of_different_features_do_not_merge():
    with pytest.raises(ValueError, match=r"^moments of 1 and of 3 features cannot be merged$"):
        merge(Moments.empty(1), Moments.empty(3))


@pytest.mark.parametrize("ddof", [0, 1])
def test_covariance_has_the_denominator_asked_for(ddof):
    rows = features(12, 4, offset=50.0)
    torch.testing.assert_close(covariance(moments_of(rows), ddof), rows.double().T.cov(correction=ddof))


@pytest.mark.parametrize(
    ("number", "ddof", "message"),
    [
        (1, 1, "a covariance divided by N - 1 needs at least 2 samples, got 1"),
        (0, 0, "a covariance divided by N needs at least 1 samples, got 0"),
    ],
)
def test_too_few_samples_are_refused(number, ddof, message):
    few, many = torch.ones(number, 3), features(9, 3)
    with pytest.raises(ValueError, match=f"^{message}$"):
        frechet_from_moments(moments_of(many), moments_of(few), ddof)
    with pytest.raises(ValueError, match=f"^{message}$"):
        frechet_from_features(many, few, ddof)


def test_one_sample_will_do_without_a_correction():
    assert frechet_from_moments(moments_of(torch.zeros(1, 3)), moments_of(torch.ones(1, 3)), ddof=0) == 3


@pytest.mark.parametrize(("number", "dim"), [(40, 6), (8, 20)])
def test_a_set_has_no_distance_from_itself(number, dim):
    rows = features(number, dim)
    assert 0 <= frechet_from_moments(moments_of(rows), moments_of(rows.flip(0))) < 1e-12 * rows.var(0).sum()
    assert 0 <= frechet_from_features(rows, rows.flip(0)) < 1e-12 * rows.var(0).sum()


def test_distance_of_commuting_covariances_is_that_of_means_and_deviations():
    a, b = torch.tensor([4.0, 0.25, 0.0]), torch.tensor([1.0, 9.0, 2.0])
    mean = torch.tensor([1.0, -2.0, 0.5])
    distance = frechet_distance(mean, a.diag(), torch.zeros(3), b.diag())
    torch.testing.assert_close(distance, (mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum()).double())


def test_turning_both_sets_changes_nothing():
    x, y = features(30, 5, 1).double(), features(20, 5, 2).double() + 1
    turn = torch.linalg.qr(features(5, 5, 3).double()).Q
    torch.testing.assert_close(frechet_from_features(x @ turn, y @ turn), frechet_from_features(x, y))


@pytest.mark.parametrize(("number", "dim", "offset", "rank"), SETS)
def test_kept_features_give_what_moments_give(number, dim, offset, rank):
    x, y = features(number, dim, 1, offset, rank), features(number + 3, dim, 1, offset, rank) * 1.1
    for ddof in (0, 1):
        streamed = frechet_from_moments(moments_of(x), moments_of(y), ddof)
        assert abs(frechet_from_features(x, y, ddof) - streamed) < 1e-11 * scale(x, y)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_an_error(value):
    bad, good = torch.ones(4, 5), torch.ones(4, 5)
    bad[1, 1] = value
    with pytest.raises(ValueError, match=r"^features hold NaN or infinity; the network or the videos are at fault$"):
        moments_of(bad)
    with pytest.raises(ValueError, match=r"^y hold NaN or infinity; the network or the videos are at fault$"):
        frechet_from_features(good, bad)
    with pytest.raises(ValueError, match=r"^frechet_distance: cov_y holds NaN or infinity$"):
        frechet_distance(good[0], torch.eye(5), good[0], torch.eye(5) * value)


def test_features_have_two_axes():
    with pytest.raises(ValueError, match=r"^features must be \(N, D\), got \(2, 3, 4\)$"):
        moments_of(torch.zeros(2, 3, 4))


@pytest.mark.parametrize(
    ("cov", "message"),
    [
        ([[1.0, 0.0], [0.0, -2.0]], "cov_x has the eigenvalue -2, so it is no covariance"),
        ([[-1.0, 0.0], [0.0, -2.0]], "cov_x has the eigenvalue -2, so it is no covariance"),
        ([[1.0, 0.5], [0.0, 1.0]], "cov_x is not symmetric, so it is no covariance"),
        ([[1.0, 0.0], [0.0, -5e-4]], "-0.001 is negative, so a matrix given is no covariance"),
    ],
)
def test_what_is_no_covariance_is_an_error(cov, message):
    mean, cov = torch.zeros(2), torch.tensor(cov, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"^frechet_distance: {message}$"):
        frechet_distance(mean, cov, mean, cov)


def test_covariances_in_single_precision_are_covariances():
    x = features(30, 40).float()
    cov = (x - x.mean(0)).T @ (x - x.mean(0)) / 29
    assert frechet_distance(x.mean(0), cov, x.mean(0), cov) <= 1e-5 * cov.trace()


def test_shapes_fit():
    shapes = r"\(2,\), \(2, 2\), \(3,\), \(3, 3\)"
    with pytest.raises(
        ValueError, match=rf"^frechet_distance: takes \(D,\), \(D, D\), \(D,\) and \(D, D\), got {shapes}$"
    ):
        frechet_distance(torch.zeros(2), torch.eye(2), torch.zeros(3), torch.eye(3))
    with pytest.raises(ValueError, match=r"^x and y must have features of one length, got 3 and 2$"):
        frechet_from_features(features(9, 3), features(9, 2))
    with pytest.raises(ValueError, match=r"^features must be \(N, D\), got \(9, 0\)$"):
        frechet_from_features(features(9, 3)[:, :0], features(9, 3)[:, :0])


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("number", [4, 30])
def test_the_unit_of_the_features_makes_no_difference(number, scale):
    x, y = features(number, 6).double(), features(number, 6, seed=1, offset=0.5).double()
    for distance in (frechet_from_features, lambda *sets: frechet_from_moments(*map(moments_of, sets))):
        assert distance(scale * x, scale * y).item() == pytest.approx(scale**2 * distance(x, y).item(), rel=1e-9)


def test_numbers_too_large_to_be_squared_are_an_error():
    x, y = 1e160 * features(4, 6).double(), features(4, 6, seed=1).double()
    with pytest.raises(ValueError, match=r"^x or y hold numbers so large that their squares overflow; the network or"):
        frechet_from_features(x, y)
    with pytest.raises(ValueError, match=r"^frechet_distance: numbers so large that their squares overflow$"):
        frechet_distance(torch.full((2,), 1e160, dtype=torch.float64), torch.eye(2), torch.zeros(2), torch.eye(2))


def test_features_are_left_as_they_are():
    rows = features(6, 3, offset=2.0)
    before = rows.clone()
    frechet_from_features(rows, rows)
    moments_of(rows)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_statistics_are_in_double_precision(dtype):
    rows = features(8, 3).to(dtype)
    moments = moments_of(rows)
    assert moments.mean.dtype == moments.m2.dtype == torch.float64 and moments.count.dtype == torch.int64
    torch.testing.assert_close(moments.mean, rows.double().mean(0), rtol=1e-15, atol=1e-15)
