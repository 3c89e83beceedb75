"""Feeds requests to a data set and batches to training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vidgen.data.dataset import VideoDataset
from vidgen.data.request import BatchRequest
from vidgen.data.sampler import EvaluationSampler, IterationSampler, check_batch
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.seeding import derive_seed

Batch = dict[str, Tensor]


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
        check_batch(dataset, batch_size, images_per_batch, clips_per_video, world_size=1)
        self.dataset = dataset
        self.batch_size = batch_size
        self.images_per_batch = images_per_batch
        self.clips_per_video = clips_per_video
        self.official_frame_index = official_frame_index
        self.num_workers = num_workers
        self.seed = seed
        self.batches_per_iteration = batches_per_iteration
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
        return BatchLoader(self.dataset, sampler, as_list, self.num_workers, device == "cuda")


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
    """

    def __init__(
        self, dataset: VideoDataset, sampler: Sampler, as_list: bool, num_workers: int, pin_memory: bool = False
    ) -> None:
        self.sampler = sampler
        self._loader: DataLoader = DataLoader(
            _Reader(dataset, as_list),
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            pin_memory=pin_memory,
            generator=torch.Generator().manual_seed(derive_seed("workers")),
        )

    def __iter__(self) -> Iterator[Any]:
        for element in self._loader:
            if isinstance(element, _Failure):
                raise UserError(element.message)
            yield element


class _Failure:
    """A message on its way from a worker; an exception would arrive as a traceback of many lines."""

    def __init__(self, message: str) -> None:
        self.message = message


class _Reader(Dataset):
    """Whole elements by their requests."""

    def __init__(self, dataset: VideoDataset, as_list: bool) -> None:
        self.dataset = dataset
        self.as_list = as_list

    def __getitem__(self, requests: BatchRequest | list[BatchRequest]) -> Batch | list[Batch] | _Failure:
        requests = requests if isinstance(requests, list) else [requests]
        try:
            batches = [read_batch(self.dataset, request) for request in requests]
        except UserError as error:
            return _Failure(str(error))
        return batches if self.as_list else batches[0]


def read_batch(dataset: VideoDataset, request: BatchRequest) -> Batch:
    """Read all clips and images of a request.

    Returns:
        ``video`` (B, C, T, H, W) and whatever else the samples hold, stacked, and ``images`` (B_i, C, H, W) where the
        request has some.
    """
    samples = [dataset.read(clip) for clip in request.clips]
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    if request.images:
        batch["images"] = torch.stack([dataset.read(image)["video"][:, 0] for image in request.images])
    return batch
