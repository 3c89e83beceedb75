"""Evaluations of several processes, killed ones, and how much memory they take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save as save_tensors

from tests.evaluation.tiny import METRICS, FrameDistance, TinyDistance, TinyExtractor, TinyOrder, clips_of, videos
from tests.metrics.test_base import tiny
from tests.noise_model import SeededNoise
from vidgen.cli.main import main
from vidgen.distributed import process_group, world
from vidgen.errors import UserError
from vidgen.evaluation.run import Settings, evaluate
from vidgen.evaluation.sources import ClipRule, GeneratedClips, StoredClips

ROOT = Path(__file__).resolve().parents[2]


def measured(folder: str, real: int, fake: int, cache: str, generated: bool = False) -> dict[str, Any]:
    """What an evaluation of some videos of a folder finds."""
    from unittest.mock import patch

    os.environ["VIDGEN_CACHE"] = cache
    with patch("vidgen.metrics.video_distances.shared_extractor", tiny):
        from vidgen.metrics.video_distances import FrechetVideoDistance, KernelVideoDistance

        distances = [FrechetVideoDistance(num_frames=6), KernelVideoDistance(num_frames=6)]

    def made(rule: ClipRule) -> GeneratedClips:
        return GeneratedClips(SeededNoise(size=8).eval(), fake, rule)

    result = evaluate(
        [*distances, FrameDistance(6), TinyOrder(6)],
        real=lambda rule: clips_of(Path(folder) / "real.npy", rule, real),
        fake=made if generated else lambda rule: clips_of(Path(folder) / "fake.npy", rule, fake),
        settings=Settings(progress=False, num_samples=3),
    )
    about = result.metrics["fvd"].protocol
    return {
        "values": {name: metric.value for name, metric in result.metrics.items()},
        "counts": [about[side]["num_clips"] for side in ("real", "fake")],
        "fingerprints": [about[side]["fingerprint"] for side in ("real", "fake")],
        "warnings": result.all_warnings(),
        "samples": [video.sum() for video in (*result.samples.real, *result.samples.fake)],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Real and generated videos."""
    np.save(tmp_path / "real.npy", videos(53, seed=1))
    np.save(tmp_path / "fake.npy", videos(37, seed=2))
    return tmp_path


@pytest.mark.parametrize(
    ("real", "fake", "generated"), [(53, 37, False), (33, 10, False), (10, 7, False), (40, 21, True)]
)
def test_two_processes_equal_one(pair, folder, monkeypatch, real, fake, generated):
    monkeypatch.setenv("VIDGEN_CACHE", "")
    settings = {"folder": str(folder), "real": real, "fake": fake, "generated": generated}
    alone = measured(cache=str(folder / "one"), **settings)
    assert alone["counts"] == [real, fake]
    for found in pair.run(measured, cache=str(folder / "two"), **settings):
        assert found["values"] == pytest.approx(alone["values"], rel=1e-9, abs=1e-12)
        assert {**found, "values": 0} == {**alone, "values": 0}
    again = measured(cache=str(folder / "two"), **settings)  # with what the two have kept
    assert again["values"] == alone["values"]


def failing_on_one(folder: str, kind: str) -> str:
    class Broken(StoredClips):
        def read(self, numbers: Any) -> Any:
            if world()[0] == 1:
                raise UserError("x.mp4: on fire") if kind == "user" else ValueError("strange\nclip")
            return super().read(numbers)

    plain = clips_of(Path(folder) / "real.npy", ClipRule(6))
    try:
        evaluate(
            [TinyDistance(num_frames=6)],
            real=lambda rule: Broken(plain.dataset, rule, native=True, name="x"),
            fake=lambda rule: clips_of(Path(folder) / "fake.npy", rule),
            settings=Settings(progress=False, keep_real=False),
        )
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("kind", "message"), [("user", "x.mp4: on fire"), ("value", "strange clip")])
def test_an_error_of_one_process_ends_all_with_the_same_line(pair, folder, kind, message):
    assert pair.run(failing_on_one, folder=str(folder), kind=kind) == [message, message]


def fills(folder: str, cache: str) -> float:
    """Each process evaluates by itself, at the same time and into the same cache."""
    from unittest.mock import patch

    with patch("vidgen.evaluation.passes.world", lambda: (0, 1)), patch("vidgen.evaluation.run.world", lambda: (0, 1)):
        os.environ["VIDGEN_CACHE"] = cache
        metric = TinyDistance(num_frames=6)
        metric.sync_on_compute = False
        metric._to_sync = False
        with patch("vidgen.evaluation.run.gather_objects", lambda value: [value]):
            result = evaluate(
                [metric],
                real=lambda rule: clips_of(Path(folder) / "real.npy", rule),
                fake=lambda rule: clips_of(Path(folder) / "fake.npy", rule),
                settings=Settings(progress=False, batch_size=1),
            )
    return result.metrics["tiny_fd"].value


def test_two_evaluations_fill_the_cache_at_once(pair, folder):
    one, two = pair.run(fills, folder=str(folder), cache=str(folder / "shared"))
    assert one == two
    assert not [path for path in (folder / "shared").rglob("*") if "partial" in path.name]


def test_processes_must_know_where_to_meet(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError) as error, process_group():
        pass
    assert str(error.value) == (
        "2 processes were started, but MASTER_ADDR and MASTER_PORT do not say where they meet; set them to the host of"
        " the first and a free port, or start with torchrun"
    )


def test_one_process_needs_no_meeting(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with process_group() as rank:
        assert rank == 0


SLOW = """
import sys, time
from pathlib import Path
from tests.evaluation import tiny
from tests.evaluation.tiny import TinyDistance, clips_of
from vidgen.evaluation.run import Settings, evaluate

extract = TinyDistance.extract
def slow(self, videos, real):
    print("batch", flush=True)
    time.sleep(float(sys.argv[2]))
    return extract(self, videos, real)
TinyDistance.extract = slow
result = evaluate([TinyDistance(num_frames=6)], settings=Settings(progress=False, num_samples=0),
    real=lambda rule: clips_of(Path(sys.argv[1]) / "real.npy", rule),
    fake=lambda rule: clips_of(Path(sys.argv[1]) / "fake.npy", rule))
print("value", repr(result.metrics["tiny_fd"].value))
"""


def value(folder: Path) -> float:
    result = evaluate(
        [TinyDistance(num_frames=6)],
        real=lambda rule: clips_of(folder / "real.npy", rule),
        fake=lambda rule: clips_of(folder / "fake.npy", rule),
        settings=Settings(progress=False, num_samples=0),
    )
    return result.metrics["tiny_fd"].value


def test_a_killed_evaluation_continues_and_gives_the_identical_value(folder, monkeypatch):
    environment = {**os.environ, "VIDGEN_CACHE": str(folder / "killed"), "PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(folder), "0.2"], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert killed.stdout is not None
    for _ in range(5):  # two chunks of two batches, and half of the third
        assert killed.stdout.readline() == "batch\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    monkeypatch.setenv("VIDGEN_CACHE", str(folder / "killed"))
    TinyExtractor.looked_at = 0
    rest = value(folder)
    assert TinyExtractor.looked_at == 53 - 32 + 37
    monkeypatch.setenv("VIDGEN_CACHE", str(folder / "whole"))
    assert rest == value(folder)


MEMORY = """
import resource, sys
from pathlib import Path
from tests.evaluation.tiny import TinyDistance, clips_of
from tests.noise_model import SeededNoise
from vidgen.evaluation.run import Settings, evaluate
from vidgen.evaluation.sources import GeneratedClips

def measure(number):
    evaluate([TinyDistance(num_frames=4)], settings=Settings(progress=False),
        real=lambda rule: clips_of(Path(sys.argv[1]) / "real.npy", rule, number),
        fake=lambda rule: GeneratedClips(SeededNoise(size=64), number, rule))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
measure(64)
print(measure(200), measure(2000))
"""


def test_memory_does_not_grow_with_the_number_of_videos(tmp_path):
    from numpy.lib.format import open_memmap

    array = open_memmap(tmp_path / "real.npy", mode="w+", dtype=np.uint8, shape=(2000, 4, 32, 32, 3))
    array[:, 0, 0, 0] = np.arange(2000)[:, None] % 250
    array.flush()
    del array
    environment = {**os.environ, "VIDGEN_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    few, many = map(float, done.stdout.split())
    made = 2000 * 4 * 64 * 64 * 3 / 2**20  # MB; the videos of one side
    assert many - few < made / 2


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("end", "status"),
    [(lambda: os.kill(os.getpid(), signal.SIGTERM), 143), (interrupt, 130)],
    ids=["sigterm", "ctrl_c"],
)
def test_an_evaluation_that_is_stopped_leaves_no_unfinished_files(folder, monkeypatch, capsys, end, status):
    monkeypatch.setenv("VIDGEN_CACHE", str(folder / "cache"))
    before = signal.getsignal(signal.SIGTERM)
    saved: list[int] = []

    def stop(tensors: Any) -> bytes:
        saved.append(1)
        if len(saved) == 10:  # eight samples and a chunk before
            end()
        return save_tensors(tensors)

    monkeypatch.setattr("vidgen.evaluation.features.save_tensors", stop)
    places = ["--real", str(folder / "real.npy"), "--fake", str(folder / "fake.npy"), "--device", "cpu"]
    asked = ["--metric", METRICS + "TinyDistance", "--num-frames", "6", "--out", str(folder / "new" / "out.json")]
    assert main(["eval", *places, *asked]) == status
    assert "Traceback" not in capsys.readouterr().err
    assert [path.name for path in (folder / "cache").rglob("0*.safetensors")] == ["000000.safetensors"]
    assert not [path for path in folder.rglob("*") if "partial" in path.name]
    assert not (folder / "new").exists()
    assert signal.getsignal(signal.SIGTERM) is before
