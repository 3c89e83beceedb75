"""The charts of a report, drawn as SVG: values over training, over frames or windows of videos, over the set's size."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from vidgen.evaluation.compare import Group, MetricComparison, NamedResult
from vidgen.evaluation.curves import Curve, axis_names, curves_of, merged
from vidgen.evaluation.result import MetricResult, as_number, shown_number, side_of
from vidgen.html import escaped

COLORS = ("#4c86d9", "#d9822b", "#2f9e6e", "#d9534f", "#9470dc", "#a1785b", "#d169a8", "#2aa3b3")
"""Of lines, as readable on light paper as on dark; lines beyond them are dashed."""
WIDTH, HEIGHT = 640, 280
LEFT, RIGHT, TOP, BOTTOM = 76, 26, 14, 46
"""Margins around the plotted area."""
LARGEST = 1e300
"""Beyond it, values are drawn at the border: differences of floats must stay finite."""


@dataclass(frozen=True)
class Point:
    """A value in a chart.

    Args:
        x, y: where.
        tip: what is shown when one points at it.
        spread: half the height of the bar through it.
    """

    x: float
    y: float
    tip: str
    spread: float = 0.0


@dataclass(frozen=True)
class Line:
    """Points of one kind.

    Args:
        label: for the legend.
        points: drawn as dots.
        path: corners of the line through or beside them; fewer than two are no line.
        band: parts of a band around it, each of ``(x, lower, upper)`` in a row; fewer than two are none.
    """

    label: str
    points: tuple[Point, ...]
    path: tuple[tuple[float, float], ...]
    band: tuple[tuple[tuple[float, float, float], ...], ...] = ()


def training_charts(comparisons: Sequence[MetricComparison], results: Sequence[NamedResult]) -> str:
    """A chart of each metric over the iteration of the checkpoint, where there are two iterations or more.

    Joined are values that may be compared, of one model, one kind of weights, asked in one way, from one folder.
    """
    charts = ""
    for comparison in comparisons:
        lines = _training_lines(comparison, results)
        if len({point.x for line in lines for point in line.points}) > 1:
            charts += chart(comparison.metric, "iteration", comparison.metric, lines, whole_numbers=True)
    return charts


def window_charts(comparisons: Sequence[MetricComparison], results: Sequence[NamedResult]) -> str:
    """A chart of each group of comparable values over the windows of long videos, where they were measured."""
    charts = ""
    for group, metrics in _groups(comparisons, results):
        lines = [_window_line(label, metric) for label, metric in metrics]
        lines = [line for line in lines if line.points]
        if lines:
            charts += chart(f"{group.name} by window", "first frame of the window", group.name, lines, True)
    return charts


def frame_charts(comparisons: Sequence[MetricComparison], results: Sequence[NamedResult]) -> str:
    """A chart of each group of comparable values over the frames of videos, where every frame has a score.

    Bands are the 95% confidence intervals over sequences.
    """
    charts = ""
    for group, metrics in _groups(comparisons, results):
        lines = [
            _frame_line(f"{label}: {name}" if name else label, curve)
            for label, metric in metrics
            for name, curve in merged(curves_of(metric)).items()
        ]
        if lines:
            x_name, y_name = axis_names(group.name, metrics[0][1])
            charts += chart(group.name, x_name, y_name, lines, True)
    return charts


def fit_charts(comparisons: Sequence[MetricComparison], results: Sequence[NamedResult]) -> str:
    """A chart of each group of extrapolated values: what was measured on fewer videos, and the line through it."""
    charts = ""
    for group, metrics in _groups(comparisons, results):
        lines = [line for label, metric in metrics if (line := _fit_line(label, metric)) is not None]
        if lines:
            charts += chart(f"{group.name}: where the line meets 0", "1 / number of videos", "value", lines)
    return charts


def chart(title: str, x_name: str, y_name: str, lines: Sequence[Line], whole_numbers: bool = False) -> str:
    """One chart with its title above and its legend below.

    Args:
        title, x_name, y_name: plain texts.
        lines: at least one point in all.
        whole_numbers: whether ticks between whole numbers of x have no meaning.
    """
    corners = [(point.x, point.y + side * point.spread) for line in lines for point in line.points for side in (-1, 1)]
    corners += [corner for line in lines for corner in line.path]
    corners += [(x, y) for line in lines for part in line.band for x, *ends in part for y in ends]
    x_axis = _Axis(np.array([x for x, _ in corners]), LEFT, WIDTH - RIGHT, whole_numbers)
    y_axis = _Axis(np.array([y for _, y in corners]), HEIGHT - BOTTOM, TOP, False)
    drawn = "".join(_draw(line, number, x_axis, y_axis) for number, line in enumerate(lines))
    label = f"Chart: {y_name} against {x_name}, {len(lines)} line{'s' * (len(lines) > 1)}"
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escaped(label)}" font-size="12" fill="none">'
        f"{_frame(x_axis, y_axis, x_name, y_name)}{drawn}</svg>"
    )
    legend = "".join(f"<li>{_swatch(number)} {escaped(line.label)}</li>" for number, line in enumerate(lines))
    return f'<figure class="chart"><h3>{escaped(title)}</h3>{svg}<figcaption><ul>{legend}</ul></figcaption></figure>'


class _Axis:
    """From values to places.

    Args:
        values: that must be seen.
        start, end: places of the least and of the greatest tick.
        whole_numbers: whether ticks are whole numbers.
    """

    def __init__(self, values: np.ndarray, start: float, end: float, whole_numbers: bool) -> None:
        seen = np.clip(values, -LARGEST, LARGEST)
        low, high = float(seen.min()), float(seen.max())
        if low == high:
            low, high = low - (abs(low) * 0.05 or 1), high + (abs(high) * 0.05 or 1)
        locator = MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], integer=whole_numbers)
        self.ticks = [float(tick) for tick in locator.tick_values(low, high)]
        self.low, self.high = min(self.ticks[0], low), max(self.ticks[-1], high)
        self.start, self.end = start, end

    def place(self, value: float) -> str:
        share = (value - self.low) / (self.high - self.low)
        return f"{self.start + min(max(share, 0.0), 1.0) * (self.end - self.start):.1f}"


def _frame(x_axis: _Axis, y_axis: _Axis, x_name: str, y_name: str) -> str:
    """Grid, ticks and names of the axes."""
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".15"/>')
        parts.append(_text(LEFT - 8, float(y) + 4, _tick(tick), "end"))
    for tick in x_axis.ticks:
        x = x_axis.place(tick)
        parts.append(f'<path d="M{x} {HEIGHT - BOTTOM}v5" stroke="currentColor" stroke-opacity=".5"/>')
        parts.append(_text(float(x), HEIGHT - BOTTOM + 18, _tick(tick), "middle"))
    parts.append(
        f'<path d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".5"/>'
        + _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_name, "middle")
        + _text(14, (TOP + HEIGHT - BOTTOM) / 2, _cut(y_name), "middle", upright=True)
    )
    return "".join(parts)


def _draw(line: Line, number: int, x_axis: _Axis, y_axis: _Axis) -> str:
    color = COLORS[number % len(COLORS)]
    drawn = ""
    for part in line.band:
        if len(part) > 1:
            edge = [(x, upper) for x, _, upper in part] + [(x, lower) for x, lower, _ in reversed(part)]
            corners = " ".join(f"{x_axis.place(x)},{y_axis.place(y)}" for x, y in edge)
            drawn += f'<polygon points="{corners}" fill="{color}" fill-opacity=".2"/>'
    if len(line.path) > 1:
        corners = " ".join(f"{x_axis.place(x)},{y_axis.place(y)}" for x, y in line.path)
        drawn += f'<polyline points="{corners}" stroke="{color}" stroke-width="2"{_dashes(number)}/>'
    for point in line.points:
        x = x_axis.place(point.x)
        if point.spread:
            ends = y_axis.place(point.y - point.spread), y_axis.place(point.y + point.spread)
            drawn += f'<path d="M{x} {ends[0]}V{ends[1]}" stroke="{color}" stroke-width="1.5"/>'
        tip = f"<title>{escaped(point.tip)}</title>"
        drawn += f'<circle cx="{x}" cy="{y_axis.place(point.y)}" r="3.5" fill="{color}">{tip}</circle>'
    return drawn


def _swatch(number: int) -> str:
    """A short piece of a line, for the legend."""
    stroke = f'stroke="{COLORS[number % len(COLORS)]}" stroke-width="3"{_dashes(number)}'
    return f'<svg class="swatch" viewBox="0 0 24 10" aria-hidden="true"><path d="M1 5H23" {stroke}/></svg>'


def _dashes(number: int) -> str:
    period = number // len(COLORS)
    return f' stroke-dasharray="{3 + 2 * (period % 3)} 3"' if period else ""


def _text(x: float, y: float, text: str, anchor: str, upright: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if upright else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turn}'
    return f'<text {place} fill="currentColor" fill-opacity=".75">{escaped(text)}</text>'


def _tick(value: float) -> str:
    return f"{value:,.10g}" if 1e-4 <= abs(value) < 1e7 else f"{value:.6g}"


def _cut(text: str) -> str:
    return text if len(text) <= 30 else text[:29] + "…"


def _groups(
    comparisons: Sequence[MetricComparison], results: Sequence[NamedResult]
) -> list[tuple[Group, list[tuple[str, MetricResult]]]]:
    """Every group of comparable values with the labels and the values of its results."""
    return [
        (group, [(results[n].label, results[n].evaluation.metrics[comparison.metric]) for n in group.members])
        for comparison in comparisons
        for group in comparison.groups
    ]


def _training_lines(comparison: MetricComparison, results: Sequence[NamedResult]) -> list[Line]:
    found: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for group in comparison.groups:
        for member in group.members:
            metric = results[member].evaluation.metrics[comparison.metric]
            iteration = as_number(side_of(metric.protocol, "fake").get("iteration"))
            if iteration is not None:
                tip = f"{results[member].label}: {shown_number(metric.value)} at iteration {_tick(iteration)}"
                spread = as_number(metric.details.get("std")) or 0.0
                found[(*_run(metric), group.mark)].append(Point(iteration, metric.value, tip, abs(spread)))
    differing = [len(set(part)) > 1 for part in zip(*found, strict=True)]
    lines = []
    for run, points in found.items():
        parts = [part for part, shown in zip(run, differing, strict=True) if shown and part]
        lines.append(Line(", ".join(parts) or run[0] or "value", tuple(points), _means(points)))
    return lines


def _run(metric: MetricResult) -> tuple[str, str, str, str]:
    """What tells the checkpoints of one training from those of another: model, weights, keywords, folder.

    The folder is that of the run, whether its training was measured or one of its ``checkpoints`` afterwards.
    """
    fake = side_of(metric.protocol, "fake")
    keywords = fake.get("keywords")
    asked = json.dumps(keywords, sort_keys=True, ensure_ascii=False) if keywords else ""
    folder = PurePath(str(fake.get("path") or ""))
    if folder.suffix == ".ckpt":
        folder = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
    return str(fake.get("model") or ""), str(fake.get("weights") or ""), asked, str(folder)


def _means(points: Sequence[Point]) -> tuple[tuple[float, float], ...]:
    """A line through points, in the middle of those that were measured at one place."""
    places: dict[float, list[float]] = defaultdict(list)
    for point in points:
        places[point.x].append(point.y)
    return tuple((x, math.fsum(y / len(values) for y in values)) for x, values in sorted(places.items()))


def _frame_line(label: str, curve: Curve) -> Line:
    points: list[Point] = []
    band: list[list[tuple[float, float, float]]] = [[]]
    for step, (mean, lower, upper) in enumerate(curve.intervals(), 1):
        if mean is not None:
            told = "" if lower is None or upper is None else f" ({shown_number(lower)} to {shown_number(upper)})"
            points.append(Point(step, mean, f"{label}: {shown_number(mean)}{told} at {step}"))
        if lower is None or upper is None:
            band.append([])
        else:
            band[-1].append((step, lower, upper))
    path = tuple((point.x, point.y) for point in points)
    return Line(label, tuple(points), path, tuple(tuple(part) for part in band if part))


def _window_line(label: str, metric: MetricResult) -> Line:
    points = []
    windows = metric.details.get("windows")
    for window in windows if isinstance(windows, list) else []:
        told: dict[str, Any] = window if isinstance(window, dict) else {}
        first, value = as_number(told.get("first_frame")), as_number(told.get("value"))
        if first is not None and value is not None:
            points.append(Point(first, value, f"{label}: {shown_number(value)} from frame {_tick(first)} on"))
    return Line(label, tuple(points), tuple((point.x, point.y) for point in points))


def _fit_line(label: str, metric: MetricResult) -> Line | None:
    details = metric.details
    slope, residual = as_number(details.get("slope")), as_number(details.get("residual"))
    sizes, values = details.get("sizes"), details.get("distances")
    if slope is None or not isinstance(sizes, list) or not isinstance(values, list):
        return None
    points = []
    for told_size, told_value in zip(sizes, values, strict=False):
        size, value = as_number(told_size), as_number(told_value)
        if size is not None and value is not None and size > 0:
            points.append(Point(1 / size, value, f"{label}: {shown_number(value)} of {_tick(size)} videos"))
    end = max((point.x for point in points), default=0.0)
    told = "" if residual is None else f", residual {shown_number(residual)}"
    whole = Point(0.0, metric.value, f"{label}: {shown_number(metric.value)}")
    text = f"{label}: {shown_number(metric.value)}, slope {shown_number(slope)}{told}"
    return Line(text, (*points, whole), ((0.0, metric.value), (end, metric.value + slope * end)))
