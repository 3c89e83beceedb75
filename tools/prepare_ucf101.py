"""Lays UCF101 out as ``<part>/<class>/<video>``, by one of its official splits or as a whole.

UCF101 is 13,320 videos of 101 actions, 320 x 240 pixels at nominally 25 frames per second, from YouTube. Obtain it at
https://www.crcv.ucf.edu/data/UCF101.php:

* ``UCF101.rar``, unpacked into ``--raw`` with ``unrar x UCF101.rar``: a folder ``UCF-101`` with one folder per class
  (``--raw`` may also be this folder, with the lists in it or beside it);
* ``UCF101TrainTestSplits-RecognitionTask.zip``, put into ``--raw`` as it is or unpacked (a folder
  ``ucfTrainTestlist``); not needed with ``--split none``.

The videos are used as they are. All videos as one part, which is how unconditional models train on it:

    python tools/prepare_ucf101.py --raw downloads/ucf101 --out data/ucf101 --split none

One of the three official splits, as parts ``train`` and ``test``, as copies on another disk:

    python tools/prepare_ucf101.py --raw downloads/ucf101 --out data/ucf101-split1 --split 1 --how copy
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from preparation import (
    How,
    Report,
    apart,
    files_below,
    keep_options,
    main,
    parser,
    place_video,
    progress,
    read_lines,
    require,
    unpack,
)

from vidgen.errors import UserError

SITE = "Obtain it at https://www.crcv.ucf.edu/data/UCF101.php"
LISTS_ARCHIVE = "UCF101TrainTestSplits-RecognitionTask.zip"
FOLDER_NAME = re.compile(r"ucf-?101", re.IGNORECASE)
VIDEO_NAME = re.compile(r"v_(?P<name>[A-Za-z]+)_g\d\d_c\d\d\.avi", re.IGNORECASE)


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = parser("prepare_ucf101", "Lay UCF101 out by class.", "--raw downloads/ucf101 --out data/ucf101 --split 1")
    made.add_argument(
        "--split", choices=["1", "2", "3", "none"], default="1", help="official split, or all videos in one part train"
    )
    made.add_argument("--how", choices=get_args(How), default="link", help="link (default), copy or symlink the videos")
    return made


def prepare(args: argparse.Namespace) -> Report:
    """Place every video.

    Args:
        args: of :func:`build_parser`.

    Raises:
        UserError: the raw download is incomplete, or none of its videos can be used.
    """
    apart(args.raw, args.out)
    report = Report(args.out)
    videos = find_videos(args.raw)
    parts = {"train": class_of_each(videos)} if args.split == "none" else official_parts(args.raw, args.split)
    keep_options(args.out, split=args.split)
    for part, members in parts.items():
        for name, class_name in progress(sorted(members.items()), part):
            if name not in videos:
                report.skip(f"{class_name}/{name}", f"the list of part {part} names it, but it is not there")
            elif place_video(videos[name], args.out / part / class_name / videos[name].name, args.how, report):
                report.count(part)
    for name in sorted(set(videos) - {name for members in parts.values() for name in members}):
        report.skip(videos[name], f"no list of split {args.split} names it")
    if not report.made:
        raise UserError(f"{str(args.raw)!r}: none of the videos can be used; unpack UCF101.rar anew. {SITE}")
    report.tell_config("video_folder", parts=parts)
    return report


def find_videos(raw: Path) -> dict[str, Path]:
    """Videos by name in lower case.

    The lists, the folders and the videos do not agree on ``HandstandPushups`` and ``HandStandPushups``, so nothing here
    goes by case.

    Args:
        raw: the download.

    Raises:
        UserError: there are none.
    """
    folders = [path for path in sorted(raw.glob("*")) if FOLDER_NAME.fullmatch(path.name) and path.is_dir()]
    if not folders and any(VIDEO_NAME.fullmatch(path.name) for path in raw.glob("*/*")):
        folders = [raw]
    if not folders and (raw / "UCF101.rar").is_file():
        raise UserError(f"{str(raw / 'UCF101.rar')!r} is still packed; unpack it there with: unrar x UCF101.rar")
    folder = folders[0] if folders else require(raw / "UCF-101", "UCF101's folder of videos", SITE)
    videos = {path.name.lower(): path for path in sorted(files_below(folder)) if VIDEO_NAME.fullmatch(path.name)}
    if not videos:
        raise UserError(f"{str(folder)!r} holds no video v_<class>_g01_c01.avi; it should be UCF101's folder. {SITE}")
    return videos


def class_of_each(videos: dict[str, Path]) -> dict[str, str]:
    """Class of every video by its folder, or by its name where all lie in one folder."""
    classes: dict[str, str] = {}
    found = {}
    for name, path in videos.items():
        match = VIDEO_NAME.fullmatch(path.name)
        assert match is not None
        in_folder = path.parent.name.lower() == match["name"].lower()
        spelt = path.parent.name if in_folder else match["name"]
        # The action's own name has a small s, as its folder and classInd.txt have it.
        found[name] = classes.setdefault(spelt.lower(), spelt.replace("HandStand", "Handstand"))
    return found


def official_parts(raw: Path, split: str) -> dict[str, dict[str, str]]:
    """Part -> video's name in lower case -> class, by the lists of a split.

    Args:
        raw: the download.
        split: ``"1"``, ``"2"`` or ``"3"``.

    Raises:
        UserError: a list is missing, or a line of one is not as it should be.
    """
    with _lists(raw) as folder:
        classes = _class_numbers(_list(folder, "classInd.txt"))
        return {part: _members(_list(folder, f"{part}list0{split}.txt"), classes) for part in ("train", "test")}


@contextmanager
def _lists(raw: Path) -> Iterator[Path]:
    for place_ in (raw, raw.absolute().parent) if FOLDER_NAME.fullmatch(raw.absolute().name) else (raw,):
        folder, archive = place_ / "ucfTrainTestlist", place_ / LISTS_ARCHIVE
        if folder.is_dir():
            yield folder
            return
        if archive.is_file():
            break
    what = f"the official lists, or {LISTS_ARCHIVE} beside it"
    require(archive if archive.is_file() else folder, what, SITE)
    with tempfile.TemporaryDirectory() as temporary:
        unpacked = unpack(archive, Path(temporary) / "lists")
        yield next((path.parent for path in sorted(unpacked.rglob("classInd.txt"))), unpacked)


def _list(folder: Path, name: str) -> Path:
    return require(folder / name, "one of the official lists", SITE)


def _class_numbers(path: Path) -> dict[str, tuple[int, str]]:
    """Class in lower case -> its number from 1 and its name."""
    numbers = {}
    for line in read_lines(path):
        number, _, name = line.partition(" ")
        if not number.isdigit() or not name:
            raise _bad_line(path, line, "1 ApplyEyeMakeup")
        numbers[name.lower()] = (int(number), name)
    return numbers


def _members(path: Path, classes: dict[str, tuple[int, str]]) -> dict[str, str]:
    """Video's name in lower case -> class; a number after the name must be that of the class."""
    members = {}
    for line in read_lines(path):
        video, _, number = line.partition(" ")
        class_name, _, name = video.partition("/")
        known = classes.get(class_name.lower())
        if known is None or not VIDEO_NAME.fullmatch(name) or number not in ("", str(known[0])):
            raise _bad_line(path, line, "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1")
        members[name.lower()] = known[1]
    return members


def _bad_line(path: Path, line: str, right: str) -> UserError:
    return UserError(f"{str(path)!r}: line {line!r} should be like {right!r}; it is not the original. {SITE}")


if __name__ == "__main__":
    sys.exit(main(build_parser(), prepare))
