"""Stored frames to clips."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from tests.data.strips import random_frames
from vidgen.data.transforms import flips, keep_channels, resize_frames, scaled_size, to_clip


def checkerboard(side: int) -> np.ndarray:
    board = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
    return np.repeat(board[None, :, :, None], 3, axis=-1)


def test_levels_map_to_minus_one_and_one():
    clip = to_clip(np.array([0, 255, 51], np.uint8).reshape(1, 1, 1, 3))
    assert clip.dtype == torch.float32
    assert clip.flatten().tolist() == pytest.approx([-1.0, 1.0, -0.6], abs=1e-7)


def test_axes_become_channels_time_height_width():
    frames = random_frames(5, 4)[:, :3]
    clip = to_clip(frames)
    assert clip.shape == (3, 5, 3, 4)
    assert clip[2, 4, 1, 3].item() == pytest.approx(frames[4, 1, 3, 2] / 127.5 - 1, abs=1e-6)


def test_every_level_survives_the_way_to_floats_and_back():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    back = ((to_clip(levels) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(back.flatten(), torch.arange(256, dtype=torch.uint8))


@pytest.mark.parametrize(("height", "width"), [(30, 40), (40, 30), (33, 57), (20, 20), (8, 12)])
def test_crop_scales_the_shorter_side_and_keeps_the_centre(height, width):
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    ours = resize_frames(frames, 16, "crop")
    images = torch.from_numpy(frames).permute(0, 3, 1, 2)
    theirs = tv.center_crop(tv.resize(images, [16], antialias=True), [16, 16]).permute(0, 2, 3, 1)
    assert ours.shape == (2, 16, 16, 3)
    assert np.abs(ours.astype(int) - theirs.numpy().astype(int)).max() <= 1


def test_stretch_keeps_all_of_the_frame():
    frames = np.zeros((1, 8, 16, 3), np.uint8)
    frames[:, :, :4] = 255  # a quarter of the width, which a centre crop would cut off
    assert resize_frames(frames, 8, "crop")[0, 0, :, 0].max() == 0
    stretched = resize_frames(frames, 8, "stretch")
    assert stretched.shape == (1, 8, 8, 3)
    assert stretched[0, 4, 0, 0] == 255 and stretched[0, 4, 7, 0] == 0


def test_shrinking_is_antialiased():
    small = resize_frames(checkerboard(64), 16)
    assert small.min() >= 120 and small.max() <= 135  # grey; picking pixels would leave 0 or 255


def test_frames_of_the_right_size_are_left_alone():
    frames = random_frames(2, 8)
    assert np.shares_memory(resize_frames(frames, 8), frames)


@pytest.mark.parametrize("channels", [1, 2])
def test_any_number_of_channels_is_resized_alike(channels):
    frames = random_frames(2, 12)
    assert np.array_equal(resize_frames(frames[..., :channels], 7), resize_frames(frames, 7)[..., :channels])


@pytest.mark.parametrize(
    ("stored", "channels", "taken"), [(4, 3, [0, 1, 2]), (3, 1, [0]), (2, 1, [0]), (2, 3, [0] * 3)]
)
def test_the_first_channels_are_kept(stored, channels, taken):
    frames = random_frames(2, 3, stored)
    assert np.array_equal(keep_channels(frames, channels), frames[..., taken])


def test_squares_are_scaled_as_by_the_shorter_side():
    for height in range(1, 60, 7):
        for width in range(1, 60, 5):
            wanted = (16, 16 * height // width) if width <= height else (16 * width // height, 16)
            assert scaled_size(width, height, 16, 16, "crop", Fraction(1)) == wanted


@pytest.mark.parametrize(
    ("height", "width", "scaled", "box"),
    [(40, 40, (24, 24), (0, 4, 24, 20)), (20, 60, (48, 16), (12, 0, 36, 16)), (20, 30, (24, 16), (0, 0, 24, 16))],
)
def test_what_is_no_square_is_covered_and_cut_out_of_the_centre(height, width, scaled, box):
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    ours = resize_frames(frames, 16, "crop", width=24)
    image = Image.fromarray(frames[1]).resize(scaled, Image.Resampling.BILINEAR).crop(box)
    assert ours.shape == (2, 16, 24, 3) and np.array_equal(ours[1], np.asarray(image))


def test_both_sides_are_stretched_to_what_is_no_square():
    frames = random_frames(1, 20)
    image = Image.fromarray(frames[0]).resize((6, 10), Image.Resampling.BILINEAR)
    assert np.array_equal(resize_frames(frames, 10, "stretch", width=6)[0], np.asarray(image))


def test_pixels_that_are_no_squares_are_shown_in_their_shape():
    assert scaled_size(720, 576, 64, 64, "crop", Fraction(16, 15)) == (85, 64)  # 4:3
    assert scaled_size(720, 576, 64, 64, "crop", Fraction(1)) == (80, 64)
    assert scaled_size(720, 576, 64, 64, "crop", Fraction(1, 2)) == (64, 102)
    assert scaled_size(720, 576, 64, 64, "stretch", Fraction(16, 15)) == (64, 64)
    wide = np.zeros((1, 8, 4, 3), np.uint8)
    wide[:, :, 2:] = 255  # pixels twice as wide as high: the frame is a square
    assert resize_frames(wide, 8, pixel_aspect=Fraction(2))[0, 0, :, 0].tolist()[:3] == [0, 0, 0]
    assert resize_frames(wide, 8, pixel_aspect=Fraction(2)).shape == (1, 8, 8, 3)


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos", "box", "nearest"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_filter_is_the_one_asked_for(name, channels):
    frames = random_frames(1, 12, channels)
    pixels = Image.fromarray(frames[0, ..., 0] if channels == 1 else frames[0])
    wanted = np.asarray(pixels.resize((5, 5), Image.Resampling[name.upper()])).reshape(5, 5, channels)
    assert np.array_equal(resize_frames(frames, 5, interpolation=name)[0], wanted)


def test_large_numbers_survive_picking_the_nearest():
    ids = np.array([[0, 70000], [1, 2**30]], np.int32).reshape(1, 2, 2, 1)
    large = resize_frames(ids, 4, interpolation="nearest")
    assert large.dtype == np.int32
    assert np.array_equal(large, ids.repeat(2, axis=1).repeat(2, axis=2))


def test_half_of_the_seeds_flip():
    assert 450 < sum(flips(seed) for seed in range(1000)) < 550
    assert flips(7) == flips(7)


def test_no_seed_never_flips(monkeypatch):
    monkeypatch.setattr("vidgen.data.transforms.derive_seed", lambda *parts: 1)
    assert flips(0) and not flips(None)


@pytest.mark.parametrize(
    ("width", "height", "side", "size"),
    [
        (320, 240, 128, (171, 128)),
        (240, 320, 128, (128, 171)),
        (360, 360, 128, (128, 128)),
        (400, 225, 128, (228, 128)),
    ],
)
def test_crop_up_rounds_the_longer_side_up(width, height, side, size):
    assert scaled_size(width, height, side, side, "crop_up", Fraction(1)) == size
    wider = scaled_size(width, height, side, side, "crop", Fraction(1))
    assert all(0 <= ours - theirs <= 1 for ours, theirs in zip(size, wider, strict=True))


def test_crop_up_begins_the_cut_at_the_lower_of_two_middles():
    frames = np.broadcast_to(np.arange(19, dtype=np.uint8)[None, None, :, None], (1, 8, 19, 3))
    assert resize_frames(frames, 8, "crop_up")[0, 0, :, 0].tolist() == list(range(5, 13))
    assert resize_frames(frames, 8, "crop")[0, 0, :, 0].tolist() == list(range(6, 14))


def test_crop_first_scales_the_centre_alone():
    frames = np.random.default_rng(0).integers(0, 256, (2, 36, 64, 3), dtype=np.uint8)
    for resolution, width, box in ((9, 9, (14, 0, 50, 36)), (9, 18, (0, 2, 64, 34)), (18, 9, (23, 0, 41, 36))):
        ours = resize_frames(frames, resolution, "crop_first", width=width, interpolation="lanczos")
        theirs = [
            Image.fromarray(frame).crop(box).resize((width, resolution), Image.Resampling.LANCZOS) for frame in frames
        ]
        assert np.array_equal(ours, np.stack(theirs))
    square = frames[:, :, :36]
    assert np.array_equal(resize_frames(square, 36, "crop_first"), square)


def test_crop_first_counts_pixels_as_they_are_shown():
    frames = np.zeros((1, 10, 40, 3), np.uint8)
    frames[:, :, 10:30] = 255  # as wide as high, since a pixel is half as wide as high
    frames[:, :, 10:14] = 50
    ours = resize_frames(frames, 10, "crop_first", pixel_aspect=Fraction(1, 2), interpolation="box")
    assert (ours[:, :, :2] == 50).all() and (ours[:, :, 2:] == 255).all()


def test_plain_bilinear_looks_at_two_by_two_pixels():
    frames = checkerboard(16)[:, :, :8]
    assert set(resize_frames(frames, 4, "stretch", width=2).flatten().tolist()) <= {127, 128}
    frames = np.zeros((1, 16, 16, 1), np.uint8)
    frames[0, 5:7, 5:7, 0] = (10, 20), (30, 43)
    ours = resize_frames(frames, 4, "stretch", interpolation="plain_bilinear")
    assert ours.dtype == np.uint8 and ours[0, 1, 1, 0] == 26  # the mean of the four, rounded
    frames[0, 5:7, 5:7] = 0
    frames[0, 4, 4], frames[0, 7, 7] = 200, 200
    assert resize_frames(frames, 4, "stretch", interpolation="plain_bilinear").max() == 0
