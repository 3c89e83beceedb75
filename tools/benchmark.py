"""Measure how fast models train, alone or beside their originals, clips are read, videos measured, weights clipped and
tokens sampled.

    python tools/benchmark.py train --model mocogan
    python tools/benchmark.py train --model mocogan --set dim_category=6 --threads 1 --reference ~/mocogan
    python tools/benchmark.py data --threads 1
    python tools/benchmark.py eval --threads 2 --reference ~/pytorch-i3d
    python tools/benchmark.py svc --threads 2
    python tools/benchmark.py tokens --threads 1 --reference ~/TATS

The model trains in Lightning's own loop, at its paper's sizes unless ``--set`` says otherwise. Printed are iterations
per second (from the median time of an iteration, after a warm-up), the peak memory, and which share of an iteration
went to fetching data, to forward and backward of each update, and to each optimiser. With ``--reference`` the
original's iteration runs in turn with the model's, see ``tools/pairing.py``.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import clipping
import evaluating
import pytorch_lightning as pl
import reading
import tokens
import torch
import yaml
from pairing import Comparison, Reference, Turns, describe_pairs
from torch.utils.data import DataLoader, IterableDataset

import vidgen
from vidgen.config.signature import Mismatch, convert, parameters_of, type_name
from vidgen.data.module import VideoDataModule
from vidgen.data.packing import pack
from vidgen.errors import UserError, did_you_mean
from vidgen.models.base import AdversarialModel, Batch, LikelihoodModel, VideoModel
from vidgen.registry import DATASETS, MODELS
from vidgen.training.lightning import quiet_lightning, take_over_manual_arguments

TOOLS = Path(__file__).parent
SHARE_ITERATIONS = 4  # of every so many timed iterations one more is spent on the shares
BATCHES_IN_MEMORY = 4


# --------------------------------------------------------------------------------------------------------------------
# What is measured
# --------------------------------------------------------------------------------------------------------------------


def build_model(name: str, settings: Sequence[str]) -> VideoModel:
    """A registered model, or one by its dotted path, with the given constructor arguments.

    Args:
        name: registry name or dotted path.
        settings: ``key=value`` each, the value in YAML.

    Raises:
        UserError: there is no such model or argument, or the value is of another type.
    """
    cls = MODELS.get(name)
    parameters = parameters_of(cls)
    arguments = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected key=value")
        if key not in parameters:
            raise UserError(f"--set {key}: {name} has no such argument{did_you_mean(key, parameters)}")
        try:
            arguments[key] = convert(completed(yaml.safe_load(text)), parameters[key].hint)
        except (Mismatch, yaml.YAMLError):
            raise UserError(f"--set {key}: expected {type_name(parameters[key].hint)}, got {text!r}") from None
    return cls(**arguments)


def completed(value: Any) -> Any:
    """The description of an earlier stage, ``{model: NAME, model_args: {...}}``, with all arguments that it has.

    Raises:
        UserError: there is no such model, or it has no such argument.
    """
    if not isinstance(value, dict) or not {"model", "model_args"} <= value.keys():
        return value
    given, parameters = value["model_args"], parameters_of(MODELS.get(value["model"]))
    for key in given:
        if key not in parameters:
            raise UserError(f"--set {key}: {value['model']} has no such argument{did_you_mean(key, parameters)}")
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    return {**value, "model_args": {**defaults, **given}}


class BatchesInMemory(IterableDataset):
    """Endless random batches of the model's own making, a few of them over and over.

    Args:
        model: says which keys, shapes and ranges it reads.
        batch_size: videos of a batch.
        images: separate frames of a batch, where the model reads any.
        per_element: batches of one iteration; 0 for a plain batch.
    """

    def __init__(self, model: VideoModel, batch_size: int, images: int, per_element: int) -> None:
        self.per_element = per_element
        self.batches: list[Batch] = []
        for number in range(BATCHES_IN_MEMORY):
            batch = model.example_batch(batch_size, seed=number)
            if "images" in batch:
                batch["images"] = model.example_batch(images, seed=number)["images"]
            self.batches.append({key: value.cpu() for key, value in batch.items()})

    def __iter__(self) -> Iterator[Any]:
        number = 0
        while True:
            element = [self.batches[(number + i) % BATCHES_IN_MEMORY] for i in range(max(1, self.per_element))]
            yield element if self.per_element else element[0]
            number += len(element)


def data_source(model: VideoModel, name: str, batch_size: int, images: int, per_element: int) -> Any:
    """What feeds the training loop: ``random`` batches in memory, or a data set that needs no files.

    Raises:
        UserError: the data cannot serve the model.
    """
    if name == "random":
        return DataLoader(BatchesInMemory(model, batch_size, images, per_element), batch_size=None)
    dataset = DATASETS.get(name)(resolution=model.init_args["resolution"], num_frames=model.init_args["num_frames"])
    model.check_data(dataset.spec)
    images = images if "images" in model.train_keys else 0
    return VideoDataModule(dataset, batch_size=batch_size, images_per_batch=images, batches_per_iteration=per_element)


# --------------------------------------------------------------------------------------------------------------------
# How it is measured
# --------------------------------------------------------------------------------------------------------------------


def clock_of(device: torch.device) -> Callable[[], float]:
    """Seconds, read when the device has done what it was asked to."""
    if device.type != "cuda":
        return time.perf_counter

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def filled(number: int, period: int) -> int:
    """The least multiple of ``period`` that is not below ``number``."""
    return -(-number // period) * period


class Stopwatch(pl.Callback):
    """Times whole iterations, each from the end of the one before, and then the parts of a few more.

    Args:
        warm_up: iterations that are not timed.
        timed: iterations whose time counts; as many more as fill the last period.
        clock: seconds, with all work done that was asked for before.
        period: iterations after which the model's schedule repeats; only whole periods are timed.
    """

    def __init__(self, warm_up: int, timed: int, clock: Callable[[], float], period: int = 1) -> None:
        self.warm_up = warm_up
        self.period = period
        self.timed = filled(timed, period)
        self.clock = clock
        self.total = warm_up + self.timed + filled(max(1, timed // SHARE_ITERATIONS), period)
        self.seconds: list[float] = []
        self.parts: dict[str, float] = {}
        self.parts_total = 0.0
        self._mark = 0.0

    @property
    def seconds_per_iteration(self) -> float:
        """The median, over whole periods."""
        starts = range(0, len(self.seconds), self.period)
        return statistics.median(statistics.mean(self.seconds[start : start + self.period]) for start in starts)

    def shares(self) -> dict[str, float]:
        """Part of an iteration -> share of its time; what no part accounts for is ``other``."""
        shares = {name: seconds / self.parts_total for name, seconds in self.parts.items()}
        return {**shares, "other": 1 - sum(shares.values())}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of the block to a part."""
        start = self.clock()
        yield
        self.parts[name] = self.parts.get(name, 0.0) + self.clock() - start

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._mark = self.clock()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """From the end of an iteration to here, data were fetched."""
        if batch_idx < self.warm_up + self.timed:
            return
        self.parts["data"] = self.parts.get("data", 0.0) + self.clock() - self._mark
        if isinstance(pl_module, AdversarialModel):
            pl_module.update_timer = self.part

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the iteration."""
        seconds = self.clock() - self._mark
        if self.warm_up <= batch_idx < self.warm_up + self.timed:
            self.seconds.append(seconds)
        elif batch_idx >= self.warm_up + self.timed:
            self.parts_total += seconds
        self._mark = self.clock()


def train(
    model: VideoModel, source: Any, callback: pl.Callback, iterations: int, device: torch.device, **options: Any
) -> None:
    """Train in Lightning's loop as ``vidgen fit`` does, without logs and checkpoints."""
    quiet_lightning()
    trainer = pl.Trainer(
        max_steps=iterations,
        max_epochs=-1,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[callback],
        **options,
    )
    if isinstance(source, pl.LightningDataModule):
        trainer.fit(model, datamodule=source)
    else:
        trainer.fit(model, train_dataloaders=source)


def describe_periods(stopwatch: Stopwatch) -> str:
    """How many iterations were timed, and in which groups."""
    number = len(stopwatch.seconds) // stopwatch.period
    return str(number) if stopwatch.period == 1 else f"{number} times {stopwatch.period}"


def peak_memory(device: torch.device) -> str:
    """The most memory that was in use, in MiB: of the process, and of what torch gave out on the GPU."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    process = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit:.0f} MiB (process)"
    if device.type != "cuda":
        return process
    return f"{torch.cuda.max_memory_allocated(device) / 2**20:.0f} MiB (GPU), {process}"


# --------------------------------------------------------------------------------------------------------------------
# The command
# --------------------------------------------------------------------------------------------------------------------


def find_reference(model_name: str) -> type[Reference]:
    """The adapter of a model's original.

    Raises:
        UserError: there is none.
    """
    known = sorted(path.stem for path in (TOOLS / "references").glob("*.py"))
    if model_name not in known:
        raise UserError(f"--reference: there is no adapter for {model_name} (there is one for: {', '.join(known)})")
    return import_module(f"references.{model_name}").Reference


def describe_setting(model_name: str, settings: Sequence[str], arguments: argparse.Namespace, model: Any) -> list[str]:
    """Lines that say what ran where."""
    images = f" and {arguments.images} images" if "images" in model.train_keys else ""
    device = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else f"CPU ({platform.machine()})"
    command = ["git", "-C", str(TOOLS), "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() or "no checkout"
    return [
        f"model: {model_name} {' '.join(settings) or '(defaults)'}, batches of {arguments.batch_size} videos{images}",
        f"vidgen {vidgen.__version__} ({commit}), torch {torch.__version__}, Lightning {pl.__version__}, "
        f"Python {platform.python_version()}",
        f"{device}, {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}",
    ]


def run_train(arguments: argparse.Namespace) -> None:
    """``benchmark.py train``: measure, and print what was found.

    Raises:
        UserError: something asked for does not exist or does not fit, or model and original disagree.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = build_model(arguments.model, arguments.set)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    clipping = {"gradient_clip_val": arguments.clip}
    per_element = take_over_manual_arguments(model, clipping) if isinstance(model, AdversarialModel) else 0
    data = arguments.data or ("random" if arguments.reference else "moving_shapes")
    source = data_source(model, data, arguments.batch_size, arguments.images, per_element)
    for line in describe_setting(arguments.model, arguments.set, arguments, model):
        print(line)
    if arguments.reference:
        run_pair(model, source, arguments, device, clipping)
    else:
        period = model.schedule_period if isinstance(model, AdversarialModel) else 1
        stopwatch = Stopwatch(arguments.warm_up, arguments.iterations, clock_of(device), period)
        train(model, source, stopwatch, stopwatch.total, device, **clipping)
        seconds = stopwatch.seconds_per_iteration
        print(f"speed: {1 / seconds:.4g} iterations/s ({seconds:.4g} s, median of {describe_periods(stopwatch)})")
        print("shares of an iteration:")
        for name, share in stopwatch.shares().items():
            print(f"  {name:<34}{100 * share:5.1f} %")
    print(f"peak memory: {peak_memory(device)}")


def run_pair(
    model: VideoModel, source: Any, arguments: argparse.Namespace, device: torch.device, options: dict[str, Any]
) -> None:
    """Compare with the original, then time both in turn.

    Args:
        model: the model.
        source: of its batches.
        arguments: of the command line.
        device: where both run.
        options: of Lightning's trainer.

    Raises:
        UserError: there is no original for the model, or the two disagree.
    """
    if not isinstance(model, AdversarialModel | LikelihoodModel):
        raise UserError(f"--reference: {arguments.model} trains in a way of its own, which cannot be compared")
    adapter = find_reference(arguments.model)
    comparison = Comparison(model, adapter(arguments.reference, model.double()))
    print(f"reference: {comparison.reference.title}")
    compared = comparison.reference.compared_iterations
    train(model, source, comparison, compared, device, precision="64-true", **options)
    print(comparison)
    turns = Turns(model, adapter(arguments.reference, model.float()), arguments.warm_up, clock_of(device))
    train(model, source, turns, arguments.warm_up + arguments.iterations, device, **options)
    print(describe_pairs(turns.pairs))
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "train",
        help="speed of training",
        description="Train a model for a few iterations and print speed, memory and where the time goes.",
        epilog="example: python tools/benchmark.py train --model mocogan --set dim_category=6 --data random",
    )
    command.add_argument("--model", required=True, metavar="NAME", help="registry name or dotted path")
    command.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="constructor arguments of the model"
    )
    command.add_argument("--batch-size", type=int, default=3, metavar="N", help="videos of a batch (default: 3)")
    command.add_argument(
        "--images",
        type=int,
        default=10,
        metavar="N",
        help="separate frames of a batch, where the model reads any (default: 10)",
    )
    command.add_argument(
        "--iterations", type=int, default=20, metavar="N", help="timed iterations or pairs (default: 20)"
    )
    command.add_argument("--warm-up", type=int, default=2, metavar="N", help="iterations before those (default: 2)")
    command.add_argument("--clip", type=float, metavar="NORM", help="clip the norm of gradients (default: do not)")
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: as torch chooses)")
    command.add_argument(
        "--data",
        choices=["moving_shapes", "random"],
        help="rendered clips through the data loader, or random ones in memory (the default with --reference)",
    )
    command.add_argument(
        "--reference", type=Path, metavar="PATH", help="checkout of the model's original, to be run side by side"
    )
    add_data_command(commands)
    add_eval_command(commands)
    add_svc_command(commands)
    add_tokens_command(commands)
    return parser.parse_args(arguments)


def add_data_command(commands: Any) -> None:
    """Declare ``benchmark.py data``."""
    command = commands.add_parser(
        "data",
        help="speed of reading",
        description="Time clips from a pack against seeking in video files, that against decoding from the start, and "
        "the loader against raw reading of the pack; watch the memory of a loading process.",
        epilog="example: python tools/benchmark.py data --threads 1",
    )
    command.add_argument("--folder", type=Path, metavar="DIR", help="keep the rendered set here (default: do not)")
    command.add_argument("--videos", type=int, default=8, metavar="N", help="files of the set (default: 8)")
    command.add_argument("--seconds", type=int, default=60, metavar="S", help="length of each (default: 60)")
    command.add_argument("--turns", type=int, default=24, metavar="N", help="pairs of each comparison (default: 24)")
    command.add_argument(
        "--memory-clips", type=int, default=50_000, metavar="N", help="clips while memory is watched (default: 50000)"
    )
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: as torch chooses)")


def run_data(arguments: argparse.Namespace) -> None:
    """``benchmark.py data``: measure, and print what was found as it is found.

    Raises:
        UserError: two ways to read do not give the same clips.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        sizes = (arguments.videos, arguments.seconds, arguments.turns, arguments.memory_clips)
        for lines in reading.run(folder, *sizes):
            print(lines, flush=True)
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")


def add_eval_command(commands: Any) -> None:
    """Declare ``benchmark.py eval``."""
    command = commands.add_parser(
        "eval",
        help="speed of measuring",
        description="Time the I3D network beside the public port, decoding while it runs, and two processes beside "
        "one; watch the memory while few and many clips are measured.",
        epilog="example: python tools/benchmark.py eval --threads 2 --reference ~/pytorch-i3d",
    )
    command.add_argument("--reference", type=Path, metavar="PATH", help="checkout of piergiaj/pytorch-i3d")
    command.add_argument(
        "--forms",
        nargs="+",
        default=list(evaluating.FORMS),
        choices=list(evaluating.FORMS),
        help="of the network (all)",
    )
    command.add_argument("--turns", type=int, default=20, metavar="N", help="pairs of each comparison (default: 20)")
    command.add_argument("--clips", type=int, default=32, metavar="N", help="clips of a turn of an evaluation (32)")
    command.add_argument(
        "--memory-clips", nargs="*", type=int, default=[200, 2000], metavar="N", help="clips while memory is watched"
    )
    command.add_argument("--folder", type=Path, metavar="DIR", help="keep the rendered set here (default: do not)")
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: as torch chooses)")


def run_eval(arguments: argparse.Namespace) -> None:
    """``benchmark.py eval``: measure, and print what was found as it is found.

    Raises:
        UserError: the network and the port do not agree, or there is no port.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}")
    if arguments.reference:
        for lines in evaluating.beside_port(arguments.reference, arguments.forms, arguments.turns):
            print(lines, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        reading.render_set(folder / "videos", 8, 20)
        dataset = {"name": "video_folder", "root": str(folder / "videos"), "resolution": 64, "num_frames": 16}
        if not (folder / "packed").is_dir():
            pack(reading.VideoFolder(dataset["root"], 64, 16), dataset, folder / "packed", quiet=True)
        for lines in evaluating.overlap(folder / "videos", arguments.clips, arguments.turns):
            print(lines, flush=True)
        print(evaluating.two_processes(folder / "packed", arguments.clips, arguments.turns), flush=True)
        for clips in arguments.memory_clips:
            print(evaluating.peak_memory(folder / "packed", clips, torch.get_num_threads()), flush=True)
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")


def add_svc_command(commands: Any) -> None:
    """Declare ``benchmark.py svc``."""
    command = commands.add_parser(
        "svc",
        help="speed of singular value clipping",
        description="Time the clipping of TGAN's discriminator beside a torch.linalg.svd of each layer.",
        epilog="example: python tools/benchmark.py svc --threads 2",
    )
    command.add_argument("--width", type=int, default=64, metavar="N", help="of the discriminator (default: 64)")
    command.add_argument("--resolution", type=int, default=64, metavar="N", help="of its videos (default: 64)")
    command.add_argument("--turns", type=int, default=20, metavar="N", help="pairs (default: 20)")
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: as torch chooses)")


def run_svc(arguments: argparse.Namespace) -> None:
    """``benchmark.py svc``: measure, and print what was found.

    Raises:
        UserError: the two ways to clip do not give the same weights.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}")
    for lines in clipping.run(arguments.width, arguments.resolution, arguments.turns):
        print(lines, flush=True)


def add_tokens_command(commands: Any) -> None:
    """Declare ``benchmark.py tokens``."""
    command = commands.add_parser(
        "tokens",
        help="speed of sampling tokens",
        description="Time a transformer of TATS sampling tokens with its cache beside both loops of the official code.",
        epilog="example: python tools/benchmark.py tokens --threads 1 --reference ~/TATS",
    )
    command.add_argument("--reference", type=Path, required=True, metavar="PATH", help="checkout of songweige/TATS")
    sizes = (
        ("--layers", 8, "of the transformer"),
        ("--heads", 8, "of each layer"),
        ("--width", 256, "size of a token in the transformer"),
        ("--vocabulary", 4096, "tokens there are"),
        ("--tokens", 512, "tokens to sample"),
        ("--batch", 1, "sequences at once"),
        ("--turns", 20, "pairs with the official loop that has a cache"),
        ("--uncached-turns", 20, "pairs with the one that has none"),
    )
    for name, default, meaning in sizes:
        command.add_argument(name, type=int, default=default, metavar="N", help=f"{meaning} (default: {default})")
    command.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: as torch chooses)")


def run_tokens(arguments: argparse.Namespace) -> None:
    """``benchmark.py tokens``: measure, and print what was found as it is found.

    Raises:
        UserError: there is no checkout of the original, or it samples other tokens.
    """
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}")
    names = ("layers", "heads", "width", "vocabulary", "tokens", "batch")
    sizes = {name: getattr(arguments, name) for name in names}
    for lines in tokens.run(arguments.reference, arguments.turns, arguments.uncached_turns, **sizes):
        print(lines, flush=True)
    print(f"load average at the end: {os.getloadavg()[0]:.1f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; what the user can put right is one line, status 2."""
    options = parse(arguments)
    try:
        runs = {"train": run_train, "data": run_data, "eval": run_eval, "svc": run_svc, "tokens": run_tokens}
        runs[options.command](options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
