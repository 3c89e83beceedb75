"""The metrics on I3D features: protocols, settings and what they keep."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch

from tests.evaluation.tiny import TinyExtractor, distance_of, features_of, videos
from tests.metrics.test_base import as_batch, tiny
from vidgen.errors import UserError
from vidgen.metrics.preprocessing import PROTOCOLS as PREPROCESSING
from vidgen.metrics.video_distances import (
    PROTOCOLS,
    ContentDebiasedFrechetVideoDistance,
    FrechetVideoDistance,
    FrechetVideoDistanceInfinity,
    FrechetVideoDistanceWindows,
    KernelVideoDistance,
)

REAL, LONG = videos(30, frames=4, seed=1), videos(12, frames=10, seed=2)


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    monkeypatch.setattr("vidgen.metrics.video_distances.shared_extractor", tiny)


def test_protocols_are_those_of_the_published_code():
    seen = {
        name: (p.preprocessing.resize, p.preprocessing.crop, p.bn_eps, p.ddof, p.num_frames, p.stride, p.order)
        for name, p in PROTOCOLS.items()
    }
    assert seen == {
        "original": ("tf1", "stretch", 1e-3, 1, 16, 1, "shuffled"),
        "styleganv": ("half_pixel", "stretch", 1e-3, 0, 16, 1, "first"),
        "styleganv_2048_16f": ("half_pixel", "stretch", 1e-3, 0, 16, 1, "first"),
        "styleganv_2048_128f": ("half_pixel", "stretch", 1e-3, 0, 128, 1, "first"),
        "styleganv_2048_128f_subsample8f": ("half_pixel", "stretch", 1e-3, 0, 16, 8, "first"),
        "tats": ("half_pixel", "stretch", 1e-5, 1, 16, 1, "shuffled"),
        "videogpt": ("half_pixel", "short_side_center", 1e-5, 1, 16, 1, "shuffled"),
    }


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_decides_network_clips_and_denominator(name):
    with patch("vidgen.metrics.video_distances.shared_extractor", side_effect=tiny) as asked:
        metric = FrechetVideoDistance(name, weights="random")
    wanted = PROTOCOLS[name]
    assert asked.call_args.kwargs == {
        "weights": "random",
        "preprocessing": PREPROCESSING[name.partition("_")[0]],
        "bn_eps": wanted.bn_eps,
        "precision": "float32",
        "compile": False,
    }
    assert (metric.preferred_frames(), metric.stride, metric.order) == (wanted.num_frames, wanted.stride, wanted.order)
    assert metric.num_frames is None
    about = metric.protocol()
    assert about["protocol"] == name
    assert about["covariance_denominator"] == ("n" if name.startswith("stylegan") else "n-1")


@pytest.mark.parametrize(
    "setting", [{"ddof": 0}, {"num_frames": 9}, {"stride": 2}, {"bn_eps": 1e-5}, {"crop": "stretch"}]
)
def test_a_changed_protocol_says_so(setting):
    changed = setting != {"crop": "stretch"}
    assert FrechetVideoDistance(**setting).protocol()["protocol"] == ("original (changed)" if changed else "original")


def test_denominator_counts():
    values = {}
    for ddof in (0, 1):
        metric = FrechetVideoDistance(ddof=ddof)
        metric.update(as_batch(REAL), real=True)
        metric.update(as_batch(LONG[:, :4]))
        values[ddof] = float(metric.compute())
    assert values[1] == pytest.approx(distance_of(REAL, LONG[:, :4]), abs=1e-7)
    assert values[0] < values[1]


def test_windows_are_compared_one_by_one_with_the_same_real_clips():
    metric = FrechetVideoDistanceWindows(window=4, window_stride=3, total_frames=10)
    metric.update(as_batch(REAL), real=True)
    for part in (LONG[:5], LONG[5:]):
        metric.update(as_batch(part))
    expected = [distance_of(REAL, LONG[:, at : at + 4]) for at in (0, 3, 6)]
    assert float(metric.compute()) == pytest.approx(sum(expected) / 3, abs=1e-6)
    assert [window["first_frame"] for window in metric.details["windows"]] == [0, 3, 6]
    assert [window["value"] for window in metric.details["windows"]] == pytest.approx(expected, abs=1e-6)
    about = metric.protocol()
    assert (about["window"], about["starts"], about["total_frames"], about["num_frames"]) == (4, [0, 3, 6], 10, 4)


def test_windows_share_features_of_real_clips_with_other_metrics():
    windows, whole = FrechetVideoDistanceWindows(window=4, total_frames=10), FrechetVideoDistance()
    assert windows.extraction(True) == whole.extraction(True)
    assert windows.extraction(False) != whole.extraction(False)
    assert (windows.clip_frames(True), windows.clip_frames(False)) == (4, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"window": 20, "total_frames": 10}, "fvd_windows: total_frames is 10; it must be at least the window, 20"),
        ({"window_stride": 0}, "fvd_windows: window_stride is 0; it must be at least 1"),
    ],
)
def test_windows_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError) as error:
        FrechetVideoDistanceWindows(**settings)
    assert str(error.value) == message


def test_kernel_distance_is_the_unbiased_estimate_over_all_videos():
    metric = KernelVideoDistance()
    metric.update(as_batch(REAL), real=True)
    metric.update(as_batch(LONG[:, :4]))
    x, y = features_of(REAL).astype("float32"), features_of(LONG[:, :4]).astype("float32")
    kernel = [(a.astype(float) @ b.T.astype(float) / 6 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
    off = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in kernel[:2]]
    assert float(metric.compute()) == pytest.approx(sum(off) - 2 * kernel[2].mean(), abs=1e-8)


@pytest.mark.parametrize(
    ("metric", "real", "fake", "message"),
    [
        (FrechetVideoDistance, 1, 5, "fvd: needs at least 2 real videos, got 1"),
        (KernelVideoDistance, 5, 1, "kvd: needs at least 2 fake videos, got 1"),
        (FrechetVideoDistanceInfinity, 5, 12, "fvd_inf: needs at least 1024 fake videos, got 12"),
        (ContentDebiasedFrechetVideoDistance, 0, 5, "cdfvd: needs at least 1 real videos, got 0"),
    ],
)
def test_too_few_videos_are_an_error(metric, real, fake, message):
    made = metric()
    made.add(torch.rand(real, 6), True, range(real))
    made.add(torch.rand(fake, 6), False, range(fake))
    with pytest.raises(ValueError) as error:
        made.compute()
    assert str(error.value) == message


def test_real_network_of_random_weights_names_itself(monkeypatch):
    monkeypatch.undo()
    metric = FrechetVideoDistance(weights="random")
    metric.update(as_batch(videos(2, frames=9, seed=1)), real=True)
    metric.update(as_batch(videos(2, frames=9, seed=2)))
    assert metric.label == "fvd_random_i3d"
    assert float(metric.compute()) > 0
    assert metric.protocol()["extractor"]["weights"]["name"] == "random"
    assert isinstance(metric.extractor, type(KernelVideoDistance(weights="random").extractor))
    assert metric.extractor is FrechetVideoDistanceInfinity(weights="random").extractor
    assert not isinstance(metric.extractor, TinyExtractor)


def test_a_protocol_that_does_not_exist_is_named():
    known = (
        "original, styleganv, styleganv_2048_16f, styleganv_2048_128f, styleganv_2048_128f_subsample8f, tats, videogpt"
    )
    with pytest.raises(UserError) as caught:
        FrechetVideoDistance("stylegan-v", weights="random")
    assert str(caught.value) == f"protocol 'stylegan-v': unknown; did you mean 'styleganv'? (known: {known})"


@pytest.mark.parametrize("metric", [FrechetVideoDistance, KernelVideoDistance])
def test_first_frames_can_be_skipped_on_both_sides(metric):
    def value(real, fake, **settings):
        found = metric(**settings)
        found.set_context(3)
        found.update(as_batch(real), real=True)
        found.update(as_batch(fake), real=False)
        return float(found.compute()), found.protocol()

    real, fake = videos(20, frames=7, seed=1), videos(15, frames=7, seed=2)
    whole, about = value(real, fake)
    assert (about["context_frames"], about["skip_frames"], about["num_frames"]) == (3, 0, 7)
    cut, about = value(real, fake, skip_frames="context", num_frames=7)
    assert (about["context_frames"], about["skip_frames"], about["num_frames"]) == (3, 3, 7)
    assert cut == pytest.approx(value(real[:, 3:], fake[:, 3:])[0], rel=1e-12) != whole
    numbered, about = value(real, fake, skip_frames=2)
    assert (about["context_frames"], about["skip_frames"]) == (3, 2)
    assert numbered == pytest.approx(value(real[:, 2:], fake[:, 2:])[0], rel=1e-12)


def test_frames_that_count_say_nothing_of_a_context_that_is_not_there():
    metric = FrechetVideoDistance()
    metric.set_context(0)
    assert not {"context_frames", "skip_frames"} & metric.protocol().keys()
    assert "skip_frames" not in metric.extraction(True)


def test_features_with_and_without_the_context_are_not_taken_for_each_other():
    metrics = [FrechetVideoDistance(skip_frames=skipped) for skipped in (0, 2, "context", "context")]
    metrics[2].set_context(2)
    metrics[3].set_context(3)
    found = [metric.extraction(True) for metric in metrics]
    assert found[1] == found[2] and found[0] != found[1] != found[3] != found[0]


@pytest.mark.parametrize(("stride", "frames"), [(1, 5), (2, 3), (4, 2), (5, 1), (8, 1)])
def test_of_the_context_a_clip_has_every_nth_frame(stride, frames):
    metric = FrechetVideoDistance(stride=stride, skip_frames="context")
    metric.set_context(5)
    assert metric.skipped_frames == frames == len(range(0, 5, stride))


def test_a_context_that_nobody_tells_is_asked_for():
    message = (
        "fvd: skip_frames is context, and no model tells how many frames it was given; give their number, as in"
        " skip_frames=5"
    )
    metric = FrechetVideoDistance(skip_frames="context")
    for ask in (lambda: metric.set_context(0), lambda: metric.update(as_batch(REAL), real=True)):
        with pytest.raises(ValueError) as error:
            ask()
        assert str(error.value) == message
    with pytest.raises(UserError, match=r"^kvd: skip_frames is -1; it must be at least 0, or context$"):
        KernelVideoDistance(skip_frames=-1)
