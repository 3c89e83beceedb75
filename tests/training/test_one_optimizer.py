"""Runs of models with one loss and one optimiser: what they log, save and know of their data."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vidgen
from vidgen.cli.main import main
from vidgen.errors import UserError

COMMON = """\
trainer: {max_steps: 4, accelerator: cpu}
checkpoint: {every: 4}
log: {every: 2, num_samples: 2}
"""
CONFIGS = {
    "svg": """\
model: {name: svg, channels: 3, resolution: 16, num_frames: 4, n_past: 2, widths: [2, 2, 2, 2], g_dim: 4, z_dim: 2,
  rnn_size: 4, sampling_group: 2}
data: {name: moving_shapes, resolution: 16, num_frames: 4, num_videos: 8, batch_size: 2}
""",
    "video_vae": """\
model: {name: video_vae, resolution: 16, num_frames: 4, attributes: {action: 2, performer: 3}, width: 2, encoder_dim: 4,
  z_dim: 3, hidden_dim: 4, mlp_dim: 4}
data: {name: frame_strips, root: strips, resolution: 16, num_frames: 4, batch_size: 4,
  attributes: {pattern: '(?P<action>\\w+)/(?P<performer>\\w)\\d', label_fraction: 0.5}}
""",
}
GENERAL = {"step", "active_units", "grad_norm", "loss/total", "loss/kl", "frame/kl", "learning_rate/model"}
SPEED = {"speed/iterations_per_second", "speed/data_wait_share"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with configs and strips of two actions by three performers, and no trace of a launcher."""
    monkeypatch.chdir(tmp_path)
    for name in ("VIDGEN_RUN_DIR", "RANK", "LOCAL_RANK", "SLURM_PROCID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    random = np.random.default_rng(0)
    for action in ("run", "walk"):
        for performer in ("a0", "a1", "b0", "b1", "c0", "c1"):
            path = tmp_path / "strips" / action / f"{performer}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(256, size=(16, 96, 3), dtype=np.uint8)).save(path)
    for name, text in CONFIGS.items():
        (tmp_path / f"{name}.yaml").write_text(text + COMMON)
    return tmp_path


def fit(name: str, *arguments: str) -> list[dict[str, str]]:
    """Run a config; the rows of its table."""
    assert main(["fit", "--config", f"{name}.yaml", "--out", "run", *arguments]) == 0
    with open(next(Path("run/logs/csv").glob("*/metrics.csv"))) as file:
        return list(csv.DictReader(file))


def test_the_table_of_svg() -> None:
    rows = fit("svg")
    assert [row["step"] for row in rows] == ["2", "4"]
    for row in rows:
        assert row.keys() == GENERAL | SPEED | {"loss/squared_error", "frame/squared_error"}
        values = {key: float(value) for key, value in row.items()}
        assert values["loss/total"] == pytest.approx(values["loss/squared_error"] + values["loss/kl"], rel=1e-5)
        assert values["loss/squared_error"] == pytest.approx(4 * values["frame/squared_error"], rel=1e-5)
        assert values["loss/kl"] == pytest.approx(1e-4 * 4 * values["frame/kl"], rel=1e-4)
        assert values["grad_norm"] > 0 and values["learning_rate/model"] == 0.002 and 0 <= values["active_units"] <= 2
    about = torch.load("run/checkpoints/iteration_00000004.ckpt", weights_only=True)
    assert len(about["optimizer_states"]) == 1
    assert Path("run/samples.mp4").exists() and Path("run/curves.png").exists()


def test_the_table_of_video_vae() -> None:
    rows = fit("video_vae", "model.attribute_weight=2.5")
    columns = {"loss/reconstruction", "loss/attributes", "frame/reconstruction", "frame/attribute_loss"}
    for row in rows:
        assert row.keys() == GENERAL | SPEED | columns
        values = {key: float(value) for key, value in row.items()}
        terms = ("loss/reconstruction", "loss/kl", "loss/attributes")
        assert values["loss/total"] == pytest.approx(sum(values[term] for term in terms), rel=1e-5)
        assert values["loss/attributes"] == pytest.approx(2.5 * values["frame/attribute_loss"], rel=1e-5)
        assert values["loss/reconstruction"] == pytest.approx(4 * values["frame/reconstruction"], rel=1e-5)
        assert values["loss/kl"] == pytest.approx(4 * values["frame/kl"], rel=1e-4)
        assert values["grad_norm"] > 0 and values["learning_rate/model"] == 1e-4


def test_pretraining_on_attributes_logs_nothing_else() -> None:
    first, second = fit("video_vae", "model.pretrain_attribute_steps=2")
    assert not any(first[key] for key in ("loss/reconstruction", "loss/kl", "frame/kl", "active_units"))
    assert first["loss/total"] == first["loss/attributes"] and first["grad_norm"]
    assert all(second.values())


def test_a_checkpoint_knows_the_names_of_attributes_and_how_often_they_came() -> None:
    fit("video_vae")
    model = vidgen.load("run/checkpoints/iteration_00000004.ckpt")
    assert model.data_spec.attribute_names == ("action", "performer")
    assert model.data_spec.attribute_values == (("run", "walk"), ("a", "b", "c"))
    named = model.sample(2, attributes=["action=run@0,walk@2", "performer=c"], seed=1)
    assert torch.equal(named, model.sample(2, attributes=["action=0@0,1@2", "performer=2"], seed=1))
    with pytest.raises(UserError) as caught:
        model.sample(1, attributes=["performer=d"])
    assert str(caught.value) == "attributes performer=d: unknown value (values: a, b, c)"
    actions, performers = model.attribute_counts[:2].sum(), model.attribute_counts[2:].sum()
    assert 0 < actions == performers < 16, "about half of four batches of four carry labels"
