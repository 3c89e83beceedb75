"""Folders of images as videos, from a folder and from a zip."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.strips import random_frames, save_strip
from vidgen.data.annotations import Attributes, Labels
from vidgen.data.clips import Clips
from vidgen.data.dataset import UnreadableVideo
from vidgen.data.frame_folder import FrameFolder
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.module import VideoDataModule
from vidgen.data.request import ClipRequest
from vidgen.data.splits import Split
from vidgen.data.transforms import to_clip
from vidgen.errors import UserError
from vidgen.registry import DATASETS

LENGTHS = {"run/v1": 4, "run/v2": 12, "walk/v1": 5}


def save_frames(folder: Path, frames: np.ndarray, name: str = "frame{}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame).save(folder / name.format(number))


def make_videos(root: Path, lengths: dict[str, int] = LENGTHS) -> Path:
    """Video n is noise of seed n."""
    for seed, (name, length) in enumerate(lengths.items()):
        save_frames(root / name, random_frames(length, 8, seed=seed))
    return root


def zipped(root: Path, inner: str = "", folders: bool = False) -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        if folders and inner:
            archive.writestr(inner, b"")
        for file in sorted(root.rglob("*"), reverse=True):
            if file.is_file() or folders:
                archive.write(file, inner + str(file.relative_to(root)))
    return path


def videos(root: Path, **arguments: Any) -> FrameFolder:
    return FrameFolder(**{"root": str(root), "resolution": 8, "num_frames": 3, **arguments})


def message(root: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        videos(root, **arguments)
    return str(error.value)


def all_frames(dataset: Any, video: int = 0) -> torch.Tensor:
    return dataset.read(ClipRequest(video, tuple(range(dataset.lengths[video])), 8))["video"]


def batches(dataset: Any, number: int = 3) -> list[dict[str, torch.Tensor]]:
    loader = iter(VideoDataModule(dataset, batch_size=3, images_per_batch=2, seed=1).train_dataloader())
    return [next(loader) for _ in range(number)]


def equal(left: list[dict[str, torch.Tensor]], right: list[dict[str, torch.Tensor]]) -> bool:
    return all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(left, right, strict=True)
    )


def test_the_registry_knows_it():
    assert DATASETS.get("frame_folder") is FrameFolder


def test_a_folder_of_images_is_a_video(tmp_path):
    dataset = videos(make_videos(tmp_path), fps=25)
    assert list(dataset.names) == ["run/v1", "run/v2", "walk/v1"] and dataset.lengths.tolist() == [4, 12, 5]
    assert dataset.spec.class_names == ("run", "walk") and dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 1] and dataset.spec.fps == 25
    assert (dataset.spec.min_length, dataset.spec.max_length) == (4, 12)


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    make_videos(tmp_path)
    dataset = videos(tmp_path)
    for video, length in enumerate(LENGTHS.values()):
        assert torch.equal(all_frames(dataset, video), to_clip(random_frames(length, 8, seed=video)))


def test_a_sample_has_times_length_and_label(tmp_path):
    sample = videos(make_videos(tmp_path)).read(ClipRequest(2, (0, 2, 4), 8))
    assert torch.equal(sample["video"], to_clip(random_frames(5, 8, seed=2)[[0, 2, 4]]))
    assert sample["times"].tolist() == [0, 2, 4] and sample["times"].dtype == torch.float32
    assert sample["length"].item() == 5 and sample["label"].item() == 1


def test_folders_may_lie_deeper_and_hold_other_files(tmp_path, caplog):
    make_videos(tmp_path, {"run/film/v1": 4, "run/v2": 5})
    (tmp_path / "run" / "v2" / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    dataset = videos(tmp_path)
    assert list(dataset.names) == ["run/film/v1", "run/v2"] and dataset.spec.class_names == ("run",)
    assert not caplog.records


def test_without_class_folders_there_are_no_labels(tmp_path):
    dataset = videos(make_videos(tmp_path, {"v1": 4, "v2": 5}))
    assert dataset.labels is None and dataset.spec.class_names == ()


@pytest.mark.parametrize("folders", [False, True])
@pytest.mark.parametrize("inner", ["", "set/"])
def test_a_zip_gives_the_batches_of_its_folder(tmp_path, inner, folders):
    root = make_videos(tmp_path / "set")
    from_folder, from_zip = videos(root), videos(zipped(root, inner, folders))
    assert from_zip.spec == from_folder.spec
    assert equal(batches(from_zip), batches(from_folder))


def test_strips_give_the_same_batches(tmp_path):
    for seed, (name, length) in enumerate(LENGTHS.items()):
        save_strip(tmp_path / "strips" / f"{name}.png", random_frames(length, 8, seed=seed))
    strips = FrameStrips(str(tmp_path / "strips"), 8, 3)
    assert equal(batches(strips), batches(videos(make_videos(tmp_path / "set"))))


def test_the_layout_of_stylegan_v_is_read(tmp_path):
    root = make_videos(tmp_path / "sky", {"v1": 4, "v2": 40})
    entries = [[f"{name}/frame{number}.png", label] for name, label in (("v1", 3), ("v2", 1)) for number in range(4)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": entries}))
    labels = Labels("file", file=tmp_path / "dataset.json")
    dataset = videos(zipped(root, "sky/", folders=True), labels=labels, clips=Clips("sparse"))
    assert dataset.spec.class_names == ("1", "3") and dataset.labels is not None and dataset.labels.tolist() == [1, 0]
    spans = {times[-1] - times[0] for draw in range(60) if len(times := dataset.clip_times(1, draw)) == 3}
    assert spans == {2, 4, 8, 16, 32}


@pytest.mark.parametrize("inner", ["", "sky/"])
@pytest.mark.parametrize("beside", [True, False])
def test_labels_may_lie_in_the_zip_itself(tmp_path, inner, beside):
    path = zipped(make_videos(tmp_path / "sky", {"v1": 4, "v2": 5}), inner)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"{'' if beside else inner}dataset.json", json.dumps({"labels": [["v1/0", 7], ["v2/0", 2]]}))
    dataset = videos(path, labels=Labels("file"))
    assert dataset.spec.class_names == ("2", "7") and dataset.labels is not None and dataset.labels.tolist() == [1, 0]


def test_labels_may_lie_in_the_folder_itself(tmp_path):
    root = make_videos(tmp_path / "sky", {"v1": 4, "v2": 5})
    (root / "dataset.json").write_text(json.dumps({"labels": [["v1/0", 7], ["v2/0", 2]]}))
    assert videos(root, labels=Labels("file")).spec.class_names == ("2", "7")


def test_labels_that_are_nowhere_are_missed_by_name(tmp_path):
    root = make_videos(tmp_path / "sky")
    path = zipped(root)
    reason = "the zip holds no such file"
    for place, why in ((path, reason), (root, "No such file or directory")):
        with pytest.raises(UserError) as error:
            videos(place, labels=Labels("file"))
        text = str(error.value)
        assert text == f"data.labels.file '{place}/dataset.json' cannot be read: {why}"


def test_a_least_length_below_what_sparse_clips_need_is_refused(tmp_path):
    with pytest.raises(UserError) as error:
        videos(make_videos(tmp_path), clips=Clips("sparse", spans=(8,)), min_length=3)
    assert str(error.value) == "data.min_length 3 is less than the 9 frames that data.clips needs; raise it"


def test_sparse_clips_reach_the_batch(tmp_path):
    dataset = videos(make_videos(tmp_path, {"v1": 40}), clips=Clips("sparse", spans=(16,)))
    loader = VideoDataModule(dataset, batch_size=4, clips_per_video=4).train_dataloader()
    batch = next(iter(loader))
    assert (batch["times"][:, -1] - batch["times"][:, 0]).tolist() == [16] * 4
    assert batch["length"].tolist() == [40] * 4 and len(set(batch["times"][:, 0].tolist())) > 1
    frames = to_clip(random_frames(40, 8))
    for video, times in zip(batch["video"], batch["times"].long(), strict=True):
        assert torch.equal(video, frames[:, times])


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_grey_frames_fill_three_channels_and_alpha_is_dropped(tmp_path, channels):
    frames = random_frames(3, 8, channels)
    save_frames(tmp_path / "v", frames)
    wanted = frames[..., :3] if channels == 4 else frames[..., :1].repeat(3, axis=-1)
    assert torch.equal(all_frames(videos(tmp_path)), to_clip(wanted))


def test_palette_and_sixteen_bit_frames_are_read(tmp_path):
    save_frames(tmp_path / "v", random_frames(2, 8))
    Image.fromarray(np.full((8, 8), 0x80FF, np.uint16)).save(tmp_path / "v" / "frame2.png")
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "v" / "frame3.png")
    clip = all_frames(videos(tmp_path))
    assert torch.equal(clip[:, 2:3], to_clip(np.full((1, 8, 8, 3), 0x80, np.uint8)))
    assert clip[:, 3, 0, 0].tolist() == [1, -1, -1]


def test_frames_are_brought_to_size(tmp_path):
    save_frames(tmp_path / "v", np.zeros((3, 10, 20, 3), np.uint8))
    assert videos(tmp_path, width=16).read(ClipRequest(0, (0, 1), 8))["video"].shape == (3, 2, 8, 16)
    assert videos(tmp_path, width=16).read(ClipRequest(0, (0, 1), 4))["video"].shape == (3, 2, 4, 8)
    assert videos(tmp_path).read(ClipRequest(0, (0, 1), 4))["video"].shape == (3, 2, 4, 4)
    assert videos(tmp_path).video_size(0) == (20, 10)


def test_parts_agree_about_classes(tmp_path):
    make_videos(tmp_path / "set", {"train/run/a": 4, "train/walk/b": 4, "test/walk/c": 4})
    for root in (tmp_path / "set", zipped(tmp_path / "set")):
        test = videos(root, split=Split("folder", folder="test"))
        assert test.spec.class_names == ("run", "walk")
        assert list(test.names) == ["test/walk/c"] and test.labels is not None and test.labels.tolist() == [1]
        assert torch.equal(all_frames(test), to_clip(random_frames(4, 8, seed=2)))


def test_attributes_are_in_batch_and_spec(tmp_path):
    (tmp_path / "t.csv").write_text("path,size,mood\nrun/v1,2.5,sad\nwalk/v1,,glad\n")
    dataset = videos(make_videos(tmp_path / "set"), attributes=Attributes(file=tmp_path / "t.csv"))
    assert dataset.spec.attribute_names == ("size", "mood")
    assert dataset.spec.attribute_values == ((), ("glad", "sad"))
    found = torch.stack([dataset.read(ClipRequest(video, (0,), 8))["attributes"] for video in range(3)])
    nan = float("nan")
    wanted = torch.tensor([[2.5, 1], [nan, nan], [nan, 0]])
    assert found.dtype == torch.float32 and torch.equal(found.nan_to_num(-1), wanted.nan_to_num(-1))
    assert batches(dataset, 1)[0]["attributes"].shape == (3, 2)


def test_labels_and_attributes_come_from_patterns(tmp_path):
    labels, attributes = Labels("pattern", r"v\d"), Attributes(pattern=r"(?P<action>\w+)/v(?P<take>\d)")
    dataset = videos(make_videos(tmp_path), labels=labels, attributes=attributes)
    assert dataset.spec.class_names == ("v1", "v2") and dataset.spec.attribute_names == ("action", "take")
    assert dataset.attributes is not None and dataset.attributes.tolist() == [[0, 1], [0, 2], [1, 1]]


def test_short_videos_are_left_out_and_the_others_keep_their_frames(tmp_path, caplog):
    make_videos(tmp_path, {"a": 5, "b": 2, "c": 6})
    dataset = videos(tmp_path, num_frames=4)
    assert [record.getMessage() for record in caplog.records] == [f"{tmp_path}: left out 1 video shorter than 4 frames"]
    assert torch.equal(all_frames(dataset, 1), to_clip(random_frames(6, 8, seed=2)))


def test_a_damaged_frame_is_named(tmp_path):
    make_videos(tmp_path, {"v": 4})
    (tmp_path / "v" / "frame2.png").write_bytes(b"")
    dataset = videos(tmp_path)
    with pytest.raises(UnreadableVideo) as error:
        all_frames(dataset)
    reason = "frame 'frame2.png': the file is empty"
    assert str(error.value) == f"'{tmp_path}/v' cannot be read: {reason}; repair or remove it"
    assert (error.value.path, error.value.reason) == (f"{tmp_path}/v", reason)
    assert dataset.read(ClipRequest(0, (0, 1, 3), 8))["video"].shape == (3, 3, 8, 8)


def test_a_frame_that_is_gone_or_damaged_in_a_zip_is_named(tmp_path):
    root = make_videos(tmp_path / "set", {"v": 4})
    dataset, path = videos(root), zipped(root)
    os.remove(root / "v" / "frame1.png")
    with pytest.raises(UnreadableVideo, match=r"frame 'frame1\.png': it is gone; repair"):
        all_frames(dataset)
    data = path.read_bytes()
    place = data.index(b"IDAT")  # of the last frame, which the zip has first
    path.write_bytes(data[:place] + b"JDAT" + data[place + 4 :])
    with pytest.raises(UnreadableVideo) as error:
        all_frames(videos(path))
    assert error.value.reason == "frame 'frame3.png': damaged inside the zip (its checksum is wrong)"


def test_the_size_of_a_damaged_video_is_not_known(tmp_path):
    make_videos(tmp_path, {"v": 4})
    (tmp_path / "v" / "frame0.png").write_bytes(b"text")
    with pytest.raises(UnreadableVideo) as error:
        videos(tmp_path).video_size(0)
    assert error.value.reason == "not an image"


def test_roots_without_videos_are_refused_by_name(tmp_path):
    what = "folders of images (one folder per video)"
    assert message(tmp_path / "no") == f"data.root '{tmp_path}/no' does not exist; it should be a folder of {what}"
    (tmp_path / "empty").mkdir()
    assert message(tmp_path / "empty") == f"'{tmp_path}/empty' holds no file; it should hold {what}"
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "a.mp4").write_bytes(b"x")
    assert message(tmp_path / "films") == f"data.root '{tmp_path}/films' holds no image; it should hold {what}"
    save_frames(tmp_path / "loose", random_frames(2, 8))
    assert message(tmp_path / "loose") == (
        f"data.root '{tmp_path}/loose' holds 2 images and no folder of images; use data.name frame_strips"
        " (one image per video) or image_folder (single images), or give the folder above"
    )
    make_videos(tmp_path / "short", {"v": 2})
    assert message(tmp_path / "short") == (
        f"data.root '{tmp_path}/short': none of its 1 video has 3 frames (the longest has 2);"
        " lower data.num_frames, data.stride or data.min_length"
    )


def test_the_frame_rate_is_checked(tmp_path):
    assert message(tmp_path, fps=0.0) == "data.fps is 0; it must be above 0"


def test_clean_input_is_silent(tmp_path, caplog, capsys):
    root = make_videos(tmp_path / "set")
    path = zipped(root, "set/", folders=True)
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG, "vidgen"):
        warnings.simplefilter("error")
        assert videos(root).notices == videos(path).notices == []
        all_frames(videos(path))
    assert not caplog.records and capsys.readouterr() == ("", "")


def test_at_the_start_no_image_is_opened(tmp_path):
    (tmp_path / "v").mkdir()
    for number in range(3):
        (tmp_path / "v" / f"{number}.png").write_bytes(b"no image")
    assert videos(tmp_path).lengths.tolist() == [3]


def test_description_counts_videos(tmp_path):
    assert videos(make_videos(tmp_path)).describe() == (
        f"folders of images in {tmp_path}\n"
        "3 videos of 4 to 12 frames (21 in all)\n"
        "clips of 3 x 3 x 8 x 8 (channels, frames, height, width), stride 1\n"
        "2 classes: run (2), walk (1)"
    )


def read_all(dataset: FrameFolder, queue: Any) -> None:
    queue.put(all_frames(dataset).numpy().tobytes())


def test_a_copy_for_a_worker_reads_the_same(tmp_path):
    dataset = videos(zipped(make_videos(tmp_path / "set")))
    expected = all_frames(dataset)
    assert torch.equal(all_frames(pickle.loads(pickle.dumps(dataset))), expected)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=read_all, args=(dataset, queue))
    process.start()
    assert queue.get() == expected.numpy().tobytes()
    process.join()
