"""How near the frames of a prediction are to the true ones: PSNR and SSIM, as published and as they should be.

Three protocols give three numbers for the same frame:

- ``standard``: that of Finn et al. 2016 and most of video prediction. SSIM with a Gaussian window of 11 x 11 (sigma
  1.5) on the frame's interior and a data range of 1, as in Wang et al. 2004; per channel, then the mean.
- ``svg``: that of SVG's curves (Denton and Fergus 2018). SSIM with a uniform window of 7 x 7, sample covariances and a
  data range of 2, although pixels span 1: the values are higher.
- ``common``: that of the widely copied "common metrics on video quality". SSIM as ``standard``; PSNR of the error over
  all channels at once, and 100 where that is below 1e-10.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import Module, functional
from torchmetrics.functional.image import structural_similarity_index_measure

from vidgen.errors import UserError
from vidgen.metrics.base import PairedMetric
from vidgen.metrics.curves import CurveStates, check_frames_left
from vidgen.metrics.lpips_trunk import LpipsNetwork, lpips_network
from vidgen.registry import METRICS

Protocol = Literal["standard", "svg", "common"]

_GAUSSIAN_WINDOW = 11
_SIGMA = 1.5
_UNIFORM_WINDOW = 7
_FRAMES_PER_PASS = 32
"""Of the LPIPS network, whose maps of a long video would not fit into memory."""
_SVG_DATA_RANGE = 2.0
"""Of floats in skimage before 0.16, which took them to span -1 .. 1."""


def mean_squared_error(fake: Tensor, target: Tensor) -> Tensor:
    """Mean of the squared differences over channels and pixels.

    Args:
        fake: ``(B, C, T, H, W)``, uint8, or floating in [0, 1].
        target: of the same shape.

    Returns:
        float64 ``(B, T)``, of pixels in [0, 1].

    Raises:
        TypeError: neither uint8 nor floating.
        ValueError: shapes that differ, not five axes, or pixels out of range.
    """
    fake, target = _unit_range(fake, "fake"), _unit_range(target, "target")
    _check_equal_shapes(fake, target)
    return _error_of_channels(fake, target).mean(1)


def psnr(fake: Tensor, target: Tensor, protocol: Protocol = "standard") -> Tensor:
    """Peak signal-to-noise ratio of each frame.

    Args:
        fake: ``(B, C, T, H, W)``, uint8, or floating in [0, 1].
        target: of the same shape.
        protocol: see the module; ``standard`` and ``svg`` agree.

    Returns:
        float64 ``(B, T)`` in dB; infinite for equal frames, where ``common`` says 100.

    Raises:
        TypeError: neither uint8 nor floating.
        ValueError: shapes that differ, not five axes, pixels out of range, or an unknown protocol.
    """
    check_protocol(protocol)
    fake, target = _unit_range(fake, "fake"), _unit_range(target, "target")
    _check_equal_shapes(fake, target)
    errors = _error_of_channels(fake, target)
    if protocol == "common":
        error = errors.mean(1)
        return torch.where(error < 1e-10, 100.0, -10 * error.log10())
    return (-10 * errors.log10()).mean(1)


def ssim(fake: Tensor, target: Tensor, protocol: Protocol = "standard") -> Tensor:
    """Structural similarity of each frame.

    Args:
        fake: ``(B, C, T, H, W)``, uint8, or floating in [0, 1].
        target: of the same shape.
        protocol: see the module; ``standard`` and ``common`` agree.

    Returns:
        float64 ``(B, T)``, at most 1, which only equal frames have.

    Raises:
        TypeError: neither uint8 nor floating.
        ValueError: shapes that differ, not five axes, pixels out of range, frames smaller than the window, or an
            unknown protocol.
    """
    check_protocol(protocol)
    window = _UNIFORM_WINDOW if protocol == "svg" else _GAUSSIAN_WINDOW
    if min(fake.shape[-2:]) < window:
        height, width = fake.shape[-2:]
        raise ValueError(f"ssim ({protocol}): needs frames of {window}x{window} pixels at least, got {height}x{width}")
    fake, target = _unit_range(fake, "fake"), _unit_range(target, "target")
    _check_equal_shapes(fake, target)
    # Frame by frame: the maps of a whole video would take ten times its memory.
    return torch.stack([_similarity(fake[:, :, t], target[:, :, t], protocol) for t in range(fake.shape[2])], dim=1)


def check_protocol(protocol: str) -> None:
    """Check the name of a protocol.

    Raises:
        ValueError: there is no such protocol.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}, not {protocol!r}")


def _unit_range(videos: Tensor, name: str) -> Tensor:
    """float64 in [0, 1]."""
    if videos.dtype == torch.uint8:
        return videos.double() / 255
    if not videos.is_floating_point():
        raise TypeError(f"{name}: takes uint8 videos, or floating ones in [0, 1], not {videos.dtype}")
    if not ((videos >= 0) & (videos <= 1)).all():
        raise ValueError(f"{name}: floating pixels must be in [0, 1]")
    return videos.double()


def _check_equal_shapes(fake: Tensor, target: Tensor) -> None:
    if fake.ndim != 5 or fake.shape != target.shape:
        shapes = f"{tuple(fake.shape)} and {tuple(target.shape)}"
        raise ValueError(f"videos to compare must both be (B, C, T, H, W) of one shape, got {shapes}")


def _error_of_channels(fake: Tensor, target: Tensor) -> Tensor:
    return (fake - target).square().mean((3, 4))  # (B, C, T)


def _similarity(fake: Tensor, target: Tensor, protocol: Protocol) -> Tensor:
    """``(B,)`` from ``(B, C, H, W)``: the mean over channels and over all windows that fit."""
    if protocol == "svg":
        return _uniform_similarity(fake, target)
    _, maps = structural_similarity_index_measure(
        fake, target, sigma=_SIGMA, data_range=1.0, reduction=None, return_full_image=True
    )
    border = _GAUSSIAN_WINDOW // 2  # torchmetrics looks beyond the frame there, at its mirror image
    interior: Tensor = maps[..., border:-border, border:-border]
    return interior.mean((1, 2, 3))


def _uniform_similarity(fake: Tensor, target: Tensor) -> Tensor:
    def mean(planes: Tensor) -> Tensor:
        return functional.avg_pool2d(planes, _UNIFORM_WINDOW, stride=1)

    pixels = _UNIFORM_WINDOW**2
    sample = pixels / (pixels - 1)
    mean_fake, mean_target = mean(fake), mean(target)
    variances = sample * (mean(fake * fake) - mean_fake**2 + mean(target * target) - mean_target**2)
    covariance = sample * (mean(fake * target) - mean_fake * mean_target)
    c1, c2 = (0.01 * _SVG_DATA_RANGE) ** 2, (0.03 * _SVG_DATA_RANGE) ** 2
    luminance = (2 * mean_fake * mean_target + c1) / (mean_fake**2 + mean_target**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean((1, 2, 3))


class FrameScores(CurveStates, PairedMetric):
    """The curve over time of one score of each generated frame beside the true one.

    Args:
        context_frames: first frames of a video that are left out; None for those that the model was given, where a
            model is measured, else none.
    """

    def update(self, fake: Tensor, target: Tensor) -> None:
        """See :meth:`PairedMetric.update`."""
        self.add_curves(self.predicted_scores(fake, target)[:, None])

    def predicted_scores(self, fake: Tensor, target: Tensor) -> Tensor:
        """Scores ``(B, T - context_frames)`` of uint8 videos.

        Raises:
            TypeError: not uint8.
            ValueError: shapes that differ, or no frames beside the context.
        """
        for videos in (fake, target):
            if videos.dtype != torch.uint8:
                raise TypeError(
                    f"{self.name}: takes uint8 videos in 0 .. 255, not {videos.dtype};"
                    " make them with vidgen.media.to_uint8"
                )
        _check_equal_shapes(fake, target)
        self.check_length(fake.shape[2])
        return self.scores(fake[:, :, self.context_frames :], target[:, :, self.context_frames :])

    def check_length(self, frames: int) -> None:
        """See :meth:`PairedMetric.check_length`."""
        check_frames_left(self.name, self.context_frames, frames)

    @abstractmethod
    def scores(self, fake: Tensor, target: Tensor) -> Tensor:
        """Scores ``(B, T)`` of uint8 ``(B, C, T, H, W)``."""


@METRICS.register("psnr")
class PeakSignalToNoiseRatio(FrameScores):
    """PSNR of each frame, dB (see :func:`psnr`).

    Args:
        protocol: ``standard``, ``svg`` or ``common``, see the module.
        context_frames: first frames of a video that are left out; None for those that the model was given, where a
            model is measured, else none.
    """

    name = "psnr"
    higher_is_better = True

    def __init__(self, protocol: Protocol = "standard", context_frames: int | None = None) -> None:
        super().__init__(context_frames)
        self.protocol_name = _known_protocol(self.name, protocol)

    def scores(self, fake: Tensor, target: Tensor) -> Tensor:
        """See :func:`psnr`."""
        return psnr(fake, target, self.protocol_name)

    def protocol(self) -> dict[str, Any]:
        """See :meth:`FrameScores.protocol`; adds the name of the protocol."""
        return {**super().protocol(), "protocol": self.protocol_name}


@METRICS.register("ssim")
class StructuralSimilarity(FrameScores):
    """SSIM of each frame (see :func:`ssim`).

    Args:
        protocol: ``standard``, ``svg`` or ``common``, see the module.
        context_frames: first frames of a video that are left out; None for those that the model was given, where a
            model is measured, else none.
    """

    name = "ssim"
    higher_is_better = True

    def __init__(self, protocol: Protocol = "standard", context_frames: int | None = None) -> None:
        super().__init__(context_frames)
        self.protocol_name = _known_protocol(self.name, protocol)

    def scores(self, fake: Tensor, target: Tensor) -> Tensor:
        """See :func:`ssim`."""
        return ssim(fake, target, self.protocol_name)

    def protocol(self) -> dict[str, Any]:
        """See :meth:`FrameScores.protocol`; adds the name of the protocol."""
        return {**super().protocol(), "protocol": self.protocol_name}


@METRICS.register("lpips")
class LearnedPerceptualSimilarity(FrameScores):
    """LPIPS of each frame (Zhang et al. 2018, arXiv 1801.03924): a distance, 0 for equal frames.

    The network is no part of the metric as a module: it stays out of state dicts, of optimisers and of DDP.

    Args:
        net: trunk: ``alex``, with which evaluations are published, ``vgg`` or ``squeeze``.
        weights: of the trunk, see :func:`~vidgen.metrics.lpips_trunk.lpips_network`.
        context_frames: first frames of a video that are left out; None for those that the model was given, where a
            model is measured, else none.
    """

    name = "lpips"
    higher_is_better = False

    def __init__(
        self,
        net: Literal["alex", "vgg", "squeeze"] = "alex",
        weights: str = "auto",
        context_frames: int | None = None,
    ) -> None:
        super().__init__(context_frames)
        self.__dict__["network"] = lpips_network(net, weights)

    network: LpipsNetwork

    @property
    def label(self) -> str:
        """The registered name; with ``_random_<net>`` where the trunk's weights are random."""
        return f"{self.name}_random_{self.network.net}" if self.network.weights.name == "random" else self.name

    def scores(self, fake: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        pairs = zip(_images(fake).split(_FRAMES_PER_PASS), _images(target).split(_FRAMES_PER_PASS), strict=True)
        return torch.cat([self.network(one, other) for one, other in pairs]).view(len(fake), -1)

    def protocol(self) -> dict[str, Any]:
        """See :meth:`FrameScores.protocol`; adds the network."""
        return {**super().protocol(), "network": {**self.network.settings(), "weights": asdict(self.network.weights)}}

    def warnings(self) -> list[str]:
        """Says when the trunk's weights are not the published ones."""
        return super().warnings() + weights_warnings(self.label, self.network)

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> Module:
        super()._apply(fn, exclude_state)
        self.network.to(self.device)
        return self


def weights_warnings(label: str, network: LpipsNetwork) -> list[str]:
    """One line where a metric's LPIPS network does not have the published weights."""
    weights = network.weights
    if weights.published:
        return []
    found = "random" if weights.name == "random" else f"not the published ones but {weights.name}"
    return [f"{label}: the weights of {network.net} are {found}; not comparable with published numbers"]


def _images(videos: Tensor) -> Tensor:
    """uint8 ``(B, C, T, H, W)`` to floats ``(B * T, 3, H, W)`` in [-1, 1]."""
    frames = videos.transpose(1, 2).flatten(0, 1)
    return frames.expand(-1, 3, -1, -1).float() / 127.5 - 1


def _known_protocol(metric: str, protocol: Protocol) -> Protocol:
    try:
        check_protocol(protocol)
    except ValueError as error:
        raise UserError(f"{metric}: {error}") from None
    return protocol
