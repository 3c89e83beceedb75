"""A chain of stages: one file holds them all, what was trained before stays as it was, and refusals in plain words."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import vidgen
from tests.contract.running import train, weights
from tests.models.watching import enliven
from vidgen.checkpoint import describe_model, write_checkpoint
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.export import export_checkpoint
from vidgen.models.base import VideoModel
from vidgen.models.stages import fill, fingerprint, open_stage
from vidgen.models.tats.interpolation import TATSInterpolation
from vidgen.models.tats.transformer import TATS
from vidgen.models.tats.vqgan import TATSVQGAN
from vidgen.training.fit import check_resumable

FIRST = {**TATSVQGAN.small_variants()["default"], "resolution": 8, "num_frames": 4, "n_codes": 11}
SIZES = {"resolution": 8, "num_frames": 8, "n_layer": 1, "n_head": 2, "n_embd": 8}
KEYS = {**SIZES, "num_frames": 16, "latent_stride": 2}
GAP = {**SIZES, "num_frames": 6, "gap": 2}


def save(model: VideoModel, path: Path, /, **change: Any) -> Path:
    """Write a checkpoint; ``change`` replaces parts of its description."""
    about = {key: value for key, value in {**describe_model(model), **change}.items() if value is not ...}
    write_checkpoint(path, {"vidgen": about, "state_dict": model.state_dict()})
    return path


def first_stage(seed: int = 0) -> TATSVQGAN:
    """One that was trained, as far as it says."""
    torch.manual_seed(seed)
    model = enliven(TATSVQGAN(**FIRST), 1.0)
    model.autoencoder.codebook.initialised.fill_(True)
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(first_stage(), tmp_path / "first.ckpt")


def refusal(build: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        build()
    return str(error.value)


# The chain -----------------------------------------------------------------------------------------------------------


def test_one_file_holds_the_chain(tmp_path: Path) -> None:
    torch.manual_seed(0)
    coder = TATSVQGAN(**FIRST)
    train(coder, 2)
    first = save(coder, tmp_path / "first.ckpt")
    before = {key: value for key, value in weights(coder).items() if key.startswith("autoencoder.")}
    model = TATS(first_stage=first, **SIZES)
    train(model, 2)
    second = save(model, tmp_path / "second.ckpt")
    first.unlink()
    loaded = vidgen.load(second)
    assert isinstance(loaded, TATS) and loaded.init_args == model.init_args
    assert str(first) not in str(torch.load(second, weights_only=True)["vidgen"]), "no path is left"
    for key, value in before.items():
        assert torch.equal(loaded.state_dict()[key.replace("autoencoder.", "first_stage.")], value), key
    video = model.example_batch(3)["video"]
    assert torch.equal(loaded.first_stage.encode(video), coder.eval().encode(video))
    assert torch.equal(loaded.sample(2, seed=4), model.eval().sample(2, seed=4))
    loaded.check_data(spec(8))


def test_an_exported_folder_is_a_stage(path: Path, tmp_path: Path) -> None:
    folder = export_checkpoint(path, tmp_path / "exported")
    found, expected = (open_stage("first_stage", where, "tats_vqgan") for where in (folder, path))
    assert found.description == expected.description and found.arguments == expected.arguments
    a, b = (TATS(first_stage=where, **SIZES).first_stage.state_dict() for where in (folder, path))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_is_not_resumed_with_another_first_stage(path: Path, tmp_path: Path) -> None:
    model = TATS(first_stage=path, **SIZES)
    train(model, 2, folder=tmp_path)
    last = tmp_path / "iteration_00000002.ckpt"
    assert check_resumable(last, TATS(first_stage=path, **SIZES))["model"] == "tats"
    other = save(first_stage(seed=1), tmp_path / "other.ckpt")
    message = f"model.first_stage: is another one than {last} was trained with; to resume keep it"
    assert refusal(lambda: check_resumable(last, TATS(first_stage=other, **SIZES))) == message


def test_one_file_holds_three_stages(path: Path, tmp_path: Path) -> None:
    keys = save(TATS(first_stage=path, **KEYS), tmp_path / "keys.ckpt")
    model = enliven(TATSInterpolation(first_stage=path, keys=keys, **GAP), 1.0).eval()
    third = save(model, tmp_path / "third.ckpt")
    expected = model.sample(2, num_frames=14)
    path.unlink()
    keys.unlink()
    loaded = vidgen.load(third)
    assert torch.equal(loaded.sample(2, num_frames=14), expected)
    names = {key.split(".")[0] for key in loaded.state_dict()}
    assert names == {"first_stage", "transformer", "key_model"}, "nothing is held twice"
    without = TATSInterpolation(first_stage=loaded.init_args["first_stage"], **GAP)
    assert {key.split(".")[0] for key in without.state_dict()} == {"first_stage", "transformer"}
    assert refusal(lambda: without.sample(1)) == (
        "tats_interpolation: has no key frames to fill; train it with model.keys"
    )


def test_earlier_stages_stay_bit_for_bit_in_eval_mode(path: Path, tmp_path: Path) -> None:
    keys = save(enliven(TATS(first_stage=path, **KEYS), 1.0), tmp_path / "keys.ckpt")
    model = TATSInterpolation(first_stage=path, keys=keys, **GAP)
    assert model.key_model is not None
    start = weights(model)
    model.train()
    assert model.transformer.training
    train(model, 2)
    end = weights(model)
    for key, value in start.items():
        if not key.startswith("transformer."):
            assert torch.equal(end[key], value), key
    assert not torch.equal(end["transformer.head.weight"], start["transformer.head.weight"])
    for part in (model.first_stage, model.key_model):
        assert not any(module.training for module in part.modules())
        assert not any(parameter.requires_grad for parameter in part.parameters())
    owned = {id(p) for group in model.build_optimizer().param_groups for p in group["params"]}
    assert owned == {id(p) for p in model.transformer.parameters()}
    assert set(model.networks()) == {"transformer"}
    assert set(model.parameters_without_gradient) == {"first_stage.*", "key_model.*"}
    ignored = set(model._ddp_params_and_buffers_to_ignore)
    assert ignored == {key for key in start if not key.startswith("transformer.")}


def test_what_is_kept_of_a_stage(path: Path) -> None:
    earlier = open_stage("first_stage", path, "tats_vqgan")
    coder = first_stage()
    assert earlier.model is TATSVQGAN and earlier.arguments == coder.init_args and earlier.weights is not None
    assert earlier.description == {
        "model": "tats_vqgan",
        "model_args": coder.init_args,
        "weights": fingerprint(coder.state_dict()),
    }
    again = open_stage("first_stage", earlier.description, "tats_vqgan")
    assert again.description == earlier.description and again.weights is None
    model = TATS(first_stage=path, **SIZES)
    assert not any(isinstance(value, dict) and "state_dict" in value for value in vars(model).values())
    assert not any(isinstance(value, tuple) and hasattr(value, "weights") for value in vars(model).values()), (
        "weights of critics stay in memory"
    )


def test_averaged_weights_are_taken_and_new_arguments_have_their_defaults(tmp_path: Path) -> None:
    coder = first_stage()
    about = describe_model(coder)
    del about["model_args"]["disc_loss"]
    key = "autoencoder.project.bias"
    average = {key: coder.state_dict()[key] + 1}
    write_checkpoint(tmp_path / "a.ckpt", {"vidgen": about, "state_dict": coder.state_dict(), "ema": average})
    model = TATS(first_stage=tmp_path / "a.ckpt", **SIZES)
    assert torch.equal(model.first_stage.project.bias, average[key])
    assert model.init_args["first_stage"]["model_args"]["disc_loss"] == "hinge"


def test_fingerprint_is_of_names_types_shapes_and_numbers() -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.tensor(True)}
    found = [
        fingerprint(each)
        for each in (
            state,
            {**state, "a": torch.zeros(3, 2)},
            {**state, "a": torch.zeros(2, 3, dtype=torch.int32)},
            {**state, "b": torch.tensor(False)},
            {"a": state["a"], "c": state["b"]},
            {"a": state["a"]},
        )
    ]
    assert len(set(found)) == 6 and found[0] == fingerprint(dict(reversed(state.items())))
    assert fingerprint({"a": torch.zeros(4, 6)[::2, ::2].bfloat16()}) == fingerprint(
        {"a": torch.zeros(2, 3).bfloat16()}
    )


# Refusals ------------------------------------------------------------------------------------------------------------


class Hostile:
    """Would run something when it is read."""

    def __reduce__(self) -> Any:
        return (print, ("harm",))


def test_files_that_are_no_first_stage(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(name: str) -> str:
        return refusal(lambda: TATS(first_stage=tmp_path / name, **SIZES)).replace(f"{tmp_path}/", "")

    assert told("none.ckpt") == "none.ckpt: no such checkpoint"
    (tmp_path / "text.ckpt").write_text("hello")
    assert told("text.ckpt") == "text.ckpt: unreadable checkpoint (damaged, cut short or of another kind)"
    (tmp_path / "hostile.ckpt").write_bytes(pickle.dumps({"state_dict": Hostile()}, 2))
    assert told("hostile.ckpt").startswith("hostile.ckpt: not a vidgen checkpoint (it holds more than tensors")
    (tmp_path / "cut.ckpt").write_bytes(path.read_bytes()[:-500])
    assert told("cut.ckpt") == "cut.ckpt: unreadable checkpoint (damaged, cut short or of another kind)"
    save(TATS(first_stage=path, **SIZES), tmp_path / "second.ckpt")
    assert told("second.ckpt") == "model.first_stage: second.ckpt holds a 'tats', needed is a 'tats_vqgan'"
    save(first_stage(), tmp_path / "nameless.ckpt", model=...)
    assert told("nameless.ckpt") == "model.first_stage: nameless.ckpt holds a None, needed is a 'tats_vqgan'"
    other = "has other arguments than a 'tats_vqgan' takes; update vidgen"
    for number, arguments in enumerate((..., 3, {**FIRST, "colour": 1}, {1: 2})):
        save(first_stage(), tmp_path / f"{number}.ckpt", model_args=arguments)
        assert told(f"{number}.ckpt") == f"model.first_stage: {number}.ckpt {other}"
    save(first_stage(), tmp_path / "wider.ckpt", model_args={**first_stage().init_args, "n_hiddens": 4})
    assert told("wider.ckpt") == "model.first_stage: its checkpoint's weights are not those of its arguments"
    assert capsys.readouterr().out == "", "nothing was executed"


def test_descriptions_that_are_none() -> None:
    needed = "model.first_stage: must be the path of a checkpoint of 'tats_vqgan'"
    assert refusal(lambda: TATS(first_stage={}, **SIZES)) == needed
    assert refusal(lambda: TATS(first_stage={"model": "tats_vqgan"}, **SIZES)) == needed


def test_an_entry_that_is_missing() -> None:
    network = nn.Linear(2, 2)
    assert refusal(lambda: fill(network, {"part.bias": torch.zeros(2)}, "part.", "keys")) == (
        "model.keys: its checkpoint lacks 'part.weight'; was it written by another version?"
    )
    fill(network, None, "part.", "keys")
    assert not network.training and not network.weight.requires_grad


def test_stages_that_do_not_belong_together(path: Path, tmp_path: Path) -> None:
    def told(stage: Path = path, arguments: dict[str, Any] | None = None, **more: Any) -> str:
        keys = save(TATS(first_stage=stage, **{**KEYS, **(arguments or {})}), tmp_path / "keys.ckpt")
        return refusal(lambda: TATSInterpolation(first_stage=path, keys=keys, **{**GAP, **more}))

    other = save(first_stage(1), tmp_path / "other.ckpt")
    assert told(other) == "model.keys: was trained on another first stage; train both on the same"
    assert told(arguments={"latent_stride": 4}) == "model.keys: its latent_stride is 4; needed is 2"
    assert told(gap=3, num_frames=8) == "model.keys: its latent_stride is 2; needed is 3"
    assert told(dim_category=2) == "model.keys: its dim_category is 0; needed is 2"
    assert told(arguments={"resolution": 16}) == "model.keys: its resolution is (16, 16); needed is (8, 8)"
    assert told(arguments={"num_frames": 4}) == "model.keys: its clips have one key frame; needed are two or more"
    text = {"condition": "text", "text_length": 3, "text_vocabulary": 5}
    assert told(arguments=text) == "model.keys: its condition is 'text'; only a label can be filled between"
    assert refusal(lambda: TATSInterpolation(first_stage=path, keys=path, **GAP)) == (
        f"model.keys: {path} holds a 'tats_vqgan', needed is a 'tats'"
    )
    assert refusal(lambda: TATS(first_stage=path, channels=1, **SIZES)) == (
        "model.channels 1: the first stage was trained on 3; make them equal"
    )


def spec(num_frames: int, **change: Any) -> DataSpec:
    sizes: dict[str, Any] = {"channels": 3, "resolution": 8, "fps": None, "num_videos": 9}
    return DataSpec(**{**sizes, "num_frames": num_frames, "min_length": 30, "max_length": 40, **change})


def test_a_first_stage_that_was_never_trained(tmp_path: Path) -> None:
    raw = save(TATSVQGAN(**FIRST), tmp_path / "raw.ckpt")
    message = "model.first_stage: was never trained; train it first, or name its checkpoint"
    assert refusal(lambda: TATS(first_stage=raw, **SIZES).check_data(spec(8))) == message
    assert refusal(lambda: TATSInterpolation(first_stage=raw, **GAP).check_data(spec(6))) == message
    description = open_stage("first_stage", raw, "tats_vqgan").description
    heard = TATS(first_stage=save(first_stage(), tmp_path / "first.ckpt"), audio_stage=raw, condition="audio", **SIZES)
    sound = spec(8, audio_size=(8, 8))
    assert refusal(lambda: heard.check_data(sound)) == message.replace("first_stage", "audio_stage")
    assert refusal(lambda: TATS(first_stage=description, **SIZES).check_data(spec(8))) == message
