"""tools/benchmark.py eval compares before it times, and takes turns."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import benchmark
import evaluating

PORT = """\
from torch import nn
from vidgen.metrics.extractors.i3d_network import InceptionI3D

class InceptionI3d(InceptionI3D):
    def __init__(self, classes, in_channels):
        super().__init__(classes, in_channels, eps={eps})
        {extra}

    def forward(self, x):
        return self.endpoints(x)["Logits"]
"""


def write_port(folder: Path, eps: float = 1e-3, extra: str = "") -> Path:
    """A file that stands for the public port."""
    (folder / "pytorch_i3d.py").write_text(PORT.format(eps=eps, extra=extra))
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which the command is refused."""
    assert benchmark.main(["eval", "--turns", "1", "--memory-clips", "--forms", "float32", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_turns_alternate_and_the_first_does_not_count() -> None:
    calls: list[str] = []
    pairs = evaluating.in_turn(lambda: calls.append("ours"), lambda: calls.append("theirs"), 3)
    assert len(pairs) == 3
    assert calls == ["theirs", "ours", "ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_a_missing_port_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(capsys, "--reference", str(tmp_path))
    assert message == (
        f"error: --reference {tmp_path}: no pytorch_i3d.py there; give a checkout of piergiaj/pytorch-i3d"
    )


def test_another_network_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    write_port(tmp_path, extra="self.more = nn.Linear(1, 1)")
    message = refused(capsys, "--reference", str(tmp_path))
    assert message == f"error: --reference {tmp_path}: another network; only one of the two has more.bias"


def test_equal_networks_are_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluating, "CLIPS", 1)
    monkeypatch.setattr(evaluating, "FRAMES", 9)
    lines = list(evaluating.beside_port(write_port(tmp_path), ["float32"], 2))
    assert lines[0] == "reference: piergiaj/pytorch-i3d at unknown, eval mode"
    assert lines[1].startswith("float32: relative error of the embeddings ")
    assert float(lines[1].rpartition(" ")[2]) < 1e-5
    assert lines[2].startswith("2 pairs: vidgen ")


def test_networks_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(evaluating, "CLIPS", 1)
    monkeypatch.setattr(evaluating, "FRAMES", 9)
    with pytest.raises(evaluating.UserError, match=r"^float32: embeddings are 0\.0\d* of their norm apart"):
        list(evaluating.beside_port(write_port(tmp_path, eps=1e-5), ["float32"], 2))
