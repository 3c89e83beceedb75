"""How many processes there are, and who averages their gradients."""

from __future__ import annotations

from typing import Any

import pytest
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from tests.contract.running import build
from vidgen.models.base import VideoModel
from vidgen.models.video_vae import VideoVAE
from vidgen.training.lightning import choose_strategy, process_count
from vidgen.training.strategy import AdversarialDDPStrategy


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)


def pretraining() -> VideoModel:
    return VideoVAE(**{**VideoVAE.small_variants()["default"], "pretrain_attribute_steps": 3})


@pytest.mark.parametrize("asked", [{"devices": 2}, {"devices": [0, 1]}, {"devices": 1, "num_nodes": 2}])
@pytest.mark.parametrize("named", [{}, {"strategy": "auto"}, {"strategy": "ddp"}])
def test_who_averages_gradients(asked: dict[str, Any], named: dict[str, Any]) -> None:
    arguments = {"accelerator": "cpu", **asked, **named}
    assert choose_strategy(build("svg", "default"), arguments) == "ddp"
    assert type(choose_strategy(build("tgan", "default"), arguments)) is AdversarialDDPStrategy
    resting = choose_strategy(pretraining(), arguments)
    assert type(resting) is DDPStrategy and resting._ddp_kwargs == {"find_unused_parameters": True}


def test_one_process_averages_nothing_and_other_strategies_are_left_alone() -> None:
    for model in (build("svg", "default"), build("tgan", "default"), pretraining()):
        assert choose_strategy(model, {"accelerator": "cpu", "devices": 1}) == "auto"
        for strategy in ("fsdp", SingleDeviceStrategy("cpu")):
            assert choose_strategy(model, {"devices": 2, "strategy": strategy}) is strategy


def test_a_launcher_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"accelerator": "cpu", "devices": 1}
    assert process_count(arguments) == 1 and process_count({"accelerator": "cpu", "devices": "auto"}) == 1
    assert process_count({"devices": "0,1,2", "num_nodes": 2}) == 6
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "4")
            assert process_count(arguments) == 4 and choose_strategy(build("svg", "default"), arguments) == "ddp"
