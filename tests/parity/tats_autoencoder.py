"""The first stage of TATS beside the official one: networks, losses and training."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.parity.replay import train
from tests.parity.tats_reference import LPIPS, MODES, TOLERANCE, GivenDraws, State, TATSReference, inside
from vidgen.interop.tats import split_vqgan, vqgan_sizes
from vidgen.interop.tats_arguments import vqgan_settings
from vidgen.interop.tats_names import (
    AUTOENCODER_PART,
    CODEBOOK,
    DISCRIMINATORS,
    VQGAN_PARTS,
    Part,
    official_entries,
    official_names,
    translate,
)
from vidgen.losses.adversarial import cross_entropy_fake, cross_entropy_real, hinge_fake, hinge_real
from vidgen.losses.perceptual import PerceptualLoss
from vidgen.models.tats.autoencoder import VideoAutoencoder
from vidgen.models.tats.codebook import Codebook
from vidgen.models.tats.discriminators import PatchDiscriminator
from vidgen.models.tats.networks import PaddedConv3d, PaddedConvTranspose3d
from vidgen.models.tats.vqgan import TATSVQGAN

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
    return {theirs: state[ours].clone() for theirs, ours in CODEBOOK.items()}


def check_codebook(reference: TATSReference) -> None:
    config = reference.config
    for case in config["cases"]:
        name = case["name"]
        restarts = not case["no_random_restart"]
        codebook = Codebook(config["n_codes"], config["embedding_dim"], restarts, case["restart_thres"]).double()
        given = inside(f"{name}/", reference.state)
        state = {ours: given[theirs].double() for theirs, ours in CODEBOOK.items()}
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
    network.load_state_dict({**network.state_dict(), **translate(state, AUTOENCODER_PART)})
    return network.double()


def statistics(network: nn.Module, part: Part) -> dict[str, Tensor]:
    """Of batch norms, by official name."""
    buffers = {name: buffer for name, buffer in network.named_buffers() if not name.startswith("codebook")}
    return {official_names(name, part)[0]: buffer.clone() for name, buffer in buffers.items()}


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
        for theirs, own in official_entries(name, gradient, part).items():
            found[f"{prefix}{theirs}"] = own
    return found


def check_discriminators(reference: TATSReference) -> None:
    config, inputs = reference.config, reference.inputs
    for part, axes in zip(DISCRIMINATORS, (2, 3), strict=True):
        kind = part.ours.removesuffix("_discriminator")
        network = PatchDiscriminator(axes, config["input_nc"], config["ndf"], config["n_layers"])
        network.load_state_dict(translate(inside(part.prefix, reference.state), part))
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
    sizes = vqgan_sizes(split_vqgan(reference.state))
    assert sizes.pop("levels") == int(math.log2(max(config["downsample"])))
    settings = vqgan_settings(config)
    model = ReplayedVQGAN(**{**sizes, **settings, **more})
    for part in VQGAN_PARTS:
        own = split_vqgan(reference.state)[part.prefix]
        model.get_submodule(part.ours).load_state_dict(translate(own, part))
    model.perceptual = perceptual_of(reference.state)
    return model.double()


def state_of(model: TATSVQGAN) -> dict[str, Tensor]:
    """Whole state dict, by official name."""
    found: dict[str, Tensor] = {}
    for part in VQGAN_PARTS:
        for name, value in model.get_submodule(part.ours).state_dict().items():
            if name != "codebook.initialised":
                found[f"{part.prefix}{official_names(name, part)[0]}"] = value.clone()
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
