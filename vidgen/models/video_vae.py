"""Probabilistic Video Generation using Holistic Attribute Control (He et al., ECCV 2018, arXiv 1803.08085).

Every frame has a latent z_t; an LSTM carries what has happened from frame to frame, and holistic attributes (who, doing
what) steer it. Each frame's posterior is built in three levels: what the attributes do not say (q), with the attributes
(a), with the motion so far (dy). A prior of the motion so far and the attributes takes its place in generation, where
attributes are fixed, inferred from given frames, or changed in mid-sequence.

The paper leaves sizes and some decisions open, and there is no official code. Where it does, the default here is that
of an unofficial re-implementation (github.com/yccyenchicheng/pytorch-VideoVAE, whose authors did not know them either)
or a choice of our own; the arguments say so. Decisions of our own besides:

- the prior sees the attributes, without which they could not steer a video that starts from nothing;
- q and a are handed on as mean and variance, and only z_t is sampled: one draw for each frame;
- the sample enters the LSTM beside q ("conditional sampling"); in generation q is inferred from the frame just made;
- labels may be missing: an unlabelled clip is trained with the attributes that a classifier of frames gives it;
- the squared or absolute error is a sum over pixels, against which the KL is weighed.
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
from vidgen.distributed import sum_over_ranks, world
from vidgen.errors import UserError, did_you_mean
from vidgen.layers.batch_norm import BatchNorm2d
from vidgen.layers.initialization import initialize_normal
from vidgen.layers.precision import at_least_float32
from vidgen.losses.divergences import active_units, kl_normals
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
from vidgen.seeding import NoiseStream, derive_seed, draw_frame_noise, draw_numbered

SLOPE = 0.2  # of the encoder's LeakyReLU
WEIGHT_STD = SCALE_STD = 0.02
HOTTEST = 1000  # temperature
FURTHEST = 1e6  # standard deviations of a continuous attribute from its mean
LONGEST = 9  # digits of a number that a user gives
State = tuple[Tensor, Tensor]


# Networks -----------------------------------------------------------------------------------------------------------


def widths_of(resolution: int, width: int) -> list[int]:
    """Channels of the levels between a frame and 4x4 pixels, finest first; at most 8 times the first."""
    return [width * min(2**level, 8) for level in range(resolution.bit_length() - 3)]


class FrameEncoder(nn.Module):
    """Frame to features, as DCGAN's discriminator.

    Args:
        channels: of a frame.
        widths: channels of each level.
        outputs: size of the features.
    """

    def __init__(self, channels: int, widths: Sequence[int], outputs: int) -> None:
        super().__init__()
        sizes = [channels, *widths]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(sizes))
        self.bns = nn.ModuleList(BatchNorm2d(width) for width in widths)
        self.out = nn.Conv2d(sizes[-1], outputs, 4)

    def forward(self, frames: Tensor) -> Tensor:
        """Features ``(N, outputs)`` of frames ``(N, C, H, W)`` in [0, 1]."""
        for convolution, norm in zip(self.convs, self.bns, strict=True):
            frames = F.leaky_relu(norm(convolution(frames)), SLOPE)
        return self.out(frames).flatten(1)


class FrameDecoder(nn.Module):
    """Latent to frame, as DCGAN's generator; without skip connections, since nothing is encoded in generation.

    Args:
        inputs: size of the latent.
        widths: channels of each level, finest first.
        channels: of a frame.
    """

    def __init__(self, inputs: int, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        sizes = list(reversed(widths))
        self.inp = nn.ConvTranspose2d(inputs, sizes[0], 4)
        self.bn0 = BatchNorm2d(sizes[0])
        self.convs = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in itertools.pairwise(sizes))
        self.bns = nn.ModuleList(BatchNorm2d(width) for width in sizes[1:])
        self.out = nn.ConvTranspose2d(sizes[-1], channels, 4, 2, 1)

    def forward(self, latents: Tensor) -> Tensor:
        """Frames ``(N, C, H, W)`` in [0, 1] of latents ``(N, inputs)``."""
        x = F.relu(self.bn0(self.inp(latents[:, :, None, None])))
        for convolution, norm in zip(self.convs, self.bns, strict=True):
            x = F.relu(norm(convolution(x)))
        return self.out(x).sigmoid()


class Normal(NamedTuple):
    """A diagonal normal distribution: mean and logarithm of the variance, ``(..., z_dim)``."""

    mean: Tensor
    log_variance: Tensor


class GaussianMLP(nn.Module):
    """Two linear layers to a normal distribution.

    Args:
        inputs: size of the input.
        hidden: size between the layers.
        outputs: z_dim.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, hidden)
        self.mu = nn.Linear(hidden, outputs)
        self.logvar = nn.Linear(hidden, outputs)

    def forward(self, *parts: Tensor) -> Normal:
        """The distribution given parts ``(..., size)``, which are put together in their order."""
        hidden = F.relu(self.fc(torch.cat(parts, -1)))
        return Normal(self.mu(hidden), self.logvar(hidden))


class StateMLP(nn.Module):
    """The LSTM's state to what posterior and prior see of it.

    Args:
        inputs: size of the state.
        hidden: size between the layers.
        outputs: z_dim.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, state: Tensor) -> Tensor:
        """Features ``(N, outputs)``."""
        return self.fc2(F.relu(self.fc1(state)))


class AttributeNet(nn.Module):
    """What a frame's features say about each attribute.

    Args:
        inputs: size of the features.
        hidden: size of the layer that attributes share.
        sizes: attribute -> numbers that describe it.
    """

    def __init__(self, inputs: int, hidden: int, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.fc = nn.Linear(inputs, hidden)
        self.heads = nn.ModuleDict({name: nn.Linear(hidden, size) for name, size in sizes.items()})

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Attribute -> logits of its values, or its standardised value, ``(..., size)``."""
        hidden = F.relu(self.fc(features))
        return {name: head(hidden) for name, head in self.heads.items()}


# Attributes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attribute:
    """One holistic attribute and its place in the code ``a``.

    Args:
        name: of it.
        values: how many there are; 0 for a continuous one.
        start: its first column in ``a``.
        mean: of a continuous one in the training data.
        std: its standard deviation.
    """

    name: str
    values: int
    start: int
    mean: float = 0.0
    std: float = 1.0

    @property
    def size(self) -> int:
        """Columns in ``a``: one for each value, or one."""
        return self.values or 1

    @property
    def columns(self) -> slice:
        """Its place in ``a``."""
        return slice(self.start, self.start + self.size)

    def encode(self, numbers: Tensor) -> Tensor:
        """One-hot of class numbers, or standardised numbers: ``(N, size)`` of ``(N,)``; NaN counts as 0."""
        known = numbers.nan_to_num()
        if not self.values:
            return ((known - self.mean) / self.std)[:, None]
        return F.one_hot(known.long(), self.values).to(numbers)

    def expect(self, outputs: Tensor) -> Tensor:
        """What frames say of it on the average: ``(N, size)`` of the attribute net's ``(N, T, size)``."""
        return (outputs.softmax(2) if self.values else outputs).mean(1)

    def decide(self, expected: Tensor) -> Tensor:
        """The most likely value as a one-hot code, or the number: of what :meth:`expect` returns."""
        return F.one_hot(expected.argmax(1), self.values).to(expected) if self.values else expected


Change = tuple[int, str]
"""From which frame a value holds, and the value."""


def is_index(text: str) -> bool:
    """Whether a text is a whole number from 0 of a size that makes sense."""
    return text.isdecimal() and len(text) <= LONGEST


def parse_schedules(texts: Sequence[str]) -> dict[str, list[Change]]:
    """Read ``name=value``, or ``name=value@0,other@8`` for a value that changes in mid-sequence.

    Args:
        texts: one or more of them; several may also stand in one text, separated by ``;``.

    Returns:
        Attribute -> its values, with the frames from which they hold; the first holds from frame 0.

    Raises:
        UserError: another form, an attribute that is given twice, or frames that do not rise.
    """
    found: dict[str, list[Change]] = {}
    for text in (part.strip() for given in texts for part in given.split(";")):
        name, equals, rest = (part.strip() for part in text.partition("="))
        if not equals or not name or not rest:
            raise UserError(f"attributes {text!r}: expected NAME=VALUE or NAME=VALUE@0,OTHER@8")
        if name in found:
            raise UserError(f"attributes {text!r}: {name!r} is given twice; write NAME=VALUE@0,OTHER@8")
        changes: list[Change] = []
        for entry in (part.strip() for part in rest.split(",")):
            value, at, start = entry.rpartition("@") if "@" in entry else (entry, "", "0")
            if not value or not is_index(start) or (changes and not at):
                raise UserError(f"attributes {text!r}: {entry!r} must be VALUE@FRAME, with frames counted from 0")
            changes.append((int(start), value))
        frames = [start for start, _ in changes]
        if frames[0] != 0 or sorted(set(frames)) != frames:
            raise UserError(f"attributes {text!r}: the first value holds from frame 0, each other from a later one")
        found[name] = changes
    return found


# The model ----------------------------------------------------------------------------------------------------------


@dataclass
class Rollout:
    """What training computes of B clips of T frames.

    Attributes:
        q: initial posterior ``(B, T, z_dim)``.
        a: conditional posterior.
        dy: dynamic posterior.
        prior: from the frames before.
        z: sample of ``dy``.
        hidden: state of the LSTM after each frame ``(B, T, hidden_dim)``.
        cell: its cell state.
    """

    q: Normal
    a: Normal
    dy: Normal
    prior: Normal
    z: Tensor
    hidden: Tensor
    cell: Tensor


class Standing(NamedTuple):
    """Where videos that are being generated stand.

    Args:
        time: frames that are there.
        state: of the LSTM.
        codes: attributes ``(N, A)`` where no schedule sets them.
    """

    time: int
    state: State
    codes: Tensor


@MODELS.register("video_vae")
class VideoVAE(LikelihoodModel):
    """Generates videos whose holistic attributes are given, inferred or changed in mid-sequence.

    Args:
        channels: colour channels.
        resolution: height and width in pixels, a power of two from 16 (open in the paper; the re-implementation: 64).
        num_frames: frames of a training clip (open in the paper; the re-implementation: 10).
        attributes: name of each categorical attribute -> how many values it has, in the order of the data's columns.
        continuous: name of each continuous attribute -> its mean and standard deviation in the training data; their
            columns follow those of the categorical ones.
        width: channels of the encoder's finest level; the coarser ones have up to 8 times as many (our choice).
        encoder_dim: size of a frame's features (the re-implementation: 512).
        z_dim: size of a latent (the re-implementation: 512).
        hidden_dim: size of the LSTM's state (the re-implementation: 512).
        mlp_dim: size of hidden layers (the re-implementation: 128).
        likelihood: of pixels: ``laplace``, the sum of absolute errors (the re-implementation), or ``gaussian``, half
            the sum of squared ones.
        beta: weight of the KL term (1: the bound itself).
        kl_warmup: iterations over which that weight rises from 0, after any pretraining (our choice: none).
        attribute_weight: weight of the attribute loss (our choice: 100, beside a sum over pixels).
        pretrain_attribute_steps: iterations at the beginning on the attribute loss alone (our choice: none).
        conditional_sampling: hand z_t to the LSTM; without, as an ablation, neighbouring frames vary independently.
        observed: frames that videos start from when :meth:`sample` is not told: 0 makes them from attributes alone.
        learning_rate: step size of Adam (the re-implementation: 1e-4).
        beta1: decay rate of Adam's average of gradients (our choice: 0.9).
        beta2: decay rate of Adam's average of squared gradients (our choice: 0.999).
    """

    title = "VideoVAE"
    paper = (
        "He, Lehrmann, Marino, Mori, Sigal: Probabilistic Video Generation using Holistic Attribute Control, ECCV 2018,"
        " arXiv 1803.08085"
    )
    original = "none (no official code)"
    ema_modules = (
        "encoder",
        "decoder",
        "attr_net",
        "post_q",
        "post_a",
        "post_dy",
        "state_mlp",
        "prior",
        "lstm",
    )

    attribute_counts: Tensor

    def __init__(
        self,
        channels: int = 3,
        resolution: int = 64,
        num_frames: int = 10,
        attributes: dict[str, int] | None = None,
        continuous: dict[str, tuple[float, float]] | None = None,
        width: int = 64,
        encoder_dim: int = 512,
        z_dim: int = 512,
        hidden_dim: int = 512,
        mlp_dim: int = 128,
        likelihood: Literal["laplace", "gaussian"] = "laplace",
        beta: float = 1.0,
        kl_warmup: int = 0,
        attribute_weight: float = 100.0,
        pretrain_attribute_steps: int = 0,
        conditional_sampling: bool = True,
        observed: int = 0,
        learning_rate: float = 1e-4,
        beta1: float = 0.9,
        beta2: float = 0.999,
    ) -> None:
        super().__init__()
        check_positive(
            channels=channels,
            num_frames=num_frames,
            width=width,
            encoder_dim=encoder_dim,
            z_dim=z_dim,
            hidden_dim=hidden_dim,
            mlp_dim=mlp_dim,
        )
        check_one_of(likelihood=(likelihood, ("laplace", "gaussian")))
        if observed >= num_frames:
            raise UserError(f"model.observed {observed}: must be below num_frames, {num_frames}")
        check_not_negative(
            beta=beta,
            kl_warmup=kl_warmup,
            attribute_weight=attribute_weight,
            pretrain_attribute_steps=pretrain_attribute_steps,
            observed=observed,
        )
        check_above_zero(learning_rate=learning_rate)
        check_decay(beta1=beta1, beta2=beta2)
        check_power_of_two(16, resolution=resolution)
        self.channels = channels
        self.resolution = resolution
        self.num_frames = num_frames
        self.attributes = attributes_of(attributes or {}, continuous or {})
        self.z_dim = z_dim
        self.hidden_dim = hidden_dim
        self.likelihood = likelihood
        self.beta = beta
        self.kl_warmup = kl_warmup
        self.attribute_weight = attribute_weight
        self.pretrain_attribute_steps = pretrain_attribute_steps
        self.conditional_sampling = conditional_sampling
        self.observed = observed
        self.learning_rate = learning_rate
        self.betas = (beta1, beta2)
        size = sum(attribute.size for attribute in self.attributes)
        widths = widths_of(resolution, width)
        self.encoder = FrameEncoder(channels, widths, encoder_dim)
        self.decoder = FrameDecoder(z_dim, widths, channels)
        self.attr_net = AttributeNet(encoder_dim, mlp_dim, {each.name: each.size for each in self.attributes})
        self.post_q = GaussianMLP(encoder_dim, mlp_dim, z_dim)
        self.post_a = GaussianMLP(2 * z_dim + size, mlp_dim, z_dim)
        self.post_dy = GaussianMLP(3 * z_dim, mlp_dim, z_dim)
        self.state_mlp = StateMLP(hidden_dim, mlp_dim, z_dim)
        self.prior = GaussianMLP(z_dim + size, mlp_dim, z_dim)
        self.lstm = nn.LSTMCell(3 * z_dim, hidden_dim)
        initialize_normal(self, WEIGHT_STD, SCALE_STD)
        self.register_buffer("attribute_counts", torch.zeros(size, dtype=torch.int64))
        """How often training has met each value under a label, in the columns of ``a``; 0 for continuous ones."""

    @property
    def task(self) -> str:
        """``attribute``."""
        return "attribute"

    @property
    def train_keys(self) -> tuple[str, ...]:
        """Clips and what is known of their attributes."""
        return ("video", "attributes")

    @property
    def sample_keys(self) -> tuple[str, ...]:
        """The frames to start from, where there are any."""
        return self.keys_for({})

    @property
    def context_frames(self) -> int:
        """Frames that videos start from."""
        return self.observed

    def keys_for(self, keywords: Mapping[str, Any]) -> tuple[str, ...]:
        """``video``, where ``observed`` is above 0."""
        return ("video",) if self.context_frames_for(keywords) else ()

    def context_frames_for(self, keywords: Mapping[str, Any]) -> int:
        """``observed``, of the keywords or else of the constructor."""
        observed = keywords.get("observed")
        return self.observed if observed is None else int(observed)

    @property
    def idle_parameters(self) -> bool:
        """While attributes are pretrained, most parameters rest."""
        return self.pretrain_attribute_steps > 0

    def check_data(self, spec: DataSpec) -> None:
        """Check that clips have the model's shape, and the attributes of the model; other columns are left alone.

        Raises:
            UserError: they do not; the message names the config key.
        """
        check_clip_shape(spec, self.channels, self.resolution, self.num_frames)
        there = dict(zip(spec.attribute_names, spec.attribute_values, strict=True))
        for attribute in self.attributes:
            name, values = attribute.name, there.get(attribute.name)
            if values is None:
                listed = ", ".join(there) or "none"
                raise UserError(f"model.attributes.{name}: the data has no such attribute (it has: {listed})")
            if attribute.values and not values:
                raise UserError(
                    f"model.attributes.{name}: the data has numbers for it; name it in data.attributes.categories, or"
                    " give its mean and deviation in model.continuous"
                )
            if attribute.values and attribute.values != len(values):
                raise UserError(
                    f"model.attributes.{name}: is {attribute.values}, but the data has {len(values)} values; make them"
                    " equal"
                )
            if values and not attribute.values:
                raise UserError(f"model.continuous.{name}: the data has {len(values)} values with names, no numbers")

    @classmethod
    def small_variants(cls) -> dict[str, dict[str, Any]]:
        """Attributes alone, given frames, a continuous attribute, and the ablation."""
        small: dict[str, Any] = {
            "channels": 1,
            "resolution": 16,
            "num_frames": 4,
            "attributes": {"action": 3, "performer": 2},
            "width": 4,
            "encoder_dim": 10,
            "z_dim": 6,
            "hidden_dim": 8,
            "mlp_dim": 7,
        }
        ablated = {"conditional_sampling": False, "likelihood": "gaussian", "channels": 3}
        return {
            "default": small,
            "observed": {**small, "observed": 2, "continuous": {"speed": (2.0, 0.5)}},
            "without_conditional_sampling": {**small, **ablated},
        }

    def example_batch(self, batch_size: int, seed: int = 0) -> Batch:
        """Random clips; every second one is labelled."""
        noise = NoiseStream(derive_seed(seed, "example"), self.device)
        size = self.resolution
        video = noise.uniform(batch_size, self.channels, self.num_frames, size, size) * 2 - 1
        columns = [
            noise.integers(each.values, batch_size).float() if each.values else noise.normal(batch_size)
            for each in self.attributes
        ]
        attributes = torch.stack(columns, 1)
        attributes[1::2] = torch.nan
        return {"video": video, "attributes": attributes}

    # Training ------------------------------------------------------------------------------------------------------

    def build_optimizer(self) -> Optimizer:
        """Adam."""
        return Adam(self.parameters(), lr=self.learning_rate, betas=self.betas)

    def loss(self, batch: Batch) -> LossTerms:
        """Reconstruction, weighted KL and weighted attribute loss; clips are averaged, frames and pixels summed."""
        frames = to_unit(batch["video"])
        clips, length = frames.shape[:2]
        features = self.encoder(frames.flatten(0, 1)).unflatten(0, (clips, length))
        outputs = self.attr_net(features)
        attributes = self._columns(batch["attributes"])
        wrong = self.attribute_loss(outputs, attributes)
        terms = {"attributes": self.attribute_weight * wrong}
        self.record("frame/attribute_loss", wrong)
        if self.iteration_number < self.pretrain_attribute_steps:
            return terms
        codes = self.attribute_codes(outputs, attributes)
        draws = self.noise("posterior").normal(clips, length, self.z_dim)
        rollout = self.unroll(features, codes[:, None].expand(-1, length, -1), draws)
        made = self.decoder(rollout.z.flatten(0, 1)).unflatten(0, (clips, length))
        error = self.reconstruction(made, frames)
        kl = kl_normals(*map(at_least_float32, (*rollout.dy, *rollout.prior)))
        self.record("frame/reconstruction", error.mean())
        self.record("frame/kl", kl.sum(2).mean())
        if self.logs_now:
            self.record("active_units", active_units(kl))
        trained = self.iteration_number + 1 - self.pretrain_attribute_steps
        weight = self.beta * min(1.0, trained / max(1, self.kl_warmup))
        return {"reconstruction": error.sum() / clips, "kl": weight * kl.sum() / clips, **terms}

    def _columns(self, attributes: Tensor) -> Tensor:
        """The columns of a batch's attributes that the model has, in its order."""
        names = list(self.data_spec.attribute_names) if self.data_spec else []
        own = [attribute.name for attribute in self.attributes]
        if not names or names == own:
            return attributes
        return torch.stack([attributes[:, names.index(name)] for name in own], 1)

    def reconstruction(self, made: Tensor, frames: Tensor) -> Tensor:
        """Negative log-likelihood of frames ``(B, T, C, H, W)`` in [0, 1], less a constant: ``(B, T)``."""
        apart = (at_least_float32(made) - at_least_float32(frames)).flatten(2)
        return apart.abs().sum(2) if self.likelihood == "laplace" else apart.square().sum(2) / 2

    def attribute_loss(self, outputs: Mapping[str, Tensor], attributes: Tensor) -> Tensor:
        """Sum over attributes of their mean loss over labelled clips of all ranks and their frames; 0 without labels.

        Args:
            outputs: of the attribute net, ``(B, T, size)`` each.
            attributes: ``(B, number of attributes)``, NaN where a clip has no label.
        """
        known = ~attributes.isnan()
        counts = sum_over_ranks(torch.stack([*known.sum(0), *self._met(attributes)]))
        labelled, met = counts.split([len(self.attributes), len(self.attribute_counts)])
        if self.training:
            self.attribute_counts += met
        total = attributes.new_zeros(())
        for column, attribute in enumerate(self.attributes):
            output = at_least_float32(outputs[attribute.name])
            numbers = attributes[:, column].nan_to_num()
            if attribute.values:
                target = numbers.long()[:, None].expand(-1, output.shape[1])
                loss = F.cross_entropy(output.flatten(0, 1), target.flatten(), reduction="none").view(target.shape)
            else:
                loss = (output - attribute.encode(numbers)[:, None]).square()[..., 0] / 2
            # ranks are averaged afterwards, so that each counts its share of all labelled clips
            share = known[:, column].to(loss) * world()[1] / labelled[column].clamp(min=1)
            total = total + (loss.mean(1) * share).sum()
        return total

    @torch.no_grad()
    def _met(self, attributes: Tensor) -> Tensor:
        """How often each column of ``a`` is labelled in a batch."""
        met = torch.zeros_like(self.attribute_counts)
        for column, attribute in enumerate(self.attributes):
            numbers = attributes[:, column]
            if attribute.values:
                known = ~numbers.isnan()[:, None]  # as a factor: a selection would wait for the device
                met[attribute.columns] = (attribute.encode(numbers).bool() & known).sum(0)
        return met

    def attribute_codes(self, outputs: Mapping[str, Tensor], attributes: Tensor) -> Tensor:
        """The codes ``a`` ``(B, A)`` of training clips: the labels, or else what the frames say, without gradient."""
        codes = []
        for column, attribute in enumerate(self.attributes):
            numbers = attributes[:, column]
            expected = attribute.expect(at_least_float32(outputs[attribute.name])).detach()
            codes.append(torch.where(numbers.isnan()[:, None], expected, attribute.encode(numbers)))
        return torch.cat([attributes.new_zeros(len(attributes), 0), *codes], 1)

    def unroll(self, features: Tensor, codes: Tensor, draws: Tensor) -> Rollout:
        """Infer the latents of clips, frame by frame.

        Args:
            features: of the frames ``(B, T, encoder_dim)``.
            codes: attributes ``(B, T, A)``.
            draws: N(0, 1) ``(B, T, z_dim)``; zeros take means.
        """
        q = self.post_q(features)
        a = self.post_a(*q, codes.to(q.mean))
        state = self._first_state(len(features))
        steps: list[tuple[Tensor, ...]] = []
        for time in range(features.shape[1]):
            summary = self.state_mlp(state[0])
            dy = self.post_dy(a.mean[:, time], a.log_variance[:, time], summary)
            z = dy.mean + (dy.log_variance / 2).exp() * draws[:, time]
            state = self._remember(z, Normal(q.mean[:, time], q.log_variance[:, time]), state)
            steps.append((summary, *dy, z, *state))
        summaries, mean, log_variance, *rest = (torch.stack(part, 1) for part in zip(*steps, strict=True))
        prior = self.prior(summaries, codes.to(summaries))
        return Rollout(q, a, Normal(mean, log_variance), prior, *rest)

    def _first_state(self, clips: int) -> State:
        zeros = self.lstm.weight_hh.new_zeros(clips, self.hidden_dim)
        return zeros, zeros

    def _remember(self, z: Tensor, q: Normal, state: State) -> State:
        """The LSTM's state after a frame."""
        sample = z if self.conditional_sampling else torch.zeros_like(z)
        with torch.autocast(z.device.type, enabled=False):
            return self.lstm(torch.cat([sample, *q], 1).to(state[0].dtype), state)

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
        attributes: list[str] | None = None,
        observed: int | None = None,
        temperature: float = 1.0,
        show_given: bool = False,
    ) -> Tensor:
        """Make videos ``first .. first + num_videos - 1`` of the endless sequence that ``seed`` stands for.

        Args:
            num_videos: how many; as many as there are in ``batch``, where frames are given.
            num_frames: length in frames, given ones counted; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            batch: with ``video`` ``(N, C, T, H, W)``, whose first frames are given; where ``observed`` is above 0.
            attributes: values that all videos have: ``action=wave``, or ``action=wave@0,bend@8`` to change it at frame
                8, by name or number. An attribute that is not set is inferred from given frames, and without any drawn
                for each video as often as training has met its values.
            observed: frames that videos start from; None means what the model was configured with.
            temperature: factor of the standard deviation of what is drawn (1: as the model says; 0: means).
            show_given: show given frames as they are given, not as the model reconstructs them.

        Returns:
            float32 ``(N, C, T, H, W)`` in ``[-1, 1]``.

        Raises:
            UserError: no frames are given where they are needed, or too few, or there is no such attribute or value.
        """
        video = batch.get("video") if batch and self.keys_for({"observed": observed}) else None
        if video is not None and len(video) != num_videos:
            raise UserError(f"video_vae: {num_videos} videos of {len(video)} given ones; make the two equal")
        options = {"attributes": attributes, "observed": observed, "temperature": temperature, "show_given": show_given}
        given = {"seed": seed, "first": first, **options}
        return self.stream(batch, num_videos=num_videos, num_frames=num_frames, **given)[0]  # type: ignore[arg-type]

    @torch.no_grad()
    def stream(
        self,
        batch: Batch | None = None,
        state: Standing | None = None,
        *,
        num_videos: int = 1,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        total_frames: int | None = None,
        attributes: list[str] | None = None,
        observed: int | None = None,
        temperature: float = 1.0,
        show_given: bool = False,
    ) -> tuple[Tensor, Standing]:
        """The next frames, see :meth:`VideoModel.stream`; any number of them in the same memory.

        Args:
            batch: with ``video``, for every call, where ``observed`` is above 0.
            state: what the previous call returned; None starts the videos.
            num_videos: how many; as many as there are in ``batch``.
            num_frames: frames to make now; None means the training length.
            seed: which sequence of videos.
            first: number of the first one.
            total_frames: not needed: no frame depends on where the videos end.
            attributes: see :meth:`sample`; frames are counted from the start of the videos.
            observed: see :meth:`sample`.
            temperature: see :meth:`sample`.
            show_given: see :meth:`sample`.

        Returns:
            Frames ``(N, C, num_frames, H, W)`` in ``[-1, 1]``, and the state for the next call.

        Raises:
            UserError: see :meth:`sample`.
        """
        length = self.num_frames if num_frames is None else num_frames
        if length < 1:
            raise UserError(f"num_frames {length}: must be at least 1")
        if not 0 <= temperature <= HOTTEST:
            raise UserError(f"temperature {temperature}: must be between 0 and {HOTTEST}")
        schedules = self._schedules(attributes or [])
        given = self._given(batch, num_videos, self.context_frames_for({"observed": observed}))
        numbers = range(first, first + (num_videos if given is None else len(given)))
        with evaluating(self):
            features = None if given is None else self.encoder(given.flatten(0, 1)).unflatten(0, given.shape[:2])
            standing = self._start(features, numbers, seed) if state is None else state
            frames = []
            for time in range(standing.time, standing.time + length):
                draws = temperature * self._draw(numbers, seed, time)
                seen = features[:, time] if features is not None and time < features.shape[1] else None
                codes = self._codes_at(standing.codes, schedules, time)
                made, standing = self._advance(standing, seen, codes, draws)
                frames.append(given[:, time] if given is not None and seen is not None and show_given else made)
        return from_unit(torch.stack(frames, 1).float()), standing

    @torch.no_grad()
    def reconstruct(self, video: Tensor) -> Tensor:
        """Videos as the model sees them: all frames given, means for samples, attributes inferred.

        Args:
            video: ``(N, C, T, H, W)`` in [-1, 1].

        Returns:
            Of the same shape.

        Raises:
            UserError: videos of another size than the model's.
        """
        return self.sample(
            len(video), num_frames=video.shape[2], batch={"video": video}, observed=video.shape[2], temperature=0.0
        )

    @torch.no_grad()
    def infer_attributes(self, video: Tensor) -> Tensor:
        """What the attribute net makes of videos, over all their frames.

        Args:
            video: ``(N, C, T, H, W)`` in [-1, 1].

        Returns:
            ``(N, number of attributes)``: numbers of values, and of continuous attributes the value, as in the data.

        Raises:
            UserError: videos of another size than the model's.
        """
        frames = self._given({"video": video}, len(video), video.shape[2])
        assert frames is not None
        with evaluating(self):
            codes = self._inferred(self.encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]))
        columns = []
        for each in self.attributes:
            part = codes[:, each.columns]
            columns.append(part.argmax(1).float() if each.values else part[:, 0] * each.std + each.mean)
        return torch.stack(columns, 1)

    def _given(self, batch: Batch | None, num_videos: int, observed: int) -> Tensor | None:
        """Given frames ``(N, observed, C, H, W)`` in [0, 1]; None without any."""
        if num_videos < 1:
            raise UserError(f"num_videos {num_videos}: must be at least 1")
        if observed < 0:
            raise UserError(f"observed {observed}: cannot be negative")
        if not observed:
            return None
        if batch is None or "video" not in batch:
            raise UserError(f"video_vae: starts from {observed} given frames; give a batch with 'video'")
        video: Tensor = batch["video"]
        check_given("video_vae", video, self.channels, self.resolution)
        if video.shape[2] < observed:
            raise UserError(
                f"video_vae: the given videos have {video.shape[2]} frames, fewer than observed, {observed}"
            )
        return to_unit(video[:, :, :observed].to(self.lstm.weight_hh))

    def _schedules(self, texts: Sequence[str]) -> list[tuple[Attribute, list[tuple[int, float]]]]:
        """Attributes that are set, with the numbers of their values."""
        known = {attribute.name: attribute for attribute in self.attributes}
        found = []
        for name, changes in parse_schedules(texts).items():
            if name not in known:
                listed = ", ".join(known) or "none"
                raise UserError(f"attributes {name!r}: unknown{did_you_mean(name, known)} (attributes: {listed})")
            found.append((known[name], [(start, self._number_of(known[name], value)) for start, value in changes]))
        return found

    def _number_of(self, attribute: Attribute, value: str) -> float:
        """The number that a value has in the data."""
        spec = self.data_spec
        named = dict(zip(spec.attribute_names, spec.attribute_values, strict=True)) if spec else {}
        names = named.get(attribute.name, ())
        if value in names:
            return names.index(value)
        numbered = not any(name.isdecimal() for name in names)  # else 2 could mean a name or the third value
        if attribute.values and numbered and is_index(value) and int(value) < attribute.values:
            return int(value)
        if attribute.values:
            listed = ", ".join(names) or f"0 to {attribute.values - 1}"
            near = did_you_mean(value, names)
            raise UserError(f"attributes {attribute.name}={value}: unknown value{near} (values: {listed})")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not abs(number - attribute.mean) / attribute.std < FURTHEST:
            raise UserError(f"attributes {attribute.name}={value}: must be a number near those of the training data")
        return number

    def _codes_at(
        self, codes: Tensor, schedules: Sequence[tuple[Attribute, list[tuple[int, float]]]], time: int
    ) -> Tensor:
        """Attributes ``(N, A)`` at a frame."""
        codes = codes.clone()
        for attribute, changes in schedules:
            value = [number for start, number in changes if start <= time][-1]
            codes[:, attribute.columns] = attribute.encode(codes.new_tensor([value]))
        return codes

    def _start(self, features: Tensor | None, numbers: range, seed: int) -> Standing:
        codes = self._drawn(numbers, seed) if features is None else self._inferred(features)
        return Standing(0, self._first_state(len(numbers)), codes)

    def _inferred(self, features: Tensor) -> Tensor:
        """Attributes ``(N, A)`` that frames with features ``(N, T, encoder_dim)`` show."""
        outputs = self.attr_net(features)
        return torch.cat([each.decide(each.expect(outputs[each.name])) for each in self.attributes], 1)

    def _drawn(self, numbers: range, seed: int) -> Tensor:
        """Attributes ``(N, A)`` drawn for each video as often as training has met their values."""
        like = self.lstm.weight_hh

        def draw(noise: torch.Generator) -> Tensor:
            uniform = torch.rand(len(self.attributes), generator=noise, dtype=torch.float64)
            return torch.stack([uniform, torch.randn(len(self.attributes), generator=noise, dtype=torch.float64)])

        drawn = draw_numbered(numbers, derive_seed(seed, "attributes"), draw)
        parts = []
        for column, each in enumerate(self.attributes):
            uniform, normal = drawn[:, 0, column], drawn[:, 1, column]
            if each.values:
                counts = self.attribute_counts[each.columns].cpu().double()
                counts = counts if counts.sum() else torch.ones_like(counts)
                value = torch.searchsorted(counts.cumsum(0) / counts.sum(), uniform.contiguous(), right=True)
                parts.append(each.encode(value.clamp(max=each.values - 1).to(like)))
            else:
                parts.append(normal.to(like)[:, None])
        return torch.cat([like.new_zeros(len(numbers), 0), *parts], 1)

    def _draw(self, numbers: range, seed: int, time: int) -> Tensor:
        """N(0, 1) ``(N, z_dim)`` for frame ``time`` of numbered videos."""
        return draw_frame_noise(numbers, seed, time, self.z_dim).to(self.lstm.weight_hh)

    def _advance(
        self, standing: Standing, seen: Tensor | None, codes: Tensor, draws: Tensor
    ) -> tuple[Tensor, Standing]:
        """Reconstruct a given frame, or make one.

        Args:
            standing: where the videos stand.
            seen: features of the given one ``(N, encoder_dim)``; None where none is given.
            codes: attributes ``(N, A)``.
            draws: N(0, 1) times the temperature ``(N, z_dim)``.

        Returns:
            The frame that was made, and where the videos stand after it.
        """
        summary = self.state_mlp(standing.state[0])
        if seen is None:
            mean, log_variance = self.prior(summary, codes)
            z = mean + (log_variance / 2).exp() * draws
            made = self.decoder(z)
            q = self.post_q(self.encoder(made))
        else:
            q = self.post_q(seen)
            mean, log_variance = self.post_dy(*self.post_a(*q, codes), summary)
            z = mean + (log_variance / 2).exp() * draws
            made = self.decoder(z)
        state = self._remember(z, q, standing.state)
        return made, Standing(standing.time + 1, state, standing.codes)


def attributes_of(categorical: Mapping[str, int], continuous: Mapping[str, Sequence[float]]) -> tuple[Attribute, ...]:
    """The attributes of a configuration with their places in ``a``.

    Raises:
        UserError: there are none, or one has no values, no spread, a name that cannot be used or one that is taken.
    """
    if not categorical and not continuous:
        raise UserError("model.attributes: names no attribute; give at least one, such as {action: 10}")
    found: list[Attribute] = []
    start = 0
    for name in [*categorical, *continuous]:
        if not name.isidentifier() or hasattr(nn.ModuleDict(), name) or name in [each.name for each in found]:
            raise UserError(f"model.attributes {name!r}: cannot be a name here; choose another")
        if name in categorical:
            if categorical[name] < 2:
                raise UserError(f"model.attributes.{name} {categorical[name]}: must be at least 2 values")
            found.append(Attribute(name, categorical[name], start))
        else:
            mean, std = continuous[name]
            if not (abs(mean) < float("inf") and 0 < std < float("inf")):
                raise UserError(f"model.continuous.{name} {[mean, std]}: must be a mean and a deviation above 0")
            found.append(Attribute(name, 0, start, mean, std))
        start += found[-1].size
    return tuple(found)
