"""What a data set holds, in plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class DataSpec:
    """Comes with every data set, is checked against what a model needs, and is saved in the checkpoint.

    Args:
        channels: colour channels of the videos.
        resolution: height of the clips and, without ``width``, their width, pixels.
        num_frames: frames of a clip.
        fps: frames per second of the source videos; None where unknown.
        num_videos: videos that can be drawn.
        min_length: frames of the shortest of them.
        max_length: frames of the longest of them.
        class_names: names of the labels 0, 1, ...; empty without labels.
        attribute_names: names of the columns of ``attributes``; empty without attributes.
        attribute_values: for each column what its numbers 0, 1, ... stand for; empty for a column of plain numbers.
        width: width of the clips where they are no squares, pixels.
        text_length: ids of a text (``text``); None without texts.
        text_vocabulary: how many ids there are; None without texts.
        audio_size: height and width of a slice of sound (``audio``); None without sound.
        encoding: of videos that come as codes (``tokens`` or ``latents``) in place of frames, what these are, see
            :class:`vidgen.data.encoded.Encoded`; None for frames.
        digest: of the lengths and labels of all videos, in order, of which carry attributes where only a share does,
            and of their texts; the same seed draws the same clips where it is equal.
    """

    channels: int
    resolution: int
    num_frames: int
    fps: float | None
    num_videos: int
    min_length: int
    max_length: int
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    attribute_values: tuple[tuple[str, ...], ...] = ()
    width: int | None = None
    text_length: int | None = None
    text_vocabulary: int | None = None
    audio_size: tuple[int, int] | None = None
    encoding: dict[str, Any] | None = None
    digest: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, as saved in a checkpoint."""
        return {key: _listed(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DataSpec:
        """The inverse of :meth:`to_dict`; keys of newer versions are ignored."""
        known = {field.name for field in fields(cls)}
        plain: dict[str, Any] = {key: value for key, value in values.items() if key in known}
        return cls(**{key: _tupled(value) for key, value in plain.items()})


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(item) for item in value) if isinstance(value, list) else value
