"""Noise that a network adds to what flows through it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidgen.seeding import current_noise


class InstanceNoise(nn.Module):
    """Add ``sigma * N(0, 1)`` to the input.

    Drawn from the noise stream of the running update, so that each process gets the rows of its share of the global
    batch; outside of an update, from torch's global generator.

    Args:
        sigma: standard deviation of the noise, in the units of the input; 0 passes the input through.
        training_only: pass the input through in evaluation; by default it is noisy there too.
    """

    def __init__(self, sigma: float, training_only: bool = False) -> None:
        super().__init__()
        self.sigma = sigma
        self.training_only = training_only

    def forward(self, x: Tensor) -> Tensor:
        """The noisy input, same shape and type."""
        noisy = self.sigma > 0 and (self.training or not self.training_only)
        return x + self.sigma * self._draw(x) if noisy else x

    @torch.compiler.disable
    def _draw(self, x: Tensor) -> Tensor:
        stream = current_noise()
        return torch.randn_like(x) if stream is None else stream.normal(*x.shape).to(x.dtype)

    def extra_repr(self) -> str:
        """The setting shown in the printed network."""
        return f"sigma={self.sigma}"
