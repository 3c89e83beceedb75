"""VGAN: Generating Videos with Scene Dynamics.

Carl Vondrick, Hamed Pirsiavash, Antonio Torralba. NIPS 2016, arXiv 1609.02612.

The camera stands still, so a video is a background b that does not change and a foreground f that moves in front of it,
mixed by a mask m: ``video = m(z) f(z) + (1 - m(z)) b(z)`` (equation 2). Foreground and mask come from one stack of 3-D
deconvolutions, the background from a stack of 2-D ones; both see the same code z, or, to predict the future, an
encoding of the first frame. The one-stream model is the foreground alone. The discriminator, a 3-D CNN, mirrors the
foreground stream; it has to judge frames and motion alike.

Where this follows the official code rather than the paper:

- the discriminator has two logits under a softmax, "real" and "fake", and the generator minimises the cross-entropy of
  "real" (non-saturating);
- the mask is pushed towards 0 by the mean of its elements times ``mask_weight``, not by their sum;
- the model that predicts from a frame encodes it into a 4x4 map, is twice as wide, has no such push, and is held to the
  given frame by a mean absolute difference;
- the generator's step goes backward through the logits that the discriminator's step has used: through the activations
  of the old discriminator but the weights of the new one. ``generator_step: fresh`` asks the new discriminator instead.

Other sizes keep the plan: height, width and length are doubled as often, from a base of 4 to 7 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.layers.batch_norm import BatchNorm2d, BatchNorm3d
from vidgen.layers.initialization import initialize_normal
from vidgen.layers.pyramid import pyramid_plan, pyramid_widths
from vidgen.layers.updated_weights import updated_weights
from vidgen.losses.adversarial import accuracy_fake, accuracy_real, cross_entropy_fake, cross_entropy_real
from vidgen.models.base import AdversarialModel, Batch, LossTerms, evaluating
from vidgen.models.checks import (
    check_clip_shape,
    check_decay,
    check_length,
    check_not_negative,
    check_positive,
)
from vidgen.registry import MODELS
from vidgen.seeding import NoiseStream, draw_numbered
from vidgen.training.optimizers import LuaAdam

GENERATOR_EPSILON = 1e-5
DISCRIMINATOR_EPSILON = 1e-3  # of the encoder's batch norms too
VIDEOS_PER_PASS = 16  # videos that are made together in sampling, which bounds its memory

Part = Literal["video", "foreground", "mask", "masked_foreground", "background"]


# --------------------------------------------------------------------------------------------------------------------
# Networks
# --------------------------------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    """Videos and what they are made of.

    Args:
        video: ``(B, C, T, H, W)`` in [-1, 1].
        foreground: ``(B, C, T, H, W)`` in [-1, 1].
        mask: ``(B, 1, T, H, W)`` in [0, 1], 1 where the foreground is seen; None for one stream.
        background: ``(B, C, H, W)`` in [-1, 1], one image per video; None for one stream.
    """

    video: Tensor
    foreground: Tensor
    mask: Tensor | None
    background: Tensor | None


class Encoder(nn.Module):
    """The first frame as a map of features: convolutions that halve height and width.

    Args:
        channels: channels of the frame.
        widths: channels after each convolution.
    """

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise([channels, *widths])])
        norms = [BatchNorm2d(width, eps=DISCRIMINATOR_EPSILON) for width in widths[1:]]
        self.norms = nn.ModuleList([nn.Identity(), *norms])

    def forward(self, frame: Tensor) -> Tensor:
        """Features ``(B, widths[-1], h, w)`` of frames ``(B, C, H, W)``."""
        x = frame
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)), inplace=True)
        return x


class Foreground(nn.Module):
    """What moves, and the mask that says where: 3-D deconvolutions that double length, height and width.

    Args:
        stem: deconvolution from the code, or from the encoded frame, to the base of the video.
        widths: channels after the stem and after each deconvolution but the last.
        channels: channels of the video.
        masked: whether there is a mask.
    """

    def __init__(self, stem: nn.ConvTranspose3d, widths: Sequence[int], channels: int, masked: bool) -> None:
        super().__init__()
        self.stem = stem
        self.stem_norm = BatchNorm3d(widths[0], eps=GENERATOR_EPSILON)
        self.convolutions = nn.ModuleList([nn.ConvTranspose3d(a, b, 4, 2, 1) for a, b in pairwise(widths)])
        self.norms = nn.ModuleList([BatchNorm3d(width, eps=GENERATOR_EPSILON) for width in widths[1:]])
        self.picture = nn.ConvTranspose3d(widths[-1], channels, 4, 2, 1)
        self.mask = nn.ConvTranspose3d(widths[-1], 1, 4, 2, 1) if masked else None

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor | None]:
        """Foreground ``(B, C, T, H, W)`` in [-1, 1] and mask ``(B, 1, T, H, W)`` in [0, 1].

        Args:
            code: ``(B, dim_latent, 1, 1)``, or the encoded frame ``(B, features, h, w)``.
        """
        x = F.relu(self.stem_norm(self.stem(code.unsqueeze(2))), inplace=True)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)), inplace=True)
        return torch.tanh(self.picture(x)), None if self.mask is None else torch.sigmoid(self.mask(x))


class Background(nn.Module):
    """What stands still: 2-D deconvolutions.

    Args:
        convolutions: all of them but the last.
        channels: channels of the image.
    """

    def __init__(self, convolutions: Sequence[nn.ConvTranspose2d], channels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList([BatchNorm2d(c.out_channels, eps=GENERATOR_EPSILON) for c in convolutions])
        self.picture = nn.ConvTranspose2d(convolutions[-1].out_channels, channels, 4, 2, 1)

    def forward(self, code: Tensor) -> Tensor:
        """Images ``(B, C, H, W)`` in [-1, 1]; ``code`` as for :class:`Foreground`."""
        x = code
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)), inplace=True)
        return torch.tanh(self.picture(x))


class Generator(nn.Module):
    """From codes, or from first frames, to videos and their parts.

    Args:
        channels: channels of the video.
        width: channels before the last layers.
        base_size: height and width in pixels of the smallest map.
        base_frames: length in frames of the smallest map.
        doublings: how often all three are doubled.
        dim_latent: numbers in a code; None to start from the first frame.
        streams: 2 for foreground and background, 1 for the foreground alone.
    """

    def __init__(
        self,
        *,
        channels: int,
        width: int,
        base_size: int,
        base_frames: int,
        doublings: int,
        dim_latent: int | None,
        streams: Literal[1, 2] = 2,
    ) -> None:
        super().__init__()
        widths = pyramid_widths(width, doublings)[::-1]
        widest = widths[0]
        still: list[nn.ConvTranspose2d] = []
        if dim_latent is None:
            self.encoder: Encoder | None = Encoder(channels, widths[::-1])
            stem = nn.ConvTranspose3d(widest, widest, (base_frames, 1, 1))
        else:
            self.encoder = None
            stem = nn.ConvTranspose3d(dim_latent, widest, (base_frames, base_size, base_size))
            still = [nn.ConvTranspose2d(dim_latent, widest, base_size)]
        self.foreground = Foreground(stem, widths, channels, masked=streams == 2)
        self.background: Background | None = None
        if streams == 2:
            still += [nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(widths)]
            self.background = Background(still, channels)

    def forward(self, given: Tensor) -> Parts:
        """Videos and their parts.

        Args:
            given: codes ``(B, dim_latent)``, or first frames ``(B, C, H, W)`` in [-1, 1].
        """
        code = given[:, :, None, None] if self.encoder is None else self.encoder(given)
        foreground, mask = self.foreground(code)
        if self.background is None or mask is None:
            return Parts(foreground, foreground, None, None)
        background = self.background(code)
        video = torch.lerp(background.unsqueeze(2).expand_as(foreground), foreground, mask)
        return Parts(video, foreground, mask, background)


class Discriminator(nn.Module):
    """Real or generated: 3-D convolutions that halve length, height and width, and two logits.

    Args:
        channels: channels of the video.
        width: channels after the first convolution.
        base_size: height and width in pixels of the map that the last layer sees.
        base_frames: its length in frames.
        halvings: how often all three are halved.
    """

    def __init__(self, channels: int, width: int, base_size: int, base_frames: int, halvings: int) -> None:
        super().__init__()
        widths = pyramid_widths(width, halvings)
        convolutions = [nn.Conv3d(a, b, 4, 2, 1) for a, b in pairwise([channels, *widths])]
        self.convolutions = nn.ModuleList(convolutions)
        norms = [BatchNorm3d(width, eps=DISCRIMINATOR_EPSILON) for width in widths[1:]]
        self.norms = nn.ModuleList([nn.Identity(), *norms])
        self.output = nn.Conv3d(widths[-1], 2, (base_frames, base_size, base_size))

    def forward(self, video: Tensor) -> Tensor:
        """Logits ``(B, 2)``, "real" and "fake", of videos ``(B, C, T, H, W)``."""
        x = video
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.leaky_relu(norm(convolution(x)), 0.2, inplace=True)
        return self.output(x).flatten(1)


def realness(logits: Tensor) -> Tensor:
    """The one logit ``(B,)`` whose sigmoid is the softmax's probability of "real", from logits ``(B, 2)``."""
    return logits[:, 0] - logits[:, 1]


# --------------------------------------------------------------------------------------------------------------------
# The model
# --------------------------------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """What one iteration makes and how it is judged.

    Args:
        parts: the fake videos.
        real: realness of the real videos, ``(B,)``; None where it is still to be asked for.
        fake: realness of the fake ones.
        batch: the real ones.
    """

    parts: Parts
    real: Tensor | None
    fake: Tensor | None
    batch: Batch


@MODELS.register("vgan")
class VGAN(AdversarialModel):
    """A moving foreground before a still background, mixed by a mask; from noise, or from a first frame.

    Args:
        channels: channels of the video.
        resolution: height and width in pixels; 4 to 7 times 4, 8, 16, … (paper: 64).
        num_frames: frames of a clip; a multiple of what the resolution is doubled to from its base (paper: 32).
        dim_latent: numbers in the code that a video is made from (paper: 100).
        width: channels before the generator's last layers (paper: 64; 128 from a first frame).
        discriminator_width: channels after the discriminator's first layer; None means ``width``.
        streams: 2 for foreground and background, 1 for the foreground alone, the paper's baseline.
        condition: what a video is made from: ``none`` (noise) or ``first_frame`` (its future is predicted).
        mask_weight: weight of the mean of the mask, where videos are made from noise (paper: 0.1).
        first_frame_weight: weight of the mean absolute difference between the first frame that is made and the given
            one, where there is one (official code: 10).
        generator_step: ``stored`` goes backward through the logits of the discriminator's step, as in the official
            code; ``fresh`` asks the updated discriminator again. Under mixed precision ``stored`` sees the weights as
            they were cast before the update.
        learning_rate: step size of both optimisers (paper: 2e-4).
        generator_learning_rate: another one for the generator; None means ``learning_rate``.
        beta1: decay rate of Adam's average of gradients (paper: 0.5).
        beta2: decay rate of Adam's average of squared gradients (official code: 0.999).
    """

    title = "VGAN"
    paper = "Vondrick, Pirsiavash, Torralba: Generating Videos with Scene Dynamics, NIPS 2016, arXiv 1609.02612"
    original = "github.com/cvondrick/videogan (MIT)"
    ema_modules = ("generator",)

    def __init__(
        self,
        channels: int = 3,
        resolution: int = 64,
        num_frames: int = 32,
        dim_latent: int = 100,
        width: int = 64,
        discriminator_width: int | None = None,
        streams: Literal[1, 2] = 2,
        condition: Literal["none", "first_frame"] = "none",
        mask_weight: float = 0.1,
        first_frame_weight: float = 10.0,
        generator_step: Literal["stored", "fresh"] = "stored",
        learning_rate: float = 2e-4,
        generator_learning_rate: float | None = None,
        beta1: float = 0.5,
        beta2: float = 0.999,
    ) -> None:
        super().__init__()
        if discriminator_width is None:
            discriminator_width = width
        check_positive(channels=channels, dim_latent=dim_latent, width=width, discriminator_width=discriminator_width)
        check_not_negative(
            mask_weight=mask_weight,
            first_frame_weight=first_frame_weight,
            learning_rate=learning_rate,
            generator_learning_rate=generator_learning_rate,
        )
        check_decay(beta1=beta1, beta2=beta2)
        base_size, base_frames, doublings = network_plan(resolution, num_frames)
        self.channels = channels
        self.resolution = resolution
        self.num_frames = num_frames
        self.dim_latent = dim_latent
        self.from_frame = condition == "first_frame"
        self.mask_weight = mask_weight
        self.first_frame_weight = first_frame_weight
        self.generator_step = generator_step
        self.learning_rates = {
            "discriminator": learning_rate,
            "generator": learning_rate if generator_learning_rate is None else generator_learning_rate,
        }
        self.betas = (beta1, beta2)
        self.generator = Generator(
            channels=channels,
            width=width,
            base_size=base_size,
            base_frames=base_frames,
            doublings=doublings,
            dim_latent=None if self.from_frame else dim_latent,
            streams=streams,
        )
        self.discriminator = Discriminator(channels, discriminator_width, base_size, base_frames, doublings)
        initialize_normal(self, weight_std=0.01, scale_std=0.02)

    @property
    def task(self) -> str:
        """``prediction`` from a first frame, else ``unconditional``."""
        return "prediction" if self.from_frame else "unconditional"

    @property
    def sample_keys(self) -> tuple[str, ...]:
        """Videos whose first frame is given, or nothing."""
        return ("video",) if self.from_frame else ()

    @property
    def context_frames(self) -> int:
        """The first frame, where the model starts from one."""
        return int(self.from_frame)

    @property
    def stochastic(self) -> bool:
        """A first frame has one future."""
        return not self.from_frame

    @property
    def max_frames(self) -> int:
        """The length is fixed by the networks."""
        return self.num_frames

    def check_data(self, spec: DataSpec) -> None:
        """Check that clips have the model's shape.

        Raises:
            UserError: they do not; the message names the config key.
        """
        check_clip_shape(spec, self.channels, self.resolution, self.num_frames)

    @classmethod
    def small_variants(cls) -> dict[str, dict[str, Any]]:
        """Two streams and one, from noise and from a first frame, both steps of the generator."""
        small: dict[str, Any] = {"resolution": 16, "num_frames": 8, "dim_latent": 6, "width": 4}
        return {
            "default": small,
            "one_stream": {**small, "streams": 1},
            "fresh": {**small, "generator_step": "fresh"},
            "first_frame": {**small, "condition": "first_frame"},
        }

    # Training ------------------------------------------------------------------------------------------------------

    def build_optimizers(self) -> dict[str, Optimizer]:
        """One Adam for each network, as Lua Torch computes it, in the order of their updates."""
        return {
            name: LuaAdam(getattr(self, name).parameters(), lr=rate, betas=self.betas, fused=True)
            for name, rate in self.learning_rates.items()
        }

    def iteration(self, batches: list[Batch]) -> None:
        """Update the discriminator, then the generator on the same fakes, see ``generator_step``."""
        stored = self.generator_step == "stored"
        judged = self.share("forward", self.judge if stored else self.make)
        self.update("discriminator", self.discriminator_terms, shared=judged, retain_graph=stored)
        judged = [each._replace(real=None) for each in judged]  # what led to it is not needed any more
        self.update("generator", self.generator_terms, shared=judged)

    def draw_latents(self, num_videos: int, stream: NoiseStream) -> Tensor:
        """Codes ``(N, dim_latent)`` of fake videos, for this rank's share of a global batch."""
        return stream.normal(num_videos, self.dim_latent)

    def make(self, batches: list[Batch]) -> Judged:
        """Fake videos: from noise, or from the first frames of the real ones."""
        real = batches[0]["video"]
        given = real[:, :, 0] if self.from_frame else self.draw_latents(len(real), self.noise("latents"))
        return Judged(self.generator(given), None, None, batches[0])

    def judge(self, batches: list[Batch]) -> Judged:
        """Real and fake videos, each judged with batch statistics of their own."""
        real = realness(self.discriminator(batches[0]["video"]))
        made = self.make(batches)
        with updated_weights():
            return made._replace(real=real, fake=realness(self.discriminator(made.parts.video)))

    def discriminator_terms(self, judged: Judged) -> LossTerms:
        """Cross-entropies of the discriminator on real and on fake videos; their sum, not their mean."""
        real, fake = judged.real, judged.fake
        if real is None or fake is None:
            real = realness(self.discriminator(judged.batch["video"]))
            fake = realness(self.discriminator(judged.parts.video.detach()))
        self.record("accuracy/discriminator_real", accuracy_real(real))
        self.record("accuracy/discriminator_fake", accuracy_fake(fake))
        return {"real": cross_entropy_real(real), "fake": cross_entropy_fake(fake)}

    def generator_terms(self, judged: Judged) -> LossTerms:
        """How little the discriminator is fooled, and how much the mask takes or how far off the first frame is."""
        parts, fake = judged.parts, judged.fake
        if fake is None:
            fake = realness(self.discriminator(parts.video))
        terms = {"fake": cross_entropy_real(fake)}
        if parts.mask is not None:
            self.record("mask/mean", parts.mask.detach().mean())
            if not self.from_frame:
                terms["mask"] = self.mask_weight * parts.mask.mean()
        if self.from_frame:
            given = judged.batch["video"][:, :, 0]
            terms["first_frame"] = self.first_frame_weight * F.l1_loss(parts.video[:, :, 0], given)
        return terms

    # Sampling ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        num_videos: int,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch: Batch | None = None,
        part: Part = "video",
    ) -> Tensor:
        """Make videos ``first .. first + num_videos - 1`` of the endless sequence that ``seed`` stands for.

        From a first frame there is one future only: it depends neither on the seed nor on the number.

        Args:
            num_videos: how many.
            num_frames: length in frames, up to the training length, which None means.
            seed: which sequence of videos.
            first: number of the first one.
            batch: with ``video`` ``(N, C, T, H, W)``, whose first frames are given; where the model starts from one.
            part: the ``video`` or what it is made of: ``foreground``, ``mask`` (white where the foreground is seen),
                ``masked_foreground`` (on black) or ``background``.

        Returns:
            float32 ``(N, C, T, H, W)`` in ``[-1, 1]``.

        Raises:
            UserError: more frames than the model makes, a part that it does not have, or no first frames.
        """
        if self.from_frame:
            given = self._first_frames(num_videos, batch)
        else:
            given = self.sample_latents(num_videos, seed=seed, first=first)["latents"]
        return self.decode({"latents": given}, num_frames=num_frames, part=part)

    def sample_latents(self, num_videos: int, *, seed: int = 0, first: int = 0) -> dict[str, Tensor]:
        """The latents of :meth:`sample`, which :meth:`decode` turns into videos.

        Args:
            num_videos: how many.
            seed: which sequence of videos.
            first: number of the first one.

        Returns:
            ``latents`` ``(N, dim_latent)``, normal.

        Raises:
            UserError: the model starts from a first frame.
        """
        if self.from_frame:
            raise UserError("vgan: starts from a first frame and has no latents; give a batch to sample")
        numbers = range(first, first + num_videos)
        drawn = draw_numbered(numbers, seed, lambda noise: torch.randn(self.dim_latent, generator=noise))
        return {"latents": drawn.to(self.generator.foreground.stem.weight)}

    def decode(self, latents: dict[str, Tensor], *, num_frames: int | None = None, part: Part = "video") -> Tensor:
        """Videos ``(N, C, T, H, W)`` from the latents of :meth:`sample_latents`, with running batch statistics.

        Args:
            latents: as :meth:`sample_latents` returns them, possibly mixed or edited.
            num_frames: length in frames; None means the training length.
            part: as for :meth:`sample`.

        Raises:
            UserError: more frames than the model makes, or a part that it does not have.
        """
        length = self.num_frames if num_frames is None else num_frames
        check_length("vgan", length, self.num_frames)
        with evaluating(self.generator):
            made = [
                picture_of(part, self.generator(given))[:, :, :length]
                for given in latents["latents"].split(VIDEOS_PER_PASS)
            ]
        return torch.cat(made).float()

    def decompose(self, given: Tensor) -> Parts:
        """Videos with their foreground, mask and background, with running batch statistics.

        Args:
            given: codes ``(N, dim_latent)``, or first frames ``(N, C, H, W)`` in [-1, 1].
        """
        with evaluating(self.generator):
            return self.generator(given)

    def _first_frames(self, num_videos: int, batch: Batch | None) -> Tensor:
        if batch is None or "video" not in batch:
            raise UserError("vgan: starts from a first frame; give a batch with 'video'")
        if len(batch["video"]) != num_videos:
            raise UserError(f"vgan: {num_videos} videos of {len(batch['video'])} first frames; make the two equal")
        if batch["video"].dim() != 5 or not batch["video"].is_floating_point():
            raise UserError("vgan: starts from the first frames of videos (N, C, T, H, W), floating in [-1, 1]")
        frames: Tensor = batch["video"][:, :, 0]
        expected = (self.channels, self.resolution, self.resolution)
        if tuple(frames.shape[1:]) != expected:
            raise UserError(f"vgan: starts from frames of shape {expected}, not {tuple(frames.shape[1:])}")
        return frames.to(self.generator.foreground.stem.weight)


def picture_of(part: Part, parts: Parts) -> Tensor:
    """One part as a video ``(B, C, T, H, W)`` in [-1, 1].

    Raises:
        UserError: there is no such part, or the model is of one stream and has only the video.
    """
    if part not in get_args(Part):
        raise UserError(f"part {part}: must be one of {', '.join(get_args(Part))}")
    if part == "video":
        return parts.video
    if parts.mask is None or parts.background is None:
        raise UserError(f"part {part}: a model of one stream has no parts but the video; leave it out")
    if part == "foreground":
        return parts.foreground
    if part == "background":
        return parts.background.unsqueeze(2).expand_as(parts.video)
    if part == "mask":
        return (2 * parts.mask - 1).expand_as(parts.video)
    return torch.lerp(parts.foreground.new_tensor(-1.0), parts.foreground, parts.mask)


def network_plan(resolution: int, num_frames: int) -> tuple[int, int, int]:
    """Base size, base length and number of doublings that give a resolution and a length.

    Args:
        resolution: height and width in pixels.
        num_frames: frames of a clip.

    Returns:
        ``(base_size, base_frames, doublings)``, for example (4, 2, 4) for 64 pixels and 32 frames.

    Raises:
        UserError: there are none.
    """
    plan = pyramid_plan(resolution)
    if plan is None:
        raise UserError(
            f"model.resolution {resolution}: VGAN needs 4, 5, 6 or 7 times 4, 8, 16, … (16, 32, 48, 64, 96, 128, …)"
        )
    base_size, doublings = plan
    base_frames, rest = divmod(num_frames, 2**doublings)
    if rest or base_frames < 1:
        raise UserError(
            f"model.num_frames {num_frames}: must be a multiple of {2**doublings} at resolution {resolution}, "
            "where VGAN doubles the length as often as height and width"
        )
    return base_size, base_frames, doublings
