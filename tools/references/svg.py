"""The official SVG code, github.com/edenton/svg, as a reference.

Needs a checkout of that repository. It is written for a GPU and torch 0.3: while its networks are imported, the
expression that makes initial states is given their device and type (:data:`PORT`), and nothing else. One iteration is
the function ``train`` of its script ``train_svg_lp.py`` (or ``train_svg_fp.py``), taken out of that script, which
cannot be imported without starting to train.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from pairing import Reference as BaseReference
from pairing import commit_of
from torch import Tensor, nn
from torch.optim import Adam

from vidgen.errors import UserError
from vidgen.interop.svg import NETWORKS, translate
from vidgen.models.base import Batch, VideoModel
from vidgen.models.frames import to_unit
from vidgen.models.svg import SVG

PORT = (
    (
        re.compile(r"torch\.zeros\(self\.batch_size, self\.hidden_size\)\.cuda\(\)"),
        "self.embed.weight.new_zeros(self.batch_size, self.hidden_size)",
    ),
)
"""Bound to a GPU -> bound to the weights, as (pattern, replacement)."""


class Given:
    """Hands out what the original has drawn, as a stream of noise."""

    def __init__(self, draws: Tensor) -> None:
        self.draws = draws

    def normal(self, *shape: int) -> Tensor:
        """The draws, of the given shape."""
        assert self.draws.shape == shape
        return self.draws


class Reference(BaseReference):
    """The official networks, optimisers and training step, at the sizes of a :class:`vidgen.models.svg.SVG`.

    Raises:
        UserError: there is no checkout, or the official code has no such configuration.
    """

    def __init__(self, path: Path, model: VideoModel) -> None:
        assert isinstance(model, SVG)
        self.model = model
        options = model.init_args
        _check_configuration(options)
        self.title = f"edenton/svg {commit_of(path, 'models')}"
        networks = _build(path, options)
        like = next(model.parameters())
        self.networks = {name: network.to(like).train() for name, network in networks.items()}
        self.state: dict[str, Tensor] = {}
        for name, network in self.networks.items():
            ours = translate(name, network.state_dict(keep_vars=True))
            self.state |= {f"{NETWORKS[name]}.{key}": tensor for key, tensor in ours.items()}
        self.optimizers = {
            name: Adam(network.parameters(), lr=options["learning_rate"], betas=(options["beta1"], 0.999))
            for name, network in self.networks.items()
        }
        self.without_effect = {key for key in self.state if key.endswith(".convolution.bias")}
        self.settings = SimpleNamespace(
            n_past=options["n_past"],
            n_future=options["num_frames"] - options["n_past"],
            beta=options["beta"],
            last_frame_skip=options["skip_frame"] == "previous",
        )
        script = "train_svg_lp.py" if options["prior"] == "learned" else "train_svg_fp.py"
        self.train = _training_step(path / script, self.networks, self.optimizers, self.settings)
        self._drawn: list[Tensor] | None = None
        self.networks["posterior"].register_forward_hook(self._remember)

    def iteration(self, batches: list[Batch]) -> dict[str, Tensor]:
        """One call of the official ``train``."""
        frames = to_unit(batches[0]["video"])
        self.settings.batch_size, length = frames.shape[:2]
        for name in self.networks.keys() - {"encoder", "decoder"}:
            self.networks[name].batch_size = len(frames)
        squared_error, kl = self.train([frame.contiguous() for frame in frames.unbind(1)])
        terms = {"squared_error": squared_error * length, "kl": self.model.beta * kl * length}
        return {name: torch.as_tensor(value) for name, value in terms.items()}

    def _remember(self, _: nn.Module, __: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        """What the posterior has drawn, found out from its sample."""
        if self._drawn is not None:
            z, mean, log_variance = (part.detach() for part in output)
            self._drawn.append((z - mean) / (log_variance / 2).exp())

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Remember the draws of the posterior, one tensor for each step."""
        self._drawn = []
        try:
            yield self._drawn
        finally:
            self._drawn = None

    @contextmanager
    def replayed(self, draws: list[Tensor]) -> Iterator[None]:
        """Hand the remembered draws to the model."""
        given = Given(torch.stack(draws, 1))
        with patch.object(self.model, "noise", lambda _: given):
            yield


def _check_configuration(options: dict[str, Any]) -> None:
    fixed = {"widths": (64, 128, 256, 512), "statistics": "frame", "beta2": 0.999}
    for key, value in fixed.items():
        found = tuple(options[key]) if key == "widths" else options[key]
        if found != value:
            raise UserError(f"model.{key}: is {found!r}, but the official code is compared at {value!r} only")
    choices = {"resolution": (64, 128), "prior": ("learned", "fixed"), "skip_frame": ("last_but_one", "previous")}
    for key, values in choices.items():
        if options[key] not in values:
            raise UserError(f"model.{key}: is {options[key]!r}, the official code has {' or '.join(map(str, values))}")


def _build(path: Path, options: dict[str, Any]) -> dict[str, nn.Module]:
    """The official networks by the names in the official checkpoints."""
    recurrent = _imported(path, "models/lstm.py")
    backbone = _imported(path, f"models/{options['backbone']}_{options['resolution']}.py")
    g, z, size = options["g_dim"], options["z_dim"], options["rnn_size"]
    networks = {
        "encoder": backbone.encoder(g, options["channels"]),
        "decoder": backbone.decoder(g, options["channels"]),
        "frame_predictor": recurrent.lstm(g + z, g, size, options["predictor_layers"], 1),
        "posterior": recurrent.gaussian_lstm(g, z, size, options["posterior_layers"], 1),
    }
    if options["prior"] == "learned":
        networks["prior"] = recurrent.gaussian_lstm(g, z, size, options["prior_layers"], 1)
    return networks


def _source(path: Path, name: str) -> str:
    file = path / name
    if not file.is_file():
        raise UserError(f"{path}: has no {name}; give a checkout of github.com/edenton/svg")
    return file.read_text(encoding="utf-8")


def _imported(path: Path, name: str) -> ModuleType:
    source = _source(path, name)
    for pattern, replacement in PORT:
        source = pattern.sub(replacement, source)
    module = ModuleType(f"official_svg_{Path(name).stem}")
    exec(compile(source, str(path / name), "exec"), module.__dict__)
    return module


def _training_step(script: Path, networks: dict[str, nn.Module], optimizers: Any, settings: SimpleNamespace) -> Any:
    """The functions ``train`` and ``kl_criterion`` of an official script, among what its other lines would set up."""
    tree = ast.parse(_source(script.parent, script.name))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    wanted: list[ast.stmt] = [node for node in functions if node.name in ("train", "kl_criterion")]
    names: dict[str, Any] = {"torch": torch, "opt": settings, "mse_criterion": nn.MSELoss(), **networks}
    names |= {f"{name}_optimizer": optimizer for name, optimizer in optimizers.items()}
    exec(compile(ast.Module(wanted, []), str(script), "exec"), names)
    return names["train"]
