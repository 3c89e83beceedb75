"""Making a pack: the same bytes whoever makes it, nothing half written, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.data.strips import make_strips
from vidgen import atomic
from vidgen.data import pack_files, packing
from vidgen.data.dataset import UnreadableVideo, VideoDataset
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.pack_files import Shard, is_finished, read_plan
from vidgen.data.packed import Packed
from vidgen.data.packing import merge, pack
from vidgen.data.request import ClipRequest
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError

LENGTHS = (3, 5, 2, 7, 4, 6)
SETTINGS = {"name": "numbers", "resolution": 4}
SHARD_BYTES = 600  # of frames of 48 bytes: shards of the videos 0 to 2, 3 and 4, and 5


OTHER_VIDEOS = (
    "holds a pack of other videos, of files that were replaced since, or of other shards; choose another folder"
)


def before(video: int, times: Sequence[int]) -> None:
    """What a data set does before it gives frames: nothing."""


class Numbers(VideoDataset):
    """Videos whose levels are functions of video, time and place; ``before`` is called ahead of each chunk."""

    def __init__(self, lengths: Sequence[int] = LENGTHS, before: Callable[[int, Sequence[int]], None] = before) -> None:
        spec = DataSpec(3, 4, 2, None, len(lengths), min(lengths), max(lengths), class_names=("even", "odd"))
        super().__init__(spec, lengths, [number % 2 for number in range(len(lengths))])
        self.before = before
        self.asked: list[tuple[int, Sequence[int]]] = []

    def read(self, request: ClipRequest) -> dict[str, torch.Tensor]:
        raise AssertionError("a pack is made of what pack() gives")

    def pack(self, video: int, times: Sequence[int]) -> dict[str, NDArray[Any]]:
        self.asked.append((video, times))
        self.before(video, times)
        levels = video * 37 + np.array(times)[:, None, None, None] * 5 + np.arange(48).reshape(4, 4, 3)
        return {"video": (levels % 256).astype(np.uint8)}


def made(out: Path, dataset: VideoDataset | None = None, **arguments: Any) -> packing.PackReport:
    return pack(dataset or Numbers(), SETTINGS, out, **{"shard_bytes": SHARD_BYTES, "quiet": True, **arguments})


def contents(out: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden files too."""
    return {name: (out / name).read_bytes() for name in sorted(os.listdir(out))}


def message(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


@pytest.fixture(autouse=True)
def few_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the size of a shard alone makes."""
    monkeypatch.setattr(pack_files, "FEWEST_SHARDS", 1)


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """The files of the pack, made in one go."""
    made(tmp_path / "whole")
    return contents(tmp_path / "whole")


def killed(work: Callable[[], object]) -> bool:
    """Do something in a process of its own, which may kill itself; whether it did."""
    child = os.fork()
    if not child:
        torch.set_num_threads(1)  # the threads of this process are not there, and would be waited for
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def kill_myself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def check_stopped(out: Path, whole: dict[str, bytes]) -> None:
    """What is visible after a kill is right, and there is no index before everything else is there."""
    found = {name: data for name, data in contents(out).items() if not name.startswith(".")} if out.is_dir() else {}
    assert all(whole[name] == data for name, data in found.items())
    if "index.npz" in found:
        assert {*found, "pack.json"} == {*whole}


def test_the_files_of_a_pack(tmp_path, whole):
    shards = [f"shard-0000{shard}.{kind}" for shard in range(3) for kind in ("bin", "npz")]
    assert list(whole) == ["index.npz", "pack.json", "plan.json", *shards]
    levels = [Numbers().pack(video, range(LENGTHS[video]))["video"].transpose(0, 3, 1, 2) for video in (0, 1, 2)]
    assert whole["shard-00000.bin"] == b"".join(part.tobytes() for part in levels)
    plan = read_plan(tmp_path / "whole")
    assert plan is not None and [list(plan.videos(shard)) for shard in range(3)] == [[0, 1, 2], [3, 4], [5]]


def test_the_report_counts(tmp_path):
    report = made(tmp_path / "pack")
    assert str(report) == (
        f"{tmp_path}/pack: 6 videos, 27 frames, 0.00 GB\n"
        f"train from it with data='{{name: packed, root: {tmp_path}/pack, ...}}'"
    )
    assert (report.num_bytes, report.skipped, report.missing) == (27 * 48, {}, ())


def test_a_pack_that_is_there_is_not_made_again(tmp_path, whole):
    dataset = Numbers()
    made(tmp_path / "whole", dataset)
    assert not dataset.asked and contents(tmp_path / "whole") == whole


def test_shares_of_one_folder_are_joined_by_the_last(tmp_path, whole):
    first = made(tmp_path / "pack", part=(0, 2))
    assert first.missing == (1,) and first.num_videos == 4
    assert str(first).splitlines()[1] == (
        f"shards still to be made: 1; the last `vidgen data pack` joins them, or `vidgen data merge {tmp_path}/pack`"
    )
    assert "index.npz" not in os.listdir(tmp_path / "pack")
    assert made(tmp_path / "pack", part=(1, 2)).missing == ()
    assert contents(tmp_path / "pack") == whole


def test_shares_of_several_folders_are_merged(tmp_path, whole):
    parts = [tmp_path / f"part_{number}" for number in range(3)]
    for number, part in enumerate(parts):
        assert made(part, part=(number, 3)).missing
    assert str(merge(parts, tmp_path / "pack")).startswith(f"{tmp_path}/pack: 6 videos, 27 frames, 0.00 GB\n")
    assert contents(tmp_path / "pack") == whole
    merge(parts[::-1], parts[1])
    assert contents(parts[1]) == whole
    merge([tmp_path / "pack"], tmp_path / "pack")
    assert contents(tmp_path / "pack") == whole


def test_merged_shards_take_no_room_on_one_disk_and_are_copied_to_another(tmp_path, whole, monkeypatch):
    merge([tmp_path / "whole"], tmp_path / "linked")
    assert (tmp_path / "linked" / "shard-00001.bin").samefile(tmp_path / "whole" / "shard-00001.bin")

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    merge([tmp_path / "whole"], tmp_path / "copied")
    assert not (tmp_path / "copied" / "shard-00001.bin").samefile(tmp_path / "whole" / "shard-00001.bin")
    assert contents(tmp_path / "copied") == contents(tmp_path / "linked") == whole


def test_merging_says_what_is_missing_or_wrong(tmp_path):
    made(tmp_path / "a", part=(0, 3))
    made(tmp_path / "b", Numbers((2, 2)))
    (tmp_path / "empty").mkdir()
    a, b, empty = tmp_path / "a", tmp_path / "b", tmp_path / "empty"
    assert message(lambda: merge([a], a)) == ("2 of 3 shards are missing (1, 2); run their `vidgen data pack` first")
    assert message(lambda: merge([a, b], a)) == f"{b} and {a} are parts of different packs; merge parts of one"
    hint = "holds no plan.json; give folders that `vidgen data pack` has written to"
    assert message(lambda: merge([a, empty], a)) == f"{empty} {hint}"
    assert not (a / "index.npz").exists()


@pytest.mark.parametrize("video", range(len(LENGTHS)))
def test_a_process_killed_at_any_video_is_taken_up_again(tmp_path, whole, video):
    out = tmp_path / "pack"
    assert killed(lambda: made(out, Numbers(before=lambda reached, _: kill_myself() if reached == video else None)))
    check_stopped(out, whole)
    made(out)
    assert contents(out) == whole


def test_a_process_killed_again_and_again_ends_at_last(tmp_path, whole):
    """Each run gets one shard further."""
    out = tmp_path / "pack"
    for asked in (2, 3, 5):

        def kill(video: int, times: Sequence[int], last: int = asked) -> None:
            if video == last:
                kill_myself()

        assert killed(lambda kill=kill: made(out, Numbers(before=kill)))
        check_stopped(out, whole)
    assert [name for name in sorted(os.listdir(out)) if name.endswith("npz")] == [
        "shard-00000.npz",
        "shard-00001.npz",
    ]
    made(out)
    assert contents(out) == whole


@pytest.mark.parametrize("name", ["replace", "fsync"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", range(10))  # plan, two files of three shards, index, description, end
def test_a_process_killed_at_any_step_of_writing_is_taken_up_again(tmp_path, whole, name, moment, step):
    real, out = getattr(os, name), tmp_path / "pack"
    done = 0

    def stepped(*arguments: Any) -> Any:
        nonlocal done
        if done == step and moment == "before":
            kill_myself()
        result = real(*arguments)
        if done == step:
            kill_myself()
        done += 1
        return result

    def work() -> None:
        setattr(os, name, stepped)
        made(out)

    assert killed(work) == (step < 9)
    check_stopped(out, whole)
    made(out)
    assert contents(out) == whole


FILES = [*(f"shard-0000{shard}.{kind}" for shard in range(3) for kind in ("bin", "npz")), "index.npz", "pack.json"]
"""In the order in which they are written, after the plan."""


@pytest.mark.parametrize("step", range(9))
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, whole, monkeypatch, step):
    out, real = tmp_path / "pack", os.fsync
    synced: list[int] = []

    def fsync(file: int) -> None:
        synced.append(file)
        if len(synced) == step + 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    names = ["plan.json", *FILES]
    assert message(lambda: made(out)) == (
        f"{out}/{names[step]}: no space left on the disk; free some, what was written before is intact"
    )
    assert sorted(os.listdir(out)) == sorted(names[:step])
    check_stopped(out, whole)
    made(out)
    assert contents(out) == whole


def test_a_full_disk_in_the_middle_of_a_shard_is_one_line(tmp_path):
    """A limit on the size of files stands in for it: some of the pixels are written, the rest is refused."""
    out = tmp_path / "pack"
    child = os.fork()
    if not child:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
            made(out, Numbers((2, 300, 2)))
        except UserError as error:
            expected = f"{out}/shard-00001.bin: cannot be written (File too large); choose another place"
            status = 0 if str(error) == expected else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sorted(os.listdir(out)) == ["plan.json", "shard-00000.bin", "shard-00000.npz"]
    assert made(out, Numbers((2, 300, 2))).num_frames == 304


def unreadable(*videos: int, after: int = 0) -> Callable[[int, Sequence[int]], None]:
    """Some videos cannot be read, from a frame on."""

    def check(video: int, times: Sequence[int]) -> None:
        if video in videos and times[-1] >= after:
            raise UnreadableVideo(f"videos/{video}", "cut off")

    return check


def test_a_damaged_video_is_left_out_and_listed(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(packing, "CHUNK_BYTES", 48 * 2)
    out = tmp_path / "pack"
    report = made(out, Numbers(before=unreadable(1, 3, after=4)))
    assert report.skipped == {"00000001": "cut off", "00000003": "cut off"} and report.num_videos == 4
    assert str(report).splitlines()[1:3] == ["skipped 00000001: cut off", "skipped 00000003: cut off"]
    assert json.loads((out / "pack.json").read_text())["skipped"] == report.skipped
    data = Packed(str(out), 4, 2, verify=True)
    assert list(data.names) == ["00000000", "00000002", "00000004", "00000005"]
    assert data.lengths.tolist() == [3, 2, 4, 6]
    assert data.labels is not None and data.labels.tolist() == [0, 0, 0, 1]
    for number, video in enumerate((0, 2, 4, 5)):
        assert np.array_equal(data.fitted(number, (0, 1), 4), Numbers().pack(video, (0, 1))["video"])


def test_of_many_damaged_videos_ten_are_named(tmp_path):
    report = made(tmp_path / "pack", Numbers((2,) * 14, unreadable(*range(13))))
    lines = str(report).splitlines()
    assert lines[10] == "skipped 00000009: cut off"
    assert lines[11] == f"skipped 3 more; {tmp_path}/pack/pack.json lists them"


def test_nothing_readable_is_an_error(tmp_path):
    out = tmp_path / "pack"
    assert message(lambda: made(out, Numbers(before=unreadable(*range(6))))) == (
        f"--out: {out}: none of its 6 videos could be read (the first, '00000000': cut off);"
        " remove the folder, repair them and pack anew"
    )
    assert not (out / "pack.json").exists()


def test_a_disk_that_vanishes_is_no_pack_of_what_was_there_before(tmp_path):
    dataset = Numbers((2,) * 100, unreadable(*range(20, 100)))
    text = message(lambda: made(tmp_path / "pack", dataset, shard_bytes=2**20))
    assert text == "64 videos in a row cannot be read (the last, 'videos/83': cut off); is the disk still there?"
    assert os.listdir(tmp_path / "pack") == ["plan.json"]
    assert made(tmp_path / "pack", Numbers((2,) * 100), shard_bytes=2**20).num_videos == 100


def test_sixty_three_damaged_videos_in_a_row_are_left_out(tmp_path):
    dataset = Numbers((2,) * 100, unreadable(*range(20, 83)))
    assert made(tmp_path / "pack", dataset, shard_bytes=2**20).num_videos == 37


def test_a_long_video_is_held_a_part_at_a_time(tmp_path, monkeypatch):
    made(tmp_path / "whole", Numbers((5000,)), shard_bytes=2**20)
    monkeypatch.setattr(packing, "CHUNK_BYTES", 48 * 64)
    dataset = Numbers((5000,))
    made(tmp_path / "parts", dataset, shard_bytes=2**20)
    sizes = [len(times) for _, times in dataset.asked]
    assert max(sizes) == 64 and sum(sizes) == 5000
    assert [time for _, times in dataset.asked for time in times] == list(range(5000))
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_other_settings_or_videos_do_not_go_into_the_same_folder(tmp_path, whole):
    out = tmp_path / "whole"
    choose = "choose another folder"
    other = {**SETTINGS, "resolution": 8}
    assert message(lambda: pack(Numbers(), other, out, shard_bytes=SHARD_BYTES, quiet=True)) == (
        f"--out: {out} holds a pack with data.resolution 4, now it is 8; {choose}"
    )
    more = {**SETTINGS, "flip": True}
    assert message(lambda: pack(Numbers(), more, out, shard_bytes=SHARD_BYTES, quiet=True)) == (
        f"--out: {out} holds a pack with data.flip None, now it is True; {choose}"
    )
    videos = f"--out: {out} {OTHER_VIDEOS}"
    assert message(lambda: made(out, Numbers((3, 5, 2, 7, 4, 5)))) == videos
    assert message(lambda: made(out, shard_bytes=100)) == videos
    labelled = Numbers()
    labelled.labels = 1 - labelled.labels  # type: ignore[operator]
    assert message(lambda: made(out, labelled)) == videos
    assert contents(out) == whole


def test_other_names_do_not_go_into_the_same_folder(tmp_path):
    for name in ("a", "b"):
        make_strips(tmp_path / name, {f"{name}.png": 4})
    made(tmp_path / "pack", FrameStrips(str(tmp_path / "a"), 8, 2))
    assert message(lambda: made(tmp_path / "pack", FrameStrips(str(tmp_path / "b"), 8, 2))) == (
        f"--out: {tmp_path}/pack {OTHER_VIDEOS}"
    )


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "photo.jpg").write_text("")
    assert message(lambda: made(tmp_path)) == f"--out: {tmp_path} is not empty and holds no pack; choose another folder"
    assert os.listdir(tmp_path) == ["photo.jpg"]
    (tmp_path / "new").mkdir()
    made(tmp_path / "new")


def test_two_runs_may_begin_at_the_same_moment(tmp_path, monkeypatch):
    """The other one's plan appears after this one has looked for a plan."""
    real = pack_files.read_plan
    looked = []

    def read(out: Path) -> Any:
        if not looked:
            looked.append(out)
            made(out, part=(1, 2))
        return real(out)

    monkeypatch.setattr(pack_files, "read_plan", read)
    assert made(tmp_path / "pack", part=(0, 2)).missing == ()


def test_two_runs_may_end_at_the_same_moment(tmp_path, whole, monkeypatch):
    """The other one ends, and clears up, while this one writes the index."""
    real = os.fsync
    out = tmp_path / "pack"
    made(out, part=(0, 3))
    made(out, part=(1, 3))
    count = 0

    def fsync(file: int) -> None:
        nonlocal count
        count += 1
        if count == 3:  # after the two files of the last shard
            monkeypatch.setattr(atomic.os, "fsync", real)
            made(out)
        real(file)

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    assert made(out).num_videos == 6
    assert count == 3 and contents(out) == whole


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}'])
def test_a_damaged_plan_is_named(tmp_path, whole, content):
    plan = tmp_path / "whole" / "plan.json"
    plan.write_bytes(content)
    assert message(lambda: made(plan.parent)) == f"{plan}: damaged; remove the folder and pack anew"


def test_a_plan_of_another_version_is_named(tmp_path, whole):
    plan = tmp_path / "whole" / "plan.json"
    plan.write_bytes(plan.read_bytes().replace(b'"format": 1', b'"format": 3'))
    assert message(lambda: made(plan.parent)) == f"{plan}: of format 3, this version reads 1; pack anew"


def test_a_shard_is_not_taken_for_finished_where_what_it_says_is_damaged(tmp_path, whole):
    """Whichever byte of the file it is; those of the zip's directory that mean nothing may change."""
    path = tmp_path / "whole" / "shard-00002.npz"
    intact = vars(Shard.read(path))
    for position in range(0, len(whole[path.name]), 23):
        damaged = bytearray(whole[path.name])
        damaged[position] ^= 255
        path.write_bytes(damaged)
        if is_finished(path.parent, 2):
            found = vars(Shard.read(path))
            assert all(np.array_equal(found[name], intact[name]) for name in intact), position
    made(path.parent)


def test_a_shard_that_claims_fewer_numbers_is_not_taken_for_finished(tmp_path, whole):
    path = tmp_path / "whole" / "shard-00002.npz"
    assert is_finished(path.parent, 2)
    path.write_bytes(whole[path.name].replace(b"'shape': (6,)", b"'shape': (5,)"))
    assert not is_finished(path.parent, 2)


@pytest.mark.parametrize("name", ["shard-00001.bin", "shard-00001.npz"])
@pytest.mark.parametrize("size", [0, 100])
def test_a_shard_that_was_cut_is_made_again(tmp_path, whole, name, size):
    os.truncate(tmp_path / "whole" / name, size)
    dataset = Numbers()
    made(tmp_path / "whole", dataset)
    assert [video for video, _ in dataset.asked] == [3, 4] and contents(tmp_path / "whole") == whole


def test_a_short_run_shows_no_progress(tmp_path, capsys):
    pack(Numbers(), SETTINGS, tmp_path / "pack", shard_bytes=SHARD_BYTES)
    assert capsys.readouterr() == ("", "")


def test_a_long_run_shows_progress_beside_the_output(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vidgen.progress.SECONDS_BETWEEN_LINES", 0.0)
    pack(Numbers(), SETTINGS, tmp_path / "pack", shard_bytes=SHARD_BYTES)
    out, err = capsys.readouterr()
    assert out == "" and [line.split(",")[0] for line in err.splitlines()] == [
        f"packed {number}/6 videos" for number in range(1, 7)
    ]
