"""VideoVAE's classifier entropies (``video_vae/formulas.pt``, see ``test_metrics_formulas.py``)."""

from __future__ import annotations

import pytest

from tests.parity.fixtures import folder
from tests.parity.test_metrics_formulas import DOUBLE, Table
from vidgen.metrics.class_entropies import class_accuracy, class_entropies
from vidgen.metrics.inception_score import inception_score

DIVERGENCES = {"kl", "kl_to_standard_normal", "kl_reversed"}
"""Outputs that are of the model's loss, which ``test_video_vae.py`` compares."""
OF_CLASSES = {"intra_entropy", "inter_entropy", "inception_score", "accuracy"}
"""Outputs that are compared here."""


def check(table: Table) -> None:
    rows, labels = table.inputs["class_probabilities"], table.inputs["labels"]
    entropies = class_entropies(rows)
    table.compare("intra_entropy", entropies.intra, DOUBLE)
    table.compare("inter_entropy", entropies.inter, DOUBLE)
    table.compare("inception_score", entropies.inception_score, DOUBLE)
    table.compare("inception_score", inception_score(rows, splits=1)[0], DOUBLE)
    table.compare("accuracy", class_accuracy(rows, labels), DOUBLE)


def test_computes_what_the_definition_says() -> None:
    table = Table(folder("video_vae") / "formulas.pt")
    check(table)
    assert table.outputs.keys() - table.open == OF_CLASSES
    table.open -= DIVERGENCES
    table.finish()


def test_other_labels_are_noticed() -> None:
    table = Table(folder("video_vae") / "formulas.pt")
    table.inputs["labels"] = table.inputs["class_probabilities"].argmax(1)
    with pytest.raises(AssertionError, match="accuracy: off by"):
        check(table)
