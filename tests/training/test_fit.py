"""What stops a run does so in one line with status 2, and loses nothing that was written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import vidgen.checkpoint
from vidgen.cli.main import main
from vidgen.data.moving_shapes import MovingShapes
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.models.svg import SVG
from vidgen.training.fit import changed_data, first_contexts

CONFIG = """\
model: {name: mocogan, resolution: 16, num_frames: 10, dim_content: 4, dim_motion: 3, generator_width: 4,
  discriminator_width: 4}
data: {name: moving_shapes, resolution: 16, num_frames: 10, num_videos: 8, batch_size: 2, images_per_batch: 2}
trainer: {max_steps: 4, accelerator: cpu}
checkpoint: {every: 2}
log: {every: 1, num_samples: 1}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a config, and no trace of a launcher."""
    monkeypatch.chdir(tmp_path)
    for name in ("VIDGEN_RUN_DIR", "RANK", "LOCAL_RANK", "SLURM_PROCID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "x.yaml").write_text(CONFIG)
    return tmp_path


def fit(*arguments: str) -> int:
    """``vidgen fit`` on the config, in the folder ``run``."""
    return main(["fit", "--config", "x.yaml", "--out", "run", *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a run is refused."""
    capsys.readouterr()
    assert fit(*arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("vidgen: error: "), lines
    return lines[0].removeprefix("vidgen: error: ")


def files() -> dict[str, bytes]:
    """Everything in the folder of checkpoints."""
    return {path.name: path.read_bytes() for path in Path("run/checkpoints").iterdir()}


def test_full_disk_keeps_the_checkpoints_there_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fit("trainer.max_steps=2") == 0
    before = files()
    save = torch.save

    def fails(payload: Any, file: Any) -> None:
        save(payload, file)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(vidgen.checkpoint.torch, "save", fails)
        message = refused(capsys, "--resume", "auto")
    path = "run/checkpoints/iteration_00000004.ckpt"
    assert message == f"{path}: no space left on the disk; free some, what was written before is intact"
    assert files() == before
    assert fit("--resume", "auto") == 0
    assert sorted(files()) == ["iteration_00000002.ckpt", "iteration_00000004.ckpt"]


def test_out_of_memory_says_what_to_lower(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from vidgen.models.mocogan import MoCoGAN

    def fails(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has ...")

    monkeypatch.setattr(MoCoGAN, "iteration", fails)
    message = refused(capsys)
    assert message == "out of memory: lower data.batch_size, data.num_frames or data.resolution"


def test_nan_names_iteration_term_and_checkpoint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from vidgen.models.mocogan import MoCoGAN

    losses = MoCoGAN.image_discriminator_loss

    def poisoned(self: MoCoGAN, batches: Any) -> Any:
        terms = losses(self, batches)
        return {k: v * (float("nan") if self.iteration_number == 2 and k == "real" else 1) for k, v in terms.items()}

    monkeypatch.setattr(MoCoGAN, "image_discriminator_loss", poisoned)
    message = refused(capsys)
    good = Path("run/checkpoints/iteration_00000002.ckpt")
    assert message == (f"iteration 3: loss/image_discriminator/real is not finite; the last good checkpoint is {good}")
    assert list(files()) == [good.name]


def test_resume_with_another_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("trainer.max_steps=2") == 0
    path = "run/checkpoints/iteration_00000002.ckpt"
    assert refused(capsys, "model.dim_content=5", "--resume", "auto") == (
        f"model.dim_content: is 5, but {path} was trained with 4; to resume keep it"
    )


def test_resume_from_weights_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("trainer.max_steps=2") == 0
    payload = torch.load("run/checkpoints/iteration_00000002.ckpt", weights_only=True)
    torch.save({key: payload[key] for key in ("vidgen", "state_dict")}, "weights.ckpt")
    assert refused(capsys, "--resume", "weights.ckpt") == (
        "weights.ckpt: has weights but no training state; use --init-from instead of --resume"
    )


@pytest.mark.parametrize("option", ["--resume", "--init-from"])
def test_damaged_checkpoint(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert fit("trainer.max_steps=2") == 0
    whole = Path("run/checkpoints/iteration_00000002.ckpt").read_bytes()
    Path("cut.ckpt").write_bytes(whole[: len(whole) // 2])
    arguments = [option, "cut.ckpt"] + (["--out", "other"] if option == "--init-from" else [])
    assert refused(capsys, *arguments) == "cut.ckpt: unreadable checkpoint (damaged, cut short or of another kind)"


def test_init_from_starts_from_the_weights_and_checks_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("trainer.max_steps=2", "model.learning_rate=1e-9", "seed=3") == 0
    path = "run/checkpoints/iteration_00000002.ckpt"
    assert fit("--init-from", path, "--out", "second", "model.learning_rate=1e-9", "seed=4", "trainer.max_steps=1") == 0
    one, two = (
        torch.load(name, weights_only=True)["state_dict"]
        for name in (path, "second/checkpoints/iteration_00000001.ckpt")
    )
    key = "generator.recurrent.weight_ih"
    torch.testing.assert_close(one[key], two[key], rtol=0, atol=1e-6)
    assert refused(capsys, "--init-from", path, "--out", "third", "model.generator_width=6").startswith(
        f"{path}: 'generator.image_generator."
    )


def test_model_and_data_that_do_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "model.resolution=32", "model.num_frames=16") == (
        "model.resolution: is 32, but the data has resolution 16; make them equal"
    )
    assert refused(capsys, "data.resolution=18", "model.resolution=18") == (
        "model.resolution 18: MoCoGAN needs 4, 5, 6 or 7 times a power of two (32, 48, 64, 96, 128, …)"
    )
    assert not Path("run").exists(), "a run that never started leaves no folder"


def test_a_clean_run_is_silent_on_stderr(capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    assert fit() == 0
    assert capsys.readouterr().err == ""
    ours = [str(w.message) for w in recwarn if "vidgen" in str(w.filename)]
    assert ours == []


def test_resuming_on_other_data_is_told(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    assert fit("trainer.max_steps=2") == 0
    assert fit("trainer.max_steps=3", "--resume", "auto") == 0
    assert not caplog.records
    assert fit("trainer.max_steps=4", "--resume", "auto", "data.num_videos=7") == 0
    checkpoint = "run/checkpoints/iteration_00000003.ckpt"
    assert [record.getMessage() for record in caplog.records] == [
        f"{checkpoint}: was trained on other data: 8 videos, now 7;"
        " from here on the run reads other clips than it would have"
    ]


def test_data_of_other_lengths_or_classes_are_other_data() -> None:
    spec = DataSpec(3, 8, 4, None, 9, 4, 9, digest="a")
    assert changed_data(spec.to_dict(), spec) == "" and changed_data(None, spec) == ""
    assert changed_data({**spec.to_dict(), "digest": "b"}, spec) == "videos of other lengths, classes or label_fraction"


def test_one_video_is_too_few_for_grids_of_a_model_that_makes_several_together() -> None:
    model = SVG(**{**SVG.small_variants()["default"], "channels": 3})
    with pytest.raises(UserError) as caught:
        first_contexts(model, MovingShapes(resolution=16, num_frames=5, num_videos=1))
    assert str(caught.value) == (
        "data: one video is too few for grids of samples, of which svg makes at least 2 together"
    )
    assert len(first_contexts(model, MovingShapes(resolution=16, num_frames=5, num_videos=2))(8)["video"]) == 2
