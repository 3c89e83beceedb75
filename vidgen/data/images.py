"""Image files to pixels."""

from __future__ import annotations

import io
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


def decode_image(data: bytes) -> Frames:
    """Decode an image by its content: uint8 ``(H, W, C)`` with 1, 2, 3 or 4 channels.

    Raises:
        Unreadable: it is damaged, or no image.
    """
    try:
        with _opened(data) as image:
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
    taken.

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
    """Width and height by the header of an image.

    Args:
        data: its bytes or a path.

    Raises:
        Unreadable: it is no image.
    """
    try:
        with _opened(data) as image:
            return image.size
    except _FAILURES as error:
        raise _unreadable(data, error) from error


def _opened(data: Any) -> Image.Image:
    image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
    if image.width * image.height > 16 * MAX_PIXELS:  # a strip holds many frames
        raise ValueError(f"{image.width} x {image.height} pixels are too many")
    return image


def _unreadable(data: Any, error: Exception) -> Unreadable:
    if isinstance(data, bytes) and not data:
        return Unreadable("the file is empty")
    if isinstance(error, FileNotFoundError):
        return Unreadable("it is gone")
    if isinstance(error, PermissionError):
        return Unreadable("permission denied")
    if isinstance(error, Image.UnidentifiedImageError):
        return Unreadable("not an image")
    return Unreadable(f"damaged ({' '.join(str(error).split()) or type(error).__name__})")
