"""UCF101 from its raw folders and lists to one folder per part and class."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import prepare_ucf101
from preparation import main

SITE = "Obtain it at https://www.crcv.ucf.edu/data/UCF101.php"
LISTS = {
    "classInd.txt": "1 ApplyEyeMakeup\n37 HandstandPushups\n",
    "trainlist01.txt": (
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\nHandstandPushups/v_HandStandPushups_g08_c01.avi 37\r\n"
    ),
    "testlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\nHandstandPushups/v_HandStandPushups_g01_c02.avi\n",
    "trainlist02.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi 1\n",
    "testlist02.txt": "HandStandPushups/v_HandstandPushups_g01_c02.avi\n",
}
VIDEOS = [
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
    "HandstandPushups/v_HandStandPushups_g01_c02.avi",
    "HandstandPushups/v_HandStandPushups_g08_c01.avi",
]


def write_video(path: Path, levels: tuple[int, ...] = (0, 100, 200)) -> None:
    """Frames of MPEG-4 in AVI, as UCF101 has them, but smaller."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        container.start_encoding()
        for level in levels:
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def video_bytes(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "video.avi"
    write_video(path)
    return path.read_bytes()


@pytest.fixture
def raw(tmp_path: Path, video_bytes: bytes) -> Path:
    for number, name in enumerate(VIDEOS):
        path = tmp_path / "raw" / "UCF-101" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(video_bytes + bytes([number]))  # told apart by their last byte
    for name, text in LISTS.items():
        path = tmp_path / "raw" / "ucfTrainTestlist" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
    return tmp_path / "raw"


def run(raw: Path, *more: str) -> int:
    out = raw.parent / "out"
    return main(prepare_ucf101.build_parser(), prepare_ucf101.prepare, ["--raw", str(raw), "--out", str(out), *more])


def written(raw: Path) -> list[str]:
    out = raw.parent / "out"
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*") if path.name[0] != ".")


def error(capsys) -> str:
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err.removeprefix("prepare_ucf101: error: ").removesuffix("\n")


def test_a_split_becomes_two_parts_whatever_the_case_of_names(raw, capsys):
    assert run(raw, "--split", "1") == 0
    assert written(raw) == [
        "test/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
        "test/HandstandPushups/v_HandStandPushups_g01_c02.avi",
        "train/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        "train/HandstandPushups/v_HandStandPushups_g08_c01.avi",
    ]
    out = raw.parent / "out"
    assert (out / "test" / VIDEOS[2]).read_bytes() == (raw / "UCF-101" / VIDEOS[2]).read_bytes()
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines() == [
        f"wrote {out}: 2 in train, 2 in test",
        "a config reads it with",
        "  name: video_folder",
        f"  root: {out}",
        "  split: {by: folder, folder: train}",
    ]


def test_without_a_split_all_videos_are_one_part_and_no_list_is_needed(raw, capsys):
    for path in (raw / "ucfTrainTestlist").iterdir():
        path.unlink()
    assert run(raw, "--split", "none") == 0
    assert written(raw) == [f"train/{name}" for name in VIDEOS]
    shown = capsys.readouterr()
    assert shown.err == "" and shown.out.startswith(f"wrote {raw.parent / 'out'}: 4 in train\n")


def test_videos_in_one_folder_get_their_class_from_their_name(raw):
    for path in sorted((raw / "UCF-101").rglob("*.avi")):
        (raw / "UCF101").mkdir(exist_ok=True)
        path.rename(raw / "UCF101" / path.name)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    (raw / "UCF-101").rmdir()
    assert run(raw, "--split", "none") == 0
    assert written(raw) == [f"train/{name}" for name in VIDEOS]


def test_the_lists_are_read_from_their_archive(raw):
    with zipfile.ZipFile(raw / "UCF101TrainTestSplits-RecognitionTask.zip", "w") as packed:
        for name, text in LISTS.items():
            packed.writestr(f"ucfTrainTestlist/{name}", text)
            (raw / "ucfTrainTestlist" / name).unlink()
    (raw / "ucfTrainTestlist").rmdir()
    before = sorted(raw.rglob("*"))
    assert run(raw, "--split", "1") == 0
    assert len(written(raw)) == 4
    assert sorted(raw.rglob("*")) == before


@pytest.mark.parametrize("how", ["link", "copy", "symlink"])
def test_videos_are_placed_as_asked(raw, how):
    assert run(raw, "--how", how) == 0
    source, target = raw / "UCF-101" / VIDEOS[1], raw.parent / "out" / "train" / VIDEOS[1]
    assert target.is_symlink() == (how == "symlink")
    assert target.samefile(source) == (how != "copy")
    assert target.read_bytes() == source.read_bytes()


def test_a_listed_video_that_is_missing_is_reported(raw, capsys):
    (raw / "UCF-101" / VIDEOS[3]).unlink()
    assert run(raw) == 0
    name = "HandstandPushups/v_handstandpushups_g08_c01.avi"
    shown = capsys.readouterr()
    assert shown.err == f"skipped {name}: the list of part train names it, but it is not there\n"
    assert f"wrote {raw.parent / 'out'}: 1 in train, 2 in test\nskipped 1: {name}\n" in shown.out


def test_a_video_that_no_list_names_is_reported(raw, capsys):
    assert run(raw, "--split", "2") == 0
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        f"skipped {raw / 'UCF-101' / VIDEOS[1]}: no list of split 2 names it",
        f"skipped {raw / 'UCF-101' / VIDEOS[3]}: no list of split 2 names it",
    ]


def test_classes_are_spelt_as_in_the_official_list_of_classes(raw):
    assert run(raw, "--split", "2") == 0
    assert written(raw) == [f"test/{VIDEOS[2]}", f"train/{VIDEOS[0]}"]


def test_a_damaged_video_is_skipped_and_the_rest_goes_on(raw, capsys):
    path = raw / "UCF-101" / VIDEOS[0]
    path.write_bytes(b"")
    assert run(raw) == 0
    assert capsys.readouterr().err == f"skipped {path}: the file is empty\n"
    assert len(written(raw)) == 3


def test_a_video_without_frames_is_skipped(raw, capsys):
    path = raw / "UCF-101" / VIDEOS[0]
    write_video(path, ())
    assert run(raw) == 0
    assert capsys.readouterr().err == f"skipped {path}: it has no frame\n"


def test_nothing_that_can_be_used_is_an_error(raw, capsys):
    for name in VIDEOS:
        (raw / "UCF-101" / name).write_bytes(b"")
    assert run(raw) == 2
    text = error(capsys).splitlines()[-1]
    assert text.endswith(f"{str(raw)!r}: none of the videos can be used; unpack UCF101.rar anew. {SITE}")


def test_a_second_run_keeps_what_is_there(raw, capsys):
    assert run(raw, "--how", "copy") == 0
    first = capsys.readouterr().out
    target = raw.parent / "out" / "train" / VIDEOS[1]
    target.write_bytes(b"kept")
    (raw.parent / "out" / "train" / VIDEOS[3]).unlink()
    assert run(raw, "--how", "copy") == 0
    assert capsys.readouterr().out == first
    assert target.read_bytes() == b"kept" and len(written(raw)) == 4


def test_another_split_does_not_go_into_the_same_folder(raw, capsys):
    assert run(raw, "--split", "1") == 0
    before = written(raw)
    capsys.readouterr()
    assert run(raw, "--split", "2") == 2
    assert f"{str(raw.parent / 'out')!r} was begun with split: 1" in error(capsys)
    assert written(raw) == before


def test_a_download_without_videos_is_named_with_its_site(tmp_path, capsys):
    assert run(tmp_path) == 2
    folder = str(tmp_path / "UCF-101")
    assert error(capsys) == f"{folder!r} does not exist; it should be UCF101's folder of videos. {SITE}"


def test_an_archive_that_is_still_packed_is_named(tmp_path, capsys):
    (tmp_path / "UCF101.rar").write_bytes(b"Rar!")
    assert run(tmp_path) == 2
    archive = str(tmp_path / "UCF101.rar")
    assert error(capsys) == f"{archive!r} is still packed; unpack it there with: unrar x UCF101.rar"


def test_a_folder_of_other_files_is_refused(tmp_path, capsys):
    (tmp_path / "UCF-101").mkdir()
    (tmp_path / "UCF-101" / "video.avi").write_bytes(b"")
    assert run(tmp_path) == 2
    assert error(capsys) == (
        f"{str(tmp_path / 'UCF-101')!r} holds no video v_<class>_g01_c01.avi; it should be UCF101's folder. {SITE}"
    )


def test_missing_lists_are_named_with_their_site(raw, capsys):
    (raw / "ucfTrainTestlist").rename(raw / "elsewhere")
    assert run(raw) == 2
    folder = str(raw / "ucfTrainTestlist")
    archive = "UCF101TrainTestSplits-RecognitionTask.zip"
    assert error(capsys) == (
        f"{folder!r} does not exist; it should be the official lists, or {archive} beside it. {SITE}"
    )


def test_one_missing_list_is_named(raw, capsys):
    assert run(raw, "--split", "3") == 2
    path = str(raw / "ucfTrainTestlist" / "trainlist03.txt")
    assert error(capsys) == f"{path!r} does not exist; it should be one of the official lists. {SITE}"


@pytest.mark.parametrize(
    "line",
    [
        "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 37",  # the number of another class
        "Unknown/v_Unknown_g08_c01.avi 1",
        "../../v_ApplyEyeMakeup_g08_c01.avi 1",
        "ApplyEyeMakeup",
    ],
)
def test_a_line_that_is_not_as_in_the_original_is_refused(raw, capsys, line):
    path = raw / "ucfTrainTestlist" / "trainlist01.txt"
    path.write_text(f"{line}\n")
    assert run(raw) == 2
    assert error(capsys) == (
        f"{str(path)!r}: line {line!r} should be like 'ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1';"
        f" it is not the original. {SITE}"
    )


def test_class_numbers_that_are_none_are_refused(raw, capsys):
    path = raw / "ucfTrainTestlist" / "classInd.txt"
    path.write_text("ApplyEyeMakeup\n")
    assert run(raw) == 2
    assert error(capsys) == (
        f"{str(path)!r}: line 'ApplyEyeMakeup' should be like '1 ApplyEyeMakeup'; it is not the original. {SITE}"
    )


def test_videos_in_capitals_are_found(raw):
    path = raw / "UCF-101" / VIDEOS[0]
    path.rename(path.with_name("V_APPLYEYEMAKEUP_G01_C01.AVI"))
    assert run(raw) == 0
    assert "test/ApplyEyeMakeup/V_APPLYEYEMAKEUP_G01_C01.AVI" in written(raw)


def test_without_a_split_the_folder_spells_the_class(raw):
    (raw / "UCF-101" / "ApplyEyeMakeup").rename(raw / "UCF-101" / "Applyeyemakeup")
    assert run(raw, "--split", "none") == 0
    assert written(raw)[0] == "train/Applyeyemakeup/v_ApplyEyeMakeup_g01_c01.avi"


def test_two_spellings_of_a_class_are_one_class(raw):
    (raw / "UCF-101" / VIDEOS[1]).rename(raw / "UCF-101" / "v_Applyeyemakeup_g08_c01.avi")
    assert run(raw, "--split", "none") == 0
    assert {name.split("/")[1] for name in written(raw)} == {"ApplyEyeMakeup", "HandstandPushups"}


def test_videos_are_linked_unless_told_otherwise(raw):
    assert run(raw) == 0
    target = raw.parent / "out" / "train" / VIDEOS[1]
    assert target.samefile(raw / "UCF-101" / VIDEOS[1]) and not target.is_symlink()


def test_unpacked_lists_stand_before_their_archive(raw):
    (raw / "UCF101TrainTestSplits-RecognitionTask.zip").write_bytes(b"no archive")
    assert run(raw) == 0


@pytest.mark.parametrize("name", ["UCF101", "ucf-101", "Ucf101"])
def test_other_spellings_of_the_folder(raw, name):
    (raw / "UCF-101").rename(raw / name)
    assert run(raw, "--split", "none") == 0
    assert len(written(raw)) == 4


@pytest.mark.parametrize("split", ["none", "1"])
def test_the_folder_of_videos_itself_with_the_lists_beside_it(raw, split):
    out = raw.parent / "out"
    arguments = ["--raw", str(raw / "UCF-101"), "--out", str(out), "--split", split]
    assert main(prepare_ucf101.build_parser(), prepare_ucf101.prepare, arguments) == 0
    assert len(written(raw)) == 4


def test_folders_behind_links_are_searched(raw):
    (raw / "UCF-101" / "ApplyEyeMakeup").rename(raw.parent / "ApplyEyeMakeup")
    (raw / "UCF-101" / "ApplyEyeMakeup").symlink_to(raw.parent / "ApplyEyeMakeup")
    assert run(raw) == 0
    assert len(written(raw)) == 4
