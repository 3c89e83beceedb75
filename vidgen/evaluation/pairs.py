"""Generated videos beside the real ones that they should equal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import torch

from vidgen.data.dataset import VideoDataset
from vidgen.data.stored import StoredVideos, counted
from vidgen.distributed import world
from vidgen.errors import UserError
from vidgen.evaluation.sources import Clip, ClipRule, ClipSource, StoredClips
from vidgen.metrics.base import PairedMetric
from vidgen.progress import Progress

CHUNK = 8
"""Pairs that are in memory at once."""


class Pairs:
    """Pairs ``0 … n - 1``: number k of one source and number k of the other.

    Args:
        real: the targets.
        fake: the generated videos.
        notes: what a reader of the numbers has to know, one line each.
    """

    def __init__(self, real: ClipSource, fake: ClipSource, notes: Sequence[str] = ()) -> None:
        self.real = real
        self.fake = fake
        self.notes = list(notes)
        self.lost: dict[str, str] = {}

    def __len__(self) -> int:
        return min(len(self.real), len(self.fake))

    def feed(self, metrics: Sequence[PairedMetric], progress: bool = True) -> None:
        """Show this process's share of the pairs to metrics.

        Raises:
            ValueError: a metric refuses a pair.
        """
        rank, size = world()
        blocks = [range(at, min(at + CHUNK, len(self))) for at in range(rank * CHUNK, len(self), size * CHUNK)]
        with Progress(sum(map(len, blocks)), "compared", "pairs", progress and rank == 0, last_line=False) as bar:
            for block in blocks:
                self._feed(metrics, block)
                bar.advance(len(block))

    def _feed(self, metrics: Sequence[PairedMetric], block: range) -> None:
        sides: list[dict[int, Clip]] = []
        for source in (self.real, self.fake):
            read = source.read(block)
            sides.append({clip.number: clip for clip in read if isinstance(clip, Clip)})
            self.lost.update({entry.path: entry.reason for entry in read if not isinstance(entry, Clip)})
        for number in sorted(sides[0].keys() & sides[1].keys()):
            target, made = (side[number].video[None] for side in sides)
            if target.shape != made.shape:
                raise ValueError(
                    f"pair {number}: the real video is {_shown(target)}, the fake one {_shown(made)}; give --resolution"
                )
            for metric in metrics:
                metric.update(made.to(metric.device), target.to(metric.device))

    def warnings(self) -> list[str]:
        """What a reader of the numbers has to know, one line each."""
        lines = list(self.notes)
        if self.lost:
            path, reason = next(iter(self.lost.items()))
            lines.append(f"{counted(len(self.lost), 'file')} left out as unreadable (the first, {path}: {reason})")
        return lines


def pair_up(
    real: VideoDataset,
    fake: VideoDataset,
    *,
    native: tuple[bool, bool],
    names: tuple[str, str],
    limit: int | None = None,
) -> Pairs:
    """Pair two data sets by the names of their videos without endings, or by their order where no name is shared.

    Args:
        real: the targets.
        fake: the generated videos.
        native: for each, whether frames keep their size.
        names: what the user called each.
        limit: pairs at most.

    Raises:
        UserError: some names have a partner and others none, or the numbers of videos differ.
    """
    order = _by_name(real, fake, names) or _by_order(real, fake)
    order = order[:limit]
    lengths = [int(dataset.lengths[[pair[side] for pair in order]].min()) for side, dataset in enumerate((real, fake))]
    frames = min(lengths)
    longest = max(
        int(dataset.lengths[[pair[side] for pair in order]].max()) for side, dataset in enumerate((real, fake))
    )
    notes = []
    if longest > frames:
        notes.append(f"paired videos have {frames} to {longest} frames; the first {frames} of each are compared")
    rule = ClipRule(frames, order="first", start="first")
    sources = []
    for side, dataset in enumerate((real, fake)):
        source = StoredClips(dataset, rule, native=native[side], name=names[side])
        source.videos = np.array([pair[side] for pair in order], dtype=np.int64)
        sources.append(source)
    return Pairs(sources[0], sources[1], notes)


def _by_name(real: VideoDataset, fake: VideoDataset, names: tuple[str, str]) -> list[tuple[int, int]]:
    stems = [_stems(dataset) for dataset in (real, fake)]
    shared = stems[0].keys() & stems[1].keys()
    if not shared:
        return []
    alone = sorted(stems[1].keys() - shared)
    if alone:
        raise UserError(f"{names[1]}: {alone[0]!r} has no partner of that name in {names[0]}; name pairs alike")
    return [(stems[0][stem], number) for stem, number in sorted(stems[1].items())]


def _stems(dataset: VideoDataset) -> dict[str, int]:
    if not isinstance(dataset, StoredVideos):
        return {}
    found = {str(PurePosixPath(name).with_suffix("")): number for number, name in enumerate(dataset.names)}
    return found if len(found) == len(dataset) else {}


def _by_order(real: VideoDataset, fake: VideoDataset) -> list[tuple[int, int]]:
    if len(real) != len(fake):
        raise UserError(
            f"{len(real)} real and {len(fake)} fake videos make no pairs; give as many of each, or name pairs alike"
        )
    return [(number, number) for number in range(len(real))]


def _shown(video: torch.Tensor) -> str:
    return f"{video.shape[-1]}x{video.shape[-2]} with {video.shape[1]} channels and {video.shape[2]} frames"
