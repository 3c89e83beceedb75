"""Do the tokens of a video say when a frame was, and does quality last through a long video? Several TATS chains beside
each other, as paddings are compared in the paper (sections 3.2 and 4.3).

    python tools/long_videos.py --data configs/tats/weizmann_cpu.yaml --out comparison \\
        zero=runs/zero/transformer/checkpoints/iteration_00001200.ckpt replicate=runs/replicate/...

For each chain, a checkpoint of its second stage:

- the time leak: a linear classifier names the time of a latent in its clip from the codes of the latent. Clips start
  anywhere in their video, so that only the encoder's padding tells; half of the videos train it, the other half test
  it. Chance is one in as many as there are latents. Measured of real clips, and of clips in which one frame stands
  still;
- quality along a video: Fréchet video distance of windows of the sampled videos against real clips, more the worse.

Printed is a Markdown table; OUT gets it as JSON with all numbers, and a plot.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import vidgen
from vidgen.atomic import atomic_file
from vidgen.data.dataset import VideoDataset
from vidgen.data.request import ClipRequest
from vidgen.errors import UserError
from vidgen.evaluation.opening import open_videos
from vidgen.evaluation.sources import Clip, ClipRule, StoredClips
from vidgen.media import to_uint8
from vidgen.metrics.video_distances import FrechetVideoDistanceWindows
from vidgen.models.tats.transformer import TATS
from vidgen.progress import Progress
from vidgen.seeding import derive_seed

KINDS = ("moving", "frozen")
RIDGE = 1e-3
STEPS = 60
"""Of the classifier's optimiser, L-BFGS."""


def clips_of(dataset: VideoDataset, videos: Sequence[int], number: int, frames: int, seed: int) -> Tensor:
    """Clips with random starts ``(N, C, T, H, W)`` in [-1, 1], from each of the videos in turn.

    Raises:
        UserError: a video is too short.
    """
    found = []
    for index in range(number):
        video = int(videos[index % len(videos)])
        last = int(dataset.lengths[video]) - 1 - (frames - 1) * dataset.stride
        if last < 0:
            raise UserError(
                f"--data: video {video} has {dataset.lengths[video]} frames, too few for {frames} at its stride"
            )
        start = derive_seed(seed, index) % (last + 1)
        times = tuple(range(start, start + frames * dataset.stride, dataset.stride))
        found.append(dataset.read(ClipRequest(video, times, dataset.spec.resolution))["video"])
    return torch.stack(found)


@torch.no_grad()
def codes_of(model: TATS, clips: Tensor, batch: int = 16) -> Tensor:
    """The codes of each latent of clips, all of its places one after the other: ``(N, t, h * w * D)``."""
    network = model.first_stage
    parts = [network.codebook.lookup(network.encode_inner(part)) for part in clips.split(batch)]
    return torch.cat(parts).movedim(1, -1).flatten(2)


def time_accuracy(train: Tensor, test: Tensor) -> float:
    """How often a linear classifier names the time of a latent.

    Args:
        train: codes ``(N, t, F)`` that it learns from.
        test: codes of other videos.

    Returns:
        Between 0 and 1.
    """
    length = train.shape[1]
    mean, std = train.mean((0, 1)), train.std((0, 1)) + 1e-6
    given, asked = ((part - mean).div(std).flatten(0, 1).double() for part in (train, test))
    times = torch.arange(length)
    wanted, truth = times.repeat(len(train)), times.repeat(len(test))
    weight = torch.zeros(given.shape[1], length, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(length, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(given @ weight + bias, wanted) + RIDGE * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]
    with torch.no_grad():
        return ((asked @ weight + bias).argmax(1) == truth).double().mean().item()


def leak_of(model: TATS, dataset: VideoDataset, number: int) -> dict[str, float]:
    """Accuracy of the classifier, for each of :data:`KINDS` of clips, and chance."""
    frames = model.num_frames + 2 * model.first_stage.real_frames
    order = np.random.RandomState(0).permutation(len(dataset))
    halves = order[::2], order[1::2]
    sets = [clips_of(dataset, half, number, frames, seed) for seed, half in enumerate(halves)]
    found = {"moving": time_accuracy(*(codes_of(model, clips) for clips in sets))}
    still = [clips[:, :, :1].expand_as(clips).contiguous() for clips in sets]
    found["frozen"] = time_accuracy(*(codes_of(model, clips) for clips in still))
    return {**found, "chance": 1 / model.latent_shape[0]}


def windows_of(
    model: TATS, metric: FrechetVideoDistanceWindows, videos: int, batch: int, seed: int, **keywords: Any
) -> list[float]:
    """The metric of each window of sampled videos; its real clips are there already."""
    with Progress(videos, "sampled", "videos") as bar:
        for first in range(0, videos, batch):
            number = min(batch, videos - first)
            made = model.sample(number, num_frames=metric.total_frames, seed=seed, first=first, **keywords)
            metric.update(to_uint8(made), real=False)
            bar.advance(number)
    _, details = metric.result()
    return [window["value"] for window in details["windows"]]


def measure_chains(
    chains: dict[str, TATS], dataset: VideoDataset, real: Sequence[Tensor], options: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Both measurements of every chain, by name.

    Args:
        chains: second stages.
        dataset: real videos.
        real: clips as long as a window, uint8 ``(C, T, H, W)``.
        options: of the command.
    """
    clips = FrechetVideoDistanceWindows(
        window=options.window,
        window_stride=options.window_stride,
        total_frames=options.frames,
        weights=options.weights,
    )
    for at in range(0, len(real), 8):
        clips.update(torch.stack(list(real[at : at + 8])), real=True)
    results: dict[str, dict[str, Any]] = {}
    for name, model in chains.items():
        metric = copy.deepcopy(clips)
        keywords = {} if options.latents is None else {"window": options.latents}
        results[name] = {
            "time_leak": leak_of(model, dataset, options.clips),
            "starts": list(metric.starts),
            "fvd": windows_of(model, metric, options.videos, options.batch_size, 0, **keywords),
            "protocol": metric.protocol(),
        }
    return results


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    starts = next(iter(results.values()))["starts"]
    heads = ["chain", *(f"time named, {kind} clips" for kind in KINDS), *(f"from frame {start}" for start in starts)]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, result in results.items():
        leak = [f"{100 * result['time_leak'][kind]:.1f} %" for kind in KINDS]
        lines.append("| " + " | ".join([name, *leak, *(f"{value:.2f}" for value in result["fvd"])]) + " |")
    chance = next(iter(results.values()))["time_leak"]["chance"]
    return "\n".join([*lines, "", f"Chance names the time of {100 * chance:g} % of the latents."])


def draw(results: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot the results: quality along a video, and the time leak."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    for name, result in results.items():
        left.plot(result["starts"], result["fvd"], marker="o", label=name)
    left.set(xlabel="first frame of the window", ylabel="Fréchet video distance", title="Quality along a video")
    left.set_ylim(bottom=0)
    left.legend()
    width = 0.8 / len(KINDS)
    for number, kind in enumerate(KINDS):
        places = [index + (number - (len(KINDS) - 1) / 2) * width for index in range(len(results))]
        values = [100 * result["time_leak"][kind] for result in results.values()]
        right.bar(places, values, width, label=f"{kind} clips")
    chance = 100 * next(iter(results.values()))["time_leak"]["chance"]
    right.axhline(chance, color="black", linestyle="--", label="chance")
    right.set_xticks(range(len(results)), list(results))
    right.set(ylabel="times named right, %", title="Time leak", ylim=(0, 100))
    right.legend()
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=120)


def open_chains(texts: Sequence[str]) -> dict[str, TATS]:
    """The chains of a command, by name.

    Raises:
        UserError: see :func:`open_chain`; or two have one name.
    """
    chains: dict[str, TATS] = {}
    for text in texts:
        name, model = open_chain(text)
        if name in chains:
            raise UserError(f"{text}: a chain before it is called {name!r} too; name them apart")
        chains[name] = model
    return chains


def open_chain(text: str) -> tuple[str, TATS]:
    """Name and model of ``NAME=CHECKPOINT``.

    Raises:
        UserError: it is none, or not one of the second stage.
    """
    name, _, path = text.partition("=")
    if not name or not path:
        raise UserError(f"{text!r}: expected NAME=CHECKPOINT")
    model = vidgen.load(path)
    if not isinstance(model, TATS) or model.sample_keys:
        raise UserError(f"{path}: not a second stage of TATS that samples without text or audio")
    return name, model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; what the user can put right is one line, status 2."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("chains", nargs="+", metavar="NAME=CHECKPOINT", help="second stages")
    parser.add_argument("--data", required=True, metavar="PLACE", help="real videos: folder, pack, zip, .npz or config")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for results.json and plot.png")
    parser.add_argument("--videos", type=int, default=64, metavar="N", help="videos sampled of each chain (64)")
    parser.add_argument("--frames", type=int, default=256, metavar="N", help="frames of each (256)")
    parser.add_argument("--window", type=int, default=16, metavar="N", help="frames of a window (16)")
    parser.add_argument("--window-stride", type=int, metavar="N", help="frames from one window to the next (--window)")
    parser.add_argument("--latents", type=int, metavar="N", help="latents that a new one sees (as many as fit)")
    parser.add_argument("--clips", type=int, default=256, metavar="N", help="clips in each half, for the leak (256)")
    parser.add_argument("--real", type=int, default=256, metavar="N", help="real clips (256)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="videos sampled at once (16)")
    parser.add_argument("--weights", default="auto", metavar="FILE|random", help="of the I3D network (auto)")
    options = parser.parse_args(arguments)
    try:
        for name, least in {"videos": 2, "window": 1, "clips": 1, "real": 2, "batch-size": 1}.items():
            value = getattr(options, name.replace("-", "_"))
            if value < least:
                raise UserError(f"--{name} {value}: must be at least {least}")
        chains = open_chains(options.chains)
        try:
            options.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out: {options.out} cannot be made: {error.strerror or error}") from error
        dataset, native = open_videos(options.data, "--data")
        real = _real_clips(dataset, native, options.window, options.real)
        results = measure_chains(chains, dataset, real, options)
        with atomic_file(options.out / "results.json") as file:
            file.write(json.dumps(results, indent=2, default=str).encode() + b"\n")
        draw(results, options.out / "plot.png")
        print(table(results))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _real_clips(dataset: VideoDataset, native: bool, frames: int, number: int) -> list[Tensor]:
    rule = ClipRule(frames, dataset.stride, per_video=math.ceil(number / max(1, len(dataset))))
    found: list[Tensor] = []
    for clip in StoredClips(dataset, rule, native=native, name="").read(range(number)):
        if not isinstance(clip, Clip):
            raise UserError(f"{clip.path}: {clip.reason}")
        found.append(clip.video)
    return found


if __name__ == "__main__":
    sys.exit(main())
