"""The plan of a pack: what changes it and what does not, and which unfinished files are cleared away."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.layouts import save_video
from tests.data.strips import make_strips, random_frames, save_strip
from vidgen.atomic import atomic_file
from vidgen.cli.main import main
from vidgen.data.dataset import VideoDataset
from vidgen.data.frame_folder import FrameFolder
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.image_folder import ImageFolder
from vidgen.data.moving_shapes import MovingShapes
from vidgen.data.pack_files import Plan, drop_partials, make_plan, read_plan
from vidgen.data.packed import Packed
from vidgen.data.packing import pack
from vidgen.data.paired_frames import PairedFrames
from vidgen.data.video_folder import VideoFolder
from vidgen.errors import UserError

BIG = 2**28
NAMES = {f"run/{number:02d}.png": 6 for number in range(20)}


@pytest.fixture
def strips(tmp_path: Path) -> Path:
    return make_strips(tmp_path / "strips", NAMES, side=8)


def plan_of(dataset: VideoDataset, shard_bytes: int = BIG, **settings: Any) -> Plan:
    return make_plan(dataset, settings, shard_bytes)


def drawn(num_videos: int, length: int = 4) -> MovingShapes:
    return MovingShapes(8, 4, num_videos=num_videos, length=length)


class Lengths(FrameStrips):
    """Strips that claim other lengths, and sizes that no disk has to hold."""

    def __init__(self, root: Path, lengths: list[int]) -> None:
        super().__init__(str(root), 8, 2)
        self.lengths = np.array(lengths, np.int64)


@pytest.mark.parametrize(("videos", "shards"), [(1, 1), (5, 5), (15, 15), (16, 16), (32, 16), (1000, 17)])
def test_a_small_data_set_has_enough_shards_for_several_processes(videos, shards):
    assert plan_of(drawn(videos)).num_shards == shards


def test_a_large_data_set_has_shards_of_the_size_asked_for():
    assert plan_of(drawn(1000), 40 * 4 * 192).bounds == tuple(range(0, 1001, 40))


def test_a_long_video_leaves_enough_shards_to_the_others(strips):
    plan = plan_of(Lengths(strips, [1000, *[4] * 19]))
    assert plan.num_shards >= 16 and plan.bounds[:2] == (0, 1) and plan.bounds[-1] == 20


READING: list[dict[str, Any]] = [
    {"num_frames": 3},
    {"stride": 2},
    {"min_length": 2},
    {"flip": True},
    {"cache_mb": 1},
    {"clips": {"rule": "contiguous"}},
    {"split": {"by": "none"}},
    {"decoder": "torchcodec"},
    {"verify": True},
]


@pytest.mark.parametrize("changed", READING, ids=lambda changed: next(iter(changed)))
def test_what_is_chosen_at_reading_does_not_change_a_plan(strips, changed):
    known = {key: value for key, value in changed.items() if key in ("num_frames", "stride", "min_length", "flip")}
    one = plan_of(FrameStrips(str(strips), 8, 2), root=str(strips), num_frames=2)
    other = plan_of(
        FrameStrips(str(strips), 8, **{"num_frames": 2, **known}), **{"root": str(strips), "num_frames": 2, **changed}
    )
    assert (one.fingerprint, one.settings) == (other.fingerprint, other.settings)
    assert one.settings == {"root": str(strips)}


def test_what_decides_pixels_changes_a_plan(strips):
    dataset = FrameStrips(str(strips), 8, 2)
    assert plan_of(dataset, resize="crop").fingerprint != plan_of(dataset, resize="stretch").fingerprint


def test_the_frames_of_a_clip_change_the_plan_of_what_is_drawn_on_the_fly():
    """How far a shape moves from frame to frame depends on them."""
    assert plan_of(drawn(3), num_frames=4).fingerprint != plan_of(drawn(3), num_frames=3).fingerprint


@pytest.mark.parametrize("spelling", ["{}/", "{}/.", "{}//", "{}/../strips"])
def test_a_root_may_be_spelt_in_several_ways(strips, spelling):
    dataset = FrameStrips(str(strips), 8, 2)
    plan = plan_of(dataset, root=spelling.format(strips))
    assert plan.settings["root"] == str(strips)
    assert plan.fingerprint == plan_of(dataset, root=str(strips)).fingerprint


def folder_of_strips(root: Path) -> tuple[Path, VideoDataset]:
    make_strips(root, {"a.png": 4, "b.png": 5}, 8)
    return root / "a.png", FrameStrips(str(root), 8, 2)


def folder_of_videos(root: Path) -> tuple[Path, VideoDataset]:
    for seed, name in enumerate(("a", "b")):
        save_video(root / f"{name}.mkv", random_frames(4, 16, seed=seed))
    return root / "a.mkv", VideoFolder(str(root), 8, 2)


def folder_of_frames(root: Path) -> tuple[Path, VideoDataset]:
    for name in ("a/0", "a/1", "b/0", "b/1"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(root / f"{name}.png")
    return root / "a" / "1.png", FrameFolder(str(root), 8, 2)


def folder_of_images(root: Path) -> tuple[Path, VideoDataset]:
    for seed, name in enumerate(("a", "b")):
        save_strip(root / f"{name}.png", random_frames(1, 8, seed=seed))
    return root / "a.png", ImageFolder(str(root), 8)


def folder_of_pairs(root: Path) -> tuple[Path, VideoDataset]:
    for name in ("train_A/x/0", "train_A/x/1", "train_B/x/0", "train_B/x/1"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L" if "_A" in name else "RGB", (8, 8)).save(root / f"{name}.png")
    return root / "train_A" / "x" / "1.png", PairedFrames(str(root), 8, 2)


FOLDERS = (folder_of_strips, folder_of_videos, folder_of_frames, folder_of_images, folder_of_pairs)


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_a_file_that_was_replaced_changes_the_plan_and_a_copy_of_all_does_not(tmp_path, make):
    path, dataset = make(tmp_path / "data")
    before = plan_of(dataset).fingerprint
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    os.utime(tmp_path / "copy" / path.relative_to(tmp_path / "data"), (1, 1))
    copied = type(dataset)(str(tmp_path / "copy"), 8, dataset.spec.num_frames)  # type: ignore[call-arg]
    assert plan_of(copied).fingerprint == before
    path.write_bytes(path.read_bytes() + b"\0")
    changed = type(dataset)(str(tmp_path / "data"), 8, dataset.spec.num_frames)  # type: ignore[call-arg]
    assert plan_of(changed).fingerprint != before


def test_a_file_in_a_zip_that_was_replaced_by_one_of_the_same_size_changes_the_plan(tmp_path):
    fingerprints = []
    for seed in (1, 2):
        (tmp_path / "frames" / "a").mkdir(parents=True, exist_ok=True)
        for time_ in range(2):
            frame = random_frames(1, 8, seed=seed)[0]
            Image.fromarray(frame).save(tmp_path / "frames" / "a" / f"{time_}.bmp")
        shutil.make_archive(str(tmp_path / "frames"), "zip", tmp_path / "frames")
        fingerprints.append(plan_of(FrameFolder(str(tmp_path / "frames.zip"), 8, 2)).fingerprint)
    assert fingerprints[0] != fingerprints[1]


def test_a_pack_of_files_that_were_replaced_is_refused(tmp_path, strips):
    pack(FrameStrips(str(strips), 8, 2), {}, tmp_path / "pack", quiet=True)
    with open(strips / "run" / "03.png", "ab") as file:
        file.write(b"\0")
    with pytest.raises(UserError) as error:
        pack(FrameStrips(str(strips), 8, 2), {}, tmp_path / "pack", quiet=True)
    assert str(error.value) == (
        f"--out: {tmp_path}/pack holds a pack of other videos, of files that were replaced since, or of other shards;"
        " choose another folder"
    )


def test_a_file_that_is_gone_before_the_plan_is_named_and_no_plan_is_left(tmp_path, strips):
    dataset = FrameStrips(str(strips), 8, 2)
    (strips / "run" / "03.png").unlink()
    with pytest.raises(UserError) as error:
        pack(dataset, {}, tmp_path / "pack", quiet=True)
    assert str(error.value) == (
        f"'{strips}/run/03.png' was there at the start and cannot be read now (No such file or directory);"
        " put that right and give the command again"
    )
    assert not (tmp_path / "pack").exists()


def test_what_a_data_set_left_out_is_in_the_plan_and_in_the_pack(tmp_path, strips):
    (strips / "run" / "99.png").write_bytes(b"no image")
    skipped = {f"{strips}/run/99.png": "not an image"}
    report = pack(FrameStrips(str(strips), 8, 2), {}, tmp_path / "pack", quiet=True)
    plan = read_plan(tmp_path / "pack")
    assert plan is not None and plan.skipped == report.skipped == skipped
    assert json.loads((tmp_path / "pack" / "pack.json").read_text())["skipped"] == skipped
    assert str(report).splitlines()[1] == f"skipped {strips}/run/99.png: not an image"
    assert Packed(str(tmp_path / "pack"), 8, 2).skipped == skipped


def test_what_a_data_set_left_out_may_be_removed_between_two_runs(tmp_path, strips):
    bad = strips / "run" / "99.png"
    bad.write_bytes(b"no image")
    pack(FrameStrips(str(strips), 8, 2), {}, tmp_path / "pack", part=(0, 2), quiet=True)
    bad.unlink()
    assert pack(FrameStrips(str(strips), 8, 2), {}, tmp_path / "pack", part=(1, 2), quiet=True).missing == ()


@pytest.mark.parametrize("word", ["data.flip=true", "data.num_frames=3", "data.resize=crop", "data.labels.by=folder"])
def test_a_command_that_says_the_same_in_other_words_goes_on(tmp_path, strips, capsys, word):
    config = tmp_path / "config.yaml"
    config.write_text(f"data: {{name: frame_strips, root: {strips}, resolution: 8, num_frames: 2}}\n")
    command = ["data", "pack", str(config), "--out", str(tmp_path / "pack"), "--workers", "1"]
    assert main([*command, "--shard", "0/2"]) == 0
    assert main([*command, "--shard", "1/2", word, f"data.root={strips}/"]) == 0
    assert "train from it" in capsys.readouterr().out
    assert main([*command, "data.resize=stretch"]) == 2
    assert capsys.readouterr().err == (
        f"vidgen: error: --out: {tmp_path}/pack holds a pack with data.resize 'crop', now it is 'stretch';"
        " choose another folder\n"
    )


def partial(out: Path, name: str = ".shard-00003.bin.0123.partial") -> Path:
    (out / name).write_bytes(b"some")
    return out / name


def test_what_a_killed_run_left_is_removed(tmp_path):
    mine, other, index = (
        partial(tmp_path, f".{name}.0.partial") for name in ("shard-00003.bin", "shard-00004.bin", "i")
    )
    drop_partials(tmp_path, [3])
    assert not mine.exists() and other.exists() and index.exists()
    drop_partials(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_is_being_written_stays(tmp_path):
    with atomic_file(tmp_path / "shard-00003.bin") as file:
        file.write(b"all of it")
        drop_partials(tmp_path)
    assert (tmp_path / "shard-00003.bin").read_bytes() == b"all of it"
    assert os.listdir(tmp_path) == ["shard-00003.bin"]


def test_what_is_moved_to_its_place_is_still_locked(tmp_path, monkeypatch):
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        drop_partials(tmp_path)
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with atomic_file(tmp_path / "file") as file:
        file.write(b"all of it")
    assert (tmp_path / "file").read_bytes() == b"all of it"


def test_a_file_that_is_taken_for_abandoned_before_it_is_locked_is_begun_anew(tmp_path, monkeypatch):
    real, calls = fcntl.flock, []

    def lock(file: Any, kind: int) -> None:
        if not calls:
            Path(file.name).unlink()
        calls.append(kind)
        real(file, kind)

    monkeypatch.setattr(fcntl, "flock", lock)
    with atomic_file(tmp_path / "file") as file:
        file.write(b"all of it")
    assert (tmp_path / "file").read_bytes() == b"all of it" and calls == [fcntl.LOCK_EX, fcntl.LOCK_EX]


def test_without_locks_only_what_is_a_day_old_is_removed(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    young, old = partial(tmp_path, ".a.0.partial"), partial(tmp_path, ".b.0.partial")
    os.utime(young, (time.time() - 23 * 3600,) * 2)
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    drop_partials(tmp_path)
    assert young.exists() and not old.exists()
    with atomic_file(tmp_path / "file") as file:
        file.write(b"all of it")
    assert (tmp_path / "file").read_bytes() == b"all of it"
