"""A data set at a glance: its numbers, a contact sheet, and a page with moving previews."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vidgen.atomic import atomic_file
from vidgen.data.annotations import natural
from vidgen.data.dataset import UnreadableVideo, VideoDataset
from vidgen.data.encoded import Encoded
from vidgen.data.inspection_report import Inspection, SampledClip, Tally, printable, render_page, shortened
from vidgen.data.module import VideoDataModule
from vidgen.data.request import ClipRequest
from vidgen.data.spec import DataSpec
from vidgen.data.stored import StoredVideos, counted
from vidgen.data.transforms import Interpolation, resize_frames
from vidgen.errors import UserError
from vidgen.media import grid, to_uint8, write_image
from vidgen.seeding import derive_seed

MOST_PROBED = 1000  # videos whose headers are looked at; of more, so many evenly spaced
MOST_RANGES = 12
FRAMES_SHOWN, PREVIEWS, PREVIEW_FRAMES, PREVIEW_SIDE = 8, 8, 48, 160
PREVIEW_FPS = 8.0  # where the frame rate is unknown, as in `vidgen sample`
SHEET_SIDE, CAPTION, MARGIN, SMALLEST, LARGEST = 4000, 15, 2, 24, 128  # pixels


def inspect(module: VideoDataModule, out: Path, num_clips: int = 48) -> Inspection:
    """Look at a data set and write what is seen to ``contact_sheet.png``, ``index.html`` and ``inspection.json``.

    The page holds its pictures and needs no script. The work does not grow with the data set: headers of at most
    :data:`MOST_PROBED` videos are read, and one clip of each of ``num_clips``, evenly spaced.

    Args:
        module: feeds the data set.
        out: folder of the files.
        num_clips: clips to read.

    Raises:
        UserError: no clip can be read, ``num_clips`` is below 1, or the files cannot be written.
    """
    if num_clips < 1:
        raise UserError(f"num_clips is {num_clips}; it must be at least 1")
    skipped = dict(module.skipped)
    clips = _read_clips(module, num_clips, skipped)
    found = _summarise(module, clips, skipped)
    write_image(out / "contact_sheet.png", _contact_sheet(clips))
    speed = module.spec.fps / module.dataset.stride if module.spec.fps else PREVIEW_FPS
    page = render_page(found, clips, speed, (out / "contact_sheet.png").read_bytes())
    for name, text in (("inspection.json", json.dumps(asdict(found), indent=1)), ("index.html", page)):
        with atomic_file(out / name) as file:
            file.write(text.encode())
    return found


def evenly(total: int, number: int) -> list[int]:
    """At most ``number`` of ``0 ... total - 1``, evenly spaced, the first and (from two on) the last among them."""
    number = min(number, total)
    return [index * (total - 1) // max(number - 1, 1) for index in range(number)]


def _name(dataset: VideoDataset, video: int) -> str:
    return dataset.names[video] if isinstance(dataset, StoredVideos) else f"video {video}"


def _times(module: VideoDataModule, video: int) -> tuple[int, ...]:
    return module.dataset.clip_times(video, derive_seed(module.seed, "inspection", video))


def _read_clips(module: VideoDataModule, number: int, skipped: dict[str, str]) -> list[SampledClip]:
    """One clip of each of evenly spaced videos; those that cannot be read join ``skipped``."""
    videos = evenly(len(module.dataset), number)
    moving = {videos[index] for index in evenly(len(videos), PREVIEWS)}
    clips = []
    for video in videos:
        try:
            sample = module.dataset.read(ClipRequest(video, _times(module, video), module.spec.resolution))
        except UnreadableVideo as error:
            skipped[error.path], last = error.reason, error
        else:
            clips.append(_digest(module.dataset, video, sample, len(videos), video in moving))
    if not clips:
        many = f"none of {counted(len(videos), 'sampled video')} can be read"
        raise UserError(f"{many} (the last, {last.path!r}: {last.reason}); is the disk still there?")
    return clips


def _digest(dataset: VideoDataset, video: int, sample: dict[str, Tensor], number: int, moving: bool) -> SampledClip:
    """What is kept of a clip among so many, so that memory does not grow with the size of clips."""
    clip = dataset.picture(sample) if isinstance(dataset, Encoded) else sample["video"]
    pixels = to_uint8(clip)
    length, height, width = pixels.shape[1:]
    small = [max(1, round(side * min(1.0, PREVIEW_SIDE / max(height, width)))) for side in (height, width)]
    label = int(sample["label"]) if "label" in sample else None
    frames = [counted(int(dataset.lengths[video]), "frame")] if dataset.spec.max_length > 1 else []
    values = clip.double().flatten(1)
    sums = [values.sum(1), values.square().sum(1), torch.full((len(values),), values.shape[1]).double()]
    return SampledClip(
        name=_name(dataset, video),
        caption=printable(", ".join(([] if label is None else [dataset.spec.class_names[label]]) + frames)),
        frames=_scaled(pixels[:, evenly(length, FRAMES_SHOWN)], *_thumbnail(length, height, width, number)),
        preview=_scaled(pixels[:, :PREVIEW_FRAMES], *small) if moving else None,
        sums=torch.stack(sums).numpy(),
        frozen=length > 1 and bool((pixels == pixels[:, :1]).all()),
        label=label,
        attributes=sample["attributes"].numpy() if "attributes" in sample else None,
        codes=np.unique(sample["tokens"].numpy()) if "tokens" in sample else None,
    )


def _scaled(video: Tensor, height: int, width: int) -> Tensor:
    rule: Interpolation = "nearest" if height > video.shape[2] else "bilinear"  # enlarged pixels stay visible
    frames = video.permute(1, 2, 3, 0).numpy()
    scaled = resize_frames(frames, height, "stretch", width=width, interpolation=rule)
    return torch.from_numpy(np.ascontiguousarray(scaled)).permute(3, 0, 1, 2)


def _thumbnail(length: int, height: int, width: int, number: int) -> tuple[int, int]:
    """Height and width of a frame in a contact sheet of so many clips."""
    rows = math.ceil(number / max(1, FRAMES_SHOWN // length))
    room = max(SMALLEST, SHEET_SIDE // rows - CAPTION - 2 * MARGIN)
    wanted = min(height * max(1, 64 // height), LARGEST, room)
    scale = min(wanted / height, (SHEET_SIDE // FRAMES_SHOWN - 2 * MARGIN) / width)
    return max(1, int(scale * height)), max(1, int(scale * width))


def _contact_sheet(clips: Sequence[SampledClip]) -> Tensor:
    """Clips below each other, frames of a clip side by side, uint8 ``(3, H, W)``; short clips share a row."""
    length, height = clips[0].frames.shape[1:3]
    columns = max(1, FRAMES_SHOWN // length)
    most = SHEET_SIDE // (height + CAPTION + 2 * MARGIN) * columns
    cells = [_captioned(clips[index]) for index in evenly(len(clips), most)]
    return grid(torch.stack(cells), min(columns, len(cells)), gap=0)[:, 0]


def _captioned(clip: SampledClip) -> Tensor:
    """The frames of a clip under its class and length, uint8 ``(3, 1, H, W)``."""
    length, height, width = clip.frames.shape[1:]
    size = (length * (width + MARGIN) + MARGIN, height + CAPTION + 2 * MARGIN)
    picture = Image.new("RGB", size, (24, 26, 31))
    draw, font, text = ImageDraw.Draw(picture), ImageFont.load_default(11), clip.caption or printable(clip.name)
    while len(text) > 1 and draw.textlength(text, font) > size[0] - 2 * MARGIN:
        text = text.removesuffix("…")[:-1] + "…"
    draw.text((MARGIN, MARGIN), text, (222, 225, 230), font)
    for index, frame in enumerate(clip.frames.expand(3, -1, -1, -1).permute(1, 2, 3, 0).numpy()):
        picture.paste(Image.fromarray(frame), (MARGIN + index * (width + MARGIN), CAPTION + MARGIN))
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[:, None]


def _summarise(module: VideoDataModule, clips: Sequence[SampledClip], skipped: dict[str, str]) -> Inspection:
    dataset, spec = module.dataset, module.spec
    low, high = spec.min_length, spec.max_length
    counts, edges = np.histogram(dataset.lengths, bins=min(24, high - low + 1), range=(low, high + 1))
    hours, extent, tallies = _probe(module, skipped)
    sums, squares, numbers = np.sum([clip.sums for clip in clips], axis=0)
    classes = _classes(dataset, [clip.label for clip in clips if clip.label is not None])
    frozen = [clip.name for clip in clips if clip.frozen]
    stored = dataset if isinstance(dataset, StoredVideos) else None
    notices = [line for line in (stored.notices if stored else []) if not line.startswith("skipped ")]
    clip = {key: getattr(spec, key) for key in ("channels", "num_frames", "resolution")}
    clip |= {"width": spec.width or spec.resolution, "stride": dataset.stride, **extent}
    encoded = isinstance(dataset, Encoded)
    if encoded:
        clip |= {"codes": dataset.describe_clips().removeprefix("clips of "), **_used(spec, clips)}
    return Inspection(
        title=dataset.describe().split("\n")[0],
        num_videos=len(dataset),
        num_frames=int(dataset.lengths.sum()),
        estimated=len(dataset) > MOST_PROBED,
        hours=hours,
        lengths=(low, float(np.median(dataset.lengths)), high),
        histogram=tuple(zip(np.ceil(edges[:-1]).astype(int).tolist(), counts.tolist(), strict=True)),
        clip=clip | {"rule": stored.clips.rule if stored else "contiguous"},
        tallies=(*tallies, *classes, *_attributes(dataset, clips)),
        balance=_balance([*classes[0].counts.values()]) if classes else None,
        sampled=tuple(clip.name for clip in clips),
        mean=() if encoded else tuple((sums / numbers).tolist()),
        std=() if encoded else tuple(np.sqrt(np.maximum(squares / numbers - (sums / numbers) ** 2, 0)).tolist()),
        frozen=tuple(frozen),
        skipped=skipped,
        notices=tuple(line for line in notices if not line.endswith("`vidgen data inspect` lists them")),
        warnings=tuple(_warnings(frozen, len(clips), encoded, classes if dataset.labels is not None else [])),
    )


def _used(spec: DataSpec, clips: Sequence[SampledClip]) -> dict[str, int]:
    """How many codes occur in clips, where they are tokens."""
    if spec.encoding is None or spec.encoding["num_codes"] is None:
        return {}
    codes = np.concatenate([clip.codes for clip in clips if clip.codes is not None])
    return {"num_codes": spec.encoding["num_codes"], "used_codes": len(np.unique(codes))}


def _warnings(frozen: list[str], number: int, encoded: bool, classes: Sequence[Tally]) -> Iterable[str]:
    if frozen:
        names = ", ".join(shortened(frozen))
        what = "all steps have the same codes" if encoded else "all frames identical"
        yield f"{len(frozen)} of {counted(number, 'sampled clip')} frozen ({what}): {names}"
    empty = [name for tally in classes for name, count in tally.counts.items() if not count]
    if empty:
        yield f"classes without videos: {', '.join(shortened(empty))}"


def _probe(module: VideoDataModule, skipped: dict[str, str]) -> tuple[float | None, dict[str, Any], list[Tally]]:
    """Hours, extent of clips, frame sizes and rates by the headers of all videos, or of evenly spaced ones."""
    dataset = module.dataset
    stored = dataset if isinstance(dataset, StoredVideos) else None
    videos = evenly(len(dataset), MOST_PROBED)
    sizes, spans, rates = [], np.empty(len(videos)), np.empty(len(videos))
    for index, video in enumerate(videos):
        times = _times(module, video)
        spans[index] = dataset.spec.num_frames if isinstance(dataset, Encoded) else max(times) - min(times) + 1
        rates[index] = (stored.video_fps(video) if stored else dataset.spec.fps) or math.nan
        try:
            size = stored.video_size(video) if stored else None
        except UnreadableVideo as error:
            skipped[error.path], size = error.reason, None
        sizes += [f"{size[0]} x {size[1]}"] if size else []
    lengths, known = dataset.lengths[videos], np.isfinite(rates)
    seconds = (spans / rates)[known]
    hours = float((lengths / rates)[known].sum() / lengths.sum() * dataset.lengths.sum() / 3600)
    of = "" if len(videos) == len(dataset) else f" of {len(videos):,} sampled videos"
    values = {"stored sizes (width x height)": sizes, "frame rates": [f"{rate:.5g} fps" for rate in rates[known]]}
    tallies = [_tally(f"{name}{of}", texts, len(videos)) for name, texts in values.items()]
    share = np.percentile(spans / lengths, [0, 50, 100]).tolist()
    return hours or None, {"seconds": float(np.median(seconds)) if len(seconds) else None, "share": share}, tallies


def _tally(name: str, values: Iterable[str], total: int) -> Tally:
    counts = Counter(values)
    ranked = sorted(counts, key=lambda value: (-counts[value], natural(value)))
    return Tally(name, {value: counts[value] for value in ranked}, total - counts.total())


def _classes(dataset: VideoDataset, sampled: Sequence[int]) -> list[Tally]:
    """Videos of each class; sampled clips where only reading one tells its class."""
    of = f" of {counted(len(sampled), 'sampled clip')}" if dataset.labels is None else ""
    labels = np.array(sampled, np.int64) if dataset.labels is None else dataset.labels
    if not len(labels):
        return []
    numbers = np.bincount(labels, minlength=len(dataset.spec.class_names))
    order = np.argsort(-numbers, kind="stable").tolist()
    counts = {dataset.spec.class_names[label]: int(numbers[label]) for label in order}
    return [Tally(f"classes ({len(numbers):,}){of}", counts)]


def _balance(counts: Sequence[int]) -> float | None:
    shares = np.array([count for count in counts if count]) / sum(counts)
    return max(0.0, float(-(shares * np.log(shares)).sum() / np.log(len(counts)))) if len(counts) > 1 else None


def _attributes(dataset: VideoDataset, clips: Sequence[SampledClip]) -> list[Tally]:
    """Values of each attribute over all videos; over the sampled clips where only reading tells them."""
    table, of, spec = getattr(dataset, "attributes", None), "", dataset.spec
    if table is None:
        table = np.array([clip.attributes for clip in clips if clip.attributes is not None])
        of = f" of {counted(len(table), 'sampled clip')}"
    meanings = spec.attribute_values or ((),) * len(spec.attribute_names)
    columns = zip(spec.attribute_names, meanings, table.T.astype(float), strict=True) if len(table) else ()
    return [_attribute(f"attribute {name}{of}", meaning, column) for name, meaning, column in columns]


def _attribute(name: str, meaning: Sequence[str], column: NDArray[np.float64]) -> Tally:
    """Counts of what the numbers stand for; of plain numbers in rising order, in ranges where there are many values."""
    numbers = column[np.isfinite(column)]
    if meaning:
        return _tally(name, [meaning[int(number)] for number in numbers], len(column))
    values, counts = np.unique(numbers, return_counts=True)
    texts = [f"{value:.9g}" for value in values]
    if len(values) > MOST_RANGES:
        counts, edges = np.histogram(numbers, MOST_RANGES)
        digits = 2 + math.ceil(np.log10(np.abs(edges).max() / (edges[1] - edges[0])))
        texts = [f"{low:.{digits}g} to {high:.{digits}g}" for low, high in pairwise(edges)]
    return Tally(name, dict(zip(texts, counts.tolist(), strict=True)), len(column) - len(numbers))
