"""The transformer of TATS: pre-norm blocks with learned positions (minGPT), and the memory that sampling needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WEIGHT_STD = 0.02


class Cache:
    """Keys and values of the tokens so far, in memory that is taken once.

    Args:
        gpt: whose.
        rows: sequences.
        length: tokens of a sequence, at most.
    """

    def __init__(self, gpt: GPT, rows: int, length: int) -> None:
        weight = gpt.head.weight
        shape = (len(gpt.blocks), 2, rows, gpt.n_head, length, weight.shape[1] // gpt.n_head)
        self.memory = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        self.layers = [tuple(layer) for layer in self.memory]
        self.filled = 0

    def keep(self, length: int) -> Cache:
        """Forget all but the first tokens."""
        self.filled = min(self.filled, length)
        return self


def by_columns(weight: Tensor) -> nn.Parameter:
    """The same weight, column after column in memory.

    One token through a layer that makes it larger is then up to twice as fast on the CPU; for many tokens it is the
    same.
    """
    return nn.Parameter(weight.detach().t().contiguous().t())


class Block(nn.Module):
    """Attention, then a perceptron, each added to what it reads after a layer norm.

    Args:
        n_embd: size of a token.
        n_head: attention heads.
    """

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.norm1 = nn.LayerNorm(n_embd)
        self.norm2 = nn.LayerNorm(n_embd)
        self.qkv = nn.Linear(n_embd, 3 * n_embd)
        self.project = nn.Linear(n_embd, n_embd)
        self.expand = nn.Linear(n_embd, 4 * n_embd)
        self.contract = nn.Linear(4 * n_embd, n_embd)

    def forward(self, x: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """``(B, L, n_embd)`` to the same shape.

        Args:
            x: tokens.
            mask: ``(L, L)`` boolean, True where a row may look; None for all, or the past where ``causal``.
            causal: whether each token sees itself and those before it.
        """
        query, key, value = self._heads(x)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
        return self._finish(x, seen)

    def advance(
        self, x: Tensor, layer: Sequence[Tensor], start: int, mask: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """As :meth:`forward`, of new tokens that also look at those in memory.

        Args:
            x: new tokens ``(B, L, n_embd)``.
            layer: memory of keys and values; the new ones are written to it.
            start: tokens in memory.
            mask: ``(L, start + L)``.
            causal: only without anything in memory.
        """
        query, key, value = self._heads(x)
        keys, values = layer
        stop = start + x.shape[1]
        keys[:, :, start:stop] = key
        values[:, :, start:stop] = value
        seen = F.scaled_dot_product_attention(
            query, keys[:, :, :stop], values[:, :, :stop], attn_mask=mask, is_causal=causal
        )
        return self._finish(x, seen)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.qkv(self.norm1(x)).unflatten(-1, (3, self.n_head, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def _finish(self, x: Tensor, seen: Tensor) -> Tensor:
        x = x + self.project(seen.transpose(1, 2).flatten(2))
        return x + self.contract(F.gelu(self.expand(self.norm2(x))))


class GPT(nn.Module):
    """Tokens to logits of the tokens that follow.

    Args:
        vocabulary: tokens there are.
        block: tokens of a sequence, at most.
        n_layer: blocks.
        n_head: attention heads of each.
        n_embd: size of a token; a multiple of ``n_head``.
        table: time, height and width of a learned table of places, which is added to the positions; None for none.
        activation_checkpointing: compute activations again in the backward pass rather than keep them.
    """

    def __init__(
        self,
        vocabulary: int,
        block: int,
        n_layer: int,
        n_head: int,
        n_embd: int,
        table: tuple[int, int, int] | None = None,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.block = block
        self.n_head = n_head
        self.activation_checkpointing = activation_checkpointing
        self.token_embedding = nn.Embedding(vocabulary, n_embd)
        self.positions = nn.Parameter(torch.zeros(1, block, n_embd))
        self.table = nn.Parameter(torch.zeros(1, *table, n_embd)) if table else None
        self.blocks = nn.ModuleList(Block(n_embd, n_head) for _ in range(n_layer))
        self.norm = nn.LayerNorm(n_embd)
        self.head = nn.Linear(n_embd, vocabulary, bias=False)
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                nn.init.normal_(layer.weight, 0.0, WEIGHT_STD)
            if isinstance(layer, nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
            if isinstance(layer, nn.Linear) and layer.out_features > layer.in_features:
                layer.weight = by_columns(layer.weight)

    @property
    def vocabulary(self) -> int:
        """Tokens there are."""
        return self.token_embedding.num_embeddings

    def places(self, size: tuple[int, int, int], corners: Tensor | None = None, lead: int = 0) -> Tensor:
        """Entries of the table for the tokens of clips, one after the other: time, then rows, then columns.

        A token is read one place late: entry p is that of the token which place p predicts.

        Args:
            size: tokens along time, height and width of a clip.
            corners: first time, row and column of each clip in the table, int64 ``(B, 3)``; None for 0.
            lead: places in front of these, whose entries are 0.

        Returns:
            ``(B, lead + t * h * w, n_embd)``; B is 1 without ``corners``.
        """
        assert self.table is not None
        table = self.table[0]
        corners = torch.zeros(1, 3, dtype=torch.int64, device=table.device) if corners is None else corners
        t, y, x = (corners[:, axis, None] + torch.arange(size[axis], device=table.device) for axis in range(3))
        entries = table[t[:, :, None, None], y[:, None, :, None], x[:, None, None, :]].flatten(1, 3)
        return F.pad(entries, (0, 0, lead, 0)) if lead else entries

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        places: Tensor | None = None,
        prefix: Tensor | None = None,
    ) -> Tensor:
        """Logits ``(B, L, vocabulary)`` of the token after each.

        Args:
            tokens: int64 ``(B, L)``.
            mask: boolean ``(L, L)``, True where a row may look; None where each sees itself and those before it.
            places: see :meth:`places`; added to the positions.
            prefix: ``(B, P, n_embd)``, given instead of tokens in front of them; then L counts these too.
        """
        x = self.token_embedding(tokens)
        if prefix is not None:
            x = torch.cat([prefix, x], 1)
        x = x + self.positions[:, : x.shape[1]]
        if places is not None:
            x = x + places
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, mask is None, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, mask, mask is None)
        return self.head(self.norm(x))

    def advance(
        self,
        tokens: Tensor,
        cache: Cache,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        places: Tensor | None = None,
        rows: int | Sequence[int] = -1,
    ) -> Tensor:
        """Read more tokens and remember them.

        Args:
            tokens: int64 ``(B, L)``.
            cache: of those before, to which these are added.
            positions: number of the place of each ``(L,)``; None counts on from those in memory.
            mask: boolean ``(L, filled + L)``; None where each sees itself and all before it.
            places: see :meth:`places`, from the first token of the sequence.
            rows: of which of the new tokens logits are wanted.

        Returns:
            Logits ``(B, vocabulary)`` of the token after the last one, or of ``rows`` ``(B, R, vocabulary)``.
        """
        start, length = cache.filled, tokens.shape[1]
        if positions is None:
            x = self.token_embedding(tokens) + self.positions[:, start : start + length]
        else:
            x = self.token_embedding(tokens) + self.positions[:, positions]
        if places is not None:
            x = x + places[:, start : start + length]
        causal = mask is None and start == 0 and length > 1
        if mask is None and start and length > 1:
            mask = past_mask(length, start, tokens.device)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x = block.advance(x, layer, start, mask, causal)  # type: ignore[operator]
        cache.filled = start + length
        return self.head(self.norm(x[:, rows]))


def past_mask(length: int, start: int, device: torch.device) -> Tensor:
    """``(length, start + length)``: each of some new tokens sees itself and all before it."""
    return torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)


def interpolation_mask(length: int, unmasked: int, kind: str = "c", device: torch.device | None = None) -> Tensor:
    """Where the tokens of a clip with both ends given may look: boolean ``(length, length)``, True for yes.

    Tokens are read one place late, so that the first ``unmasked + 1`` of them are the start and the first frame, and
    the last ``unmasked - 1`` the last frame less its last token (official code, modules/gpt.py).

    Args:
        length: tokens of a sequence.
        unmasked: tokens of a frame.
        kind: ``a`` sees the past alone; ``b`` also both ends; ``c``, the paper's, lets both ends see each other but
            nothing in between.
        device: of the mask.
    """
    mask = torch.ones(length, length, dtype=torch.bool, device=device).tril()
    if kind == "a":
        return mask
    mask[:, : unmasked + 1] = True
    last = length - unmasked + 1
    mask[:, last:] = True
    if kind == "c":
        mask[last:, unmasked + 1 : last] = False
    return mask
