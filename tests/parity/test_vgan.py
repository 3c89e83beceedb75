"""VGAN computes what the official Lua code computes, from its weights and its random draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.fixtures import folder
from tests.parity.replay import (
    Replayed,
    SpecifiedReference,
    biases_before_norms,
    gradient_norms,
    running_statistics,
    train,
)
from tests.parity.suite import ReferenceSuite
from vidgen.interop.state_dicts import official_key, split_networks
from vidgen.interop.vgan import (
    NETWORKS,
    discriminator_table,
    generator_table,
    translate_discriminator,
    translate_generator,
)
from vidgen.losses.adversarial import cross_entropy_fake, cross_entropy_real
from vidgen.models.vgan import VGAN, Judged, network_plan, realness
from vidgen.seeding import NoiseStream

TOLERANCE = 1e-4  # the specification's
BIASES = "biases before batch norm"
MEANS = "running means behind these biases"
SPECIFIED = {
    "grad_norms": 1e-4,
    f"grad_norms/{BIASES}": 1e-4,  # of the gradient of the weight beside them
    "state_after": 1e-5,
    f"state_after/{BIASES}": 6e-4,  # they have no gradient but rounding errors, which Adam enlarges
    "state_after/rounding": 6e-4,  # likewise
    f"state_after/{MEANS}": 1e-4,  # a fifth of that for two forward passes
}
PREFIXES = {network: prefix for prefix, network in NETWORKS.items()}
COUNT = "num_batches_tracked"  # the official batch norm does not count


# Networks -----------------------------------------------------------------------------------------------------------


def sparse(videos: Tensor) -> Tensor:
    return videos[:, :, ::2, ::4, ::4]


def pixels(base: Tensor, delta: Tensor) -> Tensor:
    """Videos in [-1, 1] from a picture and how much brighter each frame is."""
    values = (base.int() + delta.int()).clamp(0, 255).to(torch.uint8)
    return values.float() / 255 * 2 - 1


class Official:
    """The names of a reference file, and the sizes in it.

    Attributes:
        states: the weights in it, by network, without prefix.
        tables: official module -> ours, by network.
        sizes: arguments of the model.
    """

    def __init__(self, reference: SpecifiedReference) -> None:
        config, state = reference.config, reference.state
        alone = "discriminator" if "1.weight" in state else "generator"
        self.states = split_networks(state, NETWORKS, alone)
        self.prefixed = len(self.states) > 1
        codes = [value for key, value in reference.inputs.items() if key in ("z", "z_0")]
        condition = "none" if codes or alone == "discriminator" else "first_frame"
        doublings = network_plan(config["size"], config["frames"])[2]
        self.tables = {
            "generator": generator_table(condition, doublings=doublings),
            "discriminator": discriminator_table(doublings),
        }
        self.sizes: dict[str, Any] = {
            "channels": next(
                value.shape[1] for key, value in reference.inputs.items() if "_u8" in key or key == "probe"
            ),
            "resolution": config["size"],
            "num_frames": config["frames"],
            "dim_latent": codes[0].shape[1] if codes else 1,
            "width": config["width"],
            "condition": condition,
        }
        translators: dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
            "generator": partial(translate_generator, condition=condition, doublings=doublings),
            "discriminator": partial(translate_discriminator, doublings=doublings),
        }
        self.weights = {network: translators[network](state) for network, state in self.states.items()}

    def load(self, model: VGAN) -> VGAN:
        for network, weights in self.weights.items():
            getattr(model, network).load_state_dict(weights)
        return model

    def name(self, ours: str) -> str:
        """Of a parameter or buffer of the model."""
        network, _, rest = ours.partition(".")
        return official_key(rest, self.tables[network], PREFIXES[network] if self.prefixed else "")

    def named(self, network: str) -> Callable[[str], str]:
        """The same for the parameters of a network."""
        return lambda ours: self.name(f"{network}.{ours}")


def without_counts(entries: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in entries.items() if not key.endswith(COUNT)}


def check_generator(reference: SpecifiedReference) -> None:
    inputs = reference.inputs
    official = Official(reference)
    settings = {"mask_weight": reference.outputs["lambda"].item()} if reference.expects("lambda") else {}
    model = official.load(VGAN(**official.sizes, **settings))
    given = inputs["z"] if "z" in inputs else inputs["image_u8"].float() / 255 * 2 - 1
    generator = model.generator
    for mode in ("eval", "train"):
        parts = generator.train(mode == "train")(given)
        assert parts.mask is not None and parts.background is not None
        reference.compare(f"video_sub_{mode}", sparse(parts.video))
        reference.compare(f"foreground_sub_{mode}", sparse(parts.foreground))
        reference.compare(f"mask_sub_{mode}", sparse(parts.mask))
        reference.compare(f"static_{mode}", parts.background)
        reference.compare(f"video_abs_mean_{mode}", parts.video.abs().mean())
        reference.compare(f"mask_mean_{mode}", parts.mask.mean())
    key = "state_after_train_forward"
    reference.compare(key, without_counts(running_statistics(generator, official.named("generator"))))

    batch = {"video": parts.video.detach()}  # its first frame is met
    terms = model.generator_terms(Judged(parts, None, torch.zeros(len(given)), batch))
    tiled = inputs["probe"].tile(*(a // b for a, b in zip(parts.video[:1].shape, inputs["probe"].shape, strict=True)))
    loss = (parts.video * tiled).sum() / len(given)
    reference.compare("probe_loss", loss)
    if reference.expects("lambda"):
        reference.compare("lambda", torch.tensor(model.mask_weight))
        reference.compare("l1_penalty", terms["mask"])
        loss = loss + terms["mask"]
    else:
        assert "mask" not in terms, "there is no penalty from a first frame"
    loss.backward()
    biases = {official.name(f"generator.{bias}") for bias in biases_before_norms(generator, given)}
    reference.compare_gradient_norms(gradient_norms(generator, official.named("generator")), biases, BIASES)


def check_discriminator(reference: SpecifiedReference) -> None:
    official = Official(reference)
    discriminator = official.load(VGAN(**official.sizes)).discriminator
    x = pixels(reference.inputs["video_base_u8"], reference.inputs["video_delta"]).requires_grad_(True)
    reference.compare("logits_eval", discriminator.eval()(x))
    logits = discriminator.train()(x)
    reference.compare("logits_train", logits)
    loss = cross_entropy_real(realness(logits))
    reference.compare("ce_label1", loss)
    reference.compare("ce_label2", cross_entropy_fake(realness(logits)))
    loss.backward()
    assert x.grad is not None
    reference.compare("grad_norm_x", x.grad.double().norm())
    key = "state_after_train_forward"
    reference.compare(key, without_counts(running_statistics(discriminator, official.named("discriminator"))))
    biases = {official.name(f"discriminator.{bias}") for bias in biases_before_norms(discriminator, x.detach())}
    reference.compare_gradient_norms(gradient_norms(discriminator, official.named("discriminator")), biases, BIASES)


# Training -----------------------------------------------------------------------------------------------------------


class ReplayedVGAN(Replayed, VGAN):
    """Takes the codes of its fakes from a reference file, and compares the fakes."""

    def draw_latents(self, num_videos: int, stream: NoiseStream) -> Tensor:
        codes = self.reference.inputs[f"z_{self.iteration_number}"]
        assert len(codes) == num_videos
        return codes.double()

    def make(self, batches: list[dict[str, Tensor]]) -> Judged:
        judged = super().make(batches)
        self.reference.compare(f"fake_sub_{self.iteration_number}", sparse(judged.parts.video))
        return judged


def check_train_step(reference: SpecifiedReference) -> None:
    """In float64: Adam enlarges rounding errors of small gradients, and those of the original are enough."""
    config, inputs = reference.config, reference.inputs
    official = Official(reference)
    weights = {"mask_weight": "lambda_mask", "first_frame_weight": "lambda_first_frame"}
    settings = {ours: config[theirs] for ours, theirs in weights.items() if theirs in config}
    model = ReplayedVGAN(**official.sizes, **settings, learning_rate=config["lr"], beta1=config["beta1"])
    official.load(model).double().replay(reference, official.name)
    steps = range(config["steps"])
    videos = [pixels(inputs[f"real_base_u8_{step}"], inputs[f"real_delta_{step}"]).double() for step in steps]
    given = {"generator": inputs["z_0"].double() if "z_0" in inputs else videos[0][:, :, 0], "discriminator": videos[0]}
    biases, means = set(), set()
    for network, x in given.items():
        for bias, norm in biases_before_norms(getattr(model, network), x).items():
            biases.add(official.name(f"{network}.{bias}"))
            means.add(official.name(f"{network}.{norm}.running_mean"))
    train(model, [[{"video": video}] for video in videos])

    assert list(model.terms) == ["discriminator", "generator"]
    for step in steps:
        judged = model.terms["discriminator"][step]
        reference.compare(f"errD_{step}", (judged["real"] + judged["fake"]) / 2)
        terms = dict(model.terms["generator"][step])
        assert ("mask" in terms) == ("lambda_mask" in config)
        terms.pop("mask", None)  # the official code does not count it
        reference.compare(f"err_{step}", torch.stack(list(terms.values())).sum())
    reference.compare_gradient_norms(model.first_gradients, biases, BIASES)
    state = {official.name(key): value for key, value in model.state_dict().items()}
    rounding = {official.name(key): value for key, value in model.rounding.items()}
    reference.compare_entries("state_after", without_counts(state), {BIASES: biases, MEANS: means}, rounding=rounding)


# Which file is read by what -----------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[SpecifiedReference], None]] = {
    "generator.pt": check_generator,
    "discriminator.pt": check_discriminator,
    "train_step.pt": check_train_step,
    "conditional_generator.pt": check_generator,
    "conditional_discriminator.pt": check_discriminator,
    "conditional_train_step.pt": check_train_step,
}


class TestVGAN(ReferenceSuite):
    model = "vgan"
    checks = CHECKS

    def open(self, name: str) -> SpecifiedReference:
        return SpecifiedReference(folder("vgan") / name, TOLERANCE, SPECIFIED)

    @pytest.mark.parametrize("key", ["errD_0", "state_after"])
    def test_a_tolerance_wider_than_specified_is_noticed(self, key: str) -> None:
        self.widened("train_step.pt", key, 2 * self.open("train_step.pt").widest(key))
