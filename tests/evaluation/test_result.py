"""What was measured survives the way into files, and what is no result is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.evaluation.results import metric, protocol
from vidgen.errors import UserError
from vidgen.evaluation.result import (
    Evaluation,
    MetricResult,
    Samples,
    aligned,
    as_number,
    samples_path,
    shown_number,
    shown_value,
    sides_of,
)


def video(shape: tuple[int, ...] = (3, 4, 5, 3)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def evaluation(**settings: Any) -> Evaluation:
    metrics = {
        "fvd": MetricResult(12.5, {"windows": [{"first_frame": 0, "value": 1.5}]}, {"metric": "fvd"}, ("fvd: few",)),
        "kvd": MetricResult(0.25, {"std": 0.125}, {"metric": "kvd"}, ()),
    }
    shared = {"real": {"num_clips": 7}, "fake": {"num_clips": 9}, "software": {"torch": "2"}}
    return Evaluation(metrics, shared, ("files twice",), "vidgen eval x", "2025-01-02T03:04:05Z", **settings)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        Evaluation.load(path)
    return str(refused.value)


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def entry(**fields: Any) -> dict[str, Any]:
    return {"format": 1, "metrics": {"fvd": {"value": 1.0, "protocol": {}, **fields}}}


# --- the file ---


def test_the_file_holds_values_protocols_and_warnings(tmp_path):
    evaluation().save(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["format"] == 1 and content["command"] == "vidgen eval x"
    assert content["created"] == "2025-01-02T03:04:05Z"
    assert content["warnings"] == ["files twice", "fvd: few"]
    shared = {"real": {"num_clips": 7}, "fake": {"num_clips": 9}, "software": {"torch": "2"}}
    assert content["metrics"] == {
        "fvd": {
            "value": 12.5,
            "details": {"windows": [{"first_frame": 0, "value": 1.5}]},
            "protocol": {"metric": "fvd", **shared},
            "warnings": ["files twice", "fvd: few"],
        },
        "kvd": {
            "value": 0.25,
            "details": {"std": 0.125},
            "protocol": {"metric": "kvd", **shared},
            "warnings": ["files twice"],
        },
    }


def test_a_file_that_is_read_and_saved_again_is_the_same(tmp_path):
    evaluation().save(tmp_path / "a.json")
    Evaluation.load(tmp_path / "a.json").save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_warning_stays_with_the_value_that_it_is_about(tmp_path):
    evaluation().save(tmp_path / "a.json")
    loaded = Evaluation.load(tmp_path / "a.json")
    assert loaded.warnings == ("files twice",)
    assert [one.warnings for one in loaded.metrics.values()] == [("fvd: few",), ()]


def test_a_value_that_is_no_number_leaves_everything_as_it_was(tmp_path):
    evaluation(samples=Samples((video(),))).save(tmp_path / "a.json")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError):
        Evaluation({"fvd": MetricResult(float("nan"))}).save(tmp_path / "a.json")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- samples ---


def test_samples_lie_beside_the_file_and_come_back(tmp_path):
    real = tuple(video((2, 4, 4, 3)) + n for n in range(11))  # more than one digit
    fake = (video((5, 3, 7, 1)),)
    assert evaluation(samples=Samples(real, fake)).save(tmp_path / "a.json") == [
        tmp_path / "a.json",
        tmp_path / "a.samples.npz",
    ]
    loaded = Evaluation.load(tmp_path / "a.json").samples
    assert len(loaded.real) == 11 and all(map(np.array_equal, loaded.real, real))
    assert len(loaded.fake) == 1 and np.array_equal(loaded.fake[0], fake[0])


def test_samples_can_be_left_where_they_are(tmp_path):
    evaluation().save(tmp_path / "a.json")
    (tmp_path / "a.samples.npz").write_bytes(b"damaged")
    assert Evaluation.load(tmp_path / "a.json", samples=False).samples == Samples()


def test_a_result_without_samples_does_not_inherit_those_of_another(tmp_path):
    evaluation(samples=Samples((video(),))).save(tmp_path / "a.json")
    assert evaluation().save(tmp_path / "a.json") == [tmp_path / "a.json"]
    assert Evaluation.load(tmp_path / "a.json").samples == Samples()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_samples_are_named_after_the_result():
    assert samples_path(Path("x/a.json")) == Path("x/a.samples.npz")
    assert samples_path(Path("x/a.b")) == Path("x/a.b.samples.npz")


def cut_off(path: Path) -> None:
    np.savez_compressed(path, real_0=video())
    path.write_bytes(path.read_bytes()[:-30])


def changed_within(path: Path) -> None:
    np.savez_compressed(path, real_0=np.zeros((50, 64, 64, 3), np.uint8))
    data = bytearray(path.read_bytes())
    data[80:120] = b"\xff" * 40  # no deflate block begins so
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "damage",
    [
        cut_off,
        changed_within,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no zip at all"),
        lambda path: np.save(path.open("wb"), video()),
        lambda path: np.savez(path, real_0=np.array([{}], dtype=object)),
    ],
)
def test_damaged_samples_are_named(tmp_path, damage):
    path = evaluation().save(tmp_path / "a.json")[0]
    damage(tmp_path / "a.samples.npz")
    message = refusal(path)
    assert message.startswith(f"{tmp_path}/a.samples.npz: damaged samples (")
    assert message.endswith("); remove the file or evaluate anew")


@pytest.mark.parametrize(
    "array, told",
    [
        (np.zeros((2, 4, 4, 3)), "float64 (2, 4, 4, 3)"),
        (np.zeros((4, 4, 3), np.uint8), "uint8 (4, 4, 3)"),
        (np.zeros((2, 4, 4, 2), np.uint8), "uint8 (2, 4, 4, 2)"),
        (np.zeros((0, 4, 4, 3), np.uint8), "uint8 (0, 4, 4, 3)"),
    ],
)
def test_samples_that_are_no_videos_are_refused(tmp_path, array, told):
    path = evaluation().save(tmp_path / "a.json")[0]
    np.savez(tmp_path / "a.samples.npz", fake_0=array)
    assert refusal(path) == (
        f"{tmp_path}/a.samples.npz: damaged samples (a fake one is {told}, not uint8 (T, H, W, 1 or 3));"
        " remove the file or evaluate anew"
    )


# --- what is refused ---


def test_a_missing_file(tmp_path):
    assert refusal(tmp_path / "a.json") == (
        f"{tmp_path}/a.json: no such file; `vidgen eval … --out FILE.json` writes one"
    )


def test_a_folder(tmp_path):
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000], ids=["empty", "cut", "bytes", "deep"])
def test_what_is_no_json(tmp_path, data):
    (tmp_path / "a.json").write_bytes(data)
    assert refusal(tmp_path / "a.json") == f"{tmp_path}/a.json: not a result of vidgen eval (it is no JSON)"


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"format": 1},
        {"format": 1, "metrics": [1]},
        {"format": 1, "metrics": {"fvd": 3}},
        {"format": 1, "metrics": {"fvd": {"value": 1.0}}},
        entry(value="1"),
        entry(value=True),
        entry(value=None),
        entry(value=10**400),
        '{"format": 1, "metrics": {"fvd": {"value": 1e999, "protocol": {}}}}',
        '{"format": 1, "metrics": {"fvd": {"value": NaN, "protocol": {}}}}',
        entry(protocol=[]),
        entry(details=[]),
        entry(warnings="text"),
        entry(warnings=[1]),
        {**entry(), "warnings": "text"},
        {**entry(), "protocol": 1},
    ],
)
def test_json_that_is_no_result(tmp_path, content):
    path = written(tmp_path / "a.json", content)
    assert refusal(path) == f"{path}: not a result of vidgen eval (it has no metrics with value and protocol)"


def test_another_format(tmp_path):
    path = written(tmp_path / "a.json", {"format": 2, "metrics": {}})
    assert refusal(path) == f"{path}: result format 2, this vidgen reads 1; update vidgen"


def test_what_a_newer_minor_version_adds_is_no_hindrance(tmp_path):
    path = written(tmp_path / "a.json", {**entry(extra=1), "extra": {}})
    assert Evaluation.load(path).metrics == {"fvd": MetricResult(1.0)}


# --- the table ---


def test_the_table_shows_values_counts_and_warnings():
    rows = {"fvd": MetricResult(123.456789, {}, {"protocol": "styleganv"}), "is": MetricResult(5, {"std": 0.5}, {})}
    shared = {"real": {"num_clips": 2048}, "fake": {"num_clips": 16}}
    assert Evaluation(rows, shared, ("few videos",)).table().splitlines() == [
        "metric  value               protocol   real  fake",
        "fvd     123.457             styleganv  2048  16",
        "is      5.00000 ± 0.500000             2048  16",
        "warning: few videos",
    ]


def test_the_table_counts_only_videos_that_a_value_depends_on():
    own = {"sides": ["fake"], "real": {"num_clips": 5}, "fake": {"num_clips": 6}}
    assert Evaluation({"is": MetricResult(1.5, {}, own)}).table().splitlines() == [
        "metric  value    fake",
        "is      1.50000  6",
    ]


def test_characters_that_steer_terminals_do_not_reach_the_table():
    found = Evaluation({"f\x1b[31m": metric()}, {}, ("a\nb",)).table()
    assert "\x1b" not in found and found.endswith("warning: a�b")


def test_empty_columns_are_left_out():
    assert aligned([("a", "b", "c"), ("1", "", "333"), ("22", "", "")]) == ["a   c", "1   333", "22"]


@pytest.mark.parametrize(
    "value, text",
    [
        (0.0, "0"),
        (-0.0, "0"),
        (123.456789, "123.457"),
        (-0.00123456789, "-0.00123457"),
        (0.0001, "0.000100000"),
        (0.00009, "9.00000e-05"),
        (123456789.4, "123456789"),
        (1e9, "1.00000e+09"),
    ],
)
def test_six_digits_are_shown(value, text):
    assert shown_number(value) == text


def test_a_deviation_that_is_no_number_is_not_shown():
    assert shown_value(MetricResult(2.0, {"std": "0.5"})) == "2.00000"


def test_only_finite_numbers_are_numbers():
    assert [as_number(value) for value in (1, 2.5, True, "1", None, float("inf"), 10**400)] == [1.0, 2.5] + [None] * 5


def test_values_depend_on_both_sides_unless_told_otherwise():
    assert [sides_of(told) for told in ({}, {"sides": ["fake"]}, {"sides": 3}, protocol())] == [
        ["real", "fake"],
        ["fake"],
        ["real", "fake"],
        ["real", "fake"],
    ]
