"""Labels and attributes of videos: from folder names, from patterns in file names, or from a table."""

from __future__ import annotations

import csv
import errno
import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vidgen.errors import UserError, did_you_mean

CONFLICT = "\0"
"""Stands for the label of a video whose frames have several."""


@dataclass(frozen=True)
class Labels:
    r"""Which class a video is of.

    Args:
        by: ``folder`` takes the first folder in a video's path (no labels where there is none), ``pattern`` what a
            regular expression finds in the path, ``file`` a table, ``none`` nothing.
        pattern: regular expression searched in each path relative to the part's folder, with ``/``; the group named
            ``label``, else the first one, else the whole match is the class: ``'_(\w+)_d\d'``.
        file: a CSV with a header and a column ``path`` (relative to ``root``), or a ``dataset.json`` as in
            StyleGAN's data sets (``{"labels": [[path, number], ...]}``); None for the ``dataset.json`` that lies in
            the root, which may be a zip.
        column: the column of the CSV that holds the class.
    """

    by: Literal["folder", "pattern", "file", "none"] = "folder"
    pattern: str | None = None
    file: Path | None = None
    column: str = "label"


@dataclass(frozen=True)
class Attributes:
    r"""What else is known about a video, as columns of ``attributes``.

    A column whose values are all numbers is taken as it is; of any other the values are sorted and numbered from 0, and
    so are those of a column with an integer that float32 does not hold (16777217). What is missing is NaN.

    Args:
        pattern: regular expression with named groups, searched in each path relative to the part's folder; each group
            is an attribute: ``'(?P<identity>[a-z]+)_(?P<action>[a-z]+?)\d?\.avi'``.
        file: a CSV with a header and a column ``path`` (relative to ``root``); the others are attributes.
        columns: columns of ``file`` that are used, in this order; none named: all of them.
    """

    pattern: str | None = None
    file: Path | None = None
    columns: Sequence[str] = ()


@dataclass(frozen=True)
class Column:
    """One attribute of all videos.

    Args:
        name: of the attribute.
        values: what the numbers stand for; empty where they are numbers.
        numbers: float32 ``(N,)``, NaN where unknown.
    """

    name: str
    values: tuple[str, ...]
    numbers: NDArray[np.float32]


def check_labels(labels: Labels) -> None:
    """Refuse settings that contradict each other.

    Raises:
        UserError: naming the setting.
    """
    for name in ("pattern", "file"):
        given = getattr(labels, name) is not None
        if given and labels.by != name:
            raise UserError(f"data.labels.{name} has no meaning with data.labels.by {labels.by!r}; leave it out")
    if labels.by == "pattern" and labels.pattern is None:
        raise UserError("data.labels.by 'pattern' needs data.labels.pattern")
    if labels.pattern is not None:
        compiled("data.labels.pattern", labels.pattern)


def check_attributes(attributes: Attributes) -> None:
    """Refuse settings that contradict each other.

    Raises:
        UserError: naming the setting.
    """
    if attributes.pattern is not None and attributes.file is not None:
        raise UserError("data.attributes has both pattern and file; give one of them")
    if attributes.columns and attributes.file is None:
        raise UserError("data.attributes.columns needs data.attributes.file, whose columns it names")
    if attributes.pattern is not None and not compiled("data.attributes.pattern", attributes.pattern).groupindex:
        raise UserError(
            f"data.attributes.pattern {attributes.pattern!r} has no named group; write (?P<name>...) for each attribute"
        )


def compiled(name: str, pattern: str) -> re.Pattern[str]:
    """A regular expression from a config.

    Raises:
        UserError: it is none; ``name`` is the setting.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UserError(f"{name} {pattern!r} is not a regular expression: {error}") from error


def labels_of(
    labels: Labels, paths: Sequence[str], root_paths: Sequence[str], root: Path, whole: str = ""
) -> tuple[tuple[str, ...], list[int]]:
    """Class names, and the class of every video.

    Args:
        labels: the settings.
        paths: videos relative to the folder of their part, with ``/``.
        root_paths: the same videos relative to ``root``, which is what tables are about.
        root: named in messages.
        whole: a folder, with its ``/``, that holds everything; tables may leave it out.

    Returns:
        Names in sorted order (numbers as numbers), and their positions; both empty without labels.

    Raises:
        UserError: a pattern does not fit, or a table lacks a video.
    """
    check_labels(labels)
    if labels.by == "none":
        return (), []
    if labels.by == "folder":
        if not any("/" in path for path in paths):
            return (), []
        found = [path.split("/")[0] for path in paths]
    elif labels.by == "pattern":
        expression = compiled("data.labels.pattern", labels.pattern or "")
        found = [_match(expression, path) for path in paths]
    else:
        file = labels.file or root / whole / "dataset.json"
        table = _label_table(file, labels.column, root)
        found = [_look_up(table, path, whole, file, root) for path in root_paths]
        names = tuple(sorted(set(table.values()) - {"", CONFLICT}, key=natural))
        return names, _numbered(found, names)
    names = tuple(sorted(set(found), key=natural if labels.by == "pattern" else None))
    return names, _numbered(found, names)


def _numbered(found: Sequence[str], names: Sequence[str]) -> list[int]:
    number = {name: index for index, name in enumerate(names)}
    return [number[name] for name in found]


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key under which ``frame2`` comes before ``frame10``."""
    parts = re.split(r"(\d{1,1000})", text)  # Python converts no more than 4300 digits
    return [(1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts]


def _match(expression: re.Pattern[str], path: str) -> str:
    match = expression.search(path)
    named = "label" in expression.groupindex
    found = match and (match["label"] if named else match[1] if expression.groups else match[0])
    if not found:
        raise UserError(
            f"data.labels.pattern {expression.pattern!r} finds no class in {path!r}; it must fit every video"
        )
    return found


def _label_table(file: Path, column: str, root: Path) -> dict[str, str]:
    if file.suffix.lower() == ".json":
        return _dataset_json(file, root)
    rows = read_table(file, "data.labels.file")
    known = [name for name in next(iter(rows.values())) if name != "path"]
    if column not in known:
        raise UserError(
            f"data.labels.file {str(file)!r} has no column {column!r}{did_you_mean(column, known)};"
            f" set data.labels.column (it has: {', '.join(known) or 'path alone'})"
        )
    return {path: row[column] for path, row in rows.items()}


def _dataset_json(file: Path, root: Path) -> dict[str, str]:
    """Labels of frames or videos; a video has the label of its frames."""
    try:
        entries = json.loads(_bytes(file, root))["labels"]
        table: dict[str, str] = {}
        for path, label in entries:
            text = label if isinstance(label, str) else str(int(label))
            if not isinstance(label, str) and label != int(label):
                raise ValueError(label)
            table[path] = text
            for folder in list(Path(path).parents)[:-1]:
                place = folder.as_posix()
                table[place] = text if table.get(place, text) == text else CONFLICT
    except OSError as error:
        raise UserError(f"data.labels.file {str(file)!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'data.labels.file {str(file)!r} is not of the form {{"labels": [[path, number], ...]}}'
        ) from error
    return table


def _bytes(file: Path, root: Path) -> bytes:
    """A file on disk, or inside the zip that is the root."""
    if not root.is_file() or not file.is_relative_to(root):
        return file.read_bytes()
    inside = file.relative_to(root).as_posix()
    with zipfile.ZipFile(root) as archive:
        for name in (inside, file.name):  # beside the one folder that holds the videos, or in it
            with suppress(KeyError):
                return archive.read(name)
    raise FileNotFoundError(errno.ENOENT, "the zip holds no such file")


def _look_up(table: Mapping[str, str], path: str, whole: str, file: Path, root: Path) -> str:
    name = f"data.labels.file {str(file)!r}"
    label = table.get(path, table.get(path.removeprefix(whole)))
    if label is None:
        raise UserError(f"{name} does not list {path!r}, found in {str(root)!r}")
    if label == CONFLICT:
        raise UserError(f"{name} gives the frames of {path!r} different labels; a video has one")
    if not label:
        raise UserError(f"{name} gives {path!r} no label; fill it in or leave the video out with data.split")
    return label


def read_table(file: Path, setting: str) -> dict[str, dict[str, str]]:
    """The rows of a CSV by their column ``path``.

    Args:
        file: the CSV, with a header.
        setting: what the config calls it, for messages.

    Raises:
        UserError: it cannot be read, is empty, has no column ``path``, or has two rows for a path.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as text:
            rows = list(csv.DictReader(text, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "it is not a CSV"
        raise UserError(f"{setting} {str(file)!r} cannot be read: {reason}") from error
    if not rows:
        raise UserError(f"{setting} {str(file)!r} has no row")
    if "path" not in rows[0]:
        raise UserError(f"{setting} {str(file)!r} has no column 'path'; its first line must name the columns")
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["path"] in table:
            raise UserError(f"{setting} {str(file)!r} lists {row['path']!r} twice; keep one of the rows")
        table[row["path"]] = {key: (value or "").strip() for key, value in row.items() if key is not None}
    return table


def attributes_of(
    attributes: Attributes, paths: Sequence[str], root_paths: Sequence[str], root: Path, whole: str = ""
) -> list[Column]:
    """The attributes of every video.

    Args:
        attributes: the settings.
        paths: videos relative to the folder of their part, with ``/``.
        root_paths: the same videos relative to ``root``, which is what tables are about.
        root: named in messages.
        whole: a folder, with its ``/``, that holds everything; tables may leave it out.

    Raises:
        UserError: a pattern fits no video, or a table lacks a column or every video.
    """
    check_attributes(attributes)
    if attributes.pattern is not None:
        expression = compiled("data.attributes.pattern", attributes.pattern)
        matches = [expression.search(path) for path in paths]
        if not any(matches):
            raise UserError(f"data.attributes.pattern {attributes.pattern!r} fits no video, for example {paths[0]!r}")
        return [
            _column(name, [match[name] or "" if match else "" for match in matches], "data.attributes.pattern")
            for name in expression.groupindex
        ]
    if attributes.file is None:
        return []
    rows = read_table(attributes.file, "data.attributes.file")
    known = [name for name in next(iter(rows.values())) if name != "path"]
    for name in attributes.columns:
        if name not in known:
            raise UserError(
                f"data.attributes.columns: {str(attributes.file)!r} has no column {name!r}{did_you_mean(name, known)}"
                f" (it has: {', '.join(known) or 'path alone'})"
            )
    found = [rows.get(path, rows.get(path.removeprefix(whole))) for path in root_paths]
    if not any(row is not None for row in found):
        raise UserError(
            f"data.attributes.file {str(attributes.file)!r} lists no video of {str(root)!r};"
            f" its paths must be relative to that, as {root_paths[0]!r}"
        )
    where = f"data.attributes.file {str(attributes.file)!r}"
    return [_column(name, [row[name] if row else "" for row in found], where) for name in attributes.columns or known]


def _column(name: str, texts: Iterable[str], where: str) -> Column:
    texts = [text.strip() for text in texts]
    try:
        numbers = [_number(text) if text else math.nan for text in texts]
    except ValueError:
        values = tuple(sorted({text for text in texts if text}, key=natural))
        number = {value: float(index) for index, value in enumerate(values)}
        return Column(name, values, np.array([number.get(text, math.nan) for text in texts], np.float32))
    for text, value in zip(texts, numbers, strict=True):
        if text and not abs(value) <= _LARGEST:  # NaN compares as false
            raise UserError(
                f"{where}: attribute {name!r} has the value {text!r}, which is no finite number of float32;"
                " correct it, or leave it empty where it is unknown"
            )
    return Column(name, (), np.array(numbers, np.float32))


_INTEGER = re.compile(r"[+-]?(\d+)(?:\.0*)?")
_LARGEST = float(np.finfo(np.float32).max)


def _number(text: str) -> float:
    """The number that a text is.

    Raises:
        ValueError: it is none, or an integer that float32 does not hold, which would become equal to another one.
    """
    if "_" in text:  # Python reads 1_2 as 12
        raise ValueError(text)
    if match := _INTEGER.fullmatch(text):
        integer = int(match[1])  # a ValueError for more than 4300 digits, too
        if integer // max(1, integer & -integer) >= 2**24:  # the digits without the zeros at the end, in base 2
            raise ValueError(text)
    return float(text)
