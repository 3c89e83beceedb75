"""What is read, and in which order, is a function of the seed: not of workers, processes, interruptions or storage."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.layouts import SIDE, write_layouts
from vidgen.cli.main import main
from vidgen.config import build_dataset
from vidgen.data.clips import Clips
from vidgen.data.dataset import VideoDataset
from vidgen.data.module import VideoDataModule
from vidgen.data.request import ClipRequest
from vidgen.data.sampler import IterationSampler

CLIP = {"resolution": SIDE, "num_frames": 3, "stride": 2, "flip": True}
LAYOUTS = (
    "frame_strips",
    "video_folder",
    "frame_folder",
    "frame_folder.zip",
    "frame_folder.zip with folders",
    "packed",
)
ITERATIONS = 6  # three epochs of five videos in batches of two


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The ``data`` section of each layout."""
    return write_layouts(tmp_path_factory.mktemp("layouts"))


def dataset(section: dict[str, Any], **changed: Any) -> VideoDataset:
    return build_dataset({**section, **CLIP, **changed})


def requests(data: VideoDataset, seed: int = 3, start: int = 0, **arguments: Any) -> Iterator[str]:
    """The hash of what each iteration asks for."""
    sampler = IterationSampler(
        data, 2, images_per_batch=4, batches_per_iteration=2, seed=seed, start_iteration=start, **arguments
    )
    for element in sampler:
        yield hashlib.sha256(repr(element).encode()).hexdigest()


def pixels(
    data: VideoDataset, workers: int = 0, seed: int = 3, start: int = 0, rank: int = 0, of: int = 1
) -> list[str]:
    """The hash of everything that each iteration of a rank gives."""
    module = VideoDataModule(
        data, batch_size=2, images_per_batch=4, seed=seed, num_workers=workers, batches_per_iteration=2
    )
    module._rank_and_world_size = lambda: (rank, of)  # type: ignore[method-assign]
    module.set_iteration(start)
    hashes = []
    for element in islice(module.train_dataloader(), ITERATIONS - start):
        text = hashlib.sha256()
        for batch in element:
            for key in sorted(batch):
                text.update(key.encode() + batch[key].numpy().tobytes())
        hashes.append(text.hexdigest())
    return hashes


def test_the_hashes_tell_iterations_and_seeds_apart(sections):
    data = dataset(sections["frame_strips"])
    assert len(set(islice(requests(data), 50))) == 50
    assert len(set(pixels(data))) == ITERATIONS
    assert not set(pixels(data)) & set(pixels(data, seed=4))


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_requests_do_not_depend_on_the_layout(sections, layout):
    expected = list(islice(requests(dataset(sections["frame_strips"])), 20))
    assert list(islice(requests(dataset(sections[layout])), 20)) == expected


@pytest.mark.parametrize("rule", ["sparse", "even"])
def test_sparse_requests_do_not_depend_on_the_layout_either(sections, rule):
    sparse = {"clips": Clips(rule, max_span=8), "stride": 1}
    expected = list(islice(requests(dataset(sections["frame_strips"], **sparse)), 20))
    assert len(set(expected)) == 20
    assert list(islice(requests(dataset(sections["packed"], **sparse)), 20)) == expected


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_pixels_do_not_depend_on_the_layout(sections, layout):
    assert pixels(dataset(sections[layout])) == pixels(dataset(sections["frame_strips"]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_first_frames_and_repeated_last_ones_do_not_depend_on_the_layout(sections, layout):
    data = dataset(sections[layout], clips=Clips(start="first", repeat_last=True), num_frames=18, stride=1)
    assert data.spec.min_length == 12
    for batch in VideoDataModule(data, batch_size=1).evaluation_loader():
        length = int(batch["length"])
        assert batch["times"][0].tolist() == [min(time, length - 1) for time in range(18)]
        strips = dataset(sections["frame_strips"], num_frames=length, stride=1, min_length=length)
        number = next(n for n in range(len(strips)) if strips.lengths[n] == length)
        whole = strips.read(ClipRequest(number, tuple(range(length)), SIDE))["video"]
        assert torch.equal(batch["video"][0], whole[:, batch["times"][0].long()])


@pytest.mark.parametrize("layout", ["video_folder", "frame_folder.zip", "packed"])
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_neither_workers_nor_an_interruption_change_what_is_read(sections, layout):
    data = dataset(sections[layout])
    expected = pixels(data)
    assert pixels(data, workers=1) == expected
    assert pixels(data, workers=3, start=2) == expected[2:]


@pytest.mark.parametrize("workers", [0, 1])
def test_two_processes_read_what_one_reads_between_them(sections, workers):
    packed, strips = dataset(sections["packed"]), dataset(sections["frame_strips"])
    for rank in (0, 1):
        assert pixels(packed, workers, rank=rank, of=2) == pixels(strips, rank=rank, of=2)
        ours = IterationSampler(packed, 2, images_per_batch=4, seed=3, rank=rank, world_size=2)
        whole = IterationSampler(strips, 2, images_per_batch=4, seed=3)
        for number in range(20):
            (share,), (batch,) = ours.iteration(number), whole.iteration(number)
            assert share.clips == batch.clips[rank::2] and share.images == batch.images[rank::2]


CONFIG = """\
seed: 2
model: {name: mocogan, resolution: 16, num_frames: 10, dim_content: 4, dim_motion: 3, generator_width: 4,
  discriminator_width: 4, dim_category: 2}
data: {name: frame_strips, root: ".", resolution: 16, num_frames: 10, flip: true, batch_size: 2, images_per_batch: 2}
trainer: {max_steps: 4, accelerator: cpu, enable_progress_bar: false}
checkpoint: {every: 4}
log: {every: 4, num_samples: 1}
"""


def weights(folder: Path, section: dict[str, Any], *more: str) -> dict[str, torch.Tensor]:
    """The weights of MoCoGAN after some iterations on a layout."""
    (folder / "x.yaml").write_text(CONFIG)
    given = [f"data.{key}={value}" for key, value in section.items()]
    run = folder / f"run_{len(list(folder.iterdir()))}"
    assert main(["fit", "--config", str(folder / "x.yaml"), "--out", str(run), *given, *more]) == 0
    return torch.load(run / "checkpoints" / "iteration_00000004.ckpt", weights_only=True)["state_dict"]


def test_mocogan_trains_to_the_same_weights_from_every_layout(sections, tmp_path, monkeypatch):
    for name in ("VIDGEN_RUN_DIR", "RANK", "LOCAL_RANK", "SLURM_PROCID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    expected = weights(tmp_path, sections["frame_strips"])
    other = weights(tmp_path, sections["frame_strips"], "data.flip=false")
    assert any(not torch.equal(expected[key], other[key]) for key in expected)
    for layout in ("video_folder", "frame_folder.zip", "packed"):
        trained = weights(tmp_path, sections[layout])
        assert all(torch.equal(trained[key], expected[key]) for key in expected), layout
