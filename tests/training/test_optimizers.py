"""Optimisers step as the frameworks do that they are named after."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import Adam

from vidgen.training.optimizers import LuaAdam

BETAS, RATE, EPSILON = (0.5, 0.999), 0.01, 1e-8


def gradients(steps: int) -> list[torch.Tensor]:
    """Of ordinary size and so small that epsilon decides, changing sign."""
    random = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.0, 1e-4, 1e-6, 1e-8, 1e-10], dtype=torch.float64)
    return [torch.randn(5, generator=random, dtype=torch.float64) * scale for _ in range(steps)]


def by_hand(steps: int) -> torch.Tensor:
    """The update of ``optim.adam``, written out."""
    weight, mean, square = (torch.zeros(5, dtype=torch.float64) for _ in range(3))
    for step, gradient in enumerate(gradients(steps), 1):
        mean = BETAS[0] * mean + (1 - BETAS[0]) * gradient
        square = BETAS[1] * square + (1 - BETAS[1]) * gradient**2
        rate = RATE * (1 - BETAS[1] ** step) ** 0.5 / (1 - BETAS[0] ** step)
        weight = weight - rate * mean / (square.sqrt() + EPSILON)
    return weight


def run(optimizer: torch.optim.Optimizer, parts: list[torch.Tensor]) -> torch.Tensor:
    (weight,) = optimizer.param_groups[0]["params"]
    for gradient in parts:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize("fused", [True, False])
def test_steps_are_those_of_the_formula(fused: bool) -> None:
    weight = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    moved = run(LuaAdam([weight], lr=RATE, betas=BETAS, eps=EPSILON, fused=fused), gradients(7))
    torch.testing.assert_close(moved, by_hand(7), rtol=1e-12, atol=0)
    other = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    usual = run(Adam([other], lr=RATE, betas=BETAS, eps=EPSILON), gradients(7))
    torch.testing.assert_close(moved[:1], usual[:1], rtol=1e-6, atol=0)
    assert (moved[3] - usual[3]).abs() > 0.1 * moved[3].abs(), "small gradients are where the two differ"


def test_a_resumed_optimiser_goes_on() -> None:
    weight = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    first = LuaAdam([weight], lr=RATE, betas=BETAS, eps=EPSILON)
    run(first, gradients(7)[:3])
    second = LuaAdam([weight], lr=1.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    torch.testing.assert_close(run(second, gradients(7)[3:]), by_hand(7), rtol=1e-12, atol=0)


def test_a_state_of_the_usual_adam_is_gone_on_with() -> None:
    weight = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    usual = Adam([weight], lr=RATE, betas=BETAS, eps=EPSILON)
    run(usual, gradients(7)[:3])
    second = LuaAdam([weight], lr=1.0)
    second.load_state_dict(copy.deepcopy(usual.state_dict()))
    run(second, gradients(7)[3:4])
    assert second.param_groups[0]["steps"] == 4
    assert second.param_groups[0]["eps"] == EPSILON / (1 - BETAS[1] ** 4) ** 0.5


def test_more_parameters_and_copies() -> None:
    first, later = (nn.Parameter(torch.zeros(5, dtype=torch.float64)) for _ in range(2))
    optimizer = LuaAdam([first], lr=RATE, betas=BETAS, eps=EPSILON)
    run(optimizer, gradients(2))
    optimizer.add_param_group({"params": [later]})
    optimizer = copy.deepcopy(optimizer)
    copied = optimizer.param_groups[1]["params"][0]
    for gradient in gradients(7):
        copied.grad = gradient.clone()
        optimizer.step()
    torch.testing.assert_close(copied.detach(), by_hand(7), rtol=1e-12, atol=0)
    assert [group["steps"] for group in optimizer.param_groups] == [9, 7]


def test_hooks_run_once_in_a_step() -> None:
    Adam([nn.Parameter(torch.zeros(1))]).step()  # from then on its class calls hooks, too
    weight = nn.Parameter(torch.zeros(5, dtype=torch.float64))
    optimizer, calls = LuaAdam([weight], lr=RATE), []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    run(optimizer, gradients(3))
    assert len(calls) == 3


def test_skipped_steps_do_not_count() -> None:
    weight = nn.Parameter(torch.zeros(5))
    optimizer = LuaAdam([weight], lr=RATE, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient, usable in ((1.0, True), (float("inf"), False), (1.0, True)):
        optimizer.zero_grad()
        scaler.scale((weight * gradient).sum()).backward()
        before = weight.detach().clone()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(weight, before) != usable
    assert optimizer.param_groups[0]["steps"] == 2
