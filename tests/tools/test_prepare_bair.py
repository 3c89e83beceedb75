"""tools/prepare_bair.py turns the records of the BAIR data set into folders of frames."""

from __future__ import annotations

import csv
import io
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import prepare_bair
from preparation import main

from tests.tools.test_tfrecord import example, field, framed

Video = NDArray[np.uint8]
OBTAIN = "Get bair_robot_pushing_dataset_v0.tar from https://sites.google.com/view/sna-visual-mpc/"


def videos(seed: int) -> tuple[Video, Video]:
    """Both cameras, of little contrast."""
    both = np.random.default_rng(seed).integers(40, 200, (2, 30, 64, 64, 3)).astype(np.uint8)
    both[:, :, 8:] = 90  # less to compress
    return both[0], both[1]


def record(seed: int, without: str = "", size: int = 64 * 64 * 3) -> bytes:
    aux1, main_ = videos(seed)
    features = {}
    for i in range(30):
        features[f"{i}/image_aux1/encoded"] = field(1, field(1, aux1[i].tobytes()[:size]))
        features[f"{i}/image_main/encoded"] = field(1, field(1, main_[i].tobytes()))
        features[f"{i}/action"] = field(2, field(1, struct.pack("<4f", i, 0.1, -0.5, seed)))
        features[f"{i}/endeffector_pos"] = field(2, field(1, struct.pack("<3f", i, 0.25, seed)))
    features.pop(without, None)
    return framed(example(features))


@pytest.fixture(scope="module")
def good() -> dict[str, bytes]:
    return {
        "softmotion30_44k/train/traj_1024_to_1279.tfrecords": record(2),
        "softmotion30_44k/train/traj_256_to_511.tfrecords": record(0) + record(1),
        "softmotion30_44k/test/traj_0_to_255.tfrecords": record(3),
    }


def unpacked(raw: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(data)
    return raw


def archive(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def run(raw: Path, out: Path, *options: str) -> int:
    arguments = ["--raw", str(raw), "--out", str(out), *options]
    return main(prepare_bair.build_parser(), prepare_bair.prepare, arguments)


def frames(folder: Path) -> Video:
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == [f"{i:05d}.png" for i in range(30)]
    return np.stack([np.asarray(Image.open(file)) for file in files])


def folders(out: Path) -> list[str]:
    return sorted(f"{path.parent.name}/{path.name}" for path in out.glob("*/*"))


ALL = [
    "test/traj_00000_00255_000",
    *(f"train/traj_{n}" for n in ("00256_00511_000", "00256_00511_001", "01024_01279_000")),
]


def test_every_record_becomes_a_folder_with_its_bytes(
    tmp_path: Path, good: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = unpacked(tmp_path / "raw", good), tmp_path / "out"
    assert run(raw, out) == 0
    assert folders(out) == ALL
    assert np.array_equal(frames(out / ALL[0]), videos(3)[0])
    assert np.array_equal(frames(out / ALL[2]), videos(1)[0])
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out == (
        f"wrote {out}: 3 in train, 1 in test\n"
        "a config reads it with\n"
        "  name: frame_folder\n"
        f"  root: {out}\n"
        "  split: {by: folder, folder: train}\n"
    )


@pytest.mark.parametrize("inside", [True, False], ids=["folder", "archive"])
def test_the_archive_is_read_without_unpacking_it(
    tmp_path: Path, good: dict[str, bytes], capsys: pytest.CaptureFixture[str], inside: bool
) -> None:
    tar = archive(tmp_path / "raw" / "bair_robot_pushing_dataset_v0.tar", good)
    out = tmp_path / "out"
    assert run(tar.parent if inside else tar, out) == 0
    assert folders(out) == ALL
    assert np.array_equal(frames(out / ALL[3]), videos(2)[0])
    assert capsys.readouterr().err == ""
    assert [path.name for path in tar.parent.iterdir()] == [tar.name]


def test_the_other_camera_can_be_had(tmp_path: Path, good: dict[str, bytes]) -> None:
    raw, out = (
        unpacked(tmp_path / "raw", {"softmotion30_44k/train/traj_256_to_511.tfrecords": record(0)}),
        tmp_path / "o",
    )
    assert run(raw, out, "--camera", "main") == 0
    assert np.array_equal(frames(out / ALL[1]), videos(0)[1])


def test_stretching_gives_each_frame_its_full_range(tmp_path: Path) -> None:
    raw, out = (
        unpacked(tmp_path / "raw", {"softmotion30_44k/train/traj_256_to_511.tfrecords": record(0)}),
        tmp_path / "o",
    )
    assert run(raw, out, "--stretch") == 0
    found, original = frames(out / ALL[1]), videos(0)[0].astype(float)
    low = original.min(axis=(1, 2, 3), keepdims=True)
    high = original.max(axis=(1, 2, 3), keepdims=True)
    assert np.abs(found - (original - low) / (high - low) * 255).max() < 0.51
    assert found.min() == 0 and found.max() == 255


def test_a_frame_of_one_colour_is_stretched_to_black() -> None:
    with np.errstate(all="raise"):
        assert not prepare_bair.stretch(np.full((2, 2, 3), 77, np.uint8)).any()


def test_actions_are_written_for_each_frame(tmp_path: Path, good: dict[str, bytes]) -> None:
    raw, out = unpacked(tmp_path / "raw", good), tmp_path / "out"
    assert run(raw, out) == 0
    assert not (out / "actions.csv").exists()
    assert run(raw, out, "--actions") == 0  # also for videos that are there already
    with open(out / "actions.csv", newline="") as file:
        rows = list(csv.reader(file))
    states = [f"action_{i}" for i in range(4)] + [f"endeffector_pos_{i}" for i in range(3)]
    assert rows[0] == ["path", "frame", *states]
    assert len(rows) == 1 + 4 * 30
    assert rows[1 + 30 + 2] == [ALL[2], "2", "2.0", "0.1", "-0.5", "1.0", "2.0", "0.25", "1.0"]
    assert sorted({row[0] for row in rows[1:]}) == ALL


def test_damaged_records_are_skipped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = bytearray(record(1))
    changed[1000] ^= 1
    data = (
        bytes(changed) + record(2, without="7/image_aux1/encoded") + record(0, size=100) + record(3) + record(2)[:5000]
    )
    raw = unpacked(tmp_path / "raw", {"softmotion30_44k/train/traj_256_to_511.tfrecords": data})
    assert run(raw, tmp_path / "out") == 0
    assert folders(tmp_path / "out") == ["train/traj_00256_00511_003"]
    assert np.array_equal(frames(tmp_path / "out" / "train/traj_00256_00511_003"), videos(3)[0])
    name = raw / "softmotion30_44k/train/traj_256_to_511.tfrecords"
    assert capsys.readouterr().err == (
        f"skipped {name}#0: the checksum of record 0 is wrong\n"
        f"skipped {name}#1: it has no image '7/image_aux1/encoded'\n"
        f"skipped {name}#2: '0/image_aux1/encoded' has 100 bytes, not the 12288 of a frame of 64×64\n"
        f"skipped {name}#4: record 4 is cut off\n"
    )


def test_a_record_without_actions_is_skipped_where_they_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = record(0, without="3/action") + record(1)
    raw = unpacked(tmp_path / "raw", {"softmotion30_44k/train/traj_256_to_511.tfrecords": data})
    assert run(raw, tmp_path / "out", "--actions") == 0
    assert folders(tmp_path / "out") == ["train/traj_00256_00511_001"]
    assert "#0: it has no 4 numbers '3/action'\n" in capsys.readouterr().err


def test_a_cut_off_archive_is_used_as_far_as_it_goes(
    tmp_path: Path, good: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    tar = archive(tmp_path / "bair_robot_pushing_dataset_v0.tar", good)
    tar.write_bytes(tar.read_bytes()[:-400_000])
    assert run(tar, tmp_path / "out") == 0
    assert folders(tmp_path / "out") == ALL[1:]
    last = "softmotion30_44k/test/traj_0_to_255.tfrecords"
    assert capsys.readouterr().err == (
        f"skipped {tar}: it is damaged after {last} (unexpected end of data); get it anew\n"
        f"skipped {tar}:{last}: unexpected end of data\n"
    )


def test_records_whose_videos_are_there_are_not_read_again(
    tmp_path: Path, good: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = unpacked(tmp_path / "raw", good), tmp_path / "out"
    assert run(raw, out) == 0
    for name, data in good.items():
        changed = bytearray(data)
        changed[1000] ^= 1  # would be noticed
        (raw / name).write_bytes(changed)
    assert run(raw, out) == 0
    assert capsys.readouterr().err == ""


def test_what_is_there_is_kept_and_the_rest_made(tmp_path: Path, good: dict[str, bytes]) -> None:
    raw, out = unpacked(tmp_path / "raw", good), tmp_path / "out"
    assert run(raw, out) == 0
    Image.new("RGB", (64, 64)).save(out / ALL[1] / "00000.png")
    for file in (out / ALL[3]).iterdir():
        file.unlink()
    (out / ALL[3]).rmdir()
    report = prepare_bair.prepare(prepare_bair.build_parser().parse_args(["--raw", str(raw), "--out", str(out)]))
    assert report.made == {"train": 3, "test": 1}
    assert not frames(out / ALL[1])[0].any()
    assert np.array_equal(frames(out / ALL[3]), videos(2)[0])


def test_two_cameras_are_not_mixed(tmp_path: Path, good: dict[str, bytes], capsys: pytest.CaptureFixture[str]) -> None:
    raw, out = unpacked(tmp_path / "raw", good), tmp_path / "out"
    assert run(raw, out) == 0
    assert run(raw, out, "--camera", "main") == 2
    assert "was begun with camera: aux1" in capsys.readouterr().err


def test_raw_data_that_are_not_there_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "raw", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        f"prepare_bair: error: '{tmp_path}/raw' does not exist; it should be the raw download. {OBTAIN}\n"
    )
    assert run(tmp_path, tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        f"prepare_bair: error: '{tmp_path}' holds neither bair_robot_pushing_dataset_v0.tar nor files as "
        f"softmotion30_44k/train/traj_256_to_511.tfrecords. {OBTAIN}\n"
    )
    (tmp_path / "text").write_text("no archive" * 100)
    assert run(tmp_path / "text", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        f"prepare_bair: error: '{tmp_path}/text' is no tar archive, or a damaged one (invalid header). {OBTAIN}\n"
    )


def test_nothing_that_can_be_read_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = unpacked(tmp_path / "raw", {"softmotion30_44k/train/traj_256_to_511.tfrecords": b"no record at all"})
    assert run(raw, tmp_path / "out", "--actions") == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"prepare_bair: error: '{raw}' holds no record that can be read. {OBTAIN}"
    )
    assert not (tmp_path / "out" / "actions.csv").exists()


def test_other_folders_are_passed_over(tmp_path: Path) -> None:
    files = {f"softmotion30_44k/{part}/traj_256_to_511.tfrecords": record(0) for part in ("train", "train_old")}
    raw = unpacked(tmp_path / "raw", {**files, "softmotion30_44k/train_old/traj_0_to_255.tfrecords": record(1)})
    assert run(raw, tmp_path / "out") == 0
    assert folders(tmp_path / "out") == [ALL[1]]


def test_the_folder_of_one_part_is_enough(tmp_path: Path) -> None:
    raw = unpacked(tmp_path / "raw", {"softmotion30_44k/test/traj_0_to_255.tfrecords": record(3)})
    assert run(raw / "softmotion30_44k" / "test", tmp_path / "out") == 0
    assert folders(tmp_path / "out") == [ALL[0]]


def test_stretched_and_plain_frames_are_not_mixed(
    tmp_path: Path, good: dict[str, bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    raw, out = unpacked(tmp_path / "raw", good), tmp_path / "out"
    assert run(raw, out) == 0
    assert run(raw, out, "--stretch") == 2
    assert "was begun with stretch: False" in capsys.readouterr().err


@pytest.mark.parametrize("value", [field(2, field(1, struct.pack("<5f", *range(5)))), field(3, field(1, b"\1\2\3\4"))])
def test_actions_of_another_size_or_type_are_damaged(value: bytes) -> None:
    features = {"0/action": value, "0/endeffector_pos": field(2, field(1, struct.pack("<3f", 0, 0, 0)))}
    parsed = prepare_bair.parse_example(example(features))
    with pytest.raises(prepare_bair.DamagedRecord, match="it has no 4 numbers '0/action'"):
        prepare_bair.rows_of(parsed, "train/video")


@pytest.mark.parametrize(("low", "value", "high", "right"), [(0, 7, 14, 127), (0, 25, 50, 128), (0, 13, 26, 128)])
def test_halves_are_rounded_as_in_scipy(low: int, value: int, high: int, right: int) -> None:
    assert prepare_bair.stretch(np.array([low, value, high], np.uint8)).tolist() == [0, right, 255]


def test_a_folder_in_the_archive_that_is_called_like_a_file(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar", {"softmotion30_44k/test/traj_0_to_255.tfrecords": record(3)})
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("softmotion30_44k/train/traj_0_to_255.tfrecords")
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    assert run(path, tmp_path / "out") == 0
    assert folders(tmp_path / "out") == [ALL[0]]


def test_an_image_of_two_values_is_damaged() -> None:
    values = field(1, field(1, bytes(12288)) + field(1, bytes(12288)))
    parsed = prepare_bair.parse_example(example({f"{i}/image_aux1/encoded": values for i in range(30)}))
    with pytest.raises(prepare_bair.DamagedRecord, match="it has no image"):
        prepare_bair.frames_of(parsed, "aux1", False)


def test_the_config_names_a_part_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = unpacked(tmp_path / "raw", {"softmotion30_44k/test/traj_0_to_255.tfrecords": record(3)})
    assert run(raw, tmp_path / "out") == 0
    assert "folder: test}" in capsys.readouterr().out


def test_the_folder_that_one_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = unpacked(tmp_path / "raw", {"softmotion30_44k/test/traj_0_to_255.tfrecords": record(3)})
    monkeypatch.chdir(raw / "softmotion30_44k" / "test")
    assert run(Path("."), tmp_path / "out") == 0
    assert folders(tmp_path / "out") == [ALL[0]]


def test_files_and_folders_may_be_symbolic_links(tmp_path: Path) -> None:
    store = unpacked(tmp_path / "store", {"annex/SHA1": record(3), "b/train/traj_256_to_511.tfrecords": record(0)})
    raw = tmp_path / "raw"
    (raw / "softmotion30_44k" / "test").mkdir(parents=True)
    (raw / "softmotion30_44k" / "test" / "traj_0_to_255.tfrecords").symlink_to(store / "annex" / "SHA1")
    (raw / "softmotion30_44k" / "train").symlink_to(store / "b" / "train")
    assert run(raw, tmp_path / "out") == 0
    assert folders(tmp_path / "out") == ALL[:2]


def test_the_folder_of_a_part_may_be_named_by_a_link(tmp_path: Path) -> None:
    raw = unpacked(tmp_path / "raw", {"softmotion30_44k/test/traj_0_to_255.tfrecords": record(3)})
    (tmp_path / "alias").symlink_to(raw / "softmotion30_44k" / "test")
    assert run(tmp_path / "alias", tmp_path / "out") == 0
    assert folders(tmp_path / "out") == [ALL[0]]
