"""Loss curves of a run as one picture."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vidgen.atomic import atomic_file

Series = dict[str, dict[int, float]]  # metric -> step -> value

SHARED_PANELS = ("accuracy", "grad_norm", "learning_rate")
"""Groups whose metrics have one unit and share a panel."""


def draw_curves(csv_files: list[Path], out: Path) -> None:
    """Draw what a run logged, raw values faint and their moving average over them.

    Args:
        csv_files: ``metrics.csv`` files of Lightning's ``CSVLogger``, in the order in which they were written. A
            resumed run has several: from its first step on, a later file replaces the earlier ones.
        out: the PNG to write.

    Raises:
        UserError: ``out`` cannot be written.
    """
    series = merge_metrics(csv_files)
    panels = _panels(series)
    columns = 1 if len(panels) == 1 else 2
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(7.5 * columns, 3.4 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).flatten()
    for panel, (title, names) in zip(axes, panels.items(), strict=False):
        _draw_panel(panel, title, {name: series[name] for name in names})
    for panel in axes[len(panels) :]:
        panel.remove()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    with atomic_file(out) as file:
        file.write(buffer.getvalue())


def merge_metrics(csv_files: Iterable[Path]) -> Series:
    """Values by metric and step of one run that may have been interrupted and resumed.

    Args:
        csv_files: in the order in which they were written; files that do not exist are passed over.
    """
    merged: Series = defaultdict(dict)
    for path in csv_files:
        if not path.is_file():
            continue
        with open(path, newline="") as file:
            fresh = [(int(row.pop("step")), row) for row in csv.DictReader(file) if row.get("step")]
        start = min((step for step, _ in fresh), default=math.inf)
        for values in merged.values():
            for step in [step for step in values if step >= start]:
                del values[step]
        for step, row in fresh:
            for name, text in row.items():
                if name != "epoch" and text:
                    merged[name][step] = float(text)
    return {name: values for name, values in merged.items() if values}


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Centred moving average that passes over NaN/Inf and narrows at the ends.

    Args:
        values: ``(N,)``.
        window: values averaged in the middle, odd.
    """
    finite = np.isfinite(values)
    kernel = np.ones(window)
    total = np.convolve(np.where(finite, values, 0.0), kernel)[window // 2 :][: len(values)]
    count = np.convolve(finite, kernel)[window // 2 :][: len(values)]
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def _panels(series: Series) -> dict[str, list[str]]:
    """Panel title -> metrics in it, in the order in which they are drawn."""
    panels: dict[str, list[str]] = defaultdict(list)
    for name in sorted(series, key=_panel_order):
        panels[_panel_of(name)].append(name)
    return panels or {"no values were logged": []}


def _panel_of(name: str) -> str:
    """Whole losses share a panel, so do the terms of one loss and the shared groups; the rest stand alone."""
    group, *rest = name.split("/")
    if group == "loss" and rest:
        return "loss" if len(rest) == 1 else f"loss/{rest[0]}"
    return group if group in SHARED_PANELS else name


def _panel_order(name: str) -> tuple[int, str, str]:
    groups = ("loss", *SHARED_PANELS)
    group = name.split("/")[0]
    return groups.index(group) if group in groups else len(groups), _panel_of(name), name


def _draw_panel(panel: Axes, title: str, lines: Series) -> None:
    shown = []
    for index, (name, points) in enumerate(lines.items()):
        steps = np.array(sorted(points))
        values = np.array([points[step] for step in steps.tolist()])
        color, style = f"C{index % 10}", "--" if index >= 10 else "-"
        label = name.removeprefix(f"{title}/")
        window = max(1, len(values) // 20) // 2 * 2 + 1
        if window > 1:
            panel.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        panel.plot(
            steps,
            smooth(values, window),
            style,
            color=color,
            linewidth=1.6,
            label=label,
            marker="o" if len(values) == 1 else None,
        )
        shown.append(values[np.isfinite(values)])
    panel.set_title(title, loc="left", fontsize=11)
    panel.set_xlabel("iteration", fontsize=9)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25)
    panel.spines[["top", "right"]].set_visible(False)
    _limit(panel, np.concatenate([*shown, np.empty(0)]))
    if len(lines) > 1:
        panel.legend(fontsize=8, framealpha=0.7)


def _limit(panel: Axes, values: np.ndarray) -> None:
    """Keep a few outliers from flattening everything else."""
    if len(values) < 20:
        return
    low, high = np.percentile(values, [0.5, 99.5])
    if high > low:
        margin = 0.08 * (high - low)
        panel.set_ylim(max(values.min(), low) - margin, min(values.max(), high) + margin)
