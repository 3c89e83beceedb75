"""Values that a foreign file or the command line gives: what they must be, and how they are shown in messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from vidgen.errors import UserError

MOST = 10**6
"""More is no sensible number of frames, pixels, codes or layers."""


class Rule(NamedTuple):
    """What a value must be.

    Args:
        holds: whether it is.
        text: the rule in words.
    """

    holds: Callable[[Any], bool]
    text: str


def whole(least: int) -> Rule:
    """A whole number, neither a bool nor a float."""
    return Rule(lambda value: type(value) is int and least <= value <= MOST, f"a whole number from {least} to {MOST}")


def whole_numbers(count: int) -> Rule:
    """So many whole numbers above 0."""
    one = whole(1)
    return Rule(
        lambda value: isinstance(value, list | tuple) and len(value) == count and all(map(one.holds, value)),
        f"{count} whole numbers from 1 to {MOST}",
    )


def number(holds: Callable[[Any], bool], text: str) -> Rule:
    """A number, whole or not, with a property."""
    return Rule(lambda value: type(value) in (int, float) and holds(value), f"a number {text}")


def one_of(*values: str) -> Rule:
    """One of some words."""
    return Rule(lambda value: isinstance(value, str) and value in values, f"one of {', '.join(values)}")


TRUTH = Rule(lambda value: isinstance(value, bool), "True or False")
WEIGHT = number(lambda value: 0 <= value <= MOST, "from 0 to 1e6")
RATE = number(lambda value: 0 < value <= 1e3, "above 0, up to 1e3")
SHARE = number(lambda value: 0 <= value <= 1, "from 0 to 1")


def check_value(name: str, value: Any, rule: Rule) -> None:
    """Check a value.

    Args:
        name: what it is called in the message.
        value: of any type.
        rule: what it must be.

    Raises:
        UserError: it is not.
    """
    if not rule.holds(value):
        raise UserError(f"{name} {shown(value)}: must be {rule.text}")


def shown(value: Any) -> str:
    """A value of a file in a few words, whatever it is."""
    if isinstance(value, str):
        return ascii(value[:40])
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and value.bit_length() <= 64):
        return repr(value)
    if (
        isinstance(value, list | tuple)
        and len(value) <= 5
        and not any(isinstance(entry, list | tuple) for entry in value)
    ):
        return f"[{', '.join(map(shown, value))}]"
    return f"of type {'Tensor' if isinstance(value, Tensor) else type(value).__name__}"
