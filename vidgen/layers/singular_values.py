"""Singular value clipping: a discriminator kept 1-Lipschitz by limiting its layers, not its gradients.

Saito, Matsumoto, Saito: Temporal Generative Adversarial Nets with Singular Value Clipping, ICCV 2017, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

PART = 2048
"""Columns of a matrix that are treated at once, which bounds the memory in float64."""


@torch.no_grad()
def clip_singular_values(weights: Sequence[Tensor], limit: float = 1.0) -> None:
    """Set the singular values of each weight that exceed a limit to the limit, in place; the others stay.

    A weight ``(out, ...)`` is taken as the matrix ``(out, rest)``. No decomposition of that matrix is made: the left
    singular vectors are the eigenvectors of its small Gram matrix, and ``W - U max(0, 1 - limit / s) U^T W`` is the
    clipped matrix (for a tall one, the same from the right). That is computed in float64, where squaring costs no
    accuracy that matters, under autocast too, and on the device of the weights; weights of one shape are treated
    together. A weight with nothing to clip does not change by a bit, nor does one that holds NaN or infinity.

    Args:
        weights: floating-point tensors of two and more dimensions.
        limit: the largest singular value afterwards, above 0.
    """
    groups: dict[tuple[Any, ...], list[Tensor]] = {}
    for weight in weights:
        rows, columns = weight.shape[0], weight.numel() // weight.shape[0]
        groups.setdefault((rows, columns, weight.dtype, weight.device), []).append(weight)
    for (rows, columns, *_), group in groups.items():
        matrices = torch.stack([weight.detach().reshape(rows, columns) for weight in group])
        wide = matrices if rows <= columns else matrices.mT
        with torch.autocast(wide.device.type, enabled=False):
            _clip(wide, limit)
        for weight, matrix in zip(group, matrices, strict=True):
            weight.copy_(matrix.reshape(weight.shape))


def _clip(matrices: Tensor, limit: float) -> None:
    """Clip matrices ``(N, rows, columns)`` with as many columns as rows, or more, in place."""
    number, rows, _ = matrices.shape
    gram = torch.zeros(number, rows, rows, dtype=torch.float64, device=matrices.device)
    for part in matrices.split(PART, dim=2):
        exact = part.double()
        gram.baddbmm_(exact, exact.mT)
    finite = torch.isfinite(gram).all(-1, keepdim=True).all(-2, keepdim=True)
    squares, vectors = torch.linalg.eigh(torch.where(finite, gram, torch.eye(rows).to(gram)))
    excess = (1 - limit / squares.clamp(min=0).sqrt()).clamp(min=0)  # 1 - limit / 0 is -inf
    removed = (vectors * excess.unsqueeze(-2)) @ vectors.mT
    for part in matrices.split(PART, dim=2):
        exact = part.double()
        part.copy_(torch.where(finite, torch.baddbmm(exact, removed, exact, alpha=-1), part))


@torch.no_grad()
def clip_scale(norm: _BatchNorm, least: float = 0.01) -> None:
    """Limit the scale of a batch norm to its running standard deviation, and from below to a share of it, in place.

    Then what the layer multiplies by, scale over standard deviation, is at most 1 and above 0 (table 2 of the paper;
    the lower limit and the absence of epsilon are the official code's).

    Args:
        norm: with learned scale and running statistics.
        least: smallest scale as a share of the standard deviation.
    """
    if norm.running_var is None or norm.weight is None:
        raise ValueError("the batch norm has no running variance or no scale")
    deviation = norm.running_var.sqrt()
    torch.minimum(norm.weight, deviation, out=norm.weight)
    torch.maximum(norm.weight, least * deviation, out=norm.weight)


def clip_to_lipschitz(network: nn.Module, limit: float = 1.0) -> None:
    """Clip every linear and convolutional layer of a network, and the scale of every batch norm, in place.

    A weight is taken as a matrix of output channels by the rest.

    Args:
        network: nested layers are included; other layers with weights are left alone.
        limit: the largest singular value afterwards.
    """
    layers = list(network.modules())
    weights = [(layer, layer.weight.detach()) for layer in layers if isinstance(layer, _ConvNd | nn.Linear)]
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    clip_singular_values([w.transpose(0, 1) if isinstance(layer, transposed) else w for layer, w in weights], limit)
    for layer in layers:
        if isinstance(layer, _BatchNorm):
            clip_scale(layer)
