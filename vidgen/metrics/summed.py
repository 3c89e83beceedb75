"""Sums over videos, whose length is not known before the first video has come, and the intervals that they give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from scipy import stats
from torch import Tensor
from torchmetrics.utilities.distributed import gather_all_tensors

from vidgen.metrics.base import VideoMetric


class SummedStates(VideoMetric):
    """Keeps sums in float64, of a size that does not grow with the number of videos.

    Processes that were given no videos take part in a synchronisation with sums of zeros.
    """

    sums: ClassVar[tuple[str, ...]]
    """Names of the states; their last axis grows once, from none to that of the first term."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name in self.sums:
            self.add_state(name, torch.zeros(0, dtype=torch.float64), dist_reduce_fx="sum")

    def add_to_sum(self, name: str, term: Tensor) -> None:
        """Add a term.

        Args:
            name: of the sum.
            term: ``(..., L)``, any device.

        Raises:
            ValueError: it has another shape than those before.
        """
        before, term = getattr(self, name), term.to(self.device, torch.float64)
        if before.numel() and before.shape != term.shape:
            raise ValueError(
                f"{self.name}: {name} of shape {tuple(term.shape)} cannot be added to {tuple(before.shape)}"
            )
        setattr(self, name, before + term if before.numel() else term)

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        for name in self.sums:
            mine = getattr(self, name)
            # Sums have at most two axes; all processes learn of all shapes, and fail together.
            shape = torch.tensor([0] * (2 - mine.ndim) + list(mine.shape), device=self.device)
            shapes = torch.stack(dist_sync_fn(shape, group=process_group or self.process_group))
            filled = shapes[shapes[:, 1] > 0].unique(dim=0)
            if len(filled) > 1:
                raise ValueError(
                    f"{self.name}: processes have {name} of shapes {filled.tolist()}; they cannot be added"
                )
            if len(filled) and not mine.numel():
                whole = [size for size in filled[0].tolist() if size]
                setattr(self, name, torch.zeros(whole, dtype=torch.float64, device=self.device))
        super()._sync_dist(dist_sync_fn, process_group)


class Interval(NamedTuple):
    """Mean over sequences with its 95% confidence interval.

    Args:
        mean: float64 ``(T,)``.
        half_width: float64 ``(T,)``, by Student's t distribution.
    """

    mean: Tensor
    half_width: Tensor


def interval_from_sums(count: int, total: Tensor, squares: Tensor) -> Interval:
    """Mean and 95% confidence interval of independent sequences, from sums over them.

    Args:
        count: sequences.
        total: float64 ``(T,)``, sum of their curves.
        squares: float64 ``(T,)``, sum of the squares.

    Raises:
        ValueError: fewer than two sequences.
    """
    if count < 2:
        raise ValueError(f"a confidence interval needs at least 2 sequences, got {count}")
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0) * count / (count - 1)
    return Interval(mean, stats.t.ppf(0.975, count - 1) * (variance / count).sqrt())
