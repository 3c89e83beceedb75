"""Stochastic Video Generation (Denton and Fergus, ICML 2018, arXiv 1802.07687).

A frame is predicted from an encoding of the one before and a random z_t, which carries what the past does not decide.
In training z_t comes from a posterior that has seen the frame to be predicted, in generation from a prior: a learned
one (SVG-LP), which is a recurrent network of the frames so far, or N(0, I) (SVG-FP). As in the official code, against
the paper where the two differ:

- the decoder's skip connections come from the last but one given frame once frames are predicted (``skip_frame``);
- the posterior never sees the first frame;
- the loss sums over all T - 1 predicted steps, those inside the context too; the squared error is a mean over elements
  and the KL a sum over dimensions, so that ``beta`` has its meaning only under these reductions;
- in training every time step has batch statistics of its own (``statistics``), and running statistics meet each inner
  frame twice, since the official code encodes it as the last frame and again as the target (SVG-FP once);
- SVG-LP generates with the statistics of the batch that is generated, SVG-FP with the running ones
  (``sampling_statistics``); in the context SVG-LP takes a sample of the posterior, SVG-FP its mean.

The official code trains with one Adam for each network, all alike; one Adam of all parameters is the same.
Unlike there, a frame is encoded once, all frames are encoded and decoded in one batch, and what the decoder makes of
skip connections is computed once for each frame that they come from. No number changes by more than rounding.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from vidgen.data.spec import DataSpec
from vidgen.distributed import world
from vidgen.errors import UserError
from vidgen.layers.batch_norm import FrameBatchNorm2d, Visits, batch_statistics
from vidgen.layers.initialization import initialize_normal
from vidgen.layers.precision import at_least_float32
from vidgen.losses.divergences import active_units, kl_normals, kl_to_standard_normal
from vidgen.models.base import Batch, LikelihoodModel, LossTerms, evaluating
from vidgen.models.checks import (
    check_above_zero,
    check_clip_shape,
    check_decay,
    check_given,
    check_not_negative,
    check_one_of,
    check_positive,
    check_power_of_two,
)
from vidgen.models.frames import from_unit, to_unit
from vidgen.registry import MODELS
from vidgen.seeding import draw_frame_noise

SLOPE = 0.2  # of LeakyReLU
SMALLEST = 4  # pixels of the coarsest feature map
WEIGHT_STD = SCALE_STD = 0.02
VGG_BLOCKS = (2, 2, 3, 3)  # convolutions of a level of VGG; levels beyond the fourth have as many as the fourth
State = tuple[Tensor, Tensor]


# Networks -----------------------------------------------------------------------------------------------------------


class Skips(NamedTuple):
    """Features of frames for the decoder's skip connections.

    Args:
        features: of the frames that any are taken from, finest first: ``(N, C, H, W)``.
        rows: int64; for each row to decode, the row of ``features``. None where they are the same.
    """

    features: Sequence[Tensor]
    rows: Tensor | None = None


class Block(nn.Module):
    """Convolution, batch norm, activation.

    Args:
        convolution: plain or transposed.
        activation: of the result.
    """

    def __init__(self, convolution: nn.Conv2d | nn.ConvTranspose2d, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.convolution = convolution
        self.norm = FrameBatchNorm2d(convolution.out_channels)
        self.activation = nn.LeakyReLU(SLOPE) if activation is None else activation

    def forward(self, x: Tensor, visits: Visits | None = None) -> Tensor:
        """Features of ``x`` ``(N, C, H, W)``."""
        return self.activation(self.norm(self.convolution(x), visits))

    def join(self, x: Tensor, skip: Tensor, rows: Tensor | None, visits: Visits | None = None) -> Tensor:
        """Features of ``x`` and ``skip[rows]`` put together along the channels."""
        joined = convolve_joined(self.convolution, x, skip, rows)
        return self.activation(self.norm(joined, visits))


def convolve_joined(convolution: nn.Module, x: Tensor, skip: Tensor, rows: Tensor | None) -> Tensor:
    """``convolution`` of ``x`` and ``skip[rows]`` put together along the channels.

    Where several rows have the same skip features, these are convolved once: a convolution of channels put together is
    the sum of those of the parts.
    """
    if rows is None:
        return convolution(torch.cat([x, skip], 1))
    own = x.shape[1]
    if isinstance(convolution, nn.ConvTranspose2d):
        first, second = convolution.weight[:own], convolution.weight[own:]
        settings: Any = {"stride": convolution.stride, "padding": convolution.padding}
        mine = F.conv_transpose2d(x, first, convolution.bias, **settings)
        return mine + F.conv_transpose2d(skip, second, **settings)[rows]
    assert isinstance(convolution, nn.Conv2d)
    first, second = convolution.weight[:, :own], convolution.weight[:, own:]
    mine = F.conv2d(x, first, convolution.bias, padding=convolution.padding)
    return mine + F.conv2d(skip, second, padding=convolution.padding)[rows]


class Encoder(nn.Module):
    """Frame to latent h and skip features, as DCGAN's discriminator or VGG.

    Args:
        backbone: which.
        channels: of a frame.
        widths: channels of each level, finest first.
        g_dim: size of h.
    """

    def __init__(self, backbone: str, channels: int, widths: Sequence[int], g_dim: int) -> None:
        super().__init__()
        self.pools = backbone == "vgg"
        self.levels = nn.ModuleList()
        inputs = channels
        for level, width in enumerate(widths):
            if self.pools:
                sizes = [inputs] + [width] * VGG_BLOCKS[min(level, 3)]
                blocks = [Block(nn.Conv2d(a, b, 3, 1, 1)) for a, b in itertools.pairwise(sizes)]
            else:
                blocks = [Block(nn.Conv2d(inputs, width, 4, 2, 1))]
            self.levels.append(nn.ModuleList(blocks))
            inputs = width
        self.head = Block(nn.Conv2d(inputs, g_dim, 4), nn.Tanh())

    def forward(self, frames: Tensor, visits: Visits | None = None) -> tuple[Tensor, list[Tensor]]:
        """Encode.

        Args:
            frames: ``(N, C, H, W)`` in [0, 1].
            visits: see :class:`FrameBatchNorm2d`.

        Returns:
            h ``(N, g_dim)`` in [-1, 1], and the features of each level, finest first.
        """
        features = []
        x = frames
        for level in self.levels:
            for block in level.children():
                x = block(x, visits)
            features.append(x)
            x = F.max_pool2d(x, 2) if self.pools else x
        return self.head(x, visits).flatten(1), features


class Decoder(nn.Module):
    """Latent and skip features to frame: the encoder turned round.

    Args:
        backbone: ``dcgan`` or ``vgg``.
        channels: of a frame.
        widths: channels of each level of the encoder, finest first.
        g_dim: size of the latent.
    """

    def __init__(self, backbone: str, channels: int, widths: Sequence[int], g_dim: int) -> None:
        super().__init__()
        self.upsamples = backbone == "vgg"
        self.head = Block(nn.ConvTranspose2d(g_dim, widths[-1], 4))
        self.levels = nn.ModuleList()
        for level in reversed(range(len(widths))):
            width, finer = widths[level], widths[max(level - 1, 0)]
            if self.upsamples:
                inner = [width] * (VGG_BLOCKS[min(level, 3)] - 1)
                sizes = [2 * width, *inner] + ([finer] if level else [])
                blocks = [Block(nn.Conv2d(a, b, 3, 1, 1)) for a, b in itertools.pairwise(sizes)]
                self.levels.append(nn.ModuleList(blocks))
            elif level:
                self.levels.append(nn.ModuleList([Block(nn.ConvTranspose2d(2 * width, finer, 4, 2, 1))]))
        self.output = (
            nn.ConvTranspose2d(widths[0], channels, 3, 1, 1)
            if self.upsamples
            else nn.ConvTranspose2d(2 * widths[0], channels, 4, 2, 1)
        )

    def forward(self, latents: Tensor, skips: Skips, visits: Visits | None = None) -> Tensor:
        """Frames ``(N, C, H, W)`` in [0, 1] from latents ``(N, g_dim)``; see :class:`Encoder`."""
        features = list(reversed(skips.features))
        x = self.head(latents[:, :, None, None], visits)
        for level, feature in zip(self.levels, features, strict=False):
            x = F.interpolate(x, scale_factor=2.0) if self.upsamples else x
            first, *others = level.children()
            x = first.join(x, feature, skips.rows, visits)  # type: ignore[operator]
            for block in others:
                x = block(x, visits)
        x = self.output(x) if self.upsamples else convolve_joined(self.output, x, features[-1], skips.rows)
        return x.sigmoid()


class Recurrent(nn.Module):
    """A linear layer and a stack of LSTMs over time.

    Args:
        inputs: size of an input.
        hidden: size of a state.
        layers: of the stack.
    """

    def __init__(self, inputs: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(inputs, hidden)
        self.recurrent = nn.LSTM(hidden, hidden, layers, batch_first=True)

    def follow(self, x: Tensor, state: State | None) -> tuple[Tensor, State]:
        """Outputs ``(B, T, hidden)`` for inputs ``(B, T, inputs)``, and the state after them; None starts from 0."""
        embedded = self.embed(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.recurrent(embedded.to(self.recurrent.weight_hh_l0.dtype), state)


class FramePredictor(Recurrent):
    """The encoding of a frame and z_t to the latent of the next frame.

    Args:
        inputs: g_dim + z_dim.
        hidden: size of a state.
        layers: LSTMs.
        outputs: g_dim.
    """

    def __init__(self, inputs: int, hidden: int, layers: int, outputs: int) -> None:
        super().__init__(inputs, hidden, layers)
        self.output = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Latents ``(B, T, outputs)`` in [-1, 1], and the state."""
        hidden, state = self.follow(x, state)
        return self.output(hidden).tanh(), state


class GaussianLSTM(Recurrent):
    """Encodings of frames to a normal distribution at each step: posterior and learned prior.

    Args:
        inputs: g_dim.
        hidden: size of a state.
        layers: LSTMs.
        outputs: z_dim.
    """

    def __init__(self, inputs: int, hidden: int, layers: int, outputs: int) -> None:
        super().__init__(inputs, hidden, layers)
        self.mean = nn.Linear(hidden, outputs)
        self.log_variance = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, Tensor, State]:
        """Mean and logarithm of the variance, both ``(B, T, outputs)``, and the state."""
        hidden, state = self.follow(x, state)
        return self.mean(hidden), self.log_variance(hidden), state


# The model ----------------------------------------------------------------------------------------------------------


class Normal(NamedTuple):
    """Mean and logarithm of the variance; None where there is no such distribution."""

    mean: Tensor | None = None
    log_variance: Tensor | None = None


@dataclass
class Rollout:
    """What training computes for clips of T frames, for steps 1 to T - 1; B clips.

    Attributes:
        frames: predictions ``(B, T - 1, C, H, W)`` in [0, 1].
        latents: what they are decoded from ``(B, T - 1, g_dim)``.
        mean: of the posterior ``(B, T - 1, z_dim)``; None in a model without z, as all that follow.
        log_variance: of the posterior.
        z: sample of the posterior.
        prior_mean: of the learned prior; None where that is N(0, I).
        prior_log_variance: of the learned prior.
    """

    frames: Tensor
    latents: Tensor
    mean: Tensor | None = None
    log_variance: Tensor | None = None
    z: Tensor | None = None
    prior_mean: Tensor | None = None
    prior_log_variance: Tensor | None = None


class Prediction(NamedTuple):
    """Videos and what the prior expected.

    Args:
        video: the given frames and what follows ``(N, C, T, H, W)`` in [-1, 1].
        prior_mean: of z_t at steps 1 to T - 1 ``(N, T - 1, z_dim)``.
        prior_std: its standard deviation: how much the next frame is left to chance (paper, section 4.1).
    """

    video: Tensor
    prior_mean: Tensor
    prior_std: Tensor


class Standing(NamedTuple):
    """Where a group of videos that are being generated stands.

    Args:
        time: frames that are there.
        frame: the last one ``(n, C, H, W)`` in [0, 1].
        features: for the decoder's skip connections.
        states: of the recurrent networks, by name.
        encoded: what the encoder made of the last frame, where it has seen it.
    """

    time: int
    frame: Tensor
    features: Sequence[Tensor]
    states: Mapping[str, State]
    encoded: tuple[Tensor, list[Tensor]] | None = None


class Expected(NamedTuple):
    """What the prior expects of z in a step: mean and standard deviation ``(n, z_dim)``."""

    mean: Tensor
    std: Tensor


@MODELS.register("svg")
class SVG(LikelihoodModel):
    """Predicts frames with a learned prior (SVG-LP), a fixed one (SVG-FP), or the deterministic baseline.

    Args:
        channels: colour channels (paper: 1 for digits and KTH, 3 for BAIR).
        resolution: height and width in pixels, a power of two from 16 (paper: 64 and 128).
        num_frames: frames of a training clip, given and predicted (paper: 5 + 10, 10 + 10, 2 + 10).
        n_past: frames that are given (paper: 5 for digits, 10 for KTH, 2 for BAIR).
        prior: of z: ``learned`` (SVG-LP), ``fixed`` (SVG-FP), or ``none``: no z, the paper's deterministic baseline.
        backbone: encoder and decoder: ``dcgan`` (digits) or ``vgg`` (KTH, BAIR).
        widths: channels of their first four levels, finest first; those that follow are as wide as the fourth.
        g_dim: size of a frame's encoding (paper: 128).
        z_dim: size of z (paper: 10 for digits, 24 for KTH, 64 for BAIR).
        rnn_size: size of the LSTMs' states (paper: 256).
        predictor_layers: LSTMs of the frame predictor (paper: 2).
        posterior_layers: LSTMs of the posterior (paper: 1).
        prior_layers: LSTMs of the learned prior (paper: 1).
        beta: weight of the KL term (paper: 1e-4, 1e-6 for KTH).
        skip_frame: which frame the decoder's skip connections come from once frames are predicted: the
            ``last_but_one`` given one (official code), the ``last`` given one (paper), or always the ``previous`` one
            (the code's ``last_frame_skip``).
        statistics: what batch norm normalises over in training: each time step of the clips, ``frame`` (official code),
            or all frames of the clips at once, ``clip`` (faster, and steadier for small batches).
        sampling_statistics: of batch norm in generation: of the ``batch``, or the ``running`` ones, under which a video
            does not depend on those made with it. None: as in the official code, ``batch`` with a learned prior.
        sampling_group: videos that share statistics in generation (official code: its batch size of 100).
        learning_rate: step size of Adam (paper: 0.002).
        beta1: decay rate of Adam's average of gradients (official code: 0.9).
        beta2: decay rate of Adam's average of squared gradients (official code: 0.999).
    """

    title = "SVG"
    paper = "Denton and Fergus: Stochastic Video Generation with a Learned Prior, ICML 2018, arXiv 1802.07687"
    original = "github.com/edenton/svg (no licence)"

    def __init__(
        self,
        channels: int = 1,
        resolution: int = 64,
        num_frames: int = 15,
        n_past: int = 5,
        prior: Literal["learned", "fixed", "none"] = "learned",
        backbone: Literal["dcgan", "vgg"] = "dcgan",
        widths: tuple[int, int, int, int] = (64, 128, 256, 512),
        g_dim: int = 128,
        z_dim: int = 10,
        rnn_size: int = 256,
        predictor_layers: int = 2,
        posterior_layers: int = 1,
        prior_layers: int = 1,
        beta: float = 1e-4,
        skip_frame: Literal["last_but_one", "last", "previous"] = "last_but_one",
        statistics: Literal["frame", "clip"] = "frame",
        sampling_statistics: Literal["batch", "running"] | None = None,
        sampling_group: int = 100,
        learning_rate: float = 0.002,
        beta1: float = 0.9,
        beta2: float = 0.999,
    ) -> None:
        super().__init__()
        check_positive(
            channels=channels,
            n_past=n_past,
            g_dim=g_dim,
            z_dim=z_dim,
            rnn_size=rnn_size,
            predictor_layers=predictor_layers,
            posterior_layers=posterior_layers,
            prior_layers=prior_layers,
        )
        check_one_of(
            prior=(prior, ("learned", "fixed", "none")),
            backbone=(backbone, ("dcgan", "vgg")),
            skip_frame=(skip_frame, ("last_but_one", "last", "previous")),
            statistics=(statistics, ("frame", "clip")),
            sampling_statistics=(sampling_statistics, (None, "batch", "running")),
        )
        check_not_negative(beta=beta)
        check_above_zero(learning_rate=learning_rate)
        check_decay(beta1=beta1, beta2=beta2)
        check_power_of_two(16, resolution=resolution)
        if len(widths) != 4 or min(widths) < 1:
            raise UserError(f"model.widths {list(widths)}: must be four numbers above 0")
        if num_frames <= n_past:
            raise UserError(
                f"model.num_frames {num_frames}: must be above n_past, {n_past}, to leave a frame to predict"
            )
        if n_past == 1 and skip_frame == "last_but_one":
            raise UserError(
                "model.n_past 1: there is no last but one given frame; set skip_frame to 'last' or 'previous'"
            )
        if sampling_group < 2:
            raise UserError(
                f"model.sampling_group {sampling_group}: must be at least 2; statistics need several videos"
            )
        self.channels = channels
        self.resolution = resolution
        self.num_frames = num_frames
        self.n_past = n_past
        self.kind = prior
        self.g_dim = g_dim
        self.z_dim = 0 if prior == "none" else z_dim
        self.beta = beta
        self.skip_frame = skip_frame
        self.statistics = statistics
        if sampling_statistics is None:
            sampling_statistics = "batch" if prior == "learned" else "running"
        self.sampling_statistics = sampling_statistics
        self.group_size = sampling_group
        self.learning_rate = learning_rate
        self.betas = (beta1, beta2)
        levels = resolution.bit_length() - SMALLEST.bit_length()
        sizes = [widths[min(level, 3)] for level in range(levels)]
        self.encoder = Encoder(backbone, channels, sizes, g_dim)
        self.decoder = Decoder(backbone, channels, sizes, g_dim)
        self.predictor = FramePredictor(g_dim + self.z_dim, rnn_size, predictor_layers, g_dim)
        self.posterior = None if prior == "none" else GaussianLSTM(g_dim, rnn_size, posterior_layers, z_dim)
        self.prior = GaussianLSTM(g_dim, rnn_size, prior_layers, z_dim) if prior == "learned" else None
        initialize_normal(self, WEIGHT_STD, SCALE_STD)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0.0, WEIGHT_STD)
                nn.init.zeros_(layer.bias)

    @property
    def task(self) -> str:
        """``prediction``."""
        return "prediction"

    @property
    def sample_keys(self) -> tuple[str, ...]:
        """The frames to start from."""
        return ("video",)

    @property
    def context_frames(self) -> int:
        """Frames that are given."""
        return self.n_past

    @property
    def stochastic(self) -> bool:
        """The deterministic baseline has one answer."""
        return self.kind != "none"

    @property
    def sampling_group(self) -> int:
        """With statistics of the batch, the videos that share them."""
        return self.sampling_group_for({})

    def sampling_group_for(self, keywords: Mapping[str, Any]) -> int:
        """1 with running statistics, of the keywords or else of the constructor."""
        return self.group_size if (keywords.get("sampling_statistics") or self.sampling_statistics) == "batch" else 1

    def check_data(self, spec: DataSpec) -> None:
        """Check that clips have the model's shape.

        Raises:
            UserError: they do not; the message names the config key.
        """
        check_clip_shape(spec, self.channels, self.resolution, self.num_frames)

    @classmethod
    def small_variants(cls) -> dict[str, dict[str, Any]]:
        """Both priors and none, both backbones, all skip rules, all kinds of statistics."""
        small: dict[str, Any] = {
            "resolution": 16,
            "num_frames": 5,
            "n_past": 2,
            "widths": (4, 6, 6, 6),
            "g_dim": 6,
            "z_dim": 3,
            "rnn_size": 8,
            "beta": 0.01,
            "sampling_group": 2,
        }
        fixed = {"prior": "fixed", "backbone": "vgg", "channels": 3, "skip_frame": "previous", "posterior_layers": 2}
        return {
            "default": small,
            "fixed_prior": {**small, **fixed},
            "clip_statistics": {**small, "statistics": "clip", "skip_frame": "last", "sampling_statistics": "running"},
            "deterministic": {**small, "prior": "none", "predictor_layers": 1},
        }

    # Training ------------------------------------------------------------------------------------------------------

    def build_optimizer(self) -> Optimizer:
        """Adam."""
        return Adam(self.parameters(), lr=self.learning_rate, betas=self.betas)

    def loss(self, batch: Batch) -> LossTerms:
        """Squared error and weighted KL, summed over the steps of a clip."""
        frames = to_unit(batch["video"])
        clips, length = frames.shape[:2]
        if clips * world()[1] * (length - 1 if self.statistics == "clip" else 1) == 1:
            raise UserError("data.batch_size 1: SVG's batch norms need at least 2 clips")
        draws = self.noise("posterior").normal(clips, length - 1, self.z_dim) if self.stochastic else None
        rollout = self.unroll(frames, draws)
        # the official code adds up means over the elements of each step
        error = F.mse_loss(at_least_float32(rollout.frames), at_least_float32(frames[:, 1:])) * (length - 1)
        terms = {"squared_error": error}
        self.record("frame/squared_error", error / length)  # divided by T, as in the official logs
        kl = self.divergence(rollout)
        if kl is not None:
            total = kl.sum() / clips
            terms["kl"] = self.beta * total
            self.record("frame/kl", total / length)
            if self.logs_now:
                self.record("active_units", active_units(kl))
        return terms

    def divergence(self, rollout: Rollout) -> Tensor | None:
        """KL of the posterior and the prior ``(B, T - 1, z_dim)`` in nats; None in a model without z."""
        if rollout.mean is None or rollout.log_variance is None:
            return None
        posterior = at_least_float32(rollout.mean), at_least_float32(rollout.log_variance)
        if rollout.prior_mean is None or rollout.prior_log_variance is None:
            return kl_to_standard_normal(*posterior)
        return kl_normals(
            *posterior, at_least_float32(rollout.prior_mean), at_least_float32(rollout.prior_log_variance)
        )

    def unroll(self, frames: Tensor, draws: Tensor | None) -> Rollout:
        """Predict every frame but the first from the true one before it.

        Args:
            frames: ``(B, T, C, H, W)`` in [0, 1].
            draws: N(0, 1) ``(B, T - 1, z_dim)`` for the posterior's samples; None in a model without z.
        """
        clips, length = frames.shape[:2]
        steps = length - 1
        encoded, features = self.encoder(frames.flatten(0, 1), self._encoder_visits(length))
        latents = encoded.unflatten(0, (clips, length))
        before, target = latents[:, :-1], latents[:, 1:]
        given, posterior, prior = [before], Normal(), Normal()
        z = None
        if self.posterior is not None and draws is not None:
            posterior = Normal(*self.posterior(target)[:2])
            assert posterior.mean is not None and posterior.log_variance is not None
            z = posterior.mean + (posterior.log_variance / 2).exp() * draws
            given.append(z)
        if self.prior is not None:
            prior = Normal(*self.prior(before)[:2])
        predicted, _ = self.predictor(torch.cat(given, 2))
        sources, rows = self._skip_sources(clips, steps, frames.device)
        skips = [feature.unflatten(0, (clips, length))[:, :sources].flatten(0, 1) for feature in features]
        decoded = self.decoder(predicted.flatten(0, 1), Skips(skips, rows), self._decoder_visits(steps))
        return Rollout(decoded.unflatten(0, (clips, steps)), predicted, *posterior, z, *prior)

    def _encoder_visits(self, length: int) -> Visits | None:
        if self.statistics == "clip":
            return None
        if self.kind == "fixed":
            return Visits(length, tuple(range(length)))
        pairs = ((frame, frame + 1) for frame in range(length - 1))
        return Visits(length, tuple(frame for pair in pairs for frame in pair))

    def _decoder_visits(self, steps: int) -> Visits | None:
        return None if self.statistics == "clip" else Visits(steps, tuple(range(steps)))

    def _last_source(self, steps: int) -> int:
        """The last frame that skip connections come from, when ``steps`` frames are predicted."""
        frozen = {"last_but_one": self.n_past - 2, "last": self.n_past - 1, "previous": steps - 1}
        return min(frozen[self.skip_frame], steps - 1)

    def _skip_sources(self, clips: int, steps: int, device: torch.device) -> tuple[int, Tensor | None]:
        """From how many frames of a clip skip features are taken, and for each prediction from which; None: its own."""
        sources = self._last_source(steps) + 1
        if sources == steps:
            return sources, None
        frame = torch.arange(steps, device=device).clamp(max=sources - 1)
        return sources, (torch.arange(clips, device=device)[:, None] * sources + frame).flatten()

    # Generation ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def sample(
        self,
        num_videos: int,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch: Batch | None = None,
        sampling_statistics: Literal["batch", "running"] | None = None,
    ) -> Tensor:
        """Continue given frames: videos ``first .. first + num_videos - 1`` of the sequence that ``seed`` stands for.

        Args:
            num_videos: how many; as many as there are in ``batch``.
            num_frames: length in frames, the given ones counted; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            batch: with ``video`` ``(N, C, T, H, W)``, whose first ``n_past`` frames are given.
            sampling_statistics: of batch norm: of the ``batch`` of videos made together, or the ``running`` ones; None
                means what the model was configured with.

        Returns:
            float32 ``(N, C, T, H, W)`` in ``[-1, 1]``: the given frames, then predictions.

        Raises:
            UserError: no frames are given, or too few, or fewer than two videos where they share statistics.
        """
        options: dict[str, Any] = {"num_frames": num_frames, "seed": seed, "first": first, "batch": batch}
        return self.predict(num_videos, **options, sampling_statistics=sampling_statistics).video

    @torch.no_grad()
    def predict(
        self,
        num_videos: int,
        *,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        batch: Batch | None = None,
        sampling_statistics: Literal["batch", "running"] | None = None,
    ) -> Prediction:
        """As :meth:`sample`, with what the prior expected at each step.

        Args:
            num_videos: how many; as many as there are in ``batch``.
            num_frames: length in frames; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            batch: with ``video``.
            sampling_statistics: see :meth:`sample`.

        Returns:
            See :class:`Prediction`.

        Raises:
            UserError: see :meth:`sample`.
        """
        given = self._given(batch, num_videos)
        length = self.num_frames if num_frames is None else num_frames
        return self._generate(given, None, length, range(first, first + num_videos), seed, sampling_statistics)[0]

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
        sampling_statistics: Literal["batch", "running"] | None = None,
    ) -> tuple[Tensor, Any]:
        """The next frames, see :meth:`VideoModel.stream`; any number of them in the same memory.

        Args:
            batch: with ``video``, for every call.
            state: what the previous call returned; None starts the videos.
            num_videos: as many as there are in ``batch``.
            num_frames: frames to make now; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            total_frames: not needed: no frame depends on where the videos end.
            sampling_statistics: see :meth:`sample`.

        Returns:
            Frames ``(N, C, num_frames, H, W)`` in ``[-1, 1]``, and the state for the next call.

        Raises:
            UserError: see :meth:`sample`.
        """
        num_videos = len(batch["video"]) if batch and "video" in batch else num_videos
        given = self._given(batch, num_videos)
        length = self.num_frames if num_frames is None else num_frames
        made, state = self._generate(given, state, length, range(first, first + num_videos), seed, sampling_statistics)
        return made.video, state

    @torch.no_grad()
    def approximate_posterior(
        self, video: Tensor, sampling_statistics: Literal["batch", "running"] | None = None
    ) -> Tensor:
        """Continue given frames with the z that the true ones suggest, the posterior's mean.

        The official figures show it beside samples: how well the model does when it need not guess what happens.

        Args:
            video: given and true future frames ``(N, C, T, H, W)`` in [-1, 1].
            sampling_statistics: see :meth:`sample`.

        Returns:
            The given frames, then predictions, of the same shape.

        Raises:
            UserError: too few frames, or fewer than two videos where they share statistics.
        """
        truth = self._given({"video": video}, len(video))
        parts = []
        shares = self.sampling_group_for({"sampling_statistics": sampling_statistics}) > 1
        for part in self._groups(len(video), shares):
            frames = truth[part]
            standing, made = Standing(1, frames[:, 0], (), {}), [frames[:, 0]]
            while standing.time < frames.shape[1]:
                standing, _ = self._advance(standing, frames[:, standing.time], None, shares)
                made.append(standing.frame)
            parts.append(torch.stack(made, 1))
        return from_unit(torch.cat(parts).float())

    def _given(self, batch: Batch | None, num_videos: int) -> Tensor:
        """The given frames ``(N, T, C, H, W)`` in [0, 1]."""
        if batch is None or "video" not in batch:
            raise UserError("svg: continues given frames; give a batch with 'video'")
        video: Tensor = batch["video"]
        if num_videos < 1:
            raise UserError(f"num_videos {num_videos}: must be at least 1")
        if len(video) != num_videos:
            raise UserError(f"svg: {num_videos} videos of {len(video)} given ones; make the two equal")
        check_given("svg", video, self.channels, self.resolution)
        if video.shape[2] < self.n_past:
            raise UserError(f"svg: the given videos have {video.shape[2]} frames; it starts from {self.n_past}")
        return to_unit(video.to(self.predictor.output.weight))

    def _groups(self, number: int, shares: bool, first: int = 0) -> list[slice]:
        """Rows that are generated together, of videos ``first .. first + number - 1``.

        Args:
            number: of videos.
            shares: whether those of a group share statistics.
            first: number of the first one.

        Raises:
            UserError: one would be alone where statistics are shared.
        """
        size = self.group_size
        if not shares:
            return [slice(0, number)]
        edges = [0, *range(size - first % size, number, size), number]
        groups = [slice(start, stop) for start, stop in itertools.pairwise(edges)]
        if any(group.stop - group.start < 2 for group in groups):
            raise UserError(
                "svg: generates with statistics of the batch, which need at least 2 videos made together; give more, or"
                " set sampling_statistics to 'running'"
            )
        return groups

    def _generate(
        self,
        given: Tensor,
        states: Sequence[Standing] | None,
        length: int,
        numbers: range,
        seed: int,
        sampling_statistics: Literal["batch", "running"] | None,
    ) -> tuple[Prediction, list[Standing]]:
        """``length`` more frames of numbered videos; the first ones where there is no state yet."""
        if length < 1:
            raise UserError(f"num_frames {length}: must be at least 1")
        videos, means, deviations, after = [], [], [], []
        shares = self.sampling_group_for({"sampling_statistics": sampling_statistics}) > 1
        for index, part in enumerate(self._groups(len(given), shares, numbers.start)):
            context = given[part]
            standing = states[index] if states else Standing(1, context[:, 0], (), {})
            frames = [] if states else [context[:, 0]]
            expected = []
            while len(frames) < length:
                inside = standing.time < self.n_past
                target = context[:, standing.time] if inside else None
                draws = None if inside and self.kind == "fixed" else self._draw(numbers[part], seed, standing.time)
                standing, prior = self._advance(standing, target, draws, shares)
                frames.append(standing.frame)
                expected.append(prior)
            videos.append(torch.stack(frames, 1))
            none = given.new_zeros(len(context), self.z_dim)
            means.append(torch.stack([none, *(prior.mean for prior in expected)], 1)[:, 1:])
            deviations.append(torch.stack([none, *(prior.std for prior in expected)], 1)[:, 1:])
            after.append(standing)
        return Prediction(from_unit(torch.cat(videos).float()), torch.cat(means), torch.cat(deviations)), after

    def _draw(self, numbers: range, seed: int, time: int) -> Tensor:
        """N(0, 1) ``(n, z_dim)`` for frame ``time`` of numbered videos."""
        return draw_frame_noise(numbers, seed, time, self.z_dim).to(self.predictor.output.weight)

    def _advance(
        self, standing: Standing, target: Tensor | None, draws: Tensor | None, shares: bool
    ) -> tuple[Standing, Expected]:
        """Come to the next frame: a given one, or else a predicted one.

        Args:
            standing: where the videos stand.
            target: the true frame, which z is then inferred from; None takes z from the prior.
            draws: N(0, 1) ``(n, z_dim)`` for z; None takes the mean.
            shares: whether batch norm uses the statistics of these videos.
        """
        time, states = standing.time, dict(standing.states)
        with batch_statistics(self.encoder, self.decoder) if shares else evaluating(self):
            latent, features = standing.encoded or self.encoder(standing.frame)
            if time - 1 > self._last_source(time):
                features = list(standing.features)
            now = latent[:, None]
            prior = Expected(latent.new_zeros(len(latent), self.z_dim), latent.new_ones(len(latent), self.z_dim))
            if self.prior is not None:
                mean, log_variance, states["prior"] = self.prior(now, states.get("prior"))
                prior = Expected(mean[:, 0], (log_variance[:, 0] / 2).exp())
            mean, std = prior
            encoded = self.encoder(target) if target is not None else None
            if encoded is not None and self.posterior is not None:
                mean, log_variance, states["posterior"] = self.posterior(encoded[0][:, None], states.get("posterior"))
                mean, std = mean[:, 0], (log_variance[:, 0] / 2).exp()
            z = mean if draws is None else mean + std * draws
            predicted, states["predictor"] = self.predictor(torch.cat([now, z[:, None]], 2), states.get("predictor"))
            if target is not None and time < self.n_past:
                frame = target
            else:
                frame, encoded = self.decoder(predicted[:, 0], Skips(features)), None
        return Standing(time + 1, frame, features, states, encoded), prior
