"""What a class can be given: names, types, defaults and meanings of its constructor arguments."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path, PurePath
from typing import Any, Literal, Union

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Parameter:
    """One constructor argument.

    Args:
        name: as it stands in a config.
        hint: resolved type hint; ``typing.Any`` where the signature has none.
        default: default value, or :data:`REQUIRED`.
        meaning: its line in the docstring, without line breaks; empty when undocumented.
    """

    name: str
    hint: Any
    default: Any
    meaning: str

    @property
    def required(self) -> bool:
        """Whether a config has to give it."""
        return self.default is REQUIRED


class Mismatch(Exception):
    """A value is not of the type that a hint asks for."""


def parameters_of(cls: type) -> dict[str, Parameter]:
    """The constructor arguments of a class, its bases included, in the order of the signature.

    jsonargparse resolves postponed hints, arguments passed on through ``**kwargs`` and docstrings of base classes.
    """
    # jsonargparse has no public function that returns the list which its parsers are built from.
    from jsonargparse._parameter_resolvers import get_signature_parameters

    found = {}
    for item in get_signature_parameters(cls, logger=False):
        if item.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        hint = Any if item.annotation is inspect.Parameter.empty else item.annotation
        found[item.name] = Parameter(item.name, hint, item.default, " ".join((item.doc or "").split()))
    return found


def convert(value: Any, hint: Any) -> Any:
    """Return ``value`` as the type that ``hint`` names, if that loses nothing.

    An int becomes a float, a list a tuple and a string a Path where the hint asks for it; nothing else changes.

    Raises:
        Mismatch: the value is of another type.
    """
    hint = _plain(hint)
    if hint in (Any, object, inspect.Parameter.empty) or isinstance(hint, typing.TypeVar):
        return value
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(value, typing.get_args(hint))
    if origin is Literal:
        for choice in typing.get_args(hint):
            if type(choice) is type(value) and choice == value:
                return value
        raise Mismatch
    if hint in (None, type(None)):
        return _only(value is None, value)
    kind = origin or hint
    if kind is float and type(value) is int:
        return float(value)
    if kind in (bool, int, float, str):
        return _only(type(value) is kind, value)
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return Path(_only(type(value) is str, value))
    return _convert_container(value, kind, typing.get_args(hint))


_UNION_ORDER = {"bool": -4, "int": -3, "float": -2, "str": -1, "None": 10**6}


def type_name(hint: Any) -> str:
    """A hint as it reads best in a message: ``int``, ``float | None``, ``'min' | 'max'``, ``list[int]``."""
    hint = _plain(hint)
    if hint in (Any, inspect.Parameter.empty) or isinstance(hint, typing.TypeVar):
        return "any"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        # typing keeps one object for unions with equal members, so their order depends on which was imported first
        names = {type_name(argument) for argument in arguments}
        return " | ".join(sorted(names, key=lambda name: (_UNION_ORDER.get(name, len(_UNION_ORDER)), name)))
    if origin is Literal:
        return " | ".join(repr(argument) for argument in arguments)
    if hint in (None, type(None)):
        return "None"
    if hint is Ellipsis:
        return "..."
    if isinstance(origin or hint, type) and issubclass(origin or hint, PurePath):
        return "path"
    name = getattr(origin or hint, "__name__", str(hint))
    return f"{name}[{', '.join(type_name(argument) for argument in arguments)}]" if arguments else name


def dataclass_of(hint: Any) -> type | None:
    """The dataclass that a hint names, alone or beside None; its values stand as a section in a config."""
    hint = _plain(hint)
    if typing.get_origin(hint) in (Union, types.UnionType):
        found = [dataclass_of(argument) for argument in typing.get_args(hint)]
        return next((cls for cls in found if cls is not None), None)
    return hint if isinstance(hint, type) and is_dataclass(hint) else None


def choices_of(hint: Any) -> list[str]:
    """The strings that a hint allows by name, for suggestions."""
    hint = _plain(hint)
    if typing.get_origin(hint) is Literal:
        return [choice for choice in typing.get_args(hint) if isinstance(choice, str)]
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [choice for argument in typing.get_args(hint) for choice in choices_of(argument)]
    return []


def _plain(hint: Any) -> Any:
    """The hint behind ``Annotated``, ``NewType`` and ``type X = …``."""
    while True:
        if typing.get_origin(hint) is typing.Annotated:
            hint = typing.get_args(hint)[0]
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            return hint


def _only(fits: bool, value: Any) -> Any:
    if not fits:
        raise Mismatch
    return value


def _convert_union(value: Any, members: Iterable[Any]) -> Any:
    converted = []
    for member in members:
        try:
            converted.append(convert(value, member))
        except Mismatch:
            continue
    if not converted:
        raise Mismatch
    # The member that changes nothing wins: 3 stays an int for int | float, a name stays a str for Path | str.
    return next((result for result in converted if type(result) is type(value)), converted[0])


def _convert_container(value: Any, kind: Any, arguments: tuple[Any, ...]) -> Any:
    if not isinstance(kind, type):
        raise Mismatch
    if issubclass(kind, tuple):
        items = list(_only(isinstance(value, list | tuple), value))
        if not arguments:
            return tuple(items)
        if arguments[-1] is Ellipsis:
            return tuple(convert(item, arguments[0]) for item in items)
        if len(items) != len(arguments):
            raise Mismatch
        return tuple(convert(item, argument) for item, argument in zip(items, arguments, strict=True))
    if kind in (list, Sequence, Collection, Iterable):
        items = _only(isinstance(value, list), value)
        return [convert(item, arguments[0] if arguments else Any) for item in items]
    if issubclass(kind, Mapping):
        items = _only(isinstance(value, dict), value)
        key_hint, value_hint = arguments if len(arguments) == 2 else (Any, Any)
        return {convert(key, key_hint): convert(item, value_hint) for key, item in items.items()}
    return _only(isinstance(value, kind), value)
