"""SVG computes what the official code computes, from its weights and its random draws."""

from __future__ import annotations

import copy
import math
import tempfile
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.parity.fixtures import folder
from tests.parity.replay import SpecifiedReference, Watched, biases_before_norms, running_statistics
from tests.parity.suite import ReferenceSuite
from vidgen.interop.state_dicts import split_networks
from vidgen.interop.svg import (
    NETWORKS,
    backbone_of,
    lstms_of,
    names,
    official_states,
    read_official,
    sizes_of,
    translate,
)
from vidgen.models.svg import SVG, Decoder, Encoder, FramePredictor, GaussianLSTM, Rollout, Skips

TOLERANCE = 1e-4  # what the specification does not say otherwise
BIASES = "biases before batch norm"
SPECIFIED = {
    "grad_norms/share": 1e-2,  # where max pooling or LeakyReLU takes the other side, by the rounding of the original
    f"grad_norms/{BIASES}": 1e-5,
    "second_step.*": 1e-3,
}
MOST_BY_ROUNDING = 1e-2
"""Share of the sums of a second step that rounding in the first one may have moved."""
WITH_BATCH_STATISTICS = {"posterior_branch": 1e-3, "samples": 1e-3}  # which enlarge rounding errors
COUNT = "num_batches_tracked"  # which torch 0.3 did not have
PREFIXES = {f"{network}.": network for network in NETWORKS}
State = Mapping[str, Tensor]


# Networks -----------------------------------------------------------------------------------------------------------


def official_name(network: str, state: State, ours: str) -> str:
    """The official name of an entry of one of our networks; ``state`` is the official state dict."""
    return next(theirs for theirs, name in names(network, state).items() if name == ours)


def named(network: str, state: State) -> Callable[[str], str]:
    """The same, with the network before it."""
    return lambda ours: f"{network}.{official_name(network, state, ours)}"


def coders(states: Mapping[str, State]) -> tuple[Encoder, Decoder]:
    """Our encoder and decoder with official weights."""
    backbone, levels = backbone_of("encoder", states["encoder"])
    block = "0.main.0" if backbone == "vgg" else "main.0"
    first = states["encoder"][f"c1.{block}.weight"]
    widths = [len(states["encoder"][f"c{level}.{block}.bias"]) for level in range(1, levels + 1)]
    sizes = backbone, first.shape[1], widths, len(states["encoder"][f"c{levels + 1}.0.bias"])
    encoder, decoder = Encoder(*sizes), Decoder(*sizes)
    encoder.load_state_dict(translate("encoder", states["encoder"]))
    decoder.load_state_dict(translate("decoder", states["decoder"]))
    return encoder, decoder


def recurrent(network: str, state: State) -> Any:
    """Our frame predictor, posterior or prior with official weights."""
    hidden, inputs = state["embed.weight"].shape
    kind, head = (FramePredictor, "output.0") if network == "frame_predictor" else (GaussianLSTM, "mu_net")
    made = kind(inputs, hidden, lstms_of(state), len(state[f"{head}.bias"]))
    made.load_state_dict(translate(network, state))
    return made


def thinned(images: Tensor, expected: Tensor) -> Tensor:
    """Every n-th row and column, as many as there are in the file."""
    step = images.shape[-1] // expected.shape[-1]
    return images[..., ::step, ::step]


def compare_images(reference: SpecifiedReference, key: str, images: Tensor) -> None:
    reference.compare(key, thinned(images, reference.outputs[key]))


def check_backbone(reference: SpecifiedReference) -> None:
    inputs, states = reference.inputs, split_networks(reference.state, PREFIXES, "")
    config = reference.config
    assert config["backbone"] == "{}_{}".format(backbone_of("encoder", states["encoder"])[0], config["image_width"])
    encoder, decoder = coders(states)
    for mode in ("eval", "train"):
        latent, skips = encoder.train(mode == "train")(inputs["x_uint8"].float() / 255)
        image = decoder.train(mode == "train")(inputs["vec"], Skips(skips))
        reference.compare(f"{mode}.latent", latent)
        compare_images(reference, f"{mode}.image", image)
        for level, skip in enumerate(skips):
            key = f"{mode}.skip{level}"
            whole = skip.shape == reference.outputs[key].shape
            reference.compare(key, skip if whole else skip[:1, :, ::4, ::4])
    for network, ours in (("encoder", encoder), ("decoder", decoder)):
        for key, value in running_statistics(ours, named(network, states[network])).items():
            reference.compare(f"after_train.{key}", value)


def filled(prefix: str, shapes: Mapping[str, list[int]], seed: int) -> dict[str, Tensor]:
    """Weights by ``config.fill_rule``."""
    state = {}
    for key, shape in shapes.items():
        if key.endswith(COUNT):
            state[key] = torch.zeros((), dtype=torch.int64)
            continue
        generator = np.random.RandomState((zlib.crc32(f"{prefix}.{key}".encode()) ^ seed) & 0xFFFFFFFF)
        numbers = generator.standard_normal(math.prod(shape)).reshape(shape)
        if len(shape) == 4:
            numbers *= 1.3 / math.sqrt(math.prod(shape[1:]))
        elif key.endswith("running_var"):
            numbers = 0.5 + abs(numbers)
        elif key.endswith("running_mean"):
            numbers *= 0.3
        else:
            numbers = 1 + 0.3 * numbers if key.endswith("weight") else 0.2 * numbers
        state[key] = torch.from_numpy(numbers.astype(np.float32))
    return state


def check_layout(network: str, ours: nn.Module, shapes: Mapping[str, list[int]], parameters: int) -> None:
    """Official names, shapes and number of parameters are those of our network."""
    state = {key: torch.empty(0) for key in shapes}  # of which only the names are asked
    layout = {official_name(network, state, key): list(value.shape) for key, value in ours.state_dict().items()}
    assert layout == shapes
    assert sum(parameter.numel() for parameter in ours.parameters()) == parameters


def check_full_width(reference: SpecifiedReference) -> None:
    """State dicts of the file stand in place of those by its rule."""
    config, inputs = reference.config, reference.inputs
    given = split_networks(reference.state, {f"{backbone}.": backbone for backbone in config["keys"]}, "")
    counts = copy.deepcopy(config["param_counts"])
    for backbone, layouts in config["keys"].items():
        of_backbone = split_networks(given.get(backbone, {}), PREFIXES, "")
        states = {
            network: filled(f"{backbone}.{network}", shapes, config["seed"]) | of_backbone.get(network, {})
            for network, shapes in layouts.items()
        }
        encoder, decoder = coders(states)
        for network, ours in (("encoder", encoder), ("decoder", decoder)):
            check_layout(network, ours.eval(), layouts[network], counts[backbone].pop(network))
        assert not counts.pop(backbone)
        with torch.no_grad():
            latent, skips = encoder(inputs[f"{backbone}.x"])
            image = decoder(inputs[f"{backbone}.vec"], Skips(skips))
        first = next(encoder.parameters()).flatten()[:5]
        values = {
            "latent": latent,
            "image": image,
            "skip_mean_std": torch.stack([torch.stack([skip.mean(), skip.std()]) for skip in skips]),
            "skip_shapes": torch.tensor([skip.shape for skip in skips]),
            "first5_of_first_conv": first,
        }
        for key, value in values.items():
            reference.compare(f"{backbone}.{key}", value)
    for network, shapes in config["rnn_keys"].items():
        with torch.device("meta"):
            empty = {key: torch.empty(shape) for key, shape in shapes.items()}
            check_layout(network, recurrent(network, empty), shapes, counts.pop(network))
    assert not counts


def check_rnn(reference: SpecifiedReference) -> None:
    """One step after the other, and all steps at once."""
    states = split_networks(reference.state, {"lstm.": "frame_predictor", "gaussian_lstm.": "posterior"}, "")
    for name, network in (("lstm", "frame_predictor"), ("gaussian_lstm", "posterior")):
        size = reference.config[name]
        made = recurrent(network, states[network])
        assert made.embed.in_features == size["input_size"] and made.recurrent.num_layers == size["n_layers"]
        x = reference.inputs[f"{name}.x"].transpose(0, 1)
        assert x.shape[:2] == (size["batch_size"], reference.config["T"])
        state, steps = None, []
        for time in range(x.shape[1]):
            *outputs, state = made(x[:, time : time + 1], state)
            steps.append(outputs)
        apart = [torch.cat(part, 1) for part in zip(*steps, strict=True)], state
        *outputs, state = made(x)
        for rows, (hidden, cell) in (apart, (outputs, state)):
            parts = dict(zip(("y",) if name == "lstm" else ("mu", "logvar"), rows, strict=True))
            if name == "gaussian_lstm":
                draws = reference.inputs[f"{name}.eps"].transpose(0, 1)
                parts["z"] = parts["mu"] + (parts["logvar"] / 2).exp() * draws
            for key, value in parts.items():
                reference.compare(f"{name}.{key}", value.transpose(0, 1))
            for layer, (h, c) in enumerate(zip(hidden, cell, strict=True)):
                reference.compare(f"{name}.final_h{layer}", h)
                reference.compare(f"{name}.final_c{layer}", c)


# Training -----------------------------------------------------------------------------------------------------------


class Predetermined(SVG):
    """Its loss is that of a given rollout."""

    def unroll(self, frames: Tensor, draws: Tensor | None) -> Rollout:
        return self.rollout


def check_losses(reference: SpecifiedReference) -> None:
    """As terms of the model's loss, for clips of two frames."""
    inputs = {key: value.clone().requires_grad_(True) for key, value in reference.inputs.items()}
    target = inputs["target"].detach()
    share = len(target) / reference.config["batch_size"]  # the official code divides by the size of a full batch
    rows = {key: inputs[key][:, None] for key in ("mu1", "logvar1", "mu2", "logvar2")}
    for kind, prior in (("lp", "learned"), ("fp", "fixed")):
        model = Predetermined(**SVG.small_variants()["default"] | {"prior": prior, "beta": 1.0})
        of_prior = (rows["mu2"], rows["logvar2"]) if kind == "lp" else (None, None)
        model.rollout = Rollout(inputs["pred"][:, None], inputs["pred"], rows["mu1"], rows["logvar1"], None, *of_prior)
        terms = model.loss({"video": torch.stack([target, target], 2) * 2 - 1})
        reference.compare("mse", terms["squared_error"])
        reference.compare(f"kl_{kind}", terms["kl"] * share)
        moved = [key for key in rows if reference.expects(f"grad_{kind}.{key}")]
        gradients = torch.autograd.grad(terms["kl"] * share, [inputs[key] for key in moved])
        for key, gradient in zip(moved, gradients, strict=True):
            reference.compare(f"grad_{kind}.{key}", gradient)


class WatchedSVG(Watched, SVG):
    """Keeps what it unrolled."""

    def watch(self, official: Callable[[str], str], draws: Mapping[str, list[Tensor]]) -> None:
        super().watch(official, draws)
        self.rollouts: list[Rollout] = []

    def unroll(self, frames: Tensor, draws: Tensor | None) -> Rollout:
        self.rollouts.append(super().unroll(frames, draws))
        return self.rollouts[-1]


class Official:
    """The official model of a reference file.

    Attributes:
        states: official network -> its state dict.
        sizes: arguments of our model.
    """

    def __init__(self, reference: SpecifiedReference) -> None:
        config = reference.config
        self.states = split_networks(reference.state, PREFIXES, "")
        sizes = sizes_of(self.states)
        same = {
            "channels": sizes["channels"],
            "g_dim": sizes["g_dim"],
            "z_dim": sizes["z_dim"],
            "rnn_size": sizes["rnn_size"],
            "backbone": f"{sizes['backbone']}_{sizes['resolution']}",
            "model": {"learned": "lp", "fixed": "fp"}[sizes["prior"]],
            "predictor_rnn_layers": sizes["predictor_layers"],
            "posterior_rnn_layers": sizes["posterior_layers"],
            "batch_size": reference.inputs["x_uint8"].shape[1],
        }
        if "prior" in self.states:
            same["prior_rnn_layers"] = sizes["prior_layers"]
        said = {key: config.get(key, value) for key, value in same.items()}
        assert said == same, "the file describes other networks than it holds"
        self.sizes: dict[str, Any] = {
            **sizes,
            "num_frames": config["n_past"] + config["n_future"],
            "n_past": config["n_past"],
            "skip_frame": "previous" if config["last_frame_skip"] else "last_but_one",
        }

    def load(self, model: SVG) -> None:
        """In float64: the rounding errors of the original are enough."""
        for network, state in self.states.items():
            model.get_submodule(NETWORKS[network]).load_state_dict(translate(network, state))
        model.double()

    def name(self, ours: str) -> str:
        """Of a parameter or buffer of the model."""
        network, _, rest = ours.partition(".")
        theirs = next(theirs for theirs, name in NETWORKS.items() if name == network)
        return f"{theirs}.{official_name(theirs, self.states[theirs], rest)}"


def video_of(frames: Tensor) -> Tensor:
    """Bytes ``(T, B, C, H, W)`` as a batch of videos."""
    return (frames.float() / 255).double().permute(1, 2, 0, 3, 4) * 2 - 1


def of_steps(values: Tensor) -> Tensor:
    """``(B, T, ...)`` to ``(T, B, ...)``, or back."""
    return values.transpose(0, 1)


def trained(reference: SpecifiedReference, dtype: torch.dtype = torch.float64, turned: int = 0) -> WatchedSVG:
    """The model after two iterations with the draws of the file, by Lightning's trainer.

    Args:
        reference: the file.
        dtype: of all numbers.
        turned: by how many places the clips of the batch are moved on, which only changes how sums are rounded.
    """
    config, inputs = reference.config, reference.inputs
    official = Official(reference)
    training = {"beta": config["beta"], "learning_rate": config["lr"], "beta1": config["beta1"]}
    model = WatchedSVG(**official.sizes, **training)
    official.load(model)
    draws = [of_steps(inputs[f"eps_posterior{step}"]).roll(turned, 0).to(dtype) for step in ("", "_step2")]
    model.to(dtype).watch(official.name, {"posterior": draws})
    batch = {"video": video_of(inputs["x_uint8"]).roll(turned, 0).to(dtype)}
    model.train_on([batch, batch])
    return model


def sums_of(model: WatchedSVG, step: int) -> dict[str, Tensor]:
    """Over the frames, from what is logged per frame."""
    records = {"mse": "frame/squared_error", "kld": "frame/kl"}
    return {key: model.records[record][step] * model.num_frames for key, record in records.items()}


def compare_second_step(reference: SpecifiedReference, model: WatchedSVG) -> None:
    """Adam's first step is about as long whatever the gradient: where that is near 0, rounding decides its direction.

    How far that moves the sums of the second step is seen by training in float32, as the original did; see
    ``Replayed.rounding`` for the same thought. It is only asked where the specified tolerance is not enough.
    """
    sums, expected = sums_of(model, 1), {key: reference.outputs[f"second_step.{key}"] for key in ("mse", "kld")}
    apart = {key: expected[key] - value for key, value in sums.items()}
    if any(gap.abs() > reference.widest(f"second_step.{key}") * expected[key] for key, gap in apart.items()):
        rounded = [sums_of(trained(reference, torch.float32, turned), 1) for turned in range(4)]
        for key, value in sums.items():
            moved = max((other[key] - value).abs() for other in rounded)
            moved = moved.clamp(max=MOST_BY_ROUNDING * expected[key])
            reference.errors[f"rounding of second_step.{key}"] = (moved / expected[key]).item()
            sums[key] = value + apart[key].clamp(-moved, moved)
    for key, value in sums.items():
        reference.compare(f"second_step.{key}", value, relative=True)


def check_train(reference: SpecifiedReference) -> None:
    """In float64: the rounding errors of the original are enough."""
    outputs = reference.outputs
    model, official = trained(reference), Official(reference)
    values = {
        "mse": model.terms[0]["squared_error"],
        "kld": sums_of(model, 0)["kld"],
        "loss": torch.stack([*model.terms[0].values()]).sum(),
        "logged_mse": model.records["frame/squared_error"][0],
        "logged_kld": model.records["frame/kl"][0],
    }
    rollout = model.rollouts[0]
    compare_images(reference, "x_pred", of_steps(rollout.frames))
    steps = {
        "mu": rollout.mean,
        "logvar": rollout.log_variance,
        "z": rollout.z,
        "h_pred": rollout.latents,
        "mu_p": rollout.prior_mean,
        "logvar_p": rollout.prior_log_variance,
    }
    values |= {key: of_steps(value) for key, value in steps.items() if value is not None}
    for key, value in values.items():
        reference.compare(key, value)
    compare_second_step(reference, model)
    frames = video_of(reference.inputs["x_uint8"])[:, :, 0]
    found = biases_before_norms(model.encoder, frames)
    biases = {official.name(f"encoder.{bias}") for bias in found}
    latents, features = model.encoder(frames)
    found = biases_before_norms(model.decoder, latents, Skips(features))
    biases |= {official.name(f"decoder.{bias}") for bias in found}
    reference.compare_gradient_norms(model.first_gradients, biases, BIASES)
    assert {key for key in outputs if key.startswith("after.")} == {f"after.{key}" for key in model.first_buffers}
    for key, buffer in model.first_buffers.items():
        reference.compare(f"after.{key}", buffer)


# Generation ---------------------------------------------------------------------------------------------------------


class GivenSVG(SVG):
    """Takes the draws of each frame from a reference file."""

    def give(self, draws: Callable[[int], Tensor]) -> None:
        self.draws = draws

    def _draw(self, numbers: range, seed: int, time: int) -> Tensor:
        return self.draws(time).double()


def check_generate(reference: SpecifiedReference) -> None:
    inputs, outputs = reference.inputs, reference.outputs
    official = Official(reference)
    past = reference.config["n_past"]
    length = past + outputs["samples"].shape[1]
    video = video_of(inputs["x_uint8"][:length])

    def draws_of(sample: int, time: int) -> Tensor:
        if "z_future" in inputs:
            return inputs["z_future"][sample, time - past]
        return inputs["eps_posterior" if time < past else "eps_prior"][sample, time - 1]

    def made(model: GivenSVG, sample: int) -> Tensor:
        model.give(partial(draws_of, sample))
        return model.sample(len(video), num_frames=length, batch={"video": video})

    def frames_after(made: Tensor) -> Tensor:
        return ((made + 1) / 2).permute(2, 0, 1, 3, 4)[past:]

    modes: list[tuple[str, str | None]] = [("", None)]
    if reference.config["model"] == "lp":
        modes.append(("eval_mode.", "running"))
    for prefix, statistics in modes:
        model = GivenSVG(**official.sizes, sampling_statistics=statistics, sampling_group=max(2, len(video)))
        official.load(model)
        compare_images(reference, f"{prefix}posterior_branch", frames_after(model.approximate_posterior(video)))
        if prefix:
            compare_images(reference, f"{prefix}sample0", frames_after(made(model, 0)))
        else:
            samples = [frames_after(made(model, sample)) for sample in range(reference.config["nsample"])]
            compare_images(reference, "samples", torch.stack(samples))


# Checkpoints --------------------------------------------------------------------------------------------------------


def check_checkpoint(reference: SpecifiedReference) -> None:
    """Weights exactly as they are in the file, whichever torch wrote it."""
    opt = reference.config["opt"]
    arguments = {
        "n_past": opt["n_past"],
        "num_frames": opt["n_past"] + opt["n_future"],
        "skip_frame": "previous" if opt["last_frame_skip"] else "last_but_one",
        "beta": opt["beta"],
        "learning_rate": opt["lr"],
        "beta1": opt["beta1"],
        "sampling_group": opt["batch_size"],
        "resolution": opt["image_width"],
        "backbone": opt["model"],
    }
    with tempfile.TemporaryDirectory() as directory:
        for content in reference.inputs.values():
            path = Path(directory) / "model.pth"
            path.write_bytes(content.numpy().tobytes())
            states = official_states(path)
            model = read_official(path)
            assert {name: model.init_args[name] for name in arguments} == arguments
            for network, found in states.items():
                counts = {name: value for name, value in reference.outputs[network].items() if name.endswith(COUNT)}
                uncounted = found.keys().isdisjoint(counts)
                reference.compare(network, {**found, **counts} if uncounted else found, tolerance=0.0)
                inside = model.get_submodule(NETWORKS[network]).state_dict()
                zeros = {name: torch.tensor(0) for name in inside if uncounted and name.endswith(COUNT)}
                expected = {**translate(network, found), **zeros}
                assert inside.keys() == expected.keys()
                assert all(torch.equal(value, expected[name]) for name, value in inside.items())


# Which file is read by what -----------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[SpecifiedReference], None]] = {
    "backbone_dcgan_64.pt": check_backbone,
    "backbone_dcgan_128.pt": check_backbone,
    "backbone_vgg_64.pt": check_backbone,
    "backbone_vgg_128.pt": check_backbone,
    "backbones_full_width.pt": check_full_width,
    "rnn.pt": check_rnn,
    "losses.pt": check_losses,
    "train_lp.pt": check_train,
    "train_fp.pt": check_train,
    "train_lp_last_frame_skip.pt": check_train,
    "train_fp_last_frame_skip.pt": check_train,
    "generate_lp.pt": check_generate,
    "generate_fp.pt": check_generate,
    "checkpoint_format.pt": check_checkpoint,
}
ELSEWHERE = {"moving_mnist.pt": "test_svg_data.py", "metrics.pt": "test_svg_metrics.py"}


class TestSVG(ReferenceSuite):
    model = "svg"
    checks = CHECKS
    elsewhere = ELSEWHERE

    def open(self, name: str) -> SpecifiedReference:
        reference = SpecifiedReference(folder("svg") / name, TOLERANCE, SPECIFIED)
        if reference.config.get("model") == "lp" and "samples" in reference.outputs:
            reference.specified = {**SPECIFIED, **WITH_BATCH_STATISTICS}
        return reference

    def change(self, reference: SpecifiedReference) -> SpecifiedReference:
        """One number is another, also in files whose weights are not in ``state``."""
        if "fill_rule" in reference.config:
            backbone, layouts = next(iter(reference.config["keys"].items()))
            state = filled(f"{backbone}.decoder", layouts["decoder"], reference.config["seed"])
            state["upc1.0.weight"].view(-1)[0] += 0.5
            reference.state = {f"{backbone}.decoder.upc1.0.weight": state["upc1.0.weight"]}
            return reference
        if "opt" in reference.config:
            weight = next(iter(reference.outputs["posterior"].values())).numpy().tobytes()
            for key, content in reference.inputs.items():
                start = content.numpy().tobytes().index(weight)
                reference.inputs[key] = content.clone()
                reference.inputs[key][start] ^= 1
            return reference
        return reference.with_one_weight_changed()

    @pytest.mark.parametrize("key", ["mse", "x_pred", "grad_norms", "second_step.kld"])
    def test_a_tolerance_wider_than_specified_is_noticed(self, key: str) -> None:
        self.widened("train_lp.pt", key, 2 * self.open("train_lp.pt").widest(key))
