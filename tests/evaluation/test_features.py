"""Features on the disk: checked, shared by processes, and no reason to stop."""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from vidgen.evaluation import features
from vidgen.evaluation.features import Chunk, FeatureStore, TensorStore
from vidgen.evaluation.sources import Unusable

SOURCE, EXTRACTION = {"files": "a"}, {"extractor": {"weights": "b"}, "output": "features"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def store(source: Any = SOURCE, extraction: Any = EXTRACTION, enabled: bool = True) -> FeatureStore:
    return FeatureStore(source, extraction, enabled)


def chunk(numbers: list[int], *lost: int, passing: bool = False) -> Chunk:
    return Chunk(
        torch.tensor(numbers),
        torch.arange(len(numbers) * 6.0).reshape(-1, 6),
        torch.tensor(numbers) * 1000,
        torch.full((len(numbers), 2), 8),
        tuple(Unusable(number, "é.mp4", "torn", passing) for number in lost),
    )


def assert_same(found: Chunk | None, expected: Chunk) -> None:
    assert found is not None
    assert found.unusable == expected.unusable
    for name in ("numbers", "features", "digests", "sizes"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_what_is_kept_is_found_by_another_store():
    store().save(0, chunk([0, 2], 1))
    assert_same(store().load(0, range(3)), chunk([0, 2], 1))
    assert store().load(1, range(16, 32)) is None


@pytest.mark.parametrize(
    "other",
    [
        ({"files": "b"}, EXTRACTION),
        (SOURCE, {**EXTRACTION, "output": "logits"}),
        (SOURCE, {**EXTRACTION, "extractor": {"weights": "c"}}),
    ],
)
def test_anything_else_has_another_place(other):
    store().save(0, chunk([0]))
    assert store(*other).load(0, [0]) is None


def test_an_older_format_has_another_place(monkeypatch):
    store().save(0, chunk([0]))
    monkeypatch.setattr(features, "FORMAT", features.FORMAT + 1)
    assert store().load(0, [0]) is None


def test_a_part_of_a_chunk_can_be_asked_for_and_no_more_than_is_there():
    store().save(0, chunk([0, 2, 3], 1))
    found = store().load(0, range(3))
    assert found is not None
    assert (found.numbers.tolist(), [entry.number for entry in found.unusable]) == ([0, 2], [1])
    assert torch.equal(found.features, chunk([0, 2, 3]).features[:2])
    assert store().load(0, range(5)) is None


def test_clips_that_may_be_had_next_time_keep_a_chunk_from_being_kept():
    store().save(0, chunk([0], 1, passing=True))
    assert store().load(0, [0]) is None


def test_features_of_frames_and_of_nothing():
    per_frame = Chunk(torch.tensor([4]), torch.rand(1, 5, 3), torch.tensor([-1]), torch.tensor([[2, 3]]))
    nothing = Chunk(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64),
                    torch.zeros(0, 2, dtype=torch.int64), (Unusable(0, "a", "b"),))  # fmt: skip
    for number, expected in enumerate((per_frame, nothing)):
        store().save(number, expected)
        assert_same(store().load(number, [4] if number == 0 else [0]), expected)


def file_of(number: int = 0) -> Path:
    return store().tensors.folder / f"{number:06d}.safetensors"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-5],
        lambda content: content[:20],
        lambda content: b"\x00" * len(content),
        lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        lambda content: content.replace(b"numbers", b"nombres"),
        lambda content: content + b"x",
    ],
    ids=["empty", "cut", "header", "zeros", "flipped", "renamed", "longer"],
)
def test_a_damaged_file_is_as_none(damage):
    store().save(0, chunk([0, 1]))
    content = file_of().read_bytes()
    file_of().write_bytes(damage(content))
    assert store().load(0, [0, 1]) is None
    store().save(0, chunk([0, 1]))
    assert file_of().read_bytes() == content


def test_files_of_other_makers_are_as_none():
    TensorStore({"chunk": 16, "source": SOURCE, "extraction": EXTRACTION}).save("000000", {"a": torch.ones(2)})
    assert store().load(0, [0]) is None


def test_the_folder_says_what_it_is():
    store().save(0, chunk([0]))
    about = json.loads((store().tensors.folder / "about.json").read_text())
    assert (about["source"], about["extraction"], about["chunk"]) == (SOURCE, EXTRACTION, 16)


def test_disabled_it_neither_keeps_nor_finds(cache):
    store().save(0, chunk([0]))
    before = sorted(cache.rglob("*"))
    assert store(enabled=False).load(0, [0]) is None
    store({"files": "z"}, enabled=False).save(0, chunk([0]))
    assert sorted(cache.rglob("*")) == before


def test_a_cache_that_cannot_be_written_is_told_of_once(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        for source in ("a", "b"):
            one = store({"files": source})
            one.save(0, chunk([0]))
            one.save(1, chunk([16]))
            assert not one.tensors.enabled  # it is not tried again
    assert caplog.messages == [f"{tmp_path}/file/features: cannot be written (Not a directory); features are not kept"]


def test_a_full_disk_is_told_of_and_leaves_nothing(cache, monkeypatch, caplog):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    store().save(0, chunk([0]))
    assert caplog.messages == [f"{cache}/features: cannot be written (No space left on device); features are not kept"]
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_what_a_killed_process_left_is_removed():
    store().save(0, chunk([0]))
    left = store().tensors.folder / f".000001.safetensors.{'0' * 32}.partial"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    store()
    assert not left.exists()
    assert file_of().exists()


def test_many_writers_at_once_do_not_hinder_each_other():
    wanted = [chunk(list(range(16 * n, 16 * n + 16))) for n in range(8)]

    def fill() -> None:
        mine = store()
        for number, expected in enumerate(wanted):
            mine.save(number, expected)
            assert_same(store().load(number, expected.numbers.tolist()), expected)

    errors: list[BaseException] = []

    def watched() -> None:
        try:
            fill()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=watched) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert not list(store().tensors.folder.glob(".*"))
