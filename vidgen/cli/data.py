"""``vidgen data``: look at a data set, or pack it."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidgen.data.dataset import VideoDataset

HELP = (
    "Look at the data set of a config, or pack it.\n\n"
    "inspect  counts, lengths, sizes, classes, what is skipped and why; a contact sheet and an HTML page\n"
    "pack     decode and resize everything once, for training that reads instead of decoding\n"
    "merge    join the shards that several `vidgen data pack --shard i/n` have made"
)
EXAMPLE = "vidgen data pack configs/mocogan/weizmann.yaml data.root=PATH/TO/STRIPS --out packs/weizmann --workers 8"
LOWER = "--workers"

_EXAMPLES = {
    "inspect": "vidgen data inspect configs/mocogan/weizmann.yaml data.root=PATH/TO/STRIPS --out report",
    "pack": EXAMPLE,
    "merge": "vidgen data merge packs/part_0 packs/part_1 --out packs/whole",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="inspect|pack|merge")
    inspect = _add(commands, "inspect", "Look at the data set of a config.")
    _add_config(inspect)
    inspect.add_argument("--out", type=Path, metavar="DIR", help="folder of the report (data_report)")
    inspect.add_argument("--clips", type=int, default=48, metavar="N", help="clips on the contact sheet (48)")
    pack = _add(
        commands,
        "pack",
        "Decode and resize all videos of a config's data set once. A pack is read with data.name=packed and gives the\n"
        "same clips. A command that was stopped goes on where it was when it is given again.",
    )
    _add_config(pack)
    pack.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the pack")
    pack.add_argument("--workers", type=int, default=_processors(), metavar="N", help="processes (one per processor)")
    pack.add_argument(
        "--shard", default="0/1", metavar="i/n", help="make only every n-th shard, from the i-th (counted from 0)"
    )
    pack.add_argument("--shard-mb", type=int, default=256, metavar="MB", help="megabytes of a shard, about (256)")
    merge = _add(commands, "merge", "Join the shards that several `vidgen data pack --shard i/n` have made.")
    merge.add_argument("parts", nargs="+", type=Path, metavar="DIR", help="folders that were given to pack as --out")
    merge.add_argument("--out", type=Path, metavar="DIR", help="folder of the whole; the first of them by default")


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text.split(".")[0],
        description=text,
        epilog=f"example:\n  {_EXAMPLES[name]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(parser=parser)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML config; only its data and seed are used")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="set a key of the config")
    parser.add_argument("--stage", metavar="NAME", help="whose data, where the config has several stages (the first)")


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse; overrides and folders may stand before and after options."""
    from vidgen.errors import UserError, did_you_mean

    word = arguments[0] if arguments else ""
    if not word.startswith("-") and word not in _EXAMPLES:
        known, got = ", ".join(_EXAMPLES), repr(word) if word else "nothing"
        raise UserError(f"vidgen data: expected one of {known}, got {got}{did_you_mean(word, _EXAMPLES)}")
    args, rest = parser.parse_known_args(arguments)
    options = [word for word in rest if word.startswith("-")]
    if options:
        args.parser.error(f"unrecognized arguments: {' '.join(options)}")
    if args.action == "merge":
        args.parts = [*args.parts, *map(Path, rest)]
    else:
        args.overrides = [*args.overrides, *rest]
    return args


def run(args: argparse.Namespace) -> int:
    """Do what was asked and say where the result lies."""
    return {"inspect": _inspect, "pack": _pack, "merge": _merge}[args.action](args)


def _inspect(args: argparse.Namespace) -> int:
    from vidgen.data.inspection import inspect
    from vidgen.data.module import VideoDataModule
    from vidgen.errors import UserError

    if args.clips < 1:
        raise UserError(f"--clips: expected at least 1, got {args.clips}")
    dataset, settings, seed = _dataset(args)
    out = args.out or Path("data_report")
    _check_apart(out, settings)
    print(inspect(VideoDataModule(dataset, batch_size=1, seed=seed), out, args.clips))
    return 0


def _check_apart(out: Path, settings: dict[str, Any]) -> None:
    """Refuse to write pictures where they would be taken for data the next time."""
    from vidgen.errors import UserError

    root = settings.get("root")
    if isinstance(root, str) and out.resolve().is_relative_to(Path(root).resolve()):
        raise UserError(f"--out: {out} lies in the data's folder {root}; choose a folder outside")


def _pack(args: argparse.Namespace) -> int:
    from vidgen.data.packing import pack
    from vidgen.errors import UserError

    part = _part(args.shard)
    for name, value in (("--workers", args.workers), ("--shard-mb", args.shard_mb)):
        if value < 1:
            raise UserError(f"{name}: expected at least 1, got {value}")
    dataset, settings, _ = _dataset(args)
    _check_apart(args.out, settings)
    report = pack(dataset, settings, args.out, workers=args.workers, part=part, shard_bytes=args.shard_mb * 2**20)
    print(report)
    return 0


def _merge(args: argparse.Namespace) -> int:
    from vidgen.data.packing import merge

    print(merge(args.parts, args.out or args.parts[0]))
    return 0


def _part(text: str) -> tuple[int, int]:
    from vidgen.errors import UserError

    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not int(match[1]) < int(match[2]):
        raise UserError(f"--shard: expected i/n with i from 0 to n - 1, for example 0/8, got {text!r}")
    return int(match[1]), int(match[2])


def _dataset(args: argparse.Namespace) -> tuple[VideoDataset, dict[str, Any], int]:
    """The data set of a config, all arguments that it is built with, those left out included, and the run's seed."""
    from vidgen.config import build_dataset, check_data, compose
    from vidgen.config.signature import parameters_of
    from vidgen.registry import DATASETS

    data, seed = check_data(compose(args.config, args.overrides), args.stage)
    parameters = parameters_of(DATASETS.get(data["name"]))
    defaults = {key: item.default for key, item in parameters.items() if not item.required}
    given = {key: value for key, value in data.items() if key in parameters}
    return build_dataset(data), {"name": data["name"], **defaults, **given}, seed
