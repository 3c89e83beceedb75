"""Official VGAN files become vidgen checkpoints, and hostile or broken ones a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vidgen
from tests.interop.torch7_file import Lua, Object, Official, Torch7File, find, share_storage
from vidgen.cli.main import main
from vidgen.errors import UserError
from vidgen.interop import convert
from vidgen.interop.state_dicts import official_key
from vidgen.interop.vgan import discriminator_table, generator_table
from vidgen.models.vgan import VGAN

SIZES: dict[str, Any] = {"width": 2, "discriminator_width": 3, "dim_latent": 5}
CONDITIONS = ["none", "first_frame"]


def with_random_weights(**sizes: Any) -> VGAN:
    """A model that has seen something: no entry is 0 or 1."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = VGAN(**{**SIZES, **sizes})
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.5 if key.endswith("running_var") else torch.randn(value.shape))
    return model.eval()


@pytest.fixture
def model() -> VGAN:
    return with_random_weights()


def write(path: Path, module: Object, **options: bool) -> Path:
    return Torch7File(**options).write(path, module)


def generator_file(folder: Path, model: VGAN, **changes: Any) -> Path:
    """``iter1000_net.t7`` with other attributes of some modules, by path; None removes one."""
    module = Official().generator(model.generator)
    for key, value in changes.items():
        path, _, name = key.rpartition(".")
        attributes = find(module, path).attributes
        attributes[name] = value
        if value is None:
            del attributes[name]
    return write(folder / "iter1000_net.t7", module)


def refusal(source: Path, **options: Any) -> str:
    out = source.with_suffix(".ckpt")
    with pytest.raises(UserError) as caught:
        convert("vgan", source, out, options)
    assert not out.exists() and "\n" not in str(caught.value)
    return str(caught.value)


def given_to(model: VGAN) -> Tensor:
    noise = torch.Generator().manual_seed(3)
    shape = (2, 3, 64, 64) if model.from_frame else (2, 5)
    return torch.randn(shape, generator=noise)


def assert_same(first: torch.nn.Module, second: torch.nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("library", ["nn", "cudnn"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_modules_make_the_same_videos(
    tmp_path: Path, condition: str, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = with_random_weights(condition=condition)
    official, cuda = Official(library), library == "cudnn"
    generator, discriminator = official.generator(model.generator), official.discriminator(model.discriminator)
    for module in (generator, discriminator):
        share_storage(module)
    source = write(tmp_path / "iter1000_net.t7", generator, cuda=cuda)
    write(tmp_path / "iter1000_netD.t7", discriminator, cuda=cuda)
    convert("vgan", source, tmp_path / "x.ckpt")
    assert not caplog.records
    converted = vidgen.load(tmp_path / "x.ckpt")
    with torch.no_grad():
        expected = model.generator(given_to(model))
        for part, value in zip(expected, converted.generator(given_to(model)), strict=True):
            assert torch.equal(part, value)
        video = expected.video
        assert torch.equal(model.discriminator(video), converted.discriminator(video))
    assert_same(model, converted)
    sizes = {"channels": 3, "resolution": 64, "num_frames": 32, "width": 2, "discriminator_width": 3, "streams": 2}
    assert {key: converted.init_args[key] for key in sizes} == sizes
    assert converted.init_args["condition"] == condition
    assert condition == "first_frame" or converted.init_args["dim_latent"] == 5


def test_other_sizes_are_inferred(tmp_path: Path) -> None:
    for condition in CONDITIONS:
        model = with_random_weights(condition=condition, channels=1, resolution=80, num_frames=48, width=1)
        source = write(tmp_path / "iter1_net.t7", Official().generator(model.generator))
        judge = write(tmp_path / "judge.t7", Official().discriminator(model.discriminator), text=True)
        convert("vgan", source, tmp_path / "x.ckpt", {"discriminator": str(judge)})
        converted = vidgen.load(tmp_path / "x.ckpt")
        assert_same(model, converted)
        assert (converted.channels, converted.resolution, converted.num_frames) == (1, 80, 48)


def test_without_a_discriminator_a_new_one_is_made(
    model: VGAN, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = generator_file(tmp_path, model)
    for name in ("a.ckpt", "b.ckpt"):
        before = torch.get_rng_state()
        convert("vgan", source, tmp_path / name)
        assert torch.equal(before, torch.get_rng_state())
        torch.rand(1)  # the new network does not depend on it
    first, second = vidgen.load(tmp_path / "a.ckpt"), vidgen.load(tmp_path / "b.ckpt")
    assert_same(first, second)
    assert_same(first.generator, model.generator)
    message = f"{source}: comes without discriminator, which starts untrained"
    assert [record.getMessage() for record in caplog.records] == 2 * [message]
    assert first.init_args["discriminator_width"] is None and first.discriminator.convolutions[0].out_channels == 2


@pytest.mark.parametrize("condition", CONDITIONS)
def test_old_batch_norms(tmp_path: Path, condition: str) -> None:
    """They keep 1 / sqrt(variance + epsilon), with an epsilon that differs from network to network."""
    model = with_random_weights(condition=condition)
    for network in (model.generator, model.discriminator):
        for key, value in network.state_dict().items():
            if key.endswith("running_var"):
                value.mul_(1e-2)  # so that the epsilon matters
    official = Official("nn", old=True)
    generator, discriminator = official.generator(model.generator), official.discriminator(model.discriminator)
    source = write(tmp_path / "iter1_net.t7", generator, versioned=False)
    write(tmp_path / "iter1_netD.t7", discriminator, versioned=False)
    assert b"running_std" in source.read_bytes() and b"running_var" not in source.read_bytes()
    convert("vgan", source, tmp_path / "x.ckpt")
    converted = vidgen.load(tmp_path / "x.ckpt").state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(converted[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("prefixed", [False, True])
def test_state_dicts(tmp_path: Path, condition: Any, prefixed: bool) -> None:
    model = with_random_weights(condition=condition)
    tables = {"net.": generator_table(condition), "netD.": discriminator_table()}
    states = {
        prefix: {
            official_key(key, tables[prefix], prefix if prefixed else ""): value
            for key, value in network.state_dict().items()
            if not key.endswith("num_batches_tracked")
        }
        for prefix, network in (("net.", model.generator), ("netD.", model.discriminator))
    }
    source, options = tmp_path / "state.pt", {}
    if prefixed:
        torch.save(states["net."] | states["netD."], source)
    else:
        torch.save(states["net."], source, _use_new_zipfile_serialization=False)
        torch.save(states["netD."], tmp_path / "netD.pt")
        options = {"discriminator": str(tmp_path / "netD.pt")}
    convert("vgan", source, tmp_path / "x.ckpt", options)
    assert_same(vidgen.load(tmp_path / "x.ckpt"), model)


def test_one_stream(tmp_path: Path) -> None:
    model = with_random_weights(streams=1)
    table = generator_table("none", streams=1)
    state = model.generator.state_dict()
    named = {official_key(key, table): value for key, value in state.items() if "num_batches" not in key}
    torch.save(named, tmp_path / "state.pt")
    convert("vgan", tmp_path / "state.pt", tmp_path / "x.ckpt")
    assert_same(vidgen.load(tmp_path / "x.ckpt").generator, model.generator)


def test_a_missing_entry_is_named(model: VGAN, tmp_path: Path) -> None:
    for key in ("1.1.6.running_var", "1.2.14.bias", "1.1.14.2.1.weight", "1.1.2.weight", "1.1.14.1.1.weight"):
        source = generator_file(tmp_path, model, **{key: None})
        assert refusal(source) == f"{source}: lacks net.{key}"
    source = generator_file(tmp_path, model, **{"1.1.6.eps": None})
    assert refusal(source) == f"{source}: net.1.1.6 lacks eps"
    source = generator_file(tmp_path, model)
    judge = Official().discriminator(model.discriminator)
    del find(judge, "12").attributes["weight"]
    path = write(tmp_path / "iter1000_netD.t7", judge)
    assert refusal(source) == f"{path}: lacks netD.12.weight"
    assert refusal(source, discriminator="none.t7") == "none.t7: cannot be read (No such file or directory)"


def test_an_extra_entry_is_named(model: VGAN, tmp_path: Path) -> None:
    part = "which is not part of the official module"
    for key in ("1.1.4.weight", "3.bias", "1.1.5.running_mean"):
        changes = {key: torch.zeros(3)} | ({"1.1.5.eps": 1e-5} if "mean" in key else {})
        source = generator_file(tmp_path, model, **changes)
        assert refusal(source) == f"{source}: has net.{key}, {part}"


def test_a_wrong_shape_is_named(model: VGAN, tmp_path: Path) -> None:
    source = generator_file(tmp_path, model, **{"1.1.8.weight": torch.zeros(8, 5, 4, 4, 4)})
    assert refusal(source) == f"{source}: net.1.1.8.weight is (8, 5, 4, 4, 4), expected (8, 4, 4, 4, 4)"
    source = generator_file(tmp_path, model, **{"1.1.2.weight": torch.zeros(5, 16, 2, 8, 8)})
    assert refusal(source) == f"{source}: net.1.1.2.weight is (5, 16, 2, 8, 8), expected a kernel of 4 to 7 pixels"
    source = generator_file(tmp_path, model, **{"1.1.2.weight": torch.zeros(16)})
    assert refusal(source) == f"{source}: net.1.1.2.weight is (16,), expected 5 dimensions"
    source = generator_file(tmp_path, model, **{"1.1.3.bias": torch.zeros(16, dtype=torch.int64)})
    assert refusal(source) == f"{source}: net.1.1.3.bias is torch.int64, expected torch.float32"


def test_a_file_cannot_ask_for_a_huge_model(model: VGAN, tmp_path: Path) -> None:
    source = generator_file(tmp_path, model, **{"1.1.14.1.1.weight": torch.zeros(300_000, 1, 1, 1, 1)})
    assert refusal(source) == f"{source}: net.1.1.2.weight is (5, 16, 2, 4, 4), expected (5, 2400000, 2, 4, 4)"
    source = generator_file(tmp_path, model, **{"1.1.3.running_mean": torch.zeros(1).expand(2**40)})
    assert refusal(source) == f"{source}: net.1.1.3.running_mean has more elements than the file holds"
    torch.save({"1.1.2.weight": torch.zeros(1).expand(2**40)}, tmp_path / "x.pt")
    assert refusal(tmp_path / "x.pt") == (
        f"{tmp_path / 'x.pt'}: is damaged or cut short (a tensor has more elements than its storage)"
    )


def test_another_epsilon_is_named(model: VGAN, tmp_path: Path) -> None:
    source = generator_file(tmp_path, model, **{"1.2.6.eps": 1e-3})
    assert refusal(source) == f"{source}: net.1.2.6.eps is 0.001, expected 1e-05"


def test_other_content_is_named(model: VGAN, tmp_path: Path) -> None:
    source = tmp_path / "x.t7"
    write(source, Official().discriminator(model.discriminator))
    assert refusal(source) == f"{source}: holds a discriminator; give the generator, iter<N>_net.t7"
    Torch7File().write(source, [1.5, 2.5])  # the history that lies beside the networks
    assert refusal(source) == f"{source}: holds no module; an official file is one, iter<N>_net.t7 or iter<N>_netD.t7"
    Torch7File().write(source, Object("os.Thing", {}))
    assert refusal(source) == f"{source}: net is a os.Thing, not an nn or cudnn module"
    torch.save([1], source)
    assert refusal(source) == f"{source}: holds a list, not a state dict"
    torch.save({"netD.1.weight": torch.zeros(1)}, source)
    assert refusal(source) == f"{source}: holds no generator"
    torch.save({"net.1.weight": torch.zeros(1), "x\ny": torch.zeros(1)}, source)
    assert refusal(source) == f"{source}: has x y, which belongs to none of generator, discriminator"
    source.write_bytes(b"\x89PNG\r\n\x1a\n")
    assert refusal(source) == f"{source}: is not a file written by Torch7's torch.save"


def test_modules_within_themselves_are_refused(model: VGAN, tmp_path: Path) -> None:
    module = Official().generator(model.generator)
    find(module, "1").attributes["modules"].append(module)
    source = write(tmp_path / "x.t7", module)
    assert refusal(source) == f"{source}: net.1.3 is the same module as another one"
    shared = [Object("nn.Sequential", {"modules": []})]
    for _ in range(40):  # 2 to the 40th paths
        shared.append(Object("nn.Sequential", {"modules": [shared[-1], shared[-1]]}))
    source = write(tmp_path / "x.t7", shared[20])
    assert refusal(source).endswith(" is the same module as another one")
    source = write(tmp_path / "x.t7", Object("nn.Sequential", {"modules": {2: shared[0]}}))
    assert refusal(source) == f"{source}: net has no module 1"


@pytest.mark.parametrize("tag", [6, 7, 8])
def test_a_function_in_a_file_is_not_executed(model: VGAN, tmp_path: Path, tag: int) -> None:
    mark = tmp_path / "executed"
    code = f"os.execute('touch {mark}') __import__('os').system('touch {mark}')".encode()
    source = generator_file(tmp_path, model, **{"1.1.1.hook": Lua(code, [Lua(code)], tag)})
    convert("vgan", source, tmp_path / "x.ckpt")
    assert_same(vidgen.load(tmp_path / "x.ckpt").generator, model.generator)
    assert code not in (tmp_path / "x.ckpt").read_bytes() and not mark.exists()
    Torch7File().write(source, Lua(code, None, tag))
    assert refusal(source) == f"{source}: holds no module; an official file is one, iter<N>_net.t7 or iter<N>_netD.t7"
    assert not mark.exists()


def test_a_hostile_pickle_is_not_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> Any:
            return eval, (f"open({str(mark)!r}, 'w')",)

    source = tmp_path / "x.pt"
    for old in (False, True):
        torch.save({"net.1.1.2.weight": Hostile()}, source, _use_new_zipfile_serialization=not old)
        reason = "names __builtin__.eval, which is not allowed in such a file; nothing in it was executed"
        assert refusal(source) == f"{source}: {reason}"
        assert not mark.exists()


def test_every_cut_of_a_file_is_one_line(tmp_path: Path) -> None:
    source = generator_file(tmp_path, with_random_weights(width=1, dim_latent=1))
    whole = source.read_bytes()
    source = tmp_path / "cut.t7"
    for length in range(0, len(whole), 50):
        source.write_bytes(whole[:length])
        assert refusal(source) == f"{source}: is damaged or cut short", length


def test_command(model: VGAN, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = generator_file(tmp_path, model), tmp_path / "vgan.ckpt"
    words = ["convert", "--model", "vgan", "--from", str(source), "--out", str(out)]
    assert main(words) == 0 and capsys.readouterr().out == f"wrote {out}\n"
    converted = vidgen.load(out)
    videos = converted.sample(2, seed=5)
    assert videos.shape == (2, 3, 32, 64, 64) and torch.equal(videos, model.sample(2, seed=5))
    assert main(["sample", "--ckpt", str(out), "--num", "1", "--out", str(tmp_path / "videos")]) == 0
    capsys.readouterr()
    source.write_bytes(source.read_bytes()[:-1])
    assert main(words) == 2
    assert capsys.readouterr().err == f"vidgen: error: {source}: is damaged or cut short\n"
    assert main([*words, "discriminater=x"]) == 2
    line = "discriminater: not an option of the vgan converter; did you mean 'discriminator'?"
    assert capsys.readouterr().err == f"vidgen: error: {line}\n"
