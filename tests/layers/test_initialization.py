"""Layers start as PyTorch 0.2 started them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vidgen.layers.initialization import initialize_torch_0_2


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
