"""Read what Chainer's ``save_npz`` wrote, without unpickling anything in the file and without trusting its sizes."""

from __future__ import annotations

import lzma
import math
import os
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from vidgen.errors import UserError
from vidgen.interop.state_dicts import problems_of

MOST_EXPANSION = 20
"""How many times its own size the arrays of a file may be; weights hardly compress."""

ALWAYS_ALLOWED = 2**20  # bytes


def read(path: Path) -> dict[str, Tensor]:
    """The arrays of an npz file, by name, for example ``dc0/W``.

    Args:
        path: the file; compressed or not.

    Returns:
        float32 and int64 tensors.

    Raises:
        UserError: the file is missing, damaged or cut short, is no npz file, announces far more than it can hold, or
            holds anything but arrays of numbers.
    """
    damage: Exception
    with problems_of(path):
        try:
            with open(path, "rb") as file:
                return _read(file)
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"cannot be read ({error.strerror or error})") from None
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, struct.error, tokenize.TokenError):
            raise UserError("is damaged or cut short") from None
        except (ValueError, SyntaxError, OverflowError, RuntimeError) as error:
            damage = error
        raise UserError(f"is damaged or cut short ({str(damage)[:200]})")


def _read(file: IO[bytes]) -> dict[str, Tensor]:
    size = os.fstat(file.fileno()).st_size
    if not zipfile.is_zipfile(file):
        begins_as_zip = size == 0 or _head(file) == b"PK"
        raise UserError("is damaged or cut short" if begins_as_zip else "is not an npz file")
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > MOST_EXPANSION * size + ALWAYS_ALLOWED:
            raise UserError(
                f"announces arrays more than {MOST_EXPANSION} times as large as the file; it was not unpacked"
            )
        for entry in archive.infolist():
            if not entry.filename.endswith(".npy"):
                raise UserError(f"has {entry.filename}, which is not an array; an .npz of Chainer's has nothing else")
            name = entry.filename.removesuffix(".npy")
            with archive.open(entry) as stream:
                arrays[name] = _array(stream, entry.file_size, name)
    return arrays


def _head(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(2)


def _array(stream: IO[bytes], size: int, name: str) -> Tensor:
    """An array of ``size`` bytes, header included; the header is checked before anything is allocated."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name} is of version {version}")
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject:
        raise UserError(f"{name} holds Python objects, which are not read; nothing in it was executed")
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise UserError(f"{name} holds {dtype}, expected numbers")
    if any(length < 0 for length in shape) or stream.tell() + math.prod(shape) * dtype.itemsize != size:
        raise UserError(f"{name} is {shape}, which is not what the file holds")
    array = np.frombuffer(stream.read(), dtype)
    array = array.reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(array.astype(np.float32 if dtype.kind == "f" else np.int64, order="C"))
