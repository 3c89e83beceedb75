"""TATS computes what the official code computes, from its weights and its random draws."""

from __future__ import annotations

import argparse
import io
import math
import re
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vidgen
from tests.parity.fixtures import Reference, folder
from tests.parity.replay import train
from tests.parity.suite import ReferenceSuite
from vidgen.interop import convert
from vidgen.interop import tats as official
from vidgen.interop.tats import AUTOENCODER_PART, DISCRIMINATORS, TRANSFORMER_PART, VQGAN_PARTS, Part
from vidgen.losses.adversarial import cross_entropy_fake, cross_entropy_real, hinge_fake, hinge_real
from vidgen.losses.perceptual import PerceptualLoss
from vidgen.models.stages import fingerprint
from vidgen.models.tats.autoencoder import VideoAutoencoder
from vidgen.models.tats.codebook import Codebook
from vidgen.models.tats.discriminators import PatchDiscriminator
from vidgen.models.tats.gpt import GPT, Cache, interpolation_mask
from vidgen.models.tats.interpolation import TATSInterpolation
from vidgen.models.tats.networks import PaddedConv3d, PaddedConvTranspose3d, Padding
from vidgen.models.tats.sampling import (
    Choice,
    filtered,
    generate,
    generate_uncached,
    greedy,
    interpolate,
    slide,
    slide_densely,
)
from vidgen.models.tats.transformer import TATS
from vidgen.models.tats.vqgan import TATSVQGAN

TOLERANCE = 1e-4  # of the largest number of a tensor: the specification's
SILENT = 1e-5
"""Share of the gradient of the weight beside it that a gradient which is 0 but for rounding may have."""
IN_FLOAT64 = 1e-10
"""Share of the same that it has in float64, where it is 0."""
OF_TRAINING = 2e-5
ROUNDINGS = 5
"""Trained numbers are allowed 2e-5, or 5 times what the original itself differs by in float64: the specification's."""
UNSAID = {"past_prefix": Choice(1.0, 8, 0.9)}
"""How tokens were chosen, where neither the name of an output nor the configuration says it."""
LPIPS = "perceptual_model."
MODES: dict[str, Padding] = {
    "replicate": "replicate",
    "constant": "zero",
    "reflect": "reflect",
    "circular": "circular",
}
State = Mapping[str, Tensor]


class TATSReference(Reference):
    """A file of which each tensor is compared with its largest number."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, TOLERANCE)
        self.state = {key: value.contiguous() for key, value in self.state.items()}

    def _compare(self, key: str, actual: Tensor, expected: Tensor, tolerance: float, relative: bool) -> None:
        assert actual.shape == expected.shape, f"{key}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
        if not expected.is_floating_point():
            assert torch.equal(actual.to(expected.dtype), expected), f"{key}: numbers differ"
            return
        actual, expected = actual.detach().double(), expected.double()
        finite = expected.isfinite()
        assert torch.equal(actual[~finite], expected[~finite]), f"{key}: infinities differ"
        actual, expected = actual[finite], expected[finite]
        if expected.numel():
            size = expected.abs().max().clamp(min=torch.finfo(torch.float32).eps)
            self.note(key, ((actual - expected).abs().max() / size).item(), tolerance)

    def note(self, key: str, error: float, allowed: float) -> None:
        """Remember the error, under the first part of the name, and assert that it is small enough."""
        group = key.partition("/")[0]
        self.errors[group] = max(error, self.errors.get(group, 0.0))
        assert error <= allowed, f"{key}: off by {error:.3g}, allowed {allowed:.3g}"

    def compare_all(self, actual: Mapping[str, Tensor], prefix: str = "") -> None:
        """Compare several outputs."""
        for key, value in actual.items():
            self.compare(f"{prefix}{key}", value)

    def compare_trained(self, key: str, actual: Tensor, deviation: float) -> None:
        """Compare what training left; ``deviation`` is how far the original's own float64 run differs."""
        expected = self.outputs[key]
        self.open.discard(key)
        assert actual.shape == expected.shape, f"{key}: other shape"
        if not expected.is_floating_point():
            assert torch.equal(actual, expected), f"{key}: numbers differ"
            return
        error = (actual.detach().double() - expected.double()).abs().max().item()
        self.note(f"trained: {key}", error, max(OF_TRAINING, ROUNDINGS * deviation))

    def compare_norms(self, prefix: str, gradients: Mapping[str, Tensor]) -> None:
        """Compare norms of gradients.

        Some gradients are 0 but for rounding: of biases before batch norms, of keys. They are told by being 0 here, in
        float64, beside those of their weights.

        Args:
            prefix: of the outputs.
            gradients: official name -> gradient.
        """
        expected = {key for key in self.outputs if key.startswith(prefix)}
        assert expected == {f"{prefix}{name}" for name in gradients}, f"{prefix}: other parameters"
        for name, gradient in gradients.items():
            norm = gradient.double().norm()
            weight = gradients.get(re.sub("bias$", "weight", name), gradient).double().norm()
            if name.endswith("bias") and norm <= IN_FLOAT64 * weight:
                self.open.discard(f"{prefix}{name}")
                share = self.outputs[f"{prefix}{name}"] / weight.clamp(min=1)
                self.note(f"silent {prefix}", share.item(), SILENT)
            else:
                self.compare(f"{prefix}{name}", norm)


def inside(prefix: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries whose names begin with ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}


class GivenDraws:
    """What a codebook drew, in the order of its calls."""

    def __init__(self, draws: State) -> None:
        self.normals, self.permutations = (
            [draws[f"{kind}_{at}"] for at in range(len(inside(f"{kind}_", draws)))]
            for kind in ("randn_like", "randperm")
        )

    def normal(self, *shape: int) -> Tensor:
        assert tuple(self.normals[0].shape) == shape, "the noise enters at another place"
        return self.normals.pop(0)

    def permutation(self, size: int) -> Tensor:
        assert len(self.permutations[0]) == size, "the rows are others"
        return self.permutations.pop(0)

    def shared(self) -> GivenDraws:
        return self

    def check_used(self, restarts: bool) -> None:
        """The original draws for restarts even where it makes none."""
        assert not restarts or not (self.normals or self.permutations), "not all of the draws were used"


# Networks -----------------------------------------------------------------------------------------------------------


def check_padding(reference: TATSReference) -> None:
    config = reference.config
    for case in config["cases"]:
        kind = {"conv": PaddedConv3d, "convt": PaddedConvTranspose3d}[case["type"]]
        layer = kind(
            config["in_channels"],
            config["out_channels"],
            case["kernel"],
            tuple(case["stride"]),
            MODES[case["padding_type"]],
        )
        pairs = zip(reversed(layer.before), reversed(layer.after), strict=True)
        assert [amount for pair in pairs for amount in pair] == list(case["pad_input"])
        layer.load_state_dict(inside(f"{case['name']}.{case['type']}.", reference.state))
        reference.compare(case["name"], layer.double()(reference.inputs["x"].double()))


def codebook_entries(codebook: Codebook) -> dict[str, Tensor]:
    """By official name, as they are now."""
    state = codebook.state_dict()
    return {theirs: state[ours].clone() for theirs, ours in official.CODEBOOK.items()}


def check_codebook(reference: TATSReference) -> None:
    config = reference.config
    for case in config["cases"]:
        name = case["name"]
        restarts = not case["no_random_restart"]
        codebook = Codebook(config["n_codes"], config["embedding_dim"], restarts, case["restart_thres"]).double()
        given = inside(f"{name}/", reference.state)
        state = {ours: given[theirs].double() for theirs, ours in official.CODEBOOK.items()}
        codebook.load_state_dict({**state, "initialised": torch.tensor(not case["need_init"])})
        codebook.train(case["training"])
        inputs = inside(f"{name}/", reference.inputs)
        if "z_0" in inputs:
            for step in range(len(inside("z_", inputs))):
                draws = GivenDraws(inside(f"step{step}_", inputs))
                found = codebook(inputs[f"z_{step}"].double(), draws)
                draws.check_used(restarts)
                reference.compare(f"{name}/encodings_{step}", found.tokens)
                reference.compare_all(codebook_entries(codebook), f"{name}/after_{step}/")
            continue
        draws = GivenDraws(inputs)
        z = inputs["z"].double().requires_grad_(True)
        found = codebook(z, draws)
        draws.check_used(restarts)
        loss = found.commitment + (found.embeddings * inputs["grad_weight"]).sum()
        values = {
            "encodings": found.tokens,
            "embeddings": found.embeddings,
            "commitment_loss": found.commitment,
            "perplexity": found.perplexity,
            "grad_z": torch.autograd.grad(loss, z)[0],
        }
        reference.compare_all(values, f"{name}/")
        reference.compare_all(codebook_entries(codebook), f"{name}/after/")


def autoencoder_of(config: Mapping[str, Any], state: State) -> VideoAutoencoder:
    """Our autoencoder with official weights, of which some may be missing, in float64."""
    sizes = {"channels": config["image_channels"]}
    sizes |= {key: config[key] for key in ("n_hiddens", "embedding_dim", "n_codes")}
    network = VideoAutoencoder(
        **sizes,
        downsample=tuple(config["downsample"]),
        norm=config["norm_type"],
        padding=MODES[config["padding_type"]],
        random_restart=not config["no_random_restart"],
        restart_threshold=config["restart_thres"],
    )
    network.load_state_dict({**network.state_dict(), **official.translate(state, AUTOENCODER_PART)})
    return network.double()


def statistics(network: nn.Module, part: Part) -> dict[str, Tensor]:
    """Of batch norms, by official name."""
    buffers = {name: buffer for name, buffer in network.named_buffers() if not name.startswith("codebook")}
    return {official.official_names(name, part)[0]: buffer.clone() for name, buffer in buffers.items()}


def compare_margin(reference: TATSReference, key: str, network: VideoAutoencoder, z: Tensor) -> None:
    """Compare how much nearer the nearest code is than the second: of the squared distances, which are rounded."""
    rows = z.detach().movedim(1, -1).flatten(0, 3)
    distances = torch.cdist(rows, network.codebook.embeddings).square()
    two = distances.topk(2, 1, largest=False).values
    reference.open.discard(key)
    error = (two[:, 1] - two[:, 0]).min() - reference.outputs[key]
    reference.note(key, (error.abs() / distances.max()).item(), TOLERANCE)


def check_autoencoder(reference: TATSReference) -> None:
    config, inputs = reference.config, reference.inputs
    network = autoencoder_of(config, reference.state).eval()
    video = inputs["video"].double()
    z = network.latents(video)
    found = network.codebook(z)
    still = network.latents(inputs["const_video"].double())
    times = config["sequence_length"] // config["sample_every_n_frames"]
    assert torch.equal(network.encode(2 * video), found.tokens)
    decoded = network.frames(network.codebook.lookup(found.tokens))
    assert torch.equal(network.decode(found.tokens), (2 * decoded).clamp(-1, 1).float())
    values = {
        "eval_encoder": network.encoder(video),
        "eval_z": z,
        "eval_indices": found.tokens,
        "eval_quantized": found.embeddings,
        "eval_commitment": found.commitment,
        "eval_perplexity": found.perplexity,
        "eval_decode": decoded,
        "latent_shape": torch.tensor(network.latent_shape(times, config["resolution"], config["resolution"])),
        "long_decode": network.frames(network.codebook.lookup(inputs["long_indices"])),
        "const_video_z_time_spread": (still.amax(2) - still.amin(2)).max(),
    }
    compare_margin(reference, "min_distance_margin", network, z)
    network.train()
    values["train_encoder"] = network.encoder(video)
    values["train_z"] = network.project(values["train_encoder"])
    values["train_decoder_from_z"] = network.frames(values["train_z"])
    reference.compare_all(values)
    reference.compare_all(statistics(network, AUTOENCODER_PART), "after_train/")


def official_gradients(network: nn.Module, part: Part, prefix: str = "") -> dict[str, Tensor]:
    """By official name, of all parameters; 0 where there is none."""
    found: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for theirs, own in official.official_entries(name, gradient, part).items():
            found[f"{prefix}{theirs}"] = own
    return found


def check_discriminators(reference: TATSReference) -> None:
    config, inputs = reference.config, reference.inputs
    for part, axes in zip(DISCRIMINATORS, (2, 3), strict=True):
        kind = part.ours.removesuffix("_discriminator")
        network = PatchDiscriminator(axes, config["input_nc"], config["ndf"], config["n_layers"])
        network.load_state_dict(official.translate(inside(part.prefix, reference.state), part))
        network.double()
        for mode in ("eval", "train"):
            maps = network.train(mode == "train")(inputs[kind].double())
            reference.compare(f"{kind}/{mode}/logits", maps[-1])
            reference.compare_all({f"feat_{stage}": features for stage, features in enumerate(maps)}, f"{kind}/{mode}/")
        (-maps[-1].mean()).backward()
        reference.compare_norms(f"{kind}/train/grad_norm/", official_gradients(network, part))
        after = {key: value for key, value in statistics(network, part).items() if "running" in key}
        reference.compare_all(after, f"{kind}/after/")
    real, fake = inputs["logits_real"], inputs["logits_fake"]
    reference.compare("hinge_d", (hinge_real(real) + hinge_fake(fake)) / 2)
    reference.compare("vanilla_d", (cross_entropy_real(real) + cross_entropy_fake(fake)) / 2)


# Training of the autoencoder ----------------------------------------------------------------------------------------


class GivenIntegers:
    """Hands out one tensor."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def integers(self, high: int, *shape: int) -> Tensor:
        assert tuple(self.values.shape) == shape and self.values.max() < high, "the frames are others"
        return self.values


class ReplayedVQGAN(TATSVQGAN):
    """Takes its draws from a reference file, and notes what it computes."""

    def replay(self, draws: Callable[[int, str], State], iteration: int | None = None) -> None:
        """Start to.

        Args:
            draws: (iteration, update) -> what is drawn.
            iteration: the only one, where there is no trainer.
        """
        self.draws, self.only = draws, iteration
        self.used: list[GivenDraws] = []
        self.losses: list[Tensor] = []
        self.seen: dict[str, Any] = {}
        self.records: dict[str, Tensor] = {}

    @property
    def iteration_number(self) -> int:
        return super().iteration_number if self.only is None else self.only

    def noise(self, stream: str) -> Any:
        update, _, what = stream.partition("/")
        if what not in ("codebook", "frames"):
            return super().noise(stream)
        given = self.draws(self.iteration_number, update)
        if what == "frames":
            return GivenIntegers(given["frame_idx"])
        self.used.append(GivenDraws(given))
        return self.used[-1]

    def record(self, name: str, value: Tensor) -> None:
        self.records[name] = value.detach()

    def update(self, name: str, loss_fn: Any, **options: Any) -> None:
        def noted(given: Any) -> dict[str, Tensor]:
            terms = loss_fn(given)
            self.losses.append(torch.stack(list(terms.values())).sum().detach())
            return terms

        super().update(name, noted, **options)

    def _criticise(self, shown: Any) -> Any:
        scores, features = super()._criticise(shown)
        self.seen |= {"shown": shown, "scores": scores, "features": features}
        return scores, features


def perceptual_of(state: State) -> PerceptualLoss:
    """LPIPS of a file."""
    own = inside(LPIPS, state)
    loss = PerceptualLoss([own[f"lin{block}.model.1.weight"].shape[1] for block in range(5)])
    loss.load_official_layout(own)
    return loss


def vqgan_of(reference: TATSReference, **more: Any) -> ReplayedVQGAN:
    """The whole first stage of a file, in float64."""
    config = reference.config
    sizes = official.vqgan_sizes(official.split_vqgan(reference.state))
    assert sizes.pop("levels") == int(math.log2(max(config["downsample"])))
    settings = official.vqgan_settings(config)
    model = ReplayedVQGAN(**{**sizes, **settings, **more})
    for part in VQGAN_PARTS:
        own = official.split_vqgan(reference.state)[part.prefix]
        model.get_submodule(part.ours).load_state_dict(official.translate(own, part))
    model.perceptual = perceptual_of(reference.state)
    return model.double()


def state_of(model: TATSVQGAN) -> dict[str, Tensor]:
    """Whole state dict, by official name."""
    found: dict[str, Tensor] = {}
    for part in VQGAN_PARTS:
        for name, value in model.get_submodule(part.ours).state_dict().items():
            if name != "codebook.initialised":
                found[f"{part.prefix}{official.official_names(name, part)[0]}"] = value.clone()
    return found


def check_losses(reference: TATSReference) -> None:
    outputs = reference.outputs
    video = 2 * reference.inputs["video"].double()
    start = reference.config["discriminator_iter_start"]
    model = vqgan_of(reference)
    network = model.autoencoder.train()
    compare_margin(reference, "min_distance_margin", network, network.latents(video / 2))
    for stage, iteration in (("before", 0), ("after", start)):
        for number, update in enumerate(("autoencoder", "discriminator")):
            name = f"{stage}/opt{number}"
            model = vqgan_of(reference).train()
            assert model.perceptual is not None
            model.perceptual.eval()
            given = inside(f"{name}/", reference.inputs)
            model.replay(lambda _, __, given=given: given, iteration)
            parts = VQGAN_PARTS[:1] if update == "autoencoder" else DISCRIMINATORS
            for part in VQGAN_PARTS:
                model.get_submodule(part.ours).requires_grad_(part in parts)
            terms = getattr(model, f"{update}_loss")([{"video": video}])
            total = torch.stack(list(terms.values())).sum()
            total.backward()
            model.used[0].check_used(model.autoencoder.codebook.random_restart)
            named = autoencoder_terms if update == "autoencoder" else discriminator_terms
            reference.compare(f"{name}/loss", total)
            reference.compare_all(named(model, terms), f"{name}/")
            gradients: dict[str, Tensor] = {}
            for part in parts:
                gradients |= official_gradients(model.get_submodule(part.ours), part, part.prefix)
            reference.compare_norms(f"{name}/grad_norm/", gradients)
            after = {f"after_state/opt{number}/{key}": value for key, value in state_of(model).items()}
            if stage == "after":
                kept = [key for key in outputs if key.startswith(f"after_state/opt{number}/")]
                assert kept, "the file tells no state"
                reference.compare_all({key: after[key] for key in kept})
                moved = {key for key in after if re.search(r"running_|/codebook\.", key)}
                assert moved <= set(kept), "only a part of the state is told"


def autoencoder_terms(model: ReplayedVQGAN, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By official name."""
    zero = torch.zeros((), dtype=torch.float64)
    scores, distances = model.seen["scores"], list(model.seen["features"])
    layers = len(model.image_discriminator.stages) - 1
    features = [zero, zero]
    for number, weight in enumerate(model.gan_weights):
        if weight:
            features[number] = torch.stack(distances[:layers]).sum()
            distances = distances[layers:]
    named = {
        "recon_loss": terms["reconstruction"],
        "commitment": terms["commitment"],
        "aeloss": terms.get("adversarial", zero),
        "perceptual": terms.get("perceptual", zero),
        "gan_feat": terms.get("feature_matching", zero),
        "perplexity": model.records["codebook/perplexity"],
        "x_recon": model.seen["shown"].clips.video,
    }
    logged = {
        "g_image_loss": model.records["generator/image"],
        "g_video_loss": model.records["generator/video"],
        "image_gan_feat_loss": features[0],
        "video_gan_feat_loss": features[1],
        "perceptual_loss": named["perceptual"],
        "recon_loss": named["recon_loss"],
        "aeloss": named["aeloss"],
        "commitment_loss": named["commitment"],
        "perplexity": named["perplexity"],
    }
    assert torch.equal(torch.stack(scores).detach(), torch.stack([logged["g_image_loss"], logged["g_video_loss"]]))
    return {**named, **{f"log/train/{key}": value for key, value in logged.items()}}


def discriminator_terms(model: ReplayedVQGAN, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By official name."""
    logged = {f"d_{kind}_loss": model.records[f"discriminator/{kind}"] for kind in ("image", "video")}
    for kind in ("image_real", "image_fake", "video_real", "video_fake"):
        logged[f"logits_{kind}"] = model.records[f"logits/{kind}"]
    logged["discloss"] = torch.stack(list(terms.values())).sum()
    return {f"log/train/{key}": value for key, value in logged.items()}


def check_train_steps(reference: TATSReference) -> None:
    config = reference.config
    assert config["accumulate_grad_batches"] == 1
    assert config["calls"] == [[batch, which, batch] for batch in range(config["n_batches"]) for which in (0, 1)]
    model = vqgan_of(reference)
    model.autoencoder.codebook.load_state_dict(
        {**model.autoencoder.codebook.state_dict(), "initialised": torch.tensor(False)}
    )
    assert model.perceptual is not None
    model.perceptual.eval()
    model.perceptual.train = lambda mode=True: model.perceptual  # type: ignore[assignment,method-assign]
    model.gradient_clip_val = config["gradient_clip_val"]
    updates = ("autoencoder", "discriminator")
    model.replay(lambda step, update: inside(f"call{2 * step + updates.index(update)}/", reference.inputs))
    batches = [[{"video": 2 * clips.double()}] for clips in reference.inputs["videos"].split(config["batch_size"])]
    train(model, batches)
    for draws in model.used:
        draws.check_used(model.autoencoder.codebook.random_restart)
    deviation = config["abs_deviation_of_float64_run"]
    for call, loss in enumerate(model.losses):
        reference.compare_trained(f"loss_{call}", loss, deviation[f"loss_{call}"])
    for key, value in state_of(model).items():
        reference.compare_trained(f"final/{key}", value, deviation.get(f"final/{key}", 0.0))
    reference.compare("global_step", torch.tensor(len(batches)))
    assert model.autoencoder.codebook.is_initialised


# The transformer ----------------------------------------------------------------------------------------------------


def transformer_of(state: State, heads: int) -> GPT:
    """Our transformer with official weights, in float64."""
    sizes = official.transformer_sizes(state)
    table = sizes["position_table"]
    gpt = GPT(sizes["vocabulary"], sizes["block_size"], sizes["n_layer"], heads, sizes["n_embd"], table)
    gpt.load_state_dict(official.translate(state, TRANSFORMER_PART))
    return gpt.double().eval()


def compare_sizes(config: Mapping[str, Any], gpt: GPT) -> None:
    """What a file says of its transformer."""
    found = {"vocab": gpt.vocabulary, "block": gpt.block, "n_layer": len(gpt.blocks)}
    found |= {"n_head": gpt.n_head, "n_embd": gpt.head.in_features}
    assert {key: config[key] for key in found if key in config} == {key: found[key] for key in found if key in config}


def hits(logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Percent of the tokens that the likeliest, and the five likeliest, hit, as the model logs them."""
    model = TATS(**TATS.small_variants()["default"])
    model.log_every = 1
    records: dict[str, Tensor] = {}
    model.record = lambda name, value: records.update({name: value})  # type: ignore[method-assign]
    model.cross_entropy(logits, target)
    return {f"acc{k}": records[f"accuracy/top{k}"].view(1) for k in (1, 5)}


@torch.no_grad()
def in_steps(gpt: GPT, tokens: Tensor) -> Tensor:
    """Logits of tokens that are read one after the other."""
    cache = Cache(gpt, len(tokens), tokens.shape[1])
    return torch.stack([gpt.advance(token[:, None], cache) for token in tokens.unbind(1)], 1)


def check_gpt(reference: TATSReference) -> None:
    config, inputs = reference.config, reference.inputs
    own = {key: value for key, value in reference.state.items() if "/" not in key}
    gpt = transformer_of(own, config["n_head"])
    compare_sizes(config, gpt)
    logits = gpt(inputs["idx"])
    loss = F.cross_entropy(logits.flatten(0, 1), inputs["targets"].flatten())
    loss.backward()
    reference.compare_norms("grad_norm/", official_gradients(gpt, TRANSFORMER_PART))
    prefix = inputs["embeddings"].double()
    short = reference.outputs["logits_short"].shape[1]
    rest = reference.outputs["logits_with_prefix_embeddings"].shape[1] - prefix.shape[1]
    values = {
        "logits": logits,
        "loss": loss,
        "logits_short": gpt(inputs["idx"][:, :short]),
        "logits_with_prefix_embeddings": gpt(inputs["idx"][:, :rest], prefix=prefix),
        "cached_logits": in_steps(gpt, inputs["idx"]),
        **hits(logits, inputs["targets"]),
    }
    table = config["vtokens"]
    gpt = transformer_of(inside("vtokens/", reference.state), config["n_head"])
    assert gpt.table is not None
    whole = [table["sequence_length"], table["resolution"], table["resolution"]]
    assert list(gpt.table.shape[1:4]) == whole and gpt.block == table["block_size"]
    boxes, times = torch.tensor(table["cbox"]), torch.tensor(table["tbox"])
    for key, of in (("vtokens_logits", [[0, whole[0]]] * len(boxes)), ("vtokens_logits_tbox", times.tolist())):
        (begin, end), (top, bottom, left, right) = of[0], boxes[0].tolist()
        corners = torch.stack([torch.tensor(of)[:, 0], boxes[:, 0], boxes[:, 2]], 1)
        places = gpt.places((end - begin, bottom - top, right - left), corners)
        values[key] = gpt(inputs["vtokens_idx" if key == "vtokens_logits" else "vtokens_idx_tbox"], places=places)
    reference.compare_all(values)


def description(config: Mapping[str, Any], state: State, width: int | None = None) -> dict[str, Any]:
    """Of an official autoencoder, for our transformers."""
    sizes = official.vqgan_sizes(official.split_vqgan(state))
    sizes.pop("levels")
    settings = {**official.vqgan_settings(config), "width": width}
    model = TATSVQGAN(**{**sizes, **settings})
    return {"model": "tats_vqgan", "model_args": model.init_args, "weights": fingerprint(dict(state))}


def fill_stage(network: nn.Module, state: State) -> None:
    network.load_state_dict({**network.state_dict(), **official.translate(state, AUTOENCODER_PART)})


class Case:
    """One of the transformers of a file: what it is follows from its sizes.

    Args:
        reference: the file.
        name: of the transformer.
    """

    def __init__(self, reference: TATSReference, name: str) -> None:
        self.name = name
        self.config = config = reference.config["cases"][name]
        self.first = inside("first_stage_model.", reference.state)
        self.sound = inside("stft_model.", reference.state)
        self.own = inside(f"{name}/transformer.", reference.state)
        first, outputs = reference.config["first_stage"], reference.outputs
        conditions = outputs[f"{name}/c_indices"].shape[1]
        sizes: dict[str, Any] = {key: reference.config[key] for key in ("n_layer", "n_head", "n_embd")}
        sizes |= {"first_stage": description(first, self.first), "channels": first["image_channels"]}
        sizes |= {"resolution": first["resolution"], "num_frames": official.vqgan_settings(first)["num_frames"]}
        assert config["sos_token"] == 0
        t, h, w = reference.config["latent_shape"]
        self.batch = {"video": 2 * reference.inputs["video"].double()}
        if config["n_unmasked"]:
            assert config["n_unmasked"] == h * w and not config["cond_vocab"]
            self.model: Any = TATSInterpolation(**sizes, gap=t - 1)
        else:
            tokens = outputs[f"{name}/z_indices"].shape[1]
            stride = next(stride for stride in range(1, t + 1) if -(-t // stride) * h * w == tokens)
            sizes |= {"latent_stride": stride, "block_size": config["block"]}
            if conditions > 1:
                sound = reference.inputs["stft"]
                stage = description(reference.config["stft_stage"], self.sound, sound.shape[-1])
                stage["model_args"]["resolution"] = sound.shape[-2]
                sizes |= {"condition": "audio", "audio_stage": stage}
                self.batch["audio"] = 2 * sound.double()
            elif config["cond_vocab"]:
                sizes |= {"condition": "label", "dim_category": config["cond_vocab"]}
                self.batch["label"] = reference.inputs["label"]
            self.model = TATS(**sizes)
        self.sizes = sizes

    def load(self, model: Any) -> Any:
        """Official weights."""
        model.transformer.load_state_dict(official.translate(self.own, TRANSFORMER_PART))
        fill_stage(model.first_stage, self.first)
        if getattr(model, "audio_stage", None) is not None:
            fill_stage(model.audio_stage, self.sound)
        return model.double()


class KeptTokens(TATS):
    """Keeps and replaces the tokens that a file says."""

    def given(self, inputs: State) -> None:
        self.inputs = inputs

    def noise(self, stream: str) -> Any:
        return self if stream == "keep" else super().noise(stream)

    def uniform(self, *shape: Any) -> Tensor:  # type: ignore[override]
        kept = self.inputs["mask"]
        assert shape == kept.shape
        return torch.where(kept > 0, 0.0, 1.0)

    def integers(self, high: int, *shape: int) -> Tensor:
        found = self.inputs["random_indices"]
        assert shape == found.shape and found.max() < high
        return found


def compare_groups(case: Case) -> None:
    """The optimiser of the official code is ours."""
    optimizer = case.model.build_optimizer()
    names = {id(parameter): name for name, parameter in case.model.transformer.named_parameters()}
    config = case.config
    for group, key, decay in zip(optimizer.param_groups, ("decay", "no_decay"), config["wd"], strict=True):
        found = [name for one in group["params"] for name in official.official_names(names[id(one)], TRANSFORMER_PART)]
        assert sorted(found) == sorted(config[key])
        assert (group["weight_decay"], list(group["betas"]), group["eps"]) == (decay, config["betas"], config["eps"])


def check_net2net(reference: TATSReference) -> None:
    config, inputs, outputs = reference.config, reference.inputs, reference.outputs
    for kind, stage, prefix in (("video", "first", "first_stage_model."), ("stft", "stft", "stft_model.")):
        network = autoencoder_of(config[f"{stage}_stage"], inside(prefix, reference.state)).eval()
        z = network.latents(inputs[kind].double())
        compare_margin(reference, f"{kind}_min_distance_margin", network, z)
        if kind == "video":
            assert list(z.shape[2:]) == list(config["latent_shape"])
    for name in [name for name, case in config["cases"].items() if "vocab" in case]:
        case = Case(reference, name)
        model = case.load(case.model)
        compare_sizes({**config, **case.config}, model.transformer)
        compare_groups(case)
        logits, target = model.predict(case.batch)
        loss = model.loss(case.batch)["cross_entropy"]
        loss.backward()
        offset = case.config["cond_vocab"]
        start = torch.zeros(len(target), 1, dtype=torch.int64)
        conditions = model.condition_tokens(case.batch, len(target)) if isinstance(model, TATS) else start
        values = {"z_indices": target - offset, "c_indices": conditions, "logits": logits, "target": target}
        reference.compare_all({**values, "loss": loss, **hits(logits, target)}, f"{name}/")
        reference.compare_norms(
            f"{name}/grad_norm/", official_gradients(model.transformer, TRANSFORMER_PART, "transformer.")
        )
        same = torch.equal(outputs["pkeep/target"], target) and outputs["pkeep/logits"].shape == logits.shape
        if same and "pkeep/logits" in reference.open:
            kept = KeptTokens(**case.sizes, keep_probability=0.5)
            case.load(kept).train().given(inside("pkeep/", inputs))
            logits, target = kept.predict(case.batch)
            loss = kept.loss(case.batch)["cross_entropy"]
            reference.compare_all({"logits": logits, "target": target, "loss": loss}, "pkeep/")
        for steps in [key for key in config["cases"] if re.fullmatch(rf"{re.escape(name)}_train\d+", key)]:
            compare_trained_transformer(reference, case, steps)


def compare_trained_transformer(reference: TATSReference, case: Case, key: str) -> None:
    """Some iterations by Lightning's trainer."""
    training = reference.config["cases"][key]
    model = case.load(type(case.model)(**case.sizes, learning_rate=training["lr"]))
    order = torch.tensor(training["order"]).split(training["batch_size"])
    codes = {name: value.clone() for name, value in model.first_stage.state_dict().items()}
    modes: list[bool] = []
    model.first_stage.encoder.register_forward_pre_hook(lambda *_: modes.append(model.first_stage.training))
    train(model, [{name: value[rows] for name, value in case.batch.items()} for rows in order])
    assert set(modes) == {training["first_stage_training"]}
    unchanged = all(torch.equal(value, codes[name]) for name, value in model.first_stage.state_dict().items())
    assert unchanged == training["first_stage_codebook_unchanged"]
    deviation = reference.config["cases"][f"{key}_abs_deviation_of_float64_run"]
    for name, value in model.transformer.state_dict().items():
        for theirs, own in official.official_entries(name, value, TRANSFORMER_PART).items():
            spread = next(deviation[one] for one in (theirs, f"transformer.{theirs}") if one in deviation)
            reference.compare_trained(f"{key}/transformer.{theirs}", own, spread)


# Samples ------------------------------------------------------------------------------------------------------------


class GivenPick:
    """Chooses tokens with exponential draws, one slab ``(B, V)`` for each."""

    def __init__(self, draws: Tensor) -> None:
        self.draws = draws
        self.used = 0

    def __call__(self, probabilities: Tensor) -> Tensor:
        draws = self.draws[self.used][: len(probabilities)]
        self.used += 1
        return (probabilities.double() / draws).argmax(-1)


def check_interpolation(reference: TATSReference) -> None:
    config, inputs, outputs = reference.config, reference.inputs, reference.outputs
    gpt = transformer_of(reference.state, config["n_head"])
    compare_sizes(config, gpt)
    n = config["n_unmasked"]
    assert config["tokens_per_frame"] == n and config["frames"] * n == gpt.block
    for key in sorted(inside("mask_", outputs)):
        kind, length, unmasked = re.split("[/_]", key)
        reference.compare(f"mask_{key}", interpolation_mask(int(length), int(unmasked), kind))
    with torch.no_grad():
        for kind in "abc":
            logits = gpt(inputs["idx"], interpolation_mask(gpt.block, n, kind))
            reference.compare("train_logits" if kind == "c" else f"train_logits_mask_{kind}", logits)
        entropy = F.cross_entropy(logits.transpose(1, 2), inputs["z"], reduction="none")
        reference.compare("train_loss_per_token", entropy)
        start = inputs["idx"][:, :1]
        for name in ("official", "consistent"):
            given = (gpt, start, inputs["first"], inputs["last"])
            reference.compare(f"{name}_greedy", interpolate(*given, Choice(), greedy, name == "official"))
            pick = GivenPick(inputs["exp_draws"])
            choice = Choice(1.0, config["top_k"], config["top_p"])
            reference.compare(f"{name}_sample", interpolate(*given, choice, pick, name == "official"))
            assert pick.used == len(inputs["exp_draws"])
        ends = torch.cat([start, inputs["first"], inputs["last"]], 1)
        count = ends.shape[1]
        places = torch.cat([torch.arange(n + 1), torch.arange(gpt.block - n, gpt.block)])
        corner = interpolation_mask(gpt.block, n)[:count, :count]
        cache = Cache(gpt, len(ends), count + 1)
        logits = gpt.advance(ends, cache, places, corner, rows=range(count))
        reference.compare("official_first_pass_logits", logits)
        logits = gpt.advance(inputs["z"][:, n : n + 1], cache, torch.tensor([n + 1]))
        reference.compare("official_second_step_logits", logits)


def choice_of(name: str) -> Choice:
    """How the tokens of an output were chosen, by its name."""
    for beginning, choice in UNSAID.items():
        if name.startswith(beginning):
            return choice
    found = {key: re.search(rf"{key}([\d.]+)", name) for key in ("temp", "topk", "topp")}
    temperature, top_k, top_p = (float(match[1]) if match else None for match in found.values())
    return Choice(temperature or 1.0, None if top_k is None else int(top_k), 1.0 if top_p is None else top_p)


def check_sampling(reference: TATSReference) -> None:
    config, inputs, outputs = reference.config, reference.inputs, reference.outputs
    gpt = transformer_of(reference.state, config["n_head"])
    compare_sizes(config, gpt)
    for number, (top_k, top_p) in enumerate(config["filter_combos"]):
        reference.compare(f"filter_{number}", filtered(inputs["filter_logits"], top_k, top_p))
    for name in sorted(key for key in outputs if key.startswith(("net2net_", "past_"))):
        start = torch.cat([inputs["c"], inputs["prefix"]], 1) if "prefix" in name else inputs["c"]
        steps = config["steps"] + 1 - start.shape[1]
        pick = greedy if "greedy" in name else GivenPick(inputs["exp_draws"])
        choice = choice_of(name)
        with torch.no_grad():
            if name.startswith("net2net"):
                found = generate_uncached(gpt, start, steps, choice, pick)
                found = torch.cat([start[:, inputs["c"].shape[1] :], found], 1)
            else:
                found = generate(gpt, Cache(gpt, len(start), gpt.block), start, steps, choice, pick)
        reference.compare(name, found)


class GivenInterpolation(TATSInterpolation):
    """Chooses tokens with the draws of a file, in their order."""

    def give(self, draws: Tensor) -> None:
        self.pick = GivenPick(draws)

    def uniform(self, *_: Any) -> Any:
        return self.pick


def check_long_video(reference: TATSReference) -> None:
    config, inputs, outputs = reference.config, reference.inputs, reference.outputs
    network = autoencoder_of(config["first_stage"], inside("first_stage_model.", reference.state)).eval()
    heads, codes = config["gpt"]["n_head"], network.n_codes
    frame = tuple(config["latent_shape"][1:])

    def compare_tokens(key: str, video: str | None, tokens: Tensor) -> None:
        reference.compare(key, tokens)
        if video:
            reference.compare(video, (network.decode(tokens) + 1) / 2)

    gpt = transformer_of(inside("transformer.", reference.state), heads)
    compare_sizes(config["gpt"], gpt)
    fast = config["fast"]
    label = torch.full((fast["batch"], 1), config["class_label"])
    assert fast["spatial"] == frame[0] == frame[1]
    choice = Choice(1.0, fast["top_k"], fast["top_p"])
    for key in sorted(key for key in outputs if re.fullmatch(r"fast/pos\d+", key)):
        pick = GivenPick(inputs["exp_draws"])
        with torch.no_grad():
            latents = slide(
                gpt,
                label,
                frame[0] * frame[1],
                fast["temporal_infer"],
                int(key.removeprefix("fast/pos")),
                lambda _, pick=pick: (choice, pick),
            )
            tokens = torch.stack(list(latents), 1).unflatten(2, frame)
        assert pick.used == len(inputs["exp_draws"])
        compare_tokens(key, f"{key}_video", (tokens - config["n_cond"]).clamp(0, codes - 1))
    dense = config["dense"]
    gpt = transformer_of(inside("transformer_pos.", reference.state), heads)
    sizes = [(dense[f"temporal_{of}"], *[dense[f"spatial_{of}"]] * 2) for of in ("infer", "train")]
    pick = GivenPick(inputs["exp_draws_dense"])
    window = dense["temporal_sample_pos"]
    with torch.no_grad():
        tokens = slide_densely(gpt, label, *sizes, window, Choice(1.0, dense["top_k"]), pick)
    assert pick.used == len(inputs["exp_draws_dense"])
    compare_tokens(f"dense/pos{window}", None, (tokens - config["n_cond"]).clamp(0, codes - 1))
    check_hierarchy(reference, network)


def check_hierarchy(reference: TATSReference, network: VideoAutoencoder) -> None:
    """Key frames and what is between them, by the model."""
    config, state, hier = reference.config, reference.state, reference.config["hier"]
    first, heads = config["first_stage"], config["gpt"]["n_head"]
    autoencoder = inside("first_stage_model.", state)
    stage = description_without_encoder(first, autoencoder, network)
    keys, between = (inside(f"{name}.", state) for name in ("ar", "interp"))
    sizes = {"first_stage": stage, "channels": first["image_channels"], "resolution": first["resolution"]}
    own, other = official.transformer_sizes(keys), official.transformer_sizes(between)
    n = hier["n_unmasked"]
    gap = hier["interp_block"] // n - 1
    frames = first["downsample"][0]
    clip = own["block_size"] // n  # latents of a clip of key frames, each one gap from the next
    key_model = TATS(
        **sizes,
        n_head=heads,
        n_layer=own["n_layer"],
        n_embd=own["n_embd"],
        latent_stride=gap,
        num_frames=((clip - 1) * gap + 1) * frames,
    )
    model = GivenInterpolation(
        **sizes,
        keys={"model": "tats", "model_args": key_model.init_args},
        gap=gap,
        num_frames=(gap + 1) * frames,
        n_head=heads,
        n_layer=other["n_layer"],
        n_embd=other["n_embd"],
        sampler="official",
    )
    assert model.key_model is not None
    assert model.transformer.block == hier["interp_block"]
    model.key_model.load_state_dict(official.translate(keys, TRANSFORMER_PART))
    model.transformer.load_state_dict(official.translate(between, TRANSFORMER_PART))
    model.first_stage.load_state_dict(network.state_dict())
    model.double().eval()
    draws = reference.inputs["exp_draws_hier"]
    model.give(in_turn(draws, n, hier["key_latents"], gap))
    batch, latents = draws.shape[1], hier["sample_length"] + 1
    assert (hier["key_latents"] - 1) * gap == hier["sample_length"]
    seen: list[Tensor] = []
    decode = model.first_stage.decode
    model.first_stage.decode = lambda tokens: (seen.append(tokens), decode(tokens))[1]  # type: ignore[assignment]
    options = {"top_k": hier["top_k"], "top_p": hier["top_p"], "window": hier["temporal_sample_pos"]}
    options |= {"first_top_k": hier["top_k_init"], "first_top_p": hier["top_p_init"]}
    video = model.sample(batch, num_frames=latents * frames, **options)
    assert model.pick.used == len(draws)
    reference.compare("hier/tokens", torch.cat(seen, 1))
    reference.compare("hier/video", (video + 1) / 2)


def in_turn(draws: Tensor, n: int, keys: int, gap: int) -> Tensor:
    """The official code makes all key frames first, ours fills each gap at once: draws in our order."""
    of_keys, of_gaps = draws[: keys * n].split(n), draws[keys * n :].split((gap - 1) * n)
    parts = [of_keys[0]]
    for right, middle in zip(of_keys[1:], of_gaps, strict=True):
        parts += [right, middle]
    return torch.cat(parts)


def description_without_encoder(config: Mapping[str, Any], state: State, network: VideoAutoencoder) -> dict[str, Any]:
    """Of an autoencoder of which a file holds no encoder."""
    names = ("n_hiddens", "embedding_dim", "n_codes")
    sizes = {
        "channels": config["image_channels"],
        "norm": config["norm_type"],
        **{name: config[name] for name in names},
    }
    model = TATSVQGAN(**{**sizes, **official.vqgan_settings(config)})
    return {"model": "tats_vqgan", "model_args": model.init_args, "weights": fingerprint(dict(state))}


# Checkpoints --------------------------------------------------------------------------------------------------------


def converted(place: Path, name: str, content: Tensor, **options: Any) -> Any:
    """The model that ``vidgen convert`` makes of the bytes of a file; it is left in the folder as ``NAME.ckpt``."""
    source, out = place / f"official_{name}.ckpt", place / f"{name}.ckpt"
    source.write_bytes(content.numpy().tobytes())
    convert(name, source, out, options)
    return vidgen.load(out)


def check_shapes(model: nn.Module, part: Part, shapes: Mapping[str, list[int]], prefix: str = "") -> None:
    """Official names and shapes are those of our network."""
    layout: dict[str, list[int]] = {}
    for name, value in model.state_dict().items():
        if name != "codebook.initialised":
            layout |= {
                f"{prefix}{key}": list(own.shape) for key, own in official.official_entries(name, value, part).items()
            }
    expected = {key: list(shape) for key, shape in shapes.items() if not key.endswith("attn.mask")}
    assert layout == expected


def check_checkpoint(reference: TATSReference) -> None:
    config, inputs = reference.config, reference.inputs
    video = 2 * inputs["video"].double()
    args = config["vqgan_hyper_parameters_args"]
    with tempfile.TemporaryDirectory() as directory:
        make = partial(converted, Path(directory))
        model = make("tats_vqgan", inputs["vqgan_ckpt_bytes"])
        alone = make("tats", inputs["transformer_ckpt_bytes"])
        # how the autoencoder pads is said by its own file alone
        second = make("tats", inputs["transformer_ckpt_bytes"], first_stage=f"{directory}/tats_vqgan.ckpt")
    assert all(torch.equal(value, alone.state_dict()[key]) for key, value in second.state_dict().items())
    first = second.init_args["first_stage"]["model_args"]
    assert first == model.init_args
    assert alone.init_args["first_stage"]["model_args"]["downsample"] == first["downsample"]
    expected = {**official.vqgan_settings(args), "channels": args["image_channels"], "norm": args["norm_type"]}
    expected |= {key: args[key] for key in ("n_hiddens", "embedding_dim", "n_codes", "disc_channels", "disc_layers")}
    assert {key: model.init_args[key] for key in expected} == {**expected, "downsample": tuple(args["downsample"])}
    state = state_of(model)
    kept = {key: value for key, value in state.items() if f"vqgan_state/{key}" in reference.outputs}
    for key, value in kept.items():
        reference.compare(f"vqgan_state/{key}", value, tolerance=0.0)
    network = model.double().autoencoder
    tokens = model.encode(video)
    reference.compare("vqgan_indices", tokens)
    reference.compare("vqgan_decode", network.frames(network.codebook.lookup(tokens)))

    second.double()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in second.first_stage.state_dict().items())
    batch = {"video": video, "label": inputs["label"]}
    logits, target = second.predict({key: batch[key] for key in second.train_keys})
    reference.compare("transformer_logits", logits)
    reference.compare("transformer_target", target)
    names = {
        f"{TRANSFORMER_PART.prefix}{key}"
        for name in second.transformer.state_dict()
        for key in official.official_names(name, TRANSFORMER_PART)
    }
    said = {key for key in config["tiny_transformer_state_keys"] if key.startswith("transformer.")}
    assert names == {key for key in said if not key.endswith("attn.mask")}
    check_layouts(config)


def check_layouts(config: Mapping[str, Any]) -> None:
    """The released sizes, without storage."""
    shapes = config["readme_vqgan_shapes"]
    with torch.device("meta"):
        states = {key: torch.empty(shape) for key, shape in shapes.items()}
        split = official.split_vqgan(states)
        sizes = official.vqgan_sizes(split)
        levels = sizes.pop("levels")
        model = TATSVQGAN(**sizes, downsample=(2, 2**levels, 2**levels), resolution=2**levels, num_frames=2)
        for part in VQGAN_PARTS:
            check_shapes(
                model.get_submodule(part.ours),
                part,
                {key: list(value.shape) for key, value in split[part.prefix].items()},
            )
        shapes = inside("transformer.", config["tats_base_transformer_shapes"])
        sizes = official.transformer_sizes({key: torch.empty(shape) for key, shape in shapes.items()})
        gpt = GPT(
            sizes["vocabulary"], sizes["block_size"], sizes["n_layer"], 1, sizes["n_embd"], sizes["position_table"]
        )
        check_shapes(gpt, TRANSFORMER_PART, shapes)


# Which file is read by what -----------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[Any], None]] = {
    "padding.pt": check_padding,
    "codebook.pt": check_codebook,
    "vqgan_batchnorm.pt": check_autoencoder,
    "vqgan_groupnorm.pt": check_autoencoder,
    "discriminators.pt": check_discriminators,
    "vqgan_losses.pt": check_losses,
    "vqgan_train_steps.pt": check_train_steps,
    "gpt.pt": check_gpt,
    "net2net.pt": check_net2net,
    "interpolation.pt": check_interpolation,
    "sampling.pt": check_sampling,
    "long_video.pt": check_long_video,
    "checkpoint.pt": check_checkpoint,
}
ELSEWHERE = {"fvd.pt": "test_tats_metrics.py", "lpips.pt": "test_tats_perceptual.py", "data.pt": "test_tats_data.py"}


def with_another_weight(content: Tensor) -> Tensor:
    """The bytes of an official file in which one weight is another."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        changed = torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)
    next(iter(changed["state_dict"].values())).view(-1)[0] += 0.5
    file = io.BytesIO()
    torch.save(changed, file)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


class TestTATS(ReferenceSuite):
    model = "tats"
    checks = CHECKS
    elsewhere = ELSEWHERE
    tolerance = TOLERANCE

    def open(self, name: str) -> TATSReference:
        return TATSReference(folder("tats") / name)

    def change(self, reference: Reference) -> Reference:
        """One number is another, also where the weights are in a file within, or where all outputs are tokens."""
        if "vqgan_ckpt_bytes" in reference.inputs:
            content = reference.inputs["vqgan_ckpt_bytes"]
            reference.inputs = {**reference.inputs, "vqgan_ckpt_bytes": with_another_weight(content)}
            return reference
        if "exp_draws" in reference.inputs:
            key = next(key for key in reference.state if key.endswith("head.weight"))
            reference.state[key].view(-1)[0] += 10
            return reference
        for case in reference.config.get("cases", ()):
            if "need_init" in case and not case["need_init"]:  # others begin with new codes
                reference.state[f"{case['name']}/z_avg"][0, 0] += 0.5
                return reference
        return reference.with_one_weight_changed()

    @pytest.mark.parametrize(
        ("file", "key"), [("gpt.pt", "logits"), ("vqgan_losses.pt", "after/opt0/x_recon"), ("padding.pt", None)]
    )
    def test_a_tolerance_wider_than_specified_is_noticed(self, file: str, key: str | None) -> None:
        self.widened(file, key or next(iter(self.open(file).outputs)), 2 * TOLERANCE)
