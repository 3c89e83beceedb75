"""VideoVAE computes what its specification says, from the weights and the random draws of a plain implementation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.fixtures import folder
from tests.parity.replay import SpecifiedReference, Watched, biases_before_norms
from tests.parity.suite import ReferenceSuite
from tests.parity.test_video_vae_metrics import DIVERGENCES, OF_CLASSES
from vidgen.losses.divergences import kl_normals, kl_to_standard_normal
from vidgen.models.video_vae import Rollout, VideoVAE

TOLERANCE = 1e-4  # the specification says nothing else
BIASES = "biases before batch norm"
SPECIFIED = {
    "grad_norms/share": 1e-2,  # where LeakyReLU takes the other side, by the rounding of the original
    f"grad_norms/{BIASES}": 1e-5,
}
OWN_BUFFERS = ("attribute_counts",)  # which no weights belong to
SAMPLINGS = {
    "attributes_only": ("a_fixed", 0),
    "attributes_and_first_frame": ("a_fixed", 1),
    "transient": ("a_transient", 1),
    "two_observed_frames": ("a_fixed", 2),
}
"""Name -> its attributes, and how many frames are given; where attributes change, the first frame is given too."""


def sizes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the model."""
    return {
        "channels": config["channels"],
        "resolution": config["image_size"],
        "num_frames": config["T"],
        "attributes": config["attributes"],
        "width": config["nf"],
        "encoder_dim": config["enc_dim"],
        "z_dim": config["z_dim"],
        "hidden_dim": config["hidden_size"],
        "mlp_dim": config["mlp_dim"],
        "beta": config["beta"],
        "attribute_weight": config["lambda_cls"],
    }


def load(model: VideoVAE, state: Mapping[str, Tensor]) -> None:
    """In float64: the rounding errors of the original are enough."""
    model.load_state_dict({**state, **{key: getattr(model, key) for key in OWN_BUFFERS}})
    model.double()


def video_of(frames: Tensor) -> Tensor:
    """Bytes ``(B, T, C, H, W)`` as a batch of videos."""
    return (frames.float() / 255).double().transpose(1, 2) * 2 - 1


def sparse(frames: Tensor) -> Tensor:
    return frames[..., ::2, ::2]


# Training -----------------------------------------------------------------------------------------------------------


class WatchedVideoVAE(Watched, VideoVAE):
    """Keeps what goes through it."""

    def watch(self, official: Callable[[str], str], draws: Mapping[str, list[Tensor]]) -> None:
        super().watch(official, draws)
        self.seen: dict[str, Any] = {}
        self.attr_net.register_forward_hook(lambda _, __, outputs: self.seen.update(logits=outputs))

    def unroll(self, features: Tensor, codes: Tensor, draws: Tensor) -> Rollout:
        rollout = super().unroll(features, codes, draws)
        self.seen.update(features=features, codes=codes, rollout=rollout)
        return rollout

    def reconstruction(self, made: Tensor, frames: Tensor) -> Tensor:
        error = super().reconstruction(made, frames)
        self.seen.update(made=made, error=error)
        return error


def check_train_step(reference: SpecifiedReference) -> None:
    inputs, outputs = reference.inputs, reference.outputs
    model = WatchedVideoVAE(**sizes_of(reference.config))
    load(model, reference.state)
    model.watch(lambda name: name, {"posterior": [inputs["eps"].double()]})
    labels = inputs["labels"].double().masked_fill(~inputs["labelled"][:, None], torch.nan)
    video = video_of(inputs["x_uint8"])
    model.train_on([{"video": video, "attributes": labels}])

    terms, seen = model.terms[0], model.seen
    rollout: Rollout = seen["rollout"]
    codes = seen["codes"][:, 0]
    assert torch.equal(seen["codes"], codes[:, None].expand_as(seen["codes"])), "attributes change during a clip"
    values = {
        "e": seen["features"],
        "a": codes,
        "z": rollout.z,
        "h": rollout.hidden,
        "c": rollout.cell,
        "kl": kl_normals(*rollout.dy, *rollout.prior).sum(2),
        "x_hat": sparse(seen["made"]),
        "recon": seen["error"],
        "elbo_term": terms["reconstruction"] + terms["kl"],
        "cls": model.records["frame/attribute_loss"][0],
        "loss": torch.stack([*terms.values()]).sum(),
    }
    for suffix, normal in (("q", rollout.q), ("a", rollout.a), ("dy", rollout.dy), ("p", rollout.prior)):
        values |= {f"mu_{suffix}": normal.mean, f"logvar_{suffix}": normal.log_variance}
    values |= {f"logits.{name}": logits for name, logits in seen["logits"].items()}
    statistics = {key: value for key, value in model.first_buffers.items() if key not in OWN_BUFFERS}
    assert {key for key in outputs if key.startswith("after.")} == {f"after.{key}" for key in statistics}
    values |= {f"after.{key}": value for key, value in statistics.items()}
    for key, value in values.items():
        reference.compare(key, value)
    frames, latents = video[:, :, 0], rollout.z[:, 0].detach()
    biases = {f"encoder.{bias}" for bias in biases_before_norms(model.encoder, frames)}
    biases |= {f"decoder.{bias}" for bias in biases_before_norms(model.decoder, latents)}
    reference.compare_gradient_norms(model.first_gradients, biases, BIASES)


# Generation ---------------------------------------------------------------------------------------------------------


class GivenVideoVAE(VideoVAE):
    """Takes attributes and draws of each frame from a reference file, and keeps what it decodes."""

    def give(self, codes: Tensor, draws: Callable[[int], Tensor]) -> None:
        self.codes, self.draws = codes, draws
        self.latents: list[Tensor] = []
        self.decoder.register_forward_pre_hook(lambda _, given: self.latents.append(given[0]))

    def _codes_at(self, codes: Tensor, schedules: Any, time: int) -> Tensor:
        return self.codes[:, time].to(codes)

    def _draw(self, numbers: range, seed: int, time: int) -> Tensor:
        return self.draws(time).double()


def check_generate(reference: SpecifiedReference) -> None:
    inputs = reference.inputs
    video = video_of(inputs["x_uint8"])
    for name, (attributes, observed) in SAMPLINGS.items():
        model = GivenVideoVAE(**sizes_of(reference.config))
        load(model, reference.state)
        codes = inputs[attributes]
        draws = [*inputs["eps_posterior"].unbind(1)[:observed], *inputs["eps_prior"].unbind(1)[observed:]]
        model.give(codes, draws.__getitem__)
        given = {"num_videos": len(codes), "num_frames": codes.shape[1], "observed": observed}
        made, standing = model.stream({"video": video}, **given)
        hidden, cell = standing.state
        reference.compare(f"{name}.video", sparse((made + 1) / 2).transpose(1, 2))
        reference.compare(f"{name}.z", torch.stack(model.latents, 1))
        reference.compare(f"{name}.final_h", hidden)
        reference.compare(f"{name}.final_c", cell)


# Formulas -----------------------------------------------------------------------------------------------------------


def check_formulas(reference: SpecifiedReference) -> None:
    q, p = ((reference.inputs[f"mu_{suffix}"], reference.inputs[f"logvar_{suffix}"]) for suffix in "qp")
    values = {
        "kl": kl_normals(*q, *p),
        "kl_to_standard_normal": kl_to_standard_normal(*q),
        "kl_reversed": kl_normals(*p, *q),
    }
    assert values.keys() == DIVERGENCES
    for key, value in values.items():
        reference.compare(key, value.sum(1))
    reference.open -= OF_CLASSES  # test_video_vae_metrics.py


# Which file is read by what -----------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[SpecifiedReference], None]] = {
    "train_step.pt": check_train_step,
    "generate.pt": check_generate,
    "formulas.pt": check_formulas,
}


class TestVideoVAE(ReferenceSuite):
    model = "video_vae"
    checks = CHECKS

    def open(self, name: str) -> SpecifiedReference:
        return SpecifiedReference(folder("video_vae") / name, TOLERANCE, SPECIFIED)

    @pytest.mark.parametrize("key", ["loss", "x_hat", "grad_norms"])
    def test_a_tolerance_wider_than_specified_is_noticed(self, key: str) -> None:
        self.widened("train_step.pt", key, 2 * self.open("train_step.pt").widest(key))
