"""Videos in a folder: what is there, and which class each one is of."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vidgen.data.splits import Split, check_split, select
from vidgen.errors import UserError


@dataclass(frozen=True)
class Listing:
    """Files of a data set.

    Args:
        root: the folder that ``paths`` are relative to.
        paths: files, with ``/``, in the order of the classes, then of their names.
        class_names: names of the classes; empty where the files lie in ``root`` itself.
        labels: class number of each file; empty without classes.
    """

    root: Path
    paths: tuple[str, ...]
    class_names: tuple[str, ...]
    labels: tuple[int, ...]


def list_videos(root: str | Path, split: Split, what: str) -> Listing:
    """List the files of a part of a folder, one class per subfolder or all of them without classes.

    Classes are numbered in the sorted order of their folders' names, of all of them, so that parts agree. Files beside
    class folders and hidden files (``.name``) are left out. Nothing is opened.

    Args:
        root: the folder.
        split: the part of it.
        what: what it should hold, for messages (``"frame strips"``).

    Raises:
        UserError: the folder does not exist, holds no file, or has no such part.
    """
    check_split(split)
    base = Path(root)
    _check_folder(base, f"data.root {str(root)!r}", what)
    folder = base
    if split.by == "folder":
        folder = base / str(split.folder)
        _check_folder(folder, f"data.split.folder {split.folder!r} in data.root {str(root)!r}", what)
    class_names = _class_names(base / "train" if split.by == "folder" and (base / "train").is_dir() else folder)
    files = _files(folder, bool(class_names))
    if not files:
        raise UserError(f"{str(folder)!r} holds no file; it should hold {what}")
    paths = select(files, split, base)
    return Listing(folder, tuple(paths), tuple(class_names), tuple(_labels(paths, class_names, folder)))


def _check_folder(folder: Path, name: str, what: str) -> None:
    if not folder.exists():
        raise UserError(f"{name} does not exist; it should be a folder of {what}")
    if not folder.is_dir():
        raise UserError(f"{name} is not a folder; it should be a folder of {what}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise UserError(f"{name} cannot be read: permission denied")


def _class_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def _files(folder: Path, with_classes: bool) -> list[str]:
    if not with_classes:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    found = []
    for class_name in _class_names(folder):
        for place, _, names in sorted(os.walk(folder / class_name)):
            inside = Path(place).relative_to(folder).as_posix()
            found += [f"{inside}/{name}" for name in sorted(names) if not name.startswith(".")]
    return found


def _labels(paths: Sequence[str], class_names: Sequence[str], folder: Path) -> list[int]:
    if not class_names:
        return []
    number = {name: index for index, name in enumerate(class_names)}
    for path in paths:
        if path.split("/")[0] not in number:
            raise UserError(f"{str(folder / path)!r} is of a class that the training folder does not have")
    return [number[path.split("/")[0]] for path in paths]
