"""``vidgen fit``: train what a config describes."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vidgen.training.fit import FitResult

HELP = "Train what a config describes. Everything that a run leaves lies in one folder, runs/<config name> by default."
EXAMPLE = "vidgen fit --config configs/quickstart.yaml trainer.max_steps=500 data.batch_size=16 --out runs/short"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="YAML config")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="set a key of the config, for example model.dim_content=32; the value is read as YAML",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder")
    parser.add_argument(
        "--resume",
        metavar="auto|PATH",
        help="continue the newest run of this config (or the run in --out), or continue from a checkpoint",
    )
    parser.add_argument(
        "--init-from", type=Path, metavar="PATH", help="start from the weights of a checkpoint, with a new optimiser"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything, show shapes, parameters, memory and one batch, then stop; nothing is written",
    )


def run(args: argparse.Namespace) -> int:
    """Compose and check the config, then train or show what would be trained."""
    from vidgen.config import bind, check, compose, resolve_run_dir, save_run
    from vidgen.config.save import drop_unstarted
    from vidgen.errors import UserError

    if args.resume and args.init_from:
        raise UserError("--init-from: starts a new run and --resume continues one; give one of them")
    if args.init_from and not args.init_from.is_file():
        raise UserError(f"--init-from: no such file: {args.init_from}")
    config = compose(args.config, args.overrides)
    stages = check(config)
    if args.dry_run:
        from vidgen.training.dry_run import dry_run

        print(dry_run(stages))
        return 0
    out = resolve_run_dir(args.config, args.out, args.resume)
    save_run(out, config, args.command_line)
    from vidgen.training.fit import fit

    try:
        result = fit(bind(stages, out), out, args.resume, args.init_from)
    except Exception:
        if not args.resume:
            drop_unstarted(out)
        raise
    return _report(result, out)


def _report(result: FitResult, out: Path) -> int:
    from vidgen.config.save import process_rank

    stopped = result.stopped_by is not None
    if process_rank() == 0:
        if stopped:
            print(f"stopped at iteration {result.iteration}; continue with --resume auto --out {out}")
        else:
            print(f"trained {result.iteration} iterations; the run lies in {out}{os.sep}")
        for label, path in {"config": out / "config.yaml", "checkpoint": result.checkpoint, **result.artefacts}.items():
            if path is not None:
                print(f"  {label + ':':<16} {path}")
    return 128 + int(result.stopped_by or 0) if stopped else 0
