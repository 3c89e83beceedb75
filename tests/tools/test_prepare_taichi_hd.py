"""Videos and metadata of TaiChi-HD, to frame folders."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import prepare_taichi_hd as tool
from preparation import main

HEADER = "video_id,start,end,bbox,fps,width,height,partition"
TRAIN, TEST = "u6rJiF-gPx8", "_XRyc2kiTlM"


def write_video(path: Path, number: int, rate: int | Fraction = 25, size: tuple[int, int] = (64, 48)) -> None:
    """Frames of brightness 4 times their number, with a white square of a quarter of the size in the centre."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv444p"
        for value in range(number):
            frame = np.full((size[1], size[0], 3), 4 * value, np.uint8)
            frame[size[1] // 4 : -size[1] // 4, size[0] // 4 : -size[0] // 4] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "youtube-taichi"
    folder.mkdir()
    write_video(folder / f"{TRAIN}.mp4", 20)
    write_video(folder / f"{TEST}.mp4", 8)
    write_table(folder, f"{TRAIN},2,6,0-0-12-12,25.0,64,48,train", f"{TEST},0,8,16-12-48-36,25.0,64,48,test")
    return folder


def write_table(folder: Path, *rows: str, header: str = HEADER) -> Path:
    table = folder / "taichi-metadata.csv"
    table.write_text("\n".join([header, *rows]) + "\n")
    return table


def run(*arguments: object) -> int:
    return main(tool.build_parser(), tool.prepare, [str(argument) for argument in arguments])


def numbers(folder: Path) -> list[int]:
    """Which frames of the video a clip consists of."""
    return [round(int(np.asarray(Image.open(path))[0, 0, 0]) / 4) for path in sorted(folder.iterdir())]


def test_clips_are_the_frames_from_start_to_before_end(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    assert numbers(out / "train" / f"{TRAIN}_000002_000006") == [2, 3, 4, 5]
    assert len(os.listdir(out / "test" / f"{TEST}_000000_000008")) == 8
    printed = capsys.readouterr()
    assert printed.out == (
        f"wrote {out}: 1 in train, 1 in test\na config reads it with\n  name: frame_folder\n  root: {out}\n"
        "  split: {by: folder, folder: train}\n"
    )
    assert printed.err == "" and not (out / "missing.txt").exists()


def test_the_box_is_cut_and_resized(raw: Path) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out) == 0
    frame = np.asarray(Image.open(out / "test" / f"{TEST}_000000_000008" / "00000.png"))
    assert frame.shape == (256, 256, 3) and frame.min() >= 250


def test_a_video_of_another_size_is_cut_at_the_scaled_box(raw: Path) -> None:
    write_video(raw / f"{TEST}.mp4", 8, size=(128, 96))
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 32) == 0
    frame = np.asarray(Image.open(out / "test" / f"{TEST}_000000_000008" / "00000.png"))
    assert frame.min() >= 250


def test_a_video_of_another_rate_is_cut_at_the_same_times(raw: Path) -> None:
    write_video(raw / f"{TRAIN}.mp4", 30, rate=50)
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    assert numbers(out / "train" / f"{TRAIN}_000002_000006") == [4, 5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(("rate", "written"), [(Fraction(30000, 1001), "29.97"), (Fraction(24000, 1001), "23.97")])
def test_ntsc_rates_are_those_of_the_metadata(raw: Path, rate: Fraction, written: str) -> None:
    write_video(raw / f"{TRAIN}.mp4", 20, rate=rate)
    write_table(raw, f"{TRAIN},2,6,0-0-12-12,{written},64,48,train")
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    assert numbers(out / "train" / f"{TRAIN}_000002_000006") == [2, 3, 4, 5]


def test_clips_that_overlap_come_out_of_one_decoding(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = f"{TRAIN},{{}},{{}},0-0-12-12,25.0,64,48,train"
    write_table(raw, row.format(4, 9), row.format(0, 6), row.format(5, 7))
    decoded = []
    original: Callable = tool.frames_of
    monkeypatch.setattr(tool, "frames_of", lambda path: decoded.append(path) or original(path))
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    assert numbers(out / "train" / f"{TRAIN}_000004_000009") == [4, 5, 6, 7, 8]
    assert numbers(out / "train" / f"{TRAIN}_000000_000006") == [0, 1, 2, 3, 4, 5]
    assert numbers(out / "train" / f"{TRAIN}_000005_000007") == [5, 6]
    assert len(decoded) == 1


def test_missing_videos_are_listed(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = raw / f"{TEST}.mp4"
    gone.rename(raw.parent / "elsewhere.mp4")
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    assert (out / "missing.txt").read_text() == f"{TEST}\n"
    assert capsys.readouterr().err == f"1 of 2 videos are missing; {out}/missing.txt lists them\n"
    (raw.parent / "elsewhere.mp4").rename(gone)
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    assert not (out / "missing.txt").exists() and (out / "test" / f"{TEST}_000000_000008").is_dir()
    assert capsys.readouterr().err == ""


def test_a_damaged_video_is_skipped_and_the_rest_goes_on(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = raw / f"{TRAIN}.mp4"
    bad.write_bytes(b"")
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    printed = capsys.readouterr()
    assert printed.err == f"skipped {bad}: the file is empty\n"
    assert printed.out.startswith(f"wrote {out}: 1 in test\nskipped 1: {bad}\n")


def test_clips_complete_before_the_damage_are_kept(
    raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    row = f"{TRAIN},{{}},{{}},0-0-12-12,25.0,64,48,train"
    write_table(raw, row.format(0, 4), row.format(2, 9))

    def breaks(path: Path):
        for number, frame in enumerate(tool_frames(path)):
            if number == 6:
                raise tool.Unreadable("damaged (frame 6)")
            yield frame

    tool_frames = tool.frames_of
    monkeypatch.setattr(tool, "frames_of", breaks)
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    assert [path.name for path in (out / "train").iterdir()] == [f"{TRAIN}_000000_000004"]
    assert capsys.readouterr().err == f"skipped {raw / TRAIN}.mp4: damaged (frame 6)\n"


def test_a_clip_goes_on_to_the_end_of_a_video_too_short_for_it(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = f"{TEST},{{}},{{}},0-0-12-12,25.0,64,48,test"
    write_table(raw, row.format(6, 10), row.format(8, 12))
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    assert numbers(out / "test" / f"{TEST}_000006_000010") == [6, 7]
    assert capsys.readouterr().err == f"skipped {raw / TEST}.mp4 from frame 8: the video ends after 8 frames\n"


def test_a_second_run_decodes_nothing_that_is_there(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = raw.parent / "out"
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0
    monkeypatch.setattr(tool, "frames_of", lambda path: pytest.fail("decoded again"))
    assert run("--raw", raw, "--out", out, "--resolution", 8) == 0


def test_metadata_elsewhere(raw: Path) -> None:
    table = (raw / "taichi-metadata.csv").rename(raw.parent / "table.csv")
    assert run("--raw", raw, "--metadata", table, "--out", raw.parent / "out", "--resolution", 8) == 0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,2,6", "it should be like u6rJiF-gPx8,80,300,118-82-508-472,29.97,640,480,train"),
        ("x,2,6,0-0-12,25,64,48,train", "it should be like u6rJiF-gPx8,80,300,118-82-508-472,29.97,640,480,train"),
        ("../x,2,6,0-0-9-9,25,64,48,train", "video_id is '../x'; it should be the id of a YouTube video"),
        ("x,2,6,0-0-9-9,25,64,48,val", "partition is 'val'; it should be train or test"),
        ("x,6,6,0-0-9-9,25,64,48,test", "frames 6 to 6 at 25 per second are no clip"),
        ("x,2,6,9-0-9-9,25,64,48,test", "bbox 9-0-9-9 is no box in 64 x 48 pixels"),
    ],
)
def test_rows_that_make_no_sense(raw: Path, row: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(raw, f"{TRAIN},2,6,0-0-12-12,25.0,64,48,train", row)
    assert run("--raw", raw, "--out", raw.parent / "out") == 2
    assert capsys.readouterr().err == f"prepare_taichi_hd: error: '{table}', line 3: {message}\n"


def test_metadata_without_partitions(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(raw, header="video_id,start,end,bbox,fps,width,height")
    assert run("--raw", raw, "--out", raw.parent / "out") == 2
    assert capsys.readouterr().err == (
        f"prepare_taichi_hd: error: '{table}' has no column partition; get the file of that name from {tool.METADATA}\n"
    )


def test_missing_raw_data(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, away = raw.parent / "out", raw.parent / "away"
    assert run("--raw", away, "--out", out) == 2
    assert capsys.readouterr().err == (
        f"prepare_taichi_hd: error: '{away}' does not exist; it should be the folder of YouTube videos. "
        f"{tool.METADATA} has a script that downloads them\n"
    )
    table = (raw / "taichi-metadata.csv").rename(raw.parent / "table.csv")
    assert run("--raw", raw, "--out", out) == 2
    assert capsys.readouterr().err == (
        f"prepare_taichi_hd: error: '{raw / 'taichi-metadata.csv'}' does not exist; it should be the table of clips. "
        f"Get it from {tool.METADATA}\n"
    )
    (raw.parent / "empty").mkdir()
    assert run("--raw", raw.parent / "empty", "--metadata", table, "--out", out) == 2
    assert capsys.readouterr().err == (
        f"2 of 2 videos are missing; {out}/missing.txt lists them\nprepare_taichi_hd: error: '{raw.parent / 'empty'}' "
        "holds no video of the metadata; it should hold <video id>.mp4 of YouTube videos\n"
    )


def test_nothing_that_can_be_used(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (TRAIN, TEST):
        (raw / f"{name}.mp4").write_bytes(b"")
    assert run("--raw", raw, "--out", raw.parent / "out") == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"prepare_taichi_hd: error: none of the videos in '{raw}' can be used; download them anew"
    )


def test_resolution_must_be_positive(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--raw", raw, "--out", raw.parent / "out", "--resolution", 0) == 2
    assert capsys.readouterr().err == "prepare_taichi_hd: error: --resolution is 0; it must be at least 1\n"
