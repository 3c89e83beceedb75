"""All generator states travel with a checkpoint."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from vidgen.training.random_state import capture, restore


def draws() -> tuple[float, float, float]:
    """One number of each global generator."""
    return random.random(), float(np.random.standard_normal()), torch.randn(()).item()


def test_states_survive_a_file_read_without_pickle(tmp_path: Path) -> None:
    draws()
    torch.save(capture(), tmp_path / "state.pt")
    expected = [draws() for _ in range(3)]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert draws() != expected[0]
    restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draws() for _ in range(3)] == expected
