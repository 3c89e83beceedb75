"""SVG is the official code's model: its loops written out, its sizes, its statistics, generation, and its refusals."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from tests.contract.running import StepWatch, train, weights
from tests.models.watching import enliven, parameters
from tests.pair import ProcessPair
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.layers.batch_norm import FrameBatchNorm2d
from vidgen.models.frames import from_unit, to_unit
from vidgen.models.svg import SVG, Skips, convolve_joined
from vidgen.seeding import NoiseStream

SMALL = {**SVG.small_variants()["default"], "num_frames": 6, "n_past": 3}
KINDS = ("learned", "fixed", "none")
SKIP_FRAMES = ("last_but_one", "last", "previous")


def small(**arguments: Any) -> SVG:
    """A tiny model in float64 whose weights matter, the same for the same arguments, in training."""
    torch.manual_seed(0)
    return enliven(SVG(**{**SMALL, **arguments}), 1.0).double()


def clips(model: SVG, number: int = 4, length: int | None = None) -> Tensor:
    """Random videos."""
    size = (number, model.channels, length or model.num_frames, model.resolution, model.resolution)
    return NoiseStream(5, dtype=torch.float64).uniform(*size) * 2 - 1


def draws_for(model: SVG, number: int = 4, length: int | None = None) -> Tensor | None:
    """Normal numbers for every step."""
    shape = (number, (length or model.num_frames) - 1, model.z_dim)
    return NoiseStream(6, dtype=torch.float64).normal(*shape) if model.stochastic else None


def close(actual: Tensor, expected: Tensor, message: str = "") -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11, msg=message or None)


# The loops of the official code, one network call for each frame ---------------------------------------------------


class Frozen:
    """The rule by which the official code keeps the skip features of an earlier frame; ``last`` is the paper's."""

    def __init__(self, model: SVG) -> None:
        self.model = model
        self.features: list[Tensor] = []
        self.frames: list[int] = []
        self.frame = -1

    def __call__(self, time: int, features: list[Tensor]) -> Skips:
        """Skip features for the prediction of frame ``time`` from the one before, which has ``features``."""
        limit = {"last_but_one": self.model.n_past, "last": self.model.n_past + 1, "previous": 10**9}
        if time < limit[self.model.skip_frame]:
            self.features, self.frame = features, time - 1
        self.frames.append(self.frame)
        return Skips(self.features)


def official_training(model: SVG, frames: Tensor, draws: Tensor | None) -> dict[str, Tensor]:
    """Loss and predictions of clips ``(B, T, C, H, W)``, as in train_svg_lp.py and train_svg_fp.py."""
    skip = Frozen(model)
    states: dict[str, Any] = {}
    found: dict[str, list[Tensor]] = {key: [] for key in ("frames", "mean", "log_variance", "prior_mean", "prior_std")}
    error, divergence = torch.zeros((), dtype=frames.dtype), torch.zeros((), dtype=frames.dtype)
    once = [model.encoder(frames[:, t]) for t in range(frames.shape[1])] if model.kind == "fixed" else None
    for time in range(1, frames.shape[1]):
        h, features = once[time - 1] if once else model.encoder(frames[:, time - 1])
        target = once[time][0] if once else model.encoder(frames[:, time])[0]
        given = [h[:, None]]
        if model.posterior is not None and draws is not None:
            mean, log_variance, states["posterior"] = model.posterior(target[:, None], states.get("posterior"))
            given.append(mean + (0.5 * log_variance).exp() * draws[:, time - 1 : time])
            posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
            prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
            if model.prior is not None:
                mean, log_variance, states["prior"] = model.prior(h[:, None], states.get("prior"))
                prior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
            divergence = divergence + torch.distributions.kl_divergence(posterior, prior).sum() / len(frames)
            for key, value in (("mean", posterior.mean), ("prior_mean", prior.mean), ("prior_std", prior.stddev)):
                found[key].append(value[:, 0])
        latent, states["predictor"] = model.predictor(torch.cat(given, 2), states.get("predictor"))
        predicted = model.decoder(latent[:, 0], skip(time, features))
        found["frames"].append(predicted)
        error = error + F.mse_loss(predicted, frames[:, time])
    result = {key: torch.stack(values, 1) for key, values in found.items() if values}
    return {**result, "error": error, "divergence": divergence, "skip_frames": torch.tensor(skip.frames)}


@torch.no_grad()
def official_generation(
    model: SVG, frames: Tensor, length: int, draws: Tensor | None, infer: bool = False
) -> dict[str, Tensor]:
    """A group of videos, as in generate_svg_lp.py and generate_svg_fp.py; ``draws`` (N, length - 1, z_dim).

    With ``infer`` z is the mean of the posterior of the true frame throughout.
    """
    model = copy.deepcopy(model)
    model.train(model.sampling_statistics == "batch")
    skip, states = Frozen(model), {}
    made, means, deviations = [frames[:, 0]], [], []
    for time in range(1, length):
        h, features = model.encoder(made[-1])
        skips = skip(time, features)
        if model.prior is not None:
            mean, log_variance, states["prior"] = model.prior(h[:, None], states.get("prior"))
            std = (0.5 * log_variance).exp()
        else:
            mean, std = h.new_zeros(len(h), 1, model.z_dim), h.new_ones(len(h), 1, model.z_dim)
        means.append(mean[:, 0])
        deviations.append(std[:, 0])
        if (time < model.n_past or infer) and model.posterior is not None:
            target = model.encoder(frames[:, time])[0]
            mean, log_variance, states["posterior"] = model.posterior(target[:, None], states.get("posterior"))
            std = (0.5 * log_variance).exp() * (model.kind == "learned")
        z = mean if infer or draws is None else mean + std * draws[:, time - 1 : time]
        latent, states["predictor"] = model.predictor(torch.cat([h[:, None], z], 2), states.get("predictor"))
        made.append(frames[:, time] if time < model.n_past else model.decoder(latent[:, 0], skips))
    return {
        "video": from_unit(torch.stack(made, 1)),
        "mean": torch.stack(means, 1),
        "std": torch.stack(deviations, 1),
        "skip_frames": torch.tensor(skip.frames),
    }


def given_draws(model: SVG, draws: Tensor | None) -> SVG:
    """Let a model generate with these numbers for frames 1, 2, …; row n is of video n."""
    if draws is not None:
        model._draw = lambda numbers, seed, time: draws[list(numbers), time - 1]
    return model


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["dcgan", "vgg"])
@pytest.mark.parametrize("skip_frame", SKIP_FRAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_training_is_that_of_one_call_for_each_frame(kind: str, skip_frame: str, backbone: str) -> None:
    ours = small(prior=kind, skip_frame=skip_frame, backbone=backbone)
    theirs = copy.deepcopy(ours)
    frames, draws = to_unit(clips(ours)), draws_for(ours)
    rollout = ours.unroll(frames, draws)
    divergence = ours.divergence(rollout)
    total = F.mse_loss(rollout.frames, frames[:, 1:]) * (frames.shape[1] - 1)
    total = total if divergence is None else total + 0.01 * divergence.sum() / len(frames)
    expected = official_training(theirs, frames, draws)
    close(rollout.frames, expected["frames"])
    close(total, expected["error"] + 0.01 * expected["divergence"])
    if kind != "none":
        close(rollout.mean, expected["mean"])
    if kind == "learned":
        close(rollout.prior_mean, expected["prior_mean"])
        close((rollout.prior_log_variance / 2).exp(), expected["prior_std"])
    total.backward()
    (expected["error"] + 0.01 * expected["divergence"]).backward()
    own = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, own[name].grad, rtol=1e-7, atol=1e-10, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_running_statistics_meet_frames_as_often_as_in_the_official_code(kind: str) -> None:
    ours = small(prior=kind)
    theirs = copy.deepcopy(ours)
    frames, draws = to_unit(clips(ours)), draws_for(ours)
    ours.unroll(frames, draws)
    official_training(theirs, frames, draws)
    found, expected = dict(ours.named_buffers()), dict(theirs.named_buffers())
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        close(found[name], value, name)
    calls = {"learned": 2 * 5, "fixed": 6, "none": 2 * 5}[kind]
    assert ours.encoder.head.norm.num_batches_tracked == calls and ours.decoder.head.norm.num_batches_tracked == 5


def test_statistics_of_clips_are_those_of_all_frames_at_once() -> None:
    ours = small(statistics="clip")
    theirs = copy.deepcopy(ours)
    frames, draws = to_unit(clips(ours)), draws_for(ours)
    rollout = ours.unroll(frames, draws)
    latents, features = theirs.encoder(frames.flatten(0, 1))
    latents = latents.unflatten(0, (4, 6))
    mean, log_variance, _ = theirs.posterior(latents[:, 1:])
    z = mean + (log_variance / 2).exp() * draws
    predicted, _ = theirs.predictor(torch.cat([latents[:, :-1], z], 2))
    sources = [[0, 1, 1, 1, 1]]  # frames 1 and 2 from the ones before, the others from the last but one given one
    rows = (6 * torch.arange(4)[:, None] + torch.tensor(sources)).flatten()
    expected = theirs.decoder(predicted.flatten(0, 1), Skips([feature[rows] for feature in features]))
    close(rollout.frames, expected.unflatten(0, (4, 5)))
    for name, value in theirs.named_buffers():
        close(dict(ours.named_buffers())[name], value, name)
    assert ours.encoder.head.norm.num_batches_tracked == ours.decoder.head.norm.num_batches_tracked == 1
    assert not torch.allclose(rollout.frames, small(statistics="frame").unroll(frames, draws).frames, atol=1e-3)


@pytest.mark.parametrize(
    ("skip_frame", "n_past", "expected"),
    [
        ("last_but_one", 3, [0, 1, 1, 1, 1]),
        ("last_but_one", 2, [0, 0, 0, 0, 0]),
        ("last_but_one", 5, [0, 1, 2, 3, 3]),
        ("last", 3, [0, 1, 2, 2, 2]),
        ("last", 1, [0, 0, 0, 0, 0]),
        ("previous", 3, [0, 1, 2, 3, 4]),
        ("previous", 1, [0, 1, 2, 3, 4]),
    ],
)
def test_skip_features_come_from_the_right_frame(skip_frame: str, n_past: int, expected: list[int]) -> None:
    model = small(skip_frame=skip_frame, n_past=n_past)
    frames, draws = to_unit(clips(model)), draws_for(model)
    assert official_training(copy.deepcopy(model), frames, draws)["skip_frames"].tolist() == expected
    seen: list[Skips] = []
    model.decoder.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    model.unroll(frames, draws)
    _, features = copy.deepcopy(model).encoder(frames.flatten(0, 1), model._encoder_visits(6))
    rows = torch.arange(20) if seen[0].rows is None else seen[0].rows
    for taken, feature in zip(seen[0].features, features, strict=True):
        assert len(taken) == 4 * (max(expected) + 1), "no more frames than skip features are taken from"
        close(taken[rows], feature.unflatten(0, (4, 6))[:, expected].flatten(0, 1))
    seen.clear()
    model.sample(4, batch={"video": clips(model)}, sampling_statistics="running")
    assert len(seen) == 6 - n_past
    of_frame = {time: model.eval().encoder(frames[:, time])[1] for time in range(n_past)}
    for prediction, skips in zip(expected[n_past - 1 :], seen, strict=True):
        if prediction < n_past:
            for taken, feature in zip(skips.features, of_frame[prediction], strict=True):
                close(taken, feature)


def test_length_alone_decides_the_loss_where_skips_come_from_the_previous_frame() -> None:
    losses = {}
    for skip_frame in SKIP_FRAMES:
        for n_past in (2, 4):
            model = small(skip_frame=skip_frame, n_past=n_past)
            model.load_state_dict(small().state_dict())
            losses[skip_frame, n_past] = sum(model.loss({"video": clips(model)}).values())
    assert losses["previous", 2] == losses["previous", 4]
    assert losses["last", 2] != losses["last", 4] and losses["last_but_one", 2] != losses["last_but_one", 4]


@pytest.mark.parametrize("kind", KINDS)
def test_loss_adds_up_steps_and_latent_dimensions(kind: str) -> None:
    model = small(prior=kind, beta=0.3, statistics="frame")
    batch = {"video": clips(model, 3)}
    draws = model.noise("posterior").normal(3, 5, model.z_dim) if kind != "none" else None
    expected = official_training(copy.deepcopy(model), to_unit(batch["video"]), draws)
    model.log_every = 1
    terms = model.loss(batch)
    logged = model.meter.flush()
    close(terms["squared_error"], expected["error"])
    torch.testing.assert_close(logged["frame/squared_error"], expected["error"].detach().float() / 6)
    if kind == "none":
        assert terms.keys() == {"squared_error"} and logged.keys() == {"frame/squared_error"}
        return
    close(terms["kl"], 0.3 * expected["divergence"])
    torch.testing.assert_close(logged["frame/kl"], expected["divergence"].detach().float() / 6)
    assert logged.keys() == {"frame/squared_error", "frame/kl", "active_units"}
    model.log_every = 2
    model.loss(batch)
    assert "active_units" not in model.meter.flush(), "only when it is logged"


def test_the_same_batch_gives_the_same_loss_again() -> None:
    model = small()
    first, second = (model.loss({"video": clips(model)}) for _ in range(2))
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_of_the_prior_only_mean_and_variance_matter_in_training() -> None:
    model = small()
    frames, draws = to_unit(clips(model)), draws_for(model)
    first, before = model.unroll(frames, draws), model.loss({"video": clips(model)})
    enliven(model.prior)
    second, after = model.unroll(frames, draws), model.loss({"video": clips(model)})
    assert torch.equal(first.frames, second.frames) and torch.equal(first.z, second.z)
    assert torch.equal(before["squared_error"], after["squared_error"]) and not torch.equal(before["kl"], after["kl"])
    after["squared_error"].backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in model.prior.parameters())
    after["kl"].backward()
    assert all(parameter.grad.any() for parameter in model.prior.parameters())


def test_the_posterior_never_sees_the_first_frame_and_the_prior_never_the_last() -> None:
    model = small().eval()
    frames, draws = to_unit(clips(model)), draws_for(model)
    first = model.unroll(frames, draws)
    for frame in (0, 5):
        changed = frames.clone()
        changed[:, frame] = 0.5
        second = model.unroll(changed, draws)
        assert torch.equal(first.mean, second.mean) == (frame == 0)
        assert torch.equal(first.prior_mean, second.prior_mean) == (frame == 5)


def test_units_are_active_where_the_posterior_leaves_the_prior() -> None:
    model = small(beta=0.0)
    model.log_every = 1
    with torch.no_grad():
        for network in (model.posterior, model.prior):
            for layer in (network.mean, network.log_variance):
                layer.weight.zero_()
                layer.bias.zero_()
        for active in range(4):
            model.posterior.mean.bias[:active] = 0.5
            model.loss({"video": clips(model)})
            assert model.meter.flush()["active_units"] == active


def test_optimiser_is_one_adam_of_everything() -> None:
    for kind in KINDS:
        model = small(prior=kind, learning_rate=3e-3, beta1=0.8, beta2=0.99)
        optimizer = model.build_optimizer()
        assert isinstance(optimizer, torch.optim.Adam) and len(optimizer.param_groups) == 1
        settings = optimizer.param_groups[0]
        assert (settings["lr"], settings["betas"], settings["eps"], settings["weight_decay"]) == (
            3e-3,
            (0.8, 0.99),
            1e-8,
            0,
        )
        assert [id(p) for p in settings["params"]] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prior_is_there_where_it_is_learned_and_a_posterior_where_there_is_a_code(kind: str) -> None:
    model = small(prior=kind)
    networks = {key.split(".")[0] for key in model.state_dict()}
    others = {"learned": {"posterior", "prior"}, "fixed": {"posterior"}, "none": set()}
    assert networks == {"encoder", "decoder", "predictor", *others[kind]} == set(model.networks())
    assert model.predictor.embed.in_features == 6 + (0 if kind == "none" else 3)
    owned = sum(len(group["params"]) for group in model.build_optimizer().param_groups)
    assert owned == len(list(model.parameters()))


def loss_on_rank(video: Tensor) -> tuple[float, dict[str, Tensor]]:
    """Mean loss over ranks and running statistics, of this rank's clips."""
    from vidgen.distributed import sum_over_ranks, world

    rank, size = world()
    torch.manual_seed(0)
    model = small()
    terms = model.loss({"video": video[rank::size]})
    return float(sum_over_ranks(sum(terms.values()).detach())) / size, dict(model.named_buffers())


def test_one_clip_on_each_of_two_processes_is_a_batch(pair: ProcessPair) -> None:
    torch.manual_seed(0)
    video = clips(small(), 2)
    loss, buffers = loss_on_rank(video)
    for other, found in pair.run(loss_on_rank, video=video):
        assert other == pytest.approx(loss, rel=1e-11)
        for name, value in buffers.items():
            close(found[name], value, name)
    with pytest.raises(UserError) as caught:
        small().loss({"video": video[:1]})
    assert str(caught.value) == "data.batch_size 1: SVG's batch norms need at least 2 clips"
    with pytest.raises(UserError) as caught:
        small(statistics="clip", num_frames=2, n_past=1, skip_frame="last").loss({"video": video[:1, :, :2]})
    assert str(caught.value) == "data.batch_size 1: SVG's batch norms need at least 2 clips"
    assert small(statistics="clip").loss({"video": video[:1]})["squared_error"] > 0


# Networks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transposed", [False, True])
def test_skip_features_are_convolved_once_for_all_that_share_them(transposed: bool) -> None:
    convolution = nn.ConvTranspose2d(5, 4, 4, 2, 1) if transposed else nn.Conv2d(5, 4, 3, 1, 1)
    convolution = enliven(convolution).double()
    own, skip = torch.randn(6, 2, 4, 4, dtype=torch.float64), torch.randn(3, 3, 4, 4, dtype=torch.float64)
    rows = torch.tensor([0, 1, 1, 2, 2, 2])
    probe, results = torch.randn(6, 4, *([8, 8] if transposed else [4, 4]), dtype=torch.float64), []
    for way in (rows, None):
        inputs = [own.clone().requires_grad_(), skip.clone().requires_grad_()]
        convolution.zero_grad()
        made = convolve_joined(convolution, inputs[0], inputs[1] if way is not None else inputs[1][rows], way)
        (made * probe).sum().backward()
        results.append(
            [made, *(x.grad for x in inputs), convolution.weight.grad.clone(), convolution.bias.grad.clone()]
        )
    for one, other in zip(*results, strict=True):
        close(one, other)
    close(results[0][0], convolution(torch.cat([own, skip[rows]], 1)))


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        ({}, (3_805_376, 6_558_529, 1_121_152, 564_500, 564_500)),
        (
            {"channels": 3, "backbone": "vgg", "z_dim": 64, "n_past": 2, "num_frames": 12},
            (8_689_600, 11_822_659, 1_134_976, 592_256, 592_256),
        ),
        (
            {"backbone": "vgg", "z_dim": 24, "prior": "fixed", "n_past": 10, "num_frames": 20},
            (8_688_448, 11_821_505, 1_124_736, 571_696),
        ),
        ({"resolution": 128}, (8_001_216, 14_948_673, 1_121_152, 564_500, 564_500)),
        ({"resolution": 128, "backbone": "vgg"}, (15_770_944, 21_263_297, 1_121_152, 564_500, 564_500)),
    ],
)
def test_parameters_of_the_official_models(arguments: dict[str, Any], sizes: tuple[int, ...]) -> None:
    with torch.device("meta"):
        model = SVG(**arguments)
    assert list(model.networks()) == ["encoder", "decoder", "predictor", "posterior", "prior"][: len(sizes)]
    assert tuple(map(parameters, model.networks().values())) == sizes


@pytest.mark.parametrize("backbone", ["dcgan", "vgg"])
@pytest.mark.parametrize("resolution", [16, 32, 128])
def test_every_resolution_fits_together(resolution: int, backbone: str) -> None:
    model = small(resolution=resolution, backbone=backbone, widths=(2, 3, 4, 5)).eval()
    levels = {16: 2, 32: 3, 128: 5}[resolution]
    latent, features = model.encoder(torch.rand(2, 1, resolution, resolution, dtype=torch.float64))
    assert latent.shape == (2, 6) and len(features) == levels
    widths = [2, 3, 4, 5, 5][:levels]
    first = resolution // (1 if backbone == "vgg" else 2)
    assert [feature.shape[1:] for feature in features] == [(w, first >> n, first >> n) for n, w in enumerate(widths)]
    assert model.decoder(latent, Skips(features)).shape == (2, 1, resolution, resolution)


def test_what_ends_in_a_hyperbolic_tangent() -> None:
    model = small().eval()
    with torch.no_grad():
        for network in (model.predictor, model.posterior, model.prior):
            for parameter in network.parameters():
                parameter.mul_(50)
        model.encoder.head.norm.weight.fill_(50)
    rollout = model.unroll(to_unit(clips(model)), draws_for(model))
    latents, _ = model.encoder(to_unit(clips(model)).flatten(0, 1))
    for bounded in (rollout.latents, latents):
        assert 0.99 < bounded.abs().max() <= 1
    for free in (rollout.mean, rollout.log_variance, rollout.prior_mean, rollout.prior_log_variance):
        assert free.abs().max() > 2
    assert rollout.frames.min() >= 0 and rollout.frames.max() <= 1


@torch.no_grad()
def test_initial_weights_are_those_of_the_official_code() -> None:
    model = SVG(widths=(16, 32, 64, 64), g_dim=64, rnn_size=64)
    for name, module in model.named_modules():
        if isinstance(module, _ConvNd | nn.Linear):
            assert not module.bias.any() and module.weight.std() == pytest.approx(0.02, rel=0.15), name
            assert abs(module.weight.mean()) < 0.004, name
        elif isinstance(module, FrameBatchNorm2d):
            assert not module.bias.any() and abs(module.weight.mean() - 1) < 0.02, name
            assert 0.01 < module.weight.std() < 0.03, name
            assert (module.eps, module.momentum) == (1e-5, 0.1)
        elif isinstance(module, nn.LSTM):
            assert 0.12 < max(parameter.abs().max() for parameter in module.parameters()) <= 1 / 8, name
        elif isinstance(module, nn.LeakyReLU):
            assert module.negative_slope == 0.2


# Generation ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("skip_frame", SKIP_FRAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_generation_is_the_official_loop(kind: str, skip_frame: str, statistics: str) -> None:
    model = small(prior=kind, skip_frame=skip_frame, sampling_statistics=statistics, sampling_group=4)
    video, draws = clips(model, 4, 8), draws_for(model, 4, 9)
    expected = official_generation(model, to_unit(video), 9, draws)
    prediction = given_draws(model, draws).predict(4, num_frames=9, batch={"video": video[:, :, :3]})
    torch.testing.assert_close(prediction.video, expected["video"].float(), rtol=0, atol=1e-6)
    torch.testing.assert_close(prediction.video[:, :, :3], video[:, :, :3].float(), rtol=0, atol=1e-6)
    assert prediction.prior_mean.shape == prediction.prior_std.shape == (4, 8, 0 if kind == "none" else 3)
    close(prediction.prior_mean, expected["mean"])
    close(prediction.prior_std, expected["std"])
    if kind == "fixed":
        assert not prediction.prior_mean.any() and (prediction.prior_std == 1).all()
    posterior = official_generation(model, to_unit(video), 8, None, infer=True)
    inferred = model.approximate_posterior(video)
    torch.testing.assert_close(inferred, posterior["video"].float(), rtol=0, atol=1e-6)
    assert not torch.allclose(posterior["video"], expected["video"][:, :, :8].double(), atol=1e-3) or kind == "none"


def test_statistics_can_be_chosen_for_each_sample() -> None:
    shared, running = small(sampling_group=4), small(sampling_group=4, sampling_statistics="running")
    running.load_state_dict(shared.state_dict())
    batch = {"video": clips(shared)}
    made = {"batch": shared.sample(4, batch=batch), "running": running.sample(4, batch=batch)}
    assert not torch.allclose(made["batch"], made["running"], atol=1e-3)
    inferred = {"batch": shared.approximate_posterior(batch["video"])}
    inferred["running"] = running.approximate_posterior(batch["video"])
    for model, default in ((shared, "batch"), (running, "running")):
        assert model.sampling_group == model.sampling_group_for({}) == {"batch": 4, "running": 1}[default]
        for statistics in ("batch", "running"):
            keywords = {"sampling_statistics": statistics}
            assert model.sampling_group_for(keywords) == {"batch": 4, "running": 1}[statistics]
            assert torch.equal(model.sample(4, batch=batch, **keywords), made[statistics])
            assert torch.equal(model.predict(4, batch=batch, **keywords).video, made[statistics])
            assert torch.equal(model.stream(batch, **keywords)[0], made[statistics])
            assert torch.equal(model.approximate_posterior(batch["video"], **keywords), inferred[statistics])
    for kind, statistics in (("learned", "batch"), ("fixed", "running"), ("none", "running")):
        assert small(prior=kind).sampling_statistics == statistics


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_who_depends_on_whom(statistics: str) -> None:
    model = small(sampling_statistics=statistics)
    video, other = clips(model), clips(model)
    other[2] = other[2].flip(-1)
    first, second = (model.sample(4, batch={"video": given}) for given in (video, other))
    apart = [not torch.equal(one, two) for one, two in zip(first, second, strict=True)]
    assert apart == [False, False, True, statistics == "batch"], "groups are of two"


def test_the_last_group_may_be_smaller_but_not_alone() -> None:
    model = small(sampling_group=3)
    video = clips(model, 5)
    whole = model.sample(5, batch={"video": video}, first=3)
    last = model.sample(2, batch={"video": video[3:]}, first=6)
    assert torch.equal(whole[3:], last)
    message = (
        "svg: generates with statistics of the batch, which need at least 2 videos made together; give more, or set"
        " sampling_statistics to 'running'"
    )
    for number, first in ((1, 0), (4, 0), (2, 2), (3, 2)):
        with pytest.raises(UserError) as caught:
            model.sample(number, batch={"video": video[:number]}, first=first)
        assert str(caught.value) == message
        made = model.sample(number, batch={"video": video[:number]}, first=first, sampling_statistics="running")
        assert len(made) == number
    with pytest.raises(UserError) as caught:
        model.approximate_posterior(video[:1])
    assert str(caught.value) == message


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("training", [False, True])
def test_generation_leaves_statistics_and_mode_alone(statistics: str, training: bool) -> None:
    model = small(sampling_statistics=statistics).train(training)
    before, batch = weights(model), {"video": clips(model)}
    made = model.sample(4, batch=batch)
    model.approximate_posterior(batch["video"])
    after = weights(model)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(module.training == training for module in model.modules())
    assert not any(getattr(module, "borrows", False) for module in model.modules())
    assert torch.equal(made, model.train(not training).sample(4, batch=batch))


def test_the_prior_decides_predicted_frames_and_not_the_given_ones() -> None:
    model = small()
    batch = {"video": clips(model)}
    first = model.sample(4, batch=batch)
    enliven(model.prior)
    second = model.sample(4, batch=batch)
    assert torch.equal(first[:, :, :3], second[:, :, :3])
    assert not torch.allclose(first[:, :, 3:], second[:, :, 3:], atol=1e-3)


@pytest.mark.parametrize(("group", "first", "number"), [(2, 6, 6), (3, 4, 5)])
def test_pieces_of_any_length_make_the_same_videos(group: int, first: int, number: int) -> None:
    model = small(sampling_group=group)
    batch = {"video": clips(model, number)}
    whole = model.sample(number, batch=batch, num_frames=11, seed=3, first=first)
    pieces, state = [], None
    for length in (1, 1, 2, 4, 3):
        made, state = model.stream(batch, state, num_frames=length, seed=3, first=first)
        pieces.append(made)
    assert torch.equal(torch.cat(pieces, 2), whole)
    made, _ = model.stream(batch, seed=3, first=first)
    assert torch.equal(made, whole[:, :, :6])


def test_noise_of_a_step_depends_on_seed_number_and_frame() -> None:
    model = small()
    draw = model._draw(range(2, 5), 7, 3)
    assert draw.shape == (3, 3) and draw.dtype == torch.float64
    assert torch.equal(model._draw(range(4, 5), 7, 3)[0], draw[2])
    for other in (model._draw(range(2, 5), 8, 3), model._draw(range(2, 5), 7, 4), model._draw(range(3, 6), 7, 3)):
        assert not torch.equal(other, draw)
    many = torch.cat([small(z_dim=8)._draw(range(100), 0, time) for time in range(1, 6)])
    assert abs(many.mean()) < 0.06 and abs(many.std() - 1) < 0.04


def test_the_deterministic_baseline_has_one_answer() -> None:
    model = small(prior="none")
    batch = {"video": clips(model)}
    first = model.sample(4, batch=batch, seed=1)
    assert torch.equal(first, model.sample(4, batch=batch, seed=2, first=4)) and not model.stochastic
    assert torch.equal(first, model.approximate_posterior(batch["video"]))
    assert small().stochastic and small(prior="fixed").stochastic


@pytest.mark.parametrize("kind", KINDS)
def test_samples_in_half_precision(kind: str) -> None:
    model = small(prior=kind).bfloat16()
    batch = {"video": clips(model).float()}
    made = model.sample(4, batch=batch)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made[:, :, :3], batch["video"][:, :, :3], rtol=0, atol=0.01)
    assert torch.isfinite(made).all() and made[:, :, 3:].std() > 0.01


def test_task_and_what_it_reads() -> None:
    model = small(n_past=4)
    assert (model.task, model.train_keys, model.sample_keys) == ("prediction", ("video",), ("video",))
    assert (model.context_frames, model.max_frames) == (4, None)


# What it refuses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "model.channels 0: must be at least 1"),
        ({"n_past": 0}, "model.n_past 0: must be at least 1"),
        ({"g_dim": 0}, "model.g_dim 0: must be at least 1"),
        ({"z_dim": 0}, "model.z_dim 0: must be at least 1"),
        ({"rnn_size": 0}, "model.rnn_size 0: must be at least 1"),
        ({"predictor_layers": 0}, "model.predictor_layers 0: must be at least 1"),
        ({"posterior_layers": 0}, "model.posterior_layers 0: must be at least 1"),
        ({"prior_layers": 0}, "model.prior_layers 0: must be at least 1"),
        ({"beta": -1.0}, "model.beta -1: cannot be negative"),
        ({"learning_rate": 0.0}, "model.learning_rate 0: must be above 0, and finite"),
        ({"beta1": 1.0}, "model.beta1 1: must be at least 0 and below 1"),
        ({"beta2": -0.5}, "model.beta2 -0.5: must be at least 0 and below 1"),
        ({"prior": "lerned"}, "model.prior 'lerned': must be one of learned, fixed, none"),
        ({"backbone": "resnet"}, "model.backbone 'resnet': must be one of dcgan, vgg"),
        ({"skip_frame": "first"}, "model.skip_frame 'first': must be one of last_but_one, last, previous"),
        ({"statistics": "batch"}, "model.statistics 'batch': must be one of frame, clip"),
        (
            {"sampling_statistics": "frame"},
            "model.sampling_statistics 'frame': must be one of None, batch, running",
        ),
        ({"resolution": 48}, "model.resolution 48: must be a power of two, 16 or more"),
        ({"resolution": 8}, "model.resolution 8: must be a power of two, 16 or more"),
        ({"widths": (4, 4, 4)}, "model.widths [4, 4, 4]: must be four numbers above 0"),
        ({"widths": (4, 4, 4, 0)}, "model.widths [4, 4, 4, 0]: must be four numbers above 0"),
        ({"num_frames": 3}, "model.num_frames 3: must be above n_past, 3, to leave a frame to predict"),
        (
            {"n_past": 1},
            "model.n_past 1: there is no last but one given frame; set skip_frame to 'last' or 'previous'",
        ),
        ({"sampling_group": 1}, "model.sampling_group 1: must be at least 2; statistics need several videos"),
    ],
)
def test_impossible_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        SVG(**{**SMALL, **arguments})
    assert str(caught.value) == message


@pytest.mark.parametrize("skip_frame", ["last", "previous"])
def test_one_frame_may_be_given(skip_frame: str) -> None:
    model = small(n_past=1, skip_frame=skip_frame)
    assert model.loss({"video": clips(model)})["kl"] > 0
    assert model.sample(2, batch={"video": clips(model, 2, 1)}).shape == (2, 1, 6, 16, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 3}, "model.channels: is 1, but the data has channels 3; make them equal"),
        ({"resolution": 32}, "model.resolution: is 16, but the data has resolution 32; make them equal"),
        ({"width": 24}, "model.resolution: is 16, but the data has width 24; make them equal"),
        ({"num_frames": 12}, "model.num_frames: is 6, but the data has num_frames 12; make them equal"),
    ],
)
def test_data_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    fitting: dict[str, Any] = {"channels": 1, "resolution": 16, "num_frames": 6, "fps": None, "num_videos": 9}
    fitting |= {"min_length": 10, "max_length": 20}
    model = small()
    model.check_data(DataSpec(**fitting))
    with pytest.raises(UserError) as caught:
        model.check_data(DataSpec(**{**fitting, **change}))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("number", "keywords", "message"),
    [
        (2, {}, "svg: continues given frames; give a batch with 'video'"),
        (2, {"batch": {"label": torch.zeros(2)}}, "svg: continues given frames; give a batch with 'video'"),
        (0, {"batch": {"video": torch.zeros(0, 1, 3, 16, 16)}}, "num_videos 0: must be at least 1"),
        (
            2,
            {"batch": {"video": torch.zeros(3, 1, 3, 16, 16)}},
            "svg: 2 videos of 3 given ones; make the two equal",
        ),
        (
            2,
            {"batch": {"video": torch.zeros(2, 3, 3, 16, 16)}},
            "svg: the given videos are (2, 3, 3, 16, 16); they must be (N, 1, T, 16, 16)",
        ),
        (
            2,
            {"batch": {"video": torch.zeros(2, 1, 16, 16)}},
            "svg: the given videos are (2, 1, 16, 16); they must be (N, 1, T, 16, 16)",
        ),
        (
            2,
            {"batch": {"video": torch.zeros(2, 1, 2, 16, 16)}},
            "svg: the given videos have 2 frames; it starts from 3",
        ),
        (2, {"batch": {"video": torch.zeros(2, 1, 3, 16, 16)}, "num_frames": 0}, "num_frames 0: must be at least 1"),
    ],
)
def test_impossible_samples(number: int, keywords: dict[str, Any], message: str) -> None:
    for method in ("sample", "predict"):
        with pytest.raises(UserError) as caught:
            getattr(small(), method)(number, **keywords)
        assert str(caught.value) == message


def test_a_step_moves_every_weight() -> None:
    model = SVG(**SMALL)
    watch = StepWatch()
    before = weights(model)
    train(model, 1, callbacks=(watch,))
    assert [step.name for step in watch.steps] == ["model"] and watch.steps[0].reached == set(watch.steps[0].owned)
    assert all(not torch.equal(value, before[key]) for key, value in weights(model).items())
