"""The keywords of a model's ``sample`` as options of a command line."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Union

from vidgen.config.compose import parse_override
from vidgen.config.signature import Mismatch, Parameter, convert, type_name
from vidgen.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from vidgen.models.base import VideoModel

_GIVEN_OTHERWISE = ("self", "num_videos", "num_frames", "seed", "first", "batch")


def sample_keywords(cls: type[VideoModel]) -> dict[str, Parameter]:
    """The explicit keywords of a model's ``sample`` that can be given as text.

    Those that every model has are left out, and so are those that only tensors can be given to.

    Args:
        cls: the model's class.

    Returns:
        Name -> name, type, default and meaning, in the order of the signature.
    """
    import docstring_parser

    hints = typing.get_type_hints(cls.sample)
    documented = docstring_parser.parse(inspect.getdoc(cls.sample) or "").params
    meanings = {item.arg_name: " ".join((item.description or "").split()) for item in documented}
    found = {}
    for name, item in inspect.signature(cls.sample).parameters.items():
        hint = _without_tensors(hints.get(name, Any))
        variable = item.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        if not variable and name not in _GIVEN_OTHERWISE and hint not in (None, type(None)):
            found[name] = Parameter(name, hint, item.default, meanings.get(name, ""))
    return found


def describe_keywords(cls: type[VideoModel]) -> str:
    """One line per keyword with type, default and meaning; for the help text."""
    lines = []
    for name, parameter in sample_keywords(cls).items():
        default = "required" if parameter.required else f"default {parameter.default}"
        meaning = parameter.meaning.replace("``", "`") or "(not described)"
        lines.append(f"  --{name} ({type_name(parameter.hint)}, {default}): {meaning}")
    return "\n".join(lines) or "  none"


def parse_keywords(cls: type[VideoModel], words: Sequence[str], options: Iterable[str] = ()) -> dict[str, Any]:
    """Read ``--keyword value`` and ``--keyword=value`` against the signature of a model's ``sample``.

    A list is given as ``[1, 2]`` or as several words; a bool without a value is true. Values are read as YAML.

    Args:
        cls: the model's class.
        words: the words of the command line that are none of its own options.
        options: the command's own options, for suggestions.

    Raises:
        UserError: unknown keyword, missing value or wrong type.
    """
    known = sample_keywords(cls)
    values: dict[str, Any] = {}
    for option, texts in _grouped(words):
        name = option.removeprefix("--").replace("-", "_")
        if name not in known:
            near = did_you_mean(option, [*(f"--{each}" for each in known), *options])
            listed = ", ".join(f"--{each}" for each in known) or "none"
            raise UserError(f"unknown argument {option!r}{near} (keywords of this model: {listed})")
        if name in values:
            raise UserError(f"{option}: given twice")
        values[name] = _value(option, texts, known[name].hint)
    for name, parameter in known.items():
        if parameter.required and name not in values:
            raise UserError(f"--{name}: missing; this model needs it (expected {type_name(parameter.hint)})")
    return values


def _grouped(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            option, equals, text = word.partition("=")
            groups.append((option, [text] if equals else []))
        elif not groups:
            raise UserError(f"unexpected argument {word!r}; keywords are given as --name value")
        else:
            groups[-1][1].append(word)
    return groups


def _value(option: str, texts: list[str], hint: Any) -> Any:
    if not texts and hint is bool:
        return True
    if not texts:
        raise UserError(f"{option}: has no value (expected {type_name(hint)})")
    read = [parse_override(f"value={text}")[1] for text in texts]
    candidates: list[Any] = [read[0], texts[0], read, texts] if len(texts) == 1 else [read, texts]
    for candidate in candidates:
        try:
            return convert(candidate, hint)
        except Mismatch:
            continue
    raise UserError(f"{option}: {' '.join(texts)!r} is of the wrong type (expected {type_name(hint)})")


def _without_tensors(hint: Any) -> Any:
    """The hint less what text cannot express; None when nothing is left."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        members = [member for member in typing.get_args(hint) if _without_tensors(member) is not None]
        return Union[tuple(members)] if any(member is not type(None) for member in members) else None  # noqa: UP007
    return None if getattr(hint, "__name__", "") == "Tensor" else hint
