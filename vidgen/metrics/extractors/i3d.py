"""Inception-I3D as the extractor of the Fréchet and kernel video distances."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from vidgen.metrics.extractors import EXTRACTORS
from vidgen.metrics.extractors.base import Extractor, Weights, check_videos, frozen
from vidgen.metrics.extractors.i3d_network import MIN_FRAMES, FastInceptionI3D, InceptionI3D
from vidgen.metrics.extractors.i3d_weights import FVD_FILE, FVD_NETWORK, identify, read
from vidgen.metrics.extractors.random_weights import filled_state, fingerprint
from vidgen.metrics.preprocessing import PROTOCOLS, Preprocessing
from vidgen.weights import load_into, locate

NUM_CLASSES = 400
"""Of Kinetics-400, of which the embedding has the length."""
Precision = Literal["float32", "bfloat16"]
_DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@EXTRACTORS.register("i3d")
class I3D(Extractor):
    """Class scores of Inception-I3D (Kinetics-400) before the softmax, averaged over time.

    Args:
        weights: ``auto`` for the cached or downloaded file of the original FVD, ``random`` for closed-form weights
            whose numbers compare with no others, or the path of a weight file in any known layout.
        preprocessing: how frames become 224x224 in about [-1, 1]; the original protocol's unless given.
        bn_eps: epsilon of batch normalisation; 1e-3 in the original, 1e-5 in VideoGPT's and TATS's port.
        precision: of the network; ``bfloat16`` is faster on processors that have it, and changes the features by
            about 0.5 %.
        compile: compile the network at the first use.

    Raises:
        UserError: a weight file that cannot be used.
    """

    name = "i3d"
    num_features = NUM_CLASSES
    min_frames = MIN_FRAMES
    classifies = True

    def __init__(
        self,
        weights: str = "auto",
        preprocessing: Preprocessing = PROTOCOLS["original"],
        bn_eps: float = 1e-3,
        precision: Precision = "float32",
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.preprocessing, self.bn_eps, self.precision = preprocessing, bn_eps, precision
        network, self.weights = load(weights, bn_eps)
        self.num_features = network.num_classes
        self.network = FastInceptionI3D(network, _DTYPES[precision])
        if compile:
            self.network.compile()
        self.freeze()

    @frozen
    def forward(self, videos: Tensor) -> Tensor:
        """Features, see :class:`Extractor`: float32 ``(B, 400)`` of videos with at least 9 frames."""
        return self.network(self.preprocessing(check_videos(videos, self.min_frames, self.name)))

    def logits(self, videos: Tensor) -> Tensor:
        """The features are the class scores."""
        return self(videos)

    def settings(self) -> dict[str, Any]:
        """See :meth:`Extractor.settings`."""
        return {
            "layer": "logits, mean over time",
            "preprocessing": self.preprocessing.describe(),
            "bn_eps": self.bn_eps,
            "precision": self.precision,
        }


def load(weights: str, bn_eps: float = 1e-3) -> tuple[InceptionI3D, Weights]:
    """The network with its weights, and which they are.

    Args:
        weights, bn_eps: see :class:`I3D`.

    Returns:
        In eval mode, with as many classes as the weights have.

    Raises:
        UserError: a weight file that cannot be used.
    """
    if weights == "random":
        network = _empty_network(NUM_CLASSES, bn_eps)
        state = filled_state({name: tuple(value.shape) for name, value in network.state_dict().items()})
        network.load_state_dict(state, assign=True)
        return network.eval(), Weights("random", fingerprint(state), published=False)
    path = locate(FVD_FILE, weights)
    state = read(path)
    bias = state.get("logits.conv3d.bias")
    classes = len(bias) if bias is not None and bias.ndim == 1 else NUM_CLASSES
    network = _empty_network(classes, bn_eps)
    load_into(network, state, path)
    name = identify(state)
    return network.eval(), Weights(name, fingerprint(network.state_dict()), name == FVD_NETWORK, path.name)


def _empty_network(num_classes: int, bn_eps: float) -> InceptionI3D:
    with torch.device("meta"):
        return InceptionI3D(num_classes, eps=bn_eps)
