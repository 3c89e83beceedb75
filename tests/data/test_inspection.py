"""What is written about a data set: numbers, a contact sheet, a page."""

from __future__ import annotations

import base64
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.strips import make_strips, random_frames, save_strip
from vidgen.data import inspection
from vidgen.data.annotations import Attributes, Labels
from vidgen.data.clips import Clips
from vidgen.data.dataset import VideoDataset
from vidgen.data.frame_folder import FrameFolder
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.image_folder import ImageFolder
from vidgen.data.inspection import Inspection, evenly, inspect
from vidgen.data.module import VideoDataModule
from vidgen.data.moving_shapes import MovingShapes
from vidgen.data.splits import Split
from vidgen.data.video_folder import VideoFolder
from vidgen.errors import UserError
from vidgen.media import write_video


class Page(HTMLParser):
    """Elements and texts of a page; every element that is opened must be closed."""

    VOID = ("meta", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open += [tag] * (tag not in self.VOID)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def look(dataset: VideoDataset, out: Path, num_clips: int = 48) -> Inspection:
    return inspect(VideoDataModule(dataset, batch_size=1), out, num_clips)


def strips(root: Path, num_frames: int = 4, **settings) -> FrameStrips:
    return FrameStrips(str(root), **{"resolution": 8, "num_frames": num_frames, **settings})


def page(out: Path) -> Page:
    return Page((out / "index.html").read_text(encoding="utf-8"))


def sheet(out: Path) -> Image.Image:
    return Image.open(out / "contact_sheet.png")


def gifs(out: Path) -> list[Image.Image]:
    sources = [str(image["src"]) for image in page(out).all("img")]
    found = [source.split(",")[1] for source in sources if source.startswith("data:image/gif")]
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def frame_folders(root: Path, names: list[str], length: int = 4) -> Path:
    for seed, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for time, frame in enumerate(random_frames(length, 8, seed=seed)):
            Image.fromarray(frame).save(root / name / f"{time}.png")
    return root


def counts(found: Inspection) -> dict[str, dict[str, int]]:
    return {tally.name: tally.counts for tally in found.tallies}


def test_the_text_tells_the_whole_data_set(tmp_path):
    root = make_strips(tmp_path / "data", {"run/a.png": 8, "run/b.png": 5, "walk/c.png": 4})
    found = look(strips(root), tmp_path / "out")
    mean, std = ([f"{value:.3f}" for value in values] for values in (found.mean, found.std))
    assert str(found) == (
        f"frame strips in {root}\n"
        "videos: 3\n"
        "frames: 17\n"
        "lengths in frames: 4 to 8, median 5\n"
        "clips: 3 x 4 x 8 x 8 (channels, frames, height, width), stride 1\n"
        "a clip spans: 50 to 100% of its video, median 80\n"
        "class balance: 0.92 (1: all classes equally frequent)\n"
        f"pixel mean: {' '.join(mean)} (values in [-1, 1], 3 sampled clips)\n"
        f"pixel standard deviation: {' '.join(std)} (values in [-1, 1], 3 sampled clips)\n"
        "stored sizes (width x height): 8 x 8 (3)\n"
        "frame rates: unknown (3)\n"
        "classes (2): run (2), walk (1)"
    )


def test_the_json_holds_every_number(tmp_path):
    found = look(strips(make_strips(tmp_path / "data", {"run/a.png": 8, "walk/c.png": 4})), tmp_path / "out")
    data = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert (data["num_videos"], data["num_frames"], data["lengths"]) == (2, 12, [4, 6, 8])
    assert data["histogram"] == [[4, 1], [5, 0], [6, 0], [7, 0], [8, 1]]
    shape = {"channels": 3, "num_frames": 4, "resolution": 8, "width": 8}
    rule = {"stride": 1, "rule": "contiguous", "seconds": None, "share": [0.5, 0.75, 1.0]}
    assert data["clip"] == shape | rule
    assert data["mean"] == list(found.mean) and data["sampled"] == ["run/a.png", "walk/c.png"]
    assert data["tallies"][2] == {"name": "classes (2)", "counts": {"run": 1, "walk": 1}, "unknown": 0}


def test_pixels_are_described_per_channel_over_all_clips(tmp_path):
    dark, bright = np.full((4, 8, 8, 3), 0, np.uint8), np.full((4, 8, 8, 3), 255, np.uint8)
    dark[..., 1] = bright[..., 2] = 51
    save_strip(tmp_path / "data" / "a.png", dark)
    save_strip(tmp_path / "data" / "b.png", bright)
    found = look(strips(tmp_path / "data"), tmp_path / "out")
    assert found.mean == pytest.approx((0, 0.2, -0.8)) and found.std == pytest.approx((1, 0.8, 0.2))


def test_frozen_clips_are_counted_and_named(tmp_path):
    root = make_strips(tmp_path / "data", {"a.png": 6})
    save_strip(root / "still.png", random_frames(1, 8).repeat(6, axis=0))
    save_strip(root / "black.png", np.zeros((6, 8, 8, 3), np.uint8))
    found = look(strips(root), tmp_path / "out")
    assert found.frozen == ("black.png", "still.png")
    line = "2 of 3 sampled clips frozen (all frames identical): black.png, still.png"
    assert found.warnings == (line,) and str(found).endswith(f"\nwarning: {line}")
    assert line in "".join(page(tmp_path / "out").texts)


def test_single_images_are_not_called_frozen_and_do_not_move(tmp_path):
    (tmp_path / "data").mkdir()
    for side in (70, 80, 80):
        Image.fromarray(random_frames(1, side)[0]).save(tmp_path / "data" / f"{len(os.listdir(tmp_path / 'data'))}.png")
    found = look(ImageFolder(str(tmp_path / "data"), 64), tmp_path / "out")
    assert found.warnings == () and gifs(tmp_path / "out") == []
    assert counts(found)["stored sizes (width x height)"] == {"80 x 80": 2, "70 x 70": 1}
    assert sheet(tmp_path / "out").size == (3 * 68, 83)  # side by side


def test_a_class_without_videos_is_a_warning(tmp_path):
    root = make_strips(tmp_path / "data", {"run/p0.png": 5, "walk/p0.png": 5, "walk/p1.png": 5})
    found = look(strips(root, split=Split(by="group", pattern=r"p(\d)", groups=[1])), tmp_path / "out")
    assert found.warnings == ("classes without videos: run",) and found.balance == 0


def test_balance_is_one_for_equal_classes_and_unknown_for_one(tmp_path):
    two = make_strips(tmp_path / "two", {"a/a.png": 4, "b/a.png": 4})
    one = make_strips(tmp_path / "one", {"a/a.png": 4})
    assert look(strips(two), tmp_path / "out").balance == pytest.approx(1)
    assert look(strips(one), tmp_path / "out").balance is None
    assert "class balance" not in str(look(strips(one), tmp_path / "out"))


def test_what_cannot_be_read_is_skipped_and_listed(tmp_path):
    root = make_strips(tmp_path / "data", {"a.png": 5, "b.png": 5, "short.png": 3})
    data = (root / "a.png").read_bytes()
    (root / "a.png").write_bytes(data[: len(data) // 2])
    (root / "c.png").write_text("no image")
    dataset = strips(root)
    os.remove(root / "b.png")
    save_strip(root / "b.png", random_frames(5, 8))
    found = look(dataset, tmp_path / "out")
    assert found.sampled == ("b.png",)
    assert [*found.skipped] == [f"{root}/c.png", f"{root}/a.png"]
    assert found.skipped[f"{root}/c.png"] == "not an image"
    left_out = f"{root}: left out 1 video shorter than 4 frames"
    assert found.notices == (left_out,)
    text = "".join(page(tmp_path / "out").texts)
    assert f"{root}/c.png: not an image" in text and left_out in text
    assert f"skipped: 2 files\n  {root}/c.png: not an image\n  {root}/a.png: damaged" in str(found)


def test_many_skipped_files_are_folded_but_all_there(tmp_path):
    root = make_strips(tmp_path / "data", {"a.png": 5})
    for number in range(13):
        (root / f"x{number:02d}.png").write_text("no image")
    found = look(strips(root), tmp_path / "out")
    assert found.notices == ()
    assert str(found).endswith(f"  {root}/x09.png: not an image\n  and 3 more")
    shown = page(tmp_path / "out")
    assert [details.keys() for details in shown.all("details")] == [{"open"}, set()]
    assert all(f"{root}/x{number:02d}.png" in shown.texts for number in range(13))


def test_a_data_set_of_which_nothing_can_be_read_is_refused(tmp_path):
    root = make_strips(tmp_path / "data", {"a.png": 5, "b.png": 5})
    dataset = strips(root)
    os.remove(root / "a.png")
    os.remove(root / "b.png")
    with pytest.raises(UserError) as error:
        look(dataset, tmp_path / "out")
    why = f"(the last, '{root}/b.png': it is gone)"
    assert str(error.value) == f"none of 2 sampled videos can be read {why}; is the disk still there?"
    assert not (tmp_path / "out").exists()


def test_settings_are_refused_by_name(tmp_path):
    dataset = MovingShapes(8, 2, num_videos=2)
    with pytest.raises(UserError, match=r"^num_clips is 0; it must be at least 1$"):
        look(dataset, tmp_path / "out", num_clips=0)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError) as error:
        look(dataset, tmp_path / "file")
    reason = "cannot be written (File exists); choose another place"
    assert str(error.value) == f"{tmp_path}/file/contact_sheet.png: {reason}"
    assert (tmp_path / "file").read_text() == "kept"


def test_hostile_names_stay_text(tmp_path):
    name = "<img src=x onerror=alert(1)>/<script>alert(1)<&\"'>.png"
    root = make_strips(tmp_path / "data", {name: 5, "b/\x1b[31m\n.png": 5, "b/$title.png": 5})
    (root / "b" / "<script>x.png").write_text("no image")
    found = look(strips(root), tmp_path / "out")
    shown = page(tmp_path / "out")
    assert not shown.all("script") and not any("onerror" in attributes for _, attributes in shown.elements)
    assert {name, f"{root}/b/<script>x.png", "b/�[31m�.png", "b/$title.png"} <= set(shown.texts)
    assert f"{name}, playing" in [image["alt"] for image in shown.all("img")]
    assert "\x1b" not in str(found)


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    look(strips(make_strips(tmp_path / "data", {"a/a.png": 5, "b/b.png": 9})), tmp_path / "out")
    shown = page(tmp_path / "out")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in shown.elements}
    assert all(str(image["src"]).startswith("data:image/") for image in shown.all("img"))
    assert [link["href"] for link in shown.all("a")] == ["contact_sheet.png"]
    assert "http" not in re.sub(r'(base64,[^"]*|http-equiv)', "", (tmp_path / "out" / "index.html").read_text())
    assert sorted(os.listdir(tmp_path / "out")) == ["contact_sheet.png", "index.html", "inspection.json"]


def test_every_picture_has_a_description(tmp_path):
    look(strips(make_strips(tmp_path / "data", {"a/a.png": 5, "b/b.png": 9})), tmp_path / "out")
    shown = page(tmp_path / "out")
    assert [image["alt"] for image in shown.all("img")] == [
        "a/a.png, playing",
        "b/b.png, playing",
        "2 clips; under its class and length each, its frames from left to right",
    ]
    assert [svg["aria-label"] for svg in shown.all("svg")] == ["Histogram of lengths: 5 to 9, median 7 frames"]
    assert shown.all("html") == [{"lang": "en"}]


def test_previews_play_the_clip_at_the_speed_of_the_source(tmp_path):
    root = frame_folders(tmp_path / "data", ["a", "b"], length=6)
    look(FrameFolder(str(root), 8, 3, stride=2, fps=10), tmp_path / "out")
    assert [(gif.n_frames, gif.info["duration"], gif.size) for gif in gifs(tmp_path / "out")] == [(3, 200, (8, 8))] * 2
    assert "Cut as in training, not mirrored; 5 frames per second." in page(tmp_path / "out").texts


def test_previews_are_few_short_and_small(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "PREVIEW_FRAMES", 5)
    look(MovingShapes(200, 6, num_videos=20), tmp_path / "out", num_clips=9)
    found = gifs(tmp_path / "out")
    assert len(found) == 8 and {(gif.n_frames, gif.size) for gif in found} == {(5, (160, 160))}


def test_the_sheet_shows_the_frames_of_a_clip_in_order(tmp_path):
    frames = random_frames(4, 64)
    save_strip(tmp_path / "data" / "a.png", frames)
    look(strips(tmp_path / "data", resolution=64), tmp_path / "out")
    picture = np.asarray(sheet(tmp_path / "out"))
    assert picture.shape == (64 + 19, 4 * 66 + 2, 3)
    for index in range(4):
        assert (picture[17:81, 2 + 66 * index : 66 + 66 * index] == frames[index]).all()
    assert (picture[:15] > 150).any()  # the caption


def test_of_long_clips_eight_evenly_spaced_frames_are_shown(tmp_path):
    frames = random_frames(15, 64)
    save_strip(tmp_path / "data" / "a.png", frames)
    look(strips(tmp_path / "data", resolution=64, num_frames=15), tmp_path / "out")
    picture = np.asarray(sheet(tmp_path / "out"))
    assert all((picture[17:81, 2 + 66 * n : 66 + 66 * n] == frames[2 * n]).all() for n in range(8))


@pytest.mark.parametrize("resolution, num_frames", [(8, 8), (80, 2), (8, 1)])
def test_the_sheet_is_bounded(tmp_path, resolution, num_frames):
    look(MovingShapes(resolution, num_frames, length=8, travel=(0, 0), num_videos=700), tmp_path / "out", num_clips=350)
    width, height = sheet(tmp_path / "out").size
    assert 2000 < height <= 4000 and width <= 4000


def test_frames_shrink_before_clips_are_left_out(tmp_path):
    look(MovingShapes(64, 2, num_videos=240), tmp_path / "out", num_clips=240)
    assert sheet(tmp_path / "out").size == (4 * (2 * 49 + 2), 60 * 66)


def test_pixels_of_small_frames_stay_visible(tmp_path):
    frames = random_frames(4, 8)
    save_strip(tmp_path / "data" / "a.png", frames)
    look(strips(tmp_path / "data"), tmp_path / "out")
    assert (np.asarray(sheet(tmp_path / "out"))[17:81, 2:66] == frames[0].repeat(8, axis=0).repeat(8, axis=1)).all()


def test_wide_grey_clips_are_shown_in_their_shape(tmp_path):
    root = make_strips(tmp_path / "data", {"a.png": 5}, side=64)
    found = look(strips(root, resolution=64, width=96, channels=1), tmp_path / "out")
    assert len(found.mean) == 1 and found.clip["width"] == 96
    assert sheet(tmp_path / "out").size == (4 * 98 + 2, 83)
    assert sheet(tmp_path / "out").mode == "RGB"


def test_a_single_video_without_labels_is_enough(tmp_path):
    found = look(MovingShapes(8, 2, num_videos=1, label_by="none"), tmp_path / "out")
    assert found.sampled == ("video 0",) and found.balance is None
    assert not any(tally.name.startswith("classes") for tally in found.tallies)
    assert page(tmp_path / "out").all("svg") == []


def test_durations_follow_from_frame_rates(tmp_path):
    root = frame_folders(tmp_path / "data", ["a", "b", "c"], length=6)
    found = look(FrameFolder(str(root), 8, 2, stride=2, fps=4), tmp_path / "out")
    assert found.hours == pytest.approx(18 / 4 / 3600) and found.clip["seconds"] == pytest.approx(3 / 4)
    assert counts(found)["frame rates"] == {"4 fps": 3}
    assert "\nduration: 4.50 seconds\n" in str(found) and "\na clip lasts: 0.75 seconds\n" in str(found)


def test_video_files_of_several_rates_add_up(tmp_path):
    for name, fps in (("a", 25), ("b", 25), ("c", 10)):
        video = torch.randint(0, 255, (3, 20, 32, 48), dtype=torch.uint8)
        write_video(tmp_path / "data" / f"{name}.mp4", video, fps, "mp4")
    found = look(VideoFolder(str(tmp_path / "data"), 16, 3, clips=Clips(rule="sparse")), tmp_path / "out")
    assert counts(found)["frame rates"] == {"25 fps": 2, "10 fps": 1}
    assert counts(found)["stored sizes (width x height)"] == {"48 x 32": 3}
    assert found.hours == pytest.approx((2 * 20 / 25 + 20 / 10) / 3600, rel=1e-3)
    assert "(channels, frames, height, width), rule sparse\n" in str(found)


def test_only_a_sample_of_many_videos_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "MOST_PROBED", 3)
    asked: list[int] = []
    plain = FrameStrips.video_size
    monkeypatch.setattr(FrameStrips, "video_size", lambda self, video: asked.append(video) or plain(self, video))
    root = make_strips(tmp_path / "data", {f"{number:02d}.png": 4 for number in range(11)})
    found = look(strips(root), tmp_path / "out", num_clips=2)
    assert asked == [0, 5, 10] and found.sampled == ("00.png", "10.png")
    assert "stored sizes (width x height) of 3 sampled videos: 8 x 8 (3)" in str(found)
    assert found.num_videos == 11


def test_hours_of_many_videos_are_estimated_from_the_sample(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "MOST_PROBED", 2)
    root = frame_folders(tmp_path / "data", ["a", "b", "c", "d"])
    found = look(FrameFolder(str(root), 8, 2, fps=2), tmp_path / "out")
    assert found.hours == pytest.approx(16 / 2 / 3600) and "\nduration: about 8.00 seconds\n" in str(found)


def test_thousands_of_classes_stay_readable(tmp_path):
    root = make_strips(tmp_path / "data", {f"c{number:03d}/a.png": 4 for number in range(60)})
    make_strips(root, {"c059/b.png": 4})
    found = look(strips(root), tmp_path / "out", num_clips=2)
    text = page(tmp_path / "out").texts
    assert "classes (60)" in text and "c048" in text and "c049" not in text and "and 10 more" in text
    assert "classes (60): c059 (2), c000 (1), c001 (1)," in str(found) and str(found).endswith(", and 50 more")
    assert len(counts(found)["classes (60)"]) == 60


def test_attributes_are_counted(tmp_path):
    table = "path,who,age\na.png,ann,1\nb.png,bob,\nc.png,bob,2.5\nd.png,,1\n"
    root = make_strips(tmp_path / "data", dict.fromkeys(("a.png", "b.png", "c.png", "d.png"), 4))
    (tmp_path / "table.csv").write_text(table)
    dataset = strips(root, attributes=Attributes(file=tmp_path / "table.csv"), labels=Labels(by="none"))
    text = str(look(dataset, tmp_path / "out", num_clips=1))
    assert "\nattribute who: bob (2), ann (1), unknown (1)\nattribute age: 1 (2), 2.5 (1), unknown (1)" in text


def test_numbers_of_many_values_are_put_into_ranges(tmp_path):
    root = make_strips(tmp_path / "data", {f"{number:02d}.png": 4 for number in range(25)})
    found = look(strips(root, attributes=Attributes(pattern=r"(?P<number>\d+)")), tmp_path / "out", num_clips=1)
    ranges = counts(found)["attribute number"]
    assert [*ranges][:2] == ["0 to 2", "2 to 4"] and [*ranges.values()] == [2] * 11 + [3]


def test_what_only_reading_tells_is_counted_over_the_sampled_clips(tmp_path):
    found = look(MovingShapes(8, 2, num_videos=40, shapes=["circle"]), tmp_path / "out", num_clips=10)
    assert counts(found)["attribute shape of 10 sampled clips"] == {"circle": 10}
    assert sum(counts(found)["classes (4)"].values()) == 40


def test_the_same_data_give_the_same_files(tmp_path):
    root = make_strips(tmp_path / "data", {"a.png": 9, "b.png": 30})
    for out in ("one", "two"):
        look(strips(root, flip=True), tmp_path / out)
    for name in ("contact_sheet.png", "index.html", "inspection.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_clean_input_is_silent(tmp_path, caplog, capsys, recwarn):
    found = look(strips(make_strips(tmp_path / "data", {"a/a.png": 9, "b/b.png": 5})), tmp_path / "out")
    assert not caplog.records and capsys.readouterr() == ("", "") and not recwarn.list
    assert found.warnings == () and found.skipped == {} and found.notices == ()
    assert "Left out" not in page(tmp_path / "out").texts


def test_even_spacing_takes_both_ends_and_no_item_twice():
    assert evenly(5, 2) == [0, 4] and evenly(3, 9) == [0, 1, 2] and evenly(7, 1) == [0]
    for total in range(1, 40):
        for number in range(1, 40):
            chosen = evenly(total, number)
            assert len(set(chosen)) == min(total, number) and max(chosen) < total
