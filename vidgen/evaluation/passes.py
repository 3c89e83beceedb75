"""One pass over the clips of a source: decoded once, seen by every network that somebody asks."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vidgen.distributed import world
from vidgen.errors import UserError
from vidgen.evaluation.features import CHUNK, Chunk, FeatureStore
from vidgen.evaluation.sources import Clip, ClipSource, StoredClips, Unusable
from vidgen.metrics.base import FeatureMetric
from vidgen.progress import Progress

AHEAD = 2
"""Chunks that are decoded while one is looked at."""

Read = list[Clip | Unusable]


@dataclass
class Facts:
    """What is known of the clips of a source after a pass.

    Args:
        digests: of the pixels, by clip number.
        sizes: height and width -> how many clips have them.
        unusable: clips that could not be had.
        samples: the first few clips, by number.
    """

    digests: dict[int, int] = field(default_factory=dict)
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    unusable: dict[int, Unusable] = field(default_factory=dict)
    samples: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def add(self, chunk: Chunk) -> None:
        """Take over what a chunk says."""
        for number, digest, size in zip(
            chunk.numbers.tolist(), chunk.digests.tolist(), chunk.sizes.tolist(), strict=True
        ):
            if number not in self.digests:
                self.digests[number] = digest
                self.sizes[tuple(size)] = self.sizes.get(tuple(size), 0) + 1
        self.unusable.update({entry.number: entry for entry in chunk.unusable})

    @classmethod
    def union(cls, parts: Sequence[Facts]) -> Facts:
        """The facts of all processes together."""
        whole = cls()
        for part in parts:
            for size, count in part.sizes.items():
                whole.sizes[size] = whole.sizes.get(size, 0) + count
            whole.digests.update(part.digests)
            whole.unusable.update(part.unusable)
            whole.samples.update(part.samples)
        return whole

    @property
    def fingerprint(self) -> str:
        """Of all pixels that were looked at, in order."""
        digest = hashlib.sha256()
        for number, value in sorted(self.digests.items()):
            digest.update(f"{number}:{value}\n".encode())
        return digest.hexdigest()[:32]


class Pass:
    """Feeds the clips of a source to metrics.

    Args:
        source: the clips.
        metrics: what looks at them.
        real: which side they are.
        device: where networks run.
        batch_size: clips looked at at once.
        workers: processes that decode; 0 decodes in a thread beside the networks.
        keep: whether features are kept on the disk.
        num_samples: clips that are kept for people to look at.
        progress: whether progress is shown.
    """

    def __init__(
        self,
        source: ClipSource,
        metrics: Sequence[FeatureMetric],
        real: bool,
        *,
        device: torch.device,
        batch_size: int = 8,
        workers: int = 0,
        keep: bool = True,
        num_samples: int = 0,
        progress: bool = True,
    ) -> None:
        self.source = source
        self.real = real
        self.device = device
        self.batch_size = batch_size
        self.workers = workers
        self.num_samples = min(num_samples, len(source))
        self.progress = progress
        self.facts = Facts()
        identity = source.identity()
        self.groups: dict[str, _Group] = {}
        for metric in metrics:
            extraction = metric.extraction(real)
            store = FeatureStore({"source": identity, "extraction": extraction}, keep)
            self.groups.setdefault(str(store.folder), _Group(store, [])).metrics.append(metric)

    def run(self) -> Facts:
        """Look at this process's share of the clips: every W-th chunk.

        Raises:
            ValueError: a metric refuses what it is given.
        """
        rank, size = world()
        chunks = range(rank, -(-len(self.source) // CHUNK), size)
        for metric in (metric for group in self.groups.values() for metric in group.metrics):
            metric.extractor.to(self.device)
        todo = {chunk: None for chunk in chunks if not self._is_kept(chunk)}
        mine = sum(len(self._numbers(chunk)) for chunk in chunks)
        side = "real" if self.real else "fake"
        reading = self._read_ahead(list(todo))
        with Progress(mine, "measured", f"{side} videos", self.progress and rank == 0, last_line=False) as bar:
            for chunk in chunks:
                clips = next(reading) if chunk in todo else None
                for group in self.groups.values():
                    self._feed(group, chunk, clips)
                self._keep_samples(chunk, clips)
                bar.advance(len(self._numbers(chunk)))
        return self.facts

    def _numbers(self, chunk: int) -> range:
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.source)))

    def _is_kept(self, chunk: int) -> bool:
        return all(group.store.load(chunk) is not None for group in self.groups.values())

    def _feed(self, group: _Group, number: int, clips: Read | None) -> None:
        chunk = group.store.load(number)
        if chunk is None:
            assert clips is not None
            chunk = self._look(group.metrics[0], clips)
            group.store.save(number, chunk)
        self.facts.add(chunk)
        if not len(chunk.numbers):
            return
        frames = self.source.clips.num_frames
        for metric in group.metrics:
            metric.add(chunk.features.to(metric.device), self.real, chunk.numbers.tolist(), frames)

    def _look(self, metric: FeatureMetric, clips: Read) -> Chunk:
        usable = [clip for clip in clips if isinstance(clip, Clip)]
        lost = tuple(clip for clip in clips if isinstance(clip, Unusable))
        features: dict[int, Tensor] = {}
        for batch in _batches(usable, self.batch_size):
            videos = torch.stack([clip.video for clip in batch]).to(self.device)
            found = metric.extract(videos, self.real).float().cpu()
            features.update(zip((clip.number for clip in batch), found, strict=True))
        numbers = sorted(features)
        by_number = {clip.number: clip.video for clip in usable}
        return Chunk(
            torch.tensor(numbers, dtype=torch.int64),
            torch.stack([features[number] for number in numbers]) if numbers else torch.zeros(0, 1),
            torch.tensor([_digest(by_number[number]) for number in numbers], dtype=torch.int64),
            torch.tensor([by_number[number].shape[-2:] for number in numbers], dtype=torch.int64).reshape(-1, 2),
            lost,
        )

    def _keep_samples(self, chunk: int, clips: Read | None) -> None:
        wanted = [number for number in self._numbers(chunk) if number < self.num_samples]
        if not wanted:
            return
        for clip in clips if clips is not None else self.source.read(wanted):
            if isinstance(clip, Clip) and clip.number in wanted:
                self.facts.samples[clip.number] = clip.video.permute(1, 2, 3, 0).cpu().numpy()

    def _read_ahead(self, chunks: Sequence[int]) -> Iterator[Read]:
        """The clips of chunks; stored ones are decoded while the networks run."""
        blocks = [list(self._numbers(chunk)) for chunk in chunks]
        if not isinstance(self.source, StoredClips):
            yield from map(self.source.read, blocks)
        elif self.workers:
            loader: DataLoader[Any] = DataLoader(
                _Blocks(self.source, blocks), batch_size=None, num_workers=self.workers, prefetch_factor=AHEAD
            )
            for read in loader:
                if isinstance(read, str):
                    raise UserError(read)
                yield read
        else:
            with ThreadPoolExecutor(1) as pool:
                waiting: deque[Future[Read]] = deque()
                for block in blocks:
                    waiting.append(pool.submit(self.source.read, block))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()


@dataclass
class _Group:
    store: FeatureStore
    metrics: list[FeatureMetric]


class _Blocks(Dataset):
    def __init__(self, source: ClipSource, blocks: Sequence[Sequence[int]]) -> None:
        self.source = source
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __getitem__(self, block: int) -> Read | str:
        try:
            return self.source.read(self.blocks[block])
        except UserError as error:  # as an exception it would arrive as a traceback of many lines
            return str(error)


def _batches(clips: Sequence[Clip], size: int) -> Iterator[list[Clip]]:
    """Clips of one shape, at most ``size`` at a time."""
    shapes: dict[tuple[int, ...], list[Clip]] = {}
    for clip in clips:
        shapes.setdefault(tuple(clip.video.shape), []).append(clip)
    for alike in shapes.values():
        for first in range(0, len(alike), size):
            yield alike[first : first + size]


def _digest(video: Tensor) -> int:
    """Of the pixels of a clip, 64 bits."""
    digest = hashlib.blake2b(str(tuple(video.shape)).encode(), digest_size=8)
    digest.update(video.cpu().contiguous().numpy().data)
    return int.from_bytes(digest.digest(), "big", signed=True)
