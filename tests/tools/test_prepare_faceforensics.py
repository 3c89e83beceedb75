"""FaceForensics with its masks to crops of faces, and FaceForensics++ to whole videos."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import prepare_faceforensics as tool
from preparation import main

ASK = "Ask for access at https://github.com/ondyari/FaceForensics"
NAMES = {
    "train": "aaaaaaaaaaa_1_aaaaaaaaaaa_1.avi",
    "val": "b-bbbbbbbbb_0_b-bbbbbbbbb_0.avi",
    "test": "cccc_cccccc_2_cccc_cccccc_2.avi",
}
SIZE = 64, 48
BOXES = [(20, 10, 31, 29), (24, 12, 35, 31), (28, 14, 39, 33)]
"""First and last column and row of the face in each frame, as left, top, right, bottom."""


def write_video(path: Path, frames: list[NDArray[np.uint8]]) -> None:
    """Losslessly, as the raw videos are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=30, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def masks(boxes: list[tuple[int, int, int, int]], size: tuple[int, int] = SIZE) -> list[NDArray[np.uint8]]:
    """White, and green in the boxes, whose last columns and rows are inside."""
    made = []
    for left, top, right, bottom in boxes:
        mask = np.full((size[1], size[0], 3), 255, np.uint8)
        mask[top : bottom + 1, left : right + 1] = (0, 200, 0)
        made.append(mask)
    return made


def ramps(number: int) -> list[NDArray[np.uint8]]:
    """Frames whose red tells the column, green the row and blue the frame."""
    frame = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    frame[..., 0], frame[..., 1] = 3 * np.arange(SIZE[0])[None], 4 * np.arange(SIZE[1])[:, None]
    return [frame + np.array([0, 0, 50 * n], np.uint8) for n in range(number)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    root = tmp_path / "FaceForensics_compressed"
    for part, name in NAMES.items():
        write_video(root / part / "original" / name, ramps(3))
        write_video(root / part / "mask" / name, masks(BOXES))
        write_video(root / part / "altered" / name, ramps(1))
    return root


def run(*arguments: object) -> int:
    return main(tool.build_parser(), tool.prepare, [str(argument) for argument in arguments])


def error(capsys: pytest.CaptureFixture[str]) -> str:
    [line] = capsys.readouterr().err.splitlines()
    return line.removeprefix("prepare_faceforensics: error: ")


def read(folder: Path) -> list[NDArray[np.uint8]]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def test_each_frame_is_cropped_around_its_own_mask(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 19) == 0
    frames = read(out / "train" / "aaaaaaaaaaa_1_aaaaaaaaaaa_1")
    # Columns 20 to 30 and rows 10 to 28 of the first frame; 8 more columns make the square, 4 on each side.
    for number, (left, top) in enumerate([(16, 10), (20, 12), (24, 14)]):
        np.testing.assert_array_equal(frames[number], ramps(3)[number][top : top + 19, left : left + 19])
    printed = capsys.readouterr()
    assert printed.out == (
        f"wrote {out}: 1 in train, 1 in val, 1 in test\na config reads it with\n  name: frame_folder\n  root: {out}\n"
        "  split: {by: folder, folder: train}\n"
    )
    assert printed.err == ""


def test_stable_crops_have_the_box_of_all_masks(raw: Path) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--crop", "stable", "--resolution", 23) == 0
    frames = read(out / "train" / "aaaaaaaaaaa_1_aaaaaaaaaaa_1")
    # Columns 20 to 38, rows 10 to 32.
    for frame, original in zip(frames, ramps(3), strict=True):
        np.testing.assert_array_equal(frame, original[10:33, 18:41])


def test_crops_are_256_pixels_wide_and_lossless_by_default(raw: Path) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--parts", "train") == 0
    files = sorted((out / "train" / "aaaaaaaaaaa_1_aaaaaaaaaaa_1").iterdir())
    assert [file.name for file in files] == ["00000.png", "00001.png", "00002.png"]
    assert Image.open(files[0]).size == (256, 256)
    assert not (out / "val").exists()


def test_jpeg_quality_writes_jpeg_files(raw: Path) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 16, "--jpeg-quality", 75) == 0
    image = Image.open(out / "test" / "cccc_cccccc_2_cccc_cccccc_2" / "00000.jpg")
    assert image.format == "JPEG"
    reference = raw.parent / "reference.jpg"
    Image.new("RGB", (16, 16)).save(reference, quality=75)
    assert image.quantization == Image.open(reference).quantization


def test_whole_frames_are_the_video_files(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in NAMES:
        (raw / part / "mask").rename(raw / part / "other")
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--crop", "none") == 0
    for part, name in NAMES.items():
        assert (out / part / name).samefile(raw / part / "original" / name)
    assert "  name: video_folder\n" in capsys.readouterr().out


def test_only_rows_and_columns_with_a_mean_above_five_are_face() -> None:
    mask = np.full((48, 64, 3), 255, np.uint8)
    mask[10:20, 30:40] = 0
    mask[10:20, 5:8, 0] = 255 - 24  # 24 x 10 / 48 = 5
    assert tool.face_box(mask) == (30, 10, 39, 19)
    mask[10:20, 5:8, 0] -= 1
    assert tool.face_box(mask) == (5, 10, 39, 19)
    assert tool.face_box(np.full((48, 64, 3), 255, np.uint8)) is None


@pytest.mark.parametrize(
    ("box", "squared"),
    [
        ((20, 10, 30, 29), (16, 10, 35, 29)),  # the odd pixel to the right
        ((10, 20, 29, 30), (10, 16, 29, 35)),  # the odd pixel below
        ((0, 10, 4, 20), (0, 10, 10, 20)),
        ((60, 10, 64, 20), (54, 10, 64, 20)),
        ((10, 0, 20, 4), (10, 0, 20, 10)),
        ((10, 44, 20, 48), (10, 38, 20, 48)),
        ((2, 10, 62, 30), (2, 0, 62, 48)),
    ],
)
def test_squares_stay_inside_the_frame(box: tool.Box, squared: tool.Box) -> None:
    assert tool.square(box, height=48, width=64) == squared


def test_a_mask_of_another_name_is_found_by_its_target(raw: Path) -> None:
    mask = raw / "train" / "mask" / NAMES["train"]
    mask.rename(mask.with_name("aaaaaaaaaaa_1_zzzzzzzzzzz_4.avi"))
    write_video(mask.with_name("aaaaaaaaaaa_11_zzzzzzzzzzz_4.avi"), masks(BOXES[:1]))
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    assert len(read(out / "train" / "aaaaaaaaaaa_1_aaaaaaaaaaa_1")) == 3


def break_mask(raw: Path) -> None:
    (raw / "train" / "mask" / NAMES["train"]).write_bytes(b"")


def break_video(raw: Path) -> None:
    (raw / "train" / "original" / NAMES["train"]).write_bytes(b"")


def remove_mask(raw: Path) -> None:
    (raw / "train" / "mask" / NAMES["train"]).unlink()


def resize_mask(raw: Path) -> None:
    write_video(raw / "train" / "mask" / NAMES["train"], masks(BOXES, (80, 48)))


def hide_face(raw: Path) -> None:
    write_video(raw / "train" / "mask" / NAMES["train"], [*masks(BOXES[:1]), np.full((48, 64, 3), 255, np.uint8)])


@pytest.mark.parametrize(
    ("damage", "crop", "reason"),
    [
        (break_video, "per-frame", "the file is empty"),
        (break_video, "none", "the file is empty"),
        (break_mask, "per-frame", "its mask: the file is empty"),
        (break_mask, "stable", "its mask: the file is empty"),
        (remove_mask, "per-frame", "it has no mask in {masks}"),
        (resize_mask, "per-frame", "its mask has 80 x 48 pixels, it has 64 x 48"),
        (hide_face, "per-frame", "there is no face in frame 1 of its mask"),
        (hide_face, "stable", "there is no face in frame 1 of its mask"),
    ],
)
def test_what_cannot_be_used_is_skipped(
    raw: Path, damage: object, crop: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(raw)  # type: ignore[operator]
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--crop", crop) == 0
    bad = raw / "train" / "original" / NAMES["train"]
    printed = capsys.readouterr()
    assert printed.err == f"skipped {bad}: {reason.format(masks=raw / 'train' / 'mask')}\n"
    assert printed.out.startswith(f"wrote {out}: 1 in val, 1 in test\nskipped 1: {bad}\n")
    assert not (out / "train").exists() or not os.listdir(out / "train")


def test_the_shorter_of_video_and_mask_counts(raw: Path) -> None:
    write_video(raw / "train" / "mask" / NAMES["train"], masks(BOXES[:2]))
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    assert len(read(out / "train" / "aaaaaaaaaaa_1_aaaaaaaaaaa_1")) == 2


def test_a_second_run_decodes_nothing_that_is_there(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    monkeypatch.setattr(tool, "frames_of", lambda path: pytest.fail("decoded again"))
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0


def test_another_crop_does_not_go_on_in_the_same_folder(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    assert run("--raw", raw, "--out", out, "--resolution", 8, "--crop", "stable") == 2
    assert error(capsys) == (
        f"'{out}' was begun with crop: per-frame, this run has stable; use the same or another --out"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--crop", "none", "--resolution", 8), "--resolution has no meaning with whole frames; leave it out"),
        (("--crop", "none", "--jpeg-quality", 8), "--jpeg-quality has no meaning with whole frames; leave it out"),
        (("--how", "copy"), "--how has no meaning with crops; leave it out"),
        (("--splits", "."), "--splits has no meaning with --edition 2018; leave it out"),
        (("--compression", "c23"), "--compression has no meaning with --edition 2018; leave it out"),
        (("--resolution", 0), "--resolution is 0; it must be at least 1"),
        (("--jpeg-quality", 0), "--jpeg-quality is 0; it must lie between 1 and 95"),
        (
            ("--edition", "plusplus", "--crop", "stable"),
            "--crop needs the masks of --edition 2018; FaceForensics++ has none for its original videos",
        ),
    ],
)
def test_options_that_contradict_each_other(
    raw: Path, options: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, *options) == 2
    assert error(capsys) == message
    assert not out.exists()


def test_missing_raw_data(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, away = raw.parent / "out", raw.parent / "away"
    assert run("--raw", away, "--out", out) == 2
    assert error(capsys) == f"'{away}' does not exist; it should be the download of FaceForensics. {ASK}"
    (raw / "val" / "mask").rename(raw / "val" / "other")
    assert run("--raw", raw, "--out", out) == 2
    assert error(capsys) == f"'{raw}/val/mask' does not exist; it should be the mask videos of part val. {ASK}"
    (raw / "train" / "original").rename(raw / "train" / "other")
    assert run("--raw", raw, "--out", out, "--crop", "none") == 2
    assert error(capsys) == (
        f"'{raw}/train/original' does not exist; it should be the original videos of part train. {ASK}"
    )


def test_nothing_that_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in NAMES:
        (tmp_path / part / "original").mkdir(parents=True)
    assert run("--raw", tmp_path, "--out", tmp_path / "out", "--crop", "none") == 2
    assert error(capsys) == f"'{tmp_path}' holds no video that can be used. {ASK}"


@pytest.fixture
def plusplus(tmp_path: Path) -> Path:
    root = tmp_path / "FaceForensics++"
    videos = root / "original_sequences" / "youtube" / "c23" / "videos"
    for name in ("000", "001", "002", "003", "004", "005"):
        write_video(videos / f"{name}.mp4", ramps(1))
    (root / "splits").mkdir()
    for part, pair in {"train": ("003", "000"), "val": ("001", "002"), "test": ("005", "004")}.items():
        (root / "splits" / f"{part}.json").write_text(json.dumps([pair]))
    return root


def test_the_official_split_of_plusplus(plusplus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = plusplus.parent / "out"
    assert run("--edition", "plusplus", "--raw", plusplus, "--out", out) == 0
    placed = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.mp4"))
    assert placed == ["test/004.mp4", "test/005.mp4", "train/000.mp4", "train/003.mp4", "val/001.mp4", "val/002.mp4"]
    printed = capsys.readouterr()
    assert printed.out == (
        f"wrote {out}: 2 in train, 2 in val, 2 in test\na config reads it with\n  name: video_folder\n  root: {out}\n"
        "  split: {by: folder, folder: train}\n"
    )
    assert printed.err == ""


def test_another_compression_and_splits_elsewhere(plusplus: Path) -> None:
    youtube = plusplus / "original_sequences" / "youtube"
    (youtube / "c23").rename(youtube / "c40")
    splits = (plusplus / "splits").rename(plusplus.parent / "splits")
    out = plusplus.parent / "out"
    options = ("--compression", "c40", "--splits", splits, "--how", "copy")
    assert run("--edition", "plusplus", "--raw", plusplus, "--out", out, *options) == 0
    assert not (out / "val" / "001.mp4").samefile(youtube / "c40" / "videos" / "001.mp4")


def test_videos_of_the_split_that_are_not_there_are_skipped(plusplus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = plusplus / "original_sequences" / "youtube" / "c23" / "videos" / "003.mp4"
    gone.unlink()
    assert run("--edition", "plusplus", "--raw", plusplus, "--out", plusplus.parent / "out") == 0
    assert capsys.readouterr().err == f"skipped {gone}: it is not there\n"


@pytest.mark.parametrize("text", ["[[720, 672]]", '["720"]x', "[720]", '[["720", "67"]]'])
def test_a_split_that_is_none(plusplus: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = plusplus / "splits" / "train.json"
    path.write_text(text)
    assert run("--edition", "plusplus", "--raw", plusplus, "--out", plusplus.parent / "out") == 2
    assert error(capsys) == (
        f"""'{path}' is no list of pairs of videos like [["720", "672"]]. """
        "Get it from https://github.com/ondyari/FaceForensics/tree/master/dataset/splits"
    )


def test_missing_parts_of_plusplus(plusplus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = plusplus.parent / "out"
    (plusplus / "splits" / "val.json").unlink()
    assert run("--edition", "plusplus", "--raw", plusplus, "--out", out) == 2
    assert error(capsys) == (
        f"'{plusplus}/splits/val.json' does not exist; it should be the list of part val. "
        "Get it from https://github.com/ondyari/FaceForensics/tree/master/dataset/splits"
    )
    assert run("--edition", "plusplus", "--raw", plusplus, "--out", out, "--compression", "c40") == 2
    assert error(capsys) == (
        f"'{plusplus}/original_sequences/youtube/c40/videos' does not exist; it should be the original videos. {ASK}"
    )
