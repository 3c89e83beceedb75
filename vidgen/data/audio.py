"""Sound beside videos: a slice of the spectrogram for each frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib import format as npy
from numpy.typing import NDArray
from torch import Tensor

from vidgen.data.decoding import Unreadable
from vidgen.data.tables import FolderFiles, check_folder, open_files
from vidgen.errors import UserError

SLACK = 0.01
"""By how much a value may lie outside [0, 1], for rounding."""
_DAMAGE = (OSError, ValueError, EOFError, MemoryError)


@dataclass(frozen=True)
class Audio:
    """Spectrograms of the videos' sound, which batches hold as ``audio`` float32 ``(B, 1, T, F, W)`` in [-1, 1].

    The sound of ``<root>/train/a.mp4`` is ``<audio root>/train/a.npy``: an array ``(T, F, W)`` of floats in [0, 1],
    one slice for each frame of the video (at ``data.fps``, where that is set).

    Args:
        root: folder of the arrays.
        size: height and width of a slice, to which the stored ones are brought by bilinear interpolation.
    """

    root: Path
    size: tuple[int, int] = (64, 16)


def sounds_of(audio: Audio, names: Sequence[str], root: Path) -> FolderFiles:
    """The arrays of some videos.

    Args:
        audio: the settings.
        names: videos relative to ``root``, with ``/``.
        root: where the videos lie, for messages.

    Raises:
        UserError: a video has none.
    """
    if min(audio.size) < 1:
        raise UserError(f"data.audio.size is {list(audio.size)}; both must be at least 1")
    where = f"data.audio.root {str(audio.root)!r}"
    check_folder(audio.root, where, "spectrograms")
    there = set(open_files(audio.root, "spectrograms").names)
    arrays = []
    for name in names:
        short = str(PurePosixPath(name).with_suffix(".npy"))
        # A folder of frames may have a dot in its name, which begins no ending.
        array = next((path for path in (f"{name}.npy", short) if path in there), None)
        if array is None:
            raise UserError(
                f"{where} has no {short!r}, the sound of {name!r}, found in {str(root)!r}; add it, or leave the video"
                " out with data.split"
            )
        arrays.append(array)
    return FolderFiles(audio.root, arrays)


def spectrogram_shape(path: Path) -> tuple[int, int, int]:
    """Shape ``(T, F, W)`` of a spectrogram; only the header of its file is read.

    Raises:
        Unreadable: it is damaged, or holds something else.
    """
    try:
        with open(path, "rb") as file:
            version = npy.read_magic(file)
            shape, _, dtype = npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
    except FileNotFoundError:
        raise Unreadable("it is gone", passing=True) from None
    except _DAMAGE as error:
        raise _damaged(error) from None
    if dtype.kind != "f" or len(shape) != 3 or 0 in shape:
        raise Unreadable(f"holds {dtype} of shape {shape}; a spectrogram is (T, F, W) of floats in 0 .. 1")
    return shape


def read_spectrogram(path: Path, times: Sequence[int]) -> NDArray[np.float32]:
    """Some slices of a spectrogram, ``(T, F, W)`` in [0, 1].

    Args:
        path: the ``.npy``.
        times: which slices.

    Raises:
        Unreadable: it is damaged, too short, or holds values outside [0, 1].
    """
    length = spectrogram_shape(path)[0]
    if max(times) >= length:
        raise Unreadable(f"has {length} slices, and slice {max(times)}, counted from 0, is asked for")
    try:
        stored: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        slices: NDArray[np.float32] = np.asarray(stored[list(times)], np.float32)
    except _DAMAGE as error:
        raise _damaged(error) from None
    low, high = float(slices.min()), float(slices.max())
    if not (low >= -SLACK and high <= 1 + SLACK):  # NaN compares as false
        raise Unreadable(f"its values span {low:g} to {high:g}; they must lie in 0 .. 1")
    return slices


def fit_spectrogram(slices: NDArray[np.float32], size: tuple[int, int]) -> Tensor:
    """Slices in [0, 1] as a model reads them: TATS' transform.

    Args:
        slices: ``(T, F, W)``.
        size: height and width of the result.

    Returns:
        float32 ``(1, T, height, width)`` in [-1, 1]; bilinear without antialiasing.
    """
    centred = (torch.from_numpy(np.ascontiguousarray(slices, np.float32)) * 2 - 1)[None]
    return F.interpolate(centred, size=size, mode="bilinear", align_corners=False)


def _damaged(error: Exception) -> Unreadable:
    return Unreadable(f"damaged ({' '.join(str(error).split()) or type(error).__name__})")
