"""Inception-I3D as an extractor: one answer per video, eval mode always, clear refusals."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vidgen.metrics.extractors import EXTRACTORS
from vidgen.metrics.extractors.i3d import I3D
from vidgen.metrics.extractors.i3d_network import (
    FastInceptionI3D,
    FastMixed,
    InceptionI3D,
    MaxPool,
    Mixed,
    Unit3D,
    max_pool_same,
    pad_same,
    same_padding,
)
from vidgen.metrics.extractors.random_weights import fill_
from vidgen.metrics.extractors.winograd import conv3d_winograd, transformed_filters
from vidgen.metrics.preprocessing import PROTOCOLS


@pytest.fixture(scope="module")
def extractor() -> I3D:
    return I3D("random")


def some_videos(number: int, length: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, length, 12, 16), dtype=torch.uint8, generator=generator)


def test_the_network_has_the_published_number_of_parameters():
    with torch.device("meta"):
        network = InceptionI3D()
    assert sum(parameter.numel() for parameter in network.parameters()) == 12_697_264
    assert len(network.state_dict()) == 344


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "pads"),
    [(16, 7, 2, (2, 3)), (9, 7, 2, (3, 3)), (8, 3, 2, (0, 1)), (5, 3, 2, (1, 1)), (3, 2, 2, (0, 1)), (4, 3, 1, (1, 1))],
)
def test_same_padding_puts_the_odd_pixel_at_the_end(length, kernel, stride, pads):
    assert same_padding([length] * 3, [kernel] * 3, [stride] * 3) == [pads] * 3
    x = torch.ones(1, 1, length, length, length)
    padded = pad_same(x, [kernel] * 3, [stride] * 3)
    assert padded.shape[-1] == length + sum(pads) and padded[0, 0, :, 5 % length + pads[0], pads[0]].sum() == length


@pytest.mark.parametrize("kernel", [(1, 3, 3), (3, 3, 3), (2, 2, 2)])
@pytest.mark.parametrize("length", [4, 5])
def test_the_fast_pool_equals_the_padded_one(kernel, length):
    stride = (1, 2, 2) if kernel[0] == 1 else (2, 2, 2)
    x = torch.randn(2, 3, length, 6, 7).relu()
    assert torch.equal(max_pool_same(x, kernel, stride), MaxPool(kernel, stride)(x))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize(
    "size", [(2, 5, 3, 8, 12), (1, 1, 1, 4, 4), (1, 3, 2, 28, 4), (3, 2, 5, 4, 16), (1, 64, 3, 56, 56)]
)
def test_convolution_by_tiles_equals_the_sum(size, scale):
    x, weight, bias = scale * torch.randn(size), torch.randn(6, size[1], 3, 3, 3), scale * torch.randn(6)
    expected = F.conv3d(x.double(), weight.double(), bias.double(), padding=1)
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        given = x.contiguous(memory_format=layout)
        result = conv3d_winograd(given, transformed_filters(weight), bias)
        assert (result - expected).norm() / expected.norm() < 3e-6
        assert (result - expected).abs().max() < 1e-5 * expected.abs().max()
        assert torch.equal(given, x)


def test_convolution_by_tiles_about_a_large_mean():
    x, weight = 1000 + torch.rand(1, 8, 3, 8, 8), torch.randn(4, 8, 3, 3, 3)
    expected = F.conv3d(x.double(), weight.double(), padding=1)
    result = conv3d_winograd(x, transformed_filters(weight), torch.zeros(4))
    assert (result - expected).abs().max() < 1e-5 * expected.abs().max()


def test_convolution_by_tiles_is_exact_in_double_precision():
    x, weight, bias = (torch.randn(size).double() for size in ((1, 3, 2, 8, 4), (2, 3, 3, 3, 3), (2,)))
    expected = F.conv3d(x, weight, bias, padding=1)
    assert torch.allclose(conv3d_winograd(x, transformed_filters(weight), bias), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(6, 8), (8, 6)])
def test_convolution_by_tiles_refuses_other_sides(size):
    with pytest.raises(ValueError) as caught:
        conv3d_winograd(torch.zeros(1, 1, 1, *size), transformed_filters(torch.zeros(1, 1, 3, 3, 3)), torch.zeros(1))
    assert str(caught.value) == f"conv3d_winograd: needs sides that 4 divides, got {size[0]}x{size[1]}"


@pytest.mark.parametrize("wide", [False, True])
def test_a_fast_inception_module_equals_the_plain_one(wide):
    mixed = Mixed(6, (4, 3, 5, 2, 3, 2), eps=1e-3).eval()
    fill_(mixed, gamma_one=False)
    x = torch.randn(2, 6, 3, 8, 8).relu()
    with torch.no_grad():
        expected, result = mixed(x), FastMixed(mixed, wide)(x)
    assert torch.allclose(result, expected, atol=1e-5)


def test_operations_of_its_own_are_registered_properly():
    x = torch.randn(1, 2, 3, 4, 4)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(max_pool_same, (x, [3, 3, 3], [2, 2, 2]), test_utils=checks)
    filters = transformed_filters(torch.randn(3, 2, 3, 3, 3))
    torch.library.opcheck(conv3d_winograd, (x, filters, torch.randn(3)), test_utils=checks)


def test_a_video_has_the_same_features_in_any_batch(extractor):
    videos = some_videos(2, 10)
    original = videos.clone()
    together = extractor(videos)
    assert together.shape == (2, 400) and together.dtype == torch.float32
    assert torch.equal(videos, original)
    alone = extractor(videos[1:])
    assert (together[1:] - alone).abs().max() <= 1e-5 * alone.abs().max()
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_autocast_around_it_changes_nothing(extractor):
    videos = some_videos(1)
    with torch.autocast("cpu", torch.bfloat16):
        features, scores = extractor(videos), extractor.logits(videos)
    assert torch.equal(features, extractor(videos)) and torch.equal(scores, features)


def test_another_default_precision_changes_nothing(extractor):
    videos = some_videos(1)
    torch.set_default_dtype(torch.float64)
    try:
        other = I3D("random")
        found = extractor(videos), other(videos)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(features, extractor(videos)) for features in found)
    assert other.describe() == extractor.describe()


@pytest.mark.parametrize("compile", [False, True])
def test_it_can_be_copied_and_pickled(extractor, compile):
    videos = some_videos(1)
    given = I3D("random", compile=True) if compile else extractor
    for copied in (copy.deepcopy(given), pickle.loads(pickle.dumps(given))):
        assert copied.describe() == extractor.describe() and not any(module.training for module in copied.modules())
        if not compile:
            assert torch.equal(copied(videos), extractor(videos))


def test_nothing_in_it_has_a_history_of_gradients(extractor):
    tensors = [*extractor.buffers(), *extractor.parameters()]
    assert not any(tensor.requires_grad or tensor.grad_fn for tensor in tensors)


def test_grey_videos_have_three_equal_channels(extractor):
    grey = some_videos(1)[:, :1]
    assert torch.equal(extractor(grey), extractor(grey.expand(-1, 3, -1, -1, -1)))


def test_features_are_the_class_scores(extractor):
    videos = some_videos(1)
    assert extractor.classifies and torch.equal(extractor.logits(videos), extractor(videos))


def test_bfloat16_is_near():
    videos = some_videos(1)
    exact, coarse = I3D("random")(videos), I3D("random", precision="bfloat16")(videos)
    assert coarse.dtype == torch.float32
    assert 1e-4 < (coarse - exact).norm() / exact.norm() < 2e-2


def test_it_is_known_by_name(extractor):
    assert EXTRACTORS.get("i3d") is I3D and extractor.name == "i3d"
    assert (extractor.num_features, extractor.min_frames, extractor.per_frame) == (400, 9, False)


def test_it_describes_what_it_does(extractor):
    assert extractor.describe() == {
        "name": "i3d",
        "weights": {"name": "random", "fingerprint": "3cba1513ea63a956", "published": False, "file": ""},
        "layer": "logits, mean over time",
        "preprocessing": PROTOCOLS["original"].describe(),
        "bn_eps": 1e-3,
        "precision": "float32",
    }


def test_it_stays_in_eval_mode_without_gradients(extractor):
    parent = nn.Sequential(extractor).train()
    assert parent.training and not any(module.training for module in extractor.modules())
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


def test_eight_frames_are_too_few(extractor):
    with pytest.raises(ValueError) as caught:
        extractor(some_videos(1, 8))
    assert str(caught.value) == "i3d: needs videos of at least 9 frames, got 8"


def test_floats_are_refused(extractor):
    with pytest.raises(TypeError) as caught:
        extractor(torch.zeros(1, 3, 9, 12, 16))
    hint = "make them with vidgen.media.to_uint8"
    assert str(caught.value) == f"i3d: takes uint8 videos in 0 .. 255, not torch.float32; {hint}"


def test_the_network_refuses_other_sizes():
    with torch.device("meta"):
        networks = [InceptionI3D(), FastInceptionI3D(InceptionI3D())]
        clips = torch.zeros(1, 3, 9, 256, 256), torch.zeros(1, 3, 8, 224, 224)
    for network in networks:
        with pytest.raises(ValueError) as caught:
            network(clips[0])
        assert str(caught.value) == "I3D takes clips (B, C, T, 224, 224), not (1, 3, 9, 256, 256)"
        with pytest.raises(ValueError) as caught:
            network(clips[1])
        assert str(caught.value) == "I3D needs clips of at least 9 frames, got 8"


def test_a_unit_is_convolution_normalisation_and_relu():
    unit = Unit3D(2, 3, 3).eval()
    fill_(unit, gamma_one=False)
    x = torch.randn(1, 2, 4, 5, 6)
    y = unit.bn(F.conv3d(x, unit.conv3d.weight, padding=1))
    assert torch.allclose(unit(x), y.clamp(min=0)) and (y < 0).any()
