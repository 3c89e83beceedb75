"""FID, KID and FD-DINOv2: settings, and which frames enter."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from tests.evaluation.tiny import TinyFrames, videos
from tests.metrics.test_base import as_batch
from vidgen.errors import UserError
from vidgen.metrics.frame_distances import FrechetDinoDistance, FrechetInceptionDistance, KernelInceptionDistance
from vidgen.metrics.frechet import frechet_from_features
from vidgen.metrics.kernel_distance import kernel_inception_distance

REAL, FAKE = videos(9, seed=1), videos(7, seed=2)


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    with patch("vidgen.metrics.frame_distances.shared_extractor", side_effect=lambda *_, **__: TinyFrames()) as mock:
        yield mock


def fed(metric):
    metric.update(as_batch(REAL), real=True)
    metric.update(as_batch(FAKE))
    return metric


def frames(arrays):
    return TinyFrames()(as_batch(arrays)).double()


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("metric", [FrechetInceptionDistance, FrechetDinoDistance])
def test_all_frames_enter(metric, ddof):
    expected = frechet_from_features(frames(REAL), frames(FAKE), ddof)
    made = fed(metric(ddof=ddof))
    assert float(made.compute()) == pytest.approx(float(expected), abs=1e-9)
    assert made.protocol()["covariance_denominator"] == ("n" if ddof == 0 else "n-1")


def test_networks_are_asked_for_with_their_settings(asked):
    FrechetInceptionDistance(antialias=True, weights="a.pth")
    FrechetDinoDistance()
    KernelInceptionDistance()
    assert [(call.args, call.kwargs) for call in asked.call_args_list] == [
        (("inception",), {"weights": "a.pth", "antialias": True}),
        (("dinov2",), {"weights": "auto"}),
        (("inception",), {"weights": "auto", "antialias": False}),
    ]


def test_kid_is_the_mean_over_drawn_subsets():
    metric = fed(KernelInceptionDistance(subsets=5, subset_size=10, seed=3))
    mean, deviation = kernel_inception_distance(frames(REAL), frames(FAKE), subsets=5, subset_size=10, seed=3)
    assert float(metric.compute()) == pytest.approx(float(mean), abs=1e-15)
    assert metric.details == {"std": pytest.approx(float(deviation))}
    about = metric.protocol()
    assert (about["subsets"], about["subset_size"], about["seed"]) == (5, 10, 3)


def test_too_few_frames_are_an_error():
    with pytest.raises(ValueError, match=r"^kid: needs at least 1000 real frames, got 54$"):
        fed(KernelInceptionDistance()).compute()
    metric = FrechetInceptionDistance()
    metric.add(torch.rand(1, 1, 3), True, [0])
    with pytest.raises(ValueError, match=r"^fid: needs at least 2 real frames, got 1$"):
        metric.compute()


@pytest.mark.parametrize(("setting", "least"), [("subsets", 1), ("subset_size", 2)])
def test_settings_that_make_no_sense_are_refused(setting, least):
    with pytest.raises(UserError, match=rf"^kid: {setting} is 0; it must be at least {least}$"):
        KernelInceptionDistance(**{setting: 0})
