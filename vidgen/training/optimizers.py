"""Optimisers as other frameworks compute them, and how those of torch step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.optim import Adam, Optimizer


class LuaAdam(Adam):
    """Adam as Lua Torch's ``optim.adam`` computes it: epsilon is added to the root before the root's bias is corrected.

    ``p -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)``; PyTorch adds epsilon to the corrected root, which
    gives weights with a gradient below about 1e-5 larger steps in the first iterations. Here PyTorch's optimiser is
    given, before each step, the epsilon that comes to the same. With a gradient scaler (float16) the host reads in each
    step whether it is skipped, so that skipped steps do not count.

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
        self.defaults.update(uncorrected_eps=eps, steps=0)
        self._prepare()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state, of PyTorch's Adam too."""
        super().__setstate__(state)
        self._prepare()

    def _prepare(self) -> None:
        self._step_supports_amp_scaling = False
        for group in self.param_groups:
            done = (self.state[parameter]["step"] for parameter in group["params"] if self.state.get(parameter))
            group.setdefault("uncorrected_eps", group["eps"])
            group.setdefault("steps", int(next(done, 0)))  # in the state dict, so that a resumed run goes on
        if _correct_epsilon not in self._optimizer_step_pre_hooks.values():
            self.register_step_pre_hook(_correct_epsilon)


def _correct_epsilon(optimizer: Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        group["steps"] += 1
        group["eps"] = group["uncorrected_eps"] / (1 - group["betas"][1] ** group["steps"]) ** 0.5


def fused_on_cpu(parameters: Iterable[nn.Parameter]) -> bool | None:
    """``fused`` for Adam and AdamW: on CPUs their default is a loop over the parameters, on GPUs it is fast already.

    Args:
        parameters: all that are optimised.
    """
    return True if all(parameter.device.type == "cpu" for parameter in parameters) else None
