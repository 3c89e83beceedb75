"""Where vidgen keeps what can be made or fetched again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """Where vidgen keeps what can be made again: ``$VIDGEN_CACHE``, else ``vidgen`` in the user's cache folder.

    A user without a home, as in some containers, has a folder among the temporary files.
    """
    chosen = os.environ.get("VIDGEN_CACHE")
    try:
        if chosen:
            return Path(chosen).expanduser()
        given = os.environ.get("XDG_CACHE_HOME")
        return (Path(given) if given else Path.home() / ".cache") / "vidgen"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"vidgen-{os.getuid()}"
