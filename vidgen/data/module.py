"""Feeds requests to a data set and batches to training."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vidgen.data.dataset import UnreadableVideo, VideoDataset
from vidgen.data.request import BatchRequest, ClipRequest
from vidgen.data.sampler import EvaluationSampler, IterationSampler, check_batch
from vidgen.data.spec import DataSpec
from vidgen.data.transforms import to_clips
from vidgen.errors import UserError
from vidgen.seeding import derive_seed

Batch = dict[str, Tensor]

MOST_REPLACEMENTS = 64
"""Videos in a row that may turn out to be unreadable before it is taken for an error of the whole data set."""

_log = logging.getLogger("vidgen.data")


class VideoDataModule(pl.LightningDataModule):
    """Endless training batches whose order is a function of the seed and the iteration number alone.

    Args:
        dataset: what is read.
        batch_size: clips of a global batch, shared equally by all processes.
        images_per_batch: separate frames of a global batch (``images``), drawn from all frames of all videos; for
            models with a discriminator of single images.
        clips_per_video: clips of each video in an epoch (1: as in MoCoGAN's loader).
        official_frame_index: draw ``images`` by the count of MoCoGAN's loader, in which the first frame of the first
            video appears twice and the last frame of the last video never.
        num_workers: processes that read; 0 reads in the training process. Any number gives the same batches.
        seed: seed of the run.
        batches_per_iteration: 0 makes each element of the training loader one batch; n makes it a list of n batches,
            which is what one iteration of a model with several optimisers consumes.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        *,
        batch_size: int,
        images_per_batch: int = 0,
        clips_per_video: int = 1,
        official_frame_index: bool = False,
        num_workers: int = 0,
        seed: int = 0,
        batches_per_iteration: int = 0,
    ) -> None:
        super().__init__()
        if num_workers < 0:
            raise UserError(f"data.num_workers is {num_workers}; it must be at least 0")
        if images_per_batch and dataset.spec.encoding is not None:
            raise UserError(
                f"data.images_per_batch {images_per_batch}: the data holds {dataset.spec.encoding['key']}, no frames;"
                " leave it out"
            )
        check_batch(dataset, batch_size, images_per_batch, clips_per_video, world_size=1)
        self.dataset = dataset
        self.batch_size = batch_size
        self.images_per_batch = images_per_batch
        self.clips_per_video = clips_per_video
        self.official_frame_index = official_frame_index
        self.num_workers = num_workers
        self.seed = seed
        self.batches_per_iteration = batches_per_iteration
        self.skipped: dict[str, str] = dict(dataset.skipped)
        """Files that could not be used so far, and why: those found at the start and those met by this process."""
        self._start: int | None = None

    @property
    def spec(self) -> DataSpec:
        """What the data set holds."""
        return self.dataset.spec

    def set_iteration(self, number: int) -> None:
        """Let the next training loader begin with element ``number``, counted from 0.

        Not needed under a trainer: the loader begins where the trainer's count of steps stands, also after a resume.
        """
        self._start = number

    def train_dataloader(self) -> BatchLoader:
        """An endless loader; the element of an iteration is the same in every run of the same seed.

        Raises:
            UserError: the batch cannot be shared equally by the processes.
        """
        rank, world_size = self._rank_and_world_size()
        sampler = IterationSampler(
            self.dataset,
            self.batch_size,
            images_per_batch=self.images_per_batch,
            batches_per_iteration=max(1, self.batches_per_iteration),
            clips_per_video=self.clips_per_video,
            official_frame_index=self.official_frame_index,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            start_iteration=self._first_element(),
        )
        return self._loader(sampler, as_list=self.batches_per_iteration > 0)

    def evaluation_loader(self, batch_size: int | None = None, clips_per_video: int = 1) -> BatchLoader:
        """One pass over all videos for this process, in order, unflipped, without repeats to fill up the last batch.

        Args:
            batch_size: clips of a batch of this process; None for its share of the training batch.
            clips_per_video: clips of each video.
        """
        rank, world_size = self._rank_and_world_size()
        sampler = EvaluationSampler(
            self.dataset,
            batch_size or max(1, self.batch_size // world_size),
            clips_per_video=clips_per_video,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
        )
        return self._loader(sampler, as_list=False)

    def describe(self) -> str:
        """What is read and how it is batched, in a few lines of text."""
        batch = f"{self.batch_size} clips" + (f" and {self.images_per_batch} images" if self.images_per_batch else "")
        epoch = len(self.dataset) * self.clips_per_video // self.batch_size
        return f"{self.dataset.describe()}\nbatches of {batch}, {epoch} in an epoch"

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _first_element(self) -> int:
        if self._start is not None:
            return self._start
        if self.trainer is None:
            return 0
        # Without several optimisers Lightning itself accumulates, and takes that many elements in a step.
        elements_per_step = 1 if self.batches_per_iteration else self.trainer.accumulate_grad_batches
        return self.trainer.global_step * elements_per_step

    def _loader(self, sampler: Sampler, as_list: bool) -> BatchLoader:
        device = self.trainer.strategy.root_device.type if self.trainer else "cpu"
        return BatchLoader(self.dataset, sampler, as_list, self.num_workers, device == "cuda", self._skip)

    def _skip(self, path: str, reason: str) -> None:
        if path not in self.skipped:
            self.skipped[path] = reason
            _log.warning("skipped %s: %s", path, reason)


class BatchLoader:
    """Iterates over a DataLoader whose workers build whole batches.

    It is no DataLoader itself, so that Lightning leaves its sampler alone whatever the trainer's arguments are, and it
    raises the one line of a :class:`UserError` that happened in a worker. No global random number is consumed.

    Args:
        dataset: what is read.
        sampler: yields a :class:`BatchRequest`, or a list of them, for each element.
        as_list: whether an element is the list of its batches; else it is the one batch.
        num_workers: processes that read.
        pin_memory: whether tensors are put where a CUDA device reads them fast.
        skip: told path and reason of each file that could not be read.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        sampler: Sampler,
        as_list: bool,
        num_workers: int,
        pin_memory: bool = False,
        skip: Callable[[str, str], None] = lambda path, reason: None,
    ) -> None:
        self.sampler = sampler
        self._skip = skip
        self._loader: DataLoader = DataLoader(
            _Reader(dataset, as_list),
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            pin_memory=pin_memory,
            generator=torch.Generator().manual_seed(derive_seed("workers")),
        )

    def __iter__(self) -> Iterator[Any]:
        for element, skipped, failure in self._loader:
            for path, reason in skipped:
                self._skip(path, reason)
            if failure is not None:
                raise UserError(failure)
            if element is not None:
                yield element


Skipped = list[tuple[str, str]]


class _Reader(Dataset):
    """Whole elements by their requests, with the files that could not be read and a message if nothing could.

    An exception would arrive from a worker as a traceback of many lines. An element of which no clip is left is None.
    """

    def __init__(self, dataset: VideoDataset, as_list: bool) -> None:
        self.dataset = dataset
        self.as_list = as_list

    def __getitem__(
        self, requests: BatchRequest | list[BatchRequest]
    ) -> tuple[Batch | list[Batch] | None, Skipped, str | None]:
        requests = requests if isinstance(requests, list) else [requests]
        skipped: Skipped = []
        try:
            batches = [batch for request in requests if (batch := read_batch(self.dataset, request, skipped))]
        except UserError as error:
            return None, skipped, str(error)
        if self.as_list:
            return batches, skipped, None
        return batches[0] if batches else None, skipped, None


def read_batch(dataset: VideoDataset, request: BatchRequest, skipped: Skipped | None = None) -> Batch:
    """Read all clips and images of a request.

    In place of a clip that cannot be read stands one of the next video, see :func:`read_clip`; an evaluation clip (one
    without a seed) is left out, so that nothing is counted twice.

    Args:
        dataset: what is read.
        request: the clips.
        skipped: gets path and reason of what could not be read.

    Returns:
        ``video`` (B, C, T, H, W), or codes, and whatever else the samples hold, stacked, and ``images``
        (B_i, C, H, W) where the request has some. Empty where no clip is left.

    Raises:
        UserError: :data:`MOST_REPLACEMENTS` videos in a row, or all there are, cannot be read.
    """
    skipped = [] if skipped is None else skipped
    samples = [sample for clip in request.clips if (sample := read_clip(dataset, clip, skipped)) is not None]
    if not samples:
        return {}
    batch = {key: _together([sample[key] for sample in samples]) for key in samples[0]}
    images = [image for clip in request.images if (image := read_clip(dataset, clip, skipped)) is not None]
    if images:
        batch["images"] = _together([image["video"][:, 0] for image in images])
    return batch


def _together(values: Sequence[Tensor]) -> Tensor:
    return to_clips(values) if values[0].dtype == torch.uint8 else torch.stack(list(values))


def read_clip(dataset: VideoDataset, request: ClipRequest, skipped: Skipped) -> Batch | None:
    """Read a clip, or, where a video turns out to be damaged or gone, a clip of the next video that can be read.

    What stands in depends on the request alone: the clip that the next video gives for the same seed, and where one
    frame was asked for, the same frame of it, counted again from its start where it is shorter.

    Args:
        dataset: what is read.
        request: the clip.
        skipped: gets path and reason of what could not be read.

    Returns:
        The sample, of :meth:`VideoDataset.read_levels`; None for a request without a seed whose video cannot be read.

    Raises:
        UserError: :data:`MOST_REPLACEMENTS` videos in a row, or all there are, cannot be read.
    """
    most = min(len(dataset), MOST_REPLACEMENTS)
    for step in range(most):
        try:
            return dataset.read_levels(_instead(dataset, request, step) if step else request)
        except UnreadableVideo as error:
            skipped.append((error.path, error.reason))
            if request.seed is None:
                return None
    path, reason = skipped[-1]
    many = f"{most} videos in a row" if most < len(dataset) else f"all {most} videos of the data set"
    raise UserError(f"{many} cannot be read (the last, {path!r}: {reason}); is the disk still there?")


def _instead(dataset: VideoDataset, request: ClipRequest, step: int) -> ClipRequest:
    """The request of a video further on that stands in for one that cannot be read."""
    assert request.seed is not None
    video = (request.video + step) % len(dataset)
    if len(request.times) == 1:
        times: tuple[int, ...] = (request.times[0] % int(dataset.lengths[video]),)
    else:
        times = dataset.clip_times(video, derive_seed(request.seed, "start"))
    return replace(request, video=video, times=times)
