"""What official TATS modules and buffers are called, and what they are called here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vidgen.errors import UserError

State = Mapping[str, Tensor]

_RESIDUAL = {"norm1": "norm1", "conv1.conv": "conv1", "norm2": "norm2", "conv2.conv": "conv2"}

AUTOENCODER = {
    "encoder.conv_first.conv": "encoder.first",
    "encoder.conv_blocks.#.down.conv": "encoder.levels.#.down",
    **{f"encoder.conv_blocks.#.res.{theirs}": f"encoder.levels.#.res.{ours}" for theirs, ours in _RESIDUAL.items()},
    "encoder.final_block.0": "encoder.norm",
    "pre_vq_conv.conv": "project",
    "post_vq_conv.conv": "unproject",
    "decoder.final_block.0": "decoder.norm",
    "decoder.conv_blocks.#.up.convt": "decoder.levels.#.up",
    **{
        f"decoder.conv_blocks.#.{res}.{theirs}": f"decoder.levels.#.{res}.{ours}"
        for res in ("res1", "res2")
        for theirs, ours in _RESIDUAL.items()
    },
    "decoder.conv_last.conv": "decoder.last",
}
"""Official module -> ours, in VideoAutoencoder; ``#`` is the number of a level."""

CODEBOOK = {"embeddings": "embeddings", "N": "counts", "z_avg": "sums"}
"""Official buffer of the codebook -> ours."""

DISCRIMINATOR = {"model#.0": "stages.#.convolution", "model#.1": "stages.#.norm"}
"""Official module -> ours, in PatchDiscriminator."""

TRANSFORMER = {
    "tok_emb": "token_embedding",
    "blocks.#.ln1": "blocks.#.norm1",
    "blocks.#.ln2": "blocks.#.norm2",
    "blocks.#.attn.query": "blocks.#.qkv",
    "blocks.#.attn.key": "blocks.#.qkv",
    "blocks.#.attn.value": "blocks.#.qkv",
    "blocks.#.attn.proj": "blocks.#.project",
    "blocks.#.mlp.0": "blocks.#.expand",
    "blocks.#.mlp.2": "blocks.#.contract",
    "ln_f": "norm",
    "head": "head",
}
"""Official module -> ours, in GPT; queries, keys and values are one layer here, one below the other."""

POSITIONS = {"pos_emb": "positions", "vtokens_pos_emb": "table"}
"""Official parameter of the transformer -> ours."""

QKV = ("query", "key", "value")
"""Rows of our ``qkv``, in this order."""

UNUSED = re.compile(r"perceptual_model\..*")
"""LPIPS, which no vidgen checkpoint holds."""
MASK = re.compile(r"blocks\.\d+\.attn\.mask")
"""Of the transformer, which follows from its sizes."""


class Part(NamedTuple):
    """A network inside an official file.

    Args:
        prefix: of its entries.
        ours: path in our model.
        tables: official module -> ours, official entry -> ours.
    """

    prefix: str
    ours: str
    tables: tuple[Mapping[str, str], Mapping[str, str]]


_CODEBOOK = {f"codebook.{theirs}": f"codebook.{ours}" for theirs, ours in CODEBOOK.items()}

AUTOENCODER_PART = Part("", "autoencoder", (AUTOENCODER, _CODEBOOK))
DISCRIMINATORS = (
    Part("image_discriminator.", "image_discriminator", (DISCRIMINATOR, {})),
    Part("video_discriminator.", "video_discriminator", (DISCRIMINATOR, {})),
)
VQGAN_PARTS = (AUTOENCODER_PART, *DISCRIMINATORS)
TRANSFORMER_PART = Part("transformer.", "transformer", (TRANSFORMER, POSITIONS))
FIRST_STAGE = Part("first_stage_model.", "first_stage", (AUTOENCODER, _CODEBOOK))
AUDIO_STAGE = Part("cond_stage_model.", "audio_stage", (AUTOENCODER, _CODEBOOK))


def translate(state: State, part: Part) -> dict[str, Tensor]:
    """A network under our names; queries, keys and values are joined, what we do not keep is left out.

    Args:
        state: its official state dict, without prefix.
        part: which network it is.

    Raises:
        UserError: an entry is not part of the official network, or a query has no key or value of its size.
    """
    modules, entries = part.tables
    found: dict[str, Tensor] = {}
    split: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key in entries:
            found[entries[key]] = value
            continue
        if UNUSED.fullmatch(key) or (modules is TRANSFORMER and MASK.fullmatch(key)):
            continue
        module, _, entry = key.rpartition(".")
        ours = _renamed(module, modules)
        if ours is None:
            raise UserError(f"has {part.prefix}{key}, which is not part of the official module")
        if ours.endswith(".qkv"):
            split.setdefault(f"{ours}.{entry}", {})[module.rpartition(".")[2]] = value
        else:
            found[f"{ours}.{entry}"] = value
    for name, parts in split.items():
        found[name] = _joined(name, parts, part)
    if "codebook.embeddings" in found:
        found["codebook.initialised"] = torch.tensor(True)
    return found


def official_entries(name: str, value: Tensor, part: Part) -> dict[str, Tensor]:
    """What an entry of one of our networks is there, by official name without prefix: the inverse of translating.

    Args:
        name: the entry, or a parameter whose gradient ``value`` is.
        value: of its shape.
        part: which network it belongs to.
    """
    names = official_names(name, part)
    return dict(zip(names, value.chunk(len(names)) if len(names) > 1 else [value], strict=True))


def official_names(name: str, part: Part) -> list[str]:
    """Official names, without prefix, of an entry of one of our networks: of three layers where we have one."""
    modules, entries = part.tables
    for theirs, ours in entries.items():
        if name == ours:
            return [theirs]
    module, _, entry = name.rpartition(".")
    if module.endswith(".qkv"):
        block = module.removesuffix(".qkv")
        return [f"{block}.attn.{which}.{entry}" for which in QKV]
    official = _renamed(module, {ours: theirs for theirs, ours in modules.items()})
    if official is None:
        raise KeyError(f"{name} has no name in the official code")
    return [f"{official}.{entry}"]


def official_name(prefix: str, part: Part, name: str) -> str:
    """One official name, for messages."""
    return f"{prefix}{official_names(name, part)[0]}"


def _renamed(module: str, table: Mapping[str, str]) -> str | None:
    """The other name of a module, or None; the first number in it is that of a level, a stage or a block."""
    for template, other in table.items():
        pattern = re.escape(template).replace(r"\#", r"(0|[1-9]\d{0,5})")
        match = re.fullmatch(pattern, module, re.ASCII)
        if match:
            return other.replace("#", match[1]) if match.groups() else other
    return None


def _joined(name: str, parts: Mapping[str, Tensor], part: Part) -> Tensor:
    """Queries, keys and values one below the other."""
    names = [f"{part.prefix}{official}" for official in official_names(name, part)]
    for which, official in zip(QKV, names, strict=True):
        if which not in parts:
            raise UserError(f"lacks {official}")
        found, right = tuple(parts[which].shape), tuple(parts[QKV[0]].shape)
        if not found or found != right:
            raise UserError(f"{official} is {found}, expected {right}")
    return torch.cat([parts[which] for which in QKV])
