"""Optimisers as other frameworks compute them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Adam


class LuaAdam(Adam):
    """Adam as Lua Torch's ``optim.adam`` computes it: epsilon is added to the root before the root's bias is corrected.

    ``p -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)``; PyTorch adds epsilon to the corrected root, which
    gives weights with a gradient below about 1e-5 larger steps in the first iterations. Here PyTorch's optimiser is
    given the epsilon that comes to the same.

    Args:
        params: what is optimised.
        lr: step size.
        betas: decay rates of the averages of gradients and of squared gradients.
        eps: the uncorrected epsilon.
        options: as for ``torch.optim.Adam``.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **options: Any,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, **options)
        for group in self.param_groups:
            group.update(uncorrected_eps=eps, steps=0)  # in the state dict, so that a resumed run goes on

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; see ``torch.optim.Adam``."""
        for group in self.param_groups:
            group["steps"] += 1
            group["eps"] = group["uncorrected_eps"] / (1 - group["betas"][1] ** group["steps"]) ** 0.5
        return super().step(closure)
