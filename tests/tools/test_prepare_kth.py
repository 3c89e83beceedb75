"""tools/prepare_kth.py cuts the videos of the KTH data set into folders of frames."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import prepare_kth
from preparation import main

OBTAIN = "Get it from https://www.csc.kth.se/cvap/actions/"
HEAD = """\
KTH human action database: sub-sequences

All sequences were divided with respect to the subjects into a training set (8 persons), a validation set (8 persons):

Training:   person11, 12, 13, 14, 15, 16, 17, 18
Validation: person19, 20, 21, 23, 24, 25, 01, 04
Test:       person22, 02, 03, 05, 06, 07, 08, 09, 10

"""


def gray(index: int) -> int:
    """The gray of a frame; each frame has its own."""
    return 40 + 10 * index


def write_video(path: Path, length: int = 12, codec: str = "mpeg4") -> bytes:
    """An AVI file of 160×120; frame n is of gray(n), its left quarter black."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w", format="avi") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p" if codec == "mpeg4" else "bgr0"
        stream.bit_rate = 2_000_000
        for index in range(length):
            pixels = np.full((120, 160, 3), gray(index), np.uint8)
            pixels[:, :40] = 0
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    data = write_video(tmp_path_factory.mktemp("video") / "a.avi")

    def place(path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return place


@pytest.fixture
def raw(tmp_path: Path, video: Callable[[Path], Path]) -> Path:
    """Two unpacked videos of walking, one zipped of handclapping."""
    folder = tmp_path / "raw"
    video(folder / "walking" / "person01_walking_d1_uncomp.avi")
    video(folder / "walking" / "person22_walking_d3_uncomp.avi")
    zipped = video(tmp_path / "person13_handclapping_d4_uncomp.avi")
    with zipfile.ZipFile(folder / "handclapping.zip", "w") as archive:
        archive.write(zipped, zipped.name)
    (folder / "00sequences.txt").write_text(
        HEAD + "person01_walking_d1\t\tframes\t1-3, 4-9, 8-12\n"
        "person22_walking_d3\t\tframes\t2-5,10-12\r\n"
        "person13_handclapping_d3\t*missing*\n"
        "person13_handclapping_d4\tframes\t1-12\n"
        "person05_boxing_d1\t\tframes\t1-95, 96-185, 186-245, 246-360\n"
    )
    return folder


def run(raw: Path, out: Path, *options: str) -> int:
    arguments = ["--raw", str(raw), "--out", str(out), "--actions", "walking", "handclapping", *options]
    return main(prepare_kth.build_parser(), prepare_kth.prepare, arguments)


def frames(folder: Path) -> NDArray[np.uint8]:
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"{i:05d}.png" for i in range(len(files))]
    return np.stack([np.asarray(Image.open(file)) for file in files])


def grays(folder: Path) -> list[int]:
    """Which frame of the video each frame is."""
    return [round((float(frame[:, -20:].mean()) - 40) / 10) for frame in frames(folder)]


def folders(out: Path) -> list[str]:
    return sorted({path.parent.relative_to(out).as_posix() for path in out.rglob("*.png")})


def test_subsequences_are_cut_counting_from_one(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(raw, out) == 0
    assert {name: grays(out / name) for name in folders(out)} == {
        "test/walking/person22_walking_d3_0": [1, 2, 3, 4],
        "test/walking/person22_walking_d3_1": [9, 10, 11],
        "train/handclapping/person13_handclapping_d4_0": list(range(12)),
        "train/walking/person01_walking_d1_0": [0, 1, 2],
        "train/walking/person01_walking_d1_1": [3, 4, 5, 6, 7, 8],
        "train/walking/person01_walking_d1_2": [7, 8, 9, 10, 11],
    }
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out == (
        f"wrote {out}: 4 in train, 2 in test\n"
        "a config reads it with\n"
        "  name: frame_folder\n"
        f"  root: {out}\n"
        "  split: {by: folder, folder: train}\n"
        "  fps: 25\n"
        "  attributes: {pattern: 'person(?P<identity>[0-9]+)_(?P<action>[a-z]+)_d(?P<scene>[1-4])'}\n"
    )


def test_whole_videos_need_no_list(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "00sequences.txt").unlink()
    assert run(raw, tmp_path / "out", "--sequences", "off") == 0
    assert {name: grays(tmp_path / "out" / name) for name in folders(tmp_path / "out")} == {
        "test/walking/person22_walking_d3": list(range(12)),
        "train/handclapping/person13_handclapping_d4": list(range(12)),
        "train/walking/person01_walking_d1": list(range(12)),
    }
    assert capsys.readouterr().err == ""


def test_the_parts_of_the_data_sets_authors(raw: Path, tmp_path: Path) -> None:
    assert run(raw, tmp_path / "out", "--split", "original", "--sequences", "off") == 0
    assert folders(tmp_path / "out") == [
        "test/walking/person22_walking_d3",
        "train/handclapping/person13_handclapping_d4",
        "val/walking/person01_walking_d1",
    ]


@pytest.mark.parametrize("split", ["svg", "original", "none"])
def test_every_person_is_in_one_part(split: str) -> None:
    parts = prepare_kth.SPLITS[split]
    assert sorted(person for persons in parts.values() for person in persons) == list(range(1, 26))


def test_without_parts_there_is_one_folder_per_action(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(raw, tmp_path / "out", "--split", "none", "--sequences", "off") == 0
    assert folders(tmp_path / "out") == [
        "handclapping/person13_handclapping_d4",
        "walking/person01_walking_d1",
        "walking/person22_walking_d3",
    ]
    printed = capsys.readouterr().out
    assert f"wrote {tmp_path / 'out'}: 3 in all\n" in printed
    assert "split" not in printed


@pytest.mark.parametrize(
    ("options", "shape", "black"),
    [
        ((), (64, 64), 16),
        (("--resolution", "128"), (128, 128), 32),
        (("--resize", "crop"), (64, 64), 11),
        (("--resize", "crop", "--resolution", "120"), (120, 120), 20),
        (("--resize", "none"), (120, 160), 40),
    ],
)
def test_frames_have_the_size_asked_for(
    raw: Path, tmp_path: Path, options: tuple[str, ...], shape: tuple[int, int], black: int
) -> None:
    write_video(raw / "walking" / "person01_walking_d1_uncomp.avi", 12, "ffv1")
    assert run(raw, tmp_path / "out", *options) == 0
    found = frames(tmp_path / "out" / "train/walking/person01_walking_d1_0")
    assert found.shape == (3, *shape, 3)
    assert np.abs(found[1, :, : black - 3].astype(int)).max() <= 1
    assert np.abs(found[1, :, black + 3 :].astype(int) - gray(1)).max() <= 1


def test_a_list_that_goes_beyond_the_video_is_cut(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = raw / "00sequences.txt"
    path.write_text(path.read_text().replace("8-12", "8-14, 13-20"))
    assert run(raw, tmp_path / "out") == 0
    assert grays(tmp_path / "out" / "train/walking/person01_walking_d1_2") == [7, 8, 9, 10, 11]
    assert not (tmp_path / "out" / "train/walking/person01_walking_d1_3").exists()
    file = raw / "walking" / "person01_walking_d1_uncomp.avi"
    assert capsys.readouterr().err == (
        f"skipped {file} frames 13-14: the video has 12 frames\nskipped {file} frames 13-20: the video has 12 frames\n"
    )


def test_what_comes_before_a_damage_is_used(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = prepare_kth.frames_of

    def damaged(path: Path):  # type: ignore[no-untyped-def]
        for index, frame in enumerate(decode(path)):
            if index == 5:
                raise prepare_kth.Unreadable("damaged (frame 5)")
            yield frame

    monkeypatch.setattr(prepare_kth, "frames_of", damaged)
    assert run(raw, tmp_path / "out") == 0
    assert grays(tmp_path / "out" / "train/walking/person01_walking_d1_0") == [0, 1, 2]
    assert grays(tmp_path / "out" / "train/walking/person01_walking_d1_1") == [3, 4]
    file = raw / "walking" / "person01_walking_d1_uncomp.avi"
    assert f"skipped {file} frames 6-9: damaged (frame 5)\n" in capsys.readouterr().err
    assert run(raw, tmp_path / "whole", "--sequences", "off") == 2  # every video is damaged


def test_a_file_that_is_cut_off_gives_what_it_still_has(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = raw / "walking" / "person01_walking_d1_uncomp.avi"
    data = write_video(file, codec="ffv1")
    first, end = data.index(b"movi"), data.index(b"idx1")  # where the frames lie
    file.write_bytes(data[: first + (end - first) * 5 // 12])
    assert run(raw, tmp_path / "out") == 0
    assert grays(tmp_path / "out" / "train/walking/person01_walking_d1_0") == [0, 1, 2]
    assert not (tmp_path / "out" / "train/walking/person01_walking_d1_2").exists()
    assert re.search(rf"^skipped {file} frames 8-12: damaged .+\n\Z", capsys.readouterr().err, re.MULTILINE)
    assert run(raw, tmp_path / "whole", "--sequences", "off") == 0
    assert "train/walking/person01_walking_d1" not in folders(tmp_path / "whole")


def test_files_that_are_no_videos_are_skipped(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = raw / "walking" / "person01_walking_d1_uncomp.avi"
    file.write_bytes(b"")
    with zipfile.ZipFile(raw / "handclapping.zip", "r") as archive:
        member = archive.infolist()[0]
    packed = bytearray((raw / "handclapping.zip").read_bytes())
    packed[member.header_offset + 500] ^= 1
    (raw / "handclapping.zip").write_bytes(bytes(packed))
    assert run(raw, tmp_path / "out") == 0
    assert folders(tmp_path / "out") == [f"test/walking/person22_walking_d3_{number}" for number in (0, 1)]
    assert capsys.readouterr().err == (
        f"skipped {file}: the file is empty\n"
        f"skipped {raw}/handclapping.zip:{member.filename}: the archive is damaged there "
        f"(Bad CRC-32 for file '{member.filename}')\n"
    )


def test_videos_and_list_that_do_not_agree_are_named(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = raw / "00sequences.txt"
    path.write_text(path.read_text().replace("person22_walking_d3", "person22_walking_d4"))
    assert run(raw, tmp_path / "out") == 0
    assert capsys.readouterr().err == (
        f"skipped {raw}/walking/person22_walking_d3_uncomp.avi: 00sequences.txt does not list it\n"
        "skipped person22_walking_d4_uncomp.avi: 00sequences.txt lists it, but it is not there\n"
    )


def test_what_is_there_is_kept_and_the_rest_made(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(raw, out) == 0
    kept, gone = (out / f"train/walking/person01_walking_d1_{number}" for number in (0, 1))
    Image.new("RGB", (64, 64)).save(kept / "00000.png")
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()
    arguments = ["--raw", str(raw), "--out", str(out), "--actions", "walking", "handclapping"]
    report = prepare_kth.prepare(prepare_kth.build_parser().parse_args(arguments))
    assert report.made == {"train": 4, "test": 2}
    assert not frames(kept)[0].any()
    assert grays(gone) == [3, 4, 5, 6, 7, 8]


def test_two_resolutions_are_not_mixed(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raw, tmp_path / "out") == 0
    assert run(raw, tmp_path / "out", "--resolution", "128") == 2
    assert "was begun with resolution: 64" in capsys.readouterr().err


def test_raw_data_that_are_not_there_are_asked_for(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "none", tmp_path / "out") == 2
    assert run(raw, tmp_path / "out", "--actions", "boxing") == 2
    (raw / "00sequences.txt").unlink()
    assert run(raw, tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        f"prepare_kth: error: '{tmp_path}/none' does not exist; it should be the raw download. {OBTAIN}\n"
        f"prepare_kth: error: '{raw}' holds neither boxing.zip nor videos as person01_boxing_d1_uncomp.avi. {OBTAIN}, "
        "or name the actions that you have with --actions\n"
        f"prepare_kth: error: '{raw}/00sequences.txt' does not exist; it should be the list of the sub-sequences. "
        f"{OBTAIN}\n"
    )


@pytest.mark.parametrize("line", ["person01_boxing_d1 frames 1-95; 96-185", "person01_boxing_d1 frames 0-95"])
def test_a_damaged_list_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "00sequences.txt"
    path.write_text(HEAD + line)
    with pytest.raises(prepare_kth.UserError) as error:
        prepare_kth.read_sequences(path)
    assert str(error.value) == (
        f"'{path}' has the line {line!r}; frames should be given as in '1-95, 96-185'. {OBTAIN}"
    )


def test_another_file_is_not_taken_for_the_list(tmp_path: Path) -> None:
    path = tmp_path / "00sequences.txt"
    path.write_text(HEAD)
    with pytest.raises(prepare_kth.UserError) as error:
        prepare_kth.read_sequences(path)
    assert str(error.value) == f"'{path}' lists no video; it is not the original. {OBTAIN}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--resize", "none", "--resolution", "64"),
            "--resolution has no meaning with --resize none; leave one of them out",
        ),
        (("--resolution", "0"), "--resolution 0 is no size; give a number of pixels, such as 64"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert run(raw, tmp_path / "out", *options) == 2
    assert capsys.readouterr().err == f"prepare_kth: error: {message}\n"
    assert not (tmp_path / "out").exists()


def test_folders_behind_links_are_searched(raw: Path, tmp_path: Path) -> None:
    assert run(raw, tmp_path / "direct") == 0
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "00sequences.txt").symlink_to(raw / "00sequences.txt")
    (tmp_path / "links" / "videos").symlink_to(raw)
    for archive in raw.glob("*.zip"):
        (tmp_path / "links" / archive.name).symlink_to(archive)
    assert run(tmp_path / "links", tmp_path / "linked") == 0
    assert folders(tmp_path / "linked") == folders(tmp_path / "direct") != []
