"""Official SVG checkpoints: the layout of their modules, what it is called here, and how to read the files.

The official code saves one file, ``model.pth``: a dict of whole pickled modules and of the command line's arguments,
``opt``. Sizes are read from shapes, how the model is trained and used from ``opt``. State dicts are read too: one dict
with the prefixes ``encoder.``, ``decoder.``, ``frame_predictor.``, ``posterior.`` and ``prior.``, or a dict of dicts,
with ``opt`` beside them or without.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from vidgen.errors import UserError
from vidgen.interop.arguments import RATE, TRUTH, WEIGHT, Rule, number, one_of, whole
from vidgen.interop.restricted_pickle import Record, module_state, read
from vidgen.interop.state_dicts import Given, build, problems_of, shape_of, split_networks
from vidgen.models.svg import SVG

NETWORKS = {
    "encoder": "encoder",
    "decoder": "decoder",
    "frame_predictor": "predictor",
    "posterior": "posterior",
    "prior": "prior",
}
"""Official network -> ours. A file of SVG-FP has no prior."""

BACKBONES = ("dcgan_64", "dcgan_128", "vgg_64", "vgg_128")

CLASSES: dict[str, tuple[str, ...]] = {
    "encoder": tuple(f"models.{backbone}.encoder" for backbone in BACKBONES),
    "decoder": tuple(f"models.{backbone}.decoder" for backbone in BACKBONES),
    "frame_predictor": ("models.lstm.lstm",),
    "posterior": ("models.lstm.gaussian_lstm",),
    "prior": ("models.lstm.gaussian_lstm",),
}
"""Official network -> what it can be an instance of."""

ARGUMENTS = "argparse.Namespace"

RECORDS = (
    *(path for network in ("encoder", "decoder") for path in CLASSES[network]),
    *(f"models.dcgan_{size}.{layer}" for size in (64, 128) for layer in ("dcgan_conv", "dcgan_upconv")),
    *(f"models.vgg_{size}.vgg_layer" for size in (64, 128)),
    "models.lstm.lstm",
    "models.lstm.gaussian_lstm",
    "torch.nn.modules.*",
    "torch.nn.backends.thnn._get_thnn_function_backend",
    ARGUMENTS,
    *(f"torch.optim.{name}" for name in ("adam.Adam", "rmsprop.RMSprop", "sgd.SGD")),  # opt.optimizer is a class
)
"""Classes that an official file names."""

Skip = Literal["last_but_one", "last", "previous"]

_log = logging.getLogger(__name__)


# Names ---------------------------------------------------------------------------------------------------------------

MOST_BLOCKS = 3
"""Convolutions in a level of VGG; some levels have fewer."""


def names(network: str, state: Mapping[str, Tensor]) -> dict[str, str]:
    """Official entry -> ours, for all that a network of this layout can have.

    Args:
        network: one of :data:`NETWORKS`.
        state: its official state dict, which decides backbone and numbers of levels and LSTMs.

    Raises:
        UserError: it has levels of both backbones, or a gap between its levels.
    """
    if network == "encoder":
        return _encoder_names(*backbone_of(network, state))
    if network == "decoder":
        return _decoder_names(*backbone_of(network, state))
    table = {f"embed.{entry}": f"embed.{entry}" for entry in ("weight", "bias")}
    for layer in range(lstms_of(state)):
        for entry in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            table[f"lstm.{layer}.{entry}"] = f"recurrent.{entry}_l{layer}"
    if network == "frame_predictor":
        return {**table, **_layer("output.0", "output")}
    return {**table, **_layer("mu_net", "mean"), **_layer("logvar_net", "log_variance")}


def translate(network: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict, without the prefix of the network, under our names.

    Raises:
        UserError: an entry is not part of the official network.
    """
    table = names(network, state)
    for key in state:
        if key not in table:
            raise UserError(f"has {network}.{key}, which is not part of the official module")
    return {table[key]: value for key, value in state.items()}


def backbone_of(network: str, state: Mapping[str, Tensor]) -> tuple[Literal["dcgan", "vgg"], int]:
    """Backbone of an encoder or decoder, and its number of levels.

    Raises:
        UserError: it has levels of both backbones, or a gap between its levels.
    """
    letters, first = ("c", 1) if network == "encoder" else ("upc", 2)  # upc1 is the decoder's head
    found: dict[int, str] = {}
    for key in state:
        match = re.match(rf"{letters}([1-9]\d{{0,5}})\.(\d+\.)?main\.", key)
        if match:
            found[int(match[1])] = "vgg" if match[2] else "dcgan"
    if len(set(found.values())) > 1:
        raise UserError(f"its {network} has levels of dcgan and of vgg")
    count = 0
    while first + count in found:
        count += 1
    if count < len(found):
        raise UserError(f"its {network} has a level {letters}{max(found)}, but none {letters}{first + count}")
    if "vgg" in found.values():
        return "vgg", count
    return "dcgan", count + (network == "decoder" and count > 0)  # whose last level is the output


def lstms_of(state: Mapping[str, Tensor]) -> int:
    """Number of LSTMs, counted from the first one without a gap."""
    found = {key.split(".")[1] for key in state if key.startswith("lstm.")}
    count = 0
    while str(count) in found:
        count += 1
    return count


def _layer(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.{entry}": f"{ours}.{entry}" for entry in ("weight", "bias")}


def _block(theirs: str, ours: str) -> dict[str, str]:
    """A convolution and the batch norm behind it."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {
        **_layer(f"{theirs}.0", f"{ours}.convolution"),
        **{f"{theirs}.1.{entry}": f"{ours}.norm.{entry}" for entry in norm},
    }


def _levels(backbone: str, theirs: list[str]) -> dict[str, str]:
    """The convolutions of some levels, and what is behind them."""
    table: dict[str, str] = {}
    for level, path in enumerate(theirs):
        if backbone == "dcgan":
            table |= _block(f"{path}.main", f"levels.{level}.0")
        else:
            for block in range(MOST_BLOCKS):
                table |= _block(f"{path}.{block}.main", f"levels.{level}.{block}")
    return table


def _encoder_names(backbone: str, levels: int) -> dict[str, str]:
    theirs = [f"c{level}" for level in range(1, levels + 1)]
    return {**_levels(backbone, theirs), **_block(f"c{levels + 1}", "head")}


def _decoder_names(backbone: str, levels: int) -> dict[str, str]:
    vgg = backbone == "vgg"
    theirs = [f"upc{level}" for level in range(2, levels + 1 + vgg)]
    output = _layer(f"upc{levels + 1}.{int(vgg)}", "output")
    return {**_block("upc1", "head"), **_levels(backbone, theirs), **output}


# Files ---------------------------------------------------------------------------------------------------------------


def read_official(
    source: Path,
    n_past: int | None = None,
    num_frames: int | None = None,
    skip_frame: Skip | None = None,
    sampling_statistics: Literal["batch", "running"] | None = None,
    sampling_group: int | None = None,
    beta: float | None = None,
    learning_rate: float | None = None,
    beta1: float | None = None,
) -> SVG:
    """The model with the weights of an official file.

    Each option but ``source`` that is None is taken from ``opt``, and where the file has none, from the model's
    defaults. See :class:`SVG` for what they mean.

    Args:
        source: ``model.pth``, or state dicts with official names.
        n_past: frames that are given; ``opt.n_past``.
        num_frames: frames of a clip; ``opt.n_past + opt.n_future``.
        skip_frame: ``opt.last_frame_skip`` means ``previous``, else it is ``last_but_one``.
        sampling_statistics: of batch norm in generation; no file says it.
        sampling_group: videos that share them; ``opt.batch_size``.
        beta: weight of the KL term; ``opt.beta``.
        learning_rate: ``opt.lr``.
        beta1: ``opt.beta1``.

    Raises:
        UserError: the file cannot be read safely, its entries are not those of the official networks, ``opt`` says
            something else than they do, or an option has a value that cannot be.
    """
    options: dict[str, Any] = {
        "n_past": n_past,
        "num_frames": num_frames,
        "skip_frame": skip_frame,
        "sampling_statistics": sampling_statistics,
        "sampling_group": sampling_group,
        "beta": beta,
        "learning_rate": learning_rate,
        "beta1": beta1,
    }
    options = {name: value for name, value in options.items() if value is not None}
    for name, value in options.items():
        _check(name, value, RULES[name])
    states, opt = _read(source)
    with problems_of(source):
        sizes = sizes_of(states)
        _compare(sizes, opt)
        settings = {**_settings(opt, options), **options}
        networks = {}
        for network, state in states.items():
            table = {ours: theirs for theirs, ours in names(network, state).items()}
            networks[NETWORKS[network]] = Given(translate(network, state), partial(_official, network, table), source)
    model = build(partial(SVG, **{**sizes, **settings}), networks)
    assumed = {
        name: str(model.init_args[name]) for name in ("n_past", "num_frames", "skip_frame") if name not in settings
    }
    if assumed:
        _log.warning("%s: does not say %s; taken as %s", source, ", ".join(assumed), ", ".join(assumed.values()))
    return model


def official_states(source: Path) -> dict[str, dict[str, Tensor]]:
    """The state dicts in a file, by official network and entry, as stored.

    Args:
        source: see :func:`read_official`.

    Raises:
        UserError: the file cannot be read safely, or its networks are not those of the official code.
    """
    return _read(source)[0]


def _official(network: str, table: Mapping[str, str], key: str) -> str:
    """The official name of an entry that is called ``key`` here."""
    return f"{network}.{table[key]}"


def _read(source: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """State dicts by official network, and what ``opt`` holds."""
    content = read(source, RECORDS)
    with problems_of(source):
        if isinstance(content, Record):
            raise UserError(f"holds a {content.path}; an official file is a dict of the networks and opt")
        if not isinstance(content, Mapping):
            raise UserError(f"holds a {type(content).__name__}, neither a dict of modules nor a state dict")
        opt = _arguments(content.get("opt"))
        entries = {key: value for key, value in content.items() if key != "opt"}
        states: dict[str, dict[str, Tensor]] = {}
        if any(key in NETWORKS for key in entries):
            states = {network: {} for network in entries if network in NETWORKS}
            entries = _flat(entries)
        states |= split_networks(entries, {f"{network}.": network for network in NETWORKS}, "")
        for network in NETWORKS:
            if network not in states and network != "prior":
                raise UserError(f"holds no {network}")
        _check_storages(states)
        return {network: states[network] for network in NETWORKS if network in states}, opt


def _flat(networks: Mapping[Any, Any]) -> dict[Any, Any]:
    """One state dict, with prefixes, of modules or state dicts by network."""
    entries: dict[Any, Any] = {}
    for network, value in networks.items():
        if network not in NETWORKS:
            raise UserError(f"has an entry {_shown(network)}, which is none of {', '.join(NETWORKS)}, opt")
        if isinstance(value, Record):
            if value.path not in CLASSES[network]:
                raise UserError(f"its {network} is a {value.path}, expected a {' or a '.join(CLASSES[network])}")
            value = module_state(value, f"{network}.")
        elif not isinstance(value, Mapping):
            raise UserError(f"its {network} is a {type(value).__name__}, neither a module nor a state dict")
        for key, entry in value.items():
            entries[f"{network}.{key}" if isinstance(key, str) else key] = entry
    return entries


def _check_storages(states: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Check that entries together are no larger than the file; each could be the same part of it."""
    tensors = [value for state in states.values() for value in state.values()]
    storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in tensors}
    if sum(value.numel() * value.element_size() for value in tensors) > sum(storages.values()):
        raise UserError("its networks have more elements than the file holds")


# Sizes ---------------------------------------------------------------------------------------------------------------


def sizes_of(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """Arguments of the model that follow from which networks there are, and from their shapes.

    Args:
        states: official state dicts by official network.

    Raises:
        UserError: an entry is missing, or the networks are not those of one model.
    """

    def shape(network: str, key: str, dimensions: int) -> tuple[int, ...]:
        found = shape_of(states[network], key, dimensions, f"{network}.")
        if min(found) < 1:
            raise UserError(f"{network}.{key} is {found}, which is empty")
        return found

    backbone, levels = backbone_of("encoder", states["encoder"])
    other, as_many = backbone_of("decoder", states["decoder"])
    block = "0.main.0.weight" if backbone == "vgg" else "main.0.weight"
    if not as_many:
        raise UserError(f"lacks decoder.upc2.{block}")
    if levels and (other, as_many) != (backbone, levels):
        raise UserError(f"its encoder is a {backbone} with {levels} levels, its decoder a {other} with {as_many}")
    convolutions = [shape("encoder", f"c{level}.{block}", 4) for level in range(1, max(levels, 1) + 1)]
    widths = [convolution[0] for convolution in convolutions[:4]]
    sizes = {
        "channels": convolutions[0][1],
        "resolution": 4 * 2**levels,
        "prior": "learned" if "prior" in states else "fixed",
        "backbone": backbone,
        "widths": (*widths, *widths[-1:] * (4 - len(widths))),  # of levels that there are not
        "g_dim": shape("encoder", f"c{levels + 1}.0.weight", 4)[0],
        "z_dim": shape("posterior", "mu_net.weight", 2)[0],
        "rnn_size": shape("frame_predictor", "embed.weight", 2)[0],
        "predictor_layers": lstms_of(states["frame_predictor"]),
        "posterior_layers": lstms_of(states["posterior"]),
    }
    if "prior" in states:
        sizes["prior_layers"] = lstms_of(states["prior"])
    for network in ("frame_predictor", "posterior", "prior"):
        if network in states and not lstms_of(states[network]):
            raise UserError(f"lacks {network}.lstm.0.weight_ih")
    return sizes


def _compare(sizes: Mapping[str, Any], opt: Mapping[str, Any]) -> None:
    """Check that ``opt``, where it names a size, names that of the weights."""
    same = {
        "image_width": "resolution",
        "channels": "channels",
        "model": "backbone",
        "g_dim": "g_dim",
        "z_dim": "z_dim",
        "rnn_size": "rnn_size",
        "predictor_rnn_layers": "predictor_layers",
        "posterior_rnn_layers": "posterior_layers",
        "prior_rnn_layers": "prior_layers",
    }
    for theirs, ours in same.items():
        if theirs not in opt:
            continue
        if ours not in sizes:
            raise UserError(f"opt.{theirs} is {_shown(opt[theirs])}, but the file holds no prior")
        if type(opt[theirs]) is not type(sizes[ours]) or opt[theirs] != sizes[ours]:
            raise UserError(f"opt.{theirs} is {_shown(opt[theirs])}, but the weights have {ours} {sizes[ours]}")


# Arguments of the official command line ------------------------------------------------------------------------------


RULES = {
    "n_past": whole(1),
    "n_future": whole(1),
    "num_frames": whole(2),
    "last_frame_skip": TRUTH,
    "skip_frame": one_of("last_but_one", "last", "previous"),
    "sampling_statistics": one_of("batch", "running"),
    "sampling_group": whole(2),
    "batch_size": whole(2),
    "beta": WEIGHT,
    "learning_rate": RATE,
    "lr": RATE,
    "beta1": number(lambda value: 0 <= value < 1, "from 0 to below 1"),
}
"""Of our options and of official arguments."""


def _arguments(opt: Any) -> dict[str, Any]:
    """The official arguments in ``opt``; None has none."""
    if isinstance(opt, Record) and opt.path == ARGUMENTS:
        opt = opt.attributes
    if opt is None:
        return {}
    if not isinstance(opt, Mapping):
        raise UserError(f"opt is {_shown(opt)}, expected an {ARGUMENTS}")
    return {key: value for key, value in opt.items() if isinstance(key, str)}


def _settings(opt: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the model that ``opt`` says, where ``options`` do not say them."""

    def said(theirs: str, ours: str) -> bool:
        if theirs not in opt or ours in options:
            return False
        _check(f"opt.{theirs}", opt[theirs], RULES[theirs])
        return True

    plain = {
        "n_past": "n_past",
        "lr": "learning_rate",
        "beta": "beta",
        "beta1": "beta1",
        "batch_size": "sampling_group",
    }
    settings = {ours: opt[theirs] for theirs, ours in plain.items() if said(theirs, ours)}
    if said("n_past", "num_frames") and said("n_future", "num_frames"):
        settings["num_frames"] = opt["n_past"] + opt["n_future"]
    if said("last_frame_skip", "skip_frame"):
        settings["skip_frame"] = "previous" if opt["last_frame_skip"] else "last_but_one"
    return settings


def _check(name: str, value: Any, rule: Rule) -> None:
    if not rule.holds(value):
        raise UserError(f"{name} {_shown(value)}: must be {rule.text}")


def _shown(value: Any) -> str:
    """A value of a file in a few words, whatever it is."""
    if isinstance(value, str):
        return ascii(value[:40])
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() <= 64):
        return repr(value)
    kind = "Tensor" if isinstance(value, Tensor) else type(value).__name__
    return f"of type {value.path if isinstance(value, Record) else kind}"
