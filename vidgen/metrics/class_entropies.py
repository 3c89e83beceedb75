"""What a classifier of real clips says of generated ones: right class, recognisable, diverse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.metrics.base import Details, FeatureMetric, Side, check_enough
from vidgen.metrics.extractors import shared_extractor
from vidgen.metrics.inception_score import check_probabilities, probabilities_of
from vidgen.metrics.summed import SummedStates
from vidgen.registry import METRICS


class Entropies(NamedTuple):
    """Float64 scalars, in nats. Papers differ in which entropy they call "inter"; these are VideoVAE's names.

    Args:
        intra: mean entropy of p(y|v); low where clips are recognisable.
        inter: entropy of the mean of p(y|v); high where clips are diverse, at most ln K.
        inception_score: ``exp(inter - intra)``.
    """

    intra: Tensor
    inter: Tensor
    inception_score: Tensor


class ClassSums(NamedTuple):
    """What the entropies of any number of clips are computed from; sets are joined by adding.

    Args:
        count: clips, float64 scalar.
        entropy: sum of the entropies of p(y|v), float64 scalar.
        probabilities: sum of p(y|v), float64 ``(K,)``.
    """

    count: Tensor  # type: ignore[assignment]  # hides the method of tuple, which nobody needs here
    entropy: Tensor
    probabilities: Tensor


def class_sums(probabilities: Tensor) -> ClassSums:
    """Sums over clips.

    Args:
        probabilities: ``(N, K)``, p(y|v) of each clip.

    Raises:
        ValueError: they are no probabilities.
    """
    rows = check_probabilities(probabilities)
    count = torch.tensor(float(len(rows)), dtype=torch.float64, device=rows.device)
    return ClassSums(count, _entropy(rows).sum(), rows.sum(0))


def entropies_from_sums(sums: ClassSums) -> Entropies:
    """Entropies of all clips that were added.

    Raises:
        ValueError: there were none.
    """
    if sums.count < 1:
        raise ValueError("class entropies need at least 1 clip, got 0")
    intra, inter = sums.entropy / sums.count, _entropy(sums.probabilities / sums.count)
    return Entropies(intra, inter, (inter - intra).exp())


def class_entropies(probabilities: Tensor) -> Entropies:
    """Intra-entropy, inter-entropy and inception score (He et al. 2018, section 4).

    Args:
        probabilities: ``(N, K)``, p(y|v) of each clip.

    Raises:
        ValueError: they are no probabilities, or there are none.
    """
    return entropies_from_sums(class_sums(probabilities))


def class_accuracy(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Share of the clips whose most likely class is the one asked for, float64 scalar.

    Args:
        probabilities: ``(N, K)``; logits serve as well.
        labels: ``(N,)``, class indices.

    Raises:
        ValueError: another number of labels than clips, or no clips.
    """
    if len(probabilities) != len(labels) or len(labels) == 0:
        raise ValueError(f"accuracy needs a label for each clip, got {len(labels)} for {len(probabilities)}")
    return (probabilities.argmax(1) == labels).double().mean()


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(-1)


@METRICS.register("class_entropies")
class ClassEntropies(SummedStates, FeatureMetric):
    """Intra-entropy, inter-entropy and inception score of generated clips (He et al. 2018, arXiv 1803.08085).

    The value is ``exp(inter - intra)``; the entropies, in nats, are in the details. The classifier should have been
    trained on real clips of the same kind.

    Args:
        extractor: a classifier: ``c3d``, ``inception`` (of frames) or one of your own.
        weights: of the classifier.
        num_frames: frames of a clip; None takes any.
        stride: source frames from one clip frame to the next.
    """

    name = "class_entropies"
    sides = ("fake",)
    output = "logits"
    higher_is_better = True
    sums = ("class_counts",)

    def __init__(
        self, *, extractor: str = "c3d", weights: str = "auto", num_frames: int | None = None, stride: int = 1
    ) -> None:
        super().__init__(shared_extractor(extractor, weights=weights), num_frames, stride)
        if not self.extractor.classifies:
            raise UserError(f"class_entropies: {extractor} does not classify; choose c3d, inception or one that does")
        self.add_state("entropy", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_samples", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    class_counts: Tensor
    entropy: Tensor
    num_samples: Tensor

    def accumulate(self, features: Tensor, side: Side, index: Sequence[int]) -> None:
        """Add the class scores of clips, or of all their frames."""
        terms = class_sums(probabilities_of(features.flatten(0, -2)))
        self.num_samples = self.num_samples + terms.count
        self.entropy = self.entropy + terms.entropy
        self.add_to_sum("class_counts", terms.probabilities)

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`; needs one video."""
        check_enough(self, "generated", int(self.fake_videos), 1)
        found = entropies_from_sums(ClassSums(self.num_samples, self.entropy, self.class_counts))
        details = {"intra_entropy": float(found.intra), "inter_entropy": float(found.inter)}
        return float(found.inception_score), details

    fake_videos: Tensor
