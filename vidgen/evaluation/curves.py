"""Scores frame by frame, as a table and as a picture with their confidence band."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vidgen.atomic import atomic_file
from vidgen.evaluation.result import MetricResult, as_number
from vidgen.html import printable

_NAMES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "lpips": "LPIPS"}
"""Of scores, on axes."""
_DOTS_PER_INCH = 150


@dataclass(frozen=True)
class Curve:
    """A score over the frames of a video, averaged over sequences.

    Args:
        label: what tells it from the other curves of its metric; empty where it is the only one.
        means: of the frames; None where there is no number.
        half_widths: of the 95% confidence intervals, likewise.
    """

    label: str
    means: tuple[float | None, ...]
    half_widths: tuple[float | None, ...]

    def intervals(self) -> list[tuple[float | None, float | None, float | None]]:
        """Of each frame: mean, lower and upper end of the confidence interval."""
        rows: list[tuple[float | None, float | None, float | None]] = []
        for mean, half in zip_longest(self.means, self.half_widths[: len(self.means)]):
            rows.append((mean, None, None) if mean is None or half is None else (mean, mean - half, mean + half))
        return rows


def curves_of(metric: MetricResult) -> list[Curve]:
    """The curves that belong to a value; none for most metrics."""
    told = {"": metric.details} if "per_frame" in metric.details else metric.details
    found = []
    for label, entry in told.items():
        means = _numbers(entry.get("per_frame")) if isinstance(entry, dict) else ()
        if any(mean is not None for mean in means):
            found.append(Curve(str(label), means, _numbers(entry.get("ci95_half_width"))))
    return found


def context_of(metric: MetricResult) -> int:
    """Frames before the first one of the curves."""
    frames = metric.protocol.get("context_frames")
    return frames if isinstance(frames, int) and frames > 0 else 0


def axis_names(name: str, metric: MetricResult) -> tuple[str, str]:
    """What stands beside the axes of the curves of a metric: of steps, and of scores."""
    about = metric.protocol.get("score", metric.protocol)
    score = about.get("metric") if isinstance(about, dict) else None
    return "predicted frame" if context_of(metric) else "frame", _NAMES.get(str(score), name)


def curve_paths(path: Path, name: str) -> tuple[Path, Path]:
    """Where the table and the picture of a metric lie: beside the result.

    Args:
        path: the JSON file of the result.
        name: of the metric.
    """
    stem = path.name.removesuffix(".json") + "." + re.sub(r"[^\w.-]", "_", name)
    return path.with_name(f"{stem}.csv"), path.with_name(f"{stem}.png")


def save_curves(path: Path, name: str, metric: MetricResult) -> list[Path]:
    """Write the curves of a metric beside the result, as a table and as a picture.

    Args:
        path: the JSON file of the result.
        name: of the metric.
        metric: its value.

    Returns:
        What was written; nothing for a metric without curves.

    Raises:
        UserError: it cannot be written.
    """
    curves = curves_of(metric)
    if not curves:
        return []
    contents = table(curves, context_of(metric)).encode(), picture(name, metric, curves)
    paths = list(curve_paths(path, name))
    for place, content in zip(paths, contents, strict=True):
        with atomic_file(place) as file:
            file.write(content)
    return paths


def table(curves: list[Curve], context_frames: int) -> str:
    """Curves as CSV, a line for each frame; what is not known is empty.

    Columns are ``step``, from 1 for the first frame that was compared; ``frame``, its index in the video, from 0; then
    ``mean``, ``lower`` and ``upper`` of each curve, after its label where there are several.

    Args:
        curves: of one metric.
        context_frames: frames of the video before the first step.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f"{curve.label}_{column}" if curve.label else column for curve in curves for column in _COLUMNS]
    writer.writerow(["step", "frame", *names])
    for index, intervals in enumerate(zip_longest(*(curve.intervals() for curve in curves), fillvalue=_UNKNOWN)):
        numbers = ["" if number is None else repr(number) for interval in intervals for number in interval]
        writer.writerow([index + 1, context_frames + index, *numbers])
    return text.getvalue()


_COLUMNS = ("mean", "lower", "upper")
_UNKNOWN = (None, None, None)


def picture(name: str, metric: MetricResult, curves: list[Curve]) -> bytes:
    """Curves over the steps, each with its confidence band, as a PNG.

    Args:
        name: of the metric.
        metric: its value.
        curves: its curves; those that are equal are drawn as one.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    panel = figure.subplots()
    for label, curve in merged(curves).items():
        rows = np.array(curve.intervals(), dtype=float)
        steps = np.arange(1, len(rows) + 1)
        (line,) = panel.plot(steps, rows[:, 0], linewidth=1.6, label=_plain(label), marker="o", markersize=3)
        panel.fill_between(steps, rows[:, 1], rows[:, 2], color=line.get_color(), alpha=0.2, linewidth=0)
    x_name, y_name = axis_names(name, metric)
    panel.set_title(_plain(name), loc="left", fontsize=11)
    panel.set_title(_about(metric, curves), loc="right", fontsize=8, color="0.35")
    panel.set_xlabel(x_name, fontsize=9)
    panel.set_ylabel(_plain(y_name), fontsize=9)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    if len(curves) > 1:
        panel.legend(fontsize=8, framealpha=0.7)
    content = io.BytesIO()
    # Matplotlib would write its version into the file, and two runs would differ by it.
    figure.savefig(content, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return content.getvalue()


def merged(curves: list[Curve]) -> dict[str, Curve]:
    """Curves by their labels; those that are equal, as when a score itself chooses for all, under all their labels."""
    alike: dict[tuple[Any, Any], list[Curve]] = {}
    for curve in curves:
        alike.setdefault((curve.means, curve.half_widths), []).append(curve)
    return {", ".join(curve.label for curve in group): group[0] for group in alike.values()}


def _about(metric: MetricResult, curves: list[Curve]) -> str:
    """Of what the means are."""
    known = any(half is not None for curve in curves for half in curve.half_widths)
    count = metric.protocol.get("num_videos")
    words = "mean and 95 % confidence band" if known else "mean"
    return words + (f" over {count} sequence{'s' * (count != 1)}" if isinstance(count, int) else "")


def _plain(text: str) -> str:
    """As Matplotlib writes it: no formula, no sign that steers."""
    return printable(text).replace("$", r"\$")


def _numbers(values: Any) -> tuple[float | None, ...]:
    return tuple(as_number(value) for value in values) if isinstance(values, list) else ()
