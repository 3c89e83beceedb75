"""Settings of a run that are neither the model's, nor the data's, nor Lightning's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class EMASettings:
    """Exponential moving average of the modules that a model names for it.

    Args:
        decay: weight of the old average, in [0, 1).
        ramp_up: the decay used at average number t is min(decay, (1 + t) / (ramp_up + t)); 1 switches the ramp off.
        every: iterations between two updates of the average.
    """

    decay: float = 0.999
    ramp_up: int = 10
    every: int = 1


@dataclass(frozen=True)
class CheckpointSettings:
    """When checkpoints are written and which are kept.

    Args:
        every: iterations between two checkpoints; the last iteration is always saved.
        keep_last: how many of the newest are kept.
        monitor: name of a logged value; the checkpoint with its best value is kept as ``best.ckpt``.
        mode: whether a smaller (``min``) or a larger (``max``) monitored value is better.
    """

    every: int = 1000
    keep_last: int = 2
    monitor: str | None = None
    mode: Literal["min", "max"] = "min"


@dataclass(frozen=True)
class LogSettings:
    """What a run writes down about itself.

    Args:
        every: iterations between two log lines; values are means over that window.
        samples_every: iterations between two sample grids; 0 writes one at the end only.
        num_samples: videos in a sample grid.
        fps: frames per second of the sample grid.
    """

    every: int = 50
    samples_every: int = 0
    num_samples: int = 16
    fps: float = 8.0


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured while a model is trained, on its averaged weights where there are any.

    Values are logged as ``eval/<metric>``, which ``checkpoint.monitor`` can name to keep the best checkpoint.

    Args:
        every: iterations between two evaluations; the last iteration is always evaluated.
        metrics: names, or sections with ``name`` and arguments.
        num_videos: generated videos, and as many real ones where there are so many.
        num_real: real videos; None for as many as generated ones.
        batch_size: clips looked at at once, on each process.
        seed: of the choice of real clips and of the generated videos.
    """

    every: int
    metrics: list[Any]
    num_videos: int = 2048
    num_real: int | None = None
    batch_size: int = 8
    seed: int = 0
