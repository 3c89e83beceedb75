"""A model of vidgen and its original, side by side: first shown to compute the same, then timed in turn.

Both run in one process on the same threads. While a comparison lasts, the original draws its random numbers in its own
way and the model is given the same ones; the losses, the gradients and the updated weights must then agree. That is
done in float64: in float32 the sign of a gradient close to zero is rounding noise, which Adam's first steps turn into
differences of the size of the learning rate. Only after that are the two timed, one iteration each in turn, so that
whatever else the machine does falls on both.
"""

from __future__ import annotations

import statistics
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from vidgen.errors import UserError
from vidgen.models.base import Batch, VideoModel

TOLERANCE = 1e-8  # norm of a difference relative to the norm, in float64
LOSS_TOLERANCE = 1e-6  # the model keeps its losses in float32


class Reference(ABC):
    """The original code of a model, run beside it; each model's adapter is ``tools/references/<model>.py``.

    An adapter imports the original from a checkout that the user has; it holds none of it.

    Args:
        path: the checkout.
        model: what it is compared with; the adapter builds the same networks at the same sizes, on its device and in
            its dtype.
    """

    title: str
    """What is run, with its commit."""
    optimizers: Mapping[str, Optimizer]
    """Those of the original by name: of the model's updates, or whatever it calls them."""
    state: Mapping[str, Tensor | Sequence[Tensor]]
    """Key of the model's ``state_dict`` -> the tensor of the original that corresponds, itself, not a copy; or several
    of equal size, which stand one below the other in the model. Below, part n of these is called ``key[n]``."""

    without_effect: Collection[str] = ()
    """Parameters whose gradient is 0 but for rounding, such as biases before a batch norm; it is made 0 in both."""

    compared_iterations: int = 2
    """How many the model is compared over; the second one depends on everything that the first one updated."""

    @abstractmethod
    def __init__(self, path: Path, model: VideoModel) -> None: ...

    @abstractmethod
    def iteration(self, batches: list[Batch]) -> dict[str, Tensor]:
        """One iteration as the original trains, with noise of its own.

        Returns:
            What the model logs as ``loss/...``: the loss of each update, or the terms of its loss.
        """

    @abstractmethod
    def recorded(self) -> AbstractContextManager[Any]:
        """While open, everything that the original draws is remembered in what the block is given."""

    def compares(self, name: str) -> bool:
        """Whether both shall have the same of what has this name: a loss, a parameter or another entry of the state.

        All of it, unless they are known to compute different things.
        """
        return True

    def parts(self, name: str, tensor: Tensor) -> dict[str, Tensor]:
        """The parts of a tensor of the model, or of its gradient, that are tensors of the original, by name."""
        theirs = self.state[name]
        if isinstance(theirs, Tensor):
            return {name: tensor}
        return {f"{name}[{number}]": part for number, part in enumerate(tensor.chunk(len(theirs)))}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Those of the original by name, see :attr:`state`."""
        found: dict[str, Tensor] = {}
        for name, theirs in self.state.items():
            if isinstance(theirs, Tensor):
                found[name] = theirs
            else:
                found |= {f"{name}[{number}]": tensor for number, tensor in enumerate(theirs)}
        return found

    @abstractmethod
    def replayed(self, draws: Any) -> AbstractContextManager[None]:
        """While open, the model uses what was remembered instead of drawing."""


class Comparison(pl.Callback):
    """Runs the original's iteration before each of the model's, and compares what they computed.

    Args:
        model: the one that Lightning trains.
        reference: its original; starts from the model's weights.

    Raises:
        UserError: in the course of training, when the two differ.
    """

    def __init__(self, model: VideoModel, reference: Reference) -> None:
        self.model = model
        self.reference = reference
        self.iterations = 0
        self.largest = {"losses": 0.0, "gradients": 0.0, "weights": 0.0}
        self._gradients: dict[str, dict[str, Tensor]] = {"model": {}, "original": {}}
        self._losses: dict[str, Tensor] = {}
        self._replay = ExitStack()

    def __str__(self) -> str:
        found = ", ".join(f"{what} {value:.1e}" for what, value in self.largest.items())
        return f"largest differences over {self.iterations} iterations in float64: {found} (tolerance {TOLERANCE:.0e})"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the original the model's weights."""
        copy_weights(self.model, self.reference)
        manual = [] if pl_module.automatic_optimization else trainer.optimizers
        for side, optimizers in (("original", self.reference.optimizers.values()), ("model", manual)):
            for optimizer in optimizers:
                optimizer.register_step_pre_hook(lambda stepping, *_, side=side: self._silence(side, stepping))
        for side, optimizers in (("original", self.reference.optimizers.values()), ("model", trainer.optimizers)):
            for optimizer in optimizers:  # once it has stepped; clipped where they are
                optimizer.register_step_post_hook(lambda stepping, *_, side=side: self._remember(side, stepping))

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Where Lightning steps, gradients are there only now."""
        self._silence("model", optimizer)

    def _gradients_of(self, side: str, optimizer: Optimizer) -> dict[str, Tensor]:
        """The gradients of an optimiser's parameters, or parts of them, by name."""
        names = {"model": dict(self.model.named_parameters()), "original": self.reference.tensors}[side]
        name_of = {id(tensor): name for name, tensor in names.items()}
        found: dict[str, Tensor] = {}
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            if parameter.grad is not None:
                name = name_of[id(parameter)]
                found |= self.reference.parts(name, parameter.grad) if side == "model" else {name: parameter.grad}
        return found

    def _silence(self, side: str, optimizer: Optimizer) -> None:
        """Make gradients 0 that are so but for rounding."""
        for name, gradient in self._gradients_of(side, optimizer).items():
            if name in self.reference.without_effect:
                gradient.zero_()

    def _remember(self, side: str, optimizer: Optimizer) -> None:
        """Remember the gradients with which an optimiser stepped."""
        found = self._gradients_of(side, optimizer)
        self._gradients[side] |= {name: gradient.detach().clone() for name, gradient in found.items()}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Run the original, and keep what it draws for the model."""
        with self.reference.recorded() as draws:
            self._losses = self.reference.iteration(as_list(batch))
        self._replay.enter_context(self.reference.replayed(draws))
        self.model.meter.flush()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare losses, gradients and updated weights."""
        self._replay.close()
        self.iterations += 1
        found = self.model.meter.flush()
        compares, tensors = self.reference.compares, self.reference.tensors
        for update, loss in self._losses.items():
            if compares(update):
                self._check("losses", f"the loss of {update}", found[f"loss/{update}"], loss.detach(), LOSS_TOLERANCE)
        ours, theirs = self._gradients["model"], self._gradients["original"]
        for name in filter(compares, sorted(ours.keys() | theirs.keys())):
            self._check("gradients", f"the gradient of {name}", ours.get(name), theirs.get(name))
        for key, tensor in self.model.state_dict().items():
            for name, part in self.reference.parts(key, tensor).items():
                if compares(name):
                    self._check("weights", f"{name} after the update", part, tensors[name].detach())

    def _check(
        self, kind: str, what: str, ours: Tensor | None, theirs: Tensor | None, tolerance: float = TOLERANCE
    ) -> None:
        where = f"{self.reference.title} computes something else: in iteration {self.iterations}"
        if ours is None or theirs is None:
            raise UserError(f"{where} only one of the two has {what}")
        apart = float((ours.double() - theirs.double()).norm() / theirs.double().norm().clamp(min=1e-300))
        if not apart <= tolerance:
            raise UserError(f"{where} {what} is {apart:.2g} of its norm apart (tolerance {tolerance:.0e})")
        self.largest[kind] = max(self.largest[kind], apart)


class Turns(pl.Callback):
    """Times the original's iteration after each of the model's, inside Lightning's own loop.

    The model's time is a whole turn of that loop, fetching the batch included.

    Args:
        model: the one that Lightning trains.
        reference: its original; starts from the model's weights.
        warm_up: pairs that are not timed.
        clock: seconds, with all work done that was asked for before.
    """

    def __init__(self, model: VideoModel, reference: Reference, warm_up: int, clock: Callable[[], float]) -> None:
        self.model = model
        self.reference = reference
        self.warm_up = warm_up
        self.clock = clock
        self.pairs: list[tuple[float, float]] = []
        self._mark = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the original the model's weights, and start the clock."""
        copy_weights(self.model, self.reference)
        self._mark = self.clock()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """It is the original's turn."""
        turned = self.clock()
        self.reference.iteration(as_list(batch))
        end = self.clock()
        if batch_idx >= self.warm_up:
            self.pairs.append((turned - self._mark, end - turned))
        self._mark = self.clock()


def as_list(element: list[Batch] | Batch) -> list[Batch]:
    """The batches of an element of the training loader, which may be a batch itself."""
    return element if isinstance(element, list) else [element]


@torch.no_grad()
def copy_weights(model: VideoModel, reference: Reference) -> None:
    """Give the original the model's weights and statistics.

    Raises:
        UserError: the two do not have the same ones.
    """
    own = model.state_dict()
    if unpaired := sorted(own.keys() ^ reference.state.keys()):
        raise UserError(f"{reference.title}: only one of the two has {unpaired[0]}")
    tensors = reference.tensors
    for key, tensor in own.items():
        for name, part in reference.parts(key, tensor).items():
            tensors[name].copy_(part)


def describe_pairs(
    pairs: list[tuple[float, float]], ours: str = "vidgen", theirs: str = "original", unit: str = "iteration"
) -> str:
    """The two medians and their ratio, and the ratios pair by pair, in three lines.

    Args:
        pairs: seconds of each side.
        ours: name of the first side.
        theirs: name of the second side.
        unit: what took these seconds.
    """
    first, second = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratios = [a / b for a, b in pairs]
    return (
        f"{len(pairs)} pairs: {ours} {first:.4g} s, {theirs} {second:.4g} s per {unit} (medians)\n"
        f"ratio of the medians: {first / second:.3f}\n"
        f"ratio pair by pair: median {statistics.median(ratios):.3f}, min {min(ratios):.3f}, max {max(ratios):.3f}"
    )


def commit_of(path: Path, source: str) -> str:
    """The commit of a checkout and whether its folder ``source`` was changed since; ``(no commit)`` without git."""

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", "-C", str(path), *arguments], capture_output=True, text=True)

    try:
        commit = git("rev-parse", "--short=12", "HEAD").stdout.strip()
        changed = commit and git("diff", "--quiet", "HEAD", "--", source).returncode
    except OSError:
        commit = changed = ""
    return f"{commit or '(no commit)'}{' with changes' if changed else ''}"
