"""The files of a pack.

A pack is a folder::

    plan.json           which videos go into which shard, made first
    shard-00000.bin     frames of its videos, one after the other, each channel of a frame by itself
    shard-00000.npz     where each video lies, its frames' checksums, and what could not be read
    ...
    index.npz           the same for all shards together
    pack.json           what the pack holds, and the checksum of the index; written last

Every file is written beside its place and moved there when it is whole, so a shard that is there is finished.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import struct
import uuid
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidgen.atomic import PARTIAL_SUFFIX, atomic_file, drop_partial
from vidgen.data.dataset import VideoDataset
from vidgen.data.stored import StoredVideos
from vidgen.data.tables import StringTable
from vidgen.errors import UserError

FORMAT = 1
PLAN, INDEX, PACK = "plan.json", "index.npz", "pack.json"

FEWEST_SHARDS = 16
"""Shards of a pack, where it has as many videos: small data sets too should keep several processes busy."""

CHOSEN_AT_READING = frozenset(
    ("num_frames", "stride", "clips", "min_length", "flip", "split", "cache_mb", "decoder", "verify", "audio")
)
"""Arguments of data sets of files that change no packed pixel; which videos they leave is told by their names."""

BESIDE = frozenset(("text_length", "text_vocabulary", "audio_size"))
"""Of a data set's spec, what tells of things beside the frames, which are made at reading."""

DECIDES_CODES = (
    *("model", "fingerprint", "weights", "key", "dtype", "stride", "num_codes", "shape"),
    *("frame_stride", "every", "clip_frames"),
)
"""Entries of :attr:`Plan.encoding` that change what is stored; others only tell of it."""

Layout = dict[str, tuple[str, list[int]]]
"""Name -> type and shape, ``(C, H, W)`` of pixels, of what there is of each frame, in order."""

_DAMAGED = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError),  # RuntimeError: zipfile's for odd headers
    *(zipfile.BadZipFile, zlib.error, struct.error),
)
"""What reading a damaged file raises."""


@dataclass(frozen=True)
class Plan:
    """Which videos go into which shard.

    Args:
        fingerprint: of everything that decides the bytes of the pack.
        settings: how the data set was configured, for messages.
        spec: what the data set holds.
        folder: the folder that holds everything, with ``/``, where a zip was packed that has one; names in the pack are
            those below it, since lists, patterns and splits do not see it either.
        bounds: first video of each shard, and at the end the number of videos.
        skipped: files that the data set could not use, and why; they are in no shard.
        label_fraction: share of the videos whose attributes the data set gave; the pack holds those of all.
        label_seed: seed of the draw of these.
        encoding: how the videos were encoded, see :func:`vidgen.data.encoding.encode`; None for a pack of frames.
    """

    fingerprint: str
    settings: dict[str, Any]
    spec: dict[str, Any]
    folder: str
    bounds: tuple[int, ...]
    skipped: dict[str, str]
    label_fraction: float = 1.0
    label_seed: int = 0
    encoding: dict[str, Any] | None = None

    @property
    def num_shards(self) -> int:
        """How many shards there are."""
        return len(self.bounds) - 1

    def videos(self, shard: int) -> range:
        """The videos of a shard."""
        return range(self.bounds[shard], self.bounds[shard + 1])


@dataclass(frozen=True)
class Shard:
    """What a finished shard, or the index of all of them, says about its videos.

    Args:
        size: bytes of pixels.
        layout: name -> type and shape, ``(C, H, W)`` of pixels, of what there is of each frame, in order.
        names: the videos.
        lengths: frames of each; of encoded videos the steps of their codes.
        offsets: where each begins, bytes.
        labels: class of each; empty without labels.
        attributes: ``(N, A)``.
        checksums: CRC-32 of each frame of each video, one after the other.
        skipped: videos that could not be read.
        reasons: why each could not be read.
        captions: a JSON list for each video; empty without texts.
    """

    size: int
    layout: Layout
    names: StringTable
    lengths: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    attributes: NDArray[np.float32]
    checksums: NDArray[np.uint32]
    skipped: StringTable
    reasons: StringTable
    captions: StringTable = field(default_factory=StringTable)

    def write(self, path: Path, **more: NDArray[Any]) -> None:
        """Write it as arrays, whole or not at all."""
        arrays: dict[str, Any] = dict(more)
        for name, value in vars(self).items():
            if isinstance(value, StringTable):
                arrays[name], arrays[f"{name}_ends"] = value.data, value.ends
            elif isinstance(value, dict):
                arrays[name] = np.frombuffer(json.dumps(value).encode(), np.uint8)
            else:
                arrays[name] = np.asarray(value)
        with atomic_file(path) as file:
            np.savez(file, **arrays)

    @classmethod
    def read(cls, path: Path) -> Shard:
        """The inverse of :meth:`write`.

        Raises:
            UserError: the file is gone or damaged.
        """
        try:
            with zipfile.ZipFile(path) as archive:  # before NumPy trusts sizes that it finds in there
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile(path)
            with np.load(path, allow_pickle=False) as stored:
                return cls(
                    size=int(stored["size"]),
                    layout=json.loads(stored["layout"].tobytes()),
                    names=_strings(stored, "names"),
                    lengths=stored["lengths"],
                    offsets=stored["offsets"],
                    labels=stored["labels"],
                    attributes=stored["attributes"],
                    checksums=stored["checksums"],
                    skipped=_strings(stored, "skipped"),
                    reasons=_strings(stored, "reasons"),
                    captions=_strings(stored, "captions") if "captions" in stored else StringTable(),
                )
        except _DAMAGED as error:
            raise UserError(f"{path}: gone or damaged; run its `vidgen data pack` again") from error

    @classmethod
    def joined(cls, shards: Sequence[Shard]) -> Shard:
        """All shards as one; offsets stay those inside each.

        Raises:
            UserError: their frames differ in kind.
        """
        layouts = [shard.layout for shard in shards if shard.layout]
        if any(layout != layouts[0] for layout in layouts):
            raise UserError("the shards of the pack hold frames of different sizes; remove it and pack anew")
        return cls(
            size=sum(shard.size for shard in shards),
            layout=layouts[0] if layouts else {},
            names=StringTable(name for shard in shards for name in shard.names),
            lengths=np.concatenate([shard.lengths for shard in shards]),
            offsets=np.concatenate([shard.offsets for shard in shards]),
            labels=np.concatenate([shard.labels for shard in shards]),
            attributes=np.concatenate([shard.attributes for shard in shards]),
            checksums=np.concatenate([shard.checksums for shard in shards]),
            skipped=StringTable(name for shard in shards for name in shard.skipped),
            reasons=StringTable(reason for shard in shards for reason in shard.reasons),
            captions=StringTable(caption for shard in shards for caption in shard.captions),
        )


def _strings(stored: Mapping[str, NDArray[Any]], name: str) -> StringTable:
    return StringTable.from_arrays(stored[name], stored[f"{name}_ends"])


def shard_path(out: Path, shard: int, suffix: str) -> Path:
    """A file of a shard."""
    return out / f"shard-{shard:05d}.{suffix}"


def read_plan(out: Path) -> Plan | None:
    """The plan in a folder, or None where there is none.

    Raises:
        UserError: it is damaged, or of another version.
    """
    try:
        text = json.loads((out / PLAN).read_text())
        if text["format"] != FORMAT:
            raise UserError(f"{out / PLAN}: of format {text['format']}, this version reads {FORMAT}; pack anew")
        return Plan(
            text["fingerprint"],
            text["settings"],
            text["spec"],
            text["folder"],
            tuple(text["bounds"]),
            dict(text.get("skipped", {})),
            text.get("label_fraction", 1.0),
            text.get("label_seed", 0),
            text.get("encoding"),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{out / PLAN}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{out / PLAN}: damaged; remove the folder and pack anew") from error


def make_plan(dataset: VideoDataset, settings: Mapping[str, Any], shard_bytes: int) -> Plan:
    """Divide a data set into shards of about equal size, the same ones whenever and wherever it is done.

    Args:
        dataset: what is packed.
        settings: its configuration.
        shard_bytes: pixels of a shard, at most about; less where there would be fewer than :data:`FEWEST_SHARDS`.

    Returns:
        The plan. What is chosen anew at reading, as the frames of a clip are, does not change it.

    Raises:
        UserError: a file of the data set is gone, or it has no frames, since it is encoded already.
    """
    spec = dataset.spec
    if spec.encoding is not None:
        raise UserError(f"data: holds videos encoded as {spec.encoding['key']}; give those that they were made from")
    sizes = dataset.lengths * (spec.channels * spec.resolution * (spec.width or spec.resolution))
    bounds = shard_bounds(sizes.tolist(), shard_bytes)
    plain = plain_settings(settings)
    folder = _only_folder(dataset, (plain.get("split") or {}).get("folder"))
    described = spec.to_dict()
    deciding = {key: value for key, value in described.items() if key not in BESIDE}
    arrays: list[NDArray[Any] | None] = [dataset.lengths, dataset.labels]
    signature = b""
    share: tuple[float, int] = (1.0, 0)
    if isinstance(dataset, StoredVideos):
        plain = {key: value for key, value in plain.items() if key not in CHOSEN_AT_READING}
        deciding.pop("num_frames")
        if dataset.texts is not None:  # ids are made at reading
            plain["texts"] = str(dataset.texts.file)
        share = dataset.label_fraction, dataset.label_seed
        arrays += [dataset.all_attributes, dataset.names.data, dataset.names.ends]
        signature = dataset.signature()
    if "root" in plain:
        plain["root"] = os.path.normpath(plain["root"])
    about = [FORMAT, plain, deciding, folder, bounds]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for array in arrays:
        digest.update(b"" if array is None else array.tobytes())
    digest.update(signature)
    return Plan(digest.hexdigest(), plain, described, folder, tuple(bounds), dict(dataset.skipped), *share)


def shard_bounds(sizes: Sequence[int], shard_bytes: int) -> list[int]:
    """First video of each shard, and at the end the number of videos.

    Args:
        sizes: bytes of each video.
        shard_bytes: bytes of a shard; it has more only where a single video has.
    """
    fewest = min(FEWEST_SHARDS, len(sizes))
    most = min(shard_bytes, -(-sum(sizes) // FEWEST_SHARDS))
    while True:
        bounds, filled = [0], 0
        for video, size in enumerate(sizes):
            if filled and filled + size > most:
                bounds.append(video)
                filled = 0
            filled += size
        if len(bounds) >= fewest:
            return [*bounds, len(sizes)]
        most //= 2  # a few long videos fill shards of their own and leave too few to the others


def plain_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a data set in plain values, as JSON holds them."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(settings), default=_plain, sort_keys=True))
    return plain


def _plain(value: Any) -> Any:
    return vars(value) if hasattr(value, "__dataclass_fields__") else str(value)


def _only_folder(dataset: VideoDataset, chosen: str | None) -> str:
    """The folder that holds everything in a zip, with its ``/``, unless it was chosen as a part."""
    if not isinstance(dataset, StoredVideos) or Path(dataset.root).is_dir():
        return ""
    names = copy.copy(dataset).find()  # a copy, since it changes what a data set knows of its files
    folder = names[0].split("/")[0] + "/"
    return folder if folder != f"{chosen}/" and all(name.startswith(folder) for name in names) else ""


def agree(out: Path, plan: Plan) -> Plan:
    """The plan of a folder, which is this one; a folder that has none gets it.

    Raises:
        UserError: the folder holds something else.
    """
    strangers = out.is_dir() and any(not name.startswith(".") for name in os.listdir(out))
    known = read_plan(out)  # after the look at the folder: another process may have begun the same pack meanwhile
    if known is None:
        if strangers:
            raise UserError(f"--out: {out} is not empty and holds no pack; choose another folder")
        write_json(out / PLAN, {"format": FORMAT, **vars(plan)})
        return plan
    if known.fingerprint == plan.fingerprint:
        return known
    _check_same_encoding(out, known.encoding, plan.encoding)
    for key in sorted({*known.settings, *plan.settings}):
        old, new = known.settings.get(key), plan.settings.get(key)
        if old != new:
            raise UserError(
                f"--out: {out} holds a pack with data.{key} {old!r}, now it is {new!r}; choose another folder"
            )
    raise UserError(
        f"--out: {out} holds a pack of other videos, of files that were replaced since, or of other shards;"
        " choose another folder"
    )


def _check_same_encoding(out: Path, known: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None) -> None:
    if known is None and wanted is None:
        return
    if known is None or wanted is None:
        what = "frames" if known is None else f"videos encoded as {known['key']}"
        raise UserError(f"--out: {out} holds a pack of {what}; choose another folder")
    for key in DECIDES_CODES:
        if known.get(key) != wanted[key]:
            old, new = (str(about.get(key))[: 12 if key == "fingerprint" else None] for about in (known, wanted))
            raise UserError(
                f"--out: {out} holds videos encoded with {key} {old}, now it is {new}; choose another folder"
            )


def command_of(encoding: Mapping[str, Any] | None) -> str:
    """The command that makes such a pack."""
    return "vidgen data pack" if encoding is None else "vidgen data encode"


def drop_partials(out: Path, shards: Sequence[int] | None = None) -> None:
    """Remove what killed runs have left of some shards, or of all files; what others are writing stays."""
    stems = None if shards is None else {shard_path(out, shard, "bin").stem for shard in shards}
    for path in out.glob(f".*{PARTIAL_SUFFIX}"):
        if stems is None or path.name[1:].split(".")[0] in stems:
            drop_partial(path)


def is_finished(out: Path, shard: int) -> bool:
    """Whether a shard is there, as long as it says, and what it says about its videos is intact."""
    try:
        return shard_path(out, shard, "bin").stat().st_size == Shard.read(shard_path(out, shard, "npz")).size
    except (OSError, UserError):
        return False


def link_or_copy(source: Path, target: Path) -> None:
    """The same file at another place, whole or not at all; on one disk it takes no room."""
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        os.link(source, partial)
        os.replace(partial, target)
    except OSError:  # another disk, or one without links
        with open(source, "rb") as file, atomic_file(target) as whole:
            shutil.copyfileobj(file, whole, 2**22)


def write_json(path: Path, value: Any) -> None:
    """Write plain values, whole or not at all."""
    with atomic_file(path) as file:
        file.write(json.dumps(value, indent=1).encode())


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
