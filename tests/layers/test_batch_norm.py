"""Batch norm over ranks equals batch norm over the whole batch, to second derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pair import ProcessPair
from vidgen.distributed import world
from vidgen.layers.batch_norm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    FrameBatchNorm2d,
    Visits,
    batch_statistics,
)

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


# Frames with statistics of their own -------------------------------------------------------------------------------

ORDERS = [
    Visits(3, (0, 1, 2)),
    Visits(3, (0, 1, 1, 2)),  # a learned prior: each inner frame is met twice
    Visits(3, (2, 0)),  # frame 1 leaves no trace
    Visits(1, (0,)),
]


def lively(layer: nn.Module) -> nn.Module:
    """In float64, with scales and shifts that matter."""
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.5, -1.0]))
        layer.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return layer.double()


def frame_passes(run: Callable[[nn.Module, Tensor], Tensor], layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output, first and second derivatives, and running statistics of clips ``(B, T, C, H, W)``."""
    mine = x.clone().requires_grad_()
    probe = torch.linspace(-1, 2, x[0].numel(), dtype=x.dtype).view_as(x[0])
    y = run(layer, mine)
    (slope,) = torch.autograd.grad((y.tanh() * probe).sum(), mine, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), mine, retain_graph=True)
    gradients = torch.autograd.grad((y.tanh() * probe).sum(), [layer.weight, layer.bias])
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    return {"y": y.detach(), "slope": slope.detach(), "second": second, "weight": torch.cat(gradients), **buffers}


def one_call_for_each_visit(visits: Visits) -> Callable[[nn.Module, Tensor], Tensor]:
    """What the grouped layer stands for."""

    def run(layer: nn.Module, x: Tensor) -> Tensor:
        parts = {frame: layer(x[:, frame]) for frame in visits.order}
        others = F.batch_norm  # frames that are never met are normalised without a trace
        for frame in set(range(visits.steps)) - parts.keys():
            parts[frame] = others(x[:, frame], None, None, layer.weight, layer.bias, training=True)
        return torch.stack([parts[frame] for frame in range(visits.steps)], 1)

    return run


def all_frames_at_once(visits: Visits | None) -> Callable[[nn.Module, Tensor], Tensor]:
    """The layer as networks call it."""
    return lambda layer, x: layer(x.flatten(0, 1), visits).unflatten(0, x.shape[:2])


def frames_on_rank(visits: Visits, x: Tensor) -> dict[str, Tensor]:
    """This rank's clips."""
    rank, size = world()
    return frame_passes(all_frames_at_once(visits), lively(FrameBatchNorm2d(3)), x[rank::size])


def assert_same_passes(found: dict[str, Tensor], expected: dict[str, Tensor], rank: int = 0, size: int = 1) -> None:
    """Compare all but the gradients of parameters, which ranks share."""
    for key, value in expected.items():
        if key in ("y", "slope", "second"):
            torch.testing.assert_close(found[key], value[rank::size], rtol=0, atol=1e-9, msg=key)
        elif key != "weight":
            torch.testing.assert_close(found[key], value, rtol=0, atol=1e-12, msg=key)


@pytest.mark.parametrize("visits", ORDERS)
def test_grouped_frames_equal_one_call_for_each_visit(visits: Visits) -> None:
    x = torch.randn(4, visits.steps, 3, 2, 5, dtype=torch.float64) * 3 + 1
    expected = frame_passes(one_call_for_each_visit(visits), lively(nn.BatchNorm2d(3)), x)
    found = frame_passes(all_frames_at_once(visits), lively(FrameBatchNorm2d(3)), x)
    assert found.keys() == expected.keys() and found["num_batches_tracked"] == len(visits.order)
    assert_same_passes(found, expected)
    torch.testing.assert_close(found["weight"], expected["weight"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("visits", ORDERS)
@pytest.mark.parametrize(("clips", "size"), [(4, 3), (2, 1)])
def test_grouped_frames_on_two_ranks_equal_those_on_one(
    visits: Visits, clips: int, size: int, pair: ProcessPair
) -> None:
    x = torch.randn(clips, visits.steps, 3, size, size, dtype=torch.float64) * 3 + 1
    whole = frames_on_rank(visits, x)
    parts = pair.run(frames_on_rank, visits=visits, x=x)
    for rank, part in enumerate(parts):
        assert_same_passes(part, whole, rank, 2)
    torch.testing.assert_close(parts[0]["weight"] + parts[1]["weight"], whole["weight"], rtol=0, atol=1e-9)


def test_without_visits_frames_are_one_batch() -> None:
    x = torch.randn(4, 3, 3, 2, 2, dtype=torch.float64)
    expected = frame_passes(lambda layer, x: layer(x.flatten(0, 1)).view_as(x), lively(nn.BatchNorm2d(3)), x)
    found = frame_passes(all_frames_at_once(None), lively(FrameBatchNorm2d(3)), x)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_evaluation_uses_running_statistics_whatever_the_visits() -> None:
    ours, theirs = lively(FrameBatchNorm2d(3)), lively(nn.BatchNorm2d(3))
    x = torch.randn(6, 3, 2, 2, dtype=torch.float64)
    for layer in (ours, theirs):
        layer.running_mean.fill_(0.5)
        layer.eval()
    assert torch.equal(ours(x, Visits(3, (0, 1, 2))), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys() and ours.num_batches_tracked == 0


def mixed_on_rank(x: Tensor) -> dict[str, Tensor]:
    """This rank's clips in half precision, as under autocast: the layer is in float32."""
    rank, size = world()
    layer = lively(FrameBatchNorm2d(3)).float()
    made = layer(x[rank::size].bfloat16().flatten(0, 1), Visits(2, (0, 1))).unflatten(0, (-1, 2))
    return {"made": made.detach(), "mean": layer.running_mean, "variance": layer.running_var}


def test_statistics_of_grouped_frames_in_half_precision_are_in_full(pair: ProcessPair) -> None:
    x = (torch.randn(8, 2, 3, 4, 4) + 10).bfloat16()
    whole = mixed_on_rank(x)
    for rank, part in enumerate(pair.run(mixed_on_rank, x=x)):
        assert part["made"].dtype == whole["made"].dtype == torch.bfloat16
        torch.testing.assert_close(part["made"], whole["made"][rank::2], rtol=0, atol=0.02)
        for key in ("mean", "variance"):
            torch.testing.assert_close(part[key], whole[key], rtol=1e-5, atol=0)
    exact = x.float()
    mean = 0.9 * 0.1 * exact[:, 0].mean((0, 2, 3)) + 0.1 * exact[:, 1].mean((0, 2, 3))
    torch.testing.assert_close(whole["mean"], mean, rtol=1e-5, atol=0)


# Statistics of what is given, remembered by nobody ------------------------------------------------------------------


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3), lively(BatchNorm2d(3)).float(), nn.ReLU(), FrameBatchNorm2d(3)).eval()


@pytest.mark.parametrize("training", [False, True])
def test_batch_statistics_are_used_and_forgotten(training: bool) -> None:
    made = network().train(training)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    x = torch.randn(5, 2, 6, 6)
    with batch_statistics(made):
        found = made(x)
    hidden = F.relu(F.batch_norm(made[0](x), None, None, made[1].weight, made[1].bias, training=True))
    torch.testing.assert_close(found, F.batch_norm(hidden, None, None, made[3].weight, made[3].bias, training=True))
    assert all(torch.equal(before[key], value) for key, value in made.state_dict().items())
    assert all(module.training == training for module in made.modules())
    assert not torch.allclose(made.eval()(x), found)


def test_batch_statistics_end_with_an_exception() -> None:
    made, other = network(), network()
    x = torch.randn(5, 2, 6, 6)
    expected = made(x)
    with pytest.raises(KeyError):
        with batch_statistics(made, other):
            assert not torch.allclose(made(x), expected)
            raise KeyError
    assert torch.equal(made(x), expected)
    assert not any(getattr(module, "borrows", False) for part in (made, other) for module in part.modules())


def alone_on_rank(x: Tensor) -> Tensor | None:
    """Rank 0 works alone: an exchange with the other rank would never end, so it fails."""
    import vidgen.layers.batch_norm

    def refuse(_: Tensor) -> Tensor:
        raise AssertionError("asks the other rank")

    if world()[0]:
        return None
    torch.manual_seed(3)
    made, exchange = network().train(), vidgen.layers.batch_norm.sum_over_ranks
    vidgen.layers.batch_norm.sum_over_ranks = refuse
    try:
        with torch.no_grad(), batch_statistics(made):
            return made(x)
    finally:
        vidgen.layers.batch_norm.sum_over_ranks = exchange


def test_batch_statistics_are_those_of_one_process(pair: ProcessPair) -> None:
    x = torch.randn(5, 2, 6, 6)
    first, second = pair.run(alone_on_rank, x=x)
    assert second is None
    torch.testing.assert_close(first, alone_on_rank(x))
