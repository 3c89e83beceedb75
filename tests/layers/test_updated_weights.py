"""A backward pass through weights that have stepped in between: activations of then, weights of now."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pair import ProcessPair
from vidgen.distributed import sum_over_ranks, world
from vidgen.layers.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from vidgen.layers.updated_weights import may_be_updated, updated_weights

LINEAR = [
    (nn.Linear(3, 4), (5, 3)),
    (nn.Conv1d(3, 4, 3, padding=1), (2, 3, 7)),
    (nn.Conv2d(3, 4, 3, stride=2), (2, 3, 7, 7)),
    (nn.Conv3d(3, 4, 2), (2, 3, 4, 4, 4)),
    (nn.ConvTranspose2d(3, 4, 4, 2, 1), (2, 3, 5, 5)),
    (nn.ConvTranspose3d(3, 4, 4, 2, 1), (2, 3, 2, 3, 3)),
]


@torch.no_grad()
def step(module: nn.Module) -> None:
    """Change all weights in place, as optimisers do."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter))


@pytest.mark.parametrize(("layer", "shape"), LINEAR)
def test_linear_layers_use_the_weights_of_now(layer: nn.Module, shape: tuple[int, ...]) -> None:
    layer = layer.double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    with updated_weights():
        y = layer(x)
    slope = torch.randn_like(y)
    inputs = [x, *layer.parameters()]
    (then,) = torch.autograd.grad(y, x, slope, retain_graph=True)
    step(layer)
    found = torch.autograd.grad(y, inputs, slope)
    expected = torch.autograd.grad(layer(x), inputs, slope)  # these layers are linear: what was inside does not matter
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found[0], then)


def test_between_layers_the_activations_are_those_of_then() -> None:
    first, second = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    with updated_weights():
        y = second(torch.tanh(first(x)))
    hidden = torch.tanh(first(x)).detach()
    step(nn.ModuleList([first, second]))
    slope = torch.randn_like(y)
    found = torch.autograd.grad(y, [x, first.weight, second.weight], slope)
    inner = (slope @ second.weight) * (1 - hidden**2)
    for one, other in zip(found, (inner @ first.weight, inner.T @ x, slope.T @ hidden), strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-12, atol=1e-12)


LAYERS = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}


def normalised(x: Tensor) -> tuple[Tensor, Tensor]:
    """The input as a batch norm sees it, and the standard deviations."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    deviation = (x.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()
    return (x - x.mean(axes, keepdim=True)) / deviation, deviation


def by_hand(x: Tensor, slope: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """Gradients of a batch norm: statistics of the input, another scale."""
    axes = [axis for axis in range(x.dim()) if axis != 1]
    hat, deviation = normalised(x)
    inner = slope * scale.view(1, -1, *[1] * (x.dim() - 2))
    inner = inner - inner.mean(axes, keepdim=True) - hat * (inner * hat).mean(axes, keepdim=True)
    return {"x": inner / deviation, "weight": (slope * hat).sum(axes), "bias": slope.sum(axes)}


def batch_norm_on_rank(dims: int, x: Tensor, slope: Tensor, shift: bool) -> dict[str, Tensor]:
    """What our batch norm says on this rank's rows, its weights changed between forward and backward."""
    rank, size = world()
    torch.manual_seed(5)
    layer = LAYERS[dims](3, shift=shift).double()
    step(layer)
    mine = x[rank::size].clone().requires_grad_()
    with updated_weights():
        y = layer(mine)
    plain = LAYERS[dims](3, shift=shift).double()
    plain.load_state_dict(layer.state_dict())
    difference = (plain(mine) - y).detach().abs().max()
    step(layer)
    owned = list(layer.parameters())
    found = torch.autograd.grad(y, [mine, *owned], slope[rank::size])
    sums = [sum_over_ranks(gradient) for gradient in found[1:]]
    names = [name for name, _ in layer.named_parameters()]
    return {
        "x": found[0],
        **dict(zip(names, sums, strict=True)),
        "now": layer.weight.detach(),
        "difference": difference,
    }


def check_batch_norm(parts: list[dict[str, Tensor]], x: Tensor, slope: Tensor, shift: bool) -> None:
    expected = by_hand(x, slope, parts[0]["now"])
    joined = torch.empty_like(x)
    for rank, part in enumerate(parts):
        joined[rank :: len(parts)] = part["x"]
        assert part["difference"] < 1e-12, "the forward pass is the same"
        assert ("bias" in part) == shift
        for key in ("weight", "bias")[: 1 + shift]:
            torch.testing.assert_close(part[key], expected[key], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(joined, expected["x"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_batch_norm_uses_statistics_of_then_and_the_scale_of_now(dims: int, shift: bool, pair: ProcessPair) -> None:
    x = torch.randn(6, 3, *([4] * (dims if dims > 1 else 0)), dtype=torch.float64) * 2 + 1
    slope = torch.randn_like(x)
    check_batch_norm([batch_norm_on_rank(dims, x, slope, shift)], x, slope, shift)
    check_batch_norm(pair.run(batch_norm_on_rank, dims=dims, x=x, slope=slope, shift=shift), x, slope, shift)


def refusal_on_rank(kind: str) -> str:
    """What autograd says without the context."""
    torch.manual_seed(5)
    layer = {"norm": BatchNorm2d(3), "convolution": nn.Conv2d(3, 3, 1)}[kind]
    x = torch.randn(4, 3, 2, 2, requires_grad=True)
    y = layer(x)
    step(layer)
    try:
        y.sum().backward()
    except RuntimeError as error:
        return str(error)
    return "no refusal"


@pytest.mark.parametrize("kind", ["norm", "convolution"])
def test_without_it_autograd_refuses(kind: str, pair: ProcessPair) -> None:
    for message in (refusal_on_rank(kind), *pair.run(refusal_on_rank, kind=kind)):
        assert "has been modified by an inplace operation" in message


def test_ends_with_its_block() -> None:
    assert not may_be_updated()
    with updated_weights():
        assert may_be_updated()
        with updated_weights():
            assert may_be_updated()
        assert may_be_updated()
    assert not may_be_updated()
    with pytest.raises(KeyError), updated_weights():
        raise KeyError
    assert not may_be_updated()
    assert "inplace" in refusal_on_rank("convolution")


def test_under_autocast_the_graph_holds_the_weights_of_then() -> None:
    layer = nn.Linear(3, 4)
    x = torch.randn(5, 3, requires_grad=True)
    with updated_weights(), torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    then = layer.weight.detach().clone()
    step(layer)
    slope = torch.ones_like(y)
    (found,) = torch.autograd.grad(y, x, slope)
    torch.testing.assert_close(found, slope.float() @ then, rtol=0.02, atol=0.02)
    assert not torch.allclose(found, slope.float() @ layer.weight, rtol=0.1, atol=0.1)


class Token:
    """Lives as long as the graph that holds it."""


class Holding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Token) -> Tensor:
        ctx.token = token
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * 2, None


@pytest.mark.parametrize("activation", [F.leaky_relu, F.relu, torch.tanh, torch.sigmoid])
def test_a_graph_that_nobody_goes_through_is_freed(activation: Any) -> None:
    token = Token()
    watched = weakref.ref(token)
    with updated_weights():
        x = Holding.apply(torch.ones(3, requires_grad=True), token)
        y = activation(x, inplace=True) if activation in (F.leaky_relu, F.relu) else activation(x)
    del token, x
    gc.collect()
    assert watched() is not None
    del y
    gc.collect()
    assert watched() is None
