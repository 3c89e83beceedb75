"""What a metric knows of the network that it looks through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from vidgen.metrics.extractors.random_weights import filled_state, fingerprint
from vidgen.weights import WeightFile, load_into, load_state, locate, matches

Pass = TypeVar("Pass", bound=Callable[..., Any])


def frozen(method: Pass) -> Pass:
    """Let a pass through a frozen network be the same wherever it is called: without gradients and out of autocast.

    A training step in mixed precision, say, would have features in half precision that compare with no others.

    Args:
        method: whose first argument after ``self`` is a tensor, on whose device it computes.
    """

    @wraps(method)
    def alone(self: Any, x: Tensor, *others: Any) -> Any:
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            return method(self, x, *others)

    return alone  # type: ignore[return-value]


@dataclass(frozen=True)
class Weights:
    """Which weights an extractor was given.

    Args:
        name: short name of a published set (``"kinetics_i3d_rgb_scratch"``), ``"random"`` or ``"unknown"``.
        fingerprint: of the tensors, the same whatever file they came from.
        published: whether they are those that numbers in papers are made with.
        file: name of the file that they were read from; empty without one.
    """

    name: str
    fingerprint: str
    published: bool
    file: str = ""


def give_weights(
    network: nn.Module,
    file: WeightFile,
    weights: str | Path = "auto",
    convert: Callable[[dict[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> Weights:
    """Give an extractor's network its weights: those of a file, or closed-form ones.

    Args:
        network: takes the weights; may be on the meta device.
        file: the published one.
        weights: ``auto`` or a path, see :func:`vidgen.weights.locate`, or ``random`` for
            :func:`vidgen.metrics.extractors.random_weights.filled`.
        convert: from the file's names and layout to the network's.

    Returns:
        What they are: published, if the file's checksum is the published one's.

    Raises:
        UserError: see :func:`vidgen.weights.locate`, :func:`vidgen.weights.load_state` and
            :func:`vidgen.weights.load_into`.
    """
    if weights == "random":
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        load_into(network, filled_state(shapes), "random weights")
        return Weights("random", fingerprint(network.state_dict()), published=False)
    path = locate(file, weights)
    load_into(network, convert(load_state(path)), path)
    published = bool(file.checksum) and (weights == "auto" or matches(path, file.checksum))
    name = Path(file.name).stem if published else "unknown"
    return Weights(name, fingerprint(network.state_dict()), published, path.name)


class Extractor(nn.Module):
    """A frozen network that turns videos into features.

    It stays in eval mode whatever module holds it, has no gradients, and its answer to a video does not depend on the
    others in the batch.
    """

    num_features: int
    """Length of a feature vector."""
    weights: Weights
    """Which weights are loaded."""
    name: ClassVar[str] = ""
    """As registered."""
    per_frame: ClassVar[bool] = False
    """Whether there is a feature of each frame, not of each video."""
    min_frames: ClassVar[int] = 1
    """Fewest frames of a video."""
    classifies: ClassVar[bool] = False
    """Whether :meth:`logits` gives class scores."""

    def forward(self, videos: Tensor) -> Tensor:
        """Features of videos.

        Args:
            videos: uint8 ``(B, C, T, H, W)`` with 1 or 3 channels, of any size.

        Returns:
            float32 ``(B, D)``, or ``(B * T, D)`` where :attr:`per_frame`, video by video.

        Raises:
            TypeError: the videos are not uint8.
            ValueError: another number of axes or channels, or too few frames.
        """
        raise NotImplementedError

    def logits(self, videos: Tensor) -> Tensor:
        """Class scores before the softmax, of videos or frames as :meth:`forward`."""
        raise NotImplementedError(f"{type(self).__name__} has no classes")

    def settings(self) -> dict[str, Any]:
        """What is done to a video before the network and in it: resize and crop rule, range, precision, …"""
        return {}

    def describe(self) -> dict[str, Any]:
        """Everything that tells two extractors apart whose features must not be compared, as plain values."""
        return {"name": self.name, "weights": asdict(self.weights), **self.settings()}

    def train(self, mode: bool = True) -> Extractor:
        """Stay in eval mode."""
        return super().train(False)

    def freeze(self) -> None:
        """Take gradients and training behaviour away; the last line of a subclass's constructor."""
        self.requires_grad_(False)
        self.train(False)


def check_videos(videos: Tensor, min_frames: int = 1, extractor: str = "metrics") -> Tensor:
    """Refuse what is no batch of videos, and give grey ones three channels.

    Args:
        videos: to check.
        min_frames: fewest frames.
        extractor: who asks, for the message.

    Returns:
        uint8 ``(B, 3, T, H, W)``.

    Raises:
        TypeError: not uint8.
        ValueError: not five axes, not 1 or 3 channels, or too few frames.
    """
    if videos.dtype != torch.uint8:
        raise TypeError(
            f"{extractor}: takes uint8 videos in 0 .. 255, not {videos.dtype}; make them with vidgen.media.to_uint8"
        )
    if videos.ndim != 5 or videos.shape[1] not in (1, 3):
        raise ValueError(f"{extractor}: takes videos (B, C, T, H, W) with 1 or 3 channels, not {tuple(videos.shape)}")
    if videos.shape[2] < min_frames:
        raise ValueError(f"{extractor}: needs videos of at least {min_frames} frames, got {videos.shape[2]}")
    return videos.expand(-1, 3, -1, -1, -1)
