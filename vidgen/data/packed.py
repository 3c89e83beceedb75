"""A data set that was decoded and resized once, see :mod:`vidgen.data.packing`."""

from __future__ import annotations

import json
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgen.data.annotations import Column
from vidgen.data.clips import Clips
from vidgen.data.dataset import UnreadableVideo
from vidgen.data.decoding import Unreadable
from vidgen.data.listing import Annotation, Listing
from vidgen.data.pack_files import FORMAT, INDEX, PACK, PLAN, Shard, file_digest, shard_path
from vidgen.data.request import ClipRequest
from vidgen.data.spec import DataSpec
from vidgen.data.splits import Split, check_split, group_of, select
from vidgen.data.stored import Measured, StoredVideos
from vidgen.data.transforms import Frames, Interpolation, ResizeRule, flips, to_clip
from vidgen.errors import UserError
from vidgen.registry import DATASETS

MOST_MAPS = 256
"""Shards that a process keeps mapped into memory; each takes a file descriptor."""


@DATASETS.register("packed")
class Packed(StoredVideos):
    """A pack that ``vidgen data pack`` has made: frames as they are wanted, mapped into memory.

    Videos, their order, labels and attributes are those of the data set that was packed, so that the same seed gives
    the same clips, pixel for pixel at the pack's resolution.

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
        verify: bool = False,
    ) -> None:
        self.about = _read_about(Path(root))
        self.packed_spec = DataSpec.from_dict(self.about["spec"])
        if channels is not None and channels != self.packed_spec.channels:
            raise UserError(f"data.channels is {channels}, but the pack {root!r} has {self.packed_spec.channels}")
        self.verify = verify
        self._pack, self._shards, sizes = _read_index(Path(root), self.about["index"])
        _check_shards(Path(root), sizes)
        self._videos: NDArray[np.int64]
        self._first_checksums = np.concatenate([[0], np.cumsum(self._pack.lengths)])
        self._maps = ShardMaps(Path(root))
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
        )

    def find(self) -> Sequence[str]:
        """See :meth:`StoredVideos.find`."""
        return self._pack.names

    def list(self, names: Sequence[str], annotation: Annotation) -> Listing:
        """See :meth:`StoredVideos.list`; labels and attributes are those that were packed."""
        split = annotation.split
        check_split(split)
        prefix = f"{split.folder}/" if split.by == "folder" else ""
        inside = [name for name in names if name.startswith(prefix)]
        if not inside:
            raise UserError(f"data.split.folder {split.folder!r}: no video of the pack {self.root!r} lies in it")
        chosen = set(select(inside, split, Path(self.root)))
        self._videos = np.array([number for number, name in enumerate(names) if name in chosen], np.int64)
        spec = self.packed_spec
        values = spec.attribute_values or ((),) * len(spec.attribute_names)
        columns = [
            Column(name, values[number], self._pack.attributes[self._videos, number])
            for number, name in enumerate(spec.attribute_names)
        ]
        kept = [names[number] for number in self._videos]
        groups = tuple(group_of(name, split.pattern, split.divide) for name in kept) if split.pattern else None
        labels = self._pack.labels[self._videos] if spec.class_names else self._pack.labels
        return Listing(tuple(kept), spec.class_names, labels, tuple(columns), groups)

    def measure(self, names: Sequence[str]) -> Measured:
        """See :meth:`StoredVideos.measure`."""
        return Measured(self._pack.lengths[self._videos], [""] * len(names), self.packed_spec.fps)

    def keep(self, kept: NDArray[np.int64]) -> None:
        """See :meth:`StoredVideos.keep`."""
        self._videos = self._videos[kept]

    def frames(self, video: int, times: Sequence[int]) -> Iterable[Frames]:
        """See :meth:`StoredVideos.frames`."""
        return self._part("video", self._rows(video, times))

    def read(self, request: ClipRequest) -> dict[str, Tensor]:
        """See :meth:`VideoDataset.read`; adds everything else that was packed."""
        try:
            rows = self._rows(request.video, request.times)
        except Unreadable as error:
            raise UnreadableVideo(self.path(request.video), str(error)) from error
        sample = {}
        for name, (dtype, _) in self._pack.layout.items():
            frames = self._part(name, rows)
            if self._resizes(request.resolution):
                frames = self._resized(name, frames, request.resolution)
            if self.flip and flips(request.seed):
                frames = frames[:, :, ::-1]
            if np.dtype(dtype) == np.uint8:
                sample[name] = to_clip(frames)
            else:
                numbers = np.ascontiguousarray(frames.transpose(3, 0, 1, 2)).astype(np.int64)
                sample[name] = torch.from_numpy(numbers)
        return {**sample, **self.describe_clip(request)}

    def _resized(self, name: str, frames: NDArray[Any], resolution: int) -> Frames:
        if name != "video":
            raise UserError(
                f"data.resolution {resolution}: {name!r} was packed at {self.packed_spec.resolution};"
                " pack anew at this resolution"
            )
        return np.stack([self.fit(frame, resolution) for frame in frames])

    def _resizes(self, resolution: int) -> bool:
        packed = self.packed_spec
        return (resolution, self.width(resolution)) != (packed.resolution, packed.width or packed.resolution)

    def _rows(self, video: int, times: Sequence[int]) -> NDArray[np.uint8]:
        """Everything that was packed of some frames, ``(T, bytes)``.

        Raises:
            Unreadable: the shard is gone, or a checksum is wrong.
        """
        number = int(self._videos[video])
        size = self._frame_bytes
        offset, length = int(self._pack.offsets[number]), int(self._pack.lengths[number])
        whole = self._maps.get(int(self._shards[number]))
        rows = whole[offset : offset + length * size].reshape(length, size)
        rows = rows[_as_slice(times)]
        if self.verify:
            first = int(self._first_checksums[number])
            for time, row in zip(times, rows, strict=True):
                if zlib.crc32(row.tobytes()) != self._pack.checksums[first + time]:
                    raise Unreadable(f"frame {time} differs from its checksum")
        return rows

    def _part(self, name: str, rows: NDArray[np.uint8]) -> NDArray[Any]:
        """One of the things that were packed of these frames, ``(T, H, W, C)``."""
        start = 0
        for other, (dtype, shape) in self._pack.layout.items():
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            if other == name:
                return rows[:, start : start + size].reshape(len(rows), -1).view(dtype).reshape(-1, *shape)
            start += size
        raise KeyError(name)

    @property
    def _frame_bytes(self) -> int:
        return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for dtype, shape in self._pack.layout.values())

    def video_size(self, video: int) -> tuple[int, int] | None:
        """See :meth:`StoredVideos.video_size`."""
        return self.packed_spec.width or self.packed_spec.resolution, self.packed_spec.resolution


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
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._maps: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def get(self, shard: int) -> NDArray[np.uint8]:
        """The bytes of a shard.

        Raises:
            Unreadable: it is gone.
        """
        if shard in self._maps:
            self._maps.move_to_end(shard)
            return self._maps[shard]
        path = shard_path(self.root, shard, "bin")
        try:
            self._maps[shard] = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise Unreadable(f"{path.name} is gone") from error
        if len(self._maps) > MOST_MAPS:
            self._maps.popitem(last=False)
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_maps": OrderedDict()}


def _read_about(root: Path) -> dict[str, Any]:
    """What a pack says about itself.

    Raises:
        UserError: there is no finished pack.
    """
    try:
        about = json.loads((root / PACK).read_text())
        if about["format"] != FORMAT:
            raise UserError(f"data.root {str(root)!r}: a pack of format {about['format']}, not {FORMAT}; pack anew")
        return about
    except (FileNotFoundError, NotADirectoryError):
        unfinished = (root / PLAN).exists()
        hint = (
            "is not finished; run its `vidgen data pack` again, or `vidgen data merge`"
            if unfinished
            else ("holds no pack; make one with `vidgen data pack CONFIG --out DIR`")
        )
        raise UserError(f"data.root {str(root)!r} {hint}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
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


def _check_shards(root: Path, sizes: NDArray[np.int64]) -> None:
    """Every shard is there and as long as it should be.

    Raises:
        UserError: one is not.
    """
    for shard, size in enumerate(sizes.tolist()):
        path = shard_path(root, shard, "bin")
        try:
            found = os.stat(path).st_size
        except OSError:
            raise UserError(f"{path}: gone; run the `vidgen data pack` that made the pack again") from None
        if found != size:
            raise UserError(
                f"{path}: has {found} bytes and should have {size}; run the `vidgen data pack` that made the pack again"
            )
