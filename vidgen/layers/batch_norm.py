"""Batch normalisation whose statistics are those of the global batch.

Lightning's ``sync_batchnorm`` refuses CPU and gloo, and torch's ``SyncBatchNorm`` has no double backward. These layers
are torch's own batch norm on one process; on several, training statistics come from sums that are reduced over all
ranks by an operation whose backward is the same reduction, so that any order of derivative works on any backend.
State-dict keys are those of ``torch.nn.BatchNorm*d``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidgen.distributed import sum_over_ranks, world
from vidgen.layers.precision import at_least_float32
from vidgen.layers.updated_weights import may_be_updated


def _global_moments(x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance ``(C,)`` over all ranks, and the number of values behind them.

    Every rank contributes its own mean and variance, which are merged by Chan's formula; one reduction carries both.
    """
    rank, world_size = world()
    variance, mean = torch.var_mean(x, dims, correction=0)
    count = x.new_full((1,), x.numel() // x.shape[1])
    own = F.pad(torch.cat([mean, variance, count])[None], (0, 0, rank, world_size - 1 - rank))
    every = sum_over_ranks(own)  # (world_size, 2 C + 1)
    channels = x.shape[1]
    means, variances, counts = every.split([channels, channels, 1], dim=1)
    shares = counts.detach() / counts.detach().sum()
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return mean, variance, counts.detach().sum()


def _normalised(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """``x`` less its mean, divided by the root of its variance, scaled and shifted; all ``(C,)``."""
    shape = [1, -1] + [1] * (x.dim() - 2)
    scale = torch.rsqrt(variance)
    shift = -mean * scale
    if may_be_updated():  # statistics apart from what is learned, at the price of one more saved activation
        x = torch.addcmul(shift.view(shape), x, scale.view(shape))
        x = x if weight is None else x * weight.view(shape)
        return x if bias is None else x + bias.view(shape)
    if weight is not None:
        scale, shift = scale * weight, shift * weight
    if bias is not None:
        shift = shift + bias
    return torch.addcmul(shift.view(shape), x, scale.view(shape))


class _GlobalStatistics:
    """Mixin: normalise with statistics over all ranks while training; the shift can be left out.

    Args:
        num_features: channels.
        shift: whether there is a learned shift (``bias``) beside the learned scale (``weight``).
        options: as for ``torch.nn.BatchNorm*d``.
    """

    borrows: bool = False
    """Whether statistics are those of this process's input, and none is remembered; see :func:`batch_statistics`."""

    def __init__(self: Any, num_features: int, *, shift: bool = True, **options: Any) -> None:
        super().__init__(num_features, **options)  # type: ignore[call-arg]
        if not shift:
            self.register_parameter("bias", None)

    def reset_parameters(self: Any) -> None:
        """Scale 1, shift 0, running statistics of a standard normal input."""
        self.reset_running_stats()
        for parameter, value in ((self.weight, 1.0), (self.bias, 0.0)):
            if parameter is not None:
                nn.init.constant_(parameter, value)

    def forward(self: Any, x: Tensor) -> Tensor:
        if self.borrows:
            return F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)
        if world()[1] == 1 or not (self.training or self.running_mean is None):
            return super().forward(x)  # type: ignore[misc]
        self._check_input_dim(x)
        wide = at_least_float32(x)
        mean, variance, count = _global_moments(wide, [d for d in range(x.dim()) if d != 1])
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), count)
        return _normalised(wide, mean, variance + self.eps, self.weight, self.bias).to(x.dtype)

    @torch.no_grad()
    def _track(self: Any, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class BatchNorm1d(_GlobalStatistics, nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` with statistics of the global batch."""


class BatchNorm2d(_GlobalStatistics, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` with statistics of the global batch."""


class BatchNorm3d(_GlobalStatistics, nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d`` with statistics of the global batch."""


@dataclass(frozen=True)
class Visits:
    """How a network that is given one frame after the other would meet the frames of clips.

    Args:
        steps: frames of a clip.
        order: numbers of the frames, from 0, in the order in which running statistics meet them; a frame may be met
            twice, or never.
    """

    steps: int
    order: tuple[int, ...]


class FrameBatchNorm2d(BatchNorm2d):
    """Batch norm of clips given in one batch, in which each time step has statistics of its own.

    Equal to one call of :class:`BatchNorm2d` for each visit, running statistics included, at the cost of one call.
    State-dict keys are the same.
    """

    def forward(self, x: Tensor, visits: Visits | None = None) -> Tensor:
        """Normalise.

        Args:
            x: ``(B * steps, C, H, W)``, the frames of a clip one after the other.
            visits: which time steps there are; None makes one batch of all.
        """
        if visits is None or not self.training:
            return super().forward(x)
        rows = x.unflatten(0, (-1, visits.steps)).flatten(1, 2)  # (B, steps * C, H, W), a view
        weight, bias = self.weight.repeat(visits.steps), self.bias.repeat(visits.steps)
        if world()[1] == 1:
            mean = self.running_mean.new_zeros(weight.shape)  # type: ignore[union-attr]
            variance = torch.zeros_like(mean)
            # with momentum 1 "running" statistics are those of this batch, the variance unbiased
            out = F.batch_norm(rows, mean, variance, weight, bias, training=True, momentum=1.0, eps=self.eps)
        else:
            wide = at_least_float32(rows)
            mean, biased, count = _global_moments(wide, [0, 2, 3])
            out = _normalised(wide, mean, biased + self.eps, weight, bias).to(x.dtype)
            mean, variance = mean.detach(), biased.detach() * (count / (count - 1).clamp(min=1))
        self._meet(visits, mean.view(visits.steps, -1), variance.view(visits.steps, -1))
        return out.unflatten(1, (visits.steps, -1)).flatten(0, 1)

    @torch.no_grad()
    def _meet(self, visits: Visits, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics as the visits would, one after the other."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        assert self.momentum is not None
        kept, shares = _shares(visits, self.momentum, mean)
        self.num_batches_tracked.add_(len(visits.order))
        self.running_mean.mul_(kept).add_(shares @ mean)
        self.running_var.mul_(kept).add_(shares @ variance)


def _shares(visits: Visits, momentum: float, like: Tensor) -> tuple[float, Tensor]:
    """What is left of the running statistics after all visits, and the share ``(steps,)`` of each frame in them."""
    shares = [0.0] * visits.steps
    for age, frame in enumerate(reversed(visits.order)):
        shares[frame] += momentum * (1 - momentum) ** age
    parts = [like.new_full((1,), share) for share in shares]  # made on the device: a copy would wait for it
    return (1 - momentum) ** len(visits.order), torch.cat(parts)


@contextmanager
def batch_statistics(*networks: nn.Module) -> Iterator[None]:
    """Let the batch norms of networks use the statistics of what they are given, and remember none of it.

    Unlike in training the statistics are those of this process alone, so that any process may do it by itself.
    """
    norms = [module for network in networks for module in network.modules() if isinstance(module, _GlobalStatistics)]
    for norm in norms:
        norm.borrows = True
    try:
        yield
    finally:
        for norm in norms:
            norm.borrows = False
