"""What the preparation tools share."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from yaml import safe_load

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import preparation
from preparation import (
    Report,
    apart,
    files_below,
    keep_options,
    main,
    parser,
    place,
    place_video,
    progress,
    read_lines,
    require,
    unpack,
    write_frame_folder,
)

from vidgen.errors import UserError


def message(call: object, *arguments: object, **named: object) -> str:
    with pytest.raises(UserError) as raised:
        call(*arguments, **named)  # type: ignore[operator]
    return str(raised.value)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "raw" / "video.avi"
    path.parent.mkdir()
    path.write_bytes(b"bytes of a video")
    return path


# The command line


def run(prepare: object, *arguments: str) -> int:
    return main(parser("prepare_x", "Prepare X.", "--raw x --out y"), prepare, arguments)  # type: ignore[arg-type]


def test_main_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda args: Report(args.out, {"train": 2}), "--raw", "r", "--out", "o") == 0
    assert capsys.readouterr() == ("wrote o: 2 in train\n", "")


def test_main_turns_errors_of_the_user_into_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fails(args: argparse.Namespace) -> Report:
        raise UserError(f"{args.raw} is\nwrong")

    assert run(fails, "--raw", "r", "--out", "o") == 2
    assert capsys.readouterr() == ("", "prepare_x: error: r is wrong\n")


def test_main_refuses_arguments_that_are_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda args: pytest.fail("ran"), "--raw", "r") == 2
    assert "--out" in capsys.readouterr().err


def test_main_after_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(args: argparse.Namespace) -> Report:
        raise KeyboardInterrupt

    assert run(interrupted, "--raw", "r", "--out", "o") == 130
    assert capsys.readouterr().err == "prepare_x: interrupted; run it again to go on\n"


def test_main_lets_bugs_through() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda args: 1 / 0, "--raw", "r", "--out", "o")


def test_help_shows_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda args: pytest.fail("ran"), "--help") == 0
    assert capsys.readouterr().out.endswith("example:\n  python tools/prepare_x.py --raw x --out y\n")


# Reports


def test_a_report_counts_names_what_was_skipped_and_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(Path("out"), how_to_use="name: video_folder\nroot: out\n")
    report.count("train")
    report.count("train", 2)
    report.count("test")
    report.skip(Path("raw/a.avi"), "it is damaged")
    assert capsys.readouterr() == ("", "skipped raw/a.avi: it is damaged\n")
    assert str(report) == (
        "wrote out: 3 in train, 1 in test\nskipped 1: raw/a.avi\n"
        "a config reads it with\n  name: video_folder\n  root: out"
    )


def test_a_report_names_ten_of_the_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(Path("out"))
    for number in range(12):
        report.skip(f"{number}", "no")
    assert str(report) == "wrote out: nothing\nskipped 12: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9"


def test_require_names_what_is_missing_and_where_to_get_it(tmp_path: Path) -> None:
    assert require(tmp_path, "the videos", "Get them") == tmp_path
    assert message(require, tmp_path / "x", "the videos", "Get them at y") == (
        f"'{tmp_path}/x' does not exist; it should be the videos. Get them at y"
    )


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([3, 1, 2], "videos")) == [3, 1, 2]
    assert capsys.readouterr() == ("", "")


# Files put in place


def test_a_link_shares_the_bytes(source: Path, tmp_path: Path) -> None:
    place(source, tmp_path / "out" / "train" / "video.avi", "link")
    target = tmp_path / "out" / "train" / "video.avi"
    assert target.samefile(source) and not target.is_symlink()


def test_a_link_of_a_symbolic_link_is_one_of_the_file(source: Path, tmp_path: Path) -> None:
    alias = tmp_path / "alias.avi"
    alias.symlink_to(source)
    place(alias, tmp_path / "out.avi", "link")
    assert (tmp_path / "out.avi").samefile(source) and not (tmp_path / "out.avi").is_symlink()


def test_a_link_becomes_a_copy_where_the_file_system_has_none(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    place(source, tmp_path / "out" / "video.avi", "link")
    assert (tmp_path / "out" / "video.avi").read_bytes() == b"bytes of a video"
    assert not (tmp_path / "out" / "video.avi").samefile(source)


def test_a_copy_is_a_file_of_its_own(source: Path, tmp_path: Path) -> None:
    place(source, tmp_path / "out" / "video.avi", "copy")
    source.write_bytes(b"other")
    assert (tmp_path / "out" / "video.avi").read_bytes() == b"bytes of a video"
    assert os.listdir(tmp_path / "out") == ["video.avi"]


def test_a_symbolic_link_is_absolute(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place(Path("raw/video.avi"), Path("out/video.avi"), "symlink")
    assert os.readlink("out/video.avi") == str(source.resolve())


def test_a_symbolic_link_that_leads_nowhere_is_replaced(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.avi"
    target.symlink_to(tmp_path / "gone")
    place(source, target, "symlink")
    assert target.samefile(source)


@pytest.mark.parametrize("how", ["link", "copy", "symlink"])
def test_what_is_in_place_is_kept(source: Path, tmp_path: Path, how: preparation.How) -> None:
    target = tmp_path / "out.avi"
    target.write_bytes(b"from an earlier run")
    place(source, target, how)
    assert target.read_bytes() == b"from an earlier run" and not target.is_symlink()


@pytest.mark.parametrize("how", ["copy", "symlink"])
def test_a_place_that_cannot_be_written(source: Path, tmp_path: Path, how: preparation.How) -> None:
    (tmp_path / "file").write_bytes(b"")
    target = tmp_path / "file" / "video.avi"
    assert message(place, source, target, how) == f"{target}: cannot be written (File exists); choose another place"


def test_a_full_disk(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(preparation.shutil, "copyfileobj", full)
    target = tmp_path / "out" / "video.avi"
    assert message(place, source, target, "copy") == (
        f"{target}: no space left on the disk; free some, what was written before is intact"
    )
    assert os.listdir(tmp_path / "out") == []


def test_a_video_is_put_in_place_and_a_damaged_one_skipped(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "raw" / "good.avi"
    with av.open(str(good), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), format="rgb24")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    report = Report(tmp_path / "out")
    assert place_video(good, tmp_path / "out" / "good.avi", "link", report)
    assert (tmp_path / "out" / "good.avi").samefile(good) and not report.skipped
    source.write_bytes(b"")
    assert not place_video(source, tmp_path / "out" / "bad.avi", "link", report)
    assert not (tmp_path / "out" / "bad.avi").exists()
    assert capsys.readouterr().err == f"skipped {source}: the file is empty\n"


# Frame folders


def frames(number: int, fail: BaseException | None = None) -> Iterator[NDArray[np.uint8]]:
    for value in range(number):
        yield np.full((4, 6, 3), value, np.uint8)
    if fail is not None:
        raise fail


def test_frames_are_lossless_images_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "video"
    rng = np.random.default_rng(0)
    video = [rng.integers(0, 256, (5, 7, 3), np.uint8), rng.integers(0, 256, (5, 7), np.uint8)]
    assert write_frame_folder(folder, video) == 2
    assert sorted(os.listdir(folder)) == ["00000.png", "00001.png"]
    for number, frame in enumerate(video):
        np.testing.assert_array_equal(np.asarray(Image.open(folder / f"{number:05d}.png")), frame)


def test_frames_that_are_no_contiguous_arrays(tmp_path: Path) -> None:
    frame = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)[:, ::-1]
    write_frame_folder(tmp_path / "video", [frame])
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "video" / "00000.png")), frame)


def test_frames_as_jpeg_files(tmp_path: Path) -> None:
    write_frame_folder(tmp_path / "video", frames(2), quality=90)
    assert sorted(os.listdir(tmp_path / "video")) == ["00000.jpg", "00001.jpg"]
    assert Image.open(tmp_path / "video" / "00000.jpg").format == "JPEG"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("damaged")])
def test_a_video_that_was_interrupted_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_frame_folder(tmp_path / "train" / "video", frames(2, error))
    assert os.listdir(tmp_path / "train") == []


def test_a_frame_folder_that_is_there_is_not_read_again(tmp_path: Path) -> None:
    write_frame_folder(tmp_path / "video", frames(3))
    assert write_frame_folder(tmp_path / "video", frames(0, RuntimeError("read"))) == 3


# Options


def test_the_same_options_go_on(tmp_path: Path) -> None:
    keep_options(tmp_path / "out", resolution=64, crop=None)
    keep_options(tmp_path / "out", resolution=64, crop=None)
    assert (tmp_path / "out" / ".options").read_text() == "resolution: 64\ncrop: None\n"


def test_other_options_are_refused(tmp_path: Path) -> None:
    keep_options(tmp_path / "out", resolution=64, crop="stable")
    assert message(keep_options, tmp_path / "out", resolution=64, crop="none") == (
        f"'{tmp_path}/out' was begun with crop: stable, this run has none; use the same or another --out"
    )


# Archives


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


MAKE = {"a.zip": make_zip, "a.tar": make_tar, "a.tar.gz": make_tar, "a.tgz": make_tar}


@pytest.mark.parametrize("name", MAKE)
def test_archives_are_unpacked(tmp_path: Path, name: str) -> None:
    archive = MAKE[name](tmp_path / name, {"train/a.avi": b"one", "b.txt": b"two"})
    folder = tmp_path / "out" / ".raw"
    assert unpack(archive, folder) == folder
    assert (folder / "train" / "a.avi").read_bytes() == b"one" and (folder / "b.txt").read_bytes() == b"two"
    assert os.listdir(tmp_path / "out") == [".raw"]


def test_an_archive_unpacked_already_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert unpack(tmp_path / "gone.zip", tmp_path / "folder") == tmp_path / "folder"
    assert os.listdir(tmp_path / "folder") == []


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize("member", ["../evil", "a/../../evil", "/evil", "..\\evil"])
def test_members_that_lead_outside_are_refused(tmp_path: Path, name: str, member: str) -> None:
    archive = MAKE[name](tmp_path / name, {"good": b"", member: b"evil"})
    assert message(unpack, archive, tmp_path / "in" / "folder") == (
        f"'{archive}' holds the path {member!r}, which leads outside; it is not the original"
    )
    assert os.listdir(tmp_path / "in") == []


NOISE = {"a.avi": np.random.default_rng(0).bytes(4000), "b.avi": np.random.default_rng(1).bytes(4000)}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.zip", "its end is missing"),
        ("a.tar", "unexpected end of data"),
        ("a.tar.gz", "Compressed file ended before the end-of-stream marker was reached"),
    ],
)
def test_archives_that_were_cut_off(tmp_path: Path, name: str, reason: str) -> None:
    archive = MAKE[name](tmp_path / name, NOISE)
    os.truncate(archive, 6000)
    folder = tmp_path / "out" / "folder"
    assert message(unpack, archive, folder) == f"'{archive}' is damaged ({reason}); get it anew"
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_archives_with_wrong_bytes(tmp_path: Path, name: str) -> None:
    archive = MAKE[name](tmp_path / name, NOISE)
    content = bytearray(archive.read_bytes())
    content[2000:2100] = bytes(100)
    archive.write_bytes(content)
    told = message(unpack, archive, tmp_path / "out" / "folder")
    assert told.startswith(f"'{archive}' is damaged (") and told.endswith("); get it anew")
    assert os.listdir(tmp_path / "out") == []


def test_files_that_are_no_archive(source: Path, tmp_path: Path) -> None:
    assert message(unpack, source, tmp_path / "folder") == (
        f"'{source}' is no zip or tar archive; unpack it yourself and give the folder"
    )
    assert not (tmp_path / "folder").exists()


# Lists


def test_lines_without_ends_and_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_bytes("\ufeffa 1\r\n\r\n  b 2 \nc".encode())
    assert read_lines(path) == ["a 1", "b 2", "c"]


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    assert message(read_lines, path) == f"'{path}' cannot be read: No such file or directory"
    path.write_bytes(b"\xff\xfe\x00\xd8")
    assert message(read_lines, path) == f"'{path}' cannot be read: it is not a text file"


# Interrupts of the process


def test_sigterm_ends_like_an_interrupt_after_cleaning_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def terminated(args: argparse.Namespace) -> Report:
        def endless() -> Iterator[NDArray[np.uint8]]:
            yield from frames(1)
            signal.raise_signal(signal.SIGTERM)

        write_frame_folder(tmp_path / "out" / "video", endless())
        return Report(args.out)

    before = signal.getsignal(signal.SIGTERM)
    assert run(terminated, "--raw", "r", "--out", "o") == 143
    assert capsys.readouterr() == ("", "prepare_x: interrupted; run it again to go on\n")
    assert os.listdir(tmp_path / "out") == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_output_that_nobody_reads_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from preparation import *; "
        "sys.exit(main(parser('p', 'P.', ''), lambda args: Report(args.out), ['--raw', 'r', '--out', 'o']))"
    )
    command = [sys.executable, "-c", code, str(Path(preparation.__file__).parent)]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=buffered)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


# The download and the output


@pytest.mark.parametrize("spelt", ["raw", "raw/../raw", "alias"])
def test_the_download_itself_is_no_output(tmp_path: Path, spelt: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "alias").symlink_to("raw")
    out = Path(f"{tmp_path}/{spelt}")
    assert message(apart, tmp_path / "raw", out) == (f"--out '{out}' is the raw download itself; choose another folder")


def test_an_output_within_the_download_is_apart(tmp_path: Path) -> None:
    apart(tmp_path, tmp_path / "out")
    apart(tmp_path / "raw", tmp_path / "out")


def test_files_behind_links_are_found_and_circles_end(tmp_path: Path) -> None:
    for name in ("raw/b/one.txt", "elsewhere/in/two.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "raw" / "a").symlink_to("b")  # the folder itself stands before the link
    (tmp_path / "raw" / "b" / "up").symlink_to("..")
    (tmp_path / "raw" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "raw")
    (tmp_path / "raw" / "three.txt").symlink_to(tmp_path / "elsewhere" / "in" / "two.txt")
    raw = tmp_path / "raw"
    assert list(files_below(raw)) == [raw / "three.txt", raw / "b" / "one.txt", raw / "link" / "in" / "two.txt"]


# Options and configs


def test_an_option_less_or_more_is_refused(tmp_path: Path) -> None:
    keep_options(tmp_path / "out", seed=1, font="a")
    assert message(keep_options, tmp_path / "out", seed=1) == (
        f"'{tmp_path}/out' was begun with font: a, this run without it; use the same or another --out"
    )
    assert message(keep_options, tmp_path / "out", seed=1, font="a", size=3) == (
        f"'{tmp_path}/out' was begun without size, this run has 3; use the same or another --out"
    )


def test_files_of_unknown_origin_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").touch()
    keep_options(tmp_path / "new", "images", seed=1)
    assert message(keep_options, tmp_path, "labels", "images", seed=1) == (
        f"'{tmp_path}' holds images of unknown origin; choose another --out"
    )
    assert not (tmp_path / ".options").exists()


@pytest.mark.parametrize("out", ["data/a b", "2024", "C: #1", 'it\'s "{x}"', "Größe", "true", "[a], 🎬"])
def test_any_folder_survives_the_config(out: str) -> None:
    report = Report(Path(out), {"val": 2})
    report.tell_config("video_folder", "fps: 25", parts=("train", "val", "test"))
    split = {"by": "folder", "folder": "val"}
    assert safe_load(report.how_to_use) == {"name": "video_folder", "root": out, "split": split, "fps": 25}


def test_a_plain_folder_is_not_quoted() -> None:
    report = Report(Path("/data/ucf101-split1_x.y"))
    report.tell_config("video_folder")
    assert report.how_to_use == "name: video_folder\nroot: /data/ucf101-split1_x.y"
