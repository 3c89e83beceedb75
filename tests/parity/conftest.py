"""Each reference file of a suite is a test of its own."""

from __future__ import annotations

import pytest

from tests.parity.suite import ReferenceSuite


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.cls is not None and issubclass(metafunc.cls, ReferenceSuite) and "name" in metafunc.fixturenames:
        metafunc.parametrize("name", metafunc.cls.checks)
