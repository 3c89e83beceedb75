"""Scores of stochastic prediction, of which several samples are drawn for each sequence.

What is published since SVG (Denton and Fergus 2018, section 4) is the curve of the best of N samples. It answers
whether the truth is among what a model can imagine. It is biased upwards in three ways, which
:func:`best_of_own_choice` keeps for the sake of comparison: it grows with N, so that only equal N may be compared; it
rewards variety at the cost of likelihood; and every metric chooses its own best sample, so that PSNR and SSIM of one
table are of different videos. :func:`best_of_one_choice` takes the last away: one criterion chooses, and all metrics
look at the sample chosen. :func:`mean_of_samples` takes all away: it is the score to expect of a sample, for any N.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import ModuleList

from vidgen.errors import UserError
from vidgen.metrics.base import Details, PairedMetric
from vidgen.metrics.curves import CurveStates, check_frames_left, checked_context
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

_SAMPLES_PER_PASS = 16
"""Whose pixels stand in memory in float64 at once."""


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


class BestScore(CurveStates):
    """One score of :class:`BestOfN`: its curve of the best of N samples, and beside it those without the biases.

    Args:
        scorer: gives the score.
        judge: gives the score by which one sample is chosen for all metrics.
        num_samples: N.
        context_frames: as of :class:`BestOfN`.
    """

    name = "best_of_n"

    def __init__(self, scorer: FrameScores, judge: FrameScores, num_samples: int, context_frames: int | None) -> None:
        super().__init__(context_frames)
        self.scorer = scorer
        self.judge = judge
        self.num_samples = num_samples
        self.curve_names = ("own_choice", f"chosen_by_{judge.name}", "mean_of_samples")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]  # of the score, which is known late
        """That of the score."""
        return bool(self.scorer.higher_is_better)

    @property
    def label(self) -> str:
        """``<score>_best_of_<N>``."""
        return f"{self.scorer.label}_best_of_{self.num_samples}"

    def update(self, scores: Tensor, chosen: Tensor) -> None:
        """Add sequences.

        Args:
            scores: ``(B, N, T)``, context left out.
            chosen: int64 ``(B,)``, the sample of each sequence that the judge has chosen.
        """
        own_choice = best_of_own_choice(scores, self.higher_is_better)
        self.add_curves(torch.stack([own_choice, best_of_one_choice(scores, chosen), mean_of_samples(scores)], dim=1))

    def protocol(self) -> dict[str, Any]:
        """Those of the score and of the choosing one, and the number of samples."""
        own = {"num_samples": self.num_samples, "choice": "own score, knowing the truth (SVG)"}
        scores = {"score": _without_counts(self.scorer), "chosen_by": _without_counts(self.judge)}
        return {**super().protocol(), **own, **scores}

    def warnings(self) -> list[str]:
        """Those of the curves, and of the two scores."""
        return list(dict.fromkeys(super().warnings() + self.scorer.warnings() + self.judge.warnings()))


@METRICS.register("best_of_n")
class BestOfN(PairedMetric):
    """PSNR, SSIM and LPIPS of stochastic prediction: of the best of N samples as published, and without its biases.

    N samples of each sequence are drawn once, and every score named in ``metric`` has a value of its own,
    ``<score>_best_of_<N>``: SVG's (:func:`best_of_own_choice`), so that published curves can be compared; the same N
    must be used. Its ``details`` hold three curves, each labelled: ``own_choice``; ``chosen_by_<score>``, of the sample
    that this one score has chosen (:func:`best_of_one_choice`); ``mean_of_samples``, which does not depend on N.

    :meth:`members` are the metrics of the single scores. Where there is only one, this metric passes as it: in
    ``label``, ``details``, protocol and warnings. Where there are several, its own value is that of the first, and its
    ``details`` hold those of each by their names.

    Args:
        metric: the scores: one of ``psnr``, ``ssim`` and ``lpips``, or a list.
        num_samples: N, samples of each sequence; 100 in SVG.
        chosen_by: the score by which one sample is chosen for all metrics.
        protocol: of PSNR and SSIM; SVG's by default.
        net: trunk of LPIPS.
        weights: of that trunk.
        context_frames: first frames of a video that are left out; None for those that the model was given, where a
            model is measured, else none.
    """

    name = "best_of_n"

    def __init__(
        self,
        metric: Score | Sequence[Score] = ("psnr", "ssim", "lpips"),
        num_samples: int = 100,
        *,
        chosen_by: Score = "ssim",
        protocol: Protocol = "svg",
        net: Literal["alex", "vgg", "squeeze"] = "alex",
        weights: str = "auto",
        context_frames: int | None = None,
    ) -> None:
        super().__init__()
        names = [metric] if isinstance(metric, str) else list(dict.fromkeys(metric))
        if not names:
            raise UserError("best_of_n: metric names no score (known: psnr, ssim, lpips)")
        if num_samples < 1:
            raise UserError(f"best_of_n: num_samples is {num_samples}; it must be at least 1")
        checked_context(self.name, context_frames)
        self.num_samples = num_samples
        scorers = {
            name: _scorer(name, protocol, net, weights, context_frames) for name in dict.fromkeys([*names, chosen_by])
        }
        self.judge = scorers[chosen_by]
        self.of_scores = ModuleList(BestScore(scorers[name], self.judge, num_samples, context_frames) for name in names)

    def members(self) -> list[BestScore]:
        """One metric for each score."""
        return [member for member in self.of_scores if isinstance(member, BestScore)]

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]  # of the score, which is known late
        """That of the first score."""
        return self.members()[0].higher_is_better

    @property
    def label(self) -> str:
        """That of the score where there is one, else the registered name."""
        return self.members()[0].label if len(self.of_scores) == 1 else self.name

    def set_context(self, frames: int) -> None:
        """See :meth:`VideoMetric.set_context`."""
        for member in self.members():
            for one in (member, member.scorer, member.judge):
                one.set_context(frames)

    def check_length(self, frames: int) -> None:
        """See :meth:`PairedMetric.check_length`."""
        check_frames_left(self.label, self.judge.context_frames, frames)

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
        scorers = {self.judge.name: self.judge, **{member.scorer.name: member.scorer for member in self.members()}}
        scores = {name: self._of_samples(scorer, fake, target) for name, scorer in scorers.items()}
        chosen = best_sample(scores[self.judge.name], bool(self.judge.higher_is_better))
        for member in self.members():
            member.update(scores[member.scorer.name], chosen)

    def reset(self) -> None:
        """Forget all sequences."""
        super().reset()
        for member in self.members():
            member.reset()

    def result(self) -> tuple[float, Details]:
        """The value of the first score, and what belongs to all of them; see the class."""
        members = self.members()
        values = [float(member.compute()) for member in members]
        details = {member.label: member.details for member in members} if len(members) > 1 else members[0].details
        return values[0], details

    def protocol(self) -> dict[str, Any]:
        """That of the score where there is one, else those of each by their names."""
        members = self.members()
        if len(members) == 1:
            return members[0].protocol()
        return {**super().protocol(), **{member.label: member.protocol() for member in members}}

    def warnings(self) -> list[str]:
        """Those of all scores."""
        return list(dict.fromkeys(line for member in self.members() for line in member.warnings()))

    def _of_samples(self, scorer: FrameScores, fake: Tensor, target: Tensor) -> Tensor:
        """Scores ``(B, N, T)``."""
        scores = []
        for part in fake.split(_SAMPLES_PER_PASS, dim=1):
            targets = target[:, None].expand(-1, part.shape[1], *target.shape[1:]).flatten(0, 1)
            scores.append(scorer.predicted_scores(part.flatten(0, 1), targets).unflatten(0, part.shape[:2]))
        return torch.cat(scores, dim=1)


def _scorer(metric: str, protocol: Protocol, net: Any, weights: str, context_frames: int | None) -> FrameScores:
    if metric == "psnr":
        return PeakSignalToNoiseRatio(protocol, context_frames)
    if metric == "ssim":
        return StructuralSimilarity(protocol, context_frames)
    if metric == "lpips":
        return LearnedPerceptualSimilarity(net, weights, context_frames)
    raise UserError(f"best_of_n: unknown score {metric!r} (known: psnr, ssim, lpips)")


def _without_counts(scorer: FrameScores) -> dict[str, Any]:
    return {key: value for key, value in scorer.protocol().items() if key != "context_frames"}
