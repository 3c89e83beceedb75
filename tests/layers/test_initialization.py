"""Layers start as other frameworks and times started them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vidgen.layers.batch_norm import BatchNorm2d
from vidgen.layers.initialization import (
    initialize_lecun_normal,
    initialize_normal,
    initialize_torch_0_2,
    initialize_uniform,
)


@pytest.mark.parametrize(
    ("layer", "fan"),
    [
        (nn.Conv2d(20, 50, 4), 20 * 16),
        (nn.ConvTranspose2d(20, 50, 4), 20 * 16),
        (nn.Conv3d(10, 20, (1, 2, 4)), 10 * 8),
        (nn.GRUCell(30, 80), 80),
        (nn.GRU(30, 80), 80),
        (nn.Linear(60, 70), 60),
    ],
)
def test_uniform_within_one_over_the_root_of_the_fan(layer: nn.Module, fan: int) -> None:
    initialize_torch_0_2(nn.Sequential(layer))
    weights = torch.cat([parameter.flatten() for parameter in layer.parameters()])
    bound = fan**-0.5
    assert weights.abs().max() <= bound
    assert weights.abs().max() > 0.99 * bound
    torch.testing.assert_close(weights.std().item(), bound / 3**0.5, rtol=0.05, atol=0)


def test_batch_norm_scale_is_uniform_and_statistics_start_again() -> None:
    norm = nn.BatchNorm2d(2000)
    norm(torch.randn(8, 2000, 1, 1))
    initialize_torch_0_2(norm)
    assert norm.weight.min() >= 0 and norm.weight.max() <= 1
    assert abs(norm.weight.mean() - 0.5) < 0.03
    assert not norm.bias.any() and not norm.running_mean.any() and (norm.running_var == 1).all()
    initialize_torch_0_2(nn.BatchNorm2d(3, affine=False))


FANS = [
    (nn.Conv2d(20, 50, 4), 20 * 16),
    (nn.ConvTranspose2d(20, 50, 4), 50 * 16),
    (nn.Conv3d(10, 40, (1, 2, 4)), 10 * 8),
    (nn.ConvTranspose1d(60, 30, 4), 30 * 4),
    (nn.Linear(60, 70), 60),
    (nn.Linear(60, 70, bias=False), 60),
]


@pytest.mark.parametrize(("layer", "fan"), FANS)
def test_normal_of_chainer(layer: nn.Module, fan: int) -> None:
    initialize_lecun_normal(nn.Sequential(nn.ModuleList([layer])))
    torch.testing.assert_close(layer.weight.std().item(), fan**-0.5, rtol=0.05, atol=0)
    assert layer.weight.abs().max() > 3 * fan**-0.5, "normal, not uniform"
    assert abs(layer.weight.mean()) < 0.1 * fan**-0.5
    assert layer.bias is None or not layer.bias.any()


@pytest.mark.parametrize(("layer", "fan"), FANS)
def test_uniform_of_a_given_size(layer: nn.Module, fan: int) -> None:
    initialize_uniform(nn.Sequential(nn.ModuleList([layer])), 0.01)
    assert 0.0099 < layer.weight.max() <= 0.01 and -0.01 <= layer.weight.min() < -0.0099
    torch.testing.assert_close(layer.weight.std().item(), 0.01 / 3**0.5, rtol=0.05, atol=0)
    assert layer.bias is None or not layer.bias.any()


def test_chainer_leaves_other_layers_alone() -> None:
    norm = BatchNorm2d(5)
    with torch.no_grad():
        norm.weight.fill_(3.0)
        norm.bias.fill_(4.0)
    norm(torch.randn(8, 5, 2, 2))
    mean = norm.running_mean.clone()
    initialize_lecun_normal(norm)
    initialize_uniform(norm, 0.01)
    assert (norm.weight == 3).all() and (norm.bias == 4).all() and torch.equal(norm.running_mean, mean)


@pytest.mark.parametrize("shift", [True, False])
def test_normal_of_dcgan(shift: bool) -> None:
    convolution, transposed = nn.Conv3d(8, 16, 4), nn.ConvTranspose2d(30, 20, 4, bias=False)
    norm, linear = BatchNorm2d(4000, shift=shift), nn.Linear(3, 4)
    before = linear.weight.clone()
    network = nn.Sequential(convolution, nn.Sequential(transposed, norm), linear, BatchNorm2d(3, affine=False))
    with torch.no_grad():
        for parameter in (convolution.bias, norm.weight, *([norm.bias] if shift else [])):
            parameter.fill_(7.0)
    initialize_normal(network, weight_std=0.05, scale_std=0.03)
    for layer in (convolution, transposed):
        torch.testing.assert_close(layer.weight.std().item(), 0.05, rtol=0.03, atol=0)
        assert layer.weight.abs().max() > 3 * 0.05 and abs(layer.weight.mean()) < 0.003
    assert not convolution.bias.any() and (norm.bias is None or not norm.bias.any())
    torch.testing.assert_close(norm.weight.mean().item(), 1.0, rtol=0, atol=0.003)
    torch.testing.assert_close(norm.weight.std().item(), 0.03, rtol=0.1, atol=0)
    assert torch.equal(linear.weight, before)
