"""The Inception-v3 extractor: its use on videos. What it computes is compared in tests/parity."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch_fidelity.feature_extractor_inceptionv3 as library
from torch import nn

from vidgen.errors import UserError
from vidgen.metrics.extractors import EXTRACTORS, inception
from vidgen.metrics.extractors.inception import FILE, InceptionV3
from vidgen.metrics.extractors.random_weights import filled_state


def videos(batch: int = 2, length: int = 2, seed: int = 0, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (batch, channels, length, 12, 17), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def extractor() -> InceptionV3:
    return InceptionV3("random")


@pytest.fixture(scope="module")
def state(extractor: InceptionV3) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        network = inception.InceptionNetwork()
    return filled_state({key: tuple(value.shape) for key, value in network.state_dict().items()})


@pytest.fixture(scope="module")
def file(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save(state, path)
    return path


def test_it_is_registered():
    assert EXTRACTORS.get("inception") is InceptionV3


def test_frames_come_video_by_video(extractor):
    batch = videos(2, 2)
    features = extractor(batch)
    assert features.shape == (4, 2048) and features.dtype == torch.float32
    for index, (b, t) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        alone = extractor(batch[b : b + 1, :, t : t + 1])[0]
        assert torch.allclose(features[index], alone, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(features[1], features[2], rtol=1e-3)


def test_many_frames_are_passed_in_parts(extractor, monkeypatch):
    batch = videos(1, 3)
    whole = extractor(batch)
    monkeypatch.setattr(inception, "FRAMES_AT_ONCE", 2)
    passed = []
    hook = extractor.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda unit, given: passed.append(len(given[0])))
    parts = extractor(batch)
    hook.remove()
    assert passed == [2, 1] and torch.allclose(whole, parts, rtol=1e-5, atol=1e-5)


def test_it_equals_the_librarys_extractor_on_the_same_weights(state, file):
    content = io.BytesIO(file.read_bytes())
    theirs = library.FeatureExtractorInceptionV3("x", ["64", "192", "768", "2048", "logits_unbiased"], content)
    frames = videos(1, 2)
    expected = dict(zip(theirs.features_list, theirs(frames[0].transpose(0, 1)), strict=True))
    for layer in ("64", "192", "768", "2048"):
        ours = InceptionV3(file, features=layer)
        assert ours.num_features == int(layer)
        assert torch.allclose(ours(frames), expected[layer], rtol=1e-5, atol=1e-5)
    assert torch.allclose(ours.logits(frames), expected["logits_unbiased"], rtol=1e-5, atol=2e-5)


def test_class_scores_do_not_depend_on_the_layer_of_the_features(extractor, file):
    frames = videos(1, 1)
    assert extractor.classifies
    assert extractor.logits(frames).shape == (1, 1008)
    assert torch.equal(extractor.logits(frames), InceptionV3(file, features="64").logits(frames))


def test_grey_videos_have_three_equal_channels(extractor):
    grey = videos(1, 1, channels=1)
    assert torch.equal(extractor(grey), extractor(grey.repeat(1, 3, 1, 1, 1)))


def test_the_resize_has_no_half_pixels(extractor):
    ramp = (torch.arange(16) * 15).to(torch.uint8).expand(1, 3, 5, 16)
    row = extractor.preprocess(ramp)[0, 0, 0] * 128 + 128
    places = torch.arange(299) * 16 / 299  # to the left upper corner, and beyond the last pixel nothing changes
    assert torch.allclose(row, places.clamp(max=15) * 15, atol=1e-3)


def test_antialiasing_is_another_resize(extractor, file):
    large = videos(1, 1).repeat(1, 1, 1, 40, 30)
    smooth = InceptionV3(file, antialias=True)
    assert (smooth.preprocess(large[:, :, 0]).std() < 0.8 * extractor.preprocess(large[:, :, 0]).std()).item()
    assert extractor.settings()["resize"] == "tf1" and smooth.settings()["resize"] == "antialias"


def test_the_video_is_not_changed(extractor):
    batch = videos(1, 1)
    before = batch.clone()
    extractor(batch)
    assert torch.equal(batch, before)


def test_settings_tell_everything(extractor):
    assert extractor.describe() == {
        "name": "inception",
        "weights": {
            "name": "random",
            "fingerprint": extractor.weights.fingerprint,
            "published": False,
            "file": "",
        },
        "layer": "2048",
        "resize": "tf1",
        "crop": "stretch",
        "size": [299, 299],
        "range": "(x - 128) / 128",
        "precision": "float32",
    }


def test_it_stays_frozen_inside_a_training_module(extractor):
    holder = nn.Sequential(extractor).train()
    assert not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in holder.parameters())
    assert not extractor(videos(1, 1)).requires_grad


def test_a_file_that_is_not_the_published_one_is_unknown(file, extractor):
    loaded = InceptionV3(str(file), features="64")
    assert (loaded.weights.name, loaded.weights.published, loaded.weights.file) == ("unknown", False, "mine.pth")
    assert loaded.weights.fingerprint == extractor.weights.fingerprint  # the same tensors


def test_the_published_file_is_known_by_its_checksum(file, monkeypatch):
    checksum = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    monkeypatch.setattr(inception, "FILE", replace(FILE, checksum=checksum))
    weights = InceptionV3(file, features="64").weights
    assert (weights.name, weights.published) == ("pt_inception-2015-12-05-6726825d", True)


def test_nothing_is_downloaded_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDGEN_OFFLINE", "1")
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        InceptionV3()
    assert str(caught.value) == (
        "pt_inception-2015-12-05-6726825d.pth: not in the cache, and VIDGEN_OFFLINE is set; get "
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth "
        "(sha256:6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2) and put it at "
        f"{tmp_path}/weights/pt_inception-2015-12-05-6726825d.pth, or name it with --weights FILE"
    )


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "f.pth")
    with pytest.raises(UserError) as caught:
        InceptionV3(tmp_path / "f.pth")
    assert str(caught.value) == (
        f"{tmp_path / 'f.pth'}: does not fit InceptionNetwork (lacks 'Conv2d_1a_3x3.conv.weight')"
    )


def test_unknown_features_are_refused():
    with pytest.raises(UserError) as caught:
        InceptionV3("random", features="1024")
    assert str(caught.value) == "inception: unknown features '1024' (known: 64, 192, 768, 2048)"


def test_it_has_the_parameters_of_the_2015_network(state):
    learnt = [
        value.numel() for key, value in state.items() if not key.rpartition(".")[2].startswith(("running", "num"))
    ]
    assert sum(learnt) == 23_850_960


@pytest.mark.parametrize("wrong", [videos().float() / 255, videos().float() / 127.5 - 1])
def test_floats_are_refused(extractor, wrong):
    with pytest.raises(TypeError, match=r"^inception: takes uint8 videos in 0 \.\. 255, not torch\.float32"):
        extractor(wrong)


def test_images_are_refused(extractor):
    with pytest.raises(ValueError, match=r"^inception: takes videos \(B, C, T, H, W\)"):
        extractor(videos()[:, :, 0])


def test_the_precision_around_it_changes_nothing(extractor):
    batch = videos(1, 1)
    torch.set_default_dtype(torch.float64)
    try:
        found = [network(batch) for network in (extractor, InceptionV3("random"))]
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found.append(extractor(batch))
        scores = extractor.logits(batch)
    expected = extractor(batch)
    assert all(torch.equal(features, expected) for features in found)
    assert torch.equal(scores, extractor.logits(batch))
