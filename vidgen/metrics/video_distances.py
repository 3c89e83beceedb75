"""Distances between sets of videos: FVD in its published protocols, its relatives, and KVD.

Fréchet video distance: Unterthiner et al. 2018 (arXiv 1812.01717). Kernel video distance: as in TATS (Ge et al. 2022,
arXiv 2204.03638). Extrapolation to infinitely many videos: after Chong and Forsyth 2020 (arXiv 1911.07023).
Content-debiased FVD: Ge et al. 2024 (arXiv 2404.12391).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from vidgen.errors import UserError, did_you_mean
from vidgen.metrics.base import (
    Details,
    FeatureMetric,
    FrechetMetric,
    KeptFeatureMetric,
    MomentMetric,
    MomentStates,
    Side,
    SkipFrames,
    frechet_of,
)
from vidgen.metrics.extractors import shared_extractor
from vidgen.metrics.extrapolation import LEAST, frechet_at_infinity
from vidgen.metrics.frechet import moments_of
from vidgen.metrics.kernel_distance import polynomial_mmd
from vidgen.metrics.preprocessing import PROTOCOLS as PREPROCESSING
from vidgen.metrics.preprocessing import Crop, Preprocessing, Resize
from vidgen.registry import METRICS

ProtocolName = Literal[
    "original",
    "styleganv",
    "styleganv_2048_16f",
    "styleganv_2048_128f",
    "styleganv_2048_128f_subsample8f",
    "tats",
    "videogpt",
]
Precision = Literal["float32", "bfloat16"]

PUBLISHED_NUM_VIDEOS = 2048
"""Videos of each side that most published numbers are made with."""


@dataclass(frozen=True)
class VideoProtocol:
    """How a published FVD is computed; what its code does, in each respect that changes the number.

    Args:
        preprocessing: from bytes to what the network sees.
        bn_eps: epsilon of the network's batch normalisation.
        ddof: what is taken off the counts in the covariances' denominators.
        num_frames: frames of a clip.
        stride: source frames from one clip frame to the next.
        order: which real videos are taken, see :class:`vidgen.evaluation.sources.ClipRule`.
        whole_strides: which real videos are long enough, see there.
    """

    preprocessing: Preprocessing
    bn_eps: float = 1e-3
    ddof: Literal[0, 1] = 1
    num_frames: int = 16
    stride: int = 1
    order: Literal["shuffled", "first"] = "shuffled"
    whole_strides: bool = False


_STYLEGAN_V = VideoProtocol(PREPROCESSING["styleganv"], ddof=0, order="first", whole_strides=True)

PROTOCOLS: dict[str, VideoProtocol] = {
    "original": VideoProtocol(PREPROCESSING["original"]),
    "styleganv": _STYLEGAN_V,
    "styleganv_2048_16f": _STYLEGAN_V,
    "styleganv_2048_128f": replace(_STYLEGAN_V, num_frames=128),
    "styleganv_2048_128f_subsample8f": replace(_STYLEGAN_V, stride=8),
    "tats": VideoProtocol(PREPROCESSING["tats"], bn_eps=1e-5),
    "videogpt": VideoProtocol(PREPROCESSING["videogpt"], bn_eps=1e-5),
}
"""``styleganv`` is short for ``styleganv_2048_16f``. Numbers of two protocols must not share a column."""


def named_protocol(name: str) -> VideoProtocol:
    """A published protocol.

    Raises:
        UserError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise UserError(f"protocol {name!r}: unknown{did_you_mean(name, PROTOCOLS)} (known: {', '.join(PROTOCOLS)})")
    return PROTOCOLS[name]


class _ByI3D(FeatureMetric):
    """The settings that the metrics on I3D features share.

    Args:
        protocol: whose rules hold; those given beside it change it, and its name in the record with it.
        weights: of the I3D network: ``auto``, ``random`` or a path, see
            :class:`~vidgen.metrics.extractors.i3d.I3D`.
        num_frames: frames of a clip; None for the protocol's where clips are cut, and for any where they are given.
        stride: source frames from one clip frame to the next; None for the protocol's.
        resize: ``tf1``, ``half_pixel`` or ``antialias``; None for the protocol's.
        crop: ``stretch`` or ``short_side_center``; None for the protocol's.
        bn_eps: epsilon of batch normalisation; None for the protocol's.
        ddof: 1 for covariances divided by N - 1, 0 by N; None for the protocol's.
        precision: of the network.
        compile: compile the network at the first use.
        skip_frames: first frames of every clip, real or generated, that are not looked at: ``context`` for those that a
            predicting model was given, or a number.

    Raises:
        UserError: an unknown protocol, or ``skip_frames`` below 0.
    """

    def __init__(
        self,
        protocol: ProtocolName = "original",
        *,
        weights: str = "auto",
        num_frames: int | None = None,
        stride: int | None = None,
        resize: Resize | None = None,
        crop: Crop | None = None,
        bn_eps: float | None = None,
        ddof: Literal[0, 1] | None = None,
        precision: Precision = "float32",
        compile: bool = False,
        skip_frames: SkipFrames = 0,
    ) -> None:
        if skip_frames != "context" and skip_frames < 0:
            raise UserError(f"{self.name}: skip_frames is {skip_frames}; it must be at least 0, or context")
        published = named_protocol(protocol)
        framing = _given(resize=resize, crop=crop)
        given = _given(bn_eps=bn_eps, ddof=ddof, num_frames=num_frames, stride=stride)
        used = replace(published, preprocessing=replace(published.preprocessing, **framing), **given)
        extractor = shared_extractor(
            "i3d",
            weights=weights,
            preprocessing=used.preprocessing,
            bn_eps=used.bn_eps,
            precision=precision,
            compile=compile,
        )
        super().__init__(extractor, num_frames, used.stride)
        self.settings = used
        self.protocol_name = protocol if used == published else f"{protocol} (changed)"
        self.order = used.order
        self.whole_strides = used.whole_strides
        self.skip_frames = skip_frames

    def preferred_frames(self) -> int:
        """See :meth:`FeatureMetric.preferred_frames`."""
        return self.settings.num_frames

    def protocol(self) -> dict[str, Any]:
        """See :meth:`FeatureMetric.protocol`; adds the name of the protocol."""
        return {**super().protocol(), "protocol": self.protocol_name}


class _Frechet(_ByI3D):
    def least_samples(self, side: Side) -> int:
        """See :meth:`FeatureMetric.least_samples`."""
        return self.settings.ddof + 1

    def protocol(self) -> dict[str, Any]:
        """See :meth:`FeatureMetric.protocol`; adds the covariances' denominator."""
        return {**super().protocol(), "covariance_denominator": "n" if self.settings.ddof == 0 else "n-1"}


@METRICS.register("fvd")
class FrechetVideoDistance(_Frechet, MomentMetric):
    """Fréchet video distance: squared Fréchet distance of Gaussians fitted to I3D features; 0 is best.

    Statistics are streamed in float64: memory does not grow with the number of videos. The network's weights decide
    the number, so they are identified and named in the protocol.
    """

    name = "fvd"
    higher_is_better = False

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`; needs two videos of each side (one where ``ddof`` is 0)."""
        return frechet_of(self, self.moments("real"), self.moments("fake"), self.settings.ddof), {}


@METRICS.register("fvd_inf")
class FrechetVideoDistanceInfinity(_Frechet, KeptFeatureMetric):
    """FVD extrapolated to infinitely many generated videos, which takes away the bias of their number.

    FVD against all real videos is computed for subsets of the generated ones of fifteen sizes; a line is fitted against
    1 / N, and its intercept is the value (Chong and Forsyth 2020, section 4). The details hold the fit.
    """

    name = "fvd_inf"
    higher_is_better = False
    fits_gaussian = True

    def least_samples(self, side: Side) -> int:
        """See :meth:`FeatureMetric.least_samples`."""
        return 2 * LEAST if side == "fake" else super().least_samples(side)

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`; needs more than 512 generated videos."""
        real, fake = self.features("real"), self.features("fake")
        self.check_samples("real", len(real))
        self.check_samples("fake", len(fake))
        fit = frechet_at_infinity(moments_of(real), fake, ddof=self.settings.ddof)
        return fit.value, {key: value for key, value in fit._asdict().items() if key != "value"}


@METRICS.register("fvd_windows")
class FrechetVideoDistanceWindows(_Frechet, MomentStates):
    """FVD of each window of long generated videos against real clips: how quality changes along a video.

    Window k of a generated video, frames ``k * window_stride …``, is compared with the same real clips of
    ``window`` frames (after TATS, section 4.3). The value is the mean over windows; the details hold them all.

    Args:
        window: frames of a window, and of the real clips.
        window_stride: frames from one window's start to the next; None for windows that do not overlap.
        total_frames: frames of the generated videos.
    """

    name = "fvd_windows"
    higher_is_better = False

    def __init__(
        self,
        protocol: ProtocolName = "original",
        *,
        window: int = 16,
        window_stride: int | None = None,
        total_frames: int = 128,
        weights: str = "auto",
        stride: int | None = None,
        resize: Resize | None = None,
        crop: Crop | None = None,
        bn_eps: float | None = None,
        ddof: Literal[0, 1] | None = None,
        precision: Precision = "float32",
        compile: bool = False,
    ) -> None:
        super().__init__(
            protocol,
            weights=weights,
            num_frames=window,
            stride=stride,
            resize=resize,
            crop=crop,
            bn_eps=bn_eps,
            ddof=ddof,
            precision=precision,
            compile=compile,
        )
        if window > total_frames:
            raise UserError(f"fvd_windows: total_frames is {total_frames}; it must be at least the window, {window}")
        if window_stride is not None and window_stride < 1:
            raise UserError(f"fvd_windows: window_stride is {window_stride}; it must be at least 1")
        self.window = window
        self.total_frames = total_frames
        self.starts = range(0, total_frames - window + 1, window_stride or window)
        for name in ("real", *map(_window, self.starts)):
            self.add_moments_state(name)

    def clip_frames(self, real: bool) -> int | None:
        """See :meth:`FeatureMetric.clip_frames`."""
        return self.window if real else self.total_frames

    def extraction(self, real: bool) -> dict[str, Any]:
        """See :meth:`FeatureMetric.extraction`."""
        return {**super().extraction(real), **({} if real else self._windows())}

    def extract(self, videos: Tensor, real: bool) -> Tensor:
        """See :meth:`FeatureMetric.extract`; of generated videos ``(B, windows, D)``."""
        if real:
            return super().extract(videos, real)
        windows = torch.stack([videos[:, :, at : at + self.window] for at in self.starts], dim=1)
        return super().extract(windows.flatten(0, 1), real).unflatten(0, windows.shape[:2])

    def accumulate(self, features: Tensor, side: Side, index: Sequence[int]) -> None:
        """See :meth:`FeatureMetric.accumulate`."""
        if side == "real":
            self.add_moments(moments_of(features), "real")
            return
        for number, start in enumerate(self.starts):
            self.add_moments(moments_of(features[:, number]), _window(start))

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`."""
        real = self.moments("real")
        values = [frechet_of(self, real, self.moments(_window(start)), self.settings.ddof) for start in self.starts]
        windows = [{"first_frame": start, "value": value} for start, value in zip(self.starts, values, strict=True)]
        return sum(values) / len(values), {"windows": windows}

    def protocol(self) -> dict[str, Any]:
        """See :meth:`FeatureMetric.protocol`; adds the windows."""
        return {**super().protocol(), **self._windows(), "total_frames": self.total_frames}

    def _windows(self) -> dict[str, Any]:
        return {"window": self.window, "starts": list(self.starts)}


@METRICS.register("kvd")
class KernelVideoDistance(_ByI3D, KeptFeatureMetric):
    """Kernel video distance: unbiased squared MMD of I3D features with the kernel ``(x.y / 400 + 1)^3``.

    All videos enter, as many of each side as there are. It can be negative; 0 is best.
    """

    name = "kvd"
    higher_is_better = False

    def __init__(
        self,
        protocol: ProtocolName = "original",
        *,
        weights: str = "auto",
        num_frames: int | None = None,
        stride: int | None = None,
        resize: Resize | None = None,
        crop: Crop | None = None,
        bn_eps: float | None = None,
        precision: Precision = "float32",
        compile: bool = False,
        skip_frames: SkipFrames = 0,
    ) -> None:
        super().__init__(
            protocol,
            weights=weights,
            num_frames=num_frames,
            stride=stride,
            resize=resize,
            crop=crop,
            bn_eps=bn_eps,
            precision=precision,
            compile=compile,
            skip_frames=skip_frames,
        )

    def least_samples(self, side: Side) -> int:
        """See :meth:`FeatureMetric.least_samples`."""
        return 2

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`; needs two videos of each side."""
        sides = {side: self.features(side) for side in self.sides}
        for side, features in sides.items():
            self.check_samples(side, len(features))
        return float(polynomial_mmd(sides["real"], sides["fake"])), {}


@METRICS.register("cdfvd")
class ContentDebiasedFrechetVideoDistance(FrechetMetric):
    """Fréchet distance of VideoMAE features, which see motion where I3D's see mostly single frames.

    Args:
        weights: of the VideoMAE network: ``auto``, ``random`` or a path, see
            :class:`~vidgen.metrics.extractors.videomae.VideoMAE`.
        stride: source frames from one clip frame to the next.
        ddof: 1 for covariances divided by N - 1, 0 by N, as published.
    """

    name = "cdfvd"
    higher_is_better = False

    def __init__(self, *, weights: str = "auto", stride: int = 1, ddof: Literal[0, 1] = 0) -> None:
        super().__init__(shared_extractor("videomae", weights=weights), 16, stride, ddof)


def _given(**arguments: Any) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if value is not None}


def _window(start: int) -> str:
    return f"fake_from_{start}"
