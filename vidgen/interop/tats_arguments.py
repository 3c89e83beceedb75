"""Arguments of the official command lines of TATS, which its checkpoints hold, and what they say here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidgen.errors import UserError
from vidgen.interop.arguments import (
    RATE,
    SHARE,
    TRUTH,
    WEIGHT,
    Rule,
    check_value,
    one_of,
    shown,
    whole,
    whole_numbers,
)
from vidgen.text import VOCABULARY

TEXT_LENGTH = 256

VQGAN_SIZES = {
    "image_channels": "channels",
    "n_hiddens": "n_hiddens",
    "embedding_dim": "embedding_dim",
    "n_codes": "n_codes",
    "norm_type": "norm",
    "disc_channels": "disc_channels",
    "disc_layers": "disc_layers",
}
"""Official argument -> ours, of what the shapes say too."""

TRANSFORMER_SIZES = {"block_size": "block_size", "n_layer": "n_layer", "n_embd": "n_embd"}
"""As :data:`VQGAN_SIZES`."""

VQGAN_SETTINGS: dict[str, tuple[str, Rule]] = {
    "downsample": ("downsample", whole_numbers(3)),
    "resolution": ("resolution", whole(1)),
    "padding_type": ("padding", one_of("replicate", "constant", "reflect", "circular")),
    "no_random_restart": ("random_restart", TRUTH),
    "restart_thres": ("restart_threshold", WEIGHT),
    "discriminator_iter_start": ("disc_start", whole(0)),
    "disc_loss_type": ("disc_loss", one_of("hinge", "vanilla")),
    "image_gan_weight": ("image_gan_weight", WEIGHT),
    "video_gan_weight": ("video_gan_weight", WEIGHT),
    "l1_weight": ("l1_weight", WEIGHT),
    "gan_feat_weight": ("gan_feat_weight", WEIGHT),
    "perceptual_weight": ("perceptual_weight", WEIGHT),
    "lr": ("learning_rate", RATE),
}
"""Official argument -> ours, and what it must be."""

TRANSFORMER_SETTINGS: dict[str, tuple[str, Rule]] = {
    "resolution": ("resolution", whole(1)),
    "n_head": ("n_head", whole(1)),
    "sample_every_n_latent_frames": ("latent_stride", whole(0)),
}
MORE_SETTINGS: dict[str, tuple[str, Rule]] = {"pkeep": ("keep_probability", SHARE)}
OPTIONS = {
    "downsample": whole_numbers(3),
    "num_frames": whole(1),
    "resolution": whole(1),
    "width": whole(1),
    "n_head": whole(1),
    "learning_rate": RATE,
    "sampler": one_of("consistent", "official"),
}
SWITCHES = ("vtokens", "image_folder", "accumulate_grad_batches", "class_cond_dim", "sos_token")
"""Official arguments that are asked whether they are true, or equal to something, before anything else."""
EXAMPLES = {"downsample": "[4,8,8]", "num_frames": "16", "resolution": "128", "n_head": "16"}


def given_options(**options: Any) -> dict[str, Any]:
    """Options that are not None, checked."""
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        check_value(name, value, OPTIONS[name])
    return given


def require(settings: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Check that the file, or an option, says what it must."""
    missing = [name for name in names if name not in settings]
    if missing:
        hint = " ".join(f"{name}={EXAMPLES[name]}" for name in missing)
        raise UserError(f"does not say {', '.join(missing)}; give it, for example {hint}")


def settings_of(
    args: Mapping[str, Any], names: Mapping[str, tuple[str, Rule]], prefix: str = "args."
) -> dict[str, Any]:
    """Arguments of the model that official ones say."""
    found: dict[str, Any] = {}
    for theirs, (ours, rule) in names.items():
        if theirs in args:
            check_value(f"{prefix}{theirs}", args[theirs], rule)
            found[ours] = args[theirs]
    if "random_restart" in found:
        found["random_restart"] = not found["random_restart"]
    if found.get("padding") == "constant":
        found["padding"] = "zero"
    if "latent_stride" in found:
        found["latent_stride"] = max(1, found["latent_stride"])
    return found


def vqgan_settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the autoencoder that official ones say, beside those that follow from shapes.

    Raises:
        UserError: one cannot be.
    """
    return {**settings_of(args, VQGAN_SETTINGS), **clip_of(args)}


def clip_of(args: Mapping[str, Any]) -> dict[str, int]:
    """Frames of a clip: the official argument counts those of the source, but for folders of images."""
    if "sequence_length" not in args or args.get("vtokens"):
        return {}
    check_value("args.sequence_length", args["sequence_length"], whole(1))
    every = args.get("sample_every_n_frames", 1)
    check_value("args.sample_every_n_frames", every, whole(1))
    return {"num_frames": args["sequence_length"] if args.get("image_folder") else args["sequence_length"] // every}


def clip_of_tokens(args: Mapping[str, Any], downsample: Any, options: Mapping[str, Any]) -> dict[str, int]:
    """Size of a clip of a model of stored tokens, whose official arguments count latents."""
    if not args.get("vtokens"):
        return {}
    names = {
        "num_frames": "sequence_length",
        "resolution": "spatial_length" if "spatial_length" in args else "resolution",
    }
    found = {}
    for (ours, theirs), factor in zip(names.items(), downsample, strict=False):
        if theirs in args and ours not in options:
            check_value(f"args.{theirs}", args[theirs], whole(1))
            found[ours] = args[theirs] * factor
    return found


def rate_of(args: Mapping[str, Any]) -> dict[str, float]:
    """The learning rate that the official script makes of its arguments, where they are all there."""
    names = {"base_lr": RATE, "batch_size": whole(1), "gpus": whole(1)}
    if any(args.get(name) is None for name in names):
        return {}
    for name, rule in names.items():
        check_value(f"args.{name}", args[name], rule)
    accumulated = args.get("accumulate_grad_batches") or 1
    check_value("args.accumulate_grad_batches", accumulated, whole(1))
    return {"learning_rate": args["base_lr"] * args["batch_size"] * args["gpus"] * accumulated}


def condition_of(args: Mapping[str, Any], more: Mapping[str, Any]) -> str | None:
    """What official arguments say that videos are made from, in our words; None where they say nothing.

    Args:
        args: the official command line.
        more: the other hyper-parameters.

    Raises:
        UserError: they name nothing that the official code has, or another start token.
    """
    if more.get("sos_token", 0) != 0:
        raise UserError(f"sos_token {shown(more['sos_token'])}: must be 0, the start token of every tats here")
    key, free = more.get("cond_stage_key", args.get("cond_stage_key")), args.get("unconditional")
    if key is None and free is None:
        return None
    if free is not None:
        check_value("args.unconditional", free, TRUTH)
    if key in ("stft", "text"):
        return {"stft": "audio", "text": "text"}[key]
    if free:
        return "none"
    if key != "label":
        raise UserError(f"cond_stage_key {shown(key)}: must be one of label, text, stft")
    return "label"


def condition_and_classes(said: str | None, args: Mapping[str, Any], extra: int) -> tuple[str, int]:
    """What videos are made from, and the number of classes.

    Args:
        said: by the file, or None.
        args: official arguments.
        extra: tokens that are no codes.
    """
    if said is None:
        said = {0: "none", VOCABULARY: "text"}.get(extra, "label")
    right = {"none": 0, "text": VOCABULARY}.get(said)
    if extra < 0 or (right is not None and extra != right) or (said == "label" and extra < 1):
        raise UserError(f"has {extra} tokens more than codes, which does not fit condition {said!r}")
    if said != "label":
        return said, 0
    if args.get("class_cond_dim") not in (None, extra):
        raise UserError(f"args.class_cond_dim is {shown(args['class_cond_dim'])}, but the weights have {extra} classes")
    return said, extra
