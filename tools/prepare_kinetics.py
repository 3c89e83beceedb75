"""Lays Kinetics-400, -600 or -700 out as ``<part>/<class>/<video>``.

Kinetics is about 250,000 to 650,000 clips of 10 seconds of YouTube videos, one action each. Obtain the clips and their
annotations by the scripts of https://github.com/cvdfoundation/kinetics-dataset, unpacked as its extractor scripts do
(``train``, ``val``, ``test``, for Kinetics-400 also ``replacement``, and ``annotations`` with ``train.csv``,
``val.csv``, ``test.csv``), or with a crawler that names clips ``<id>_<start>_<end>.mp4`` with times of six digits, as
ActivityNet's does; its folders do not matter. Many videos are gone from YouTube: the clips that are annotated but not
there are counted, and listed in ``missing.txt``.

All annotations that lie in ``--raw`` or in its folder ``annotations``:

    python tools/prepare_kinetics.py --raw downloads/k600 --out data/kinetics600

Annotations from elsewhere, or some of the parts only, with symbolic links:

    python tools/prepare_kinetics.py --raw downloads/k400 --out data/kinetics400 --how symlink \\
        --csv train=downloads/kinetics_train.csv --csv val=downloads/kinetics_val.csv
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
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
    require,
)

from vidgen.atomic import atomic_file
from vidgen.errors import UserError

SITE = "Obtain it by the scripts of https://github.com/cvdfoundation/kinetics-dataset"
PARTS = ("train", "val", "test")
COLUMNS = ("label", "youtube_id", "time_start", "time_end")
ANNOTATIONS = re.compile(r"(?:kinetics[-_]?\d*[-_])?(?P<part>train|val|validate|test)\.(?:csv|txt)")
CLIP = re.compile(r".{11}_\d{6}_\d{6}")
SUFFIXES = (".mp4", ".mkv", ".webm")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = parser("prepare_kinetics", "Lay Kinetics out by class.", "--raw downloads/k600 --out data/kinetics600")
    made.add_argument(
        "--csv",
        action="append",
        default=[],
        metavar="PART=FILE",
        help="annotations of a part (train, val, test), may be repeated; default: those found in the raw download",
    )
    made.add_argument("--how", choices=get_args(How), default="link", help="link (default), copy or symlink the videos")
    return made


def prepare(args: argparse.Namespace) -> Report:
    """Place every clip that is annotated and there.

    Args:
        args: of :func:`build_parser`.

    Raises:
        UserError: there are no annotations or none of the clips, an annotation is not as it should be, or ``--out`` was
            begun with other annotations.
    """
    apart(args.raw, args.out)
    report = Report(args.out)
    require(args.raw, "the folder with Kinetics's clips", SITE)
    files = given_annotations(args.csv) if args.csv else find_annotations(args.raw, report)
    annotations = {part: read_annotations(path) for part, path in files.items()}
    clips = find_clips(args.raw, args.out)
    if not any(name in clips for rows in annotations.values() for _, name in rows):
        raise _nothing(args.raw)
    keep_options(args.out, **{part: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for part, path in files.items()})
    missing = []
    for part, rows in annotations.items():
        for class_name, name in progress(rows, part):
            source = choose_clip(clips.get(name, ()), part)
            if source is None:
                missing.append(f"{part}/{class_name}/{name}")
            elif place_video(source, args.out / part / class_name / source.name, args.how, report):
                report.count(part)
    if not report.made:
        raise _nothing(args.raw)
    _list_missing(missing, report)
    report.tell_config("video_folder", parts=PARTS)
    return report


def _nothing(raw: Path) -> UserError:
    return UserError(f"{str(raw)!r} holds none of the annotated clips that can be used. {SITE}")


def given_annotations(given: Sequence[str]) -> dict[str, Path]:
    """Part -> file, by the command line.

    Args:
        given: ``PART=FILE`` each.

    Raises:
        UserError: one is of another form, or its file is not there.
    """
    files = {}
    for text in given:
        part, _, path = text.partition("=")
        if part not in PARTS or not path:
            raise UserError(f"--csv {text!r} should be PART=FILE with one of the parts {', '.join(PARTS)}")
        files[part] = require(Path(path), f"the annotations of {part}", SITE)
    return files


def find_annotations(raw: Path, report: Report) -> dict[str, Path]:
    """Part -> file, of the annotations in a download.

    Kinetics-600 comes with ``train.txt`` and with a ``train.csv`` that is incomplete, so the former is preferred.

    Args:
        raw: the download.
        report: takes annotations without labels, as DeepMind first gave them for the test clips.

    Raises:
        UserError: there are none.
    """
    found: dict[str, Path] = {}
    places = [*(raw / "annotations").glob("*.txt"), *raw.glob("*.txt")]
    places += [*sorted((raw / "annotations").glob("*.csv")), *sorted(raw.glob("*.csv"))]
    for path in places:
        match = ANNOTATIONS.fullmatch(path.name)
        columns = _first_line(path).split(",") if match else []
        if match and "label" not in columns and "youtube_id" in columns:
            report.skip(path, "it has no column label, so its clips have no class")
        elif match and "youtube_id" in columns:
            found.setdefault("val" if match["part"] == "validate" else match["part"], path)
    if not found:
        raise UserError(
            f"{str(raw)!r} holds no train.csv, val.csv or test.csv, nor does its folder annotations; put Kinetics's"
            f" annotations there, or name them with --csv. {SITE}"
        )
    return {part: found[part] for part in PARTS if part in found}


def _first_line(path: Path) -> str:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.readline().strip()


def read_annotations(path: Path) -> list[tuple[str, str]]:
    """Class folder and clip name (``<id>_<start>_<end>``) of every row, in their order, without repeats.

    Args:
        path: a CSV file with a header.

    Raises:
        UserError: a column is missing, or a row cannot be understood.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lacking = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if lacking:
                first = f"{','.join(COLUMNS)},split"
                raise UserError(f"{str(path)!r} has no column {', '.join(lacking)}; its first line should be {first}")
            return list(dict.fromkeys(_row(path, reader.line_num, row) for row in reader))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{str(path)!r} cannot be read as a CSV file: {error}") from error


def _row(path: Path, line: int, row: dict[str, str]) -> tuple[str, str]:
    try:
        start, end = (round(float(row[column])) for column in ("time_start", "time_end"))
    except (TypeError, ValueError):
        start, end = -1, -1
    label = row["label"]
    if not label or not row["youtube_id"] or min(start, end) < 0:
        raise UserError(f"{str(path)!r}: line {line} should hold a label, a YouTube id and two times in seconds")
    return class_folder(label), f"{row['youtube_id']}_{start:06d}_{end:06d}"


def class_folder(label: str) -> str:
    """A label as the name of a folder: what no file system takes becomes ``_``; blanks and brackets stay."""
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]', "_", label.strip()).strip(".") or "_"


def find_clips(raw: Path, out: Path) -> dict[str, list[Path]]:
    """Clip name -> the files of that name, in any folder.

    Args:
        raw: the download.
        out: a folder that is left out, should it lie in ``raw``.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    out = out.resolve()

    @cache
    def is_output(folder: Path) -> bool:  # a clip itself may be a link that leads out of it
        return folder.resolve().is_relative_to(out)

    for path in files_below(raw):
        if path.suffix.lower() in SUFFIXES and CLIP.fullmatch(path.stem) and not is_output(path.parent):
            found[path.stem].append(path)
    return found


def choose_clip(paths: Iterable[Path], part: str) -> Path | None:
    """The file to take: a replacement before the clip that it replaces, then one in a folder of the part.

    Args:
        paths: files of one clip.
        part: train, val or test.

    Returns:
        None where there is no file.
    """
    return min(paths, key=lambda path: (not _is_replacement(path), part not in path.parts, str(path)), default=None)


def _is_replacement(path: Path) -> bool:
    return any(folder.startswith("replacement") for folder in path.parts[:-1])


def _list_missing(missing: Sequence[str], report: Report) -> None:
    """Write ``missing.txt``, or remove that of an earlier run that found less."""
    path = report.out / "missing.txt"
    if not missing:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as file:
        file.write("".join(f"{line}\n" for line in missing).encode())
    for part in PARTS:
        number = sum(line.startswith(f"{part}/") for line in missing)
        if number:
            report.skip(f"{number} of {part}", f"annotated but not there; {str(path)!r} lists them")


if __name__ == "__main__":
    sys.exit(main(build_parser(), prepare))
