"""What the transformers of TATS share: frozen stages before them, the loss over tokens, and how samples are made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW, Optimizer

from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.layers.precision import at_least_float32
from vidgen.models.base import Batch, LikelihoodModel, LossTerms
from vidgen.models.checks import (
    check_above_zero,
    check_decay,
    check_equal,
    check_not_negative,
    check_one_of,
    check_positive,
)
from vidgen.models.stages import Earlier, fill, open_stage
from vidgen.models.tats.autoencoder import VideoAutoencoder
from vidgen.models.tats.gpt import GPT
from vidgen.models.tats.sampling import Choice, Uniform
from vidgen.models.tats.streaming import Standing, advance_stream
from vidgen.models.tats.vqgan import ORIGINAL, PAPER, STAGES, TATSVQGAN, check_downsample
from vidgen.seeding import NoiseStream, derive_seed, draw_numbered
from vidgen.training.optimizers import fused_on_cpu

CHUNK = 32
"""Latents that are decoded at once in a longer video."""


class TokenModel(LikelihoodModel):
    """What the transformers of TATS share: the frozen first stage, the loss, the optimiser and the use of samples.

    A subclass sets up :attr:`transformer`, says what the condition's tokens are and yields the latents of a video.

    Args:
        first_stage: checkpoint of the ``tats_vqgan``, or its description.
        size: height and width of a frame, pixels.
        channels: of a frame.
        num_frames: of a training clip, less frames that only serve the first stage as padding.
        reads: what batches hold.
        learning_rate: of AdamW.
        betas: of AdamW.
        weight_decay: of AdamW, on the weights of linear layers.
    """

    paper = PAPER
    original = ORIGINAL
    stages = STAGES
    transformer: GPT
    dim_category: int
    condition_vocabulary: int
    """Tokens of the condition, which come before the codes in the transformer's numbers."""

    def __init__(
        self,
        first_stage: str | Path | dict[str, Any],
        size: tuple[int, int],
        channels: int,
        num_frames: int,
        reads: Literal["video", "tokens"],
        learning_rate: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        super().__init__()
        check_positive(channels=channels, resolution=size[0], width=size[1], num_frames=num_frames)
        check_one_of(reads=(reads, ("video", "tokens")))
        check_above_zero(learning_rate=learning_rate)
        check_decay(beta1=betas[0], beta2=betas[1])
        check_not_negative(weight_decay=weight_decay)
        first = self._open("first_stage", first_stage, "tats_vqgan")
        self.first_stage = self._autoencoder(first, "first_stage")
        self.first_weights: str = first.description["weights"]
        check_equal_stage(channels, self.first_stage.channels)
        check_downsample(self.first_stage.downsample, num_frames, *size)
        self.size = size
        self.channels = channels
        self.num_frames = num_frames
        self.reads = reads
        self.learning_rate = learning_rate
        self.betas = betas
        self.weight_decay = weight_decay

    latent_stride = 1

    def _open(self, name: str, stage: str | Path | dict[str, Any], wanted: str) -> Earlier:
        """An earlier stage, whose description takes the place of its path."""
        earlier = open_stage(name, stage, wanted)
        self.init_args[name] = earlier.description
        return earlier

    def _autoencoder(self, stage: Earlier, name: str) -> VideoAutoencoder:
        """The frozen part of a first stage that is kept."""
        assert issubclass(stage.model, TATSVQGAN)
        network = stage.model.build_autoencoder(**stage.arguments)
        fill(network, stage.weights, "autoencoder.", name)
        return network

    # What there is to learn -------------------------------------------------------------------------------------------

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Latents along time, height and width of a training clip."""
        return self.first_stage.latent_shape(self.num_frames, *self.size)

    @property
    def latent_size(self) -> int:
        """Tokens of a latent."""
        return self.latent_shape[1] * self.latent_shape[2]

    @property
    def train_keys(self) -> tuple[str, ...]:
        """Clips or their tokens."""
        return (self.reads,)

    @property
    def parameters_without_gradient(self) -> Mapping[str, str]:
        """The stages before."""
        return {f"{name}.*": "frozen: trained in an earlier stage" for name in self.frozen_parts()}

    def frozen_parts(self) -> dict[str, torch.nn.Module]:
        """The stages before, by name."""
        return {
            name: part
            for name, part in self.named_children()
            if not any(parameter.requires_grad for parameter in part.parameters())
        }

    def networks(self) -> dict[str, torch.nn.Module]:
        """The transformer."""
        return {"transformer": self.transformer}

    def train(self, mode: bool = True) -> TokenModel:
        """Earlier stages stay in eval mode."""
        super().train(mode)
        for part in self.frozen_parts().values():
            part.eval()
        return self

    def ignore_frozen(self) -> None:
        """Tell DDP that earlier stages are the same on every rank and stay so."""
        frozen = tuple(f"{name}." for name in self.frozen_parts())
        names = [name for name in self.state_dict() if name.startswith(frozen)]
        self._ddp_params_and_buffers_to_ignore = names

    def check_data(self, spec: DataSpec) -> None:
        """Check that clips have the model's shape, or were encoded by its first stage, and that this one is trained.

        Raises:
            UserError: they do not; the message names the config key.
        """
        check_trained("first_stage", self.first_stage)
        encoding = spec.encoding or {}
        held = encoding.get("key", "video")
        if self.reads != held:
            remedy = f"set it to {held!r}"
            if held == "latents":
                remedy = "encode it with the first stage, or give the videos"
            raise UserError(f"model.reads {self.reads!r}: the data holds {held.rstrip('s')}s; {remedy}")
        margin = 0 if self.reads == "tokens" else 2 * self.first_stage.real_frames
        check_equal("channels", self.channels, spec.channels, "channels")
        if self.reads == "video":
            check_equal("resolution", self.size[0], spec.resolution, "resolution")
            check_equal("width", self.size[1], spec.width or spec.resolution, "width")
        check_equal(
            "num_frames",
            self.num_frames,
            spec.num_frames - margin,
            "frames less padding ones" if margin else "num_frames",
        )
        if self.reads == "tokens":
            self._check_tokens(encoding)

    def _check_tokens(self, encoding: Mapping[str, Any]) -> None:
        network, first = encoding.get("network"), self.first_stage
        unknown = not network or first.project.weight.is_meta  # a stage that is yet to be trained
        same = unknown or network == first.encoder_fingerprint()
        if (encoding.get("num_codes"), encoding.get("stride")) != (first.n_codes, first.downsample[0]) or not same:
            raise UserError(
                "model.first_stage: is not what the data was encoded by; name that, or encode the data with this one"
            )
        own, found = list(self.latent_shape[1:]), list(encoding.get("shape", self.latent_shape[1:]))
        if own != found:
            name = "width" if own[0] == found[0] else "resolution"
            size = self.size[name == "width"]
            raise UserError(
                f"model.{name} {size}: a latent has {own[0]} x {own[1]} tokens then, but in the data"
                f" {found[0]} x {found[1]}; make them equal"
            )
        taken = encoding.get("latent_stride", 1)
        if taken not in (1, self.latent_stride):
            raise UserError(
                f"data.latent_stride {taken}: must be 1, or model.latent_stride, {self.latent_stride}, as the model"
                " takes one of so many latents"
            )

    def tokens_of(self, batch: Batch) -> Tensor:
        """Tokens int64 ``(B, t, h, w)`` of a batch."""
        if self.reads == "tokens":
            return batch["tokens"]
        with torch.autocast(self.device.type, enabled=False):
            return self.first_stage.encode_inner(batch["video"])

    def build_optimizer(self) -> Optimizer:
        """AdamW; only the weights of linear layers decay."""
        decays = {
            f"{path}.weight" for path, layer in self.transformer.named_modules() if isinstance(layer, torch.nn.Linear)
        }
        groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
        for name, parameter in self.transformer.named_parameters():
            groups[name in decays].append(parameter)
        return AdamW(
            [
                {"params": groups[True], "weight_decay": self.weight_decay},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            lr=self.learning_rate,
            betas=self.betas,
            fused=fused_on_cpu(self.transformer.parameters()),
        )

    def cross_entropy(self, logits: Tensor, target: Tensor, counted: Tensor | None = None) -> LossTerms:
        """Mean cross entropy in nats, with the share of tokens that the likeliest, and the five likeliest, hit.

        Args:
            logits: ``(B, L, V)``.
            target: int64 ``(B, L)``.
            counted: numbers of the places that count, int64, None for all.
        """
        if counted is not None:
            logits, target = logits[:, counted], target[:, counted]
        flat, wanted = at_least_float32(logits.flatten(0, 1)), target.flatten()
        if self.logs_now:
            likeliest = flat.detach().topk(min(5, flat.shape[1])).indices == wanted[:, None]
            self.record("accuracy/top1", 100 * likeliest[:, :1].any(1).float().mean())
            self.record("accuracy/top5", 100 * likeliest.any(1).float().mean())
        return {"cross_entropy": F.cross_entropy(flat, wanted)}

    def example_batch(self, batch_size: int, seed: int = 0) -> Batch:
        """Random clips or tokens, and conditions, of the model's shape."""
        noise = NoiseStream(derive_seed(seed, "example"), self.device)
        frames = self.num_frames + 2 * self.first_stage.real_frames
        made: Batch = {}
        for key in dict.fromkeys((*self.train_keys, *self.sample_keys)):
            made[key] = self._example(key, batch_size, noise, frames)
        return made

    def _example(self, key: str, number: int, noise: NoiseStream, frames: int) -> Tensor:
        if key == "tokens":
            return noise.integers(self.first_stage.n_codes, number, *self.latent_shape)
        if key == "video":
            return noise.uniform(number, self.channels, frames, *self.size) * 2 - 1
        if key == "label":
            return noise.integers(self.dim_category, number)
        raise KeyError(key)

    # Samples ----------------------------------------------------------------------------------------------------------

    @property
    def streams(self) -> bool:
        """Not where the decoder has to know the whole video."""
        return not self.first_stage.decoder_mixes

    @property
    def lookahead_frames(self) -> int | None:
        """Frames that the decoder makes otherwise where more follow; all where it mixes them."""
        if self.first_stage.decoder_mixes:
            return None
        reach = self.first_stage.decoder_reach[1]
        return reach * self.first_stage.downsample[0]

    def uniform(self, numbers: range, seed: int, what: str, number: int, size: int) -> Uniform:
        """Draws for ``size`` tokens of numbered videos."""
        part = derive_seed(seed, what, number)
        rows = draw_numbered(numbers, part, lambda noise: torch.rand(size, generator=noise, dtype=torch.float64))
        return Uniform(rows.to(self.device))

    def labels(self, numbers: range, seed: int, label: int | None) -> Tensor:
        """Classes int64 ``(N,)`` of numbered videos: the one asked for, or one drawn for each."""
        if label is not None:
            return torch.full((len(numbers),), label, device=self.device)
        drawn = draw_numbered(numbers, derive_seed(seed, "label"), lambda noise: torch.rand(1, generator=noise))
        return (drawn[:, 0] * self.dim_category).long().to(self.device)

    def codes(self, tokens: Tensor) -> Tensor:
        """Tokens in the codebook's numbers; one that belongs to the condition is the first code."""
        return (tokens - self.condition_vocabulary).clamp(0, self.first_stage.n_codes - 1)

    def make(
        self, state: Standing | None, start: Any, num_frames: int, total_frames: int | None
    ) -> tuple[Tensor, Standing]:
        """The next frames; see :func:`~vidgen.models.tats.streaming.advance_stream`."""
        return advance_stream(self.first_stage, self.latent_shape[1:], state, start, num_frames, total_frames)

    def make_all(self, start: Any, num_frames: int) -> Tensor:
        """Whole videos, decoded in parts where they are long."""
        scale = self.first_stage.downsample[0]
        most = num_frames if self.first_stage.decoder_mixes else CHUNK * scale
        parts, state, made = [], None, 0
        while made < num_frames:
            frames, state = self.make(state, start, min(most, num_frames - made), num_frames)
            parts.append(frames)
            made += frames.shape[2]
        return torch.cat(parts, 2) if len(parts) > 1 else parts[0].contiguous()


def check_trained(name: str, stage: VideoAutoencoder) -> None:
    """Check that an earlier stage has learned its codes.

    Args:
        name: argument that names the stage.
        stage: what is kept of it.

    Raises:
        UserError: it has not.
    """
    if not stage.codebook.is_initialised:
        raise UserError(f"model.{name}: was never trained; train it first, or name its checkpoint")


def check_equal_stage(channels: int, found: int) -> None:
    """Check that frames have the channels of the first stage.

    Raises:
        UserError: they do not.
    """
    if channels != found:
        raise UserError(f"model.channels {channels}: the first stage was trained on {found}; make them equal")


def check_transformer(n_layer: int, n_head: int, n_embd: int, block: int, needed: int) -> None:
    """Check the sizes of a transformer.

    Raises:
        UserError: one is out of range, or the block is too short.
    """
    check_positive(n_layer=n_layer, n_head=n_head, n_embd=n_embd)
    if n_embd % n_head:
        raise UserError(f"model.n_embd {n_embd}: must be a multiple of n_head, {n_head}")
    if block < needed:
        raise UserError(f"model.block_size {block}: a clip needs {needed}, its tokens and the condition's less one")


def check_choice(temperature: float, top_k: int | None, top_p: float) -> Choice:
    """Check how tokens shall be chosen.

    Raises:
        UserError: a number is out of range.
    """
    if not temperature > 0:
        raise UserError(f"temperature {temperature:g}: must be above 0")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k {top_k}: must be at least 1, or left out")
    if not 0 <= top_p <= 1:
        raise UserError(f"top_p {top_p:g}: must be between 0 and 1")
    return Choice(temperature, top_k, top_p)
