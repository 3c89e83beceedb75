"""One pass over the clips of a source: decoded once, seen by every network that somebody asks."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vidgen.distributed import world
from vidgen.errors import UserError
from vidgen.evaluation.features import CHUNK, Chunk, FeatureStore, TensorStore
from vidgen.evaluation.sources import Clip, ClipSource, StoredClips, Unusable
from vidgen.metrics.base import FeatureMetric
from vidgen.progress import Progress

AHEAD = 2
"""Batches that are decoded while one is looked at."""

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
        about = zip(chunk.numbers.tolist(), chunk.digests.tolist(), chunk.sizes.tolist(), strict=True)
        for number, digest, (height, width) in about:
            self._add(number, digest, (height, width))
        self.unusable.update({entry.number: entry for entry in chunk.unusable})

    def see(self, read: Read) -> None:
        """Take over what was read."""
        for item in read:
            if isinstance(item, Unusable):
                self.unusable[item.number] = item
            else:
                self._add(item.number, digest_of(item.video), _size(item.video))

    def _add(self, number: int, digest: int, size: tuple[int, int]) -> None:
        if number not in self.digests:  # every group of metrics tells the same
            self.digests[number] = digest
            self.sizes[size] = self.sizes.get(size, 0) + 1

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

    Clips are read, and looked at, a batch at a time; their features are kept on the disk by chunks of :data:`CHUNK`.

    Args:
        source: the clips.
        metrics: what looks at them.
        real: which side they are.
        device: where networks run.
        batch_size: clips in memory at once, :data:`CHUNK` at most; a few more are read ahead.
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
        self._one_at_a_time = Lock()  # a data set is not made for two threads
        identity = source.identity()
        self.samples = TensorStore({"source": identity}, keep)
        groups: dict[str, _Group] = {}
        for metric in metrics:
            store = FeatureStore(identity, metric.extraction(real), keep)
            groups.setdefault(str(store.tensors.folder), _Group(store, [])).metrics.append(metric)
        self.groups = list(groups.values())

    def run(self) -> Facts:
        """Look at this process's share of the clips: every W-th chunk.

        Raises:
            UserError: clips cannot be made.
            ValueError: a metric refuses what it is given.
        """
        rank, size = world()
        chunks = range(rank, -(-len(self.source) // CHUNK), size)
        for metric in (metric for group in self.groups for metric in group.metrics):
            metric.extractor.to(self.device)
        missing = {chunk for chunk in chunks if not self._is_kept(chunk)}
        total = sum(len(self._numbers(chunk)) for chunk in chunks)
        side = "real" if self.real else "fake"
        with (
            closing(self._read([batch for chunk in sorted(missing) for batch in self._batches(chunk)])) as reading,
            Progress(total, "measured", f"{side} videos", self.progress and rank == 0, last_line=False) as bar,
        ):
            for chunk in chunks:
                self._show(chunk, reading if chunk in missing else None)
                bar.advance(len(self._numbers(chunk)))
        return self.facts

    def _numbers(self, chunk: int) -> range:
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.source)))

    def _batches(self, chunk: int) -> list[range]:
        numbers = self._numbers(chunk)
        return [numbers[first : first + self.batch_size] for first in range(0, len(numbers), self.batch_size)]

    def _is_kept(self, chunk: int) -> bool:
        numbers = self._numbers(chunk)
        samples = (self.samples.load(_name(number)) for number in numbers if number < self.num_samples)
        return all(group.store.load(chunk, numbers) for group in self.groups) and all(samples)

    def _show(self, number: int, reading: Iterator[Read] | None) -> None:
        """Give the features of a chunk to the metrics.

        Args:
            number: which chunk.
            reading: gives its batches; None where everything about it was kept.
        """
        kept = [group.store.load(number, self._numbers(number)) for group in self.groups]
        if reading is None:  # nothing is read, unless somebody has emptied the cache in the meantime
            reading = map(self._read_batch, self._batches(number) if None in kept else ())
        chunks = self._look(number, kept, reading)
        for group, chunk in zip(self.groups, chunks, strict=True):
            self.facts.add(chunk)
            if len(chunk.numbers):
                for metric in group.metrics:
                    features = chunk.features.to(metric.device)
                    metric.add(features, self.real, chunk.numbers.tolist(), self.source.clips.num_frames)
        self._take_samples(number)

    def _look(self, number: int, kept: Sequence[Chunk | None], reading: Iterator[Read]) -> list[Chunk]:
        """The chunk as each group sees it: those that were kept, and new ones, which are kept from now on."""
        seen: dict[int, tuple[int, tuple[int, int]]] = {}
        lost: list[Unusable] = []
        features: list[dict[int, Tensor]] = [{} for _ in self.groups]
        for _, read in zip(self._batches(number), reading, strict=False):
            clips = [clip for clip in read if isinstance(clip, Clip)]
            lost += [clip for clip in read if isinstance(clip, Unusable)]
            seen |= {
                clip.number: (digest_of(clip.video), (clip.video.shape[-2], clip.video.shape[-1])) for clip in clips
            }
            for group, chunk, into in zip(self.groups, kept, features, strict=True):
                if chunk is None:
                    into |= self._features(group.metrics[0], clips)
            self._keep_samples(read)
        whole: list[Chunk] = []
        for group, chunk, new in zip(self.groups, kept, features, strict=True):
            if chunk is None:
                chunk = _chunk(new, seen, lost)
                group.store.save(number, chunk)
            whole.append(chunk)
        return whole

    def _features(self, metric: FeatureMetric, clips: Sequence[Clip]) -> dict[int, Tensor]:
        features: dict[int, Tensor] = {}
        for alike in _by_shape(clips):
            videos = torch.stack([clip.video for clip in alike]).to(self.device)
            found = metric.extract(videos, self.real).float().cpu()
            features.update(zip((clip.number for clip in alike), found, strict=True))
        return features

    def _keep_samples(self, read: Read) -> None:
        for item in read:
            if item.number >= self.num_samples:
                continue
            if isinstance(item, Clip):
                self.facts.samples[item.number] = item.video.permute(1, 2, 3, 0).cpu().numpy()
                self.samples.save(_name(item.number), {"video": item.video.cpu()})
            elif not item.passing:
                self.samples.save(_name(item.number), {"video": torch.empty(0, dtype=torch.uint8)})

    def _take_samples(self, chunk: int) -> None:
        """Samples that were kept by an earlier pass."""
        for number in self._numbers(chunk):
            kept = self.samples.load(_name(number)) if number < self.num_samples else None
            if kept is not None and kept["video"].ndim == 4:
                self.facts.samples[number] = kept["video"].permute(1, 2, 3, 0).numpy()

    def _read(self, batches: Sequence[Sequence[int]]) -> Generator[Read]:
        """Clips by their numbers; stored ones are decoded while the networks run."""
        if not isinstance(self.source, StoredClips):
            yield from map(self._read_batch, batches)
        elif self.workers:
            loader: DataLoader[Any] = DataLoader(
                _Batches(self.source, batches),
                batch_size=None,
                num_workers=min(self.workers, len(batches)),
                prefetch_factor=AHEAD if batches else None,
                collate_fn=_as_it_is,
            )
            for read in loader:
                if isinstance(read, str):
                    raise UserError(read)
                yield read
        else:
            yield from self._read_in_thread(batches)

    def _read_batch(self, batch: Sequence[int]) -> Read:
        with self._one_at_a_time:
            return self.source.read(batch)

    def _read_in_thread(self, batches: Sequence[Sequence[int]]) -> Iterator[Read]:
        pool = ThreadPoolExecutor(1, "vidgen-reading")
        waiting: deque[Future[Read]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(self._read_batch, batch))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@dataclass
class _Group:
    """Metrics that share a look at the clips.

    Args:
        store: where it is kept.
        metrics: the metrics.
    """

    store: FeatureStore
    metrics: list[FeatureMetric]


class _Batches(Dataset):
    def __init__(self, source: ClipSource, batches: Sequence[Sequence[int]]) -> None:
        self.source = source
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, batch: int) -> Read | str:
        try:
            return self.source.read(self.batches[batch])
        except UserError as error:  # as an exception it would arrive as a traceback of many lines
            return str(error)


def _as_it_is(read: Any) -> Any:
    return read


def _name(number: int) -> str:
    return f"clip_{number:06d}"


def _size(video: Tensor) -> tuple[int, int]:
    return video.shape[-2], video.shape[-1]


def _chunk(features: dict[int, Tensor], seen: dict[int, tuple[int, tuple[int, int]]], lost: list[Unusable]) -> Chunk:
    numbers = sorted(features)
    return Chunk(
        torch.tensor(numbers, dtype=torch.int64),
        torch.stack([features[number] for number in numbers]) if numbers else torch.zeros(0, 1),
        torch.tensor([seen[number][0] for number in numbers], dtype=torch.int64),
        torch.tensor([seen[number][1] for number in numbers], dtype=torch.int64).reshape(-1, 2),
        tuple(lost),
    )


def _by_shape(clips: Sequence[Clip]) -> list[list[Clip]]:
    """Clips of one shape together."""
    shapes: dict[tuple[int, ...], list[Clip]] = {}
    for clip in clips:
        shapes.setdefault(tuple(clip.video.shape), []).append(clip)
    return list(shapes.values())


def digest_of(video: Tensor) -> int:
    """Tells the pixels of a clip, uint8 ``(C, T, H, W)``, from others; 64 bits with a sign."""
    digest = hashlib.blake2b(str(tuple(video.shape)).encode(), digest_size=8)
    digest.update(video.cpu().contiguous().numpy().data)
    return int.from_bytes(digest.digest(), "big", signed=True)
