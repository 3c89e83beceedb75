"""What a user asked to have measured, and everything that has to be opened for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from vidgen.config.compose import Config, parse_override
from vidgen.config.metrics import Section, build_metrics, check_metrics, takes
from vidgen.data.dataset import VideoDataset
from vidgen.errors import UserError, did_you_mean
from vidgen.evaluation.opening import dataset_of, merged, open_videos
from vidgen.evaluation.pairs import Pairs, pair_up
from vidgen.evaluation.result import Evaluation
from vidgen.evaluation.run import Settings, SourceFactory, evaluate
from vidgen.evaluation.sources import ClipRule, ClipSource, GeneratedClips, StoredClips
from vidgen.media import Rounding
from vidgen.metrics.base import FeatureMetric, PairedMetric, VideoMetric
from vidgen.metrics.video_distances import PUBLISHED_NUM_VIDEOS
from vidgen.models.base import VideoModel

_FOR_ALL = {"protocol": "--protocol", "num_frames": "--num-frames", "stride": "--stride", "precision": "--precision",
            "compile": "--compile", "weights": "--weights"}  # fmt: skip
"""Arguments that are set for all metrics that have them -> option."""


@dataclass(frozen=True)
class Trained:
    """A model to be measured.

    Args:
        model: ready to sample.
        path: where it comes from, as the user named it.
        about: what its checkpoint says about itself.
        fingerprint: of the file.
        weights: ``ema`` or ``raw``.
        keywords: further arguments of its ``sample``.
        seed: of the videos.
        rounding: how floats become bytes.
    """

    model: VideoModel
    path: str
    about: Mapping[str, Any]
    fingerprint: str
    weights: str
    keywords: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    rounding: Rounding = "round"

    def clips(self, rule: ClipRule, num: int, condition: ClipSource | None) -> GeneratedClips:
        """Its videos, cut by a rule."""
        return GeneratedClips(
            self.model,
            num,
            rule,
            seed=self.seed,
            rounding=self.rounding,
            keywords=self.keywords,
            about={
                "path": self.path,
                "checkpoint": self.fingerprint,
                "iteration": self.about.get("iteration"),
                "weights": self.weights,
            },
            condition=condition,
            fingerprint=self.fingerprint,
        )


@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Args:
        metrics: names.
        common: arguments for all metrics that have them (``protocol``, ``num_frames``, …).
        real: a folder, pack, file or config; None for the data that a trained model's config names.
        fake: the same for the generated videos; None where a trained model makes them.
        trained: the model.
        num_videos: generated videos; None for as many as there are on both sides, :data:`PUBLISHED_NUM_VIDEOS` at most.
        num_real: real videos; None for as many as generated ones.
        resolution: height and width to which stored frames are brought; None leaves them.
        overrides: ``real.KEY``, ``fake.KEY`` and ``METRIC.KEY`` -> text of the value.
        settings: how it is measured.
        command: for the record.
    """

    metrics: Sequence[str]
    common: Mapping[str, Any] = field(default_factory=dict)
    real: str | None = None
    fake: str | None = None
    trained: Trained | None = None
    num_videos: int | None = None
    num_real: int | None = None
    resolution: int | None = None
    overrides: Sequence[str] = ()
    settings: Settings = field(default_factory=Settings)
    command: str = ""


def metric_sections(names: Sequence[str], common: Mapping[str, Any], overrides: Sequence[str]) -> list[Section]:
    """Checked sections of metrics from names, arguments for all of them, and ``METRIC.KEY=VALUE``.

    Raises:
        UserError: an unknown metric or key, a wrong type, or an argument that no metric has.
    """
    check_metrics(list(names), "--metric")
    sections: dict[str, Section] = {name: {"name": name} for name in names}
    for key, value in common.items():
        takers = [name for name in names if takes(name, key)]
        if not takers:
            raise UserError(
                f"{_FOR_ALL.get(key, f'--{key}')}: none of the metrics ({', '.join(names)}) has such a setting"
            )
        for name in takers:
            sections[name][key] = value
    for text in overrides:
        key, value = parse_override(text)
        name, _, argument = key.partition(".")
        if name not in sections or not argument:
            near = did_you_mean(name, [*sections, "real", "fake", "sample"])
            raise UserError(f"override {text!r}: expected real.KEY, fake.KEY, sample.KEY or METRIC.KEY=VALUE{near}")
        sections[name][argument] = value
    return check_metrics(list(sections.values()), "--metric")


def run(request: Request) -> Evaluation:
    """Open what is named, and measure it.

    Raises:
        UserError: something cannot be opened or measured; the message names it.
    """
    own = {side: _of_side(request.overrides, side) for side in ("real", "fake")}
    rest = [text for text in request.overrides if text.partition(".")[0] not in own]
    metrics = build_metrics(metric_sections(request.metrics, request.common, rest))
    opened = {
        "real": _open_real(request, metrics, own["real"]),
        "fake": open_videos(request.fake, "--fake", request.resolution, own["fake"]) if request.fake else None,
    }
    return evaluate(
        metrics,
        real=_factory(request, opened, "real", metrics),
        fake=_factory(request, opened, "fake", metrics),
        pairs=_pairs(request, opened, metrics),
        model=request.trained.model if request.trained else None,
        settings=request.settings,
        command=request.command,
    )


Opened = tuple[VideoDataset, bool]


def _of_side(overrides: Sequence[str], side: str) -> list[str]:
    return [text.removeprefix(f"{side}.") for text in overrides if text.startswith(f"{side}.")]


def _open_real(request: Request, metrics: Sequence[VideoMetric], overrides: Sequence[str]) -> Opened | None:
    needed = any(isinstance(m, PairedMetric) or (isinstance(m, FeatureMetric) and "real" in m.sides) for m in metrics)
    needed = needed or bool(request.trained and request.trained.model.sample_keys)
    if request.real and not needed:
        names = ", ".join(metric.name for metric in metrics)
        raise UserError(f"--real: {names} looks at generated videos only; leave it out")
    if request.real:
        return open_videos(request.real, "--real", request.resolution, overrides)
    if not needed or request.trained is None:
        return None
    text = request.trained.about.get("config")
    if not text:
        raise UserError(f"{request.trained.path}: does not say which data it was trained on; give --real")
    try:
        config = _with_data(_config_of(str(text), request.trained), overrides)
        return dataset_of(config, request.resolution, request.trained.about.get("stage")), False
    except UserError as error:
        raise UserError(f"{request.trained.path}: the data that it was trained on: {error}; give --real") from None


def _config_of(text: str, trained: Trained) -> Config:
    content = yaml.safe_load(text)
    stages = content.get("stages") or {None: content}
    return Config(Path(trained.path), tuple(stages.items()), {name: frozenset() for name in stages if name is not None})


def _with_data(config: Config, overrides: Sequence[str]) -> Config:
    given = dict(parse_override(text) for text in overrides)
    stages = tuple((name, {**part, "data": merged(part["data"], given)}) for name, part in config.stages)
    return replace(config, stages=stages)


def _factory(
    request: Request, opened: Mapping[str, Opened | None], side: str, metrics: Sequence[VideoMetric]
) -> SourceFactory | None:
    """Makes the clips of a side; None where there is nothing to make them of."""
    stored = opened[side]

    def clips(rule: ClipRule) -> ClipSource:
        if stored is None:
            assert request.trained is not None
            condition = _stored(request, opened["real"], "real", replace(rule, order="shuffled"), None)
            return request.trained.clips(rule, _num_fake(request, opened, rule), condition)
        limit = _num_fake(request, opened, rule) if side == "fake" else _num_real(request, opened, rule)
        return _stored(request, stored, side, rule, limit)  # type: ignore[return-value]

    return clips if stored is not None or (side == "fake" and request.trained) else None


def _stored(
    request: Request, opened: Opened | None, side: str, rule: ClipRule, limit: int | None
) -> StoredClips | None:
    if opened is None:
        return None
    dataset, native = opened
    place = (
        request.real if side == "real" else request.fake
    ) or f"data of {request.trained.path if request.trained else ''}"
    source = StoredClips(dataset, rule, native=native, name=place, limit=limit)
    if not len(source):
        raise UserError(
            f"--{side}: none of its {len(dataset)} videos has the {rule.span} frames of a clip of {rule.num_frames} at"
            f" stride {rule.stride} (the longest has {dataset.lengths.max()}); lower --num-frames or --stride"
        )
    return source


def _available(opened: Opened | None, rule: ClipRule) -> int | None:
    return None if opened is None else int((opened[0].lengths >= rule.span).sum()) * rule.per_video


def _num_fake(request: Request, opened: Mapping[str, Opened | None], rule: ClipRule) -> int:
    there = _available(opened["fake"], rule)
    if request.num_videos is not None:
        if there is not None and request.num_videos > there:
            raise UserError(f"--num-videos {request.num_videos}: --fake has {there} that are long enough")
        return request.num_videos
    real = _available(opened["real"], rule) if request.num_real is None else None
    return min(count for count in (PUBLISHED_NUM_VIDEOS, there, real) if count)


def _num_real(request: Request, opened: Mapping[str, Opened | None], rule: ClipRule) -> int:
    there = _available(opened["real"], rule) or 0
    if request.num_real is not None:
        if request.num_real > there:
            raise UserError(f"--num-real {request.num_real}: --real has {there} that are long enough")
        return request.num_real
    return min(there, _num_fake(request, opened, rule))


def _pairs(request: Request, opened: Mapping[str, Opened | None], metrics: Sequence[VideoMetric]) -> Pairs | None:
    paired = [metric for metric in metrics if isinstance(metric, PairedMetric)]
    real, fake = opened["real"], opened["fake"]
    if not paired or real is None:
        return None
    if fake is not None:
        names = (request.real or "--real", request.fake or "--fake")
        return pair_up(real[0], fake[0], native=(real[1], fake[1]), names=names, limit=request.num_videos)
    if request.trained is None or not request.trained.model.sample_keys:
        return None
    rule = ClipRule(real[0].spec.num_frames, order="first", start="first")
    target = _stored(request, real, "real", rule, request.num_videos)
    assert target is not None
    return Pairs(target, request.trained.clips(rule, len(target), target))
