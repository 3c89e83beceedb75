"""The contract of a metric: a ``torchmetrics.Metric`` on uint8 videos that can say how its number came about."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

import torch
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from vidgen.distributed import world
from vidgen.metrics.extractors.base import Extractor
from vidgen.metrics.frechet import Moments, frechet_from_moments, merge, moments_of

if TYPE_CHECKING:
    from vidgen.models.base import VideoModel

Details = dict[str, Any]
"""What belongs to a value: a deviation, a curve; plain numbers, strings and lists."""
Side = Literal["real", "fake"]
SkipFrames = int | Literal["context"]
"""A number of frames, or as many as the model was given."""
PREFERRED_FRAMES = 16
"""Frames of a clip in most of what is published."""


class VideoMetric(Metric):
    """A number about videos, uint8 ``(B, C, T, H, W)``.

    A subclass implements :meth:`result`. Its states merge across processes to what one process would have.
    """

    full_state_update = False
    is_differentiable = False
    name: ClassVar[str] = ""
    """As registered."""
    details: Details
    """What belongs to the value, after :meth:`compute`."""

    def __init__(self) -> None:
        super().__init__()
        self.details = {}

    @property
    def label(self) -> str:
        """What the number must be called: the registered name, or another where it is not that number."""
        return self.name or type(self).__name__

    @abstractmethod
    def result(self) -> tuple[float, Details]:
        """The value and what belongs to it, from the (merged) states.

        Raises:
            ValueError: too few videos, or a value that is no number.
        """

    def compute(self) -> Tensor:
        """The value, a float64 scalar; :attr:`details` are set with it.

        Raises:
            ValueError: see :meth:`result`.
        """
        value, self.details = self.result()
        return torch.tensor(value, dtype=torch.float64)

    def members(self) -> Sequence[VideoMetric]:
        """The metrics whose values this one gives: itself, or several that look at the same videos together."""
        return (self,)

    def set_context(self, frames: int) -> None:
        """Learn how many frames at the beginning of generated videos their model was given; 0 where none are known of.

        Told before any video is looked at; a metric that treats these frames like all others need not listen.

        Raises:
            ValueError: the metric cannot do without them.
        """

    def protocol(self) -> dict[str, Any]:
        """Everything that the value depends on beside the videos, as plain values."""
        return {"metric": self.name}

    def warnings(self) -> list[str]:
        """What a reader of the value has to know, one line each; empty where there is nothing."""
        return []


class FeatureMetric(VideoMetric):
    """A number about the features of real and of generated videos, or of generated ones alone.

    The extractor is no part of the metric as a module: it stays in eval mode, and out of state dicts, of optimisers
    and of DDP, whatever the metric is part of; it follows the metric to its device.

    Args:
        extractor: what the metric looks through.
        num_frames: frames of a clip; None takes any, as long as they are equally many on both sides.
        stride: source frames from one clip frame to the next, where somebody else cuts the clips.
    """

    sides: ClassVar[tuple[Side, ...]] = ("real", "fake")
    """Which videos are needed."""
    output: ClassVar[Literal["features", "logits"]] = "features"
    """What is asked of the extractor."""
    fits_gaussian: ClassVar[bool] = False
    """Whether covariances of features enter, which are singular for no more samples than features."""
    order: Literal["shuffled", "first"] = "shuffled"
    """Which real videos are taken where there are more than needed, see :class:`vidgen.evaluation.sources.ClipRule`."""
    whole_strides: bool = False
    """Which real videos are long enough, see :class:`vidgen.evaluation.sources.ClipRule`."""
    skip_frames: SkipFrames = 0
    """First frames of every clip, real or generated, that the network is not shown."""
    context_frames: int = 0
    """First frames of a generated clip that its model was given, where that is known."""

    def __init__(self, extractor: Extractor, num_frames: int | None = None, stride: int = 1) -> None:
        super().__init__()
        self.__dict__["extractor"] = extractor
        self.num_frames = num_frames
        self.stride = stride
        for side in self.sides:
            self.add_state(f"{side}_frames", torch.tensor(0), dist_reduce_fx="max")
            self.add_state(f"{side}_videos", torch.tensor(0), dist_reduce_fx="sum")

    extractor: Extractor

    @property
    def label(self) -> str:
        """The registered name; with ``_random_<extractor>`` where the network's weights are random."""
        random = self.extractor.weights.name == "random"
        return f"{super().label}_random_{self.extractor.name}" if random else super().label

    def update(self, videos: Tensor, real: bool = False, index: Sequence[int] | None = None) -> None:
        """Add videos.

        Args:
            videos: uint8 ``(B, C, T, H, W)``.
            real: whether they are real ones.
            index: number of each video, which decides the order where a formula has one; by default they are counted,
                taking it that process r of W has videos r, r + W, ….

        Raises:
            TypeError: the videos are not uint8.
            ValueError: of another shape or number of frames.
        """
        frames = videos.shape[2] if videos.ndim == 5 else 0
        self.check_frames(frames, real)
        self.add(self.extract(videos, real), real, index, frames)

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """There is no value of one batch."""
        raise TypeError(f"{self.label}: a batch has no value of its own; call update(videos, real=…) and compute()")

    def check_frames(self, frames: int, real: bool) -> None:
        """Refuse clips of another length than asked for, or than on the other side.

        Raises:
            ValueError: they are.
        """
        wanted = self.clip_frames(real)
        if frames and wanted is not None and frames != wanted:
            raise ValueError(f"{self.label}: takes clips of {wanted} frames, got {frames}")
        for side in self.sides:
            before = int(getattr(self, f"{side}_frames"))
            asked = self.clip_frames(side == "real")
            if frames and before and wanted == asked and before != frames:
                raise ValueError(
                    f"{self.label}: clips of {frames} and of {before} frames cannot be compared; cut them equally long"
                )

    def clip_frames(self, real: bool) -> int | None:
        """Frames of the clips of a side; None for any."""
        return self.num_frames

    def preferred_frames(self) -> int:
        """Frames of a clip where somebody else cuts them and nothing was asked for."""
        return self.num_frames or PREFERRED_FRAMES

    def set_context(self, frames: int) -> None:
        """See :meth:`VideoMetric.set_context`; frames of a clip are every :attr:`stride`-th of those of the video."""
        if self.skip_frames == "context" and not frames:
            raise ValueError(self._no_context())
        self.context_frames = -(-frames // self.stride)

    @property
    def skipped_frames(self) -> int:
        """:attr:`skip_frames` as a number, once the context is known where it depends on that."""
        return self.context_frames if self.skip_frames == "context" else self.skip_frames

    def least_samples(self, side: Side) -> int:
        """Fewest samples of a side that give a value: videos, or frames where each has a feature."""
        return 1

    def samples_per_video(self, frames: int) -> int:
        """How many samples a video of so many frames gives."""
        return frames if self.extractor.per_frame else 1

    def check_samples(self, side: Side, count: int) -> None:
        """Refuse to compute from too few samples.

        Raises:
            ValueError: there are fewer than :meth:`least_samples`.
        """
        least = self.least_samples(side)
        if count < least:
            unit = "frames" if self.extractor.per_frame else "videos"
            raise ValueError(f"{self.label}: needs at least {least} {side} {unit}, got {count}")

    def extraction(self, real: bool) -> dict[str, Any]:
        """What decides the result of :meth:`extract`, as plain values; metrics that agree in it can share it.

        A subclass with an :meth:`extract` of its own has to tell it here too.
        """
        kind = type(self.extractor)
        return {
            "extractor": {"class": f"{kind.__module__}.{kind.__qualname__}", **self.extractor.describe()},
            "output": self.output,
            **({"skip_frames": self.skipped_frames} if self.skipped_frames else {}),
        }

    def extract(self, videos: Tensor, real: bool) -> Tensor:
        """Features of videos, the first axis is that of the videos: ``(B, D)``, or ``(B, T, D)`` of frames.

        They do not depend on the precision settings of whatever surrounds the call, such as autocast in training.

        Raises:
            ValueError: the frames of the context are to be skipped, and nobody has told their number.
        """
        if self.skip_frames == "context" and not self.context_frames:
            raise ValueError(self._no_context())
        videos = videos[:, :, self.skipped_frames :]
        call = self.extractor if self.output == "features" else self.extractor.logits
        with torch.inference_mode(), exact_arithmetic(videos.device.type):
            features = call(videos)
        return features.unflatten(0, (len(videos), -1)) if self.extractor.per_frame else features

    def add(self, features: Tensor, real: bool, index: Sequence[int] | None = None, frames: int = 0) -> None:
        """Add features that :meth:`extract` has made.

        Args:
            features: as :meth:`extract` returns them.
            real: whether they are those of real videos.
            index: see :meth:`update`.
            frames: frames of the videos; 0 where unknown.

        Raises:
            ValueError: the metric does not look at real videos, or a feature is not a finite number.
        """
        side: Side = "real" if real else "fake"
        if side not in self.sides:
            raise ValueError(f"{self.label}: looks at generated videos only; give real=False")
        if not torch.isfinite(features).all():
            raise ValueError(f"{self.label}: a feature of the {side} videos is no finite number")
        seen = getattr(self, f"{side}_videos")
        if index is None:
            rank, size = world()
            index = range(rank + int(seen) * size, rank + (int(seen) + len(features)) * size, size)
        self.accumulate(features, side, index)
        self._computed = None  # torchmetrics knows of `update` alone
        self._update_count = max(1, self._update_count)
        setattr(self, f"{side}_videos", seen + len(features))
        setattr(self, f"{side}_frames", getattr(self, f"{side}_frames").clamp(min=frames))

    @abstractmethod
    def accumulate(self, features: Tensor, side: Side, index: Sequence[int]) -> None:
        """Put features into the states."""

    def protocol(self) -> dict[str, Any]:
        """Extractor, frames and stride; where a model was given frames, how many they are and how many are skipped."""
        frames = self.num_frames or max(int(getattr(self, f"{side}_frames")) for side in self.sides) or None
        context = {"context_frames": self.context_frames, "skip_frames": self.skipped_frames}
        return {
            **super().protocol(),
            "sides": list(self.sides),
            "extractor": {**self.extractor.describe(), "output": self.output},
            "num_frames": frames,
            "stride": self.stride,
            **(context if any(context.values()) else {}),
            "dtype": {"network": _dtype_of(self.extractor), "statistics": "float64"},
        }

    def warnings(self) -> list[str]:
        """Says when the network's weights are not the published ones."""
        return warnings_of_weights(self, super().label, self.extractor)

    def _no_context(self) -> str:
        return (
            f"{self.label}: skip_frames is context, and no model tells how many frames it was given; give their number,"
            " as in skip_frames=5"
        )

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> Module:
        device = fn(torch.zeros(1, device=self.device)).device  # precision is not a module's to change
        self.extractor.to(device)
        return super()._apply(lambda value: value.to(device), exclude_state)


class MomentStates(FeatureMetric):
    """Keeps count, mean and scatter of features, in float64, of a size that does not grow with their number."""

    fits_gaussian = True

    def add_moments_state(self, name: str) -> None:
        """Register the states of one set of features; they are merged exactly across processes."""
        for part, value in Moments.empty(self.extractor.num_features)._asdict().items():
            self.add_state(f"{name}_{part}", value, dist_reduce_fx=None)

    def moments(self, name: str) -> Moments:
        """Moments of a set, of all processes where the states are synchronised."""
        parts = Moments(*(getattr(self, f"{name}_{part}") for part in Moments._fields))
        if parts.count.ndim == 0:
            return parts
        total = Moments.empty(parts.mean.shape[-1], parts.mean.device)
        for one in zip(*parts, strict=True):  # a process each, in order
            total = merge(total, Moments(*one))
        return total

    def add_moments(self, moments: Moments, name: str) -> None:
        """Merge moments into those of a set."""
        merged = merge(self.moments(name), moments)
        for part, value in merged._asdict().items():
            setattr(self, f"{name}_{part}", value)


class MomentMetric(MomentStates):
    """Keeps the moments of the features of each side."""

    def __init__(self, extractor: Extractor, num_frames: int | None = None, stride: int = 1) -> None:
        super().__init__(extractor, num_frames, stride)
        for side in self.sides:
            self.add_moments_state(side)

    def accumulate(self, features: Tensor, side: Side, index: Sequence[int]) -> None:
        """Merge the moments of new features."""
        self.add_moments(moments_of(features.flatten(0, -2)), side)


class FrechetMetric(MomentMetric):
    """Squared Fréchet distance of Gaussians fitted to the features of each side; 0 is best.

    Args:
        extractor: what the metric looks through.
        num_frames: frames of a clip; None takes any.
        stride: source frames from one clip frame to the next.
        ddof: 1 for covariances divided by N - 1, 0 by N.
    """

    higher_is_better = False

    def __init__(
        self, extractor: Extractor, num_frames: int | None = None, stride: int = 1, ddof: Literal[0, 1] = 1
    ) -> None:
        super().__init__(extractor, num_frames, stride)
        self.ddof = ddof

    def least_samples(self, side: Side) -> int:
        """See :meth:`FeatureMetric.least_samples`."""
        return self.ddof + 1

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`."""
        return frechet_of(self, self.moments("real"), self.moments("fake"), self.ddof), {}

    def protocol(self) -> dict[str, Any]:
        """See :meth:`FeatureMetric.protocol`; adds the covariances' denominator."""
        return {**super().protocol(), "covariance_denominator": "n" if self.ddof == 0 else "n-1"}


class KeptFeatureMetric(FeatureMetric):
    """Keeps all features, for formulas that need them; computed in the order of the videos' numbers."""

    def __init__(self, extractor: Extractor, num_frames: int | None = None, stride: int = 1) -> None:
        super().__init__(extractor, num_frames, stride)
        for side in self.sides:
            self.add_state(f"{side}_features", [], dist_reduce_fx=_joined)
            self.add_state(f"{side}_index", [], dist_reduce_fx=_joined)

    def accumulate(self, features: Tensor, side: Side, index: Sequence[int]) -> None:
        """Keep new features, a row each."""
        numbers = torch.tensor(list(index), dtype=torch.int64, device=features.device)
        rows = features.float().flatten(0, -2)
        getattr(self, f"{side}_features").append(rows)
        getattr(self, f"{side}_index").append(numbers.repeat_interleave(len(rows) // max(len(numbers), 1)))

    def features(self, side: Side) -> Tensor:
        """All features of a side, float64 ``(N, D)``, in the order of the videos' numbers and of the frames in them.

        Raises:
            ValueError: there are none.
        """
        rows, numbers = _joined(getattr(self, f"{side}_features")), _joined(getattr(self, f"{side}_index"))
        if len(rows) == 0:
            raise ValueError(f"{self.label}: no {side} videos were given")
        return rows[numbers.argsort(stable=True)].double()

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        for side in self.sides:  # one tensor of each process, also of one that was given nothing
            rows, numbers = _joined(getattr(self, f"{side}_features")), _joined(getattr(self, f"{side}_index"))
            setattr(self, f"{side}_features", [rows.to(self.device) if len(rows) else self._no_rows(torch.float32)])
            setattr(self, f"{side}_index", [numbers.to(self.device) if len(rows) else self._no_rows(torch.int64)[:, 0]])
        super()._sync_dist(dist_sync_fn, process_group)

    def _no_rows(self, dtype: torch.dtype) -> Tensor:
        return torch.zeros(0, 1, dtype=dtype, device=self.device)


def _joined(parts: list[Tensor] | Tensor) -> Tensor:
    if isinstance(parts, Tensor):
        return parts
    filled = [part for part in parts if len(part)]
    return torch.cat(filled) if filled else torch.zeros(0, 1)


def warnings_of_weights(metric: VideoMetric, name: str, extractor: Extractor) -> list[str]:
    """A line where the weights of a metric's network are not the published ones.

    Args:
        metric: whose value it is about.
        name: what the number would be called with the published weights.
        extractor: the network.
    """
    weights = extractor.weights
    if weights.name == "random":
        return [f"{metric.label}: the weights of {extractor.name} are random; not comparable with any {name}"]
    if weights.published:
        return []
    return [
        f"{metric.label}: {weights.file or weights.name} does not hold the published weights of {extractor.name}"
        f" (it holds {weights.name}, fingerprint {weights.fingerprint}); not comparable with published numbers"
    ]


def check_enough(metric: VideoMetric, side: str, count: int, least: int) -> None:
    """Refuse to compute from too few videos.

    Raises:
        ValueError: there are fewer than ``least``.
    """
    if count < least:
        raise ValueError(f"{metric.name}: needs at least {least} {side} videos, got {count}")


def frechet_of(metric: FeatureMetric, real: Moments, fake: Moments, ddof: int) -> float:
    """Squared Fréchet distance of two sides.

    Raises:
        ValueError: a side has too few samples for a covariance, or the distance is no number.
    """
    metric.check_samples("real", int(real.count))
    metric.check_samples("fake", int(fake.count))
    return float(frechet_from_moments(real, fake, ddof))


@contextmanager
def exact_arithmetic(device: str) -> Iterator[None]:
    """Let float32 be float32 inside the block: no autocast, and no TF32 or bfloat16 in its place.

    cuDNN's convolutions take TF32 unless they are told otherwise, and what a training sets for itself would change the
    features of its metrics.

    Args:
        device: type of the device that computes.
    """
    backends: Any = torch.backends
    places = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def _dtype_of(extractor: Extractor) -> str:
    """Precision in which the network computes."""
    stated = extractor.settings().get("precision")
    first = next((tensor.dtype for tensor in extractor.parameters()), torch.float32)
    return str(stated or first).removeprefix("torch.")


class PairedMetric(VideoMetric):
    """A number about generated videos, each beside the real one that it should equal."""

    num_samples: int = 1
    """Generated videos for each real one; where they are several, fakes are ``(B, N, C, T, H, W)``."""

    def check_length(self, frames: int) -> None:
        """Refuse videos of which nothing is left to compare.

        Raises:
            ValueError: they have no more frames than the metric leaves out.
        """

    @abstractmethod
    def update(self, fake: Tensor, target: Tensor) -> None:
        """Add pairs.

        Args:
            fake: uint8 ``(B, C, T, H, W)``.
            target: the real videos, of the same shape.

        Raises:
            TypeError: not uint8.
            ValueError: shapes that differ.
        """


class ProbeMetric(VideoMetric):
    """A number about a model, found by asking it for what the metric needs."""

    @abstractmethod
    def measure(self, model: VideoModel) -> None:
        """Ask the model; :meth:`compute` then gives the value.

        Raises:
            UserError: the model does not offer what the metric needs; the message names it.
        """
