"""An exported model is the model."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

import vidgen
from tests.noise_model import SeededNoise, payload
from vidgen.checkpoint import write_checkpoint
from vidgen.cli.main import main
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.export import export_checkpoint, read_export
from vidgen.models.mocogan import MoCoGAN
from vidgen.registry import MODELS
from vidgen.sampling import file_fingerprint

SPEC = DataSpec(3, 16, 10, None, 4, 20, 30, class_names=("bend", "jack", "walk"))
CONFIG = "seed: 1\nmodel:\n  name: mocogan\n"


@MODELS.register("tied_noise")
class TiedNoise(SeededNoise):
    """Two names for one parameter, and views of one memory."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 3, bias=False)
        self.decoder = nn.Linear(4, 3, bias=False)
        self.decoder.weight = self.encoder.weight
        whole = torch.arange(10.0)
        self.register_buffer("front", whole[:6])
        self.register_buffer("back", whole[4:])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small MoCoGAN with averaged generator weights."""
    torch.manual_seed(0)
    model = MoCoGAN(**MoCoGAN.small_variants()["class_in_generator"])
    average = {f"generator.{name}": tensor + 0.01 for name, tensor in model.generator.named_parameters()}
    path = tmp_path / "x.ckpt"
    write_checkpoint(path, payload(model, average, data_spec=SPEC.to_dict(), config=CONFIG, iteration=12, seed=1))
    return path


def samples(path: Path, **keywords: bool) -> torch.Tensor:
    with torch.inference_mode():
        return vidgen.load(path, **keywords).sample(2, num_frames=4, seed=3, label=1)


def test_samples_are_bit_equal_to_the_checkpoints(checkpoint, tmp_path):
    assert torch.equal(samples(export_checkpoint(checkpoint, tmp_path / "ema")), samples(checkpoint))
    raw = export_checkpoint(checkpoint, tmp_path / "raw", raw_weights=True)
    assert torch.equal(samples(raw), samples(checkpoint, ema=False))
    assert not torch.equal(samples(raw), samples(checkpoint))


def test_config_says_what_the_checkpoint_says_and_where_it_came_from(checkpoint, tmp_path):
    folder = export_checkpoint(checkpoint, tmp_path / "out")
    assert sorted(os.listdir(folder)) == ["config.yaml", "model.safetensors"]
    about = yaml.safe_load((folder / "config.yaml").read_text())
    saved = torch.load(checkpoint, weights_only=True)["vidgen"]
    assert about == {
        **saved,
        "weights": "ema",
        "checkpoint": {"file": "x.ckpt", "sha256": file_fingerprint(checkpoint)},
    }
    assert about["data_spec"]["class_names"] == ["bend", "jack", "walk"] and about["iteration"] == 12
    assert "config: |\n  seed: 1\n  model:\n    name: mocogan\n" in (folder / "config.yaml").read_text()


def test_other_tools_read_every_weight(checkpoint, tmp_path):
    folder = export_checkpoint(checkpoint, tmp_path / "out")
    read = load_file(folder / "model.safetensors")
    saved = torch.load(checkpoint, weights_only=True)
    expected = {**saved["state_dict"], **saved["ema"]}
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


def test_a_checkpoint_without_averages_is_exported_raw(tmp_path):
    write_checkpoint(tmp_path / "x.ckpt", payload(SeededNoise()))
    assert read_export(export_checkpoint(tmp_path / "x.ckpt", tmp_path / "out"))["weights"] == "raw"


def test_tied_and_overlapping_tensors_come_back(tmp_path):
    model = TiedNoise()
    write_checkpoint(tmp_path / "x.ckpt", {**payload(model), "state_dict": model.state_dict()})
    folder = export_checkpoint(tmp_path / "x.ckpt", tmp_path / "out")
    stored = load_file(folder / "model.safetensors")
    assert "encoder.weight" in stored and "decoder.weight" not in stored
    loaded = vidgen.load(folder)
    assert loaded.encoder.weight is loaded.decoder.weight
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_an_empty_folder_is_filled_and_a_used_one_is_refused(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    export_checkpoint(checkpoint, tmp_path / "out")
    with pytest.raises(UserError) as error:
        export_checkpoint(checkpoint, tmp_path / "out")
    assert str(error.value) == f"{tmp_path}/out: exists already; choose another --out"


def test_a_full_disk_is_one_line_and_leaves_no_folder(checkpoint, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError) as error:
        export_checkpoint(checkpoint, tmp_path / "out")
    assert str(error.value) == (
        f"{tmp_path}/out: no space left on the disk; free some, what was written before is intact"
    )
    assert os.listdir(tmp_path) == ["x.ckpt"]


def test_a_state_that_is_no_tensor_is_refused(tmp_path):
    content = payload(SeededNoise())
    content["state_dict"]["extra._extra_state"] = {"a": 1}
    write_checkpoint(tmp_path / "x.ckpt", content)
    with pytest.raises(UserError) as error:
        export_checkpoint(tmp_path / "x.ckpt", tmp_path / "out")
    assert str(error.value) == (
        f"{tmp_path}/x.ckpt: 'extra._extra_state' is no tensor (dict), safetensors cannot hold it"
    )


def test_foreign_and_damaged_folders_are_one_line(checkpoint, tmp_path):
    def message() -> str:
        with pytest.raises(UserError) as error:
            vidgen.load(tmp_path / "out")
        return str(error.value).replace(str(tmp_path), "")

    (tmp_path / "out").mkdir()
    assert message() == "/out: not written by vidgen export, it has no config.yaml"
    export_checkpoint(checkpoint, tmp_path / "out")
    whole = (tmp_path / "out" / "model.safetensors").read_bytes()
    (tmp_path / "out" / "model.safetensors").write_bytes(whole[:-9])
    assert message() == "/out/model.safetensors: damaged or cut short; export the checkpoint again"
    (tmp_path / "out" / "model.safetensors").unlink()
    assert message() == "/out: not written by vidgen export, it has no model.safetensors"
    (tmp_path / "out" / "model.safetensors").write_bytes(whole)
    text = (tmp_path / "out" / "config.yaml").read_text()
    (tmp_path / "out" / "config.yaml").write_text(text.replace("format: 1", "format: 9"))
    assert message() == "/out/config.yaml: format 9, this vidgen reads format 1; update vidgen"
    for broken in ("[", "3", "a: 1", "!!python/object/apply:os.getcwd []"):
        (tmp_path / "out" / "config.yaml").write_text(broken)
        assert message() == "/out/config.yaml: not written by vidgen export, or damaged"


def test_command_line(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["export", "--ckpt", str(checkpoint), "--out", str(out), "--raw-weights"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"exported {checkpoint} to {out}/",
        f"  {out}/model.safetensors",
        f"  {out}/config.yaml",
    ]
    assert read_export(out)["weights"] == "raw"
    assert main(["export", "--ckpt", str(checkpoint), "--out", str(out)]) == 2
    assert capsys.readouterr().err == f"vidgen: error: {out}: exists already; choose another --out\n"
