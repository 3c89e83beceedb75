"""The rule by which a clip is cut."""

from __future__ import annotations

import dataclasses

import pytest

from vidgen.data.request import ClipRequest, clip_times, start_choices


def test_a_long_video_offers_every_start_that_keeps_the_clip_inside():
    assert start_choices(length=35, num_frames=16, stride=2) == 5
    assert clip_times(35, 16, 2, draw=4) == tuple(range(4, 36, 2))[:16]
    assert clip_times(35, 16, 2, draw=4)[-1] == 34


def test_a_video_of_exactly_the_strided_length_offers_stride_starts():
    assert start_choices(length=32, num_frames=16, stride=2) == 2
    assert start_choices(length=16, num_frames=16, stride=1) == 1


def test_any_draw_is_folded_into_the_starts():
    assert clip_times(35, 16, 2, draw=5 * 10**17 + 3) == clip_times(35, 16, 2, draw=3)


def test_a_video_too_short_for_the_stride_gives_its_first_frames():
    assert start_choices(length=31, num_frames=16, stride=2) == 0
    assert clip_times(31, 16, 2, draw=9) == tuple(range(16))


def test_a_video_without_enough_frames_has_no_clip():
    with pytest.raises(ValueError) as error:
        clip_times(15, 16, 2, draw=0)
    assert str(error.value) == "a video of 15 frames has no clip of 16"


def test_a_request_is_a_value():
    request = ClipRequest(3, (0, 2), 64, 7)
    assert request == ClipRequest(3, (0, 2), 64, 7) and hash(request) == hash(ClipRequest(3, (0, 2), 64, 7))
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.video = 4  # type: ignore[misc]
