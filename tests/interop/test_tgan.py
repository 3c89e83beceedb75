"""Official TGAN files become vidgen checkpoints, and hostile or broken ones a line."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vidgen
from vidgen.cli.main import main
from vidgen.errors import UserError
from vidgen.interop import convert
from vidgen.interop.chainer import read
from vidgen.interop.tgan import TABLES, official_key, translate
from vidgen.models.tgan import TGAN

SIZES: dict[str, Any] = {
    "resolution": 32,
    "dim_slow": 5,
    "dim_fast": 4,
    "frame_seed_channels": (8, 7, 6, 3),
    "generator_width": 32,
    "discriminator_width": 2,
}
Arrays = dict[str, np.ndarray]


def with_random_weights(**sizes: Any) -> TGAN:
    """A model that has seen something: no entry is 0 or 1."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = TGAN(**{**SIZES, **sizes})
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.5 if key.endswith("running_var") else torch.randn(value.shape))
            else:
                value.fill_(7)
    return model.eval()


@pytest.fixture
def model() -> TGAN:
    return with_random_weights()


def put(arrays: Arrays, link: str, module: nn.Module) -> None:
    """What Chainer stores of a layer or batch norm."""
    norm = link.startswith("bn")
    names = {"weight": "gamma", "bias": "beta"} if norm else {"weight": "W", "bias": "b"}
    names |= {"running_mean": "avg_mean", "running_var": "avg_var", "num_batches_tracked": "N"}
    for key, value in module.state_dict().items():
        arrays[f"{link}/{names[key]}"] = value.numpy().copy()


def official(model: TGAN) -> tuple[Arrays, Arrays, Arrays]:
    """G0, G1 and the discriminator."""
    seed, image, judge = model.generator.frame_seed, model.generator.image, model.discriminator
    gen: Arrays = {}
    for index, layer in enumerate(seed.convolutions):
        put(gen, f"dc{index}", layer)
    for index, norm in enumerate(seed.norms):
        put(gen, f"bn{index}", norm)
    vgen: Arrays = {}
    for link, module in {
        "l0s": image.slow,
        "bn0s": image.slow_norm,
        "l0f": image.fast,
        "bn0f": image.fast_norm,
    }.items():
        put(vgen, link, module)
    for index, layer in enumerate(image.convolutions, 1):
        put(vgen, f"dc{index}", layer)
    for index, norm in enumerate(image.norms, 1):
        put(vgen, f"bn{index}", norm)
    put(vgen, "dc5", image.output)
    vdis: Arrays = {}
    for index, layer in enumerate([*judge.convolutions, judge.output]):
        put(vdis, f"c{index}", layer)
    for index, norm in enumerate(judge.norms):
        put(vdis, f"bn{index}", norm)
    return gen, vgen, vdis


def save(folder: Path, model: TGAN, judged: bool = True, compressed: bool = True, **changes: Any) -> Path:
    """The three files, with other arrays by name (``vgen_dc5/W``); None removes one."""
    write = np.savez_compressed if compressed else np.savez
    for name, arrays in zip(("gen", "vgen", "vdis"), official(model), strict=True):
        for key, value in changes.items():
            network, _, entry = key.partition("_")
            if network == name:
                arrays[entry] = value
                if value is None:
                    del arrays[entry]
        if judged or name != "vdis":
            write(folder / f"{name}_iter_100.npz", **arrays)
    return folder / "gen_iter_100.npz"


def refusal(source: Path, **options: Any) -> str:
    out = source.with_suffix(".ckpt")
    with pytest.raises(UserError) as caught:
        convert("tgan", source, out, options)
    assert not out.exists() and "\n" not in str(caught.value)
    return str(caught.value)


def assert_same(first: nn.Module, second: nn.Module) -> None:
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def chainer_image(arrays: Arrays, slow: Tensor, fast: Tensor) -> Tensor:
    """G1 as the official code computes it, in eval mode."""
    weights = {key: torch.from_numpy(value) for key, value in arrays.items()}

    def norm(x: Tensor, link: str) -> Tensor:
        mean, variance = weights[f"{link}/avg_mean"], weights[f"{link}/avg_var"]
        return F.relu(F.batch_norm(x, mean, variance, weights[f"{link}/gamma"], weights[f"{link}/beta"], eps=2e-5))

    maps = [norm(x @ weights[f"l0{s}/W"].T, f"bn0{s}").view(len(x), -1, 2, 2) for s, x in (("s", slow), ("f", fast))]
    x = torch.cat(maps, dim=1)
    for layer in range(1, 5):
        x = norm(F.conv_transpose2d(x, weights[f"dc{layer}/W"], stride=2, padding=1), f"bn{layer}")
    return torch.tanh(F.conv_transpose2d(x, weights["dc5/W"], weights["dc5/b"], padding=1))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("shift", [False, True])
def test_three_files_make_the_same_videos(tmp_path: Path, shift: bool, compressed: bool) -> None:
    model = with_random_weights(frame_seed_shift=shift, discriminator_shift=not shift, channels=1 + 2 * shift)
    convert("tgan", save(tmp_path, model, compressed=compressed), tmp_path / "x.ckpt")
    converted = vidgen.load(tmp_path / "x.ckpt")
    slow = torch.rand(2, 5) * 2 - 1
    with torch.no_grad():
        video = model.generator(slow)
        assert torch.equal(video, converted.generator(slow))
        assert torch.equal(model.discriminator(video), converted.discriminator(video))
    assert_same(model, converted)
    sizes = {**SIZES, "channels": 1 + 2 * shift, "frame_seed_shift": shift, "discriminator_shift": not shift}
    assert {key: converted.init_args[key] for key in sizes} == sizes


def test_frames_are_those_of_the_official_layers(model: TGAN, tmp_path: Path) -> None:
    convert("tgan", save(tmp_path, model), tmp_path / "x.ckpt")
    slow, fast = torch.randn(3, 5), torch.randn(3, 4)
    with torch.no_grad():
        frames = vidgen.load(tmp_path / "x.ckpt").generator.image(slow, fast)
    torch.testing.assert_close(frames, chainer_image(official(model)[1], slow, fast), rtol=0, atol=3e-4)


def test_names_and_layout_go_both_ways(model: TGAN) -> None:
    networks = (model.generator.frame_seed, model.generator.image, model.discriminator)
    for name, network, arrays in zip(TABLES, networks, official(model), strict=True):
        state = network.state_dict()
        assert {official_key(name, key) for key in state} == set(arrays)
        given = {key: torch.from_numpy(np.asarray(value)) for key, value in arrays.items()}
        translated = translate(name, given)
        assert all(torch.equal(translated[key], state[key]) for key in state)
        for key in state:
            theirs = official_key(name, key)
            assert torch.equal(state[key], given[theirs])


def test_one_file_with_prefixes(model: TGAN, tmp_path: Path) -> None:
    source = tmp_path / "all.npz"
    arrays = dict(zip(("fsgen", "vgen", "vdis"), official(model), strict=True))
    np.savez(source, **{f"{name}/{key}": value for name in arrays for key, value in arrays[name].items()})
    convert("tgan", source, tmp_path / "x.ckpt")
    assert_same(vidgen.load(tmp_path / "x.ckpt"), model)


def test_files_of_other_names(model: TGAN, tmp_path: Path) -> None:
    source = save(tmp_path, model)
    for name in ("gen", "vgen", "vdis"):
        (tmp_path / f"{name}_iter_100.npz").rename(tmp_path / f"{name}.npz")
    source = tmp_path / "gen.npz"
    assert refusal(source) == f"{source}: holds no image generator; give image_generator=vgen_iter_<N>.npz"
    image, judge = str(tmp_path / "vgen.npz"), str(tmp_path / "vdis.npz")
    convert("tgan", source, tmp_path / "x.ckpt", {"image_generator": image, "discriminator": judge})
    assert_same(vidgen.load(tmp_path / "x.ckpt"), model)
    assert refusal(source, image_generator="none") == "none: cannot be read (No such file or directory)"
    part = "which is not part of the official network"
    assert refusal(source, image_generator=judge) == f"{judge}: has vgen/c0/W, {part}"
    assert refusal(tmp_path / "vdis.npz") == f"{judge}: has fsgen/c0/W, {part}"


def test_without_a_discriminator_a_new_one_is_made(model: TGAN, tmp_path: Path) -> None:
    source = save(tmp_path, model, judged=False)
    for name in ("a.ckpt", "b.ckpt"):
        before = torch.get_rng_state()
        convert("tgan", source, tmp_path / name)
        assert torch.equal(before, torch.get_rng_state())
        torch.rand(1)  # the new network does not depend on it
    first = vidgen.load(tmp_path / "a.ckpt")
    assert_same(first, vidgen.load(tmp_path / "b.ckpt"))
    assert_same(first.generator, model.generator)
    assert first.init_args["discriminator_width"] == 4


def test_other_number_types_and_no_counter(model: TGAN, tmp_path: Path) -> None:
    gamma = official(model)[0]["bn1/gamma"]
    for other in (gamma.astype(">f4"), gamma.astype(np.float64), np.asfortranarray(gamma)):
        convert("tgan", save(tmp_path, model, **{"gen_bn1/gamma": other, "gen_bn1/N": None}), tmp_path / "x.ckpt")
        norm = vidgen.load(tmp_path / "x.ckpt").generator.frame_seed.norms[1]
        assert torch.equal(norm.weight, torch.from_numpy(gamma)) and norm.num_batches_tracked == 0


def test_a_missing_entry_is_named(tmp_path: Path) -> None:
    model = with_random_weights(frame_seed_shift=True)
    for key in ("gen_dc3/W", "gen_bn2/beta", "gen_dc0/b", "vgen_l0s/W", "vgen_bn0f/avg_var", "vgen_dc5/W", "vdis_c4/b"):
        source = save(tmp_path, model, **{key: None})
        file, name = source.with_name(f"{key.partition('_')[0]}_iter_100.npz"), key.replace("_", "/", 1)
        name = f"fs{name}" if name.startswith("gen") else name
        assert refusal(source) == f"{file}: lacks {name}"


def test_an_extra_entry_is_named(model: TGAN, tmp_path: Path) -> None:
    part = "which is not part of the official network"
    for key in ("dc7/W", "dc1/gamma", "bn1/W", "dc1", "l0s/W"):
        source = save(tmp_path, model, **{f"gen_{key}": np.zeros(3, np.float32)})
        assert refusal(source) == f"{source}: has fsgen/{key}, {part}"
    source = save(tmp_path, model, **{"vgen_l0s/b": np.zeros(64, np.float32)})
    file = source.with_name("vgen_iter_100.npz")
    assert refusal(source) == f"{file}: has vgen/l0s/b, which is not part of the official module"


def test_a_wrong_shape_is_named(model: TGAN, tmp_path: Path) -> None:
    def message(key: str, shape: tuple[int, ...], dtype: Any = np.float32) -> str:
        source = save(tmp_path, model, **{key: np.ones(shape, dtype)})
        file = source.with_name(f"{key.partition('_')[0]}_iter_100.npz")
        text = refusal(source)
        assert text.startswith(f"{file}: ")
        return text.removeprefix(f"{file}: ")

    assert message("gen_bn2/gamma", (5,)) == "fsgen/bn2/gamma is (5,), expected (6,)"
    assert message("gen_dc2/W", (7, 6)) == "fsgen/dc2/W is (7, 6), expected 3 dimensions"
    assert message("vgen_dc5/W", (2, 3, 5, 5)) == "vgen/dc5/W is (2, 3, 5, 5), expected (2, 3, 3, 3)"
    assert message("vgen_l0f/W", (64, 3)) == "vgen/l0f/W is (64, 3), expected (64, 4)"
    square = "expected 16 times the square of the smallest map's width"
    assert message("vgen_l0s/W", (65, 5)) == f"vgen/l0s/W is (65, 5), {square}"
    assert message("vdis_c4/W", (1, 16, 3, 3)) == "vdis/c4/W is (1, 16, 3, 3), expected (1, 16, 2, 2)"
    assert message("vdis_c1/b", (4,), np.int64) == "vdis/c1/b is torch.int64, expected torch.float32"
    assert message("vdis_c1/b", (4,), np.complex64) == "c1/b holds complex64, expected numbers"
    assert message("vdis_c1/b", (4,), np.str_) == "c1/b holds <U1, expected numbers"
    assert message("vgen_dc1/W", (24, 16, 4, 4)).startswith("vgen/l0s/W is (64, 5), expected 12 times the square")


def test_sizes_of_no_model_are_one_line(tmp_path: Path, model: TGAN) -> None:
    changes = {"vgen_dc1/W": np.ones((8, 4, 4, 4)), "vgen_dc5/W": np.ones((0, 3, 3, 3))}
    source = save(tmp_path, model, **changes)
    file = source.with_name("vgen_iter_100.npz")
    assert refusal(source) == f"{file}: model.generator_width 8: must be a multiple of 16"
    source = save(tmp_path, model, **{"gen_dc1/W": np.ones((300_000, 10_000, 0))})
    assert refusal(source) == f"{source}: fsgen/dc1/W is (300000, 10000, 0), expected (8, 10000, 4)"


def npz(path: Path, name: str, data: bytes, announced: int | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.npy", data)
    if announced is not None:
        whole, size = path.read_bytes(), struct.pack("<I", len(data))
        path.write_bytes(whole.replace(size, struct.pack("<I", announced)))
    return path


def header(shape: str, descr: str = "'<f4'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def test_a_pickled_array_is_not_executed(model: TGAN, tmp_path: Path) -> None:
    mark = tmp_path / "executed"

    class Hostile:
        def __reduce__(self) -> Any:
            return eval, (f"open({str(mark)!r}, 'w')",)

    hostile = np.empty(1, dtype=object)
    hostile[0] = Hostile()
    source = save(tmp_path, model, **{"gen_bn1/gamma": hostile})
    reason = "bn1/gamma holds Python objects, which are not read; nothing in it was executed"
    assert refusal(source) == f"{source}: {reason}"
    assert not mark.exists()
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(source)["bn1/gamma"]
    np.load(source, allow_pickle=True)["bn1/gamma"]
    assert mark.exists()  # the file does what a careless reader would have suffered from


def test_announced_sizes_are_not_allocated(tmp_path: Path) -> None:
    source = tmp_path / "x.npz"
    tracemalloc.start()
    npz(source, "dc0/W", header("(1099511627776, 1024)") + bytes(16))
    assert refusal(source) == f"{source}: dc0/W is (1099511627776, 1024), which is not what the file holds"
    for shape in ("(-4,)", "(-2, -2)"):
        npz(source, "dc0/W", header(shape) + bytes(16))
        assert refusal(source) == f"{source}: dc0/W is {shape}, which is not what the file holds"
    npz(source, "dc0/W", header("(4,)") + bytes(16), announced=2**31)
    bomb = "announces arrays more than 20 times as large as the file; it was not unpacked"
    assert refusal(source) == f"{source}: {bomb}"
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    np.savez_compressed(source, **{"dc0/W": np.zeros(2**20, np.float32)})
    assert refusal(source) == f"{source}: {bomb}"


def test_other_content_is_one_line(tmp_path: Path) -> None:
    source = tmp_path / "x.npz"
    source.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert refusal(source) == f"{source}: is not an npz file"
    source.write_bytes(b"")
    assert refusal(source) == f"{source}: is damaged or cut short"
    torch.save({"dc0/W": torch.zeros(1)}, source)
    assert refusal(source).endswith("data.pkl, which is not an array; an .npz of Chainer's has nothing else")
    np.savez(source, **{"vgen/dc0/W": np.zeros(1)})
    assert refusal(source) == f"{source}: holds no frame_seed"
    np.savez(source, **{"vgen/dc0/W": np.zeros(1), "x": np.zeros(1)})
    assert refusal(source) == f"{source}: has x, which belongs to none of frame_seed, image, discriminator"
    for data in (b"", b"\x93NUMPY", b"\x93NUMPY\x03\x00", header("(4,"), header("(4,)", "'<f'9"), header("'a'")):
        npz(source, "dc0/W", data)
        assert refusal(source).startswith(f"{source}: is damaged or cut short")
    npz(source, "dc0/W", header("(4,)", f"'{'a' * 20000}'"))
    assert refusal(source).startswith(f"{source}: is damaged or cut short (Header info length")
    assert refusal(tmp_path) == f"{tmp_path}: cannot be read (Is a directory)"


@pytest.mark.parametrize("compressed", [False, True])
def test_every_cut_and_changed_byte_is_one_line(model: TGAN, tmp_path: Path, compressed: bool) -> None:
    source = save(tmp_path, model, compressed=compressed)
    whole = source.read_bytes()
    for length in range(0, len(whole), 50):
        source.write_bytes(whole[:length])
        assert refusal(source) == f"{source}: is damaged or cut short", length
    refusals = 0
    for place in range(0, len(whole), 7):
        source.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read(source)
        except UserError as error:
            refusals += 1
            assert str(error).startswith(f"{source}: ") and "\n" not in str(error)
    assert refusals > len(whole) // 14


def test_command(model: TGAN, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = save(tmp_path, model), tmp_path / "tgan.ckpt"
    words = ["convert", "--model", "tgan", "--from", str(source), "--out", str(out)]
    assert main(words) == 0 and capsys.readouterr().out == f"wrote {out}\n"
    videos = vidgen.load(out).sample(2, seed=5)
    assert videos.shape == (2, 3, 16, 32, 32) and torch.equal(videos, model.sample(2, seed=5))
    assert main(["sample", "--ckpt", str(out), "--num", "1", "--out", str(tmp_path / "videos")]) == 0
    capsys.readouterr()
    source.write_bytes(source.read_bytes()[:-30])
    assert main(words) == 2
    assert capsys.readouterr().err == f"vidgen: error: {source}: is damaged or cut short\n"
    assert main([*words, "discriminater=x"]) == 2
    line = "discriminater: not an option of the tgan converter; did you mean 'discriminator'?"
    assert capsys.readouterr().err == f"vidgen: error: {line}\n"
