"""Samples beside the truth: which is the best, and what is drawn."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from vidgen.comparison import GIVEN, PREDICTED, Comparison, bordered
from vidgen.errors import UserError
from vidgen.media import to_uint8
from vidgen.metrics.best_of import BestOfN
from vidgen.metrics.image_quality import psnr, ssim

SEEDS = [7, 8, 9]


def truth(channels: int = 3, frames: int = 5, height: int = 12, width: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return to_uint8(torch.rand(channels, frames, height, width, generator=generator) * 2 - 1)


def noisy(video: Tensor, amounts: list[float], given: int = 2) -> Tensor:
    """Samples that are off by so much, after the given frames."""
    generator = torch.Generator().manual_seed(1)
    samples = video[None].expand(len(amounts), *video.shape).float()
    noise = torch.randn(samples.shape, generator=generator) * torch.tensor(amounts)[:, None, None, None, None]
    noise[:, :, :given] = 0
    return (samples + noise).round().clamp(0, 255).to(torch.uint8)


def border_colour(cell: Tensor, frame: int) -> tuple[int, ...]:
    colours = torch.cat([cell[:, frame, 0], cell[:, frame, -1], cell[:, frame, :, 0], cell[:, frame, :, -1]], 1)
    assert (colours == colours[:, :1]).all()
    return tuple(colours[:, 0].tolist())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width", "border"), [(12, 16, 2), (64, 80, 2), (130, 256, 4)])
def test_a_border_tells_given_frames_from_predicted_ones(channels: int, height: int, width: int, border: int) -> None:
    video = truth(channels, 4, height, width)
    cell = bordered(video, 3)
    assert cell.shape == (3, 4, height + 2 * border, width + 2 * border) and cell.dtype == torch.uint8
    assert torch.equal(cell[:, :, border:-border, border:-border], video.expand(3, -1, -1, -1))
    assert [border_colour(cell, frame) for frame in range(4)] == [GIVEN, GIVEN, GIVEN, PREDICTED]


def test_borders_differ_in_brightness_too() -> None:
    """Which the colour-blind and printers of black ink see."""
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    given, predicted = ((torch.tensor(colour) / 255) ** 2.2 @ weights for colour in (GIVEN, PREDICTED))
    assert (predicted + 0.05) / (given + 0.05) > 2


def test_truth_then_the_best_then_all_samples_in_order() -> None:
    true = truth()
    samples = noisy(true, [40.0, 10.0, 80.0])
    sheet = Comparison(samples, true, 2, SEEDS).side_by_side()
    cells = [sheet[..., 20 * k + 2 * k : 20 * (k + 1) + 2 * k] for k in range(5)]  # 16 + 2 * 2 wide, 2 apart
    assert sheet.shape == (3, 5, 16, 5 * 22 - 2)
    for cell, video in zip(cells, (true, samples[1], *samples), strict=True):
        assert torch.equal(cell[:, :, 2:-2, 2:-2], video)
    assert [border_colour(cells[0], frame) for frame in range(5)] == [GIVEN] * 5
    for cell in cells[1:]:
        assert [border_colour(cell, frame) for frame in range(5)] == [GIVEN] * 2 + [PREDICTED] * 3


def test_the_picture_has_a_row_for_each_and_time_to_the_right() -> None:
    true = truth()
    samples = noisy(true, [10.0, 40.0])
    picture = Comparison(samples, true, 2, SEEDS[:2]).over_time()
    assert picture.shape == (3, 4 * 18 - 2, 5 * 22 - 2)
    rows = [picture[:, 18 * k : 18 * k + 16] for k in range(4)]
    for row, video in zip(rows, (true, samples[0], *samples), strict=True):
        for time in range(5):
            assert torch.equal(row[:, 2:-2, 22 * time + 2 : 22 * time + 18], video[:, time])
    assert picture[:, 0, 0].tolist() == picture[:, 0, -1].tolist() == list(GIVEN)
    assert picture[:, -1, 0].tolist() == list(GIVEN) and picture[:, -1, -1].tolist() == list(PREDICTED)


def test_many_samples_go_into_rows_of_ten() -> None:
    true = truth()
    sheet = Comparison(noisy(true, [10.0] * 19), true, 2, [0] * 19).side_by_side()
    assert sheet.shape == (3, 5, 3 * 18 - 2, 10 * 22 - 2)


def test_scores_are_those_of_the_metrics_and_the_best_is_that_of_best_of_n() -> None:
    true = truth(channels=1)
    samples = noisy(true, [40.0, 30.0, 35.0])
    found = json.loads(Comparison(samples, true, 2, SEEDS).described())
    expected = [psnr(samples[:, :, 2:], true[None, :, 2:].expand(3, -1, -1, -1, -1), "svg"),
                ssim(samples[:, :, 2:], true[None, :, 2:].expand(3, -1, -1, -1, -1), "svg")]  # fmt: skip
    torch.testing.assert_close(torch.tensor(found["psnr"]).double(), expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.tensor(found["ssim"]).double(), expected[1], rtol=0, atol=1e-6)
    metric = BestOfN("ssim", 3, context_frames=2)
    metric.update(samples[None], true[None])
    best = int(found["best"].removeprefix("sample ")) - 1
    assert float(metric.compute()) == pytest.approx(sum(found["ssim"][best]) / 3, abs=1e-6)
    assert {key: found[key] for key in ("shown", "context_frames", "seeds", "chosen_by")} == {
        "shown": ["truth", "best", "sample 1", "sample 2", "sample 3"],
        "context_frames": 2,
        "seeds": SEEDS,
        "chosen_by": "mean SSIM (protocol svg) of the predicted frames",
    }


def test_ssim_chooses_not_psnr() -> None:
    true = truth()
    brighter = true.clone()
    brighter[:, 2:] = (true[:, 2:].int() + 60).clamp(max=255).to(torch.uint8)
    blurred = true.clone()
    blurred[:, 2:] = true[:, 2:].float().mean((2, 3), keepdim=True).to(torch.uint8).expand_as(true[:, 2:])
    found = json.loads(Comparison(torch.stack([brighter, noisy(true, [50.0])[0], blurred]), true, 2, SEEDS).described())
    means = {key: [sum(curve) / 3 for curve in found[key]] for key in ("psnr", "ssim")}
    assert means["ssim"].index(max(means["ssim"])) == 0 and found["best"] == "sample 1"
    assert means["psnr"].index(max(means["psnr"])) != 0


def test_an_infinite_psnr_is_null_and_the_first_of_equals_the_best() -> None:
    true = truth()
    found = json.loads(Comparison(torch.stack([noisy(true, [50.0])[0], true, true]), true, 2, SEEDS).described())
    assert found["psnr"][1] == [None] * 3 and found["ssim"][1] == [1.0] * 3
    assert found["best"] == "sample 2"


@pytest.mark.parametrize(
    ("with_truth", "amounts", "given", "shown"),
    [
        (False, [10.0, 20.0], 2, ["sample 1", "sample 2"]),
        (True, [10.0], 2, ["truth", "sample 1"]),
        (True, [10.0, 20.0], 5, ["truth", "sample 1", "sample 2"]),  # nothing is predicted
        (True, [10.0, 20.0], 9, ["truth", "sample 1", "sample 2"]),
        (True, [10.0, 20.0], 0, ["truth", "best", "sample 1", "sample 2"]),
    ],
)
def test_what_there_is_not_is_not_shown(with_truth: bool, amounts: list[float], given: int, shown: list[str]) -> None:
    true = truth()
    comparison = Comparison(noisy(true, amounts, 0), true if with_truth else None, given, SEEDS[: len(amounts)])
    found = json.loads(comparison.described())
    assert found["shown"] == shown
    assert comparison.side_by_side().shape == (3, 5, 16, 22 * len(shown) - 2)
    scored = with_truth and given < 5
    assert (found["best"] is not None) == scored
    assert [found[key] is None or len(found[key][0]) == 5 - given for key in ("psnr", "ssim")] == [True, True]
    assert (found["ssim"] is not None) == scored


def test_frames_that_are_too_small_are_refused() -> None:
    true = truth(height=6)
    with pytest.raises(UserError) as error:
        Comparison(true[None], true, 2, [0])
    assert str(error.value) == "samples: ssim (svg): needs frames of 7x7 pixels at least, got 6x16; set it to 0"
