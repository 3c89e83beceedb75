"""Precision, recall, density and coverage of generated videos, on the features of any extractor.

Precision and recall: Kynkaanniemi et al. 2019 (arXiv 1904.06991). Density and coverage: Naeem et al. 2020
(arXiv 2002.09797).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from vidgen.errors import UserError
from vidgen.metrics.base import Details, KeptFeatureMetric, Side
from vidgen.metrics.extractors import shared_extractor
from vidgen.metrics.neighbours import density_coverage, precision_recall
from vidgen.registry import METRICS


class _Neighbourhoods(KeptFeatureMetric):
    """What the four have in common.

    Args:
        extractor: whose features: ``i3d``, ``inception``, ``dinov2``, ``c3d``, ``videomae`` or one of your own.
        weights: of the extractor.
        num_frames: frames of a clip.
        stride: source frames from one clip frame to the next.
        k: a sample's neighbourhood reaches to its k-th nearest neighbour; None for the published 3 (precision, recall)
            and 5 (density, coverage).
    """

    higher_is_better = True
    published_k: ClassVar[int]

    def __init__(
        self,
        *,
        extractor: str = "i3d",
        weights: str = "auto",
        num_frames: int | None = None,
        stride: int = 1,
        k: int | None = None,
    ) -> None:
        super().__init__(shared_extractor(extractor, weights=weights), num_frames, stride)
        self.k = self.published_k if k is None else k
        if self.k < 1:
            raise UserError(f"{self.name}: k is {k}; it must be at least 1")

    @abstractmethod
    def share(self, real: Tensor, fake: Tensor) -> Tensor:
        """The value for two sets of features."""

    def least_samples(self, side: Side) -> int:
        """See :meth:`FeatureMetric.least_samples`."""
        return self.k + 1

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`; needs more than ``k`` samples of each side."""
        sides = {side: self.features(side) for side in self.sides}
        for side, features in sides.items():
            self.check_samples(side, len(features))
        return float(self.share(sides["real"], sides["fake"])), {}

    def protocol(self) -> dict[str, Any]:
        """See :meth:`FeatureMetric.protocol`; adds k."""
        return {**super().protocol(), "k": self.k}


@METRICS.register("precision")
class Precision(_Neighbourhoods):
    """Share of generated videos that lie where real ones are, 0 to 1."""

    name = "precision"
    published_k = 3

    def share(self, real: Tensor, fake: Tensor) -> Tensor:
        """See the class."""
        return precision_recall(real, fake, self.k).precision


@METRICS.register("recall")
class Recall(_Neighbourhoods):
    """Share of real videos that lie where generated ones are, 0 to 1."""

    name = "recall"
    published_k = 3

    def share(self, real: Tensor, fake: Tensor) -> Tensor:
        """See the class."""
        return precision_recall(real, fake, self.k).recall


@METRICS.register("density")
class Density(_Neighbourhoods):
    """In how many neighbourhoods of real videos a generated one lies, over k; may exceed 1."""

    name = "density"
    published_k = 5

    def share(self, real: Tensor, fake: Tensor) -> Tensor:
        """See the class."""
        return density_coverage(real, fake, self.k).density


@METRICS.register("coverage")
class Coverage(_Neighbourhoods):
    """Share of neighbourhoods of real videos that a generated one lies in, 0 to 1."""

    name = "coverage"
    published_k = 5

    def share(self, real: Tensor, fake: Tensor) -> Tensor:
        """See the class."""
        return density_coverage(real, fake, self.k).coverage
