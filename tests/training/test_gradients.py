"""Averaging, clipping and measuring the gradients of one optimiser."""

from __future__ import annotations

import torch
from torch import nn

from tests.pair import ProcessPair
from vidgen.distributed import world
from vidgen.training.gradients import average_gradients, clip_gradients, gradient_norm


def uneven(rank_without: int | None) -> list[torch.Tensor | None]:
    """Average three parameters, of which one rank may lack the second's gradient and all lack the third's."""
    rank = world()[0]
    parameters = [nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(1))]
    channels_last = nn.Parameter(torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last))
    parameters[0].grad = torch.full((2, 3), float(rank + 1))
    if rank != rank_without:
        parameters[1].grad = torch.full((4,), 10.0)
    values = torch.arange(24.0).view(2, 3, 2, 2) * (1 + rank)
    channels_last.grad = values.to(memory_format=torch.channels_last)
    average_gradients([*parameters, channels_last])
    return [parameter.grad for parameter in [*parameters, channels_last]]


def test_missing_counts_as_zero_and_absent_everywhere_stays_absent(pair: ProcessPair) -> None:
    for first, second, third, strided in pair.run(uneven, rank_without=1):
        assert torch.equal(first, torch.full((2, 3), 1.5))
        assert torch.equal(second, torch.full((4,), 5.0))
        assert third is None
        assert torch.equal(strided, torch.arange(24.0).view(2, 3, 2, 2) * 1.5)


def test_one_process_changes_nothing() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.ones(3)
    average_gradients([parameter])
    assert torch.equal(parameter.grad, torch.ones(3))


def test_clipping_by_norm_and_by_value() -> None:
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    for parameter, value in zip(parameters, (3.0, -4.0), strict=True):
        parameter.grad = torch.tensor([value])
    assert gradient_norm(parameters).item() == 5
    clip_gradients(parameters, 1.0, "norm")
    torch.testing.assert_close(gradient_norm(parameters), torch.tensor(1.0), rtol=1e-5, atol=0)
    clip_gradients(parameters, 0.7, "value")
    torch.testing.assert_close(torch.cat([p.grad for p in parameters]), torch.tensor([0.6, -0.7]), rtol=1e-5, atol=0)
    clip_gradients(parameters, None)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.6]), rtol=1e-5, atol=0)
