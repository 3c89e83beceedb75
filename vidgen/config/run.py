"""One checked stage of a config, and the objects that it describes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidgen.config.compose import CHECKPOINT
from vidgen.config.signature import parameters_of
from vidgen.registry import DATASETS, MODELS, Registry
from vidgen.training.settings import CheckpointSettings, EMASettings, EvaluationSettings, LogSettings

if TYPE_CHECKING:
    from vidgen.data.dataset import VideoDataset
    from vidgen.data.module import VideoDataModule
    from vidgen.models.base import VideoModel

LOGGERS: Registry = Registry("logger", {}, "vidgen.loggers")

SUPPLIED_BY_FIT = ("dataset", "seed", "batches_per_iteration")
"""Arguments of the data module that are not the config's to give."""


@dataclass(frozen=True)
class RunConfig:
    """What one stage trains, on what, and how; every value has the type of the signature that it reaches.

    Args:
        model: ``name`` and constructor arguments.
        data: ``name``, arguments of the data set and of the data module.
        trainer: arguments of Lightning's Trainer.
        seed: seed of everything random.
        ema: average of the weights; None for none.
        evaluation: what is measured while training (``eval``); None for nothing.
        checkpoint: when checkpoints are written.
        log: what is written down.
        loggers: ``class`` and arguments of each logger; None for TensorBoard and CSV.
        compile: whether the networks are compiled.
        init_from: checkpoint whose weights this stage starts from.
        stage: name under ``stages``; None for a plain config.
        text: the whole resolved config as YAML.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    seed: int = 0
    ema: EMASettings | None = None
    evaluation: EvaluationSettings | None = None
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    log: LogSettings = field(default_factory=LogSettings)
    loggers: list[dict[str, Any]] | None = None
    compile: bool = False
    init_from: Path | None = None
    stage: str | None = None
    text: str = ""


def stage_dir(out: Path, stage: str | None) -> Path:
    """Where a stage keeps its files: the run folder, or a folder in it where the config has several stages."""
    return out / stage if stage else out


def final_checkpoint(run: RunConfig, out: Path) -> Path:
    """Where the checkpoint lies that a stage ends with."""
    return stage_dir(out, run.stage) / "checkpoints" / f"iteration_{run.trainer['max_steps']:08d}.ckpt"


def bind(runs: Sequence[RunConfig], out: Path) -> list[RunConfig]:
    """Fill in what depends on the run folder: ``${checkpoint:STAGE}`` and the folders of loggers.

    Args:
        runs: all stages of a config, in order.
        out: the run folder.

    Returns:
        The same stages with every path in place.
    """
    finals = {str(run.stage): final_checkpoint(run, out) for run in runs}
    bound = []
    for run in runs:
        loggers = run.loggers and [_with_folder(entry, stage_dir(out, run.stage) / "logs") for entry in run.loggers]
        bound.append(
            replace(
                run,
                model=_fill(run.model, finals),
                data=_fill(run.data, finals),
                init_from=_fill(run.init_from, finals),
                loggers=loggers,
            )
        )
    return bound


def build_model(run: RunConfig) -> VideoModel:
    """The untrained model that a stage describes, with the run's seed."""
    arguments = {key: value for key, value in run.model.items() if key != "name"}
    model: VideoModel = MODELS.get(run.model["name"])(**arguments)
    model.seed = run.seed
    return model


def build_data(run: RunConfig, batches_per_iteration: int) -> VideoDataModule:
    """The data set of a stage and the module that feeds it to training.

    Args:
        run: a checked stage.
        batches_per_iteration: batches in one element of the loader; 0 for a plain batch.
    """
    from vidgen.data.module import VideoDataModule

    dataset = build_dataset(run.data)
    arguments = _known_to(VideoDataModule, run.data, but=SUPPLIED_BY_FIT)
    return VideoDataModule(dataset, seed=run.seed, batches_per_iteration=batches_per_iteration, **arguments)


def build_dataset(data: dict[str, Any]) -> VideoDataset:
    """The data set that a checked section describes.

    Args:
        data: ``name`` and arguments; those of the data module are passed over.
    """
    dataset_class = DATASETS.get(data["name"])
    dataset: VideoDataset = dataset_class(**_known_to(dataset_class, data))
    return dataset


def _known_to(cls: type, values: dict[str, Any], but: Sequence[str] = ()) -> dict[str, Any]:
    known = parameters_of(cls).keys() - {"name", *but}
    return {key: value for key, value in values.items() if key in known}


def _with_folder(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    takes_folder = "save_dir" in parameters_of(LOGGERS.get(entry["class"]))
    return {**entry, "save_dir": folder} if takes_folder and entry.get("save_dir") is None else entry


def _fill(value: Any, finals: dict[str, Path]) -> Any:
    if isinstance(value, dict):
        return {key: _fill(inner, finals) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_fill(inner, finals) for inner in value)
    if isinstance(value, str | Path) and CHECKPOINT.search(str(value)):
        return type(value)(CHECKPOINT.sub(lambda match: str(finals[match[1]]), str(value)))
    return value
