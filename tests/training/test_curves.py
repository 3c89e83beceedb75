"""Loss curves come from every part of an interrupted run."""

from __future__ import annotations

import csv
import errno
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

import vidgen.atomic
from vidgen.errors import UserError
from vidgen.training.curves import draw_curves, merge_metrics, smooth


def write_metrics(path: Path, rows: list[dict[str, float]]) -> Path:
    names = sorted({name for row in rows for name in row})
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path):
    first = write_metrics(tmp_path / "1.csv", [{"step": s, "loss/g": s, "epoch": 0} for s in (10, 20, 30, 45)])
    second = write_metrics(tmp_path / "2.csv", [{"step": s, "loss/g": -s, "epoch": 0} for s in (30, 40)])
    merged = merge_metrics([first, tmp_path / "missing.csv", second])
    assert merged == {"loss/g": {10: 10, 20: 20, 30: -30, 40: -40}}


def test_values_logged_at_different_steps_keep_their_steps(tmp_path):
    path = write_metrics(tmp_path / "1.csv", [{"step": 1, "loss/g": 0.5}, {"step": 2, "accuracy/d": 0.9}])
    assert merge_metrics([path]) == {"loss/g": {1: 0.5}, "accuracy/d": {2: 0.9}}


def test_smoothing_averages_passes_over_nan_and_keeps_flat_ends():
    values = np.array([0.0, 3.0, np.nan, 6.0, 3.0])
    np.testing.assert_allclose(smooth(values, 3), [1.5, 1.5, 4.5, 4.5, 4.5])
    np.testing.assert_array_equal(smooth(np.full(9, 2.0), 5), np.full(9, 2.0))


def test_one_panel_per_group_with_raw_and_smooth_lines(tmp_path, monkeypatch):
    names = ("loss/g", "loss/g/image", "loss/d", "accuracy/d_real", "accuracy/d_fake", "grad_norm/g", "speed/it", "x")
    rows = [{"step": step, **dict.fromkeys(names, step * 0.1)} for step in range(1, 101)]
    path = write_metrics(tmp_path / "1.csv", rows)
    lines: dict[str, int] = {}
    original = Axes.plot
    panels: list[Axes] = []

    def plot(self, *args, **kwargs):
        panels.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Axes, "plot", plot)
    draw_curves([path], tmp_path / "curves.png")
    for panel in panels:
        lines[panel.get_title(loc="left")] = len(panel.lines)
    assert lines == {"loss": 4, "loss/g": 2, "accuracy": 4, "grad_norm": 2, "speed/it": 2, "x": 2}
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width == 1650 and len(image.convert("RGB").getcolors(10**6) or []) > 20


def test_an_outlier_does_not_flatten_the_curve(tmp_path, monkeypatch):
    rows = [{"step": step, "loss/g": 1000.0 if step == 50 else step / 300} for step in range(1, 301)]
    panels = []
    original = Axes.plot

    def plot(self, *args, **kwargs):
        panels.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Axes, "plot", plot)
    draw_curves([write_metrics(tmp_path / "1.csv", rows)], tmp_path / "curves.png")
    assert panels[0].get_ylim()[1] < 2


def test_a_run_that_logged_nothing_still_has_a_picture(tmp_path):
    draw_curves([write_metrics(tmp_path / "1.csv", [{"step": 1, "epoch": 0}])], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_run_of_nan_only_is_drawn(tmp_path, bad):
    path = write_metrics(tmp_path / "1.csv", [{"step": step, "loss/g": bad} for step in range(1, 60)])
    draw_curves([path], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 0


def test_a_full_disk_is_one_line_and_keeps_the_old_picture(tmp_path, monkeypatch):
    (tmp_path / "curves.png").write_bytes(b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(vidgen.atomic.os, "fsync", full)
    with pytest.raises(UserError) as error:
        draw_curves([], tmp_path / "curves.png")
    assert str(error.value) == (
        f"{tmp_path}/curves.png: no space left on the disk; free some, what was written before is intact"
    )
    assert (tmp_path / "curves.png").read_bytes() == b"old"
