"""Reading a pack: the same clips as the data set that was packed, checked where that is asked for."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
import zipfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.layouts import save_video
from tests.data.strips import make_strips, random_frames, save_strip
from vidgen.data import pack_files, packed
from vidgen.data.dataset import UnreadableVideo, VideoDataset
from vidgen.data.frame_folder import FrameFolder
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.image_folder import ImageFolder
from vidgen.data.module import read_batch
from vidgen.data.moving_mnist import IDX_FILES, MovingMNIST, write_idx
from vidgen.data.moving_shapes import MovingShapes
from vidgen.data.packed import Packed
from vidgen.data.packing import pack
from vidgen.data.paired_frames import PairedFrames
from vidgen.data.request import BatchRequest, ClipRequest
from vidgen.data.sampler import IterationSampler
from vidgen.data.splits import Split
from vidgen.data.transforms import from_levels, resize_frames, to_clip
from vidgen.data.video_folder import VideoFolder
from vidgen.errors import UserError
from vidgen.media import to_uint8

NAMES = {"run/p0_a": 5, "run/p1_b": 9, "walk/p0_c": 6, "walk/p1_d": 7, "walk/p2_e": 8}
CLIP = {"resolution": 8, "num_frames": 3}


def write_frames(root: Path, side: int = 8) -> Path:
    for seed, (name, length) in enumerate(NAMES.items()):
        (root / name).mkdir(parents=True)
        for time, frame in enumerate(random_frames(length, side, seed=seed)):
            Image.fromarray(frame).save(root / name / f"{time}.png")
    return root


def write_strips(root: Path, side: int = 8) -> Path:
    return make_strips(root, {f"{name}.png": length for name, length in NAMES.items()}, side)


def strips(root: Path, **arguments: Any) -> FrameStrips:
    return FrameStrips(str(write_strips(root)), **{**CLIP, "flip": True, **arguments})


def wide_strips(root: Path) -> FrameStrips:
    return strips(root, width=12, resolution=6, resize="stretch", interpolation="lanczos")


def grey_strips(root: Path) -> FrameStrips:
    return strips(root, channels=1, stride=2, min_length=3)


def grouped_strips(root: Path) -> FrameStrips:
    return strips(root, split=Split(pattern=r"^\w+/p(\d)"))


def videos(root: Path) -> VideoFolder:
    for seed, (name, length) in enumerate(NAMES.items()):
        save_video(root / f"{name}.mkv", random_frames(length, 16, seed=seed))
    return VideoFolder(str(root), **CLIP, flip=True)


def frame_folder(root: Path) -> FrameFolder:
    return FrameFolder(str(write_frames(root)), **CLIP, fps=12.5)


def zipped_frames(root: Path) -> FrameFolder:
    """Everything lies in one folder, which patterns do not see."""
    write_frames(root / "frames")
    with zipfile.ZipFile(root / "frames.zip", "w") as archive:
        for path in sorted((root / "frames").rglob("*.png")):
            archive.write(path, f"set/{path.relative_to(root / 'frames')}")
    return FrameFolder(str(root / "frames.zip"), **CLIP, split=Split(pattern=r"^\w+/p(\d)"))


def images(root: Path) -> ImageFolder:
    for seed, name in enumerate(NAMES):
        save_strip(root / f"{name}.png", random_frames(1, 8, seed=seed))
    return ImageFolder(str(root), 8)


def shapes(root: Path) -> MovingShapes:
    return MovingShapes(16, 4, num_videos=6, length=5)


DATASETS = (strips, wide_strips, grey_strips, grouped_strips, videos, frame_folder, zipped_frames, images, shapes)


def pack_of(dataset: VideoDataset, out: Path, **arguments: Any) -> Path:
    pack(dataset, {"name": type(dataset).__name__}, out, quiet=True, **{"shard_bytes": 3000, **arguments})
    return out


def like(dataset: VideoDataset, root: Path, **changed: Any) -> Packed:
    """The pack with the clip settings of a data set."""
    spec = dataset.spec
    arguments = {"resolution": spec.resolution, "num_frames": spec.num_frames, "width": spec.width}
    arguments |= {"stride": dataset.stride, "flip": getattr(dataset, "flip", False), "min_length": spec.num_frames}
    return Packed(str(root), **{**arguments, **changed})


@pytest.fixture(autouse=True)
def few_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the size of a shard alone makes."""
    monkeypatch.setattr(pack_files, "FEWEST_SHARDS", 1)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A pack of five strips in three shards."""
    return pack_of(strips(tmp_path / "strips"), tmp_path / "pack")


def message(root: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        Packed(str(root), **{**CLIP, **arguments})
    return str(error.value)


@pytest.mark.parametrize("make", DATASETS, ids=lambda make: make.__name__)
def test_a_pack_is_the_data_set_that_was_packed(tmp_path, make):
    dataset = make(tmp_path / "source")
    grouped = {"split": Split(pattern=r"^\w+/p(\d)")} if dataset.groups else {}
    read = like(dataset, pack_of(dataset, tmp_path / "pack"), **grouped)
    assert read.spec == dataset.spec
    assert read.lengths.tolist() == dataset.lengths.tolist()
    assert (read.labels is None) == (dataset.labels is None) and read.groups == dataset.groups
    ours, theirs = (list(islice(IterationSampler(data, 2, images_per_batch=3, seed=5), 6)) for data in (read, dataset))
    assert ours == theirs
    for [request] in ours:
        batch, expected = read_batch(read, request), read_batch(dataset, request)
        assert batch.keys() == expected.keys()
        for key, value in expected.items():
            assert batch[key].dtype == value.dtype and torch.equal(batch[key], value), key


def test_names_and_attributes_are_those_of_the_data_set(tmp_path):
    dataset = strips(tmp_path / "strips")
    assert list(like(dataset, pack_of(dataset, tmp_path / "pack")).names) == [f"{name}.png" for name in NAMES]
    drawn = shapes(tmp_path)
    read = like(drawn, pack_of(drawn, tmp_path / "shapes"))
    assert list(read.names)[:2] == ["00000000", "00000001"]
    assert read.attributes is not None and read.attributes.shape == (6, 4)


def test_moving_digits_are_packed_as_they_are_drawn_for_evaluation(tmp_path):
    for part, number in (("train", 20), ("test", 10)):
        pictures = np.zeros((number, 28, 28), np.uint8)
        pictures[:, 4:24, 4:24] = 40 + 9 * np.arange(number, dtype=np.uint8)[:, None, None]
        (tmp_path / IDX_FILES[part, "images"]).write_bytes(write_idx(pictures))
        (tmp_path / IDX_FILES[part, "labels"]).write_bytes(write_idx((np.arange(number) % 10).astype(np.uint8)))
    digits = MovingMNIST(str(tmp_path), 32, 4, num_digits=1, canvas=32, digit_size=16, num_videos=5)
    read = like(digits, pack_of(digits, tmp_path / "pack"))
    # Labels are drawn with the digits, and known beforehand in the pack alone.
    assert replace(read.spec, digest="") == replace(digits.spec, digest="")
    for video in range(5):
        ours, theirs = (data.read(ClipRequest(video, (0, 1, 2, 3), 32)) for data in (read, digits))
        assert torch.equal(ours["video"], from_levels(to_uint8(theirs["video"]).float()))
        assert ours["label"] == theirs["label"]


@pytest.mark.parametrize("condition", ["ids", "image"])
def test_what_lies_beside_the_frames_is_packed_with_them(tmp_path, condition):
    rng = np.random.default_rng(0)
    for kind, channels, dtype in (("A", 1, np.uint8), ("B", 3, np.uint8), ("inst", 1, np.uint16)):
        for sequence, length in (("x", 4), ("y", 6)):
            folder = tmp_path / "pairs" / f"train_{kind}" / sequence
            folder.mkdir(parents=True)
            for time in range(length):
                highest = np.iinfo(dtype).max
                picture = rng.integers(0, highest, (10, 14, channels), dtype=dtype, endpoint=True)
                Image.fromarray(picture if channels == 3 else picture[..., 0]).save(folder / f"{time}.png")
    dataset = PairedFrames(str(tmp_path / "pairs"), 6, 3, width=9, condition=condition, flip=True)
    read = like(dataset, pack_of(dataset, tmp_path / "pack"))
    for video, seed in ((0, 1), (1, 2), (1, 3), (0, 4)):
        request = ClipRequest(video, (0, 1, 3), 6, seed)
        ours, theirs = read.read(request), dataset.read(request)
        assert ours.keys() == theirs.keys() and ours["instance"].max() > 255
        for key, value in theirs.items():
            assert ours[key].dtype == value.dtype and torch.equal(ours[key], value), key
    halved = read.read(ClipRequest(0, (1,), 3))
    assert halved["condition"].shape[2:] == halved["video"].shape[2:] == (3, 4)
    numbers = theirs_ids(dataset, 1)
    assert torch.isin(halved["instance"], numbers).all()


def theirs_ids(dataset: PairedFrames, time: int) -> torch.Tensor:
    return dataset.read(ClipRequest(0, (time,), 6))["instance"]


def test_another_resolution_resizes_the_packed_frames(tmp_path, small):
    dataset = FrameStrips(str(tmp_path / "strips"), **CLIP)
    frames = dataset.fitted(0, (0, 2), 8)
    halved = Packed(str(small), 4, 2, interpolation="box")
    expected = to_clip(resize_frames(frames, 4, interpolation="box"))
    assert torch.equal(halved.read(ClipRequest(0, (0, 2), 4))["video"], expected)
    assert torch.equal(halved.read(ClipRequest(0, (0, 2), 8))["video"], to_clip(frames))


def test_a_width_that_is_not_that_of_the_pack_crops(small):
    frames = Packed(str(small), **CLIP).fitted(0, (0,), 8)
    narrow = Packed(str(small), **CLIP, width=4)
    assert torch.equal(narrow.read(ClipRequest(0, (0,), 8))["video"], to_clip(frames[:, :, 2:6]))


@pytest.mark.parametrize("times", [(2,), (0, 1, 2), (1, 3), (4, 1, 1), (3, 2, 1), (2, 2), (0, 1, 3)])
def test_frames_come_in_the_order_asked_for(tmp_path, small, times):
    expected = FrameStrips(str(tmp_path / "strips"), **CLIP).fitted(1, times, 8)
    assert np.array_equal(Packed(str(small), **CLIP, verify=True).fitted(1, times, 8), expected)


def test_clips_are_the_readers_own_and_reading_is_silent(tmp_path, caplog, capsys):
    root = pack_of(strips(tmp_path / "strips", channels=1), tmp_path / "pack")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = Packed(str(root), **CLIP, verify=True)
        first = data.read(ClipRequest(0, (0,), 8))["video"]
        first += 5
        assert data.read(ClipRequest(0, (0,), 8))["video"].max() <= 1
    assert not caplog.records and capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "split",
    [
        Split(by="fraction", fraction=0.5, seed=2, pattern=r"^\w+/p(\d)"),
        Split(by="fraction", fraction=0.5, seed=2),
        Split(by="group", pattern=r"p(\d)", groups=[1]),
    ],
)
@pytest.mark.parametrize("make", [grouped_strips, zipped_frames])
def test_a_split_takes_from_a_pack_what_it_takes_from_the_data_set(tmp_path, make, split):
    dataset = make(tmp_path / "source")
    read = like(dataset, pack_of(dataset, tmp_path / "pack"), split=split)
    part = type(dataset)(dataset.root, **CLIP, split=split)
    assert read.lengths.tolist() == part.lengths.tolist() and read.groups == part.groups
    assert read.labels is not None and part.labels is not None and read.labels.tolist() == part.labels.tolist()
    for video in range(len(part)):
        request = ClipRequest(video, (0, 1), 8)
        assert torch.equal(read.read(request)["video"], part.read(request)["video"])


def test_a_part_that_is_a_folder_is_packed_and_read_as_such(tmp_path):
    make_strips(tmp_path / "s", {"train/run/p1.png": 4, "train/walk/p2.png": 5, "test/walk/p3.png": 6})
    split = Split(by="folder", folder="test", pattern=r"^walk/p(\d)")
    dataset = FrameStrips(str(tmp_path / "s"), **CLIP, split=split)
    read = like(dataset, pack_of(dataset, tmp_path / "pack"), split=split)
    assert read.spec == dataset.spec and read.groups == dataset.groups == ("3",)
    reason = f"data.split.folder 'val': no video of the pack '{tmp_path}/pack' lies in it"
    assert message(tmp_path / "pack", split=Split(by="folder", folder="val")) == reason


def test_a_list_of_files_chooses_from_a_pack(tmp_path, small):
    (tmp_path / "list.txt").write_text("walk/p2_e.png\nrun/p0_a.png\n")
    read = Packed(str(small), **CLIP, split=Split(by="file", file=tmp_path / "list.txt"))
    assert list(read.names) == ["run/p0_a.png", "walk/p2_e.png"] and read.lengths.tolist() == [5, 8]


def test_a_pack_can_be_packed_again(tmp_path, small):
    halved = Packed(str(small), 4, 3)
    read = like(halved, pack_of(halved, tmp_path / "halved"))
    request = ClipRequest(2, (1, 2, 4), 4)
    assert torch.equal(read.read(request)["video"], halved.read(request)["video"])


def damage(root: Path, video: int, time: int = 0) -> str:
    """Change one pixel of a video; its place for messages."""
    data = Packed(str(root), **CLIP)
    path = root / f"shard-{data._shards[video]:05d}.bin"
    content = bytearray(path.read_bytes())
    content[int(data._pack.offsets[video]) + time * data._frame_bytes + 7] ^= 1
    path.write_bytes(content)
    return f"{path} ({data.names[video]})"


def test_a_changed_byte_is_noticed_where_that_is_asked_for(small):
    place = damage(small, 2, time=3)
    data = Packed(str(small), **CLIP, verify=True)
    data.read(ClipRequest(2, (0, 1, 2), 8))
    with pytest.raises(UnreadableVideo) as error:
        data.read(ClipRequest(2, (1, 2, 3), 8))
    assert str(error.value) == f"'{place}' cannot be read: frame 3 differs from its checksum; repair or remove it"
    assert (error.value.path, error.value.reason) == (place, "frame 3 differs from its checksum")
    Packed(str(small), **CLIP).read(ClipRequest(2, (1, 2, 3), 8))


def test_a_changed_byte_is_noticed_in_every_video_of_every_shard(small):
    for video in range(5):
        damage(small, video, time=1)
    data = Packed(str(small), **CLIP, verify=True)
    for video in range(5):
        data.read(ClipRequest(video, (0, 2, 3), 8))
        with pytest.raises(UnreadableVideo):
            data.read(ClipRequest(video, (0, 1), 8))


def test_the_next_video_stands_in_for_a_changed_one(small):
    place = damage(small, 2)
    data = Packed(str(small), **CLIP, verify=True)
    skipped: list[tuple[str, str]] = []
    batch = read_batch(data, BatchRequest((ClipRequest(2, (0, 1, 2), 8, 1),)), skipped)
    assert skipped == [(place, "frame 0 differs from its checksum")]
    assert batch["length"].tolist() == [7]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda path: path.unlink(), "the shard is gone"),
        (lambda path: os.truncate(path, 0), "the shard is empty"),
        (lambda path: os.truncate(path, 100), "the shard has 100 bytes and should have 2688"),
    ],
)
def test_a_shard_that_vanishes_or_shrinks_later_is_named(small, change, reason):
    data = Packed(str(small), **CLIP)
    change(small / "shard-00000.bin")
    with pytest.raises(UnreadableVideo) as error:
        data.read(ClipRequest(0, (0,), 8))
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("change", "reason", "passing"),
    [
        (lambda path: path.unlink(), "the shard is gone", True),
        (lambda path: os.truncate(path, 0), "the shard has 0 bytes and should have 2688", False),
        (lambda path: os.truncate(path, 100), "the shard has 100 bytes and should have 2688", False),
    ],
)
def test_a_shard_that_is_cut_between_two_reads_is_named_where_frames_are_verified(small, change, reason, passing):
    """Mapped, the second read would end the process."""
    data = Packed(str(small), **CLIP, verify=True)
    data.read(ClipRequest(0, (0,), 8))
    change(small / "shard-00000.bin")
    with pytest.raises(UnreadableVideo) as error:
        data.read(ClipRequest(0, (0,), 8))
    assert (error.value.reason, error.value.passing) == (reason, passing)


def test_a_shard_that_is_cut_in_the_middle_of_a_read_is_named(small, monkeypatch):
    real = os.preadv

    def cut(file: int, buffers: Any, offset: int) -> int:
        os.truncate(small / "shard-00000.bin", 2 * 192 + 5)
        return real(file, buffers, offset)

    data = Packed(str(small), **CLIP, verify=True)
    monkeypatch.setattr(os, "preadv", cut)
    data.read(ClipRequest(0, (0, 1), 8))
    os.truncate(small / "shard-00000.bin", 2688)
    with pytest.raises(UnreadableVideo) as error:
        data.read(ClipRequest(0, (0, 2), 8))
    assert error.value.reason == "the shard was cut off while it was read"


def test_verified_frames_are_not_mapped(small):
    data = Packed(str(small), **CLIP, verify=True)
    data.read(ClipRequest(0, (0, 1), 8))
    assert not len(data._maps)


def test_what_was_left_out_of_a_pack_is_known_to_its_reader(tmp_path):
    root = write_strips(tmp_path / "strips")
    (root / "run" / "p0_a.png").write_bytes(b"no image")
    data = Packed(str(pack_of(FrameStrips(str(root), **CLIP), tmp_path / "pack")), **CLIP)
    assert data.skipped == {f"{root}/run/p0_a.png": "not an image"}


def test_a_pack_tells_itself_from_one_of_other_pixels(tmp_path, small):
    data = Packed(str(small), **CLIP)
    other = strips(tmp_path / "other", interpolation="box", resolution=4)
    assert data.signature() == Packed(str(small), **CLIP).signature()
    assert data.signature() != Packed(str(pack_of(other, tmp_path / "second")), 4, 3).signature()


def test_places_that_hold_no_pack_are_refused(tmp_path, small):
    (tmp_path / "empty").mkdir()
    hint = "holds no pack; make one with `vidgen data pack CONFIG --out DIR`"
    for place in ("nowhere", "empty", "strips", "strips/run/p0_a.png"):
        assert message(tmp_path / place) == f"data.root '{tmp_path}/{place}' {hint}"
    (small / "pack.json").unlink()
    hint = "is not finished; run its `vidgen data pack` again, or `vidgen data merge`"
    assert message(small) == f"data.root '{small}' {hint}"


def test_a_pack_of_another_version_is_refused(small):
    about = json.loads((small / "pack.json").read_text())
    (small / "pack.json").write_text(json.dumps({**about, "format": 9}))
    assert message(small) == f"data.root '{small}': a pack of format 9, not 1; pack anew"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", b"\xff\xfe"])
def test_a_damaged_description_is_refused(small, content):
    (small / "pack.json").write_bytes(content)
    assert message(small) == f"data.root '{small}': pack.json is damaged; run `vidgen data merge` on it"


def test_a_damaged_index_is_refused_whatever_byte_it_is(small):
    expected = f"data.root '{small}': index.npz is gone or differs from its checksum; run `vidgen data merge` on it"
    content = (small / "index.npz").read_bytes()
    for position in range(0, len(content), 97):
        changed = bytearray(content)
        changed[position] ^= 255
        (small / "index.npz").write_bytes(changed)
        assert message(small) == expected
    (small / "index.npz").unlink()
    assert message(small) == expected


def test_shards_that_are_gone_or_cut_are_refused(small):
    path = small / "shard-00001.bin"
    again = "run the `vidgen data pack` that made the pack again"
    size = path.stat().st_size
    os.truncate(path, size - 1)
    assert message(small) == f"{path}: has {size - 1} bytes and should have {size}; {again}"
    path.unlink()
    assert message(small) == f"{path}: gone; {again}"


def test_channels_that_a_pack_has_not_are_refused(small):
    assert message(small, channels=1) == f"data.channels is 1, but the pack '{small}' has 3"
    assert Packed(str(small), **CLIP, channels=3).spec.channels == 3


def test_a_pack_can_be_moved_and_copied(tmp_path, small):
    request = ClipRequest(3, (0, 2), 8)
    before = Packed(str(small), **CLIP).read(request)["video"]
    shutil.move(small, tmp_path / "moved")
    assert torch.equal(Packed(str(tmp_path / "moved"), **CLIP).read(request)["video"], before)


def test_few_shards_are_mapped_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "MOST_MAPS", 2)
    dataset = strips(tmp_path / "strips")
    data = like(dataset, pack_of(dataset, tmp_path / "pack", shard_bytes=1), flip=False)
    for video in (0, 1, 2, 0, 3, 4, 1):
        expected = to_clip(dataset.fitted(video, (0, 1), 8))
        assert torch.equal(data.read(ClipRequest(video, (0, 1), 8))["video"], expected)
        assert len(data._maps) <= 2
    assert list(data._maps._maps) == [4, 1]


def test_a_copy_in_another_process_carries_neither_pixels_nor_checksums(tmp_path):
    dataset = MovingShapes(16, 4, num_videos=4, length=4000, travel=(0.0, 0.6))
    root = pack_of(dataset, tmp_path / "pack", shard_bytes=2**24)
    data = like(dataset, root)
    request = ClipRequest(1, (0, 1), 16)
    expected = data.read(request)["video"]
    copy = pickle.dumps(data)
    assert len(copy) < 20_000
    assert torch.equal(pickle.loads(copy).read(request)["video"], expected)


def test_the_description_names_the_pack(small):
    assert Packed(str(small), **CLIP).describe().splitlines()[:2] == [
        f"shards of a pack in {small}",
        "5 videos of 5 to 9 frames (35 in all)",
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_levels_become_bit_for_bit_what_the_plain_formula_gives(channels, planar, mirrored):
    levels = np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1).repeat(channels, axis=-1)
    levels[1:, ..., -1] ^= 85
    frames = np.ascontiguousarray(levels.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1) if planar else levels
    frames = frames[:, :, ::-1] if mirrored else frames
    frames.flags.writeable = False
    plain = torch.from_numpy(frames.transpose(3, 0, 1, 2).copy()).float().div(255).sub(0.5).div(0.5)
    clip = to_clip(frames)
    assert clip.is_contiguous() and torch.equal(clip.view(torch.int32), plain.view(torch.int32))
