"""Small video files for tests, of many containers and codecs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Video:
    """How a video file is made.

    Args:
        suffix: of its name; decides the container.
        codec: name of the encoder.
        num_frames: frames.
        size: width and height, pixels.
        pixel_format: of the encoded frames.
        gop: frames from one key frame to the next.
        b_frames: B-frames in a row.
        options: of the encoder.
        muxer: options of the container.
        times: presentation time of each frame in units of ``tick``; None for 0, 1, 2, ...
        tick: seconds of one unit of ``times``.
        rotation: degrees by which players turn the frames, counterclockwise.
        pixel_aspect: width of a pixel divided by its height.
        full_range: declare and use levels 0 to 255 for luma.
        matrix: ``709`` or ``2020`` to declare and use that matrix; else BT.601 is used and nothing declared.
        interlaced: even and odd lines show different moments.
        audio: add a sound track.
        second: add a smaller second video stream.
        cover: add a cover picture.
        draw: frame number, width and height to a frame uint8 ``(H, W, 3)``, or ``(H, W, 4)`` for formats with alpha.
    """

    suffix: str
    codec: str
    num_frames: int = 30
    size: tuple[int, int] = (64, 48)
    pixel_format: str = "yuv420p"
    gop: int = 10
    b_frames: int = 0
    options: dict[str, str] = field(default_factory=dict)
    muxer: dict[str, str] = field(default_factory=dict)
    times: Sequence[int] | None = None
    tick: Fraction = Fraction(1, 25)
    rotation: int = 0
    pixel_aspect: Fraction | None = None
    full_range: bool = False
    matrix: str = ""
    interlaced: bool = False
    audio: bool = False
    second: bool = False
    cover: bool = False
    draw: Callable[[int, int, int], Frames] | None = None

    def picture(self, number: int, size: tuple[int, int] | None = None) -> Frames:
        """A frame as it is given to the encoder."""
        draw = self.draw or draw_frame
        width, height = size or self.size
        if not self.interlaced:
            return draw(number, width, height)
        frame = draw(2 * number, width, height).copy()
        frame[1::2] = draw(2 * number + 1, width, height)[1::2]
        return frame


def draw_frame(number: int, width: int, height: int) -> Frames:
    """Noise that stands still and slowly grows brighter, and a block that wanders: each frame builds on others."""
    noise = np.random.default_rng(0).integers(0, 150, (height, width, 3))
    frame = (noise + 3 * number).astype(np.uint8)
    left, top = (number * 5) % max(1, width - 8), (number * 3) % max(1, height - 8)
    frame[top : top + 8, left : left + 8] = (250, 20, (number * 40) % 256)
    return frame


def draw_patches(number: int, width: int, height: int) -> Frames:
    """Patches of 16 x 12 pixels of one colour each, from dark to bright and from grey to vivid."""
    colours = np.random.default_rng(number).integers(16, 250, (-(-height // 12), -(-width // 16), 3), dtype=np.uint8)
    return colours.repeat(12, axis=0).repeat(16, axis=1)[:height, :width]


def draw_sprite(number: int, width: int, height: int) -> Frames:
    """A small opaque block on a transparent ground (RGBA), as GIFs and APNGs of few changed pixels have."""
    frame = np.zeros((height, width, 4), np.uint8)
    left, top = (number * 5) % (width - 8), (number * 3) % (height - 8)
    frame[top : top + 8, left : left + 8] = (255 - 6 * number, 4 * number, 80, 255)
    return frame


def make_video(path: Path, video: Video) -> Path:
    """Write a video file.

    Args:
        path: the file; the container follows ``video.suffix``, whatever the name.
        video: how.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=_FORMATS.get(video.suffix, video.suffix), options=video.muxer) as container:
        stream = _add_stream(container, video)
        second = _add_stream(container, replace(video, size=(32, 32), rotation=0)) if video.second else None
        cover = _add_cover(container) if video.cover else None
        sound = (
            container.add_stream("aac" if video.suffix in ("mp4", "mov") else "mp2", rate=44100)
            if video.audio
            else None
        )
        if cover is not None:
            for packet in cover.encode(_frame(draw_frame(0, 32, 32), cover, video)):
                container.mux(packet)
        times = range(video.num_frames) if video.times is None else video.times
        for number, time in enumerate(times):
            for target in (stream, second) if second is not None else (stream,):
                frame = _frame(video.picture(number, (target.width, target.height)), target, video)
                frame.pts, frame.time_base = time, video.tick
                container.mux(target.encode(frame))
        for target in (stream, second) if second is not None else (stream,):
            container.mux(target.encode(None))
        if sound is not None:
            _add_sound(container, sound)
    return path


_FORMATS = {"mkv": "matroska", "ts": "mpegts", "mpg": "mpeg", "wmv": "asf", "png": "apng", "mov": "mov", "ogv": "ogg"}


def _add_stream(container: av.container.OutputContainer, video: Video) -> av.VideoStream:
    stream = container.add_stream(
        video.codec, rate=round(1 / video.tick) if video.times is None else 25, options=video.options
    )
    if video.codec == "libsvtav1":
        os.environ.setdefault("SVT_LOG", "1")  # it prints its settings else
    stream.width, stream.height = video.size
    stream.pix_fmt = video.pixel_format
    stream.time_base = video.tick
    context = stream.codec_context
    context.time_base = video.tick
    context.gop_size = video.gop
    context.max_b_frames = video.b_frames
    context.thread_count = 1
    if video.full_range:
        context.color_range = 2
    if video.matrix:
        context.colorspace = {"709": 1, "2020": 9}[video.matrix]
    if video.pixel_aspect is not None:
        context.sample_aspect_ratio = video.pixel_aspect
        stream.sample_aspect_ratio = video.pixel_aspect
    if video.interlaced:
        context.flags |= av.codec.context.Flags.interlaced_dct | av.codec.context.Flags.interlaced_me
    if video.rotation:
        stream.set_display_rotation(video.rotation)
    return stream


def _add_cover(container: av.container.OutputContainer) -> av.VideoStream:
    cover = container.add_stream("mjpeg", rate=1)
    cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
    cover.disposition = Disposition.attached_pic
    return cover


def _add_sound(container: av.container.OutputContainer, sound: av.AudioStream) -> None:
    for start in range(0, 44100, 1152):
        tone = (8000 * np.sin(np.arange(start, start + 1152) / 20)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


def _frame(picture: Frames, stream: av.VideoStream, video: Video) -> av.VideoFrame:
    """A picture in the pixel format of a stream."""
    frame = av.VideoFrame.from_ndarray(
        np.ascontiguousarray(picture), format="rgba" if picture.shape[-1] == 4 else "rgb24"
    )
    if not stream.pix_fmt.startswith(("yuv", "gray")):
        return frame.reformat(format=stream.pix_fmt)
    full = video.full_range or stream.pix_fmt.startswith("yuvj")
    return frame.reformat(
        format=stream.pix_fmt,
        dst_colorspace={"709": "ITU709", "2020": "BT2020"}.get(video.matrix, "ITU601"),
        dst_color_range="JPEG" if full else "MPEG",
    )


_UNEVEN = tuple(sum((1, 3, 2, 7, 1)[step % 5] * 20 for step in range(number)) for number in range(30))
_OPEN_GOP = "keyint=8:min-keyint=8:scenecut=0:bframes=3"
_X265 = "log-level=none:pools=1:frame-threads=1"

VIDEOS = {
    "h264": Video("mp4", "libx264", b_frames=2),
    "h264_open_gop": Video("mp4", "libx264", options={"x264-params": f"{_OPEN_GOP}:open-gop=1:b-adapt=0"}),
    "h264_open_gop_mkv": Video("mkv", "libx264", options={"x264-params": f"{_OPEN_GOP}:open-gop=1:b-adapt=0"}),
    "h264_intra_refresh": Video("mp4", "libx264", options={"x264-params": "intra-refresh=1:scenecut=0:keyint=10"}),
    "h264_ts": Video("ts", "libx264", b_frames=2),
    "h264_mkv": Video("mkv", "libx264", b_frames=2),
    "h264_avi": Video("avi", "libx264"),
    "h264_avi_b": Video("avi", "libx264", b_frames=2),
    "h264_asf_b": Video("wmv", "libx264", b_frames=2),
    "h264_interlaced": Video("mp4", "libx264", b_frames=2, interlaced=True, options={"x264-params": "tff=1"}),
    "h264_fragmented": Video("mp4", "libx264", b_frames=2, muxer={"movflags": "frag_keyframe+empty_moov"}),
    "h264_without_times": Video("h264", "libx264", b_frames=2),
    "mkv_live": Video("mkv", "libx264", b_frames=2, muxer={"live": "1"}),
    "edit_list": Video("mp4", "libx264", b_frames=2, times=range(-5, 25)),
    "uneven_times": Video("mp4", "libx264", b_frames=2, times=_UNEVEN, tick=Fraction(1, 1000)),
    "rotated": Video("mp4", "libx264", rotation=90),
    "upside_down": Video("mp4", "libx264", rotation=180),
    "wide_pixels": Video("mp4", "libx264", pixel_aspect=Fraction(16, 11)),
    "odd_size": Video("mp4", "libx264", size=(61, 47), pixel_format="yuv444p"),
    "many_streams": Video("mp4", "libx264", b_frames=2, audio=True, second=True, cover=True),
    "many_streams_mkv": Video("mkv", "libx264", b_frames=2, audio=True, second=True),
    "one_frame": Video("mp4", "libx264", num_frames=1),
    "hevc_10_bit": Video("mp4", "libx265", pixel_format="yuv420p10le", options={"x265-params": f"{_X265}:keyint=10"}),
    "hevc_open_gop": Video("mkv", "libx265", options={"x265-params": f"{_X265}:{_OPEN_GOP}:open-gop=1"}),
    "vp9": Video("webm", "libvpx-vp9", options={"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp8": Video("webm", "libvpx", options={"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "av1": Video("mp4", "libsvtav1", size=(64, 64), options={"preset": "11", "svtav1-params": "keyint=10"}),
    "mpeg4": Video("mp4", "mpeg4", b_frames=2),
    "mpeg4_avi": Video("avi", "mpeg4", b_frames=2),
    "mpeg2": Video("mpg", "mpeg2video", b_frames=2, interlaced=True),
    "mpeg2_ts": Video("ts", "mpeg2video", b_frames=2),
    "mpeg1": Video("mpg", "mpeg1video", b_frames=2),
    "gif": Video("gif", "gif", pixel_format="bgr8", draw=draw_sprite),
    "apng": Video("apng", "apng", pixel_format="rgba", draw=draw_sprite),
    "ffv1": Video("mkv", "ffv1", pixel_format="bgr0"),
    "ffv1_odd": Video("mkv", "ffv1", size=(61, 47)),
    "mjpeg": Video("avi", "mjpeg", pixel_format="yuvj420p"),
    "prores": Video("mov", "prores_ks", pixel_format="yuv422p10le"),
    "flv": Video("flv", "flv"),
    "wmv": Video("wmv", "wmv2"),
}
"""One of each that behaves differently."""
