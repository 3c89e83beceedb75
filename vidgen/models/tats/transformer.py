"""Second stage of TATS: a transformer of the tokens of the first.

As in the official code, against the paper or beside it:

- the start token of an unconditional model shares its number with the first code;
- of a conditional one the condition's tokens come first, in the vocabulary and in the sequence, and no loss is taken
  on them; a sampled token that belongs to them counts as the first code;
- the paper's sparse transformer is trained on every ``latent_stride``-th latent of a longer clip.

Unlike there, any number of latents before a new one can be given in sampling (``window``), and the tokens of a video
depend on (seed, number of the video, number of the latent) alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.models.base import Batch, LossTerms
from vidgen.models.checks import (
    check_classes,
    check_equal,
    check_label,
    check_one_of,
    check_positive,
)
from vidgen.models.tats.autoencoder import VideoAutoencoder
from vidgen.models.tats.gpt import GPT
from vidgen.models.tats.sampling import Choice, slide, slide_densely
from vidgen.models.tats.token_model import TokenModel, check_choice, check_trained, check_transformer
from vidgen.models.tats.vqgan import TATSVQGAN
from vidgen.registry import MODELS
from vidgen.seeding import NoiseStream


@MODELS.register("tats")
class TATS(TokenModel):
    """Time-sensitive transformer, TATS's second stage: alone, or on sparse latents as the first half of the hierarchy.

    Args:
        first_stage: checkpoint of the ``tats_vqgan``. In checkpoints a description stands for it.
        channels: of a frame.
        resolution: height of a frame and, without ``width``, its width, pixels.
        width: of frames that are not square, pixels.
        num_frames: frames of a training clip, less those that only serve the first stage as padding.
        condition: what samples are conditioned on: ``none``, a class ``label``, ``text`` or ``audio``.
        dim_category: classes, with ``condition: label``.
        text_length: tokens of a text (paper 256).
        text_vocabulary: tokens that texts have (CLIP: 49408).
        audio_stage: checkpoint of the ``tats_vqgan`` of spectrograms, with ``condition: audio``.
        n_layer: blocks (paper 24).
        n_head: attention heads (paper 16).
        n_embd: size of a token (paper 1024).
        block_size: tokens of a sequence, at most; None for those of a clip and its condition.
        latent_stride: of how many latents one is kept; above 1 for the key frames of the hierarchy (paper 4).
        reads: ``video``, which the first stage encodes in each iteration, or ``tokens``, stored by
            ``vidgen data encode``.
        position_table: time, height and width, in latents, of a learned table of places that clips are cropped from;
            None for none.
        keep_probability: share of the input tokens that training keeps; others are replaced by random ones.
        activation_checkpointing: save memory by computing activations twice.
        learning_rate: of AdamW (paper: 4.5e-6 times the global batch size).
        beta1: decay of AdamW's first moment.
        beta2: decay of its second moment.
        weight_decay: of AdamW, on the weights of linear layers.

    Raises:
        UserError: an argument is out of range, two contradict each other, or a checkpoint cannot be used.
    """

    title = "Time-sensitive transformer (TATS, second stage)"

    def __init__(
        self,
        first_stage: str | Path | dict[str, Any],
        channels: int = 3,
        resolution: int = 128,
        width: int | None = None,
        num_frames: int = 16,
        condition: Literal["none", "label", "text", "audio"] = "none",
        dim_category: int = 0,
        text_length: int = 256,
        text_vocabulary: int = 49408,
        audio_stage: str | Path | dict[str, Any] | None = None,
        n_layer: int = 24,
        n_head: int = 16,
        n_embd: int = 1024,
        block_size: int | None = None,
        latent_stride: int = 1,
        reads: Literal["video", "tokens"] = "video",
        position_table: tuple[int, int, int] | None = None,
        keep_probability: float = 1.0,
        activation_checkpointing: bool = False,
        learning_rate: float = 1.08e-4,
        beta1: float = 0.9,
        beta2: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        size = (resolution, resolution if width is None else width)
        super().__init__(first_stage, size, channels, num_frames, reads, learning_rate, (beta1, beta2), weight_decay)
        check_one_of(condition=(condition, ("none", "label", "text", "audio")))
        check_positive(text_length=text_length, text_vocabulary=text_vocabulary, latent_stride=latent_stride)
        if (condition == "label") != (dim_category > 0):
            wanted = "at least 1" if condition == "label" else "0"
            raise UserError(f"model.dim_category {dim_category}: must be {wanted} with condition {condition!r}")
        if (condition == "audio") != (audio_stage is not None):
            wanted = "name the checkpoint of its first stage" if condition == "audio" else "be left out"
            raise UserError(f"model.audio_stage: must {wanted} with condition {condition!r}")
        if not 0 <= keep_probability <= 1:
            raise UserError(f"model.keep_probability {keep_probability:g}: must be between 0 and 1")
        self.condition = condition
        self.dim_category = dim_category
        self.text_length = text_length
        self.latent_stride = latent_stride
        self.keep_probability = keep_probability
        self.audio_stage: VideoAutoencoder | None = None
        lengths = {"none": 1, "label": 1, "text": text_length}
        vocabularies = {"none": 0, "label": dim_category, "text": text_vocabulary}
        if audio_stage is not None:
            stage = self._open("audio_stage", audio_stage, "tats_vqgan")
            self.audio_stage = self._autoencoder(stage, "audio_stage")
            arguments = stage.arguments
            height = arguments["resolution"]
            self.audio_size = (num_frames, height, arguments["width"] or height)
            factor = self.audio_stage.downsample[0]
            if num_frames % factor:
                raise UserError(
                    f"model.num_frames {num_frames}: must be a multiple of {factor}, by which audio_stage shrinks time"
                )
            t, h, w = self.audio_stage.latent_shape(*self.audio_size)
            lengths["audio"], vocabularies["audio"] = t * h * w, self.audio_stage.n_codes
        self.condition_length, self.condition_vocabulary = lengths[condition], vocabularies[condition]
        clip = self.clip_latents * self.latent_size
        needed = self.condition_length + clip - 1
        block = needed if block_size is None else block_size
        check_transformer(n_layer, n_head, n_embd, block, needed)
        if position_table is not None and len(position_table) != 3:
            raise UserError(
                f"model.position_table {list(position_table)}: must be three numbers, for time, height and width"
            )
        table = None if position_table is None else (position_table[0], position_table[1], position_table[2])
        shape = (self.clip_latents, *self.latent_shape[1:])
        if table is not None and any(a < b for a, b in zip(table, shape, strict=True)):
            raise UserError(f"model.position_table {list(table)}: is smaller than a clip, {list(shape)} latents")
        vocabulary = self.condition_vocabulary + self.first_stage.n_codes
        self.transformer = GPT(vocabulary, block, n_layer, n_head, n_embd, table, activation_checkpointing)
        self.ignore_frozen()

    @property
    def task(self) -> str:
        """By what the model is conditioned on."""
        return {"none": "unconditional", "label": "class_conditional"}.get(self.condition, self.condition)

    @property
    def train_keys(self) -> tuple[str, ...]:
        """Clips or their tokens, and the condition."""
        return (self.reads,) if self.condition == "none" else (self.reads, self.condition)

    @property
    def sample_keys(self) -> tuple[str, ...]:
        """Text or audio."""
        return (self.condition,) if self.condition in ("text", "audio") else ()

    @property
    def context_frames(self) -> int:
        """Frames that given audio lasts."""
        return self.num_frames if self.condition == "audio" else 0

    @property
    def clip_latents(self) -> int:
        """Latents of a training clip that the transformer sees."""
        return -(-self.latent_shape[0] // self.latent_stride)

    @property
    def max_frames(self) -> int | None:
        """The length of a clip, with a table of places (:meth:`sample_densely` makes longer ones) or of one latent."""
        return self.num_frames if self.transformer.table is not None or self.clip_latents == 1 else None

    def check_data(self, spec: DataSpec) -> None:
        """Check clips, the first stage and the condition.

        Raises:
            UserError: they do not fit; the message names the config key.
        """
        super().check_data(spec)
        if self.condition == "label":
            check_classes(spec, self.dim_category)
        if self.condition == "text":
            if spec.text_length is None:
                raise UserError("model.condition 'text': needs texts, but the data has none; set data.texts")
            check_equal("text_length", self.text_length, spec.text_length, "texts of length")
            if (spec.text_vocabulary or 0) > self.condition_vocabulary:
                raise UserError(
                    f"model.text_vocabulary {self.condition_vocabulary}: the data's texts have"
                    f" {spec.text_vocabulary} ids; set it to that, or more"
                )
        if self.condition == "audio":
            if spec.audio_size is None:
                raise UserError("model.condition 'audio': needs sound, but the data has none; set data.audio")
            check_equal("audio_stage", list(self.audio_size[1:]), list(spec.audio_size), "sound of size")
            assert self.audio_stage is not None
            check_trained("audio_stage", self.audio_stage)
        full = (spec.encoding or {}).get("full_shape", self.latent_shape[1:])
        if self.transformer.table is not None and any(
            place < size for place, size in zip(self.transformer.table.shape[2:4], full, strict=True)
        ):
            table = list(self.transformer.table.shape[1:4])
            raise UserError(f"model.position_table {table}: is smaller than a latent of the data, {list(full)} tokens")

    @classmethod
    def small_variants(cls) -> dict[str, dict[str, Any]]:
        """Every condition, sparse latents, stored tokens, and a table of places."""
        stage = {"resolution": 8, "num_frames": 4, "n_hiddens": 2, "downsample": (2, 4, 4), "embedding_dim": 3}
        first = {**TATSVQGAN.small_variants()["default"], **stage, "n_codes": 11}
        small: dict[str, Any] = {
            "first_stage": {"model": "tats_vqgan", "model_args": first},
            "resolution": 8,
            "num_frames": 8,
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 8,
            "learning_rate": 1e-2,
        }
        audio = {**first, "channels": 1, "resolution": 8, "width": 4, "n_codes": 7}
        spectrograms = {"model": "tats_vqgan", "model_args": audio}
        return {
            "default": {**small, "reads": "tokens"},
            "label": {**small, "condition": "label", "dim_category": 3, "keep_probability": 0.8},
            "text": {
                **small,
                "condition": "text",
                "text_length": 5,
                "text_vocabulary": 9,
                "activation_checkpointing": True,
            },
            "audio": {**small, "condition": "audio", "audio_stage": spectrograms},
            "keys": {**small, "latent_stride": 2, "num_frames": 16, "reads": "tokens"},
            "table": {**small, "reads": "tokens", "num_frames": 16, "position_table": (8, 3, 3)},
        }

    def _example(self, key: str, number: int, noise: NoiseStream, frames: int) -> Tensor:
        if key == "text":
            return noise.integers(self.condition_vocabulary, number, self.text_length)
        if key == "audio":
            assert self.audio_stage is not None
            return noise.uniform(number, self.audio_stage.channels, *self.audio_size) * 2 - 1
        return super()._example(key, number, noise, frames)

    # Training -------------------------------------------------------------------------------------------------------

    def condition_tokens(self, batch: Batch, number: int) -> Tensor:
        """Tokens ``(B, c)`` of what a batch is conditioned on.

        Args:
            batch: with the condition, where there is one.
            number: of clips.
        """
        if self.condition == "label":
            return batch["label"][:, None]
        if self.condition == "text":
            return batch["text"]
        if self.condition == "audio":
            assert self.audio_stage is not None
            with torch.autocast(self.device.type, enabled=False):
                return self.audio_stage.encode(batch["audio"]).flatten(1)
        return torch.zeros(number, 1, dtype=torch.int64, device=self.device)

    def loss(self, batch: Batch) -> LossTerms:
        """Cross entropy of every token of a clip, given the condition and those before it."""
        logits, target = self.predict(batch)
        return self.cross_entropy(logits, target)

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits ``(B, L, V)`` of the tokens of clips, and these ``(B, L)`` in the transformer's numbers."""
        clips = self.tokens_of(batch)
        if clips.shape[1] > self.clip_latents:  # the data may have left out the others already
            clips = clips[:, :: self.latent_stride]
        target = clips.flatten(1) + self.condition_vocabulary
        condition = self.condition_tokens(batch, len(target))
        given = target
        if self.training and self.keep_probability < 1:
            noise = self.noise("keep")
            kept = noise.uniform(*target.shape) < self.keep_probability
            given = torch.where(kept, target, noise.integers(self.transformer.vocabulary, *target.shape))
        places = None
        if self.transformer.table is not None:
            corners = F.pad(batch["box"][:, ::2], (1, 0)) if "box" in batch else None
            places = self.transformer.places((clips.shape[1], *clips.shape[2:]), corners, condition.shape[1] - 1)
        logits = self.transformer(torch.cat([condition, given], 1)[:, :-1], places=places)
        return logits[:, condition.shape[1] - 1 :], target

    # Samples --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        num_videos: int,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch: Batch | None = None,
        label: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = 2048,
        top_p: float = 0.92,
        window: int | None = None,
    ) -> Tensor:
        """Make videos ``first .. first + num_videos - 1`` of the sequence that ``seed`` stands for.

        Args:
            num_videos: how many; as many as there are in ``batch``, where the model needs one.
            num_frames: length in frames; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            batch: with ``text`` or ``audio``, where the model is conditioned on it.
            label: class of all videos, an index; None draws one for each.
            temperature: of the distribution of each token.
            top_k: only the likeliest so many tokens are chosen from; None for all, and then ``top_p`` has no effect.
            top_p: of these, the likeliest that together have this probability.
            window: latents that each new one sees; None for as many as fit beside it into the training length.

        Returns:
            float32 ``(N, C, T, H, W)`` in ``[-1, 1]``. Of a model of sparse latents, each stands still for as long as
            the ones that are left out.

        Raises:
            UserError: a number is out of range, or the condition is missing.
        """
        length = self._length(num_frames)
        start = self._starting(num_videos, seed, first, batch, label, temperature, top_k, top_p, window)
        return self.make_all(start, length)

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
    ) -> tuple[Tensor, Any]:
        """The next frames, see :meth:`VideoModel.stream`; any number of them in the same memory.

        Args:
            batch: see :meth:`sample`.
            state: what the previous call returned; None starts the videos. It can be continued once.
            num_videos: how many; as many as there are in ``batch``.
            num_frames: frames to make now; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            total_frames: length of the whole videos; None where they go on.
            label: see :meth:`sample`.
            temperature: see :meth:`sample`.
            top_k: see :meth:`sample`.
            top_p: see :meth:`sample`.
            window: see :meth:`sample`.

        Returns:
            Frames ``(N, C, num_frames, H, W)`` in ``[-1, 1]``, and the state for the next call.

        Raises:
            UserError: see :meth:`sample`.
        """
        if batch and self.sample_keys and self.sample_keys[0] in batch:
            num_videos = len(batch[self.sample_keys[0]])
        made = state.frames if state is not None else 0
        length = self.num_frames if num_frames is None else num_frames
        self._length(made + length if length > 0 else length)
        if self.max_frames is not None:  # there are no latents beyond the longest video to look at
            total_frames = self._length(total_frames)
        start = self._starting(num_videos, seed, first, batch, label, temperature, top_k, top_p, window)
        return self.make(state, start, length, total_frames)

    @torch.no_grad()
    def sample_densely(
        self,
        num_videos: int,
        num_frames: int,
        height: int,
        width: int,
        *,
        seed: int = 0,
        first: int = 0,
        label: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = 2048,
        window: int = 1,
    ) -> Tensor:
        """Longer and larger videos than training clips, each token from a window of its own around it.

        Official ``sample_long``; needs a model with a table of places that is as large as the video is high and wide.

        Args:
            num_videos: how many.
            num_frames: length in frames, at least that of training clips.
            height: of a frame, pixels, at least that of training clips.
            width: of a frame, pixels.
            seed: which sequence of videos.
            first: number of the first one.
            label: class of all videos; None draws one for each.
            temperature: of the distribution of each token.
            top_k: only the likeliest so many tokens are chosen from.
            window: latents before a new one in its window.

        Returns:
            float32 ``(N, C, num_frames, height, width)`` in ``[-1, 1]``.

        Raises:
            UserError: the model has no table, or the size does not fit.
        """
        if self.transformer.table is None or self.condition not in ("none", "label"):
            raise UserError("tats: dense windows need model.position_table, and no condition but a label")
        if self.latent_stride > 1:
            raise UserError(f"tats: dense windows need all latents, not one of {self.latent_stride}")
        self._check_window(window)
        factors = self.first_stage.downsample
        if any(length % factor for length, factor in zip((num_frames, height, width), factors, strict=True)):
            wanted, found = (" x ".join(map(str, sizes)) for sizes in (factors, (num_frames, height, width)))
            raise UserError(f"tats: makes videos of multiples of {wanted}, not {found}")
        size = self.first_stage.latent_shape(num_frames, height, width)
        trained = (self.clip_latents, *self.latent_shape[1:])
        table = self.transformer.table.shape[1:4]
        fits = all(a >= b for a, b in zip(size, trained, strict=True)) and size[1] <= table[1] and size[2] <= table[2]
        if not fits:
            raise UserError(
                f"tats: a video of {list(size)} latents must be no smaller than a clip, {list(trained)}, and no higher"
                f" or wider than the table of places, {list(table)}"
            )
        numbers = range(first, first + num_videos)
        condition = self._condition_of(numbers, seed, None, label)
        choice = check_choice(temperature, top_k, 1.0)
        pick = self.uniform(numbers, seed, "dense", 0, size[0] * size[1] * size[2])
        tokens = slide_densely(self.transformer, condition, size, trained, window, choice, pick)
        return self.first_stage.decode(self.codes(tokens))

    def _length(self, num_frames: int | None) -> int:
        length = self.num_frames if num_frames is None else num_frames
        if length < 1:
            raise UserError(f"num_frames {length}: must be at least 1")
        if self.max_frames is not None and length > self.max_frames:
            why = "with a table of places" if self.transformer.table is not None else "of a single latent"
            raise UserError(f"num_frames {length}: tats {why} makes videos of 1 to {self.max_frames} frames")
        return length

    def _starting(
        self,
        num_videos: int,
        seed: int,
        first: int,
        batch: Batch | None,
        label: int | None,
        temperature: float,
        top_k: int | None,
        top_p: float,
        window: int | None,
    ) -> Any:
        """What makes the iterator of latents, when the videos begin."""
        choice = check_choice(temperature, top_k, top_p)
        longest = max(1, self.clip_latents - 1)
        seen = self.clip_latents if self.transformer.table is not None else longest
        if window is not None:
            self._check_window(window)
            seen = window
        numbers = range(first, first + num_videos)
        given = self._given(numbers, seed, batch, label)

        def start() -> Iterator[Tensor]:  # of a video that goes on the condition is encoded already
            condition = self.condition_tokens(given, num_videos)
            return self.latents(condition, numbers, seed, choice=choice, window=seen)

        return start

    def _check_window(self, window: int) -> None:
        longest = max(1, self.clip_latents - 1)
        if not 1 <= window <= longest:
            raise UserError(f"window {window}: must be between 1 and {longest}, which fit beside a new latent")

    def _condition_of(self, numbers: range, seed: int, batch: Batch | None, label: int | None) -> Tensor:
        """Tokens ``(N, c)`` of what videos are conditioned on."""
        return self.condition_tokens(self._given(numbers, seed, batch, label), len(numbers))

    def _given(self, numbers: range, seed: int, batch: Batch | None, label: int | None) -> Batch:
        """What videos are conditioned on, checked."""
        number = len(numbers)
        if number < 1:
            raise UserError(f"num_videos {number}: must be at least 1")
        check_label(label, self.dim_category)
        given: Batch = {}
        for key in self.sample_keys:
            if batch is None or key not in batch:
                raise UserError(f"tats: makes videos from {key}; give a batch with {key!r}")
            if len(batch[key]) != number:
                raise UserError(f"tats: {number} videos of {len(batch[key])} given {key}s; make the two equal")
            given[key] = batch[key].to(self.device)
        if self.condition == "text":
            self._check_text(given["text"])
        if self.audio_stage is not None:
            wanted = (number, self.audio_stage.channels, *self.audio_size)
            if given["audio"].shape != wanted:
                raise UserError(f"tats: the given audio is {tuple(given['audio'].shape)}; it must be {wanted}")
        if self.condition == "label":
            given["label"] = self.labels(numbers, seed, label)
        return given

    def _check_text(self, text: Tensor) -> None:
        if (
            text.dim() != 2
            or text.shape[1] != self.text_length
            or text.min() < 0
            or text.max() >= self.condition_vocabulary
        ):
            raise UserError(
                f"tats: the given text is {tuple(text.shape)}; it must be (N, {self.text_length}) tokens below"
                f" {self.condition_vocabulary}"
            )

    def latents(self, condition: Tensor, numbers: range, seed: int, *, choice: Choice, window: int) -> Iterator[Tensor]:
        """Tokens ``(B, h * w)`` of the latents of numbered videos, in the codebook's numbers, without end.

        Args:
            condition: tokens ``(B, c)``.
            numbers: of the videos.
            seed: which sequence of videos.
            choice: which tokens may be sampled.
            window: latents that a new one sees, at most.
        """
        for tokens in self.slide(
            condition, window, lambda number: (choice, self.uniform(numbers, seed, "latent", number, self.latent_size))
        ):
            for _ in range(self.latent_stride):
                yield self.codes(tokens)

    def slide(self, condition: Tensor, window: int, picks: Any) -> Iterator[Tensor]:
        """Tokens ``(B, h * w)`` of latents, one after the other, in the transformer's numbers, without end."""
        places = None
        if self.transformer.table is not None:
            places = self.transformer.places((self.clip_latents, *self.latent_shape[1:]), None, condition.shape[1] - 1)
        return slide(self.transformer, condition, self.latent_size, None, window, picks, places)
