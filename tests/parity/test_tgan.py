"""TGAN computes what the official Chainer code computes, from its weights and its random draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.parity.fixtures import folder
from tests.parity.replay import (
    GivenNoise,
    Replayed,
    SpecifiedReference,
    biases_before_norms,
    gradient_norms,
    running_statistics,
    train,
)
from tests.parity.suite import ReferenceSuite
from vidgen.interop.state_dicts import split_networks
from vidgen.interop.tgan import (
    PATHS,
    PREFIXES,
    official_key,
    translate_discriminator,
    translate_frame_seed,
    translate_image,
)
from vidgen.layers.batch_norm import BatchNorm1d
from vidgen.layers.singular_values import clip_scale, clip_singular_values
from vidgen.metrics.extractors.c3d import tgan_input
from vidgen.metrics.inception_score import inception_score
from vidgen.models.tgan import TGAN, Discriminator, FrameSeedGenerator, ImageGenerator, Scores, VideoGenerator
from vidgen.seeding import NoiseStream, noise_from

TOLERANCE = 1e-4  # the specification's
BIASES = "biases without gradient"  # but rounding errors, which RMSprop enlarges
MEANS = "running means behind these biases"
SPECIFIED = {
    "loss_gen_*": 1e-5,
    "loss_dis_*": 1e-5,
    "grad_norms": 1e-3,
    f"grad_norms/{BIASES}": 1e-3,
    "state_after": 1e-5,
    f"state_after/{BIASES}": 2e-3,
    f"state_after/{MEANS}": 2e-4,
    "state_after/rounding": 2e-3,
    "score": 1e-5,
}
LOADERS = {
    "frame_seed": translate_frame_seed,
    "image": translate_image,
    "discriminator": translate_discriminator,
}
UPDATERS: dict[str, dict[str, Any]] = {
    "svc": {"objective": "wgan", "constraint": "svc"},
    "clip": {"objective": "wgan", "constraint": "weight_clipping"},
    "vanilla": {"objective": "vanilla", "constraint": "none"},
}


# Networks -----------------------------------------------------------------------------------------------------------

State = Mapping[str, Tensor]


def frame_seed_sizes(state: State) -> dict[str, Any]:
    return {
        "dim_fast": state["dc4/W"].shape[1],
        "channels": tuple(state[f"dc{layer}/W"].shape[1] for layer in range(4)),
        "shift": "bn0/beta" in state,
    }


def image_sizes(state: State) -> dict[str, Any]:
    width = len(state["dc1/W"])
    return {
        "dim_slow": state["l0s/W"].shape[1],
        "dim_fast": state["l0f/W"].shape[1],
        "channels": state["dc5/W"].shape[1],
        "width": width,
        "base_size": round((len(state["l0s/W"]) / (width // 2)) ** 0.5),
    }


def discriminator_sizes(state: State) -> dict[str, Any]:
    return {
        "channels": state["c0/W"].shape[1],
        "width": len(state["c0/W"]),
        "final_size": state["c4/W"].shape[-1],
        "shift": "bn0/beta" in state,
    }


def frame_seed_generator(state: State) -> FrameSeedGenerator:
    network = FrameSeedGenerator(len(state["dc0/W"]), **frame_seed_sizes(state))
    network.load_state_dict(translate_frame_seed(state))
    return network


def image_generator(state: State) -> ImageGenerator:
    network = ImageGenerator(**image_sizes(state))
    network.load_state_dict(translate_image(state))
    return network


def discriminator_of(state: State, instance_noise: float) -> Discriminator:
    network = Discriminator(**discriminator_sizes(state), instance_noise=instance_noise)
    network.load_state_dict(translate_discriminator(state))
    return network


def uncounted(actual: Mapping[str, Tensor], state: State) -> dict[str, Tensor]:
    """Chainer has a count of batches as we have, but leaves it as it is."""
    return {key: state[key] if key.endswith("/N") else value for key, value in actual.items()}


def compare_learning(
    reference: SpecifiedReference, name: str, network: nn.Module, *given: Tensor, unused: str = "-"
) -> None:
    """After a backward pass: running statistics and gradients."""
    official = partial(official_key, name)
    key = "state_after_train_forward"
    reference.compare(key, uncounted(running_statistics(network, official), reference.state))
    without = [key for key, _ in network.named_parameters() if key.startswith(unused)]
    norms = gradient_norms(network, official, without)
    biases = {official(bias) for bias in biases_before_norms(network, *given)}
    reference.compare_entries("grad_norms", norms, {BIASES: biases}, relative=True)


def check_frame_seed_generator(reference: SpecifiedReference) -> None:
    generator = frame_seed_generator(reference.state)
    slow = reference.inputs["z_slow"]
    reference.compare("z_fast_eval", generator.eval()(slow))
    fast = generator.train()(slow)
    reference.compare("z_fast_train", fast)
    loss = (fast * reference.inputs["probe"].float()).sum()
    reference.compare("loss_probe", loss)
    loss.backward()
    compare_learning(reference, "frame_seed", generator, slow)


def check_image_generator(reference: SpecifiedReference) -> None:
    generator = image_generator(reference.state)
    rows = reference.inputs["z_slow"], reference.inputs["z_fast"]
    reference.compare("images_eval", generator.eval()(*rows))
    images = generator.train()(*rows)
    reference.compare("images_train", images)
    loss = (images * reference.inputs["probe"].float()).sum()
    reference.compare("loss_probe", loss)
    loss.backward()
    compare_learning(reference, "image", generator, *rows)


def check_discriminator(reference: SpecifiedReference) -> None:
    inputs = reference.inputs
    discriminator = discriminator_of(reference.state, reference.config.get("sigma", 0.0))
    x = inputs["x"].float().requires_grad_(True)
    shape = reference.outputs["logits_eval"].shape
    reference.compare("logits_eval", discriminator.eval()(x).view(shape))
    noise = given_noise(inputs, "noise_")
    with noise_from(noise):
        scores = discriminator.train()(x)
    assert not noise.tensors, "not all of the noise was used"
    reference.compare("logits_train", scores.view(shape))
    loss = scores.sum() / len(x)
    reference.compare("loss", loss)
    loss.backward()
    assert x.grad is not None
    reference.compare("grad_norm_x", x.grad.double().norm())
    compare_learning(reference, "discriminator", discriminator, x.detach(), unused="norms.0.")


def given_noise(inputs: State, prefix: str) -> GivenNoise:
    count = sum(key.startswith(prefix) for key in inputs)
    return GivenNoise([inputs[f"{prefix}{index}"].float() for index in range(count)])


def check_video(reference: SpecifiedReference) -> None:
    states = split_networks(reference.state, PREFIXES, "")
    generator = VideoGenerator(frame_seed_generator(states["frame_seed"]), image_generator(states["image"])).eval()
    slow = reference.inputs["z_slow"]
    fast = generator.codes(slow)
    reference.compare("z_fast", fast)
    video = generator(slow)
    assert torch.equal(video, generator.videos(slow, fast))
    reference.compare("video_sub", video[..., ::2, ::2])
    given = generator.videos(slow, reference.inputs["z_fast_given"])
    reference.compare("video_given_sub", given[..., ::2, ::2])


# Singular values, inception score -----------------------------------------------------------------------------------


def singular_values(weight: Tensor) -> Tensor:
    return torch.linalg.svdvals(weight.flatten(1).double())


def check_singular_values(reference: SpecifiedReference) -> None:
    weights = {key: value.clone() for key, value in reference.inputs.items() if key.startswith("w_")}
    for key, weight in weights.items():
        reference.compare(key.replace("w", "sv_before", 1), singular_values(weight))
    clip_singular_values(list(weights.values()))
    for key, weight in weights.items():
        reference.compare(key.replace("w", "sv_after", 1), singular_values(weight))
        reference.compare(key, weight)
    norm = BatchNorm1d(len(reference.inputs["gamma"]))
    norm.load_state_dict(
        norm.state_dict() | {"weight": reference.inputs["gamma"], "running_var": reference.inputs["avg_var"]}
    )
    clip_scale(norm)
    reference.compare("gamma", norm.weight)


def check_inception_score(reference: SpecifiedReference) -> None:
    inputs = reference.inputs
    reference.compare("score", inception_score(inputs["probs"], splits=1, epsilon=1e-7)[0])
    mean = inputs["mean_ct"][:, :, None, None] + inputs["mean_y"][:, None] + inputs["mean_x"]
    x = tgan_input(inputs["video"].float() * 128 + 128, mean)
    reference.compare("c3d_input_sub", x[:, :, [0, 7, 15], ::2, ::2])
    reference.compare("c3d_input_mean", x.double().mean())
    reference.compare("c3d_input_absmean", x.double().abs().mean())


# Training -----------------------------------------------------------------------------------------------------------


class ReplayedTGAN(Replayed, TGAN):
    """Takes z_slow and the noise from a reference file, and compares fakes and scores."""

    def replay(self, reference: SpecifiedReference, official: Callable[[str], str]) -> None:
        super().replay(reference, official)
        self.given: list[GivenNoise] = []
        self.generator.register_forward_hook(lambda _, __, video: self.compare("fake_video_sub", video[..., ::2, ::2]))

    def compare(self, key: str, actual: Tensor) -> None:
        key = f"{key}_{self.iteration_number}"
        if self.reference.expects(key):
            self.reference.compare(key, actual.view(self.reference.outputs[key].shape))

    def noise(self, stream: str) -> NoiseStream:
        if stream != "forward":
            return super().noise(stream)
        self.given.append(given_noise(self.reference.inputs, f"noise_{self.iteration_number}_"))
        return self.given[-1]

    def draw_slow(self, num_videos: int, stream: NoiseStream) -> Tensor:
        codes = self.reference.inputs[f"z_slow_{self.iteration_number}"]
        assert len(codes) == num_videos
        return codes.double()

    def judge(self, batches: list[dict[str, Tensor]]) -> Scores:
        scores = super().judge(batches)
        self.compare("dis_fake", scores.fake)
        self.compare("dis_real", scores.real)
        return scores


def build(reference: SpecifiedReference) -> ReplayedTGAN:
    config, states = reference.config, split_networks(reference.state, PREFIXES, "")
    seed, image = frame_seed_sizes(states["frame_seed"]), image_sizes(states["image"])
    judge = discriminator_sizes(states["discriminator"])
    model = ReplayedTGAN(
        channels=image["channels"],
        resolution=reference.inputs["real_u8_0"].shape[-1],
        num_frames=reference.inputs["real_u8_0"].shape[1],
        dim_slow=image["dim_slow"],
        dim_fast=seed["dim_fast"],
        frame_seed_channels=seed["channels"],
        generator_width=image["width"],
        discriminator_width=judge["width"],
        frame_seed_shift=seed["shift"],
        discriminator_shift=judge["shift"],
        constraint_interval=config.get("freq", 1),
        instance_noise=config.get("sigma", 0.0),
        **UPDATERS[config["updater"]],
    )
    for name, state in states.items():
        model.get_submodule(PATHS[name]).load_state_dict(LOADERS[name](state))
    return model


def network_and_key(ours: str) -> tuple[str, str]:
    """The network and the official name there of a parameter or buffer of the model."""
    network = next(name for name, path in PATHS.items() if ours.startswith(f"{path}."))
    return network, official_key(network, ours.removeprefix(f"{PATHS[network]}."))


def official_name(ours: str) -> str:
    network, key = network_and_key(ours)
    return next(prefix for prefix, name in PREFIXES.items() if name == network) + key


def official_state(entries: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters and buffers of the model, or something about each, with names and layout of the original."""
    return {official_name(ours): value for ours, value in entries.items()}


def check_train_step(reference: SpecifiedReference) -> None:
    """In float64: RMSprop enlarges rounding errors of small gradients, and those of the original are enough."""
    config, inputs, outputs = reference.config, reference.inputs, reference.outputs
    model = build(reference).double()
    steps = range(config["steps"])
    batches = [
        {"video": inputs[f"real_u8_{step}"].transpose(1, 2).double() / 127.5 - 1}  # as every batch is scaled here
        for step in steps
    ]
    given = {"generator": inputs["z_slow_0"].double(), "discriminator": batches[0]["video"]}
    biases, means = set(), set()
    for network, x in given.items():
        for bias, norm in biases_before_norms(getattr(model, network), x).items():
            biases.add(official_name(f"{network}.{bias}"))
            means.add(official_name(f"{network}.{norm}.running_mean"))
    model.replay(reference, official_name)
    train(model, [[batch] for batch in batches])

    assert all(not noise.tensors for noise in model.given), "not all of the noise was used"
    for step in steps:
        judged = model.terms["discriminator"][step]
        losses = {
            "loss_gen": model.terms["generator"][step]["fake"],
            "loss_dis": judged["fake"] + judged["real"],
            "loss_dis_fake": judged["fake"],
            "loss_dis_real": judged["real"],
        }
        for key, loss in losses.items():
            if reference.expects(f"{key}_{step}"):
                reference.compare(f"{key}_{step}", loss)
    order = list(dict.fromkeys(key.partition("/")[0] + "/" for key in model.first_gradients))
    assert order == outputs["update_order"]
    reference.open.discard("update_order")
    without = set(biases)
    if config["updater"] != "vanilla":
        without.add(official_name("discriminator.output.bias"))  # as much from real clips as from fakes
    reference.compare_entries("grad_norms", model.first_gradients, {BIASES: without}, relative=True)
    state = uncounted(official_state(model.state_dict()), reference.state)
    rounding = official_state(model.rounding)
    reference.compare_entries("state_after", state, {BIASES: biases, MEANS: means}, rounding=rounding)


# Which file is read by what -----------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[SpecifiedReference], None]] = {
    "frame_seed_generator.pt": check_frame_seed_generator,
    "video_generator.pt": check_image_generator,
    "video_discriminator.pt": check_discriminator,
    "video_discriminator_noise.pt": check_discriminator,
    "video.pt": check_video,
    "svc.pt": check_singular_values,
    "train_step_svc.pt": check_train_step,
    "train_step_clip.pt": check_train_step,
    "train_step_vanilla.pt": check_train_step,
    "inception_score.pt": check_inception_score,
}


class TestTGAN(ReferenceSuite):
    model = "tgan"
    checks = CHECKS

    def open(self, name: str) -> SpecifiedReference:
        return SpecifiedReference(folder("tgan") / name, TOLERANCE, SPECIFIED)

    def change(self, reference: SpecifiedReference) -> SpecifiedReference:
        changed = reference.with_one_weight_changed()
        if "probs" in changed.inputs:
            changed.inputs["probs"] /= changed.inputs["probs"].sum(1, keepdim=True)
        return changed

    @pytest.mark.parametrize("key", ["loss_gen_0", "dis_fake_0", "state_after"])
    def test_a_tolerance_wider_than_specified_is_noticed(self, key: str) -> None:
        self.widened("train_step_svc.pt", key, 2 * self.open("train_step_svc.pt").widest(key))
