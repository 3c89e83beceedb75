"""Sums in half precision are made in full precision, others are left alone."""

from __future__ import annotations

import pytest
import torch

from vidgen.layers.precision import at_least_float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(dtype: torch.dtype) -> None:
    x = torch.randn(3).to(dtype).requires_grad_()
    wide = at_least_float32(x)
    assert wide.dtype == torch.float32 and torch.equal(wide.to(dtype), x)
    wide.sum().backward()
    assert x.grad.dtype == dtype and (x.grad == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.uint8, torch.bool])
def test_others_stay_what_they_are(dtype: torch.dtype) -> None:
    x = torch.ones(3, dtype=dtype)
    assert at_least_float32(x) is x
