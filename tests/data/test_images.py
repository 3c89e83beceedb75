"""Image files of all kinds to pixels."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.strips import random_frames
from vidgen.data.decoding import Unreadable
from vidgen.data.images import _LIMIT, decode_image, decode_numbers, image_size

COLOUR = random_frames(1, 6)[0]


def encoded(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, kind, **options)
    return file.getvalue()


def reason(data: Any, read: Any = decode_image) -> str:
    with pytest.raises(Unreadable) as error:
        read(data)
    return str(error.value)


def palette(transparency: bytes | None = None) -> bytes:
    image = Image.fromarray(np.array([[0, 2], [1, 2]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return encoded(image, **({} if transparency is None else {"transparency": transparency}))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_formats_without_loss_are_read_exactly(kind):
    assert np.array_equal(decode_image(encoded(COLOUR, kind)), COLOUR)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_formats_with_loss_are_read_as_colours(kind):
    flat = np.full((8, 8, 3), (200, 30, 90), np.uint8)
    pixels = decode_image(encoded(flat, kind))[..., :3]
    assert pixels.shape == (8, 8, 3) and np.abs(pixels.astype(int) - flat).max() < 8


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_stay_as_they_are(channels):
    pixels = random_frames(1, 6, channels)[0]
    assert np.array_equal(decode_image(encoded(pixels[..., 0] if channels == 1 else pixels)), pixels)


def test_a_palette_becomes_its_colours():
    pixels = decode_image(palette())[..., :3]
    assert pixels.tolist() == [[[255, 0, 0], [0, 0, 255]], [[0, 255, 0], [0, 0, 255]]]


def test_a_transparent_palette_becomes_the_same_colours_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode_image(palette(bytes([0, 128, 255])))
    assert np.array_equal(pixels[..., :3], decode_image(palette())[..., :3])


def test_of_sixteen_bits_the_upper_eight_are_kept():
    levels = np.array([[0x0000, 0x00FF], [0x1234, 0xFFFF]], np.uint16)
    assert decode_image(encoded(levels))[..., 0].tolist() == [[0, 0], [0x12, 0xFF]]
    assert decode_image(encoded(levels)).shape == (2, 2, 1)
    assert np.array_equal(decode_image(encoded(levels, "TIFF")), decode_image(encoded(levels)))


def test_two_levels_and_inks_become_colours():
    bits = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert decode_image(encoded(bits)).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    inks = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    assert decode_image(encoded(inks, "TIFF"))[0, 0].tolist() == [255, 0, 0]


def test_ids_are_the_values_of_eight_and_sixteen_bits():
    ids = np.array([[0, 26], [255, 7]], np.uint8)
    assert decode_numbers(encoded(ids))[..., 0].tolist() == ids.tolist()
    wide = np.array([[0, 26001], [65535, 256]], np.uint16)
    numbers = decode_numbers(encoded(wide))
    assert numbers[..., 0].tolist() == wide.tolist() and numbers.shape == (2, 2, 1) and numbers.dtype == np.int32


def test_ids_of_a_palette_are_its_positions():
    assert decode_numbers(palette())[..., 0].tolist() == [[0, 2], [1, 2]]


def test_ids_of_colours_are_the_first_channel():
    assert np.array_equal(decode_numbers(encoded(COLOUR))[..., 0], COLOUR[..., 0])


def test_the_size_is_width_and_height(tmp_path):
    data = encoded(np.zeros((5, 9), np.uint8))
    (tmp_path / "a.png").write_bytes(data)
    assert image_size(data) == image_size(str(tmp_path / "a.png")) == (9, 5)


@pytest.mark.parametrize("read", [decode_image, decode_numbers, image_size])
def test_what_is_no_image_is_named(read, tmp_path):
    assert reason(b"", read) == "the file is empty"
    assert reason(b"some text", read) == "not an image"


def turned(orientation: int, kind: str = "PNG", pixels: Any = None, order: str = "<") -> bytes:
    """An image with an EXIF orientation."""
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    exif = b"Exif\0\0" + mark + struct.pack(f"{order}LHHHLHHL", 8, 1, 274, 3, 1, orientation, 0, 0)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "JPEG" else {}
    return encoded(COLOUR[:, :4] if pixels is None else pixels, kind, exif=exif, **options)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_a_photo_is_turned_upright_and_its_size_too(kind, orientation, order):
    if kind == "TIFF":
        file = io.BytesIO()
        Image.fromarray(COLOUR[:, :4]).save(file, kind, tiffinfo={274: orientation})
        data = file.getvalue()
    else:
        data = turned(orientation, kind, order=order)
    pixels = decode_image(data)
    wanted = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p.swapaxes(0, 1)[:, ::-1],
        7: lambda p: p.swapaxes(0, 1)[::-1, ::-1],
        8: lambda p: p.swapaxes(0, 1)[::-1],
    }[orientation](decode_image(turned(1, kind)) if kind != "TIFF" else COLOUR[:, :4])
    assert np.array_equal(pixels, wanted)
    assert image_size(data) == (pixels.shape[1], pixels.shape[0])


def test_sixteen_bits_are_turned_upright():
    levels = np.array([[0x0100, 0x0200, 0x0300]], np.uint16)
    assert decode_image(turned(6, pixels=levels))[..., 0].tolist() == [[1], [2], [3]]


def test_ids_are_not_turned():
    assert np.array_equal(decode_numbers(turned(6))[..., 0], COLOUR[:, :4, 0])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_is_upright(orientation):
    assert np.array_equal(decode_image(turned(orientation)), COLOUR[:, :4])


@pytest.mark.parametrize("exif", [b"", b"text", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\0\x09"])
def test_damaged_exif_is_upright_in_silence(exif):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = encoded(COLOUR, "WEBP", lossless=True, exif=b"Exif\0\0" + exif)
        assert np.array_equal(decode_image(data), COLOUR) and image_size(data) == (6, 6)


def test_the_size_of_a_turned_image_needs_its_header_alone():
    data = turned(6, pixels=random_frames(1, 64)[0][:, :32])
    assert image_size(data[: len(data) // 2]) == (64, 32)


@pytest.mark.parametrize("read", [decode_image, decode_numbers, image_size])
def test_pillows_own_limit_does_not_count_and_stays(read, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(encoded(COLOUR))
        read(encoded(COLOUR, "TIFF"))
    assert reason(b"some text", read) == "not an image"
    assert Image.MAX_IMAGE_PIXELS == 10


def test_pillows_own_limit_comes_back_when_the_last_of_two_threads_is_done(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    first, second = _LIMIT.lifted(), _LIMIT.lifted()
    with first:
        second.__enter__()
    assert Image.MAX_IMAGE_PIXELS is None
    second.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS == 10


@pytest.mark.parametrize("read", [decode_image, decode_numbers, image_size])
def test_very_many_pixels_are_refused(read):
    data = bytearray(encoded(COLOUR))
    struct.pack_into(">LL", data, 16, 40_000, 30_000)
    struct.pack_into(">L", data, 29, zlib.crc32(data[12:29]))
    assert reason(bytes(data), read) == "40000 x 30000 pixels are too many"


def test_a_link_that_loops_leads_nowhere(tmp_path):
    (tmp_path / "a.png").symlink_to("a.png")
    assert reason(str(tmp_path / "a.png"), image_size) == "a link that leads nowhere"


def test_a_file_that_is_gone_is_named(tmp_path):
    assert reason(str(tmp_path / "a.png"), image_size) == "it is gone"


def test_a_cut_image_is_damaged():
    data = encoded(random_frames(1, 64)[0])
    assert reason(data[: len(data) // 2]).startswith("damaged (image file is truncated")
    assert image_size(data[: len(data) // 2]) == (64, 64)


def test_a_wrong_checksum_is_damage():
    data = bytearray(encoded(COLOUR))
    data[data.index(b"IDAT") + 6] ^= 0xFF
    assert reason(bytes(data)).startswith("damaged (")


def test_programs_in_images_are_not_run():
    assert reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 2 2\nshowpage\n") == "not an image"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"])
def test_damage_of_any_kind_is_one_line(kind):
    rng, whole = random.Random(0), encoded(COLOUR, kind)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
        for read in (decode_image, decode_numbers):
            try:
                assert read(bytes(data)).ndim == 3
            except Unreadable as error:
                assert str(error) and "\n" not in str(error)
