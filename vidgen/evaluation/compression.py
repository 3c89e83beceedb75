"""How stored videos are compressed, and whether that changes their pixels."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image

from vidgen.data.arrays import ArrayVideos
from vidgen.data.dataset import VideoDataset
from vidgen.data.decoding import Unreadable
from vidgen.data.packed import Packed
from vidgen.data.stored import StoredVideos
from vidgen.data.tables import FolderFiles, ZipFiles
from vidgen.data.video_folder import VideoFolder

LOOKED_AT = 10
"""Video files whose codec decides what all are."""

_LOSSLESS = frozenset({"apng", "bmp", "ffv1", "ffvhuff", "huffyuv", "lagarith", "magicyuv", "pgm", "png", "pnm", "ppm",
                       "qtrle", "rawvideo", "tif", "tiff", "utvideo", "v210", "zlib", "zmbv"})  # fmt: skip
"""Codecs and endings of images; not GIF, which has 256 colours."""
_OF_PILLOW = {"JPEG": "jpg", "MPO": "jpg", "PPM": "ppm"}


def compression(dataset: VideoDataset) -> str | None:
    """How the frames of a data set are compressed: codecs, or kinds of images; None where they are not.

    Of a pack it is how those were that it was made from.
    """
    if isinstance(dataset, Packed):
        settings = dataset.about.get("settings") or {}
        root, name = str(settings.get("root", "")), settings.get("name")
        paths = [Path(root) / name for name in dataset.names[:LOOKED_AT]]
        kinds = (
            {_codec(path) or _suffix(path) for path in paths} if name == "video_folder" else set(map(_suffix, paths))
        )
    elif isinstance(dataset, VideoFolder):
        kinds = {_codec(Path(dataset.path(video))) for video in range(min(LOOKED_AT, len(dataset)))}
    elif isinstance(dataset, StoredVideos) and not isinstance(dataset, ArrayVideos):
        tables = [value for value in vars(dataset).values() if isinstance(value, FolderFiles | ZipFiles)]
        kinds = {kind for table in tables for kind in _image_kinds(table)}
    else:
        return None
    return ", ".join(sorted(kind for kind in kinds if kind)) or None


def is_lossy(compressed: str | None) -> bool:
    """Whether a :func:`compression` changes pixels."""
    return any(kind not in _LOSSLESS for kind in compressed.split(", ")) if compressed else False


def _image_kinds(files: FolderFiles | ZipFiles) -> set[str | None]:
    """Kinds of images by what the first files of each ending hold, since an ending may lie."""
    seen: dict[str | None, list[int]] = {}
    for number, name in enumerate(files.names):
        numbers = seen.setdefault(_suffix(Path(name)), [])
        if len(numbers) < LOOKED_AT:
            numbers.append(number)
    return {_image_kind(files, number) or ending for ending, numbers in seen.items() for number in numbers}


def _image_kind(files: FolderFiles | ZipFiles, number: int) -> str | None:
    try:
        with Image.open(io.BytesIO(files.read(number))) as image:
            return _OF_PILLOW.get(image.format or "", (image.format or "").lower()) or None
    except (Unreadable, OSError, ValueError):
        return None


def _suffix(path: Path) -> str | None:
    ending = os.path.splitext(path.name)[1].lower().removeprefix(".").partition("#")[0]
    return None if ending in ("npz", "npy", "") else ending


def _codec(path: Path) -> str | None:
    import av

    try:
        with av.open(str(path)) as container:
            return str(container.streams.video[0].codec_context.name)
    except (av.FFmpegError, OSError, IndexError):
        return None
