"""Random numbers that depend on what they are for, never on what was drawn before.

Training noise belongs to a global batch: it comes from a generator seeded with (seed, stream name, iteration), and each
rank keeps its rows, so that the number of processes does not change a single number. Layers that draw noise of their
own (instance noise, noise inputs, dropout-like layers) ask :func:`current_noise` for the stream they run under.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from vidgen.errors import UserError


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a function of all parts and of their order."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


class NoiseStream:
    """Draws for one named purpose in one iteration, for the rows of a global batch that belong to one rank.

    Every draw is made for the whole global batch and cut to rows ``rank, rank + world_size, ...``. Shapes are local:
    ``shape[batch_dim]`` is the number of rows of this rank.

    Args:
        seed: what the generator starts from, see :func:`derive_seed`.
        device: where the numbers are made and stay.
        dtype: floating type of the results.
        rank: this process.
        world_size: number of processes that share the global batch.
    """

    def __init__(
        self,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.generator = torch.Generator(device).manual_seed(seed)
        self.device = torch.device(device)
        self.dtype = dtype
        self.rank = rank
        self.world_size = world_size

    def normal(self, *shape: int, batch_dim: int = 0) -> Tensor:
        """Standard normal numbers of the given local shape."""
        full = torch.randn(
            self._global(shape, batch_dim), generator=self.generator, device=self.device, dtype=self.dtype
        )
        return self._rows(full, batch_dim)

    def uniform(self, *shape: int, batch_dim: int = 0) -> Tensor:
        """Numbers in [0, 1) of the given local shape."""
        full = torch.rand(
            self._global(shape, batch_dim), generator=self.generator, device=self.device, dtype=self.dtype
        )
        return self._rows(full, batch_dim)

    def integers(self, high: int, *shape: int, batch_dim: int = 0) -> Tensor:
        """Int64 numbers in [0, high) of the given local shape."""
        size = self._global(shape, batch_dim)
        return self._rows(torch.randint(high, size, generator=self.generator, device=self.device), batch_dim)

    def permutation(self, size: int) -> Tensor:
        """The numbers from 0 to ``size - 1`` in random order, the same on every rank."""
        return torch.randperm(size, generator=self.generator, device=self.device)

    def shared(self) -> NoiseStream:
        """The same generator for draws that belong to no row: every rank makes them all."""
        stream = copy.copy(self)
        stream.rank, stream.world_size = 0, 1
        return stream

    def _global(self, shape: Sequence[int], batch_dim: int) -> list[int]:
        size = list(shape)
        size[batch_dim] *= self.world_size
        return size

    def _rows(self, full: Tensor, batch_dim: int) -> Tensor:
        if self.world_size == 1:
            return full
        rows = torch.arange(self.rank, full.shape[batch_dim], self.world_size, device=full.device)
        return full.index_select(batch_dim, rows)


def draw_numbered(numbers: Sequence[int], seed: int, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """Random numbers of numbered videos, at least one, each from a generator of its own on the CPU.

    Args:
        numbers: of the videos.
        seed: which sequence of videos.
        draw: makes the numbers of one video from its generator.

    Returns:
        One row for each video, on the CPU.

    Raises:
        UserError: no video is asked for.
    """
    if not numbers:
        raise UserError("num_videos 0: must be at least 1")
    rows = [draw(torch.Generator().manual_seed(derive_seed(seed, "sample", number))) for number in numbers]
    return torch.stack(rows)


def draw_frame_noise(numbers: Sequence[int], seed: int, time: int, size: int) -> Tensor:
    """N(0, 1) for frame ``time`` of numbered videos, whatever frames were made before.

    Args:
        numbers: of the videos.
        seed: which sequence of videos.
        time: number of the frame.
        size: numbers for each.

    Returns:
        ``(N, size)``, on the CPU.
    """
    return draw_numbered(numbers, derive_seed(seed, "frame", time), lambda noise: torch.randn(size, generator=noise))


_CURRENT: ContextVar[NoiseStream | None] = ContextVar("vidgen_noise_stream", default=None)


@contextmanager
def noise_from(stream: NoiseStream) -> Iterator[NoiseStream]:
    """Let the layers inside the block draw their noise from ``stream``."""
    token = _CURRENT.set(stream)
    try:
        yield stream
    finally:
        _CURRENT.reset(token)


def current_noise() -> NoiseStream | None:
    """The stream that layers should draw from, or None outside :func:`noise_from` (then torch's global generator)."""
    return _CURRENT.get()
