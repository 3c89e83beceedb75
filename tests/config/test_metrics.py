"""From names of metrics and settings to checked metrics."""

from __future__ import annotations

import pytest

from tests.evaluation.tiny import METRICS, TinyDistance, TinyOrder
from vidgen.config.metrics import build_metrics, check_labels, check_metrics, takes
from vidgen.errors import UserError

TINY = METRICS + "TinyDistance"


def refused(entries: object, **settings: object) -> str:
    with pytest.raises(UserError) as error:
        check_metrics(entries, "eval.metrics", **settings)
    return str(error.value)


def test_names_and_sections_are_checked_and_built():
    sections = check_metrics([TINY, {"name": METRICS + "TinyOrder", "num_frames": 4}], "eval.metrics")
    assert sections == [{"name": TINY}, {"name": METRICS + "TinyOrder", "num_frames": 4}]
    metrics = build_metrics(sections)
    assert [type(metric) for metric in metrics] == [TinyDistance, TinyOrder]
    assert metrics[1].num_frames == 4


def test_values_get_the_type_of_the_signature():
    assert check_metrics([{"name": TINY, "factor": 2}], "m") == [{"name": TINY, "factor": 2.0}]


@pytest.mark.parametrize("entries", [None, [], "fvd", {"name": "fvd"}])
def test_anything_but_a_list_is_refused(entries):
    assert refused(entries).startswith("eval.metrics: expected a list of metrics (known: acd, best_of_n, cdfvd, ")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, "eval.metrics: expected the name of a metric, or name: and its arguments, got 3"),
        (
            {"protocol": "tats"},
            "eval.metrics: expected the name of a metric, or name: and its arguments, got {'protocol': 'tats'}",
        ),
        ({"name": "fvd", "protokol": "tats"}, "fvd.protokol: unknown key; did you mean 'protocol'?"),
        ({"name": "kid", "subsets": "all"}, "kid.subsets: expected int, got 'all' (str)"),
        ("tests.noise_model.SeededNoise", "eval.metrics: 'tests.noise_model.SeededNoise' is not a VideoMetric"),
    ],
)
def test_what_makes_no_metric_is_one_line(entry, message):
    assert refused([entry]) == message


def test_unknown_names_are_guessed():
    assert refused(["fdv"]).startswith("eval.metrics: unknown metric 'fdv'; did you mean 'fvd'? (known: acd, ")


def test_keys_are_named_as_the_user_wrote_them():
    message = refused([{"name": "fvd", "stride": "x"}], key=lambda dotted: f"eval.{dotted}")
    assert message == "eval.fvd.stride: expected int | None, got 'x' (str)"


def test_which_metrics_have_a_setting():
    assert takes("fvd", "protocol")
    assert takes("fid", "weights")
    assert not takes("fid", "protocol")
    assert not takes("kvd", "ddof")


def test_two_values_of_one_name_are_refused():
    with pytest.raises(UserError) as error:
        build_metrics([{"name": TINY}, {"name": TINY, "factor": 2.0}])
    assert str(error.value) == "metric 'tiny_fd' is asked for twice; measure it in two runs"
    check_labels([TinyDistance(), TinyDistance(weights="random")])
