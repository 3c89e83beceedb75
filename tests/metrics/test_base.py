"""What all metrics have in common: states, their merging over processes, and the frozen network."""

from __future__ import annotations

import json
from unittest.mock import patch

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from tests.evaluation.tiny import (
    FrameDistance,
    TinyDistance,
    TinyExtractor,
    TinyFrames,
    TinyOrder,
    distance_of,
    features_of,
    metric_batches,
    videos,
)
from vidgen.metrics.base import FeatureMetric, exact_arithmetic
from vidgen.metrics.manifold import Precision
from vidgen.metrics.scores import InceptionScore
from vidgen.metrics.video_distances import FrechetVideoDistanceInfinity, KernelVideoDistance

REAL, FAKE = videos(37, seed=1), videos(20, seed=2)


def as_batch(arrays: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(arrays.transpose(0, 4, 1, 2, 3)))


def fed(metric: FeatureMetric, real: np.ndarray, fake: np.ndarray, sizes: tuple[int, ...] = (8,)) -> FeatureMetric:
    for side, arrays in (("real", real), ("fake", fake)):
        if side in metric.sides:
            for part in metric_batches(sizes, len(arrays)):
                metric.update(as_batch(arrays[part]), real=side == "real", index=range(part.start, part.stop))
    return metric


def test_value_is_that_of_the_formula():
    expected = distance_of(REAL, FAKE)
    assert float(fed(TinyDistance(), REAL, FAKE).compute()) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("sizes", [(1,), (37,), (5, 3, 9)])
def test_batch_size_and_an_uneven_last_batch_change_nothing(sizes):
    expected = fed(TinyDistance(), REAL, FAKE).compute()
    scale = features_of(REAL).mean() ** 2
    assert abs(float(fed(TinyDistance(), REAL, FAKE, sizes).compute() - expected)) < 1e-9 * scale


def test_order_changes_no_moments():
    shuffled = np.random.default_rng(0).permutation(len(REAL))
    expected = fed(TinyDistance(), REAL, FAKE).compute()
    assert float(fed(TinyDistance(), REAL[shuffled], FAKE).compute() - expected) == pytest.approx(0, abs=1e-12)


def test_kept_features_come_in_the_order_of_the_videos_numbers():
    metric, backwards = TinyOrder(), TinyOrder()
    fed(metric, REAL, FAKE)
    for number in reversed(range(len(FAKE))):
        backwards.update(as_batch(FAKE[number : number + 1]), index=[number])
    assert backwards.compute() == metric.compute()


def test_frames_of_a_video_stay_together():
    rows = (TinyFrames()(as_batch(FAKE)) * torch.arange(1, 121)[:, None]).sum()
    with patch("tests.evaluation.tiny.TinyExtractor", TinyFrames):
        metric = TinyOrder()
    assert float(fed(metric, REAL, FAKE, (7,)).compute()) == pytest.approx(float(rows), rel=1e-6)


def tiny(*args: object, **keywords: object) -> TinyExtractor:
    return TinyExtractor()


def all_metrics() -> list[FeatureMetric]:
    where = "vidgen.metrics.{}.shared_extractor"
    with (
        patch(where.format("video_distances"), tiny),
        patch(where.format("scores"), tiny),
        patch(where.format("manifold"), tiny),
    ):
        score = InceptionScore(splits=2)
        return [TinyDistance(), FrameDistance(), TinyOrder(), KernelVideoDistance(), Precision(), score]


def measure_share(numbers: list[list[list[int]]], seed: int = 1) -> list[float]:
    """What one of two processes does with its share of real and fake videos."""
    from vidgen.distributed import world

    rank, size = world()
    real, fake = videos(37, seed=1), videos(20, seed=2)
    values = []
    for metric in all_metrics():
        for side, arrays, shares in (("real", real, numbers[0]), ("fake", fake, numbers[1])):
            mine = shares[rank] if size > 1 else sorted(shares[0] + shares[1])
            if side in metric.sides and mine:
                metric.update(as_batch(arrays[mine]), real=side == "real", index=mine)
        values.append(float(metric.compute()))
        assert metric.compute() == values[-1]
    return values


@pytest.mark.parametrize(
    "numbers",
    [
        [[list(range(0, 37, 2)), list(range(1, 37, 2))], [list(range(0, 20, 2)), list(range(1, 20, 2))]],
        [[list(range(30, 37)), list(range(30))], [list(range(19)), [19]]],
        [[list(range(37)), []], [list(range(20)), []]],
        [[[], list(range(37))], [list(range(20)), []]],
    ],
    ids=["turns", "uneven", "second_empty", "first_without_real"],
)
def test_two_processes_equal_one(pair, numbers):
    alone = measure_share(numbers)
    for values in pair.run(measure_share, numbers=numbers):
        assert values == pytest.approx(alone, rel=1e-9, abs=1e-9)


def measure_without_numbers() -> float:
    from vidgen.distributed import world

    rank, size = world()
    metric, fake = TinyOrder(), as_batch(videos(21, seed=2))[rank::size]
    for part in metric_batches((4,), len(fake)):
        metric.update(fake[part])
    return float(metric.compute())


def test_without_numbers_processes_take_turns(pair):
    assert pair.run(measure_without_numbers) == [pytest.approx(measure_without_numbers(), rel=1e-12)] * 2


def extrapolated() -> list[float]:
    from vidgen.distributed import world

    rank, size = world()
    with patch("vidgen.metrics.video_distances.shared_extractor", tiny):
        metric = FrechetVideoDistanceInfinity()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(1101, 6, generator=generator)
    metric.add(rows[rank::size] + 0.5, True, range(rank, 1101, size))
    metric.add(rows[rank::size], False, range(rank, 1101, size))
    return [float(metric.compute()), metric.details["slope"]]


def test_extrapolation_on_two_processes_equals_one(pair):
    assert pair.run(extrapolated) == [pytest.approx(extrapolated(), rel=1e-9)] * 2


class Training(pl.LightningModule):
    """A module with a metric and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.metric = TinyDistance()
        self.weight = torch.nn.Parameter(torch.zeros(2))


def test_extractor_stays_out_of_a_training_module():
    module = Training().train()
    assert not module.metric.extractor.training
    assert not module.metric.extractor.network.training
    assert [name for name, _ in module.named_parameters()] == ["weight"]
    assert list(module.state_dict()) == ["weight"]
    assert [name for name, _ in module.named_modules()] == ["", "metric"]
    assert not any(parameter.requires_grad for parameter in module.metric.extractor.parameters())


@pytest.mark.parametrize("change", [lambda m: m.half(), lambda m: m.to(torch.float16), lambda m: m.bfloat16()])
def test_extractor_and_states_keep_their_precision(change):
    module = Training()
    change(module)
    assert module.weight.dtype != torch.float32
    assert module.metric.extractor.network.weight.dtype == torch.float32
    assert module.metric.real_mean.dtype == torch.float64
    value = fed(module.metric, REAL, FAKE).compute()
    assert value == fed(TinyDistance(), REAL, FAKE).compute()


def test_extractor_follows_the_metric_to_its_device():
    metric = TinyDistance().to("meta")
    assert metric.extractor.network.weight.device.type == "meta"


def test_autocast_and_fast_multiplication_around_it_change_no_features():
    metric, batch = TinyDistance(), as_batch(FAKE)
    expected = metric.extract(batch, False)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = metric.extract(batch, False)
            assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_precision_settings_are_put_back_after_an_error():
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [place.fp32_precision for place in places]
    with pytest.raises(ValueError, match=r"^wrong$"), exact_arithmetic("cpu"):
        assert [place.fp32_precision for place in places] == ["ieee", "ieee"]
        raise ValueError("wrong")
    assert [place.fp32_precision for place in places] == before


def test_floats_are_refused():
    with pytest.raises(TypeError, match=r"^tiny: takes uint8 videos in 0 \.\. 255, not torch\.float32"):
        TinyDistance().update(torch.rand(2, 3, 4, 8, 8))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda m: m.update(as_batch(FAKE)[:, :, :1]), "tiny: needs videos of at least 2 frames, got 1"),
        (lambda m: m.update(as_batch(FAKE)[0]), "tiny: takes videos (B, C, T, H, W) with 1 or 3 channels"),
        (lambda m: m.add(torch.full((1, 6), torch.nan), True), "tiny_fd: a feature of the real videos is no finite"),
        (lambda m: m.compute(), "tiny_fd: needs at least 2 real videos, got 0"),
    ],
)
def test_what_cannot_be_measured_is_an_error(action, message):
    with pytest.raises(ValueError) as error:
        action(TinyDistance())
    assert str(error.value).startswith(message)


def test_sides_must_have_equally_many_frames():
    metric = TinyDistance()
    metric.update(as_batch(REAL), real=True)
    with pytest.raises(ValueError, match=r"^tiny_fd: clips of 4 and of 6 frames cannot be compared; cut them equally"):
        metric.update(as_batch(FAKE)[:, :, :4])
    with pytest.raises(ValueError, match=r"^tiny_fd: takes clips of 5 frames, got 6$"):
        TinyDistance(num_frames=5).update(as_batch(FAKE))


def test_metrics_of_generated_videos_take_no_real_ones():
    with pytest.raises(ValueError, match=r"^tiny_order: looks at generated videos only; give real=False$"):
        TinyOrder().update(as_batch(REAL), real=True)


def test_a_batch_has_no_value_of_its_own():
    with pytest.raises(TypeError, match=r"^tiny_fd: a batch has no value of its own; call update\(videos, real=…\)"):
        TinyDistance()(as_batch(REAL), real=True)


def test_compute_sees_what_was_added_after_it():
    metric = fed(TinyDistance(), REAL, FAKE[:10])
    before = metric.compute()
    metric.update(as_batch(FAKE[10:]))
    assert metric.compute() != before
    assert float(metric.compute()) == pytest.approx(float(fed(TinyDistance(), REAL, FAKE).compute()), abs=1e-12)
    metric.reset()
    with pytest.raises(ValueError, match=r"^tiny_fd: needs at least 2 real videos, got 0$"):
        metric.compute()


def test_features_that_are_added_count_as_videos_do():
    metric = fed(TinyDistance(), REAL, FAKE[:10])
    before = metric.compute()
    metric.add(metric.extract(as_batch(FAKE[10:]), False), False)
    assert metric.compute() != before
    assert float(metric.compute()) == pytest.approx(float(fed(TinyDistance(), REAL, FAKE).compute()), abs=1e-12)


def test_random_and_unknown_weights_have_other_names_or_a_warning():
    assert (TinyDistance().label, TinyDistance().warnings()) == ("tiny_fd", [])
    random = TinyDistance(weights="random")
    assert random.label == "tiny_fd_random_tiny"
    assert random.warnings() == ["tiny_fd_random_tiny: the weights of tiny are random; not comparable with any tiny_fd"]
    assert TinyDistance(weights="unknown").warnings() == [
        "tiny_fd: tiny.pt does not hold the published weights of tiny (it holds unknown, fingerprint 1.0);"
        " not comparable with published numbers"
    ]


def test_protocol_says_what_the_value_depends_on():
    metric = fed(TinyDistance(stride=2), REAL, FAKE)
    assert json.loads(json.dumps(metric.protocol())) == {
        "metric": "tiny_fd",
        "sides": ["real", "fake"],
        "extractor": {
            "name": "tiny",
            "weights": {"name": "tiny", "fingerprint": "1.0", "published": True, "file": "tiny.pt"},
            "output": "features",
        },
        "num_frames": 6,
        "stride": 2,
        "dtype": {"network": "float32", "statistics": "float64"},
    }


def test_what_is_shared_depends_on_class_weights_and_output():
    def key(metric: FeatureMetric) -> str:
        return json.dumps(metric.extraction(True))

    class Renamed(TinyExtractor):
        """Says that it is the other one."""

    with patch("tests.evaluation.tiny.TinyExtractor", Renamed):
        others = [TinyDistance(), TinyDistance(factor=2.0), TinyDistance(weights="random"), FrameDistance()]
    assert key(TinyDistance()) == key(TinyDistance(stride=3)) == key(TinyOrder())
    assert len({key(TinyDistance()), *map(key, others)}) == 5
