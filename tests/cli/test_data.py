"""``vidgen data`` on the command line."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.strips import make_strips
from tests.encoding_models import TinyEncoder, TokenReader, tokens_of
from vidgen.checkpoint import describe_model, write_checkpoint
from vidgen.cli.main import main
from vidgen.data.encoded import Encoded
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.packed import Packed
from vidgen.data.request import ClipRequest
from vidgen.models.base import VideoModel
from vidgen.sampling import file_fingerprint


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
        (["pak"], "vidgen data: expected one of inspect, pack, encode, merge, got 'pak'; did you mean 'pack'?"),
        (["zip"], "vidgen data: expected one of inspect, pack, encode, merge, got 'zip'"),
        ([], "vidgen data: expected one of inspect, pack, encode, merge, got nothing"),
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
                "encode   store what a trained autoencoder makes of all videos, for models that are trained on that",
                "merge    join the shards that several runs of pack or encode with --shard i/n have made",
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
        (
            ["encode"],
            [
                "are trained on tokens or latents. A command that was stopped goes on where it was when it is given"
                " again.",
                "  DATA               YAML config, or a folder of videos, a pack, a zip or an .npz",
                "  --ckpt PATH        checkpoint, or an exported folder",
                "  --batch-size N     windows encoded at once (about 512 frames)",
                "  vidgen data encode configs/mocogan/weizmann.yaml data.root=PATH/TO/STRIPS --ckpt vqgan.ckpt"
                " --out codes",
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


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """A checkpoint of an encoder."""
    return checkpoint(tmp_path / "encoder.ckpt", TinyEncoder())


def checkpoint(path: Path, model: VideoModel) -> Path:
    write_checkpoint(path, {"state_dict": model.state_dict(), "vidgen": describe_model(model)})
    return path


def test_videos_are_encoded_and_where_they_lie_is_told(config, ckpt, tmp_path, capsys):
    out = tmp_path / "codes"
    words = ("encode", config, "--ckpt", ckpt, "--out", out, "--device", "cpu")
    for _ in range(2):
        assert data(*words) == 0
        assert capsys.readouterr() == (
            f"{out}: 3 videos, 8 steps of 2 frames, 0.00 GB\n"
            "left out 2 frames at the ends of 2 videos, which fill no step of 2\n"
            f"train from it with data='{{name: encoded, root: {out}, ...}}'\n",
            "",
        )
    found = Encoded(str(out), 6)
    clip = FrameStrips(f"{tmp_path}/strips", 8, 2).read(ClipRequest(1, tuple(range(6)), 8))["video"]
    assert torch.equal(found.read(ClipRequest(0, (0, 2, 4), 8))["tokens"], tokens_of(clip[None])[0])
    assert found.encoding["fingerprint"] == file_fingerprint(ckpt) and found.encoding["weights"] == "raw"
    assert (found.encoding["model"], found.encoding["network"]) == ("tiny_encoder", "tiny")
    assert found.spec.class_names == ("a", "b") and found.source["num_frames"] == 2
    assert data("inspect", inspected(tmp_path, out), "--out", tmp_path / "report") == 0
    assert "\nclips: 4 frames as tokens below 251, 2 x 2 x 2 (steps of 2 frames)," in capsys.readouterr().out


def inspected(folder: Path, out: Path) -> Path:
    path = folder / "encoded.yaml"
    path.write_text(f"data: {{name: encoded, root: {out}, num_frames: 4}}\n")
    return path


def test_a_place_is_encoded_at_the_size_of_the_model(ckpt, tmp_path, capsys):
    make_strips(tmp_path / "strips", {"a/x.png": 8, "b/y.png": 9}, side=24)
    out = tmp_path / "codes"
    assert data("encode", tmp_path / "strips", "--clips", 4, "--ckpt", ckpt, "--out", out) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 4 videos, 8 steps of 2 frames, 0.00 GB\nclips of 4 frames, one")
    found = Encoded(str(out), 4)
    assert found.spec.class_names == ("a", "b") and found.spec.encoding is not None
    assert found.source == {
        "name": "frame_strips",
        "root": f"{tmp_path}/strips",
        "num_frames": 1,
        "resolution": 8,
        "channels": 3,
        "labels": {"by": "folder"},
    }
    none = ("data.labels.by=none", "name=frame_strips", "--window", 4, "--batch-size", 1)
    assert data("encode", tmp_path / "strips", "--ckpt", ckpt, "--out", tmp_path / "none", *none) == 0
    assert Encoded(f"{tmp_path}/none", 4).spec.class_names == ()


def test_a_pack_is_encoded_to_the_same(config, ckpt, tmp_path):
    assert data("pack", config, "--out", tmp_path / "pack", "--workers", 1) == 0
    for name, place in (("a", config), ("b", tmp_path / "pack")):
        assert data("encode", place, "--ckpt", ckpt, "--out", tmp_path / name) == 0
    for name in os.listdir(tmp_path / "a"):
        if name.startswith("shard"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert Encoded(f"{tmp_path}/b", 4).spec.class_names == ("a", "b")


def test_processes_of_a_launcher_share_the_work(config, ckpt, tmp_path, monkeypatch, capsys):
    words = ("encode", config, "--ckpt", ckpt, "--out", tmp_path / "codes")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert data(*words) == 0
    shown = capsys.readouterr().out
    assert "shards still to be made: 1; the last `vidgen data encode` joins them" in shown
    assert len(Encoded(f"{tmp_path}/codes", 4)) == 3


def test_errors_of_encoding_name_the_argument(config, ckpt, tmp_path, capsys):
    out = ("--out", tmp_path / "no")
    given = ("encode", config, "--ckpt", ckpt, *out)
    for option in ("--clips", "--window", "--batch-size", "--shard-mb"):
        assert error_of(capsys, *given, option, 0) == f"{option}: expected at least 1, got 0"
    assert error_of(capsys, *given, "--shard", "2/2").startswith("--shard: expected i/n")
    assert error_of(capsys, *given, "--window", 3) == (
        "--window 3: must be a multiple of 2, the frames of one step of tiny_encoder"
    )
    assert error_of(capsys, *given, "data.resolution=16") == (
        f"data.resolution: is 16, but tiny_encoder in {ckpt} encodes 8; make them equal"
    )
    assert error_of(capsys, *given, "data.width=16") == (
        f"data.width: is 16, but tiny_encoder in {ckpt} encodes 8; make them equal"
    )
    assert error_of(capsys, *given, "data.channels=1") == (
        f"data.channels: is 1, but tiny_encoder in {ckpt} encodes 3; make them equal"
    )
    other = checkpoint(tmp_path / "reader.ckpt", TokenReader())
    assert error_of(capsys, "encode", config, "--ckpt", other, *out) == (
        f"--ckpt {other}: token_reader does not encode videos; give the checkpoint of an autoencoder"
    )
    assert error_of(capsys, "encode", config, "--ckpt", tmp_path / "no.ckpt", *out) == (
        f"{tmp_path}/no.ckpt: no such checkpoint"
    )
    assert error_of(capsys, "encode", tmp_path / "nowhere", "--ckpt", ckpt, *out) == (
        f"data '{tmp_path}/nowhere' does not exist; give a folder of videos, a pack, an .npz or a config"
    )
    assert error_of(capsys, "encode", tmp_path / "strips", "--stage", "a", "--ckpt", ckpt, *out) == (
        f"--stage: belongs to a config, and {tmp_path}/strips is none"
    )
    assert error_of(capsys, "encode", tmp_path / "strips", "size=3", "--ckpt", ckpt, *out) == (
        "data.size: unknown key; did you mean 'resize'?"
    )
    whole = checkpoint(tmp_path / "whole.ckpt", TinyEncoder(whole=True))
    assert error_of(capsys, "encode", config, "--ckpt", whole, *out, "--window", 4) == (
        "--window 4: tiny_encoder looks at all frames of a video at once, and the longest has 6; raise it to that, or"
        " give --clips"
    )
    assert error_of(capsys, "encode", config, *out) == (
        "the following arguments are required: --ckpt; see vidgen data encode --help"
    )
    inside = tmp_path / "strips" / "out"
    assert error_of(capsys, "encode", config, "--ckpt", ckpt, "--out", inside) == (
        f"--out: {inside} lies in the data's folder {tmp_path}/strips; choose a folder outside"
    )
    assert not (tmp_path / "no").exists()
