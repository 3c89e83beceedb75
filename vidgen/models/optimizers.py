"""How optimisers of torch step."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def fused_on_cpu(parameters: Iterable[nn.Parameter]) -> bool | None:
    """``fused`` for Adam and AdamW: on CPUs their default is a loop over the parameters, on GPUs it is fast already.

    Args:
        parameters: all that are optimised.
    """
    return True if all(parameter.device.type == "cpu" for parameter in parameters) else None
