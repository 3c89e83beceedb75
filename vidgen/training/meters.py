"""What an iteration says about itself, kept on the device until somebody reads it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from vidgen.distributed import largest, world
from vidgen.errors import UserError


class MeanMeter:
    """Means of named scalars over a logging window; adding never waits for the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Count one scalar."""
        value = value.detach().float()
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + 1

    def flush(self) -> dict[str, Tensor]:
        """Means over the window and over ranks; the window starts anew."""
        names = sorted(self._sums)
        if not names:
            return {}
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        if world()[1] > 1:
            dist.all_reduce(means)
            means = means / world()[1]
        self._sums.clear()
        self._counts.clear()
        return dict(zip(names, means.unbind(), strict=True))

    def state_dict(self) -> dict[str, list]:
        """The unfinished window as plain numbers."""
        return {name: [float(total), self._counts[name]] for name, total in self._sums.items()}

    def load_state_dict(self, state: dict[str, list], device: torch.device | str = "cpu") -> None:
        """Continue an unfinished window."""
        self._sums = {name: torch.tensor(total, device=device) for name, (total, _) in state.items()}
        self._counts = {name: count for name, (_, count) in state.items()}


class NonFiniteError(UserError):
    """A loss term became NaN or infinite."""


class FiniteWatch:
    """Remembers on the device the first iteration and term that was NaN or infinite."""

    _NEVER = 2**62

    def __init__(self) -> None:
        self._names: list[str] = []
        self._first: Tensor | None = None
        self.last_good_checkpoint: str | None = None

    def observe(self, iteration: int, name: str, value: Tensor) -> None:
        """Look at one scalar without waiting for it.

        Args:
            iteration: number of the iteration, from 1.
            name: of the term, for the message.
            value: the scalar.
        """
        if name not in self._names:
            self._names.append(name)
        code = iteration * 1024 + self._names.index(name)
        if self._first is None or self._first.device != value.device:
            self._first = torch.full((), self._NEVER, dtype=torch.int64, device=value.device)
        bad = torch.where(torch.isfinite(value), self._NEVER, code)
        self._first = torch.minimum(self._first, bad)

    def check(self) -> None:
        """Read the memories of all ranks (this waits for the device).

        Raises:
            NonFiniteError: something was not finite; names iteration, term and the last good checkpoint.
        """
        code = -largest(-self._NEVER if self._first is None else -int(self._first))
        if code == self._NEVER:
            return
        iteration, index = divmod(code, 1024)
        good = self.last_good_checkpoint
        where = f"the last good checkpoint is {good}" if good else "there is no checkpoint before it"
        raise NonFiniteError(f"iteration {iteration}: {self._names[index]} is not finite; {where}")
