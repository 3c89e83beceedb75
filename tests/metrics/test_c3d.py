"""C3D as an extractor: the protocols' inputs, its files, clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from vidgen.errors import UserError
from vidgen.metrics.extractors import EXTRACTORS
from vidgen.metrics.extractors.c3d import (
    C3D,
    C3DNetwork,
    load,
    random_mean,
    random_state,
    read_mean,
    tgan2_input,
    tgan_input,
)
from vidgen.metrics.extractors.random_weights import fingerprint


@pytest.fixture(scope="module")
def extractor() -> C3D:
    return C3D("random")


def empty() -> C3DNetwork:
    with torch.device("meta"):
        return C3DNetwork()


def some_videos(number: int, length: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, length, 10, 12), dtype=torch.uint8, generator=generator)


def test_the_network_has_the_published_number_of_parameters():
    assert sum(parameter.numel() for parameter in empty().parameters()) == 78_409_573


def test_pools_round_up():
    with torch.device("meta"):
        results = C3DNetwork().endpoints(torch.zeros(2, 3, 16, 112, 112))
    shapes = {name: tuple(value.shape[1:]) for name, value in results.items()}
    assert shapes["pool1"] == (64, 16, 56, 56) and shapes["pool4"] == (512, 2, 7, 7)
    assert shapes["pool5"] == (512, 1, 4, 4)
    assert (shapes["fc6"], shapes["fc7"], shapes["fc8"]) == ((4096,), (4096,), (101,))


def test_channels_are_reversed_and_the_mean_is_cut_at_the_protocols_place():
    pixels = torch.zeros(1, 3, 16, 5, 5)
    pixels[:, 0] = 100.0  # red
    mean = torch.arange(171.0).expand(3, 16, 128, 171).clone()
    mean[:, :, 8] += 1000
    for function, column in ((tgan_input, 29), (tgan2_input, 8)):
        x = function(pixels, mean)
        assert x.shape == (1, 3, 16, 112, 112)
        blue, _, red = x[0, :, 3, :, 0]
        assert torch.allclose(blue[1:], torch.full((111,), -float(column)), atol=1e-4)
        assert torch.allclose(red[1:], torch.full((111,), 100.0 - column), atol=1e-4)
        assert blue[0] == pytest.approx(-1000.0 - column)


def test_features_and_class_scores(extractor, monkeypatch):
    videos = some_videos(2)
    original = videos.clone()
    layers = extractor.endpoints(videos)
    assert torch.equal(videos, original)
    assert layers["fc7"].min() == 0 and layers["fc8"].min() < 0
    with torch.autocast("cpu", torch.bfloat16):  # changes nothing
        alone = extractor.endpoints(videos[1:])
    for name in ("fc7", "fc8"):
        assert alone[name].dtype == torch.float32 and not alone[name].requires_grad
        assert (alone[name] - layers[name][1:]).abs().max() <= 1e-5 * layers[name].abs().max()
    monkeypatch.setattr(extractor, "endpoints", lambda given: layers)
    assert extractor(videos) is layers["fc7"] and extractor.logits(videos) is layers["fc8"]
    assert tuple(layers["fc7"].shape) == (2, extractor.num_features) and layers["fc8"].shape == (2, 101)


@pytest.mark.parametrize("length", [15, 17])
def test_exactly_sixteen_frames(extractor, length):
    with pytest.raises(ValueError) as caught:
        extractor(some_videos(1, length))
    words = "at least" if length < 16 else "exactly"
    assert str(caught.value) == f"c3d: needs videos of {words} 16 frames, got {length}"


def test_it_is_known_by_name_and_classifies(extractor):
    assert EXTRACTORS.get("c3d") is C3D and extractor.name == "c3d" and extractor.classifies


def test_it_describes_what_it_does(extractor):
    described = extractor.describe()
    assert described.pop("weights")["name"] == "random"
    mean = fingerprint({"mean": random_mean()})
    assert described == {"name": "c3d", "layer": "fc7", "protocol": "tgan", "mean": mean, "precision": "float32"}


def test_an_unknown_protocol():
    with pytest.raises(UserError) as caught:
        C3D("random", protocol="tgan3")  # type: ignore[arg-type]
    assert str(caught.value) == "unknown C3D protocol 'tgan3' (known: tgan, tgan2, styleganv)"


class Tiny(nn.Module):
    """Two of the network's layers, smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1a, self.fc8 = nn.Conv3d(3, 2, 3), nn.Linear(4, 5)


def test_files_with_the_names_of_chainer_and_of_pytorch(tmp_path):
    network = Tiny()
    state = random_state(network)
    chainer = {key.replace(".weight", "/W").replace(".bias", "/b"): value.numpy() for key, value in state.items()}
    np.savez(tmp_path / "x.npz", **chainer)
    torch.save(state, tmp_path / "x.pt")
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "parallel.pt")
    for name in ("x.npz", "x.pt", "parallel.pt"):
        read = Tiny()
        weights = load(read, str(tmp_path / name))
        assert torch.equal(read.fc8.weight, state["fc8.weight"])
        assert (weights.name, weights.published, weights.file) == ("unknown", False, name)
    del state["fc8.bias"]
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(UserError) as caught:
        load(Tiny(), str(tmp_path / "x.pt"))
    assert str(caught.value) == f"{tmp_path / 'x.pt'}: does not fit Tiny (lacks 'fc8.bias')"


def test_the_mean_of_a_file(tmp_path):
    mean = random_mean()
    np.savez(tmp_path / "mean.npz", mean=mean.numpy())
    assert torch.equal(read_mean(tmp_path / "mean.npz"), mean)
    np.savez(tmp_path / "other.npz", average=mean.numpy())
    np.savez(tmp_path / "small.npz", mean=np.zeros((3, 2), np.float32))
    mean[0, 0, 0, 0] = torch.nan
    np.savez(tmp_path / "nan.npz", mean=mean.numpy())
    whats = {"other": "has no array 'mean'", "small": "'mean' is (3, 2)", "nan": "'mean' holds NaN or infinity"}
    for name, what in whats.items():
        path = tmp_path / f"{name}.npz"
        with pytest.raises(UserError) as caught:
            read_mean(path)
        needed = "an array 'mean' (3, 16, 128, 171) is needed"
        assert str(caught.value) == f"{path}: is no mean clip for C3D ({what}); {needed}"
