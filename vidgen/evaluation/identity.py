"""What decides the pixels that a data set gives: the key of everything that is kept of them."""

from __future__ import annotations

import hashlib
import os
import pickle
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from vidgen.data.dataset import VideoDataset
from vidgen.data.packed import Packed
from vidgen.data.stored import StoredVideos
from vidgen.data.tables import FolderFiles, ZipFiles
from vidgen.registry import DATASETS


def data_identity(dataset: VideoDataset) -> dict[str, Any]:
    """Tells a data set from any other, and from itself after one of its files was written anew; plain values.

    A file is known by its place, size and times, since to read them all would take as long as to decode them; a pack
    by its checksums.
    """
    identity: dict[str, Any] = {"data": DATASETS.name_of(type(dataset)), "spec": dataset.spec.to_dict()}
    if isinstance(dataset, StoredVideos):
        return {**identity, "files": _files_digest(dataset), "settings": _settings(dataset)}
    return {**identity, "content": _content_digest(dataset)}


def _files_digest(dataset: StoredVideos) -> str:
    digest = hashlib.sha256(dataset.signature())
    for name in dataset.names:
        digest.update(name.encode("utf-8", "surrogateescape") + b"\n")
    if dataset.attributes is not None:
        digest.update(dataset.attributes.tobytes())
    if isinstance(dataset, Packed):  # the signature covers the pack, but not the sounds that may lie beside it
        sounds = [] if dataset._sounds is None else [dataset._sounds]
        paths: Iterable[Path] = (Path(table.path(number)) for table in sounds for number in range(len(table)))
    else:
        paths = _paths(dataset)
    for path in paths:
        digest.update(f"{_state(path)}\n".encode())
    return digest.hexdigest()[:32]


def _paths(dataset: StoredVideos) -> Iterator[Path]:
    """The files that a data set reads."""
    tables = [value for value in vars(dataset).values() if isinstance(value, FolderFiles | ZipFiles)]
    for table in tables:
        yield table.root.resolve()
        if isinstance(table, FolderFiles):
            yield from (Path(table.path(number)) for number in range(len(table)))
    if not tables:  # a data set of somebody else's
        yield from (Path(dataset.path(video)) for video in range(len(dataset)))


def _state(path: Path) -> str:
    """What changes when a file does. The folder that all lie in is known by its place alone."""
    try:
        state = os.stat(path)
    except OSError:
        return f"{path} gone"
    # The time of the last change of status too: archives set the other one to whatever they hold.
    return str(path) if path.is_dir() else f"{path.name} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"


def _settings(dataset: StoredVideos) -> dict[str, str]:
    """Everything plain that was set of a data set."""
    plain = {
        name: value
        for name, value in sorted(vars(dataset).items())
        if isinstance(value, str | int | float | bool | Fraction | tuple) or is_dataclass(value)
    }
    beside = ("root", "spec", "groups")
    return {name: repr(value) for name, value in plain.items() if name not in beside and not name.startswith("_")}


def _content_digest(dataset: VideoDataset) -> str:
    """Of a data set that makes its videos itself, from all that it holds; of a foreign one nothing is known."""
    if type(dataset).__module__.startswith("vidgen."):
        return hashlib.sha256(pickle.dumps(dataset)).hexdigest()[:32]
    return uuid.uuid4().hex
