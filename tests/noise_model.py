"""A model without weights worth the name whose videos are seeded noise: what sampling tests make videos with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vidgen.models.base import Batch, VideoModel
from vidgen.registry import MODELS
from vidgen.seeding import derive_seed


@MODELS.register("seeded_noise")
class SeededNoise(VideoModel):
    """Video n is noise from the seed (seed, n), shifted by a weight.

    Args:
        size: height and width, pixels.
        num_frames: frames of a video.
        channels: colour channels.
        poisoned: number of the video that is NaN; None for none.
        context: batch key that sampling needs; empty for none.
    """

    def __init__(
        self, size: int = 16, num_frames: int = 3, channels: int = 3, poisoned: int | None = None, context: str = ""
    ) -> None:
        super().__init__()
        self.size, self.num_frames, self.channels = size, num_frames, channels
        self.poisoned, self.context = poisoned, context
        self.shift = nn.Parameter(torch.zeros(()))
        self.calls: list[tuple[int, int]] = []

    @property
    def task(self) -> str:
        """Conditional in name."""
        return "class_conditional"

    @property
    def sample_keys(self) -> tuple[str, ...]:
        """What ``context`` says."""
        return (self.context,) if self.context else ()

    def sample(
        self,
        num_videos: int,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch: Batch | None = None,
        label: int | Tensor | None = None,
        contrast: float = 1.0,
        style: Literal["plain", "mirrored"] = "plain",
        inverted: bool = False,
        tint: Sequence[float] | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Make noise.

        Args:
            num_videos: how many.
            num_frames: length in frames; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            batch: not needed.
            label: class of all videos, an index; None for any.
            contrast: factor of all values,
                in [0, 1].
            style: ``mirrored`` flips left and right.
            inverted: change the sign.
            tint: added to each channel.
            latents: not for a command line.
        """
        self.calls.append((first, num_videos))
        shape = (self.channels, num_frames or self.num_frames, self.size, self.size)
        videos = []
        for number in range(first, first + num_videos):
            generator = torch.Generator().manual_seed(derive_seed(seed, "sample", number))
            video = torch.rand(shape, generator=generator) * 2 - 1
            video = video * contrast + self.shift + (label or 0) / 10
            videos.append(video * float("nan") if number == self.poisoned else video)
        made = torch.stack(videos).flip(-1) if style == "mirrored" else torch.stack(videos)
        if tint is not None:
            made = made + torch.tensor(tint)[:, None, None, None]
        return (-made if inverted else made).clamp(-1, 1)


def payload(model: VideoModel, average: dict[str, Any] | None = None, **about: Any) -> dict[str, Any]:
    """A checkpoint of a model."""
    from vidgen.checkpoint import describe_model

    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return {"state_dict": state, "vidgen": {**describe_model(model), **about}, **({"ema": average} if average else {})}
