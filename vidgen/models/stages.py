"""Models that contain trained, frozen ones: where these come from, and what a checkpoint says of them.

A second stage is told of the first by the path of its checkpoint. In the arguments that are saved the path is replaced
by a description, so that one file holds the whole chain: the description builds the network, the state dict fills it.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vidgen.errors import UserError

Stage = str | Path | dict[str, Any]
"""Path of a checkpoint or of an exported folder, or a description: ``model``, ``model_args`` and ``weights``, a
fingerprint."""


class Earlier(NamedTuple):
    """An earlier stage.

    Args:
        description: in plain values, for ``init_args``.
        model: its class.
        arguments: of its constructor, all of them.
        weights: its state dict; None where the description stands alone and a checkpoint will fill it.
    """

    description: dict[str, Any]
    model: type
    arguments: dict[str, Any]
    weights: dict[str, Tensor] | None


def open_stage(name: str, stage: Stage, wanted: str) -> Earlier:
    """Find out about an earlier stage.

    Args:
        name: argument that names it, for messages.
        stage: where it is.
        wanted: registry name of the model that it must be.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or of another model.
    """
    from vidgen.checkpoint import known_class, plain, read_trained

    weights = None
    if isinstance(stage, Mapping):
        if not is_described(stage):
            raise UserError(f"model.{name}: must be the path of a checkpoint of {wanted!r}")
        about: Mapping[str, Any] = stage
        where = Path(name)
    else:
        where = Path(stage)
        about, raw, average = read_trained(where)
        weights = {**raw, **average}
    if about.get("model") != wanted:
        raise UserError(f"model.{name}: {where} holds a {about.get('model')!r}, needed is a {wanted!r}")
    model = known_class(wanted, where)
    try:
        bound = inspect.signature(model.__init__).bind(None, **_tupled(about["model_args"]))
    except (KeyError, TypeError):
        raise UserError(f"model.{name}: {where} has other arguments than a {wanted!r} takes; update vidgen") from None
    bound.apply_defaults()
    arguments = dict(list(bound.arguments.items())[1:])
    described = fingerprint(weights) if weights is not None else str(about.get("weights", ""))
    return Earlier({"model": wanted, "model_args": plain(arguments), "weights": described}, model, arguments, weights)


def _tupled(value: Any) -> Any:
    """With tuples for lists, which an exported folder has in their place."""
    if isinstance(value, Mapping):
        return {key: _tupled(entry) for key, entry in value.items()}
    return tuple(map(_tupled, value)) if isinstance(value, list | tuple) else value


def is_described(value: object) -> bool:
    """Whether an argument of a model is the description of an earlier stage."""
    return isinstance(value, Mapping) and {"model", "model_args"} <= value.keys()


def fill(network: nn.Module, weights: Mapping[str, Tensor] | None, prefix: str, name: str) -> None:
    """Load an earlier stage's weights and freeze them.

    Args:
        network: the part that is kept.
        weights: state dict of the whole stage; None leaves the network as it is.
        prefix: of the part's entries in it.
        name: argument that names the stage, for messages.

    Raises:
        UserError: an entry is missing, or of another shape.
    """
    if weights is not None:
        own = {key: weights.get(prefix + key) for key in network.state_dict()}
        for key, value in own.items():
            if value is None:
                raise UserError(
                    f"model.{name}: its checkpoint lacks {prefix + key!r}; was it written by another version?"
                )
        try:
            network.load_state_dict(own)
        except RuntimeError:
            raise UserError(f"model.{name}: its checkpoint's weights are not those of its arguments") from None
    network.requires_grad_(False).eval()


def fingerprint(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state dict, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
