"""Sampling of tokens: one after the other, through windows that slide along a video, and between given frames.

Each token is chosen by a callable, so that a sequence can be made again from recorded draws.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.models.tats.gpt import GPT, Cache, interpolation_mask

Pick = Callable[[Tensor], Tensor]
"""Probabilities ``(B, V)`` to tokens ``(B,)``."""


@dataclass(frozen=True)
class Choice:
    """Which tokens may be sampled.

    Args:
        temperature: logits are divided by it.
        top_k: only the likeliest so many; None for all, whatever ``top_p`` says, as in the official code.
        top_p: of these, the likeliest that together have this probability.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities ``(B, V)``, float32, after logits ``(B, V)``."""
        logits = logits.float() / self.temperature
        if self.top_k is not None:
            logits = filtered(logits, self.top_k, self.top_p)
        return logits.softmax(-1)


def filtered(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits ``(B, V)`` of which those that may not be chosen are -inf.

    Args:
        logits: to choose from.
        top_k: keep those as large as the k-th largest, ties too; 0 keeps all.
        top_p: of these keep the largest until their probability exceeds this; the one that does stays, and the largest
            always does.
    """
    size = logits.shape[-1]
    k = min(top_k, size)
    if k and (k < size and top_p >= 1):
        return logits.masked_fill(logits < logits.topk(k).values[:, -1:], -torch.inf)
    if top_p >= 1:
        return logits
    ordered, places = logits.sort(-1, descending=True)
    if k:
        ordered = ordered.masked_fill(ordered < ordered[:, k - 1 : k], -torch.inf)
    before = ordered.softmax(-1).cumsum(-1).roll(1, -1)
    before[:, 0] = 0
    beyond = before > top_p
    beyond[:, 0] = False
    return torch.empty_like(logits).scatter_(-1, places, ordered.masked_fill_(beyond, -torch.inf))


def greedy(probabilities: Tensor) -> Tensor:
    """The likeliest token."""
    return probabilities.argmax(-1)


class Uniform:
    """Draw tokens with given uniform numbers, by inverting their distribution function.

    Args:
        numbers: in [0, 1), ``(B, n)``, for n tokens of each sequence.
    """

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers
        self.used = 0
        self.total: Tensor | float = 0.0

    def __call__(self, probabilities: Tensor) -> Tensor:
        """The next token of each sequence.

        Raises:
            UserError: with the last token, so that a device is asked once: probabilities were NaN.
        """
        sums = probabilities.cumsum(-1, dtype=torch.float64)
        wanted = self.numbers[:, self.used, None] * sums[:, -1:]
        self.used += 1
        self.total = self.total + sums[:, -1].sum()
        if self.used == self.numbers.shape[1] and math.isnan(self.total):
            raise UserError("tats: the transformer's logits are NaN: its training diverged; take an earlier checkpoint")
        found = torch.searchsorted(sums, wanted, right=True)[:, 0]
        return found.clamp_(max=probabilities.shape[-1] - 1)


def generate(
    gpt: GPT, cache: Cache, prefix: Tensor, steps: int, choice: Choice, pick: Pick, places: Tensor | None = None
) -> Tensor:
    """Sample the tokens that follow.

    Args:
        gpt: the transformer.
        cache: what it has read so far.
        prefix: tokens to read first, int64 ``(B, L)``, at least one.
        steps: tokens to sample.
        choice: which may be sampled.
        pick: chooses one.
        places: see :meth:`~vidgen.models.tats.gpt.GPT.places`.

    Returns:
        int64 ``(B, steps)``.
    """
    made = prefix.new_empty(len(prefix), steps)
    for step in range(steps):
        logits = gpt.advance(prefix, cache, places=places)
        made[:, step] = pick(choice.probabilities(logits))
        prefix = made[:, step : step + 1]
    return made


def generate_uncached(gpt: GPT, prefix: Tensor, steps: int, choice: Choice, pick: Pick) -> Tensor:
    """As :func:`generate`, reading everything again for each token: what the cache must agree with.

    Args:
        gpt: the transformer.
        prefix: int64 ``(B, L)``.
        steps: tokens to sample.
        choice: which may be sampled.
        pick: chooses one.
    """
    sequence = prefix
    for _ in range(steps):
        token = pick(choice.probabilities(gpt(sequence)[:, -1]))
        sequence = torch.cat([sequence, token[:, None]], 1)
    return sequence[:, prefix.shape[1] :]


class SlidingWindow:
    """A video's tokens, latent after latent, each from the condition and the latents just before it.

    Positions start anew in every window (official ``sample_long_fast``). What the transformer makes of the condition is
    the same in all of them and is kept; the latents of a window are read at once.

    Args:
        gpt: the transformer.
        condition: tokens ``(B, c)``.
        size: tokens of a latent.
        window: latents that a new one sees, at most.
        places: of the clip that is made, where the transformer has a table of them; the window does not slide then.
    """

    def __init__(self, gpt: GPT, condition: Tensor, size: int, window: int, places: Tensor | None = None) -> None:
        self.gpt = gpt
        self.condition = condition
        self.size = size
        self.window = window
        self.places = places
        self.cache = Cache(gpt, len(condition), condition.shape[1] + (window + 1) * size)
        self.current = False  # whether the memory holds what the last latent saw, and it, but for its last token

    def next(self, number: int, before: Sequence[Tensor], choice: Choice, pick: Pick) -> Tensor:
        """The next latent's tokens ``(B, size)``.

        Args:
            number: of the latent, from 0.
            before: tokens of the latents before it, all or at least the last ``window``.
            choice: which tokens may be sampled.
            pick: chooses one.
        """
        seen = list(before[len(before) - min(len(before), self.window) :])
        if self.current and 0 < number <= self.window:  # the window has only become longer
            prefix = seen[-1][:, -1:]
        elif self.current:
            self.cache.keep(self.condition.shape[1])
            prefix = torch.cat(seen, 1)
        else:
            prefix = torch.cat([self.condition, *seen], 1)
        self.current = True
        return generate(self.gpt, self.cache, prefix, self.size, choice, pick, self.places)


def slide(
    gpt: GPT,
    condition: Tensor,
    size: int,
    length: int | None,
    window: int,
    picks: Callable[[int], tuple[Choice, Pick]],
    places: Tensor | None = None,
) -> Iterator[Tensor]:
    """Tokens ``(B, size)`` of the latents of a video, one after the other.

    Args:
        gpt: the transformer.
        condition: tokens ``(B, c)``.
        size: tokens of a latent.
        length: latents; None for no end.
        window: latents that a new one sees, at most.
        picks: which tokens may be sampled for a latent, and what chooses one.
        places: see :class:`SlidingWindow`.
    """
    sliding = SlidingWindow(gpt, condition, size, window, places)
    before: list[Tensor] = []
    for number in itertools.count() if length is None else range(length):
        before = [*before[-window:], sliding.next(number, before, *picks(number))]
        yield before[-1]


def interpolate(
    gpt: GPT,
    condition: Tensor,
    left: Tensor,
    right: Tensor,
    choice: Choice,
    pick: Pick,
    official: bool = False,
) -> Tensor:
    """Sample what lies between two latents.

    Args:
        gpt: a transformer trained with :func:`~vidgen.models.tats.gpt.interpolation_mask` ``c``.
        condition: one token ``(B, 1)``.
        left: tokens of the first latent ``(B, n)``.
        right: tokens of the last latent ``(B, n)``.
        choice: which tokens may be sampled.
        pick: chooses one.
        official: make the released sampler's choices: all tokens of the right latent one place later than in training,
            under a corner of the mask, and the first token read after the last of them.

    Returns:
        int64 ``(B, block - 2 n)``.
    """
    length, n = gpt.block, left.shape[1]
    cache = Cache(gpt, len(left), length + 1)
    ends = torch.cat([condition, left, right if official else right[:, :-1]], 1)
    count = ends.shape[1]
    places = torch.arange(count, device=left.device)
    places = torch.where(places > n, places + (length - count), places)
    if official:
        corner = interpolation_mask(length, n, "c", left.device)[:count, :count]
        logits = gpt.advance(ends, cache, places, corner)
    else:
        everywhere = torch.ones(count, count, dtype=torch.bool, device=left.device)
        logits = gpt.advance(ends, cache, places, everywhere, rows=[n])[:, 0]
    steps = length - 2 * n
    made = left.new_empty(len(left), steps)
    for step in range(steps):
        made[:, step] = pick(choice.probabilities(logits))
        if step + 1 < steps:
            place = torch.tensor([n + 1 + step], device=left.device)
            logits = gpt.advance(made[:, step : step + 1], cache, place)
    return made


def _local(number: int, total: int, trained: int, before: int) -> int:
    """Where a latent stands in the window around it."""
    if number <= before:
        return number
    return trained - (total - number) if total - number <= trained - before else before


def slide_densely(
    gpt: GPT,
    condition: Tensor,
    size: tuple[int, int, int],
    trained: tuple[int, int, int],
    window: int,
    choice: Choice,
    pick: Pick,
) -> Tensor:
    """Tokens of a video of any length and size, each from a window of its own around it (official ``sample_long``).

    Args:
        gpt: a transformer with a table of places.
        condition: tokens ``(B, c)``.
        size: latents along time, height and width.
        trained: of the clips that the transformer was trained on; no axis longer than the video's.
        window: latents before a new one in its window.
        choice: which tokens may be sampled.
        pick: chooses one.

    Returns:
        int64 ``(B, t, h, w)``.
    """
    tokens = condition.new_zeros(len(condition), *size)
    before = (window, trained[1] // 2, trained[2] // 2)
    for place in torch.cartesian_prod(*map(torch.arange, size)).tolist():
        local = [_local(*numbers) for numbers in zip(place, size, trained, before, strict=True)]
        (t0, y0, x0), (t1, y1, x1) = (
            [a - b for a, b in zip(place, local, strict=True)],
            [a - b + c for a, b, c in zip(place, local, trained, strict=True)],
        )
        # what is not sampled yet is not looked at either
        row = (local[0] * trained[1] + local[1]) * trained[2] + local[2]
        patch = torch.cat([condition, tokens[:, t0:t1, y0:y1, x0:x1].flatten(1)], 1)[:, : condition.shape[1] + row]
        corner = torch.tensor([[0, y0, x0]], device=tokens.device)  # times in the table are those in the window
        places = gpt.places(trained, corner, condition.shape[1] - 1)[:, : patch.shape[1]]
        index = (slice(None), *place)
        tokens[index] = pick(choice.probabilities(gpt(patch, places=places)[:, -1]))
    return tokens
