"""Samples of a model as files in a folder: any number, in bounded memory, on any number of processes, resumable.

Video n is a function of (weights, seed, n, settings). So the folder is the same whatever the batch size and the number
of processes, a file that exists never has to be made again, and ``samples.json`` tells whose samples the folder holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from vidgen.atomic import PARTIAL_SUFFIX, atomic_file
from vidgen.errors import UserError
from vidgen.media import Rounding, check_format, file_name, grid, to_uint8, write_image, write_video
from vidgen.models.base import VideoModel
from vidgen.progress import Progress
from vidgen.registry import MODELS

if TYPE_CHECKING:
    from vidgen.evaluation.contexts import Contexts

MANIFEST = "samples.json"
GRID_SIZE = 64
"""Videos in the grid, at most."""

_GRID_FILES = (("grid.mp4", "grid.gif"), ("grid.png",))  # of videos, of images
_CELLS = ".grid"  # finished videos of the grid as arrays, until the last one is there


@dataclass(frozen=True)
class SamplingReport:
    """What one process did.

    Attributes:
        written: videos made now.
        skipped: videos of this process that were there already.
        grids: grid files, when this process wrote them.
    """

    written: int
    skipped: int
    grids: tuple[Path, ...] = ()


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

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON gives them back."""
        return json.loads(json.dumps(vars(self)))


def sample_to_folder(
    model: VideoModel,
    out: str | os.PathLike[str],
    *,
    num: int,
    num_frames: int | None = None,
    seed: int = 0,
    batch_size: int = 16,
    format: str = "mp4",
    fps: float = 8.0,
    rounding: Rounding = "round",
    keywords: Mapping[str, Any] | None = None,
    context: Contexts | None = None,
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
    added to a folder later.

    Args:
        model: ready to sample, as :func:`vidgen.load` returns it.
        out: the folder.
        num: videos in the folder when all processes have finished.
        num_frames: frames of a video; None means the training length.
        seed: which sequence of videos.
        batch_size: videos made at once; bounds the memory and changes no video by more than float rounding.
        format: one of :data:`vidgen.media.FORMATS`.
        fps: frames per second of the files.
        rounding: rule of :func:`vidgen.media.to_uint8`.
        keywords: further arguments of ``model.sample``, the same for all videos.
        context: what the videos are made from, where the model needs it: video n from its n-th.
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
    for name, value in (("num", num), ("num_frames", num_frames), ("batch_size", batch_size), ("fps", fps)):
        if value is not None and not value > 0:
            raise UserError(f"{name.replace('_', ' ')}: must be above 0, not {value}")
    check_format(format)
    if rank is None or world_size is None:
        rank, world_size = process_share()
    if model.sample_keys and context is None:
        needed = ", ".join(model.sample_keys)
        raise UserError(f"model {_name(model)!r} samples from given {needed}, not from a seed alone; give --context")
    if context is not None and num > len(context):
        raise UserError(f"num: {num} videos of {len(context)} contexts; lower it")
    settings = SampleSettings(
        model=_name(model),
        checkpoint=checkpoint_fingerprint or weights_fingerprint(model),
        weights=weights,
        seed=seed,
        num_frames=num_frames,
        format=format,
        fps=fps,
        rounding=rounding,
        keywords=dict(keywords or {}),
        context=None if context is None else _digest(context.identity()),
    )
    claim_folder(out, settings, num)
    folder = _SampleFolder(out, settings, num, rank, world_size, batch_size)
    folder.remove_leftovers()
    missing = folder.missing()
    grids = folder.finish_grid()
    with Progress(len(missing), "sampled", "videos", progress and rank == 0) as bar:
        for block in folder.blocks():
            wanted = missing.intersection(block)
            if not wanted:
                continue
            # the whole block, so that a resumed folder has the very bytes of an uninterrupted one
            for number, video in zip(block, _sample(model, block, settings, context), strict=True):
                if number in wanted:
                    folder.save(number, video)
            grids = grids or folder.finish_grid()
            bar.advance(len(wanted))
    return SamplingReport(len(missing), sum(map(len, folder.blocks())) - len(missing), grids)


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
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
    """The share of one process in a folder of samples."""

    def __init__(
        self, out: Path, settings: SampleSettings, num: int, rank: int, world_size: int, batch_size: int
    ) -> None:
        self.out = out
        self.settings = settings
        self.num = num
        self.rank = rank
        self.world_size = world_size
        self.batch_size = batch_size
        self.cells = min(GRID_SIZE, num)
        self.grid_pending = not any(all((out / name).exists() for name in names) for names in _GRID_FILES)

    def remove_leftovers(self) -> None:
        """Delete what a killed process left half written, as far as this process is responsible for it."""
        for name in os.listdir(self.out):
            match = re.match(r"\.(\d+)", name)
            if match and name.endswith(PARTIAL_SUFFIX) and self._owns(int(match[1])):
                path = self.out / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def blocks(self) -> Iterator[range]:
        """The blocks of consecutive numbers that this process is responsible for."""
        for start in range(self.rank * self.batch_size, self.num, self.world_size * self.batch_size):
            yield range(start, min(start + self.batch_size, self.num))

    def missing(self) -> set[int]:
        """Numbers of this process whose files are still to be made."""
        present = set(os.listdir(self.out))
        return {number for block in self.blocks() for number in block if not self._finished(number, present)}

    def save(self, number: int, video: Tensor) -> None:
        """Write one video; its cell of the grid first, so that no finished video lacks its cell."""
        if self.grid_pending and number < self.cells:
            write_video(self._cell(number), video, self.settings.fps, "npz")
        write_video(self.out / self._name(number), video, self.settings.fps, self.settings.format)

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
        return number // self.batch_size % self.world_size == self.rank

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


def _sample(model: VideoModel, numbers: range, settings: SampleSettings, context: Contexts | None) -> Iterator[Tensor]:
    """uint8 videos ``(C, T, H, W)`` of consecutive numbers, made in one batch."""
    given = {} if context is None else {"batch": context.batch(numbers)}
    with torch.inference_mode():
        videos = model.sample(
            len(numbers),
            num_frames=settings.num_frames,
            seed=settings.seed,
            first=numbers.start,
            **given,
            **settings.keywords,
        )
    for number, video in zip(numbers, videos, strict=True):
        if torch.isnan(video).any():
            raise UserError(f"video {number} of model {settings.model!r} holds NaN; its weights are unusable")
        yield to_uint8(video, settings.rounding).cpu()


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
