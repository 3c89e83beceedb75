"""Video files to frames: where each frame of a file is, and exactly those frames that are asked for.

A file is scanned once (:func:`scan`); the scan says when each frame is presented and from which frames decoding can
begin. :func:`read_frames` then seeks to the nearest of these, decodes up to the frames wanted, and knows them by their
presentation time, so that the n-th frame is the n-th frame of a full decoding whatever the container's seeking does.

Colours are converted by FFmpeg's swscale as the stream declares them, matrix and range; without a declaration by the
BT.601 matrix and limited range, as the ffmpeg program does. Frames are turned upright, and all are of the size of the
first.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Discard
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

Frames = NDArray[np.uint8]

CONTAINERS = (
    "mov,matroska,webm,avi,gif,apng,mpeg,mpegts,mpegvideo,m4v,flv,live_flv,asf,ogg,mxf,dv,ivf,obu,av1,h264,hevc,rm,nut,"
    "yuv4mpegpipe,swf,wtv,webp_anim"
)
"""Container formats that are opened. Playlists are not among them: they would lead to other files."""
MAX_PIXELS = 2**26
"""Pixels of the largest frame that is decoded; 8K has half of them."""

_ONE_PACKET_ONE_FRAME = {"h264", "hevc", "vp9", "av1", "ffv1", "mjpeg", "png", "prores", "dnxhd", "huffyuv", "ffvhuff"}
_NO_SEEKING = {"gif", "apng", "webp"}  # frames are painted over the ones before, whatever their flags say
_TIMEOUT = 60.0  # seconds without progress while opening or reading
_PASSING = (errno.ENOMEM, errno.EIO, errno.ENOENT, errno.EACCES, errno.ESTALE, errno.ENOTCONN)  # not of the content
_SHORT_GAP = 8  # frames; decoding them costs less than a seek
_PROGRESSIVE = (0, 1)  # AVFieldOrder: unknown, progressive


class Unreadable(Exception):
    """A file that cannot be used; the message is the reason alone (``"the file is empty"``).

    Args:
        reason: the message.
        passing: whether it may be gone next time though the file is the same.
    """

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


@dataclass(frozen=True)
class VideoScan:
    """Where the frames of a video file are.

    Args:
        times: presentation time of each frame in ticks, rising, int64 ``(N,)``; empty where the file has no usable
            times, in which case frames are told apart by counting from the start.
        length: frames of the video, N.
        keys: frames from which decoding can begin, rising; the first is 0.
        tick: seconds of one tick.
        last_ticks: how long the last frame is shown, ticks.
        width: pixels of a row of the upright frame.
        height: rows of the upright frame.
        pixel_aspect: width of a pixel divided by its height, upright.
        packets: whether each packet of the file surely is one whole frame.
    """

    times: NDArray[np.int64]
    length: int
    keys: NDArray[np.int64]
    tick: Fraction
    last_ticks: int
    width: int
    height: int
    pixel_aspect: Fraction = Fraction(1)
    packets: bool = False

    @property
    def duration(self) -> float | None:
        """Seconds from the presentation of the first frame to the end of the last one; None without times."""
        if not len(self.times):
            return None
        return float((int(self.times[-1]) - int(self.times[0]) + self.last_ticks) * self.tick)

    @property
    def fps(self) -> float | None:
        """Frames per second on average; None without times."""
        duration = self.duration
        return self.length / duration if duration else None


@dataclass(frozen=True)
class _Output:
    """What becomes of decoded frames: the size of all, upright width and height (None: of the first), and more."""

    size: tuple[int, int] | None = None
    deinterlace: bool = False
    convert: Callable[[Frames], Frames] | None = None


@dataclass
class _Opened:
    """A file open for decoding."""

    container: av.container.InputContainer
    stream: av.VideoStream
    output: _Output
    fresh: bool = True
    reformatter: VideoReformatter = field(default_factory=VideoReformatter)

    def frames(self, start: int | None, skip_before: int | None = None) -> Iterator[av.VideoFrame]:
        """Decode from the last key frame at or before a presentation time, or from the start of the file.

        Args:
            start: the time in ticks; None for the start of the file.
            skip_before: frames presented before this time may be left out where no other frame needs them.
        """
        if start is not None:
            self.container.seek(start, stream=self.stream, backward=True)
        self.fresh = False
        begun = False
        codec = self.stream.codec_context
        codec.skip_frame = "DEFAULT"
        for packet in self.container.demux(self.stream):
            begun = begun or packet.is_keyframe
            if skip_before is not None:
                codec.skip_frame = "NONREF" if packet.pts is not None and packet.pts < skip_before else "DEFAULT"
            if begun:
                yield from packet.decode()

    def may_skip(self) -> bool:
        """Whether the codec says for sure which frames no other frame needs; HEVC says it for one temporal layer."""
        codec = self.stream.codec_context
        return codec.codec.canonical_name == "h264" and codec.field_order in _PROGRESSIVE

    def pixels(self, frame: av.VideoFrame) -> Frames:
        """An upright frame, uint8 ``(H, W, 3)``, or what the caller wants made of it."""
        turns = _quarter_turns(frame)
        size = self.output.size or ((frame.height, frame.width) if turns % 2 else (frame.width, frame.height))
        # A recording may change its size on the way, as that of a video call does; its clips need one.
        self.output = self.output if self.output.size else replace(self.output, size=size)
        width, height = size[::-1] if turns % 2 else size
        rgb = self.reformatter.reformat(
            frame, width, height, format="rgb24", interpolation=Interpolation.BILINEAR, threads=1
        )
        pixels: Frames = rgb.to_ndarray()  # type: ignore[assignment]  # rgb24 has bytes
        if self.output.deinterlace and frame.interlaced_frame:
            pixels = pixels[::2].repeat(2, axis=0)[: len(pixels)]
        pixels = np.ascontiguousarray(np.rot90(pixels, turns))
        return self.output.convert(pixels) if self.output.convert else pixels


@contextmanager
def _opened(path: str | os.PathLike[str], output: _Output = _Output()) -> Iterator[_Opened]:
    """Open a file's main video stream; whatever goes wrong inside the block becomes :class:`Unreadable`."""
    container = None
    try:
        _check_file(path)
        container = av.open(
            os.fspath(path),
            options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)},
            metadata_errors="replace",
            timeout=_TIMEOUT,
        )
        stream = _main_stream(container)
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        # Processes work side by side already, and one thread decodes the same everywhere.
        stream.codec_context.thread_count = 1
        yield _Opened(container, stream, output)
    except (FFmpegError, OSError, ValueError, ArithmeticError, MemoryError) as error:
        passing = isinstance(error, MemoryError) or getattr(error, "errno", None) in _PASSING
        raise Unreadable(_reason(error, container is None), passing) from error
    finally:
        if container is not None:
            container.close()


def _check_file(path: str | os.PathLike[str]) -> None:
    """Refuse what is no file with something in it; what FFmpeg says later is then about the content."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for somebody to write
            raise Unreadable("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no file but a device or pipe")
        with open(path, "rb"):
            pass
    except FileNotFoundError:
        raise Unreadable("a link that leads nowhere" if os.path.islink(path) else "it is gone", passing=True) from None
    except PermissionError:
        raise Unreadable("permission denied", passing=True) from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Unreadable("a link that leads nowhere", passing=True) from None
        raise
    if not status.st_size:
        raise Unreadable("the file is empty")


def _reason(error: Exception, opening: bool) -> str:
    if opening and isinstance(error, av.error.ArgumentError):
        return "not in a container format that holds videos"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    text = " ".join(str(text).split())
    return f"not a video that FFmpeg can read ({text})" if opening else f"damaged ({text})"


def _main_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The best video stream that is no cover picture."""
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    decodable = [s for s in streams if s.codec_context is not None and s.codec_context.codec is not None]
    if not decodable:
        raise Unreadable("it has no video stream" if not streams else "no decoder for its codec")
    best = container.streams.best("video")
    return best if best in decodable else decodable[0]


def _quarter_turns(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90) % 4


def scan(path: str | os.PathLike[str]) -> VideoScan:
    """Find the frames of a video file.

    Where a packet surely holds one frame and says when it is presented, packets are read and two frames are decoded;
    else the whole file is decoded.

    Args:
        path: the file; its content decides what it is, not its name.

    Raises:
        Unreadable: it is no video, or damaged.
    """
    with _opened(path) as video:
        found = _scan_packets(video)
    if found is None:
        with _opened(path) as video:
            found = _scan_frames(video)
    return found


def _scan_packets(video: _Opened) -> VideoScan | None:
    """Scan by decoding two frames only; None where that is not sure to be right."""
    codec = video.stream.codec_context
    if codec.codec.canonical_name not in _ONE_PACKET_ONE_FRAME or codec.field_order not in _PROGRESSIVE:
        return None
    times: list[int] = []
    keys: list[int] = []
    max_time, last_ticks, first = 0, 0, None
    for packet in video.container.demux(video.stream):
        if first is None:
            first = next(iter(packet.decode()), None)
        if not packet.size:  # the end
            continue
        if packet.is_corrupt:
            raise Unreadable(f"damaged (it ends in frame {len(times)}, or has a hole there)")
        if packet.pts is None:
            return None
        if packet.is_discard:
            continue
        if packet.is_keyframe:
            keys.append(packet.pts)
        if not times or packet.pts > max_time:
            max_time, last_ticks = packet.pts, packet.duration or 0
        times.append(packet.pts)
    if first is None:
        raise Unreadable("damaged (its first frame cannot be decoded)")
    ordered = np.unique(np.array(times, np.int64))
    if len(ordered) < len(times) or not keys or keys[0] != ordered[0] or first.pts != ordered[0]:
        return None
    # AVI and ASF know in which order frames are decoded, not when they are shown, and call the one the other.
    if codec.has_b_frames and len(times) > 1 and all(a < b for a, b in pairwise(times)):
        return None
    if len(keys) > 1 and not _begins(video, keys[1]):
        keys = keys[:1]
    found = _found(video, first, ordered, np.searchsorted(ordered, np.unique(keys)), last_ticks)
    return replace(found, packets=True)


def _begins(video: _Opened, start: int) -> bool:
    """Whether a frame that the container calls a key frame is one; True where that cannot be told.

    With intra refresh the flagged packets are no whole pictures: only some frames later everything is there.
    """
    video.container.seek(start, stream=video.stream, backward=True)
    begun = False
    for packet in video.container.demux(video.stream):
        if not begun and packet.is_keyframe and packet.pts != start:
            return True
        begun = begun or packet.is_keyframe
        for frame in packet.decode() if begun else ():
            return frame.pts is not None and frame.pts <= start
    return not begun


def _scan_frames(video: _Opened) -> VideoScan:
    """Scan by decoding the whole file."""
    times: list[int | None] = []
    keys: list[int] = []
    first = None
    ticks = 0
    for number, frame in enumerate(_whole_frames(video)):
        first = first or frame
        if frame.key_frame:
            keys.append(number)
        times.append(frame.pts)
        ticks = frame.duration or 0
    if first is None:
        raise Unreadable("it has no frame")
    rising = None not in times and all(a < b for a, b in pairwise(times))  # type: ignore[operator]
    if not rising:
        return _found(video, first, np.empty(0, np.int64), np.zeros(1, np.int64), 0, len(times))
    if video.stream.codec_context.codec.canonical_name in _NO_SEEKING or not keys or keys[0] != 0:
        keys = [0]
    return _found(video, first, np.array(times, np.int64), np.array(keys, np.int64), ticks)


def _found(
    video: _Opened,
    first: av.VideoFrame,
    times: NDArray[np.int64],
    keys: NDArray[np.int64],
    last_ticks: int,
    length: int | None = None,
) -> VideoScan:
    aspect = video.stream.sample_aspect_ratio or video.stream.codec_context.sample_aspect_ratio or Fraction(1)
    aspect = Fraction(aspect) if aspect > 0 else Fraction(1)
    width, height = first.width, first.height
    if _quarter_turns(first) % 2:
        width, height, aspect = height, width, 1 / aspect
    if len(times) > 1 and last_ticks <= 0:
        last_ticks = int(np.median(np.diff(times)))
    rate, tick = video.stream.average_rate, Fraction(video.stream.time_base or 1)
    if len(times) == 1 and last_ticks <= 0 and rate:
        last_ticks = round(1 / (rate * tick))
    length = len(times) if length is None else length
    return VideoScan(times, length, keys, tick, last_ticks, width, height, aspect)


def _whole_frames(video: _Opened) -> Iterator[av.VideoFrame]:
    """All frames from the start of the file, in the order of presentation.

    A recording that was cut into begins with frames that lack what they refer to; these are left out.

    Raises:
        Unreadable: a later frame is damaged.
    """
    begun = False
    for number, frame in enumerate(video.frames(None)):
        if frame.is_corrupt and begun:
            raise Unreadable(f"damaged (frame {number})")
        begun = begun or not frame.is_corrupt
        if begun:
            yield frame


def frames_of(path: str | os.PathLike[str]) -> Iterator[Frames]:
    """Decode a whole video file, frame by frame.

    Yields:
        Upright frames in the order of presentation, uint8 ``(H, W, 3)``.

    Raises:
        Unreadable: it is no video, or damaged; frames before the damage have been yielded.
    """
    with _opened(path) as video:
        for frame in _whole_frames(video):
            yield video.pixels(frame)


def read_frames(
    path: str | os.PathLike[str],
    found: VideoScan,
    wanted: Sequence[int],
    deinterlace: bool = False,
    convert: Callable[[Frames], Frames] | None = None,
) -> list[Frames]:
    """Read some frames of a scanned file.

    Args:
        path: the file.
        found: what :func:`scan` said about it.
        wanted: frame numbers from 0, in any order, also repeated.
        deinterlace: show the upper field of interlaced frames alone, each of its lines twice.
        convert: what each frame becomes as soon as it is decoded, so that many large ones need not fit into memory.

    Returns:
        One upright frame, uint8 ``(H, W, 3)``, for each of ``wanted``; the same array for the same number.

    Raises:
        Unreadable: the file is gone or damaged, or no longer the one that was scanned.
    """
    todo = sorted(set(wanted))
    frames: dict[int, Frames] = {}
    output = _Output((found.width, found.height), deinterlace, convert)
    with _opened(path, output) as video:
        while todo:
            run = _run(todo, found)
            frames.update(_read_run(video, path, found, run))
            todo = todo[len(run) :]
    return [frames[number] for number in wanted]


def _run(todo: Sequence[int], found: VideoScan) -> list[int]:
    """The first frames of ``todo`` that one stretch of decoding reaches without passing over a key frame for long."""
    run = [todo[0]]
    for before, after in pairwise(todo):
        if after - before > _SHORT_GAP and _key(found, after) > before and len(found.times):
            break
        run.append(after)
    return run


def _key(found: VideoScan, number: int) -> int:
    """The last frame at or before a frame from which decoding can begin."""
    return int(found.keys[np.searchsorted(found.keys, number, side="right") - 1])


def _read_run(video: _Opened, path: str | os.PathLike[str], found: VideoScan, run: Sequence[int]) -> dict[int, Frames]:
    if not len(found.times):
        with _opened(path, video.output) as again:
            return _by_count(again, run)
    missing = set(run)
    for attempt, key in enumerate(_starts(found, run[0])):
        frames: dict[int, Frames] = {}
        if key:
            frames = _by_time(video, found, missing, int(found.times[key]), sparing=attempt == 0)
        else:
            with nullcontext(video) if video.fresh else _opened(path, video.output) as from_start:
                frames = _by_time(from_start, found, missing, None, sparing=attempt == 0)
        if len(frames) == len(run):
            return frames
    raise Unreadable(f"damaged (frame {min(missing - frames.keys())} cannot be decoded)")


def _starts(found: VideoScan, number: int) -> Iterator[int]:
    """Where to begin: at the nearest key frame, and should it not keep its promise further and further back."""
    position = int(np.searchsorted(found.keys, number, side="right")) - 1
    for back in (0, 1, 4, 16):
        if position - back > 0:
            yield int(found.keys[position - back])
    yield 0


def _by_time(video: _Opened, found: VideoScan, wanted: set[int], start: int | None, sparing: bool) -> dict[int, Frames]:
    """The frames that decoding from a start gives undamaged; too few where it was no good start.

    Args:
        video: the file.
        found: what :func:`scan` said about it.
        wanted: frame numbers.
        start: presentation time of a key frame; None for the start of the file.
        sparing: leave out what the wanted frames do not need, which saves about a third of the time.
    """
    numbers = {int(found.times[number]): number for number in wanted}
    last = max(numbers)
    frames: dict[int, Frames] = {}
    for frame in video.frames(start, min(numbers) if sparing and video.may_skip() else None):
        if frame.pts is None:
            continue
        if frame.pts in numbers and not frame.is_corrupt:
            frames[numbers[frame.pts]] = video.pixels(frame)
        if len(frames) == len(numbers) or frame.pts > last:
            break
    return frames


def _by_count(video: _Opened, wanted: Sequence[int]) -> dict[int, Frames]:
    frames: dict[int, Frames] = {}
    for number, frame in enumerate(_whole_frames(video)):
        if number in wanted:
            frames[number] = video.pixels(frame)
        if number >= wanted[-1]:
            return frames
    raise Unreadable(f"damaged (it ends before frame {wanted[-1]})")
