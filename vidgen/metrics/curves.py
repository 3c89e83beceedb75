"""Scores of single frames, averaged over sequences: curves over time with their confidence intervals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.metrics.base import Details, check_enough
from vidgen.metrics.summed import SummedStates, interval_from_sums

_COMMON = "protocol common says 100 dB instead, and frames that the model was given should be left out (context_frames)"


class CurveStates(SummedStates):
    """Curves over time of one score or more, averaged over sequences.

    The value is the mean over sequences and frames of the first curve. ``details`` hold every curve's value, its mean
    over sequences frame by frame, and the half width of the 95% confidence interval of that (two sequences or more).
    Infinite scores, such as the PSNR of a frame that equals its target, are left out of all of these, counted in the
    details (``infinite_frames``) and told of by a warning; a frame with no other score has None.

    Args:
        context_frames: first frames of a video that are left out; None for those that the model was given, where a
            model is measured, else none.
    """

    sums = ("curves", "squared_curves", "infinite")
    curve_names: tuple[str, ...] = ()
    """Names of the curves in the details; empty where there is one."""

    def __init__(self, context_frames: int | None = None) -> None:
        super().__init__()
        self.wanted_context = checked_context(self.name, context_frames)
        self.context_frames = context_frames or 0
        self.add_state("num_videos", torch.tensor(0), dist_reduce_fx="sum")
        self.counts: dict[str, int] = {}

    def set_context(self, frames: int) -> None:
        """See :meth:`VideoMetric.set_context`; what was asked for wins."""
        self.context_frames = frames if self.wanted_context is None else self.wanted_context

    def add_curves(self, curves: Tensor) -> None:
        """Add ``(B, K, T)`` of B sequences.

        Raises:
            ValueError: another number of frames than before, or a score that is no number.
        """
        before = self.curves.shape[-1]
        if before and before != curves.shape[-1]:
            raise ValueError(f"{self.name}: videos with {before} and with {curves.shape[-1]} frames to compare")
        infinite = curves == torch.inf
        if not torch.isfinite(curves[~infinite]).all():
            raise ValueError(f"{self.name}: a score is no number")
        finite = curves.double().masked_fill(infinite, 0)
        self.add_to_sum("curves", finite.sum(0))
        self.add_to_sum("squared_curves", finite.square().sum(0))
        self.add_to_sum("infinite", infinite.double().sum(0))
        self.num_videos = self.num_videos + len(curves)

    curves: Tensor
    squared_curves: Tensor
    infinite: Tensor
    num_videos: Tensor
    left_out: int = 0
    """Infinite scores of the first curve, once there is a value."""

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`; needs one pair."""
        count = int(self.num_videos)
        check_enough(self, "paired", count, 1)
        self.counts = {"num_videos": count, "num_frames": self.curves.shape[-1]}
        self.left_out = int(self.infinite[0].sum())
        if (self.infinite == count).all(1).any():
            raise ValueError(f"{self.name}: every frame equals its target, so that its score is infinite; {_COMMON}")
        counts = count - self.infinite
        found = [_summary(count, *sums) for sums in zip(counts, self.curves, self.squared_curves, strict=True)]
        details: Details = dict(zip(self.curve_names, found, strict=True)) if self.curve_names else found[0]
        return found[0]["value"], details

    def protocol(self) -> dict[str, Any]:
        """Context and, once there is a value, counts; frames are those compared."""
        return {**super().protocol(), "context_frames": self.context_frames, **self.counts}

    def warnings(self) -> list[str]:
        """Says, once there is a value, how many infinite scores it leaves out."""
        if not self.left_out:
            return []
        of = self.counts["num_videos"] * self.counts["num_frames"]
        return [
            f"{self.label}: {self.left_out} of {of} frames equal their targets, if only in one channel, so that their"
            f" score is infinite; they are left out; {_COMMON}"
        ]


def checked_context(metric: str, frames: int | None) -> int | None:
    """The number of frames that a metric shall leave out.

    Raises:
        UserError: it is negative.
    """
    if frames is not None and frames < 0:
        raise UserError(f"{metric}: context_frames is {frames}; it must be at least 0")
    return frames


def check_frames_left(label: str, context: int, frames: int) -> None:
    """Refuse to leave out all frames.

    Raises:
        ValueError: the context is as long as the videos.
    """
    if frames <= context:
        raise ValueError(f"{label}: {context} context frames of {frames} leave none to compare; take longer videos")


def _summary(count: int, counts: Tensor, total: Tensor, squares: Tensor) -> dict[str, Any]:
    """Of ``count`` sequences, whose finite scores are counted and summed by frame."""
    known = counts > 0
    curve = [float(sum_ / number) if number else None for sum_, number in zip(total, counts, strict=True)]
    summary: dict[str, Any] = {"value": float((total[known] / counts[known]).mean()), "per_frame": curve}
    if count > 1:
        summary["ci95_half_width"] = [
            float(interval_from_sums(int(sums[0]), *sums[1:]).half_width) if sums[0] > 1 else None
            for sums in zip(counts, total, squares, strict=True)
        ]
    if (counts < count).any():
        summary["infinite_frames"] = int((count - counts).sum())
    return summary
