"""Which clip to read: requests, and the rule by which a clip is cut from a video.

A data set is a pure function of a request, so the order of training, sparse or contiguous clips, growing resolution,
any number of workers and an exact resume are one mechanism: whoever makes the requests decides.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClipRequest:
    """Frames of one video.

    Args:
        video: index into the data set, from 0.
        times: source frames to read, in the order wanted.
        resolution: height and width of the result, pixels.
        seed: decides everything random about the reading, such as the flip; None reads the video as it is stored.
    """

    video: int
    times: tuple[int, ...]
    resolution: int
    seed: int | None = None


@dataclass(frozen=True)
class BatchRequest:
    """One batch of one process.

    Args:
        clips: the clips that become ``video`` and its companions.
        images: requests of one frame each that become ``images``.
    """

    clips: tuple[ClipRequest, ...]
    images: tuple[ClipRequest, ...] = ()


def start_choices(length: int, num_frames: int, stride: int) -> int:
    """How many first frames a clip may be drawn from.

    The rule of MoCoGAN's loader: a video of at least ``num_frames * stride`` frames gives a strided clip whose start is
    uniform in ``[0, length - stride * (num_frames - 1))``; a shorter one its first frames at stride 1, nothing drawn.

    Args:
        length: frames of the video.
        num_frames: frames of the clip.
        stride: source frames from one clip frame to the next.

    Returns:
        The number of starts, or 0 where nothing is drawn.
    """
    return length - stride * (num_frames - 1) if length >= num_frames * stride else 0


def clip_times(length: int, num_frames: int, stride: int, draw: int) -> tuple[int, ...]:
    """Source frames of a clip, by the rule of :func:`start_choices`.

    Args:
        length: frames of the video.
        num_frames: frames of the clip.
        stride: source frames from one clip frame to the next.
        draw: any non-negative number; the start is its remainder by the number of starts.

    Raises:
        ValueError: the video has fewer than ``num_frames`` frames.
    """
    choices = start_choices(length, num_frames, stride)
    if choices:
        start = draw % choices
        return tuple(range(start, start + stride * num_frames, stride))
    if length < num_frames:
        raise ValueError(f"a video of {length} frames has no clip of {num_frames}")
    return tuple(range(num_frames))
