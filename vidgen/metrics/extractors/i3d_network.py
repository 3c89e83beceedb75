"""Inception-I3D, the network behind the Fréchet video distance.

"Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset", Joao Carreira and Andrew Zisserman, 2017
(arXiv:1705.07750). Inception-v1 with every filter inflated to three dimensions.

Where this follows the official code rather than the paper:
- padding is TensorFlow's "SAME", from the actual size, with the odd pixel at the end;
- the second branch with a large filter is 3x3x3, not 5x5x5;
- the embedding is the class scores before the softmax, averaged over time.

:class:`InceptionI3D` is the network as published, with each intermediate result within reach; :class:`FastInceptionI3D`
computes the same embedding faster.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidgen.metrics.extractors.winograd import conv3d_winograd, transformed_filters

SIDE = 224
"""Height and width of the input, pixels."""
MIN_FRAMES = 9
"""With fewer, the average pool over two of the remaining ceil(T / 8) times has nothing to look at."""
Triple = tuple[int, int, int]

MIXED: dict[str, tuple[int, ...]] = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Widths of the convolutions b0, b1a, b1b, b2a, b2b, b3b of the Inception modules."""

WIDE = ("Conv3d_2c_3x3", "Mixed_3b", "Mixed_3c")
"""Stages whose maps have sides of 56 and 28 pixels, divisible by the tiles of :mod:`winograd`."""


def same_padding(size: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """TensorFlow's "SAME": zeros before and behind each axis, so that ``ceil(n / stride)`` results come out."""
    pads = []
    for length, width, step in zip(size, kernel, stride, strict=True):
        total = max((math.ceil(length / step) - 1) * step + width - length, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad the last three axes of ``x`` with zeros by :func:`same_padding`."""
    pads = same_padding(x.shape[-3:], kernel, stride)
    return F.pad(x, [amount for pair in reversed(pads) for amount in pair])


def check_input(x: Tensor) -> None:
    """Check that clips can go through the network.

    Raises:
        ValueError: not float ``(B, 3, T, 224, 224)``, or T below 9.
    """
    if x.ndim != 5 or tuple(x.shape[-2:]) != (SIDE, SIDE):
        raise ValueError(f"I3D takes clips (B, C, T, {SIDE}, {SIDE}), not {tuple(x.shape)}")
    if x.shape[2] < MIN_FRAMES:
        raise ValueError(f"I3D needs clips of at least {MIN_FRAMES} frames, got {x.shape[2]}")


class Unit3D(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel: int = 1, stride: int = 1, eps: float = 1e-3) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv3d(pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))))


class MaxPool(nn.Module):
    """Maximum over windows with "SAME" padding; zeros stand beyond the border, as everything follows a ReLU."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool3d(pad_same(x, self.kernel, self.stride), self.kernel, self.stride)


class Mixed(nn.Module):
    """Inception module: four branches side by side."""

    def __init__(self, in_channels: int, widths: Sequence[int], eps: float) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = Unit3D(in_channels, b0, eps=eps)
        self.b1a = Unit3D(in_channels, b1a, eps=eps)
        self.b1b = Unit3D(b1a, b1b, 3, eps=eps)
        self.b2a = Unit3D(in_channels, b2a, eps=eps)
        self.b2b = Unit3D(b2a, b2b, 3, eps=eps)
        self.b3a = MaxPool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(in_channels, b3b, eps=eps)
        self.channels = b0 + b1b + b2b + b3b

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], 1)


class InceptionI3D(nn.Module):
    """Inception-I3D with the parameter names of the common PyTorch port (piergiaj/pytorch-i3d).

    Args:
        num_classes: 400 for Kinetics-400.
        in_channels: 3 for RGB.
        eps: of batch normalisation; 1e-3 in the original, 1e-5 in some ports.
    """

    def __init__(self, num_classes: int = 400, in_channels: int = 3, eps: float = 1e-3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.Conv3d_1a_7x7 = Unit3D(in_channels, 64, 7, 2, eps)
        self.MaxPool3d_2a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64, eps=eps)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3, eps=eps)
        self.MaxPool3d_3a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        channels = 192
        for name, widths in MIXED.items():
            if name == "Mixed_4b":
                self.MaxPool3d_4a_3x3 = MaxPool((3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                self.MaxPool3d_5a_2x2 = MaxPool((2, 2, 2), (2, 2, 2))
            mixed = Mixed(channels, widths, eps)
            self.add_module(name, mixed)
            channels = mixed.channels
        self.logits = nn.Sequential(OrderedDict(conv3d=nn.Conv3d(channels, num_classes, 1)))

    def endpoints(self, x: Tensor) -> dict[str, Tensor]:
        """Every intermediate result.

        Args:
            x: float ``(B, 3, T, 224, 224)`` in about [-1, 1].

        Returns:
            Results by the official names, in order: convolutions, max pools and Inception modules up to ``Mixed_5c``,
            then ``AvgPool`` ``(B, 1024, T', 1, 1)`` and ``Logits`` ``(B, classes, T')`` with ``T' = ceil(T / 8) - 1``.

        Raises:
            ValueError: another size, or fewer than 9 frames.
        """
        check_input(x)
        results: dict[str, Tensor] = {}
        for name, module in self.named_children():
            if name != "logits":
                x = results[name] = module(x)
        results["AvgPool"] = F.avg_pool3d(x, (2, 7, 7), stride=1)
        results["Logits"] = self.logits(results["AvgPool"]).flatten(2)
        return results

    def forward(self, x: Tensor) -> Tensor:
        """Embedding ``(B, classes)`` of clips: the scores before the softmax, averaged over time."""
        return self.endpoints(x)["Logits"].mean(2)


@torch.no_grad()
def folded(unit: Unit3D) -> tuple[Tensor, Tensor]:
    """Weight and bias of the one convolution that a unit in eval mode amounts to."""
    bn = unit.bn
    assert bn.running_mean is not None and bn.running_var is not None
    scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    weight = unit.conv3d.weight.double() * scale.view(-1, 1, 1, 1, 1)
    return weight.float(), (bn.bias.double() - bn.running_mean.double() * scale).float()


# An operation of its own because what torch.compile makes of a max pool takes three times as long.
@torch.library.custom_op("vidgen::max_pool_same", mutates_args=())
def max_pool_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Maximum over windows with "SAME" padding, without a padded copy.

    Nothing stands beyond the border: in front by the pool's own padding, behind because sizes are rounded up.
    """
    front = [before for before, _ in same_padding(x.shape[-3:], kernel, stride)]
    x = x.contiguous(memory_format=torch.channels_last_3d)
    return F.max_pool3d(x, list(kernel), list(stride), front, ceil_mode=True)


@max_pool_same.register_fake
def _(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    size = [math.ceil(length / step) for length, step in zip(x.shape[-3:], stride, strict=True)]
    shape = (*x.shape[:2], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last_3d)


class FastConv(nn.Module):
    """Convolution with bias and ReLU: units that look at the same input, side by side."""

    weight: Tensor
    bias: Tensor

    def __init__(self, *units: Unit3D) -> None:
        super().__init__()
        weights, biases = zip(*map(folded, units), strict=True)
        self.kernel, self.stride = units[0].conv3d.kernel_size, units[0].conv3d.stride
        self.register_buffer("weight", torch.cat(weights).contiguous(memory_format=torch.channels_last_3d))
        self.register_buffer("bias", torch.cat(biases))

    def forward(self, x: Tensor) -> Tensor:
        pads = same_padding(x.shape[-3:], self.kernel, self.stride)
        if all(front == back for front, back in pads):
            return F.conv3d(x, self.weight, self.bias, self.stride, [front for front, _ in pads]).relu_()
        return F.conv3d(pad_same(x, self.kernel, self.stride), self.weight, self.bias, self.stride).relu_()


class WideConv(FastConv):
    """3x3x3 convolution of the first stages, where most of the arithmetic is."""

    filters: Tensor

    def __init__(self, unit: Unit3D) -> None:
        super().__init__(unit)
        self.register_buffer("filters", transformed_filters(self.weight))

    def forward(self, x: Tensor) -> Tensor:
        # bfloat16 is too coarse for the transformed tiles, and other devices have convolutions of this kind.
        if x.dtype == torch.float32 and x.device.type == "cpu":
            return conv3d_winograd(x, self.filters, self.bias).relu_()
        return super().forward(x)


class FastMixed(nn.Module):
    """Inception module whose three 1x1x1 convolutions of the input are one."""

    def __init__(self, mixed: Mixed, wide: bool) -> None:
        super().__init__()
        first = (mixed.b0, mixed.b1a, mixed.b2a)
        self.first, self.widths = FastConv(*first), [unit.conv3d.out_channels for unit in first]
        self.b1b = WideConv(mixed.b1b) if wide else FastConv(mixed.b1b)
        self.b2b, self.b3b = FastConv(mixed.b2b), FastConv(mixed.b3b)
        self.pool = mixed.b3a

    def forward(self, x: Tensor) -> Tensor:
        b0, b1, b2 = self.first(x).split(self.widths, 1)
        b3 = max_pool_same(x, self.pool.kernel, self.pool.stride)
        return torch.cat([b0, self.b1b(b1), self.b2b(b2), self.b3b(b3)], 1)


class FastInceptionI3D(nn.Module):
    """The embedding of :class:`InceptionI3D` in eval mode, for inference only.

    Batch normalisation is part of the convolutions, channels are last in memory, and the borders are padded inside the
    operations where these can. The pool and the class scores are computed in float32.

    Args:
        network: where the weights come from; it is left as it is.
        dtype: of the convolutions.
    """

    logits: nn.Module

    def __init__(self, network: InceptionI3D, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        for name, module in network.named_children():
            if isinstance(module, Unit3D):
                self.add_module(name, (WideConv if name in WIDE else FastConv)(module).to(dtype))
            elif isinstance(module, Mixed):
                self.add_module(name, FastMixed(module, name in WIDE).to(dtype))
            else:
                self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        """Embedding of clips.

        Args:
            x: float ``(B, 3, T, 224, 224)`` in about [-1, 1].

        Returns:
            float32 ``(B, classes)``: the scores before the softmax, averaged over time.

        Raises:
            ValueError: another size, or fewer than 9 frames.
        """
        check_input(x)
        x = x.to(self.dtype).contiguous(memory_format=torch.channels_last_3d)
        for name, module in self.named_children():
            if isinstance(module, MaxPool):
                x = max_pool_same(x, module.kernel, module.stride)
            elif name != "logits":
                x = module(x)
        pooled = F.avg_pool3d(x.float(), (2, 7, 7), stride=1)  # (B, 1024, T', 1, 1)
        logits: Tensor = self.logits(pooled)
        return logits.flatten(2).mean(2)
