"""A data set that was encoded once, see :mod:`vidgen.data.encoding`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidgen.data.audio import Audio, sounds_of
from vidgen.data.clips import Clips
from vidgen.data.dataset import UnreadableVideo
from vidgen.data.decoding import Unreadable
from vidgen.data.packed import Packed, read_about
from vidgen.data.partial_labels import LabelShare
from vidgen.data.request import ClipRequest, clip_times
from vidgen.data.splits import Split
from vidgen.data.stored import Measured
from vidgen.data.tables import StringTable
from vidgen.data.texts import Texts, captions_of, check_texts
from vidgen.errors import UserError
from vidgen.registry import DATASETS
from vidgen.seeding import derive_seed


@DATASETS.register("encoded")
class Encoded(Packed):
    """What ``vidgen data encode`` has made: codes of videos in place of their frames, mapped into memory.

    Frames are counted as they were encoded: at the stride of the data set that was. A batch has no ``video`` but

    - ``tokens`` int64 (B, t, h, w), or ``latents`` float32 (B, t, ...), with t = num_frames / stride / latent_stride;
    - ``times`` float32 (B, t), the first source frame of each step, and ``length``, source frames of the whole;
    - ``box`` int64 (B, 4) with ``crop``: y0, y1, x0, x1 of the part that ``tokens`` are of;
    - ``label``, ``attributes``, ``text`` and ``audio`` (of all ``num_frames`` frames) where there are some.

    ``spec.encoding`` says what the codes are: ``key`` (``tokens`` or ``latents``), ``stride`` (frames of a step),
    ``num_codes``, ``shape`` (of a step in a batch), ``full_shape`` (without ``crop``), ``latent_stride``, and of the
    encoder ``model``, ``fingerprint`` (of its file) and ``network`` (of the weights that encode).

    Args:
        root: folder that ``vidgen data encode`` has written.
        num_frames: frames of a clip, a multiple of the encoder's stride.
        latent_stride: take one of so many steps of a clip, as for sparse key frames.
        crop: height and width of a part that is cut out of every step at a place drawn at random (the middle in
            evaluations), in codes; None for the whole.
        clips: ``start: first`` begins every clip with the first frame; else it begins with any step.
        min_length: videos of fewer frames are left out; None for ``num_frames``.
        resolution: that of the frames that were encoded; anything else is refused.
        split: which of the videos are used, by their names in the data set that was encoded.
        attributes: how many of them carry their attributes.
        texts: captions of the videos, those that were stored where no ``file`` is named; None without.
        audio: see :class:`~vidgen.data.stored.StoredVideos`; what was encoded holds no sound.
        verify: compare every step that is read with its checksum; a video that differs counts as damaged.
    """

    WHAT = "encoded videos"

    def __init__(
        self,
        root: str,
        num_frames: int,
        *,
        latent_stride: int = 1,
        crop: tuple[int, int] | None = None,
        clips: Clips = Clips(),  # noqa: B008 - frozen
        min_length: int | None = None,
        resolution: int | None = None,
        split: Split = Split(),  # noqa: B008 - frozen
        attributes: LabelShare = LabelShare(),  # noqa: B008 - frozen
        texts: Texts | None = None,
        audio: Audio | None = None,
        verify: bool = False,
    ) -> None:
        about = self.read_about(Path(root))
        self.encoding: dict[str, Any] = about["encoding"]
        frames, stride = about["spec"]["resolution"], int(self.encoding["stride"])
        if resolution not in (None, frames):
            raise UserError(
                f"data.resolution is {resolution}, but the videos in {root!r} were encoded at {frames}; leave it out"
            )
        if num_frames < 1 or num_frames % stride:
            raise UserError(
                f"data.num_frames is {num_frames}; it must be a multiple of {stride}, the frames of one step of the"
                f" {self.encoding['key']} in {root!r}"
            )
        if clips != Clips(start=clips.start):
            raise UserError("data.clips: of encoded videos only data.clips.start can be chosen; leave the rest out")
        if latent_stride < 1:
            raise UserError(f"data.latent_stride is {latent_stride}; it must be at least 1")
        self.latent_stride = latent_stride
        self.crop = _checked_crop(crop, self.encoding["shape"], root)
        super().__init__(
            root,
            frames,
            num_frames,
            clips=clips,
            min_length=min_length,
            width=about["spec"].get("width"),
            split=split,
            attributes=attributes,
            texts=texts,
            verify=verify,
        )
        self._find_sounds(audio)
        shape = self.encoding["shape"]
        described = {
            **{key: self.encoding[key] for key in ("key", "stride", "num_codes")},
            "shape": list(shape if self.crop is None else self.crop),
            "full_shape": list(shape),
            "latent_stride": latent_stride,
            **{key: self.encoding[key] for key in ("model", "fingerprint", "network")},
        }
        digest = hashlib.sha256(f"{self.spec.digest} {about['fingerprint']}".encode()).hexdigest()[:16]
        self.spec = replace(self.spec, encoding=described, digest=digest)

    @property
    def source(self) -> dict[str, Any]:
        """The configuration of the data set that was encoded, and of which clip frames are frames of it."""
        settings: dict[str, Any] = self.encoding["source"]["data"]
        return settings

    def read_about(self, root: Path) -> dict[str, Any]:
        """What the folder says about itself.

        Raises:
            UserError: it holds nothing that was encoded, or not all of it yet.
        """
        about = read_about(root, "vidgen data encode DATA --ckpt PATH")
        if about.get("encoding") is None:
            raise UserError(
                f"data.root {str(root)!r} is a pack of frames, nothing is encoded; read it with data.name packed, or"
                " encode it with `vidgen data encode`"
            )
        return about

    def origin(self, name: str) -> str:
        """See :meth:`Packed.origin`; the video that a clip was cut from."""
        return name if self.encoding["every"] is None else name.rpartition("#")[0]

    def find_captions(self, texts: Texts) -> StringTable:
        """See :meth:`StoredVideos.find_captions`."""
        if texts.file is None:
            return super().find_captions(texts)
        check_texts(texts)
        return captions_of(texts.file, self._origins(), Path(self.root))

    def measure(self, names: Sequence[str]) -> Measured:
        """See :meth:`StoredVideos.measure`."""
        steps, reasons, fps = super().measure(names)
        return Measured(steps * int(self.encoding["stride"]), reasons, fps)

    def clip_times(self, video: int, draw: int) -> tuple[int, ...]:
        """See :meth:`VideoDataset.clip_times`; the first frame of each step, as frames were encoded."""
        stride = int(self.encoding["stride"])
        steps, wanted = int(self.lengths[video]) // stride, self.spec.num_frames // stride
        times = clip_times(steps, wanted, 1, 0 if self.clips.start == "first" else draw)
        return tuple(step * stride for step in times[:: self.latent_stride])

    def read_levels(self, request: ClipRequest) -> dict[str, Tensor]:
        """See the class."""
        stride = int(self.encoding["stride"])
        try:
            rows = self._rows(request.video, [time // stride for time in request.times])
        except Unreadable as error:
            raise UnreadableVideo(self.path(request.video), str(error), error.passing) from error
        sample = {}
        for name, part in self._parts(rows).items():
            if self.crop is not None:
                y0, y1, x0, x1 = self._box(request.seed)
                part = part[:, y0:y1, x0:x1]
                sample["box"] = torch.tensor([y0, y1, x0, x1])
            sample[name] = torch.from_numpy(part.astype(np.float32 if part.dtype.kind == "f" else np.int64))
        return {**sample, **self.beside(request), **self.describe_clip(request)}

    def beside(self, request: ClipRequest) -> dict[str, Tensor]:
        """See :meth:`StoredVideos.beside`; the sound of all frames of a clip."""
        first = self._first_frame(request)
        stride = int(self.encoding["frame_stride"])
        times = tuple(range(first, first + stride * self.spec.num_frames, stride))
        return super().beside(replace(request, times=times))

    def describe_clip(self, request: ClipRequest) -> dict[str, Tensor]:
        """See :meth:`VideoDataset.describe_clip`."""
        sample = super().describe_clip(request)
        stride = int(self.encoding["frame_stride"])
        sample["times"] = sample["times"] * stride + (self._first_frame(request) - request.times[0] * stride)
        sample["length"] = sample["length"] * stride
        return sample

    def picture(self, sample: dict[str, Tensor]) -> Tensor:
        """A picture of codes for whoever looks at the data: float32 ``(3, t, h, w)`` in [-1, 1].

        Equal tokens have equal colours, which mean nothing else; of latents the rows are channels, from -2 to 2.
        """
        codes = sample[self.encoding["key"]]
        if codes.is_floating_point():
            return (codes.flatten(2) if codes.ndim > 2 else codes[:, None])[None].clamp(-2, 2).div(2).repeat(3, 1, 1, 1)
        table = np.random.default_rng(0).uniform(-1, 1, (int(self.encoding["num_codes"]), 3)).astype(np.float32)
        codes = codes.reshape(len(codes), 1, -1) if codes.ndim != 3 else codes
        return torch.from_numpy(table[codes.numpy()]).permute(3, 0, 1, 2)

    def describe_clips(self) -> str:
        """See :meth:`VideoDataset.describe_clips`."""
        encoding, spec = self.encoding, self.spec
        steps = len(range(0, spec.num_frames // encoding["stride"], self.latent_stride))
        kind = encoding["key"]
        if encoding["num_codes"] is not None:
            kind += f" below {encoding['num_codes']}"
        shape = " x ".join(map(str, (steps, *(encoding["shape"] if self.crop is None else self.crop))))
        apart = f", one of {self.latent_stride} taken" if self.latent_stride > 1 else ""
        cut = ", cut out at random" if self.crop is not None else ""
        return (
            f"clips of {spec.num_frames} frames as {kind}, {shape} (steps of {encoding['stride']} frames{apart}{cut}),"
            f" encoded by {encoding['model']} {encoding['fingerprint'][:12]}"
        )

    def _box(self, seed: int | None) -> tuple[int, int, int, int]:
        """Where a clip is cut out: y0, y1, x0, x1."""
        assert self.crop is not None
        corners = []
        for name, whole, part in zip("yx", self.encoding["shape"], self.crop, strict=True):
            places = whole - part + 1
            corners.append((places - 1) // 2 if seed is None else derive_seed(seed, "crop", name) % places)
        (top, left), (height, width) = corners, self.crop
        return top, top + height, left, left + width

    def _first_frame(self, request: ClipRequest) -> int:
        """The source frame with which a request begins."""
        first = request.times[0] * int(self.encoding["frame_stride"])
        if self.encoding["every"] is not None:
            first += int(self.names[request.video].rpartition("#")[2])
        return first

    def _origins(self) -> list[str]:
        return [self.origin(name) for name in self.names]

    def _find_sounds(self, audio: Audio | None) -> None:
        if audio is not None:
            self.audio = audio
            self._sounds = sounds_of(audio, self._origins(), Path(self.root))
            self.spec = replace(self.spec, audio_size=audio.size)


def _checked_crop(crop: tuple[int, int] | None, shape: Sequence[int], root: str) -> tuple[int, int] | None:
    if crop is None:
        return None
    if len(shape) != 2 or not all(1 <= part <= whole for part, whole in zip(crop, shape, strict=True)):
        size = " x ".join(map(str, shape))
        raise UserError(f"data.crop is {list(crop)}; a step in {root!r} is {size}, of which it must be a part")
    return crop
