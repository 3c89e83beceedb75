"""The reader of foreign pickles builds only what it knows, within the bounds of the file."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
import zipfile
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.interop.legacy_file import MAGIC, PROTOCOL, SYS_INFO, Call, Global, Instance, LegacyFile, module
from vidgen.errors import UserError
from vidgen.interop.restricted_pickle import Record, module_state, read


@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_torch_save_writes(tmp_path: Path, zipped: bool) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 4), nn.BatchNorm2d(3))
    shared = torch.randn(4, 6)
    value: dict[str, Any] = {
        "state": network.state_dict(),
        "parameter": nn.Parameter(torch.randn(3)),
        "views": [shared[1:, ::2], shared.t(), torch.zeros(0)],
        "types": [torch.randn(2).to(kind) for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64)],
        "plain": (1, 2.5, "text", None, True),
    }
    torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    result = read(tmp_path / "x.pt")
    assert result["plain"] == value["plain"] and isinstance(result["state"], OrderedDict)
    assert all(torch.equal(result["state"][key], entry) for key, entry in value["state"].items())
    assert torch.equal(result["parameter"], value["parameter"])
    for key in ("views", "types"):
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(result[key], value[key], strict=True))


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_become_records_without_running_their_class(tmp_path: Path, zipped: bool) -> None:
    torch.save(nn.Linear(2, 1), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    record = read(tmp_path / "x.pt", ["torch.nn.modules.*"])
    assert isinstance(record, Record) and record.path == "torch.nn.modules.linear.Linear"
    assert record.attributes["in_features"] == 2 and record.attributes["_parameters"]["weight"].shape == (1, 2)
    with pytest.raises(UserError) as caught:
        read(tmp_path / "x.pt")
    refused = "names torch.nn.modules.linear.Linear, which is not allowed in such a file; nothing in it was executed"
    assert str(caught.value) == f"{tmp_path / 'x.pt'}: {refused}"


def refused(path: Path) -> str:
    """Why a file is not read, without its name."""
    with pytest.raises(UserError) as caught:
        read(path)
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_tensor_cannot_look_beyond_its_storage(tmp_path: Path) -> None:
    storage = Call(Global("torch._utils", "_rebuild_tensor"), ())
    for offset, size, stride, reason in (
        (0, (5,), (1,), "a tensor reaches beyond its storage"),
        (3, (2,), (1,), "a tensor reaches beyond its storage"),
        (-1, (2,), (1,), "a tensor has a negative size"),
        (0, (2,), (-1,), "a tensor has a negative size"),
    ):
        file = LegacyFile()
        inner = file.put_tensor(torch.zeros(4))
        start = inner.index(b"(") + 1  # behind the function and the mark
        end = inner.index(b"Q") + 1

        class Raw(Call):
            opcodes = inner[start:end]

        original = file.put
        file.put = lambda value, original=original: value.opcodes if isinstance(value, Raw) else original(value)  # type: ignore[method-assign]
        file.write(tmp_path / "x", Call(storage.function, (Raw(storage.function, ()), offset, size, stride)))
        with pytest.raises(UserError) as caught:
            read(tmp_path / "x")
        assert str(caught.value) == f"{tmp_path / 'x'}: is damaged or cut short ({reason})"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Call(Global("__builtin__", "set"), (torch.zeros(4),)), "a container is made of something else than a list"),
        (Call(Global("torch", "Size"), (torch.zeros(4),)), "a container is made of something else than a list"),
        (Call(Global("__builtin__", "set"), ([((1, 2), 3)],)), "a key is neither a text nor a number"),
        (OrderedDict({(1, 2): 3}), "a key is neither a text nor a number"),
        (torch.zeros(1).expand(1000), "a tensor has more elements than its storage"),
    ],
)
def test_a_small_file_cannot_ask_for_much_work(tmp_path: Path, value: Any, reason: str) -> None:
    file = LegacyFile()
    if isinstance(value, torch.Tensor):  # as it is, not made contiguous
        torch.save(value, tmp_path / "x")
    else:
        file.write(tmp_path / "x", value)
    assert refused(tmp_path / "x") == f"is damaged or cut short ({reason})"


def test_the_key_of_a_storage_is_a_text(tmp_path: Path) -> None:
    class Nested(LegacyFile):
        def put(self, value: Any) -> bytes:
            if value == "94000000":  # one tuple inside the other, each written once
                return b")q\x00" + b"".join(bytes([0x30, 0x68, n, 0x68, n, 0x86, 0x71, n + 1]) for n in range(60))
            return super().put(value)

    Nested().write(tmp_path / "x", torch.zeros(2))
    assert refused(tmp_path / "x") == "is damaged or cut short (an unexpected persistent id)"


def test_a_function_cannot_be_changed(tmp_path: Path) -> None:
    size = Global("torch", "Size")

    class Changed(LegacyFile):
        def put(self, value: Any) -> bytes:
            if value is size:  # push the function, then set an attribute of it
                return super().put(value) + super().put((None, {"_function": 1})) + b"b"
            return super().put(value)

    Changed().write(tmp_path / "x", [size])
    with pytest.raises(UserError) as caught:
        read(tmp_path / "x")
    assert str(caught.value) == f"{tmp_path / 'x'}: is damaged or cut short (the file sets an attribute of a function)"


def test_an_announced_storage_larger_than_the_file_is_not_allocated(tmp_path: Path) -> None:
    file = LegacyFile()
    file.write(tmp_path / "x", torch.zeros(3))
    whole = (tmp_path / "x").read_bytes()
    huge = whole.replace(b"J\x03\x00\x00\x00Nt", b"J\xff\xff\xff\x7fNt")
    assert huge != whole
    (tmp_path / "x").write_bytes(huge)
    with pytest.raises(UserError) as caught:
        read(tmp_path / "x")
    assert str(caught.value) == f"{tmp_path / 'x'}: is damaged or cut short"


def test_storages_are_not_larger_than_the_file_together(tmp_path: Path) -> None:
    file = LegacyFile()
    file.write(tmp_path / "x", [torch.zeros(300), torch.zeros(301)])
    whole = (tmp_path / "x").read_bytes()
    size = struct.pack("<i", len(whole) // 4 - 10)
    for numel in (300, 301):  # each as large as the file
        whole = whole.replace(b"J" + struct.pack("<i", numel) + b"Nt", b"J" + size + b"Nt")
    (tmp_path / "x").write_bytes(whole)
    assert refused(tmp_path / "x") == "is damaged or cut short"


def test_a_storage_without_content_is_refused(tmp_path: Path) -> None:
    file = LegacyFile()
    file.write(tmp_path / "x", [torch.zeros(2), torch.zeros(3)])
    whole, keys = (tmp_path / "x").read_bytes(), sorted(file.storages)
    assert torch.equal(read(tmp_path / "x")[1], torch.zeros(3))
    (tmp_path / "x").write_bytes(whole.replace(pickle.dumps(keys, 2), pickle.dumps(keys[:1], 2)))
    assert refused(tmp_path / "x") == "is damaged or cut short"


CLAIMS = {
    "the 2**28-th object": b"\x80\x02Nr\xff\xff\xff\x0f.",
    "the 2**28-th object, in text": b"Np268435455\n.",
    "a text of 2**60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"abc.",
    "a frame of 2**60 bytes": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_what_a_pickle_announces_is_not_allocated(tmp_path: Path, claim: bytes, zipped: bool) -> None:
    path = tmp_path / "x"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/data.pkl", claim)
    else:
        path.write_bytes(b"".join(pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, SYS_INFO)) + claim)
    tracemalloc.start()
    reason = refused(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert reason.startswith("is damaged or cut short") and most < 2**22


def test_entries_of_a_zip_that_lie_inside_each_other_are_refused(tmp_path: Path) -> None:
    path, values = tmp_path / "x", [torch.zeros(1000) for _ in range(8)]
    torch.save(values, path)
    assert len(read(path)) == 8
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("x/data.pkl")
    body, inside = bytes(4000), []
    for key in range(8):
        info = zipfile.ZipInfo(f"x/data/{key}")
        info.file_size = info.compress_size = len(body)
        info.CRC = zlib.crc32(body)
        inside.append((info, len(body)))
        body = info.FileHeader() + body
    path.write_bytes(body)
    for info, length in inside:
        info.header_offset = len(body) - length - len(info.FileHeader())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.filelist += [info for info, _ in inside]
    with zipfile.ZipFile(path) as archive:  # each can be read
        assert [len(archive.read(f"x/data/{key}")) for key in (0, 7)] == [4000, inside[7][1]]
    assert refused(path) == "is damaged or cut short"


def test_a_refused_name_is_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x04\x8c\x05o\ns\x1b!\x8c\x06system\x93.")
    reason = r"names o\ns\x1b!.system, which is not allowed in such a file; nothing in it was executed"
    assert refused(tmp_path / "x") == reason


def test_the_state_of_a_recorded_module_is_its_state_dict(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 4, bias=False), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), nn.LSTM(2, 3))
    torch.save(network, tmp_path / "x.pt")
    state = module_state(read(tmp_path / "x.pt", ["torch.nn.modules.*"]))
    assert [*state] == [*network.state_dict()]
    assert all(type(state[key]) is torch.Tensor for key in state)
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())


def refused_module(path: Path, value: Instance) -> str:
    LegacyFile().write(path, value)
    record = read(path, ["torch.nn.modules.*", "torch.nn.backends.thnn._get_thnn_function_backend"])
    with pytest.raises(UserError) as caught:
        module_state(record, "net.")
    return str(caught.value)


def test_a_recorded_module_that_is_none_is_refused(tmp_path: Path) -> None:
    for kind in ("_parameters", "_buffers", "_modules"):
        for entries in (["a"], {3: torch.zeros(1)}):
            inner = module("torch.nn.modules.A", {}, {})
            inner.state[kind] = entries
            whole = module("torch.nn.modules.A", {}, {}, children={"0": inner})
            assert refused_module(tmp_path / "x", whole) == f"net.0 has {kind} that are not stored by name"


def test_modules_are_not_followed_without_end(tmp_path: Path) -> None:
    shared = nn.ReLU()
    deep: nn.Module = nn.ReLU()
    for _ in range(110):
        deep = nn.Sequential(deep)
    for network, reason in (
        (nn.Sequential(shared, nn.Sequential(shared)), "net.1.0 is the same module as another one"),
        (deep, "its modules are nested more than 100 deep"),
    ):
        torch.save(network, tmp_path / "x")
        with pytest.raises(UserError) as caught:
            module_state(read(tmp_path / "x", ["torch.nn.modules.*"]), "net.")
        assert str(caught.value) == reason
