"""Models with one loss and one optimiser, which Lightning steps: what is minimised, drawn and recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from tests.contract.running import StepWatch, largest_difference, train, weights
from tests.pair import ProcessPair
from vidgen.models.base import Batch, LikelihoodModel, LossTerms, total_of
from vidgen.seeding import NoiseStream, current_noise, derive_seed

RATE = 0.1


class Line(LikelihoodModel):
    """A noisy linear layer with two terms, and one more layer that every second iteration leaves out, if it may."""

    def __init__(self, noisy: bool = True, resting: bool = False) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.second = nn.Linear(2, 2)
        self.noisy = noisy
        self.resting = resting
        self.seen: list[dict[str, Tensor]] = []

    @property
    def idle_parameters(self) -> bool:
        return self.resting

    def example_batch(self, batch_size: int, seed: int = 0) -> Batch:
        return {"x": torch.randn(batch_size, 3, generator=torch.Generator().manual_seed(seed))}

    def build_optimizer(self) -> Optimizer:
        return SGD(self.parameters(), lr=RATE)

    def loss(self, batch: Batch) -> LossTerms:
        x, stream = batch["x"], current_noise()
        assert stream is not None
        noise = {"current": stream.normal(len(x), 3), "named": self.noise("latents").normal(len(x), 3)}
        terms = self.terms(x + noise["current"] * self.noisy, self.resting and self.iteration_number % 2 == 1)
        self.seen.append({"x": x, **noise, **{key: term.detach() for key, term in terms.items()}})
        return terms

    def terms(self, x: Tensor, rests: bool = False) -> LossTerms:
        y = self.layer(x)
        return {"square": (y if rests else self.second(y.tanh())).square().mean(), "sum": y.mean()}


def line(**arguments: Any) -> Line:
    torch.manual_seed(2)
    return Line(**arguments)


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
def test_a_step_follows_the_mean_gradient_of_the_sum_of_the_terms(micro_batches: int) -> None:
    model, before = line().double(), line().double()
    train(model, 1, precision="64-true", accumulate_grad_batches=micro_batches)
    assert len(model.seen) == micro_batches
    inputs = [made["x"] + made["current"] for made in model.seen]
    assert len({float(x[0, 0]) for x in inputs}) == micro_batches
    loss = sum(sum(before.terms(x).values()) for x in inputs) / micro_batches
    loss.backward()
    for (key, weight), parameter in zip(weights(model).items(), before.parameters(), strict=True):
        torch.testing.assert_close(weight, parameter.detach() - RATE * parameter.grad, rtol=1e-10, atol=1e-12, msg=key)


def test_noise_streams_have_the_name_and_the_micro_batch() -> None:
    model = line()
    model.seed = 5
    train(model, 2, precision="64-true", accumulate_grad_batches=2)
    for number, made in enumerate(model.seen):
        iteration, micro = divmod(number, 2)
        for stream, name in (("current", "loss"), ("named", "latents")):
            label = f"{name}#{micro}" if micro else name
            expected = NoiseStream(derive_seed(5, "noise", label, iteration), dtype=torch.float64).normal(4, 3)
            assert torch.equal(made[stream], expected), (iteration, micro, stream)
    assert current_noise() is None


def test_each_term_and_the_total_are_recorded_for_each_micro_batch() -> None:
    model = line()
    train(model, 1, accumulate_grad_batches=2)
    found = model.meter.flush()
    expected = {f"loss/{term}": torch.stack([made[term] for made in model.seen]).mean() for term in ("square", "sum")}
    expected["loss/total"] = expected["loss/square"] + expected["loss/sum"]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
        assert not found[key].requires_grad


def test_the_gradient_is_measured_before_it_is_clipped_and_only_when_it_is_logged() -> None:
    def norms(limit: float | None) -> tuple[dict[str, Tensor], float]:
        model, watch = line(), StepWatch()
        model.log_every = 2
        train(model, 1, callbacks=(watch,), gradient_clip_val=limit)
        assert "grad_norm" not in model.meter.flush()
        model = line()
        model.log_every = 1
        train(model, 1, gradient_clip_val=limit)
        stepped = torch.stack([gradient.norm() for gradient in watch.steps[0].gradients.values()]).norm()
        return model.meter.flush(), float(stepped)

    free, length = norms(None)
    clipped, limit = norms(1e-3)
    assert limit == pytest.approx(1e-3, rel=1e-3) and length > 0.1
    assert float(free["grad_norm"]) == float(clipped["grad_norm"]) == pytest.approx(length)


def test_terms_in_half_precision_are_added_in_full() -> None:
    terms = {"large": torch.tensor(1000.0, dtype=torch.bfloat16), "small": torch.tensor(1.0, dtype=torch.bfloat16)}
    assert total_of(terms).dtype == torch.float32 and total_of(terms) == 1001
    assert total_of({key: term.double() for key, term in terms.items()}).dtype == torch.float64


def trained_on_rank(iterations: int, micro_batches: int, resting: bool) -> dict[str, Tensor]:
    """Weights after training on this rank's rows, under Lightning's DDP where there are several."""
    model = line(resting=resting)
    train(model, iterations, precision="64-true", accumulate_grad_batches=micro_batches)
    return weights(model)


@pytest.mark.parametrize(("micro_batches", "resting"), [(1, False), (3, False), (1, True)])
def test_two_ranks_equal_one(micro_batches: int, resting: bool, pair: ProcessPair) -> None:
    single = trained_on_rank(3, micro_batches, resting)
    first, second = pair.run(trained_on_rank, iterations=3, micro_batches=micro_batches, resting=resting)
    assert largest_difference(first, second) == 0 and largest_difference(single, first) < 1e-12
