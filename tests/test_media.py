"""Pixels and frames survive the way into files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vidgen.atomic
from vidgen.atomic import atomic_file
from vidgen.errors import UserError
from vidgen.media import FORMATS, VideoFile, file_name, grid, to_uint8, write_image, write_video


def smooth_video(channels: int = 3, frames: int = 5, height: int = 32, width: int = 32) -> Tensor:
    """uint8 (C, T, H, W): gradients that move, more than 256 colours in a frame."""
    t, y, x = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    planes = [(6 * x + 9 * t) % 256, (5 * y + 40) % 256, 3 * (x + y) % 256]
    planes = [torch.where(plane < 128, plane, 255 - plane) * 2 for plane in planes]  # no jumps
    return torch.stack(planes[:channels]).to(torch.uint8)


def read_mp4(path: Path) -> tuple[Tensor, float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert stream.frames == len(frames)
        assert stream.average_rate is not None
        return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2), float(stream.average_rate)


def read_gif(path: Path) -> tuple[Tensor, list[int]]:
    frames, durations = [], []
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        for index in range(image.n_frames):
            image.seek(index)
            frames.append(np.array(image.convert("RGB")))
            durations.append(image.info["duration"])
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2), durations


def mean_error(a: Tensor, b: Tensor) -> float:
    return (a.float() - b.float()).abs().mean().item()


# --- to_uint8 ---


def test_rounding_rules_on_halves_ends_and_outside():
    x = torch.tensor([-2.0, -1.0, 1.0, 5.0, float("inf")])
    assert to_uint8(x).tolist() == [0, 0, 255, 255, 255]
    halves = (torch.tensor([31.875, 63.75, 127.5, 159.375], dtype=torch.float64) / 127.5) - 1
    assert to_uint8(halves).tolist() == [32, 64, 128, 159]  # 127.5 goes to the even 128
    assert to_uint8(torch.tensor([-1 + 1 / 255])).tolist() == [0]  # 0.5 goes to the even 0
    assert to_uint8(halves, "truncate").tolist() == [31, 63, 127, 159]


def test_bytes_survive_the_way_to_floats_and_back():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(levels.float() / 127.5 - 1), levels)


def test_half_precision_is_widened_before_scaling():
    x = torch.linspace(-1, 1, 1000).to(torch.bfloat16)
    assert torch.equal(to_uint8(x), to_uint8(x.float()))


def test_bad_input_to_uint8_is_refused():
    with pytest.raises(TypeError) as wrong_type:
        to_uint8(torch.zeros(3, dtype=torch.uint8))
    assert str(wrong_type.value) == "to_uint8 takes floating tensors in [-1, 1], not torch.uint8"
    with pytest.raises(ValueError) as nan:
        to_uint8(torch.tensor([0.0, float("nan")]))
    assert str(nan.value) == "video holds NaN"
    with pytest.raises(ValueError) as rule:
        to_uint8(torch.zeros(1), "floor")  # type: ignore[arg-type]
    assert str(rule.value) == "rounding must be 'round' or 'truncate', not 'floor'"


# --- grid ---


def test_grid_places_videos_row_by_row_on_black():
    videos = torch.arange(1, 6, dtype=torch.uint8)[:, None, None, None, None].expand(5, 3, 2, 4, 6)
    sheet = grid(videos)
    assert sheet.shape == (3, 2, 2 * 6 - 2, 3 * 8 - 2)
    assert sheet[:, :, :4, 8:14].eq(2).all()
    assert sheet[:, :, 6:, :6].eq(4).all()
    assert sheet[:, :, 4:6].eq(0).all() and sheet[:, :, :, 6:8].eq(0).all() and sheet[:, :, 6:, 16:].eq(0).all()


def test_grid_takes_the_number_of_columns_and_the_gap():
    assert grid(torch.zeros(5, 1, 3, 4, 4, dtype=torch.uint8), columns=5, gap=0).shape == (1, 3, 4, 20)


def test_grid_refuses_floats():
    with pytest.raises(ValueError) as error:
        grid(torch.zeros(1, 3, 2, 4, 4))
    assert str(error.value) == "grid takes uint8 (N, C, T, H, W), not torch.float32 (1, 3, 2, 4, 4)"


# --- formats ---


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("frames", [1, 5, 33])
def test_mp4_has_every_frame_and_nearly_every_pixel(tmp_path, channels, frames):
    video = smooth_video(channels, frames)
    write_video(tmp_path / "v.mp4", video, 8, "mp4")
    back, fps = read_mp4(tmp_path / "v.mp4")
    assert back.shape == (3, frames, 32, 32)
    assert fps == 8
    assert mean_error(back, video.expand(3, -1, -1, -1)) < 4


@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (90, 160, 30)])
def test_mp4_keeps_flat_colours(tmp_path, color):
    video = torch.tensor(color, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 48, 48)
    write_video(tmp_path / "v.mp4", video, 8, "mp4")
    assert (read_mp4(tmp_path / "v.mp4")[0].int() - video.int()).abs().max() <= 4


@pytest.mark.parametrize(("height", "width", "padded"), [(31, 32, (32, 32)), (33, 45, (34, 46)), (3, 5, (4, 6))])
def test_mp4_pads_odd_sides_with_the_border(tmp_path, height, width, padded):
    video = smooth_video(3, 4, height, width)
    write_video(tmp_path / "v.mp4", video, 8, "mp4")
    back, _ = read_mp4(tmp_path / "v.mp4")
    assert back.shape[2:] == padded
    assert mean_error(back[..., :height, :width], video) < 5
    assert mean_error(back[..., :height, padded[1] - 1], video[..., -1]) < 8


@pytest.mark.parametrize("fps", [7.5, 29.97, 30000 / 1001, 60])
def test_mp4_keeps_fractional_rates(tmp_path, fps):
    write_video(tmp_path / "v.mp4", smooth_video(), fps, "mp4")
    assert read_mp4(tmp_path / "v.mp4")[1] == pytest.approx(fps, abs=1e-9)


def test_gif_is_exact_up_to_256_colours_a_frame(tmp_path):
    video = smooth_video(1, 6).expand(3, -1, -1, -1)
    write_video(tmp_path / "v.gif", video[:1], 8, "gif")
    back, durations = read_gif(tmp_path / "v.gif")
    assert torch.equal(back, video)
    assert durations == [130, 120, 130, 120, 130, 120]  # 12.5 centiseconds each, no drift


def test_gif_is_exact_with_256_scattered_colours(tmp_path):
    palette = torch.randint(0, 256, (3, 256), dtype=torch.uint8)
    video = palette[:, torch.randperm(4096) % 256].reshape(3, 1, 64, 64)
    write_video(tmp_path / "v.gif", video, 8, "gif")
    assert torch.equal(read_gif(tmp_path / "v.gif")[0], video)


def test_gif_with_many_colours_is_close(tmp_path):
    video = smooth_video(3, 5, 64, 64)
    assert len(video[:, 0].flatten(1).unique(dim=1).T) > 256
    write_video(tmp_path / "v.gif", video, 10, "gif")
    back, _ = read_gif(tmp_path / "v.gif")
    assert mean_error(back, video) < 11  # three full ramps: the hardest case for 256 colours


@pytest.mark.parametrize("color", [(0, 0, 0), (200, 100, 50)])
def test_gif_keeps_equal_frames_apart(tmp_path, color):
    video = torch.tensor(color, dtype=torch.uint8)[:, None, None, None].expand(3, 7, 9, 11)
    write_video(tmp_path / "v.gif", video, 10, "gif")
    back, durations = read_gif(tmp_path / "v.gif")
    assert torch.equal(back, video)
    assert durations == [100] * 7


def test_gif_plays_at_50_fps_at_most(tmp_path):
    write_video(tmp_path / "v.gif", smooth_video(), 120, "gif")
    assert read_gif(tmp_path / "v.gif")[1] == [20] * 5


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_a_folder_of_exact_frames(tmp_path, channels):
    video = smooth_video(channels)
    write_video(tmp_path / "v", video, 8, "png")
    names = sorted(os.listdir(tmp_path / "v"))
    assert names == ["00000.png", "00001.png", "00002.png", "00003.png", "00004.png"]
    frames = [np.array(Image.open(tmp_path / "v" / name)).reshape(32, 32, channels) for name in names]
    assert torch.equal(torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2), video)


@pytest.mark.parametrize("channels", [1, 3])
def test_strip_has_exact_frames_side_by_side(tmp_path, channels):
    video = smooth_video(channels)
    write_video(tmp_path / "v.png", video, 8, "strip")
    strip = np.array(Image.open(tmp_path / "v.png")).reshape(32, 5 * 32, channels)
    for index in range(5):
        frame = torch.from_numpy(strip[:, 32 * index : 32 * (index + 1)].copy()).permute(2, 0, 1)
        assert torch.equal(frame, video[:, index])


def test_strip_refuses_frames_that_are_not_square(tmp_path):
    with pytest.raises(UserError) as error:
        write_video(tmp_path / "v.png", smooth_video(3, 2, 16, 24), 8, "strip")
    assert str(error.value) == "format strip holds square frames, not 24x16 (width x height); choose png or npz"


@pytest.mark.parametrize("channels", [1, 3])
def test_npz_is_exact(tmp_path, channels):
    video = smooth_video(channels)
    write_video(tmp_path / "v.npz", video, 8, "npz")
    back = np.load(tmp_path / "v.npz")["video"]
    assert back.shape == (5, 32, 32, channels) and back.dtype == np.uint8
    assert torch.equal(torch.from_numpy(back).permute(3, 0, 1, 2), video)


def test_image_is_exact(tmp_path):
    image = smooth_video()[:, 0]
    write_image(tmp_path / "i.png", image)
    assert torch.equal(torch.from_numpy(np.array(Image.open(tmp_path / "i.png"))).permute(2, 0, 1), image)


@pytest.mark.parametrize("format", [name for name in FORMATS if name not in ("png", "strip")])
def test_same_video_same_bytes(tmp_path, format):
    video = grid(torch.randint(0, 256, (10, 3, 3, 16, 16), dtype=torch.uint8))
    written = set()
    for _ in range(20):
        for other in ("npz", "gif"):  # stirs the memory: what is not initialised must not reach the file
            write_video(tmp_path / "other", video, 8, other)
        write_video(tmp_path / "v", video, 8, format)
        written.add((tmp_path / "v").read_bytes())
    assert len(written) == 1


def test_names_of_the_formats():
    assert [file_name("000007", name) for name in FORMATS] == [
        "000007.mp4",
        "000007.gif",
        "000007",
        "000007.png",
        "000007.npz",
    ]


def test_bad_videos_and_formats_are_refused(tmp_path):
    with pytest.raises(UserError) as unknown:
        write_video(tmp_path / "v", smooth_video(), 8, "mp3")
    assert str(unknown.value) == "unknown format 'mp3'; did you mean 'mp4'? (known: mp4, gif, png, strip, npz)"
    with pytest.raises(UserError) as channels:
        write_video(tmp_path / "v", torch.zeros(2, 3, 8, 8, dtype=torch.uint8), 8, "mp4")
    assert str(channels.value) == "a video with 2 channels cannot be written; it must have 1 or 3"
    with pytest.raises(ValueError) as floats:
        write_video(tmp_path / "v", torch.zeros(3, 3, 8, 8), 8, "mp4")
    assert str(floats.value) == "a video to write is uint8 (C, T, H, W), not torch.float32 (3, 3, 8, 8)"
    with pytest.raises(ValueError) as rate:
        write_video(tmp_path / "v", smooth_video(), 0, "mp4")
    assert str(rate.value) == "fps must be above 0, not 0"
    assert os.listdir(tmp_path) == []


# --- piece by piece ---


def bytes_of(path: Path) -> list[bytes]:
    return [part.read_bytes() for part in (sorted(path.iterdir()) if path.is_dir() else [path])]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("channels", "size"), [(3, (32, 32)), (1, (32, 32)), (3, (17, 31))])
def test_pieces_make_the_bytes_of_the_whole(tmp_path, format, channels, size):
    size = (32, 32) if format == "strip" else size
    video = smooth_video(channels, 70, *size)
    whole, parts = (tmp_path / name / file_name("v", format) for name in ("whole", "parts"))
    write_video(whole, video, 12.5, format)
    with VideoFile(parts, 70, 12.5, format) as file:
        for piece in video.split([1, 40, 22, 7], dim=1):
            file.write(piece)
            assert parts.exists() == (file.written == 70)
    assert bytes_of(parts) == bytes_of(whole)
    assert os.listdir(tmp_path / "parts") == [parts.name]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("reason", ["stopped", "too few"])
def test_a_video_that_is_not_finished_leaves_the_earlier_one(tmp_path, format, reason):
    path = tmp_path / file_name("v", format)
    write_video(path, smooth_video(frames=3), 8, format)
    before = bytes_of(path)
    kind = KeyboardInterrupt if reason == "stopped" else ValueError
    with pytest.raises(kind) as error, VideoFile(path, 6, 8, format) as file:
        file.write(smooth_video(frames=4))
        if reason == "stopped":
            raise KeyboardInterrupt
    assert reason == "stopped" or str(error.value) == f"{path}: 4 of 6 frames were written"
    assert os.listdir(tmp_path) == [path.name] and bytes_of(path) == before


def test_more_frames_than_there_should_be_are_refused(tmp_path):
    with pytest.raises(ValueError) as error, VideoFile(tmp_path / "v.gif", 6, 8, "gif") as file:
        file.write(smooth_video(frames=4))
        file.write(smooth_video(frames=3))
    assert str(error.value) == f"{tmp_path}/v.gif: frame 7 of a video of 6 frames"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("format", ["mp4", "gif", "strip", "npz"])
@pytest.mark.parametrize("room", [0, 1000, 20000])
def test_a_disk_that_is_full_in_mid_video_is_one_line(tmp_path, monkeypatch, format, room):
    """Wherever it happens: PyAV, for one, says something else when it then closes the file."""
    real = vidgen.atomic._locked

    class Full:
        def __init__(self, path):
            self.file, self.room = real(path), room

        def write(self, data):
            self.room -= len(bytes(data))
            if self.room < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    monkeypatch.setattr(vidgen.atomic, "_locked", Full)
    noise = torch.randint(0, 256, (3, 30, 32, 32), dtype=torch.uint8)
    with pytest.raises(UserError) as error:
        write_video(tmp_path / "v", noise, 8, format)
    assert str(error.value) == f"{tmp_path}/v: no space left on the disk; free some, what was written before is intact"
    assert os.listdir(tmp_path) == []


# --- appearing whole or not at all ---


@pytest.mark.parametrize("format", FORMATS)
def test_writing_replaces_and_leaves_nothing_else(tmp_path, format):
    path = tmp_path / "deep" / file_name("v", format)
    write_video(path, smooth_video(frames=7), 8, format)
    write_video(path, smooth_video(frames=2), 8, format)
    assert os.listdir(tmp_path / "deep") == [path.name]
    if format == "png":
        assert sorted(os.listdir(path)) == ["00000.png", "00001.png"]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "no space left on the disk; free some, what was written before is intact"),
        (errno.EACCES, "cannot be written (Permission denied); choose another place"),
        (errno.EIO, "cannot be written (Input/output error); choose another place"),
    ],
)
def test_failed_write_is_one_line_and_keeps_the_earlier_file(tmp_path, monkeypatch, format, number, reason):
    path = tmp_path / file_name("v", format)
    write_video(path, smooth_video(), 8, format)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    if format == "png":
        monkeypatch.setattr(Image.Image, "save", fail)
    else:
        monkeypatch.setattr(vidgen.atomic.os, "fsync", fail)
    with pytest.raises(UserError) as error:
        write_video(path, smooth_video(frames=2), 8, format)
    assert str(error.value) == f"{path}: {reason}"
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_file_in_place_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as error:
        write_video(tmp_path / "file" / "v.gif", smooth_video(), 8, "gif")
    assert str(error.value) == f"{tmp_path}/file/v.gif: cannot be written (File exists); choose another place"


def test_interrupted_write_leaves_no_trace(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "f") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
