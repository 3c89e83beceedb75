"""Where the videos of an evaluation come from: stored ones, and those that a model makes."""

from __future__ import annotations

import copy
import inspect
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgen import __version__
from vidgen.data.dataset import UnreadableVideo, VideoDataset
from vidgen.data.packed import Packed
from vidgen.data.request import ClipRequest
from vidgen.data.sampler import permutation
from vidgen.data.stored import StoredVideos
from vidgen.data.transforms import from_levels, to_levels
from vidgen.errors import UserError
from vidgen.evaluation.compression import compression, is_lossy
from vidgen.evaluation.identity import data_identity
from vidgen.media import Rounding, to_uint8
from vidgen.models.base import VideoModel
from vidgen.registry import DATASETS, MODELS
from vidgen.sampling import Group, draw_seed, grouped, weights_fingerprint
from vidgen.seeding import derive_seed

KEPT_BYTES = 4 << 30
"""Memory for videos that were made together and are asked for in parts."""


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
        whole_strides: take only videos of ``num_frames * stride`` frames and more, as StyleGAN-V's code does.
    """

    num_frames: int
    stride: int = 1
    order: Literal["shuffled", "first"] = "shuffled"
    start: Literal["random", "first"] = "random"
    per_video: int = 1
    seed: int = 0
    whole_strides: bool = False

    @property
    def least_length(self) -> int:
        """Frames of the shortest video that a clip is cut from."""
        return self.num_frames * self.stride if self.whole_strides else self.span

    @property
    def span(self) -> int:
        """Source frames that a clip reaches over."""
        return (self.num_frames - 1) * self.stride + 1

    def dense(self) -> ClipRule:
        """The same clips with all the frames that these reach over."""
        return replace(self, num_frames=self.span, stride=1)

    def chosen(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The video of each clip: those that are long enough, in the order in which they are taken."""
        videos = np.arange(len(lengths))
        if self.order == "shuffled":
            videos = permutation(len(lengths), self.seed, "evaluation order")
        return np.tile(videos[lengths[videos] >= self.least_length], self.per_video)

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
        passing: whether it may be had next time though the file is the same.
    """

    number: int
    path: str
    reason: str
    passing: bool = False


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

    Raises:
        UserError: the data set holds codes, and no frames.
    """

    def __init__(
        self, dataset: VideoDataset, clips: ClipRule, *, native: bool, name: str, limit: int | None = None
    ) -> None:
        if (encoding := dataset.spec.encoding) is not None:
            raise UserError(f"{name}: holds {encoding['key']}, no frames; give the videos that they were made from")
        self.dataset = dataset
        self.clips = clips
        self.native = native and isinstance(dataset, StoredVideos) and not isinstance(dataset, Packed)
        self.name = name
        self.videos = clips.chosen(dataset.lengths)[:limit]
        self.too_short = int((dataset.lengths < clips.least_length).sum())
        self._usable = len(dataset) - self.too_short

    def __len__(self) -> int:
        return len(self.videos)

    def dense(self) -> StoredClips:
        """The same clips with all the frames that these reach over."""
        dense = copy.copy(self)
        dense.clips = self.clips.dense()
        return dense

    def lengthened(self, num_frames: int) -> StoredClips:
        """The same clips with another number of frames; those for which :meth:`ends_before` holds cannot be read."""
        longer = copy.copy(self)
        longer.clips = replace(self.clips, num_frames=num_frames)
        return longer

    def ends_before(self, number: int) -> bool:
        """Whether the video of a clip is too short for it."""
        return int(self.dataset.lengths[self.videos[number]]) < self.clips.least_length

    def read(self, numbers: Sequence[int]) -> list[Clip | Unusable]:
        """See :meth:`ClipSource.read`."""
        return [self._read(int(number)) for number in numbers]

    def _read(self, number: int) -> Clip | Unusable:
        video = int(self.videos[number])
        times = self.clips.times(video, int(self.dataset.lengths[video]), number // max(self._usable, 1))
        try:
            if self.native and isinstance(self.dataset, StoredVideos):
                return Clip(number, to_levels(self.dataset.stored(video, times)), {})
            sample = self.dataset.read_levels(ClipRequest(video, times, self.dataset.spec.resolution))
        except UnreadableVideo as error:
            return Unusable(number, error.path, error.reason, error.passing)
        pixels = sample.pop("video")
        return Clip(number, pixels if pixels.dtype == torch.uint8 else to_uint8(pixels), sample)

    def identity(self) -> dict[str, Any]:
        """See :meth:`ClipSource.identity`."""
        return {**data_identity(self.dataset), "native": self.native, "clips": asdict(self.clips)}

    def describe(self) -> dict[str, Any]:
        """See :meth:`ClipSource.describe`."""
        spec, dataset = self.dataset.spec, self.dataset
        found = {
            "source": DATASETS.name_of(type(dataset)),
            "path": self.name,
            "num_videos": len(dataset),
            "fps": spec.fps,
            "compression": (compressed := compression(dataset)),
            "lossy": is_lossy(compressed),
            "resize": "none" if self.native else getattr(dataset, "resize", "none"),
            "clips": asdict(self.clips),
        }
        if not self.native and isinstance(dataset, StoredVideos):
            found["interpolation"] = dataset.interpolation
        return found


class GeneratedClips(ClipSource):
    """Clips that a model makes; number n is a function of the weights, the seed, n and the condition, if there is one.

    A model whose videos depend on each other makes them in groups, see :func:`vidgen.sampling.grouped`. Those of the
    last one depend on how many clips the condition has, not on ``num``.

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

    Raises:
        UserError: the model needs something that is not given.
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
        keywords = dict(keywords or {})
        needed = model.keys_for(keywords)
        if needed and condition is None:
            raise UserError(f"{MODELS.name_of(type(model))} samples from given {', '.join(needed)}; give --real")
        if isinstance(condition, StoredClips):
            condition = condition.dense()  # a model counts in frames, whatever is looked at of its video
        self.model = model
        self.num = num if condition is None or not needed else min(num, len(condition))
        self.clips = ClipRule(clips.num_frames, clips.stride, "first", "first", seed=seed)
        self.seed = seed
        self.rounding: Rounding = rounding
        self.keywords = keywords
        self.about = dict(about or {})
        self.condition = condition if needed else None
        self.fingerprint = fingerprint or weights_fingerprint(model)
        self._kept = _KeptGroups()

    def __len__(self) -> int:
        return self.num

    def draw(self, which: int) -> GeneratedClips:
        """Other videos of the same kind, for the same conditions; those of draw 0 are these."""
        other = copy.copy(self)
        other.seed = draw_seed(self.seed, which)
        return other

    @property
    def group_size(self) -> int:
        """Videos that the model makes together; it pays to ask for those of one group at once or in succession."""
        return self.model.sampling_group_for(self.keywords)

    def read(self, numbers: Sequence[int]) -> list[Clip | Unusable]:
        """See :meth:`ClipSource.read`."""
        if self.group_size > 1:
            groups = grouped(numbers, self.group_size, None if self.condition is None else len(self.condition))
            found = {number: item for group in groups for number, item in self._of_group(group).items()}
            return [found[number] for number in numbers]
        given = self._given(numbers)
        lost = [item for item in given if isinstance(item, Unusable)]
        made = [clip for run in _consecutive(given) for clip in self._make(run[0].number, run)]
        return [*made, *lost]

    def _given(self, numbers: Sequence[int]) -> list[Clip | Unusable]:
        if self.condition is None:
            return [Clip(number, torch.empty(0), {}) for number in numbers]
        return self.condition.read(numbers)

    def _of_group(self, group: Group) -> dict[int, Clip | Unusable]:
        """All clips of a group by their numbers, made now or lately."""
        made = self._kept.find(group.numbers.start, self.seed)
        if made is None:
            made = self._make_group(group)
            self._kept.keep(group.numbers.start, self.seed, made)
        return made

    def _make_group(self, group: Group) -> dict[int, Clip | Unusable]:
        """Where a condition cannot be read, others of the group take turns in its place."""
        given = self._given(group.contexts)
        usable = [item for item in given if isinstance(item, Clip)]
        lost = {number: item for number, item in zip(group.contexts, given, strict=True) if isinstance(item, Unusable)}
        passing = next((item for item in lost.values() if item.passing), None)
        if passing is not None:  # all will be others when it can be read again
            return {number: passing._replace(number=number) for number in group.numbers}
        if not usable:
            return {number: lost[number] for number in group.numbers}
        instead = itertools.cycle(usable)
        whole = [item if isinstance(item, Clip) else next(instead) for item in given]
        made = self._make(group.numbers.start, whole)[: len(group.numbers)]
        return {clip.number: lost.get(clip.number) or clip._replace(video=clip.video.cpu()) for clip in made}

    @torch.inference_mode()
    def _make(self, first: int, given: Sequence[Clip]) -> list[Clip]:
        """Videos ``first``, ``first + 1``, …, one for each that is given."""
        keywords: dict[str, Any] = dict(self.keywords)
        if self.condition is not None:
            keywords["batch"] = condition_batch(given, self.model, keywords=self.keywords)
        span, name = self.clips.span, self.about.get("path") or type(self.model).__name__
        videos = self.model.sample(len(given), num_frames=span, seed=self.seed, first=first, **keywords)
        if videos.shape[0] != len(given) or videos.shape[2] != span:
            raise UserError(
                f"{name}: makes {videos.shape[2]} frames where clips need {span}; set --num-frames and --stride to what"
                " it makes"
            )
        if not torch.isfinite(videos).all():
            raise UserError(f"{name}: makes videos with NaN or infinity; its weights are unusable")
        pixels = to_uint8(videos.float(), self.rounding)[:, :, :: self.clips.stride]
        return [Clip(number, video, {}) for number, video in enumerate(pixels, first)]

    def identity(self) -> dict[str, Any]:
        """See :meth:`ClipSource.identity`."""
        together: dict[str, Any] = {}
        if self.group_size > 1:
            number = None if self.condition is None else len(self.condition)
            together = {"group": {"size": self.group_size, "conditions": number}}
        return {
            **together,
            "model": MODELS.name_of(type(self.model)),
            "fingerprint": self.fingerprint,
            "weights": self.about.get("weights"),
            "seed": self.seed,
            "clips": asdict(self.clips),
            "rounding": self.rounding,
            "keywords": self.keywords,
            "condition": None if self.condition is None else self.condition.identity(),
            "device": self.model.device.type,  # the generators of random numbers are others
            "version": __version__,
        }

    def describe(self) -> dict[str, Any]:
        """See :meth:`ClipSource.describe`."""
        return {
            "source": "checkpoint",
            **self.about,
            "model": MODELS.name_of(type(self.model)),
            "model_fingerprint": self.fingerprint,
            "seed": self.seed,
            "rounding": self.rounding,
            "keywords": self.keywords,
            "fps": None,
            "compression": None,
            "lossy": False,
            "clips": asdict(self.clips),
            "condition": None if self.condition is None else self.condition.describe(),
        }


class _KeptGroups:
    """The last group made, and the same group of other draws as far as :data:`KEPT_BYTES` go.

    Pairs of a group are looked at a few at a time, each beside all its draws.
    """

    def __init__(self) -> None:
        self.first = -1
        self.by_seed: dict[int, dict[int, Clip | Unusable]] = {}
        self.num_bytes = 0

    def find(self, first: int, seed: int) -> dict[int, Clip | Unusable] | None:
        """The group that begins with a number, where it was kept."""
        return self.by_seed.get(seed) if first == self.first else None

    def keep(self, first: int, seed: int, made: dict[int, Clip | Unusable]) -> None:
        """Keep a group, if it is the only one or there is room."""
        if first != self.first:
            self.first, self.by_seed, self.num_bytes = first, {}, 0
        size = sum(item.video.nbytes for item in made.values() if isinstance(item, Clip))
        if not self.by_seed or self.num_bytes + size <= KEPT_BYTES:
            self.by_seed[seed] = made
            self.num_bytes += size


def _consecutive(given: Sequence[Clip | Unusable]) -> list[list[Clip]]:
    """Clips in runs of consecutive numbers, as models make videos."""
    runs: list[list[Clip]] = []
    for item in given:
        if not isinstance(item, Clip):
            continue
        if runs and runs[-1][-1].number + 1 == item.number:
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def reads_when_told(model: VideoModel) -> bool:
    """Whether the keyword ``observed`` of its ``sample`` says if a model is given frames."""
    return "observed" in inspect.signature(model.sample).parameters


def condition_batch(
    clips: Sequence[Clip], model: VideoModel, option: str = "--real", keywords: Mapping[str, Any] | None = None
) -> dict[str, Tensor]:
    """What a model conditions on, from stored clips: pixels in [-1, 1] and the rest as it is stored.

    Args:
        clips: of one size.
        model: says what it reads, and where it is.
        option: what named the clips, for messages.
        keywords: of its ``sample``, which may decide what it reads.

    Raises:
        UserError: the clips do not have it.
    """
    batch: dict[str, Tensor] = {}
    for key in model.keys_for(keywords or {}):
        values = [clip.video if key == "video" else clip.extras.get(key) for clip in clips]
        found = [value for value in values if value is not None]
        if len(found) < len(values):
            name = MODELS.name_of(type(model))
            raise UserError(
                f"{option}: its videos have no {key!r}, which {name} samples from; give a config that has it"
            )
        if len({value.shape for value in found}) > 1:
            remedy = "--resolution" if option == "--real" else "a config"
            raise UserError(f"{option}: its videos are of different sizes, and the model needs one; give {remedy}")
        stacked = torch.stack(found).to(model.device)
        batch[key] = from_levels(stacked.float()) if stacked.dtype == torch.uint8 else stacked
    return batch
