"""Distributed data parallel training for models with several optimisers."""

from __future__ import annotations

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
