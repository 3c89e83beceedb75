"""``vidgen export``: write a model as safetensors and config."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

HELP = (
    "Write the weights of a checkpoint as model.safetensors (the moving average where there is one), and the model's\n"
    "name, arguments, data and origin as config.yaml. `vidgen.load` and `vidgen sample --ckpt` read the folder."
)
EXAMPLE = "vidgen export --ckpt runs/weizmann/checkpoints/iteration_00003000.ckpt --out weizmann-mocogan"
LOWER = "the number of other programs running"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--ckpt", required=True, type=Path, metavar="PATH", help="checkpoint")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write, absent or empty")
    parser.add_argument("--raw-weights", action="store_true", help="take the raw weights, not their moving average")


def run(args: argparse.Namespace) -> int:
    """Export, and say what lies where."""
    from vidgen.export import CONFIG, WEIGHTS, export_checkpoint

    folder = export_checkpoint(args.ckpt, args.out, raw_weights=args.raw_weights)
    print(f"exported {args.ckpt} to {folder}{os.sep}")
    for name in (WEIGHTS, CONFIG):
        print(f"  {folder / name}")
    return 0
