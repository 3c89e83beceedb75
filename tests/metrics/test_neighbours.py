"""Precision, recall, density and coverage."""

from __future__ import annotations

import pytest
import torch

from vidgen.metrics import neighbours
from vidgen.metrics.neighbours import density_coverage, precision_recall


def normal(number, dim, seed, offset=0.0):
    return torch.randn(number, dim, generator=torch.Generator().manual_seed(seed)) + offset


def test_points_on_a_line():
    real, fake = torch.tensor([[0.0], [1.0], [2.0], [10.0]]), torch.tensor([[1.5], [3.5], [30.0], [34.0]])
    # Radii for k = 1: real 1, 1, 1, 8; fake 2, 2, 4, 4.
    assert precision_recall(real, fake, k=1) == (0.5, 0.75)
    assert density_coverage(real, fake, k=1) == (0.75, 0.75)


def test_every_ball_has_its_own_radius():
    real, fake = torch.tensor([[0.0], [1.0], [2.0], [10.0]]), torch.tensor([[0.9], [1.0], [13.0], [17.0]])
    # Radii for k = 1: real 1, 1, 1, 8; fake 0.1, 0.1, 4, 4.
    assert precision_recall(real, fake, k=1) == (1, 0.5)
    assert precision_recall(fake, real, k=1) == (0.5, 1)


def test_the_border_belongs_to_a_ball_only_where_asked():
    real, fake = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[-1.0], [9.0], [20.0]])
    assert precision_recall(real, fake, k=1).precision.item() == pytest.approx(2 / 3)
    assert precision_recall(real, fake, k=1, closed=False).precision == 0
    assert density_coverage(real, fake, k=1) == (0, 0)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_copies_are_found_despite_rounding(offset):
    real = normal(40, 300, 1, offset)
    assert precision_recall(real, real.flip(0), k=3) == (1, 1)
    assert density_coverage(real, real.flip(0), k=5) == (1, 1)


def test_copies_within_a_set_make_balls_without_an_inside():
    real = torch.tensor([[0.0, 1.0], [0.0, 1.0], [5.0, 5.0], [5.0, 5.0]])
    assert precision_recall(real, real, k=1) == (1, 1)
    assert density_coverage(real, real, k=1) == (0, 0)


def test_few_fakes_are_precise_and_recall_little():
    real, fake = normal(200, 4, 1), normal(1, 4, 2).repeat(50, 1) * 0.1 + normal(50, 4, 3) * 0.01
    shares, more = precision_recall(real, fake), density_coverage(real, fake)
    assert shares.precision == 1 and shares.recall < 0.05
    assert more.density > 1 and more.coverage < 0.5


def test_blocks_of_any_size_give_the_same(monkeypatch):
    real, fake = normal(31, 4, 1), normal(23, 4, 2, 1.0)
    whole = precision_recall(real, fake), density_coverage(real, fake)
    monkeypatch.setattr(neighbours, "_BLOCK", 5)
    assert (precision_recall(real, fake), density_coverage(real, fake)) == whole
    assert 0 < whole[0].precision < 1 and 0 < whole[0].recall < 1


def test_k_is_less_than_the_samples():
    with pytest.raises(ValueError, match=r"^k: is 3, but there are 3 fake samples; choose 1 to 2$"):
        precision_recall(normal(9, 2, 1), normal(3, 2, 2))
    with pytest.raises(ValueError, match=r"^k: is 5, but there are 4 real samples; choose 1 to 3$"):
        density_coverage(normal(4, 2, 1), normal(3, 2, 2))


def test_few_fakes_do_for_density():
    assert density_coverage(normal(9, 2, 1), torch.zeros(1, 2)).density > 0
    with pytest.raises(ValueError, match=r"^there are no fake samples$"):
        density_coverage(normal(9, 2, 1), torch.zeros(0, 2))


def test_what_is_no_number_is_an_error():
    with pytest.raises(ValueError, match=r"^features hold NaN or infinity; the network or the videos are at fault$"):
        precision_recall(normal(9, 2, 1), torch.full((9, 2), float("nan")))


def test_features_have_one_length():
    with pytest.raises(ValueError, match=r"^features must be \(N, D\) and \(M, D\), got \(9, 2\) and \(9, 3\)$"):
        precision_recall(normal(9, 2, 1), normal(9, 3, 1))


@pytest.mark.parametrize(("number", "fakes", "side"), [(1, 9, "real"), (9, 1, "fake")])
def test_a_sample_has_neighbours(number, fakes, side):
    with pytest.raises(ValueError, match=rf"^neighbours need at least 2 {side} samples, got 1$"):
        precision_recall(normal(number, 2, 0), normal(fakes, 2, 1))


def test_there_are_fakes():
    with pytest.raises(ValueError, match=r"^there are no fake samples$"):
        precision_recall(normal(9, 2, 0), normal(0, 2, 1))
