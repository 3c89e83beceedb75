"""Weights of Inception-I3D are read from every layout, identified, and refused with one line."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.metrics.extractors import i3d_weights
from vidgen.metrics.extractors.i3d import load
from vidgen.metrics.extractors.i3d_network import InceptionI3D
from vidgen.metrics.extractors.i3d_weights import FVD_FILE, _table, _tensorflow_crc32c, crc32c, identify, read
from vidgen.metrics.extractors.random_weights import filled_state, fingerprint

BRANCHES = {
    "b0": ("Branch_0/Conv3d_0a_1x1", "branch_0"),
    "b1a": ("Branch_1/Conv3d_0a_1x1", "branch_1.0"),
    "b1b": ("Branch_1/Conv3d_0b_3x3", "branch_1.1"),
    "b2a": ("Branch_2/Conv3d_0a_1x1", "branch_2.0"),
    "b2b": ("Branch_2/Conv3d_0b_3x3", "branch_2.1"),
    "b3b": ("Branch_3/Conv3d_0b_1x1", "branch_3.1"),
}
PARTS = {
    "conv3d.weight": "conv_3d/w",
    "conv3d.bias": "conv_3d/b",
    "bn.bias": "batch_norm/beta",
    "bn.running_mean": "batch_norm/moving_mean",
    "bn.running_var": "batch_norm/moving_variance",
}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in InceptionI3D().state_dict().items()}
    return filled_state(shapes)


def without(state: dict[str, Tensor], *endings: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.endswith(endings)}


def tensorflow(state: dict[str, Tensor], prefix: str = "RGB/inception_i3d/") -> dict[str, Tensor]:
    named = {}
    for key, value in without(state, "bn.weight", "num_batches_tracked").items():
        stage, *branch, kind, part = key.split(".")
        place = "Logits/Conv3d_0c_1x1" if stage == "logits" else "/".join([stage, *(BRANCHES[b][0] for b in branch)])
        if place == "Mixed_5b/Branch_2/Conv3d_0b_3x3":
            place = "Mixed_5b/Branch_2/Conv3d_0a_3x3"
        laid_out = value.permute(2, 3, 4, 1, 0) if value.ndim == 5 else value
        if kind == "bn":
            laid_out = value.view(1, 1, 1, 1, -1)
        named[f"{prefix}{place}/{PARTS[f'{kind}.{part}']}"] = laid_out.contiguous()
    return named


def hassony(state: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {}
    for key, value in state.items():
        stage, *branch, kind, part = key.split(".")
        stage = "conv3d_0c_1x1" if stage == "logits" else stage[0].lower() + stage[1:]
        kind = "batch3d" if kind == "bn" else kind
        named[".".join([stage, *(BRANCHES[b][1] for b in branch), kind, part])] = value
    return named


def raw(state: dict[str, Tensor]) -> bytearray:
    """The data file of a TensorFlow checkpoint: tensors one after the other, sorted by TensorFlow's names."""
    named = tensorflow(state)
    return bytearray(b"".join(named[key].numpy().tobytes() for key in sorted(named)))


def assert_read(path: Path, state: dict[str, Tensor]) -> None:
    found = without(read(path), "num_batches_tracked")
    expected = without(state, "num_batches_tracked")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def message(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def slow_crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def test_the_checksum_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283 and crc32c(b"") == 0


@pytest.mark.parametrize("length", [1, 3, 4, 5, 63, 64, 65, 128, 129, 4097])
def test_checksums_of_all_lengths(length):
    data = os.urandom(length)
    assert crc32c(data) == slow_crc32c(data)
    assert crc32c(np.frombuffer(data, np.uint8)) == slow_crc32c(data)


def test_checksums_beyond_one_block():
    data = os.urandom(i3d_weights._BLOCK * i3d_weights._STRING + 77)
    joined = np.frombuffer(data, np.uint8)
    first = crc32c(data[:-77])
    # CRC is affine: changing the tail changes the checksum by what it changes for zeros before it
    changed = joined.copy()
    changed[-1] ^= 1
    assert crc32c(changed) ^ crc32c(data) == crc32c(b"\0\0\0\1") ^ crc32c(b"\0\0\0\0")
    assert crc32c(data + b"\0") != crc32c(data) != first


def test_the_data_file_of_a_tensorflow_checkpoint(state, tmp_path):
    assert len(raw(state)) == FVD_FILE.size
    for name in ("model.ckpt.data-00000-of-00001", "renamed.bin"):
        (tmp_path / name).write_bytes(raw(state))
        assert_read(tmp_path / name, state)


def test_a_data_file_of_another_size(tmp_path):
    path = tmp_path / "model.ckpt.data-00000-of-00001"
    path.write_bytes(b"123")
    expected = f"has 3 bytes, which fits no known I3D checkpoint; {FVD_FILE.url} has 50818176"
    assert message(path) == f"{path}: {expected}"


def test_every_style_of_names(state, tmp_path):
    styles = {
        "pi": without(state, "num_batches_tracked"),
        "tf": tensorflow(state),
        "tf_plain": tensorflow(state, prefix=""),
        "h2": hassony(state),
        "tf_variables": {f"{key}:0": value for key, value in tensorflow(state).items()},
        "no_gamma": without(state, "bn.weight", "num_batches_tracked"),
        "parallel": {f"module.{key}": value for key, value in state.items()},
        "within": {f"i3d.net.{key}": value for key, value in hassony(state).items()},
    }
    for name, named in styles.items():
        save_file({key: value.contiguous() for key, value in named.items()}, tmp_path / name)
        assert_read(tmp_path / name, state)


def test_every_kind_of_file(state, tmp_path):
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"epoch": 3, "state_dict": hassony(state)}, tmp_path / "nested.pt")
    np.savez(tmp_path / "arrays.npz", **{key: value.numpy() for key, value in tensorflow(state).items()})
    for name in ("plain.pt", "nested.pt", "arrays.npz"):
        assert_read(tmp_path / name, state)


class Tree(nn.Module):
    """Modules of a torch script, named as in a state dict."""

    def forward(self, x: Tensor, rescale: bool = False) -> Tensor:
        return x


def scripted(state: dict[str, Tensor], path: Path) -> None:
    root = Tree()
    for key, value in state.items():
        *modules, leaf = key.split(".")
        place: nn.Module = root
        for name in modules:
            if name not in dict(place.named_children()):
                place.add_module(name, Tree())
            place = place.get_submodule(name)
        place.register_buffer(leaf, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(path)


def test_tensors_of_a_torchscript_archive_without_its_code(state, tmp_path):
    scripted(hassony(state), tmp_path / "i3d.pt")
    with zipfile.ZipFile(tmp_path / "i3d.pt") as whole, zipfile.ZipFile(tmp_path / "no_code.pt", "w") as bare:
        for entry in whole.infolist():
            if "/code/" not in entry.filename:
                bare.writestr(entry, whole.read(entry))
    for name in ("i3d.pt", "no_code.pt"):
        assert_read(tmp_path / name, state)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch executed",)


def test_the_module_around_the_network_of_an_archive(state, tmp_path):
    scripted({f"model.{key}": value for key, value in hassony(state).items()}, tmp_path / "i3d.pt")
    assert_read(tmp_path / "i3d.pt", state)


def test_the_code_of_an_archive_does_not_run(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scripted(hassony(state), tmp_path / "i3d.pt")
    with zipfile.ZipFile(tmp_path / "i3d.pt") as whole, zipfile.ZipFile(tmp_path / "hostile.pt", "w") as hostile:
        for entry in whole.infolist():
            code = b'import os\nos.system("touch executed")\n' if entry.filename.endswith(".py") else b""
            hostile.writestr(entry.filename, code + whole.read(entry))
    assert_read(tmp_path / "hostile.pt", state)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_single(state, tmp_path, dtype):
    given = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    torch.save(given, tmp_path / "x.pt")
    network, weights = load(str(tmp_path / "x.pt"))
    found = network.state_dict()
    assert all(torch.equal(found[key], value.float()) for key, value in given.items() if value.is_floating_point())
    assert found["logits.conv3d.weight"].dtype == torch.float32 and weights.name == "unknown"


def test_a_hostile_pickle_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Hostile()}, tmp_path / "x.pt")
    assert message(tmp_path / "x.pt").startswith(f"{tmp_path / 'x.pt'}: unreadable weights, ")
    with zipfile.ZipFile(tmp_path / "x.pt") as plain, zipfile.ZipFile(tmp_path / "script.pt", "w") as script:
        for entry in plain.infolist():
            script.writestr(entry, plain.read(entry))
        script.writestr("x/constants.pkl", b"\x80\x02).")
    names = "names posix.system, which is not allowed in such a file; nothing in it was executed"
    assert message(tmp_path / "script.pt") == f"{tmp_path / 'script.pt'}: {names}"
    assert not (tmp_path / "executed").exists()


def changes(state: dict[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], str]]:
    key = "Mixed_4b.b1b.conv3d.weight"
    yield without(state, key), f"lacks {key!r}"
    yield {**state, "Mixed_9z.b0.conv3d.weight": torch.ones(1)}, "has an unknown 'Mixed_9z.b0.conv3d.weight'"
    yield {**state, key: state[key][:1]}, f"{key!r} is (1, 96, 3, 3, 3) instead of (208, 96, 3, 3, 3)"
    yield without(state, "Mixed_4b.b1b.bn.weight"), "lacks 'Mixed_4b.b1b.bn.weight'"  # a gamma, where others are
    yield {**state, "logits.conv3d.bias": torch.tensor(1.0)}, "'logits.conv3d.bias' is () instead of (400,)"


def test_missing_unknown_and_misshapen_weights(state, tmp_path):
    for index, (changed, what) in enumerate(changes(state)):
        path = tmp_path / f"{index}.safetensors"
        save_file({key: value.contiguous() for key, value in changed.items()}, path)
        assert message(path) == f"{path}: does not fit InceptionI3D ({what})"


def test_a_weight_under_two_names(state, tmp_path):
    doubled = {**hassony(state), "logits.conv3d.bias": state["logits.conv3d.bias"].clone()}
    save_file({key: value.contiguous() for key, value in doubled.items()}, tmp_path / "x.safetensors")
    known = "holds 'logits.conv3d.bias' twice, the second time as "
    assert message(tmp_path / "x.safetensors").startswith(f"{tmp_path / 'x.safetensors'}: {known}")


def publish(state: dict[str, Tensor], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a state dict pass for a published set."""
    table = _table()
    checksums = [_tensorflow_crc32c(state[key]) for key in table["tensors"]]
    files = {**table["files"], name: {**table["files"][name], "crc32c": checksums}}
    monkeypatch.setattr(i3d_weights, "_table", lambda: {**table, "files": files})


@pytest.mark.parametrize("name", ["kinetics_i3d_rgb_scratch", "kinetics_i3d_rgb_imagenet"])
def test_published_sets_are_known_whatever_file_they_are_in(name, state, tmp_path, monkeypatch):
    publish(state, name, monkeypatch)
    (tmp_path / "raw.data-00000-of-00001").write_bytes(raw(state))
    torch.save(hassony(state), tmp_path / "h2.pt")
    for file in ("raw.data-00000-of-00001", "h2.pt"):
        weights = load(str(tmp_path / file))[1]
        assert (weights.name, weights.file) == (name, file)
        assert weights.published == (name == "kinetics_i3d_rgb_scratch")
        assert weights.fingerprint == fingerprint(state)


def test_other_weights_are_unknown(state, monkeypatch):
    assert identify(state) == "unknown"
    publish(state, "kinetics_i3d_rgb_scratch", monkeypatch)
    assert identify(state) == "kinetics_i3d_rgb_scratch"
    for key in ("Mixed_5c.b2b.conv3d.weight", "Conv3d_1a_7x7.bn.weight"):
        changed = {**state, key: state[key].clone()}
        changed[key].view(-1)[-1] += 1e-3
        assert identify(changed) == "unknown"
    assert identify(without(state, "logits.conv3d.bias")) == "unknown"


def test_a_damaged_data_file_of_a_published_set(state, tmp_path, monkeypatch):
    publish(state, "kinetics_i3d_rgb_scratch", monkeypatch)
    data = raw(state)
    data[-3] ^= 1
    path = tmp_path / "model.ckpt.data-00000-of-00001"
    path.write_bytes(data)
    what = "'Mixed_5c.b3b.conv3d.weight' is not that of kinetics_i3d_rgb_scratch; download it again"
    assert message(path) == f"{path}: damaged, {what}"


def test_as_many_classes_as_the_weights_have(state, tmp_path):
    wider = {**state, "logits.conv3d.weight": torch.zeros(600, 1024, 1, 1, 1), "logits.conv3d.bias": torch.zeros(600)}
    torch.save(wider, tmp_path / "x.pt")
    assert load(str(tmp_path / "x.pt"))[0].num_classes == 600
