"""tools/long_videos.py finds the time in codes where it is, and measures each window of long videos."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.data.strips import save_strip
from tests.metrics.test_base import tiny
from tests.models.watching import enliven
from vidgen.checkpoint import describe_model, write_checkpoint
from vidgen.models.tats.transformer import TATS
from vidgen.seeding import NoiseStream

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import long_videos

LENGTHS = {f"{number}.png": 20 + number for number in range(6)}


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidgen.metrics.video_distances.shared_extractor", tiny)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A config of videos that drift from dark to bright, each from a level of its own."""
    for number, (name, length) in enumerate(LENGTHS.items()):
        levels = 10 * number + 6 * np.arange(length)[:, None, None, None]
        save_strip(tmp_path / "strips" / name, np.broadcast_to(levels, (length, 8, 8, 3)).astype(np.uint8))
    config = tmp_path / "data.yaml"
    config.write_text(f"data: {{name: frame_strips, root: {tmp_path / 'strips'}, resolution: 8, num_frames: 8}}\n")
    return config


def chain(path: Path, **change: Any) -> Path:
    """A checkpoint of an untrained chain whose weights matter."""
    default = TATS.small_variants()["default"]
    first = {**default["first_stage"]["model_args"], "n_codes": 300, "downsample": (2, 2, 2), **change}
    torch.manual_seed(0)
    model = enliven(TATS(**{**default, "first_stage": {"model": "tats_vqgan", "model_args": first}}), 1.0).eval()
    weights = NoiseStream(3).uniform(40, 3, 8, 8, 8) * 2 - 1
    with torch.no_grad():  # codes as they lie in the latents of noise
        model.first_stage.codebook.embeddings.copy_(
            model.first_stage.latents(weights / 2).movedim(1, -1).flatten(0, 3)[:300]
        )
    write_checkpoint(path, {"vidgen": describe_model(model), "state_dict": model.state_dict()})
    return path


def run(*arguments: object) -> int:
    return long_videos.main([str(argument) for argument in arguments])


def codes(number: int, seed: int, told: float) -> Tensor:
    """Noise, of which one value may tell the time."""
    noise = NoiseStream(seed).normal(number, 4, 6)
    noise[:, :, 2] += told * torch.arange(4)
    return noise


def test_the_classifier_finds_a_time_that_is_told_and_no_other() -> None:
    assert long_videos.time_accuracy(codes(200, 1, 8.0), codes(200, 2, 8.0)) > 0.98
    assert abs(long_videos.time_accuracy(codes(200, 1, 0.0), codes(200, 2, 0.0)) - 0.25) < 0.06
    assert abs(long_videos.time_accuracy(codes(200, 1, 8.0), codes(200, 2, 0.0)) - 0.25) < 0.06, "another set's"


def test_chains_beside_each_other(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = chain(tmp_path / "zero.ckpt", padding="zero", padding_scope="all")
    agnostic = chain(tmp_path / "replicate.ckpt")
    counts = ["--videos", 4, "--batch-size", 3, "--frames", 24, "--window", 8, "--clips", 30, "--real", 12]
    assert run(f"zero={told}", f"replicate={agnostic}", "--data", data, "--out", tmp_path / "out", *counts) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results) == ["zero", "replicate"]
    for result in results.values():
        assert result["starts"] == [0, 8, 16] and result["time_leak"]["chance"] == 0.25
        assert len(result["fvd"]) == 3 and all(value > 0 for value in result["fvd"])
        assert result["protocol"]["window"] == 8 and result["protocol"]["total_frames"] == 24
    leaks = [results[name]["time_leak"]["frozen"] for name in results]
    assert leaks[0] > 0.6, "zeros stand beside the first and the last frame"
    assert leaks[1] == 0.25, "all codes of a still are equal, so that one time is named for all"
    assert results["zero"]["fvd"] != results["replicate"]["fvd"]
    rows = capsys.readouterr().out.splitlines()[-6:]
    assert rows[0] == (
        "| chain | time named, moving clips | time named, frozen clips | from frame 0 | from frame 8 | from frame 16 |"
    )
    assert rows[3].startswith("| replicate | ") and " | 25.0 % | " in rows[3]
    assert rows[-1] == "Chance names the time of 25 % of the latents."
    picture = np.asarray(Image.open(tmp_path / "out" / "plot.png").convert("RGB"))
    assert picture.shape[0] > 300 and picture.std() > 10


def test_what_cannot_be_measured(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = chain(tmp_path / "a.ckpt")
    first = tmp_path / "first.ckpt"
    model = TATS.small_variants()["text"]
    write_checkpoint(first, {"vidgen": describe_model(TATS(**model)), "state_dict": TATS(**model).state_dict()})
    (tmp_path / "file").write_text("")
    common = ["--data", data, "--out", tmp_path / "out", "--window", 8]
    for arguments, message in (
        ([path, *common], f"{str(path)!r}: expected NAME=CHECKPOINT"),
        ([f"a={first}", *common], f"{first}: not a second stage of TATS that samples without text or audio"),
        (
            [f"a={path}", f"a={path}", *common],
            f"a={path}: a chain before it is called 'a' too; name them apart",
        ),
        ([f"a={path}", *common, "--videos", 1], "--videos 1: must be at least 2"),
        ([f"a={path}", *common, "--batch-size", 0], "--batch-size 0: must be at least 1"),
        (
            [f"a={path}", *common, "--out", tmp_path / "file" / "out"],
            f"--out: {tmp_path / 'file' / 'out'} cannot be made: Not a directory",
        ),
        (
            [f"a={path}", *common, "--frames", 4],
            "fvd_windows: total_frames is 4; it must be at least the window, 8",
        ),
        (
            [f"a={path}", *common, "--latents", 9, "--frames", 8, "--real", 4],
            "window 9: must be between 1 and 3, which fit beside a new latent",
        ),
    ):
        assert run(*arguments) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"error: {message}"
    assert not list((tmp_path / "out").iterdir())
