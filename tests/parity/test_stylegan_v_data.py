"""Clips are drawn by the rule of StyleGAN-V's sampler (``frame_sampling.pt``).

Everything, configuration included, comes from the file: ``$VIDGEN_REFERENCE/stylegan_v/frame_sampling.pt`` where that
variable is set, else the small one that ``tests/fixtures/stylegan_v/make_frame_sampling.py`` writes.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.fixtures import folder
from vidgen.data.clips import Clips, draw_times

RULES = {"random": "sparse", "uniform": "even"}
CONFIG = {"type", "total_dists", "max_dist", "num_frames_per_video", "total_video_len"}
OUTPUTS = {
    "first8_int_seeded",
    "first8_frac_seeded",
    "span_values",
    "span_freq",
    "max_last_index",
    "min_first_index",
    "mean_first_index",
    "strictly_increasing",
    "frac_distances_are_integers",
    "frac_max_last",
}
DRAWS = 20000
"""Of the file and of ours."""
SIGMAS = 5
"""Standard deviations by which two means may differ."""
TOLERANCE = 1e-9
"""Of real times that are drawn with the same seed."""


@lru_cache
def reference() -> dict[str, Any]:
    return torch.load(folder("stylegan_v") / "frame_sampling.pt", weights_only=True)


CASES = list(reference()["config"])


def expected(case: str, key: str) -> Tensor:
    return reference()["outputs"][f"{case}.{key}"]


def draws(case: str, seed: int, number: int, fractional: bool = False) -> Tensor:
    """Times ``(number, T)`` of clips drawn one after the other by the rule that the configuration describes."""
    config = reference()["config"][case]
    clips = Clips(RULES[config["type"]], config.get("total_dists", ()), config["max_dist"])
    length, num_frames = config["total_video_len"], config["num_frames_per_video"]
    rng = random.Random(seed)
    rows = [draw_times(rng, clips, length, num_frames, fractional) for _ in range(number)]
    return torch.tensor(rows, dtype=torch.float64)


@lru_cache
def many(case: str, fractional: bool = False) -> Tensor:
    return draws(case, 0, DRAWS, fractional)


def likely_gap(case: str) -> float:
    """How far from its bound the extreme of so many draws may end: by chance further once in e^20 trials."""
    return reference()["config"][case]["total_video_len"] * 20 / DRAWS


def test_every_key_of_the_file_is_consumed_here():
    file = reference()
    assert set(file) - {"notes"} == {"config", "state", "inputs", "outputs"}
    assert not file["state"] and set(file["inputs"]) == {"python_random_seed"}
    for config in file["config"].values():
        assert CONFIG - {"total_dists"} <= set(config) <= CONFIG and config["type"] in RULES
    assert set(file["outputs"]) == {f"{case}.{key}" for case in CASES for key in OUTPUTS}


@pytest.mark.parametrize("case", CASES)
def test_the_same_seed_draws_the_same_frames(case):
    rows, seed = expected(case, "first8_int_seeded"), int(reference()["inputs"]["python_random_seed"])
    assert draws(case, seed, len(rows)).tolist() == rows.tolist()


@pytest.mark.parametrize("case", CASES)
def test_the_same_seed_draws_the_same_real_times(case):
    rows, seed = expected(case, "first8_frac_seeded"), int(reference()["inputs"]["python_random_seed"])
    assert (draws(case, seed, len(rows), fractional=True) - rows).abs().max() <= TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_spans_are_drawn_as_often(case):
    clips = many(case)
    spans, counts = (clips[:, -1] - clips[:, 0]).unique(return_counts=True)
    assert spans.tolist() == expected(case, "span_values").tolist()
    shares = expected(case, "span_freq")
    deviation = (2 * shares * (1 - shares) / DRAWS).sqrt()
    assert ((counts / DRAWS - shares).abs() <= SIGMAS * deviation).all()


@pytest.mark.parametrize("case", CASES)
def test_clips_reach_from_the_first_frame_to_the_last(case):
    clips = many(case)
    assert abs(clips[:, -1].max() - expected(case, "max_last_index")) <= math.floor(likely_gap(case))
    assert abs(clips[:, 0].min() - expected(case, "min_first_index")) <= math.floor(likely_gap(case))


@pytest.mark.parametrize("case", CASES)
def test_starts_have_the_same_mean(case):
    first = many(case)[:, 0]
    allowed = SIGMAS * math.sqrt(2 / DRAWS) * first.std().item() + 1e-4
    assert abs(first.mean() - expected(case, "mean_first_index")) <= allowed


@pytest.mark.parametrize("case", CASES)
def test_times_rise(case):
    assert (many(case).diff(dim=1) > 0).all().item() == expected(case, "strictly_increasing").item()


@pytest.mark.parametrize("case", CASES)
def test_real_times_have_whole_distances(case):
    steps = many(case, fractional=True).diff(dim=1)
    whole = ((steps - steps.round()).abs() < TOLERANCE).all().item()
    assert whole == expected(case, "frac_distances_are_integers").item()


@pytest.mark.parametrize("case", CASES)
def test_real_times_reach_the_last_frame(case):
    clips = many(case, fractional=True)
    assert abs(clips.max() - expected(case, "frac_max_last")) <= likely_gap(case) + 1e-4
    assert clips.max() <= reference()["config"][case]["total_video_len"] - 1 + TOLERANCE
