"""What later stages of a chain would refuse is said before the first of them is trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vidgen.config import RunConfig, build_data, build_model
from vidgen.config.run import final_checkpoint
from vidgen.errors import UserError
from vidgen.registry import MODELS
from vidgen.training.encoded import check_kind


def check_later_stages(stages: Sequence[RunConfig], first: int, out: Path) -> None:
    """Build the stages after one without weights, from descriptions of those before, and check their data.

    Only models that name the chain that they belong to (:attr:`VideoModel.stages`) take a description in place of a
    checkpoint; others are not looked at.

    Args:
        stages: all of them in order, with every path in place.
        first: number of the one that is trained first.
        out: the run folder.

    Raises:
        UserError: what a stage would raise when its turn comes; the message names the stage.
    """
    descriptions: dict[str, dict[str, Any]] = {}
    for number, run in enumerate(stages):
        name = run.model["name"]
        if name not in MODELS.get(name).stages:
            continue
        model = {key: descriptions.get(str(value), value) for key, value in run.model.items()}
        path = str(final_checkpoint(run, out))
        descriptions[path] = {"model": name, "model_args": {key: model[key] for key in model if key != "name"}}
        if number > first and model != run.model and not any(path in str(run.data) for path in descriptions):
            try:
                _check_stage(run, model)
            except UserError as error:
                raise UserError(f"stage {run.stage}: {error}") from None


def _check_stage(run: RunConfig, model: dict[str, Any]) -> None:
    with torch.device("meta"):
        built = build_model(replace(run, model=model))
    with _silent():
        spec = build_data(run, 0).spec
    built.check_data(spec)
    check_kind(built, spec)


@contextmanager
def _silent() -> Iterator[None]:
    """Say nothing about files that cannot be used; the stage itself will."""
    logger = logging.getLogger("vidgen.data")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
