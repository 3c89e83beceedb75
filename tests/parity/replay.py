"""What the parity tests of several models need: given noise, norms of gradients, training with given draws."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tests.parity.fixtures import Reference
from vidgen.models.base import reason_without_gradient
from vidgen.seeding import NoiseStream
from vidgen.training.fit import choose_strategy

Name = Callable[[str], str]
"""The official name of a parameter or buffer."""


MOST_DECIDED_BY_ROUNDING = 1e-2
"""Share of the weights whose steps may be within the rounding errors of an original in float32."""


class SpecifiedReference(Reference):
    """A reference file for some of whose outputs the specification has tolerances of their own.

    Args:
        path: the file.
        tolerance: the widest difference that the specification allows for the others.
        specified: output, or pattern of outputs, -> the widest difference; ``output/group`` for a group of its entries.
    """

    def __init__(self, path: Path, tolerance: float, specified: Mapping[str, float]) -> None:
        super().__init__(path, tolerance)
        self.specified = specified

    def widest(self, key: str) -> float:
        """The widest difference that the specification allows for an output, or for a group of its entries."""
        return next((value for name, value in self.specified.items() if fnmatchcase(key, name)), self.tolerance)

    def compare(
        self, key: str, actual: Tensor | dict[str, Tensor], tolerance: float | None = None, relative: bool = False
    ) -> None:
        """As in :class:`Reference`, within what is specified for this output."""
        general, self.tolerance = self.tolerance, self.widest(key)
        try:
            super().compare(key, actual, tolerance, relative)
        finally:
            self.tolerance = general

    def compare_entries(
        self,
        key: str,
        actual: Mapping[str, Tensor],
        groups: Mapping[str, Collection[str]],
        relative: bool = False,
        rounding: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Assert that the entries of an output are as expected, some groups of them within absolute bounds.

        Args:
            key: the output.
            actual: exactly the expected entries.
            groups: group -> its entries, which are allowed what is specified for ``key/group``.
            relative: whether the others may differ by a share of the expected number even where that is below 1.
            rounding: how far rounding errors of the original may have moved the others, see :class:`Replayed`; up to
                what is specified for ``key/rounding``.
        """
        self.open.discard(key)
        expected = self.outputs[key]
        others, missing = sorted(actual.keys() - expected.keys()), sorted(expected.keys() - actual.keys())
        assert not others and not missing, f"{key}: unexpected {others}, missing {missing}"
        if rounding:
            loose = torch.cat([(moved > self.widest(key)).flatten() for moved in rounding.values()]).double().mean()
            self.errors[f"share of {key} that rounding decides"] = loose.item()
            assert loose <= MOST_DECIDED_BY_ROUNDING, f"{key}: rounding decides {loose:.2%} of the entries"
        group_of = {entry: group for group, entries in groups.items() for entry in entries}
        assert group_of.keys() <= expected.keys(), f"{key}: groups of other entries"
        for entry, value in expected.items():
            name = f"{key}.{entry}"
            assert actual[entry].shape == value.shape, f"{name}: other shape"
            difference = (actual[entry].detach().double() - value.double()).abs()
            if entry in group_of:
                kind, sizes = f"{key}/{group_of[entry]}", torch.ones(())
            else:
                kind, sizes = key, value.double().abs()
                sizes = sizes.clamp(min=torch.finfo(torch.float32).eps if relative else 1)
                if rounding is not None and entry in rounding:
                    difference = (difference - rounding[entry].clamp(max=self.widest(f"{key}/rounding"))).clamp(min=0)
            error = (difference / sizes).max().item()
            self.errors[kind] = max(error, self.errors.get(kind, 0.0))
            assert error <= self.widest(kind), f"{name}: off by {error:.3g}, allowed {self.widest(kind):.3g}"

    def compare_gradient_norms(self, norms: Mapping[str, Tensor], biases: Collection[str], group: str) -> None:
        """Assert that norms of gradients are as expected: within what is specified, and as shares of their own sizes.

        Those shares are what is specified for ``grad_norms/share``.

        Args:
            norms: official name -> norm, nan where there is no gradient. Where the original has none (nan, or no such
                entry), a gradient of 0 is as good.
            biases: those before batch norms, whose gradients are rounding errors. They are allowed what is specified
                for ``grad_norms/group``, as a share of the gradient of the weight beside them, where that is above 1.
            group: of the biases.
        """
        key, expected = "grad_norms", self.outputs["grad_norms"]
        actual, scaled = dict(norms), dict(expected)
        for name in [name for name in norms if name not in expected or expected[name].isnan()]:
            assert norms[name].isnan() or norms[name] == 0, f"{name} has a gradient"
            actual[name] = scaled[name] = torch.zeros(())
        for bias in biases:
            size = scaled[bias.removesuffix("bias") + "weight"].clamp(min=1)
            actual[bias], scaled[bias] = actual[bias] / size, scaled[bias] / size
        self.outputs[key] = scaled
        self.compare_entries(key, actual, {group: biases})
        self.outputs[key] = expected
        for name in scaled.keys() - biases:
            size = scaled[name].double().clamp(min=torch.finfo(torch.float32).eps)
            error = ((actual[name] - scaled[name]).abs() / size).item()
            self.errors[f"{key}/share"] = max(error, self.errors.get(f"{key}/share", 0.0))
            assert error <= self.widest(f"{key}/share"), f"{key}.{name}: off by {error:.3g} of its size"


# Networks -----------------------------------------------------------------------------------------------------------


def gradient_norms(network: nn.Module, official: Name, without: Collection[str] = ()) -> dict[str, Tensor]:
    """By official name, of all parameters but those that have no gradient.

    Args:
        network: after a backward pass.
        official: the official name of a parameter of this network.
        without: our names of the parameters that have none.
    """
    norms = {}
    for name, parameter in network.named_parameters():
        if name not in without:
            assert parameter.grad is not None, f"{name} has no gradient"
            norms[official(name)] = parameter.grad.double().norm()
    return norms


def running_statistics(network: nn.Module, official: Name) -> dict[str, Tensor]:
    """All buffers, by official name."""
    return {official(name): buffer for name, buffer in network.named_buffers()}


def biases_before_norms(network: nn.Module, *inputs: Any) -> dict[str, str]:
    """Biases whose gradient is 0 but for rounding, since a batch norm takes the mean off again.

    Args:
        network: whatever it does with its layers; a copy is run once.
        inputs: what it is run on.

    Returns:
        Name of the bias of each convolution whose result a batch norm gets as it is -> name of that batch norm.
    """
    network = copy.deepcopy(network).eval()
    made: list[tuple[str, Tensor]] = []
    found: dict[str, str] = {}
    for name, module in network.named_modules():
        if isinstance(module, _ConvNd) and module.bias is not None:
            module.register_forward_hook(lambda _, __, result, name=name: made.append((name, result)))
        if isinstance(module, _BatchNorm):

            def follow(_: nn.Module, given: tuple[Tensor], norm: str = name) -> None:
                found.update({f"{name}.bias": norm for name, result in made if result is given[0]})

            module.register_forward_pre_hook(follow)
    with torch.no_grad():
        network(*inputs)
    return found


# Noise and training -------------------------------------------------------------------------------------------------


class GivenNoise(NoiseStream):
    """Hands out given tensors instead of drawn ones, in their order."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__(0)
        self.tensors = tensors

    def normal(self, *shape: int, batch_dim: int = 0) -> Tensor:
        assert self.tensors, "there is no more noise"
        assert tuple(shape) == tuple(self.tensors[0].shape), "the noise enters at another place"
        return self.tensors.pop(0)


class Replayed:
    """Put before an adversarial model: notes losses, gradients, and what rounding could do to its steps.

    Adam and RMSprop move a weight about as far whatever its gradient. Where that is hardly more than the rounding
    errors of an original in float32, those decide how far its weight goes.

    Attributes:
        terms: update -> the terms of its loss in each iteration.
        first_gradients: official name -> norm at the moment of its update, in the first iteration.
        rounding: our name -> how far the steps of all iterations go apart when each gradient is larger or smaller by
            ``ROUNDING`` of the largest of its tensor.
    """

    ROUNDING = 2.0**-20  # eight times the precision of float32, for sums

    def replay(self: Any, reference: Reference, official: Name) -> None:
        """Start to note.

        Args:
            reference: the file that holds the draws.
            official: the official name of a parameter of the model.
        """
        self.reference, self.official = reference, official
        self.terms: dict[str, list[dict[str, Tensor]]] = defaultdict(list)
        self.first_gradients: dict[str, Tensor] = {}
        self.rounding: dict[str, Tensor] = {}

    def update(self: Any, name: str, loss_fn: Any, **options: Any) -> None:
        def noted(given: Any) -> dict[str, Tensor]:
            terms = loss_fn(given)
            self.terms[name].append({key: term.detach() for key, term in terms.items()})
            return terms

        super().update(name, noted, **options)  # type: ignore[misc]

    def _step(self: Any, name: str, optimizer: torch.optim.Optimizer, owned: list[nn.Parameter]) -> None:
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        for parameter in owned:
            own = names[id(parameter)]
            assert parameter.grad is not None or reason_without_gradient(self, own), f"{own} has no gradient"
            if self.iteration_number == 0:
                norm = torch.zeros(()) if parameter.grad is None else parameter.grad.double().norm()
                self.first_gradients[self.official(own)] = norm
        reached = [parameter for parameter in owned if parameter.grad is not None]
        for parameter, moved in zip(reached, self._apart(optimizer, reached), strict=True):
            own = names[id(parameter)]
            self.rounding[own] = self.rounding.get(own, 0) + moved
        super()._step(name, optimizer, owned)  # type: ignore[misc]

    @torch.no_grad()
    def _apart(self, optimizer: torch.optim.Optimizer, reached: list[nn.Parameter]) -> list[Tensor]:
        """How far apart two steps end; neither counts."""
        weights = [parameter.clone() for parameter in reached]
        gradients = [parameter.grad.clone() for parameter in reached if parameter.grad is not None]
        state = optimizer.state_dict()
        ends = []
        for sign in (1, -1):
            for parameter, gradient in zip(reached, gradients, strict=True):
                error = self.ROUNDING * gradient.abs().max() * (gradient != 0)  # what is not reached is exactly 0
                parameter.grad = gradient + sign * error
            optimizer.load_state_dict(copy.deepcopy(state))
            optimizer.step()
            ends.append([parameter.clone() for parameter in reached])
            for parameter, weight in zip(reached, weights, strict=True):
                parameter.copy_(weight)
        optimizer.load_state_dict(state)
        for parameter, gradient in zip(reached, gradients, strict=True):
            parameter.grad = gradient
        return [(a - b).abs() for a, b in zip(*ends, strict=True)]


class Watched:
    """Put before a model with one optimiser: takes its noise from a reference file, and notes what it computes.

    Attributes:
        terms: the terms of the loss of each iteration.
        records: what :meth:`VideoModel.record` was given, by name.
        first_gradients: official name -> norm in the first iteration, nan without gradient.
        first_buffers: official name -> buffer after the first forward pass.
    """

    def watch(self: Any, official: Name, draws: Mapping[str, list[Tensor]]) -> None:
        """Start to note.

        Args:
            official: the official name of a parameter or buffer of the model.
            draws: stream of noise -> what it hands out in each iteration.
        """
        self.official, self.draws = official, draws
        self.given: list[GivenNoise] = []
        self.terms: list[dict[str, Tensor]] = []
        self.records: dict[str, list[Tensor]] = defaultdict(list)
        self.first_gradients: dict[str, Tensor] = {}
        self.first_buffers: dict[str, Tensor] = {}

    def noise(self: Any, stream: str) -> NoiseStream:
        if stream not in self.draws:
            return super().noise(stream)  # type: ignore[misc]
        self.given.append(GivenNoise([self.draws[stream][self.iteration_number]]))
        return self.given[-1]

    def loss(self: Any, batch: Any) -> dict[str, Tensor]:
        terms = super().loss(batch)  # type: ignore[misc]
        self.terms.append({name: term.detach() for name, term in terms.items()})
        return terms

    def record(self: Any, name: str, value: Tensor) -> None:
        self.records[name].append(value.detach())
        super().record(name, value)  # type: ignore[misc]

    def on_before_optimizer_step(self: Any, optimizer: torch.optim.Optimizer) -> None:
        if self.iteration_number == 0:
            for name, parameter in self.named_parameters():
                gradient = torch.full((), torch.nan) if parameter.grad is None else parameter.grad
                self.first_gradients[self.official(name)] = gradient.double().norm()
            for name, buffer in self.named_buffers():
                self.first_buffers[self.official(name)] = buffer.clone()
        super().on_before_optimizer_step(optimizer)  # type: ignore[misc]

    def train_on(self: Any, batches: list[Any]) -> None:
        """One iteration with each batch, by Lightning's trainer."""
        train(self, batches)
        assert self.given and not any(noise.tensors for noise in self.given), "not all of the noise was used"


def train(model: pl.LightningModule, elements: list[Any]) -> None:
    """One iteration with each element, by Lightning's trainer."""
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        strategy=choose_strategy(model, {"accelerator": "cpu", "devices": 1}),
        max_steps=len(elements),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(model, train_dataloaders=torch.utils.data.DataLoader(elements, batch_size=None))  # type: ignore[arg-type]
