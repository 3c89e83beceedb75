"""Models whose videos depend on each other: what is in a folder depends on the contexts alone all the same."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.guessing_model import Guess
from tests.test_sampling import contents, names
from vidgen.data.annotations import Labels
from vidgen.data.arrays import ArrayVideos
from vidgen.data.transforms import from_levels
from vidgen.evaluation.contexts import Contexts
from vidgen.media import to_uint8
from vidgen.sampling import Group, SamplingReport, grouped, sample_to_folder


def videos_in(folder: Path, number: int, frames: int = 8) -> Path:
    """One file each, of various brightness."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for index in range(number):
        top = int(random.integers(40, 256))
        np.save(folder / f"{index}.npy", random.integers(top, size=(frames, 16, 16, 3), dtype=np.uint8))
    return folder


def contexts(folder: Path, model: Guess) -> Contexts:
    return Contexts(ArrayVideos(str(folder), 16, 1, labels=Labels("none")), model, "videos")


def make(out: Path, place: Path, model: Guess | None = None, **settings: Any) -> SamplingReport:
    model = (model or Guess(group=3)).eval()
    given = contexts(place, model)
    settings = {"num": len(given), "rank": 0, "world_size": 1, **settings}
    return sample_to_folder(model, out, context=given, format="npz", progress=False, **settings)


def made(folder: Path, number: int) -> np.ndarray:
    return np.stack([np.load(folder / f"{index:06d}.npz")["video"] for index in range(number)])


def expected(place: Path, rows: list[int], first: int, seed: int = 0) -> np.ndarray:
    """The videos of one group, made by hand."""
    given = np.stack([np.load(place / f"{row}.npy") for row in rows]).transpose(0, 4, 1, 2, 3)
    batch = {"video": from_levels(torch.from_numpy(given).float())}
    with torch.no_grad():
        videos = Guess(group=3).sample(len(rows), seed=seed, first=first, batch=batch)
    return to_uint8(videos).permute(0, 2, 3, 4, 1).numpy()


@pytest.mark.parametrize(
    ("numbers", "size", "num_contexts", "groups"),
    [
        ([0], 3, 7, [Group(range(3), (0, 1, 2))]),
        ([5, 4, 2], 3, 7, [Group(range(3), (0, 1, 2)), Group(range(3, 6), (3, 4, 5))]),
        ([6], 3, 7, [Group(range(6, 7), (6, 0, 1))]),
        ([7], 3, 8, [Group(range(6, 8), (6, 7, 0))]),
        ([1], 3, 2, [Group(range(2), (0, 1))]),
        ([0], 3, 1, [Group(range(1), (0,))]),
        ([0, 7], 3, None, [Group(range(3), (0, 1, 2)), Group(range(6, 9), (6, 7, 8))]),
        ([], 3, 7, []),
        ([2, 1], 1, 7, [Group(range(1, 2), (1,)), Group(range(2, 3), (2,))]),
    ],
)
def test_numbers_belong_to_whole_groups_of_all_contexts(
    numbers: list[int], size: int, num_contexts: int | None, groups: list[Group]
) -> None:
    assert grouped(numbers, size, num_contexts) == groups


def test_videos_are_made_group_by_group_and_the_last_is_filled_up(tmp_path: Path) -> None:
    place = videos_in(tmp_path / "videos", 7)
    model = Guess(group=3)
    assert make(tmp_path / "out", place, model).written == 7
    assert model.calls == [(0, 3, 0), (3, 3, 0), (6, 3, 0)]
    whole = [expected(place, [0, 1, 2], 0), expected(place, [3, 4, 5], 3), expected(place, [6, 0, 1], 6)[:1]]
    assert np.array_equal(made(tmp_path / "out", 7), np.concatenate(whole))
    assert not np.array_equal(whole[2], expected(place, [6], 6))  # others in the group would give another video
    assert not (tmp_path / "out" / "000007.npz").exists()


def test_fewer_contexts_than_a_group_are_one_group(tmp_path: Path) -> None:
    for number in (1, 2):
        place = videos_in(tmp_path / f"videos{number}", number)
        make(tmp_path / f"out{number}", place)
        assert np.array_equal(made(tmp_path / f"out{number}", number), expected(place, list(range(number)), 0))


@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
@pytest.mark.parametrize("samples", [0, 2])
def test_batch_size_changes_nothing(tmp_path: Path, batch_size: int, samples: int) -> None:
    place = videos_in(tmp_path / "videos", 7)
    make(tmp_path / "a", place, samples=samples)
    make(tmp_path / "b", place, samples=samples, batch_size=batch_size)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("order", list(itertools.permutations(range(2))))
def test_processes_change_nothing(tmp_path: Path, order: tuple[int, ...]) -> None:
    place = videos_in(tmp_path / "videos", 7)
    make(tmp_path / "one", place, samples=2)
    calls = []
    for rank in order:
        model = Guess(group=3)
        make(tmp_path / "two", place, model, samples=2, rank=rank, world_size=2)
        calls.append(sorted({first for first, _, _ in model.calls}))
    assert sorted(calls) == [[0, 6], [3]]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("num", [1, 2, 4, 5])
def test_fewer_videos_are_the_same_ones(tmp_path: Path, num: int) -> None:
    place = videos_in(tmp_path / "videos", 7)
    make(tmp_path / "all", place)
    make(tmp_path / "few", place, num=num)
    assert sorted(path.name for path in (tmp_path / "few").glob("0*")) == names(range(num))
    assert np.array_equal(made(tmp_path / "few", num), made(tmp_path / "all", num))
    make(tmp_path / "few", place)  # grows
    assert contents(tmp_path / "few") == contents(tmp_path / "all")


def test_a_deleted_video_is_made_again_with_its_group(tmp_path: Path) -> None:
    place = videos_in(tmp_path / "videos", 7)
    make(tmp_path / "out", place)
    before = contents(tmp_path / "out")
    for number in (1, 6):
        (tmp_path / "out" / f"{number:06d}.npz").unlink()
    model = Guess(group=3)
    assert make(tmp_path / "out", place, model) == SamplingReport(2, 5)
    assert model.calls == [(0, 3, 0), (6, 3, 0)]
    assert contents(tmp_path / "out") == before


def test_keywords_may_take_groups_apart(tmp_path: Path) -> None:
    place = videos_in(tmp_path / "videos", 5)
    model = Guess(group=3)
    make(tmp_path / "apart", place, model, batch_size=4, keywords={"apart": True})
    assert model.calls == [(0, 4, 0), (4, 1, 0)]
    make(tmp_path / "single", place, Guess())
    assert np.array_equal(made(tmp_path / "apart", 5), made(tmp_path / "single", 5))


def test_groups_without_contexts_are_whole(tmp_path: Path) -> None:
    model = Guess(group=3, optional=True).eval()
    report = sample_to_folder(model, tmp_path, num=4, format="npz", progress=False, rank=0, world_size=1)
    assert report.written == 4 and model.calls == [(0, 3, 0), (3, 3, 0)]
    assert sorted(path.name for path in tmp_path.glob("0*")) == names(range(4))
