"""A network of six features and metrics on it: what tests of the evaluation measure with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vidgen.data.annotations import Labels
from vidgen.data.arrays import ArrayVideos
from vidgen.evaluation.sources import ClipRule, StoredClips
from vidgen.metrics.base import (
    Details,
    KeptFeatureMetric,
    MomentMetric,
    PairedMetric,
    ProbeMetric,
    Side,
    frechet_of,
)
from vidgen.metrics.extractors.base import Extractor, Weights, check_videos
from vidgen.models.base import VideoModel

METRICS = "tests.evaluation.tiny."


class TinyExtractor(Extractor):
    """Mean colour, and mean change of colour from frame to frame.

    Args:
        weights: ``published``, ``random`` or ``unknown``, as which they pass.
        factor: of all features.
    """

    name = "tiny"
    num_features = 6
    min_frames = 2
    classifies = True
    looked_at = 0

    def __init__(self, weights: str = "published", factor: float = 1.0, **ignored: Any) -> None:
        super().__init__()
        name = "tiny" if weights == "published" else weights
        self.weights = Weights(name, f"{factor}", weights == "published", "" if weights == "random" else "tiny.pt")
        self.network = nn.utils.skip_init(nn.Linear, 6, 6, bias=False)  # which draws no random numbers
        nn.init.eye_(self.network.weight)
        self.factor = factor
        self.freeze()

    def forward(self, videos: Tensor) -> Tensor:
        """See :class:`Extractor`."""
        videos = check_videos(videos, self.min_frames, "tiny")
        TinyExtractor.looked_at += len(videos)
        levels = videos.double()
        colour, change = levels.mean((2, 3, 4)), levels.diff(dim=2).abs().mean((2, 3, 4))
        return self.network(torch.cat([colour, change], 1).float() / 255) * self.factor

    def logits(self, videos: Tensor) -> Tensor:
        """The features."""
        return self(videos)


class TinyFrames(TinyExtractor):
    """Mean colours of frames."""

    name = "tiny_frames"
    num_features = 3
    per_frame = True
    min_frames = 1

    def forward(self, videos: Tensor) -> Tensor:
        """See :class:`Extractor`."""
        return videos.double().mean((3, 4)).transpose(1, 2).flatten(0, 1).float() / 255


class TinyDistance(MomentMetric):
    """Fréchet distance of the features.

    Args:
        weights: of the network.
        num_frames: frames of a clip.
        stride: source frames from one to the next.
        factor: of the features.
        protocol: there are two.
    """

    name = "tiny_fd"

    def __init__(
        self,
        protocol: str = "one",
        *,
        weights: str = "published",
        num_frames: int | None = None,
        stride: int = 1,
        factor: float = 1.0,
    ) -> None:
        super().__init__(TinyExtractor(weights, factor), num_frames, stride)

    def least_samples(self, side: Side) -> int:
        """Two."""
        return 2

    def result(self) -> tuple[float, Details]:
        """The distance."""
        return frechet_of(self, self.moments("real"), self.moments("fake"), 1), {}


class FrameDistance(TinyDistance):
    """The same of frames.

    Args:
        num_frames: frames of a clip.
    """

    name = "frame_fd"

    def __init__(self, num_frames: int | None = None) -> None:
        MomentMetric.__init__(self, TinyFrames(), num_frames)


class TinyOrder(KeptFeatureMetric):
    """A number that the order of generated videos decides.

    Args:
        num_frames: frames of a clip.
    """

    name = "tiny_order"
    sides = ("fake",)

    def __init__(self, num_frames: int | None = None) -> None:
        super().__init__(TinyExtractor(), num_frames)

    def result(self) -> tuple[float, Details]:
        """Each feature times its number."""
        rows = self.features("fake")
        return float((torch.arange(1, len(rows) + 1)[:, None] * rows).sum()), {"rows": len(rows)}


class TinyError(PairedMetric):
    """Mean absolute difference.

    Args:
        num_samples: videos for each real one.
    """

    name = "tiny_error"

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__()
        self.num_samples = num_samples
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, fake: Tensor, target: Tensor) -> None:
        """Add pairs."""
        wanted = target if self.num_samples == 1 else target[:, None].expand_as(fake)
        assert fake.shape == wanted.shape
        assert fake.dtype == target.dtype == torch.uint8
        self.total = self.total + (fake.double() - wanted.double()).abs().mean()
        self.count = self.count + 1

    def result(self) -> tuple[float, Details]:
        """The mean over pairs."""
        return float(self.total / self.count), {"pairs": int(self.count)}


class TinyProbe(ProbeMetric):
    """What a model weighs."""

    name = "tiny_probe"

    def __init__(self) -> None:
        super().__init__()
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="mean")

    def update(self, model: VideoModel) -> None:
        """Ask a model."""
        self.measure(model)

    def measure(self, model: VideoModel) -> None:
        """Sum the parameters."""
        self._update_count = 1
        self.weight = self.weight + sum(float(parameter.detach().sum()) for parameter in model.parameters())

    def result(self) -> tuple[float, Details]:
        """The sum."""
        return float(self.weight), {}


def videos(number: int, frames: int = 6, side: int = 8, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Noise of various brightness, uint8 ``(N, T, H, W, C)``."""
    generator = np.random.default_rng(seed)
    top = generator.integers(40, 256, (number, 1, 1, 1, channels))
    return (generator.random((number, frames, side, side, channels)) * top).astype(np.uint8)


def features_of(arrays: np.ndarray) -> np.ndarray:
    """What :class:`TinyExtractor` says of videos ``(N, T, H, W, C)``, written otherwise."""
    levels = arrays.astype(np.float64)
    colour, change = levels.mean((1, 2, 3)), np.abs(np.diff(levels, axis=1)).mean((1, 2, 3))
    return np.concatenate([colour, change], 1) / 255


def distance_of(real: np.ndarray, fake: np.ndarray) -> float:
    """Fréchet distance of the features of two sets of videos, by the eigenvalues of the product of covariances."""
    x, y = features_of(real), features_of(fake)
    overlap = np.sqrt(np.clip(np.linalg.eigvals(np.cov(x.T) @ np.cov(y.T)).real, 0, None)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T)) + np.trace(np.cov(y.T)) - 2 * overlap)


def clips_of(path: Any, rule: ClipRule, limit: int | None = None, **data: Any) -> StoredClips:
    """Clips of the videos in an array file."""
    dataset = ArrayVideos(str(path), 1, 1, labels=Labels("none"), **data)
    return StoredClips(dataset, rule, native=True, name=str(path), limit=limit)


def metric_batches(sizes: Sequence[int], total: int) -> list[slice]:
    """Parts of a row of things, of these sizes in turn."""
    parts, at = [], 0
    while at < total:
        size = sizes[len(parts) % len(sizes)]
        parts.append(slice(at, min(at + size, total)))
        at += size
    return parts
