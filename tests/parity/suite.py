"""What is asked of every model's reference files, whatever is in them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.parity.fixtures import Reference, files, folder


class ReferenceSuite:
    """A subclass ``Test...`` names a model and says which of its files is checked by what; see ``conftest.py``."""

    model: ClassVar[str]
    """Name of the folder."""
    checks: ClassVar[Mapping[str, Callable[[Any], None]]]
    """File -> what compares all of its outputs."""
    elsewhere: ClassVar[Mapping[str, str]] = {}
    """File -> test file beside this one that reads it."""
    tolerance: ClassVar[float]
    """The widest difference that the model's specification allows."""

    def open(self, name: str) -> Reference:
        """A reference file."""
        return Reference(folder(self.model) / name, self.tolerance)

    def change(self, reference: Reference) -> Reference:
        """A copy in which one number is another."""
        return reference.with_one_weight_changed()

    def test_every_file_is_read(self) -> None:
        assert set(files(self.model)) - set(self.elsewhere) == set(self.checks)
        assert all((Path(__file__).parent / reader).exists() for reader in self.elsewhere.values())

    def test_computes_what_the_original_computes(self, name: str) -> None:
        data = self.open(name)
        self.checks[name](data)
        data.finish()
        print(name, {key: f"{error:.1e}" for key, error in data.errors.items()})

    def test_one_other_weight_is_noticed(self, name: str) -> None:
        with pytest.raises(AssertionError):
            self.checks[name](self.change(self.open(name)))

    def test_an_output_that_nothing_compares_is_noticed(self, name: str) -> None:
        data = self.open(name)
        data.outputs["invented"] = torch.zeros(1)
        data.open.add("invented")
        self.checks[name](data)
        with pytest.raises(AssertionError, match=r"nothing compares \['invented'\]"):
            data.finish()

    def widened(self, name: str, key: str, tolerance: float) -> None:
        """Ask for more than the specification allows, which has to be refused."""
        data = self.open(name)
        with pytest.raises(AssertionError, match="wider than the specified"):
            data.compare(key, copy.deepcopy(data.outputs[key]), tolerance=tolerance)
