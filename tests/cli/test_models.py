"""``vidgen models``: the list, and the description of one model."""

from __future__ import annotations

import re

import pytest

from tests.config.example import FakeModel
from vidgen.cli.main import main
from vidgen.cli.models import describe, table
from vidgen.config.signature import parameters_of, type_name
from vidgen.registry import MODELS


def test_the_list_has_every_model_with_task_stages_and_paper() -> None:
    header, *rows = table().splitlines()
    assert header.split() == ["NAME", "TASK", "STAGES", "PAPER"]
    assert [row.split()[0] for row in rows] == MODELS.names()
    (mocogan,) = (row for row in rows if row.startswith("mocogan "))
    assert re.split(r" {2,}", mocogan)[1:3] == ["unconditional, class_conditional", "-"]
    (tats,) = (row for row in rows if row.startswith("tats "))
    assert "  tats_vqgan, tats, tats_interpolation  " in tats
    assert mocogan.endswith(MODELS.get("mocogan").paper)


@pytest.mark.parametrize("name", ["mocogan"])
def test_a_description_has_every_argument_on_its_line(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["models", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    described = lines[lines.index("arguments of model:") + 1 :]
    parameters = list(parameters_of(MODELS.get(name)).values())
    assert len(described) == len(parameters)
    for line, parameter in zip(described, parameters, strict=True):
        assert line.startswith(f"  {parameter.name} ")
        assert f"  {type_name(parameter.hint)}  " in line
        assert parameter.meaning and line.endswith(parameter.meaning.replace("``", "`"))


def test_word_for_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeModel, "title", "Fake")
    monkeypatch.setattr(FakeModel, "paper", "Nobody: Nothing, arXiv 0000.00000")
    monkeypatch.setattr(FakeModel, "small_variants", classmethod(lambda cls: {"default": {"dim_content": 2}}))
    assert (
        describe("tests.config.example.FakeModel")
        == """\
tests.config.example.FakeModel: Fake
  paper: Nobody: Nothing, arXiv 0000.00000

tasks
  unconditional: trains on video

arguments of model:
  dim_content  int                required   numbers in the content code.
  rate         float              = 0.001    step size.
  first_stage  path | None        = null     checkpoint of another model.
  causal       bool               = false    whether it looks ahead.
  widths       tuple[int, ...]    = [8, 8]   channels of each layer.
  norm         'batch' | 'group'  = 'batch'  kind of normalisation."""
    )
