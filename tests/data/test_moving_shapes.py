"""Shapes rendered on the fly."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from vidgen.data.moving_shapes import ATTRIBUTES, DIRECTIONS, PALETTE, SHAPES, MovingShapes, shape_coverage
from vidgen.data.request import ClipRequest
from vidgen.errors import UserError
from vidgen.registry import DATASETS


def shapes(**arguments) -> MovingShapes:
    return MovingShapes(**{"resolution": 32, "num_frames": 16, "num_videos": 60, **arguments})


def clip(dataset: MovingShapes, video: int, resolution: int = 32) -> dict[str, torch.Tensor]:
    return dataset.read(ClipRequest(video, dataset.clip_times(video, 0), resolution))


def mass(video: torch.Tensor) -> np.ndarray:
    """How much is not background, ``(T, H, W)``, 0 to 1."""
    amount = (video.numpy() + 1).sum(0)
    return amount / amount.max()


def centroids(video: torch.Tensor) -> np.ndarray:
    """x and y in sides of the frame, ``(T, 2)``."""
    amount = mass(video)
    grid = (np.arange(amount.shape[-1]) + 0.5) / amount.shape[-1]
    total = amount.sum((1, 2))
    return np.stack([(amount.sum(1) * grid).sum(1), (amount.sum(2) * grid).sum(1)], 1) / total[:, None]


def message(**arguments) -> str:
    with pytest.raises(UserError) as error:
        shapes(**arguments)
    return str(error.value)


def test_the_registry_knows_it():
    assert DATASETS.get("moving_shapes") is MovingShapes


def test_a_sample_has_shape_range_and_names():
    sample = clip(shapes(), 0)
    assert sample["video"].shape == (3, 16, 32, 32) and sample["video"].dtype == torch.float32
    assert sample["video"].min() == -1 and sample["video"].max() <= 1
    assert sample["attributes"].shape == (len(ATTRIBUTES),) and sample["attributes"].dtype == torch.float32
    assert sample["label"].dtype == torch.int64 and sample["length"].item() == 16


def test_a_video_depends_on_seed_and_index_alone():
    few, many, other = shapes(), shapes(num_videos=500), shapes(seed=1)
    many.read(ClipRequest(400, (0,), 32))
    for video in range(20):
        assert torch.equal(clip(few, video)["video"], clip(many, video)["video"])
    assert sum(torch.equal(clip(few, i)["video"], clip(other, i)["video"]) for i in range(20)) == 0


def test_a_frame_depends_on_its_time_alone():
    dataset = shapes(length=24, travel=(0.3, 0.4))
    whole = dataset.read(ClipRequest(3, tuple(range(24)), 32))["video"]
    part = dataset.read(ClipRequest(3, (20, 4), 32))["video"]
    assert torch.equal(part, whole[:, [20, 4]])


@pytest.mark.parametrize(("num_frames", "stride", "resolution"), [(16, 1, 32), (16, 2, 32), (8, 1, 64), (16, 1, 20)])
def test_shapes_travel_steadily_in_their_direction(num_frames, stride, resolution):
    dataset = shapes(num_frames=num_frames, stride=stride, resolution=resolution)
    for video in range(40):
        sample = clip(dataset, video, resolution)
        where = centroids(sample["video"])
        way = where[-1] - where[0]
        direction = np.array(DIRECTIONS[dataset.spec.class_names[sample["label"]]])
        assert way @ direction >= 0.39
        assert abs(way @ direction[::-1]) < 0.01
        steps = np.diff(where, axis=0) @ direction
        assert np.allclose(steps, steps.mean(), atol=0.1 / resolution)


def test_shapes_stay_inside_and_are_a_quarter_of_the_side_or_more():
    dataset = shapes(length=22, travel=(0.4, 0.6))
    for video in range(60):
        half = float(dataset.sizes[video]) / 2
        where = dataset.centers(video, range(22))
        assert where.min() >= half - 1e-9 and where.max() <= 1 - half + 1e-9
        assert 0.25 <= dataset.sizes[video] <= 0.375


def test_colours_are_those_of_the_palette():
    dataset = shapes(label_by="color", colors=list(PALETTE))
    for video in range(30):
        sample = clip(dataset, video, 64)
        levels = ((sample["video"] + 1) * 127.5).round()
        brightest = levels.flatten(1)[:, levels.sum(0).argmax()]
        assert brightest.tolist() == list(PALETTE[dataset.spec.class_names[sample["label"]]])


def test_attributes_number_shape_colour_size_and_direction():
    dataset = shapes(label_by="shape")
    by_color, by_direction = shapes(label_by="color"), shapes(label_by="direction")
    for video in range(20):
        numbers = dict(zip(ATTRIBUTES, clip(dataset, video)["attributes"].tolist(), strict=True))
        assert numbers["shape"] == clip(dataset, video)["label"].item()
        assert numbers["color"] == clip(by_color, video)["label"].item()
        assert numbers["direction"] == clip(by_direction, video)["label"].item()
        assert numbers["size"] == dataset.sizes[video]
    assert dataset.spec.class_names == SHAPES and dataset.spec.attribute_names == ATTRIBUTES


def test_no_labels_when_none_are_asked_for():
    dataset = shapes(label_by="none")
    assert dataset.labels is None and dataset.spec.class_names == ()
    assert "label" not in clip(dataset, 0)


def test_every_combination_turns_up_about_equally_often():
    dataset = shapes(num_videos=4800)
    combinations = np.stack([clip(dataset, i, 8)["attributes"][[0, 1, 3]].numpy() for i in range(4800)])
    _, counts = np.unique(combinations, axis=0, return_counts=True)
    assert len(counts) == 3 * 4 * 4 and counts.min() > 60 and counts.max() < 140


@pytest.mark.parametrize(("shape", "area"), [("circle", np.pi / 4), ("square", 1.0), ("triangle", 0.5)])
def test_edges_are_antialiased(shape, area):
    centers = np.array([[0.5 + offset / 64, 0.5] for offset in np.linspace(0, 1, 8)], np.float32)
    coverage = shape_coverage(shape, centers, 0.4, 64)
    assert np.allclose(coverage.sum((1, 2)), area * (0.4 * 64) ** 2, rtol=0.03)
    partly = (coverage > 0) & (coverage < 1)
    assert partly.any((1, 2)).all()
    grid = (np.arange(64) + 0.5) / 64
    found = (coverage.sum(1) * grid).sum(1) / coverage.sum((1, 2))
    assert np.allclose(found, centers[:, 0], atol=0.05 / 64)  # moves by less than a pixel, not in jumps


def test_a_video_is_the_same_at_any_resolution():
    dataset = shapes()
    for video in range(10):
        small, large = clip(dataset, video, 32)["video"], clip(dataset, video, 128)["video"]
        reduced = torch.nn.functional.avg_pool2d(large.transpose(0, 1), 4).transpose(0, 1)
        assert (small - reduced).abs().mean() < 0.01


def test_levels_are_those_of_stored_pixels():
    levels = (clip(shapes(), 0)["video"] + 1) * 127.5
    assert torch.allclose(levels, levels.round(), atol=1e-4)


def test_settings_are_refused_by_name():
    listed = "choose from circle, square, triangle"
    assert message(shapes=["cirlce"]) == f"data.shapes: unknown 'cirlce'; did you mean 'circle'? ({listed})"
    assert message(shapes=[]) == "data.shapes is empty; choose from circle, square, triangle"
    expected = "data.directions: unknown 'north' (choose from right, left, down, up)"
    assert message(directions=["north"]) == expected
    expected = "data.size is [0.5, 0.3]; it must be two rising numbers between 0.05 and 0.9"
    assert message(size=(0.5, 0.3)) == expected
    assert message(num_videos=0) == "data.num_videos is 0; it must be at least 1"
    assert message(length=8) == "data.length 8 is less than data.num_frames 16; raise it"
    assert message(length=64) == (
        "data.length 64: a shape that travels 0.4 of the side in a clip leaves the frame;"
        " use at most 24, or lower data.travel or data.size"
    )


def test_the_longest_length_that_the_message_names_is_right():
    assert len(shapes(length=24)) == 60
    message(length=25)


def test_description_says_that_it_is_rendered():
    assert shapes(num_videos=4, label_by="none").describe() == (
        "moving shapes, rendered on the fly\n"
        "4 videos of 16 frames (64 in all)\n"
        "clips of 3 x 16 x 32 x 32 (channels, frames, height, width), stride 1\n"
        "attributes: shape, color, size, direction"
    )


def test_single_frames_are_clips_too():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shapes(num_frames=1).read(ClipRequest(0, (0,), 32))["video"].shape == (3, 1, 32, 32)
        assert shapes(num_frames=1, length=8).lengths.tolist() == [8] * 60


def test_the_spec_says_what_the_attributes_mean():
    spec = shapes(colors=["red", "cyan"]).spec
    assert dict(zip(spec.attribute_names, spec.attribute_values, strict=True)) == {
        "shape": SHAPES,
        "color": ("red", "cyan"),
        "size": (),
        "direction": tuple(DIRECTIONS),
    }
