"""Videos as NumPy arrays: one file with many of them, or a folder of files."""

from __future__ import annotations

import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from vidgen.data.decoding import Unreadable
from vidgen.data.stored import Measured, StoredVideos
from vidgen.data.tables import FolderFiles, open_files
from vidgen.data.transforms import Frames
from vidgen.errors import UserError
from vidgen.registry import DATASETS

SUFFIXES = (".npz", ".npy")
MOST_BYTES = 2**30
"""Bytes of arrays that stay in memory; one of any size does."""
_DAMAGE = (OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What reading a file may raise that is cut off, damaged, encrypted, or none of its kind."""
_LAYOUT = "(T, H, W, C) or (N, T, H, W, C) with 1 or 3 channels"
_AXES = "NTHWC"


@DATASETS.register("arrays")
class ArrayVideos(StoredVideos):
    """``.npz`` and ``.npy`` files of uint8 arrays, each a video ``(T, H, W, C)`` or several ``(N, T, H, W, C)``.

    Of an ``.npz`` with several arrays the one named ``video`` or ``videos`` is taken. Pickled arrays are refused. At
    the start only headers are read; ``.npy`` files are mapped into memory, of ``.npz`` files the arrays read last stay
    in it.

    Args:
        root: one such file, or a folder of them; its subfolders are the classes, numbered in sorted order.
        axes: order of the axes where it is another one: the letters ``T``, ``H`` and ``W``, ``N`` where there are
            several videos and ``C`` where there are channels, as ``TNHW`` for the 20 x 10000 x 64 x 64 of the
            Moving MNIST test set. Nothing is copied: an ``.npy`` file stays mapped.
    """

    WHAT = "arrays (.npz or .npy)"

    def __init__(self, root: str, resolution: int, num_frames: int, *, axes: str | None = None, **stored: Any) -> None:
        if axes is not None and not (set("THW") <= set(axes) <= set(_AXES) and len(set(axes)) == len(axes)):
            raise UserError(f"data.axes is {axes!r}; it must name T, H and W, and may name N and C, each once, as TNHW")
        self.axes = axes
        self._files: FolderFiles
        self._where: NDArray[np.int64]  # file and number in it, of each video
        self._open: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._broken: dict[str, str] = {}
        super().__init__(root, resolution, num_frames, **stored)

    def find(self) -> Sequence[str]:
        """See :meth:`StoredVideos.find`; headers are read, since a file may hold several videos."""
        base = Path(self.root)
        if base.is_file() and base.suffix.lower() in SUFFIXES:
            self._files = FolderFiles(base.parent, [base.name])
        else:
            files = open_files(self.root, self.WHAT)
            if not isinstance(files, FolderFiles):
                raise UserError(f"data.root {self.root!r} is a zip; unpack it to read the arrays in it")
            wanted = [name for name in files.names if PurePosixPath(name).suffix.lower() in SUFFIXES]
            self._files = FolderFiles(files.root, wanted)
        names, where, lengths = [], [], []
        for number, name in enumerate(self._files.names):
            try:
                shape = array_shape(Path(self._files.path(number)), self.axes)
            except Unreadable as error:
                self._broken[name] = str(error)
                shape = (0, 0, 0, 0)
            count = shape[0] if len(shape) == 5 else 1
            names += [f"{name}#{i:06d}" for i in range(count)] if len(shape) == 5 else [name]
            where += [(number, i) for i in range(count)]
            lengths += [shape[-4]] * count
        order = np.argsort(np.array(names, object), kind="stable")
        self._found = {names[i]: (where[i], lengths[i]) for i in order}
        return list(self._found)

    def measure(self, names: Sequence[str]) -> Measured:
        """See :meth:`StoredVideos.measure`."""
        self._where = np.array([self._found[name][0] for name in names], np.int64).reshape(-1, 2)
        lengths = np.array([self._found[name][1] for name in names], np.int64)
        reasons = [
            self._broken.get(name, "" if length else "empty") for name, length in zip(names, lengths, strict=True)
        ]
        del self._found
        return Measured(lengths, reasons)

    def keep(self, kept: NDArray[np.int64]) -> None:
        """See :meth:`StoredVideos.keep`."""
        self._where = self._where[kept]

    def signature(self) -> bytes:
        """See :meth:`StoredVideos.signature`."""
        return self._files.signature()

    def path(self, video: int) -> str:
        """See :meth:`StoredVideos.path`."""
        return str(self._files.root / self.names[video])

    def frames(self, video: int, times: Sequence[int]) -> Iterable[Frames]:
        """See :meth:`StoredVideos.frames`."""
        file, number = self._where[video].tolist()
        array = self._array(file)
        if array.ndim == 5:
            array = array[number] if number < len(array) else array[0][:0]
        if len(array) != self.lengths[video]:
            raise Unreadable(f"it had {self.lengths[video]} frames at the start and has {len(array)} now")
        return list(array[list(times)])

    def _array(self, file: int) -> NDArray[np.uint8]:
        array = self._open.pop(file, None)
        if array is None:
            array = read_array(Path(self._files.path(file)), self.axes)
        self._open[file] = array
        while len(self._open) > 1 and sum(map(_bytes_in_memory, self._open.values())) > MOST_BYTES:
            self._open.popitem(last=False)
        return array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}


def _bytes_in_memory(array: NDArray[np.uint8]) -> int:
    return 0 if isinstance(array, np.memmap) else array.nbytes


def array_shape(path: Path, axes: str | None = None) -> tuple[int, ...]:
    """Shape of the videos in a file, ``(T, H, W, C)`` or ``(N, T, H, W, C)``; only its header is read.

    Args:
        path: the file.
        axes: see :class:`ArrayVideos`.

    Raises:
        Unreadable: it is damaged, or holds something else than uint8 videos.
    """
    try:
        if path.suffix.lower() == ".npy":
            with open(path, "rb") as file:
                return _checked(*_header(file), axes)
        with zipfile.ZipFile(path) as archive, archive.open(_member(archive) + ".npy") as file:
            return _checked(*_header(file), axes)
    except FileNotFoundError:
        raise Unreadable("it is gone") from None
    except _DAMAGE as error:
        raise Unreadable(f"damaged ({' '.join(str(error).split()) or type(error).__name__})") from None


def read_array(path: Path, axes: str | None = None) -> NDArray[np.uint8]:
    """The videos in a file, ``(T, H, W, C)`` or ``(N, T, H, W, C)``; an ``.npy`` is mapped into memory.

    Args:
        path: the file.
        axes: see :class:`ArrayVideos`.

    Raises:
        Unreadable: it is damaged, or holds something else than uint8 videos.
    """
    array_shape(path, axes)
    try:
        if path.suffix.lower() == ".npy":
            mapped: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
            return _in_order(mapped, axes)
        with zipfile.ZipFile(path) as archive, archive.open(_member(archive) + ".npy") as file:
            array: NDArray[np.uint8] = npy.read_array(file, allow_pickle=False)
            return _in_order(array, axes)
    except _DAMAGE as error:
        raise Unreadable(f"damaged ({' '.join(str(error).split()) or type(error).__name__})") from None


def _member(archive: zipfile.ZipFile) -> str:
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    chosen = [name for name in names if name in ("video", "videos")] or names
    if len(chosen) != 1:
        listed = ", ".join(names) or "no arrays"
        raise Unreadable(f"holds {listed}; one of them must be called 'video'")
    return chosen[0]


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(file)
    shape, _, dtype = npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
    return shape, dtype


def _checked(shape: tuple[int, ...], dtype: np.dtype, axes: str | None) -> tuple[int, ...]:
    if dtype != np.uint8:
        raise Unreadable(f"holds {dtype}; videos are uint8 in 0 .. 255")
    if axes is not None and len(shape) != len(axes):
        raise Unreadable(f"holds an array of shape {shape}; data.axes {axes!r} names {len(axes)} axes")
    ordered = shape if axes is None else _ordered_shape(shape, axes)
    if len(ordered) not in (4, 5) or ordered[-1] not in (1, 3) or 0 in ordered:
        wanted = _LAYOUT if axes is None else f"{axes} with 1 or 3 channels"
        raise Unreadable(f"holds an array of shape {shape}; videos are {wanted}")
    return ordered


def _ordered_shape(shape: tuple[int, ...], axes: str) -> tuple[int, ...]:
    size = {"C": 1, **dict(zip(axes, shape, strict=True))}
    return tuple(size[axis] for axis in _AXES if axis in size)


def _in_order(array: NDArray[np.uint8], axes: str | None) -> NDArray[np.uint8]:
    """A view ``(N, T, H, W, C)``, or without N, of an array of other axes."""
    if axes is None:
        return array
    ordered = array.transpose([axes.index(axis) for axis in _AXES if axis in axes])
    return ordered if "C" in axes else ordered[..., None]
