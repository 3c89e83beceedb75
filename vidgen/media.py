"""Videos as bytes: from floats to uint8, from uint8 to files, and many videos in one picture."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image
from torch import Tensor

from vidgen.atomic import atomic_file, atomic_folder
from vidgen.errors import UserError, did_you_mean

Rounding = Literal["round", "truncate"]
Format = Literal["mp4", "gif", "png", "strip", "npz"]
FORMATS: tuple[str, ...] = get_args(Format)
Frames = NDArray[np.uint8]

_SUFFIXES = {"mp4": ".mp4", "gif": ".gif", "png": "", "strip": ".png", "npz": ".npz"}
_SMPTE170M = 6  # ITU-T H.273 code of the BT.601 matrix, which players also assume for untagged small videos


def to_uint8(video: Tensor, rounding: Rounding = "round") -> Tensor:
    """Turn float pixels into bytes; the only place in vidgen where this happens.

    Values are clamped to [-1, 1] and mapped to ``(x + 1) / 2 * 255``, in float32 or wider, on the tensor's device.

    Args:
        video: floating tensor of any shape, nominally in [-1, 1].
        rounding: ``round`` takes the nearest integer, halves to the even one; ``truncate`` drops the fraction, as
            several official implementations do (MoCoGAN's).

    Returns:
        uint8 tensor of the same shape and device.

    Raises:
        TypeError: the tensor is not floating.
        ValueError: it holds NaN, or the rounding rule is unknown.
    """
    if not video.is_floating_point():
        raise TypeError(f"to_uint8 takes floating tensors in [-1, 1], not {video.dtype}")
    if rounding not in get_args(Rounding):
        raise ValueError(f"rounding must be 'round' or 'truncate', not {rounding!r}")
    if torch.isnan(video).any():
        raise ValueError("video holds NaN")
    wide = video if video.dtype.itemsize >= 4 else video.float()
    scaled = (wide.clamp(-1, 1) + 1) / 2 * 255
    return (scaled.round() if rounding == "round" else scaled).to(torch.uint8)


def grid(videos: Tensor, columns: int | None = None, gap: int = 2) -> Tensor:
    """Lay videos out as the cells of one video, row by row, on black.

    Args:
        videos: uint8 ``(N, C, T, H, W)``, N at least 1.
        columns: videos in a row; None makes the layout as square as possible.
        gap: black pixels between neighbours.

    Returns:
        uint8 ``(C, T, H', W')`` with ``H' = rows * (H + gap) - gap`` and ``W' = columns * (W + gap) - gap``.

    Raises:
        ValueError: wrong type or shape.
    """
    if videos.dtype != torch.uint8 or videos.ndim != 5 or len(videos) == 0:
        raise ValueError(f"grid takes uint8 (N, C, T, H, W), not {videos.dtype} {tuple(videos.shape)}")
    number, channels, frames, height, width = videos.shape
    columns = columns or math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    size = (channels, frames, rows * (height + gap) - gap, columns * (width + gap) - gap)
    sheet = torch.zeros(size, dtype=torch.uint8, device=videos.device)
    for index, video in enumerate(videos):
        top = index // columns * (height + gap)
        left = index % columns * (width + gap)
        sheet[:, :, top : top + height, left : left + width] = video
    return sheet


def file_name(stem: str, format: str) -> str:
    """Name of a video in a format: ``stem.mp4``, ``stem.gif``, ``stem.npz``, ``stem.png`` for a strip, and ``stem``
    alone for the folder of frames that the format ``png`` stands for."""
    check_format(format)
    return stem + _SUFFIXES[format]


def check_format(format: str) -> None:
    """Check the name of a format.

    Raises:
        UserError: there is no such format.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r}{did_you_mean(format, FORMATS)} (known: {', '.join(FORMATS)})")


def write_video(path: str | os.PathLike[str], video: Tensor, fps: float, format: str) -> None:
    """Write one video; the file or folder appears whole or not at all, and replaces what was there.

    ``mp4``: H.264 (libx264, crf 17, yuv420p), one encoded frame per frame. The pixel format wants even sides, so an
    odd one is padded by one pixel at the right or the bottom with a copy of the border. Lossy.
    ``gif``: loops forever; a palette of its own for every frame, exact up to 256 colours; frame ends are rounded to
    centiseconds without drift; above 50 fps it plays at 50, which is as fast as viewers go.
    ``png``: a folder of ``00000.png``, ``00001.png``, …. Lossless; fps is not stored.
    ``strip``: one PNG with the frames side by side, the first at the left, as the data set ``frame_strips`` reads
    them: frames must be square. Lossless; fps is not stored.
    ``npz``: compressed array ``video``, uint8 ``(T, H, W, C)``. Lossless; fps is not stored.

    Args:
        path: the file, or the folder for ``png``.
        video: uint8 ``(C, T, H, W)`` with 1 (grey) or 3 (RGB) channels.
        fps: frames per second, above 0.
        format: one of :data:`FORMATS`.

    Raises:
        UserError: unknown format, a video that the format cannot hold, or a path that cannot be written.
        ValueError: wrong type or shape, or fps not above 0.
    """
    check_format(format)
    if fps <= 0:
        raise ValueError(f"fps must be above 0, not {fps}")
    frames = _as_frames(video)
    if format == "png":
        with atomic_folder(path) as folder:
            for index, frame in enumerate(frames):
                _image(frame).save(folder / f"{index:05d}.png")
        return
    data = _ENCODERS[format](frames, fps)
    with atomic_file(path) as file:
        file.write(data)


def write_image(path: str | os.PathLike[str], image: Tensor) -> None:
    """Write one PNG, which appears whole or not at all.

    Args:
        path: the file.
        image: uint8 ``(C, H, W)`` with 1 or 3 channels.

    Raises:
        UserError: another number of channels, or a path that cannot be written.
    """
    data = _png(_as_frames(image[:, None])[0])
    with atomic_file(path) as file:
        file.write(data)


def _as_frames(video: Tensor) -> Frames:
    if video.dtype != torch.uint8 or video.ndim != 4 or 0 in video.shape:
        raise ValueError(f"a video to write is uint8 (C, T, H, W), not {video.dtype} {tuple(video.shape)}")
    if video.shape[0] not in (1, 3):
        raise UserError(f"a video with {video.shape[0]} channels cannot be written; it must have 1 or 3")
    return np.ascontiguousarray(video.detach().cpu().permute(1, 2, 3, 0).numpy())  # (T, H, W, C)


def _image(frame: Frames) -> Image.Image:
    return Image.fromarray(frame[:, :, 0] if frame.shape[2] == 1 else frame)


def _png(frame: Frames) -> bytes:
    buffer = io.BytesIO()
    _image(frame).save(buffer, format="PNG")
    return buffer.getvalue()


def _encode_strip(frames: Frames, fps: float) -> bytes:
    length, height, width, channels = frames.shape
    if height != width:
        raise UserError(f"format strip holds square frames, not {width}x{height} (width x height); choose png or npz")
    return _png(frames.transpose(1, 0, 2, 3).reshape(height, length * width, channels))


def _encode_npz(frames: Frames, fps: float) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, video=frames)
    return buffer.getvalue()


def _encode_mp4(frames: Frames, fps: float) -> bytes:
    import av

    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        # The same frames must give the same bytes: one thread whatever the number of cores, and no macroblock tree,
        # whose decisions vary from call to call (seen with libx264 165 on frames of 70x52).
        stream.options = {"crf": "17", "preset": "medium", "x264-params": "mbtree=0"}
        stream.codec_context.thread_count = 1
        stream.codec_context.colorspace = _SMPTE170M
        for frame in frames:
            rgb = frame if frame.shape[2] == 3 else np.repeat(frame, 3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _encode_gif(frames: Frames, fps: float) -> bytes:
    # Pillow's own writer merges equal neighbours into one longer frame, which would change the number of frames.
    height, width = frames.shape[1:3]
    parts = [b"GIF89a", width.to_bytes(2, "little"), height.to_bytes(2, "little"), b"\x70\x00\x00"]
    parts.append(b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # loop forever
    for frame, centiseconds in zip(frames, _gif_durations(len(frames), fps), strict=True):
        parts += GifImagePlugin.getdata(_with_palette(frame), duration=10 * centiseconds, include_color_table=True)
    return b"".join([*parts, b";"])


def _gif_durations(length: int, fps: float) -> list[int]:
    rate = Fraction(min(fps, 50.0))
    ends = [math.floor(index * 100 / rate + Fraction(1, 2)) for index in range(length + 1)]
    return [end - start for start, end in pairwise(ends)]


def _with_palette(frame: Frames) -> Image.Image:
    rgb = _image(frame).convert("RGB")
    return rgb.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


_ENCODERS: dict[str, Callable[[Frames, float], bytes]] = {
    "mp4": _encode_mp4,
    "gif": _encode_gif,
    "strip": _encode_strip,
    "npz": _encode_npz,
}
