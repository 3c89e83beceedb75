"""Random draws and frames are those of SVG's Stochastic Moving MNIST (``moving_mnist.pt``).

Everything, digits included, comes from the file: ``$VIDGEN_REFERENCE/svg/moving_mnist.pt`` where that variable is set,
else the small one that ``tests/fixtures/svg/make_moving_mnist.py`` writes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.fixtures import folder
from vidgen.data.moving_mnist import bouncing_digits, resize_digit

CASE_OUTPUTS = {
    "draws",
    "draws_in_first_item",
    "rows",
    "cols",
    "frames_0_5_last",
    "second_item_rows",
    "second_item_cols",
}
TOLERANCE = 1e-6
"""Of a pixel, 0 to 1."""
SUM_TOLERANCE = 1e-4
"""Of a sum over 64 pixels."""

Reference = dict[str, Any]


class Recorder:
    """Draws as numpy does after ``numpy.random.seed``, and notes [low, high, value] of every draw."""

    def __init__(self, seed: int) -> None:
        self.state = np.random.RandomState(seed)
        self.draws: list[list[int]] = []

    def randint(self, low: int, high: int) -> int:
        value = int(self.state.randint(low, high))
        self.draws.append([low, high, value])
        return value


def load() -> Reference:
    return torch.load(folder("svg") / "moving_mnist.pt", weights_only=True)


REFERENCE = load()
CASES = {case["name"]: case for case in REFERENCE["config"]["cases"]}


@pytest.fixture(params=sorted(CASES))
def case(request) -> dict[str, Any]:
    return CASES[request.param]


def two_items(case: dict[str, Any], digits: Tensor) -> tuple[Recorder, int, list[Tensor]]:
    """The recorder, its draws for the first item, and the frames of two items of one stream."""
    recorder = Recorder(case["index"])
    items, first = [], 0
    for item in range(2):
        frames, _ = bouncing_digits(
            recorder,
            digits.numpy(),
            case["seq_len"],
            case["num_digits"],
            deterministic=case["deterministic"],
            canvas=REFERENCE["config"]["image_size"],
        )
        items.append(torch.from_numpy(frames))
        first = first if item else len(recorder.draws)
    return recorder, first, items


def expected(case: dict[str, Any], key: str) -> Tensor:
    return REFERENCE["outputs"][f"{case['name']}.{key}"]


def test_every_key_of_the_file_is_consumed_here():
    assert set(REFERENCE) - {"state", "notes"} == {"config", "inputs", "outputs"}
    assert not REFERENCE.get("state")
    assert set(REFERENCE["config"]) == {"cases", "image_size", "digit_size"}
    assert set(REFERENCE["inputs"]) == {"digits", "digit28_uint8"}
    assert set(REFERENCE["outputs"]) == {f"{name}.{key}" for name in CASES for key in CASE_OUTPUTS} | {"digit32"}
    for case in CASES.values():
        assert set(case) == {"name", "deterministic", "num_digits", "index", "seq_len"}
    assert REFERENCE["inputs"]["digits"].shape[1:] == (REFERENCE["config"]["digit_size"],) * 2


def test_numbers_are_drawn_in_the_original_order(case):
    recorder, first, _ = two_items(case, REFERENCE["inputs"]["digits"])
    assert recorder.draws == expected(case, "draws").tolist()
    assert first == int(expected(case, "draws_in_first_item"))


def test_the_pixels_of_three_frames(case):
    _, _, (frames, _) = two_items(case, REFERENCE["inputs"]["digits"])
    wanted = expected(case, "frames_0_5_last")
    assert frames[[0, 5, -1]].shape == wanted.shape
    assert (frames[[0, 5, -1]] - wanted).abs().max() <= TOLERANCE


def test_the_rows_and_columns_of_all_frames(case):
    _, _, items = two_items(case, REFERENCE["inputs"]["digits"])
    for frames, prefix in zip(items, ("", "second_item_"), strict=True):
        assert (frames.sum(2) - expected(case, f"{prefix}rows")).abs().max() <= SUM_TOLERANCE
        assert (frames.sum(1) - expected(case, f"{prefix}cols")).abs().max() <= SUM_TOLERANCE


def test_a_digit_is_resized_as_the_original_does():
    resized = resize_digit(REFERENCE["inputs"]["digit28_uint8"].numpy(), REFERENCE["config"]["digit_size"])
    assert np.abs(resized - REFERENCE["outputs"]["digit32"].numpy()).max() <= TOLERANCE


def test_one_changed_pixel_is_noticed(case):
    digits = REFERENCE["inputs"]["digits"].clone()
    middle = digits.shape[1] // 2
    digits[:, middle, middle] = 1 - digits[:, middle, middle].round()
    _, _, (frames, _) = two_items(case, digits)
    assert (frames.sum(2) - expected(case, "rows")).abs().max() > 100 * SUM_TOLERANCE
