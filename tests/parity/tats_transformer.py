"""The second stage of TATS beside the official one: networks, training and samples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.parity.replay import train
from tests.parity.tats_autoencoder import autoencoder_of, compare_margin, official_gradients
from tests.parity.tats_reference import UNSAID, State, TATSReference, inside
from vidgen.interop.tats import split_vqgan, transformer_sizes, vqgan_sizes
from vidgen.interop.tats_arguments import vqgan_settings
from vidgen.interop.tats_names import (
    AUTOENCODER_PART,
    TRANSFORMER_PART,
    official_entries,
    official_names,
    translate,
)
from vidgen.models.stages import fingerprint
from vidgen.models.tats.autoencoder import VideoAutoencoder
from vidgen.models.tats.gpt import GPT, Cache, interpolation_mask
from vidgen.models.tats.interpolation import TATSInterpolation
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

# The transformer ----------------------------------------------------------------------------------------------------


def transformer_of(state: State, heads: int) -> GPT:
    """Our transformer with official weights, in float64."""
    sizes = transformer_sizes(state)
    table = sizes["position_table"]
    gpt = GPT(sizes["vocabulary"], sizes["block_size"], sizes["n_layer"], heads, sizes["n_embd"], table)
    gpt.load_state_dict(translate(state, TRANSFORMER_PART))
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
    sizes = vqgan_sizes(split_vqgan(state))
    sizes.pop("levels")
    settings = {**vqgan_settings(config), "width": width}
    model = TATSVQGAN(**{**sizes, **settings})
    return {"model": "tats_vqgan", "model_args": model.init_args, "weights": fingerprint(dict(state))}


def fill_stage(network: nn.Module, state: State) -> None:
    network.load_state_dict({**network.state_dict(), **translate(state, AUTOENCODER_PART)})


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
        sizes |= {"resolution": first["resolution"], "num_frames": vqgan_settings(first)["num_frames"]}
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
        model.transformer.load_state_dict(translate(self.own, TRANSFORMER_PART))
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
        found = [name for one in group["params"] for name in official_names(names[id(one)], TRANSFORMER_PART)]
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
        for theirs, own in official_entries(name, value, TRANSFORMER_PART).items():
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
    own, other = transformer_sizes(keys), transformer_sizes(between)
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
    model.key_model.load_state_dict(translate(keys, TRANSFORMER_PART))
    model.transformer.load_state_dict(translate(between, TRANSFORMER_PART))
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
    model = TATSVQGAN(**{**sizes, **vqgan_settings(config)})
    return {"model": "tats_vqgan", "model_args": model.init_args, "weights": fingerprint(dict(state))}
