"""MoCoGAN: Decomposing Motion and Content for Video Generation.

Sergey Tulyakov, Ming-Yu Liu, Xiaodong Yang, Jan Kautz. CVPR 2018, arXiv 1707.04993.

A video is a path in the latent space of images. One content code, fixed for the whole video, says what is seen; one
motion code per frame, the output of a recurrent network R_M driven by noise, says what it does; an image generator G_I
turns each pair into a frame, so that a video can have any length. Two discriminators judge the result: D_I looks at
single frames, D_V at T consecutive ones (and, for videos with classes, names the class).

Where this follows the official code rather than the paper:

- the class of a video enters G_I beside the content code (the paper's table 4 also has it enter R_M, which is
  ``category_input="motion"`` here);
- G_I uses ReLU, and the discriminators return logits for a binary cross-entropy that includes the sigmoid;
- the class terms are plain cross-entropies of weight 1: on real clips for D_V (``use_categories``), on fakes for the
  generator (``use_infogan``), each with its own switch;
- every update draws its own fakes, and real and fake samples pass through a discriminator separately, so that each has
  its own batch statistics;
- weight decay is the L2 penalty inside Adam.

Fakes for D_I are one random frame each of independent videos. The official code picks random rows out of twice as many
rolled-out latent paths as there are frames; the distribution is the same up to rare collisions.

Other resolutions than the paper's 64 keep its plan: a base of 4 to 7 pixels, doubled until the resolution is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.layers.batch_norm import BatchNorm2d, BatchNorm3d
from vidgen.layers.initialization import initialize_torch_0_2
from vidgen.layers.noise import InstanceNoise
from vidgen.layers.pyramid import pyramid_plan, pyramid_widths
from vidgen.losses.adversarial import (
    accuracy_fake,
    accuracy_real,
    class_cross_entropy,
    cross_entropy_fake,
    cross_entropy_real,
)
from vidgen.models.base import AdversarialModel, Batch, LossTerms, evaluating
from vidgen.models.checks import (
    check_clip_shape,
    check_decay,
    check_equal,
    check_label,
    check_not_negative,
    check_positive,
)
from vidgen.registry import MODELS
from vidgen.seeding import NoiseStream, derive_seed

NOISE_BLOCK = 16  # frames whose motion noise is drawn at once in sampling
FRAMES_PER_PASS = 256  # frames that pass through G_I together in sampling, which bounds its memory


# --------------------------------------------------------------------------------------------------------------------
# Networks
# --------------------------------------------------------------------------------------------------------------------


class LatentDraws(NamedTuple):
    """Everything that is random about N videos of T frames.

    Args:
        content: ``(N, dim_content)``, normal.
        category: int64 ``(N,)``, the class; None for a model without classes.
        initial: ``(N, dim_motion)``, normal: the state of R_M before the first frame.
        motion: ``(T, N, dim_motion)``, normal: what drives R_M.
    """

    content: Tensor
    category: Tensor | None
    initial: Tensor
    motion: Tensor


class ImageGenerator(nn.Module):
    """G_I: latent code to image.

    Args:
        dim_latent: numbers in a latent code.
        channels: channels of the image.
        width: channels before the last layer.
        base_size: height and width in pixels after the first layer.
        upsamplings: how often that is doubled.
    """

    def __init__(self, dim_latent: int, channels: int, width: int, base_size: int, upsamplings: int) -> None:
        super().__init__()
        widths = pyramid_widths(width, upsamplings)[::-1]
        convolutions = [nn.ConvTranspose2d(dim_latent, widths[0], base_size, 1, 0, bias=False)]
        convolutions += [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False) for a, b in pairwise(widths)]
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList([BatchNorm2d(width) for width in widths])
        self.output = nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1, bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, latent: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in [-1, 1] from codes ``(N, dim_latent)``."""
        x = latent[:, :, None, None]
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)), inplace=True)
        return torch.tanh(self.output(x))


class VideoGenerator(nn.Module):
    """R_M and G_I: from latent draws to motion paths, latent codes, and frames.

    Args:
        channels: channels of a frame.
        width: channels before the last layer of G_I.
        base_size: height and width in pixels after the first layer of G_I.
        upsamplings: how often that is doubled.
        dim_content: numbers in the content code.
        dim_motion: numbers in a motion code.
        dim_category: number of classes; 0 for none.
        category_input: which network the class enters.
    """

    def __init__(
        self,
        *,
        channels: int,
        width: int,
        base_size: int,
        upsamplings: int,
        dim_content: int,
        dim_motion: int,
        dim_category: int = 0,
        category_input: Literal["generator", "motion"] = "generator",
    ) -> None:
        super().__init__()
        self.dim_category = dim_category
        self.category_input = category_input
        dim_noise, dim_latent = dim_motion, dim_content + dim_motion
        if category_input == "motion":
            dim_noise += dim_category
        else:
            dim_latent += dim_category
        self.recurrent = nn.GRUCell(dim_noise, dim_motion)
        self.image_generator = ImageGenerator(dim_latent, channels, width, base_size, upsamplings)

    def one_hot(self, category: Tensor, like: Tensor) -> Tensor:
        """``(N, dim_category)`` for classes ``(N,)``, with type and device of ``like``."""
        return F.one_hot(category, self.dim_category).to(like)

    def motion_path(self, initial: Tensor, noise: Tensor, category: Tensor | None) -> Tensor:
        """Motion codes ``(N, T, dim_motion)``: the states of R_M after each step, without the initial one."""
        if category is not None and self.category_input == "motion":
            one_hot = self.one_hot(category, noise)
            noise = torch.cat([noise, one_hot.expand(len(noise), -1, -1)], dim=2)  # (T, N, dim_motion + dim_category)
        states = [initial]
        for step in noise:
            states.append(self.recurrent(step, states[-1]))
        return torch.stack(states[1:], dim=1)

    def codes(self, content: Tensor, category: Tensor | None, path: Tensor) -> Tensor:
        """Latent codes ``(N, T, dim_latent)``: content, class where it enters G_I, motion.

        Args:
            content: ``(N, dim_content)``.
            category: ``(N, dim_category)``, one-hot or a mixture of classes; None where the class does not enter G_I.
            path: ``(N, T, dim_motion)``.
        """
        fixed = content if category is None else torch.cat([content, category], dim=1)
        return torch.cat([fixed[:, None].expand(-1, path.shape[1], -1), path], dim=2)

    def latents(self, draws: LatentDraws) -> dict[str, Tensor]:
        """What :meth:`codes` takes, by name."""
        latents = {"content": draws.content, "path": self.motion_path(draws.initial, draws.motion, draws.category)}
        if draws.category is not None and self.category_input == "generator":
            latents["category"] = self.one_hot(draws.category, draws.content)
        return latents

    def forward(self, draws: LatentDraws, frames: Tensor | None = None) -> Tensor:
        """Videos ``(N, C, T, H, W)`` in [-1, 1].

        Args:
            draws: what is random about them.
            frames: int64 ``(N, F)``, the numbers of the frames to make of each video; None makes all T.
        """
        latents = self.latents(draws)
        codes = self.codes(latents["content"], latents.get("category"), latents["path"])
        if frames is not None:
            codes = codes.gather(1, frames[:, :, None].expand(-1, -1, codes.shape[2]))
        images = self.image_generator(codes.flatten(0, 1))  # (N·T, C, H, W), the frames of one video side by side
        return images.unflatten(0, codes.shape[:2]).transpose(1, 2)


class DownBlock(nn.Module):
    """Instance noise, a convolution that halves height and width, batch norm, leaky ReLU."""

    def __init__(self, convolution: nn.Module, norm: nn.Module, instance_noise: float) -> None:
        super().__init__()
        self.noise = InstanceNoise(instance_noise)
        self.convolution = convolution
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Half the height and width; the convolution decides about channels and time."""
        return F.leaky_relu(self.norm(self.convolution(self.noise(x))), 0.2, inplace=True)


def image_convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution that halves height and width."""
    return nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)


def video_convolution(inputs: int, outputs: int) -> nn.Conv3d:
    """A convolution that halves height and width and takes three frames off the length: time is not padded."""
    return nn.Conv3d(inputs, outputs, 4, stride=(1, 2, 2), padding=(0, 1, 1), bias=False)


def trunk(
    convolution: Callable[[int, int], nn.Module],
    norm: Callable[[int], nn.Module],
    channels: int,
    widths: list[int],
    instance_noise: float,
) -> nn.Sequential:
    """The blocks of a discriminator; the first has no batch norm."""
    norms = [nn.Identity(), *(norm(width) for width in widths[1:])]
    convolutions = [convolution(a, b) for a, b in zip([channels, *widths], widths, strict=False)]
    return nn.Sequential(*[DownBlock(c, n, instance_noise) for c, n in zip(convolutions, norms, strict=True)])


class PatchImageDiscriminator(nn.Module):
    """D_I that judges patches: one logit for each.

    Args:
        channels: channels of the image.
        width: channels after the first layer.
        downsamplings: how often height and width are halved; the last time by the output layer.
        instance_noise: standard deviation of the noise before every convolution.
    """

    def __init__(self, channels: int, width: int, downsamplings: int, instance_noise: float = 0.0) -> None:
        super().__init__()
        widths = pyramid_widths(width, downsamplings - 1)
        self.trunk = trunk(image_convolution, BatchNorm2d, channels, widths, instance_noise)
        self.noise = InstanceNoise(instance_noise)
        self.output = image_convolution(widths[-1], 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, h, w)`` from images ``(B, C, H, W)``."""
        return self.output(self.noise(self.trunk(images))).squeeze(1)


class ImageDiscriminator(nn.Module):
    """D_I that judges whole images.

    Args:
        channels: channels of the image.
        width: channels after the first layer.
        downsamplings: how often height and width are halved.
        final_size: height and width in pixels that the output layer sees at once.
        instance_noise: standard deviation of the noise before every convolution but the last.
    """

    def __init__(
        self, channels: int, width: int, downsamplings: int, final_size: int = 4, instance_noise: float = 0.0
    ) -> None:
        super().__init__()
        widths = pyramid_widths(width, downsamplings)
        self.trunk = trunk(image_convolution, BatchNorm2d, channels, widths, instance_noise)
        self.output = nn.Conv2d(widths[-1], 1, final_size, bias=False)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, h, w)`` from images ``(B, C, H, W)``; 1 x 1 when the output layer sees all of the image."""
        return self.output(self.trunk(images)).squeeze(1)


class PatchVideoDiscriminator(nn.Module):
    """D_V that judges space-time patches: one logit for each.

    Args:
        channels: channels of the video.
        width: channels after the first layer.
        downsamplings: how often height and width are halved; the last time by the output layer.
        instance_noise: standard deviation of the noise before every convolution but the last.
    """

    num_classes = 0

    def __init__(self, channels: int, width: int, downsamplings: int, instance_noise: float = 0.0) -> None:
        super().__init__()
        widths = pyramid_widths(width, downsamplings - 1)
        self.trunk = trunk(video_convolution, BatchNorm3d, channels, widths, instance_noise)
        self.output = video_convolution(widths[-1], 1)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, t, h, w)`` and class logits ``(B, 0, t, h, w)`` from videos ``(B, C, T, H, W)``."""
        rows = video.contiguous()  # G_I makes frames channels last, where 3-D convolutions are slower on the CPU
        return split_classes(self.output(self.trunk(rows)))


class VideoDiscriminator(nn.Module):
    """D_V that judges whole videos and, given classes, names the class.

    Args:
        channels: channels of the video.
        width: channels after the first layer.
        downsamplings: how often height and width are halved.
        num_classes: classes that it names.
        final_size: height and width in pixels that the output layer sees at once.
        instance_noise: standard deviation of the noise before every convolution but the last.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        downsamplings: int,
        num_classes: int = 0,
        final_size: int = 4,
        instance_noise: float = 0.0,
    ) -> None:
        super().__init__()
        widths = pyramid_widths(width, downsamplings)
        self.num_classes = num_classes
        self.trunk = trunk(video_convolution, BatchNorm3d, channels, widths, instance_noise)
        self.output = nn.Conv3d(widths[-1], 1 + num_classes, (4, final_size, final_size), bias=False)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, t, h, w)`` and class logits ``(B, num_classes, t, h, w)`` from videos ``(B, C, T, H, W)``.

        Height and width are 1 when the output layer sees all of the frame; so is t for the shortest video it takes.
        """
        rows = video.contiguous()  # G_I makes frames channels last, where 3-D convolutions are slower on the CPU
        return split_classes(self.output(self.trunk(rows)))


def split_classes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first channel, and the others."""
    return x[:, 0], x[:, 1:]


def build_image_discriminator(
    kind: str, channels: int, width: int, base_size: int, doublings: int, instance_noise: float
) -> nn.Module:
    """D_I of the given kind for images of ``base_size * 2**doublings`` pixels."""
    if kind == "patch":
        return PatchImageDiscriminator(channels, width, doublings, instance_noise)
    return ImageDiscriminator(channels, width, doublings, base_size, instance_noise)


def build_video_discriminator(
    kind: str, channels: int, width: int, base_size: int, doublings: int, instance_noise: float, num_classes: int
) -> nn.Module:
    """D_V of the given kind for videos of ``base_size * 2**doublings`` pixels."""
    if kind == "patch":
        return PatchVideoDiscriminator(channels, width, doublings, instance_noise)
    return VideoDiscriminator(channels, width, doublings, num_classes, base_size, instance_noise)


# --------------------------------------------------------------------------------------------------------------------
# Which sizes there are
# --------------------------------------------------------------------------------------------------------------------


def network_plan(resolution: int) -> tuple[int, int]:
    """Base size (4 to 7 pixels) and number of doublings that give a resolution.

    Args:
        resolution: height and width in pixels.

    Returns:
        ``(base_size, doublings)``, for example (4, 4) for 64.

    Raises:
        UserError: there is no such pair with at least two doublings.
    """
    plan = pyramid_plan(resolution)
    if plan is None:
        raise UserError(
            f"model.resolution {resolution}: MoCoGAN needs 4, 5, 6 or 7 times a power of two (32, 48, 64, 96, 128, …)"
        )
    return plan


def fewest_frames(doublings: int, video_discriminator: str) -> int:
    """Frames of the shortest video that D_V takes: each of its convolutions takes three frames off."""
    return 3 * (doublings + (video_discriminator == "full")) + 1


# --------------------------------------------------------------------------------------------------------------------
# The model
# --------------------------------------------------------------------------------------------------------------------


@MODELS.register("mocogan")
class MoCoGAN(AdversarialModel):
    """Motion and content decomposed GAN: one content code per video, one motion code per frame, two discriminators.

    Args:
        channels: channels of the video.
        resolution: height and width in pixels; 4 to 7 times a power of two (paper: 64; 96 for faces).
        num_frames: frames of a training clip, which D_V sees at once (paper: 16).
        dim_content: numbers in the content code of a video (paper: 50).
        dim_motion: numbers in the motion code of a frame (paper: 10).
        dim_category: number of classes; 0 for a model without classes (paper: 6 for MUG, 4 for the shipped actions).
        category_input: where the class enters: ``generator`` (beside the content code, as in the official code) or
            ``motion`` (beside the noise that drives R_M, the best scheme of the paper's table 4).
        generator_width: channels before the last layer of G_I (official code: 64).
        discriminator_width: channels after the first layer of D_I and D_V (official code: 64).
        image_discriminator_width: another one for D_I; None means ``discriminator_width``.
        image_discriminator: D_I judges ``patch``es (official default) or the ``full`` image.
        video_discriminator: D_V judges ``patch``es or the ``full`` clip (official default); only the full one can name
            classes.
        use_categories: train D_V to name the class of real clips, which needs labels (official default: off); None
            means on when there are classes.
        use_infogan: train the generator so that D_V names the class asked for (official default: off); None means on
            when there are classes.
        instance_noise: standard deviation of the noise inside the discriminators, where pixels are in [-1, 1]
            (official default: 0; 0.1 has been used for UCF-101).
        learning_rate: step size of the three optimisers (official code: 2e-4).
        generator_learning_rate: another one for the generator; None means ``learning_rate``.
        image_discriminator_learning_rate: another one for D_I; None means ``learning_rate``.
        video_discriminator_learning_rate: another one for D_V; None means ``learning_rate``.
        beta1: decay rate of Adam's average of gradients (official code: 0.5).
        beta2: decay rate of Adam's average of squared gradients (official code: 0.999).
        weight_decay: weight of the L2 penalty inside Adam (official code: 1e-5).
        initialization: how the weights start: as ``torch`` draws them today or as ``torch_0_2``, the version of the
            official code, did.
    """

    title = "MoCoGAN"
    paper = (
        "Tulyakov, Liu, Yang, Kautz: MoCoGAN: Decomposing Motion and Content for Video Generation, CVPR 2018, "
        "arXiv 1707.04993"
    )
    original = "github.com/sergeytulyakov/mocogan (CC BY-NC-ND 4.0)"
    ema_modules = ("generator",)

    def __init__(
        self,
        channels: int = 3,
        resolution: int = 64,
        num_frames: int = 16,
        dim_content: int = 50,
        dim_motion: int = 10,
        dim_category: int = 0,
        category_input: Literal["generator", "motion"] = "generator",
        generator_width: int = 64,
        discriminator_width: int = 64,
        image_discriminator_width: int | None = None,
        image_discriminator: Literal["patch", "full"] = "patch",
        video_discriminator: Literal["patch", "full"] = "full",
        use_categories: bool | None = None,
        use_infogan: bool | None = None,
        instance_noise: float = 0.0,
        learning_rate: float = 2e-4,
        generator_learning_rate: float | None = None,
        image_discriminator_learning_rate: float | None = None,
        video_discriminator_learning_rate: float | None = None,
        beta1: float = 0.5,
        beta2: float = 0.999,
        weight_decay: float = 1e-5,
        initialization: Literal["torch", "torch_0_2"] = "torch",
    ) -> None:
        super().__init__()
        base_size, doublings = network_plan(resolution)
        self.resolution = resolution
        self.num_frames = num_frames
        self.channels = channels
        self.dim_content = dim_content
        self.dim_motion = dim_motion
        self.dim_category = dim_category
        self.use_categories = dim_category > 0 if use_categories is None else use_categories
        self.use_infogan = dim_category > 0 if use_infogan is None else use_infogan
        self.num_classes = dim_category if self.use_categories or self.use_infogan else 0
        if image_discriminator_width is None:
            image_discriminator_width = discriminator_width
        check_positive(
            channels=channels,
            dim_content=dim_content,
            dim_motion=dim_motion,
            generator_width=generator_width,
            discriminator_width=discriminator_width,
            image_discriminator_width=image_discriminator_width,
        )
        if instance_noise < 0:
            raise UserError(f"model.instance_noise {instance_noise}: a standard deviation cannot be negative")
        self._check_classes(video_discriminator, category_input)
        shortest = fewest_frames(doublings, video_discriminator)
        if num_frames < shortest:
            raise UserError(
                f"model.num_frames {num_frames}: the {video_discriminator} video discriminator needs at least "
                f"{shortest} frames at resolution {resolution}"
            )
        own_rates = {
            "image_discriminator": image_discriminator_learning_rate,
            "video_discriminator": video_discriminator_learning_rate,
            "generator": generator_learning_rate,
        }
        self.learning_rates = {name: learning_rate if rate is None else rate for name, rate in own_rates.items()}
        check_not_negative(
            learning_rate=learning_rate,
            generator_learning_rate=generator_learning_rate,
            image_discriminator_learning_rate=image_discriminator_learning_rate,
            video_discriminator_learning_rate=video_discriminator_learning_rate,
            weight_decay=weight_decay,
        )
        check_decay(beta1=beta1, beta2=beta2)
        self.betas = (beta1, beta2)
        self.weight_decay = weight_decay

        self.generator = VideoGenerator(
            channels=channels,
            width=generator_width,
            base_size=base_size,
            upsamplings=doublings,
            dim_content=dim_content,
            dim_motion=dim_motion,
            dim_category=dim_category,
            category_input=category_input,
        )
        self.image_discriminator = build_image_discriminator(
            image_discriminator, channels, image_discriminator_width, base_size, doublings, instance_noise
        )
        self.video_discriminator = build_video_discriminator(
            video_discriminator, channels, discriminator_width, base_size, doublings, instance_noise, self.num_classes
        )
        if initialization == "torch_0_2":
            initialize_torch_0_2(self)

    def _check_classes(self, video_discriminator: str, category_input: str) -> None:
        if self.dim_category == 0:
            for key, on in (("use_categories", self.use_categories), ("use_infogan", self.use_infogan)):
                if on:
                    raise UserError(f"model.{key}: needs classes, but model.dim_category is 0")
            if category_input == "motion":
                raise UserError("model.category_input motion: needs classes, but model.dim_category is 0")
        if self.num_classes and video_discriminator == "patch":
            raise UserError(
                "model.video_discriminator patch: cannot name classes; use full, or set model.use_categories and "
                "model.use_infogan to false"
            )

    @property
    def task(self) -> str:
        """``class_conditional`` when there are classes, else ``unconditional``."""
        return "class_conditional" if self.dim_category else "unconditional"

    @property
    def train_keys(self) -> tuple[str, ...]:
        """Clips for D_V, separate frames for D_I, and labels when D_V learns the classes."""
        return ("video", "images", "label") if self.use_categories else ("video", "images")

    def check_data(self, spec: DataSpec) -> None:
        """Check that clips have the model's shape, and the classes that D_V shall name.

        Raises:
            UserError: they do not; the message names the config key.
        """
        check_clip_shape(spec, self.channels, self.resolution, self.num_frames)
        if self.use_categories:
            if not spec.class_names:
                raise UserError(
                    "model.use_categories: needs labelled videos, but the data has no classes; set it to false"
                )
            check_equal("dim_category", self.dim_category, len(spec.class_names), "classes")

    @classmethod
    def small_variants(cls) -> dict[str, dict[str, Any]]:
        """Unconditional with every pair of discriminators, both places for the class, instance noise."""
        small: dict[str, Any] = {
            "resolution": 16,
            "num_frames": 10,
            "dim_content": 4,
            "dim_motion": 3,
            "generator_width": 4,
            "discriminator_width": 4,
        }
        return {
            "default": small,
            "patch_video": {**small, "image_discriminator": "full", "video_discriminator": "patch"},
            "class_in_generator": {**small, "dim_category": 3},
            "class_in_motion": {**small, "dim_category": 3, "category_input": "motion"},
            "instance_noise": {**small, "instance_noise": 0.1, "initialization": "torch_0_2"},
        }

    # Training ------------------------------------------------------------------------------------------------------

    def build_optimizers(self) -> dict[str, Optimizer]:
        """One Adam for each update, in their order; R_M and G_I share the generator's."""
        return {
            name: Adam(
                getattr(self, name).parameters(), lr=rate, betas=self.betas, weight_decay=self.weight_decay, fused=True
            )
            for name, rate in self.learning_rates.items()
        }

    def iteration(self, batches: list[Batch]) -> None:
        """Update D_I, then D_V, then R_M and G_I together, each against its own fakes."""
        self.update("image_discriminator", self.image_discriminator_loss)
        self.update("video_discriminator", self.video_discriminator_loss)
        self.update("generator", self.generator_loss)

    def draw_videos(self, num_videos: int, stream: NoiseStream) -> LatentDraws:
        """What is random about fake videos, for this rank's share of a global batch."""
        return LatentDraws(
            content=stream.normal(num_videos, self.dim_content),
            category=stream.integers(self.dim_category, num_videos) if self.dim_category else None,
            initial=stream.normal(num_videos, self.dim_motion),
            motion=stream.normal(self.num_frames, num_videos, self.dim_motion, batch_dim=1),
        )

    def draw_images(self, num_images: int, stream: NoiseStream) -> tuple[LatentDraws, Tensor]:
        """What is random about fake images: videos, and the number ``(N, 1)`` of the frame taken from each."""
        return self.draw_videos(num_images, stream), stream.integers(self.num_frames, num_images, 1)

    def image_discriminator_loss(self, batches: list[Batch]) -> LossTerms:
        """Cross-entropy of D_I on real frames and on fakes."""
        real = batches[0]["images"]
        with torch.no_grad():
            draws = self.draw_images(len(real), self.noise("image_discriminator/fake_images"))
            fake = self.generator(*draws).squeeze(2)
        real_logits, fake_logits = self.image_discriminator(real), self.image_discriminator(fake)
        self.record("accuracy/image_discriminator_real", accuracy_real(real_logits))
        self.record("accuracy/image_discriminator_fake", accuracy_fake(fake_logits))
        return {"real": cross_entropy_real(real_logits), "fake": cross_entropy_fake(fake_logits)}

    def video_discriminator_loss(self, batches: list[Batch]) -> LossTerms:
        """Cross-entropy of D_V on real clips and on fakes, and of the class that it names for real ones."""
        real = batches[0]["video"]
        with torch.no_grad():
            fake = self.generator(self.draw_videos(len(real), self.noise("video_discriminator/fake_videos")))
        (real_logits, classes), (fake_logits, _) = self.video_discriminator(real), self.video_discriminator(fake)
        self.record("accuracy/video_discriminator_real", accuracy_real(real_logits))
        self.record("accuracy/video_discriminator_fake", accuracy_fake(fake_logits))
        terms = {"real": cross_entropy_real(real_logits), "fake": cross_entropy_fake(fake_logits)}
        if self.use_categories:
            terms["class"] = class_cross_entropy(classes, batches[0]["label"])
        return terms

    def generator_loss(self, batches: list[Batch]) -> LossTerms:
        """How little both discriminators are fooled, and how badly D_V names the class asked for."""
        image_draws = self.draw_images(len(batches[0]["images"]), self.noise("generator/fake_images"))
        image_logits = self.image_discriminator(self.generator(*image_draws).squeeze(2))
        draws = self.draw_videos(len(batches[0]["video"]), self.noise("generator/fake_videos"))
        video_logits, classes = self.video_discriminator(self.generator(draws))
        terms = {"image": cross_entropy_real(image_logits), "video": cross_entropy_real(video_logits)}
        if self.use_infogan and draws.category is not None:
            terms["class"] = class_cross_entropy(classes, draws.category)
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
        label: int | None = None,
    ) -> Tensor:
        """Make videos ``first .. first + num_videos - 1`` of the endless sequence that ``seed`` stands for.

        Args:
            num_videos: how many.
            num_frames: length in frames, any; None means the training length. Longer videos begin like shorter ones.
            seed: which sequence of videos.
            first: number of the first one.
            batch: not needed.
            label: class of all videos, an index; None draws one for each.

        Returns:
            float32 ``(N, C, T, H, W)`` in ``[-1, 1]``.
        """
        return self.decode(self.sample_latents(num_videos, num_frames=num_frames, seed=seed, first=first, label=label))

    @torch.no_grad()
    def sample_latents(
        self,
        num_videos: int,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        label: int | None = None,
    ) -> dict[str, Tensor]:
        """The latents of :meth:`sample`, which :meth:`decode` turns into videos.

        Args:
            num_videos: how many.
            num_frames: length in frames; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            label: class of all videos, an index; None draws one for each.

        Returns:
            ``content`` ``(N, dim_content)``, ``path`` ``(N, T, dim_motion)`` and, where the class enters G_I,
            ``category`` ``(N, dim_category)``, one-hot.
        """
        numbers = range(first, first + num_videos)
        draws = self._video_draws(numbers, 0, self.num_frames if num_frames is None else num_frames, seed, label)
        return self.generator.latents(draws)

    def decode(self, latents: dict[str, Tensor]) -> Tensor:
        """Videos ``(N, C, T, H, W)`` from the latents of :meth:`sample_latents`, with running batch statistics.

        Args:
            latents: as :meth:`sample_latents` returns them, possibly mixed or edited.
        """
        codes = self.generator.codes(latents["content"], latents.get("category"), latents["path"])
        with evaluating(self.generator):
            frames = [self.generator.image_generator(part) for part in codes.flatten(0, 1).split(FRAMES_PER_PASS)]
        return torch.cat(frames).float().unflatten(0, codes.shape[:2]).transpose(1, 2).contiguous()

    @torch.no_grad()
    def exchange(
        self,
        num_content: int,
        num_motion: int,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        label: int | None = None,
    ) -> Tensor:
        """A grid of videos: each row keeps a content code, each column a motion path and its class.

        Args:
            num_content: rows; row i has the content of video ``first + i`` of :meth:`sample`.
            num_motion: columns; column j has the motion of video ``first + j``, so that the diagonal is a plain sample.
            num_frames: length in frames; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            label: class of all videos, an index; None draws one for each column.

        Returns:
            float32 ``(num_content, num_motion, C, T, H, W)`` in ``[-1, 1]``.
        """
        count = max(num_content, num_motion)
        latents = self.sample_latents(count, num_frames=num_frames, seed=seed, first=first, label=label)
        grid = {name: code[:num_motion].repeat(num_content, *[1] * (code.dim() - 1)) for name, code in latents.items()}
        grid["content"] = latents["content"][:num_content].repeat_interleave(num_motion, dim=0)
        return self.decode(grid).unflatten(0, (num_content, num_motion))

    @torch.no_grad()
    def stream(
        self,
        batch: Batch | None = None,
        state: dict[str, Any] | None = None,
        *,
        num_videos: int = 1,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        total_frames: int | None = None,
        label: int | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Make the next frames of videos of any length, in memory that does not grow with it.

        Args:
            batch: not needed.
            state: what the previous call returned; None starts the videos.
            num_videos: how many, as in every call for the same videos.
            num_frames: frames to make now; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            total_frames: not needed: no frame depends on where the videos end.
            label: class of all videos, an index; None draws one for each.

        Returns:
            Frames ``(N, C, num_frames, H, W)`` in ``[-1, 1]``, and the state for the next call.
        """
        start, length = state["frame"] if state else 0, self.num_frames if num_frames is None else num_frames
        draws = self._video_draws(range(first, first + num_videos), start, length, seed, label)
        latents = self.generator.latents(draws._replace(initial=state["motion"]) if state else draws)
        return self.decode(latents), {"frame": start + length, "motion": latents["path"][:, -1]}

    def _video_draws(self, numbers: range, start: int, length: int, seed: int, label: int | None) -> LatentDraws:
        """What is random about frames ``start .. start + length - 1`` of the numbered videos.

        Each video has its own generator, and each block of its frames one more: a video does not depend on which ones
        are made with it, nor a frame on how many follow. Numbers are drawn on the CPU, the same for every device.
        """
        check_label(label, self.dim_category)
        if length < 1:
            raise UserError(f"num_frames {length}: must be at least 1")
        content, category, initial, motion = [], [], [], []
        blocks = range(start // NOISE_BLOCK, -(-(start + length) // NOISE_BLOCK))
        skipped = start - blocks.start * NOISE_BLOCK
        for number in numbers:
            generator = torch.Generator().manual_seed(derive_seed(seed, "sample", number))
            content.append(torch.randn(self.dim_content, generator=generator))
            initial.append(torch.randn(self.dim_motion, generator=generator))
            category.append(torch.randint(max(1, self.dim_category), (), generator=generator))
            noise = []
            for block in blocks:
                generator.manual_seed(derive_seed(seed, "sample", number, "motion", block))
                noise.append(torch.randn(NOISE_BLOCK, self.dim_motion, generator=generator))
            motion.append(torch.cat(noise)[skipped : skipped + length])
        like = self.generator.recurrent.weight_hh
        classes = torch.stack(category) if label is None else torch.full((len(numbers),), label)
        return LatentDraws(
            content=torch.stack(content).to(like),
            category=classes.to(like.device) if self.dim_category else None,
            initial=torch.stack(initial).to(like),
            motion=torch.stack(motion, dim=1).to(like),
        )
