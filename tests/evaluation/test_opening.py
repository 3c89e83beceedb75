"""From what a user names to a data set."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.layouts import LENGTHS, SIDE, write_layouts
from tests.data.strips import make_strips, random_frames
from tests.data.video_files import VIDEOS, make_video
from tests.evaluation.tiny import videos
from vidgen.errors import UserError
from vidgen.evaluation.opening import layout_of, open_videos, unpacked
from vidgen.evaluation.sources import ClipRule, StoredClips
from vidgen.registry import DATASETS


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same videos in every layout, in class folders."""
    root = tmp_path_factory.mktemp("layouts")
    write_layouts(root)
    arrays = {name: random_frames(length, SIDE, seed=seed) for seed, (name, length) in enumerate(LENGTHS.items())}
    for name, frames in arrays.items():
        for folder, save in (("npz", lambda p, f: np.savez_compressed(f"{p}.npz", video=f)), ("npy", np.save)):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            save(root / folder / name, frames)
    (root / "config.yaml").write_text(
        f"data: {{name: frame_strips, root: {root}/strips, resolution: {SIDE}, num_frames: 4}}\n"
    )
    return root


def test_of_a_config_with_stages_a_model_gets_the_data_that_train_it(layouts, tmp_path):
    config = tmp_path / "stages.yaml"
    config.write_text(
        f"data: {{name: frame_strips, root: {layouts}/strips, resolution: {SIDE}, num_frames: 4}}\n"
        "stages:\n"
        "  first: {model: {name: tats_vqgan}}\n"
        "  second: {model: {name: tats}, data: {num_frames: 2}}\n"
        "  third: {model: {name: tats}, data: {num_frames: 3}}\n"
    )
    for model, frames in ((None, 4), ("tats_vqgan", 4), ("tats", 2), ("mocogan", 4)):
        assert open_videos(str(config), "--context", model=model)[0].spec.num_frames == frames


KINDS = {
    "strips": "frame_strips",
    "videos": "video_folder",
    "frames": "frame_folder",
    "zip.zip": "frame_folder",
    "zip_with_folders.zip": "frame_folder",
    "pack": "packed",
    "npz": "arrays",
    "npy": "arrays",
    "config.yaml": "frame_strips",
}


@pytest.mark.parametrize("place", KINDS)
def test_every_layout_is_found_and_gives_the_same_pixels(layouts, place):
    dataset, native = open_videos(str(layouts / place), "--real")
    assert DATASETS.name_of(type(dataset)) == KINDS[place]
    assert native == (place != "config.yaml")
    rule = ClipRule(12, order="first", start="first")
    read = StoredClips(dataset, rule, native=native, name=place).read(range(5))
    for seed, clip in enumerate(read):
        length = list(LENGTHS.values())[seed]
        expected = random_frames(length, SIDE, seed=seed)[:12].transpose(3, 0, 1, 2)
        assert torch.equal(clip.video, torch.from_numpy(expected.copy()))


def test_resolution_brings_frames_to_a_size(layouts):
    for place in KINDS:
        dataset, native = open_videos(str(layouts / place), "--real", 8)
        clip = StoredClips(dataset, ClipRule(3), native=native, name=place).read([0])[0]
        assert clip.video.shape == (3, 3, 8, 8)


def test_settings_reach_the_data_set(layouts):
    assert (
        open_videos(str(layouts / "strips"), "--real", None, ["resolution=4", "resize=stretch"])[0].resize == "stretch"
    )
    dataset, native = open_videos(str(layouts / "frames"), "--real", None, ["name=frame_folder", "fps=12.5"])
    assert (dataset.spec.fps, native) == (12.5, True)
    split, _ = open_videos(str(layouts / "config.yaml"), "--real", None, ["split.by=folder", "split.folder=run"])
    assert len(split) == 2


def test_what_a_model_needs_gives_way_to_what_the_user_says(layouts):
    needed = {"resolution": 4, "channels": 1}
    dataset, native = open_videos(str(layouts / "strips"), "--real", None, [], needed)
    assert (dataset.spec.resolution, dataset.spec.channels, native) == (4, 1, False)
    assert open_videos(str(layouts / "strips"), "--real", 8, ["channels=3"], needed)[0].spec.resolution == 8
    assert open_videos(str(layouts / "strips"), "--real", None, ["resolution=6"], needed)[0].spec.resolution == 6
    assert open_videos(str(layouts / "pack"), "--real", None, [], needed)[0].spec.resolution == 4


def test_many_videos_in_one_file(tmp_path):
    arrays = videos(7)
    np.savez(tmp_path / "a.npz", video=arrays)
    np.save(tmp_path / "a.npy", arrays)
    for name in ("a.npz", "a.npy"):
        dataset, _ = open_videos(str(tmp_path / name), "--fake")
        assert len(dataset) == 7
        clip = StoredClips(dataset, ClipRule(6, order="first"), native=True, name="x").read([3])[0]
        assert torch.equal(clip.video, torch.from_numpy(arrays[3].transpose(3, 0, 1, 2).copy()))


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["a.mp4", "b.mp4", "b.jpg", "readme.txt"], "video_folder"),
        (["x/y/a.mp4", "x/z/b.webm"], "video_folder"),
        (["a.gif", "b.gif"], "video_folder"),
        (["a.npz", "a.json", "a.csv"], "arrays"),
        (["a.wrong", "b.wrong", "c.png"], "video_folder"),
        (["walk/p1/0.png", "walk/p1/1.png", "run/p1/0.jpg", "run/p1/notes.docx"], "frame_folder"),
        (["a/0.png", "a/1.png"], "frame_folder"),
    ],
)
def test_layout_is_told_by_the_files(tmp_path, files, kind):
    for file in files:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".png", ".jpg"):
            Image.fromarray(random_frames(1, 8)[0]).save(path)
        else:
            path.write_bytes(b"x")
    assert layout_of(tmp_path, "--real") == kind


def test_strips_are_told_by_their_shape_though_some_are_damaged(tmp_path):
    make_strips(tmp_path, {"walk/b.jpg": 6, "run/c.png": 4, "run/d.png": 9})
    (tmp_path / "run" / "a.png").write_bytes(b"no image")
    assert layout_of(tmp_path, "--real") == "frame_strips"


def test_grids_beside_samples_are_passed_over(tmp_path):
    np.savez(tmp_path / "000000.npz", video=videos(1)[0])
    (tmp_path / "samples.json").write_text("{}")
    for name in ("grid.mp4", "grid.gif"):
        (tmp_path / name).write_bytes(b"x")
    assert layout_of(tmp_path, "--fake") == "arrays"


def message(place: Path, *overrides: str, resolution: int | None = None) -> str:
    with pytest.raises(UserError) as error:
        open_videos(str(place), "--real", resolution, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_is_no_place_of_videos_is_one_line(tmp_path):
    root = tmp_path / "data.d"  # the name looks like a key
    root.mkdir()
    assert message(root / "none") == (
        f"--real '{root}/none' does not exist; give a folder of videos, a pack, an .npz or a config"
    )
    assert message(root) == f"--real '{root}' holds no videos; give the folder that they lie in"
    (root / "notes.txt").write_text("x")
    assert message(root) == f"--real '{root}' holds no videos; give the folder that they lie in"
    video = make_video(root / "a.mp4", VIDEOS["h264"])
    assert message(video) == (
        f"--real '{video}' is a single file; give a folder of videos, a pack, a zip, an .npz or a config"
    )
    (root / "images").mkdir()
    for number in range(3):
        Image.fromarray(random_frames(1, 8)[0]).save(root / "images" / f"{number}.png")
    assert message(root / "images") == (
        f"--real '{root}/images' holds 3 images and no folder of images; use real.name frame_strips (one image per"
        " video) or image_folder (single images), or give the folder above"
    )
    assert message(root / "images", "nme=3") == "real.nme: unknown key; did you mean 'name'?"
    assert message(root / "images", "name=frame_strip") == (
        "real.name: unknown dataset 'frame_strip'; did you mean 'frame_strips'?"
    )
    assert message(root / "images", "fps=fast") == "real.fps: expected float | None, got 'fast' (str)"


def test_arrays_that_are_no_videos_are_one_line(tmp_path):
    np.savez(tmp_path / "float.npz", video=np.zeros((4, 8, 8, 3), np.float32))
    np.savez(tmp_path / "pickled.npz", video=np.array([{}], object))
    np.savez(tmp_path / "two.npz", a=videos(1), b=videos(1))
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 not really")
    expected = {
        "float": "holds float32; videos are uint8 in 0 .. 255",
        "pickled": "holds object; videos are uint8 in 0 .. 255",
        "two": "holds a, b; one of them must be called 'video'",
        "damaged": "damaged (File is not a zip file)",
    }
    for name, reason in expected.items():
        path = tmp_path / f"{name}.npz"
        assert message(path) == f"--real '{path}': none of its 1 file can be used (the first, '{name}.npz': {reason})"


def zipped(folder: Path) -> Path:
    """Everything in a folder as a zip beside it."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder.parent))
    return path


def test_zips_of_videos_and_of_arrays_are_read_as_their_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    make_video(tmp_path / "videos" / "a" / "0.mkv", VIDEOS["ffv1"])
    (tmp_path / "arrays").mkdir()
    np.savez(tmp_path / "arrays" / "0.npz", video=random_frames(5, 8))
    for name in ("videos", "arrays"):
        plain, packed = (open_videos(str(place), "--fake")[0] for place in (tmp_path / name, zipped(tmp_path / name)))
        assert type(packed) is type(plain) and packed.lengths.tolist() == plain.lengths.tolist()
        assert np.array_equal(packed.stored(0, [3, 1]), plain.stored(0, [3, 1]))


def test_a_zip_is_unpacked_once_and_anew_when_it_has_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "arrays").mkdir()
    np.savez(tmp_path / "arrays" / "0.npz", video=random_frames(5, 8))
    path = zipped(tmp_path / "arrays")
    first = unpacked(path)
    before = [file.stat().st_mtime_ns for file in sorted(first.rglob("*.npz"))]
    assert unpacked(path) == first
    assert [file.stat().st_mtime_ns for file in sorted(first.rglob("*.npz"))] == before
    np.savez(tmp_path / "arrays" / "1.npz", video=random_frames(5, 8))
    again = unpacked(zipped(tmp_path / "arrays"))
    assert again != first and len(list(again.rglob("*.npz"))) == 2


def test_nothing_is_unpacked_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("../../outside.npz", b"x")
        archive.writestr("inside.npz", b"x")
    folder = unpacked(tmp_path / "x.zip")
    assert [file.name for file in folder.rglob("*")] == ["inside.npz"]
    assert not list(tmp_path.rglob("outside.npz"))


def test_configs_say_their_own_keys(tmp_path):
    path = tmp_path / "x.yaml"
    assert message(path).startswith(f"--real {path}: no such file")
    path.write_text("seed: 1\n")
    assert message(path) == f"--real {path}: data: missing; the config needs this section"
    path.write_text("data: {name: frame_strips, root: /nowhere, resolution: 8, num_frames: 2}\n")
    assert message(path) == f"--real {path}: data.root: no such folder: /nowhere"
    path.write_text("data: {name: frame_strips, root: /, resolutoin: 8, num_frames: 2}\n")
    assert message(path) == f"--real {path}: data.resolutoin: unknown key; did you mean 'resolution'?"


def test_damaged_packs_are_one_line(layouts, tmp_path):
    (tmp_path / "pack.json").write_text("{}")
    found = message(tmp_path)
    assert found.startswith(f"--real '{tmp_path}'")
    assert "run `vidgen data merge` on it" in found
