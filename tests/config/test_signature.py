"""Signatures, lossless conversions and names of types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from torch import nn

from tests.config.example import FakeModel
from vidgen.config.signature import Mismatch, convert, parameters_of, type_name


class TestSignatures:
    def test_parameters_of_bases_are_found_with_their_meaning(self) -> None:
        found = parameters_of(FakeModel)
        assert list(found) == ["dim_content", "rate", "first_stage", "causal", "widths", "norm"]
        assert found["dim_content"].required and not found["rate"].required
        assert found["dim_content"].meaning == "numbers in the content code."
        assert found["widths"].meaning == "channels of each layer."
        assert found["norm"].hint == Literal["batch", "group"]

    @pytest.mark.parametrize(
        ("value", "hint", "expected"),
        [
            (3, float, 3.0),
            (3, int | float, 3),
            (3, float | None, 3.0),
            (None, float | None, None),
            ([1, 2], tuple[int, int], (1, 2)),
            ([1, 2], tuple[float, ...], (1.0, 2.0)),
            ([1, "a"], Sequence[int | str], [1, "a"]),
            ([[1], [2]], list[tuple[int, ...]], [(1,), (2,)]),
            ({"a": 1}, dict[str, float], {"a": 1.0}),
            ("x", Path, Path("x")),
            ("x", str | Path, "x"),
            ("x", Path | str, "x"),
            ({"a": [None]}, Any, {"a": [None]}),
            (16, Literal[16, "16"], 16),
        ],
    )
    def test_lossless_conversions(self, value: Any, hint: Any, expected: Any) -> None:
        found = convert(value, hint)
        assert found == expected and type(found) is type(expected)

    @pytest.mark.parametrize(
        ("value", "hint"),
        [
            (1, bool), (True, int), (True, float), (1.0, int), ("1", int), (1, str), (None, int), ([1], int),
            ([1, 2, 3], tuple[int, int]), ("ab", Sequence[str]), ("ab", list[str]),
            ([1], dict), ({1: 2}, dict[str, int]),
            (True, Literal[1]), ("x", nn.Module), (3, Path),
        ],
    )  # fmt: skip
    def test_nothing_else_is_converted(self, value: Any, hint: Any) -> None:
        with pytest.raises(Mismatch):
            convert(value, hint)

    @pytest.mark.parametrize(
        ("hint", "expected"),
        [
            (int, "int"), (float | None, "float | None"), (tuple[int, ...], "tuple[int, ...]"), (Any, "any"),
            (Literal["a", 3], "'a' | 3"), (Path | None, "path | None"), (dict[str, list[int]], "dict[str, list[int]]"),
        ],
    )  # fmt: skip
    def test_type_names(self, hint: Any, expected: str) -> None:
        assert type_name(hint) == expected
