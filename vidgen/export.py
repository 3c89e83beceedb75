"""A trained model as a folder that other tools can open: ``model.safetensors`` and ``config.yaml``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vidgen.atomic import atomic_folder
from vidgen.checkpoint import FORMAT, plain, read_checkpoint
from vidgen.errors import UserError
from vidgen.sampling import file_fingerprint

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"

_HEADER = "# Written by vidgen export; vidgen.load(FOLDER) reads it together with model.safetensors.\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines, the run's config, as they are."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def export_checkpoint(
    checkpoint: str | os.PathLike[str], out: str | os.PathLike[str], *, raw_weights: bool = False
) -> Path:
    """Write the weights of a checkpoint and what is needed to build its model to a new folder.

    ``config.yaml`` has the keys of the checkpoint's ``vidgen`` entry (model, model_args, data_spec, config, …), and
    ``weights`` (``ema`` or ``raw``) and ``checkpoint`` (name and SHA-256 of the file). The folder appears whole or
    not at all.

    Args:
        checkpoint: a vidgen checkpoint.
        out: folder to write, absent or empty.
        raw_weights: take the raw weights where there are averaged ones.

    Returns:
        The folder.

    Raises:
        UserError: the checkpoint is unreadable, the folder is in use or cannot be written.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    payload = read_checkpoint(checkpoint)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out}: exists already; choose another --out")
    average = {} if raw_weights else payload.get("ema") or {}
    about = {
        **plain(payload["vidgen"]),
        "weights": "ema" if average else "raw",
        "checkpoint": {"file": checkpoint.name, "sha256": file_fingerprint(checkpoint)},
    }
    weights = _to_safetensors({**payload["state_dict"], **average}, checkpoint)
    with atomic_folder(out) as folder:
        (folder / WEIGHTS).write_bytes(weights)
        text = yaml.dump(about, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
        (folder / CONFIG).write_text(_HEADER + text, encoding="utf-8")
    return out


def read_export(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read an exported folder; nothing in it is executed.

    Args:
        folder: as :func:`export_checkpoint` wrote it.

    Returns:
        The keys of a checkpoint's ``vidgen`` entry, ``weights``, ``checkpoint`` and ``state_dict``.

    Raises:
        UserError: files are missing, damaged or of another kind.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: not written by vidgen export, it has no {name}")
    try:
        about = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        about = None
    if not isinstance(about, dict) or not {"format", "model", "model_args", "weights"} <= about.keys():
        raise UserError(f"{folder / CONFIG}: not written by vidgen export, or damaged")
    if about["format"] != FORMAT:
        raise UserError(
            f"{folder / CONFIG}: format {about['format']!r}, this vidgen reads format {FORMAT}; update vidgen"
        )
    return {**about, "state_dict": _from_safetensors(folder / WEIGHTS)}


def _to_safetensors(state: Mapping[str, Any], source: Path) -> bytes:
    """Serialise a state dict; tensors that are one in memory are stored once and named in the metadata."""
    stored: dict[str, Tensor] = {}
    first_name: dict[tuple[Any, ...], str] = {}
    same_as: dict[str, str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{source}: {name!r} is no tensor ({type(tensor).__name__}), safetensors cannot hold it")
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in first_name:
            same_as[name] = first_name[place]
        else:
            first_name[place] = name
            stored[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return save(stored, metadata={"format": "pt", "same_as": json.dumps(same_as)})


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            same_as = json.loads((file.metadata() or {}).get("same_as", "{}"))
        return {**state, **{name: state[other] for name, other in same_as.items()}}
    except (SafetensorError, OSError, ValueError, KeyError):
        raise UserError(f"{path}: damaged or cut short; export the checkpoint again") from None
