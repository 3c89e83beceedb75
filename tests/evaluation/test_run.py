"""An evaluation: values, their protocols, and what is refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.tiny import (
    FrameDistance,
    TinyDistance,
    TinyError,
    TinyExtractor,
    TinyOrder,
    TinyProbe,
    clips_of,
    distance_of,
    videos,
)
from tests.noise_model import SeededNoise
from vidgen.errors import UserError
from vidgen.evaluation.pairs import Pairs
from vidgen.evaluation.result import Evaluation
from vidgen.evaluation.run import Settings, clip_rule, evaluate
from vidgen.evaluation.sources import ClipRule, GeneratedClips, StoredClips
from vidgen.metrics.base import VideoMetric

REAL, FAKE = videos(37, seed=1), videos(20, seed=2)
QUIET = Settings(progress=False, num_samples=0)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Two array files, and a cache of its own."""
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    for name, arrays in (("real", REAL), ("fake", FAKE)):
        np.save(tmp_path / f"{name}.npy", arrays)
    return tmp_path / "real.npy", tmp_path / "fake.npy"


def run(places: tuple[Path, Path], *metrics: VideoMetric, settings: Settings = QUIET, **more: Any) -> Evaluation:
    real, fake = (lambda rule, place=place: clips_of(place, rule) for place in places)
    return evaluate(metrics, **{"real": real, "fake": fake, **more}, settings=settings)


def test_values_and_what_they_depend_on(places):
    result = run(places, TinyDistance(num_frames=6), TinyOrder(6))
    assert result.metrics["tiny_fd"].value == pytest.approx(distance_of(REAL, FAKE), abs=1e-7)
    protocol = result.metrics["tiny_fd"].protocol
    assert (protocol["real"]["num_clips"], protocol["fake"]["num_clips"]) == (37, 20)
    assert protocol["real"]["resolution"] == [8, 8]
    assert protocol["real"]["clips"]["seed"] == 0
    assert protocol["real"]["num_unusable"] == 0
    assert protocol["real"]["fingerprint"] != protocol["fake"]["fingerprint"]
    assert protocol["dtype"] == {"network": "float32", "statistics": "float64"}
    assert "real" not in result.metrics["tiny_order"].protocol
    assert result.metrics["tiny_order"].details == {"rows": 20}
    assert result.protocol["device"] == "cpu"
    assert {"vidgen", "python", "torch", "torchmetrics", "numpy", "scipy", "av"} <= result.protocol["software"].keys()
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["metrics"]["tiny_fd"]["warnings"]


def test_real_clips_are_drawn_and_fake_ones_begin_at_the_first_frame(places):
    result = run(places, TinyDistance(num_frames=3, stride=2), settings=Settings(seed=5, progress=False))
    about = result.metrics["tiny_fd"].protocol
    assert (about["real"]["clips"]["start"], about["fake"]["clips"]["start"]) == ("random", "first")
    assert {about[side]["clips"]["stride"] for side in ("real", "fake")} == {2}
    assert {about[side]["clips"]["seed"] for side in ("real", "fake")} == {5}
    assert len(result.samples.real) == len(result.samples.fake) == 8
    assert result.samples.fake[0].shape == (3, 8, 8, 3)


def test_metrics_that_want_the_same_share_one_look(places):
    TinyExtractor.looked_at = 0
    run(places, TinyDistance(num_frames=6), TinyOrder(6))
    assert TinyExtractor.looked_at == 37 + 20


def test_metrics_that_want_other_clips_have_their_own(places):
    class Longer(TinyDistance):
        name = "longer"

    result = run(places, TinyDistance(num_frames=3), Longer(num_frames=6))
    assert result.metrics["longer"].value == pytest.approx(distance_of(REAL, FAKE), abs=1e-7)
    assert result.metrics["tiny_fd"].protocol["real"]["clips"]["num_frames"] == 3
    assert result.metrics["longer"].protocol["real"]["clips"]["num_frames"] == 6


def test_states_of_an_earlier_evaluation_do_not_count(places):
    metric = TinyDistance(num_frames=6)
    values = [run(places, metric).metrics["tiny_fd"].value for _ in range(2)]
    assert values[0] == values[1]


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    read = StoredClips.read

    def counted(self: StoredClips, numbers: Any) -> Any:
        seen.extend(numbers)
        return read(self, numbers)

    monkeypatch.setattr(StoredClips, "read", counted)
    return seen


def test_second_evaluation_of_the_same_videos_decodes_nothing(places, monkeypatch):
    settings = Settings(progress=False, num_samples=4)
    first = run(places, TinyDistance(num_frames=6), settings=settings)
    seen = reads(monkeypatch)
    second = run(places, TinyDistance(num_frames=6), settings=settings)
    assert seen == []
    assert second.metrics["tiny_fd"].value == first.metrics["tiny_fd"].value
    assert second.metrics["tiny_fd"].protocol == first.metrics["tiny_fd"].protocol
    assert second.all_warnings() == first.all_warnings()
    assert all(map(np.array_equal, second.samples.real, first.samples.real))


def test_features_of_generated_videos_may_be_left_unkept(places, monkeypatch):
    settings = Settings(progress=False, num_samples=0, keep_fake=False)
    run(places, TinyDistance(num_frames=6), settings=settings)
    seen = reads(monkeypatch)
    run(places, TinyDistance(num_frames=6), settings=settings)
    assert len(seen) == 20


@pytest.mark.parametrize(
    ("metrics", "given", "message"),
    [
        ([TinyDistance()], {"real": None}, "tiny_fd: needs real videos; give --real"),
        ([TinyOrder()], {"fake": None}, "tiny_order: needs fake videos; give --fake or --ckpt"),
        ([TinyError()], {}, "tiny_error: needs pairs; give --real and --fake, or a checkpoint that predicts"),
        ([TinyProbe()], {}, "tiny_probe: asks a model; give --ckpt"),
        ([TinyDistance(), TinyDistance()], {}, "metric 'tiny_fd' is asked for twice; measure it in two runs"),
        ([TinyDistance(num_frames=1)], {}, "tiny_fd: needs clips of at least 2 frames, got 1; raise num_frames"),
        ([TinyDistance()], {"limit": 1}, "tiny_fd: needs at least 2 real videos, got 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_read(places, monkeypatch, metrics, given, message):
    seen = reads(monkeypatch)
    limit = given.pop("limit", None)
    if limit:
        given = {"real": lambda rule: clips_of(places[0], ClipRule(6), limit)}
    with pytest.raises(UserError) as error:
        run(places, *metrics, **given)
    assert (str(error.value), seen) == (message, [])


def test_scores_of_classes_need_a_network_that_has_some(places, monkeypatch):
    monkeypatch.setattr(TinyExtractor, "classifies", False)
    metric = TinyOrder()
    metric.output = "logits"
    with pytest.raises(UserError, match=r"^tiny_order: needs a network with classes; tiny has none$"):
        run(places, metric)


def test_fvd_below_nine_frames_is_refused(places, monkeypatch):
    from vidgen.metrics.extractors.i3d import I3D

    monkeypatch.setattr("vidgen.metrics.video_distances.shared_extractor", lambda *_, **__: TinyI3D())
    assert I3D.min_frames == 9
    from vidgen.metrics.video_distances import FrechetVideoDistance

    with pytest.raises(UserError, match=r"^fvd: needs clips of at least 9 frames, got 8; raise num_frames$"):
        run(places, FrechetVideoDistance(num_frames=8))


class TinyI3D(TinyExtractor):
    """As demanding as I3D."""

    min_frames = 9


def test_numbers_that_are_none_are_errors(places):
    class Nan(TinyDistance):
        def result(self) -> tuple[float, dict[str, Any]]:
            return float("nan"), {}

    class Wrong(TinyDistance):
        def result(self) -> tuple[float, dict[str, Any]]:
            raise ValueError("no\nnumber")

    with pytest.raises(UserError, match=r"^tiny_fd: the value is nan; a video or a network is at fault$"):
        run(places, Nan(num_frames=6))
    with pytest.raises(UserError, match=r"^no number$"):
        run(places, Wrong(num_frames=6))
    with pytest.raises(UserError, match=r"^tiny_fd: a feature of the real videos is no finite number$"):
        run(places, TinyDistance(num_frames=6, factor=float("inf")))


def test_clips_are_cut_as_a_metric_wants_them():
    settings = Settings(seed=3, start="first", fake_start="random", clips_per_video=2)
    metric = TinyDistance(num_frames=5, stride=3)
    metric.order = "first"
    assert clip_rule(metric, "real", settings) == ClipRule(5, 3, "first", "first", 2, 3)
    assert clip_rule(metric, "fake", settings) == ClipRule(5, 3, "shuffled", "random", 2, 3)
    assert clip_rule(TinyDistance(), "real", settings).num_frames == 16
    metric.whole_strides = True
    assert clip_rule(metric, "fake", settings) == ClipRule(5, 3, "shuffled", "random", 2, 3)
    assert clip_rule(metric, "fake", settings, predicted=True) == ClipRule(5, 3, "first", "first", 2, 3, True)
    metric.skip_frames = 4
    with pytest.raises(UserError) as error:
        clip_rule(metric, "fake", settings)
    assert str(error.value) == (
        "tiny_fd: needs clips of at least 2 frames, and 5 less the 4 that are skipped are 1; raise num_frames"
    )


def test_generated_videos_are_measured_whatever_the_batch_size(places):
    def fake(rule: ClipRule) -> GeneratedClips:
        return GeneratedClips(SeededNoise(size=8).eval(), 20, rule, seed=1, about={"checkpoint": "cafe"})

    results = [
        run(places, TinyDistance(num_frames=6), fake=fake,
            settings=Settings(progress=False, batch_size=size, keep_fake=False))
        for size in (1, 7, 16)
    ]  # fmt: skip
    assert len({result.metrics["tiny_fd"].value for result in results}) == 1
    about = results[0].metrics["tiny_fd"].protocol["fake"]
    assert (about["source"], about["checkpoint"], about["num_clips"], about["seed"]) == ("checkpoint", "cafe", 20, 1)


def test_pairs_and_models_are_asked_too(places):
    rule = ClipRule(6, order="first", start="first")
    pairs = Pairs(clips_of(places[0], rule), clips_of(places[1], rule), ["a note"], "order")
    model = SeededNoise(size=8).eval()
    with torch.no_grad():
        model.shift += 0.5
    result = run(places, TinyError(), TinyProbe(), pairs=pairs, model=model)
    expected = np.abs(REAL[:20].astype(float) - FAKE.astype(float)).mean()
    assert result.metrics["tiny_error"].value == pytest.approx(expected)
    assert result.metrics["tiny_probe"].value == 0.5
    protocol = result.metrics["tiny_error"].protocol
    assert (protocol["pairing"], protocol["real"]["num_clips"], protocol["fake"]["num_clips"]) == ("order", 20, 20)
    assert result.warnings == ("a note",)
    assert result.samples.real == ()


def test_frames_and_videos_are_measured_together(places):
    result = run(places, FrameDistance(6), TinyDistance(num_frames=6))
    assert result.metrics["frame_fd"].protocol["dtype"]["network"] == "float32"
    assert list(result.metrics) == ["frame_fd", "tiny_fd"]
