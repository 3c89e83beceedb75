"""``vidgen models``: list the models, or describe one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidgen.models.base import VideoModel

HELP = "List the models, or describe one: what it can be configured for and every argument that `model:` takes."
EXAMPLE = "vidgen models mocogan"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="a model's name, or the dotted path of its class")


def run(args: argparse.Namespace) -> int:
    """Print the table or the description."""
    from vidgen.errors import UserError, did_you_mean
    from vidgen.registry import MODELS

    if args.name is None:
        print(table())
        return 0
    if "." not in args.name and args.name not in MODELS.names():
        near = did_you_mean(args.name, MODELS.names())
        raise UserError(f"unknown model {args.name!r}{near or '; see vidgen models'}")
    print(describe(args.name))
    return 0


def table() -> str:
    """Name, tasks, stages and paper of every model, one per line."""
    from vidgen.registry import MODELS

    rows = [("NAME", "TASK", "STAGES", "PAPER")]
    for name in MODELS.names():
        cls: type[VideoModel] = MODELS.get(name)
        tasks = ", ".join(dict.fromkeys(task for _, task, _ in variants(cls)))
        rows.append((name, tasks or "-", ", ".join(cls.stages) or "-", cls.paper))
    return "\n".join(_aligned(rows))


def describe(name: str) -> str:
    """Paper, tasks and what training reads for each, and every constructor argument, one per line."""
    from vidgen.config.signature import parameters_of, type_name
    from vidgen.errors import UserError
    from vidgen.models.base import VideoModel
    from vidgen.registry import MODELS

    cls = MODELS.get(name)
    if not (isinstance(cls, type) and issubclass(cls, VideoModel)):
        raise UserError(f"{name!r} is not a VideoModel")
    lines = [f"{name}: {cls.title or cls.__name__}"]
    facts = {"paper": cls.paper, "original": cls.original, "stages": ", ".join(cls.stages)}
    lines += [f"  {label}: {text}" for label, text in facts.items() if text]
    lines += ["", "tasks"]
    tasks = dict.fromkeys((task, keys) for _, task, keys in variants(cls))
    lines += [f"  {task}: trains on {', '.join(keys)}" for task, keys in tasks]
    lines += ["", "arguments of model:"]
    rows = []
    for parameter in parameters_of(cls).values():
        default = "required" if parameter.required else f"= {_yaml(parameter.default)}"
        meaning = parameter.meaning.replace("``", "`") or "(not described)"
        rows.append((parameter.name, type_name(parameter.hint), default, meaning))
    return "\n".join([*lines, *(f"  {line}" for line in _aligned(rows))])


def variants(cls: type[VideoModel]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Variant, task and train keys of each way in which a model can be configured."""
    found = []
    for variant, arguments in cls.small_variants().items():
        model = cls(**arguments)
        found.append((variant, model.task, tuple(model.train_keys)))
    return found


def _aligned(rows: list[tuple[str, str, str, str]]) -> list[str]:
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    return ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]) for row in rows]


def _yaml(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(list(value)) if isinstance(value, tuple) else repr(value)
