"""Sampling of tokens with vidgen's cache, beside both loops of the official TATS, for ``tools/benchmark.py tokens``.

All three use the same weights and the same draws: a token is the argmax of its probabilities divided by exponential
numbers, which is what ``torch.multinomial`` computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from evaluating import in_turn
from pairing import describe_pairs
from references.tats import Official, corresponding
from torch import Tensor

from vidgen.errors import UserError
from vidgen.interop.tats_names import TRANSFORMER_PART
from vidgen.models.tats.gpt import GPT, Cache
from vidgen.models.tats.sampling import Choice, generate

SPREAD = 0.1
"""Standard deviation of the weights; with the initial ones all tokens are about as likely."""


class Given:
    """Chooses tokens with given exponential numbers, one slab ``(B, V)`` for each."""

    def __init__(self, slabs: Tensor) -> None:
        self.slabs = iter(slabs)

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Tokens ``(B,)``."""
        return (probabilities / next(self.slabs)).argmax(-1)

    @contextmanager
    def instead(self) -> Iterator[None]:
        """While open, ``torch.multinomial`` chooses so."""
        with patch.object(torch, "multinomial", lambda probabilities, num_samples: self(probabilities)[:, None]):
            yield


class Loops:
    """The same transformer three times, and what samples from it.

    Args:
        path: the checkout of the original.
        layers: of the transformer.
        heads: of each layer.
        width: size of a token in the transformer.
        vocabulary: tokens there are.
        tokens: to sample.
        batch: sequences at once.
        dtype: of the weights.
    """

    def __init__(
        self,
        path: Path,
        layers: int,
        heads: int,
        width: int,
        vocabulary: int,
        tokens: int,
        batch: int,
        dtype: torch.dtype,
    ) -> None:
        torch.manual_seed(0)
        self.official = Official(path)
        self.gpt = GPT(vocabulary, tokens, layers, heads, width).to(dtype).eval().requires_grad_(False)
        for parameter in self.gpt.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, SPREAD)
        theirs = self.official.gpt.GPT(None, vocabulary, tokens, n_layer=layers, n_head=heads, n_embd=width)
        self.theirs = theirs.to(dtype).eval().requires_grad_(False)
        for key, found in corresponding(self.theirs, self.gpt, TRANSFORMER_PART).items():
            own = self.gpt.get_parameter(key.partition(".")[2])
            parts = found if isinstance(found, list) else [found]
            for part, tensor in zip(own.chunk(len(parts)), parts, strict=True):
                tensor.copy_(part)
        self.steps = tokens
        self.prefix = torch.zeros(batch, 1, dtype=torch.int64)
        self.slabs = torch.empty(tokens, batch, vocabulary, dtype=torch.float32).exponential_()

    @torch.no_grad()
    def cached(self) -> Tensor:
        """Ours."""
        cache = Cache(self.gpt, len(self.prefix), self.steps)
        return generate(self.gpt, cache, self.prefix, self.steps, Choice(), Given(self.slabs))

    def official_cached(self) -> Tensor:
        """Their loop that keeps keys and values."""
        with Given(self.slabs).instead():
            return self.official.gpt.sample_with_past(self.prefix, self.theirs, self.steps)

    def official_uncached(self) -> Tensor:
        """Their loop that keeps nothing."""
        with Given(self.slabs).instead():
            return self.official.sample_uncached(self.theirs, self.prefix, self.steps)


def run(path: Path, turns: int, uncached_turns: int, **sizes: int) -> Iterator[str]:
    """Compare the tokens in float64, then time ours with each of their loops in turn, in float32.

    Args:
        path: the checkout of the original.
        turns: pairs with the loop that keeps keys and values.
        uncached_turns: pairs with the one that does not.
        sizes: see :class:`Loops`.

    Raises:
        UserError: there is no checkout, or the tokens differ.
    """
    loops = Loops(path, **sizes, dtype=torch.float64)
    yield f"reference: {loops.official.title}"
    names = ("official loop with its cache", "official loop without one")
    found = loops.cached()
    for name, function in zip(names, (loops.official_cached, loops.official_uncached), strict=True):
        differ = int((function() != found).sum())
        if differ:
            raise UserError(f"{name}: {differ} of {found.numel()} tokens are others, in float64, with the same draws")
    yield f"in float64 all three sample the same {found.numel()} tokens, {len(found.unique())} different ones"
    loops = Loops(path, **sizes, dtype=torch.float32)
    for name, function, number in zip(
        names, (loops.official_cached, loops.official_uncached), (turns, uncached_turns), strict=True
    ):
        apart: list[int] = []
        pairs = in_turn(*_watched(loops.cached, function, apart), number)
        yield describe_pairs(pairs, theirs=name, unit=f"{sizes['tokens']} tokens")
        yield f"speed beside the {name}: {_speed(pairs):.3g} times; other tokens in float32: {max(apart)}"


def _watched(
    ours: Callable[[], Tensor], theirs: Callable[[], Tensor], apart: list[int]
) -> tuple[Callable[[], None], Callable[[], None]]:
    """Both, and how many tokens differ each time both have run."""
    last: list[Tensor] = []

    def watched(function: Callable[[], Tensor]) -> Callable[[], None]:
        def call() -> None:
            last.append(function())
            if len(last) == 2:
                apart.append(int((last[0] != last[1]).sum()))
                last.clear()

        return call

    return watched(ours), watched(theirs)


def _speed(pairs: list[tuple[float, float]]) -> float:
    """Their time over ours, the median pair by pair."""
    ratios = sorted(theirs / ours for ours, theirs in pairs)
    return (ratios[(len(ratios) - 1) // 2] + ratios[len(ratios) // 2]) / 2
