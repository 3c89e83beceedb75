"""Official TATS checkpoints: how to read the files.

The official code saves Lightning checkpoints: the state dict, and the command line's arguments in ``hyper_parameters``.
That of the transformer holds the whole autoencoder too, and that of audio where it has one. Sizes are read from shapes
and compared with the arguments, how the model is trained and used from the arguments. Plain state dicts with official
names are read too.
"""

from __future__ import annotations

import argparse
import errno
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.interop.arguments import (
    check_value,
    shown,
    whole_numbers,
)
from vidgen.interop.state_dicts import Given, as_stored, build, problems_of, shape_of
from vidgen.interop.tats_arguments import (
    MORE_SETTINGS,
    SWITCHES,
    TEXT_LENGTH,
    TRANSFORMER_SETTINGS,
    TRANSFORMER_SIZES,
    VQGAN_SIZES,
    clip_of,
    clip_of_tokens,
    condition_and_classes,
    condition_of,
    given_options,
    rate_of,
    require,
    settings_of,
    vqgan_settings,
)
from vidgen.interop.tats_names import (
    AUDIO_STAGE,
    AUTOENCODER_PART,
    DISCRIMINATORS,
    FIRST_STAGE,
    MASK,
    TRANSFORMER_PART,
    UNUSED,
    VQGAN_PARTS,
    Part,
    State,
    official_name,
    translate,
)
from vidgen.models.stages import fingerprint, open_stage
from vidgen.models.tats.gpt import interpolation_mask
from vidgen.models.tats.interpolation import TATSInterpolation
from vidgen.models.tats.transformer import TATS
from vidgen.models.tats.vqgan import TATSVQGAN

# Files ---------------------------------------------------------------------------------------------------------------

DAMAGE = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    zipfile.BadZipFile,
)
"""What ``torch.load`` may raise on a damaged file."""


class Content(NamedTuple):
    """What an official file holds.

    Args:
        state: the whole state dict.
        args: the official command line; empty where the file has none.
        more: the other hyper-parameters.
    """

    state: dict[str, Tensor]
    args: dict[str, Any]
    more: dict[str, Any]


def read_vqgan(
    source: Path,
    downsample: list[int] | None = None,
    num_frames: int | None = None,
    resolution: int | None = None,
    width: int | None = None,
) -> TATSVQGAN:
    """The autoencoder with the weights of an official file.

    Each option but ``source`` that is None is taken from the file's arguments. See :class:`TATSVQGAN` for what they
    mean.

    Args:
        source: Lightning checkpoint of the VQGAN, or its state dict.
        downsample: ``args.downsample``.
        num_frames: ``args.sequence_length``, of videos over ``args.sample_every_n_frames``.
        resolution: ``args.resolution``; of spectrograms, of which it says nothing, their height.
        width: of frames that are not square.

    Raises:
        UserError: the file cannot be read safely, its entries are not those of the official networks, its arguments say
            something else than they do, or an option is missing or has a value that cannot be.
    """
    options = given_options(downsample=downsample, num_frames=num_frames, resolution=resolution, width=width)
    content = _read(source)
    with problems_of(source):
        if any(key.startswith((TRANSFORMER_PART.prefix, FIRST_STAGE.prefix)) for key in content.state):
            raise UserError("holds a transformer; convert it with --model tats or --model tats_interpolation")
        states = split_vqgan(content.state)
        sizes = vqgan_sizes(states)
        _compare(sizes, content.args, VQGAN_SIZES)
        levels = sizes.pop("levels")
        settings = {**vqgan_settings(content.args), **options}
        require(settings, ("downsample", "num_frames", "resolution"))
        _check_levels(settings["downsample"], levels, "downsample" if downsample else "args.downsample")
        settings["downsample"] = tuple(settings["downsample"])
        networks = {
            part.ours: _network(states[part.prefix], part, source) for part in VQGAN_PARTS if part.prefix in states
        }
    return build(partial(TATSVQGAN, **{**sizes, **settings}), networks)


def read_transformer(
    source: Path,
    first_stage: str | None = None,
    audio_stage: str | None = None,
    downsample: list[int] | None = None,
    num_frames: int | None = None,
    resolution: int | None = None,
    n_head: int | None = None,
    learning_rate: float | None = None,
) -> TATS:
    """The transformer, and the autoencoders inside it, with the weights of an official file.

    Each option but ``source`` that is None is taken from the file's arguments, and what they do not say from the number
    of tokens. See :class:`TATS` for what they mean.

    Args:
        source: Lightning checkpoint of the transformer, or its state dict.
        first_stage: converted checkpoint of the autoencoder; needed where the file holds none. Where it holds one, of
            which it says neither ``padding`` nor ``downsample``, these are taken from here, else ``replicate`` and:
        audio_stage: converted checkpoint of the autoencoder of spectrograms, whose size the file does not say.
        downsample: of the autoencoder; None takes height and width as halved on each level, and time as often as makes
            the clip fill ``args.block_size``.
        num_frames: ``args.sequence_length``, of videos over ``args.sample_every_n_frames``.
        resolution: ``args.resolution``.
        n_head: ``args.n_head``.
        learning_rate: ``args.base_lr`` times the global batch size.

    Raises:
        UserError: as :func:`read_vqgan`.
    """
    options = given_options(num_frames=num_frames, resolution=resolution, n_head=n_head, learning_rate=learning_rate)
    stages = {"first_stage": first_stage, "audio_stage": audio_stage}
    return _read_tokens(source, False, options, downsample, stages)


def read_interpolation(
    source: Path,
    keys: str | None = None,
    first_stage: str | None = None,
    downsample: list[int] | None = None,
    num_frames: int | None = None,
    resolution: int | None = None,
    n_head: int | None = None,
    learning_rate: float | None = None,
    sampler: str | None = None,
) -> TATSInterpolation:
    """The interpolation transformer, and the autoencoder inside it, with the weights of an official file.

    Args:
        source: Lightning checkpoint of a transformer with ``args.n_unmasked`` above 0, or its state dict.
        keys: converted checkpoint of the transformer of key frames, without which it makes no videos.
        first_stage: see :func:`read_transformer`.
        downsample: see there.
        num_frames: see there.
        resolution: see there.
        n_head: see there.
        learning_rate: see there.
        sampler: ``consistent`` or ``official``; see :class:`TATSInterpolation`.

    Raises:
        UserError: as :func:`read_vqgan`.
    """
    options = given_options(
        num_frames=num_frames, resolution=resolution, n_head=n_head, learning_rate=learning_rate, sampler=sampler
    )
    return _read_tokens(source, True, options, downsample, {"first_stage": first_stage, "keys": keys})


def _read_tokens(
    source: Path,
    interpolates: bool,
    options: dict[str, Any],
    downsample: list[int] | None,
    stages: Mapping[str, str | None],
) -> Any:
    """Either transformer.

    Args:
        source: the official file.
        interpolates: which of the two is wanted.
        options: arguments of the model that the file may not say.
        downsample: of the autoencoder.
        stages: argument of the model -> converted checkpoint of an earlier stage, or None.
    """
    given_options(downsample=downsample)
    content = _read(source)
    opened = {name: _converted(Path(path), name) for name, path in stages.items() if path is not None}
    with problems_of(source):
        states = _split_stages(content.state)
        own = states[TRANSFORMER_PART.prefix]
        sizes = transformer_sizes(own)
        _compare(sizes, content.args, TRANSFORMER_SIZES)
        unmasked, mask = _attention(own, content.args, sizes["block_size"])
        if interpolates != (unmasked > 0):
            name = "tats_interpolation" if unmasked else "tats"
            raise UserError(
                f"its attention is that of a {name} (n_unmasked {unmasked}); convert it with --model {name}"
            )
        said = condition_of(content.args, content.more)
        settings = {**settings_of(content.args, TRANSFORMER_SETTINGS), **clip_of(content.args), **rate_of(content.args)}
        settings |= {**settings_of(content.more, MORE_SETTINGS, ""), **options}
        used: dict[str, Stage] = {}
        length = TEXT_LENGTH if said == "text" else 1
        if said == "audio" or (said is None and AUDIO_STAGE.prefix in states):
            said = "audio"
            used["audio_stage"] = _with_weights(AUDIO_STAGE, states, opened.get("audio_stage"), None)
            length = _audio_tokens(used["audio_stage"], settings)
        make = partial(_described, downsample=downsample, settings=settings, tokens=sizes["block_size"] + 1 - length)
        used["first_stage"] = _with_weights(FIRST_STAGE, states, opened.get("first_stage"), make)
        first = used["first_stage"].description["model_args"]
        settings |= clip_of_tokens(content.args, first["downsample"], options)
        require(settings, ("num_frames", "resolution", "n_head"))
        condition, classes = condition_and_classes(said, content.args, sizes["vocabulary"] - first["n_codes"])
        arguments = {name: sizes[name] for name in ("n_layer", "n_embd")}
        arguments |= {"channels": first["channels"], "dim_category": classes, **settings}
        if interpolates:
            if condition not in ("none", "label"):
                raise UserError(f"is conditioned on {condition}, which no tats_interpolation is")
            if sizes["block_size"] % unmasked:
                raise UserError(f"has a block of {sizes['block_size']} tokens, which are no frames of {unmasked}")
            arguments |= {"mask": mask, "gap": sizes["block_size"] // unmasked - 1}
            arguments = {
                name: arguments[name] for name in arguments if name not in ("latent_stride", "keep_probability")
            }
            if "keys" in opened:
                used["keys"] = opened["keys"]
        else:
            arguments |= {"condition": condition, "block_size": sizes["block_size"]}
            arguments["position_table"] = sizes["position_table"]
            if content.args.get("vtokens"):
                arguments["reads"] = "tokens"
        arguments |= {name: stage.description for name, stage in used.items()}
        networks = {"transformer": _network(own, TRANSFORMER_PART, source)}
        for name, stage in used.items():
            networks["key_model" if name == "keys" else name] = stage.network(source)
    return build(partial(TATSInterpolation if interpolates else TATS, **arguments), networks)


def official_state(source: Path) -> dict[str, Tensor]:
    """The state dict of an official file, as stored.

    Raises:
        UserError: the file cannot be read safely, or holds none.
    """
    return _read(source).state


def _read(source: Path) -> Content:
    with problems_of(source):
        with _loading(), torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(source, map_location="cpu", weights_only=True)
        if not isinstance(content, Mapping):
            raise UserError(f"holds a {type(content).__name__}, neither a checkpoint of Lightning's nor a state dict")
        hyper: Any = {}
        if "state_dict" in content:
            hyper = content.get("hyper_parameters", {})
            content = content["state_dict"]
            if not isinstance(content, Mapping):
                raise UserError(f"its state_dict is {shown(content)}, not a dict of tensors")
        if not isinstance(hyper, Mapping):
            raise UserError(f"its hyper_parameters are {shown(hyper)}, not a dict")
        args = hyper.get("args", {})
        if isinstance(args, argparse.Namespace):
            args = vars(args)
        if not isinstance(args, Mapping):
            raise UserError(f"its hyper_parameters.args is {shown(args)}, not an argparse.Namespace")
        for name, value in {**hyper, **args}.items():
            if name in SWITCHES and isinstance(value, Tensor):  # which cannot even be asked whether it is true
                raise UserError(f"its argument {name} is a tensor")
        state = {}
        for key, value in content.items():
            if not isinstance(key, str) or not isinstance(value, Tensor):
                raise UserError(f"entry {shown(key)} is not a tensor; a state dict with official names was expected")
            state[key] = as_stored(value, key)
        _check_storages(state)
        return Content(state, dict(args), {key: value for key, value in hyper.items() if key != "args"})


@contextmanager
def _loading() -> Iterator[None]:
    """Turn what ``torch.load`` raises into a line."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EINVAL:  # a place before the beginning of the file
            raise UserError("is damaged or cut short") from None
        raise UserError(f"cannot be read ({error.strerror or error})") from None
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S{1,200})", str(error))
        if name is None:
            raise UserError("is not a file written by torch.save, or damaged") from None
        raise UserError(
            f"names {ascii(name[1])[1:-1]}, which is not allowed in such a file; nothing in it was executed"
        ) from None
    except DAMAGE:
        raise UserError("is damaged or cut short") from None


def _check_storages(state: State) -> None:
    """Check that entries together are no larger than the file; each could be the same part of it."""
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in state.values()}
    if sum(value.numel() * value.element_size() for value in state.values()) > sum(storages.values()):
        raise UserError("its networks have more elements than the file holds")


def split_vqgan(state: State, at: str = "") -> dict[str, dict[str, Tensor]]:
    """State dicts of an autoencoder and its discriminators, by prefix.

    Args:
        state: without ``at``.
        at: where it stands in the file, for messages.

    Raises:
        UserError: there is no autoencoder.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        part = next(part for part in reversed(VQGAN_PARTS) if key.startswith(part.prefix))
        if not UNUSED.fullmatch(key):
            found.setdefault(part.prefix, {})[key.removeprefix(part.prefix)] = value
    if AUTOENCODER_PART.prefix not in found:
        raise UserError(f"lacks {at}encoder.conv_first.conv.weight")
    return found


def _split_stages(state: State) -> dict[str, dict[str, Tensor]]:
    """State dicts of the transformer and of the autoencoders beside it."""
    parts = (TRANSFORMER_PART, FIRST_STAGE, AUDIO_STAGE)
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        part = next((part for part in parts if key.startswith(part.prefix)), None)
        if part is None:
            if key.startswith(("encoder.", "codebook.")):
                raise UserError("holds an autoencoder; convert it with --model tats_vqgan")
            names = ", ".join(part.prefix.removesuffix(".") for part in parts)
            raise UserError(f"has {key}, which belongs to none of {names}")
        found.setdefault(part.prefix, {})[key.removeprefix(part.prefix)] = value
    if TRANSFORMER_PART.prefix not in found:
        raise UserError("lacks transformer.tok_emb.weight")
    return found


def _network(state: State, part: Part, source: Path) -> Given:
    return Given(translate(state, part), partial(official_name, part.prefix, part), source)


# Stages --------------------------------------------------------------------------------------------------------------

STAGES = {
    "first_stage": ("tats_vqgan", "autoencoder."),
    "audio_stage": ("tats_vqgan", "autoencoder."),
    "keys": ("tats", "transformer."),
}
"""Argument of a model -> registry name of the stage that it takes, and where the part of it that is kept lies."""


class Stage(NamedTuple):
    """An autoencoder or a transformer that a model contains.

    Args:
        description: for the model's arguments.
        entries: state dict of the part that is kept.
        official: official name of an entry, for messages.
        file: the converted checkpoint, or None for the official file.
    """

    description: dict[str, Any]
    entries: Mapping[str, Tensor]
    official: Callable[[str], str]
    file: Path | None

    def network(self, source: Path) -> Given:
        """Its weights.

        Args:
            source: the official file.
        """
        return Given(self.entries, self.official, self.file or source)


def _converted(path: Path, name: str) -> Stage:
    """A stage from a vidgen checkpoint."""
    wanted, prefix = STAGES[name]
    stage = open_stage(name, path, wanted)
    assert stage.weights is not None
    entries = {key.removeprefix(prefix): value for key, value in stage.weights.items() if key.startswith(prefix)}
    return Stage(stage.description, entries, lambda key: f"{prefix}{key}", path)


def _with_weights(
    part: Part,
    states: Mapping[str, State],
    converted: Stage | None,
    describe: Callable[[dict[str, Any]], dict[str, Any]] | None,
) -> Stage:
    """An autoencoder: the weights are the file's, where it has any; the sizes those of the option, if given.

    Args:
        part: which.
        states: state dicts in the file, by prefix.
        converted: the option.
        describe: makes arguments of the model from sizes, where there is no option; None where it must be given.
    """
    state = states.get(part.prefix)
    hint = f"give {part.ours}=FILE, its converted checkpoint"
    if state is None:
        if converted is None:
            raise UserError(f"holds no {part.prefix.removesuffix('.')}; {hint}")
        return converted
    found = split_vqgan(state, part.prefix)
    weights: dict[str, Tensor] = {}
    for network in VQGAN_PARTS:
        if network.prefix in found:
            named = network._replace(prefix=f"{part.prefix}{network.prefix}")
            entries = translate(found[network.prefix], named)
            weights |= {f"{network.ours}.{key}": value for key, value in entries.items()}
    if converted is not None:
        description = {**converted.description, "weights": fingerprint(weights)}
    elif describe is None:
        raise UserError(f"does not say what its {part.prefix.removesuffix('.')} was trained on; {hint}")
    else:
        arguments = describe(vqgan_sizes(found, part.prefix))
        description = {"model": "tats_vqgan", "model_args": arguments, "weights": fingerprint(weights)}
    prefix = "autoencoder."
    kept = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return Stage(description, kept, partial(official_name, part.prefix, part), None)


def _described(
    sizes: dict[str, Any], downsample: list[int] | None, settings: Mapping[str, Any], tokens: int
) -> dict[str, Any]:
    """All arguments of an autoencoder of which the file tells sizes alone.

    Args:
        sizes: what the shapes tell, and its number of levels.
        downsample: the option.
        settings: of the transformer's clips.
        tokens: of a clip.
    """
    levels = sizes.pop("levels")
    require(settings, ("num_frames", "resolution"))
    clip = {name: settings[name] for name in ("num_frames", "resolution")}
    if downsample is None:
        downsample = _deduced(levels, tokens, clip["num_frames"], clip["resolution"], settings.get("latent_stride", 1))
    _check_levels(downsample, levels, "downsample")
    with torch.device("meta"):
        return dict(TATSVQGAN(**{**sizes, **clip, "downsample": tuple(downsample)}).init_args)


def _deduced(levels: int, tokens: int, num_frames: int, resolution: int, stride: int) -> list[int]:
    """By how much an autoencoder shrinks clips: height and width on each level, time so that ``tokens`` are left."""
    space = 2**levels
    in_latent = (resolution // space) ** 2
    for time in (2**halvings for halvings in range(levels + 1)):
        if num_frames % time == 0 and -(-(num_frames // time) // stride) * in_latent == tokens:
            return [time, space, space]
    raise UserError("does not say how far its autoencoder shrinks a clip; give it, for example downsample=[4,8,8]")


def _audio_tokens(stage: Stage, settings: Mapping[str, Any]) -> int:
    """Tokens of the spectrogram that belongs to a clip."""
    require(settings, ("num_frames",))
    arguments = stage.description["model_args"]
    size = (settings["num_frames"], arguments["resolution"], arguments["width"] or arguments["resolution"])
    return math.prod(whole // factor for whole, factor in zip(size, arguments["downsample"], strict=True))


# Sizes ---------------------------------------------------------------------------------------------------------------


def vqgan_sizes(states: Mapping[str, State], at: str = "") -> dict[str, Any]:
    """Arguments of the autoencoder that follow from shapes, and ``levels``, how often it halves an axis at most.

    Args:
        states: official state dicts by prefix, see :data:`VQGAN_PARTS`.
        at: where they stand in the file, for messages.

    Raises:
        UserError: an entry is missing, or has another number of dimensions.
    """
    own = states[AUTOENCODER_PART.prefix]
    first = shape_of(own, "encoder.conv_first.conv.weight", 5, at)
    codes = shape_of(own, "codebook.embeddings", 2, at)
    sizes: dict[str, Any] = {"channels": first[1], "n_hiddens": first[0], "n_codes": codes[0]}
    sizes["embedding_dim"] = shape_of(own, "pre_vq_conv.conv.weight", 5, at)[0]
    sizes["norm"] = "batch" if "encoder.final_block.0.running_mean" in own else "group"
    sizes["levels"] = counted(own, "encoder.conv_blocks.")
    if not sizes["levels"]:
        raise UserError(f"lacks {at}encoder.conv_blocks.0.down.conv.weight")
    for part, dimensions in zip(DISCRIMINATORS, (4, 5), strict=True):
        if part.prefix in states:
            first = shape_of(states[part.prefix], "model0.0.weight", dimensions, f"{at}{part.prefix}")
            sizes["disc_channels"] = first[0]
            sizes["disc_layers"] = counted(states[part.prefix], "model") - 2
    return sizes


def transformer_sizes(state: State) -> dict[str, Any]:
    """Arguments of the transformer that follow from shapes, and its ``vocabulary``.

    Args:
        state: official state dict, without prefix.

    Raises:
        UserError: an entry is missing, or has another number of dimensions.
    """
    prefix = TRANSFORMER_PART.prefix
    vocabulary, n_embd = shape_of(state, "tok_emb.weight", 2, prefix)
    sizes: dict[str, Any] = {"vocabulary": vocabulary, "n_embd": n_embd, "n_layer": counted(state, "blocks.")}
    sizes["block_size"] = shape_of(state, "pos_emb", 3, prefix)[1]
    sizes["position_table"] = None
    if "vtokens_pos_emb" in state:
        sizes["position_table"] = shape_of(state, "vtokens_pos_emb", 5, prefix)[1:4]
    for key, value in state.items():
        match = re.fullmatch(r"blocks\.\d+\.attn\.(?:query|key|value)\.(weight|bias)", key)
        right = (n_embd, n_embd)[: 2 if match and match[1] == "weight" else 1]
        if match and value.shape != right:
            raise UserError(f"{prefix}{key} is {tuple(value.shape)}, expected {right}")
    return sizes


def counted(state: State, before: str) -> int:
    """How many parts there are whose names are ``before`` and a number, from 0 on without a gap."""
    pattern = re.compile(rf"{re.escape(before)}(\d{{1,6}})\.")
    found = {int(match[1]) for match in map(pattern.match, state) if match}
    return next(number for number in range(len(found) + 1) if number not in found)


def _attention(state: State, args: Mapping[str, Any], block: int) -> tuple[int, str]:
    """Tokens at both ends that all may see, and which of our masks it is, from the masks in the file.

    Where it has none the arguments say it.
    """
    masks = {key: value for key, value in state.items() if MASK.fullmatch(key)}
    said = args.get("n_unmasked")
    if said is not None and (type(said) is not int or not 0 <= said <= block):
        raise UserError(f"args.n_unmasked {shown(said)}: must be a whole number from 0 to {block}")
    found: tuple[int, str] | None = None
    for key, value in masks.items():
        name = f"{TRANSFORMER_PART.prefix}{key}"
        if value.shape != (1, 1, block, block):
            raise UserError(f"{name} is {tuple(value.shape)}, expected {(1, 1, block, block)}")
        sees = value[0, 0] != 0
        unmasked = int(sees[0].sum()) // 2  # all of the first frame, the start, and all of the last but one
        kinds = ("a",) if unmasked == 0 else ("c", "b")
        kind = next((kind for kind in kinds if torch.equal(sees, interpolation_mask(block, unmasked, kind))), None)
        if kind is None or found not in (None, (unmasked, kind)):
            raise UserError(f"{name} is not the mask of a transformer of the official code")
        found = unmasked, kind
    if found is None:
        return (said or 0), "c"
    if said is not None and said != found[0]:
        raise UserError(f"args.n_unmasked is {said}, but the masks have n_unmasked {found[0]}")
    return found


def _compare(sizes: Mapping[str, Any], args: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Check that the arguments, where they name a size, name that of the weights."""
    for theirs, ours in names.items():
        if theirs in args and ours in sizes:
            right = sizes[ours]
            if type(args[theirs]) is not type(right) or args[theirs] != right:
                raise UserError(f"args.{theirs} is {shown(args[theirs])}, but the weights have {ours} {right}")


def _check_levels(downsample: Any, levels: int, name: str) -> None:
    """Check that factors are those of an autoencoder with so many levels."""
    check_value(name, downsample, whole_numbers(3))
    if max(downsample) != 2**levels:
        raise UserError(f"{name} {shown(downsample)}: the weights have {levels} levels, so the largest is {2**levels}")
