"""Inception-I3D gives the numbers of TensorFlow's and of the ported networks (``metrics/i3d_*.pt``,
``metrics/fvd_end_to_end.pt``, the network in ``tats/fvd.pt``), and its weight files have the published checksums.

The files come from ``$VIDGEN_REFERENCE``, else from ``tests/fixtures/metrics/make_i3d.py``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.parity.fixtures import files, folder
from vidgen.metrics.extractors.i3d import I3D
from vidgen.metrics.extractors.i3d_network import FastInceptionI3D, InceptionI3D, MaxPool, Unit3D
from vidgen.metrics.extractors.i3d_weights import _table, _tensorflow_crc32c, _tensorflow_name
from vidgen.metrics.extractors.random_weights import filled, filled_state
from vidgen.metrics.frechet import frechet_from_features
from vidgen.metrics.kernel_distance import polynomial_mmd
from vidgen.metrics.preprocessing import PROTOCOLS
from vidgen.metrics.video_distances import FrechetVideoDistance

TOLERANCE = 1e-5
"""Of the largest number of a result."""
OTHER_EPS = "embedding_if_eps_were_1e-3"
RENAMED = {"extract_features": "AvgPool", "logits": "Logits"}
NETWORKS = sorted({"i3d_tfhub.pt", "i3d_pytorch.pt", "i3d_videogpt.pt"} & set(files("metrics")))
FINGERPRINTS = torch.load(folder("metrics") / "i3d_weight_fingerprints.pt", weights_only=True)

DEFAULTS = {"num_classes": 400, "in_channels": 3}

Reference = dict[str, Any]


def load(name: str) -> Reference:
    reference = torch.load(folder("metrics") / name, weights_only=True)
    assert set(reference) - {"notes"} == {"config", "state", "inputs", "outputs"} and not reference["state"]
    known = {"num_classes", "in_channels", "bn_eps", "gamma_one", "salt", "fill", "input_rule"}
    assert set(reference["config"]) - known <= {"state_shapes", "state_sums_float64"}
    return reference


def clips(video: Tensor) -> Tensor:
    """``(B, T, H, W, 3)`` bytes to ``(B, 3, T, 224, 224)`` in [-1, 1], each pixel repeated."""
    side = 224 // video.shape[2]
    pixels = video.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return 2 * pixels.permute(0, 4, 1, 2, 3).float() / 255 - 1


def cases(reference: Reference) -> Iterator[tuple[str, Reference]]:
    """Names of the videos, and what is expected of them: results by the network's names, and embeddings."""
    inputs, outputs = reference["inputs"], reference["outputs"]
    several = "embedding" not in outputs
    if several:
        assert {name.removeprefix("video_") for name in inputs} == set(outputs)
    for name in inputs:
        found = dict(outputs[name.removeprefix("video_")] if several else outputs)
        found.update(found.pop("endpoints", {}))
        yield name, {RENAMED.get(key, key): value for key, value in found.items()}


def network(config: Reference, eps: float | None = None) -> InceptionI3D:
    with torch.device("meta"):
        made = InceptionI3D(config["num_classes"], config["in_channels"], eps or config["bn_eps"])
    shapes = config.get("state_shapes") or {key: tuple(value.shape) for key, value in made.state_dict().items()}
    made.load_state_dict(filled_state(shapes, config["salt"], config["gamma_one"]), assign=True)
    return made.eval()


def assert_close(what: str, actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    error = (actual.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert error <= tolerance, f"{what}: off by {error:.3g}"


def assert_summary(what: str, actual: Tensor, expected: Reference) -> None:
    """Shape, mean, standard deviation, norm and some numbers of a result."""
    assert set(expected) == {"shape", "mean", "std", "l2", "sample_idx", "sample"}
    assert list(actual.shape) == expected["shape"]
    wide = actual.double()
    for name, value in (("mean", wide.mean()), ("std", wide.std()), ("l2", wide.norm())):
        assert value.item() == pytest.approx(expected[name], rel=TOLERANCE), f"{what}: {name}"
    assert_close(what, actual.flatten()[expected["sample_idx"]], expected["sample"])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_closed_form_weights(name):
    config = load(name)["config"]
    state = network(config).state_dict()
    if "state_shapes" in config:
        assert {key: list(value.shape) for key, value in state.items()} == config["state_shapes"]
    for key, total in config.get("state_sums_float64", {}).items():
        assert state[key].double().sum().item() == pytest.approx(total, abs=1e-5), key


@pytest.mark.parametrize("name", NETWORKS)
def test_every_result_of_the_network(name):
    reference = load(name)
    plain = network(reference["config"])
    fast = FastInceptionI3D(plain)
    for case, expected in cases(reference):
        x = clips(reference["inputs"][case])
        with torch.inference_mode():
            results = plain.endpoints(x)
            embedding = fast(x)
        for key in expected.keys() - {"embedding", OTHER_EPS}:
            if isinstance(expected[key], dict):
                assert_summary(f"{case}: {key}", results[key], expected[key])
            else:
                assert_close(f"{case}: {key}", results[key], expected[key])
        assert_close(f"{case}: embedding", results["Logits"].mean(2), expected["embedding"])
        assert_close(f"{case}: embedding, fast", embedding, expected["embedding"])
        if OTHER_EPS in expected:
            with torch.inference_mode():
                other = FastInceptionI3D(network(reference["config"], eps=1e-3))(x)
            assert_close(f"{case}: {OTHER_EPS}", other, expected[OTHER_EPS])


def test_another_epsilon_is_noticed():
    reference = load("i3d_tfhub.pt")
    case, expected = next(cases(reference))
    with torch.inference_mode():
        embedding = FastInceptionI3D(network(reference["config"], eps=1e-5))(clips(reference["inputs"][case]))
    with pytest.raises(AssertionError, match="embedding: off by"):
        assert_close("embedding", embedding, expected["embedding"])


PUBLISHED = {"tf_original": "original", "constant_0_vs_255_T15": "original"}
"""Names of protocols where the file has others."""
END_TO_END = torch.load(folder("metrics") / "fvd_end_to_end.pt", weights_only=True)


def sets(name: str) -> dict[str, Tensor]:
    """Videos ``(N, 3, T, H, W)`` by the names of their embeddings."""
    if name == "constant_0_vs_255_T15":
        return {
            f"emb_{key}": torch.full((1, 3, 15, 32, 32), level).byte() for key, level in (("zero", 0), ("255", 255))
        }
    return {f"emb_{key.lower()}": value.permute(0, 4, 1, 2, 3) for key, value in END_TO_END["inputs"].items()}


def distance(kind: str, x: Tensor, y: Tensor) -> tuple[float, float]:
    """A distance of embeddings, and the size of the terms that it is the difference of."""
    if kind == "kvd":
        return polynomial_mmd(x, y).item(), (torch.cat([x, y]).square().mean(1) + 1).pow(3).max().item()
    ddof = 0 if kind in ("fvd", "fvd_biased") else 1
    value = frechet_from_features(x, y, ddof).item()
    return value, value


def test_every_key_of_the_file_of_distances_is_consumed_here():
    assert set(END_TO_END) - {"notes"} <= {"config", "state", "inputs", "outputs"} and not END_TO_END.get("state")
    assert set(END_TO_END["config"]) <= {"salt", "gamma_one", "fill"}
    assert {PUBLISHED.get(name, name) for name in END_TO_END["outputs"]} <= set(PROTOCOLS)


@pytest.mark.parametrize("name", sorted(END_TO_END["outputs"]))
def test_embeddings_and_distances_of_a_protocol(name):
    expected, videos = dict(END_TO_END["outputs"][name]), sets(name)
    protocol = PUBLISHED.get(name, name)
    eps = 1e-5 if protocol in ("tats", "videogpt") else 1e-3
    extractor = I3D("random", preprocessing=PROTOCOLS[protocol], bn_eps=eps)
    extractor.network = FastInceptionI3D(network({**DEFAULTS, **END_TO_END["config"], "bn_eps": eps}))
    found = [extractor(videos[key]) for key in videos]
    for key, embedding in zip(videos, found, strict=True):
        assert_close(f"{name}: {key}", embedding, expected[key])
    theirs = [expected.pop(key) for key in videos]
    for kind, value in expected.items():
        assert kind in ("fvd", "fvd_unbiased", "fvd_biased", "fvd_float32_torch_svd", "kvd"), f"{name}: what is {kind}?"
        tolerance = 1e-3 if "float32" in kind else 1e-5  # of the embeddings' and of the published code's rounding
        for embeddings, looser in ((theirs, 1), (found, 10)):
            ours, scale = distance(kind, *embeddings)
            assert abs(ours - value) <= looser * tolerance * scale, f"{name}: {kind} is {ours} instead of {value}"


@pytest.mark.parametrize("name", ["styleganv", "tats"])
def test_the_metric_from_videos_to_the_number(name):
    metric = FrechetVideoDistance(name, weights="random")
    settings = {**DEFAULTS, **END_TO_END["config"], "bn_eps": metric.extractor.bn_eps}
    metric.extractor = copy.deepcopy(metric.extractor)  # others share it
    metric.extractor.network = FastInceptionI3D(network(settings))
    for key, real in (("A", True), ("B", False)):
        metric.update(END_TO_END["inputs"][key].permute(0, 4, 1, 2, 3), real=real)
    expected = END_TO_END["outputs"][name]["fvd_biased" if name == "styleganv" else "fvd_unbiased"]
    assert metric.compute().item() == pytest.approx(expected, rel=1e-4)


def test_checksums_of_filled_tensors():
    for name, expected in FINGERPRINTS["outputs"]["selftest"].items():
        tensor = filled(name, tuple(expected["shape"]), FINGERPRINTS["config"]["salt"])
        assert _tensorflow_crc32c(tensor) == expected["crc32c"], name


def test_the_published_weight_files():
    table = _table()
    assert set(FINGERPRINTS["outputs"]) == {"public", "selftest"}
    for name, tensors in FINGERPRINTS["outputs"]["public"].items():
        file = table["files"][name.replace("tfhub_i3d_kinetics_400_v1", "kinetics_i3d_rgb_scratch")]
        layout = table["layouts"][file["layout"]]
        assert file["git_blob"] == FINGERPRINTS["config"]["git_blob_sha1_of_data_file"][name]
        with torch.device("meta"):
            shapes = InceptionI3D(layout["classes"], layout["channels"]).state_dict()
        for key, expected in tensors.items():
            index = table["tensors"].index(key)
            assert file["crc32c"][index] == expected["crc32c"], f"{name}: {key}"
            assert layout["offsets"][index] == expected["offset"], f"{name}: {key}"
            assert 4 * shapes[key].numel() == expected["size"] == 4 * math.prod(expected["tf_shape"])
            assert expected["offset"] + expected["size"] <= layout["bytes"]
            assert _tensorflow_name(expected["tf_name"]) == key


def tats() -> Reference:
    """TATS' file, whose distances are compared elsewhere; the project's own one holds nothing but these."""
    return torch.load(folder("tats") / "fvd.pt", weights_only=True)


def test_same_padding_of_tats():
    reference = tats()
    x, outputs = reference["inputs"].get("pad_x"), reference["outputs"]
    pools = reference["config"].get("maxpool_cases", [])
    assert {key for key in outputs if key.startswith("maxpool_")} == {f"maxpool_{i}" for i in range(len(pools))}
    for index, (kernel, stride) in enumerate(pools):
        assert torch.equal(MaxPool(tuple(kernel), tuple(stride))(x), outputs[f"maxpool_{index}"])
    if "unit3d" in outputs:
        sizes, state = reference["config"]["unit3d"], reference["state"]
        channels, in_channels = state["unit3d.conv3d.weight"].shape[:2]
        unit = Unit3D(in_channels, channels, sizes["kernel"][0], sizes["stride"][0], reference["config"]["bn_eps"])
        unit.load_state_dict({key.removeprefix("unit3d."): value for key, value in state.items()})
        with torch.no_grad():
            assert_close("unit3d", unit.eval()(x), outputs["unit3d"])


def test_the_network_of_tats():
    reference = tats()
    outputs, config = reference["outputs"], reference["config"]
    if "i3d_logits" not in outputs:
        return
    with torch.device("meta"):
        plain = InceptionI3D(eps=1e-5)
    shapes = {key: tuple(value.shape) for key, value in plain.state_dict().items()}
    counters = {key: torch.tensor(0) for key in shapes if key.endswith("num_batches_tracked")}
    values = {
        key: tats_value(key, shapes[key], index + config["formula_offset"])
        for index, key in enumerate(config["i3d_keys"])
    }
    plain.load_state_dict({**values, **counters}, assign=True)
    x = PROTOCOLS["tats"](reference["inputs"]["clip"].permute(0, 4, 1, 2, 3))
    with torch.inference_mode():
        results = plain.eval().endpoints(x)
        assert_close("i3d_logits", FastInceptionI3D(plain)(x), outputs["i3d_logits"])
    assert_close("i3d_pooled_features", results["AvgPool"], outputs["i3d_pooled_features"])
    stages = [results[name] for name in ("Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3c", "Mixed_4f", "Mixed_5c")]
    assert_close("i3d_stage_mean", torch.stack([stage.mean() for stage in stages]), outputs["i3d_stage_mean"])
    assert_close("i3d_stage_std", torch.stack([stage.std() for stage in stages]), outputs["i3d_stage_std"])


def tats_value(key: str, shape: tuple[int, ...], index: int) -> Tensor:
    """The file's own closed form."""
    fan = math.prod(shape[1:]) if len(shape) == 5 else 2
    places = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    u = (places * 12.9898 + (index + 1) * 78.233).sin().abs().mul(43758.5453).frac()
    value = (2 * u - 1) * math.sqrt(3) * math.sqrt(2 / fan)
    if key.endswith("bn.weight"):
        value = 1 + 0.1 * value
    elif key.endswith("running_var"):
        value = 0.6 + 0.2 * value.abs()
    elif len(shape) != 5:
        value = 0.1 * value
    return value.float().view(shape)
