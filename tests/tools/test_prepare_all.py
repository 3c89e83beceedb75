"""What every preparation tool keeps to."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import preparation
from preparation import main

TOOLS = Path(preparation.__file__).parent
NAMES = sorted(path.stem for path in TOOLS.glob("prepare_*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_the_download_itself_is_no_output(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tool = importlib.import_module(name)
    assert main(tool.build_parser(), tool.prepare, ["--raw", str(tmp_path), "--out", f"{tmp_path}/x/.."]) == 2
    assert capsys.readouterr() == (
        "",
        f"{name}: error: --out '{tmp_path}/x/..' is the raw download itself; choose another folder\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [*NAMES, "make_digits"])
def test_the_examples_are_understood_and_do_not_share_an_output(name: str) -> None:
    tool = importlib.import_module(name)
    examples = re.findall(r"^    python tools/\w+\.py (.*)$", tool.__doc__.replace("\\\n", " "), re.MULTILINE)
    parsed = [vars(tool.build_parser().parse_args(shlex.split(example))) for example in examples]
    assert len(parsed) >= 2 or name == "prepare_mnist"
    begun: dict[Path, dict[str, object]] = {}
    for options in parsed:
        kept = {key: value for key, value in options.items() if key not in ("raw", "out", "actions", "parts", "how")}
        assert begun.setdefault(options["out"], kept) == kept
