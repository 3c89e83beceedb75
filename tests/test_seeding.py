"""Noise is a function of what it is for, and ranks share one global batch."""

from __future__ import annotations

import torch

from vidgen.seeding import NoiseStream, current_noise, derive_seed, noise_from


def test_seed_depends_on_every_part_and_their_order() -> None:
    assert derive_seed(1, "a", 2) == derive_seed(1, "a", 2)
    seeds = {
        derive_seed(1, "a", 2),
        derive_seed("a", 1, 2),
        derive_seed(1, "a", 3),
        derive_seed(1, "a2"),
        derive_seed("1", "a", 2),
    }
    assert len(seeds) == 5 and all(0 <= seed < 2**63 for seed in seeds)


def test_ranks_take_their_rows_of_one_draw() -> None:
    whole = NoiseStream(5)
    ranks = [NoiseStream(5, rank=rank, world_size=2) for rank in range(2)]
    for draw in (
        lambda s, n: s.normal(n, 3),
        lambda s, n: s.uniform(n),
        lambda s, n: s.integers(100, n),
    ):
        full = draw(whole, 6)
        for rank, stream in enumerate(ranks):
            assert torch.equal(draw(stream, 3), full[rank::2])
    full = whole.normal(4, 6, 2, batch_dim=1)
    for rank, stream in enumerate(ranks):
        assert torch.equal(stream.normal(4, 3, 2, batch_dim=1), full[:, rank::2])


def test_layers_see_the_stream_only_inside_the_block() -> None:
    assert current_noise() is None
    stream = NoiseStream(1)
    with noise_from(stream):
        assert current_noise() is stream
    assert current_noise() is None
