"""Packing by several processes that are killed or interrupted."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.data.strips import make_strips
from tests.data.test_packing import check_stopped, contents

STRIPS = {f"{number:02d}.png": 4 + number % 7 for number in range(24)}


def command(strips: Path, out: Path, *words: str) -> list[str]:
    config = strips.parent / "config.yaml"
    config.write_text(f"data: {{name: frame_strips, root: {strips}, resolution: 64, num_frames: 2}}\n")
    return [sys.executable, "-m", "vidgen", "data", "pack", str(config), "--out", str(out), "--shard-mb", "1", *words]


@pytest.mark.slow
def test_any_number_of_processes_makes_the_same_bytes(tmp_path):
    strips = make_strips(tmp_path / "strips", STRIPS, side=160)
    for workers in ("1", "2"):
        done = subprocess.run(command(strips, tmp_path / workers, "--workers", workers), capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr.count("\n") == done.stderr.count("packed ")
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(contents(tmp_path / "1")) > 5


@pytest.mark.slow
def test_a_run_of_processes_killed_at_random_is_taken_up_again(tmp_path):
    strips = make_strips(tmp_path / "strips", STRIPS, side=640)
    subprocess.run(command(strips, tmp_path / "whole", "--workers", "1"), check=True, capture_output=True)
    whole, rng, out = contents(tmp_path / "whole"), random.Random(0), tmp_path / "pack"
    for _ in range(3):
        run = subprocess.Popen(command(strips, out, "--workers", "2"), stdout=subprocess.DEVNULL)
        time.sleep(3 + 6 * rng.random())
        workers = children(run.pid)
        run.kill()
        run.wait()
        check_stopped(out, whole)
        assert ended(workers)
    subprocess.run(command(strips, out, "--workers", "2"), check=True, capture_output=True)
    assert contents(out) == whole


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_line(tmp_path):
    strips = make_strips(tmp_path / "strips", STRIPS, side=640)
    run = subprocess.Popen(
        command(strips, tmp_path / "pack", "--workers", "2"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while run.poll() is None and not (workers := writers(run.pid, tmp_path / "pack")):
        time.sleep(0.01)
    os.kill(workers[0], signal.SIGKILL)
    out, err = run.communicate()
    assert (run.returncode, out) == (2, "")
    assert err == (
        f"vidgen: error: --out: {tmp_path}/pack: a process that packed was killed (out of memory?);"
        " run it again, with fewer --workers\n"
    )


@pytest.mark.slow
def test_an_interrupt_is_one_line(tmp_path):
    strips = make_strips(tmp_path / "strips", STRIPS, side=640)
    run = subprocess.Popen(
        command(strips, tmp_path / "pack", "--workers", "2"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while run.poll() is None and not writers(run.pid, tmp_path / "pack"):
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)
    out, err = run.communicate()
    assert (run.returncode, out, err) == (130, "", "vidgen: error: interrupted\n")
    assert not any(name.endswith(".partial") for name in os.listdir(tmp_path / "pack"))


def children(process: int) -> list[int]:
    found = Path(f"/proc/{process}/task/{process}/children")
    return [int(word) for word in found.read_text().split()] if found.exists() else []


def writers(process: int, out: Path) -> list[int]:
    """Worker processes, once one of them writes a shard."""
    if not out.is_dir() or not any(name.startswith(".shard") for name in os.listdir(out)):
        return []
    return [child for child in children(process) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def ended(processes: Sequence[int]) -> bool:
    """Whether processes end within seconds."""
    for _ in range(200):
        if not any(alive(process) for process in processes):
            return True
        time.sleep(0.05)
    return False


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
