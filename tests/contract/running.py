"""Train any registered model for a few iterations on made-up batches, on one process or on each of two."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
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
    """Endless training elements: batch k is a function of k; each rank takes its rows of the global batch.

    Args:
        model: makes the batches.
        batches: in an element, which is then a list; 0 makes it the one batch.
        start: number of the first element.
    """

    def __init__(self, model: VideoModel, batches: int, start: int = 0) -> None:
        self.model = model
        self.batches = batches
        self.start = start

    def __iter__(self) -> Any:
        rank, world_size = world()
        size = max(1, self.batches)
        number = self.start * size
        while True:
            element = []
            for index in range(number, number + size):
                batch = self.model.example_batch(GLOBAL_BATCH, derive_seed("element", index))
                element.append({key: value[rank::world_size].cpu() for key, value in batch.items()})
            yield element if self.batches else element[0]
            number += size


def train(
    model: VideoModel,
    iterations: int,
    *,
    folder: Path | None = None,
    resume: Path | None = None,
    every: int = 100,
    ema: bool = False,
    first: int = 0,
    callbacks: tuple[pl.Callback, ...] = (),
    **trainer_args: Any,
) -> pl.Trainer:
    """Train on the CPU with what a run has, less its logs.

    Args:
        model: what is trained.
        iterations: until how many there have been.
        folder: where checkpoints go, if anywhere.
        resume: checkpoint to go on from; the data go on with it.
        every: iterations between two checkpoints.
        ema: average what the model names for it.
        first: number of the first element, where nothing is resumed.
        callbacks: more of them.
        trainer_args: of the Trainer.
    """
    adversarial = isinstance(model, AdversarialModel)
    arguments: dict[str, Any] = {"accelerator": "cpu", "devices": world()[1], **trainer_args}
    batches = take_over_manual_arguments(model, arguments) if adversarial else 0
    accumulated = 1 if adversarial else arguments.get("accumulate_grad_batches", 1)
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
    start = int(torch.load(resume, weights_only=True)["global_step"]) * accumulated if resume else first
    loader = DataLoader(Elements(model, batches, start), batch_size=None)
    trainer.fit(model, train_dataloaders=loader, ckpt_path=resume, weights_only=True)
    return trainer


def weights(model: VideoModel) -> dict[str, Tensor]:
    """A detached copy of everything in the state dict."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def frozen_entries(model: VideoModel) -> set[str]:
    """Names in the state dict of what training must leave alone: frozen parameters, and all of modules that are frozen.

    These have parameters, none of which is trained; their buffers must stay too, so they have to be in eval mode.
    """
    found = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    for path, part in model.named_modules():
        flags = [parameter.requires_grad for parameter in part.parameters()]
        if flags and not any(flags):
            found |= {f"{path}.{name}" for name in part.state_dict()}
    return found


# What the optimisers do ---------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One step of one optimiser.

    Args:
        name: of the update.
        gradients: parameter name -> gradient when the optimiser stepped, of all parameters that had one.
        owned: names of the parameters that the optimiser owns, as often as it does.
    """

    name: str
    gradients: dict[str, Tensor]
    owned: list[str]

    @property
    def reached(self) -> set[str]:
        """Names of the parameters whose gradient was not 0."""
        return {name for name, gradient in self.gradients.items() if gradient.any()}


class StepWatch(pl.Callback):
    """Looks at every step of every optimiser, whoever makes it, and clears the gradients after it.

    Args:
        clear: whether to; where an update leaves gradients to others, these would be seen again there.
    """

    def __init__(self, clear: bool = True) -> None:
        self.clear = clear
        self.steps: list[Step] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for name, optimizer in zip(pl_module._optimizer_names, trainer.optimizers, strict=True):
            optimizer.register_step_post_hook(partial(self._look, name, dict(pl_module.named_parameters())))

    def _look(self, name: str, parameters: dict[str, nn.Parameter], optimizer: Optimizer, *_: Any) -> None:
        names = {id(parameter): key for key, parameter in parameters.items()}
        gradients = {key: p.grad.detach().clone() for key, p in parameters.items() if p.grad is not None}
        owned = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
        self.steps.append(Step(name, gradients, owned))
        for parameter in parameters.values() if self.clear else ():
            parameter.grad = None


# Two processes ------------------------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """A trained model.

    Args:
        weights: everything in the state dict.
        drifting: parameters whose gradients were nothing but rounding errors.
    """

    weights: dict[str, Tensor]
    drifting: set[str]


def train_on_rank(name: str, variant: str, iterations: int, **arguments: Any) -> Trained:
    """What each process of a pair runs: build, train in float64."""
    model, watch = build(name, variant, seed=0), StepWatch(clear=False)
    train(model, iterations, precision="64-true", callbacks=(watch,), **arguments)
    return Trained(weights(model), drifting(watch.steps))


def drifting(steps: list[Step]) -> set[str]:
    """Parameters whose gradients are 0 but for rounding in float64, as of a shift that a batch norm takes off again."""
    largest: dict[str, float] = {}
    for step in steps:
        for name in step.owned:
            if name in step.gradients:
                largest[name] = max(largest.get(name, 0.0), step.gradients[name].abs().max().item())
    return {name for name, size in largest.items() if size < 1e-11 * max(largest.values())}


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Largest absolute difference over all entries, in float64."""
    return max(differences(first, second).values())


def differences(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, float]:
    """Largest absolute difference of each entry, in float64."""
    assert first.keys() == second.keys()
    return {key: (first[key].double() - second[key].double()).abs().max().item() for key in first if first[key].numel()}


def difference_beyond_rounding(first: Trained, second: dict[str, Tensor]) -> float:
    """Largest difference, less what rounding decides.

    Adam makes steps of rounding errors that are as long as others, or nearly. What they move has no effect but on the
    running mean of the batch norm that takes it off again.
    """
    found = differences(first.weights, second)
    drift = max((found.pop(name) for name in first.drifting), default=0.0)
    assert drift < 1e-6, "more than rounding"
    return max(value - drift if key.endswith("running_mean") else value for key, value in found.items())
