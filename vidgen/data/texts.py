"""What videos show, in words: captions from a table, and the ids that models read."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from vidgen.data.tables import StringTable
from vidgen.errors import UserError
from vidgen.seeding import derive_seed


@dataclass(frozen=True)
class Texts:
    """Captions of the videos, which batches hold as the ids of CLIP's byte pair encoding.

    A video may have several; which one a clip gets is drawn by its request's seed, and without a seed it is the first.

    Args:
        file: a ``.csv`` with columns ``path`` and ``text`` (a line for each caption), a ``.json``
            ``{path: text or [texts]}``, or a ``.jsonl`` with ``{"path": ..., "texts": [...]}`` (or ``"text"``) in each
            line. Paths are relative to ``root``; the ending of a file may be left out. None for the captions that a
            pack holds.
        bpe: the merges of the encoding (``bpe_simple_vocab_16e6.txt`` or its ``.gz``); None for those that are
            installed.
        length: ids of a text; shorter ones are filled up with 0, of longer ones the end is cut off.
    """

    file: Path | None = None
    bpe: Path | None = None
    length: int = 256


def check_texts(texts: Texts) -> None:
    """Refuse a length that holds no text.

    Raises:
        UserError: it is below 3: a text begins and ends with an id of its own.
    """
    if texts.length < 3:
        raise UserError(f"data.texts.length is {texts.length}; it must be at least 3")


def captions_of(file: Path, names: Sequence[str], root: Path) -> StringTable:
    """The captions of some videos.

    Args:
        file: see :class:`Texts`.
        names: videos relative to ``root``, with ``/``.
        root: a folder, or a zip, whose only folder the paths of the table may leave out.

    Returns:
        For each video a JSON list of its captions, in the order of the table.

    Raises:
        UserError: the file cannot be read, or has no caption for one of the videos.
    """
    table = read_captions(file)
    return StringTable(json.dumps(_look_up(table, name, file, root), ensure_ascii=False) for name in names)


def _look_up(table: dict[str, list[str]], name: str, file: Path, root: Path) -> list[str]:
    shorter = [] if root.is_dir() else [name.partition("/")[2]]
    for candidate in (name, *shorter):
        for key in (candidate, str(PurePosixPath(candidate).with_suffix("")) if candidate else ""):
            if found := table.get(key):
                return found
    raise UserError(
        f"data.texts.file {str(file)!r} has no text for {name!r}, found in {str(root)!r}; add one, or leave the video"
        " out with data.split"
    )


def read_captions(file: Path) -> dict[str, list[str]]:
    """All captions of a table by path; empty ones are passed over.

    Raises:
        UserError: the file cannot be read, is of another kind, or has a line that makes no sense.
    """
    readers = {".csv": _from_csv, ".json": _from_json, ".jsonl": _from_lines}
    reader = readers.get(file.suffix.lower())
    name = f"data.texts.file {str(file)!r}"
    if reader is None:
        raise UserError(f"{name} is no table of captions; it must end in .csv, .json or .jsonl")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{name} cannot be read: it is no text in UTF-8") from error
    table: dict[str, list[str]] = {}
    for path, captions in reader(text, name):
        table.setdefault(path, []).extend(caption.strip() for caption in captions if caption.strip())
    if not any(table.values()):
        raise UserError(f"{name} holds no caption")
    return table


Rows = Iterator[tuple[str, list[str]]]


def _from_csv(text: str, name: str) -> Rows:
    rows = csv.DictReader(text.splitlines(keepends=True), skipinitialspace=True)
    try:
        for column in ("path", "text"):
            if column not in (rows.fieldnames or ()):
                raise UserError(f"{name} has no column {column!r}; its first line must be path,text")
        for row in rows:
            yield row["path"], [row["text"] or ""]
    except csv.Error as error:
        raise UserError(f"{name} cannot be read: it is not a CSV") from error


def _from_json(text: str, name: str) -> Rows:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"{name} cannot be read: it is not JSON") from error
    if not isinstance(content, dict):
        raise UserError(f"{name} is not of the form {{path: text or [texts]}}")
    for path, value in content.items():
        yield path, _texts(value, name, repr(path))


def _from_lines(text: str, name: str) -> Rows:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("path"), str) or not {"text", "texts"} & row.keys():
            raise UserError(f'{name}, {where}: it should be like {{"path": "train/a.mp4", "texts": ["a dog runs"]}}')
        yield row["path"], _texts(row["texts"] if "texts" in row else row["text"], name, where)


def _texts(value: Any, name: str, where: str) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{name}, {where}: the caption must be a text or a list of texts")
    return texts


def choose_caption(captions: str, seed: int | None) -> str:
    """One of several captions.

    Args:
        captions: JSON list, as :func:`captions_of` gives it.
        seed: of the request; None takes the first.
    """
    texts: list[str] = json.loads(captions)
    return texts[0 if seed is None else derive_seed(seed, "text") % len(texts)]


def encode_texts(texts: Sequence[str], bpe: Path | None, length: int) -> Tensor:
    """The ids of some texts, int64 ``(N, length)``, see :class:`vidgen.text.ClipTokenizer`.

    Raises:
        UserError: the merges are not there.
    """
    ids: Tensor = _tokenizer(bpe, length).encode(list(texts))
    return ids


@lru_cache(maxsize=4)
def _tokenizer(bpe: Path | None, length: int) -> Any:
    from vidgen.text import ClipTokenizer  # it reads its merges, which videos without captions do not need

    return ClipTokenizer(bpe, length)
