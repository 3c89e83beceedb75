"""The codebook of a VQGAN, learned by exponential moving averages (van den Oord et al. 2017, appendix A.1).

Counts and sums are those of all processes, so that any number of them learns the same codebook.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidgen.distributed import sum_over_ranks, world

DECAY = 0.99
SMOOTHING = 1e-7
COMMITMENT = 0.25
MOST_ROWS = 8192
"""Latents that are compared with all codes at once."""
JITTER = 0.01
"""Standard deviation, times the root of the size of a code, of what tells copies of a latent apart."""


class Draws(Protocol):
    """Random numbers that are the same on every process; :class:`vidgen.seeding.NoiseStream` after ``shared()``."""

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1)."""

    def permutation(self, size: int) -> Tensor:
        """The numbers from 0 to ``size - 1`` in random order."""


class Quantised(NamedTuple):
    """Latents and the codes nearest to them.

    Args:
        embeddings: the codes ``(B, D, t, h, w)``; their gradient goes to the latents as it is (straight-through).
        tokens: their numbers, int64 ``(B, t, h, w)``.
        commitment: 0.25 times the mean squared distance of the latents from their codes.
        perplexity: of the codes in the batch, from 1 to the number of codes.
        usage: share of the codes that the batch uses.
    """

    embeddings: Tensor
    tokens: Tensor
    commitment: Tensor
    perplexity: Tensor
    usage: Tensor


class Codebook(nn.Module):
    """Codes and how often each is used. All state is in the state dict: a resumed run goes on with the same codes.

    The first batch in training mode sets the codes to random ones of its latents; after that each batch moves them.

    Args:
        n_codes: how many.
        dim: size of each.
        random_restart: whether a code that is used less than ``restart_threshold`` times is replaced by a random
            latent of the batch. As in the official code its average is kept, so that it comes back unless it is
            replaced again.
        restart_threshold: uses, averaged.
    """

    learns_in_forward = True
    """In training mode; so a micro-batch finds what those before it have taught."""

    embeddings: Tensor
    counts: Tensor
    sums: Tensor
    initialised: Tensor

    def __init__(self, n_codes: int, dim: int, random_restart: bool = False, restart_threshold: float = 1.0) -> None:
        super().__init__()
        self.random_restart = random_restart
        self.restart_threshold = restart_threshold
        self.register_buffer("embeddings", torch.randn(n_codes, dim))
        self.register_buffer("counts", torch.zeros(n_codes))
        self.register_buffer("sums", self.embeddings.clone())
        self.register_buffer("initialised", torch.tensor(False))
        self._initialised: bool | None = None  # what the buffer says, so that the device is asked once

    @property
    def n_codes(self) -> int:
        """How many codes there are."""
        return len(self.embeddings)

    @property
    def is_initialised(self) -> bool:
        """Whether a batch has set the codes, or a file. On the meta device nobody can know, and it is taken so."""
        if self._initialised is None:
            self._initialised = self.initialised.is_meta or bool(self.initialised)
        return self._initialised

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Codebook:
        """Averages need float32: a model that is cast to half precision keeps them, and the codes that they give."""

        def kept(tensor: Tensor) -> Tensor:
            made = fn(tensor)
            return tensor.to(made.device) if made.is_floating_point() and made.dtype.itemsize < 4 else made

        return super()._apply(kept, recurse)

    def _load_from_state_dict(self, *arguments: Any, **keywords: Any) -> None:
        self._initialised = None
        super()._load_from_state_dict(*arguments, **keywords)

    def nearest(self, z: Tensor) -> Tensor:
        """Numbers of the codes nearest to latents ``(B, D, t, h, w)``: int64 ``(B, t, h, w)``."""
        return self._nearest(_rows(z)).view(len(z), *z.shape[2:])

    def lookup(self, tokens: Tensor) -> Tensor:
        """Codes ``(B, D, t, h, w)`` of numbers ``(B, t, h, w)``."""
        return F.embedding(tokens, self.embeddings).movedim(-1, 1)

    def forward(self, z: Tensor, draws: Draws | None = None) -> Quantised:
        """Quantise latents, and in training mode learn from them.

        Args:
            z: ``(B, D, t, h, w)``.
            draws: random numbers for the first batch and for restarts; needed in training mode.
        """
        rows = _rows(z)
        learns = self.training and draws is not None
        if learns and not self.is_initialised:
            self._start(rows, z, draws)
        index = self._nearest(rows)
        tokens = index.view(len(z), *z.shape[2:])
        codes = F.embedding(index, self.embeddings).view(*tokens.shape, -1).movedim(-1, 1)
        counts = torch.zeros_like(self.counts).index_add_(0, index, torch.ones_like(index, dtype=self.counts.dtype))
        if learns:
            counts = self._learn(rows, index, counts, z, draws)
        share = counts / counts.sum()
        return Quantised(
            z + (codes - z).detach(),
            tokens,
            COMMITMENT * F.mse_loss(z.to(codes.dtype), codes),
            torch.exp(-(share * (share + 1e-10).log()).sum()),
            (counts > 0).to(counts.dtype).mean(),
        )

    def _nearest(self, rows: Tensor) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            squares = self.embeddings.square().sum(1)
            # the distance less what is the same for all codes; in parts, as the matrix of a long video is large
            found = [
                torch.addmm(squares, part, self.embeddings.t(), alpha=-2).argmin(1) for part in rows.split(MOST_ROWS)
            ]
        return found[0] if len(found) == 1 else torch.cat(found)

    @torch.no_grad()
    def _start(self, rows: Tensor, z: Tensor, draws: Any) -> None:
        chosen = self._random_rows(rows, z, draws)
        self.embeddings.copy_(chosen)
        self.sums.copy_(chosen)
        self.counts.fill_(1)
        self.initialised.fill_(True)
        self._initialised = True

    @torch.no_grad()
    def _learn(self, rows: Tensor, index: Tensor, counts: Tensor, z: Tensor, draws: Any) -> Tensor:
        """Move the averages; the counts of this batch over all processes."""
        sums = torch.zeros_like(self.sums).index_add_(0, index, rows)
        found = sum_over_ranks(torch.cat([sums, counts[:, None]], 1))
        sums, counts = found[:, :-1], found[:, -1]
        self.counts.mul_(DECAY).add_(counts, alpha=1 - DECAY)
        self.sums.mul_(DECAY).add_(sums, alpha=1 - DECAY)
        total = self.counts.sum()
        weights = (self.counts + SMOOTHING) / (total + self.n_codes * SMOOTHING) * total
        # in a new tensor: the codes of before are kept for the backward pass
        embeddings = self.sums / weights[:, None]
        if self.random_restart:
            unused = (self.counts < self.restart_threshold)[:, None]
            embeddings = torch.where(unused, self._random_rows(rows, z, draws), embeddings)
        self.embeddings.copy_(embeddings)
        return counts

    def _random_rows(self, rows: Tensor, z: Tensor, draws: Any) -> Tensor:
        """``n_codes`` random latents of the global batch; where it has fewer, several times the same, jittered."""
        rank, processes = world()
        number = len(rows) * processes
        copies = 1 if number >= self.n_codes else -(-self.n_codes // number)
        jitter = None
        if copies > 1:
            jitter = draws.normal(copies * number, rows.shape[1]).to(rows) * (JITTER / math.sqrt(rows.shape[1]))
        chosen = draws.permutation(copies * number)[: self.n_codes].to(rows.device)
        positions = math.prod(z.shape[2:])
        source = chosen % number
        clip, position = source // positions, source % positions  # clip n of the global batch is on rank n % processes
        own = rows[clip // processes * positions + position]
        found = sum_over_ranks(torch.where((clip % processes == rank)[:, None], own, 0.0))
        return found if jitter is None else found + jitter[chosen]


def _rows(z: Tensor) -> Tensor:
    """Latents one below the other ``(B * t * h * w, D)``, in float32 at least, without gradient."""
    rows = z.detach().movedim(1, -1).reshape(-1, z.shape[1])
    return rows if rows.dtype.itemsize >= 4 else rows.float()
