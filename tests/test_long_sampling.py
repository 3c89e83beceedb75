"""Long videos: made and written chunk after chunk, and in the folder as if they had been made at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import vidgen.progress
import vidgen.sampling
from tests.guessing_model import Guess
from tests.noise_model import SeededNoise, payload
from tests.test_media import read_gif, read_mp4
from tests.test_sampling import Killed, contents, make, names
from tests.test_sampling_groups import contexts, videos_in
from tests.two_stage_model import FIRST, SeenAhead
from vidgen.checkpoint import write_checkpoint
from vidgen.cli.main import main
from vidgen.errors import UserError
from vidgen.media import FORMATS, VideoFile, file_name, grid, to_uint8, write_video
from vidgen.models.base import Batch
from vidgen.sampling import SamplingReport, sample_to_folder, streams

ROOT = Path(__file__).parents[1]
LONG: dict[str, Any] = {"num": 3, "batch_size": 2, "num_frames": 20, "chunk_frames": 7}


class Counted(SeenAhead):
    """Notes what it is asked for; video ``poisoned`` is NaN from frame 10 on."""

    def __init__(self, first_stage: Any = FIRST, num_frames: int = 6, poisoned: int | None = None) -> None:
        super().__init__(first_stage, num_frames=num_frames)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for weight in self.parameters():
                weight.data.normal_(0, 0.5)
        self.poisoned = poisoned
        self.calls: list[tuple[int | None, int | None, int | None]] = []

    def stream(self, batch: Batch | None = None, state: int | None = None, **keywords: Any) -> tuple[Tensor, int]:  # type: ignore[override]
        """See :class:`SeenAhead`."""
        self.calls.append((state, keywords["num_frames"], keywords["total_frames"]))
        videos, state = super().stream(batch, state, **keywords)
        for number in range(len(videos)):
            if keywords["first"] + number == self.poisoned and state > 10:
                videos[number] = float("nan")
        return videos, state


def test_a_long_video_is_that_of_sample(tmp_path: Path) -> None:
    model = Counted().eval()
    report = make(tmp_path, model, seed=5, **LONG)
    assert report == SamplingReport(3, 0, (tmp_path / "grid.mp4", tmp_path / "grid.gif"))
    assert model.calls == [(None, 7, 20), (7, 7, 20), (14, 6, 20)] * 2
    wanted = to_uint8(model.sample(3, num_frames=20, seed=5)).permute(0, 2, 3, 4, 1)
    for number in range(3):
        made = np.load(tmp_path / f"{number:06d}.npz")["video"]
        assert abs(made.astype(int) - wanted[number].numpy()).max() <= 1
    assert sorted(os.listdir(tmp_path)) == [*names(range(3)), "grid.gif", "grid.mp4", "samples.json"]


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_as_if_written_at_once(tmp_path: Path, format: str) -> None:
    make(tmp_path / "long", Counted().eval(), format=format, **LONG)
    make(tmp_path / "once", Counted().eval(), format=format, **{**LONG, "chunk_frames": 20})
    assert contents(tmp_path / "long") == contents(tmp_path / "once")


def test_manifest_and_grid_do_not_tell_how_it_was_made(tmp_path: Path) -> None:
    make(tmp_path, Counted().eval(), **LONG)
    assert json.loads((tmp_path / "samples.json").read_text())["num_frames"] == 20
    again = Counted().eval()
    assert make(tmp_path, again, **{**LONG, "chunk_frames": 64}) == SamplingReport(0, 3)
    assert again.calls == []


@pytest.mark.parametrize(("frames", "chunk"), [(None, 6), (20, 20), (6, 7)])
def test_videos_no_longer_than_a_chunk_are_made_at_once(tmp_path: Path, frames: int | None, chunk: int) -> None:
    model = Counted().eval()
    make(tmp_path, model, **{**LONG, "num_frames": frames, "chunk_frames": chunk})
    assert model.calls == [(None, frames or 6, frames or 6)] * 2  # sample() calls it once


def test_the_training_length_may_be_long(tmp_path: Path) -> None:
    model = Counted().eval()
    make(tmp_path, model, num=1, chunk_frames=4)
    assert model.calls == [(None, 4, 6), (4, 2, 6)]


def test_who_streams() -> None:
    class Deaf(SeenAhead):
        """Cannot in its present state."""

        @property
        def streams(self) -> bool:
            """No."""
            return False

    assert streams(SeenAhead(FIRST), {}) and streams(SeenAhead(FIRST), {"seed": 1})
    assert not streams(SeenAhead(FIRST), {"label": 1})  # sample() alone has that keyword
    assert not streams(SeededNoise(), {}) and not streams(Deaf(FIRST), {})


def test_a_model_that_does_not_stream_makes_long_videos_at_once(tmp_path: Path) -> None:
    model = SeededNoise()
    make(tmp_path, model, **LONG)
    assert model.calls == [(0, 2), (2, 1)]
    assert np.array_equal(
        np.load(tmp_path / "000002.npz")["video"], to_uint8(model.sample(3, num_frames=20))[2].permute(1, 2, 3, 0)
    )


# --- the grid ---


def test_the_grid_shows_the_beginning_of_long_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidgen.sampling, "GRID_FRAMES", 10)
    make(tmp_path / "long", Counted().eval(), **LONG)
    make(tmp_path / "noise", SeededNoise(), **LONG)
    arrays = [np.load(tmp_path / "long" / f"{number:06d}.npz")["video"][:10] for number in range(3)]
    sheet = grid(torch.from_numpy(np.stack(arrays)).permute(0, 4, 1, 2, 3))
    write_video(tmp_path / "wanted.mp4", sheet, 8, "mp4")
    assert (tmp_path / "long" / "grid.mp4").read_bytes() == (tmp_path / "wanted.mp4").read_bytes()
    assert read_gif(tmp_path / "long" / "grid.gif")[0].shape[1] == 10
    assert read_mp4(tmp_path / "noise" / "grid.mp4")[0].shape[1] == 10  # however they are made
    assert not list(tmp_path.glob("*/.grid*"))


# --- the same however it came about ---


@pytest.mark.parametrize("format", ["npz", "png", "mp4"])
@pytest.mark.parametrize("at", [1, 4, 9, 13])
def test_a_run_killed_in_mid_video_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, at: int
) -> None:
    make(tmp_path / "whole", Counted().eval(), format=format, **LONG)
    written = []

    class Dying(VideoFile):
        def write(self, video: Tensor) -> None:
            super().write(video)
            written.append(self.path)
            if len(written) == at:
                monkeypatch.setattr(VideoFile, "__exit__", lambda self, *error: None)  # a killed process tidies nothing
                raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(vidgen.sampling, "VideoFile", Dying)
        make(tmp_path / "killed", Counted().eval(), format=format, **LONG)
    monkeypatch.undo()
    for name, data in contents(tmp_path / "killed").items():
        assert name.startswith(".") or contents(tmp_path / "whole")[name] == data
    make(tmp_path / "killed", Counted().eval(), format=format, **LONG)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_two_processes_make_the_same_folder(tmp_path: Path) -> None:
    make(tmp_path / "one", Counted().eval(), **LONG)
    for rank in (1, 0):
        make(tmp_path / "two", Counted().eval(), rank=rank, world_size=2, **LONG)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_nan_in_a_later_chunk_is_named_and_leaves_no_half_video(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        make(tmp_path, Counted(poisoned=2).eval(), **LONG)
    assert str(error.value) == f"video 2 of model '{__name__}.Counted' holds NaN; its weights are unusable"
    assert sorted(path.name for path in tmp_path.glob("0*")) == names(range(2))
    assert not list(tmp_path.glob(".0*"))


@pytest.mark.parametrize("chunk_frames", [0, -4])
def test_chunks_of_nothing_are_refused(tmp_path: Path, chunk_frames: int) -> None:
    with pytest.raises(UserError) as error:
        make(tmp_path / "new", chunk_frames=chunk_frames)
    assert str(error.value) == f"chunk frames: must be above 0, not {chunk_frames}"
    assert not (tmp_path / "new").exists()


# --- side by side ---


class Continuing(Guess):
    """Goes on guessing, frame by frame."""

    def stream(
        self,
        batch: Batch | None = None,
        state: Any = None,
        *,
        num_videos: int = 1,
        num_frames: int | None = None,
        seed: int = 0,
        first: int = 0,
        total_frames: int | None = None,
    ) -> tuple[Tensor, int]:
        """A part of what :meth:`sample` makes."""
        start = state or 0
        stop = start + (num_frames or self.num_frames)
        made = self.sample(num_videos, num_frames=total_frames, seed=seed, first=first, batch=batch)
        return made[:, :, start:stop], stop


@pytest.mark.parametrize("format", ["npz", "mp4", "strip"])
@pytest.mark.parametrize("kept", [1 << 20, 100], ids=["in_memory", "on_the_disk"])
def test_comparisons_of_long_videos_are_those_of_videos_made_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, kept: int
) -> None:
    monkeypatch.setattr(vidgen.sampling, "_KEPT_BYTES", kept)
    monkeypatch.setattr(vidgen.comparison, "PIECE_FRAMES", 3)
    place = videos_in(tmp_path / "videos", 3, frames=12)

    def run(out: Path, chunk_frames: int, group: int) -> None:
        model = Continuing(group=group).eval()
        report = sample_to_folder(model, out, num=3, context=contexts(place, model), samples=3, num_frames=11,
                                  chunk_frames=chunk_frames, format=format, progress=False, rank=0, world_size=1,
                                  batch_size=2)  # fmt: skip
        assert (report.compared, report.without_truth) == (3, 0)

    for group in (1, 2):
        run(tmp_path / f"long{group}", 4, group)
        with monkeypatch.context() as patch:
            patch.setattr(vidgen.comparison, "PIECE_FRAMES", 64)
            run(tmp_path / f"once{group}", 64, group)
        assert contents(tmp_path / f"long{group}") == contents(tmp_path / f"once{group}")
        scores = json.loads((tmp_path / f"long{group}" / "side_by_side" / "000002.json").read_text())
        assert [len(curve) for curve in scores["ssim"]] == [9] * 3 and scores["best"]
    assert not list(tmp_path.glob("long*/tmp*"))


def test_no_room_for_samples_that_wait_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, *_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.SpooledTemporaryFile.write", full)
    place, model = videos_in(tmp_path / "videos", 2), Guess().eval()
    with pytest.raises(UserError) as error:
        sample_to_folder(model, tmp_path / "out", num=2, context=contexts(place, model), samples=2, progress=False)
    assert str(error.value) == (
        f"{tmp_path}/out: no space left on the disk; free some, what was written before is intact"
    )


# --- progress, memory, command line ---


def test_progress_counts_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(vidgen.progress, "SECONDS_BETWEEN_LINES", 0.0)
    make(tmp_path / "a", Counted().eval(), progress=True, **LONG)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"sampled {done}/60 frames" for done in (7, 14, 21, 28, 34, 40, 47, 54, 60)
    ]
    assert all(line.split(", ")[1].endswith(" frames/s") for line in lines)
    (tmp_path / "a" / "000001.npz").unlink()
    make(tmp_path / "a", Counted().eval(), progress=True, **LONG)
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"sampled {done}/20 frames" for done in (7, 14, 20)
    ]


def test_progress_counts_the_frames_of_compared_samples_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, model = videos_in(tmp_path / "videos", 3, frames=12), Continuing().eval()
    sample_to_folder(model, tmp_path / "out", num=3, context=contexts(place, model), samples=2, num_frames=11,
                     chunk_frames=4, format="npz", rank=0, world_size=1)  # fmt: skip
    assert capsys.readouterr().out.splitlines()[-1].startswith("sampled 66/66 frames, ")


MEMORY = """
import re, sys
from pathlib import Path
import torch
from tests.two_stage_model import SeenAhead
from vidgen.sampling import sample_to_folder

first = {"model": "tests.two_stage_model.TinyAutoencoder", "model_args": {"resolution": 96}}
model = SeenAhead(first, resolution=96).eval()
torch.nn.init.zeros_(model.first_stage.decoder.weight)
torch.nn.init.zeros_(model.first_stage.decoder.bias)  # grey frames, which are soon written

def measure(length, chunk, *formats):
    for format in formats:
        out = Path(sys.argv[1]) / f"{length}_{chunk}_{format}"
        sample_to_folder(model, out, num=1, num_frames=length, chunk_frames=chunk, format=format, progress=False)
    # not getrusage, whose peak begins with that of the process that started this one
    return int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) / 1024
formats = ("mp4", "gif", "png", "npz")
measure(64, 32, *formats)
print(measure(96, 32, *formats), measure(1120, 32, *formats), measure(1120, 1120, "npz"))
"""


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)],
        # one thread and one heap: what several leave unused is no sign of what is held
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    short, long, at_once = map(float, done.stdout.split())
    video = (1120 - 96) * 3 * 96 * 96 / 2**20  # MB, as bytes; four times that as floats
    assert long - short < 0.75 * video
    assert at_once - short > 4 * video, "so much is to be seen where there is no chunk"
    one, other = (tmp_path / f"1120_{chunk}_npz" / "000000.npz" for chunk in (32, 1120))
    assert one.read_bytes() == other.read_bytes()
    assert len(os.listdir(tmp_path / "1120_32_png" / "000000")) == 1120


def test_the_option_arrives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = tmp_path / "long.ckpt"
    write_checkpoint(checkpoint, payload(SeenAhead(FIRST)))
    words = ["sample", "--ckpt", str(checkpoint), "--device", "cpu", "--num", "2", "--format", "npz"]
    assert main([*words, "--num-frames", "20", "--chunk-frames", "7", "--out", str(tmp_path / "out")]) == 0
    assert "sampled 40/40 frames, " in capsys.readouterr().out
    assert np.load(tmp_path / "out" / file_name("000001", "npz"))["video"].shape == (20, 8, 8, 3)
    assert main([*words, "--num-frames", "64", "--out", str(tmp_path / "short")]) == 0
    assert "sampled 2/2 videos, " in capsys.readouterr().out
    assert main([*words, "--num-frames", "65", "--out", str(tmp_path / "longer")]) == 0
    assert "sampled 130/130 frames, " in capsys.readouterr().out
