"""Write files byte for byte as PyTorch 0.2 did under Python 2: a pickle by hand, protocol 2, then the raw storages.

PyTorch 0.3 under Python 3 differs in how texts and ordered dicts are written.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYS_INFO = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


class Global:
    """A name that the reader shall look up."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """A call that the reader shall make, and the state that the result shall take."""

    def __init__(self, function: Global, args: tuple[Any, ...], state: Any = None) -> None:
        self.function, self.args, self.state = function, args, state


class Instance:
    """An nn.Module: its class (written with its source, once) and its attributes."""

    def __init__(self, cls: Global, state: dict[str, Any]) -> None:
        self.cls, self.state = cls, state


class Plain(Instance):
    """An object of another class, written without its source."""


class LegacyFile:
    """Collects the pickle and the storages."""

    def __init__(self, location: str = "cuda:0", python: int = 2) -> None:
        self.location = location
        self.python = python
        self.storages: dict[str, Tensor] = {}
        self.sources: set[str] = set()

    def write(self, path: Path, value: Any) -> None:
        parts = [pickle.dumps(MAGIC, 2), pickle.dumps(PROTOCOL, 2), pickle.dumps(SYS_INFO, 2)]
        parts.append(b"\x80\x02" + self.put(value) + b".")
        parts.append(pickle.dumps(sorted(self.storages), 2))
        for key in sorted(self.storages):
            parts += [struct.pack("<q", self.storages[key].numel()), self.storages[key].numpy().tobytes()]
        path.write_bytes(b"".join(parts))

    def put(self, value: Any) -> bytes:
        """The opcodes that leave ``value`` on the stack."""
        if value is None or isinstance(value, bool):
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        if isinstance(value, int):
            small = -(2**31) <= value < 2**31
            return b"J" + struct.pack("<i", value) if small else pickle.dumps(value, 2)[2:-1]
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str) and self.python == 3:
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        if isinstance(value, str):  # a byte string of Python 2
            return b"T" + struct.pack("<i", len(value.encode("latin1"))) + value.encode("latin1")
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.put, value)) + b"t"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.put, value)) + b"e"
        if isinstance(value, OrderedDict) and self.python == 3:  # called without anything, then filled
            return self.put(Call(Global("collections", "OrderedDict"), ())) + self.put(dict(value))[1:]
        if isinstance(value, OrderedDict):  # as Python 2 reduces it: called with a list of pairs
            return self.put(Call(Global("collections", "OrderedDict"), ([[k, v] for k, v in value.items()],)))
        if isinstance(value, dict):
            return b"}(" + b"".join(self.put(part) for item in value.items() for part in item) + b"u"
        if isinstance(value, Global):
            return f"c{value.module}\n{value.name}\n".encode()
        if isinstance(value, Call):
            state = b"" if value.state is None else self.put(value.state) + b"b"
            return self.put(value.function) + self.put(value.args) + b"R" + state
        if isinstance(value, Plain):
            return self.put(value.cls) + b")\x81" + self.put(value.state) + b"b"
        if isinstance(value, Instance):
            return self.put_class(value.cls) + b")\x81" + self.put(value.state) + b"b"
        assert isinstance(value, Tensor)
        return self.put_tensor(value)

    def put_class(self, cls: Global) -> bytes:
        path = f"{cls.module}.{cls.name}"
        if path in self.sources:
            return self.put(cls)
        self.sources.add(path)
        return self.put(("module", cls, f"{cls.module}.py", f"class {cls.name}(nn.Module): ...")) + b"Q"

    def put_tensor(self, tensor: Tensor) -> bytes:
        key = str(94000000 + len(self.storages))
        self.storages[key] = tensor.detach().contiguous().flatten()
        kind = {torch.float32: "FloatStorage", torch.int64: "LongStorage"}[tensor.dtype]
        storage_type = Global("torch.cuda" if self.location.startswith("cuda") else "torch", kind)
        storage = self.put(("storage", storage_type, key, self.location, tensor.numel(), None)) + b"Q"
        size, stride = self.put(tuple(tensor.shape)), self.put(tuple(tensor.stride()))
        return (
            self.put(Global("torch._utils", "_rebuild_tensor")) + b"(" + storage + self.put(0) + size + stride + b"tR"
        )


def parameter(tensor: Tensor) -> Call:
    """As torch.autograd.Variable reduced itself: (requires_grad, volatile, hooks) as state."""
    return Call(Global("torch.nn.parameter", "Parameter"), (tensor,), (True, False, OrderedDict()))


def module(path: str, parameters: dict[str, Tensor], buffers: dict[str, Tensor], **attributes: Any) -> Instance:
    """An nn.Module of PyTorch 0.2."""
    package, _, name = path.rpartition(".")
    children = attributes.pop("children", {})
    state = {
        "_backend": Call(Global("torch.nn.backends.thnn", "_get_thnn_function_backend"), ()),
        "_parameters": OrderedDict((key, parameter(value)) for key, value in parameters.items()),
        "_buffers": OrderedDict(buffers),
        "_backward_hooks": OrderedDict(),
        "_forward_hooks": OrderedDict(),
        "_forward_pre_hooks": OrderedDict(),
        "_modules": OrderedDict(children),
        "training": False,
        **attributes,
    }
    return Instance(Global(package, name), state)


def official_generator(state: dict[str, Tensor], config: dict[str, int]) -> Instance:
    """A pickled ``models.VideoGenerator`` with the given state dict."""
    recurrent = {key.partition(".")[2]: value for key, value in state.items() if key.startswith("recurrent.")}
    layers: dict[str, Instance] = {}
    for index in sorted({int(key.split(".")[1]) for key in state if key.startswith("main.")}):
        entries = {key.split(".")[2]: value for key, value in state.items() if key.startswith(f"main.{index}.")}
        entries.pop("num_batches_tracked", None)
        buffers = {key: entries.pop(key) for key in list(entries) if key.startswith("running")}
        kind = "batchnorm.BatchNorm2d" if buffers else "conv.ConvTranspose2d"
        layers[str(index)] = module(f"torch.nn.modules.{kind}", entries, buffers, eps=1e-5, stride=(2, 2))
    children = {
        "recurrent": module("torch.nn.modules.rnn.GRUCell", recurrent, {}, hidden_size=config["dim_z_motion"]),
        "main": module("torch.nn.modules.container.Sequential", {}, {}, children=layers),
    }
    names = ("n_channels", "dim_z_content", "dim_z_category", "dim_z_motion", "video_length")
    return module("models.VideoGenerator", {}, {}, children=children, **{name: config[name] for name in names})
