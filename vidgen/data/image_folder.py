"""Single images, on disk or inside one zip, for models of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.data.dataset import UnreadableVideo
from vidgen.data.decoding import Unreadable
from vidgen.data.images import SUFFIXES, decode_image, image_size
from vidgen.data.stored import Measured, StoredVideos
from vidgen.data.tables import Files, open_files
from vidgen.data.transforms import Frames
from vidgen.errors import UserError
from vidgen.registry import DATASETS


@DATASETS.register("image_folder")
class ImageFolder(StoredVideos):
    """Images, ``root/<class>/.../<file>`` or without classes ``root/<file>``; each is a video of one frame.

    Args:
        root: folder or zip of the images; its subfolders are the classes, numbered in sorted order.
        num_frames: frames of a clip; an image has one.
    """

    WHAT = "images"

    def __init__(self, root: str, resolution: int, num_frames: int = 1, **stored: Any) -> None:
        if num_frames != 1:
            raise UserError(f"data.num_frames is {num_frames}; an image has one frame, so it must be 1")
        self._files: Files
        super().__init__(root, resolution, num_frames, **stored)

    def find(self) -> Sequence[str]:
        """See :meth:`StoredVideos.find`."""
        self._files = open_files(self.root, self.WHAT)
        images = [name for name in self._files.names if name.lower().endswith(SUFFIXES)]
        if len(self._files) and not images:
            raise UserError(f"data.root {self.root!r} holds no image; it should hold {self.WHAT}")
        return images

    def measure(self, names: Sequence[str]) -> Measured:
        """See :meth:`StoredVideos.measure`; nothing is opened."""
        self._files = self._files.take(names)
        return Measured(np.ones(len(names), np.int64), [""] * len(names))

    def keep(self, kept: NDArray[np.int64]) -> None:
        """See :meth:`StoredVideos.keep`."""
        self._files = self._files.take(kept)

    def signature(self) -> bytes:
        """See :meth:`StoredVideos.signature`."""
        return self._files.signature()

    def frames(self, video: int, times: Sequence[int]) -> Sequence[Frames]:
        """See :meth:`StoredVideos.frames`."""
        image = decode_image(self._files.read(video))
        return [image for _ in times]

    def video_size(self, video: int) -> tuple[int, int] | None:
        """See :meth:`StoredVideos.video_size`."""
        try:
            return image_size(self._files.read(video))
        except Unreadable as error:
            raise UnreadableVideo(self.path(video), str(error), error.passing) from error
