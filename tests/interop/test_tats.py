"""Official TATS files become vidgen checkpoints, and hostile or broken ones a line."""

from __future__ import annotations

import argparse
import logging
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import vidgen
from tests.fixtures.tats.networks import gpt_shapes, mask_of, new_state, prefixed, vqgan_shapes
from vidgen.cli.main import main
from vidgen.errors import UserError
from vidgen.interop import convert
from vidgen.interop.tats_arguments import SWITCHES
from vidgen.models.tats.interpolation import TATSInterpolation
from vidgen.models.tats.transformer import TATS
from vidgen.models.tats.vqgan import TATSVQGAN

State = dict[str, Tensor]
PART = "which is not part of the official module"
CLASSES, LATENT, TOKENS = 3, 4, 8  # tokens of a latent, and of the two of a clip

VQGAN_ARGS: dict[str, Any] = {
    "embedding_dim": 3,
    "n_codes": 11,
    "n_hiddens": 2,
    "lr": 3e-4,
    "downsample": (2, 4, 4),
    "disc_channels": 2,
    "disc_layers": 2,
    "discriminator_iter_start": 7,
    "disc_loss_type": "vanilla",
    "image_gan_weight": 0.5,
    "video_gan_weight": 2.0,
    "l1_weight": 3.0,
    "gan_feat_weight": 1.0,
    "perceptual_weight": 0.0,
    "i3d_feat": False,
    "restart_thres": 0.5,
    "no_random_restart": True,
    "norm_type": "batch",
    "padding_type": "constant",
    "image_channels": 3,
    "sequence_length": 12,
    "sample_every_n_frames": 3,
    "resolution": 8,
    "gpus": 8,
}
TRANSFORMER_ARGS: dict[str, Any] = {
    "vqvae": "vqgan.ckpt",
    "unconditional": True,
    "class_cond_dim": None,
    "vtokens": False,
    "vtokens_pos": False,
    "sequence_length": 4,
    "resolution": 8,
    "base_lr": 1e-5,
    "batch_size": 3,
    "gpus": 8,
    "accumulate_grad_batches": None,
    "vocab_size": 16384,
    "block_size": TOKENS,
    "n_layer": 2,
    "n_head": 2,
    "n_embd": 8,
    "n_unmasked": 0,
    "sample_every_n_latent_frames": 0,
    "cond_stage_key": "label",
}


# Official files ------------------------------------------------------------------------------------------------------


def seeded(shapes: dict[str, tuple[int, ...]], seed: int, n_unmasked: int = 0) -> State:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {key: value.contiguous() for key, value in new_state(shapes, n_unmasked).items()}


def vqgan_state(seed: int = 1, **config: Any) -> State:
    """Of the whole first stage, LPIPS included."""
    return seeded(vqgan_shapes({**VQGAN_ARGS, "lpips_channels": [2] * 5, **config}), seed)


def transformer_state(seed: int = 2, n_unmasked: int = 0, **sizes: Any) -> State:
    given = {"vocab": 11, "block": TOKENS, "n_layer": 2, "n_embd": 8, **sizes}
    return prefixed("transformer.", seeded(gpt_shapes(given), seed, n_unmasked))


def both(transformer: State | None = None, vqgan: State | None = None) -> State:
    first = prefixed("first_stage_model.", vqgan_state() if vqgan is None else vqgan)
    return {**first, **(transformer_state() if transformer is None else transformer)}


def lightning(state: Any, args: Any, **more: Any) -> dict[str, Any]:
    """What Lightning writes."""
    return {
        "epoch": 1,
        "global_step": 2,
        "pytorch-lightning_version": "1.5.4",
        "state_dict": OrderedDict(state) if isinstance(state, dict) else state,
        "callbacks": {},
        "optimizer_states": [{"state": {0: {"step": 2, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"args": argparse.Namespace(**args) if isinstance(args, dict) else args, **more},
    }


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def vqgan_file(folder: Path, state: State | None = None, name: str = "vqgan.ckpt", **args: Any) -> Path:
    given = {key: value for key, value in {**VQGAN_ARGS, **args}.items() if value is not LEFT_OUT}
    return write(folder / name, lightning(vqgan_state() if state is None else state, given))


LEFT_OUT = object()


def transformer_file(folder: Path, state: State | None = None, more: Any = None, **args: Any) -> Path:
    given = {key: value for key, value in {**TRANSFORMER_ARGS, **args}.items() if value is not LEFT_OUT}
    hyper = {"ckpt_path": None, "ignore_keys": [], "first_stage_key": "video", "pkeep": 1.0, "sos_token": 0}
    hyper |= {"cond_stage_key": given.get("cond_stage_key", "label"), **(more or {})}
    return write(folder / "transformer.ckpt", lightning(both() if state is None else state, given, **hyper))


def converted(model: str, source: Path, **options: Any) -> Any:
    out = source.with_suffix(".ours")
    convert(model, source, out, options)
    result = vidgen.load(out)
    assert not result.training
    return result


def refusal(model: str, source: Path, **options: Any) -> str:
    """The message of the converter, without the name of the file."""
    out = source.with_suffix(".refused")
    with pytest.raises(UserError) as caught:
        convert(model, source, out, options)
    message = str(caught.value)
    assert not out.exists() and "\n" not in message and message.startswith(f"{source}: ")
    return message.removeprefix(f"{source}: ")


def without(state: State, key: str) -> State:
    return {name: value for name, value in state.items() if name != key}


# The first stage -----------------------------------------------------------------------------------------------------


def assert_autoencoder(found: State, theirs: State, at: str) -> None:
    """Some entries, by hand."""
    for name, official in {
        "encoder.first.weight": "encoder.conv_first.conv.weight",
        "encoder.levels.1.down.bias": "encoder.conv_blocks.1.down.conv.bias",
        "encoder.levels.0.res.norm2.running_var": "encoder.conv_blocks.0.res.norm2.running_var",
        "encoder.norm.weight": "encoder.final_block.0.weight",
        "project.weight": "pre_vq_conv.conv.weight",
        "unproject.bias": "post_vq_conv.conv.bias",
        "codebook.embeddings": "codebook.embeddings",
        "codebook.counts": "codebook.N",
        "codebook.sums": "codebook.z_avg",
        "decoder.norm.num_batches_tracked": "decoder.final_block.0.num_batches_tracked",
        "decoder.levels.1.up.weight": "decoder.conv_blocks.1.up.convt.weight",
        "decoder.levels.0.res2.conv1.weight": "decoder.conv_blocks.0.res2.conv1.conv.weight",
        "decoder.last.weight": "decoder.conv_last.conv.weight",
    }.items():
        assert torch.equal(found[f"{at}{name}"], theirs[official]), name
    assert found[f"{at}codebook.initialised"]


@pytest.mark.parametrize("zipped", [True, False])
def test_vqgan(tmp_path: Path, caplog: pytest.LogCaptureFixture, zipped: bool) -> None:
    state = vqgan_state()
    source = tmp_path / "vqgan.ckpt"
    torch.save(lightning(state, VQGAN_ARGS), source, _use_new_zipfile_serialization=zipped)
    model = converted("tats_vqgan", source)
    assert isinstance(model, TATSVQGAN) and not caplog.records
    expected: dict[str, Any] = {"channels": 3, "resolution": 8, "width": None, "num_frames": 4, "n_hiddens": 2}
    expected |= {"downsample": (2, 4, 4), "embedding_dim": 3, "n_codes": 11, "norm": "batch", "padding": "zero"}
    expected |= {"padding_scope": "encoder", "random_restart": False, "restart_threshold": 0.5, "disc_channels": 2}
    expected |= {"disc_layers": 2, "disc_start": 7, "disc_loss": "vanilla", "image_gan_weight": 0.5}
    expected |= {"video_gan_weight": 2.0, "l1_weight": 3.0, "gan_feat_weight": 1.0, "perceptual_weight": 0.0}
    assert {key: model.init_args[key] for key in expected} == expected and model.init_args["learning_rate"] == 3e-4
    found = model.state_dict()
    assert_autoencoder(found, state, "autoencoder.")
    for name in ("image", "video"):
        for stage, module, layer in ((0, "convolution", 0), (2, "norm", 1), (3, "convolution", 0)):
            key = f"{name}_discriminator.stages.{stage}.{module}.bias"
            assert torch.equal(found[key], state[f"{name}_discriminator.model{stage}.{layer}.bias"])
    kept = [key for key in state if not key.startswith("perceptual_model.")]
    assert len(found) == len(kept) + 1  # whether the codebook has begun
    assert sum(value.double().sum() for value in found.values()) == pytest.approx(
        sum(state[key].double().sum() for key in kept) + 1
    )


def test_folders_of_images_count_the_frames_of_a_clip(tmp_path: Path) -> None:
    source = vqgan_file(tmp_path, image_folder=True)
    assert converted("tats_vqgan", source).num_frames == 12


def test_group_norm_and_other_kinds_of_padding(tmp_path: Path) -> None:
    sizes = {"norm_type": "group", "n_hiddens": 16, "downsample": (1, 2, 2), "padding_type": "circular"}
    source = vqgan_file(tmp_path, vqgan_state(**sizes), **sizes, no_random_restart=False)
    args = converted("tats_vqgan", source).init_args
    assert (args["norm"], args["padding"], args["random_restart"]) == ("group", "circular", True)
    older = vqgan_file(tmp_path, padding_type=LEFT_OUT)
    assert converted("tats_vqgan", older).init_args["padding"] == "replicate"


def test_plain_state_dicts_of_a_vqgan(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write(tmp_path / "states.pt", vqgan_state())
    example = "downsample=[4,8,8] num_frames=16 resolution=128"
    reason = f"does not say downsample, num_frames, resolution; give it, for example {example}"
    assert refusal("tats_vqgan", source) == reason
    options: dict[str, Any] = {"downsample": [2, 4, 4], "num_frames": 4, "resolution": 8, "width": 16}
    model = converted("tats_vqgan", source, **options)
    assert {key: model.init_args[key] for key in options} == {**options, "downsample": (2, 4, 4)}
    assert not caplog.records
    alone = {key: value for key, value in vqgan_state().items() if "discriminator" not in key}
    write(source, alone)
    converted("tats_vqgan", source, **options)
    parts = ("image_discriminator", "video_discriminator")
    messages = [f"{source}: comes without {part}, which starts untrained" for part in parts]
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, message) for message in messages
    ]


@pytest.mark.parametrize(
    "key",
    [
        "encoder.conv_first.conv.weight",
        "encoder.conv_blocks.0.down.conv.weight",
        "encoder.conv_blocks.1.res.norm1.running_mean",
        "pre_vq_conv.conv.bias",
        "codebook.embeddings",
        "codebook.N",
        "decoder.final_block.0.weight",
        "decoder.conv_blocks.1.up.convt.bias",
        "image_discriminator.model0.0.weight",
        "video_discriminator.model2.1.weight",
    ],
)
def test_a_missing_entry_of_a_vqgan_is_named(tmp_path: Path, key: str) -> None:
    assert refusal("tats_vqgan", vqgan_file(tmp_path, without(vqgan_state(), key))) == f"lacks {key}"


@pytest.mark.parametrize(
    "key",
    [
        "encoder.conv_first.weight",
        "encoder.conv_blocks.0.res.conv3.conv.weight",
        "encoder.conv_blocks.3.res.conv1.conv.weight",
        "decoder.conv_blocks.01.up.convt.weight",
        "codebook.sums",
        "image_discriminator.model1.2.weight",
        "video_discriminator.stages.0.convolution.weight",
        "optimizer.weight",
        "weight",
    ],
)
def test_an_extra_entry_of_a_vqgan_is_named(tmp_path: Path, key: str) -> None:
    state = {**vqgan_state(), key: torch.zeros(2, 2)}
    assert refusal("tats_vqgan", vqgan_file(tmp_path, state)) == f"has {key}, {PART}"


def test_a_wrong_shape_of_a_vqgan_is_named(tmp_path: Path) -> None:
    def message(key: str, value: Tensor) -> str:
        return refusal("tats_vqgan", vqgan_file(tmp_path, {**vqgan_state(), key: value}))

    key = "decoder.conv_blocks.0.up.convt.weight"
    assert message(key, torch.zeros(8, 8, 4, 4, 3)) == f"{key} is (8, 8, 4, 4, 3), expected (8, 8, 4, 4, 4)"
    assert message("codebook.N", torch.zeros(10)) == "codebook.N is (10,), expected (11,)"
    assert message("codebook.embeddings", torch.zeros(11)) == "codebook.embeddings is (11,), expected 2 dimensions"
    whole = torch.zeros(11, dtype=torch.int64)
    assert message("codebook.N", whole) == "codebook.N is torch.int64, expected torch.float32"


HOSTILE: list[tuple[str, Any, str]] = [
    ("image_channels", 1, "is 1, but the weights have channels 3"),
    ("n_hiddens", 4, "is 4, but the weights have n_hiddens 2"),
    ("embedding_dim", 4, "is 4, but the weights have embedding_dim 3"),
    ("n_codes", 12, "is 12, but the weights have n_codes 11"),
    ("n_codes", True, "is True, but the weights have n_codes 11"),
    ("n_codes", 11.0, "is 11.0, but the weights have n_codes 11"),
    ("norm_type", "group", "is 'group', but the weights have norm batch"),
    ("disc_channels", 64, "is 64, but the weights have disc_channels 2"),
    ("disc_layers", 3, "is 3, but the weights have disc_layers 2"),
    ("downsample", (4, 8, 8), "[4, 8, 8]: the weights have 2 levels, so the largest is 4"),
    ("downsample", (4, 4), "[4, 4]: must be 3 whole numbers from 1 to 1000000"),
    ("downsample", "488", "'488': must be 3 whole numbers from 1 to 1000000"),
    ("padding_type", "zeros", "'zeros': must be one of replicate, constant, reflect, circular"),
    ("no_random_restart", 1, "1: must be True or False"),
    ("restart_thres", float("nan"), "nan: must be a number from 0 to 1e6"),
    ("discriminator_iter_start", -1, "-1: must be a whole number from 0 to 1000000"),
    ("disc_loss_type", torch.zeros(2), "of type Tensor: must be one of hinge, vanilla"),
    ("l1_weight", [1.0], "[1.0]: must be a number from 0 to 1e6"),
    ("lr", 0, "0: must be a number above 0, up to 1e3"),
    ("lr", 2**70, "of type int: must be a number above 0, up to 1e3"),
    ("resolution", "a\nb" + "c" * 10**6, f"'a\\nb{'c' * 37}': must be a whole number from 1 to 1000000"),
    ("sequence_length", 0, "0: must be a whole number from 1 to 1000000"),
    ("sample_every_n_frames", {}, "of type dict: must be a whole number from 1 to 1000000"),
]


@pytest.mark.parametrize(
    ("name", "value", "reason"), HOSTILE, ids=[f"{name}-{at}" for at, (name, *_) in enumerate(HOSTILE)]
)
def test_arguments_that_cannot_be_are_named(tmp_path: Path, name: str, value: Any, reason: str) -> None:
    assert refusal("tats_vqgan", vqgan_file(tmp_path, **{name: value})) == f"args.{name} {reason}"


def test_clips_that_do_not_fit_are_told(tmp_path: Path) -> None:
    reason = "model.num_frames 3: must be a multiple of downsample, 2"
    assert refusal("tats_vqgan", vqgan_file(tmp_path, sequence_length=9)) == reason
    source = vqgan_file(tmp_path)
    reason = "downsample [2, 8, 4]: the weights have 2 levels, so the largest is 4"
    assert refusal("tats_vqgan", source, downsample=[2, 8, 4]) == reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 3}, "length: not an option of the tats_vqgan converter"),
        ({"num_frame": 3}, "num_frame: not an option of the tats_vqgan converter; did you mean 'num_frames'?"),
        ({"num_frames": "x"}, "num_frames 'x': must be a whole number from 1 to 1000000"),
        ({"downsample": 4}, "downsample 4: must be 3 whole numbers from 1 to 1000000"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        convert("tats_vqgan", vqgan_file(tmp_path), tmp_path / "x", options)
    assert str(caught.value) == message


# The transformer -----------------------------------------------------------------------------------------------------


def assert_transformer(found: State, theirs: State, at: str = "transformer.") -> None:
    """Every entry, by hand."""
    d = found[f"{at}norm.weight"].shape[0]
    names = {"token_embedding.weight": "tok_emb.weight", "positions": "pos_emb", "head.weight": "head.weight"}
    names |= {f"norm.{entry}": f"ln_f.{entry}" for entry in ("weight", "bias")}
    for block in range(2):
        for entry in ("weight", "bias"):
            for which, official in enumerate(("query", "key", "value")):
                rows = found[f"{at}blocks.{block}.qkv.{entry}"][which * d : (which + 1) * d]
                assert torch.equal(rows, theirs[f"transformer.blocks.{block}.attn.{official}.{entry}"])
            for ours, official in (
                ("norm1", "ln1"),
                ("norm2", "ln2"),
                ("project", "attn.proj"),
                ("expand", "mlp.0"),
                ("contract", "mlp.2"),
            ):
                names[f"blocks.{block}.{ours}.{entry}"] = f"blocks.{block}.{official}.{entry}"
    for ours, official in names.items():
        assert torch.equal(found[f"{at}{ours}"], theirs[f"transformer.{official}"]), ours
    kept = [key for key in found if key.startswith(at) and "qkv" not in key and not key.endswith("table")]
    assert len(kept) == len(names)


def sizes_of(model: Any, **expected: Any) -> None:
    assert {key: model.init_args[key] for key in expected} == expected


def test_unconditional(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = both()
    model = converted("tats", transformer_file(tmp_path, state))
    assert isinstance(model, TATS) and not caplog.records
    sizes_of(model, condition="none", dim_category=0, num_frames=4, resolution=8, channels=3, block_size=TOKENS)
    sizes_of(model, n_layer=2, n_head=2, n_embd=8, latent_stride=1, keep_probability=1.0, position_table=None)
    assert model.init_args["learning_rate"] == pytest.approx(24e-5) and model.init_args["reads"] == "video"
    found = model.state_dict()
    assert_transformer(found, state)
    assert_autoencoder(found, vqgan_state(), "first_stage.")
    sizes_of_stage = model.init_args["first_stage"]["model_args"]
    assert sizes_of_stage["downsample"] == (2, 4, 4) and sizes_of_stage["n_codes"] == 11
    assert not any(parameter.requires_grad for parameter in model.first_stage.parameters())
    assert model.sample(2, num_frames=6, top_k=None).shape == (2, 3, 6, 8, 8)


def test_class_conditional(tmp_path: Path) -> None:
    state = both(transformer_state(vocab=11 + CLASSES))
    source = transformer_file(tmp_path, state, {"pkeep": 0.5}, unconditional=False, class_cond_dim=CLASSES)
    model = converted("tats", source, learning_rate=1e-3)
    sizes_of(model, condition="label", dim_category=CLASSES, keep_probability=0.5, learning_rate=1e-3)
    assert_transformer(model.state_dict(), state)
    source = transformer_file(tmp_path, state, unconditional=False, class_cond_dim=2)
    assert refusal("tats", source) == f"args.class_cond_dim is 2, but the weights have {CLASSES} classes"
    reason = f"has {CLASSES} tokens more than codes, which does not fit condition 'none'"
    assert refusal("tats", transformer_file(tmp_path, state)) == reason


def test_text_conditional(tmp_path: Path) -> None:
    state = both(transformer_state(vocab=11 + 49408, block=255 + TOKENS, n_embd=2, n_layer=1))
    model = converted(
        "tats",
        transformer_file(tmp_path, state, block_size=255 + TOKENS, n_embd=2, n_layer=1, cond_stage_key="text"),
    )
    sizes_of(model, condition="text", text_length=256, text_vocabulary=49408, num_frames=4)
    assert model.init_args["first_stage"]["model_args"]["downsample"] == (2, 4, 4)


def test_audio_conditional(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sound_args = {"image_channels": 1, "n_codes": 5, "downsample": (2, 4, 2)}
    sound = vqgan_state(3, **sound_args)
    stage = vqgan_file(tmp_path, sound, "stft.ckpt", **sound_args)
    convert("tats_vqgan", stage, tmp_path / "stft.ours", {"width": 4})
    conditions = 2 * 2 * 2
    block = conditions + TOKENS - 1
    state = both(transformer_state(vocab=11 + 5, block=block)) | prefixed("cond_stage_model.", sound)
    source = transformer_file(tmp_path, state, block_size=block, cond_stage_key="stft")
    hint = "give audio_stage=FILE, its converted checkpoint"
    assert refusal("tats", source) == f"does not say what its cond_stage_model was trained on; {hint}"
    model = converted("tats", source, audio_stage=str(tmp_path / "stft.ours"))
    assert not caplog.records
    sizes_of(model, condition="audio", dim_category=0, block_size=block)
    found = model.state_dict()
    assert_autoencoder(found, sound, "audio_stage.")
    assert_autoencoder(found, vqgan_state(), "first_stage.")
    given = {"audio": torch.rand(1, 1, 4, 8, 4) * 2 - 1}
    assert model.sample(1, batch=given).shape == (1, 3, 4, 8, 8)


def test_key_frames(tmp_path: Path) -> None:
    source = transformer_file(tmp_path, sequence_length=16, sample_every_n_latent_frames=4)
    model = converted("tats", source)
    sizes_of(model, latent_stride=4, num_frames=16, block_size=TOKENS)
    assert model.init_args["first_stage"]["model_args"]["downsample"] == (2, 4, 4)


def interpolation_file(folder: Path, **args: Any) -> tuple[Path, State]:
    block = 5 * LATENT
    state = both(transformer_state(n_unmasked=LATENT, block=block))
    return transformer_file(folder, state, block_size=block, n_unmasked=LATENT, sequence_length=10, **args), state


def test_interpolation(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = transformer_file(tmp_path, sequence_length=16, sample_every_n_latent_frames=4)
    convert("tats", keys, tmp_path / "keys.ours")
    source, state = interpolation_file(tmp_path)
    model = converted("tats_interpolation", source)
    assert isinstance(model, TATSInterpolation) and model.key_model is None
    sizes_of(model, gap=4, mask="c", dim_category=0, num_frames=10, sampler="consistent", boundary_loss=True)
    assert_transformer(model.state_dict(), state)
    with pytest.raises(UserError, match=r"^tats_interpolation: has no key frames to fill; train it with model\.keys$"):
        model.sample(1)
    model = converted("tats_interpolation", source, keys=str(tmp_path / "keys.ours"), sampler="official")
    sizes_of(model, sampler="official")
    assert_transformer(model.state_dict(), both(), "key_model.")
    assert_transformer(model.state_dict(), state)
    assert not caplog.records
    assert model.sample(1, num_frames=20).shape == (1, 3, 20, 8, 8)


def test_stages_that_do_not_belong_together_are_told(tmp_path: Path) -> None:
    state = both(vqgan=vqgan_state(9))
    keys = transformer_file(tmp_path, state, sequence_length=16, sample_every_n_latent_frames=4)
    convert("tats", keys, tmp_path / "keys.ours")
    source, _ = interpolation_file(tmp_path)
    reason = "model.keys: was trained on another first stage; train both on the same"
    assert refusal("tats_interpolation", source, keys=str(tmp_path / "keys.ours")) == reason
    with pytest.raises(UserError) as caught:
        convert("tats_interpolation", source, tmp_path / "x", {"keys": str(tmp_path / "none")})
    assert str(caught.value) == f"{tmp_path / 'none'}: no such checkpoint"
    convert("tats_vqgan", vqgan_file(tmp_path), tmp_path / "vqgan.ours")
    with pytest.raises(UserError) as caught:
        convert("tats_interpolation", source, tmp_path / "x", {"keys": str(tmp_path / "vqgan.ours")})
    assert str(caught.value) == f"model.keys: {tmp_path / 'vqgan.ours'} holds a 'tats_vqgan', needed is a 'tats'"


def test_the_fingerprint_is_that_of_the_converted_first_stage(tmp_path: Path) -> None:
    convert("tats_vqgan", vqgan_file(tmp_path), tmp_path / "vqgan.ours")
    state = {key: value for key, value in both().items() if not key.startswith("first_stage_model.")}
    source = transformer_file(tmp_path, state)
    hint = "give first_stage=FILE, its converted checkpoint"
    assert refusal("tats", source) == f"holds no first_stage_model; {hint}"
    given = converted("tats", source, first_stage=str(tmp_path / "vqgan.ours"))
    inside = converted("tats", transformer_file(tmp_path))
    beside = converted("tats", transformer_file(tmp_path), first_stage=str(tmp_path / "vqgan.ours"))
    stages = [model.init_args["first_stage"] for model in (given, inside, beside)]
    assert stages[0]["weights"] and len({stage["weights"] for stage in stages}) == 1
    assert [stage["model_args"]["padding"] for stage in stages] == ["zero", "replicate", "zero"]
    assert_autoencoder(given.state_dict(), vqgan_state(), "first_stage.")


def test_stored_tokens(tmp_path: Path) -> None:
    """Their official arguments count latents."""
    convert("tats_vqgan", vqgan_file(tmp_path), tmp_path / "vqgan.ours")
    state = transformer_state(table=(2, 3, 3))
    tokens = {"vtokens": True, "vtokens_pos": True, "sequence_length": 2, "resolution": 3, "spatial_length": 2}
    source = transformer_file(tmp_path, state, **tokens)
    model = converted("tats", source, first_stage=str(tmp_path / "vqgan.ours"))
    sizes_of(model, reads="tokens", num_frames=4, resolution=8, position_table=(2, 3, 3))
    found = model.state_dict()
    assert torch.equal(found["transformer.table"], state["transformer.vtokens_pos_emb"])
    assert_transformer(found, state)


def test_the_right_model_is_named(tmp_path: Path) -> None:
    source, _ = interpolation_file(tmp_path)
    hint = "convert it with --model"
    reason = f"its attention is that of a tats_interpolation (n_unmasked {LATENT}); {hint} tats_interpolation"
    assert refusal("tats", source) == reason
    reason = f"its attention is that of a tats (n_unmasked 0); {hint} tats"
    assert refusal("tats_interpolation", transformer_file(tmp_path)) == reason
    assert refusal("tats", vqgan_file(tmp_path)) == f"holds an autoencoder; {hint} tats_vqgan"
    reason = f"holds a transformer; {hint} tats or --model tats_interpolation"
    assert refusal("tats_vqgan", transformer_file(tmp_path)) == reason


def test_plain_state_dicts_of_a_transformer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write(tmp_path / "states.pt", both())
    reason = "does not say num_frames, resolution; give it, for example num_frames=16 resolution=128"
    assert refusal("tats", source) == reason
    options: dict[str, Any] = {"num_frames": 4, "resolution": 8}
    assert refusal("tats", source, **options) == "does not say n_head; give it, for example n_head=16"
    model = converted("tats", source, **options, n_head=2)
    sizes_of(model, condition="none", **options, n_head=2)
    assert not caplog.records
    write(source, both(transformer_state(vocab=15)))
    sizes_of(converted("tats", source, **options, n_head=2), condition="label", dim_category=4)
    block = 3 * LATENT
    write(source, both(transformer_state(n_unmasked=LATENT, block=block)))
    sizes_of(converted("tats_interpolation", source, num_frames=6, resolution=8, n_head=2), gap=2, mask="c")


def test_a_clip_that_does_not_fill_the_block_needs_its_downsample(tmp_path: Path) -> None:
    source = transformer_file(tmp_path, both(transformer_state(block=20)), block_size=20)
    reason = "does not say how far its autoencoder shrinks a clip; give it, for example downsample=[4,8,8]"
    assert refusal("tats", source) == reason
    model = converted("tats", source, downsample=[2, 4, 4])
    sizes_of(model, block_size=20)
    assert model.init_args["first_stage"]["model_args"]["downsample"] == (2, 4, 4)


@pytest.mark.parametrize(
    "key",
    [
        "transformer.tok_emb.weight",
        "transformer.pos_emb",
        "transformer.blocks.0.ln1.weight",
        "transformer.blocks.1.attn.key.bias",
        "transformer.blocks.1.attn.query.weight",
        "transformer.blocks.0.attn.value.weight",
        "transformer.blocks.1.mlp.2.weight",
        "transformer.ln_f.bias",
        "transformer.head.weight",
        "first_stage_model.encoder.conv_first.conv.weight",
        "first_stage_model.decoder.conv_last.conv.bias",
        "first_stage_model.codebook.embeddings",
    ],
)
def test_a_missing_entry_of_a_transformer_is_named(tmp_path: Path, key: str) -> None:
    assert refusal("tats", transformer_file(tmp_path, without(both(), key))) == f"lacks {key}"


@pytest.mark.parametrize(
    "key",
    [
        "transformer.blocks.0.attn.qkv.weight",
        "transformer.blocks.5.ln1.weight",
        "transformer.blocks.0.mlp.1.weight",
        "transformer.head.bias",
        "first_stage_model.encoder.conv_first.weight",
        "first_stage_model.image_discriminator.weight",
    ],
)
def test_an_extra_entry_of_a_transformer_is_named(tmp_path: Path, key: str) -> None:
    source = transformer_file(tmp_path, {**both(), key: torch.zeros(2, 2)})
    assert refusal("tats", source) == f"has {key}, {PART}"


def test_an_extra_network_is_named(tmp_path: Path) -> None:
    source = transformer_file(tmp_path, {**both(), "netD.weight": torch.zeros(2)})
    known = "transformer, first_stage_model, cond_stage_model"
    assert refusal("tats", source) == f"has netD.weight, which belongs to none of {known}"


def test_a_wrong_shape_of_a_transformer_is_named(tmp_path: Path) -> None:
    def message(key: str, *shape: int) -> str:
        return refusal("tats", transformer_file(tmp_path, {**both(), key: torch.zeros(shape)}))

    key = "transformer.blocks.1.attn.key.weight"
    assert message(key, 8, 7) == f"{key} is (8, 7), expected (8, 8)"
    key = "transformer.blocks.0.attn.query.bias"
    assert message(key, 24) == f"{key} is (24,), expected (8,)"
    assert message("transformer.head.weight", 12, 8) == "transformer.head.weight is (12, 8), expected (11, 8)"
    assert message("transformer.pos_emb", 8, 8) == "transformer.pos_emb is (8, 8), expected 3 dimensions"
    key = "transformer.blocks.1.attn.mask"
    assert message(key, 8, 8) == f"{key} is (8, 8), expected (1, 1, 8, 8)"
    assert message(key, 1, 1, 8, 8) == f"{key} is not the mask of a transformer of the official code"


def test_masks_tell_what_kind_of_transformer_it_is(tmp_path: Path) -> None:
    state = transformer_state(block=5 * LATENT)
    key = "transformer.blocks.{}.attn.mask"
    masks = {kind: mask_of(kind, 5 * LATENT, LATENT).float()[None, None] for kind in "abc"}
    state |= {key.format(block): masks["b"].clone() for block in range(2)}
    options = {"block_size": 5 * LATENT, "n_unmasked": LATENT, "sequence_length": 10}
    sizes_of(converted("tats_interpolation", transformer_file(tmp_path, both(state), **options)), mask="b")
    options["n_unmasked"] = 0
    reason = f"args.n_unmasked is 0, but the masks have n_unmasked {LATENT}"
    assert refusal("tats_interpolation", transformer_file(tmp_path, both(state), **options)) == reason
    options["n_unmasked"] = LATENT
    state[key.format(1)] = masks["c"]
    reason = f"{key.format(1)} is not the mask of a transformer of the official code"
    assert refusal("tats_interpolation", transformer_file(tmp_path, both(state), **options)) == reason
    unmasked = {name: value for name, value in state.items() if not name.endswith("mask")}
    sizes_of(converted("tats_interpolation", transformer_file(tmp_path, both(unmasked), **options)), mask="c")


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ({"block_size": 9}, "args.block_size is 9, but the weights have block_size 8"),
        ({"n_layer": 3}, "args.n_layer is 3, but the weights have n_layer 2"),
        ({"n_embd": 8.0}, "args.n_embd is 8.0, but the weights have n_embd 8"),
        ({"n_unmasked": -1}, "args.n_unmasked -1: must be a whole number from 0 to 8"),
        ({"n_head": 0}, "args.n_head 0: must be a whole number from 1 to 1000000"),
        ({"n_head": 3}, "model.n_embd 8: must be a multiple of n_head, 3"),
        ({"n_head": LEFT_OUT}, "does not say n_head; give it, for example n_head=16"),
        ({"resolution": [8]}, "args.resolution [8]: must be a whole number from 1 to 1000000"),
        ({"unconditional": None, "cond_stage_key": "pose"}, "cond_stage_key 'pose': must be one of label, text, stft"),
        ({"unconditional": 2}, "args.unconditional 2: must be True or False"),
        ({"base_lr": "x"}, "args.base_lr 'x': must be a number above 0, up to 1e3"),
        ({"more": {"sos_token": 5}}, "sos_token 5: must be 0, the start token of every tats here"),
        ({"more": {"pkeep": 1.5}}, "pkeep 1.5: must be a number from 0 to 1"),
    ],
)
def test_arguments_of_a_transformer_that_cannot_be_are_named(tmp_path: Path, args: dict[str, Any], reason: str) -> None:
    assert refusal("tats", transformer_file(tmp_path, **args)) == reason


# Files that are not what they seem -----------------------------------------------------------------------------------


class Hostile:
    """Its pickle makes a file."""

    def __init__(self, mark: Path, by: Any) -> None:
        self.mark, self.by = mark, by

    def __reduce__(self) -> Any:
        return self.by, (f"open({str(self.mark)!r}, 'w')" if self.by is eval else f"touch {self.mark}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("by", "name"), [(eval, "eval"), (os.system, "posix.system")], ids=["eval", "system"])
@pytest.mark.parametrize("place", ["state_dict", "args", "hyper_parameters", "callbacks"])
def test_a_hostile_file_is_refused_and_not_executed(
    tmp_path: Path, place: str, by: Any, name: str, zipped: bool
) -> None:
    hostile = Hostile(tmp_path / "executed", by)
    content = lightning(vqgan_state(), VQGAN_ARGS)
    if place == "args":
        content["hyper_parameters"]["args"].lr = hostile
    else:
        content[place]["lr"] = hostile
    source = tmp_path / "vqgan.ckpt"
    torch.save(content, source, _use_new_zipfile_serialization=zipped)
    reason = f"names {name}, which is not allowed in such a file; nothing in it was executed"
    for model in ("tats_vqgan", "tats", "tats_interpolation"):
        assert refusal(model, source) == reason and not hostile.mark.exists()


def test_the_class_that_an_older_file_asks_for_is_named(tmp_path: Path) -> None:
    content = lightning(vqgan_state(), VQGAN_ARGS)
    content["callbacks"] = {"path": tmp_path}
    source = write(tmp_path / "vqgan.ckpt", content)
    name = f"pathlib.{type(tmp_path).__name__}"
    found = refusal("tats_vqgan", source)
    assert found.endswith(", which is not allowed in such a file; nothing in it was executed")
    assert found.startswith("names pathlib.") and name.partition(".")[2] in found


def test_reading_allows_no_class_for_good(tmp_path: Path) -> None:
    converted("tats_vqgan", vqgan_file(tmp_path))
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


@pytest.mark.parametrize("zipped", [True, False])
def test_every_cut_of_a_file_is_one_line(tmp_path: Path, zipped: bool) -> None:
    source = tmp_path / "vqgan.ckpt"
    torch.save(lightning(vqgan_state(), VQGAN_ARGS), source, _use_new_zipfile_serialization=zipped)
    whole = source.read_bytes()
    reasons = {"is damaged or cut short", "is not a file written by torch.save, or damaged"}
    for length in (0, 1, 40, 200, len(whole) // 3, len(whole) // 2, len(whole) - 40, len(whole) - 1):
        source.write_bytes(whole[:length])
        assert refusal("tats_vqgan", source) in reasons, length


def test_other_files_are_one_line(tmp_path: Path) -> None:
    source = tmp_path / "x.ckpt"

    def message(content: Any) -> str:
        return refusal("tats_vqgan", write(source, content))

    assert message([1, 2]) == "holds a list, neither a checkpoint of Lightning's nor a state dict"
    assert message({}) == "lacks encoder.conv_first.conv.weight"
    assert message({"encoder": 3}) == "entry 'encoder' is not a tensor; a state dict with official names was expected"
    assert message({3: torch.zeros(1)}) == "entry 3 is not a tensor; a state dict with official names was expected"
    assert message(lightning([1], VQGAN_ARGS)) == "its state_dict is [1], not a dict of tensors"
    reason = "its hyper_parameters.args is [1], not an argparse.Namespace"
    assert message(lightning(vqgan_state(), [1])) == reason
    content = {**lightning(vqgan_state(), VQGAN_ARGS), "hyper_parameters": 3}
    assert message(content) == "its hyper_parameters are 3, not a dict"
    assert refusal("tats", source.with_name("none")) == "cannot be read (No such file or directory)"
    source.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert refusal("tats", source) == "is not a file written by torch.save, or damaged"
    assert refusal("tats", write(source, {"netD.weight": torch.zeros(1)})).startswith("has netD.weight, which belongs")
    first = prefixed("first_stage_model.", vqgan_state())
    assert refusal("tats", write(source, first)) == "lacks transformer.tok_emb.weight"


@pytest.mark.parametrize("name", SWITCHES)
def test_a_tensor_is_no_argument(name: str, tmp_path: Path) -> None:
    source = tmp_path / "x.ckpt"
    for value in (torch.zeros(3), torch.ones(())):
        content = lightning(vqgan_state(), {**VQGAN_ARGS, name: value})
        assert refusal("tats_vqgan", write(source, content)) == f"its argument {name} is a tensor"


def test_a_file_cannot_ask_for_a_model_larger_than_itself(tmp_path: Path) -> None:
    large = torch.zeros(1).expand(2**20, 2**10)
    source = vqgan_file(tmp_path, {**vqgan_state(), "codebook.embeddings": large})
    assert refusal("tats_vqgan", source) == "codebook.embeddings has more elements than the file holds"
    state, one = vqgan_state(), torch.zeros(5000)
    state = {
        key: one[: value.numel()].view(value.shape) if value.numel() <= 5000 else value for key, value in state.items()
    }
    source = vqgan_file(tmp_path, state)
    assert refusal("tats_vqgan", source) == "its networks have more elements than the file holds"
    sizes = {"codebook.embeddings": torch.zeros(10**5, 3)}
    source = vqgan_file(tmp_path, {**vqgan_state(), **sizes}, n_codes=10**5)
    assert refusal("tats_vqgan", source) == "codebook.N is (11,), expected (100000,)"


def test_conversion_does_not_touch_the_random_state(tmp_path: Path) -> None:
    source, before = transformer_file(tmp_path), torch.get_rng_state()
    convert("tats", source, tmp_path / "x.ckpt")
    assert torch.equal(before, torch.get_rng_state())


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = transformer_file(tmp_path), tmp_path / "tats.ckpt"
    words = ["convert", "--model", "tats", "--from", str(source), "--out", str(out)]
    assert main([*words, "downsample=[2,4,4]", "learning_rate=1e-4"]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"wrote {out}\n" and printed.err == ""
    model = vidgen.load(out)
    sizes_of(model, learning_rate=1e-4)
    assert model.init_args["first_stage"]["model_args"]["downsample"] == (2, 4, 4)
    assert main([*words, "downsample=[8,8,8]"]) == 2
    reason = "downsample [8, 8, 8]: the weights have 2 levels, so the largest is 4"
    assert capsys.readouterr().err == f"vidgen: error: {source}: {reason}\n"
    assert main([*words, "downsamples=[8,8,8]"]) == 2
    line = "downsamples: not an option of the tats converter; did you mean 'downsample'?"
    assert capsys.readouterr().err == f"vidgen: error: {line}\n"
