"""Graphs that are gone through after their weights have been updated.

Lua Torch's training loops often reuse the discriminator's judgement of the fakes, made before its step, for the
generator's step after it: activations and batch statistics are the old ones, weights the new ones. Autograd refuses
that, because it notices that saved weights have changed; :func:`updated_weights` builds graphs that allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

Hooks = tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]

_ALLOWED: ContextVar[bool] = ContextVar("vidgen_updated_weights", default=False)
# detached: a node that saves its own output would hold a tensor that holds the node, and never be freed
_WATCHING: ContextVar[Hooks] = ContextVar("vidgen_saved_tensors", default=(Tensor.detach, lambda tensor: tensor))


@contextmanager
def updated_weights() -> Iterator[None]:
    """A graph built inside sees, in its backward pass, weights as they are by then, not a refusal.

    Tensors that pass through hooks are handed back as they are, whatever has happened to them. Under autocast the graph
    holds casts of the weights, which do not change with them.
    """
    token = _ALLOWED.set(True)
    try:
        with saved_tensors_hooks(*_WATCHING.get()):
            yield
    finally:
        _ALLOWED.reset(token)


@contextmanager
def saved_tensors_watched(pack: Callable[[Tensor], Any], unpack: Callable[[Any], Tensor]) -> Iterator[None]:
    """``torch.autograd.graph.saved_tensors_hooks`` that see graphs built under :func:`updated_weights` too.

    Of nested hooks, autograd calls the innermost only.

    Args:
        pack: takes each tensor that autograd saves and returns what is kept for it; detached, lest it keeps its graph.
        unpack: takes that and returns the tensor, in the same memory.
    """
    token = _WATCHING.set((pack, unpack))
    try:
        with saved_tensors_hooks(pack, unpack):
            yield
    finally:
        _WATCHING.reset(token)


def may_be_updated() -> bool:
    """Whether the running forward pass must not mix weights with activations before it saves them."""
    return _ALLOWED.get()
