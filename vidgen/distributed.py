"""Agreements and sums between the processes of a run; all of them are the identity on one process."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vidgen.errors import UserError

_PATIENCE = datetime.timedelta(days=7)
_CONTROL: dict[int, dist.ProcessGroup] = {}


def world() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) without torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _SumOverRanks.apply(gradient)


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum a tensor of equal shape over all ranks; differentiable to any order, its backward is the same sum."""
    return _SumOverRanks.apply(x) if world()[1] > 1 else x


def control_group() -> dist.ProcessGroup | None:
    """A gloo group over all ranks for host tensors, so that agreeing on something never waits for the device.

    None, the default group, where that is gloo already.
    """
    if dist.get_backend() == "gloo":
        return None
    key = id(dist.group.WORLD)
    if key not in _CONTROL:
        _CONTROL.clear()
        group = dist.new_group(backend="gloo")
        assert isinstance(group, dist.ProcessGroup)
        _CONTROL[key] = group
    return _CONTROL[key]


def largest(value: int) -> int:
    """The largest of every rank's integer, on every rank."""
    if world()[1] == 1:
        return value
    shared = torch.tensor([value], dtype=torch.int64)
    dist.all_reduce(shared, op=dist.ReduceOp.MAX, group=control_group())
    return int(shared.item())


@contextmanager
def process_group() -> Iterator[int]:
    """Connect the processes that torchrun or srun has started, for work on host tensors, while the block runs.

    Yields:
        Rank of this process; 0 where there is one alone, or the processes are connected already.

    Raises:
        UserError: the environment contradicts itself, or does not say where the processes meet.
    """
    from vidgen.sampling import process_share

    rank, size = process_share()
    if size == 1 or dist.is_initialized():
        yield world()[0]
        return
    if not {"MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise UserError(
            f"{size} processes were started, but MASTER_ADDR and MASTER_PORT do not say where they meet; set them to"
            " the host of the first and a free port, or start with torchrun"
        )
    # One process may have found its share done already while another works for hours.
    dist.init_process_group("gloo", rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield rank
    finally:
        dist.destroy_process_group()


def gather_objects(value: Any) -> list[Any]:
    """The plain Python values of all ranks, in rank order, on every rank."""
    world_size = world()[1]
    if world_size == 1:
        return [value]
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value, group=control_group())
    return values
