"""On real people: a MoCoGAN trained for minutes on a CPU shows the action that it is asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vidgen
from tests.motion.actions import accuracy, train_classifier
from tests.motion.controls import controls
from vidgen.config import build_data, check, compose
from vidgen.data.dataset import VideoDataset
from vidgen.data.sampler import clip_request
from vidgen.seeding import derive_seed

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "mocogan" / "weizmann_cpu.yaml"
REFERENCE = os.environ.get("VIDGEN_REFERENCE")
STRIPS = Path(REFERENCE or "") / ".." / "data" / "weizmann_actions"
CHANCE = 0.25
CLEARLY_ABOVE = 0.6
EACH = 64  # generated clips per class


def real_clips(dataset: VideoDataset, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random real clips with random starts and flips, and their classes."""
    videos, labels = [], []
    for index in range(number):
        draw = derive_seed(seed, index)
        sample = dataset.read(clip_request(dataset, draw % len(dataset), draw))
        videos.append(sample["video"])
        labels.append(int(sample["label"]))
    return torch.stack(videos), torch.tensor(labels)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not STRIPS.is_dir(), reason="needs VIDGEN_REFERENCE with the real strips beside it")
@pytest.mark.parametrize("processes", [1, 2])
def test_asked_action_is_recognised(tmp_path: Path, processes: int) -> None:
    out = tmp_path / "run"
    arguments = [
        "fit",
        "--config",
        str(CONFIG),
        f"data.root={STRIPS}",
        f"trainer.devices={processes}",
        "--out",
        str(out),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "vidgen", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(2 // processes)},
    )
    assert done.returncode == 0, done.stderr
    (stage,) = check(compose(CONFIG, [f"data.root={STRIPS}"]))
    (held_out,) = check(compose(CONFIG, [f"data.root={STRIPS}", "data.split.groups=[7,8]"]))
    train, test = build_data(stage, 1).dataset, build_data(held_out, 1).dataset
    counter = iter(range(10**9))
    classifier = train_classifier(lambda number: real_clips(train, number, next(counter)), classes=4)

    model = vidgen.load(max((out / "checkpoints").glob("iteration_*.ckpt")))
    with torch.no_grad():
        videos = torch.cat([model.sample(EACH, seed=label, label=label) for label in range(4)])
    asked = torch.arange(4).repeat_interleave(EACH)
    measured = {
        "generated": accuracy(classifier, videos, asked),
        "real": accuracy(classifier, *real_clips(test, 128, 1)),
    }
    measured |= {name: accuracy(classifier, broken, asked) for name, broken in controls(videos).items()}
    print({name: round(value, 3) for name, value in measured.items()})
    assert measured["real"] >= 0.8, "the judge knows the actions of people that it has not seen"
    assert measured["generated"] >= CLEARLY_ABOVE > 2 * CHANCE
    for name in controls(videos):
        assert measured[name] < CLEARLY_ABOVE, name
