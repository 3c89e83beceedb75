"""Every registered model trains as the contract says, covered by its name alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from tests.contract.running import build, largest_difference, train, train_on_rank, variants, weights
from tests.pair import ProcessPair
from vidgen.models.base import AdversarialModel, reason_without_gradient
from vidgen.training.meters import NonFiniteError

every_variant = pytest.mark.parametrize(("name", "variant"), variants())


class UpdateSpy(pl.Callback):
    """Records which parameters hold a gradient when each update steps."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, set[str], set[str]]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step = pl_module._step
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}

        def spy(update: str, optimizer: Any, owned: list[nn.Parameter]) -> None:
            touched = {n for n, p in pl_module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
            self.steps.append((update, touched, {names[id(parameter)] for parameter in owned}))
            step(update, optimizer, owned)
            optimizer.zero_grad(set_to_none=True)

        pl_module._step = spy


@every_variant
def test_two_half_batches_equal_one_full_batch(name: str, variant: str, pair: ProcessPair) -> None:
    single = train_on_rank(name, variant, 5)
    first, second = pair.run(train_on_rank, name=name, variant=variant, iterations=5)
    assert largest_difference(first, second) == 0, "the two ranks have drifted apart"
    assert largest_difference(single, first) <= 1e-9
    untrained = weights(build(name, variant).double())
    assert largest_difference(single, untrained) > 1e-4, "training changed nothing, so the comparison means nothing"


@every_variant
def test_gradients_reach_only_the_network_being_updated(name: str, variant: str) -> None:
    model = build(name, variant)
    if not isinstance(model, AdversarialModel):
        pytest.fail(f"{name} is not adversarial; give this test what it means for it")
    spy = UpdateSpy()
    train(model, 1, callbacks=(spy,))
    assert [update for update, _, _ in spy.steps][: len(model.build_optimizers())] == list(model.build_optimizers())
    for update, touched, owned in spy.steps:
        assert touched <= owned, f"{update} reached {sorted(touched - owned)}"


@every_variant
def test_every_parameter_gets_a_gradient_unless_listed(name: str, variant: str) -> None:
    model = build(name, variant)
    spy = UpdateSpy()
    train(model, 1, callbacks=(spy,))
    reached = {parameter for _, touched, _ in spy.steps for parameter in touched}
    for parameter, _ in model.named_parameters():
        listed = reason_without_gradient(model, parameter)
        if listed is None:
            assert parameter in reached, f"{parameter} gets no gradient; train it or list it with a reason"
        else:
            assert listed.strip() and parameter not in reached, f"{parameter} is listed but gets a gradient"


@every_variant
def test_max_steps_counts_iterations(name: str, variant: str) -> None:
    model = build(name, variant)
    spy = UpdateSpy()
    trainer = train(model, 3, callbacks=(spy,))
    assert trainer.global_step == 3
    updates = len(spy.steps)
    assert updates % 3 == 0 and updates >= 3 * len(model.build_optimizers())


@every_variant
def test_same_seed_same_weights(name: str, variant: str) -> None:
    first, second, other = build(name, variant), build(name, variant), build(name, variant, seed=1)
    for model in (first, second, other):
        train(model, 2)
    assert largest_difference(weights(first), weights(second)) == 0
    assert largest_difference(weights(first), weights(other)) > 0


@every_variant
def test_global_random_state_does_not_matter(name: str, variant: str) -> None:
    first, second = build(name, variant), build(name, variant)
    train(first, 2)
    torch.manual_seed(12345)
    train(second, 2)
    assert largest_difference(weights(first), weights(second)) == 0


@every_variant
def test_resumed_equals_uninterrupted_bit_for_bit(name: str, variant: str, tmp_path: Path) -> None:
    whole = build(name, variant)
    train(whole, 5, folder=tmp_path / "whole", ema=True)
    first = build(name, variant)
    train(first, 3, folder=tmp_path / "first", ema=True)
    second = build(name, variant, seed=7)
    second.seed = 0
    train(second, 5, folder=tmp_path / "second", resume=tmp_path / "first" / "iteration_00000003.ckpt", ema=True)
    one, two = (
        torch.load(tmp_path / run / "iteration_00000005.ckpt", weights_only=True) for run in ("whole", "second")
    )
    assert_same(one, two, skip={"loops"})


def assert_same(one: Any, two: Any, path: str = "", skip: frozenset[str] | set[str] = frozenset()) -> None:
    """Compare nested checkpoint content exactly; Lightning's own loop counters differ by design."""
    assert type(one) is type(two), path
    if isinstance(one, dict):
        assert one.keys() == two.keys(), path
        for key in one:
            if key not in skip:
                assert_same(one[key], two[key], f"{path}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), path
        for index, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_same(a, b, f"{path}/{index}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two), path
    else:
        assert one == two, path


@every_variant
def test_clipping_limits_each_update(name: str, variant: str) -> None:
    model = build(name, variant)
    norms: list[float] = []

    class AfterClip(pl.Callback):
        def on_before_zero_grad(self, *_: Any) -> None: ...

        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            for optimizer in trainer.optimizers:
                raw = optimizer
                parameters = [p for group in raw.param_groups for p in group["params"]]
                raw.register_step_pre_hook(
                    lambda *_, parameters=parameters: norms.append(
                        torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm().item()
                    )
                )

    train(model, 2, callbacks=(AfterClip(),), gradient_clip_val=1e-3, gradient_clip_algorithm="norm")
    assert norms and max(norms) <= 1e-3 * 1.001
    assert max(norms) > 0.9e-3, "no gradient was long enough to be clipped"


@every_variant
def test_accumulation_averages_micro_batches(name: str, variant: str) -> None:
    first_update: list[torch.Tensor] = []

    class FirstUpdate(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            step, accumulate = pl_module._step, pl_module._accumulate
            self.single: list[torch.Tensor] = []

            def each(update: str, loss_fn: Any, owned: list[nn.Parameter], retain: bool) -> None:
                before = [None if p.grad is None else p.grad.clone() for p in owned]
                accumulate(update, loss_fn, owned, retain)
                if not first_update:
                    parts = [p.grad if b is None else p.grad - b for p, b in zip(owned, before, strict=True)]
                    self.single.append(torch.cat([part.reshape(-1) for part in parts]).clone())

            def keep(update: str, optimizer: Any, owned: list[nn.Parameter]) -> None:
                if not first_update:
                    first_update.append(torch.cat([p.grad.reshape(-1) for p in owned]).clone())
                step(update, optimizer, owned)

            pl_module._accumulate, pl_module._step = each, keep

    spy = FirstUpdate()
    train(build(name, variant).double(), 1, callbacks=(spy,), accumulate_grad_batches=2, precision="64-true")
    halves = spy.single
    assert len(halves) == 2 and not torch.allclose(halves[0], halves[1]), "both micro-batches saw the same data"
    alone: list[torch.Tensor] = []
    once = FirstUpdate()
    first_update_of_two = first_update.copy()
    first_update.clear()
    train(build(name, variant).double(), 1, callbacks=(once,), precision="64-true")
    alone = once.single
    torch.testing.assert_close(halves[0] * 2, alone[0])
    torch.testing.assert_close(first_update_of_two[0], halves[0] + halves[1])


@every_variant
def test_bf16_mixed_stays_near_full_precision(name: str, variant: str) -> None:
    full, mixed = build(name, variant), build(name, variant)
    train(full, 2)
    train(mixed, 2, precision="bf16-mixed")
    assert all(torch.isfinite(value).all() for value in mixed.state_dict().values() if value.is_floating_point())
    assert all(value.dtype == torch.float32 for value in mixed.parameters())
    difference = largest_difference(weights(full), weights(mixed))
    assert 0 < difference < 0.1


@every_variant
def test_nan_stops_the_run_with_iteration_term_and_last_checkpoint(name: str, variant: str, tmp_path: Path) -> None:
    model = build(name, variant)
    poison = copy.deepcopy(next(iter(model.networks())))

    class Poison(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            if trainer.global_step == 3:
                with torch.no_grad():
                    for parameter in pl_module.networks()[poison].parameters():
                        parameter.fill_(float("nan"))

    with pytest.raises(NonFiniteError) as caught:
        train(model, 6, folder=tmp_path, every=2, callbacks=(Poison(),))
    good = tmp_path / "iteration_00000002.ckpt"
    message = str(caught.value)
    assert message.startswith("iteration 4: loss/")
    assert message.endswith(f" is not finite; the last good checkpoint is {good}")
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [good.name]


@every_variant
@torch._functorch.config.patch(donated_buffer=False)  # as `compile: true` does
def test_compiled_networks_train_like_eager_ones(name: str, variant: str) -> None:
    eager, compiled = build(name, variant), build(name, variant)
    for network in compiled.networks().values():
        network.compile(backend="aot_eager")
    train(eager, 2)
    train(compiled, 2)
    assert largest_difference(weights(eager), weights(compiled)) < 1e-4
