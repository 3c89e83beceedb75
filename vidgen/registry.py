"""Names to classes, without importing any class until it is asked for.

A registry knows the names that ship with vidgen (module paths only), those that installed packages contribute through
an entry-point group, and those registered at run time with the decorator. A dotted path works wherever a name does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from vidgen.errors import UserError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Lazily imported classes by name.

    Args:
        kind: what the names stand for, used in messages (``"model"``).
        builtin: name -> module that registers it when imported.
        group: entry-point group through which installed packages contribute names.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str], group: str) -> None:
        self.kind = kind
        self.group = group
        self._modules = dict(builtin)
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Register the decorated class under ``name`` (lower case).

        Raises:
            UserError: another class already has the name.
        """

        def decorate(cls: type[T]) -> type[T]:
            known = self._classes.get(name)
            if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise UserError(f"{self.kind} name {name!r} is taken by {known.__module__}.{known.__qualname__}")
            self._classes[name] = cls
            return cls

        return decorate

    def names(self) -> list[str]:
        """All known names, sorted; nothing is imported."""
        return sorted({*self._modules, *self._classes, *(point.name for point in entry_points(group=self.group))})

    def name_of(self, cls: type[T]) -> str:
        """The name of a registered class, or its dotted path when it has none."""
        for name, known in self._classes.items():
            if known is cls:
                return name
        return f"{cls.__module__}.{cls.__qualname__}"

    def get(self, name: str) -> type[T]:
        """The class behind a name or a dotted path.

        Raises:
            UserError: no such name, or the dotted path leads nowhere.
        """
        if name in self._classes:
            return self._classes[name]
        if name in self._modules:
            importlib.import_module(self._modules[name])
            return self._classes[name]
        for point in entry_points(group=self.group):
            if point.name == name:
                return point.load()
        if "." in name:
            return self._import_path(name)
        known = self.names()
        raise UserError(f"unknown {self.kind} {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")

    def _import_path(self, path: str) -> type[T]:
        module_name, _, attribute = path.rpartition(".")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise UserError(f"{self.kind} {path!r} cannot be imported: {error}") from error
        try:
            return getattr(module, attribute)
        except AttributeError:
            raise UserError(f"{self.kind} {path!r}: module {module_name!r} has no {attribute!r}") from None


MODELS: Registry = Registry(
    "model",
    {
        "mocogan": "vidgen.models.mocogan",
        "svg": "vidgen.models.svg",
        "tats": "vidgen.models.tats.transformer",
        "tats_interpolation": "vidgen.models.tats.interpolation",
        "tats_vqgan": "vidgen.models.tats.vqgan",
        "tgan": "vidgen.models.tgan",
        "vgan": "vidgen.models.vgan",
        "video_vae": "vidgen.models.video_vae",
    },
    "vidgen.models",
)
DATASETS: Registry = Registry(
    "dataset",
    {
        "arrays": "vidgen.data.arrays",
        "encoded": "vidgen.data.encoded",
        "frame_folder": "vidgen.data.frame_folder",
        "frame_strips": "vidgen.data.frame_strips",
        "image_folder": "vidgen.data.image_folder",
        "moving_mnist": "vidgen.data.moving_mnist",
        "moving_shapes": "vidgen.data.moving_shapes",
        "packed": "vidgen.data.packed",
        "paired_frames": "vidgen.data.paired_frames",
        "spectrograms": "vidgen.data.spectrograms",
        "video_folder": "vidgen.data.video_folder",
    },
    "vidgen.datasets",
)
METRICS: Registry = Registry(
    "metric",
    {
        "acd": "vidgen.metrics.content_distance",
        "best_of_n": "vidgen.metrics.best_of",
        "cdfvd": "vidgen.metrics.video_distances",
        "class_entropies": "vidgen.metrics.class_entropies",
        "coverage": "vidgen.metrics.manifold",
        "density": "vidgen.metrics.manifold",
        "fd_dinov2": "vidgen.metrics.frame_distances",
        "fid": "vidgen.metrics.frame_distances",
        "fvd": "vidgen.metrics.video_distances",
        "fvd_inf": "vidgen.metrics.video_distances",
        "fvd_windows": "vidgen.metrics.video_distances",
        "is": "vidgen.metrics.scores",
        "is_c3d": "vidgen.metrics.scores",
        "kid": "vidgen.metrics.frame_distances",
        "kvd": "vidgen.metrics.video_distances",
        "lpips": "vidgen.metrics.image_quality",
        "ppl": "vidgen.metrics.perceptual_path",
        "precision": "vidgen.metrics.manifold",
        "psnr": "vidgen.metrics.image_quality",
        "recall": "vidgen.metrics.manifold",
        "separability": "vidgen.metrics.separability",
        "ssim": "vidgen.metrics.image_quality",
    },
    "vidgen.metrics",
)
