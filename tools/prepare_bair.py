"""Prepare the BAIR robot pushing data set (Ebert et al., CoRL 2017; the small version, 64×64).

A robot arm pushes objects in a bin: 43264 videos to train on and 256 to test with, 30 frames each, and with them what
the arm was told to do and where its gripper was. The raw data, ``bair_robot_pushing_dataset_v0.tar`` (30 GB), must be
obtained from https://sites.google.com/view/sna-visual-mpc/ or
http://rail.eecs.berkeley.edu/datasets/bair_robot_pushing_dataset_v0.tar. Unpacking it is not needed.

The frames as they are, from the tar, or from the folder that holds ``softmotion30_44k``:

    python tools/prepare_bair.py --raw downloads/bair_robot_pushing_dataset_v0.tar --out data/bair
    python tools/prepare_bair.py --raw downloads --out data/bair

The other camera:

    python tools/prepare_bair.py --raw downloads --out data/bair-main --camera main

Actions and gripper positions too, one row of ``actions.csv`` per frame:

    python tools/prepare_bair.py --raw downloads --out data/bair --actions

As the converter of SVG (Denton and Fergus, ICML 2018) writes them, each frame stretched to its own range, for use with
models that were trained on that:

    python tools/prepare_bair.py --raw downloads --out data/bair-stretched --stretch
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from preparation import (
    Frames,
    Report,
    apart,
    files_below,
    keep_options,
    main,
    parser,
    progress,
    require,
    write_frame_folder,
)
from tfrecord import DamagedRecord, Feature, parse_example, records

from vidgen.atomic import atomic_file
from vidgen.cli.main import Parser
from vidgen.errors import UserError

NUM_FRAMES = 30
SHAPE = (64, 64, 3)
PARTS = ("train", "test")
STATES = {"action": 4, "endeffector_pos": 3}
"""Field of the records -> values per frame."""

OBTAIN = "Get bair_robot_pushing_dataset_v0.tar from https://sites.google.com/view/sna-visual-mpc/"
_NAME = re.compile(r"(?:.*/)?(?P<part>train|test)/traj_(?P<first>\d+)_to_(?P<last>\d+)\.tfrecords")


@dataclass(frozen=True)
class Shard:
    """A file of records, in a folder or in a tar archive.

    Args:
        name: its path, for messages.
        part: ``train`` or ``test``.
        stem: what the names of its videos begin with, ``traj_00000_00255``.
        path: the file, or the archive.
        member: where the file is one of an archive, its entry there.
    """

    name: str
    part: str
    stem: str
    path: Path
    member: tarfile.TarInfo | None = None

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file, open for reading."""
        with ExitStack() as stack:
            if self.member is None:
                yield stack.enter_context(open(self.path, "rb"))
                return
            file = stack.enter_context(tarfile.open(self.path, mode="r:")).extractfile(self.member)
            assert file is not None  # only regular files become shards
            yield stack.enter_context(file)  # type: ignore[arg-type]


def build_parser() -> Parser:
    """The command line."""
    made = parser("prepare_bair", "Prepare the BAIR robot pushing data set.", "--raw downloads --out data/bair")
    made.add_argument("--camera", choices=["aux1", "main"], default="aux1", help="which camera (default: %(default)s)")
    made.add_argument("--actions", action="store_true", help="write actions.csv: action and gripper position per frame")
    made.add_argument(
        "--stretch",
        action="store_true",
        help="stretch each frame to its own range, as the converter of SVG does",
    )
    return made


def prepare(args: argparse.Namespace) -> Report:
    """Write each trajectory as a folder of frames.

    Args:
        args: of :func:`build_parser`.

    Raises:
        UserError: the raw data are not there, or nothing could be read.
    """
    apart(args.raw, args.out)
    report = Report(args.out)
    shards = find_shards(args.raw, report)
    keep_options(args.out, camera=args.camera, stretch=args.stretch)
    with ExitStack() as stack:
        table = stack.enter_context(atomic_file(args.out / "actions.csv")) if args.actions else None
        if table:
            table.write(_header())
        for shard in progress(shards, "files"):
            _prepare_shard(shard, args, table, report)
        if not report.made:
            raise UserError(f"{str(args.raw)!r} holds no record that can be read. {OBTAIN}")
    report.tell_config("frame_folder", parts=PARTS)
    return report


def find_shards(raw: Path, report: Report) -> list[Shard]:
    """The record files of the raw download, the training part first, in the order of their numbers.

    Args:
        raw: the tar archive, a folder with it, or the folder that it unpacks to.
        report: takes an archive that is cut off; what comes before is used.

    Raises:
        UserError: there are none.
    """
    require(raw, "the raw download", OBTAIN)
    archive = raw if raw.is_file() else raw / "bair_robot_pushing_dataset_v0.tar"
    found: dict[tuple[str, str], Shard] = {}
    if archive.is_file():
        for member in _members(archive, report):
            _add(found, f"{archive}:{member.name}", member.name, archive, member)
    if raw.is_dir():
        for path in files_below(raw):
            # The name of a link counts, not that of what it leads to, unless --raw itself is a link of another name.
            spelt = os.path.abspath(path)
            if not _NAME.fullmatch(spelt):
                spelt = os.path.join(os.path.realpath(path.parent), path.name)
            _add(found, str(path), spelt, path, None)
    if not found:
        raise UserError(
            f"{str(raw)!r} holds neither bair_robot_pushing_dataset_v0.tar nor files as "
            f"softmotion30_44k/train/traj_256_to_511.tfrecords. {OBTAIN}"
        )
    return [found[key] for key in sorted(found, key=lambda key: (PARTS.index(key[0]), key[1]))]


def _add(found: dict[tuple[str, str], Shard], name: str, path: str, file: Path, member: tarfile.TarInfo | None) -> None:
    fits = _NAME.fullmatch(path)
    if fits:
        stem = f"traj_{int(fits['first']):05d}_{int(fits['last']):05d}"
        found[fits["part"], stem] = Shard(name, fits["part"], stem, file, member)


def _members(archive: Path, report: Report) -> list[tarfile.TarInfo]:
    found = []
    try:
        with tarfile.open(archive, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    found.append(member)
    except tarfile.TarError as error:
        if not found:
            raise UserError(f"{str(archive)!r} is no tar archive, or a damaged one ({error}). {OBTAIN}") from error
        report.skip(archive, f"it is damaged after {found[-1].name} ({error}); get it anew")
    return found


def _prepare_shard(shard: Shard, args: argparse.Namespace, table: BinaryIO | None, report: Report) -> None:
    try:
        with shard.opened() as file:
            for record in records(file):
                video = f"{shard.part}/{shard.stem}_{record.position:03d}"
                if table is None and (args.out / video).is_dir():
                    report.count(shard.part)
                    continue
                try:
                    example = parse_example(record.read())
                    frames = frames_of(example, args.camera, args.stretch)
                    rows = rows_of(example, video) if table else b""
                except DamagedRecord as error:
                    report.skip(f"{shard.name}#{record.position}", str(error))
                    continue
                write_frame_folder(args.out / video, frames)
                if table:
                    table.write(rows)
                report.count(shard.part)
    except (DamagedRecord, tarfile.TarError) as error:
        report.skip(shard.name, str(error))


def frames_of(example: dict[str, Feature], camera: str, stretched: bool) -> list[Frames]:
    """The frames of a record.

    Args:
        example: the features.
        camera: ``aux1`` or ``main``.
        stretched: whether each frame is stretched to its own range.

    Returns:
        30 frames, uint8 ``(64, 64, 3)``.

    Raises:
        DamagedRecord: a frame is missing or of another size.
    """
    frames = []
    for index in range(NUM_FRAMES):
        name = f"{index}/image_{camera}/encoded"
        value = example.get(name)
        if not isinstance(value, list) or len(value) != 1:
            raise DamagedRecord(f"it has no image {name!r}")
        if len(value[0]) != np.prod(SHAPE):
            raise DamagedRecord(f"{name!r} has {len(value[0])} bytes, not the {np.prod(SHAPE)} of a frame of 64×64")
        frame = np.frombuffer(value[0], np.uint8).reshape(SHAPE)
        frames.append(stretch(frame) if stretched else frame)
    return frames


def stretch(frame: Frames) -> Frames:
    """A frame with its darkest value moved to 0 and its brightest to 255, over all channels.

    SVG's converter hands floats to ``scipy.misc.imsave`` of scipy < 1.2, which did this; the arithmetic is its own, in
    float64 from values in [0, 1], so that the bytes are the same.

    Args:
        frame: uint8, any shape.
    """
    values = frame / 255.0
    spread = values.max() - values.min()
    scaled = (values - values.min()) * (255.0 / (spread or 1.0))
    return (scaled.clip(0, 255) + 0.5).astype(np.uint8)


def rows_of(example: dict[str, Feature], video: str) -> bytes:
    """The lines of ``actions.csv`` for a record.

    Args:
        example: the features.
        video: the path that the lines begin with.

    Raises:
        DamagedRecord: an action or position is missing or has another number of values.
    """
    lines = []
    for index in range(NUM_FRAMES):
        cells = [video, str(index)]
        for name, size in STATES.items():
            value = example.get(f"{index}/{name}")
            if not isinstance(value, np.ndarray) or value.dtype != np.float32 or len(value) != size:
                raise DamagedRecord(f"it has no {size} numbers '{index}/{name}'")
            cells += [str(number) for number in value]
        lines.append(",".join(cells) + "\n")
    return "".join(lines).encode()


def _header() -> bytes:
    return (
        ",".join(["path", "frame", *(f"{name}_{i}" for name, n in STATES.items() for i in range(n))]) + "\n"
    ).encode()


if __name__ == "__main__":
    sys.exit(main(build_parser(), prepare))
