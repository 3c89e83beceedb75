"""A folder of video files, of any container and codec that FFmpeg reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidgen.data.dataset import UnreadableVideo
from vidgen.data.decoding import Unreadable, VideoScan, read_frames
from vidgen.data.images import SUFFIXES
from vidgen.data.index import VideoIndex, index_videos
from vidgen.data.stored import Measured, StoredVideos
from vidgen.data.tables import BESIDE, FolderFiles, check_folder, open_files
from vidgen.data.torchcodec_reader import check_torchcodec, read_frames_by_torchcodec
from vidgen.data.transforms import Frames
from vidgen.distributed import world
from vidgen.errors import UserError
from vidgen.registry import DATASETS

LONGEST = 10**7
"""Frames of the longest video at a chosen frame rate; more is a sign of damaged times."""


@DATASETS.register("video_folder")
class VideoFolder(StoredVideos):
    """Video files, ``root/<class>/.../<file>`` or without classes ``root/<file>``.

    Files are opened by content, not by extension; images, texts and tables beside them are passed over. Which frames a
    file has and when they are shown is found out once and kept in an index, so that later starts open no file; a
    clip is then read by seeking, exactly. Frames are upright, and square pixels where the file's are not.

    Args:
        root: folder of the videos; its subfolders are the classes, numbered in sorted order.
        fps: frames per second at which the videos are read: source frame n is what is shown n / fps seconds after the
            first frame. None takes the frames as they are stored, whatever the time between them.
        deinterlace: keep only every second line of interlaced frames, so that no frame shows two moments at once.
        decoder: ``pyav``, or ``torchcodec`` where that is installed, which gives the same frames.
    """

    WHAT = "video files"

    def __init__(
        self,
        root: str,
        resolution: int,
        num_frames: int,
        *,
        fps: float | None = None,
        deinterlace: bool = False,
        decoder: Literal["pyav", "torchcodec"] = "pyav",
        **stored: Any,
    ) -> None:
        if fps is not None and not 0.01 <= fps <= 1000:
            raise UserError(f"data.fps is {fps:g}; it must be at least 0.01 and at most 1000")
        self.fps = None if fps is None else Fraction(fps).limit_denominator(1001)
        self.deinterlace = deinterlace
        self.decoder = decoder
        if decoder == "torchcodec":
            check_torchcodec()
        self._files: FolderFiles
        self._index: VideoIndex
        super().__init__(root, resolution, num_frames, **stored)

    def find(self) -> Sequence[str]:
        """See :meth:`StoredVideos.find`."""
        check_folder(Path(self.root), f"data.root {self.root!r}", self.WHAT)
        names = open_files(self.root, self.WHAT).names
        suffixes = {name: PurePosixPath(name).suffix.lower() for name in names}
        videos = [name for name in names if suffixes[name] not in BESIDE and suffixes[name] not in _IMAGES]
        if not videos and any(suffix in _IMAGES for suffix in suffixes.values()):
            raise UserError(
                f"data.root {self.root!r} holds images and no video;"
                " use data.name frame_folder (a folder of frames per video), frame_strips or image_folder"
            )
        return videos

    def measure(self, names: Sequence[str]) -> Measured:
        """See :meth:`StoredVideos.measure`; files that are not in the index are scanned."""
        self._files = FolderFiles(Path(self.root), names)
        self._index = index_videos(Path(self.root), names, quiet=world()[0] > 0)
        reasons = list(self._index.reasons)
        lengths = self._index.entries["length"].astype(np.int64)
        if self.fps is not None:
            for number in np.flatnonzero(lengths):
                lengths[number], reasons[number] = self._resampled(self._index.scan(int(number)), self.fps)
        rates = [rate for n in np.flatnonzero(lengths)[:1000] if (rate := self._index.scan(int(n)).fps)]
        fps = float(self.fps) if self.fps is not None else float(np.median(rates)) if rates else None
        return Measured(lengths, reasons, None if fps is None else round(fps, 3))

    def keep(self, kept: NDArray[np.int64]) -> None:
        """See :meth:`StoredVideos.keep`."""
        self._files = self._files.take(kept)
        self._index = self._index.take(kept)

    def signature(self) -> bytes:
        """See :meth:`StoredVideos.signature`."""
        return self._index.entries["size"].tobytes()

    def fitted(self, video: int, times: Sequence[int], resolution: int) -> Frames:
        """See :meth:`StoredVideos.fitted`; each frame is resized as soon as it is decoded."""
        aspect = self.pixel_aspect(video)
        try:
            return np.stack(self._read(video, times, lambda frame: self.fit(frame, resolution, aspect)))
        except Unreadable as error:
            raise UnreadableVideo(self.path(video), str(error), error.passing) from error

    def frames(self, video: int, times: Sequence[int]) -> Sequence[Frames]:
        """See :meth:`StoredVideos.frames`."""
        return self._read(video, times)

    def _read(
        self, video: int, times: Sequence[int], convert: Callable[[Frames], Frames] | None = None
    ) -> Sequence[Frames]:
        found = self._index.scan(video)
        wanted = times if self.fps is None else frames_at(found, self.fps, times)
        path = self._files.path(video)
        if self.decoder == "torchcodec":
            return read_frames_by_torchcodec(path, found, wanted, self.deinterlace, convert)
        return read_frames(path, found, wanted, self.deinterlace, convert)

    def pixel_aspect(self, video: int) -> Fraction:
        """See :meth:`StoredVideos.pixel_aspect`."""
        return Fraction(*self._index.entries[video]["pixel_aspect"].tolist())

    def video_size(self, video: int) -> tuple[int, int] | None:
        """See :meth:`StoredVideos.video_size`."""
        entry = self._index.entries[video]
        return int(entry["width"]), int(entry["height"])

    def video_fps(self, video: int) -> float | None:
        """See :meth:`StoredVideos.video_fps`."""
        return float(self.fps) if self.fps is not None else self._index.scan(video).fps

    @staticmethod
    def _resampled(found: VideoScan, fps: Fraction) -> tuple[int, str]:
        """Length at a frame rate, and why there is none."""
        if not len(found.times):
            return 0, "it has no times; leave out data.fps"
        ticks = int(found.times[-1] - found.times[0]) + found.last_ticks
        length = max(1, math.ceil((ticks - _slack(found)) * fps * found.tick))
        if length > LONGEST:
            return 0, f"damaged (its {found.length} frames span {ticks * float(found.tick) / 3600:.0f} hours)"
        return int(length), ""


_IMAGES = frozenset(SUFFIXES) - {".gif", ".webp"}


def _slack(found: VideoScan) -> Fraction:
    """Ticks by which a frame may be shown before its time, see :func:`frames_at`."""
    if found.length < 2:
        return Fraction(1, 2)
    return min(Fraction(1, 2), Fraction(int(found.times[-1] - found.times[0]), 8 * (found.length - 1)))


def frames_at(found: VideoScan, fps: Fraction, times: Sequence[int]) -> list[int]:
    """The stored frames that are shown at the frames of another rate.

    Containers round times to their ticks, so a frame counts as shown up to half a tick before its time, but no more
    than an eighth of the time from frame to frame: in an AVI a tick is a whole frame.

    Args:
        found: where the frames of the file are.
        fps: frames per second of ``times``.
        times: frame numbers at that rate, from 0.

    Returns:
        Numbers of stored frames.
    """
    slack = _slack(found)
    ticks = [int(time / (fps * found.tick) + slack) for time in times]
    shown = np.searchsorted(found.times - found.times[0], ticks, side="right") - 1
    return [int(number) for number in shown]
