"""Tiny models of a chain of two stages: an autoencoder, and a generator that contains it and looks ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, Optimizer

from vidgen.checkpoint import read_checkpoint
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.models.base import AdversarialModel, Batch, LikelihoodModel, LossTerms
from vidgen.registry import MODELS
from vidgen.seeding import current_noise, draw_frame_noise


class Coder(nn.Module):
    """Frames to codes and back, each frame by itself, with a count of the frames it was trained on."""

    def __init__(self, channels: int, resolution: int, dim_code: int) -> None:
        super().__init__()
        self.shape = (channels, resolution, resolution)
        pixels = channels * resolution**2
        self.encoder = nn.Linear(pixels, dim_code)
        self.decoder = nn.Linear(dim_code, pixels)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.seen: Tensor

    def encode(self, video: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to codes ``(B, T, D)``."""
        if self.training:
            self.seen += video.shape[2]
        return torch.tanh(self.encoder(video.transpose(1, 2).flatten(2)))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes ``(B, T, D)`` to ``(B, C, T, H, W)``."""
        return torch.tanh(self.decoder(codes)).unflatten(2, self.shape).transpose(1, 2).contiguous()


@MODELS.register("tiny_autoencoder")
class TinyAutoencoder(AdversarialModel):
    """Reconstructs clips, under a discriminator and features that are never trained.

    Args:
        channels: colour channels.
        resolution: height and width, pixels.
        num_frames: frames of a clip.
        dim_code: numbers that a frame becomes.
    """

    def __init__(self, channels: int = 3, resolution: int = 8, num_frames: int = 6, dim_code: int = 5) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.features = nn.Linear(channels * resolution**2, 4)
        self.features.requires_grad_(False)
        self.coder = Coder(channels, resolution, dim_code)
        self.discriminator = nn.Linear(channels * resolution**2, 1)

    @property
    def task(self) -> str:
        """See the class."""
        return "autoencoder"

    @property
    def sample_keys(self) -> tuple[str, ...]:
        """The clips."""
        return ("video",)

    @property
    def context_frames(self) -> int:
        """All of a clip."""
        return self.num_frames

    @property
    def max_frames(self) -> int:
        """A clip's."""
        return self.num_frames

    @property
    def stochastic(self) -> bool:
        """One reconstruction."""
        return False

    def build_optimizers(self) -> dict[str, Optimizer]:
        """One for each side."""
        networks = {"autoencoder": self.coder, "discriminator": self.discriminator}
        return {name: Adam(network.parameters(), lr=1e-2) for name, network in networks.items()}

    def iteration(self, batches: list[Batch]) -> None:
        """Autoencoder, then discriminator."""
        self.update("autoencoder", self.autoencoder_loss)
        self.update("discriminator", self.discriminator_loss)

    def autoencoder_loss(self, batches: list[Batch]) -> LossTerms:
        """Pixels, features and the discriminator's opinion."""
        video = batches[0]["video"]
        made = self.coder.decode(self.coder.encode(video))
        real, fake = _frames(video), _frames(made)
        return {
            "pixels": F.l1_loss(fake, real),
            "features": F.mse_loss(self.features(fake), self.features(real)),
            "fooled": -self.discriminator(fake).mean(),
        }

    def discriminator_loss(self, batches: list[Batch]) -> LossTerms:
        """Softplus, which has a gradient everywhere."""
        video = batches[0]["video"]
        with torch.no_grad():
            made = self.coder.decode(self.coder.encode(video))
        real, fake = self.discriminator(_frames(video)), self.discriminator(_frames(made))
        return {"real": F.softplus(-real).mean(), "fake": F.softplus(fake).mean()}

    @torch.no_grad()
    def sample(
        self,
        num_videos: int,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch: Batch | None = None,
    ) -> Tensor:
        """Reconstruct.

        Args:
            num_videos: how many.
            num_frames: length in frames; None means the training length.
            seed: not needed.
            first: not needed.
            batch: the clips.
        """
        length = self.num_frames if num_frames is None else num_frames
        if not 1 <= length <= self.num_frames:
            raise UserError(f"num_frames {length}: must be from 1 to {self.num_frames}")
        assert batch is not None and len(batch["video"]) == num_videos
        clips = batch["video"][:, :, : self.num_frames]
        return self.coder.decode(self.coder.encode(clips))[:, :, :length].contiguous()


FIRST = {"model": "tests.two_stage_model.TinyAutoencoder", "model_args": {}}


@MODELS.register("seen_ahead")
class SeenAhead(LikelihoodModel):
    """A frame is decoded from noise of its own time and of the next ones, as far as the video reaches.

    Args:
        first_stage: checkpoint of a :class:`TinyAutoencoder`, or its description.
        channels: colour channels.
        resolution: height and width, pixels.
        num_frames: frames of a clip.
        ahead: how many of the next ones.
        dim_noise: numbers of noise in a frame.
    """

    ema_modules = ("first_stage", "prior")

    def __init__(
        self,
        first_stage: str | Path | dict[str, Any],
        channels: int = 3,
        resolution: int = 8,
        num_frames: int = 6,
        ahead: int = 2,
        dim_noise: int = 4,
    ) -> None:
        super().__init__()
        weights = None
        if not isinstance(first_stage, dict):
            payload = read_checkpoint(first_stage)
            weights, about = payload["state_dict"], payload["vidgen"]
            first_stage = {"model": about["model"], "model_args": about["model_args"]}
        self.init_args["first_stage"] = first_stage
        stage = MODELS.get(first_stage["model"])(**first_stage["model_args"])
        if weights is not None:
            stage.load_state_dict(weights)
        self.num_frames, self.ahead, self.dim_noise = num_frames, ahead, dim_noise
        self.first_stage: Coder = stage.coder.requires_grad_(False).eval()
        self.prior = nn.Linear(dim_noise, stage.init_args["dim_code"])

    @property
    def task(self) -> str:
        """From noise."""
        return "unconditional"

    @property
    def lookahead_frames(self) -> int:
        """What ``ahead`` says."""
        return self.ahead

    def train(self, mode: bool = True) -> SeenAhead:
        """The first stage stays as it is."""
        super().train(mode)
        self.first_stage.eval()
        return self

    def check_data(self, spec: DataSpec) -> None:
        """Refuse a first stage that has seen nothing.

        Raises:
            UserError: it is one.
        """
        if not self.first_stage.seen:
            raise UserError("model.first_stage: was never trained")

    def loss(self, batch: Batch) -> LossTerms:
        """Codes of noise shall have the mean of those of clips."""
        codes = self.first_stage.encode(batch["video"])
        noise = current_noise()
        assert noise is not None
        return {"distance": F.mse_loss(self.prior(noise.normal(*codes.shape[:2], self.dim_noise)), codes)}

    def build_optimizer(self) -> Optimizer:
        """What is not frozen."""
        return SGD(self.prior.parameters(), lr=0.1)

    @classmethod
    def small_variants(cls) -> dict[str, dict[str, Any]]:
        """With lookahead and without."""
        return {"ahead": {"first_stage": FIRST}, "alone": {"first_stage": FIRST, "ahead": 0}}

    def sample(self, num_videos: int, *, num_frames: int | None = None, seed: int = 0, first: int = 0) -> Tensor:
        """See :meth:`VideoModel.sample`."""
        length = self.num_frames if num_frames is None else num_frames
        return self.stream(num_videos=num_videos, num_frames=length, seed=seed, first=first, total_frames=length)[0]

    @torch.no_grad()
    def stream(
        self,
        batch: Batch | None = None,
        state: int | None = None,
        *,
        num_videos: int = 1,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        total_frames: int | None = None,
    ) -> tuple[Tensor, int]:
        """See :meth:`VideoModel.stream`; the state is the number of frames made."""
        length, start = self.num_frames if num_frames is None else num_frames, state or 0
        if length < 1:
            raise UserError(f"num_frames {length}: must be at least 1")
        stop, numbers = start + length, range(first, first + num_videos)
        last = stop + self.ahead if total_frames is None else min(stop + self.ahead, total_frames)
        noise = [draw_frame_noise(numbers, seed, time, self.dim_noise) for time in range(start, last)]
        mixed = [torch.stack(noise[i : i + self.ahead + 1]).mean(0) * 2 for i in range(length)]
        return self.first_stage.decode(self.prior(torch.stack(mixed, 1))), stop


def _frames(video: Tensor) -> Tensor:
    return video.transpose(1, 2).flatten(2)
