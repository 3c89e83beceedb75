"""The folder of what can be made again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from vidgen.cache import cache_dir


def test_the_cache_lies_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", "/a")
    assert cache_dir() == Path("/a")
    monkeypatch.delenv("VIDGEN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_dir() == Path("/b/vidgen")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "vidgen"
    monkeypatch.setenv("VIDGEN_CACHE", "~/c")
    assert cache_dir() == Path.home() / "c"


def test_a_user_without_a_home_has_a_cache_too(monkeypatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("VIDGEN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_dir() == Path(tempfile.gettempdir()) / f"vidgen-{os.getuid()}"
