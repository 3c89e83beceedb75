"""What a data set says about itself survives a checkpoint."""

from __future__ import annotations

import json

from vidgen.data.spec import DataSpec

SPEC = DataSpec(3, 64, 16, 25.0, 9, 32, 100, ("walk", "run"), ("size",))


def test_a_spec_survives_plain_values():
    assert DataSpec.from_dict(json.loads(json.dumps(SPEC.to_dict()))) == SPEC


def test_keys_of_a_newer_version_are_ignored():
    assert DataSpec.from_dict({**SPEC.to_dict(), "audio_rate": 16000}) == SPEC
