"""Where the videos of an evaluation come from: stored ones, and those that a model makes."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgen.data.dataset import UnreadableVideo, VideoDataset
from vidgen.data.request import ClipRequest
from vidgen.data.sampler import permutation
from vidgen.data.stored import StoredVideos
from vidgen.data.transforms import to_levels
from vidgen.errors import UserError
from vidgen.media import Rounding, to_uint8
from vidgen.models.base import VideoModel
from vidgen.registry import DATASETS, MODELS
from vidgen.sampling import weights_fingerprint
from vidgen.seeding import derive_seed

LOSSLESS_CODECS = frozenset({"ffv1", "ffvhuff", "huffyv", "huffyuv", "magicyuv", "png", "apng", "qtrle", "rawvideo",
                             "tiff", "utvideo", "v210", "bmp", "zlib", "zmbv", "lagarith"})  # fmt: skip
LOSSY_IMAGES = frozenset({".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True)
class ClipRule:
    """How clips are cut from stored videos.

    Args:
        num_frames: frames of a clip.
        stride: source frames from one clip frame to the next.
        order: ``shuffled`` takes the videos in an order drawn with the seed, ``first`` as they are listed.
        start: ``random`` draws where a clip begins, ``first`` begins with the first frame.
        per_video: clips of each video; all videos come once before any comes twice.
        seed: of both draws.
    """

    num_frames: int
    stride: int = 1
    order: Literal["shuffled", "first"] = "shuffled"
    start: Literal["random", "first"] = "random"
    per_video: int = 1
    seed: int = 0

    @property
    def span(self) -> int:
        """Source frames that a clip reaches over."""
        return (self.num_frames - 1) * self.stride + 1

    def chosen(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The video of each clip: those that are long enough, in the order in which they are taken."""
        videos = np.arange(len(lengths))
        if self.order == "shuffled":
            videos = permutation(len(lengths), self.seed, "evaluation order")
        return np.tile(videos[lengths[videos] >= self.span], self.per_video)

    def times(self, video: int, length: int, repetition: int = 0) -> tuple[int, ...]:
        """Source frames of a clip of a video."""
        first = 0
        if self.start == "random":
            again = (repetition,) if repetition else ()
            first = derive_seed(self.seed, "evaluation", video, *again) % (length - self.span + 1)
        return tuple(range(first, first + self.span, self.stride))


class Clip(NamedTuple):
    """One clip.

    Args:
        number: which clip of its source it is, from 0.
        video: uint8 ``(C, T, H, W)``.
        extras: whatever else belongs to it, such as ``label``.
    """

    number: int
    video: Tensor
    extras: Mapping[str, Tensor]


class Unusable(NamedTuple):
    """A clip that cannot be had.

    Args:
        number: which clip.
        path: of its file.
        reason: why.
    """

    number: int
    path: str
    reason: str


class ClipSource(ABC):
    """Clips ``0 … len - 1``, each a function of its number."""

    clips: ClipRule

    @abstractmethod
    def __len__(self) -> int:
        """How many clips there are."""

    @abstractmethod
    def read(self, numbers: Sequence[int]) -> list[Clip | Unusable]:
        """Clips by their numbers; fastest for consecutive ones."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that decides the pixels of the clips, as plain values; the key of what is kept of them."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a reader of a number has to know of the source, as plain values."""


class StoredClips(ClipSource):
    """Clips of a data set.

    Args:
        dataset: the videos; what it would draw at random (flips) is not drawn.
        clips: how they are cut.
        native: whether frames keep the size in which they are stored, where the data set can tell it.
        name: what the user called the place.
        limit: clips at most.
    """

    def __init__(
        self, dataset: VideoDataset, clips: ClipRule, *, native: bool, name: str, limit: int | None = None
    ) -> None:
        self.dataset = dataset
        self.clips = clips
        self.native = native and isinstance(dataset, StoredVideos) and DATASETS.name_of(type(dataset)) != "packed"
        self.name = name
        self.videos = clips.chosen(dataset.lengths)[:limit]
        self.too_short = int((dataset.lengths < clips.span).sum())
        self._usable = len(dataset) - self.too_short

    def __len__(self) -> int:
        return len(self.videos)

    def read(self, numbers: Sequence[int]) -> list[Clip | Unusable]:
        """See :meth:`ClipSource.read`."""
        return [self._read(int(number)) for number in numbers]

    def _read(self, number: int) -> Clip | Unusable:
        video = int(self.videos[number])
        times = self.clips.times(video, int(self.dataset.lengths[video]), number // self._usable)
        try:
            if self.native and isinstance(self.dataset, StoredVideos):
                return Clip(number, to_levels(self.dataset.stored(video, times)), {})
            sample = self.dataset.read_levels(ClipRequest(video, times, self.dataset.spec.resolution))
        except UnreadableVideo as error:
            return Unusable(number, error.path, error.reason)
        pixels = sample.pop("video")
        return Clip(number, pixels if pixels.dtype == torch.uint8 else to_uint8(pixels), sample)

    def identity(self) -> dict[str, Any]:
        """See :meth:`ClipSource.identity`."""
        return {
            "data": DATASETS.name_of(type(self.dataset)),
            "files": _files_digest(self.dataset),
            "arguments": _reading_arguments(self.dataset),
            "native": self.native,
            "clips": asdict(self.clips),
        }

    def describe(self) -> dict[str, Any]:
        """See :meth:`ClipSource.describe`."""
        spec, dataset = self.dataset.spec, self.dataset
        found = {
            "source": DATASETS.name_of(type(dataset)),
            "path": self.name,
            "num_videos": len(dataset),
            "fps": spec.fps,
            "compression": compression(dataset),
            "resize": "none" if self.native else getattr(dataset, "resize", "none"),
            "clips": asdict(self.clips),
        }
        if not self.native and isinstance(dataset, StoredVideos):
            found["interpolation"] = dataset.interpolation
        return found

    def path(self, number: int) -> str:
        """The file of a clip, or what stands for it."""
        video = int(self.videos[number])
        return self.dataset.path(video) if isinstance(self.dataset, StoredVideos) else f"video {video}"


class GeneratedClips(ClipSource):
    """Clips that a model makes; number n is a function of the weights, the seed and n.

    Args:
        model: ready to sample, in eval mode.
        num: how many.
        clips: frames and stride: with stride s a video of ``(T - 1) s + 1`` frames is made and every s-th kept.
        seed: which sequence of videos.
        rounding: rule of :func:`vidgen.media.to_uint8`.
        keywords: further arguments of the model's ``sample``.
        about: where the model comes from (``path``, ``checkpoint``, ``iteration``, ``weights``), for the record.
        condition: what videos are made for, where the model needs it; they are made as many as there are clips of it.
        fingerprint: of the weights; None hashes them.
    """

    def __init__(
        self,
        model: VideoModel,
        num: int,
        clips: ClipRule,
        *,
        seed: int = 0,
        rounding: Rounding = "round",
        keywords: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
        condition: ClipSource | None = None,
        fingerprint: str | None = None,
    ) -> None:
        if model.sample_keys and condition is None:
            raise UserError(
                f"{MODELS.name_of(type(model))} samples from given {', '.join(model.sample_keys)}; give --real"
            )
        self.model = model
        self.num = num if condition is None or not model.sample_keys else min(num, len(condition))
        self.clips = ClipRule(clips.num_frames, clips.stride, "first", "first", seed=seed)
        self.seed = seed
        self.rounding: Rounding = rounding
        self.keywords = dict(keywords or {})
        self.about = dict(about or {})
        self.condition = condition if model.sample_keys else None
        self.fingerprint = fingerprint or weights_fingerprint(model)

    def __len__(self) -> int:
        return self.num

    @torch.inference_mode()
    def read(self, numbers: Sequence[int]) -> list[Clip | Unusable]:
        """See :meth:`ClipSource.read`."""
        given: dict[str, Any] = dict(self.keywords)
        usable = list(numbers)
        lost: list[Clip | Unusable] = []
        if self.condition is not None:
            read = self.condition.read(numbers)
            lost = [item for item in read if isinstance(item, Unusable)]
            clips = [item for item in read if isinstance(item, Clip)]
            usable = [clip.number for clip in clips]
            given["batch"] = _batch(clips, self.model.sample_keys, self.model.device)
        if not usable:
            return lost
        if usable != list(range(usable[0], usable[0] + len(usable))):
            raise ValueError("generated clips are read in consecutive blocks")
        videos = self.model.sample(len(usable), num_frames=self.clips.span, seed=self.seed, first=usable[0], **given)
        if not torch.isfinite(videos).all():
            raise UserError(f"{self.about.get('path') or type(self.model).__name__}: makes videos with NaN or infinity")
        pixels = to_uint8(videos.float(), self.rounding)[:, :, :: self.clips.stride]
        return [*lost, *(Clip(number, video, {}) for number, video in zip(usable, pixels, strict=True))]

    def identity(self) -> dict[str, Any]:
        """See :meth:`ClipSource.identity`."""
        return {
            "model": MODELS.name_of(type(self.model)),
            "fingerprint": self.fingerprint,
            "weights": self.about.get("weights"),
            "clips": asdict(self.clips),
            "rounding": self.rounding,
            "keywords": self.keywords,
            "condition": None if self.condition is None else self.condition.identity(),
        }

    def describe(self) -> dict[str, Any]:
        """See :meth:`ClipSource.describe`."""
        return {
            "source": "checkpoint",
            **self.about,
            "model": MODELS.name_of(type(self.model)),
            "seed": self.seed,
            "rounding": self.rounding,
            "keywords": self.keywords,
            "fps": None,
            "compression": None,
            "clips": {"num_frames": self.clips.num_frames, "stride": self.clips.stride, "start": "first"},
        }


def compression(dataset: VideoDataset) -> str | None:
    """How the frames of a data set are compressed: a codec, or a kind of image; None where they are not.

    Of video files the first ten are looked at.
    """
    if not isinstance(dataset, StoredVideos):
        return None
    kind = DATASETS.name_of(type(dataset))
    if kind == "video_folder":
        codecs = [_codec(dataset.path(video)) for video in range(min(10, len(dataset)))]
        return ", ".join(sorted({codec for codec in codecs if codec})) or None
    files = getattr(dataset, "_files", None)
    if kind == "arrays" or files is None:
        return None
    suffixes = {os.path.splitext(name)[1].lower() for name in files.names}
    return ", ".join(sorted(suffix.removeprefix(".") for suffix in suffixes)) or None


def is_lossy(compressed: str | None) -> bool:
    """Whether a :func:`compression` loses something."""
    kinds = compressed.split(", ") if compressed else []
    images = {"png", "bmp", "tif", "tiff", "ppm", "pgm", "pnm", "gif"}
    return any(kind not in LOSSLESS_CODECS and kind not in images for kind in kinds)


def _codec(path: str) -> str | None:
    import av

    try:
        with av.open(path) as container:
            return str(container.streams.video[0].codec_context.name)
    except (av.FFmpegError, OSError, IndexError):
        return None


def _batch(clips: Sequence[Clip], keys: Sequence[str], device: torch.device) -> dict[str, Tensor]:
    """What a model conditions on, from stored clips: video in [-1, 1] and the rest as it is stored."""
    batch: dict[str, Tensor] = {}
    for key in keys:
        values = [clip.video if key == "video" else clip.extras[key] for clip in clips]
        stacked = torch.stack(values).to(device)
        batch[key] = stacked.float().div(127.5).sub(1) if stacked.dtype == torch.uint8 else stacked
    return batch


def _files_digest(dataset: VideoDataset) -> str:
    """Tells the files of a data set from any others, and from themselves after they were written anew."""
    digest = hashlib.sha256(f"{dataset.spec.digest}\n".encode())
    if isinstance(dataset, StoredVideos):
        for number in range(len(dataset)):
            digest.update(dataset.names[number].encode("utf-8", "surrogateescape") + b"\n")
        digest.update(dataset.signature())
        files = getattr(dataset, "_files", None)
        if files is not None:
            paths = (
                [Path(files.root)] if Path(files.root).is_file() else [Path(files.path(n)) for n in range(len(files))]
            )
            for path in paths:
                try:
                    digest.update(f"{path.stat().st_mtime_ns}\n".encode())
                except OSError:
                    digest.update(b"gone\n")
    return digest.hexdigest()[:32]


def _reading_arguments(dataset: VideoDataset) -> dict[str, Any]:
    """What else decides the pixels that a data set gives."""
    if not isinstance(dataset, StoredVideos):  # it makes its videos itself, from all that it holds
        return {"content": hashlib.sha256(pickle.dumps(dataset)).hexdigest()[:32]}
    names = ("resize", "interpolation", "fps", "deinterlace", "frame_step", "decoder")
    found = {name: str(getattr(dataset, name)) for name in names if getattr(dataset, name, None) is not None}
    return {**json.loads(json.dumps(dataset.spec.to_dict())), **found}
