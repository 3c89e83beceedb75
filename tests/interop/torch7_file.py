"""Write files byte for byte as Torch7's ``torch.save`` did, and the modules of the official VGAN in them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidgen.models.vgan import Discriminator, Generator

NAMES = {
    torch.float64: "Double",
    torch.float32: "Float",
    torch.float16: "Half",
    torch.int64: "Long",
    torch.int32: "Int",
    torch.int16: "Short",
    torch.int8: "Char",
    torch.uint8: "Byte",
}
CODES = {torch.int8: "b", torch.uint8: "B", torch.int16: "h", torch.int32: "i", torch.int64: "q"}
CODES |= {torch.float16: "e", torch.float32: "f", torch.float64: "d"}


class Object:
    """An object of a Torch class; its attributes may hold itself."""

    def __init__(self, path: str, attributes: Any) -> None:
        self.path, self.attributes = path, attributes


class Lua:
    """A function: its byte code and what it captured; tag 6 has no number, 7 and 8 have one."""

    def __init__(self, code: bytes, captured: Any = None, tag: int = 8) -> None:
        self.code, self.captured, self.tag = code, captured, tag


class Raw:
    """Bytes as they are."""

    def __init__(self, data: bytes) -> None:
        self.data = data


class Torch7File:
    """Collects the bytes of one object.

    Args:
        text: the ASCII format instead of the binary one.
        versioned: whether class names come with a version, as in all but the oldest files.
        cuda: whether float tensors lay on a GPU.
    """

    def __init__(self, text: bool = False, versioned: bool = True, cuda: bool = False) -> None:
        self.text, self.versioned, self.cuda = text, versioned, cuda
        self.parts: list[bytes] = []
        self.numbers: dict[Any, int] = {}
        self.kept: list[Any] = []

    def write(self, path: Path, value: Any) -> Path:
        self.put(value)
        path.write_bytes(b"".join(self.parts))
        return path

    def numbers_of(self, code: str, *values: float) -> None:
        """Numbers that are written at once."""
        if not self.text:
            self.parts.append(struct.pack(f"<{len(values)}{code}", *values))
        elif code in "bB":
            self.parts.append(struct.pack(f"{len(values)}{code}", *values) + b"\n")
        elif values:
            precision = {"d": ".17g", "f": ".9g", "e": ".9g"}.get(code, "d")
            self.parts.append(" ".join(format(value, precision) for value in values).encode() + b"\n")

    def string(self, value: bytes) -> None:
        self.numbers_of("i", len(value))
        self.parts.append(value + (b"\n" if self.text and value else b""))

    def is_new(self, key: Any, value: Any) -> bool:
        """Write the number of an object; whether the object itself has to follow."""
        new = key not in self.numbers
        self.numbers.setdefault(key, len(self.numbers) + 1)
        self.kept.append(value)  # so that no other object takes its id
        self.numbers_of("i", self.numbers[key])
        return new

    def put(self, value: Any) -> None:
        if isinstance(value, Raw):
            self.parts.append(value.data)
        elif value is None:
            self.numbers_of("i", 0)
        elif isinstance(value, bool):
            self.numbers_of("i", 5)
            self.numbers_of("i", int(value))
        elif isinstance(value, int | float):
            self.numbers_of("i", 1)
            self.numbers_of("d", value)
        elif isinstance(value, str):
            self.numbers_of("i", 2)
            self.string(value.encode("latin1"))
        elif isinstance(value, list):
            self.put_table(value, dict(enumerate(value, 1)))
        elif isinstance(value, dict):
            self.put_table(value, value)
        elif isinstance(value, Lua):
            self.put_function(value)
        elif isinstance(value, Tensor):
            self.put_tensor(value)
        else:
            assert isinstance(value, Object)
            if self.put_class(id(value), value, value.path):
                self.put(value.attributes)

    def put_table(self, value: Any, items: dict[Any, Any]) -> None:
        self.numbers_of("i", 3)
        if self.is_new(id(value), value):
            self.numbers_of("i", len(items))
            for key, entry in items.items():
                self.put(key)
                self.put(entry)

    def put_function(self, value: Lua) -> None:
        self.numbers_of("i", value.tag)
        if value.tag == 6 or self.is_new(id(value), value):
            self.string(value.code)
            self.put(value.captured)

    def put_class(self, key: Any, value: Any, path: str) -> bool:
        """Begin an object of a Torch class; whether what it holds has to follow."""
        self.numbers_of("i", 4)
        if not self.is_new(key, value):
            return False
        if self.versioned:
            self.string(b"V 1")
        self.string(path.encode("latin1"))
        return True

    def array_class(self, dtype: torch.dtype, kind: str) -> str:
        name = NAMES[dtype]
        if self.cuda:
            name = "Cuda" + name.replace("Float", "")
        return f"torch.{name}{kind}"

    def put_tensor(self, tensor: Tensor) -> None:
        if not self.put_class(id(tensor), tensor, self.array_class(tensor.dtype, "Tensor")):
            return
        tensor = tensor.detach()
        if not tensor.numel():  # what clearState leaves
            self.numbers_of("i", 0)
            self.numbers_of("q")
            self.numbers_of("q")
            self.numbers_of("q", 1)
            self.put(None)
            return
        self.numbers_of("i", tensor.dim())
        self.numbers_of("q", *tensor.shape)
        self.numbers_of("q", *tensor.stride())
        self.numbers_of("q", tensor.storage_offset() + 1)
        whole = tensor.untyped_storage()
        if self.put_class(("storage", whole.data_ptr()), whole, self.array_class(tensor.dtype, "Storage")):
            count = whole.nbytes() // tensor.element_size()
            self.numbers_of("q", count)
            self.numbers_of(CODES[tensor.dtype], *tensor.as_strided((count,), (1,), 0).tolist())


# Modules -------------------------------------------------------------------------------------------------------------


class Official:
    """Builds the modules as ``main.lua`` does, around the weights of ours.

    Args:
        library: ``nn``, or ``cudnn`` after its conversion, which leaves containers alone.
        old: whether batch norms keep ``running_std``, 1 / sqrt(variance + epsilon).
    """

    def __init__(self, library: str = "cudnn", old: bool = False) -> None:
        self.library, self.old = library, old

    def module(self, path: str, **attributes: Any) -> Object:
        """A module after clearState."""
        cleared = {"output": torch.empty(0), "gradInput": torch.empty(0)}
        return Object(path, {"_type": "torch.CudaTensor", "train": False, **cleared, **attributes})

    def container(self, kind: str, *children: Object) -> Object:
        return self.module(f"nn.{kind}", modules=list(children))

    def layer(self, layer: nn.Module) -> Object:
        """A convolution or batch norm."""
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        learned = {"weight": weight, "bias": bias, "gradWeight": torch.zeros_like(weight), "gradBias": bias * 0}
        if "BatchNorm" in type(layer).__name__:
            kind = {"2": "Spatial", "3": "Volumetric"}[type(layer).__name__[-2]]
            path = f"{self.library}.{kind}BatchNormalization"
            mean, variance, epsilon = layer.running_mean, layer.running_var, float(layer.eps)  # type: ignore[arg-type]
            assert isinstance(variance, Tensor)
            kept = {"running_std": (variance + epsilon) ** -0.5} if self.old else {"running_var": variance}
            return self.module(path, **learned, running_mean=mean, **kept, eps=epsilon, momentum=0.1, affine=True)
        kind = {4: "Spatial", 5: "Volumetric"}[weight.dim()]
        full = "Full" if "Transpose" in type(layer).__name__ else ""
        return self.module(f"{self.library}.{kind}{full}Convolution", **learned, kW=weight.shape[-1], groups=1)

    def plain(self, *kinds: str) -> list[Object]:
        """Modules that learn nothing."""
        return [self.module(f"nn.{kind}") for kind in kinds]

    def stack(self, convolutions: Any, norms: Any, activation: str) -> list[Object]:
        made = []
        for convolution, norm in zip(convolutions, norms, strict=True):
            made.append(self.layer(convolution))
            if not isinstance(norm, nn.Identity):
                made.append(self.layer(norm))
            made += self.plain(activation)
        return made

    def generator(self, ours: Generator) -> Object:
        """The generator of ``main.lua``, or of ``main_conditional.lua``."""
        foreground, background, view = ours.foreground, ours.background, self.plain("View")
        assert background is not None and foreground.mask is not None
        convolutions, norms = [foreground.stem, *foreground.convolutions], [foreground.stem_norm, *foreground.norms]
        penalty = self.plain("L1Penalty") if ours.encoder is None else []
        picture = self.container("Sequential", self.layer(foreground.picture), *self.plain("Tanh"))
        mask = self.container("Sequential", self.layer(foreground.mask), *self.plain("Sigmoid"), *penalty)
        heads = self.container("ConcatTable", picture, mask)
        moving = self.container("Sequential", *view, *self.stack(convolutions, norms, "ReLU"), heads)
        still = self.stack(background.convolutions, background.norms, "ReLU")
        still += [self.layer(background.picture), *self.plain("Tanh")]
        still = still if ours.encoder is not None else self.plain("View") + still
        both = self.container("ConcatTable", moving, self.container("Sequential", *still))
        repeated = self.container("Sequential", *self.plain("SelectTable", "Squeeze", "Replicate"))
        motion = self.container("ConcatTable", *self.plain("SelectTable"), repeated)
        mixed = self.container("ConcatTable", self.container("Sequential", motion, *self.plain("CMulTable")))
        steps = [both, *self.plain("FlattenTable"), mixed, *self.plain("CAddTable")]
        if ours.encoder is not None:
            encoder = self.stack(ours.encoder.convolutions, ours.encoder.norms, "ReLU")
            steps = [self.container("Sequential", *encoder), *steps]
        return self.container("Sequential", *steps)

    def discriminator(self, ours: Discriminator) -> Object:
        made = self.stack(ours.convolutions, ours.norms, "LeakyReLU")
        return self.container("Sequential", *made, self.layer(ours.output), *self.plain("View"))


def find(module: Object, path: str) -> Object:
    """The module with a path such as ``1.1.14.2.1``."""
    for index in path.split("."):
        module = module.attributes["modules"][int(index) - 1]
    return module


def share_storage(module: Object) -> None:
    """Let all weights look at one storage, one behind the other, as after getParameters."""
    found, waiting = [], [module]
    while waiting:
        attributes = waiting.pop().attributes
        found += [(attributes, name) for name in ("weight", "bias") if name in attributes]
        waiting += attributes.get("modules", [])
    flat = torch.cat([attributes[name].detach().flatten() for attributes, name in found])
    start = 0
    for attributes, name in found:
        count = attributes[name].numel()
        attributes[name] = flat[start : start + count].view(attributes[name].shape)
        start += count
