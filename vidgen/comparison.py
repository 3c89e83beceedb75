"""Samples of one context side by side with the truth, as the figures of stochastic prediction show them.

After the figures of Denton and Fergus 2018 (SVG): the truth, the best of N samples, then the samples themselves, each
frame in a border whose colour says where it comes from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.media import grid

GIVEN = (0, 114, 178)
"""Blue: frames of the given video, beyond the context too."""
PREDICTED = (230, 159, 0)
"""Orange: frames that the model has predicted. Of the palette of Okabe and Ito, which the colour-blind tell apart."""
COLUMNS = 10
"""Videos in a row, at most."""
PIECE_FRAMES = 64
"""Frames that are scored and laid out at a time."""

CHOICE = "mean SSIM (protocol svg) of the predicted frames"


class Scores(NamedTuple):
    """How near samples are to the truth, frame by frame.

    Args:
        psnr: float64 ``(N, T)``, dB, of N samples and their T predicted frames; infinite for equal frames.
        ssim: float64 ``(N, T)``, in SVG's protocol.
    """

    psnr: Tensor
    ssim: Tensor

    @property
    def best(self) -> int:
        """Index of the sample of the highest mean SSIM, as ``best_of_n`` chooses it; the first of equals."""
        from vidgen.metrics.best_of import best_sample

        return int(best_sample(self.ssim[None]))


def score_samples(samples: Tensor, truth: Tensor) -> Scores:
    """Compare the predicted frames of samples with the true ones.

    Args:
        samples: uint8 ``(N, C, T, H, W)``.
        truth: uint8 ``(C, T, H, W)``.

    Raises:
        ValueError: shapes that differ, or frames smaller than the window of SSIM.
    """
    from vidgen.metrics.image_quality import psnr, ssim

    # one by one: a hundred samples in float64 would take gigabytes
    return Scores(
        torch.cat([psnr(sample[None], truth[None], "svg") for sample in samples]),
        torch.cat([ssim(sample[None], truth[None], "svg") for sample in samples]),
    )


class Footage(Protocol):
    """Videos of one shape that are read piece by piece.

    Attributes:
        shape: ``(N, C, T, H, W)``.
    """

    shape: tuple[int, ...]

    def read(self, start: int, stop: int) -> Tensor:
        """Frames ``start … stop - 1`` of all of them, uint8."""
        ...


class InMemory:
    """Footage that is there as a whole, see :class:`Footage`."""

    def __init__(self, videos: Tensor) -> None:
        self.videos = videos
        self.shape = tuple(videos.shape)

    def read(self, start: int, stop: int) -> Tensor:
        """See :meth:`Footage.read`."""
        return self.videos[:, :, start:stop]


class Comparison:
    """Samples of one context beside the truth.

    Shown are the truth, the best sample, and all samples in order. Without truth there is no best one; a single sample
    is not shown twice. Samples are read piece by piece, so that long ones need not be in memory.

    Args:
        samples: uint8 ``(N, C, T, H, W)`` with 1 or 3 channels.
        truth: uint8 ``(C, T, H, W)``; None where it is not known.
        context_frames: first frames, which the model was given.
        seeds: of each sample.

    Raises:
        UserError: samples and truth cannot be compared.
    """

    def __init__(
        self, samples: Tensor | Footage, truth: Tensor | None, context_frames: int, seeds: Sequence[int]
    ) -> None:
        self.samples = InMemory(samples) if isinstance(samples, Tensor) else samples
        self.number, _, self.num_frames, _, _ = self.samples.shape
        self.truth = truth
        self.context_frames = context_frames
        self.seeds = list(seeds)
        self.scores: Scores | None = None
        if truth is not None and self.num_frames > context_frames:
            try:
                self.scores = self._scored(truth)
            except ValueError as error:
                raise UserError(f"samples: {error}; set it to 0") from error

    def _scored(self, truth: Tensor) -> Scores:
        if truth.shape[1] != self.num_frames:
            raise ValueError(f"the truth has {truth.shape[1]} frames, the samples {self.num_frames}")
        parts = [
            score_samples(self.samples.read(start, stop), truth[:, start:stop])
            for start, stop in self._pieces(self.context_frames)
        ]
        return Scores(*(torch.cat(curves, 1) for curves in zip(*parts, strict=True)))

    def side_by_side(self) -> Tensor:
        """One video, rows of :data:`COLUMNS`: uint8 ``(3, T, H', W')``."""
        return torch.cat(list(self.pieces()), 1)

    def pieces(self) -> Iterator[Tensor]:
        """The same video, :data:`PIECE_FRAMES` frames at a time."""
        for start, stop in self._pieces():
            cells = self._cells(start, stop)
            yield grid(cells, columns=min(COLUMNS, len(cells)))

    def over_time(self) -> Tensor:
        """One picture: a row for each of them, time to the right; uint8 ``(3, H', W')``."""
        cells = self._cells(0, self.num_frames)
        frames = cells.transpose(1, 2).flatten(0, 1)[:, :, None]
        return grid(frames, columns=cells.shape[2])[:, 0]

    def described(self) -> str:
        """JSON: what is shown, which sample is the best, and the scores of all by predicted frame.

        A PSNR that is infinite is null there.
        """
        found = {
            "shown": self._shown(),
            "context_frames": self.context_frames,
            "seeds": self.seeds,
            "best": None if self.scores is None else f"sample {self.scores.best + 1}",
            "chosen_by": CHOICE,
            "psnr": None if self.scores is None else _plain(self.scores.psnr),
            "ssim": None if self.scores is None else _plain(self.scores.ssim),
        }
        lines = [f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def _shown(self) -> list[str]:
        shown = [f"sample {number}" for number in range(1, self.number + 1)]
        if self.scores is not None and self.number > 1:
            shown.insert(0, "best")
        return ["truth", *shown] if self.truth is not None else shown

    def _cells(self, start: int, stop: int) -> Tensor:
        """These frames of everything that is shown, in borders: uint8 ``(K, 3, t, H', W')``."""
        samples = self.samples.read(start, stop)
        given = min(max(self.context_frames - start, 0), stop - start)
        cells = [bordered(sample, given) for sample in samples]
        if self.scores is not None and self.number > 1:
            cells.insert(0, cells[self.scores.best])
        if self.truth is not None:
            cells.insert(0, bordered(self.truth[:, start:stop], stop - start))
        return torch.stack(cells)

    def _pieces(self, first: int = 0) -> Iterator[tuple[int, int]]:
        for start in range(first, self.num_frames, PIECE_FRAMES):
            yield start, min(start + PIECE_FRAMES, self.num_frames)


def bordered(video: Tensor, num_given: int) -> Tensor:
    """A video in a border: :data:`GIVEN` around its first frames, :data:`PREDICTED` around the others.

    Args:
        video: uint8 ``(C, T, H, W)`` with 1 or 3 channels.
        num_given: how many frames are given ones.

    Returns:
        uint8 ``(3, T, H + 2 b, W + 2 b)`` with a border of ``b`` pixels: a 32nd of the shorter side, 2 at least, since
        video files halve the resolution of colours.
    """
    frames, height, width = video.shape[1:]
    border = max(2, min(height, width) // 32)
    cell = torch.empty(3, frames, height + 2 * border, width + 2 * border, dtype=torch.uint8)
    for part, colour in ((slice(num_given), GIVEN), (slice(num_given, None), PREDICTED)):
        cell[:, part] = torch.tensor(colour, dtype=torch.uint8)[:, None, None, None]
    cell[:, :, border:-border, border:-border] = video
    return cell


def _plain(scores: Tensor) -> list[list[float | None]]:
    return [[round(score, 6) if math.isfinite(score) else None for score in curve] for curve in scores.tolist()]
