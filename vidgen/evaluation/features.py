"""Features of clips on the disk, so that nothing is decoded, generated or looked at twice."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from vidgen.atomic import PARTIAL_SUFFIX, atomic_file, drop_partial
from vidgen.cache import cache_dir
from vidgen.errors import UserError
from vidgen.evaluation.sources import Unusable

FORMAT = 2
"""Raised when what an older version kept is no longer right."""
CHUNK = 16
"""Clips of a file."""

_log = logging.getLogger("vidgen.evaluation")


class TensorStore:
    """Small files of tensors in a folder of their own, each written at once and checked when it is read.

    Processes may fill it together: each file is written beside and renamed, and it does not matter who does it.

    Args:
        identity: everything that decides the tensors, as plain values; the folder follows from it.
        enabled: False keeps nothing and finds nothing.
    """

    def __init__(self, identity: Mapping[str, Any], enabled: bool = True) -> None:
        self.identity = {"format": FORMAT, **identity}
        text = json.dumps(self.identity, sort_keys=True, default=str)
        self.folder = cache_dir() / "features" / hashlib.sha256(text.encode()).hexdigest()[:32]
        self.enabled = enabled
        if enabled and self.folder.is_dir():
            for left in self.folder.glob(f".*{PARTIAL_SUFFIX}"):  # of a process that was killed
                drop_partial(left)

    def load(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of a name; None where they are not there, or damaged."""
        if not self.enabled:
            return None
        try:
            tensors = load_tensors(self._path(name).read_bytes())
        except (OSError, SafetensorError, ValueError, KeyError):
            return None
        checksum = tensors.pop("checksum", None)
        intact = checksum is not None and torch.equal(checksum, _checksum(tensors))
        return tensors if intact else None

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors; where that is not possible, say so once and go on without."""
        if not self.enabled:
            return
        plain = {key: value.contiguous() for key, value in tensors.items()}
        try:
            about = self.folder / "about.json"
            if not about.exists():
                with atomic_file(about) as file:
                    file.write(json.dumps(self.identity, indent=2, sort_keys=True, default=str).encode() + b"\n")
            with atomic_file(self._path(name)) as file:
                file.write(save_tensors({**plain, "checksum": _checksum(plain)}))
        except UserError as error:
            self.enabled = False
            _warn(str(cache_dir() / "features"), getattr(error.__cause__, "strerror", None) or str(error))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


@dataclass(frozen=True)
class Chunk:
    """Features of consecutive clips of a source, and what else is known of these.

    Args:
        numbers: int64 ``(n,)``, of the clips that could be had, rising.
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

    def of(self, numbers: Sequence[int]) -> Chunk | None:
        """What is known of some of the clips; None where nothing is known of one of them."""
        known = {*self.numbers.tolist(), *(entry.number for entry in self.unusable)}
        if not known.issuperset(numbers):
            return None
        kept = torch.isin(self.numbers, torch.tensor(numbers, dtype=torch.int64))
        lost = tuple(entry for entry in self.unusable if entry.number in numbers)
        return Chunk(self.numbers[kept], self.features[kept], self.digests[kept], self.sizes[kept], lost)


class FeatureStore:
    """The chunks of one source as one extraction sees them.

    Args:
        source: identity of the source.
        extraction: see :meth:`vidgen.metrics.base.FeatureMetric.extraction`.
        enabled: False keeps nothing and finds nothing.
    """

    def __init__(self, source: Mapping[str, Any], extraction: Mapping[str, Any], enabled: bool = True) -> None:
        self.tensors = TensorStore({"chunk": CHUNK, "source": source, "extraction": extraction}, enabled)

    def load(self, number: int, clips: Sequence[int]) -> Chunk | None:
        """What a chunk says of some clips; None where it is not there, or not about all of them."""
        tensors = self.tensors.load(f"{number:06d}")
        if tensors is None:
            return None
        try:
            lost = json.loads(bytes(tensors.pop("unusable").tolist()))
            return Chunk(unusable=tuple(Unusable(*entry) for entry in lost), **tensors).of(clips)
        except (ValueError, KeyError, TypeError):
            return None

    def save(self, number: int, chunk: Chunk) -> None:
        """Keep a chunk, unless one of its clips may be had next time."""
        if any(entry.passing for entry in chunk.unusable):
            return
        lost = json.dumps([list(entry) for entry in chunk.unusable]).encode()
        parts = {"numbers": chunk.numbers, "features": chunk.features, "digests": chunk.digests, "sizes": chunk.sizes}
        self.tensors.save(f"{number:06d}", {**parts, "unusable": torch.frombuffer(bytearray(lost), dtype=torch.uint8)})


@functools.cache
@rank_zero_only
def _warn(place: str, reason: str) -> None:
    _log.warning("%s: cannot be written (%s); features are not kept", place, reason)


def _checksum(tensors: Mapping[str, Tensor]) -> Tensor:
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return torch.tensor(int.from_bytes(digest.digest(), "big", signed=True))
