"""Files of merges in the format of CLIP's, for tests that do not have the real one."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product
from pathlib import Path

NUMBER = 48_894
VERSION = '"bpe_simple_vocab_16e6.txt#version: 0.2'
TABLE = Path(__file__).parent / "fixtures" / "tats" / "merges.txt.gz"
CONTROLS = [chr(256 + n) for n in range(32)]
"""What stands for the bytes 0 to 31, which no text holds."""


def filler() -> Iterator[str]:
    """Merges of control characters, in an order in which each part is made before."""
    pairs = [first + second for first, second in product(CONTROLS, CONTROLS)]
    yield from (f"{pair[0]} {pair[1]}" for pair in pairs)
    yield from (f"{pair} {third}" for pair, third in product(pairs, CONTROLS))
    yield from (f"{first} {second}" for first, second in product(pairs, pairs))


def lines_of(table: Mapping[int, str]) -> list[str]:
    """All lines of a file that has the given merges at their ranks and filler at all others.

    Args:
        table: rank to merge, two symbols with a space between them.
    """
    others = filler()
    return [VERSION, *(table[rank] if rank in table else next(others) for rank in range(NUMBER))]


def write_merges(path: Path, table: Mapping[int, str]) -> Path:
    """Write :func:`lines_of` a table."""
    path.write_text("\n".join(lines_of(table)) + "\n", encoding="utf-8")
    return path


@cache
def common_merges() -> dict[int, str]:
    """Rank to merge, of CLIP's own: the first 6,000 and those of about 4,000 common words and forms."""
    lines = gzip.decompress(TABLE.read_bytes()).decode().splitlines()[1:]
    return {int(rank): merge for rank, _, merge in (line.partition(" ") for line in lines)}


def clip_merges(folder: Path) -> Path:
    """CLIP's file of merges: that of ``$VIDGEN_BPE``, else one that encodes common words as it does.

    Args:
        folder: where the second is written.
    """
    outside = os.environ.get("VIDGEN_BPE")
    return Path(outside) if outside else write_merges(folder / "merges.txt", common_merges())
