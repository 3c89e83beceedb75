"""Numbers may be compared exactly where nothing but what is being compared differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.results import PROTOCOL, metric, save
from vidgen.errors import UserError
from vidgen.evaluation.compare import FREE_FIELDS, compare, flat, shown_apart
from vidgen.evaluation.result import MetricResult

COMPARABLE = "The numbers of each row may be compared."
LONG = "0123456789" * 4


def verdict(folder: Path, *metrics: dict[str, MetricResult]) -> list[str]:
    """What is said below the table of results with these metrics, called a, b, …."""
    paths = [save(folder / f"{chr(97 + number)}.json", **found) for number, found in enumerate(metrics)]
    lines = compare(paths).splitlines()
    return lines[lines.index("") + 1 :]


def of_pair(folder: Path, **changes: Any) -> list[str]:
    return verdict(folder, {"fvd": metric()}, {"fvd": metric(**changes)})


def changed_fields() -> list[str]:
    return [name.replace(".", "__") for name in flat(PROTOCOL)]


def is_free(name: str) -> bool:
    return any(name == free or name.startswith(f"{free}.") for free in FREE_FIELDS)


# --- the rule ---


def test_equal_protocols_may_be_compared(tmp_path):
    assert of_pair(tmp_path) == [COMPARABLE]


@pytest.mark.parametrize("field", changed_fields())
def test_every_field_but_the_free_ones_hinders(tmp_path, field):
    name = field.replace("__", ".")
    found = of_pair(tmp_path, **{field: "other"})
    if is_free(name):
        assert found[0] == COMPARABLE
    else:
        old = flat(PROTOCOL)[name]
        shown = old if isinstance(old, str) else json.dumps(old)
        assert found == [
            "fvd: may not be compared ([1] a | [2] b); these fields differ:",
            f"  {name}: {shown} | other",
        ]


def test_what_is_free():
    free = {name for name in flat(PROTOCOL) if is_free(name)}
    assert free == {
        "extractor.weights.file",
        "real.path",
        "fake.source",
        "fake.path",
        "fake.checkpoint",
        "fake.model",
        "fake.iteration",
        "fake.weights",
        "fake.seed",
        "fake.clips.seed",
        "fake.rounding",
        "real.source",
        "real.num_videos",
        "real.fps",
        "real.compression",
        "software.vidgen",
        "software.torch",
        "device",
    }
    assert {"fake.keywords", "fake.fingerprint", "fake.num_videos"} <= set(FREE_FIELDS)


def test_what_lies_below_a_free_field_is_free(tmp_path):
    assert of_pair(tmp_path, fake__keywords={"truncation": 0.7, "more": {"deep": 1}}) == [COMPARABLE]


def test_a_name_that_only_begins_like_a_free_one_is_not_free(tmp_path):
    assert of_pair(tmp_path, fake__seeded=1)[1:] == ["  fake.seeded: none | 1"]


def test_unknown_fields_hinder(tmp_path):
    assert of_pair(tmp_path, extractor__new={"deep": [1]})[1:] == ["  extractor.new.deep: none | [1]"]


def test_an_empty_field_is_a_missing_one(tmp_path):
    assert of_pair(tmp_path, fake__new=None, extractor__new={}) == [COMPARABLE]


def test_numbers_are_compared_as_numbers(tmp_path):
    assert of_pair(tmp_path, real__fps=25, stride=1.0, real__resolution=[64.0, 64]) == [COMPARABLE]


def test_videos_that_a_value_ignores_do_not_hinder(tmp_path):
    first = metric(sides=["fake"])
    assert verdict(tmp_path, {"is": first}, {"is": metric(sides=["fake"], real__fingerprint="other")}) == [COMPARABLE]
    found = verdict(tmp_path, {"is": first}, {"is": metric(sides=["fake"], fake__num_clips=5)})
    assert found[1:] == ["  fake.num_clips: 2048 | 5"]


def test_random_weights_never_share_a_row_with_others(tmp_path):
    names = {"fvd": metric(), "fvd_random_i3d": metric()}
    paths = [save(tmp_path / f"{name}.json", **{name: found}) for name, found in names.items()]
    assert compare(paths).splitlines() == [
        "metric          fvd      fvd_random_i3d",
        "fvd             100.000  -",
        "fvd_random_i3d  -        100.000",
        "",
        "Nothing may be compared: no metric is in two of the results.",
    ]


# --- what is said ---


def test_numbers_stand_side_by_side(tmp_path):
    a = save(tmp_path / "a.json", fvd=metric(123.4567), kvd=metric(1.5, {"std": 0.25}))
    b = save(tmp_path / "b.json", fvd=metric(99.0), fid=metric(7.0))
    assert compare([a, b]).splitlines() == [
        "metric  a                   b",
        "fvd     123.457             99.0000",
        "kvd     1.50000 ± 0.250000  -",
        "fid     -                   7.00000",
        "",
        COMPARABLE,
    ]


def test_numbers_that_may_not_be_compared_stand_in_rows_of_their_own(tmp_path):
    files = {"a": metric(1.0), "b": metric(2.0, num_frames=128), "c": metric(3.0)}
    paths = [save(tmp_path / f"{name}.json", fvd=found) for name, found in files.items()]
    assert compare(paths).splitlines() == [
        "metric   a        b        c",
        "fvd [1]  1.00000  -        3.00000",
        "fvd [2]  -        2.00000  -",
        "",
        "fvd: may be compared only within a group ([1] a, c | [2] b); these fields differ:",
        "  num_frames: 16 | 128",
    ]


def test_metrics_that_the_same_fields_keep_apart_are_told_of_together(tmp_path):
    first = {"fvd": metric(), "kvd": metric(), "fid": metric(), "is": metric()}
    second = {
        "fvd": metric(stride=2),
        "kvd": metric(stride=2),
        "fid": metric(),
        "is": metric(covariance_denominator="n-1"),
    }
    assert verdict(tmp_path, first, second) == [
        "fid: may be compared.",
        "fvd, kvd: may not be compared ([1] a | [2] b); these fields differ:",
        "  stride: 1 | 2",
        "is: may not be compared ([1] a | [2] b); these fields differ:",
        "  covariance_denominator: n | n-1",
    ]


def test_all_groups_are_shown_for_each_field(tmp_path):
    found = [metric(), metric(stride=2), metric(stride=2, num_frames=9), metric(stride=2)]
    assert verdict(tmp_path, *({"fvd": one} for one in found))[1:] == [
        "  num_frames: 16 | 16 | 9",
        "  stride: 1 | 2 | 2",
    ]


def test_a_metric_of_a_single_file_needs_no_word(tmp_path):
    assert verdict(tmp_path, {"fvd": metric(), "fid": metric()}, {"fvd": metric(), "kvd": metric()}) == [COMPARABLE]


def test_other_software_is_noted_and_hinders_nothing(tmp_path):
    found = of_pair(tmp_path, software__torch="2.9.0", device="cuda")
    assert found == [
        COMPARABLE,
        "note: software.torch differs (2.8.0 | 2.9.0), which hinders no comparison",
        "note: device differs (cpu | cuda), which hinders no comparison",
    ]


def test_a_note_is_said_once_for_all_metrics(tmp_path):
    other = metric(software__torch="2.9.0")
    assert len(verdict(tmp_path, {"fvd": metric(), "kvd": metric()}, {"fvd": other, "kvd": other})) == 2


def test_software_of_numbers_that_may_not_be_compared_anyway_is_not_noted(tmp_path):
    assert of_pair(tmp_path, software__torch="2.9.0", stride=2)[1:] == ["  stride: 1 | 2"]


def test_warnings_are_repeated_with_whose_they_are(tmp_path):
    a = save(tmp_path / "a.json", warnings=("few videos", "files twice"), fvd=metric())
    b = save(tmp_path / "b.json", warnings=("few videos",), fvd=metric())
    assert compare([a, b]).splitlines()[-2:] == ["warning: few videos", "warning (a): files twice"]


@pytest.mark.parametrize(
    "values, shown",
    [
        (["a", None, 3, 0.5, [64, 64], True], ("a", "none", "3", "0.5", "[64, 64]", "true")),
        ([LONG, "b"], (LONG[:31] + "…", "b")),
        ([LONG + "ab", LONG + "cd"], ("…" + LONG[-8:] + "ab", "…" + LONG[-8:] + "cd")),
        (["x" * 32, "y" * 32], ("x" * 32, "y" * 32)),
    ],
)
def test_long_values_are_shortened_to_what_differs(values, shown):
    assert shown_apart(values) == shown


def test_hostile_names_do_not_steer_the_terminal(tmp_path):
    paths = [save(tmp_path / f"{name}.json", **{"f\x1b[2J": metric()}) for name in ("a\nb", "c\x1b]0;x\x07")]
    found = compare(paths)
    assert "\x1b" not in found and "\x07" not in found and len(found.splitlines()) == 4


# --- files ---


@pytest.mark.parametrize("places", [["a", "b"], ["x/a", "y/b"], ["x/a", "y/a"], ["x/run/a", "y/run/a", "y/run/b"]])
def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path, places):
    paths = [save(tmp_path / f"{place}.json", fvd=metric()) for place in places]
    wanted = ["a", "b"] if places[-1] == "y/b" else places
    assert compare(paths).splitlines()[0].split() == ["metric", *wanted]


def test_files_that_only_the_ending_tells_apart_keep_it(tmp_path):
    paths = [save(tmp_path / name, fvd=metric()) for name in ("a", "a.json")]
    assert compare(paths).splitlines()[0].split() == ["metric", "a", "a.json"]


def test_a_file_given_twice_counts_once(tmp_path):
    a, b = (save(tmp_path / f"{name}.json", fvd=metric()) for name in "ab")
    (tmp_path / "folder").mkdir()
    assert compare([a, b, tmp_path / "folder" / ".." / "a.json"]) == compare([a, b])


@pytest.mark.parametrize("times, told", [(0, 0), (1, 1), (2, 1)])
def test_fewer_than_two_files_are_refused(tmp_path, times, told):
    path = save(tmp_path / "a.json", fvd=metric())
    with pytest.raises(UserError) as refused:
        compare([path] * times)
    assert str(refused.value) == (
        f"eval compare: needs two or more different results, got {told}; give more JSON files"
    )


def test_samples_are_not_read(tmp_path):
    paths = [save(tmp_path / f"{name}.json", fvd=metric()) for name in "ab"]
    (tmp_path / "a.samples.npz").write_bytes(b"damaged")
    assert compare(paths).endswith(COMPARABLE)


def test_results_without_metrics_have_nothing_to_compare(tmp_path):
    assert verdict(tmp_path, {}, {}) == ["Nothing may be compared: no metric is in two of the results."]


def test_protocols_that_are_not_as_expected_are_compared_all_the_same(tmp_path):
    odd = MetricResult(1.0, {}, {"real": "text", "fake": [1], "sides": 3, "extractor": {"weights": "x"}})
    assert verdict(tmp_path, {"fvd": odd}, {"fvd": odd}) == [COMPARABLE]
