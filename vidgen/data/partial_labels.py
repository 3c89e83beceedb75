"""Attributes that only a share of the videos carries, for models that are taught with few labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidgen.data.annotations import Column
from vidgen.data.sampler import permutation

MOST_NAMED = 10
"""Values of an attribute that are named; of more only their number is told."""


@dataclass(frozen=True)
class LabelShare:
    """How many videos of a pack carry their attributes.

    Args:
        label_fraction: see :class:`~vidgen.data.annotations.Attributes`; None for that of the data set that was packed.
        label_seed: likewise.
    """

    label_fraction: float | None = None
    label_seed: int | None = None


def strata(labels: NDArray[np.int64] | None, columns: Sequence[Column], num_videos: int) -> NDArray[np.int64]:
    """The class of each video, of which the same share is labelled: its label, else its first attribute with names.

    Args:
        labels: class of each video; None without classes.
        columns: attributes of each video.
        num_videos: how many there are.

    Returns:
        ``(N,)``; -1 where the attribute is missing, all 0 where there is nothing to tell videos apart.
    """
    if labels is not None:
        return labels
    for column in columns:
        if column.values:
            return np.nan_to_num(column.numbers, nan=-1).astype(np.int64)
    return np.zeros(num_videos, np.int64)


def labelled_videos(
    classes: NDArray[np.int64], known: NDArray[np.bool_], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Draw the videos that carry their attributes.

    Which these are is a function of the seed, the classes and the places of the videos in the data set: not of their
    names, which differ from layout to layout. A larger share holds all of a smaller one.

    Args:
        classes: of each video, ``(N,)``.
        known: whether there is anything to carry, ``(N,)``; the others are not counted.
        fraction: share of each class, rounded, but at least one video where it is above 0.
        seed: of the draw.

    Returns:
        bool ``(N,)``.
    """
    chosen = np.zeros(len(classes), bool)
    videos = np.flatnonzero(known)
    videos = videos[np.argsort(classes[videos], kind="stable")]
    names, firsts, counts = np.unique(classes[videos], return_index=True, return_counts=True)
    for name, first, count in zip(names.tolist(), firsts, counts, strict=True):
        members = videos[first : first + count]
        number = max(1, round(fraction * len(members))) if fraction > 0 else 0
        chosen[members[permutation(len(members), seed, "labelled", name)[:number]]] = True
    return chosen


def lost_values(columns: Sequence[Column], left: NDArray[np.float32]) -> str:
    """The values with names that videos have and none of them carries, for a message; empty where there are none.

    Args:
        columns: attributes of all videos.
        left: what the videos carry of them, ``(N, A)``.
    """
    parts = []
    for column, carried in zip(columns, left.T, strict=True):
        lost = np.setdiff1d(column.numbers[np.isfinite(column.numbers)], carried).astype(int)
        if column.values and len(lost):
            more = f" and {len(lost) - MOST_NAMED} more" if len(lost) > MOST_NAMED else ""
            parts.append(f"{column.name} {', '.join(column.values[number] for number in lost[:MOST_NAMED])}{more}")
    return "; ".join(parts)
