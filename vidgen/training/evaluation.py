"""Measuring a model while it is trained, without leaving a trace in the training."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import pytorch_lightning as pl
import torch

from vidgen.config.metrics import build_metrics, check_labels
from vidgen.data.dataset import VideoDataset
from vidgen.distributed import world
from vidgen.errors import UserError
from vidgen.evaluation.pairs import Pairs
from vidgen.evaluation.result import Evaluation
from vidgen.evaluation.run import Settings, clip_rule, evaluate
from vidgen.evaluation.sources import ClipRule, GeneratedClips, StoredClips
from vidgen.metrics.base import FeatureMetric, PairedMetric, VideoMetric
from vidgen.models.base import VideoModel
from vidgen.registry import MODELS
from vidgen.training.ema import ModuleAverage
from vidgen.training.encoded import real_videos
from vidgen.training.lightning import iteration_is_over
from vidgen.training.random_state import capture, restore
from vidgen.training.settings import EvaluationSettings

_log = logging.getLogger("vidgen.training")


class PeriodicEvaluation(pl.Callback):
    """Measures a copy of the model, with the averaged weights where there are any, every n iterations and at the last.

    All processes share the work. What is found is logged under ``eval/<metric>`` and written to
    ``iteration_<n>.json``, as ``vidgen eval`` writes it. A value that cannot be had costs a warning, not the run; a
    metric that cannot be built, or that could never have a value, ends it before the first iteration. Features of real
    videos are kept on the disk.

    Args:
        folder: where the results go.
        settings: what is measured.
        dataset: the real videos; of encoded ones those that were encoded are opened.
        average: the averaged weights; None without.

    Raises:
        UserError: a metric cannot be built, because its weights are not to be had for example, or the videos are too
            short or too few for it.
    """

    def __init__(
        self, folder: Path, settings: EvaluationSettings, dataset: VideoDataset, average: ModuleAverage | None
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.dataset = real_videos(dataset, "eval", ", or leave eval out and measure with `vidgen eval`")
        self.average = average
        self.metrics = build_metrics(settings.metrics)
        check_labels([member for metric in self.metrics for member in metric.members()])
        for metric in self.metrics:
            if isinstance(metric, FeatureMetric):
                _check_length(metric, dataset)
                _check_number(metric, dataset, settings)
        self._latest: tuple[int, dict[str, float]] = (0, {})

    def values_at(self, iteration: int) -> Mapping[str, float]:
        """What was measured at an iteration, by its logged name; empty where nothing was."""
        return self._latest[1] if self._latest[0] == iteration else {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: VideoModel) -> None:  # type: ignore[override]
        """Refuse metrics that the model offers nothing for, or that would look at none of its frames.

        Raises:
            UserError: there is one.
        """
        predicts = bool(pl_module.keys_for({}))
        for metric in self.metrics:
            if isinstance(metric, PairedMetric) and not predicts:
                raise UserError(
                    f"eval.metrics: {metric.name} compares predictions with real videos, and"
                    f" {MODELS.name_of(type(pl_module))} predicts none; leave it out"
                )
            _check_context(metric, pl_module.given_frames_for({}) if predicts else 0, self.dataset)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: VideoModel, *_: object) -> None:  # type: ignore[override]
        """Measure when it is time to."""
        iteration = trainer.global_step
        if (iteration % self.settings.every and iteration != trainer.max_steps) or not iteration_is_over(trainer):
            return
        start = time.perf_counter()
        try:
            found = self.measure(pl_module, iteration)
        except UserError as error:
            if world()[0] == 0:
                _log.warning("iteration %d could not be evaluated: %s; training goes on", iteration, error)
            return
        values = {f"eval/{name}": metric.value for name, metric in found.metrics.items()}
        self._latest = (iteration, values)
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(values, step=iteration)
        if world()[0] == 0:
            found.save(self.folder / f"iteration_{iteration:08d}.json")
            shown = "  ".join(f"{name} {value:.6g}" for name, value in values.items())
            print(f"iteration {iteration}: {shown}  ({time.perf_counter() - start:.0f} s)", flush=True)

    def measure(self, model: VideoModel, iteration: int) -> Evaluation:
        """Measure a copy of a model; neither the model nor any generator of random numbers is touched.

        Raises:
            UserError: a value cannot be had.
        """
        states = capture()
        try:
            return self._measure(self._copy(model), iteration)
        finally:
            restore(states)
            for metric in self.metrics:
                metric.reset()

    def _copy(self, model: VideoModel) -> VideoModel:
        copied: VideoModel = type(model)(**model.init_args)
        copied.seed = model.seed
        copied.data_spec = model.data_spec
        average = self.average.average if self.average else {}
        copied.load_state_dict({**model.state_dict(), **average})
        copied.to(model.device).eval()
        copied.requires_grad_(False)
        copied.prepare_sampling()
        return copied

    def _measure(self, model: VideoModel, iteration: int) -> Evaluation:
        settings, keys = self.settings, model.keys_for({})
        about = {"path": str(self.folder.parent), "iteration": iteration, "weights": "ema" if self.average else "raw"}

        def real(rule: ClipRule, limit: int | None = settings.num_real or settings.num_videos) -> StoredClips:
            source = StoredClips(self.dataset, rule, native=False, name="training data", limit=limit)
            if not len(source):
                raise UserError(f"eval: no training video has the {rule.least_length} frames that a clip needs")
            return source

        def fake(rule: ClipRule) -> GeneratedClips:
            condition = real(rule, None) if keys else None
            return GeneratedClips(
                model, settings.num_videos, rule, seed=settings.seed, about=about, condition=condition
            )

        pairs = None
        if keys and any(isinstance(metric, PairedMetric) for metric in self.metrics):
            whole = ClipRule(self.dataset.spec.num_frames, order="first", start="first")
            pairs = Pairs(real(whole, settings.num_videos), fake(whole))
        return evaluate(
            self.metrics,
            real=real,
            fake=fake,
            pairs=pairs,
            model=model,
            settings=Settings(
                seed=settings.seed,
                device=str(model.device),
                batch_size=settings.batch_size,
                keep_fake=False,
                num_samples=4,
                progress=False,
            ),
        )


def _check_context(metric: VideoMetric, frames: int, dataset: VideoDataset) -> None:
    try:
        metric.set_context(frames)
        if isinstance(metric, PairedMetric):
            metric.check_length(dataset.spec.num_frames)
        if isinstance(metric, FeatureMetric):
            clip_rule(metric, "fake", Settings())
    except (ValueError, UserError) as error:
        raise UserError(f"eval.metrics: {error}") from None


def _check_length(metric: FeatureMetric, dataset: VideoDataset) -> None:
    if "real" not in metric.sides:
        return
    frames = metric.clip_frames(True) or metric.preferred_frames()
    least = ClipRule(frames, metric.stride, whole_strides=metric.whole_strides).least_length
    longest = int(dataset.lengths.max())
    if longest < least:
        raise UserError(
            f"eval.metrics: {metric.name} takes clips of {frames} frames at stride {metric.stride}, and the longest"
            f" training video has {longest}; set the metric's num_frames or stride"
        )


def _check_number(metric: FeatureMetric, dataset: VideoDataset, settings: EvaluationSettings) -> None:
    asked = {"real": settings.num_real or settings.num_videos, "fake": settings.num_videos}
    try:
        for side in metric.sides:
            rule = clip_rule(metric, side, Settings())
            there = int((dataset.lengths >= rule.least_length).sum()) if side == "real" else asked[side]
            metric.check_samples(side, min(asked[side], there) * metric.samples_per_video(rule.num_frames))
    except (ValueError, UserError) as error:
        raise UserError(f"eval.metrics: {error}") from None
