"""Where a run keeps its files, and what it writes about itself there."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vidgen.atomic import atomic_file, write_error
from vidgen.config.compose import Config
from vidgen.errors import UserError

RUN_DIR_VARIABLE = "VIDGEN_RUN_DIR"
"""Tells the other processes of a run which folder the first one chose."""

_RUNS = Path("runs")
_WRITTEN_FIRST = ("config.yaml", "provenance.json")
_RECORDED = ("torch", "pytorch-lightning", "torchmetrics", "numpy", "omegaconf", "av")


def process_rank() -> int:
    """Rank of this process as its launcher states it; 0 when nobody does."""
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if os.environ.get(variable, "").isdigit():
            return int(os.environ[variable])
    return 0


def started_externally() -> bool:
    """Whether torchrun or SLURM started several processes of this run."""
    return any(int(os.environ.get(variable) or 1) > 1 for variable in ("WORLD_SIZE", "SLURM_NTASKS"))


def resolve_run_dir(config_path: Path, out: Path | None, resume: str | None) -> Path:
    """Choose, create and announce the folder of a run.

    Without ``out`` a fresh run takes ``runs/<config stem>``, or that with the next free number; ``--resume auto`` takes
    the newest of them, and ``--resume PATH`` the run that the checkpoint belongs to. Child processes find the choice
    in the environment variable :data:`RUN_DIR_VARIABLE`.

    Args:
        config_path: the config file; the saved ``config.yaml`` of a run goes by the name of the run.
        out: folder named by the user.
        resume: None, ``"auto"``, or a checkpoint.

    Returns:
        An existing folder that can be written to.

    Raises:
        UserError: a fresh run would land in the folder of another run, or the folder cannot be written.
    """
    chosen = os.environ.get(RUN_DIR_VARIABLE)
    if chosen and process_rank() > 0:
        return Path(chosen)
    if resume not in (None, "auto") and not Path(str(resume)).is_file():
        raise UserError(f"--resume: no such checkpoint: {resume}")
    if out is None and resume not in (None, "auto"):
        out = _run_of(Path(str(resume)))
    if out is None and resume is None and started_externally():
        raise UserError("--out: name the run folder when torchrun or SLURM starts the processes")
    if out is not None and resume is None and process_rank() == 0 and holds_run(out):
        raise UserError(f"{out} already holds a run; continue it with --resume auto or choose another --out")
    stem = config_path.parent.name if config_path.stem == "config" else ""
    folder = out if out is not None else _default_run_dir(stem or config_path.stem, fresh=resume is None)
    _make_writable(folder)
    os.environ[RUN_DIR_VARIABLE] = str(folder)
    return folder


def holds_run(folder: Path) -> bool:
    """Whether a run has written its config or checkpoints there."""
    return any((folder / name).exists() for name in (*_WRITTEN_FIRST, "checkpoints"))


def drop_unstarted(folder: Path) -> None:
    """Remove the folder of a run that failed before it left anything but its config."""
    if process_rank() == 0 and folder.is_dir() and {path.name for path in folder.iterdir()} <= set(_WRITTEN_FIRST):
        shutil.rmtree(folder, ignore_errors=True)


def save_run(out: Path, config: Config, command: Sequence[str]) -> None:
    """Write ``config.yaml``, from which ``vidgen fit`` repeats the run, and ``provenance.json``.

    A continued run keeps its first provenance and adds an entry to the list ``resumed``; if its config has changed,
    the old one stays as ``config-1.yaml``, ``config-2.yaml``, …

    Args:
        out: the run folder.
        config: the composed config.
        command: the command line, without the program.

    Raises:
        UserError: the files cannot be written.
    """
    if process_rank() > 0:
        return
    about, written = out / "provenance.json", out / "config.yaml"
    entry = provenance(command)
    with suppress(OSError, ValueError, AttributeError):
        first = json.loads(about.read_text(encoding="utf-8"))
        entry = {**first, "resumed": [*first.get("resumed", []), entry]}
    if written.is_file() and written.read_text(encoding="utf-8") != config.text:
        number = next(n for n in itertools.count(1) if not (out / f"config-{n}.yaml").exists())
        _write(out / f"config-{number}.yaml", written.read_text(encoding="utf-8"))
    _write(written, config.text)
    _write(about, json.dumps(entry, indent=2) + "\n")


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """What is needed to say later how a run came about: code, versions, command, time, kind of device."""
    from vidgen import __version__

    versions = {"vidgen": __version__, "python": platform.python_version()}
    for package in _RECORDED:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": shlex.join(["vidgen", *command]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "code": _checkout(Path(__file__).resolve().parents[2]),
        "versions": versions,
        "device": _device(),
    }


def _write(path: Path, text: str) -> None:
    with atomic_file(path) as file:
        file.write(text.encode())


def _default_run_dir(stem: str, fresh: bool) -> Path:
    taken = {1: _RUNS / stem} if (_RUNS / stem).exists() else {}
    for path in _RUNS.glob("*") if _RUNS.is_dir() else ():
        match = re.fullmatch(rf"{re.escape(stem)}-(\d+)", path.name)
        if match:
            taken[int(match[1])] = path
    if not fresh:
        return taken[max(taken)] if taken else _RUNS / stem
    for number in itertools.count(max(taken, default=0) + 1):
        folder = _RUNS / (f"{stem}-{number}" if number > 1 else stem)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError as error:  # another run was faster
            if not folder.is_dir():
                raise write_error(folder, error) from None
        except OSError as error:
            raise write_error(folder, error) from None
    raise AssertionError("unreachable")


def _run_of(checkpoint: Path) -> Path:
    for folder in checkpoint.parents[:4]:
        if (folder / "config.yaml").is_file():
            return folder
    raise UserError(f"--resume: {checkpoint} does not lie in a run folder; name one with --out")


def _make_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise write_error(folder, error) from None


def _checkout(folder: Path) -> dict[str, Any] | None:
    """Commit of the checkout that vidgen runs from, and whether tracked files differ from it; None when installed."""
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "modified": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()


def _device() -> str:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"cuda: {torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}"
    return f"cpu: {platform.machine()}"
