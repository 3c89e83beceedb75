"""Official MoCoGAN checkpoints: the layout of its modules, what it is called here, and how to read its files.

The official code saves the generator only, as a whole pickled module (``generator_100000.pytorch``). State dicts of all
three networks are read too, with the prefixes ``generator.``, ``image_discriminator.`` and ``video_discriminator.``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from vidgen.errors import UserError
from vidgen.interop.restricted_pickle import Record, module_state, read
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
    with problems_of(source):
        if isinstance(content, Record):
            states, sizes = _from_module(content)
        elif isinstance(content, Mapping):
            states, sizes = _from_state_dict(content, num_frames, dim_category)
        else:
            raise UserError(f"holds a {type(content).__name__}, neither a module nor a state dict")
        sizes |= _discriminators(states)
        tables = _tables(sizes)
        networks = {}
        for name, state in states.items():
            table, prefix = tables[name], f"{name}."
            official = partial(official_key, table=table, prefix=prefix)
            networks[name] = Given(translate(state, table, prefix), official, source)
    return build(partial(MoCoGAN, **sizes), networks)


def _from_module(record: Record) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """State dicts by network, and the sizes that the generator remembers."""
    attributes = record.attributes
    if record.path != "models.VideoGenerator" or not isinstance(attributes, Mapping):
        raise UserError(f"holds a {record.path or 'nothing'}, not a models.VideoGenerator")
    state = {key: as_stored(value, key) for key, value in module_state(record, "generator.").items()}
    names = {"channels": "n_channels", "dim_content": "dim_z_content", "dim_motion": "dim_z_motion"}
    names |= {"dim_category": "dim_z_category", "num_frames": "video_length"}
    for theirs in names.values():
        if not isinstance(attributes.get(theirs), int):
            raise UserError(f"the generator lacks its attribute {theirs}")
    sizes = {ours: attributes[theirs] for ours, theirs in names.items()}
    sizes["num_frames"] = max(sizes["num_frames"], fewest_frames(4, "full"))  # the new D_V needs as many
    return {"generator": state}, {**sizes, "generator_width": shape_of(state, "main.9.weight", 4, "generator.")[1]}


def _from_state_dict(
    content: Mapping[Any, Any], num_frames: int, dim_category: int | None
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """State dicts by network, and the sizes that follow from the shapes."""
    states = split_networks(content, {f"{name}.": name for name in NETWORKS}, "generator")
    if "generator" not in states:
        raise UserError("holds no generator")
    generator = states["generator"]
    motion = shape_of(generator, "recurrent.weight_hh", 2, "generator.")[1]
    if dim_category is None:
        judge = states.get("video_discriminator", {})
        head = "main.15.weight"
        dim_category = shape_of(judge, head, 5, "video_discriminator.")[0] - 1 if head in judge else 0
    content_size = shape_of(generator, "main.0.weight", 4, "generator.")[0] - motion - dim_category
    if content_size < 1:
        raise UserError(f"dim_category {dim_category}: leaves no content code in the generator's input")
    width, channels = shape_of(generator, "main.12.weight", 4, "generator.")[:2]
    sizes = {"channels": channels, "dim_content": content_size, "dim_motion": motion, "dim_category": dim_category}
    return states, {**sizes, "num_frames": num_frames, "generator_width": width}


def _discriminators(states: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """Constructor arguments that describe the discriminators in the file; new ones are as wide as the generator."""
    width = shape_of(states["generator"], "main.9.weight", 4, "generator.")[1]
    arguments: dict[str, Any] = {"discriminator_width": width}
    widths = {"image_discriminator": "image_discriminator_width", "video_discriminator": "discriminator_width"}
    for network, width_name in widths.items():
        if network in states:
            dimensions = 4 if network == "image_discriminator" else 5
            arguments[network] = "full" if "main.15.weight" in states[network] else "patch"
            arguments[width_name] = shape_of(states[network], "main.1.weight", dimensions, f"{network}.")[0]
    if arguments.get("video_discriminator") == "full":
        outputs = shape_of(states["video_discriminator"], "main.15.weight", 5, "video_discriminator.")[0]
        arguments["use_categories"] = arguments["use_infogan"] = outputs > 1
    elif "video_discriminator" in states:
        arguments["use_categories"] = arguments["use_infogan"] = False
    return arguments


def _tables(sizes: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Official modules of the networks that have been described."""
    tables = {"generator": GENERATOR}
    for network, kind in (("image_discriminator", "Image"), ("video_discriminator", "Video")):
        patch = "Patch" if sizes.get(network) == "patch" else ""
        tables[network] = DISCRIMINATORS[f"{patch}{kind}Discriminator"]
    return tables
