"""LPIPS as a loss: how far apart two images are for a network that was trained to name what is in them.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
2018, arXiv:1801.03924, on VGG16 (Simonyan and Zisserman, arXiv:1409.1556). Trunk from timm, linear heads (version 0.1)
from torchmetrics, which ships them. For measuring there is :mod:`vidgen.metrics.lpips_trunk`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.layers.precision import at_least_float32
from vidgen.seeding import current_noise
from vidgen.weights import VGG16, fitted, load_state, locate

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of VGG16's five blocks."""
CONVOLUTIONS = (2, 2, 3, 3, 3)
"""Of each block; a 2x2 maximum lies between two blocks."""
MIN_SIDE = 16
"""Smallest height and width at which every block has a place left, pixels."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of red, green and blue before the network: ImageNet's statistics for values in [-1, 1]."""
EPSILON = 1e-10
"""Is added to the length by which a feature vector is divided."""
DROPOUT = 0.5
_HEAD = "lin{}.model.1.weight"
_OPTION = "model.perceptual_weights=FILE, or set model.perceptual_weight=0"


class PerceptualLoss(nn.Module):
    """LPIPS with a frozen VGG16, differentiable in its second argument.

    Its weights are buffers that no state dict holds: a checkpoint neither has nor needs them, and no optimiser sees
    them. Without weights it refuses to compute; see :func:`load_perceptual`.

    Args:
        widths: channels of the five blocks; others than VGG16's need heads of their own.
        dropout: in training, drop half of the squared differences before each head, as the official training of TATS
            does. The choice comes from the noise stream of the running update, see
            :func:`vidgen.seeding.current_noise`.
    """

    shift: Tensor
    scale: Tensor
    head0: Tensor | None

    def __init__(self, widths: Sequence[int] = WIDTHS, dropout: bool = False) -> None:
        super().__init__()
        if len(widths) != len(CONVOLUTIONS):
            raise ValueError(f"widths: one for each of {len(CONVOLUTIONS)} blocks, not {len(widths)}")
        self.widths = tuple(widths)
        self.dropout = dropout
        self.trunk, self.taps = _vgg(self.widths)
        for index in range(len(self.widths)):
            self.register_buffer(f"head{index}", None, persistent=False)
        for name, values in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distances of pairs of images; 0 for equal ones.

        TATS calls it on values in [-0.5, 0.5], for which the scaling of the network's input was not made, and so do we.

        Args:
            first: floating ``(N, 3, H, W)``, or ``(N, 1, H, W)`` for grey ones, which all three channels see; at least
                16x16 pixels. No gradient comes back to it.
            second: of the same shape; gradients go through the network to it.

        Returns:
            float32 or, with weights in float64, float64 ``(N,)``.

        Raises:
            ValueError: the shapes differ or are none of images.
            UserError: no weights were loaded.
        """
        if first.shape != second.shape:
            shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
            raise ValueError(f"perceptual loss: takes pairs of equal shapes, not {shapes}")
        with torch.no_grad():
            targets = [_unit_(maps) for maps in self.features(first)]
        distances = torch.zeros(len(second), dtype=torch.float32, device=second.device)
        for index, (target, maps) in enumerate(zip(targets, self.features(second), strict=True)):
            maps = at_least_float32(maps)  # of half precision under autocast
            unit = maps / (_lengths(maps) + EPSILON)
            squares = self._dropped((unit - target).square())  # (N, C, h, w)
            # The head is linear and has no bias, so that it may come after the mean over all places.
            distances = distances + (squares.mean((2, 3)) * at_least_float32(self._head(index)).flatten()).sum(1)
        return distances

    def features(self, images: Tensor) -> list[Tensor]:
        """VGG16's maps after relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3, which LPIPS compares.

        Args:
            images: as in :meth:`forward`.

        Returns:
            Five ``(N, C, h, w)``, each of half the height and width of the one before.
        """
        self._check(images)
        found = []
        x = ((at_least_float32(images) - self.shift) / self.scale).to(self._precision)
        for index, layer in enumerate(self.trunk):
            x = layer(x)
            if index in self.taps:
                found.append(x)
        return found

    def load_torchvision_layout(self, state: Mapping[str, Tensor], source: str | Path = "weights") -> None:
        """Take a trunk with torchvision's names, ``features.N.weight``, and the public heads.

        Args:
            state: name to tensor; classes are left out.
            source: of the weights, for messages.

        Raises:
            UserError: the weights are of another network.
        """
        trunk = {key: value for key, value in state.items() if not key.startswith("classifier.")}
        self._take({**trunk, **_public_heads()}, source)

    def load_official_layout(self, state: Mapping[str, Tensor], source: str | Path = "weights") -> None:
        """Take weights with the names of the official LPIPS.

        Args:
            state: name to tensor: ``net.slice1.0.weight`` …, ``lin0.model.1.weight`` … or else the public heads, and
                ``scaling_layer.shift`` and ``.scale``, which may be absent.
            source: of the weights, for messages.

        Raises:
            UserError: the weights are of another network.
        """
        heads = {} if _HEAD.format(0) in state else _public_heads()
        ours = {re.sub(r"^net\.slice\d\.", "features.", key): value for key, value in state.items()}
        self._take({**heads, **ours}, source)

    def _take(self, state: Mapping[str, Tensor], source: str | Path) -> None:
        places: dict[str, tuple[nn.Module, str, tuple[int, ...]]] = {}
        for index, layer in enumerate(self.trunk):
            if isinstance(layer, nn.Conv2d):
                shape = (layer.out_channels, layer.in_channels, *layer.kernel_size)
                places[f"features.{index}.weight"] = (layer, "weight", shape)
                places[f"features.{index}.bias"] = (layer, "bias", shape[:1])
        for index, width in enumerate(self.widths):
            places[_HEAD.format(index)] = (self, f"head{index}", (1, width, 1, 1))
        for name in ("shift", "scale"):
            if f"scaling_layer.{name}" in state:
                places[f"scaling_layer.{name}"] = (self, name, (1, 3, 1, 1))
        wanted = {name: torch.empty(shape, device="meta") for name, (_, _, shape) in places.items()}
        given = fitted(state, wanted, "LPIPS", source)
        device = self.shift.device
        for name, (module, leaf, _) in places.items():
            setattr(module, leaf, given[name].to(device))

    @property
    def _precision(self) -> torch.dtype:
        return self._head(0).dtype

    def _head(self, index: int) -> Tensor:
        return getattr(self, f"head{index}")

    def _check(self, images: Tensor) -> None:
        if self.head0 is None:
            raise UserError("perceptual loss: has no weights; load them with vidgen.losses.perceptual.load_perceptual")
        if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
            kind = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"perceptual loss: takes floating images (N, 3, H, W) or (N, 1, H, W), not {kind}")
        if min(images.shape[2:]) < MIN_SIDE:
            size = f"{images.shape[2]}x{images.shape[3]}"
            raise ValueError(f"perceptual loss: needs images of at least {MIN_SIDE}x{MIN_SIDE} pixels, not {size}")

    def _dropped(self, squares: Tensor) -> Tensor:
        if not (self.dropout and self.training):
            return squares
        return squares * self._kept(squares)

    @torch.compiler.disable
    def _kept(self, squares: Tensor) -> Tensor:
        """1 / (1 - DROPOUT) where a difference stays, else 0."""
        stream = current_noise()
        draw = torch.rand_like(squares) if stream is None else stream.uniform(*squares.shape).to(squares)
        return (draw >= DROPOUT).to(squares.dtype) / (1 - DROPOUT)


def load_perceptual(weights: str | Path = "auto", dropout: bool = False) -> PerceptualLoss:
    """LPIPS with its weights, on the CPU.

    Args:
        weights: ``auto`` for torchvision's VGG16 from the cache or by download, see :func:`vidgen.weights.locate`, or
            the path of a file: with torchvision's names, or with those of the official LPIPS, whose heads are taken if
            it has any. With heads of its own a network may be of any widths.
        dropout: see :class:`PerceptualLoss`.

    Raises:
        UserError: weights that are ``random``, for a loss needs those that LPIPS was made for; or a file that cannot be
            used. The message says which one is needed, and that the loss can be left out.
    """
    if str(weights) == "random":
        raise UserError(
            f"model.perceptual_weights random: the perceptual loss needs trained weights, those of {VGG16.name} "
            f"({VGG16.url}); take auto, name them with {_OPTION}"
        )
    if str(weights) != "auto" and not Path(weights).expanduser().exists():
        raise UserError(
            f"{weights}: no such weight file; {VGG16.name} ({VGG16.url}) is needed: take "
            f"model.perceptual_weights=auto, name it with {_OPTION}"
        )
    path = locate(VGG16, weights, option=_OPTION)
    state = load_state(path)
    heads = [state.get(_HEAD.format(index)) for index in range(len(WIDTHS))]
    if any(head is None or head.ndim != 4 for head in heads):
        loss = PerceptualLoss(dropout=dropout)
    else:
        loss = PerceptualLoss([head.shape[1] for head in heads if head is not None], dropout)
    official = any(key.startswith(("net.slice", "lin", "scaling_layer.")) for key in state)
    (loss.load_official_layout if official else loss.load_torchvision_layout)(state, path)
    return loss


def _vgg(widths: Sequence[int]) -> tuple[nn.Sequential, tuple[int, ...]]:
    """timm's VGG16 up to relu5_3 with buffers, which are empty, for parameters; and the places of the five maps."""
    from timm.models.vgg import VGG

    plan: list[int | str] = []
    taps: list[int] = []
    for width, number in zip(widths, CONVOLUTIONS, strict=True):
        plan += [width] * number + ["M"]
        taps.append(2 * sum(isinstance(entry, int) for entry in plan) + len(taps) - 1)
    with torch.device("meta"):  # of no size, and drawn from no generator
        layers = VGG(plan, num_classes=0).features[: taps[-1] + 1]
    for layer in layers:
        for name, _ in list(layer.named_parameters()):
            delattr(layer, name)
            layer.register_buffer(name, None, persistent=False)
    return layers, tuple(taps)


def _public_heads() -> dict[str, Tensor]:
    """The five linear heads of version 0.1 under their official names, from torchmetrics."""
    package = find_spec("torchmetrics")
    assert package is not None and package.submodule_search_locations
    folder = Path(package.submodule_search_locations[0])
    return load_state(folder / "functional" / "image" / "lpips_models" / "vgg.pth")


def _unit_(maps: Tensor) -> Tensor:
    """Features of unit length, in the place of the given ones unless those are of half precision."""
    maps = at_least_float32(maps)
    return maps.div_(_lengths(maps) + EPSILON)


def _lengths(maps: Tensor) -> Tensor:
    """Of the feature vectors, ``(N, 1, h, w)``; with the gradient 0, and not NaN, where all features are 0."""
    squares = maps.square().sum(1, keepdim=True)  # vector_norm takes ten times as long over an inner axis on a CPU
    return squares.clamp_min(torch.finfo(squares.dtype).tiny).sqrt()
