"""Measure videos: every metric that was asked for, from one decoding and as few passes of a network as possible."""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from vidgen.distributed import control_group, gather_objects, world
from vidgen.errors import UserError
from vidgen.evaluation.findings import find_warnings
from vidgen.evaluation.pairs import Pairs
from vidgen.evaluation.passes import Facts, Pass
from vidgen.evaluation.result import Evaluation, MetricResult, Samples
from vidgen.evaluation.sources import ClipRule, ClipSource
from vidgen.metrics.base import FeatureMetric, PairedMetric, ProbeMetric, VideoMetric
from vidgen.models.base import VideoModel

SourceFactory = Callable[[ClipRule], ClipSource]
"""Makes the clips of a side by a rule."""


@dataclass(frozen=True)
class Settings:
    """How videos are measured.

    Args:
        seed: decides which real videos are taken and where clips begin.
        start: where the clips of real videos begin.
        fake_start: where those of stored generated videos begin.
        clips_per_video: clips of each stored video.
        device: where networks run.
        batch_size: clips looked at at once.
        workers: processes that decode; 0 decodes in a thread beside the networks.
        keep_real: whether features of real videos are kept on the disk.
        keep_fake: whether features of generated videos are kept on the disk.
        num_samples: clips of each side that the result holds.
        progress: whether progress is shown.
    """

    seed: int = 0
    start: Literal["random", "first"] = "random"
    fake_start: Literal["random", "first"] = "first"
    clips_per_video: int = 1
    device: str = "cpu"
    batch_size: int = 8
    workers: int = 0
    keep_real: bool = True
    keep_fake: bool = True
    num_samples: int = 8
    progress: bool = True


def evaluate(
    metrics: Sequence[VideoMetric],
    *,
    real: SourceFactory | None = None,
    fake: SourceFactory | None = None,
    pairs: Pairs | None = None,
    model: VideoModel | None = None,
    settings: Settings = Settings(),
    command: str = "",
) -> Evaluation:
    """Measure videos; every process of a group calls this, and all get the result.

    Args:
        metrics: what to measure; their states are used up.
        real: the real videos; None where no metric needs them.
        fake: the generated ones.
        pairs: the same, each beside the real one that it should equal, for paired metrics.
        model: what probes ask.
        settings: how.
        command: for the record.

    Returns:
        The values with their protocols.

    Raises:
        UserError: a metric needs what was not given, or its value is no number.
    """
    _check_given(metrics, real, fake, pairs, model)
    for metric in metrics:
        metric.process_group = control_group() if world()[1] > 1 else None
    parts: list[_Part] = []
    failure = ""
    try:
        for side, factory in (("real", real), ("fake", fake)):
            if factory is not None:
                parts += _look(metrics, side, factory, settings)
        _compare_and_probe(metrics, pairs, model, settings)
    except (ValueError, TypeError) as error:
        failure = _one_line(error)
    _agree(failure)
    for part in parts:
        part.facts = Facts.union(gather_objects(part.facts))
    results = {metric.label: _result(metric, parts) for metric in metrics}
    sides = {part.side: (part.source, part.facts) for part in reversed(parts)}  # of several the first
    warnings = find_warnings(sides, [metric for metric in metrics if isinstance(metric, FeatureMetric)])
    return Evaluation(
        results,
        {"software": software(), "device": settings.device},
        (*warnings, *(pairs.warnings() if pairs else [])),
        command,
        datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        Samples(*(_samples(sides.get(side)) for side in ("real", "fake"))),
    )


@dataclass
class _Part:
    """One pass over the clips of a side."""

    side: str
    source: ClipSource
    metrics: list[FeatureMetric]
    facts: Facts


def _look(metrics: Sequence[VideoMetric], side: str, factory: SourceFactory, settings: Settings) -> list[_Part]:
    """One pass for each rule by which metrics want clips cut."""
    real = side == "real"
    wanted: dict[ClipRule, list[FeatureMetric]] = {}
    for metric in metrics:
        if isinstance(metric, FeatureMetric) and side in metric.sides:
            frames = metric.clip_frames(real) or metric.preferred_frames()
            rule = ClipRule(
                frames,
                metric.stride,
                metric.order if real else "shuffled",
                settings.start if real else settings.fake_start,
                settings.clips_per_video,
                settings.seed,
            )
            wanted.setdefault(rule, []).append(metric)
    parts: list[_Part] = []
    for rule, group in wanted.items():
        source = factory(rule)
        facts = Pass(
            source,
            group,
            real,
            device=torch.device(settings.device),
            batch_size=settings.batch_size,
            workers=settings.workers,
            keep=settings.keep_real if real else settings.keep_fake,
            num_samples=0 if parts else settings.num_samples,
            progress=settings.progress,
        ).run()
        parts.append(_Part(side, source, group, facts))
    return parts


def _compare_and_probe(
    metrics: Sequence[VideoMetric], pairs: Pairs | None, model: VideoModel | None, settings: Settings
) -> None:
    paired = [metric.to(settings.device) for metric in metrics if isinstance(metric, PairedMetric)]
    if paired and pairs is not None:
        pairs.feed(paired, settings.progress)
    for metric in metrics:
        if isinstance(metric, ProbeMetric) and model is not None:
            metric.measure(model)


def _check_given(
    metrics: Sequence[VideoMetric],
    real: SourceFactory | None,
    fake: SourceFactory | None,
    pairs: Pairs | None,
    model: VideoModel | None,
) -> None:
    for metric in metrics:
        if isinstance(metric, FeatureMetric):
            for side, factory in (("real", real), ("fake", fake)):
                if side in metric.sides and factory is None:
                    raise UserError(f"{metric.name}: needs {side} videos; {_HOW_TO_GIVE[side]}")
        elif isinstance(metric, PairedMetric) and pairs is None:
            raise UserError(f"{metric.name}: needs pairs; give --real and --fake, or a checkpoint that predicts")
        elif isinstance(metric, ProbeMetric) and model is None:
            raise UserError(f"{metric.name}: asks a model; give --ckpt")


_HOW_TO_GIVE = {"real": "give --real", "fake": "give --fake or --ckpt"}


def _agree(failure: str) -> None:
    """End all processes where one has failed, so that none waits for it."""
    failures = [text for text in gather_objects(failure) if text]
    if failures:
        raise UserError(failures[0])


def _result(metric: VideoMetric, parts: Sequence[_Part]) -> MetricResult:
    try:
        value = float(metric.compute())
    except ValueError as error:
        raise UserError(_one_line(error)) from None
    if not math.isfinite(value):
        raise UserError(f"{metric.label}: the value is {value}; a video or a network is at fault")
    protocol = metric.protocol()
    for part in parts:
        if any(metric is one for one in part.metrics):
            protocol[part.side] = _describe(part.source, part.facts)
    return MetricResult(value, metric.details, protocol, tuple(metric.warnings()))


def _describe(source: ClipSource, facts: Facts) -> dict[str, Any]:
    sizes = sorted(facts.sizes)
    return {
        **source.describe(),
        "num_clips": len(facts.digests),
        "resolution": list(sizes[0]) if len(sizes) == 1 else [list(size) for size in sizes],
        "fingerprint": facts.fingerprint,
    }


def _samples(side: tuple[ClipSource, Facts] | None) -> tuple[NDArray[np.uint8], ...]:
    return tuple(video for _, video in sorted(side[1].samples.items())) if side else ()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def software() -> dict[str, str]:
    """Versions of what computes the numbers."""
    names = ("vidgen", "torch", "torchvision", "torchmetrics", "timm", "numpy", "scipy", "av", "pillow")
    found = {"python": platform.python_version()}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
