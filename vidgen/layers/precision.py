"""Numbers of half precision where sums need more."""

from __future__ import annotations

from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` itself, or in float32 where it has fewer bits."""
    return x.float() if x.is_floating_point() and x.dtype.itemsize < 4 else x
