"""Parts of a folder of videos (training, validation, test) between which nothing leaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from vidgen.errors import UserError
from vidgen.seeding import derive_seed


@dataclass(frozen=True)
class Split:
    r"""Which of the videos under ``root`` are used.

    Weizmann strips, of which performer p has the files 8p to 8p + 7, performers 0 to 6:
    ``split: {by: group, pattern: '(\d+)\.\w+$', divide: 8, groups: [0, 1, 2, 3, 4, 5, 6]}``.

    Args:
        by: ``none`` takes all videos; ``folder`` those under ``root/<folder>``; ``file`` those listed in ``file``;
            ``fraction`` a seeded random share; ``group`` the ``groups`` that ``pattern`` finds in the paths.
        folder: a folder in ``root`` (``train``; ``./train/`` is the same). Class numbers are those of ``root/train``
            where that exists.
        file: a text file in UTF-8 with one path relative to ``root`` per line; empty lines and lines from ``#`` are
            skipped.
        part: ``train`` for the share itself, ``val`` for the rest.
        fraction: share of the groups in part ``train``, between 0 and 1.
        seed: seed of the random share.
        pattern: regular expression searched in each path relative to ``root`` (with ``/``); the group named ``group``,
            else the first one, else the whole match says what belongs together. With ``fraction`` it keeps groups
            whole; without it every file is a group of its own.
        divide: integer by which a number found by ``pattern`` is divided, rounding down.
        groups: names of the groups taken; numbers compare as numbers (``7`` is ``07``).
    """

    by: Literal["none", "folder", "file", "fraction", "group"] = "none"
    folder: str | None = None
    file: Path | None = None
    part: Literal["train", "val"] = "train"
    fraction: float = 0.9
    seed: int = 0
    pattern: str | None = None
    divide: int = 1
    groups: Sequence[int | str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.folder, str):
            top = "/" if self.folder.startswith("/") else ""
            parts = [part for part in self.folder.split("/") if part not in ("", ".")]
            object.__setattr__(self, "folder", top + "/".join(parts))


_USED = {
    "none": {"pattern", "divide"},
    "folder": {"folder", "pattern", "divide"},
    "file": {"file", "pattern", "divide"},
    "fraction": {"part", "fraction", "seed", "pattern", "divide"},
    "group": {"pattern", "divide", "groups"},
}
_NEEDED = {"none": (), "folder": ("folder",), "file": ("file",), "fraction": (), "group": ("pattern", "groups")}


def check_split(split: Split) -> None:
    """Refuse settings that contradict each other.

    Raises:
        UserError: naming the setting.
    """
    if split.by not in _USED:
        raise UserError(f"data.split.by is {split.by!r}; use one of {', '.join(_USED)}")
    for field in fields(Split):
        value = getattr(split, field.name)
        if field.name != "by" and value != field.default and field.name not in _USED[split.by]:
            raise UserError(f"data.split.{field.name} has no meaning with data.split.by {split.by!r}; leave it out")
    for name in _NEEDED[split.by]:
        if not getattr(split, name):
            raise UserError(f"data.split.by {split.by!r} needs data.split.{name}")
    if split.folder is not None and (split.folder.startswith("/") or ".." in split.folder.split("/")):
        raise UserError(
            f"data.split.folder {split.folder!r} must be the path of a folder below data.root, without '..', as 'train'"
        )
    if not 0 < split.fraction < 1:
        raise UserError(f"data.split.fraction is {split.fraction}; it must lie between 0 and 1")
    if split.divide < 1:
        raise UserError(f"data.split.divide is {split.divide}; it must be at least 1")
    if split.divide > 1 and not split.pattern:
        raise UserError("data.split.divide needs data.split.pattern, which says which number it divides")
    if split.pattern is not None:
        try:
            re.compile(split.pattern)
        except re.error as error:
            raise UserError(f"data.split.pattern {split.pattern!r} is not a regular expression: {error}") from error


def group_of(path: str, pattern: str | None, divide: int = 1) -> str:
    """What a video must not be separated from.

    Args:
        path: path of the video relative to the root, with ``/``.
        pattern: see :class:`Split`; None makes each path its own group.
        divide: see :class:`Split`.

    Raises:
        UserError: the pattern does not fit the path, or finds no number to divide.
    """
    if pattern is None:
        return path
    match = re.search(pattern, path)
    if match is None:
        raise UserError(f"data.split.pattern {pattern!r} finds no group in {path!r}; it must fit every video")
    named = "group" in match.re.groupindex
    found = match["group"] if named else match[1] if match.re.groups else match[0]
    if found is None:
        raise UserError(f"data.split.pattern {pattern!r} finds no group in {path!r}; it must fit every video")
    if divide == 1:
        return _name(found)
    if not found.isdecimal():
        raise UserError(f"data.split.divide needs a number, but data.split.pattern finds {found!r} in {path!r}")
    return str(int(found) // divide)


def _name(key: int | str) -> str:
    """A group's name in one spelling, so that 7 and ``07`` are the same group."""
    text = str(key)
    return str(int(text)) if text.isdecimal() else text


def select(paths: Sequence[str], split: Split, root: Path) -> list[str]:
    """The paths that a split takes, in their order.

    Which videos these are does not depend on their contents, and under ``fraction`` and ``group`` all videos of a group
    are taken or none.

    Args:
        paths: paths relative to ``root``, with ``/``; for ``by: folder`` already those of the folder.
        split: the settings.
        root: named in messages.

    Raises:
        UserError: a listed file or group does not exist, or nothing is left.
    """
    check_split(split)
    if split.by == "file":
        return _listed(paths, Path(split.file or ""), root)
    if split.by in ("none", "folder"):
        return list(paths)
    keys = [group_of(path, split.pattern, split.divide) for path in paths]
    taken = _share(keys, split, root) if split.by == "fraction" else _named(keys, split, root)
    return [path for path, key in zip(paths, keys, strict=True) if key in taken]


def _share(keys: Sequence[str], split: Split, root: Path) -> set[str]:
    groups = sorted(set(keys), key=lambda key: (derive_seed(split.seed, "split", key), key))
    if len(groups) < 2:
        raise UserError(f"data.split: {str(root)!r} holds one group only ({groups[0]!r}); a fraction needs two or more")
    border = min(max(round(split.fraction * len(groups)), 1), len(groups) - 1)
    return set(groups[:border] if split.part == "train" else groups[border:])


def _named(keys: Sequence[str], split: Split, root: Path) -> set[str]:
    known = set(keys)
    for group in split.groups:
        if _name(group) not in known:
            shown = sorted(known, key=lambda key: (not key.isdecimal(), int(key) if key.isdecimal() else 0, key))
            more = ", ..." if len(shown) > 12 else ""
            raise UserError(
                f"data.split.groups: no video in {str(root)!r} is of group {_name(group)!r}"
                f" (groups: {', '.join(shown[:12])}{more})"
            )
    return {_name(group) for group in split.groups}


def _listed(paths: Sequence[str], file: Path, root: Path) -> list[str]:
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")  # names may hold what else ends a line
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise UserError(f"data.split.file {str(file)!r} cannot be read: {reason}") from error
    stripped = [line.strip() for line in lines]
    wanted = {line.removeprefix("./") for line in stripped if line and not line.startswith("#")}
    if not wanted:
        raise UserError(f"data.split.file {str(file)!r} lists no video")
    missing = sorted(wanted - set(paths))
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        hint = "; one path per line, without the number" if re.search(r"\s\d+$", missing[0]) else ""
        raise UserError(f"data.split.file {str(file)!r} lists {missing[0]!r}{more}, not found in {str(root)!r}{hint}")
    return [path for path in paths if path in wanted]
