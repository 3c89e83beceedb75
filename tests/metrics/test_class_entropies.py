"""Entropies of a classifier's answers."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from tests.pair import ProcessPair
from vidgen.errors import UserError
from vidgen.metrics.class_entropies import (
    ClassEntropies,
    ClassSums,
    class_accuracy,
    class_entropies,
    class_sums,
    entropies_from_sums,
)
from vidgen.metrics.extractors.base import Extractor, Weights


def table(number=20, classes=4):
    return torch.randn(number, classes, generator=torch.Generator().manual_seed(0)).softmax(1)


def test_sure_and_diverse_answers():
    found = class_entropies(torch.eye(4))
    assert found.intra == 0 and not math.copysign(1, found.intra.item()) < 0
    assert found.inter.item() == pytest.approx(math.log(4), rel=1e-14)
    assert found.inception_score.item() == pytest.approx(4, rel=1e-14)


def test_undecided_answers():
    found = class_entropies(torch.full((3, 2), 0.5))
    assert found.intra.item() == found.inter.item() == pytest.approx(math.log(2), rel=1e-14)
    assert found.inception_score == 1


def test_sums_of_parts_give_what_the_whole_gives():
    rows = table()
    parts = [class_sums(part) for part in (rows[:3], rows[3:3], rows[3:])]
    joined = ClassSums(*(sum(entries[1:], entries[0]) for entries in zip(*parts, strict=True)))
    for ours, whole in zip(entropies_from_sums(joined), class_entropies(rows), strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-14, atol=0)


def test_no_clips_have_no_entropy():
    with pytest.raises(ValueError, match=r"^class entropies need at least 1 clip, got 0$"):
        class_entropies(torch.zeros(0, 3))


def test_accuracy_is_the_share_of_right_classes():
    rows = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert class_accuracy(rows, torch.tensor([0, 1, 1])).item() == pytest.approx(2 / 3, rel=1e-14)


@pytest.mark.parametrize(("labels", "rows"), [(2, 3), (0, 0)])
def test_accuracy_needs_a_label_for_each_clip(labels, rows):
    with pytest.raises(ValueError, match=rf"^accuracy needs a label for each clip, got {labels} for {rows}$"):
        class_accuracy(torch.ones(rows, 2), torch.zeros(labels))


# The metric ---------------------------------------------------------------------------------------------------------


class Brightest(Extractor):
    """Classes are the channels; a video belongs to its brightest one."""

    name = "brightest"
    num_features = 3
    classifies = True

    def __init__(self, weights: str = "auto") -> None:
        super().__init__()
        self.weights = Weights("none", "", published=True)

    def logits(self, videos):
        return videos.float().mean((2, 3, 4)) / 40


class OfFrames(Brightest):
    per_frame = True

    def logits(self, videos):
        return super().logits(videos.transpose(1, 2).flatten(0, 1)[:, :, None])


class Blind(Brightest):
    classifies = False


def metric(kind: type = Brightest) -> ClassEntropies:
    return ClassEntropies(extractor=f"{__name__}.{kind.__name__}")


def clips(number=7):
    rng = torch.Generator().manual_seed(0)
    shades = torch.rand(number, 3, 3, 1, 1, generator=rng)
    return (torch.rand(number, 3, 3, 4, 4, generator=rng) * shades * 255).to(torch.uint8)


@pytest.mark.parametrize("kind", [Brightest, OfFrames])
def test_value_is_the_score_and_details_are_the_entropies(kind):
    ours = metric(kind)
    for part in clips().split(3):
        ours.update(part)
    wanted = class_entropies(kind().logits(clips()).double().softmax(1))
    assert ours.compute().item() == pytest.approx(wanted.inception_score.item(), rel=1e-12)
    assert ours.details == {
        "intra_entropy": pytest.approx(wanted.intra.item(), rel=1e-12),
        "inter_entropy": pytest.approx(wanted.inter.item(), rel=1e-12),
    }
    assert ours.protocol()["extractor"]["output"] == "logits"


def on_rank(parts):
    ours = metric()
    part = parts[torch.distributed.get_rank()]
    if part is not None:
        ours.update(part)
    return float(ours.compute())


def test_two_processes_equal_one(pair: ProcessPair):
    alone = metric()
    alone.update(clips())
    for parts in ([clips()[:2], clips()[2:]], [None, clips()]):
        assert pair.run(on_rank, parts=parts) == pytest.approx([float(alone.compute())] * 2, rel=1e-12)


def test_no_videos_have_no_value():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"^class_entropies: needs at least 1 generated videos, got 0$"):
            metric().compute()


def test_the_extractor_classifies():
    name = f"{__name__}.Blind"
    with pytest.raises(UserError) as error:
        metric(Blind)
    assert str(error.value) == f"class_entropies: {name} does not classify; choose c3d, inception or one that does"
