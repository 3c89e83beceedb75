"""Graphs that are gone through after their weights have been updated.

Lua Torch's training loops often reuse the discriminator's judgement of the fakes, made before its step, for the
generator's step after it: activations and batch statistics are the old ones, weights the new ones. Autograd refuses
that, because it notices that saved weights have changed; :func:`updated_weights` builds graphs that allow it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch.autograd.graph import saved_tensors_hooks

_ALLOWED: ContextVar[bool] = ContextVar("vidgen_updated_weights", default=False)


@contextmanager
def updated_weights() -> Iterator[None]:
    """A graph built inside sees, in its backward pass, weights as they are by then, not a refusal.

    Tensors that pass through hooks are handed back as they are, whatever has happened to them. Under autocast the graph
    holds casts of the weights, which do not change with them.
    """
    token = _ALLOWED.set(True)
    try:
        with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
            yield
    finally:
        _ALLOWED.reset(token)


def may_be_updated() -> bool:
    """Whether the running forward pass must not mix weights with activations before it saves them."""
    return _ALLOWED.get()
