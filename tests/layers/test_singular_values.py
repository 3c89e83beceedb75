"""Singular values are clipped as a full decomposition would clip them, and nothing else changes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from vidgen.layers.batch_norm import BatchNorm1d, BatchNorm3d
from vidgen.layers.singular_values import PART, clip_scale, clip_singular_values, clip_to_lipschitz

WIDE, TALL, SQUARE = (5, 40), (40, 5), (12, 12)
SHAPES = [WIDE, TALL, SQUARE, (6, 5, 4), (6, 3, 4, 4), (4, 3, 4, 4, 4), (1, 30), (30, 1), (40, 2, 2), (3, 2 * PART + 7)]


def clipped_by_svd(weight: Tensor, limit: float = 1.0) -> Tensor:
    u, s, v = torch.linalg.svd(weight.double().reshape(len(weight), -1), full_matrices=False)
    return (u * s.clamp(max=limit) @ v).reshape(weight.shape)


def values_of(weight: Tensor) -> Tensor:
    return torch.linalg.svdvals(weight.double().reshape(len(weight), -1))


def matrix(rows: int, columns: int, values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
    """A matrix with given singular values."""
    left, _ = torch.linalg.qr(torch.randn(rows, len(values), dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, len(values), dtype=torch.float64))
    return (left * torch.tensor(values, dtype=torch.float64) @ right.mT).to(dtype)


@pytest.mark.parametrize("limit", [1.0, 0.3, 2.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_clipping_in_a_full_decomposition(shape: tuple[int, ...], limit: float) -> None:
    weight = torch.randn(shape)
    weight *= 2 * limit / values_of(weight).median()
    expected = clipped_by_svd(weight, limit)
    before = weight.clone()
    assert clip_singular_values([weight], limit) is None
    assert (weight - before).abs().max() > 1e-2, "there was something to clip"
    torch.testing.assert_close(weight.double(), expected, rtol=0, atol=1e-5)
    assert values_of(weight).max() <= limit * (1 + 1e-5)


@pytest.mark.parametrize(("rows", "columns"), [(6, 30), (30, 6)])
@pytest.mark.parametrize(
    "values",
    [
        [3.0, 1.5, 0.9, 0.5, 0.01, 1e-4],
        [1e3, 30.0, 1.0, 1e-3],  # of rank 4
        [2.0, 2.0, 2.0, 0.5, 0.5, 0.5],
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        [5.0],
        [5.0, 1.0 + 1e-6, 1.0 - 1e-6],
    ],
)
def test_only_what_exceeds_is_clipped(rows: int, columns: int, values: list[float]) -> None:
    weight = matrix(rows, columns, values)
    expected = clipped_by_svd(weight)
    clip_singular_values([weight])
    torch.testing.assert_close(weight.double(), expected, rtol=0, atol=1e-5)
    found = values_of(weight)[: len(values)]
    torch.testing.assert_close(
        found, torch.tensor(values).clamp(max=1).double(), rtol=0, atol=max(1e-5, 1e-6 * max(values))
    )


@pytest.mark.parametrize("norm", [10.0, 1e2, 1e4])
def test_large_weights_are_clipped_as_exactly(norm: float) -> None:
    weight = matrix(16, 80, [norm, norm / 2, 3.0, 0.7, 0.1])
    expected = clipped_by_svd(weight)
    clip_singular_values([weight])
    torch.testing.assert_close(weight.double(), expected, rtol=0, atol=1e-5)
    assert values_of(weight).max() <= 1 + 1e-5


def test_autocast_does_not_matter() -> None:
    weight = matrix(16, 80, [5.0, 3.0, 1.01, 0.7])
    other = weight.clone()
    clip_singular_values([weight])
    with torch.autocast("cpu", torch.bfloat16):
        clip_singular_values([other])
    assert torch.equal(weight, other)


def test_half_precision_is_rounded_once() -> None:
    weight = matrix(16, 80, [500.0, 3.0, 1.01, 0.7]).bfloat16()
    expected = clipped_by_svd(weight).bfloat16()
    clip_singular_values([weight])
    torch.testing.assert_close(weight, expected, rtol=2**-7, atol=1e-6)


def test_in_float64() -> None:
    weight = matrix(8, 50, [4.0, 3.0, 1.01, 0.7, 0.1, 1e-6], torch.float64)
    expected = clipped_by_svd(weight)
    clip_singular_values([weight])
    assert weight.dtype == torch.float64
    torch.testing.assert_close(weight, expected, rtol=0, atol=1e-12)


def test_several_at_once_of_equal_and_other_shapes_and_types() -> None:
    shapes = [(5, 4, 2), (6, 3, 4, 4), (5, 8), (5, 2, 2, 2), (8, 5), (6, 48), (5, 8)]
    weights = [torch.randn(shape) * scale for shape, scale in zip(shapes, (3, 0.05, 1, 2, 1, 0.5, 0.01), strict=True)]
    weights[2] = weights[2].double()
    before = [weight.clone() for weight in weights]
    clip_singular_values(weights)
    for weight, original in zip(weights, before, strict=True):
        assert weight.dtype == original.dtype and weight.shape == original.shape
        torch.testing.assert_close(weight.double(), clipped_by_svd(original), rtol=0, atol=1e-5)
    assert torch.equal(weights[1], before[1]) or values_of(before[1]).max() > 1
    assert torch.equal(weights[6], before[6])
    clip_singular_values([])


@pytest.mark.parametrize("shape", SHAPES)
def test_not_a_bit_changes_where_nothing_exceeds(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape)
    weight *= 0.99 / values_of(weight).max()
    small, large = weight.clone(), 100 * torch.randn(shape)
    clip_singular_values([large, small])
    assert torch.equal(small, weight)
    clip_singular_values([zero := torch.zeros(shape)])
    assert not zero.any()


@pytest.mark.parametrize("shape", [WIDE, TALL, (3, 2 * PART + 7)])
def test_only_the_small_gram_matrix_is_decomposed(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda gram: sizes.append(tuple(gram.shape)) or eigh(gram))
    monkeypatch.delattr(torch.linalg, "svd")
    clip_singular_values([torch.randn(shape), torch.randn(shape)])
    assert sizes == [(2, min(shape), min(shape))], "both weights at once"


def test_clipping_twice_is_clipping_once() -> None:
    weight = 3 * torch.randn(6, 3, 4, 4)
    clip_singular_values([weight])
    once = weight.clone()
    clip_singular_values([weight])
    torch.testing.assert_close(weight, once, rtol=0, atol=1e-6)


def test_keeps_memory_format_storage_and_graph_flags() -> None:
    plain = 3 * torch.randn(6, 3, 4, 4)
    weight = nn.Parameter(plain.clone().contiguous(memory_format=torch.channels_last))
    pointer = weight.data_ptr()
    clip_singular_values([weight])
    assert weight.data_ptr() == pointer and weight.requires_grad and weight.grad_fn is None
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(weight.detach().double(), clipped_by_svd(plain), rtol=0, atol=1e-5)
    turned = 3 * torch.randn(40, 5)
    view = turned.mT  # of other strides
    expected = clipped_by_svd(view)
    clip_singular_values([view])
    torch.testing.assert_close(turned.mT.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("limit", [1.0, 0.5])
@pytest.mark.parametrize("shape", [WIDE, TALL])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_stays(value: float, shape: tuple[int, ...], limit: float) -> None:
    broken, healthy = torch.randn(shape), 3 * torch.randn(shape)
    broken[2, 1] = value
    before, expected = broken.clone(), clipped_by_svd(healthy, limit)
    clip_singular_values([broken, healthy], limit)
    torch.testing.assert_close(broken, before, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(healthy.double(), expected, rtol=0, atol=1e-5)


# Batch norms -----------------------------------------------------------------------------------------------------


def test_scale_is_between_a_share_of_the_deviation_and_the_deviation() -> None:
    norm = BatchNorm3d(6, shift=False)
    norm.running_var = torch.tensor([4.0, 4.0, 4.0, 4.0, 0.25, 0.0])
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([5.0, 1.5, -1.0, 0.001, 1.0, 1.0]))
    variance, pointer = norm.running_var.clone(), norm.weight.data_ptr()
    clip_scale(norm)
    assert torch.equal(norm.weight, torch.tensor([2.0, 1.5, 0.02, 0.02, 0.5, 0.0]))
    assert torch.equal(norm.running_var, variance)
    assert norm.weight.data_ptr() == pointer and norm.weight.requires_grad and norm.weight.is_leaf
    clip_scale(norm, least=0.5)
    assert torch.equal(norm.weight, torch.tensor([2.0, 1.5, 1.0, 1.0, 0.5, 0.0]))


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}])
def test_scale_needs_statistics(options: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="no running variance or no scale"):
        clip_scale(BatchNorm1d(3, **options))


# Networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1.0, 0.5])
def test_a_network_is_clipped_layer_by_layer(limit: float) -> None:
    network = nn.Sequential(
        nn.Conv3d(2, 3, 4),
        nn.Sequential(nn.BatchNorm3d(3), nn.ConvTranspose2d(3, 5, 2)),
        nn.Linear(7, 6),
        nn.LayerNorm(4),
        nn.Embedding(3, 4),
        nn.BatchNorm1d(4),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 3)
    before = copy.deepcopy(network)
    assert clip_to_lipschitz(network, limit) is None
    pairs = dict(zip(before.named_parameters(), network.parameters(), strict=True))
    for (name, original), weight in pairs.items():
        if name in ("0.weight", "1.1.weight", "2.weight"):
            if name == "1.1.weight":  # a transposed convolution has its output channels second
                original, weight = original.transpose(0, 1), weight.transpose(0, 1)
            torch.testing.assert_close(weight.double(), clipped_by_svd(original, limit), rtol=0, atol=1e-5)
            assert values_of(weight).max() <= limit * (1 + 1e-5) < values_of(original).max()
        elif name in ("1.0.weight", "5.weight"):
            assert torch.equal(weight, original.clamp(0.01, 1))
        else:
            assert torch.equal(weight, original), name
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in network.parameters())
