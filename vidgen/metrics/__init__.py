"""Metrics on videos: pure functions, and their states."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "AverageContentDistance",
    "BestOfN",
    "ClassEntropies",
    "ContentDebiasedFrechetVideoDistance",
    "Coverage",
    "Density",
    "FrechetDinoDistance",
    "FrechetInceptionDistance",
    "FrechetVideoDistance",
    "FrechetVideoDistanceInfinity",
    "FrechetVideoDistanceWindows",
    "InceptionScore",
    "KernelInceptionDistance",
    "KernelVideoDistance",
    "LearnedPerceptualSimilarity",
    "LinearSeparability",
    "PeakSignalToNoiseRatio",
    "PerceptualPathLength",
    "Precision",
    "Recall",
    "StructuralSimilarity",
    "VideoInceptionScore",
]

if TYPE_CHECKING:
    from vidgen.metrics.best_of import BestOfN
    from vidgen.metrics.class_entropies import ClassEntropies
    from vidgen.metrics.content_distance import AverageContentDistance
    from vidgen.metrics.frame_distances import FrechetDinoDistance, FrechetInceptionDistance, KernelInceptionDistance
    from vidgen.metrics.image_quality import LearnedPerceptualSimilarity, PeakSignalToNoiseRatio, StructuralSimilarity
    from vidgen.metrics.manifold import Coverage, Density, Precision, Recall
    from vidgen.metrics.perceptual_path import PerceptualPathLength
    from vidgen.metrics.scores import InceptionScore, VideoInceptionScore
    from vidgen.metrics.separability import LinearSeparability
    from vidgen.metrics.video_distances import (
        ContentDebiasedFrechetVideoDistance,
        FrechetVideoDistance,
        FrechetVideoDistanceInfinity,
        FrechetVideoDistanceWindows,
        KernelVideoDistance,
    )

_MODULES = {
    "AverageContentDistance": "content_distance",
    "BestOfN": "best_of",
    "ClassEntropies": "class_entropies",
    "ContentDebiasedFrechetVideoDistance": "video_distances",
    "Coverage": "manifold",
    "Density": "manifold",
    "FrechetDinoDistance": "frame_distances",
    "FrechetInceptionDistance": "frame_distances",
    "FrechetVideoDistance": "video_distances",
    "FrechetVideoDistanceInfinity": "video_distances",
    "FrechetVideoDistanceWindows": "video_distances",
    "InceptionScore": "scores",
    "KernelInceptionDistance": "frame_distances",
    "KernelVideoDistance": "video_distances",
    "LearnedPerceptualSimilarity": "image_quality",
    "LinearSeparability": "separability",
    "PeakSignalToNoiseRatio": "image_quality",
    "PerceptualPathLength": "perceptual_path",
    "Precision": "manifold",
    "Recall": "manifold",
    "StructuralSimilarity": "image_quality",
    "VideoInceptionScore": "scores",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
