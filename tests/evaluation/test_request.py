"""What a user asks for, and everything that has to be opened for it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.strips import make_strips, random_frames, save_strip
from tests.evaluation.tiny import METRICS, distance_of, videos
from tests.guessing_model import Guess
from tests.noise_model import SeededNoise
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.evaluation.request import Request, Trained, metric_sections, run
from vidgen.evaluation.result import Evaluation
from vidgen.evaluation.run import Settings
from vidgen.media import to_uint8
from vidgen.models.vgan import VGAN

TINY, ORDER, ERROR = (METRICS + name for name in ("TinyDistance", "TinyOrder", "TinyError"))
SETTINGS = Settings(progress=False, num_samples=0)
CONFIG = "data: {{name: frame_strips, root: {root}, resolution: 8, num_frames: 6, flip: true}}\n"


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))


def trained(model: SeededNoise | None = None, **about: Any) -> Trained:
    made = (model or SeededNoise(size=8)).eval()
    spec = DataSpec(3, 8, 6, None, 4, 6, 30).to_dict()
    return Trained(made, "x.ckpt", {"data_spec": spec, "iteration": 3, **about}, "cafe", "ema")


def measured(*metrics: str, **request: Any) -> Evaluation:
    request.setdefault("common", {"num_frames": 6} if TINY in metrics else {})
    return run(Request(metrics, **{"settings": SETTINGS, **request}))


def message(*metrics: str, **request: Any) -> str:
    with pytest.raises(UserError) as error:
        measured(*metrics, **request)
    assert "\n" not in str(error.value)
    return str(error.value)


def counts(result: Evaluation, metric: str = "tiny_fd") -> list[int]:
    protocol = result.metrics[metric].protocol
    return [protocol[side]["num_clips"] for side in ("real", "fake") if side in protocol]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """30 real and 20 fake videos."""
    np.save(tmp_path / "real.npy", videos(30, seed=1))
    np.save(tmp_path / "fake.npy", videos(20, seed=2))
    return {"real": str(tmp_path / "real.npy"), "fake": str(tmp_path / "fake.npy")}


def test_as_many_real_videos_as_fake_ones(places):
    assert counts(measured(TINY, **places)) == [20, 20]
    assert counts(measured(TINY, **places, num_videos=7)) == [7, 7]
    assert counts(measured(TINY, **places, num_real=30)) == [30, 20]
    assert counts(measured(TINY, **places, num_real=30, num_videos=9)) == [30, 9]
    assert counts(measured(TINY, real=places["fake"], fake=places["real"], num_real=10)) == [10, 30]
    result = measured(TINY, **places, num_real=30)
    assert result.metrics["tiny_fd"].value == pytest.approx(
        distance_of(videos(30, seed=1), videos(20, seed=2)), abs=1e-7
    )


def test_the_published_number_at_most(places, monkeypatch):
    monkeypatch.setattr("vidgen.evaluation.request.PUBLISHED_NUM_VIDEOS", 8)
    assert counts(measured(TINY, **places)) == [8, 8]
    assert counts(measured(TINY, real=places["real"], trained=trained())) == [8, 8]
    assert counts(measured(TINY, **places, num_videos=11)) == [11, 11]


def test_several_clips_of_each_video(places):
    settings = Settings(progress=False, num_samples=0, clips_per_video=2, fake_start="random")
    assert counts(measured(TINY, **places, settings=settings, common={"num_frames": 3})) == [40, 40]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"num_videos": 21}, "--num-videos 21: --fake has 20 that are long enough"),
        ({"num_videos": 31}, "--num-videos 31: --fake has 20 that are long enough"),
        ({"num_real": 31}, "--num-real 31: --real has 30 that are long enough"),
        (
            {"common": {"num_frames": 7}},
            "--real: none of its 30 videos has the 7 frames of a clip of 7 at stride 1 (the longest has 6); lower"
            " --num-frames or --stride",
        ),
        (
            {"common": {"num_frames": 4, "stride": 2}},
            "--real: none of its 30 videos has the 7 frames of a clip of 4 at stride 2 (the longest has 6); lower"
            " --num-frames or --stride",
        ),
        ({"common": {"num_frames": 1}}, "tiny_fd: needs clips of at least 2 frames, got 1; raise num_frames"),
        ({"num_videos": 1}, "tiny_fd: needs at least 2 real videos, got 1"),
        ({"overrides": ["real.nme=3"]}, "real.nme: unknown key; did you mean 'name'?"),
    ],
)
def test_what_there_is_not_is_said(places, request_, expected):
    assert message(TINY, **places, **request_) == expected


def test_more_real_videos_than_there_are_though_a_model_makes_more(places):
    assert message(TINY, real=places["real"], trained=trained(), num_videos=31) == (
        "--num-videos 31: --real has 30 that are long enough"
    )
    result = measured(TINY, real=places["real"], trained=trained(), num_videos=40, num_real=30)
    assert counts(result) == [30, 40]


def test_metrics_of_clips_of_other_lengths_see_equally_many(tmp_path, monkeypatch):
    from tests.metrics.test_base import tiny

    monkeypatch.setattr("vidgen.metrics.video_distances.shared_extractor", tiny)
    for number in range(12):
        save_strip(tmp_path / "real" / f"{number:02d}.png", random_frames(6 if number < 9 else 20, 8, seed=number))
    np.save(tmp_path / "fake.npy", videos(11, frames=20))
    overrides = ["fvd_windows.window=6", "fvd_windows.total_frames=18"]
    result = measured("fvd_windows", real=str(tmp_path / "real"), fake=str(tmp_path / "fake.npy"), overrides=overrides)
    assert counts(result, "fvd_windows") == [11, 11]  # though three real videos alone have 18 frames
    assert len(result.metrics["fvd_windows"].details["windows"]) == 3


def test_real_videos_that_nobody_needs_are_refused(places):
    assert message(ORDER, **places) == "--real: tiny_order needs no real videos; leave it out"
    assert counts(measured(TINY, ORDER, **places)) == [20, 20]


def test_scores_of_generated_videos_need_no_data(monkeypatch):
    monkeypatch.setattr("vidgen.evaluation.request.PUBLISHED_NUM_VIDEOS", 8)
    assert counts(measured(ORDER, trained=trained()), "tiny_order") == [8]
    assert counts(measured(ORDER, trained=trained(), num_videos=5), "tiny_order") == [5]


def test_settings_of_a_side_need_that_side(places):
    assert message(ORDER, trained=trained(), overrides=["fake.name=arrays"]) == "fake.name=arrays: belongs to --fake"


def test_data_of_the_checkpoint_are_taken_as_they_were_trained_on(tmp_path):
    make_strips(tmp_path / "strips", {f"a/{n}.png": 6 for n in range(9)}, side=12)
    result = measured(TINY, trained=trained(config=CONFIG.format(root=tmp_path / "strips")))
    about = result.metrics["tiny_fd"].protocol["real"]
    assert (about["source"], about["path"], about["resolution"]) == ("frame_strips", "data of x.ckpt", [8, 8])
    assert counts(result) == [9, 9]
    assert not [line for line in result.all_warnings() if "size" in line]
    smaller = measured(TINY, trained=trained(config=CONFIG.format(root=tmp_path / "strips")), resolution=4)
    assert smaller.metrics["tiny_fd"].protocol["real"]["resolution"] == [4, 4]
    only = measured(
        TINY, trained=trained(config=CONFIG.format(root=tmp_path / "strips")), overrides=["real.resize=stretch"]
    )
    assert only.metrics["tiny_fd"].protocol["real"]["resize"] == "stretch"


def test_data_of_a_stage_of_the_checkpoint(tmp_path):
    make_strips(tmp_path / "strips", {f"a/{n}.png": 6 for n in range(4)})
    second = CONFIG.format(root=tmp_path / "strips").removeprefix("data: ")
    config = f"stages:\n  first: {{data: {{name: moving_shapes}}}}\n  second:\n    data: {second}"
    assert counts(measured(TINY, trained=trained(config=config, stage="second"))) == [4, 4]


def test_data_of_the_checkpoint_that_are_gone_are_one_line(tmp_path):
    make_strips(tmp_path / "strips", {"a/0.png": 6})
    given = trained(config=CONFIG.format(root=tmp_path / "strips"))
    shutil.rmtree(tmp_path / "strips")
    assert message(TINY, trained=given) == (
        f"x.ckpt: the data that it was trained on: data.root: no such folder: {tmp_path}/strips; give --real"
    )
    assert message(TINY, trained=trained()) == "x.ckpt: does not say which data it was trained on; give --real"


class Brighter(SeededNoise):
    """Continues a clip by the clip itself, brightened; other seeds brighten otherwise."""

    def sample(self, num_videos: int, *, num_frames: int | None = None, seed: int = 0, first: int = 0, batch: Any = None) -> Any:  # type: ignore[override]  # fmt: skip # noqa: E501
        """Brighten."""
        assert batch["video"].shape == (num_videos, self.channels, num_frames, self.size, self.size)
        return (batch["video"] + 0.2).clamp(-1, 1)


def test_predictions_are_made_for_real_clips_of_the_size_that_was_trained_on(tmp_path):
    make_strips(tmp_path / "strips", {f"{n}.png": 20 for n in range(9)}, side=12)
    model = Brighter(size=8, context="video")
    result = measured(TINY, ERROR, real=str(tmp_path / "strips"), trained=trained(model), num_videos=7)
    about = result.metrics["tiny_fd"].protocol
    assert (about["real"]["resolution"], about["fake"]["resolution"]) == ([8, 8], [8, 8])
    assert about["fake"]["condition"]["path"] == str(tmp_path / "strips")
    assert 15 < result.metrics["tiny_error"].value < 26
    assert result.metrics["tiny_error"].details == {"pairs": 7}
    assert result.metrics["tiny_error"].protocol["pairing"] == "condition"
    assert message(TINY, real=str(tmp_path / "strips"), trained=trained(model), num_videos=10, num_real=5) == (
        "--num-videos 10: --real has 9 that are long enough"
    )
    assert message(ERROR, real=str(tmp_path / "strips"), trained=trained(model), num_videos=10) == (
        "--num-videos 10: --real has 9 that are long enough"
    )


def test_predictions_are_as_long_as_trained_or_asked_for(tmp_path):
    make_strips(tmp_path / "strips", {f"{n}.png": 20 for n in range(3)})
    model = Brighter(size=8, context="video")
    for common, frames in (({}, 6), ({"num_frames": 11}, 11)):
        result = measured(ERROR, real=str(tmp_path / "strips"), trained=trained(model), common=common)
        assert result.metrics["tiny_error"].protocol["real"]["clips"]["num_frames"] == frames
        assert result.metrics["tiny_error"].protocol["fake"]["clips"]["num_frames"] == frames


def test_grey_models_are_given_grey_videos(tmp_path):
    make_strips(tmp_path / "strips", {f"{n}.png": 6 for n in range(9)})
    spec = DataSpec(1, 8, 6, None, 4, 6, 30).to_dict()
    model = trained(Brighter(size=8, channels=1, context="video"), data_spec=spec)
    assert counts(measured(TINY, real=str(tmp_path / "strips"), trained=model)) == [9, 9]


def test_predicting_models_need_real_videos_whatever_is_measured(tmp_path):
    model = trained(SeededNoise(context="video"))
    assert message(ORDER, trained=model) == "x.ckpt: does not say which data it was trained on; give --real"
    make_strips(tmp_path / "strips", {f"{n}.png": 20 for n in range(9)})
    given = trained(Brighter(size=8, context="video"))
    assert counts(measured(ORDER, trained=given, real=str(tmp_path / "strips")), "tiny_order") == [9]


def test_converted_models_are_given_frames_of_their_size():
    model = VGAN(**VGAN.small_variants()["first_frame"])
    assert Trained(model, "x.ckpt", {"data_spec": None}, "cafe", "ema").wants() == {"resolution": 16, "channels": 3}


def told(model: Guess, **keywords: Any) -> Trained:
    about = {"data_spec": DataSpec(3, 8, 6, None, 4, 6, 30).to_dict()}
    return Trained(model.eval(), "x.ckpt", about, "cafe", "ema", keywords)


def test_keywords_say_whether_a_model_predicts(places):
    result = measured(ERROR, TINY, real=places["real"], trained=told(Guess(optional=True), observed=4), num_videos=5)
    assert result.metrics["tiny_error"].details == {"pairs": 5}
    assert result.metrics["tiny_error"].protocol["pairing"] == "condition"
    assert result.metrics["tiny_fd"].protocol["fake"]["condition"]["path"] == places["real"]
    assert message(ERROR, real=places["real"], trained=told(Guess(optional=True))) == (
        "tiny_error: x.ckpt makes videos from a seed alone; say with sample.observed=N how many frames of the real ones"
        " it is given"
    )
    free = told(Guess(optional=True), observed=0)
    assert free.reads == () and free.wants() == {}
    assert told(Guess(optional=True), observed=1).wants() == {"resolution": 8, "channels": 3}
    assert measured(ORDER, trained=free, num_videos=5, common={"num_frames": 6}).metrics["tiny_order"].value > 0


def test_groups_are_of_all_real_videos_however_many_are_looked_at(places):
    shown = {}
    for number in (21, 30):  # 21 ends within a group
        settings = Settings(progress=False, num_samples=30, keep_fake=False)
        model = told(Guess(group=4))
        result = measured(TINY, real=places["real"], trained=model, num_videos=number, settings=settings)
        shown[number] = [int(video.astype(int).sum()) for video in result.samples.fake]
    assert shown[21] == shown[30][:21]
    some, all_of_them = Guess(group=4), Guess(group=4)
    measured(ERROR, real=places["real"], trained=told(some), num_videos=5)
    measured(ERROR, real=places["real"], trained=told(all_of_them))
    assert [call[:2] for call in some.calls] == [(0, 4), (4, 4)] and len(all_of_them.calls) == 8
    assert all(torch.equal(one, other) for one, other in zip(some.given, all_of_them.given, strict=False))


def test_pairs_of_stored_videos(places):
    assert message(ERROR, **places) == (
        "30 real and 20 fake videos make no pairs; give as many of each, or name pairs alike"
    )
    result = measured(ERROR, real=places["fake"], fake=places["fake"])
    assert (result.metrics["tiny_error"].value, result.metrics["tiny_error"].details) == (0, {"pairs": 20})
    assert message(ERROR, trained=trained(), real=places["real"]) == (
        "tiny_error: needs pairs; give --real and --fake, or a checkpoint that predicts"
    )


def test_generated_videos_do_not_depend_on_the_batch_size_and_on_what_is_kept(places):
    def value(batch: int, keep: bool) -> float:
        settings = Settings(progress=False, num_samples=0, batch_size=batch, keep_fake=keep)
        return measured(TINY, real=places["real"], trained=trained(), settings=settings).metrics["tiny_fd"].value

    values = {value(batch, keep) for batch, keep in ((1, False), (5, True), (16, True), (7, False))}
    made = to_uint8(SeededNoise(size=8).sample(30, num_frames=6)).permute(0, 2, 3, 4, 1).numpy()
    assert list(values) == [pytest.approx(distance_of(videos(30, seed=1), made), abs=1e-7)]


def test_seed_rounding_and_keywords_reach_the_model(places):
    given = trained()
    plain = measured(TINY, real=places["real"], trained=given).metrics["tiny_fd"].value
    changed = [
        Trained(given.model, "x", given.about, "cafe", "ema", keywords={"contrast": 0.5}),
        Trained(given.model, "x", given.about, "cafe", "ema", seed=1),
        Trained(given.model, "x", given.about, "cafe", "ema", rounding="truncate"),
    ]
    values = [measured(TINY, real=places["real"], trained=other).metrics["tiny_fd"].value for other in changed]
    assert len({plain, *values}) == 4


def test_sections_are_checked_against_the_metrics():
    def sections(*names: str, common: Any = None, overrides: Any = ()) -> Any:
        return metric_sections(names, common or {}, overrides)

    def refused(*names: str, **more: Any) -> str:
        with pytest.raises(UserError) as error:
            sections(*names, **more)
        return str(error.value)

    assert sections("fvd", "kid", common={"protocol": "tats", "weights": "random"}, overrides=["kid.subsets=3"]) == [
        {"name": "fvd", "protocol": "tats", "weights": "random"},
        {"name": "kid", "weights": "random", "subsets": 3},
    ]
    assert sections(TINY, overrides=[f"{TINY}.factor=2"]) == [{"name": TINY, "factor": 2.0}]
    assert refused("fvdd").startswith("--metric: unknown metric 'fvdd'; did you mean 'fvd'? (known: acd, ")
    assert refused("fid", common={"protocol": "tats"}) == "--protocol: none of the metrics (fid) has such a setting"
    assert refused("fid", common={"precision": "bfloat16"}).startswith("--precision: none of the metrics (fid)")
    assert refused("fvd", common={"protocol": "stylegan"}) == (
        "fvd.protocol: expected 'original' | 'styleganv' | 'styleganv_2048_16f' | 'styleganv_2048_128f' |"
        " 'styleganv_2048_128f_subsample8f' | 'tats' | 'videogpt', got 'stylegan' (str); did you mean 'styleganv'?"
    )
    assert refused("fvd", overrides=["fvd.num_framse=3"]) == "fvd.num_framse: unknown key; did you mean 'num_frames'?"
    assert refused("fvd", overrides=["fvd.num_frames=many"]) == "fvd.num_frames: expected int | None, got 'many' (str)"
    assert refused("fvd", overrides=["fdv.num_frames=3"]) == (
        "override 'fdv.num_frames=3': expected real.KEY, fake.KEY, sample.KEY or METRIC.KEY=VALUE; did you mean 'fvd'?"
    )
    assert refused("fvd", overrides=["num_frames=3"]).startswith("override 'num_frames=3': expected real.KEY, fake.KEY")
    assert refused("kvd", overrides=["kvd.ddof=0"]) == "kvd.ddof: unknown key"


def test_models_are_not_changed(places):
    model = SeededNoise(size=8).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    measured(TINY, real=places["real"], trained=trained(model))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
