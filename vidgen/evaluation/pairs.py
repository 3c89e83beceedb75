"""Generated videos beside the real ones that they should equal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import torch
from torch import Tensor

from vidgen.data.dataset import VideoDataset
from vidgen.data.frame_folder import FrameFolder
from vidgen.data.stored import StoredVideos, counted
from vidgen.distributed import gather_objects, world
from vidgen.errors import UserError
from vidgen.evaluation.passes import Facts
from vidgen.evaluation.sources import Clip, ClipRule, ClipSource, GeneratedClips, StoredClips
from vidgen.metrics.base import PairedMetric
from vidgen.progress import Progress


class Pairs:
    """Pairs ``0 … n - 1``: number k of one source and number k of the other.

    Args:
        real: the targets.
        fake: the generated videos.
        notes: what a reader of the numbers has to know, one line each.
        pairing: how partners were found, for the record.
    """

    def __init__(
        self, real: ClipSource, fake: ClipSource, notes: Sequence[str] = (), pairing: str = "condition"
    ) -> None:
        self.real = real
        self.fake = fake
        self.notes = list(notes)
        self.pairing = pairing
        self.facts = {"real": Facts(), "fake": Facts()}

    def __len__(self) -> int:
        return min(len(self.real), len(self.fake))

    def feed(self, metrics: Sequence[PairedMetric], progress: bool = True, batch_size: int = 8) -> None:
        """Show this process's share of the pairs to metrics; afterwards :attr:`facts` are those of all processes.

        Args:
            metrics: what looks at them.
            progress: whether progress is shown.
            batch_size: pairs in memory at once.

        Raises:
            UserError: a metric wants several videos for each real one, and they come from no model.
            ValueError: a metric refuses a pair.
        """
        draws = self._draws(metrics)
        rank, size = world()
        together = self.fake.group_size if isinstance(self.fake, GeneratedClips) else 1
        parts = _blocks(range(len(self)), together if together > 1 else batch_size)[rank::size]
        blocks = [block for part in parts for block in _blocks(part, batch_size)]
        with Progress(sum(map(len, blocks)), "compared", "pairs", progress and rank == 0, last_line=False) as bar:
            for block in blocks:
                self._feed(metrics, block, draws)
                bar.advance(len(block))

    def gather(self) -> None:
        """Let every process know the facts of all."""
        self.facts = {side: Facts.union(gather_objects(facts)) for side, facts in self.facts.items()}

    def _draws(self, metrics: Sequence[PairedMetric]) -> list[ClipSource]:
        most = max(metrics, key=lambda metric: metric.num_samples)
        if most.num_samples == 1:
            return [self.fake]
        if not isinstance(self.fake, GeneratedClips):
            raise UserError(
                f"{most.label}: wants {most.num_samples} generated videos for each real one, which a model makes;"
                " give --ckpt"
            )
        return [self.fake.draw(which) for which in range(most.num_samples)]

    def _feed(self, metrics: Sequence[PairedMetric], block: range, draws: Sequence[ClipSource]) -> None:
        targets = self._read(self.real, block, "real")
        made = [self._read(draw, block, "" if which else "fake") for which, draw in enumerate(draws)]
        for number in sorted(set(targets).intersection(*made)):
            target = targets[number].video[None]
            fakes = torch.stack([clips[number].video for clips in made])[None]  # (1, N, C, T, H, W)
            if target.shape[1:] != fakes.shape[2:]:
                raise ValueError(
                    f"pair {number}: the real video is {_shown(target[0])}, the fake one {_shown(fakes[0, 0])};"
                    " give --resolution"
                )
            for metric in metrics:
                fake = fakes[:, 0] if metric.num_samples == 1 else fakes[:, : metric.num_samples]
                metric.update(fake.to(metric.device), target.to(metric.device))

    def _read(self, source: ClipSource, block: range, side: str) -> dict[int, Clip]:
        read = source.read(block)
        if side:
            self.facts[side].see(read)
        return {clip.number: clip for clip in read if isinstance(clip, Clip)}

    def warnings(self) -> list[str]:
        """What a reader of the numbers has to know, one line each."""
        lines = list(self.notes)
        lost = {entry.path: entry.reason for facts in self.facts.values() for entry in facts.unusable.values()}
        if lost:
            path, reason = min(lost.items())
            lines.append(f"{counted(len(lost), 'file')} left out as unreadable (the first, {path}: {reason})")
        return lines


def _blocks(numbers: range, size: int) -> list[range]:
    return [numbers[at : at + size] for at in range(0, len(numbers), size)]


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
        UserError: some names have a partner and others none, the numbers of videos differ, or there are fewer pairs
            than ``limit``.
    """
    by_name = _by_name(real, fake, names)
    order = by_name or _by_order(real, fake)
    if limit is not None and limit > len(order):
        raise UserError(f"--num-videos {limit}: there are {counted(len(order), 'pair')}")
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
    return Pairs(sources[0], sources[1], notes, "name" if by_name else "order")


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
    folders = isinstance(dataset, FrameFolder)  # whose names have no endings
    stems = [name if folders else str(PurePosixPath(name).with_suffix("")) for name in dataset.names]
    return dict(zip(stems, range(len(stems)), strict=True)) if len(set(stems)) == len(stems) else {}


def _by_order(real: VideoDataset, fake: VideoDataset) -> list[tuple[int, int]]:
    if len(real) != len(fake):
        raise UserError(
            f"{len(real)} real and {len(fake)} fake videos make no pairs; give as many of each, or name pairs alike"
        )
    return [(number, number) for number in range(len(real))]


def _shown(video: Tensor) -> str:
    channels, frames, height, width = video.shape
    return f"{width}x{height} with {counted(channels, 'channel')} and {counted(frames, 'frame')}"
