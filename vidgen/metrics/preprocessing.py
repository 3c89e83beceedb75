"""From videos as bytes to what a network sees: the resize, crop and range rules behind published numbers.

Three functions are called "bilinear resize" and give three different numbers: that of TensorFlow 1, with the source at
``dst * in / out``; the one with pixel centres at ``(dst + 0.5) * in / out - 0.5``; and the latter with a filter that
widens when it shrinks (antialias). All work on floats; nothing is rounded to bytes in between.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from vidgen.errors import UserError, did_you_mean

Resize = Literal["tf1", "half_pixel", "antialias"]
Crop = Literal["stretch", "short_side_center"]


def resize_tf1(frames: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize as TensorFlow 1 does it without ``align_corners``: ``src = dst * in / out``.

    Args:
        frames: float ``(N, C, H, W)``.
        height, width: of the result, pixels.

    Returns:
        ``(N, C, height, width)``.
    """
    # With one more row and column on both sides, the rule that aligns the corners has the same ratio in / out.
    repeated = F.pad(frames, (0, 1, 0, 1), mode="replicate")
    larger = F.interpolate(repeated, size=(height + 1, width + 1), mode="bilinear", align_corners=True)
    return larger[..., :height, :width]


def resize_half_pixel(frames: Tensor, height: int, width: int, antialias: bool = False) -> Tensor:
    """Bilinear resize with pixel centres at half coordinates, as PyTorch does it without ``align_corners``.

    Args:
        frames: float ``(N, C, H, W)``.
        height, width: of the result, pixels.
        antialias: let the filter grow with the scale where the frames shrink.

    Returns:
        ``(N, C, height, width)``.
    """
    return F.interpolate(frames, size=(height, width), mode="bilinear", align_corners=False, antialias=antialias)


@dataclass(frozen=True)
class Preprocessing:
    """How frames are brought to the size and range of a network.

    Args:
        resize: ``tf1``, ``half_pixel`` or ``antialias``, see the module.
        crop: ``stretch`` scales both sides, each by its own factor; ``short_side_center`` scales the frame until it
            just covers the result (the longer side rounded up) and cuts out the centre (offsets rounded down).
        low, high: what 0 and 255 become.
        height, width: of the result, pixels.

    Raises:
        UserError: an unknown rule.
    """

    resize: Resize = "tf1"
    crop: Crop = "stretch"
    low: float = -1.0
    high: float = 1.0
    height: int = 224
    width: int = 224

    def __post_init__(self) -> None:
        for what, value, known in (("resize", self.resize, get_args(Resize)), ("crop", self.crop, get_args(Crop))):
            if value not in known:
                hint = did_you_mean(value, known)
                raise UserError(f"unknown {what} rule {value!r}{hint} (known: {', '.join(known)})")

    def __call__(self, videos: Tensor) -> Tensor:
        """Resize, crop and scale videos.

        Args:
            videos: uint8 ``(B, C, T, H, W)``.

        Returns:
            float32 ``(B, C, T, height, width)``, from ``low`` to ``high``.

        Raises:
            TypeError: the videos are not uint8; what 255 is would have to be guessed.
            ValueError: not five axes.
        """
        if videos.dtype != torch.uint8:
            raise TypeError(f"preprocessing: takes uint8 videos in 0 .. 255, not {videos.dtype}")
        if videos.ndim != 5:
            raise ValueError(f"preprocessing: takes videos (B, C, T, H, W), not {tuple(videos.shape)}")
        batch, _, length, height, width = videos.shape
        frames = videos.transpose(1, 2).flatten(0, 1).float()  # (B * T, C, H, W)
        resized = self._resized(frames, *self._scaled_size(height, width))
        top, left = (resized.shape[-2] - self.height) // 2, (resized.shape[-1] - self.width) // 2
        cropped = resized[..., top : top + self.height, left : left + self.width]
        scaled = cropped * ((self.high - self.low) / 255) + self.low
        return scaled.unflatten(0, (batch, length)).transpose(1, 2)

    def describe(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)

    def _resized(self, frames: Tensor, height: int, width: int) -> Tensor:
        if self.resize == "tf1":
            return resize_tf1(frames, height, width)
        return resize_half_pixel(frames, height, width, antialias=self.resize == "antialias")

    def _scaled_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which frames are scaled before their centre is cut out."""
        if self.crop == "stretch":
            return self.height, self.width
        # The factor is rounded to a float before it is multiplied, as in the published code, which now and then gives
        # a pixel more than the exact quotient would.
        if height * self.width < width * self.height:
            return self.height, math.ceil(width * (self.height / height))
        return math.ceil(height * (self.width / width)), self.width


PROTOCOLS: dict[str, Preprocessing] = {
    "original": Preprocessing(resize="tf1"),
    "tats": Preprocessing(resize="half_pixel"),
    "videogpt": Preprocessing(resize="half_pixel", crop="short_side_center"),
    "styleganv": Preprocessing(resize="half_pixel"),
    "videomae": Preprocessing(resize="half_pixel", low=0.0, high=1.0),
}
"""What published protocols do: the original FVD (google-research), TATS, VideoGPT (also DIGAN), StyleGAN-V (the resize
is inside its network file) and content-debiased FVD with VideoMAE."""
