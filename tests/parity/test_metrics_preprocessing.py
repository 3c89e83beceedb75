"""Frames are resized, cropped and scaled as by the published code (``metrics/fvd_preprocess.pt``, the resize in
``tats/fvd.pt``).

The first file comes from ``$VIDGEN_REFERENCE``, else from ``tests/fixtures/metrics/make_preprocessing.py``.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.fixtures import folder
from vidgen.metrics.preprocessing import PROTOCOLS

REFERENCE = torch.load(folder("metrics") / "fvd_preprocess.pt", weights_only=True)
TOLERANCE = 2e-5
"""In a range of 2; source coordinates are float32 in the published code, and exact in the project's own file."""
SAME_AS = {
    "tf_original": "original",
    "common_styleganv": "videogpt",
    "common_videogpt": "videogpt",
    "cdfvd_i3d": "tats",
    "cdfvd_videomae": "videomae",
}
WHOLE = [(video, name) for video in ("V", "W") for name in REFERENCE["outputs"][video]]


def videos(name: str) -> Tensor:
    return REFERENCE["inputs"][name].permute(0, 4, 1, 2, 3)


def protocol(name: str) -> Any:
    return PROTOCOLS[SAME_AS.get(name, name)]


def error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return (actual - expected).abs().max().item()


def test_every_key_of_the_file_is_consumed_here():
    assert set(REFERENCE) - {"notes"} == {"config", "state", "inputs", "outputs"} and not REFERENCE["state"]
    assert set(REFERENCE["config"]) == {"layout"}
    assert set(REFERENCE["inputs"]) == set(REFERENCE["outputs"]) == {"V", "W", "S"}


@pytest.mark.parametrize(("video", "name"), WHOLE)
def test_frames_of_224_pixels(video, name):
    expected = REFERENCE["outputs"][video][name]
    assert set(expected) == {"grid", "corner", "mean", "sumsq", "min", "max", "shape"}
    result = protocol(name)(videos(video))
    assert list(result.shape) == expected["shape"] and result.dtype == torch.float32
    assert error(result[..., ::9, ::9], expected["grid"]) <= TOLERANCE
    assert error(result[..., :5, :5], expected["corner"]) <= TOLERANCE
    assert result.double().mean().item() == pytest.approx(expected["mean"], abs=TOLERANCE)
    assert result.double().square().sum().item() == pytest.approx(expected["sumsq"], rel=TOLERANCE)
    assert [result.min().item(), result.max().item()] == pytest.approx(
        [expected["min"], expected["max"]], abs=TOLERANCE
    )


@pytest.mark.parametrize("name", sorted(REFERENCE["outputs"]["S"]))
def test_small_frames_whole(name):
    rule, height, width = re.fullmatch(r"(\w+?)_(\d+)(?:x(\d+))?", name).groups()
    sized = replace(protocol(rule), height=int(height), width=int(width or height))
    assert error(sized(videos("S")), REFERENCE["outputs"]["S"][name]) <= TOLERANCE


def test_the_resize_of_tats():
    reference = torch.load(folder("tats") / "fvd.pt", weights_only=True)
    outputs = {key: value for key, value in reference["outputs"].items() if key.startswith("preprocess_")}
    assert outputs.keys() <= {"preprocess_16x16", "preprocess_24x20", "preprocess_224_mean_std", "preprocess_224_patch"}
    if not outputs:  # the project's own file holds distances only
        return
    clips = reference["inputs"]["videos"].permute(0, 4, 1, 2, 3)
    for height, width in ((16, 16), (24, 20)):
        sized = replace(PROTOCOLS["tats"], height=height, width=width)
        assert error(sized(clips), outputs[f"preprocess_{height}x{width}"]) <= TOLERANCE
    result = PROTOCOLS["tats"](clips)
    assert error(result[..., 100:108, 60:68], outputs["preprocess_224_patch"]) <= TOLERANCE
    moments = torch.stack([result.mean(), result.std(), result.min(), result.max()])
    assert error(moments, outputs["preprocess_224_mean_std"]) <= 1e-5
