"""One pass over clips: decoded once, kept on the disk, continued, and the same however it is divided."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.tiny import FrameDistance, TinyDistance, TinyExtractor, TinyOrder, clips_of, features_of, videos
from vidgen.errors import UserError
from vidgen.evaluation.features import CHUNK
from vidgen.evaluation.passes import Facts, Pass
from vidgen.evaluation.sources import Clip, ClipRule, StoredClips, Unusable
from vidgen.metrics.base import FeatureMetric

RULE = ClipRule(6, order="first", start="first")
ARRAYS = videos(37, seed=1)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An array file, and a cache of its own."""
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    np.save(tmp_path / "videos.npy", ARRAYS)
    return tmp_path / "videos.npy"


class Counting(StoredClips):
    """Counts what is read."""

    numbers: list[int]

    def read(self, numbers: Any) -> Any:
        """Remember the numbers."""
        self.__dict__.setdefault("numbers", []).extend(numbers)
        return super().read(numbers)

    @property
    def reads(self) -> list[int]:
        """What was read so far."""
        return sorted(self.__dict__.get("numbers", []))


def counting(place: Path, rule: ClipRule = RULE, limit: int | None = None) -> Counting:
    plain = clips_of(place, rule)
    return Counting(plain.dataset, rule, native=True, name=str(place), limit=limit)


def run(source: Any, *metrics: FeatureMetric, **settings: Any) -> Facts:
    return Pass(source, metrics, True, device=torch.device("cpu"), progress=False, **settings).run()


def readers() -> list[str]:
    """Threads that read ahead."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vidgen-reading")]


def mean_of(metric: TinyDistance) -> np.ndarray:
    return metric.moments("real").mean.numpy()


def test_every_clip_is_seen_once_by_every_metric(place):
    source, one, two = counting(place), TinyDistance(), FrameDistance()
    TinyExtractor.looked_at = 0
    facts = run(source, one, TinyDistance(), two)
    assert source.reads == list(range(37))
    assert TinyExtractor.looked_at == 37  # shared by two metrics
    assert mean_of(one) == pytest.approx(features_of(ARRAYS).mean(0), abs=1e-7)
    assert int(two.moments("real").count) == 37 * 6
    assert sorted(facts.digests) == list(range(37))
    assert facts.sizes == {(8, 8): 37}


def test_second_pass_reads_and_looks_at_nothing(place):
    first = run(counting(place), TinyDistance(), num_samples=3)
    source, metric = counting(place), TinyDistance()
    TinyExtractor.looked_at = 0
    second = run(source, metric, num_samples=3)
    assert (source.reads, TinyExtractor.looked_at) == ([], 0)
    assert mean_of(metric) == pytest.approx(features_of(ARRAYS).mean(0), abs=1e-7)
    assert second.fingerprint == first.fingerprint
    assert sorted(second.samples) == [0, 1, 2]
    assert all(np.array_equal(second.samples[number], ARRAYS[number]) for number in range(3))


def test_samples_that_nobody_asked_for_before_are_read_then(place):
    run(counting(place), TinyDistance())
    source = counting(place)
    facts = run(source, TinyDistance(), num_samples=20)
    assert source.reads == list(range(32))  # the chunks that they are in
    assert all(np.array_equal(facts.samples[number], ARRAYS[number]) for number in range(20))


def test_nothing_is_kept_or_found_without_the_cache(place):
    run(counting(place), TinyDistance(), keep=False)
    assert not (place.parent / "cache" / "features").exists()
    run(counting(place), TinyDistance())
    source = counting(place)
    run(source, TinyDistance(), keep=False)
    assert source.reads == list(range(37))


@pytest.mark.parametrize("batch_size", [1, 5, 16, 40])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_and_workers_change_nothing(place, batch_size, workers):
    if workers and batch_size != 5:
        return
    expected, metric = TinyDistance(), TinyDistance()
    run(counting(place), expected, keep=False)
    facts = run(counting(place), metric, batch_size=batch_size, workers=workers, keep=False, num_samples=2)
    assert torch.equal(metric.moments("real").m2, expected.moments("real").m2)
    assert list(facts.samples) == [0, 1]


def test_more_clips_than_before_are_all_seen(place):
    run(counting(place, limit=20), TinyDistance())
    source, metric = counting(place), TinyDistance()
    run(source, metric)
    assert source.reads == list(range(CHUNK, 37))
    assert int(metric.moments("real").count) == 37
    fewer, source = TinyDistance(), counting(place, limit=20)
    facts = run(source, fewer)
    assert source.reads == []
    assert sorted(facts.digests) == list(range(20))
    assert mean_of(fewer) == pytest.approx(features_of(ARRAYS[:20]).mean(0), abs=1e-7)


def test_one_more_metric_reads_again_and_looks_once(place):
    run(counting(place), TinyDistance())
    source, old, new = counting(place), TinyDistance(), TinyDistance(factor=2.0)
    TinyExtractor.looked_at = 0
    run(source, old, new)
    assert (source.reads, TinyExtractor.looked_at) == (list(range(37)), 37)
    assert mean_of(new) == pytest.approx(2 * mean_of(old), rel=1e-6)


def test_a_pass_that_was_cut_off_is_continued(place):
    class Breaking(Counting):
        def read(self, numbers: Any) -> Any:
            if max(numbers) >= 32:
                raise UserError("cut off")
            return super().read(numbers)

    plain = clips_of(place, RULE)
    with pytest.raises(UserError, match=r"^cut off$"):
        run(Breaking(plain.dataset, RULE, native=True, name="x"), TinyDistance())
    source, metric, expected = counting(place), TinyDistance(), TinyDistance()
    run(source, metric)
    assert source.reads == list(range(32, 37))
    run(counting(place), expected, keep=False)
    assert torch.equal(metric.moments("real").m2, expected.moments("real").m2)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_reader_arrives_in_one_line_and_ends_it(place, workers):
    class Broken(StoredClips):
        def read(self, numbers: Any) -> Any:
            raise UserError("disk on fire")

    plain = clips_of(place, RULE)
    with pytest.raises(UserError, match=r"^disk on fire$"):
        run(Broken(plain.dataset, RULE, native=True, name="x"), TinyDistance(), workers=workers)
    assert not readers()


def test_clips_are_read_beside_the_network(place):
    class Watching(TinyDistance):
        def extract(self, videos: torch.Tensor, real: bool) -> torch.Tensor:
            seen.extend(readers())
            return super().extract(videos, real)

    seen: list[str] = []
    run(counting(place), Watching(), batch_size=4)
    assert seen
    assert not readers()


def test_an_error_of_a_metric_ends_the_reader(place):
    class Refusing(TinyDistance):
        def extract(self, videos: torch.Tensor, real: bool) -> torch.Tensor:
            raise ValueError("no")

    source = counting(place)
    with pytest.raises(ValueError, match=r"^no$"):
        run(source, Refusing(), batch_size=2)
    assert not readers()
    assert len(source.reads) <= 2 * 5


def test_clips_that_cannot_be_had_are_left_out_and_remembered(place):
    class Holes(Counting):
        def read(self, numbers: Any) -> Any:
            read = super().read(numbers)
            return [Unusable(c.number, f"{c.number}.mp4", "torn") if c.number in (0, 20, 36) else c for c in read]

    plain = clips_of(place, RULE)
    kept = np.delete(ARRAYS, [0, 20, 36], 0)
    for reads in (37, 0):
        source, metric = Holes(plain.dataset, RULE, native=True, name="x"), TinyDistance()
        facts = run(source, metric, num_samples=2)
        assert len(source.reads) == reads
        assert mean_of(metric) == pytest.approx(features_of(kept).mean(0), abs=1e-7)
        assert {number: entry.path for number, entry in facts.unusable.items()} == {
            0: "0.mp4", 20: "20.mp4", 36: "36.mp4"
        }  # fmt: skip
        assert list(facts.samples) == [1]


def test_clips_that_may_be_had_next_time_are_not_remembered(place):
    class Away(Counting):
        def read(self, numbers: Any) -> Any:
            read = super().read(numbers)
            return [Unusable(c.number, "a", "disk away", True) if c.number == 17 else c for c in read]

    plain = clips_of(place, RULE)
    run(Away(plain.dataset, RULE, native=True, name="x"), TinyDistance())
    source, metric = counting(place), TinyDistance()
    run(source, metric)
    assert source.reads == list(range(16, 32))
    assert int(metric.moments("real").count) == 37


def test_a_chunk_of_which_nothing_is_left(place):
    class Gone(Counting):
        def read(self, numbers: Any) -> Any:
            return [Unusable(number, "a", "torn") if number < 16 else c for number, c in zip(numbers, super().read(numbers), strict=True)]  # fmt: skip # noqa: E501

    plain = clips_of(place, RULE)
    for reads in (37, 0):
        source, metric = Gone(plain.dataset, RULE, native=True, name="x"), TinyDistance()
        run(source, metric)
        assert (int(metric.moments("real").count), len(source.reads)) == (21, reads)


def test_clips_of_several_sizes_are_seen_each_in_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    arrays = [videos(1, side=8 + 2 * (number % 3), seed=number)[0] for number in range(20)]
    for number, array in enumerate(arrays):
        np.save(tmp_path / f"{number:02d}.npy", array)
    metric = TinyDistance()
    facts = run(clips_of(tmp_path, RULE), metric)
    expected = np.mean([features_of(array[None])[0] for array in arrays], 0)
    assert mean_of(metric) == pytest.approx(expected, abs=1e-7)
    assert facts.sizes == {(8, 8): 7, (10, 10): 7, (12, 12): 6}


def test_order_of_features_is_that_of_the_numbers_whatever_the_sizes(tmp_path):
    for number in range(20):
        np.save(tmp_path / f"{number:02d}.npy", videos(1, side=8 + 2 * (number % 3), seed=number)[0])
    metric = TinyOrder()
    Pass(clips_of(tmp_path, RULE), [metric], False, device=torch.device("cpu"), progress=False).run()
    rows = np.concatenate([features_of(videos(1, side=8 + 2 * (number % 3), seed=number)) for number in range(20)])
    assert metric.features("fake").numpy() == pytest.approx(rows, abs=1e-7)


def test_emptied_in_the_middle_it_reads_what_is_missing(place, monkeypatch):
    run(counting(place), TinyDistance())
    source, metric = counting(place), TinyDistance()
    feed = TinyDistance.add

    def add_and_remove(self: TinyDistance, *arguments: Any) -> None:
        for path in (place.parent / "cache" / "features").rglob("*.safetensors"):
            path.unlink(missing_ok=True)
        feed(self, *arguments)

    monkeypatch.setattr(TinyDistance, "add", add_and_remove)
    run(source, metric)
    assert source.reads == list(range(16, 37))
    assert mean_of(metric) == pytest.approx(features_of(ARRAYS).mean(0), abs=1e-7)


def share_of_a_pass(place: str, cache: str) -> list[Any]:
    os.environ["VIDGEN_CACHE"] = cache
    metric = TinyOrder()
    source = counting(Path(place), RULE)
    facts = Pass(source, [metric], False, device=torch.device("cpu"), progress=False).run()
    return [source.reads, float(metric.compute()), sorted(facts.digests)]


def test_processes_take_chunks_in_turns(pair, place):
    alone = TinyOrder()
    Pass(counting(place), [alone], False, device=torch.device("cpu"), keep=False, progress=False).run()
    shares = pair.run(share_of_a_pass, place=str(place), cache=str(place.parent / "two"))
    assert [share[0] for share in shares] == [[*range(16), *range(32, 37)], list(range(16, 32))]
    assert [share[1] for share in shares] == [pytest.approx(float(alone.compute()), rel=1e-12)] * 2
    again = pair.run(share_of_a_pass, place=str(place), cache=str(place.parent / "two"))
    assert [(share[0], share[1]) for share in again] == [([], shares[0][1])] * 2


def test_progress_is_shown_where_it_is_asked_for(place, monkeypatch, capsys):
    monkeypatch.setattr("vidgen.progress.SECONDS_BETWEEN_LINES", 0.0)
    metric = TinyDistance()
    Pass(counting(place), [metric], True, device=torch.device("cpu"), keep=False).run()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "measured 16/37 real videos", "measured 32/37 real videos", "measured 37/37 real videos"
    ]  # fmt: skip


def test_facts_of_processes_are_joined():
    one, two = Facts(), Facts()
    one.see([Clip(0, torch.zeros(3, 2, 4, 4, dtype=torch.uint8), {})])
    two.see([Clip(1, torch.ones(3, 2, 4, 4, dtype=torch.uint8), {}), Unusable(2, "a", "torn")])
    whole = Facts.union([one, two])
    assert (sorted(whole.digests), whole.sizes, list(whole.unusable)) == ([0, 1], {(4, 4): 2}, [2])
    assert whole.fingerprint == Facts.union([two, one]).fingerprint != one.fingerprint
