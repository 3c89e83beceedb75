"""TATS' distances between features (``tats/fvd.pt``, see ``test_metrics_formulas.py``)."""

from __future__ import annotations

from tests.parity.fixtures import folder
from tests.parity.test_metrics_formulas import DOUBLE, SINGLE, Table
from vidgen.metrics.frechet import covariance, frechet_from_moments, moments_of
from vidgen.metrics.kernel_distance import polynomial_mmd

ELSEWHERE = ("i3d_", "maxpool_", "preprocess_", "unit3d")
"""Of the network, and of what is done to a video before it."""


def test_computes_what_the_original_computes() -> None:
    table = Table(folder("tats") / "fvd.pt")
    a, b, few = (table.inputs[f"feat_{name}"] for name in ("a", "b", "few"))
    distance = frechet_from_moments(moments_of(a), moments_of(b))
    table.compare("frechet", distance, SINGLE)
    table.compare("frechet_double", distance, DOUBLE)
    table.compare("polynomial_mmd", polynomial_mmd(a, b), SINGLE)
    table.compare("cov", covariance(moments_of(a)), SINGLE)
    table.compare("frechet_rank_deficient", frechet_from_moments(moments_of(few), moments_of(b)), DOUBLE)
    table.open = {key for key in table.open if not key.startswith(ELSEWHERE)}
    table.finish()
