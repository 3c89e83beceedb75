"""torchcodec, where it is chosen, reads the same frames; by the real one where it is installed, else by a stand-in."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch

from tests.data.video_files import VIDEOS, make_video
from vidgen.data import torchcodec_reader
from vidgen.data.decoding import read_frames, scan
from vidgen.data.torchcodec_reader import read_frames_by_torchcodec
from vidgen.data.video_folder import VideoFolder
from vidgen.errors import UserError

READ = ("h264", "h264_open_gop", "h264_mkv", "uneven_times", "many_streams", "hevc_open_gop", "vp9", "av1")
LEFT = (
    "h264_ts",
    "h264_avi",
    "h264_interlaced",
    "h264_without_times",
    "rotated",
    "hevc_10_bit",
    "mpeg4",
    "gif",
    "ffv1",
)


class StandIn:
    """torchcodec's decoder as far as it is used: numbers frames by the given times, and tells about the stream."""

    opened: list[str] = []

    def __init__(
        self, path: Any, *, dimension_order: str = "", num_ffmpeg_threads: int = 0, custom_frame_mappings: str = ""
    ) -> None:
        if not path:
            raise ValueError("no data")
        assert dimension_order == "NHWC" and num_ffmpeg_threads == 1
        self.opened.append(path)
        rows = json.loads(custom_frame_mappings)["frames"]
        assert rows[0]["key_frame"] == 1 and all(row["duration"] > 0 for row in rows)
        with av.open(path) as container:
            stream = container.streams.video[0]
            frames = {frame.pts: frame for frame in container.decode(stream)}
            rotation = next(iter(frames.values())).rotation
            self.metadata = SimpleNamespace(
                codec=stream.codec_context.codec.canonical_name,
                pixel_format=stream.codec_context.pix_fmt,
                rotation=rotation or None,
                width=stream.width,
                height=stream.height,
            )
            self._pixels = [frames[row["pts"]].to_ndarray(format="rgb24") for row in rows]

    def get_frames_at(self, numbers: list[int]) -> Any:
        assert numbers == sorted(set(numbers))
        return SimpleNamespace(data=torch.from_numpy(np.stack([self._pixels[number] for number in numbers])))


@pytest.fixture(autouse=True)
def torchcodec(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make ``torchcodec.decoders`` importable."""
    StandIn.opened = []
    try:
        import torchcodec.decoders as real

        plain = real.VideoDecoder

        def decoder(path: Any, **arguments: Any) -> Any:
            StandIn.opened += [path] if path else []
            return plain(path, **arguments)

        monkeypatch.setattr(real, "VideoDecoder", decoder)
    except (ImportError, OSError, RuntimeError):
        package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
        decoders.VideoDecoder = StandIn  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torchcodec", package)
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def made(folder: Path, kind: str) -> str:
    path = folder / f"{kind}.{VIDEOS[kind].suffix}"
    return str(path if path.exists() else make_video(path, VIDEOS[kind]))


@pytest.mark.parametrize("kind", [*READ, *LEFT])
def test_the_frames_are_the_same(folder, monkeypatch, kind):
    path = made(folder, kind)
    found = scan(path)
    wanted = [found.length - 1, 0, found.length // 2, 0]
    expected = read_frames(path, found, wanted)
    left = []

    def plain(*arguments: Any) -> Any:
        left.append(arguments[0])
        return read_frames(*arguments)

    monkeypatch.setattr(torchcodec_reader, "read_frames", plain)
    frames = read_frames_by_torchcodec(path, found, wanted)
    assert all(np.array_equal(a, b) for a, b in zip(frames, expected, strict=True))
    assert left == ([path] if kind in LEFT else [])
    assert StandIn.opened == [path] or kind in LEFT


def test_frames_are_converted_once_each(folder):
    path = made(folder, "h264")
    seen: list[int] = []

    def shrink(frame: np.ndarray) -> np.ndarray:
        seen.append(1)
        return frame[::2, ::2]

    frames = read_frames_by_torchcodec(path, scan(path), [3, 1, 3], convert=shrink)
    assert [frame.shape for frame in frames] == [(24, 32, 3)] * 3 and len(seen) == 2


def test_a_file_that_torchcodec_cannot_read_is_read_by_the_other(folder, monkeypatch):
    path = made(folder, "h264")
    found = scan(path)

    def fails(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("Requested next frame while there are no more frames left to decode.")

    monkeypatch.setattr(sys.modules["torchcodec.decoders"], "VideoDecoder", fails)
    assert np.array_equal(read_frames_by_torchcodec(path, found, [4])[0], read_frames(path, found, [4])[0])


def test_a_data_set_reads_by_it(folder, tmp_path):
    make_video(tmp_path / "a.mp4", VIDEOS["h264"])
    plain, chosen = (VideoFolder(str(tmp_path), 16, 4, decoder=name) for name in ("pyav", "torchcodec"))
    for video in (0,):
        times = [1, 3, 5, 7]
        assert np.array_equal(chosen.fitted(video, times, 16), plain.fitted(video, times, 16))
    assert StandIn.opened == [str(tmp_path / "a.mp4")]


def test_torchcodec_without_its_libraries_is_refused(monkeypatch, tmp_path):
    def fails(*arguments: Any, **more: Any) -> None:
        raise RuntimeError("Could not load libtorchcodec. Likely causes:\n  1. FFmpeg is not properly installed.")

    make_video(tmp_path / "a.mp4", VIDEOS["h264"])
    monkeypatch.setattr(sys.modules["torchcodec.decoders"], "VideoDecoder", fails)
    with pytest.raises(UserError) as error:
        VideoFolder(str(tmp_path), 16, 4, decoder="torchcodec")
    assert str(error.value) == (
        "data.decoder 'torchcodec' cannot be used (Could not load libtorchcodec);"
        " install torchcodec and FFmpeg, or leave it out"
    )


def test_without_torchcodec_the_setting_is_refused(monkeypatch, tmp_path):
    make_video(tmp_path / "a.mp4", VIDEOS["h264"])
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(UserError) as error:
        VideoFolder(str(tmp_path), 16, 4, decoder="torchcodec")
    assert str(error.value) == (
        "data.decoder 'torchcodec' cannot be used (import of torchcodec.decoders halted; None in sys.modules);"
        " install torchcodec and FFmpeg, or leave it out"
    )
