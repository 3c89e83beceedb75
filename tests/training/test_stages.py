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


TATS = """\
seed: 3
data: {name: moving_shapes, resolution: 8, num_frames: 4, num_videos: 8, batch_size: 2}
trainer: {max_steps: 1, accelerator: cpu, enable_progress_bar: false}
log: {num_samples: 2}
stages:
  vqgan:
    model:
      {name: tats_vqgan, resolution: 8, num_frames: 4, n_hiddens: 2, downsample: [2, 4, 4], embedding_dim: 3,
       n_codes: 5, disc_channels: 2, disc_layers: 1, perceptual_weight: 0}
  keys:
    model: {name: tats, first_stage: "${checkpoint:vqgan}", resolution: 8, num_frames: 8, latent_stride: 2, n_layer: 1,
            n_head: 2, n_embd: 8}
    data: {num_frames: 8}
  between:
    model: {name: tats_interpolation, first_stage: "${checkpoint:vqgan}", keys: "${checkpoint:keys}", resolution: 8,
            num_frames: 6, gap: 2, n_layer: 1, n_head: 2, n_embd: 8}
    data: {num_frames: 6}
"""


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "stages.keys.model.n_embd=9",
            "stage keys: model.n_embd 9: must be a multiple of n_head, 2",
        ),
        (
            "stages.keys.data.num_frames=4",
            "stage keys: model.num_frames: is 8, but the data has num_frames 4; make them equal",
        ),
        (
            "stages.between.model.channels=1",
            "stage between: model.channels 1: the first stage was trained on 3; make them equal",
        ),
        (
            "stages.between.data.resolution=16",
            "stage between: model.resolution: is 8, but the data has resolution 16; make them equal",
        ),
    ],
)
def test_what_a_later_stage_refuses_is_said_before_the_first_is_trained(
    capsys: pytest.CaptureFixture[str], folder: Path, word: str, message: str
) -> None:
    (folder / "chain.yaml").write_text(TATS)
    assert fit("run", word) == 2
    assert capsys.readouterr().err == f"vidgen: error: {message}\n"
    assert not Path("run/vqgan").exists()


def test_a_chain_of_three_stages_is_trained_and_its_end_checked_when_it_is_resumed(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    (folder / "chain.yaml").write_text(TATS)
    assert fit("run") == 0
    for stage in ("keys", "between"):
        last("run", stage, 1).unlink()
    capsys.readouterr()
    assert fit("run", "--resume", "auto", "stages.between.data.num_frames=4") == 2
    assert capsys.readouterr().err == (
        "vidgen: error: stage between: model.num_frames: is 6, but the data has num_frames 4; make them equal\n"
    )
    assert not last("run", "keys", 1).exists()
    assert fit("run", "--resume", "auto") == 0
    assert last("run", "between", 1).exists()
