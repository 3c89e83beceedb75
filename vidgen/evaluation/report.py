"""One page about several results: values, what may be compared, curves, and videos to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidgen.atomic import atomic_file
from vidgen.data.stored import counted
from vidgen.errors import UserError
from vidgen.evaluation.compare import (
    FREE_FIELDS,
    Group,
    MetricComparison,
    NamedResult,
    compare_results,
    flat,
    gathered_warnings,
    is_below,
    load_results,
    shown_field,
    software_notes,
    splits,
)
from vidgen.evaluation.curves import curve_paths, curves_of
from vidgen.evaluation.report_plots import fit_charts, frame_charts, training_charts, window_charts
from vidgen.evaluation.report_videos import sample_section
from vidgen.evaluation.result import shown_value, side_of, sides_of
from vidgen.html import escaped, page


def write_report(paths: Sequence[Path], out: Path) -> Path:
    """Write one HTML page about results, which needs nothing beside itself: no script, no other file, no network.

    Args:
        paths: JSON files of ``vidgen eval``; one that is given twice counts once. Samples are taken from beside them.
        out: the page; it appears whole or not at all.

    Returns:
        ``out``.

    Raises:
        UserError: no file, one that cannot be read, or ``out`` is one of them or cannot be written.
    """
    if not paths:
        raise UserError("eval report: no result given; give JSON files of `vidgen eval … --out FILE.json`")
    if out.resolve() in [path.resolve() for path in paths]:
        raise UserError(f"{out}: is one of the results; give the page another name (--out report.html)")
    content = render_report(load_results(paths, samples=True)).encode()
    with atomic_file(out) as file:
        file.write(content)
    return out


def render_report(results: Sequence[NamedResult]) -> str:
    """The page of results that were read."""
    comparisons = compare_results(results)
    warnings = gathered_warnings(results)
    charts = "".join(
        f'<h2>{title}</h2><div class="charts">{drawn}</div>' * bool(drawn)
        for title, drawn in (
            ("Over training", training_charts(comparisons, results)),
            ("Over the frames of videos", frame_charts(comparisons, results)),
            ("Over the length of videos", window_charts(comparisons, results)),
            ("Over the number of videos", fit_charts(comparisons, results)),
        )
    )
    body = (
        _values(comparisons, results, list(warnings))
        + _differences(comparisons, results)
        + _warnings(warnings, software_notes(comparisons, results), results)
        + charts
        + sample_section(results)
        + '<h2>Protocols</h2><p>Fields in <span class="apart">this colour</span> keep numbers apart;'
        ' those in <span class="free">this one</span> may differ.</p>'
        + "".join(_protocols(comparison, results) for comparison in comparisons)
        + _files(results)
    )
    return page("Evaluation report", _STYLE, body)


def _values(comparisons: Sequence[MetricComparison], results: Sequence[NamedResult], warnings: list[str]) -> str:
    """All values; those of a row may be compared."""
    head = "".join(f'<th scope="col">{escaped(result.label)}</th>' for result in results)
    rows = "".join(
        f'<tr><th scope="row"><b>{escaped(group.name)}</b>{_summary(comparison.metric, group, results)}</th>'
        f"<td>{_mark(comparison, group)}</td>{_cells(comparison.metric, group, results, warnings)}</tr>"
        for comparison in comparisons
        for group in comparison.groups
    )
    return (
        "<h2>Values</h2><p>Numbers of one row may be compared with each other, of different rows never.</p>"
        f'<div class="wide"><table class="values"><thead><tr><th scope="col">metric</th><th scope="col">comparable</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _cells(metric: str, group: Group, results: Sequence[NamedResult], warnings: list[str]) -> str:
    cells = ""
    for number, result in enumerate(results):
        if number not in group.members:
            cells += "<td>–</td>"
            continue
        found = result.evaluation.metrics[metric]
        marks = [warnings.index(line) + 1 for line in dict.fromkeys([*result.evaluation.warnings, *found.warnings])]
        links = "".join(f' <a href="#warning-{mark}" aria-label="warning {mark}">{mark}</a>' for mark in marks)
        cells += f"<td>{shown_value(found)}{f'<sup>{links}</sup>' if links else ''}</td>"
    return cells


def _mark(comparison: MetricComparison, group: Group) -> str:
    """Whether there is something to compare a number with."""
    if len(group.members) > 1:
        return "<b>yes</b>" + (", in this row only" if group.mark else "")
    return "<b>no</b>, see below" if group.mark else "one value"


def _summary(metric: str, group: Group, results: Sequence[NamedResult]) -> str:
    """The protocol of a row in a few words."""
    protocol = results[group.members[0]].evaluation.metrics[metric].protocol
    extractor = side_of(protocol, "extractor")
    weights = side_of(extractor, "weights").get("name")
    counts = [f"{side_of(protocol, side).get('num_clips', '?')} {side}" for side in sides_of(protocol)]
    words = [
        f"protocol {protocol['protocol']}" if protocol.get("protocol") else "",
        " ".join(str(word) for word in (extractor.get("name"), weights) if word),
        f"{protocol['num_frames']} frames" if protocol.get("num_frames") else "",
        ", ".join(counts),
    ]
    return "".join(f"<small>{escaped(word)}</small>" for word in words if word)


def _differences(comparisons: Sequence[MetricComparison], results: Sequence[NamedResult]) -> str:
    """For each metric whose numbers stand in several rows, the fields that keep them apart."""
    tables = ""
    for metrics, comparison in splits(comparisons):
        labels = [", ".join(results[member].label for member in group.members) for group in comparison.groups]
        head = "".join(
            f'<th scope="col">{group.mark}<small>{escaped(label)}</small></th>'
            for group, label in zip(comparison.groups, labels, strict=True)
        )
        rows = "".join(
            f'<tr><th scope="row">{escaped(name)}</th>{"".join(f"<td>{escaped(text)}</td>" for text in texts)}</tr>'
            for name, texts in comparison.differences().items()
        )
        tables += (
            f'<h3>{escaped(", ".join(metrics))}</h3><div class="wide"><table><thead><tr><th scope="col">field</th>'
            f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )
    return f"<h2>What keeps rows apart</h2>{tables}" if tables else ""


def _warnings(warnings: dict[str, list[int]], notes: Sequence[str], results: Sequence[NamedResult]) -> str:
    items = ""
    for number, (warning, members) in enumerate(warnings.items(), 1):
        labels = ", ".join(results[member].label for member in members)
        items += f'<li id="warning-{number}" class="warning">{escaped(warning)} <small>{escaped(labels)}</small></li>'
    told = "".join(f"<p>{escaped(note)}</p>" for note in notes)
    return (f"<h2>Warnings</h2><ol>{items}</ol>" if items else "") + told


def _protocols(comparison: MetricComparison, results: Sequence[NamedResult]) -> str:
    """Every field of the protocols of a metric; a value that all share stands once."""
    members = comparison.members
    found = [flat(results[member].evaluation.metrics[comparison.metric].protocol) for member in members]
    head = "".join(f'<th scope="col">{escaped(results[member].label)}</th>' for member in members)
    apart = comparison.differences()
    rows = ""
    for name in dict.fromkeys(name for fields in found for name in fields):
        kind = "apart" if name in apart else "free" if is_below(name, FREE_FIELDS) else ""
        values = [fields.get(name) for fields in found]
        rows += f'<tr class="{kind}"><th scope="row">{escaped(name)}</th>{_field_cells(values)}</tr>'
    return (
        f'<details><summary>{escaped(comparison.metric)}</summary><div class="wide"><table><thead><tr>'
        f'<th scope="col">field</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _field_cells(values: Sequence[Any]) -> str:
    if all(value == values[0] for value in values):
        return f'<td colspan="{len(values)}">{escaped(shown_field(values[0]))}</td>'
    return "".join(f"<td>{escaped(shown_field(value))}</td>" for value in values)


def _files(results: Sequence[NamedResult]) -> str:
    """Every result with its file, and those of its curves that lie beside it."""
    curves = [_curve_files(result) for result in results]
    names = ("", "file", "made", "command", *(["curves"] if any(curves) else []))
    rows = "".join(
        f'<tr><th scope="row">{escaped(result.label)}</th><td>{escaped(str(result.path))}</td>'
        f"<td>{escaped(result.evaluation.created)}</td><td><code>{escaped(result.evaluation.command)}</code></td>"
        + (f"<td>{''.join(f'<small>{escaped(file)}</small>' for file in files)}</td>" if any(curves) else "")
        + "</tr>"
        for result, files in zip(results, curves, strict=True)
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        f'<h2>{counted(len(results), "result")}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _curve_files(result: NamedResult) -> list[str]:
    found = [
        file
        for name, metric in result.evaluation.metrics.items()
        if curves_of(metric)
        for file in curve_paths(result.path, name)
    ]
    return [file.name for file in found if file.is_file()]


_STYLE = """
h3 { font-size: 1rem; margin: 1rem 0 .25rem } small { display: block } sup a { color: #d9822b }
.wide { overflow-x: auto } th, td { vertical-align: top; padding: .3rem 1rem .3rem 0 }
tr { border-bottom: 1px solid var(--line) } thead th { color: var(--soft); font-size: .85rem; min-width: 6rem }
.values td { white-space: nowrap } .values tbody th { min-width: 13rem } li.warning { margin: .5rem 0 }
.apart, .apart th { color: #d9822b } .free, .free th { color: var(--soft) } .free td { color: var(--ink) }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem 2rem }
.chart svg { width: 100%; height: auto } .chart ul { list-style: none; margin: 0; padding: 0; font-size: .85rem }
.chart li { display: inline-block; margin-right: 1.5rem } .chart svg.swatch { width: 1.5rem; height: .6rem }
.samples tr { border: 0 } .samples td { padding: 0 .5rem .5rem 0 } .samples th { max-width: 12rem }
.still { display: none } @media (prefers-reduced-motion: reduce) { video { display: none } .still { display: block } }
"""
