"""A tiny encoder of exact whole numbers, and a tiny model that is trained on codes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidgen.data.encoding import Encoding
from vidgen.models.base import Batch, LikelihoodModel, LossTerms, VideoModel
from vidgen.registry import MODELS
from vidgen.seeding import NoiseStream, derive_seed

CODES, STRIDE, HALO = 251, 2, 4


def tokens_of(video: Tensor) -> Tensor:
    """Tokens ``(B, T / 2, H / 4, W / 4)`` of videos in [-1, 1]; each depends on 3 frames before its own 2 and 2 behind.

    Made of whole numbers, so that no rounding depends on what is encoded together.
    """
    levels = ((video.double() + 1) * 127.5).round().sum(1, keepdim=True)
    cells = F.avg_pool3d(levels, (1, 4, 4)) * 16
    padded = F.pad(cells, (0, 0, 0, 0, 3, 3), mode="replicate")
    weights = torch.tensor([1, 2, 3, 5, 7, 11, 13], dtype=torch.double).reshape(1, 1, 7, 1, 1)
    return (F.conv3d(padded, weights, stride=(STRIDE, 1, 1))[:, 0] % CODES).long()


@MODELS.register("tiny_encoder")
class TinyEncoder(VideoModel):
    """Encodes by :func:`tokens_of`.

    Args:
        resolution: height and width, pixels.
        num_frames: frames of a training clip.
        channels: colour channels.
        whole: say that every token depends on all frames.
    """

    def __init__(self, resolution: int = 8, num_frames: int = 4, channels: int = 3, whole: bool = False) -> None:
        super().__init__()
        self.whole = whole
        self.weight = nn.Parameter(torch.zeros(()))

    @property
    def task(self) -> str:
        """Of an autoencoder."""
        return "autoencoder"

    @property
    def encoding(self) -> Encoding:
        """What :meth:`encode` makes."""
        return Encoding("tokens", STRIDE, None if self.whole else HALO, CODES, fingerprint="tiny")

    def encode(self, video: Tensor) -> Tensor:
        """Tokens of videos."""
        return tokens_of(video)


@MODELS.register("token_reader")
class TokenReader(LikelihoodModel):
    """Learns the mean of the tokens; its videos are seeded noise of that mean.

    Args:
        resolution: height and width, pixels.
        num_frames: frames of a clip.
        key: batch key of the codes.
        needs: batch key that sampling needs; empty for none.
    """

    def __init__(self, resolution: int = 8, num_frames: int = 4, key: str = "tokens", needs: str = "") -> None:
        super().__init__()
        self.key, self.needs = key, needs
        self.mean = nn.Parameter(torch.zeros(()))
        self.given: list[Batch] = []

    @property
    def task(self) -> str:
        """Nothing is given, or a class."""
        return "class_conditional" if self.needs else "unconditional"

    @property
    def train_keys(self) -> tuple[str, ...]:
        """Codes."""
        return (self.key,)

    @property
    def sample_keys(self) -> tuple[str, ...]:
        """What ``needs`` says."""
        return (self.needs,) if self.needs else ()

    def loss(self, batch: Batch) -> LossTerms:
        """Squared error."""
        return {"error": (batch[self.key].float() / CODES - self.mean).square().mean()}

    def build_optimizer(self) -> torch.optim.Optimizer:
        """Plain descent."""
        return torch.optim.SGD(self.parameters(), 0.1)

    def sample(
        self,
        num_videos: int,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch: Batch | None = None,
        **keywords: Any,
    ) -> Tensor:
        """Noise."""
        self.given += [] if batch is None else [batch]
        size, frames = self.init_args["resolution"], num_frames or self.init_args["num_frames"]
        videos = [
            NoiseStream(derive_seed(seed, "video", number), self.device).uniform(3, frames, size, size)
            for number in range(first, first + num_videos)
        ]
        return (torch.stack(videos) + self.mean).clamp(-1, 1)
