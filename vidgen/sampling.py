"""Samples of a model as files in a folder: any number and length, in bounded memory, on any number of processes.

Video n is a function of (weights, seed, n, settings), and of the context where there is one. So the folder is the same
whatever the batch size and the number of processes, a file that exists never has to be made again, and ``samples.json``
tells whose samples the folder holds. Models whose videos depend on each other make them in groups that depend on
nothing else, see :func:`grouped`. Long videos are made and written chunk after chunk, where the model streams.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vidgen.atomic import PARTIAL_SUFFIX, atomic_file, write_error
from vidgen.comparison import Comparison, Footage
from vidgen.errors import UserError
from vidgen.media import Rounding, VideoFile, check_format, file_name, grid, to_uint8, write_image, write_video
from vidgen.models.base import Batch, VideoModel
from vidgen.models.stages import fingerprint
from vidgen.progress import Progress
from vidgen.registry import MODELS
from vidgen.seeding import derive_seed

if TYPE_CHECKING:
    from vidgen.evaluation.contexts import Contexts

MANIFEST = "samples.json"
SIDE_BY_SIDE = "side_by_side"
"""Folder of the comparisons, in the folder of samples."""
GRID_SIZE = 64
"""Videos in the grid, at most."""
GRID_FRAMES = 64
"""Frames of the grid, at most: of longer videos it shows the beginning."""
CHUNK_FRAMES = 64
"""Frames of a video that are made and written at a time, where nobody says how many."""
SAMPLES = 5
"""Samples of a context in its comparison, where nobody says how many."""

_GRID_FILES = (("grid.mp4", "grid.gif"), ("grid.png",))  # of videos, of images
_CELLS = ".grid"  # finished videos of the grid as arrays, until the last one is there
_KEPT_BYTES = 1 << 28  # of samples that wait to be compared; more of them wait on the disk


@dataclass(frozen=True)
class SamplingReport:
    """What one process did.

    Attributes:
        written: videos made now.
        skipped: videos of this process that were there already.
        grids: grid files, when this process wrote them.
        compared: comparisons made now.
        without_truth: those of them whose context ends before the truth does.
    """

    written: int
    skipped: int
    grids: tuple[Path, ...] = ()
    compared: int = 0
    without_truth: int = 0


@dataclass(frozen=True)
class SampleSettings:
    """What decides the content of the files besides their number; saved as ``samples.json``.

    Attributes:
        model: registry name or dotted path.
        checkpoint: SHA-256 of the checkpoint, see :func:`file_fingerprint`, or of the weights.
        weights: ``ema`` or ``raw``.
        seed: seed of the sequence of videos.
        num_frames: frames of a video; None means the model's training length.
        format: one of :data:`vidgen.media.FORMATS`.
        fps: frames per second.
        rounding: rule of :func:`vidgen.media.to_uint8`.
        keywords: further arguments of the model's ``sample``.
        context: SHA-256 of what videos are made from; None where the model needs nothing.
        samples: samples of each context in its comparison; 0 without comparisons.
    """

    model: str
    checkpoint: str
    weights: Literal["ema", "raw"]
    seed: int
    num_frames: int | None
    format: str
    fps: float
    rounding: Rounding
    keywords: Mapping[str, Any]
    context: str | None = None
    samples: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON gives them back."""
        return json.loads(json.dumps(vars(self)))


class Group(NamedTuple):
    """Videos that a model makes together, see :meth:`~vidgen.models.base.VideoModel.sampling_group_for`.

    Args:
        numbers: of its videos.
        contexts: for each video that has to be made the number of its context: first those of ``numbers``, then
            fillers, whose videos are thrown away.
    """

    numbers: range
    contexts: tuple[int, ...]


def grouped(numbers: Iterable[int], size: int, num_contexts: int | None) -> list[Group]:
    """The whole groups that numbered videos belong to, in order.

    Group k holds the videos ``k * size … (k + 1) * size - 1`` of all contexts, whichever of them are asked for. The
    last one is filled up with the first contexts, so that its statistics too are those of ``size`` videos, or of all
    contexts where there are fewer.

    Args:
        numbers: of the videos asked for.
        size: videos in a group.
        num_contexts: how many contexts there are; None where videos are made from nothing, and there is no last one.
    """
    groups = []
    for first in sorted({number // size * size for number in numbers}):
        own = range(first, first + size if num_contexts is None else min(first + size, num_contexts))
        whole = size if num_contexts is None else min(size, num_contexts)
        groups.append(Group(own, (*own, *range(whole - len(own)))))
    return groups


def draw_seed(seed: int, which: int) -> int:
    """Seed of sample ``which`` of the same videos; sample 0 is that of the seed itself."""
    return derive_seed(seed, "draw", which) if which else seed


def samples_of(model: VideoModel, keywords: Mapping[str, Any]) -> int:
    """Samples of each context that are worth a look side by side, where nobody says how many.

    Returns:
        :data:`SAMPLES`; 1 of a model with one answer, 0 of a model that continues no video.
    """
    if "video" not in model.keys_for(keywords):
        return 0
    return SAMPLES if model.stochastic else 1


def streams(model: VideoModel, keywords: Mapping[str, Any]) -> bool:
    """Whether a model makes videos with these keywords of ``sample`` piece by piece, in memory that does not grow."""
    return model.streams and keywords.keys() <= inspect.signature(model.stream).parameters.keys()


def sample_to_folder(
    model: VideoModel,
    out: str | os.PathLike[str],
    *,
    num: int,
    num_frames: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    chunk_frames: int = CHUNK_FRAMES,
    format: str = "mp4",
    fps: float = 8.0,
    rounding: Rounding = "round",
    keywords: Mapping[str, Any] | None = None,
    context: Contexts | None = None,
    samples: int = 0,
    checkpoint_fingerprint: str | None = None,
    weights: Literal["ema", "raw"] = "ema",
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool = True,
) -> SamplingReport:
    """Write videos ``000000 … num - 1`` of a model to a folder, with a grid of the first 64.

    Blocks of ``batch_size`` consecutive numbers go to the processes in turn: block b to process b modulo their number.
    Processes do not wait for each other, and the one that finishes the last video of the grid writes it (``grid.mp4``
    and ``grid.gif``, or ``grid.png`` when the videos have one frame). Files that exist are kept. More videos can be
    added to a folder later. Where the model makes videos in groups, a block is one group instead.

    Videos of more than ``chunk_frames`` frames are made by ``model.stream`` where the model has its own, and each chunk
    goes to the files before the next one is made: memory does not grow with the length, the format ``strip`` excepted.
    The grid shows the first :data:`GRID_FRAMES` frames of every video.

    With ``samples`` the folder ``side_by_side`` shows for each context the truth, the best sample and that many samples
    (:class:`~vidgen.comparison.Comparison`), with their scores in ``<number>.json``. The first sample is the video
    itself, the others are those of :meth:`vidgen.evaluation.sources.GeneratedClips.draw`.

    Args:
        model: ready to sample, as :func:`vidgen.load` returns it.
        out: the folder.
        num: videos in the folder when all processes have finished.
        num_frames: frames of a video; None means the training length.
        seed: which sequence of videos.
        batch_size: videos made at once; bounds the memory and changes no video by more than float rounding.
        chunk_frames: frames of a video that are made at once, where the model streams; likewise.
        format: one of :data:`vidgen.media.FORMATS`.
        fps: frames per second of the files.
        rounding: rule of :func:`vidgen.media.to_uint8`.
        keywords: further arguments of ``model.sample``, the same for all videos.
        context: what the videos are made from, where the model needs it: video n from its n-th.
        samples: samples of each context in its comparison; 0 makes none.
        checkpoint_fingerprint: identifies the weights; None hashes the model's own.
        weights: which weights the model carries, for the record.
        rank: this process; None reads the environment, see :func:`process_share`.
        world_size: number of processes; None reads the environment.
        progress: show a bar on a terminal, lines elsewhere; by the first process only.

    Returns:
        What this process did.

    Raises:
        UserError: a setting is out of range, the folder holds samples of other settings or something else, the model
            needs a context or makes NaN, or a file cannot be written.
    """
    out = Path(out)
    positive = {
        "num": num,
        "num frames": num_frames,
        "batch size": batch_size,
        "chunk frames": chunk_frames,
        "fps": fps,
    }
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise UserError(f"{name}: must be above 0, not {value}")
    check_format(format)
    if rank is None or world_size is None:
        rank, world_size = process_share()
    keywords = dict(keywords or {})
    _check_context(model, keywords, context, num)
    _check_samples(samples, model, model.keys_for(keywords))
    settings = SampleSettings(
        model=_name(model),
        checkpoint=checkpoint_fingerprint or weights_fingerprint(model),
        weights=weights,
        seed=seed,
        num_frames=num_frames,
        format=format,
        fps=fps,
        rounding=rounding,
        keywords=keywords,
        context=None if context is None else _digest(context.identity()),
        samples=samples,
    )
    claim_folder(out, settings, num)
    group = model.sampling_group_for(keywords)
    folder = _SampleFolder(out, settings, num, rank, world_size, group if group > 1 else batch_size)
    return _fill(folder, model, context, chunk_frames, progress and rank == 0)


def _check_context(model: VideoModel, keywords: Mapping[str, Any], context: Contexts | None, num: int) -> None:
    """Refuse contexts that the model needs and lacks, or that are too few.

    Raises:
        UserError: they are.
    """
    if (needed := model.keys_for(keywords)) and context is None:
        raise UserError(
            f"model {_name(model)!r} samples from given {', '.join(needed)}, not from a seed alone; give --context"
        )
    if context is not None and num > len(context):
        raise UserError(f"num: {num} videos of {len(context)} contexts; lower it")


def _check_samples(samples: int, model: VideoModel, needed: tuple[str, ...]) -> None:
    """Refuse a number of samples that the model cannot serve.

    Raises:
        UserError: it is one.
    """
    if samples < 0:
        raise UserError(f"samples: must be at least 0, not {samples}")
    if samples and "video" not in needed:
        raise UserError(f"samples: no video is given that {samples} of them could continue; leave it out")
    if samples > 1 and not model.stochastic:
        raise UserError(f"samples: {_name(model)} makes one video of a context, not {samples}; lower it to 1 or 0")


def _fill(
    folder: _SampleFolder, model: VideoModel, context: Contexts | None, chunk_frames: int, progress: bool
) -> SamplingReport:
    """Make what this process is responsible for and the folder lacks."""
    settings = folder.settings
    folder.remove_leftovers()
    missing, uncompared = folder.missing(), folder.uncompared()
    unfinished = missing | uncompared
    grids, without_truth = folder.finish_grid(), 0
    length = _length(model, settings) if streams(model, settings.keywords) else 0
    length = length if length > chunk_frames else 0  # of videos that are made chunk after chunk
    made = len(unfinished) + len(uncompared) * max(settings.samples - 1, 0)
    total, unit = (made * length, "frames") if length else (len(unfinished), "videos")
    with Progress(total, "sampled", unit, progress) as bar:

        def count(piece: Piece) -> None:
            if length and piece.number in unfinished:
                bar.advance(piece.frames.shape[1])

        for block in folder.blocks():
            wanted, compared = unfinished.intersection(block), sorted(uncompared.intersection(block))
            if not wanted:
                continue
            # the whole block, so that a resumed folder has the very bytes of an uninterrupted one
            maker = _Maker(model, block, settings, context, chunk_frames if length else None)
            with _Draws(folder.out, compared, settings.samples) as draws:
                _write_videos(folder, maker.pieces(), missing, draws, count)
                grids = grids or folder.finish_grid()
                for draw in range(1, settings.samples if compared else 1):
                    for piece in maker.pieces(draw):
                        if draws.add(draw, piece):
                            count(piece)
                for number in compared:
                    comparison = maker.comparison(number, draws.of(number))
                    without_truth += comparison.truth is None
                    folder.save_comparison(number, comparison)
            if not length:
                bar.advance(len(wanted))
    skipped = sum(map(len, folder.blocks())) - len(missing)
    return SamplingReport(len(missing), skipped, grids, len(uncompared), without_truth)


def _write_videos(
    folder: _SampleFolder, pieces: Iterable[Piece], missing: set[int], draws: _Draws, count: Callable[[Piece], None]
) -> None:
    """Write those of a block's videos that are missing, and keep what will be compared."""
    with ExitStack() as opened:
        files: dict[int, _SampleFile] = {}
        for piece in pieces:
            if piece.number in missing:
                if piece.start == 0:
                    files[piece.number] = opened.enter_context(folder.open(piece))
                files[piece.number].write(piece.frames)
            draws.add(0, piece)
            count(piece)


def _length(model: VideoModel, settings: SampleSettings) -> int:
    """Frames of a video; 0 where only the model knows."""
    return settings.num_frames or model.init_args.get("num_frames") or 0


def claim_folder(out: Path, settings: SampleSettings, num: int) -> None:
    """Make the folder and its ``samples.json``, or check that it is one of the same settings.

    Raises:
        UserError: it holds samples of other settings, or something else, or cannot be written.
    """
    # listed before the manifest is looked for: another process of the same run writes that before any video
    present = [name for name in (os.listdir(out) if out.is_dir() else []) if not name.startswith(".")]
    manifest = out / MANIFEST
    wanted = settings.to_dict()
    if manifest.is_file() and present != [MANIFEST]:  # settings that led to no video bind nobody
        saved = read_manifest(manifest)
        for field, (old, new) in _differences(saved, wanted).items():
            raise UserError(f"{out}: holds samples with {field} {old}, not {new}; choose another folder")
        if saved["num"] >= num:
            return
        if saved["num"] < GRID_SIZE:  # the grid grows
            for name in (name for names in _GRID_FILES for name in names):
                (out / name).unlink(missing_ok=True)
    elif present and present != [MANIFEST]:
        raise UserError(f"{out}: holds {min(present)!r} and other things but no {MANIFEST}; choose an empty folder")
    from vidgen import __version__

    text = json.dumps({**wanted, "num": num, "vidgen": __version__}, indent=2)
    with atomic_file(manifest) as file:
        file.write(text.encode() + b"\n")


def read_manifest(path: Path) -> dict[str, Any]:
    """The content of a ``samples.json``.

    Raises:
        UserError: it is unreadable or was written by something else.
    """
    try:
        saved = json.loads(path.read_bytes())
    except (OSError, ValueError):
        saved = None
    if isinstance(saved, dict):
        saved.setdefault("context", None)  # folders of before there were any do not say so
        saved.setdefault("samples", 0)
    if not isinstance(saved, dict) or not {"num", *SampleSettings.__annotations__} <= saved.keys():
        raise UserError(f"{path}: not written by vidgen sample, or damaged; choose another folder")
    return saved


def file_fingerprint(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a checkpoint file, or of the files of an exported folder, in hexadecimal.

    Raises:
        UserError: it cannot be read.
    """
    path = Path(path)
    digest = hashlib.sha256()
    try:
        for part in sorted(path.iterdir()) if path.is_dir() else [path]:
            with open(part, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()


def weights_fingerprint(model: torch.nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers, in hexadecimal."""
    return fingerprint(model.state_dict())


def process_share() -> tuple[int, int]:
    """Rank of this process and number of processes, from torchrun's or SLURM's environment; (0, 1) without.

    Under SLURM only a step started by ``srun`` counts: a batch script itself is one process, whatever it reserved.

    Raises:
        UserError: the variables contradict each other.
    """
    for rank_name, size_name in (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")):
        rank, size = os.environ.get(rank_name), os.environ.get(size_name)
        if rank is None or size is None:
            continue
        if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
            raise UserError(f"{rank_name}={rank} and {size_name}={size} do not fit; the rank counts from 0")
        return int(rank), int(size)
    return 0, 1


class _SampleFolder:
    """The share of one process in a folder of samples; ``block_size`` videos are made at once."""

    def __init__(
        self, out: Path, settings: SampleSettings, num: int, rank: int, world_size: int, block_size: int
    ) -> None:
        self.out = out
        self.settings = settings
        self.num = num
        self.rank = rank
        self.world_size = world_size
        self.block_size = block_size
        self.cells = min(GRID_SIZE, num)
        self.grid_pending = not any(all((out / name).exists() for name in names) for names in _GRID_FILES)

    def remove_leftovers(self) -> None:
        """Delete what a killed process left half written, as far as this process is responsible for it."""
        for folder in (self.out, self.out / SIDE_BY_SIDE):
            for name in _names_in(folder):
                match = re.match(r"\.(\d+)", name)
                if match and name.endswith(PARTIAL_SUFFIX) and self._owns(int(match[1])):
                    path = folder / name
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def blocks(self) -> Iterator[range]:
        """The blocks of consecutive numbers that this process is responsible for."""
        for start in range(self.rank * self.block_size, self.num, self.world_size * self.block_size):
            yield range(start, min(start + self.block_size, self.num))

    def missing(self) -> set[int]:
        """Numbers of this process whose files are still to be made."""
        present = _names_in(self.out)
        return {number for block in self.blocks() for number in block if not self._finished(number, present)}

    def uncompared(self) -> set[int]:
        """Numbers of this process whose comparisons are still to be made."""
        if not self.settings.samples:
            return set()
        present = _names_in(self.out / SIDE_BY_SIDE)
        numbers = (number for block in self.blocks() for number in block)
        return {number for number in numbers if not {self._name(number), _scores_name(number)} <= present}

    def open(self, piece: Piece) -> _SampleFile:
        """The file of the video that a piece belongs to."""
        settings, cell = self.settings, None
        if self.grid_pending and piece.number < self.cells:
            cell = VideoFile(self._cell(piece.number), min(piece.length, GRID_FRAMES), settings.fps, "npz")
        path = self.out / self._name(piece.number)
        return _SampleFile(VideoFile(path, piece.length, settings.fps, settings.format), cell)

    def save_comparison(self, number: int, comparison: Comparison) -> None:
        """Write one comparison and its scores."""
        folder, settings = self.out / SIDE_BY_SIDE, self.settings
        with atomic_file(folder / _scores_name(number)) as file:
            file.write(comparison.described().encode())
        path = folder / self._name(number)
        if settings.format == "strip":
            write_image(path, comparison.over_time())
        else:
            with VideoFile(path, comparison.num_frames, settings.fps, settings.format) as video:
                for piece in comparison.pieces():
                    video.write(piece)

    def finish_grid(self) -> tuple[Path, ...]:
        """Write the grid when all its videos are there and no other process does; return its files."""
        if not self.grid_pending or not all(self._cell(number).exists() for number in range(self.cells)):
            return ()
        self.grid_pending = False
        claimed = self.out / f"{_CELLS}-by-{self.rank}"
        try:
            (self.out / _CELLS).rename(claimed)
        except FileNotFoundError:
            return ()
        arrays = [np.load(claimed / f"{number:06d}.npz")["video"] for number in range(self.cells)]
        videos = torch.from_numpy(np.stack(arrays)).permute(0, 4, 1, 2, 3)
        paths = write_grid(self.out, videos, self.settings.fps)
        for stale in self.out.glob(f"{_CELLS}*"):
            shutil.rmtree(stale, ignore_errors=True)
        return paths

    def _owns(self, number: int) -> bool:
        return number // self.block_size % self.world_size == self.rank

    def _finished(self, number: int, present: set[str]) -> bool:
        needs_cell = self.grid_pending and number < self.cells
        return self._name(number) in present and not (needs_cell and not self._cell(number).exists())

    def _name(self, number: int) -> str:
        return file_name(f"{number:06d}", self.settings.format)

    def _cell(self, number: int) -> Path:
        return self.out / _CELLS / f"{number:06d}.npz"


def write_grid(out: Path, videos: Tensor, fps: float) -> tuple[Path, ...]:
    """Write ``grid.mp4`` and ``grid.gif``, or ``grid.png`` for videos of one frame.

    Args:
        out: the folder.
        videos: uint8 ``(N, C, T, H, W)``.
        fps: frames per second.

    Returns:
        The files.
    """
    sheet = grid(videos)
    paths = tuple(out / name for name in _GRID_FILES[sheet.shape[1] == 1])
    for path in paths:
        if path.suffix == ".png":
            write_image(path, sheet[:, 0])
        else:
            write_video(path, sheet, fps, path.suffix[1:])
    return paths


class Piece(NamedTuple):
    """Consecutive frames of a video.

    Args:
        number: of the video.
        start: number of the first frame.
        length: frames of the whole video.
        frames: uint8 ``(C, t, H, W)``.
    """

    number: int
    start: int
    length: int
    frames: Tensor


class _SampleFile:
    """A video, and its cell of the grid, which is finished first, so that no finished video lacks its cell."""

    def __init__(self, video: VideoFile, cell: VideoFile | None) -> None:
        self.video = video
        self.cell = cell
        self._opened = ExitStack()

    def __enter__(self) -> _SampleFile:
        for file in (self.video, self.cell):
            if file is not None:
                self._opened.enter_context(file)
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def write(self, frames: Tensor) -> None:
        """Add the next frames ``(C, t, H, W)``."""
        if self.cell is not None and (wanted := self.cell.num_frames - self.cell.written):
            self.cell.write(frames[:, :wanted])
        self.video.write(frames)


class _Draws:
    """Samples of a block's contexts as bytes, until they are compared; many of them lie in a file without a name.

    Args:
        folder: where the file is.
        numbers: of the videos that are compared; pieces of others are passed over.
        samples: of each.
    """

    def __init__(self, folder: Path, numbers: Sequence[int], samples: int) -> None:
        self.folder = folder
        self.slots = {number: slot for slot, number in enumerate(numbers)}
        self.samples = samples
        self.shape: tuple[int, ...] = ()
        self._file = tempfile.SpooledTemporaryFile(_KEPT_BYTES, dir=str(folder))  # noqa: SIM115 - __exit__ closes it

    def __enter__(self) -> _Draws:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, draw: int, piece: Piece) -> bool:
        """Keep a piece.

        Returns:
            Whether it is one of those that are compared.

        Raises:
            UserError: there is no room for it.
        """
        if piece.number not in self.slots:
            return False
        frames = piece.frames.transpose(0, 1).contiguous()
        self.shape = (piece.length, *frames.shape[1:])
        try:
            self._go_to(piece.number, draw, piece.start)
            self._file.write(frames.numpy().data)
        except OSError as error:
            raise write_error(self.folder, error) from error
        return True

    def of(self, number: int) -> _DrawsOfVideo:
        """The samples of one context."""
        return _DrawsOfVideo(self, number)

    def read(self, number: int, draw: int, start: int, stop: int) -> Tensor:
        """Frames of one sample, uint8 ``(C, t, H, W)``."""
        self._go_to(number, draw, start)
        shape = (stop - start, *self.shape[1:])
        data = bytearray(self._file.read(math.prod(shape)))
        return torch.frombuffer(data, dtype=torch.uint8).view(shape).transpose(0, 1)

    def _go_to(self, number: int, draw: int, time: int) -> None:
        sample = self.slots[number] * self.samples + draw
        self._file.seek((sample * self.shape[0] + time) * math.prod(self.shape[1:]))


class _DrawsOfVideo:
    """The samples of one context, see :class:`~vidgen.comparison.Footage`."""

    def __init__(self, draws: _Draws, number: int) -> None:
        self.draws = draws
        self.number = number
        length, channels, height, width = draws.shape
        self.shape: tuple[int, ...] = (draws.samples, channels, length, height, width)

    def read(self, start: int, stop: int) -> Tensor:
        """See :meth:`~vidgen.comparison.Footage.read`."""
        return torch.stack([self.draws.read(self.number, draw, start, stop) for draw in range(self.draws.samples)])


class _Maker:
    """Makes the videos of one block, of one batch.

    Args:
        model: what makes them.
        block: their numbers.
        settings: of all videos.
        context: what they are made from.
        chunk_frames: frames that the model makes at once; None for all.
    """

    def __init__(
        self,
        model: VideoModel,
        block: range,
        settings: SampleSettings,
        context: Contexts | None,
        chunk_frames: int | None,
    ) -> None:
        self.model = model
        self.block = block
        self.settings = settings
        self.context = context
        self.chunk_frames = chunk_frames
        contexts: Sequence[int] = block
        size = model.sampling_group_for(settings.keywords)
        if size > 1:
            [group] = grouped(block, size, None if context is None else len(context))
            contexts = group.contexts
        self.num_videos = len(contexts)
        self.batch: Batch | None = None if context is None else context.batch(contexts)

    def pieces(self, draw: int = 0) -> Iterator[Piece]:
        """The block's videos, whole ones or chunk after chunk.

        Raises:
            UserError: one holds NaN.
        """
        settings = self.settings
        for start, length, videos in self._chunks(draw_seed(settings.seed, draw)):
            for number, video in zip(self.block, videos[: len(self.block)], strict=True):
                if torch.isnan(video).any():
                    raise UserError(f"video {number} of model {settings.model!r} holds NaN; its weights are unusable")
                yield Piece(number, start, length, to_uint8(video, settings.rounding).cpu())

    def _chunks(self, seed: int) -> Iterator[tuple[int, int, Tensor]]:
        """First frame and length of the whole videos, and ``(N, C, t, H, W)`` of them."""
        settings = self.settings
        given: dict[str, Any] = {"seed": seed, "first": self.block.start, **settings.keywords}
        if self.batch is not None:
            given["batch"] = self.batch
        if self.chunk_frames is None:
            with torch.inference_mode():
                videos = self.model.sample(self.num_videos, num_frames=settings.num_frames, **given)
            yield 0, videos.shape[2], videos
            return
        length = _length(self.model, settings)
        given |= {"num_videos": self.num_videos, "total_frames": length}
        state: Any = None
        for start in range(0, length, self.chunk_frames):
            frames = min(self.chunk_frames, length - start)
            with torch.inference_mode():
                videos, state = self.model.stream(state=state, num_frames=frames, **given)
            yield start, length, videos
            del videos  # before the next ones are made

    def comparison(self, number: int, samples: Footage) -> Comparison:
        """The samples of one context beside the truth.

        Raises:
            UserError: they cannot be compared.
        """
        assert self.context is not None
        settings = self.settings
        return Comparison(
            samples,
            self.context.truth(number, samples.shape[2]),
            self.model.given_frames_for(settings.keywords),
            [draw_seed(settings.seed, draw) for draw in range(samples.shape[0])],
        )


def _names_in(folder: Path) -> set[str]:
    return set(os.listdir(folder)) if folder.is_dir() else set()


def _scores_name(number: int) -> str:
    return f"{number:06d}.json"


def _differences(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Field -> (old, new) for what differs; keywords are compared one by one."""
    old = {**{name: saved[name] for name in wanted if name != "keywords"}, **saved["keywords"]}
    new = {**{name: wanted[name] for name in wanted if name != "keywords"}, **wanted["keywords"]}
    return {
        name: (_shown(name, old.get(name)), _shown(name, new.get(name)))
        for name in [*new, *(name for name in old if name not in new)]
        if old.get(name) != new.get(name)
    }


def _shown(name: str, value: Any) -> str:
    if name in ("checkpoint", "context") and value is not None:
        return str(value)[:12]
    return "none" if value is None else str(value)


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _name(model: VideoModel) -> str:
    return MODELS.name_of(type(model))
