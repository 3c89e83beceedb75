"""tools/benchmark.py data compares before it times, and measures what it says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from vidgen.errors import UserError

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import benchmark
import reading


def test_every_comparison_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reading, "GOP", 20)
    words = ["--videos", "1", "--seconds", "2", "--turns", "2", "--memory-clips", "640", "--folder", str(tmp_path)]
    assert benchmark.main(["data", *words]) == 0
    out = capsys.readouterr().out
    assert "1 files of 2 s, 320 x 180, 30 frames/s, H.264, a key frame every 20 frames\n" in out
    assert "2 pairs: packed " in out and "20 pairs: loader " in out
    for way in ("packed", "by seeking", "loader"):
        assert f"\n{way}: " in out and " x the clips/s\n" in out
    assert out.count("memory of a loading process after ") == 10
    assert (tmp_path / "pack" / "pack.json").is_file()


def test_ways_that_read_different_clips_are_not_timed():
    def read(value: float) -> reading.Turn:
        return lambda requests: torch.full((1, 1), value)

    pair = reading.Pair("a", "b", read(0.0), read(2 / 127.5), 1)
    with pytest.raises(UserError) as error:
        reading.compare(pair, iter([()]))
    assert str(error.value) == "a and b do not read the same: 2 levels apart"
    reading.compare(reading.Pair("a", "b", read(1.0), read(1.0), 1), iter([(), ()]))


def test_which_way_begins_changes_from_turn_to_turn():
    said: list[str] = []

    def way(name: str) -> reading.Turn:
        return lambda requests: said.append(name) or torch.zeros(1)

    pairs = reading.measure(reading.Pair("a", "b", way("a"), way("b"), 1), iter([()] * 5), turns=2)
    assert len(pairs) == 2 and said == ["b", "b", "a", "b", "a", "b"]
