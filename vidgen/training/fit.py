"""Train what a config describes: one stage after the other, each resumable, each leaving everything in one folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from vidgen.atomic import atomic_file
from vidgen.checkpoint import describe_model, read_checkpoint
from vidgen.config import RunConfig, build_data, build_model, stage_dir
from vidgen.config.run import LOGGERS
from vidgen.data.dataset import VideoDataset
from vidgen.data.spec import DataSpec
from vidgen.distributed import gather_objects, world
from vidgen.errors import UserError
from vidgen.evaluation.contexts import Contexts
from vidgen.media import write_video
from vidgen.models.base import AdversarialModel, Batch, VideoModel
from vidgen.models.stages import is_described
from vidgen.registry import MODELS
from vidgen.training.chain import check_later_stages
from vidgen.training.checkpoints import RunCheckpoints, SafeCheckpointIO, checkpoints_in
from vidgen.training.curves import draw_curves
from vidgen.training.ema import ModuleAverage
from vidgen.training.encoded import check_kind, first_codes, real_videos
from vidgen.training.evaluation import PeriodicEvaluation
from vidgen.training.lightning import choose_strategy, quiet_lightning, take_over_manual_arguments
from vidgen.training.monitor import IterationProgress, RunMonitor, SampleGrids
from vidgen.training.random_state import RandomState, seed_globals

_log = logging.getLogger("vidgen.training")


@dataclass
class FitResult:
    """What a run left behind.

    Attributes:
        checkpoint: the newest checkpoint.
        iteration: iterations completed.
        stopped_by: signal number that ended the run early, or None.
        artefacts: label -> path of everything worth opening.
    """

    checkpoint: Path | None
    iteration: int
    stopped_by: int | None = None
    artefacts: dict[str, Path] = field(default_factory=dict)


def fit(stages: Sequence[RunConfig], out: Path, resume: str | None = None, init_from: Path | None = None) -> FitResult:
    """Train the stages of a config in order.

    Args:
        stages: one entry for a plain config, several for a config with ``stages:``.
        out: run folder; several stages get a subfolder each.
        resume: ``"auto"`` continues from the newest checkpoint in ``out`` (finished stages are passed over, nothing
            there starts afresh), a path continues from that file, None starts afresh.
        init_from: checkpoint whose weights the first stage starts from.

    Returns:
        The result of the last stage that ran.

    Raises:
        UserError: data and model do not fit, a file cannot be read or written, a loss is NaN, …
    """
    result, checked = FitResult(None, 0), False
    for number, run in enumerate(stages):
        folder = stage_dir(out, run.stage)
        checkpoint = _where_to_resume(run, folder, resume)
        if len(stages) > 1 and checkpoint is not None and _is_finished(run, checkpoint):
            result = FitResult(checkpoint, int(run.trainer["max_steps"]))
            continue
        if not checked:
            check_later_stages(stages, number, out)
            checked = True
        start = init_from if number == 0 and init_from else (Path(run.init_from) if run.init_from else None)
        result = fit_stage(run, folder, checkpoint, start)
        if result.stopped_by is not None:
            break
    return result


def _where_to_resume(run: RunConfig, folder: Path, resume: str | None) -> Path | None:
    if resume is None:
        return None
    if resume != "auto":
        about = read_checkpoint(resume)["vidgen"]
        if about.get("stage") == run.stage:
            return Path(resume)
    found = checkpoints_in(folder / "checkpoints")
    return found[-1] if found else None


def _is_finished(run: RunConfig, checkpoint: Path) -> bool:
    return int(read_checkpoint(checkpoint)["vidgen"]["iteration"]) >= int(run.trainer["max_steps"])


def fit_stage(run: RunConfig, folder: Path, resume: Path | None, init_from: Path | None) -> FitResult:
    """Train one stage in its folder.

    Raises:
        UserError: see :func:`fit`.
    """
    quiet_lightning()
    seed_globals(run.seed, "weights")
    model = build_model(run)
    trainer_args = dict(run.trainer)
    batches = take_over_manual_arguments(model, trainer_args) if isinstance(model, AdversarialModel) else 0
    data = build_data(run, batches)
    model.check_data(data.spec)
    check_kind(model, data.spec)
    model.data_spec = data.spec
    resumed = check_resumable(resume, model) if resume else None
    if resumed and (change := changed_data(resumed.get("data_spec"), data.spec)):
        _tell(
            f"{resume}: was trained on other data: {change}; from here on the run reads other clips than it would have"
        )
    if init_from is not None and resumed is None:
        load_weights(model, init_from)
    if run.compile:
        # a compiled forward pass must not give memory away that a second update needs, see AdversarialModel.share
        torch._functorch.config.donated_buffer = False
        for network in model.networks().values():
            network.compile()

    def about() -> dict[str, Any]:
        return describe_model(model, data.spec, config=run.text, stage=run.stage)

    average = ModuleAverage(run.ema) if run.ema else None
    monitor = RunMonitor(run.log.every)
    grids = SampleGrids(
        folder / "samples",
        run.log.samples_every,
        run.log.num_samples,
        run.log.fps,
        average.applied if average else None,
        first_contexts(model, data.dataset) if model.sample_keys else None,
    )
    evaluation = (
        PeriodicEvaluation(folder / "evaluations", run.evaluation, data.dataset, average) if run.evaluation else None
    )
    checkpoints = RunCheckpoints(
        folder / "checkpoints", run.checkpoint, about, evaluation.values_at if evaluation else lambda iteration: {}
    )
    progress = IterationProgress(monitor) if trainer_args.get("enable_progress_bar", True) else None
    callbacks = [average, RandomState(), monitor, progress, grids, evaluation, checkpoints]
    trainer = pl.Trainer(
        **{
            "strategy": choose_strategy(model, trainer_args),
            "logger": build_loggers(run, folder, int(resumed["iteration"]) if resumed else 0),
            "callbacks": [callback for callback in callbacks if callback is not None],
            "plugins": [SafeCheckpointIO()],
            "max_epochs": -1,
            "min_epochs": 0,
            "log_every_n_steps": run.log.every,
            "use_distributed_sampler": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "check_val_every_n_epoch": None,
            "limit_val_batches": 0,
            "default_root_dir": folder,
            **{key: value for key, value in trainer_args.items() if key != "strategy"},
        }
    )
    trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    result = FitResult(checkpoints.last_saved or resume, trainer.global_step, checkpoints.stopped_by)
    skipped = {path: reason for part in gather_objects(data.skipped) for path, reason in part.items()}
    if world()[0] == 0:
        result.artefacts = leave_artefacts(model, folder, result, grids)
        if skipped:
            result.artefacts[f"skipped files ({len(skipped)})"] = list_skipped(folder, skipped, resume is not None)
    if world()[1] > 1:
        trainer.strategy.barrier("run finished")
    return result


def first_contexts(model: VideoModel, dataset: VideoDataset) -> Callable[[int], Batch]:
    """What the first training videos give a model that samples from something.

    Raises:
        UserError: no video is long enough, or there is one and the model makes several together.
    """
    if (codes := first_codes(model, dataset)) is not None:
        return codes
    contexts = Contexts(real_videos(dataset), model, "training data", option="data")
    if len(contexts) < min(2, model.sampling_group):
        name = MODELS.name_of(type(model))
        raise UserError(f"data: one video is too few for grids of samples, of which {name} makes at least 2 together")
    return lambda number: contexts.batch(range(min(number, len(contexts))))


def build_loggers(run: RunConfig, folder: Path, iteration: int) -> list[Logger]:
    """The configured loggers; by default TensorBoard and CSV.

    A resumed run writes its CSV into a folder of its own, so that nothing written before is lost.
    """
    if run.loggers is not None:
        built = []
        for entry in run.loggers:
            arguments = {key: value for key, value in entry.items() if key != "class"}
            built.append(LOGGERS.get(entry["class"])(**arguments))
        return built
    base = f"from_{iteration:08d}"
    taken = len(list((folder / "logs" / "csv").glob(f"{base}*/metrics.csv")))
    version = base if not taken else f"{base}_{taken + 1}"
    return [
        CSVLogger(folder / "logs", name="csv", version=version, flush_logs_every_n_steps=1),
        TensorBoardLogger(folder / "logs", name="tensorboard", version="", default_hp_metric=False),
    ]


def check_resumable(path: Path, model: VideoModel) -> dict[str, Any]:
    """Read the checkpoint that a run continues from and compare it with the configured model.

    Returns:
        Its ``vidgen`` entry.

    Raises:
        UserError: another model, or another configuration of it.
    """
    payload = read_checkpoint(path)
    about = payload["vidgen"]
    wanted = describe_model(model)
    if about["model"] != wanted["model"]:
        raise UserError(f"{path}: holds a {about['model']!r}, the config asks for a {wanted['model']!r}")
    if "optimizer_states" not in payload:
        raise UserError(f"{path}: has weights but no training state; use --init-from instead of --resume")
    for key, value in wanted["model_args"].items():
        saved = about["model_args"].get(key)
        if saved != value:
            if is_described(value):
                raise UserError(f"model.{key}: is another one than {path} was trained with; to resume keep it")
            raise UserError(f"model.{key}: is {value!r}, but {path} was trained with {saved!r}; to resume keep it")
    return about


def changed_data(saved: Mapping[str, Any] | None, spec: DataSpec) -> str:
    """How the data differ from those that a checkpoint was trained on, in words; empty where the same clips are drawn.

    Args:
        saved: the checkpoint's ``data_spec``.
        spec: of the data there are now.
    """
    before = DataSpec.from_dict(saved) if saved else spec
    if not before.digest or before.digest == spec.digest:
        return ""
    encoders = [(held.encoding or {}).get("fingerprint") for held in (before, spec)]
    if encoders[0] != encoders[1]:
        return "codes of another encoder" if all(encoders) else "frames and codes are not the same"
    if before.num_videos != spec.num_videos:
        return f"{before.num_videos} videos, now {spec.num_videos}"
    return "videos of other lengths, classes or label_fraction"


@rank_zero_only
def _tell(line: str) -> None:
    _log.warning(line)


def load_weights(model: VideoModel, path: Path) -> None:
    """Start from the weights of a checkpoint (averaged weights where it has them).

    Raises:
        UserError: the weights are those of another network.
    """
    payload = read_checkpoint(path)
    weights = {**payload["state_dict"], **payload.get("ema", {})}
    own = model.state_dict()
    for name, tensor in own.items():
        if name not in weights:
            raise UserError(
                f"{path}: lacks {name!r} that {type(model).__name__} needs; was it trained with this config?"
            )
        if weights[name].shape != tensor.shape:
            shapes = f"{list(weights[name].shape)}, the configured model needs {list(tensor.shape)}"
            raise UserError(f"{path}: {name!r} has shape {shapes}")
    model.load_state_dict({name: weights[name] for name in own})


def leave_artefacts(model: VideoModel, folder: Path, result: FitResult, grids: SampleGrids) -> dict[str, Path]:
    """Draw the loss curves and the last sample grid.

    Returns:
        Label -> path.
    """
    found: dict[str, Path] = {}
    if result.checkpoint is not None:
        found["checkpoint"] = result.checkpoint
    tables = sorted((folder / "logs" / "csv").glob("*/metrics.csv"), key=_table_order)
    if tables:
        found["loss curves"] = folder / "curves.png"
        draw_curves(tables, found["loss curves"])
    if result.stopped_by is None:
        frames = grids.make(model)
        for kind in ("mp4", "gif"):
            path = folder / f"samples.{kind}"
            write_video(path, frames, fps=grids.fps, format=kind)
            found[f"samples ({kind})"] = path
    return found


def list_skipped(folder: Path, skipped: Mapping[str, str], resumed: bool) -> Path:
    """Write down which files could not be used, one a line: path, tab, reason.

    Args:
        folder: the run's.
        skipped: path and reason of each.
        resumed: whether the run went on from a checkpoint; then what its first part has met stays listed.

    Returns:
        ``folder/skipped_files.txt``.
    """
    path = folder / "skipped_files.txt"
    lines = {f"{name}\t{reason}\n" for name, reason in skipped.items()}
    if resumed and path.exists():
        lines.update(path.read_text("utf-8", "surrogateescape").splitlines(keepends=True))
    with atomic_file(path) as file:
        file.write("".join(sorted(lines)).encode("utf-8", "surrogateescape"))
    return path


def _table_order(path: Path) -> tuple[int, int]:
    match = re.fullmatch(r"from_(\d+)(?:_(\d+))?", path.parent.name)
    return (int(match[1]), int(match[2] or 1)) if match else (0, 0)
