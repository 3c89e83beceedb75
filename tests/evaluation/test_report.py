"""The page about results is whole, safe and tells what the results hold."""

from __future__ import annotations

import base64
import errno
import io
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import vidgen.atomic
from tests.evaluation.results import metric, save
from vidgen.errors import UserError
from vidgen.evaluation import report_videos
from vidgen.evaluation.report import write_report
from vidgen.evaluation.report_plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Line, Point, chart
from vidgen.evaluation.report_videos import encode
from vidgen.evaluation.result import MetricResult, Samples

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;$title"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "headless_shell")
WINDOWS = [{"first_frame": 16 * n, "value": 10.0 + n} for n in range(4)]
FIT = {"sizes": [512, 1024, 2048], "distances": [12.0, 11.0, 10.5], "slope": 1024.0, "residual": 0.125}


class Page(HTMLParser):
    """Elements and texts of a page; every element that is opened must be closed, inner ones first."""

    VOID = ("meta", "img", "source")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text("utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.cells: list[list[str]] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs)))
        self.open += [tag] * (tag not in self.VOID)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self.open  # HTML has no elements that close themselves
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def row(self, start: str) -> list[str]:
        """Cells of the only row whose first cell starts so."""
        (found,) = [row for row in self.cells if row[0].startswith(start)]
        return found

    def charts(self) -> list[ElementTree.Element]:
        """Drawings, parsed as XML; those of legends are left out."""
        found = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", self.source, re.DOTALL)]
        return [svg for svg in found if svg.get("role") == "img"]

    def videos(self) -> list[dict[str, tuple[np.ndarray, float]]]:
        """Of each video its decoded files: kind -> frames (T, H, W, 3) and frames per second."""
        found: list[dict[str, tuple[np.ndarray, float]]] = []
        for tag, attributes in self.elements:
            if tag == "video":
                found.append({})
            if tag == "source":
                kind, data = str(attributes["src"]).removeprefix("data:").split(";base64,")
                assert str(attributes["type"]).startswith(kind)
                found[-1][kind] = decoded(base64.b64decode(data, validate=True))
        return found


def decoded(data: bytes) -> tuple[np.ndarray, float]:
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == ("h264" if b"ftyp" in data[:12] else "vp9")
        assert stream.codec_context.pix_fmt == "yuv420p" and stream.average_rate is not None
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        return frames, float(stream.average_rate)


def scene(shape: tuple[int, int, int] = (4, 16, 12), color: tuple[int, ...] = (200, 60, 30)) -> np.ndarray:
    """A bright square that moves over a ground of another colour, uint8 (T, H, W, C)."""
    frames, height, width = shape
    video = np.full((frames, height, width, len(color)), 40, np.uint8)
    for time in range(frames):
        left = time * width // (2 * frames)
        video[time, height // 4 : height // 2 + 1, left : left + width // 2 + 1] = color
    return video


def report(*paths: Path) -> Page:
    return Page(write_report(paths, paths[0].parent / "report.html"))


def run(folder: Path, iterations: list[int], **changes) -> list[Path]:
    """Results of checkpoints of one training."""
    name = changes.pop("name", "run")
    return [
        save(
            folder / f"{name}_{n}.json",
            fvd=metric(1000 / n, fake__iteration=n, fake__path=f"runs/{name}/{n}.ckpt", **changes),
        )
        for n in iterations
    ]


def corners(svg: ElementTree.Element) -> list[int]:
    """Of each line its number of corners."""
    return [len(str(line.get("points")).split()) for line in svg.iter("polyline")]


def dots(svg: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(str(dot.get("cx"))), float(str(dot.get("cy")))) for dot in svg.iter("circle")]


# --- the page ---


def test_values_stand_in_rows_of_comparable_numbers(tmp_path):
    found = {"a": metric(12.5, {"std": 0.5}), "b": metric(99.0, stride=2), "c": metric(7.0)}
    page = report(*(save(tmp_path / f"{name}.json", fvd=one) for name, one in found.items()))
    about = "protocol styleganvi3d kinetics_i3d_rgb_scratch16 frames2048 real, 2048 fake"
    first = next(row for row in page.cells if row[0] == f"fvd [1]{about}")
    assert first[1:] == ["yes, in this row only", "12.5000 ± 0.500000", "–", "7.00000"]
    assert page.row("fvd [2]")[1:] == ["no, see below", "–", "99.0000", "–"]
    assert "What keeps rows apart" in page.texts
    assert ["stride", "1", "2"] in page.cells


def test_numbers_that_may_all_be_compared_are_marked_so(tmp_path):
    paths = [save(tmp_path / f"{name}.json", fvd=metric()) for name in "ab"]
    save(paths[1], fvd=metric(), kvd=metric())
    page = report(*paths)
    assert page.row("fvd")[1] == "yes" and page.row("kvd")[1] == "one value"
    assert "What keeps rows apart" not in page.texts and "Warnings" not in page.texts


def test_every_field_of_a_protocol_is_shown(tmp_path):
    a = save(tmp_path / "a.json", fvd=metric())
    b = save(tmp_path / "b.json", fvd=metric(stride=2, fake__iteration=2000))
    page = report(a, b)
    assert ["extractor.weights.fingerprint", "ab12"] in page.cells  # once for both
    assert ["fake.iteration", "1000", "2000"] in page.cells
    kinds = [attributes.get("class") for attributes in page.all("tr") if "class" in attributes]
    assert kinds.count("apart") == 1 and kinds.count("free") == 18


def test_warnings_are_listed_and_linked_from_their_values(tmp_path):
    own = MetricResult(1.0, {}, metric().protocol, ("fvd: of random weights",))
    a = save(tmp_path / "a.json", warnings=("few videos",), fvd=own, kvd=metric())
    page = report(a, save(tmp_path / "b.json", warnings=("few videos",), fvd=metric(2.0)))
    assert [item["id"] for item in page.all("li") if "id" in item] == ["warning-1", "warning-2"]
    assert {"few videos ", "a, b", "fvd: of random weights ", "a"} <= set(page.texts)
    assert page.row("fvd")[2:] == ["1.00000 1 2", "2.00000 1"] and page.row("kvd")[2:] == ["100.000 1", "–"]
    assert {link["href"] for link in page.all("a")} == {"#warning-1", "#warning-2"}


def test_files_commands_and_software_that_differs_are_told(tmp_path):
    a = save(tmp_path / "a.json", fvd=metric())
    page = report(a, save(tmp_path / "b.json", fvd=metric(software__torch="2.9.0")))
    assert ["a", str(a), "2025-01-02T03:04:05Z", "vidgen eval"] in page.cells
    assert "note: software.torch differs (2.8.0 | 2.9.0), which hinders no comparison" in page.texts


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    samples = Samples((scene(),), (scene(),))
    page = report(*run(tmp_path, [1, 2]), save(tmp_path / "a.json", samples, fvd=metric(1.0, {"windows": WINDOWS})))
    assert not {"script", "link", "iframe", "object", "base", "img", "embed"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert str(attributes.get("src", "data:")).startswith("data:")
        assert str(attributes.get("href", "#")).startswith("#")
    assert "http" not in re.sub(r'(base64,[^"]*|http-equiv)', "", page.source)
    assert "url(" not in page.source and "@import" not in page.source
    (policy,) = [tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"


def test_hostile_texts_stay_text(tmp_path):
    details = {"windows": WINDOWS, **FIT, HOSTILE: {"per_frame": [1.0, 2.0]}}
    changes = {
        "protocol": HOSTILE,
        "extractor__name": HOSTILE,
        "fake__model": HOSTILE,
        "fake__keywords": {"a": HOSTILE},
    }
    own = MetricResult(1.0, details, metric(**changes).protocol, (HOSTILE,))
    other = MetricResult(1.0, details, metric(fake__iteration=5, stride=HOSTILE).protocol)
    samples = Samples((scene(),), (scene(),))
    name = HOSTILE.replace("/", "|")
    a = save(tmp_path / f"{name}.json", samples, (HOSTILE + "2",), **{HOSTILE: own})
    page = report(a, save(tmp_path / "b.json", **{HOSTILE: other}))
    assert not {"script", "img"} & {tag for tag, _ in page.elements}
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert {f"{HOSTILE} [1]", f"{HOSTILE}2 ", name, f"protocol {HOSTILE}"} <= set(page.texts)
    assert f"{name}, sample 1, playing" in [video["aria-label"] for video in page.all("video")]
    assert len(page.charts()) == 7


def test_characters_that_cannot_be_written_are_replaced(tmp_path):
    page = report(save(tmp_path / "a.json", warnings=("a\ud800b\x00c\u202ed",), fvd=metric()))
    assert "a�b�c�d " in page.texts


def test_odd_details_and_protocols_do_not_break_the_page(tmp_path):
    odd = {"windows": [1, {"first_frame": "x"}, {"value": 2}], "sizes": [0, "x", None], "distances": 3, "slope": "x"}
    odd |= {"curve": {"per_frame": ["x"]}, "other": {"per_frame": 3}}
    protocols = [{}, {"fake": 3, "real": "x", "extractor": [1]}, {"fake": {"iteration": "x", "path": 3}, "sides": []}]
    metrics = {f"m{n}": MetricResult(1.0, odd, one) for n, one in enumerate(protocols)}
    metrics["fit"] = MetricResult(1.0, {"slope": 1, "sizes": [0, "x", None], "distances": [1, 2, 3]}, {})
    assert len(report(save(tmp_path / "a.json", **metrics)).charts()) == 1


def test_a_single_result_has_a_page(tmp_path):
    page = report(save(tmp_path / "a.json", fvd=metric(12.5)))
    assert page.row("fvd")[1:] == ["one value", "12.5000"]
    assert not page.charts() and not page.all("video")


# --- charts ---


def test_a_run_is_one_line_over_its_iterations(tmp_path):
    (svg,) = report(*run(tmp_path, [2, 1, 4])).charts()
    assert corners(svg) == [3] and svg.get("aria-label") == "Chart: fvd against iteration, 1 line"
    places = [tuple(map(float, corner.split(","))) for corner in str(svg.find("polyline").get("points")).split()]
    assert places == sorted(dots(svg)) and [y for _, y in places] == sorted(y for _, y in places)  # it falls
    assert next(title.text for title in svg.iter("title")) == "run_2: 500.000 at iteration 2"


def test_only_comparable_values_are_joined(tmp_path):
    paths = run(tmp_path, [1, 2, 3]) + run(tmp_path, [4, 5], stride=2)
    page = report(*paths)
    assert corners(page.charts()[0]) == [3, 2]
    assert [text for text in page.texts if text in (" [1]", " [2]")] == [" [1]", " [2]"]


@pytest.mark.parametrize(
    "other, label",
    [
        ({"name": "more"}, " runs/more"),
        ({"fake__model": "tats"}, " tats"),
        ({"fake__weights": "raw"}, " raw"),
        ({"fake__keywords": {"truncation": 0.7}}, ' {"truncation": 0.7}'),
    ],
)
def test_different_runs_are_different_lines(tmp_path, other, label):
    paths = run(tmp_path / "x", [1, 2]) + run(tmp_path / "y", [1, 2, 3], **other)
    page = report(*paths)
    assert corners(page.charts()[0]) == [2, 3] and label in page.texts


def test_measured_while_or_after_it_was_trained_a_run_is_one_line(tmp_path):
    places = {1: "runs/a", 2: "runs/a/checkpoints/2.ckpt", 3: "runs/b", 4: "runs/b/checkpoints/4.ckpt"}
    paths = [
        save(tmp_path / f"{n}.json", fvd=metric(float(n), fake__iteration=n, fake__path=place))
        for n, place in places.items()
    ]
    page = report(*paths)
    assert corners(page.charts()[0]) == [2, 2]
    assert {" runs/a", " runs/b"} <= set(page.texts)


def test_a_line_passes_between_values_of_one_iteration(tmp_path):
    files = {"a": (1, 10.0), "b": (1, 20.0), "c": (2, 15.0)}
    paths = [save(tmp_path / f"{key}.json", fvd=metric(y, fake__iteration=x)) for key, (x, y) in files.items()]
    (svg,) = report(*paths).charts()
    assert len(dots(svg)) == 3
    first, second = str(svg.find("polyline").get("points")).split()
    assert first.split(",")[1] == second.split(",")[1]


def test_one_iteration_is_no_curve(tmp_path):
    assert not report(*run(tmp_path, [7]), *run(tmp_path / "y", [7], name="more")).charts()


def test_windows_are_drawn_for_each_group_of_comparable_results(tmp_path):
    details = {"windows": WINDOWS}
    found = [metric(1.0, details), metric(2.0, details), metric(3.0, details, stride=2), metric(4.0)]
    page = report(*(save(tmp_path / f"{n}.json", fvd=one) for n, one in enumerate(found)))
    first, second = page.charts()
    assert corners(first) == [4, 4] and corners(second) == [4]
    assert {"fvd [1] by window", "fvd [2] by window"} <= set(page.texts)
    assert [title.text for title in second.iter("title")][1] == "2: 11.0000 from frame 16 on"


CURVE = {"value": 2.0, "per_frame": [3.0, 2.0, None, 1.0], "ci95_half_width": [0.5, 0.25, None, 0.125]}
SCORES = {"own_choice": CURVE, "chosen_by_ssim": CURVE, "mean_of_samples": {"per_frame": [1.0, 0.5]}}


def bands(svg: ElementTree.Element) -> list[list[tuple[float, ...]]]:
    corners = [str(band.get("points")).split() for band in svg.iter("polygon")]
    return [[tuple(map(float, corner.split(","))) for corner in band] for band in corners]


def test_scores_of_frames_are_drawn_with_their_bands(tmp_path):
    found = [metric(2.0, CURVE, context_frames=5), metric(2.0, CURVE, context_frames=5), metric(2.0, CURVE, stride=2)]
    paths = [save(tmp_path / f"{n}.json", psnr=one) for n, one in enumerate(found)]
    first, second = report(*paths).charts()
    assert [corners(svg) for svg in (first, second)] == [[3, 3], [3]]
    assert first.get("aria-label") == "Chart: psnr [1] against predicted frame, 2 lines"
    assert second.get("aria-label") == "Chart: psnr [2] against frame, 1 line"
    assert [title.text for title in second.iter("title")] == [
        "2: 3.00000 (2.50000 to 3.50000) at 1",
        "2: 2.00000 (1.75000 to 2.25000) at 2",
        "2: 1.00000 (0.875000 to 1.12500) at 4",
    ]
    (band,) = bands(second)  # of steps 1 and 2; step 4 stands alone
    (left, top), (right, upper), (_, lower), (_, bottom) = band
    places = dots(second)
    assert (left, right) == (places[0][0], places[1][0])
    for (_, place), ends, half in zip(places, ((top, bottom), (upper, lower)), (0.5, 0.25), strict=False):
        assert sum(ends) / 2 == pytest.approx(place, abs=0.1)
        assert (ends[1] - ends[0]) / (places[1][1] - places[0][1]) == pytest.approx(2 * half, rel=0.01)


def test_labelled_scores_are_lines_of_one_chart(tmp_path):
    score = {"score": {"metric": "ssim"}, "context_frames": 2}
    page = report(save(tmp_path / "a.json", ssim_best_of_9=metric(2.0, SCORES, **score)))
    (svg,) = page.charts()
    assert corners(svg) == [3, 2] and len(bands(svg)) == 1
    assert {" a: own_choice, chosen_by_ssim", " a: mean_of_samples", "SSIM", "ssim_best_of_9"} <= set(page.texts)


def test_files_of_curves_are_listed_where_they_are(tmp_path):
    a = save(tmp_path / "a.json", psnr=metric(2.0, CURVE), fvd=metric())
    b = save(tmp_path / "b.json", fvd=metric())
    page = report(a, b)
    assert page.row("a")[-1] == "a.psnr.csva.psnr.png" and page.row("b")[-1] == ""
    assert ["", "file", "made", "command", "curves"] in page.cells
    (tmp_path / "a.psnr.csv").unlink()
    assert report(a, b).row("a")[-1] == "a.psnr.png"
    (tmp_path / "a.psnr.png").unlink()
    assert ["", "file", "made", "command"] in report(a, b).cells


def test_an_extrapolation_is_a_line_that_ends_at_its_value(tmp_path):
    page = report(save(tmp_path / "a.json", fvd_inf=metric(10.0, FIT)))
    (svg,) = page.charts()
    places = dots(svg)
    assert len(places) == 4 and corners(svg) == [2]
    start, end = (tuple(map(float, place.split(","))) for place in str(svg.find("polyline").get("points")).split())
    assert start == places[3] and start[0] == LEFT  # the value, at 0
    assert end == places[0]  # 10 + 1024 / 512, which is what was measured
    assert places[1][0] - LEFT == pytest.approx((places[0][0] - LEFT) / 2, abs=0.1)  # 1 / 1024
    assert " a: 10.0000, slope 1024.00, residual 0.125000" in page.texts


def test_a_deviation_is_a_bar(tmp_path):
    files = {"a": (1, 0.5), "b": (2, 0.0)}
    paths = [
        save(tmp_path / f"{key}.json", kvd=metric(5.0, {"std": std}, fake__iteration=n))
        for key, (n, std) in files.items()
    ]
    (svg,) = report(*paths).charts()
    assert sum(1 for path in svg.iter("path") if path.get("stroke-width") == "1.5") == 1


@pytest.mark.parametrize(
    "values", [[5.0], [0.0, 0.0], [-1.0, 1e-9], [1e300, -1e300], [1e308, -1e308], [1.0, 1.0 + 1e-15], [3e-320, 5e-320]]
)
def test_any_values_stay_within_the_frame(values):
    points = tuple(Point(n, value, "", 1e308 if value == 1e308 else 0.0) for n, value in enumerate(values))
    drawn = chart("t", "x", "y", [Line("l", points, tuple((point.x, point.y) for point in points))])
    svg = ElementTree.fromstring(re.findall(r"<svg.*?</svg>", drawn)[0])
    assert len(dots(svg)) == len(values)
    for x, y in dots(svg):
        assert LEFT <= x <= WIDTH - RIGHT and TOP <= y <= HEIGHT - BOTTOM
    assert not re.search(r"\b(nan|inf)\b", drawn)


def test_equal_values_have_ticks_that_can_be_told_apart():
    svg = ElementTree.fromstring(
        re.findall(r"<svg.*?</svg>", chart("t", "x", "y", [Line("l", (), ((0.0, 5.0), (9.0, 5.0)))]))[0]
    )
    ticks = [text.text for text in svg.iter("text") if text.get("text-anchor") == "end"]
    assert "5" in ticks and len(set(ticks)) == len(ticks) > 2


def test_many_lines_differ_in_colour_or_dashes():
    lines = [Line(str(n), (), ((0.0, 0.0), (1.0, n))) for n in range(20)]
    svg = ElementTree.fromstring(re.findall(r"<svg.*?</svg>", chart("t", "x", "y", lines))[0])
    looks = {(line.get("stroke"), line.get("stroke-dasharray")) for line in svg.iter("polyline")}
    assert len(looks) == 20


# --- samples ---


def test_samples_play_side_by_side(tmp_path):
    real, fakes = (scene(), scene(color=(30, 200, 60))), [(scene(color=(n, 90, 200)),) for n in (0, 250)]
    paths = [save(tmp_path / f"{n}.json", Samples(real, fake), fvd=metric()) for n, fake in enumerate(fakes)]
    page = report(*paths)
    assert ["real", "0", "1"] in page.cells
    assert [video["aria-label"] for video in page.all("video")] == [
        "real, sample 1, playing",
        "0, sample 1, playing",
        "1, sample 1, playing",
        "real, sample 2, playing",
    ]
    for attributes in page.all("video"):
        assert {"autoplay", "loop", "muted", "playsinline"} <= set(attributes)
        assert (attributes["width"], attributes["height"]) == ("144", "192")
    for files, source in zip(page.videos(), (real[0], *(fake[0] for fake in fakes), real[1]), strict=True):
        assert list(files) == ["video/webm", "video/mp4"]
        for frames, fps in files.values():
            assert fps == 25 and frames.shape == (4, 192, 144, 3)
            error = np.abs(frames.astype(int) - source.repeat(12, 1).repeat(12, 2))
            assert error.mean() < 4 and error.reshape(4, -1).mean(1).max() < 6
    assert "Played at 25 frames per second." in page.texts


def test_other_real_videos_have_a_column_of_their_own(tmp_path):
    reals = [scene(), scene(), scene(color=(9, 9, 250))]
    paths = [save(tmp_path / f"{n}.json", Samples((one,), (scene(),)), fvd=metric()) for n, one in enumerate(reals)]
    assert ["real", "0", "1", "real", "2"] in report(*paths).cells


def test_only_generated_samples_are_shown_too(tmp_path):
    page = report(save(tmp_path / "a.json", Samples((), (scene(),)), fvd=metric()))
    assert [video["aria-label"] for video in page.all("video")] == ["a, sample 1, playing"]
    assert ["a"] in page.cells  # the heading, without a column of real videos


@pytest.mark.parametrize(
    "shape, size",
    [
        ((3, 1, 1), (192, 192)),
        ((3, 5, 3), (190, 114)),
        ((1, 64, 64), (192, 192)),
        ((2, 63, 61), (190, 184)),
        ((2, 97, 51), (98, 52)),
        ((2, 200, 3), (200, 4)),
        ((2, 2, 301), (2, 302)),
    ],
)
def test_any_size_can_be_shown(shape, size):
    video = scene(shape)
    mp4, webm, told = encode(video, 10)
    factor = max(1, 192 // max(shape[1:]))
    large = video.repeat(factor, 1).repeat(factor, 2)
    for data in (mp4, webm):
        frames, _ = decoded(data)
        assert frames.shape == (shape[0], *size, 3) and told == size[::-1]
        inner = frames[:, : large.shape[1], : large.shape[2]].astype(int)
        assert np.abs(inner - large).mean() < 12
        padded = frames.astype(int)[:, -1, -1] - frames.astype(int)[:, large.shape[1] - 1, large.shape[2] - 1]
        assert np.abs(padded).max() < 30  # a copy of the border


def test_grey_videos_stay_grey():
    for data in encode(scene(color=(200,)), 10)[:2]:
        frames, _ = decoded(data)
        assert np.abs(frames.astype(int) - scene(color=(200,) * 3).repeat(12, 1).repeat(12, 2)).mean() < 3
        assert np.ptp(frames.astype(int), axis=-1).max() < 12


def test_every_frame_is_there_at_the_speed_of_the_source():
    video = np.stack([np.full((16, 16, 3), 12 * n, np.uint8) for n in range(20)])
    for data in encode(video, 12.5)[:2]:
        frames, fps = decoded(data)
        assert fps == 12.5 and len(frames) == 20
        assert np.abs(frames.reshape(20, -1).mean(1) - 12 * np.arange(20)).max() < 4


def test_the_same_videos_make_the_same_page(tmp_path):
    path = save(tmp_path / "a.json", Samples((scene(),), (scene((5, 64, 48)),)), fvd=metric())
    pages = [write_report([path], tmp_path / name).read_bytes() for name in ("1.html", "2.html")]
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"stride": 4}, "6.25"),
        ({"real__fps": None, "fake__fps": 12}, "12"),
        ({"real__fps": None}, "8"),
        ({"real__fps": "fast", "fake__fps": -3}, "8"),
        ({"real__fps": 1000.0}, "60"),
        ({"real__fps": 0.01}, "1"),
    ],
)
def test_samples_play_at_the_speed_at_which_they_were_measured(tmp_path, changes, told):
    page = report(save(tmp_path / "a.json", Samples((scene(),)), fvd=metric(**changes)))
    assert f"Played at {told} frames per second." in page.texts
    assert {fps for files in page.videos() for _, fps in files.values()} == {float(told)}


def test_few_of_many_samples_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(report_videos, "MOST_SAMPLES", 2)
    page = report(save(tmp_path / "a.json", Samples((scene(),) * 3, (scene(),)), fvd=metric()))
    assert len(page.all("video")) == 3 and "The first 2 of 3 samples are shown." in page.texts


def test_long_samples_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(report_videos, "MOST_FRAMES", 3)
    page = report(save(tmp_path / "a.json", Samples((scene((7, 8, 8)),), (scene((3, 8, 8)),)), fvd=metric()))
    assert [len(frames) for files in page.videos() for frames, _ in files.values()] == [3, 3, 3, 3]
    assert "Of videos of up to 7 frames the first 3 are shown." in page.texts


def test_videos_for_which_there_is_no_room_are_counted(tmp_path, monkeypatch):
    size = sum(map(len, encode(scene(), 25)[:2]))
    monkeypatch.setattr(report_videos, "MOST_BYTES", int(3.5 * size))
    page = report(save(tmp_path / "a.json", Samples((scene(),) * 3, (scene(),) * 3), fvd=metric()))
    assert len(page.all("video")) == 3 and "3 videos left out to keep the page small." in page.texts


def test_nothing_is_said_of_samples_that_are_all_shown(tmp_path):
    page = report(save(tmp_path / "a.json", Samples((scene(),)), fvd=metric()))
    assert not [text for text in page.texts if "shown" in text or "left out" in text]


# --- files ---


def test_the_page_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = save(tmp_path / "a.json", fvd=metric())
    write_report([path], tmp_path / "report.html")
    before = (tmp_path / "report.html").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(vidgen.atomic.os, "replace", full)
    with pytest.raises(UserError) as refused:
        write_report([save_other(tmp_path)], tmp_path / "report.html")
    assert str(refused.value) == (
        f"{tmp_path}/report.html: no space left on the disk; free some, what was written before is intact"
    )
    assert (tmp_path / "report.html").read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["a.json", "b.json", "report.html"]


def save_other(folder: Path) -> Path:
    (folder / "b.json").write_bytes((folder / "a.json").read_bytes())
    return folder / "b.json"


def test_a_result_is_not_overwritten_by_its_page(tmp_path):
    path = save(tmp_path / "a.json", fvd=metric())
    before = path.read_bytes()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError) as refused:
        write_report([tmp_path / "folder" / ".." / "a.json"], path)
    assert str(refused.value) == (
        f"{tmp_path}/a.json: is one of the results; give the page another name (--out report.html)"
    )
    assert path.read_bytes() == before


def test_no_result_is_refused(tmp_path):
    with pytest.raises(UserError) as refused:
        write_report([], tmp_path / "report.html")
    assert str(refused.value) == ("eval report: no result given; give JSON files of `vidgen eval … --out FILE.json`")


def test_damaged_samples_are_refused(tmp_path):
    path = save(tmp_path / "a.json", fvd=metric())
    (tmp_path / "a.samples.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match=r"a\.samples\.npz: damaged samples"):
        write_report([path], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_browser_shows_the_page(tmp_path):
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium")
    samples = Samples((scene(),), (scene(color=(0, 90, 200)),))
    path = save(tmp_path / "a.json", samples, fvd=metric(12.5, {"windows": WINDOWS}))
    write_report([path, *run(tmp_path, [1, 2, 3])], tmp_path / "report.html")
    shot = tmp_path / "shot.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1600"]
    home = [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=3000", f"--screenshot={shot}"]
    page = (tmp_path / "report.html").as_uri()
    subprocess.run([browser, *options, *home, page], check=True, timeout=120, capture_output=True)
    pixels = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3).astype(int)
    assert len(pixels) == 1000 * 1600 and len(np.unique(pixels, axis=0)) > 50
    for color in ("4c86d9", "c83c1e"):  # a line of a chart, the square in a video
        wanted = np.array([int(color[n : n + 2], 16) for n in (0, 2, 4)])
        assert (np.abs(pixels - wanted).max(1) < 30).sum() > 100
