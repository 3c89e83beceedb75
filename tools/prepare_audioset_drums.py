"""Prepares AudioSet-Drums, clips of drummers with the spectrogram of their sound, as TATS' audio models read them.

Videos of 90 frames, and for each a pickle of a NumPy array (90, 45, 17): a slice of the spectrogram for each frame,
with values from 0 to 1. Obtain ``AudioSet_Drums.zip`` by the link in the readme of https://github.com/songweige/TATS;
it holds the folders ``video`` and ``stft``, each with ``train`` and ``test``. Pickles are read without running what is
in them, and one that asks for anything but an array is skipped.

    python tools/prepare_audioset_drums.py --raw AudioSet_Drums --out data/drums

Copies of the videos on another disk:

    python tools/prepare_audioset_drums.py --raw AudioSet_Drums --out data/drums_copy --how copy

A video goes to ``<out>/<part>/<name>.mp4``, its spectrogram beside it to ``<name>.npy``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import get_args

import numpy as np
from array_pickle import read_array
from numpy.typing import NDArray
from preparation import How, Report, apart, main, parser, place_video, progress, require

from vidgen.atomic import atomic_file
from vidgen.cli.main import Parser
from vidgen.data.audio import SLACK
from vidgen.errors import UserError

OBTAIN = "Get AudioSet_Drums.zip by the link in the readme of https://github.com/songweige/TATS, and unpack it"
PARTS = ("train", "test")
SUFFIXES = (".pickle", ".pkl")


def build_parser() -> Parser:
    """The command line of this tool."""
    made = parser("prepare_audioset_drums", "Prepare AudioSet-Drums.", "--raw AudioSet_Drums --out data/drums")
    made.add_argument("--how", choices=get_args(How), default="link", help="link (default), copy or symlink the videos")
    return made


def prepare(args: argparse.Namespace) -> Report:
    """Write ``<out>/<part>/<name>.mp4`` and ``<out>/<part>/<name>.npy``.

    Args:
        args: what :func:`build_parser` parses.

    Returns:
        How many videos each part has got, and which were skipped.

    Raises:
        UserError: the raw data is not there, or none of it could be used.
    """
    apart(args.raw, args.out)
    require(args.raw / "stft", "the folder of spectrograms", OBTAIN)
    report = Report(args.out)
    for part in PARTS:
        folder = args.raw / "stft" / part
        pickles = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES)
        for path in progress(pickles, part):
            video = args.raw / "video" / part / f"{path.stem}.mp4"
            if not video.is_file():
                report.skip(path, f"{video} is not there")
            elif _convert(path, args.out / part / f"{path.stem}.npy", report) and place_video(
                video, args.out / part / video.name, args.how, report
            ):
                report.count(part)
    if not report.made:
        raise UserError(f"{str(args.raw)!r} holds no spectrogram with a video that can be used. {OBTAIN}")
    sound = json.dumps(str(args.out), ensure_ascii=False)
    report.tell_config("video_folder", "labels: {by: none}", f"audio: {{root: {sound}}}", parts=PARTS)
    return report


def _convert(source: Path, target: Path, report: Report) -> bool:
    if target.exists():
        return True
    try:
        array = checked(read_array(source))
    except UserError as error:
        report.skip(source, str(error).removeprefix(f"{source}: "))
        return False
    with atomic_file(target) as file:
        np.save(file, array.astype(np.float32))
    return True


def checked(array: NDArray[np.floating]) -> NDArray[np.floating]:
    """A spectrogram ``(T, F, W)`` with values in [0, 1].

    Raises:
        UserError: it is none.
    """
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"its array has the shape {array.shape}; it should be (frames, frequencies, times)")
    low, high = float(array.min()), float(array.max())
    if not (low >= -SLACK and high <= 1 + SLACK):
        raise UserError(f"its values span {low:g} to {high:g}; they should lie in 0 .. 1")
    return array


if __name__ == "__main__":
    sys.exit(main(build_parser(), prepare))
