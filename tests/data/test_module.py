"""Batches: the same for any number of workers and processes, before and after a break."""

from __future__ import annotations

import hashlib
import os
import warnings
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from tests.data.strips import make_strips, random_frames
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.module import VideoDataModule
from vidgen.data.transforms import to_clip
from vidgen.errors import UserError

LENGTHS = {f"{'run' if i % 2 else 'walk'}/{i}.png": 5 + i for i in range(7)}


@pytest.fixture
def dataset(tmp_path) -> FrameStrips:
    return FrameStrips(str(make_strips(tmp_path, LENGTHS)), 8, 4, flip=True)


def module(dataset: FrameStrips, **arguments) -> VideoDataModule:
    return VideoDataModule(dataset, **{"batch_size": 4, "images_per_batch": 6, "seed": 3, **arguments})


def on_rank(made: VideoDataModule, rank: int, world_size: int, step: int = 0, accumulate: int = 1) -> VideoDataModule:
    device = SimpleNamespace(root_device=torch.device("cpu"))
    made.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_rank=rank, world_size=world_size, global_step=step, accumulate_grad_batches=accumulate, strategy=device
    )
    return made


def fingerprint(element: Any) -> str:
    digest = hashlib.sha256()
    for batch in element if isinstance(element, list) else [element]:
        for key in sorted(batch):
            digest.update(f"{key}{batch[key].dtype}{tuple(batch[key].shape)}".encode() + batch[key].numpy().tobytes())
    return digest.hexdigest()


def elements(made: VideoDataModule, number: int) -> list[Any]:
    return list(islice(made.train_dataloader(), number))


def fingerprints(made: VideoDataModule, number: int = 8) -> list[str]:
    return [fingerprint(element) for element in elements(made, number)]


def test_a_batch_has_the_agreed_keys_shapes_and_types(dataset):
    (batch,) = elements(module(dataset), 1)
    assert {key: (tuple(value.shape), value.dtype) for key, value in batch.items()} == {
        "video": ((4, 3, 4, 8, 8), torch.float32),
        "images": ((6, 3, 8, 8), torch.float32),
        "times": ((4, 4), torch.float32),
        "length": ((4,), torch.int64),
        "label": ((4,), torch.int64),
    }


def test_an_element_is_a_batch_or_a_list_of_batches(dataset):
    flat = elements(module(dataset), 6)
    grouped = elements(module(dataset, batches_per_iteration=3), 2)
    assert [len(element) for element in grouped] == [3, 3]
    assert [fingerprint(b) for element in grouped for b in element] == [fingerprint(b) for b in flat]
    assert isinstance(elements(module(dataset, batches_per_iteration=1), 1)[0], list)


def test_pixels_are_those_of_the_files(tmp_path):
    dataset = FrameStrips(str(make_strips(tmp_path, LENGTHS)), 8, 4)
    by_length = {length: random_frames(length, 8, seed=seed) for seed, length in enumerate(LENGTHS.values())}
    (batch,) = elements(module(dataset), 1)
    for video, times, length in zip(batch["video"], batch["times"], batch["length"], strict=True):
        assert torch.equal(video, to_clip(by_length[length.item()][times.long().numpy()]))


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing(dataset, num_workers):
    assert fingerprints(module(dataset, num_workers=num_workers)) == fingerprints(module(dataset))


def test_the_seed_changes_the_batches(dataset):
    assert not set(fingerprints(module(dataset))) & set(fingerprints(module(dataset, seed=4)))


def test_two_processes_share_the_batches_of_one(dataset):
    alone = elements(module(dataset), 6)
    ranks = [elements(on_rank(module(dataset), rank, 2), 6) for rank in (0, 1)]
    for number, batch in enumerate(alone):
        for rank in (0, 1):
            part = {key: value[rank::2] for key, value in batch.items()}
            assert fingerprint(part) == fingerprint(ranks[rank][number])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_loader_goes_on_where_it_stopped(dataset, num_workers):
    through = fingerprints(module(dataset), 9)
    resumed = module(dataset, num_workers=num_workers)
    resumed.set_iteration(5)
    assert fingerprints(resumed, 4) == through[5:]


def test_under_a_trainer_the_loader_starts_at_its_step(dataset):
    through = fingerprints(module(dataset), 9)
    assert fingerprints(on_rank(module(dataset), 0, 1, step=5), 4) == through[5:]
    assert fingerprints(on_rank(module(dataset), 0, 1, step=2, accumulate=3), 3) == through[6:]
    grouped = fingerprints(module(dataset, batches_per_iteration=2), 4)
    assert fingerprints(on_rank(module(dataset, batches_per_iteration=2), 0, 1, step=1, accumulate=3), 3) == grouped[1:]


class Recorder(pl.LightningModule):
    """Learns nothing and remembers every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[str] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.seen.append(fingerprint(batch))
        return self.weight * batch["video"].mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def train(dataset: FrameStrips, steps: int, path: Path, resume: Path | None = None, **arguments: Any) -> list[str]:
    model = Recorder()
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(model, datamodule=module(dataset, num_workers=1), ckpt_path=resume, weights_only=True)
    trainer.save_checkpoint(path)
    return model.seen


@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_resumes_at_the_right_batch(dataset, tmp_path, accumulate):
    arguments = {"accumulate_grad_batches": accumulate}
    through = train(dataset, 5, tmp_path / "a.ckpt", **arguments)
    first = train(dataset, 2, tmp_path / "b.ckpt", **arguments)
    rest = train(dataset, 5, tmp_path / "c.ckpt", tmp_path / "b.ckpt", **arguments)
    assert len(through) == 5 * accumulate and len(set(through)) == len(through)
    assert first + rest == through


@pytest.mark.parametrize("num_workers", [0, 1])
def test_global_generators_are_left_alone(dataset, num_workers):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    elements(module(dataset, num_workers=num_workers), 3)
    list(module(dataset, num_workers=num_workers).evaluation_loader())
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]


def test_global_generators_do_not_matter(dataset):
    first = fingerprints(module(dataset, num_workers=1))
    torch.manual_seed(99)
    np.random.seed(99)
    assert fingerprints(module(dataset, num_workers=1)) == first


def test_evaluation_sees_every_video_once_unflipped(dataset):
    batches = list(module(dataset).evaluation_loader())
    assert [len(batch["video"]) for batch in batches] == [4, 3]
    lengths = [length for batch in batches for length in batch["length"].tolist()]
    assert lengths == dataset.lengths.tolist()
    by_length = {length: random_frames(length, 8, seed=seed) for seed, length in enumerate(LENGTHS.values())}
    for batch in batches:
        for video, times, length in zip(batch["video"], batch["times"], batch["length"], strict=True):
            assert torch.equal(video, to_clip(by_length[length.item()][times.long().numpy()]))


def test_evaluation_over_processes_neither_repeats_nor_drops(dataset):
    alone = torch.cat([batch["video"] for batch in module(dataset).evaluation_loader()])
    for rank in (0, 1):
        loader = on_rank(module(dataset), rank, 2).evaluation_loader(batch_size=3)
        assert torch.equal(torch.cat([batch["video"] for batch in loader]), alone[rank::2])


def test_evaluation_may_be_repeated(dataset):
    loader = module(dataset, num_workers=1).evaluation_loader(clips_per_video=2)
    first, second = ([fingerprint(batch) for batch in loader] for _ in range(2))
    assert first == second and len(first) == 4


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_disk_that_vanishes_is_told_in_one_line(dataset, num_workers):
    paths = [dataset.path(video) for video in range(len(dataset))]
    for path in paths:
        os.remove(path)
    with pytest.raises(UserError) as error:
        elements(module(dataset, num_workers=num_workers), 1)
    reason = "it is gone); is the disk still there?"
    assert str(error.value) in [
        f"all 7 videos of the data set cannot be read (the last, {path!r}: {reason}" for path in paths
    ]


def test_batches_that_cannot_be_filled_or_shared_are_refused(dataset):
    with pytest.raises(UserError) as error:
        module(dataset, batch_size=8)
    assert str(error.value) == (
        "data.batch_size 8 is more than the data set has (7 videos); use at most 7 or raise data.clips_per_video"
    )
    with pytest.raises(UserError) as error:
        on_rank(module(dataset, batch_size=3), 0, 2).train_dataloader()
    assert str(error.value) == "data.batch_size 3 cannot be shared by 2 processes; use a multiple of 2"
    with pytest.raises(UserError) as error:
        module(dataset, num_workers=-1)
    assert str(error.value) == "data.num_workers is -1; it must be at least 0"


def test_clean_input_is_silent(dataset, capfd, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        elements(module(dataset, num_workers=1), 2)
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_description_ends_with_the_batches(dataset):
    text = module(dataset).describe()
    assert text == f"{dataset.describe()}\nbatches of 4 clips and 6 images, 1 in an epoch"
    assert module(dataset).spec is dataset.spec
