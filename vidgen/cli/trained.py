"""What the commands that use a trained model ask of its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vidgen.errors import UserError

if TYPE_CHECKING:
    from vidgen.models.base import VideoModel


def describe_trained(path: Path, raw_weights: bool) -> tuple[dict[str, Any], Literal["ema", "raw"]]:
    """What a checkpoint or an exported folder says about itself, and which weights of it are wanted.

    Args:
        path: of either.
        raw_weights: whether the raw weights are wanted, not their moving average.

    Raises:
        UserError: it cannot be read, or has no raw weights.
    """
    from vidgen.checkpoint import read_checkpoint
    from vidgen.export import read_export

    if path.is_dir():
        about = read_export(path)
        if raw_weights and about["weights"] == "ema":
            raise UserError(f"--raw-weights: {path} has averaged weights only; export the raw ones as well")
        return about, about["weights"]
    payload = read_checkpoint(path)
    return payload["vidgen"], "ema" if payload.get("ema") and not raw_weights else "raw"


def class_of_trained(about: dict[str, Any], own: str | None, path: Path) -> type[VideoModel]:
    """The class of a trained model.

    Args:
        about: what the checkpoint says about itself.
        own: dotted path of a class of the user's own; None for the class that the checkpoint names.
        path: of the checkpoint, for messages.

    Raises:
        UserError: the class is not known here.
    """
    from vidgen.checkpoint import known_class
    from vidgen.registry import MODELS

    return MODELS.get(own) if own else known_class(str(about["model"]), path)
