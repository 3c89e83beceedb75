"""Patch discriminators (pix2pixHD: Wang et al. 2018) of frames and of clips."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vidgen.layers.batch_norm import BatchNorm2d, BatchNorm3d

SLOPE = 0.2
KERNEL = 4
PADDING = 2
WIDEST = 512


class PatchDiscriminator(nn.Module):
    """Logits of overlapping patches, and the features of every stage.

    Stages 0 to ``layers - 1`` have stride 2, the two after them stride 1; channels double from stage to stage.

    Args:
        axes: 2 for frames, 3 for clips.
        channels: of a frame.
        width: channels of the first stage.
        layers: stages of stride 2.
    """

    def __init__(self, axes: int, channels: int, width: int, layers: int) -> None:
        super().__init__()
        convolution, norm = (nn.Conv2d, BatchNorm2d) if axes == 2 else (nn.Conv3d, BatchNorm3d)
        widths = [channels, width, *(min(width * 2**stage, WIDEST) for stage in range(1, layers + 1)), 1]
        self.stages = nn.ModuleList()
        for number in range(layers + 2):
            stage: Any = nn.Module()
            stride = 2 if number < layers else 1
            stage.convolution = convolution(widths[number], widths[number + 1], KERNEL, stride, PADDING)
            if 0 < number <= layers:
                stage.norm = norm(widths[number + 1])
            self.stages.append(stage)

    def forward(self, x: Tensor) -> list[Tensor]:
        """What each stage makes of ``(B, C, H, W)`` or ``(B, C, T, H, W)``; the last one are the logits."""
        found: list[Tensor] = []
        for number, stage in enumerate(self.stages):
            x = stage.convolution(x)  # type: ignore[operator]
            if hasattr(stage, "norm"):
                x = stage.norm(x)  # type: ignore[operator]
            if number < len(self.stages) - 1:
                x = F.leaky_relu(x, SLOPE)
            found.append(x)
        return found
