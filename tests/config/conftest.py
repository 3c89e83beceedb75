"""The folder in which configs are tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidgen.config.save import RUN_DIR_VARIABLE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with ``videos/`` in it and no trace of a launcher in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in (RUN_DIR_VARIABLE, "RANK", "LOCAL_RANK", "SLURM_PROCID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.png").touch()
    return tmp_path
