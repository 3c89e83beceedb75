"""Draws digits from fonts into MNIST's four files, for ``moving_mnist`` without MNIST.

Nothing has to be obtained: the fonts are those that come with matplotlib (DejaVu, STIX, Computer Modern) and Pillow's
own. As in MNIST, digits are white on black, fit into 20 x 20 pixels and have their centre of mass in the middle of
28 x 28 pixels. Each differs by its font, strength, rotation, slant, proportions and size. The same seed gives the same
digits, as long as the fonts and Pillow are the same.

As many digits as in MNIST:

    python tools/make_digits.py --out data/digits

Fewer, from fonts of one's own:

    python tools/make_digits.py --out data/few-digits --num-train 1000 --num-test 100 --seed 1 --font Serif.ttf Hand.otf
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from preparation import Report, keep_options, main, progress

from vidgen.atomic import atomic_file
from vidgen.cli.main import Parser
from vidgen.data.moving_mnist import IDX_FILES, write_idx
from vidgen.errors import UserError
from vidgen.seeding import derive_seed

Masters = list[list[list[Image.Image]]]

MATPLOTLIB_FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
    "cmr10",
    "cmss10",
    "cmtt10",
)
PILLOW_FONT = "Pillow's own"
SIDE, BOX = 28, 20
SMALLEST_BOX = 17
GLYPH, FIELD = 80, 200  # pixels of a font's line and of the field in which digits are turned
STROKES = (0, 1, 2, 3)  # pixels added to the outlines at that size
ROTATION, SLANT, STRETCH = 0.2, 0.25, 0.15  # radians, widths per height, logarithm of width by height: +/-
DRAWS = 8  # random numbers of a digit


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = Parser(
        prog="make_digits",
        description="Draw digits from fonts into MNIST's files.",
        epilog="example:\n  python tools/make_digits.py --out data/digits --num-train 1000 --num-test 100",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the files go")
    made.add_argument("--num-train", type=int, default=60_000, metavar="N", help="training digits (60000)")
    made.add_argument("--num-test", type=int, default=10_000, metavar="N", help="test digits (10000)")
    made.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other digits (0)")
    made.add_argument("--font", nargs="+", default=[], metavar="PATH", help="font files (those of matplotlib, Pillow)")
    return made


def prepare(args: argparse.Namespace) -> Report:
    """Draw both parts; what is there is kept.

    Args:
        args: of :func:`build_parser`.

    Raises:
        UserError: a font cannot be used, a number is below 1, or ``--out`` holds another data set.
    """
    report = Report(args.out)
    report.tell_config("moving_mnist", "part: train  # or test")
    numbers = {"train": args.num_train, "test": args.num_test}
    for part, number in numbers.items():
        if number < 1:
            raise UserError(f"--num-{part} is {number}; it must be at least 1")
    masters = [font_masters(font) for font in args.font or default_fonts()]
    options = {"num_train": args.num_train, "num_test": args.num_test, "seed": args.seed}
    keep_options(args.out, *IDX_FILES.values(), **options, font=" ".join(args.font) or "default")
    for part, number in numbers.items():
        files = {content: args.out / IDX_FILES[part, content] for content in ("images", "labels")}
        if not all(path.exists() for path in files.values()):
            images, labels = draw_digits(masters, number, derive_seed(args.seed, "digits", part))
            for content, array in (("images", images), ("labels", labels)):
                with atomic_file(files[content]) as file:
                    file.write(write_idx(array))
        report.count(part, number)
    return report


def default_fonts() -> list[str]:
    """The font files that come with matplotlib, and Pillow's own font."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [*(str(folder / f"{name}.ttf") for name in MATPLOTLIB_FONTS), PILLOW_FONT]


def font_masters(font: str) -> list[list[Image.Image]]:
    """Large pictures of the digits of a font.

    Args:
        font: path of a font file, or ``PILLOW_FONT``.

    Returns:
        For each digit one picture per strength, grey, ``FIELD`` pixels square.

    Raises:
        UserError: it is no font, or has no digits.
    """
    try:
        loaded = ImageFont.load_default(GLYPH) if font == PILLOW_FONT else ImageFont.truetype(font, GLYPH)
    except OSError as error:
        raise UserError(f"--font {font!r} cannot be read as a font ({error}); give a TTF or OTF file") from error
    masters = [[_master(loaded, str(digit), stroke) for stroke in STROKES] for digit in range(10)]
    plain = {row[0].tobytes() for row in masters if row[0].getbbox()}
    if len(plain) < 10:
        raise UserError(f"--font {font!r} has no pictures of the digits 0 to 9; give another one")
    return masters


def _master(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, digit: str, stroke: int) -> Image.Image:
    field = Image.new("L", (FIELD, FIELD))
    middle = (FIELD / 2, FIELD / 2)
    ImageDraw.Draw(field).text(middle, digit, fill=255, font=font, anchor="mm", stroke_width=stroke)
    return field


def draw_digits(masters: Masters, number: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Random digits; the first ones are the same for any number.

    Args:
        masters: of each font, see :func:`font_masters`.
        number: how many.
        seed: decides everything random.

    Returns:
        Images ``(N, 28, 28)`` and labels ``(N,)``, uint8.
    """
    raw = np.random.PCG64(seed).random_raw(number * DRAWS).reshape(number, DRAWS)
    uniform = (raw >> np.uint64(11)) * 2.0**-53
    labels = (uniform[:, 0] * 10).astype(np.uint8)
    images = np.empty((number, SIDE, SIDE), np.uint8)
    for index in progress(range(number), "digits"):
        font, stroke, *shape = uniform[index, 1:].tolist()
        choices = masters[int(font * len(masters))][labels[index]]
        images[index] = centre(fit(deform(choices[int(stroke * len(choices))], shape[:3]), shape[3]))
    return images, labels


def deform(master: Image.Image, shape: Sequence[float]) -> Image.Image:
    """Turn, slant and stretch a picture about its middle.

    Args:
        master: a large picture.
        shape: three numbers from 0 to 1, of which 0.5 changes nothing.
    """
    angle, slant, stretch = (2 * value - 1 for value in shape)
    cos, sin = math.cos(ROTATION * angle), math.sin(ROTATION * angle)
    width = math.exp(STRETCH * stretch / 2)
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.array([[1, SLANT * slant], [0, 1]]) @ np.diag([width, 1 / width])
    (a, b), (c, d) = np.linalg.inv(turn).tolist()
    middle = FIELD / 2
    matrix = (a, b, middle * (1 - a - b), c, d, middle * (1 - c - d))
    return master.transform(master.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)


def fit(picture: Image.Image, size: float) -> Image.Image:
    """Crop to what is not black and resize its longer side to 17 (size 0) to 20 pixels (size 1)."""
    cropped = picture.crop(picture.getbbox())
    side = min(SMALLEST_BOX + int(size * (BOX - SMALLEST_BOX + 1)), BOX)
    scale = side / max(cropped.size)
    width, height = (max(1, round(scale * length)) for length in cropped.size)
    return cropped.resize((width, height), Image.Resampling.BILINEAR)


def centre(picture: Image.Image) -> NDArray[np.uint8]:
    """Put a picture of at most 20 x 20 pixels into 28 x 28 with its centre of mass in the middle.

    Returns:
        uint8 ``(28, 28)``.
    """
    pixels = np.asarray(picture, dtype=np.float64)
    field = Image.new("L", (SIDE, SIDE))
    corner = []
    for axis, length in ((0, picture.width), (1, picture.height)):
        mass = pixels.sum(axis)
        centre_of_mass = (mass * (np.arange(length) + 0.5)).sum() / mass.sum()
        corner.append(min(max(round(SIDE / 2 - centre_of_mass), 0), SIDE - length))
    field.paste(picture, (corner[0], corner[1]))
    return np.asarray(field)


if __name__ == "__main__":
    sys.exit(main(build_parser(), prepare))
