"""Generated videos beside the real ones that they should equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.tiny import TinyError, clips_of, videos
from tests.guessing_model import Guess
from tests.noise_model import SeededNoise
from vidgen.data.annotations import Labels
from vidgen.data.arrays import ArrayVideos
from vidgen.errors import UserError
from vidgen.evaluation.pairs import Pairs, pair_up
from vidgen.evaluation.sources import ClipRule, GeneratedClips, StoredClips, Unusable
from vidgen.media import to_uint8


def dataset(folder: Path) -> ArrayVideos:
    return ArrayVideos(str(folder), 1, 1, labels=Labels("none"))


def write(folder: Path, **arrays: np.ndarray) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / name, array)
    return folder


def paired(real: Path, fake: Path, limit: int | None = None) -> Pairs:
    names = ("R", "F")
    return pair_up(dataset(real), dataset(fake), native=(True, True), names=names, limit=limit)


def error_between(real: np.ndarray, fake: np.ndarray) -> float:
    return float(np.abs(real.astype(float) - fake.astype(float)).mean())


def value(pairs: Pairs, **settings: Any) -> TinyError:
    metric = TinyError()
    pairs.feed([metric], progress=False, **settings)
    return metric


def test_names_decide_who_belongs_to_whom(tmp_path):
    a, b, c = videos(3)
    real = write(tmp_path / "real", a=a, b=b, c=c)
    fake = tmp_path / "fake"
    fake.mkdir()
    np.savez(fake / "c.npz", video=b)
    np.savez(fake / "b.npz", video=b)
    pairs = paired(real, fake)
    metric = value(pairs)
    assert metric.result()[1] == {"pairs": 2}
    assert float(metric.compute()) == pytest.approx(error_between(c, b) / 2)
    assert (pairs.pairing, pairs.warnings()) == ("name", [])
    assert sorted(pairs.facts["real"].digests) == [0, 1]


def test_order_decides_where_no_name_is_shared(tmp_path):
    a, b, c, d = videos(4)
    pairs = paired(write(tmp_path / "real", a=a, b=b), write(tmp_path / "fake", x=c, y=d))
    assert float(value(pairs).compute()) == pytest.approx((error_between(a, c) + error_between(b, d)) / 2)
    assert pairs.pairing == "order"


def test_videos_of_one_file_are_paired_by_order(tmp_path):
    one, two = videos(5, seed=1), videos(5, seed=2)
    pairs = paired(write(tmp_path / "r", a=one) / "a.npy", write(tmp_path / "f", a=two) / "a.npy")
    assert float(value(pairs).compute()) == pytest.approx(error_between(one, two))
    assert len(paired(tmp_path / "r" / "a.npy", tmp_path / "f" / "a.npy", 3)) == 3


@pytest.mark.parametrize(
    ("fake", "limit", "message"),
    [
        ({"a": 6, "x": 6}, None, "F: 'x' has no partner of that name in R; name pairs alike"),
        ({"x": 6}, None, "2 real and 1 fake videos make no pairs; give as many of each, or name pairs alike"),
        ({"a": 6}, 2, "--num-videos 2: there are 1 pair"),
    ],
)
def test_missing_partners_are_an_error(tmp_path, fake, limit, message):
    real = write(tmp_path / "real", a=videos(1)[0], b=videos(1)[0])
    made = write(tmp_path / "fake", **{name: videos(1, frames)[0] for name, frames in fake.items()})
    with pytest.raises(UserError) as error:
        paired(real, made, limit)
    assert str(error.value) == message


def test_the_first_frames_are_compared_where_lengths_differ(tmp_path):
    a, b = videos(2, frames=9)
    pairs = paired(write(tmp_path / "real", a=a, b=b), write(tmp_path / "fake", a=b[:4], b=b[:7]))
    expected = (error_between(a[:4], b[:4]) + 0) / 2
    assert float(value(pairs).compute()) == pytest.approx(expected)
    assert pairs.warnings() == ["paired videos have 4 to 9 frames; the first 4 of each are compared"]


def test_shapes_that_differ_are_an_error(tmp_path):
    pairs = paired(write(tmp_path / "real", a=videos(1)[0]), write(tmp_path / "fake", a=videos(1, side=10)[0]))
    with pytest.raises(ValueError) as error:
        value(pairs)
    assert str(error.value) == (
        "pair 0: the real video is 8x8 with 3 channels and 6 frames, the fake one 10x10 with 3 channels and 6 frames;"
        " give --resolution"
    )


def test_pairs_of_which_one_cannot_be_read_are_left_out(tmp_path):
    arrays = videos(3)
    real = write(tmp_path / "real", a=arrays[0], b=arrays[1], c=arrays[2])
    fake = write(tmp_path / "fake", a=arrays[0], b=arrays[0], c=arrays[2])
    pairs = paired(real, fake)
    content = (fake / "b.npy").read_bytes()
    (fake / "b.npy").write_bytes(content[:-9])
    metric = value(pairs)
    assert metric.result() == (0.0, {"pairs": 2})
    [line] = pairs.warnings()
    assert line.startswith(f"1 file left out as unreadable (the first, {fake}/b.npy: damaged (")


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_batches_change_nothing(tmp_path, batch_size):
    one, two = videos(5, seed=1), videos(5, seed=2)
    pairs = paired(write(tmp_path / "r", a=one) / "a.npy", write(tmp_path / "f", a=two) / "a.npy")
    assert float(value(pairs, batch_size=batch_size).compute()) == pytest.approx(error_between(one, two))


class Echo(SeededNoise):
    """Makes what it is given, and noise from the seed on top."""

    def sample(self, num_videos: int, *, num_frames: int | None = None, seed: int = 0, first: int = 0, batch: Any = None) -> Any:  # type: ignore[override]  # fmt: skip # noqa: E501
        """Add noise."""
        return (batch["video"] + (seed % 7) / 10).clamp(-1, 1)


def test_several_videos_are_drawn_for_each_real_one(tmp_path):
    np.save(tmp_path / "a.npy", videos(3))
    target = clips_of(tmp_path / "a.npy", ClipRule(6, order="first", start="first"))
    fake = GeneratedClips(Echo(context="video"), 3, target.clips, condition=target, seed=5)
    one, three = TinyError(), TinyError(num_samples=3)
    Pairs(target, fake).feed([one, three], progress=False)
    seeds = [fake.draw(which).seed for which in range(3)]
    assert len(set(seeds)) == 3
    given = torch.stack([clip.video for clip in target.read(range(3))])
    errors = []
    for seed in seeds:
        made = to_uint8((given.float() / 127.5 - 1 + (seed % 7) / 10).clamp(-1, 1))
        errors.append((made.double() - given.double()).abs().mean().item())
    assert float(one.compute()) == pytest.approx(errors[0], rel=1e-6)
    assert float(three.compute()) == pytest.approx(np.mean(errors), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 8])
@pytest.mark.parametrize("number", [2, 5, 7])
def test_groups_are_made_once_for_each_draw(tmp_path, monkeypatch, batch_size, number):
    np.save(tmp_path / "a.npy", videos(7))
    rule = ClipRule(6, order="first", start="first")
    target, condition = clips_of(tmp_path / "a.npy", rule, number), clips_of(tmp_path / "a.npy", rule)
    fake = GeneratedClips(Guess(group=3).eval(), number, rule, condition=condition)
    one, two, blocks = TinyError(), TinyError(num_samples=2), []
    monkeypatch.setattr(target, "read", lambda block: blocks.append(len(block)) or StoredClips.read(target, block))
    Pairs(target, fake).feed([one, two], progress=False, batch_size=batch_size)
    assert max(blocks) <= batch_size and sum(blocks) == number
    seeds = [fake.draw(which).seed for which in range(2)]
    assert fake.model.calls == [(first, 3, seed) for first in range(0, number, 3) for seed in seeds]
    assert (one.result()[1], two.result()[1]) == ({"pairs": number}, {"pairs": number})
    given = target.read(range(number))
    errors = [
        [
            (made.video.double() - real.video.double()).abs().mean().item()
            for made, real in zip(read, given, strict=True)
        ]
        for read in (fake.draw(which).read(range(number)) for which in range(2))
    ]
    assert float(one.compute()) == pytest.approx(np.mean(errors[0]), rel=1e-12)
    assert float(two.compute()) == pytest.approx(np.mean(errors), rel=1e-12)


def share_of_groups(folder: str) -> tuple[float, list[int], list[tuple[int, int, int]]]:
    rule = ClipRule(6, order="first", start="first")
    condition = clips_of(Path(folder) / "a.npy", rule)
    fake = GeneratedClips(Guess(group=3).eval(), 7, rule, condition=condition)
    pairs, metric = Pairs(condition, fake), TinyError()
    pairs.feed([metric], progress=False, batch_size=2)
    pairs.gather()
    return float(metric.compute()), sorted(pairs.facts["fake"].digests.values()), fake.model.calls


def test_processes_make_whole_groups(pair, tmp_path):
    np.save(tmp_path / "a.npy", videos(7, seed=1))
    alone = share_of_groups(str(tmp_path))
    found = pair.run(share_of_groups, folder=str(tmp_path))
    assert [first for first, _, _ in alone[2]] == [0, 3, 6]
    assert [[first for first, _, _ in calls] for _, _, calls in found] == [[0, 6], [3]]
    for value, digests, _ in found:
        assert (value, digests) == (pytest.approx(alone[0], rel=1e-12), alone[1])


def test_stored_videos_are_one_for_each_real_one(tmp_path):
    pairs = paired(write(tmp_path / "real", a=videos(1)[0]), write(tmp_path / "fake", a=videos(1)[0]))
    with pytest.raises(UserError) as error:
        pairs.feed([TinyError(num_samples=4)], progress=False)
    assert str(error.value) == (
        "tiny_error: wants 4 generated videos for each real one, which a model makes; give --ckpt"
    )


def share(folder: str) -> tuple[float, list[int], int, list[str]]:
    one, two = Path(folder) / "a.npy", Path(folder) / "b.npy"

    class Holes(StoredClips):
        def read(self, numbers: Any) -> Any:
            return [Unusable(c.number, "x", "torn") if c.number == 4 else c for c in super().read(numbers)]

    rule = ClipRule(6, order="first", start="first")
    holes = Holes(clips_of(two, rule).dataset, rule, native=True, name="x")
    pairs, metric = Pairs(clips_of(one, rule), holes), TinyError()
    pairs.feed([metric], progress=False, batch_size=2)
    pairs.gather()
    value = float(metric.compute())
    return value, sorted(pairs.facts["fake"].digests), metric.details["pairs"], pairs.warnings()


def test_two_processes_equal_one(pair, tmp_path):
    np.save(tmp_path / "a.npy", videos(7, seed=1))
    np.save(tmp_path / "b.npy", videos(7, seed=2))
    alone = share(str(tmp_path))
    assert alone[1:] == ([0, 1, 2, 3, 5, 6], 6, ["1 file left out as unreadable (the first, x: torn)"])
    for found in pair.run(share, folder=str(tmp_path)):
        assert found == (pytest.approx(alone[0], rel=1e-12), *alone[1:])
