"""Inception-I3D as the extractor of the Fréchet and kernel video distances."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from vidgen.metrics.extractors import EXTRACTORS
from vidgen.metrics.extractors.base import Extractor, Weights, check_videos
from vidgen.metrics.extractors.i3d_network import MIN_FRAMES, FastInceptionI3D, InceptionI3D
from vidgen.metrics.extractors.random_weights import filled_state, fingerprint
from vidgen.metrics.preprocessing import PROTOCOLS, Preprocessing

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
    num_features = 400
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
        self.preprocessing, self.bn_eps, self.precision, self.compiled = preprocessing, bn_eps, precision, compile
        with torch.device("meta"):
            network = InceptionI3D(self.num_features, eps=bn_eps)
        state, self.weights = load(weights, {name: tuple(t.shape) for name, t in network.state_dict().items()})
        network.load_state_dict(state, assign=True)
        self.network = FastInceptionI3D(network, _DTYPES[precision])
        if compile:
            self.network.compile()
        self.freeze()

    def forward(self, videos: Tensor) -> Tensor:
        """Features, see :class:`Extractor`: float32 ``(B, 400)`` of videos with at least 9 frames."""
        videos = check_videos(videos, self.min_frames, "i3d")
        with torch.no_grad():
            return self.network(self.preprocessing(videos))

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


def load(weights: str, shapes: dict[str, tuple[int, ...]]) -> tuple[dict[str, Tensor], Weights]:
    """A state dict for :class:`InceptionI3D`, and what it is."""
    if weights == "random":
        state = filled_state(shapes)
        return state, Weights("random", fingerprint(state), published=False)
    from vidgen.metrics.extractors.i3d_weights import FVD_FILE, read
    from vidgen.metrics.weights import locate

    return read(locate(FVD_FILE, weights))
