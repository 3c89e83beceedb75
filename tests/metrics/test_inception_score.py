"""Inception score."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vidgen.metrics.inception_score import inception_score, probabilities_of


def rows(number, classes, seed=0):
    return probabilities_of(2 * torch.randn(number, classes, generator=torch.Generator().manual_seed(seed)))


def test_sure_answers_of_all_classes_score_the_number_of_classes():
    mean, deviation = inception_score(torch.eye(5).repeat(4, 1), splits=1)
    assert mean.item() == pytest.approx(5, rel=1e-14) and deviation == 0


def test_the_same_answer_everywhere_scores_one():
    assert inception_score(torch.full((7, 4), 0.25), splits=1)[0].item() == pytest.approx(1, rel=1e-14)


def test_parts_end_where_the_number_divides():
    table = rows(7, 3)
    mean, deviation = inception_score(table, splits=3)
    scores = [inception_score(table[start:end], splits=1)[0] for start, end in ((0, 2), (2, 4), (4, 7))]
    assert mean.item() == pytest.approx(np.mean(scores), rel=1e-14)
    assert deviation.item() == pytest.approx(np.std(scores), rel=1e-12)


def test_rows_are_shuffled_by_the_seed():
    table = rows(40, 3)
    order = torch.from_numpy(np.random.RandomState(42).permutation(40))
    assert inception_score(table, 4, shuffle_seed=42) == inception_score(table[order], 4)
    assert inception_score(table, 4, shuffle_seed=42) != inception_score(table, 4)


def test_epsilon_is_inside_the_logarithms():
    table, epsilon = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 0.1
    divergence = math.log(1 + epsilon) - math.log(0.5 + epsilon)
    assert inception_score(table, 1, epsilon=epsilon)[0].item() == pytest.approx(math.exp(divergence), rel=1e-14)


def test_a_class_that_nothing_belongs_to_does_no_harm():
    table = torch.tensor([[0.5, 0.5, 0.0], [0.9, 0.1, 0.0]])
    assert inception_score(table, 1)[0].item() == pytest.approx(inception_score(table[:, :2], 1)[0].item(), rel=1e-14)


def test_probabilities_are_in_double_precision():
    found = probabilities_of(torch.tensor([[20.0, 0.0]]))
    assert found.dtype == torch.float64
    assert 1 - found[0, 0].item() == pytest.approx(math.exp(-20), rel=1e-6)  # in single precision it would be 0


def test_large_logits_are_no_problem():
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert inception_score(probabilities_of(logits), 1)[0].item() == pytest.approx(2, rel=1e-14)


@pytest.mark.parametrize("splits", [0, 4])
def test_every_part_has_a_sample(splits):
    with pytest.raises(ValueError, match=rf"^splits: is {splits}, but there are 3 samples; choose 1 to 3$"):
        inception_score(rows(3, 2), splits)


@pytest.mark.parametrize("bad", [[[0.5, 0.4]], [[1.5, -0.5]], [[float("nan"), 1.0]]])
def test_only_probabilities_are_taken(bad):
    message = "probabilities must be at least 0 and sum to 1 in each row; were logits given?"
    with pytest.raises(ValueError) as error:
        inception_score(torch.tensor(bad), 1)
    assert str(error.value) == message


def test_probabilities_have_two_axes():
    with pytest.raises(ValueError, match=r"^probabilities must be \(N, K\), got \(2,\)$"):
        inception_score(torch.tensor([0.5, 0.5]), 1)


def test_logits_that_are_no_numbers_are_an_error():
    with pytest.raises(ValueError, match=r"^logits hold NaN or infinity; the network or the videos are at fault$"):
        probabilities_of(torch.tensor([[0.0, float("inf")]]))


def test_there_is_a_sample():
    with pytest.raises(ValueError, match=r"^an inception score needs at least 1 sample, got 0$"):
        inception_score(torch.zeros(0, 3), 1)


@pytest.mark.parametrize("epsilon", [-1e-7, float("nan")])
def test_epsilon_is_not_negative(epsilon):
    with pytest.raises(ValueError, match=rf"^epsilon: is {epsilon}; it must be at least 0$"):
        inception_score(rows(4, 3), 1, epsilon=epsilon)


def test_logits_have_two_axes():
    with pytest.raises(ValueError, match=r"^logits must be \(N, K\), got \(2,\)$"):
        probabilities_of(torch.zeros(2))
