"""tools/prepare_weizmann.py crops and divides the videos of the Weizmann data set."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import prepare_weizmann
from preparation import main

OBTAIN = "Get it from https://www.wisdom.weizmann.ac.il/~vision/SpaceTimeActions.html"
BACKGROUND = (0, 60, 120)
NAMES = ("daria_run", "lena_run1", "lena_run2", "lena_wave1", "lena_wave2", "moshe_run")
Pixels = NDArray[np.uint8]


def box(index: int) -> tuple[slice, slice]:
    """Where the person is in a frame: 40 high, 20 wide, and on the move."""
    return slice(50, 90), slice(10 + 8 * index, 30 + 8 * index)


def colour(index: int) -> tuple[int, int, int]:
    """The colour of the person; each frame has its own."""
    return 250, 10 * index, 5


def write_video(path: Path, length: int = 10) -> Path:
    """A lossless AVI file of 180×144."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w", format="avi") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 180, 144, "bgr0"
        for index in range(length):
            pixels = np.full((144, 180, 3), BACKGROUND, np.uint8)
            pixels[box(index)] = colour(index)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path


def mask(length: int = 10) -> Pixels:
    made = np.zeros((144, 180, length), np.uint8)
    for index in range(length):
        made[(*box(index), index)] = 1
    return made


def write_masks(folder: Path, masks: dict[str, Pixels]) -> None:
    aligned = {name: values[40:100, 20:80] for name, values in masks.items()}
    savemat(
        folder / "classification_masks.mat", {"aligned_masks": aligned, "original_masks": masks}, do_compression=True
    )


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_video(tmp_path_factory.mktemp("video") / "a.avi").read_bytes()


@pytest.fixture
def raw(tmp_path: Path, video: bytes) -> Path:
    """run.zip as the site delivers it, the waves unpacked, masks of all."""
    folder = tmp_path / "raw"
    folder.mkdir()
    with zipfile.ZipFile(folder / "run.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in NAMES:
            if "run" in name:
                archive.writestr(f"{name}.avi", video)
    for name in ("lena_wave1", "lena_wave2"):
        (folder / name[5:]).mkdir()
        (folder / name[5:] / f"{name}.avi").write_bytes(video)
    write_masks(folder, {name: mask() for name in NAMES})
    return folder


def run(raw: Path, out: Path, *options: str) -> int:
    arguments = ["--raw", str(raw), "--out", str(out), *options]
    if "--actions" not in options:
        arguments += ["--actions", "run", "wave1", "wave2"]
    return main(prepare_weizmann.build_parser(), prepare_weizmann.prepare, arguments)


def frames(folder: Path) -> Pixels:
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"{i:05d}.png" for i in range(len(files))]
    return np.stack([np.asarray(Image.open(file)) for file in files])


def folders(out: Path) -> list[str]:
    return sorted({path.parent.relative_to(out).as_posix() for path in out.rglob("*.png")})


ALL = ["run/daria_run", "run/lena_run1", "run/lena_run2", "run/moshe_run", "wave1/lena_wave1", "wave2/lena_wave2"]


def test_frames_are_kept_as_they_were_filmed(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    (raw / "classification_masks.mat").unlink()
    assert run(raw, out) == 0
    assert folders(out) == ALL
    for name in ("run/lena_run2", "wave2/lena_wave2"):
        found = frames(out / name)
        assert found.shape == (10, 144, 180, 3)
        assert (found[3][box(3)] == colour(3)).all()
        assert (found[3, :40] == BACKGROUND).all()
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out == (
        f"wrote {out}: 6 in all\n"
        "a config reads it with\n"
        "  name: frame_folder\n"
        f"  root: {out}\n"
        "  attributes: {pattern: '(?P<action>[a-z]+[12]?)/(?P<identity>[a-z]+)_'}\n"
    )


def test_the_pattern_finds_action_and_identity() -> None:
    pattern = re.search(r"'(.*)'", prepare_weizmann.ATTRIBUTES)
    assert pattern is not None
    found = [re.search(pattern[1], name) for name in ALL]
    assert [(fits["identity"], fits["action"]) for fits in found if fits] == [
        ("daria", "run"),
        ("lena", "run"),
        ("lena", "run"),
        ("moshe", "run"),
        ("lena", "wave1"),
        ("lena", "wave2"),
    ]


def test_the_number_is_dropped_only_where_an_action_was_done_twice() -> None:
    names = ("lena_skip2.avi", "lena_walk1.avi", "ido_walk.avi", "eli_wave1.avi", "eli_wave2.avi", "eli_pjump.avi")
    assert [prepare_weizmann.action_of(name) for name in names] == ["skip", "walk", "walk", "wave1", "wave2", "pjump"]
    assert prepare_weizmann.action_of("lena_bend1.avi") == ""


def test_the_person_is_cropped_from_every_frame(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raw, tmp_path / "out", "--crop", "person", "--resolution", "40") == 0
    assert folders(tmp_path / "out") == ALL
    assert capsys.readouterr().err == ""
    for name in ("run/lena_run1", "wave1/lena_wave1"):
        found = frames(tmp_path / "out" / name)
        assert found.shape == (10, 40, 40, 3)
        for index in range(10):  # 40 high and 20 wide: the middle of a square of 40
            assert (found[index, :, 10:30] == colour(index)).all()
            share = 40 * 20 / (144 * 180)
            mean = np.rint(np.array(colour(index)) * share + np.array(BACKGROUND) * (1 - share))
            assert (found[index, :, :10] == mean).all() and (found[index, :, 30:] == mean).all()


def test_the_crop_is_64_pixels_unless_told_otherwise(raw: Path, tmp_path: Path) -> None:
    assert run(raw, tmp_path / "out", "--crop", "person") == 0
    assert frames(tmp_path / "out" / ALL[0]).shape == (10, 64, 64, 3)


def test_resizing_is_antialiased() -> None:
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[::2] = 200
    small = prepare_weizmann.padded_crop(frame, np.ones((64, 64), np.bool_), 8)
    assert np.abs(small[1:-1].astype(int) - 100).max() <= 2


def test_a_frame_without_mask_takes_the_nearest_box(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holes = mask()
    holes[:, :, 4] = 0
    holes[:, :, 5] = 0
    write_masks(raw, {**{name: mask() for name in NAMES}, "daria_run": holes, "moshe_run": mask(9)})
    assert run(raw, tmp_path / "out", "--crop", "person", "--resolution", "40") == 0
    found = frames(tmp_path / "out" / "run/daria_run")
    assert (found[4, :, 18:30] == colour(4)).all()  # in the box of frame 3, which lies 8 pixels to the left
    assert not (found[4, :, 10:18] == colour(4)).any()
    assert (found[5, :, 10:22] == colour(5)).all()  # in the box of frame 6
    assert len(frames(tmp_path / "out" / "run/moshe_run")) == 10
    assert capsys.readouterr().err == "moshe_run has 10 frames and 9 masks\n"


def test_time_gives_two_thirds_of_each_video_to_training(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(raw, out, "--crop", "person", "--split", "time", "--resolution", "40") == 0
    assert folders(out) == [f"test/{name}" for name in ALL] + [f"train/{name}" for name in ALL]
    greens = {part: frames(out / part / ALL[2])[:, 20, 20, 1].tolist() for part in ("train", "test")}
    assert greens == {"train": [0, 10, 20, 30, 40, 50], "test": [60, 70, 80, 90]}


def test_persons_are_left_out_for_testing(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(raw, out, "--split", "person", "--test-persons", "moshe", "daria") == 0
    assert folders(out) == ["test/run/daria_run", "test/run/moshe_run"] + [
        f"train/{name}" for name in ALL if "lena" in name
    ]
    assert "  split: {by: folder, folder: train}\n" in capsys.readouterr().out


def test_actions_can_be_chosen(raw: Path, tmp_path: Path) -> None:
    assert run(raw, tmp_path / "out", "--actions", "wave2") == 0
    assert folders(tmp_path / "out") == ["wave2/lena_wave2"]


def test_what_cannot_be_used_is_skipped_and_named(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (raw / "wave1" / "lena_wave1.avi").write_bytes(b"")
    masks = {name: mask() for name in NAMES} | {"lena_run1": mask()[:100], "lena_run2": mask() * 0}
    del masks["daria_run"]
    write_masks(raw, masks)
    assert run(raw, tmp_path / "out", "--crop", "person") == 0
    assert folders(tmp_path / "out") == ["run/moshe_run", "wave2/lena_wave2"]
    assert capsys.readouterr().err == (
        f"skipped {raw}/run.zip:daria_run.avi: classification_masks.mat has no masks for it\n"
        f"skipped {raw}/run.zip:lena_run1.avi: its masks are 180×100, its frames 180×144\n"
        f"skipped {raw}/run.zip:lena_run2.avi: its masks are empty\n"
        f"skipped {raw}/wave1/lena_wave1.avi: the file is empty\n"
    )


def test_a_damaged_archive_is_skipped(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "wave1.zip").write_bytes(b"PK no archive")
    assert run(raw, tmp_path / "out") == 0
    assert folders(tmp_path / "out") == ALL
    assert capsys.readouterr().err == (
        f"skipped {raw}/wave1.zip: it is a damaged zip archive (File is not a zip file); get it anew\n"
    )


def test_a_video_too_short_to_divide_is_skipped(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_video(raw / "wave1" / "lena_wave1.avi", 1)
    assert run(raw, tmp_path / "out", "--split", "time") == 0
    assert capsys.readouterr().err == f"skipped {raw}/wave1/lena_wave1.avi: it has 1 frames, too few\n"


def test_what_is_there_is_kept_and_the_rest_made(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(raw, out, "--split", "time") == 0
    kept, gone = out / "train" / ALL[0], out / "test" / ALL[0]
    Image.new("RGB", (180, 144)).save(kept / "00000.png")
    for file in gone.iterdir():
        file.unlink()
    gone.rmdir()
    options = ["--raw", str(raw), "--out", str(out), "--split", "time", "--actions", "run", "wave1", "wave2"]
    report = prepare_weizmann.prepare(prepare_weizmann.build_parser().parse_args(options))
    assert report.made == {"train": 6, "test": 6}
    assert not frames(kept)[0].any()
    assert len(frames(gone)) == 4


def test_two_ways_to_crop_are_not_mixed(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(raw, tmp_path / "out") == 0
    assert run(raw, tmp_path / "out", "--crop", "person") == 2
    assert "was begun with crop: none" in capsys.readouterr().err


def test_raw_data_that_are_not_there_are_asked_for(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "none", tmp_path / "out") == 2
    assert run(raw, tmp_path / "out", "--actions", "bend") == 2
    (raw / "classification_masks.mat").unlink()
    assert run(raw, tmp_path / "out", "--crop", "person") == 2
    assert capsys.readouterr().err == (
        f"prepare_weizmann: error: '{tmp_path}/none' does not exist; it should be the raw download. {OBTAIN}\n"
        f"prepare_weizmann: error: '{raw}' holds neither bend.zip nor videos as daria_bend.avi. {OBTAIN}, or name the "
        "actions that you have with --actions\n"
        f"prepare_weizmann: error: '{raw}/classification_masks.mat' does not exist; it should be the masks that "
        f"--crop person needs. {OBTAIN}\n"
    )


def test_nothing_that_can_be_read_is_an_error(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (raw / "wave1" / "lena_wave1.avi").write_bytes(b"")
    assert run(raw, tmp_path / "out", "--actions", "wave1") == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"prepare_weizmann: error: no video in '{raw}' can be read. {OBTAIN}"
    )


@pytest.mark.parametrize("content", [b"", b"text " * 100, "half", "crash"])
def test_damaged_masks_are_refused(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | str
) -> None:
    path = raw / "classification_masks.mat"
    if content == "crash":  # an array's name is longer than it is; scipy 1.17 ends the process there
        savemat(path, {"original_masks": {"daria_run": mask()}})
        damaged = bytearray(path.read_bytes())
        damaged[276] ^= 0xFF
        path.write_bytes(damaged)
    else:
        path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:3000])
    assert run(raw, tmp_path / "out", "--crop", "person") == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"prepare_weizmann: error: '{path}' is no MATLAB file that can be read (")
    assert printed.endswith(f"). {OBTAIN}\n") and printed.count("\n") == 1


def test_other_masks_are_refused(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = raw / "classification_masks.mat"
    savemat(path, {"aligned_masks": {"daria_run": mask()}})
    assert run(raw, tmp_path / "out", "--crop", "person") == 2
    assert capsys.readouterr().err == (
        f"prepare_weizmann: error: '{path}' has no struct 'original_masks'; it is not the original. {OBTAIN}\n"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--split", "person"),
            "--split person and --test-persons go together; give both, as in --test-persons moshe shahar",
        ),
        (
            ("--test-persons", "moshe"),
            "--split person and --test-persons go together; give both, as in --test-persons moshe shahar",
        ),
        (
            ("--split", "person", "--test-persons", *prepare_weizmann.PERSONS),
            "--test-persons names everybody; leave out those to train on",
        ),
        (("--resolution", "64"), "--resolution has no meaning without --crop person; leave it out, or crop"),
        (
            ("--crop", "person", "--resolution", "-1"),
            "--resolution -1 is no size; give a number of pixels, such as 64",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert run(raw, tmp_path / "out", *options) == 2
    assert capsys.readouterr().err == f"prepare_weizmann: error: {message}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wide", [True, False])
def test_the_person_is_in_the_middle_of_the_square(wide: bool) -> None:
    frame, covered = np.full((20, 20, 3), 10, np.uint8), np.zeros((20, 20), np.bool_)
    covered[4:7, 5:13] = True  # 3 high, 8 wide; the odd row goes below
    frame[covered] = 200
    right = np.full((8, 8, 3), 21, np.uint8)  # 10 + 190 * 24 / 400, rounded
    right[2:5] = 200
    if not wide:
        frame, covered, right = frame.swapaxes(0, 1), covered.T, right.swapaxes(0, 1)
    np.testing.assert_array_equal(prepare_weizmann.padded_crop(frame, covered, 8), right)


def test_resizing_does_not_overshoot() -> None:
    frame = np.full((8, 8, 3), 50, np.uint8)
    frame[:, 4:] = 200
    large = prepare_weizmann.padded_crop(frame, np.ones((8, 8), np.bool_), 64)
    assert large.min() == 50 and large.max() == 200


@pytest.mark.parametrize(("length", "training"), [(3, 2), (4, 2), (5, 3), (11, 7)])
def test_two_thirds_are_rounded_down(raw: Path, tmp_path: Path, length: int, training: int) -> None:
    write_video(raw / "wave1" / "lena_wave1.avi", length)
    assert run(raw, tmp_path / "out", "--split", "time", "--actions", "wave1") == 0
    assert len(frames(tmp_path / "out" / "train" / ALL[4])) == training
    assert len(frames(tmp_path / "out" / "test" / ALL[4])) == length - training


def test_a_frame_between_two_masks_takes_the_earlier_box(raw: Path, tmp_path: Path) -> None:
    holes = mask()
    holes[:, :, 4] = 0
    write_masks(raw, {**{name: mask() for name in NAMES}, "daria_run": holes})
    assert run(raw, tmp_path / "out", "--crop", "person", "--resolution", "40") == 0
    found = frames(tmp_path / "out" / "run/daria_run")
    assert (found[4, :, 18:30] == colour(4)).all() and not (found[4, :, 10:18] == colour(4)).any()


def test_masks_of_any_value_and_of_a_single_frame(tmp_path: Path) -> None:
    write_masks(tmp_path, {"daria_run": mask() * 255, "eli_run": mask()[:, :, 0]})
    masks = prepare_weizmann.read_masks(tmp_path / "classification_masks.mat")
    assert np.array_equal(masks["daria_run"], mask() != 0)
    assert masks["eli_run"].shape == (144, 180, 1) and masks["eli_run"].dtype == np.bool_


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (("--crop", "person"), ("--crop", "person", "--resolution", "32"), "resolution: 64"),
        ((), ("--split", "time"), "split: none"),
        (
            ("--split", "person", "--test-persons", "moshe"),
            ("--split", "person", "--test-persons", "daria"),
            "test_persons: moshe",
        ),
    ],
)
def test_other_options_are_not_mixed(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], first: tuple, second: tuple, named: str
) -> None:
    assert run(raw, tmp_path / "out", *first) == 0
    assert run(raw, tmp_path / "out", *second) == 2
    assert f"was begun with {named}" in capsys.readouterr().err


def test_the_order_of_persons_does_not_matter(raw: Path, tmp_path: Path) -> None:
    for persons in (("moshe", "daria"), ("daria", "moshe")):
        assert run(raw, tmp_path / "out", "--split", "person", "--test-persons", *persons) == 0


def test_no_resolution_of_zero(raw: Path, tmp_path: Path) -> None:
    assert run(raw, tmp_path / "out", "--crop", "person", "--resolution", "0") == 2
