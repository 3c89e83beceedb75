"""What an inspection has found, as text for the terminal and as a page."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vidgen.data.stored import counted
from vidgen.html import data_uri, escaped, page, printable
from vidgen.media import write_video

MOST_ON_PAGE, MOST_IN_TEXT = 50, 10


@dataclass(frozen=True)
class Tally:
    """How often each value of one property occurs.

    Args:
        name: the property, and what was counted where that is not every video (``"... of 1,000 sampled videos"``).
        counts: value -> number, the most frequent first.
        unknown: how many have none.
    """

    name: str
    counts: dict[str, int]
    unknown: int = 0

    def rows(self, most: int) -> tuple[list[tuple[str, int]], int]:
        """The most frequent values with their counts, and how many values are left."""
        unknown = [("unknown", self.unknown)] if self.unknown else []
        return [*self.counts.items()][:most] + unknown, max(0, len(self.counts) - most)


@dataclass(frozen=True)
class Inspection:
    """What was found out about a data set; as text it is a summary for the terminal.

    Args:
        title: what is read and from where.
        num_videos, num_frames: videos that can be drawn, and frames of all of them.
        estimated: whether what follows was found on some of the videos only.
        hours: duration of those whose frame rate is known, from the probed videos; None where none is known.
        lengths: least, median and greatest number of frames.
        histogram: first length and number of videos of each bar.
        clip: size, ``stride`` and ``rule`` of clips, the median ``seconds`` that one lasts (None where unknown), and
            the least, median and greatest ``share`` of its video that one spans; of encoded videos what their
            ``codes`` are, and how many of ``num_codes`` occur (``used_codes``).
        tallies: stored frame sizes, frame rates, classes and attributes.
        balance: entropy of the classes as a fraction of the largest possible one; None with fewer than two classes.
        sampled: names of the videos of which clips were read.
        mean, std: of the pixel values of each channel over these clips, in [-1, 1]; empty where they hold codes.
        frozen: names of those whose frames are all identical.
        skipped: files that cannot be used, and why.
        notices: what else was left out.
        warnings: what is likely to be wrong with the data.
    """

    title: str
    num_videos: int
    num_frames: int
    estimated: bool
    hours: float | None
    lengths: tuple[int, float, int]
    histogram: tuple[tuple[int, int], ...]
    clip: dict[str, Any]
    tallies: tuple[Tally, ...]
    balance: float | None
    sampled: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    frozen: tuple[str, ...]
    skipped: dict[str, str]
    notices: tuple[str, ...]
    warnings: tuple[str, ...]

    def facts(self) -> list[tuple[str, str]]:
        """The single numbers, as names and texts."""
        clip, about = self.clip, "about " if self.estimated else ""
        facts = [("videos", f"{self.num_videos:,}"), ("frames", f"{self.num_frames:,}")]
        if self.hours is not None:
            facts.append(("duration", about + _duration(3600 * self.hours)))
        facts.append(("lengths in frames", _range(self.lengths)))
        shape = f"{clip['channels']} x {clip['num_frames']} x {clip['resolution']} x {clip['width']}"
        rule = f"stride {clip['stride']}" if clip["rule"] == "contiguous" else f"rule {clip['rule']}"
        facts.append(("clips", clip.get("codes") or f"{shape} (channels, frames, height, width), {rule}"))
        if "used_codes" in clip:
            used = f"{clip['used_codes']:,} of {clip['num_codes']:,}"
            facts.append(("codes", f"{used} occur ({counted(len(self.sampled), 'sampled clip')})"))
        if clip["seconds"] is not None:
            facts.append(("a clip lasts", _duration(clip["seconds"])))
        facts.append(("a clip spans", _range([round(100 * share) for share in clip["share"]], "% of its video")))
        if self.balance is not None:
            facts.append(("class balance", f"{self.balance:.2f} (1: all classes equally frequent)"))
        of = f"(values in [-1, 1], {counted(len(self.sampled), 'sampled clip')})"
        for name, values in (("mean", self.mean), ("standard deviation", self.std)):
            if values:
                facts.append((f"pixel {name}", " ".join(f"{value:.3f}" for value in values) + f" {of}"))
        return facts

    def __str__(self) -> str:
        lines = [self.title, *(f"{name}: {text}" for name, text in self.facts())]
        for tally in self.tallies:
            rows, more = tally.rows(MOST_IN_TEXT)
            shown = [f"{value} ({number:,})" for value, number in rows] + [f"and {more:,} more"] * bool(more)
            lines.append(f"{tally.name}: {', '.join(shown)}")
        if self.skipped:
            lines.append(f"skipped: {counted(len(self.skipped), 'file')}")
            lines += shortened([f"  {path}: {reason}" for path, reason in self.skipped.items()], "  ")
        lines += [*self.notices, *(f"warning: {warning}" for warning in self.warnings)]
        return "\n".join(printable(line) for line in lines)


@dataclass(frozen=True)
class SampledClip:
    """What is kept of a clip that was read.

    Args:
        name: its video.
        caption: its class and the length of its video.
        frames: the frames on the contact sheet, scaled, uint8 ``(C, T, H, W)``.
        preview: the clip in motion, scaled, uint8 ``(C, T, H, W)``; None where it is not shown.
        sums: for each channel of its values, of their squares, and how many values there are, ``(3, C)``.
        frozen: whether its frames are all identical.
        label: its class; None without classes.
        attributes: its attributes ``(A,)``; None without attributes.
        codes: its different tokens; None where it has none.
    """

    name: str
    caption: str
    frames: Tensor
    preview: Tensor | None
    sums: NDArray[np.float64]
    frozen: bool
    label: int | None
    attributes: NDArray[np.float32] | None
    codes: NDArray[np.int64] | None = None


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} seconds" if seconds < 60 else f"{seconds / 3600:,.2f} hours"


def _range(values: Sequence[float], unit: str = "") -> str:
    low, median, high = (f"{value:,.1f}".removesuffix(".0") for value in values)
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}, median {median}"


def shortened(texts: Sequence[str], indent: str = "") -> list[str]:
    """The first of many texts, and how many more there are."""
    more = len(texts) - MOST_IN_TEXT
    return [*texts[:MOST_IN_TEXT], f"{indent}and {more:,} more"] if more > 0 else [*texts]


def render_page(found: Inspection, clips: Sequence[SampledClip], speed: float, sheet: bytes) -> str:
    """An HTML page that needs nothing beside itself: no script, no other file.

    Args:
        found: what it tells.
        clips: those whose previews it shows.
        speed: frames per second of the previews.
        sheet: the contact sheet as PNG.
    """
    body = _BODY.substitute(
        facts="".join(f"<div><dt>{escaped(name)}</dt><dd>{escaped(text)}</dd></div>" for name, text in found.facts()),
        warnings="".join(f'<p class="warning"><b>Warning:</b> {escaped(line)}</p>' for line in found.warnings),
        previews=_previews(clips, speed) if found.clip["num_frames"] > 1 else "",
        sheet=data_uri("image/png", sheet),
        sheet_alt=f"{counted(len(clips), 'clip')}; under its class and length each, its frames from left to right",
        histogram=_histogram(found),
        tallies="".join(_bars(tally) for tally in found.tallies),
        left_out=_left_out(found),
    )
    return page(found.title, _STYLE, body)


def _previews(clips: Sequence[SampledClip], speed: float) -> str:
    figures = ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.gif"
        for clip in clips:
            if clip.preview is not None:
                write_video(path, clip.preview, speed, "gif")
                name, picture = escaped(clip.name), data_uri("image/gif", path.read_bytes())
                figures += f'<figure><img src="{picture}" alt="{name}, playing">'
                figures += f"<figcaption>{escaped(clip.caption)} <small>{name}</small></figcaption></figure>"
    about = f"Cut as in training, not mirrored; {min(speed, 50):.3g} frames per second."
    return f"<details open><summary>Clips</summary><p>{about}</p><div>{figures}</div></details>"


def _histogram(found: Inspection) -> str:
    """Lengths as bars, an inline SVG; nothing where all are equal."""
    if len(found.histogram) < 2:
        return ""
    bars, tallest = "", max(count for _, count in found.histogram)
    for index, (length, count) in enumerate(found.histogram):
        height = 100 * count / tallest
        tip = f"{counted(count, 'video')} from {counted(length, 'frame')} on"
        bars += (
            f'<rect x="{10 * index}" y="{100 - height:.1f}" width="9" height="{height:.1f}"><title>{tip}</title></rect>'
        )
    label = f"Histogram of lengths: {_range(found.lengths)} frames"
    ends = "".join(f"<span>{counted(length, 'frame')}</span>" for length in found.lengths[::2])
    box = f'viewBox="0 0 {10 * len(found.histogram)} 100" preserveAspectRatio="none"'
    return f'<h2>Lengths</h2><svg {box} role="img" aria-label="{label}">{bars}</svg><p class="axis">{ends}</p>'


def _bars(tally: Tally) -> str:
    rows, more = tally.rows(MOST_ON_PAGE)
    longest = max(1, *(count for _, count in rows))
    table = "".join(
        f'<tr><th scope="row">{escaped(value)}</th><td>{count:,}</td>'
        f'<td><i style="width:{100 * count / longest:.1f}%"></i></td></tr>'
        for value, count in rows
    )
    rest = f"<p>and {more:,} more</p>" if more else ""
    return f"<h2>{escaped(tally.name)}</h2><table>{table}</table>{rest}"


def _left_out(found: Inspection) -> str:
    lines = "".join(f"<p>{escaped(line)}</p>" for line in found.notices)
    files = "".join(f"<li><code>{escaped(path)}</code>: {escaped(why)}</li>" for path, why in found.skipped.items())
    if files:
        title = f"<summary>Skipped {counted(len(found.skipped), 'file')}</summary>"
        lines = f"<details{' open' * (len(found.skipped) <= MOST_IN_TEXT)}>{title}<ul>{files}</ul></details>{lines}"
    return f"<h2>Left out</h2>{lines}" if lines else ""


_STYLE = """
@media (prefers-reduced-motion: reduce) { figure { display: none } }
h2::first-letter, dt::first-letter { text-transform: uppercase }
dt, .axis { color: var(--soft); font-size: .85rem } figcaption small { display: block }
dl, details div { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .75rem 1.5rem }
details div { grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)) }
dl div { border-top: 1px solid var(--line); padding-top: .5rem } .axis { display: flex; justify-content: space-between }
img { max-width: 100%; border-radius: .3rem } figure img { width: 100%; image-rendering: pixelated }
svg { width: 100%; height: 8rem; fill: var(--bar) } table { width: 100%; table-layout: fixed }
th { width: 35% } td:nth-child(2) { width: 6rem; text-align: right }
i { display: block; height: .7rem; margin-left: .75rem; background: var(--bar) }
"""
_BODY = Template("""$warnings<dl>$facts</dl>
$previews<h2>Contact sheet</h2>
<a href="contact_sheet.png"><img src="$sheet" alt="$sheet_alt"></a>
$histogram$tallies$left_out""")
