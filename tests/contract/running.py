"""Train any registered model for a few iterations on made-up batches, on one process or on each of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vidgen.checkpoint import describe_model
from vidgen.distributed import world
from vidgen.models.base import AdversarialModel, VideoModel
from vidgen.registry import MODELS
from vidgen.seeding import derive_seed
from vidgen.training.checkpoints import RunCheckpoints, SafeCheckpointIO
from vidgen.training.ema import ModuleAverage
from vidgen.training.lightning import choose_strategy, take_over_manual_arguments
from vidgen.training.random_state import RandomState
from vidgen.training.settings import CheckpointSettings, EMASettings

GLOBAL_BATCH = 4


def models() -> list[str]:
    """Names of the models that ship with vidgen; other tests may have registered models of their own."""
    return [name for name in MODELS.names() if MODELS.get(name).__module__.startswith("vidgen.")]


def variants() -> list[tuple[str, str]]:
    """Every (model, variant) that ships with vidgen."""
    return [(name, variant) for name in models() for variant in MODELS.get(name).small_variants()]


def build(name: str, variant: str, seed: int = 0) -> VideoModel:
    """A tiny model with weights that depend on the seed only."""
    torch.manual_seed(seed)
    cls = MODELS.get(name)
    model = cls(**cls.small_variants()[variant])
    model.seed = seed
    return model


class Elements(torch.utils.data.IterableDataset):
    """Endless training elements: element k is a function of k; each rank takes its rows of the global batch."""

    def __init__(self, model: VideoModel, batches: int, start: int = 0) -> None:
        self.model = model
        self.batches = batches
        self.start = start

    def __iter__(self) -> Any:
        rank, world_size = world()
        number = self.start
        while True:
            element = []
            for index in range(max(1, self.batches)):
                batch = self.model.example_batch(GLOBAL_BATCH, derive_seed("element", number, index))
                element.append({key: value[rank::world_size].cpu() for key, value in batch.items()})
            yield element if self.batches else element[0]
            number += 1


def train(
    model: VideoModel,
    iterations: int,
    *,
    folder: Path | None = None,
    resume: Path | None = None,
    every: int = 100,
    ema: bool = False,
    callbacks: tuple[pl.Callback, ...] = (),
    **trainer_args: Any,
) -> pl.Trainer:
    """Train on the CPU with what a run has, less its logs."""
    adversarial = isinstance(model, AdversarialModel)
    arguments: dict[str, Any] = {"accelerator": "cpu", "devices": world()[1], **trainer_args}
    batches = take_over_manual_arguments(model, arguments) if adversarial else 0
    parts: list[pl.Callback] = [*callbacks, RandomState()]
    if ema and model.ema_modules:
        parts.insert(0, ModuleAverage(EMASettings(decay=0.9)))
    if folder is not None:
        parts.append(RunCheckpoints(folder, CheckpointSettings(every=every), lambda: describe_model(model)))
    settings: dict[str, Any] = {
        "strategy": choose_strategy(model, arguments),
        "max_steps": iterations,
        "max_epochs": -1,
        "min_epochs": 0,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": folder is not None,
        "use_distributed_sampler": False,
        "callbacks": parts,
        "plugins": [SafeCheckpointIO()],
    }
    trainer = pl.Trainer(**{**settings, **arguments})
    start = int(torch.load(resume, weights_only=True)["global_step"]) if resume else 0
    loader = DataLoader(Elements(model, batches, start), batch_size=None)
    trainer.fit(model, train_dataloaders=loader, ckpt_path=resume, weights_only=True)
    return trainer


def weights(model: VideoModel) -> dict[str, Tensor]:
    """A detached copy of everything in the state dict."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def train_on_rank(name: str, variant: str, iterations: int, **arguments: Any) -> dict[str, Tensor]:
    """What each process of a pair runs: build, train in float64, return the weights."""
    model = build(name, variant, seed=0)
    train(model, iterations, precision="64-true", **arguments)
    return weights(model)


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Largest absolute difference over all entries, in float64."""
    assert first.keys() == second.keys()
    return max((first[key].double() - second[key].double()).abs().max().item() for key in first if first[key].numel())
