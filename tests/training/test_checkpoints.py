"""Which checkpoints are kept, what stops a save, and ranks that drift apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from tests.contract.running import build, train
from tests.pair import ProcessPair
from vidgen.checkpoint import describe_model, read_checkpoint
from vidgen.distributed import world
from vidgen.errors import UserError
from vidgen.training.checkpoints import RunCheckpoints, check_equal_parameters, checkpoints_in
from vidgen.training.settings import CheckpointSettings


class Report(pl.Callback):
    """Logs one value per iteration, as a metric would."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.callback_metrics["score"] = torch.tensor(self.values[trainer.global_step - 1])


def run(folder: Path, settings: CheckpointSettings, iterations: int, callbacks: tuple[pl.Callback, ...] = ()) -> None:
    """Train and save by the given settings."""
    model = build("mocogan", "default")
    keeper = RunCheckpoints(folder, settings, lambda: describe_model(model))
    train(model, iterations, callbacks=(*callbacks, keeper), enable_checkpointing=True)


def names(folder: Path) -> list[str]:
    """File names, sorted."""
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_and_the_last_are_kept(tmp_path: Path) -> None:
    run(tmp_path, CheckpointSettings(every=2, keep_last=2), 7)
    assert names(tmp_path) == ["iteration_00000006.ckpt", "iteration_00000007.ckpt"]
    assert [path.name for path in checkpoints_in(tmp_path)] == names(tmp_path)


@pytest.mark.parametrize(("mode", "best"), [("min", 4), ("max", 2)])
def test_the_best_is_kept(tmp_path: Path, mode: Any, best: int) -> None:
    settings = CheckpointSettings(every=2, keep_last=1, monitor="score", mode=mode)
    run(tmp_path, settings, 8, (Report([9, 8, 7, 1, 0, 3, 9, 5]),))
    assert names(tmp_path) == ["best.ckpt", "iteration_00000008.ckpt"]
    assert read_checkpoint(tmp_path / "best.ckpt")["vidgen"]["iteration"] == best


def test_a_monitored_value_that_nobody_logs_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, CheckpointSettings(every=2, monitor="scor"), 4, (Report([1, 2, 3, 4]),))
    assert str(caught.value) == "checkpoint.monitor: 'scor' is not logged (logged: score)"


def differing() -> str:
    """Compare a layer that rank 1 has changed in one element."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    check_equal_parameters(layer)  # type: ignore[arg-type]
    if world()[0] == 1:
        with torch.no_grad():
            layer.bias[1] += 1e-7
    try:
        check_equal_parameters(layer)  # type: ignore[arg-type]
    except RuntimeError as error:
        return str(error)
    return ""


def test_ranks_that_have_drifted_apart_are_noticed(pair: ProcessPair) -> None:
    first, second = pair.run(differing)
    assert first == "parameter bias differs between rank 0 and rank 1"
    assert second == "parameter bias differs between rank 1 and rank 0"
