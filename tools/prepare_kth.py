"""Prepare the KTH human action data set (Schüldt, Laptev and Caputo, ICPR 2004).

25 persons do 6 actions in 4 scenes, filmed in grey at 25 frames a second and 160×120 pixels: 599 videos, for
person13_handclapping_d3 does not exist, and person01_boxing_d4 is known to be corrupt in copies in circulation. The raw
data are walking.zip, jogging.zip, running.zip, boxing.zip, handwaving.zip and handclapping.zip, zipped or unpacked, and
00sequences.txt, which says at which frames each action begins and ends (about four sub-sequences a video, with the
empty frames between them left out). They must be obtained from https://www.csc.kth.se/cvap/actions/.

As SVG (Denton and Fergus, ICML 2018) has it: sub-sequences, squeezed to a square, persons 1 to 20 train, 21 to 25 test:

    python tools/prepare_kth.py --raw downloads/kth --out data/kth

In the larger of its resolutions:

    python tools/prepare_kth.py --raw downloads/kth --out data/kth128 --resolution 128

The parts of the data set's authors, the middle of each frame, whole videos:

    python tools/prepare_kth.py --raw downloads/kth --out data/kth-original --split original --resize crop \\
        --sequences off

Frames as they were filmed, one part, some actions only:

    python tools/prepare_kth.py --raw downloads/kth --out data/kth-raw --split none --resize none \\
        --actions walking running
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from preparation import (
    DamagedFile,
    Frames,
    RawFile,
    Report,
    apart,
    find_actions,
    keep_options,
    main,
    parser,
    progress,
    read_lines,
    require,
    write_frame_folder,
)

from vidgen.cli.main import Parser
from vidgen.data.decoding import Unreadable, frames_of
from vidgen.errors import UserError

ACTIONS = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
ATTRIBUTES = "attributes: {pattern: 'person(?P<identity>[0-9]+)_(?P<action>[a-z]+)_d(?P<scene>[1-4])'}"
OBTAIN = "Get it from https://www.csc.kth.se/cvap/actions/"

SPLITS: dict[str, dict[str, tuple[int, ...]]] = {
    "svg": {"train": tuple(range(1, 21)), "test": tuple(range(21, 26))},
    "original": {
        "train": (11, 12, 13, 14, 15, 16, 17, 18),
        "val": (19, 20, 21, 23, 24, 25, 1, 4),
        "test": (22, 2, 3, 5, 6, 7, 8, 9, 10),
    },
    "none": {"": tuple(range(1, 26))},
}
"""Name of a split -> part -> its persons."""

_VIDEO = rf"person(?P<person>\d\d)_(?P<action>{'|'.join(ACTIONS)})_d[1-4]"
_NAME = re.compile(rf"(?P<video>{_VIDEO})_uncomp\.avi")
_LISTED = re.compile(rf"(?P<video>{_VIDEO})\s+(?:frames\s+(?P<ranges>.*)|\*missing\*)")
_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")

Ranges = list[tuple[int, int]]


def build_parser() -> Parser:
    """The command line."""
    made = parser("prepare_kth", "Prepare the KTH human action data set.", "--raw downloads/kth --out data/kth")
    made.add_argument("--resolution", type=int, metavar="N", help="height and width of a frame (default: 64)")
    made.add_argument(
        "--resize",
        choices=["stretch", "crop", "none"],
        default="stretch",
        help="squeeze the whole frame, take its middle square, or leave it at 160×120 (default: %(default)s)",
    )
    made.add_argument(
        "--sequences",
        choices=["on", "off"],
        default="on",
        help="cut videos as 00sequences.txt says (default: %(default)s)",
    )
    made.add_argument("--split", choices=list(SPLITS), default="svg", help="the parts (default: %(default)s)")
    made.add_argument("--actions", nargs="+", choices=ACTIONS, default=ACTIONS, metavar="ACTION", help="only these")
    return made


def prepare(args: argparse.Namespace) -> Report:
    """Write each sub-sequence, or video, as a folder of frames.

    Args:
        args: of :func:`build_parser`.

    Raises:
        UserError: the raw data are not there, nothing could be read, or the options do not fit together.
    """
    resolution = _resolution(args)
    apart(args.raw, args.out)
    report = Report(args.out)
    require(args.raw, "the raw download", OBTAIN)
    listed = read_sequences(args.raw / "00sequences.txt") if args.sequences == "on" else None
    like = "person01_{}_d1_uncomp.avi"
    files = find_actions(args.raw, _NAME, args.actions, lambda name: name.split("_")[1], like, OBTAIN, report)
    keep_options(args.out, resize=args.resize, resolution=resolution, sequences=args.sequences, split=args.split)
    for name, file in progress(list(files.items()), "videos"):
        video = name.removesuffix("_uncomp.avi")
        if listed is None:
            _prepare_video(args, resolution, video, file, report)
        elif video not in listed:
            report.skip(file, "00sequences.txt does not list it")
        else:
            _prepare_sequences(args, resolution, video, file, listed[video], report)
    for video, ranges in (listed or {}).items():
        if ranges and f"{video}_uncomp.avi" not in files and video.split("_")[1] in args.actions:
            report.skip(f"{video}_uncomp.avi", "00sequences.txt lists it, but it is not there")
    if not report.made:
        raise UserError(f"no video in {str(args.raw)!r} can be read. {OBTAIN}")
    report.tell_config("frame_folder", "fps: 25", ATTRIBUTES, parts=[part for part in SPLITS[args.split] if part])
    return report


def _resolution(args: argparse.Namespace) -> int | None:
    if args.resize == "none":
        if args.resolution is not None:
            raise UserError("--resolution has no meaning with --resize none; leave one of them out")
        return None
    resolution = 64 if args.resolution is None else args.resolution
    if resolution < 1:
        raise UserError(f"--resolution {resolution} is no size; give a number of pixels, such as 64")
    return resolution


def read_sequences(path: Path) -> dict[str, Ranges]:
    """The sub-sequences of each video.

    Args:
        path: ``00sequences.txt``.

    Returns:
        Video, ``person01_boxing_d1`` -> first and last frame of each sub-sequence, counted from 1, both included, in
        the order of the file; they may overlap. Empty for a video that is listed as missing.

    Raises:
        UserError: the file is not there, or is something else.
    """
    require(path, "the list of the sub-sequences", OBTAIN)
    listed: dict[str, Ranges] = {}
    for line in read_lines(path):
        fits = _LISTED.fullmatch(line)
        if not fits:
            continue  # the head of the file, which explains the list
        ranges = [(int(first), int(last)) for first, last in _RANGE.findall(fits["ranges"] or "")]
        rest = _RANGE.sub("", fits["ranges"] or "").replace(",", "").strip()
        if rest or any(not 1 <= first <= last for first, last in ranges):
            raise UserError(
                f"{str(path)!r} has the line {line!r}; frames should be given as in '1-95, 96-185'. {OBTAIN}"
            )
        listed[fits["video"]] = ranges
    if not listed:
        raise UserError(f"{str(path)!r} lists no video; it is not the original. {OBTAIN}")
    return listed


def _prepare_video(args: argparse.Namespace, resolution: int | None, video: str, file: RawFile, report: Report) -> None:
    part, target = _target(args.out, args.split, video)
    if not target.is_dir():
        frames, damage = _decode(file, args.resize, resolution)
        if damage:
            report.skip(file, damage)
            return
        write_frame_folder(target, frames)
    report.count(part or "all")


def _prepare_sequences(
    args: argparse.Namespace, resolution: int | None, video: str, file: RawFile, ranges: Ranges, report: Report
) -> None:
    part, _ = _target(args.out, args.split, video)
    targets = [_target(args.out, args.split, f"{video}_{number}")[1] for number in range(len(ranges))]
    if all(target.is_dir() for target in targets):
        report.count(part or "all", len(targets))
        return
    frames, damage = _decode(file, args.resize, resolution)
    if not frames:
        report.skip(file, damage)
        return
    for target, (first, last) in zip(targets, ranges, strict=True):
        chosen = frames[first - 1 : last]
        if len(chosen) <= last - first:
            lost = first + len(chosen)
            report.skip(f"{file} frames {lost}-{last}", damage or f"the video has {len(frames)} frames")
        if chosen:
            write_frame_folder(target, chosen)
            report.count(part or "all")


def _target(out: Path, split: str, video: str) -> tuple[str, Path]:
    person, action = int(video[6:8]), video.split("_")[1]
    part = next((part for part, persons in SPLITS[split].items() if person in persons), "")
    return part, out / part / action / video


def _decode(file: RawFile, resize: str, resolution: int | None) -> tuple[list[Frames], str]:
    """The frames up to the end or the first damage, and what the damage is."""
    frames: list[Frames] = []
    try:
        with file.opened() as path:
            for frame in frames_of(path):
                frames.append(frame if resolution is None else resized(frame, resolution, resize == "crop"))
    except (DamagedFile, Unreadable) as error:
        return frames, str(error)
    return frames, "" if frames else "it has no frame"


def resized(frame: Frames, resolution: int, crop: bool) -> Frames:
    """A square frame, by antialiased bicubic interpolation.

    Args:
        frame: uint8 ``(H, W, 3)``.
        resolution: height and width of the result.
        crop: take the middle square; else the whole frame is squeezed.
    """
    image = Image.fromarray(frame)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side) if crop else None
    return np.asarray(image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box))


if __name__ == "__main__":
    sys.exit(main(build_parser(), prepare))
