"""Losses between a discriminator and a generator, each averaged over the batch and over all patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy_real(logits: Tensor) -> Tensor:
    """Binary cross-entropy of ``logits`` against "real": -log sigmoid(logits).

    For the discriminator on real data, and for the generator on fakes (the non-saturating loss).

    Args:
        logits: any shape; above 0 means "real".

    Returns:
        The mean, a scalar.
    """
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def cross_entropy_fake(logits: Tensor) -> Tensor:
    """Binary cross-entropy of ``logits`` against "fake": -log(1 - sigmoid(logits)).

    Args:
        logits: any shape; above 0 means "real".

    Returns:
        The mean, a scalar.
    """
    return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))


def hinge_real(logits: Tensor) -> Tensor:
    """Hinge loss of a discriminator on real data: relu(1 - logits), which is 0 from 1 on.

    Lim and Ye, "Geometric GAN", 2017, arXiv:1705.02894.

    Args:
        logits: any shape; above 0 means "real".

    Returns:
        The mean, a scalar.
    """
    return F.relu(1 - logits).mean()


def hinge_fake(logits: Tensor) -> Tensor:
    """Hinge loss of a discriminator on fakes: relu(1 + logits), which is 0 up to -1.

    Args:
        logits: any shape; above 0 means "real".

    Returns:
        The mean, a scalar.
    """
    return F.relu(1 + logits).mean()


def hinge_generator(logits: Tensor) -> Tensor:
    """Loss of a generator against a discriminator with hinge loss: -logits of its fakes.

    Args:
        logits: any shape; above 0 means "real".

    Returns:
        The mean, a scalar.
    """
    return -logits.mean()


def class_cross_entropy(class_logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of the class that an auxiliary head names, at each of its positions.

    Args:
        class_logits: ``(B, K, ...)`` for K classes, with any number of patch axes.
        label: int64 ``(B,)``, the class of each sample.

    Returns:
        The mean over batch and positions, a scalar.
    """
    positions = class_logits.shape[2:]
    return F.cross_entropy(class_logits, label.view(-1, *[1] * len(positions)).expand(-1, *positions))


def accuracy_real(logits: Tensor) -> Tensor:
    """Share of ``logits`` of real data that say "real", a scalar in [0, 1]."""
    return (logits.detach() > 0).float().mean()


def accuracy_fake(logits: Tensor) -> Tensor:
    """Share of ``logits`` of fakes that say "fake", a scalar in [0, 1]."""
    return (logits.detach() < 0).float().mean()
