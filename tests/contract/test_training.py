"""Every registered model trains as the contract says, covered by its name alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from tests.contract.running import (
    StepWatch,
    build,
    difference_beyond_rounding,
    frozen_entries,
    largest_difference,
    train,
    train_on_rank,
    variants,
    weights,
)
from tests.pair import ProcessPair
from vidgen.models.base import AdversarialModel, LikelihoodModel, VideoModel, reason_without_gradient
from vidgen.registry import MODELS
from vidgen.training.meters import NonFiniteError

every_variant = pytest.mark.parametrize(("name", "variant"), variants())
every_variant_with_one_optimiser = pytest.mark.parametrize(
    ("name", "variant"), [pair for pair in variants() if issubclass(MODELS.get(pair[0]), LikelihoodModel)]
)


def first_variants_and_slow_others() -> list[Any]:
    """Every variant, of which all but the first of a model are slow."""
    firsts = dict(reversed(variants()))
    return [
        pytest.param(name, variant, marks=() if firsts[name] == variant else pytest.mark.slow)
        for name, variant in variants()
    ]


@every_variant
def test_two_half_batches_equal_one_full_batch(name: str, variant: str, pair: ProcessPair) -> None:
    single = train_on_rank(name, variant, 5)
    first, second = (found.weights for found in pair.run(train_on_rank, name=name, variant=variant, iterations=5))
    assert largest_difference(first, second) == 0, "the two ranks have drifted apart"
    assert difference_beyond_rounding(single, first) <= 1e-9
    untrained = weights(build(name, variant).double())
    assert largest_difference(single.weights, untrained) > 1e-4, "training changed nothing, so nothing was compared"


@every_variant
def test_updates_reach_what_their_optimisers_own(name: str, variant: str) -> None:
    model, watch = build(name, variant), StepWatch()
    train(model, 1, callbacks=(watch,))
    names = model._optimizer_names
    assert [step.name for step in watch.steps][: len(names)] == names
    for step in watch.steps:
        assert len(set(step.owned)) == len(step.owned), f"{step.name} owns a parameter twice"
        if isinstance(model, AdversarialModel):  # what others own is frozen
            assert step.gradients.keys() <= set(step.owned), step.name
    owned = {parameter for step in watch.steps for parameter in step.owned}
    assert owned == {key for key, parameter in model.named_parameters() if parameter.requires_grad}


@every_variant
def test_every_parameter_gets_a_gradient_unless_listed_or_frozen(name: str, variant: str) -> None:
    model, watch = build(name, variant), StepWatch()
    before, frozen = weights(model), [key for key, value in model.named_parameters() if not value.requires_grad]
    model.eval().train()  # as whoever shows samples in between
    train(model, 1, callbacks=(watch,))
    reached = {parameter for step in watch.steps for parameter in step.reached}
    for parameter, value in model.named_parameters():
        listed = reason_without_gradient(model, parameter)
        assert (parameter in frozen) != value.requires_grad, f"{parameter} is frozen before or after training only"
        if parameter in frozen:
            assert parameter not in reached, f"{parameter} is frozen but gets a gradient"
        elif listed is None:
            assert parameter in reached, f"{parameter} gets no gradient; train it or list it with a reason"
        else:
            assert listed.strip() and parameter not in reached, f"{parameter} is listed but gets a gradient"
    after = weights(model)
    for key in frozen_entries(model):
        assert torch.equal(after[key], before[key]), f"{key} is frozen but has changed"


@every_variant_with_one_optimiser
def test_lightning_knows_of_iterations_without_some_gradients(name: str, variant: str) -> None:
    model, watch = build(name, variant), StepWatch()
    train(model, 3, callbacks=(watch,))
    complete = all(set(step.owned) == step.gradients.keys() for step in watch.steps)
    assert complete != model.idle_parameters


@every_variant
def test_gradients_that_are_left_over_do_not_count(name: str, variant: str) -> None:
    class LeaveSome(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            for parameter in pl_module.parameters():
                parameter.grad = torch.full_like(parameter, 100.0)

    clean, dirty = build(name, variant), build(name, variant)
    train(clean, 2)
    train(dirty, 2, callbacks=(LeaveSome(),))
    assert largest_difference(weights(clean), weights(dirty)) == 0


@every_variant
@pytest.mark.parametrize("accumulated", [1, 2])
def test_max_steps_counts_iterations(name: str, variant: str, accumulated: int) -> None:
    batches: list[int] = []

    class CountBatches(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: Any) -> None:
            batches.append(len(batch) if isinstance(batch, list) else 1)

    model, watch = build(name, variant), StepWatch()
    trainer = train(model, 3, callbacks=(watch, CountBatches()), accumulate_grad_batches=accumulated)
    assert trainer.global_step == model.iteration_number == 3
    assert len(watch.steps) % 3 == 0 and len(watch.steps) >= 3 * len(model._optimizer_names)
    assert sum(batches) == 3 * accumulated * getattr(model, "batches_per_iteration", 1)


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
    watch = StepWatch()
    train(build(name, variant), 2, callbacks=(watch,), gradient_clip_val=1e-3, gradient_clip_algorithm="norm")
    gradients = [[step.gradients[key] for key in step.owned if key in step.gradients] for step in watch.steps]
    norms = [torch.stack([gradient.norm() for gradient in each]).norm().item() for each in gradients]
    assert norms and max(norms) <= 1e-3 * 1.001
    assert max(norms) > 0.9e-3, "no gradient was long enough to be clipped"


def learning_in_forward(model: VideoModel) -> list[torch.nn.Module]:
    """Parts that learn in the forward pass, as the averages of a codebook do."""
    return [part for part in model.modules() if getattr(part, "learns_in_forward", False)]


def hold_still(model: VideoModel) -> None:
    """Keep what learns in the forward pass from doing so: a second micro-batch would meet what the first has taught."""
    for part in learning_in_forward(model):
        part.train = lambda mode=True, part=part: torch.nn.Module.train(part, False)
        part.eval()


@every_variant
def test_accumulation_averages_micro_batches_with_noise_of_their_own(name: str, variant: str) -> None:
    def first_gradients(micro_batch: int = 0, **trainer_args: Any) -> dict[str, torch.Tensor]:
        model, watch = build(name, variant).double(), StepWatch()
        hold_still(model)
        if micro_batch:
            noise = model.noise
            model.noise = lambda stream: noise(f"{stream}#{micro_batch}")
        train(model, 1, first=micro_batch, callbacks=(watch,), precision="64-true", **trainer_args)
        return {key: gradient for key, gradient in watch.steps[0].gradients.items() if key in watch.steps[0].owned}

    together, one, two = first_gradients(accumulate_grad_batches=2), first_gradients(), first_gradients(1)
    assert together.keys() == one.keys() == two.keys()
    assert any(not torch.allclose(one[key], two[key]) for key in one), "both micro-batches saw the same data"
    for key, gradient in together.items():
        torch.testing.assert_close(gradient, (one[key] + two[key]) / 2, msg=key)


@every_variant
def test_bf16_mixed_stays_near_full_precision(name: str, variant: str) -> None:
    full, mixed = build(name, variant), build(name, variant)
    train(full, 2)
    train(mixed, 2, precision="bf16-mixed")
    assert all(torch.isfinite(value).all() for value in mixed.state_dict().values() if value.is_floating_point())
    assert all(value.dtype == torch.float32 for value in mixed.parameters())
    # which code is the nearest rounding may decide, and counts of codes are large numbers
    learning = tuple(f"{path}." for path, part in full.named_modules() if part in learning_in_forward(full))
    found, wanted = weights(mixed), weights(full)
    kept = [key for key in wanted if not key.startswith(learning)]
    assert 0 < largest_difference({key: found[key] for key in kept}, {key: wanted[key] for key in kept}) < 0.1


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


@pytest.mark.parametrize(("name", "variant"), first_variants_and_slow_others())
@torch._functorch.config.patch(donated_buffer=False)  # as `compile: true` does
def test_compiled_networks_train_like_eager_ones(name: str, variant: str) -> None:
    eager, compiled = build(name, variant), build(name, variant)
    for network in compiled.networks().values():
        network.compile(backend="aot_eager")
    # in float64 Adam makes no steps of gradients that are 0 but for rounding, as those of shifts before batch norms are
    train(eager, 2, precision="64-true")
    train(compiled, 2, precision="64-true")
    assert largest_difference(weights(eager), weights(compiled)) < 1e-6
