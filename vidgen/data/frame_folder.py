"""A folder of images per video, on disk or inside one zip, as StyleGAN-V's data sets are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.data.annotations import natural
from vidgen.data.dataset import UnreadableVideo
from vidgen.data.decoding import Unreadable
from vidgen.data.images import SUFFIXES, decode_image, image_size
from vidgen.data.stored import Measured, StoredVideos
from vidgen.data.tables import Files, open_files
from vidgen.data.transforms import Frames
from vidgen.errors import UserError
from vidgen.registry import DATASETS


@DATASETS.register("frame_folder")
class FrameFolder(StoredVideos):
    """Videos as folders of images, ``root/<class>/.../<video>/<frame>`` or without classes ``root/<video>/<frame>``.

    A folder that holds images is a video; its frames come in the order of their names, numbers in them as numbers
    (``frame2`` before ``frame10``). The root may be a zip, with or without entries for its folders; a zip whose videos
    all lie in one folder is read as that folder. At the start nothing but names is read.

    Args:
        root: folder or zip of the videos; its subfolders are the classes, numbered in sorted order.
        fps: frames per second, which images do not tell; it is only passed on.
    """

    WHAT = "folders of images (one folder per video)"

    def __init__(self, root: str, resolution: int, num_frames: int, *, fps: float | None = None, **stored: Any) -> None:
        if fps is not None and fps <= 0:
            raise UserError(f"data.fps is {fps:g}; it must be above 0")
        self.fps = fps
        self._files: Files
        self._by_video: dict[str, list[str]] = {}
        self._ends: NDArray[np.int64]
        super().__init__(root, resolution, num_frames, **stored)
        self._by_video = {}

    def find(self) -> Sequence[str]:
        """See :meth:`StoredVideos.find`."""
        self._files = open_files(self.root, self.WHAT)
        self._by_video = images_by_folder(self._files.names, self.root)
        if len(self._files) and not self._by_video:
            raise UserError(f"data.root {self.root!r} holds no image; it should hold {self.WHAT}")
        return sorted(self._by_video)

    def measure(self, names: Sequence[str]) -> Measured:
        """See :meth:`StoredVideos.measure`; nothing is opened."""
        self._by_video = {name: self._by_video[name] for name in names}
        lengths = np.array([len(frames) for frames in self._by_video.values()], np.int64)
        return Measured(lengths, [""] * len(names), self.fps)

    def keep(self, kept: NDArray[np.int64]) -> None:
        """See :meth:`StoredVideos.keep`."""
        frames = list(self._by_video.values())
        self._files = self._files.take([name for number in kept for name in frames[number]])
        self._ends = np.cumsum([len(frames[number]) for number in kept], dtype=np.int64)

    def signature(self) -> bytes:
        """See :meth:`StoredVideos.signature`."""
        return self._files.signature()

    def frames(self, video: int, times: Sequence[int]) -> Iterable[Frames]:
        """See :meth:`StoredVideos.frames`."""
        start = self.first_frame(video)
        return (self._frame(start + time) for time in times)

    def first_frame(self, video: int) -> int:
        """How many frames lie before those of a video."""
        return int(self._ends[video - 1]) if video else 0

    def _frame(self, number: int) -> Frames:
        try:
            return decode_image(self._files.read(number))
        except Unreadable as error:
            name = PurePosixPath(self._files.names[number]).name
            raise Unreadable(f"frame {name!r}: {error}", error.passing) from error

    def video_size(self, video: int) -> tuple[int, int] | None:
        """See :meth:`StoredVideos.video_size`."""
        try:
            return image_size(self._files.read(self.first_frame(video)))
        except Unreadable as error:
            raise UnreadableVideo(self.path(video), str(error), error.passing) from error


def images_by_folder(names: Sequence[str], root: str) -> dict[str, list[str]]:
    """Folders that hold images, and their images in natural order.

    Args:
        names: files under the root, with ``/``.
        root: named in messages.

    Raises:
        UserError: there are images, but in no folder.
    """
    folders: dict[str, list[str]] = {}
    loose = 0
    for name in names:
        if not name.lower().endswith(SUFFIXES):
            continue
        folder, _, frame = name.rpartition("/")
        if not folder:
            loose += 1
            continue
        folders.setdefault(folder, []).append(frame)
    if loose and not folders:
        raise UserError(
            f"data.root {root!r} holds {loose} images and no folder of images; use data.name frame_strips"
            " (one image per video) or image_folder (single images), or give the folder above"
        )
    return {
        folder: [f"{folder}/{frame}" for frame in sorted(frames, key=natural)] for folder, frames in folders.items()
    }
