"""A metric of a few numbers per video, that costs nothing: what tests of evaluation while training measure."""

from __future__ import annotations

import torch
from torch import Tensor

from vidgen.metrics.base import Details, MomentMetric, frechet_of
from vidgen.metrics.extractors.base import Extractor, Weights


class MeanColours(Extractor):
    """Mean of each channel, and of its change from frame to frame."""

    name = "mean_colours"
    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.weights = Weights("mean_colours", "0", published=True)
        self.freeze()

    def forward(self, videos: Tensor) -> Tensor:
        """Features, float32 ``(B, 6)``."""
        pixels = videos.expand(-1, 3, -1, -1, -1).float() / 255
        changes = (pixels[:, :, 1:] - pixels[:, :, :-1]).abs()
        return torch.cat([pixels.mean((2, 3, 4)), changes.mean((2, 3, 4))], dim=1)


class ColourDistance(MomentMetric):
    """Fréchet distance of mean colours.

    Args:
        num_frames: frames of a clip.
    """

    name = "colour_distance"
    higher_is_better = False

    def __init__(self, num_frames: int | None = None) -> None:
        super().__init__(MeanColours(), num_frames)

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`."""
        return frechet_of(self, self.moments("real"), self.moments("fake"), 1), {}
