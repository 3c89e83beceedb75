"""On rendered digits: SVG, trained for minutes on a CPU, knows where a digit goes, and which one it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vidgen
from tests.motion.controls import controls
from tests.motion.regions import moving_share
from vidgen.config import build_data, check, compose
from vidgen.data.dataset import VideoDataset
from vidgen.data.sampler import clip_request
from vidgen.media import to_uint8
from vidgen.metrics.image_quality import psnr
from vidgen.models.svg import SVG
from vidgen.seeding import derive_seed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(4000)]

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "svg" / "digits_cpu.yaml"
CLIPS, SAMPLES = 100, 8
FIRST_GAIN = 3.0  # dB of the first predicted frame above the last given one
KEPT_AT_FIRST, KEPT = 0.7, 0.4  # share of digits that are still named as they are; of ten
MOVING = 0.6  # share of clips in which something moves; of real ones 0.8, of broken ones 0.1 at most
APART = 0.05  # mean distance in [0, 2] of two samples at the last step


class Trained(NamedTuple):
    """A trained model, clips of digits that it has not seen, and a judge of single frames."""

    model: SVG
    clips: Tensor
    digits: Tensor
    judge: nn.Module


def clips(dataset: VideoDataset, number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clips ``(N, C, T, H, W)`` in [-1, 1] and their digits."""
    samples = []
    for index in range(number):
        draw = derive_seed(seed, index)
        samples.append(dataset.read(clip_request(dataset, draw % len(dataset), draw)))
    return torch.stack([s["video"] for s in samples]), torch.tensor([int(s["label"]) for s in samples])


def train_judge(dataset: VideoDataset) -> nn.Module:
    """A classifier of digits anywhere in a frame, trained on real frames with noise."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    judge = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(judge.parameters(), 2e-3)
    for step in range(400):
        videos, digits = clips(dataset, 64, step + 1)
        frames = videos[:, :, step % videos.shape[2]]
        loss = F.cross_entropy(judge(frames + 0.05 * torch.randn_like(frames)), digits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("digits")
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    digits = ["--out", str(folder / "digits"), "--num-train", "10000", "--num-test", "1000"]
    run([str(ROOT / "tools" / "make_digits.py"), *digits], environment)
    root = f"data.root={folder / 'digits'}"
    run(["-m", "vidgen", "fit", "--config", str(CONFIG), root, "--out", str(folder / "run")], environment)
    model = vidgen.load(max((folder / "run" / "checkpoints").glob("iteration_*.ckpt")))
    assert isinstance(model, SVG)
    (seen,) = check(compose(CONFIG, [root]))
    (unseen,) = check(compose(CONFIG, [root, "data.part=test"]))
    judge = train_judge(build_data(seen, 0).dataset)
    return Trained(model, *clips(build_data(unseen, 0).dataset, CLIPS, 999), judge)


def run(arguments: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def curve(videos: Tensor, truth: Tensor) -> Tensor:
    """PSNR in dB of each frame, of the mean squared error over clips: a digit that rests is infinitely well copied."""
    errors = 10 ** (-psnr(to_uint8(videos), to_uint8(truth)) / 10)
    return -10 * errors.mean(0).log10()


def test_predicts_where_a_digit_goes_and_keeps_it(trained: Trained) -> None:
    model, truth, digits, judge = trained
    past = model.n_past
    assert (judge(truth[:, :, past - 1]).argmax(1) == digits).double().mean() >= 0.9, "the judge can read"
    samples = torch.stack([model.sample(CLIPS, batch={"video": truth}, seed=seed) for seed in range(SAMPLES)])

    copied = curve(truth[:, :, past - 1 : past].expand_as(truth), truth)[past:]
    predicted = torch.stack([curve(videos, truth) for videos in samples]).mean(0)[past:]
    print("PSNR", predicted.tolist(), "of the last given frame", copied.tolist())
    assert (predicted > copied).all()
    assert predicted[0] >= copied[0] + FIRST_GAIN
    for name, broken in controls(samples[0]).items():
        assert curve(broken, truth)[past:].mean() < copied.mean() + FIRST_GAIN / 2 < predicted.mean(), name
    strangers = curve(samples[0].roll(1, dims=0), truth)[past:]
    assert strangers.mean() < copied.mean(), "predictions belong to their context"

    future = samples[:, :, :, past:]
    with torch.no_grad():
        named = judge(future.permute(0, 1, 3, 2, 4, 5).flatten(0, 2)).argmax(1).view(SAMPLES, CLIPS, -1)
    kept = (named == digits[None, :, None]).double().mean((0, 1))
    print("digits kept", kept.tolist())
    assert kept[0] >= KEPT_AT_FIRST and kept.mean() >= KEPT

    apart = (samples[0] - samples[1]).abs().mean((0, 1, 3, 4))
    print("two samples apart", apart.tolist())
    assert torch.equal(samples[0][:, :, :past], samples[1][:, :, :past])
    assert apart[-1] >= APART and apart[-1] > 2 * apart[past]

    measured = {
        name: moving_share(videos) for name, videos in {"predicted": samples[0], **controls(samples[0])}.items()
    }
    print("moving", measured, "real", moving_share(truth))
    assert measured.pop("predicted") >= MOVING
    assert max(measured.values()) < MOVING / 2


def test_the_posterior_knows_more_than_the_prior(trained: Trained) -> None:
    model, truth, _, _ = trained
    past = model.n_past
    guessed = curve(model.sample(CLIPS, batch={"video": truth}, seed=1), truth)[past:]
    inferred = curve(model.approximate_posterior(truth), truth)[past:]
    print("PSNR with z from the prior", guessed.tolist(), "from the posterior", inferred.tolist())
    assert (inferred > guessed).all()


def test_both_kinds_of_statistics_predict(trained: Trained) -> None:
    model, truth, _, _ = trained
    past = model.n_past
    curves = {}
    for statistics in ("batch", "running"):
        given = {"batch": {"video": truth}, "sampling_statistics": statistics}
        videos = [model.sample(CLIPS, seed=seed, **given) for seed in range(SAMPLES)]
        curves[statistics] = torch.stack([curve(video, truth) for video in videos]).mean(0)[past:]
    print({name: values.tolist() for name, values in curves.items()})
    copied = curve(truth[:, :, past - 1 : past].expand_as(truth), truth)[past:]
    assert all(values.mean() > copied.mean() for values in curves.values())
