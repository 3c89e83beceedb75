"""What an inspection has found, as text for the terminal and as a page."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vidgen.data.stored import counted
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
            the least, median and greatest ``share`` of its video that one spans.
        tallies: stored frame sizes, frame rates, classes and attributes.
        balance: entropy of the classes as a fraction of the largest possible one; None with fewer than two classes.
        sampled: names of the videos of which clips were read.
        mean, std: of the pixel values of each channel over these clips, in [-1, 1].
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
        facts.append(("clips", f"{shape} (channels, frames, height, width), {rule}"))
        if clip["seconds"] is not None:
            facts.append(("a clip lasts", _duration(clip["seconds"])))
        facts.append(("a clip spans", _range([round(100 * share) for share in clip["share"]], "% of its video")))
        if self.balance is not None:
            facts.append(("class balance", f"{self.balance:.2f} (1: all classes equally frequent)"))
        of = f"(values in [-1, 1], {counted(len(self.sampled), 'sampled clip')})"
        for name, values in (("mean", self.mean), ("standard deviation", self.std)):
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
    """

    name: str
    caption: str
    frames: Tensor
    preview: Tensor | None
    sums: NDArray[np.float64]
    frozen: bool
    label: int | None
    attributes: NDArray[np.float32] | None


def printable(text: str) -> str:
    """A text without characters that steer terminals or cannot be encoded, as file names may hold."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


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
    return _PAGE.substitute(
        title=_html(found.title),
        facts="".join(f"<div><dt>{_html(name)}</dt><dd>{_html(text)}</dd></div>" for name, text in found.facts()),
        warnings="".join(f'<p class="warning"><b>Warning:</b> {_html(line)}</p>' for line in found.warnings),
        previews=_previews(clips, speed) if found.clip["num_frames"] > 1 else "",
        sheet=_data("png", sheet),
        sheet_alt=f"{counted(len(clips), 'clip')}; under its class and length each, its frames from left to right",
        histogram=_histogram(found),
        tallies="".join(_bars(tally) for tally in found.tallies),
        left_out=_left_out(found),
    )


def _html(text: str) -> str:
    return escape(printable(text))


def _data(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _previews(clips: Sequence[SampledClip], speed: float) -> str:
    figures = ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.gif"
        for clip in clips:
            if clip.preview is not None:
                write_video(path, clip.preview, speed, "gif")
                figures += f'<figure><img src="{_data("gif", path.read_bytes())}" alt="{_html(clip.name)}, playing">'
                figures += f"<figcaption>{_html(clip.caption)} <small>{_html(clip.name)}</small></figcaption></figure>"
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
        f'<tr><th scope="row">{_html(value)}</th><td>{count:,}</td>'
        f'<td><i style="width:{100 * count / longest:.1f}%"></i></td></tr>'
        for value, count in rows
    )
    rest = f"<p>and {more:,} more</p>" if more else ""
    return f"<h2>{_html(tally.name)}</h2><table>{table}</table>{rest}"


def _left_out(found: Inspection) -> str:
    lines = "".join(f"<p>{_html(line)}</p>" for line in found.notices)
    files = "".join(f"<li><code>{_html(path)}</code>: {_html(why)}</li>" for path, why in found.skipped.items())
    if files:
        title = f"<summary>Skipped {counted(len(found.skipped), 'file')}</summary>"
        lines = f"<details{' open' * (len(found.skipped) <= MOST_IN_TEXT)}>{title}<ul>{files}</ul></details>{lines}"
    return f"<h2>Left out</h2>{lines}" if lines else ""


_PAGE = Template("""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title><style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e22; --soft: #5c626d; --line: #e1e4e8; --bar: #3f72c9 }
@media (prefers-color-scheme: dark) {
  :root { --paper: #15171b; --ink: #e4e6ea; --soft: #9aa1ac; --line: #2c3037; --bar: #6d9eeb } }
@media (prefers-reduced-motion: reduce) { figure { display: none } }
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25 } h2::first-letter, dt::first-letter { text-transform: uppercase }
h2, summary { font-size: 1.1rem; margin: 2rem 0 .5rem }
small, dt, .axis { color: var(--soft); font-size: .85rem } figcaption small { display: block }
dl, details div { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .75rem 1.5rem }
details div { grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)) } dd, figure { margin: 0 }
dl div { border-top: 1px solid var(--line); padding-top: .5rem } .axis { display: flex; justify-content: space-between }
img { max-width: 100%; border-radius: .3rem } figure img { width: 100%; image-rendering: pixelated }
svg { width: 100%; height: 8rem; fill: var(--bar) } .warning { border-left: 5px solid #d9822b; padding: 0 1ex }
table { width: 100%; border-collapse: collapse; table-layout: fixed; font-variant-numeric: tabular-nums }
th { width: 35%; text-align: left; font-weight: normal } td:nth-child(2) { width: 6rem; text-align: right }
i { display: block; height: .7rem; margin-left: .75rem; background: var(--bar) }
</style></head><body><main><h1>$title</h1>$warnings<dl>$facts</dl>
$previews<h2>Contact sheet</h2>
<a href="contact_sheet.png"><img src="$sheet" alt="$sheet_alt"></a>
$histogram$tallies$left_out</main></body></html>
""")
