"""Sizes of networks that double or halve the resolution from layer to layer."""

from __future__ import annotations

WIDEST = 8
"""No layer is wider than 8 times the narrowest one, as in DCGAN at 64 pixels."""


def pyramid_widths(width: int, levels: int) -> list[int]:
    """Channels after each halving of the resolution: doubled up to 8 times the first.

    Args:
        width: channels at the finest level.
        levels: how many levels there are.

    Returns:
        Channels from the finest level to the coarsest.
    """
    return [width * min(WIDEST, 2**level) for level in range(levels)]


def pyramid_plan(resolution: int) -> tuple[int, int] | None:
    """Base size (4 to 7 pixels) and number of doublings, at least two, that give a resolution.

    Args:
        resolution: height and width in pixels.

    Returns:
        ``(base_size, doublings)``, for example (4, 4) for 64; None when there is no such pair.
    """
    for doublings in range(2, resolution.bit_length()):
        base_size, rest = divmod(resolution, 2**doublings)
        if rest == 0 and 4 <= base_size <= 7:
            return base_size, doublings
    return None
