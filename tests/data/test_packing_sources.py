"""Packing what is gone, damaged or packed by somebody else meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.data.test_pack_files import folder_of_frames, folder_of_pairs, folder_of_strips, folder_of_videos
from tests.data.test_packing import SHARD_BYTES, Numbers, contents, few_shards, made, message, unreadable, whole
from vidgen.data import packing
from vidgen.data.dataset import UnreadableVideo
from vidgen.data.frame_folder import FrameFolder
from vidgen.data.pack_files import make_plan
from vidgen.data.packing import Failures, pack, write_shard
from vidgen.errors import UserError

__all__ = ["few_shards", "whole"]  # fixtures


def test_a_disk_that_vanishes_is_noticed_over_many_shards(tmp_path):
    text = message(lambda: made(tmp_path / "pack", Numbers((2,) * 100, unreadable(*range(20, 100))), shard_bytes=100))
    assert text == "64 videos in a row cannot be read (the last, 'videos/83': cut off); is the disk still there?"


def test_a_video_that_is_gone_for_the_time_being_is_not_left_out(tmp_path, whole):
    def gone(video: int, times: Sequence[int]) -> None:
        if video == 4:
            raise UnreadableVideo("videos/4", "it is gone", passing=True)

    out = tmp_path / "pack"
    assert message(lambda: made(out, Numbers(before=gone))) == (
        "'videos/4' was there at the start and cannot be read now (it is gone);"
        " put that right and give the command again"
    )
    assert sorted(os.listdir(out)) == ["plan.json", "shard-00000.bin", "shard-00000.npz"]
    made(out)
    assert contents(out) == whole


def vanish(path: Path) -> None:
    path.unlink()


def lead_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


VANISHING = [(vanish, "it is gone"), (lead_nowhere, "a link that leads nowhere")]


@pytest.mark.parametrize(("change", "reason"), VANISHING)
@pytest.mark.parametrize("make", [folder_of_strips, folder_of_videos, folder_of_frames, folder_of_pairs])
def test_a_file_that_vanishes_while_packing_is_named_and_packed_when_it_is_back(tmp_path, make, change, reason):
    path, dataset = make(tmp_path / "data")
    content, out = path.read_bytes(), tmp_path / "pack"
    plan = make_plan(dataset, {}, SHARD_BYTES)
    change(path)
    with pytest.raises(UserError) as error:
        write_shard(dataset, out, plan, 0, Failures())
    video, picture = dataset.path(0), path.relative_to(tmp_path / "data")  # type: ignore[attr-defined]
    where = {folder_of_frames: f"frame {path.name!r}: ", folder_of_pairs: f"'{picture}': "}.get(make, "")
    assert str(error.value) == (
        f"{video!r} was there at the start and cannot be read now ({where}{reason});"
        " put that right and give the command again"
    )
    assert not os.listdir(out)
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    assert pack(dataset, {}, out, quiet=True).skipped == {}


def test_a_zip_that_vanishes_while_packing_is_named(tmp_path):
    folder_of_frames(tmp_path / "data")
    shutil.make_archive(str(tmp_path / "data"), "zip", tmp_path / "data")
    dataset = FrameFolder(str(tmp_path / "data.zip"), 8, 2)
    plan = make_plan(dataset, {}, SHARD_BYTES)
    (tmp_path / "data.zip").unlink()
    assert message(lambda: write_shard(dataset, tmp_path / "pack", plan, 0, Failures())) == (
        f"'{tmp_path}/data.zip/a' was there at the start and cannot be read now (frame '0.png': the zip is gone);"
        " put that right and give the command again"
    )


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EIO, "I/O error")])
def test_an_error_of_the_disk_is_not_taken_for_one_of_the_file(tmp_path, monkeypatch, error):
    _, dataset = folder_of_strips(tmp_path / "data")

    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr("vidgen.data.tables.open", refuse, raising=False)
    assert message(lambda: pack(dataset, {}, tmp_path / "pack", quiet=True)) == (
        f"'{tmp_path}/data/a.png' was there at the start and cannot be read now ({error.strerror});"
        " put that right and give the command again"
    )


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOTCONN, errno.EIO])
def test_a_file_system_that_is_gone_is_not_taken_for_a_damaged_video(tmp_path, monkeypatch, number):
    _, dataset = folder_of_videos(tmp_path / "data")
    real = os.stat

    def refuse(path: Path, **arguments: bool) -> os.stat_result:
        if str(path).endswith(".mkv"):
            raise OSError(number, os.strerror(number))
        return real(path, **arguments)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(UnreadableVideo) as error:
        dataset.pack(0, (0, 1))
    assert error.value.passing


def test_a_file_that_is_damaged_is_left_out_while_packing(tmp_path):
    path, dataset = folder_of_videos(tmp_path / "data")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert list(pack(dataset, {}, tmp_path / "pack", quiet=True).skipped) == ["a.mkv"]


def test_a_second_run_of_the_same_pack_lets_the_first_end(tmp_path, whole):
    """It begins and ends while the first writes a shard."""
    out = tmp_path / "pack"
    begun: list[int] = []

    def second(video: int, times: Sequence[int]) -> None:
        if video == 4 and not begun:
            begun.append(video)
            made(out)

    made(out, Numbers(before=second))
    assert begun and contents(out) == whole


def test_a_report_can_be_printed_whatever_files_are_called(tmp_path):
    report = packing.PackReport(tmp_path, 1, 2, 3, {"a\nb\udcff.png": "bad\x1b[2J"}, ())
    assert str(report).splitlines()[1] == "skipped a\ufffdb\ufffd.png: bad\ufffd[2J"
    str(report).encode()


def test_one_readable_video_ends_a_row_of_damaged_ones(tmp_path):
    dataset = Numbers((2,) * 130, unreadable(*range(60), *range(61, 121)))
    assert made(tmp_path / "pack", dataset, shard_bytes=2**20).num_videos == 10
