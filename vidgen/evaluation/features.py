"""Features of clips on the disk, so that nothing is decoded, generated or looked at twice."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from vidgen.atomic import atomic_file
from vidgen.data.index import cache_dir
from vidgen.errors import UserError
from vidgen.evaluation.sources import Unusable

FORMAT = 1
"""Raised when features of an older version are no longer right."""
CHUNK = 16
"""Clips of a file."""

_log = logging.getLogger("vidgen.evaluation")


@dataclass(frozen=True)
class Chunk:
    """Features of consecutive clips of a source, and what else is known of these.

    Args:
        numbers: int64 ``(n,)``, of the clips that could be had.
        features: ``(n, ..., D)``.
        digests: int64 ``(n,)``, of the clips' pixels.
        sizes: int64 ``(n, 2)``, height and width of the clips.
        unusable: the clips that could not be had.
    """

    numbers: Tensor
    features: Tensor
    digests: Tensor
    sizes: Tensor
    unusable: tuple[Unusable, ...] = ()


class FeatureStore:
    """The chunks of one source as one extraction sees them; a folder of small files, each written at once.

    Processes may fill it together: each file is written beside and renamed, and it does not matter who does it.

    Args:
        identity: everything that decides the features, as plain values.
        enabled: False keeps nothing and finds nothing.
    """

    def __init__(self, identity: Mapping[str, Any], enabled: bool = True) -> None:
        self.identity = {"format": FORMAT, "chunk": CHUNK, **identity}
        text = json.dumps(self.identity, sort_keys=True)
        self.folder = cache_dir() / "features" / hashlib.sha256(text.encode()).hexdigest()[:32]
        self.enabled = enabled

    def load(self, chunk: int) -> Chunk | None:
        """A chunk by its number; None where it is not there, or damaged."""
        if not self.enabled:
            return None
        try:
            tensors = load_tensors(self._path(chunk).read_bytes())
            lost = json.loads(bytes(tensors.pop("unusable").tolist()))
            return Chunk(unusable=tuple(Unusable(*entry) for entry in lost), **tensors)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return None

    def save(self, number: int, chunk: Chunk) -> None:
        """Keep a chunk; where that is not possible, say so and go on without."""
        if not self.enabled:
            return
        lost = json.dumps([list(entry) for entry in chunk.unusable]).encode()
        tensors = {key: value.contiguous() for key, value in vars(chunk).items() if isinstance(value, Tensor)}
        tensors["unusable"] = torch.frombuffer(bytearray(lost), dtype=torch.uint8)
        try:
            about = self.folder / "about.json"
            if not about.exists():
                with atomic_file(about) as file:
                    file.write(json.dumps(self.identity, indent=2, sort_keys=True).encode() + b"\n")
            with atomic_file(self._path(number)) as file:
                file.write(save_tensors(tensors))
        except UserError as error:
            self.enabled = False
            _log.warning("%s; features are not kept", str(error).partition(";")[0])

    def _path(self, chunk: int) -> Path:
        return self.folder / f"{chunk:06d}.safetensors"
