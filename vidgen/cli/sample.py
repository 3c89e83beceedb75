"""``vidgen sample``: make videos with a trained model."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidgen.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from vidgen.models.base import VideoModel

HELP = (
    "Make videos with a trained model, and a grid of the first 64 (64 frames of each). The n-th video depends on\n"
    "the checkpoint, the seed, n and the options only: a stopped command goes on where it was when it is given again,\n"
    "and under torchrun or srun the processes share the work. Every keyword of the model's `sample` is an option too;\n"
    "with --ckpt, --help lists them. On two GPUs: torchrun --nproc-per-node 2 -m -- vidgen sample --ckpt …"
)
EXAMPLE = "vidgen sample --ckpt runs/weizmann/checkpoints/iteration_00003000.ckpt --class 2 --format gif --out samples"
NUM = 64  # videos, where neither --num nor --context says how many
LOWER = "--batch-size, --chunk-frames or --num-frames"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument("--ckpt", required=True, type=Path, metavar="PATH", help="checkpoint, or an exported folder")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the videos")
    parser.add_argument("--num", type=int, metavar="N", help="how many videos (64, or one for each context)")
    parser.add_argument("--num-frames", type=int, metavar="T", help="frames of a video (as in training)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed, other videos (0)")
    parser.add_argument(
        "--format",
        default="mp4",
        metavar="mp4|gif|png|strip|npz",
        help="mp4 (the default); gif; png: a folder of frames; strip: one picture, frames side by side; "
        "npz: uint8 array `video` (T, H, W, C)",
    )
    parser.add_argument("--fps", type=float, default=8.0, metavar="F", help="frames per second (8)")
    parser.add_argument("--class", dest="class_name", metavar="NAME|N", help="class of all videos, by name or by index")
    parser.add_argument(
        "--context",
        metavar="PLACE",
        help="what videos are made from, video n from the n-th: videos to continue or to reconstruct, with the texts "
        "or sounds that belong to them (a folder, pack, zip or config), or a .txt of captions, one in each line",
    )
    parser.add_argument(
        "--bpe", type=Path, metavar="FILE", help="merges of CLIP's byte pair encoding, for a .txt of captions"
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="beside the video of each context show in side_by_side/ the truth, the best of N samples, and these (5; 1 "
        "of a model with one answer; 0: nothing); a border is blue around frames of the given video, orange around "
        "predicted ones",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=16,
        metavar="N",
        help="videos made at once (16); models that make theirs in groups make whole ones",
    )
    parser.add_argument(
        "--chunk-frames",
        type=int,
        default=64,
        metavar="N",
        help="frames of a longer video made and written at a time (64), where the model can go on with a video: memory "
        "does not grow with --num-frames then (but --format strip keeps all frames until the last)",
    )
    parser.add_argument("--device", metavar="cpu|cuda", help="where the model runs (cuda where there is one)")
    parser.add_argument("--raw-weights", action="store_true", help="take the raw weights, not their moving average")
    parser.add_argument(
        "--rounding", default="round", choices=("round", "truncate"), help="how floats become bytes (round)"
    )
    parser.add_argument("--model", metavar="PATH", help="class of a model of your own, as package.module.Class")


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse what is known; the rest is for the model's ``sample`` and lands in ``keywords``."""
    if {"-h", "--help"} & set(arguments):
        peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        peek.add_argument("--ckpt", type=Path)
        peek.add_argument("--model")
        known, _ = peek.parse_known_args(arguments)
        if known.ckpt is not None:
            parser.epilog = _keyword_help(known.ckpt, known.model) + (parser.epilog or "")
    args, words = parser.parse_known_args(arguments)
    args.keywords = words
    args.options = [option for action in parser._actions for option in action.option_strings]
    return args


def run(args: argparse.Namespace) -> int:
    """Load the model, make the videos, and say where they lie."""
    from vidgen.checkpoint import load
    from vidgen.cli.device import choose_device
    from vidgen.cli.keywords import parse_keywords
    from vidgen.cli.trained import class_of_trained, describe_trained
    from vidgen.evaluation.contexts import open_contexts
    from vidgen.sampling import SIDE_BY_SIDE, file_fingerprint, sample_to_folder, samples_of

    about, weights = describe_trained(args.ckpt, args.raw_weights)
    cls = class_of_trained(about, args.model, args.ckpt)
    keywords = parse_keywords(cls, args.keywords, args.options)
    if args.class_name is not None:
        if "label" in keywords:
            raise UserError("--class and --label: say the same thing; give one of them")
        keywords["label"] = class_index(args.class_name, cls, about)
    own = cls if args.model else None
    model = load(args.ckpt, ema=not args.raw_weights, device=choose_device(args.device), model=own)
    if args.class_name is not None and model.task == "unconditional":
        raise UserError(f"--class {args.class_name}: the model has no classes")
    if args.bpe is not None and not (args.context or "").lower().endswith(".txt"):
        raise UserError("--bpe: encodes captions; give them with --context FILE.txt")
    context = open_contexts(args.context, model, about, keywords, args.bpe) if args.context else None
    report = sample_to_folder(
        model,
        args.out,
        num=args.num if args.num is not None else NUM if context is None else len(context),
        num_frames=args.num_frames,
        seed=args.seed,
        batch_size=args.batch_size,
        chunk_frames=args.chunk_frames,
        format=args.format,
        fps=args.fps,
        rounding=args.rounding,
        keywords=keywords,
        context=context,
        samples=samples_of(model, keywords) if args.samples is None else args.samples,
        checkpoint_fingerprint=file_fingerprint(args.ckpt),
        weights=weights,
    )
    print(f"wrote {report.written} videos to {args.out}{os.sep}; {report.skipped} were there already")
    for path in report.grids:
        print(f"  grid: {path}")
    if report.compared:
        print(f"  side by side: {args.out / SIDE_BY_SIDE}{os.sep}")
    if report.without_truth:
        short = f"{report.without_truth} of {report.compared}"
        print(f"  {short} contexts end before the videos made from them: shown without the truth and the best sample")
    return 0


def class_index(name: str, cls: type[VideoModel], about: dict[str, Any]) -> int:
    """The label that a class name, or an index, stands for; a name goes before an index.

    Args:
        name: what the user gave.
        cls: the model's class.
        about: what the checkpoint says about itself.

    Raises:
        UserError: no such class, no names to look it up in, or a model without classes.
    """
    from vidgen.cli.keywords import sample_keywords

    if "label" not in sample_keywords(cls):
        raise UserError(f"--class {name}: the model has no classes")
    names = list((about.get("data_spec") or {}).get("class_names") or [])
    if name in names:
        return names.index(name)
    if name.isdecimal() and (not names or int(name) < len(names)):
        return int(name)
    if not names:
        raise UserError(f"--class {name}: the checkpoint does not name its classes; give an index, from 0")
    raise UserError(f"--class {name}: unknown class{did_you_mean(name, names)} (classes: {', '.join(names)})")


def _keyword_help(path: Path, own: str | None) -> str:
    from vidgen.cli.keywords import describe_keywords
    from vidgen.cli.trained import class_of_trained, describe_trained

    about, _ = describe_trained(path, raw_weights=False)
    return f"keywords of {about['model']}:\n{describe_keywords(class_of_trained(about, own, path))}\n\n"
