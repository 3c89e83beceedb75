"""A metric of a few numbers per video, that costs nothing: what tests of evaluation while training measure."""

from __future__ import annotations

from tests.evaluation.tiny import TinyExtractor
from vidgen.metrics.base import FrechetMetric


class ColourDistance(FrechetMetric):
    """Fréchet distance of mean colours.

    Args:
        num_frames: frames of a clip.
    """

    name = "colour_distance"

    def __init__(self, num_frames: int | None = None) -> None:
        super().__init__(TinyExtractor(), num_frames)
