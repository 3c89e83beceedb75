"""Frames by torchcodec, where it is installed and surely reads the same ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vidgen.data.decoding import Frames, VideoScan, read_frames
from vidgen.errors import UserError

CODECS = frozenset({"h264", "hevc", "vp8", "vp9", "av1"})
PIXEL_FORMAT = "yuv420p"
"""8 bits, limited range."""


def check_torchcodec() -> None:
    """Refuse to go on without torchcodec.

    Raises:
        UserError: it is not installed, or does not find its libraries.
    """
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"")  # its libraries are loaded when they are first needed; this is no video
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        text = str(error).strip() or type(error).__name__
        if isinstance(error, ImportError | OSError) or "libtorchcodec" in text:
            reason = text.splitlines()[0].split(". ")[0]
            raise UserError(
                f"data.decoder 'torchcodec' cannot be used ({reason}); install torchcodec and FFmpeg, or leave it out"
            ) from error


def read_frames_by_torchcodec(
    path: str,
    found: VideoScan,
    wanted: Sequence[int],
    deinterlace: bool = False,
    convert: Callable[[Frames], Frames] | None = None,
) -> list[Frames]:
    """What :func:`~vidgen.data.decoding.read_frames` returns, decoded by torchcodec.

    The scan tells torchcodec where frames and key frames are. It reads MP4, MOV, Matroska and WebM of the usual codecs,
    8 bits and limited range, upright and progressive; everything else, which the two may decode differently, is left to
    the other one.

    Args:
        path: the file.
        found: what the scan said about it.
        wanted: frame numbers from 0, in any order, also repeated.
        deinterlace: as there; progressive files, which torchcodec reads, do not need it.
        convert: what each frame becomes.

    Raises:
        Unreadable: the file is gone or damaged.
    """
    if not found.packets or not _usual_container(path):
        return read_frames(path, found, wanted, deinterlace, convert)
    from torchcodec.decoders import VideoDecoder

    numbers = sorted(set(wanted))
    try:
        decoder = VideoDecoder(
            path, dimension_order="NHWC", num_ffmpeg_threads=1, custom_frame_mappings=_mappings(found)
        )
        if not _alike(decoder.metadata, found):
            return read_frames(path, found, wanted, deinterlace, convert)
        pixels = decoder.get_frames_at(numbers).data.numpy()
    except (RuntimeError, ValueError, OSError, IndexError):  # the other decoder knows why, or reads it
        return read_frames(path, found, wanted, deinterlace, convert)
    frames = {number: convert(frame) if convert else frame for number, frame in zip(numbers, pixels, strict=True)}
    return [frames[number] for number in wanted]


def _usual_container(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError:
        return False
    return start[4:8] == b"ftyp" or start[:4] == b"\x1a\x45\xdf\xa3"


def _mappings(found: VideoScan) -> str:
    keys = np.zeros(found.length, np.int64)
    keys[found.keys] = 1
    durations = np.append(np.diff(found.times), max(found.last_ticks, 1))
    rows = zip(found.times.tolist(), durations.tolist(), keys.tolist(), strict=True)
    return json.dumps({"frames": [{"pts": pts, "duration": ticks, "key_frame": key} for pts, ticks, key in rows]})


def _alike(metadata: Any, found: VideoScan) -> bool:
    """Whether both decoders surely give the same pixels for a file."""
    return (
        metadata.codec in CODECS
        and getattr(metadata, "pixel_format", None) == PIXEL_FORMAT
        and not getattr(metadata, "rotation", None)
        and (metadata.width, metadata.height) == (found.width, found.height)
    )
