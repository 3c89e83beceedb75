"""Inception scores: protocols, splits and order."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from tests.evaluation.tiny import TinyExtractor, TinyFrames, videos
from tests.metrics.test_base import as_batch
from vidgen.errors import UserError
from vidgen.metrics.inception_score import inception_score, probabilities_of
from vidgen.metrics.scores import InceptionScore, VideoInceptionScore

FAKE = videos(12, frames=16, seed=2)


@pytest.fixture(autouse=True)
def asked():
    def network(name, **_):
        return TinyExtractor(factor=9.0) if name == "c3d" else TinyFrames()

    with patch("vidgen.metrics.scores.shared_extractor", side_effect=network) as mock:
        yield mock


@pytest.mark.parametrize(
    ("protocol", "arguments"), [("tgan", (1, None, 1e-7)), ("tgan2", (1, None, 1e-20)), ("styleganv", (10, 42, 0.0))]
)
def test_protocols_of_clips(asked, protocol, arguments):
    metric = VideoInceptionScore(protocol)
    metric.update(as_batch(FAKE))
    rows = TinyExtractor(factor=9.0)(as_batch(FAKE)).double()
    mean, deviation = inception_score(probabilities_of(rows), *arguments)
    assert float(metric.compute()) == pytest.approx(float(mean), rel=1e-9)
    assert metric.details == ({"std": pytest.approx(float(deviation))} if arguments[0] > 1 else {})
    about = metric.protocol()
    assert (about["protocol"], about["num_frames"], about["sides"]) == (protocol, 16, ["fake"])
    assert (about["splits"], about["shuffle_seed"], about["epsilon"]) == arguments
    assert asked.call_args.kwargs == {"weights": "auto", "mean": "auto", "protocol": protocol}


def test_clips_have_sixteen_frames():
    with pytest.raises(ValueError, match=r"^is_c3d: takes clips of 16 frames, got 9$"):
        VideoInceptionScore().update(as_batch(FAKE[:, :9]))


def test_all_frames_enter_the_score_of_frames():
    metric = InceptionScore(splits=3, shuffle_seed=5)
    with patch.object(TinyFrames, "logits", TinyFrames.forward):
        metric.update(as_batch(FAKE))
    rows = TinyFrames()(as_batch(FAKE)).double()
    assert float(metric.compute()) == pytest.approx(float(inception_score(probabilities_of(rows), 3, 5, 0.0)[0]))


def test_too_few_samples_are_an_error():
    metric = VideoInceptionScore("styleganv")
    metric.update(as_batch(FAKE[:4]))
    with pytest.raises(ValueError, match=r"^is_c3d: needs at least 10 fake videos, got 4$"):
        metric.compute()
    with pytest.raises(UserError, match=r"^is: splits is 0; it must be at least 1$"):
        InceptionScore(splits=0)
