"""When a run is saved, what is kept, and how it is stopped."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import CheckpointIO

from vidgen.atomic import atomic_file
from vidgen.checkpoint import read_checkpoint, write_checkpoint
from vidgen.distributed import gather_objects, largest, world
from vidgen.errors import UserError
from vidgen.models.base import VideoModel
from vidgen.training.lightning import iteration_is_over
from vidgen.training.settings import CheckpointSettings

_NAME = re.compile(r"iteration_(\d+)\.ckpt")


def checkpoints_in(folder: Path) -> list[Path]:
    """The numbered checkpoints of a folder, oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("*.ckpt") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


class SafeCheckpointIO(CheckpointIO):
    """Lightning's door to checkpoint files: atomic writes, reads that execute nothing."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside and rename."""
        write_checkpoint(path, checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read tensors and plain values only."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: Any) -> None:
        """Delete one file."""
        Path(path).unlink(missing_ok=True)


class RunCheckpoints(pl.callbacks.Checkpoint):
    """Saves every n iterations, at the last one and when asked to stop; keeps the last k and the best.

    Before each save the losses are checked for NaN/Inf and the parameters are compared across ranks. SIGTERM and
    SIGINT let the current iteration finish, save, and end the run; all ranks agree on the iteration. (Lightning's own
    SIGTERM handler broadcasts inside the signal handler, which can hang two processes, so it is replaced.)

    Args:
        folder: where the files go.
        settings: see :class:`~vidgen.training.settings.CheckpointSettings`.
        about: gives the ``vidgen`` entry of the checkpoint at the time of saving.
        evaluated: gives the values that were measured at an iteration; empty where nothing was.
    """

    def __init__(
        self,
        folder: Path,
        settings: CheckpointSettings,
        about: Callable[[], dict[str, Any]],
        evaluated: Callable[[int], Mapping[str, float]] = lambda iteration: {},
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.about = about
        self.evaluated = evaluated
        self.stopped_by: int | None = None
        self.last_saved: Path | None = None
        self.best_value: float | None = None
        self._signal = 0
        self._previous_handlers: dict[int, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The best monitored value so far."""
        return {"best_value": self.best_value}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from an earlier best value."""
        self.best_value = state_dict.get("best_value")

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict) -> None:
        """Say what the file is."""
        checkpoint["vidgen"] = {**self.about(), "iteration": trainer.global_step}
        checkpoint["meter"] = pl_module.meter.state_dict()

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict) -> None:
        """Continue the unfinished logging window."""
        pl_module.meter.load_state_dict(checkpoint.get("meter", {}), pl_module.device)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Take over the signals."""
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous_handlers[number] = signal.signal(number, self._on_signal)
        if trainer.ckpt_path:
            pl_module.finite_watch.last_good_checkpoint = str(trainer.ckpt_path)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: VideoModel, *_: Any) -> None:  # type: ignore[override]
        """Save when it is time to."""
        if not iteration_is_over(trainer):
            return
        iteration = trainer.global_step
        stop = largest(self._signal)
        if stop or iteration % self.settings.every == 0 or iteration == trainer.max_steps:
            self.save(trainer, pl_module)
        if stop:
            self.stopped_by = stop
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the signals back."""
        self._give_signals_back()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_signals_back()

    def save(self, trainer: pl.Trainer, model: VideoModel) -> Path:
        """Write one checkpoint and drop those that are no longer kept.

        Raises:
            NonFiniteError: a loss was NaN or infinite; nothing is written.
            UserError: the file cannot be written; earlier checkpoints stay.
        """
        model.finite_watch.check()
        check_equal_parameters(model)
        path = self.folder / f"iteration_{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(path)
        self.last_saved = path
        model.finite_watch.last_good_checkpoint = str(path)
        if world()[0] == 0:
            self._keep_best(trainer, path)
            for old in checkpoints_in(self.folder)[: -self.settings.keep_last]:
                old.unlink(missing_ok=True)
        return path

    def _keep_best(self, trainer: pl.Trainer, path: Path) -> None:
        name = self.settings.monitor
        if name is None:
            return
        measured = self.evaluated(trainer.global_step)
        if name.startswith("eval/") and not measured:
            return  # a value of an earlier iteration says nothing about this checkpoint
        values: dict[str, Any] = {**trainer.callback_metrics, **measured}
        if name not in values:
            known = ", ".join(sorted(values)) or "none yet; let log.every divide checkpoint.every"
            raise UserError(f"checkpoint.monitor: {name!r} is not logged (logged: {known})")
        value = float(values[name])
        sign = 1 if self.settings.mode == "min" else -1
        if self.best_value is None or sign * value < sign * self.best_value:
            self.best_value = value
            with atomic_file(self.folder / "best.ckpt") as best, open(path, "rb") as source:
                shutil.copyfileobj(source, best)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signal:  # a second one does not wait
            self._give_signals_back()
            raise KeyboardInterrupt
        self._signal = number

    def _give_signals_back(self) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}


def check_equal_parameters(model: VideoModel) -> None:
    """Compare a checksum of every parameter across ranks.

    Raises:
        RuntimeError: a parameter differs; names it and the ranks.
    """
    if world()[1] == 1:
        return
    named = list(model.named_parameters())
    sums = torch.stack([_checksum(parameter) for _, parameter in named]).tolist()
    for rank, other in enumerate(gather_objects(sums)):
        for (name, _), mine, theirs in zip(named, sums, other, strict=True):
            if mine != theirs:
                raise RuntimeError(f"parameter {name} differs between rank {world()[0]} and rank {rank}")


@torch.no_grad()
def _checksum(tensor: torch.Tensor) -> torch.Tensor:
    words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    flat = tensor.detach().contiguous().view(-1).view(words).to(torch.int64)
    weights = torch.arange(1, flat.numel() + 1, device=flat.device)
    return (flat * weights).sum()
