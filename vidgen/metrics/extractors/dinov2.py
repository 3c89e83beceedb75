"""DINOv2 ViT-L/14, the network of FD-DINOv2.

Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", 2023, arXiv:2304.07193; as a measure of
generated images: Stein et al., "Exposing flaws of generative model evaluation metrics and their unfair treatment of
diffusion models", NeurIPS 2023, arXiv:2306.04675. The network is timm's. What is here and not there:

- position embeddings are brought from 37x37 to 16x16 by the rule of the official network (bicubic without
  antialiasing, a tenth of a place added to the size before the scale is taken), which the published numbers come from;
  timm's loader would smooth them.
- frames are resized as the paper's code (layer6ai-labs/dgm-eval) does it: by PIL, on bytes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor

from vidgen.data.transforms import resize_frames, to_levels
from vidgen.errors import UserError
from vidgen.metrics.extractors import EXTRACTORS
from vidgen.metrics.extractors.base import Extractor, check_videos, frozen, give_weights
from vidgen.weights import WeightFile

FILE = WeightFile(
    name="dinov2_vitl14_pretrain.pth",
    url="https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    size=1_217_586_395,
    # Stated nowhere by the authors; many public repositories that pin the file agree on it.
    checksum="sha256:d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
    licence="Apache-2.0",
)
SIZE = 224
"""Height and width of what the network sees, pixels."""
OFFSET = 0.1
"""What the official network adds to the number of places in a row before it takes the scale of its interpolation."""
FRAMES_AT_ONCE = 32
"""Bounds the memory of a pass; the answer does not depend on it."""


@EXTRACTORS.register("dinov2")
class DinoV2(Extractor):
    """Class tokens of frames after the last norm of DINOv2 ViT-L/14.

    A frame is resized to 224x224, both sides stretched, by PIL's bicubic filter, and normalised by ImageNet's mean and
    standard deviation.

    Args:
        weights: ``auto`` for the cached or downloaded official file, ``random`` for closed-form weights whose numbers
            compare with no others, or the path of a file with the official or timm's names.
        arch: timm's name of the network; another than the published metric's has other features.

    Raises:
        UserError: timm has no such network, or a weight file that cannot be used.
    """

    name = "dinov2"
    per_frame = True

    def __init__(self, weights: str | Path = "auto", arch: str = "vit_large_patch14_dinov2") -> None:
        super().__init__()
        self.arch = arch
        with torch.device("meta"):
            network = build(arch)
        self.num_features = network.num_features
        self.weights = give_weights(network, FILE, weights, lambda state: from_official(state, network))
        self.network = network
        self.freeze()

    @frozen
    def forward(self, videos: Tensor) -> Tensor:
        """Features, see :class:`Extractor`: float32 ``(B * T, 1024)``."""
        videos = check_videos(videos, extractor=self.name)
        frames = videos.transpose(1, 2).flatten(0, 1)
        return torch.cat([self.network(self.preprocess(part)) for part in frames.split(FRAMES_AT_ONCE)])

    def preprocess(self, frames: Tensor) -> Tensor:
        """Frames as the network sees them.

        Args:
            frames: uint8 ``(N, 3, H, W)``.

        Returns:
            float32 ``(N, 3, 224, 224)``.
        """
        stored = frames.permute(0, 2, 3, 1).cpu().numpy()  # (N, H, W, 3)
        resized = to_levels(resize_frames(stored, SIZE, "stretch", interpolation="bicubic")).transpose(0, 1)
        mean, std = (
            torch.tensor(value, dtype=torch.float32)[:, None, None]
            for value in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        )
        return ((resized.float() / 255 - mean) / std).to(frames.device)

    def settings(self) -> dict[str, Any]:
        """See :meth:`Extractor.settings`."""
        return {
            "network": self.arch,
            "layer": "class token after the last norm",
            "position_embeddings": f"bicubic without antialias, offset {OFFSET}",
            "resize": "pil_bicubic",
            "crop": "stretch",
            "size": [SIZE, SIZE],
            "range": "x / 255",
            "mean": list(IMAGENET_DEFAULT_MEAN),
            "std": list(IMAGENET_DEFAULT_STD),
            "precision": "float32",
        }


def build(arch: str) -> VisionTransformer:
    """The network without weights, for frames of 224x224.

    Raises:
        UserError: timm has no vision transformer of that name.
    """
    if not timm.is_model(arch):
        raise UserError(f"dinov2: timm has no network {arch!r}")
    network = timm.create_model(arch, num_classes=0, img_size=SIZE)
    if not isinstance(network, VisionTransformer) or not network.has_class_token:
        raise UserError(f"dinov2: {arch!r} is no vision transformer with a class token")
    return network


def from_official(state: dict[str, Tensor], network: VisionTransformer) -> dict[str, Tensor]:
    """Weights of an official file, or of timm's, as the network takes them.

    Args:
        state: name to tensor, with a table of position embeddings of any square size.
        network: takes the weights.
    """
    named = dict(state)
    table = named.get("pos_embed")
    if table is not None and table.ndim == 3 and table.shape[1] > 1:
        named["pos_embed"] = resize_positions(table.float(), network.patch_embed.grid_size[0])
    return checkpoint_filter_fn(named, network)


def resize_positions(table: Tensor, side: int) -> Tensor:
    """Position embeddings for another number of places, as the official network interpolates them.

    Args:
        table: ``(1, 1 + S * S, D)``; the class token's is the first and stays what it is.
        side: places in a row of the result.

    Returns:
        ``(1, 1 + side * side, D)``.

    Raises:
        UserError: the table is of no square.
    """
    token, places = table[:, :1], table[:, 1:]
    given = math.isqrt(places.shape[1])
    if given * given != places.shape[1]:
        raise UserError(f"dinov2: position embeddings of {places.shape[1]} places, which are no square")
    if given == side:
        return table
    square = places.unflatten(1, (given, given)).permute(0, 3, 1, 2)  # (1, D, S, S)
    scale = (side + OFFSET) / given
    resized = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic", antialias=False)
    return torch.cat([token, resized.flatten(2).transpose(1, 2)], dim=1)
