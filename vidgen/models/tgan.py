"""TGAN: Temporal Generative Adversarial Nets with Singular Value Clipping.

Masaki Saito, Eiichi Matsumoto, Shunta Saito. ICCV 2017, arXiv 1611.06624.

A temporal generator G0 turns one code of a video, z_slow, into one code per frame, z_fast, by 1-D deconvolutions over
time; an image generator G1 turns each pair (z_slow, z_fast of a frame) into that frame. One 3-D CNN, the discriminator
or critic, sees the whole clip. The objective is Wasserstein GAN's, and what keeps the critic 1-Lipschitz is singular
value clipping: every few iterations the singular values of its layers that exceed 1 are set to 1, and the scales of its
batch norms are limited to the running standard deviations (table 2).

Where this follows the official code rather than the paper:

- deconvolutions are padded by 1, the critic's last layer is a convolution over the whole map;
- G0 and the critic are initialised as Chainer does by default, which is not He's rule, or uniformly; their batch norms
  have no shift;
- both losses come from one forward pass of the critic, fakes first, and the generators step before the critic does;
- its LSGAN, which the paper does not use, leaves the critic the gradients of the generators' loss; here it does not;
- running variances start at 1, as in Chainer 7 (0 in Chainer 2), which matters to the first limits of the scales;
- pixels are ``(value - 128) / 128``, so that white is not quite 1 (:func:`to_official`).

The conditional model is in the paper but not in its code. How it is done here is ours: the class enters G0 beside
z_slow, G1 through a third linear layer as wide as the other two, and the critic as constant channels beside the pixels;
fakes have the classes of the real clips of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer, RMSprop

from vidgen.data.spec import DataSpec
from vidgen.distributed import world
from vidgen.errors import UserError
from vidgen.layers.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from vidgen.layers.initialization import initialize_lecun_normal, initialize_uniform
from vidgen.layers.noise import InstanceNoise
from vidgen.layers.singular_values import clip_to_lipschitz
from vidgen.losses.adversarial import cross_entropy_fake, cross_entropy_real
from vidgen.models.base import AdversarialModel, Batch, LossTerms, evaluating
from vidgen.models.checks import (
    check_above_zero,
    check_classes,
    check_clip_shape,
    check_decay,
    check_label,
    check_length,
    check_not_negative,
    check_positive,
)
from vidgen.registry import MODELS
from vidgen.seeding import NoiseStream, draw_numbered

EPSILON = 2e-5  # of all batch norms: Chainer's default
NUM_FRAMES = 16  # four doublings of a single vector
FRAMES_PER_PASS = 256  # frames that pass through G1 together in sampling, which bounds its memory


# --------------------------------------------------------------------------------------------------------------------
# Networks
# --------------------------------------------------------------------------------------------------------------------


def to_official(video: Tensor) -> Tensor:
    """Videos in [-1, 1] as the official code scales them: ``(value - 128) / 128`` of values from 0 to 255."""
    return video * (127.5 / 128) - 0.5 / 128


def from_official(video: Tensor) -> Tensor:
    """Videos as the official code scales them in [-1, 1]; what is whiter than white becomes white."""
    return ((video + 0.5 / 128) * (128 / 127.5)).clamp(-1, 1)


class FrameSeedGenerator(nn.Module):
    """G0, the temporal generator: z_slow to one z_fast per frame.

    Args:
        inputs: numbers in z_slow, and classes.
        dim_fast: numbers in z_fast.
        channels: after each of the first four layers.
        shift: whether its batch norms have a shift.
    """

    def __init__(self, inputs: int, dim_fast: int, channels: Sequence[int], shift: bool = False) -> None:
        super().__init__()
        doubling = [nn.ConvTranspose1d(a, b, 4, 2, 1) for a, b in pairwise([*channels, dim_fast])]
        self.convolutions = nn.ModuleList([nn.ConvTranspose1d(inputs, channels[0], 1), *doubling])
        self.norms = nn.ModuleList([BatchNorm1d(width, shift=shift, eps=EPSILON) for width in channels])

    def forward(self, slow: Tensor) -> Tensor:
        """z_fast ``(B, dim_fast, 16)`` in [-1, 1] from z_slow ``(B, inputs)``."""
        x = slow.unsqueeze(2)
        for convolution, norm in zip(self.convolutions, self.norms, strict=False):
            x = F.relu(norm(convolution(x)), inplace=True)
        return torch.tanh(self.convolutions[-1](x))


class ImageGenerator(nn.Module):
    """G1, the image generator: z_slow and the z_fast of a frame to that frame.

    Args:
        dim_slow: numbers in z_slow.
        dim_fast: numbers in z_fast.
        channels: channels of a frame.
        width: channels of the smallest map, half of them for z_slow and half for z_fast.
        base_size: height and width in pixels of the smallest map.
        dim_category: number of classes, which have half as many channels more; 0 for none.
    """

    def __init__(
        self, dim_slow: int, dim_fast: int, channels: int, width: int, base_size: int, dim_category: int = 0
    ) -> None:
        super().__init__()
        self.base_size = base_size
        half = width // 2 * base_size**2
        self.slow = nn.Linear(dim_slow, half, bias=False)
        self.slow_norm = BatchNorm1d(half, eps=EPSILON)
        self.fast = nn.Linear(dim_fast, half, bias=False)
        self.fast_norm = BatchNorm1d(half, eps=EPSILON)
        self.label = nn.Linear(dim_category, half, bias=False) if dim_category else None
        self.label_norm = BatchNorm1d(half, eps=EPSILON) if dim_category else None
        widths = [width + (width // 2 if dim_category else 0), *(width // 2**level for level in range(1, 5))]
        self.convolutions = nn.ModuleList([nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths)])
        self.norms = nn.ModuleList([BatchNorm2d(width, eps=EPSILON) for width in widths[1:]])
        self.output = nn.ConvTranspose2d(widths[-1], channels, 3, 1, 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, slow: Tensor, fast: Tensor, label: Tensor | None = None) -> Tensor:
        """Frames ``(R, C, H, W)`` in [-1, 1].

        Args:
            slow: ``(R, dim_slow)``.
            fast: ``(R, dim_fast)``.
            label: ``(R, dim_category)``, one-hot or a mixture; None without classes.
        """
        maps = [self.slow_norm(self.slow(slow)), self.fast_norm(self.fast(fast))]
        if self.label is not None and self.label_norm is not None:
            maps.append(self.label_norm(self.label(label)))
        x = F.relu(torch.cat(maps, dim=1), inplace=True).unflatten(1, (-1, self.base_size, self.base_size))
        x = x.contiguous(memory_format=torch.channels_last)
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)), inplace=True)
        return torch.tanh(self.output(x))


class VideoGenerator(nn.Module):
    """G0 and G1.

    Args:
        frame_seed: G0.
        image: G1.
    """

    def __init__(self, frame_seed: FrameSeedGenerator, image: ImageGenerator) -> None:
        super().__init__()
        self.frame_seed = frame_seed
        self.image = image

    def codes(self, slow: Tensor, label: Tensor | None = None) -> Tensor:
        """z_fast ``(B, dim_fast, 16)``.

        Args:
            slow: ``(B, dim_slow)`` in [-1, 1].
            label: ``(B, dim_category)``, one-hot; None without classes.
        """
        return self.frame_seed(slow if label is None else torch.cat([slow, label], dim=1))

    def videos(self, slow: Tensor, fast: Tensor, label: Tensor | None = None) -> Tensor:
        """Videos ``(B, C, T, H, W)`` in the official range.

        Args:
            slow: ``(B, dim_slow)``.
            fast: ``(B, dim_fast, T)``, of any length.
            label: ``(B, dim_category)``; None without classes.
        """
        length = fast.shape[2]
        rows = fast.transpose(1, 2).flatten(0, 1)  # the frames of one video side by side
        repeated = [None if given is None else given.repeat_interleave(length, dim=0) for given in (slow, label)]
        frames = self.image(repeated[0], rows, repeated[1])
        return frames.unflatten(0, (len(slow), length)).transpose(1, 2)

    def forward(self, slow: Tensor, label: Tensor | None = None) -> Tensor:
        """Videos ``(B, C, 16, H, W)`` in the official range; arguments as for :meth:`codes`."""
        return self.videos(slow, self.codes(slow, label), label)


class Discriminator(nn.Module):
    """The critic: 3-D convolutions that halve length, height and width, then one score.

    Args:
        channels: channels of the video, and of the classes.
        width: channels after the first convolution.
        final_size: height and width in pixels of the map that the last layer sees.
        shift: whether its batch norms have a shift.
        instance_noise: standard deviation of the noise before each activation, in training.
    """

    def __init__(
        self, channels: int, width: int, final_size: int, shift: bool = False, instance_noise: float = 0.0
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        self.convolutions = nn.ModuleList([nn.Conv3d(a, b, 4, 2, 1) for a, b in pairwise([channels, *widths])])
        # the official code makes the first of these and does not use it; its checkpoints hold it
        self.norms = nn.ModuleList([BatchNorm3d(width, shift=shift, eps=EPSILON) for width in widths])
        self.noise = InstanceNoise(instance_noise, training_only=True)
        self.output = nn.Conv2d(widths[-1], 1, final_size)

    def forward(self, video: Tensor, label: Tensor | None = None) -> Tensor:
        """Scores ``(B,)``.

        Args:
            video: ``(B, C, 16, H, W)`` in the official range.
            label: ``(B, dim_category)``, one-hot; None without classes.
        """
        x = video.contiguous()  # G1 makes frames channels last, where 3-D convolutions are slower on the CPU
        if label is not None:
            planes = label[:, :, None, None, None].expand(-1, -1, *video.shape[2:])
            x = torch.cat([x, planes.to(x)], dim=1)
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            x = convolution(x)
            x = F.leaky_relu(self.noise(norm(x) if number else x), 0.2)
        return self.output(x.squeeze(2)).flatten()


# --------------------------------------------------------------------------------------------------------------------
# Objectives
# --------------------------------------------------------------------------------------------------------------------


class Objective(NamedTuple):
    """Losses from scores ``(B,)``.

    Args:
        real: of the discriminator, for real clips.
        fake: of the discriminator, for fakes.
        generator: of the generator, for fakes.
    """

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]


OBJECTIVES = {
    "wgan": Objective(real=lambda x: -x.mean(), fake=lambda x: x.mean(), generator=lambda x: -x.mean()),
    # the official code's labels: 0 for real, 1 for fake
    "vanilla": Objective(real=cross_entropy_fake, fake=cross_entropy_real, generator=cross_entropy_fake),
    "lsgan": Objective(
        real=lambda x: (x - 1).square().mean(),
        fake=lambda x: (x + 1).square().mean(),
        generator=lambda x: x.square().mean(),
    ),
}


# --------------------------------------------------------------------------------------------------------------------
# The model
# --------------------------------------------------------------------------------------------------------------------


class Scores(NamedTuple):
    """What the discriminator says, ``(B,)`` each."""

    fake: Tensor
    real: Tensor


@MODELS.register("tgan")
class TGAN(AdversarialModel):
    """One code per video, one code per frame made from it, and a critic kept 1-Lipschitz by singular value clipping.

    Args:
        channels: channels of the video.
        resolution: height and width in pixels, a multiple of 16 (paper: 64).
        num_frames: frames of a clip; 16, which the networks are made for.
        dim_slow: numbers in z_slow, the code of a video (shipped configs: 100).
        dim_fast: numbers in z_fast, the code of a frame (shipped configs: 100).
        frame_seed_channels: channels after the first four layers of G0 (paper: 512, 256, 128, 128).
        generator_width: channels of G1's smallest map, a multiple of 16 (paper: 512).
        discriminator_width: channels after the discriminator's first layer (paper: 64).
        dim_category: number of classes; 0 for the unconditional model. The conditional one is ours, after the paper's
            description.
        frame_seed_shift: whether the batch norms of G0 have a shift (shipped configs: no).
        discriminator_shift: whether those of the discriminator have one (shipped configs: no).
        objective: ``wgan`` (paper), ``vanilla`` (cross-entropy, with the official code's swapped labels) or ``lsgan``
            (targets 1 and -1 for the discriminator, 0 for the generator).
        constraint: what is done to the discriminator after its step: ``svc`` (paper), ``weight_clipping`` (the
            baseline) or ``none`` (for ``vanilla``).
        constraint_interval: iterations from one time to the next; None means 5 for ``svc`` and 1 for
            ``weight_clipping``, as in the paper.
        clip_value: largest magnitude of the discriminator's parameters under ``weight_clipping`` (paper: 0.01).
        instance_noise: standard deviation of the noise before the discriminator's activations in training (official
            code: 0; 0.3 for ``vanilla``).
        initialization: how the weights of G0 and the discriminator start: ``lecun_normal`` (UCF-101) or ``uniform``
            (Moving MNIST, golf); G1 is always uniform.
        uniform_scale: largest magnitude of uniform weights (official code: 0.01).
        learning_rate: step size of RMSprop (paper: 5e-5).
        generator_learning_rate: another one for the generators; None means ``learning_rate``.
        alpha: decay rate of RMSprop's average of squared gradients (official code: 0.99).
    """

    title = "TGAN"
    paper = (
        "Saito, Matsumoto, Saito: Temporal Generative Adversarial Nets with Singular Value Clipping, ICCV 2017, "
        "arXiv 1611.06624"
    )
    original = "github.com/pfnet-research/tgan (MIT)"
    ema_modules = ("generator",)

    def __init__(
        self,
        channels: int = 3,
        resolution: int = 64,
        num_frames: int = NUM_FRAMES,
        dim_slow: int = 100,
        dim_fast: int = 100,
        frame_seed_channels: tuple[int, int, int, int] = (512, 256, 128, 128),
        generator_width: int = 512,
        discriminator_width: int = 64,
        dim_category: int = 0,
        frame_seed_shift: bool = False,
        discriminator_shift: bool = False,
        objective: Literal["wgan", "vanilla", "lsgan"] = "wgan",
        constraint: Literal["svc", "weight_clipping", "none"] = "svc",
        constraint_interval: int | None = None,
        clip_value: float = 0.01,
        instance_noise: float = 0.0,
        initialization: Literal["lecun_normal", "uniform"] = "lecun_normal",
        uniform_scale: float = 0.01,
        learning_rate: float = 5e-5,
        generator_learning_rate: float | None = None,
        alpha: float = 0.99,
    ) -> None:
        super().__init__()
        check_positive(
            channels=channels,
            dim_slow=dim_slow,
            dim_fast=dim_fast,
            discriminator_width=discriminator_width,
            constraint_interval=1 if constraint_interval is None else constraint_interval,
        )
        check_not_negative(
            dim_category=dim_category,
            instance_noise=instance_noise,
            learning_rate=learning_rate,
            generator_learning_rate=generator_learning_rate,
        )
        check_above_zero(clip_value=clip_value, uniform_scale=uniform_scale)
        check_decay(alpha=alpha)
        if num_frames != NUM_FRAMES:
            raise UserError(f"model.num_frames {num_frames}: TGAN's networks are made for {NUM_FRAMES} frames")
        for key, value in (("resolution", resolution), ("generator_width", generator_width)):
            if value < 16 or value % 16:
                raise UserError(f"model.{key} {value}: must be a multiple of 16")
        if len(frame_seed_channels) != 4 or min(frame_seed_channels) < 1:
            raise UserError(f"model.frame_seed_channels {list(frame_seed_channels)}: must be four numbers above 0")
        self.channels = channels
        self.resolution = resolution
        self.num_frames = num_frames
        self.dim_slow = dim_slow
        self.dim_category = dim_category
        self.objective = objective
        self.constraint = constraint
        if constraint_interval is None:
            constraint_interval = 5 if constraint == "svc" else 1
        self.constraint_interval = constraint_interval
        self.clip_value = clip_value
        self.learning_rates = {
            "generator": learning_rate if generator_learning_rate is None else generator_learning_rate,
            "discriminator": learning_rate,
        }
        self.alpha = alpha
        self.generator = VideoGenerator(
            FrameSeedGenerator(dim_slow + dim_category, dim_fast, frame_seed_channels, frame_seed_shift),
            ImageGenerator(dim_slow, dim_fast, channels, generator_width, resolution // 16, dim_category),
        )
        self.discriminator = Discriminator(
            channels + dim_category, discriminator_width, resolution // 16, discriminator_shift, instance_noise
        )
        initialize_uniform(self, uniform_scale)
        if initialization == "lecun_normal":
            initialize_lecun_normal(self.generator.frame_seed)
            initialize_lecun_normal(self.discriminator)

    @property
    def task(self) -> str:
        """``class_conditional`` when there are classes, else ``unconditional``."""
        return "class_conditional" if self.dim_category else "unconditional"

    @property
    def train_keys(self) -> tuple[str, ...]:
        """Clips, and their classes when there are any."""
        return ("video", "label") if self.dim_category else ("video",)

    @property
    def max_frames(self) -> int:
        """Without interpolation, the length is fixed by the networks."""
        return self.num_frames

    @property
    def schedule_period(self) -> int:
        """The discriminator is constrained once in so many iterations."""
        return 1 if self.constraint == "none" else self.constraint_interval

    @property
    def parameters_without_gradient(self) -> dict[str, str]:
        """A batch norm that is not used, and what a Wasserstein critic is only defined up to."""
        reasons = {"discriminator.norms.0.*": "the official code makes it and does not use it; its checkpoints hold it"}
        if self.objective == "wgan":
            reasons["discriminator.output.bias"] = "a constant added to the scores of real clips and fakes cancels"
        return reasons

    def check_data(self, spec: DataSpec) -> None:
        """Check that clips have the model's shape, and its classes.

        Raises:
            UserError: they do not; the message names the config key.
        """
        check_clip_shape(spec, self.channels, self.resolution, self.num_frames)
        check_classes(spec, self.dim_category)

    @classmethod
    def small_variants(cls) -> dict[str, dict[str, Any]]:
        """The paper's model, with classes, and the baselines in its code."""
        small: dict[str, Any] = {
            "resolution": 16,
            "dim_slow": 5,
            "dim_fast": 4,
            "frame_seed_channels": (8, 6, 4, 4),
            "generator_width": 16,
            "discriminator_width": 4,
        }
        clipped = {"constraint": "weight_clipping", "initialization": "uniform"}
        vanilla = {"objective": "vanilla", "constraint": "none", "instance_noise": 0.3}
        return {
            "default": {**small, "constraint_interval": 2},
            "classes": {**small, "dim_category": 3, "constraint_interval": 2},
            "weight_clipping": {**small, **clipped, "frame_seed_shift": True, "discriminator_shift": True},
            "vanilla": {**small, **vanilla},
            "lsgan": {**small, "objective": "lsgan"},
        }

    # Training ------------------------------------------------------------------------------------------------------

    def build_optimizers(self) -> dict[str, Optimizer]:
        """RMSprop for G0 and G1 and for the discriminator, in the order of their updates."""
        return {
            name: RMSprop(getattr(self, name).parameters(), lr=rate, alpha=self.alpha)
            for name, rate in self.learning_rates.items()
        }

    def iteration(self, batches: list[Batch]) -> None:
        """Judge fakes and real clips once; update the generators, then the discriminator, and constrain it."""
        scores = self.share("forward", self.judge)
        self.update("generator", self.generator_terms, shared=scores, retain_graph=True)
        self.update("discriminator", self.discriminator_terms, shared=scores)
        del scores
        if (self.iteration_number + 1) % self.constraint_interval == 0 and self.constraint != "none":
            with self.timed(f"discriminator/{self.constraint}"):
                self.constrain_discriminator()

    def draw_slow(self, num_videos: int, stream: NoiseStream) -> Tensor:
        """z_slow ``(N, dim_slow)`` of fakes, uniform in [-1, 1), for this rank's share of a global batch."""
        return 2 * stream.uniform(num_videos, self.dim_slow) - 1

    def judge(self, batches: list[Batch]) -> Scores:
        """Scores of fakes, then of real clips, each with batch statistics of their own."""
        real = to_official(batches[0]["video"])
        if len(real) * world()[1] == 1:
            raise UserError("data.batch_size 1: TGAN's batch norms need at least 2 clips")
        label = self.one_hot(batches[0]["label"], real) if self.dim_category else None
        fake = self.generator(self.draw_slow(len(real), self.noise("latents")), label)
        return Scores(self.discriminator(fake, label), self.discriminator(real, label))

    def generator_terms(self, scores: Scores) -> LossTerms:
        """How little the discriminator is fooled."""
        return {"fake": OBJECTIVES[self.objective].generator(scores.fake)}

    def discriminator_terms(self, scores: Scores) -> LossTerms:
        """How badly real clips and fakes are told apart."""
        self.record("score/real", scores.real.detach().mean())
        self.record("score/fake", scores.fake.detach().mean())
        objective = OBJECTIVES[self.objective]
        return {"fake": objective.fake(scores.fake), "real": objective.real(scores.real)}

    @torch.no_grad()
    def constrain_discriminator(self) -> None:
        """Clip the discriminator's singular values and scales, or its parameters, in place and on its device."""
        if self.constraint == "svc":
            clip_to_lipschitz(self.discriminator)
        elif self.constraint == "weight_clipping":
            for parameter in self.discriminator.parameters():
                parameter.clamp_(-self.clip_value, self.clip_value)

    def one_hot(self, label: Tensor, like: Tensor) -> Tensor:
        """``(N, dim_category)`` for classes ``(N,)``, with type and device of ``like``."""
        return F.one_hot(label, self.dim_category).to(like)

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
        label: int | None = None,
        interpolation: int = 1,
    ) -> Tensor:
        """Make videos ``first .. first + num_videos - 1`` of the endless sequence that ``seed`` stands for.

        Args:
            num_videos: how many.
            num_frames: length in frames; None means all, ``15 * interpolation + 1``.
            seed: which sequence of videos.
            first: number of the first one.
            batch: not needed.
            label: class of all videos, an index; None draws one for each.
            interpolation: steps from one of the 16 frames to the next: 2 puts a frame between each two (section 3.4).

        Returns:
            float32 ``(N, C, T, H, W)`` in ``[-1, 1]``.

        Raises:
            UserError: more frames than the model makes, or a class that there is not.
        """
        if interpolation < 1:
            raise UserError(f"interpolation {interpolation}: must be at least 1")
        longest = (self.num_frames - 1) * interpolation + 1
        length = longest if num_frames is None else num_frames
        check_length(f"tgan with interpolation {interpolation}", length, longest)
        latents = self.sample_latents(num_videos, seed=seed, first=first, label=label)
        latents["fast"] = F.interpolate(latents["fast"], longest, mode="linear", align_corners=True)[:, :, :length]
        return self.decode(latents)

    @torch.no_grad()
    def sample_latents(
        self, num_videos: int, *, seed: int = 0, first: int = 0, label: int | None = None
    ) -> dict[str, Tensor]:
        """The latents of :meth:`sample`, which :meth:`decode` turns into videos.

        Args:
            num_videos: how many.
            seed: which sequence of videos.
            first: number of the first one.
            label: class of all videos, an index; None draws one for each.

        Returns:
            ``slow`` ``(N, dim_slow)``, ``fast`` ``(N, dim_fast, 16)``, in [-1, 1], and with classes ``category``
            ``(N, dim_category)``, one-hot.

        Raises:
            UserError: there is no such class.
        """
        check_label(label, self.dim_category)
        like = self.generator.image.slow.weight
        drawn = draw_numbered(range(first, first + num_videos), seed, self._draw)
        latents = {"slow": (2 * drawn[:, 1:] - 1).to(like)}
        if self.dim_category:
            classes = (drawn[:, 0] * self.dim_category).long() if label is None else torch.full((num_videos,), label)
            latents["category"] = self.one_hot(classes.to(like.device), like)
        with evaluating(self.generator):
            latents["fast"] = self.generator.codes(latents["slow"], latents.get("category"))
        return latents

    def _draw(self, noise: torch.Generator) -> Tensor:
        return torch.rand(1 + self.dim_slow, generator=noise)

    def decode(self, latents: dict[str, Tensor]) -> Tensor:
        """Videos ``(N, C, T, H, W)`` in [-1, 1] from latents, with running batch statistics.

        Args:
            latents: as :meth:`sample_latents` returns them, possibly mixed or edited; ``fast`` may have any length T.
        """
        slow, fast, category = latents["slow"], latents["fast"], latents.get("category")
        rows = max(1, FRAMES_PER_PASS // fast.shape[2])
        made = []
        with evaluating(self.generator):
            for start in range(0, len(fast), rows):
                part = slice(start, start + rows)
                label = None if category is None else category[part]
                frames = fast[part].split(FRAMES_PER_PASS, dim=2)
                made.append(torch.cat([self.generator.videos(slow[part], some, label) for some in frames], dim=2))
        return from_official(torch.cat(made).float()).contiguous()
