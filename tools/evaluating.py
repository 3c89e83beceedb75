"""How fast videos are measured: the I3D network beside the public port that most published code uses, and the whole of
an evaluation: decoding while the network runs, memory, two processes.

The port is ``pytorch_i3d.py`` of github.com/piergiaj/pytorch-i3d as it is, in eval mode, its scores averaged over time;
it is imported from a checkout that the user has. Both get the same closed-form weights and the same clips.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pairing import describe_pairs
from torch import Tensor, nn

from vidgen.data.dataset import VideoDataset
from vidgen.data.packed import Packed
from vidgen.data.video_folder import VideoFolder
from vidgen.errors import UserError
from vidgen.evaluation.passes import Pass
from vidgen.evaluation.sources import Clip, ClipRule, StoredClips
from vidgen.metrics.extractors.i3d import I3D
from vidgen.metrics.extractors.i3d_network import InceptionI3D
from vidgen.metrics.extractors.random_weights import filled_state
from vidgen.metrics.frechet import frechet_from_moments, moments_of
from vidgen.metrics.video_distances import FrechetVideoDistance

CLIPS, FRAMES, SIDE = 4, 16, 224
FVD_CLIPS = 24
TOLERANCE = 1e-5  # relative error of the float32 embeddings
FORMS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, compiled": {"compile": True},
    "bfloat16": {"precision": "bfloat16"},
    "bfloat16, compiled": {"precision": "bfloat16", "compile": True},
}


def load_port(path: Path) -> nn.Module:
    """The public port with closed-form weights, in eval mode.

    Args:
        path: the checkout, or ``pytorch_i3d.py`` itself.

    Raises:
        UserError: there is no such file, or it is another network.
    """
    file = path / "pytorch_i3d.py" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"--reference {path}: no pytorch_i3d.py there; give a checkout of piergiaj/pytorch-i3d")
    spec = importlib.util.spec_from_file_location("pytorch_i3d", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    port: nn.Module = module.InceptionI3d(400, in_channels=3)
    with torch.device("meta"):
        names = {name: tuple(tensor.shape) for name, tensor in InceptionI3D().state_dict().items()}
    unpaired = sorted(names.keys() ^ port.state_dict().keys())
    if unpaired:
        raise UserError(f"--reference {path}: another network; only one of the two has {unpaired[0]}")
    port.load_state_dict(filled_state(names))
    return port.eval()


def commit_of(path: Path) -> str:
    """The commit of a checkout; ``unknown`` where it is none."""
    folder = path if path.is_dir() else path.parent
    run = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
    return run.stdout.strip() or "unknown"


def drifting_clips(count: int, seed: int) -> Tensor:
    """Smooth colours that drift, float ``(N, 3, T, 224, 224)`` in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 12, 12, generator=generator)
    picture = nn.functional.interpolate(coarse, size=(SIDE + 4 * FRAMES,) * 2, mode="bilinear")
    frames = [picture[..., 4 * t : 4 * t + SIDE, 2 * t : 2 * t + SIDE] for t in range(FRAMES)]
    return torch.stack(frames, dim=2).mul(2).sub(1)


def in_turn(ours: Callable[[], Any], theirs: Callable[[], Any], turns: int) -> list[tuple[float, float]]:
    """Seconds of both sides, one call each in turn; the first turn warms up, and the side that begins changes."""
    pairs = []
    for turn in range(turns + 1):
        seconds = [0.0, 0.0]
        for side in (0, 1) if turn % 2 else (1, 0):
            start = time.perf_counter()
            (ours, theirs)[side]()
            seconds[side] = time.perf_counter() - start
        if turn:
            pairs.append((seconds[0], seconds[1]))
    return pairs


@torch.inference_mode()
def beside_port(path: Path, forms: list[str], turns: int) -> Iterator[str]:
    """Each form of the network: its embeddings compared with the port's, then both timed in turn.

    Raises:
        UserError: there is no port, or the embeddings differ.
    """
    port = load_port(path)
    yield f"reference: piergiaj/pytorch-i3d at {commit_of(path)}, eval mode"
    clips = drifting_clips(CLIPS, 0)
    expected = port(clips).mean(2)
    for form in forms:
        network = I3D("random", **FORMS[form]).network
        error = float((network(clips) - expected).norm() / expected.norm())
        if form.startswith("float32") and not error < TOLERANCE:
            raise UserError(f"{form}: embeddings are {error:.2g} of their norm apart (tolerance {TOLERANCE:.0e})")
        yield f"{form}: relative error of the embeddings {error:.1e}"
        if form.startswith("bfloat16"):
            yield bfloat16_error(network)
        pairs = in_turn(lambda: network(clips), lambda: port(clips), turns)  # noqa: B023 - called before the next one
        yield describe_pairs(pairs, unit=f"{CLIPS} clips of {FRAMES} frames")


@torch.inference_mode()
def bfloat16_error(network: nn.Module) -> str:
    """How far the FVD of two sets of clips is off in bfloat16."""
    values = []
    for form in (I3D("random").network, network):
        sides = []
        for first in (0, FVD_CLIPS):
            seeds = range(first, first + FVD_CLIPS, CLIPS)
            sides.append(torch.cat([form(drifting_clips(CLIPS, seed) * (1 if first else 0.8)) for seed in seeds]))
        values.append(float(frechet_from_moments(moments_of(sides[0]), moments_of(sides[1]))))
    change = values[1] / values[0] - 1
    return (
        f"FVD of two sets of {FVD_CLIPS} clips: {values[0]:.5g} in float32, {values[1]:.5g} in bfloat16 ({change:+.2%})"
    )


class Measured:
    """Stored clips, and the statistics of the I3D features of all of them.

    Args:
        dataset: the videos.
        clips: how many clips are cut from them.
    """

    def __init__(self, dataset: VideoDataset, clips: int) -> None:
        rule = ClipRule(FRAMES, per_video=-(-clips // len(dataset)))
        self.source = StoredClips(dataset, rule, native=False, name="", limit=clips)
        self.metric = FrechetVideoDistance(weights="random")

    def measure(self) -> None:
        """One pass; nothing is kept on the disk."""
        self.metric.reset()
        Pass(self.source, [self.metric], True, device=torch.device("cpu"), keep=False, progress=False).run()

    def decode_then_look(self) -> None:
        """The same one after the other."""
        clips = [clip.video for clip in self.source.read(range(len(self.source))) if isinstance(clip, Clip)]
        for first in range(0, len(clips), 8):
            self.metric.extract(torch.stack(clips[first : first + 8]), True)


def overlap(folder: Path, clips: int, turns: int) -> Iterator[str]:
    """A pass over video files beside decoding them first and looking at them then."""
    measured = Measured(VideoFolder(str(folder), 64, FRAMES), clips)
    start = time.perf_counter()
    measured.source.read(range(clips))
    yield f"decoding {clips} clips of video files alone: {time.perf_counter() - start:.3g} s"
    pairs = in_turn(measured.measure, measured.decode_then_look, turns)
    yield describe_pairs(pairs, "decoding beside the network", "one after the other", f"{clips} clips")


_ONE_RUN = """
import sys
sys.path[:0] = [{tools!r}]
import resource, torch
from evaluating import Measured, Packed
torch.set_num_threads({threads})
Measured(Packed({packed!r}, 64, 16), {clips}).measure()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_memory(packed: Path, clips: int, threads: int) -> str:
    """The most memory of a process that measures so many clips."""
    script = _ONE_RUN.format(tools=str(Path(__file__).parent), packed=str(packed), clips=clips, threads=threads)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if run.returncode:
        raise UserError(f"the process that measured {clips} clips ended: {run.stderr.strip().splitlines()[-1:]}")
    return f"peak memory with {clips} clips: {float(run.stdout.split()[-1]):.0f} MiB"


def _serve(rank: int, size: int, core: int, port: int, packed: str, clips: int, tasks: Any, results: Any) -> None:
    """A process on a core of its own that measures its share of the clips whenever it is asked to."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    if size > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("gloo", rank=rank, world_size=size)
    measured = Measured(Packed(packed, 64, FRAMES), clips)
    while tasks.get():
        measured.measure()
        if size > 1:
            dist.barrier()
        results.put(rank)


class Workers:
    """Processes that share an evaluation, each pinned to a core."""

    def __init__(self, size: int, port: int, packed: Path, clips: int) -> None:
        context = mp.get_context("spawn")
        self.tasks = [context.Queue() for _ in range(size)]
        self.results = context.Queue()
        cores = sorted(os.sched_getaffinity(0))
        for rank, tasks in enumerate(self.tasks):
            arguments = (rank, size, cores[rank], port, str(packed), clips, tasks, self.results)
            context.Process(target=_serve, args=arguments, daemon=True).start()

    def measure(self) -> None:
        """Measure everything once."""
        for tasks in self.tasks:
            tasks.put(True)
        for _ in self.tasks:
            self.results.get()

    def end(self) -> None:
        """Let the processes end."""
        for tasks in self.tasks:
            tasks.put(False)


def two_processes(packed: Path, clips: int, turns: int, port: int = 29617) -> str:
    """Two pinned processes beside one, in turn, on a pack.

    Raises:
        UserError: there are not two cores.
    """
    if len(os.sched_getaffinity(0)) < 2:
        raise UserError("two processes need two cores")
    two, one = Workers(2, port, packed, clips), Workers(1, 0, packed, clips)
    pairs = in_turn(two.measure, one.measure, turns)
    two.end()
    one.end()
    return describe_pairs(pairs, "two processes", "one process", f"{clips} packed clips")
