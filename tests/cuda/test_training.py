"""Training on a GPU: precision, resume, processes, no waiting for the device, memory, compilation."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.strategies import DDPStrategy

from tests.contract.running import (
    Elements,
    StepWatch,
    Trained,
    build,
    difference_beyond_rounding,
    drifting,
    largest_difference,
    train,
    variants,
    weights,
)
from tests.contract.test_training import assert_same
from tests.pair import ProcessPair
from vidgen.distributed import world
from vidgen.models.base import AdversarialModel
from vidgen.training.lightning import take_over_manual_arguments
from vidgen.training.strategy import AdversarialDDPStrategy

every_variant = pytest.mark.parametrize(("name", "variant"), variants())
GPU: dict[str, Any] = {"accelerator": "gpu", "devices": 1}


@pytest.fixture
def exact() -> Iterator[None]:
    """Full float32 products and deterministic algorithms."""
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = allowed
    torch.use_deterministic_algorithms(False)


@every_variant
def test_trains_on_the_device(name: str, variant: str) -> None:
    model = build(name, variant)
    seen: list[str] = []

    class Where(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            noise = pl_module.noise("where")
            seen.extend(
                [str(next(pl_module.parameters()).device), noise.generator.device.type, str(noise.normal(2).device)]
            )

    before = weights(model)
    train(model, 2, callbacks=(Where(),), **GPU)
    assert set(seen) == {"cuda:0", "cuda"}
    assert largest_difference(before, {key: value.cpu() for key, value in weights(model).items()}) > 0


@every_variant
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_stays_near_full_precision(name: str, variant: str, precision: str) -> None:
    full, mixed = build(name, variant), build(name, variant)
    train(full, 5, **GPU)
    trainer = train(mixed, 5, precision=precision, **GPU)
    assert trainer.global_step == 5
    assert all(torch.isfinite(value).all() for value in mixed.state_dict().values() if value.is_floating_point())
    assert 0 < largest_difference(weights(full), weights(mixed)) < 0.2


@every_variant
def test_resume_is_exact_with_deterministic_algorithms(name: str, variant: str, tmp_path: Path, exact: None) -> None:
    arguments = {**GPU, "deterministic": True}
    try:
        train(build(name, variant), 5, folder=tmp_path / "whole", ema=True, **arguments)
    except RuntimeError as error:
        if "deterministic implementation" not in str(error):
            raise
        pytest.fail(f"{name} uses an operation without a deterministic form: {error}")
    train(build(name, variant), 3, folder=tmp_path / "first", ema=True, **arguments)
    second = build(name, variant, seed=7)
    second.seed = 0
    resume = tmp_path / "first" / "iteration_00000003.ckpt"
    train(second, 5, folder=tmp_path / "second", resume=resume, ema=True, **arguments)
    one, two = (
        torch.load(tmp_path / run / "iteration_00000005.ckpt", weights_only=True, map_location="cpu")
        for run in ("whole", "second")
    )
    assert_same(one, two, skip={"loops"})


@every_variant
def test_no_iteration_waits_for_the_device(name: str, variant: str) -> None:
    """Between two logging windows nothing asks the device for a number."""

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step >= 2:  # the first iterations may set up libraries
                torch.cuda.set_sync_debug_mode("error")

        def on_train_batch_end(self, *_: Any) -> None:
            torch.cuda.set_sync_debug_mode("default")

    try:
        trainer = train(build(name, variant), 5, callbacks=(Watch(),), **GPU)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.global_step == 5


@every_variant
def test_memory_does_not_grow(name: str, variant: str) -> None:
    held: list[int] = []

    class Memory(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            held.append(torch.cuda.memory_allocated())

    train(build(name, variant), 12, callbacks=(Memory(),), **GPU)
    assert max(held[6:]) <= held[5] * 1.01
    assert torch.cuda.max_memory_allocated() > 0


@every_variant
def test_compiled_networks_train_like_eager_ones(name: str, variant: str, exact: None) -> None:
    eager, compiled = build(name, variant), build(name, variant)
    for network in compiled.networks().values():
        network.compile()
    train(eager, 2, **GPU)
    train(compiled, 2, **GPU)
    assert largest_difference(weights(eager), weights(compiled)) < 1e-2


def share_one_gpu(name: str, variant: str, iterations: int) -> dict[str, torch.Tensor]:
    """Train in float64 on the first GPU, gradients exchanged by gloo, on every rank of a pair."""
    torch.cuda.set_device(0)
    model = build(name, variant)
    adversarial = isinstance(model, AdversarialModel)
    batches = take_over_manual_arguments(model, {}) if adversarial else 0
    strategy = AdversarialDDPStrategy if adversarial else DDPStrategy
    device = torch.device("cuda", 0)
    devices = [device] * world()[1]
    trainer = pl.Trainer(
        strategy=strategy(parallel_devices=devices, process_group_backend="gloo"),
        accelerator="gpu",
        devices=1,
        max_steps=iterations,
        max_epochs=-1,
        precision="64-true",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )
    trainer.strategy.parallel_devices = devices
    trainer.fit(model, train_dataloaders=torch.utils.data.DataLoader(Elements(model, batches), batch_size=None))
    return {key: value.cpu() for key, value in weights(model).items()}


@every_variant
def test_two_ranks_on_one_gpu_equal_one(name: str, variant: str, pair: ProcessPair) -> None:
    model, watch = build(name, variant), StepWatch(clear=False)
    train(model, 3, precision="64-true", callbacks=(watch,), **GPU)
    single = Trained({key: value.cpu() for key, value in weights(model).items()}, drifting(watch.steps))
    first, second = pair.run(share_one_gpu, name=name, variant=variant, iterations=3)
    assert largest_difference(first, second) == 0
    assert difference_beyond_rounding(single, first) <= 1e-9


def test_nccl_with_one_rank(tmp_path: Path) -> None:
    name, variant = variants()[0]
    single, distributed = build(name, variant), build(name, variant)
    train(single, 3, **GPU)
    train(distributed, 3, strategy="ddp", **GPU)
    try:
        assert dist.is_initialized() and dist.get_backend() == "nccl"
        assert largest_difference(weights(single), weights(distributed)) < 1e-4
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dist.destroy_process_group()
