"""From what a user names, a folder, a file or a config, to a data set."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from vidgen.atomic import atomic_folder
from vidgen.cache import cache_dir
from vidgen.config import build_dataset, check_data, compose
from vidgen.config.compose import Config, parse_override
from vidgen.data.arrays import SUFFIXES as ARRAYS
from vidgen.data.dataset import VideoDataset
from vidgen.data.decoding import Unreadable
from vidgen.data.images import SUFFIXES as IMAGES
from vidgen.data.images import image_size
from vidgen.data.pack_files import PACK
from vidgen.data.tables import BESIDE, open_files
from vidgen.errors import UserError

LEAST_STRIP = 4
"""An image that is this many times as long as it is high is taken for a strip of frames."""
LOOKED_AT = 8
"""Images whose shape decides what a folder of images is."""

_KEY = re.compile(r"(?<![\w.])data\.(?=[a-z_])")
_MOVING_IMAGES = frozenset({".gif", ".webp"})


def open_videos(
    place: str,
    option: str,
    resolution: int | None = None,
    overrides: Iterable[str] = (),
    needed: Mapping[str, Any] | None = None,
    model: str | None = None,
) -> tuple[VideoDataset, bool]:
    """The videos that a user means.

    Args:
        place: a folder of videos, of frame folders, of strips or of arrays; a pack; a zip; an ``.npz`` or ``.npy``;
            or a config, whose data are meant.
        option: what named it (``"--real"``), for messages.
        resolution: height and width to which frames are brought; None leaves them as they are stored, or as a config
            or pack has them.
        overrides: ``key=value`` for the config, or for the data set that was found (``name=frame_folder``).
        needed: settings of the data set that whoever uses the videos asks for, unless the user says otherwise; a
            config says otherwise.
        model: registry name of a model that they are for: of a config with stages, the data of the one that trains it
            are meant, else those of the first.

    Returns:
        The data set, and whether its frames are to be taken in their own sizes.

    Raises:
        UserError: there is nothing of that kind; messages name ``option``.
    """
    overrides = list(overrides)
    size = {} if resolution is None else {"resolution": resolution}
    if Path(place).suffix.lower() in (".yaml", ".yml"):
        try:
            config = with_data(compose(place, [f"data.{text}" for text in overrides]), size)
            stages = [name for name, part in config.stages if model and (part.get("model") or {}).get("name") == model]
            return dataset_of(config, stages[0] if stages else None), False
        except UserError as error:
            raise UserError(f"{option} {place}: {str(error).removeprefix(f'{place}: ')}") from None
    try:
        return _from_place(place, option, {**(needed or {}), **dict(map(parse_override, overrides)), **size})
    except UserError as error:
        raise UserError(_said_of(option, place, str(error))) from None


def _said_of(option: str, place: str, message: str) -> str:
    """A message about ``data.KEY`` in the words of the command line; the path in it stays as it is."""
    key = f"{option.removeprefix('--')}."
    said = place.join(_KEY.sub(key, part.replace("data.root", option)) for part in message.split(place))
    return said if option in said or key in said else f"{option}: {said}"


def dataset_of(config: Config, stage: str | None = None) -> VideoDataset:
    """The data set of a config, each of its videos whole.

    Raises:
        UserError: its data cannot be used.
    """
    data, _ = check_data(config, stage)
    return build_dataset(data)


def with_data(config: Config, given: Mapping[str, Any]) -> Config:
    """The config with dotted keys of its data set to other values, in all its stages."""
    if not given:
        return config
    stages = tuple((name, {**part, "data": merged(part.get("data") or {}, given)}) for name, part in config.stages)
    return replace(config, stages=stages)


def _from_place(place: str, option: str, given: dict[str, Any]) -> tuple[VideoDataset, bool]:
    path = unpacked(Path(place).expanduser())
    name = given.pop("name", None) or layout_of(path, option)
    native = not {"resolution", "width"} & given.keys()
    folder = path.parent if path.is_file() else path  # a file is no folder, which a root has to be for the check
    section: dict[str, Any] = {"name": name, "root": str(folder), "num_frames": 1, "resolution": 1}
    section |= _size_of_pack(path) if name == "packed" else {"labels": {"by": "none"}}
    if not native:
        section.pop("width", None)
    if name == "packed":
        given.pop("channels", None)
    config = Config(Path(option), ((None, {"data": merged(section, given)}),), {})
    data, _ = check_data(config)
    return build_dataset({**data, "root": str(path)}), native


def unpacked(path: Path) -> Path:
    """What is at a path; of a zip of videos or arrays, which are read from files, a copy in the cache folder.

    Zips of images are read as they are. The copy is made once, under a name made from place, size and time of change.

    Raises:
        UserError: the zip is damaged, or there is no room.
    """
    if path.suffix.lower() != ".zip" or not path.is_file():
        return path
    files = open_files(path, "videos")
    if all(_suffix(name) in _KINDS["images"] | BESIDE - set(ARRAYS) for name in files.names):
        return path
    status = path.stat()
    key = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    folder = cache_dir() / "unpacked" / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    if not folder.is_dir():
        with atomic_folder(folder) as partial:
            for number, name in enumerate(files.names):
                target = partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(_content(files, number))
    return folder


def _content(files: Any, number: int) -> bytes:
    try:
        content: bytes = files.read(number)
        return content
    except Unreadable:
        return b""  # an empty file is skipped and reported as one that cannot be read


def _size_of_pack(path: Path) -> dict[str, Any]:
    try:
        spec = json.loads((path / PACK).read_bytes())["spec"]
        return {key: spec[key] for key in ("resolution", "width") if spec.get(key)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # whoever opens it says what is wrong
        return {}


def merged(section: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A section of a config with dotted keys put in their places."""
    whole = dict(section)
    for key, value in given.items():
        first, _, rest = key.partition(".")
        whole[first] = merged(whole.get(first) or {}, {rest: value}) if rest else value
    return whole


def layout_of(path: Path, option: str) -> str:
    """Which data set reads what lies at a path.

    Raises:
        UserError: nothing does.
    """
    if not path.exists():
        raise UserError(f"{option} {str(path)!r} does not exist; give a folder of videos, a pack, an .npz or a config")
    if path.is_file() and path.suffix.lower() in ARRAYS:
        return "arrays"
    if path.is_dir() and (path / PACK).is_file():
        return "packed"
    if path.is_file() and path.suffix.lower() != ".zip":
        raise UserError(
            f"{option} {str(path)!r} is a single file; give a folder of videos, a pack, a zip, an .npz or a config"
        )
    files = open_files(path, "videos")
    names = [name for name in files.names if _suffix(name) not in BESIDE - set(ARRAYS)]
    if not names:
        raise UserError(f"{option} {str(path)!r} holds no videos; give the folder that they lie in")
    kinds = {kind: [name for name in names if _suffix(name) in suffixes] for kind, suffixes in _KINDS.items()}
    rest = len(names) - sum(map(len, kinds.values()))
    if rest >= max(1, *map(len, kinds.values())):
        return "video_folder"
    if len(kinds["arrays"]) >= len(kinds["images"]):
        return "arrays"
    sizes = _sizes(files.take(kinds["images"][: 4 * LOOKED_AT]))
    strips = sizes and all(max(size) >= LEAST_STRIP * min(size) for size in sizes)
    return "frame_strips" if strips else "frame_folder"


_KINDS = {"images": frozenset(IMAGES) - _MOVING_IMAGES, "arrays": frozenset(ARRAYS)}


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _sizes(files: Any) -> list[tuple[int, int]]:
    """Sizes of the first images that can be read."""
    sizes: list[tuple[int, int]] = []
    for number in range(len(files)):
        try:
            sizes.append(image_size(files.read(number)))
        except Unreadable:
            continue
        if len(sizes) == LOOKED_AT:
            break
    return sizes
