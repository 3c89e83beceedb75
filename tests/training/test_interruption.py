"""A run that is killed, terminated and resumed ends bit for bit where an uninterrupted one ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.contract.test_training import assert_same

ITERATIONS = 90


def write_strips(folder: Path, videos: int = 10, frames: int = 14, side: int = 16) -> None:
    """Noise videos as strips; 10 videos are 5 batches of 2, so that every stop falls into an epoch."""
    rng = np.random.default_rng(0)
    for number in range(videos):
        path = folder / str(number % 2) / f"{number:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side * frames, 3), dtype=np.uint8)).save(path)


MODELS = {
    "mocogan": """\
model: {name: mocogan, resolution: 16, num_frames: 10, dim_content: 4, dim_motion: 3, dim_category: 2,
  generator_width: 4, discriminator_width: 4, instance_noise: 0.1}
ema: {decay: 0.9}
""",
    "svg": """\
model: {name: svg, channels: 3, resolution: 16, num_frames: 10, n_past: 2, widths: [2, 2, 2, 2], g_dim: 4, z_dim: 2,
  rnn_size: 4}
""",
}
SETTINGS = {"mocogan": ("images_per_batch: 4", ""), "svg": ("clips_per_video: 1", "accumulate_grad_batches: 2")}


def write_config(folder: Path, model: str, processes: int) -> Path:
    """Shuffling, flips, workers, and a checkpoint every 25 iterations.

    With several optimisers also noise inside the discriminators and an average, with one two batches in an iteration.
    """
    write_strips(folder / "strips")
    path = folder / "run.yaml"
    data, trainer = SETTINGS[model]
    path.write_text(
        f"""
seed: 3
{MODELS[model]}
data: {{name: frame_strips, root: {folder}/strips, resolution: 16, num_frames: 10, flip: true, batch_size: 2,
  num_workers: 2, {data}}}
trainer: {{max_steps: {ITERATIONS}, accelerator: cpu, devices: {processes}, {trainer}}}
checkpoint: {{every: 25, keep_last: 9}}
log: {{every: 1, num_samples: 1}}
"""
    )
    return path


def command(config: Path, out: Path, *more: str) -> list[str]:
    """The command line of a run."""
    return [sys.executable, "-m", "vidgen", "fit", "--config", str(config), "--out", str(out), *more]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def run_to_the_end(*arguments: object) -> None:
    """Run and expect success."""
    done = subprocess.run(command(*arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=240)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr


def interrupt(number: int, iteration: int, *arguments: object) -> tuple[int, str]:
    """Send a signal once the run has reported an iteration; SIGKILL goes to all of its processes."""
    process = subprocess.Popen(
        command(*arguments),  # type: ignore[arg-type]
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        match = re.match(r"iteration (\d+)/", line)
        if match and int(match[1]) >= iteration:
            break
    else:
        pytest.fail(f"the run ended before iteration {iteration}:\n{seen}")
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    rest = process.stdout.read()
    return process.wait(60), rest


def newest(folder: Path) -> int:
    """Iteration of the newest checkpoint."""
    return max(int(path.stem.split("_")[1]) for path in (folder / "checkpoints").glob("iteration_*.ckpt"))


@pytest.mark.parametrize(
    ("model", "processes"),
    [
        pytest.param("mocogan", 1, marks=pytest.mark.slow),
        ("mocogan", 2),
        pytest.param("svg", 2, marks=pytest.mark.slow),
    ],
)
def test_killed_and_terminated_run_equals_uninterrupted(tmp_path: Path, model: str, processes: int) -> None:
    config = write_config(tmp_path, model, processes)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run_to_the_end(config, whole)

    status, _ = interrupt(signal.SIGKILL, 28, config, broken)
    assert status == -signal.SIGKILL
    assert newest(broken) == 25, "killed in mid-epoch, between two checkpoints"

    status, output = interrupt(signal.SIGTERM, 53, config, broken, "--resume", "auto")
    stopped = newest(broken)
    assert 53 <= stopped < 75 and stopped % 5, "terminated in mid-epoch, saved where it stood"
    assert status == 128 + signal.SIGTERM
    assert f"stopped at iteration {stopped}; continue with --resume auto --out {broken}\n" in output
    assert not list((broken / "checkpoints").glob(".*")), "nothing half-written is left"

    run_to_the_end(config, broken, "--resume", "auto")
    name = f"checkpoints/iteration_{ITERATIONS:08d}.ckpt"
    one, two = (torch.load(folder / name, weights_only=True) for folder in (whole, broken))
    assert len(one["random_states"]) == processes
    assert_same(one, two, skip={"loops"})
