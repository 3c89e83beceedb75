"""Texts as the ids of CLIP's byte-pair encoding.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, arXiv:2103.00020,
section 2.4; the encoding is Sennrich et al.'s, arXiv:1508.07909, over bytes. The vocabulary has 49,408 entries: 256
bytes, 256 bytes at the end of a word, 48,894 merges, and the marks of a text's start and end.
"""

from __future__ import annotations

import gzip
import html
import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import islice, pairwise
from pathlib import Path

import torch
from torch import Tensor

from vidgen.cache import cache_dir
from vidgen.errors import UserError
from vidgen.weights import WeightFile, locate

NUM_MERGES = 48_894
VOCABULARY = 512 + NUM_MERGES + 2
START, END = VOCABULARY - 2, VOCABULARY - 1
"""Ids before and after a text."""
PADDING = 0
"""Fills up a row; it is the id of ``!`` inside a word, too."""
FILE = WeightFile(
    name="bpe_simple_vocab_16e6.txt.gz",
    url="https://openaipublic.azureedge.net/clip/bpe_simple_vocab_16e6.txt.gz",
    size=1_356_917,
    checksum="sha256:924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
    licence="MIT",
)
"""OpenAI's file of merges, the most frequent first."""
PACKAGES = ("open_clip", "clip")
"""Packages that bring the file with them."""
_OPTION = "--bpe FILE or data.texts.bpe=FILE"
_WORD_END = "</w>"
_MARKS = {"<|startoftext|>": START, "<|endoftext|>": END}
_WORDS = re.compile(r"<\|(?:start|end)oftext\|>|'(?:s|t|re|ve|m|ll|d)|[a-z]+|[0-9]|[^\sa-z0-9]+")
"""What is encoded on its own, in lower-case ASCII: a mark, the end of a contraction, letters, a digit, signs."""
_CACHED_WORDS = 1 << 16


class ClipTokenizer:
    """Turns texts into ids and back.

    Args:
        merges: the file of merges, plain or gzipped; None looks for it, see :func:`find_merges`.
        context_length: ids of each text, those of start and end included.

    Raises:
        UserError: the file is not found or is another one.
    """

    def __init__(self, merges: str | Path | None = None, context_length: int = 256) -> None:
        if context_length < 2:
            raise ValueError(f"context_length {context_length}: start and end take 2")
        self.context_length = context_length
        path = find_merges() if merges is None else Path(merges).expanduser()
        self._symbols, self._merges = _read_merges(path)
        self._bytes: dict[int, int] = {byte: place for place, (byte, _) in enumerate(_byte_symbols())}
        self._words: dict[str, tuple[int, ...]] = {}

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Ids of texts, which are cleaned before, see :func:`clean`.

        Args:
            texts: any number.

        Returns:
            int64 ``(N, context_length)``: start, text, end, zeros. The end of a text that is too long is left out.
        """
        if isinstance(texts, str):
            raise TypeError("encode: takes a sequence of texts, not a single one")
        rows = torch.full((len(texts), self.context_length), PADDING, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [START, *islice(self._ids_of(text), self.context_length - 2), END]
            row[: len(ids)] = torch.tensor(ids)
        return rows

    def decode(self, ids: Tensor) -> list[str]:
        """Texts of rows of ids, in lower case and with single spaces; one before a sign, too.

        Args:
            ids: integers ``(N, L)``. What comes after the id of the end, or a padding at the end, is left out.

        Raises:
            ValueError: they are not of that shape, or no ids of the vocabulary.
        """
        if ids.ndim != 2 or ids.is_floating_point():
            raise ValueError(f"decode: takes integers (N, L), not {ids.dtype} {tuple(ids.shape)}")
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < VOCABULARY:
            raise ValueError(f"decode: ids are 0 to {VOCABULARY - 1}, not {int(ids.min())} to {int(ids.max())}")
        return [self._text_of(row) for row in ids.tolist()]

    def _ids_of(self, text: str) -> Iterator[int]:
        for word in _words(clean(text)):
            if word in _MARKS:
                yield _MARKS[word]
                continue
            if word not in self._words:
                if len(self._words) >= _CACHED_WORDS:
                    self._words.clear()
                self._words[word] = self._merged(word)
            yield from self._words[word]

    def _merged(self, word: str) -> tuple[int, ...]:
        """A word's bytes, joined pair by pair, the most frequent pair first."""
        parts = [self._bytes[byte] for byte in word.encode()]
        parts[-1] += 256  # the byte at the end of a word
        while True:
            # Ids grow with the rank of their merges.
            known = [(self._merges[pair], pair) for pair in pairwise(parts) if pair in self._merges]
            if not known:
                return tuple(parts)
            new, pair = min(known)
            joined: list[int] = []
            place = 0
            while place < len(parts):
                if tuple(parts[place : place + 2]) == pair:
                    joined.append(new)
                    place += 2
                else:
                    joined.append(parts[place])
                    place += 1
            parts = joined

    def _text_of(self, row: list[int]) -> str:
        if END in row:
            row = row[: row.index(END)]
        while row and row[-1] == PADDING:
            row = row[:-1]
        return b"".join(self._symbols[id] for id in row if id != START).decode("utf-8", "replace").strip()


def clean(text: str) -> str:
    """A text as CLIP reads it: in lower case, with single spaces, without HTML entities and typographic forms.

    Typographic quotes, ligatures, wide letters and control characters are replaced as the package ftfy does, which the
    official code calls. Its repair of wrongly decoded text is left out: it would have to be the same everywhere.
    """
    if "<" not in text:
        text = html.unescape(text)
    text = "".join(unicodedata.normalize("NFKC", c) if "\uff01" <= c <= "\uffef" else c for c in text)
    text = unicodedata.normalize("NFC", text.translate(_PLAIN))
    text = html.unescape(html.unescape(text))
    return re.sub(r"\s+", " ", text).strip().lower()


def find_merges() -> Path:
    """CLIP's file of merges: from the cache, from an installed package that has it, or else by download.

    Raises:
        UserError: it cannot be had, see :func:`vidgen.weights.locate`.
    """
    if not (cache_dir() / "weights" / FILE.name).is_file():
        for package in PACKAGES:
            spec = find_spec(package)
            for folder in (spec and spec.submodule_search_locations) or ():
                if (Path(folder) / FILE.name).is_file():
                    return Path(folder) / FILE.name
    return locate(FILE, option=_OPTION)


def _words(text: str) -> Iterator[str]:
    """A clean text's words, runs of signs, and digits."""
    if text.isascii():
        yield from _WORDS.findall(text)
        return
    # Python's patterns know no classes of Unicode: one character of its class stands for each that is not ASCII.
    classes = "".join(c if c.isascii() else _class_of(c) for c in text)
    for match in _WORDS.finditer(classes):
        yield text[match.start() : match.end()]


def _class_of(character: str) -> str:
    category = unicodedata.category(character)[0]
    # q is in no contraction and in no mark.
    return "q" if category == "L" else "0" if category == "N" else " " if character.isspace() else "~"


def _plain() -> dict[int, str | None]:
    """What takes the place of quotes, ligatures, wide spaces and control characters."""
    table: dict[int, str | None] = {}
    table |= dict.fromkeys(map(ord, "ʼ‘’‚‛"), "'") | dict.fromkeys(map(ord, "“”„‟"), '"')
    table |= {ord(c): unicodedata.normalize("NFKC", c) for c in "ĲĳǱǲǳǄǅǆǇǈǉǊǋǌﬀﬁﬂﬃﬄﬆ\u3000"}
    table |= {ord("ŉ"): "'n", ord("ﬅ"): "ſt"}
    controls = (range(9), [0x0B], range(0x0E, 0x20), [0x7F], range(0x206A, 0x2070), [0xFEFF], range(0xFFF9, 0xFFFD))
    return table | {code: None for codes in controls for code in codes}


_PLAIN = _plain()


def _byte_symbols() -> list[tuple[int, str]]:
    """Each byte with the character that stands for it in the file, in the order of the ids.

    Bytes that are printable characters of Latin-1 are those; the others take the characters from 256 on.
    """
    printable = [byte for first, last in ("!~", "¡¬", "®ÿ") for byte in range(ord(first), ord(last) + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [(byte, chr(byte)) for byte in printable] + [(byte, chr(256 + n)) for n, byte in enumerate(others)]


def _read_merges(path: Path) -> tuple[list[bytes], dict[tuple[int, int], int]]:
    """The bytes of every id below the marks, and the id that each pair of ids is merged to."""
    lines = _lines(path)
    if not lines or "#version" not in lines[0]:
        raise _not_merges(path, "its first line does not name a version")
    if len(lines) <= NUM_MERGES:
        raise _not_merges(path, f"it holds {len(lines) - 1} merges of {NUM_MERGES}")
    symbols = [bytes([byte]) for byte, _ in _byte_symbols()]
    symbols += [symbol + b" " for symbol in symbols]
    ids = {symbol: place for place, (_, symbol) in enumerate(_byte_symbols())}
    ids |= {symbol + _WORD_END: place + 256 for symbol, place in ids.items()}
    merges: dict[tuple[int, int], int] = {}
    for number, line in enumerate(lines[1:], 2):
        match line.split():
            case [first, second] if first in ids and second in ids and first + second not in ids:
                merges[ids[first], ids[second]] = ids[first + second] = len(symbols)
                symbols.append(symbols[ids[first]] + symbols[ids[second]])
            case [first, second] if first + second in ids:
                raise _not_merges(path, f"line {number} makes {first + second!r} again")
            case [first, second]:
                unknown = second if first in ids else first
                raise _not_merges(path, f"line {number} merges {unknown!r}, which no line before makes")
            case _:
                raise _not_merges(path, f"line {number} is no pair of symbols: {line[:40]!r}")
    if not any(symbol.endswith(b" ") for symbol in symbols[512:]):
        raise _not_merges(path, f"none of its merges ends a word with {_WORD_END}")
    return symbols, merges


def _lines(path: Path) -> list[str]:
    """The first lines of a file, of which no more are used."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not CLIP's file of merges, {FILE.name}")
    if not path.is_file():
        raise UserError(f"{path}: no such file; CLIP's merges, {FILE.name}, are at {FILE.url}")
    try:
        with open(path, "rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        with (gzip.open if zipped else open)(path, "rt", encoding="utf-8", newline="\n") as text:
            return [line.rstrip("\r\n") for line in islice(text, NUM_MERGES + 1)]
    except UnicodeDecodeError:
        raise _not_merges(path, "it is no text in UTF-8") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: cannot be read ({reason}); CLIP's merges, {FILE.name}, are at {FILE.url}") from error


def _not_merges(path: Path, reason: str) -> UserError:
    return UserError(f"{path}: is not CLIP's file of merges ({reason}); take {FILE.name} from {FILE.url}")
