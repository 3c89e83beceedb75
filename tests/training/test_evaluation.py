"""Measuring while training: it changes nothing, it measures what would be saved, and it can keep the best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vidgen
from tests.pair import ProcessPair
from tests.training.small_metric import ColourDistance
from vidgen.checkpoint import read_checkpoint
from vidgen.cli.main import main
from vidgen.config import build_dataset, check_data, compose
from vidgen.evaluation.request import Trained
from vidgen.evaluation.run import Settings, evaluate
from vidgen.evaluation.sources import StoredClips

METRIC = "tests.training.small_metric.ColourDistance"
CONFIG = """\
model: {name: mocogan, resolution: 16, num_frames: 10, dim_content: 4, dim_motion: 3, generator_width: 4,
  discriminator_width: 4, instance_noise: 0.1}
data: {name: moving_shapes, resolution: 16, num_frames: 10, num_videos: 8, batch_size: 2, images_per_batch: 2}
trainer: {max_steps: 4, accelerator: cpu}
ema: {decay: 0.95}
checkpoint: {every: 1, keep_last: 9}
log: {every: 1, num_samples: 1}
"""
EVAL = f"eval={{every: 2, metrics: [{{name: {METRIC}, num_frames: 10}}], num_videos: 5}}"
NAME = "eval/colour_distance"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a config, and no trace of a launcher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    for name in ("VIDGEN_RUN_DIR", "RANK", "LOCAL_RANK", "SLURM_PROCID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "x.yaml").write_text(CONFIG)
    return tmp_path


def fit(out: str, *arguments: str) -> int:
    """``vidgen fit`` on the config."""
    return main(["fit", "--config", "x.yaml", "--out", out, *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a run is refused."""
    assert fit("refused", *arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("vidgen: error: ")


def same(first: Any, second: Any, path: str = "") -> None:
    """Assert that two nested values are equal, bit for bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            same(first[key], second[key], f"{path}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), path
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            same(one, other, f"{path}.{number}")
    else:
        assert first == second, path


def values(out: str) -> dict[int, float]:
    """What was measured at which iteration."""
    found = {}
    for path in sorted(Path(out, "evaluations").glob("*.json")):
        content = json.loads(path.read_text())
        found[int(path.stem.rpartition("_")[2])] = content["metrics"]["colour_distance"]["value"]
    return found


def test_a_run_ends_in_the_same_state_with_and_without_evaluation() -> None:
    assert fit("without") == 0
    assert fit("with", EVAL) == 0
    assert list(values("with")) == [2, 4]
    for iteration in (1, 2, 3, 4):
        name = f"checkpoints/iteration_{iteration:08d}.ckpt"
        without, with_ = (read_checkpoint(Path(out, name)) for out in ("without", "with"))
        for part in ("state_dict", "optimizer_states", "ema", "random_states", "meter"):
            same(without[part], with_[part], f"{iteration} {part}")


def measured_by_hand(checkpoint: Path, ema: bool) -> float:
    """The value of a checkpoint, from the outside."""
    dataset = build_dataset(check_data(compose("x.yaml"))[0])
    about = read_checkpoint(checkpoint)["vidgen"]
    trained = Trained(vidgen.load(checkpoint, ema=ema), str(checkpoint), about, "", "ema" if ema else "raw")
    found = evaluate(
        [ColourDistance(num_frames=10)],
        real=lambda rule: StoredClips(dataset, rule, native=False, name="data", limit=5),
        fake=lambda rule: trained.clips(rule, 5, None),
        settings=Settings(keep_real=False, keep_fake=False, progress=False),
    )
    return found.metrics["colour_distance"].value


def test_the_averaged_weights_are_measured() -> None:
    assert fit("run", EVAL) == 0
    last = Path("run/checkpoints/iteration_00000004.ckpt")
    assert values("run")[4] == pytest.approx(measured_by_hand(last, ema=True), rel=1e-9)
    assert values("run")[4] != pytest.approx(measured_by_hand(last, ema=False), rel=1e-6)


def test_without_an_average_the_raw_weights_are_measured() -> None:
    assert fit("run", EVAL, "ema=null") == 0
    last = Path("run/checkpoints/iteration_00000004.ckpt")
    assert values("run")[4] == pytest.approx(measured_by_hand(last, ema=False), rel=1e-9)


def test_values_are_logged() -> None:
    assert fit("run", EVAL) == 0
    lines = Path("run/logs/csv/from_00000000/metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index(NAME)
    logged = [float(cell) for line in lines[1:] if (cell := line.split(",")[column])]
    assert logged == pytest.approx(list(values("run").values()))


@pytest.mark.parametrize(("mode", "choose"), [("min", min), ("max", max)])
def test_the_best_checkpoint_is_kept(mode: str, choose: Any) -> None:
    assert fit("run", EVAL, f"checkpoint.monitor={NAME}", f"checkpoint.mode={mode}", "trainer.max_steps=6") == 0
    measured = values("run")
    best = read_checkpoint(Path("run/checkpoints/best.ckpt"))["vidgen"]["iteration"]
    assert measured[best] == choose(measured.values())
    assert best in (2, 4, 6)


def test_the_last_iteration_is_always_measured() -> None:
    assert fit("run", EVAL, "trainer.max_steps=3") == 0
    assert list(values("run")) == [2, 3]


def test_an_evaluation_that_fails_costs_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: ColourDistance) -> None:
        raise ValueError("no value today")

    monkeypatch.setattr(ColourDistance, "result", fails)
    assert fit("run", EVAL) == 0
    lines = [record.getMessage() for record in caplog.records if "evaluated" in record.getMessage()]
    assert lines == [f"iteration {n} could not be evaluated: no value today; training goes on" for n in (2, 4)]
    assert Path("run/checkpoints/iteration_00000004.ckpt").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval={every: 2, metrics: [fdv]}"], "eval.metrics: unknown metric 'fdv'; did you mean 'fvd'?"),
        (["eval={every: 0, metrics: [fvd]}"], "eval.every: expected at least 1, got 0"),
        (["eval={metrics: [fvd]}"], "eval.every: missing; give it in the config or as eval.every=VALUE"),
        (
            ["eval={every: 2, metrics: [{name: fvd_inf, weights: random, num_frames: 10}], num_videos: 4}"],
            "eval.metrics: fvd_inf_random_i3d: needs at least 1024 fake videos, got 4",
        ),
        (
            ["eval={every: 2, metrics: [{name: fvd, weights: random, num_frames: 8}], num_videos: 4}"],
            "eval.metrics: fvd_random_i3d: needs clips of at least 9 frames, got 8; raise num_frames",
        ),
        (["eval={every: 2, metrics: []}"], "eval.metrics: expected a list of metrics"),
        (["eval={every: 2, metrics: [{name: fvd, protocl: tats}]}"], "eval.metrics: fvd.protocl: unknown key"),
        (
            [f"eval={{every: 2, metrics: [{METRIC}]}}"],
            "eval.metrics: colour_distance takes clips of 16 frames at stride 1, and the longest training video has 10;"
            " set the metric's num_frames or stride",
        ),
        ([f"checkpoint.monitor={NAME}"], f"checkpoint.monitor: '{NAME}' is not measured; add a section eval"),
        (
            [EVAL, f"checkpoint.monitor={NAME}", "checkpoint.every=4"],
            f"eval.every: 2 is no multiple of checkpoint.every 4; then checkpoint.monitor '{NAME}' would have no"
            " checkpoint to keep",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert refused(capsys, *arguments).startswith(message)
    assert not Path("refused").exists()


def test_metrics_that_the_model_offers_nothing_for_end_the_run_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    message = "eval.metrics: psnr compares predictions with real videos, and mocogan predicts none; leave it out"
    assert refused(capsys, "eval={every: 2, metrics: [psnr], num_videos: 4}") == message
    assert not list(Path("refused").glob("checkpoints/*"))


def test_weights_that_are_not_there_end_the_run_before_it_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDGEN_OFFLINE", "1")
    message = refused(capsys, "eval={every: 2, metrics: [fvd]}")
    assert "model.ckpt.data-00000-of-00001" in message and "https://" in message
    assert not list(Path("refused").rglob("*.ckpt"))


def test_a_dry_run_says_what_would_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "x.yaml", EVAL, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "evaluation every 2 iterations: colour_distance of 5 videos"


def measure(folder: str) -> dict[int, float]:
    """Train on this process's share, and say what was measured."""
    import os

    os.chdir(folder)
    os.environ["VIDGEN_CACHE"] = str(Path(folder, "cache"))
    from vidgen.config import check
    from vidgen.training.fit import fit as fit_stages

    stages = check(compose("x.yaml", [EVAL, "trainer.devices=2"]))
    fit_stages(stages, Path("pair"))
    return values("pair")


def test_two_processes_measure_what_one_does(folder: Path, pair: ProcessPair) -> None:
    assert fit("run", EVAL) == 0
    first, second = pair.run(measure, folder=str(folder))
    assert first == second
    assert first == pytest.approx(values("run"), rel=1e-4)  # the weights differ by the rounding of the gradients


PREDICTING = """\
model: {name: svg, channels: 3, resolution: 16, num_frames: 6, n_past: 2, widths: [4, 6, 6, 6], g_dim: 6, z_dim: 3,
  rnn_size: 8, sampling_group: 3}
data: {name: moving_shapes, resolution: 16, num_frames: 6, num_videos: 5, batch_size: 2}
trainer: {max_steps: 1, accelerator: cpu}
log: {every: 1, num_samples: 1}
"""


def predicting(folder: Path, *metrics: str) -> str:
    """The setting that measures a predicting model with these metrics."""
    (folder / "x.yaml").write_text(PREDICTING)
    return f"eval={{every: 1, metrics: [{', '.join(metrics)}], num_videos: 4}}"


def test_predictions_are_measured_beside_what_really_follows(folder: Path) -> None:
    scores = "{name: best_of_n, metric: [psnr, ssim], num_samples: 2}"
    assert fit("run", predicting(folder, scores, "psnr", f"{{name: {METRIC}, num_frames: 6}}")) == 0
    out = Path("run/evaluations")
    content = json.loads((out / "iteration_00000001.json").read_text())["metrics"]
    labels = ["psnr_best_of_2", "ssim_best_of_2", "psnr"]
    assert list(content) == [*labels, "colour_distance"]
    for label in labels:
        about = content[label]["protocol"]
        assert (about["context_frames"], about["num_frames"], about["num_videos"]) == (2, 4, 4)
        assert len((out / f"iteration_00000001.{label}.csv").read_text().splitlines()) == 5
        assert (out / f"iteration_00000001.{label}.png").stat().st_size > 0
    about = content["colour_distance"]["protocol"]
    assert (about["context_frames"], about["skip_frames"]) == (2, 0)
    real, condition = about["real"]["clips"], about["fake"]["condition"]["clips"]
    assert (real["order"], real["start"], real["seed"]) == (condition["order"], condition["start"], condition["seed"])
    lines = Path("run/logs/csv/from_00000000/metrics.csv").read_text().splitlines()
    assert {f"eval/{label}" for label in labels} <= set(lines[0].split(","))


@pytest.mark.parametrize(
    ("metrics", "changes", "message"),
    [
        (
            ["{name: psnr, context_frames: 6}"],
            [],
            "eval.metrics: psnr: 6 context frames of 6 leave none to compare; take longer videos",
        ),
        (
            ["{name: fvd, weights: random, num_frames: 10, skip_frames: context}"],
            ["data.num_frames=10", "model.num_frames=10"],
            "eval.metrics: fvd_random_i3d: needs clips of at least 9 frames, and 10 less the 2 that are skipped are 8;"
            " raise num_frames",
        ),
        (
            [
                "{name: best_of_n, metric: [ssim, psnr], num_samples: 2}",
                "{name: best_of_n, metric: psnr, num_samples: 2}",
            ],
            [],
            "metric 'psnr_best_of_2' is asked for twice; measure it in two runs",
        ),
    ],
)
def test_predictions_that_could_never_be_measured_end_the_run_at_once(
    folder: Path, capsys: pytest.CaptureFixture[str], metrics: list[str], changes: list[str], message: str
) -> None:
    assert refused(capsys, predicting(folder, *metrics), *changes) == message
    assert not list(Path("refused").glob("checkpoints/*"))


def test_a_context_to_skip_needs_a_model_that_has_one(capsys: pytest.CaptureFixture[str]) -> None:
    skipping = "{name: fvd, weights: random, num_frames: 10, skip_frames: context}"
    assert refused(capsys, f"eval={{every: 2, metrics: [{skipping}], num_videos: 4}}") == (
        "eval.metrics: fvd_random_i3d: skip_frames is context, and no model tells how many frames it was given; give"
        " their number, as in skip_frames=5"
    )
