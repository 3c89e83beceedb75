"""Precision, recall, density and coverage on any network."""

from __future__ import annotations

import pytest

from tests.evaluation.tiny import TinyExtractor, videos
from tests.metrics.test_base import as_batch
from vidgen.errors import UserError
from vidgen.metrics.manifold import Coverage, Density, Precision, Recall
from vidgen.metrics.neighbours import density_coverage, precision_recall

REAL, FAKE = videos(20, seed=1), videos(15, seed=2)
TINY = "tests.evaluation.tiny.TinyExtractor"


@pytest.mark.parametrize("metric", [Precision, Recall, Density, Coverage])
@pytest.mark.parametrize("k", [None, 2])
def test_values_are_those_of_the_formulas(metric, k):
    made = metric(extractor=TINY, weights="published", k=k)
    made.update(as_batch(REAL), real=True)
    made.update(as_batch(FAKE))
    x, y = (TinyExtractor()(as_batch(side)).double() for side in (REAL, FAKE))
    shares = precision_recall(x, y, k or 3)._asdict() | density_coverage(x, y, k or 5)._asdict()
    assert float(made.compute()) == float(shares[metric.name])
    assert made.protocol()["k"] == (k or {"precision": 3, "recall": 3}.get(metric.name, 5))
    assert made.label == metric.name


def test_any_network_with_any_weights_is_named_in_the_label():
    assert Precision(extractor=TINY, weights="random").label == "precision_random_tiny"


def test_too_few_samples_and_no_neighbours_are_errors():
    made = Coverage(extractor=TINY, weights="published")
    made.update(as_batch(REAL[:5]), real=True)
    made.update(as_batch(FAKE))
    with pytest.raises(ValueError, match=r"^coverage: needs at least 6 real videos, got 5$"):
        made.compute()
    with pytest.raises(UserError, match=r"^recall: k is 0; it must be at least 1$"):
        Recall(extractor=TINY, weights="published", k=0)


def test_unknown_networks_are_refused():
    with pytest.raises(UserError, match=r"^unknown extractor 'i3dd'; did you mean 'i3d'\?"):
        Precision(extractor="i3dd")
