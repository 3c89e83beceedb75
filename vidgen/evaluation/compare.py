"""Which of the numbers of several results may be compared, and if not, what stands between them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidgen.errors import UserError
from vidgen.evaluation.result import Evaluation, MetricResult, aligned, shown_value, sides_of
from vidgen.html import printable

FREE_FIELDS: dict[str, str] = {
    "fake.source": "what is being compared",
    "fake.path": "what is being compared",
    "fake.checkpoint": "what is being compared",
    "fake.model": "what is being compared",
    "fake.model_fingerprint": "what is being compared",
    "fake.iteration": "what is being compared",
    "fake.weights": "what is being compared: averaged weights (EMA) or not",
    "fake.keywords": "what is being compared: how the model was asked to sample",
    "fake.fingerprint": "what is being compared",
    "fake.seed": "which of a model's videos: another draw from what is being compared",
    "fake.clips.seed": "which of a folder's videos: another draw from what is being compared",
    "fake.num_videos": "how many there were to draw from; how many were measured is num_clips, which is not free",
    "fake.resize": "how the videos came to their size; the size is fake.resolution, which is not free",
    "fake.interpolation": "how the videos came to their size; the size is fake.resolution, which is not free",
    "fake.fps": "a rate that is written in files and decides no pixel",
    "fake.compression": "how the videos are stored; whether that has changed them is fake.lossy, which is not free",
    "fake.clips.order": "which of a folder's videos: another draw from what is being compared",
    "fake.rounding": "noted where it differs: of files it is not known",
    "real.source": "the same videos in another layout; what they hold is real.fingerprint, which is not free",
    "real.num_videos": "how many there were to draw from; which were measured is in real.fingerprint",
    "real.fps": "a rate that is written in files and decides no pixel",
    "real.compression": "how the videos are stored; what they hold is real.fingerprint, which is not free",
    "real.path": "the same videos elsewhere; what they hold is real.fingerprint, which is not free",
    "extractor.weights.file": "the same weights under another name; what they hold is their fingerprint",
    "software": "noted where it differs: versions should not change a number beyond its rounding",
    "device": "noted where it differs, as software is",
}
"""Fields of a protocol, each with all below it, in which two numbers that may be compared can differ, and why.

In every other field they must agree, known or not; a field that is missing is one that holds nothing.
"""
NOTED = ("software", "device", "fake.rounding")
"""Free fields that are told of where they differ."""
MOST_CHARACTERS = 32
"""Of a value in a list of differences."""


@dataclass(frozen=True)
class NamedResult:
    """A result that was read.

    Args:
        label: what tells its file from the others, for a column.
        path: of its file.
        evaluation: what it holds.
    """

    label: str
    path: Path
    evaluation: Evaluation


@dataclass(frozen=True)
class Group:
    """Results whose numbers of one metric may be compared.

    Args:
        name: of a row in a table: the metric, with ``[1]``, ``[2]``, … where it has several groups.
        mark: ``[1]``, …; empty where it is the only one.
        members: numbers of the results.
        binding: the fields in which they agree, by dotted name.
    """

    name: str
    mark: str
    members: tuple[int, ...]
    binding: Mapping[str, Any]


@dataclass(frozen=True)
class MetricComparison:
    """One metric over all results.

    Args:
        metric: its name.
        groups: in the order of their first results; numbers of different groups may not be compared.
    """

    metric: str
    groups: tuple[Group, ...]

    @property
    def members(self) -> list[int]:
        """Numbers of the results that have the metric."""
        return sorted(member for group in self.groups for member in group.members)

    def differences(self) -> dict[str, tuple[str, ...]]:
        """The fields that keep the groups apart: dotted name -> text of the value in each group."""
        names = dict.fromkeys(name for group in self.groups for name in group.binding)
        values = {name: [group.binding.get(name) for group in self.groups] for name in names}
        return {name: shown_apart(found) for name, found in values.items() if not _all_equal(found)}


def compare(paths: Sequence[Path]) -> str:
    """Set results side by side.

    Args:
        paths: JSON files of ``vidgen eval``; one that is given twice counts once.

    Returns:
        A table with a column for each file, where the numbers of a row may be compared; then what may be compared and
        which fields stand in the way; notes and warnings.

    Raises:
        UserError: fewer than two files, or one that cannot be read.
    """
    results = load_results(paths, samples=False)
    if len(results) < 2:
        raise UserError(f"eval compare: needs two or more different results, got {len(results)}; give more JSON files")
    comparisons = compare_results(results)
    labels = [result.label for result in results]
    lines = aligned(_table(comparisons, results))
    lines += ["", *_verdict(comparisons, labels), *software_notes(comparisons, results)]
    for warning, members in gathered_warnings(results).items():
        where = "" if len(members) == len(labels) else f" ({', '.join(labels[member] for member in members)})"
        lines.append(f"warning{where}: {warning}")
    return "\n".join(printable(line) for line in lines)


def load_results(paths: Sequence[Path], *, samples: bool) -> list[NamedResult]:
    """Read results, each file once, and name them as shortly as tells them apart.

    Args:
        paths: JSON files of ``vidgen eval``.
        samples: whether the videos beside them are read too.

    Raises:
        UserError: one cannot be read.
    """
    once: dict[Path, Path] = {}
    for path in paths:
        once.setdefault(path.resolve(), path)
    files = list(once.values())
    read = [Evaluation.load(path, samples=samples) for path in files]
    return [NamedResult(*found) for found in zip(_labels(files), files, read, strict=True)]


def compare_results(results: Sequence[NamedResult]) -> list[MetricComparison]:
    """Every metric of the results, in the order in which they name them, with its groups of comparable numbers."""
    metrics = dict.fromkeys(metric for result in results for metric in result.evaluation.metrics)
    return [_compare_metric(metric, results) for metric in metrics]


def flat(protocol: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """The fields of a protocol by dotted name; those that hold nothing are left out."""
    fields: dict[str, Any] = {}
    for key, value in protocol.items():
        if isinstance(value, Mapping):
            fields |= flat(value, f"{above}{key}.")
        elif value is not None:
            fields[f"{above}{key}"] = list(value) if isinstance(value, tuple) else value
    return fields


def is_below(name: str, fields: Sequence[str] | Mapping[str, str]) -> bool:
    """Whether a dotted name is one of some fields or lies below one."""
    return any(name == field or name.startswith(f"{field}.") for field in fields)


def shown_field(value: Any) -> str:
    """The value of a field as short text."""
    return value if isinstance(value, str) else "none" if value is None else json.dumps(value, ensure_ascii=False)


def shown_apart(values: Sequence[Any]) -> tuple[str, ...]:
    """Values of one field as short texts; of long ones, what they begin with alike is left out."""
    texts = [shown_field(value) for value in values]
    if max(map(len, texts)) > MOST_CHARACTERS:
        alike = next((n for n, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1), 0)
        start = max(0, alike - MOST_CHARACTERS // 4)
        texts = [("…" if start else "") + text[start:] for text in texts]
    return tuple(text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…" for text in texts)


def splits(comparisons: Sequence[MetricComparison]) -> list[tuple[list[str], MetricComparison]]:
    """Metrics whose numbers may not all be compared; those that the same fields keep apart in the same way together.

    Returns:
        Names of metrics, and the comparison of the first of them.
    """
    found: dict[Any, tuple[list[str], MetricComparison]] = {}
    for comparison in comparisons:
        if len(comparison.groups) > 1:
            key = tuple(group.members for group in comparison.groups), tuple(comparison.differences().items())
            found.setdefault(key, ([], comparison))[0].append(comparison.metric)
    return list(found.values())


def software_notes(comparisons: Sequence[MetricComparison], results: Sequence[NamedResult]) -> list[str]:
    """A line for each program or device that differs where numbers may be compared otherwise."""
    notes = []
    for metric, group in ((comparison.metric, group) for comparison in comparisons for group in comparison.groups):
        found = [flat(results[member].evaluation.metrics[metric].protocol) for member in group.members]
        for name in dict.fromkeys(name for fields in found for name in fields if is_below(name, NOTED)):
            values = [fields.get(name) for fields in found]
            if not _all_equal(values):
                told = " | ".join(dict.fromkeys(shown_apart(values)))
                notes.append(f"note: {name} differs ({told}), which hinders no comparison")
    return list(dict.fromkeys(notes))


def gathered_warnings(results: Sequence[NamedResult]) -> dict[str, list[int]]:
    """Warning -> numbers of the results that have it."""
    found: dict[str, list[int]] = {}
    for number, result in enumerate(results):
        for warning in result.evaluation.all_warnings():
            found.setdefault(warning, []).append(number)
    return found


def _compare_metric(metric: str, results: Sequence[NamedResult]) -> MetricComparison:
    found: list[tuple[dict[str, Any], list[int]]] = []
    for number, result in enumerate(results):
        if metric not in result.evaluation.metrics:
            continue
        binding = _binding(result.evaluation.metrics[metric])
        members = next((members for other, members in found if other == binding), None)
        if members is None:
            found.append((binding, [number]))
        else:
            members.append(number)
    marks = [f"[{number}]" if len(found) > 1 else "" for number in range(1, len(found) + 1)]
    return MetricComparison(
        metric,
        tuple(
            Group(f"{metric} {mark}".rstrip(), mark, tuple(members), binding)
            for mark, (binding, members) in zip(marks, found, strict=True)
        ),
    )


def _binding(metric: MetricResult) -> dict[str, Any]:
    """The fields of a protocol that must be equal: none that are free, none of videos that the value ignores."""
    ignored = [side for side in ("real", "fake") if side not in sides_of(metric.protocol)]
    fields = flat(metric.protocol)
    return {name: value for name, value in fields.items() if not is_below(name, [*FREE_FIELDS, *ignored])}


def _table(comparisons: Sequence[MetricComparison], results: Sequence[NamedResult]) -> list[tuple[str, ...]]:
    rows = [("metric", *(result.label for result in results))]
    for comparison in comparisons:
        for group in comparison.groups:
            cells = [
                shown_value(result.evaluation.metrics[comparison.metric]) if number in group.members else "-"
                for number, result in enumerate(results)
            ]
            rows.append((group.name, *cells))
    return rows


def _verdict(comparisons: Sequence[MetricComparison], labels: Sequence[str]) -> list[str]:
    shared = [comparison for comparison in comparisons if len(comparison.members) > 1]
    if not shared:
        return ["Nothing may be compared: no metric is in two of the results."]
    split = [comparison for comparison in shared if len(comparison.groups) > 1]
    if not split:
        return ["The numbers of each row may be compared."]
    whole = [comparison.metric for comparison in shared if comparison not in split]
    lines = [f"{', '.join(whole)}: may be compared."] * bool(whole)
    for metrics, comparison in splits(comparisons):
        lines += _reason(", ".join(metrics), comparison, labels)
    return lines


def _reason(metrics: str, comparison: MetricComparison, labels: Sequence[str]) -> list[str]:
    """What may be compared, and a line for each field that stands in the way of the rest."""
    told = [f"{group.mark} {', '.join(labels[member] for member in group.members)}" for group in comparison.groups]
    alone = all(len(group.members) == 1 for group in comparison.groups)
    may = "may not be compared" if alone else "may be compared only within a group"
    fields = [f"  {name}: {' | '.join(texts)}" for name, texts in comparison.differences().items()]
    return [f"{metrics}: {may} ({' | '.join(told)}); these fields differ:", *fields]


def _labels(files: Sequence[Path]) -> list[str]:
    """File names without ``.json``, with as many of their folders as tell all of them apart."""
    short = [path.absolute().with_name(path.name.removesuffix(".json") or path.name).parts for path in files]
    names = short if len(set(short)) == len(files) else [path.absolute().parts for path in files]
    depth = 1
    while len({name[-depth:] for name in names}) < len(names):
        depth += 1
    return [os.path.join(*name[-depth:]) for name in names]


def _all_equal(values: Sequence[Any]) -> bool:
    return all(value == values[0] for value in values)
