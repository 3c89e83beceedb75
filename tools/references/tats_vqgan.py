"""The official VQGAN of TATS as a reference; see ``tats.py`` beside this.

One iteration is what Lightning 1.5 does with a batch and two optimisers: for each of them ``training_step`` with the
parameters of the other one frozen, the backward pass, clipping and the step. The second call runs everything again,
with the updated autoencoder and other random frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from pairing import Reference as BaseReference
from references.tats import Official, clip, corresponding
from torch import Tensor, nn

from vidgen.interop.tats_names import VQGAN_PARTS
from vidgen.losses.perceptual import DROPOUT, PerceptualLoss
from vidgen.models.base import Batch, VideoModel
from vidgen.models.tats.vqgan import TATSVQGAN

UPDATES = ("autoencoder", "discriminator")
"""The model's names of the official optimisers."""


class Drawn:
    """What the original draws for one update; hands it out as a stream of noise."""

    def __init__(self) -> None:
        self.normals: list[Tensor] = []
        self.permutations: list[Tensor] = []
        self.frames: list[Tensor] = []
        self.kept: list[Tensor] = []

    def shared(self) -> Drawn:
        """The same on all processes, of which there is one."""
        return self

    def normal(self, *shape: int) -> Tensor:
        """For copies of latents."""
        assert self.normals[0].shape == shape
        return self.normals.pop(0)

    def permutation(self, size: int) -> Tensor:
        """Of latents."""
        assert len(self.permutations[0]) == size
        return self.permutations.pop(0)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Numbers of frames."""
        assert self.frames[0].shape == shape
        return self.frames[0]


class Reference(BaseReference):
    """The official networks, losses and optimisers, at the sizes of a :class:`vidgen.models.tats.vqgan.TATSVQGAN`.

    LPIPS of both has the same random weights; it drops features if the model is told to. With the model's
    ``shared_forward`` the two do not compute the same: what is compared is the autoencoder's first update.

    Raises:
        UserError: there is no checkout, or the official code has no such configuration.
    """

    def __init__(self, path: Path, model: VideoModel) -> None:
        assert isinstance(model, TATSVQGAN)
        self.model = model
        options = model.init_args
        official = Official(path)
        self.title = official.title
        self.network = official.vqgan(options).to(next(model.parameters())).train()
        self.network.perceptual_model.train(model.perceptual_dropout)
        if model.perceptual_weight:
            model.perceptual = PerceptualLoss(dropout=model.perceptual_dropout)
            model.perceptual.load_official_layout(self.network.perceptual_model.state_dict())
        networks = (self.network, self.network.image_discriminator, self.network.video_discriminator)
        self.initialised = torch.tensor(False, device=model.device)
        self.state: dict[str, Any] = {"autoencoder.codebook.initialised": self.initialised}
        for part, network in zip(VQGAN_PARTS, networks, strict=True):
            self.state |= corresponding(network, model.get_submodule(part.ours), part)
        # An encoder that repeats edges carries a constant to its last norm, past those of its blocks.
        silent = [key for key in self.state if key.startswith("autoencoder.encoder.") and key.endswith("bias")]
        silent = [key for key in silent if ".norm" not in key]
        silent += [key for key in self.state if key.endswith(".conv1.bias")]
        norms = [key for key in self.state if "_discriminator." in key and key.endswith(".norm.bias")]
        silent += [key.replace(".norm.", ".convolution.") for key in norms]
        self.without_effect = {*silent, "autoencoder.unproject.bias"}
        found, _ = self.network.configure_optimizers()
        self.optimizers = dict(zip(UPDATES, found, strict=True))
        self._drawn: dict[str, Drawn] = {}
        if model.shared_forward:
            self.title += ", which runs the autoencoder twice and vidgen once: no equal computation"
            self.compared_iterations = 1
            self._compared = {"autoencoder"} | {
                f"autoencoder.{name}" for name, _ in model.autoencoder.named_parameters()
            }

    def compares(self, name: str) -> bool:
        """All, or with ``shared_forward`` the autoencoder's update."""
        return not self.model.shared_forward or name in self._compared

    def iteration(self, batches: list[Batch]) -> dict[str, Tensor]:
        """The autoencoder, then the discriminators."""
        network = self.network
        clips = batches[0]["video"].to(network.codebook.embeddings) / 2
        network.codebook._need_init = not bool(self.initialised)
        losses = {}
        for number, (name, optimizer) in enumerate(self.optimizers.items()):
            self.running = name
            with self._toggled(name):
                loss = network.training_step({"video": clips}, network.global_step, number)
                optimizer.zero_grad()
                # before discriminator_iter_start their loss is 0 times something: Lightning goes backward all the same
                loss.backward()
                clip(optimizer, self.model.gradient_clip_val)
                optimizer.step()
            losses[name] = loss
        self.initialised.fill_(True)
        network.global_step += 1
        return losses

    @contextmanager
    def _toggled(self, name: str) -> Iterator[None]:
        """Freeze what the other optimiser owns."""
        others = [optimizer for other, optimizer in self.optimizers.items() if other != name]
        frozen = [p for optimizer in others for group in optimizer.param_groups for p in group["params"]]
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
        for parameter in frozen:
            parameter.requires_grad_(True)

    @contextmanager
    def recorded(self) -> Iterator[dict[str, Drawn]]:
        """Remember what is drawn, by update."""
        drawn = {name: Drawn() for name in UPDATES}

        def remember(what: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
            def draw(*arguments: Any, **options: Any) -> Tensor:
                value = function(*arguments, **options)
                getattr(drawn[self.running], what).append(value)
                return value

            return draw

        def look(layer: nn.Module, given: tuple[Tensor], found: Tensor) -> None:
            if layer.training:  # where 0 is given, it does not matter whether it was kept
                drawn[self.running].kept.append((found.detach() != 0) / (1 - DROPOUT))

        with ExitStack() as stack:
            for function, what in (("randn_like", "normals"), ("randperm", "permutations"), ("randint", "frames")):
                stack.enter_context(patch.object(torch, function, remember(what, getattr(torch, function))))
            for layer in self.network.perceptual_model.modules():
                if isinstance(layer, nn.Dropout):
                    stack.callback(layer.register_forward_hook(look).remove)
            yield drawn

    @contextmanager
    def replayed(self, draws: dict[str, Drawn]) -> Iterator[None]:
        """Hand the remembered draws to the model."""
        own = self.model.noise

        def noise(stream: str) -> Any:
            update, _, what = stream.partition("/")
            return draws[update] if what in ("codebook", "frames") else own(stream)

        with ExitStack() as stack:
            stack.enter_context(patch.object(self.model, "noise", noise))
            if self.model.perceptual is not None and self.model.perceptual_dropout:
                given = iter(draws["autoencoder"].kept)
                stack.enter_context(patch.object(self.model.perceptual, "_kept", lambda squares: next(given)))
            yield
