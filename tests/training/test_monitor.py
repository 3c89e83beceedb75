"""What a run tells: logged means, speed, plain progress lines, grids that disturb nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger

from tests.contract.running import build, train, weights
from tests.guessing_model import Guess
from vidgen.media import grid, to_uint8
from vidgen.training.meters import MeanMeter
from vidgen.training.monitor import IterationProgress, RunMonitor, SampleGrids


def test_meter_averages_over_its_window_and_survives_a_checkpoint() -> None:
    meter = MeanMeter()
    for value in (1.0, 2.0, 6.0):
        meter.add("a", torch.tensor(value))
    meter.add("b", torch.tensor(5.0))
    other = MeanMeter()
    other.load_state_dict(meter.state_dict())
    other.add("a", torch.tensor(3.0))
    assert {name: value.item() for name, value in other.flush().items()} == {"a": 3.0, "b": 5.0}
    assert other.flush() == {}


def test_every_term_norm_accuracy_rate_and_speed_is_logged(tmp_path: Path) -> None:
    model = build("mocogan", "class_in_generator")
    monitor = RunMonitor(2)
    seen: list[dict[str, float]] = []

    class Collect(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append(dict(monitor.latest))

    train(model, 5, callbacks=(monitor, Collect()))
    assert seen[0] == {} and seen[1] == seen[2] != seen[3], "values are logged every second iteration"
    updates = {"image_discriminator", "video_discriminator", "generator"}
    for update in updates:
        terms = {k: v for k, v in seen[3].items() if k.startswith(f"loss/{update}/")}
        assert terms and seen[3][f"loss/{update}"] == pytest.approx(sum(terms.values()), rel=1e-4)
        assert seen[3][f"grad_norm/{update}"] > 0
        assert seen[3][f"learning_rate/{update}"] == model.learning_rates[update]
    accuracies = {k: v for k, v in seen[3].items() if k.startswith("accuracy/")}
    assert len(accuracies) >= 4 and all(0 <= value <= 1 for value in accuracies.values())
    assert seen[3]["speed/iterations_per_second"] > 0
    assert 0 <= seen[3]["speed/data_wait_share"] <= 1


def test_loggers_receive_the_iteration_number(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    monitor = RunMonitor(2)

    class Attach(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
            trainer._loggers = [logger]

    train(build("mocogan", "default"), 4, callbacks=(Attach(), monitor))
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    step = header.split(",").index("step")
    assert [row.split(",")[step] for row in rows] == ["2", "4"]


def test_progress_is_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = RunMonitor(2)
    train(build("mocogan", "default"), 4, callbacks=(monitor, IterationProgress(monitor)), enable_progress_bar=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("iteration")]
    assert len(lines) == 2
    number = r"\d+\.\d+"
    pattern = (
        rf"iteration 4/4  {number} it/s  generator {number}  image_discriminator {number}  video_discriminator {number}"
    )
    assert re.fullmatch(pattern, lines[1])


def test_sample_grids_disturb_nothing(tmp_path: Path) -> None:
    plain, with_grids = build("mocogan", "default"), build("mocogan", "default")
    train(plain, 4)
    train(with_grids, 4, callbacks=(SampleGrids(tmp_path, every=2, num_samples=4, fps=8),))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration_00000002.mp4", "iteration_00000004.mp4"]
    first, second = weights(plain), weights(with_grids)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert with_grids.training


@pytest.mark.parametrize(
    ("shown", "there", "group", "calls"),
    [
        (4, 9, 1, [(0, 4)]),
        (4, 2, 1, [(0, 2)]),
        (4, 9, 3, [(0, 3), (3, 3)]),
        (3, 9, 3, [(0, 3)]),
        (4, 4, 3, [(0, 3), (3, 3)]),
        (4, 2, 3, [(0, 2)]),
    ],
)
def test_sample_grids_are_made_in_whole_groups(
    tmp_path: Path, shown: int, there: int, group: int, calls: list[tuple[int, int]]
) -> None:
    contexts = torch.rand(there, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    model = Guess(group=group)
    grids = SampleGrids(tmp_path, 1, shown, fps=8, context=lambda number: {"video": contexts[:number]})
    sheet = grids.make(model)
    assert [call[:2] for call in model.calls] == calls
    rows = [list(range(first, first + number)) for first, number in calls]
    rows = [[row % there if row >= there else row for row in block] for block in rows]
    with torch.no_grad():
        made = [model.sample(len(block), first=block[0], batch={"video": contexts[block]}) for block in rows]
    assert torch.equal(sheet, grid(to_uint8(torch.cat(made)[: min(shown, there)])))
    assert model.training


def test_sample_grids_of_groups_without_contexts(tmp_path: Path) -> None:
    model = Guess(group=3, optional=True)
    sheet = SampleGrids(tmp_path, 1, 4, fps=8).make(model)
    assert [call[:2] for call in model.calls] == [(0, 3), (3, 3)] and sheet.shape == (3, 6, 34, 34)
