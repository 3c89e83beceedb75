"""Small models with weights that matter, and a look at each step that training makes."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from tests.contract.running import weights
from vidgen.models.base import AdversarialModel

Network = TypeVar("Network", bound=nn.Module)


def parameters(network: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def enliven(network: Network, scale: float = 2.0) -> Network:
    """Weights that neither swallow nor drown what goes in, whatever a paper starts from; shifts and statistics, too.

    Args:
        network: changed in place.
        scale: size of the weights; 1 keeps the size of what flows through a convolution, less suits a transposed one.
    """
    for name, weight in network.named_parameters():
        if weight.dim() > 1:
            weight.normal_(0, scale * weight[0].numel() ** -0.5)
        elif name.endswith("bias"):
            weight.normal_(0, 0.1)
        else:
            weight.uniform_(0.5, 1.5)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return network


class Step(NamedTuple):
    """One step of one optimiser.

    Args:
        name: of the update.
        gradients: parameter name -> gradient, of what the optimiser owns; without those that have none.
        before: all weights before the step.
    """

    name: str
    gradients: dict[str, Tensor]
    before: dict[str, Tensor]


def watch(model: AdversarialModel) -> list[Step]:
    """The steps that the model will make, in order, filled while it trains."""
    steps: list[Step] = []
    step = model._step

    def spy(name: str, optimizer: Any, owned: list[nn.Parameter]) -> None:
        mine = {id(parameter) for parameter in owned}
        named = ((key, p) for key, p in model.named_parameters() if id(p) in mine)
        steps.append(Step(name, {key: p.grad.clone() for key, p in named if p.grad is not None}, weights(model)))
        step(name, optimizer, owned)

    model._step = spy
    return steps
