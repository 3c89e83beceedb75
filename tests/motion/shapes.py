"""Is there one coloured shape that travels steadily? Looks at finished videos only, ``(N, C, T, H, W)`` in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

BRIGHT = 0.5  # a pixel belongs to the foreground when its largest channel, 0 to 1, is above this
FEWEST_PIXELS = 6  # smaller components are specks
COLOR_DISTANCE = 0.25  # Euclidean, in RGB from 0 to 1
TRAVEL = 4.0  # pixels between the first and the last centroid
STEADY = 0.8  # share of forward steps, and net way over length of path


@dataclass(frozen=True)
class Verdict:
    """What was seen in one video."""

    single: bool
    colored: bool
    moving: bool
    color: int
    step: tuple[float, float]

    @property
    def passed(self) -> bool:
        """One shape, in a known colour, that travels."""
        return self.single and self.colored and self.moving


def judge(video: NDArray[np.float64], palette: NDArray[np.float64]) -> Verdict:
    """Judge one video ``(C, T, H, W)`` in [0, 1] against colours ``(K, C)`` in [0, 1]."""
    centres, colors = [], []
    for frame in video.transpose(1, 0, 2, 3):
        level = frame.max(0)
        parts, count = ndimage.label(level > BRIGHT)
        sizes = ndimage.sum_labels(np.ones_like(level), parts, range(1, count + 1))
        large = [number + 1 for number, size in enumerate(np.atleast_1d(sizes)) if size >= FEWEST_PIXELS]
        if len(large) != 1:
            return Verdict(False, False, False, -1, (0.0, 0.0))
        mask = parts == large[0]
        centres.append(ndimage.center_of_mass(level * mask)[::-1])
        colors.append(frame[:, mask].mean(1))
    distances = np.linalg.norm(palette - np.mean(colors, axis=0), axis=1)
    steps = np.diff(np.asarray(centres), axis=0)
    total = steps.sum(0)
    way, length = float(np.linalg.norm(total)), float(np.linalg.norm(steps, axis=1).sum())
    forward = float((steps @ total > 0).mean())
    moving = way >= TRAVEL and forward >= STEADY and way >= STEADY * length
    near = int(distances.argmin())
    return Verdict(True, bool(distances[near] < COLOR_DISTANCE), moving, near, (float(total[0]), float(total[1])))


def judge_all(videos: Tensor, palette: Sequence[tuple[int, int, int]]) -> list[Verdict]:
    """Verdicts of videos ``(N, C, T, H, W)`` in [-1, 1]; the palette is RGB from 0 to 255."""
    colors = np.asarray(palette, dtype=np.float64) / 255
    return [judge(video, colors) for video in (videos.double().clamp(-1, 1).numpy() + 1) / 2]


def passing(verdicts: Sequence[Verdict]) -> float:
    """Share of videos that passed."""
    return sum(verdict.passed for verdict in verdicts) / len(verdicts)
