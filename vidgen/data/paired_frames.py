"""Videos with a picture beside every frame that they are made from, in vid2vid's folders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidgen.data.annotations import Labels
from vidgen.data.dataset import UnreadableVideo
from vidgen.data.decoding import Unreadable
from vidgen.data.frame_folder import FrameFolder, images_by_folder
from vidgen.data.images import decode_image, decode_numbers
from vidgen.data.splits import Split
from vidgen.data.tables import Files, open_files
from vidgen.data.transforms import Interpolation, ResizeRule, keep_channels, resize_frames
from vidgen.errors import UserError
from vidgen.registry import DATASETS

Pictures = dict[str, list[str]]
"""Images of each sequence, in order."""


@DATASETS.register("paired_frames")
class PairedFrames(FrameFolder):
    """Frames ``root/<part>_B/<sequence>/<frame>``, and as many conditions ``root/<part>_A/<sequence>/<frame>``.

    Where there is a folder ``root/<part>_inst`` it holds the instance ids of every frame. Frames belong together by
    their order, numbers in their names as numbers. A batch has, beside ``video`` float32 (B, C, T, H, W) in [-1, 1]:

    - ``condition``, int64 (B, 1, T, H, W) for ``ids``, float32 (B, 3, T, H, W) in [-1, 1] for ``image``;
    - ``instance``, int64 (B, 1, T, H, W), where there are instance ids.

    Ids are resized by picking the nearest pixel. The mirrored half of ``flip`` is mirrored in all of them.

    Args:
        root: folder or zip with the folders of all parts.
        part: ``train`` for ``train_A`` and ``train_B``, ``test`` for ``test_A`` and ``test_B``.
        condition: ``ids`` takes the values of 8 or 16 bit images as class ids, ``image`` takes them as pictures.
        fps: frames per second, which images do not tell; it is only passed on.
    """

    WHAT = "paired frames (train_A and train_B with a folder of images per sequence)"

    def __init__(
        self,
        root: str,
        resolution: int,
        num_frames: int,
        *,
        part: Literal["train", "test"] = "train",
        condition: Literal["ids", "image"] = "ids",
        fps: float | None = None,
        resize: ResizeRule = "stretch",
        interpolation: Interpolation = "bicubic",
        split: Split = Split(),  # noqa: B008 - frozen
        labels: Labels = Labels(by="none"),  # noqa: B008 - frozen
        **stored: Any,
    ) -> None:
        if split.by == "folder":
            raise UserError("data.split.by 'folder' has no meaning with paired frames; set data.part")
        if labels.by == "folder":
            raise UserError("data.labels.by 'folder' has no meaning with paired frames; use pattern, file or none")
        self.part = part
        self.condition = condition
        self._beside: dict[str, Files] = {}
        self._pictures: dict[str, Pictures] = {}
        arguments = {"resize": resize, "interpolation": interpolation, "split": split, "labels": labels}
        super().__init__(root, resolution, num_frames, fps=fps, **arguments, **stored)
        self._pictures = {}

    def find(self) -> Sequence[str]:
        """See :meth:`StoredVideos.find`.

        Raises:
            UserError: conditions or frames are missing, or are not as many as the other.
        """
        self._files = open_files(self.root, self.WHAT)
        names = self._files.names
        base = paired_base(names, self.part)
        kinds: dict[str, Pictures] = {}
        for kind in ("A", "B", "inst"):
            below = f"{base}{self.part}_{kind}/"
            inside = [name[len(below) :] for name in names if name.startswith(below) and "/" in name[len(below) :]]
            folders = images_by_folder(inside, self.root)
            if folders or kind != "inst":
                kinds[kind] = {folder: [below + image for image in images] for folder, images in folders.items()}
        for kind in ("B", "A"):
            if not kinds[kind]:
                place = f"{base}{self.part}_{kind}"
                raise UserError(
                    f"data.root {self.root!r} has no folder of images in {place}; it should hold {self.WHAT}"
                )
        frames = kinds.pop("B")
        for kind, pictures in kinds.items():
            check_pairs(frames, pictures, f"{base}{self.part}_B", f"{base}{self.part}_{kind}", self.root)
        above = f"{base}{self.part}_B/"
        self._by_video = {above + sequence: frames[sequence] for sequence in frames}
        self._pictures = {
            kind: {above + sequence: pictures[sequence] for sequence in frames} for kind, pictures in kinds.items()
        }
        return sorted(self._by_video)

    def keep(self, kept: NDArray[np.int64]) -> None:
        """See :meth:`StoredVideos.keep`."""
        videos = list(self._by_video)
        for kind, pictures in self._pictures.items():
            self._beside[kind] = self._files.take([name for number in kept for name in pictures[videos[number]]])
        super().keep(kept)

    def signature(self) -> bytes:
        """See :meth:`StoredVideos.signature`."""
        return b"".join(files.signature() for files in (self._files, *self._beside.values()))

    def planes(self, video: int, times: Sequence[int], resolution: int) -> dict[str, NDArray[Any]]:
        """See :meth:`StoredVideos.planes`; adds ``condition``, and ``instance`` where there are some."""
        planes = super().planes(video, times, resolution)
        try:
            planes["condition"] = self._fitted_beside("A", video, times, resolution, self.condition == "image")
            if "inst" in self._beside:
                planes["instance"] = self._fitted_beside("inst", video, times, resolution, False)
        except Unreadable as error:
            raise UnreadableVideo(self.path(video), str(error), error.passing) from error
        return planes

    def _fitted_beside(
        self, kind: str, video: int, times: Sequence[int], resolution: int, as_image: bool
    ) -> NDArray[Any]:
        """Pictures ``(T, resolution, width, 3)``, uint8, or ids ``(T, resolution, width, 1)``, int32."""
        files, start = self._beside[kind], self.first_frame(video)
        fitted = []
        for time in times:
            number = start + int(time)
            try:
                data = files.read(number)
                stored = keep_channels(decode_image(data), 3) if as_image else decode_numbers(data)
            except Unreadable as error:
                raise Unreadable(f"{files.names[number]!r}: {error}", error.passing) from error
            fitted.append(
                resize_frames(
                    stored[None],
                    resolution,
                    self.resize,
                    width=self.width(resolution),
                    interpolation=self.interpolation if as_image else "nearest",
                )[0]
            )
        return np.stack(fitted)


def paired_base(names: Sequence[str], part: str) -> str:
    """The one folder that holds the folders of all parts, with its ``/``; nothing where they lie at the top.

    Args:
        names: files under the root, with ``/``.
        part: ``train`` or ``test``.
    """
    tops = {name.split("/", 1)[0] for name in names}
    if len(tops) != 1:
        return ""
    top = tops.pop()
    return "" if top in (f"{part}_A", f"{part}_B") else f"{top}/"


def check_pairs(frames: Pictures, pictures: Pictures, frames_name: str, pictures_name: str, root: str) -> None:
    """Refuse sequences that are not as long as their partner.

    Args:
        frames: images of each sequence.
        pictures: what should lie beside each of them.
        frames_name: folder of ``frames``.
        pictures_name: folder of ``pictures``.
        root: named in messages.

    Raises:
        UserError: naming the first sequence that differs.
    """
    for sequence in sorted({*frames, *pictures}):
        ours, theirs = len(frames.get(sequence, ())), len(pictures.get(sequence, ()))
        if ours != theirs:
            raise UserError(
                f"data.root {root!r}: sequence {sequence!r} has {ours} images in {frames_name} and {theirs} in"
                f" {pictures_name}; every frame needs its partner"
            )
