"""MNIST's four files, packed or not, checked and unpacked."""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import prepare_mnist
from preparation import main

from vidgen.data.moving_mnist import MovingMNIST

SITE = (
    "Obtain it at https://ossci-datasets.s3.amazonaws.com/mnist/, a mirror of http://yann.lecun.com/exdb/mnist/"
    " (train-images-idx3-ubyte.gz and three more)"
)
NAMES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "t10k": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx(array: np.ndarray) -> bytes:
    """The format as MNIST's page describes it, written down a second time."""
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def contents() -> dict[str, bytes]:
    """Name -> bytes of the unpacked file."""
    rng = np.random.default_rng(0)
    made = {}
    for part, number in (("train", 6), ("t10k", 4)):
        images, labels = NAMES[part]
        made[images] = idx(rng.integers(0, 256, (number, 28, 28)))
        made[labels] = idx(np.arange(number) % 10)
    return made


@pytest.fixture
def raw(tmp_path: Path, contents: dict[str, bytes]) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    for name, data in contents.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(data))
    return folder


def run(raw: Path, *more: str) -> int:
    arguments = ["--raw", str(raw), "--out", str(raw.parent / "out"), *more]
    return main(prepare_mnist.build_parser(), prepare_mnist.prepare, arguments)


def written(raw: Path) -> dict[str, bytes]:
    out = raw.parent / "out"
    files = [path for path in out.iterdir() if path.name != ".options"] if out.is_dir() else []
    return {path.name: path.read_bytes() for path in files}


def error(capsys) -> list[str]:
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err.removesuffix("\n").split("\n")


def make_original(raw: Path, contents: dict[str, bytes], monkeypatch) -> None:
    """Let the tiny files of this test be the original ones."""
    sums = {name: hashlib.md5((raw / f"{name}.gz").read_bytes()).hexdigest() for name in contents}
    monkeypatch.setattr(prepare_mnist, "MD5", sums)
    monkeypatch.setattr(prepare_mnist, "NUMBER", {"train": 6, "test": 4})


def test_packed_files_are_unpacked(raw, contents, capsys, monkeypatch):
    make_original(raw, contents, monkeypatch)
    assert run(raw) == 0
    assert written(raw) == contents
    shown = capsys.readouterr()
    out = raw.parent / "out"
    assert shown.err == ""
    assert shown.out.splitlines() == [
        f"wrote {out}: 6 in train, 4 in test",
        "a config reads it with",
        "  name: moving_mnist",
        f"  root: {out}",
        "  part: train  # or test",
    ]


def test_the_result_is_what_moving_mnist_reads(raw):
    assert run(raw, "--any-content") == 0
    assert len(MovingMNIST(str(raw.parent / "out"), 64, 4, num_digits=1)) == 6


@pytest.mark.parametrize("spelling", ["-idx", ".idx"])
def test_unpacked_files_of_both_spellings_are_taken(raw, contents, spelling):
    for name, data in contents.items():
        (raw / f"{name}.gz").unlink()
        (raw / name.replace("-idx", spelling)).write_bytes(data)
    assert run(raw, "--any-content") == 0
    assert written(raw) == contents


def test_files_of_another_size_are_noted(raw, capsys):
    assert run(raw) == 0
    lines = capsys.readouterr().err.splitlines()
    path = raw / "train-images-idx3-ubyte.gz"
    assert len(lines) == 4
    text = "is not the original (6 items instead of 60000); --any-content leaves this out"
    assert lines[0] == f"note: {path} {text}"


def test_a_file_of_another_checksum_is_noted(raw, contents, capsys, monkeypatch):
    make_original(raw, contents, monkeypatch)
    path = raw / "t10k-images-idx3-ubyte.gz"
    was = hashlib.md5(path.read_bytes()).hexdigest()
    path.write_bytes(gzip.compress(contents[path.stem], compresslevel=1) + gzip.compress(b""))
    now = hashlib.md5(path.read_bytes()).hexdigest()
    assert run(raw) == 0
    text = f"note: {path} is not the original (MD5 {now} instead of {was}); --any-content leaves this out\n"
    assert capsys.readouterr().err == text
    assert written(raw) == contents


def test_any_content_says_nothing(raw, capsys):
    assert run(raw, "--any-content") == 0
    assert capsys.readouterr().err == ""


def test_a_damaged_part_is_skipped_and_the_other_goes_on(raw, contents, capsys):
    path = raw / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(contents[path.stem][:-1]))
    assert run(raw, "--any-content") == 0
    size = 6 * 28 * 28 - 1
    assert capsys.readouterr().err == (
        f"skipped train: {str(path)!r} holds {size} numbers where its header says 6 x 28 x 28; get it anew\n"
    )
    assert sorted(written(raw)) == sorted(NAMES["t10k"])


def test_nothing_that_can_be_used_is_an_error(raw, capsys):
    for part in NAMES.values():
        (raw / f"{part[0]}.gz").write_bytes(b"<html>")
    assert run(raw) == 2
    assert error(capsys)[-1] == f"prepare_mnist: error: {str(raw)!r}: neither part can be used. {SITE}"
    assert written(raw) == {}


def test_a_second_run_keeps_what_is_there(raw, contents, capsys):
    assert run(raw, "--any-content") == 0
    first = capsys.readouterr().out
    out = raw.parent / "out"
    (out / "train-labels-idx1-ubyte").write_bytes(b"kept")
    (out / "t10k-images-idx3-ubyte").unlink()
    assert run(raw, "--any-content") == 0
    assert capsys.readouterr().out == first
    assert written(raw) == {**contents, "train-labels-idx1-ubyte": b"kept"}


def test_a_missing_file_is_named_with_its_site(raw, capsys):
    (raw / "t10k-labels-idx1-ubyte.gz").unlink()
    assert run(raw) == 2
    text = f"{str(raw)!r} holds no t10k-labels-idx1-ubyte.gz, nor t10k-labels-idx1-ubyte. {SITE}"
    assert error(capsys) == [f"prepare_mnist: error: {text}"]
    assert written(raw) == {}


@pytest.mark.parametrize(
    ("name", "array", "text"),
    [
        (
            "train-images-idx3-ubyte",
            np.zeros((6, 32, 32)),
            "'{path}' holds an array of shape (6, 32, 32); it should be N x 28 x 28",
        ),
        (
            "train-labels-idx1-ubyte",
            np.zeros(5),
            "'{path}' holds an array of shape (5,);"
            " it should hold 6 labels, as 'train-images-idx3-ubyte.gz' has images",
        ),
        (
            "train-labels-idx1-ubyte",
            np.full(6, 10),
            "'{path}' holds the label 10; labels should be from 0 to 9",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_refused(raw, capsys, name, array, text):
    path = raw / f"{name}.gz"
    path.write_bytes(gzip.compress(idx(array)))
    assert run(raw, "--any-content") == 0
    assert capsys.readouterr().err == f"skipped train: {text.format(path=path)}\n"


def test_the_checksums_are_those_of_the_four_files():
    assert sorted(prepare_mnist.MD5) == sorted(name for part in NAMES.values() for name in part)
    assert prepare_mnist.MD5["train-images-idx3-ubyte"] == "f68b3c2dcbeaaa9fbdd348bbdeb94873"


def test_a_part_without_images_is_refused(raw, capsys):
    for name, array in zip(NAMES["t10k"], (np.zeros((0, 28, 28)), np.zeros(0)), strict=True):
        (raw / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    assert run(raw, "--any-content") == 0
    assert "skipped test: " in capsys.readouterr().err


def test_the_packed_file_stands_before_the_unpacked_one(raw, contents):
    name = "train-labels-idx1-ubyte"
    (raw / name).write_bytes(b"other")
    assert run(raw, "--any-content") == 0
    assert written(raw) == contents


def test_a_folder_of_the_name_is_passed_over(raw, contents):
    """Some archives hold a folder train-images-idx3-ubyte beside train-images.idx3-ubyte."""
    for name, data in contents.items():
        (raw / f"{name}.gz").unlink()
        (raw / name).mkdir()
        (raw / name.replace("-idx", ".idx")).write_bytes(data)
    assert run(raw, "--any-content") == 0
    assert written(raw) == contents


def test_what_was_found_is_counted(raw, capsys):
    assert run(raw, "--any-content") == 0
    assert capsys.readouterr().out.startswith(f"wrote {raw.parent / 'out'}: 6 in train, 4 in test\n")


def test_too_many_items_are_noted(raw, capsys, monkeypatch):
    monkeypatch.setattr(prepare_mnist, "NUMBER", {"train": 5, "test": 3})
    assert run(raw) == 0
    assert capsys.readouterr().err.count(" items instead of ") == 4


def test_unpacked_files_have_no_known_checksum(raw, contents, capsys, monkeypatch):
    make_original(raw, contents, monkeypatch)
    for name, data in contents.items():
        (raw / f"{name}.gz").unlink()
        (raw / name).write_bytes(data)
    assert run(raw) == 0
    assert capsys.readouterr().err == ""


def test_the_checksums_and_numbers_are_those_of_the_original():
    assert prepare_mnist.MD5 == {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }
    assert prepare_mnist.NUMBER == {"train": 60000, "test": 10000}


def test_another_set_is_not_mixed_in(raw, contents, capsys):
    assert run(raw, "--any-content") == 0
    kept, before = written(raw), hashlib.sha256(b"".join(contents.values())).hexdigest()[:16]
    name = "t10k-labels-idx1-ubyte"
    other = {**contents, name: idx(np.arange(4)[::-1])}
    (raw / f"{name}.gz").write_bytes(gzip.compress(other[name]))
    now = hashlib.sha256(b"".join(other.values())).hexdigest()[:16]
    capsys.readouterr()
    assert run(raw, "--any-content") == 2
    assert error(capsys) == [
        f"prepare_mnist: error: '{raw.parent}/out' was begun with content: {before}, this run has {now};"
        " use the same or another --out"
    ]
    assert written(raw) == kept


def test_files_that_another_program_unpacked_are_not_mixed_in(raw, capsys):
    (raw.parent / "out").mkdir()
    (raw.parent / "out" / "t10k-labels-idx1-ubyte").write_bytes(b"other")
    assert run(raw, "--any-content") == 2
    assert error(capsys) == [
        f"prepare_mnist: error: '{raw.parent}/out' holds t10k-labels-idx1-ubyte of unknown origin; choose another --out"
    ]
    assert written(raw) == {"t10k-labels-idx1-ubyte": b"other"}


def test_the_config_names_the_part_that_was_made(raw, capsys):
    (raw / "train-images-idx3-ubyte.gz").write_bytes(b"<html>")
    assert run(raw, "--any-content") == 0
    assert capsys.readouterr().out.endswith("  part: test\n")
