"""A thousand damaged files: each gives frames or a reason, and nothing crashes, hangs, leaks or prints."""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.data.video_files import VIDEOS, make_video
from vidgen.data.decoding import Unreadable, read_frames, scan

KINDS = (
    *("h264", "h264_ts", "h264_mkv", "h264_fragmented", "hevc_10_bit", "vp9", "vp8", "av1", "mpeg4_avi", "mpeg2"),
    *("gif", "ffv1", "mjpeg", "flv", "wmv", "apng"),
)
NUM_FILES = 1000
SECONDS = 10


def damaged(data: bytes, rng: random.Random) -> bytes:
    """A file with flipped bits, anywhere or in its header, with a hole, overwritten in part, or cut off."""
    content = bytearray(data)
    kind = rng.choice(("flips", "flips", "header", "hole", "zeros", "cut"))
    if kind in ("flips", "header"):
        end = 600 if kind == "header" else len(content)
        for _ in range(rng.choice((1, 3, 10, 100))):
            content[rng.randrange(min(end, len(content)))] ^= 1 << rng.randrange(8)
        return bytes(content)
    start, stop = sorted(rng.randrange(len(content)) for _ in range(2))
    if kind == "hole":
        return bytes(content[:start] + content[stop:])
    if kind == "zeros":
        content[start:stop] = bytes(stop - start)
        return bytes(content)
    return bytes(content[:start])


def outcome(path: Path, rng: random.Random) -> str:
    """What comes of scanning a file and of reading three clips: ``frames`` or the reason."""
    try:
        found = scan(path)
        for _ in range(3):
            start = rng.randrange(found.length)
            wanted = range(start, min(start + 8, found.length))
            for frame in read_frames(path, found, wanted):
                if frame.shape != (found.height, found.width, 3):
                    return f"shape {frame.shape} in place of {(found.height, found.width, 3)}"
    except Unreadable as error:
        return f"unreadable: {error}"
    return "frames"


def memory() -> int:
    """Bytes that this process holds."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def serve(folder: str) -> None:
    """Go through all damaged files twice; print the outcomes of both times and the memory held after each."""
    sources = [path.read_bytes() for path in sorted(Path(folder, "whole").iterdir())]
    names = [path.suffix for path in sorted(Path(folder, "whole").iterdir())]
    passes, held = [], []
    for _ in range(2):
        outcomes = []
        for number in range(NUM_FILES):
            rng = random.Random(number)
            path = Path(folder, f"{number}{names[number % len(names)]}")
            path.write_bytes(damaged(sources[number % len(sources)], rng))
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            outcomes.append(outcome(path, rng))
            faulthandler.cancel_dump_traceback_later()
            path.unlink()
        passes.append(outcomes)
        held.append(memory())
    print(json.dumps({"passes": passes, "held": held}))


@pytest.mark.slow
def test_damaged_files_give_frames_or_a_reason(tmp_path):
    for name in KINDS:
        make_video(tmp_path / "whole" / f"{name}.{VIDEOS[name].suffix}", VIDEOS[name])
    command = [sys.executable, "-c", f"from tests.data.test_damaged import serve; serve({str(tmp_path)!r})"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    result = json.loads(done.stdout)
    first, second = result["passes"]
    assert first == second
    counts = Counter(text.split(":")[0] for text in first)
    assert set(counts) == {"frames", "unreadable"} and min(counts.values()) > NUM_FILES // 10, counts
    assert not [text for text in first if "\n" in text or len(text) > 200]
    assert result["held"][1] - result["held"][0] < 20 * 2**20
