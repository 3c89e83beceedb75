"""Exponential moving average of the modules that a model names for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.models.base import VideoModel
from vidgen.training.lightning import iteration_is_over
from vidgen.training.settings import EMASettings


class ModuleAverage(pl.Callback):
    """Keeps averaged weights of ``model.ema_modules``; buffers are copied, not averaged.

    The decay ramps up: average number t uses ``min(decay, (1 + t) / (ramp_up + t))``. The averages live in the
    checkpoint under ``ema`` and are what ``vidgen.load`` returns.
    """

    def __init__(self, settings: EMASettings) -> None:
        if not 0 <= settings.decay < 1:
            raise UserError(f"ema.decay: {settings.decay} is not in [0, 1); papers use 0.99 to 0.9999")
        self.settings = settings
        self.average: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the current weights unless a checkpoint brought averages."""
        if not _covered(pl_module):
            raise UserError(f"ema: {type(pl_module).__name__} names no modules to average; remove the ema section")
        current = dict(self._current(pl_module))
        if not self.average:
            self.average = {name: tensor.detach().clone() for name, tensor in current.items()}
        self.average = {name: self.average[name].to(tensor.device) for name, tensor in current.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Move the averages towards the current weights."""
        iteration = trainer.global_step
        if iteration % self.settings.every or not iteration_is_over(trainer):
            return
        number = iteration // self.settings.every
        decay = min(self.settings.decay, (1 + number) / (self.settings.ramp_up + number))
        parameters = {
            f"{module}.{key}" for module in _covered(pl_module) for key in _parameter_names(pl_module, module)
        }
        current = dict(self._current(pl_module))
        averaged = [name for name in current if name in parameters]
        torch._foreach_lerp_([self.average[n] for n in averaged], [current[n].detach() for n in averaged], 1 - decay)
        for name in current.keys() - parameters:
            self.average[name].copy_(current[name])

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Put the averages into the checkpoint."""
        checkpoint["ema"] = self.average

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Take the averages from the checkpoint."""
        self.average = {name: tensor.clone() for name, tensor in checkpoint.get("ema", {}).items()}

    @contextmanager
    def applied(self, model: VideoModel) -> Iterator[None]:
        """Let the model carry the averaged weights inside the block."""
        current = dict(self._current(model))
        raw = {name: tensor.detach().clone() for name, tensor in current.items()}
        with torch.no_grad():
            for name, tensor in current.items():
                tensor.copy_(self.average[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in current.items():
                    tensor.copy_(raw[name])

    @staticmethod
    def _current(model: Any) -> Iterator[tuple[str, Tensor]]:
        for module in _covered(model):
            for key, tensor in model.get_submodule(module).state_dict(keep_vars=True).items():
                yield f"{module}.{key}", tensor


def _covered(model: Any) -> tuple[str, ...]:
    return model.ema_modules


def _parameter_names(model: Any, module: str) -> list[str]:
    return [name for name, _ in model.get_submodule(module).named_parameters()]
