"""``vidgen fit`` from the config file to the run folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidgen.cli.main import main
from vidgen.config import check, compose

CONFIG = """\
seed: 5
model:
  name: mocogan
  resolution: ${data.resolution}
  num_frames: ${data.num_frames}
  generator_width: 4
  discriminator_width: 4
data: {name: moving_shapes, resolution: 32, num_frames: 16, num_videos: 8, batch_size: 2, images_per_batch: 2}
trainer: {max_steps: 2, accelerator: cpu}
ema: {decay: 0.9}
log: {every: 1, num_samples: 2}
"""

STAGES = (
    CONFIG
    + """\
stages:
  first: {}
  second: {init_from: "${checkpoint:first}", seed: 6}
"""
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the config in it and no trace of a launcher in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("VIDGEN_RUN_DIR", "RANK", "LOCAL_RANK", "SLURM_PROCID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "small.yaml").write_text(CONFIG)
    (tmp_path / "two.yaml").write_text(STAGES)
    return tmp_path


def weights(path: str) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def test_a_run_says_where_its_files_lie_and_its_saved_config_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "small.yaml", "trainer.max_steps=1"]) == 0
    out = capsys.readouterr().out
    assert "trained 1 iterations; the run lies in runs/small/\n" in out
    listed = [line.split(maxsplit=1) for line in out[out.index("trained") :].splitlines()[1:]]
    paths = [Path(line[-1].split()[-1]) for line in listed]
    assert Path("runs/small/config.yaml") in paths
    assert Path("runs/small/checkpoints/iteration_00000001.ckpt") in paths
    assert all(path.is_file() for path in paths)
    about = json.loads(Path("runs/small/provenance.json").read_text())
    assert about["command"] == "vidgen fit --config small.yaml trainer.max_steps=1"

    saved = Path("runs/small/config.yaml")
    assert check(compose(saved)) == check(compose("small.yaml", ["trainer.max_steps=1"]))
    assert main(["fit", "--config", str(saved)]) == 0
    assert Path("runs/small-2/config.yaml").read_text() == saved.read_text()
    first = weights("runs/small/checkpoints/iteration_00000001.ckpt")
    again = weights("runs/small-2/checkpoints/iteration_00000001.ckpt")
    assert first.keys() == again.keys() and all(torch.equal(first[key], again[key]) for key in first)


def test_stages_run_in_order_and_continue_at_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "two.yaml", "trainer.max_steps=1"]) == 0
    first = Path("runs/two/first/checkpoints/iteration_00000001.ckpt")
    assert Path("runs/two/second/checkpoints/iteration_00000001.ckpt").is_file()
    written = first.stat().st_mtime_ns
    arguments = ["fit", "--config", "two.yaml", "--resume", "auto", "trainer.max_steps=1"]
    assert main([*arguments, "stages.second.trainer.max_steps=2"]) == 0
    assert Path("runs/two/second/checkpoints/iteration_00000002.ckpt").is_file()
    assert first.stat().st_mtime_ns == written
    assert not Path("runs/two-2").exists()


def test_a_dry_run_shows_what_would_be_trained_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    before = sorted(folder.rglob("*"))
    assert main(["fit", "--config", "two.yaml", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("model mocogan, task unconditional\n") == 2
    assert "  video: float32 (2, 3, 16, 32, 32)" in shown
    assert sorted(folder.rglob("*")) == before


def test_a_model_of_your_own_in_the_working_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    Path("my_small_model.py").write_text("from vidgen.models.mocogan import MoCoGAN\nclass Mine(MoCoGAN): pass\n")
    assert main(["fit", "--config", "small.yaml", "model.name=my_small_model.Mine", "--dry-run"]) == 0
    assert "model my_small_model.Mine, task unconditional" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("config", ["small.yaml", "two.yaml"])
def test_two_processes_share_one_folder(config: str) -> None:
    command = [sys.executable, "-m", "vidgen", "fit", "--config", config, "trainer.devices=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained 2 iterations") == 1
    assert [path.name for path in Path("runs").iterdir()] == [Path(config).stem]
