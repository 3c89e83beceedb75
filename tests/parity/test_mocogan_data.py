"""Clips, frames and pixels are those of MoCoGAN's official loader (``data.pt``).

Everything, configuration and pixels included, comes from the file: ``$VIDGEN_REFERENCE/mocogan/data.pt`` where that
variable is set, else the small one that ``tests/fixtures/mocogan/make_data.py`` writes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vidgen.data.frame_strips import FrameStrips
from vidgen.data.request import ClipRequest, clip_times, start_choices
from vidgen.data.sampler import IterationSampler, locate_frames

FIXTURES = Path(__file__).parents[1] / "fixtures"
CONFIG = {"side", "video_length", "every_nth", "min_len", "resize_to", "files"}
OUTPUTS = {
    "video_order",
    "video_labels",
    "lengths",
    "cumsum",
    "image_index_map",
    "subsequence",
    "video0",
    "video0_start",
}
TOLERANCE = 1e-6
"""Of values in [-1, 1]; one level of a pixel is 8e-3."""

Reference = dict[str, Any]


@pytest.fixture(scope="module")
def reference() -> Reference:
    folder = Path(os.environ.get("VIDGEN_REFERENCE", FIXTURES)) / "mocogan"
    return torch.load(folder / "data.pt", weights_only=True)


@pytest.fixture
def dataset(reference: Reference, tmp_path: Path) -> FrameStrips:
    return write_and_open(reference, tmp_path)


def write_and_open(reference: Reference, root: Path) -> FrameStrips:
    """Lay the tiles out as files, PNG data whatever their names, and open the folder."""
    config = reference["config"]
    for number, name in enumerate(config["files"]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(reference["inputs"][f"tile_{number}"].numpy()).save(path, format="PNG")
    return FrameStrips(
        str(root),
        resolution=config["resize_to"],
        num_frames=config["video_length"],
        stride=config["every_nth"],
        min_length=config["min_len"],
        channels=reference["outputs"]["video0"].shape[0],
    )


def first_clip(dataset: FrameStrips, reference: Reference) -> Tensor:
    config = reference["config"]
    start = max(int(reference["outputs"]["video0_start"]), 0)
    times = clip_times(int(dataset.lengths[0]), config["video_length"], config["every_nth"], start)
    return dataset.read(ClipRequest(0, times, config["resize_to"]))["video"]


def test_every_key_of_the_file_is_consumed_here(reference):
    assert set(reference) - {"state", "notes"} == {"config", "inputs", "outputs"}
    assert not reference.get("state")
    assert set(reference["config"]) == CONFIG
    assert set(reference["outputs"]) == OUTPUTS
    tiles = {f"tile_{number}" for number in range(len(reference["config"]["files"]))}
    assert set(reference["inputs"]) == {*tiles, "classes"}


def test_videos_their_order_lengths_and_labels(reference, dataset):
    outputs, files = reference["outputs"], reference["config"]["files"]
    kept = [files.index(name) for name in dataset.names]
    assert kept == outputs["video_order"].tolist()
    assert dataset.lengths.tolist() == outputs["lengths"].tolist()
    assert dataset.labels is not None and dataset.labels.tolist() == outputs["video_labels"].tolist()
    assert [0, *np.cumsum(dataset.lengths)] == outputs["cumsum"].tolist()


def test_folders_are_the_classes(reference, dataset):
    names = [file.split("/")[0] for file in reference["config"]["files"]]
    numbers = [dataset.spec.class_names.index(name) for name in names]
    given = reference["inputs"]["classes"].tolist()
    rank = {value: position for position, value in enumerate(sorted(set(given)))}
    assert numbers == [rank[value] for value in given]


def test_tiles_are_cut_into_square_frames(reference, dataset):
    side = reference["config"]["side"]
    for video, number in enumerate(reference["outputs"]["video_order"].tolist()):
        tile = reference["inputs"][f"tile_{number}"]
        wide = tile.shape[1] > tile.shape[0]
        last = tile[:, -side:] if wide else tile[-side:]
        read = dataset.read(ClipRequest(video, (int(dataset.lengths[video]) - 1,), side))["video"]  # (C, 1, side, side)
        levels = ((read[:, 0] + 1) * 127.5).round().byte().permute(1, 2, 0)
        assert torch.equal(levels, last[..., : levels.shape[-1]])


def test_the_frame_of_every_item(reference, dataset):
    outputs = reference["outputs"]
    items = np.arange(int(dataset.lengths.sum()))
    videos, frames = locate_frames(items, dataset.lengths, official=True)
    assert dataset.labels is not None
    rows = np.stack([outputs["video_order"].numpy()[videos], frames, dataset.labels[videos]], axis=1)
    assert rows.tolist() == outputs["image_index_map"].tolist()


def test_images_are_drawn_by_the_official_count_on_request(reference, dataset):
    outputs = reference["outputs"]
    drawn = IterationSampler(dataset, 1, images_per_batch=len(outputs["image_index_map"]), official_frame_index=True)
    order = outputs["video_order"].tolist()
    found = sorted((order[image.video], *image.times) for image in drawn.batch(0).images)
    assert found == sorted((file, frame) for file, frame, _ in outputs["image_index_map"].tolist())


def test_the_frames_of_every_subsequence(reference, dataset):
    num_frames, stride = reference["config"]["video_length"], reference["config"]["every_nth"]
    assert dataset.labels is not None
    for item, low, high, start, label, *frames in reference["outputs"]["subsequence"].tolist():
        length = int(dataset.lengths[item])
        choices = start_choices(length, num_frames, stride)
        assert label == dataset.labels[item]
        if start < 0:
            assert choices == 0
        else:
            assert (low, high) == (0, choices)
        assert list(clip_times(length, num_frames, stride, max(start, 0))) == frames


def test_the_pixels_of_the_first_clip(reference, dataset):
    expected = reference["outputs"]["video0"]
    clip = first_clip(dataset, reference)
    assert clip.shape == expected.shape
    assert (clip - expected).abs().max() <= TOLERANCE


def test_the_start_of_the_first_clip_is_one_of_ours(reference, dataset):
    num_frames, stride = reference["config"]["video_length"], reference["config"]["every_nth"]
    choices = start_choices(int(dataset.lengths[0]), num_frames, stride)
    assert int(reference["outputs"]["video0_start"]) in (range(choices) if choices else (-1, 0))


def test_one_changed_pixel_is_noticed(reference, tmp_path):
    number = int(reference["outputs"]["video_order"][0])
    tile = reference["inputs"][f"tile_{number}"].clone()
    side, start = reference["config"]["side"], max(int(reference["outputs"]["video0_start"]), 0)
    row, column = (0, start * side) if tile.shape[1] > tile.shape[0] else (start * side, 0)
    tile[row, column, 0] = (int(tile[row, column, 0]) + 128) % 256
    changed = {**reference, "inputs": {**reference["inputs"], f"tile_{number}": tile}}
    clip = first_clip(write_and_open(changed, tmp_path), changed)
    assert (clip - reference["outputs"]["video0"]).abs().max() > 100 * TOLERANCE


def test_one_missing_frame_is_noticed(reference, tmp_path):
    number = int(reference["outputs"]["video_order"][-1])
    tile, side = reference["inputs"][f"tile_{number}"], reference["config"]["side"]
    shorter = tile[:, :-side] if tile.shape[1] > tile.shape[0] else tile[:-side]
    changed = {**reference, "inputs": {**reference["inputs"], f"tile_{number}": shorter}}
    lengths = write_and_open(changed, tmp_path).lengths.tolist()
    assert lengths != reference["outputs"]["lengths"].tolist()
