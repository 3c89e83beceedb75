"""The generator states that a checkpoint has to carry for an exact resume."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from vidgen.distributed import gather_objects, world
from vidgen.seeding import derive_seed


def capture() -> dict[str, Any]:
    """States of Python's, NumPy's and torch's global generators, as plain values and tensors."""
    numpy_state: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, cached = numpy_state
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict[str, Any]) -> None:
    """Put all global generators back where :func:`capture` found them."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())


def seed_globals(*parts: int | str) -> None:
    """Seed Python's, NumPy's and torch's global generators."""
    seed = derive_seed(*parts)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


class RandomState(pl.Callback):
    """Saves every rank's generator states and restores them just before the first resumed iteration.

    A run resumed on another number of processes goes on with the states that its ranks have: everything that matters
    draws from generators seeded by iteration, see :mod:`vidgen.seeding`.
    """

    def __init__(self) -> None:
        self._pending: list[dict[str, Any]] | None = None

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Collect the states of all ranks."""
        checkpoint["random_states"] = gather_objects(capture())

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        """Remember the states until training starts; building loaders may still draw numbers."""
        self._pending = checkpoint.get("random_states")

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Let every rank start from states of its own, whatever building the model has drawn."""
        seed_globals(pl_module.seed, "global", world()[0])

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Restore this rank's state once."""
        rank, world_size = world()
        if self._pending is not None and len(self._pending) == world_size:
            restore(self._pending[rank])
        self._pending = None
