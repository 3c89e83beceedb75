"""Sizes of networks that double from layer to layer."""

from __future__ import annotations

import pytest

from vidgen.layers.pyramid import pyramid_plan, pyramid_widths


@pytest.mark.parametrize(
    ("width", "levels", "widths"),
    [(64, 4, [64, 128, 256, 512]), (3, 6, [3, 6, 12, 24, 24, 24]), (5, 1, [5]), (128, 2, [128, 256])],
)
def test_widths_double_up_to_eight_times(width: int, levels: int, widths: list[int]) -> None:
    assert pyramid_widths(width, levels) == widths


@pytest.mark.parametrize(
    ("resolution", "plan"),
    [(16, (4, 2)), (20, (5, 2)), (28, (7, 2)), (32, (4, 3)), (48, (6, 3)), (64, (4, 4)), (224, (7, 5)), (256, (4, 6))],
)
def test_plan_of_a_resolution(resolution: int, plan: tuple[int, int]) -> None:
    assert pyramid_plan(resolution) == plan


def test_plan_is_the_only_one_or_none() -> None:
    possible = {base * 2**doublings: (base, doublings) for base in (4, 5, 6, 7) for doublings in range(2, 8)}
    assert len(possible) == 24
    for resolution in range(1, 512):
        assert pyramid_plan(resolution) == possible.get(resolution), resolution
