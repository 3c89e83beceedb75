"""``vidgen convert``: read an official checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "Turn a checkpoint of a paper's official code into a vidgen checkpoint. Nothing in the file is executed."
EXAMPLE = "vidgen convert --model mocogan --from generator_100000.pytorch --out mocogan.ckpt"
LOWER = "the number of other programs running"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--model", required=True, metavar="NAME", help="which paper's official code wrote the file")
    parser.add_argument("--from", required=True, type=Path, dest="source", metavar="FILE", help="the official file")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="the checkpoint to write, x.ckpt")
    parser.add_argument(
        "options",
        nargs="*",
        metavar="key=value",
        help="what the file does not say about itself, for example num_frames=16",
    )


def run(args: argparse.Namespace) -> int:
    """Check the arguments, convert, and say where the result lies."""
    from vidgen.config.compose import parse_override
    from vidgen.errors import UserError, did_you_mean
    from vidgen.registry import MODELS

    options = dict(parse_override(text) for text in args.options)
    if args.model not in MODELS.names():
        raise UserError(f"--model: unknown model {args.model!r}{did_you_mean(args.model, MODELS.names())}")
    if not args.source.exists():
        raise UserError(f"--from: no such file: {args.source}")
    if args.out.is_dir():
        raise UserError(f"--out: a folder, not a file: {args.out}")
    from vidgen.interop import convert

    convert(args.model, args.source, args.out, options)
    print(f"wrote {args.out}")
    return 0
