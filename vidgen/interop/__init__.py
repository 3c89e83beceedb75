"""Readers for the checkpoints of the official implementations."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vidgen.errors import UserError, did_you_mean

CONVERTERS = {
    "mocogan": "vidgen.interop.mocogan",
    "svg": "vidgen.interop.svg",
    "tats": "vidgen.interop.tats:read_transformer",
    "tats_interpolation": "vidgen.interop.tats:read_interpolation",
    "tats_vqgan": "vidgen.interop.tats:read_vqgan",
    "tgan": "vidgen.interop.tgan",
    "vgan": "vidgen.interop.vgan",
}
"""Model name -> module whose ``read_official(source, **options)`` returns the model with the official weights.

A colon stands before the name of a function that is called something else.
"""


def convert(model: str, source: Path, out: Path, options: Mapping[str, Any] | None = None) -> None:
    """Turn a checkpoint of an official implementation into a vidgen checkpoint, without executing anything in it.

    Args:
        model: registry name of the model.
        source: the official file.
        out: the checkpoint to write.
        options: what the official file does not say about itself; see the ``read_official`` of the model.

    Raises:
        UserError: no converter for the model, an option that it does not take, or a file that it cannot use.
    """
    import inspect

    from vidgen.checkpoint import describe_model, write_checkpoint

    if model not in CONVERTERS:
        raise UserError(f"no converter for {model!r} (there are: {', '.join(CONVERTERS)})")
    module, _, function = CONVERTERS[model].partition(":")
    read_official = getattr(importlib.import_module(module), function or "read_official")
    known = list(inspect.signature(read_official).parameters)[1:]
    for option in options or {}:
        if option not in known:
            raise UserError(f"{option}: not an option of the {model} converter{did_you_mean(option, known)}")
    converted = read_official(source, **(options or {}))
    write_checkpoint(out, {"state_dict": converted.state_dict(), "vidgen": describe_model(converted)})
