"""Prepare FaceForensics (Rössler et al. 2018) or the original videos of FaceForensics++ (Rössler et al., ICCV 2019).

Both are given out by their authors' download script, for which access is asked at
https://github.com/ondyari/FaceForensics.

FaceForensics (``--edition 2018``) has, according to its paper, 704 videos for training, 150 for validation and 150 for
testing, the self-reenactment download being ::

    FaceForensics_compressed/{train,val,test}/{original,mask,altered}/<target id>_<n>_<source id>_<n>.avi

Only ``original`` and, for crops, ``mask`` are needed. The masks are white except for the face. Crops of 256 x 256
pixels around the face, taken for each frame alone, which is StyleGAN-V's default, lossless::

    python tools/prepare_faceforensics.py --raw FaceForensics_compressed --out data/faceforensics_256

The same as JPEG files (StyleGAN-V asks for quality 95 by an argument that Pillow ignores, and so writes quality 75)::

    python tools/prepare_faceforensics.py --raw FaceForensics_compressed --out data/faceforensics-jpeg --jpeg-quality 75

Crops that do not shake, one box for all frames of a video (StyleGAN-V's ``--wide_crop``), smaller, and of the training
videos only::

    python tools/prepare_faceforensics.py --raw FaceForensics_compressed --out data/faceforensics_128 --crop stable \\
        --resolution 128 --parts train

Whole frames, the video files as they are::

    python tools/prepare_faceforensics.py --raw FaceForensics_compressed --out data/faceforensics-whole --crop none

The rows and columns of the face are those in which the mean of 255 - mask, summed over the three colours, exceeds 5.
The box goes from the first to the last of them, without the last, and is widened along its shorter side to a square. A
square that leaves the frame is moved inside (in the code of TGANv2 and StyleGAN-V, which does not check, such frames
are lost or stretched). Crops are resized with Pillow's Lanczos filter, StyleGAN-V's with OpenCV's Lanczos4, which does
not smooth before it shrinks. Where a video and its mask differ in length, the shorter one counts.

FaceForensics++ (``--edition plusplus``) has 1000 original videos, ``original_sequences/youtube/c23/videos/000.mp4`` to
``999.mp4``. The split is that of ``train.json``, ``val.json`` and ``test.json`` (720, 140 and 140 videos according to
its paper) from
https://github.com/ondyari/FaceForensics/tree/master/dataset/splits. The video files as they are::

    python tools/prepare_faceforensics.py --edition plusplus --raw FaceForensics++ --splits splits --out data/ffpp
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from preparation import (
    Frames,
    Report,
    apart,
    keep_options,
    main,
    parser,
    place_video,
    progress,
    require,
    write_frame_folder,
)

from vidgen.cli.main import Parser
from vidgen.data.decoding import Unreadable, frames_of
from vidgen.errors import UserError

OBTAIN = "Ask for access at https://github.com/ondyari/FaceForensics"
SPLITS = "Get it from https://github.com/ondyari/FaceForensics/tree/master/dataset/splits"
PARTS = ("train", "val", "test")
SUFFIXES = (".avi", ".mp4", ".mkv")
THRESHOLD = 5
Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom lie outside."""


def build_parser() -> Parser:
    """The command line of this tool."""
    made = parser(
        "prepare_faceforensics",
        "Prepare FaceForensics or FaceForensics++.",
        "--raw FaceForensics_compressed --out data/faceforensics_256",
    )
    made.add_argument("--edition", choices=("2018", "plusplus"), default="2018", help="which data set (default: 2018)")
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which parts (default: all)")
    made.add_argument("--crop", choices=("per-frame", "stable", "none"), help="2018: which box (default: per-frame)")
    made.add_argument("--resolution", type=int, metavar="N", help="height and width of crops (default: 256)")
    made.add_argument("--jpeg-quality", type=int, metavar="Q", help="crops as JPEG files instead of PNG")
    made.add_argument("--how", choices=("link", "copy", "symlink"), help="how whole videos are put there")
    made.add_argument("--splits", type=Path, metavar="DIR", help="plusplus: train.json etc. (default: splits in --raw)")
    made.add_argument("--compression", metavar="C", help="plusplus: c23, c40 or raw (default: c23)")
    return made


def prepare(args: argparse.Namespace) -> Report:
    """Write ``<out>/<part>/<video>/00000.png`` and so on for crops, ``<out>/<part>/<video file>`` for whole frames.

    Args:
        args: what :func:`build_parser` parses.

    Returns:
        How many videos each part has got, and which were skipped.

    Raises:
        UserError: options contradict each other, the raw data is not there, or none of it could be used.
    """
    crop = _check(args)
    raw = require(args.raw, "the download of FaceForensics", OBTAIN)
    apart(raw, args.out)
    report = Report(args.out)
    folders = _folders_2018(raw, args.parts, crop) if args.edition == "2018" else {}
    videos = _videos_plusplus(args, report) if args.edition == "plusplus" else _videos(folders)
    keep_options(
        args.out, edition=args.edition, crop=crop, resolution=args.resolution or 256, jpeg_quality=args.jpeg_quality
    )
    for part, path in progress(videos, "videos"):
        if crop == "none":
            if place_video(path, args.out / part / path.name, args.how or "link", report):
                report.count(part)
        elif _prepare_crops(path, folders[part] / "mask", args.out / part / path.stem, args, report):
            report.count(part)
    if not report.made:
        raise UserError(f"{str(raw)!r} holds no video that can be used. {OBTAIN}")
    report.tell_config("video_folder" if crop == "none" else "frame_folder", parts=PARTS)
    return report


def _check(args: argparse.Namespace) -> str:
    crop = args.crop or ("per-frame" if args.edition == "2018" else "none")
    whole = [("--resolution", args.resolution), ("--jpeg-quality", args.jpeg_quality)]
    if args.edition == "plusplus" and crop != "none":
        raise UserError("--crop needs the masks of --edition 2018; FaceForensics++ has none for its original videos")
    if args.edition == "2018":
        for name, value in (("--splits", args.splits), ("--compression", args.compression)):
            if value is not None:
                raise UserError(f"{name} has no meaning with --edition 2018; leave it out")
    for name, value in whole if crop == "none" else [("--how", args.how)]:
        if value is not None:
            raise UserError(f"{name} has no meaning with {'whole frames' if crop == 'none' else 'crops'}; leave it out")
    if args.resolution is not None and args.resolution < 1:
        raise UserError(f"--resolution is {args.resolution}; it must be at least 1")
    if args.jpeg_quality is not None and not 1 <= args.jpeg_quality <= 95:
        raise UserError(f"--jpeg-quality is {args.jpeg_quality}; it must lie between 1 and 95")
    return crop


def _folders_2018(raw: Path, parts: Iterable[str], crop: str) -> dict[str, Path]:
    folders = {}
    for part in parts:
        require(raw / part / "original", f"the original videos of part {part}", OBTAIN)
        if crop != "none":
            require(raw / part / "mask", f"the mask videos of part {part}", OBTAIN)
        folders[part] = raw / part
    return folders


def _videos(folders: dict[str, Path]) -> list[tuple[str, Path]]:
    return [(part, path) for part, folder in folders.items() for path in _listed(folder / "original")]


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")


def _videos_plusplus(args: argparse.Namespace, report: Report) -> list[tuple[str, Path]]:
    folder = args.raw / "original_sequences" / "youtube" / (args.compression or "c23") / "videos"
    require(folder, "the original videos", OBTAIN)
    splits = args.splits or args.raw / "splits"
    found = []
    for part in args.parts:
        for name in read_split(require(splits / f"{part}.json", f"the list of part {part}", SPLITS)):
            path = folder / f"{name}.mp4"
            if path.exists():
                found.append((part, path))
            else:
                report.skip(path, "it is not there")
    return found


def read_split(path: Path) -> list[str]:
    """The videos of a part of FaceForensics++, in sorted order.

    Args:
        path: JSON list of pairs of videos of which the faces were swapped (``[["720", "672"], ...]``).

    Raises:
        UserError: it is not such a list.
    """
    try:
        pairs = json.loads(path.read_text(encoding="utf-8"))
        if all(re.fullmatch(r"\d{3}", name) for pair in pairs for name in pair):
            return sorted({name for pair in pairs for name in pair})
    except (OSError, TypeError, ValueError):
        pass
    raise UserError(f'{str(path)!r} is no list of pairs of videos like [["720", "672"]]. {SPLITS}')


def face_box(mask: Frames) -> Box | None:
    """The box of the face in a mask.

    Args:
        mask: uint8 ``(H, W, 3)``, white except for the face.

    Returns:
        The box, None where there is no face.
    """
    face = (255 - mask).sum(axis=2, dtype=np.int64)
    columns, rows = _extent(face.mean(axis=0)), _extent(face.mean(axis=1))
    if columns is None or rows is None:
        return None
    return columns[0], rows[0], columns[1], rows[1]


def _extent(means: NDArray[np.float64]) -> tuple[int, int] | None:
    above = np.flatnonzero(means > THRESHOLD)
    return (int(above[0]), int(above[-1])) if len(above) > 1 else None


def square(box: Box, height: int, width: int) -> Box:
    """Widen a box along its shorter side to a square and move it inside the frame.

    Args:
        box: the box.
        height: of the frame, in pixels.
        width: of the frame, in pixels.

    Returns:
        The square; one larger than the frame is cut to the frame.
    """
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    # The odd pixel goes to the right or below.
    left, top = left - (side - (right - left)) // 2, top - (side - (bottom - top)) // 2
    left, top = max(0, min(left, width - side)), max(0, min(top, height - side))
    return left, top, min(left + side, width), min(top + side, height)


def _prepare_crops(path: Path, masks: Path, target: Path, args: argparse.Namespace, report: Report) -> bool:
    if target.is_dir():
        return True
    mask = find_mask(path, masks)
    if mask is None:
        report.skip(path, f"it has no mask in {masks}")
        return False
    try:
        union = stable_box(mask) if args.crop == "stable" else None
        write_frame_folder(target, crops(path, mask, args.resolution or 256, union), args.jpeg_quality)
    except Unreadable as error:
        report.skip(path, str(error))
        return False
    return True


def find_mask(video: Path, masks: Path) -> Path | None:
    """The mask of a video: of the same name, else the only one of the same target (``<target id>_<n>_``)."""
    if (masks / video.name).exists():
        return masks / video.name
    target = re.match(r".{11}_\d+_", video.name)
    same = [path for path in _listed(masks) if target and path.name.startswith(target.group())]
    return same[0] if len(same) == 1 else None


def stable_box(mask: Path) -> Box:
    """The smallest box that holds the face boxes of all frames.

    Raises:
        Unreadable: the mask is damaged, or there is no face in one of its frames.
    """
    boxes = [_face_box(masked, number) for number, masked in enumerate(_mask_frames(mask))]
    if not boxes:
        raise Unreadable("its mask has no frame")
    left, top, right, bottom = zip(*boxes, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _mask_frames(mask: Path) -> Iterator[Frames]:
    try:
        yield from frames_of(mask)
    except Unreadable as error:
        raise Unreadable(f"its mask: {error}") from error


def _face_box(masked: Frames, number: int) -> Box:
    box = face_box(masked)
    if box is None:
        raise Unreadable(f"there is no face in frame {number} of its mask")
    return box


def crops(video: Path, mask: Path, resolution: int, box: Box | None = None) -> Iterator[Frames]:
    """The face in each frame of a video.

    Args:
        video: the video.
        mask: its mask.
        resolution: height and width of the crops in pixels.
        box: the box of all frames; without it each frame has its own.

    Yields:
        uint8 ``(resolution, resolution, 3)``.

    Raises:
        Unreadable: one of the two is damaged, they do not fit together, or there is no face in a frame.
    """
    number = -1
    for number, (frame, masked) in enumerate(zip(frames_of(video), _mask_frames(mask), strict=False)):
        if frame.shape != masked.shape:
            raise Unreadable(f"its mask has {_size(masked)} pixels, it has {_size(frame)}")
        height, width = frame.shape[:2]
        part = Image.fromarray(frame).crop(square(box or _face_box(masked, number), height, width))
        yield np.asarray(part.resize((resolution, resolution), Image.Resampling.LANCZOS))
    if number < 0:
        raise Unreadable("it or its mask has no frame")


def _size(frame: Frames) -> str:
    return f"{frame.shape[1]} x {frame.shape[0]}"


if __name__ == "__main__":
    sys.exit(main(build_parser(), prepare))
