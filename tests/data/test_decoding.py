"""Video files to frames: every frame of every kind of file is the one that a full decoding gives."""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from tests.data.video_files import VIDEOS, Video, draw_patches, make_video
from vidgen.data import decoding
from vidgen.data.decoding import Unreadable, VideoScan, frames_of, read_frames, scan
from vidgen.data.video_folder import frames_at

Made = Callable[..., Path]

NO_VIDEO = "not a video that FFmpeg can read (Invalid data found when processing input)"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    """Makes each of :data:`VIDEOS` once."""
    folder = tmp_path_factory.mktemp("videos")
    files: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in files:
            files[name] = make_video(folder / f"{name}.{VIDEOS[name].suffix}", VIDEOS[name])
        return files[name]

    return make


def plain_decoding(path: Path, quarter_turns: int = 0) -> list[np.ndarray]:
    """All frames of the first video stream that is no cover, by PyAV alone."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
        return [np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns) for frame in container.decode(stream)]


def turns(name: str) -> int:
    return VIDEOS[name].rotation // 90


def reason(path: Path) -> str:
    with pytest.raises(Unreadable) as error:
        scan(path)
    return str(error.value)


@pytest.mark.parametrize("name", VIDEOS)
def test_each_frame_alone_is_that_of_a_full_decoding(name, made):
    path = made(name)
    expected = plain_decoding(path, turns(name))
    found = scan(path)
    assert found.length == len(expected) == {"edit_list": 25}.get(name, VIDEOS[name].num_frames)
    assert (found.height, found.width) == expected[0].shape[:2]
    for number in range(found.length):
        (frame,) = read_frames(path, found, [number])
        assert np.array_equal(frame, expected[number]), number


@pytest.mark.parametrize("name", VIDEOS)
def test_any_frames_in_any_order_are_those_of_a_full_decoding(name, made):
    path = made(name)
    expected = plain_decoding(path, turns(name))
    found = scan(path)
    rng = random.Random(name)
    for _ in range(12):
        wanted = [rng.randrange(found.length) for _ in range(rng.randrange(1, 10))]
        frames = read_frames(path, found, wanted)
        assert all(np.array_equal(frame, expected[n]) for frame, n in zip(frames, wanted, strict=True)), wanted
    assert [np.array_equal(a, b) for a, b in zip(frames_of(path), expected, strict=True)].count(False) == 0


def test_neighbouring_frames_of_the_test_files_differ(made):
    for name in VIDEOS:
        frames = plain_decoding(made(name))
        assert all(not np.array_equal(a, b) for a, b in pairwise(frames)), name


def shown_at(times: list[Fraction], moment: Fraction, slack: Fraction) -> int:
    """The last frame that is presented at a moment, or so soon that rounding explains it, by looking at them all."""
    return max(n for n, time in enumerate(times) if time - times[0] - slack <= moment)


WITHOUT_TIMES = ("h264_without_times", "h264_avi_b", "h264_asf_b")


@pytest.mark.parametrize("name", [name for name in VIDEOS if name not in WITHOUT_TIMES])
@pytest.mark.parametrize("fps", [Fraction(8), Fraction(25), Fraction(30000, 1001), Fraction(90)])
def test_frames_at_a_rate_are_those_shown_at_its_moments(name, fps, made):
    found = scan(made(name))
    with av.open(str(made(name))) as container:
        stream = next(s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
        times = [frame.pts * frame.time_base for frame in container.decode(stream)]
        slack = min(stream.time_base / 2, (times[-1] - times[0]) / max(1, len(times) - 1) / 8)
    moments = range(int((times[-1] - times[0]) * fps) + 1)
    expected = [shown_at(times, moment / fps, slack) for moment in moments]
    assert frames_at(found, fps, list(moments)) == expected


def test_a_rate_of_the_file_itself_takes_every_frame_once(made):
    for name in ("h264", "mkv_live", "h264_ts", "flv", "gif", "mpeg4_avi"):
        found = scan(made(name))
        assert frames_at(found, Fraction(25), range(found.length)) == list(range(found.length)), name


def test_a_container_of_coarse_times_gives_the_same_frames_at_a_rate(made):
    for name in ("h264", "h264_mkv", "mpeg4_avi"):
        assert frames_at(scan(made(name)), Fraction(8), range(6)) == [0, 3, 6, 9, 12, 15], name


def test_uneven_times_are_those_that_were_written(made):
    found = scan(made("uneven_times"))
    assert [round(float((t - found.times[0]) * found.tick), 3) for t in found.times.tolist()] == [
        time / 1000 for time in VIDEOS["uneven_times"].times or ()
    ]


def test_rate_and_duration(made):
    for name in ("h264", "h264_mkv", "mpeg4_avi", "vp9", "h264_fragmented"):
        found = scan(made(name))
        assert found.fps == pytest.approx(25, rel=1e-3) and found.duration == pytest.approx(1.2, rel=1e-3), name
    for name in WITHOUT_TIMES:
        bare = scan(made(name))
        assert (bare.fps, bare.duration, len(bare.times), bare.length) == (None, None, 0, 30), name


def test_a_packet_scan_decodes_one_frame(made, monkeypatch):
    monkeypatch.setattr(decoding, "_scan_frames", lambda video: pytest.fail("decoded"))
    names = ("h264", "h264_open_gop_mkv", "h264_ts", "hevc_10_bit", "vp9", "av1", "ffv1", "mjpeg", "mkv_live")
    assert {scan(made(name)).length for name in names} == {30}


def test_a_packet_scan_says_what_full_decoding_says(made):
    for name in VIDEOS:
        with decoding._opened(made(name)) as video:
            fast = decoding._scan_packets(video)
        if fast is None:
            continue
        with decoding._opened(made(name)) as video:
            slow = decoding._scan_frames(video)
        assert fast.times.tolist() == slow.times.tolist() and fast.last_ticks == slow.last_ticks, name
        assert set(slow.keys.tolist()) <= set(fast.keys.tolist()), name  # recovery points begin no frame of their own


def test_fields_are_not_taken_for_frames(made):
    with decoding._opened(made("h264_interlaced")) as video:
        assert decoding._scan_packets(video) is None


def test_frames_that_an_edit_list_cuts_off_are_no_frames(made, tmp_path):
    data = bytearray(made("h264").read_bytes())
    place = data.index(b"elst") + 12  # behind name, version, flags and number of entries
    assert int.from_bytes(data[place : place + 4], "big") == 1200  # ms
    data[place : place + 4] = (600).to_bytes(4, "big")
    path = tmp_path / "a.mp4"
    path.write_bytes(data)
    expected = plain_decoding(path)
    found = scan(path)
    assert len(expected) == found.length < 20
    assert all(np.array_equal(read_frames(path, found, [n])[0], expected[n]) for n in range(found.length))


def test_a_rotated_file_is_upright(made):
    expected = plain_decoding(made("rotated"))
    found = scan(made("rotated"))
    assert (found.width, found.height) == (48, 64)
    # Turned by 90 degrees counterclockwise, the right edge comes to the top.
    assert np.array_equal(read_frames(made("rotated"), found, [0])[0][0], expected[0][:, -1])
    found = scan(made("upside_down"))
    assert np.array_equal(
        read_frames(made("upside_down"), found, [3])[0][0], plain_decoding(made("upside_down"))[3][-1, ::-1]
    )


def test_the_shape_of_pixels_is_told_upright(made, tmp_path):
    assert scan(made("wide_pixels")).pixel_aspect == Fraction(16, 11)
    assert scan(made("h264")).pixel_aspect == 1
    turned = make_video(tmp_path / "a.mp4", replace(VIDEOS["wide_pixels"], rotation=90))
    assert scan(turned).pixel_aspect == Fraction(11, 16)


def test_the_main_video_is_read_and_no_cover_or_second_stream(made):
    for name in ("many_streams", "many_streams_mkv"):
        found = scan(made(name))
        assert (found.width, found.height, found.length) == (64, 48, 30)


def test_lossless_colours_come_back_exactly(made):
    found = scan(made("ffv1"))
    video = VIDEOS["ffv1"]
    frames = read_frames(made("ffv1"), found, range(30))
    assert all(np.array_equal(frame, video.picture(number)) for number, frame in enumerate(frames))


KR_KB = {"601": (0.299, 0.114), "709": (0.2126, 0.0722), "2020": (0.2627, 0.0593)}


def converted(path: Path, matrix: str, full: bool, bits: int) -> list[np.ndarray]:
    """Decoded planes to RGB by the definition of the matrices, in float64."""
    kr, kb = KR_KB[matrix]
    frames = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            dtype = np.uint8 if bits == 8 else np.uint16
            y, u, v = (
                np.frombuffer(plane, dtype).reshape(plane.height, -1)[:, : plane.width].astype(np.float64)
                for plane in frame.planes
            )
            step = 2.0 ** (bits - 8)
            u, v = ((c.repeat(2, 0).repeat(2, 1)[: len(y), : y.shape[1]] - 128 * step) for c in (u, v))
            if full:
                y, u, v = (c / (2**bits - 1) for c in (y, u, v))
            else:
                y, u, v = (y - 16 * step) / (219 * step), u / (224 * step), v / (224 * step)
            red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
            green = (y - kr * red - kb * blue) / (1 - kr - kb)
            frames.append(255 * np.stack([red, green, blue], -1).clip(0, 1))
    return frames


PATCHES = Video("mp4", "libx264", num_frames=4, draw=draw_patches, options={"crf": "5"})
COLOURS = {
    "undeclared": (PATCHES, "601", False, 8),
    "709": (replace(PATCHES, matrix="709"), "709", False, 8),
    "2020, 10 bit": (replace(PATCHES, matrix="2020", pixel_format="yuv420p10le"), "2020", False, 10),
    "full range": (replace(PATCHES, full_range=True), "601", True, 8),
    "709, full range": (replace(PATCHES, matrix="709", full_range=True), "709", True, 8),
    "10 bit": (replace(PATCHES, pixel_format="yuv420p10le"), "601", False, 10),
    "10 bit, full range": (replace(PATCHES, pixel_format="yuv420p10le", full_range=True), "601", True, 10),
    "vp9, 709": (replace(PATCHES, suffix="webm", codec="libvpx-vp9", matrix="709"), "709", False, 8),
    "mjpeg": (replace(PATCHES, suffix="avi", codec="mjpeg", pixel_format="yuvj420p", options={}), "601", True, 8),
}


@pytest.mark.parametrize("name", COLOURS)
def test_colours_are_converted_as_the_stream_declares_them(name, tmp_path):
    video, matrix, full, bits = COLOURS[name]
    path = make_video(tmp_path / f"a.{video.suffix}", video)
    frames = read_frames(path, scan(path), range(4))
    expected = converted(path, matrix, full, bits)
    assert farthest_apart(frames, expected) <= 4
    assert farthest_apart(frames, converted(path, "709" if matrix != "709" else "601", full, bits)) > 6
    assert farthest_apart(frames, converted(path, matrix, not full, bits)) > 6


def farthest_apart(frames: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Largest difference in levels, in the middle of the patches, where the chroma filter makes none."""
    differences = np.abs(np.stack(frames) - np.stack(expected))
    return float(differences.reshape(4, 4, 12, 4, 16, 3)[:, :, 4:8, :, 4:12].max())


def test_files_that_are_no_videos_are_refused_with_the_reason(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("these are words and no video\n" * 50)
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:10,\nh264.mp4\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.txt").write_text("ffconcat version 1.0\nfile 'h264.mp4'\n")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert reason(tmp_path / "empty.mp4") == "the file is empty"
    assert reason(tmp_path / "text.mp4") == NO_VIDEO
    assert reason(tmp_path / "folder.mp4") == "it is a folder"
    assert reason(tmp_path / "link.mp4") == "a link that leads nowhere"
    assert reason(tmp_path / "gone.mp4") == "it is gone"
    assert reason(tmp_path / "pipe.mp4") == "it is no file but a device or pipe"
    assert reason(tmp_path / "list.m3u8") == NO_VIDEO
    assert reason(tmp_path / "list.txt") == "not in a container format that holds videos"


def test_a_sound_file_has_no_video(tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
        frame.sample_rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    assert reason(tmp_path / "sound.mp4") == "it has no video stream"


def test_a_link_to_itself_is_refused(tmp_path):
    (tmp_path / "a.mp4").symlink_to("a.mp4")
    assert reason(tmp_path / "a.mp4") == "a link that leads nowhere"


def test_a_file_that_may_not_be_read_is_refused(made, monkeypatch):
    def refuses(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")  # root would be let in

    monkeypatch.setattr(decoding, "open", refuses, raising=False)
    assert reason(made("h264")) == "permission denied"


def test_a_truncated_file_is_refused(made, tmp_path):
    data = make_video(tmp_path / "whole.mp4", replace(VIDEOS["h264"], muxer={"movflags": "faststart"})).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[:-700])
    assert reason(tmp_path / "cut.mp4").startswith("damaged (it ends in frame ")
    data = made("h264").read_bytes()
    (tmp_path / "head.mp4").write_bytes(data[: len(data) // 2])
    assert (
        reason(tmp_path / "head.mp4") == "not a video that FFmpeg can read (Invalid data found when processing input)"
    )


def test_a_stream_with_a_hole_is_refused_when_scanned_and_when_read(tmp_path):
    path = make_video(tmp_path / "a.ts", replace(VIDEOS["h264_ts"], options={"x264-params": "scenecut=0"}))
    found = scan(path)
    data = path.read_bytes()
    packets = [data[n : n + 188] for n in range(0, len(data), 188)]
    inside = [n for n, packet in enumerate(packets) if packet[1] & 0x5F == 0x01 and packet[2] == 0x00]  # of a frame
    del packets[inside[len(inside) // 2]]
    path.write_bytes(b"".join(packets))
    assert re.fullmatch(r"damaged \(it ends in frame \d+, or has a hole there\)", reason(path))
    with pytest.raises(Unreadable) as error:
        read_frames(path, found, range(found.length))
    assert re.fullmatch(r"damaged \(frame \d+ cannot be decoded\)", str(error.value))


def test_a_stream_that_begins_in_the_middle_gives_what_can_be_decoded(made, tmp_path):
    whole = make_video(tmp_path / "a.ts", replace(VIDEOS["h264_ts"], options={"x264-params": "scenecut=0"}))
    expected = plain_decoding(whole)
    data = whole.read_bytes()
    packets = [data[n : n + 188] for n in range(0, len(data), 188)]
    (tmp_path / "cut.ts").write_bytes(b"".join(packets[:3] + packets[40:]))
    found = scan(tmp_path / "cut.ts")
    assert 5 < found.length < 30
    for number in range(found.length):
        (frame,) = read_frames(tmp_path / "cut.ts", found, [number])
        assert np.array_equal(frame, expected[number - found.length]), number


def test_names_that_are_no_text_or_very_long_are_read(made, tmp_path):
    for name in ("видео 動画 🎬.mp4", "x" * 251 + ".mp4", os.fsdecode(b"caf\xe9\xff.mp4"), "a:b?c%20.mp4", "-i.mp4"):
        path = tmp_path / name
        path.write_bytes(made("h264").read_bytes())
        found = scan(path)
        assert (found.length, len(read_frames(path, found, [3]))) == (30, 1)


def test_the_content_decides_and_not_the_name(made, tmp_path):
    path = tmp_path / "really_webm.avi"
    path.write_bytes(made("vp9").read_bytes())
    assert scan(path).length == 30


def test_a_file_that_vanished_or_changed_is_unreadable(made, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(made("h264").read_bytes())
    found = scan(path)
    path.write_bytes(made("one_frame").read_bytes())
    with pytest.raises(Unreadable) as error:
        read_frames(path, found, [20, 25])
    assert str(error.value) == "damaged (frame 20 cannot be decoded)"
    path.unlink()
    with pytest.raises(Unreadable) as error:
        read_frames(path, found, [20])
    assert str(error.value) == "it is gone"


def test_frames_of_another_size_are_brought_to_the_first_ones(made, tmp_path):
    """Two streams of raw MPEG-2, one after the other."""
    parts = [Video("mpeg2video", "mpeg2video", num_frames=10, size=size) for size in ((64, 48), (32, 32))]
    data = [make_video(tmp_path / f"{n}.m2v", part).read_bytes() for n, part in enumerate(parts)]
    path = tmp_path / "both.m2v"
    path.write_bytes(b"".join(data))
    with av.open(str(path)) as container:
        assert {(frame.width, frame.height) for frame in container.decode(video=0)} == {(64, 48), (32, 32)}
    found = scan(path)
    frames = read_frames(path, found, range(found.length))
    assert {frame.shape for frame in frames} == {frame.shape for frame in frames_of(path)} == {(48, 64, 3)}


def test_deinterlacing_keeps_one_moment(tmp_path):
    def fields(number: int, width: int, height: int) -> np.ndarray:
        return np.full((height, width, 3), 220 if number % 2 else 40, np.uint8)

    path = make_video(tmp_path / "a.mpg", replace(VIDEOS["mpeg2"], draw=fields))
    found = scan(path)
    (woven,) = read_frames(path, found, [5])
    (clean,) = read_frames(path, found, [5], deinterlace=True)
    assert woven[1::2].mean() - woven[::2].mean() > 150
    assert (
        clean.shape == woven.shape
        and np.array_equal(clean[::2], woven[::2])
        and np.array_equal(clean[1::2], woven[::2])
    )


def test_deinterlacing_leaves_progressive_frames_alone(made):
    found = scan(made("h264"))
    plain, clean = (read_frames(made("h264"), found, [5], deinterlace=value)[0] for value in (False, True))
    assert np.array_equal(plain, clean)


def test_a_repeated_frame_is_one_array(made):
    first, second = read_frames(made("h264"), scan(made("h264")), [7, 7])
    assert first is second


def test_each_frame_is_converted_once_and_at_once(made):
    seen: list[tuple[int, ...]] = []

    def small(frame: np.ndarray) -> np.ndarray:
        seen.append(frame.shape)
        return frame[::8, ::8]

    frames = read_frames(made("h264"), scan(made("h264")), [9, 3, 9], convert=small)
    assert [frame.shape for frame in frames] == [(6, 8, 3)] * 3 and seen == [(48, 64, 3)] * 2


def test_keys_that_keep_no_promise_are_given_up(made):
    path = made("h264")
    found = scan(path)
    lying = VideoScan(found.times, found.length, np.arange(30), found.tick, found.last_ticks, found.width, found.height)
    expected = plain_decoding(path)
    assert all(np.array_equal(read_frames(path, lying, [n])[0], expected[n]) for n in range(30))


def test_decoding_begins_at_the_nearest_key_frame(tmp_path, monkeypatch):
    video = replace(VIDEOS["h264"], num_frames=60, options={"x264-params": "scenecut=0"})
    path = make_video(tmp_path / "a.mp4", video)
    found = scan(path)
    decoded: list[int] = []
    frames = decoding._Opened.frames

    def counted(self, *arguments):
        for frame in frames(self, *arguments):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(decoding._Opened, "frames", counted)
    for wanted, most in (([53], 10), (range(41, 57), 20), ([3, 55], 16), ([0, 59, 0], 11)):
        decoded.clear()
        read_frames(path, found, wanted)
        assert len(set(wanted)) <= len(decoded) <= most, wanted


def test_clean_files_are_read_in_silence(made, caplog, capfd):
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        for name in VIDEOS:
            made(name)
        capfd.readouterr()
        for name in VIDEOS:
            read_frames(made(name), scan(made(name)), [0, 10] if name != "one_frame" else [0])
    assert not caplog.records and capfd.readouterr() == ("", "")
