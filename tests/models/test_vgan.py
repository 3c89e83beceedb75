"""VGAN is the paper's model: sizes, how parts make a video, both forms of the schedule, sampling, and its refusals."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import Optimizer

from tests.contract.running import train, weights
from tests.models.watching import enliven, parameters, watch
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.layers.batch_norm import BatchNorm2d, BatchNorm3d
from vidgen.layers.updated_weights import saved_tensors_watched
from vidgen.models.vgan import VGAN, Discriminator, network_plan, realness
from vidgen.training.dry_run import _SavedBytes

SMALL = VGAN.small_variants()["default"]
SIZES = [(16, 4), (16, 8), (20, 12), (24, 4), (28, 4), (32, 8), (48, 8), (64, 32), (96, 16), (112, 48), (128, 32)]


def small(**arguments: Any) -> VGAN:
    """A tiny model whose weights matter, in evaluation."""
    return enliven(VGAN(**{**SMALL, **arguments})).eval()


def spec(**change: Any) -> DataSpec:
    fitting: dict[str, Any] = {"channels": 3, "resolution": 16, "num_frames": 8, "fps": None, "num_videos": 9}
    return DataSpec(**{**fitting, "min_length": 10, "max_length": 20, **change})


# Sizes -----------------------------------------------------------------------------------------------------------


def test_parameters_of_the_full_model() -> None:
    with torch.device("meta"):
        model = VGAN()
    generator = model.generator
    assert generator.encoder is None and generator.background is not None and generator.foreground.mask is not None
    assert parameters(generator) == 16_245_383
    assert parameters(generator.background) == 3_577_667
    assert parameters(generator.foreground) == 12_667_716
    assert parameters(generator.foreground.picture) == 12_291
    assert parameters(generator.foreground.mask) == 4_097
    assert parameters(model.discriminator) == 11_057_858


def test_parameters_of_the_model_that_starts_from_a_frame() -> None:
    with torch.device("meta"):
        model = VGAN(width=128, condition="first_frame")
    generator = model.generator
    assert generator.encoder is not None and generator.background is not None and generator.foreground.mask is not None
    assert parameters(generator) == 68_216_455
    assert parameters(generator.encoder) == 11_021_696
    assert parameters(generator.background) == 11_018_883
    assert parameters(generator.foreground.picture) == 24_579
    assert parameters(generator.foreground.mask) == 8_193
    assert parameters(model.discriminator) == 44_135_810


def test_one_stream_is_the_foreground_without_mask() -> None:
    with torch.device("meta"):
        model = VGAN(streams=1)
    assert model.generator.background is None and model.generator.foreground.mask is None
    assert parameters(model.generator) == 12_667_716 - 4_097
    assert parameters(model.discriminator) == 11_057_858


def test_discriminator_has_its_own_width() -> None:
    with torch.device("meta"):
        wide, own = VGAN(width=128), VGAN(width=128, discriminator_width=64)
    assert parameters(own.discriminator) == 11_057_858 and parameters(wide.discriminator) == 44_135_810
    assert parameters(own.generator) == parameters(wide.generator)


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("condition", ["none", "first_frame"])
@pytest.mark.parametrize(("resolution", "frames"), SIZES)
def test_every_size_fits_together(resolution: int, frames: int, condition: str, streams: int) -> None:
    with torch.device("meta"):
        model = VGAN(
            channels=2,
            resolution=resolution,
            num_frames=frames,
            width=3,
            discriminator_width=2,
            streams=streams,
            condition=condition,
        ).eval()
        given = torch.empty(5, 2, resolution, resolution) if condition == "first_frame" else torch.empty(5, 100)
        parts = model.generator(given)
        logits = model.discriminator(parts.video)
    assert parts.video.shape == parts.foreground.shape == (5, 2, frames, resolution, resolution)
    assert (parts.mask is None) == (parts.background is None) == (streams == 1)
    if streams == 2:
        assert parts.mask.shape == (5, 1, frames, resolution, resolution)
        assert parts.background.shape == (5, 2, resolution, resolution)
    assert logits.shape == (5, 2)


def test_plan_of_the_paper_and_of_other_sizes() -> None:
    assert network_plan(64, 32) == (4, 2, 4)
    assert network_plan(64, 16) == (4, 1, 4)
    assert network_plan(96, 48) == (6, 3, 4)
    assert network_plan(16, 8) == (4, 2, 2)


def test_layers_of_the_paper() -> None:
    with torch.device("meta"):
        noise, frame = VGAN(), VGAN(width=128, condition="first_frame")
    for model, stem, widths in (
        (noise, (2, 4, 4), [512, 256, 128, 64]),
        (frame, (2, 1, 1), [1024, 512, 256, 128]),
    ):
        foreground, background = model.generator.foreground, model.generator.background
        assert foreground.stem.kernel_size == stem and foreground.stem.out_channels == widths[0]
        assert [layer.out_channels for layer in foreground.convolutions] == widths[1:]
        assert [layer.in_channels for layer in foreground.convolutions] == widths[:-1]
        assert [layer.out_channels for layer in background.convolutions] == (widths if model is noise else widths[1:])
        assert [layer.out_channels for layer in model.discriminator.convolutions] == widths[::-1]
        assert model.discriminator.output.kernel_size == (2, 4, 4)
        doubling = [*foreground.convolutions, foreground.picture, foreground.mask, *model.discriminator.convolutions]
        doubling += [*background.convolutions[model is noise :], background.picture]
        assert all(set(c.kernel_size) == {4} and set(c.stride) == {2} and set(c.padding) == {1} for c in doubling)
    assert noise.generator.background.convolutions[0].kernel_size == (4, 4)
    assert [layer.out_channels for layer in frame.generator.encoder.convolutions] == [128, 256, 512, 1024]
    assert all(c.bias is not None for m in (noise, frame) for c in m.modules() if isinstance(c, _ConvNd))


def test_epsilon_of_each_batch_norm() -> None:
    model = VGAN(**{**SMALL, "resolution": 64, "num_frames": 32, "condition": "first_frame", "width": 1})
    generator = model.generator
    for network, norms, epsilon in (
        (generator.foreground, 4, 1e-5),
        (generator.background, 3, 1e-5),
        (generator.encoder, 3, 1e-3),
        (model.discriminator, 3, 1e-3),
    ):
        found = [layer for layer in network.modules() if isinstance(layer, BatchNorm2d | BatchNorm3d)]
        assert len(found) == norms
        assert {(layer.eps, layer.momentum) for layer in found} == {(epsilon, 0.1)}
        assert all(layer.bias is not None for layer in found)
    assert isinstance(generator.encoder.norms[0], nn.Identity) and isinstance(model.discriminator.norms[0], nn.Identity)


@pytest.mark.parametrize("condition", ["none", "first_frame"])
def test_weights_start_as_the_official_code_draws_them(condition: str) -> None:
    model = VGAN(width=16, condition=condition)
    convolutions = [layer for layer in model.modules() if isinstance(layer, _ConvNd)]
    norms = [layer for layer in model.modules() if isinstance(layer, BatchNorm2d | BatchNorm3d)]
    for layer in convolutions:
        torch.testing.assert_close(layer.weight.std().item(), 0.01, rtol=0.15, atol=0)
        assert abs(layer.weight.mean()) < 0.05 * 0.01 + 0.05 / layer.weight.numel() ** 0.5
        assert not layer.bias.any()
    together = torch.cat([layer.weight.flatten() for layer in convolutions])
    torch.testing.assert_close(together.std().item(), 0.01, rtol=0.01, atol=0)
    scales = torch.cat([layer.weight for layer in norms])
    torch.testing.assert_close(scales.mean().item(), 1.0, rtol=0, atol=0.004)
    torch.testing.assert_close(scales.std().item(), 0.02, rtol=0.15, atol=0)
    assert not any(layer.bias.any() for layer in norms)


# Parts -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_mask_shows_the_foreground_where_it_is_1() -> None:
    model = small()
    parts = model.decompose(torch.randn(3, SMALL["dim_latent"]))
    mask, background = parts.mask, parts.background.unsqueeze(2)
    assert 0 <= mask.min() < 0.3 and 0.7 < mask.max() <= 1
    torch.testing.assert_close(parts.video, mask * parts.foreground + (1 - mask) * background, rtol=0, atol=1e-6)
    assert not torch.allclose(parts.foreground, background.expand_as(parts.foreground), atol=0.1)


@pytest.mark.parametrize("condition", ["none", "first_frame"])
@torch.no_grad()
def test_without_mask_every_frame_is_the_background_and_with_a_full_one_the_foreground(condition: str) -> None:
    model = small(condition=condition)
    given = torch.randn(2, 3, 16, 16) if condition == "first_frame" else torch.randn(2, SMALL["dim_latent"])
    head = model.generator.foreground.mask
    head.weight.zero_()
    head.bias.fill_(-1e4)
    parts = model.decompose(given)
    assert not parts.mask.any() and parts.background.std() > 0.1
    assert all(torch.equal(parts.video[:, :, frame], parts.background) for frame in range(8))
    head.bias.fill_(1e4)
    parts = model.decompose(given)
    assert torch.equal(parts.video, parts.foreground)
    assert parts.video.diff(dim=2).abs().mean() > 0.01


@torch.no_grad()
def test_background_stands_still() -> None:
    background = small().sample(3, part="background")
    assert not background.diff(dim=2).any() and background.std() > 0.1
    video = small().sample(3)
    assert video.diff(dim=2).abs().mean() > 0.01


@pytest.mark.parametrize("condition", ["none", "first_frame"])
@torch.no_grad()
def test_one_video_alone_is_the_first_of_two(condition: str) -> None:
    model = small(condition=condition)
    given = torch.randn(2, 3, 16, 16) if condition == "first_frame" else torch.randn(2, SMALL["dim_latent"])
    two, one = model.decompose(given), model.decompose(given[:1])
    for alone, together in zip(one, two, strict=True):
        torch.testing.assert_close(alone, together[:1], rtol=0, atol=1e-6)
    assert one.video.shape == (1, 3, 8, 16, 16) and one.mask.shape == (1, 1, 8, 16, 16)
    model.train()
    model.discriminator(model.generator(given[:1]).video)  # in training, too, one video is a batch


@torch.no_grad()
def test_first_logit_says_real() -> None:
    logits = torch.tensor([[3.0, 1.0], [0.0, 4.0]])
    torch.testing.assert_close(realness(logits).sigmoid(), logits.softmax(1)[:, 0])


# Losses ----------------------------------------------------------------------------------------------------------


def logits_of(network: Discriminator, video: Tensor) -> Tensor:
    """What a copy says in training, so that the network's statistics stay."""
    return copy.deepcopy(network).train()(video)


@pytest.mark.parametrize("step", ["stored", "fresh"])
def test_discriminator_loss_is_the_sum_of_two_cross_entropies_over_two_classes(step: str) -> None:
    model = small(generator_step=step).train()
    batch = model.example_batch(3)
    judged = (model.judge if step == "stored" else model.make)([batch])
    terms = model.discriminator_terms(judged)
    zeros = torch.zeros(3, dtype=torch.long)
    assert list(terms) == ["real", "fake"]
    real, fake = logits_of(model.discriminator, batch["video"]), logits_of(model.discriminator, judged.parts.video)
    torch.testing.assert_close(terms["real"], F.cross_entropy(real, zeros))
    torch.testing.assert_close(terms["fake"], F.cross_entropy(fake, zeros + 1))
    torch.testing.assert_close(model.generator_terms(judged)["fake"], F.cross_entropy(fake, zeros))


def test_recorded_loss_is_the_sum_of_its_terms() -> None:
    model = small().train()
    train(model, 1)
    found = model.meter.flush()
    for name, terms in (("discriminator", ("real", "fake")), ("generator", ("fake", "mask"))):
        total = sum(found[f"loss/{name}/{term}"] for term in terms)
        torch.testing.assert_close(found[f"loss/{name}"], total)


@pytest.mark.parametrize("weight", [0.1, 2.5])
def test_mask_is_pushed_down_by_its_mean(weight: float) -> None:
    model = small(mask_weight=weight, first_frame_weight=7.0)
    judged = model.judge([model.example_batch(2)])
    terms = model.generator_terms(judged)
    assert list(terms) == ["fake", "mask"]
    torch.testing.assert_close(terms["mask"], weight * judged.parts.mask.mean())
    (gradient,) = torch.autograd.grad(terms["mask"], judged.parts.mask)
    assert torch.equal(gradient, torch.full_like(gradient, weight / (2 * 8 * 16 * 16)))


@pytest.mark.parametrize("weight", [10.0, 0.5])
def test_model_from_a_frame_is_held_to_that_frame(weight: float) -> None:
    model = small(condition="first_frame", first_frame_weight=weight, mask_weight=7.0)
    batch = model.example_batch(2)
    judged = model.judge([batch])
    terms = model.generator_terms(judged)
    assert list(terms) == ["fake", "first_frame"]
    expected = weight * (judged.parts.video[:, :, 0] - batch["video"][:, :, 0]).abs().sum() / (2 * 3 * 16 * 16)
    torch.testing.assert_close(terms["first_frame"], expected)


def test_generator_sees_nothing_but_the_first_frame() -> None:
    model = small(condition="first_frame")
    batch = model.example_batch(2)
    other = {"video": batch["video"].clone()}
    other["video"][:, :, 1:] *= -1
    assert torch.equal(model.make([batch]).parts.video, model.make([other]).parts.video)
    other["video"][:, :, 0] *= -1
    assert not torch.allclose(model.make([batch]).parts.video, model.make([other]).parts.video, atol=0.01)


def test_one_stream_has_neither_mask_nor_push() -> None:
    model = small(streams=1)
    judged = model.judge([model.example_batch(2)])
    assert judged.parts.mask is None and judged.parts.background is None
    assert torch.equal(judged.parts.video, judged.parts.foreground)
    assert list(model.generator_terms(judged)) == ["fake"]


# Schedule --------------------------------------------------------------------------------------------------------


def gradient_of_video(old: Discriminator, new: Discriminator, video: Tensor) -> Tensor:
    """Gradient of "be called real" by hand: through what happened in the old network, by the weights of the new one."""
    axes = (0, 2, 3, 4)
    happened = []
    x = video
    for convolution, norm in zip(old.convolutions, old.norms, strict=True):
        x = convolution(x)
        hat = deviation = None
        if not isinstance(norm, nn.Identity):
            deviation = (x.var(axes, correction=0, keepdim=True) + 1e-3).sqrt()
            hat = (x - x.mean(axes, keepdim=True)) / deviation
            x = hat * norm.weight.view(1, -1, 1, 1, 1) + norm.bias.view(1, -1, 1, 1, 1)
        happened.append((hat, deviation, x > 0))
        x = torch.where(x > 0, x, 0.2 * x)
    logits = old.output(x).flatten(1)
    slope = (logits.softmax(1) - torch.tensor([1.0, 0.0], dtype=video.dtype)) / len(video)
    slope = F.conv_transpose3d(slope[:, :, None, None, None], new.output.weight)
    for (hat, deviation, positive), convolution, norm in zip(
        happened[::-1], list(new.convolutions)[::-1], list(new.norms)[::-1], strict=True
    ):
        slope = torch.where(positive, slope, 0.2 * slope)
        if hat is not None:
            slope = slope * norm.weight.view(1, -1, 1, 1, 1)
            slope = slope - slope.mean(axes, keepdim=True) - hat * (slope * hat).mean(axes, keepdim=True)
            slope = slope / deviation
        slope = F.conv_transpose3d(slope, convolution.weight, stride=2, padding=1)
    return slope


class Remembering(VGAN):
    """Keeps what the schedule draws and shows."""

    codes: list[Tensor]
    seen: list[Tensor]
    batches: list[Tensor]
    fused: bool

    def build_optimizers(self) -> dict[str, Optimizer]:
        optimizers = super().build_optimizers()
        for optimizer in optimizers.values():
            optimizer.param_groups[0]["fused"] = self.fused
        return optimizers

    def draw_latents(self, num_videos: int, stream: Any) -> Tensor:
        codes = super().draw_latents(num_videos, stream)
        self.codes.append(codes)
        return codes

    def iteration(self, batches: Any) -> None:
        self.batches.append(batches[0]["video"])
        super().iteration(batches)


def remembering(fused: bool = True, **arguments: Any) -> Remembering:
    torch.manual_seed(1)
    model = enliven(Remembering(**{**SMALL, **arguments}))
    model.codes, model.batches, seen = [], [], []
    model.seen, model.fused = seen, fused
    model.discriminator.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().clone()))
    return model


@pytest.mark.parametrize("resolution", [16, 32])
@pytest.mark.parametrize(("condition", "fused"), [("none", True), ("none", False), ("first_frame", False)])
def test_generator_goes_through_old_activations_and_new_weights(condition: str, resolution: int, fused: bool) -> None:
    """Whether autograd notices the step or, as with the fused one of some versions of PyTorch, does not."""
    sizes = {"resolution": resolution, "condition": condition, "learning_rate": 1e-2, "width": 3}
    model = remembering(fused, **sizes)
    old = copy.deepcopy(model).double()
    steps = watch(model)
    train(model, 1, precision="64-true")
    assert [step.name for step in steps] == ["discriminator", "generator"]
    new = copy.deepcopy(old)
    new.load_state_dict(steps[1].before)
    real = model.batches[0]
    parts = old.generator(real[:, :, 0] if condition == "first_frame" else model.codes[0])
    # the discriminator's own step
    ones = torch.ones(len(real), dtype=torch.long)
    loss = F.cross_entropy(old.discriminator(real), 0 * ones)
    loss = loss + F.cross_entropy(old.discriminator(parts.video.detach()), ones)
    loss.backward()
    for name, parameter in old.discriminator.named_parameters():
        found = steps[0].gradients[f"discriminator.{name}"]
        torch.testing.assert_close(found, parameter.grad, rtol=1e-9, atol=1e-13, msg=name)
    # the generator's
    candidates = {
        "stored": gradient_of_video(old.discriminator, new.discriminator, parts.video.detach()),
        "old": gradient_of_video(old.discriminator, old.discriminator, parts.video.detach()),
        "fresh": gradient_of_video(new.discriminator, new.discriminator, parts.video.detach()),
    }
    extra = 0.1 * parts.mask.mean()
    if condition == "first_frame":
        extra = 10 * (parts.video[:, :, 0] - real[:, :, 0]).abs().mean()
    owned = dict(old.generator.named_parameters())
    gradients = {}
    for form, slope in candidates.items():
        total = (parts.video * slope).sum() + extra
        found = torch.autograd.grad(total, list(owned.values()), retain_graph=True)
        gradients[form] = torch.cat([gradient.flatten() for gradient in found])
    actual = torch.cat([steps[1].gradients[f"generator.{name}"].flatten() for name in owned])
    torch.testing.assert_close(actual, gradients["stored"], rtol=1e-8, atol=1e-12)
    for form in ("old", "fresh"):
        assert (gradients[form] - actual).norm() > 1e-3 * actual.norm(), form


def test_fresh_step_asks_the_new_discriminator() -> None:
    model = remembering(generator_step="fresh", learning_rate=1e-2)
    old = copy.deepcopy(model).double()
    steps = watch(model)
    train(model, 1, precision="64-true")
    new = copy.deepcopy(old)
    new.load_state_dict(steps[1].before)
    parts = old.generator(model.codes[0])
    slope = gradient_of_video(new.discriminator, new.discriminator, parts.video.detach())
    ((parts.video * slope).sum() + 0.1 * parts.mask.mean()).backward()
    for name, parameter in old.generator.named_parameters():
        found = steps[1].gradients[f"generator.{name}"]
        torch.testing.assert_close(found, parameter.grad, rtol=1e-8, atol=1e-12, msg=name)


@pytest.mark.parametrize("condition", ["none", "first_frame"])
def test_both_steps_agree_where_the_discriminator_stands_still(condition: str) -> None:
    found = {}
    for rate in (0.0, 1e-2):
        for form in ("stored", "fresh"):
            model = remembering(
                generator_step=form, condition=condition, learning_rate=rate, generator_learning_rate=1e-3
            )
            steps = watch(model)
            train(model, 1, precision="64-true")
            found[rate, form] = torch.cat([gradient.flatten() for gradient in steps[1].gradients.values()])
    torch.testing.assert_close(found[0.0, "stored"], found[0.0, "fresh"], rtol=1e-10, atol=1e-14)
    difference = found[1e-2, "stored"] - found[1e-2, "fresh"]
    assert difference.norm() > 1e-3 * found[1e-2, "fresh"].norm()


@pytest.mark.parametrize(("step", "forwards"), [("stored", 2), ("fresh", 3)])
@pytest.mark.parametrize("condition", ["none", "first_frame"])
def test_forward_passes_of_one_iteration(condition: str, step: str, forwards: int) -> None:
    model = remembering(generator_step=step, condition=condition)
    train(model, 2)
    assert model.discriminator.norms[1].num_batches_tracked == 2 * forwards
    assert model.generator.foreground.stem_norm.num_batches_tracked == 2
    assert len(model.codes) == (2 if condition == "none" else 0)
    assert len(model.seen) == 2 * forwards
    for iteration in range(2):
        real, *fakes = model.seen[forwards * iteration : forwards * (iteration + 1)]
        assert torch.equal(real, model.batches[iteration]), "real videos come first"
        assert not torch.equal(fakes[0], real)
        assert all(torch.equal(fake, fakes[0]) for fake in fakes), "both updates see the same fakes"
    assert condition == "first_frame" or not torch.equal(model.codes[0], model.codes[1])


def test_real_and_fake_videos_have_batch_statistics_of_their_own() -> None:
    model = remembering(learning_rate=0.0)
    norm = model.discriminator.norms[1]
    mean = norm.running_mean.clone()
    convolutions = copy.deepcopy(model.discriminator.convolutions)
    train(model, 1)
    for video in model.seen:
        hidden = convolutions[1](F.leaky_relu(convolutions[0](video), 0.2))
        mean = 0.9 * mean + 0.1 * hidden.detach().mean((0, 2, 3, 4))
    torch.testing.assert_close(norm.running_mean, mean, rtol=0, atol=1e-6)


def test_optimisers_own_one_network_each_with_their_rates() -> None:
    model = small(learning_rate=1e-3, generator_learning_rate=0.0, beta1=0.4, beta2=0.9)
    optimizers = model.build_optimizers()
    assert list(optimizers) == ["discriminator", "generator"]
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers.values()] == [1e-3, 0.0]
    for name, optimizer in optimizers.items():
        assert isinstance(optimizer, torch.optim.Adam)
        settings = optimizer.param_groups[0]
        assert (settings["betas"], settings["eps"], settings["weight_decay"]) == ((0.4, 0.9), 1e-8, 0)
        assert {id(p) for p in settings["params"]} == {id(p) for p in getattr(model, name).parameters()}
    for optimizer in small().build_optimizers().values():
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]) == (2e-4, (0.5, 0.999))


def test_codes_are_normal_in_training_and_sampling() -> None:
    model = small(dim_latent=40)
    for codes in (model.draw_latents(500, model.noise("latents")), model.sample_latents(500)["latents"]):
        assert codes.shape == (500, 40)
        assert abs(codes.mean()) < 0.03 and abs(codes.std() - 1) < 0.03 and codes.max() > 3


# Sampling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("condition", ["none", "first_frame"])
def test_parts_are_asked_for_by_name(condition: str) -> None:
    model = small(condition=condition, channels=2)
    given = {"batch": model.example_batch(3)} if condition == "first_frame" else {}
    made = {
        part: model.sample(3, seed=2, part=part, num_frames=5, **given)
        for part in ("video", "foreground", "mask", "masked_foreground", "background")
    }
    for part, pictures in made.items():
        assert pictures.shape == (3, 2, 5, 16, 16) and pictures.dtype == torch.float32, part
        assert pictures.min() >= -1 and pictures.max() <= 1, part
    mask = (made["mask"] + 1) / 2
    assert torch.equal(mask[:, 0], mask[:, 1]) and mask.std() > 0.05
    expected = mask * made["foreground"] + (1 - mask) * made["background"]
    torch.testing.assert_close(made["video"], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(made["masked_foreground"], mask * made["foreground"] + mask - 1, rtol=0, atol=1e-5)
    assert torch.equal(made["video"], model.sample(3, seed=2, num_frames=5, **given))


def test_sample_is_decode_of_its_latents() -> None:
    model = small()
    latents = model.sample_latents(19, seed=3, first=2)
    whole = model.sample(19, seed=3, first=2)
    assert torch.equal(model.decode(latents), whole)
    alone = model.decompose(latents["latents"][17:18])  # beyond what passes through the network at once
    torch.testing.assert_close(alone.video, whole[17:18], rtol=0, atol=1e-6)
    assert torch.equal(model.decode(latents, num_frames=3), whole[:, :, :3])


def test_sampling_uses_and_keeps_running_statistics_and_mode() -> None:
    model = small().train()
    before = weights(model)
    sampled = model.sample(2)
    assert model.training and model.generator.training and model.generator.background.norms[0].training
    after = weights(model)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(sampled, model.eval().sample(2))
    assert not sampled.requires_grad and sampled.is_contiguous()


def test_future_of_a_frame_is_one() -> None:
    model = small(condition="first_frame")
    batch = model.example_batch(2)
    first = model.sample(2, batch=batch, seed=1)
    assert torch.equal(first, model.sample(2, batch=batch, seed=5, first=7))
    changed = {"video": batch["video"].clone()}
    changed["video"][:, :, 1:] = 0
    assert torch.equal(first, model.sample(2, batch=changed))
    assert not torch.allclose(first[0], first[1], atol=0.01)


def test_task_follows_the_configuration() -> None:
    noise, frame = small(), small(condition="first_frame")
    assert (noise.task, noise.sample_keys, noise.stochastic, noise.max_frames) == ("unconditional", (), True, 8)
    assert (frame.task, frame.sample_keys, frame.stochastic, frame.max_frames) == ("prediction", ("video",), False, 8)
    assert noise.train_keys == frame.train_keys == ("video",)


# What it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"resolution": 50},
            "model.resolution 50: VGAN needs 4, 5, 6 or 7 times 4, 8, 16, … (16, 32, 48, 64, 96, 128, …)",
        ),
        (
            {"resolution": 8},
            "model.resolution 8: VGAN needs 4, 5, 6 or 7 times 4, 8, 16, … (16, 32, 48, 64, 96, 128, …)",
        ),
        (
            {"num_frames": 10},
            "model.num_frames 10: must be a multiple of 4 at resolution 16, where VGAN doubles the length as often as "
            "height and width",
        ),
        (
            {"num_frames": 16, "resolution": 128},
            "model.num_frames 16: must be a multiple of 32 at resolution 128, where VGAN doubles the length as often "
            "as height and width",
        ),
        (
            {"num_frames": 0},
            "model.num_frames 0: must be a multiple of 4 at resolution 16, where VGAN doubles the length as often as "
            "height and width",
        ),
        ({"channels": 0}, "model.channels 0: must be at least 1"),
        ({"dim_latent": 0}, "model.dim_latent 0: must be at least 1"),
        ({"width": 0}, "model.width 0: must be at least 1"),
        ({"discriminator_width": 0}, "model.discriminator_width 0: must be at least 1"),
        ({"mask_weight": -0.1}, "model.mask_weight -0.1: cannot be negative"),
        ({"mask_weight": float("inf")}, "model.mask_weight inf: must be finite"),
        ({"learning_rate": -1.0}, "model.learning_rate -1: cannot be negative"),
        ({"beta1": 1.5}, "model.beta1 1.5: must be at least 0 and below 1"),
        ({"beta2": 1.0}, "model.beta2 1: must be at least 0 and below 1"),
        ({"first_frame_weight": -1.0}, "model.first_frame_weight -1: cannot be negative"),
    ],
)
def test_impossible_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        VGAN(**{**SMALL, **arguments})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 1}, "model.channels: is 3, but the data has channels 1; make them equal"),
        ({"resolution": 32}, "model.resolution: is 16, but the data has resolution 32; make them equal"),
        ({"width": 24}, "model.resolution: is 16, but the data has width 24; make them equal"),
        ({"num_frames": 12}, "model.num_frames: is 8, but the data has num_frames 12; make them equal"),
    ],
)
def test_data_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    model = small()
    model.check_data(spec())
    with pytest.raises(UserError) as caught:
        model.check_data(spec(**change))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ({}, {"num_frames": 9}, "num_frames 9: vgan makes videos of 1 to 8 frames as it is configured"),
        ({}, {"num_frames": 0}, "num_frames 0: vgan makes videos of 1 to 8 frames as it is configured"),
        (
            {"streams": 1},
            {"part": "mask"},
            "part mask: a model of one stream has no parts but the video; leave it out",
        ),
        (
            {"streams": 1},
            {"part": "foreground"},
            "part foreground: a model of one stream has no parts but the video; leave it out",
        ),
        ({"condition": "first_frame"}, {}, "vgan: starts from a first frame; give a batch with 'video'"),
        (
            {"condition": "first_frame"},
            {"batch": {"images": torch.zeros(2, 3, 16, 16)}},
            "vgan: starts from a first frame; give a batch with 'video'",
        ),
        (
            {"condition": "first_frame"},
            {"batch": {"video": torch.zeros(3, 3, 8, 16, 16)}},
            "vgan: 2 videos of 3 first frames; make the two equal",
        ),
        (
            {"condition": "first_frame"},
            {"batch": {"video": torch.zeros(2, 3, 8, 32, 32)}},
            "vgan: starts from frames of shape (3, 16, 16), not (3, 32, 32)",
        ),
        (
            {"condition": "first_frame"},
            {"batch": {"video": torch.zeros(2, 3, 8, 16, 16, dtype=torch.uint8)}},
            "vgan: starts from the first frames of videos (N, C, T, H, W), floating in [-1, 1]",
        ),
        (
            {},
            {"part": "bg"},
            "part bg: must be one of video, foreground, mask, masked_foreground, background",
        ),
    ],
)
def test_impossible_samples(arguments: dict[str, Any], keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        small(**arguments).sample(2, **keywords)
    assert str(caught.value) == message


def test_one_stream_still_samples_its_video() -> None:
    assert small(streams=1).sample(2, part="video").shape == (2, 3, 8, 16, 16)


def test_model_from_a_frame_has_no_latents() -> None:
    with pytest.raises(UserError) as caught:
        small(condition="first_frame").sample_latents(1)
    assert str(caught.value) == "vgan: starts from a first frame and has no latents; give a batch to sample"


def test_stream_takes_the_number_of_videos_from_the_batch() -> None:
    model = small(condition="first_frame")
    batch = model.example_batch(3)
    first, state = model.stream(batch, None, num_frames=3)
    second, _ = model.stream(batch, state, num_frames=5)
    assert torch.equal(torch.cat([first, second], dim=2), model.sample(3, batch=batch))


@pytest.mark.parametrize("condition", ["none", "first_frame"])
def test_samples_in_half_precision(condition: str) -> None:
    model = small(condition=condition).bfloat16()
    batch = {key: value.float() for key, value in model.example_batch(2).items()}
    assert model.sample(2, batch=batch).dtype == torch.float32


@pytest.mark.parametrize("step", ["stored", "fresh"])
def test_an_iteration_leaves_no_graph_behind(step: str) -> None:
    model = VGAN(**{**SMALL, "generator_step": step})
    alive: list[int] = []

    class Count(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            gc.collect()
            alive.append(sum(isinstance(found, Tensor) for found in gc.get_objects()))

    grown: list[int] = []

    class Saved(pl.Callback):
        """Memory that autograd holds, which Python does not see, by what hooks have packed and nobody dropped."""

        def on_train_batch_start(self, *_: Any) -> None:
            self.context = saved_tensors_watched(kept.keep, kept.give)
            self.context.__enter__()

        def on_train_batch_end(self, *_: Any) -> None:
            self.context.__exit__(None, None, None)
            gc.collect()
            grown.append(kept.now)

    kept = _SavedBytes()
    train(model, 4, callbacks=(Saved(),))
    assert kept.peak > 0 and grown == [0] * 4
    train(VGAN(**{**SMALL, "generator_step": step}), 5, callbacks=(Count(),))
    assert alive[-1] == alive[1]
