"""How far long work has come."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A bar on a terminal, a line every ten seconds and at the end elsewhere.

    Args:
        total: things to do.
        verb: what is done with them, in the past tense (``"sampled"``).
        unit: what they are, in the plural (``"videos"``).
        enabled: False keeps silent.
        last_line: whether the end is worth a line where lines are printed, however soon it comes.
        file: where it is shown; None for the standard output.
    """

    def __init__(
        self,
        total: int,
        verb: str,
        unit: str,
        enabled: bool = True,
        last_line: bool = True,
        file: TextIO | None = None,
    ) -> None:
        self.total = total
        self.verb = verb
        self.unit = unit
        self.done = 0
        self.file = file or sys.stdout
        self.last_line = last_line
        self.lines = enabled and not self.file.isatty()
        self.bar = tqdm(total=total, unit=unit.removesuffix("s"), disable=not enabled or self.lines, file=self.file)
        self.start = self.previous_line = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.bar.close()

    def advance(self, number: int = 1) -> None:
        """Count things done."""
        self.done += number
        self.bar.update(number)
        now = time.monotonic()
        ended = self.last_line and self.done == self.total
        if self.lines and (ended or now - self.previous_line >= SECONDS_BETWEEN_LINES):
            self.previous_line = now
            rate = self.done / max(now - self.start, 1e-9)
            left = (self.total - self.done) / rate
            line = f"{self.verb} {self.done}/{self.total} {self.unit}, {rate:.1f} {self.unit}/s, {left:.0f} s left"
            print(line, file=self.file, flush=True)
