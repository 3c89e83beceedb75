"""Linear separability: how well a hyperplane in latent space tells an attribute of the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize
from torch import Tensor
from torch.nn import Module

from vidgen.distributed import world
from vidgen.errors import UserError
from vidgen.media import to_uint8
from vidgen.metrics.base import Details, ProbeMetric, warnings_of_weights
from vidgen.metrics.extractors import shared_extractor
from vidgen.metrics.extractors.base import Extractor
from vidgen.metrics.perceptual_path import check_latent_space, chosen_latent
from vidgen.registry import METRICS
from vidgen.seeding import NoiseStream, derive_seed, noise_from

if TYPE_CHECKING:
    from vidgen.models.base import VideoModel


def conditional_entropy(table: Tensor) -> Tensor:
    """H(Y|X) in bits: what is still to be told of the label once the side of the hyperplane is known.

    Args:
        table: ``(..., 2, 2)``, counts or shares; rows are the sides X, columns the labels Y.

    Returns:
        float64 ``(...)`` in 0 .. 1.

    Raises:
        ValueError: another shape, negative entries, or an empty table.
    """
    if table.shape[-2:] != (2, 2):
        raise ValueError(f"a table must be (..., 2, 2), got {tuple(table.shape)}")
    counts = table.double()
    total = counts.sum((-2, -1), keepdim=True)
    if not ((counts >= 0).all() and (total > 0).all()):
        raise ValueError("a table must have no negative entries, and one above 0")
    joint = counts / total
    # The empty sides' 0 / 0 does no harm: their cells have no share.
    surprise = (joint.sum(-1, keepdim=True) / joint).where(joint > 0, 1).log2()
    return (joint * surprise).sum((-2, -1))


def linear_separability(tables: Tensor) -> Tensor:
    """``2^(sum of H(Y|X))`` over attributes (Karras et al. 2019, section 4.2; the official code's base is 2 as well).

    Args:
        tables: ``(A, 2, 2)``, see :func:`conditional_entropy`.

    Returns:
        float64 scalar, 1 where each attribute is separated perfectly.
    """
    return 2 ** conditional_entropy(tables).sum()


def separation_table(latents: Tensor, labels: Tensor) -> Tensor:
    """How the sides of the best hyperplane and the labels go together.

    Args:
        latents: ``(N, D)``.
        labels: bool ``(N,)``.

    Returns:
        int64 ``(2, 2)``; rows are sides, columns labels. Diagonal where no hyperplane can be found, which counts as
        perfect: the published rule, met where all labels are equal.
    """
    sides = linear_svm_sides(latents, labels)
    cells = 2 * sides.long() + labels.to(sides.device).long()
    return torch.bincount(cells, minlength=4).view(2, 2)


def linear_svm_sides(latents: Tensor, labels: Tensor, penalty: float = 1.0, max_steps: int = 1000) -> Tensor:
    """On which side of the hyperplane of a linear support vector machine each latent lies.

    The machine is that of LIBLINEAR's defaults (Fan et al. 2008, section 2): squared hinge loss, an offset that is
    regularised like a weight. The problem is convex and smooth, so that any good minimiser finds its one solution.

    Args:
        latents: ``(N, D)``.
        labels: bool ``(N,)``.
        penalty: C, weight of the losses against half the squared length of the weights.
        max_steps: of the minimiser (L-BFGS).

    Returns:
        bool ``(N,)`` on the CPU; the labels themselves where all are equal.

    Raises:
        ValueError: shapes that do not fit, or NaN or infinite latents.
    """
    if latents.ndim != 2 or labels.shape != latents.shape[:1]:
        raise ValueError(f"latents (N, D) and labels (N,), got {tuple(latents.shape)} and {tuple(labels.shape)}")
    if not torch.isfinite(latents).all():
        raise ValueError("latents hold NaN or infinity")
    labels = labels.detach().cpu().bool()
    if labels.all() or not labels.any():
        return labels
    offset = torch.ones(len(labels), 1, dtype=torch.float64)
    points = torch.cat([latents.detach().cpu().double(), offset], dim=1).numpy()
    signs = np.where(labels.numpy(), 1.0, -1.0)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        missing = np.maximum(1 - signs * (points @ weights), 0)
        value = 0.5 * weights @ weights + penalty * missing @ missing
        return float(value), weights - 2 * penalty * points.T @ (signs * missing)

    found = optimize.minimize(
        loss, np.zeros(points.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": max_steps, "gtol": 1e-6}
    )
    return torch.from_numpy(points @ found.x > 0)


@METRICS.register("separability")
class LinearSeparability(ProbeMetric):
    """Linear separability of a model's latent space (Karras et al. 2019, arXiv 1812.04948, section 4.2).

    A classifier says of each sample which attributes it has; for each attribute a hyperplane in latent space is fitted
    to the samples that the classifier is surest of. The value is ``2^(sum of H(attribute | side))``, at least 1; the
    entropies are in the details. The paper's classifiers of faces come as pickles only, so that one must be supplied.

    Args:
        classifier: an extractor that classifies, by its name or dotted path; its logits ``(N, A)`` are those of A
            attributes, each above 0 where a video (or frame) has it.
        weights: of the classifier.
        latent: which of the model's latents is looked at; its first by default.
        num_samples: videos that are made; 200,000 in the paper.
        keep: of these, for each attribute, those that the classifier is surest of; half in the paper.
        num_frames: frames of a video; None takes the training length.
        batch_size: videos that are made at once, which share a draw of the noise in the layers, if there is any.
        seed: of the latents and of the noise.
    """

    name = "separability"
    higher_is_better = False

    def __init__(
        self,
        *,
        classifier: str = "",
        weights: str = "auto",
        latent: str = "",
        num_samples: int = 200_000,
        keep: int = 100_000,
        num_frames: int | None = None,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not classifier:
            raise UserError("separability: needs a classifier of attributes; name an extractor that classifies")
        if not 1 <= keep <= num_samples or batch_size < 1:
            raise UserError(f"separability: keep is {keep} of num_samples {num_samples}; it must be 1 to {num_samples}")
        self.__dict__["classifier"] = shared_extractor(classifier, weights=weights)
        if not self.classifier.classifies:
            raise UserError(f"separability: {classifier} does not classify; name an extractor that does")
        self.latent, self.num_samples, self.keep = latent, num_samples, keep
        self.num_frames, self.batch_size, self.seed = num_frames, batch_size, seed
        # Rows for all samples: processes fill their own, and the sum over processes is the whole.
        self.add_state("latents", torch.zeros(num_samples, 0), dist_reduce_fx="sum")
        self.add_state("logits", torch.zeros(num_samples, 0), dist_reduce_fx="sum")
        self.add_state("measured", torch.tensor(0), dist_reduce_fx="sum")

    classifier: Extractor
    latents: Tensor
    logits: Tensor
    measured: Tensor

    @property
    def label(self) -> str:
        """The registered name; with ``_random_<classifier>`` where the classifier's weights are random."""
        random = self.classifier.weights.name == "random"
        return f"{self.name}_random_{self.classifier.name}" if random else self.name

    def warnings(self) -> list[str]:
        """Says when the classifier's weights are not the published ones."""
        return warnings_of_weights(self, self.name, self.classifier)

    @torch.no_grad()
    def measure(self, model: VideoModel) -> None:
        """Sample and classify; this process takes its share of the samples.

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
        # The first batch, whoever's it is, tells the sizes.
        for first in [*range(rank * self.batch_size, self.num_samples, size * self.batch_size)] or [self.num_samples]:
            count = min(self.batch_size, self.num_samples - first)
            latents, logits = self._sampled(model, first, max(count, 1))
            if not self.latents.shape[1]:
                self.latents = self.latents.new_zeros(self.num_samples, latents.shape[1])
                self.logits = self.logits.new_zeros(self.num_samples, logits.shape[1])
            self.latents[first : first + count] = latents[:count].to(self.latents)
            self.logits[first : first + count] = logits[:count].to(self.logits)
            self.measured += count
        self._update_count = max(1, self._update_count)  # torchmetrics knows of `update` alone

    def update(self, model: VideoModel) -> None:
        """Same as :meth:`measure`."""
        self.measure(model)

    def result(self) -> tuple[float, Details]:
        """See :meth:`VideoMetric.result`; needs :meth:`measure`."""
        if int(self.measured) != self.num_samples:
            done = f"{int(self.measured)} of {self.num_samples} samples were made"
            raise ValueError(f"separability: {done}; call measure(model)")
        tables = []
        for attribute in self.logits.T:
            surest = attribute.abs().argsort(descending=True, stable=True)[: self.keep]
            tables.append(separation_table(self.latents[surest], attribute[surest] > 0))
        stacked = torch.stack(tables)
        return float(linear_separability(stacked)), {"entropies_bits": conditional_entropy(stacked).tolist()}

    def protocol(self) -> dict[str, Any]:
        """All settings, and the classifier."""
        names = ["latent", "num_samples", "keep", "num_frames", "batch_size", "seed"]
        settings = {name: getattr(self, name) for name in names}
        return {**super().protocol(), **settings, "classifier": self.classifier.describe()}

    def _sampled(self, model: Any, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Latents ``(count, D)`` and logits ``(count, A)``."""
        seed = derive_seed(self.seed, "separability")
        found = model.sample_latents(count, num_frames=self.num_frames, seed=seed, first=first)
        name = chosen_latent(self.name, found, self.latent)
        latents = found if isinstance(found, Tensor) else found[name]
        with noise_from(NoiseStream(derive_seed(self.seed, "separability", "noise", first), latents.device)):
            made = model.decode(found)
        videos = to_uint8(made.float())
        logits = self.classifier.logits(videos[:, :, None] if videos.ndim == 4 else videos)
        return latents.flatten(1), logits.view(count, -1, logits.shape[-1]).mean(1)

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> Module:
        super()._apply(fn, exclude_state)
        self.classifier.to(self.device)
        return self
