"""First stage of TATS: a 3-D VQGAN whose tokens do not say when a frame was.

As in the official code, against the paper where the two differ:

- the adversarial losses are hinge losses, where the formula has logarithms;
- what pads the time axis pads height and width too;
- every layer's feature matching has weight 1;
- an iteration runs the whole forward pass twice, once for each update, so that codebook and batch norms move twice, on
  other random frames (``shared_forward`` runs it once);
- before ``disc_start`` the critics do not learn, but their batch norms and Adam's step counters advance.

Unlike there, a resumed run goes on with its codebook, ``disc_start`` counts iterations whatever is accumulated, and
LPIPS has no dropout unless ``perceptual_dropout`` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.layers.precision import at_least_float32
from vidgen.losses.adversarial import cross_entropy_fake, cross_entropy_real, hinge_fake, hinge_generator, hinge_real
from vidgen.models.base import AdversarialModel, Batch, LossTerms, evaluating
from vidgen.models.checks import (
    check_above_zero,
    check_decay,
    check_equal,
    check_length,
    check_not_negative,
    check_one_of,
    check_positive,
)
from vidgen.models.tats.autoencoder import Reconstruction, VideoAutoencoder, laid_out
from vidgen.models.tats.discriminators import PatchDiscriminator
from vidgen.models.tats.networks import GROUPS, PADDINGS
from vidgen.registry import MODELS
from vidgen.training.optimizers import fused_on_cpu

if TYPE_CHECKING:
    from vidgen.data.encoding import Encoding
    from vidgen.losses.perceptual import PerceptualLoss

PAPER = (
    "Ge, Hayes, Yang, Yin, Pang, Jacobs, Huang, Parikh: Long Video Generation with Time-Agnostic VQGAN and "
    "Time-Sensitive Transformer, ECCV 2022, arXiv 2204.03638"
)
ORIGINAL = "https://github.com/songweige/TATS (MIT)"
STAGES = ("tats_vqgan", "tats", "tats_interpolation")
"""Trained one after the other; the third only for the hierarchy."""


class Shown(NamedTuple):
    """What the critics see of a batch.

    Args:
        clips: reconstructions and targets.
        frames: a random frame of each target ``(B, C, H, W)``.
        made: the same frames of the reconstructions.
    """

    clips: Reconstruction
    frames: Tensor
    made: Tensor


@MODELS.register("tats_vqgan")
class TATSVQGAN(AdversarialModel):
    """Time-agnostic VQGAN, TATS's first stage.

    Args:
        channels: of a frame; 1 for spectrograms.
        resolution: height of a frame and, without ``width``, its width, pixels; multiples of ``downsample``.
        width: of frames that are not square, pixels.
        num_frames: frames of a training clip, padding ones included.
        n_hiddens: channels of the first convolution (paper 32).
        downsample: by how much time, height and width shrink, powers of two (paper 4, 8, 8).
        embedding_dim: size of a code (paper 256).
        n_codes: codes in the codebook (paper 16384).
        norm: ``batch`` (paper) or ``group``, which needs ``n_hiddens`` to be a multiple of 16 and mixes all time steps.
        padding: of the time axis, and with it of height and width: ``replicate`` (paper), ``zero``, ``reflect``,
            ``circular``, or ``real``: ``real_frames`` real frames on each side of a clip stand beside it, and
            the convolutions replicate.
        padding_scope: whether ``padding`` holds for the ``encoder``'s convolutions outside residual blocks, as in the
            official code, or for ``all`` of encoder and decoder.
        real_frames: with ``padding: real``, frames on each side; a multiple of ``downsample[0]``.
        random_restart: whether codes out of use are replaced by random latents (official setting: no).
        restart_threshold: uses, averaged, below which a code is out of use.
        disc_channels: channels of the discriminators' first stage (paper 64).
        disc_layers: their stages of stride 2 (paper 3).
        disc_start: iteration from which they take part (paper 10000).
        disc_loss: ``hinge`` (paper) or ``vanilla``, with logarithms.
        image_gan_weight: weight of the discriminator of frames.
        video_gan_weight: weight of the discriminator of clips.
        l1_weight: weight of the mean absolute error, of values in [-0.5, 0.5].
        gan_feat_weight: weight of feature matching.
        perceptual_weight: weight of LPIPS; 0 needs no weight file.
        perceptual_weights: file of VGG16's weights; ``auto`` takes torchvision's, from the cache or by download.
        perceptual_dropout: drop features before LPIPS's heads, as the official training does.
        shared_forward: run the autoencoder once an iteration, for both updates.
        learning_rate: of both Adams (paper 9e-5 for 96 clips).
        beta1: decay of Adam's first moment.
        beta2: decay of its second moment.

    Raises:
        UserError: an argument is out of range, or two contradict each other.
    """

    title = "Time-agnostic VQGAN (TATS, first stage)"
    paper = PAPER
    original = ORIGINAL
    stages = STAGES

    def __init__(
        self,
        channels: int = 3,
        resolution: int = 128,
        width: int | None = None,
        num_frames: int = 16,
        n_hiddens: int = 32,
        downsample: tuple[int, int, int] = (4, 8, 8),
        embedding_dim: int = 256,
        n_codes: int = 16384,
        norm: Literal["batch", "group"] = "batch",
        padding: Literal["replicate", "zero", "reflect", "circular", "real"] = "replicate",
        padding_scope: Literal["encoder", "all"] = "encoder",
        real_frames: int = 0,
        random_restart: bool = False,
        restart_threshold: float = 1.0,
        disc_channels: int = 64,
        disc_layers: int = 3,
        disc_start: int = 10000,
        disc_loss: Literal["hinge", "vanilla"] = "hinge",
        image_gan_weight: float = 1.0,
        video_gan_weight: float = 1.0,
        l1_weight: float = 4.0,
        gan_feat_weight: float = 4.0,
        perceptual_weight: float = 4.0,
        perceptual_weights: str = "auto",
        perceptual_dropout: bool = False,
        shared_forward: bool = False,
        learning_rate: float = 9e-5,
        beta1: float = 0.5,
        beta2: float = 0.9,
    ) -> None:
        super().__init__()
        check_positive(
            channels=channels,
            resolution=resolution,
            width=resolution if width is None else width,
            num_frames=num_frames,
            n_hiddens=n_hiddens,
            embedding_dim=embedding_dim,
            n_codes=n_codes,
            disc_channels=disc_channels,
            disc_layers=disc_layers,
        )
        check_one_of(
            norm=(norm, ("batch", "group")),
            padding=(padding, (*PADDINGS, "real")),
            padding_scope=(padding_scope, ("encoder", "all")),
            disc_loss=(disc_loss, ("hinge", "vanilla")),
        )
        check_not_negative(
            real_frames=real_frames,
            restart_threshold=restart_threshold,
            disc_start=disc_start,
            image_gan_weight=image_gan_weight,
            video_gan_weight=video_gan_weight,
            l1_weight=l1_weight,
            gan_feat_weight=gan_feat_weight,
            perceptual_weight=perceptual_weight,
        )
        check_above_zero(learning_rate=learning_rate)
        check_decay(beta1=beta1, beta2=beta2)
        self.size = (resolution, resolution if width is None else width)
        self.num_frames = num_frames
        self.channels = channels
        check_downsample(downsample, num_frames, *self.size)
        _check_padding(padding, real_frames, num_frames, downsample[0])
        if norm == "group" and 2 * n_hiddens % GROUPS:
            raise UserError(f"model.n_hiddens {n_hiddens}: group norm needs a multiple of {GROUPS // 2}")
        self.disc_start = disc_start
        self.disc_loss = disc_loss
        self.gan_weights = (image_gan_weight, video_gan_weight)
        self.l1_weight = l1_weight
        self.gan_feat_weight = gan_feat_weight
        self.perceptual_weight = perceptual_weight
        self.perceptual_weights = perceptual_weights
        self.perceptual_dropout = perceptual_dropout
        self.shared_forward = shared_forward
        self.learning_rate = learning_rate
        self.betas = (beta1, beta2)
        self.autoencoder = self.build_autoencoder(**self.init_args)
        self.autoencoder.check_size(num_frames, *self.size)
        self.image_discriminator = PatchDiscriminator(2, channels, disc_channels, disc_layers)
        self.video_discriminator = PatchDiscriminator(3, channels, disc_channels, disc_layers)
        self.perceptual: PerceptualLoss | None = None
        self._kept: dict[int, Shown] = {}

    @staticmethod
    def build_autoencoder(**arguments: Any) -> VideoAutoencoder:
        """The part that later stages keep.

        Args:
            arguments: of the model, all of them.
        """
        names = ("channels", "n_hiddens", "embedding_dim", "n_codes", "norm", "padding_scope", "real_frames")
        padding = arguments["padding"]
        return VideoAutoencoder(
            **{name: arguments[name] for name in (*names, "random_restart", "restart_threshold")},
            downsample=tuple(arguments["downsample"]),
            padding="replicate" if padding == "real" else padding,
        )

    @property
    def task(self) -> str:
        """``autoencoder``."""
        return "autoencoder"

    @property
    def sample_keys(self) -> tuple[str, ...]:
        """The clips to reconstruct."""
        return ("video",)

    @property
    def context_frames(self) -> int:
        """All frames of a clip."""
        return self.num_frames

    @property
    def max_frames(self) -> int:
        """The length of a clip; :meth:`encode` and :meth:`decode` take any."""
        return self.num_frames

    @property
    def stochastic(self) -> bool:
        """A clip has one reconstruction."""
        return False

    @property
    def encoding(self) -> Encoding:
        """What :meth:`encode` makes, for ``vidgen data encode``."""
        from vidgen.data.encoding import Encoding

        network = self.autoencoder
        return Encoding(
            key="tokens",
            stride=network.downsample[0],
            halo=None if network.encoder_mixes else network.halo,
            num_codes=network.n_codes,
            fingerprint=network.encoder_fingerprint(),
        )

    @property
    def parameters_without_gradient(self) -> Mapping[str, str]:
        """Discriminators without weight."""
        reasons = {}
        for name, weight in zip(("image_discriminator.*", "video_discriminator.*"), self.gan_weights, strict=True):
            if not weight:
                reasons[name] = "its weight in the loss is 0"
            elif self.disc_start:
                reasons[name] = f"it takes part from iteration {self.disc_start} on"
        return reasons

    def networks(self) -> dict[str, nn.Module]:
        """Parts of the autoencoder, and the discriminators."""
        network = self.autoencoder
        return {
            "encoder": network.encoder,
            "project": network.project,
            "unproject": network.unproject,
            "decoder": network.decoder,
            "image_discriminator": self.image_discriminator,
            "video_discriminator": self.video_discriminator,
        }

    def check_data(self, spec: DataSpec) -> None:
        """Check that clips have the model's shape.

        Raises:
            UserError: they do not; the message names the config key.
        """
        check_equal("channels", self.channels, spec.channels, "channels")
        check_equal("resolution", self.size[0], spec.resolution, "resolution")
        check_equal("width", self.size[1], spec.width or spec.resolution, "width")
        check_equal("num_frames", self.num_frames, spec.num_frames, "num_frames")

    def example_batch(self, batch_size: int, seed: int = 0) -> Batch:
        """Random clips of the model's shape."""
        from vidgen.seeding import NoiseStream, derive_seed

        noise = NoiseStream(derive_seed(seed, "example"), self.device)
        return {"video": noise.uniform(batch_size, self.channels, self.num_frames, *self.size) * 2 - 1}

    @classmethod
    def small_variants(cls) -> dict[str, dict[str, Any]]:
        """Both norms, kinds of padding, restarts, one and two forward passes."""
        small: dict[str, Any] = {
            "resolution": 16,
            "num_frames": 8,
            "n_hiddens": 2,
            "downsample": (2, 4, 4),
            "embedding_dim": 4,
            "n_codes": 8,
            "disc_channels": 2,
            "disc_layers": 2,
            "disc_start": 0,
            "disc_loss": "vanilla",  # of the hinge loss the last bias has gradient 0 until a logit leaves the margin
            "perceptual_weight": 0.0,
            "learning_rate": 1e-3,
        }
        real = {"padding": "real", "real_frames": 2, "num_frames": 12}
        return {
            "default": small,
            "group_norm": {
                **small,
                "norm": "group",
                "n_hiddens": 16,
                "downsample": (2, 2, 2),
                "resolution": 8,
                "padding": "zero",
                "padding_scope": "all",
            },
            "real_frames": {**small, **real, "channels": 1, "random_restart": True, "shared_forward": True},
        }

    # Training -------------------------------------------------------------------------------------------------------

    def build_optimizers(self) -> dict[str, Optimizer]:
        """Adam for the autoencoder and Adam for both discriminators."""
        discriminators = [*self.image_discriminator.parameters(), *self.video_discriminator.parameters()]
        groups = {"autoencoder": list(self.autoencoder.parameters()), "discriminator": discriminators}
        return {
            name: Adam(parameters, lr=self.learning_rate, betas=self.betas, fused=fused_on_cpu(parameters))
            for name, parameters in groups.items()
        }

    def setup(self, stage: str) -> None:
        """Load the weights of LPIPS before training.

        Raises:
            UserError: there are none, or LPIPS does not take such frames.
        """
        if stage == "fit" and self.perceptual_weight and self.perceptual is None:
            from vidgen.losses.perceptual import MIN_SIDE, load_perceptual

            if self.channels not in (1, 3) or min(self.size) < MIN_SIDE:
                raise UserError(
                    f"model.perceptual_weight {self.perceptual_weight:g}: LPIPS takes frames of 1 or 3 channels and at"
                    f" least {MIN_SIDE} x {MIN_SIDE} pixels; set it to 0"
                )
            self.perceptual = load_perceptual(self.perceptual_weights, self.perceptual_dropout)

    def iteration(self, batches: list[Batch]) -> None:
        """Update the autoencoder, then the discriminators against the updated one."""
        self.update("autoencoder", self.autoencoder_loss)
        self.update("discriminator", self.discriminator_loss)
        self._kept.clear()

    @property
    def critics_take_part(self) -> bool:
        """Whether ``disc_start`` has come."""
        return self.iteration_number >= self.disc_start

    def autoencoder_loss(self, batches: list[Batch]) -> LossTerms:
        """Reconstruction, commitment, LPIPS, and what the discriminators say (sheet of the official training step)."""
        shown = self._show(batches[0], "autoencoder")
        clips = shown.clips
        terms = {
            "reconstruction": self.l1_weight * F.l1_loss(at_least_float32(clips.video), at_least_float32(clips.target)),
            "commitment": clips.quantised.commitment,
        }
        if self.perceptual_weight:
            if self.perceptual is None:
                raise UserError("model.perceptual_weight: LPIPS has no weights yet; training loads them")
            terms["perceptual"] = self.perceptual_weight * self.perceptual(shown.frames, shown.made).mean()
        takes_part = self.critics_take_part
        with nullcontext() if takes_part else torch.no_grad():
            scores, features = self._criticise(shown)
        if takes_part:
            pairs = list(zip(self.gan_weights, scores, strict=True))
            terms["adversarial"] = torch.stack([weight * score for weight, score in pairs]).sum()
            if self.gan_feat_weight and any(self.gan_weights):
                terms["feature_matching"] = self.gan_feat_weight * torch.stack(features).sum()
        for name, score in zip(("image", "video"), scores, strict=True):
            self.record(f"generator/{name}", score.detach())
        self.record("codebook/perplexity", clips.quantised.perplexity)
        self.record("codebook/usage", clips.quantised.usage)
        if self.shared_forward:
            detached = Reconstruction(clips.target, clips.video.detach(), clips.quantised)
            self._kept[self._micro_index] = Shown(detached, shown.frames, shown.made.detach())
        return terms

    def discriminator_loss(self, batches: list[Batch]) -> LossTerms:
        """Hinge or cross-entropy loss of both discriminators."""
        with torch.no_grad():
            kept = self._kept.get(self._micro_index) if self.shared_forward else None
            shown = kept or self._show(batches[0], "discriminator")
        real, fake = (hinge_real, hinge_fake) if self.disc_loss == "hinge" else (cross_entropy_real, cross_entropy_fake)
        networks = (self.image_discriminator, self.video_discriminator)
        pairs = ((shown.frames, shown.made), (shown.clips.target, shown.clips.video))
        terms = {}
        learns = [bool(weight) and self.critics_take_part for weight in self.gan_weights]
        # all real ones come first: the order in which batch norms meet them is the official one
        logits: list[list[Tensor]] = [[], []]
        for which in (0, 1):
            for number, network in enumerate(networks):
                with nullcontext() if learns[number] else torch.no_grad():
                    logits[number].append(network(pairs[number][which])[-1])
        for name, network, weight, learn, found in zip(
            ("image", "video"), networks, self.gan_weights, learns, logits, strict=True
        ):
            loss = 0.5 * (real(found[0]) + fake(found[1]))
            # while a critic does not take part its gradient is 0, and Adam counts its steps all the same
            terms[name] = weight * loss if learn else torch.stack([p.sum() * 0 for p in network.parameters()]).sum()
            self.record(f"discriminator/{name}", loss.detach())
            self.record(f"logits/{name}_real", found[0].detach().mean())
            self.record(f"logits/{name}_fake", found[1].detach().mean())
        return terms

    def _show(self, batch: Batch, update: str) -> Shown:
        """Reconstruct a batch, and choose a frame of each clip."""
        clips: Reconstruction = self.autoencoder(
            laid_out(batch["video"] / 2), self.noise(f"{update}/codebook").shared()
        )
        number, _, length = clips.target.shape[:3]
        chosen = self.noise(f"{update}/frames").integers(length, number)
        rows = torch.arange(number, device=chosen.device)
        return Shown(clips, clips.target[rows, :, chosen].contiguous(), clips.video[rows, :, chosen].contiguous())

    def _criticise(self, shown: Shown) -> tuple[list[Tensor], list[Tensor]]:
        """Adversarial loss and distance of features for both discriminators."""
        networks = (self.image_discriminator, self.video_discriminator)
        pairs = ((shown.made, shown.frames), (shown.clips.video, shown.clips.target))
        fakes = [network(made) for network, (made, _) in zip(networks, pairs, strict=True)]
        scores = [hinge_generator(maps[-1]) for maps in fakes]
        distances = []
        for network, weight, (_, target), fake in zip(networks, self.gan_weights, pairs, fakes, strict=True):
            if weight:
                with torch.no_grad():
                    real = network(target)
                distances += [
                    F.l1_loss(at_least_float32(a), at_least_float32(b))
                    for a, b in zip(fake[:-1], real[:-1], strict=True)
                ]
        return scores, distances

    # Use ------------------------------------------------------------------------------------------------------------

    def encode(self, video: Tensor) -> Tensor:
        """Tokens int64 ``(B, t, h, w)`` of videos of any length.

        Args:
            video: ``(B, C, T, H, W)`` in [-1, 1]; T, H and W multiples of ``downsample``.

        Raises:
            UserError: they are not.
        """
        if video.dim() != 5 or any(
            size % factor for size, factor in zip(video.shape[2:], self.autoencoder.downsample, strict=True)
        ):
            factors = " x ".join(map(str, self.autoencoder.downsample))
            raise UserError(
                f"tats_vqgan: encodes videos (N, C, T, H, W) of multiples of {factors}, not {tuple(video.shape)}"
            )
        return self.autoencoder.encode(video)

    def decode(self, tokens: Tensor) -> Tensor:
        """Video ``(B, C, T, H, W)`` in [-1, 1] of tokens ``(B, t, h, w)``."""
        return self.autoencoder.decode(tokens)

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
        """Reconstruct clips.

        Args:
            num_videos: how many; as many as there are in ``batch``.
            num_frames: frames of the reconstruction to return; None means all.
            seed: has no effect.
            first: has no effect.
            batch: with ``video`` ``(N, C, T, H, W)``, whose first ``num_frames`` of training are read.

        Returns:
            float32 ``(N, C, T, H, W)`` in ``[-1, 1]``.

        Raises:
            UserError: no clips are given, or of another shape.
        """
        length = self.num_frames if num_frames is None else num_frames
        check_length("tats_vqgan", length, self.num_frames)
        if batch is None or "video" not in batch:
            raise UserError("tats_vqgan: reconstructs clips; give a batch with 'video'")
        video: Tensor = batch["video"][:, :, : self.num_frames].to(self.device)
        if video.shape != (num_videos, self.channels, self.num_frames, *self.size):
            wanted = (num_videos, self.channels, self.num_frames, *self.size)
            raise UserError(f"tats_vqgan: the given clips are {tuple(batch['video'].shape)}; they must be {wanted}")
        with evaluating(self):
            return self.decode(self.encode(video))[:, :, :length].contiguous()


def check_downsample(downsample: Sequence[int], num_frames: int, height: int, width: int) -> None:
    """Check that clips can be halved as often as they shall be.

    Raises:
        UserError: they cannot; the message names the config key.
    """
    if len(downsample) != 3:
        raise UserError(f"model.downsample {list(downsample)}: must be three numbers, for time, height and width")
    if min(downsample) < 1 or max(downsample) < 2 or any(factor & (factor - 1) for factor in downsample):
        raise UserError(f"model.downsample {list(downsample)}: must be powers of two, one of them at least 2")
    names = ("num_frames", "resolution", "width")
    for name, size, factor in zip(names, (num_frames, height, width), downsample, strict=True):
        if size % factor:
            raise UserError(f"model.{name} {size}: must be a multiple of downsample, {factor}")


def _check_padding(padding: str, real_frames: int, num_frames: int, stride: int) -> None:
    if (padding == "real") != (real_frames > 0):
        wanted = "at least 1 with padding 'real'" if padding == "real" else "0 with any padding but 'real'"
        raise UserError(f"model.real_frames {real_frames}: must be {wanted}")
    if real_frames % stride or 2 * real_frames >= num_frames:
        raise UserError(
            f"model.real_frames {real_frames}: must be a multiple of downsample, {stride}, and leave some of the"
            f" {num_frames} frames between both sides"
        )
