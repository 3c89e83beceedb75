"""Average content distance is the mean over pairs of frames."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.pair import ProcessPair
from vidgen.errors import UserError
from vidgen.metrics.content_distance import AverageContentDistance, ShapeColour, average_content_distance
from vidgen.registry import METRICS


def test_mean_over_unordered_pairs() -> None:
    features = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]])
    torch.testing.assert_close(average_content_distance(features), torch.tensor([10 / 3, 0.0]))


def test_needs_two_frames() -> None:
    with pytest.raises(ValueError, match=r"features must be \(N, T, D\) with T >= 2, got \(2, 1, 3\)"):
        average_content_distance(torch.zeros(2, 1, 3))


# The metric ---------------------------------------------------------------------------------------------------------


def videos(number: int = 5, frames: int = 4) -> torch.Tensor:
    return torch.randint(256, (number, 3, frames, 6, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_colour_is_that_of_the_shape() -> None:
    video = torch.zeros(2, 3, 2, 4, 4, dtype=torch.uint8)
    video[0, :, 0, 1:3, 1] = torch.tensor([[200], [10], [50]], dtype=torch.uint8)
    video[0, :, 0, 0, 0] = torch.tensor([100, 40, 20], dtype=torch.uint8)
    video[0, :, 0, 3, 3] = 25  # no more than the threshold: background
    colours = ShapeColour()(video)
    assert colours.shape == (4, 3)
    assert colours[0].tolist() == pytest.approx([500 / 3, 20, 40], rel=1e-6)
    assert not colours[1:].any()


def test_frames_follow_one_another_video_by_video() -> None:
    every = ShapeColour()(videos())
    assert torch.equal(every[6], ShapeColour()(videos()[1:2, :, 2:3])[0])


def test_value_is_the_mean_over_videos() -> None:
    metric = AverageContentDistance()
    for part in videos().split(2):
        metric.update(part)
    distances = average_content_distance(ShapeColour()(videos()).double().view(5, 4, 3))
    assert metric.compute().item() == pytest.approx(distances.mean().item(), rel=1e-12)
    assert metric.details == {"std": pytest.approx(distances.std(correction=0).item(), rel=1e-9)}
    protocol = metric.protocol()
    assert protocol["extractor"]["name"] == "shape_colour" and protocol["num_frames"] == 4
    assert metric.warnings() == [] and metric.label == "acd"


def test_a_colour_that_never_changes_has_no_distance() -> None:
    metric = AverageContentDistance()
    metric.update(torch.full((2, 3, 5, 4, 4), 90, dtype=torch.uint8))
    assert metric.compute() == 0


def test_features_from_elsewhere_are_taken() -> None:
    metric = METRICS.get("acd")()
    metric.add(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), real=False)
    assert metric.compute() == 5


def on_rank(parts: list[torch.Tensor]) -> float:
    metric = AverageContentDistance()
    metric.update(parts[torch.distributed.get_rank()])
    return float(metric.compute())


def test_two_processes_equal_one(pair: ProcessPair) -> None:
    alone = AverageContentDistance()
    alone.update(videos())
    value = float(alone.compute())
    assert pair.run(on_rank, parts=[videos()[:1], videos()[1:]]) == pytest.approx([value] * 2, rel=1e-12)


def test_single_frames_have_no_distance() -> None:
    with pytest.raises(ValueError, match=r"^acd: needs videos of at least 2 frames, got 1$"):
        AverageContentDistance().update(videos(frames=1))


def test_no_videos_have_no_value() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"^acd: needs at least 1 generated videos, got 0$"):
            AverageContentDistance().compute()


class OfVideos(ShapeColour):
    per_frame = False


def test_each_frame_has_a_feature() -> None:
    name = "tests.metrics.test_content_distance.OfVideos"
    message = f"acd: {name} has one feature for a video; choose one that has a feature for each frame"
    with pytest.raises(UserError) as error:
        AverageContentDistance(extractor=name)
    assert str(error.value) == message


def test_colours_have_no_weights() -> None:
    with pytest.raises(UserError, match=r"^shape_colour: has no weights, but weights is 'a.pt'; leave it out$"):
        AverageContentDistance(weights="a.pt")
