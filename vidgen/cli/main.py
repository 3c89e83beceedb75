"""Find the command, parse its arguments, run it, and say in one line what went wrong.

A command is a module in this package with ``HELP`` (what it does, one paragraph), ``EXAMPLE`` (a command line),
``add_arguments(parser)`` and ``run(args) -> exit status``. It imports what is heavy inside ``run``. It may set
``LOWER``: what to lower when memory runs out, and have ``parse(parser, arguments)`` when its arguments depend on a
file. It gets its line in :data:`COMMANDS` here.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn

from vidgen import __version__
from vidgen.errors import UserError, did_you_mean

COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("vidgen.cli.fit", "train what a config describes"),
    "eval": ("vidgen.cli.eval", "measure videos, compare the numbers, make a page of them"),
    "sample": ("vidgen.cli.sample", "make videos with a trained model"),
    "data": ("vidgen.cli.data", "look at a data set, or pack it"),
    "models": ("vidgen.cli.models", "list the models, or describe one"),
    "convert": ("vidgen.cli.convert", "read an official checkpoint"),
    "export": ("vidgen.cli.export", "write a model as safetensors and config"),
}
"""Command -> module and what it does."""

_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "cublas_status_alloc_failed",
)


class Parser(argparse.ArgumentParser):
    """Reports errors as :class:`UserError` and suggests the nearest option."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            raise UserError(f"{message}; see {self.prog} --help")
        word = unknown.split()[0]
        options = [option for action in self._actions for option in action.option_strings]
        near = did_you_mean(word.split("=")[0], options)
        raise UserError(f"unknown argument {word!r}{near or f'; see {self.prog} --help'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``vidgen`` command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        Exit status: 0 when it worked, 2 after an error of the user, 130 after an interrupt.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    module: ModuleType | None = None
    try:
        if not arguments or arguments[0] in ("-h", "--help", "help"):
            print(overview(), file=sys.stdout if arguments else sys.stderr)
            return 0 if arguments else 2
        if arguments[0] in ("-V", "--version"):
            print(f"vidgen {__version__}")
            return 0
        module = _command(arguments[0])
        _let_own_modules_be_named()
        parser = build_parser(arguments[0], module)
        parse = getattr(module, "parse", Parser.parse_intermixed_args)
        args = parse(parser, arguments[1:])
        args.command_line = arguments
        return int(module.run(args) or 0)
    except SystemExit as stop:  # argparse after --help
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        return _report("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has left, as in `vidgen models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = explain(error, getattr(module, "LOWER", None))
        if message is None:
            raise
        return _report(message, 2, every_rank=not isinstance(error, UserError))


def overview() -> str:
    """The text of ``vidgen --help``."""
    lines = [
        "usage: vidgen COMMAND …",
        "",
        "Train, measure, sample and convert video generation models.",
        "",
        "commands:",
    ]
    lines += [f"  {name:<9} {text}" for name, (_, text) in COMMANDS.items()]
    lines += ["", "`vidgen COMMAND --help` says more; `vidgen --version` prints the version.", ""]
    lines += ["example:", "  vidgen fit --config configs/quickstart.yaml"]
    return "\n".join(lines)


def build_parser(name: str, module: ModuleType) -> Parser:
    """The argument parser of one command."""
    example = getattr(module, "EXAMPLE", None)
    parser = Parser(
        prog=f"vidgen {name}",
        description=module.HELP,
        epilog=f"example:\n  {example}" if example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return parser


def explain(error: BaseException, lower: str | None = None) -> str | None:
    """One line for what the user can do something about; None for what looks like a bug.

    Args:
        error: what a command raised.
        lower: what to lower when memory ran out.
    """
    text = " ".join(str(error).split())
    kinds = {cls.__name__ for cls in type(error).__mro__}
    if isinstance(error, UserError):
        return text
    if _is_out_of_memory(error, kinds, text):
        return f"out of memory: lower {lower or 'data.batch_size, data.num_frames or data.resolution'}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk{_file(error)}; what was written before is intact"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission{_file(error)}"
    if "MisconfigurationException" in kinds:
        return f"trainer: {text}"
    return None


def _is_out_of_memory(error: BaseException, kinds: set[str], text: str) -> bool:
    if isinstance(error, MemoryError) or "OutOfMemoryError" in kinds:
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in text.lower() for sign in _OUT_OF_MEMORY)


def _file(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""


def _command(name: str) -> ModuleType:
    if name not in COMMANDS:
        near = did_you_mean(name, COMMANDS)
        raise UserError(f"unknown command {name!r}{near or '; see vidgen --help'}")
    return importlib.import_module(COMMANDS[name][0])


def _let_own_modules_be_named() -> None:
    """Find ``my_model.MyModel`` in the working folder, last of all places, as ``python -m vidgen`` does."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def _report(message: str, status: int, every_rank: bool = False) -> int:
    rank = next((value for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if (value := os.environ.get(name))), "0")
    if rank == "0":
        print(f"vidgen: error: {message}", file=sys.stderr)
    elif every_rank:  # memory may run out on one process alone
        print(f"vidgen: error: process {rank}: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
