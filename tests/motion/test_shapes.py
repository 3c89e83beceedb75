"""The judge of moving shapes accepts real ones and refuses videos whose motion is destroyed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.motion.controls import controls
from tests.motion.shapes import judge_all, passing
from vidgen.data.moving_shapes import PALETTE, MovingShapes
from vidgen.data.request import ClipRequest

COLORS = ("red", "green", "blue", "yellow")


@pytest.fixture(scope="module")
def real() -> Tensor:
    data = MovingShapes(32, 16, colors=COLORS, shapes=("circle", "square"), size=(0.28, 0.34), travel=(0.4, 0.4))
    requests = [ClipRequest(video, tuple(range(16)), 32, 0) for video in range(64)]
    return torch.stack([data.read(request)["video"] for request in requests])


def test_every_real_video_passes(real: Tensor) -> None:
    assert passing(judge_all(real, [PALETTE[name] for name in COLORS])) == 1


@pytest.mark.parametrize("control", ["frozen", "flickering", "flickering brightness", "shuffled"])
def test_destroyed_motion_does_not_pass(real: Tensor, control: str) -> None:
    verdicts = judge_all(controls(real)[control], [PALETTE[name] for name in COLORS])
    assert passing(verdicts) <= 0.05
    assert not any(verdict.moving for verdict in verdicts)


def test_foreign_colors_and_two_shapes_do_not_pass(real: Tensor) -> None:
    assert passing(judge_all(real, [PALETTE["magenta"], PALETTE["white"]])) == 0
    both = torch.maximum(real, real.flip(-1).roll(16, -2))
    assert sum(verdict.single for verdict in judge_all(both, [PALETTE[name] for name in COLORS])) < 16
