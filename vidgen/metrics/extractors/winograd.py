"""3x3x3 convolutions with a quarter of the multiplications in height and width.

"Fast Algorithms for Convolutional Neural Networks", Andrew Lavin and Scott Gray, 2015 (arXiv:1509.09308): F(4x4, 3x3),
minimal filtering of tiles after Shmuel Winograd. Time is convolved as usual. Rounding errors are some three times those
of the plain sum.
"""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 4
"""Height and width of the outputs that are computed together, from one more pixel on each side."""
_FILTER = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
_INPUT = (
    (4.0, 0, -5, 0, 1, 0),
    (0.0, -4, -4, 1, 1, 0),
    (0.0, 4, -4, -1, 1, 0),
    (0.0, -2, -1, 2, 1, 0),
    (0.0, 2, -1, -2, 1, 0),
    (0.0, 4, 0, -5, 0, 1),
)
_OUTPUT = ((1.0, 1, 1, 1, 1, 0), (0.0, 1, -1, 2, -2, 0), (0.0, 1, 1, 4, 4, 0), (0.0, 1, -1, 8, -8, 1))


def transformed_filters(weight: Tensor) -> Tensor:
    """Filters for :func:`conv3d_winograd`.

    Args:
        weight: ``(D, C, 3, 3, 3)``.

    Returns:
        ``(36, 3, C, D)``: for each point of the transformed tile and each time a matrix.
    """
    transform = torch.tensor(_FILTER, dtype=torch.float64)
    points = torch.einsum("ai,bj,dctij->abtcd", transform, transform, weight.double())
    return points.flatten(0, 1).to(weight.dtype).contiguous()


@torch.library.custom_op("vidgen::conv3d_winograd", mutates_args=())
def conv3d_winograd(x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    """Convolution by 3x3x3 filters with one zero beyond each border.

    Args:
        x: float ``(B, C, T, H, W)`` with H and W divisible by 4.
        filters: of :func:`transformed_filters`.
        bias: ``(D,)``.

    Returns:
        ``(B, D, T, H, W)`` with the channels last in memory.

    Raises:
        ValueError: H or W that 4 does not divide.
    """
    if x.shape[3] % TILE or x.shape[4] % TILE:
        raise ValueError(f"conv3d_winograd: needs sides that {TILE} divides, got {x.shape[3]}x{x.shape[4]}")
    batch, channels, length, height, width = x.shape
    rows, columns, depth = height // TILE, width // TILE, len(bias)
    tiles, reach = rows * columns, TILE + 2
    to_points = torch.kron(x.new_tensor(_INPUT), x.new_tensor(_INPUT))  # (36 points, 36 pixels)
    to_pixels = torch.kron(x.new_tensor(_OUTPUT), x.new_tensor(_OUTPUT))  # (16 pixels, 36 points)
    padded = x.new_zeros(length + 2, height + 2, width + 2, channels)
    frame, row, column, _ = padded.stride()
    patches = padded.as_strided(
        (reach, reach, length + 2, rows, columns, channels), (row, column, frame, TILE * row, TILE * column, 1)
    )
    products = x.new_empty(reach**2, length * tiles, depth)
    result = x.new_empty(batch, length, height, width, depth)
    for clip, output in zip(x.permute(0, 2, 3, 4, 1), result, strict=True):  # (T, H, W, C), (T, H, W, D)
        padded[1:-1, 1:-1, 1:-1] = clip
        points = (to_points @ patches.reshape(reach**2, -1)).view(reach**2, -1, channels)  # (36, (T + 2) * tiles, C)
        for product, point, (before, now, after) in zip(products, points, filters, strict=True):
            # One point at a time, so that the sum over three times stays in the cache.
            torch.mm(point[: length * tiles], before, out=product)
            product.addmm_(point[tiles:-tiles], now)
            product.addmm_(point[2 * tiles :], after)
        pixels = (to_pixels @ products.flatten(1)).view(TILE, TILE, length, rows, columns, depth)
        torch.add(pixels.permute(2, 3, 0, 4, 1, 5), bias, out=output.view(length, rows, TILE, columns, TILE, depth))
    return result.permute(0, 4, 1, 2, 3)


@conv3d_winograd.register_fake
def _(x: Tensor, filters: Tensor, bias: Tensor) -> Tensor:
    batch, _, *size = x.shape
    return x.new_empty(batch, *size, len(bias)).permute(0, 4, 1, 2, 3)
