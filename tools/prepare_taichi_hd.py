"""Prepare TaiChi-HD, the clips of people doing tai chi of Siarohin et al. (first order motion model, NeurIPS 2019).

The authors publish which frames of which YouTube videos are used, and which part of these frames: 3049 clips for
training and 285 for testing, out of 280 videos. Obtain ``taichi-metadata.csv`` from
https://github.com/AliaksandrSiarohin/first-order-model/tree/master/data/taichi-loading, which also has a script that
downloads the videos as ``<video id>.mp4``. Its columns are ``video_id,start,end,bbox,fps,width,height,partition``:
frames ``start`` to ``end - 1`` at ``fps`` frames per second, cut to the box ``left-top-right-bottom`` of a video of
``width`` x ``height`` pixels. A video that was obtained at another size or rate is cut at the scaled box and times.
A clip goes on to the end of a video that turns out too short for it.

256 x 256 pixels::

    python tools/prepare_taichi_hd.py --raw youtube-taichi --metadata taichi-metadata.csv --out data/taichi_hd

Another size, the metadata lying in ``--raw``::

    python tools/prepare_taichi_hd.py --raw youtube-taichi --out data/taichi_hd_128 --resolution 128

Some of the videos are not on YouTube any more. ``missing.txt`` in ``--out`` lists the ids of those that are not in
``--raw``; run the tool again when more have been obtained. Crops are resized with Pillow's Hamming filter, which of its
filters comes closest to the blurred linear interpolation of scikit-image that the authors use. Folders are named
``<video id>_<start>_<end>``, with six digits each; the authors write ``#`` for the underscores.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from PIL import Image
from preparation import Frames, Report, apart, keep_options, main, parser, progress, read_lines, require, write_frame

from vidgen.atomic import atomic_file, atomic_folder
from vidgen.cli.main import Parser
from vidgen.data.decoding import CONTAINERS, Unreadable, frames_of
from vidgen.errors import UserError

METADATA = "https://github.com/AliaksandrSiarohin/first-order-model/tree/master/data/taichi-loading"
COLUMNS = ("video_id", "start", "end", "bbox", "fps", "width", "height", "partition")
SUFFIXES = (".mp4", ".mkv", ".webm")


@dataclass(frozen=True)
class Clip:
    """A row of the metadata.

    Args:
        video: the YouTube id.
        start: number of the first frame, from 0, at ``fps``.
        end: number of the frame after the last one.
        box: left, top, right, bottom in pixels of a video of ``size``.
        fps: frames per second.
        size: width and height in pixels.
        part: ``train`` or ``test``.
    """

    video: str
    start: int
    end: int
    box: tuple[int, int, int, int]
    fps: float
    size: tuple[int, int]
    part: str

    @property
    def name(self) -> str:
        """Name of the clip's folder."""
        return f"{self.video}_{self.start:06d}_{self.end:06d}"

    def has(self, frame: int, rate: float | None) -> bool:
        """Whether a frame of the video, at its own frame rate, lies in the clip."""
        return self.start * self._same(rate) <= frame * self.fps and not self.is_over(frame, rate)

    def is_over(self, frame: int, rate: float | None) -> bool:
        """Whether a frame of the video lies behind the clip."""
        return frame * self.fps >= self.end * self._same(rate)

    def _same(self, rate: float | None) -> float:
        # The metadata writes 29.97 for 30000/1001 and 23.97 for 24000/1001. Taken for different rates, the two would
        # drift apart by whole frames.
        return rate if rate and abs(rate / self.fps - 1) > 5e-4 else self.fps

    def crop(self, frame: Frames, resolution: int) -> Frames:
        """The clip's part of a frame.

        Args:
            frame: uint8 ``(H, W, 3)`` of the video as it was obtained.
            resolution: height and width of the result in pixels.

        Returns:
            uint8 ``(resolution, resolution, 3)``.
        """
        scales = (frame.shape[1] / self.size[0], frame.shape[0] / self.size[1]) * 2
        left, top, right, bottom = (int(edge * scale) for edge, scale in zip(self.box, scales, strict=True))
        part = Image.fromarray(frame[top : max(bottom, top + 1), left : max(right, left + 1)])
        return np.asarray(part.resize((resolution, resolution), Image.Resampling.HAMMING))


def build_parser() -> Parser:
    """The command line of this tool."""
    made = parser("prepare_taichi_hd", "Prepare TaiChi-HD.", "--raw youtube-taichi --out data/taichi_hd")
    made.add_argument("--metadata", type=Path, metavar="CSV", help="default: taichi-metadata.csv in --raw")
    made.add_argument("--resolution", type=int, default=256, metavar="N", help="height and width (default: 256)")
    return made


def prepare(args: argparse.Namespace) -> Report:
    """Write ``<out>/{train,test}/<video id>_<start>_<end>/00000.png`` and so on, and ``<out>/missing.txt``.

    Args:
        args: what :func:`build_parser` parses.

    Returns:
        How many clips each part has got, and which videos or clips were skipped.

    Raises:
        UserError: the metadata or all videos are missing, or none of them could be used.
    """
    if args.resolution < 1:
        raise UserError(f"--resolution is {args.resolution}; it must be at least 1")
    raw = require(args.raw, "the folder of YouTube videos", f"{METADATA} has a script that downloads them")
    apart(raw, args.out)
    table = args.metadata or raw / "taichi-metadata.csv"
    clips = read_clips(require(table, "the table of clips", f"Get it from {METADATA}"))
    keep_options(args.out, resolution=args.resolution)
    by_video: dict[str, list[Clip]] = {}
    for clip in clips:
        by_video.setdefault(clip.video, []).append(clip)
    found = {name: path for name in by_video if (path := _find(raw, name)) is not None}
    _list_missing(args.out / "missing.txt", [name for name in by_video if name not in found], len(by_video))
    if not found:
        raise UserError(f"{str(raw)!r} holds no video of the metadata; it should hold <video id>.mp4 of YouTube videos")
    report = Report(args.out)
    for name in progress(list(found), "videos"):
        _prepare_video(found[name], by_video[name], args, report)
    if not report.made:
        raise UserError(f"none of the videos in {str(raw)!r} can be used; download them anew")
    report.tell_config("frame_folder", parts=("train", "test"))
    return report


def read_clips(table: Path) -> list[Clip]:
    """Read the metadata.

    Raises:
        UserError: a column is missing, or a row makes no sense.
    """
    lines = read_lines(table)
    rows = csv.DictReader(lines)
    lacking = [column for column in COLUMNS if column not in (rows.fieldnames or ())]
    if lacking:
        raise UserError(f"{str(table)!r} has no column {', '.join(lacking)}; get the file of that name from {METADATA}")
    return [_clip(row, f"{str(table)!r}, line {number}") for number, row in enumerate(rows, start=2)]


def _clip(row: dict[str, str], where: str) -> Clip:
    try:
        if not re.fullmatch(r"\d+(-\d+){3}", row["bbox"]):
            raise ValueError
        left, top, right, bottom = (int(edge) for edge in row["bbox"].split("-"))
        clip = Clip(
            video=row["video_id"],
            start=int(row["start"]),
            end=int(row["end"]),
            box=(left, top, right, bottom),
            fps=float(row["fps"]),
            size=(int(row["width"]), int(row["height"])),
            part=row["partition"],
        )
    except (TypeError, ValueError):
        raise UserError(f"{where}: it should be like u6rJiF-gPx8,80,300,118-82-508-472,29.97,640,480,train") from None
    if not re.fullmatch(r"[\w-]+", clip.video):
        raise UserError(f"{where}: video_id is {clip.video!r}; it should be the id of a YouTube video")
    if clip.part not in ("train", "test"):
        raise UserError(f"{where}: partition is {clip.part!r}; it should be train or test")
    if not (0 <= clip.start < clip.end and clip.fps > 0):
        raise UserError(f"{where}: frames {clip.start} to {clip.end} at {clip.fps:g} per second are no clip")
    if not (left < min(right, clip.size[0]) and top < min(bottom, clip.size[1])):
        raise UserError(f"{where}: bbox {row['bbox']} is no box in {clip.size[0]} x {clip.size[1]} pixels")
    return clip


def _find(raw: Path, video: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := raw / f"{video}{suffix}").exists()), None)


def _list_missing(path: Path, missing: list[str], number: int) -> None:
    if not missing:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as file:
        file.write("".join(f"{video}\n" for video in missing).encode())
    print(f"{len(missing)} of {number} videos are missing; {path} lists them", file=sys.stderr)


def _prepare_video(path: Path, clips: list[Clip], args: argparse.Namespace, report: Report) -> None:
    folders = {clip: args.out / clip.part / clip.name for clip in clips}
    todo = [clip for clip in clips if not folders[clip].is_dir()]
    try:
        if todo:
            length = cut(path, {clip: folders[clip] for clip in todo}, args.resolution)
    except Unreadable as error:
        report.skip(path, str(error))
    else:
        for clip in todo:
            if not folders[clip].is_dir():
                report.skip(f"{path} from frame {clip.start}", f"the video ends after {length} frames")
    for clip, folder in folders.items():
        if folder.is_dir():
            report.count(clip.part)


def cut(path: Path, folders: dict[Clip, Path], resolution: int) -> int:
    """Write clips of a video, which is decoded once; each appears when it is complete.

    Args:
        path: the video.
        folders: where each clip goes.
        resolution: height and width of the written frames in pixels.

    Returns:
        The number of frames decoded.

    Raises:
        Unreadable: the video is damaged; clips that were complete by then are kept.
    """
    rate = frame_rate(path)
    waiting = sorted(folders, key=lambda clip: clip.start)
    running: list[_Writer] = []
    number = 0
    with ExitStack() as stack:
        for number, frame in enumerate(frames_of(path), start=1):
            for clip in [clip for clip in waiting if clip.has(number - 1, rate)]:
                waiting.remove(clip)
                running.append(_Writer(clip, folders[clip], stack))
            for writer in list(running):
                writer.write(frame, resolution)
                if writer.clip.is_over(number, rate):
                    writer.close()
                    running.remove(writer)
            if not waiting and not running:
                break
    return number


class _Writer:
    """A clip being written. It appears when closed, or when the stack ends without an error, and else never."""

    def __init__(self, clip: Clip, folder: Path, stack: ExitStack) -> None:
        self.clip = clip
        self._stack = stack.enter_context(ExitStack())
        self._folder = self._stack.enter_context(atomic_folder(folder))
        self._written = 0

    def write(self, frame: Frames, resolution: int) -> None:
        write_frame(self._folder, self._written, self.clip.crop(frame, resolution))
        self._written += 1

    def close(self) -> None:
        self._stack.close()


def frame_rate(path: Path) -> float | None:
    """Frames per second of a video; None where the file does not say."""
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"}
    try:
        with av.open(str(path), options=options) as container:
            rate = container.streams.video[0].average_rate
    except (av.FFmpegError, OSError, IndexError):
        return None  # decoding tells what is wrong with the file
    return float(rate) if rate else None


if __name__ == "__main__":
    sys.exit(main(build_parser(), prepare))
