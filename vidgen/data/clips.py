"""The rules by which a training clip is cut from a video."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vidgen.data.request import clip_times
from vidgen.errors import UserError

SPANS = tuple(2**power for power in range(12))


@dataclass(frozen=True)
class Clips:
    """How a clip is cut from a video.

    Args:
        rule: ``contiguous`` takes every ``stride``-th frame. ``sparse`` takes the first and the last frame of a random
            span and random frames between them in rising order; ``even`` takes frames at equal random distances
            (StyleGAN-V's samplings ``random`` and ``uniform``).
        spans: spans (``sparse``) or distances (``even``) to choose from, source frames; empty for all up to
            ``max_span``: below it for ``sparse``, it included for ``even``.
        max_span: the longest of them that is used.
        window: of a longer video only a random window of so many source frames is used.
        start: where a contiguous clip begins: at a ``random`` frame, or always at the ``first`` of the video.
        repeat_last: whether a contiguous clip from a video that is too short for it begins at the first frame and
            repeats the last one, instead of the video being left out; the stride stays as it is.
    """

    rule: Literal["contiguous", "sparse", "even"] = "contiguous"
    spans: Sequence[int] = SPANS
    max_span: int = 32
    window: int = 1024
    start: Literal["random", "first"] = "random"
    repeat_last: bool = False


def check_clips(clips: Clips, num_frames: int, stride: int) -> None:
    """Refuse settings that no video can serve.

    Raises:
        UserError: naming the setting.
    """
    if clips.rule == "contiguous":
        if clips != Clips(start=clips.start, repeat_last=clips.repeat_last):
            raise UserError("data.clips.spans, max_span and window have no meaning with data.clips.rule 'contiguous'")
        return
    if clips.start != "random" or clips.repeat_last:
        raise UserError(
            f"data.clips.start and repeat_last have no meaning with data.clips.rule {clips.rule!r}; leave them out"
        )
    if stride != 1:
        raise UserError(
            f"data.stride {stride} has no meaning with data.clips.rule {clips.rule!r}, which draws its own distances;"
            " leave it at 1"
        )
    if clips.window < num_frames:
        raise UserError(f"data.clips.window {clips.window} is less than data.num_frames {num_frames}; raise it")
    if num_frames > 1 and not span_choices(clips, clips.window, num_frames):
        raise UserError(
            f"data.clips: no span of {list(clips.spans) or 'any length'} up to max_span {clips.max_span} holds"
            f" {num_frames} frames; raise data.clips.max_span"
        )


def shortest_video(clips: Clips, num_frames: int, stride: int) -> int:
    """Frames that a video must have to give a clip by a rule."""
    if clips.rule == "contiguous":
        return 1 if clips.repeat_last else num_frames * stride
    if num_frames == 1:
        return 1
    length = num_frames
    while not span_choices(clips, length, num_frames):
        length += 1
    return length


def span_choices(clips: Clips, length: int, num_frames: int) -> list[int]:
    """Spans (``sparse``) or distances (``even``) that fit into a video.

    Args:
        clips: the rule.
        length: frames of the video.
        num_frames: frames of the clip, at least 2.
    """
    if clips.rule == "sparse":
        spans = clips.spans or range(clips.max_span)
        return [span for span in spans if num_frames - 1 <= span <= min(length - 1, clips.max_span)]
    distances = clips.spans or range(1, clips.max_span + 1)
    return [d for d in distances if 1 <= d <= clips.max_span and d * (num_frames - 1) < length]


def draw_times(rng: random.Random, clips: Clips, length: int, num_frames: int, fractional: bool = False) -> list[float]:
    """Times of a sparse clip, the rule of StyleGAN-V: first the span is drawn, then the start, then what lies between.

    Args:
        rng: draws the numbers.
        clips: ``rule: sparse`` or ``even``.
        length: frames of the video (or of the window in it).
        num_frames: frames of the clip.
        fractional: draw a real start instead of a whole one, as for generated clips; distances stay whole.

    Returns:
        Rising times in source frames, at least 0 and at most ``length - 1``.

    Raises:
        ValueError: the video is too short.
    """
    if num_frames == 1:
        return [rng.random() * (length - 1) if fractional else rng.randint(0, length - 1)]
    choices = span_choices(clips, length, num_frames)
    if not choices:
        raise ValueError(f"a video of {length} frames has no clip of {num_frames}")
    chosen = rng.choice(choices)
    span = chosen if clips.rule == "sparse" else chosen * (num_frames - 1)
    start = rng.random() * (length - 1 - span) if fractional else rng.randint(0, length - 1 - span)
    if clips.rule == "even":
        return [start + chosen * step for step in range(num_frames)]
    inner = sorted(rng.sample(range(1, span), num_frames - 2))
    return [start, *(start + step for step in inner), start + span]


def clip_frames(clips: Clips, length: int, num_frames: int, stride: int, draw: int) -> tuple[int, ...]:
    """Source frames of a training clip.

    Args:
        clips: the rule.
        length: frames of the video.
        num_frames: frames of the clip.
        stride: source frames from one clip frame to the next, for ``contiguous``.
        draw: a random number from 0 that decides everything.

    Raises:
        ValueError: the video is too short.
    """
    if clips.rule == "contiguous":
        if clips.repeat_last and length < num_frames * stride:
            return tuple(min(step * stride, length - 1) for step in range(num_frames))
        return clip_times(length, num_frames, stride, 0 if clips.start == "first" else draw)
    rng = random.Random(draw)
    first = rng.randint(0, length - clips.window) if length > clips.window else 0
    times = draw_times(rng, clips, min(length, clips.window), num_frames)
    return tuple(first + int(time) for time in times)
