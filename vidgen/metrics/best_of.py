"""Scores of stochastic prediction, of which several samples are drawn for each sequence.

What is published since SVG (Denton and Fergus 2018, section 4) is the curve of the best of N samples. It answers
whether the truth is among what a model can imagine. It is biased upwards in three ways, which
:func:`best_of_own_choice` keeps for the sake of comparison: it grows with N, so that only equal N may be compared; it
rewards variety at the cost of likelihood; and every metric chooses its own best sample, so that PSNR and SSIM of one
table are of different videos. :func:`best_of_one_choice` takes the last away: one criterion chooses, and all metrics
look at the sample chosen. :func:`mean_of_samples` takes all away: it is the score to expect of a sample, for any N.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.metrics.image_quality import (
    FrameScores,
    LearnedPerceptualSimilarity,
    PeakSignalToNoiseRatio,
    Protocol,
    StructuralSimilarity,
)
from vidgen.metrics.summed import Interval, interval_from_sums
from vidgen.registry import METRICS

Score = Literal["psnr", "ssim", "lpips"]


def best_sample(scores: Tensor, higher_is_better: bool = True) -> Tensor:
    """Number of the sample of each sequence that is best on the average over time, the first of equals.

    Args:
        scores: ``(B, N, T)``, of N samples of each sequence; frames that were given to the model left out.
        higher_is_better: False for distances such as LPIPS. An infinite score makes its sample the best (or worst).

    Returns:
        int64 ``(B,)``.

    Raises:
        ValueError: not three axes, no samples or frames, or NaN.
    """
    if scores.ndim != 3 or 0 in scores.shape[1:]:
        raise ValueError(f"scores must be (B, N, T) with N and T at least 1, got {tuple(scores.shape)}")
    if scores.isnan().any():
        raise ValueError("scores hold NaN")
    means = scores.double().mean(2)
    return means.argmax(1) if higher_is_better else means.argmin(1)


def best_of_own_choice(scores: Tensor, higher_is_better: bool = True) -> Tensor:
    """SVG's protocol: the curve of the sample that this very score calls the best. Biased, see the module.

    Args:
        scores: ``(B, N, T)``.
        higher_is_better: False for distances.

    Returns:
        ``(B, T)``.

    Raises:
        ValueError: as :func:`best_sample`.
    """
    return best_of_one_choice(scores, best_sample(scores, higher_is_better))


def best_of_one_choice(scores: Tensor, chosen: Tensor) -> Tensor:
    """The curve of a sample that has been chosen for all metrics alike.

    Args:
        scores: ``(B, N, T)``.
        chosen: int64 ``(B,)``, by :func:`best_sample` of the criterion.

    Returns:
        ``(B, T)``.
    """
    return scores[torch.arange(len(scores), device=scores.device), chosen]


def mean_of_samples(scores: Tensor) -> Tensor:
    """The mean curve of all samples: unbiased for any N.

    Args:
        scores: ``(B, N, T)``.

    Returns:
        ``(B, T)``.
    """
    return scores.mean(1)


def confidence_interval(curves: Tensor) -> Interval:
    """Mean and 95% confidence interval over sequences, which are independent; samples of one sequence are not.

    Args:
        curves: ``(B, T)``, one of each sequence.

    Raises:
        ValueError: fewer than two sequences.
    """
    rows = curves.double()
    return interval_from_sums(len(rows), rows.sum(0), rows.square().sum(0))


@METRICS.register("best_of_n")
class BestOfN(FrameScores):
    """A score of stochastic prediction: of the best of N samples as published, and beside it without its biases.

    The value is SVG's (:func:`best_of_own_choice`), so that published curves can be compared; the same N must be used.
    ``details`` hold three curves, each labelled: ``own_choice``; ``chosen_by_<score>``, of the sample that this one
    score has chosen (:func:`best_of_one_choice`); ``mean_of_samples``, which does not depend on N.

    Args:
        metric: the score: ``psnr``, ``ssim`` or ``lpips``.
        num_samples: N, samples of each sequence; 100 in SVG.
        chosen_by: the score by which one sample is chosen for all metrics.
        protocol: of PSNR and SSIM; SVG's by default.
        net: trunk of LPIPS.
        weights: of that trunk.
        context_frames: first frames of a video, which the model was given; they are left out.
    """

    name = "best_of_n"

    def __init__(
        self,
        metric: Score = "ssim",
        num_samples: int = 100,
        *,
        chosen_by: Score = "ssim",
        protocol: Protocol = "svg",
        net: Literal["alex", "vgg", "squeeze"] = "alex",
        weights: str = "auto",
        context_frames: int = 0,
    ) -> None:
        super().__init__(context_frames)
        if num_samples < 1:
            raise UserError(f"best_of_n: num_samples is {num_samples}; it must be at least 1")
        self.num_samples = num_samples
        self.scorer = _scorer(metric, protocol, net, weights, context_frames)
        same = chosen_by == metric
        self.judge = self.scorer if same else _scorer(chosen_by, protocol, net, weights, context_frames)
        self.curve_names = ("own_choice", f"chosen_by_{chosen_by}", "mean_of_samples")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]  # of the score, which is known late
        """That of the score."""
        return bool(self.scorer.higher_is_better)

    @property
    def label(self) -> str:
        """``<score>_best_of_<N>``."""
        return f"{self.scorer.label}_best_of_{self.num_samples}"

    def update(self, fake: Tensor, target: Tensor) -> None:
        """Add sequences.

        Args:
            fake: uint8 ``(B, N, C, T, H, W)``, N samples of each sequence; ``(B, C, T, H, W)`` will do for one.
            target: uint8 ``(B, C, T, H, W)``.

        Raises:
            TypeError: not uint8.
            ValueError: another number of samples, or shapes that do not fit.
        """
        if fake.ndim == 5 and self.num_samples == 1:
            fake = fake[:, None]
        if fake.ndim != 6 or fake.shape[1] != self.num_samples:
            raise ValueError(
                f"best_of_n: takes fakes (B, N, C, T, H, W) with N = {self.num_samples} samples of each sequence,"
                f" got {tuple(fake.shape)}"
            )
        scores = self._of_samples(self.scorer, fake, target)
        judged = scores if self.judge is self.scorer else self._of_samples(self.judge, fake, target)
        chosen = best_sample(judged, bool(self.judge.higher_is_better))
        curves = [
            best_of_own_choice(scores, self.higher_is_better),
            best_of_one_choice(scores, chosen),
            mean_of_samples(scores),
        ]
        self.add_curves(torch.stack(curves, dim=1))

    def scores(self, fake: Tensor, target: Tensor) -> Tensor:
        """See :meth:`FrameScores.scores`; of single samples."""
        return self.scorer.scores(fake, target)

    def protocol(self) -> dict[str, Any]:
        """Those of the score and of the choosing one, and the number of samples."""
        own = {"num_samples": self.num_samples, "choice": "own score, knowing the truth (SVG)"}
        scores = {"score": _without_counts(self.scorer), "chosen_by": _without_counts(self.judge)}
        return {**super().protocol(), **own, **scores}

    def warnings(self) -> list[str]:
        """Those of all scores, and of the two."""
        return list(dict.fromkeys(super().warnings() + self.scorer.warnings() + self.judge.warnings()))

    def _of_samples(self, scorer: FrameScores, fake: Tensor, target: Tensor) -> Tensor:
        """Scores ``(B, N, T)``."""
        targets = target[:, None].expand(-1, self.num_samples, *target.shape[1:]).flatten(0, 1)
        return scorer.predicted_scores(fake.flatten(0, 1), targets).unflatten(0, (-1, self.num_samples))


def _scorer(metric: Score, protocol: Protocol, net: Any, weights: str, context_frames: int) -> FrameScores:
    if metric == "psnr":
        return PeakSignalToNoiseRatio(protocol, context_frames)
    if metric == "ssim":
        return StructuralSimilarity(protocol, context_frames)
    if metric == "lpips":
        return LearnedPerceptualSimilarity(net, weights, context_frames)
    raise UserError(f"best_of_n: unknown score {metric!r} (known: psnr, ssim, lpips)")


def _without_counts(scorer: FrameScores) -> dict[str, Any]:
    return {key: value for key, value in scorer.protocol().items() if key != "context_frames"}
