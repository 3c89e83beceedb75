"""Models that continue given videos: their samples in a folder, on the command line and in a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.noise_model import SeededNoise, payload
from vidgen.checkpoint import write_checkpoint
from vidgen.cli.main import main
from vidgen.data.arrays import ArrayVideos
from vidgen.data.transforms import from_levels
from vidgen.errors import UserError
from vidgen.evaluation.contexts import Contexts
from vidgen.media import to_uint8
from vidgen.models.vgan import VGAN
from vidgen.sampling import sample_to_folder

SMALL = {**VGAN.small_variants()["first_frame"]}
LENGTHS = (9, 12, 8, 10, 11)


@pytest.fixture
def model() -> VGAN:
    torch.manual_seed(0)
    made = VGAN(**SMALL).eval()
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
    return made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Five videos, one file each."""
    random = np.random.default_rng(0)
    folder = tmp_path / "videos"
    folder.mkdir()
    for number, length in enumerate(LENGTHS):
        np.save(folder / f"{number}.npy", random.integers(256, size=(length, 16, 16, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def checkpoint(model: VGAN, tmp_path: Path) -> Path:
    path = tmp_path / "vgan.ckpt"
    write_checkpoint(path, payload(model))
    return path


def first_frames(place: Path) -> Tensor:
    frames = [np.load(place / f"{number}.npy")[0] for number in range(len(LENGTHS))]
    return from_levels(torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float())[:, :, None]


def expected(model: VGAN, place: Path) -> np.ndarray:
    return to_uint8(model.sample(5, batch={"video": first_frames(place)})).permute(0, 2, 3, 4, 1).numpy()


def sample(checkpoint: Path, out: Path, *words: str) -> int:
    fixed = ["sample", "--ckpt", str(checkpoint), "--out", str(out), "--device", "cpu", "--format", "npz"]
    return main([*fixed, *words])


def test_video_n_continues_the_nth(model: VGAN, checkpoint: Path, place: Path, tmp_path: Path) -> None:
    assert sample(checkpoint, tmp_path / "out", "--context", str(place), "--batch-size", "2") == 0
    made = [np.load(tmp_path / "out" / f"{number:06d}.npz")["video"] for number in range(5)]
    assert np.array_equal(np.stack(made), expected(model, place))
    assert not (tmp_path / "out" / "000005.npz").exists() and (tmp_path / "out" / "grid.mp4").exists()
    assert len(json.loads((tmp_path / "out" / "samples.json").read_text())["context"]) == 64


def test_samples_of_other_contexts_are_not_mixed(
    checkpoint: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert sample(checkpoint, out, "--context", str(place), "--num", "2") == 0
    before = (out / "000000.npz").read_bytes()
    np.save(place / "0.npy", np.zeros((9, 16, 16, 3), np.uint8))
    assert sample(checkpoint, out, "--context", str(place), "--num", "3") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"vidgen: error: {out}: holds samples with context ") and error.count("\n") == 1
    assert (out / "000000.npz").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "model 'vgan' samples from given video, not from a seed alone; give --context"),
        (["--context", "{place}", "--num", "6"], "num: 6 videos of 5 contexts; lower it"),
        (
            ["--context", "{place}/none"],
            "--context '{place}/none' does not exist; give a folder of videos, a pack, an .npz or a config",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(
    checkpoint: Path, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert sample(checkpoint, tmp_path / "out", *(word.format(place=place) for word in words)) == 2
    assert capsys.readouterr().err == f"vidgen: error: {message.format(place=place)}\n"
    assert not (tmp_path / "out").exists()


def test_a_context_for_nobody_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "noise.ckpt"
    write_checkpoint(path, payload(SeededNoise()))
    assert sample(path, tmp_path / "out", "--context", str(place)) == 2
    message = "--context: seeded_noise samples from a seed alone; leave it out"
    assert capsys.readouterr().err == f"vidgen: error: {message}\n"


def test_a_context_that_cannot_be_read_is_named(model: VGAN, place: Path, tmp_path: Path) -> None:
    contexts = Contexts(ArrayVideos(str(place), 16, 1), model, "videos")
    (place / "1.npy").write_bytes(b"no array")
    with pytest.raises(UserError) as caught:
        sample_to_folder(model, tmp_path / "out", num=5, context=contexts, format="npz", progress=False)
    assert str(caught.value).startswith(f"--context: {place}/1.npy: ") and str(caught.value).endswith("; take it out")


def test_a_run_shows_what_it_predicts(model: VGAN, place: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        json.dumps(
            {
                "model": {"name": "vgan", **SMALL},
                "data": {"name": "arrays", "root": str(place), "resolution": 16, "num_frames": 8, "batch_size": 2},
                "trainer": {"max_steps": 2, "accelerator": "cpu"},
                "log": {"every": 1, "samples_every": 1, "num_samples": 16},
            }
        )
    )
    assert main(["fit", "--config", str(config), "--out", str(tmp_path / "run")]) == 0
    for name in ("samples.mp4", "samples.gif", "samples/iteration_00000001.mp4"):
        assert (tmp_path / "run" / name).stat().st_size > 0
