"""``vidgen data`` on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.strips import make_strips
from vidgen.cli.main import main
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.packed import Packed
from vidgen.data.request import ClipRequest


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config with nothing but data: three videos of 5, 6 and 7 frames."""
    make_strips(tmp_path / "strips", {"a/x.png": 5, "a/y.png": 6, "b/z.png": 7})
    path = tmp_path / "config.yaml"
    path.write_text(f"data: {{name: frame_strips, root: {tmp_path}/strips, resolution: 8, num_frames: 2}}\n")
    return path


def data(*words: Any) -> int:
    return main(["data", *map(str, words)])


def error_of(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    assert data(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err.strip().removeprefix("vidgen: error: ")


def test_a_pack_is_made_and_where_it_lies_is_told(config, tmp_path, capsys):
    out = tmp_path / "pack"
    assert data("pack", config, "--out", out, "--workers", 1) == 0
    assert capsys.readouterr() == (
        f"{out}: 3 videos, 18 frames, 0.00 GB\ntrain from it with data='{{name: packed, root: {out}, ...}}'\n",
        "",
    )
    request = ClipRequest(2, (0, 3), 8)
    expected = FrameStrips(f"{tmp_path}/strips", 8, 2).read(request)
    assert torch.equal(Packed(str(out), 8, 2, verify=True).read(request)["video"], expected["video"])


def test_overrides_stand_before_and_after_options(config, tmp_path):
    before = ["data.resolution=4", "--workers", 1]
    assert data("pack", config, *before, "--out", tmp_path / "pack", "data.channels=1") == 0
    spec = Packed(str(tmp_path / "pack"), 4, 2).spec
    assert (spec.resolution, spec.channels) == (4, 1)


def test_the_same_command_again_changes_nothing(config, tmp_path, capsys):
    out = tmp_path / "pack"
    words = ("pack", config, "--out", out, "--workers", 1)
    assert data(*words) == 0
    first, times = capsys.readouterr(), {name: os.stat(out / name).st_mtime_ns for name in os.listdir(out)}
    assert data(*words) == 0
    assert capsys.readouterr() == first
    assert all(os.stat(out / name).st_mtime_ns == times[name] for name in times if name.startswith("shard"))
    assert error_of(capsys, *words, "data.resolution=4") == (
        f"--out: {out} holds a pack with data.resolution 8, now it is 4; choose another folder"
    )


def test_shares_are_packed_apart_and_merged(config, tmp_path, capsys):
    words = ("data.resolution=256", "--workers", 1, "--shard-mb", 1)
    for share in (0, 1):
        assert data("pack", config, *words, "--shard", f"{share}/2", "--out", tmp_path / f"part_{share}") == 0
    shown = capsys.readouterr().out.splitlines()
    whole = tmp_path / "whole"
    assert shown[1].startswith("shards still to be made: ") and shown[1].endswith(
        f"; the last `vidgen data pack` joins them, or `vidgen data merge {tmp_path}/part_0`"
    )
    assert data("merge", tmp_path / "part_0", "--out", whole, tmp_path / "part_1") == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{whole}: 3 videos, 18 frames, 0.00 GB\n") and err == ""
    assert data("pack", config, *words, "--out", tmp_path / "one") == 0
    for name in os.listdir(whole):
        assert (whole / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_a_merge_without_out_goes_into_the_first_folder(config, tmp_path, capsys):
    assert data("pack", config, "--out", tmp_path / "pack", "--workers", 1) == 0
    os.remove(tmp_path / "pack" / "index.npz")
    assert data("merge", tmp_path / "pack") == 0
    assert len(Packed(str(tmp_path / "pack"), 8, 2)) == 3


def test_the_stage_decides_whose_data(config, tmp_path, capsys):
    config.write_text(
        f"data: {{name: frame_strips, root: {tmp_path}/strips, num_frames: 2}}\n"
        "stages:\n  coarse: {data: {resolution: 4}}\n  fine: {data: {resolution: 8}}\n"
    )
    for stage, resolution in (("coarse", 4), ("fine", 8)):
        assert data("pack", config, "--stage", stage, "--out", tmp_path / stage, "--workers", 1) == 0
        assert Packed(str(tmp_path / stage), resolution, 2).packed_spec.resolution == resolution
    assert data("pack", config, "--out", tmp_path / "first", "--workers", 1) == 0
    assert Packed(str(tmp_path / "first"), 4, 2).packed_spec.resolution == 4
    capsys.readouterr()
    assert error_of(capsys, "pack", config, "--stage", "fin", "--out", tmp_path / "no") == (
        "--stage: the config has no stage 'fin'; did you mean 'fine'?"
    )


def test_errors_name_the_argument(config, tmp_path, capsys):
    out = ("--out", tmp_path / "no")
    shard = "--shard: expected i/n with i from 0 to n - 1, for example 0/8, got"
    for text in ("3/3", "4/3", "1", "a/b", "-1/2", "0/0", "1/2/3", ""):
        assert error_of(capsys, "pack", config, *out, f"--shard={text}") == f"{shard} {text!r}"
    assert error_of(capsys, "pack", config, *out, "--workers", 0) == "--workers: expected at least 1, got 0"
    assert error_of(capsys, "pack", config, *out, "--shard-mb", -5) == "--shard-mb: expected at least 1, got -5"
    assert error_of(capsys, "pack", config, *out, "--workers", "many") == (
        "argument --workers: invalid int value: 'many'; see vidgen data pack --help"
    )
    assert error_of(capsys, "inspect", config, "--clips", 0) == "--clips: expected at least 1, got 0"
    missing = "the following arguments are required"
    assert error_of(capsys, "pack", config) == f"{missing}: --out; see vidgen data pack --help"
    assert error_of(capsys, "merge") == f"{missing}: DIR; see vidgen data merge --help"
    assert not (tmp_path / "no").exists()


def test_errors_name_the_key_of_the_config(config, tmp_path, capsys):
    out = ("--out", tmp_path / "no")
    assert error_of(capsys, "pack", tmp_path / "none.yaml", *out) == f"{tmp_path}/none.yaml: no such file"
    assert error_of(capsys, "pack", config, *out, "data.resolutoin=4") == (
        "data.resolutoin: unknown key; did you mean 'resolution'?"
    )
    assert error_of(capsys, "pack", config, *out, "data.root=/nowhere") == "data.root: no such folder: /nowhere"
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pak"], "vidgen data: expected one of inspect, pack, merge, got 'pak'; did you mean 'pack'?"),
        (["zip"], "vidgen data: expected one of inspect, pack, merge, got 'zip'"),
        ([], "vidgen data: expected one of inspect, pack, merge, got nothing"),
        (["pack", "c.yaml", "--out", "x", "--worker", "3"], "unknown argument '--worker'; did you mean '--workers'?"),
        (["merge", "a", "--ot", "x"], "unknown argument '--ot'; did you mean '--out'?"),
    ],
)
def test_words_that_are_unknown_suggest_others(capsys, words, expected):
    assert error_of(capsys, *words) == expected


def test_merging_what_is_no_pack_is_one_line(tmp_path, capsys):
    assert error_of(capsys, "merge", tmp_path) == (
        f"{tmp_path} holds no plan.json; give folders that `vidgen data pack` has written to"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            [],
            [
                "inspect  counts, lengths, sizes, classes, what is skipped and why; a contact sheet and an HTML page",
                "pack     decode and resize everything once, for training that reads instead of decoding",
                "merge    join the shards that several `vidgen data pack --shard i/n` have made",
            ],
        ),
        (
            ["pack"],
            [
                "same clips. A command that was stopped goes on where it was when it is given again.",
                "  CONFIG         YAML config; only its data and seed are used",
                "  --out DIR      folder of the pack",
                "  --workers N    processes (one per processor)",
                "  --shard-mb MB  megabytes of a shard, about (256)",
                "  vidgen data pack configs/mocogan/weizmann.yaml data.root=PATH/TO/STRIPS --out packs/weizmann"
                " --workers 8",
            ],
        ),
        (["merge"], ["  vidgen data merge packs/part_0 packs/part_1 --out packs/whole"]),
        (["inspect"], ["  vidgen data inspect configs/mocogan/weizmann.yaml data.root=PATH/TO/STRIPS --out report"]),
    ],
)
def test_help_says_what_there_is(capsys, monkeypatch, words, expected):
    monkeypatch.setenv("COLUMNS", "120")
    assert data(*words, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(" ".join(["usage: vidgen data", *words]))
    assert [line for line in expected if line not in lines] == []


def test_a_report_and_a_pack_do_not_land_among_the_data(config, tmp_path, capsys):
    for action in ("inspect", "pack"):
        out = tmp_path / "strips" / "out"
        assert error_of(capsys, action, config, "--out", out) == (
            f"--out: {out} lies in the data's folder {tmp_path}/strips; choose a folder outside"
        )
    assert sorted(os.listdir(tmp_path / "strips")) == ["a", "b"]


def test_inspect_leaves_its_files_where_it_is_told(config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert data("inspect", config, "--clips", 2) == 0
    assert "\nvideos: 3\n" in capsys.readouterr().out
    assert sorted(os.listdir("data_report")) == ["contact_sheet.png", "index.html", "inspection.json"]
    assert error_of(capsys, "inspect", config, "--clips", 0) == "--clips: expected at least 1, got 0"


def test_a_root_may_begin_with_the_home_folder(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data("inspect", config, "data.root=~/strips", "--out", tmp_path / "report") == 0
    assert f"frame strips in {tmp_path}/strips\n" in capsys.readouterr().out
