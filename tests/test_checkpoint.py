"""Checkpoint files: whole or absent, read without executing anything, refused in one line."""

from __future__ import annotations

import errno
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

import vidgen
import vidgen.atomic
from tests.contract.running import build
from vidgen.checkpoint import describe_model, read_checkpoint, write_checkpoint
from vidgen.errors import UserError


def saved(folder: Path, **changes: Any) -> Path:
    """A small checkpoint whose ``vidgen`` entry has the given changes."""
    model = build("mocogan", "default")
    path = folder / "x.ckpt"
    write_checkpoint(path, {"state_dict": model.state_dict(), "vidgen": {**describe_model(model), **changes}})
    return path


class NoSpace:
    """A file on a disk that is full after the first bytes."""

    def __init__(self, path: Path, mode: str) -> None:
        self.file = open(path, mode)  # noqa: SIM115

    def __enter__(self) -> NoSpace:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: bytes) -> int:
        self.file.write(bytes(data)[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_leaves_the_earlier_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(vidgen.atomic, "open", NoSpace, raising=False)
    with pytest.raises(UserError) as caught:
        write_checkpoint(path, {"state_dict": {"a": torch.zeros(1000)}, "vidgen": {}})
    assert str(caught.value) == f"{path}: no space left on the disk; free some, what was written before is intact"
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_place_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "x.ckpt"
    with pytest.raises(UserError) as caught:
        write_checkpoint(path, {})
    assert str(caught.value) == f"{path}: cannot be written (File exists); choose another place"


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        vidgen.load(tmp_path / "no.ckpt")
    assert str(caught.value) == f"{tmp_path}/no.ckpt: no such checkpoint"


@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_file_cut_short(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError) as caught:
        vidgen.load(path)
    assert str(caught.value) == f"{path}: unreadable checkpoint (damaged, cut short or of another kind)"


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.ckpt"
    path.write_text("not a checkpoint at all\n" * 20)
    with pytest.raises(UserError) as caught:
        vidgen.load(path)
    assert str(caught.value) == (
        f"{path}: not a vidgen checkpoint (it holds more than tensors and plain values); "
        "official files are read by `vidgen convert`"
    )


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("touch executed",))


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_pickle_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Hostile(), "vidgen": {}}, "bad.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError) as caught:
        vidgen.load("bad.ckpt")
    assert str(caught.value) == (
        "bad.ckpt: not a vidgen checkpoint (it holds more than tensors and plain values); "
        "official files are read by `vidgen convert`"
    )
    assert not Path("executed").exists()


def test_plain_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError):
        read_checkpoint(path)


def test_foreign_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(UserError) as caught:
        vidgen.load(path)
    assert str(caught.value) == f"{path}: not a vidgen checkpoint; official files are read by `vidgen convert`"


def test_newer_format(tmp_path: Path) -> None:
    path = saved(tmp_path, format=99)
    with pytest.raises(UserError) as caught:
        vidgen.load(path)
    assert str(caught.value) == f"{path}: checkpoint format 99, this vidgen reads format 1; update vidgen"


def test_class_of_a_module_that_is_not_imported_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "surprise.py").write_text("raise SystemExit('imported')")
    path = saved(tmp_path, model="surprise.Model")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(UserError) as caught:
            vidgen.load(path)
    finally:
        sys.path.remove(str(tmp_path))
    name = "surprise.Model"
    assert str(caught.value) == (
        f"{path}: holds a {name!r}, which is not imported here; name the class with --model {name}"
    )


def test_something_that_is_no_model_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, model="os.system")
    with pytest.raises(UserError, match="which is not imported here"):
        vidgen.load(path)


def test_own_class_by_argument_or_once_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidgen.models.mocogan import MoCoGAN

    class Mine(MoCoGAN):
        """A subclass outside the registry."""

    path = saved(tmp_path, model="mine.Mine")
    assert type(vidgen.load(path, model=Mine)) is Mine
    module = types.ModuleType("mine")
    module.Mine = Mine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine", module)
    assert type(vidgen.load(path)) is Mine


def test_missing_and_unknown_weights_are_named(tmp_path: Path) -> None:
    model = build("mocogan", "default")
    state = model.state_dict()
    first = next(iter(state))
    path = tmp_path / "x.ckpt"
    less = {key: value for key, value in state.items() if key != first}
    write_checkpoint(path, {"state_dict": less, "vidgen": describe_model(model)})
    with pytest.raises(UserError) as caught:
        vidgen.load(path)
    assert str(caught.value) == f"{path}: does not fit mocogan (lacks {first!r}); was it written by another version?"
    write_checkpoint(path, {"state_dict": {**state, "odd": torch.zeros(1)}, "vidgen": describe_model(model)})
    with pytest.raises(UserError) as caught:
        vidgen.load(path)
    expected = f"{path}: does not fit mocogan (has an unknown 'odd'); was it written by another version?"
    assert str(caught.value) == expected
