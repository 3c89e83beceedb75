"""From the names of metrics and what is set of them to checked metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vidgen.config.check import check_arguments
from vidgen.config.signature import parameters_of
from vidgen.errors import UserError, did_you_mean
from vidgen.registry import METRICS

if TYPE_CHECKING:
    from vidgen.metrics.base import VideoMetric

Section = dict[str, Any]
"""``name`` and constructor arguments."""


def check_metrics(entries: Any, where: str, key: Callable[[str], str] = lambda dotted: dotted) -> list[Section]:
    """Check metrics against the signatures of their classes.

    Args:
        entries: a list of names, and of sections with ``name`` and arguments.
        where: what the list is called, for messages.
        key: turns ``<metric>.<argument>`` into how the user named it.

    Returns:
        The sections, every value of the type that the signature asks for.

    Raises:
        UserError: an unknown metric or argument, or a wrong type.
    """
    known = ", ".join(METRICS.names())
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{where}: expected a list of metrics (known: {known})")
    checked = []
    for entry in entries:
        section = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(section, dict) or not isinstance(section.get("name"), str):
            raise UserError(f"{where}: expected the name of a metric, or name: and its arguments, got {entry!r}")
        name = section["name"]
        if "." not in name and name not in METRICS.names():
            raise UserError(f"{where}: unknown metric {name!r}{did_you_mean(name, METRICS.names())} (known: {known})")
        given = {argument: value for argument, value in section.items() if argument != "name"}
        checked.append({"name": name, **check_arguments(given, _parameters(name, where), key, name)})
    return checked


def takes(name: str, argument: str) -> bool:
    """Whether a metric has an argument."""
    return argument in _parameters(name, name)


def build_metrics(sections: Sequence[Mapping[str, Any]]) -> list[VideoMetric]:
    """The metrics that checked sections describe.

    Raises:
        UserError: settings that make no sense together, weights that cannot be had, or two metrics whose values would
            have the same name.
    """
    metrics: list[VideoMetric] = []
    for section in sections:
        arguments = {argument: value for argument, value in section.items() if argument != "name"}
        metrics.append(METRICS.get(section["name"])(**arguments))
    check_labels(metrics)
    return metrics


def check_labels(metrics: Sequence[VideoMetric]) -> None:
    """Refuse metrics whose values would have the same name.

    Raises:
        UserError: there are such.
    """
    labels = [metric.label for metric in metrics]
    for label in labels:
        if labels.count(label) > 1:
            raise UserError(f"metric {label!r} is asked for twice; measure it in two runs")


def _parameters(name: str, where: str) -> Mapping[str, Any]:
    from vidgen.metrics.base import VideoMetric

    cls = METRICS.get(name)
    if not (isinstance(cls, type) and issubclass(cls, VideoMetric)):
        raise UserError(f"{where}: {name!r} is not a VideoMetric")
    return parameters_of(cls)
