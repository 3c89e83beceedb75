"""``tools/benchmark.py svc``: two ways to clip, compared before they are timed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import benchmark
import clipping

SMALL = ["svc", "--width", "4", "--resolution", "16", "--turns", "2"]


def test_the_plain_way_clips() -> None:
    weights = clipping.weights_of(4, 16)
    assert [tuple(weight.shape[:2]) for weight in weights] == [(4, 3), (8, 4), (16, 8), (32, 16), (1, 32)]
    before = [torch.linalg.svdvals(weight.reshape(len(weight), -1)) for weight in weights]
    clipping.clip_by_decomposition(weights)
    for weight, values in zip(weights, before, strict=True):
        assert values.max() > 1
        after = torch.linalg.svdvals(weight.reshape(len(weight), -1))
        torch.testing.assert_close(after, values.clamp(max=1), rtol=0, atol=1e-5)


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(SMALL) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "matrices: 4x192, 8x256, 16x512, 32x1024, 1x32; " in lines[1]
    assert float(lines[2].split(": ")[1].split()[0]) < 1e-5
    assert lines[3].startswith("2 pairs: vidgen ") and lines[3].endswith("s per clipping (medians)")


def test_a_difference_is_refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipping, "clip_singular_values", lambda weights: weights[0].mul_(0.5))
    assert benchmark.main(SMALL) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the two ways to clip are ") and error.endswith(" apart (tolerance 1e-05)\n")
