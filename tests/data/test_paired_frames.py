"""Videos with label maps, pictures and instance ids beside their frames."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.strips import random_frames
from vidgen.config.signature import parameters_of
from vidgen.data.annotations import Labels
from vidgen.data.dataset import UnreadableVideo
from vidgen.data.module import VideoDataModule
from vidgen.data.paired_frames import PairedFrames
from vidgen.data.request import ClipRequest
from vidgen.data.splits import Split
from vidgen.data.transforms import flips, to_clip
from vidgen.errors import UserError
from vidgen.registry import DATASETS

LENGTHS = {"s1": 11, "s2": 4}


def ids(length: int, seed: int, dtype: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (length, 8, 8), dtype=dtype)


def save(folder: Path, pictures: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{number}.png")


def make_pairs(root: Path, lengths: dict[str, int] = LENGTHS, part: str = "train", instances: bool = True) -> Path:
    """Sequence n has frames of seed n, class ids of seed 10 + n and instance ids of seed 20 + n."""
    for seed, (name, length) in enumerate(lengths.items()):
        save(root / f"{part}_B" / name, random_frames(length, 8, seed=seed))
        save(root / f"{part}_A" / name, ids(length, 10 + seed))
        if instances:
            save(root / f"{part}_inst" / name, ids(length, 20 + seed, np.uint16))
    return root


def zipped(root: Path, inner: str = "") -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, inner + str(file.relative_to(root)))
    return path


def pairs(root: Path, **arguments: Any) -> PairedFrames:
    return PairedFrames(**{"root": str(root), "resolution": 8, "num_frames": 3, **arguments})


def message(root: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        pairs(root, **arguments)
    return str(error.value)


def unreadable(dataset: PairedFrames, request: ClipRequest) -> str:
    with pytest.raises(UnreadableVideo) as error:
        dataset.read(request)
    return str(error.value)


def stack(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures.astype(np.int64))[None]


def test_the_registry_and_the_config_know_it():
    assert DATASETS.get("paired_frames") is PairedFrames
    parameters = parameters_of(PairedFrames)
    assert {"part", "condition", "width", "clips", "flip", "attributes"} <= set(parameters)
    assert parameters["resize"].default == "stretch" and parameters["interpolation"].default == "bicubic"


def test_ids_lie_beside_their_frames(tmp_path):
    dataset = pairs(make_pairs(tmp_path))
    assert dataset.lengths.tolist() == [11, 4] and list(dataset.names) == ["train_B/s1", "train_B/s2"]
    assert dataset.labels is None
    for video, times in ((0, (2, 9, 10)), (1, (0, 1, 3))):
        sample = dataset.read(ClipRequest(video, times, 8))
        chosen = list(times)
        assert torch.equal(sample["video"], to_clip(random_frames(11 if video == 0 else 4, 8, seed=video)[chosen]))
        assert torch.equal(sample["condition"], stack(ids(11 if video == 0 else 4, 10 + video)[chosen]))
        assert torch.equal(sample["instance"], stack(ids(11 if video == 0 else 4, 20 + video, np.uint16)[chosen]))
        assert sample["times"].tolist() == chosen and sample["length"].item() == dataset.lengths[video]


def test_shapes_and_types_of_a_batch(tmp_path):
    loader = VideoDataModule(pairs(make_pairs(tmp_path)), batch_size=2, images_per_batch=3).train_dataloader()
    batch = next(iter(loader))
    assert batch["video"].shape == (2, 3, 3, 8, 8) and batch["video"].dtype == torch.float32
    for key in ("condition", "instance"):
        assert batch[key].shape == (2, 1, 3, 8, 8) and batch[key].dtype == torch.int64
    assert batch["images"].shape == (3, 3, 8, 8)


def test_instance_ids_are_optional(tmp_path):
    sample = pairs(make_pairs(tmp_path, instances=False)).read(ClipRequest(0, (0, 1, 2), 8))
    assert set(sample) == {"video", "condition", "times", "length"}


def test_a_condition_may_be_a_picture(tmp_path):
    make_pairs(tmp_path)
    colours = random_frames(11, 8, seed=30)
    save(tmp_path / "train_A" / "s1", colours)
    dataset = pairs(tmp_path, condition="image", channels=1)
    sample = dataset.read(ClipRequest(0, (0, 5, 7), 8))
    assert torch.equal(sample["condition"], to_clip(colours[[0, 5, 7]])) and sample["video"].shape == (1, 3, 8, 8)
    grey = dataset.read(ClipRequest(1, (0,), 8))["condition"]
    assert torch.equal(grey, to_clip(ids(4, 11)[:1, ..., None].repeat(3, axis=-1)))


def test_frames_are_resized_smoothly_and_ids_by_the_nearest_pixel(tmp_path):
    make_pairs(tmp_path)
    sample = pairs(tmp_path, width=4).read(ClipRequest(0, (3,), 8))
    frame = Image.fromarray(random_frames(11, 8)[3]).resize((4, 8), Image.Resampling.BICUBIC)
    assert torch.equal(sample["video"], to_clip(np.asarray(frame)[None]))
    for key, stored in (("condition", ids(11, 10)), ("instance", ids(11, 20, np.uint16))):
        nearest = Image.fromarray(stored[3].astype(np.int32)).resize((4, 8), Image.Resampling.NEAREST)
        assert torch.equal(sample[key], stack(np.asarray(nearest)[None]))


def test_pictures_are_resized_as_frames_are(tmp_path):
    make_pairs(tmp_path)
    save(tmp_path / "train_A" / "s1", random_frames(11, 8, seed=0))  # what the frames show
    for arguments in ({}, {"interpolation": "box"}, {"resize": "crop", "width": 6}):
        sample = pairs(tmp_path, condition="image", **arguments).read(ClipRequest(0, (3,), 4))
        assert torch.equal(sample["condition"], sample["video"])


def test_a_flip_mirrors_all_three(tmp_path):
    dataset = pairs(make_pairs(tmp_path), flip=True)
    plain = dataset.read(ClipRequest(0, (0, 1, 2), 8))
    mirrored = 0
    for seed in range(12):
        sample = dataset.read(ClipRequest(0, (0, 1, 2), 8, seed))
        for key in ("video", "condition", "instance"):
            assert torch.equal(sample[key], plain[key].flip(-1) if flips(seed) else plain[key])
        mirrored += flips(seed)
    assert 0 < mirrored < 12


def test_the_part_names_the_folders(tmp_path):
    make_pairs(tmp_path)
    make_pairs(tmp_path, {"t": 5}, part="test", instances=False)
    dataset = pairs(tmp_path, part="test")
    assert list(dataset.names) == ["test_B/t"] and "instance" not in dataset.read(ClipRequest(0, (0,), 8))
    assert list(pairs(tmp_path).names) == ["train_B/s1", "train_B/s2"]


def test_sequences_may_lie_deeper(tmp_path):
    dataset = pairs(make_pairs(tmp_path, {"city/s1": 4, "s2": 5}))
    assert list(dataset.names) == ["train_B/city/s1", "train_B/s2"]
    assert torch.equal(dataset.read(ClipRequest(1, (4,), 8))["condition"], stack(ids(5, 11)[4:]))


@pytest.mark.parametrize("inner", ["", "set/"])
@pytest.mark.parametrize("instances", [True, False])
def test_a_zip_gives_the_same(tmp_path, inner, instances):
    root = make_pairs(tmp_path / "set", {"city/s1": 4, "s2": 5}, instances=instances)
    from_folder, from_zip = pairs(root), pairs(zipped(root, inner))
    for video in range(2):
        left, right = (dataset.read(ClipRequest(video, (0, 2, 3), 8)) for dataset in (from_folder, from_zip))
        assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_short_sequences_are_left_out_of_all_three(tmp_path):
    dataset = pairs(make_pairs(tmp_path, {"a": 2, "b": 5}))
    sample = dataset.read(ClipRequest(0, (4,), 8))
    assert torch.equal(sample["video"], to_clip(random_frames(5, 8, seed=1)[4:]))
    assert torch.equal(sample["condition"], stack(ids(5, 11)[4:]))
    assert torch.equal(sample["instance"], stack(ids(5, 21, np.uint16)[4:]))


def test_labels_and_splits_are_found_in_the_names(tmp_path):
    make_pairs(tmp_path, {"a1": 4, "b1": 4, "b2": 4})
    split = Split("group", pattern=r"(\d)$", groups=[1])
    dataset = pairs(tmp_path, labels=Labels("pattern", r"/(\w)\d$"), split=split)
    assert list(dataset.names) == ["train_B/a1", "train_B/b1"] and dataset.spec.class_names == ("a", "b")


def test_sequences_that_differ_are_refused_by_name(tmp_path):
    make_pairs(tmp_path)
    save(tmp_path / "train_A" / "s3", ids(2, 0))
    start, end = f"data.root '{tmp_path}': sequence", "every frame needs its partner"
    assert message(tmp_path) == f"{start} 's3' has 0 images in train_B and 2 in train_A; {end}"
    (tmp_path / "train_A" / "s2" / "3.png").unlink()
    assert message(tmp_path) == f"{start} 's2' has 4 images in train_B and 3 in train_A; {end}"
    (tmp_path / "train_B" / "s2" / "0.png").unlink()
    (tmp_path / "train_A" / "s3").rename(tmp_path / "train_B" / "s3")
    assert message(tmp_path) == f"{start} 's3' has 2 images in train_B and 0 in train_A; {end}"


def test_instances_that_differ_are_refused_by_name(tmp_path):
    make_pairs(tmp_path)
    (tmp_path / "train_inst" / "s1" / "0.png").unlink()
    assert message(tmp_path) == (
        f"data.root '{tmp_path}': sequence 's1' has 11 images in train_B and 10 in train_inst;"
        " every frame needs its partner"
    )


def test_folders_that_are_missing_are_named(tmp_path):
    what = "paired frames (train_A and train_B with a folder of images per sequence)"
    assert message(tmp_path / "no") == f"data.root '{tmp_path}/no' does not exist; it should be a folder of {what}"
    assert message(tmp_path) == f"data.root '{tmp_path}' has no folder of images in train_B; it should hold {what}"
    make_pairs(tmp_path)
    assert message(tmp_path, part="test") == (
        f"data.root '{tmp_path}' has no folder of images in test_B; it should hold {what}"
    )
    save(tmp_path / "test_B" / "s", random_frames(3, 8))
    save(tmp_path / "test_A", ids(3, 0))
    assert message(tmp_path, part="test") == (
        f"data.root '{tmp_path}' has no folder of images in test_A; it should hold {what}"
    )


def test_settings_without_a_meaning_are_refused(tmp_path):
    make_pairs(tmp_path)
    assert message(tmp_path, split=Split("folder", folder="train")) == (
        "data.split.by 'folder' has no meaning with paired frames; set data.part"
    )
    assert message(tmp_path, labels=Labels()) == (
        "data.labels.by 'folder' has no meaning with paired frames; use pattern, file or none"
    )


def test_damaged_files_are_named(tmp_path):
    dataset = pairs(make_pairs(tmp_path))
    for kind in ("A", "inst"):
        (tmp_path / f"train_{kind}" / "s1" / "10.png").write_bytes(b"")
        assert unreadable(dataset, ClipRequest(0, (9, 10), 8)) == (
            f"'{tmp_path}/train_B/s1' cannot be read: 'train_{kind}/s1/10.png': the file is empty; repair or remove it"
        )
        save(tmp_path / f"train_{kind}" / "s1", ids(11, 0))
    (tmp_path / "train_B" / "s1" / "10.png").unlink()
    assert unreadable(dataset, ClipRequest(0, (9, 10), 8)) == (
        f"'{tmp_path}/train_B/s1' cannot be read: frame '10.png': it is gone; repair or remove it"
    )


def test_clean_input_is_silent_and_described(tmp_path, caplog, capsys):
    assert pairs(make_pairs(tmp_path)).describe() == (
        f"paired frames in {tmp_path}\n"
        "2 videos of 4 to 11 frames (15 in all)\n"
        "clips of 3 x 3 x 8 x 8 (channels, frames, height, width), stride 1"
    )
    assert not caplog.records and capsys.readouterr() == ("", "")


def test_a_copy_for_a_worker_reads_the_same(tmp_path):
    dataset = pairs(zipped(make_pairs(tmp_path / "set")))
    request = ClipRequest(1, (0, 3), 8)
    expected = dataset.read(request)
    found = pickle.loads(pickle.dumps(dataset)).read(request)
    assert all(torch.equal(found[key], expected[key]) for key in expected)
