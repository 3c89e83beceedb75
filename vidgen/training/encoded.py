"""Training on videos that were encoded once: what such data can serve, and where the frames are that metrics need."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from vidgen.config import build_dataset, check_data
from vidgen.config.compose import Config
from vidgen.data.dataset import VideoDataset
from vidgen.data.encoded import Encoded
from vidgen.data.module import read_batch
from vidgen.data.request import BatchRequest, ClipRequest
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.models.base import Batch, VideoModel
from vidgen.registry import DATASETS, MODELS


def check_kind(model: VideoModel, spec: DataSpec) -> None:
    """Refuse codes for a model that is trained on frames, and frames for one that is trained on codes.

    Raises:
        UserError: naming what would be right.
    """
    name, held = MODELS.name_of(type(model)), "video" if spec.encoding is None else spec.encoding["key"]
    for key in ("video", "tokens", "latents"):
        if key not in model.train_keys or key == held:
            continue
        if key == "video":
            raise UserError(f"data: holds {held}, and {name} as configured is trained on frames; give it the videos")
        raise UserError(
            f"data: holds {'frames' if held == 'video' else held}, and {name} as configured is trained on {key};"
            " make them with `vidgen data encode`"
        )


def real_videos(dataset: VideoDataset, key: str = "data", remedy: str = "") -> VideoDataset:
    """The videos that were encoded, as they were configured then; a data set of frames as it is.

    A class that is neither registered nor imported already is not imported: what was encoded may come from elsewhere.

    Args:
        dataset: what is trained on.
        key: of the config that needs them, for messages.
        remedy: what else can be done about it.

    Raises:
        UserError: they cannot be opened any more.
    """
    if not isinstance(dataset, Encoded):
        return dataset
    section = {**dataset.source, "num_frames": dataset.spec.num_frames}
    try:
        name = str(section.get("name"))
        if name not in DATASETS.names() and name.rpartition(".")[0] not in sys.modules:
            raise UserError(f"it names {name!r}, which is not imported here")
        data, _ = check_data(Config(Path(dataset.root), ((None, {"data": section}),), {}))
        return build_dataset(data)
    except UserError as error:
        raise UserError(
            f"{key}: needs the videos that were encoded into {dataset.root!r}, which cannot be opened ({error});"
            f" put them back{remedy}"
        ) from error


def first_codes(model: VideoModel, dataset: VideoDataset) -> Callable[[int], Batch] | None:
    """What the first encoded clips give a model that samples from something other than frames.

    Returns:
        Makes a batch for a number of videos; None where the data are frames, or the model needs some.

    Raises:
        UserError: the data do not have what it needs.
    """
    keys = model.sample_keys
    if not isinstance(dataset, Encoded) or "video" in keys:
        return None

    def read(number: int) -> Batch:
        requests = tuple(
            ClipRequest(video, dataset.clip_times(video, 0), dataset.spec.resolution)
            for video in range(min(number, len(dataset)))
        )
        return read_batch(dataset, BatchRequest(requests))

    first = read(1)
    missing = [key for key in keys if first and key not in first]
    if missing:
        name = MODELS.name_of(type(model))
        raise UserError(f"data: {dataset.root!r} has no {missing[0]!r}, which {name} samples from")

    def batch(number: int) -> Batch:
        found = read(number)
        return {key: found[key].to(model.device) for key in keys}

    return batch
