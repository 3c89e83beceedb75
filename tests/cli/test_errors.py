"""What the command line says when something is wrong: one line, status 2, no traceback, word for word."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vidgen.cli import main as command_line
from vidgen.cli.main import main
from vidgen.errors import UserError

GOOD = """\
model: {name: mocogan, resolution: 32, num_frames: 16, generator_width: 8, discriminator_width: 8}
data: {name: frame_strips, root: videos, resolution: 32, num_frames: 16, batch_size: 2, images_per_batch: 2}
trainer: {max_steps: 1, accelerator: cpu}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and no trace of a launcher in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("VIDGEN_RUN_DIR", "RANK", "LOCAL_RANK", "SLURM_PROCID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line on stderr of a command that must fail with status 2."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("vidgen: error: ") and err.count("\n") == 1
    return err.removeprefix("vidgen: error: ").rstrip("\n")


def fit(capsys: pytest.CaptureFixture[str], *arguments: str, config: str = GOOD) -> str:
    Path("c.yaml").write_text(config, encoding="utf-8")
    return error(capsys, "fit", "--config", "c.yaml", *arguments)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fti"], "unknown command 'fti'; did you mean 'fit'?"),
        (["model"], "unknown command 'model'; did you mean 'models'?"),
        (["paint"], "unknown command 'paint'; see vidgen --help"),
        (["fit"], "the following arguments are required: --config; see vidgen fit --help"),
        (["fit", "--config"], "argument --config: expected one argument; see vidgen fit --help"),
        (["fit", "--config", "c.yaml", "--dryrun"], "unknown argument '--dryrun'; did you mean '--dry-run'?"),
        (["fit", "--config", "c.yaml", "--zzz"], "unknown argument '--zzz'; see vidgen fit --help"),
        (["fit", "--conf", "c.yaml"], "the following arguments are required: --config; see vidgen fit --help"),
        (["models", "mocogn"], "unknown model 'mocogn'; did you mean 'mocogan'?"),
        (["models", "zzz"], "unknown model 'zzz'; see vidgen models"),
        (["models", "vidgen.errors.UserError"], "'vidgen.errors.UserError' is not a VideoModel"),
    ],
)
def test_commands_and_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str) -> None:
    assert error(capsys, *arguments) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nmodel:\n  name: a\n   dim: 3\n", "c.yaml line 4: mapping values are not allowed here"),
        ("seed: [1,\n", "c.yaml line 2: expected the node content, but found '<stream end>'"),
        ("model:\n\tname: a\n", "c.yaml line 2: found character '\\t' that cannot start any token"),
        ("seed: 1\nseed: 2\n", "c.yaml line 2: key 'seed' stands twice"),
        (
            "seed: !!python/object:os.system x\n",
            "c.yaml line 1: could not determine a constructor for the tag 'tag:yaml.org,2002:python/object:os.system'",
        ),
        ("- 1\n", "c.yaml: expected sections like 'model:', got a list"),
        ("", "c.yaml: the file is empty"),
        ("modle: {}\n", "modle: unknown key; did you mean 'model'?"),
        ("model: {name: mocogan}\n", "data: missing; the config needs this section"),
    ],
)
def test_bad_files(capsys: pytest.CaptureFixture[str], text: str, expected: str) -> None:
    assert fit(capsys, config=text) == expected


def test_files_that_are_none(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "configs").mkdir()
    (folder / "configs" / "quickstart.yaml").touch()
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    for name, expected in {
        "configs/quikstart.yaml": "configs/quikstart.yaml: no such file; did you mean 'quickstart'?",
        "nowhere/c.yaml": "nowhere/c.yaml: no such file",
        "configs": "configs: a folder, not a config file",
        "binary.yaml": "binary.yaml: not a text file",
    }.items():
        assert error(capsys, "fit", "--config", name) == expected


def test_overrides(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "videos").mkdir()
    (folder / "videos" / "a.png").touch()
    for override, expected in {
        "model.dim_content": "override 'model.dim_content': expected key=value",
        "model.dim_contnet=3": "model.dim_contnet: unknown key; did you mean 'dim_content'?",
        "model.dim_content=abc": "model.dim_content: expected int, got 'abc' (str)",
        "modle.dim_content=3": "modle: unknown key; did you mean 'model'?",
        "data.split.fractoin=0.5": "data.split.fractoin: unknown key; did you mean 'fraction'?",
        "trainer.max_epochs=3": "trainer.max_epochs: not accepted; iterations are counted with trainer.max_steps",
    }.items():
        assert fit(capsys, override) == expected


def test_data_folders(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert fit(capsys) == "data.root: no such folder: videos"
    (folder / "videos").mkdir()
    assert fit(capsys) == "data.root: the folder is empty: videos"
    assert fit(capsys, "data.root=c.yaml") == "data.root: not a folder: c.yaml"
    assert not (folder / "runs").exists()


def test_run_folders(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "videos").mkdir()
    (folder / "videos" / "a.png").touch()
    (folder / "old").mkdir()
    (folder / "old" / "config.yaml").touch()
    assert fit(capsys, "--out", "old") == (
        "old already holds a run; continue it with --resume auto or choose another --out"
    )
    assert fit(capsys, "--out", "c.yaml/x") == ("c.yaml/x: cannot be written (Not a directory); choose another place")
    assert fit(capsys, "--resume", "x.ckpt") == "--resume: no such checkpoint: x.ckpt"
    assert fit(capsys, "--init-from", "x.ckpt") == "--init-from: no such file: x.ckpt"
    assert fit(capsys, "--init-from", "c.yaml", "--resume", "auto") == (
        "--init-from: starts a new run and --resume continues one; give one of them"
    )


def test_data_that_cannot_be_read_leaves_no_run_folder(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "videos").mkdir()
    (folder / "videos" / "a.png").write_text("no picture")
    assert fit(capsys, "--out", "runs/x") == (
        "data.root 'videos': none of its 1 file can be used (the first, 'a.png': not an image)"
    )
    assert not (folder / "runs" / "x").exists()


def test_convert(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "a.pt").touch()
    given = {"--model": "mocogan", "--from": "a.pt", "--out": "b.ckpt"}

    def convert(*options: str, **changed: str) -> str:
        words = [
            word
            for key, value in {**given, **{f"--{k}": v for k, v in changed.items()}}.items()
            for word in (key, value)
        ]
        return error(capsys, "convert", *words, *options)

    assert convert(model="mocogam") == "--model: unknown model 'mocogam'; did you mean 'mocogan'?"
    assert convert("num_frames") == "override 'num_frames': expected key=value"
    assert convert(out=str(folder)) == f"--out: a folder, not a file: {folder}"
    assert convert(**{"from": "c.pt"}) == "--from: no such file: c.pt"


class _Failing(ModuleType):
    """A command that raises what it is given."""

    HELP = "fail"

    def __init__(self, failure: BaseException) -> None:
        super().__init__("failing")
        self.failure = failure

    def add_arguments(self, parser: Any) -> None:
        pass

    def run(self, args: Any) -> int:
        raise self.failure


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command that raises and returns the exit status."""

    def run(failure: BaseException, lower: str | None = None) -> int:
        module = _Failing(failure)
        if lower:
            module.LOWER = lower  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "failing", module)
        monkeypatch.setitem(command_line.COMMANDS, "failing", ("failing", "fail"))
        return main(["failing"])

    return run


MEMORY = "out of memory: lower data.batch_size, data.num_frames or data.resolution"


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (UserError("x: is\n wrong"), "x: is wrong"),
        (MemoryError(), MEMORY),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MEMORY),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), MEMORY),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MEMORY),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/x/a"),
            "no space left on the disk: runs/x/a; what was written before is intact",
        ),
        (OSError(errno.ENOSPC, "No space left"), "no space left on the disk; what was written before is intact"),
        (PermissionError(errno.EACCES, "Permission denied", "data/a"), "no permission: data/a"),
    ],
)
def test_failures_of_the_machine(
    capsys: pytest.CaptureFixture[str], failing: Any, failure: BaseException, expected: str
) -> None:
    assert failing(failure) == 2
    assert capsys.readouterr().err == f"vidgen: error: {expected}\n"


def test_out_of_memory_for_real(capsys: pytest.CaptureFixture[str], failing: Any) -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)
    assert failing(caught.value) == 2
    assert capsys.readouterr().err == f"vidgen: error: {MEMORY}\n"


def test_a_command_knows_what_to_lower(capsys: pytest.CaptureFixture[str], failing: Any) -> None:
    assert failing(MemoryError(), lower="--batch-size") == 2
    assert capsys.readouterr().err == "vidgen: error: out of memory: lower --batch-size\n"


def test_a_setting_that_lightning_refuses(capsys: pytest.CaptureFixture[str], failing: Any) -> None:
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    assert failing(MisconfigurationException("No supported gpu\nbackend found!")) == 2
    assert capsys.readouterr().err == "vidgen: error: trainer: No supported gpu backend found!\n"


def test_an_interrupt(capsys: pytest.CaptureFixture[str], failing: Any) -> None:
    assert failing(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "vidgen: error: interrupted\n"


def test_a_bug_keeps_its_traceback(failing: Any) -> None:
    with pytest.raises(ValueError, match="a bug"):
        failing(ValueError("a bug"))


def test_only_the_first_process_reports(
    capsys: pytest.CaptureFixture[str], failing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert failing(UserError("x: is wrong")) == 2
    assert capsys.readouterr().err == ""
    assert failing(MemoryError()) == 2
    assert capsys.readouterr().err == f"vidgen: error: process 1: {MEMORY}\n"
