"""Instance noise is there in training and evaluation, and does not depend on the number of processes."""

from __future__ import annotations

import torch

from vidgen.layers.noise import InstanceNoise
from vidgen.seeding import NoiseStream, noise_from


def test_adds_sigma_times_normal_noise_in_both_modes() -> None:
    x = torch.full((64, 3, 16, 16), 2.0)
    for layer in (InstanceNoise(0.2).train(), InstanceNoise(0.2).eval()):
        added = layer(x) - x
        assert abs(added.mean()) < 0.01 and abs(added.std() - 0.2) < 0.01


def test_sigma_zero_is_the_identity() -> None:
    x = torch.randn(2, 3)
    assert InstanceNoise(0.0)(x) is x


def test_two_ranks_get_the_rows_of_one_process() -> None:
    layer, x = InstanceNoise(0.5), torch.zeros(4, 3, 2)
    with noise_from(NoiseStream(7)):
        whole = [layer(x), layer(x)]
    for rank in range(2):
        with noise_from(NoiseStream(7, rank=rank, world_size=2)):
            for expected in whole:
                assert torch.equal(layer(x[rank::2]), expected[rank::2])
    assert not torch.equal(whole[0], whole[1])


def test_keeps_the_type_of_its_input() -> None:
    with noise_from(NoiseStream(7)):
        assert InstanceNoise(0.5)(torch.zeros(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_in_training_only_when_asked() -> None:
    x, layer = torch.zeros(64, 3, 16, 16), InstanceNoise(0.2, training_only=True)
    assert layer.eval()(x) is x
    added = layer.train()(x)
    assert abs(added.mean()) < 0.01 and abs(added.std() - 0.2) < 0.01
    with noise_from(NoiseStream(7)):
        one = layer(x)
    with noise_from(NoiseStream(7)):
        layer.eval()(x)
        assert torch.equal(layer.train()(x), one), "evaluation draws nothing"
    assert InstanceNoise(0.0, training_only=True)(x) is x
