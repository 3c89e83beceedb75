"""Measure videos: every metric that was asked for, from one decoding and as few passes of a network as possible."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from vidgen.config.metrics import check_labels
from vidgen.distributed import control_group, gather_objects, world
from vidgen.errors import UserError
from vidgen.evaluation.findings import equal_samples, find_warnings, paired_warnings, too_few_samples
from vidgen.evaluation.pairs import Pairs
from vidgen.evaluation.passes import Facts, Pass
from vidgen.evaluation.result import Evaluation, MetricResult, Samples
from vidgen.evaluation.sources import ClipRule, ClipSource, GeneratedClips
from vidgen.metrics.base import FeatureMetric, PairedMetric, ProbeMetric, Side, VideoMetric
from vidgen.models.base import VideoModel

T = TypeVar("T")
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
    keywords: Mapping[str, Any] | None = None,
    settings: Settings = Settings(),
    command: str = "",
) -> Evaluation:
    """Measure videos; every process of a group calls this, and all get the result.

    Args:
        metrics: what to measure; their states are reset at the start.
        real: the real videos; None where no metric needs them.
        fake: the generated ones.
        pairs: the same, each beside the real one that it should equal, for paired metrics.
        model: what makes the generated videos, where a model does, and what probes ask. If it makes them from real
            ones, these are taken by the rule by which the real videos are.
        keywords: further arguments of its ``sample``.
        settings: how.
        command: for the record.

    Returns:
        The values with their protocols.

    Raises:
        UserError: a metric needs what was not given, or its value is no number.
    """
    _check_given(metrics, real, fake, pairs, model)
    for metric in metrics:
        metric.reset()
        for one in (metric, *metric.members()):
            one.process_group = control_group() if world()[1] > 1 else None
    predicted = model is not None and bool(model.keys_for(keywords or {}))
    context = model.given_frames_for(keywords or {}) if model is not None and predicted else 0

    def plan() -> list[_Part]:
        _tell_context(metrics, context, pairs)
        return _plan(metrics, {"real": real, "fake": fake}, settings, predicted)

    parts = _agreed(plan)

    def look() -> None:
        for part in parts:
            part.facts = _pass(part, settings, num_samples=settings.num_samples if part.first else 0)
        _compare_and_probe(metrics, pairs, model, settings)

    _agreed(look)
    for part in parts:
        part.facts = Facts.union(gather_objects(part.facts))
    if pairs is not None:
        pairs.gather()
    results = {member.label: _result(metric, member, parts, pairs) for metric in metrics for member in metric.members()}
    firsts = {part.side: part for part in parts if part.first}
    return Evaluation(
        results,
        {"software": software(), "device": settings.device},
        tuple(_warnings(metrics, parts, pairs)),
        command,
        datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        Samples(*(_samples(firsts.get(side)) for side in ("real", "fake"))),
    )


@dataclass
class _Part:
    """What metrics that want clips cut alike see of a side.

    Args:
        side: ``real`` or ``fake``.
        source: the clips.
        metrics: who looks at them.
        first: whether it is the first of its side, of which samples are shown.
        facts: what is known of the clips after the pass.
    """

    side: Side
    source: ClipSource
    metrics: list[FeatureMetric]
    first: bool
    facts: Facts = field(default_factory=Facts)


def _tell_context(metrics: Sequence[VideoMetric], frames: int, pairs: Pairs | None) -> None:
    """Tell metrics how many frames of the generated videos were given to the model.

    Raises:
        ValueError: a metric cannot do without them, or would have nothing left to compare.
    """
    for metric in metrics:
        if isinstance(metric, PairedMetric) and pairs is not None:
            metric.set_context(_given_frames(pairs.fake))
            metric.check_length(min(pairs.real.clips.num_frames, pairs.fake.clips.num_frames))
        else:
            metric.set_context(frames)


def _given_frames(source: ClipSource) -> int:
    if not isinstance(source, GeneratedClips) or source.condition is None:
        return 0
    return source.model.given_frames_for(source.keywords)


def _plan(
    metrics: Sequence[VideoMetric],
    factories: Mapping[Side, SourceFactory | None],
    settings: Settings,
    predicted: bool,
) -> list[_Part]:
    """One pass for each rule by which metrics want the clips of a side cut.

    Raises:
        UserError: clips cannot be cut as a metric wants them, or are too few.
    """
    parts: list[_Part] = []
    for side, factory in factories.items():
        wanted: dict[ClipRule, list[FeatureMetric]] = {}
        for metric in metrics:
            if isinstance(metric, FeatureMetric) and side in metric.sides:
                wanted.setdefault(clip_rule(metric, side, settings, predicted), []).append(metric)
        for rule, group in wanted.items():
            assert factory is not None
            source = factory(rule)
            for metric in group:
                metric.check_samples(side, len(source) * metric.samples_per_video(rule.num_frames))
            parts.append(_Part(side, source, group, first=rule == next(iter(wanted))))
    return parts


def clip_rule(metric: FeatureMetric, side: Side, settings: Settings, predicted: bool = False) -> ClipRule:
    """How a metric wants the clips of a side cut.

    Args:
        metric: what looks at them.
        side: of the clips.
        settings: of the evaluation.
        predicted: whether the generated videos are made from real ones, which are then taken by the rule of that side:
            both sides are of the same contexts.

    Raises:
        UserError: shorter than its network can see.
    """
    frames = metric.clip_frames(side == "real") or metric.preferred_frames()
    least, skipped = metric.extractor.min_frames, metric.skipped_frames
    if frames - skipped < least:
        told = (
            f", and {frames} less the {skipped} that are skipped are {frames - skipped}"
            if skipped
            else f", got {frames}"
        )
        raise UserError(f"{metric.label}: needs clips of at least {least} frames{told}; raise num_frames")
    as_real = side == "real" or predicted
    return ClipRule(
        frames,
        metric.stride,
        metric.order if as_real else "shuffled",
        settings.start if as_real else settings.fake_start,
        settings.clips_per_video,
        settings.seed,
        metric.whole_strides and as_real,
    )


def _pass(part: _Part, settings: Settings, num_samples: int) -> Facts:
    return Pass(
        part.source,
        part.metrics,
        part.side == "real",
        device=torch.device(settings.device),
        batch_size=settings.batch_size,
        workers=settings.workers,
        keep=settings.keep_real if part.side == "real" else settings.keep_fake,
        num_samples=num_samples,
        progress=settings.progress,
    ).run()


def _compare_and_probe(
    metrics: Sequence[VideoMetric], pairs: Pairs | None, model: VideoModel | None, settings: Settings
) -> None:
    paired = [metric for metric in metrics if isinstance(metric, PairedMetric)]
    probes = [metric for metric in metrics if isinstance(metric, ProbeMetric)]
    for metric in (*paired, *probes):
        metric.to(settings.device)
    if paired and pairs is not None:
        pairs.feed(paired, settings.progress, settings.batch_size)
    for probe in probes:
        assert model is not None
        probe.measure(model)
    for metric in (*paired, *probes):
        metric.to("cpu")  # states are merged there, since gloo gathers no others


def _check_given(
    metrics: Sequence[VideoMetric],
    real: SourceFactory | None,
    fake: SourceFactory | None,
    pairs: Pairs | None,
    model: VideoModel | None,
) -> None:
    check_labels([member for metric in metrics for member in metric.members()])
    for metric in metrics:
        if isinstance(metric, FeatureMetric):
            if metric.output == "logits" and not metric.extractor.classifies:
                raise UserError(f"{metric.label}: needs a network with classes; {metric.extractor.name} has none")
            for side, factory in (("real", real), ("fake", fake)):
                if side in metric.sides and factory is None:
                    raise UserError(f"{metric.label}: needs {side} videos; {_HOW_TO_GIVE[side]}")
        elif isinstance(metric, PairedMetric) and pairs is None:
            raise UserError(f"{metric.label}: needs pairs; give --real and --fake, or a checkpoint that predicts")
        elif isinstance(metric, ProbeMetric) and model is None:
            raise UserError(f"{metric.label}: asks a model; give --ckpt")


_HOW_TO_GIVE = {"real": "give --real", "fake": "give --fake or --ckpt"}


def _agreed(work: Callable[[], T]) -> T:
    """Do something on all processes; where it fails on one, end all of them, so that none waits for it.

    Raises:
        UserError: it failed; on all processes the message of the first.
    """
    failure = ""
    cause: Exception | None = None
    try:
        done = work()
    except (UserError, ValueError) as error:
        failure, cause = _one_line(error), error
    failures = [text for text in gather_objects(failure) if text]
    if failures:
        raise UserError(failures[0]) from cause
    return done


def _result(metric: VideoMetric, member: VideoMetric, parts: Sequence[_Part], pairs: Pairs | None) -> MetricResult:
    """A value.

    Args:
        metric: what was shown the videos.
        member: the one of its members whose value it is.
        parts: what was looked at.
        pairs: likewise.

    Raises:
        UserError: there is no value.
    """
    try:
        value = float(member.compute())
    except ValueError as error:
        raise UserError(_one_line(error)) from error
    if not math.isfinite(value):
        raise UserError(f"{member.label}: the value is {value}; a video or a network is at fault")
    protocol = member.protocol()
    own = [part for part in parts if any(metric is one for one in part.metrics)]
    for part in own:
        protocol[part.side] = _describe(part.source, part.facts)
    warnings = member.warnings()
    if isinstance(metric, FeatureMetric):
        counts = {part.side: len(part.facts.digests) for part in own}
        frames = {part.side: part.source.clips.num_frames for part in own}
        warnings = [*too_few_samples(counts, frames, metric), *warnings]
    if isinstance(metric, PairedMetric) and pairs is not None:
        protocol["pairing"] = pairs.pairing
        protocol["real"] = _describe(pairs.real, pairs.facts["real"])
        protocol["fake"] = _describe(pairs.fake, pairs.facts["fake"])
        warnings = [*equal_samples(member.label, metric.num_samples, pairs.fake), *warnings]
    return MetricResult(value, member.details, protocol, tuple(warnings))


def _describe(source: ClipSource, facts: Facts) -> dict[str, Any]:
    sizes = sorted(facts.sizes)
    return {
        **source.describe(),
        "num_clips": len(facts.digests),
        "num_unusable": len(facts.unusable),
        "resolution": list(sizes[0]) if len(sizes) == 1 else [list(size) for size in sizes],
        "fingerprint": facts.fingerprint,
    }


def _warnings(metrics: Sequence[VideoMetric], parts: Sequence[_Part], pairs: Pairs | None) -> list[str]:
    """Warnings about all videos, for each set of them that metrics were computed from; found by one process."""
    lines: list[str] = []
    if world()[0] == 0:
        together: dict[frozenset[int], list[FeatureMetric]] = {}
        for metric in metrics:
            if isinstance(metric, FeatureMetric):
                seen = (number for number, part in enumerate(parts) if any(metric is one for one in part.metrics))
                together.setdefault(frozenset(seen), []).append(metric)
        for numbers in list(together):
            wider = next((others for others in together if numbers < others), None)
            if wider is not None:  # one side alone, beside metrics that see both
                together[wider] += together.pop(numbers)
        for numbers, group in together.items():
            sides: dict[str, tuple[ClipSource, Facts]] = {}
            sides |= {parts[number].side: (parts[number].source, parts[number].facts) for number in sorted(numbers)}
            lines += find_warnings(sides, group)
        if pairs is not None:
            lines += pairs.warnings()
            lines += paired_warnings((pairs.real, pairs.facts["real"]), (pairs.fake, pairs.facts["fake"]))
    return gather_objects(list(dict.fromkeys(lines)))[0]


def _samples(part: _Part | None) -> tuple[NDArray[np.uint8], ...]:
    return tuple(video for _, video in sorted(part.facts.samples.items())) if part else ()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def software() -> dict[str, str]:
    """Versions of what computes the numbers, and the commit of vidgen's code where it runs from a checkout."""
    from vidgen.config.save import provenance

    about = provenance([])
    found = dict(about["versions"])
    for name in ("torchvision", "torchmetrics", "timm", "scipy", "av", "pillow"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    if about["code"]:
        found["commit"] = about["code"]["commit"] + (" (modified)" if about["code"]["modified"] else "")
    return found
