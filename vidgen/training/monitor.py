"""What a run tells while it runs: logged values, speed, progress, sample grids."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from tqdm import tqdm

from vidgen.distributed import world
from vidgen.media import grid, to_uint8, write_video
from vidgen.models.base import Batch, VideoModel
from vidgen.sampling import Group, grouped
from vidgen.training.lightning import iteration_is_over


class RunMonitor(pl.Callback):
    """Every ``every`` iterations: stop on NaN/Inf, then log means of the window, learning rates and speed.

    Logged under ``loss/<update>/<term>``, ``loss/<update>``, ``grad_norm/<update>``, ``accuracy/...``,
    ``learning_rate/<update>``, ``speed/iterations_per_second`` and ``speed/data_wait_share`` (share of the wall time
    spent waiting for the loader). The device is waited for only then.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.latest: dict[str, float] = {}
        self._window_start = 0.0
        self._waited = 0.0
        self._iterations = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock, and let the model measure gradients when they are logged."""
        pl_module.log_every = self.every
        self._window_start = pl_module.idle_since = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Count the time since the last iteration as waiting for data."""
        self._waited += time.perf_counter() - pl_module.idle_since

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: VideoModel, *_: Any) -> None:  # type: ignore[override]
        """Log when the window is full."""
        if not iteration_is_over(trainer):
            return
        self._iterations += 1
        if trainer.global_step % self.every == 0:
            pl_module.finite_watch.check()
            self._log(trainer, pl_module)

    def _log(self, trainer: pl.Trainer, model: VideoModel) -> None:
        means = model.meter.flush()
        values = dict(zip(means, torch.stack(list(means.values())).tolist() if means else [], strict=True))
        now = time.perf_counter()
        elapsed = max(now - self._window_start, 1e-9)
        values["speed/iterations_per_second"] = self._iterations / elapsed
        values["speed/data_wait_share"] = min(1.0, self._waited / elapsed)
        names = getattr(model, "_optimizer_names", None) or [str(i) for i in range(len(trainer.optimizers))]
        for name, optimizer in zip(names, trainer.optimizers, strict=True):
            values[f"learning_rate/{name}"] = float(optimizer.param_groups[0]["lr"])
        self._window_start, self._waited, self._iterations = now, 0.0, 0
        self.latest = values
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in values.items()})
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)
            if world()[0] == 0:
                logger.save()


class IterationProgress(pl.callbacks.ProgressBar):
    """A bar over iterations on a terminal, one plain line per logging window elsewhere."""

    def __init__(self, monitor: RunMonitor) -> None:
        super().__init__()
        self.monitor = monitor
        self._bar: tqdm | None = None
        self._enabled = True

    def disable(self) -> None:
        """Lightning silences all ranks but the first."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar at the iteration that the run continues from."""
        if self._enabled and sys.stderr.isatty():
            self._bar = tqdm(total=trainer.max_steps, initial=trainer.global_step, unit="it", dynamic_ncols=True)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Advance; show losses and speed after each logging window."""
        if not self._enabled or not iteration_is_over(trainer):
            return
        fresh = trainer.global_step % self.monitor.every == 0
        if self._bar is not None:
            self._bar.update(trainer.global_step - self._bar.n)
            if fresh:
                self._bar.set_postfix(self._losses())
        elif fresh:
            losses = "  ".join(f"{name} {value}" for name, value in self._losses().items())
            rate = self.monitor.latest["speed/iterations_per_second"]
            print(f"iteration {trainer.global_step}/{trainer.max_steps}  {rate:.2f} it/s  {losses}", flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the message stands on its own line."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _losses(self) -> dict[str, str]:
        totals = {k: v for k, v in self.monitor.latest.items() if k.startswith("loss/") and k.count("/") == 1}
        return {name.removeprefix("loss/"): f"{value:.3f}" for name, value in totals.items()}


class SampleGrids(pl.Callback):
    """Writes a grid of samples, always of the same latents, from the averaged weights where there are any.

    Args:
        folder: where ``iteration_<n>.mp4`` goes.
        every: iterations between two grids; 0 writes none (the run writes one at its end).
        num_samples: videos in a grid.
        fps: frames per second.
        averaged: context manager under which the model carries its averaged weights.
        context: what a model that samples from something is given, for a number of videos.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        num_samples: int,
        fps: float,
        averaged: Callable[[VideoModel], AbstractContextManager[None]] | None = None,
        context: Callable[[int], Batch] | None = None,
    ) -> None:
        self.folder = folder
        self.every = every
        self.num_samples = num_samples
        self.fps = fps
        self.averaged = averaged or (lambda model: nullcontext())
        self.context = context

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: VideoModel, *_: Any) -> None:  # type: ignore[override]
        """Write a grid when it is time to; rank 0 samples alone."""
        due = self.every and trainer.global_step % self.every == 0
        if due and world()[0] == 0 and iteration_is_over(trainer):
            frames = self.make(pl_module)
            write_video(self.folder / f"iteration_{trainer.global_step:08d}.mp4", frames, fps=self.fps, format="mp4")
            for logger in trainer.loggers:
                if isinstance(logger, pl.loggers.TensorBoardLogger):
                    middle = frames[:, frames.shape[1] // 2]
                    logger.experiment.add_image("samples", middle, trainer.global_step)

    def make(self, model: VideoModel) -> Tensor:
        """The grid as uint8 ``(C, T, H, W)``; the model's mode and weights are as before afterwards."""
        training, size = model.training, model.sampling_group_for({})
        whole = -(-self.num_samples // size) * size
        batch = None if self.context is None else self.context(whole)
        there = whole if batch is None else len(next(iter(batch.values())))
        number = min(self.num_samples, there)
        groups = grouped(range(number), size, there) if size > 1 else [Group(range(number), tuple(range(number)))]
        made = []
        model.eval()
        try:
            with torch.no_grad(), self.averaged(model):
                for numbers, contexts in groups:
                    given: dict[str, Any] = {}
                    if batch is not None:
                        given["batch"] = {key: batch[key][list(contexts)] for key in batch}
                    videos = model.sample(len(contexts), seed=model.seed, first=numbers.start, **given)
                    made.append(to_uint8(videos[: len(numbers)].float().cpu()))
        finally:
            model.train(training)
        return grid(torch.cat(made)[:number])
