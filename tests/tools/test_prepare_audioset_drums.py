"""Videos of drummers and pickles of spectrograms, to videos and arrays of the same names."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import prepare_audioset_drums as tool
from array_pickle import read_array
from preparation import main

from tests.data.layouts import save_video
from tests.data.strips import random_frames
from vidgen.data.audio import Audio
from vidgen.data.request import ClipRequest
from vidgen.data.video_folder import VideoFolder
from vidgen.errors import UserError

LENGTH = 5


def spectrogram(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((LENGTH, 45, 17))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for number, name in enumerate(("train/a", "train/b", "test/c")):
        save_video(tmp_path / "raw/video" / f"{name}.mp4", random_frames(LENGTH, 16, seed=number))
        path = tmp_path / "raw/stft" / f"{name}.pickle"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(spectrogram(number)))
    return tmp_path / "raw"


def run(*arguments: object) -> int:
    return main(tool.build_parser(), tool.prepare, [str(argument) for argument in arguments])


def test_spectrograms_lie_beside_their_videos(raw, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("--raw", raw, "--out", out) == 0
    assert capsys.readouterr() == (
        f"wrote {out}: 2 in train, 1 in test\na config reads it with\n  name: video_folder\n  root: {out}\n"
        f'  split: {{by: folder, folder: train}}\n  labels: {{by: none}}\n  audio: {{root: "{out}"}}\n',
        "",
    )
    assert np.array_equal(np.load(out / "train/b.npy"), spectrogram(1).astype(np.float32))
    assert (out / "test/c.mp4").samefile(raw / "video/test/c.mp4")
    dataset = VideoFolder(str(out), 16, 3, audio=Audio(out))
    assert dataset.read(ClipRequest(0, (0, 1, 2), 16))["audio"].shape == (1, 3, 64, 16)


def test_what_cannot_be_used_is_skipped(raw, tmp_path, capsys):
    (raw / "video/train/b.mp4").unlink()
    (raw / "stft/train/a.pickle").write_bytes(pickle.dumps(40 * spectrogram()))
    (raw / "stft/test/d.pickle").write_bytes(pickle.dumps(spectrogram()[0]))
    (raw / "video/test/d.mp4").write_bytes(b"nothing")
    assert run("--raw", raw, "--out", tmp_path / "out") == 0
    high = float((40 * spectrogram()).max())
    low = float((40 * spectrogram()).min())
    assert capsys.readouterr().err == (
        f"skipped {raw}/stft/train/a.pickle: its values span {low:g} to {high:g}; they should lie in 0 .. 1\n"
        f"skipped {raw}/stft/train/b.pickle: {raw}/video/train/b.mp4 is not there\n"
        f"skipped {raw}/stft/test/d.pickle: its array has the shape (45, 17); it should be (frames, frequencies,"
        " times)\n"
    )
    assert [path.name for path in (tmp_path / "out").rglob("*.npy")] == ["c.npy"]


def test_a_folder_without_them_is_refused(tmp_path, capsys):
    assert run("--raw", tmp_path, "--out", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        f"prepare_audioset_drums: error: '{tmp_path}/stft' does not exist; it should be the folder of spectrograms."
        f" {tool.OBTAIN}\n"
    )
    (tmp_path / "stft").mkdir()
    assert run("--raw", tmp_path, "--out", tmp_path / "out") == 2
    assert "holds no spectrogram with a video that can be used" in capsys.readouterr().err


# Pickles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4", "fortran"])
def test_arrays_of_every_protocol(kind, protocol, tmp_path):
    array = np.asfortranarray(spectrogram()) if kind == "fortran" else spectrogram().astype(kind)
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(array, protocol))
    found = read_array(tmp_path / "a.pickle")
    assert np.array_equal(found, array) and found.dtype == array.dtype.newbyteorder("=")


def test_a_name_of_older_versions_of_numpy(tmp_path):
    data = pickle.dumps(spectrogram(), 2)
    assert b"numpy._core" in data or b"numpy.core" in data
    for core in (b"numpy.core", b"numpy._core"):
        renamed = data.replace(b"numpy._core", b"numpy.core").replace(b"numpy.core", core)
        (tmp_path / "a.pickle").write_bytes(renamed)
        assert np.array_equal(read_array(tmp_path / "a.pickle"), spectrogram())


class Hostile:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Sneaky:
    """The same by the name of a module that arrays are made with."""

    def __reduce__(self):
        return eval, ("1",)


REFUSED = {
    "a list": ([1.0, 2.0], "is no pickle of an array of floats (it holds a list)"),
    "integers": (np.arange(4), "is no pickle of an array of floats (its numbers are no floats)"),
    "objects": (np.array([{}], object), "is no pickle of an array of floats"),
    "a name": (Sneaky(), "names builtins.eval, which is not allowed in such a file; nothing in it was executed"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_anything_else_is_refused(what, tmp_path):
    path = tmp_path / "a.pickle"
    value, message = REFUSED[what]
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(UserError) as caught:
        read_array(path)
    assert str(caught.value).startswith(f"{path}: {message}") and "\n" not in str(caught.value)


def test_nothing_in_a_hostile_file_runs(raw, tmp_path, capsys):
    (raw / "stft/train/a.pickle").write_bytes(pickle.dumps(Hostile(tmp_path / "made")))
    assert run("--raw", raw, "--out", tmp_path / "out") == 0
    name = f"{os.system.__module__}.system"
    assert capsys.readouterr().err == (
        f"skipped {raw}/stft/train/a.pickle: names {name}, which is not allowed in such a file; nothing in it was"
        " executed\n"
    )
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("kept", [0, 1, 20, 200, -1])
def test_files_that_are_cut_off_are_refused(kept, tmp_path):
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(spectrogram())[:kept])
    with pytest.raises(UserError, match="is no pickle of an array of floats"):
        read_array(tmp_path / "a.pickle")


def test_an_array_that_is_larger_than_its_bytes_is_refused(tmp_path):
    data = pickle.dumps(spectrogram().astype(np.float32), 4)
    (tmp_path / "a.pickle").write_bytes(data.replace(b"K\x05K-K\x11", b"K\x06K-K\x11"))
    with pytest.raises(UserError, match="its array has another size than its bytes"):
        read_array(tmp_path / "a.pickle")
    (tmp_path / "b.pickle").write_bytes(b"\x80\x02]r\x00\x00\x10\x00.")  # the object of number 1048576, of one
    with pytest.raises(UserError, match=r"is no pickle of an array of floats \(EOFError\)"):
        read_array(tmp_path / "b.pickle")
    with pytest.raises(UserError, match="cannot be read"):
        read_array(tmp_path / "gone.pickle")
