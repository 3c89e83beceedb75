"""On real and rendered videos: a distance grows with the damage, and motion counts where it says so."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import sensitivity

from vidgen.config.metrics import build_metrics

REFERENCE = os.environ.get("VIDGEN_REFERENCE")
DATA = Path(REFERENCE or "") / ".." / "data"
SETS = {
    "weizmann_actions": {"others": "shape_motion", "groups": r"/0*(\d+)", "group_size": 8},
    "shape_motion": {"others": "weizmann_actions", "groups": None, "group_size": 1},
}
LARGER_IS_BETTER = {"precision", "recall", "density", "coverage"}
SEE_MOTION = {"fvd", "kvd"}
NAMES = ["fvd", "kvd", "precision", "recall", "density", "coverage"]


@pytest.fixture(scope="module", params=sorted(SETS))
def values(request: pytest.FixtureRequest) -> dict[str, dict[str, float]]:
    """Damage -> metric -> how bad it is found, with closed-form weights."""
    about = dict(SETS[request.param])
    metrics = build_metrics([{"name": name, "weights": "random"} for name in NAMES])
    found = sensitivity.run(
        str(DATA / request.param),
        str(DATA / str(about.pop("others"))),
        metrics,  # type: ignore[arg-type]
        **about,  # type: ignore[arg-type]
    )
    worse: dict[str, dict[str, float]] = {}
    for damage, row in found.items():
        for label, value in row.items():
            name = label.removesuffix("_random_i3d")
            worse.setdefault(damage, {})[name] = -value if name in LARGER_IS_BETTER else value
    return worse


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(not DATA.is_dir(), reason="needs VIDGEN_REFERENCE with the strips beside it")
@pytest.mark.parametrize("name", NAMES)
def test_values_follow_the_damage(values: dict[str, dict[str, float]], name: str) -> None:
    def bad(damage: str) -> float:
        return values[damage][name]

    assert bad(sensitivity.SAME) < bad("frozen")
    assert bad(sensitivity.SAME) < bad(sensitivity.OTHERS)
    assert bad("blur, sigma 1") < bad("blur, sigma 2")
    assert bad("noise, sigma 10") < bad("noise, sigma 30")
    if name in SEE_MOTION:
        assert bad("half of the frames shuffled") < bad("all frames shuffled")
