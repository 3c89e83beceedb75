"""What tests of the small Weizmann recipes share: training, real clips of people left out, a judge of actions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

import vidgen
from tests.motion.actions import ActionClassifier, motion, train_classifier
from tests.motion.controls import controls
from vidgen.config import build_data, check, compose
from vidgen.data.dataset import VideoDataset
from vidgen.data.sampler import clip_request
from vidgen.models.base import VideoModel
from vidgen.seeding import derive_seed

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
STRIPS = Path(os.environ.get("VIDGEN_REFERENCE") or "") / ".." / "data" / "weizmann_actions"
CLASSES = 4
REASON = "needs VIDGEN_REFERENCE with the real strips beside it"


class Judge(NamedTuple):
    """A classifier of actions that sees motion only, and real clips of performers that it has not seen.

    Args:
        classifier: trained on real clips of performers 0 to 6.
        real: clips of performers 7 and 8, ``(N, C, T, H, W)`` in [-1, 1].
        labels: their actions.
    """

    classifier: ActionClassifier
    real: Tensor
    labels: Tensor


class Guesses(NamedTuple):
    """What a judge makes of clips that nobody asked an action of.

    Args:
        entropy: of the actions that it names, over all clips, in nats; at most log 4.
        confidence: mean probability of the action that it names.
    """

    entropy: float
    confidence: float


def clips(dataset: VideoDataset, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random real clips with random starts and flips, and their classes."""
    videos, labels = [], []
    for index in range(number):
        draw = derive_seed(seed, index)
        sample = dataset.read(clip_request(dataset, draw % len(dataset), draw))
        videos.append(sample["video"])
        labels.append(int(sample["label"]))
    return torch.stack(videos), torch.tensor(labels)


def make_judge(knows_broken: bool = False) -> Judge:
    """Train the classifier on what the recipes train on.

    Args:
        knows_broken: show it frozen, flickering and shuffled clips as well, as a class of their own behind the actions.
    """
    config = CONFIGS / "mocogan" / "weizmann_cpu.yaml"
    (seen,) = check(compose(config, [f"data.root={STRIPS}"]))
    (held_out,) = check(compose(config, [f"data.root={STRIPS}", "data.split.groups=[7,8]"]))
    train, test = build_data(seen, 1).dataset, build_data(held_out, 1).dataset
    counter = iter(range(10**9))

    def draw(number: int) -> tuple[Tensor, Tensor]:
        seed = next(counter)
        videos, labels = clips(train, number, seed)
        if not knows_broken:
            return videos, labels
        parts = controls(videos, seed)
        third = number // 3
        broken = [part[: third if name == "shuffled" else max(1, third // 4)] for name, part in parts.items()]
        number_broken = sum(map(len, broken))
        return torch.cat([videos, *broken]), torch.cat([labels, torch.full((number_broken,), CLASSES)])

    steps = {"steps": 400} if knows_broken else {}
    classifier = train_classifier(draw, classes=CLASSES + knows_broken, **steps)
    return Judge(classifier, *clips(test, 256, 1))


@torch.no_grad()
def guesses(judge: Judge, videos: Tensor) -> Guesses:
    """What the judge makes of clips ``(N, C, T, H, W)`` in [-1, 1]."""
    chances = torch.cat([judge.classifier(motion(part)).softmax(1) for part in videos.split(64)])
    shares = torch.bincount(chances.argmax(1), minlength=CLASSES).double() / len(chances)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
    return Guesses(float(entropy), float(chances.max(1).values.mean()))


def train(model: str, out: Path, *overrides: str, processes: int = 1) -> VideoModel:
    """Train a model's small recipe with ``vidgen fit`` and load what it leaves."""
    config = CONFIGS / model / "weizmann_cpu.yaml"
    arguments = ["fit", "--config", str(config), f"data.root={STRIPS}", f"trainer.devices={processes}", *overrides]
    done = subprocess.run(
        [sys.executable, "-m", "vidgen", *arguments, "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(2 // processes)},
    )
    assert done.returncode == 0, done.stderr
    return vidgen.load(max((out / "checkpoints").glob("iteration_*.ckpt")))
