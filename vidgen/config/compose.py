"""From a file, its bases and overrides to the resolved sections of each stage. Nothing heavy is imported."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    GrammarParseError,
    InterpolationKeyError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
)

from vidgen.errors import UserError, did_you_mean

SECTIONS = ("seed", "model", "data", "trainer", "ema", "eval", "checkpoint", "log", "loggers", "compile", "init_from")
"""What a config, and each of its stages, may hold."""

MISSING = "???"
"""A value that whoever uses the config has to give."""

CHECKPOINT = re.compile(r"\$\{checkpoint:\s*([^}\s]*)\s*\}")
"""Stands for the last checkpoint of an earlier stage of the same run."""

_STAGE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
# YAML 1.1 wants a dot and a sign in a float (1.0e-4); everybody writes 1e-4.
_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
    |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.X,
)


def _without_dates(resolvers: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    unwanted = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")
    return {first: [rule for rule in rules if rule[0] not in unwanted] for first, rules in resolvers.items()}


class _Loader(yaml.SafeLoader):
    """Safe YAML with floats like 1e-4, dates as text, and no key twice in a mapping."""

    yaml_implicit_resolvers = _without_dates(yaml.SafeLoader.yaml_implicit_resolvers)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes so that :class:`_Loader` reads the same values back."""

    yaml_implicit_resolvers = _without_dates(yaml.SafeDumper.yaml_implicit_resolvers)


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


@dataclass(frozen=True)
class Config:
    """A composed config: the resolved sections of each stage, in the order in which they run.

    Args:
        path: the file it was composed from, as the user gave it.
        stages: name (None where the file has no ``stages``) and sections; ``${checkpoint:NAME}`` is left as text.
        given: dotted keys that stand inside each named stage, to name keys in messages as the user wrote them.
    """

    path: Path
    stages: tuple[tuple[str | None, dict[str, Any]], ...]
    given: Mapping[str, frozenset[str]]

    def for_stages(self) -> list[tuple[str | None, dict[str, Any]]]:
        """Name and resolved sections of each stage, in order; one stage without a name for a plain config."""
        return list(self.stages)

    def key(self, stage: str | None, key: str) -> str:
        """The dotted key as it stands in the file: inside ``stages.NAME`` or at the top level."""
        return f"stages.{stage}.{key}" if stage is not None and key in self.given[stage] else key

    @property
    def text(self) -> str:
        """The resolved config as YAML; composing it again gives the same stages."""
        if self.stages[0][0] is None:
            return dump(self.stages[0][1])
        return dump({"stages": dict(self.stages)})


def compose(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Config:
    """Read a config with its bases, apply overrides, merge stages over the top level and resolve interpolations.

    Args:
        path: YAML file.
        overrides: ``key=value`` with dotted keys and YAML values. A key outside ``stages`` holds for every stage.

    Returns:
        The composed config; names, keys inside sections and types are not checked yet, see :func:`check`.

    Raises:
        UserError: the file or a base cannot be read, an override or an interpolation makes no sense, or a top-level
            key is unknown.
    """
    path = Path(path)
    changes = [parse_override(text) for text in overrides]
    root = _apply(_read_with_bases(path, ()), changes)
    _check_top_level(path, root)
    names = list(root.get("stages") or {})
    if not names:
        return Config(path, ((None, _resolve(root, None)),), {})
    stages = []
    for name in names:
        merged = OmegaConf.merge(root, root.stages[name] or {})
        assert isinstance(merged, DictConfig)
        prefix = f"stages.{name}."
        general = [(key, value) for key, value in changes if not key.startswith("stages.")]
        special = [(key.removeprefix(prefix), value) for key, value in changes if key.startswith(prefix)]
        stages.append((name, _resolve(_apply(merged, general + special), name)))
    given = {name: frozenset(_dotted(_plain(root)["stages"][name])) for name in names}
    config = Config(path, tuple(stages), given)
    _check_references(config)
    return config


def dump(value: Any) -> str:
    """YAML text that a config file may hold; ``${`` in values is escaped so that it stays text."""
    return yaml.dump(_escape(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``key=value`` and read the value as YAML.

    Raises:
        UserError: there is no ``=``, no key, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals:
        hint = f"; name the config with --config {text}" if text.endswith((".yaml", ".yml")) else ""
        raise UserError(f"override {text!r}: expected key=value{hint}")
    if not key or any(not part for part in key.split(".")):
        raise UserError(f"override {text!r}: expected key=value with a key like model.dim_content")
    if key.split(".")[0] == "_base_":
        raise UserError(f"override {text!r}: _base_ is read from files only")
    try:
        return key, _protect(yaml.load(value, Loader=_Loader))
    except yaml.YAMLError as error:
        raise UserError(f"override {text!r}: {_problem(error)}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{did_you_mean(path.stem, _configs_in(path.parent))}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, not a config file") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        content = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: {_problem(error)}") from None
    if content is None:
        raise UserError(f"{path}: the file is empty")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections like 'model:', got a {type(content).__name__}")
    return content


def _configs_in(folder: Path) -> list[str]:
    return [file.stem for file in folder.iterdir() if file.suffix in (".yaml", ".yml")] if folder.is_dir() else []


def _problem(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "not valid YAML"
    return " ".join(str(problem).split())


def _read_with_bases(path: Path, below: tuple[Path, ...]) -> DictConfig:
    if path in below:
        chain = " -> ".join(str(p) for p in (*below[below.index(path) :], path))
        raise UserError(f"{below[0]}: _base_ goes in a circle: {chain}")
    content = _read(path)
    bases = content.pop("_base_", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: _base_: expected a path or a list of paths, got {bases!r}")
    merged = OmegaConf.create({})
    for base in bases:
        file = Path(os.path.normpath(path.parent / base))
        if not file.is_file():
            raise UserError(f"{path}: _base_: no such file: {file}")
        merged = _merge(path, merged, _read_with_bases(file, (*below, path)))
    return _merge(path, merged, _protect(content))


def _merge(path: Path, under: DictConfig, over: Any) -> DictConfig:
    try:
        merged = OmegaConf.merge(under, over)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", None) or "")
        if isinstance(error, GrammarParseError):
            raise UserError(f"{path}: {key}: cannot resolve {_at(over, key)!r}: {_reason(error)}") from None
        raise UserError(f"{path}: {key + ': ' if key else ''}{str(error).splitlines()[0]}") from None
    assert isinstance(merged, DictConfig)
    return merged


def _apply(config: DictConfig, changes: Iterable[tuple[str, Any]]) -> DictConfig:
    config = config.copy()
    for key, value in changes:
        try:
            OmegaConf.update(config, key, value, merge=False)
        except GrammarParseError as error:
            raise UserError(f"{key}: cannot resolve {value!r}: {_reason(error)}") from None
        except (OmegaConfBaseException, ValueError, TypeError):
            raise UserError(f"{key}: cannot be set; what stands there in the config has another structure") from None
    return config


def _check_top_level(path: Path, root: DictConfig) -> None:
    known = (*SECTIONS, "stages")
    for key in _plain(root):
        if key not in known:
            raise UserError(f"{key}: unknown key{did_you_mean(str(key), known)}")
    stages = _plain(root).get("stages")
    if stages is None:
        return
    if not isinstance(stages, dict):
        raise UserError(f"stages: expected a name and sections for each stage, got a {type(stages).__name__}")
    for name, sections in stages.items():
        if not isinstance(name, str) or not _STAGE_NAME.fullmatch(name):
            raise UserError(f"stages: {name!r} cannot name a stage; use letters, digits, '_' and '-'")
        if not isinstance(sections, dict | None):
            raise UserError(f"stages.{name}: expected sections like 'model:', got a {type(sections).__name__}")
        for key in sections or {}:
            if key not in SECTIONS:
                raise UserError(f"stages.{name}.{key}: unknown key{did_you_mean(str(key), SECTIONS)}")


def _plain(config: DictConfig) -> dict[str, Any]:
    """The config as dicts and lists, nothing resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(config))


def _resolve(config: DictConfig, stage: str | None) -> dict[str, Any]:
    plain = _plain(config)
    sections: dict[str, Any] = {}
    for name in SECTIONS:
        if name not in plain:
            continue
        try:
            value = plain[name] if OmegaConf.is_missing(config, name) else config[name]
            sections[name] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        except OmegaConfBaseException as error:
            key = str(getattr(error, "full_key", "") or name)
            where = f"stages.{stage}.{key}" if stage is not None else key
            raise UserError(f"{where}: cannot resolve {_at(plain, key)!r}: {_reason(error)}") from None
    return sections


def _reason(error: OmegaConfBaseException) -> str:
    if isinstance(error, InterpolationKeyError):
        return "no such key"
    if isinstance(error, InterpolationToMissingValueError):
        return "that key has no value yet"
    if isinstance(error, UnsupportedInterpolationType):
        return "only ${section.key} and ${checkpoint:STAGE} are known"
    if isinstance(error, GrammarParseError):
        return "expected ${section.key}"
    return "it leads back to itself"


def _at(plain: Any, key: str) -> Any:
    for part in re.split(r"[.\[\]]+", key.rstrip("]")):
        try:
            plain = plain[int(part)] if isinstance(plain, list) else plain[part]
        except (KeyError, IndexError, TypeError, ValueError):
            return key
    return plain


def _dotted(value: Any, prefix: str = "") -> Iterable[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield f"{prefix}{key}"
            yield from _dotted(inner, f"{prefix}{key}.")


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value


def _check_references(config: Config) -> None:
    earlier: list[str] = []
    for stage, sections in config.stages:
        for text in _strings(sections):
            for name in CHECKPOINT.findall(text):
                if name not in earlier:
                    near = did_you_mean(name, earlier)
                    raise UserError(f"stages.{stage}: {text}: no earlier stage is called {name!r}{near}")
        earlier.append(str(stage))


def _map_strings(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {key: _map_strings(inner, change) for key, inner in value.items()}
    if isinstance(value, list):
        return [_map_strings(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


def _protect(value: Any) -> Any:
    """Escape ``${checkpoint:NAME}``, which stays text until the run folder is known."""
    return _map_strings(value, lambda text: CHECKPOINT.sub(r"\\${checkpoint:\1}", text))


def _escape(value: Any) -> Any:
    return _map_strings(value, lambda text: re.sub(r"\$\{(?!checkpoint:)", r"\\${", text))
