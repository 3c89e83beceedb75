"""Official MoCoGAN files become vidgen checkpoints, and hostile or broken ones a line."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vidgen
from tests.interop.legacy_file import Call, Global, LegacyFile, official_generator
from tests.parity.fixtures import OWN, Reference
from vidgen.errors import UserError
from vidgen.interop import convert
from vidgen.models.mocogan import LatentDraws


@pytest.fixture
def generator() -> Reference:
    return Reference(OWN / "mocogan" / "generator.pt", 1e-4)


def write_generator(path: Path, state: dict[str, Tensor], config: dict[str, Any], location: str = "cuda:0") -> Path:
    LegacyFile(location).write(path, official_generator(state, config))
    return path


def refusal(source: Path, **options: Any) -> str:
    out = source.with_suffix(".ckpt")
    with pytest.raises(UserError) as caught:
        convert("mocogan", source, out, options)
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize("location", ["cuda:0", "cpu"])
def test_pickled_generator_makes_the_same_videos(generator: Reference, tmp_path: Path, location: str) -> None:
    source = write_generator(tmp_path / "generator_100000.pytorch", generator.state, generator.config, location)
    convert("mocogan", source, tmp_path / "x.ckpt")
    model = vidgen.load(tmp_path / "x.ckpt")
    inputs = generator.inputs
    draws = LatentDraws(inputs["z_content"], inputs["category"], inputs["h0"], inputs["eps"])
    with torch.no_grad():
        generator.compare("videos_eval", model.generator(draws))
    sizes = {key: model.init_args[key] for key in ("channels", "dim_content", "dim_motion", "dim_category")}
    assert sizes == {"channels": 1, "dim_content": 5, "dim_motion": 3, "dim_category": 2}
    assert model.init_args["generator_width"] == 3 and model.init_args["num_frames"] == 16


def test_state_dict_of_all_networks(tmp_path: Path) -> None:
    step = Reference(OWN / "mocogan" / "train_step.pt", 1e-4)
    for old in (False, True):
        torch.save(step.state, tmp_path / "all.pt", _use_new_zipfile_serialization=not old)
        convert("mocogan", tmp_path / "all.pt", tmp_path / "all.ckpt")
        model = vidgen.load(tmp_path / "all.ckpt")
        assert torch.equal(model.video_discriminator.output.weight, step.state["video_discriminator.main.15.weight"])
        assert torch.equal(model.generator.recurrent.bias_hh, step.state["generator.recurrent.bias_hh"])
        assert torch.equal(
            model.image_discriminator.trunk[1].norm.running_var, step.state["image_discriminator.main.5.running_var"]
        )
        assert model.dim_category == 2 and model.use_categories


def test_conversion_does_not_touch_the_random_state(generator: Reference, tmp_path: Path) -> None:
    source = write_generator(tmp_path / "g.pytorch", generator.state, generator.config)
    before = torch.get_rng_state()
    convert("mocogan", source, tmp_path / "a.ckpt")
    convert("mocogan", source, tmp_path / "b.ckpt")
    assert torch.equal(before, torch.get_rng_state())
    first, second = vidgen.load(tmp_path / "a.ckpt").state_dict(), vidgen.load(tmp_path / "b.ckpt").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_missing_entry_is_named(generator: Reference, tmp_path: Path) -> None:
    state = {key: value for key, value in generator.state.items() if key != "main.4.running_var"}
    source = write_generator(tmp_path / "g.pytorch", state, generator.config)
    assert refusal(source) == f"{source}: lacks generator.main.4.running_var"


def test_an_extra_entry_is_named(generator: Reference, tmp_path: Path) -> None:
    for key in ("main.15.weight", "main.0.bias"):
        source = write_generator(tmp_path / "g.pytorch", {**generator.state, key: torch.zeros(3)}, generator.config)
        assert refusal(source) == f"{source}: has generator.{key}, which is not part of the official module"


def test_a_wrong_shape_is_named(generator: Reference, tmp_path: Path) -> None:
    state = {**generator.state, "main.6.weight": torch.zeros(1, 2, 4, 4)}
    source = write_generator(tmp_path / "g.pytorch", state, generator.config)
    assert refusal(source) == f"{source}: generator.main.6.weight is (1, 2, 4, 4), expected (12, 6, 4, 4)"


def test_a_missing_attribute_is_named(generator: Reference, tmp_path: Path) -> None:
    instance = official_generator(generator.state, generator.config)
    del instance.state["dim_z_content"]
    source = tmp_path / "g.pytorch"
    LegacyFile().write(source, instance)
    assert refusal(source) == f"{source}: the generator lacks its attribute dim_z_content"


@pytest.mark.parametrize(("package", "name"), [("posix", "system"), ("os", "system"), ("__builtin__", "eval")])
def test_a_hostile_file_is_refused_and_not_executed(
    generator: Reference, tmp_path: Path, package: str, name: str
) -> None:
    mark = tmp_path / "executed"
    command = f"open({str(mark)!r}, 'w')" if name == "eval" else f"touch {mark}"
    instance = official_generator(generator.state, generator.config)
    instance.state["training"] = Call(Global(package, name), (command,))
    source = tmp_path / "g.pytorch"
    LegacyFile().write(source, instance)
    message = f"{source}: names {package}.{name}, which is not allowed in such a file; nothing in it was executed"
    assert refusal(source) == message
    assert not mark.exists()


def test_a_hostile_zip_is_refused_and_not_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> Any:
            return eval, (f"open({str(mark)!r}, 'w')",)

    source = tmp_path / "g.pt"
    torch.save({"generator.main.0.weight": Hostile()}, source)
    assert (
        refusal(source)
        == f"{source}: names __builtin__.eval, which is not allowed in such a file; nothing in it was executed"
    )
    assert not mark.exists()


def test_every_cut_of_a_file_is_one_line(generator: Reference, tmp_path: Path) -> None:
    whole = write_generator(tmp_path / "g.pytorch", generator.state, generator.config).read_bytes()
    source = tmp_path / "cut.pytorch"
    for length in (0, 1, 40, 200, len(whole) // 3, len(whole) // 2, len(whole) - 5):
        source.write_bytes(whole[:length])
        message = refusal(source)
        assert message.startswith(f"{source}: is ") and "\n" not in message, (length, message)
    assert message == f"{source}: is damaged or cut short"


def test_files_of_other_kinds_are_one_line(tmp_path: Path) -> None:
    source = tmp_path / "x.pytorch"
    source.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert refusal(source) == f"{source}: is not a file written by torch.save"
    torch.save([1, 2], source)
    assert refusal(source) == f"{source}: holds a list, neither a module nor a state dict"
    torch.save({"a": 1}, source)
    assert refusal(source) == f"{source}: entry 'a' is not a tensor; a state dict with official names was expected"
    torch.save({"image_discriminator.main.1.weight": torch.zeros(1)}, source)
    assert refusal(source) == f"{source}: holds no generator"
    assert refusal(tmp_path / "none") == f"{tmp_path / 'none'}: cannot be read (No such file or directory)"


def test_options_are_checked(generator: Reference, tmp_path: Path) -> None:
    source = tmp_path / "g.pt"
    torch.save(copy.deepcopy(generator.state), source)
    assert refusal(source, frames=3) == "frames: not an option of the mocogan converter; did you mean 'num_frames'?"
    convert("mocogan", source, tmp_path / "g.ckpt", {"dim_category": 2, "num_frames": 20})
    model = vidgen.load(tmp_path / "g.ckpt")
    assert (model.dim_content, model.dim_category, model.num_frames) == (5, 2, 20)
    with pytest.raises(UserError, match="no converter for 'other'"):
        convert("other", source, tmp_path / "v.ckpt")
