"""Closed-form weights, the same on every machine, for extractors that are run without their published ones; and the
fingerprint by which weights are told apart."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vidgen.weights import COUNTER

CHUNK = 1 << 16
"""Entries computed at a time, so that they stay in the processor's cache."""


def uniform(name: str, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) that depend on a name and their place only: a 32-bit integer hash of both.

    Returns:
        float64 ``(count,)``.
    """
    return np.concatenate([np.empty(0), *_uniform_chunks(name, count)])


def filled(name: str, shape: tuple[int, ...], salt: str = "", gamma_one: bool = True) -> Tensor:
    """The closed-form value of one tensor of a state dict.

    With u uniform: weights of two and more axes are ``(2u - 1) * sqrt(6 / fan_in)``, one-dimensional ones (BatchNorm's
    gamma) ``0.75 + 0.5u``, ``running_var`` is ``0.5 + u`` and all the others are ``0.4u - 0.2``.

    Args:
        name: in the state dict.
        shape: of the tensor.
        salt: goes before the name, for several networks with equal names.
        gamma_one: make one-dimensional weights 1.

    Returns:
        float32 of that shape; int64 0 for a counter of batches.
    """
    leaf = name.rpartition(".")[2]
    if leaf == COUNTER:
        return torch.zeros(shape, dtype=torch.int64)
    count = math.prod(shape)
    if leaf == "weight" and len(shape) == 1 and gamma_one:
        return torch.ones(shape)
    factor, offset = _affine(leaf, shape)
    values = np.empty(count, np.float32)
    for index, chunk in enumerate(_uniform_chunks(salt + name, count)):
        chunk *= factor
        chunk += offset
        values[index * CHUNK : index * CHUNK + len(chunk)] = chunk
    return torch.from_numpy(values).view(shape)


def filled_state(shapes: Mapping[str, tuple[int, ...]], salt: str = "", gamma_one: bool = True) -> dict[str, Tensor]:
    """A closed-form state dict, see :func:`filled`.

    Args:
        shapes: shape of each tensor by name.
        salt, gamma_one: as there.
    """
    return {name: filled(name, tuple(shape), salt, gamma_one) for name, shape in shapes.items()}


@torch.no_grad()
def fill_(network: nn.Module, salt: str = "", gamma_one: bool = True) -> None:
    """Give a network its closed-form weights in place, see :func:`filled`."""
    for name, tensor in network.state_dict().items():
        tensor.copy_(filled(name, tuple(tensor.shape), salt, gamma_one))


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Sixteen hexadecimal digits that name the tensors: their names, shapes and float32 values, in any order.

    BatchNorm's counters are left out, for files have them or not.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if name.rpartition(".")[2] == COUNTER:
            continue
        tensor = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:16]


def _affine(leaf: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Factor and offset that turn u into the value of a tensor."""
    if leaf == "running_var":
        return 1.0, 0.5
    if len(shape) >= 2:
        bound = math.sqrt(6 / math.prod(shape[1:]))
        return 2 * bound, -bound
    if leaf == "weight":
        return 0.5, 0.75
    return 0.4, -0.2


def _uniform_chunks(name: str, count: int) -> Iterator[NDArray[np.float64]]:
    seed = np.uint32(zlib.crc32(name.encode()))
    places = np.arange(min(count, CHUNK), dtype=np.uint32)
    places *= np.uint32(0x9E3779B1)
    for start in range(0, count, CHUNK):
        # uint32 arithmetic is modulo 2**32, as the formula is
        shift = np.uint32((start * 0x9E3779B1 + int(seed)) & 0xFFFFFFFF)
        x = places[: count - start] + shift
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x7FEB352D)
        x ^= x >> np.uint32(15)
        x *= np.uint32(0x846CA68B)
        x ^= x >> np.uint32(16)
        yield x.astype(np.float64) * 2.0**-32
