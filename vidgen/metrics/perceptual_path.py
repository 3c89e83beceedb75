"""Perceptual path length: how much an image changes along a short step between two latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, functional

from vidgen.distributed import world
from vidgen.errors import UserError
from vidgen.metrics.base import Details, ProbeMetric
from vidgen.metrics.image_quality import weights_warnings
from vidgen.metrics.lpips_trunk import LpipsNetwork, lpips_network
from vidgen.registry import METRICS
from vidgen.seeding import NoiseStream, derive_seed, noise_from

if TYPE_CHECKING:
    from vidgen.models.base import VideoModel

Latents = Tensor | Mapping[str, Tensor]


class FilteredMean(NamedTuple):
    """Mean of what lies between two percentiles, and these; floats.

    Args:
        mean: of the distances kept.
        low: smallest one kept.
        high: largest one kept.
    """

    mean: float
    low: float
    high: float


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """Spherical interpolation between directions (Karras et al. 2019, section 4.1; Shoemake 1985).

    Args:
        a: ``(..., D)``, of any length above 0.
        b: ``(..., D)``.
        t: share of the way from a to b, broadcast against ``(..., 1)``.

    Returns:
        Unit vectors ``(..., D)``; that of ``a`` where both are the same direction.
    """
    a, b = functional.normalize(a, dim=-1), functional.normalize(b, dim=-1)
    cosine = (a * b).sum(-1, keepdim=True)
    angle = t * cosine.clamp(-1, 1).acos()
    across = functional.normalize(b - cosine * a, dim=-1)
    return functional.normalize(a * angle.cos() + across * angle.sin(), dim=-1)


def slerp_with_length(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """:func:`slerp`, with the lengths of the ends interpolated linearly.

    A network that normalises its latent, as StyleGAN's do, sees no difference; others would be given vectors far from
    those that they were trained with.
    """
    length_a, length_b = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    return slerp(a, b, t) * (length_a + t * (length_b - length_a))


def crop_face(images: Tensor) -> Tensor:
    """The part of an aligned face that StyleGAN's path lengths of faces look at: rows 3/8 to 7/8, columns 2/8 to 6/8.

    Args:
        images: ``(..., H, W)``.

    Raises:
        ValueError: no squares, or a side that eight does not divide.
    """
    height, width = images.shape[-2:]
    if height != width or height % 8:
        raise ValueError(f"faces must be squares with sides that 8 divides, got {height}x{width}")
    eighth = height // 8
    return images[..., 3 * eighth : 7 * eighth, 2 * eighth : 6 * eighth]


def shrink(images: Tensor, resolution: int = 256) -> Tensor:
    """Average boxes of pixels where images are larger than a multiple of the resolution; the networks know no others.

    Args:
        images: ``(N, C, H, W)``.
        resolution: shorter side from which nothing is averaged any more, pixels.
    """
    factor = min(images.shape[-2:]) // resolution
    return functional.avg_pool2d(images, factor) if factor > 1 else images


def filtered_mean(distances: Tensor, lower: float = 1, upper: float = 99) -> FilteredMean:
    """Mean without the smallest and largest distances, both bounds kept (Karras et al. 2019, official code).

    Args:
        distances: ``(N,)``, N at least 1.
        lower: percentile of the lower bound, the next smaller distance where it falls between two.
        upper: percentile of the upper bound, the next larger distance.

    Raises:
        ValueError: no distances, or NaN or infinite ones.
    """
    if distances.ndim != 1 or len(distances) == 0:
        raise ValueError(f"distances must be (N,) with N at least 1, got {tuple(distances.shape)}")
    if not torch.isfinite(distances).all():
        raise ValueError("distances hold NaN or infinity")
    values = distances.detach().cpu().double().numpy()
    low = np.percentile(values, lower, method="lower")
    high = np.percentile(values, upper, method="higher")
    kept = values[(low <= values) & (values <= high)]
    return FilteredMean(float(kept.mean()), float(low), float(high))


def check_latent_space(metric: str, model: object) -> None:
    """Check that a model can be asked for latents and for what they look like.

    Raises:
        UserError: it offers no ``sample_latents`` or no ``decode``.
    """
    missing = [name for name in ("sample_latents", "decode") if not callable(getattr(model, name, None))]
    if missing:
        offers = " and ".join(missing)
        raise UserError(f"{metric}: {type(model).__name__} does not offer {offers}; it has no latent space to look at")


def chosen_latent(metric: str, latents: Latents, name: str) -> str:
    """Which of a model's latents is meant: the one of that name, or the first; ``""`` where there is only one.

    Raises:
        UserError: there is none of that name.
    """
    if isinstance(latents, Tensor):
        if name:
            raise UserError(f"{metric}: latent is {name!r}, but the model's latents have no names; leave it out")
        return ""
    if name and name not in latents:
        raise UserError(f"{metric}: the model has no latent {name!r} (it has {', '.join(latents)})")
    return name or next(iter(latents))


@METRICS.register("ppl")
class PerceptualPathLength(ProbeMetric):
    """Perceptual path length of a model's latent space (Karras et al. 2019, arXiv 1812.04948, section 4.1).

    How far LPIPS says that a video moves for a step of epsilon between two latents, over epsilon squared; the mean
    over frames and, without the shortest and longest 1%, over steps. Everything but the latent walked along is the
    same at both ends of a step, noise in the layers included. Images are clamped to [-1, 1] and not rounded.

    Args:
        latent: which of the model's latents is walked along; its first by default.
        interpolation: ``slerp`` for normally distributed latents (Z), ``lerp`` for mapped ones (W).
        path: ``full``: steps from anywhere between two latents; ``end``: from the first of them.
        num_samples: steps; 100,000 in StyleGAN, 50,000 in StyleGAN2-ADA.
        epsilon: length of a step, as a share of the way.
        face_crop: look at the middle of aligned faces only, as StyleGAN does.
        net: trunk of LPIPS; VGG in what is published.
        weights: of that trunk, see :func:`~vidgen.metrics.lpips_trunk.lpips_network`.
        num_frames: frames of a video; None takes the training length.
        batch_size: videos that are made at once, which share a draw of the noise in the layers, if there is any.
        seed: of the latents, of the places and of the noise.
    """

    name = "ppl"
    higher_is_better = False

    def __init__(
        self,
        *,
        latent: str = "",
        interpolation: Literal["slerp", "lerp"] = "slerp",
        path: Literal["full", "end"] = "full",
        num_samples: int = 50_000,
        epsilon: float = 1e-4,
        face_crop: bool = False,
        net: Literal["alex", "vgg", "squeeze"] = "vgg",
        weights: str = "auto",
        num_frames: int | None = None,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_choice("interpolation", interpolation, ("slerp", "lerp"))
        _check_choice("path", path, ("full", "end"))
        if num_samples < 1 or batch_size < 1 or epsilon <= 0:
            raise UserError(
                f"ppl: num_samples {num_samples}, batch_size {batch_size} and epsilon {epsilon} must be above 0"
            )
        self.latent, self.interpolation, self.path = latent, interpolation, path
        self.num_samples, self.epsilon, self.face_crop = num_samples, epsilon, face_crop
        self.num_frames, self.batch_size, self.seed = num_frames, batch_size, seed
        self.__dict__["network"] = lpips_network(net, weights)
        # A place for every step: processes fill their own, and the sum over processes is the whole.
        self.add_state("distances", torch.zeros(num_samples, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("measured", torch.tensor(0), dist_reduce_fx="sum")

    network: LpipsNetwork
    distances: Tensor
    measured: Tensor

    @property
    def label(self) -> str:
        """The registered name; with ``_random_<net>`` where the trunk's weights are random."""
        return f"{self.name}_random_{self.network.net}" if self.network.weights.name == "random" else self.name

    @torch.no_grad()
    def measure(self, model: VideoModel) -> None:
        """Walk through the model's latent space; this process takes its share of the steps.

        Args:
            model: one that offers ``sample_latents(num_videos, num_frames=, seed=, first=)``, a tensor or tensors by
                name, and ``decode(latents)``, videos ``(N, C, T, H, W)`` or images ``(N, C, H, W)`` in [-1, 1].

        Raises:
            UserError: the model does not, or has no such latent.
        """
        check_latent_space(self.name, model)
        self.reset()
        self.to(model.device)
        rank, size = world()
        places = self._places()
        for first in range(rank * self.batch_size, self.num_samples, size * self.batch_size):
            count = min(self.batch_size, self.num_samples - first)
            found = self._step_lengths(model, first, places[first : first + count])
            self.distances[first : first + count] = found.to(self.distances)
            self.measured += count
        self._update_count = max(1, self._update_count)  # torchmetrics knows of `update` alone

    def update(self, model: VideoModel) -> None:
        """Same as :meth:`measure`."""
        self.measure(model)

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`; needs :meth:`measure`."""
        if int(self.measured) != self.num_samples:
            raise ValueError(
                f"ppl: {int(self.measured)} of {self.num_samples} steps were measured; call measure(model)"
            )
        found = filtered_mean(self.distances)
        return found.mean, {"shortest_kept": found.low, "longest_kept": found.high}

    def protocol(self) -> dict[str, Any]:
        """All settings, and the network."""
        names = ["latent", "interpolation", "path", "num_samples", "epsilon", "face_crop", "num_frames", "batch_size"]
        network = {**self.network.settings(), "weights": asdict(self.network.weights)}
        settings = {name: getattr(self, name) for name in names}
        return {**super().protocol(), **settings, "seed": self.seed, "network": network}

    def warnings(self) -> list[str]:
        """Says when the trunk's weights are not the published ones."""
        return weights_warnings(self.label, self.network)

    def _places(self) -> Tensor:
        """Where the steps begin, shares of their ways, float64 ``(num_samples,)``."""
        if self.path == "end":
            return torch.zeros(self.num_samples, dtype=torch.float64)
        draws = torch.Generator().manual_seed(derive_seed(self.seed, "ppl", "places"))
        return torch.rand(self.num_samples, generator=draws, dtype=torch.float64)

    def _step_lengths(self, model: Any, first: int, places: Tensor) -> Tensor:
        """``(N,)`` for steps ``first ...`` at these shares of their ways."""
        count = len(places)
        start, end = (
            model.sample_latents(
                count, num_frames=self.num_frames, seed=derive_seed(self.seed, "ppl", end), first=first
            )
            for end in ("from", "to")
        )
        name = chosen_latent(self.name, start, self.latent)
        images = [self._images(model, start, end, name, places + step, first) for step in (0.0, self.epsilon)]
        distances = self.network(*images).double().view(count, -1).mean(1)
        return distances / self.epsilon**2

    def _images(self, model: Any, start: Latents, end: Latents, name: str, t: Tensor, first: int) -> Tensor:
        """What the model makes at shares t of the ways, ``(N * T, 3, H, W)``."""
        a, b = ((latents if isinstance(latents, Tensor) else latents[name]).double() for latents in (start, end))
        share = t.to(a).view(-1, *[1] * (a.ndim - 1))  # in double precision: of a small step single keeps few digits
        between = slerp_with_length(a, b, share) if self.interpolation == "slerp" else torch.lerp(a, b, share)
        between = between.to(start.dtype if isinstance(start, Tensor) else start[name].dtype)
        latents = between if isinstance(start, Tensor) else {**start, name: between}
        with noise_from(NoiseStream(derive_seed(self.seed, "ppl", "noise", first), a.device)):
            made = model.decode(latents).clamp(-1, 1).float()
        images = made if made.ndim == 4 else made.transpose(1, 2).flatten(0, 1)
        images = images.expand(-1, 3, -1, -1)
        return shrink(crop_face(images) if self.face_crop else images)

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> Module:
        super()._apply(fn, exclude_state)
        self.network.to(self.device)
        return self


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"ppl: {name} is {value!r}; it must be {' or '.join(known)}")
