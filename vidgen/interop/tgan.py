"""Official TGAN checkpoints: the layout of its networks, what it is called here, and how to read its files.

The official code saves each network as a Chainer npz file: ``gen_iter_5000.npz`` (G0), and beside it
``vgen_iter_5000.npz`` (G1) and ``vdis_iter_5000.npz`` (the discriminator). One npz file with the prefixes ``fsgen/``,
``vgen/`` and ``vdis/`` is read too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from vidgen.errors import UserError
from vidgen.interop import chainer
from vidgen.interop.state_dicts import Given, build, problems_of, shape_of, split_networks
from vidgen.models.tgan import TGAN

FRAME_SEED = {f"dc{layer}": f"convolutions.{layer}" for layer in range(5)} | {
    f"bn{layer}": f"norms.{layer}" for layer in range(4)
}
"""Official link -> our module, in FrameSeedGenerator."""

IMAGE = {
    "l0s": "slow",
    "bn0s": "slow_norm",
    "l0f": "fast",
    "bn0f": "fast_norm",
    **{f"dc{layer}": f"convolutions.{layer - 1}" for layer in range(1, 5)},
    **{f"bn{layer}": f"norms.{layer - 1}" for layer in range(1, 5)},
    "dc5": "output",
}
"""Official link -> our module, in ImageGenerator."""

DISCRIMINATOR = {
    **{f"c{layer}": f"convolutions.{layer}" for layer in range(4)},
    **{f"bn{layer}": f"norms.{layer}" for layer in range(4)},
    "c4": "output",
}
"""Official link -> our module, in Discriminator."""

TABLES: dict[str, dict[str, str]] = {"frame_seed": FRAME_SEED, "image": IMAGE, "discriminator": DISCRIMINATOR}

PREFIXES: dict[str, str] = {"fsgen/": "frame_seed", "vgen/": "image", "vdis/": "discriminator"}
"""Of the networks, where one file holds several."""

PATHS = {"frame_seed": "generator.frame_seed", "image": "generator.image", "discriminator": "discriminator"}
"""Of the networks, in TGAN."""

LAYER = {"W": "weight", "b": "bias"}
NORM = {
    "gamma": "weight",
    "beta": "bias",
    "avg_mean": "running_mean",
    "avg_var": "running_var",
    "N": "num_batches_tracked",
}


# Names ---------------------------------------------------------------------------------------------------------------


def translate_key(network: str, key: str) -> str:
    """Our name of an official entry such as ``dc0/W``; ``network`` is one of :data:`TABLES`.

    Raises:
        UserError: the official network has no such entry.
    """
    link, _, entry = key.partition("/")
    entries = NORM if link.startswith("bn") else LAYER
    if link not in TABLES[network] or entry not in entries:
        raise UserError(f"has {_prefix(network)}{key}, which is not part of the official network")
    return f"{TABLES[network][link]}.{entries[entry]}"


def official_key(network: str, key: str) -> str:
    """The official name of an entry that is called ``key`` here: the inverse of :func:`translate_key`."""
    module, _, entry = key.rpartition(".")
    link = next(theirs for theirs, ours in TABLES[network].items() if ours == module)
    entries = NORM if link.startswith("bn") else LAYER
    return f"{link}/{next(theirs for theirs, ours in entries.items() if ours == entry)}"


def translate(network: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An official network's entries, without prefix, as the state dict of ours.

    Raises:
        UserError: an entry is not part of the official network.
    """
    return {translate_key(network, key): value for key, value in state.items()}


def translate_frame_seed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of FrameSeedGenerator, see :func:`translate`."""
    return translate("frame_seed", state)


def translate_image(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of ImageGenerator, see :func:`translate`."""
    return translate("image", state)


def translate_discriminator(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of Discriminator, see :func:`translate`."""
    return translate("discriminator", state)


def _prefix(network: str) -> str:
    return next(prefix for prefix, name in PREFIXES.items() if name == network)


# Files ---------------------------------------------------------------------------------------------------------------


def read_official(
    source: Path, image_generator: str | Path | None = None, discriminator: str | Path | None = None
) -> TGAN:
    """The model with the weights of official files; without a discriminator it keeps a new, untrained one.

    Args:
        source: ``gen_iter_<N>.npz``, or a file of all networks.
        image_generator: ``vgen_iter_<N>.npz``; None looks for it beside ``source``.
        discriminator: ``vdis_iter_<N>.npz``; None looks for it beside ``source``.

    Raises:
        UserError: a file cannot be read safely, or its entries are not those of the official networks.
    """
    source = Path(source)
    states = _read(source, "frame_seed")
    files: dict[str, Path] = dict.fromkeys(states, source)
    for network, chosen in (("image", image_generator), ("discriminator", discriminator)):
        beside = source.with_name(source.name.replace("gen_iter_", f"{_prefix(network)[:-1]}_iter_", 1))
        if chosen is None and network not in states and source.name.startswith("gen_iter_") and beside.exists():
            chosen = beside
        if chosen is not None:
            files[network] = Path(str(chosen))
            states[network] = _read(files[network], network)[network]
    if "image" not in states:
        raise UserError(f"{source}: holds no image generator; give image_generator=vgen_iter_<N>.npz")
    networks: dict[str, Given] = {}
    sizes: dict[str, Any] = {}
    for network in ("image", "frame_seed", "discriminator"):  # only G1's sizes can be those of no model
        if network not in states:
            continue
        state = states[network]
        with problems_of(files[network]):
            sizes |= SIZES[network](state)
            official = partial(_named, network)
            networks[PATHS[network]] = Given(translate(network, state), official, files[network])
    return build(partial(TGAN, **sizes), networks)


def _read(path: Path, wanted: str) -> dict[str, dict[str, Tensor]]:
    """The networks of a file; ``wanted`` is the one that it must hold."""
    arrays = chainer.read(path)
    with problems_of(path):
        states = split_networks(arrays, PREFIXES, wanted)
        if wanted not in states:
            raise UserError(f"holds no {wanted}")
        for network, state in states.items():
            for key in state:
                translate_key(network, key)
    return states


def _named(network: str, key: str) -> str:
    """The official name of one of our entries, with the prefix of its network."""
    return f"{_prefix(network)}{official_key(network, key)}"


def _frame_seed_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the model that follow from G0's shapes."""
    layers = [shape_of(state, f"dc{layer}/W", 3, "fsgen/") for layer in range(5)]
    widths = [layer[1] for layer in layers]
    shift = any(key.endswith("/beta") for key in state)
    return {
        "dim_slow": layers[0][0],
        "dim_fast": widths[4],
        "frame_seed_channels": tuple(widths[:4]),
        "frame_seed_shift": shift,
    }


def _image_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the model that follow from G1's shapes."""
    width = shape_of(state, "dc1/W", 4, "vgen/")[0]
    slow = shape_of(state, "l0s/W", 2, "vgen/")
    base_size = math.isqrt(slow[0] // max(1, width // 2))
    if base_size**2 * (width // 2) != slow[0]:
        raise UserError(f"vgen/l0s/W is {slow}, expected {width // 2} times the square of the smallest map's width")
    output = shape_of(state, "dc5/W", 4, "vgen/")
    if output != (expected := (width // 16, output[1], 3, 3)):  # in the official layout
        raise UserError(f"vgen/dc5/W is {output}, expected {expected}")
    return {
        "channels": output[1],
        "generator_width": width,
        "resolution": 16 * base_size,
        "discriminator_width": max(1, width // 8),  # of a new one
    }


def _discriminator_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the model that follow from the discriminator's shapes."""
    shift = any(key.endswith("/beta") for key in state)
    return {"discriminator_width": shape_of(state, "c0/W", 5, "vdis/")[0], "discriminator_shift": shift}


SIZES = {"frame_seed": _frame_seed_sizes, "image": _image_sizes, "discriminator": _discriminator_sizes}
