"""What the official SVG code saves: whole modules, made from a model of ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.interop.legacy_file import Call, Global, Instance, Plain, module
from vidgen.models.svg import SVG

States = dict[str, dict[str, Tensor]]


def official_states(model: SVG) -> States:
    """Its networks as the official code names them."""
    last = model.resolution.bit_length() - 2  # of the levels, counted from 1; the encoder's is its head
    states: States = {"encoder": {}, "decoder": {}}
    put_blocks(states["encoder"], model, "c", 1, model.encoder.levels)
    put_block(states["encoder"], f"c{last}", model.encoder.head)
    put_block(states["decoder"], "upc1", model.decoder.head)
    put_blocks(states["decoder"], model, "upc", 2, model.decoder.levels)
    put(states["decoder"], f"upc{last}.{int(is_vgg(model))}", model.decoder.output)
    states["frame_predictor"] = recurrent_state(model.predictor, {"output.0": "output"})
    for network in ("posterior", "prior"):
        if getattr(model, network) is not None:
            heads = {"mu_net": "mean", "logvar_net": "log_variance"}
            states[network] = recurrent_state(getattr(model, network), heads)
    return states


def is_vgg(model: SVG) -> bool:
    return model.init_args["backbone"] == "vgg"


def put_blocks(state: dict[str, Tensor], model: SVG, letters: str, first: int, levels: nn.ModuleList) -> None:
    for index, level in enumerate(levels, first):
        for place, block in enumerate(level):  # type: ignore[arg-type]
            put_block(state, f"{letters}{index}.{place}.main" if is_vgg(model) else f"{letters}{index}.main", block)


def put_block(state: dict[str, Tensor], path: str, block: Any) -> None:
    put(state, f"{path}.0", block.convolution)
    put(state, f"{path}.1", block.norm)


def recurrent_state(network: Any, heads: dict[str, str]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    put(state, "embed", network.embed)
    for key, value in network.recurrent.state_dict().items():
        entry, _, layer = key.rpartition("_l")
        state[f"lstm.{layer}.{entry}"] = value
    for theirs, ours in heads.items():
        put(state, theirs, getattr(network, ours))
    return state


def put(state: dict[str, Tensor], path: str, layer: nn.Module) -> None:
    state |= {f"{path}.{key}": value for key, value in layer.state_dict().items()}


def uncounted(states: States) -> States:
    """Without the counts of batches, which PyTorch 0.3 did not keep."""
    return {
        network: {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        for network, state in states.items()
    }


def tree(package: str, state: dict[str, Tensor], name: str) -> Instance:
    """A layer of an official SVG network with a given state dict.

    Args:
        package: where the classes of the network's larger layers are.
        state: the state dict.
        name: what it is called in the module around it.
    """
    children: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        child, inside, rest = key.partition(".")
        if inside:
            children.setdefault(child, {})[rest] = value
    own = {key: value for key, value in state.items() if "." not in key}
    layers = {child: tree(package, entries, child) for child, entries in children.items()}
    if not layers:
        path = layer_class(own)
    elif "main" in layers:
        path = f"{package}.{'vgg_layer' if 'vgg' in package else 'dcgan_conv'}"
    elif name == "lstm":
        path = "torch.nn.modules.container.ModuleList"
    else:
        path = "torch.nn.modules.container.Sequential"
        layers.setdefault("2", module("torch.nn.modules.activation.LeakyReLU", {}, {}, negative_slope=0.2))
    buffers = {key: own.pop(key) for key in list(own) if key.startswith(("running", "num_batches"))}
    return module(path, own, buffers, children=layers)


def layer_class(entries: dict[str, Tensor]) -> str:
    """The class of ``torch.nn`` that has these entries."""
    if "weight_ih" in entries:
        return "torch.nn.modules.rnn.LSTMCell"
    if "running_mean" in entries:
        return "torch.nn.modules.batchnorm.BatchNorm2d"
    dimensions = entries["weight"].dim() if "weight" in entries else 2
    return "torch.nn.modules.conv.Conv2d" if dimensions == 4 else "torch.nn.modules.linear.Linear"


def official_svg(states: States, opt: dict[str, Any], backbone: str = "dcgan_64") -> dict[str, Any]:
    """The content of a file: whole modules with these state dicts, and arguments of the command line."""
    classes = {
        "encoder": Global(f"models.{backbone}", "encoder"),
        "decoder": Global(f"models.{backbone}", "decoder"),
        "frame_predictor": Global("models.lstm", "lstm"),
        "posterior": Global("models.lstm", "gaussian_lstm"),
        "prior": Global("models.lstm", "gaussian_lstm"),
    }
    content: dict[str, Any] = {}
    for network, state in states.items():
        content[network] = tree(classes[network].module, state, network)
        content[network].cls = classes[network]
        if classes[network].module == "models.lstm":  # the states of the last sequence
            left = Call(Global("torch.autograd.variable", "Variable"), (torch.ones(2, 4),), (True, False, None))
            content[network].state |= {"batch_size": 2, "hidden": [(left, left)], "n_layers": 1}
    optimizer = Global("torch.optim.adam", "Adam")
    return {**content, "opt": Plain(Global("argparse", "Namespace"), {"optimizer": optimizer, **opt})}
