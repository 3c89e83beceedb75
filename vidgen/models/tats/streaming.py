"""From latents that are made one after the other to frames, in memory that does not grow with the video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vidgen.errors import UserError
from vidgen.models.tats.autoencoder import VideoAutoencoder


@dataclass
class Standing:
    """How far videos are.

    Attributes:
        latents: makes the next one's tokens.
        frames: that were handed out.
        kept: tokens of the last latents, for those frames to come that depend on them.
        first: number of the first of them.
        over: whether these videos went on elsewhere, or have ended.
    """

    latents: Iterator[Tensor]
    frames: int = 0
    kept: list[Tensor] = field(default_factory=list)
    first: int = 0
    over: bool = False


def advance_stream(
    autoencoder: VideoAutoencoder,
    shape: tuple[int, int],
    state: Standing | None,
    start: Callable[[], Iterator[Tensor]],
    num_frames: int,
    total_frames: int | None,
) -> tuple[Tensor, Standing]:
    """The next frames of videos.

    Latents are made ahead of the frames that depend on them, unless the video ends before.

    Args:
        autoencoder: decodes.
        shape: height and width of a latent.
        state: how far the videos are; None begins them.
        start: makes the latents of new videos.
        num_frames: frames to make now.
        total_frames: length of the whole videos; None where they go on.

    Returns:
        Frames ``(B, C, num_frames, H, W)`` in [-1, 1], and the state after them.

    Raises:
        UserError: the videos would be longer than they shall be, the state was continued before, or the decoder has to
            know the whole video.
    """
    if state is None:
        state = Standing(start())
    if state.over:
        raise UserError("stream: these videos went on from here before; continue what that call returned")
    stop = state.frames + num_frames
    if num_frames < 1:
        raise UserError(f"num_frames {num_frames}: must be at least 1")
    if total_frames is not None and stop > total_frames:
        raise UserError(f"num_frames {num_frames}: {state.frames} frames were made, and the videos have {total_frames}")
    whole = total_frames is not None and num_frames == total_frames
    if autoencoder.decoder_mixes and not whole:
        raise UserError(
            f"stream: the first stage's {autoencoder.decoder_mixes} needs the whole video at once; use sample"
        )
    scale = autoencoder.downsample[0]
    before, after = autoencoder.decoder_reach
    begin, end = state.frames // scale, -(-stop // scale)
    needed = end + after if total_frames is None else min(end + after, -(-total_frames // scale))
    kept = list(state.kept)
    state.over = True  # before anything is made: who is interrupted cannot go on from here
    while state.first + len(kept) < needed:
        kept.append(next(state.latents))
    tokens = torch.stack(kept, 1).unflatten(2, shape)
    if whole:
        frames = autoencoder.decode(tokens)
    else:
        frames = autoencoder.decode_part(tokens, begin - state.first, end - state.first)
    offset = state.frames - begin * scale
    first = max(state.first, stop // scale - before)
    after_them = Standing(state.latents, stop, kept[first - state.first :], first)
    return frames[:, :, offset : offset + num_frames], after_them
