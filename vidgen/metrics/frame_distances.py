"""Distances between sets of videos by their single frames: FID, KID and FD-DINOv2.

FID: Heusel et al. 2017 (arXiv 1706.08500). KID: Binkowski et al. 2018 (arXiv 1801.01401). FD-DINOv2: Stein et al. 2023
(arXiv 2306.04675). All frames of all clips enter; motion does not.
"""

from __future__ import annotations

from typing import Any, Literal

from vidgen.errors import UserError
from vidgen.metrics.base import Details, FrechetMetric, KeptFeatureMetric, Side
from vidgen.metrics.extractors import shared_extractor
from vidgen.metrics.kernel_distance import kernel_inception_distance
from vidgen.registry import METRICS


@METRICS.register("fid")
class FrechetInceptionDistance(FrechetMetric):
    """Fréchet inception distance of frames: Inception-v3 of 2015-12-05, 2048 features, resized as published; 0 is best.

    Args:
        weights: of the Inception network: ``auto``, ``random`` or a path, see
            :class:`~vidgen.metrics.extractors.inception.InceptionV3`.
        num_frames: frames of a clip; all of them enter.
        stride: source frames from one clip frame to the next.
        antialias: the resize of torchmetrics' default instead of the published one.
        ddof: 1 for covariances divided by N - 1, as in TensorFlow's code; 0 by N, as in StyleGAN2-ADA's.
    """

    name = "fid"

    def __init__(
        self,
        *,
        weights: str = "auto",
        num_frames: int | None = None,
        stride: int = 1,
        antialias: bool = False,
        ddof: Literal[0, 1] = 1,
    ) -> None:
        super().__init__(shared_extractor("inception", weights=weights, antialias=antialias), num_frames, stride, ddof)


@METRICS.register("fd_dinov2")
class FrechetDinoDistance(FrechetMetric):
    """Fréchet distance of DINOv2 features of frames: class token of ViT-L/14, 1024 features; 0 is best.

    Args:
        weights: of the network: ``auto``, ``random`` or a path, see
            :class:`~vidgen.metrics.extractors.dinov2.DinoV2`.
        num_frames: frames of a clip; all of them enter.
        stride: source frames from one clip frame to the next.
        ddof: 1 for covariances divided by N - 1, as published; 0 by N.
    """

    name = "fd_dinov2"

    def __init__(
        self,
        *,
        weights: str = "auto",
        num_frames: int | None = None,
        stride: int = 1,
        ddof: Literal[0, 1] = 1,
    ) -> None:
        super().__init__(shared_extractor("dinov2", weights=weights), num_frames, stride, ddof)


@METRICS.register("kid")
class KernelInceptionDistance(KeptFeatureMetric):
    """Kernel inception distance of frames: mean of unbiased squared MMDs over subsets; the deviation is in the details.

    It can be negative; 0 is best. StyleGAN2-ADA reports 1000 times this number.

    Args:
        weights: of the Inception network, see :class:`FrechetInceptionDistance`.
        num_frames: frames of a clip; all of them enter.
        stride: source frames from one clip frame to the next.
        subsets: how many pairs of subsets are drawn.
        subset_size: frames of a subset.
        seed: of the drawing.
        antialias: the resize of torchmetrics' default instead of the published one.
    """

    name = "kid"
    higher_is_better = False

    def __init__(
        self,
        *,
        weights: str = "auto",
        num_frames: int | None = None,
        stride: int = 1,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
        antialias: bool = False,
    ) -> None:
        super().__init__(shared_extractor("inception", weights=weights, antialias=antialias), num_frames, stride)
        for setting, value, least in (("subsets", subsets, 1), ("subset_size", subset_size, 2)):
            if value < least:
                raise UserError(f"kid: {setting} is {value}; it must be at least {least}")
        self.subsets = subsets
        self.subset_size = subset_size
        self.seed = seed

    def least_samples(self, side: Side) -> int:
        """See :meth:`FeatureMetric.least_samples`."""
        return self.subset_size

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`; needs ``subset_size`` frames of each side."""
        sides = {side: self.features(side) for side in self.sides}
        for side, features in sides.items():
            self.check_samples(side, len(features))
        mean, deviation = kernel_inception_distance(
            sides["real"], sides["fake"], subsets=self.subsets, subset_size=self.subset_size, seed=self.seed
        )
        return float(mean), {"std": float(deviation)}

    def protocol(self) -> dict[str, Any]:
        """See :meth:`FeatureMetric.protocol`; adds the subsets."""
        return {**super().protocol(), "subsets": self.subsets, "subset_size": self.subset_size, "seed": self.seed}
