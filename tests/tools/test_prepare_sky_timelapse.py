"""Sky Time-lapse as its archive holds it, to frame folders."""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import prepare_sky_timelapse as tool
from preparation import main

TRAIN, TEST = "rM7aPu9WV2Q", "07U1fSrk9oI"


def write_frames(folder: Path, numbers: list[int], size: tuple[int, int] = (64, 36), name: str = "{:08d}") -> None:
    """Frames whose brightness tells their number."""
    folder.mkdir(parents=True)
    for number in numbers:
        image = Image.new("RGB", size, (number % 256,) * 3)
        image.save(folder / f"{folder.parent.name}_frames_{name.format(number)}.jpg", quality=95)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "sky_timelapse"
    write_frames(root / "sky_train" / TRAIN / f"{TRAIN}_1", [46, 47, 48])
    write_frames(root / "sky_train" / TRAIN / f"{TRAIN}_2", [90, 91])
    write_frames(root / "sky_test" / TEST / "1", [5, 6])
    (root / "readme").write_text("SkyScene")
    return root


def run(*arguments: object) -> int:
    return main(tool.build_parser(), tool.prepare, [str(argument) for argument in arguments])


def values(folder: Path) -> list[int]:
    return [int(np.asarray(Image.open(path))[0, 0, 0]) for path in sorted(folder.iterdir())]


def test_each_short_video_becomes_a_video_of_its_part(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out) == 0
    assert sorted(path.name for path in (out / "train").iterdir()) == [f"{TRAIN}_1", f"{TRAIN}_2"]
    assert [path.name for path in (out / "test").iterdir()] == [f"{TEST}_1"]
    printed = capsys.readouterr()
    assert printed.out == (
        f"wrote {out}: 2 in train, 1 in test\na config reads it with\n  name: frame_folder\n  root: {out}\n"
        "  split: {by: folder, folder: train}\n"
    )
    assert printed.err == ""


def test_frames_are_the_bytes_of_the_raw_files_under_padded_numbers(raw: Path) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out) == 0
    placed = sorted((out / "train" / f"{TRAIN}_1").iterdir())
    assert [path.name for path in placed] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    original = raw / "sky_train" / TRAIN / f"{TRAIN}_1" / f"{TRAIN}_frames_00000046.jpg"
    assert placed[0].samefile(original)


@pytest.mark.parametrize("how", ["copy", "symlink"])
def test_how_frames_are_placed(raw: Path, how: str) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--how", how) == 0
    placed = out / "train" / f"{TRAIN}_2" / "00000.jpg"
    original = raw / "sky_train" / TRAIN / f"{TRAIN}_2" / f"{TRAIN}_frames_00000090.jpg"
    assert placed.is_symlink() == (how == "symlink")
    assert placed.samefile(original) == (how == "symlink")
    assert placed.read_bytes() == original.read_bytes()


def test_frames_are_in_the_order_of_their_numbers_without_padding_too(raw: Path) -> None:
    write_frames(raw / "sky_train" / "aaaaaaaaaaa" / "1", [98, 99, 100, 101], name="{}")
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out) == 0
    assert values(out / "train" / "aaaaaaaaaaa_1") == [98, 99, 100, 101]


def test_resolution_resizes_the_shorter_side_and_crops_the_centre(raw: Path) -> None:
    columns = np.repeat(np.repeat(np.arange(64, dtype=np.uint8)[None], 36, 0)[..., None] * 4, 3, 2)
    folder = raw / "sky_train" / "bbbbbbbbbbb" / "1"
    folder.mkdir(parents=True)
    Image.fromarray(columns).save(folder / "bbbbbbbbbbb_frames_00000001.jpg", quality=95)
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 18) == 0
    [frame] = (out / "train" / "bbbbbbbbbbb_1").iterdir()
    written = np.asarray(Image.open(frame))
    assert frame.name == "00000.png" and written.shape == (18, 18, 3)
    # 64 x 36 becomes 32 x 18, of which columns 7 to 24 are kept; column 7 covers the raw columns 14 and 15.
    assert abs(int(written[9, 0, 0]) - 58) <= 2 and abs(int(written[9, -1, 0]) - 4 * 48.5) <= 2


def test_the_crop_begins_where_torchvision_lets_it_begin() -> None:
    red = Image.new("RGB", (640, 360))
    red.paste((255, 0, 0), (0, 0, 640 * 100 // 455, 360))  # 100 of the 455 columns of 256 rows
    cropped = np.asarray(tool.resize_and_crop(red, 256))
    assert cropped.shape == (256, 256, 3) and cropped[:, 2:, 0].max() <= 1


def test_jpeg_quality_writes_jpeg_files_of_that_quality(raw: Path) -> None:
    sizes = []
    rng = np.random.default_rng(0)
    noise = raw / "sky_train" / TRAIN / f"{TRAIN}_1" / f"{TRAIN}_frames_00000046.jpg"
    Image.fromarray(rng.integers(0, 255, (36, 64, 3), np.uint8)).save(noise)
    for quality in (75, 95):
        out = raw.parent / f"out{quality}"
        assert run("--raw", raw, "--out", out, "--resolution", 32, "--jpeg-quality", quality) == 0
        frame = out / "train" / f"{TRAIN}_1" / "00000.jpg"
        assert Image.open(frame).format == "JPEG"
        sizes.append(frame.stat().st_size)
    assert sizes[0] < sizes[1]


def test_the_archive_is_unpacked(raw: Path) -> None:
    archive = raw.parent / "sky_timelapse.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(raw.rglob("*")):
            packed.write(path, Path("sky_timelapse") / path.relative_to(raw))
    out = raw.parent / "out"
    assert run("--raw", archive, "--out", out) == 0
    assert values(out / "train" / f"{TRAIN}_1") == [46, 47, 48]
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == ["test", "train"]


@pytest.mark.parametrize("options", [(), ("--resolution", 16)])
def test_a_video_with_a_damaged_frame_is_skipped(
    raw: Path, options: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    video = raw / "sky_train" / TRAIN / f"{TRAIN}_1"
    frame = video / f"{TRAIN}_frames_00000047.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(frame)
    os.truncate(frame, frame.stat().st_size // 2)
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, *options) == 0
    assert [path.name for path in (out / "train").iterdir()] == [f"{TRAIN}_2"]
    printed = capsys.readouterr()
    assert printed.err == f"skipped {video}: frame {frame.name} is damaged\n"
    assert f"wrote {out}: 1 in train, 1 in test\nskipped 1: {video}\n" in printed.out


def test_a_folder_without_frames_is_skipped(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = raw / "sky_train" / TRAIN / f"{TRAIN}_3"
    empty.mkdir()
    assert run("--raw", raw, "--out", raw.parent / "out") == 0
    assert capsys.readouterr().err == f"skipped {empty}: it holds no frame\n"


def test_a_second_run_keeps_what_is_there_and_adds_the_rest(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 16) == 0
    kept = out / "train" / f"{TRAIN}_1" / "00000.png"
    before = kept.stat().st_mtime_ns
    for path in (out / "test" / f"{TEST}_1").iterdir():
        path.unlink()
    (out / "test" / f"{TEST}_1").rmdir()
    capsys.readouterr()
    assert run("--raw", raw, "--out", out, "--resolution", 16) == 0
    assert kept.stat().st_mtime_ns == before
    assert (out / "test" / f"{TEST}_1" / "00001.png").exists()
    assert capsys.readouterr().out.startswith(f"wrote {out}: 2 in train, 1 in test\na config")


def test_other_options_do_not_go_on_in_the_same_folder(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 16) == 0
    capsys.readouterr()
    assert run("--raw", raw, "--out", out, "--resolution", 32) == 2
    assert capsys.readouterr().err == (
        f"prepare_sky_timelapse: error: '{out}' was begun with resolution: 16, this run has 32; "
        "use the same or another --out\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--jpeg-quality", 75),
            "--jpeg-quality has no meaning without --resolution: frames are then left as they are",
        ),
        (("--resolution", 9, "--how", "copy"), "--how has no meaning with --resolution: frames are then written anew"),
        (("--resolution", 0), "--resolution is 0; it must be at least 1"),
        (("--resolution", 9, "--jpeg-quality", 96), "--jpeg-quality is 96; it must lie between 1 and 95"),
    ],
)
def test_options_that_contradict_each_other(
    raw: Path, options: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, *options) == 2
    assert capsys.readouterr().err == f"prepare_sky_timelapse: error: {message}\n"
    assert not out.exists()


def test_missing_raw_data(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    obtain = "Get sky_timelapse.zip from https://github.com/weixiong-ur/mdgan\n"
    out, away = raw.parent / "out", raw.parent / "away"
    assert run("--raw", away, "--out", out) == 2
    assert capsys.readouterr().err == (
        f"prepare_sky_timelapse: error: '{away}' does not exist; it should be the folder or archive of Sky Time-lapse. "
        f"{obtain}"
    )
    (raw / "sky_train").rename(raw / "other")
    assert run("--raw", raw, "--out", out) == 2
    assert capsys.readouterr().err == (
        f"prepare_sky_timelapse: error: '{raw}' holds no folder sky_train; it should be the unpacked "
        f"sky_timelapse.zip. {obtain}"
    )
    assert not out.exists()


def test_nothing_that_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("sky_train", "sky_test"):
        (tmp_path / part / TRAIN).mkdir(parents=True)
    assert run("--raw", tmp_path, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        f"prepare_sky_timelapse: error: '{tmp_path}' holds no video that can be used. "
        "Get sky_timelapse.zip from https://github.com/weixiong-ur/mdgan\n"
    )
