"""Prepare Sky Time-lapse, the time-lapse videos of skies of Xiong et al. (MDGAN, CVPR 2018).

According to the data set's readme, it has 2392 short videos for training and 225 for testing, cut out of 997 and 111
long videos from YouTube.
Frames are JPEG files of 640 x 360 pixels. Obtain ``sky_timelapse.zip`` from the page of its authors,
https://github.com/weixiong-ur/mdgan; it holds ::

    sky_timelapse/sky_train/<youtube id>/<short video>/<youtube id>_frames_00000046.jpg
    sky_timelapse/sky_test/...

A short video becomes one video; short videos of a long video are scenes of their own and are not joined. Their names
begin with the YouTube id, 11 characters, so that a split can keep the scenes of a long video together. Frames are put
in the order of the numbers in their names and numbered anew from 0.

The frames as they are, without any copy where the file system has hard links::

    python tools/prepare_sky_timelapse.py --raw sky_timelapse --out data/sky_timelapse

From the archive itself, which is unpacked into a hidden folder of ``--out``::

    python tools/prepare_sky_timelapse.py --raw sky_timelapse.zip --out data/sky_timelapse_unpacked

At 256 x 256 pixels, the shorter side resized with Lanczos and the centre cropped as in StyleGAN-V's converters,
lossless or as JPEG files (those ask for quality 95 by an argument that Pillow ignores, and so write quality 75)::

    python tools/prepare_sky_timelapse.py --raw sky_timelapse --out data/sky_timelapse_256 --resolution 256
    python tools/prepare_sky_timelapse.py --raw sky_timelapse --out data/sky_256_jpeg --resolution 256 --jpeg-quality 75
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from preparation import (
    Frames,
    How,
    Report,
    apart,
    keep_options,
    main,
    parser,
    place,
    progress,
    require,
    unpack,
    write_frame_folder,
)

from vidgen.atomic import atomic_folder
from vidgen.cli.main import Parser
from vidgen.data.decoding import Unreadable
from vidgen.errors import UserError

OBTAIN = "Get sky_timelapse.zip from https://github.com/weixiong-ur/mdgan"
PARTS = {"train": "sky_train", "test": "sky_test"}
SUFFIXES = (".jpg", ".jpeg", ".png")


def build_parser() -> Parser:
    """The command line of this tool."""
    made = parser("prepare_sky_timelapse", "Prepare Sky Time-lapse.", "--raw sky_timelapse --out data/sky_timelapse")
    made.add_argument("--how", choices=("link", "copy", "symlink"), help="how frames are put there (default: link)")
    made.add_argument("--resolution", type=int, metavar="N", help="resize and crop frames to N x N pixels")
    made.add_argument("--jpeg-quality", type=int, metavar="Q", help="with --resolution: JPEG files instead of PNG")
    return made


def prepare(args: argparse.Namespace) -> Report:
    """Write ``<out>/{train,test}/<youtube id>_<n>/00000.jpg`` and so on.

    Args:
        args: what :func:`build_parser` parses.

    Returns:
        How many videos each part has got, and which were skipped.

    Raises:
        UserError: options contradict each other, the raw data is not there, or none of it could be used.
    """
    _check(args)
    raw = require(args.raw, "the folder or archive of Sky Time-lapse", OBTAIN)
    apart(raw, args.out)
    root = _root(unpack(raw, args.out / ".raw") if raw.is_file() else raw)
    keep_options(args.out, resolution=args.resolution, jpeg_quality=args.jpeg_quality)
    report = Report(args.out)
    for part, folder in PARTS.items():
        for video in progress(short_videos(require(root / folder, f"the {part} videos", OBTAIN)), part):
            if _prepare_video(video, args.out / part / video_name(video), args, report):
                report.count(part)
    if not report.made:
        raise UserError(f"{str(root)!r} holds no video that can be used. {OBTAIN}")
    report.tell_config("frame_folder", parts=PARTS)
    return report


def short_videos(folder: Path) -> list[Path]:
    """The folders of frames, ``<youtube id>/<short video>``, in the order of their names."""
    return sorted(video for long in folder.iterdir() if long.is_dir() for video in long.iterdir() if video.is_dir())


def video_name(video: Path) -> str:
    """What a short video is called: its own name, after that of its long video where it does not begin with it."""
    long = video.parent.name
    return video.name if video.name.startswith(f"{long}_") else f"{long}_{video.name}"


def frames_in_order(video: Path) -> list[Path]:
    """The frames of a folder, in the order of the last number in their names, be it padded with zeros or not."""
    frames = [path for path in video.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    return sorted(frames, key=lambda path: (int((re.findall(r"\d+", path.stem) or ["0"])[-1]), path.name))


def resize_and_crop(image: Image.Image, resolution: int) -> Image.Image:
    """Resize the shorter side with Lanczos, then crop the centre.

    Args:
        image: of any size.
        resolution: width and height of the result in pixels.

    Returns:
        The square image.
    """
    width, height = image.size
    shorter = min(width, height)
    width, height = resolution * width // shorter, resolution * height // shorter
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    return resized.crop((left, top, left + resolution, top + resolution))


def _check(args: argparse.Namespace) -> None:
    if args.resolution is None and args.jpeg_quality is not None:
        raise UserError("--jpeg-quality has no meaning without --resolution: frames are then left as they are")
    if args.resolution is not None and args.how is not None:
        raise UserError("--how has no meaning with --resolution: frames are then written anew")
    if args.resolution is not None and args.resolution < 1:
        raise UserError(f"--resolution is {args.resolution}; it must be at least 1")
    if args.jpeg_quality is not None and not 1 <= args.jpeg_quality <= 95:
        raise UserError(f"--jpeg-quality is {args.jpeg_quality}; it must lie between 1 and 95")


def _root(raw: Path) -> Path:
    for pattern in ("sky_train", "*/sky_train", "*/*/sky_train"):
        for found in sorted(raw.glob(pattern)):
            return found.parent
    raise UserError(f"{str(raw)!r} holds no folder sky_train; it should be the unpacked sky_timelapse.zip. {OBTAIN}")


def _prepare_video(video: Path, target: Path, args: argparse.Namespace, report: Report) -> bool:
    if target.is_dir():
        return True
    frames = frames_in_order(video)
    if not frames:
        report.skip(video, "it holds no frame")
        return False
    try:
        if args.resolution is None:
            _place_frames(frames, target, args.how or "link")
        else:
            write_frame_folder(target, _resized(frames, args.resolution), args.jpeg_quality)
    except Unreadable as error:
        report.skip(video, str(error))
        return False
    return True


def _place_frames(frames: list[Path], target: Path, how: How) -> None:
    for frame in frames:
        _check_whole(frame)
    with atomic_folder(target) as folder:
        for number, frame in enumerate(frames):
            place(frame, folder / f"{number:05d}{frame.suffix.lower()}", how)


def _check_whole(frame: Path) -> None:
    # A million frames are not decoded to be linked. Inside the data of a JPEG file its end marker cannot occur, so the
    # last bytes tell whether a download was cut off.
    with open(frame, "rb") as file:
        file.seek(max(0, frame.stat().st_size - 1024))
        whole = frame.suffix.lower() == ".png" or b"\xff\xd9" in file.read()
    try:
        Image.open(frame).close()
    except OSError:
        whole = False
    if not whole:
        raise Unreadable(f"frame {frame.name} is damaged")


def _resized(frames: list[Path], resolution: int) -> Iterator[Frames]:
    for frame in frames:
        try:
            with Image.open(frame) as image:
                resized = resize_and_crop(image.convert("RGB"), resolution)
        except OSError as error:
            raise Unreadable(f"frame {frame.name} is damaged") from error
        yield np.asarray(resized)


if __name__ == "__main__":
    sys.exit(main(build_parser(), prepare))
