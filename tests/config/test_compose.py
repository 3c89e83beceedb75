"""Bases, overrides, interpolation, stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.config.example import GOOD, STAGES, message, sections, write
from vidgen.config import bind, check, compose
from vidgen.config.compose import dump, parse_override
from vidgen.errors import UserError


class TestComposition:
    def test_bases_merge_deeply_and_the_file_itself_wins(self, folder: Path) -> None:
        write("trainer: {max_steps: 1, precision: 32}\nmodel: {name: a, widths: [1, 2]}", "_base_/one.yaml")
        write("trainer: {max_steps: 2}\nlog: {every: 5}", "_base_/two.yaml")
        write("_base_: [../_base_/one.yaml, ../_base_/two.yaml]\nmodel: {widths: [3]}", "m/c.yaml")
        assert sections("m/c.yaml") == {
            "model": {"name": "a", "widths": [3]},
            "trainer": {"max_steps": 2, "precision": 32},
            "log": {"every": 5},
        }

    def test_a_base_may_have_a_base(self, folder: Path) -> None:
        write("seed: 1", "a.yaml")
        write("_base_: a.yaml\ncompile: true", "b.yaml")
        assert sections(write("_base_: b.yaml")) == {"seed": 1, "compile": True}

    def test_bases_in_a_circle(self, folder: Path) -> None:
        write("_base_: b.yaml", "a.yaml")
        write("_base_: a.yaml", "b.yaml")
        with pytest.raises(UserError) as caught:
            compose("a.yaml")
        assert str(caught.value) == "a.yaml: _base_ goes in a circle: a.yaml -> b.yaml -> a.yaml"

    def test_missing_base(self, folder: Path) -> None:
        assert message("_base_: ../gan.yaml\n") == "c.yaml: _base_: no such file: ../gan.yaml"

    def test_base_of_the_wrong_type(self, folder: Path) -> None:
        assert message("_base_: 3") == "c.yaml: _base_: expected a path or a list of paths, got 3"

    def test_overrides_are_typed_as_yaml(self, folder: Path) -> None:
        found = sections(
            write(GOOD),
            "model.rate=1e-4",
            "model.widths=[1,2]",
            "model.first_stage=null",
            "data.part.names=[7]",
            "log={every: 2}",
        )
        assert found["model"] == {
            "name": "tests.config.example.FakeModel",
            "dim_content": 5, "rate": 1e-4, "widths": [1, 2], "first_stage": None,
        }  # fmt: skip
        assert found["data"]["part"] == {"names": [7]}
        assert found["log"] == {"every": 2}

    def test_overrides_reach_into_lists(self, folder: Path) -> None:
        text = GOOD + "loggers:\n  - {class: a.B, name: x}\n"
        assert sections(write(text), "loggers.0.name=y")["loggers"] == [{"class": "a.B", "name": "y"}]
        assert message(text, "loggers.4.name=y") == (
            "loggers.4.name: cannot be set; what stands there in the config has another structure"
        )

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("model.rate", "override 'model.rate': expected key=value"),
            ("x.yaml", "override 'x.yaml': expected key=value; name the config with --config x.yaml"),
            ("=3", "override '=3': expected key=value with a key like model.dim_content"),
            ("model..rate=3", "override 'model..rate=3': expected key=value with a key like model.dim_content"),
            ("model.rate=[1", "override 'model.rate=[1': expected ',' or ']', but got '<stream end>'"),
            ("_base_=x.yaml", "override '_base_=x.yaml': _base_ is read from files only"),
        ],
    )
    def test_overrides_that_make_no_sense(self, folder: Path, override: str, expected: str) -> None:
        assert message(GOOD, override) == expected

    @pytest.mark.parametrize("text", ["1e-4", "1.5E3", "-2e+1", ".5", "1.", "-.inf", "1_000.5"])
    def test_floats_as_everybody_writes_them(self, text: str) -> None:
        assert type(parse_override(f"a={text}")[1]) is float

    @pytest.mark.parametrize("text", ["2020-01-01", "e5", "1e", "1.2.3", "v1e-4", "'1e-4'"])
    def test_what_is_not_a_float_stays_text(self, text: str) -> None:
        assert parse_override(f"a={text}")[1] == text.strip("'")

    def test_interpolation_reads_the_merged_config(self, folder: Path) -> None:
        text = GOOD + "log:\n  every: ${trainer.max_steps}\n"
        assert sections(write(text), "trainer.max_steps=77")["log"] == {"every": 77}

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("${data.frames}", "model.rate: cannot resolve '${data.frames}': no such key"),
            ("${model.rate}", "model.rate: cannot resolve '${model.rate}': it leads back to itself"),
            (
                "${env:HOME}",
                "model.rate: cannot resolve '${env:HOME}': only ${section.key} and ${checkpoint:STAGE} are known",
            ),
            ("${data.root", "model.rate: cannot resolve '${data.root': expected ${section.key}"),
        ],
    )
    def test_interpolations_that_lead_nowhere(self, folder: Path, value: str, expected: str) -> None:
        assert message(GOOD, f"model.rate='{value}'") == expected

    def test_broken_interpolation_in_a_file(self, folder: Path) -> None:
        assert message("model: {name: a, rate: '${data.root'}") == (
            "c.yaml: model.rate: cannot resolve '${data.root': expected ${section.key}"
        )

    def test_interpolation_of_a_value_that_is_still_to_be_given(self, folder: Path) -> None:
        assert message(GOOD, "model.rate=${data.root}", "data.root=???") == (
            "model.rate: cannot resolve '${data.root}': that key has no value yet"
        )

    def test_saved_text_composes_to_the_same(self, folder: Path) -> None:
        text = GOOD + "loggers:\n  - {class: a.B, name: '1e-4', note: '\\${x} 2020-01-01', n: 1e-05}\nema: null\n"
        first = compose(write(text), ["model.rate=1e22"])
        again = compose(write(first.text, "again.yaml"))
        assert again.for_stages() == first.for_stages()
        assert again.text == first.text
        assert first.for_stages()[0][1]["loggers"][0]["note"] == "${x} 2020-01-01"

    def test_dumped_text_that_looks_like_a_float_stays_text(self) -> None:
        assert dump({"a": "1e-4", "b": 1e-4}) == "a: '1e-4'\nb: 0.0001\n"


class TestStages:
    def test_each_stage_merges_over_the_top_level(self, folder: Path) -> None:
        (first, one), (second, two) = compose(write(STAGES)).for_stages()
        assert (first, second) == ("first", "second")
        assert one["model"] == {"name": "tests.config.example.FakeModel", "dim_content": 6}
        assert one["trainer"] == {"max_steps": 20}
        assert two["model"]["dim_content"] == 5
        assert two["seed"] == 3

    def test_an_override_holds_for_every_stage_and_may_name_one(self, folder: Path) -> None:
        config = compose(write(STAGES), ["trainer.max_steps=7", "stages.second.trainer.max_steps=8"])
        assert [stage["trainer"]["max_steps"] for _, stage in config.for_stages()] == [7, 8]

    def test_a_stage_may_read_another(self, folder: Path) -> None:
        config = compose(write(STAGES), ["stages.second.model.dim_content=${stages.first.model.dim_content}"])
        assert config.for_stages()[1][1]["model"]["dim_content"] == 6

    def test_the_checkpoint_of_an_earlier_stage_is_filled_in_when_the_folder_is_known(self, folder: Path) -> None:
        runs = bind(check(compose(write(STAGES))), Path("runs/c"))
        expected = Path("runs/c/first/checkpoints/iteration_00000020.ckpt")
        assert runs[1].model["first_stage"] == expected
        assert runs[1].init_from == expected
        assert runs[0].init_from is None

    def test_saved_text_keeps_stages_and_references(self, folder: Path) -> None:
        first = compose(write(STAGES))
        again = compose(write(first.text, "again.yaml"))
        assert again.for_stages() == first.for_stages()
        assert "${checkpoint:first}" in first.text

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("stages.second.init_from=${checkpoint:frist}",
             "stages.second: ${checkpoint:frist}: no earlier stage is called 'frist'; did you mean 'first'?"),
            ("stages.first.init_from=${checkpoint:second}",
             "stages.first: ${checkpoint:second}: no earlier stage is called 'second'"),
            ("stages.second.modle={}", "stages.second.modle: unknown key; did you mean 'model'?"),
            ("stages.second.model.dim_contnet=3",
             "stages.second.model.dim_contnet: unknown key; did you mean 'dim_content'?"),
            ("model.dim_contnet=3", "model.dim_contnet: unknown key; did you mean 'dim_content'?"),
            ("stages.second=3", "stages.second: expected sections like 'model:', got a int"),
            ("stages=[1]", "stages: expected a name and sections for each stage, got a list"),
            ("stages={a/b: {}}", "stages: 'a/b' cannot name a stage; use letters, digits, '_' and '-'"),
            ("stages.second.trainer.devices=2",
             "stages.second.trainer.devices: differs from stage 'first'; all stages run on the same processes"),
        ],
    )  # fmt: skip
    def test_messages(self, folder: Path, override: str, expected: str) -> None:
        assert message(STAGES, override) == expected
