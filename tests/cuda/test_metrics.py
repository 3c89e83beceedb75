"""Metrics on a GPU give what they give on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.training.small_metric import ColourDistance
from vidgen.evaluation.passes import Pass
from vidgen.evaluation.sources import ClipRule, StoredClips
from vidgen.metrics import FrechetVideoDistance
from vidgen.metrics.extractors.i3d import I3D
from vidgen.metrics.extractors.inception import InceptionV3

pytestmark = pytest.mark.cuda


def videos(count: int, seed: int) -> torch.Tensor:
    """Random videos, uint8 ``(count, 3, 16, 32, 40)``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, 16, 32, 40), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("extractor", [I3D, InceptionV3])
def test_features_are_those_of_the_cpu(extractor: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    network = extractor("random")
    expected = network(videos(2, 0))
    found = network.cuda()(videos(2, 0).cuda()).cpu()
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def test_a_metric_follows_its_module_to_the_gpu() -> None:
    metric = FrechetVideoDistance(weights="random")
    values = []
    for device in ("cpu", "cuda"):
        metric.reset()
        metric.to(device)
        for real in (True, False):
            metric.update(videos(4, int(real)).to(device), real=real)
        values.append(float(metric.compute()))
    assert values[1] == pytest.approx(values[0], rel=1e-3)


def test_a_pass_looks_on_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidgen.data.moving_shapes import MovingShapes

    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path))
    source = StoredClips(MovingShapes(resolution=16, num_frames=16, num_videos=20), ClipRule(16), native=False, name="")
    moments = []
    for device in ("cpu", "cuda"):
        metric = ColourDistance()
        Pass(source, [metric], True, device=torch.device(device), keep=False, progress=False).run()
        moments.append(metric.moments("real"))
    torch.testing.assert_close(moments[1].mean, moments[0].mean, rtol=1e-5, atol=1e-7)
