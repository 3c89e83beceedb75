"""LPIPS's network: built without a download, equal to the formula of its paper on the same weights."""

from __future__ import annotations

import hashlib
import inspect
import re
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchmetrics.functional.image.lpips as library
import torchvision
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.metrics import lpips_trunk
from vidgen.metrics.extractors.random_weights import filled_state
from vidgen.metrics.lpips_trunk import FILES, MIN_SIDE, LpipsNetwork, lpips_network

NETS = ("alex", "vgg", "squeeze")
# Indices in torchvision's features after which the paper compares.
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29), "squeeze": (1, 4, 7, 9, 10, 11, 12)}
MAKERS = {
    "alex": torchvision.models.alexnet,
    "vgg": torchvision.models.vgg16,
    "squeeze": torchvision.models.squeezenet1_1,
}


def features(net: str) -> nn.Sequential:
    """torchvision's trunk without its classes, on the meta device."""
    with torch.device("meta"):
        return MAKERS[net](weights=None).features.eval()


def trunk_state(net: str) -> dict[str, Tensor]:
    """Closed-form weights under torchvision's names, with a classifier that nobody needs."""
    shapes = {f"features.{key}": tuple(value.shape) for key, value in features(net).state_dict().items()}
    return filled_state({**shapes, "classifier.1.weight": (10, 3)}, salt="tv:")


def pair(side: int = 40, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    first, second = (torch.rand(batch, 3, side, side + 3, generator=generator) * 2 - 1 for _ in range(2))
    return first, second


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("trunks")
    for net in NETS:
        torch.save(trunk_state(net), folder / f"{net}.pth")
    return {net: folder / f"{net}.pth" for net in NETS}


@pytest.fixture(scope="module")
def networks(files: dict[str, Path]) -> dict[str, LpipsNetwork]:
    return {net: lpips_network(net, files[net]) for net in NETS}


def by_the_paper(net: str, first: Tensor, second: Tensor) -> Tensor:
    """Equation 1: squared differences of unit-length features, weighted by channel, averaged over places, summed."""
    shipped = Path(inspect.getfile(library)).parent / "lpips_models" / f"{net}.pth"
    heads = torch.load(shipped, map_location="cpu", weights_only=True)
    trunk = features(net)
    state = {key.removeprefix("features."): value for key, value in trunk_state(net).items()}
    trunk.load_state_dict({key: state[key] for key in trunk.state_dict()}, assign=True)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = ((images - shift[:, None, None]) / scale[:, None, None] for images in (first, second))
    total = torch.zeros(len(first))
    with torch.no_grad():
        for index, layer in enumerate(trunk[: TAPS[net][-1] + 1]):
            x, y = layer(x), layer(y)
            if index in TAPS[net]:
                weights = heads[f"lin{TAPS[net].index(index)}.model.1.weight"]  # (1, C, 1, 1)
                unit = [values / (values.square().sum(1, keepdim=True) + 1e-8).sqrt() for values in (x, y)]
                total += ((unit[0] - unit[1]).square() * weights).sum(1).mean((1, 2))
    return total


@pytest.mark.parametrize("net", NETS)
def test_it_equals_the_papers_formula_on_the_same_trunk(networks, net):
    first, second = pair()
    distances = networks[net](first, second)
    assert distances.shape == (2,) and distances.dtype == torch.float32
    assert (distances > 0.01).all()
    assert torch.allclose(distances, by_the_paper(net, first, second), rtol=1e-4, atol=1e-6)


def test_it_equals_torchmetrics_metric_on_the_same_trunk(networks, monkeypatch):
    def trunk(name: str, pretrained: bool) -> nn.Sequential:
        network = features("squeeze")
        state = {key.removeprefix("features."): value for key, value in trunk_state("squeeze").items()}
        network.load_state_dict({key: state[key] for key in network.state_dict()}, assign=True)
        return network

    monkeypatch.setattr(library, "_get_tv_model_features", trunk)
    first, second = pair()
    theirs = library.learned_perceptual_image_patch_similarity(first, second, "squeeze", reduction="none")
    assert torch.allclose(networks["squeeze"](first, second), theirs, rtol=1e-5, atol=1e-7)


def test_nothing_is_downloaded_when_it_is_built(files, monkeypatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    for net in ("alex", "squeeze"):
        lpips_network(net, files[net])


def test_equal_images_are_at_no_distance(networks):
    first, _ = pair()
    assert networks["alex"](first, first).tolist() == [0, 0]


def test_a_pair_may_be_turned_round(networks):
    first, second = pair()
    assert torch.equal(networks["alex"](first, second), networks["alex"](second, first))


def test_a_pairs_distance_does_not_depend_on_the_others(networks):
    first, second = pair()
    assert networks["squeeze"](first[1:], second[1:]).item() == pytest.approx(
        networks["squeeze"](first, second)[1].item(), rel=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_floats_are_taken(networks, dtype):
    first, second = (images.to(dtype) for images in pair())
    expected = networks["squeeze"](first.float(), second.float())
    assert torch.equal(networks["squeeze"](first, second), expected)


@pytest.mark.parametrize("net", NETS)
def test_images_may_be_as_small_as_is_said(networks, net):
    least = MIN_SIDE[net]
    images = torch.zeros(1, 3, least, least)
    assert networks[net](images, images).tolist() == [0]
    with pytest.raises(RuntimeError, match="too small"):
        networks[net].network(images[..., :-1], images[..., :-1])
    with pytest.raises(ValueError) as caught:
        networks[net](images[..., :-1], images[..., :-1])
    expected = f"lpips: {net} needs images of at least {least}x{least} pixels, not {least}x{least - 1}"
    assert str(caught.value) == expected


@pytest.mark.parametrize(
    ("first", "second", "error", "expected"),
    [
        (
            torch.zeros(1, 3, 40, 40, dtype=torch.uint8),
            torch.zeros(1, 3, 40, 40, dtype=torch.uint8),
            TypeError,
            "lpips: takes floating images in [-1, 1], not torch.uint8",
        ),
        (
            torch.zeros(1, 3, 40, 40),
            torch.zeros(2, 3, 40, 40),
            ValueError,
            "lpips: takes pairs of equal shapes, not (1, 3, 40, 40) and (2, 3, 40, 40)",
        ),
        (
            torch.zeros(1, 1, 40, 40),
            torch.zeros(1, 1, 40, 40),
            ValueError,
            "lpips: takes images (N, 3, H, W), not (1, 1, 40, 40)",
        ),
        (
            torch.zeros(1, 3, 40, 40),
            torch.full((1, 3, 40, 40), 1.5),
            ValueError,
            "lpips: takes images in [-1, 1], and these are not or hold NaN",
        ),
        (
            torch.zeros(1, 3, 40, 40),
            torch.full((1, 3, 40, 40), -1.5),
            ValueError,
            "lpips: takes images in [-1, 1], and these are not or hold NaN",
        ),
        (
            torch.full((1, 3, 40, 40), torch.nan),
            torch.zeros(1, 3, 40, 40),
            ValueError,
            "lpips: takes images in [-1, 1], and these are not or hold NaN",
        ),
    ],
)
def test_what_is_no_pair_of_images_is_refused(networks, first, second, error, expected):
    with pytest.raises(error, match=f"^{re.escape(expected)}$"):
        networks["squeeze"](first, second)


def test_it_stays_frozen_inside_a_training_module(networks):
    network = networks["alex"]
    nn.Sequential(network).train()
    network.train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    images = torch.zeros(1, 3, 40, 40, requires_grad=True)
    assert not network(images, images).requires_grad


def test_autocast_around_it_changes_nothing(networks):
    first, second = pair()
    with torch.autocast("cpu", torch.bfloat16):
        found = networks["alex"](first, second)
    assert torch.equal(found, networks["alex"](first, second))


def test_another_default_precision_changes_nothing(networks, files):
    torch.set_default_dtype(torch.float64)
    try:
        other = lpips_network("alex", files["alex"])
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(other(*pair()), networks["alex"](*pair()))


def test_random_weights_are_the_same_every_time():
    first, second = (lpips_network("squeeze", "random") for _ in range(2))
    assert first.weights == second.weights
    assert (first.weights.name, first.weights.published) == ("random", False)


def test_settings_tell_what_must_be_equal(networks):
    assert networks["vgg"].settings() == {"net": "vgg", "heads": "0.1", "range": "[-1, 1]", "precision": "float32"}


# Weight files


def test_a_file_that_is_not_the_published_one_is_unknown(networks):
    weights = networks["alex"].weights
    assert (weights.name, weights.published, weights.file) == ("unknown", False, "alex.pth")


def test_the_published_file_is_known_by_its_checksum(files, monkeypatch):
    checksum = f"sha256:{hashlib.sha256(files['squeeze'].read_bytes()).hexdigest()[:8]}"
    monkeypatch.setitem(FILES, "squeeze", replace(FILES["squeeze"], checksum=checksum))
    weights = lpips_network("squeeze", files["squeeze"]).weights
    assert (weights.name, weights.published) == ("squeezenet1_1-b8a52dc0", True)


def test_the_files_are_torchvisions():
    weights = torchvision.models
    published = [weights.AlexNet_Weights, weights.VGG16_Weights, weights.SqueezeNet1_1_Weights]
    assert [FILES[net].url for net in NETS] == [each.IMAGENET1K_V1.url for each in published]
    for file in FILES.values():
        assert file.url.endswith(file.name) and f"-{file.checksum.removeprefix('sha256:')[:8]}.pth" in file.name


@pytest.mark.parametrize("net", NETS)
def test_without_a_file_one_line_tells_what_to_do(net, monkeypatch, tmp_path):
    monkeypatch.setenv("VIDGEN_OFFLINE", "1")
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path))
    file = FILES[net]
    with pytest.raises(UserError) as caught:
        lpips_network(net)
    assert str(caught.value) == (
        f"{file.name}: not in the cache, and VIDGEN_OFFLINE is set; get {file.url} ({file.checksum}) and put it at "
        f"{tmp_path / 'weights' / file.name}, or name it with --weights FILE"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"features.0.bias": None}, "lacks 'slices.0.0.bias'"),
        ({"features.20.weight": torch.ones(1)}, "has an unknown 'features.20.weight'"),
    ],
)
def test_another_networks_file_is_refused(tmp_path, change, expected):
    state = {key: value for key, value in {**trunk_state("squeeze"), **change}.items() if value is not None}
    torch.save(state, tmp_path / "f.pth")
    with pytest.raises(UserError) as caught:
        lpips_network("squeeze", tmp_path / "f.pth")
    assert str(caught.value) == f"{tmp_path / 'f.pth'}: does not fit SqueezeNet ({expected})"


def test_an_unknown_net_is_refused():
    with pytest.raises(UserError) as caught:
        lpips_network("alexnet")
    assert str(caught.value) == "lpips: unknown net 'alexnet'; did you mean 'alex'? (known: alex, vgg, squeeze)"


def test_names_of_the_trunk_are_kept_apart_from_slices():
    state = {"features.3.squeeze.weight": torch.ones(1)}
    network = library._NoTrainLpips(net="squeeze", pnet_rand=True)
    assert list(lpips_trunk._from_torchvision(state, network.net)) == ["slices.1.3.squeeze.weight"]
