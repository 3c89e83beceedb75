"""The reader of foreign pickles builds only what it knows, within the bounds of the file."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.interop.legacy_file import Call, Global, LegacyFile
from vidgen.errors import UserError
from vidgen.interop.restricted_pickle import Record, read


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


def message_for(path: Path, value: Any) -> str:
    LegacyFile().write(path, value)
    with pytest.raises(UserError) as caught:
        read(path)
    return str(caught.value)


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
