"""The 3-D VQGAN without its critics: what the later stages keep of the first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.models.stages import fingerprint
from vidgen.models.tats.codebook import Codebook, Draws, Quantised
from vidgen.models.tats.networks import (
    Decoder,
    Encoder,
    Norm,
    Padding,
    Size,
    decoder_reach,
    encoder_reach,
    fewest_decoded,
    fewest_encoded,
    strides_of,
)


def laid_out(x: Tensor) -> Tensor:
    """``x`` ``(B, C, T, H, W)`` as convolutions want it in memory: channels last, which is faster on CPUs.

    Not so in bfloat16 there: gradients of weights would be NaN now and then.
    """
    if x.device.type == "cpu" and (x.dtype.itemsize < 4 or torch.is_autocast_enabled("cpu")):
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last_3d)


class Reconstruction(NamedTuple):
    """A clip and what the autoencoder makes of it.

    Args:
        target: the clip ``(B, C, T, H, W)`` in [-0.5, 0.5], less the frames that only serve as padding.
        video: its reconstruction, nominally in [-0.5, 0.5].
        quantised: the latents in between.
    """

    target: Tensor
    video: Tensor
    quantised: Quantised


class VideoAutoencoder(nn.Module):
    """Clips to tokens and back.

    Args:
        channels: of a frame.
        n_hiddens: see :class:`~vidgen.models.tats.networks.Encoder`.
        downsample: by how much time, height and width shrink.
        embedding_dim: size of a code.
        n_codes: codes in the codebook.
        norm: of all layers.
        padding: how the encoder's convolutions pad.
        padding_scope: whether this holds for those outside residual blocks, as in the official code, or for all.
        real_frames: real frames on each side of a training clip that serve as padding of the time axis.
        random_restart: see :class:`~vidgen.models.tats.codebook.Codebook`.
        restart_threshold: see there.
    """

    def __init__(
        self,
        channels: int,
        n_hiddens: int,
        downsample: Size,
        embedding_dim: int,
        n_codes: int,
        norm: Norm = "batch",
        padding: Padding = "replicate",
        padding_scope: Literal["encoder", "all"] = "encoder",
        real_frames: int = 0,
        random_restart: bool = False,
        restart_threshold: float = 1.0,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.downsample = downsample
        self.real_frames = real_frames
        strides = [stride[0] for stride in strides_of(downsample)]
        self.encoder_reach, self.decoder_reach = encoder_reach(strides), decoder_reach(strides)
        everywhere: Padding = padding if padding_scope == "all" else "replicate"
        # what makes every time step depend on all others; empty where nothing does
        mixing = "group norm" if norm == "group" else ""
        self.encoder_mixes = mixing or ("circular padding" if padding == "circular" else "")
        self.decoder_mixes = mixing or ("circular padding" if everywhere == "circular" else "")
        self.padding = padding
        self.fewest_encoded = fewest_encoded(downsample, padding, everywhere)
        self.fewest_decoded = fewest_decoded(downsample, everywhere)
        self.encoder = Encoder(channels, n_hiddens, downsample, norm, padding, everywhere)
        width = n_hiddens * 2 ** len(strides)
        self.project = nn.Conv3d(width, embedding_dim, 1)
        self.codebook = Codebook(n_codes, embedding_dim, random_restart, restart_threshold)
        self.unproject = nn.Conv3d(embedding_dim, width, 1)
        self.decoder = Decoder(channels, n_hiddens, downsample, norm, everywhere)

    @property
    def n_codes(self) -> int:
        """Codes in the codebook."""
        return self.codebook.n_codes

    @property
    def halo(self) -> int:
        """Frames before and behind a part of a video on which its tokens depend, a multiple of the stride in time."""
        before, after = self.encoder_reach
        stride = self.downsample[0]
        return math.ceil(max(before, after - stride + 1) / stride) * stride

    def encoder_fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the weights that decide the tokens of a video."""
        parts = ("encoder.", "project.", "codebook.embeddings")
        return fingerprint({name: value for name, value in self.state_dict().items() if name.startswith(parts)})

    def latent_shape(self, num_frames: int, height: int, width: int) -> Size:
        """Tokens along time, height and width of a clip of some size."""
        shape = (size // factor for size, factor in zip((num_frames, height, width), self.downsample, strict=True))
        return tuple(shape)  # type: ignore[return-value]

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        """Check that clips of a size can be encoded and decoded.

        Raises:
            UserError: they are too small to be padded; the message names the config key.
        """
        latents = self.latent_shape(num_frames, height, width)
        outer = 2 * self.real_frames // self.downsample[0]
        self._check_latents(latents, self.fewest_encoded)
        self._check_latents((latents[0] - outer, *latents[1:]), self.fewest_decoded)

    def _check_latents(self, found: Sequence[int], fewest: Size) -> None:
        for name, number, least, factor in zip(
            ("num_frames", "height", "width"), found, fewest, self.downsample, strict=True
        ):
            if number < least:
                wanted = f"{least * factor} or more"
                raise UserError(f"{name} {number * factor}: too small for {self.padding} padding, which takes {wanted}")

    def latents(self, video: Tensor) -> Tensor:
        """Latents ``(B, D, t, h, w)``, not quantised, of ``video`` ``(B, C, T, H, W)`` in [-0.5, 0.5]."""
        return self.project(self.encoder(laid_out(video)))

    def frames(self, codes: Tensor) -> Tensor:
        """Frames ``(B, C, T, H, W)``, nominally in [-0.5, 0.5], of codes ``(B, D, t, h, w)``."""
        features = self.unproject(codes.to(self.unproject.weight.dtype))
        return self.decoder(laid_out(features))  # 1x1 convolutions lose the layout

    def forward(self, video: Tensor, draws: Draws | None = None) -> Reconstruction:
        """Reconstruct training clips, whose outer frames may only serve as padding.

        Args:
            video: ``(B, C, T, H, W)`` in [-0.5, 0.5].
            draws: see :class:`~vidgen.models.tats.codebook.Codebook`.
        """
        quantised = self.codebook(self._inner(self.latents(video)), draws)
        frames = self.real_frames
        target = video[:, :, frames : video.shape[2] - frames]
        made = laid_out(self.frames(quantised.embeddings))  # compiled, it may be another
        return Reconstruction(target, made, quantised)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Tokens int64 ``(B, t, h, w)`` of ``video`` ``(B, C, T, H, W)`` in [-1, 1], of any length and size.

        Raises:
            UserError: it is too small to be padded.
        """
        self._check_latents(self.latent_shape(*video.shape[2:]), self.fewest_encoded)
        return self.codebook.nearest(self.latents(self._official(video)))

    @torch.no_grad()
    def encode_inner(self, video: Tensor) -> Tensor:
        """As :meth:`encode`, of training clips: without the latents of frames that only serve as padding."""
        return self.codebook.nearest(self._inner(self.latents(self._official(video))))

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Video ``(B, C, T, H, W)`` in [-1, 1] of tokens ``(B, t, h, w)``.

        Raises:
            UserError: it is too small to be padded.
        """
        self._check_latents(tokens.shape[1:], self.fewest_decoded)
        frames = self.frames(self.codebook.lookup(tokens))
        return (2 * frames.float()).clamp_(-1, 1)

    def decode_part(self, tokens: Tensor, start: int, stop: int) -> Tensor:
        """The frames of latents ``start`` to ``stop - 1``: what :meth:`decode` makes of them, in memory for the part.

        Args:
            tokens: ``(B, t, h, w)``.
            start: number of the first latent.
            stop: number of the first latent after the part.

        Raises:
            ValueError: group norm, whose statistics are those of the whole video, or circular padding.
        """
        if self.decoder_mixes:
            raise ValueError(f"a video cannot be decoded in parts: {self.decoder_mixes} mixes all its time steps")
        before, after = self.decoder_reach
        first = max(0, start - before)
        frames = self.decode(tokens[:, first : stop + after])
        scale = self.downsample[0]
        return frames[:, :, (start - first) * scale : (stop - first) * scale]

    def _inner(self, latents: Tensor) -> Tensor:
        outer = self.real_frames // self.downsample[0]
        return latents[:, :, outer : latents.shape[2] - outer]

    def _official(self, video: Tensor) -> Tensor:
        return video.to(self.project.weight.dtype) / 2
