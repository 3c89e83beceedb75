"""Inception-v3 of 2015-12-05, the network of FID, KID and the Inception Score of frames.

Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, "Rethinking the Inception Architecture for Computer Vision", 2015,
arXiv:1512.00567, in the version of TensorFlow's first image classification tutorial, which Salimans et al. (2016,
arXiv:1606.03498) and Heusel et al. (2017, arXiv:1706.08500) measured with: 1008 classes, average pools that leave the
padding out, and a maximum in the last block's pool. Torchvision's Inception-v3 is another network. The network is
torch-fidelity's; here are its weights without its download, and its use on videos.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d, FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from vidgen.errors import UserError
from vidgen.metrics.extractors import EXTRACTORS
from vidgen.metrics.extractors.base import Extractor, check_videos, frozen, give_weights
from vidgen.metrics.preprocessing import resize_half_pixel
from vidgen.weights import WeightFile

Layer = Literal["64", "192", "768", "2048"]

FILE = WeightFile(
    name="pt_inception-2015-12-05-6726825d.pth",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    size=95_628_359,
    checksum="sha256:6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    licence="Apache-2.0",
)
SIZE = 299
"""Height and width of what the network sees, pixels."""
FRAMES_AT_ONCE = 32
"""Bounds the memory of a pass; the answer does not depend on it."""

# The network's parts in their order, up to each layer of features.
_STAGES: dict[Layer, tuple[str, ...]] = {
    "64": ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    "192": ("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    "768": ("Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    "2048": ("Mixed_7a", "Mixed_7b", "Mixed_7c"),
}


class InceptionNetwork(FeatureExtractorInceptionV3):
    """The library's network, built without weights."""

    def __init__(self) -> None:
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        super().__init__("inception", ["2048"], feature_extractor_weights_path=nothing)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take weights; none at all, as the library's constructor is given above, are none to be missed."""
        return super().load_state_dict(state_dict, strict and bool(state_dict), assign)


@EXTRACTORS.register("inception")
class InceptionV3(Extractor):
    """Features of frames, of Inception-v3 in the version of 2015-12-05.

    A frame is resized to 299x299, both sides stretched, and 0 .. 255 becomes ``(x - 128) / 128``.

    Args:
        weights: ``auto`` for the cached or downloaded file of pytorch-fid and torch-fidelity, ``random`` for
            closed-form weights whose numbers compare with no others, or the path of a weight file.
        features: length of the features, which names their layer: ``2048`` is the last one, averaged over its 8x8
            places; the others are averages after the second maximum and before (``64``, ``192``), and before the last
            reduction (``768``).
        antialias: resize as torchmetrics does by default, where pixel centres are at half coordinates and the filter
            widens when it shrinks; published numbers are made with TensorFlow 1's resize, which does neither.

    Raises:
        UserError: an unknown layer, or a weight file that cannot be used.
    """

    name = "inception"
    per_frame = True
    classifies = True

    def __init__(self, weights: str | Path = "auto", features: Layer = "2048", antialias: bool = False) -> None:
        super().__init__()
        if features not in _STAGES:
            raise UserError(f"inception: unknown features {features!r} (known: {', '.join(get_args(Layer))})")
        self.layer, self.antialias = features, antialias
        self.num_features = int(features)
        with torch.device("meta"):
            network = InceptionNetwork()
        self.weights = give_weights(network, FILE, weights)
        self.network = _folded(network)
        self.freeze()

    def forward(self, videos: Tensor) -> Tensor:
        """Features, see :class:`Extractor`: float32 ``(B * T, D)``."""
        return torch.cat([self._pooled(frames, self.layer) for frames in self._frames(videos)])

    @frozen
    def logits(self, videos: Tensor) -> Tensor:
        """Class scores without the bias of the last layer, with which Inception Scores are made.

        Returns:
            float32 ``(B * T, 1008)``.
        """
        classes = self.network.get_parameter("fc.weight")  # (1008, 2048)
        return torch.cat([self._pooled(frames, "2048") @ classes.T for frames in self._frames(videos)])

    def preprocess(self, frames: Tensor) -> Tensor:
        """Frames as the network sees them.

        Args:
            frames: uint8 ``(N, 3, H, W)``.

        Returns:
            float32 ``(N, 3, 299, 299)`` in [-1, 1).
        """
        levels = frames.float()
        if self.antialias:
            resized = resize_half_pixel(levels, SIZE, SIZE, antialias=True)
        else:
            resized = interpolate_bilinear_2d_like_tensorflow1x(levels, size=(SIZE, SIZE), align_corners=False)
        return (resized - 128) / 128

    def settings(self) -> dict[str, Any]:
        """See :meth:`Extractor.settings`."""
        return {
            "layer": self.layer,
            "resize": "antialias" if self.antialias else "tf1",
            "crop": "stretch",
            "size": [SIZE, SIZE],
            "range": "(x - 128) / 128",
            "precision": "float32",
        }

    def _frames(self, videos: Tensor) -> tuple[Tensor, ...]:
        """uint8 ``(N, 3, H, W)`` each, video by video."""
        videos = check_videos(videos, extractor=self.name)
        return videos.transpose(1, 2).flatten(0, 1).split(FRAMES_AT_ONCE)

    @frozen
    def _pooled(self, frames: Tensor, layer: Layer) -> Tensor:
        """Averages over the places of a layer, ``(N, D)``."""
        x = self.preprocess(frames).contiguous(memory_format=torch.channels_last)
        for end, parts in _STAGES.items():
            for part in parts:
                x = self.network.get_submodule(part)(x)
            if end == layer:
                break
        return x.mean((2, 3))


def _folded(network: nn.Module) -> nn.Module:
    """Every BatchNorm multiplied into its convolution, in place, and weights laid out for fast convolutions."""
    for unit in network.modules():
        if isinstance(unit, BasicConv2d):
            unit.conv = fuse_conv_bn_eval(unit.conv.eval(), unit.bn.eval())
            unit.bn = nn.Identity()
    return network.to(memory_format=torch.channels_last)
