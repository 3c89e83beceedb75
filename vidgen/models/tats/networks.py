"""Encoder and decoder of the 3-D VQGAN: convolutions that pad as they are told, and residual blocks.

A frame's code must not say when the frame was: zeros beside the first and the last frame do, so that windows which
slide over a long video no longer look like the clips of training (paper, section 3.2). Repeating the edge says nothing.
As in the official code, against the paper: what pads the time axis pads the spatial axes too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from vidgen.layers.batch_norm import BatchNorm3d

Padding = Literal["replicate", "zero", "reflect", "circular"]
PADDINGS: tuple[Padding, ...] = ("replicate", "zero", "reflect", "circular")
Norm = Literal["batch", "group"]
GROUPS = 32
Size = tuple[int, int, int]


def pad_edges(x: Tensor, before: Sequence[int], after: Sequence[int], mode: Padding) -> Tensor:
    """Pad the last three axes of ``x`` ``(B, C, T, H, W)``.

    Args:
        x: what is padded.
        before: elements in front of each axis, in their order.
        after: elements behind each axis.
        mode: what they are.
    """
    if not any(before) and not any(after):
        return x
    amounts = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
    return F.pad(x, amounts, mode="constant" if mode == "zero" else mode)


def same_padding(kernel: Size, stride: Size) -> tuple[Size, Size]:
    """What makes the output ``size / stride`` long: elements before and behind each axis, the odd one before."""
    total = [k - s for k, s in zip(kernel, stride, strict=True)]
    before, after = tuple(p // 2 + p % 2 for p in total), tuple(p // 2 for p in total)
    return before, after  # type: ignore[return-value]


class PaddedConv3d(nn.Conv3d):
    """Convolution whose output is ``size / stride`` long; the size must be a multiple of the stride.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: size on all axes.
        stride: of each axis.
        mode: how the input is padded.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: Size = (1, 1, 1), mode: Padding = "replicate"
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride)
        self.mode: Padding = mode
        self.before, self.after = same_padding((kernel,) * 3, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to ``(B, C', T / s, H / s, W / s)``."""
        return super().forward(pad_edges(x, self.before, self.after, self.mode))


class PaddedConvTranspose3d(nn.ConvTranspose3d):
    """Transposed convolution whose output is ``size * stride`` long.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel: size on all axes.
        stride: of each axis.
        mode: how the input is padded.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: Size = (1, 1, 1), mode: Padding = "replicate"
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel - 1)
        self.mode: Padding = mode
        self.before, self.after = same_padding((kernel,) * 3, stride)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``(B, C, T, H, W)`` to ``(B, C', T * s, H * s, W * s)``."""
        return super().forward(pad_edges(x, self.before, self.after, self.mode), output_size)


def normalisation(channels: int, norm: Norm) -> nn.Module:
    """Batch norm with statistics of the global batch, or group norm, which mixes all time steps of a clip."""
    return BatchNorm3d(channels) if norm == "batch" else nn.GroupNorm(GROUPS, channels, eps=1e-6)


class ResBlock(nn.Module):
    """``x + conv(SiLU(norm(conv(SiLU(norm(x))))))``.

    Args:
        channels: of input and output.
        norm: which.
        mode: how convolutions pad.
    """

    def __init__(self, channels: int, norm: Norm, mode: Padding) -> None:
        super().__init__()
        self.norm1 = normalisation(channels, norm)
        self.conv1 = PaddedConv3d(channels, channels, 3, mode=mode)
        self.norm2 = normalisation(channels, norm)
        self.conv2 = PaddedConv3d(channels, channels, 3, mode=mode)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` to the same shape."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(hidden)))


def strides_of(downsample: Size) -> list[Size]:
    """Strides of each level: an axis that is halved n times is halved in the first n levels."""
    times = [factor.bit_length() - 1 for factor in downsample]
    return [tuple(2 if level < n else 1 for n in times) for level in range(max(times))]  # type: ignore[misc]


class Encoder(nn.Module):
    """Frames to features.

    Args:
        channels: of a frame.
        n_hiddens: channels of the first convolution; each level doubles them.
        downsample: by how much time, height and width shrink, powers of two.
        norm: of all layers.
        mode: how the convolutions outside residual blocks pad.
        block_mode: how those of residual blocks do.
    """

    def __init__(
        self, channels: int, n_hiddens: int, downsample: Size, norm: Norm, mode: Padding, block_mode: Padding
    ) -> None:
        super().__init__()
        self.first = PaddedConv3d(channels, n_hiddens, 3, mode=mode)
        self.levels = nn.ModuleList()
        width = n_hiddens
        for stride in strides_of(downsample):
            level: Any = nn.Module()
            level.down = PaddedConv3d(width, 2 * width, 4, stride, mode)
            level.res = ResBlock(2 * width, norm, block_mode)
            self.levels.append(level)
            width *= 2
        self.norm = normalisation(width, norm)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` in [-0.5, 0.5] to ``(B, n_hiddens * 2 ** levels, t, h, w)``."""
        x = self.first(x)
        for level in self.levels:
            x = level.res(level.down(x))  # type: ignore[operator]
        return F.silu(self.norm(x))


class Decoder(nn.Module):
    """Features to frames; not the mirror of the encoder: time grows first, and no level has fewer than 2 n_hiddens.

    Args:
        channels: of a frame.
        n_hiddens: as for :class:`Encoder`.
        downsample: as for :class:`Encoder`.
        norm: of all layers.
        mode: how convolutions pad.
    """

    def __init__(self, channels: int, n_hiddens: int, downsample: Size, norm: Norm, mode: Padding) -> None:
        super().__init__()
        strides = strides_of(downsample)
        width = n_hiddens * 2 ** len(strides)
        self.norm = normalisation(width, norm)
        self.levels = nn.ModuleList()
        for number, stride in enumerate(strides):
            out = n_hiddens * 2 ** (len(strides) - number)
            level: Any = nn.Module()
            level.up = PaddedConvTranspose3d(width, out, 4, stride, mode)
            level.res1 = ResBlock(out, norm, mode)
            level.res2 = ResBlock(out, norm, mode)
            self.levels.append(level)
            width = out
        self.last = PaddedConv3d(width, channels, 3, mode=mode)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, n_hiddens * 2 ** levels, t, h, w)`` to ``(B, C, T, H, W)``, nominally in [-0.5, 0.5]."""
        x = F.silu(self.norm(x))
        for level in self.levels:
            x = level.res2(level.res1(level.up(x)))  # type: ignore[operator]
        return self.last(x)


def fewest_padded(elements: int, mode: Padding) -> int:
    """The shortest axis that can be padded by some elements on a side."""
    return {"reflect": elements + 1, "circular": max(elements, 1)}.get(mode, 1)


def fewest_encoded(downsample: Size, mode: Padding, block_mode: Padding) -> Size:
    """Latents along each axis of the smallest video that :class:`Encoder` can pad; arguments as there."""
    levels = len(strides_of(downsample))
    # a level that leaves an axis as long as it is pads it by 2, at the length of the latents if it is the last one
    return tuple(  # type: ignore[return-value]
        max(fewest_padded(2 if 2**levels > factor else 0, mode), fewest_padded(1, block_mode)) for factor in downsample
    )


def fewest_decoded(downsample: Size, mode: Padding) -> Size:
    """Latents along each axis of the smallest video that :class:`Decoder` can pad; arguments as there."""
    return tuple(fewest_padded(2 if factor == 1 else 1, mode) for factor in downsample)  # type: ignore[return-value]


def encoder_reach(strides: Sequence[int]) -> tuple[int, int]:
    """Frames that a latent depends on: from ``s t - before`` to ``s t + after``, where s is the whole stride.

    Args:
        strides: along the time axis, of each level.
    """
    before = after = scale = 1  # of the first convolution
    for stride in strides:
        front, back = (1, 2) if stride == 2 else (2, 1)
        before, after = before + front * scale, after + back * scale
        scale *= stride
        before, after = before + 2 * scale, after + 2 * scale
    return before, after


def decoder_reach(strides: Sequence[int]) -> tuple[int, int]:
    """Latents that the frames of latent t depend on: from ``t - before`` to ``t + after``.

    Args:
        strides: along the time axis, of each level.
    """
    low, high = -1, math.prod(strides)  # the frames of latent 0 and, of the last convolution, one on each side
    for stride in reversed(strides):
        low, high = low - 4, high + 4
        if stride == 2:
            low, high = -(-low // 2) - 1, (high + 3) // 2 - 1
        else:
            low, high = low - 2, high + 1
    return -low, high
