"""One image per video, frames side by side."""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from tests.data.strips import make_strips, random_frames, save_strip
from vidgen.data.annotations import Attributes
from vidgen.data.clips import Clips
from vidgen.data.frame_strips import FrameStrips, StripCache, strip_length
from vidgen.data.request import ClipRequest
from vidgen.data.splits import Split
from vidgen.data.transforms import flips, to_clip
from vidgen.errors import UserError
from vidgen.registry import DATASETS


def strips(root: Path, **arguments) -> FrameStrips:
    return FrameStrips(**{"root": str(root), "resolution": 8, "num_frames": 4, **arguments})


def message(root: Path, **arguments) -> str:
    with pytest.raises(UserError) as error:
        strips(root, **arguments)
    return str(error.value)


def all_frames(dataset: FrameStrips, video: int = 0) -> torch.Tensor:
    return dataset.read(ClipRequest(video, tuple(range(dataset.lengths[video])), 8))["video"]


def test_the_registry_knows_it():
    assert DATASETS.get("frame_strips") is FrameStrips


def test_classes_are_numbered_in_the_order_of_their_folders(tmp_path):
    dataset = strips(make_strips(tmp_path, {"4/a.png": 5, "0/b.png": 6, "3/c.png": 7, "0/a.png": 8}))
    assert dataset.spec.class_names == ("0", "3", "4")
    assert list(dataset.names) == [
        "0/a.png",
        "0/b.png",
        "3/c.png",
        "4/a.png",
    ]
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 0, 1, 2]
    assert dataset.lengths.tolist() == [8, 6, 7, 5]
    assert (dataset.spec.num_videos, dataset.spec.min_length, dataset.spec.max_length) == (4, 5, 8)


def test_a_flat_folder_has_no_labels(tmp_path):
    dataset = strips(make_strips(tmp_path, {"b.png": 4, "a.png": 5}))
    assert dataset.labels is None and dataset.spec.class_names == ()
    assert dataset.lengths.tolist() == [5, 4]
    assert "label" not in dataset.read(ClipRequest(0, (0, 1), 8))


def test_files_beside_class_folders_and_hidden_files_are_no_videos(tmp_path, caplog):
    make_strips(tmp_path, {"a/x.png": 4, "stray.png": 9, "a/.hidden.png": 9, ".git/y.png": 9})
    dataset = strips(tmp_path)
    assert dataset.lengths.tolist() == [4] and dataset.spec.class_names == ("a",)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}: left out 1 video in no class folder (the first: 'stray.png');"
        " data.labels.by none uses all without classes"
    ]


def test_a_read_gives_the_frames_asked_for(tmp_path):
    frames = random_frames(9, 8)
    save_strip(tmp_path / "walk" / "a.png", frames)
    sample = strips(tmp_path).read(ClipRequest(0, (1, 3, 5, 8), 8))
    assert torch.equal(sample["video"], to_clip(frames[[1, 3, 5, 8]]))
    assert sample["times"].tolist() == [1, 3, 5, 8] and sample["times"].dtype == torch.float32
    assert sample["length"].item() == 9 and sample["length"].dtype == torch.int64
    assert sample["label"].item() == 0 and sample["label"].dtype == torch.int64


def test_vertical_strips_are_read_like_horizontal_ones(tmp_path):
    frames = random_frames(6, 8)
    save_strip(tmp_path / "a.png", frames)
    save_strip(tmp_path / "b.png", frames, vertical=True)
    dataset = strips(tmp_path)
    assert dataset.lengths.tolist() == [6, 6]
    assert torch.equal(all_frames(dataset, 0), all_frames(dataset, 1))


def test_content_counts_and_not_the_extension(tmp_path, caplog):
    frames = random_frames(4, 8)
    save_strip(tmp_path / "png_inside.jpg", frames)
    (tmp_path / "text_inside.png").write_text("no image")
    dataset = strips(tmp_path)
    assert torch.equal(all_frames(dataset), to_clip(frames))
    expected = f"skipped {tmp_path}/text_inside.png: not an image"
    assert [record.getMessage() for record in caplog.records] == [expected]


def test_alpha_is_dropped(tmp_path):
    frames = random_frames(4, 8, channels=4)
    save_strip(tmp_path / "a.png", frames)
    assert torch.equal(all_frames(strips(tmp_path)), to_clip(frames[..., :3]))


def test_one_channel_is_the_first(tmp_path):
    frames = random_frames(4, 8)
    save_strip(tmp_path / "a.png", frames)
    dataset = strips(tmp_path, channels=1)
    assert dataset.spec.channels == 1
    assert torch.equal(all_frames(dataset), to_clip(frames[..., :1]))


def test_grey_strips_fill_three_channels(tmp_path):
    frames = random_frames(4, 8, channels=1)
    save_strip(tmp_path / "a.png", frames)
    assert torch.equal(all_frames(strips(tmp_path)), to_clip(frames.repeat(3, axis=-1)))


def test_palette_and_sixteen_bit_strips_are_read(tmp_path):
    colors = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    index = np.zeros((8, 32), np.uint8)
    index[:, 16:] = 1
    palette = Image.fromarray(index).convert("P")
    palette.putpalette(colors.tobytes())
    palette.save(tmp_path / "a.png")
    Image.fromarray(np.full((8, 32), 0x80FF, np.uint16)).save(tmp_path / "b.png")
    dataset = strips(tmp_path)
    assert all_frames(dataset, 0)[:, 0, 0, 0].tolist() == [1, -1, -1]
    assert all_frames(dataset, 0)[:, 3, 7, 7].tolist() == [-1, -1, 1]
    assert torch.equal(all_frames(dataset, 1), to_clip(np.full((4, 8, 8, 3), 0x80, np.uint8)))


def test_the_resolution_of_the_request_is_honoured(tmp_path):
    make_strips(tmp_path, {"a.png": 5}, side=16)
    dataset = strips(tmp_path)
    for resolution in (4, 8, 16, 32):
        assert dataset.read(ClipRequest(0, (0, 1), resolution))["video"].shape == (3, 2, resolution, resolution)


def test_frames_that_are_not_square_need_their_step(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (5, 8, 12, 3), dtype=np.uint8)
    save_strip(tmp_path / "a.png", frames)
    dataset = strips(tmp_path, frame_step=12)
    assert dataset.lengths.tolist() == [5]
    assert torch.equal(all_frames(dataset), to_clip(frames[:, :, 2:10]))
    assert all_frames(strips(tmp_path, frame_step=12, resize="stretch")).shape == (3, 5, 8, 8)


def test_the_length_of_a_strip_is_its_longer_side_by_its_shorter():
    assert strip_length(64 * 51, 64) == 51
    assert strip_length(64, 64 * 32) == 32
    assert strip_length(64 * 3 + 10, 64) == 3
    assert strip_length(64, 64) == 1


def test_a_flip_mirrors_the_whole_clip_and_follows_the_seed(tmp_path):
    make_strips(tmp_path, {"a.png": 6})
    dataset = strips(tmp_path, flip=True)
    plain = dataset.read(ClipRequest(0, (0, 1, 2), 8))["video"]
    flipped = 0
    for seed in range(40):
        video = dataset.read(ClipRequest(0, (0, 1, 2), 8, seed))["video"]
        assert torch.equal(video, plain.flip(-1) if flips(seed) else plain)
        flipped += flips(seed)
    assert 10 < flipped < 30


def test_without_flip_no_seed_mirrors(tmp_path):
    make_strips(tmp_path, {"a.png": 6})
    dataset = strips(tmp_path)
    plain = dataset.read(ClipRequest(0, (0,), 8))["video"]
    assert all(torch.equal(dataset.read(ClipRequest(0, (0,), 8, seed))["video"], plain) for seed in range(20))


def test_short_videos_are_counted_and_reported_once(tmp_path, caplog):
    make_strips(tmp_path, {"a.png": 7, "b.png": 8, "c.png": 3, "d.png": 9})
    dataset = strips(tmp_path, stride=2)
    dataset.read(ClipRequest(0, (0,), 8))
    assert dataset.lengths.tolist() == [8, 9]
    expected = f"{tmp_path}: left out 2 videos shorter than 8 frames"
    assert [record.getMessage() for record in caplog.records] == [expected]
    assert expected in dataset.describe()


def test_only_the_first_process_reports(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    make_strips(tmp_path, {"a.png": 7, "b.png": 3})
    assert strips(tmp_path).notices == [f"{tmp_path}: left out 1 video shorter than 4 frames"]
    assert not caplog.records


def test_clean_input_is_silent(tmp_path, caplog, capsys):
    make_strips(tmp_path, {"a.png": 7, "b.png": 9})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with caplog.at_level(logging.DEBUG, "vidgen"):
            dataset = strips(tmp_path)
            dataset.read(ClipRequest(0, (0, 1), 8))
    assert not caplog.records and dataset.notices == []
    assert capsys.readouterr() == ("", "")


def test_min_length_admits_videos_too_short_for_the_stride(tmp_path):
    make_strips(tmp_path, {"a.png": 5, "b.png": 8, "c.png": 3})
    dataset = strips(tmp_path, stride=2, min_length=4)
    assert dataset.lengths.tolist() == [5, 8]
    assert dataset.clip_times(0, 1) == (0, 1, 2, 3)
    assert dataset.clip_times(1, 1) == (1, 3, 5, 7)


def test_videos_too_short_for_a_clip_repeat_their_last_frame(tmp_path, caplog):
    make_strips(tmp_path, {"a.png": 1, "b.png": 3, "c.png": 6})
    dataset = strips(tmp_path, clips=Clips(repeat_last=True))
    assert dataset.lengths.tolist() == [1, 3, 6] and not caplog.records
    assert [dataset.clip_times(video, 1) for video in range(3)] == [(0, 0, 0, 0), (0, 1, 2, 2), (1, 2, 3, 4)]
    read = dataset.read(ClipRequest(1, dataset.clip_times(1, 1), 8))
    assert torch.equal(read["video"][:, 2], read["video"][:, 3])
    assert read["length"].item() == 3 and read["times"].tolist() == [0, 1, 2, 2]
    assert strips(tmp_path, clips=Clips(repeat_last=True), min_length=2).lengths.tolist() == [3, 6]


def test_folders_are_refused_by_name(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_text("x")
    (tmp_path / "bad" / "b.png").write_bytes(b"")
    make_strips(tmp_path / "short", {"a.png": 3, "b.png": 2})
    what = "a folder of frame strips (one image per video)"
    assert message(tmp_path / "no") == f"data.root '{tmp_path}/no' does not exist; it should be {what}"
    assert message(tmp_path / "file") == f"data.root '{tmp_path}/file' is not a folder; it should be {what}"
    held = "it should hold frame strips (one image per video)"
    assert message(tmp_path / "empty") == f"'{tmp_path}/empty' holds no file; {held}"
    reason = "none of its 2 files can be used (the first, 'a.png': not an image)"
    assert message(tmp_path / "bad") == f"data.root '{tmp_path}/bad': {reason}"
    reason = (
        "none of its 2 videos has 4 frames (the longest has 3); lower data.num_frames, data.stride or data.min_length"
    )
    assert message(tmp_path / "short") == f"data.root '{tmp_path}/short': {reason}"


def test_settings_are_refused_by_name(tmp_path):
    make_strips(tmp_path, {"a.png": 9})
    assert message(tmp_path, num_frames=0) == "data.num_frames is 0; it must be at least 1"
    assert message(tmp_path, stride=0) == "data.stride is 0; it must be at least 1"
    assert message(tmp_path, resolution=-4) == "data.resolution is -4; it must be at least 1"
    assert message(tmp_path, min_length=3) == "data.min_length 3 is less than data.num_frames 4; raise it"
    repeated = Clips(repeat_last=True)
    assert message(tmp_path, clips=repeated, min_length=0) == "data.min_length is 0; it must be at least 1"
    assert message(tmp_path, frame_step=0) == "data.frame_step is 0; it must be at least 1"


def test_a_file_that_vanishes_is_named(tmp_path):
    make_strips(tmp_path, {"a.png": 9})
    dataset = strips(tmp_path)
    os.remove(tmp_path / "a.png")
    with pytest.raises(UserError) as error:
        dataset.read(ClipRequest(0, (0,), 8))
    assert str(error.value) == f"'{tmp_path}/a.png' cannot be read: it is gone; repair or remove it"


def test_a_file_that_is_damaged_behind_its_header_is_named(tmp_path):
    make_strips(tmp_path, {"a.png": 9})
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError) as error:
        strips(tmp_path).read(ClipRequest(0, (0,), 8))
    text = str(error.value)
    assert text.startswith(f"'{tmp_path}/a.png' cannot be read: damaged (") and text.endswith("; repair or remove it")
    assert "\n" not in text


def test_a_file_that_changes_its_length_is_named(tmp_path):
    make_strips(tmp_path, {"a.png": 9})
    dataset = strips(tmp_path)
    make_strips(tmp_path, {"a.png": 5})
    with pytest.raises(UserError) as error:
        dataset.read(ClipRequest(0, (0,), 8))
    assert str(error.value) == (
        f"'{tmp_path}/a.png' cannot be read: it had 9 frames at the start and has 5 now; repair or remove it"
    )


def test_a_split_by_group_keeps_the_numbers_of_the_classes(tmp_path):
    make_strips(tmp_path, {"run/p0.png": 5, "walk/p0.png": 5, "walk/p1.png": 5})
    split = Split(by="group", pattern=r"p(\d)", groups=[1])
    dataset = strips(tmp_path, split=split)
    assert dataset.spec.class_names == ("run", "walk")
    assert dataset.labels is not None and dataset.labels.tolist() == [1] and dataset.groups == ("1",)


def test_performers_that_are_held_out_do_not_shift_the_numbers_of_others(tmp_path):
    """Files are numbered: performer p has the numbers 8p to 8p + 7."""
    names = [
        f"{action}/{8 * performer + take:08d}.png" for action in "014" for performer in range(11) for take in (0, 5)
    ]
    make_strips(tmp_path, dict.fromkeys(names, 4))
    settings = Attributes(
        r"^(?P<action>[^/]+)/(?P<performer>\d+)", divide={"performer": 8}, categories=["action", "performer"]
    )
    parts = []
    for groups in ([0, 1, 2, 5, 6], [3, 4, 10]):
        split = Split(by="group", pattern=r"(\d+)\.\w+$", divide=8, groups=groups)
        data = FrameStrips(str(tmp_path), 8, 2, split=split, attributes=settings)
        assert data.spec.attribute_names == ("action", "performer")
        assert data.spec.attribute_values == (("0", "1", "4"), tuple(map(str, range(11))))
        attributes = torch.stack([data.read(ClipRequest(n, (0,), 8))["attributes"] for n in range(len(data))])
        assert attributes.dtype == torch.float32 and attributes[:, 0].tolist() == data.labels.tolist()
        parts.append(set(attributes[:, 1].tolist()))
    assert parts == [{0, 1, 2, 5, 6}, {3, 4, 10}]


def test_a_split_by_folder_numbers_classes_as_in_training(tmp_path):
    make_strips(tmp_path, {"train/run/a.png": 5, "train/walk/b.png": 5, "test/walk/c.png": 6})
    dataset = strips(tmp_path, split=Split(by="folder", folder="test"))
    assert dataset.spec.class_names == ("run", "walk")
    assert dataset.lengths.tolist() == [6] and dataset.labels is not None and dataset.labels.tolist() == [1]
    train = strips(tmp_path, split=Split(by="folder", folder="train"))
    assert not set(train.names) & set(dataset.names)


def test_a_split_folder_that_is_missing_or_has_other_classes_is_named(tmp_path):
    make_strips(tmp_path, {"train/run/a.png": 5, "test/swim/c.png": 6})
    reason = "does not exist; it should be a folder of frame strips (one image per video)"
    got = message(tmp_path, split=Split(by="folder", folder="val"))
    assert got == f"data.split.folder 'val' in data.root '{tmp_path}' {reason}"
    got = message(tmp_path, split=Split(by="folder", folder="test"))
    assert got == f"'{tmp_path}/test/swim/c.png' is of a class that the training folder does not have"


def test_the_fraction_does_not_change_with_the_clip(tmp_path):
    make_strips(tmp_path, {f"{i:02d}.png": 4 + i % 5 for i in range(20)})
    split = Split(by="fraction", fraction=0.5)
    short = set(strips(tmp_path, num_frames=2, split=split).names)
    assert set(strips(tmp_path, num_frames=6, split=split).names) < short


def test_description_counts_videos_frames_and_classes(tmp_path):
    make_strips(tmp_path, {"run/a.png": 5, "run/b.png": 9, "walk/c.png": 6})
    assert strips(tmp_path).describe() == (
        f"frame strips in {tmp_path}\n"
        "3 videos of 5 to 9 frames (20 in all)\n"
        "clips of 3 x 4 x 8 x 8 (channels, frames, height, width), stride 1\n"
        "2 classes: run (2), walk (1)"
    )


def test_a_cached_strip_is_not_decoded_again(tmp_path):
    make_strips(tmp_path, {"a.png": 9})
    dataset = strips(tmp_path)
    first = all_frames(dataset)
    first.zero_()  # a reader may do what it wants with its clip
    os.remove(tmp_path / "a.png")
    assert torch.equal(all_frames(dataset), to_clip(random_frames(9, 8, seed=0)))


def test_the_cache_is_bounded_and_drops_what_was_not_used_for_longest():
    cache = StripCache(max_bytes=3 * 300)
    strip = np.zeros((4, 5, 5, 3), np.uint8)
    for video in range(3):
        cache.put((video, 8), strip)
    cache.get((0, 8))
    cache.put((3, 8), strip)
    assert cache.get((1, 8)) is None and cache.get((0, 8)) is strip
    assert len(cache) == 3 and cache.num_bytes == 900
    cache.put((4, 8), np.zeros((100, 5, 5, 3), np.uint8))
    assert cache.get((4, 8)) is None and len(cache) == 3


def test_without_a_cache_the_frames_are_the_same(tmp_path):
    make_strips(tmp_path, {"a.png": 9})
    assert torch.equal(all_frames(strips(tmp_path, cache_mb=0)), all_frames(strips(tmp_path)))


def test_a_copy_for_a_worker_reads_the_same_and_carries_no_pixels(tmp_path):
    make_strips(tmp_path, {f"{i}.png": 40 for i in range(5)}, side=16)
    dataset = strips(tmp_path)
    expected = [dataset.read(ClipRequest(i, (3,), 8))["video"] for i in range(5)]
    data = pickle.dumps(dataset)
    assert len(data) < 10_000
    copy = pickle.loads(data)
    assert all(torch.equal(copy.read(ClipRequest(i, (3,), 8))["video"], expected[i]) for i in range(5))
