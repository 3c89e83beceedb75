"""Batch normalisation whose statistics are those of the global batch.

Lightning's ``sync_batchnorm`` refuses CPU and gloo, and torch's ``SyncBatchNorm`` has no double backward. These layers
are torch's own batch norm on one process; on several, training statistics come from sums that are reduced over all
ranks by an operation whose backward is the same reduction, so that any order of derivative works on any backend.
State-dict keys are those of ``torch.nn.BatchNorm*d``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidgen.distributed import sum_over_ranks, world
from vidgen.layers.updated_weights import may_be_updated


def _global_moments(x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance ``(C,)`` over all ranks, and the number of values behind them.

    Every rank contributes its own mean and variance, which are merged by Chan's formula; one reduction carries both.
    """
    rank, world_size = world()
    variance, mean = torch.var_mean(x, dims, correction=0)
    count = x.new_tensor([x.numel() // x.shape[1]])
    own = F.pad(torch.cat([mean, variance, count])[None], (0, 0, rank, world_size - 1 - rank))
    every = sum_over_ranks(own)  # (world_size, 2 C + 1)
    channels = x.shape[1]
    means, variances, counts = every.split([channels, channels, 1], dim=1)
    shares = counts.detach() / counts.detach().sum()
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    return mean, variance, counts.detach().sum()


class _GlobalStatistics:
    """Mixin: normalise with statistics over all ranks while training; the shift can be left out.

    Args:
        num_features: channels.
        shift: whether there is a learned shift (``bias``) beside the learned scale (``weight``).
        options: as for ``torch.nn.BatchNorm*d``.
    """

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
        if world()[1] == 1 or not (self.training or self.running_mean is None):
            return super().forward(x)  # type: ignore[misc]
        self._check_input_dim(x)
        return self._normalise(x)

    def _normalise(self: Any, x: Tensor) -> Tensor:
        dims = [d for d in range(x.dim()) if d != 1]
        wide = x if x.dtype.itemsize >= 4 else x.float()
        mean, variance, count = _global_moments(wide, dims)
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), count)
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if may_be_updated():  # statistics apart from what is learned, at the price of one more saved activation
            wide = torch.addcmul(shift.view(shape), wide, scale.view(shape))
            wide = wide if self.weight is None else wide * self.weight.view(shape)
            return (wide if self.bias is None else wide + self.bias.view(shape)).to(x.dtype)
        if self.weight is not None:
            scale, shift = scale * self.weight, shift * self.weight
        if self.bias is not None:
            shift = shift + self.bias
        return torch.addcmul(shift.view(shape), wide, scale.view(shape)).to(x.dtype)

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
