"""Single images, from a folder and from a zip."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.strips import random_frames
from vidgen.data.annotations import Attributes, Labels
from vidgen.data.dataset import UnreadableVideo
from vidgen.data.image_folder import ImageFolder
from vidgen.data.module import VideoDataModule
from vidgen.data.request import ClipRequest
from vidgen.data.splits import Split
from vidgen.data.transforms import to_clip
from vidgen.errors import UserError
from vidgen.registry import DATASETS

NAMES = ("cat/a.png", "cat/b.png", "dog/deep/a.png")


def make_images(root: Path, names: tuple[str, ...] = NAMES) -> Path:
    """Image n is noise of seed n."""
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random_frames(1, 8, seed=seed)[0]).save(root / name)
    return root


def zipped(root: Path, inner: str = "") -> Path:
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, inner + str(file.relative_to(root)))
    return path


def images(root: Path, **arguments: Any) -> ImageFolder:
    return ImageFolder(**{"root": str(root), "resolution": 8, **arguments})


def message(root: Path, **arguments: Any) -> str:
    with pytest.raises(UserError) as error:
        images(root, **arguments)
    return str(error.value)


def pixels(dataset: ImageFolder, number: int) -> torch.Tensor:
    return dataset.read(ClipRequest(number, (0,), 8))["video"]


def test_the_registry_knows_it():
    assert DATASETS.get("image_folder") is ImageFolder


def test_an_image_is_a_video_of_one_frame(tmp_path):
    dataset = images(make_images(tmp_path))
    assert dataset.lengths.tolist() == [1, 1, 1] and dataset.spec.num_frames == 1
    for number in range(3):
        assert torch.equal(pixels(dataset, number), to_clip(random_frames(1, 8, seed=number)))
    sample = dataset.read(ClipRequest(2, (0,), 8))
    assert sample["times"].tolist() == [0] and sample["length"].item() == 1 and sample["label"].item() == 1


def test_the_first_folder_is_the_class(tmp_path):
    dataset = images(make_images(tmp_path))
    assert dataset.spec.class_names == ("cat", "dog") and dataset.labels is not None
    assert dataset.labels.tolist() == [0, 0, 1]
    assert images(make_images(tmp_path / "flat", ("a.png", "b.png"))).labels is None


@pytest.mark.parametrize("inner", ["", "set/"])
def test_a_zip_gives_the_batches_of_its_folder(tmp_path, inner):
    root = make_images(tmp_path / "set")
    path = zipped(root, inner)
    elements = []
    for place in (root, path):
        loader = VideoDataModule(images(place), batch_size=2, images_per_batch=2, seed=1).train_dataloader()
        elements.append(next(iter(loader)))
    assert elements[0].keys() == elements[1].keys()
    assert all(torch.equal(elements[0][key], elements[1][key]) for key in elements[0])


def test_labels_of_images_come_from_a_json(tmp_path):
    root = make_images(tmp_path / "set", ("a/0.png", "a/1.png", "b/2.png"))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": [["a/0.png", 5], ["a/1.png", 2], ["b/2.png", 5]]}))
    for place in (root, zipped(root), zipped(root, "set/")):
        dataset = images(place, labels=Labels("file", file=tmp_path / "dataset.json"))
        assert dataset.spec.class_names == ("2", "5") and dataset.labels is not None
        assert dataset.labels.tolist() == [1, 0, 1]


def test_parts_and_attributes_are_those_of_stored_videos(tmp_path):
    root = make_images(tmp_path, ("test/cat/a1.png", "train/ant/a2.png", "train/cat/b3.png"))
    attributes = Attributes(pattern=r"(?P<kind>[ab])(?P<number>\d)\.png$")
    dataset = images(root, split=Split("folder", folder="test"), attributes=attributes)
    assert dataset.spec.class_names == ("ant", "cat") and dataset.labels is not None
    assert dataset.labels.tolist() == [1] and dataset.spec.attribute_values == (("a", "b"), ())
    assert dataset.read(ClipRequest(0, (0,), 8))["attributes"].tolist() == [0, 1]


def test_other_files_are_passed_over(tmp_path, caplog):
    make_images(tmp_path)
    (tmp_path / "cat" / "labels.json").write_text("{}")
    (tmp_path / "cat" / "LARGE.PNG").write_bytes((tmp_path / "cat" / "a.png").read_bytes())
    assert list(images(tmp_path).names) == ["cat/LARGE.PNG", *NAMES] and not caplog.records


def test_grey_images_fill_three_channels(tmp_path):
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "a.png")
    assert pixels(images(tmp_path), 0).tolist() == torch.ones(3, 1, 8, 8).tolist()


def test_the_size_is_that_of_the_stored_image(tmp_path):
    Image.fromarray(np.zeros((6, 9), np.uint8)).save(tmp_path / "a.png")
    assert images(tmp_path).video_size(0) == (9, 6)


def test_a_damaged_image_is_named(tmp_path):
    make_images(tmp_path)
    (tmp_path / "cat" / "b.png").write_bytes(b"")
    dataset = images(tmp_path)
    with pytest.raises(UnreadableVideo) as error:
        pixels(dataset, 1)
    assert str(error.value) == f"'{tmp_path}/cat/b.png' cannot be read: the file is empty; repair or remove it"
    with pytest.raises(UnreadableVideo) as error:
        dataset.video_size(1)
    assert (error.value.path, error.value.reason) == (f"{tmp_path}/cat/b.png", "the file is empty")


def test_settings_and_roots_are_refused_by_name(tmp_path):
    assert message(tmp_path, num_frames=2) == "data.num_frames is 2; an image has one frame, so it must be 1"
    assert message(tmp_path / "no") == f"data.root '{tmp_path}/no' does not exist; it should be a folder of images"
    assert message(tmp_path) == f"'{tmp_path}' holds no file; it should hold images"
    (tmp_path / "a.mp4").write_bytes(b"x")
    assert message(tmp_path) == f"data.root '{tmp_path}' holds no image; it should hold images"


def test_a_copy_for_a_worker_reads_the_same(tmp_path):
    dataset = images(zipped(make_images(tmp_path / "set")))
    expected = pixels(dataset, 2)
    assert torch.equal(pixels(pickle.loads(pickle.dumps(dataset)), 2), expected)
