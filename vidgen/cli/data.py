"""``vidgen data``: look at a data set, pack it, or encode it."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from vidgen.data.dataset import VideoDataset
    from vidgen.data.encoding import Encoder
    from vidgen.models.base import VideoModel

HELP = (
    "Look at the data set of a config, pack it, or encode it.\n\n"
    "inspect  counts, lengths, sizes, classes, what is skipped and why; a contact sheet and an HTML page\n"
    "pack     decode and resize everything once, for training that reads instead of decoding\n"
    "encode   store what a trained autoencoder makes of all videos, for models that are trained on that\n"
    "merge    join the shards that several runs of pack or encode with --shard i/n have made"
)
EXAMPLE = "vidgen data pack configs/mocogan/weizmann.yaml data.root=PATH/TO/STRIPS --out packs/weizmann --workers 8"
LOWER = "--workers (of encode: --batch-size or --window)"

_SHARD = "make only every n-th shard, from the i-th (counted from 0)"
_EXAMPLES = {
    "inspect": "vidgen data inspect configs/mocogan/weizmann.yaml data.root=PATH/TO/STRIPS --out report",
    "pack": EXAMPLE,
    "encode": "vidgen data encode configs/mocogan/weizmann.yaml data.root=PATH/TO/STRIPS --ckpt vqgan.ckpt --out codes",
    "merge": "vidgen data merge packs/part_0 packs/part_1 --out packs/whole",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="inspect|pack|encode|merge")
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
    pack.add_argument("--shard", default="0/1", metavar="i/n", help=_SHARD)
    pack.add_argument("--shard-mb", type=int, default=256, metavar="MB", help="megabytes of a shard, about (256)")
    _add_encode(commands)
    merge = _add(commands, "merge", "Join the shards that several runs with --shard i/n have made.")
    merge.add_argument("parts", nargs="+", type=Path, metavar="DIR", help="folders that were given as --out")
    merge.add_argument("--out", type=Path, metavar="DIR", help="folder of the whole; the first of them by default")


def _add_encode(commands: Any) -> None:
    encode = _add(
        commands,
        "encode",
        "Encode all videos once with a trained autoencoder. The result is read with data.name=encoded, by models that\n"
        "are trained on tokens or latents. A command that was stopped goes on where it was when it is given again.",
    )
    encode.add_argument("data", metavar="DATA", help="YAML config, or a folder of videos, a pack, a zip or an .npz")
    encode.add_argument("overrides", nargs="*", metavar="key=value", help="set a key, as data.resolution=64")
    encode.add_argument("--stage", metavar="NAME", help="whose data, where the config has several stages (the first)")
    encode.add_argument("--ckpt", required=True, type=Path, metavar="PATH", help="checkpoint, or an exported folder")
    encode.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the result")
    encode.add_argument(
        "--clips",
        type=int,
        metavar="EVERY",
        help="encode clips of the model's training length, each by itself, one from every so many frames; without it "
        "whole videos are encoded, each frame once",
    )
    encode.add_argument(
        "--window",
        type=int,
        metavar="FRAMES",
        help="frames of a video encoded at once, beside those around them that matter (128); it bounds the memory and "
        "does not change the result",
    )
    encode.add_argument("--batch-size", type=int, metavar="N", help="windows encoded at once (about 512 frames)")
    encode.add_argument("--device", metavar="cpu|cuda", help="where the model runs (cuda where there is one)")
    encode.add_argument("--raw-weights", action="store_true", help="take the raw weights, not their moving average")
    encode.add_argument("--model", metavar="PATH", help="class of a model of your own, as package.module.Class")
    encode.add_argument("--shard", metavar="i/n", help=f"{_SHARD}; under torchrun or srun the processes share the work")
    encode.add_argument("--shard-mb", type=int, default=256, metavar="MB", help="megabytes of a shard, about (256)")


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
    return {"inspect": _inspect, "pack": _pack, "encode": _encode, "merge": _merge}[args.action](args)


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


def _encode(args: argparse.Namespace) -> int:
    from vidgen.cli.trained import class_of_trained, describe_trained
    from vidgen.data.encoding import encode
    from vidgen.errors import UserError
    from vidgen.sampling import process_share

    part = process_share() if args.shard is None else _part(args.shard)
    for name in ("clips", "window", "batch_size", "shard_mb"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')}: expected at least 1, got {value}")
    about, weights = describe_trained(args.ckpt, args.raw_weights)
    cls = class_of_trained(about, args.model, args.ckpt)
    model, encoder = _encoder(args, cls if args.model else None, weights)
    dataset, settings = _videos_for(args, model, about)
    _check_apart(args.out, settings)
    report = encode(
        dataset,
        settings,
        args.out,
        encoder,
        window=args.window,
        every=args.clips,
        batch_size=args.batch_size,
        part=part,
        shard_bytes=args.shard_mb * 2**20,
    )
    print(report)
    return 0


def _encoder(
    args: argparse.Namespace, own: type[VideoModel] | None, weights: Literal["ema", "raw"]
) -> tuple[VideoModel, Encoder]:
    """The model of a checkpoint, and the same as data see it.

    Raises:
        UserError: it encodes nothing.
    """
    import torch

    from vidgen.checkpoint import load
    from vidgen.cli.device import choose_device
    from vidgen.data.encoding import Encoder, Encoding
    from vidgen.errors import UserError
    from vidgen.registry import MODELS
    from vidgen.sampling import file_fingerprint

    model: Any = load(args.ckpt, ema=not args.raw_weights, device=choose_device(args.device), model=own)
    name = MODELS.name_of(type(model))
    encoding = getattr(model, "encoding", None)
    if not isinstance(encoding, Encoding):
        raise UserError(f"--ckpt {args.ckpt}: {name} does not encode videos; give the checkpoint of an autoencoder")

    def encode(video: torch.Tensor) -> torch.Tensor:
        # an algorithm that is chosen anew in every run would round otherwise when a stopped command goes on
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
            codes: torch.Tensor = model.encode(video.to(model.device)).cpu()
        return codes

    frames = int(model.init_args["num_frames"])
    return model, Encoder(encode, encoding, name, file_fingerprint(args.ckpt), weights, frames)


def _videos_for(
    args: argparse.Namespace, model: VideoModel, about: dict[str, Any]
) -> tuple[VideoDataset, dict[str, Any]]:
    """The videos that a user means, in the size that a model encodes, and how their data set is configured.

    Raises:
        UserError: there are none, or they are of another size.
    """
    from vidgen.config.compose import parse_override
    from vidgen.errors import UserError
    from vidgen.evaluation.contexts import frames_for
    from vidgen.evaluation.opening import layout_of, merged, open_videos, unpacked
    from vidgen.registry import DATASETS, MODELS

    needed = frames_for(model, about)
    if Path(args.data).suffix.lower() in (".yaml", ".yml"):
        dataset, settings, _ = _dataset(argparse.Namespace(**{**vars(args), "config": Path(args.data)}))
    else:
        if args.stage is not None:
            raise UserError(f"--stage: belongs to a config, and {args.data} is none")
        overrides = [text.removeprefix("data.") for text in args.overrides]
        given = dict(map(parse_override, overrides))
        name = given.get("name") or layout_of(unpacked(Path(args.data).expanduser()), "data")
        wanted = {**needed, **({} if name == "packed" else {"labels": {"by": "folder"}})}
        dataset, native = open_videos(args.data, "data", overrides=overrides, needed=wanted)
        if native:
            raise UserError(f"data: give resolution=N, the size in which {MODELS.name_of(type(model))} encodes videos")
        root = getattr(dataset, "root", args.data)
        settings = {"root": root, "num_frames": 1, **merged(wanted, given), "name": DATASETS.name_of(type(dataset))}
    spec = dataset.spec
    found = {"channels": spec.channels, "resolution": spec.resolution, "width": spec.width or spec.resolution}
    for key, value in {**needed, "width": needed.get("width") or needed.get("resolution")}.items():
        if value is not None and found[key] != value:
            name = MODELS.name_of(type(model))
            raise UserError(f"data.{key}: is {found[key]}, but {name} in {args.ckpt} encodes {value}; make them equal")
    return dataset, settings


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
