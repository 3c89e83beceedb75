"""Frozen networks that metrics look through."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from vidgen.registry import Registry

if TYPE_CHECKING:
    from vidgen.metrics.extractors.base import Extractor

EXTRACTORS: Registry = Registry(
    "extractor",
    {
        "c3d": "vidgen.metrics.extractors.c3d",
        "dinov2": "vidgen.metrics.extractors.dinov2",
        "i3d": "vidgen.metrics.extractors.i3d",
        "inception": "vidgen.metrics.extractors.inception",
        "shape_colour": "vidgen.metrics.content_distance",
        "videomae": "vidgen.metrics.extractors.videomae",
    },
    "vidgen.extractors",
)

_SHARED: WeakValueDictionary[str, Extractor] = WeakValueDictionary()


def shared_extractor(name: str, **arguments: Any) -> Extractor:
    """An extractor by its name; metrics that ask for the same one share it, which is safe since it never changes.

    Args:
        name: registered name or dotted path.
        arguments: of its constructor.

    Raises:
        UserError: no such extractor, or weights that cannot be had.
    """
    key = f"{name} {sorted(arguments.items())!r}"
    extractor = _SHARED.get(key)
    if extractor is None:
        extractor = EXTRACTORS.get(name)(**arguments)
        _SHARED[key] = extractor
    return extractor
