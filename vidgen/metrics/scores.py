"""Inception scores of generated videos, by single frames and by the C3D of UCF-101."""

from __future__ import annotations

from typing import Any, Literal

from vidgen.errors import UserError
from vidgen.metrics.base import Details, KeptFeatureMetric, Side
from vidgen.metrics.extractors import shared_extractor
from vidgen.metrics.extractors.base import Extractor
from vidgen.metrics.inception_score import inception_score, probabilities_of
from vidgen.registry import METRICS

C3DProtocol = Literal["tgan", "tgan2", "styleganv"]

_C3D_PROTOCOLS: dict[str, tuple[int, int | None, float]] = {
    "tgan": (1, None, 1e-7),
    "tgan2": (1, None, 1e-20),
    "styleganv": (10, 42, 0.0),
}
"""Splits, seed of the shuffling and epsilon; 9984 clips in TGAN, 2048 in the others. The three cannot be compared."""


class _InceptionScore(KeptFeatureMetric):
    sides = ("fake",)
    output = "logits"
    higher_is_better = True

    def __init__(
        self,
        extractor: Extractor,
        num_frames: int | None,
        stride: int,
        splits: int,
        shuffle_seed: int | None,
        epsilon: float,
    ) -> None:
        super().__init__(extractor, num_frames, stride)
        if splits < 1:
            raise UserError(f"{self.name}: splits is {splits}; it must be at least 1")
        self.splits = splits
        self.shuffle_seed = shuffle_seed
        self.epsilon = epsilon

    def least_samples(self, side: Side) -> int:
        """See :meth:`FeatureMetric.least_samples`."""
        return self.splits

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`; needs a video, or frame, for each split."""
        logits = self.features("fake")
        self.check_samples("fake", len(logits))
        mean, deviation = inception_score(probabilities_of(logits), self.splits, self.shuffle_seed, self.epsilon)
        return float(mean), {"std": float(deviation)} if self.splits > 1 else {}

    def protocol(self) -> dict[str, Any]:
        """See :meth:`FeatureMetric.protocol`; adds splits, shuffling and epsilon."""
        own = {"splits": self.splits, "shuffle_seed": self.shuffle_seed, "epsilon": self.epsilon}
        return {**super().protocol(), **own}


@METRICS.register("is")
class InceptionScore(_InceptionScore):
    """Inception score of frames (Salimans et al. 2016, arXiv 1606.03498); the deviation over splits is in the details.

    Args:
        weights: of the Inception network, see :class:`~vidgen.metrics.extractors.inception.InceptionV3`.
        num_frames: frames of a clip; all of them enter.
        stride: source frames from one clip frame to the next.
        splits: parts that the score is averaged over.
        shuffle_seed: of NumPy's ``RandomState``, which permutes the frames before they are split; 2020 in TensorFlow's
            and torch-fidelity's code.
    """

    name = "is"

    def __init__(
        self,
        *,
        weights: str = "auto",
        num_frames: int | None = None,
        stride: int = 1,
        splits: int = 10,
        shuffle_seed: int | None = 2020,
    ) -> None:
        super().__init__(shared_extractor("inception", weights=weights), num_frames, stride, splits, shuffle_seed, 0.0)


@METRICS.register("is_c3d")
class VideoInceptionScore(_InceptionScore):
    """Inception score of clips of 16 frames by C3D trained on UCF-101 (Saito et al. 2017, arXiv 1611.06624, section 4).

    Args:
        protocol: ``tgan``: one split of (there) 9984 clips, epsilon 1e-7; ``tgan2``: another preprocessing, epsilon
            1e-20; ``styleganv``: ten splits, shuffled. Their values cannot be compared.
        weights: of the C3D network, see :class:`~vidgen.metrics.extractors.c3d.C3D`.
        mean: the file with the mean clip that is subtracted; ``auto`` as for the weights.
        stride: source frames from one clip frame to the next.
    """

    name = "is_c3d"

    def __init__(
        self, protocol: C3DProtocol = "tgan", *, weights: str = "auto", mean: str = "auto", stride: int = 1
    ) -> None:
        extractor = shared_extractor("c3d", weights=weights, mean=mean, protocol=protocol)
        super().__init__(extractor, 16, stride, *_C3D_PROTOCOLS[protocol])
        self.protocol_name = protocol

    def protocol(self) -> dict[str, Any]:
        """See :meth:`FeatureMetric.protocol`; adds the name of the protocol."""
        return {**super().protocol(), "protocol": self.protocol_name}
