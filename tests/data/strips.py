"""Small frame strips for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def random_frames(length: int, side: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Frames ``(T, side, side, C)`` of noise."""
    return np.random.default_rng(seed).integers(0, 256, (length, side, side, channels), dtype=np.uint8)


def save_strip(path: Path, frames: np.ndarray, vertical: bool = False) -> None:
    """Write frames side by side (or below each other) as PNG data, whatever the name's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    strip = np.concatenate(list(frames), axis=0 if vertical else 1)
    if strip.shape[-1] == 1:
        strip = strip[..., 0]
    Image.fromarray(strip).save(path, format="PNG")


def make_strips(root: Path, lengths: dict[str, int], side: int = 8) -> Path:
    """A folder of strips by relative path and number of frames; file i is noise of seed i."""
    for seed, (path, length) in enumerate(lengths.items()):
        save_strip(root / path, random_frames(length, side, seed=seed))
    return root
