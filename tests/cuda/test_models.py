"""Models and layers on a GPU compute what they compute on the CPU, and stay there."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.running import build, largest_difference, train, variants, weights
from tests.contract.test_sampling import conditions, lively, whole_groups
from vidgen.layers.batch_norm import BatchNorm3d, FrameBatchNorm2d, Visits
from vidgen.layers.singular_values import PART, clip_scale, clip_singular_values, clip_to_lipschitz
from vidgen.seeding import NoiseStream

pytestmark = pytest.mark.cuda
DEVICE, ACCELERATOR = "cuda", "gpu"


class SameNoise(NoiseStream):
    """Numbers of the CPU's generator on any device: each device's generator gives its own otherwise."""

    def __init__(self, seed: int, device: torch.device | str = "cpu", *rest: Any) -> None:
        super().__init__(seed, "cpu", *rest)
        self.target = device

    def normal(self, *shape: int, batch_dim: int = 0) -> Tensor:
        return super().normal(*shape, batch_dim=batch_dim).to(self.target)

    def uniform(self, *shape: int, batch_dim: int = 0) -> Tensor:
        return super().uniform(*shape, batch_dim=batch_dim).to(self.target)

    def integers(self, high: int, *shape: int, batch_dim: int = 0) -> Tensor:
        return super().integers(high, *shape, batch_dim=batch_dim).to(self.target)


@pytest.mark.parametrize(("name", "variant"), variants())
def test_iterations_are_those_of_the_cpu(name: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidgen.models.base.NoiseStream", SameNoise)
    start = weights(build(name, variant))
    host, device = build(name, variant), build(name, variant)
    train(host, 2, precision="64-true")
    train(device, 2, precision="64-true", accelerator=ACCELERATOR, devices=1)
    found = {key: value.cpu() for key, value in weights(device).items()}
    assert largest_difference(weights(host), found) < 1e-6 < largest_difference(start, found)


@pytest.mark.parametrize(("name", "variant"), variants())
def test_samples_are_those_of_the_cpu(name: str, variant: str) -> None:
    host = lively(name, variant).double().eval()
    number = whole_groups(host, 3)
    given = conditions(host, number)
    device = copy.deepcopy(host).to(DEVICE)
    moved = {"batch": {key: value.to(DEVICE) for key, value in given["batch"].items()}} if given else {}
    expected = host.sample(number, seed=1, **given)
    assert expected.device.type == "cpu"
    for batch in (moved, given):  # what is given may lie on the host
        found = device.sample(number, seed=1, **batch)
        assert found.device.type == DEVICE and found.dtype == torch.float32
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_continuing_videos_on_the_device(statistics: str) -> None:
    host = lively("svg", "default").double().eval()
    device, batch = copy.deepcopy(host).to(DEVICE), conditions(host, 4)["batch"]
    expected = host.predict(4, batch=batch, sampling_statistics=statistics)
    found = device.predict(4, batch=batch, sampling_statistics=statistics)
    for one, other in zip(found, expected, strict=True):
        assert one.device.type == DEVICE
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=1e-5)
    video = batch["video"]
    torch.testing.assert_close(
        device.approximate_posterior(video, statistics).cpu(), host.approximate_posterior(video, statistics)
    )
    pieces, state = [], None
    for length in (1, 3, 2):
        made, state = device.stream(batch, state, num_frames=length, sampling_statistics=statistics)
        pieces.append(made)
    whole = device.sample(4, num_frames=6, batch=batch, sampling_statistics=statistics)
    torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=0, atol=1e-6)


def test_attributes_on_the_device() -> None:
    host = lively("video_vae", "observed").double().eval()
    host.attribute_counts.copy_(torch.tensor([3, 1, 2, 5, 1, 0]))
    device, video = copy.deepcopy(host).to(DEVICE), host.example_batch(4)["video"]
    for keywords in (
        {"observed": 0, "attributes": ["action=1@0,2@3"]},
        {"observed": 2, "batch": {"video": video}, "attributes": ["speed=2.5"], "show_given": True},
    ):
        found, expected = (model.sample(4, seed=1, num_frames=6, **keywords) for model in (device, host))
        torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(device.infer_attributes(video).cpu(), host.infer_attributes(video))
    torch.testing.assert_close(device.reconstruct(video).cpu(), host.reconstruct(video), rtol=0, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_grouped_frames_on_the_device(training: bool) -> None:
    host = FrameBatchNorm2d(3).double().train(training)
    with torch.no_grad():
        host.weight.uniform_(0.5, 1.5)
        host.bias.normal_()
    device, visits = copy.deepcopy(host).to(DEVICE), Visits(3, (0, 1, 1, 2))
    x = torch.randn(6, 3, 4, 4, dtype=torch.float64)
    found = device(x.to(DEVICE), visits)
    torch.testing.assert_close(found.cpu(), host(x, visits))
    for key, value in host.state_dict().items():
        torch.testing.assert_close(device.state_dict()[key].cpu(), value)


def forbid_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every way of asking a tensor on a device for its numbers fail."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a copy on the host")

    for way in ("cpu", "numpy", "tolist", "item", "__bool__", "__float__", "__int__", "__array__"):
        monkeypatch.setattr(Tensor, way, refuse)
    to = Tensor.to

    def stay(self: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        result = to(self, *arguments, **keywords)
        assert result.device == self.device, "a copy on another device"
        return result

    monkeypatch.setattr(Tensor, "to", stay)


SHAPES = [(5, 4, 4, 4, 4), (5, 256), (40, 5), (6, 3, 4, 4), (1, 100), (8, 2 * PART + 3), (64, 32, 4, 4, 4)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_singular_values_are_clipped_on_the_device(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [3 * torch.randn(shape, dtype=dtype) / shape[0] ** 0.5 for shape in SHAPES]
    found = [weight.to(DEVICE) for weight in expected]
    clip_singular_values(expected)
    with monkeypatch.context() as patch:
        forbid_the_host(patch)
        clip_singular_values(found)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)


def test_a_network_is_clipped_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv3d(3, 5, 4), BatchNorm3d(5, shift=False), nn.Conv2d(5, 1, 4), nn.Linear(7, 6))
    norm = network[1]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 2)
        norm.running_var.uniform_(0.5, 2)
    twin = nn.Sequential(nn.Conv3d(3, 5, 4), BatchNorm3d(5, shift=False), nn.Conv2d(5, 1, 4), nn.Linear(7, 6))
    twin.load_state_dict(network.state_dict())
    twin.to(DEVICE)
    clip_to_lipschitz(network)
    with monkeypatch.context() as patch:
        forbid_the_host(patch)
        clip_to_lipschitz(twin)
        clip_scale(twin[1])
    for one, other in zip(twin.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(one.detach().cpu(), other.detach(), rtol=0, atol=1e-5)
