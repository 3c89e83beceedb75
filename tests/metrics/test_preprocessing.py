"""Frames are brought to the size and range of a network by named rules."""

from __future__ import annotations

import pytest
import torch

from vidgen.errors import UserError
from vidgen.metrics.preprocessing import PROTOCOLS, Preprocessing, resize_half_pixel, resize_tf1

RAMP = torch.tensor([0.0, 10, 20, 30])[None, None, None].expand(1, 1, 2, 4)


def test_tensorflow_1_takes_its_source_from_the_corner():
    assert resize_tf1(RAMP, 2, 8)[0, 0, 0].tolist() == [0, 5, 10, 15, 20, 25, 30, 30]
    assert resize_tf1(RAMP, 1, 2)[0, 0, 0].tolist() == [0, 20]
    assert torch.equal(resize_tf1(RAMP, 2, 4), RAMP)


def test_half_pixel_centres():
    assert resize_half_pixel(RAMP, 2, 8)[0, 0, 0].tolist() == [0, 2.5, 7.5, 12.5, 17.5, 22.5, 27.5, 30]
    assert resize_half_pixel(RAMP, 1, 2)[0, 0, 0].tolist() == [5, 25]


def test_antialias_widens_the_filter_where_frames_shrink():
    assert resize_half_pixel(RAMP, 2, 2, antialias=True)[0, 0, 0].tolist() != [5, 25]
    assert Preprocessing("antialias", height=2, width=2)(torch.arange(8).view(1, 1, 1, 2, 4).to(torch.uint8)).std() > 0
    enlarged = [resize_half_pixel(RAMP, 2, 8, antialias=antialias) for antialias in (True, False)]
    assert torch.allclose(*enlarged)


def test_three_resizes_are_three_functions():
    video = torch.randint(0, 256, (1, 3, 1, 16, 16), dtype=torch.uint8)
    results = [Preprocessing(rule, height=6, width=6)(video) for rule in ("tf1", "half_pixel", "antialias")]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert (results[first] - results[second]).abs().max() > 0.01


def test_the_range():
    video = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 2, 1, 1).expand(1, 3, 2, 4, 4)
    result = Preprocessing(low=0.5, high=2, height=2, width=2)(video)
    assert result.dtype == torch.float32 and result.shape == (1, 3, 2, 2, 2)
    assert result[:, :, 0].eq(0.5).all() and result[:, :, 1].eq(2).all()


@pytest.mark.parametrize(
    ("height", "width", "scaled"), [(2, 3, (4, 6)), (3, 2, (6, 4)), (5, 6, (4, 5)), (6, 5, (5, 4)), (49, 49, (4, 4))]
)
def test_the_shorter_side_fits_and_the_centre_is_cut_out(height, width, scaled):
    video = torch.randint(0, 256, (1, 3, 1, height, width), dtype=torch.uint8)
    rule = Preprocessing("half_pixel", "short_side_center", 0, 255, 4, 4)
    whole = resize_half_pixel(video[:, :, 0].float(), *scaled)
    top, left = (scaled[0] - 4) // 2, (scaled[1] - 4) // 2
    assert torch.allclose(rule(video)[:, :, 0], whole[..., top : top + 4, left : left + 4], atol=1e-4)


def test_videos_and_frames_are_kept_apart():
    video = torch.randint(0, 256, (2, 3, 4, 5, 6), dtype=torch.uint8)
    original = video.clone()
    for rule in PROTOCOLS.values():
        whole = rule(video)
        assert torch.allclose(whole[1:, :, 2:3], rule(video[1:, :, 2:3]), atol=1e-6)
    assert torch.equal(video, original)


def test_unknown_rules_are_refused():
    with pytest.raises(UserError) as caught:
        Preprocessing(resize="half_pixels")  # type: ignore[arg-type]
    known = "(known: tf1, half_pixel, antialias)"
    assert str(caught.value) == f"unknown resize rule 'half_pixels'; did you mean 'half_pixel'? {known}"
    with pytest.raises(UserError) as caught:
        Preprocessing(crop="middle")  # type: ignore[arg-type]
    assert str(caught.value) == "unknown crop rule 'middle' (known: stretch, short_side_center)"


def test_it_is_described_by_plain_values():
    assert PROTOCOLS["videogpt"].describe() == {
        "resize": "half_pixel",
        "crop": "short_side_center",
        "low": -1.0,
        "high": 1.0,
        "height": 224,
        "width": 224,
    }


def test_only_bytes_are_taken():
    with pytest.raises(TypeError) as caught:
        Preprocessing()(torch.zeros(1, 3, 2, 8, 8))
    assert str(caught.value) == "preprocessing: takes uint8 videos in 0 .. 255, not torch.float32"
    with pytest.raises(ValueError) as wrong:
        Preprocessing()(torch.zeros(3, 2, 8, 8, dtype=torch.uint8))
    assert str(wrong.value) == "preprocessing: takes videos (B, C, T, H, W), not (3, 2, 8, 8)"


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (30, 3), (3, 30), (225, 223)])
def test_frames_of_any_size(name, size):
    rule = PROTOCOLS[name]
    videos = torch.full((1, 3, 1, *size), 255, dtype=torch.uint8)
    result = rule(videos)
    assert result.shape == (1, 3, 1, 224, 224)
    assert torch.allclose(result, torch.tensor(rule.high), atol=1e-6) and (videos == 255).all()


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_frames_of_the_very_size_are_only_scaled(name):
    rule = PROTOCOLS[name]
    videos = torch.arange(224 * 224).remainder(256).to(torch.uint8).view(1, 1, 1, 224, 224)
    expected = rule.low + videos.double() / 255 * (rule.high - rule.low)
    assert torch.allclose(rule(videos).double(), expected, atol=1e-6)


def test_frames_may_lie_in_memory_in_any_order():
    videos = torch.randint(0, 256, (2, 6, 5, 3, 4), dtype=torch.uint8)
    turned = videos.permute(0, 3, 4, 1, 2)
    assert torch.equal(PROTOCOLS["original"](turned), PROTOCOLS["original"](turned.contiguous()))
