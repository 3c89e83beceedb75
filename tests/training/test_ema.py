"""The average covers the generator only, ramps up, copies buffers, and lends its weights."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from tests.contract.running import build, train, weights
from vidgen.errors import UserError
from vidgen.training.ema import ModuleAverage
from vidgen.training.settings import EMASettings


class History(pl.Callback):
    """Weights after every iteration."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.states.append(weights(pl_module))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.states.append(weights(pl_module))


def averaged(settings: EMASettings, iterations: int) -> tuple[ModuleAverage, list[dict[str, torch.Tensor]], Any]:
    """Train with an average and remember every state."""
    model = build("mocogan", "default").double()
    average, history = ModuleAverage(settings), History()
    train(model, iterations, callbacks=(average, history), precision="64-true")
    return average, history.states, model


def test_weights_follow_the_ramped_recursion_and_buffers_are_copied() -> None:
    average, states, model = averaged(EMASettings(decay=0.6, ramp_up=10), 9)
    expected = dict(states[0])
    for number, state in enumerate(states[1:], start=1):
        decay = min(0.6, (1 + number) / (10 + number))
        expected = {key: decay * expected[key] + (1 - decay) * state[key] for key in state}
    parameters = dict(model.named_parameters())
    assert average.average.keys() == {key for key in states[0] if key.startswith("generator.")}
    for key, value in average.average.items():
        wanted = expected[key] if key in parameters else states[-1][key]
        torch.testing.assert_close(value, wanted, rtol=0, atol=1e-12)


def test_every_skips_iterations() -> None:
    average, states, _ = averaged(EMASettings(decay=0.5, ramp_up=1, every=3), 7)
    key = "generator.recurrent.weight_ih"
    expected = states[0][key]
    for iteration in (3, 6):
        expected = 0.5 * expected + 0.5 * states[iteration][key]
    torch.testing.assert_close(average.average[key], expected, rtol=0, atol=1e-12)


def test_lent_weights_are_given_back() -> None:
    average, states, model = averaged(EMASettings(decay=0.9), 3)
    with average.applied(model):
        inside = weights(model)
    outside = weights(model)
    key = "generator.recurrent.weight_ih"
    assert torch.equal(inside[key], average.average[key]) and not torch.equal(inside[key], states[-1][key])
    assert all(torch.equal(outside[name], states[-1][name]) for name in outside)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_impossible_decay_is_refused(decay: float) -> None:
    with pytest.raises(UserError) as caught:
        ModuleAverage(EMASettings(decay=decay))
    assert str(caught.value) == f"ema.decay: {decay} is not in [0, 1); papers use 0.99 to 0.9999"


def test_model_without_modules_to_average_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("mocogan", "default")
    monkeypatch.setattr(type(model), "ema_modules", ())
    with pytest.raises(UserError) as caught:
        train(model, 1, callbacks=(ModuleAverage(EMASettings()),))
    assert str(caught.value) == "ema: MoCoGAN names no modules to average; remove the ema section"
