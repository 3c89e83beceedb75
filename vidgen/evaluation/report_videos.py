"""The videos of a report: real and generated ones side by side, as files that stand in the page."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidgen.data.stored import counted
from vidgen.evaluation.compare import NamedResult
from vidgen.evaluation.result import as_number, side_of
from vidgen.html import data_uri, escaped
from vidgen.media import write_video

MOST_SAMPLES = 8
"""Rows of videos."""
MOST_FRAMES = 128
"""Of a video, from its first."""
MOST_BYTES = 24_000_000
"""Of all encoded videos; in a page they take a third more."""
SHOWN_SIZE = 192
"""Pixels up to which the longer side of a small video is enlarged, by a whole factor."""
DEFAULT_FPS = 8.0
"""Frames per second of videos whose data set does not tell them."""
_SMPTE170M = 6  # ITU-T H.273 code of the BT.601 matrix, as in the MP4 files of vidgen.media

Video = NDArray[np.uint8]


@dataclass(frozen=True)
class Column:
    """Videos below each other.

    Args:
        label: whose they are.
        videos: uint8 ``(T, H, W, C)`` each.
        fps: at which they play.
    """

    label: str
    videos: tuple[Video, ...]
    fps: float


@dataclass
class _Shown:
    """What was put on the page so far, and what was not.

    Args:
        size: bytes of the encoded videos.
        too_many: videos for which there was no room.
        cut: longest video of which only the beginning is shown, in frames; 0 where all are whole.
    """

    size: int = 0
    too_many: int = 0
    cut: int = 0


def sample_section(results: Sequence[NamedResult]) -> str:
    """The samples of results in a table: real videos, then those of each result that was measured against them."""
    columns = _columns(results)
    rows = max((len(column.videos) for column in columns), default=0)
    if rows == 0:
        return ""
    shown = _Shown()
    head = "".join(f'<th scope="col">{escaped(column.label)}</th>' for column in columns)
    body = ""
    for row in range(min(rows, MOST_SAMPLES)):
        body += "<tr>" + "".join(f"<td>{_cell(column, row, shown)}</td>" for column in columns) + "</tr>"
    notes = [_speed(columns), *_left_out(rows, shown)]
    told = "".join(f"<p>{escaped(note)}</p>" for note in notes)
    table = f'<table class="samples"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    still = '<p class="still">Videos are hidden, as this browser asks for less motion.</p>'
    return f'<h2>Samples</h2>{told}{still}<div class="wide">{table}</div>'


def encode(video: Video, fps: float) -> tuple[bytes, bytes, tuple[int, int]]:
    """A video in the two codecs of which every browser has one, small ones enlarged.

    Args:
        video: uint8 ``(T, H, W, C)`` with 1 (grey) or 3 (RGB) channels.
        fps: frames per second.

    Returns:
        MP4 with H.264, WebM with VP9, both yuv420p with one encoded frame per frame; and their width and height. Every
        pixel is a square of the whole number of pixels that brings the longer side nearest below
        :data:`SHOWN_SIZE`. The pixel format wants even sides: odd ones are padded at the right or the bottom with a
        copy of the border.
    """
    factor = max(1, SHOWN_SIZE // max(video.shape[1:3]))
    frames = video.repeat(factor, 1).repeat(factor, 2)
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    if frames.shape[3] == 1:
        frames = frames.repeat(3, 3)
    return _mp4(frames, fps), _webm(frames, fps), (frames.shape[2], frames.shape[1])


def _mp4(frames: Video, fps: float) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sample.mp4"
        write_video(path, torch.from_numpy(frames).permute(3, 0, 1, 2), fps, "mp4")
        return path.read_bytes()


def _webm(frames: Video, fps: float) -> bytes:
    import av

    buffer = io.BytesIO()
    # bitexact: no random number of the file's own, so that the same frames give the same bytes
    with av.open(buffer, "w", format="webm", options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("libvpx-vp9", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.bit_rate = 0  # crf alone decides
        stream.options = {"crf": "20", "deadline": "good", "cpu-used": "5", "row-mt": "0"}
        stream.codec_context.thread_count = 1  # nor an influence of the number of cores
        stream.codec_context.colorspace = _SMPTE170M
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _columns(results: Sequence[NamedResult]) -> list[Column]:
    """Real videos stand once before all results that were measured against the same ones."""
    found: list[tuple[Column, list[Column]]] = []
    for result in results:
        samples, fps = result.evaluation.samples, _frames_per_second(result)
        beside = next((fakes for real, fakes in found if _same(real.videos, samples.real)), None)
        if beside is None:
            beside = []
            found.append((Column("real", samples.real, fps), beside))
        if samples.fake:
            beside.append(Column(result.label, samples.fake, fps))
    columns = [[*([real] if real.videos else []), *fakes] for real, fakes in found]
    return [column for group in columns for column in group]


def _same(videos: Sequence[Video], others: Sequence[Video]) -> bool:
    return len(videos) == len(others) and all(map(np.array_equal, videos, others))


def _frames_per_second(result: NamedResult) -> float:
    """Speed of the real videos as they were measured, of every ``stride``-th frame."""
    for metric in result.evaluation.metrics.values():
        rates = [as_number(side_of(metric.protocol, side).get("fps")) for side in ("real", "fake")]
        rate = next((rate for rate in rates if rate is not None and rate > 0), None)
        if rate is not None:
            return min(max(rate / max(as_number(metric.protocol.get("stride")) or 1.0, 1.0), 1.0), 60.0)
    return DEFAULT_FPS


def _cell(column: Column, row: int, shown: _Shown) -> str:
    if row >= len(column.videos):
        return ""
    video = column.videos[row]
    if shown.size >= MOST_BYTES:
        shown.too_many += 1
        return ""
    mp4, webm, (width, height) = encode(video[:MOST_FRAMES], column.fps)
    if shown.size + len(mp4) + len(webm) > MOST_BYTES:
        shown.too_many += 1
        return ""
    shown.size += len(mp4) + len(webm)
    if len(video) > MOST_FRAMES:
        shown.cut = max(shown.cut, len(video))
    label = escaped(f"{column.label}, sample {row + 1}, playing")
    sources = f'<source src="{data_uri("video/webm", webm)}" type="video/webm; codecs=&quot;vp9&quot;">'
    sources += f'<source src="{data_uri("video/mp4", mp4)}" type="video/mp4">'
    size = f'width="{width}" height="{height}"'
    return f'<video autoplay loop muted playsinline {size} aria-label="{label}">{sources}</video>'


def _speed(columns: Sequence[Column]) -> str:
    rates = sorted({column.fps for column in columns})
    return f"Played at {' and '.join(f'{rate:.3g}' for rate in rates)} frames per second."


def _left_out(rows: int, shown: _Shown) -> list[str]:
    notes = []
    if rows > MOST_SAMPLES:
        notes.append(f"The first {MOST_SAMPLES} of {rows} samples are shown.")
    if shown.cut:
        notes.append(f"Of videos of up to {shown.cut} frames the first {MOST_FRAMES} are shown.")
    if shown.too_many:
        notes.append(f"{counted(shown.too_many, 'video')} left out to keep the page small.")
    return notes
