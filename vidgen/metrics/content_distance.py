"""Average content distance: how far the content drifts within a video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.metrics.base import Details, FeatureMetric, Side, check_enough
from vidgen.metrics.extractors import EXTRACTORS, shared_extractor
from vidgen.metrics.extractors.base import Extractor, Weights, check_videos
from vidgen.registry import METRICS


def average_content_distance(features: Tensor) -> Tensor:
    """Mean L2 distance over all unordered pairs of frames, for each video (MoCoGAN, section 4).

    Smaller is better; 0 means that the content never changes. The number of a model is the mean over its videos.

    Args:
        features: ``(N, T, D)``, one content feature per frame: the colour of a shape, the embedding of a face.

    Returns:
        ``(N,)``, in the units of the features.

    Raises:
        ValueError: fewer than two frames, or not three axes.
    """
    if features.dim() != 3 or features.shape[1] < 2:
        raise ValueError(f"features must be (N, T, D) with T >= 2, got {tuple(features.shape)}")
    first, second = torch.triu_indices(features.shape[1], features.shape[1], offset=1, device=features.device)
    return (features[:, first] - features[:, second]).norm(dim=2).mean(1)


@EXTRACTORS.register("shape_colour")
class ShapeColour(Extractor):
    """Mean colour of what stands before a black background, for each frame: the content of MoCoGAN's shapes.

    It has no weights. The paper does not say how a shape is told from its background nor what the unit is; here
    a pixel belongs to the shape where its brightest channel is above ``threshold``, and colours are in 0 .. 255.

    Args:
        weights: must stay ``auto``; there are none.
        threshold: level above which a pixel is not background.
    """

    name = "shape_colour"
    num_features = 3
    per_frame = True

    def __init__(self, weights: str = "auto", threshold: int = 25) -> None:
        super().__init__()
        if weights != "auto":
            raise UserError(f"shape_colour: has no weights, but weights is {weights!r}; leave it out")
        self.threshold = threshold
        self.weights = Weights(name="none", fingerprint="", published=True)

    def forward(self, videos: Tensor) -> Tensor:
        """See :meth:`Extractor.forward`; frames without a shape are black."""
        pixels = check_videos(videos, extractor=self.name).transpose(1, 2).flatten(0, 1)  # (B * T, 3, H, W)
        shape = pixels.amax(1, keepdim=True) > self.threshold
        return (pixels * shape).double().sum((2, 3)).div(shape.sum((2, 3)).clamp(min=1)).float()

    def settings(self) -> dict[str, Any]:
        """The threshold and the unit."""
        return {"threshold": self.threshold, "range": "[0, 255]"}


@METRICS.register("acd")
class AverageContentDistance(FeatureMetric):
    """Average content distance of generated videos (Tulyakov et al. 2018, arXiv 1707.04993, section 4).

    The value is the mean over videos; the deviation over them is in the details. It is in the units of the features,
    so that only values with the same extractor and number of frames can be compared.

    Args:
        extractor: one that has a feature for each frame: ``shape_colour`` (the paper's for shapes), ``inception``,
            ``dinov2`` or one of your own, such as a network that knows faces.
        weights: of the extractor.
        num_frames: frames of a clip; None takes any; 16 in the paper.
        stride: source frames from one clip frame to the next.
    """

    name = "acd"
    sides = ("fake",)
    higher_is_better = False

    def __init__(
        self,
        *,
        extractor: str = "shape_colour",
        weights: str = "auto",
        num_frames: int | None = None,
        stride: int = 1,
    ) -> None:
        super().__init__(shared_extractor(extractor, weights=weights), num_frames, stride)
        if not self.extractor.per_frame:
            raise UserError(
                f"acd: {extractor} has one feature for a video; choose one that has a feature for each frame"
            )
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    total: Tensor
    squares: Tensor
    fake_videos: Tensor

    def accumulate(self, features: Tensor, side: Side, index: Sequence[int]) -> None:
        """Add the distances of videos, from features ``(B, T, D)``."""
        if features.shape[1] < 2:
            raise ValueError(f"acd: needs videos of at least 2 frames, got {features.shape[1]}")
        distances = average_content_distance(features.double())
        self.total = self.total + distances.sum()
        self.squares = self.squares + distances.square().sum()

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`; needs one video."""
        count = int(self.fake_videos)
        check_enough(self, "generated", count, 1)
        mean = self.total / count
        return float(mean), {"std": float((self.squares / count - mean.square()).clamp(min=0).sqrt())}
