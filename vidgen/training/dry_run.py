"""Show what a run would do: shapes, parameters per network, memory, one batch, one iteration; nothing is written."""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from vidgen.checkpoint import describe_model, write_checkpoint
from vidgen.config import RunConfig, bind, build_data, build_model, final_checkpoint
from vidgen.config.compose import CHECKPOINT
from vidgen.layers.updated_weights import saved_tensors_watched
from vidgen.models.base import AdversarialModel, VideoModel
from vidgen.training.encoded import check_kind
from vidgen.training.evaluation import PeriodicEvaluation
from vidgen.training.lightning import quiet_lightning, take_over_manual_arguments
from vidgen.training.settings import EMASettings

_CLIPS = 2
"""Clips in the measured iteration; activations grow linearly with the batch."""


def dry_run(stages: Sequence[RunConfig]) -> str:
    """Describe every stage of a config after running one small iteration of it on the CPU.

    Args:
        stages: as for :func:`vidgen.training.fit.fit`.

    Returns:
        Text of several lines.

    Raises:
        UserError: what :func:`~vidgen.training.fit.fit` would raise before training.
    """
    quiet_lightning()
    described = []
    with TemporaryDirectory(prefix="vidgen-dry-run-") as folder:
        for number, run in enumerate(bind(stages, Path(folder))):
            text, model = _describe_stage(run)
            described.append(text)
            if run.stage in _read_by(stages[number + 1 :]):
                _stand_in(model, final_checkpoint(run, Path(folder)))
    return "\n\n".join(described)


def _read_by(stages: Sequence[RunConfig]) -> set[str]:
    """Names of the stages whose last checkpoint models or data of these stages are made from."""
    return {name for run in stages for name in CHECKPOINT.findall(str((run.model, run.data)))}


def _stand_in(model: VideoModel, path: Path) -> None:
    """Write what a stage has become in one iteration where later ones look for what it will become in all."""
    write_checkpoint(path, {"state_dict": model.state_dict(), "vidgen": describe_model(model, model.data_spec)})


def _describe_stage(run: RunConfig) -> tuple[str, VideoModel]:
    model = build_model(run)
    arguments = dict(run.trainer)
    batches = take_over_manual_arguments(model, arguments) if isinstance(model, AdversarialModel) else 0
    data = build_data(run, batches)
    model.check_data(data.spec)
    check_kind(model, data.spec)
    model.data_spec = data.spec
    data.setup("fit")
    element = next(iter(data.train_dataloader()))
    one = element[0] if isinstance(element, list) else element
    share = min(1.0, _CLIPS / len(next(iter(one.values()))))
    activations = _measure_activations(model, _cut(element, share)) / share
    lines = [f"stage {run.stage}" if run.stage else "", f"model {run.model['name']}, task {model.task}"]
    lines += [f"  {name}: {_count(network):,} parameters" for name, network in model.networks().items()]
    lines += [data.describe(), "one batch"]
    lines += [f"  {key}: {_shape(value)}" for key, value in one.items()]
    lines += [f"iterations {run.trainer['max_steps']}", _memory(model, activations, run.ema)]
    if run.evaluation:
        metrics = PeriodicEvaluation(Path(), run.evaluation, data.dataset, None).metrics
        names = ", ".join(metric.label for metric in metrics)
        lines.append(
            f"evaluation every {run.evaluation.every} iterations: {names} of {run.evaluation.num_videos} videos"
        )
    return "\n".join(line for line in lines if line), model


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    kind = str(value.dtype).removeprefix("torch.")
    known = value[~value.isnan()]  # NaN is an attribute that is not known
    span = f", from {known.min():.3g} to {known.max():.3g}" if known.numel() else ""
    return f"{kind} {tuple(value.shape)}{span}"


def _cut(element: Any, share: float) -> Any:
    if isinstance(element, list):
        return [_cut(batch, share) for batch in element]
    return {key: value[: math.ceil(len(value) * share)] for key, value in element.items()}


class _Kept:
    """A tensor that autograd holds on to; it dies with the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.detach()


class _SavedBytes:
    """Counts the bytes that autograd keeps for backward, each storage once, and their peak."""

    def __init__(self) -> None:
        self.now = 0
        self.peak = 0
        self._holders: dict[int, int] = {}

    def keep(self, tensor: Tensor) -> _Kept:
        kept = _Kept(tensor)
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            key, size = storage.data_ptr(), storage.nbytes()
            self._holders[key] = self._holders.get(key, 0) + 1
            if self._holders[key] == 1:
                self.now += size
                self.peak = max(self.peak, self.now)
            weakref.finalize(kept, self._drop, key, size)
        return kept

    @staticmethod
    def give(kept: _Kept) -> Tensor:
        return kept.tensor

    def _drop(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if self._holders[key] == 0:
            self.now -= size


def _measure_activations(model: VideoModel, element: Any) -> int:
    counter = _SavedBytes()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with saved_tensors_watched(counter.keep, counter.give):
        trainer.fit(model, train_dataloaders=torch.utils.data.DataLoader([element], batch_size=None))  # type: ignore[arg-type]
    return counter.peak


def _memory(model: VideoModel, activations: float, ema: EMASettings | None) -> str:
    weights = _bytes(model.parameters()) + _bytes(model.buffers())
    optimizers = model.trainer.optimizers
    states = sum(_bytes(v for v in s.values() if isinstance(v, Tensor)) for o in optimizers for s in o.state.values())
    gradients = _bytes(parameter for parameter in model.parameters() if parameter.requires_grad)
    averages = sum(_bytes(model.get_submodule(name).state_dict().values()) for name in model.ema_modules) if ema else 0
    parts = {
        "weights": weights,
        "gradients": gradients,
        "optimisers": states,
        "averages": averages,
        "activations": activations,
    }
    listed = ", ".join(f"{name} {_readable(size)}" for name, size in parts.items() if size)
    return f"memory estimate {_readable(sum(parts.values()))} per process ({listed})"


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _readable(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
