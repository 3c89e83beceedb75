"""Closed-form weights are the same everywhere, and a fingerprint names tensors."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import pytest
import torch
from torch import nn

from vidgen.metrics.extractors.random_weights import CHUNK, fill_, filled, filled_state, fingerprint, uniform


def by_the_formula(name: str, place: int) -> float:
    x = (place * 0x9E3779B1 + zlib.crc32(name.encode())) % 2**32
    x = (x ^ x >> 16) * 0x7FEB352D % 2**32
    x = (x ^ x >> 15) * 0x846CA68B % 2**32
    return (x ^ x >> 16) / 2**32


def test_uniform_numbers_by_the_formula():
    values = uniform("a.weight", 2 * CHUNK + 3)
    assert values.dtype == np.float64 and len(values) == 2 * CHUNK + 3
    for place in (0, 1, 77, CHUNK - 1, CHUNK, 2 * CHUNK + 2):
        assert values[place] == by_the_formula("a.weight", place)
    assert len(uniform("a", 0)) == 0


@pytest.mark.parametrize(
    ("name", "shape", "factor", "offset"),
    [
        ("bn.running_var", (5,), 1, 0.5),
        ("bn.running_mean", (5,), 0.4, -0.2),
        ("bn.weight", (5,), 0.5, 0.75),
        ("fc.bias", (5,), 0.4, -0.2),
        ("fc.weight", (2, 24), 1, -0.5),
        ("conv.weight", (3, 2, 1, 3, 4), 1, -0.5),
    ],
)
def test_the_range_of_each_kind_of_tensor(name, shape, factor, offset):
    tensor = filled(name, shape, salt="s:", gamma_one=False)
    u = uniform(f"s:{name}", tensor.numel())
    assert tensor.dtype == torch.float32 and tuple(tensor.shape) == shape
    assert np.array_equal(tensor.numpy().ravel(), (factor * u + offset).astype(np.float32))


def test_gammas_of_one_and_counters_of_zero():
    state = filled_state({"bn.weight": (3,), "bn.num_batches_tracked": ()})
    assert torch.equal(state["bn.weight"], torch.ones(3))
    assert state["bn.num_batches_tracked"].dtype == torch.int64 and state["bn.num_batches_tracked"] == 0
    assert torch.equal(filled("fc.weight", (2, 3), gamma_one=True), filled("fc.weight", (2, 3), gamma_one=False))


def test_a_network_is_filled_in_place():
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    fill_(network, "s:", gamma_one=False)
    for key, value in network.state_dict().items():
        assert torch.equal(value, filled(key, tuple(value.shape), "s:", gamma_one=False))


def test_the_fingerprint_is_of_names_shapes_and_values_in_any_order():
    state = {"a": torch.arange(6.0), "b": torch.ones(2, 3)}
    known = fingerprint(state)
    content = b"a(6,)" + np.arange(6, dtype="<f4").tobytes() + b"b(2, 3)" + np.ones(6, "<f4").tobytes()
    assert known == hashlib.sha256(content).hexdigest()[:16]
    assert fingerprint(dict(reversed(state.items()))) == known
    assert fingerprint({**state, "n.num_batches_tracked": torch.tensor(7)}) == known
    assert fingerprint({"a": state["a"].double(), "b": state["b"].t().contiguous().t()}) == known
    others = [
        {"a": state["a"], "c": state["b"]},
        {"a": state["a"], "b": state["b"].t()},
        {"a": state["a"] + 1e-6, "b": state["b"]},
        {"a": state["a"]},
    ]
    assert len({known, *map(fingerprint, others)}) == 5
