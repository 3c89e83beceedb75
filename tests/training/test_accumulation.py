"""Several batches in an iteration: nothing happens between them, and a run that ends there is resumed exactly."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger

from tests.contract.running import build, train, weights
from tests.contract.test_training import assert_same
from vidgen.cli.main import main
from vidgen.models.base import Batch, LossTerms
from vidgen.models.svg import SVG
from vidgen.training.ema import ModuleAverage
from vidgen.training.evaluation import PeriodicEvaluation
from vidgen.training.monitor import IterationProgress, RunMonitor, SampleGrids
from vidgen.training.settings import EMASettings, EvaluationSettings

CONFIG = """\
model: {name: svg, channels: 3, resolution: 16, num_frames: 4, n_past: 2, widths: [2, 2, 2, 2], g_dim: 4, z_dim: 2,
  rnn_size: 4, sampling_group: 2}
data: {name: moving_shapes, resolution: 16, num_frames: 4, num_videos: 8, batch_size: 2}
trainer: {max_steps: 6, accelerator: cpu, accumulate_grad_batches: 2}
checkpoint: {every: 2, keep_last: 9}
log: {every: 4, num_samples: 2}
"""
SAVED = [f"iteration_{number:08d}.ckpt" for number in (2, 4, 6)]


class Nothing:
    """An evaluation that found nothing."""

    metrics: dict[str, Any] = {}

    def save(self, path: Path) -> None:
        """Keep nothing."""


def test_nothing_is_logged_saved_drawn_or_measured_between_micro_batches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, monitor, measured = CSVLogger(tmp_path, name="", version=""), RunMonitor(2), []
    evaluation = PeriodicEvaluation(tmp_path, EvaluationSettings(every=2, metrics=[]), None, None)
    monkeypatch.setattr(evaluation, "measure", lambda model, iteration: measured.append(iteration) or Nothing())
    monkeypatch.setattr(SampleGrids, "make", lambda *_: torch.zeros(3, 4, 16, 16, dtype=torch.uint8))
    batches: list[int] = []
    window: list[int] = []

    class Attach(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer._loggers = [logger]

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            batches.append(trainer.global_step)
            window.append(monitor._iterations)

    grids = SampleGrids(tmp_path / "grids", every=2, num_samples=1, fps=8)
    saved = tmp_path / "checkpoints"
    train(
        build("svg", "default"),
        4,
        folder=saved,
        every=2,
        callbacks=(Attach(), monitor, IterationProgress(monitor), grids, evaluation),
        enable_progress_bar=True,
        accumulate_grad_batches=3,
    )
    assert batches == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4]
    with open(tmp_path / "metrics.csv") as file:
        assert [row["step"] for row in csv.DictReader(file) if row["loss/total"]] == ["2", "4"]
    assert window == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1], "speed is that of iterations"
    assert sum(" it/s " in line for line in capsys.readouterr().out.splitlines()) == 2
    assert sorted(path.name for path in saved.iterdir()) == SAVED[:2]
    assert sorted(path.stem for path in (tmp_path / "grids").iterdir()) == ["iteration_00000002", "iteration_00000004"]
    assert measured == [2, 4]


def test_an_average_counts_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SVG, "ema_modules", ("predictor",))
    model, average = build("svg", "default"), ModuleAverage(EMASettings(decay=0.9, ramp_up=10))
    states: list[dict[str, torch.Tensor]] = [weights(model)]

    class History(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            if trainer.global_step == len(states):
                states.append(weights(pl_module))

    train(model, 4, callbacks=(average, History()), accumulate_grad_batches=3)
    assert len(states) == 5
    for key, value in average.average.items():
        expected = states[0][key]
        for number, state in enumerate(states[1:], start=1):
            decay = min(0.9, (1 + number) / (10 + number))
            expected = decay * expected + (1 - decay) * state[key]
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7, msg=key)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a config, and no trace of a launcher."""
    monkeypatch.chdir(tmp_path)
    for name in ("VIDGEN_RUN_DIR", "RANK", "LOCAL_RANK", "SLURM_PROCID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "x.yaml").write_text(CONFIG)
    return tmp_path


def fit(out: str, *arguments: str) -> int:
    """``vidgen fit`` on the config."""
    return main(["fit", "--config", "x.yaml", "--out", out, *arguments])


@pytest.mark.parametrize(("end", "batch"), [("killed", 5), ("killed", 8), ("terminated", 5), ("terminated", 6)])
def test_a_run_that_ends_in_mid_iteration_goes_on_exactly(
    folder: Path, monkeypatch: pytest.MonkeyPatch, end: str, batch: int
) -> None:
    """Batches count from 1: with two in an iteration, the odd ones are first."""
    assert fit("whole") == 0
    assert sorted(path.name for path in Path("whole/checkpoints").iterdir()) == SAVED
    loss, met = SVG.loss, []

    def ends(self: SVG, batch_given: Batch) -> LossTerms:
        met.append(self.iteration_number)
        if len(met) == batch:
            if end == "killed":
                raise KeyError("the machine is gone")
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(self, batch_given)

    with monkeypatch.context() as patch:
        patch.setattr(SVG, "loss", ends)
        if end == "killed":
            with pytest.raises(KeyError):
                fit("broken")
            stopped = (batch - 1) // 4 * 2
        else:
            assert fit("broken") == 128 + signal.SIGTERM
            stopped = -(-batch // 2)
    assert met == [number // 2 for number in range(batch if end == "killed" else 2 * stopped)]
    assert max(path.name for path in Path("broken/checkpoints").iterdir()) == f"iteration_{stopped:08d}.ckpt"
    assert fit("broken", "--resume", "auto") == 0
    one, two = (torch.load(f"{out}/checkpoints/{SAVED[-1]}", weights_only=True) for out in ("whole", "broken"))
    assert_same(one, two, skip={"loops"})
