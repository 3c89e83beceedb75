"""What a data set says about itself survives a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace

from vidgen.data.spec import DataSpec

SPEC = DataSpec(3, 64, 16, 25.0, 9, 32, 100, ("walk", "run"), ("size",))


def test_a_spec_survives_plain_values():
    assert DataSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC


def test_values_of_attributes_and_a_width_survive_plain_values():
    spec = replace(SPEC, attribute_names=("size", "mood"), attribute_values=((), ("glad", "sad")), width=96)
    plain = spec.to_dict()
    assert plain["attribute_values"] == [[], ["glad", "sad"]] and plain["width"] == 96
    assert DataSpec.from_dict(json.loads(json.dumps(plain))) == spec


def test_a_spec_of_an_older_version_is_square_and_has_no_values():
    plain = SPEC.to_dict()
    del plain["attribute_values"], plain["width"]
    found = DataSpec.from_dict(plain)
    assert found.attribute_values == () and found.width is None


def test_keys_of_a_newer_version_are_ignored():
    assert DataSpec.from_dict({**SPEC.to_dict(), "audio_rate": 16000}) == SPEC
