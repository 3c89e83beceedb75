"""What the preparation tools share: their command line, raw downloads, archives, and output that appears whole or not.

A preparation tool turns the raw download of a data set, as its site delivers it, into a layout that vidgen reads. It
never downloads. It is a script ``tools/prepare_<dataset>.py`` with ``build_parser`` and ``prepare``, and ends in
:func:`main`. A tool that was interrupted is run again with the same arguments and goes on: what is there is kept.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import shutil
import signal
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm
from yaml import safe_load

from vidgen.atomic import atomic_file, atomic_folder, write_error
from vidgen.cli.main import Parser, explain
from vidgen.data.decoding import Unreadable, frames_of
from vidgen.errors import UserError

Frames = NDArray[np.uint8]
How = Literal["link", "copy", "symlink"]


def parser(prog: str, description: str, example: str) -> Parser:
    """A parser with what every tool takes: ``--raw``, ``--out``."""
    made = Parser(
        prog=prog,
        description=description,
        epilog=f"example:\n  python tools/{prog}.py {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--raw", required=True, type=Path, metavar="DIR", help="the raw download")
    made.add_argument("--out", required=True, type=Path, metavar="DIR", help="where the prepared data set goes")
    return made


def main(tool: Parser, prepare: Callable[[argparse.Namespace], Report], argv: Sequence[str] | None = None) -> int:
    """Parse, prepare, and say what was done or, in one line, what went wrong.

    Returns:
        Exit status: 0 when it worked, 2 after an error of the user, 130 after an interrupt, 141 when nobody reads the
        output any more, 143 after SIGTERM.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        print(prepare(tool.parse_args(argv)), flush=True)
        return 0
    except SystemExit as stop:  # argparse after --help
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt as stop:
        print(f"{tool.prog}: interrupted; run it again to go on", file=sys.stderr)
        return 143 if stop.args == (signal.SIGTERM,) else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return 141
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        print(f"{tool.prog}: error: {message}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not stop the clean-up
    raise KeyboardInterrupt(signal.SIGTERM)


@dataclass
class Report:
    """What a tool did.

    Args:
        out: the prepared data set.
        made: videos (or images) of each part, those included that were there from an earlier run.
        skipped: raw file and reason, for each that could not be used.
        how_to_use: the ``data:`` section of a config that reads the result, a few lines of YAML.
    """

    out: Path
    made: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    how_to_use: str = ""

    def count(self, part: str, number: int = 1) -> None:
        """Count what a part has got."""
        self.made[part] = self.made.get(part, 0) + number

    def skip(self, path: str | os.PathLike[str], reason: str) -> None:
        """Note and report a raw file that cannot be used; the run goes on."""
        self.skipped[str(path)] = reason
        tqdm.write(f"skipped {path}: {reason}", file=sys.stderr)

    def first_of(self, parts: Collection[str]) -> str:
        """The first of the parts that has got something; the first of all where none has."""
        return next((part for part in parts if self.made.get(part)), next(iter(parts)))

    def tell_config(self, name: str, *lines: str, parts: Collection[str] = ()) -> None:
        """Set the config that reads the result.

        Args:
            name: the data set's name in ``data:``.
            lines: more of its lines.
            parts: folders of ``out`` to choose from; the first that was made is named.
        """
        root = str(self.out)
        if not re.fullmatch(r"[\w./-]+", root) or safe_load(root) != root:  # 2024 would be a number
            root = json.dumps(root, ensure_ascii=False)
        split = [f"split: {{by: folder, folder: {self.first_of(parts)}}}"] if parts else []
        self.how_to_use = "\n".join([f"name: {name}", f"root: {root}", *split, *lines])

    def __str__(self) -> str:
        counts = ", ".join(f"{number} in {part}" for part, number in self.made.items())
        lines = [f"wrote {self.out}: {counts or 'nothing'}"]
        if self.skipped:
            lines.append(f"skipped {len(self.skipped)}: {', '.join(list(self.skipped)[:10])}")
        if self.how_to_use:
            lines += ["a config reads it with", *("  " + line for line in self.how_to_use.strip().splitlines())]
        return "\n".join(lines)


def require(path: Path, what: str, obtain: str) -> Path:
    """The path of something that the raw download must hold.

    Args:
        path: file or folder.
        what: what it is (``"the train/test lists"``).
        obtain: where and how to get it, a whole sentence without its full stop.

    Raises:
        UserError: it is not there.
    """
    if not path.exists():
        raise UserError(f"{str(path)!r} does not exist; it should be {what}. {obtain}")
    return path


def apart(raw: Path, out: Path) -> None:
    """Refuse to write into the raw download itself.

    Args:
        raw: the raw download.
        out: where the prepared data set goes; it may lie in a folder of ``raw``.

    Raises:
        UserError: they are the same place.
    """
    if raw.resolve() == out.resolve():
        raise UserError(f"--out {str(out)!r} is the raw download itself; choose another folder")


def files_below(folder: Path) -> Iterator[Path]:
    """The files in a folder and in all folders below it, also behind symbolic links, in a fixed order.

    Each folder is visited once, by its own path before any link to it, so links that lead in a circle do no harm.

    Args:
        folder: where to look; what is found begins with it.
    """
    seen: set[str] = set()
    waiting = [str(folder)]
    for start in waiting:  # grows by the links that are met
        for place_, folders, names in os.walk(start):
            real = os.path.realpath(place_)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            waiting += [path for path in (os.path.join(place_, name) for name in folders) if os.path.islink(path)]
            yield from (Path(place_, name) for name in sorted(names))


def progress(items: Sequence, what: str) -> Iterator:
    """Iterate with a progress bar on a terminal, and silently elsewhere."""
    return iter(tqdm(items, desc=what, unit="", disable=not sys.stderr.isatty(), leave=False))


def place(source: Path, target: Path, how: How = "link") -> None:
    """Put a raw file, unchanged, where the layout wants it; one that is there already is kept.

    Args:
        source: existing file.
        target: its new path; folders are made.
        how: ``link`` makes a hard link (the same bytes under a second name) and copies where the file system has
            none; ``copy`` always copies; ``symlink`` makes a symbolic link to the absolute path.

    Raises:
        UserError: the disk is full, or writing is not possible.
    """
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if how == "symlink":
            with suppress(FileNotFoundError):
                target.unlink()  # a link that leads nowhere
            target.symlink_to(source.resolve())
            return
        if how == "link":
            with suppress(OSError):
                os.link(source.resolve(), target)
                return
        with open(source, "rb") as raw, atomic_file(target) as file:
            shutil.copyfileobj(raw, file, 2**20)
    except OSError as error:
        raise write_error(target, error) from error


def place_video(source: Path, target: Path, how: How, report: Report) -> bool:
    """Put a raw video where the layout wants it, unless its first frame cannot be decoded; see :func:`place`.

    Args:
        source: the raw video.
        target: its new path; where it exists, nothing is read or written.
        how: see :func:`place`.
        report: takes a video that is damaged.

    Returns:
        Whether it is in place.

    Raises:
        UserError: the disk is full, or writing is not possible.
    """
    if target.exists():
        return True
    try:
        with closing(frames_of(source)) as frames:
            reason = "it has no frame" if next(frames, None) is None else ""
    except Unreadable as error:
        reason = str(error)
    if reason:
        report.skip(source, reason)
        return False
    place(source, target, how)
    return True


def write_frame_folder(folder: Path, frames: Iterable[Frames], quality: int | None = None) -> int:
    """Write a video as a folder of lossless images, ``00000.png`` and so on, whole or not at all.

    Args:
        folder: the video; where it exists, nothing is read or written.
        frames: uint8 ``(H, W, 3)`` or ``(H, W)`` each.
        quality: write JPEG files (``00000.jpg``) of this quality, 1 to 95, instead.

    Returns:
        The number of frames written, or found.

    Raises:
        UserError: the disk is full, or writing is not possible.
    """
    if folder.is_dir():
        return sum(1 for _ in folder.iterdir())
    number = 0
    with atomic_folder(folder) as place_:
        for frame in frames:
            write_frame(place_, number, frame, quality)
            number += 1
    return number


def write_frame(folder: Path, number: int, frame: Frames, quality: int | None = None) -> None:
    """Write one frame of a frame folder.

    Args:
        folder: existing folder.
        number: number of the frame, from 0.
        frame: uint8 ``(H, W, 3)`` or ``(H, W)``.
        quality: of a JPEG file; without it the file is a PNG.
    """
    image = Image.fromarray(np.ascontiguousarray(frame))
    if quality is None:
        image.save(folder / f"{number:05d}.png")
    else:
        image.save(folder / f"{number:05d}.jpg", quality=quality)


def keep_options(out: Path, *names: str, **options: object) -> None:
    """Refuse to go on with other options in a folder that an earlier run began to fill.

    What is there is kept, so other options would mix two versions of the data set.

    Args:
        out: the prepared data set; the options are kept in a hidden file in it.
        names: files that are going to be written; unless an earlier run began ``out``, they must not be there.
        options: name and value of each option that changes what is written.

    Raises:
        UserError: the folder was begun with other options, holds such a file, or cannot be written to.
    """
    file = out / ".options"
    lines = [f"{name}: {value}" for name, value in options.items()]
    if not file.exists():
        for name in names:
            if (out / name).exists():
                raise UserError(f"{str(out)!r} holds {name} of unknown origin; choose another --out")
        with atomic_file(file) as opened:
            opened.write(("\n".join(lines) + "\n").encode())
        return
    before = read_lines(file)
    for line in (line for line in [*before, *lines] if (line in before) != (line in lines)):
        name = line.partition(":")[0]
        now = f"has {options[name]}" if name in options else "without it"
        begun = f"with {line}" if line in before else f"without {name}"
        raise UserError(f"{str(out)!r} was begun {begun}, this run {now}; use the same or another --out")


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a zip or tar archive, whole or not at all; one unpacked already is left alone.

    Args:
        archive: ``.zip``, ``.tar``, ``.tar.gz``, ``.tgz``.
        folder: where its contents go.

    Returns:
        ``folder``.

    Raises:
        UserError: the archive is damaged, of another kind, or holds a path that leads outside ``folder``.
    """
    if folder.is_dir():
        return folder
    with atomic_folder(folder) as partial:
        try:
            _extract(archive, partial)
        except _DAMAGED as error:
            raise UserError(f"{str(archive)!r} is damaged ({error}); get it anew") from error
    return folder


_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError)


def _extract(archive: Path, folder: Path) -> None:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for name in packed.namelist():
                _check_member(archive, name)
            packed.extractall(folder)
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            for member in tar:
                _check_member(archive, member.name)
                tar.extract(member, folder, filter="data")
            while tar.fileobj.read(2**20):  # the checksum of a gzip file is looked at when its end is read
                pass
    else:
        with open(archive, "rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise zipfile.BadZipFile("its end is missing")
        raise UserError(f"{str(archive)!r} is no zip or tar archive; unpack it yourself and give the folder")


def _check_member(archive: Path, name: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{str(archive)!r} holds the path {name!r}, which leads outside; it is not the original")


class DamagedFile(Exception):
    """A raw file that cannot be used; the text is the reason."""


@dataclass(frozen=True)
class RawFile:
    """A file of the raw download, unpacked or in a zip archive.

    Args:
        path: the file, or the archive that holds it.
        member: its name in the archive; empty where it is unpacked.
    """

    path: Path
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.member}" if self.member else str(self.path)

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """A path where it can be read; the file of an archive lies there only until the block ends.

        Raises:
            DamagedFile: the archive is damaged there.
        """
        if not self.member:
            yield self.path
            return
        with tempfile.TemporaryDirectory() as place_:
            unpacked = Path(place_) / PurePosixPath(self.member).name
            try:
                with (
                    zipfile.ZipFile(self.path) as packed,
                    packed.open(self.member) as member,
                    open(unpacked, "wb") as file,
                ):
                    shutil.copyfileobj(member, file, 2**20)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                raise DamagedFile(f"the archive is damaged there ({error})") from error
            yield unpacked


def find_raw(raw: Path, pattern: re.Pattern[str], archives: Sequence[str], report: Report) -> dict[str, RawFile]:
    """The raw files whose name fits a pattern, in any folder and in the zip archives.

    Args:
        raw: the raw download.
        pattern: what the whole name, without folders, has to match.
        archives: names of the zip archives to look into; an archive that is damaged is skipped.
        report: takes what is skipped.

    Returns:
        Name -> file, sorted by name; an unpacked file stands before one in an archive.
    """
    found: dict[str, RawFile] = {}
    for name in archives:
        if not (raw / name).is_file():
            continue
        try:
            with zipfile.ZipFile(raw / name) as packed:
                members = [member for member in packed.namelist() if pattern.fullmatch(PurePosixPath(member).name)]
        except zipfile.BadZipFile as error:
            report.skip(raw / name, f"it is a damaged zip archive ({error}); get it anew")
            continue
        found |= {PurePosixPath(member).name: RawFile(raw / name, member) for member in members}
    for path in files_below(raw):
        if pattern.fullmatch(path.name) and path.is_file():
            found[path.name] = RawFile(path)
    return dict(sorted(found.items()))


def find_actions(
    raw: Path,
    pattern: re.Pattern[str],
    actions: Sequence[str],
    action_of: Callable[[str], str],
    like: str,
    obtain: str,
    report: Report,
) -> dict[str, RawFile]:
    """The videos of some actions, from folders or from one zip per action.

    Args:
        raw: the download.
        pattern: what names of videos are like.
        actions: those wanted.
        action_of: name of a video -> its action.
        like: name of a video as an example, with ``{}`` for the action.
        obtain: see :func:`require`.
        report: takes what is damaged.

    Raises:
        UserError: an action has no video.
    """
    files = find_raw(raw, pattern, [f"{action}.zip" for action in actions], report)
    files = {name: file for name, file in files.items() if action_of(name) in actions}
    for action in actions:
        if not any(action_of(name) == action for name in files):
            raise UserError(
                f"{str(raw)!r} holds neither {action}.zip nor videos as {like.format(action)}. {obtain}, or name the"
                " actions that you have with --actions"
            )
    return files


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without line ends and empty lines.

    Raises:
        UserError: it cannot be read, or is not text.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
        raise UserError(f"{str(path)!r} cannot be read: {reason}") from error
