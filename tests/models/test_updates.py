"""One forward pass that several updates have in common."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from tests.contract.running import largest_difference, train, weights
from tests.models.watching import watch
from tests.pair import ProcessPair
from vidgen.models.base import AdversarialModel, Batch, LossTerms
from vidgen.seeding import NoiseStream, current_noise, derive_seed

RATE = 0.1


class Chain(AdversarialModel):
    """Two layers, one after the other, each with a loss and an optimiser of its own."""

    def __init__(self, noisy: bool = False, scheduled: bool = True) -> None:
        super().__init__()
        self.lower = nn.Linear(3, 4)
        self.upper = nn.Linear(4, 2)
        self.noisy = noisy
        self.scheduled = scheduled
        self.passes: list[dict[str, Any]] = []
        self.judged: list[tuple[str, int]] = []
        self.results: list[Tensor] = []

    def example_batch(self, batch_size: int, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        return {"x": torch.randn(batch_size, 3, generator=generator)}

    def build_optimizers(self) -> dict[str, Optimizer]:
        return {name: SGD(getattr(self, name).parameters(), lr=RATE) for name in ("lower", "upper")}

    def through(self, batches: list[Batch]) -> Tensor:
        x = batches[0]["x"]
        stream = current_noise()
        assert stream is not None
        frozen = [name for name, parameter in self.named_parameters() if not parameter.requires_grad]
        noise = {"current": stream.normal(len(x), 3), "named": self.noise("latents").normal(len(x), 3)}
        self.passes.append({"x": x, "frozen": frozen, **noise})
        if self.noisy:
            x = x + noise["current"]
        self.results.append(self.upper(torch.tanh(self.lower(x))))
        return self.results[-1]

    def lower_terms(self, y: Tensor) -> LossTerms:
        self.judged.append(("lower", [result is y for result in self.results].index(True)))
        return {"square": y.square().mean(), "sum": y.mean()}

    def upper_terms(self, y: Tensor) -> LossTerms:
        self.judged.append(("upper", [result is y for result in self.results].index(True)))
        return {"down": -y.sin().mean()}

    def iteration(self, batches: list[Batch]) -> None:
        if self.scheduled:
            shared = self.share("forward", self.through)
            self.update("lower", self.lower_terms, shared=shared, retain_graph=True)
            self.update("upper", self.upper_terms, shared=shared)
        else:
            self.update("upper", lambda given: self.upper_terms(self.through(given)))
            shared = self.share("forward", self.through)
            self.update("lower", self.lower_terms, shared=shared)


def chain(**arguments: Any) -> Chain:
    torch.manual_seed(2)
    return Chain(**arguments)


def separate_gradients(model: Chain, inputs: list[Tensor]) -> dict[str, Tensor]:
    """Means over micro-batches of the gradients from graphs of their own, all with the weights as they are."""
    found: dict[str, Tensor] = {}
    for name in ("lower", "upper"):
        for x in inputs:
            y = model.upper(torch.tanh(model.lower(x)))
            loss = y.square().mean() + y.mean() if name == "lower" else -y.sin().mean()
            layer = getattr(model, name)
            for key, gradient in zip(
                ("weight", "bias"), torch.autograd.grad(loss, [layer.weight, layer.bias]), strict=True
            ):
                entry = f"{name}.{key}"
                found[entry] = found.get(entry, 0) + gradient / len(inputs)
    return found


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
@pytest.mark.parametrize("noisy", [False, True])
def test_shared_graph_gives_the_gradients_of_separate_ones(noisy: bool, micro_batches: int) -> None:
    model = chain(noisy=noisy)
    old = copy.deepcopy(model).double()
    steps = watch(model)
    train(model, 1, precision="64-true", accumulate_grad_batches=micro_batches)
    assert [step.name for step in steps] == ["lower", "upper"]
    assert len(model.passes) == micro_batches, "one forward pass for each micro-batch"
    assert all(not made["frozen"] for made in model.passes)
    assert model.judged == [(name, index) for name in ("lower", "upper") for index in range(micro_batches)]
    inputs = [made["x"] + (made["current"] if noisy else 0) for made in model.passes]
    assert len({float(x[0, 0]) for x in inputs}) == micro_batches
    expected = separate_gradients(old, inputs)
    for step in steps:
        assert step.gradients.keys() == {f"{step.name}.weight", f"{step.name}.bias"}
        for key, gradient in step.gradients.items():
            torch.testing.assert_close(gradient, expected[key], rtol=1e-10, atol=1e-12)
    for key, value in weights(model).items():
        torch.testing.assert_close(value, old.state_dict()[key] - RATE * expected[key], rtol=1e-10, atol=1e-12)


def test_noise_streams_have_the_name_and_the_micro_batch() -> None:
    model = chain()
    model.seed = 5
    train(model, 2, precision="64-true", accumulate_grad_batches=2)
    for number, made in enumerate(model.passes):
        iteration, micro = divmod(number, 2)
        for stream, name in (("current", "forward"), ("named", "latents")):
            label = f"{name}#{micro}" if micro else name
            expected = NoiseStream(derive_seed(5, "noise", label, iteration), dtype=torch.float64).normal(4, 3)
            assert torch.equal(made[stream], expected), (iteration, micro, stream)


def test_losses_are_recorded_once_for_each_micro_batch_and_everything_trains_again() -> None:
    model = chain()
    train(model, 1, accumulate_grad_batches=2)
    found = model.meter.flush()
    results = [result.detach() for result in model.results]
    expected = {
        "loss/lower/square": torch.stack([y.square().mean() for y in results]).mean(),
        "loss/lower/sum": torch.stack([y.mean() for y in results]).mean(),
        "loss/upper/down": torch.stack([-y.sin().mean() for y in results]).mean(),
    }
    expected["loss/lower"] = expected["loss/lower/square"] + expected["loss/lower/sum"]
    expected["loss/upper"] = expected["loss/upper/down"]
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_times_have_the_name_of_what_is_shared() -> None:
    model, names = chain(), []
    model.update_timer = lambda name: names.append(name) or nullcontext()
    train(model, 1)
    assert names == ["forward", "lower", "lower/optimizer", "upper", "upper/optimizer"]


def test_under_autocast_the_pass_sees_weights_that_an_update_has_changed() -> None:
    model = chain(scheduled=False)
    seen: list[dict[str, Tensor]] = []
    through = model.through
    model.through = lambda batches: seen.append(weights(model)) or through(batches)
    train(model, 2, precision="bf16-mixed")
    assert all(result.dtype == torch.bfloat16 for result in model.results)
    for number, (result, state) in enumerate(zip(model.results, seen, strict=True)):
        clone = chain()
        clone.load_state_dict(state)
        with torch.autocast("cpu", torch.bfloat16):
            expected = clone.upper(torch.tanh(clone.lower(model.passes[number]["x"])))
        assert torch.equal(result, expected), number
    assert largest_difference(seen[0], seen[1]) > 1e-3, "an update came in between"


def test_under_autocast_a_shared_graph_trains_like_full_precision() -> None:
    full, mixed = chain(), chain()
    start = weights(full)
    train(full, 3)
    train(mixed, 3, precision="bf16-mixed", accumulate_grad_batches=1)
    moved = largest_difference(start, weights(full))
    assert 0 < largest_difference(weights(full), weights(mixed)) < 0.1 * moved


def trained_on_rank(iterations: int, micro_batches: int) -> dict[str, Tensor]:
    """Weights after training on this rank's rows."""
    model = chain(noisy=True)
    train(model, iterations, precision="64-true", accumulate_grad_batches=micro_batches)
    return weights(model)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_two_ranks_equal_one(micro_batches: int, pair: ProcessPair) -> None:
    single = trained_on_rank(3, micro_batches)
    first, second = pair.run(trained_on_rank, iterations=3, micro_batches=micro_batches)
    assert largest_difference(first, second) == 0 and largest_difference(single, first) < 1e-12
