"""What data sets that read files share: which videos, what is known about them, and from stored to wanted frames."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor

from vidgen.data.annotations import Attributes, Labels
from vidgen.data.audio import Audio, fit_spectrogram, read_spectrogram, sounds_of
from vidgen.data.clips import Clips, check_clips, clip_frames, shortest_video
from vidgen.data.dataset import UnreadableVideo, VideoDataset, check_clip_settings
from vidgen.data.decoding import Unreadable
from vidgen.data.listing import Annotation, Listing, list_videos
from vidgen.data.partial_labels import labelled_videos, lost_values, strata
from vidgen.data.request import ClipRequest
from vidgen.data.spec import DataSpec
from vidgen.data.splits import Split
from vidgen.data.tables import FolderFiles, StringTable
from vidgen.data.texts import Texts, captions_of, check_texts, choose_caption, encode_texts
from vidgen.data.transforms import (
    Frames,
    Interpolation,
    ResizeRule,
    flips,
    from_levels,
    keep_channels,
    resize_frames,
    to_levels,
    to_numbers,
)
from vidgen.errors import UserError
from vidgen.text import VOCABULARY

NAMED = 10
"""Files that cannot be used and are named one by one; of more only their number is told."""

_log = logging.getLogger("vidgen.data")


@rank_zero_only
def _report(line: str) -> None:
    _log.warning(line)


class Measured(NamedTuple):
    """What is known about files before their frames are read.

    Args:
        lengths: frames of each; 0 where it cannot be used.
        reasons: why each cannot be used; empty where it can.
        fps: frames per second; None where unknown.
    """

    lengths: NDArray[np.int64]
    reasons: Sequence[str]
    fps: float | None = None


class StoredVideos(VideoDataset):
    """Videos in files under one root.

    A subclass says which videos there are (:meth:`find`), how long they are (:meth:`measure`), which of them stay
    (:meth:`keep`), and reads their frames (:meth:`frames`). What is found to be unusable is skipped with a warning that
    names it and the reason, and stays listed in :attr:`skipped`.

    Args:
        root: where the videos lie.
        resolution: height and, without ``width``, width of the clips, pixels.
        num_frames: frames of a clip.
        stride: source frames from one clip frame to the next. A video shorter than ``num_frames * stride`` (and no
            shorter than ``min_length``) gives its first ``num_frames`` frames instead, unless ``clips.repeat_last``.
        clips: by which rule clips are cut from videos.
        min_length: videos of fewer frames are left out; None for what a clip needs, with contiguous clips
            ``num_frames * stride`` (with MoCoGAN's 16 and 2 that is the 32 of its official loader), or 1 where
            ``clips.repeat_last`` fills them up.
        channels: 3 or 1; the first channels of an image are kept, so that alpha is dropped.
        width: width of the clips where they are no squares, pixels.
        resize: ``crop`` scales a frame until it just covers the clip's size and cuts out the centre, ``crop_up`` does
            so with the other rounding of VideoGPT's and TATS' loaders, ``crop_first`` cuts the centre out before it
            scales, ``stretch`` scales each side by its own factor.
        interpolation: filter of the resizing, antialiased; ``plain_bilinear`` is not.
        flip: mirror every second clip, drawn at random, from left to right, all its frames together.
        split: which of the videos are used.
        labels: where the class of a video comes from.
        attributes: where attributes of a video come from.
        texts: captions of the videos; None without.
        audio: spectrograms of the videos' sound; None without.
    """

    WHAT: ClassVar[str] = "videos"
    """What the root should hold, for messages."""

    def __init__(
        self,
        root: str,
        resolution: int,
        num_frames: int,
        *,
        stride: int = 1,
        clips: Clips = Clips(),  # noqa: B008 - frozen
        min_length: int | None = None,
        channels: Literal[1, 3] = 3,
        width: int | None = None,
        resize: ResizeRule = "crop",
        interpolation: Interpolation = "bilinear",
        flip: bool = False,
        split: Split = Split(),  # noqa: B008 - frozen
        labels: Labels = Labels(),  # noqa: B008 - frozen
        attributes: Attributes = Attributes(),  # noqa: B008 - frozen
        texts: Texts | None = None,
        audio: Audio | None = None,
    ) -> None:
        check_clip_settings(resolution, num_frames, stride)
        check_clips(clips, num_frames, stride)
        if width is not None and width < 1:
            raise UserError(f"data.width is {width}; it must be at least 1")
        if min_length is None:
            min_length = shortest_video(clips, num_frames, stride)
        if clips.repeat_last and min_length < 1:
            raise UserError(f"data.min_length is {min_length}; it must be at least 1")
        if not clips.repeat_last and min_length < num_frames:
            raise UserError(f"data.min_length {min_length} is less than data.num_frames {num_frames}; raise it")
        if clips.rule != "contiguous" and min_length < (least := shortest_video(clips, num_frames, stride)):
            raise UserError(
                f"data.min_length {min_length} is less than the {least} frames that data.clips needs; raise it"
            )
        self.root = root
        self.clips = clips
        self.channels = channels
        self.resize = resize
        self.interpolation = interpolation
        self.flip = flip
        self.notices: list[str] = []
        self.skipped: dict[str, str] = {}
        names = self.find()
        listing = self.listing(names, Annotation(split, labels, attributes))
        measured = self.measure(listing.names)
        kept = self._usable(listing, measured, min_length)
        listing = listing.take(kept)
        lengths = measured.lengths[kept]
        self.names = StringTable(listing.names)
        table = np.stack([c.numbers for c in listing.columns], axis=1) if listing.columns else None
        self.all_attributes: NDArray[np.float32] | None = table
        """``(N, A)``, of every video; ``attributes`` is what clips carry."""
        self.label_fraction = attributes.label_fraction
        self.label_seed = attributes.label_seed
        self.attributes, unlabelled = self._share(listing)
        self.keep(kept)
        self.texts = texts
        self.captions = None if texts is None else self.find_captions(texts)
        """For each video a JSON list of its captions; see :func:`~vidgen.data.texts.captions_of`."""
        self.audio = audio
        self._sounds: FolderFiles | None = None if audio is None else sounds_of(audio, self.names, Path(root))
        spec = DataSpec(
            channels=channels,
            resolution=resolution,
            num_frames=num_frames,
            fps=measured.fps,
            num_videos=len(kept),
            min_length=int(lengths.min()),
            max_length=int(lengths.max()),
            class_names=listing.class_names,
            attribute_names=tuple(column.name for column in listing.columns),
            attribute_values=tuple(column.values for column in listing.columns),
            width=width if width != resolution else None,
            text_length=None if texts is None else texts.length,
            text_vocabulary=None if texts is None else VOCABULARY,
            audio_size=None if audio is None else audio.size,
        )
        labelled = listing.labels if listing.class_names else None
        words = b"" if self.captions is None else self.captions.data.tobytes()
        super().__init__(spec, lengths, labelled, listing.groups, stride, self.skipped, unlabelled + words)

    @abstractmethod
    def find(self) -> Sequence[str]:
        """All videos under the root, sorted, relative to it, with ``/``; nothing is opened."""

    def listing(self, names: Sequence[str], annotation: Annotation) -> Listing:
        """Choose videos, and say what is known about them beside their pixels."""
        return list_videos(names, Path(self.root), annotation, self.WHAT)

    @abstractmethod
    def measure(self, names: Sequence[str]) -> Measured:
        """Lengths of videos, without decoding them."""

    @abstractmethod
    def keep(self, kept: NDArray[np.int64]) -> None:
        """Forget all but some of the videos that were measured; these are numbered anew from 0."""

    def find_captions(self, texts: Texts) -> StringTable:
        """The captions of all videos, see :func:`~vidgen.data.texts.captions_of`.

        Raises:
            UserError: there are none, or not of every video.
        """
        check_texts(texts)
        if texts.file is None:
            raise UserError("data.texts needs data.texts.file, the captions of the videos")
        return captions_of(texts.file, self.names, Path(self.root))

    @abstractmethod
    def frames(self, video: int, times: Sequence[int]) -> Iterable[Frames]:
        """Stored frames of a video; best one by one, since many large ones do not fit into memory.

        Returns:
            uint8 ``(H, W, C)`` for each of ``times``, or anything that :meth:`fit` brings to the size of a clip.

        Raises:
            Unreadable: the video cannot be read.
        """

    def signature(self) -> bytes:
        """What tells the files of this data set from others of the same names, the same wherever they are copied to.

        Raises:
            UserError: one of them is gone.
        """
        return b""

    def pixel_aspect(self, video: int) -> Fraction:
        """Width of a stored pixel divided by its height."""
        return Fraction(1)

    def path(self, video: int) -> str:
        """Where a video lies, for messages."""
        return str(Path(self.root) / self.names[video])

    def clip_times(self, video: int, draw: int) -> tuple[int, ...]:
        """See :meth:`VideoDataset.clip_times`."""
        return clip_frames(self.clips, int(self.lengths[video]), self.spec.num_frames, self.stride, draw)

    def read(self, request: ClipRequest) -> dict[str, Tensor]:
        """See :meth:`VideoDataset.read`; adds ``attributes`` float32 (A,) where there are some."""
        sample = self.read_levels(request)
        return {
            key: from_levels(value.float()) if value.dtype == torch.uint8 else value for key, value in sample.items()
        }

    def read_levels(self, request: ClipRequest) -> dict[str, Tensor]:
        """See :meth:`VideoDataset.read_levels`."""
        planes = self.planes(request.video, request.times, request.resolution)
        if self.flip and flips(request.seed):
            planes = {name: frames[:, :, ::-1] for name, frames in planes.items()}
        pixels = {
            name: to_levels(frames) if frames.dtype == np.uint8 else to_numbers(frames)
            for name, frames in planes.items()
        }
        return {**pixels, **self.beside(request), **self.describe_clip(request)}

    def beside(self, request: ClipRequest) -> dict[str, Tensor]:
        """What there is beside the pixels of a clip and is read or made only with it.

        Returns:
            ``text`` int64 (L,) and ``audio`` float32 (1, T, F, W) in [-1, 1], where the data set has them.

        Raises:
            UnreadableVideo: its sound cannot be read.
        """
        found = {}
        if self.texts is not None and self.captions is not None:
            caption = choose_caption(self.captions[request.video], request.seed)
            found["text"] = encode_texts([caption], self.texts.bpe, self.texts.length)[0]
        if self.audio is not None and self._sounds is not None:
            path = self._sounds.path(request.video)
            try:
                slices = read_spectrogram(Path(path), request.times)
            except Unreadable as error:
                raise UnreadableVideo(path, str(error), error.passing) from error
            found["audio"] = fit_spectrogram(slices, self.audio.size)
        return found

    def planes(self, video: int, times: Sequence[int], resolution: int) -> dict[str, NDArray[Any]]:
        """Everything that is stored of some frames, in the size of a clip.

        Returns:
            Name -> ``(T, resolution, width, C)``: uint8 levels (``video`` and other pictures) or int32 numbers (ids).

        Raises:
            UnreadableVideo: the video cannot be read.
        """
        return {"video": self.fitted(video, times, resolution)}

    def fitted(self, video: int, times: Sequence[int], resolution: int) -> Frames:
        """Frames of a video in the size of a clip, uint8 ``(T, resolution, width, C)``.

        Raises:
            UnreadableVideo: the video cannot be read.
        """
        aspect = self.pixel_aspect(video)
        try:
            return np.stack([self.fit(frame, resolution, aspect) for frame in self.frames(video, times)])
        except Unreadable as error:
            raise UnreadableVideo(self.path(video), str(error), error.passing) from error

    def stored(self, video: int, times: Sequence[int]) -> Frames:
        """Frames of a video in their own size, with square pixels, uint8 ``(T, H, W, channels)``.

        Raises:
            UnreadableVideo: the video cannot be read.
        """
        aspect = self.pixel_aspect(video)
        try:
            frames = [keep_channels(frame, self.channels) for frame in self.frames(video, times)]
        except Unreadable as error:
            raise UnreadableVideo(self.path(video), str(error), error.passing) from error
        if any(frame.shape != frames[0].shape for frame in frames):
            raise UnreadableVideo(self.path(video), "its frames are of different sizes")
        clip = np.stack(frames)
        if aspect == 1:
            return clip
        height, width = clip.shape[1:3]
        return resize_frames(clip, height, "stretch", width=max(1, round(width * aspect)))

    def pack(self, video: int, times: Sequence[int]) -> dict[str, NDArray[Any]]:
        """See :meth:`VideoDataset.pack`; frames keep the bytes that they have here."""
        return self.planes(video, times, self.spec.resolution)

    def fit(self, frame: Frames, resolution: int, pixel_aspect: Fraction = Fraction(1)) -> Frames:
        """One frame in the size of a clip: ``(H, W, C)`` to ``(resolution, width, channels)``."""
        return resize_frames(
            keep_channels(frame, self.channels)[None],
            resolution,
            self.resize,
            width=self.width(resolution),
            pixel_aspect=pixel_aspect,
            interpolation=self.interpolation,
        )[0]

    def width(self, resolution: int) -> int:
        """Width of clips whose height is ``resolution``, pixels."""
        return round(resolution * self.spec.width / self.spec.resolution) if self.spec.width else resolution

    def describe_clip(self, request: ClipRequest) -> dict[str, Tensor]:
        """See :meth:`VideoDataset.describe_clip`."""
        sample = super().describe_clip(request)
        if self.attributes is not None:
            sample["attributes"] = torch.from_numpy(self.attributes[request.video].copy())
        return sample

    def describe(self) -> str:
        """See :meth:`VideoDataset.describe`."""
        lines = [f"{self.WHAT.split(' (')[0]} in {self.root}", super().describe()]
        if self.texts is not None:
            lines.append(f"texts of {self.texts.length} ids")
        if self.audio is not None:
            lines.append(f"sound of {self.audio.size[0]} x {self.audio.size[1]} numbers for each frame")
        return "\n".join([*lines, *self.notices])

    def _share(self, listing: Listing) -> tuple[NDArray[np.float32] | None, bytes]:
        """The attributes that clips carry, and which videos have lost theirs; no bytes where that is none."""
        table = self.all_attributes
        if table is None or self.label_fraction == 1:
            return table, b""
        known = np.asarray(np.isfinite(table).any(axis=1))
        classes = strata(listing.labels if listing.class_names else None, listing.columns, len(table))
        hidden = known & ~labelled_videos(classes, known, self.label_fraction, self.label_seed)
        left = np.where(hidden[:, None], np.float32(np.nan), table)
        line = (
            f"left out the attributes of {hidden.sum()} of {counted(int(known.sum()), 'video')}"
            f" (data.attributes.label_fraction {self.label_fraction:g}, label_seed {self.label_seed})"
        )
        if lost := lost_values(listing.columns, left) if self.label_fraction > 0 else "":
            self._notice(f"{line}; none is left of {lost}")
        else:
            self.notices.append(line)
        return left, np.packbits(hidden).tobytes() if hidden.any() else b""

    def _usable(self, listing: Listing, measured: Measured, min_length: int) -> NDArray[np.int64]:
        """Which videos are used; what is left out is reported."""
        root = Path(self.root)
        bad = [number for number, reason in enumerate(measured.reasons) if reason]
        self.skipped = {str(root / listing.names[number]): measured.reasons[number] for number in bad}
        if len(bad) == len(listing.names):
            first = listing.names[bad[0]]
            raise UserError(
                f"data.root {self.root!r}: none of its {counted(len(bad), 'file')} can be used"
                f" (the first, {first!r}: {measured.reasons[bad[0]]})"
            )
        for path, reason in list(self.skipped.items())[:NAMED]:
            self._notice(f"skipped {path}: {reason}")
        if len(bad) > NAMED:
            self._notice(f"{self.root}: skipped {len(bad) - NAMED} more; `vidgen data inspect` lists them")
        kept = np.flatnonzero(measured.lengths >= min_length)
        if not len(kept):
            raise UserError(
                f"data.root {self.root!r}: none of its {counted(len(listing.names) - len(bad), 'video')} has"
                f" {min_length} frames (the longest has {measured.lengths.max()});"
                " lower data.num_frames, data.stride or data.min_length"
            )
        if listing.loose:
            self._notice(
                f"{self.root}: left out {counted(len(listing.loose), 'video')} in no class folder (the first:"
                f" {listing.loose[0]!r}); data.labels.by none uses all without classes"
            )
        num_short = len(listing.names) - len(bad) - len(kept)
        if num_short:
            self._notice(f"{self.root}: left out {counted(num_short, 'video')} shorter than {min_length} frames")
        return kept

    def _notice(self, line: str) -> None:
        self.notices.append(line)
        _report(line)

    def video_size(self, video: int) -> tuple[int, int] | None:
        """Width and height of a video's stored frames, or None where that is not known without decoding."""
        return None

    def video_fps(self, video: int) -> float | None:
        """Frames per second of a video; None where unknown."""
        return self.spec.fps


def counted(number: int, noun: str) -> str:
    """``1 video``, ``2 videos``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
