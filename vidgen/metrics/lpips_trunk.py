"""The network of LPIPS, from a weight file and without a download at construction.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
2018, arXiv:1801.03924. Network and linear heads (version 0.1) are torchmetrics', the trunk under them is torchvision's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn

# The public class of torchmetrics downloads its trunk when it is made and takes no file.
from torchmetrics.functional.image.lpips import _NoTrainLpips

from vidgen.errors import UserError, did_you_mean
from vidgen.metrics.extractors.base import Weights, frozen, give_weights
from vidgen.weights import VGG16, WeightFile

Net = Literal["alex", "vgg", "squeeze"]

FILES: dict[str, WeightFile] = {
    "alex": WeightFile(
        name="alexnet-owt-7be5be79.pth",
        url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        size=244_408_911,
        checksum="sha256:7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        licence="BSD-3-Clause",
    ),
    "vgg": VGG16,
    "squeeze": WeightFile(
        name="squeezenet1_1-b8a52dc0.pth",
        url="https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
        size=None,
        checksum="sha256:b8a52dc0",
        licence="BSD-3-Clause",
    ),
}
"""torchvision's trunks; the beginnings of their checksums are in their names."""
MIN_SIDE: dict[str, int] = {"alex": 31, "vgg": 16, "squeeze": 17}
"""Smallest height and width at which every layer has a place left, pixels."""


class LpipsNetwork(nn.Module):
    """Distance of images as a network sees them; made by :func:`lpips_network`.

    It stays in eval mode whatever module holds it.

    Args:
        net: its trunk.
        network: torchmetrics' network with all weights, none of which takes gradients.
        weights: which weights the trunk has.
    """

    def __init__(self, net: Net, network: nn.Module, weights: Weights) -> None:
        super().__init__()
        self.net = net
        self.network = network
        self.weights = weights
        self.train(False)

    @frozen
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances of pairs of images; 0 for equal ones, and the same for a pair turned round.

        Args:
            first, second: floating ``(N, 3, H, W)`` in [-1, 1].

        Returns:
            float32 ``(N,)``.

        Raises:
            TypeError: they are not floating.
            ValueError: they differ in shape, are no images, are too small, or leave [-1, 1].
        """
        if first.shape != second.shape:
            raise ValueError(f"lpips: takes pairs of equal shapes, not {tuple(first.shape)} and {tuple(second.shape)}")
        for images in (first, second):
            self._check(images)
        return self.network(first.float(), second.float()).flatten()

    def train(self, mode: bool = True) -> LpipsNetwork:
        """Stay in eval mode."""
        return super().train(False)

    def settings(self) -> dict[str, Any]:
        """What tells two networks apart whose distances must not be compared, as plain values."""
        return {"net": self.net, "heads": "0.1", "range": "[-1, 1]", "precision": "float32"}

    def _check(self, images: Tensor) -> None:
        if not images.is_floating_point():
            raise TypeError(f"lpips: takes floating images in [-1, 1], not {images.dtype}")
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"lpips: takes images (N, 3, H, W), not {tuple(images.shape)}")
        least = MIN_SIDE[self.net]
        if min(images.shape[2:]) < least:
            size = f"{images.shape[2]}x{images.shape[3]}"
            raise ValueError(f"lpips: {self.net} needs images of at least {least}x{least} pixels, not {size}")
        if not bool(((images >= -1) & (images <= 1)).all()):
            raise ValueError("lpips: takes images in [-1, 1], and these are not or hold NaN")


def lpips_network(net: Net, weights: str | Path = "auto") -> LpipsNetwork:
    """Build the network of LPIPS with its published heads.

    Args:
        net: the trunk: ``alex``, with which evaluations are published, ``vgg`` (perceptual path length) or
            ``squeeze``.
        weights: of the trunk: ``auto`` for the cached or downloaded file of torchvision, ``random`` for closed-form
            ones whose numbers compare with no others, or the path of a file with torchvision's names.

    Raises:
        UserError: an unknown trunk, or a weight file that cannot be used.
    """
    if net not in get_args(Net):
        raise UserError(
            f"lpips: unknown net {net!r}{did_you_mean(net, get_args(Net))} (known: {', '.join(get_args(Net))})"
        )
    network = _NoTrainLpips(net=net, pnet_rand=True)  # random: without torchvision's download
    given = give_weights(network.net, FILES[net], weights, lambda state: _from_torchvision(state, network.net))
    return LpipsNetwork(net, network.float(), given)  # its constants are of torch.set_default_dtype


def _from_torchvision(state: Mapping[str, Tensor], trunk: nn.Module) -> dict[str, Tensor]:
    """The trunk's weights under the names of torchmetrics, which cuts it into slices; classes are left out."""
    ours = {re.sub(r"^(slice\d+|slices\.\d+)\.", "features.", key): key for key in trunk.state_dict()}
    return {ours.get(key, key): value for key, value in state.items() if not key.startswith("classifier.")}
