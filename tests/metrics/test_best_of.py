"""Scores of several samples of each sequence."""

from __future__ import annotations

import math

import pytest
import torch

from tests.pair import ProcessPair
from vidgen.errors import UserError
from vidgen.metrics.best_of import (
    BestOfN,
    best_of_one_choice,
    best_of_own_choice,
    best_sample,
    confidence_interval,
    mean_of_samples,
)
from vidgen.metrics.image_quality import PeakSignalToNoiseRatio, StructuralSimilarity, psnr, ssim
from vidgen.metrics.summed import interval_from_sums

SCORES = torch.tensor([[[1.0, 9.0], [4.0, 4.0], [6.0, 5.0]], [[7.0, 0.0], [2.0, 2.0], [3.0, 3.0]]])


def test_the_best_on_the_average_over_time_is_chosen():
    assert best_sample(SCORES).tolist() == [2, 0]
    assert best_of_own_choice(SCORES).tolist() == [[6, 5], [7, 0]]


def test_distances_are_best_where_they_are_small():
    assert best_sample(SCORES, higher_is_better=False).tolist() == [1, 1]
    assert best_of_own_choice(SCORES, higher_is_better=False).tolist() == [[4, 4], [2, 2]]


def test_one_choice_serves_all_metrics():
    assert best_of_one_choice(SCORES, torch.tensor([0, 2])).tolist() == [[1, 9], [3, 3]]


def test_mean_of_samples_chooses_none():
    torch.testing.assert_close(mean_of_samples(SCORES), torch.tensor([[11 / 3, 6.0], [4.0, 5 / 3]]))


def test_the_first_of_equals_is_chosen():
    assert best_sample(torch.ones(1, 4, 2)).tolist() == [0]


def test_more_samples_are_never_worse_by_their_own_choice():
    scores = torch.randn(50, 20, 3, generator=torch.Generator().manual_seed(0))
    best = [best_of_own_choice(scores[:, :number]).mean() for number in (1, 5, 20)]
    assert best[0] < best[1] < best[2]


def test_interval_is_that_of_students_t():
    curves = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]], dtype=torch.float64)
    found = confidence_interval(curves)
    assert found.mean.tolist() == [2, 5]
    # The table's 97.5% point for two degrees of freedom is 4.302653; the deviation of the mean is 1 / sqrt(3).
    assert found.half_width.tolist() == pytest.approx([4.302653 / 3**0.5, 0], rel=1e-6)


def test_interval_of_all_from_sums_of_parts():
    curves = 30 + torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = [(len(part), part.sum(0), part.square().sum(0)) for part in (curves[:4], curves[4:])]
    joined = interval_from_sums(*(a + b for a, b in zip(*sums, strict=True)))
    for ours, whole in zip(joined, confidence_interval(curves), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-10, atol=0)


def test_one_sequence_has_no_interval():
    with pytest.raises(ValueError, match=r"^a confidence interval needs at least 2 sequences, got 1$"):
        confidence_interval(torch.ones(1, 3))


@pytest.mark.parametrize("shape", [(2, 3), (2, 0, 3), (2, 3, 0)])
def test_scores_are_of_sequences_samples_and_frames(shape):
    with pytest.raises(ValueError) as error:
        best_sample(torch.zeros(shape))
    assert str(error.value) == f"scores must be (B, N, T) with N and T at least 1, got {shape}"


def test_what_is_no_number_is_an_error():
    with pytest.raises(ValueError, match=r"^scores hold NaN$"):
        best_sample(torch.full((1, 2, 2), float("nan")))


# The metric ---------------------------------------------------------------------------------------------------------


def samples(number=2, of_each=4, frames=3, seed=0):
    rng = torch.Generator().manual_seed(seed)
    target = torch.randint(256, (number, 3, frames, 12, 12), generator=rng, dtype=torch.uint8)
    noise = torch.randint(-60, 61, (number, of_each, *target.shape[1:]), generator=rng)
    scale = torch.rand(number, of_each, 1, frames, 1, 1, generator=rng)
    fake = (target[:, None] + noise * scale).clamp(0, 255).to(torch.uint8)
    return fake, target


def table(score, fake, target):
    return torch.stack([score(fake[:, n], target, "svg") for n in range(fake.shape[1])], dim=1)


def test_three_curves_each_with_its_label():
    fake, target = samples(5)
    metric = BestOfN("psnr", 4, chosen_by="ssim", context_frames=1)
    for one, other in zip(fake.split(2), target.split(2), strict=True):
        metric.update(one, other)
    decibels, similar = (table(score, fake[:, :, :, 1:], target[:, :, 1:]) for score in (psnr, ssim))
    wanted = {
        "own_choice": best_of_own_choice(decibels),
        "chosen_by_ssim": best_of_one_choice(decibels, best_sample(similar)),
        "mean_of_samples": decibels.mean(1),
    }
    assert metric.compute().item() == pytest.approx(wanted["own_choice"].mean().item(), rel=1e-12)
    assert list(metric.details) == list(wanted)
    for label, curves in wanted.items():
        assert metric.details[label]["value"] == pytest.approx(curves.mean().item(), rel=1e-12)
        assert metric.details[label]["per_frame"] == pytest.approx(curves.mean(0).tolist(), rel=1e-12)
        interval = confidence_interval(curves).half_width.tolist()
        assert metric.details[label]["ci95_half_width"] == pytest.approx(interval, rel=1e-7)
    values = [metric.details[label]["value"] for label in wanted]
    assert values[0] > values[1] > values[2]


def test_the_name_says_how_many_samples():
    metric = BestOfN("psnr", 7)
    assert metric.label == "psnr_best_of_7"
    assert metric.protocol() == {
        "metric": "best_of_n",
        "context_frames": 0,
        "num_samples": 7,
        "choice": "own score, knowing the truth (SVG)",
        "score": {"metric": "psnr", "protocol": "svg"},
        "chosen_by": {"metric": "ssim", "protocol": "svg"},
    }
    assert metric.warnings() == []


def test_a_perfect_frame_does_not_end_the_evaluation():
    fake, target = samples(3)
    fake[0, 2, :, 1] = target[0, :, 1]
    metric = BestOfN("psnr", 4, chosen_by="ssim")
    metric.update(fake, target)
    decibels = table(psnr, fake, target)
    curves = best_of_own_choice(decibels)
    assert curves[0, 1] == math.inf
    expected = [curves[1:, t].mean() if t == 1 else curves[:, t].mean() for t in range(curves.shape[1])]
    assert metric.compute().item() == pytest.approx(sum(expected).item() / len(expected), rel=1e-12)
    assert metric.details["own_choice"]["infinite_frames"] == metric.details["mean_of_samples"]["infinite_frames"] == 1
    [warning] = metric.warnings()
    assert warning.startswith(f"psnr_best_of_4: 1 of {decibels[:, 0].numel()} frames equal their targets, ")


def test_distances_choose_the_smallest():
    rng = torch.Generator().manual_seed(0)
    target = torch.randint(256, (1, 3, 2, 32, 32), generator=rng, dtype=torch.uint8)
    fake = torch.randint(256, (1, 3, 3, 2, 32, 32), generator=rng, dtype=torch.uint8)
    metric = BestOfN("lpips", 3, chosen_by="lpips", weights="random")
    metric.update(fake, target)
    assert metric.label == "lpips_random_alex_best_of_3" and metric.higher_is_better is False
    assert metric.compute() == metric.details["chosen_by_lpips"]["value"] < metric.details["mean_of_samples"]["value"]
    assert metric.warnings() == [
        "lpips_random_alex: the weights of alex are random; not comparable with published numbers"
    ]


def on_rank(fake, target):
    rank = torch.distributed.get_rank()
    metric = BestOfN("ssim", fake.shape[1])
    if rank == 1:
        metric.update(fake, target)
    return float(metric.compute()), metric.details


def test_two_processes_equal_one(pair: ProcessPair):
    fake, target = samples(2)
    alone = BestOfN("ssim", 4)
    alone.update(fake, target)
    assert pair.run(on_rank, fake=fake, target=target) == [(float(alone.compute()), alone.details)] * 2


@pytest.mark.parametrize("shape", [(2, 3, 3, 12, 12), (2, 3, 3, 3, 12, 12)])
def test_samples_are_as_many_as_said(shape):
    with pytest.raises(ValueError) as error:
        BestOfN("ssim", 4).update(torch.zeros(shape, dtype=torch.uint8), samples()[1])
    assert str(error.value) == (
        f"best_of_n: takes fakes (B, N, C, T, H, W) with N = 4 samples of each sequence, got {shape}"
    )


def test_scores_have_names():
    with pytest.raises(UserError, match=r"^best_of_n: unknown score 'mse' \(known: psnr, ssim, lpips\)$"):
        BestOfN("mse")
    with pytest.raises(UserError, match=r"^best_of_n: num_samples is 0; it must be at least 1$"):
        BestOfN("ssim", 0)


def large_samples(number=3, of_each=3, frames=2, seed=0):
    """Large enough for LPIPS."""
    rng = torch.Generator().manual_seed(seed)
    target = torch.randint(256, (number, 3, frames, 32, 32), generator=rng, dtype=torch.uint8)
    noise = torch.randint(-90, 91, (number, of_each, *target.shape[1:]), generator=rng)
    scale = torch.rand(number, of_each, 1, frames, 1, 1, generator=rng)
    return (target[:, None] + noise * scale).clamp(0, 255).to(torch.uint8), target


def test_several_scores_are_those_of_each_alone():
    fake, target = large_samples()
    together = BestOfN(num_samples=3, weights="random")
    for one, other in zip(fake.split(2), target.split(2), strict=True):
        together.update(one, other)
    assert [member.label for member in together.members()] == [
        "psnr_best_of_3",
        "ssim_best_of_3",
        "lpips_random_alex_best_of_3",
    ]
    for name, member in zip(("psnr", "ssim", "lpips"), together.members(), strict=True):
        alone = BestOfN(name, 3, weights="random")
        alone.update(fake, target)
        assert float(member.compute()) == pytest.approx(float(alone.compute()), rel=1e-6)
        assert member.details.keys() == alone.details.keys()
        for label, curve in alone.details.items():
            assert member.details[label]["per_frame"] == pytest.approx(curve["per_frame"], rel=1e-6)
            assert member.details[label]["ci95_half_width"] == pytest.approx(curve["ci95_half_width"], rel=1e-4)
        assert (member.protocol(), member.warnings()) == (alone.protocol(), alone.warnings())
        assert member.higher_is_better == alone.higher_is_better == (name != "lpips")
        assert alone.members() == [alone.members()[0]] and alone.label == member.label


def test_each_score_of_each_sample_is_computed_once(monkeypatch):
    seen = []
    for metric in (PeakSignalToNoiseRatio, StructuralSimilarity):
        original = metric.scores
        monkeypatch.setattr(
            metric,
            "scores",
            lambda self, fake, target, original=original: (
                seen.append((self.name, len(fake))) or original(self, fake, target)
            ),
        )
    monkeypatch.setattr("vidgen.metrics.best_of._SAMPLES_PER_PASS", 3)
    fake, target = samples(2)
    metric = BestOfN(["psnr", "ssim", "psnr"], 4)
    metric.update(fake, target)
    assert sorted(seen) == [("psnr", 2), ("psnr", 6), ("ssim", 2), ("ssim", 6)]
    whole = table(psnr, fake, target)
    assert metric.members()[0].compute().item() == pytest.approx(best_of_own_choice(whole).mean().item(), rel=1e-12)


def test_several_scores_have_one_name_and_the_value_of_the_first():
    fake, target = samples(2)
    metric = BestOfN(["ssim", "psnr"], 4)
    metric.update(fake, target)
    assert (metric.label, metric.higher_is_better) == ("best_of_n", True)
    assert float(metric.compute()) == metric.details["ssim_best_of_4"]["own_choice"]["value"]
    assert list(metric.details) == ["ssim_best_of_4", "psnr_best_of_4"]
    assert metric.details == {member.label: member.details for member in metric.members()}
    assert metric.protocol() == {
        "metric": "best_of_n",
        **{member.label: member.protocol() for member in metric.members()},
    }
    metric.reset()
    assert [int(member.num_videos) for member in metric.members()] == [0, 0]


def test_warnings_of_several_scores_stand_once():
    metric = BestOfN(["lpips", "ssim"], 1, chosen_by="lpips", weights="random")
    assert metric.warnings() == [
        "lpips_random_alex: the weights of alex are random; not comparable with published numbers"
    ]


@pytest.mark.parametrize(("asked", "left_out"), [(None, 2), (0, 0), (1, 1)])
def test_all_scores_leave_out_what_the_model_was_given(asked, left_out):
    fake, target = samples(2)
    metric = BestOfN(["psnr", "ssim"], 4, context_frames=asked)
    metric.set_context(2)
    metric.update(fake, target)
    part = fake[:, :, :, left_out:], target[:, :, left_out:]
    for member, score in zip(metric.members(), (psnr, ssim), strict=True):
        expected = best_of_own_choice(table(score, *part)).mean()
        assert member.compute().item() == pytest.approx(expected.item(), rel=1e-12)
        assert member.protocol()["context_frames"] == left_out


def test_context_leaves_something_to_compare():
    metric = BestOfN(["psnr", "ssim"], 4)
    metric.set_context(3)
    metric.check_length(4)
    with pytest.raises(
        ValueError, match=r"^best_of_n: 3 context frames of 3 leave none to compare; take longer videos$"
    ):
        metric.check_length(3)
    with pytest.raises(UserError, match=r"^best_of_n: context_frames is -1; it must be at least 0$"):
        BestOfN("ssim", 4, context_frames=-1)
    with pytest.raises(UserError, match=r"^best_of_n: metric names no score \(known: psnr, ssim, lpips\)$"):
        BestOfN([], 4)


def several_on_rank(fake, target):
    metric = BestOfN(["psnr", "ssim"], fake.shape[1])
    for number in range(torch.distributed.get_rank(), len(fake), 2):
        metric.update(fake[number : number + 1], target[number : number + 1])
    return [(member.label, float(member.compute()), member.details) for member in metric.members()]


@pytest.mark.parametrize("number", [1, 3])
def test_two_processes_equal_one_in_several_scores(pair: ProcessPair, number):
    fake, target = samples(number)
    alone = BestOfN(["psnr", "ssim"], 4)
    alone.update(fake, target)
    first, second = pair.run(several_on_rank, fake=fake, target=target)
    assert first == second
    for member, (label, value, details) in zip(alone.members(), first, strict=True):
        assert (label, value) == (member.label, pytest.approx(float(member.compute()), rel=1e-12))
        for name, curve in member.details.items():
            assert details[name]["per_frame"] == pytest.approx(curve["per_frame"], rel=1e-12)


def test_scores_of_a_metric_move_with_it():
    metric = BestOfN(num_samples=2, weights="random").to("meta")
    assert {member.device.type for member in metric.members()} == {"meta"}
    network = metric.members()[2].scorer.network
    assert {value.device.type for value in network.parameters()} == {"meta"}


def test_one_sample_needs_no_axis_of_samples():
    fake, target = samples(of_each=1)
    values = []
    for given in (fake, fake[:, 0]):
        metric = BestOfN("psnr", 1)
        metric.update(given, target)
        values.append(float(metric.compute()))
    assert values[0] == values[1]
