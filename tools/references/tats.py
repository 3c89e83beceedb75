"""The official TATS code, github.com/songweige/TATS, as a reference: the transformer; ``tats_vqgan.py`` has the VQGAN.

Needs a checkout of that repository. It is written for a GPU and Lightning 1.5: while it is imported, the one
expression that moves numbers to a GPU is given the device of the video (:data:`PORT`), and packages that only downloads
and drawings need are left out. LPIPS, which would download its weights, gets random ones. One iteration is what
Lightning 1.5 does with a batch, through the official ``training_step`` and ``configure_optimizers``; nothing is logged.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from pairing import Reference as BaseReference
from pairing import commit_of
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.interop.tats_names import AUTOENCODER_PART, TRANSFORMER_PART, Part, official_names
from vidgen.losses.perceptual import CONVOLUTIONS, WIDTHS
from vidgen.models.base import Batch, VideoModel
from vidgen.models.tats.transformer import TATS

PORT = (
    (re.compile(r"torch\.randint\(0, T, \[B\]\)\.cuda\(\)"), "torch.randint(0, T, [B]).to(x.device)"),
    (re.compile(r'name is not "vgg_lpips"'), 'name != "vgg_lpips"'),
)
"""Bound to a GPU, or a warning of today's Python -> neither, as (pattern, replacement)."""

PACKAGE = "official_tats"
MODULES = (
    "utils",
    "modules.lpips",
    "modules.codebook",
    "modules",
    "modules.gpt",
    "modules.encoders",
    "tats_vqgan",
    "tats_transformer",
)
"""What is imported, in this order."""
LEFT_OUT = ("imageio", "skvideo", "skvideo.io", "requests", "tqdm", "torchvision")


class Official:
    """The official modules, brought up to date in memory.

    Args:
        path: the checkout.

    Raises:
        UserError: the folder is no checkout of the official repository.
    """

    def __init__(self, path: Path) -> None:
        self.title = f"songweige/TATS {commit_of(path, 'tats')}"
        self._modules: dict[str, ModuleType] = {PACKAGE: _package(PACKAGE)}
        with self._imported():
            for name in MODULES:
                self._load(path, name)
        self.gpt: Any = self._modules[f"{PACKAGE}.modules.gpt"]
        self._vqgan: Any = self._modules[f"{PACKAGE}.tats_vqgan"]
        self._transformer: Any = self._modules[f"{PACKAGE}.tats_transformer"]
        lpips: Any = self._modules[f"{PACKAGE}.modules.lpips"]
        lpips.models = SimpleNamespace(vgg16=lambda pretrained: SimpleNamespace(features=random_vgg()))
        lpips.LPIPS.load_from_pretrained = lambda network: None

    def sample_uncached(self, gpt: nn.Module, prefix: Tensor, steps: int) -> Tensor:
        """Tokens ``(B, steps)`` of the loop that reads everything again for each of them."""
        owner = SimpleNamespace(transformer=gpt, pkeep=1.0)
        return self._transformer.Net2NetTransformer.sample(owner, prefix[:, :0], prefix, steps, sample=True)

    def vqgan(self, options: Mapping[str, Any]) -> Any:
        """An autoencoder with its discriminators and a random LPIPS.

        Args:
            options: arguments of a :class:`vidgen.models.tats.vqgan.TATSVQGAN`, all of them.

        Raises:
            UserError: the official code has no such configuration.
        """
        fixed = {"norm": "batch", "padding": "replicate", "padding_scope": "encoder", "beta1": 0.5, "beta2": 0.9}
        check_configuration(options, fixed)
        names = ("n_hiddens", "embedding_dim", "n_codes", "gan_feat_weight", "disc_channels", "disc_layers")
        weights = ("image_gan_weight", "video_gan_weight", "perceptual_weight", "l1_weight", "resolution")
        arguments = argparse.Namespace(
            **{name: options[name] for name in (*names, *weights)},
            downsample=tuple(options["downsample"]),
            image_channels=options["channels"],
            norm_type="batch",
            padding_type="replicate",
            no_random_restart=not options["random_restart"],
            restart_thres=options["restart_threshold"],
            disc_loss_type=options["disc_loss"],
            discriminator_iter_start=options["disc_start"],
            lr=options["learning_rate"],
            sequence_length=options["num_frames"],
            sample_every_n_frames=1,
        )
        with self._imported():
            return _without_trainer(self._vqgan.VQGAN)(arguments)

    def transformer(self, model: TATS) -> Any:
        """A transformer and its first stage."""
        stage = self.vqgan(model.init_args["first_stage"]["model_args"])
        gpt, options = model.transformer, model.init_args
        arguments = argparse.Namespace(
            class_cond_dim=options["dim_category"] or None,
            unconditional=options["condition"] == "none",
            vtokens=False,
            vtokens_pos=False,
            sample_every_n_latent_frames=model.latent_stride if model.latent_stride > 1 else 0,
            block_size=gpt.block,
            n_layer=options["n_layer"],
            n_head=options["n_head"],
            n_embd=options["n_embd"],
            n_unmasked=0,
            vqvae=stage,
        )
        download: Any = ModuleType(f"{PACKAGE}.download")
        download.load_vqgan = lambda given: given
        with self._imported(download), patch("builtins.print"):
            network = _without_trainer(self._transformer.Net2NetTransformer)(arguments)
        network.learning_rate = options["learning_rate"]
        return network

    def _load(self, path: Path, name: str) -> None:
        file = path / "tats" / Path(*name.split("."))
        file = file / "__init__.py" if name == "modules" else file.with_suffix(".py")
        if not file.is_file():
            raise UserError(f"{path}: has no {file.relative_to(path)}; give a checkout of github.com/songweige/TATS")
        source = file.read_text(encoding="utf-8")
        for pattern, replacement in PORT:
            source = pattern.sub(replacement, source)
        module = self._modules.get(f"{PACKAGE}.{name}") or ModuleType(f"{PACKAGE}.{name}")
        module.__package__ = module.__name__ if name == "modules" else module.__name__.rpartition(".")[0]
        self._modules[module.__name__] = sys.modules[module.__name__] = module
        if name == "modules.lpips":  # its package comes after what it is made of
            parent = self._modules.setdefault(f"{PACKAGE}.modules", _package(f"{PACKAGE}.modules"))
            sys.modules[parent.__name__] = parent
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            exec(compile(source, str(file), "exec"), module.__dict__)

    @contextmanager
    def _imported(self, *more: ModuleType) -> Iterator[None]:
        """While open, the official modules find each other, and nothing instead of packages that they do not need."""
        empty: dict[str, Any] = {name: ModuleType(name) for name in LEFT_OUT}
        empty["skvideo"].io = empty["skvideo.io"]
        empty["torchvision"].models = None
        empty["tqdm"].tqdm = None
        with patch.dict(sys.modules, {**empty, **self._modules, **{module.__name__: module for module in more}}):
            yield


def _package(name: str) -> ModuleType:
    module = ModuleType(name)
    module.__path__ = []
    return module


def _without_trainer(cls: type) -> type:
    """A Lightning module of version 1.5 without its trainer: counts its batches itself and logs nothing."""

    class Alone(cls):  # type: ignore[misc]
        global_step = 0

        def log(self, *_: Any, **__: Any) -> None:
            """Nothing."""

        def save_hyperparameters(self, *_: Any, **__: Any) -> None:
            """Nothing."""

    return Alone


def random_vgg() -> nn.Sequential:
    """VGG16's convolutions up to its last map, with random weights that keep the size of their input."""
    layers: list[nn.Module] = []
    channels = 3
    for width, number in zip(WIDTHS, CONVOLUTIONS, strict=True):
        for _ in range(number):
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            layers += [convolution, nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def check_configuration(options: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Check that the official code can be configured like a model.

    Raises:
        UserError: it cannot.
    """
    for key, value in fixed.items():
        if options[key] != value:
            raise UserError(f"model.{key}: is {options[key]!r}, but the official code is compared at {value!r} only")


def corresponding(network: nn.Module, ours: nn.Module, part: Part) -> dict[str, Any]:
    """The official tensors of a network by the model's keys.

    Args:
        network: the official one.
        ours: the same of the model.
        part: which it is.
    """
    tensors = network.state_dict(keep_vars=True)
    found: dict[str, Any] = {}
    for name in ours.state_dict():
        if name != "codebook.initialised":
            theirs = [tensors[official] for official in official_names(name, part)]
            found[f"{part.ours}.{name}"] = theirs if len(theirs) > 1 else theirs[0]
    return found


class Reference(BaseReference):
    """The official transformer with its first stage, at the sizes of a :class:`vidgen.models.tats.transformer.TATS`.

    Raises:
        UserError: there is no checkout, or the official code has no such configuration.
    """

    def __init__(self, path: Path, model: VideoModel) -> None:
        assert isinstance(model, TATS)
        self.model = model
        options = model.init_args
        fixed = {"reads": "video", "position_table": None, "keep_probability": 1.0}
        check_configuration(options, {**fixed, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.01})
        if options["condition"] not in ("none", "label"):
            found = options["condition"]
            raise UserError(
                f"model.condition: is {found!r}, but the official code is compared with none or a label only"
            )
        official = Official(path)
        self.title = official.title
        self.network = official.transformer(model).to(next(model.transformer.parameters()))
        self.network.transformer.train()
        first = AUTOENCODER_PART._replace(ours="first_stage")
        self.state = corresponding(self.network.first_stage_model, model.first_stage, first)
        self.state["first_stage.codebook.initialised"] = torch.tensor(False, device=model.device)
        self.state |= corresponding(self.network.transformer, model.transformer, TRANSFORMER_PART)
        # of the key's bias, which adds the same to all that a token looks at
        self.without_effect = [f"transformer.blocks.{number}.qkv.bias[1]" for number in range(options["n_layer"])]
        self.optimizers = {"model": self.network.configure_optimizers()}

    def iteration(self, batches: list[Batch]) -> dict[str, Tensor]:
        """One batch."""
        network, optimizer = self.network, self.optimizers["model"]
        clips = batches[0]["video"].to(network.transformer.pos_emb) / 2
        loss = network.training_step({"video": clips, "label": batches[0].get("label")}, network.global_step)
        optimizer.zero_grad()
        loss.backward()
        clip(optimizer, self.model.trainer.gradient_clip_val)
        optimizer.step()
        network.global_step += 1
        return {"cross_entropy": loss}

    def recorded(self) -> AbstractContextManager[None]:
        """There is nothing to draw."""
        return nullcontext()

    def replayed(self, draws: None) -> AbstractContextManager[None]:
        """There is nothing to hand over."""
        return nullcontext()


def clip(optimizer: torch.optim.Optimizer, norm: float | None) -> None:
    """Make the gradient of an optimiser's parameters at most so long, as Lightning does."""
    if norm:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        nn.utils.clip_grad_norm_(parameters, norm)
