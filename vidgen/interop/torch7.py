"""Read what Torch7's ``torch.save`` wrote (``*.t7``), without running anything in the file.

A file is one object: a type tag, then numbers, text, or objects again. Tables and objects are numbered as they
appear, and a number that has appeared means the object itself. Tensors and storages are rebuilt here; objects of any
other class become inert :class:`Record` s that hold the name of the class and the attributes; Lua functions, which a
file may hold as byte code, are skipped. Both of Torch7's formats are read: binary (its default; numbers as a
little-endian 64-bit machine writes them) and ASCII.
"""

from __future__ import annotations

import math
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from vidgen.errors import UserError

NIL, NUMBER, STRING, TABLE, OBJECT, BOOLEAN = range(6)
FUNCTION, OLD_NUMBERED_FUNCTION, NUMBERED_FUNCTION = 6, 7, 8

DEEPEST = 100
"""Objects within objects that are read; an official network has about 20."""

MOST_DIMENSIONS = 64

ELEMENTS = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
}
"""Element types by their names in Torch7."""

_ARRAY = re.compile(rf"torch\.(?:Cuda)?({'|'.join(ELEMENTS)})?(Tensor|Storage)")


@dataclass(eq=False)
class Record:
    """An object of the file that was not built.

    Attributes:
        path: its class, for example ``nn.Sequential``.
        attributes: what it held, by name. Objects may hold one another, and themselves.
    """

    path: str
    attributes: dict[str | float, Any]


class Function:
    """A Lua function of the file: nothing of it was kept."""


def read(path: Path) -> Any:
    """The object that Torch7's ``torch.save`` wrote to a file.

    Args:
        path: the file, binary or ASCII.

    Returns:
        None, bool, float, str (a byte is a character), a table as a dict, a tensor or a flat tensor for a storage (on
        the CPU, whichever device it was on), a :class:`Record` or a :class:`Function`. Entries of a table whose key is
        neither number nor text are left out. Tensors that shared a storage still do.

    Raises:
        UserError: the file is missing, damaged or cut short, or was not written by Torch7.
    """
    try:
        with open(path, "rb") as file:
            return _Reader(_source(file)).read(0)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except EOFError:
        raise UserError(f"{path}: is damaged or cut short") from None
    except (ValueError, OverflowError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: is damaged or cut short ({reason})") from None


def _source(file: IO[bytes]) -> _Binary:
    """The numbers of a file, whose format its first bytes (a type tag) tell."""
    head = file.read(4)
    file.seek(0)
    if re.match(rb"[0-8]\r?\n", head):
        return _Ascii(file)
    if head and not (head[0] <= NUMBERED_FUNCTION and not any(head[1:])):
        raise UserError("is not a file written by Torch7's torch.save")
    return _Binary(file)


class _Binary:
    """Numbers and text, byte after byte; nothing is allocated that the rest of the file cannot fill."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size

    def take(self, length: int) -> bytes:
        """The next bytes."""
        if length < 0:
            raise ValueError("a length is negative")
        if length > self.size - self.file.tell():
            raise EOFError
        return self.file.read(length)

    def integer(self) -> int:
        return struct.unpack("<i", self.take(4))[0]

    def longs(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}q", self.take(8 * count))

    def double(self) -> float:
        return struct.unpack("<d", self.take(8))[0]

    def text(self, length: int) -> str:
        return self.take(length).decode("latin1")

    def elements(self, dtype: torch.dtype, count: int) -> Tensor:
        """A flat tensor."""
        data = self.take(count * dtype.itemsize)
        return torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)


class _Ascii(_Binary):
    """The same as text: what is written at once stands on one line, and nothing has no line."""

    def line(self, count: int) -> list[bytes]:
        """The words of the next line."""
        if count < 0:
            raise ValueError("a length is negative")
        line = self.file.readline() if count else b"\n"
        if not line.endswith(b"\n"):
            raise EOFError
        words = line.split()
        if len(words) != count:
            raise ValueError(f"a line has {len(words)} numbers instead of {count}")
        return words

    def integer(self) -> int:
        return int(self.line(1)[0])

    def longs(self, count: int) -> tuple[int, ...]:
        return tuple(int(word) for word in self.line(count))

    def double(self) -> float:
        return float(self.line(1)[0])

    def text(self, length: int) -> str:
        text = super().text(length)
        if length and self.take(1) != b"\n":
            raise ValueError("a text has another length than announced")
        return text

    def elements(self, dtype: torch.dtype, count: int) -> Tensor:
        if dtype in (torch.int8, torch.uint8):  # raw, like text
            return torch.frombuffer(bytearray(self.text(count), "latin1") or bytearray(1), dtype=dtype)[:count]
        number = float if dtype.is_floating_point else int
        return torch.tensor([number(word) for word in self.line(count)], dtype=dtype)


class _Reader:
    """Builds the objects of a file."""

    def __init__(self, source: _Binary) -> None:
        self.source = source
        self.objects: dict[int, Any] = {}
        """By number; None while a tensor is being read."""

    def read(self, depth: int) -> Any:
        """The next object; it lies inside ``depth`` others."""
        if depth > DEEPEST:
            raise ValueError(f"objects are nested more than {DEEPEST} deep")
        source = self.source
        tag = source.integer()
        if tag == NIL:
            return None
        if tag == NUMBER:
            return source.double()
        if tag == STRING:
            return source.text(source.integer())
        if tag == BOOLEAN:
            return source.integer() == 1
        if tag == FUNCTION:
            return self.skip_function(depth)
        if tag not in (TABLE, OBJECT, OLD_NUMBERED_FUNCTION, NUMBERED_FUNCTION):
            raise ValueError(f"there is no type {tag}")
        number = source.integer()
        if number in self.objects:
            if self.objects[number] is None:
                raise ValueError(f"tensor {number} contains itself")
            return self.objects[number]
        if number != len(self.objects) + 1:  # numbers are given in the order of writing
            raise ValueError(f"object {number} is used before it appears")
        self.objects[number] = None
        if tag == TABLE:
            return self.read_table(number, depth)
        if tag == OBJECT:
            return self.read_object(number, depth)
        self.objects[number] = Function()
        self.skip_function(depth)
        return self.objects[number]

    def skip_function(self, depth: int) -> Function:
        """Pass over byte code and over the variables that it captured, in which other objects may appear first."""
        self.source.text(self.source.integer())
        self.read(depth + 1)
        return Function()

    def read_table(self, number: int, depth: int) -> dict[str | float, Any]:
        table: dict[str | float, Any] = {}
        self.objects[number] = table
        length = self.source.integer()
        if length < 0:
            raise ValueError("a length is negative")
        for _ in range(length):
            key, value = self.read(depth + 1), self.read(depth + 1)
            if isinstance(key, str | float):
                table[key] = value
        return table

    def read_object(self, number: int, depth: int) -> Any:
        path = self.source.text(self.source.integer())
        if path.startswith("V "):  # a version; the oldest files begin with the class
            path = self.source.text(self.source.integer())
        if not re.fullmatch(r"[\w.]{1,200}", path, re.ASCII):
            raise ValueError(f"a class is called {path[:50]!r}")
        array = _ARRAY.fullmatch(path)
        if array is None:
            record = self.objects[number] = Record(path, {})
            attributes = self.read(depth + 1)
            if not isinstance(attributes, dict):
                raise ValueError(f"the attributes of a {path} are no table")
            record.attributes = attributes
        elif array[1] is None and not path.startswith("torch.Cuda"):
            raise ValueError(f"a {path} has no element type")
        else:
            read = self.read_tensor if array[2] == "Tensor" else self.read_storage
            self.objects[number] = read(ELEMENTS[array[1] or "Float"], depth)
        return self.objects[number]

    def read_storage(self, dtype: torch.dtype, depth: int) -> Tensor:
        return self.source.elements(dtype, self.source.longs(1)[0])

    def read_tensor(self, dtype: torch.dtype, depth: int) -> Tensor:
        dimensions = self.source.integer()
        if not 0 <= dimensions <= MOST_DIMENSIONS:
            raise ValueError(f"a tensor has {dimensions} dimensions")
        size, stride = self.source.longs(dimensions), self.source.longs(dimensions)
        offset = self.source.longs(1)[0] - 1  # counted from 1
        storage = self.read(depth + 1)
        if not dimensions:
            return torch.empty(0, dtype=dtype)
        if not isinstance(storage, Tensor) or storage.dim() != 1 or not storage.is_contiguous():
            raise ValueError("a tensor has no storage")
        if storage.dtype != dtype:
            raise ValueError("a tensor and its storage are of different types")
        if offset < 0 or min(size) < 1 or min(stride) < 0:
            raise ValueError("a tensor has an impossible size")
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if last >= storage.numel() or math.prod(size) >= 2**62:
            raise ValueError("a tensor reaches beyond its storage")
        return storage.as_strided(size, stride, storage.storage_offset() + offset)
