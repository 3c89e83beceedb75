"""What an evaluation found: values, each with everything that it depends on, as a table and as a JSON file."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.atomic import atomic_file, write_error
from vidgen.errors import UserError
from vidgen.html import printable

FORMAT = 1
"""Raised when files of an older version can no longer be read."""


@dataclass(frozen=True)
class MetricResult:
    """One value.

    Args:
        value: the number.
        details: what belongs to it: ``std``, the curve of ``windows``, the fit of an extrapolation.
        protocol: everything that it depends on, as plain values: ``metric``, ``extractor``, ``num_frames``, ``real``,
            ``fake``, ``software``, ….
        warnings: what a reader has to know, one line each.
    """

    value: float
    details: dict[str, Any] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Samples:
    """A few of the videos that were measured, for people to look at.

    Args:
        real: uint8 arrays ``(T, H, W, C)``.
        fake: uint8 arrays ``(T, H, W, C)``.
    """

    real: tuple[NDArray[np.uint8], ...] = ()
    fake: tuple[NDArray[np.uint8], ...] = ()

    @classmethod
    def load(cls, path: Path) -> Samples:
        """Read what :meth:`Evaluation.save` wrote beside the JSON file; none where there is no such file.

        Raises:
            UserError: the file is damaged or holds something else.
        """
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                names = list(arrays.files)
                sides = {
                    side: tuple(arrays[f"{side}_{n}"] for n in range(len(names)) if f"{side}_{n}" in names)
                    for side in ("real", "fake")
                }
        except FileNotFoundError:
            return cls()
        except _DAMAGE as error:
            raise UserError(f"{path}: damaged samples ({error}); remove the file or evaluate anew") from None
        for name, video in [(side, video) for side, videos in sides.items() for video in videos]:
            if video.dtype != np.uint8 or video.ndim != 4 or video.shape[3] not in (1, 3) or 0 in video.shape:
                found = f"a {name} one is {video.dtype} {video.shape}, not uint8 (T, H, W, 1 or 3)"
                raise UserError(f"{path}: damaged samples ({found}); remove the file or evaluate anew")
        return cls(**sides)


@dataclass(frozen=True)
class Evaluation:
    """What one run of ``vidgen eval`` found.

    Args:
        metrics: the values by what they must be called.
        protocol: what all of them share: ``real``, ``fake``, ``software``.
        warnings: about the videos, one line each; those about a single value stand with it.
        command: the command line; empty when called from Python.
        created: time, ISO 8601, UTC.
        samples: a few of the videos.
    """

    metrics: dict[str, MetricResult]
    protocol: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    command: str = ""
    created: str = ""
    samples: Samples = Samples()

    def all_warnings(self) -> list[str]:
        """The warnings about the videos and about every value, each once."""
        own = [line for metric in self.metrics.values() for line in metric.warnings]
        return list(dict.fromkeys([*self.warnings, *own]))

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file."""
        metrics = {
            name: {
                "value": metric.value,
                "details": metric.details,
                "protocol": {**metric.protocol, **self.protocol},
                "warnings": list(dict.fromkeys([*self.warnings, *metric.warnings])),
            }
            for name, metric in self.metrics.items()
        }
        return {
            "format": FORMAT,
            "created": self.created,
            "command": self.command,
            "metrics": metrics,
            "protocol": self.protocol,
            "warnings": self.all_warnings(),
        }

    def save(self, path: Path) -> list[Path]:
        """Write the JSON file and what belongs to it beside it.

        These are the samples as ``<name>.samples.npz`` and, for each metric with a score of every frame, its curve as
        ``<name>.<metric>.csv`` and ``<name>.<metric>.png``. Of a result that the file held before, none are left.

        Returns:
            What was written.

        Raises:
            UserError: it cannot be written.
        """
        content = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        written, samples = [path], samples_path(path)
        if self.samples.real or self.samples.fake:
            arrays = {f"real_{n}": video for n, video in enumerate(self.samples.real)}
            arrays |= {f"fake_{n}": video for n, video in enumerate(self.samples.fake)}
            with atomic_file(samples) as file:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            written.append(samples)
        else:
            _remove(samples)  # those of another result of this name would be taken for its own
        from vidgen.evaluation.curves import save_curves

        curves = [file for name, metric in self.metrics.items() for file in save_curves(path, name, metric)]
        for stale in set(_curves_of_file(path)).difference(curves):
            _remove(stale)
        with atomic_file(path) as file:
            file.write((content + "\n").encode())
        return [*written, *curves]

    @classmethod
    def load(cls, path: Path, *, samples: bool = True) -> Evaluation:
        """Read what :meth:`save` wrote; of the samples only their absence is no error.

        Args:
            path: the JSON file.
            samples: whether the videos beside it are read too.

        Raises:
            UserError: no such file, or not one of ``vidgen eval``.
        """
        content = _read(path)
        metrics, about_all = content["metrics"], list(content.get("warnings", ()))
        for entry in metrics.values():
            about_all = [line for line in about_all if line in entry.get("warnings", ())]
        return cls(
            {name: _metric_result(entry, about_all) for name, entry in metrics.items()},
            content.get("protocol", {}),
            tuple(about_all),
            str(content.get("command", "")),
            str(content.get("created", "")),
            Samples.load(samples_path(path)) if samples else Samples(),
        )

    def table(self) -> str:
        """The values in a small table, with deviations, counts and the protocol's name; the warnings below."""
        rows: list[tuple[str, ...]] = [("metric", "value", "protocol", "real", "fake")]
        for name, metric in self.metrics.items():
            counts = [str(_count(metric.protocol, self.protocol, side)) for side in ("real", "fake")]
            rows.append((name, shown_value(metric), str(metric.protocol.get("protocol", "")), *counts))
        lines = [*aligned(rows), *(f"warning: {line}" for line in self.all_warnings())]
        return "\n".join(printable(line) for line in lines)


def samples_path(path: Path) -> Path:
    """Where the samples of a result lie: beside it."""
    return path.with_name(path.name.removesuffix(".json") + ".samples.npz")


def _curves_of_file(path: Path) -> list[Path]:
    """The files of the curves of the result that a file holds."""
    from vidgen.evaluation.curves import curve_paths, curves_of

    try:
        metrics = Evaluation.load(path, samples=False).metrics
    except UserError:
        return []
    return [file for name, metric in metrics.items() if curves_of(metric) for file in curve_paths(path, name)]


def shown_value(metric: MetricResult) -> str:
    """The value as in tables, with its standard deviation where it has one."""
    deviation = as_number(metric.details.get("std"))
    return shown_number(metric.value) + (f" ± {shown_number(deviation)}" if deviation is not None else "")


def as_number(value: Any) -> float | None:
    """What a file gave for a number, if it is a finite one."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value) if math.isfinite(value) else None
    return None


def shown_number(value: float) -> str:
    """A value with six significant digits, without an exponent where that can be read."""
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e9:
        return f"{value:.{max(5 - math.floor(math.log10(abs(value))), 0)}f}"
    return f"{value:.5e}"


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows of cells as lines whose columns stand below each other; columns that are empty throughout are left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in zip(*columns, strict=True)
    ]


def side_of(protocol: Mapping[str, Any], side: str) -> dict[str, Any]:
    """What a protocol tells of its real or fake videos; empty where it does not."""
    told = protocol.get(side)
    return told if isinstance(told, dict) else {}


def sides_of(protocol: Mapping[str, Any]) -> list[str]:
    """Which videos a value depends on: ``real``, ``fake`` or both."""
    told = protocol.get("sides")
    return [side for side in ("real", "fake") if not isinstance(told, list | tuple) or side in told]


_DAMAGE = (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)
"""What reading a file as npz may raise that is cut off or no npz at all."""


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def _count(own: Mapping[str, Any], shared: Mapping[str, Any], side: str) -> Any:
    if side not in sides_of(own):
        return ""
    return (side_of(shared, side) or side_of(own, side)).get("num_clips", "")


def _metric_result(entry: Mapping[str, Any], about_all: list[str]) -> MetricResult:
    """A value with the warnings that are its own."""
    own = tuple(line for line in entry.get("warnings", ()) if line not in about_all)
    return MetricResult(float(entry["value"]), entry.get("details", {}), entry["protocol"], own)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `vidgen eval … --out FILE.json` writes one") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):  # bytes that are no UTF-8, text that is no JSON, brackets without end
        raise UserError(f"{path}: not a result of vidgen eval (it is no JSON)") from None
    if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
        raise UserError(f"{path}: not a result of vidgen eval (it has no metrics with value and protocol)")
    if content.get("format") != FORMAT:
        raise UserError(f"{path}: result format {content.get('format')!r}, this vidgen reads {FORMAT}; update vidgen")
    if not _has_shape(content) or not all(_is_metric(entry) for entry in content["metrics"].values()):
        raise UserError(f"{path}: not a result of vidgen eval (it has no metrics with value and protocol)")
    return content


def _is_metric(entry: Any) -> bool:
    """Whether there is a value with its protocol."""
    if not isinstance(entry, dict) or "protocol" not in entry or not _has_shape(entry):
        return False
    return as_number(entry.get("value")) is not None


def _has_shape(entry: dict[str, Any]) -> bool:
    """Whether what a result and each of its metrics may hold is of the right kind."""
    lines = entry.get("warnings", [])
    mappings = all(isinstance(entry.get(key, {}), dict) for key in ("protocol", "details"))
    return mappings and isinstance(lines, list) and all(isinstance(line, str) for line in lines)
