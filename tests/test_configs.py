"""Every recipe composes, is accepted by the checker, and builds at full width."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vidgen.config import build_model, check, compose

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(path for path in CONFIGS.rglob("*.yaml") if "_base_" not in path.parts)

PARAMETERS = {
    "mocogan/weizmann.yaml": {
        "generator": 3_282_452,
        "image_discriminator": 663_296,
        "video_discriminator": 11_187_968,
    },
    "mocogan/shape_motion.yaml": {
        "generator": 3_249_684,
        "image_discriminator": 663_296,
        "video_discriminator": 11_056_896,
    },
}
"""Counts of the official networks for the papers' settings."""


def name(path: Path) -> str:
    """Path below configs/."""
    return path.relative_to(CONFIGS).as_posix()


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_builds_on_the_meta_device(path: Path, tmp_path: Path) -> None:
    needs_data = "data.root" in path.read_text() or "root:" in path.read_text()
    (tmp_path / "a video").touch()  # the checker only asks that the folder holds something
    runs = check(compose(path, [f"data.root={tmp_path}"] if needs_data else []))
    for run in runs:
        with torch.device("meta"):
            model = build_model(run)
        counts = {
            network: sum(parameter.numel() for parameter in module.parameters())
            for network, module in model.networks().items()
        }
        assert all(counts.values())
        if name(path) in PARAMETERS:
            assert counts == PARAMETERS[name(path)]


def test_every_listed_recipe_exists() -> None:
    assert PARAMETERS.keys() <= {name(path) for path in RECIPES}
