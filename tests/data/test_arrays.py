"""Videos as NumPy arrays."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.tiny import videos
from vidgen.data import arrays as module
from vidgen.data.annotations import Labels
from vidgen.data.arrays import ArrayVideos, array_shape, read_array
from vidgen.data.dataset import UnreadableVideo
from vidgen.data.decoding import Unreadable
from vidgen.data.request import ClipRequest
from vidgen.errors import UserError


def dataset(root: Path, **settings: Any) -> ArrayVideos:
    return ArrayVideos(str(root), 8, 2, **{"labels": Labels("none"), **settings})


def frames(made: ArrayVideos, video: int) -> np.ndarray:
    return made.stored(video, range(int(made.lengths[video])))


@pytest.mark.parametrize("save", [np.save, lambda p, a: np.savez(f"{p}.npz", a), lambda p, a: np.savez_compressed(f"{p}.npz", video=a, other=1)])  # fmt: skip # noqa: E501
def test_one_file_holds_one_video_or_many(tmp_path, save):
    many = videos(3, frames=5)
    save(tmp_path / "many", many)
    save(tmp_path / "one", many[0, :4])
    made = dataset(tmp_path)
    assert list(made.names) == [f"{next(tmp_path.glob('many*')).name}#{n:06d}" for n in range(3)] + [
        next(tmp_path.glob("one*")).name
    ]
    assert made.lengths.tolist() == [5, 5, 5, 4]
    for number in range(3):
        assert np.array_equal(frames(made, number), many[number])
    assert np.array_equal(frames(made, 3), many[0, :4])
    assert made.path(1) == str(tmp_path / made.names[1])


def test_folders_are_classes(tmp_path):
    for folder in ("run", "walk"):
        (tmp_path / folder).mkdir()
        np.savez(tmp_path / folder / "a.npz", video=videos(2))
    made = dataset(tmp_path, labels=Labels())
    assert made.spec.class_names == ("run", "walk")
    assert made.labels.tolist() == [0, 0, 1, 1]


def test_clips_are_resized_and_grey_ones_get_three_channels(tmp_path):
    np.save(tmp_path / "a.npy", videos(1, side=16, channels=1)[0])
    clip = dataset(tmp_path).read(ClipRequest(0, (0, 2), 8))["video"]
    assert clip.shape == (3, 2, 8, 8)
    assert dataset(tmp_path, channels=1).read(ClipRequest(0, (0, 2), 8))["video"].shape == (1, 2, 8, 8)


ORDERS = ["TNHW", "THW", "NTHW", "NCTHW", "CTHW", "TCHW", "NTHWC", "WHTN"]


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("save", [np.save, lambda path, array: np.savez_compressed(f"{path}.npz", array)])
def test_axes_of_any_order_are_read(tmp_path, axes, save):
    many = videos(3, frames=5, side=6, channels=3 if "C" in axes else 1)
    chosen = many if "N" in axes else many[:1]
    where = ["NTHWC".index(axis) for axis in axes]
    rest = tuple(axis for axis in range(5) if axis not in where)
    save(tmp_path / "a", chosen.transpose([*where, *rest]).reshape([chosen.shape[axis] for axis in where]))
    made = dataset(tmp_path, axes=axes, channels=chosen.shape[-1])
    assert made.lengths.tolist() == [5] * len(chosen)
    for number in range(len(chosen)):
        assert np.array_equal(frames(made, number), chosen[number])
    assert made.read(ClipRequest(0, (3, 1), 8))["video"].shape == (chosen.shape[-1], 2, 8, 8)


def test_a_file_of_other_axes_stays_mapped(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 3, 6, 6), np.uint8))
    made = dataset(tmp_path, axes="TNHW", channels=1)
    frames(made, 1)
    (array,) = made._open.values()
    assert isinstance(array, np.memmap) and array.shape == (3, 5, 6, 6, 1)
    assert np.shares_memory(array, array.base)


def test_files_that_do_not_have_the_axes_are_skipped_with_the_reason(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 3, 6, 6), np.uint8))
    np.save(tmp_path / "b.npy", np.zeros((5, 6, 6), np.uint8))
    assert dataset(tmp_path, axes="TNHW").skipped == {
        str(tmp_path / "b.npy"): "holds an array of shape (5, 6, 6); data.axes 'TNHW' names 4 axes"
    }
    made = dataset(tmp_path, axes="THW")
    assert list(made.skipped.values()) == ["holds an array of shape (5, 3, 6, 6); data.axes 'THW' names 3 axes"]
    np.save(tmp_path / "c.npy", np.zeros((5, 2, 6, 6), np.uint8))
    made = dataset(tmp_path, axes="TCHW")
    assert made.skipped[str(tmp_path / "c.npy")] == (
        "holds an array of shape (5, 2, 6, 6); videos are TCHW with 1 or 3 channels"
    )
    assert made.lengths.tolist() == [5]


@pytest.mark.parametrize("axes", ["", "TNH", "TTHW", "TNHWX", "nthw", "T N H W"])
def test_axes_that_make_no_videos_are_refused(tmp_path, axes):
    np.save(tmp_path / "a.npy", np.zeros((5, 3, 6, 6), np.uint8))
    with pytest.raises(UserError) as error:
        dataset(tmp_path, axes=axes)
    assert str(error.value) == (
        f"data.axes is {axes!r}; it must name T, H and W, and may name N and C, each once, as TNHW"
    )


def shaped(*shape: int) -> Any:
    return lambda path: np.save(path, np.zeros(shape, np.uint8))


def of_shape(*shape: int) -> str:
    return f"holds an array of shape {shape}; videos are (T, H, W, C) or (N, T, H, W, C) with 1 or 3 channels"


REASONS = {
    "float.npz": (
        lambda path: np.savez(path, video=np.zeros((2, 4, 4, 3), np.float32)),
        "holds float32; videos are uint8 in 0 .. 255",
    ),
    "pickled.npy": (
        lambda path: np.save(path, np.array([{}], object)),
        "holds object; videos are uint8 in 0 .. 255",
    ),
    "flat.npy": (shaped(4, 4, 3), of_shape(4, 4, 3)),
    "planes.npy": (shaped(3, 5, 4, 4), of_shape(3, 5, 4, 4)),
    "none.npy": (shaped(0, 4, 4, 3), of_shape(0, 4, 4, 3)),
    "several.npz": (
        lambda path: np.savez(path, a=videos(1), b=videos(1)),
        "holds a, b; one of them must be called 'video'",
    ),
    "nothing.npz": (
        lambda path: zipfile.ZipFile(path, "w").close(),
        "holds no arrays; one of them must be called 'video'",
    ),
    "text.npz": (lambda path: path.write_text("x"), "damaged (File is not a zip file)"),
    "empty.npy": (
        lambda path: path.write_bytes(b""),
        "damaged (EOF: reading magic string, expected 8 bytes got 0)",
    ),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_no_video_is_skipped_with_the_reason(tmp_path, name):
    make, reason = REASONS[name]
    make(tmp_path / name)
    np.savez(tmp_path / "good.npz", video=videos(2))
    made = dataset(tmp_path)
    assert made.skipped == {str(tmp_path / name): reason}
    assert len(made) == 2


def test_nothing_that_can_be_used_is_an_error(tmp_path):
    (tmp_path / "a.npz").write_text("x")
    with pytest.raises(UserError) as error:
        dataset(tmp_path)
    assert str(error.value) == (
        f"data.root '{tmp_path}': none of its 1 file can be used (the first, 'a.npz': damaged (File is not a zip file))"
    )


def test_pickles_are_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "exploded",))

    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("video.npy", pickle.dumps(Bomb()))
    np.save(tmp_path / "b.npy", np.array([Bomb()], object), allow_pickle=True)
    for name in ("a.npz", "b.npy"):
        with pytest.raises(Unreadable):
            read_array(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_any_damage_is_a_reason_and_no_crash(tmp_path, save):
    save(tmp_path / "a.npz", video=videos(1)[0])
    content = (tmp_path / "a.npz").read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(content[: int(generator.integers(1, len(content) + 1))])
        for at in generator.integers(0, len(damaged), 5):
            damaged[at] = generator.integers(0, 256)
        (tmp_path / "b.npz").write_bytes(damaged)
        try:
            array_shape(tmp_path / "b.npz")
            assert read_array(tmp_path / "b.npz").dtype == np.uint8
        except Unreadable as error:
            assert "\n" not in str(error)


def test_compressed_bytes_that_make_no_sense_are_damage(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", video=videos(1)[0])
    content = bytearray((tmp_path / "a.npz").read_bytes())
    name, extra = (int.from_bytes(content[at : at + 2], "little") for at in (26, 28))
    content[30 + name + extra] = 0xFF  # no block of a deflated stream begins so
    (tmp_path / "a.npz").write_bytes(content)
    for read in (array_shape, read_array):
        with pytest.raises(Unreadable, match=r"^damaged \(Error -3 while decompressing data"):
            read(tmp_path / "a.npz")


def test_a_cut_off_array_is_found_out_when_it_is_read(tmp_path):
    np.save(tmp_path / "a.npy", videos(1)[0])
    np.save(tmp_path / "b.npy", videos(1)[0])
    content = (tmp_path / "b.npy").read_bytes()
    (tmp_path / "b.npy").write_bytes(content[:-7])
    made = dataset(tmp_path)
    with pytest.raises(UnreadableVideo) as error:
        frames(made, 1)
    assert error.value.path == str(tmp_path / "b.npy")
    assert error.value.reason.startswith("damaged (")


def test_a_file_that_changed_or_is_gone_is_unreadable(tmp_path):
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", video=videos(1)[0])
    made = dataset(tmp_path)
    np.savez(tmp_path / "a.npz", video=videos(1, frames=3)[0])
    (tmp_path / "b.npz").unlink()
    reasons = []
    for video in range(2):
        with pytest.raises(UnreadableVideo) as error:
            frames(made, video)
        reasons.append(error.value.reason)
    assert reasons == ["it had 6 frames at the start and has 3 now", "it is gone"]


def test_arrays_in_memory_are_bounded_and_one_always_stays(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        np.savez_compressed(tmp_path / f"{name}.npz", video=videos(2))
    made = dataset(tmp_path)
    read: list[str] = []
    monkeypatch.setattr(module, "read_array", lambda path, axes: (read.append(path.name), read_array(path, axes))[1])
    size = videos(2).nbytes
    for most, expected in ((3 * size, 3), (2 * size, 4), (0, 6)):
        monkeypatch.setattr(module, "MOST_BYTES", most)
        made._open.clear()
        read.clear()
        for video in (0, 2, 4, 0, 1, 0) if expected > 3 else (0, 2, 4, 0, 2, 4):
            frames(made, video)
        assert len(read) <= expected
        assert sum(array.nbytes for array in made._open.values()) <= max(most, size)
    assert read[-1] == "a.npz"


def test_npy_files_are_mapped_and_take_no_memory(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", videos(2))
    made = dataset(tmp_path)
    frames(made, 0)
    frames(made, 2)
    assert all(isinstance(array, np.memmap) for array in made._open.values())
    assert len(made._open) == 2


def test_copies_in_other_processes_open_files_anew(tmp_path):
    np.savez(tmp_path / "a.npz", video=videos(2))
    made = dataset(tmp_path)
    frames(made, 0)
    copied = pickle.loads(pickle.dumps(made))
    assert (len(made._open), len(copied._open)) == (1, 0)
    assert np.array_equal(frames(copied, 1), frames(made, 1))


def test_zips_are_to_be_unpacked(tmp_path):
    np.savez(tmp_path / "a.npz", video=videos(2))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "a.npz", "a.npz")
    with pytest.raises(UserError, match=r"is a zip; unpack it to read the arrays in it$"):
        dataset(tmp_path / "x.zip")
