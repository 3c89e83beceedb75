"""Official VGAN checkpoints: the layout of its modules, what it is called here, and how to read its files.

The official code saves the generator, ``iter1000_net.t7``, and beside it the discriminator, ``iter1000_netD.t7``, as
whole Torch7 modules. An entry is called by the path of its module, where the children of a container count from 1.
State dicts with these names are read too, with the prefixes ``net.`` and ``netD.``, or the generator's without one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.interop import restricted_pickle, torch7
from vidgen.interop.state_dicts import (
    Given,
    as_stored,
    build,
    official_key,
    problems_of,
    shape_of,
    split_networks,
    translate,
)
from vidgen.interop.torch7 import Record
from vidgen.models.vgan import DISCRIMINATOR_EPSILON, GENERATOR_EPSILON, VGAN

Condition = Literal["none", "first_frame"]

DOUBLINGS = 4
"""How often the official networks double, or halve, height, width and length."""

NETWORKS = {"net.": "generator", "netD.": "discriminator"}

ENTRIES = ("weight", "bias", "running_mean", "running_var")
"""What the official modules learn; the rest of a module are settings, gradients and buffers."""


# Names ---------------------------------------------------------------------------------------------------------------


def generator_table(condition: Condition, streams: Literal[1, 2] = 2, doublings: int = DOUBLINGS) -> dict[str, str]:
    """Official module -> ours, in Generator.

    Args:
        condition: what videos are made from, see :class:`VGAN`.
        streams: 2, or 1 for the same layout with neither mask nor background.
        doublings: how often the networks double; the official ones do 4 times.
    """
    table: dict[str, str] = {}
    if condition == "first_frame":
        table |= _down("1.", "encoder.", doublings)
    moving, still = ("2.1.", "2.2.") if condition == "first_frame" else ("1.1.", "1.2.")
    table |= {f"{moving}2": "foreground.stem", f"{moving}3": "foreground.stem_norm"}
    table |= _up(moving, "foreground.", range(5, 3 * doublings + 2, 3))
    table[f"{moving}{3 * doublings + 2}.1.1"] = "foreground.picture"
    if streams == 2:
        table[f"{moving}{3 * doublings + 2}.2.1"] = "foreground.mask"
        # the noise is first given the shape of an image, which counts as a module
        layers = range(1, 3 * doublings - 2, 3) if condition == "first_frame" else range(2, 3 * doublings + 2, 3)
        table |= _up(still, "background.", layers)
        table[f"{still}{layers.stop}"] = "background.picture"
    return table


def discriminator_table(doublings: int = DOUBLINGS) -> dict[str, str]:
    """Official module -> ours, in Discriminator; ``doublings`` counts its halvings."""
    return {**_down("", "", doublings), f"{3 * doublings}": "output"}


def _up(official: str, ours: str, layers: range) -> dict[str, str]:
    """Deconvolutions at the given places, each with its batch norm behind it."""
    table = {}
    for index, layer in enumerate(layers):
        table[f"{official}{layer}"] = f"{ours}convolutions.{index}"
        table[f"{official}{layer + 1}"] = f"{ours}norms.{index}"
    return table


def _down(official: str, ours: str, halvings: int) -> dict[str, str]:
    """Convolutions, with batch norms behind all but the first."""
    table = {f"{official}1": f"{ours}convolutions.0"}
    for index in range(1, halvings):
        table[f"{official}{3 * index}"] = f"{ours}convolutions.{index}"
        table[f"{official}{3 * index + 1}"] = f"{ours}norms.{index}"
    return table


def translate_generator(
    state: Mapping[str, Tensor], condition: Condition, streams: Literal[1, 2] = 2, doublings: int = DOUBLINGS
) -> dict[str, Tensor]:
    """The state dict of Generator from official entries without prefix; batches that batch norm has seen count as 0.

    Raises:
        UserError: an entry is not part of the official module.
    """
    return with_counts(translate(state, generator_table(condition, streams, doublings), "net."))


def translate_discriminator(state: Mapping[str, Tensor], doublings: int = DOUBLINGS) -> dict[str, Tensor]:
    """The state dict of Discriminator, as :func:`translate_generator` makes that of Generator.

    Raises:
        UserError: an entry is not part of the official module.
    """
    return with_counts(translate(state, discriminator_table(doublings), "netD."))


def with_counts(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with a count of batches for each running mean, which Torch7 did not keep."""
    means = [key.removesuffix("running_mean") for key in state if key.endswith("running_mean")]
    return {**state, **{f"{norm}num_batches_tracked": torch.tensor(0) for norm in means}}


# Files ---------------------------------------------------------------------------------------------------------------


def read_official(source: Path, discriminator: str | Path | None = None) -> VGAN:
    """The model with the weights of official files; without a discriminator it keeps a new, untrained one.

    Args:
        source: ``iter<N>_net.t7``, or a state dict with official names.
        discriminator: ``iter<N>_netD.t7``; None looks for it beside ``source``.

    Raises:
        UserError: a file cannot be read safely, or its entries are not those of the official networks.
    """
    source = Path(source)
    beside = source.with_name(source.name.replace("_net.t7", "_netD.t7"))
    if discriminator is None and beside != source and beside.exists():
        discriminator = beside
    states, files = _read(source, "generator"), {"generator": source, "discriminator": source}
    if discriminator is not None:
        files["discriminator"] = Path(str(discriminator))
        states["discriminator"] = _read(files["discriminator"], "discriminator")["discriminator"]
    networks = {}
    with problems_of(source):
        sizes = _generator_sizes(states["generator"].entries)
        table = generator_table(sizes["condition"], sizes["streams"])
        networks["generator"] = _given(states["generator"], table, "net.", source)
    if "discriminator" in states:
        with problems_of(files["discriminator"]):
            sizes |= _discriminator_sizes(states["discriminator"].entries, sizes["condition"] == "first_frame")
            table = discriminator_table()
            networks["discriminator"] = _given(states["discriminator"], table, "netD.", files["discriminator"])
    return build(partial(VGAN, **sizes), networks)


@dataclass
class _State:
    """One official network: its state dict, and the epsilons of its batch norms where the file tells them."""

    entries: dict[str, Tensor]
    epsilons: dict[str, float]


def _read(path: Path, wanted: str) -> dict[str, _State]:
    """The networks of a file; ``wanted`` is the one that it must hold."""
    try:
        with open(path, "rb") as file:
            head = file.read(2)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if head in (b"PK", b"\x80\x02"):  # a zip archive or a pickle: PyTorch's
        content = restricted_pickle.read(path)
        with problems_of(path):
            if not isinstance(content, Mapping):
                raise UserError(f"holds a {type(content).__name__}, not a state dict")
            states = split_networks(content, NETWORKS, wanted)
            if wanted not in states:
                raise UserError(f"holds no {wanted}")
            return {name: _State(entries, {}) for name, entries in states.items()}
    record = torch7.read(path)
    with problems_of(path):
        if not isinstance(record, Record):
            raise UserError("holds no module; an official file is one, iter<N>_net.t7 or iter<N>_netD.t7")
        return {wanted: _state_of(record, "net." if wanted == "generator" else "netD.")}


def _state_of(record: Record, prefix: str) -> _State:
    """The state dict of a recorded module; ``prefix`` names the network in messages."""
    state = _State({}, {})
    for path, module in _modules(record, prefix):
        values = {
            name: as_stored(value, f"{prefix}{path}.{name}")
            for name, value in module.attributes.items()
            if name in (*ENTRIES, "running_std") and isinstance(value, Tensor)
        }
        if "running_mean" in values:
            epsilon = module.attributes.get("eps")
            if not isinstance(epsilon, float):
                raise UserError(f"{prefix}{path} lacks eps")
            state.epsilons[path] = epsilon
            if "running_std" in values:  # the oldest files keep 1 / sqrt(variance + epsilon)
                variance = values.pop("running_std").double() ** -2 - epsilon
                values.setdefault("running_var", variance.float())
        state.entries.update({f"{path}.{name}".lstrip("."): value for name, value in values.items()})
    return state


def _modules(record: Record, prefix: str) -> Iterator[tuple[str, Record]]:
    """A module and those inside it with their paths; ``prefix`` names the network in messages."""
    seen: set[int] = set()
    waiting = [("", record)]
    while waiting:
        path, module = waiting.pop()
        name = f"{prefix}{path}".rstrip(".")
        if not module.path.startswith(("nn.", "cudnn.")):
            raise UserError(f"{name} is a {module.path}, not an nn or cudnn module")
        if id(module) in seen:
            raise UserError(f"{name} is the same module as another one")
        seen.add(id(module))
        yield path, module
        children = module.attributes.get("modules")
        if not isinstance(children, dict):
            continue
        for index in range(len(children), 0, -1):
            child = children.get(index)
            if not isinstance(child, Record):
                raise UserError(f"{name} has no module {index}")
            waiting.append((f"{path}.{index}".lstrip("."), child))


def _given(state: _State, table: Mapping[str, str], prefix: str, file: Path) -> Given:
    """A network under our names.

    Raises:
        UserError: an entry is not part of the official module, or a batch norm has another epsilon.
    """
    entries = with_counts(translate(state.entries, table, prefix))
    for module, epsilon in state.epsilons.items():
        ours = table[module]
        in_generator = ours.startswith(("foreground.", "background."))
        expected = GENERATOR_EPSILON if in_generator else DISCRIMINATOR_EPSILON
        if not math.isclose(epsilon, expected, rel_tol=1e-3):
            raise UserError(f"{prefix}{module}.eps is {epsilon:g}, expected {expected:g}")
    return Given(entries, partial(official_key, table=table, prefix=prefix), file)


def _generator_sizes(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of the model that follow from the generator's shapes."""
    if "12.weight" in state and not any(key.count(".") > 1 for key in state):
        raise UserError("holds a discriminator; give the generator, iter<N>_net.t7")
    from_frame = any(key.startswith("2.") for key in state)
    moving, still = ("2.1.", "2.2.") if from_frame else ("1.1.", "1.2.")
    stem = shape_of(state, f"{moving}2.weight", 5, "net.")
    width, channels = shape_of(state, f"{moving}14.1.1.weight", 5, "net.")[:2]
    two = any(key.startswith((still, f"{moving}14.2.")) for key in state)
    sizes: dict[str, Any] = {"channels": channels, "width": width, "streams": 2 if two else 1}
    sizes["num_frames"] = stem[2] * 2**DOUBLINGS
    if from_frame:
        return {**sizes, "condition": "first_frame"}  # of any size, unless the discriminator tells
    return {
        **sizes,
        "condition": "none",
        "dim_latent": stem[0],
        "resolution": _resolution(stem, f"net.{moving}2.weight"),
    }


def _discriminator_sizes(state: Mapping[str, Tensor], from_frame: bool) -> dict[str, Any]:
    """Arguments of the model that follow from the discriminator's shapes."""
    sizes = {"discriminator_width": shape_of(state, "1.weight", 5, "netD.")[0]}
    if from_frame:
        sizes["resolution"] = _resolution(shape_of(state, "12.weight", 5, "netD."), "netD.12.weight")
    return sizes


def _resolution(shape: tuple[int, ...], name: str) -> int:
    """Height and width in pixels, from the weight of the layer that makes or sees the smallest map."""
    if not 4 <= shape[3] <= 7:
        raise UserError(f"{name} is {shape}, expected a kernel of 4 to 7 pixels")
    return shape[3] * 2**DOUBLINGS
