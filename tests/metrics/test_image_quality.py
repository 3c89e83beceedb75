"""PSNR and SSIM of predicted frames."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from tests.pair import ProcessPair
from vidgen.errors import UserError
from vidgen.metrics.best_of import confidence_interval
from vidgen.metrics.extractors.base import Weights
from vidgen.metrics.image_quality import (
    LearnedPerceptualSimilarity,
    PeakSignalToNoiseRatio,
    StructuralSimilarity,
    mean_squared_error,
    psnr,
    ssim,
    weights_warnings,
)
from vidgen.metrics.lpips_trunk import lpips_network
from vidgen.registry import METRICS

PROTOCOLS = ["standard", "svg", "common"]


def videos(number=2, channels=3, frames=4, height=16, width=13, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (number, channels, frames, height, width), generator=rng, dtype=torch.uint8)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("score", [psnr, ssim])
def test_a_score_of_each_video_and_frame(score, protocol):
    fake, target = videos(seed=1), videos(seed=2)
    scores = score(fake, target, protocol)
    assert scores.shape == (2, 4) and scores.dtype == torch.float64
    alone = score(fake[1:, :, 2:3], target[1:, :, 2:3], protocol)
    torch.testing.assert_close(alone[0, 0], scores[1, 2], rtol=1e-12, atol=0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_order_of_the_two_videos_makes_no_difference(protocol):
    fake, target = videos(seed=1), videos(seed=2)
    torch.testing.assert_close(ssim(fake, target, protocol), ssim(target, fake, protocol))
    torch.testing.assert_close(psnr(fake, target, protocol), psnr(target, fake, protocol))


@pytest.mark.parametrize(("protocol", "value"), [("standard", math.inf), ("svg", math.inf), ("common", 100.0)])
def test_equal_frames(protocol, value):
    video = videos()
    assert (psnr(video, video, protocol) == value).all()
    torch.testing.assert_close(ssim(video, video, protocol), torch.ones(2, 4, dtype=torch.float64))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bytes_and_floats_give_the_same(protocol):
    fake, target = videos(seed=1), videos(seed=2)
    for score in (psnr, ssim):
        floats = score(fake.double() / 255, target.double() / 255, protocol)
        assert torch.equal(score(fake, target, protocol), floats)


def test_error_is_that_of_pixels_from_zero_to_one():
    black, grey = torch.zeros(1, 1, 1, 4, 4), torch.full((1, 1, 1, 4, 4), 0.1)
    assert mean_squared_error(grey, black).item() == pytest.approx(0.01, rel=1e-6)
    assert psnr(grey, black).item() == pytest.approx(20, rel=1e-6)


def test_channels_are_averaged_after_the_logarithm_but_in_common():
    black, fake = torch.zeros(1, 2, 1, 4, 4), torch.zeros(1, 2, 1, 4, 4)
    fake[:, 0], fake[:, 1] = 0.1, 0.001
    assert psnr(fake, black, "standard").item() == pytest.approx((20 + 60) / 2, rel=1e-6)
    assert psnr(fake, black, "svg").item() == pytest.approx((20 + 60) / 2, rel=1e-6)
    assert psnr(fake, black, "common").item() == pytest.approx(-10 * math.log10((0.01 + 1e-6) / 2), rel=1e-6)


def test_flat_frames_show_the_constants():
    black, white = torch.zeros(1, 1, 1, 16, 16), torch.ones(1, 1, 1, 16, 16)
    assert ssim(black, white, "standard").item() == pytest.approx(0.01**2 / (1 + 0.01**2), rel=1e-9)
    assert ssim(black, white, "svg").item() == pytest.approx(0.02**2 / (1 + 0.02**2), rel=1e-9)


@pytest.mark.parametrize(("protocol", "side", "span"), [("standard", 11, 1.0), ("common", 11, 1.0), ("svg", 7, 2.0)])
def test_a_frame_of_one_window(protocol, side, span):
    x, y = (videos(1, 1, 1, side, side, seed).double().flatten() / 255 for seed in (1, 2))
    line = torch.exp(-((torch.arange(side) - side // 2) ** 2).double() / (2 * 1.5**2))
    weights = torch.ones(side**2).double() if protocol == "svg" else torch.outer(line, line).flatten()
    means = [(weights * one).sum() / weights.sum() for one in (x, y)]
    cov = torch.stack([x, y]).cov(correction=int(protocol == "svg"), aweights=weights / weights.sum() * len(weights))
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    luminance = (2 * means[0] * means[1] + c1) / (means[0] ** 2 + means[1] ** 2 + c1)
    wanted = luminance * (2 * cov[0, 1] + c2) / (cov[0, 0] + cov[1, 1] + c2)
    found = ssim(x.view(1, 1, 1, side, side), y.view(1, 1, 1, side, side), protocol)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)


@pytest.mark.parametrize("protocol", ["standard", "common"])
def test_the_gaussian_window_is_that_of_torchmetrics(protocol):
    fake, target = (videos(3, 2, 1, 27, 19, seed)[:, :, 0].double() / 255 for seed in (1, 2))
    _, similarity = structural_similarity_index_measure(
        fake, target, sigma=1.5, kernel_size=11, data_range=1.0, reduction="none", return_full_image=True
    )
    interior = similarity[..., 5:-5, 5:-5].mean((1, 2, 3))  # around it the map is that of reflected pixels
    found = ssim(fake[:, :, None], target[:, :, None], protocol)[:, 0]
    torch.testing.assert_close(found, interior, rtol=1e-12, atol=1e-14)


def test_the_border_is_left_out():
    target = videos(1, 1, 1, 21, 21).double() / 255
    fake = target.clone()
    fake[..., 10, 10] = 1 - fake[..., 10, 10]  # seen by every window of 11 x 11 that fits, by few of 7 x 7
    assert ssim(fake, target, "standard") < 1
    small = target[..., 5:16, 5:16], fake[..., 5:16, 5:16]
    assert ssim(*small, "standard") < ssim(target, fake, "standard")
    assert ssim(target[..., :10, :], fake[..., :10, :], "svg") == 1


@pytest.mark.parametrize(("protocol", "side"), [("standard", 11), ("common", 11), ("svg", 7)])
def test_frames_hold_the_window(protocol, side):
    video = torch.zeros(1, 1, 1, side, side)
    assert ssim(video, video, protocol) == 1
    message = rf"^ssim \({protocol}\): needs frames of {side}x{side} pixels at least, got {side}x{side - 1}$"
    with pytest.raises(ValueError, match=message):
        ssim(video[..., 1:], video[..., 1:], protocol)


def test_videos_of_different_shapes_are_refused():
    shapes = r"\(2, 3, 4, 16, 13\) and \(1, 3, 4, 16, 13\)"
    message = rf"^videos to compare must both be \(B, C, T, H, W\) of one shape, got {shapes}$"
    for score in (psnr, ssim, mean_squared_error):
        with pytest.raises(ValueError, match=message):
            score(videos(), videos()[:1])


@pytest.mark.parametrize("value", [-0.5, 1.5, float("nan")])
def test_floats_out_of_range_are_refused(value):
    video = torch.full((1, 1, 1, 16, 16), 0.5)
    with pytest.raises(ValueError, match=r"^fake: floating pixels must be in \[0, 1\]$"):
        psnr(video.index_fill(4, torch.tensor([3]), value), video)


def test_other_types_are_refused():
    video = torch.zeros(1, 1, 1, 16, 16)
    message = r"^target: takes uint8 videos, or floating ones in \[0, 1\], not torch.int64$"
    with pytest.raises(TypeError, match=message):
        ssim(video, video.long())


def test_protocols_have_names():
    message = r"^protocol must be one of standard, svg, common, not 'skimage'$"
    for score in (psnr, ssim):
        with pytest.raises(ValueError, match=message):
            score(videos(), videos(), "skimage")


# Metrics ------------------------------------------------------------------------------------------------------------


def fed(metric, fake, target, batch):
    for one, other in zip(fake.split(batch), target.split(batch), strict=True):
        metric.update(one, other)
    return metric


METRIC_CLASSES = [
    lambda: PeakSignalToNoiseRatio("svg"),
    lambda: PeakSignalToNoiseRatio("common", context_frames=1),
    lambda: StructuralSimilarity("standard"),
    lambda: StructuralSimilarity("svg", context_frames=2),
    lambda: LearnedPerceptualSimilarity(weights="random", context_frames=1),
]


@pytest.mark.parametrize("make", METRIC_CLASSES)
def test_batches_of_any_size_give_the_same(make):
    fake, target = videos(5, height=32, width=33, seed=1), videos(5, height=32, width=33, seed=2)
    values = [float(fed(make(), fake, target, batch).compute()) for batch in (1, 2, 5)]
    assert values == pytest.approx(
        [values[0]] * 3, rel=1e-6 if isinstance(make(), LearnedPerceptualSimilarity) else 1e-12
    )


@pytest.mark.parametrize("name", ["psnr", "ssim"])
def test_value_and_curve_are_those_of_the_formula(name):
    fake, target = videos(4, seed=1), videos(4, seed=2)
    scores = {"psnr": psnr, "ssim": ssim}[name](fake, target, "svg")[:, 1:]
    metric = fed(METRICS.get(name)("svg", context_frames=1), fake, target, 3)
    assert metric.compute().item() == pytest.approx(scores.mean().item(), rel=1e-12)
    assert metric.details["value"] == metric.compute().item()
    assert metric.details["per_frame"] == pytest.approx(scores.mean(0).tolist(), rel=1e-12)
    assert metric.details["ci95_half_width"] == pytest.approx(confidence_interval(scores).half_width.tolist(), rel=1e-9)
    assert metric.protocol() == {
        "metric": name,
        "protocol": "svg",
        "context_frames": 1,
        "num_videos": 4,
        "num_frames": 3,
    }


def test_one_pair_has_no_interval():
    metric = fed(StructuralSimilarity(), videos(1, seed=1), videos(1, seed=2), 1)
    metric.compute()
    assert set(metric.details) == {"value", "per_frame"}


def on_rank(pairs):
    rank = torch.distributed.get_rank()
    metrics = [PeakSignalToNoiseRatio("svg"), StructuralSimilarity("svg")]
    for metric in metrics:
        for number, (fake, target) in enumerate(pairs):
            if number % 3 == rank:
                metric.update(fake, target)
    return [(float(metric.compute()), metric.details, metric.protocol()) for metric in metrics]


@pytest.mark.parametrize("number", [1, 2, 5])
def test_two_processes_equal_one(number, pair: ProcessPair):
    pairs = [(videos(1, seed=2 * i), videos(1, seed=2 * i + 1)) for i in range(number)]
    used = [one for i, one in enumerate(pairs) if i % 3 < 2]
    first, second = pair.run(on_rank, pairs=pairs)
    assert first == second
    for (value, details, protocol), metric in zip(first, (PeakSignalToNoiseRatio, StructuralSimilarity), strict=True):
        alone = metric("svg")
        for one in used:
            alone.update(*one)
        assert value == pytest.approx(float(alone.compute()), rel=1e-12)
        assert details["per_frame"] == pytest.approx(alone.details["per_frame"], rel=1e-12)
        assert protocol == alone.protocol() and protocol["num_videos"] == len(used)


def test_grey_videos_are_compared_as_they_are():
    fake, target = videos(channels=1, seed=1), videos(channels=1, seed=2)
    grey = fed(StructuralSimilarity(), fake, target, 2).compute()
    assert grey.item() == pytest.approx(
        fed(StructuralSimilarity(), fake.expand(-1, 3, -1, -1, -1), target.expand(-1, 3, -1, -1, -1), 2)
        .compute()
        .item()
    )


def test_perceptual_distance_is_that_of_the_network():
    fake, target = videos(2, frames=3, height=32, width=32, seed=1), videos(2, frames=3, height=32, width=32, seed=2)
    metric = fed(LearnedPerceptualSimilarity(weights="random"), fake, target, 2)
    network = lpips_network("alex", "random")
    rows = [
        [network(*(v[b, :, t][None].float() / 127.5 - 1 for v in (fake, target))).item() for t in range(3)]
        for b in range(2)
    ]
    assert metric.compute().item() == pytest.approx(sum(map(sum, rows)) / 6, rel=1e-5)
    assert metric.details["per_frame"] == pytest.approx([(a + b) / 2 for a, b in zip(*rows, strict=True)], rel=1e-5)


def test_long_videos_pass_the_network_in_parts(monkeypatch):
    fake, target = videos(2, frames=5, height=32, width=32, seed=1), videos(2, frames=5, height=32, width=32, seed=2)
    whole = fed(LearnedPerceptualSimilarity(weights="random"), fake, target, 2).compute()
    monkeypatch.setattr("vidgen.metrics.image_quality._FRAMES_PER_PASS", 3)
    parts = fed(LearnedPerceptualSimilarity(weights="random"), fake, target, 2)
    torch.testing.assert_close(parts.compute(), whole)
    assert len(parts.details["per_frame"]) == 5


def test_grey_videos_have_a_perceptual_distance():
    fake, target = (videos(1, 1, 1, 32, 32, seed=seed) for seed in (1, 2))
    metric = fed(LearnedPerceptualSimilarity(weights="random"), fake, target, 1)
    colour = [video.expand(-1, 3, -1, -1, -1) for video in (fake, target)]
    assert metric.compute() == fed(LearnedPerceptualSimilarity(weights="random"), *colour, 1).compute()


def test_random_weights_give_another_name_and_a_warning():
    metric = LearnedPerceptualSimilarity(weights="random")
    assert metric.label == "lpips_random_alex"
    assert metric.warnings() == [
        "lpips_random_alex: the weights of alex are random; not comparable with published numbers"
    ]
    assert metric.protocol()["network"]["weights"]["name"] == "random"
    assert metric.protocol()["network"]["net"] == "alex"


def test_other_weights_give_a_warning():
    network = SimpleNamespace(net="alex", weights=Weights("unknown", "abc", published=False))
    assert weights_warnings("lpips", network) == [
        "lpips: the weights of alex are not the published ones but unknown; not comparable with published numbers"
    ]
    assert weights_warnings("lpips", SimpleNamespace(net="alex", weights=Weights("v1", "abc", published=True))) == []
    assert StructuralSimilarity().warnings() == []


def test_the_network_is_no_part_of_the_metric():
    metric = LearnedPerceptualSimilarity(weights="random")
    assert not metric.state_dict() and not list(metric.parameters())


def test_the_network_follows_the_metric():
    metric = LearnedPerceptualSimilarity(weights="random").to("meta")
    assert {value.device.type for value in metric.network.parameters()} == {"meta"}


def test_precision_of_the_states_is_kept():
    holder = torch.nn.ModuleList([StructuralSimilarity()]).half()
    fed(holder[0], videos(1, seed=1), videos(1, seed=2), 1)
    assert holder[0].curves.dtype == holder.half()[0].curves.dtype == torch.float64


COMMON = "protocol common says 100 dB instead, and frames that the model was given should be left out (context_frames)"


def test_an_equal_frame_is_left_out_of_the_decibels_and_told_of():
    fake, target = videos(3, frames=3, seed=1), videos(3, frames=3, seed=2)
    fake[0, :, 1] = target[0, :, 1]  # in one video
    fake[:, :, 2] = target[:, :, 2]  # in all
    fake[1, 2, 0] = target[1, 2, 0]  # in one channel
    scores = psnr(fake, target)
    metric = fed(PeakSignalToNoiseRatio(), fake, target, 2)
    curve = [scores[[0, 2], 0].mean().item(), scores[1:, 1].mean().item()]
    assert metric.warnings() == []
    assert metric.compute().item() == pytest.approx(sum(curve) / 2, rel=1e-12)
    assert metric.details["per_frame"] == [*(pytest.approx(value, rel=1e-12) for value in curve), None]
    widths = [confidence_interval(rows[:, None]).half_width.item() for rows in (scores[[0, 2], 0], scores[1:, 1])]
    assert metric.details["ci95_half_width"] == [*(pytest.approx(width, rel=1e-9) for width in widths), None]
    assert metric.details["infinite_frames"] == 5
    assert metric.warnings() == [
        "psnr: 5 of 9 frames equal their targets, if only in one channel, so that their score is infinite; they are"
        f" left out; {COMMON}"
    ]


def test_equal_videos_have_no_mean_of_decibels():
    video = videos(1)
    with pytest.raises(ValueError) as error:
        fed(PeakSignalToNoiseRatio(), video, video, 1).compute()
    assert str(error.value) == f"psnr: every frame equals its target, so that its score is infinite; {COMMON}"
    assert fed(PeakSignalToNoiseRatio("common"), video, video, 1).compute() == 100


@pytest.mark.parametrize("score", [math.nan, -math.inf])
def test_a_score_that_is_no_number_is_an_error(score):
    with pytest.raises(ValueError, match=r"^ssim: a score is no number$"):
        StructuralSimilarity().add_curves(torch.tensor([[[1.0, score]]]))


@pytest.mark.parametrize("make", METRIC_CLASSES)
def test_only_bytes_are_taken(make):
    with pytest.raises(TypeError) as error:
        make().update(videos(1), videos(1).float())
    name = make().name
    assert str(error.value) == (
        f"{name}: takes uint8 videos in 0 .. 255, not torch.float32; make them with vidgen.media.to_uint8"
    )


def test_context_leaves_something_to_compare():
    with pytest.raises(ValueError, match=r"^ssim: 4 context frames of 4 leave none to compare; take longer videos$"):
        StructuralSimilarity(context_frames=4).update(videos(), videos())
    with pytest.raises(UserError, match=r"^psnr: context_frames is -1; it must be at least 0$"):
        PeakSignalToNoiseRatio(context_frames=-1)


@pytest.mark.parametrize(("asked", "told", "left_out"), [(None, 2, 2), (0, 2, 0), (1, 2, 1), (None, 0, 0)])
def test_what_the_model_was_given_is_left_out_unless_asked_otherwise(asked, told, left_out):
    fake, target = videos(seed=1), videos(seed=2)
    metric = PeakSignalToNoiseRatio(context_frames=asked)
    assert metric.protocol()["context_frames"] == (asked or 0)
    metric.set_context(3)
    metric.set_context(told)  # by a second evaluation
    value = fed(metric, fake, target, 1).compute()
    assert value.item() == pytest.approx(psnr(fake, target)[:, left_out:].mean().item(), rel=1e-12)
    assert (metric.protocol()["context_frames"], metric.protocol()["num_frames"]) == (left_out, 4 - left_out)


def test_videos_that_are_all_context_are_refused_before_they_are_made():
    metric = LearnedPerceptualSimilarity(weights="random")
    metric.check_length(1)
    metric.set_context(3)
    metric.check_length(4)
    with pytest.raises(ValueError, match=r"^lpips: 3 context frames of 3 leave none to compare; take longer videos$"):
        metric.check_length(3)


def test_all_videos_are_equally_long():
    metric = fed(StructuralSimilarity(), videos(1, seed=1), videos(1, seed=2), 1)
    with pytest.raises(ValueError, match=r"^ssim: videos with 4 and with 3 frames to compare$"):
        metric.update(videos(1, frames=3), videos(1, frames=3))


def test_no_pairs_have_no_value():
    with pytest.raises(ValueError, match=r"^ssim: needs at least 1 paired videos, got 0$"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            StructuralSimilarity().compute()


def test_unknown_protocols_are_the_users_mistake():
    with pytest.raises(UserError, match=r"^ssim: protocol must be one of standard, svg, common, not 'skimage'$"):
        StructuralSimilarity("skimage")
