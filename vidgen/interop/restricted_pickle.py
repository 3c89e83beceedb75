"""Read what ``torch.save`` wrote, whole modules included, without running anything the file asks for.

A pickle is a program: unpickling calls whatever it names. Here only a fixed list of names means something. Containers
and tensors are rebuilt by this module; objects of allowed classes become inert :class:`Record` s that hold their class
path and their attributes; any other name is refused. Both layouts are read: the zip archive of today and the stream of
pickles and raw storages that PyTorch wrote before version 1.6, from Python 2 too.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import torch
from torch import Tensor

from vidgen.errors import UserError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
DEEPEST = 100  # modules inside modules

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Record:
    """An object of the file that was not built: the path of its class, and its attributes.

    Subclasses, one for each class that a file names, carry the path.
    """

    path = ""
    attributes: Any = MappingProxyType({})

    def __init__(self, *args: Any) -> None:
        """Whatever the class would have been built from is dropped."""

    def __setstate__(self, state: Any) -> None:
        self.__dict__["attributes"] = state


class _Builder:
    """A rebuilding function as the unpickler sees it: it can be called, and nothing in it can be set."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError("the file sets an attribute of a function")


class _StorageType:
    """The class of a storage: its element type."""

    __slots__ = ("dtype",)
    dtype: torch.dtype

    def __init__(self, dtype: torch.dtype) -> None:
        object.__setattr__(self, "dtype", dtype)

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError("the file sets an attribute of a type")


class _Rebuilt(Tensor):
    """A tensor that takes, and forgets, what old versions wrote about gradients and hooks."""

    def __setstate__(self, state: Any) -> None:
        pass


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    if offset < 0 or any(number < 0 for number in (*size, *stride)):
        raise pickle.UnpicklingError("a tensor has a negative size")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if math.prod(size) and last >= storage.numel():
        raise pickle.UnpicklingError("a tensor reaches beyond its storage")
    if math.prod(size) > storage.numel():
        raise pickle.UnpicklingError("a tensor has more elements than its storage")
    return storage.as_strided(tuple(size), tuple(stride), offset).as_subclass(_Rebuilt)


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _plain(items: Any) -> Any:
    """Items of a list or tuple; a tensor that repeats itself could have any number."""
    if not isinstance(items, list | tuple):
        raise pickle.UnpicklingError("a container is made of something else than a list")
    return items


def _hashable(key: Any) -> Any:
    """A text or number; the hash of tuples inside tuples may take any time."""
    if key is not None and not isinstance(key, str | int | float | bytes):
        raise pickle.UnpicklingError("a key is neither a text nor a number")
    return key


def _ordered_dict(items: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((_hashable(key), value) for key, value in _plain(items))


BUILDERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("__builtin__", "set"): lambda items=(): {_hashable(item) for item in _plain(items)},
    ("collections", "OrderedDict"): _ordered_dict,
    ("torch", "Size"): lambda items=(): tuple(_plain(items)),
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.autograd.variable", "Variable"): _rebuild_parameter,
    ("torch.nn.parameter", "Parameter"): _rebuild_parameter,
}


class RestrictedUnpickler(pickle.Unpickler):
    """An unpickler for which only listed names mean something.

    Args:
        file: the pickle.
        records: paths of the classes whose objects become records; ``"package.*"`` allows all inside a package.
        storage: makes the storage of a persistent id: ``(dtype, key, number of elements) -> flat tensor``.
    """

    def __init__(
        self,
        file: IO[bytes],
        records: Collection[str],
        storage: Callable[[torch.dtype, str, int], Tensor] | None = None,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.records = records
        self.storage = storage
        self.found: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a name means; the file is refused when it means nothing here."""
        if (module, name) not in self.found:
            self.found[module, name] = self._meaning(module, name)
        return self.found[module, name]

    def _meaning(self, module: str, name: str) -> Any:
        if (module, name) in BUILDERS:
            return _Builder(BUILDERS[module, name])
        if module in ("torch", "torch.cuda") and name in STORAGES:
            return _StorageType(STORAGES[name])
        path = f"{module}.{name}"
        packages = [record[:-1] for record in self.records if record.endswith(".*")]
        if path in self.records or path.startswith(tuple(packages)):
            return type(name.rpartition(".")[2], (Record,), {"path": path})
        shown = ascii(path)[1:-1][:200]  # a name of the file could hold line breaks
        raise UserError(f"names {shown}, which is not allowed in such a file; nothing in it was executed")

    def persistent_load(self, pid: Any) -> Any:
        """Storages by key; classes that old files wrote with their source, which is ignored."""
        if self.storage is None or not isinstance(pid, tuple):
            raise pickle.UnpicklingError("an unexpected persistent id")
        if pid[0] == "module":
            return pid[1]
        kind, storage_type, key, _, numel, *view = pid
        plain = isinstance(key, str | int) and isinstance(numel, int)  # the text of nested tuples may take any space
        if kind != "storage" or not isinstance(storage_type, _StorageType) or not plain:
            raise pickle.UnpicklingError("an unexpected persistent id")
        flat = self.storage(storage_type.dtype, str(key), int(numel))
        if view and view[0] is not None:
            _, offset, size = view[0]
            flat = flat.narrow(0, offset, size)
        return flat


def read(path: Path, records: Collection[str] = ()) -> Any:
    """The object that ``torch.save`` wrote to a file.

    Args:
        path: the file, in today's layout or that of before PyTorch 1.6.
        records: paths of the classes whose objects become records; ``"package.*"`` allows all inside a package.

    Returns:
        Containers, plain values and tensors on the CPU; objects of the allowed classes as :class:`Record`.

    Raises:
        UserError: the file is missing, damaged or cut short, is no PyTorch file, or names anything that is not allowed.
    """
    try:
        with open(path, "rb") as file:
            return _read_zip(file, records) if zipfile.is_zipfile(file) else _read_legacy(file, records)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except _NotTorch:
        raise UserError(f"{path}: is not a file written by torch.save") from None
    except (EOFError, MemoryError, struct.error, zipfile.BadZipFile):
        raise UserError(f"{path}: is damaged or cut short") from None
    except (
        pickle.UnpicklingError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OverflowError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: is damaged or cut short ({reason})") from None


def module_state(record: Record, prefix: str = "") -> dict[str, Tensor]:
    """What ``state_dict()`` of a recorded ``nn.Module`` would return.

    Args:
        record: the module.
        prefix: what it is called in messages, with a dot behind.

    Returns:
        Parameters and buffers by name; ``None`` and what is no tensor are left out.

    Raises:
        UserError: it is not made as modules are, or holds one module at two places.
    """
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    waiting = [("", record)]
    while waiting:
        path, module = waiting.pop()
        name = f"{prefix}{path}".rstrip(".")
        if id(module) in seen:
            raise UserError(f"{name} is the same module as another one")
        if path.count(".") > DEEPEST:
            raise UserError(f"its modules are nested more than {DEEPEST} deep")
        seen.add(id(module))
        for kind in ("_parameters", "_buffers"):
            for key, value in _named(module, kind, name):
                if isinstance(value, Tensor):
                    state[f"{path}{key}"] = value.as_subclass(Tensor)
        children = [(f"{path}{key}.", child) for key, child in _named(module, "_modules", name)]
        waiting += [(key, child) for key, child in reversed(children) if isinstance(child, Record)]
    return state


def _named(module: Record, kind: str, name: str) -> Iterator[tuple[str, Any]]:
    """The entries of a dict of a module called ``name``."""
    attributes = module.attributes if isinstance(module.attributes, Mapping) else {}
    entries = attributes.get(kind, {})
    if not isinstance(entries, Mapping) or not all(isinstance(key, str) for key in entries):
        raise UserError(f"{name} has {kind} that are not stored by name")
    yield from entries.items()


class _NotTorch(Exception):
    pass


def _load(file: IO[bytes], *rest: Any) -> Any:
    """The object of the next pickle; ``rest`` goes to the unpickler."""
    start = file.tell()
    try:
        for opcode, number, place in pickletools.genops(file):
            # objects are numbered without gaps, and the unpickler makes room for as many as a number says
            if isinstance(number, int) and opcode.name.endswith("PUT") and start + number > (place or 0):
                raise EOFError
    except ValueError:
        raise EOFError from None
    file.seek(start)
    return RestrictedUnpickler(file, *rest).load()


def _read_legacy(file: IO[bytes], records: Collection[str]) -> Any:
    file.seek(0)
    try:
        magic = _load(file, ())
    except UserError:
        raise
    except Exception:
        magic = None
    if magic != LEGACY_MAGIC:
        raise EOFError if file.seek(0, os.SEEK_END) == 0 else _NotTorch
    if _load(file, ()) != LEGACY_PROTOCOL:
        raise _NotTorch
    if not _load(file, ()).get("little_endian", True):
        raise UserError("was written on a big-endian machine, which is not supported")
    left = os.fstat(file.fileno()).st_size
    storages: dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, numel: int) -> Tensor:
        nonlocal left
        if key not in storages:
            left -= numel * dtype.itemsize
            if numel < 0 or left < 0:
                raise EOFError  # more than the whole file holds
            storages[key] = torch.empty(numel, dtype=dtype)
        return storages[key]

    result = _load(file, records, storage)
    keys = [str(key) for key in _load(file, ())]
    for key in keys:
        _fill(storages[key], file)
    if len(set(keys)) < len(storages):
        raise EOFError  # memory that nothing was read into is no weight
    return result


def _fill(storage: Tensor, file: IO[bytes]) -> None:
    """Read the elements of a storage, which tensors already look at."""
    (numel,) = struct.unpack("<q", file.read(8))
    if numel != storage.numel():
        raise ValueError("a storage has another size than announced")
    storage.copy_(_elements(file.read(numel * storage.itemsize), storage.dtype, numel))


def _elements(data: bytes, dtype: torch.dtype, numel: int) -> Tensor:
    if len(data) < numel * dtype.itemsize:
        raise EOFError
    return torch.frombuffer(bytearray(data), dtype=dtype, count=numel) if numel else torch.empty(0, dtype=dtype)


def _read_zip(file: IO[bytes], records: Collection[str]) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _NotTorch
        root = pickles[0].removesuffix("data.pkl")
        read_here = [entry for entry in archive.infolist() if not entry.filename.startswith(f"{root}code/")]
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in read_here):
            raise _NotTorch  # PyTorch compresses nothing but TorchScript's code, so no entry is larger than the file
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise UserError("was written on a big-endian machine, which is not supported")
        left = os.fstat(file.fileno()).st_size
        storages: dict[str, Tensor] = {}

        def storage(dtype: torch.dtype, key: str, numel: int) -> Tensor:
            nonlocal left
            if key not in storages:
                left -= archive.getinfo(f"{root}data/{key}").file_size
                if left < 0:
                    raise EOFError  # entries lie inside each other
                storages[key] = _elements(archive.read(f"{root}data/{key}"), dtype, numel)
            return storages[key]

        return _load(io.BytesIO(archive.read(pickles[0])), records, storage)
