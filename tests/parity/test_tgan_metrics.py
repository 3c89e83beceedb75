"""TGAN's inception score (``tgan/inception_score.pt``, see ``test_metrics_formulas.py``)."""

from __future__ import annotations

from tests.parity.fixtures import folder
from tests.parity.test_metrics_formulas import SINGLE, Table
from vidgen.metrics.inception_score import inception_score

ELSEWHERE = {"c3d_input_sub", "c3d_input_mean", "c3d_input_absmean"}
"""Of what is done to a video before the network."""


def test_computes_what_the_original_computes() -> None:
    table = Table(folder("tgan") / "inception_score.pt")
    table.compare("score", inception_score(table.inputs["probs"], splits=1, epsilon=1e-7)[0], SINGLE)
    table.open -= ELSEWHERE
    table.finish()
