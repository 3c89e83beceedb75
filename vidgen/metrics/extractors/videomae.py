"""VideoMAE v2 ViT-g/14, the network of the content-debiased Fréchet video distance.

Wang et al., "VideoMAE V2: Scaling Video Masked Autoencoders with Dual Masking", CVPR 2023, arXiv:2303.16727, fine-tuned
on Something-Something v2; as a measure of generated videos: Ge et al., "On the Content Bias in Fréchet Video Distance",
CVPR 2024, arXiv:2404.12391. Its features react to motion where those of Inception-I3D are mostly about single frames.

The blocks are timm's. What is here and not there: patches that reach over two frames, fixed positions (Vaswani et al.
2017, section 3.5, over all places of the clip counted through), and the names in the official file, in which keys have
no bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vidgen.metrics.extractors import EXTRACTORS
from vidgen.metrics.extractors.base import Extractor, check_videos, frozen, give_weights
from vidgen.metrics.preprocessing import PROTOCOLS
from vidgen.weights import WeightFile

FILE = WeightFile(
    name="vit_g_hybrid_pt_1200e_ssv2_ft.pth",
    url="https://huggingface.co/OpenGVLab/VideoMAE2/resolve/main/mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth",
    size=2_023_804_201,
    # Stated nowhere by the authors; the public repositories that pin the file agree on it.
    checksum="sha256:5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70",
    licence="Apache-2.0",
)
FRAMES = 16
TUBELET = 2
"""Frames that a patch reaches over."""
SIZE = PROTOCOLS["videomae"].height
"""Height and width of what the network sees, pixels."""


@dataclass(frozen=True)
class Architecture:
    """Sizes of a vision transformer.

    Args:
        width: of a token.
        depth: number of blocks.
        heads: of the attention.
        hidden: width of the perceptrons' inner layer.
        patch: height and width of a patch, pixels.
    """

    width: int = 1408
    depth: int = 40
    heads: int = 16
    hidden: int = 6144
    patch: int = 14


@EXTRACTORS.register("videomae")
class VideoMAE(Extractor):
    """Normalised mean of the last block's tokens of VideoMAE v2 ViT-g/14.

    Frames are resized to 224x224, both sides stretched, bilinearly with pixel centres at half coordinates and without
    antialiasing, and 0 .. 255 becomes 0 .. 1; there is no mean and no standard deviation.

    Args:
        weights: ``auto`` for the cached or downloaded official file, ``random`` for closed-form weights whose numbers
            compare with no others, or the path of a file with the official names.
        arch: sizes of the network; another than the published metric's has other features.

    Raises:
        UserError: a weight file that cannot be used.
    """

    name = "videomae"
    min_frames = FRAMES

    def __init__(self, weights: str | Path = "auto", arch: Architecture = Architecture()) -> None:
        super().__init__()
        self.arch = arch
        self.num_features = arch.width
        self.preprocessing = PROTOCOLS["videomae"]
        with torch.device("meta"):
            network = build(arch)
        self.weights = give_weights(network, FILE, weights, from_official)
        self.network = network
        self.freeze()

    @frozen
    def forward(self, videos: Tensor) -> Tensor:
        """Features, see :class:`Extractor`: float32 ``(B, 1408)`` of videos with exactly 16 frames.

        Raises:
            ValueError: also with more frames.
        """
        videos = check_videos(videos, extractor=self.name)
        if videos.shape[2] != FRAMES:
            raise ValueError(f"videomae: takes videos of exactly {FRAMES} frames, got {videos.shape[2]}")
        return self.network(self.preprocessing(videos))

    def settings(self) -> dict[str, Any]:
        """See :meth:`Extractor.settings`."""
        return {
            "network": asdict(self.arch),
            "layer": "norm of the mean of the last tokens",
            "preprocessing": self.preprocessing.describe(),
            "frames": FRAMES,
            "precision": "float32",
        }


class TubeletEmbedding(nn.Module):
    """Patches that reach over several frames, and where they are.

    Args:
        img_size: height and width of a frame, pixels.
        patch_size: height and width of a patch, pixels.
        in_chans: channels.
        embed_dim: width of a token.
        bias: whether the projection has one.
        dynamic_img_pad: asked for by timm's transformer; frames of another size are not padded.
        num_frames: of a clip.
        tubelet: frames that a patch reaches over.
    """

    positions: Tensor

    def __init__(
        self,
        img_size: int,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        bias: bool = True,
        dynamic_img_pad: bool = False,
        *,
        num_frames: int = FRAMES,
        tubelet: int = TUBELET,
        **factory: Any,
    ) -> None:
        super().__init__()
        size = (tubelet, patch_size, patch_size)
        self.num_patches = (num_frames // tubelet) * (img_size // patch_size) ** 2
        self.proj = nn.Conv3d(in_chans, embed_dim, kernel_size=size, stride=size, bias=bias, **factory)
        self.register_buffer("positions", sinusoids(self.num_patches, embed_dim), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``(B, C, T, H, W)`` to tokens ``(B, L, D)``, by time, then row, then column."""
        return self.proj(clips).flatten(2).transpose(1, 2) + self.positions


def sinusoids(places: int, width: int) -> Tensor:
    """Fixed position embeddings: sines at even entries and cosines at odd ones, of wavelengths 2π to 10000 * 2π.

    Returns:
        float32 ``(places, width)``.
    """
    pairs = np.arange(width) // 2
    angles = np.arange(places)[:, None] / 10000 ** (2 * pairs / width)  # (L, D)
    # From NumPy, so that it is there also where the network is built on the meta device.
    return torch.from_numpy(np.where(np.arange(width) % 2 == 0, np.sin(angles), np.cos(angles))).float()


def build(arch: Architecture) -> VisionTransformer:
    """The network without weights, for clips of 16 frames of 224x224 in [0, 1]."""
    return VisionTransformer(
        img_size=SIZE,
        patch_size=arch.patch,
        num_classes=0,
        global_pool="avg",
        embed_dim=arch.width,
        depth=arch.depth,
        num_heads=arch.heads,
        mlp_ratio=arch.hidden / arch.width,
        qkv_bias=True,
        class_token=False,
        pos_embed="none",
        fc_norm=True,
        embed_layer=TubeletEmbedding,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names of an official file, as the network takes them.

    The classes are left out. Queries and values have a bias each; keys have none, which is a zero in the joint one.

    Args:
        state: name to tensor.
    """
    converted = {}
    for key, value in state.items():
        unit, _, last = key.rpartition(".")
        queries, values = state.get(f"{unit}.q_bias"), state.get(f"{unit}.v_bias")
        if last in ("q_bias", "v_bias") and queries is not None and values is not None:
            converted[f"{unit}.qkv.bias"] = torch.cat([queries, torch.zeros_like(queries), values])
        elif unit != "head":
            converted[key] = value
    return converted
