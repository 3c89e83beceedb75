"""TATS computes what the official code computes, from its weights and its random draws."""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import vidgen
from tests.parity.fixtures import Reference, folder
from tests.parity.suite import ReferenceSuite
from tests.parity.tats_autoencoder import (
    check_autoencoder,
    check_codebook,
    check_discriminators,
    check_losses,
    check_padding,
    check_train_steps,
    state_of,
)
from tests.parity.tats_reference import TOLERANCE, TATSReference, inside
from tests.parity.tats_transformer import (
    check_gpt,
    check_interpolation,
    check_long_video,
    check_net2net,
    check_sampling,
)
from vidgen.interop import convert
from vidgen.interop.tats import split_vqgan, transformer_sizes, vqgan_sizes
from vidgen.interop.tats_arguments import vqgan_settings
from vidgen.interop.tats_names import (
    TRANSFORMER_PART,
    VQGAN_PARTS,
    Part,
    official_entries,
    official_names,
)
from vidgen.models.tats.gpt import GPT
from vidgen.models.tats.vqgan import TATSVQGAN

# Checkpoints --------------------------------------------------------------------------------------------------------


def converted(place: Path, name: str, content: Tensor, **options: Any) -> Any:
    """The model that ``vidgen convert`` makes of the bytes of a file; it is left in the folder as ``NAME.ckpt``."""
    source, out = place / f"official_{name}.ckpt", place / f"{name}.ckpt"
    source.write_bytes(content.numpy().tobytes())
    convert(name, source, out, options)
    return vidgen.load(out)


def check_shapes(model: nn.Module, part: Part, shapes: Mapping[str, list[int]], prefix: str = "") -> None:
    """Official names and shapes are those of our network."""
    layout: dict[str, list[int]] = {}
    for name, value in model.state_dict().items():
        if name != "codebook.initialised":
            layout |= {f"{prefix}{key}": list(own.shape) for key, own in official_entries(name, value, part).items()}
    expected = {key: list(shape) for key, shape in shapes.items() if not key.endswith("attn.mask")}
    assert layout == expected


def check_checkpoint(reference: TATSReference) -> None:
    config, inputs = reference.config, reference.inputs
    video = 2 * inputs["video"].double()
    args = config["vqgan_hyper_parameters_args"]
    with tempfile.TemporaryDirectory() as directory:
        make = partial(converted, Path(directory))
        model = make("tats_vqgan", inputs["vqgan_ckpt_bytes"])
        alone = make("tats", inputs["transformer_ckpt_bytes"])
        # how the autoencoder pads is said by its own file alone
        second = make("tats", inputs["transformer_ckpt_bytes"], first_stage=f"{directory}/tats_vqgan.ckpt")
    assert all(torch.equal(value, alone.state_dict()[key]) for key, value in second.state_dict().items())
    first = second.init_args["first_stage"]["model_args"]
    assert first == model.init_args
    assert alone.init_args["first_stage"]["model_args"]["downsample"] == first["downsample"]
    expected = {**vqgan_settings(args), "channels": args["image_channels"], "norm": args["norm_type"]}
    expected |= {key: args[key] for key in ("n_hiddens", "embedding_dim", "n_codes", "disc_channels", "disc_layers")}
    assert {key: model.init_args[key] for key in expected} == {**expected, "downsample": tuple(args["downsample"])}
    state = state_of(model)
    kept = {key: value for key, value in state.items() if f"vqgan_state/{key}" in reference.outputs}
    for key, value in kept.items():
        reference.compare(f"vqgan_state/{key}", value, tolerance=0.0)
    network = model.double().autoencoder
    tokens = model.encode(video)
    reference.compare("vqgan_indices", tokens)
    reference.compare("vqgan_decode", network.frames(network.codebook.lookup(tokens)))

    second.double()
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in second.first_stage.state_dict().items())
    batch = {"video": video, "label": inputs["label"]}
    logits, target = second.predict({key: batch[key] for key in second.train_keys})
    reference.compare("transformer_logits", logits)
    reference.compare("transformer_target", target)
    names = {
        f"{TRANSFORMER_PART.prefix}{key}"
        for name in second.transformer.state_dict()
        for key in official_names(name, TRANSFORMER_PART)
    }
    said = {key for key in config["tiny_transformer_state_keys"] if key.startswith("transformer.")}
    assert names == {key for key in said if not key.endswith("attn.mask")}
    check_layouts(config)


def check_layouts(config: Mapping[str, Any]) -> None:
    """The released sizes, without storage."""
    shapes = config["readme_vqgan_shapes"]
    with torch.device("meta"):
        states = {key: torch.empty(shape) for key, shape in shapes.items()}
        split = split_vqgan(states)
        sizes = vqgan_sizes(split)
        levels = sizes.pop("levels")
        model = TATSVQGAN(**sizes, downsample=(2, 2**levels, 2**levels), resolution=2**levels, num_frames=2)
        for part in VQGAN_PARTS:
            check_shapes(
                model.get_submodule(part.ours),
                part,
                {key: list(value.shape) for key, value in split[part.prefix].items()},
            )
        shapes = inside("transformer.", config["tats_base_transformer_shapes"])
        sizes = transformer_sizes({key: torch.empty(shape) for key, shape in shapes.items()})
        gpt = GPT(
            sizes["vocabulary"], sizes["block_size"], sizes["n_layer"], 1, sizes["n_embd"], sizes["position_table"]
        )
        check_shapes(gpt, TRANSFORMER_PART, shapes)


# Which file is read by what -----------------------------------------------------------------------------------------

CHECKS: dict[str, Callable[[Any], None]] = {
    "padding.pt": check_padding,
    "codebook.pt": check_codebook,
    "vqgan_batchnorm.pt": check_autoencoder,
    "vqgan_groupnorm.pt": check_autoencoder,
    "discriminators.pt": check_discriminators,
    "vqgan_losses.pt": check_losses,
    "vqgan_train_steps.pt": check_train_steps,
    "gpt.pt": check_gpt,
    "net2net.pt": check_net2net,
    "interpolation.pt": check_interpolation,
    "sampling.pt": check_sampling,
    "long_video.pt": check_long_video,
    "checkpoint.pt": check_checkpoint,
}
ELSEWHERE = {"fvd.pt": "test_tats_metrics.py", "lpips.pt": "test_tats_perceptual.py", "data.pt": "test_tats_data.py"}


def with_another_weight(content: Tensor) -> Tensor:
    """The bytes of an official file in which one weight is another."""
    with torch.serialization.safe_globals([argparse.Namespace]):
        changed = torch.load(io.BytesIO(content.numpy().tobytes()), weights_only=True)
    next(iter(changed["state_dict"].values())).view(-1)[0] += 0.5
    file = io.BytesIO()
    torch.save(changed, file)
    return torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)


class TestTATS(ReferenceSuite):
    model = "tats"
    checks = CHECKS
    elsewhere = ELSEWHERE
    tolerance = TOLERANCE

    def open(self, name: str) -> TATSReference:
        return TATSReference(folder("tats") / name)

    def change(self, reference: Reference) -> Reference:
        """One number is another, also where the weights are in a file within, or where all outputs are tokens."""
        if "vqgan_ckpt_bytes" in reference.inputs:
            content = reference.inputs["vqgan_ckpt_bytes"]
            reference.inputs = {**reference.inputs, "vqgan_ckpt_bytes": with_another_weight(content)}
            return reference
        if "exp_draws" in reference.inputs:
            key = next(key for key in reference.state if key.endswith("head.weight"))
            reference.state[key].view(-1)[0] += 10
            return reference
        for case in reference.config.get("cases", ()):
            if "need_init" in case and not case["need_init"]:  # others begin with new codes
                reference.state[f"{case['name']}/z_avg"][0, 0] += 0.5
                return reference
        return reference.with_one_weight_changed()

    @pytest.mark.parametrize(
        ("file", "key"), [("gpt.pt", "logits"), ("vqgan_losses.pt", "after/opt0/x_recon"), ("padding.pt", None)]
    )
    def test_a_tolerance_wider_than_specified_is_noticed(self, file: str, key: str | None) -> None:
        self.widened(file, key or next(iter(self.open(file).outputs)), 2 * TOLERANCE)
