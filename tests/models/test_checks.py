"""What models say in the same words, and how numbered videos get their random numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.models.base import evaluating
from vidgen.models.checks import (
    check_classes,
    check_clip_shape,
    check_equal,
    check_label,
    check_length,
    check_not_negative,
    check_positive,
)
from vidgen.seeding import draw_numbered


def spec(**change: Any) -> DataSpec:
    fitting: dict[str, Any] = {"channels": 3, "resolution": 16, "num_frames": 8, "fps": None, "num_videos": 9}
    return DataSpec(**{**fitting, "min_length": 8, "max_length": 20, **change})


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_positive(width=1, depth=0, height=-1), "model.depth 0: must be at least 1"),
        (lambda: check_not_negative(weight=0, noise=-0.25), "model.noise -0.25: cannot be negative"),
        (lambda: check_equal("size", 3, 4, "height"), "model.size: is 3, but the data has height 4; make them equal"),
        (
            lambda: check_clip_shape(spec(), 1, 16, 8),
            "model.channels: is 1, but the data has channels 3; make them equal",
        ),
        (
            lambda: check_clip_shape(spec(), 3, 32, 8),
            "model.resolution: is 32, but the data has resolution 16; make them equal",
        ),
        (
            lambda: check_clip_shape(spec(width=24), 3, 16, 8),
            "model.resolution: is 16, but the data has width 24; make them equal",
        ),
        (
            lambda: check_clip_shape(spec(), 3, 16, 10),
            "model.num_frames: is 10, but the data has num_frames 8; make them equal",
        ),
        (
            lambda: check_classes(spec(), 4),
            "model.dim_category 4: needs labelled videos, but the data has no classes; set it to 0",
        ),
        (
            lambda: check_classes(spec(class_names=("a", "b")), 4),
            "model.dim_category: is 4, but the data has classes 2; make them equal",
        ),
        (lambda: check_length("vgan", 0, 8), "num_frames 0: vgan makes videos of 1 to 8 frames as it is configured"),
        (lambda: check_length("tgan", 9, 8), "num_frames 9: tgan makes videos of 1 to 8 frames as it is configured"),
        (lambda: check_label(3, 3), "label 3: must be between 0 and 2"),
        (lambda: check_label(-1, 3), "label -1: must be between 0 and 2"),
        (lambda: check_label(0, 0), "label 0: must be left out: the model has no classes"),
    ],
)
def test_refusals(check: Callable[[], None], message: str) -> None:
    with pytest.raises(UserError) as caught:
        check()
    assert str(caught.value) == message


def test_what_is_possible_passes() -> None:
    check_positive(width=1)
    check_not_negative(weight=0.0, count=3)
    check_equal("size", 3, 3, "height")
    check_clip_shape(spec(), 3, 16, 8)
    check_clip_shape(spec(width=16), 3, 16, 8)
    check_classes(spec(class_names=("a", "b")), 2)
    check_classes(spec(class_names=("a", "b")), 0)
    check_length("vgan", 1, 1)
    for label, classes in ((0, 1), (2, 3), (None, 0), (None, 3)):
        check_label(label, classes)


def test_numbers_of_a_video_depend_on_the_seed_and_its_number_alone() -> None:
    def draw(noise: torch.Generator) -> Tensor:
        return torch.rand(2, 3, generator=noise)

    whole = draw_numbered(range(5), 3, draw)
    assert whole.shape == (5, 2, 3)
    torch.manual_seed(99)
    assert torch.equal(draw_numbered([4, 2], 3, draw), whole[[4, 2]])
    assert len({float(value) for value in whole.flatten()}) == 30
    assert not torch.equal(draw_numbered(range(5), 4, draw), whole)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_ends_with_its_block(training: bool) -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()).train(training)
    with evaluating(network):
        assert not any(layer.training for layer in network.modules())
    assert all(layer.training == training for layer in network.modules())
    with pytest.raises(KeyError), evaluating(network):
        raise KeyError
    assert all(layer.training == training for layer in network.modules())
