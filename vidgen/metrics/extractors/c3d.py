"""C3D fine-tuned on UCF-101, the classifier of the video Inception Score.

"Learning Spatiotemporal Features with 3D Convolutional Networks", Du Tran et al., 2015 (arXiv:1412.0767): eight 3x3x3
convolutions and three fully connected layers on 16 frames of 112x112.

Where this follows the code behind published scores rather than the paper:
- pools round sizes up, so that the last one gives 4x4 and ``fc6`` has 8,192 inputs (pfnet-research/tgan, tgan2);
- the mean of the training clips is subtracted at another place by each of the protocols, see :data:`PROTOCOLS`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.metrics.extractors import EXTRACTORS
from vidgen.metrics.extractors.base import Extractor, Weights, check_videos, frozen
from vidgen.metrics.extractors.random_weights import filled_state, fingerprint, uniform
from vidgen.weights import WeightFile, load_into, load_state, locate

FRAMES, SIDE, NUM_CLASSES = 16, 112, 101
MEAN_SHAPE = (3, FRAMES, 128, 171)
"""Of the mean clip: blue, green, red; frames; rows; columns."""
WEIGHT_FILE = WeightFile(
    name="conv3d_deepnetA_ucf.npz",
    url="https://github.com/rezoo/tgan2/releases/download/v1.0/conv3d_deepnetA_ucf.npz",
    size=None,
    checksum="",
    licence="",
)
MEAN_FILE = WeightFile(
    name="mean2.npz",
    url="https://github.com/rezoo/tgan2/releases/download/v1.0/mean2.npz",
    size=None,
    checksum="",
    licence="",
)
CONVOLUTIONS: dict[str, tuple[int, int]] = {
    "conv1a": (3, 64),
    "conv2a": (64, 128),
    "conv3a": (128, 256),
    "conv3b": (256, 256),
    "conv4a": (256, 512),
    "conv4b": (512, 512),
    "conv5a": (512, 512),
    "conv5b": (512, 512),
}
POOLED_AFTER = {"conv1a": "pool1", "conv2a": "pool2", "conv3b": "pool3", "conv4b": "pool4", "conv5b": "pool5"}
Protocol = Literal["tgan", "tgan2", "styleganv"]


class C3DNetwork(nn.Module):
    """C3D with the layer names of the original.

    Args:
        num_classes: 101 for UCF-101.
    """

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        for name, (in_channels, channels) in CONVOLUTIONS.items():
            self.add_module(name, nn.Conv3d(in_channels, channels, 3, padding=1))
        self.fc6 = nn.Linear(512 * 4 * 4, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, num_classes)

    def endpoints(self, x: Tensor) -> dict[str, Tensor]:
        """Results of the pools and the fully connected layers.

        Args:
            x: float ``(B, 3, 16, 112, 112)``, blue first, 0 .. 255 less the mean.

        Returns:
            ``pool1`` … ``pool5`` ``(B, 512, 1, 4, 4)``, ``fc6`` and ``fc7`` ``(B, 4096)`` after their ReLU, and the
            class scores ``fc8``.
        """
        results: dict[str, Tensor] = {}
        for name in CONVOLUTIONS:
            x = self.get_submodule(name)(x).relu_()
            if name in POOLED_AFTER:
                window = (1, 2, 2) if name == "conv1a" else (2, 2, 2)
                x = results[POOLED_AFTER[name]] = F.max_pool3d(x, window, window, ceil_mode=True)
        results["fc6"] = self.fc6(x.flatten(1)).relu()
        results["fc7"] = self.fc7(results["fc6"]).relu()
        results["fc8"] = self.fc8(results["fc7"])
        return results


def tgan_input(pixels: Tensor, mean: Tensor) -> Tensor:
    """What TGAN's evaluation feeds the network: bicubic resize to 128x128, less the mean's centre, less a border of 8.

    Args:
        pixels: float RGB ``(B, 3, 16, H, W)`` in 0 .. 255.
        mean: ``(3, 16, 128, 171)``, blue first.

    Returns:
        ``(B, 3, 16, 112, 112)``, blue first.
    """
    resized = _resized(pixels, 128, mode="bicubic", align_corners=False)
    return (resized.flip(1) - mean[..., 21:149])[..., 8:120, 8:120]


def tgan2_input(pixels: Tensor, mean: Tensor) -> Tensor:
    """What TGANv2's evaluation feeds the network: bilinear resize with aligned corners to 112x112, less the rows and
    columns 8 .. 119 of the mean; arguments as for :func:`tgan_input`."""
    resized = _resized(pixels, SIDE, mode="bilinear", align_corners=True)
    return resized.flip(1) - mean[..., 8:120, 8:120]


def _resized(pixels: Tensor, side: int, mode: str, align_corners: bool) -> Tensor:
    frames = pixels.transpose(1, 2).flatten(0, 1)
    resized = F.interpolate(frames, size=(side, side), mode=mode, align_corners=align_corners)
    return resized.unflatten(0, (len(pixels), pixels.shape[2])).transpose(1, 2)


PROTOCOLS: dict[Protocol, Callable[[Tensor, Tensor], Tensor]] = {
    "tgan": tgan_input,
    "tgan2": tgan2_input,
    "styleganv": tgan2_input,
}
"""How pixels become the network's input. StyleGAN-V's network file is stated to reproduce TGANv2's model, resize and
mean included."""


@EXTRACTORS.register("c3d")
class C3D(Extractor):
    """Activations of C3D's layer ``fc7``, and its scores of the 101 classes of UCF-101.

    Args:
        weights: ``auto`` for the cached or downloaded file of TGANv2's authors, ``random`` for closed-form weights
            whose numbers compare with no others, or the path of an npz file with Chainer's names (``conv1a/W``) or of
            a state dict (``conv1a.weight``).
        mean: ``auto`` for the published mean clip, closed-form if the weights are, or the path of an npz file with an
            array ``mean``, ``(3, 16, 128, 171)``.
        protocol: whose resize and mean; the scores of different ones compare with each other in no way.

    Raises:
        UserError: an unknown protocol, or a file that cannot be used.
    """

    name = "c3d"
    num_features = 4096
    min_frames = FRAMES
    classifies = True
    mean: Tensor

    def __init__(self, weights: str = "auto", mean: str = "auto", protocol: Protocol = "tgan") -> None:
        super().__init__()
        if protocol not in PROTOCOLS:
            raise UserError(f"unknown C3D protocol {protocol!r} (known: {', '.join(PROTOCOLS)})")
        self.protocol = protocol
        with torch.device("meta"):
            self.network = C3DNetwork()
        self.weights = load(self.network, weights)
        random = weights == "random" and mean == "auto"
        self.register_buffer("mean", random_mean() if random else read_mean(locate(MEAN_FILE, mean)))
        self.mean_fingerprint = fingerprint({"mean": self.mean})
        self.network.to(memory_format=torch.channels_last_3d)
        self.freeze()

    def forward(self, videos: Tensor) -> Tensor:
        """Features, see :class:`Extractor`: float32 ``(B, 4096)`` of videos with exactly 16 frames."""
        return self.endpoints(videos)["fc7"]

    def logits(self, videos: Tensor) -> Tensor:
        """Class scores ``(B, 101)``."""
        return self.endpoints(videos)["fc8"]

    @frozen
    def endpoints(self, videos: Tensor) -> dict[str, Tensor]:
        """Results of all pools and fully connected layers, see :meth:`C3DNetwork.endpoints`.

        Raises:
            TypeError: see :meth:`Extractor.forward`.
            ValueError: likewise, or not 16 frames.
        """
        videos = check_videos(videos, FRAMES, self.name)
        if videos.shape[2] != FRAMES:
            raise ValueError(f"c3d: needs videos of exactly {FRAMES} frames, got {videos.shape[2]}")
        x = PROTOCOLS[self.protocol](videos.float(), self.mean)
        return self.network.endpoints(x.contiguous(memory_format=torch.channels_last_3d))

    def settings(self) -> dict[str, Any]:
        """See :meth:`Extractor.settings`."""
        return {"layer": "fc7", "protocol": self.protocol, "mean": self.mean_fingerprint, "precision": "float32"}


def load(network: C3DNetwork, weights: str) -> Weights:
    """Give the network its weights, see :class:`C3D`.

    Returns:
        Which they are. Nobody states a checksum of the published file, so only the one in the cache passes for it.
    """
    if weights == "random":
        state = random_state(network)
        network.load_state_dict(state, assign=True)
        return Weights("random", fingerprint(state), published=False)
    path = locate(WEIGHT_FILE, weights)
    load_into(network, {_torch_name(key): value for key, value in load_state(path).items()}, path)
    published = weights == "auto"
    name = Path(WEIGHT_FILE.name).stem if published else "unknown"
    return Weights(name, fingerprint(network.state_dict()), published, path.name)


def random_state(network: C3DNetwork, salt: str = "") -> dict[str, Tensor]:
    """Closed-form weights; the first layer's are smaller by 128, for its inputs are pixels in 0 .. 255."""
    state = filled_state({name: tuple(value.shape) for name, value in network.state_dict().items()}, salt)
    state["conv1a.weight"] /= 128
    return state


def random_mean(salt: str = "") -> Tensor:
    """A closed-form mean clip ``(3, 16, 128, 171)`` in 90 .. 120."""
    values = 90 + 30 * uniform(f"{salt}mean", int(np.prod(MEAN_SHAPE)))
    return torch.from_numpy(values.astype(np.float32)).view(MEAN_SHAPE)


def read_mean(path: Path) -> Tensor:
    """The mean clip of a file.

    Args:
        path: npz file with an array ``mean``.

    Returns:
        float32 ``(3, 16, 128, 171)``, blue first.

    Raises:
        UserError: no such file or array, or one of another shape or with NaN or infinite numbers.
    """
    found = load_state(path).get("mean")
    if found is None:
        what = "has no array 'mean'"
    elif tuple(found.shape) != MEAN_SHAPE:
        what = f"'mean' is {tuple(found.shape)}"
    else:
        what = "" if found.isfinite().all() else "'mean' holds NaN or infinity"
    if found is None or what:
        raise UserError(f"{path}: is no mean clip for C3D ({what}); an array 'mean' {MEAN_SHAPE} is needed")
    return found.float()


def _torch_name(key: str) -> str:
    """PyTorch's name of a parameter that Chainer calls ``conv1a/W``."""
    layer, slash, kind = key.partition("/")
    return f"{layer}.{ {'W': 'weight', 'b': 'bias'}.get(kind, kind) }" if slash else key
