"""Which videos come in which iteration: a function of the seed and the iteration number, and of nothing else.

Order is decided for the global batch; the process of rank r among W then takes items r, r + W, ... of it. So neither
the number of processes, nor the number of workers, nor an interruption changes what is trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from vidgen.data.dataset import VideoDataset
from vidgen.data.request import BatchRequest, ClipRequest
from vidgen.errors import UserError
from vidgen.seeding import derive_seed

Integers = NDArray[np.int64]


def permutation(num_items: int, *key: int | str) -> Integers:
    """A random order of ``0 ... num_items - 1`` that is a function of ``key``, whatever the version of NumPy."""
    draws = np.random.PCG64(derive_seed(*key)).random_raw(num_items)
    return np.argsort(draws, kind="stable")


class EndlessOrder:
    """Items shuffled anew in each epoch; what is left of an epoch after its last whole batch is dropped.

    Args:
        num_items: items of an epoch.
        batch_size: items of a (global) batch, at most ``num_items``.
        seed: see :func:`vidgen.seeding.derive_seed`.
        stream: keeps orders of one seed apart (``"clips"``, ``"images"``).
    """

    def __init__(self, num_items: int, batch_size: int, seed: int, stream: str) -> None:
        self.num_items = num_items
        self.batch_size = batch_size
        self.seed = seed
        self.stream = stream
        self.batches_per_epoch = num_items // batch_size
        self._shuffled: tuple[int, Integers] = (-1, np.empty(0, np.int64))

    def batch(self, number: int) -> tuple[int, Integers]:
        """Epoch and items of batch ``number``, counted from 0 over all epochs."""
        epoch, position = divmod(number, self.batches_per_epoch)
        if self._shuffled[0] != epoch:
            self._shuffled = (epoch, permutation(self.num_items, self.seed, self.stream, epoch))
        start = position * self.batch_size
        return epoch, self._shuffled[1][start : start + self.batch_size]


def locate_frames(items: Integers, lengths: Integers, official: bool = False) -> tuple[Integers, Integers]:
    """Video and frame of each number in a count over all frames of all videos.

    Args:
        items: numbers in ``[0, sum(lengths))``.
        lengths: frames of each video.
        official: count as MoCoGAN's loader does, whose item 1 is again frame 0 of video 0, so that the last frame of
            the last video is never reached.

    Returns:
        Indices of the videos and of the frames in them.
    """
    return _locate(items, _first_frames(lengths), official)


def _first_frames(lengths: Integers) -> Integers:
    """Number of each video's first frame in a count over all frames, and the number of all frames."""
    return np.concatenate([[0], np.cumsum(lengths)])


def _locate(items: Integers, first: Integers, official: bool) -> tuple[Integers, Integers]:
    if official:
        items = np.maximum(items - 1, 0)
    videos = np.searchsorted(first, items, side="right") - 1
    return videos, items - first[videos]


class IterationSampler(Sampler[list[BatchRequest]]):
    """Endless; its element k is everything that one process reads in iteration k.

    Args:
        dataset: says how many frames each video has and how clips are cut.
        batch_size: clips of a global batch.
        images_per_batch: separate frames of a global batch, drawn from all frames of all videos.
        batches_per_iteration: fresh batches in each element.
        clips_per_video: clips of each video in an epoch.
        official_frame_index: see :func:`locate_frames`.
        seed: decides the order, the starts of the clips and the seeds of the requests.
        rank: this process.
        world_size: processes that share the global batch.
        start_iteration: the first element yielded.

    Raises:
        UserError: the batch cannot be shared equally, or is larger than the data set.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        batch_size: int,
        *,
        images_per_batch: int = 0,
        batches_per_iteration: int = 1,
        clips_per_video: int = 1,
        official_frame_index: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start_iteration: int = 0,
    ) -> None:
        check_batch(dataset, batch_size, images_per_batch, clips_per_video, world_size)
        self.dataset = dataset
        self.batches_per_iteration = batches_per_iteration
        self.official_frame_index = official_frame_index
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.start_iteration = start_iteration
        self._clips = EndlessOrder(len(dataset) * clips_per_video, batch_size, seed, "clips")
        self._images: EndlessOrder | None = None
        if images_per_batch:
            self._first_frames = _first_frames(dataset.lengths)
            self._images = EndlessOrder(int(self._first_frames[-1]), images_per_batch, seed, "images")

    def __iter__(self) -> Iterator[list[BatchRequest]]:
        return map(self.iteration, count(self.start_iteration))

    def iteration(self, number: int) -> list[BatchRequest]:
        """The batches of iteration ``number``, counted from 0."""
        first = number * self.batches_per_iteration
        return [self.batch(first + i) for i in range(self.batches_per_iteration)]

    def batch(self, number: int) -> BatchRequest:
        """The part of this rank of global batch ``number``, counted from 0."""
        clips = self._clip_requests(number)
        images = self._image_requests(number) if self._images else ()
        return BatchRequest(clips, images)

    def _clip_requests(self, number: int) -> tuple[ClipRequest, ...]:
        epoch, items = self._clips.batch(number)
        requests = []
        for item in items[self.rank :: self.world_size].tolist():
            seed = derive_seed(self.seed, "clip", epoch, item)
            requests.append(clip_request(self.dataset, item % len(self.dataset), seed))
        return tuple(requests)

    def _image_requests(self, number: int) -> tuple[ClipRequest, ...]:
        assert self._images is not None
        epoch, items = self._images.batch(number)
        items = items[self.rank :: self.world_size]
        videos, frames = _locate(items, self._first_frames, self.official_frame_index)
        resolution = self.dataset.spec.resolution
        return tuple(
            ClipRequest(video, (frame,), resolution, derive_seed(self.seed, "image", epoch, item))
            for item, video, frame in zip(items.tolist(), videos.tolist(), frames.tolist(), strict=True)
        )


def clip_request(dataset: VideoDataset, video: int, seed: int) -> ClipRequest:
    """The training clip of a video that belongs to a seed."""
    times = dataset.clip_times(video, derive_seed(seed, "start"))
    return ClipRequest(video, times, dataset.spec.resolution, seed)


class EvaluationSampler(Sampler[BatchRequest]):
    """One pass over all videos in order, nothing random but the starts, which are functions of the seed.

    Rank r takes clips r, r + W, ...; nothing is repeated to fill up a batch or a rank, so that ranks may differ by a
    clip, and the last batch may be smaller.

    Args:
        dataset: says how many frames each video has and how clips are cut.
        batch_size: clips of a batch of this process.
        clips_per_video: clips of each video; all videos come once before any comes twice.
        seed: decides the starts.
        rank: this process.
        world_size: processes that share the work.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        batch_size: int,
        *,
        clips_per_video: int = 1,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self._items = range(rank, len(dataset) * clips_per_video, world_size)

    def __len__(self) -> int:
        return -(-len(self._items) // self.batch_size)

    def __iter__(self) -> Iterator[BatchRequest]:
        for first in range(0, len(self._items), self.batch_size):
            items = self._items[first : first + self.batch_size]
            yield BatchRequest(tuple(self._request(item) for item in items))

    def _request(self, item: int) -> ClipRequest:
        video = item % len(self.dataset)
        times = self.dataset.clip_times(video, derive_seed(self.seed, "evaluation", item))
        return ClipRequest(video, times, self.dataset.spec.resolution)


def check_batch(
    dataset: VideoDataset, batch_size: int, images_per_batch: int, clips_per_video: int, world_size: int
) -> None:
    """Refuse batches that cannot be filled or shared.

    Raises:
        UserError: naming the setting and what would be right.
    """
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("images_per_batch", images_per_batch, 0),
        ("clips_per_video", clips_per_video, 1),
    ):
        if value < least:
            raise UserError(f"data.{name} is {value}; it must be at least {least}")
    for name, value in (("batch_size", batch_size), ("images_per_batch", images_per_batch)):
        if value % world_size:
            raise UserError(
                f"data.{name} {value} cannot be shared by {world_size} processes; use a multiple of {world_size}"
            )
    clips = len(dataset) * clips_per_video
    if batch_size > clips:
        videos = f"{len(dataset)} videos" + (f" x {clips_per_video} clips" if clips_per_video > 1 else "")
        raise UserError(
            f"data.batch_size {batch_size} is more than the data set has ({videos});"
            f" use at most {clips} or raise data.clips_per_video"
        )
    frames = int(dataset.lengths.sum())
    if images_per_batch > frames:
        raise UserError(
            f"data.images_per_batch {images_per_batch} is more than the data set has ({frames} frames);"
            f" use at most {frames}"
        )
