"""The rules of StyleGAN-V's metrics (``stylegan_v/metrics.pt``, see ``test_metrics_formulas.py``)."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from tests.parity.fixtures import folder
from tests.parity.test_metrics_formulas import DOUBLE, SINGLE, Table
from vidgen.data.request import clip_times, start_choices
from vidgen.media import to_uint8
from vidgen.metrics.frechet import covariance, frechet_from_moments, moments_of
from vidgen.metrics.inception_score import inception_score


def check(table: Table) -> None:
    real, fake = moments_of(table.inputs["feats_real"]), moments_of(table.inputs["feats_fake"])
    for name, moments in (("real", real), ("fake", fake)):
        table.compare(f"mu_{name}", moments.mean, DOUBLE)
        table.compare(f"cov_{name}", covariance(moments, ddof=0), DOUBLE)
    table.compare("frechet", frechet_from_moments(real, fake, ddof=0), DOUBLE)
    table.compare("frechet_if_unbiased_cov", frechet_from_moments(real, fake, ddof=1), DOUBLE)
    check_first_features(table)
    check_scores(table)
    check_clip_starts(table, table.outputs["clip_rule_rows"])
    check_rounding(table, table.inputs["gen_pixels"])


def check_first_features(table: Table) -> None:
    for key in table.outputs:
        if found := re.fullmatch(r"(mu|cov)_real_first(\d+)", key):
            moments = moments_of(table.inputs["feats_real"][: int(found[2])])
            table.compare(key, moments.mean if found[1] == "mu" else covariance(moments, ddof=0), DOUBLE)


def check_scores(table: Table) -> None:
    for key in table.outputs:
        if found := re.fullmatch(r"is_(mean|std)_(\d+)_splits_shuffled(\d+)", key):
            mean, deviation = inception_score(table.inputs["probs"], int(found[2]), int(found[3]))
            table.compare(key, mean if found[1] == "mean" else deviation, SINGLE)


def check_clip_starts(table: Table, rows: Tensor) -> None:
    """Rows of frames, step, length, whether the video is used, last start, last frame of the clip from there."""
    found = []
    for frames, step, length in rows[:, :3].tolist():
        choices = start_choices(length, frames, step)
        last = clip_times(length, frames, step, choices - 1)[-1] if choices else -1
        found.append([frames, step, length, int(choices > 0), choices - 1, last])
    table.compare("clip_rule_rows", torch.tensor(found), 0)


def check_rounding(table: Table, pixels: Tensor) -> None:
    """The original rounds halves up, ours to the even level; no others differ."""
    scaled = (pixels.clamp(-1, 1) + 1) / 2 * 255
    halves = (scaled - scaled.floor() - 0.5).abs() < 1e-4
    levels, expected = to_uint8(pixels).int(), table.outputs["uint8"].int()
    assert torch.equal(levels[~halves], expected[~halves])
    assert (levels - expected)[halves].abs().le(1).all()
    table.open.discard("uint8")


def test_computes_what_the_original_computes() -> None:
    table = Table(folder("stylegan_v") / "metrics.pt")
    check(table)
    table.finish()


def test_other_inputs_are_noticed() -> None:
    with pytest.raises(AssertionError):
        check(Table(folder("stylegan_v") / "metrics.pt").with_other_numbers())
