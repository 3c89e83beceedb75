"""The judge of moving regions accepts real videos and refuses those whose motion is destroyed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.motion.controls import controls
from tests.motion.regions import moving_share, regions
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.moving_shapes import MovingShapes
from vidgen.data.request import ClipRequest

STRIPS = Path(os.environ.get("VIDGEN_REFERENCE") or "") / ".." / "data" / "weizmann_actions"
TIMES = tuple(range(0, 32, 2))


def shapes() -> Tensor:
    data = MovingShapes(32, 16, shapes=("circle", "square"), size=(0.28, 0.34), travel=(0.4, 0.4))
    return torch.stack([data.read(ClipRequest(video, tuple(range(16)), 32, 0))["video"] for video in range(64)])


def people() -> Tensor:
    data = FrameStrips(str(STRIPS), 32, 16, stride=2)
    return torch.stack([data.read(ClipRequest(video, TIMES, 32, 0))["video"] for video in range(len(data))])


@pytest.fixture(scope="module", params=["shapes", "people"])
def real(request: pytest.FixtureRequest) -> Tensor:
    if request.param == "people" and not STRIPS.is_dir():
        pytest.skip("needs VIDGEN_REFERENCE with the real strips beside it")
    return {"shapes": shapes, "people": people}[request.param]()


def test_real_videos_move(real: Tensor) -> None:
    assert moving_share(real) >= 0.9


@pytest.mark.parametrize("control", ["frozen", "flickering", "flickering brightness", "shuffled"])
def test_destroyed_motion_does_not(real: Tensor, control: str) -> None:
    assert moving_share(controls(real)[control]) <= 0.1


def test_each_question_can_be_failed_alone() -> None:
    speck = torch.zeros(1, 1, 8, 32, 32)
    for frame in range(8):
        speck[0, 0, frame, 16, 4 * frame] = 1  # one pixel travels
    assert not regions(speck).moving.any()
    bar = torch.zeros(1, 1, 8, 32, 32)
    for frame in range(8):
        bar[0, 0, frame, 8 : 9 + 2 * frame, 10:20] = 1  # a bar grows downwards
    grown = regions(bar)
    assert grown.moving.all()
    assert not regions(bar[:, :, [0, 4, 1, 5, 2, 6, 3, 7]]).moving.any()
