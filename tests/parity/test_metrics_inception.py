"""Inception-v3 against reference files: its layers, class scores and resize on uint8 images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.parity.fixtures import Reference, folder
from vidgen.metrics.extractors.inception import InceptionV3
from vidgen.metrics.extractors.random_weights import filled_state

FILES = sorted(path.name for path in folder("metrics").glob("inception_v3*.pt"))
LAYERS = ("64", "192", "768", "2048")
TOLERANCE = 2e-5
RESIZE_TOLERANCE = 1e-6


def test_there_is_a_reference():
    assert FILES


def weights_of(reference: Reference) -> dict[str, Tensor]:
    config = reference.config
    shapes = {name: tuple(shape) for name, shape in config["state_shapes"].items()}
    state = filled_state(shapes, config["salt"], config["gamma_one"])
    for name, total in config["state_sums_float64"].items():
        assert state[name].double().sum().item() == pytest.approx(total, abs=1e-6), name
    assert config["bn_eps"] == 1e-3 and state["fc.weight"].shape[0] == config["fc_classes"]
    return state


def compare_all(reference: Reference, folder: Path) -> None:
    state = weights_of(reference)
    torch.save(state, folder / "inception.pth")
    images = reference.inputs["images"]
    videos = images.unsqueeze(2)  # every image is a video of one frame
    for layer in LAYERS:
        reference.compare(layer, InceptionV3(folder / "inception.pth", features=layer)(videos))
    last = InceptionV3(folder / "inception.pth")
    reference.compare("torchmetrics_2048_antialias_False", last(videos))
    reference.compare("logits_unbiased", last.logits(videos))
    reference.compare("logits", last.logits(videos) + state["fc.bias"])
    reference.compare("resized_grid", (last.preprocess(images) * 128 + 128)[..., ::13, ::13], RESIZE_TOLERANCE)
    smooth = InceptionV3(folder / "inception.pth", antialias=True)
    reference.compare("torchmetrics_2048_antialias_True", smooth(videos))
    reference.finish()


@pytest.mark.parametrize("name", FILES)
def test_everything_is_as_in_the_reference(name, tmp_path):
    compare_all(Reference(folder("metrics") / name, TOLERANCE), tmp_path)


@pytest.mark.parametrize("name", FILES)
def test_one_changed_pixel_is_noticed(name, tmp_path):
    changed = Reference(folder("metrics") / name, TOLERANCE)
    changed.inputs["images"] = changed.inputs["images"].clone()
    changed.inputs["images"][0, 0, 0, 0] ^= 128
    with pytest.raises(AssertionError, match=r"^64: off by"):
        compare_all(changed, tmp_path)
