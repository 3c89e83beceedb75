"""tools/tfrecord.py reads what TensorFlow writes, and tells damaged records apart."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import tfrecord
from tfrecord import DamagedRecord, crc32c, masked_crc32c, parse_example, records


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def example(features: dict[str, bytes]) -> bytes:
    entries = [field(1, field(1, name.encode()) + field(2, feature)) for name, feature in features.items()]
    return field(1, b"".join(entries))


def framed(data: bytes) -> bytes:
    header = struct.pack("<Q", len(data))
    return header + struct.pack("<I", masked_crc32c(header)) + data + struct.pack("<I", masked_crc32c(data))


@pytest.mark.parametrize(
    ("data", "checksum"),
    [  # RFC 3720, appendix B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_the_checksum_is_that_of_the_standard(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


@pytest.mark.parametrize("length", [511, 512, 513, 767, 768, 1000, 5 * 256, 100_003])
def test_lanes_give_the_same_checksum_as_byte_after_byte(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == ~tfrecord._advance(0xFFFFFFFF, data) & 0xFFFFFFFF


def test_a_record_that_tensorflow_wrote_is_read() -> None:
    # TFRecordWriter.write(b"") and the eight zero bytes of its length
    written = bytes(8) + bytes.fromhex("29039807") + bytes.fromhex("d8ea82a2")
    assert [record.read() for record in records(io.BytesIO(written))] == [b""]


def test_records_come_in_order_whether_they_are_read_or_not() -> None:
    file = io.BytesIO(framed(b"one") + framed(b"two" * 400) + framed(b"three"))
    read = [record.read() for record in records(file) if record.position != 1]
    assert read == [b"one", b"three"]
    file.seek(0)
    assert [record.read() for record in records(file)] == [b"one", b"two" * 400, b"three"]


def test_a_changed_byte_is_noticed_and_the_next_record_still_read() -> None:
    raw = bytearray(framed(b"one") + framed(b"two"))
    raw[12] ^= 1
    first, second = records(io.BytesIO(bytes(raw)))
    with pytest.raises(DamagedRecord, match=r"^the checksum of record 0 is wrong$"):
        first.read()
    assert second.read() == b"two"


def test_a_changed_length_ends_the_file() -> None:
    raw = bytearray(framed(b"one") + framed(b"two"))
    raw[len(framed(b"one"))] ^= 1
    found = records(io.BytesIO(bytes(raw)))
    assert next(found).read() == b"one"
    with pytest.raises(DamagedRecord, match=r"^the length of record 1 is damaged, it and what follows are lost$"):
        next(found)


@pytest.mark.parametrize("missing", [1, 5, 8, 12])
def test_a_file_that_is_cut_off_is_noticed(missing: int) -> None:
    found = records(io.BytesIO((framed(b"one") + framed(b"two"))[:-missing]))
    assert next(found).read() == b"one"
    with pytest.raises(DamagedRecord, match=r"^record 1 is cut off$"):
        next(found).read()


def test_all_kinds_of_features_are_read() -> None:
    packed = field(1, struct.pack("<3f", 0.5, -1.25, 3.0))
    unpacked = b"".join(varint(1 << 3 | 5) + struct.pack("<f", value) for value in (0.5, -1.25, 3.0))
    data = example(
        {
            "bytes": field(1, field(1, b"a\x00b") + field(1, b"")),
            "packed": field(2, packed),
            "unpacked": field(2, unpacked),
            "integers": field(3, field(1, varint(7) + varint(-2) + varint(2**40))),
            "unpacked integers": field(3, varint(1 << 3) + varint(7) + varint(1 << 3) + varint(-2)),
            "nothing": b"",
        }
    )
    found = parse_example(data)
    assert found["bytes"] == [b"a\x00b", b""]
    for name in ("packed", "unpacked"):
        assert found[name].dtype == np.float32  # type: ignore[union-attr]
        assert found[name].tolist() == [0.5, -1.25, 3.0]  # type: ignore[union-attr]
    assert found["integers"].tolist() == [7, -2, 2**40]  # type: ignore[union-attr]
    assert found["unpacked integers"].tolist() == [7, -2]  # type: ignore[union-attr]
    assert found["nothing"] == []


def test_fields_that_are_not_known_are_passed_over() -> None:
    unknown = varint(9 << 3) + varint(300) + varint(10 << 3 | 1) + bytes(8) + varint(11 << 3 | 5) + bytes(4)
    assert parse_example(unknown + example({"name": field(1, field(1, b"value"))})) == {"name": [b"value"]}


@pytest.mark.parametrize(
    "data",
    [example({"name": field(1, field(1, b"value"))})[:-1], b"\xff" * 20, b"\x0b", b"\x0a", field(1, field(1, b"\x0c"))],
)
def test_what_is_no_example_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedRecord, match=r"^it is not a tf.train.Example$"):
        parse_example(data)
