"""Videos that are there twice, as files of the same content."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Sequence
from hashlib import blake2b
from pathlib import Path

from vidgen.data.frame_folder import FrameFolder
from vidgen.data.stored import StoredVideos
from vidgen.data.tables import FolderFiles
from vidgen.evaluation.sources import ClipSource, StoredClips

_HEAD = 1 << 16  # bytes; files that differ mostly do so here

Files = tuple[Path, ...]
"""The files of one video."""


def copies_among(source: ClipSource) -> int:
    """How many of the videos are copies of others of the same source."""
    return sum(len(alike) - 1 for alike in _alike([files for files in _videos(source).values() if files]))


def copies_between(real: ClipSource, fake: ClipSource) -> int:
    """How many fake videos are real ones, or copies of them."""
    targets, made = _videos(real), _videos(fake)
    same = targets.keys() & made.keys()
    first = [files for files in targets.values() if files]
    second = [files for place, files in made.items() if files and place not in same]
    mixed = (numbers for numbers in _alike([*first, *second]) if min(numbers) < len(first))
    return len(same) + sum(number >= len(first) for numbers in mixed for number in numbers)


def _videos(source: ClipSource) -> dict[str, Files]:
    """Where each video lies, and the files that are its own, if there are such in a folder."""
    dataset = source.dataset if isinstance(source, StoredClips) else None
    if not isinstance(source, StoredClips) or not isinstance(dataset, StoredVideos):
        return {}
    chosen = sorted(set(source.videos.tolist()))
    return {os.path.realpath(dataset.path(video)): _files(dataset, video) for video in chosen}


def _files(dataset: StoredVideos, video: int) -> Files:
    if isinstance(dataset, FrameFolder):
        first, table = dataset.first_frame(video), dataset._files
        frames = range(first, first + int(dataset.lengths[video]))
        return tuple(Path(table.path(frame)) for frame in frames) if isinstance(table, FolderFiles) else ()
    path = Path(dataset.path(video))
    return (path,) if path.is_file() else ()


def _alike(videos: Sequence[Files]) -> list[list[int]]:
    """Numbers of videos of the same content, more than one each; only what may be alike is read."""
    groups = [list(range(len(videos)))]
    for look in (_sizes, _head, _content):
        groups = [part for group in groups for part in _divided(group, videos, look)]
    return groups


def _divided(group: Sequence[int], videos: Sequence[Files], look: Callable[[Files], Hashable]) -> list[list[int]]:
    parts: dict[Hashable, list[int]] = {}
    for number in group:
        parts.setdefault(look(videos[number]), []).append(number)
    return [part for part in parts.values() if len(part) > 1]


def _sizes(files: Files) -> Hashable:
    try:
        return tuple(os.stat(path).st_size for path in files)
    except OSError:
        return files


def _head(files: Files) -> Hashable:
    try:
        with open(files[0], "rb") as file:
            return blake2b(file.read(_HEAD), digest_size=16).digest()
    except OSError:
        return files


def _content(files: Files) -> Hashable:
    digest = blake2b(digest_size=16)
    try:
        for path in files:
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    except OSError:
        return files
    return digest.digest()
