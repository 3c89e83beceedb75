"""What a model samples from, where it needs something: parts of stored videos, by number."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vidgen.data.dataset import VideoDataset
from vidgen.data.stored import counted
from vidgen.data.texts import encode_texts
from vidgen.errors import UserError
from vidgen.evaluation.opening import open_videos
from vidgen.evaluation.sources import Clip, ClipRule, StoredClips, Unusable, condition_batch, reads_when_told
from vidgen.models.base import Batch, VideoModel
from vidgen.registry import MODELS


class Contexts:
    """The first frames of stored videos at the data set's stride, in the order in which they are listed.

    Args:
        dataset: the videos.
        model: says how many frames it reads of each.
        name: what the user called the place.
        option: what named it, for messages.
        native: whether frames keep the size in which they are stored.
        keywords: of the model's ``sample``, which may decide what it reads.

    Raises:
        UserError: no video is long enough.
    """

    def __init__(
        self,
        dataset: VideoDataset,
        model: VideoModel,
        name: str,
        option: str = "--context",
        native: bool = False,
        keywords: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.option = option
        self.keywords = dict(keywords or {})
        frames = max(1, model.context_frames_for(self.keywords))
        rule = ClipRule(frames, dataset.stride, order="first", start="first")
        self.source = StoredClips(dataset, rule, native=native, name=name)
        if not len(self.source):
            raise UserError(
                f"{option}: none of its {counted(len(dataset), 'video')} has the {rule.span} frames that"
                f" {MODELS.name_of(type(model))} starts from"
            )

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """What the model reads for the numbered videos.

        Raises:
            UserError: one of them cannot be read, or they do not have it.
        """
        clips = [self._usable(item) for item in self.source.read(numbers)]
        return condition_batch(clips, self.model, self.option, self.keywords)

    def truth(self, number: int, num_frames: int) -> Tensor | None:
        """The first frames of a video, those of its context and what really follows: uint8 ``(C, T, H, W)``.

        Returns:
            None where the video is shorter.

        Raises:
            UserError: it cannot be read.
        """
        longer = self.source.lengthened(num_frames)
        return None if longer.ends_before(number) else self._usable(longer.read([number])[0]).video

    def _usable(self, item: Clip | Unusable) -> Clip:
        if isinstance(item, Unusable):
            raise UserError(f"{self.option}: {item.path}: {item.reason}; take it out")
        return item

    def identity(self) -> dict[str, Any]:
        """Everything that decides the pixels, as plain values."""
        return self.source.identity()


class Captions(Contexts):
    """Captions that belong to no video, in the order in which they stand in a file.

    Args:
        file: a caption in each line; empty lines are passed over.
        model: what will sample from them.
        length: ids of a text.
        bpe: the merges of CLIP's encoding; None for those that are installed.
        option: what named the file, for messages.

    Raises:
        UserError: the file cannot be read, or holds none.
    """

    def __init__(
        self, file: Path, model: VideoModel, length: int, bpe: Path | None = None, option: str = "--context"
    ) -> None:
        self.model = model
        self.option = option
        self.length = length
        self.bpe = bpe
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
            raise UserError(f"{option}: {file} cannot be read: {reason}") from error
        self.captions = [line.strip() for line in lines if line.strip()]
        if not self.captions:
            raise UserError(f"{option}: {file} holds no caption; write one in each line")

    def __len__(self) -> int:
        return len(self.captions)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """See :meth:`Contexts.batch`."""
        captions = [self.captions[number] for number in numbers]
        return {"text": encode_texts(captions, self.bpe, self.length).to(self.model.device)}

    def truth(self, number: int, num_frames: int) -> Tensor | None:
        """See :meth:`Contexts.truth`; there is none."""
        return None

    def identity(self) -> dict[str, Any]:
        """See :meth:`Contexts.identity`."""
        merges = None if self.bpe is None else hashlib.sha256(self.bpe.read_bytes()).hexdigest()
        return {"captions": self.captions, "length": self.length, "merges": merges}


def frames_for(model: VideoModel, about: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a data set whose frames a model can be given.

    Args:
        model: the model.
        about: what its checkpoint says about itself; of a converted one, which tells of no data, the arguments of the
            model do.
    """
    spec = about.get("data_spec") or {"channels": model.init_args.get("channels")}
    spec = {"resolution": model.init_args.get("resolution"), **spec}
    return {key: spec[key] for key in ("resolution", "width", "channels") if spec.get(key)}


def open_contexts(
    place: str,
    model: VideoModel,
    about: Mapping[str, Any],
    keywords: Mapping[str, Any] | None = None,
    bpe: Path | None = None,
) -> Contexts:
    """The contexts that a user names on the command line.

    Args:
        place: as for :func:`vidgen.evaluation.opening.open_videos`; for a model of texts also a ``.txt``, see
            :class:`Captions`.
        model: what will sample from them.
        about: what its checkpoint says about itself; frames are brought to the size of its training data.
        keywords: of the model's ``sample``.
        bpe: the merges of CLIP's encoding, for a ``.txt``.

    Raises:
        UserError: there is nothing of that kind, or the model samples from nothing.
    """
    keywords = dict(keywords or {})
    if model.keys_for(keywords) == ("text",) and Path(place).suffix.lower() == ".txt":
        length = (about.get("data_spec") or {}).get("text_length") or model.init_args["text_length"]
        return Captions(Path(place), model, length, bpe)
    if not model.keys_for(keywords):
        remedy = "say with --observed N how many of the frames it is given"
        remedy = remedy if reads_when_told(model) else "leave it out"
        raise UserError(f"--context: {MODELS.name_of(type(model))} samples from a seed alone; {remedy}")
    name = MODELS.name_of(type(model))
    dataset, native = open_videos(place, "--context", needed=frames_for(model, about), model=name)
    return Contexts(dataset, model, place, native=native, keywords=keywords)
