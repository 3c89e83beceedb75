"""The videos of a data set, or of a part of it, with their labels and attributes, by their names alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vidgen.data.annotations import Attributes, Column, Labels, attributes_of, labels_of
from vidgen.data.splits import Split, check_split, group_of, select
from vidgen.errors import UserError


@dataclass(frozen=True)
class Annotation:
    """What a config says about the videos beside their pixels.

    Args:
        split: which of them are used.
        labels: which class each is of.
        attributes: what else is known about each.
    """

    split: Split = Split()  # noqa: RUF009 - frozen
    labels: Labels = Labels()  # noqa: RUF009 - frozen
    attributes: Attributes = Attributes()  # noqa: RUF009 - frozen


@dataclass(frozen=True)
class Listing:
    """Videos in the order of the data set.

    Args:
        names: relative to the root, with ``/``.
        class_names: names of the classes; empty without labels.
        labels: class of each video; empty without labels.
        columns: attributes of each video.
        groups: what each video must not be separated from; None where every one stands for itself.
        loose: videos that lie beside the class folders and are left out.
    """

    names: tuple[str, ...]
    class_names: tuple[str, ...]
    labels: NDArray[np.int64]
    columns: tuple[Column, ...]
    groups: tuple[str, ...] | None
    loose: tuple[str, ...] = ()

    def take(self, numbers: Sequence[int] | NDArray[np.int64]) -> Listing:
        """Some of the videos, with the same classes."""
        rows = np.asarray(numbers, np.int64)
        return Listing(
            tuple(self.names[number] for number in numbers),
            self.class_names,
            self.labels[rows] if self.class_names else self.labels,
            tuple(Column(column.name, column.values, column.numbers[rows]) for column in self.columns),
            None if self.groups is None else tuple(self.groups[number] for number in numbers),
            self.loose,
        )


def list_videos(names: Sequence[str], root: Path, annotation: Annotation, what: str) -> Listing:
    """Choose the videos of a part and say what they are.

    With ``split.by: folder`` a part's class numbers are those of ``train`` where that exists, and attributes are
    numbered over all parts, so that parts agree. Otherwise, where folders are the classes, videos beside these folders
    are left out. A zip whose videos all lie in one folder is read as that folder; patterns and lists do not see it.

    Args:
        names: all videos under the root, with ``/``, sorted.
        root: a folder or a zip, for messages.
        annotation: what the config says.
        what: what the root should hold, for messages (``"frame strips"``).

    Raises:
        UserError: nothing is there, a setting does not fit what is there, or most videos lie beside the class folders.
    """
    split = annotation.split
    check_split(split)
    if not names:
        raise UserError(f"{str(root)!r} holds no file; it should hold {what}")
    by_folder = split.by == "folder"
    whole = "" if root.is_dir() else _only_folder(names)
    if by_folder and whole == f"{split.folder}/":
        whole = ""
    part = f"{whole}{split.folder}/" if by_folder else whole
    classes = annotation.labels.by == "folder" and not by_folder
    every = [name for name in names if not classes or "/" in name[len(whole) :]] or list(names)
    loose = _loose(names, every, whole, root)
    inside = [name[len(whole) :].split("/", 1)[-1] if by_folder else name[len(whole) :] for name in every]
    taken = [number for number, name in enumerate(every) if name.startswith(part)]
    if not taken:
        raise UserError(_no_part(root, split, what))
    in_train = [number for number, name in enumerate(every) if name.startswith(f"{whole}train/")]
    reference = in_train if by_folder and in_train else taken
    class_names, labels = _labels(annotation.labels, every, inside, reference, taken, root, whole)
    columns = attributes_of(annotation.attributes, inside, every, root, whole)
    chosen = set(select([inside[number] for number in taken], split, root))
    kept = [n for n, number in enumerate(taken) if inside[number] in chosen]
    groups = None
    if split.pattern:
        groups = tuple(group_of(inside[number], split.pattern, split.divide) for number in taken)
    rows = np.array(taken, np.int64)
    listing = Listing(
        tuple(every[number] for number in taken),
        class_names,
        np.array(labels, np.int64),
        tuple(Column(column.name, column.values, column.numbers[rows]) for column in columns),
        groups,
        loose,
    )
    return listing if len(kept) == len(taken) else listing.take(kept)


def _loose(names: Sequence[str], every: Sequence[str], whole: str, root: Path) -> tuple[str, ...]:
    """The videos that are not used because they lie in no class folder.

    Raises:
        UserError: that are more than those in class folders, so that these are probably no classes.
    """
    if len(every) == len(names):
        return ()
    loose = tuple(name for name in names if "/" not in name[len(whole) :])
    if len(loose) > len(every):
        raise UserError(
            f"data.root {str(root)!r}: {len(loose)} of {len(names)} videos lie in no class folder (the first:"
            f" {loose[0]!r}); set data.labels.by to none to use all without classes, or move them"
        )
    return loose


def _labels(
    labels: Labels,
    every: Sequence[str],
    inside: Sequence[str],
    reference: Sequence[int],
    taken: Sequence[int],
    root: Path,
    whole: str,
) -> tuple[tuple[str, ...], list[int]]:
    """Classes as the reference has them, and the class of each video taken."""
    both = sorted({*reference, *taken})
    all_names, all_labels = labels_of(labels, [inside[n] for n in both], [every[n] for n in both], root, whole)
    if not all_names:
        return (), []
    label = dict(zip(both, all_labels, strict=True))
    known = sorted({label[number] for number in reference}) if labels.by != "file" else list(range(len(all_names)))
    number_of = {old: new for new, old in enumerate(known)}
    for number in taken:
        if label[number] not in number_of:
            raise UserError(f"{str(root / every[number])!r} is of a class that the training folder does not have")
    return tuple(all_names[old] for old in known), [number_of[label[number]] for number in taken]


def _only_folder(names: Sequence[str]) -> str:
    """The folder that holds everything in a zip, with its ``/``, or nothing."""
    first = names[0].split("/")[0] + "/"
    return first if all(name.startswith(first) for name in names) else ""


def _no_part(root: Path, split: Split, what: str) -> str:
    if split.by != "folder":
        return f"{str(root)!r} holds no file; it should hold {what}"
    if root.is_dir() and (root / str(split.folder)).is_dir():
        return f"{str(root / str(split.folder))!r} holds no file; it should hold {what}"
    where = f"data.split.folder {split.folder!r} in data.root {str(root)!r}"
    return f"{where} does not exist; it should be a folder of {what}"
