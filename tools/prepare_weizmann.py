"""Prepare the Weizmann data set (Blank et al., Actions as Space-Time Shapes, ICCV 2005).

9 persons do 10 actions in front of a still background, 180×144 pixels; lena runs, skips and walks twice, which makes
93 videos. The raw data are bend.zip, jack.zip, jump.zip, pjump.zip, run.zip, side.zip, skip.zip, walk.zip, wave1.zip
and wave2.zip, zipped or unpacked, and, to crop to the person, classification_masks.mat. They must be obtained from
https://www.wisdom.weizmann.ac.il/~vision/SpaceTimeActions.html.

Frames as they were filmed, no parts:

    python tools/prepare_weizmann.py --raw downloads/weizmann --out data/weizmann

As for VideoVAE (He et al., ECCV 2018): each frame cropped to the person, the first two thirds of each video to train
on and the last third to test with:

    python tools/prepare_weizmann.py --raw downloads/weizmann --out data/weizmann-person --crop person --split time

Persons to test with that were never seen in training, in another resolution, some actions only:

    python tools/prepare_weizmann.py --raw downloads/weizmann --out data/weizmann-unseen --crop person \\
        --resolution 128 --split person --test-persons moshe shahar --actions wave1 wave2 jack bend
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
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
    require,
    write_frame_folder,
)
from scipy.io import loadmat
from tqdm import tqdm

from vidgen.cli.main import Parser
from vidgen.data.decoding import Unreadable, frames_of
from vidgen.errors import UserError

PERSONS = ("daria", "denis", "eli", "ido", "ira", "lena", "lyova", "moshe", "shahar")
ACTIONS = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")
MASKS = "classification_masks.mat"
ATTRIBUTES = "attributes: {pattern: '(?P<action>[a-z]+[12]?)/(?P<identity>[a-z]+)_'}"
OBTAIN = "Get it from https://www.wisdom.weizmann.ac.il/~vision/SpaceTimeActions.html"

# wave1 and wave2 are two actions, while run1 and run2 are one action done twice
_NAME = re.compile(
    rf"(?P<person>{'|'.join(PERSONS)})_(?:(?P<once>bend|jack|jump|pjump|side|wave1|wave2)|(?P<twice>run|skip|walk)[12]?)"
    r"\.avi"
)

_READ = "import sys; from scipy.io import loadmat; loadmat(sys.argv[1], variable_names=['original_masks'])"


def build_parser() -> Parser:
    """The command line."""
    made = parser("prepare_weizmann", "Prepare the Weizmann data set.", "--raw downloads/weizmann --out data/weizmann")
    made.add_argument(
        "--crop",
        choices=["none", "person"],
        default="none",
        help="person: crop each frame to the person, pad it to a square, resize it (default: %(default)s)",
    )
    made.add_argument("--resolution", type=int, metavar="N", help="height and width after cropping (default: 64)")
    made.add_argument(
        "--split",
        choices=["none", "time", "person"],
        default="none",
        help="time: two thirds of each video train, the rest test; person: by --test-persons (default: %(default)s)",
    )
    made.add_argument("--test-persons", nargs="+", choices=PERSONS, metavar="PERSON", help="who is in the test part")
    made.add_argument("--actions", nargs="+", choices=ACTIONS, default=ACTIONS, metavar="ACTION", help="only these")
    return made


def prepare(args: argparse.Namespace) -> Report:
    """Write each video, or its parts, as folders of frames.

    Args:
        args: of :func:`build_parser`.

    Raises:
        UserError: the raw data are not there, nothing could be read, or the options do not fit together.
    """
    resolution = _check(args)
    apart(args.raw, args.out)
    report = Report(args.out)
    require(args.raw, "the raw download", OBTAIN)
    masks = read_masks(args.raw / MASKS) if args.crop == "person" else None
    files = find_actions(args.raw, _NAME, args.actions, action_of, "daria_{}.avi", OBTAIN, report)
    test_persons = sorted(args.test_persons or [])
    keep_options(
        args.out, crop=args.crop, resolution=resolution, split=args.split, test_persons=" ".join(test_persons) or None
    )
    for name, file in progress(list(files.items()), "videos"):
        _prepare_video(args, resolution, name, file, masks, report)
    if not report.made:
        raise UserError(f"no video in {str(args.raw)!r} can be read. {OBTAIN}")
    report.tell_config("frame_folder", ATTRIBUTES, parts=() if args.split == "none" else ("train", "test"))
    return report


def _check(args: argparse.Namespace) -> int | None:
    """The resolution of the result; None for that of the raw frames."""
    if (args.split == "person") != bool(args.test_persons):
        raise UserError("--split person and --test-persons go together; give both, as in --test-persons moshe shahar")
    if args.test_persons and set(args.test_persons) == set(PERSONS):
        raise UserError("--test-persons names everybody; leave out those to train on")
    if args.crop == "none":
        if args.resolution is not None:
            raise UserError("--resolution has no meaning without --crop person; leave it out, or crop")
        return None
    resolution = 64 if args.resolution is None else args.resolution
    if resolution < 1:
        raise UserError(f"--resolution {resolution} is no size; give a number of pixels, such as 64")
    return resolution


def action_of(name: str) -> str:
    """The action of a raw file: ``run`` for ``lena_run2.avi``, ``wave2`` for ``lena_wave2.avi``."""
    fits = _NAME.fullmatch(name)
    return (fits["once"] or fits["twice"]) if fits else ""


def read_masks(path: Path) -> dict[str, NDArray[np.bool_]]:
    """Where the person is in each frame.

    Args:
        path: ``classification_masks.mat``, whose ``original_masks`` have the pixels of the videos; those of
            ``aligned_masks`` are moved and cropped.

    Returns:
        Video, ``daria_bend`` -> bool ``(H, W, T)``.

    Raises:
        UserError: the file is not there, damaged, or another one.
    """
    require(path, "the masks that --crop person needs", OBTAIN)
    # scipy can crash the process on a damaged file, so another process reads it first
    trial = subprocess.run([sys.executable, "-c", _READ, path], capture_output=True, text=True, errors="replace")
    if trial.returncode:
        reason = (trial.stderr.strip() or "it makes scipy crash").splitlines()[-1]
        raise UserError(f"{str(path)!r} is no MATLAB file that can be read ({reason}). {OBTAIN}")
    masks = loadmat(path, simplify_cells=True, variable_names=["original_masks"]).get("original_masks")
    if not isinstance(masks, Mapping):
        raise UserError(f"{str(path)!r} has no struct 'original_masks'; it is not the original. {OBTAIN}")
    return {name: np.atleast_3d(np.asarray(mask)) != 0 for name, mask in masks.items()}


def _prepare_video(
    args: argparse.Namespace,
    resolution: int | None,
    name: str,
    file: RawFile,
    masks: Mapping[str, NDArray[np.bool_]] | None,
    report: Report,
) -> None:
    video = name.removesuffix(".avi")
    parts = _parts(args, video)
    targets = {part: args.out / part / action_of(name) / video for part in parts}
    if not all(target.is_dir() for target in targets.values()):
        try:
            with file.opened() as path:
                frames = list(frames_of(path))
            if masks is not None and resolution is not None:
                frames = crop_to_person(video, frames, masks, resolution)
            cut = 2 * len(frames) // 3
            shares = {"train": frames[:cut], "test": frames[cut:]} if len(parts) == 2 else {parts[0]: frames}
            if not all(shares.values()):
                raise DamagedFile(f"it has {len(frames)} frames, too few")
        except (DamagedFile, Unreadable) as error:
            report.skip(file, str(error))
            return
        for part, share in shares.items():
            write_frame_folder(targets[part], share)
    for part in parts:
        report.count(part or "all")


def _parts(args: argparse.Namespace, video: str) -> list[str]:
    if args.split == "time":
        return ["train", "test"]
    if args.split == "person":
        return ["test" if video.split("_")[0] in args.test_persons else "train"]
    return [""]


def crop_to_person(
    video: str, frames: Sequence[Frames], masks: Mapping[str, NDArray[np.bool_]], resolution: int
) -> list[Frames]:
    """Crop each frame to its person, pad it to a square with the frame's mean colour, and resize it.

    A frame without a mask takes the box of the nearest frame with one.

    Args:
        video: ``daria_bend``.
        frames: uint8 ``(H, W, 3)`` each.
        masks: video -> bool ``(H, W, T)``.
        resolution: height and width of the result.

    Raises:
        DamagedFile: the video has no masks, or none of its size.
    """
    if video not in masks:
        raise DamagedFile(f"{MASKS} has no masks for it")
    mask = masks[video]
    if frames and mask.shape[:2] != frames[0].shape[:2]:
        (mask_height, mask_width), (height, width) = mask.shape[:2], frames[0].shape[:2]
        raise DamagedFile(f"its masks are {mask_width}×{mask_height}, its frames {width}×{height}")
    seen = np.flatnonzero(mask.any(axis=(0, 1)))
    if not len(seen):
        raise DamagedFile("its masks are empty")
    if mask.shape[2] != len(frames):
        tqdm.write(f"{video} has {len(frames)} frames and {mask.shape[2]} masks", file=sys.stderr)
    nearest = [int(seen[np.abs(seen - number).argmin()]) for number in range(len(frames))]
    return [padded_crop(frame, mask[:, :, index], resolution) for frame, index in zip(frames, nearest, strict=True)]


def padded_crop(frame: Frames, mask: NDArray[np.bool_], resolution: int) -> Frames:
    """The part of a frame that a mask covers, in the middle of a square of the frame's mean colour.

    Args:
        frame: uint8 ``(H, W, 3)``.
        mask: bool ``(H, W)``, not empty.
        resolution: height and width of the result; resizing is bilinear and antialiased.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    person = frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = person.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = np.rint(frame.mean(axis=(0, 1)))
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = person
    return np.asarray(Image.fromarray(square).resize((resolution, resolution), Image.Resampling.BILINEAR))


if __name__ == "__main__":
    sys.exit(main(build_parser(), prepare))
