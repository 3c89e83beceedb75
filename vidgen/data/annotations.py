"""Labels and attributes of videos: from folder names, from patterns in file names, or from a table."""

from __future__ import annotations

import csv
import errno
import json
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
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
    so are those of a column with an integer that float32 does not hold (16777217). What is missing is NaN. Numbers are
    those of all videos under ``root`` (or in the table), so that the parts of a split agree.

    Weizmann strips ``<action>/<number>.png``, of which performer p has the numbers 8p to 8p + 7:
    ``attributes: {pattern: '^(?P<action>[^/]+)/(?P<performer>\d+)', divide: {performer: 8},
    categories: [action, performer]}``.

    Args:
        pattern: regular expression with named groups, searched in each path relative to the part's folder; each group
            is an attribute: ``'(?P<identity>[a-z]+)_(?P<action>[a-z]+?)\d?\.avi'``.
        file: a CSV with a header and a column ``path`` (relative to ``root``); the others are attributes.
        columns: columns of ``file`` that are used, in this order; none named: all of them.
        divide: attribute -> integer by which its number is divided, rounding down.
        categories: attributes whose values are sorted and numbered from 0 although they are numbers.
        label_fraction: share of the videos that carry their attributes; the others have NaN in every column. It is
            drawn from each class (without classes: from each value of the first attribute that has names), of those
            that have any attribute, and rounded, but at least one where it is not 0.
        label_seed: seed of the draw.
    """

    pattern: str | None = None
    file: Path | None = None
    columns: Sequence[str] = ()
    divide: Mapping[str, int] = field(default_factory=dict)
    categories: Sequence[str] = ()
    label_fraction: float = 1.0
    label_seed: int = 0


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
    for name, by in attributes.divide.items():
        if by < 1:
            raise UserError(f"data.attributes.divide.{name} is {by}; it must be at least 1")
    check_label_fraction(attributes.label_fraction)
    if attributes.pattern is None and attributes.file is None:
        for name in ("divide", "categories", "label_fraction", "label_seed"):
            if getattr(attributes, name) != getattr(Attributes(), name):
                raise UserError(f"data.attributes.{name} needs attributes; give data.attributes.pattern or file too")


def check_label_fraction(fraction: float) -> None:
    """Refuse what is no share.

    Raises:
        UserError: it is below 0 or above 1.
    """
    if not 0 <= fraction <= 1:
        raise UserError(f"data.attributes.label_fraction is {fraction:g}; it must be at least 0 and at most 1")


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
        where = "data.attributes.pattern"
        expression = compiled(where, attributes.pattern)
        matches = [expression.search(path) for path in paths]
        if not any(matches):
            raise UserError(f"{where} {attributes.pattern!r} fits no video, for example {paths[0]!r}")
        names: Sequence[str] = list(expression.groupindex)
        rows = {
            path: {name: (match[name] or "").strip() if match else "" for name in names}
            for path, match in zip(paths, matches, strict=True)
        }
        keys = list(paths)
    elif attributes.file is not None:
        where = f"data.attributes.file {str(attributes.file)!r}"
        rows = read_table(attributes.file, "data.attributes.file")
        names = _columns(attributes, [name for name in next(iter(rows.values())) if name != "path"])
        keys = [path if path in rows else path.removeprefix(whole) for path in root_paths]
        if not any(key in rows for key in keys):
            raise UserError(
                f"{where} lists no video of {str(root)!r}; its paths must be relative to that, as {root_paths[0]!r}"
            )
    else:
        return []
    for setting in ("divide", "categories"):
        for name in getattr(attributes, setting):
            if name not in names:
                raise UserError(
                    f"data.attributes.{setting} names {name!r}, which is no attribute{did_you_mean(name, names)}"
                    f" (attributes: {', '.join(names)})"
                )
    columns = []
    for name in names:
        texts = {path: row[name] for path, row in rows.items()}
        if name in attributes.divide:
            texts = _divided(name, texts, attributes.divide[name], where)
        columns.append(_column(name, texts, keys, where, name in attributes.categories))
    return columns


def _columns(attributes: Attributes, known: Sequence[str]) -> Sequence[str]:
    """The columns of a table that are used."""
    for name in attributes.columns:
        if name not in known:
            raise UserError(
                f"data.attributes.columns: {str(attributes.file)!r} has no column {name!r}{did_you_mean(name, known)}"
                f" (it has: {', '.join(known) or 'path alone'})"
            )
    return attributes.columns or known


def _divided(name: str, texts: Mapping[str, str], by: int, where: str) -> dict[str, str]:
    """Numbers by path, divided; what is missing stays missing."""
    for path, text in texts.items():
        if text and not text.isdecimal():
            raise UserError(
                f"data.attributes.divide.{name} needs a number, but {where} gives {path!r} the {name} {text!r}"
            )
    return {path: str(int(text) // by) if text else "" for path, text in texts.items()}


def _column(name: str, texts: Mapping[str, str], keys: Sequence[str], where: str, category: bool) -> Column:
    """An attribute of the videos ``keys``; what its numbers stand for is decided by all that is known of any video.

    Args:
        name: of the attribute.
        texts: path -> value; empty where it is missing.
        keys: path of each video.
        where: what the texts come from, for messages.
        category: whether numbers, too, are names of values.
    """
    numbers = None if category else _numbers(texts)
    if numbers is None:
        values = tuple(sorted({text for text in texts.values() if text}, key=natural))
        number = {value: float(index) for index, value in enumerate(values)}
        return Column(name, values, np.array([number.get(texts.get(key, ""), math.nan) for key in keys], np.float32))
    for path, value in numbers.items():
        if texts[path] and not abs(value) <= _LARGEST:  # NaN compares as false
            raise UserError(
                f"{where}: attribute {name!r} has the value {texts[path]!r}, which is no finite number of float32;"
                " correct it, or leave it empty where it is unknown"
            )
    return Column(name, (), np.array([numbers.get(key, math.nan) for key in keys], np.float32))


def _numbers(texts: Mapping[str, str]) -> dict[str, float] | None:
    """The numbers that texts are, NaN where one is missing; None where not all are numbers."""
    try:
        return {path: _number(text) if text else math.nan for path, text in texts.items()}
    except ValueError:
        return None


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
