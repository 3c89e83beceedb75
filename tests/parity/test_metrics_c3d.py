"""C3D scores clips as the official Chainer code does (``metrics/c3d_ucf101.pt``, the network's input in
``tgan/inception_score.pt``).

The first file comes from ``$VIDGEN_REFERENCE``, else from ``tests/fixtures/metrics/make_c3d.py``.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.parity.fixtures import folder
from vidgen.metrics.extractors.c3d import PROTOCOLS, C3DNetwork, random_mean, random_state, tgan_input

REFERENCE = torch.load(folder("metrics") / "c3d_ucf101.pt", weights_only=True)
TOLERANCE = 1e-5
"""Of the largest number of a result."""
RESIZE_TOLERANCE = 5e-5
"""Likewise, of the network's input: OpenCV's cubic weights are rounded to float32 first."""
NAMES = {"tgan_v1": "tgan", "tgan_v2": "tgan2"}


@pytest.fixture(scope="module")
def network() -> C3DNetwork:
    with torch.device("meta"):
        made = C3DNetwork()
    made.load_state_dict(random_state(made, REFERENCE["config"]["salt"]), assign=True)
    return made.requires_grad_(False)


def assert_close(what: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    error = (actual - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"{what}: off by {error:.3g}"


def test_every_key_of_the_file_is_consumed_here(network):
    assert set(REFERENCE) - {"notes"} == {"config", "state", "inputs", "outputs"} and not REFERENCE["state"]
    assert set(REFERENCE["config"]) == {"salt", "fill", "mean_rule", "state_shapes"}
    assert set(REFERENCE["inputs"]) == {"video"} and set(REFERENCE["outputs"]) <= set(NAMES)
    shapes = {key: list(value.shape) for key, value in network.state_dict().items() if key.endswith("weight")}
    assert shapes == REFERENCE["config"]["state_shapes"]


@pytest.mark.parametrize("name", sorted(REFERENCE["outputs"]))
def test_preprocessing_and_every_layer(name, network):
    expected = dict(REFERENCE["outputs"][name])
    pixels = REFERENCE["inputs"]["video"].permute(0, 4, 1, 2, 3).float()
    x = PROTOCOLS[NAMES[name]](pixels, random_mean(REFERENCE["config"]["salt"]))
    grid = x[:, :, ::5, ::9, ::9]
    assert_close("preprocessed_grid", grid, expected.pop("preprocessed_grid"), RESIZE_TOLERANCE)
    results = network.endpoints(x.contiguous(memory_format=torch.channels_last_3d))
    results["prob"] = results["fc8"].softmax(1)
    for key, value in expected.items():
        assert_close(f"{name}: {key}", results[key], value, TOLERANCE)


def test_the_input_of_tgan():
    reference = torch.load(folder("tgan") / "inception_score.pt", weights_only=True)
    outputs = {key: value for key, value in reference["outputs"].items() if key.startswith("c3d_")}
    assert outputs.keys() <= {"c3d_input_sub", "c3d_input_mean", "c3d_input_absmean"}
    if not outputs:  # the project's own file holds scores only
        return
    inputs = reference["inputs"]
    mean = inputs["mean_ct"][:, :, None, None] + inputs["mean_y"][:, None] + inputs["mean_x"]
    x = tgan_input(inputs["video"].float() * 128 + 128, mean)
    assert_close("c3d_input_sub", x[:, :, [0, 7, 15], ::2, ::2], outputs["c3d_input_sub"], TOLERANCE)
    assert_close("c3d_input_mean", x.mean(), outputs["c3d_input_mean"], TOLERANCE)
    assert_close("c3d_input_absmean", x.abs().mean(), outputs["c3d_input_absmean"], TOLERANCE)
