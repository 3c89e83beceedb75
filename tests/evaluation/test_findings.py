"""Warnings about videos: each alone and word for word, and silence on clean input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.strips import random_frames, save_strip
from tests.data.video_files import VIDEOS, make_video
from tests.evaluation.tiny import FrameDistance, TinyDistance, TinyError, TinyOrder, videos
from tests.noise_model import SeededNoise
from vidgen.evaluation.findings import find_warnings
from vidgen.evaluation.opening import open_videos
from vidgen.evaluation.pairs import pair_up
from vidgen.evaluation.passes import Facts
from vidgen.evaluation.run import Settings, evaluate
from vidgen.evaluation.sources import ClipRule, ClipSource, GeneratedClips, StoredClips
from vidgen.metrics.base import VideoMetric

QUIET = Settings(progress=False, num_samples=0)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few videos are many."""
    monkeypatch.setattr("vidgen.evaluation.findings.PUBLISHED_NUM_VIDEOS", 8)


def source(place: Path, side: str = "real", **settings: Any) -> Callable[[ClipRule], ClipSource]:
    dataset, native = open_videos(str(place), f"--{side}", **settings)
    return lambda rule: StoredClips(dataset, rule, native=native, name=place.name)


def found(real: Any, fake: Any, *metrics: VideoMetric, settings: Settings = QUIET) -> list[str]:
    result = evaluate(metrics or [TinyDistance(num_frames=6)], real=real, fake=fake, settings=settings)
    return result.all_warnings()


def strips(folder: Path, seed: int, number: int = 12, frames: int = 6, side: int = 8, suffix: str = "png") -> Path:
    for index in range(number):
        save_strip(folder / f"{seed}_{index:03d}.{suffix}", random_frames(frames, side, seed=100 * seed + index))
    return folder


def as_jpeg(folder: Path) -> Path:
    """Compress all images of a folder with loss, under the names that they have."""
    for path in folder.iterdir():
        with Image.open(path) as image:
            pixels = image.copy()
        pixels.save(path, format="JPEG")
    return folder


@pytest.fixture
def clean(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders of strips that have nothing in common and nothing wrong."""
    return strips(tmp_path / "real", 1), strips(tmp_path / "fake", 2)


def test_silence_on_clean_input_of_the_published_number(tmp_path):
    for seed, name in enumerate(("real", "fake")):
        np.save(tmp_path / f"{name}.npy", videos(2048, frames=3, side=4, seed=seed))
    real, fake = (source(tmp_path / f"{name}.npy", name) for name in ("real", "fake"))
    assert found(real, fake, TinyDistance(num_frames=3), TinyOrder(3)) == []


@pytest.mark.usefixtures("enough")
def test_silence_on_clean_files_of_all_kinds(clean, tmp_path):
    real, fake = clean
    assert found(source(real), source(fake)) == []
    (fake / "notes.txt").write_text("x")
    assert found(source(real), source(fake)) == []
    assert found(source(real), lambda rule: GeneratedClips(SeededNoise(size=8).eval(), 12, rule)) == []


def test_few_videos(clean):
    real, fake = clean
    assert found(source(real), source(fake)) == [
        "few videos (12 real, 12 fake): published numbers take 2048, and fewer give larger distances"
    ]


def test_few_videos_of_one_side(clean):
    few = [line for line in found(None, source(clean[1]), TinyOrder(6)) if line.startswith("few")]
    assert few == ["few videos (12 fake): published numbers take 2048, and fewer give other values"]


def test_metrics_of_one_side_beside_others_repeat_nothing(clean):
    real, fake = clean
    assert found(source(real), source(fake), TinyOrder(6), TinyDistance(num_frames=6)) == [
        "few videos (12 real, 12 fake): published numbers take 2048, and fewer give larger distances"
    ]


def test_no_more_samples_than_features(clean, tmp_path, monkeypatch):
    monkeypatch.setattr("vidgen.evaluation.findings.PUBLISHED_NUM_VIDEOS", 2)
    real, six = clean[0], strips(tmp_path / "six", 3, number=6)
    assert found(source(real), source(six)) == [
        "tiny_fd: no more samples (6) than features (6), so that the covariance is singular; the value is exact for"
        " these videos and a poor estimate for more of them"
    ]
    seven = strips(tmp_path / "seven", 4, number=7)
    assert found(source(real), source(seven)) == []
    assert found(None, source(six), TinyOrder(6)) == []  # fits no covariance


def test_a_covariance_is_the_concern_of_its_metric_alone(clean, tmp_path, monkeypatch):
    monkeypatch.setattr("vidgen.evaluation.findings.PUBLISHED_NUM_VIDEOS", 2)
    real, fake = source(clean[0]), source(strips(tmp_path / "six", 3, number=6))
    result = evaluate([TinyDistance(num_frames=6), TinyOrder(6)], real=real, fake=fake, settings=QUIET)
    about = result.to_dict()["metrics"]
    assert [line[:28] for line in about["tiny_fd"]["warnings"]] == ["tiny_fd: no more samples (6)"]
    assert about["tiny_order"]["warnings"] == []


def test_pairs_are_looked_at_as_other_videos_are(clean, tmp_path):
    real, fake = clean[0], as_jpeg(shutil.copytree(clean[1], tmp_path / "jpeg"))
    shutil.copy(min(real.iterdir()), fake / "2_000.png")
    opened = [open_videos(str(place), f"--{side}") for place, side in ((real, "real"), (fake, "fake"))]
    datasets, native = zip(*opened, strict=True)
    pairs = pair_up(*datasets, native=native, names=("real", "fake"))
    assert evaluate([TinyError()], pairs=pairs, settings=QUIET).all_warnings() == [
        "fake videos are compressed with loss (jpg, png), which a model is not to blame for;"
        " measure png, strips or npz, or the checkpoint itself",
        "1 fake video is a copy of a real one",
    ]


def test_frames_count_where_each_has_features(tmp_path, monkeypatch):
    monkeypatch.setattr("vidgen.evaluation.findings.PUBLISHED_NUM_VIDEOS", 2)
    real, fake = strips(tmp_path / "a", 1, number=2, frames=16), strips(tmp_path / "b", 2, number=2, frames=16)
    assert found(source(real), source(fake), FrameDistance()) == []


@pytest.mark.usefixtures("enough")
@pytest.mark.parametrize(
    ("video", "codec"), [("h264", "h264"), ("vp9", "vp9"), ("gif", "gif"), ("mjpeg", "mjpeg"), ("ffv1", None)]
)
def test_lossy_videos(tmp_path, video, codec):
    fake = tmp_path / "videos"
    make_video(fake / f"0.{VIDEOS[video].suffix}", VIDEOS[video])
    sides = {"fake": (source(fake, "fake")(ClipRule(6)), Facts())}
    expected = (
        f"fake videos are compressed with loss ({codec}), which a model is not to blame for; measure png, strips or"
        " npz, or the checkpoint itself"
    )
    assert find_warnings(sides, []) == ([expected] if codec else [])


@pytest.mark.usefixtures("enough")
def test_lossy_images(clean, tmp_path):
    fake = as_jpeg(strips(tmp_path / "jpg", 2, suffix="jpg"))
    assert found(source(clean[0]), source(fake)) == [
        "fake videos are compressed with loss (jpg), which a model is not to blame for; measure png, strips or npz, or"
        " the checkpoint itself"
    ]
    real = as_jpeg(strips(tmp_path / "real_jpg", 5, suffix="jpg"))
    assert found(source(real), source(clean[1])) == []  # what real videos are is no fault of the measurement


@pytest.mark.usefixtures("enough")
def test_an_ending_that_lies_is_no_loss(clean, tmp_path):
    assert found(source(clean[0]), source(strips(tmp_path / "jpg", 2, suffix="jpg"))) == []  # they are PNGs
    fake = as_jpeg(strips(tmp_path / "png", 3))
    assert ["(jpg)" in line for line in found(source(clean[0]), source(fake))] == [True]


@pytest.mark.usefixtures("enough")
def test_sizes_that_differ(clean, tmp_path):
    fake = strips(tmp_path / "large", 3, side=10)
    assert found(source(clean[0]), source(fake)) == [
        "real and fake videos differ in size (8x8 and 10x10); give --resolution"
    ]
    assert found(source(clean[0], resolution=8), source(fake, resolution=8)) == []
    for side in (12, 14, 16, 18):
        strips(tmp_path / "mixed", side, side=side, number=3)
    assert found(source(clean[0]), source(tmp_path / "mixed")) == [
        "real and fake videos differ in size (8x8 and 12x12, 14x14, 16x16 and 1 more); give --resolution"
    ]


@pytest.mark.usefixtures("enough")
def test_numbers_of_frames_that_differ(clean, tmp_path):
    fake = strips(tmp_path / "long", 3, frames=9)
    assert found(source(clean[0]), source(fake)) == [
        "real and fake videos differ in number of frames (6 and 9); clips of 6 are measured"
    ]
    strips(tmp_path / "long", 4, frames=7)
    assert found(source(clean[0]), source(tmp_path / "long")) == []  # of various lengths as real videos are


@pytest.mark.usefixtures("enough")
def test_frame_rates_that_differ(tmp_path):
    for seed, name in enumerate(("real", "fake")):
        for video in range(9):
            for frame, image in enumerate(random_frames(6, 8, seed=50 * seed + video)):
                save_strip(tmp_path / name / str(video) / f"{frame}.png", image[None])

    def lines(real: float, fake: float) -> list[str]:
        sides = [source(tmp_path / name, overrides=[f"fps={fps}"]) for name, fps in (("real", real), ("fake", fake))]
        return found(*sides)

    assert lines(25, 30) == ["real and fake videos differ in frame rate (25 and 30 frames per second)"]
    assert lines(29.97, 30) == []


@pytest.mark.usefixtures("enough")
def test_copies_among_the_videos_of_a_side(clean):
    real, fake = clean
    first = min(real.iterdir())
    shutil.copy(first, real / "copy.png")
    assert found(source(real), source(fake)) == ["1 real video is a copy of another"]
    shutil.copy(first, real / "copy2.png")
    shutil.copy(min(fake.iterdir()), fake / "copy.png")
    assert found(source(real), source(fake)) == [
        "2 real videos are copies of others",
        "1 fake video is a copy of another",
    ]


@pytest.mark.usefixtures("enough")
def test_copies_are_found_though_other_clips_are_cut_from_them(tmp_path):
    real, fake = strips(tmp_path / "real", 1, frames=40), strips(tmp_path / "fake", 2, frames=40)
    shutil.copy(min(real.iterdir()), real / "copy.png")
    shutil.copy(min(real.iterdir()), fake / "copy.png")
    assert found(source(real), source(fake)) == [
        "1 real video is a copy of another", "1 fake video is a copy of a real one"
    ]  # fmt: skip


@pytest.mark.usefixtures("enough")
def test_real_videos_among_the_fake_ones(clean, tmp_path):
    real, fake = clean
    for path in sorted(real.iterdir())[:3]:
        shutil.copy(path, fake)
    assert found(source(real), source(fake)) == ["3 fake videos are copies of real ones"]


@pytest.mark.usefixtures("enough")
def test_equal_pixels_in_other_files_are_copies(clean, tmp_path):
    real, _ = clean
    arrays = np.stack([random_frames(6, 8, seed=100 + index) for index in range(12)])
    np.savez(tmp_path / "fake.npz", video=arrays)
    assert found(source(real), source(tmp_path / "fake.npz")) == ["12 fake videos are copies of real ones"]


@pytest.mark.usefixtures("enough")
@pytest.mark.parametrize("kind", ["npz", "frames"])
def test_a_set_against_itself(tmp_path, kind):
    place = tmp_path / "set.npz" if kind == "npz" else tmp_path / "set"
    if kind == "npz":
        np.savez(place, video=videos(12, frames=40))
    else:
        for video in range(12):
            for frame, image in enumerate(random_frames(40, 8, seed=video)):
                save_strip(place / str(video) / f"{frame}.png", image[None])
    assert found(source(place), source(place)) == ["12 fake videos are copies of real ones"]


@pytest.mark.usefixtures("enough")
def test_copied_folders_of_frames(tmp_path):
    for video in range(12):
        for frame, image in enumerate(random_frames(40, 8, seed=video)):
            save_strip(tmp_path / "real" / str(video) / f"{frame}.png", image[None])
            save_strip(
                tmp_path / "fake" / str(video) / f"{frame}.png", random_frames(1, 8, seed=99 * video + frame + 50)
            )
    shutil.copytree(tmp_path / "real" / "3", tmp_path / "fake" / "x")
    assert found(source(tmp_path / "real"), source(tmp_path / "fake")) == ["1 fake video is a copy of a real one"]


@pytest.mark.usefixtures("enough")
def test_files_that_cannot_be_used_are_named_and_cost_nothing_else(clean, tmp_path):
    real, fake = clean
    expected = evaluate([TinyDistance(num_frames=6)], real=source(real), fake=source(fake), settings=QUIET)
    whole = random_frames(6, 8, seed=999)
    save_strip(real / "zz_cut.png", whole)
    content = (real / "zz_cut.png").read_bytes()
    (real / "zz_cut.png").write_bytes(content[: len(content) // 2])
    (real / "zz_empty.png").write_bytes(b"")
    (real / "zz_text.png").write_text("this is no picture")
    save_strip(real / "zz_short.png", whole[:3])
    metric = TinyDistance(num_frames=6)
    again = evaluate([metric], real=source(real), fake=source(fake), settings=QUIET)
    assert again.metrics["tiny_fd"].value == pytest.approx(expected.metrics["tiny_fd"].value, rel=1e-12)
    assert again.metrics["tiny_fd"].protocol["real"]["num_clips"] == 12
    lines = again.all_warnings()
    assert len(lines) == 2
    assert lines[0].startswith(f"3 real files left out as unreadable (the first, {real}/zz_cut.png: ")
    assert lines[1] == "1 real video left out as too short: a clip of 6 frames at stride 1 needs 6"


@pytest.mark.usefixtures("enough")
def test_predictions_that_were_not_made_for_want_of_real_clips(clean):
    class Copies(SeededNoise):
        def sample(self, num_videos: int, *, batch: Any = None, **_: Any) -> Any:  # type: ignore[override]
            return batch["video"].flip(2) * 0.9

    path = clean[0] / "zz.png"
    save_strip(path, random_frames(6, 8, seed=999))
    path.write_bytes(path.read_bytes()[:400])
    real = source(clean[0], resolution=8)
    model = Copies(context="video").eval()
    lines = found(real, lambda rule: GeneratedClips(model, 13, rule, condition=real(rule)))
    reason = lines[0].partition(f"{path}: ")[2]
    assert lines == [
        f"1 real file left out as unreadable (the first, {path}: {reason}",
        f"1 fake video not made, since its real clip is unreadable (the first, {path}: {reason}",
    ]


@pytest.mark.usefixtures("enough")
def test_weights_that_are_not_the_published_ones(clean):
    real, fake = clean
    assert found(source(real), source(fake), TinyDistance(num_frames=6, weights="unknown")) == [
        "tiny_fd: tiny.pt does not hold the published weights of tiny (it holds unknown, fingerprint 1.0);"
        " not comparable with published numbers"
    ]
    assert found(source(real), source(fake), TinyDistance(num_frames=6, weights="random")) == [
        "tiny_fd_random_tiny: the weights of tiny are random; not comparable with any tiny_fd"
    ]


@pytest.mark.usefixtures("enough")
def test_every_set_of_clips_is_looked_at_and_nothing_is_said_twice(tmp_path):
    real, fake = strips(tmp_path / "real", 1, frames=20), strips(tmp_path / "fake", 2, frames=20)
    strips(tmp_path / "real", 3, number=1, frames=10)

    class Longer(TinyDistance):
        name = "longer"

    assert found(source(real), source(fake), TinyDistance(num_frames=6), Longer(num_frames=16)) == [
        "1 real video left out as too short: a clip of 16 frames at stride 1 needs 16"
    ]
    shutil.copy(min(real.iterdir()), fake)
    assert found(source(real), source(fake), TinyDistance(num_frames=6), Longer(num_frames=8)) == [
        "1 fake video is a copy of a real one"
    ]
