"""VideoVAE is the model of its specification: posteriors, attributes, the loss, control in generation, its refusals."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tests.contract.running import StepWatch, largest_difference, train, weights
from tests.models.watching import enliven, parameters
from tests.pair import ProcessPair
from vidgen.data.spec import DataSpec
from vidgen.distributed import sum_over_ranks, world
from vidgen.errors import UserError
from vidgen.models.frames import from_unit, to_unit
from vidgen.models.video_vae import AttributeNet, VideoVAE, parse_schedules
from vidgen.seeding import NoiseStream

SMALL = VideoVAE.small_variants()["default"]
SPEED = {"continuous": {"speed": (2.0, 0.5)}}
NAN = math.nan


def small(**arguments: Any) -> VideoVAE:
    """A tiny model in float64 whose weights matter, the same for the same arguments, in training."""
    torch.manual_seed(0)
    return enliven(VideoVAE(**{**SMALL, **arguments}), 1.0).double()


def clips(model: VideoVAE, number: int = 3, length: int | None = None) -> Tensor:
    """Random videos."""
    size = (number, model.channels, length or model.num_frames, model.resolution, model.resolution)
    return NoiseStream(5, dtype=torch.float64).uniform(*size) * 2 - 1


def draws_for(model: VideoVAE, number: int = 3, length: int | None = None) -> Tensor:
    """Normal numbers for every frame."""
    return NoiseStream(6, dtype=torch.float64).normal(number, length or model.num_frames, model.z_dim)


def example(model: VideoVAE, number: int) -> dict[str, Tensor]:
    """Clips, every second one labelled."""
    return {key: value.double() for key, value in model.example_batch(number).items()}


def labels(*rows: Sequence[float]) -> Tensor:
    """Attributes of clips."""
    return torch.tensor(rows, dtype=torch.float64)


def hot(*rows: Sequence[int], sizes: Sequence[int] = (3, 2)) -> Tensor:
    """Codes of attributes without continuous ones."""
    return torch.cat([F.one_hot(torch.tensor(rows)[:, n], size) for n, size in enumerate(sizes)], 1).double()


def spec(**change: Any) -> DataSpec:
    fitting: dict[str, Any] = {"channels": 1, "resolution": 16, "num_frames": 4, "fps": None, "num_videos": 9}
    fitting |= {"min_length": 10, "max_length": 20, "attribute_names": ("action", "performer")}
    fitting |= {"attribute_values": (("bend", "jack", "wave"), ("ido", "eli"))}
    return DataSpec(**{**fitting, **change})


def named(model: VideoVAE) -> VideoVAE:
    """The model with names of values."""
    model.data_spec = spec()
    return model


def close(actual: Tensor, expected: Tensor, message: str = "") -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11, msg=message or None)


# The specification, step by step -----------------------------------------------------------------------------------


def gaussian(network: nn.Module, *parts: Tensor) -> Normal:
    """Two linear layers to a normal distribution."""
    hidden = F.linear(torch.cat(parts, 1), network.fc.weight, network.fc.bias).clamp(min=0)
    log_variance = F.linear(hidden, network.logvar.weight, network.logvar.bias)
    return Normal(F.linear(hidden, network.mu.weight, network.mu.bias), log_variance.exp().sqrt())


def parts_of(normal: Normal) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance."""
    return normal.mean, 2 * normal.stddev.log()


def advance(
    model: VideoVAE, state: tuple[Tensor, Tensor], code: Tensor, draws: Tensor, features: Tensor | None
) -> dict[str, Any]:
    """One step: from the posterior of a frame with these features, or else from the prior."""
    summary = model.state_mlp.fc2(model.state_mlp.fc1(state[0]).clamp(min=0))
    prior = gaussian(model.prior, summary, code)
    found: dict[str, Any] = {"prior": prior, "z": prior.mean + prior.stddev * draws}
    if features is not None:
        q = gaussian(model.post_q, features)
        a = gaussian(model.post_a, *parts_of(q), code)
        dy = gaussian(model.post_dy, *parts_of(a), summary)
        found |= {"q": q, "a": a, "dy": dy, "z": dy.mean + dy.stddev * draws}
    else:
        found["made"] = model.decoder(found["z"])
        found["q"] = gaussian(model.post_q, model.encoder(found["made"]))
    sample = found["z"] if model.conditional_sampling else torch.zeros_like(found["z"])
    return {**found, "state": model.lstm(torch.cat([sample, *parts_of(found["q"])], 1), state)}


def zeros(model: VideoVAE, number: int) -> tuple[Tensor, Tensor]:
    """The first state."""
    return torch.zeros(2, number, model.hidden_dim, dtype=torch.float64).unbind()


def specified_training(model: VideoVAE, frames: Tensor, codes: Tensor, draws: Tensor) -> dict[str, Any]:
    """Reconstruction and KL ``(B, T)`` of clips ``(B, T, C, H, W)``, and the steps."""
    features = model.encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
    state, steps = zeros(model, len(frames)), []
    for time in range(frames.shape[1]):
        steps.append(advance(model, state, codes, draws[:, time], features[:, time]))
        state = steps[-1]["state"]
    z = torch.stack([step["z"] for step in steps], 1)
    made = model.decoder(z.flatten(0, 1)).view_as(frames)
    error = (made - frames).abs() if model.likelihood == "laplace" else (made - frames) ** 2 / 2
    divergence = torch.stack([kl_divergence(step["dy"], step["prior"]).sum(1) for step in steps], 1)
    return {"error": error.sum((2, 3, 4)), "kl": divergence, "steps": steps, "made": made, "features": features}


@torch.no_grad()
def specified_generation(
    model: VideoVAE, frames: Tensor | None, codes: Tensor, draws: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Videos from given frames ``(N, observed, C, H, W)`` with codes ``(N, T, A)``, and the last state."""
    model = copy.deepcopy(model).eval()
    state, made = zeros(model, len(codes)), []
    for time in range(codes.shape[1]):
        observed = frames is not None and time < frames.shape[1]
        features = model.encoder(frames[:, time]) if observed else None
        step = advance(model, state, codes[:, time], draws[:, time], features)
        made.append(model.decoder(step["z"]) if observed else step["made"])
        state = step["state"]
    return from_unit(torch.stack(made, 1)), state


def with_draws(model: VideoVAE, draws: Tensor) -> VideoVAE:
    """Let a model generate with these numbers; row n is of video n."""
    model._draw = lambda numbers, seed, time: draws[list(numbers), time]
    return model


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["laplace", "gaussian"])
@pytest.mark.parametrize("conditional", [True, False])
def test_training_is_what_the_specification_says(conditional: bool, likelihood: str) -> None:
    options = {"conditional_sampling": conditional, "likelihood": likelihood, "beta": 0.7, "attribute_weight": 3.0}
    model = small(**options, channels=3)
    twin = copy.deepcopy(model)
    known = labels([2, 1], [0, 0], [1, 1])
    batch = {"video": clips(model), "attributes": known}
    draws = model.noise("posterior").normal(3, 4, 6)
    expected = specified_training(twin, to_unit(batch["video"]), hot([2, 1], [0, 0], [1, 1]), draws)
    outputs = twin.attr_net(expected["features"])
    wrong = sum(
        F.cross_entropy(output.flatten(0, 1), known[:, column].long().repeat_interleave(4))
        for column, output in enumerate(outputs.values())
    )
    model.log_every = 1
    terms, logged = model.loss(batch), model.meter.flush()
    assert list(terms) == ["reconstruction", "kl", "attributes"]
    close(terms["reconstruction"], expected["error"].sum(1).mean())
    close(terms["kl"], 0.7 * expected["kl"].sum(1).mean())
    close(terms["attributes"], 3 * wrong)
    for name, value in (
        ("frame/reconstruction", expected["error"].mean()),
        ("frame/kl", expected["kl"].mean()),
        ("frame/attribute_loss", wrong),
    ):
        torch.testing.assert_close(logged[name], value.detach().float())
    assert logged.keys() == {"frame/reconstruction", "frame/kl", "frame/attribute_loss", "active_units"}
    again = copy.deepcopy(model)
    again.log_every = 2
    again.loss(batch)
    assert "active_units" not in again.meter.flush(), "only when it is logged"
    sum(terms.values()).backward()
    (expected["error"].sum(1).mean() + 0.7 * expected["kl"].sum(1).mean() + 3 * wrong).backward()
    own = dict(twin.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, own[name].grad, rtol=1e-7, atol=1e-8, msg=name)
    for name, value in twin.named_buffers():
        if name != "attribute_counts":
            close(dict(model.named_buffers())[name], value, name)


def rolled(model: VideoVAE, video: Tensor, codes: Tensor, draws: Tensor) -> Any:
    """What training computes, with running statistics: no clip or frame then touches another but in time."""
    model.eval()
    features = model.encoder(to_unit(video).flatten(0, 1)).unflatten(0, (len(video), -1))
    return model.unroll(features, codes[:, None].expand(-1, video.shape[2], -1), draws)


def test_the_prior_sees_the_frames_before_and_the_posterior_this_one() -> None:
    model = small()
    video, draws, codes = clips(model), draws_for(model), hot([0, 0], [1, 1], [2, 0])
    first = rolled(model, video, codes, draws)
    video[:, :, 2] = 0.3
    second = rolled(model, video, codes, draws)
    for kind, since in (("q", 2), ("a", 2), ("dy", 2), ("prior", 3)):
        for one, other in zip(getattr(first, kind), getattr(second, kind), strict=True):
            changed = [not torch.equal(one[:, time], other[:, time]) for time in range(4)]
            expected = [False, False, True, False] if kind in ("q", "a") else [time >= since for time in range(4)]
            assert changed == expected, kind


@pytest.mark.parametrize("conditional", [True, False])
def test_the_sample_reaches_the_state_unless_it_is_ablated(conditional: bool) -> None:
    model = small(conditional_sampling=conditional)
    draws = draws_for(model).requires_grad_()
    rollout = rolled(model, clips(model), hot([0, 0], [1, 1], [2, 0]), draws)
    for state in (rollout.hidden, rollout.cell):
        (slope,) = torch.autograd.grad(state[:, 1].sum(), draws, retain_graph=True, allow_unused=not conditional)
        assert slope is None if not conditional else slope[:, :2].all() and not slope[:, 2:].any()
    assert model.lstm.input_size == 3 * model.z_dim


def test_attributes_steer_the_prior_from_the_first_frame_on() -> None:
    model = small()
    video, draws = clips(model), draws_for(model)
    first = rolled(model, video, hot([0, 0], [1, 1], [2, 0]), draws)
    second = rolled(model, video, hot([1, 0], [1, 1], [2, 1]), draws)
    for kind in ("prior", "a", "dy"):
        one, other = getattr(first, kind).mean, getattr(second, kind).mean
        assert [not torch.equal(one[clip], other[clip]) for clip in range(3)] == [True, False, True], kind
        assert not torch.allclose(one[0, 0], other[0, 0], atol=1e-3)
    assert torch.equal(first.q.mean, second.q.mean)


def test_only_one_sample_of_each_frame_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = small(), []
    normal = NoiseStream.normal
    monkeypatch.setattr(NoiseStream, "normal", lambda self, *shape: asked.append(shape) or normal(self, *shape))
    batch = example(model, 3)
    first, second = model.loss(batch), model.loss(batch)
    assert asked == [(3, 4, 6)] * 2
    assert all(torch.equal(first[key], second[key]) for key in first)
    draws = draws_for(model)
    one, two = (rolled(model, clips(model), hot([0, 0], [1, 1], [2, 0]), draws) for _ in range(2))
    assert torch.equal(one.z, two.z) and torch.equal(one.q.mean, two.q.mean)
    times: list[tuple[range, int]] = []
    draw = model._draw
    model._draw = lambda numbers, seed, time: times.append((numbers, time)) or draw(numbers, seed, time)
    model.sample(2, num_frames=3, first=4)
    assert times == [(range(4, 6), time) for time in range(3)] and draw(range(2), 0, 0).shape == (2, 6)


@pytest.mark.parametrize(("iteration", "warmup", "weight"), [(0, 0, 2.0), (0, 4, 0.5), (2, 4, 1.5), (9, 4, 2.0)])
@pytest.mark.parametrize("pretrained", [0, 5])
def test_the_weight_of_the_divergence_rises(
    iteration: int, warmup: int, weight: float, pretrained: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(beta=2.0, kl_warmup=warmup, pretrain_attribute_steps=pretrained)
    monkeypatch.setattr(VideoVAE, "iteration_number", property(lambda self: iteration + pretrained))
    terms, logged = model.loss(example(model, 3)), model.meter.flush()
    torch.testing.assert_close(terms["kl"].float(), weight * 4 * logged["frame/kl"])


def test_units_are_active_where_the_posterior_leaves_the_prior() -> None:
    model = small()
    model.log_every = 1
    with torch.no_grad():
        for network in (model.post_dy, model.prior):
            for parameter in network.parameters():
                parameter.zero_()
        for active in range(7):
            model.post_dy.mu.bias[:active] = 0.5
            model.loss(example(model, 3))
            assert model.meter.flush()["active_units"] == active


def test_optimiser_is_one_adam_of_everything() -> None:
    model = small(learning_rate=3e-3, beta1=0.8, beta2=0.99)
    optimizer = model.build_optimizer()
    assert isinstance(optimizer, torch.optim.Adam) and len(optimizer.param_groups) == 1
    settings = optimizer.param_groups[0]
    assert (settings["lr"], settings["betas"], settings["weight_decay"]) == (3e-3, (0.8, 0.99), 0)
    assert [id(p) for p in settings["params"]] == [id(p) for p in model.parameters()]
    assert VideoVAE(**SMALL).build_optimizer().param_groups[0]["lr"] == 1e-4


# Attributes in training ----------------------------------------------------------------------------------------------


def outputs_of(model: VideoVAE, number: int = 4, length: int = 3) -> dict[str, Tensor]:
    """Made-up outputs of the attribute net that want a gradient."""
    noise = NoiseStream(8, dtype=torch.float64)
    return {each.name: (2 * noise.normal(number, length, each.size)).requires_grad_() for each in model.attributes}


def test_labels_are_codes_and_frames_stand_in_for_missing_ones_without_gradient() -> None:
    model = small(**SPEED)
    outputs = outputs_of(model)
    known = labels([2, NAN, 3.5], [NAN, NAN, NAN], [0, 1, 2.0], [NAN, 0, NAN])
    codes = model.attribute_codes(outputs, known)
    assert codes.shape == (4, 6) and not codes.requires_grad
    soft = {name: output.detach().softmax(2).mean(1) for name, output in outputs.items()}
    speed = outputs["speed"].detach().mean(1)
    one, nought = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    expected = [
        torch.cat([nought, nought, one, soft["performer"][0], 3 * one]),
        torch.cat([soft["action"][1], soft["performer"][1], speed[1]]),
        torch.cat([one, nought, nought, nought, one, nought]),
        torch.cat([soft["action"][3], one, nought, speed[3]]),
    ]
    close(codes, torch.stack(expected))


def test_the_loss_of_attributes_is_a_mean_over_labelled_clips_and_frames() -> None:
    model = small(**SPEED)
    outputs = outputs_of(model)
    known = labels([2, NAN, 3.5], [NAN, NAN, NAN], [0, 1, NAN], [NAN, 0, NAN])
    found = model.attribute_loss(outputs, known)
    log = {name: output.log_softmax(2) for name, output in outputs.items()}
    action = -(log["action"][0, :, 2].mean() + log["action"][2, :, 0].mean()) / 2
    performer = -(log["performer"][2, :, 1].mean() + log["performer"][3, :, 0].mean()) / 2
    speed = ((outputs["speed"][0, :, 0] - 3) ** 2 / 2).mean()
    close(found, action + performer + speed)
    slopes = torch.autograd.grad(found, list(outputs.values()))
    reached = [slope.flatten(1).any(1).tolist() for slope in slopes]
    assert reached == [[True, False, True, False], [False, False, True, True], [True, False, False, False]]


def test_a_batch_without_labels_has_no_loss_of_attributes() -> None:
    model = small(**SPEED)
    outputs = outputs_of(model)
    found = model.attribute_loss(outputs, torch.full((4, 3), NAN, dtype=torch.float64))
    assert found == 0
    assert not any(slope.any() for slope in torch.autograd.grad(found, list(outputs.values())))
    terms = model.loss({"video": clips(model), "attributes": torch.full((3, 3), NAN, dtype=torch.float64)})
    assert terms["attributes"] == 0 and all(torch.isfinite(term) for term in terms.values())


def test_only_the_loss_of_attributes_trains_their_network() -> None:
    model = small()
    terms = model.loss(example(model, 4))
    (terms["reconstruction"] + terms["kl"]).backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in model.attr_net.parameters())
    assert model.encoder.out.weight.grad.any()
    model.zero_grad()
    terms["attributes"].backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name.split(".")[0] for name in reached} == {"encoder", "attr_net"}
    assert model.encoder.out.weight.grad.any() and model.attr_net.fc.weight.grad.any()


def loss_on_rank(video: Tensor, known: Tensor) -> dict[str, float]:
    """Means over ranks of the terms of this rank's clips, and what was counted."""
    rank, size = world()
    model = small(**SPEED)
    terms = model.loss({"video": video[rank::size], "attributes": known[rank::size]})
    means = {key: float(sum_over_ranks(term.detach())) / size for key, term in terms.items()}
    return {**means, **{f"count {n}": int(count) for n, count in enumerate(model.attribute_counts)}}


def test_labelled_clips_count_over_all_processes(pair: ProcessPair) -> None:
    video = clips(small(), 6)
    known = labels([2, 1, 2], [NAN, NAN, NAN], [0, NAN, 3], [NAN, NAN, 1.0], [1, 1, NAN], [NAN, NAN, NAN])
    single = loss_on_rank(video, known)
    assert single["attributes"] > 0
    assert [single[f"count {n}"] for n in range(6)] == [1, 1, 1, 0, 2, 0], "rank 1 has but one number"
    for found in pair.run(loss_on_rank, video=video, known=known):
        assert found == pytest.approx(single, rel=1e-10)


def test_labels_are_counted_in_training_alone() -> None:
    model = small(**SPEED)
    known = labels([2, NAN, 3.5], [NAN, NAN, NAN], [0, 1, 2.0], [2, 1, NAN])
    for _ in range(2):
        model.attribute_loss(outputs_of(model), known)
    assert model.attribute_counts.tolist() == [2, 0, 4, 0, 4, 0]
    model.eval().attribute_loss(outputs_of(model), known)
    assert model.attribute_counts.tolist() == [2, 0, 4, 0, 4, 0]
    assert model.attribute_counts.dtype == torch.int64 and "attribute_counts" in model.state_dict()


def pretrained_on_rank(iterations: int, micro_batches: int = 1) -> tuple[dict[str, Tensor], list[list[str]]]:
    """Weights after training whose first two iterations are on attributes alone, and what each step reached."""
    torch.manual_seed(0)
    model, watch = VideoVAE(**{**SMALL, "pretrain_attribute_steps": 2}), StepWatch(clear=False)
    train(model, iterations, precision="64-true", callbacks=(watch,), accumulate_grad_batches=micro_batches)
    return weights(model), [sorted({name.split(".")[0] for name in step.gradients}) for step in watch.steps]


def test_attributes_may_be_trained_first(pair: ProcessPair) -> None:
    torch.manual_seed(0)
    start = weights(VideoVAE(**{**SMALL, "pretrain_attribute_steps": 2}).double())
    first, reached = pretrained_on_rank(2)
    everything = ["attr_net", "decoder", "encoder", "lstm", "post_a", "post_dy", "post_q", "prior", "state_mlp"]
    assert reached == [["attr_net", "encoder"]] * 2
    for key, value in first.items():
        moves = key.startswith(("encoder.", "attr_net.", "attribute_counts"))
        assert torch.equal(value, start[key]) != moves, key
    single, reached = pretrained_on_rank(3)
    assert reached == [["attr_net", "encoder"]] * 2 + [everything]
    (one, seen), (two, _) = pair.run(pretrained_on_rank, iterations=3)
    assert seen == reached and largest_difference(one, two) == 0
    drifting = (".bias", "running_mean")
    assert largest_difference(*({k: v for k, v in w.items() if not k.endswith(drifting)} for w in (single, one))) < 1e-9
    for found, _ in pair.run(pretrained_on_rank, iterations=2, micro_batches=2):
        assert all(torch.equal(found[key], start[key]) for key in found if key.startswith(("decoder.", "lstm.")))


# Networks ------------------------------------------------------------------------------------------------------------


def test_parameters_of_the_full_model() -> None:
    with torch.device("meta"):
        model = VideoVAE(attributes={"action": 10, "identity": 9})
    sizes = {"encoder": 6_953_280, "decoder": 6_952_771, "attr_net": 68_115, "post_q": 197_760, "post_a": 265_728}
    sizes |= {"post_dy": 328_832, "state_mlp": 131_712, "prior": 200_192, "lstm": 4_198_400}
    assert {name: parameters(network) for name, network in model.networks().items()} == sizes
    assert parameters(model) == 19_296_790


@pytest.mark.parametrize(("resolution", "widths"), [(16, [4, 8]), (32, [4, 8, 16]), (256, [4, 8, 16, 32, 32, 32])])
def test_every_resolution_fits_together(resolution: int, widths: list[int]) -> None:
    model = small(resolution=resolution).eval()
    assert [layer.out_channels for layer in model.encoder.convs] == widths
    assert [layer.out_channels for layer in (model.decoder.inp, *model.decoder.convs)] == widths[::-1]
    frames = torch.rand(2, 1, resolution, resolution, dtype=torch.float64)
    features = model.encoder(frames)
    assert features.shape == (2, 10) and model.decoder(torch.zeros(2, 6, dtype=torch.float64)).shape == frames.shape


@torch.no_grad()
def test_initial_weights() -> None:
    model = VideoVAE(**{**SMALL, "width": 32, "encoder_dim": 64, "z_dim": 64, "hidden_dim": 64, "mlp_dim": 64})
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd):
            assert not module.bias.any() and module.weight.std() == pytest.approx(0.02, rel=0.1), name
        elif isinstance(module, _BatchNorm):
            assert not module.bias.any() and 0.01 < module.weight.std() < 0.03, name
            assert abs(module.weight.mean() - 1) < 0.02 and (module.eps, module.momentum) == (1e-5, 0.1)
        elif isinstance(module, nn.Linear):
            assert module.weight.abs().max() == pytest.approx(module.in_features**-0.5, rel=0.05), name
            assert module.bias.any(), name
        elif isinstance(module, nn.LSTMCell):
            assert module.weight_ih.abs().max() == pytest.approx(1 / 8, rel=0.01)


def test_attribute_net_judges_each_frame() -> None:
    net = AttributeNet(4, 5, {"action": 3, "speed": 1})
    features = torch.randn(2, 6, 4)
    found = net(features)
    hidden = (features @ net.fc.weight.T + net.fc.bias).clamp(min=0)
    assert list(found) == ["action", "speed"]
    for name, output in found.items():
        torch.testing.assert_close(output, hidden @ net.heads[name].weight.T + net.heads[name].bias)
    assert found["action"].shape == (2, 6, 3) and found["speed"].shape == (2, 6, 1)


# Generation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("observed", [0, 1, 2])
def test_generation_is_what_the_specification_says(observed: int, conditional: bool) -> None:
    model = small(conditional_sampling=conditional)
    video, draws = clips(model), draws_for(model, 3, 6)
    codes = torch.cat([hot([1, 1]).expand(3, 3, 5), hot([2, 1]).expand(3, 3, 5)], 1)
    given = to_unit(video[:, :, :observed]) if observed else None
    expected, state = specified_generation(model, given, codes, draws)
    batch = {"batch": {"video": video}} if observed else {}
    asked = {"observed": observed, "attributes": ["action=1@0,2@3", "performer=1"]}
    made, standing = with_draws(model, draws).stream(**batch, num_videos=3, num_frames=6, **asked)
    torch.testing.assert_close(made, expected.float(), rtol=0, atol=1e-6)
    assert standing.time == 6
    for one, other in zip(standing.state, state, strict=True):
        close(one, other)
    assert torch.equal(model.sample(3, num_frames=6, **batch, **asked), made)


@pytest.mark.parametrize("observed", [0, 1])
def test_a_switch_changes_what_follows_and_nothing_before(observed: int) -> None:
    model = named(small())
    given = {"batch": {"video": clips(model)}, "observed": observed} if observed else {}

    def made(text: str) -> Tensor:
        return model.sample(3, num_frames=8, attributes=[text, "performer=ido"], **given)

    fixed, switched, twice = made("action=bend"), made("action=bend@0,jack@3"), made("action=bend@0,jack@3,bend@6")
    assert torch.equal(fixed[:, :, :3], switched[:, :, :3])
    assert not any(torch.allclose(fixed[:, :, t], switched[:, :, t], atol=1e-4) for t in range(3, 8))
    assert torch.equal(switched[:, :, :6], twice[:, :, :6])
    assert not any(torch.allclose(other[:, :, 6], twice[:, :, 6], atol=1e-4) for other in (fixed, switched))
    assert torch.equal(made("action=0@0,1@3"), switched), "by number as by name"
    assert torch.equal(model.sample(3, num_frames=8, attributes=["action=bend; performer=ido"], **given), fixed)


def test_frames_are_encoded_again_as_they_are_made() -> None:
    model = small().eval()
    made: list[Tensor] = []
    encoded: list[Tensor] = []
    model.decoder.register_forward_hook(lambda _, __, frame: made.append(frame))
    model.encoder.register_forward_pre_hook(lambda _, given: encoded.append(given[0]))
    video = model.sample(2, num_frames=4)
    assert len(made) == len(encoded) == 4
    for time, (one, other) in enumerate(zip(made, encoded, strict=True)):
        assert torch.equal(one, other) and one.min() >= 0 and one.max() <= 1
        torch.testing.assert_close(video[:, :, time], (2 * one - 1).float(), rtol=0, atol=1e-6)
    made.clear()
    encoded.clear()
    batch = {"video": clips(model, 2)}
    model.sample(2, num_frames=3, batch=batch, observed=1, attributes=["action=0", "performer=0"])
    assert torch.equal(encoded[-3], to_unit(batch["video"])[:, 0]), "the given frame, not what was made of it"


@pytest.mark.parametrize("counts", [(6, 0, 2, 5, 3), (0, 0, 0, 0, 7), (1, 1, 1, 0, 0)])
def test_attributes_are_drawn_as_often_as_training_met_them(counts: tuple[int, ...]) -> None:
    model = small(**SPEED)
    model.attribute_counts.copy_(torch.tensor([*counts, 0]))
    codes = model._drawn(range(3000), 0)
    assert codes.shape == (3000, 6) and codes.dtype == torch.float64
    for part in (torch.tensor(counts[:3]), torch.tensor(counts[3:])):
        columns = slice(0, 3) if len(part) == 3 else slice(3, 5)
        drawn = codes[:, columns]
        assert ((drawn == 0) | (drawn == 1)).all() and (drawn.sum(1) == 1).all()
        part = part.double() if part.any() else torch.ones(len(part)).double()
        expected = 3000 * part / part.sum()
        assert not drawn.sum(0)[expected == 0].any()
        there = expected > 0
        chi_square = ((drawn.sum(0) - expected)[there] ** 2 / expected[there]).sum()
        assert chi_square < 10, "1 in 150 for two degrees of freedom, with a fixed seed"
    assert abs(codes[:, 5].mean()) < 0.06 and abs(codes[:, 5].std() - 1) < 0.05
    together = torch.corrcoef(codes.T.nan_to_num())[2, 4].nan_to_num()
    assert abs(together) < 0.06, "attributes are drawn apart from each other"
    assert torch.equal(model._drawn(range(7, 9), 0), codes[7:9])
    assert not torch.equal(model._drawn(range(3000), 1), codes)


def test_unset_attributes_are_drawn_for_each_video_and_set_ones_hold() -> None:
    model = named(small())
    model.attribute_counts.copy_(torch.tensor([1, 1, 1, 1, 1]))
    codes: list[Tensor] = []
    model.prior.register_forward_pre_hook(lambda _, parts: codes.append(parts[1]))
    model.sample(20, num_frames=2, attributes=["performer=eli"], seed=3)
    drawn = model._drawn(range(20), 3)
    assert all(torch.equal(code[:, :3], drawn[:, :3]) for code in codes)
    assert len(drawn[:, :3].unique(dim=0)) == 3
    assert all((code[:, 3:] == torch.tensor([0.0, 1.0])).all() for code in codes)
    codes.clear()
    model.sample(20, num_frames=2, seed=3)
    assert all(torch.equal(code, drawn) for code in codes)


def test_unset_attributes_are_inferred_from_given_frames() -> None:
    model = named(small(**SPEED)).eval()
    model.data_spec = None
    video = clips(model, 4)
    codes: list[Tensor] = []
    model.post_a.register_forward_pre_hook(lambda _, parts: codes.append(parts[2]))
    model.sample(4, num_frames=4, batch={"video": video}, observed=2, attributes=["performer=1"])
    outputs = model.attr_net(model.encoder(to_unit(video[:, :, :2]).flatten(0, 1)).unflatten(0, (4, 2)))
    action = F.one_hot(outputs["action"].softmax(2).mean(1).argmax(1), 3).double()
    assert len(codes) == 2
    for code in codes:
        assert torch.equal(code[:, :3], action) and (code[:, 3:5] == torch.tensor([0.0, 1.0])).all()
        close(code[:, 5], outputs["speed"].mean((1, 2)))
    inferred = model.infer_attributes(video[:, :, :2])
    assert torch.equal(inferred[:, 0].long(), action.argmax(1))
    close(inferred[:, 2], outputs["speed"].mean((1, 2)) * 0.5 + 2)


def test_frames_vote_with_probabilities_not_with_logits() -> None:
    model = small()
    outputs = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0]]])
    expected = model.attributes[0].expect(outputs)
    torch.testing.assert_close(expected, outputs.softmax(2).mean(1))
    assert expected.argmax() == 1 and outputs.mean(1).argmax() == 0
    assert model.attributes[0].decide(expected).tolist() == [[0, 1, 0]]


def test_attributes_are_inferred_over_all_frames() -> None:
    model = small().train()
    video = clips(model, 5)
    found = model.infer_attributes(video)
    assert found.shape == (5, 2) and model.training
    model.eval()
    outputs = model.attr_net(model.encoder(to_unit(video).flatten(0, 1)).unflatten(0, (5, 4)))
    for column, output in enumerate(outputs.values()):
        assert torch.equal(found[:, column], output.softmax(2).mean(1).argmax(1).float())
    shorter = model.attr_net(model.encoder(to_unit(video[:, :, :1]).flatten(0, 1)).unflatten(0, (5, 1)))
    assert torch.equal(model.infer_attributes(video[:, :, :1])[:, 0].long(), shorter["action"][:, 0].argmax(1))


def test_given_frames_are_shown_as_they_are_or_as_the_model_sees_them() -> None:
    model = small()
    batch = {"video": clips(model, length=3)}
    seen, shown = (model.sample(3, num_frames=5, batch=batch, observed=2, show_given=show) for show in (False, True))
    torch.testing.assert_close(shown[:, :, :2], batch["video"][:, :, :2].float(), rtol=0, atol=1e-6)
    assert not torch.allclose(seen[:, :, :2], shown[:, :, :2], atol=1e-2)
    assert torch.equal(seen[:, :, 2:], shown[:, :, 2:])


def test_reconstruction_takes_means_of_the_posterior() -> None:
    model = small()
    video = clips(model, length=6)
    found = model.reconstruct(video)
    assert found.shape == video.shape and model.training
    model.eval()
    features = model.encoder(to_unit(video).flatten(0, 1)).unflatten(0, (3, 6))
    codes = [each.decide(each.expect(model.attr_net(features)[each.name])) for each in model.attributes]
    rollout = rolled(model, video, torch.cat(codes, 1), torch.zeros(3, 6, 6, dtype=torch.float64))
    expected = from_unit(model.decoder(rollout.z.flatten(0, 1)).unflatten(0, (3, 6)))
    torch.testing.assert_close(found, expected.detach().float(), rtol=0, atol=1e-6)
    assert torch.equal(rollout.z, rollout.dy.mean)


def test_temperature_scales_what_is_drawn() -> None:
    model = small()
    draws = draws_for(model)
    keywords = {"attributes": ["action=1", "performer=0"]}
    cold = [model.sample(3, temperature=0.0, seed=seed, **keywords) for seed in (1, 2)]
    assert torch.equal(*cold) and torch.equal(cold[0][0], cold[0][1])
    warm = with_draws(copy.deepcopy(model), 0.5 * draws).sample(3, **keywords)
    scaled = with_draws(model, draws).sample(3, temperature=0.5, **keywords)
    assert torch.equal(warm, scaled)
    assert not torch.allclose(scaled, model.sample(3, **keywords), atol=1e-3)


def test_pieces_of_any_length_make_the_same_videos() -> None:
    model = named(small())
    model.attribute_counts.copy_(torch.tensor([1, 2, 3, 1, 1]))
    batch = {"video": clips(model)}
    for observed in (0, 2):
        options = {"attributes": ["action=bend@0,wave@4"], "temperature": 0.7, "seed": 3, "first": 2}
        options |= {"observed": observed, "show_given": bool(observed)}
        whole = model.sample(3, num_frames=9, batch=batch, **options)
        pieces, state = [], None
        for length in (1, 2, 4, 2):
            made, state = model.stream(batch, state, num_videos=3, num_frames=length, **options)
            pieces.append(made)
        assert torch.equal(torch.cat(pieces, 2), whole)
        assert torch.equal(model.stream(batch, num_videos=3, **options)[0], whole[:, :, :4])


@pytest.mark.parametrize("training", [False, True])
def test_generation_leaves_statistics_counts_and_mode_alone(training: bool) -> None:
    model = small().train(training)
    before, video = weights(model), clips(model)
    made = [model.sample(3, batch={"video": video}, observed=observed) for observed in (0, 1)]
    model.reconstruct(video)
    model.infer_attributes(video)
    assert largest_difference(weights(model), before) == 0 and not model.meter.flush()
    assert all(module.training == training for module in model.modules())
    model.train(not training)
    again = [model.sample(3, batch={"video": video}, observed=observed) for observed in (0, 1)]
    assert all(torch.equal(one, two) for one, two in zip(made, again, strict=True))


def test_noise_of_a_step_depends_on_seed_number_and_frame() -> None:
    model = small()
    draw = model._draw(range(2, 5), 7, 3)
    assert draw.shape == (3, 6) and draw.dtype == torch.float64
    assert torch.equal(model._draw(range(4, 5), 7, 3)[0], draw[2])
    for other in (model._draw(range(2, 5), 8, 3), model._draw(range(2, 5), 7, 4), model._draw(range(3, 6), 7, 3)):
        assert not torch.equal(other, draw)


def test_samples_in_half_precision() -> None:
    model = small(**SPEED).bfloat16()
    for keywords in ({}, {"batch": {"video": clips(model).float()}, "observed": 2}):
        made = model.sample(3, **keywords)
        assert made.dtype == torch.float32 and torch.isfinite(made).all() and made.std() > 0.01


def test_what_it_reads_follows_the_keywords() -> None:
    alone, observing = small(), small(observed=2)
    assert (alone.task, alone.train_keys, alone.stochastic) == ("attribute", ("video", "attributes"), True)
    assert (alone.sample_keys, alone.context_frames, alone.max_frames) == ((), 0, None)
    assert (observing.sample_keys, observing.context_frames) == (("video",), 2)
    for model, keywords, frames in (
        (alone, {}, 0),
        (alone, {"observed": 3}, 3),
        (alone, {"observed": None}, 0),
        (observing, {}, 2),
        (observing, {"observed": 0}, 0),
        (observing, {"observed": None, "temperature": 0.5}, 2),
    ):
        assert model.context_frames_for(keywords) == frames
        assert model.keys_for(keywords) == (("video",) if frames else ())
    assert alone.idle_parameters is False and small(pretrain_attribute_steps=1).idle_parameters is True


# Schedules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["action=wave"], {"action": [(0, "wave")]}),
        (["action=wave@0,bend@8"], {"action": [(0, "wave"), (8, "bend")]}),
        (["action=wave,bend@8"], {"action": [(0, "wave"), (8, "bend")]}),
        (["action=1", "performer=ido"], {"action": [(0, "1")], "performer": [(0, "ido")]}),
        (["action=1 ; performer=ido@0"], {"action": [(0, "1")], "performer": [(0, "ido")]}),
        (["speed=-1.5@0,2e-1@3"], {"speed": [(0, "-1.5"), (3, "2e-1")]}),
        (["mail=a@b@0"], {"mail": [(0, "a@b")]}),
        (["action=a=b"], {"action": [(0, "a=b")]}),
    ],
)
def test_schedules(texts: list[str], expected: dict[str, list[tuple[int, str]]]) -> None:
    assert parse_schedules(texts) == expected


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["action"], "attributes 'action': expected NAME=VALUE or NAME=VALUE@0,OTHER@8"),
        ([""], "attributes '': expected NAME=VALUE or NAME=VALUE@0,OTHER@8"),
        (["=wave"], "attributes '=wave': expected NAME=VALUE or NAME=VALUE@0,OTHER@8"),
        (["action="], "attributes 'action=': expected NAME=VALUE or NAME=VALUE@0,OTHER@8"),
        (["action=1;"], "attributes '': expected NAME=VALUE or NAME=VALUE@0,OTHER@8"),
        (
            ["action=wave", "action=bend"],
            "attributes 'action=bend': 'action' is given twice; write NAME=VALUE@0,OTHER@8",
        ),
        (
            ["action=wave@0,bend"],
            "attributes 'action=wave@0,bend': 'bend' must be VALUE@FRAME, with frames counted from 0",
        ),
        (["action=@0"], "attributes 'action=@0': '@0' must be VALUE@FRAME, with frames counted from 0"),
        (["action=wave@"], "attributes 'action=wave@': 'wave@' must be VALUE@FRAME, with frames counted from 0"),
        (["action=wave@x"], "attributes 'action=wave@x': 'wave@x' must be VALUE@FRAME, with frames counted from 0"),
        (["action=wave@-1"], "attributes 'action=wave@-1': 'wave@-1' must be VALUE@FRAME, with frames counted from 0"),
        (["action=,b@3"], "attributes 'action=,b@3': '' must be VALUE@FRAME, with frames counted from 0"),
        (
            ["action=wave@2"],
            "attributes 'action=wave@2': the first value holds from frame 0, each other from a later one",
        ),
        (
            ["action=wave@0,bend@4,jack@2"],
            "attributes 'action=wave@0,bend@4,jack@2': the first value holds from frame 0, each other from a later one",
        ),
        (
            ["action=wave@0,bend@0"],
            "attributes 'action=wave@0,bend@0': the first value holds from frame 0, each other from a later one",
        ),
    ],
)
def test_impossible_schedules(texts: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_schedules(texts)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("acton=wave", "attributes 'acton': unknown; did you mean 'action'? (attributes: action, performer, speed)"),
        ("mood=glad", "attributes 'mood': unknown (attributes: action, performer, speed)"),
        ("action=wve", "attributes action=wve: unknown value; did you mean 'wave'? (values: bend, jack, wave)"),
        ("action=wave@0,7@2", "attributes action=7: unknown value (values: bend, jack, wave)"),
        ("action=-1", "attributes action=-1: unknown value (values: bend, jack, wave)"),
        ("speed=fast", "attributes speed=fast: must be a number near those of the training data"),
        ("speed=nan", "attributes speed=nan: must be a number near those of the training data"),
        ("speed=inf", "attributes speed=inf: must be a number near those of the training data"),
        ("speed=1e300", "attributes speed=1e300: must be a number near those of the training data"),
    ],
)
def test_unknown_attributes_and_values(text: str, message: str) -> None:
    model = small(**SPEED)
    model.data_spec = spec(
        attribute_names=("action", "performer", "speed"),
        attribute_values=(("bend", "jack", "wave"), ("ido", "eli"), ()),
    )
    with pytest.raises(UserError) as caught:
        model.sample(1, attributes=[text])
    assert str(caught.value) == message


def test_values_have_numbers_where_nobody_knows_their_names() -> None:
    with pytest.raises(UserError) as caught:
        small().sample(1, attributes=["action=wave"])
    assert str(caught.value) == "attributes action=wave: unknown value (values: 0 to 2)"
    assert small().sample(1, attributes=["action=2"]).shape == (1, 1, 4, 16, 16)


def test_names_of_values_may_be_numbers() -> None:
    model = small()
    model.data_spec = spec(attribute_values=(("9", "10", "2"), ("0", "1")))
    for text, number in (("10", 1), ("2", 2), ("9", 0)):
        assert model._number_of(model.attributes[0], text) == number
    with pytest.raises(UserError) as caught:  # 1 would be the second value by number, and no name
        model.sample(1, attributes=["action=1"])
    assert str(caught.value) == "attributes action=1: unknown value; did you mean '10'? (values: 9, 10, 2)"


def test_a_continuous_attribute_is_given_in_units_of_the_data() -> None:
    model = small(**SPEED)
    codes: list[Tensor] = []
    model.prior.register_forward_pre_hook(lambda _, parts: codes.append(parts[1]))
    model.sample(2, num_frames=3, attributes=["speed=2.25@0,-1@2"])
    assert [code[:, 5].tolist() for code in codes] == [[0.5, 0.5], [0.5, 0.5], [-6, -6]]


# What it refuses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "model.channels 0: must be at least 1"),
        ({"num_frames": 0}, "model.num_frames 0: must be at least 1"),
        ({"width": 0}, "model.width 0: must be at least 1"),
        ({"encoder_dim": 0}, "model.encoder_dim 0: must be at least 1"),
        ({"z_dim": 0}, "model.z_dim 0: must be at least 1"),
        ({"hidden_dim": 0}, "model.hidden_dim 0: must be at least 1"),
        ({"mlp_dim": 0}, "model.mlp_dim 0: must be at least 1"),
        ({"beta": -1.0}, "model.beta -1: cannot be negative"),
        ({"kl_warmup": -1}, "model.kl_warmup -1: cannot be negative"),
        ({"attribute_weight": -1.0}, "model.attribute_weight -1: cannot be negative"),
        ({"pretrain_attribute_steps": -1}, "model.pretrain_attribute_steps -1: cannot be negative"),
        ({"observed": -1}, "model.observed -1: cannot be negative"),
        ({"learning_rate": 0.0}, "model.learning_rate 0: must be above 0, and finite"),
        ({"beta1": 1.0}, "model.beta1 1: must be at least 0 and below 1"),
        ({"beta2": -0.5}, "model.beta2 -0.5: must be at least 0 and below 1"),
        ({"resolution": 48}, "model.resolution 48: must be a power of two, 16 or more"),
        ({"resolution": 8}, "model.resolution 8: must be a power of two, 16 or more"),
        ({"observed": 4}, "model.observed 4: must be below num_frames, 4"),
        ({"likelihood": "l1"}, "model.likelihood 'l1': must be one of laplace, gaussian"),
        ({"attributes": {}}, "model.attributes: names no attribute; give at least one, such as {action: 10}"),
        ({"attributes": None}, "model.attributes: names no attribute; give at least one, such as {action: 10}"),
        ({"attributes": {"action": 1}}, "model.attributes.action 1: must be at least 2 values"),
        *(
            ({"attributes": {name: 3}}, f"model.attributes {name!r}: cannot be a name here; choose another")
            for name in ("keys", "forward", "training", "_modules", "an action", "a.b", "", "1st")
        ),
        (
            {"continuous": {"action": (0.0, 1.0)}},
            "model.attributes 'action': cannot be a name here; choose another",
        ),
        (
            {"continuous": {"speed": (0.0, 0.0)}},
            "model.continuous.speed [0.0, 0.0]: must be a mean and a deviation above 0",
        ),
        (
            {"continuous": {"speed": (NAN, 1.0)}},
            "model.continuous.speed [nan, 1.0]: must be a mean and a deviation above 0",
        ),
        (
            {"continuous": {"speed": (0.0, math.inf)}},
            "model.continuous.speed [0.0, inf]: must be a mean and a deviation above 0",
        ),
    ],
)
def test_impossible_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        VideoVAE(**{**SMALL, **arguments})
    assert str(caught.value) == message


def test_attributes_may_be_continuous_alone() -> None:
    model = small(attributes=None, **SPEED)
    assert model.loss(example(model, 4))["attributes"] > 0
    assert model.sample(2, attributes=["speed=1"]).shape == (2, 1, 4, 16, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 3}, "model.channels: is 1, but the data has channels 3; make them equal"),
        ({"resolution": 32}, "model.resolution: is 16, but the data has resolution 32; make them equal"),
        ({"width": 24}, "model.resolution: is 16, but the data has width 24; make them equal"),
        ({"num_frames": 12}, "model.num_frames: is 4, but the data has num_frames 12; make them equal"),
        (
            {"attribute_names": (), "attribute_values": ()},
            "model.attributes.action: the data has no such attribute (it has: none)",
        ),
        (
            {"attribute_names": ("performer", "colour", "speed")},
            "model.attributes.action: the data has no such attribute (it has: performer, colour, speed)",
        ),
        (
            {"attribute_values": ((), ("ido", "eli"), ())},
            "model.attributes.action: the data has numbers for it; name it in data.attributes.categories, or give its"
            " mean and deviation in model.continuous",
        ),
        (
            {"attribute_values": (("bend", "jack"), ("ido", "eli"), ())},
            "model.attributes.action: is 3, but the data has 2 values; make them equal",
        ),
        (
            {"attribute_values": (("bend", "jack", "wave"), ("ido", "eli"), ("slow", "fast"))},
            "model.continuous.speed: the data has 2 values with names, no numbers",
        ),
    ],
)
def test_data_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    fitting: dict[str, Any] = {"attribute_names": ("action", "performer", "speed")}
    fitting |= {"attribute_values": (("bend", "jack", "wave"), ("ido", "eli"), ())}
    model = small(**SPEED)
    model.check_data(spec(**fitting))
    with pytest.raises(UserError) as caught:
        model.check_data(spec(**{**fitting, **change}))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("number", "keywords", "message"),
    [
        (0, {}, "num_videos 0: must be at least 1"),
        (2, {"num_frames": 0}, "num_frames 0: must be at least 1"),
        (2, {"observed": -1}, "observed -1: cannot be negative"),
        (2, {"temperature": -0.1}, "temperature -0.1: must be between 0 and 1000"),
        (2, {"temperature": NAN}, "temperature nan: must be between 0 and 1000"),
        (2, {"temperature": math.inf}, "temperature inf: must be between 0 and 1000"),
        (2, {"observed": 1}, "video_vae: starts from 1 given frames; give a batch with 'video'"),
        (2, {"observed": 2, "batch": {}}, "video_vae: starts from 2 given frames; give a batch with 'video'"),
        (
            2,
            {"observed": 3, "batch": {"video": torch.zeros(2, 1, 2, 16, 16)}},
            "video_vae: the given videos have 2 frames, fewer than observed, 3",
        ),
        (
            2,
            {"observed": 1, "batch": {"video": torch.zeros(2, 3, 2, 16, 16)}},
            "video_vae: the given videos are (2, 3, 2, 16, 16); they must be (N, 1, T, 16, 16)",
        ),
        (
            2,
            {"observed": 1, "batch": {"video": torch.zeros(2, 1, 16, 16)}},
            "video_vae: the given videos are (2, 1, 16, 16); they must be (N, 1, T, 16, 16)",
        ),
        (
            2,
            {"observed": 1, "batch": {"video": torch.zeros(3, 1, 2, 16, 16)}},
            "video_vae: 2 videos of 3 given ones; make the two equal",
        ),
    ],
)
def test_impossible_samples(number: int, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        small().sample(number, **keywords)
    assert str(caught.value) == message


def test_one_frame_is_enough_for_training() -> None:
    model = small(num_frames=1)
    assert model.loss(example(model, 1))["reconstruction"] > 0


def test_columns_are_found_by_name() -> None:
    model, batch = small(**SPEED), example(small(**SPEED), 4)
    expected = model.loss(batch)
    names = ("colour", "speed", "performer", "action")
    values = (("red", "blue"), (), ("ido", "eli"), ("bend", "jack", "wave"))
    model.data_spec = spec(attribute_names=names, attribute_values=values)
    model.check_data(model.data_spec)
    columns = torch.cat([torch.ones(4, 1), batch["attributes"].flip(1)], 1)
    found = model.loss({**batch, "attributes": columns})
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("schedule", [["action = jack@0 , bend@2"], ["action=jack, bend@2"]])
def test_blanks_do_not_matter(schedule: list[str]) -> None:
    assert parse_schedules(schedule) == {"action": [(0, "jack"), (2, "bend")]}


def test_numbers_without_end_are_no_frames() -> None:
    with pytest.raises(UserError, match="must be VALUE@FRAME, with frames counted from 0"):
        parse_schedules([f"action=wave@0,bend@{'9' * 5000}"])
    with pytest.raises(UserError, match="unknown value"):
        small().sample(1, attributes=[f"action={'9' * 5000}"])
