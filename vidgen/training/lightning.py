"""Where Lightning and vidgen have to be told about each other."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy

from vidgen.models.base import AdversarialModel, LikelihoodModel, VideoModel
from vidgen.training.strategy import AdversarialDDPStrategy

_QUIET = (
    "does not have many workers",
    "You defined a `validation_step`",
    "is not logging",
    "GPU available but not used",
    "Experiment logs directory",
    "isinstance\\(treespec, LeafSpec\\)",
    "MPS available but not used",
    "Checkpoint directory",
    "module\\(s\\) in eval mode at the start of training",
)


def quiet_lightning() -> None:
    """Silence notices of Lightning that a vidgen user can do nothing about."""
    for pattern in _QUIET:
        warnings.filterwarnings("ignore", message=f".*{pattern}.*")
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def take_over_manual_arguments(model: AdversarialModel, trainer_args: dict[str, Any]) -> int:
    """Move clipping and accumulation from the Trainer, which refuses them here, to ``model.update``.

    Returns:
        Batches that one iteration consumes.
    """
    model.accumulate_grad_batches = int(trainer_args.pop("accumulate_grad_batches", 1) or 1)
    model.gradient_clip_val = trainer_args.pop("gradient_clip_val", None)
    model.gradient_clip_algorithm = trainer_args.pop("gradient_clip_algorithm", None) or "norm"
    return model.accumulate_grad_batches * model.batches_per_iteration


def choose_strategy(model: VideoModel, trainer_args: dict[str, Any]) -> Any:
    """How several processes train a model, where the config leaves it open; else what the config says.

    Adversarial models are trained by our own data parallel strategy, others by Lightning's.
    """
    asked = trainer_args.get("strategy", "auto")
    if asked != "ddp" and not (asked == "auto" and process_count(trainer_args) > 1):
        return asked
    if isinstance(model, AdversarialModel):
        return AdversarialDDPStrategy()
    idle = isinstance(model, LikelihoodModel) and model.idle_parameters
    return DDPStrategy(find_unused_parameters=True) if idle else "ddp"


def iteration_is_over(trainer: pl.Trainer) -> bool:
    """Whether the batch that was just trained on ends an iteration; Lightning may accumulate several in one.

    In between nothing may be saved, averaged, logged or measured: the weights are those of the iteration before, and
    gradients are in no checkpoint.
    """
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def process_count(trainer_args: dict[str, Any]) -> int:
    """How many processes Lightning will train with for these ``Trainer`` arguments."""
    for variable in ("WORLD_SIZE", "SLURM_NTASKS"):
        if int(os.environ.get(variable, "1")) > 1:
            return int(os.environ[variable])
    devices = trainer_args.get("devices", "auto")
    gpus = torch.cuda.device_count() if trainer_args.get("accelerator", "auto") in ("auto", "gpu", "cuda") else 0
    if isinstance(devices, list | tuple):
        per_node = len(devices)
    elif devices in ("auto", -1, "-1"):
        per_node = max(1, gpus)
    elif isinstance(devices, str) and "," in devices:
        per_node = len([entry for entry in devices.split(",") if entry.strip()])
    else:
        per_node = int(devices)
    return per_node * int(trainer_args.get("num_nodes", 1))
