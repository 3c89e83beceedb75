"""Image files to pixels."""

from __future__ import annotations

import errno
import io
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from vidgen.data.decoding import MAX_PIXELS, Unreadable
from vidgen.data.transforms import Frames

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""Formats that Pillow decodes by itself; others would start programs or are no images."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
"""Names of files in these formats, in lower case."""

_FAILURES = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings an image of an EXIF orientation upright."""
_ORIENTATION, _SHORT = 274, 3  # the tag of EXIF, and the type that its value must have


def decode_image(data: bytes) -> Frames:
    """Decode an image by its content, turned upright as its EXIF orientation says.

    Returns:
        uint8 ``(H, W, C)`` with 1, 2, 3 or 4 channels.

    Raises:
        Unreadable: it is damaged, or no image.
    """
    try:
        with _opened(data) as image:
            turn = _TURNS.get(_orientation(image))
            if turn is not None:
                image = image.transpose(turn)
            if image.mode.startswith("I"):  # 16 bits; older versions of Pillow call it I
                return (np.asarray(image) >> 8).astype(np.uint8)[..., None]
            plain = image.mode in ("L", "LA", "RGB", "RGBA")
            # Pillow warns of a palette whose transparency gets lost.
            pixels = np.asarray(image if plain else image.convert("RGBA" if image.mode == "P" else "RGB"))
            return pixels if pixels.ndim == 3 else pixels[..., None]
    except _FAILURES as error:
        raise _unreadable(data, error) from error


def decode_numbers(data: bytes) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Decode an image whose pixels are numbers (class or instance ids), of 8 or 16 bits: int32 ``(H, W, 1)``.

    Of a palette image the numbers are the positions in the palette; of an image with several channels the first is
    taken. EXIF is ignored.

    Raises:
        Unreadable: it is damaged, or no image.
    """
    try:
        with _opened(data) as image:
            pixels = np.asarray(image)
            return (pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.int32)[..., None]
    except _FAILURES as error:
        raise _unreadable(data, error) from error


def image_size(data: Any) -> tuple[int, int]:
    """Width and height of an image as :func:`decode_image` gives it, by its header alone.

    Args:
        data: its bytes or a path.

    Raises:
        Unreadable: it is no image.
    """
    try:
        with _opened(data) as image:
            return (image.height, image.width) if _orientation(image) >= 5 else image.size
    except _FAILURES as error:
        raise _unreadable(data, error) from error


@contextmanager
def _opened(data: Any) -> Iterator[Image.Image]:
    source = io.BytesIO(data) if isinstance(data, bytes) else data
    with _LIMIT.lifted(), Image.open(source, formats=FORMATS) as image:
        if image.width * image.height > 16 * MAX_PIXELS:  # a strip holds many frames
            raise Unreadable(f"{image.width} x {image.height} pixels are too many")
        yield image


class _PillowLimit:
    """Pillow's own limit of pixels, which is one for the whole process; it is too low for long strips."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before: int | None = None

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Lift the limit while images are open; the last thread to leave restores what the first one found."""
        with self._lock:
            if not self._users:
                self._before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    Image.MAX_IMAGE_PIXELS = self._before


_LIMIT = _PillowLimit()


def _orientation(image: Image.Image) -> int:
    """How an image is turned, 1 to 8 as in EXIF; 1, upright, where its header does not say.

    Read from the bytes, because Pillow decodes a PNG to look for EXIF behind its pixels, and prints warnings about what
    is damaged. Pillow turns a TIFF by itself.
    """
    data = image.info.get("exif")
    if image.format == "TIFF" or not isinstance(data, bytes):
        return 1
    data = data.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}L", data, 4)
        (number,) = struct.unpack_from(f"{order}H", data, start)
        for place in range(start + 2, start + 2 + 12 * number, 12):
            tag, kind, count, value = struct.unpack_from(f"{order}HHLH", data, place)
            if tag == _ORIENTATION:
                return value if (kind, count) == (_SHORT, 1) and value in _TURNS else 1
    except struct.error:  # it is cut off
        pass
    return 1


def _unreadable(data: Any, error: Exception) -> Unreadable:
    if isinstance(data, bytes) and not data:
        return Unreadable("the file is empty")
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ELOOP):
        return Unreadable("a link that leads nowhere" if os.path.islink(data) else "it is gone", passing=True)
    if isinstance(error, PermissionError):
        return Unreadable("permission denied", passing=True)
    if isinstance(error, Image.UnidentifiedImageError):
        return Unreadable("not an image")
    return Unreadable(f"damaged ({' '.join(str(error).split()) or type(error).__name__})")
