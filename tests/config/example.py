"""A small model, a small data set and configs that name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from torch import Tensor, nn

from vidgen.config import check, compose
from vidgen.data.dataset import VideoDataset
from vidgen.data.request import ClipRequest
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.models.base import VideoModel


class _WithWidths(VideoModel):
    """Base of the model of these tests.

    Args:
        widths: channels of each layer.
        norm: kind of normalisation.
    """

    def __init__(self, widths: tuple[int, ...] = (8, 8), norm: Literal["batch", "group"] = "batch") -> None:
        super().__init__()
        self.widths = widths


class FakeModel(_WithWidths):
    """A model that takes every kind of argument.

    Args:
        dim_content: numbers in the content code.
        rate: step size.
        first_stage: checkpoint of another model.
        causal: whether it looks ahead.
    """

    task = "unconditional"

    def __init__(
        self,
        dim_content: int,
        rate: float = 1e-3,
        first_stage: Path | None = None,
        causal: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.layer = nn.Linear(dim_content, 1)
        self.rate = rate
        self.first_stage = first_stage


@dataclass(frozen=True)
class Part:
    """Which videos.

    Args:
        share: fraction of them.
        names: groups.
    """

    share: float = 0.9
    names: Sequence[int | str] = ()


class FakeData(VideoDataset):
    """Videos of zeros.

    Args:
        root: folder of the videos.
        resolution: pixels.
        num_frames: frames of a clip.
        part: which videos.
        seed: seed of the videos themselves.
    """

    def __init__(self, root: Path, resolution: int, num_frames: int, part: Part = Part(), seed: int = 7) -> None:
        super().__init__(DataSpec(3, resolution, num_frames, None, 8, num_frames, num_frames), [num_frames] * 8)
        self.root, self.part, self.seed = root, part, seed

    def read(self, request: ClipRequest) -> dict[str, Tensor]:
        raise NotImplementedError


GOOD = """\
seed: 3
model:
  name: tests.config.example.FakeModel
  dim_content: 5
data:
  name: tests.config.example.FakeData
  root: videos
  resolution: 8
  num_frames: 4
  batch_size: 2
trainer:
  max_steps: 10
"""

STAGES = (
    GOOD
    + """\
stages:
  first:
    model: {dim_content: 6}
    trainer: {max_steps: 20}
  second:
    model: {first_stage: "${checkpoint:first}", rate: 1e-4}
    init_from: ${checkpoint:first}
"""
)


def write(text: str, name: str = "c.yaml") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return name


def message(text: str, *overrides: str) -> str:
    """What is wrong with a config."""
    with pytest.raises(UserError) as caught:
        check(compose(write(text), overrides))
    return str(caught.value)


def sections(path: str, *overrides: str) -> dict[str, Any]:
    ((_, found),) = compose(path, overrides).for_stages()
    return found
