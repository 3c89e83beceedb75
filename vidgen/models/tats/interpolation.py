"""The second half of TATS's hierarchy: a transformer that fills the latents between two key frames.

As in the official code the loss counts every token of the clip, though those of the two given latents can be read off
the input (``boundary_loss``). The released sampler makes the first token after the last one of the right latent, which
training never does; ``sampler: official`` does as it does, the default as training does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.models.base import Batch, LossTerms
from vidgen.models.checks import check_classes, check_label, check_one_of, check_positive
from vidgen.models.stages import fill
from vidgen.models.tats.gpt import GPT, interpolation_mask
from vidgen.models.tats.sampling import Choice, interpolate
from vidgen.models.tats.token_model import TokenModel, check_choice, check_transformer
from vidgen.models.tats.transformer import TATS
from vidgen.registry import MODELS


@MODELS.register("tats_interpolation")
class TATSInterpolation(TokenModel):
    """Interpolation transformer of TATS; with the key-frame transformer inside it makes videos of any length.

    Args:
        first_stage: checkpoint of the ``tats_vqgan``. In checkpoints a description stands for it.
        keys: checkpoint of the ``tats`` of key frames, for sampling; None leaves it out.
        channels: of a frame.
        resolution: height of a frame and, without ``width``, its width, pixels.
        width: of frames that are not square, pixels.
        num_frames: frames of a training clip, those of ``gap + 1`` latents (paper 20), less frames that only serve
            the first stage as padding.
        gap: latents from one key frame to the next (paper 4).
        dim_category: classes; 0 without.
        mask: where tokens may look: ``c`` (paper), or the variants ``a`` and ``b`` that it was compared with.
        boundary_loss: whether the loss counts tokens that can be read off the input.
        sampler: as in training (``consistent``), or as the released code samples (``official``).
        n_layer: blocks (paper 24).
        n_head: attention heads (paper 16).
        n_embd: size of a token (paper 1024).
        reads: ``video`` or ``tokens``, see :class:`~vidgen.models.tats.transformer.TATS`.
        activation_checkpointing: save memory by computing activations twice.
        learning_rate: of AdamW (paper: 4.5e-6 times the global batch size).
        beta1: decay of AdamW's first moment.
        beta2: decay of its second moment.
        weight_decay: of AdamW, on the weights of linear layers.

    Raises:
        UserError: an argument is out of range, or the stages do not belong together.
    """

    title = "Interpolation transformer (TATS, third stage)"

    def __init__(
        self,
        first_stage: str | Path | dict[str, Any],
        keys: str | Path | dict[str, Any] | None = None,
        channels: int = 3,
        resolution: int = 128,
        width: int | None = None,
        num_frames: int = 20,
        gap: int = 4,
        dim_category: int = 0,
        mask: Literal["a", "b", "c"] = "c",
        boundary_loss: bool = True,
        sampler: Literal["consistent", "official"] = "consistent",
        n_layer: int = 24,
        n_head: int = 16,
        n_embd: int = 1024,
        reads: Literal["video", "tokens"] = "video",
        activation_checkpointing: bool = False,
        learning_rate: float = 1.08e-4,
        beta1: float = 0.9,
        beta2: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        size = (resolution, resolution if width is None else width)
        super().__init__(first_stage, size, channels, num_frames, reads, learning_rate, (beta1, beta2), weight_decay)
        check_positive(gap=gap)
        check_one_of(mask=(mask, ("a", "b", "c")), sampler=(sampler, ("consistent", "official")))
        if dim_category < 0:
            raise UserError(f"model.dim_category {dim_category}: cannot be negative")
        stride = self.first_stage.downsample[0]
        if gap < 2 or self.latent_shape[0] != gap + 1:
            raise UserError(
                f"model.num_frames {num_frames}: a clip must have the latents of one gap and both ends,"
                f" {(gap + 1) * stride} frames for gap {gap}, which is at least 2"
            )
        self.gap = gap
        self.dim_category = self.condition_vocabulary = dim_category
        self.mask = mask
        self.boundary_loss = boundary_loss
        self.sampler = sampler
        block = (gap + 1) * self.latent_size
        check_transformer(n_layer, n_head, n_embd, block, block)
        vocabulary = dim_category + self.first_stage.n_codes
        self.transformer = GPT(
            vocabulary, block, n_layer, n_head, n_embd, activation_checkpointing=activation_checkpointing
        )
        self.key_model: GPT | None = None
        self._keys: TATS | None = None
        if keys is not None:
            self._add_keys(keys)
        self.ignore_frozen()

    def _add_keys(self, stage: str | Path | dict[str, Any]) -> None:
        earlier = self._open("keys", stage, "tats")
        model = TATS(**earlier.arguments)
        weights = earlier.weights
        if self.first_weights != model.first_weights:
            raise UserError("model.keys: was trained on another first stage; train both on the same")
        if model.condition not in ("none", "label"):
            raise UserError(f"model.keys: its condition is {model.condition!r}; only a label can be filled between")
        if model.clip_latents < 2:
            raise UserError("model.keys: its clips have one key frame; needed are two or more")
        for name, own, found in (
            ("latent_stride", self.gap, model.latent_stride),
            ("dim_category", self.dim_category, model.dim_category),
            ("resolution", self.size, model.size),
        ):
            if own != found:
                raise UserError(f"model.keys: its {name} is {found}; needed is {own}")
        fill(model.transformer, weights, "transformer.", "keys")
        self.key_model = model.transformer
        model.first_stage = self.first_stage
        object.__setattr__(self, "_keys", model)  # no submodule: what it holds is held here

    @property
    def task(self) -> str:
        """``class_conditional`` or ``unconditional``."""
        return "class_conditional" if self.dim_category else "unconditional"

    @property
    def train_keys(self) -> tuple[str, ...]:
        """Clips or their tokens, and labels where there are any."""
        return (self.reads, "label") if self.dim_category else (self.reads,)

    def check_data(self, spec: DataSpec) -> None:
        """Check clips, the first stage and the classes.

        Raises:
            UserError: they do not fit; the message names the config key.
        """
        super().check_data(spec)
        check_classes(spec, self.dim_category)

    @classmethod
    def small_variants(cls) -> dict[str, dict[str, Any]]:
        """With and without classes, both samplers, with and without the loss on the boundary."""
        variants = TATS.small_variants()
        keys = {**variants["default"], "latent_stride": 2, "num_frames": 16}
        small = {key: variants["default"][key] for key in ("first_stage", "resolution", "n_layer", "n_head", "n_embd")}
        small |= {"gap": 2, "num_frames": 6, "learning_rate": 1e-2}
        labelled = {**keys, "condition": "label", "dim_category": 3}
        return {
            "default": {**small, "keys": {"model": "tats", "model_args": keys}, "reads": "tokens"},
            "label": {
                **small,
                "keys": {"model": "tats", "model_args": labelled},
                "dim_category": 3,
                "sampler": "official",
                "boundary_loss": False,
                "reads": "tokens",
            },
        }

    def loss(self, batch: Batch) -> LossTerms:
        """Cross entropy of the tokens of a clip, both of whose ends are given."""
        logits, target = self.predict(batch)
        counted = None
        if not self.boundary_loss:
            places, n = torch.arange(target.shape[1], device=target.device), self.latent_size
            counted = torch.cat([places[n:-n], places[-1:]])
        return self.cross_entropy(logits, target, counted)

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits ``(B, L, V)`` of the tokens of clips, and these ``(B, L)`` in the transformer's numbers."""
        target = self.tokens_of(batch).flatten(1) + self.dim_category
        start = batch["label"][:, None] if self.dim_category else target.new_zeros(len(target), 1)
        mask = interpolation_mask(target.shape[1], self.latent_size, self.mask, target.device)
        return self.transformer(torch.cat([start, target[:, :-1]], 1), mask), target

    # Samples --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        num_videos: int,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        label: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = 2048,
        top_p: float = 0.92,
        window: int | None = None,
        first_top_k: int | None = None,
        first_top_p: float | None = None,
        sampler: Literal["consistent", "official"] | None = None,
    ) -> Tensor:
        """Make videos ``first .. first + num_videos - 1``: key frames one after the other, then what lies between.

        Args:
            num_videos: how many.
            num_frames: length in frames; None means that of a training clip.
            seed: which sequence of videos.
            first: number of the first one.
            label: class of all videos, an index; None draws one for each.
            temperature: of the distribution of each key frame's tokens; those between have 1, as in the official code.
            top_k: only the likeliest so many tokens are chosen from; None for all, and then ``top_p`` has no effect.
            top_p: of these, the likeliest that together have this probability.
            window: key frames that each new one sees; None for as many as fit beside it into the training length.
            first_top_k: as ``top_k``, for the first ``window`` key frames; None for the same.
            first_top_p: as ``top_p``, for the first ``window`` key frames; None for the same.
            sampler: ``consistent`` or ``official``; None for what the model was configured with.

        Returns:
            float32 ``(N, C, T, H, W)`` in ``[-1, 1]``.

        Raises:
            UserError: a number is out of range, or the model has no key frames.
        """
        length = self.num_frames if num_frames is None else num_frames
        if length < 1:
            raise UserError(f"num_frames {length}: must be at least 1")
        options = (temperature, top_k, top_p, window, first_top_k, first_top_p, sampler)
        return self.make_all(self._starting(num_videos, seed, first, label, *options), length)

    @torch.no_grad()
    def stream(
        self,
        batch: Batch | None = None,
        state: Any = None,
        *,
        num_videos: int = 1,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        total_frames: int | None = None,
        label: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = 2048,
        top_p: float = 0.92,
        window: int | None = None,
        first_top_k: int | None = None,
        first_top_p: float | None = None,
        sampler: Literal["consistent", "official"] | None = None,
    ) -> tuple[Tensor, Any]:
        """The next frames, see :meth:`VideoModel.stream`; any number of them in the same memory.

        Args:
            batch: has no effect.
            state: what the previous call returned; None starts the videos. It can be continued once.
            num_videos: how many.
            num_frames: frames to make now; None means the length of a training clip.
            seed: which sequence of videos.
            first: number of the first one.
            total_frames: length of the whole videos; None where they go on.
            label: see :meth:`sample`.
            temperature: see :meth:`sample`.
            top_k: see :meth:`sample`.
            top_p: see :meth:`sample`.
            window: see :meth:`sample`.
            first_top_k: see :meth:`sample`.
            first_top_p: see :meth:`sample`.
            sampler: see :meth:`sample`.

        Returns:
            Frames ``(N, C, num_frames, H, W)`` in ``[-1, 1]``, and the state for the next call.

        Raises:
            UserError: see :meth:`sample`.
        """
        options = (temperature, top_k, top_p, window, first_top_k, first_top_p, sampler)
        start = self._starting(num_videos, seed, first, label, *options)
        return self.make(state, start, self.num_frames if num_frames is None else num_frames, total_frames)

    def _starting(
        self,
        num_videos: int,
        seed: int,
        first: int,
        label: int | None,
        temperature: float,
        top_k: int | None,
        top_p: float,
        window: int | None,
        first_top_k: int | None,
        first_top_p: float | None,
        sampler: Literal["consistent", "official"] | None,
    ) -> Any:
        """What makes the iterator of latents, when the videos begin."""
        if num_videos < 1:
            raise UserError(f"num_videos {num_videos}: must be at least 1")
        keys = self._key_frames()
        check_label(label, self.dim_category)
        check_one_of_sampler(sampler)
        choice = check_choice(temperature, top_k, top_p)
        begin = check_choice(
            temperature, top_k if first_top_k is None else first_top_k, top_p if first_top_p is None else first_top_p
        )
        longest = max(1, keys.clip_latents - 1)
        if window is not None and not 1 <= window <= longest:
            raise UserError(f"window {window}: must be between 1 and {longest}, which fit beside a new key frame")
        numbers = range(first, first + num_videos)
        if self.dim_category:
            condition = self.labels(numbers, seed, label)[:, None]
        else:
            condition = torch.zeros(num_videos, 1, dtype=torch.int64, device=self.device)
        official = (sampler or self.sampler) == "official"
        return lambda: self.latents(
            condition, numbers, seed, choices=(begin, choice), window=window or longest, official=official
        )

    def _key_frames(self) -> TATS:
        """The model of key frames, with this model's networks.

        Raises:
            UserError: there is none.
        """
        if self._keys is None:
            raise UserError("tats_interpolation: has no key frames to fill; train it with model.keys")
        keys = self._keys
        assert self.key_model is not None
        keys.transformer, keys.first_stage = self.key_model, self.first_stage
        return keys

    def latents(
        self,
        condition: Tensor,
        numbers: range,
        seed: int,
        *,
        choices: tuple[Choice, Choice],
        window: int,
        official: bool,
    ) -> Iterator[Tensor]:
        """Tokens ``(B, h * w)`` of the latents of numbered videos, in the codebook's numbers, without end.

        Args:
            condition: tokens ``(B, 1)``.
            numbers: of the videos.
            seed: which sequence of videos.
            choices: which tokens of the first key frames may be sampled, and which of all others.
            window: key frames that a new one sees, at most.
            official: see :func:`~vidgen.models.tats.sampling.interpolate`.
        """
        size = self.latent_size
        keys = self._key_frames().slide(
            condition,
            window,
            lambda number: (choices[number >= window], self.uniform(numbers, seed, "latent", number, size)),
        )
        left = next(keys)
        yield self.codes(left)
        between = Choice(1.0, choices[1].top_k, choices[1].top_p)
        for number, right in enumerate(keys):
            pick = self.uniform(numbers, seed, "between", number, (self.gap - 1) * size)
            made = interpolate(self.transformer, condition, left, right, between, pick, official)
            for latent in (*made.split(size, 1), right):
                yield self.codes(latent)
            left = right


def check_one_of_sampler(sampler: str | None) -> None:
    """Check the name of a sampler.

    Raises:
        UserError: there is none of that name.
    """
    if sampler not in (None, "consistent", "official"):
        raise UserError(f"sampler {sampler!r}: must be one of consistent, official")
