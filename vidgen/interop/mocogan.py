"""The layout of the official MoCoGAN modules, and what it is called here."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vidgen.errors import UserError, did_you_mean

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


def translate_key(key: str, table: Mapping[str, str]) -> str:
    """Our name of an official state-dict entry.

    Raises:
        UserError: the official module has no such entry.
    """
    module, _, entry = key.rpartition(".")
    if module not in table:
        raise UserError(f"{key}: is not part of the official module{did_you_mean(module, table)}")
    return f"{table[module]}.{entry}"


def translate(state: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, Tensor]:
    """An official state dict under our names.

    Raises:
        UserError: an entry is not part of the official module.
    """
    return {translate_key(key, table): value for key, value in state.items()}
