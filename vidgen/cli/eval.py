"""``vidgen eval``: numbers that say how they came about."""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidgen.errors import UserError

if TYPE_CHECKING:
    from vidgen.evaluation.request import Trained

HELP = (
    "Measure generated videos: those of a checkpoint, made on the fly, or those in a folder, pack, zip or .npz, by\n"
    "anybody's model. Prints a table; --out writes a JSON with everything that the numbers depend on, and scores of\n"
    "single frames (psnr, ssim, lpips, best_of_n) as CSV and PNG. A stopped command goes on where it was when it is\n"
    "given again; features of the same real videos are computed once.\n"
    "On two GPUs: torchrun --nproc-per-node 2 -m -- vidgen eval …\n\n"
    "compare  vidgen eval compare a.json b.json: the numbers side by side, and which of them may be compared\n"
    "report   vidgen eval report a.json b.json --out report.html: a page with tables, curves and videos"
)
EXAMPLE = "vidgen eval --real data/test --fake samples --metric fvd,kvd --out result.json"
LOWER = "--batch-size or --num-frames"

_ACTIONS = ("compare", "report")
_ROLE = re.compile(r":\w+:`~?(?:[\w.]+\.)?(\w+)`")
"""A reference in a docstring, which a terminal cannot follow."""
_LEAST = {
    "num_videos": 1,
    "num_real": 1,
    "num_frames": 1,
    "stride": 1,
    "resolution": 1,
    "clips_per_video": 1,
    "batch_size": 1,
    "workers": 0,
    "samples": 0,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME,…",
        help="what to measure: fvd, kvd, fid, …; all with --list; may be given several times",
    )
    parser.add_argument("--list", action="store_true", help="list the metrics with their settings")
    parser.add_argument(
        "--ckpt", type=Path, metavar="PATH", help="checkpoint, or exported folder, that makes the videos"
    )
    parser.add_argument("--fake", metavar="PLACE", help="generated videos: folder, pack, zip, .npz or config")
    parser.add_argument(
        "--real", metavar="PLACE", help="real videos, likewise (those that the checkpoint was trained on)"
    )
    parser.add_argument("--protocol", metavar="NAME", help="published protocol, for the metrics that have several")
    parser.add_argument(
        "--weights",
        action="append",
        default=[],
        metavar="FILE",
        help="weights of the network, or METRIC=FILE; random: closed-form ones, whose numbers compare with nothing",
    )
    parser.add_argument("--num-videos", type=int, metavar="N", help="videos of each side (all, at most 2048)")
    parser.add_argument("--num-real", type=int, metavar="N", help="real videos (as many as generated ones)")
    parser.add_argument("--num-frames", type=int, metavar="T", help="frames of a clip (the protocol's)")
    parser.add_argument("--stride", type=int, metavar="S", help="source frames between clip frames (the protocol's)")
    parser.add_argument(
        "--resolution", type=int, metavar="PX", help="bring stored frames to PX x PX (left as they are)"
    )
    parser.add_argument("--start", choices=("random", "first"), default="random", help="start of real clips (random)")
    parser.add_argument(
        "--fake-start", choices=("random", "first"), default="first", help="start of clips of stored fakes (first)"
    )
    parser.add_argument("--clips-per-video", type=int, default=1, metavar="K", help="clips of each stored video (1)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="other real clips (0)")
    parser.add_argument("--sample-seed", type=int, default=0, metavar="N", help="other generated videos (0)")
    parser.add_argument("--raw-weights", action="store_true", help="take the raw weights, not their moving average")
    parser.add_argument("--rounding", default="round", choices=("round", "truncate"), help="how floats become bytes")
    parser.add_argument("--model", metavar="PATH", help="class of a model of your own, as package.module.Class")
    parser.add_argument("--precision", metavar="float32|bfloat16", help="of the network (float32)")
    parser.add_argument("--compile", action="store_true", help="compile the network; worth it for many videos")
    parser.add_argument("--device", metavar="cpu|cuda", help="where networks run (cuda where there is one)")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="clips looked at at once (8)")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that decode (0: a thread)")
    parser.add_argument("--no-cache", action="store_true", help="neither keep features nor use those that are kept")
    parser.add_argument("--samples", type=int, default=8, metavar="N", help="videos of each side beside the JSON (8)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PLACE",
        help="write the result as FILE.json, or as result.json into a folder; samples and curves beside it",
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="METRIC.KEY, real.KEY, fake.KEY or sample.KEY")


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse; ``compare`` and ``report`` take files instead of settings."""
    args = parser.parse_intermixed_args(arguments)
    args.action = args.words[0] if args.words and args.words[0] in _ACTIONS else "measure"
    if args.action != "measure":
        args.words = args.words[1:]
    return args


def run(args: argparse.Namespace) -> int:
    """Do what was asked and print what was found."""
    if args.list:
        print(_list_metrics())
        return 0
    return {"measure": _measure, "compare": _compare, "report": _report}[args.action](args)


def _measure(args: argparse.Namespace) -> int:
    _check(args)
    out = args.out and _result_file(args.out)
    from vidgen.cli.device import choose_device
    from vidgen.distributed import process_group
    from vidgen.evaluation.request import Request, run
    from vidgen.evaluation.run import Settings

    names = _names(args.metric)
    for single in _weights(args.weights)[1]:
        if (name := single.partition(".weights=")[0]) not in names:
            raise UserError(f"--weights {name}=…: {name} is none of the metrics ({', '.join(names)})")
    sampling = [word.removeprefix("sample.") for word in args.words if word.startswith("sample.")]
    device = choose_device(args.device)
    with ended_by_sigterm(), process_group() as rank:
        request = Request(
            metrics=names,
            common=_common(args),
            real=args.real,
            fake=args.fake,
            trained=_trained(args, sampling, device),
            num_videos=args.num_videos,
            num_real=args.num_real,
            resolution=args.resolution,
            overrides=[*_weights(args.weights)[1], *(w for w in args.words if not w.startswith("sample."))],
            settings=Settings(
                seed=args.seed,
                start=args.start,
                fake_start=args.fake_start,
                clips_per_video=args.clips_per_video,
                device=device,
                batch_size=args.batch_size,
                workers=args.workers,
                keep_real=not args.no_cache,
                keep_fake=not args.no_cache,
                num_samples=args.samples if args.out else 0,
            ),
            command=shlex.join(["vidgen", *args.command_line]),
        )
        found = run(request)
        if rank == 0:
            print(found.table())
            for path in found.save(out) if out else []:
                print(f"wrote {path}")
    return 0


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as an exception does, so that unfinished files are removed."""

    def stop(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # others cannot listen to signals
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _result_file(out: Path) -> Path:
    """The file that --out means: itself, or one in the folder that it names, be it there or not."""
    return out if out.suffix == ".json" or out.is_file() else out / "result.json"


def _check_out(path: Path) -> None:
    """Refuse a place where the result could not be written, before the work."""
    if path.is_dir():
        raise UserError(f"--out: {path} is a folder; give the name of a file, as in {path / 'result.json'}")
    folder = next(above for above in path.absolute().parents if above.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"--out: {path} cannot be written ({error.strerror}: {folder}); choose another place") from None


def _check(args: argparse.Namespace) -> None:
    if not args.metric:
        raise UserError("--metric: missing; say what to measure, as in --metric fvd (vidgen eval --list lists them)")
    if args.ckpt and args.fake:
        raise UserError("--ckpt and --fake: both name generated videos; give one of them")
    if not args.ckpt and not args.fake:
        raise UserError("no generated videos: give --ckpt with a checkpoint or --fake with a folder of videos")
    for name, least in _LEAST.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')}: expected at least {least}, got {value}")
    if args.out:
        _check_out(_result_file(args.out))
    if args.fake:
        for name, words in (("--raw-weights", args.raw_weights), ("--model", args.model)):
            if words:
                raise UserError(f"{name}: belongs to --ckpt")


def _names(given: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.strip() for text in given for name in text.split(",") if name.strip()))


def _common(args: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(args, name) for name in ("protocol", "num_frames", "stride", "precision")}
    given |= {"compile": True if args.compile else None, "weights": _weights(args.weights)[0]}
    return {name: value for name, value in given.items() if value is not None}


def _weights(given: Sequence[str]) -> tuple[str | None, list[str]]:
    """Weights for all metrics, and those for single ones as overrides."""
    common: str | None = None
    single = []
    for text in given:
        name, equals, path = text.partition("=")
        if equals and "/" not in name:
            single.append(f"{name}.weights={path}")
        elif common is not None:
            raise UserError(f"--weights: {common} and {text} both; say METRIC=FILE for each")
        else:
            common = text
    return common, single


def _trained(args: argparse.Namespace, sampling: Sequence[str], device: str) -> Trained | None:
    from vidgen.evaluation.request import Trained

    if args.ckpt is None:
        if sampling:
            raise UserError(f"sample.{sampling[0]}: belongs to --ckpt")
        return None
    from vidgen.checkpoint import load
    from vidgen.cli.keywords import parse_keywords
    from vidgen.cli.trained import class_of_trained, describe_trained
    from vidgen.registry import MODELS
    from vidgen.sampling import file_fingerprint

    about, weights = describe_trained(args.ckpt, args.raw_weights)
    cls = class_of_trained(about, args.model, args.ckpt)
    return Trained(
        load(args.ckpt, ema=not args.raw_weights, device=device, model=MODELS.get(args.model) if args.model else None),
        str(args.ckpt),
        about,
        file_fingerprint(args.ckpt),
        weights,
        parse_keywords(cls, [f"--{text}" for text in sampling]),
        args.sample_seed,
        args.rounding,
    )


def _compare(args: argparse.Namespace) -> int:
    from vidgen.evaluation.compare import compare

    print(compare([Path(word) for word in args.words]))
    return 0


def _report(args: argparse.Namespace) -> int:
    from vidgen.evaluation.report import write_report

    if not args.words:
        raise UserError("vidgen eval report: give results, as in vidgen eval report a.json b.json --out report.html")
    path = write_report([Path(word) for word in args.words], args.out or Path("report.html"))
    print(f"wrote {path}")
    return 0


def _list_metrics() -> str:
    from vidgen.config.signature import parameters_of, type_name
    from vidgen.registry import METRICS

    lines = []
    for name in METRICS.names():
        cls = METRICS.get(name)
        lines.append(f"{name}: {(cls.__doc__ or '').strip().splitlines()[0]}")
        for parameter in parameters_of(cls).values():
            default = parameter.default if parameter.default != "" else "''"
            setting = f"{name}.{parameter.name} ({type_name(parameter.hint)}, {default})"
            lines.append(f"    {setting}: {parameter.meaning}")
    return _ROLE.sub(r"\1", "\n".join(lines))
