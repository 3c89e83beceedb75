"""Gradients of one optimiser: averaged over ranks, clipped, measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vidgen.distributed import control_group, world


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average the gradients of the given parameters over all ranks, one flattened reduction per dtype.

    A gradient that some rank lacks counts as zero there; one that every rank lacks stays absent, so that the optimiser
    skips the parameter as it would on one process. Which gradients exist is agreed on the host (gloo), without
    waiting for the device.
    """
    world_size = world()[1]
    if world_size == 1:
        return
    present = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
    dist.all_reduce(present, op=dist.ReduceOp.MAX, group=control_group())
    shared = [p for p, anywhere in zip(parameters, present.tolist(), strict=True) if anywhere]
    for parameter in shared:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for dtype in {parameter.grad.dtype for parameter in shared if parameter.grad is not None}:
        gradients = [p.grad for p in shared if p.grad is not None and p.grad.dtype == dtype]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= world_size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter], limit: float | None, algorithm: str = "norm") -> None:
    """Clip gradients in place.

    Args:
        parameters: whose gradients.
        limit: largest total norm (``norm``) or largest magnitude (``value``); None or 0 leaves them alone.
        algorithm: ``norm`` or ``value``.
    """
    if not limit:
        return
    if algorithm == "norm":
        nn.utils.clip_grad_norm_(parameters, limit)
    else:
        nn.utils.clip_grad_value_(parameters, limit)


@torch.no_grad()
def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Euclidean norm over all gradients, as a scalar on their device; 0 when there are none."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), device=parameters[0].device if parameters else None)
    return torch.stack(torch._foreach_norm(gradients)).norm()
