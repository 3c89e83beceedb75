"""The VideoMAE extractor, at a small width; full width is built on the meta device only."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from vidgen.errors import UserError
from vidgen.metrics.extractors import EXTRACTORS
from vidgen.metrics.extractors.random_weights import filled_state
from vidgen.metrics.extractors.videomae import Architecture, VideoMAE, build, from_official, sinusoids

SMALL = Architecture(width=24, depth=3, heads=4, hidden=40, patch=56)  # 4x4 places, 8 times


def videos(batch: int = 2, length: int = 16, seed: int = 0, channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(seed).integers(0, 256, (batch, channels, length, 20, 31), dtype=np.uint8)
    )


def official_state(arch: Architecture = SMALL) -> dict[str, torch.Tensor]:
    """Closed-form weights under the names of the official file."""
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (arch.width, 3, 2, arch.patch, arch.patch),
        "patch_embed.proj.bias": (arch.width,),
    }
    layers = {"attn.proj": (arch.width, arch.width), "mlp.fc1": (arch.hidden, arch.width)}
    layers |= {"mlp.fc2": (arch.width, arch.hidden), "norm1": (arch.width,), "norm2": (arch.width,)}
    for index in range(arch.depth):
        block = f"blocks.{index}"
        shapes |= {f"{block}.{name}.weight": shape for name, shape in layers.items()}
        shapes |= {f"{block}.{name}.bias": shape[:1] for name, shape in layers.items()}
        shapes |= {f"{block}.attn.{name}": (arch.width,) for name in ("q_bias", "v_bias")}
        shapes[f"{block}.attn.qkv.weight"] = (3 * arch.width, arch.width)
    shapes |= {"fc_norm.weight": (arch.width,), "fc_norm.bias": (arch.width,)}
    shapes |= {"head.weight": (174, arch.width), "head.bias": (174,)}
    return filled_state(shapes, gamma_one=False)


@pytest.fixture(scope="module")
def extractor() -> VideoMAE:
    return VideoMAE("random", SMALL)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> VideoMAE:
    path = tmp_path_factory.mktemp("weights") / "ft.pth"
    torch.save({"module": official_state()}, path)
    return VideoMAE(path, SMALL)


def test_it_is_registered():
    assert EXTRACTORS.get("videomae") is VideoMAE


def test_full_width_has_the_parameters_of_the_published_network():
    with torch.device("meta"):
        network = build(Architecture())
    biases_of_keys = 40 * 1408
    # transformers' VideoMAEForVideoClassification of this size has 1,011,855,918 with its 174 classes.
    classes = 174 * 1408 + 174
    assert sum(value.numel() for value in network.parameters()) == 1_011_855_918 - classes + biases_of_keys
    assert network.patch_embed.num_patches == 8 * 16 * 16 and network.patch_embed.positions.device.type == "cpu"
    assert network.blocks[0].mlp.fc1.weight.shape == (6144, 1408)


# What it computes


def normed(x: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def attended(x: np.ndarray, state: dict[str, np.ndarray], name: str, heads: int) -> np.ndarray:
    """Attention of one clip's tokens, head by head; keys have no bias."""
    kernels = np.split(state[f"{name}.qkv.weight"], 3)
    queries = x @ kernels[0].T + state[f"{name}.q_bias"]
    keys = x @ kernels[1].T
    values = x @ kernels[2].T + state[f"{name}.v_bias"]
    mixed = []
    for q, k, v in zip(*(np.split(part, heads, axis=1) for part in (queries, keys, values)), strict=True):
        scores = np.exp(q @ k.T / np.sqrt(q.shape[1]))
        mixed.append(scores / scores.sum(1, keepdims=True) @ v)
    return np.concatenate(mixed, 1) @ state[f"{name}.proj.weight"].T + state[f"{name}.proj.bias"]


def perceptron(x: np.ndarray, state: dict[str, np.ndarray], name: str) -> np.ndarray:
    inner = x @ state[f"{name}.fc1.weight"].T + state[f"{name}.fc1.bias"]
    return (inner * norm.cdf(inner)) @ state[f"{name}.fc2.weight"].T + state[f"{name}.fc2.bias"]


def plainly(clip: np.ndarray, state: dict[str, np.ndarray], arch: Architecture) -> np.ndarray:
    """The network on one clip ``(3, 16, 224, 224)`` in [0, 1], in NumPy with float64."""
    tokens, side, p = [], 224 // arch.patch, arch.patch
    kernel = state["patch_embed.proj.weight"].reshape(arch.width, -1)
    for t in range(8):
        for row in range(side):
            for column in range(side):
                patch = clip[:, 2 * t : 2 * t + 2, p * row : p * row + p, p * column : p * column + p]
                tokens.append(kernel @ patch.reshape(-1) + state["patch_embed.proj.bias"])
    x = np.stack(tokens)
    for place in range(len(x)):
        for entry in range(arch.width):
            angle = place / 10000 ** ((entry - entry % 2) / arch.width)
            x[place, entry] += np.cos(angle) if entry % 2 else np.sin(angle)
    for index in range(arch.depth):
        block = f"blocks.{index}"
        x = x + attended(normed(x, state, f"{block}.norm1"), state, f"{block}.attn", arch.heads)
        x = x + perceptron(normed(x, state, f"{block}.norm2"), state, f"{block}.mlp")
    return normed(x.mean(0), state, "fc_norm")


def test_it_equals_a_plain_network_on_the_same_weights(loaded):
    batch = videos()
    clips = loaded.preprocessing(batch).double().numpy()
    state = {key: value.double().numpy() for key, value in official_state().items()}
    expected = np.stack([plainly(clip, state, SMALL) for clip in clips])
    assert np.abs(loaded(batch).numpy() - expected).max() < 2e-5


# fc_norm of the mean of the last hidden state of VideoMAEForVideoClassification (transformers 5.23.0, use_mean_pooling,
# layer_norm_eps=1e-6) for videos(1) and official_state().
TRANSFORMERS = [
    0.540685,
    0.587396,
    -0.263328,
    0.757759,
    0.417256,
    0.014397,
    -0.19753,
    1.48017,
    -1.915622,
    0.320216,
    -0.163575,
    -1.242292,
    -0.677647,
    0.530883,
    -2.053079,
    0.30631,
    -1.048835,
    3.060124,
    -0.998424,
    1.292943,
    -0.216896,
    0.258558,
    -0.218627,
    -0.598831,
]


def test_it_equals_transformers_on_the_same_weights(loaded):
    assert torch.allclose(loaded(videos(1))[0], torch.tensor(TRANSFORMERS), rtol=0, atol=1e-5)


def test_frames_are_stretched_into_0_to_1_and_not_normalised(extractor):
    step = torch.zeros(1, 1, 16, 1, 4, dtype=torch.uint8)
    step[..., 2:] = 255
    row = extractor.preprocessing(step)[0, 0, 0, 0]
    places = ((torch.arange(224) + 0.5) * 4 / 224 - 0.5 - 1).clamp(
        0, 1
    )  # from the second pixel's centre to the third's
    assert row.shape == (224,) and torch.allclose(row, places, atol=1e-6)


def test_each_video_has_its_own_answer(extractor):
    batch = videos(3)
    features = extractor(batch)
    assert features.shape == (3, 24) and features.dtype == torch.float32 and extractor.num_features == 24
    for index in range(3):
        assert torch.allclose(features[index], extractor(batch[index : index + 1])[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(features[0], features[1], rtol=1e-3)


def test_the_order_of_frames_matters(extractor):
    batch = videos(1)
    assert not torch.allclose(extractor(batch), extractor(batch.flip(2)), rtol=1e-3)


def test_grey_videos_have_three_equal_channels(extractor):
    grey = videos(1, channels=1)
    assert torch.equal(extractor(grey), extractor(grey.repeat(1, 3, 1, 1, 1)))


def test_the_video_is_not_changed(extractor):
    batch = videos(1)
    before = batch.clone()
    extractor(batch)
    assert torch.equal(batch, before)


@pytest.mark.parametrize("length", [1, 15, 17, 32])
def test_only_clips_of_16_frames_are_taken(extractor, length):
    with pytest.raises(ValueError) as caught:
        extractor(videos(1, length))
    assert str(caught.value) == f"videomae: takes videos of exactly 16 frames, got {length}"
    assert extractor.min_frames == 16


def test_positions_are_single_precision_of_exact_angles():
    table = sinusoids(2048, 1408)
    assert table.shape == (2048, 1408) and table.dtype == torch.float32
    assert table[2047, 0].item() == pytest.approx(np.sin(2047.0), abs=1e-7)  # an angle in float32 would be off by 1e-4
    assert table[2047, 3].item() == pytest.approx(np.cos(2047 / 10000 ** (2 / 1408)), abs=1e-7)


# Weight files


def test_the_joint_bias_has_zeros_for_the_keys():
    state = official_state()
    converted = from_official(state)
    for index in range(SMALL.depth):
        query, key, value = converted[f"blocks.{index}.attn.qkv.bias"].chunk(3)
        assert torch.equal(query, state[f"blocks.{index}.attn.q_bias"]) and not key.any()
        assert torch.equal(value, state[f"blocks.{index}.attn.v_bias"])


def test_half_precision_files_become_single(tmp_path):
    half = {key: value.half() for key, value in official_state().items()}
    torch.save({"module": half}, tmp_path / "half.pth")
    network = VideoMAE(tmp_path / "half.pth", SMALL).network
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert torch.equal(network.fc_norm.weight, half["fc_norm.weight"].float())


def test_a_file_that_is_not_the_published_one_is_unknown(loaded):
    assert (loaded.weights.name, loaded.weights.published, loaded.weights.file) == ("unknown", False, "ft.pth")


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("blocks.1.attn.q_bias", "blocks.1.attn.qkv.bias"),
        ("blocks.1.attn.v_bias", "blocks.1.attn.qkv.bias"),
        ("blocks.2.norm1.weight", "blocks.2.norm1.weight"),
        ("fc_norm.bias", "fc_norm.bias"),
    ],
)
def test_an_incomplete_file_is_refused(tmp_path, missing, named):
    state = official_state()
    del state[missing]
    torch.save(state, tmp_path / "f.pth")
    with pytest.raises(UserError) as caught:
        VideoMAE(tmp_path / "f.pth", SMALL)
    assert str(caught.value) == f"{tmp_path / 'f.pth'}: does not fit VisionTransformer (lacks {named!r})"


def test_a_file_of_another_size_is_refused(tmp_path):
    torch.save(official_state(), tmp_path / "f.pth")
    with pytest.raises(UserError) as caught:
        VideoMAE(tmp_path / "f.pth", Architecture(width=48, depth=3, heads=4, hidden=40, patch=56))
    shapes = "('patch_embed.proj.weight' is (24, 3, 2, 56, 56) instead of (48, 3, 2, 56, 56))"
    assert str(caught.value) == f"{tmp_path / 'f.pth'}: does not fit VisionTransformer {shapes}"


def test_nothing_is_downloaded_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDGEN_OFFLINE", "1")
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        VideoMAE()
    assert str(caught.value) == (
        "vit_g_hybrid_pt_1200e_ssv2_ft.pth: not in the cache, and VIDGEN_OFFLINE is set; get "
        "https://huggingface.co/OpenGVLab/VideoMAE2/resolve/main/mae-g/vit_g_hybrid_pt_1200e_ssv2_ft.pth "
        "(sha256:5a210a92f035dff30c53b46157b612e7a1a5d3c99700e1b2d71da5c399ca7e70) and put it at "
        f"{tmp_path}/weights/vit_g_hybrid_pt_1200e_ssv2_ft.pth, or name it with --weights FILE"
    )


# What it says of itself


def test_settings_tell_everything(extractor):
    described = extractor.describe()
    assert described.pop("weights")["name"] == "random"
    assert described == {
        "name": "videomae",
        "network": asdict(SMALL),
        "layer": "norm of the mean of the last tokens",
        "preprocessing": extractor.preprocessing.describe(),
        "frames": 16,
        "precision": "float32",
    }


def test_it_stays_frozen_inside_a_training_module(extractor):
    holder = nn.Sequential(extractor).train()
    assert not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in holder.parameters())
    assert not extractor(videos(1)).requires_grad


def test_it_has_no_classes(extractor):
    assert not extractor.classifies
    with pytest.raises(NotImplementedError, match=r"^VideoMAE has no classes$"):
        extractor.logits(videos(1))


def test_floats_are_refused(extractor):
    with pytest.raises(TypeError, match=r"^videomae: takes uint8 videos in 0 \.\. 255, not torch\.float32"):
        extractor(videos().float())


def test_the_precision_around_it_changes_nothing(extractor):
    batch = videos(1)
    torch.set_default_dtype(torch.float64)
    try:
        found = [network(batch) for network in (extractor, VideoMAE("random", SMALL))]
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found.append(extractor(batch))
    expected = extractor(batch)
    assert all(torch.equal(features, expected) for features in found)
