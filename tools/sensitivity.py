"""Which damage a metric sees: real videos against other real ones, against damaged ones, and against another data set.

    python tools/sensitivity.py strips --others shapes --groups '/0*(\\d+)' --group-size 8 --metric fvd,kvd,fid
    python tools/sensitivity.py strips --others shapes --metric fvd --weights random

The videos are halved, by groups (performers) where a pattern names them. Clips of the first half are the real ones;
those of the second half are measured as they are, damaged, and frozen; then clips of the other data set. Each network
looks at each set once, and a network of single frames at four frames of each clip. Printed is a Markdown table. A
metric that sees motion must rate shuffled and frozen clips worse than the second half, one that sees pictures blurred
and noisy ones.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidgen.config.metrics import build_metrics
from vidgen.data.dataset import VideoDataset
from vidgen.data.stored import StoredVideos
from vidgen.errors import UserError
from vidgen.evaluation.opening import open_videos
from vidgen.evaluation.request import metric_sections
from vidgen.evaluation.result import shown_number
from vidgen.evaluation.sources import Clip, ClipRule, StoredClips
from vidgen.metrics.base import FeatureMetric
from vidgen.seeding import derive_seed

SAME = "other half"
OTHERS = "another data set"
FRAMES_OF_A_CLIP = 4
"""That a network of single frames looks at."""


def blur(video: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of each frame, sigma in pixels; uint8 ``(C, T, H, W)``."""
    radius = int(3 * sigma + 0.5)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).view(1, 1, 1, -1)
    frames = video.transpose(0, 1).flatten(0, 1)[:, None].float()  # (T * C, 1, H, W)
    padded = F.pad(frames, (radius,) * 4, mode="replicate")
    blurred = F.conv2d(F.conv2d(padded, weights), weights.transpose(2, 3))
    return blurred.round().to(torch.uint8).view(video.transpose(0, 1).shape).transpose(0, 1)


def add_noise(video: Tensor, sigma: float, seed: int) -> Tensor:
    """Independent Gaussian noise, sigma in levels of 255."""
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(seed)) * sigma
    return (video + noise).round().clamp(0, 255).to(torch.uint8)


def shuffle_time(video: Tensor, share: float, seed: int) -> Tensor:
    """Exchange a share of the frames among each other, every one of them leaving its place."""
    length = video.shape[1]
    generator = torch.Generator().manual_seed(seed)
    moved = torch.randperm(length, generator=generator)[: max(2, round(share * length))]
    order = torch.arange(length)
    order[moved] = moved.roll(1)  # a cycle in random order
    return video[:, order]


def freeze(video: Tensor) -> Tensor:
    """The first frame throughout."""
    return video[:, :1].expand_as(video).contiguous()


DAMAGE: dict[str, Callable[[Tensor, int], Tensor]] = {
    SAME: lambda video, seed: video,
    "blur, sigma 1": lambda video, seed: blur(video, 1.0),
    "blur, sigma 2": lambda video, seed: blur(video, 2.0),
    "noise, sigma 10": lambda video, seed: add_noise(video, 10.0, seed),
    "noise, sigma 30": lambda video, seed: add_noise(video, 30.0, seed),
    "half of the frames shuffled": lambda video, seed: shuffle_time(video, 0.5, seed),
    "all frames shuffled": lambda video, seed: shuffle_time(video, 1.0, seed),
    "frozen": lambda video, seed: freeze(video),
}


def halves(dataset: VideoDataset, pattern: str | None, group_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Videos of the first and of the second half of the groups, or of the videos.

    Raises:
        UserError: the pattern does not fit a name.
    """
    if pattern is None or not isinstance(dataset, StoredVideos):
        middle = len(dataset) // 2
        order = np.random.RandomState(0).permutation(len(dataset))
        return order[:middle], order[middle:]
    numbers = []
    for name in dataset.names:
        match = re.search(pattern, name)
        if match is None:
            raise UserError(f"--groups {pattern!r} does not fit {name!r}")
        numbers.append(int(match[1]) // group_size)
    groups = np.array(numbers)
    second = groups >= np.median(groups)
    return np.flatnonzero(~second), np.flatnonzero(second)


def clips_of(dataset: VideoDataset, native: bool, videos: np.ndarray | None, count: int, frames: int) -> list[Tensor]:
    """``count`` clips of the chosen videos, with random starts; all come once before any comes twice.

    Raises:
        UserError: a video cannot be read, or none is long enough.
    """
    rule = ClipRule(frames)
    source = StoredClips(dataset, rule, native=native, name="")
    kept = source.videos if videos is None else source.videos[np.isin(source.videos, videos)]
    if not len(kept):
        raise UserError(f"no video has the {frames} frames of a clip")
    found = []
    for repetition in range(-(-count // len(kept))):
        again = StoredClips(dataset, ClipRule(frames, seed=repetition), native=native, name="")
        again.videos = kept
        for clip in again.read(range(len(kept))):
            if not isinstance(clip, Clip):
                raise UserError(f"{clip.path}: {clip.reason}")
            found.append(clip.video)
    return found[:count]


def measure(
    metrics: Sequence[FeatureMetric], real: Sequence[Tensor], sets: dict[str, Sequence[Tensor]]
) -> dict[str, dict[str, float]]:
    """Values of all metrics for all sets against the real clips.

    Args:
        metrics: what is measured.
        real: the clips that count as real.
        sets: what is compared with them, by name.

    Returns:
        Set -> label of a metric -> value.
    """
    alike: dict[str, list[FeatureMetric]] = {}
    for metric in metrics:
        alike.setdefault(str(metric.extraction(True)), []).append(metric)
    values: dict[str, dict[str, float]] = {name: {} for name in sets}
    for group in alike.values():
        known = look(group[0], real)
        for name, clips in sets.items():
            features = look(group[0], clips)
            for metric in group:
                metric.reset()
                metric.add(known, True)
                metric.add(features, False)
                values[name][metric.label] = float(metric.compute())
    return values


def look(metric: FeatureMetric, clips: Sequence[Tensor], batch: int = 8) -> Tensor:
    """Features of clips; of single frames, those of :data:`FRAMES_OF_A_CLIP` in each."""
    if metric.extractor.per_frame:
        clips = [clip[:, :: max(1, clip.shape[1] // FRAMES_OF_A_CLIP)] for clip in clips]
    parts = [metric.extract(torch.stack(list(clips[at : at + batch])), True) for at in range(0, len(clips), batch)]
    return torch.cat(parts)


def table(values: dict[str, dict[str, float]]) -> str:
    """The values as a Markdown table."""
    labels = list(next(iter(values.values())))
    lines = ["| compared with the first half | " + " | ".join(labels) + " |", "|---" * (len(labels) + 1) + "|"]
    for name, row in values.items():
        lines.append(f"| {name} | " + " | ".join(shown_number(row[label]) for label in labels) + " |")
    return "\n".join(lines)


def run(
    place: str,
    others: str | None,
    metrics: Sequence[FeatureMetric],
    *,
    groups: str | None = None,
    group_size: int = 1,
    clips: int = 64,
    frames: int = 16,
) -> dict[str, dict[str, float]]:
    """Open, damage and measure.

    Args:
        place: the data set.
        others: another one; None without.
        metrics: what is measured.
        groups: pattern whose first group is a number that tells the group of a video.
        group_size: this many numbers are one group.
        clips: of each set.
        frames: of a clip.

    Raises:
        UserError: the data cannot be used.
    """
    dataset, native = open_videos(place, "the data")
    first, second = halves(dataset, groups, group_size)
    real = clips_of(dataset, native, first, clips, frames)
    same = clips_of(dataset, native, second, clips, frames)
    sets: dict[str, Sequence[Tensor]] = {
        name: [damage(clip, derive_seed("damage", number)) for number, clip in enumerate(same)]
        for name, damage in DAMAGE.items()
    }
    if others is not None:
        dataset, native = open_videos(others, "--others")
        sets[OTHERS] = clips_of(dataset, native, None, clips, frames)
    return measure(metrics, real, sets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; what the user can put right is one line, status 2."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", help="folder of videos, pack, zip, .npz or config")
    parser.add_argument("--others", metavar="PLACE", help="another data set of the same size of frames")
    parser.add_argument("--metric", default="fvd,kvd", metavar="NAME,…", help="what is measured (fvd,kvd)")
    parser.add_argument("--weights", metavar="FILE|random", help="weights of the networks")
    parser.add_argument("--groups", metavar="REGEX", help="whose first group is a number in each path")
    parser.add_argument("--group-size", type=int, default=1, metavar="N", help="this many numbers are a group (1)")
    parser.add_argument("--clips", type=int, default=64, metavar="N", help="clips of each set (64)")
    parser.add_argument("words", nargs="*", metavar="METRIC.KEY=VALUE", help="settings of single metrics")
    options = parser.parse_intermixed_args(arguments)
    try:
        common = {"weights": options.weights} if options.weights else {}
        metrics = build_metrics(metric_sections(options.metric.split(","), common, options.words))
        chosen = [metric for metric in metrics if isinstance(metric, FeatureMetric)]
        kwargs = {"groups": options.groups, "group_size": options.group_size, "clips": options.clips}
        print(table(run(options.data, options.others, chosen, **kwargs)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
