"""Official MoCoGAN checkpoints: the layout of its modules, what it is called here, and how to read its files.

The official code saves the generator only, as a whole pickled module (``generator_100000.pytorch``). State dicts of all
three networks are read too, with the prefixes ``generator.``, ``image_discriminator.`` and ``video_discriminator.``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.interop.restricted_pickle import Record, read
from vidgen.models.mocogan import MoCoGAN, fewest_frames

GENERATOR = {
    "recurrent": "recurrent",
    "main.0": "image_generator.convolutions.0",
    "main.1": "image_generator.norms.0",
    "main.3": "image_generator.convolutions.1",
    "main.4": "image_generator.norms.1",
    "main.6": "image_generator.convolutions.2",
    "main.7": "image_generator.norms.2",
    "main.9": "image_generator.convolutions.3",
    "main.10": "image_generator.norms.3",
    "main.12": "image_generator.output",
}
"""Official module -> ours, in VideoGenerator."""

_THREE_BLOCKS = {
    "main.1": "trunk.0.convolution",
    "main.4": "trunk.1.convolution",
    "main.5": "trunk.1.norm",
    "main.8": "trunk.2.convolution",
    "main.9": "trunk.2.norm",
}
_FOUR_BLOCKS = {**_THREE_BLOCKS, "main.12": "trunk.3.convolution", "main.13": "trunk.3.norm"}

DISCRIMINATORS = {
    "PatchImageDiscriminator": {**_THREE_BLOCKS, "main.12": "output"},
    "ImageDiscriminator": {**_FOUR_BLOCKS, "main.15": "output"},
    "PatchVideoDiscriminator": {**_THREE_BLOCKS, "main.11": "output"},
    "VideoDiscriminator": {**_FOUR_BLOCKS, "main.15": "output"},
    "CategoricalVideoDiscriminator": {**_FOUR_BLOCKS, "main.15": "output"},
}
"""Official class -> official module -> ours."""


RECORDS = ("models.VideoGenerator", "torch.nn.modules.*", "torch.nn.backends.thnn._get_thnn_function_backend")
"""Classes that an official generator file names."""

NETWORKS = ("generator", "image_discriminator", "video_discriminator")


def translate_key(key: str, table: Mapping[str, str], prefix: str = "") -> str:
    """Our name of an official state-dict entry; ``prefix`` names the network in messages.

    Raises:
        UserError: the official module has no such entry.
    """
    module, _, entry = key.rpartition(".")
    if module not in table:
        raise UserError(f"has {prefix}{key}, which is not part of the official module")
    return f"{table[module]}.{entry}"


def translate(state: Mapping[str, Tensor], table: Mapping[str, str], prefix: str = "") -> dict[str, Tensor]:
    """An official state dict under our names; ``prefix`` names the network in messages.

    Raises:
        UserError: an entry is not part of the official module.
    """
    return {translate_key(key, table, prefix): value for key, value in state.items()}


def read_official(source: Path, num_frames: int = 16, dim_category: int | None = None) -> MoCoGAN:
    """The model with the weights of an official file; networks that the file lacks keep new, untrained weights.

    Args:
        source: a pickled ``VideoGenerator``, or a state dict with official names.
        num_frames: frames of a clip, where the file does not say (a pickled generator does).
        dim_category: number of classes, where the file does not say; None takes it from D_V's output, or 0.

    Raises:
        UserError: the file cannot be read safely, or its entries are not those of the official networks.
    """
    content = read(source, RECORDS)
    try:
        if isinstance(content, Record):
            states, sizes = _from_module(content)
        elif isinstance(content, Mapping):
            states, sizes = _from_state_dict(content, num_frames, dim_category)
        else:
            raise UserError(f"holds a {type(content).__name__}, neither a module nor a state dict")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = MoCoGAN(**sizes, **_discriminators(states))
        for name, state in states.items():
            _load(name, getattr(model, name), state)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return model.eval()


def _from_module(record: Record) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """State dicts by network, and the sizes that the generator remembers."""
    attributes = record.attributes
    if record.path != "models.VideoGenerator" or not isinstance(attributes, Mapping):
        raise UserError(f"holds a {record.path or 'nothing'}, not a models.VideoGenerator")
    state = dict(_entries(record, ""))
    names = {"channels": "n_channels", "dim_content": "dim_z_content", "dim_motion": "dim_z_motion"}
    names |= {"dim_category": "dim_z_category", "num_frames": "video_length"}
    for theirs in names.values():
        if not isinstance(attributes.get(theirs), int):
            raise UserError(f"the generator lacks its attribute {theirs}")
    sizes = {ours: attributes[theirs] for ours, theirs in names.items()}
    sizes["num_frames"] = max(sizes["num_frames"], fewest_frames(4, "full"))  # the new D_V needs as many
    return {"generator": state}, {**sizes, "generator_width": _shape(state, "main.9.weight", "generator")[1]}


def _entries(record: Record, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """What ``state_dict()`` of the recorded module would hold."""
    attributes = record.attributes if isinstance(record.attributes, Mapping) else {}
    for kind in ("_parameters", "_buffers"):
        for name, value in (attributes.get(kind) or {}).items():
            if isinstance(value, Tensor):
                yield f"{prefix}{name}", value.as_subclass(Tensor)
    for name, child in (attributes.get("_modules") or {}).items():
        if isinstance(child, Record):
            yield from _entries(child, f"{prefix}{name}.")


def _from_state_dict(
    content: Mapping[Any, Any], num_frames: int, dim_category: int | None
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """State dicts by network, and the sizes that follow from the shapes."""
    prefixed = any(str(key).startswith(f"{name}.") for key in content for name in NETWORKS)
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UserError(f"entry {key!r} is not a tensor; a state dict with official names was expected")
        network, _, name = key.partition(".") if prefixed else ("generator", "", key)
        if network not in NETWORKS:
            raise UserError(f"has {key}, which belongs to none of {', '.join(NETWORKS)}")
        states.setdefault(network, {})[name] = value.as_subclass(Tensor)
    if "generator" not in states:
        raise UserError("holds no generator")
    generator = states["generator"]
    motion = _shape(generator, "recurrent.weight_hh", "generator")[1]
    if dim_category is None:
        head = states.get("video_discriminator", {}).get("main.15.weight")
        dim_category = 0 if head is None else head.shape[0] - 1
    content_size = _shape(generator, "main.0.weight", "generator")[0] - motion - dim_category
    if content_size < 1:
        raise UserError(f"dim_category {dim_category}: leaves no content code in the generator's input")
    width, channels = _shape(generator, "main.12.weight", "generator")[:2]
    sizes = {"channels": channels, "dim_content": content_size, "dim_motion": motion, "dim_category": dim_category}
    return states, {**sizes, "num_frames": num_frames, "generator_width": width}


def _shape(state: Mapping[str, Tensor], key: str, network: str) -> tuple[int, ...]:
    if key not in state or state[key].dim() < 2:
        raise UserError(f"lacks {network}.{key}")
    return tuple(state[key].shape)


def _discriminators(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """Constructor arguments that describe the discriminators in the file; new ones are as wide as the generator."""
    arguments: dict[str, Any] = {"discriminator_width": _shape(states["generator"], "main.9.weight", "generator")[1]}
    widths = {"image_discriminator": "image_discriminator_width", "video_discriminator": "discriminator_width"}
    for network, width in widths.items():
        if network in states:
            arguments[network] = "full" if "main.15.weight" in states[network] else "patch"
            arguments[width] = _shape(states[network], "main.1.weight", network)[0]
    if "video_discriminator" in states:
        outputs = states["video_discriminator"].get("main.15.weight", torch.empty(1)).shape[0]
        arguments["use_categories"] = arguments["use_infogan"] = outputs > 1
    return arguments


def _load(name: str, network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill a network; the versions of old did not count the batches that batch norm has seen."""
    table = GENERATOR if name == "generator" else DISCRIMINATORS[type(network).__name__]
    official = {ours: theirs for theirs, ours in table.items()}
    given, expected = translate(state, table, f"{name}."), network.state_dict()
    for key in [*expected, *given]:
        module, _, entry = key.rpartition(".")
        theirs = f"{name}.{official[module]}.{entry}"
        if key not in given and entry != "num_batches_tracked":
            raise UserError(f"lacks {theirs}")
        if key not in expected:
            raise UserError(f"has {theirs}, which is not part of the official module")
        if key in given and given[key].shape != expected[key].shape:
            raise UserError(f"{theirs} is {tuple(given[key].shape)}, expected {tuple(expected[key].shape)}")
    network.load_state_dict({**expected, **given})
