"""Does something move through the picture, steadily? Looks at finished videos only, ``(N, C, T, H, W)`` in [-1, 1].

Three things are asked of a video. A region changes from frame to frame that is neither a few pixels nor all of the
picture. That region is displaced, by pixels and not by the jitter of noise. And change adds up: two to four frames
apart, a picture differs more than one frame apart, as it does when things travel; where frames are random, or out of
order, it differs as much one frame apart.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHANGED = 0.1  # a pixel has changed when its grey value, of a range of 2, has changed by more
FEWEST_PIXELS = 3  # a smaller region has no place
LEAST_AREA, MOST_AREA = 0.002, 0.3  # of the picture
LEAST_STEP = 0.8  # pixels from one frame to the next, at 32 x 32
LEAST_GROWTH = 1.45  # of the mean squared difference, from one frame apart to two, three and four


class Regions(NamedTuple):
    """What was seen in each of N videos.

    Args:
        area: share of the picture that changes from a frame to the next, mean over the video.
        step: pixels by which the centre of the changing region moves from a frame to the next, mean over the video.
        growth: mean squared difference of frames two, three and four apart over that of frames one apart.
    """

    area: Tensor
    step: Tensor
    growth: Tensor

    @property
    def moving(self) -> Tensor:
        """Which videos pass all three, bool ``(N,)``."""
        within = (self.area >= LEAST_AREA) & (self.area <= MOST_AREA)
        return within & (self.step >= LEAST_STEP) & (self.growth >= LEAST_GROWTH)


def regions(videos: Tensor) -> Regions:
    """Measure the regions that change, of videos of at least five frames."""
    grey = videos.double().mean(1)
    changed = ((grey[:, 1:] - grey[:, :-1]).abs() > CHANGED).double()
    pixels = changed.sum((2, 3))
    height, width = grey.shape[2:]
    down = (changed.sum(3) * torch.arange(height)).sum(2) / pixels.clamp(min=1)
    right = (changed.sum(2) * torch.arange(width)).sum(2) / pixels.clamp(min=1)
    steps = torch.hypot(down.diff(dim=1), right.diff(dim=1))
    seen = ((pixels[:, 1:] >= FEWEST_PIXELS) & (pixels[:, :-1] >= FEWEST_PIXELS)).double()
    one, *far = ((grey[:, apart:] - grey[:, :-apart]).square().mean((1, 2, 3)) for apart in (1, 2, 3, 4))
    return Regions(
        area=changed.mean((1, 2, 3)),
        step=(steps * seen).sum(1) / seen.sum(1).clamp(min=1),
        growth=torch.stack(far).mean(0) / one.clamp(min=1e-12),
    )


def moving_share(videos: Tensor) -> float:
    """Share of videos in which something moves."""
    return float(regions(videos).moving.double().mean())
