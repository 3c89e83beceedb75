"""The official MoCoGAN code, github.com/sergeytulyakov/mocogan, as a reference.

Needs a checkout of that repository. It is written for Python 2 and torch 0.2: while it is imported, the four
expressions that have changed their meaning since are brought up to date (:data:`PORT`), and nothing else. One iteration
is what the loop of its ``Trainer.train`` does between two log lines, through the same methods. Its logger needs
TensorFlow 1, draws no part of an iteration, and is left out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from pairing import Reference as BaseReference
from pairing import commit_of
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.optim import Adam

from vidgen.errors import UserError
from vidgen.models.base import Batch, VideoModel
from vidgen.models.mocogan import LatentDraws, MoCoGAN

PORT = (
    (re.compile(r"^(\s*)print (.+)$", re.MULTILINE), r"\1print(\2)"),
    (re.compile(r"\.iteritems\(\)"), ".items()"),
    (re.compile(r"\.data\[0\]"), ".item()"),
    (re.compile(r"(\.size\(\d\)) / "), r"\1 // "),
)
"""Python 2 and torch 0.2 -> today, as (pattern, replacement)."""

KINDS = (_ConvNd, _BatchNorm, nn.GRUCell)


class Reference(BaseReference):
    """The official networks and trainer, at the sizes of a :class:`vidgen.models.mocogan.MoCoGAN`.

    Raises:
        UserError: there is no checkout, or the official code has no such configuration.
    """

    def __init__(self, path: Path, model: VideoModel) -> None:
        assert isinstance(model, MoCoGAN)
        self.model = model
        self.dtype = next(model.parameters()).dtype
        options = model.init_args
        _check_configuration(options)
        models, trainers = (import_official(path, name, self.dtype) for name in ("models", "trainers"))
        self.title = f"sergeytulyakov/mocogan {commit_of(path, 'src')}"
        networks = _build(models, options, self.model.num_classes)
        self.networks = {name: network.to(model.device).to(self.dtype) for name, network in networks.items()}
        self.state: dict[str, Tensor] = {}
        for name, network in self.networks.items():
            self.state |= corresponding(name, getattr(model, name), network)
        self.optimizers = {
            name: Adam(network.parameters(), lr=2e-4, betas=(0.5, 0.999), weight_decay=1e-5)
            for name, network in self.networks.items()
        }
        idle = SimpleNamespace(batch_size=0)  # real samples are handed over directly
        self.trainer = trainers.Trainer(
            idle, idle, 0, 0, "", use_infogan=self.model.use_infogan, use_categories=self.model.use_categories
        )

    def iteration(self, batches: list[Batch]) -> dict[str, Tensor]:
        """Both discriminators, then the generator."""
        trainer, networks, optimizers, batch = self.trainer, self.networks, self.optimizers, batches[0]
        generator = networks["generator"]
        trainer.image_batch_size, trainer.video_batch_size = len(batch["images"]), len(batch["video"])
        for network in networks.values():
            network.train()
        optimizers["generator"].zero_grad()
        optimizers["video_discriminator"].zero_grad()
        losses = {}
        losses["image_discriminator"] = trainer.train_discriminator(
            networks["image_discriminator"],
            lambda: {"images": batch["images"]},
            generator.sample_images,
            optimizers["image_discriminator"],
            trainer.image_batch_size,
            use_categories=False,
        )
        losses["video_discriminator"] = trainer.train_discriminator(
            networks["video_discriminator"],
            lambda: {"images": batch["video"], "categories": batch.get("label")},
            generator.sample_videos,
            optimizers["video_discriminator"],
            trainer.video_batch_size,
            use_categories=trainer.use_categories,
        )
        losses["generator"] = trainer.train_generator(
            networks["image_discriminator"],
            networks["video_discriminator"],
            generator.sample_images,
            generator.sample_videos,
            optimizers["generator"],
        )
        for loss in losses.values():
            loss.item()  # the official loop reads each loss in each iteration
        return losses

    @contextmanager
    def recorded(self) -> Iterator[list[tuple[LatentDraws, Tensor | None]]]:
        """Remember each sampling of images or videos as the model's draws, with the frames of images."""
        generator = self.networks["generator"]
        samplings: list[tuple[LatentDraws, Tensor | None]] = []
        seen: dict[str, list] = {}

        def remember(key: str, function: Any) -> Any:
            def draw(*args: Any, **kwargs: Any) -> Any:
                value = function(*args, **kwargs)
                seen.setdefault(key, []).append(value)
                return value

            return draw

        def sampled(function: Any) -> Any:
            def sample(*args: Any) -> Any:
                seen.clear()
                value = function(*args)
                samplings.append(self._as_draws(seen))
                return value

            return sample

        with (
            patch.object(np.random, "normal", remember("content", np.random.normal)),
            patch.object(np.random, "randint", remember("category", np.random.randint)),
            patch.object(np.random, "choice", remember("rows", np.random.choice)),
            patch.object(generator, "get_gru_initial_state", remember("initial", generator.get_gru_initial_state)),
            patch.object(generator, "get_iteration_noise", remember("motion", generator.get_iteration_noise)),
            patch.object(generator, "sample_images", sampled(generator.sample_images)),
            patch.object(generator, "sample_videos", sampled(generator.sample_videos)),
        ):
            yield samplings

    def _as_draws(self, seen: dict[str, list]) -> tuple[LatentDraws, Tensor | None]:
        device = self.model.device
        draws = LatentDraws(
            content=torch.from_numpy(seen["content"][0].astype(np.float32)).to(device, self.dtype),
            category=torch.from_numpy(seen["category"][0]).long().to(device) if "category" in seen else None,
            initial=seen["initial"][0],
            motion=torch.stack(seen["motion"]),
        )
        return chosen_frames(draws, seen["rows"][0]) if "rows" in seen else (draws, None)

    @contextmanager
    def replayed(self, draws: list[tuple[LatentDraws, Tensor | None]]) -> Iterator[None]:
        """Hand the remembered draws to the model, in the order in which the official code made them."""
        rest = iter(draws)
        with (
            patch.object(self.model, "draw_images", lambda *_: next(rest)),
            patch.object(self.model, "draw_videos", lambda *_: next(rest)[0]),
        ):
            yield


def chosen_frames(draws: LatentDraws, rows: np.ndarray) -> tuple[LatentDraws, Tensor]:
    """The videos that hold the chosen rows, and the number ``(N, 1)`` of the frame taken from each.

    Args:
        draws: of N videos of T frames.
        rows: numbers of frames, counted video by video; the official code takes them in rising order.
    """
    numbers = torch.from_numpy(np.sort(rows)).to(draws.content.device)
    video, frame = numbers // len(draws.motion), numbers % len(draws.motion)
    category = None if draws.category is None else draws.category[video]
    return LatentDraws(draws.content[video], category, draws.initial[video], draws.motion[:, video]), frame[:, None]


def corresponding(prefix: str, ours: nn.Module, official: nn.Module) -> dict[str, Tensor]:
    """The official tensors by the model's keys: layers of one kind follow each other in the same order in both."""
    found: dict[str, Tensor] = {}
    for kind in KINDS:
        named = [(name, module) for name, module in ours.named_modules() if isinstance(module, kind)]
        others = [module for module in official.modules() if isinstance(module, kind)]
        for (name, _), other in zip(named, others, strict=True):
            found |= {f"{prefix}.{name}.{key}": tensor for key, tensor in other.state_dict(keep_vars=True).items()}
    return found


def import_official(path: Path, name: str, dtype: torch.dtype) -> ModuleType:
    """One module of the checkout, brought up to date in memory; its random numbers are of the given type.

    Raises:
        UserError: the folder is no checkout of the official repository.
    """
    file = path / "src" / f"{name}.py"
    if not file.is_file():
        raise UserError(f"{path}: has no src/{name}.py; give a checkout of github.com/sergeytulyakov/mocogan")
    source = file.read_text(encoding="utf-8")
    for pattern, replacement in PORT:
        source = pattern.sub(replacement, source)
    module = ModuleType(f"official_mocogan_{name}")
    logger = ModuleType("logger")
    logger.Logger = None  # type: ignore[attr-defined]
    with patch.dict(sys.modules, {"logger": logger}):
        exec(compile(source, str(file), "exec"), module.__dict__)
    if dtype == torch.float64:
        module.T = SimpleNamespace(FloatTensor=module.T.DoubleTensor)  # type: ignore[attr-defined]
    return module


def _check_configuration(options: dict[str, Any]) -> None:
    fixed = {
        "resolution": 64,
        "category_input": "generator",
        "instance_noise": 0.0,
        "learning_rate": 2e-4,
        "generator_learning_rate": None,
        "image_discriminator_learning_rate": None,
        "video_discriminator_learning_rate": None,
        "beta1": 0.5,
        "beta2": 0.999,
        "weight_decay": 1e-5,
    }
    if options["dim_category"]:
        fixed["discriminator_width"] = 64
    for key, value in fixed.items():
        if options[key] != value:
            raise UserError(f"model.{key}: is {options[key]!r}, but the official code is compared at {value!r} only")


def _build(models: ModuleType, options: dict[str, Any], num_classes: int) -> dict[str, Any]:
    """The official networks by the name of the update that trains them, in the order of the updates."""
    channels, width = options["channels"], options["discriminator_width"]
    image_class = {"patch": models.PatchImageDiscriminator, "full": models.ImageDiscriminator}
    networks = {"image_discriminator": image_class[options["image_discriminator"]](channels, ndf=width)}
    if num_classes:
        networks["video_discriminator"] = models.CategoricalVideoDiscriminator(channels, num_classes)
    else:
        video_class = {"patch": models.PatchVideoDiscriminator, "full": models.VideoDiscriminator}
        networks["video_discriminator"] = video_class[options["video_discriminator"]](channels, ndf=width)
    networks["generator"] = models.VideoGenerator(
        channels,
        options["dim_content"],
        options["dim_category"],
        options["dim_motion"],
        options["num_frames"],
        ngf=options["generator_width"],
    )
    return networks
