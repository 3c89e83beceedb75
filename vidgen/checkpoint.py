"""Checkpoint files: written beside and renamed, read without executing anything, turned back into models."""

from __future__ import annotations

import errno
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch

from vidgen.atomic import atomic_file
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.models.base import VideoModel
from vidgen.registry import MODELS

FORMAT = 1
"""Version of the ``vidgen`` entry of a checkpoint."""


def write_checkpoint(path: str | Path, payload: dict[str, Any]) -> None:
    """Write a checkpoint so that the file is either whole or absent, and what stood there before is never lost.

    Args:
        path: the file; its folder is made when absent.
        payload: tensors and plain Python values.

    Raises:
        UserError: the disk is full, or the place cannot be written.
    """
    with atomic_file(path) as file:
        try:
            torch.save(payload, file)
        except RuntimeError as error:  # torch's zip writer hides what the file said
            raise _hidden_cause(error) from error


def _hidden_cause(error: BaseException) -> BaseException:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if cause is None and ("PytorchStreamWriter" in str(error) or "unexpected pos" in str(error)):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return cause or error


def read_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a vidgen checkpoint; nothing in it is executed.

    Raises:
        UserError: the file is missing, damaged, or not a vidgen checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint")
    try:
        payload = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: not a vidgen checkpoint (it holds more than tensors and plain values); "
            "official files are read by `vidgen convert`"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        raise UserError(f"{path}: unreadable checkpoint (damaged, cut short or of another kind)") from None
    if not isinstance(payload, dict) or not isinstance(payload.get("vidgen"), dict) or "state_dict" not in payload:
        raise UserError(f"{path}: not a vidgen checkpoint; official files are read by `vidgen convert`")
    if payload["vidgen"].get("format") != FORMAT:
        found = payload["vidgen"].get("format")
        raise UserError(f"{path}: checkpoint format {found!r}, this vidgen reads format {FORMAT}; update vidgen")
    return payload


def read_trained(path: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a checkpoint or a folder written by ``vidgen export`` says of itself, its weights, and averages of some.

    Raises:
        UserError: it is missing, damaged or of another kind.
    """
    if path.is_dir():
        from vidgen.export import read_export

        exported = read_export(path)
        return exported, exported["state_dict"], {}
    payload = read_checkpoint(path)
    return payload["vidgen"], payload["state_dict"], payload.get("ema", {})


def describe_model(model: VideoModel, spec: DataSpec | None = None, **more: Any) -> dict[str, Any]:
    """The ``vidgen`` entry of a checkpoint: what is needed to build the model again, in plain values."""
    from vidgen import __version__

    return {
        "format": FORMAT,
        "version": __version__,
        "model": MODELS.name_of(type(model)),
        "model_args": plain(model.init_args),
        "data_spec": spec.to_dict() if spec is not None else None,
        "config": None,
        "stage": None,
        "iteration": 0,
        "seed": model.seed,
        **more,
    }


def plain(value: Any) -> Any:
    """The same value made of dicts, lists, tuples and scalars only."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(entry) for entry in value)
    return str(value) if isinstance(value, Path) else value


def load(
    path: str | Path,
    *,
    ema: bool = True,
    device: str | torch.device = "cpu",
    model: type[VideoModel] | None = None,
) -> VideoModel:
    """Load a trained model, in eval mode and ready to sample.

    Args:
        path: a checkpoint file, or a folder written by ``vidgen export``.
        ema: take the averaged weights where the file has them; False takes the raw ones.
        device: where the model shall live.
        model: class of the model, needed only for a class of your own that is neither registered nor imported.

    Returns:
        The model of the class that was trained.

    Raises:
        UserError: the file is missing, damaged, foreign, or of a class that is not known here.
    """
    path = Path(path)
    about, weights, average = read_trained(path)
    built = build_from(about, path, model)
    weights = {**weights, **average} if ema else weights
    missing, extra = built.load_state_dict(weights, strict=False)
    if missing or extra:
        what = f"lacks {missing[0]!r}" if missing else f"has an unknown {extra[0]!r}"
        raise UserError(f"{path}: does not fit {about['model']} ({what}); was it written by another version?")
    built.to(device).eval()
    built.prepare_sampling()
    return built


def build_from(about: dict[str, Any], path: Path, model: type[VideoModel] | None = None) -> VideoModel:
    """Build the untrained model that a ``vidgen`` entry describes.

    Raises:
        UserError: the class is not known, or refuses the saved arguments.
    """
    cls = model if model is not None else known_class(str(about["model"]), path)
    try:
        built = cls(**about["model_args"])
    except TypeError as error:
        raise UserError(f"{path}: {cls.__name__} does not take the saved arguments: {error}") from None
    built.seed = int(about.get("seed") or 0)
    built.data_spec = DataSpec.from_dict(about["data_spec"]) if about.get("data_spec") else None
    return built


def known_class(name: str, path: Path) -> type[VideoModel]:
    """The class that a file names, if it is registered or imported already; a file cannot cause an import.

    Raises:
        UserError: it is neither, or not a model.
    """
    if name in MODELS.names() or name.rpartition(".")[0] in sys.modules:
        cls = MODELS.get(name)
        if isinstance(cls, type) and issubclass(cls, VideoModel):
            return cls
    raise UserError(f"{path}: holds a {name!r}, which is not imported here; name the class with --model {name}")
