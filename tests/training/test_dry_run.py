"""What a dry run says of a batch; the rest of it is tested through ``vidgen fit --dry-run``."""

from __future__ import annotations

import pytest
import torch

from vidgen.training.dry_run import _shape


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.tensor([[1.0, torch.nan], [-0.5, 2.0]]), "float32 (2, 2), from -0.5 to 2"),
        (torch.full((3,), torch.nan), "float32 (3,)"),
        (torch.tensor([4, 2]), "int64 (2,), from 2 to 4"),
        (torch.zeros(0), "float32 (0,)"),
    ],
)
def test_says_between_which_values_a_tensor_lies(value: torch.Tensor, said: str) -> None:
    assert _shape(value) == said
