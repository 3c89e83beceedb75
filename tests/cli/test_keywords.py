"""Keywords of a signature, read from words of a command line."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from vidgen.cli.keywords import describe_keywords, parse_keywords, sample_keywords
from vidgen.errors import UserError
from vidgen.models.base import VideoModel


class Keyworded(VideoModel):
    """Takes everything."""

    def sample(  # type: ignore[override]
        self,
        num_videos: int,
        *,
        num_frames: int | None = None,
        prompt: str,
        frames: list[int] | None = None,
        times: tuple[float, ...] = (),
        latents: Tensor | None = None,
        guide: Tensor | float | None = None,
        attributes: list[str] | None = None,
        **more: Any,
    ) -> Tensor:
        """Nothing.

        Args:
            prompt: what to show.
        """
        raise NotImplementedError


class Plain(VideoModel):
    """Takes what every model takes."""


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--prompt", "a cat"], {"prompt": "a cat"}),
        (["--prompt", "3"], {"prompt": "3"}),
        (["--prompt=--x=1"], {"prompt": "--x=1"}),
        (["--prompt", "yes", "--frames", "4"], {"prompt": "yes", "frames": [4]}),
        (["--prompt", "", "--frames", "4", "5"], {"prompt": "", "frames": [4, 5]}),
        (["--prompt", "p", "--frames", "null"], {"prompt": "p", "frames": None}),
        (["--prompt", "p", "--times", "0", "-1.5"], {"prompt": "p", "times": (0.0, -1.5)}),
        (["--prompt", "p", "--guide", "1e-3"], {"prompt": "p", "guide": 0.001}),
        (["--prompt", "p", "--attributes", "a=b@0,c@8"], {"prompt": "p", "attributes": ["a=b@0,c@8"]}),
        (["--prompt", "p", "--attributes", "a=b", "c=3"], {"prompt": "p", "attributes": ["a=b", "c=3"]}),
        (["--prompt", "p", "--attributes", "yes", "3"], {"prompt": "p", "attributes": ["yes", "3"]}),
        (["--prompt", "p", "--attributes", "3"], {"prompt": "p", "attributes": ["3"]}),
        (["--prompt", "p", "--attributes=[a=b, c=3]"], {"prompt": "p", "attributes": ["a=b", "c=3"]}),
    ],
)
def test_words_become_values_of_the_right_type(words, values):
    parsed = parse_keywords(Keyworded, words)
    assert parsed == values
    assert {name: type(value) for name, value in parsed.items()} == {name: type(v) for name, v in values.items()}


def test_a_required_keyword_is_asked_for():
    with pytest.raises(UserError) as error:
        parse_keywords(Keyworded, [])
    assert str(error.value) == "--prompt: missing; this model needs it (expected str)"


def test_what_only_tensors_can_be_given_to_is_no_option():
    assert list(sample_keywords(Keyworded)) == ["prompt", "frames", "times", "guide", "attributes"]


def test_every_keyword_is_described():
    assert describe_keywords(Keyworded).splitlines() == [
        "  --prompt (str, required): what to show.",
        "  --frames (list[int] | None, default None): (not described)",
        "  --times (tuple[float, ...], default ()): (not described)",
        "  --guide (float | None, default None): (not described)",
        "  --attributes (list[str] | None, default None): (not described)",
    ]


def test_a_model_without_keywords_takes_none():
    assert describe_keywords(Plain) == "  none"
    with pytest.raises(UserError) as error:
        parse_keywords(Plain, ["--prompt", "x"])
    assert str(error.value) == "unknown argument '--prompt' (keywords of this model: none)"
