"""TATS's chain on real people: both stages in one config, and videos sixteen times as long as training clips."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vidgen
from tests.motion.actions import accuracy
from tests.motion.controls import controls
from tests.motion.regions import moving_share
from tests.recipes.weizmann import CLASSES, CONFIGS, REASON, STRIPS, make_judge
from vidgen.models.tats.transformer import TATS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(6000),
    pytest.mark.skipif(not STRIPS.is_dir(), reason=REASON),
]
CHANCE = 1 / CLASSES
RECONSTRUCTED = 0.65  # share of real clips of strangers whose reconstruction shows their action
ASKED = 0.5  # share of samples that show the action asked for
MOVING = 0.4  # share of samples, and of the last windows of long ones, in which something moves
EACH = 32  # samples per class
LENGTH = 256  # frames of the long videos
WINDOW = 16


def fit(out: Path) -> Path:
    """Train the chain with one command; the last checkpoint."""
    config = CONFIGS / "tats" / "weizmann_cpu.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "vidgen", "fit", "--config", str(config), f"data.root={STRIPS}", "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
    return max((out / "transformer" / "checkpoints").glob("iteration_*.ckpt"))


def refuses_controls(measure, videos: Tensor, least: float) -> None:  # type: ignore[no-untyped-def]
    measured = {name: measure(broken) for name, broken in {"generated": videos, **controls(videos)}.items()}
    print({name: round(value, 3) for name, value in measured.items()})
    assert measured.pop("generated") >= least
    for name, value in measured.items():
        assert value < least, name


def test_chain_shows_the_action_asked_for_in_videos_of_any_length(tmp_path: Path) -> None:
    judge = make_judge()
    checkpoint = fit(tmp_path / "run")
    first = vidgen.load(max((tmp_path / "run" / "vqgan" / "checkpoints").glob("iteration_*.ckpt")))
    with torch.no_grad():
        made = torch.cat([first.decode(first.encode(part)) for part in judge.real.split(32)])
    refuses_controls(lambda videos: accuracy(judge.classifier, videos, judge.labels), made, RECONSTRUCTED)

    model = vidgen.load(checkpoint)
    assert isinstance(model, TATS)
    asked = torch.arange(CLASSES).repeat_interleave(EACH)
    videos = torch.cat([model.sample(EACH, seed=label, label=label) for label in range(CLASSES)])
    assert ASKED >= 2 * CHANCE
    refuses_controls(lambda shown: accuracy(judge.classifier, shown, asked), videos, ASKED)
    refuses_controls(moving_share, videos, MOVING)

    number = 4
    long = torch.cat([model.sample(number, num_frames=LENGTH, seed=label, label=label) for label in range(CLASSES)])
    assert long.shape[2] == LENGTH and not torch.equal(long[:, :, -WINDOW:], long[:, :, -2 * WINDOW : -WINDOW])
    windows = long.unfold(2, WINDOW, WINDOW).movedim(-1, 3).movedim(2, 0)  # (windows, N, C, T, H, W)
    labels = torch.arange(CLASSES).repeat_interleave(number)
    named = [accuracy(judge.classifier, window, labels) for window in windows]
    print("action asked for, in each window:", [round(value, 2) for value in named])
    refuses_controls(moving_share, windows[-8:].flatten(0, 1), MOVING)
    assert sum(named[-8:]) / 8 >= ASKED, "the second half of a long video still shows the action asked for"
