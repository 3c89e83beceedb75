"""The reader of Torch7's files builds only what it knows, within the bounds of the file."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.interop.torch7_file import NAMES, Lua, Object, Raw, Torch7File
from vidgen.errors import UserError
from vidgen.interop.torch7 import Function, Record, read


def written(path: Path, value: Any, **options: bool) -> Any:
    return read(Torch7File(**options).write(path / "x.t7", value))


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def refused(path: Path, *data: bytes) -> str:
    (path / "x.t7").write_bytes(b"".join(data))
    return refusal(path / "x.t7")


def integers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}i", *values)


def longs(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def text(value: bytes) -> bytes:
    return integers(len(value)) + value


def array(number: int, path: bytes) -> bytes:
    return integers(4, number) + text(b"V 1") + text(path)


@pytest.mark.parametrize("ascii_format", [False, True])
@pytest.mark.parametrize("versioned", [False, True])
def test_values_of_every_type(tmp_path: Path, ascii_format: bool, versioned: bool) -> None:
    value = {
        "nothing": "",
        "text": "a b\nc\xe9",
        "numbers": [1, -2.5, 1e300, float("inf")],
        "truth": [True, False],
        2.5: {"inner": []},
        "object": Object("nn.Linear", {"inplace": True}),
        "storage": torch.arange(6.0),
    }
    result = written(tmp_path, value, text=ascii_format, versioned=versioned)
    assert result["nothing"] == "" and result["text"] == value["text"]
    assert result["numbers"] == {1: 1, 2: -2.5, 3: 1e300, 4: float("inf")}
    assert result["truth"] == {1: True, 2: False} and type(result["truth"][1]) is bool
    assert result[2.5] == {"inner": {}}
    assert type(result["object"]) is Record and result["object"].path == "nn.Linear"
    assert result["object"].attributes == {"inplace": True}


@pytest.mark.parametrize("ascii_format", [False, True])
@pytest.mark.parametrize("dtype", list(NAMES), ids=list(NAMES.values()))
def test_tensors_of_every_type(tmp_path: Path, dtype: torch.dtype, ascii_format: bool) -> None:
    base = (torch.arange(24) - (0 if dtype == torch.uint8 else 12)).to(dtype)
    if dtype.is_floating_point:
        base = base / 7
    value = {
        "whole": base.view(2, 3, 4),
        "view": base.view(4, 6)[1:, ::2],
        "transposed": base.view(4, 6).t(),
        "empty": torch.empty(0, dtype=dtype),
        "repeated": base[3:4].expand(5),
    }
    for cuda in (False, True):
        result = written(tmp_path, value, text=ascii_format, cuda=cuda)
        for key, expected in value.items():
            assert result[key].dtype == dtype and torch.equal(result[key], expected), key
        assert result["view"].untyped_storage().data_ptr() == result["whole"].untyped_storage().data_ptr()


def test_cuda_floats_have_no_type_in_their_name(tmp_path: Path) -> None:
    path = Torch7File(cuda=True).write(tmp_path / "x.t7", torch.ones(2))
    assert b"torch.CudaTensor" in path.read_bytes() and b"torch.CudaStorage" in path.read_bytes()
    assert torch.equal(read(path), torch.ones(2))


def test_one_object_stays_one(tmp_path: Path) -> None:
    tensor, table = torch.ones(3), {"a": 1}
    module = Object("nn.Sequential", {"weight": tensor, "table": table})
    module.attributes["itself"] = module
    result = written(tmp_path, [module, module, tensor, table])
    assert result[1] is result[2] and result[1].attributes["itself"] is result[1]
    assert result[1].attributes["weight"] is result[3] and result[1].attributes["table"] is result[4]


@pytest.mark.parametrize("tag", [6, 7, 8])
@pytest.mark.parametrize("ascii_format", [False, True])
def test_functions_are_skipped(tmp_path: Path, tag: int, ascii_format: bool) -> None:
    captured = torch.ones(2)
    function = Lua(b"\x1bLJ\x01os.execute('false')", [{"name": "x", "value": captured}], tag)
    repeated = [function, function, captured, "end"]
    result = written(tmp_path, repeated, text=ascii_format)
    assert type(result[1]) is Function and not vars(result[1])
    assert torch.equal(result[3], captured) and result[4] == "end"
    assert (result[1] is result[2]) == (tag != 6)


def test_entries_under_objects_are_left_out(tmp_path: Path) -> None:
    writer = Torch7File()
    writer.parts.append(integers(3, 1, 3))
    writer.numbers["table"] = 1
    for part in (True, "boolean", torch.ones(1), "tensor", "a", 1):
        writer.put(part)
    (tmp_path / "x.t7").write_bytes(b"".join(writer.parts))
    assert read(tmp_path / "x.t7") == {"a": 1}


def test_other_files(tmp_path: Path) -> None:
    foreign = "is not a file written by Torch7's torch.save"
    assert refused(tmp_path, b"\x89PNG\r\n\x1a\n", bytes(100)) == foreign
    assert refused(tmp_path, b"PK\x03\x04", bytes(100)) == foreign
    assert refused(tmp_path, integers(9, 0)) == foreign
    assert refused(tmp_path, struct.pack(">2i", 4, 1)) == foreign
    assert refused(tmp_path, b"45\n") == foreign
    assert refused(tmp_path) == "is damaged or cut short"
    assert refusal(tmp_path / "none") == "cannot be read (No such file or directory)"
    assert refusal(tmp_path) == "cannot be read (Is a directory)"


def test_impossible_content(tmp_path: Path) -> None:
    def reason(*data: bytes) -> str:
        message = refused(tmp_path, *data)
        assert message.startswith("is damaged or cut short (") and message.endswith(")")
        return message.removeprefix("is damaged or cut short (").removesuffix(")")

    table = integers(3, 1, 1) + integers(2) + text(b"a")
    assert reason(table, integers(77)) == "there is no type 77"
    assert reason(table, integers(3, 7, 0)) == "object 7 is used before it appears"
    assert reason(table, integers(3, 0, 0)) == "object 0 is used before it appears"
    assert reason(table, integers(4, -1)) == "object -1 is used before it appears"
    assert reason(integers(3, 1, -1)) == "a length is negative"
    assert reason(integers(2, -1)) == "a length is negative"
    assert reason(integers(8, 1, -5)) == "a length is negative"
    assert reason(array(1, b"nn.A\nB")) == "a class is called 'nn.A\\nB'"
    assert reason(array(1, b"")) == "a class is called ''"
    assert reason(array(1, b"nn.A"), integers(0)) == "the attributes of a nn.A are no table"
    assert reason(array(1, b"torch.Tensor")) == "a torch.Tensor has no element type"


def tensor_bytes(dimensions: int, sizes: tuple[int, ...], offset: int, storage: bytes) -> bytes:
    return array(1, b"torch.FloatTensor") + integers(dimensions) + longs(*sizes, offset) + storage


FOUR = array(2, b"torch.FloatStorage") + longs(4) + struct.pack("<4f", 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("dimensions", "sizes", "offset", "storage", "reason"),
    [
        (1, (5, 1), 1, FOUR, "a tensor reaches beyond its storage"),
        (1, (2, 4), 1, FOUR, "a tensor reaches beyond its storage"),
        (2, (2, 2, 2, 2), 1, FOUR, "a tensor reaches beyond its storage"),
        (1, (1, 1), 5, FOUR, "a tensor reaches beyond its storage"),
        (2, (2**40, 2**40, 0, 0), 1, FOUR, "a tensor reaches beyond its storage"),
        (1, (2, 2**63 - 1), 1, FOUR, "a tensor reaches beyond its storage"),
        (1, (2, 1), 0, FOUR, "a tensor has an impossible size"),
        (1, (-2, 1), 1, FOUR, "a tensor has an impossible size"),
        (1, (0, 1), 1, FOUR, "a tensor has an impossible size"),
        (1, (2, -1), 3, FOUR, "a tensor has an impossible size"),
        (-1, (), 1, FOUR, "a tensor has -1 dimensions"),
        (2**30, (), 1, FOUR, f"a tensor has {2**30} dimensions"),
        (1, (2, 1), 1, integers(0), "a tensor has no storage"),
        (1, (2, 1), 1, integers(3, 2, 0), "a tensor has no storage"),
        (1, (2, 1), 1, integers(4, 1), "tensor 1 contains itself"),
        (1, (2, 1), 1, FOUR.replace(b"Float", b"Int").replace(integers(18), integers(16)), None),
        (1, (4, 1), 1, FOUR.replace(longs(4), longs(-4)), "a length is negative"),
    ],
)
def test_a_tensor_cannot_look_beyond_its_storage(
    tmp_path: Path, dimensions: int, sizes: tuple[int, ...], offset: int, storage: bytes, reason: str | None
) -> None:
    message = refused(tmp_path, tensor_bytes(dimensions, sizes, offset, storage))
    assert message == f"is damaged or cut short ({reason or 'a tensor and its storage are of different types'})"


@pytest.mark.parametrize(
    "data",
    [
        integers(2, 2**31 - 1) + bytes(20),
        integers(3, 1, 2**31 - 1) + bytes(20),
        integers(8, 1, 2**31 - 1) + bytes(20),
        integers(4, 1, 2**31 - 1) + bytes(20),
        array(1, b"torch.DoubleStorage") + longs(2**60) + bytes(20),
        array(1, b"torch.FloatStorage") + longs(2**62) + bytes(20),
        array(1, b"torch.FloatTensor") + integers(64) + bytes(20),
    ],
    ids=["text", "table", "function", "class", "storage", "wrapping", "tensor"],
)
def test_an_announced_length_beyond_the_file_is_not_allocated(tmp_path: Path, data: bytes) -> None:
    tracemalloc.start()
    message = refused(tmp_path, data)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message == "is damaged or cut short" and most < 2**20


def test_ascii_lengths_are_checked(tmp_path: Path) -> None:
    reason = "is damaged or cut short (a line has 1 numbers instead of 3)"
    assert refused(tmp_path, b"4\n1\n3\nV 1\n18\ntorch.FloatStorage\n3\n1.5\n") == reason
    assert refused(tmp_path, b"4\n1\n3\nV 1\n18\ntorch.FloatStorage\n999999999999\n").startswith("is damaged")
    assert refused(tmp_path, b"2\n1\nab") == "is damaged or cut short (a text has another length than announced)"
    assert refused(tmp_path, b"2\n-1\nab") == "is damaged or cut short (a length is negative)"
    assert refused(tmp_path, b"1\nx\n") == "is damaged or cut short (could not convert string to float: b'x')"
    assert refused(tmp_path, b"1\n1.5") == "is damaged or cut short"


@pytest.mark.parametrize("opening", [integers(3), None, integers(6)], ids=["tables", "objects", "functions"])
def test_deep_nesting_is_refused(tmp_path: Path, opening: bytes | None) -> None:
    def nested(depth: int) -> bytes:
        parts = []
        for number in range(1, depth + 1):
            if opening is None:
                parts.append(array(number, b"nn.A"))
            elif opening == integers(6):
                parts.append(integers(6, 0))
            else:
                parts.append(integers(3, number, 1) + integers(2) + text(b"a"))
        return b"".join(parts)

    reason = "objects are nested more than 100 deep"
    assert refused(tmp_path, nested(100_000)) == f"is damaged or cut short ({reason})"
    assert refused(tmp_path, nested(100)) == "is damaged or cut short"


@pytest.mark.parametrize("ascii_format", [False, True])
def test_every_cut_of_a_file_is_one_line(tmp_path: Path, ascii_format: bool) -> None:
    weight = torch.randn(3, 4)
    module = Object("nn.Linear", {"weight": weight, "bias": weight[0], "train": True, "f": Lua(b"code", ["x"])})
    whole = Torch7File(text=ascii_format).write(tmp_path / "whole.t7", [module, 1.5, "text"]).read_bytes()
    assert isinstance(read(tmp_path / "whole.t7"), dict)
    for length in range(len(whole)):
        try:
            read_cut = refused(tmp_path, whole[:length])
        except pytest.fail.Exception:  # a number can lose its last digits, and a last line its end
            assert ascii_format and length >= len(whole) - 1
        else:
            assert read_cut.startswith("is damaged or cut short") or (ascii_format and length < 2), length


def test_any_changed_byte_is_read_or_refused(tmp_path: Path) -> None:
    weight = torch.randn(3, 4)
    module = Object("nn.Linear", {"weight": weight, "bias": weight[0], "train": True, "f": Lua(b"code", ["x"])})
    whole = Torch7File().write(tmp_path / "whole.t7", [module, 1.5]).read_bytes()
    path = tmp_path / "x.t7"
    refusals = 0
    for place in range(len(whole)):
        for byte in (0, 4, 127, 255):
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            try:
                read(path)
            except UserError as error:
                refusals += 1
                assert str(error).startswith(f"{path}: is ") and "\n" not in str(error)
    assert refusals > len(whole)


def test_what_follows_the_object_is_ignored(tmp_path: Path) -> None:
    path = Torch7File().write(tmp_path / "x.t7", [1, Raw(integers(5, 1))])
    path.write_bytes(path.read_bytes() + b"more")
    assert read(path) == {1: 1, 2: True}
