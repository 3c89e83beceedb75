"""Sound: slices of spectrograms beside frames, and as videos of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.strips import make_strips
from vidgen.config import build_dataset, check_data, compose
from vidgen.data.audio import Audio, fit_spectrogram, read_spectrogram
from vidgen.data.dataset import UnreadableVideo
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.module import VideoDataModule, read_batch
from vidgen.data.packed import Packed
from vidgen.data.packing import pack
from vidgen.data.request import BatchRequest, ClipRequest
from vidgen.data.spectrograms import Spectrograms
from vidgen.errors import UserError
from vidgen.media import to_uint8

NAMES = {"train/a.png": 5, "train/b.png": 9, "test/c.1.png": 6}
SHAPE = (7, 5)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_strips(tmp_path / "video", NAMES, 8)
    rng = np.random.default_rng(0)
    for name, length in NAMES.items():
        write(tmp_path / "audio" / name.replace(".png", ".npy"), rng.random((length, *SHAPE)).astype(np.float32))
    return tmp_path


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def strips(root: Path, **arguments: Any) -> FrameStrips:
    return FrameStrips(str(root / "video"), 8, 3, **{"audio": Audio(root / "audio", (4, 6)), **arguments})


def expected(root: Path, name: str, times: list[int], size: tuple[int, int]) -> torch.Tensor:
    stored = torch.from_numpy(np.load(root / "audio" / name))[times] * 2 - 1
    return torch.nn.functional.interpolate(stored[None], size=size, mode="bilinear", align_corners=False)


def test_a_clip_has_the_slices_of_its_frames(root):
    dataset = strips(root, flip=True)
    assert dataset.spec.audio_size == (4, 6)
    assert "sound of 4 x 6 numbers for each frame" in dataset.describe().splitlines()
    for seed in (None, *range(4)):  # whichever is mirrored, sound is not
        sample = dataset.read(ClipRequest(2, (1, 3, 7), 8, seed))
        assert sample["audio"].dtype == torch.float32 and sample["audio"].shape == (1, 3, 4, 6)
        assert torch.equal(sample["audio"], expected(root, "train/b.npy", [1, 3, 7], (4, 6)))
    assert sample["audio"].abs().max() <= 1


def test_a_name_with_a_dot_keeps_it(root):
    found = strips(root).read(ClipRequest(0, (0, 1, 5), 8))["audio"]
    assert torch.equal(found, expected(root, "test/c.1.npy", [0, 1, 5], (4, 6)))
    (root / "audio/test/c.1.npy").rename(root / "audio/test/c.1.png.npy")  # as for a folder of frames called c.1.png
    assert torch.equal(strips(root).read(ClipRequest(0, (0, 1, 5), 8))["audio"], found)


def test_batches_hold_audio(root):
    data = VideoDataModule(strips(root), batch_size=2)
    assert next(iter(data.train_dataloader()))["audio"].shape == (2, 1, 3, 4, 6)
    assert "audio" not in strips(root, audio=None).read(ClipRequest(0, (0, 1, 2), 8))


def test_levels_zero_and_one_become_minus_one_and_one():
    slices = np.stack([np.zeros(SHAPE), np.ones(SHAPE), np.full(SHAPE, 0.5)]).astype(np.float32)
    fitted = fit_spectrogram(slices, (64, 16))
    assert fitted.shape == (1, 3, 64, 16)
    assert [fitted[0, n].unique().tolist() for n in range(3)] == [[-1], [1], [0]]


def test_a_video_without_sound_is_named(root):
    (root / "audio/train/b.npy").unlink()
    with pytest.raises(UserError) as caught:
        strips(root)
    assert str(caught.value) == (
        f"data.audio.root {str(root / 'audio')!r} has no 'train/b.npy', the sound of 'train/b.png', found in"
        f" {str(root / 'video')!r}; add it, or leave the video out with data.split"
    )
    with pytest.raises(UserError) as caught:
        strips(root, audio=Audio(root / "gone"))
    assert str(caught.value) == (
        f"data.audio.root {str(root / 'gone')!r} does not exist; it should be a folder of spectrograms"
    )
    with pytest.raises(UserError) as caught:
        strips(root, audio=Audio(root / "audio", (0, 4)))
    assert str(caught.value) == "data.audio.size is [0, 4]; both must be at least 1"


DAMAGE = {
    "short": (np.zeros((8, *SHAPE), np.float32), "has 8 slices, and slice 8, counted from 0, is asked for"),
    "bytes": (np.zeros((9, *SHAPE), np.uint8), "holds uint8 of shape (9, 7, 5)"),
    "flat": (np.zeros((9, 7), np.float32), "holds float32 of shape (9, 7)"),
    "loud": (np.full((9, *SHAPE), 40.5, np.float32), "its values span 40.5 to 40.5; they must lie in 0 .. 1"),
    "nan": (np.full((9, *SHAPE), np.nan, np.float32), "its values span nan to nan; they must lie in 0 .. 1"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_sound_that_cannot_be_used_is_like_a_damaged_video(root, kind):
    array, reason = DAMAGE[kind]
    write(root / "audio/train/b.npy", array)
    dataset = strips(root)
    with pytest.raises(UnreadableVideo) as caught:
        dataset.read(ClipRequest(2, (2, 5, 8), 8))
    assert caught.value.path == str(root / "audio/train/b.npy") and caught.value.reason.startswith(reason)
    skipped: list[tuple[str, str]] = []
    batch = read_batch(dataset, BatchRequest((ClipRequest(2, (2, 5, 8), 8, 1),)), skipped)
    assert len(skipped) == 1 and batch["audio"].shape == (1, 1, 3, 4, 6)  # the next video stands in for it


def test_a_pickle_is_not_opened(root):
    write(root / "audio/train/b.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(UnreadableVideo, match=r"holds object of shape \(1,\)"):
        strips(root).read(ClipRequest(2, (0, 1, 2), 8))
    (root / "audio/train/b.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UnreadableVideo, match="damaged"):
        strips(root).read(ClipRequest(2, (0, 1, 2), 8))


def test_half_precision_is_read(tmp_path):
    write(tmp_path / "a.npy", np.linspace(0, 1, 70).reshape(2, *SHAPE).astype(np.float16))
    slices = read_spectrogram(tmp_path / "a.npy", [1, 0])
    assert slices.dtype == np.float32 and slices[0].min() > slices[1].max()


def test_a_pack_takes_sound_from_beside_it(root):
    settings = {"name": "frame_strips", "root": str(root / "video"), "audio": Audio(root / "audio", (4, 6))}
    pack(strips(root), settings, root / "pack", quiet=True)
    pack(strips(root, audio=None), {**settings, "audio": None}, root / "pack", quiet=True)  # it is the same one
    packed = Packed(str(root / "pack"), 8, 3, audio=Audio(root / "audio", (4, 6)))
    request = ClipRequest(2, (1, 3, 7), 8)
    assert torch.equal(packed.read(request)["audio"], strips(root).read(request)["audio"])


def test_a_config_names_the_folder(root):
    config = root / "config.yaml"
    config.write_text(
        f"data:\n  name: frame_strips\n  root: {root / 'video'}\n  resolution: 8\n  num_frames: 3\n"
        f"  audio: {{root: {root / 'audio'}, size: [8, 2]}}\n"
    )
    data, _ = check_data(compose(config))
    assert build_dataset(data).spec.audio_size == (8, 2)
    with pytest.raises(UserError) as caught:
        check_data(compose(config, ["data.audio.root=gone"]))
    assert str(caught.value) == "data.audio.root: no such folder: gone"


# As videos ---------------------------------------------------------------------------------------------------------


def test_spectrograms_are_videos_of_one_channel(root):
    dataset = Spectrograms(str(root / "audio"), 64, 4, stride=2)
    assert list(dataset.names) == ["train/b.npy"]  # of 9 slices; the others have fewer than 8
    dataset = Spectrograms(str(root / "audio"), 10, 4, width=6)
    assert (dataset.spec.channels, dataset.spec.resolution, dataset.spec.width) == (1, 10, 6)
    assert dataset.lengths.tolist() == [6, 5, 9] and dataset.spec.class_names == ("test", "train")
    video = dataset.read(ClipRequest(2, (8, 0, 3, 4), 10, seed=3))["video"]
    assert torch.equal(video, expected(root, "train/b.npy", [8, 0, 3, 4], (10, 6)))
    batch = next(iter(VideoDataModule(dataset, batch_size=3).train_dataloader()))
    assert batch["video"].shape == (3, 1, 4, 10, 6) and batch["video"].dtype == torch.float32


def test_spectrograms_have_the_paper_size_by_default(root):
    dataset = Spectrograms(str(root / "audio"), num_frames=5)
    assert dataset.read(ClipRequest(0, (0, 1, 2, 3, 4), 64))["video"].shape == (1, 5, 64, 16)


def test_spectrograms_can_be_packed_as_grey_levels(root):
    dataset = Spectrograms(str(root / "audio"), 10, 4, width=6)
    pack(dataset, {"name": "spectrograms", "root": str(root / "audio")}, root / "pack", quiet=True)
    packed = Packed(str(root / "pack"), 10, 4, width=6).read_levels(ClipRequest(2, (8, 0, 3, 4), 10))["video"]
    exact = dataset.read(ClipRequest(2, (8, 0, 3, 4), 10))["video"]
    assert torch.equal(packed, to_uint8(exact))
    assert dataset.stored(2, [0, 8]).shape == (2, *SHAPE, 1)


def test_files_that_are_no_spectrograms_are_left_out(root, caplog):
    write(root / "audio/train/d.npy", np.zeros((4, 3), np.float32))
    dataset = Spectrograms(str(root / "audio"), 10, 4, width=6)
    assert len(dataset) == 3 and list(dataset.skipped) == [str(root / "audio/train/d.npy")]
    assert caplog.messages == [
        f"skipped {root / 'audio/train/d.npy'}: holds float32 of shape (4, 3); a spectrogram is (T, F, W) of floats in"
        " 0 .. 1"
    ]
    write(root / "audio/train/a.npy", np.full((5, *SHAPE), 7.0, np.float32))
    with pytest.raises(UnreadableVideo, match="its values span 7 to 7"):
        dataset.read(ClipRequest(1, (0, 1, 2, 3), 10))
    with pytest.raises(UserError) as caught:
        Spectrograms(str(root / "audio"), fps=0)
    assert str(caught.value) == "data.fps is 0; it must be above 0"
