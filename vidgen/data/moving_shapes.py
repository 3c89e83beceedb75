"""Coloured shapes that cross a black frame at constant velocity, rendered when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidgen.data.dataset import VideoDataset, check_clip_settings
from vidgen.data.request import ClipRequest
from vidgen.data.spec import DataSpec
from vidgen.data.transforms import from_levels
from vidgen.errors import UserError, did_you_mean
from vidgen.registry import DATASETS
from vidgen.seeding import derive_seed

Floats = NDArray[np.float32]

SHAPES = ("circle", "square", "triangle")
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (235, 60, 50),
    "green": (60, 200, 80),
    "blue": (60, 110, 240),
    "yellow": (240, 210, 60),
    "magenta": (220, 70, 220),
    "cyan": (70, 210, 220),
    "orange": (240, 140, 40),
    "white": (240, 240, 240),
}
"""Name -> RGB, 0 to 255."""
DIRECTIONS: dict[str, tuple[int, int]] = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
"""Name -> steps in x (to the right) and in y (downwards)."""
ATTRIBUTES = ("shape", "color", "size", "direction")


@DATASETS.register("moving_shapes")
class MovingShapes(VideoDataset):
    """One shape per video, moving in one direction, always wholly inside the frame; needs no files.

    A video is a function of (seed, its index) alone, at any resolution. Edges are antialiased. ``attributes`` are the
    positions of the shape, colour and direction in the lists given here, and the size as a fraction of the side.

    Args:
        resolution: height and width of the clips, pixels.
        num_frames: frames of a clip.
        stride: source frames from one clip frame to the next.
        num_videos: number of videos; the first ones are the same for any number.
        length: frames of a video; None for ``num_frames * stride``.
        shapes: shapes to choose from: circle, square, triangle.
        colors: colours to choose from, see ``PALETTE``: red, green, blue, yellow, magenta, cyan, orange, white.
        directions: directions to choose from: right, left, down, up.
        size: smallest and largest side of a shape's bounding square, as fractions of the frame's side.
        travel: least and greatest way from the first to the last frame of a clip, as fractions of the frame's side;
            the greatest is cut to what keeps the shape inside.
        spread: how far paths stray from the middle of the frame, as a fraction of the room that they have; 0 lets every
            path pass through the middle.
        label_by: what the label says: direction, shape, color, color_direction (one class for each pair), or none for
            no labels.
        seed: seed of the videos; another seed gives other videos of the same kind.
    """

    def __init__(
        self,
        resolution: int,
        num_frames: int,
        *,
        stride: int = 1,
        num_videos: int = 10_000,
        length: int | None = None,
        shapes: Sequence[str] = SHAPES,
        colors: Sequence[str] = ("red", "green", "blue", "yellow"),
        directions: Sequence[str] = tuple(DIRECTIONS),
        size: tuple[float, float] = (0.25, 0.375),
        travel: tuple[float, float] = (0.4, 0.6),
        spread: float = 1.0,
        label_by: Literal["direction", "shape", "color", "color_direction", "none"] = "direction",
        seed: int = 0,
    ) -> None:
        check_clip_settings(resolution, num_frames, stride)
        if num_videos < 1:
            raise UserError(f"data.num_videos is {num_videos}; it must be at least 1")
        length = num_frames * stride if length is None else length
        if length < num_frames:
            raise UserError(f"data.length {length} is less than data.num_frames {num_frames}; raise it")
        self.shapes = _choices("shapes", shapes, SHAPES)
        self.colors = _choices("colors", colors, tuple(PALETTE))
        self.directions = _choices("directions", directions, tuple(DIRECTIONS))
        _check_range("size", size, 0.05, 0.9)
        _check_range("travel", travel, 0.0, 1.0)
        if not 0 <= spread <= 1:
            raise UserError(f"data.spread is {spread:g}; it must be between 0 (centred paths) and 1 (anywhere inside)")
        self._draw_videos(num_videos, seed)
        self.sizes = (size[0] + (size[1] - size[0]) * self._uniform[:, 3]).astype(np.float32)
        self._draw_paths(length, num_frames, stride, travel, spread)
        names, numbers = self._labels(label_by)
        spec = DataSpec(
            channels=3,
            resolution=resolution,
            num_frames=num_frames,
            fps=None,
            num_videos=num_videos,
            min_length=length,
            max_length=length,
            class_names=names,
            attribute_names=ATTRIBUTES,
            attribute_values=(self.shapes, self.colors, (), self.directions),
        )
        super().__init__(spec, np.full(num_videos, length), numbers, stride=stride)

    def _draw_videos(self, num_videos: int, seed: int) -> None:
        """Row i of the table of draws is the same for any number of videos."""
        raw = np.random.PCG64(derive_seed(seed, "moving_shapes")).random_raw(num_videos * 8).reshape(num_videos, 8)
        self._uniform = (raw >> np.uint64(11)) * 2.0**-53
        self._shape = (self._uniform[:, 0] * len(self.shapes)).astype(np.int64)
        self._color = (self._uniform[:, 1] * len(self.colors)).astype(np.int64)
        self._direction = (self._uniform[:, 2] * len(self.directions)).astype(np.int64)

    def _labels(self, label_by: str) -> tuple[tuple[str, ...], NDArray[np.int64] | None]:
        """Class names, and the class of every video."""
        pairs = tuple(f"{color}_{direction}" for color in self.colors for direction in self.directions)
        known: dict[str, tuple[tuple[str, ...], NDArray[np.int64] | None]] = {
            "direction": (self.directions, self._direction),
            "shape": (self.shapes, self._shape),
            "color": (self.colors, self._color),
            "color_direction": (pairs, self._color * len(self.directions) + self._direction),
            "none": ((), None),
        }
        return known[label_by]

    def _draw_paths(
        self, length: int, num_frames: int, stride: int, travel: tuple[float, float], spread: float
    ) -> None:
        """Centres at time 0 and velocities per source frame, ``(N, 2)`` each, in sides of the frame."""
        room = 1 - self.sizes.astype(np.float64)
        spanned = stride * (num_frames - 1) if length >= stride * num_frames else num_frames - 1
        spanned = spanned or length - 1  # clips of one frame: the way through the whole video
        stretch = (length - 1) / max(spanned, 1)
        if travel[0] * stretch > room.min() + 1e-6:
            longest = int(spanned * room.min() / travel[0]) + 1
            raise UserError(
                f"data.length {length}: a shape that travels {travel[0]:g} of the side in a clip leaves the frame;"
                f" use at most {longest}, or lower data.travel or data.size"
            )
        fastest = np.minimum(travel[1], room / stretch) if stretch else np.full_like(room, travel[1])
        way = travel[0] + (np.maximum(fastest, travel[0]) - travel[0]) * self._uniform[:, 4]
        step = np.array([DIRECTIONS[name] for name in self.directions])[self._direction]
        self._velocity = step * (way / max(spanned, 1))[:, None]
        low = self.sizes[:, None] / 2 - np.minimum(self._velocity * (length - 1), 0)
        high = 1 - self.sizes[:, None] / 2 - np.maximum(self._velocity * (length - 1), 0)
        place = 0.5 + spread * (self._uniform[:, 5:7] - 0.5)
        self._start = low + (np.maximum(high, low) - low) * place

    def centers(self, video: int, times: Sequence[int]) -> NDArray[np.float64]:
        """Centres (x, y) of a video's shape at source frames, ``(T, 2)``, in sides of the frame."""
        return self._start[video] + np.asarray(times)[:, None] * self._velocity[video]

    def read(self, request: ClipRequest) -> dict[str, Tensor]:
        """See :meth:`VideoDataset.read`; adds ``attributes`` float32 (4,)."""
        video = request.video
        coverage = shape_coverage(
            self.shapes[self._shape[video]],
            self.centers(video, request.times).astype(np.float32),
            float(self.sizes[video]),
            request.resolution,
        )
        color = PALETTE[self.colors[self._color[video]]]
        numbers = [self._shape[video], self._color[video], self.sizes[video], self._direction[video]]
        return {
            "video": _paint(coverage, color),
            "attributes": torch.tensor([float(number) for number in numbers]),
            **self.describe_clip(request),
        }

    def describe(self) -> str:
        """See :meth:`VideoDataset.describe`."""
        return f"moving shapes, rendered on the fly\n{super().describe()}"


def shape_coverage(shape: str, centers: Floats, size: float, resolution: int) -> Floats:
    """How much of each pixel a shape covers, 0 to 1, ``(T, resolution, resolution)``.

    Args:
        shape: one of ``SHAPES``.
        centers: centres (x, y) of the bounding square, ``(T, 2)``, in sides of the frame.
        size: side of the bounding square, in sides of the frame.
        resolution: pixels of a side.
    """
    pixels = np.arange(resolution, dtype=np.float32) + np.float32(0.5)
    x = (pixels - centers[:, :1] * resolution)[:, None, :]  # (T, 1, W), pixels right of the centre
    y = (pixels - centers[:, 1:] * resolution)[:, :, None]  # (T, H, 1), pixels below the centre
    half = np.float32(size * resolution / 2)
    if shape == "circle":
        outside = np.sqrt(x * x + y * y) - half
    elif shape == "square":
        outside = np.maximum(np.abs(x) - half, np.abs(y) - half)
    else:  # an upright triangle: its base is the lower edge of the square, its tip the middle of the upper edge
        slope = np.float32(5**-0.5)
        outside = np.maximum((2 * np.abs(x) - y - half) * slope, y - half)
    return np.clip(np.float32(0.5) - outside, 0, 1)


def _paint(coverage: Floats, color: tuple[int, int, int]) -> Tensor:
    """The colour on black, rounded to 0, 1, ... 255 as if it had been stored, ``(3, T, H, W)``."""
    levels = np.rint(coverage * np.array(color, dtype=np.float32)[:, None, None, None])
    return from_levels(torch.from_numpy(levels))


def _choices(name: str, chosen: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    if not chosen:
        raise UserError(f"data.{name} is empty; choose from {', '.join(known)}")
    for word in chosen:
        if word not in known:
            raise UserError(
                f"data.{name}: unknown {word!r}{did_you_mean(str(word), known)} (choose from {', '.join(known)})"
            )
    return tuple(chosen)


def _check_range(name: str, bounds: tuple[float, float], low: float, high: float) -> None:
    if len(bounds) != 2 or not low <= bounds[0] <= bounds[1] <= high:
        raise UserError(f"data.{name} is {list(bounds)}; it must be two rising numbers between {low:g} and {high:g}")
