"""What a user asked to have measured, and everything that has to be opened for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vidgen.config.compose import Config, parse_override
from vidgen.config.metrics import Section, build_metrics, check_metrics, takes
from vidgen.data.dataset import VideoDataset
from vidgen.data.stored import counted
from vidgen.errors import UserError, did_you_mean
from vidgen.evaluation.contexts import frames_for
from vidgen.evaluation.opening import dataset_of, open_videos, with_data
from vidgen.evaluation.pairs import Pairs, pair_up
from vidgen.evaluation.result import Evaluation
from vidgen.evaluation.run import Settings, clip_rule, evaluate
from vidgen.evaluation.sources import ClipRule, ClipSource, GeneratedClips, StoredClips, reads_when_told
from vidgen.media import Rounding
from vidgen.metrics.base import PREFERRED_FRAMES, FeatureMetric, PairedMetric, Side, VideoMetric
from vidgen.metrics.video_distances import PUBLISHED_NUM_VIDEOS
from vidgen.models.base import VideoModel
from vidgen.registry import METRICS, MODELS

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

    @property
    def num_frames(self) -> int | None:
        """Frames of the clips that it was trained on; None where that is not known."""
        return (self.about.get("data_spec") or {}).get("num_frames")

    @property
    def reads(self) -> tuple[str, ...]:
        """What of real clips its videos are made from."""
        return self.model.keys_for(self.keywords)

    def wants(self) -> dict[str, Any]:
        """What real videos must look like, where it makes its own of them: as in training."""
        return frames_for(self.model, self.about) if self.reads else {}

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
        if not takers and not (key == "num_frames" and any(_is_paired(name) for name in names)):
            raise UserError(
                f"{_FOR_ALL.get(key, f'--{key}')}: none of the metrics ({', '.join(names)}) has such a setting"
            )
        for name in takers:
            sections[name][key] = value
    for text in overrides:
        key, value = parse_override(text)
        name, _, argument = key.rpartition(".")
        if name not in sections:
            near = did_you_mean(name, [*sections, "real", "fake", "sample"])
            raise UserError(f"override {text!r}: expected real.KEY, fake.KEY, sample.KEY or METRIC.KEY=VALUE{near}")
        sections[name][argument] = value
    return check_metrics(list(sections.values()), "--metric")


def _is_paired(name: str) -> bool:
    """Whether it looks at whole videos beside real ones, whose length is asked of whoever makes them."""
    return issubclass(METRICS.get(name), PairedMetric)


def run(request: Request) -> Evaluation:
    """Open what is named, and measure it.

    Raises:
        UserError: something cannot be opened or measured; the message names it.
    """
    own = {side: _of_side(request.overrides, side) for side in ("real", "fake")}
    for side, place in (("real", request.real or request.trained), ("fake", request.fake)):
        if own[side] and not place:
            raise UserError(f"{side}.{own[side][0]}: belongs to --{side}")
    rest = [text for text in request.overrides if text.partition(".")[0] not in own]
    metrics = build_metrics(metric_sections(request.metrics, request.common, rest))
    real = _open_real(request, metrics, own["real"])
    fake = open_videos(request.fake, "--fake", request.resolution, own["fake"]) if request.fake else None
    sides = _Sides(request, metrics, real, fake)
    return evaluate(
        metrics,
        real=sides.real if real else None,
        fake=sides.fake,
        pairs=sides.pairs(),
        model=request.trained.model if request.trained else None,
        keywords=request.trained.keywords if request.trained else None,
        settings=request.settings,
        command=request.command,
    )


Opened = tuple[VideoDataset, bool]
"""A data set, and whether its frames are taken in their own sizes."""


def _of_side(overrides: Sequence[str], side: str) -> list[str]:
    return [text.removeprefix(f"{side}.") for text in overrides if text.startswith(f"{side}.")]


def _open_real(request: Request, metrics: Sequence[VideoMetric], overrides: Sequence[str]) -> Opened | None:
    trained = request.trained
    needed = any(isinstance(m, PairedMetric) or (isinstance(m, FeatureMetric) and "real" in m.sides) for m in metrics)
    needed = needed or bool(trained and trained.reads)
    if request.real and not needed:
        names = ", ".join(metric.label for metric in metrics)
        raise UserError(f"--real: {names} needs no real videos; leave it out")
    if request.real:
        wanted = trained.wants() if trained else {}
        name = MODELS.name_of(type(trained.model)) if trained else None
        return open_videos(request.real, "--real", request.resolution, overrides, wanted, name)
    if not needed or trained is None:
        return None
    text = trained.about.get("config")
    if not text:
        raise UserError(f"{trained.path}: does not say which data it was trained on; give --real")
    size = {} if request.resolution is None else {"resolution": request.resolution}
    try:
        config = with_data(_config_of(str(text), trained), {**dict(map(parse_override, overrides)), **size})
        return dataset_of(config, trained.about.get("stage")), False
    except UserError as error:
        raise UserError(f"{trained.path}: the data that it was trained on: {error}; give --real") from None


def _config_of(text: str, trained: Trained) -> Config:
    content = parse_override(f"config={text}")[1]
    stages = content.get("stages") or {None: content}
    return Config(Path(trained.path), tuple(stages.items()), {name: frozenset() for name in stages if name is not None})


class _Sides:
    """The real and the generated videos of a request, cut as metrics want them.

    Args:
        request: what is asked for.
        metrics: what will look at them; all see equally many videos, unless more real ones are asked for.
        real: the real videos.
        fake: the generated ones; None where a model makes them.

    Raises:
        UserError: there are fewer than asked for, or none that is long enough.
    """

    def __init__(
        self, request: Request, metrics: Sequence[VideoMetric], real: Opened | None, fake: Opened | None
    ) -> None:
        self.request = request
        self.metrics = metrics
        self.opened: dict[Side, Opened | None] = {"real": real, "fake": fake}
        there = {side: self._available(side) for side in self.opened}
        for side, option, asked in (
            ("fake", "num-videos", request.num_videos),
            ("real", "num-videos", None if request.num_real else request.num_videos),
            ("real", "num-real", request.num_real),
        ):
            most = there[side]  # type: ignore[index]
            if asked is not None and most is not None and asked > most:
                raise UserError(f"--{option} {asked}: --{side} has {most} that are long enough")
        known = [PUBLISHED_NUM_VIDEOS, there["fake"], None if request.num_real else there["real"]]
        self.num_fake = request.num_videos or min(count for count in known if count is not None)
        self.num_real = request.num_real or self.num_fake

    def real(self, rule: ClipRule) -> StoredClips:
        """The real clips."""
        return self._stored("real", rule, self.num_real)

    def fake(self, rule: ClipRule) -> ClipSource:
        """The generated clips."""
        if self.opened["fake"] is not None:
            return self._stored("fake", rule, self.num_fake)
        trained = self.request.trained
        assert trained is not None
        condition = None
        if trained.reads:
            start = self.request.settings.start
            condition = self._enough(self._stored("real", replace(rule, start=start), None))
        return trained.clips(rule, self.num_fake, condition)

    def pairs(self) -> Pairs | None:
        """Generated videos beside the real ones that they should equal; None where nobody asks for them."""
        real, fake, request = self.opened["real"], self.opened["fake"], self.request
        if real is None or not any(isinstance(metric, PairedMetric) for metric in self.metrics):
            return None
        if fake is not None:
            names = (request.real or "--real", request.fake or "--fake")
            return pair_up(real[0], fake[0], native=(real[1], fake[1]), names=names, limit=request.num_videos)
        if request.trained is None or not request.trained.reads:
            if request.trained is not None and reads_when_told(request.trained.model):
                label = next(metric.label for metric in self.metrics if isinstance(metric, PairedMetric))
                raise UserError(
                    f"{label}: {request.trained.path} makes videos from a seed alone; say with sample.observed=N how"
                    " many frames of the real ones it is given"
                )
            return None
        frames = request.common.get("num_frames") or request.trained.num_frames or PREFERRED_FRAMES
        whole = ClipRule(frames, order="first", start="first")
        condition = self._enough(self._stored("real", whole, None))
        target = self._stored("real", whole, request.num_videos)
        return Pairs(target, request.trained.clips(whole, len(target), condition))

    def _available(self, side: Side) -> int | None:
        """How many clips there are for every metric; None where a model makes them."""
        opened = self.opened[side]
        if opened is None:
            return None
        rules = {
            clip_rule(metric, side, self.request.settings)
            for metric in self.metrics
            if isinstance(metric, FeatureMetric) and side in metric.sides
        }
        return min((len(self._stored(side, rule, None)) for rule in rules), default=None)

    def _enough(self, condition: StoredClips) -> StoredClips:
        asked = self.request.num_videos
        if asked is not None and asked > len(condition):
            raise UserError(f"--num-videos {asked}: --real has {len(condition)} that are long enough")
        return condition

    def _stored(self, side: Side, rule: ClipRule, limit: int | None) -> StoredClips:
        opened = self.opened[side]
        assert opened is not None
        place = self.request.real if side == "real" else self.request.fake
        if place is None:
            place = f"data of {self.request.trained.path if self.request.trained else ''}"
        dataset, native = opened
        source = StoredClips(dataset, rule, native=native, name=place, limit=limit)
        if not len(source):
            raise UserError(
                f"--{side}: none of its {counted(len(dataset), 'video')} has the {rule.least_length} frames of a clip"
                f" of {rule.num_frames} at stride {rule.stride} (the longest has {dataset.lengths.max()}); lower"
                " --num-frames or --stride"
            )
        return source
