"""Models that continue videos: measured beside what really follows, and on both sides of the same contexts."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

from tests.evaluation.tiny import METRICS, TinyDistance, TinyExtractor, clips_of, distance_of, videos
from tests.guessing_model import Guess
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.evaluation.pairs import Pairs
from vidgen.evaluation.request import Request, Trained
from vidgen.evaluation.request import run as run_request
from vidgen.evaluation.result import Evaluation
from vidgen.evaluation.run import Settings, evaluate
from vidgen.evaluation.sources import ClipRule, GeneratedClips, StoredClips
from vidgen.metrics.base import VideoMetric
from vidgen.metrics.best_of import BestOfN
from vidgen.metrics.image_quality import PeakSignalToNoiseRatio, StructuralSimilarity

QUIET = Settings(progress=False, num_samples=0)
UNKEPT = Settings(progress=False, num_samples=0, keep_real=False, keep_fake=False)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Nine videos of ten frames."""
    np.save(tmp_path / "real.npy", videos(9, frames=10, side=16, seed=3))
    return tmp_path / "real.npy"


def predicted(
    place: Path,
    model: Guess,
    *metrics: VideoMetric,
    number: int = 9,
    frames: int = 6,
    settings: Settings = QUIET,
    keywords: dict[str, Any] | None = None,
) -> Evaluation:
    """Measure a model as `vidgen eval` does."""

    def fake(rule: ClipRule) -> GeneratedClips:
        return GeneratedClips(model.eval(), number, rule, condition=clips_of(place, rule), keywords=keywords)

    whole = ClipRule(frames, order="first", start="first")
    return evaluate(
        metrics,
        real=lambda rule: clips_of(place, rule, number),
        fake=fake,
        pairs=Pairs(clips_of(place, whole, number), fake(whole)),
        model=model,
        keywords=keywords,
        settings=settings,
    )


def in_order(metric: VideoMetric) -> VideoMetric:
    metric.order = "first"
    return metric


@pytest.mark.parametrize("number", [5, 9])
@pytest.mark.parametrize("start", ["random", "first"])
@pytest.mark.parametrize("prepare", [lambda metric: metric, in_order])
def test_both_sides_are_of_the_same_contexts(real, number, start, prepare):
    metric = prepare(TinyDistance(num_frames=6))
    given_all = Guess(n_past=6)  # which repeats what it is given
    settings = Settings(progress=False, start=start, seed=4)
    result = predicted(real, given_all, metric, number=number, settings=settings)
    protocol = result.metrics["tiny_fd"].protocol
    assert protocol["real"]["fingerprint"] == protocol["fake"]["fingerprint"]
    assert result.metrics["tiny_fd"].value == pytest.approx(0, abs=1e-9)
    assert all(map(np.array_equal, result.samples.real, result.samples.fake))
    assert len(result.samples.real) == min(number, 8)


def test_the_context_counts_unless_it_is_skipped(real):
    class Skipping(TinyDistance):
        name = "skipping"
        skip_frames = "context"

    result = predicted(real, Guess(n_past=2), TinyDistance(num_frames=6), Skipping(num_frames=6))
    arrays = [
        np.stack([clip.video.permute(1, 2, 3, 0).numpy() for clip in source.read(range(9))])
        for rule in [ClipRule(6)]
        for source in (
            clips_of(real, rule),
            GeneratedClips(Guess(n_past=2), 9, rule, condition=clips_of(real, rule)),
        )
    ]
    whole, cut = (result.metrics[name] for name in ("tiny_fd", "skipping"))
    assert whole.value == pytest.approx(distance_of(*arrays), abs=1e-7)
    assert cut.value == pytest.approx(distance_of(*(array[:, 2:] for array in arrays)), abs=1e-7)
    for metric, skipped in ((whole, 0), (cut, 2)):
        assert {key: metric.protocol[key] for key in ("context_frames", "skip_frames", "num_frames")} == {
            "context_frames": 2, "skip_frames": skipped, "num_frames": 6,
        }  # fmt: skip


def test_what_the_model_was_given_is_left_out_of_the_pairs(real):
    metrics = [PeakSignalToNoiseRatio(), StructuralSimilarity(context_frames=0)]
    for n_past in (2, 4):  # the same metrics, measured again
        result = predicted(real, Guess(n_past=n_past), *metrics)
        about = {name: metric.protocol for name, metric in result.metrics.items()}
        assert (about["psnr"]["context_frames"], about["psnr"]["num_frames"]) == (n_past, 6 - n_past)
        assert (about["ssim"]["context_frames"], about["ssim"]["num_frames"]) == (0, 6)
        assert result.metrics["ssim"].details["per_frame"][:n_past] == pytest.approx([1] * n_past)
        assert "infinite_frames" not in result.metrics["psnr"].details


def test_keywords_decide_what_the_model_was_given(real):
    result = predicted(
        real, Guess(optional=True), PeakSignalToNoiseRatio(), TinyDistance(num_frames=6), keywords={"observed": 3}
    )
    assert result.metrics["psnr"].protocol["context_frames"] == 3
    assert result.metrics["tiny_fd"].protocol["context_frames"] == 3


def test_two_folders_have_no_context(tmp_path):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", videos(3, side=16, seed=ord(name)))
    pairs = Pairs(*(clips_of(tmp_path / f"{name}.npy", ClipRule(6, order="first", start="first")) for name in "ab"))
    metric = PeakSignalToNoiseRatio()
    metric.set_context(4)  # by an evaluation of a model
    result = evaluate([metric], pairs=pairs, settings=QUIET)
    assert result.metrics["psnr"].protocol["context_frames"] == 0


def test_samples_are_drawn_once_for_all_scores(real):
    model = Guess(n_past=2)
    metrics = [BestOfN(["psnr", "ssim"], 4), BestOfN("psnr", 2, chosen_by="psnr"), StructuralSimilarity("svg")]
    result = predicted(real, model, *metrics)
    assert list(result.metrics) == ["psnr_best_of_4", "ssim_best_of_4", "psnr_best_of_2", "ssim"]
    assert len(model.calls) == len(set(model.calls)) == 4 * 2  # four samples of nine sequences, eight at a time
    about = result.metrics["ssim_best_of_4"].protocol
    assert (about["pairing"], about["num_samples"], about["num_videos"], about["context_frames"]) == (
        "condition",
        4,
        9,
        2,
    )
    assert about["fake"]["num_clips"] == about["real"]["num_clips"] == 9
    four, two = (result.metrics[f"psnr_best_of_{number}"].details for number in (4, 2))
    assert four["own_choice"]["value"] > two["own_choice"]["value"]


def share(place: str) -> dict[str, Any]:
    metrics = [BestOfN(["psnr", "ssim"], 3), PeakSignalToNoiseRatio(), TinyDistance(num_frames=6)]
    found = predicted(
        Path(place), Guess(n_past=2), *metrics, settings=Settings(progress=False, keep_fake=False)
    ).metrics
    details = found["psnr_best_of_3"].details["own_choice"]
    return {"details": details, "about": found["psnr"].protocol["num_videos"]} | {
        name: metric.value for name, metric in found.items()
    }


def test_two_processes_equal_one(real, pair):
    alone = share(str(real))
    first, second = pair.run(share, place=str(real))
    assert first == second and first["about"] == alone["about"] == 9
    for name in ("psnr_best_of_3", "ssim_best_of_3", "psnr", "tiny_fd"):
        assert first[name] == pytest.approx(alone[name], rel=1e-9)
    for name in ("per_frame", "ci95_half_width"):
        assert first["details"][name] == pytest.approx(alone["details"][name], rel=1e-9)


def groups_of(place: str) -> list[bool]:
    group = torch.distributed.new_group()
    metric = BestOfN(["psnr", "ssim"], 2)
    with patch("vidgen.evaluation.run.control_group", lambda: group):
        predicted(Path(place), Guess(n_past=2), metric, settings=UNKEPT)
    return [one.process_group is group for one in (metric, *metric.members())]


def test_all_scores_are_merged_where_states_on_the_processor_can_be(real, pair):
    assert pair.run(groups_of, place=str(real)) == [[True] * 3] * 2


def test_names_of_all_scores_must_differ(real):
    with pytest.raises(UserError, match=r"^metric 'psnr_best_of_2' is asked for twice; measure it in two runs$"):
        predicted(real, Guess(), BestOfN(["ssim", "psnr"], 2), BestOfN("psnr", 2))


def test_one_answer_needs_no_samples(real):
    result = predicted(real, Guess(noise=0.0), BestOfN("ssim", 3), StructuralSimilarity())
    assert result.metrics["ssim_best_of_3"].warnings == (
        "ssim_best_of_3: guess makes the same video whatever the seed, so that its 3 samples are equal",
    )
    assert result.metrics["ssim"].warnings == ()
    details = result.metrics["ssim_best_of_3"].details
    assert details["own_choice"]["per_frame"] == pytest.approx(details["mean_of_samples"]["per_frame"])
    assert predicted(real, Guess(), BestOfN("ssim", 3)).metrics["ssim_best_of_3"].warnings == ()


@pytest.mark.parametrize(
    ("metrics", "frames", "message"),
    [
        ([PeakSignalToNoiseRatio()], 3, "psnr: 3 context frames of 3 leave none to compare; take longer videos"),
        (
            [BestOfN(["psnr", "ssim"], 2)],
            2,
            "best_of_n: 3 context frames of 2 leave none to compare; take longer videos",
        ),
        (
            [in_order(TinyDistance(num_frames=4))],
            6,
            "tiny_fd: needs clips of at least 2 frames, and 4 less the 3 that are skipped are 1; raise num_frames",
        ),
    ],
)
def test_a_context_that_leaves_nothing_is_refused_before_the_work(real, monkeypatch, metrics, frames, message):
    monkeypatch.setattr(TinyDistance, "skip_frames", "context")
    monkeypatch.setattr(StoredClips, "read", None)
    model = Guess(n_past=3)
    with pytest.raises(UserError) as error:
        predicted(real, model, *metrics, frames=frames)
    assert (str(error.value), model.calls) == (message, [])


def test_a_context_to_skip_that_nobody_knows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(TinyDistance, "skip_frames", "context")
    np.save(tmp_path / "a.npy", videos(3))
    with pytest.raises(UserError) as error:
        evaluate(
            [TinyDistance(num_frames=6)],
            real=lambda rule: clips_of(tmp_path / "a.npy", rule),
            fake=lambda rule: clips_of(tmp_path / "a.npy", rule),
            settings=QUIET,
        )
    assert str(error.value) == (
        "tiny_fd: skip_frames is context, and no model tells how many frames it was given; give their number, as in"
        " skip_frames=5"
    )


# As asked for on the command line -----------------------------------------------------------------------------------


def asked(place: Path, model: Guess, *metrics: str, **request: Any) -> Evaluation:
    about = {"data_spec": DataSpec(3, 16, 6, None, 4, 6, 30).to_dict()}
    fingerprint = str(model.init_args)
    trained = Trained(model.eval(), "x.ckpt", about, fingerprint, "ema", keywords=request.pop("keywords", {}))
    request.setdefault("common", {"num_frames": 6})
    return run_request(Request(metrics, **{"real": str(place), "trained": trained, "settings": QUIET, **request}))


@pytest.mark.parametrize(("keywords", "context"), [({}, 2), ({"observed": 3}, 3)])
def test_what_a_model_is_given_is_left_out_of_what_it_is_compared_by(real, keywords, context):
    tiny = METRICS + "TinyDistance"
    result = asked(real, Guess(n_past=2), "psnr", tiny, keywords=keywords)
    found = {name: metric.protocol["context_frames"] for name, metric in result.metrics.items()}
    assert found == {"psnr": context, "tiny_fd": context}
    assert result.metrics["psnr"].protocol["num_frames"] == 6 - context
    other = asked(real, Guess(n_past=2), "psnr", keywords=keywords, overrides=["psnr.context_frames=1"])
    assert other.metrics["psnr"].protocol["context_frames"] == 1


@pytest.mark.parametrize(("protocol", "start"), [("original", "random"), ("styleganv", "random"), ("tats", "first")])
def test_published_protocols_are_of_the_same_contexts_too(real, monkeypatch, protocol, start):
    monkeypatch.setattr("vidgen.metrics.video_distances.shared_extractor", lambda *_, **__: TinyExtractor())
    settings = Settings(progress=False, num_samples=0, start=start, seed=2)
    common = {"num_frames": 6, "protocol": protocol}
    result = asked(real, Guess(n_past=6), "fvd", "kvd", num_videos=5, common=common, settings=settings)
    about = result.metrics["fvd"].protocol
    assert about["real"]["fingerprint"] == about["fake"]["fingerprint"]
    assert about["real"]["num_clips"] == 5
    assert result.metrics["fvd"].value == pytest.approx(0, abs=1e-9)
    skipped = asked(
        real, Guess(n_past=2), "fvd", "kvd", num_videos=5, common=common, settings=settings,
        overrides=["fvd.skip_frames=context", "kvd.skip_frames=1"],
    )  # fmt: skip
    assert [metric.protocol["skip_frames"] for metric in skipped.metrics.values()] == [2, 1]
    whole = asked(real, Guess(n_past=2), "fvd", num_videos=5, common=common, settings=settings)
    assert 0 < whole.metrics["fvd"].value != pytest.approx(skipped.metrics["fvd"].value)
