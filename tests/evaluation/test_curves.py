"""Scores frame by frame reach tables and pictures as they were measured."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

import vidgen.atomic
from vidgen.errors import UserError
from vidgen.evaluation.curves import Curve, curve_paths, curves_of, merged, save_curves
from vidgen.evaluation.result import Evaluation, MetricResult
from vidgen.metrics.best_of import BestOfN
from vidgen.metrics.image_quality import PeakSignalToNoiseRatio

ONE = {"value": 2.0, "per_frame": [3.0, 2.0, 1.0], "ci95_half_width": [0.5, 0.25, 0.125]}
OTHER = {"value": 1.0, "per_frame": [1.5, None, 0.5], "ci95_half_width": [0.5, None, None], "infinite_frames": 3}
LABELLED = {"own_choice": ONE, "chosen_by_ssim": ONE, "mean_of_samples": OTHER}


def result(details: dict[str, Any], **protocol: Any) -> MetricResult:
    about = {"metric": "psnr", "context_frames": 5, "num_videos": 12, "num_frames": 3, **protocol}
    return MetricResult(2.0, details, about)


def saved(folder: Path, details: dict[str, Any], name: str = "psnr", **protocol: Any) -> str:
    paths = save_curves(folder / "a.json", name, result(details, **protocol))
    assert paths == [folder / f"a.{name}.csv", folder / f"a.{name}.png"]
    return paths[0].read_text()


def drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[list[tuple[str, list[float], list[float]]], list[list[list[float]]], list[Axes]]:
    """Label, x and y of every line that is drawn, the bands, and where."""
    lines: list[tuple[str, list[float], list[float]]] = []
    bands: list[list[list[float]]] = []
    panels: list[Axes] = []
    plot, fill = Axes.plot, Axes.fill_between

    def note_line(self: Axes, x: Any, y: Any, **settings: Any) -> Any:
        lines.append((settings["label"], list(x), list(y)))
        panels.append(self)
        return plot(self, x, y, **settings)

    def note_band(self: Axes, x: Any, lower: Any, upper: Any, **settings: Any) -> Any:
        bands.append([list(x), list(lower), list(upper)])
        return fill(self, x, lower, upper, **settings)

    monkeypatch.setattr(Axes, "plot", note_line)
    monkeypatch.setattr(Axes, "fill_between", note_band)
    return lines, bands, panels


# --- tables ---


def test_one_curve_is_a_table_of_steps(tmp_path):
    assert saved(tmp_path, ONE) == (
        "step,frame,mean,lower,upper\n1,5,3.0,2.5,3.5\n2,6,2.0,1.75,2.25\n3,7,1.0,0.875,1.125\n"
    )


def test_several_curves_stand_beside_each_other_and_what_is_not_known_is_empty(tmp_path):
    assert saved(tmp_path, {"own_choice": ONE, "mean_of_samples": OTHER}, context_frames=0) == (
        "step,frame,own_choice_mean,own_choice_lower,own_choice_upper,"
        "mean_of_samples_mean,mean_of_samples_lower,mean_of_samples_upper\n"
        "1,0,3.0,2.5,3.5,1.5,1.0,2.0\n2,1,2.0,1.75,2.25,,,\n3,2,1.0,0.875,1.125,0.5,,\n"
    )


def test_one_sequence_has_no_interval(tmp_path):
    assert saved(tmp_path, {"value": 1.5, "per_frame": [1.0, 2.0]}) == (
        "step,frame,mean,lower,upper\n1,5,1.0,,\n2,6,2.0,,\n"
    )


def test_curves_of_other_lengths_end_where_they_end(tmp_path):
    short = {"per_frame": [1.0], "ci95_half_width": [0.5, 9.0]}
    assert saved(tmp_path, {"a": short, "b": ONE}).splitlines()[1:3] == [
        "1,5,1.0,0.5,1.5,3.0,2.5,3.5",
        "2,6,,,,2.0,1.75,2.25",
    ]


def test_the_table_holds_what_a_metric_has_measured_to_the_last_digit(tmp_path):
    rng = torch.Generator().manual_seed(0)
    target = torch.randint(256, (4, 1, 5, 12, 12), generator=rng, dtype=torch.uint8)
    fake = torch.randint(256, (4, 3, 1, 5, 12, 12), generator=rng, dtype=torch.uint8)
    metric, single = BestOfN(["psnr", "ssim"], 3), PeakSignalToNoiseRatio()
    for one in (metric, single):
        one.set_context(2)
    metric.update(fake, target)
    single.update(fake[:, 0], target)
    for one in (*metric.members(), single):
        value = float(one.compute())
        path = save_curves(tmp_path / "a.json", one.label, MetricResult(value, one.details, one.protocol()))[0]
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["step"], row["frame"]) for row in rows] == [("1", "2"), ("2", "3"), ("3", "4")]
        curves = {"": one.details} if one is single else {f"{label}_": one.details[label] for label in one.curve_names}
        for label, curve in curves.items():
            assert [float(row[f"{label}mean"]) for row in rows] == curve["per_frame"]
            widths = curve["ci95_half_width"]
            assert [float(row[f"{label}upper"]) - float(row[f"{label}mean"]) for row in rows] == pytest.approx(widths)
            assert [float(row[f"{label}mean"]) - float(row[f"{label}lower"]) for row in rows] == pytest.approx(widths)
        first = next(iter(curves))
        assert np.mean([float(row[f"{first}mean"]) for row in rows]) == pytest.approx(value, rel=1e-12)


# --- pictures ---


def test_every_curve_is_a_line_with_its_band(tmp_path, monkeypatch):
    lines, bands, panels = drawn(monkeypatch)
    saved(tmp_path, LABELLED, "psnr_best_of_9", score={"metric": "psnr"}, metric="best_of_n")
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert lines == [
        ("own_choice, chosen_by_ssim", [1, 2, 3], [3.0, 2.0, 1.0]),
        ("mean_of_samples", [1, 2, 3], [1.5, nan, 0.5]),
    ]
    assert bands == [[[1, 2, 3], [2.5, 1.75, 0.875], [3.5, 2.25, 1.125]], [[1, 2, 3], [1.0, nan, nan], [2.0, nan, nan]]]
    panel = panels[0]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("predicted frame", "PSNR (dB)")
    assert panel.get_title(loc="left") == "psnr_best_of_9"
    assert panel.get_title(loc="right") == "mean and 95 % confidence band over 12 sequences"
    assert [text.get_text() for text in panel.get_legend().get_texts()] == [label for label, *_ in lines]


def test_one_curve_needs_no_legend_and_no_context_is_said(tmp_path, monkeypatch):
    _, _, panels = drawn(monkeypatch)
    saved(tmp_path, {"value": 1.5, "per_frame": [1.0, 2.0]}, "mine", metric="mine", context_frames=0, num_videos=1)
    assert panels[0].get_legend() is None
    assert (panels[0].get_xlabel(), panels[0].get_ylabel()) == ("frame", "mine")
    assert panels[0].get_title(loc="right") == "mean over 1 sequence"


def test_the_band_can_be_seen(tmp_path):
    wide = {**ONE, "ci95_half_width": [0.9, 0.9, 0.9]}
    counts = []
    for details in (wide, {**ONE, "ci95_half_width": [1e-9] * 3}):
        saved(tmp_path, details)
        with Image.open(tmp_path / "a.psnr.png") as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        counts.append((np.abs(pixels - [210, 228, 240]).max(-1) < 12).sum())  # the first colour, faint
        assert image.size == (960, 600)
    assert counts[0] > 100_000 > 2000 > counts[1]


def test_the_same_result_makes_the_same_files(tmp_path):
    for name in "ab":
        save_curves(tmp_path / f"{name}.json", "psnr", result(ONE))
    for suffix in ("csv", "png"):
        assert (tmp_path / f"a.psnr.{suffix}").read_bytes() == (tmp_path / f"b.psnr.{suffix}").read_bytes()


def test_equal_curves_are_one():
    one, other = Curve("a", (1.0, None), (0.5, None)), Curve("b", (1.0, None), ())
    assert merged([one, other, Curve("c", (1.0, None), (0.5, None))]) == {"a, c": one, "b": other}


# --- what is no curve, and files ---


@pytest.mark.parametrize(
    "details",
    [
        {},
        {"std": 1.0, "windows": [{"first_frame": 0, "value": 1.0}]},
        {"per_frame": 3},
        {"per_frame": []},
        {"per_frame": [None, "x", float("inf"), True]},
        {"a": {"per_frame": {}}, "b": 3, "c": [1.0]},
    ],
)
def test_most_metrics_have_no_curves(tmp_path, details):
    assert curves_of(MetricResult(1.0, details)) == []
    assert save_curves(tmp_path / "a.json", "fvd", MetricResult(1.0, details)) == []
    assert list(tmp_path.iterdir()) == []


def test_odd_protocols_do_not_hinder(tmp_path):
    for protocol in ({"context_frames": "x", "num_videos": None, "score": 3}, {"context_frames": -2, "metric": ["x"]}):
        assert saved(tmp_path, ONE, **protocol).splitlines()[1].startswith("1,0,")


def test_names_make_no_folders(tmp_path):
    name = "../$x_{^/b c"
    assert curve_paths(tmp_path / "a.json", name) == (tmp_path / "a...__x____b_c.csv", tmp_path / "a...__x____b_c.png")
    paths = save_curves(tmp_path / "a.json", name, result({f"{name}\x1b": ONE, "b": OTHER}))
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_curves_lie_beside_the_result_and_are_told_of(tmp_path):
    metrics = {"psnr_best_of_3": result(LABELLED), "fvd": MetricResult(3.0), "ssim": result(ONE)}
    found = Evaluation(metrics).save(tmp_path / "new" / "result.json")
    assert [path.name for path in found] == [
        "result.json",
        "result.psnr_best_of_3.csv",
        "result.psnr_best_of_3.png",
        "result.ssim.csv",
        "result.ssim.png",
    ]
    assert sorted(found) == sorted((tmp_path / "new").iterdir())


def test_curves_of_a_result_that_is_replaced_are_removed(tmp_path):
    path, theirs = tmp_path / "a.json", ["a.b.json", "a.b.psnr.csv", "a.b.psnr.png", "a.notes.csv"]
    Evaluation({"psnr": result(ONE)}).save(tmp_path / "a.b.json")
    (tmp_path / "a.notes.csv").write_text("mine")
    Evaluation({"psnr": result(ONE), "ssim": result(ONE)}).save(path)
    Evaluation({"ssim": result(OTHER), "fvd": MetricResult(1.0)}).save(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*theirs, "a.json", "a.ssim.csv", "a.ssim.png"])
    assert (tmp_path / "a.ssim.csv").read_text().splitlines()[1] == "1,5,1.5,1.0,2.0"
    path.write_text("no result")
    Evaluation({"fvd": MetricResult(1.0)}).save(path)
    assert (tmp_path / "a.ssim.csv").exists()  # whose it was is not known


@pytest.mark.parametrize("suffix", ["csv", "png"])
def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path, monkeypatch, suffix):
    Evaluation({"psnr": result(ONE)}).save(tmp_path / "a.json")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith(suffix):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(vidgen.atomic.os, "replace", full)
    with pytest.raises(UserError) as error:
        Evaluation({"psnr": result(OTHER)}).save(tmp_path / "a.json")
    assert str(error.value) == (
        f"{tmp_path}/a.psnr.{suffix}: no space left on the disk; free some, what was written before is intact"
    )
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert after.keys() == before.keys() and after[f"a.psnr.{suffix}"] == before[f"a.psnr.{suffix}"]
    assert after["a.json"] == before["a.json"]
