"""Singular value clipping as vidgen does it, beside a decomposition of each layer, for ``tools/benchmark.py svc``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from evaluating import in_turn
from pairing import describe_pairs
from torch import Tensor

from vidgen.errors import UserError
from vidgen.layers.singular_values import clip_singular_values
from vidgen.models.tgan import TGAN

TOLERANCE = 1e-5  # largest difference of an entry
GAIN = 1.5  # over TGAN's initial weights, so that most singular values exceed 1


def weights_of(width: int, resolution: int) -> list[Tensor]:
    """What is clipped in TGAN's discriminator: its convolutions, five matrices of five sizes."""
    torch.manual_seed(0)
    network = TGAN(discriminator_width=width, resolution=resolution, generator_width=16).discriminator
    return [GAIN * p.detach() for p in network.parameters() if p.dim() > 1]


@torch.no_grad()
def clip_by_decomposition(weights: Sequence[Tensor]) -> None:
    """The plain way, layer by layer: ``torch.linalg.svd``, the values limited to 1, the product of the three."""
    for weight in weights:
        left, values, right = torch.linalg.svd(weight.reshape(len(weight), -1), full_matrices=False)
        weight.copy_(((left * values.clamp(max=1)) @ right).reshape(weight.shape))


def run(width: int, resolution: int, turns: int) -> Iterator[str]:
    """Compare what both leave, then time both in turn; each side starts from the same weights, copying included.

    Raises:
        UserError: the two differ.
    """
    weights = weights_of(width, resolution)
    ours, theirs = ([torch.empty_like(weight) for weight in weights] for _ in range(2))

    def clip_ours() -> None:
        torch._foreach_copy_(ours, weights)
        clip_singular_values(ours)

    def clip_theirs() -> None:
        torch._foreach_copy_(theirs, weights)
        clip_by_decomposition(theirs)

    clip_ours()
    clip_theirs()
    sizes = ", ".join(f"{len(weight)}x{weight.numel() // len(weight)}" for weight in weights)
    values = torch.cat([torch.linalg.svdvals(weight.reshape(len(weight), -1)) for weight in weights])
    apart = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    if apart > TOLERANCE:
        raise UserError(f"the two ways to clip are {apart:.2g} apart (tolerance {TOLERANCE:.0e})")
    yield f"matrices: {sizes}; {int((values > 1).sum())} of {len(values)} singular values above 1"
    yield f"largest difference of an entry: {apart:.1e} (tolerance {TOLERANCE:.0e})"
    yield describe_pairs(in_turn(clip_ours, clip_theirs, turns), theirs="torch.linalg.svd", unit="clipping")
