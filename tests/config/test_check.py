"""Every check, its message word for word."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.example import GOOD, STAGES, Part, message, write
from vidgen.config import bind, check, compose
from vidgen.registry import MODELS
from vidgen.training.settings import CheckpointSettings, EMASettings, LogSettings


class TestChecks:
    def test_values_arrive_with_the_types_of_the_signature(self, folder: Path) -> None:
        text = GOOD + "ema: {decay: 0}\nlog: {fps: 4}\ncheckpoint: {mode: max}\n"
        (run,) = check(compose(write(text), ["model.rate=1", "model.widths=[1,2]", "data.part={share: 1}"]))
        assert run.model == {"name": "tests.config.example.FakeModel", "dim_content": 5, "rate": 1.0, "widths": (1, 2)}
        assert type(run.model["rate"]) is float
        assert run.data["root"] == Path("videos")
        assert run.data["part"] == Part(1.0)
        assert run.trainer == {"max_steps": 10}
        assert run.ema == EMASettings(decay=0.0)
        assert run.log == LogSettings(fps=4.0)
        assert run.checkpoint == CheckpointSettings(mode="max")
        assert (run.seed, run.compile, run.init_from, run.loggers, run.stage) == (3, False, None, None, None)

    def test_no_average_unless_asked_for(self, folder: Path) -> None:
        (run,) = check(compose(write(GOOD)))
        assert run.ema is None

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            # top level
            ("modle.x=1", "modle: unknown key; did you mean 'model'?"),
            ("seed=one", "seed: expected int, got 'one' (str)"),
            ("seed=-1", "seed: expected 0 or more, got -1"),
            ("compile=1", "compile: expected bool, got 1 (int)"),
            ("init_from=x.ckpt", "init_from: no such file: x.ckpt"),
            ("model=3", "model: expected a section with keys, got 3 (int)"),
            ("trainer=null", "trainer: missing; the config needs this section"),
            # the model
            ("model.dim_contnet=3", "model.dim_contnet: unknown key; did you mean 'dim_content'?"),
            ("model.zzz=3", "model.zzz: unknown key"),
            ("model.dim_content=abc", "model.dim_content: expected int, got 'abc' (str)"),
            ("model.dim_content=5.0", "model.dim_content: expected int, got 5.0 (float)"),
            ("model.dim_content=true", "model.dim_content: expected int, got true (bool)"),
            ("model.dim_content=null", "model.dim_content: expected int, got nothing (null)"),
            ("model.dim_content=???",
             "model.dim_content: missing; give it in the config or as model.dim_content=VALUE"),
            ("model.rate=fast", "model.rate: expected float, got 'fast' (str)"),
            ("model.causal='no'", "model.causal: expected bool, got 'no' (str)"),
            ("model.widths=[1,a]", "model.widths: expected tuple[int, ...], got [1, 'a'] (list)"),
            ("model.norm=bach", "model.norm: expected 'batch' | 'group', got 'bach' (str); did you mean 'batch'?"),
            ("model.first_stage=x.ckpt", "model.first_stage: no such file: x.ckpt"),
            ("model.first_stage=3", "model.first_stage: expected path | None, got 3 (int)"),
            ("model.name=mocogam", "model.name: unknown model 'mocogam'; did you mean 'mocogan'?"),
            ("model.name=os.path.joyn", "model.name: model 'os.path.joyn': module 'os.path' has no 'joyn'"),
            ("model.name=os.path.join", "model.name: 'os.path.join' is not a VideoModel"),
            # the data
            ("data.rooot=x", "data.rooot: unknown key; did you mean 'root'?"),
            ("data.root=nowhere", "data.root: no such folder: nowhere"),
            ("data.root=c.yaml", "data.root: not a folder: c.yaml"),
            ("data.root=empty", "data.root: the folder is empty: empty"),
            ("data.root=''", "data.root: empty; give the folder of the data"),
            (f"data.root={'x' * 300}", f"data.root: no such folder: {'x' * 300}"),
            ("data.batch_size=big", "data.batch_size: expected int, got 'big' (str)"),
            ("data.num_wrokers=1", "data.num_wrokers: unknown key; did you mean 'num_workers'?"),
            ("data.dataset=1", "data.dataset: unknown key"),
            ("data.batches_per_iteration=1", "data.batches_per_iteration: unknown key"),
            ("data.part.shrae=1", "data.part.shrae: unknown key; did you mean 'share'?"),
            ("data.part.share=x", "data.part.share: expected float, got 'x' (str)"),
            ("data.part=3", "data.part: expected Part, got 3 (int)"),
            ("data.name=frame_strip", "data.name: unknown dataset 'frame_strip'; did you mean 'frame_strips'?"),
            # the trainer
            ("trainer.max_step=3", "trainer.max_step: unknown key; did you mean 'max_steps'?"),
            ("trainer.max_steps=0", "trainer.max_steps: expected at least 1 iteration, got 0"),
            ("trainer.max_steps=1e5", "trainer.max_steps: expected int, got 100000.0 (float)"),
            ("trainer.max_steps=null", "trainer.max_steps: missing; give the number of iterations to train"),
            ("trainer={max_steps: null, max_epochs: 3}",
             "trainer.max_steps: missing; max_epochs is not accepted; give the number of iterations to train"),
            ("trainer.max_epochs=3",
             "trainer.max_epochs: not accepted; iterations are counted with trainer.max_steps"),
            ("trainer.logger=true", "trainer.logger: not accepted; loggers are listed in the section loggers"),
            ("trainer.callbacks=[]", "trainer.callbacks: not accepted; fixed by vidgen; take it out"),
            ("trainer.default_root_dir=x",
             "trainer.default_root_dir: not accepted; the run folder is named with --out"),
            ("trainer.strategy=fsdp", "trainer.strategy: 'fsdp' is not supported (known: auto, ddp)"),
            ("trainer.strategy=dpp",
             "trainer.strategy: 'dpp' is not supported (known: auto, ddp); did you mean 'ddp'?"),
            ("trainer.benchmark=3", "trainer.benchmark: expected bool | None, got 3 (int)"),
            ("trainer.gradient_clip_val=x",
             "trainer.gradient_clip_val: expected int | float | None, got 'x' (str)"),
            ("trainer.devices=4",
             "data.batch_size: 2 cannot be split evenly over 4 processes (trainer.devices × trainer.num_nodes)"),
            # settings
            ("ema.decya=0.9", "ema.decya: unknown key; did you mean 'decay'?"),
            ("ema=true", "ema: expected a section with keys, got true (bool)"),
            ("checkpoint.every=often", "checkpoint.every: expected int, got 'often' (str)"),
            ("checkpoint.mode=mim", "checkpoint.mode: expected 'min' | 'max', got 'mim' (str); did you mean 'min'?"),
            ("log.samples_evry=1", "log.samples_evry: unknown key; did you mean 'samples_every'?"),
            # loggers
            ("loggers=3", "loggers: expected a list of loggers, got 3 (int)"),
            ("loggers=[x]", "loggers.0: expected class: and its arguments, got 'x' (str)"),
            ("loggers=[{class: wandb}]",
             "loggers.0.class: expected a dotted path like pytorch_lightning.loggers.WandbLogger, got 'wandb'"),
            ("loggers=[{class: os.path.join}]", "loggers.0.class: 'os.path.join' is not a Logger"),
            ("loggers=[{class: pytorch_lightning.loggers.CSVLogger, nmae: x}]",
             "loggers.0.nmae: unknown key; did you mean 'name'?"),
            ("loggers=[{class: pytorch_lightning.loggers.CSVLogger, prefix: 3}]",
             "loggers.0.prefix: expected str, got 3 (int)"),
        ],
    )  # fmt: skip
    def test_messages(self, folder: Path, override: str, expected: str) -> None:
        (folder / "empty").mkdir()
        assert message(GOOD, override) == expected

    def test_accelerators_by_name(self, folder: Path) -> None:
        assert message(GOOD, "trainer.accelerator=cpuu").startswith(
            "trainer.accelerator: 'cpuu' is not supported (known:"
        )

    def test_missing_arguments(self, folder: Path) -> None:
        assert message(GOOD.replace("  dim_content: 5\n", "")) == (
            "model.dim_content: missing (tests.config.example.FakeModel needs it); "
            "give it in the config or as model.dim_content=VALUE"
        )
        assert message(GOOD.replace("  batch_size: 2\n", "")) == (
            "data.batch_size: missing (tests.config.example.FakeData needs it); "
            "give it in the config or as data.batch_size=VALUE"
        )
        assert message(GOOD.replace("  name: tests.config.example.FakeModel\n", "")) == (
            f"model.name: missing (known: {', '.join(MODELS.names())})"
        )

    def test_a_logger_writes_into_the_run_folder_unless_told_otherwise(self, folder: Path) -> None:
        csv = "{class: pytorch_lightning.loggers.CSVLogger, name: x}"
        (run,) = bind(check(compose(write(GOOD), [f"loggers=[{csv}]"])), Path("runs/c"))
        assert run.loggers == [
            {"class": "pytorch_lightning.loggers.CSVLogger", "name": "x", "save_dir": Path("runs/c/logs")}
        ]
        (run,) = bind(check(compose(write(GOOD), [f"loggers=[{csv}]", "loggers.0.save_dir=y"])), Path("runs/c"))
        assert run.loggers is not None and run.loggers[0]["save_dir"] == "y"

    def test_what_needs_no_torch_is_said_first(self, folder: Path) -> None:
        """The trainer's section of the second stage is looked at before the model of the first."""
        assert message(STAGES, "model.dim_contnet=3", "stages.second.trainer.max_steps=0") == (
            "stages.second.trainer.max_steps: expected at least 1 iteration, got 0"
        )
