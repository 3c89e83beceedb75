"""Video generation: published models, and one way to train, sample and measure them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "load": "vidgen.checkpoint",
    "MODELS": "vidgen.registry",
    "DATASETS": "vidgen.registry",
    "METRICS": "vidgen.registry",
    "VideoModel": "vidgen.models.base",
    "AdversarialModel": "vidgen.models.base",
    "VideoDataset": "vidgen.data.dataset",
    "DataSpec": "vidgen.data.spec",
    "ClipRequest": "vidgen.data.request",
    "UserError": "vidgen.errors",
}

__all__ = [
    "DATASETS",
    "METRICS",
    "MODELS",
    "AdversarialModel",
    "ClipRequest",
    "DataSpec",
    "UserError",
    "VideoDataset",
    "VideoModel",
    "__version__",
    "load",
]

if TYPE_CHECKING:
    from vidgen.checkpoint import load
    from vidgen.data.dataset import VideoDataset
    from vidgen.data.request import ClipRequest
    from vidgen.data.spec import DataSpec
    from vidgen.errors import UserError
    from vidgen.models.base import AdversarialModel, VideoModel
    from vidgen.registry import DATASETS, METRICS, MODELS


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'vidgen' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
