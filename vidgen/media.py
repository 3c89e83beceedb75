"""Videos as bytes: from floats to uint8, from uint8 to files, and many videos in one picture."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from fractions import Fraction
from itertools import count, pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image
from torch import Tensor

from vidgen.atomic import atomic_file, atomic_folder, write_error
from vidgen.errors import UserError, did_you_mean

Rounding = Literal["round", "truncate"]
Format = Literal["mp4", "gif", "png", "strip", "npz"]
FORMATS: tuple[str, ...] = get_args(Format)
Frames = NDArray[np.uint8]
AddFrame = Callable[[Frames], None]
"""Takes the next frame ``(H, W, C)`` of a video."""

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
    """Write one video, see :class:`VideoFile`; the file or folder appears whole or not at all.

    Args:
        path: the file, or the folder for ``png``.
        video: uint8 ``(C, T, H, W)`` with 1 (grey) or 3 (RGB) channels.
        fps: frames per second, above 0.
        format: one of :data:`FORMATS`.

    Raises:
        UserError: unknown format, a video that the format cannot hold, or a path that cannot be written.
        ValueError: wrong type or shape, or fps not above 0.
    """
    with VideoFile(path, video.shape[1] if video.ndim == 4 else 0, fps, format) as file:
        file.write(video)


class VideoFile:
    """A video that is written piece by piece, with the bytes that it has when it is written at once.

    The file or folder appears whole with the last frame, and replaces what was there; a ``with`` block that ends before
    leaves no trace. Frames are encoded as they come: memory does not grow with their number, but for ``strip``.

    ``mp4``: H.264 (libx264, crf 17, yuv420p), one encoded frame per frame. The pixel format wants even sides, so an
    odd one is padded by one pixel at the right or the bottom with a copy of the border. Lossy.
    ``gif``: loops forever; a palette of its own for every frame, exact up to 256 colours; frame ends are rounded to
    centiseconds without drift; above 50 fps it plays at 50, which is as fast as viewers go.
    ``png``: a folder of ``00000.png``, ``00001.png``, …. Lossless; fps is not stored.
    ``strip``: one PNG with the frames side by side, the first at the left, as the data set ``frame_strips`` reads
    them: frames must be square. A row of the picture runs through all frames, which are therefore kept until the last
    has come. Lossless; fps is not stored.
    ``npz``: compressed array ``video``, uint8 ``(T, H, W, C)``. Lossless; fps is not stored.

    Args:
        path: the file, or the folder for ``png``.
        num_frames: frames of the whole video.
        fps: frames per second, above 0.
        format: one of :data:`FORMATS`.

    Raises:
        UserError: unknown format.
        ValueError: fps not above 0.
    """

    def __init__(self, path: str | os.PathLike[str], num_frames: int, fps: float, format: str) -> None:
        check_format(format)
        if fps <= 0:
            raise ValueError(f"fps must be above 0, not {fps}")
        self.path = Path(path)
        self.num_frames = num_frames
        self.fps = fps
        self.format = format
        self.written = 0
        self._open = ExitStack()
        self._add: AddFrame | None = None

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: Any) -> None:
        if self.written == self.num_frames:
            return
        error = value or ValueError(f"{self.path}: {self.written} of {self.num_frames} frames were written")
        with suppress(Exception):  # an encoder may fail again when it is closed; what it said first is what matters
            self._open.__exit__(type(error), error, error.__traceback__)
        if value is None:
            raise error

    def write(self, video: Tensor) -> None:
        """Add the next frames.

        Args:
            video: uint8 ``(C, t, H, W)`` with 1 (grey) or 3 (RGB) channels, of the same size in every call.

        Raises:
            UserError: frames that the format cannot hold, or a path that cannot be written.
            ValueError: wrong type or shape, or more frames than there should be.
        """
        frames = _as_frames(video)
        if self.written + len(frames) > self.num_frames:
            raise ValueError(f"{self.path}: frame {self.written + len(frames)} of a video of {self.num_frames} frames")
        try:
            if self._add is None:
                self._add = self._begin(frames.shape[1:])
            for frame in frames:
                self._add(frame)
            self.written += len(frames)
            if self.written == self.num_frames:
                self._add = None  # it may hold a picture
                self._open.close()
        except OSError as error:
            raise write_error(self.path, error) from error

    def _begin(self, shape: tuple[int, ...]) -> AddFrame:
        layout = _Layout(self.num_frames, *shape)
        if self.format == "strip" and layout.height != layout.width:
            size = f"{layout.width}x{layout.height} (width x height)"
            raise UserError(f"format strip holds square frames, not {size}; choose png or npz")
        with ExitStack() as opened:
            if self.format == "png":
                add = _into_folder(opened.enter_context(atomic_folder(self.path)))
            else:
                file = opened.enter_context(atomic_file(self.path))
                add = opened.enter_context(_ENCODERS[self.format](file, layout, self.fps))
            self._open = opened.pop_all()
        return add


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


class _Layout(NamedTuple):
    """Size of a video: frames, and pixels and channels of a frame."""

    length: int
    height: int
    width: int
    channels: int


def _into_folder(folder: Path) -> AddFrame:
    numbers = count()
    return lambda frame: _image(frame).save(folder / f"{next(numbers):05d}.png")


@contextmanager
def _strip_encoder(file: BinaryIO, layout: _Layout, fps: float) -> Iterator[AddFrame]:
    picture = np.empty((layout.height, layout.length * layout.width, layout.channels), np.uint8)
    starts = count(0, layout.width)

    def add(frame: Frames) -> None:
        start = next(starts)
        picture[:, start : start + layout.width] = frame

    yield add
    _image(picture).save(file, format="PNG")


@contextmanager
def _npz_encoder(file: BinaryIO, layout: _Layout, fps: float) -> Iterator[AddFrame]:
    # what np.savez_compressed writes, which takes whole arrays only
    shape = (layout.length, layout.height, layout.width, layout.channels)
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("video.npy", "w", force_zip64=True) as member,
    ):
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.uint8)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(member, header)

        def add(frame: Frames) -> None:
            member.write(frame.data)

        yield add


@contextmanager
def _mp4_encoder(file: BinaryIO, layout: _Layout, fps: float) -> Iterator[AddFrame]:
    import av

    extra = ((0, layout.height % 2), (0, layout.width % 2), (0, 0))
    sink = _Sink(file)
    with av.open(sink, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = layout.height + extra[0][1], layout.width + extra[1][1]
        stream.pix_fmt = "yuv420p"
        # The same frames must give the same bytes: one thread whatever the number of cores, and no macroblock tree,
        # whose decisions vary from call to call (seen with libx264 165 on frames of 70x52).
        stream.options = {"crf": "17", "preset": "medium", "x264-params": "mbtree=0"}
        stream.codec_context.thread_count = 1
        stream.codec_context.colorspace = _SMPTE170M

        def add(frame: Frames) -> None:
            rgb = frame if layout.channels == 3 else np.repeat(frame, 3, axis=2)
            padded = np.pad(rgb, extra, mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")))
            sink.check()

        yield add
        container.mux(stream.encode(None))
    sink.check()


class _Sink:
    """A file whose errors wait until they are asked for.

    PyAV fails again when it closes a file that has failed, and then does not say what the file said.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: OSError | None = None

    def check(self) -> None:
        """Raise the first error there was."""
        if self._error is not None:
            raise self._error

    def write(self, data: bytes) -> int:
        """Write, unless that has failed before."""
        self._remembering(lambda: self._file.write(data))
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position, likewise."""
        self._remembering(lambda: self._file.seek(offset, whence))
        return self.tell()

    def tell(self) -> int:
        """The position; 0 after a failure."""
        return self._remembering(self._file.tell)

    def _remembering(self, act: Callable[[], int]) -> int:
        if self._error is None:
            try:
                return act()
            except OSError as error:
                self._error = error
        return 0


@contextmanager
def _gif_encoder(file: BinaryIO, layout: _Layout, fps: float) -> Iterator[AddFrame]:
    # Pillow's own writer merges equal neighbours into one longer frame, which would change the number of frames.
    durations = _gif_durations(fps)
    size = layout.width.to_bytes(2, "little") + layout.height.to_bytes(2, "little")
    file.write(b"GIF89a" + size + b"\x70\x00\x00" + b"!\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00")  # loop forever

    def add(frame: Frames) -> None:
        image, duration = _with_palette(frame), 10 * next(durations)
        file.write(b"".join(GifImagePlugin.getdata(image, duration=duration, include_color_table=True)))

    yield add
    file.write(b";")


def _gif_durations(fps: float) -> Iterator[int]:
    """Centiseconds of each frame, endlessly."""
    rate = Fraction(min(fps, 50.0))
    ends = (math.floor(index * 100 / rate + Fraction(1, 2)) for index in count())
    return (end - start for start, end in pairwise(ends))


def _with_palette(frame: Frames) -> Image.Image:
    rgb = _image(frame).convert("RGB")
    return rgb.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


_ENCODERS: dict[str, Callable[[BinaryIO, _Layout, float], AbstractContextManager[AddFrame]]] = {
    "mp4": _mp4_encoder,
    "gif": _gif_encoder,
    "strip": _strip_encoder,
    "npz": _npz_encoder,
}
