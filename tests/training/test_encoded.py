"""Training on codes: a run logs, samples, is measured and goes on as one on frames does."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import vidgen
from tests.data.strips import make_strips
from tests.data.test_encoding import ENCODER
from tests.encoding_models import TokenReader
from vidgen.cli.main import main
from vidgen.data.clips import Clips
from vidgen.data.encoded import Encoded
from vidgen.data.encoding import encode
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.splits import Split
from vidgen.errors import UserError
from vidgen.training.encoded import first_codes, real_videos

METRIC = "tests.training.small_metric.ColourDistance"
CONFIG = """\
model: {name: tests.encoding_models.TokenReader, num_frames: 4}
data: {name: encoded, root: codes, num_frames: 4, batch_size: 4}
trainer: {max_steps: 4, accelerator: cpu}
checkpoint: {every: 2}
log: {every: 2, samples_every: 2, num_samples: 2}
"""
EVAL = f"eval={{every: 2, metrics: [{{name: {METRIC}, num_frames: 4}}], num_videos: 5}}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with strips, their codes and a config, and no trace of a launcher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    for name in ("VIDGEN_RUN_DIR", "RANK", "LOCAL_RANK", "SLURM_PROCID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    make_strips(tmp_path / "strips", {f"{'ab'[n % 2]}/{n}.png": 4 + n for n in range(6)})
    clips = Clips(start="first")
    settings = {
        "name": "frame_strips",
        "root": "strips",
        "resolution": 8,
        "clips": clips,
        "split": Split(),
        "flip": True,
    }
    dataset = FrameStrips("strips", 8, 2, clips=clips, flip=True)
    encode(dataset, settings, tmp_path / "codes", ENCODER, quiet=True)
    (tmp_path / "x.yaml").write_text(CONFIG)
    return tmp_path


def fit(*arguments: str) -> int:
    return main(["fit", "--config", "x.yaml", "--out", "run", *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a run is refused."""
    assert fit(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix("vidgen: error: ")


def test_a_run_on_codes(folder, capsys):
    assert fit(EVAL) == 0
    assert capsys.readouterr().err == ""
    with open(next(Path("run/logs/csv").glob("*/metrics.csv"))) as file:
        rows = [row for row in csv.DictReader(file) if row["loss/error"]]
    assert [row["step"] for row in rows] == ["2", "4"] and float(rows[0]["loss/error"]) > 0
    assert sorted(path.name for path in Path("run/samples").iterdir()) == [
        "iteration_00000002.mp4",
        "iteration_00000004.mp4",
    ]
    found = json.loads(Path("run/evaluations/iteration_00000004.json").read_text())
    assert found["metrics"]["colour_distance"]["value"] > 0
    model = vidgen.load("run/checkpoints/iteration_00000004.ckpt")
    assert model.data_spec == Encoded("codes", 4).spec and model.data_spec.class_names == ("a", "b")


def test_a_resumed_run_reads_the_same_codes(folder):
    assert fit() == 0
    whole = vidgen.load("run/checkpoints/iteration_00000004.ckpt").state_dict()["mean"]
    shutil.rmtree("run")
    assert fit("trainer.max_steps=2") == 0
    assert fit("--resume", "auto") == 0
    assert torch.equal(vidgen.load("run/checkpoints/iteration_00000004.ckpt").state_dict()["mean"], whole)


def test_a_run_that_goes_on_with_another_encoder_says_so(folder, caplog):
    assert fit("trainer.max_steps=2") == 0
    about = {"name": "frame_strips", "root": "strips", "resolution": 8}
    encode(FrameStrips("strips", 8, 2), about, folder / "other", replace(ENCODER, fingerprint="e" * 64), quiet=True)
    assert fit("--resume", "auto", "data.root=other") == 0
    assert [line for line in caplog.messages if "other data" in line] == [
        "run/checkpoints/iteration_00000002.ckpt: was trained on other data: codes of another encoder; from here on the"
        " run reads other clips than it would have"
    ]


def test_a_model_that_samples_from_codes_or_classes_is_given_the_first(folder, capsys):
    for needs in ("tokens", "label"):
        model = TokenReader(num_frames=4, needs=needs)
        data = Encoded("codes", 4)
        given = first_codes(model, data)
        assert given is not None and given(3).keys() == {needs}
        if needs == "tokens":
            expected = [data.read(vidgen.ClipRequest(video, (0, 2), 8))["tokens"] for video in range(3)]
            assert torch.equal(given(3)["tokens"], torch.stack(expected))
        assert len(given(99)[needs]) == 6
        assert fit(f"model.needs={needs}") == 0
        shutil.rmtree("run")
    capsys.readouterr()
    assert refused(capsys, "model.needs=text") == "data: 'codes' has no 'text', which token_reader samples from"
    assert not Path("run").exists()


def test_a_dry_run_shows_codes(folder, capsys):
    assert fit("--dry-run", EVAL) == 0
    out = capsys.readouterr().out.splitlines()
    assert "  tokens: int64 (4, 2, 2, 2), from" in "\n".join(out) and "encoded videos in codes" in out
    assert not Path("run").exists()


def test_metrics_need_the_videos_that_were_encoded(folder, capsys):
    real = real_videos(Encoded("codes", 4))
    assert isinstance(real, FrameStrips) and real.root == str(folder / "strips") and real.spec.num_frames == 4
    assert real.spec.class_names == ("a", "b") and real.lengths.tolist() == [4, 6, 8, 5, 7, 9]
    shutil.move("strips", "elsewhere")
    assert refused(capsys, EVAL) == (
        "eval: needs the videos that were encoded into 'codes', which cannot be opened (data.root: no such folder:"
        f" {folder}/strips); put them back, or leave eval out and measure with `vidgen eval`"
    )
    assert not Path("run/checkpoints").exists()
    assert fit() == 0


def test_a_class_that_an_encoded_folder_names_is_not_imported(folder):
    Path("planted.py").write_text("open('executed', 'w').close()\n")
    pack = Path("codes", "pack.json")
    about = json.loads(pack.read_text())
    about["encoding"]["source"]["data"]["name"] = "planted.Videos"
    pack.write_text(json.dumps(about))
    sys.path.insert(0, str(folder))
    try:
        with pytest.raises(UserError) as caught:
            real_videos(Encoded("codes", 4), "eval")
    finally:
        sys.path.remove(str(folder))
    assert str(caught.value) == (
        "eval: needs the videos that were encoded into 'codes', which cannot be opened (it names 'planted.Videos',"
        " which is not imported here); put them back"
    )
    assert not Path("executed").exists()


def test_frames_and_codes_are_not_taken_for_each_other(folder, capsys):
    name = "token_reader as configured"
    (folder / "x.yaml").write_text(
        CONFIG.replace("name: encoded, root: codes,", "name: frame_strips, root: strips, resolution: 8,")
    )
    assert refused(capsys) == (
        f"data: holds frames, and {name} is trained on tokens; make them with `vidgen data encode`"
    )
    (folder / "x.yaml").write_text(CONFIG)
    assert refused(capsys, "model.key=latents") == (
        f"data: holds tokens, and {name} is trained on latents; make them with `vidgen data encode`"
    )
    assert refused(capsys, "model.key=video", "--dry-run") == (
        f"data: holds tokens, and {name} is trained on frames; give it the videos"
    )


def test_videos_that_are_gone_are_named_for_samples_too(folder):
    shutil.rmtree("strips")
    with pytest.raises(UserError, match=r"^data: needs the videos that were encoded into 'codes', .*; put them back$"):
        real_videos(Encoded("codes", 4))
