"""The first thing anybody runs shows what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import vidgen
from tests.motion.controls import controls
from tests.motion.shapes import judge_all, passing
from vidgen.data.moving_shapes import PALETTE

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_samples_show_one_shape_in_a_training_color_that_travels(tmp_path: Path) -> None:
    config = ROOT / "configs" / "quickstart.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "vidgen", "fit", "--config", str(config), "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    checkpoint = max((tmp_path / "run" / "checkpoints").glob("iteration_*.ckpt"))
    for artefact in (
        checkpoint,
        *(tmp_path / "run" / name for name in ("config.yaml", "curves.png", "samples.mp4", "samples.gif")),
    ):
        assert artefact.stat().st_size > 0 and str(artefact) in done.stdout
    model = vidgen.load(checkpoint)
    with torch.no_grad():
        videos = model.sample(64, seed=1)
    colors = [PALETTE[name] for name in ("red", "green", "blue", "yellow")]
    verdicts = judge_all(videos, colors)
    assert passing(verdicts) >= 0.8
    assert len({verdict.color for verdict in verdicts if verdict.passed}) == 4
    directions = {(round(v.step[0] / 8), round(v.step[1] / 8)) for v in verdicts if v.passed}
    assert len(directions) >= 4
    for name, broken in controls(videos).items():
        assert passing(judge_all(broken, colors)) <= 0.05, name
