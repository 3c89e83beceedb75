"""Stochastic Moving MNIST: digits that bounce inside a black frame, drawn when they are asked for."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vidgen.data.dataset import VideoDataset, check_clip_settings
from vidgen.data.request import ClipRequest
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.registry import DATASETS
from vidgen.seeding import derive_seed

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

IDX_FILES = {
    ("train", "images"): "train-images-idx3-ubyte",
    ("train", "labels"): "train-labels-idx1-ubyte",
    ("test", "images"): "t10k-images-idx3-ubyte",
    ("test", "labels"): "t10k-labels-idx1-ubyte",
}
"""Part and content -> MNIST's name of the file."""
_UNSIGNED_BYTE = 8


class Randint(Protocol):
    """What draws the paths; :class:`numpy.random.RandomState` is one."""

    def randint(self, low: int, high: int) -> int:
        """An integer in ``[low, high)``."""
        ...


class Digits(Protocol):
    """Pictures of digits by number; a float32 array ``(N, S, S)`` is one."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Floats: ...


def read_idx(path: str | Path) -> Bytes:
    """Read a file in MNIST's IDX format, plain or gzipped by its content.

    Args:
        path: the file; its numbers must be unsigned bytes.

    Returns:
        uint8, of the shape that its header tells.

    Raises:
        UserError: it cannot be read, is damaged, or is of another kind; the message names it.
    """
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{str(path)!r} is a damaged gzip file ({error}); get it anew") from error
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    dimensions = data[3] if len(data) > 3 else 0
    start = 4 + 4 * dimensions
    if data[:3] != bytes([0, 0, _UNSIGNED_BYTE]) or not dimensions or len(data) < start:
        raise UserError(f"{str(path)!r} is no IDX file of unsigned bytes, as MNIST's are")
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], ">u4"))
    if len(data) - start != math.prod(shape):
        raise UserError(
            f"{str(path)!r} holds {len(data) - start} numbers where its header says"
            f" {' x '.join(map(str, shape))}; get it anew"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def write_idx(array: Bytes) -> bytes:
    """The bytes of an IDX file.

    Args:
        array: uint8, of any shape.
    """
    header = bytes([0, 0, _UNSIGNED_BYTE, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + np.ascontiguousarray(array).tobytes()


def resize_digit(digit: Bytes, size: int) -> Floats:
    """A stored digit as SVG draws it: resized as bytes, bilinear, then 0 to 1.

    Args:
        digit: uint8 ``(H, W)``.
        size: side of the result, pixels.

    Returns:
        ``(size, size)``.
    """
    resized = Image.fromarray(digit).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32) / np.float32(255)


class _Picture:
    """Place and velocity of one digit, in whole pixels; ``limit`` is the first corner that is outside."""

    def __init__(self, rng: Randint, limit: int, max_speed: int, deterministic: bool) -> None:
        self.limit = limit
        self.max_speed = max_speed
        self.deterministic = deterministic
        self.x, self.y = rng.randint(0, limit), rng.randint(0, limit)
        self.dx, self.dy = self._any(rng), self._any(rng)

    def _any(self, rng: Randint) -> int:
        return rng.randint(-self.max_speed, self.max_speed + 1)

    def _away(self, rng: Randint, low_wall: bool) -> int:
        return rng.randint(1, self.max_speed + 1) if low_wall else rng.randint(-self.max_speed, 0)

    def bounce(self, rng: Randint) -> None:
        """Put a digit that has crossed a wall back, first in y and then in x, with a new velocity."""
        if not 0 <= self.y < self.limit:
            low, self.y = self.y < 0, min(max(self.y, 0), self.limit - 1)
            if self.deterministic:
                self.dy = -self.dy
            else:
                self.dy, self.dx = self._away(rng, low), self._any(rng)
        if not 0 <= self.x < self.limit:
            low, self.x = self.x < 0, min(max(self.x, 0), self.limit - 1)
            if self.deterministic:
                self.dx = -self.dx
            else:
                self.dx, self.dy = self._away(rng, low), self._any(rng)

    def move(self) -> None:
        """One frame on."""
        self.x += self.dx
        self.y += self.dy


def bouncing_digits(
    rng: Randint,
    digits: Digits,
    num_frames: int,
    num_digits: int = 2,
    *,
    deterministic: bool = False,
    canvas: int = 64,
    max_speed: int = 4,
) -> tuple[Floats, list[int]]:
    """Draw a video by the rules of SVG's Stochastic Moving MNIST, random numbers in its order.

    Each digit in turn is chosen, placed and moved through the whole video. At a wall it gets a new velocity: away from
    the wall in one direction, anything in the other. Where digits overlap, sums above 1 are cut to 1.

    Args:
        rng: draws the numbers; a ``numpy.random.RandomState(seed)`` draws as the original does after
            ``numpy.random.seed(seed)``.
        digits: the digits to choose from, ``(N, S, S)``, 0 to 1, S below ``canvas``.
        num_frames: frames of the video.
        num_digits: digits in it.
        deterministic: reflect the velocity at the walls instead.
        canvas: height and width of the frames, pixels.
        max_speed: fastest motion in x and in y, pixels per frame.

    Returns:
        Frames ``(T, canvas, canvas)``, 0 to 1, and the numbers of the digits in them.
    """
    frames = np.zeros((num_frames, canvas, canvas), np.float32)
    chosen = []
    for _ in range(num_digits):
        chosen.append(int(rng.randint(0, len(digits))))
        digit = digits[chosen[-1]]
        size = len(digit)
        picture = _Picture(rng, canvas - size, max_speed, deterministic)
        for frame in frames:
            picture.bounce(rng)
            frame[picture.y : picture.y + size, picture.x : picture.x + size] += digit
            picture.move()
    return np.minimum(frames, 1, out=frames), chosen


class _StoredDigits:
    """Digits that are resized when they are chosen: all of MNIST would be 245 MB of floats."""

    def __init__(self, images: Bytes, size: int) -> None:
        self.images = images
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int, /) -> Floats:
        return resize_digit(self.images[index], self.size)


@DATASETS.register("moving_mnist")
class MovingMNIST(VideoDataset):
    """Digits of MNIST that bounce inside a black frame: the Stochastic Moving MNIST of SVG, drawn on the fly.

    In training every request draws a new video, so that none comes twice. In evaluation video n is a function of
    (seed, n, num_frames), so that the set stays the same. Pixels, 0 to 1 in the original, are ``2 x - 1``; they do not
    pass through bytes. With one digit there is a label, which is that of the video drawn.

    Args:
        root: folder with MNIST's four files, plain or gzipped, as ``tools/prepare_mnist.py`` or
            ``tools/make_digits.py`` leave them.
        resolution: height and width of the clips, pixels; where it is not ``canvas``, frames are resized, bilinear
            with antialiasing.
        num_frames: frames of a clip; a video is as long.
        part: which digits of MNIST, train or test.
        num_digits: digits in a video.
        deterministic: reflect velocities at the walls instead of drawing new ones.
        digit_size: height and width of a digit on the canvas, pixels.
        canvas: height and width of the frames that are drawn, pixels.
        max_speed: fastest motion in x and in y, pixels of the canvas per frame.
        channels: 1, or 3 for the same picture three times.
        num_videos: videos of an epoch; None for as many as there are digits to choose from, as in the original.
        seed: seed of the videos.
    """

    def __init__(
        self,
        root: str,
        resolution: int,
        num_frames: int,
        *,
        part: Literal["train", "test"] = "train",
        num_digits: int = 2,
        deterministic: bool = False,
        digit_size: int = 32,
        canvas: int = 64,
        max_speed: int = 4,
        channels: Literal[1, 3] = 1,
        num_videos: int | None = None,
        seed: int = 0,
    ) -> None:
        check_clip_settings(resolution, num_frames, 1)
        _check_drawing(num_digits, digit_size, canvas, max_speed, num_videos)
        images = _read(root, part, "images")
        self.root = root
        self.part = part
        self.num_digits = num_digits
        self.deterministic = deterministic
        self.canvas = canvas
        self.max_speed = max_speed
        self.seed = seed
        self.digits = _StoredDigits(images, digit_size)
        self.digit_labels = _read_labels(root, part, len(images)) if num_digits == 1 else None
        num_videos = len(images) if num_videos is None else num_videos
        spec = DataSpec(
            channels=channels,
            resolution=resolution,
            num_frames=num_frames,
            fps=None,
            num_videos=num_videos,
            min_length=num_frames,
            max_length=num_frames,
            class_names=tuple("0123456789") if num_digits == 1 else (),
        )
        super().__init__(spec, np.full(num_videos, num_frames))

    def read(self, request: ClipRequest) -> dict[str, Tensor]:
        """See :meth:`VideoDataset.read`; adds ``label`` int64 () where there is one digit."""
        # One digit is moved through all frames before the next is chosen: a shorter video would be another one.
        num_frames = max(self.spec.num_frames, *(time + 1 for time in request.times))
        frames, chosen = bouncing_digits(
            self._random_state(request),
            self.digits,
            num_frames,
            self.num_digits,
            deterministic=self.deterministic,
            canvas=self.canvas,
            max_speed=self.max_speed,
        )
        video = _resize(frames[list(request.times)], request.resolution) * 2 - 1
        sample = {
            "video": torch.from_numpy(video).expand(self.spec.channels, *video.shape).contiguous(),
            **self.describe_clip(request),
        }
        if self.digit_labels is not None:
            sample["label"] = torch.tensor(int(self.digit_labels[chosen[0]]))
        return sample

    def _random_state(self, request: ClipRequest) -> np.random.RandomState:
        purpose, number = ("video", request.video) if request.seed is None else ("training", request.seed)
        seed = derive_seed(self.seed, "moving_mnist", purpose, number)
        return np.random.RandomState([seed >> 32, seed & 0xFFFFFFFF])  # one word alone would repeat videos

    def describe(self) -> str:
        """See :meth:`VideoDataset.describe`."""
        walls = "reflected at" if self.deterministic else "sent on at random by"
        digits = f"{self.num_digits} digit{'s' * (self.num_digits > 1)}"
        text = f"{digits} of {len(self.digits)} in {self.root} ({self.part}), {walls} the walls, drawn on the fly"
        return f"{text}\n{super().describe()}"


def _resize(frames: Floats, resolution: int) -> Floats:
    if frames.shape[-1] == resolution:
        return frames
    size = (resolution, resolution)
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in frames])


def _read(root: str, part: str, content: str) -> Bytes:
    """One of MNIST's files, with its number of dimensions checked."""
    name = IDX_FILES[part, content]
    found = [path for path in (Path(root) / name, Path(root) / f"{name}.gz") if path.is_file()]
    if not found:
        raise UserError(
            f"data.root {str(root)!r} has no file {name!r}; tools/prepare_mnist.py makes it from MNIST,"
            " tools/make_digits.py from fonts"
        )
    array = read_idx(found[0])
    wanted = 3 if content == "images" else 1
    if array.ndim != wanted or not array.size:
        raise UserError(f"{str(found[0])!r} holds an array of shape {array.shape}; it should hold {content}")
    return array


def _read_labels(root: str, part: str, number: int) -> Bytes:
    labels = _read(root, part, "labels")
    if len(labels) != number or labels.max() > 9:
        raise UserError(
            f"data.root {str(root)!r}: {IDX_FILES[part, 'labels']!r} does not hold a digit from 0 to 9 for each of"
            f" {number} images; it belongs to another set"
        )
    return labels


def _check_drawing(num_digits: int, digit_size: int, canvas: int, max_speed: int, num_videos: int | None) -> None:
    named: Sequence[tuple[str, int | None]] = (
        ("num_digits", num_digits),
        ("digit_size", digit_size),
        ("max_speed", max_speed),
        ("num_videos", num_videos),
    )
    for name, value in named:
        if value is not None and value < 1:
            raise UserError(f"data.{name} is {value}; it must be at least 1")
    if digit_size >= canvas:
        raise UserError(f"data.digit_size {digit_size} leaves no room on data.canvas {canvas}; lower it")
