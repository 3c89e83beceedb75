"""A data set that was decoded and resized once, see :mod:`vidgen.data.packing`."""

from __future__ import annotations

import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vidgen.data.annotations import Attributes, Column, check_label_fraction
from vidgen.data.audio import Audio
from vidgen.data.clips import Clips
from vidgen.data.dataset import UnreadableVideo
from vidgen.data.decoding import Unreadable
from vidgen.data.listing import Annotation, Listing
from vidgen.data.pack_files import FORMAT, INDEX, PACK, Shard, command_of, file_digest, read_plan, shard_path
from vidgen.data.partial_labels import LabelShare
from vidgen.data.spec import DataSpec
from vidgen.data.splits import Split, check_split, group_of, select
from vidgen.data.stored import Measured, StoredVideos
from vidgen.data.tables import StringTable
from vidgen.data.texts import Texts, check_texts
from vidgen.data.transforms import Frames, Interpolation, ResizeRule, resize_frames
from vidgen.errors import UserError
from vidgen.registry import DATASETS

MOST_MAPS = 256
"""Shards that a process keeps mapped into memory; each takes a file descriptor."""


@DATASETS.register("packed")
class Packed(StoredVideos):
    """A pack that ``vidgen data pack`` has made: frames as they are wanted, mapped into memory.

    Videos, their order, labels and attributes are those of the data set that was packed, so that the same seed gives
    the same clips, pixel for pixel at the pack's resolution. Videos that could not be read when it was made are not in
    it; what is drawn anew for every request, as Moving MNIST is in training, is in it as it is drawn for evaluation.

    Args:
        root: folder of the pack.
        resolution: height and, without ``width``, width of the clips, pixels; another one than the pack's is made by
            resizing the packed frames.
        num_frames: frames of a clip.
        stride: see :class:`~vidgen.data.stored.StoredVideos`.
        clips: by which rule clips are cut from videos.
        min_length: see :class:`~vidgen.data.stored.StoredVideos`.
        channels: those of the pack; anything else is refused.
        width: width of the clips where they are no squares, pixels.
        resize: how packed frames are resized where that is needed, see :class:`~vidgen.data.stored.StoredVideos`.
        interpolation: filter of the resizing.
        flip: mirror every second clip, drawn at random, from left to right, all its frames together.
        split: which of the videos are used, by their names in the data set that was packed.
        attributes: how many of them carry their attributes. A pack holds those of all videos.
        texts: captions of the videos, those that were packed where no ``file`` is named; None without.
        audio: see :class:`~vidgen.data.stored.StoredVideos`; a pack holds no sound.
        verify: compare every frame that is read with its checksum; a video that differs counts as damaged.
    """

    WHAT = "shards of a pack"

    def __init__(
        self,
        root: str,
        resolution: int,
        num_frames: int,
        *,
        stride: int = 1,
        clips: Clips = Clips(),  # noqa: B008 - frozen
        min_length: int | None = None,
        channels: Literal[1, 3] | None = None,
        width: int | None = None,
        resize: ResizeRule = "crop",
        interpolation: Interpolation = "bilinear",
        flip: bool = False,
        split: Split = Split(),  # noqa: B008 - frozen
        attributes: LabelShare = LabelShare(),  # noqa: B008 - frozen
        texts: Texts | None = None,
        audio: Audio | None = None,
        verify: bool = False,
    ) -> None:
        self.about = self.read_about(Path(root))
        self.packed_spec = DataSpec.from_dict(self.about["spec"])
        share = _label_share(attributes, self.about, root)
        if channels is not None and channels != self.packed_spec.channels:
            raise UserError(f"data.channels is {channels}, but the pack {root!r} has {self.packed_spec.channels}")
        self.verify = verify
        self._pack, self._shards, sizes = _read_index(Path(root), self.about["index"])
        if not verify:  # they are as many as there are frames, and every worker process has a copy
            self._pack = replace(self._pack, checksums=np.empty(0, np.uint32))
        _check_shards(Path(root), sizes, command_of(self.about.get("encoding")))
        self._videos: NDArray[np.int64]
        self._first_checksums = np.concatenate([[0], np.cumsum(self._pack.lengths)])
        self._sizes = {name: _num_bytes(*kind) for name, kind in self._pack.layout.items()}
        self._frame_bytes = sum(self._sizes.values())
        self._maps = ShardMaps(Path(root), sizes)
        super().__init__(
            root,
            resolution,
            num_frames,
            stride=stride,
            clips=clips,
            min_length=min_length,
            channels=self.packed_spec.channels,  # type: ignore[arg-type]
            width=width,
            resize=resize,
            interpolation=interpolation,
            flip=flip,
            split=split,
            attributes=share,
            texts=texts,
            audio=audio,
        )
        self.spec = replace(self.spec, attribute_values=self.packed_spec.attribute_values)
        self.skipped = dict(self.about["skipped"])

    def read_about(self, root: Path) -> dict[str, Any]:
        """What the pack says about itself.

        Raises:
            UserError: there is no finished pack of frames.
        """
        about = read_about(root)
        if encoding := about.get("encoding"):
            raise UserError(
                f"data.root {str(root)!r} holds videos encoded as {encoding['key']}, no frames; they are read as the"
                " data set `encoded`"
            )
        return about

    def find(self) -> Sequence[str]:
        """See :meth:`StoredVideos.find`."""
        return self._pack.names

    def listing(self, names: Sequence[str], annotation: Annotation) -> Listing:
        """See :meth:`StoredVideos.listing`; labels and attributes are those that were packed."""
        split = annotation.split
        check_split(split)
        above = f"{split.folder}/" if split.by == "folder" else ""
        inside = {name: self.origin(name[len(above) :]) for name in names if name.startswith(above)}
        if not inside:
            raise UserError(f"data.split.folder {split.folder!r}: no video of the pack {self.root!r} lies in it")
        chosen = set(select(list(inside.values()), split, Path(self.root)))
        self._videos = np.array([n for n, name in enumerate(names) if inside.get(name) in chosen], np.int64)
        spec = self.packed_spec
        values = spec.attribute_values or ((),) * len(spec.attribute_names)
        columns = [
            Column(name, values[number], self._pack.attributes[self._videos, number])
            for number, name in enumerate(spec.attribute_names)
        ]
        kept = [names[number] for number in self._videos]
        groups = None
        if split.pattern:
            groups = tuple(group_of(inside[name], split.pattern, split.divide) for name in kept)
        labels = self._pack.labels[self._videos] if spec.class_names else self._pack.labels
        return Listing(tuple(kept), spec.class_names, labels, tuple(columns), groups)

    def origin(self, name: str) -> str:
        """The name by which a video is chosen (``split``)."""
        return name

    def find_captions(self, texts: Texts) -> StringTable:
        """See :meth:`StoredVideos.find_captions`; those of the pack, unless others are named."""
        if texts.file is not None:
            return super().find_captions(texts)
        check_texts(texts)
        if not len(self._pack.captions):
            raise UserError(f"data.texts: the pack {self.root!r} has no texts; give data.texts.file")
        return self._pack.captions.take(self._videos)

    def measure(self, names: Sequence[str]) -> Measured:
        """See :meth:`StoredVideos.measure`."""
        return Measured(self._pack.lengths[self._videos], [""] * len(names), self.packed_spec.fps)

    def keep(self, kept: NDArray[np.int64]) -> None:
        """See :meth:`StoredVideos.keep`."""
        self._videos = self._videos[kept]

    def path(self, video: int) -> str:
        """See :meth:`StoredVideos.path`; the shard that holds a video, and its name."""
        shard = int(self._shards[self._videos[video]])
        return f"{shard_path(Path(self.root), shard, 'bin')} ({self.names[video]})"

    def signature(self) -> bytes:
        """See :meth:`StoredVideos.signature`; the checksums of all frames are in it."""
        return str(self.about["index"]).encode()

    def frames(self, video: int, times: Sequence[int]) -> Iterable[Frames]:
        """See :meth:`StoredVideos.frames`."""
        return self._pictures(self._rows(video, times))["video"]

    def planes(self, video: int, times: Sequence[int], resolution: int) -> dict[str, NDArray[Any]]:
        """See :meth:`StoredVideos.planes`; everything that was packed."""
        try:
            planes = self._pictures(self._rows(video, times))
        except Unreadable as error:
            raise UnreadableVideo(self.path(video), str(error), error.passing) from error
        width = self.width(resolution)
        for name, frames in planes.items():
            if frames.shape[1:3] != (resolution, width):
                numbers = frames.dtype != np.uint8
                planes[name] = resize_frames(
                    frames,
                    resolution,
                    self.resize,
                    width=width,
                    interpolation="nearest" if numbers else self.interpolation,
                )
        return planes

    def _rows(self, video: int, times: Sequence[int]) -> NDArray[np.uint8]:
        """Everything that was packed of some frames, ``(T, bytes)``.

        Raises:
            Unreadable: the shard is gone, or a checksum is wrong.
        """
        number = int(self._videos[video])
        size = self._frame_bytes
        offset, length = int(self._pack.offsets[number]), int(self._pack.lengths[number])
        shard = int(self._shards[number])
        if not self.verify:
            whole = self._maps.get(shard)
            return whole[offset : offset + length * size].reshape(length, size)[_as_slice(times)]
        rows = self._maps.read(shard, [offset + time * size for time in times], size)
        first = int(self._first_checksums[number])
        for time, row in zip(times, rows, strict=True):
            if zlib.crc32(row) != self._pack.checksums[first + time]:
                raise Unreadable(f"frame {time} differs from its checksum")
        return rows

    def _pictures(self, rows: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The things that were packed of these frames, ``(T, H, W, C)`` each."""
        return {name: part.transpose(0, 2, 3, 1) for name, part in self._parts(rows).items()}

    def _parts(self, rows: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The things that were packed of these frames as they lie there, ``(T, C, H, W)`` of pixels."""
        parts: dict[str, NDArray[Any]] = {}
        start = 0
        for name, (dtype, shape) in self._pack.layout.items():
            end = start + self._sizes[name]
            parts[name] = rows[:, start:end].view(dtype).reshape(-1, *shape)
            start = end
        return parts

    def video_size(self, video: int) -> tuple[int, int] | None:
        """See :meth:`StoredVideos.video_size`."""
        return self.packed_spec.width or self.packed_spec.resolution, self.packed_spec.resolution


def _label_share(share: LabelShare, about: Mapping[str, Any], root: str) -> Attributes:
    """The share that is asked for, else that of the data set that was packed."""
    fraction = about.get("label_fraction", 1.0) if share.label_fraction is None else share.label_fraction
    seed = about.get("label_seed", 0) if share.label_seed is None else share.label_seed
    check_label_fraction(fraction)
    if share != LabelShare() and not about["spec"]["attribute_names"]:
        raise UserError(f"data.attributes: the pack {root!r} has no attributes; leave it out")
    return Attributes(label_fraction=fraction, label_seed=seed)


def _num_bytes(dtype: str, shape: Sequence[int]) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize


def _as_slice(times: Sequence[int]) -> slice | list[int]:
    """Evenly spaced times as a slice, which copies nothing."""
    if len(times) == 1:
        return slice(times[0], times[0] + 1)
    step = times[1] - times[0]
    if step > 0 and all(after - before == step for before, after in pairwise(times)):
        return slice(times[0], times[-1] + 1, step)
    return list(times)


class ShardMaps:
    """Shards mapped into memory, those not used for longest closed first; a copy in another process starts empty.

    Args:
        root: folder of the pack.
        sizes: bytes of each shard.
    """

    def __init__(self, root: Path, sizes: NDArray[np.int64]) -> None:
        self.root = root
        self.sizes = sizes
        self._maps: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def get(self, shard: int) -> NDArray[np.uint8]:
        """The bytes of a shard.

        Raises:
            Unreadable: it is gone or cut off.
        """
        if shard in self._maps:
            self._maps.move_to_end(shard)
            return self._maps[shard]
        try:
            whole = np.memmap(shard_path(self.root, shard, "bin"), np.uint8, "r").view(np.ndarray)
        except OSError as error:
            raise _unreadable(error) from error
        except ValueError as error:  # NumPy's for an empty file
            raise Unreadable("the shard is empty") from error
        self._check_size(shard, len(whole))
        self._maps[shard] = whole
        if len(self._maps) > MOST_MAPS:
            self._maps.popitem(last=False)
        return whole

    def read(self, shard: int, offsets: Sequence[int], size: int) -> NDArray[np.uint8]:
        """Parts of a shard, read and not mapped: to touch what was cut off a file that is mapped ends the process.

        Args:
            shard: its number.
            offsets: where each part begins, bytes.
            size: bytes of each part.

        Returns:
            ``(len(offsets), size)``.

        Raises:
            Unreadable: it is gone or cut off.
        """
        parts = np.empty((len(offsets), size), np.uint8)
        try:
            with open(shard_path(self.root, shard, "bin"), "rb", buffering=0) as file:
                self._check_size(shard, os.fstat(file.fileno()).st_size)
                for part, offset in zip(parts, offsets, strict=True):
                    if os.preadv(file.fileno(), [part.data], offset) != size:
                        raise Unreadable("the shard was cut off while it was read")
        except OSError as error:
            raise _unreadable(error) from error
        return parts

    def _check_size(self, shard: int, size: int) -> None:
        if size != self.sizes[shard]:
            raise Unreadable(f"the shard has {size} bytes and should have {self.sizes[shard]}")

    def __len__(self) -> int:
        return len(self._maps)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": OrderedDict()}


def _unreadable(error: OSError) -> Unreadable:
    gone = isinstance(error, FileNotFoundError)
    return Unreadable("the shard is gone" if gone else error.strerror or str(error), passing=True)


def read_about(root: Path, command: str = "vidgen data pack CONFIG") -> dict[str, Any]:
    """What a pack, of frames or of encoded videos, says about itself.

    Args:
        root: the folder.
        command: what would make one, for messages.

    Raises:
        UserError: there is no finished pack.
    """
    try:
        about = json.loads((root / PACK).read_text())
        if about["format"] != FORMAT:
            again = "pack" if about.get("encoding") is None else "encode"
            raise UserError(f"data.root {str(root)!r}: a pack of format {about['format']}, not {FORMAT}; {again} anew")
        return about
    except (FileNotFoundError, NotADirectoryError):
        plan = read_plan(root)
        hint = (
            f"is not finished; run its `{command_of(plan.encoding)}` again, or `vidgen data merge`"
            if plan is not None
            else f"holds no pack; make one with `{command} --out DIR`"
        )
        raise UserError(f"data.root {str(root)!r} {hint}") from None
    except OSError as error:
        raise UserError(f"data.root {str(root)!r}: {PACK} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"data.root {str(root)!r}: {PACK} is damaged; run `vidgen data merge` on it") from error


def _read_index(root: Path, digest: str) -> tuple[Shard, NDArray[np.int64], NDArray[np.int64]]:
    try:
        intact = file_digest(root / INDEX) == digest
    except OSError:
        intact = False
    if not intact:
        raise UserError(
            f"data.root {str(root)!r}: {INDEX} is gone or differs from its checksum; run `vidgen data merge` on it"
        )
    with np.load(root / INDEX, allow_pickle=False) as stored:
        return Shard.read(root / INDEX), stored["shards"], stored["sizes"]


def _check_shards(root: Path, sizes: NDArray[np.int64], command: str) -> None:
    """Every shard is there and as long as it should be.

    Raises:
        UserError: one is not.
    """
    for shard, size in enumerate(sizes.tolist()):
        path = shard_path(root, shard, "bin")
        try:
            found = os.stat(path).st_size
        except OSError:
            raise UserError(f"{path}: gone; run the `{command}` that made the pack again") from None
        if found != size:
            raise UserError(
                f"{path}: has {found} bytes and should have {size}; run the `{command}` that made the pack again"
            )
