"""Reference files: configuration, weights, inputs and expected outputs of an original, and what has been compared.

``$VIDGEN_REFERENCE/<model>/*.pt`` when the variable is set, else the small files of the same format that the project
makes itself in ``tests/fixtures/<model>``.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

OWN = Path(__file__).parents[1] / "fixtures"


def folder(model: str) -> Path:
    """Where the reference files of a model lie."""
    outside = os.environ.get("VIDGEN_REFERENCE")
    return (Path(outside) if outside else OWN) / model


def files(model: str) -> list[str]:
    """Names of all reference files of a model."""
    return sorted(path.name for path in folder(model).glob("*.pt"))


class Reference:
    """One reference file, and which of its outputs have been compared.

    Args:
        path: the file.
        tolerance: the widest difference that the model's specification allows.
    """

    def __init__(self, path: Path, tolerance: float) -> None:
        data = torch.load(path, weights_only=True)
        self.config: dict[str, Any] = data["config"]
        self.state: dict[str, Tensor] = data.get("state", {})
        self.inputs: dict[str, Tensor] = data["inputs"]
        self.outputs: dict[str, Any] = data["outputs"]
        self.tolerance = tolerance
        self.open = set(self.outputs)
        self.errors: dict[str, float] = {}

    def draws(self, prefix: str) -> dict[str, Tensor]:
        """Inputs whose name begins with ``prefix``, without it."""
        return {key.removeprefix(prefix): value for key, value in self.inputs.items() if key.startswith(prefix)}

    def compare(
        self, key: str, actual: Tensor | dict[str, Tensor], tolerance: float | None = None, relative: bool = False
    ) -> None:
        """Assert that an output is as expected: within ``tolerance`` times the expected number, where that is above 1.

        Integers must be equal. A dict must have exactly the expected entries.

        Args:
            key: the output.
            actual: what was computed.
            tolerance: None means the specification's.
            relative: whether it is a share of the expected number even where that is below 1.
        """
        tolerance = self.tolerance if tolerance is None else tolerance
        assert tolerance <= self.tolerance, f"{key}: tolerance {tolerance} is wider than the specified {self.tolerance}"
        self.open.discard(key)
        expected = self.outputs[key]
        if isinstance(expected, dict):
            assert isinstance(actual, dict) and actual.keys() == expected.keys(), f"{key}: other entries"
            for entry, value in expected.items():
                self._compare(f"{key}.{entry}", actual[entry], value, tolerance, relative)
        else:
            assert isinstance(actual, Tensor)
            self._compare(key, actual, expected, tolerance, relative)

    def _compare(self, key: str, actual: Tensor, expected: Tensor, tolerance: float, relative: bool) -> None:
        assert actual.shape == expected.shape, f"{key}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
        if not expected.is_floating_point():
            assert torch.equal(actual.to(expected.dtype), expected), f"{key}: integers differ"
            return
        sizes = expected.double().abs().clamp(min=torch.finfo(torch.float32).eps if relative else 1)
        difference = (actual.detach().double() - expected.double()).abs() / sizes
        error = difference.max().item() if difference.numel() else 0.0
        self.errors[key] = error
        assert error <= tolerance, f"{key}: off by {error:.3g}, allowed {tolerance:.3g}"

    def expects(self, key: str) -> bool:
        """Whether the file has such an output."""
        return key in self.outputs

    def finish(self) -> None:
        """Assert that every output has been compared."""
        assert not self.open, f"nothing compares {sorted(self.open)}"

    def with_one_weight_changed(self) -> Reference:
        """A copy in which the first entry of the first weight, or else input, is another number."""
        changed = copy.deepcopy(self)
        source = changed.state or changed.inputs
        key = next(key for key, value in source.items() if value.is_floating_point() and value.numel())
        source[key].view(-1)[0] += 0.5
        return changed
