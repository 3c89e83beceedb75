"""Fixtures of TATS: how numbers are compared, and what its codebook drew."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.parity.fixtures import Reference
from vidgen.models.tats.networks import Padding
from vidgen.models.tats.sampling import (
    Choice,
)

TOLERANCE = 1e-4  # of the largest number of a tensor: the specification's
SILENT = 1e-5
"""Share of the gradient of the weight beside it that a gradient which is 0 but for rounding may have."""
IN_FLOAT64 = 1e-10
"""Share of the same that it has in float64, where it is 0."""
OF_TRAINING = 2e-5
ROUNDINGS = 5
"""Trained numbers are allowed 2e-5, or 5 times what the original itself differs by in float64: the specification's."""
UNSAID = {"past_prefix": Choice(1.0, 8, 0.9)}
"""How tokens were chosen, where neither the name of an output nor the configuration says it."""
LPIPS = "perceptual_model."
MODES: dict[str, Padding] = {
    "replicate": "replicate",
    "constant": "zero",
    "reflect": "reflect",
    "circular": "circular",
}
State = Mapping[str, Tensor]


class TATSReference(Reference):
    """A file of which each tensor is compared with its largest number."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, TOLERANCE)
        self.state = {key: value.contiguous() for key, value in self.state.items()}

    def _compare(self, key: str, actual: Tensor, expected: Tensor, tolerance: float, relative: bool) -> None:
        assert actual.shape == expected.shape, f"{key}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
        if not expected.is_floating_point():
            assert torch.equal(actual.to(expected.dtype), expected), f"{key}: numbers differ"
            return
        actual, expected = actual.detach().double(), expected.double()
        finite = expected.isfinite()
        assert torch.equal(actual[~finite], expected[~finite]), f"{key}: infinities differ"
        actual, expected = actual[finite], expected[finite]
        if expected.numel():
            size = expected.abs().max().clamp(min=torch.finfo(torch.float32).eps)
            self.note(key, ((actual - expected).abs().max() / size).item(), tolerance)

    def note(self, key: str, error: float, allowed: float) -> None:
        """Remember the error, under the first part of the name, and assert that it is small enough."""
        group = key.partition("/")[0]
        self.errors[group] = max(error, self.errors.get(group, 0.0))
        assert error <= allowed, f"{key}: off by {error:.3g}, allowed {allowed:.3g}"

    def compare_all(self, actual: Mapping[str, Tensor], prefix: str = "") -> None:
        """Compare several outputs."""
        for key, value in actual.items():
            self.compare(f"{prefix}{key}", value)

    def compare_trained(self, key: str, actual: Tensor, deviation: float) -> None:
        """Compare what training left; ``deviation`` is how far the original's own float64 run differs."""
        expected = self.outputs[key]
        self.open.discard(key)
        assert actual.shape == expected.shape, f"{key}: other shape"
        if not expected.is_floating_point():
            assert torch.equal(actual, expected), f"{key}: numbers differ"
            return
        error = (actual.detach().double() - expected.double()).abs().max().item()
        self.note(f"trained: {key}", error, max(OF_TRAINING, ROUNDINGS * deviation))

    def compare_norms(self, prefix: str, gradients: Mapping[str, Tensor]) -> None:
        """Compare norms of gradients.

        Some gradients are 0 but for rounding: of biases before batch norms, of keys. They are told by being 0 here, in
        float64, beside those of their weights.

        Args:
            prefix: of the outputs.
            gradients: official name -> gradient.
        """
        expected = {key for key in self.outputs if key.startswith(prefix)}
        assert expected == {f"{prefix}{name}" for name in gradients}, f"{prefix}: other parameters"
        for name, gradient in gradients.items():
            norm = gradient.double().norm()
            weight = gradients.get(re.sub("bias$", "weight", name), gradient).double().norm()
            if name.endswith("bias") and norm <= IN_FLOAT64 * weight:
                self.open.discard(f"{prefix}{name}")
                share = self.outputs[f"{prefix}{name}"] / weight.clamp(min=1)
                self.note(f"silent {prefix}", share.item(), SILENT)
            else:
                self.compare(f"{prefix}{name}", norm)


def inside(prefix: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Entries whose names begin with ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}


class GivenDraws:
    """What a codebook drew, in the order of its calls."""

    def __init__(self, draws: State) -> None:
        self.normals, self.permutations = (
            [draws[f"{kind}_{at}"] for at in range(len(inside(f"{kind}_", draws)))]
            for kind in ("randn_like", "randperm")
        )

    def normal(self, *shape: int) -> Tensor:
        assert tuple(self.normals[0].shape) == shape, "the noise enters at another place"
        return self.normals.pop(0)

    def permutation(self, size: int) -> Tensor:
        assert len(self.permutations[0]) == size, "the rows are others"
        return self.permutations.pop(0)

    def shared(self) -> GivenDraws:
        return self

    def check_used(self, restarts: bool) -> None:
        """The original draws for restarts even where it makes none."""
        assert not restarts or not (self.normals or self.permutations), "not all of the draws were used"
