"""TGAN is the paper's model: sizes, row order, schedule, constraints, objectives, sampling, and what it refuses."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from tests.contract.running import train, weights
from tests.models.watching import enliven, parameters, watch
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.models import tgan
from vidgen.models.tgan import TGAN, Discriminator, Scores, from_official, to_official
from vidgen.seeding import NoiseStream, noise_from

SMALL = TGAN.small_variants()["default"]


def small(**arguments: Any) -> TGAN:
    """A tiny model whose weights matter, in evaluation."""
    return enliven(TGAN(**{**SMALL, **arguments})).eval()


def spec(**change: Any) -> DataSpec:
    fitting: dict[str, Any] = {"channels": 3, "resolution": 16, "num_frames": 16, "fps": None, "num_videos": 9}
    return DataSpec(**{**fitting, "min_length": 16, "max_length": 20, **change})


# Sizes -----------------------------------------------------------------------------------------------------------


def test_parameters_of_the_full_model() -> None:
    with torch.device("meta"):
        model, grey = TGAN(), TGAN(channels=1)
        shifted = TGAN(frame_seed_shift=True, discriminator_shift=True)
    assert parameters(model.generator.frame_seed) == 825_444
    assert parameters(shifted.generator.frame_seed) == 826_468
    assert parameters(model.generator.image) == parameters(shifted.generator.image) == 3_622_691
    assert parameters(grey.generator.image) == 3_622_113
    assert parameters(model.discriminator) == 11_032_449
    assert parameters(shifted.discriminator) == 11_033_409
    assert parameters(grey.discriminator) == 11_024_257


def test_layers_of_the_paper() -> None:
    with torch.device("meta"):
        model = TGAN()
        video = model.generator(torch.empty(3, 100))
        assert video.shape == (3, 3, 16, 64, 64)
        assert model.discriminator(video).shape == (3,)
        assert model.generator.codes(torch.empty(3, 100)).shape == (3, 100, 16)
    frame_seed, image, critic = model.generator.frame_seed, model.generator.image, model.discriminator
    assert [c.out_channels for c in frame_seed.convolutions] == [512, 256, 128, 128, 100]
    assert image.slow.out_features == image.fast.out_features == 16 * 256
    assert [c.in_channels for c in image.convolutions] == [512, 256, 128, 64]
    assert [c.out_channels for c in critic.convolutions] == [64, 128, 256, 512]
    doubling = [*list(frame_seed.convolutions)[1:], *image.convolutions, *critic.convolutions]
    assert all(set(c.kernel_size) == {4} and set(c.stride) == {2} and set(c.padding) == {1} for c in doubling)
    assert frame_seed.convolutions[0].kernel_size == (1,) and critic.output.kernel_size == (4, 4)
    without = [image.slow, image.fast, *image.convolutions]
    with_bias = [*frame_seed.convolutions, image.output, *critic.convolutions, critic.output]
    assert all(layer.bias is None for layer in without) and all(layer.bias is not None for layer in with_bias)


@pytest.mark.parametrize(("resolution", "classes"), [(16, 0), (32, 2), (48, 0), (64, 3), (128, 0)])
def test_every_resolution_fits_together(resolution: int, classes: int) -> None:
    sizes = {**SMALL, "resolution": resolution, "channels": 2, "dim_category": classes, "discriminator_width": 2}
    with torch.device("meta"):
        model = TGAN(**sizes)
        label = torch.empty(2, classes) if classes else None
        video = model.generator(torch.empty(2, SMALL["dim_slow"]), label)
        assert video.shape == (2, 2, 16, resolution, resolution)
        assert model.discriminator(video, label).shape == (2,)


@pytest.mark.parametrize("frame_seed_shift", [False, True])
@pytest.mark.parametrize("discriminator_shift", [False, True])
def test_batch_norms_are_those_of_chainer(frame_seed_shift: bool, discriminator_shift: bool) -> None:
    model = TGAN(**SMALL, frame_seed_shift=frame_seed_shift, discriminator_shift=discriminator_shift)
    for network, number, shift in (
        (model.generator.frame_seed, 4, frame_seed_shift),
        (model.generator.image, 6, True),
        (model.discriminator, 4, discriminator_shift),
    ):
        norms = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
        assert len(norms) == number
        assert {(norm.eps, norm.momentum) for norm in norms} == {(2e-5, 0.1)}
        assert all((norm.bias is not None) == shift for norm in norms)


@pytest.mark.parametrize("initialization", ["lecun_normal", "uniform"])
def test_weights_start_as_the_official_code_draws_them(initialization: str) -> None:
    sizes = {"generator_width": 64, "discriminator_width": 16, "frame_seed_channels": (64, 48, 32, 16)}
    model = TGAN(**sizes, dim_category=4, initialization=initialization, uniform_scale=0.02)
    for network in (model.generator.frame_seed, model.generator.image, model.discriminator):
        uniform = initialization == "uniform" or network is model.generator.image
        for layer in network.modules():
            if isinstance(layer, _ConvNd | nn.Linear):
                weight = layer.weight.detach()
                if uniform:
                    assert weight.abs().max() <= 0.02
                    torch.testing.assert_close(weight.std().item(), 0.02 / 3**0.5, rtol=0.1, atol=0)
                else:
                    fan_in = weight.shape[1] * weight[0, 0].numel()
                    torch.testing.assert_close(weight.std().item(), fan_in**-0.5, rtol=0.1, atol=0)
                    assert weight.abs().max() > 2.5 * fan_in**-0.5
                assert layer.bias is None or not layer.bias.any()
            elif isinstance(layer, _BatchNorm):
                assert (layer.weight == 1).all() and (layer.bias is None or not layer.bias.any())


# Networks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [0, 3])
@torch.no_grad()
def test_rows_are_the_frames_of_one_video_after_the_other(classes: int) -> None:
    model = small(dim_category=classes)
    seen: list[tuple[Any, ...]] = []
    model.generator.image.register_forward_pre_hook(lambda _, given: seen.append(given))
    slow, fast = torch.randn(3, SMALL["dim_slow"]), torch.randn(3, SMALL["dim_fast"], 5)
    label = torch.eye(3)[[2, 0, 1]] if classes else None
    videos = model.generator.videos(slow, fast, label)
    assert videos.shape == (3, 3, 5, 16, 16)
    rows = seen[0]
    for row in range(15):
        video, frame = divmod(row, 5)
        assert torch.equal(rows[0][row], slow[video])
        assert torch.equal(rows[1][row], fast[video, :, frame])
        assert label is None or torch.equal(rows[2][row], label[video])
    frames = model.generator.image(*rows)
    for row in range(15):
        torch.testing.assert_close(videos[row // 5, :, row % 5], frames[row], rtol=0, atol=1e-6)


@torch.no_grad()
def test_slow_half_comes_before_the_fast_half() -> None:
    image = small().generator.image
    seen: list[Tensor] = []
    image.convolutions[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    slow, fast = torch.randn(4, SMALL["dim_slow"]), torch.randn(4, SMALL["dim_fast"])
    image(slow, fast)
    image(slow, -fast)
    image(-slow, fast)
    assert seen[0].shape == (4, 16, 1, 1) and seen[0].min() == 0
    assert torch.equal(seen[0][:, :8], seen[1][:, :8]) and not torch.allclose(seen[0][:, 8:], seen[1][:, 8:])
    assert torch.equal(seen[0][:, 8:], seen[2][:, 8:]) and not torch.allclose(seen[0][:, :8], seen[2][:, :8])


@torch.no_grad()
def test_generator_decodes_its_own_codes() -> None:
    generator = small().generator
    slow = torch.rand(2, SMALL["dim_slow"]) * 2 - 1
    codes = generator.codes(slow)
    assert torch.equal(generator(slow), generator.videos(slow, codes))
    assert codes.abs().max() <= 1 and not torch.allclose(codes[:, :, 0], codes[:, :, 1], atol=1e-3)


def judged_by_hand(critic: Discriminator, video: Tensor, noises: list[Tensor], training: bool) -> Tensor:
    """Scores, with given noise before the activations."""
    x = video
    for number, (convolution, norm) in enumerate(zip(critic.convolutions, critic.norms, strict=True)):
        x = F.conv3d(x, convolution.weight, convolution.bias, stride=2, padding=1)
        if number:
            mean, variance = norm.running_mean, norm.running_var
            if training:
                mean, variance = x.mean((0, 2, 3, 4)), x.var((0, 2, 3, 4), correction=0)
            shape = (1, -1, 1, 1, 1)
            x = (x - mean.view(shape)) / (variance.view(shape) + 2e-5).sqrt() * norm.weight.view(shape)
            x = x if norm.bias is None else x + norm.bias.view(shape)
        if noises:
            x = x + noises[number]
        x = torch.where(x > 0, x, 0.2 * x)
    return (x.flatten(1) * critic.output.weight.flatten(1)).sum(1) + critic.output.bias


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_noise_comes_before_the_activations_and_in_training_only(training: bool, shift: bool) -> None:
    critic = small(instance_noise=0.3, resolution=32, discriminator_shift=shift).discriminator.double().train(training)
    video = torch.randn(3, 3, 16, 32, 32, dtype=torch.float64)
    stream = NoiseStream(5, dtype=torch.float64)
    shapes = [(3, 4 * 2**level, 8 // 2**level, 16 // 2**level, 16 // 2**level) for level in range(4)]
    noises = [0.3 * stream.normal(*shape) for shape in shapes]
    expected = judged_by_hand(critic, video, noises if training else [], training)
    with noise_from(NoiseStream(5, dtype=torch.float64)):
        torch.testing.assert_close(critic(video), expected, rtol=1e-9, atol=1e-9)
    assert training == (not torch.allclose(critic(video), critic(video)))


def test_fakes_and_real_clips_get_noise_of_their_own_fakes_first() -> None:
    model = small(instance_noise=0.3).train()
    batch = model.example_batch(2)
    with noise_from(NoiseStream(5)), torch.no_grad():
        scores = model.judge([batch])
    fake = copy.deepcopy(model.generator)(model.draw_slow(2, model.noise("latents")))
    stream = NoiseStream(5)
    shapes = [(2, 4 * 2**level, 8 // 2**level, 8 // 2**level, 8 // 2**level) for level in range(4)]
    for video, found in ((fake, scores.fake), (to_official(batch["video"]), scores.real)):
        noises = [0.3 * stream.normal(*shape) for shape in shapes]
        expected = judged_by_hand(model.discriminator, video, noises, True)
        torch.testing.assert_close(found, expected.detach(), rtol=1e-4, atol=1e-4)


# Classes ---------------------------------------------------------------------------------------------------------


def test_sizes_with_classes() -> None:
    plain, model = small(), small(dim_category=3)
    assert plain.generator.image.label is None and plain.generator.image.label_norm is None
    assert model.generator.frame_seed.convolutions[0].in_channels == SMALL["dim_slow"] + 3
    assert (model.generator.image.label.in_features, model.generator.image.label.out_features) == (3, 8)
    assert [c.in_channels for c in model.generator.image.convolutions] == [24, 8, 4, 2]
    assert [c.in_channels for c in plain.generator.image.convolutions] == [16, 8, 4, 2]
    assert model.discriminator.convolutions[0].in_channels == 6
    assert model.discriminator.convolutions[0].out_channels == 4


def test_class_enters_all_three_networks() -> None:
    model = small(dim_category=3).train()
    seen: dict[str, list[Tensor]] = {"frame_seed": [], "critic": []}
    model.generator.frame_seed.register_forward_pre_hook(lambda _, given: seen["frame_seed"].append(given[0]))
    first = model.discriminator.convolutions[0]
    first.register_forward_pre_hook(lambda _, given: seen["critic"].append(given[0].detach()))
    batch = model.example_batch(4)
    batch["label"] = torch.tensor([2, 0, 1, 1])
    model.judge([batch])
    one_hot = torch.eye(3)[batch["label"]]
    assert torch.equal(seen["frame_seed"][0][:, SMALL["dim_slow"] :], one_hot)
    assert torch.equal(seen["frame_seed"][0][:, : SMALL["dim_slow"]], model.draw_slow(4, model.noise("latents")))
    fake, real = seen["critic"]
    for given in (fake, real):
        assert given.shape == (4, 6, 16, 16, 16)
        assert torch.equal(given[:, 3:], one_hot[:, :, None, None, None].expand(-1, -1, 16, 16, 16))
    assert torch.equal(real[:, :3], to_official(batch["video"])) and not torch.equal(fake[:, :3], real[:, :3])
    slow, fast = torch.randn(4, SMALL["dim_slow"]), torch.randn(4, SMALL["dim_fast"])
    image = model.generator.eval().image
    assert not torch.allclose(image(slow, fast, one_hot), image(slow, fast, one_hot.roll(1, 1)), atol=1e-3)


# Pixels ----------------------------------------------------------------------------------------------------------


def test_pixels_of_the_official_code() -> None:
    values = torch.arange(256)
    ours = values.float() / 127.5 - 1
    official = (values.float() - 128) / 128
    torch.testing.assert_close(to_official(ours), official, rtol=0, atol=1e-7)
    torch.testing.assert_close(from_official(official), ours, rtol=0, atol=2e-7)
    assert torch.equal(((from_official(official) + 1) * 127.5).round().long(), values)
    chosen = torch.tensor([0, 128, 255])
    found = to_official(chosen.double() / 127.5 - 1)
    torch.testing.assert_close(found, torch.tensor([-1.0, 0.0, 127 / 128], dtype=torch.float64), rtol=0, atol=1e-15)
    exact = from_official(torch.tensor([-1.0, 0.0, 127 / 128], dtype=torch.float64))
    torch.testing.assert_close(exact, chosen.double() / 127.5 - 1, rtol=0, atol=1e-15)
    assert torch.equal(from_official(torch.tensor([-1.0, 127 / 128])), torch.tensor([-1.0, 1.0]))
    assert torch.equal(from_official(torch.tensor([1.0, -1.5])), torch.tensor([1.0, -1.0])), "whiter than white"


# Objectives ------------------------------------------------------------------------------------------------------


REAL, FAKE = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([-0.4, 0.9, 1.1])


@pytest.mark.parametrize(
    ("objective", "real", "fake", "generator"),
    [
        ("wgan", -REAL.mean(), FAKE.mean(), -FAKE.mean()),
        ("vanilla", F.softplus(REAL).mean(), F.softplus(-FAKE).mean(), F.softplus(FAKE).mean()),
        ("lsgan", ((REAL - 1) ** 2).mean(), ((FAKE + 1) ** 2).mean(), (FAKE**2).mean()),
    ],
)
def test_losses(objective: str, real: Tensor, fake: Tensor, generator: Tensor) -> None:
    model = small(objective=objective)
    terms = model.discriminator_terms(Scores(fake=FAKE, real=REAL))
    assert terms.keys() == {"real", "fake"}
    torch.testing.assert_close(terms["real"], real)
    torch.testing.assert_close(terms["fake"], fake)
    terms = model.generator_terms(Scores(fake=FAKE, real=REAL))
    assert terms.keys() == {"fake"}
    torch.testing.assert_close(terms["fake"], generator)
    found = model.meter.flush()
    assert found["score/real"] == REAL.mean() and found["score/fake"] == FAKE.mean()


def test_labels_of_the_vanilla_form_are_swapped() -> None:
    """The official code teaches 1 for fakes and 0 for real clips, and the generator aims at 0."""
    model, one, zero = small(objective="vanilla"), torch.ones(3), torch.zeros(3)
    scores = Scores(fake=FAKE, real=REAL)
    terms = model.discriminator_terms(scores)
    torch.testing.assert_close(terms["fake"], F.binary_cross_entropy_with_logits(FAKE, one))
    torch.testing.assert_close(terms["real"], F.binary_cross_entropy_with_logits(REAL, zero))
    torch.testing.assert_close(model.generator_terms(scores)["fake"], F.binary_cross_entropy_with_logits(FAKE, zero))


# Schedule --------------------------------------------------------------------------------------------------------


class Remembering(TGAN):
    """Keeps what the schedule draws, and what constraining changes."""

    codes: list[Tensor]
    batches: list[Any]
    constrained: list[tuple[int, dict[str, Tensor], dict[str, Tensor]]]
    after: list[dict[str, Tensor]]

    def draw_slow(self, num_videos: int, stream: Any) -> Tensor:
        codes = super().draw_slow(num_videos, stream)
        self.codes.append(codes)
        return codes

    def iteration(self, batches: Any) -> None:
        self.batches.append(batches[0])
        super().iteration(batches)
        self.after.append(weights(self))

    def constrain_discriminator(self) -> None:
        before = weights(self)
        super().constrain_discriminator()
        self.constrained.append((len(self.batches), before, weights(self)))


def remembering(scale: float = 2.0, **arguments: Any) -> Remembering:
    torch.manual_seed(1)
    model = enliven(Remembering(**{**SMALL, **arguments}), scale)
    model.codes, model.batches, model.constrained, model.after = [], [], [], []
    return model


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("objective", ["wgan", "vanilla", "lsgan"])
def test_both_updates_come_from_one_judgement_generators_first(objective: str, classes: int) -> None:
    model = remembering(objective=objective, dim_category=classes, learning_rate=1e-2)
    old = copy.deepcopy(model).double()
    seen: list[Tensor] = []
    model.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    steps = watch(model)
    train(model, 1, precision="64-true")
    assert [step.name for step in steps] == ["generator", "discriminator"]
    assert len(model.codes) == 1 and len(seen) == 2
    real = model.batches[0]["video"] * 127.5 / 128 - 0.5 / 128
    label = torch.eye(3, dtype=torch.float64)[model.batches[0]["label"]] if classes else None
    fake = old.generator(model.codes[0], label)
    torch.testing.assert_close(seen[0], fake.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(seen[1], real, rtol=0, atol=1e-12)
    scores_fake, scores_real = old.discriminator(fake, label), old.discriminator(real, label)
    if objective == "wgan":
        generator, critic = -scores_fake.mean(), scores_fake.mean() - scores_real.mean()
    elif objective == "vanilla":
        generator = F.softplus(scores_fake).mean()
        critic = F.softplus(-scores_fake).mean() + F.softplus(scores_real).mean()
    else:
        generator = scores_fake.square().mean()
        critic = (scores_fake + 1).square().mean() + (scores_real - 1).square().mean()
    for step, loss in zip(steps, (generator, critic), strict=True):
        owned = {f"{step.name}.{key}": p for key, p in getattr(old, step.name).named_parameters()}
        expected = torch.autograd.grad(loss, list(owned.values()), retain_graph=True, allow_unused=True)
        for (key, _), gradient in zip(owned.items(), expected, strict=True):
            if gradient is None:
                assert key.startswith("discriminator.norms.0.") and key not in step.gradients
            else:
                torch.testing.assert_close(step.gradients[key], gradient, rtol=1e-8, atol=1e-12, msg=key)
    assert any(not torch.equal(steps[0].before[key], steps[1].before[key]) for key in steps[0].before), "it stepped"
    # one more judgement than one per iteration would show here
    assert model.discriminator.norms[1].num_batches_tracked == 2
    assert model.discriminator.norms[0].num_batches_tracked == 0, "the official code does not use it"
    assert model.generator.frame_seed.norms[0].num_batches_tracked == 1


def test_running_statistics_see_fakes_before_real_clips() -> None:
    model = remembering(learning_rate=0.0, constraint="none")
    norm = model.discriminator.norms[1]
    means, variances = [norm.running_mean.clone()], [norm.running_var.clone()]
    first, second = copy.deepcopy(model.discriminator.convolutions)[:2]
    generator = copy.deepcopy(model.generator)
    train(model, 1)
    videos = {"fake": generator(model.codes[0]), "real": to_official(model.batches[0]["video"])}
    found = {}
    for order in (("fake", "real"), ("real", "fake")):
        mean, variance = means[0], variances[0]
        for which in order:
            hidden = second(F.leaky_relu(first(videos[which]), 0.2)).detach()
            mean = 0.9 * mean + 0.1 * hidden.mean((0, 2, 3, 4))
            variance = 0.9 * variance + 0.1 * hidden.var((0, 2, 3, 4))
        found[order[0]] = mean, variance
    torch.testing.assert_close(norm.running_mean, found["fake"][0], rtol=0, atol=1e-5)
    torch.testing.assert_close(norm.running_var, found["fake"][1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found["fake"][1], found["real"][1], rtol=2e-3, atol=0)


def test_optimisers_have_their_settings() -> None:
    model = small(learning_rate=1e-3, generator_learning_rate=1e-4, alpha=0.9)
    optimizers = model.build_optimizers()
    assert list(optimizers) == ["generator", "discriminator"]
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers.values()] == [1e-4, 1e-3]
    for name, optimizer in optimizers.items():
        assert isinstance(optimizer, torch.optim.RMSprop) and len(optimizer.param_groups) == 1
        settings = optimizer.param_groups[0]
        assert (settings["alpha"], settings["eps"], settings["momentum"]) == (0.9, 1e-8, 0)
        assert (settings["weight_decay"], settings["centered"]) == (0, False)
        assert [id(p) for p in settings["params"]] == [id(p) for p in getattr(model, name).parameters()]
    plain = small().build_optimizers()
    assert all((o.param_groups[0]["lr"], o.param_groups[0]["alpha"]) == (5e-5, 0.99) for o in plain.values())
    names = [name for name, _ in model.generator.named_parameters()]
    assert names == sorted(names, key=lambda name: name.startswith("image.")), "G0 first"


def test_first_step_is_ten_times_the_rate() -> None:
    model = small()
    weight = model.discriminator.convolutions[0].weight
    before = weight.detach().clone()
    weight.grad = torch.randn_like(weight)
    model.build_optimizers()["discriminator"].step()
    torch.testing.assert_close(before - weight, 10 * 5e-5 * weight.grad.sign(), rtol=0, atol=1e-6)


def test_codes_are_uniform_in_training_and_sampling() -> None:
    model = small(dim_slow=40)
    for codes in (model.draw_slow(500, model.noise("latents")), model.sample_latents(500)["slow"]):
        assert codes.shape == (500, 40)
        assert -1 <= codes.min() < -0.99 and 0.99 < codes.max() <= 1
        assert abs(codes.mean()) < 0.02 and abs(codes.std() - 3**-0.5) < 0.01


# Constraints -----------------------------------------------------------------------------------------------------


def singular_values(weight: Tensor) -> Tensor:
    return torch.linalg.svdvals(weight.double().flatten(1))


def is_norm(key: str) -> bool:
    return ".norms." in key


@pytest.mark.parametrize("interval", [1, 2, 3])
def test_singular_values_are_clipped_every_so_many_iterations(interval: int) -> None:
    model = remembering(constraint_interval=interval, learning_rate=1e-3)
    with torch.no_grad():
        model.discriminator.norms[1].weight[0] = -1.0
        model.discriminator.norms[2].weight[:2] = torch.tensor([50.0, 1e-5])
        for layer in model.discriminator.convolutions:
            layer.weight[::2] *= 0.1  # so that there are small singular values, too
    steps = watch(model)
    train(model, 6)
    assert [iteration for iteration, _, _ in model.constrained] == list(range(interval, 7, interval))
    # an iteration that is not due ends with what its step has made of the weights
    for iteration in range(1, 7):
        weight = model.after[iteration - 1]["discriminator.convolutions.1.weight"]
        clipped = singular_values(weight).max() <= 1 + 1e-5
        assert clipped or iteration % interval
        if iteration == 1 and interval > 1:
            assert not clipped, "nothing to clip would show nothing"
    assert len(steps) == 12
    for _, before, after in model.constrained:
        for key in before:
            if not key.startswith("discriminator.") or not key.endswith("weight"):
                assert torch.equal(before[key], after[key]), key
            elif is_norm(key):
                deviation = after[key.replace("weight", "running_var")].sqrt()
                expected = torch.maximum(torch.minimum(before[key], deviation), 0.01 * deviation)
                torch.testing.assert_close(after[key], expected, rtol=1e-6, atol=0)
                assert (after[key] > 0).all() and (after[key] <= deviation).all()
            else:
                was, now = singular_values(before[key]), singular_values(after[key])
                assert now.max() <= 1 + 1e-5
                torch.testing.assert_close(now, was.clamp(max=1), rtol=0, atol=1e-5)
    before, after = model.constrained[0][1:]
    bounds = [singular_values(before[f"discriminator.convolutions.{n}.weight"]) for n in range(4)]
    assert all(values.max() > 1.2 for values in bounds) and all(values.min() < 0.8 for values in bounds)
    assert before["discriminator.norms.1.weight"][0] < 0
    smallest = 0.01 * after["discriminator.norms.1.running_var"][0].sqrt()
    torch.testing.assert_close(after["discriminator.norms.1.weight"][0], smallest)


def test_clipping_leaves_a_small_matrix_alone() -> None:
    model = remembering(scale=0.05, constraint_interval=1)
    train(model, 1)
    _, before, after = model.constrained[0]
    for number in range(4):
        key = f"discriminator.convolutions.{number}.weight"
        assert singular_values(before[key]).max() < 1 and torch.equal(before[key], after[key])


def test_last_layer_is_one_row() -> None:
    model = remembering(constraint_interval=1, resolution=32)
    with torch.no_grad():
        model.discriminator.output.weight.mul_(5)
    train(model, 1)
    _, before, after = model.constrained[0]
    was, now = (state["discriminator.output.weight"] for state in (before, after))
    assert was.norm() > 2
    torch.testing.assert_close(now, was / was.norm(), rtol=0, atol=1e-6)
    bias = "discriminator.output.bias"
    assert torch.equal(before[bias], after[bias])


def test_weights_are_clipped_after_every_iteration_biases_and_scales_too() -> None:
    model = remembering(constraint="weight_clipping", discriminator_shift=True, constraint_interval=None)
    train(model, 3)
    assert [iteration for iteration, _, _ in model.constrained] == [1, 2, 3]
    names = {f"discriminator.{name}" for name, _ in model.discriminator.named_parameters()}
    assert "discriminator.norms.0.weight" in names and "discriminator.norms.3.bias" in names
    for _, before, after in model.constrained:
        for key in before:
            expected = before[key].clamp(-0.01, 0.01) if key in names else before[key]
            assert torch.equal(after[key], expected), key
    before, after = model.constrained[0][1:]
    for kind in ("output.bias", "norms.0.weight", "norms.2.bias", "convolutions.1.bias", "convolutions.3.weight"):
        assert before[f"discriminator.{kind}"].abs().max() > 0.01, kind
    assert (after["discriminator.norms.0.weight"] == torch.tensor(0.01)).all(), "the unused one, too"


def test_clip_value_is_what_is_asked_for() -> None:
    model = remembering(constraint="weight_clipping", clip_value=0.2, constraint_interval=2)
    train(model, 2)
    assert [iteration for iteration, _, _ in model.constrained] == [2]
    assert max(p.abs().max() for p in model.discriminator.parameters()) == torch.tensor(0.2)


def test_without_constraint_nothing_is_constrained() -> None:
    model = remembering(constraint="none", constraint_interval=1, objective="vanilla", instance_noise=0.3)
    train(model, 2)
    assert not model.constrained
    assert any(singular_values(layer.weight).max() > 1.2 for layer in model.discriminator.convolutions)


@pytest.mark.parametrize(("constraint", "interval"), [("svc", 5), ("weight_clipping", 1)])
def test_intervals_of_the_paper(constraint: str, interval: int) -> None:
    assert small(constraint=constraint, constraint_interval=None).constraint_interval == interval
    assert small(constraint=constraint, constraint_interval=7).constraint_interval == 7


def test_unused_batch_norm_gets_no_gradient_and_is_limited() -> None:
    model = remembering(constraint_interval=1)
    with torch.no_grad():
        model.discriminator.norms[0].weight.fill_(5.0)
        model.discriminator.norms[0].running_var.fill_(4.0)
    steps = watch(model)
    train(model, 2)
    assert all("discriminator.norms.0.weight" not in step.gradients for step in steps)
    assert (model.discriminator.norms[0].weight == 2).all()
    assert (model.discriminator.norms[0].running_var == 4).all()


# Sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("steps", [1, 2, 3, 5])
def test_interpolation_keeps_the_frames_of_the_plain_video(steps: int, classes: int) -> None:
    model = small(dim_category=classes)
    plain = model.sample(2, seed=3)
    dense = model.sample(2, seed=3, interpolation=steps)
    assert plain.shape == (2, 3, 16, 16, 16) and dense.shape == (2, 3, 15 * steps + 1, 16, 16)
    torch.testing.assert_close(dense[:, :, ::steps], plain, rtol=0, atol=1e-4)
    assert not torch.allclose(plain[:, :, 0], plain[:, :, 1], atol=1e-2)
    torch.testing.assert_close(model.sample(2, seed=3, interpolation=steps, num_frames=9), dense[:, :, :9])


def test_between_two_frames_is_the_frame_of_their_mean_code() -> None:
    model = small()
    latents = model.sample_latents(2, seed=3)
    dense = model.sample(2, seed=3, interpolation=2)
    between = {"slow": latents["slow"], "fast": (latents["fast"][:, :, 1:] + latents["fast"][:, :, :-1]) / 2}
    torch.testing.assert_close(dense[:, :, 1::2], model.decode(between), rtol=0, atol=1e-4)


def test_decode_takes_paths_of_any_length() -> None:
    model = small()
    latents = model.sample_latents(2, seed=3)
    longer = {**latents, "fast": torch.cat([latents["fast"], latents["fast"].flip(2)], dim=2)}
    made, plain = model.decode(longer), model.decode(latents)
    assert made.shape == (2, 3, 32, 16, 16)
    torch.testing.assert_close(made[:, :, :16], plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(made[:, :, 16:], plain.flip(2), rtol=0, atol=1e-5)


@pytest.mark.parametrize("classes", [0, 3])
def test_sample_is_decode_of_its_latents(classes: int) -> None:
    model = small(dim_category=classes)
    latents = model.sample_latents(19, seed=3, first=2)
    assert latents["slow"].shape == (19, 5) and latents["fast"].shape == (19, 4, 16)
    assert ("category" in latents) == (classes > 0)
    whole = model.sample(19, seed=3, first=2)
    torch.testing.assert_close(model.decode(latents), whole, rtol=0, atol=1e-5)
    alone = model.decode({key: value[17:18] for key, value in latents.items()})  # beyond one pass of the network
    torch.testing.assert_close(alone, whole[17:18], rtol=0, atol=1e-5)
    codes = model.generator.codes(latents["slow"], latents.get("category"))
    torch.testing.assert_close(latents["fast"], codes, rtol=0, atol=1e-6)


def test_samples_are_in_our_range() -> None:
    model = small()
    latents = model.sample_latents(2, seed=3)
    official = model.generator.videos(latents["slow"], latents["fast"]).detach()
    expected = ((official * 128 + 128) / 127.5 - 1).clamp(-1, 1)
    torch.testing.assert_close(model.sample(2, seed=3), expected, rtol=0, atol=1e-5)


def test_label_asks_for_a_class_and_changes_no_other_number() -> None:
    model = small(dim_category=3)
    free, asked = model.sample_latents(4, seed=2), model.sample_latents(4, seed=2, label=1)
    assert torch.equal(free["slow"], asked["slow"])
    assert torch.equal(asked["category"], torch.eye(3)[[1, 1, 1, 1]])
    drawn = model.sample_latents(300)["category"].argmax(1)
    assert torch.bincount(drawn, minlength=3).min() > 60
    one, two = model.sample(2, seed=2, label=0), model.sample(2, seed=2, label=2)
    assert not torch.allclose(one, two, atol=1e-2)
    given = free["category"].argmax(1)
    for number in range(4):
        same = model.sample(1, seed=2, first=number, label=int(given[number]))
        torch.testing.assert_close(same, model.sample(4, seed=2)[number : number + 1], rtol=0, atol=1e-5)


def test_sampling_uses_and_keeps_running_statistics_and_mode() -> None:
    model = small().train()
    before = weights(model)
    sampled = model.sample(2)
    assert model.training and model.generator.training and model.generator.image.norms[0].training
    after = weights(model)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(sampled, model.eval().sample(2))
    assert not sampled.requires_grad and sampled.is_contiguous()


def test_task_follows_the_classes() -> None:
    plain, classes = small(), small(dim_category=2)
    assert (plain.task, plain.train_keys) == ("unconditional", ("video",))
    assert (classes.task, classes.train_keys) == ("class_conditional", ("video", "label"))
    assert plain.sample_keys == classes.sample_keys == () and plain.max_frames == 16


# What it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 32}, "model.num_frames 32: TGAN's networks are made for 16 frames"),
        ({"resolution": 40}, "model.resolution 40: must be a multiple of 16"),
        ({"resolution": 0}, "model.resolution 0: must be a multiple of 16"),
        ({"generator_width": 24}, "model.generator_width 24: must be a multiple of 16"),
        ({"frame_seed_channels": (8, 6, 4)}, "model.frame_seed_channels [8, 6, 4]: must be four numbers above 0"),
        ({"frame_seed_channels": (8, 6, 4, 0)}, "model.frame_seed_channels [8, 6, 4, 0]: must be four numbers above 0"),
        ({"clip_value": 0.0}, "model.clip_value 0: must be above 0, and finite"),
        ({"clip_value": float("nan")}, "model.clip_value nan: must be above 0, and finite"),
        ({"learning_rate": -1.0}, "model.learning_rate -1: cannot be negative"),
        ({"generator_learning_rate": float("nan")}, "model.generator_learning_rate nan: must be finite"),
        ({"instance_noise": float("inf")}, "model.instance_noise inf: must be finite"),
        ({"alpha": 1.0}, "model.alpha 1: must be at least 0 and below 1"),
        ({"uniform_scale": -0.5}, "model.uniform_scale -0.5: must be above 0, and finite"),
        ({"channels": 0}, "model.channels 0: must be at least 1"),
        ({"dim_slow": 0}, "model.dim_slow 0: must be at least 1"),
        ({"dim_fast": 0}, "model.dim_fast 0: must be at least 1"),
        ({"discriminator_width": 0}, "model.discriminator_width 0: must be at least 1"),
        ({"constraint_interval": 0}, "model.constraint_interval 0: must be at least 1"),
        ({"dim_category": -1}, "model.dim_category -1: cannot be negative"),
        ({"instance_noise": -0.25}, "model.instance_noise -0.25: cannot be negative"),
    ],
)
def test_impossible_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        TGAN(**{**SMALL, **arguments})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 1}, "model.channels: is 3, but the data has channels 1; make them equal"),
        ({"resolution": 32}, "model.resolution: is 16, but the data has resolution 32; make them equal"),
        ({"width": 24}, "model.resolution: is 16, but the data has width 24; make them equal"),
        ({"num_frames": 12}, "model.num_frames: is 16, but the data has num_frames 12; make them equal"),
        ({"class_names": ("a", "b")}, "model.dim_category: is 3, but the data has classes 2; make them equal"),
        (
            {"class_names": ()},
            "model.dim_category 3: needs labelled videos, but the data has no classes; set it to 0",
        ),
    ],
)
def test_data_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    model = small(dim_category=3)
    fitting = {"class_names": ("a", "b", "c")}
    model.check_data(spec(**fitting))
    small().check_data(spec(**fitting))
    with pytest.raises(UserError) as caught:
        model.check_data(spec(**{**fitting, **change}))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        (
            {},
            {"num_frames": 17},
            "num_frames 17: tgan with interpolation 1 makes videos of 1 to 16 frames as it is configured",
        ),
        (
            {},
            {"num_frames": 0},
            "num_frames 0: tgan with interpolation 1 makes videos of 1 to 16 frames as it is configured",
        ),
        (
            {},
            {"num_frames": 32, "interpolation": 2},
            "num_frames 32: tgan with interpolation 2 makes videos of 1 to 31 frames as it is configured",
        ),
        ({}, {"interpolation": 0}, "interpolation 0: must be at least 1"),
        ({}, {"label": 0}, "label 0: must be left out: the model has no classes"),
        ({"dim_category": 3}, {"label": 3}, "label 3: must be between 0 and 2"),
        ({"dim_category": 3}, {"label": -1}, "label -1: must be between 0 and 2"),
    ],
)
def test_impossible_samples(arguments: dict[str, Any], keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        small(**arguments).sample(1, **keywords)
    assert str(caught.value) == message


def test_classes_do_not_depend_on_the_precision() -> None:
    model = small(dim_category=3)
    expected = model.sample_latents(600)["category"]
    assert torch.equal(model.bfloat16().sample_latents(600)["category"].float(), expected)
    assert model.sample(2).dtype == torch.float32


def test_long_interpolations_pass_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    whole = model.sample(2, interpolation=4)
    rows: list[int] = []
    monkeypatch.setattr(tgan, "FRAMES_PER_PASS", 7)
    model.generator.image.register_forward_hook(lambda _, given, made: rows.append(len(made)))
    torch.testing.assert_close(model.sample(2, interpolation=4), whole, rtol=0, atol=1e-5)
    assert max(rows) == 7 and sum(rows) == 2 * 61


def test_clipping_is_exact_under_mixed_precision() -> None:
    model = small(constraint_interval=1, learning_rate=1e-2)
    train(model, 2, precision="bf16-mixed")
    layers = [*model.discriminator.convolutions, model.discriminator.output]
    largest = [float(torch.linalg.svdvals(layer.weight.detach().flatten(1).double())[0]) for layer in layers]
    assert 1 - 1e-5 < max(largest) <= 1 + 1e-5


def test_copies_are_of_the_same_objective() -> None:
    model = small()
    assert copy.deepcopy(model).parameters_without_gradient == model.parameters_without_gradient
    assert "discriminator.output.bias" in model.parameters_without_gradient
    assert "discriminator.output.bias" not in small(objective="lsgan").parameters_without_gradient


def test_one_clip_is_too_few_for_batch_norm() -> None:
    model = TGAN(**SMALL)
    with pytest.raises(UserError) as caught:
        model.judge([model.example_batch(1)])
    assert str(caught.value) == "data.batch_size 1: TGAN's batch norms need at least 2 clips"


def test_no_videos_cannot_be_made() -> None:
    with pytest.raises(UserError) as caught:
        small().sample(0)
    assert str(caught.value) == "num_videos 0: must be at least 1"
