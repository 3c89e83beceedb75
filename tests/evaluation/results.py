"""Results as `vidgen eval` writes them, for tests of what reads them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from vidgen.evaluation.result import Evaluation, MetricResult, Samples

PROTOCOL: dict[str, Any] = {
    "metric": "fvd",
    "protocol": "styleganv",
    "sides": ["real", "fake"],
    "extractor": {
        "name": "i3d",
        "weights": {"name": "kinetics_i3d_rgb_scratch", "fingerprint": "ab12", "published": True, "file": "a.ckpt"},
        "resize": "half_pixel",
        "range": [-1, 1],
        "bn_eps": 0.001,
        "precision": "float32",
    },
    "num_frames": 16,
    "stride": 1,
    "covariance_denominator": "n",
    "real": {
        "source": "video_folder",
        "path": "data/real",
        "fingerprint": "f00d",
        "num_videos": 2100,
        "num_clips": 2048,
        "resolution": [64, 64],
        "fps": 25.0,
        "compression": "h264",
        "clips": {"order": "shuffled", "start": "random", "seed": 0},
    },
    "fake": {
        "source": "checkpoint",
        "path": "runs/a/1000.ckpt",
        "checkpoint": "cafe",
        "model": "mocogan",
        "iteration": 1000,
        "weights": "ema",
        "seed": 0,
        "rounding": "round",
        "keywords": {},
        "num_clips": 2048,
        "resolution": [64, 64],
        "fps": None,
        "compression": None,
        "clips": {"start": "first", "seed": 0},
    },
    "software": {"vidgen": "0.1.0", "torch": "2.8.0"},
    "device": "cpu",
}


def protocol(**changes: Any) -> dict[str, Any]:
    """The protocol with some fields set; in names of fields, two underscores stand for a dot."""
    changed = copy.deepcopy(PROTOCOL)
    for name, value in changes.items():
        *above, last = name.split("__")
        place = changed
        for key in above:
            place = place[key]
        place[last] = value
    return changed


def metric(value: float = 100.0, details: dict[str, Any] | None = None, **changes: Any) -> MetricResult:
    """A value under :func:`protocol`."""
    return MetricResult(value, details or {}, protocol(**changes))


def save(path: Path, samples: Samples | None = None, warnings: tuple[str, ...] = (), **metrics: MetricResult) -> Path:
    """A file with these metrics."""
    Evaluation(metrics, {}, warnings, "vidgen eval", "2025-01-02T03:04:05Z", samples or Samples()).save(path)
    return path
