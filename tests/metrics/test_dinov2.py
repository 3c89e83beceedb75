"""The DINOv2 extractor: frames as PIL resizes them, official files, and the class token.

Full width is built on the meta device only; small networks of timm stand in for it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import transforms

from vidgen.errors import UserError
from vidgen.metrics.extractors import EXTRACTORS, dinov2
from vidgen.metrics.extractors.dinov2 import DinoV2, build, from_official, resize_positions

SMALL = "test_vit"  # 6 blocks, width 64, patches of 16x16


def videos(batch: int = 2, length: int = 2, seed: int = 0, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, channels, length, 20, 31), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def extractor() -> DinoV2:
    return DinoV2("random", arch=SMALL)


def on_meta(arch: str) -> nn.Module:
    with torch.device("meta"):
        return build(arch)


def official(network: nn.Module) -> dict[str, torch.Tensor]:
    """Weights under the names of the official file, for frames of 37x37 patches."""
    generator = torch.Generator().manual_seed(1)
    state = {key: torch.randn(value.shape, generator=generator) / 8 for key, value in network.state_dict().items()}
    width = state["cls_token"].shape[-1]
    state["pos_embed"] = torch.randn(1, 1 + 37 * 37, width, generator=generator)
    return {**state, "mask_token": torch.zeros(1, width)}


def test_it_is_registered():
    assert EXTRACTORS.get("dinov2") is DinoV2


def test_the_published_network_has_its_parameters():
    network = on_meta("vit_large_patch14_dinov2")
    assert sum(parameter.numel() for parameter in network.parameters()) == 303_227_904
    assert network.num_features == 1024 and network.pos_embed.shape == (1, 1 + 16 * 16, 1024)


def test_frames_come_video_by_video(extractor):
    batch = videos()
    features = extractor(batch)
    assert features.shape == (4, 64) and features.dtype == torch.float32 and extractor.num_features == 64
    for index, (b, t) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        alone = extractor(batch[b : b + 1, :, t : t + 1])[0]
        assert torch.allclose(features[index], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(features[1], features[2], rtol=1e-2)


def test_many_frames_are_passed_in_parts(extractor, monkeypatch):
    batch = videos(1, 3)
    whole = extractor(batch)
    monkeypatch.setattr(dinov2, "FRAMES_AT_ONCE", 2)
    passed = []
    hook = extractor.network.register_forward_pre_hook(lambda network, given: passed.append(len(given[0])))
    parts = extractor(batch)
    hook.remove()
    assert passed == [2, 1] and torch.allclose(whole, parts, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(20, 31), (224, 224), (300, 260), (250, 90)])
def test_frames_are_prepared_as_by_torchvision_on_pil_images(extractor, height, width):
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    published = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    expected = published(Image.fromarray(frame))
    ours = extractor.preprocess(torch.from_numpy(frame).permute(2, 0, 1)[None])[0]
    assert torch.allclose(ours, expected, rtol=0, atol=1e-6)  # a level is 0.017 wide


def test_the_feature_is_the_class_token_after_the_last_norm(extractor):
    frames = videos(1, 1)
    given = extractor.preprocess(frames[:, :, 0])
    tokens = extractor.network.forward_features(given)
    assert torch.equal(extractor(frames), tokens[:, 0])
    assert tokens[:, 0].std().item() == pytest.approx(1, abs=0.1)  # normalised: the random fill's last norm has gain 1


def test_grey_videos_have_three_equal_channels(extractor):
    grey = videos(1, 1, channels=1)
    assert torch.equal(extractor(grey), extractor(grey.repeat(1, 3, 1, 1, 1)))


def test_the_precision_around_it_changes_nothing(extractor):
    batch = videos(1, 1)
    torch.set_default_dtype(torch.float64)
    try:
        found = [network(batch) for network in (extractor, DinoV2("random", arch=SMALL))]
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found.append(extractor(batch))
    expected = extractor(batch)
    assert all(torch.equal(features, expected) for features in found)


def test_the_video_is_not_changed(extractor):
    batch = videos(1, 1)
    before = batch.clone()
    extractor(batch)
    assert torch.equal(batch, before)


# Weight files


def cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -3/4, as PyTorch has it."""
    d, a = np.abs(distance), -0.75
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def interpolation_matrix(given: int, side: int, offset: float = 0.1) -> np.ndarray:
    """Rows that take ``side`` points of a line of ``given``, at half places, the border repeated outside."""
    matrix = np.zeros((side, given))
    for i in range(side):
        place = (i + 0.5) * given / (side + offset) - 0.5
        for j in range(int(np.floor(place)) - 1, int(np.floor(place)) + 3):
            matrix[i, min(max(j, 0), given - 1)] += cubic(np.array(place - j))
    return matrix


@pytest.mark.parametrize(("given", "side"), [(37, 16), (5, 8)])
def test_position_embeddings_are_interpolated_by_the_official_rule(given, side):
    table = torch.randn(1, 1 + given * given, 3)
    matrix = interpolation_matrix(given, side)
    square = table[0, 1:].double().numpy().reshape(given, given, 3)
    expected = np.einsum("yh,hwd,xw->yxd", matrix, square, matrix).reshape(1, side * side, 3)
    ours = resize_positions(table, side)
    assert torch.equal(ours[:, :1], table[:, :1])
    assert np.abs(ours[:, 1:].numpy() - expected).max() < 1e-5
    timms = timm.layers.resample_abs_pos_embed(table, (side, side), num_prefix_tokens=1)
    assert side > given or (ours - timms).abs().max() > 0.1  # antialiased, which is why it is not used


def test_position_embeddings_of_the_right_size_are_left_alone():
    table = torch.randn(1, 1 + 16 * 16, 3)
    assert torch.equal(resize_positions(table, 16), table)


def test_position_embeddings_of_no_square_are_refused():
    with pytest.raises(UserError) as caught:
        resize_positions(torch.zeros(1, 1 + 12, 3), 16)
    assert str(caught.value) == "dinov2: position embeddings of 12 places, which are no square"


def test_an_official_file_is_loaded(tmp_path):
    arch = "vit_small_patch14_dinov2"
    state = official(on_meta(arch))
    torch.save(state, tmp_path / "official.pth")
    loaded = DinoV2(tmp_path / "official.pth", arch=arch)
    got = loaded.network.state_dict()
    assert got.keys() == state.keys() - {"mask_token"}
    for key in got.keys() - {"pos_embed"}:
        assert torch.equal(got[key], state[key]), key
    assert torch.equal(got["pos_embed"], resize_positions(state["pos_embed"], 16))
    assert (loaded.weights.name, loaded.weights.published, loaded.weights.file) == ("unknown", False, "official.pth")


def test_timms_file_is_the_same_network(tmp_path):
    state = official(on_meta(SMALL))
    torch.save(state, tmp_path / "official.pth")
    del state["mask_token"]
    save_file(state, tmp_path / "timm.safetensors")
    first, second = (DinoV2(tmp_path / name, arch=SMALL) for name in ("official.pth", "timm.safetensors"))
    assert first.weights.fingerprint == second.weights.fingerprint


def test_a_state_is_not_changed_by_its_conversion():
    network = on_meta(SMALL)
    state = official(network)
    before = {key: value.clone() for key, value in state.items()}
    from_official(state, network)
    assert state.keys() == before.keys() and all(torch.equal(state[key], before[key]) for key in state)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "f.pth")
    with pytest.raises(UserError) as caught:
        DinoV2(tmp_path / "f.pth", arch=SMALL)
    assert str(caught.value) == f"{tmp_path / 'f.pth'}: does not fit VisionTransformer (lacks 'cls_token')"


def test_nothing_is_downloaded_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDGEN_OFFLINE", "1")
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        DinoV2()
    assert str(caught.value) == (
        "dinov2_vitl14_pretrain.pth: not in the cache, and VIDGEN_OFFLINE is set; get "
        "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth "
        "(sha256:d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428) and put it at "
        f"{Path(tmp_path)}/weights/dinov2_vitl14_pretrain.pth, or name it with --weights FILE"
    )


# What it says of itself


def test_settings_tell_everything(extractor):
    described = extractor.describe()
    assert described.pop("weights")["name"] == "random"
    assert described == {
        "name": "dinov2",
        "network": SMALL,
        "layer": "class token after the last norm",
        "position_embeddings": "bicubic without antialias, offset 0.1",
        "resize": "pil_bicubic",
        "crop": "stretch",
        "size": [224, 224],
        "range": "x / 255",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "precision": "float32",
    }


def test_it_stays_frozen_inside_a_training_module(extractor):
    holder = nn.Sequential(extractor).train()
    assert not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in holder.parameters())
    assert not extractor(videos(1, 1)).requires_grad


def test_it_has_no_classes(extractor):
    assert not extractor.classifies
    with pytest.raises(NotImplementedError, match=r"^DinoV2 has no classes$"):
        extractor.logits(videos(1, 1))


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("vit_huge_nonsense", "dinov2: timm has no network 'vit_huge_nonsense'"),
        ("vit_small_patch16_36x36_gap", "dinov2: timm has no network 'vit_small_patch16_36x36_gap'"),
        (
            "vit_base_patch16_siglip_224",
            "dinov2: 'vit_base_patch16_siglip_224' is no vision transformer with a class token",
        ),
    ],
)
def test_an_unfit_network_is_refused(arch, expected):
    with pytest.raises(UserError) as caught:
        DinoV2("random", arch=arch)
    assert str(caught.value) == expected


def test_floats_are_refused(extractor):
    with pytest.raises(TypeError, match=r"^dinov2: takes uint8 videos in 0 \.\. 255, not torch\.float32"):
        extractor(videos().float())
