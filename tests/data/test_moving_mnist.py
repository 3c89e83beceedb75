"""Bouncing digits, drawn on the fly from MNIST's files."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from vidgen.data.moving_mnist import IDX_FILES, MovingMNIST, bouncing_digits, read_idx, resize_digit, write_idx
from vidgen.data.request import ClipRequest
from vidgen.errors import UserError

NUMBER = {"train": 20, "test": 12}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """MNIST's four files; digit n is a filled square whose grey level tells its label."""
    for part, number in NUMBER.items():
        labels = (np.arange(number) % 10).astype(np.uint8)
        images = np.zeros((number, 28, 28), np.uint8)
        images[:, 4:24, 4:24] = (100 + 15 * labels)[:, None, None]
        (tmp_path / IDX_FILES[part, "images"]).write_bytes(write_idx(images))
        (tmp_path / IDX_FILES[part, "labels"]).write_bytes(write_idx(labels))
    return tmp_path


def videos(root: Path, **arguments) -> MovingMNIST:
    return MovingMNIST(**{"root": str(root), "resolution": 64, "num_frames": 10, **arguments})


def clip(dataset: MovingMNIST, video: int = 0, seed: int | None = None, resolution: int = 64) -> torch.Tensor:
    return dataset.read(ClipRequest(video, dataset.clip_times(video, 0), resolution, seed))["video"]


def message(root: Path, **arguments) -> str:
    with pytest.raises(UserError) as error:
        videos(root, **arguments)
    return str(error.value)


def test_a_sample_has_shape_and_range(root):
    sample = videos(root).read(ClipRequest(3, tuple(range(10)), 64, 5))
    assert set(sample) == {"video", "times", "length"}
    assert sample["video"].shape == (1, 10, 64, 64) and sample["video"].dtype == torch.float32
    assert sample["video"].min() == -1 and sample["video"].max() <= 1
    assert sample["length"] == 10 and sample["times"].tolist() == list(range(10))


def test_the_number_of_videos_is_that_of_the_digits_of_the_part_unless_given(root):
    assert len(videos(root)) == 20 and len(videos(root, part="test")) == 12
    assert len(videos(root, num_videos=7)) == 7


def test_pixels_are_those_drawn_from_minus_one_to_one(root):
    dataset = videos(root, seed=4)
    request = ClipRequest(2, tuple(range(10)), 64, 9)
    digits = np.stack([resize_digit(image, 32) for image in read_idx(root / "train-images-idx3-ubyte")])
    frames, _ = bouncing_digits(dataset._random_state(request), digits, 10, 2)
    assert np.array_equal(dataset.read(request)["video"][0].numpy(), frames * 2 - 1)


def test_resized_pixels_do_not_pass_through_bytes(root):
    levels = (clip(videos(root, resolution=48), resolution=48) + 1) / 2 * 255
    assert (levels - levels.round()).abs().max() > 0.1


def test_the_parts_have_their_own_digits(root):
    (root / "t10k-images-idx3-ubyte").write_bytes(write_idx(np.zeros((3, 28, 28), np.uint8)))
    assert clip(videos(root)).max() > -1
    assert clip(videos(root, part="test")).max() == -1


def test_every_training_request_draws_a_new_video(root):
    dataset = videos(root)
    assert torch.equal(clip(dataset, 0, seed=1), clip(dataset, 0, seed=1))
    assert not torch.equal(clip(dataset, 0, seed=1), clip(dataset, 0, seed=2))


def test_evaluation_videos_are_functions_of_seed_and_index(root):
    dataset, again, other = videos(root), videos(root, num_videos=3), videos(root, seed=1)
    for video in range(3):
        assert torch.equal(clip(dataset, video), clip(again, video))
        assert not torch.equal(clip(dataset, video), clip(other, video))
    assert not torch.equal(clip(dataset, 0), clip(dataset, 1))


def test_the_seed_of_the_data_counts_in_training_too(root):
    assert not torch.equal(clip(videos(root), seed=1), clip(videos(root, seed=1), seed=1))


def test_single_frames_are_those_of_the_clip(root):
    dataset = videos(root)
    for video in range(20):
        whole = clip(dataset, video)
        for times in ((0,), (6,), (7, 2)):
            picked = dataset.read(ClipRequest(video, times, 64))["video"]
            assert torch.equal(picked, whole[:, list(times)])


def test_frames_beyond_a_clip_can_be_read(root):
    assert videos(root).read(ClipRequest(0, (14,), 64))["video"].shape == (1, 1, 64, 64)


def test_one_digit_has_the_label_of_the_video_drawn(root):
    dataset = videos(root, num_digits=1)
    assert dataset.spec.class_names == tuple("0123456789") and dataset.labels is None
    seen = set()
    for seed in range(20):
        sample = dataset.read(ClipRequest(0, (0,), 64, seed))
        level = (sample["video"].max() + 1) / 2 * 255
        assert sample["label"].dtype == torch.int64 and sample["label"] == ((level - 100) / 15).round()
        seen.add(int(sample["label"]))
    assert len(seen) > 3


def test_two_digits_have_no_label_and_need_no_label_file(root):
    (root / "train-labels-idx1-ubyte").unlink()
    dataset = videos(root)
    assert dataset.spec.class_names == () and "label" not in dataset.read(ClipRequest(0, (0,), 64))


def test_three_channels_are_three_times_the_same(root):
    grey, color = clip(videos(root)), clip(videos(root, channels=3))
    assert torch.equal(color, grey.repeat(3, 1, 1, 1))


def test_another_resolution_shows_the_same_video(root):
    dataset = videos(root, resolution=32)
    small, large = clip(dataset, resolution=32), clip(dataset)
    assert small.shape == (1, 10, 32, 32)
    assert (torch.nn.functional.avg_pool2d(large, 2) - small).abs().mean() < 0.02


def test_digit_size_and_canvas_can_be_chosen(root):
    dataset = videos(root, canvas=96, digit_size=48, resolution=96, num_digits=1)
    video = clip(dataset, resolution=96)
    lit = (video[0, 0] > -1).any(0).sum()
    assert video.shape[-1] == 96 and 30 <= lit <= 40  # 20/28 of 48 pixels and the blur of its edges


def test_digits_stay_inside_and_sums_are_cut(root):
    digits = np.ones((1, 8, 8), np.float32)
    frames, chosen = bouncing_digits(np.random.RandomState(0), digits, 200, 3, canvas=16)
    assert chosen == [0, 0, 0] and set(np.unique(frames)) == {0.0, 1.0}
    assert frames.sum((1, 2)).min() >= 64


def test_reflected_digits_keep_their_speed():
    digits = np.ones((1, 8, 8), np.float32)
    frames, _ = bouncing_digits(np.random.RandomState(2), digits, 60, 1, deterministic=True, canvas=40)
    left = frames.any(1).argmax(1)
    inside = (left[1:] > 0) & (left[1:] < 31) & (left[:-1] > 0) & (left[:-1] < 31)
    assert len({abs(step) for step in np.diff(left)[inside]}) == 1 and len(set(left)) > 5


def test_it_pickles(root):
    dataset = videos(root)
    assert torch.equal(clip(pickle.loads(pickle.dumps(dataset))), clip(dataset))


def test_gzipped_files_are_read_too(root):
    before = clip(videos(root))
    for path in list(root.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert torch.equal(clip(videos(root)), before)


def test_it_describes_itself(root):
    text = videos(root).describe().splitlines()
    assert text[0] == f"2 digits of 20 in {root} (train), sent on at random by the walls, drawn on the fly"
    text = videos(root, num_digits=1, deterministic=True, part="test").describe().splitlines()
    assert text[0] == f"1 digit of 12 in {root} (test), reflected at the walls, drawn on the fly"


def test_missing_files_are_named_with_the_tools_that_make_them(tmp_path):
    assert message(tmp_path) == (
        f"data.root {str(tmp_path)!r} has no file 'train-images-idx3-ubyte'; tools/prepare_mnist.py makes it from"
        " MNIST, tools/make_digits.py from fonts"
    )


@pytest.mark.parametrize("name", ["num_digits", "digit_size", "max_speed", "num_videos"])
def test_settings_below_one_are_refused(root, name):
    assert message(root, **{name: 0}) == f"data.{name} is 0; it must be at least 1"


def test_a_digit_as_large_as_the_canvas_is_refused(root):
    assert message(root, digit_size=64) == "data.digit_size 64 leaves no room on data.canvas 64; lower it"


@pytest.mark.parametrize("labels", [np.zeros(12), np.full(20, 10)])
def test_labels_of_another_set_are_refused(root, labels):
    (root / "train-labels-idx1-ubyte").write_bytes(write_idx(labels.astype(np.uint8)))
    assert message(root, num_digits=1) == (
        f"data.root {str(root)!r}: 'train-labels-idx1-ubyte' does not hold a digit from 0 to 9 for each of 20 images;"
        " it belongs to another set"
    )


def test_images_that_are_none_are_refused(root):
    path = root / "train-images-idx3-ubyte"
    path.write_bytes((root / "train-labels-idx1-ubyte").read_bytes())
    assert message(root) == f"{str(path)!r} holds an array of shape (20,); it should hold images"


def test_idx_keeps_shape_and_values(tmp_path):
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "file"
    path.write_bytes(write_idx(array))
    assert path.read_bytes()[:16] == bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4])
    assert np.array_equal(read_idx(path), array) and read_idx(path).dtype == np.uint8


def read_error(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_idx(path)
    return str(error.value)


def test_idx_that_is_cut_off_is_refused(tmp_path):
    path = tmp_path / "file"
    data = write_idx(np.zeros((2, 3, 4), np.uint8))
    text = f"{str(path)!r} holds 23 numbers where its header says 2 x 3 x 4; get it anew"
    assert read_error(path, data[:-1]) == text


@pytest.mark.parametrize("data", [b"", b"\0\0\x08", b"\0\0\x08\x03\0\0", b"\0\0\x0d\x01\0\0\0\0", b"<html></html>"])
def test_what_is_no_idx_file_is_refused(tmp_path, data):
    path = tmp_path / "file"
    assert read_error(path, data) == f"{str(path)!r} is no IDX file of unsigned bytes, as MNIST's are"


def test_a_damaged_gzip_file_is_refused(tmp_path):
    path = tmp_path / "file.gz"
    text = read_error(path, gzip.compress(write_idx(np.zeros((9, 9), np.uint8)))[:-9])
    assert text.startswith(f"{str(path)!r} is a damaged gzip file (") and text.endswith("); get it anew")


def test_a_file_that_is_gone_is_named(tmp_path):
    path = tmp_path / "gone"
    with pytest.raises(UserError) as error:
        read_idx(path)
    assert str(error.value) == f"{str(path)!r} cannot be read: No such file or directory"
