"""Videos as the frames of clips, scaled as networks that end in a sigmoid make them."""

from __future__ import annotations

from torch import Tensor


def to_unit(video: Tensor) -> Tensor:
    """Videos ``(B, C, T, H, W)`` in [-1, 1] as frames of clips ``(B, T, C, H, W)`` in [0, 1]."""
    return ((video + 1) / 2).transpose(1, 2)


def from_unit(frames: Tensor) -> Tensor:
    """The inverse of :func:`to_unit`."""
    return (frames * 2 - 1).transpose(1, 2).contiguous()
