"""Batch norm over ranks equals batch norm over the whole batch, to second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.pair import ProcessPair
from vidgen.distributed import world
from vidgen.layers.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d

LAYERS = {1: (BatchNorm1d, nn.BatchNorm1d), 2: (BatchNorm2d, nn.BatchNorm2d), 3: (BatchNorm3d, nn.BatchNorm3d)}


def passes(dims: int, layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, first and second derivatives, and running statistics of this rank's rows of a batch."""
    rank, world_size = world()
    torch.manual_seed(1)
    layer = layer.double()
    with torch.no_grad():
        layer.weight.copy_(torch.rand(3) + 0.5)
        layer.bias.copy_(torch.randn(3))
    probe = torch.randn(x.shape, dtype=torch.float64)
    mine = x[rank::world_size].clone().requires_grad_()
    y = layer(mine)
    (slope,) = torch.autograd.grad((y.tanh() * probe[rank::world_size]).sum(), mine, create_graph=True)
    penalty = slope.square().sum()
    penalty.backward()
    second = torch.cat([mine.grad.reshape(-1)])
    return {
        "y": y.detach(),
        "slope": slope.detach(),
        "second": second,
        "weight": layer.weight.grad,
        "mean": layer.running_mean,
        "variance": layer.running_var,
        "count": layer.num_batches_tracked,
    }


def on_rank(dims: int, x: Tensor) -> dict[str, Tensor]:
    """Ours, on one rank."""
    return passes(dims, LAYERS[dims][0](3), x)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_two_ranks_equal_torch_on_the_whole_batch(dims: int, pair: ProcessPair) -> None:
    shape = (6, 3) if dims == 1 else (6, 3, *([4] * dims))
    x = torch.randn(shape, dtype=torch.float64) * 3 + 1
    whole = passes(dims, LAYERS[dims][1](3), x)
    parts = pair.run(on_rank, dims=dims, x=x)
    for key in ("mean", "variance", "count"):
        for part in parts:
            torch.testing.assert_close(part[key], whole[key], rtol=0, atol=1e-12)
    for key in ("y", "slope"):
        joined = torch.empty_like(whole[key])
        joined[0::2], joined[1::2] = parts[0][key], parts[1][key]
        torch.testing.assert_close(joined, whole[key], rtol=0, atol=1e-10)
    second = torch.empty_like(whole["y"])
    second[0::2] = parts[0]["second"].view_as(second[0::2])
    second[1::2] = parts[1]["second"].view_as(second[1::2])
    torch.testing.assert_close(second.reshape(-1), whole["second"], rtol=0, atol=1e-9)
    torch.testing.assert_close(parts[0]["weight"] + parts[1]["weight"], whole["weight"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_one_process_is_torch_itself(dims: int) -> None:
    ours, theirs = (cls(3) for cls in LAYERS[dims])
    x = torch.randn((6, 3) if dims == 1 else (6, 3, *([4] * dims)))
    assert torch.equal(ours(x), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


# Without shift ---------------------------------------------------------------------------------------------------


def without_shift_on_rank(dims: int, x: Tensor, slope: Tensor) -> dict[str, Tensor]:
    """Output, gradients and running statistics of this rank's rows, without a learned shift."""
    rank, world_size = world()
    layer = LAYERS[dims][0](3, shift=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.5, -1.0]))
    mine = x[rank::world_size].clone().requires_grad_()
    y = layer(mine)
    y.backward(slope[rank::world_size])
    found = {"y": y.detach(), "x": mine.grad, "weight": layer.weight.grad}
    return {**found, "mean": layer.running_mean, "variance": layer.running_var}


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_without_shift_it_is_a_batch_norm_whose_shift_is_zero(dims: int, pair: ProcessPair) -> None:
    x = torch.randn((6, 3) if dims == 1 else (6, 3, *([4] * dims)), dtype=torch.float64) * 3 + 1
    slope = torch.randn_like(x)
    theirs = LAYERS[dims][1](3).double()
    with torch.no_grad():
        theirs.weight.copy_(torch.tensor([0.5, 1.5, -1.0]))
    whole = x.clone().requires_grad_()
    y = theirs(whole)
    y.backward(slope)
    for parts in (
        [without_shift_on_rank(dims, x, slope)],
        pair.run(without_shift_on_rank, dims=dims, x=x, slope=slope),
    ):
        for rank, part in enumerate(parts):
            torch.testing.assert_close(part["y"], y.detach()[rank :: len(parts)], rtol=0, atol=1e-10)
            torch.testing.assert_close(part["x"], whole.grad[rank :: len(parts)], rtol=0, atol=1e-10)
            torch.testing.assert_close(part["mean"], theirs.running_mean, rtol=0, atol=1e-12)
            torch.testing.assert_close(part["variance"], theirs.running_var, rtol=0, atol=1e-12)
        torch.testing.assert_close(sum(part["weight"] for part in parts), theirs.weight.grad, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_without_shift_there_is_no_such_parameter(dims: int) -> None:
    ours, theirs = LAYERS[dims][0](3, shift=False, eps=2e-5), LAYERS[dims][1](3)
    assert [name for name, _ in ours.named_parameters()] == ["weight"]
    assert ours.state_dict().keys() == theirs.state_dict().keys() - {"bias"}
    assert (ours.weight == 1).all() and ours.eps == 2e-5
    x = torch.randn((6, 3) if dims == 1 else (6, 3, *([4] * dims)))
    ours(x)
    with torch.no_grad():
        ours.weight.fill_(3.0)
    assert ours.running_mean.any()
    ours.reset_parameters()
    assert (ours.weight == 1).all() and ours.bias is None
    assert not ours.running_mean.any() and (ours.running_var == 1).all() and ours.num_batches_tracked == 0
    bare = LAYERS[dims][0](3, shift=False, affine=False)
    assert not list(bare.parameters())
    torch.testing.assert_close(bare(x), LAYERS[dims][1](3, affine=False)(x))
