"""A folder of samples is the same however it came about."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vidgen.atomic
import vidgen.progress
import vidgen.sampling
from tests.noise_model import SeededNoise
from tests.test_media import read_gif, read_mp4
from vidgen.data.frame_strips import split_strip
from vidgen.data.images import decode_image
from vidgen.errors import UserError
from vidgen.media import VideoFile, grid, to_uint8
from vidgen.models.mocogan import MoCoGAN
from vidgen.sampling import SamplingReport, file_fingerprint, process_share, sample_to_folder, weights_fingerprint


def make(out: Path, model: Any = None, **settings: Any) -> SamplingReport:
    settings = {"num": 10, "batch_size": 4, "format": "npz", "progress": False, **settings}
    settings = {"rank": 0, "world_size": 1, **settings}
    return sample_to_folder(model or SeededNoise(), out, **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def names(numbers: range) -> list[str]:
    return [f"{number:06d}.npz" for number in numbers]


# --- what is written ---


def test_videos_are_the_models_in_order(tmp_path):
    assert make(tmp_path, seed=5) == SamplingReport(10, 0, (tmp_path / "grid.mp4", tmp_path / "grid.gif"))
    expected = to_uint8(SeededNoise().sample(10, seed=5)).permute(0, 2, 3, 4, 1)
    for number, video in enumerate(expected):
        assert np.array_equal(np.load(tmp_path / f"{number:06d}.npz")["video"], video)
    assert sorted(os.listdir(tmp_path)) == [*names(range(10)), "grid.gif", "grid.mp4", "samples.json"]


def test_num_frames_keywords_rounding_and_fps_arrive(tmp_path):
    make(
        tmp_path, num=2, num_frames=5, keywords={"contrast": 0.5, "label": 2}, rounding="truncate", fps=5, format="gif"
    )
    video, durations = read_gif(tmp_path / "000001.gif")
    assert durations == [200] * 5
    expected = to_uint8(SeededNoise().sample(2, num_frames=5, contrast=0.5, label=2), "truncate")[1]
    assert torch.equal(video, expected)


def test_the_grid_shows_the_first_64(tmp_path):
    make(tmp_path, num=70, format="strip")
    back, fps = read_mp4(tmp_path / "grid.mp4")
    expected = grid(to_uint8(SeededNoise().sample(64)))
    assert back.shape == expected.shape == (3, 3, 142, 142) and fps == 8
    assert (read_gif(tmp_path / "grid.gif")[0].float() - expected.float()).abs().mean() < 15


def test_the_grid_of_images_is_a_png(tmp_path):
    report = make(tmp_path, SeededNoise(num_frames=1), num=3, format="strip")
    assert report.grids == (tmp_path / "grid.png",)
    sheet = torch.from_numpy(np.array(Image.open(tmp_path / "grid.png"))).permute(2, 0, 1)
    assert torch.equal(sheet, grid(to_uint8(SeededNoise(num_frames=1).sample(3)))[:, 0])


def test_strips_are_read_back_by_the_data_set(tmp_path):
    make(tmp_path, num=2, format="strip")
    frames = split_strip(decode_image((tmp_path / "000001.png").read_bytes()))
    assert np.array_equal(frames, to_uint8(SeededNoise().sample(2))[1].permute(1, 2, 3, 0))


def test_manifest_names_checkpoint_and_settings(tmp_path):
    make(tmp_path, num=2, seed=3, num_frames=4, keywords={"style": "mirrored"}, checkpoint_fingerprint="abc", fps=12)
    assert json.loads((tmp_path / "samples.json").read_text()) == {
        "model": "seeded_noise",
        "checkpoint": "abc",
        "context": None,
        "weights": "ema",
        "seed": 3,
        "num_frames": 4,
        "format": "npz",
        "fps": 12,
        "rounding": "round",
        "keywords": {"style": "mirrored"},
        "samples": 0,
        "num": 2,
        "vidgen": "0.1.0",
    }


# --- the same however it came about ---


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_changes_nothing(tmp_path, batch_size):
    make(tmp_path / "a")
    make(tmp_path / "b", batch_size=batch_size)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_processes_make_disjoint_shares_of_the_same_folder(tmp_path, order):
    make(tmp_path / "one", num=21)
    shares, grids = [], []
    for rank in order:
        model = SeededNoise()
        report = make(tmp_path / "two", model, num=21, rank=rank, world_size=2)
        shares.append({number for first, count in model.calls for number in range(first, first + count)})
        assert report.written == len(shares[-1])
        grids.append(report.grids)
    assert shares[0].isdisjoint(shares[1]) and shares[0] | shares[1] == set(range(21))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert grids[0] == () and len(grids[1]) == 2  # whoever comes last


def test_a_real_model_on_two_processes(tmp_path):
    torch.manual_seed(0)
    model = MoCoGAN(**MoCoGAN.small_variants()["class_in_generator"]).eval()
    make(tmp_path / "one", model, num=9, keywords={"label": 1}, format="mp4")
    for rank in (1, 0):
        make(tmp_path / "two", model, num=9, keywords={"label": 1}, format="mp4", rank=rank, world_size=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("format", ["npz", "png"])
def test_a_deleted_video_is_made_again_and_no_other(tmp_path, format):
    make(tmp_path, format=format)
    before = contents(tmp_path)
    for number in (2, 9):
        path = next(tmp_path.glob(f"{number:06d}*"))
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    untouched = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    model = SeededNoise()
    assert make(tmp_path, model, format=format) == SamplingReport(2, 8)
    assert model.calls == [(0, 4), (8, 2)]
    assert contents(tmp_path) == before
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched


def test_a_finished_folder_costs_nothing(tmp_path):
    make(tmp_path)
    model = SeededNoise()
    assert make(tmp_path, model) == SamplingReport(0, 10)
    assert model.calls == []


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("format", ["npz", "png", "mp4"])
@pytest.mark.parametrize("at", [1, 6, 13])
def test_a_killed_run_continues(tmp_path, monkeypatch, format, at):
    make(tmp_path / "whole", format=format)
    written = []

    class Dying(VideoFile):
        def write(self, video):
            written.append(self.path)
            if len(written) == at:
                half = self.path.with_name(f".{self.path.name}.0123.partial")
                folder = self.format == "png"
                half.mkdir(parents=True) if folder else half.parent.mkdir(parents=True, exist_ok=True)
                (half / "00000.png" if folder else half).write_bytes(b"half")
                raise Killed
            super().write(video)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(vidgen.sampling, "VideoFile", Dying)
        make(tmp_path / "killed", format=format)
    visible = {name: data for name, data in contents(tmp_path / "killed").items() if not name.startswith(".")}
    assert visible.items() <= contents(tmp_path / "whole").items()
    make(tmp_path / "killed", format=format)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_process_leaves_the_half_written_files_of_others_alone(tmp_path):
    make(tmp_path, rank=0, world_size=2)
    for number in (3, 4):  # of blocks 0 and 1
        (tmp_path / f".{number:06d}.npz.0123.partial").write_bytes(b"half")
    make(tmp_path, rank=0, world_size=2)
    assert sorted(path.name for path in tmp_path.glob(".*.partial")) == [".000004.npz.0123.partial"]


def test_a_folder_grows_and_so_does_its_grid(tmp_path):
    make(tmp_path / "grown", num=3)
    assert make(tmp_path / "grown", num=2) == SamplingReport(0, 2)
    report = make(tmp_path / "grown", num=10)
    make(tmp_path / "whole", num=10)
    assert len(report.grids) == 2
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


def test_a_large_folder_keeps_its_grid_when_it_grows(tmp_path):
    make(tmp_path, num=66, batch_size=11)
    assert make(tmp_path, num=68, batch_size=11) == SamplingReport(2, 66)


def test_a_deleted_grid_comes_back(tmp_path):
    make(tmp_path)
    before = contents(tmp_path)
    (tmp_path / "grid.gif").unlink()
    assert len(make(tmp_path).grids) == 2
    assert contents(tmp_path) == before


# --- memory ---


def test_nothing_accumulates_over_two_thousand_videos(tmp_path, monkeypatch):
    monkeypatch.setattr(vidgen.atomic.os, "fsync", lambda descriptor: None)
    alive = []

    class Counting(SeededNoise):
        def sample(self, *args, **keywords):
            made = super().sample(*args, **keywords)
            if len(self.calls) in (2, 20, 40):
                gc.collect()
                alive.append(sum(1 for thing in gc.get_objects() if type(thing) is torch.Tensor))
            return made

    make(tmp_path, Counting(size=4, num_frames=2), num=2000, batch_size=50)
    assert len(alive) == 3
    assert alive[1] <= alive[0] + 2 and alive[2] <= alive[0] + 2


# --- refusals ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"num_frames": 7}, "num_frames none, not 7"),
        ({"format": "mp4"}, "format npz, not mp4"),
        ({"fps": 10.0}, "fps 8.0, not 10.0"),
        ({"rounding": "truncate"}, "rounding round, not truncate"),
        ({"weights": "raw"}, "weights ema, not raw"),
        ({"checkpoint_fingerprint": "b" * 64}, "checkpoint aaaaaaaaaaaa, not bbbbbbbbbbbb"),
        ({"keywords": {"contrast": 0.25}}, "contrast 0.5, not 0.25"),
        ({"keywords": {"contrast": 0.5, "label": 1}}, "label none, not 1"),
        ({"keywords": {}}, "contrast 0.5, not none"),
    ],
)
def test_samples_of_other_settings_are_refused(tmp_path, change, message):
    settings: dict[str, Any] = {"checkpoint_fingerprint": "a" * 64, "keywords": {"contrast": 0.5}, "num": 1}
    make(tmp_path, **settings)
    before = contents(tmp_path)
    with pytest.raises(UserError) as error:
        make(tmp_path, **{**settings, **change})
    assert str(error.value) == f"{tmp_path}: holds samples with {message}; choose another folder"
    assert contents(tmp_path) == before


def test_samples_of_other_weights_are_refused(tmp_path):
    make(tmp_path, num=1)
    other = SeededNoise()
    with torch.no_grad():
        other.shift += 1
    old, new = weights_fingerprint(SeededNoise())[:12], weights_fingerprint(other)[:12]
    with pytest.raises(UserError) as error:
        make(tmp_path, other, num=1)
    assert str(error.value) == f"{tmp_path}: holds samples with checkpoint {old}, not {new}; choose another folder"


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(UserError) as error:
        make(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: holds 'thesis.tex' and other things but no samples.json; choose an empty folder"
    )
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("text", ["[1]", "{}", '{"num": 3', "\xff"])
def test_a_damaged_manifest_is_refused(tmp_path, text):
    make(tmp_path, num=1)
    (tmp_path / "samples.json").write_text(text, encoding="latin-1")
    with pytest.raises(UserError) as error:
        make(tmp_path, num=1)
    assert str(error.value) == (
        f"{tmp_path}/samples.json: not written by vidgen sample, or damaged; choose another folder"
    )


def test_settings_that_made_no_video_bind_nobody(tmp_path):
    with pytest.raises(UserError):
        make(tmp_path, SeededNoise(poisoned=0))
    assert os.listdir(tmp_path) == ["samples.json"]
    assert make(tmp_path, seed=4).written == 10


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num": 0}, "num: must be above 0, not 0"),
        ({"num_frames": -1}, "num frames: must be above 0, not -1"),
        ({"batch_size": 0}, "batch size: must be above 0, not 0"),
        ({"fps": 0.0}, "fps: must be above 0, not 0.0"),
        ({"format": "gf"}, "unknown format 'gf'; did you mean 'gif'? (known: mp4, gif, png, strip, npz)"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, setting, message):
    with pytest.raises(UserError) as error:
        make(tmp_path / "new", **setting)
    assert str(error.value) == message
    assert not (tmp_path / "new").exists()


def test_nan_is_named_with_its_video(tmp_path):
    with pytest.raises(UserError) as error:
        make(tmp_path, SeededNoise(poisoned=6))
    assert str(error.value) == "video 6 of model 'seeded_noise' holds NaN; its weights are unusable"
    assert sorted(path.name for path in tmp_path.glob("0*")) == names(range(6))


def test_a_model_that_needs_a_batch_is_refused(tmp_path):
    with pytest.raises(UserError) as error:
        make(tmp_path, SeededNoise(context="video"))
    assert str(error.value) == "model 'seeded_noise' samples from given video, not from a seed alone; give --context"


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    make(tmp_path / "whole")
    real, calls = os.fsync, []

    def fill(descriptor):
        calls.append(descriptor)
        if len(calls) > 10:  # manifest, then cell and video in turn
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch, pytest.raises(UserError) as error:
        patch.setattr(vidgen.atomic.os, "fsync", fill)
        make(tmp_path / "full")
    assert str(error.value) == (
        f"{tmp_path}/full/000004.npz: no space left on the disk; free some, what was written before is intact"
    )
    assert sorted(path.name for path in (tmp_path / "full").glob("0*")) == names(range(4))
    make(tmp_path / "full")
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError) as error:
        make(tmp_path / "out")
    assert str(error.value) == f"{tmp_path}/out/samples.json: cannot be written (File exists); choose another place"


# --- processes, progress, fingerprints ---


@pytest.fixture
def no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}, (3, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),  # a batch script, not a step
        ({"RANK": "1", "WORLD_SIZE": "2", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, (1, 2)),
    ],
)
def test_share_is_read_from_the_launcher(no_launcher, environment, share):
    for name, value in environment.items():
        no_launcher.setenv(name, value)
    assert process_share() == share


def test_contradicting_launcher_is_refused(no_launcher):
    no_launcher.setenv("RANK", "2")
    no_launcher.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError) as error:
        process_share()
    assert str(error.value) == "RANK=2 and WORLD_SIZE=2 do not fit; the rank counts from 0"


def test_launcher_decides_when_nothing_is_given(tmp_path, no_launcher):
    no_launcher.setenv("RANK", "1")
    no_launcher.setenv("WORLD_SIZE", "2")
    sample_to_folder(SeededNoise(), tmp_path, num=10, batch_size=4, format="npz", progress=False)
    assert sorted(path.name for path in tmp_path.glob("0*")) == names(range(4, 8))


def test_progress_is_plain_lines_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(vidgen.progress, "SECONDS_BETWEEN_LINES", 0.0)
    make(tmp_path / "a", progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"sampled {done}/10 videos" for done in (4, 8, 10)]
    make(tmp_path / "b", progress=True, rank=1, world_size=2)
    assert capsys.readouterr() == ("", "")


def test_fingerprints(tmp_path):
    (tmp_path / "a").write_bytes(b"weights")
    assert file_fingerprint(tmp_path / "a") == hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(UserError) as error:
        file_fingerprint(tmp_path / "b")
    assert str(error.value) == f"{tmp_path}/b: cannot be read (No such file or directory)"
    assert weights_fingerprint(SeededNoise()) == weights_fingerprint(SeededNoise())
