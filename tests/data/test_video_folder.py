"""A folder of video files: which are used, what is read from them, and what becomes of bad ones."""

from __future__ import annotations

import logging
import os
import pickle
import warnings
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.video_files import VIDEOS, Video, make_video
from vidgen.data.decoding import frames_of, read_frames, scan
from vidgen.data.module import VideoDataModule
from vidgen.data.request import ClipRequest
from vidgen.data.splits import Split
from vidgen.data.transforms import to_clip
from vidgen.data.video_folder import VideoFolder
from vidgen.errors import UserError
from vidgen.registry import DATASETS

LOSSLESS = VIDEOS["ffv1"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Callable[[Video], bytes]:
    """The bytes of a video, made once."""
    made: dict[str, bytes] = {}
    folder = tmp_path_factory.mktemp("sources")

    def content(video: Video) -> bytes:
        if repr(video) not in made:
            made[repr(video)] = make_video(folder / f"{len(made)}", video).read_bytes()
        return made[repr(video)]

    return content


@pytest.fixture
def fill(tmp_path, sources) -> Callable[..., Path]:
    """Fills a folder with videos by relative path."""

    def filled(files: dict[str, str | Video | bytes]) -> Path:
        for name, what in files.items():
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            what = VIDEOS[what] if isinstance(what, str) else what
            path.write_bytes(what if isinstance(what, bytes) else sources(what))
        return tmp_path / "videos"

    return filled


def videos(root: Path, **arguments) -> VideoFolder:
    return VideoFolder(**{"root": str(root), "resolution": 48, "num_frames": 4, **arguments})


def message(root: Path, **arguments) -> str:
    with pytest.raises(UserError) as error:
        videos(root, **arguments)
    return str(error.value)


def warned(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_the_registry_knows_it():
    assert DATASETS.get("video_folder") is VideoFolder


def test_classes_are_the_folders(fill):
    dataset = videos(fill({"walk/b/x.mp4": "h264", "run/a.mkv": "ffv1", "walk/c.gif": "gif"}))
    assert dataset.spec.class_names == ("run", "walk")
    assert list(dataset.names) == ["run/a.mkv", "walk/b/x.mp4", "walk/c.gif"]
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 1, 1]
    assert dataset.lengths.tolist() == [30, 30, 30] and dataset.spec.fps == 25


def test_a_read_gives_the_frames_asked_for(fill):
    dataset = videos(fill({"a.mkv": "ffv1"}))
    sample = dataset.read(ClipRequest(0, (1, 29, 4), 48))
    expected = np.stack([LOSSLESS.picture(n)[:, 8:56] for n in (1, 29, 4)])
    assert torch.equal(sample["video"], to_clip(expected))
    assert sample["times"].tolist() == [1, 29, 4] and sample["length"].item() == 30


def test_what_lies_beside_videos_is_passed_over_in_silence(fill, caplog, capfd):
    beside = dict.fromkeys(("a.txt", "labels.csv", "a.json", "a.srt", "a.wav", "README.md", ".hidden.mp4"), b"x")
    root = fill({"a.mp4": "h264", "b.mkv": "ffv1", **beside})
    Image.new("RGB", (8, 8)).save(root / "thumbnail.jpg")
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG, "vidgen"):
        warnings.simplefilter("error")
        dataset = videos(root)
        dataset.read(ClipRequest(0, (0, 1), 16))
    assert list(dataset.names) == ["a.mp4", "b.mkv"] and dataset.skipped == {} and dataset.notices == []
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_a_folder_of_images_is_pointed_elsewhere(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert message(tmp_path) == (
        f"data.root '{tmp_path}' holds images and no video;"
        " use data.name frame_folder (a folder of frames per video), frame_strips or image_folder"
    )


def test_folders_are_refused_by_name(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    what = "it should be a folder of video files"
    assert message(tmp_path / "no") == f"data.root '{tmp_path}/no' does not exist; {what}"
    assert message(tmp_path / "file") == f"data.root '{tmp_path}/file' is not a folder; {what}"
    assert message(tmp_path / "empty") == f"'{tmp_path}/empty' holds no file; it should hold video files"


def test_a_bad_file_is_skipped_with_one_warning_and_listed(fill, caplog):
    root = fill({"a.mp4": "h264", "b.mp4": b"", "c.mp4": b"words " * 99, "e.mkv": "ffv1"})
    (root / "d.mp4").symlink_to(root / "nowhere")
    dataset = videos(root)
    reasons = {
        f"{root}/b.mp4": "the file is empty",
        f"{root}/c.mp4": "not a video that FFmpeg can read (Invalid data found when processing input)",
        f"{root}/d.mp4": "a link that leads nowhere",
    }
    assert list(dataset.names) == ["a.mp4", "e.mkv"]
    assert dataset.skipped == reasons
    assert warned(caplog) == [f"skipped {path}: {reason}" for path, reason in reasons.items()]
    assert VideoDataModule(dataset, batch_size=2).skipped == reasons
    caplog.clear()
    assert videos(root).skipped == reasons  # from the index
    assert warned(caplog) == [f"skipped {path}: {reason}" for path, reason in reasons.items()]


def test_many_bad_files_are_counted(fill, caplog):
    root = fill({"a.mp4": "h264", **{f"bad{n:02d}.mp4": b"" for n in range(13)}})
    assert len(videos(root).skipped) == 13
    assert warned(caplog)[-1] == f"{root}: skipped 3 more; `vidgen data inspect` lists them"
    assert len(warned(caplog)) == 11


def test_bad_files_alone_are_an_error(fill):
    root = fill({"a.mp4": b"", "b.mp4": b"words"})
    expected = f"data.root '{root}': none of its 2 files can be used (the first, 'a.mp4': the file is empty)"
    assert message(root) == expected


def test_the_numbers_of_frames_belong_to_the_right_files(fill):
    root = fill({"a.mp4": b"", "b.mp4": "edit_list", "c.mp4": "one_frame", "d.mkv": "ffv1", "e.mp4": "rotated"})
    dataset = videos(root)
    assert list(dataset.names) == ["b.mp4", "d.mkv", "e.mp4"] and dataset.lengths.tolist() == [25, 30, 30]
    for number, name in enumerate(dataset.names):
        expected = read_frames(root / name, scan(root / name), [7])[0]
        assert np.array_equal(dataset.frames(number, [7])[0], expected), name
    assert [dataset.video_size(n) for n in range(3)] == [(64, 48), (64, 48), (48, 64)]


def test_at_another_rate_the_frames_are_those_shown_then(fill):
    dataset = videos(fill({"a.mkv": "ffv1"}), fps=8)
    # 30 frames of 1/25 s last 1.2 s; at 8 frames per second the tenth is shown at 1.125 s.
    assert dataset.lengths.tolist() == [10] and dataset.spec.fps == 8 and dataset.video_fps(0) == 8
    expected = np.stack([LOSSLESS.picture(int(25 * n / 8))[:, 8:56] for n in range(10)])
    assert torch.equal(dataset.read(ClipRequest(0, tuple(range(10)), 48))["video"], to_clip(expected))


@pytest.mark.parametrize(("fps", "length"), [(25, 30), (50, 60), (30000 / 1001, 36), (1, 2), (0.5, 1), (100, 120)])
def test_the_length_at_another_rate(fps, length, fill):
    root = fill({"a.mp4": "h264", "b.mkv": "ffv1", "c.ts": "h264_ts", "d.avi": "mpeg4_avi", "e.webm": "vp9"})
    assert videos(root, fps=fps, num_frames=1).lengths.tolist() == [length] * 5


def test_uneven_frames_at_an_even_rate(fill):
    times = (0, 40, 80, 400, 440, 800)
    video = replace(LOSSLESS, num_frames=6, times=times, tick=Fraction(1, 1000))
    dataset = videos(fill({"a.mkv": video}), fps=10)
    shown = [max(n for n, time in enumerate(times) if time <= 100 * moment) for moment in range(9)]
    assert shown == [0, 2, 2, 2, 3, 4, 4, 4, 5] and dataset.lengths[0] >= 9
    frames = dataset.frames(0, range(9))
    assert all(np.array_equal(frame, LOSSLESS.picture(n)) for frame, n in zip(frames, shown, strict=True))


def test_without_a_rate_every_stored_frame_counts_once(fill):
    dataset = videos(fill({"a.mp4": "uneven_times"}))
    assert dataset.lengths.tolist() == [30]


def test_a_rate_asks_for_times(fill, caplog):
    root = fill({"a.mp4": "h264", "b.h264": "h264_without_times"})
    assert videos(root).lengths.tolist() == [30, 30]
    assert videos(root, fps=25).skipped == {f"{root}/b.h264": "it has no times; leave out data.fps"}
    assert warned(caplog) == [f"skipped {root}/b.h264: it has no times; leave out data.fps"]


def test_times_that_make_no_sense_are_refused_at_a_rate(fill):
    video = replace(LOSSLESS, num_frames=5, times=(0, 1, 2, 3, 10**9), tick=Fraction(1, 25))
    root = fill({"a.mkv": "ffv1", "b.mkv": video})
    assert videos(root).lengths.tolist() == [30, 5]
    assert videos(root, fps=25).skipped == {f"{root}/b.mkv": "damaged (its 5 frames span 11111 hours)"}


@pytest.mark.parametrize("fps", [0, -1, 0.001, 1001, float("nan")])
def test_rates_out_of_bounds_are_refused(fps, tmp_path):
    assert message(tmp_path, fps=fps) == f"data.fps is {fps:g}; it must be at least 0.01 and at most 1000"


def test_pixels_that_are_not_square_are_stretched(fill):
    wide = replace(VIDEOS["wide_pixels"], pixel_aspect=Fraction(2))
    dataset = videos(fill({"a.mp4": wide, "b.mp4": "h264"}), resolution=24)
    assert dataset.pixel_aspect(0) == 2 and dataset.pixel_aspect(1) == 1
    # 64 x 48 pixels of twice their height are as 128 x 48: in 24 rows, the middle 24 columns of 64.
    for video, width in ((0, 64), (1, 32)):
        whole = Image.fromarray(dataset.frames(video, [3])[0]).resize((width, 24), Image.Resampling.BILINEAR)
        expected = np.asarray(whole)[None, :, width // 2 - 12 : width // 2 + 12]
        assert torch.equal(dataset.read(ClipRequest(video, (3,), 24))["video"], to_clip(expected))


def test_deinterlacing_shows_one_moment(fill):
    root = fill({"a.mpg": "mpeg2"})
    plain, clean = videos(root), videos(root, deinterlace=True)
    woven, single = plain.frames(0, [5])[0], clean.frames(0, [5])[0]
    assert np.array_equal(single, woven[::2].repeat(2, axis=0)) and not np.array_equal(single, woven)


def test_frames_are_resized_one_at_a_time_and_the_same(fill):
    dataset = videos(fill({"a.mp4": "h264"}), resolution=16)
    frames = list(frames_of(Path(dataset.path(0))))
    expected = np.stack([dataset.fit(frames[n], 16) for n in (3, 9, 3)])
    assert np.array_equal(dataset.fitted(0, (3, 9, 3), 16), expected)


def test_a_copy_for_a_worker_reads_the_same(fill):
    dataset = videos(fill({"a.mp4": "h264", "b.gif": "gif"}), fps=10)
    copy = pickle.loads(pickle.dumps(dataset))
    for video in (0, 1):
        request = ClipRequest(video, (0, 5, 9), 16)
        assert torch.equal(copy.read(request)["video"], dataset.read(request)["video"])


def test_parts_of_a_folder(fill):
    root = fill({"train/run/a.mp4": "h264", "test/run/b.mkv": "ffv1"})
    dataset = videos(root, split=Split(by="folder", folder="test"))
    assert list(dataset.names) == ["test/run/b.mkv"]
    assert np.array_equal(dataset.frames(0, [2])[0], LOSSLESS.picture(2))


def test_names_that_are_no_text_are_read_and_named(fill, caplog):
    root = fill({"動画.mkv": "ffv1", os.fsdecode(b"caf\xe9.mkv"): "ffv1", os.fsdecode(b"bad\xff.mkv"): b""})
    dataset = videos(root)
    assert len(dataset) == 2 and all(np.array_equal(dataset.frames(n, [2])[0], LOSSLESS.picture(2)) for n in (0, 1))
    assert warned(caplog) == [f"skipped {root}/{os.fsdecode(b'bad' + bytes([255]))}.mkv: the file is empty"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_goes_on_when_a_file_vanishes(num_workers, fill, caplog):
    root = fill({f"{n}.mkv": "ffv1" for n in range(6)})
    made = VideoDataModule(videos(root, resolution=8), batch_size=3, num_workers=num_workers, seed=1)
    os.remove(root / "2.mkv")
    batches = list(islice(made.train_dataloader(), 8))
    assert [len(batch["video"]) for batch in batches] == [3] * 8
    assert made.skipped == {f"{root}/2.mkv": "it is gone"}
    assert warned(caplog) == [f"skipped {root}/2.mkv: it is gone"]


def test_what_stands_in_does_not_depend_on_the_workers(fill):
    root = fill({f"{n}.mkv": "ffv1" for n in range(6)})
    datasets = [videos(root, resolution=8) for _ in range(2)]
    os.remove(root / "2.mkv")
    modules = [VideoDataModule(d, batch_size=3, num_workers=n, seed=1) for n, d in enumerate(datasets)]
    for a, b in zip(*(islice(m.train_dataloader(), 6) for m in modules), strict=True):
        assert torch.equal(a["video"], b["video"]) and torch.equal(a["times"], b["times"])


def test_training_without_any_file_left_is_an_error(fill):
    root = fill({f"{n}.mkv": "ffv1" for n in range(3)})
    made = VideoDataModule(videos(root, resolution=8), batch_size=3)
    for n in range(3):
        os.remove(root / f"{n}.mkv")
    with pytest.raises(UserError) as error:
        next(iter(made.train_dataloader()))
    text = str(error.value)
    assert text.startswith("all 3 videos of the data set cannot be read (the last, ")
    assert text.endswith(": it is gone); is the disk still there?")


def test_evaluation_leaves_a_vanished_file_out(fill, caplog):
    root = fill({f"{n}.mkv": "ffv1" for n in range(6)})
    made = VideoDataModule(videos(root, resolution=8), batch_size=3)
    os.remove(root / "2.mkv")
    batches = list(made.evaluation_loader())
    assert sum(len(batch["video"]) for batch in batches) == 5
    assert warned(caplog) == [f"skipped {root}/2.mkv: it is gone"]
