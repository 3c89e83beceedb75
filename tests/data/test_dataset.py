"""What a data set of one's own has to bring."""

from __future__ import annotations

from itertools import islice

import torch

from vidgen.data.dataset import VideoDataset
from vidgen.data.module import VideoDataModule
from vidgen.data.request import ClipRequest
from vidgen.data.spec import DataSpec


class Counters(VideoDataset):
    """Every pixel of frame t is t / 10."""

    def __init__(self) -> None:
        spec = DataSpec(1, 4, 2, None, 3, 4, 6, ("even", "odd"))
        super().__init__(spec, lengths=[4, 5, 6], labels=[0, 1, 0], stride=2)

    def read(self, request: ClipRequest) -> dict[str, torch.Tensor]:
        clip = self.describe_clip(request)
        size = request.resolution
        return {"video": (clip["times"] / 10).view(1, -1, 1, 1).repeat(1, 1, size, size), **clip}


def test_a_data_set_of_a_few_lines_trains():
    for batch in islice(VideoDataModule(Counters(), batch_size=2, images_per_batch=3).train_dataloader(), 10):
        assert batch["video"].shape == (2, 1, 2, 4, 4) and batch["images"].shape == (3, 1, 4, 4)
        assert torch.equal(batch["times"][:, 1] - batch["times"][:, 0], torch.full((2,), 2.0))
        assert torch.equal(batch["video"][:, 0, :, 0, 0], batch["times"] / 10)
        assert torch.equal(batch["label"], batch["length"] % 2)


def test_it_describes_itself():
    assert Counters().describe() == (
        "3 videos of 4 to 6 frames (15 in all)\n"
        "clips of 1 x 2 x 4 x 4 (channels, frames, height, width), stride 2\n"
        "2 classes: even (2), odd (1)"
    )


def test_many_classes_are_abbreviated():
    dataset = Counters()
    dataset.spec = DataSpec(1, 4, 2, None, 3, 4, 6, tuple(f"class{i}" for i in range(14)))
    last = dataset.describe().splitlines()[-1]
    assert last.startswith("14 classes: class0 (2), class1 (1), class2 (0), ") and last.endswith("(0), and 2 more")
