"""Reads a NumPy array out of a pickle without running anything that the file asks for.

A pickle is a program: unpickling calls whatever it names. Here the names that an array of floats needs stand for inert
objects that only keep what they are given, and any other name is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.errors import UserError
from vidgen.interop.restricted_pickle import RestrictedUnpickler

MOST_BYTES = 2**28
_FAILURES = (
    *(pickle.UnpicklingError, EOFError, MemoryError, OverflowError, RecursionError),
    *(ValueError, TypeError, KeyError, IndexError, AttributeError),
)


class _Inert:
    """What the file calls an array, a type or a class: it keeps its arguments and its state."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state


class _Array(_Inert):
    pass


class _Type(_Inert):
    pass


class _Buffer(_Inert):
    pass


class _Class(_Inert):
    pass


def _text_to_bytes(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("its bytes are written in an unexpected way")
    return text.encode("latin1")


_CORE = ("numpy.core", "numpy._core")
_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    **{(f"{core}.multiarray", "_reconstruct"): _Array for core in _CORE},
    **{(f"{core}.numeric", "_frombuffer"): _Buffer for core in _CORE},
    ("numpy", "ndarray"): _Class,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _text_to_bytes,
}


class _Unpickler(RestrictedUnpickler):
    def _meaning(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            return super()._meaning(module, name)
        meaning = _NAMES[module, name]
        return lambda *arguments: meaning(*arguments)  # the file cannot reach, or set anything in, what is behind it


def read_array(path: Path) -> NDArray[np.floating]:
    """The array of floats that a pickle holds.

    Raises:
        UserError: the file cannot be read, is damaged, holds something else, or names what an array does not need.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > MOST_BYTES:
        raise UserError(f"{path}: has more than {MOST_BYTES >> 20} MiB, which no spectrogram has")
    try:
        _check_numbers(data)
        return _array(_Unpickler(io.BytesIO(data), ()).load())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except _FAILURES as error:
        reason = ascii(" ".join(str(error).split()))[1:-1][:200] or type(error).__name__
        raise UserError(f"{path}: is no pickle of an array of floats ({reason})") from None


def _check_numbers(data: bytes) -> None:
    """The unpickler makes room for as many objects as a number in the file says."""
    for opcode, number, _ in pickletools.genops(data):
        if opcode.name.endswith("PUT") and isinstance(number, int) and number > len(data):
            raise EOFError


def _array(found: Any) -> NDArray[np.floating]:
    if isinstance(found, _Buffer):
        content, kind, shape, order = found.arguments
    elif isinstance(found, _Array):
        _, shape, kind, fortran, content = found.state
        order = "F" if fortran else "C"
    else:
        raise pickle.UnpicklingError(f"it holds a {type(found).__name__}")
    content = content.encode("latin1") if isinstance(content, str) else bytes(memoryview(content))
    if not isinstance(kind, _Type) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise pickle.UnpicklingError("its array is made in an unexpected way")
    name = kind.arguments[0]
    if name not in ("f2", "f4", "f8"):
        raise pickle.UnpicklingError("its numbers are no floats")
    swapped = ">" if kind.state is not None and kind.state[1] == ">" else "<"
    dtype = np.dtype(f"{swapped}{name}")
    plain = all(isinstance(side, int) and side >= 0 for side in shape)
    if not plain or math.prod(shape) * dtype.itemsize != len(content):
        raise pickle.UnpicklingError("its array has another size than its bytes")
    return np.frombuffer(content, dtype).reshape(shape, order=order).astype(dtype.newbyteorder("="))
