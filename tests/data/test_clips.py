"""Which source frames a training clip has."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from vidgen.data.clips import (
    Clips,
    check_clips,
    clip_frames,
    draw_times,
    shortest_video,
    span_choices,
)
from vidgen.data.request import clip_times
from vidgen.errors import UserError

SPARSE = Clips("sparse")
EVEN = Clips("even", spans=())


def message(num_frames: int = 3, stride: int = 1, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        check_clips(Clips(**settings), num_frames, stride)
    return str(error.value)


def test_spans_hold_the_clip_and_fit_into_video_and_limit():
    assert span_choices(SPARSE, 100, 3) == [2, 4, 8, 16, 32]
    assert span_choices(SPARSE, 17, 3) == [2, 4, 8, 16]
    assert span_choices(SPARSE, 16, 3) == [2, 4, 8]
    assert span_choices(SPARSE, 100, 6) == [8, 16, 32]
    assert span_choices(Clips("sparse", max_span=16), 100, 3) == [2, 4, 8, 16]
    assert span_choices(Clips("sparse", spans=(), max_span=6), 100, 3) == [2, 3, 4, 5]


def test_even_distances_fit_into_video_and_limit():
    assert span_choices(Clips("even", spans=(), max_span=4), 9, 3) == [1, 2, 3, 4]
    assert span_choices(Clips("even", spans=(), max_span=4), 8, 3) == [1, 2, 3]
    assert span_choices(Clips("even", spans=(0, 2, 5), max_span=4), 100, 3) == [2]


def test_a_sparse_clip_has_rising_frames_between_the_ends_of_its_span():
    rng = random.Random(0)
    for _ in range(300):
        times = draw_times(rng, SPARSE, 20, 5)
        assert times == sorted(set(times)) and len(times) == 5
        assert times[-1] - times[0] in (4, 8, 16) and times[0] >= 0 and times[-1] <= 19


def test_an_even_clip_has_equal_distances():
    rng = random.Random(0)
    found = set()
    for _ in range(300):
        times = draw_times(rng, EVEN, 13, 4)
        steps = {after - before for before, after in itertools.pairwise(times)}
        assert len(steps) == 1 and times[0] >= 0 and times[-1] <= 12
        found |= steps
    assert found == {1, 2, 3, 4}


def test_one_frame_may_be_any():
    rng = random.Random(0)
    assert {draw_times(rng, SPARSE, 3, 1)[0] for _ in range(100)} == {0, 1, 2}
    assert all(0 <= draw_times(rng, SPARSE, 3, 1, fractional=True)[0] <= 2 for _ in range(100))


def test_a_video_too_short_is_an_error_of_the_caller():
    with pytest.raises(ValueError, match=r"^a video of 2 frames has no clip of 3$"):
        draw_times(random.Random(0), SPARSE, 2, 3)


@pytest.mark.parametrize("clips", [SPARSE, EVEN, Clips("sparse", spans=(7,)), Clips("even", spans=(5,))])
@pytest.mark.parametrize("num_frames", [1, 2, 4])
def test_the_shortest_video_gives_a_clip_and_no_shorter_one_does(clips, num_frames):
    length = shortest_video(clips, num_frames, 1)
    assert len(clip_frames(clips, length, num_frames, 1, draw=3)) == num_frames
    if num_frames > 1:
        assert not span_choices(clips, length - 1, num_frames)


def test_the_shortest_video_of_a_contiguous_clip_is_that_of_mocogan():
    assert shortest_video(Clips(), 16, 2) == 32


def test_contiguous_clips_are_those_of_the_strided_rule():
    for draw in range(50):
        assert clip_frames(Clips(), 30, 4, 3, draw) == clip_times(30, 4, 3, draw)


def test_a_clip_may_always_begin_at_the_first_frame():
    first = Clips(start="first")
    for draw in (0, 1, 7, 12345):
        assert clip_frames(first, 30, 4, 3, draw) == (0, 3, 6, 9)
        assert clip_frames(first, 12, 4, 3, draw) == (0, 3, 6, 9)
        assert clip_frames(first, 11, 4, 3, draw) == (0, 1, 2, 3)  # admitted by min_length: as without start
    with pytest.raises(ValueError, match=r"^a video of 3 frames has no clip of 4$"):
        clip_frames(first, 3, 4, 1, 0)


def test_short_videos_may_repeat_their_last_frame():
    assert shortest_video(Clips(repeat_last=True), 16, 2) == 1
    for start in ("random", "first"):
        clips = Clips(start=start, repeat_last=True)
        for draw in (0, 1, 7, 12345):
            assert clip_frames(clips, 1, 4, 1, draw) == (0, 0, 0, 0)
            assert clip_frames(clips, 3, 4, 1, draw) == (0, 1, 2, 2)
            assert clip_frames(clips, 4, 4, 1, draw) == (0, 1, 2, 3)
            assert clip_frames(clips, 5, 4, 2, draw) == (0, 2, 4, 4)
            assert clip_frames(clips, 6, 4, 2, draw) == (0, 2, 4, 5)
            assert clip_frames(clips, 7, 4, 2, draw) == (0, 2, 4, 6)


def test_repeating_the_last_frame_changes_nothing_for_long_videos():
    for length in (12, 13, 30):
        for draw in range(30):
            times = clip_frames(Clips(repeat_last=True), length, 4, 3, draw)
            assert times == clip_times(length, 4, 3, draw)


def test_the_draw_decides_everything():
    clips = {draw: clip_frames(SPARSE, 90, 3, 1, draw) for draw in range(40)}
    assert clips == {draw: clip_frames(SPARSE, 90, 3, 1, draw) for draw in range(40)}
    assert len(set(clips.values())) > 30
    assert all(isinstance(time, int) for times in clips.values() for time in times)


def test_of_a_long_video_a_random_window_is_used():
    clips = Clips("sparse", spans=(9,), window=10)
    starts = {clip_frames(clips, 14, 3, 1, draw)[0] for draw in range(200)}
    assert starts == {0, 1, 2, 3, 4}  # the clip fills the window, so that its start is the window's
    assert {clip_frames(clips, 10, 3, 1, draw)[0] for draw in range(50)} == {0}


def test_the_window_is_drawn_first_and_then_the_clip_in_it():
    clips = Clips("sparse", window=20)
    for draw in range(50):
        rng = random.Random(draw)
        first = rng.randint(0, 70)
        expected = tuple(first + time for time in draw_times(rng, clips, 20, 4))
        assert clip_frames(clips, 90, 4, 1, draw) == expected


def test_the_window_of_the_paper_has_1024_frames():
    times = [clip_frames(SPARSE, 3000, 3, 1, draw) for draw in range(500)]
    assert SPARSE.window == 1024
    assert max(clip[-1] for clip in times) > 2900 and min(clip[0] for clip in times) < 100


def test_good_settings_pass():
    check_clips(Clips(), 16, 2)
    check_clips(Clips(start="first", repeat_last=True), 16, 2)
    check_clips(SPARSE, 3, 1)
    check_clips(Clips("even", spans=(), max_span=1), 16, 1)
    check_clips(Clips("sparse", spans=(1,)), 1, 1)


def test_settings_are_refused_by_name():
    unused = "data.clips.spans, max_span and window have no meaning with data.clips.rule 'contiguous'"
    assert message(max_span=8) == unused
    assert message(window=8) == unused
    assert message(spans=[2]) == unused
    assert message(spans=[2], start="first", repeat_last=True) == unused
    for rule in ("sparse", "even"):
        unused = f"data.clips.start and repeat_last have no meaning with data.clips.rule {rule!r}; leave them out"
        assert message(rule=rule, start="first") == unused
        assert message(rule=rule, repeat_last=True) == unused
    assert message(rule="sparse", stride=2) == (
        "data.stride 2 has no meaning with data.clips.rule 'sparse', which draws its own distances; leave it at 1"
    )
    assert message(rule="even", window=2) == "data.clips.window 2 is less than data.num_frames 3; raise it"
    assert message(rule="sparse", spans=[1, 64]) == (
        "data.clips: no span of [1, 64] up to max_span 32 holds 3 frames; raise data.clips.max_span"
    )
    assert message(num_frames=40, rule="sparse", spans=[]) == (
        "data.clips: no span of any length up to max_span 32 holds 40 frames; raise data.clips.max_span"
    )
