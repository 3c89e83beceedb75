"""Renders MUGEN, clips of the game CoinRun with captions of Hayes et al. (ECCV 2022), as TATS is trained on them.

The data set stores states of the game, not pictures: about 375,000 clips of 3.2 seconds (96 frames), a JSON file each.
Obtain it from https://mugen-org.github.io/download, and the pictures of the game, a folder ``assets`` with
``backgrounds``, ``kenney`` and ``kenneyLarge``, there or from the code of MUGEN or of TATS (``tats/coinrun/assets``).
The bubble around the character, ``bubble_shield.png``, lies beside these folders; TATS' repository lacks it, and only
clips that show it need it.

``--raw`` is a folder with ``train.json``, ``val.json`` and ``test.json``, which list clips and captions, or with
folders of clips of these names. Captions of such folders come from ``--captions``, a JSON file
``{name of the clip: [texts]}``. Each clip becomes ``<out>/<part>/<name>.mp4``, without loss, and
``<out>/texts.jsonl`` gets the captions:

    python tools/prepare_mugen.py --raw mugen --assets mugen/assets --out data/mugen

Captions written by the program that describes what happens in the game, smaller pictures, half of the work (another
process has ``--share 2/2``)::

    python tools/prepare_mugen.py --raw mugen --out data/mugen_128 --size 128 --text auto --share 1/2

A clip without a caption of the kind asked for is left out. Frames are those of TATS' loader: pictures are opaque
wherever they are not quite transparent. Other characters than Mugen, maps of what each pixel shows, sound, and the
program that writes captions are not here; automatic captions are those that the download lists.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from mugen import Pictures, Renderer, read_clip
from numpy.typing import NDArray
from preparation import DamagedFile, Report, apart, files_below, keep_options, main, parser, progress, require

from vidgen.atomic import atomic_file
from vidgen.cli.main import Parser
from vidgen.data.stored import counted
from vidgen.errors import UserError

OBTAIN = "Get it from https://mugen-org.github.io/download"
PARTS = ("train", "val", "test")
RATE = 30
KEY_FRAME_EVERY = 12


@dataclass(frozen=True)
class Item:
    """A clip of the data set.

    Args:
        part: ``train``, ``val`` or ``test``.
        name: what it is called.
        file: its JSON; None where the download lacks it.
        texts: its captions of the kind asked for.
        listed: what the download calls the file.
    """

    part: str
    name: str
    file: Path | None
    texts: tuple[str, ...]
    listed: str


def build_parser() -> Parser:
    """The command line of this tool."""
    made = parser("prepare_mugen", "Render MUGEN.", "--raw mugen --assets mugen/assets --out data/mugen")
    made.add_argument("--assets", type=Path, metavar="DIR", help="the pictures of the game (default: assets in --raw)")
    made.add_argument("--captions", type=Path, metavar="JSON", help="{name of the clip: [texts]}, for folders of clips")
    made.add_argument("--size", type=int, default=256, metavar="N", help="height and width (default: 256)")
    made.add_argument(
        "--text",
        choices=("manual", "auto", "both", "none"),
        default="manual",
        help="captions written by people (default) or by a program, both, or none, which takes clips without any too",
    )
    made.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all that there are")
    made.add_argument(
        "--share", default="1/1", metavar="I/N", help="only every N-th clip, from the I-th (default: 1/1)"
    )
    return made


def prepare(args: argparse.Namespace) -> Report:
    """Write ``<out>/<part>/<name>.mp4`` and ``<out>/texts.jsonl``.

    Args:
        args: what :func:`build_parser` parses.

    Returns:
        How many clips each part has got, and which were skipped.

    Raises:
        UserError: options contradict each other, clips or pictures are missing, or none of them could be used.
    """
    apart(args.raw, args.out)
    if not 16 <= args.size <= 1024:
        raise UserError(f"--size is {args.size}; it must be at least 16 and at most 1024")
    first, every = _share(args.share)
    raw = require(args.raw, "the folder of MUGEN", OBTAIN)
    pictures = Pictures(require(args.assets or raw / "assets", "the folder of the game's pictures", OBTAIN))
    items = [item for part in args.parts for item in find_items(raw, part, args)]
    if not items:
        raise UserError(f"{str(raw)!r} holds neither {' nor '.join(f'{part}.json' for part in PARTS)}. {OBTAIN}")
    kept = [item for item in items if item.texts or args.text == "none"]
    if not kept:
        raise UserError(f"none of the {len(items)} clips has a caption of the kind --text {args.text}; choose another")
    keep_options(args.out, size=args.size, text=args.text)
    report = Report(args.out)
    for item in progress(kept[first::every], "clips"):
        if _render(item, args.out / item.part / f"{item.name}.mp4", pictures, args.size, report):
            report.count(item.part)
    if not report.made:
        raise UserError(f"none of the {len(kept[first::every])} clips could be rendered; get them anew. {OBTAIN}")
    lines = []
    if args.text != "none":
        _write_texts(args.out / "texts.jsonl", kept)
        lines.append(f"texts: {{file: {json.dumps(str(args.out / 'texts.jsonl'), ensure_ascii=False)}}}")
    report.tell_config("video_folder", *lines, parts=args.parts)
    if len(items) > len(kept):
        number = counted(len(items) - len(kept), "clip")
        print(f"left out {number} without a caption (--text {args.text})", file=sys.stderr)
    return report


def find_items(raw: Path, part: str, args: argparse.Namespace) -> list[Item]:
    """The clips of a part, in the order of the download; none where it has no such part.

    Raises:
        UserError: the list makes no sense, or captions are missing.
    """
    if (raw / f"{part}.json").is_file():
        return list(_listed(raw, part, args.text))
    files = sorted((raw / part).rglob("*.json"))
    if not files:
        return []
    captions: dict[str, Any] = {}
    if args.text != "none":
        if args.captions is None:
            raise UserError(
                f"{str(raw / part)!r} is a folder of clips without captions; give --captions JSON, or --text none"
            )
        captions = _json(args.captions)
    items = []
    for file in files:
        texts = captions.get(file.stem, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{str(args.captions)!r}, {file.stem!r}: the captions must be a list of texts")
        items.append(Item(part, file.stem, file, tuple(text for text in texts if text.strip()), file.name))
    return items


def _listed(raw: Path, part: str, kind: str) -> Iterator[Item]:
    """The clips that ``<part>.json`` lists."""
    table = raw / f"{part}.json"
    content = _json(table)
    below: list[Path] | None = None
    for number, entry in enumerate(content.get("data", [])):
        try:
            listed = str(entry["video"]["json_file"])
            annotations = [(str(note["type"]), str(note["text"])) for note in entry.get("annotations", [])]
            name = Path(listed).stem
            # A game may be cut into clips, which then have names of their own.
            name = re.sub(r"[^\w.-]", "_", str(entry["video"].get("id", name)))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{str(table)!r}: entry {number} is not as in MUGEN's lists; get it anew") from error
        places = (raw / str((content.get("metadata") or {}).get("data_folder", "")), raw, raw / part)
        file = next((place / listed for place in places if (place / listed).is_file()), None)
        if file is None:
            below = below if below is not None else [path for path in files_below(raw) if path.suffix == ".json"]
            file = next((path for path in below if str(path).endswith(f"/{listed}")), None)
        texts = tuple(text for type_, text in annotations if kind in (type_, "both") and text.strip())
        yield Item(part, name, file, texts, listed)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{str(path)!r} is not JSON; get it anew") from error
    if not isinstance(content, dict):
        raise UserError(f"{str(path)!r} holds no names and values; get it anew")
    return content


def _share(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"--share is {text!r}; it must be like 1/4, the first of four shares")
    return int(match[1]) - 1, int(match[2])


def _render(item: Item, target: Path, pictures: Pictures, size: int, report: Report) -> bool:
    if target.exists():
        return True
    if item.file is None:
        report.skip(item.listed, f"{item.part}.json names it, but it is not there")
        return False
    try:
        clip = read_clip(item.file)
        write_lossless(target, Renderer(clip, pictures, size).frames(), size)
    except DamagedFile as error:
        report.skip(item.file, str(error))
        return False
    return True


def write_lossless(path: Path, frames: Iterator[NDArray[np.uint8]], size: int) -> None:
    """Write a video that gives back the same frames, whole or not at all.

    Args:
        path: the file, MP4.
        frames: uint8 ``(size, size, 3)`` each.
        size: height and width, pixels.
    """
    with atomic_file(path) as file, av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264rgb", rate=Fraction(RATE))
        stream.width, stream.height, stream.pix_fmt = size, size, "rgb24"
        stream.options = {"qp": "0", "preset": "fast", "g": str(KEY_FRAME_EVERY), "threads": "1"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _write_texts(path: Path, items: Sequence[Item]) -> None:
    with atomic_file(path) as file:
        for item in items:
            line = {"path": f"{item.part}/{item.name}", "texts": list(item.texts)}
            file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main(build_parser(), prepare))
