"""Read TFRecord files of ``tf.train.Example`` messages, checksums included, without TensorFlow.

A file is a sequence of records: the length of the data (uint64), a masked CRC-32C of those eight bytes, the data, a
masked CRC-32C of the data; integers are little-endian. ``tf.train.SequenceExample`` reads the same way: its context
has the field number that the features of an ``Example`` have.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

Feature = list[bytes] | NDArray[np.float32] | NDArray[np.int64]
Words = NDArray[np.uint32]

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_LANE = 256
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


class DamagedRecord(Exception):
    """A record, or all that follows in its file, cannot be read; the text is the reason."""


class Record:
    """One record of a file; its data are read when they are asked for.

    Args:
        file: the file, at the beginning of the data.
        position: how many records come before it.
        length: bytes of data.
    """

    def __init__(self, file: BinaryIO, position: int, length: int) -> None:
        self.position = position
        self.length = length
        self._file = file
        self._start = file.tell()

    def read(self) -> bytes:
        """The data.

        Raises:
            DamagedRecord: the file ends before the data do, or the checksum tells that they have changed.
        """
        self._file.seek(self._start)
        data, checksum = self._file.read(self.length), self._file.read(_CHECKSUM.size)
        if len(checksum) < _CHECKSUM.size:
            raise DamagedRecord(f"record {self.position} is cut off")
        if _CHECKSUM.unpack(checksum)[0] != masked_crc32c(data):
            raise DamagedRecord(f"the checksum of record {self.position} is wrong")
        return data

    @property
    def end(self) -> int:
        """Where the next record begins, in bytes from the beginning of the file."""
        return self._start + self.length + _CHECKSUM.size


def records(file: BinaryIO) -> Iterator[Record]:
    """The records of a file, in order; one whose data are damaged does not end the iteration, a broken length does.

    Args:
        file: open, seekable, at its beginning.

    Raises:
        DamagedRecord: the length of a record is damaged, so that what follows cannot be found.
    """
    position = 0
    while header := file.read(_HEADER.size):
        if len(header) < _HEADER.size:
            raise DamagedRecord(f"record {position} is cut off")
        length, checksum = _HEADER.unpack(header)
        if checksum != masked_crc32c(header[:8]):
            raise DamagedRecord(f"the length of record {position} is damaged, it and what follows are lost")
        record = Record(file, position, length)
        yield record
        file.seek(record.end)
        position += 1


def parse_example(data: bytes) -> dict[str, Feature]:
    """The features of a serialised ``tf.train.Example``.

    Args:
        data: the message.

    Returns:
        Name -> values: byte strings, float32 or int64; an empty list where a feature holds none.

    Raises:
        DamagedRecord: the bytes are no such message.
    """
    try:
        found: dict[str, Feature] = {}
        for features in _delimited(memoryview(data), 1):
            for entry in _delimited(features, 1):
                name = b"".join(_delimited(entry, 1)).decode()
                for value in _delimited(entry, 2):
                    found[name] = _feature(value)
        return found
    except (IndexError, ValueError, struct.error) as error:
        raise DamagedRecord("it is not a tf.train.Example") from error


def _feature(message: memoryview) -> Feature:
    for number, _, value in _fields(message):
        if number == 1 and isinstance(value, memoryview):
            return [bytes(item) for item in _delimited(value, 1)]
        if number == 2 and isinstance(value, memoryview):
            # a packed list is one field with all values, an unpacked one a field of four bytes each: the same bytes
            joined = b"".join(item for tag, _, item in _fields(value) if tag == 1 and isinstance(item, memoryview))
            return np.frombuffer(joined, "<f4").astype(np.float32)
        if number == 3 and isinstance(value, memoryview):
            return np.array(list(_integers(value)), np.int64)
    return []


def _integers(message: memoryview) -> Iterator[int]:
    for number, _, value in _fields(message):
        if number != 1:
            continue
        if isinstance(value, int):
            yield _signed(value)
            continue
        at = 0
        while at < len(value):
            integer, at = _varint(value, at)
            yield _signed(integer)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _delimited(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, kind, value in _fields(message):
        if number == wanted and kind == _DELIMITED and isinstance(value, memoryview):
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, int, int | memoryview]]:
    """Number, wire type and value of each field; an integer is a varint, all else is bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            integer, at = _varint(message, at)
            yield number, kind, integer
            continue
        if kind == _DELIMITED:
            length, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(message):
            raise ValueError("a field ends beyond its message")
        yield number, kind, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & (2**64 - 1), at
    raise ValueError("a varint of more than ten bytes")


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes, rotated by 15 bits and offset as TFRecord files store it."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of some bytes.

    A byte at a time would take Python seconds for a record, so long data are cut into lanes that advance together.
    """
    if len(data) < 2 * _LANE:
        return ~_advance(0xFFFFFFFF, data) & 0xFFFFFFFF
    # An initial register of ones is the same as a register of zeros and the first four bytes inverted; and zeros
    # before the data leave a register of zeros as it is. So every lane begins at zero.
    lanes = -(-len(data) // _LANE)
    padded = np.zeros(lanes * _LANE, np.uint8)
    padded[-len(data) :] = np.frombuffer(data, np.uint8)
    padded[padded.size - len(data) :][:4] ^= 0xFF
    columns = np.ascontiguousarray(padded.reshape(lanes, _LANE).T)
    table, crc = _table(), np.zeros(lanes, np.uint32)
    for column in columns:
        crc = table[(crc ^ column) & 0xFF] ^ (crc >> np.uint32(8))
    level = 0
    while crc.size > 1:
        if crc.size % 2:
            crc = np.concatenate([np.zeros(1, np.uint32), crc])
        crc = _apply(_past_zeros(level), crc[0::2]) ^ crc[1::2]
        level += 1
    return ~int(crc[0]) & 0xFFFFFFFF


def _advance(crc: int, data: bytes) -> int:
    table = _table().tolist()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


@cache
def _table() -> Words:
    crc = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        crc = np.where(crc & 1, (crc >> 1) ^ np.uint32(0x82F63B78), crc >> 1).astype(np.uint32)
    return crc


@cache
def _past_zeros(level: int) -> Words:
    """What ``_LANE * 2**level`` zero bytes make of a register: a table ``(4, 256)`` for its four bytes."""
    if level:
        half = _past_zeros(level - 1)
        return np.stack([_apply(half, row) for row in half])
    zeros = bytes(_LANE)
    return np.array([[_advance(byte << 8 * place, zeros) for byte in range(256)] for place in range(4)], np.uint32)


def _apply(table: Words, crc: Words) -> Words:
    out = table[0][crc & 0xFF]
    for place in range(1, 4):
        out = out ^ table[place][(crc >> np.uint32(8 * place)) & 0xFF]
    return out
