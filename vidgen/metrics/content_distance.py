"""Average content distance: how far the content drifts within a video."""

from __future__ import annotations

import torch
from torch import Tensor


def average_content_distance(features: Tensor) -> Tensor:
    """Mean L2 distance over all unordered pairs of frames, for each video (MoCoGAN, section 4).

    Smaller is better; 0 means that the content never changes. The number of a model is the mean over its videos.

    Args:
        features: ``(N, T, D)``, one content feature per frame: the colour of a shape, the embedding of a face.

    Returns:
        ``(N,)``, in the units of the features.

    Raises:
        ValueError: fewer than two frames, or not three axes.
    """
    if features.dim() != 3 or features.shape[1] < 2:
        raise ValueError(f"features must be (N, T, D) with T >= 2, got {tuple(features.shape)}")
    first, second = torch.triu_indices(features.shape[1], features.shape[1], offset=1, device=features.device)
    return (features[:, first] - features[:, second]).norm(dim=2).mean(1)
