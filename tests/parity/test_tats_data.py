"""Clips, maps of classes and spectrograms are brought to their sizes as TATS' loader does it (``data.pt``).

Everything comes from the file: ``$VIDGEN_REFERENCE/tats/data.pt`` where that variable is set, else the small one that
``tests/fixtures/tats/make_data.py`` writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity.fixtures import Reference, folder
from vidgen.data.audio import fit_spectrogram
from vidgen.data.transforms import plain_bilinear, resize_frames, scaled_size, to_clip

TOLERANCE = 1e-4
"""What the specification allows."""
EXACT = 1e-6
"""Of numbers that are computed alike."""
ROUNDED = 0.5 / 255 + EXACT
"""Of a pixel from 0 to 1 that is kept as a byte, as data sets keep theirs."""
ELSEWHERE = ("tokens_",)
"""Ids of texts."""


@pytest.fixture
def reference() -> Reference:
    return Reference(folder("tats") / "data.pt", TOLERANCE)


def cases(reference: Reference) -> Iterator[tuple[str, dict[str, Any], np.ndarray]]:
    """Name, settings and wanted frames of each clip."""
    for number, case in enumerate(reference.config["cases"]):
        video = reference.inputs[f"video_{number}"].numpy()
        assert list(video.shape) == case["shape"]
        yield f"video_{number}", case, video[: case["sequence_length"]][:: case["sample_every_n_frames"]]


def unrounded(frames: np.ndarray, side: int) -> Tensor:
    """Frames ``(T, H, W, C)`` scaled and cut by the rule ``crop_up``, but not rounded: ``(C, T, side, side)``."""
    height, width = frames.shape[1:3]
    size = scaled_size(width, height, side, side, "crop_up", Fraction(1))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    scaled = plain_bilinear(frames, size)[:, top : top + side, left : left + side]
    return torch.from_numpy(np.ascontiguousarray(scaled.transpose(3, 0, 1, 2)))


def classes(smap: Tensor, number: int) -> np.ndarray:
    """A map of classes ``(T, H, W)`` with a channel for each class."""
    return torch.nn.functional.one_hot(smap.long(), number).numpy()


def compare_all(reference: Reference) -> None:
    for name, case, frames in cases(reference):
        reference.compare(name, unrounded(frames, case["resolution"]) / 255 - 0.5, EXACT)
    wanted = reference.outputs["smap"]
    number, _, side, _ = wanted.shape
    reference.compare("smap", unrounded(classes(reference.inputs["smap"], number), side) - 0.5, EXACT)
    height, width = reference.outputs["stft"].shape[2:]
    reference.compare("stft", fit_spectrogram(reference.inputs["stft_raw"].numpy(), (height, width)), EXACT)


def test_computes_what_the_original_computes(reference):
    compare_all(reference)
    assert set(reference.inputs) == {"smap", "stft_raw", *(name for name, *_ in cases(reference))}
    reference.open = {key for key in reference.open if not key.startswith(ELSEWHERE)}
    reference.finish()


def test_clips_of_a_data_set_differ_by_the_rounding_to_bytes_alone(reference):
    for name, case, frames in cases(reference):
        fitted = resize_frames(frames, case["resolution"], "crop_up", interpolation="plain_bilinear")
        ours = to_clip(fitted) / 2  # ours lie in [-1, 1], there in [-0.5, 0.5]
        assert ours.shape == reference.outputs[name].shape
        assert (ours - reference.outputs[name]).abs().max() <= ROUNDED


@pytest.mark.parametrize("key", ["video_0", "stft_raw", "smap"])
def test_other_numbers_in_the_middle_are_noticed(reference, key):
    stored = reference.inputs[key]
    row, column = stored.shape[1] // 2, stored.shape[2] // 2
    middle = stored[0, row - 1 : row + 2, column - 1 : column + 2]  # one pixel alone may be left out
    middle.copy_(stored.max() - middle)
    with pytest.raises(AssertionError, match="off by"):
        compare_all(reference)


def test_an_output_that_nothing_compares_is_noticed(reference):
    reference.open.add("invented")
    compare_all(reference)
    reference.open = {key for key in reference.open if not key.startswith(ELSEWHERE)}
    with pytest.raises(AssertionError, match=r"nothing compares \['invented'\]"):
        reference.finish()
