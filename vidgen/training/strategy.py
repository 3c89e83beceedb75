"""Distributed data parallel training for models with several optimisers."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy


class AdversarialDDPStrategy(DDPStrategy):
    """DDP that wraps nothing.

    Parameters and buffers are broadcast once from rank 0; afterwards ``AdversarialModel.update`` averages exactly the
    gradients of the optimiser about to step. Stock DDP reduces gradients through hooks on every parameter, which
    fails for frozen networks, several forwards per step and penalties with double backward unless flags are named.
    """

    def configure_ddp(self) -> None:
        """Give every rank the weights and buffers of rank 0."""
        assert self.model is not None
        with torch.no_grad():
            for tensor in [*self.model.parameters(), *self.model.buffers()]:
                dist.broadcast(tensor.data, src=0)


def process_count(trainer_args: dict[str, Any]) -> int:
    """How many processes Lightning will train with for these ``Trainer`` arguments."""
    for variable in ("WORLD_SIZE", "SLURM_NTASKS"):
        if int(os.environ.get(variable, "1")) > 1:
            return int(os.environ[variable])
    devices = trainer_args.get("devices", "auto")
    gpus = torch.cuda.device_count() if trainer_args.get("accelerator", "auto") in ("auto", "gpu", "cuda") else 0
    if isinstance(devices, list | tuple):
        per_node = len(devices)
    elif devices in ("auto", -1, "-1"):
        per_node = max(1, gpus)
    elif isinstance(devices, str) and "," in devices:
        per_node = len([entry for entry in devices.split(",") if entry.strip()])
    else:
        per_node = int(devices)
    return per_node * int(trainer_args.get("num_nodes", 1))
