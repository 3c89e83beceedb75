"""The index of a folder: each file is opened once, whatever else happens."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.data.video_files import VIDEOS, make_video
from vidgen.data import index
from vidgen.data.decoding import Unreadable, VideoScan, scan
from vidgen.data.index import IndexItem, VideoIndex, index_videos
from vidgen.data.video_folder import VideoFolder

NAMES = ("h264", "mkv_live", "uneven_times", "wide_pixels", "gif", "h264_without_times")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in NAMES:
        make_video(tmp_path / "videos" / f"{name}.{VIDEOS[name].suffix}", VIDEOS[name])
    (tmp_path / "videos" / "bad.mp4").write_text("no video")
    return tmp_path / "videos"


def listed(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def stored(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "index").glob("*.npz"))


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Names of the files that are scanned."""
    names: list[str] = []

    def counted(path):
        names.append(os.path.basename(path))
        return scan(path)

    monkeypatch.setattr(index, "scan", counted)
    return names


def same(a: VideoScan, b: VideoScan) -> bool:
    parts = ("length", "tick", "last_ticks", "width", "height", "pixel_aspect")
    arrays = np.array_equal(a.times, b.times) and np.array_equal(a.keys, b.keys)
    return arrays and all(getattr(a, part) == getattr(b, part) for part in parts)


def check(found: VideoIndex, folder: Path) -> None:
    """An index says of every file what a scan says."""
    assert list(found.names) == listed(folder)
    for number, name in enumerate(found.names):
        try:
            expected = scan(folder / name)
        except Unreadable as error:
            assert found.reasons[number] == str(error) and not found.entries["length"][number], name
        else:
            assert same(found.scan(number), expected) and found.reasons[number] == "", name


def test_an_index_says_what_a_scan_says(folder):
    check(index_videos(folder, listed(folder)), folder)


def test_a_stored_index_says_the_same_and_opens_nothing(folder, opened):
    index_videos(folder, listed(folder))
    assert sorted(opened) == listed(folder)
    opened.clear()
    check(index_videos(folder, listed(folder)), folder)
    assert opened == []


def test_only_what_is_new_or_changed_is_opened(folder, opened):
    index_videos(folder, listed(folder))
    opened.clear()
    make_video(folder / "new.mp4", VIDEOS["one_frame"])
    before = (folder / "bad.mp4").stat()
    (folder / "bad.mp4").write_bytes((folder / "h264.mp4").read_bytes())
    os.utime(folder / "bad.mp4", ns=(before.st_atime_ns, before.st_mtime_ns))  # its size alone tells
    os.utime(folder / "gif.gif", ns=(1, 1))
    check(index_videos(folder, listed(folder)), folder)
    assert sorted(opened) == ["bad.mp4", "gif.gif", "new.mp4"]
    opened.clear()
    check(index_videos(folder, listed(folder)), folder)
    assert opened == []


def test_parts_of_a_folder_share_one_index(folder, opened):
    names = listed(folder)
    index_videos(folder, names[:4])
    index_videos(folder, names[2:])
    opened.clear()
    for part in (names[::-1], names[1::2], names[:1], []):
        assert list(index_videos(folder, part).names) == part
    assert opened == []


def test_an_index_follows_the_folder_and_not_its_spelling(folder, opened, monkeypatch):
    index_videos(folder, listed(folder))
    opened.clear()
    (folder.parent / "link").symlink_to(folder)
    index_videos(folder.parent / "link", listed(folder))
    monkeypatch.chdir(folder.parent)
    index_videos(Path("videos"), listed(folder))
    assert opened == []


def test_a_file_that_is_gone_or_may_not_be_read_is_tried_again(folder, opened, monkeypatch):
    (folder / "link.mp4").symlink_to(folder.parent / "later.mp4")
    found = index_videos(folder, listed(folder))
    assert found.reasons[listed(folder).index("link.mp4")] == "a link that leads nowhere"
    make_video(folder.parent / "later.mp4", VIDEOS["one_frame"])
    check(index_videos(folder, listed(folder)), folder)

    def forbidden(path):
        raise Unreadable("permission denied", passing=True)

    os.utime(folder / "gif.gif", ns=(1, 1))
    monkeypatch.setattr(index, "scan", forbidden)
    found = index_videos(folder, listed(folder))
    assert found.reasons[listed(folder).index("gif.gif")] == "permission denied"
    monkeypatch.setattr(index, "scan", scan)
    check(index_videos(folder, listed(folder)), folder)


def test_names_that_are_no_text_are_kept(folder):
    os.rename(os.fsencode(folder / "gif.gif"), os.fsencode(folder) + b"/caf\xe9\xff.gif")
    os.rename(folder / "h264.mp4", folder / "動画.mp4")
    index_videos(folder, listed(folder))
    check(index_videos(folder, listed(folder)), folder)


def test_a_damaged_or_foreign_index_is_made_again(folder, tmp_path, opened):
    expected = index_videos(folder, listed(folder))
    (path,) = stored(tmp_path)
    data = path.read_bytes()
    rng = random.Random(0)
    damages = [b"", b"text", data[: len(data) // 2], b"\x93NUMPY" + data, data + b"x" * 100]
    for _ in range(150):
        flipped = bytearray(data)
        for _ in range(rng.choice((1, 5, 50))):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        damages.append(bytes(flipped))
    for damage in damages:
        path.write_bytes(damage)
        read = VideoIndex.read(path)
        assert len(read) in (0, len(expected))
        assert all(read.reasons[n] or same(read.scan(n), expected.scan(n)) for n in range(len(read)))
    path.write_bytes(data[:1000])
    opened.clear()
    check(index_videos(folder, listed(folder)), folder)
    assert sorted(opened) == listed(folder)


def test_an_index_of_another_version_is_made_again(folder, opened, monkeypatch):
    index_videos(folder, listed(folder))
    opened.clear()
    monkeypatch.setattr(index, "FORMAT", index.FORMAT + 1)
    check(index_videos(folder, listed(folder)), folder)
    assert sorted(opened) == listed(folder)


def test_a_cache_that_cannot_be_written_stops_nothing_and_is_told_of(folder, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "file"))
    check(index_videos(folder, listed(folder)), folder)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"the index of {folder} cannot be kept, so that every start makes it anew: {tmp_path}/file")
    caplog.clear()
    check(index_videos(folder, listed(folder), quiet=True), folder)
    assert not caplog.records
    monkeypatch.setenv("VIDGEN_CACHE", "/proc/nothing")
    check(index_videos(folder, listed(folder)), folder)


def test_indexing_is_silent(folder, caplog, capfd):
    index_videos(folder, listed(folder))
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_an_interrupt_keeps_what_was_scanned(folder, opened, monkeypatch):
    def interrupted(path):
        if path.endswith("wide_pixels.mp4"):
            raise KeyboardInterrupt
        return scan(path)

    counted = index.scan
    monkeypatch.setattr(index, "scan", interrupted)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    with pytest.raises(KeyboardInterrupt):
        index_videos(folder, listed(folder))
    monkeypatch.setattr(index, "scan", counted)
    check(index_videos(folder, listed(folder)), folder)
    assert "wide_pixels.mp4" in opened and len(opened) < len(listed(folder))


SLOWLY = """
import sys, time
from pathlib import Path
from vidgen.data import index
whole, log = index.scan, sys.argv[2]
def scan(path):
    with open(log, "a") as file:
        file.write(path + "\\n")
    time.sleep(0.03)
    return whole(path)
index.scan = scan
index.SECONDS_BETWEEN_SAVES = 0.0
root = Path(sys.argv[1])
found = index.index_videos(root, sorted(path.name for path in root.iterdir()))
print(len(found), int(found.entries["length"].sum()))
"""


def copies(tmp_path: Path, number: int) -> Path:
    """A folder of so many equal videos of 30 frames."""
    data = make_video(tmp_path / "one.mp4", VIDEOS["h264"]).read_bytes()
    (tmp_path / "many").mkdir()
    for n in range(number):
        (tmp_path / "many" / f"{n:03d}.mp4").write_bytes(data)
    return tmp_path / "many"


def start(root: Path, log: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOWLY, str(root), str(log)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_scan_each_file_once(tmp_path):
    root = copies(tmp_path, 20)
    running = [start(root, tmp_path / "log") for _ in range(2)]
    said = sorted(process.communicate(timeout=60) for process in running)
    assert said == [("20 600\n", ""), ("20 600\n", f"waiting for another process that indexes {root}\n")]
    assert len((tmp_path / "log").read_text().splitlines()) == 20


def test_a_killed_process_loses_little_and_blocks_nobody(tmp_path, opened):
    root = copies(tmp_path, 60)
    process = start(root, tmp_path / "log")
    while not stored(tmp_path) or len(VideoIndex.read(stored(tmp_path)[0])) < 5:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    check(index_videos(root, listed(root)), root)
    assert 0 < len(opened) <= 55


@pytest.mark.slow
@pytest.mark.parametrize("fps", [None, 12.5])
def test_a_second_start_with_100_000_files_opens_none(tmp_path, opened, fps):
    """Tiny files, with the index that scanning as many videos would have left."""
    root = tmp_path / "videos"
    names = [f"{n // 1000:02d}/{n:06d}.mp4" for n in range(100_000)]
    for number, name in enumerate(names):
        if number % 1000 == 0:
            (root / name).parent.mkdir(parents=True)
        os.close(os.open(root / name, os.O_CREAT | os.O_WRONLY))
    times = np.arange(0, 250 * 512, 512)
    uneven = times + np.arange(250) % 3
    keys = np.arange(0, 250, 25)
    items = []
    for number, name in enumerate(names):
        found = VideoScan(uneven if number % 10 == 0 else times, 250, keys, Fraction(1, 12800), 512, 320, 240)
        items.append(IndexItem(name, 0, os.stat(root / name).st_mtime_ns, found))
    index_videos(root, [])
    VideoIndex.of(items).write(index._place(root))
    start = time.monotonic()
    dataset = VideoFolder(str(root), 64, 16, fps=fps)
    seconds = time.monotonic() - start
    print(f"second start with 100,000 files: {seconds:.1f} s")
    assert len(dataset) == 100_000 and opened == []
    assert seconds < 30
