"""What several test folders share."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import torch

from tests.pair import ProcessPair
from vidgen.training.lightning import quiet_lightning


@pytest.fixture(autouse=True, scope="session")
def _quiet() -> None:
    quiet_lightning()
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["VIDGEN_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _same_start() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def pair() -> Iterator[ProcessPair]:
    """Two connected processes, started once for the whole session."""
    processes = ProcessPair()
    yield processes
    processes.close()
