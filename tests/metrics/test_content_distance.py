"""Average content distance is the mean over pairs of frames."""

from __future__ import annotations

import pytest
import torch

from vidgen.metrics.content_distance import average_content_distance


def test_mean_over_unordered_pairs() -> None:
    features = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]])
    torch.testing.assert_close(average_content_distance(features), torch.tensor([10 / 3, 0.0]))


def test_needs_two_frames() -> None:
    with pytest.raises(ValueError, match=r"features must be \(N, T, D\) with T >= 2, got \(2, 1, 3\)"):
        average_content_distance(torch.zeros(2, 1, 3))
