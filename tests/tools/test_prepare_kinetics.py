"""Kinetics from clips and annotations to one folder per part and class."""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import prepare_kinetics
from preparation import main

SITE = "Obtain it by the scripts of https://github.com/cvdfoundation/kinetics-dataset"
HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
TRAIN = HEADER + (
    'abseiling,-3B32lodo2M,59,69,train,0\n"massaging person\'s head",_dbcJuKJQNs,4,14,train,0\n'
    "bouncing ball (not juggling),0123456789_,100,110,train,1\n"
)
VAL = HEADER + "abseiling,AAAAAAAAAAA,0,10,val,0\n"
CLIPS = {
    "train/-3B32lodo2M_000059_000069.mp4": "train/abseiling",
    "train/_dbcJuKJQNs_000004_000014.mp4": "train/massaging person's head",
    "train/0123456789__000100_000110.mp4": "train/bouncing ball (not juggling)",
    "val/AAAAAAAAAAA_000000_000010.mp4": "val/abseiling",
}
PLACED = sorted(f"{folder}/{Path(clip).name}" for clip, folder in CLIPS.items())


@pytest.fixture(scope="module")
def video_bytes(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 24, "yuv420p"
        for level in (0, 100, 200):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.fixture
def raw(tmp_path: Path, video_bytes: bytes) -> Path:
    """As the extractor scripts of Kinetics-400 leave it."""
    folder = tmp_path / "k400"
    for name in CLIPS:
        write(folder / name, video_bytes)
    write(folder / "annotations" / "train.csv", TRAIN)
    write(folder / "annotations" / "val.csv", VAL)
    return folder


def run(raw: Path, *more: str) -> int:
    arguments = ["--raw", str(raw), "--out", str(raw.parent / "out"), *more]
    return main(prepare_kinetics.build_parser(), prepare_kinetics.prepare, arguments)


def written(raw: Path) -> list[str]:
    out = raw.parent / "out"
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*.*") if path.name != ".options")


def error(capsys) -> str:
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err.removeprefix("prepare_kinetics: error: ").removesuffix("\n")


def test_clips_go_to_folders_named_by_their_labels(raw, capsys):
    assert run(raw) == 0
    assert written(raw) == PLACED
    out = raw.parent / "out"
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines() == [
        f"wrote {out}: 3 in train, 1 in val",
        "a config reads it with",
        "  name: video_folder",
        f"  root: {out}",
        "  split: {by: folder, folder: train}",
    ]


def test_class_folders_of_crawlers_do_not_matter(raw):
    for name in CLIPS:
        path = raw / name
        path.rename(write(raw / "any name" / "of a class" / path.name, b""))
    assert run(raw) == 0
    assert written(raw) == PLACED


def test_missing_clips_are_counted_and_listed(raw, capsys):
    names = [name for name in CLIPS if "train" in name][:2]
    for name in names:
        (raw / name).unlink()
    assert run(raw) == 0
    out = raw.parent / "out"
    assert (out / "missing.txt").read_text().splitlines() == [
        "train/abseiling/-3B32lodo2M_000059_000069",
        "train/massaging person's head/_dbcJuKJQNs_000004_000014",
    ]
    shown = capsys.readouterr()
    listed = str(out / "missing.txt")
    assert shown.err == f"skipped 2 of train: annotated but not there; {listed!r} lists them\n"
    assert shown.out.startswith(f"wrote {out}: 1 in train, 1 in val\nskipped 1: 2 of train\n")


def test_the_list_goes_when_nothing_is_missing_any_more(raw, video_bytes):
    name = next(iter(CLIPS))
    (raw / name).unlink()
    assert run(raw) == 0 and "missing.txt" in written(raw)
    write(raw / name, video_bytes)
    assert run(raw) == 0
    assert written(raw) == PLACED


def test_a_replacement_is_taken_instead_of_what_it_replaces(raw, video_bytes):
    name = next(iter(CLIPS))
    (raw / name).write_bytes(b"corrupted")
    better = video_bytes + b"!"
    write(raw / "replacement" / "replacement_for_corrupted_k400" / Path(name).name, better)
    assert run(raw) == 0
    assert (raw.parent / "out" / "train" / "abseiling" / Path(name).name).read_bytes() == better


def test_a_clip_in_the_folder_of_its_part_is_preferred(raw, video_bytes):
    name = "val/AAAAAAAAAAA_000000_000010.mp4"
    (raw / name).write_bytes(video_bytes + b"val")
    write(raw / "another" / Path(name).name, video_bytes + b"another")
    assert run(raw) == 0
    assert (raw.parent / "out" / "val" / "abseiling" / Path(name).name).read_bytes().endswith(b"val")


def test_a_damaged_clip_is_skipped_and_the_rest_goes_on(raw, capsys):
    path = raw / next(iter(CLIPS))
    path.write_bytes(b"")
    assert run(raw) == 0
    assert capsys.readouterr().err == f"skipped {path.resolve()}: the file is empty\n"
    assert len(written(raw)) == 3


def test_a_second_run_keeps_what_is_there(raw, capsys):
    assert run(raw, "--how", "copy") == 0
    first = capsys.readouterr().out
    target = raw.parent / "out" / PLACED[0]
    target.write_bytes(b"kept")
    (raw.parent / "out" / PLACED[1]).unlink()
    assert run(raw, "--how", "copy") == 0
    assert capsys.readouterr().out == first
    assert target.read_bytes() == b"kept" and written(raw) == PLACED


def test_the_output_may_lie_in_the_download(raw, capsys):
    arguments = ["--raw", str(raw), "--out", str(raw / "train" / "out"), "--how", "copy"]
    for _ in range(2):
        assert main(prepare_kinetics.build_parser(), prepare_kinetics.prepare, arguments) == 0
        assert prepare_kinetics.find_clips(raw, raw / "train" / "out").keys() == {Path(name).stem for name in CLIPS}
    assert all(len(paths) == 1 for paths in prepare_kinetics.find_clips(raw, raw / "train" / "out").values())


@pytest.mark.parametrize("how", ["link", "copy", "symlink"])
def test_clips_are_placed_as_asked(raw, how):
    assert run(raw, "--how", how) == 0
    source, target = raw / next(iter(CLIPS)), raw.parent / "out" / "train" / "abseiling" / Path(next(iter(CLIPS))).name
    assert target.is_symlink() == (how == "symlink")
    assert target.samefile(source) == (how != "copy")


def test_annotations_can_be_named(raw):
    path = write(raw.parent / "my annotations", VAL.replace(",is_cc", "").replace(",0\n", "\n"))
    assert run(raw, "--csv", f"val={path}") == 0
    assert written(raw) == [name for name in PLACED if name.startswith("val")]


def test_validate_is_the_part_val(raw):
    (raw / "annotations" / "train.csv").unlink()
    (raw / "annotations" / "val.csv").rename(raw / "kinetics-400_validate.csv")
    assert run(raw) == 0
    assert written(raw) == [name for name in PLACED if name.startswith("val")]


def test_the_complete_text_file_of_kinetics_600_is_preferred(raw):
    (raw / "annotations" / "train.csv").rename(raw / "annotations" / "train.txt")
    write(raw / "annotations" / "train.csv", HEADER)
    write(raw / "annotations" / "val.txt", "no annotations\n")
    assert run(raw) == 0
    assert written(raw) == PLACED


def test_labels_become_safe_folder_names():
    kept = "passing American football (in game)"
    assert prepare_kinetics.class_folder(kept) == kept
    assert prepare_kinetics.class_folder("a/b\\c: d?") == "a_b_c_ d_"
    assert prepare_kinetics.class_folder("..") == "_"


def test_rows_that_come_twice_count_once(raw, capsys):
    write(raw / "annotations" / "val.csv", VAL + VAL.removeprefix(HEADER))
    assert run(raw) == 0
    assert "3 in train, 1 in val\n" in capsys.readouterr().out


def test_missing_annotations_are_named_with_their_site(raw, capsys):
    for path in (raw / "annotations").iterdir():
        path.unlink()
    assert run(raw) == 2
    assert error(capsys) == (
        f"{str(raw)!r} holds no train.csv, val.csv or test.csv, nor does its folder annotations; put Kinetics's"
        f" annotations there, or name them with --csv. {SITE}"
    )


def test_a_missing_download_is_named_with_its_site(tmp_path, capsys):
    raw = tmp_path / "gone"
    assert run(raw) == 2
    assert error(capsys) == f"{str(raw)!r} does not exist; it should be the folder with Kinetics's clips. {SITE}"


def test_annotations_without_any_clip_are_an_error(raw, capsys):
    for name in CLIPS:
        (raw / name).unlink()
    assert run(raw) == 2
    assert error(capsys) == f"{str(raw)!r} holds none of the annotated clips that can be used. {SITE}"
    assert not (raw.parent / "out").exists()


def test_annotations_that_are_found_and_have_no_labels_are_skipped(raw, capsys):
    path = write(raw / "annotations" / "test.csv", "youtube_id,time_start,time_end,split\nAAAAAAAAAAA,0,10,test\n")
    assert run(raw) == 0
    assert capsys.readouterr().err == f"skipped {path}: it has no column label, so its clips have no class\n"
    assert written(raw) == PLACED


def test_annotations_that_are_named_must_have_all_columns(raw, capsys):
    path = write(raw / "my.csv", "youtube_id,time_start,split\nAAAAAAAAAAA,0,test\n")
    assert run(raw, "--csv", f"test={path}") == 2
    assert error(capsys) == (
        f"{str(path)!r} has no column label, time_end;"
        " its first line should be label,youtube_id,time_start,time_end,split"
    )


@pytest.mark.parametrize("row", ["abseiling,AAAAAAAAAAA,zero,10,val,0", ",AAAAAAAAAAA,0,10,val,0", "abseiling"])
def test_a_row_that_is_incomplete_is_named(raw, capsys, row):
    path = write(raw / "annotations" / "val.csv", f"{VAL}{row}\n")
    assert run(raw) == 2
    assert error(capsys) == (f"{str(path)!r}: line 3 should hold a label, a YouTube id and two times in seconds")


@pytest.mark.parametrize("given", ["val", "valid=file.csv", "val="])
def test_csv_of_another_form_is_refused(raw, capsys, given):
    assert run(raw, "--csv", given) == 2
    assert error(capsys) == f"--csv {given!r} should be PART=FILE with one of the parts train, val, test"


def test_csv_that_is_not_there_is_refused(raw, capsys):
    assert run(raw, "--csv", "val=gone.csv") == 2
    assert error(capsys) == f"'gone.csv' does not exist; it should be the annotations of val. {SITE}"


def test_other_annotations_are_not_mixed_in(raw, capsys):
    assert run(raw) == 0
    before = written(raw)
    write(raw / "annotations" / "val.csv", VAL.replace("abseiling", "archery"))
    assert run(raw) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"prepare_kinetics: error: '{raw.parent}/out' was begun with val: ")
    assert shown.endswith("; use the same or another --out\n")
    assert written(raw) == before


def test_folders_behind_links_are_searched(raw):
    (raw / "train").rename(raw.parent / "on another disk")
    (raw / "train").symlink_to(raw.parent / "on another disk")
    assert run(raw) == 0
    assert written(raw) == PLACED


def test_an_output_of_links_within_the_download_is_left_out(raw):
    (raw.parent / "alias").symlink_to(raw)
    arguments = ["--raw", str(raw), "--out", str(raw.parent / "alias" / "out"), "--how", "symlink"]
    assert main(prepare_kinetics.build_parser(), prepare_kinetics.prepare, arguments) == 0
    found = prepare_kinetics.find_clips(raw.parent / "alias", raw / "out")
    assert {name: len(paths) for name, paths in found.items()} == {Path(name).stem: 1 for name in CLIPS}


def test_the_config_names_a_part_that_was_made(raw, capsys):
    assert run(raw, "--csv", f"val={raw / 'annotations' / 'val.csv'}") == 0
    assert capsys.readouterr().out.endswith("  split: {by: folder, folder: val}\n")
