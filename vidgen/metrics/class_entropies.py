"""What a classifier of real clips says of generated ones: right class, recognisable, diverse."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vidgen.metrics.inception_score import check_probabilities


class ClassEntropies(NamedTuple):
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


def entropies_from_sums(sums: ClassSums) -> ClassEntropies:
    """Entropies of all clips that were added.

    Raises:
        ValueError: there were none.
    """
    if sums.count < 1:
        raise ValueError("class entropies need at least 1 clip, got 0")
    intra, inter = sums.entropy / sums.count, _entropy(sums.probabilities / sums.count)
    return ClassEntropies(intra, inter, (inter - intra).exp())


def class_entropies(probabilities: Tensor) -> ClassEntropies:
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
