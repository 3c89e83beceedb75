"""A chain of two stages in one config: shown before there is anything, and resumed at the stage where it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.contract.test_training import assert_same
from tests.two_stage_model import SeenAhead, TinyAutoencoder
from vidgen.checkpoint import load
from vidgen.cli.main import main
from vidgen.models.base import VideoModel

CONFIG = """\
seed: 3
model: {resolution: "${data.resolution}", num_frames: "${data.num_frames}"}
data: {name: moving_shapes, resolution: 8, num_frames: 4, num_videos: 8, batch_size: 2}
trainer: {max_steps: 4, accelerator: cpu, enable_progress_bar: false}
checkpoint: {every: 2}
log: {every: 1, num_samples: 2}
stages:
  coder: {model: {name: tests.two_stage_model.TinyAutoencoder}}
  prior:
    model: {name: tests.two_stage_model.SeenAhead, first_stage: "${checkpoint:coder}"}
    trainer: {max_steps: 5}
"""


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the config in it and no trace of a launcher in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("VIDGEN_RUN_DIR", "RANK", "LOCAL_RANK", "SLURM_PROCID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "chain.yaml").write_text(CONFIG)
    return tmp_path


def fit(out: str, *words: str) -> int:
    return main(["fit", "--config", "chain.yaml", "--out", out, *words])


def last(out: str, stage: str, iteration: int) -> Path:
    return Path(out) / stage / "checkpoints" / f"iteration_{iteration:08d}.ckpt"


Step = tuple[type[VideoModel], int]


def watch_steps(patch: pytest.MonkeyPatch, fatal: Step | None = None) -> list[Step]:
    """Model and iteration of every training step from now on; the run is killed at the fatal one."""
    steps: list[Step] = []

    def note(self: VideoModel, *_: object) -> None:
        step = (type(self), self.iteration_number)
        if step == fatal:
            raise Killed
        steps.append(step)

    for cls in (TinyAutoencoder, SeenAhead):
        patch.setattr(cls, "on_train_batch_start", note)
    return steps


def test_a_dry_run_shows_a_stage_made_from_one_that_was_not_trained(
    capsys: pytest.CaptureFixture[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = sorted(folder.rglob("*"))
    assert main(["fit", "--config", "chain.yaml", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "stage coder\nmodel tests.two_stage_model.TinyAutoencoder, task autoencoder\n" in shown
    assert "stage prior\nmodel tests.two_stage_model.SeenAhead, task unconditional\n  prior: 25 parameters\n" in shown
    assert sorted(folder.rglob("*")) == before and not list(scratch.iterdir())


def test_the_second_stage_contains_the_first_one_as_it_ended() -> None:
    assert fit("whole") == 0
    first, second = load(last("whole", "coder", 4)), load(last("whole", "prior", 5))
    assert isinstance(second, SeenAhead) and isinstance(first, TinyAutoencoder)
    assert int(first.coder.seen) == 4 * 2 * 4  # iterations, updates and frames
    for name, value in first.coder.state_dict().items():
        assert torch.equal(second.first_stage.state_dict()[name], value), name
    assert second.init_args["first_stage"]["model_args"] == first.init_args


@pytest.mark.parametrize(
    ("fatal", "goes_on_from"),
    [((SeenAhead, 1), (SeenAhead, 0)), ((SeenAhead, 3), (SeenAhead, 2)), ((TinyAutoencoder, 3), (TinyAutoencoder, 2))],
    ids=["second_before_a_checkpoint", "second_after_one", "first"],
)
def test_a_killed_chain_goes_on_at_the_right_stage(
    monkeypatch: pytest.MonkeyPatch, fatal: Step, goes_on_from: Step
) -> None:
    with monkeypatch.context() as patch:
        steps = watch_steps(patch)
        assert fit("whole") == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        watch_steps(patch, fatal)
        fit("broken")
    first = last("broken", "coder", 4)
    written = first.stat().st_mtime_ns if first.exists() else None
    assert (written is None) == (fatal[0] is TinyAutoencoder)
    with monkeypatch.context() as patch:
        again = watch_steps(patch)
        assert fit("broken", "--resume", "auto") == 0
    assert again == steps[steps.index(goes_on_from) :]
    assert written is None or first.stat().st_mtime_ns == written
    for stage, iteration in (("coder", 4), ("prior", 5)):
        one, two = (torch.load(last(out, stage, iteration), weights_only=True) for out in ("whole", "broken"))
        assert_same(one, two, skip={"loops"})
