"""The transformers of TATS: sizes, what a token sees, conditions and their numbers, training, refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.watching import enliven, parameters
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.models.stages import open_stage
from vidgen.models.tats.gpt import GPT, interpolation_mask
from vidgen.models.tats.interpolation import TATSInterpolation
from vidgen.models.tats.transformer import TATS
from vidgen.models.tats.vqgan import TATSVQGAN

VARIANTS = TATS.small_variants()
VARIANTS["table"] |= {"num_frames": 8, "position_table": (4, 3, 3)}
SMALL = VARIANTS["default"]
BETWEEN = TATSInterpolation.small_variants()["default"]
CODES, LATENT = 11, 4


def prepared(model: Any) -> Any:
    """In float64, with weights that matter and a first stage that counts as trained."""
    for name, part in model.named_children():
        enliven(part, 1.0)
        if name.endswith("_stage"):
            part.codebook.initialised.fill_(True)
            part.codebook._initialised = None
    return model.double()


def small(variant: str = "default", **arguments: Any) -> TATS:
    torch.manual_seed(0)
    return prepared(TATS(**{**VARIANTS[variant], **arguments}))


def between(variant: str = "default", **arguments: Any) -> TATSInterpolation:
    torch.manual_seed(0)
    return prepared(TATSInterpolation(**{**TATSInterpolation.small_variants()[variant], **arguments}))


def example(model: Any, number: int = 3) -> dict[str, Tensor]:
    batch = model.example_batch(number)
    return {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}


def moved(first: Tensor, second: Tensor) -> list[int]:
    """Places at which logits ``(B, L, V)`` differ."""
    return (first - second).abs().amax((0, 2)).gt(1e-9).nonzero().flatten().tolist()


def refusal(build: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        build()
    return str(error.value)


# Sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "number", "block"),
    [
        ({}, 336_914_432, 1024),
        ({"condition": "label", "dim_category": 101}, 337_121_280, 1024),
        ({"condition": "text"}, 438_363_136, 1279),
        ({"latent_stride": 4, "num_frames": 64}, 336_914_432, 1024),
    ],
)
def test_parameters_of_the_full_models(arguments: dict[str, Any], number: int, block: int) -> None:
    with torch.device("meta"):
        model = TATS({"model": "tats_vqgan", "model_args": {}}, **arguments)
    assert parameters(model.transformer) == number and model.transformer.block == block
    assert model.latent_size == 256 and len(model.transformer.blocks) == 24


def test_parameters_of_the_full_interpolation() -> None:
    with torch.device("meta"):
        model = TATSInterpolation({"model": "tats_vqgan", "model_args": {}})
    assert parameters(model.transformer) == 337_176_576 and model.transformer.block == 1280


def test_tokens_of_sound() -> None:
    stage = {"model": "tats_vqgan", "model_args": {"channels": 1, "resolution": 64, "width": 16}}
    stage["model_args"]["n_codes"] = 1024
    with torch.device("meta"):
        model = TATS(
            {"model": "tats_vqgan", "model_args": {}},
            resolution=96,
            condition="audio",
            audio_stage=stage,
            n_layer=1,
        )
    assert (model.condition_length, model.condition_vocabulary) == (64, 1024), "4 x 8 x 2 codes"
    assert model.latent_shape == (4, 12, 12) and model.transformer.block == 64 + 576 - 1
    assert model.transformer.vocabulary == 1024 + 16384


@torch.no_grad()
def test_initial_weights() -> None:
    found = GPT(50, 20, 2, 4, 64, table=(2, 3, 3))
    assert not found.positions.any() and found.table is not None and not found.table.any()
    for name, module in found.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            assert module.weight.std() == pytest.approx(0.02, rel=0.1), name
        if isinstance(module, nn.Linear):
            assert (module.bias is None) == (name == "head") and (name == "head" or not module.bias.any())
        if isinstance(module, nn.LayerNorm):
            assert bool((module.weight == 1).all()) and not module.bias.any() and module.eps == 1e-5
    assert found.head.weight is not found.token_embedding.weight


# What a token sees ---------------------------------------------------------------------------------------------------


def plain_gpt(found: GPT, tokens: Tensor, mask: Tensor) -> Tensor:
    """Pre-norm attention and perceptron, written out for one head after the other."""
    x = F.embedding(tokens, found.token_embedding.weight) + found.positions[:, : tokens.shape[1]]
    for block in found.blocks:
        hidden = F.layer_norm(x, x.shape[-1:], block.norm1.weight, block.norm1.bias)
        query, key, value = F.linear(hidden, block.qkv.weight, block.qkv.bias).chunk(3, -1)
        heads = []
        for q, k, v in zip(*(part.chunk(found.n_head, -1) for part in (query, key, value)), strict=True):
            scores = (q @ k.transpose(1, 2)) / q.shape[-1] ** 0.5
            heads.append(scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v)
        x = x + block.project(torch.cat(heads, -1))
        hidden = F.layer_norm(x, x.shape[-1:], block.norm2.weight, block.norm2.bias)
        x = x + block.contract(F.gelu(block.expand(hidden)))
    return F.layer_norm(x, x.shape[-1:], found.norm.weight, found.norm.bias) @ found.head.weight.t()


@pytest.mark.parametrize("masked", [False, True])
def test_transformer_against_plain_attention(masked: bool) -> None:
    found = enliven(GPT(7, 12, 2, 2, 8), 1.0).double()
    enliven(found, 1.0)
    tokens = torch.randint(7, (3, 12))
    mask = interpolation_mask(12, 3, "c") if masked else torch.ones(12, 12, dtype=torch.bool).tril()
    expected = plain_gpt(found, tokens, mask)
    torch.testing.assert_close(found(tokens, mask if masked else None), expected, rtol=1e-9, atol=1e-11)


def test_embeddings_may_stand_in_front() -> None:
    found = enliven(GPT(7, 12, 2, 2, 8), 1.0).double()
    tokens = torch.randint(7, (3, 12))
    prefix = found.token_embedding(tokens[:, :4])
    assert torch.equal(found(tokens[:, 4:], prefix=prefix), found(tokens))


@pytest.mark.parametrize("variant", ["default", "label", "text", "audio", "table"])
def test_a_token_sees_the_condition_and_those_before_it(variant: str) -> None:
    model = small(variant).eval()
    batch = example(model)
    tokens = model.tokens_of(batch)
    model.reads = "tokens"
    batch["tokens"] = tokens
    first, _ = model.predict(batch)
    assert first.shape == (3, 16, model.transformer.vocabulary)
    for place in (0, 6, 15):
        changed = tokens.flatten(1).clone()
        changed[:, place] = (changed[:, place] + 1) % CODES
        second, target = model.predict({**batch, "tokens": changed.view_as(tokens)})
        assert moved(first, second) == list(range(place + 1, 16)), "logits p are of token p"
        assert torch.equal(target, changed + model.condition_vocabulary)
    if variant in ("label", "text"):
        changed = {**batch, variant: (batch[variant] + 1) % model.condition_vocabulary}
        assert moved(first, model.predict(changed)[0]) == list(range(16))


@pytest.mark.parametrize("kind", ["a", "b", "c"])
def test_masks_between_two_latents(kind: Any) -> None:
    """From the official lines: tril; [:, :n + 1] = 1, [:, L - n + 1:] = 1; [L - n + 1:, n + 1:L - n + 1] = 0."""
    length, n = 12, 3
    mask = interpolation_mask(length, n, kind)
    for row in range(length):
        for column in range(length):
            left, right = column < n + 1, column >= length - n + 1
            sees = column <= row or (kind != "a" and (left or right))
            if kind == "c" and row >= length - n + 1 and not left and not right:
                sees = False
            assert mask[row, column] == sees, (row, column)


def test_the_latents_between_see_both_ends() -> None:
    model = between(reads="tokens")
    batch = example(model)
    n, length = LATENT, 3 * LATENT
    first, target = model.predict(batch)
    assert first.shape == (3, length, CODES) and torch.equal(target, batch["tokens"].flatten(1))
    tokens = target.clone()
    tokens[:, length - 2] = (tokens[:, length - 2] + 1) % CODES  # of the right latent, next to the last
    second, _ = model.predict({"tokens": tokens.view_as(batch["tokens"])})
    assert moved(first, second) == list(range(length))
    tokens = target.clone()
    tokens[:, n + 1] = (tokens[:, n + 1] + 1) % CODES  # between
    second, _ = model.predict({"tokens": tokens.view_as(batch["tokens"])})
    assert moved(first, second) == list(range(n + 2, length - n + 1)), "the ends do not look there"
    tokens = target.clone()
    tokens[:, -1] = (tokens[:, -1] + 1) % CODES
    second, _ = model.predict({"tokens": tokens.view_as(batch["tokens"])})
    assert moved(first, second) == [], "the last token is never read"


# Tokens and their numbers --------------------------------------------------------------------------------------------


def inputs_of(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """What the transformer reads."""
    seen: list[Tensor] = []
    forward = model.transformer.forward
    model.transformer.forward = lambda tokens, *more, **options: (
        seen.append(tokens) or forward(tokens, *more, **options)
    )
    model.predict(batch)
    model.transformer.forward = forward
    return seen[0]


@pytest.mark.parametrize(
    ("variant", "vocabulary", "length"), [("default", 0, 1), ("label", 3, 1), ("text", 9, 5), ("audio", 7, 8)]
)
def test_condition_comes_first_in_sequence_and_vocabulary(variant: str, vocabulary: int, length: int) -> None:
    model = small(variant, **({"keep_probability": 1.0} if variant == "label" else {}))
    batch = example(model)
    codes = model.tokens_of(batch).flatten(1)
    read = inputs_of(model, batch)
    assert (model.condition_vocabulary, model.condition_length) == (vocabulary, length)
    assert model.transformer.vocabulary == vocabulary + CODES and model.transformer.block == length + 15
    assert torch.equal(read[:, length:], codes[:, :-1] + vocabulary)
    condition = {
        "default": lambda: torch.zeros(3, 1, dtype=torch.int64),  # shares the number of the first code
        "label": lambda: batch["label"][:, None],
        "text": lambda: batch["text"],
        "audio": lambda: model.audio_stage.encode(batch["audio"]).flatten(1),
    }[variant]()
    assert torch.equal(read[:, :length], condition)
    assert model.task == {"default": "unconditional", "label": "class_conditional"}.get(variant, variant)


def test_loss_is_the_mean_of_all_tokens_with_accuracies() -> None:
    model = small("label", keep_probability=1.0, reads="tokens")
    model.log_every = 1
    batch = example(model, 12)
    logits, target = model.predict(batch)
    terms, logged = model.loss(batch), model.meter.flush()
    assert list(terms) == ["cross_entropy"]
    likelihood = logits.log_softmax(-1).gather(2, target[..., None])
    torch.testing.assert_close(terms["cross_entropy"].double(), -likelihood.mean(), rtol=1e-5, atol=1e-6)
    order = logits.argsort(-1, descending=True)
    hits = order == target[..., None]
    assert logged["accuracy/top1"] == pytest.approx(100 * hits[..., 0].double().mean().item())
    assert logged["accuracy/top5"] == pytest.approx(100 * hits[..., :5].any(-1).double().mean().item())


@pytest.mark.parametrize("boundary", [True, False])
def test_loss_between_counts_the_ends_or_not(boundary: bool) -> None:
    model = between(boundary_loss=boundary)
    batch = example(model)
    logits, target = model.predict(batch)
    each = F.cross_entropy(logits.transpose(1, 2), target, reduction="none")
    n, length = LATENT, 3 * LATENT
    known = [*range(n), *range(length - n, length - 1)]  # these rows see their own target
    mask = interpolation_mask(length, n)
    assert known == [row for row in range(length) if row + 1 < length and mask[row, row + 1]]
    counted = [row for row in range(length) if boundary or row not in known]
    torch.testing.assert_close(
        model.loss(batch)["cross_entropy"].double(), each[:, counted].mean(), rtol=1e-5, atol=1e-6
    )


def test_some_inputs_are_replaced_and_no_target() -> None:
    model = small("label", keep_probability=0.5)
    batch = {"video": example(model, 64)["video"], "label": example(model, 64)["label"]}
    codes = model.tokens_of(batch).flatten(1) + 3
    read = inputs_of(model, batch)
    assert torch.equal(read[:, 0], batch["label"]), "the condition stays"
    kept = (read[:, 1:] == codes[:, :-1]).double().mean()
    assert abs(kept - (0.5 + 0.5 / 14)) < 0.06
    assert set(read[:, 1:][read[:, 1:] != codes[:, :-1]].tolist()) >= {0, 1, 2}, "of the whole vocabulary"
    assert torch.equal(model.predict(batch)[1], codes)
    assert torch.equal(inputs_of(model.eval(), batch)[:, 1:], codes[:, :-1]), "in training alone"


@pytest.mark.parametrize("stride", [2, 3])
def test_sparse_latents(stride: int) -> None:
    model = small("keys", latent_stride=stride)
    batch = example(model)
    assert batch["tokens"].shape == (3, 8, 2, 2)
    kept = batch["tokens"][:, ::stride]
    assert model.clip_latents == kept.shape[1] and model.transformer.block == kept[0].numel()
    target = model.predict(batch)[1]
    assert torch.equal(target, kept.flatten(1))
    assert torch.equal(model.predict({"tokens": kept})[1], target), "the data may have left the others out"


@pytest.mark.parametrize("real_frames", [0, 2])
def test_stored_tokens_are_those_of_the_clips(real_frames: int) -> None:
    first = dict(SMALL["first_stage"]["model_args"])
    if real_frames:
        first |= {"padding": "real", "real_frames": real_frames, "num_frames": 12}
    model = small(reads="video", first_stage={"model": "tats_vqgan", "model_args": first})
    video = example(model)["video"]
    assert video.shape[2] == 8 + 2 * real_frames
    tokens = model.first_stage.encode(video)[:, real_frames // 2 :][:, :4]
    logits, target = model.predict({"video": video})
    assert torch.equal(target, tokens.flatten(1))
    model.reads = "tokens"
    assert torch.equal(model.predict({"tokens": tokens})[0], logits)


def test_table_of_places_is_cropped_where_the_clip_was() -> None:
    model = small("table", position_table=(4, 5, 6))
    table = model.transformer.table[0]
    corners = torch.tensor([[0, 0, 0], [0, 3, 1], [0, 2, 4]])
    found = model.transformer.places((4, 2, 2), corners, lead=2)
    for clip, (_, y, x) in enumerate(corners.tolist()):
        assert not found[clip, :2].any()
        assert torch.equal(found[clip, 2:], table[:4, y : y + 2, x : x + 2].flatten(0, 2))
    batch = {"tokens": example(model)["tokens"], "box": torch.tensor([[0, 2, 0, 2], [3, 5, 1, 3], [2, 4, 4, 6]])}
    logits = model.predict(batch)[0]
    for clip, box in enumerate(batch["box"].tolist()):
        other = copy.deepcopy(model)
        with torch.no_grad():  # the entry of the token that a place predicts
            part = table[:4, box[0] : box[1], box[2] : box[3]].flatten(0, 2)
            other.transformer.positions += part
            other.transformer.table.zero_()
        torch.testing.assert_close(logits[clip], other.predict(batch)[0][clip])
    assert torch.equal(model.predict({"tokens": batch["tokens"]})[0][0], logits[0]), "without a box the first corner"


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [lambda: small("table"), between])
def test_only_weights_of_linear_layers_decay(build: Callable[[], Any]) -> None:
    model = build()
    model.weight_decay = 0.3
    optimizer = model.build_optimizer()
    assert type(optimizer) is torch.optim.AdamW
    names = {id(parameter): name for name, parameter in model.transformer.named_parameters()}
    found = {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}
    layers = ("qkv", "project", "expand", "contract")
    linear = {f"blocks.{n}.{layer}.weight" for n in range(2) for layer in layers} | {"head.weight"}
    assert found == {0.3: linear, 0.0: set(names.values()) - linear}
    assert all(group["betas"] == (0.9, 0.95) and group["lr"] == 1e-2 for group in optimizer.param_groups)


def test_checkpointed_activations_have_the_same_gradients() -> None:
    batch = example(small("text"))
    slopes = []
    for option in (False, True):
        model = small("text", activation_checkpointing=option)
        calls: list[nn.Module] = []
        for block in model.transformer.blocks:
            block.register_forward_pre_hook(lambda block, _, calls=calls: calls.append(block))
        model.loss(batch)["cross_entropy"].backward()
        assert len(calls) == (4 if option else 2)
        slopes.append({name: p.grad for name, p in model.transformer.named_parameters()})
    for name, slope in slopes[0].items():
        assert torch.equal(slope, slopes[1][name]), name


@pytest.mark.parametrize("masked", [False, True])
def test_forward_compiles_without_a_break(masked: bool) -> None:
    found = enliven(GPT(7, 12, 1, 2, 8, table=(3, 2, 2)), 1.0)
    tokens = torch.randint(7, (2, 12))
    mask = interpolation_mask(12, 3) if masked else None
    places = found.places((3, 2, 2))
    torch._dynamo.reset()
    compiled = torch.compile(found, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(tokens, mask, places), found(tokens, mask, places))
    torch._dynamo.reset()


# Refusals ------------------------------------------------------------------------------------------------------------

AUDIO = VARIANTS["audio"]["audio_stage"]
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"width": 0}, "model.width 0: must be at least 1"),
    ({"reads": "codes"}, "model.reads 'codes': must be one of video, tokens"),
    ({"condition": "sound"}, "model.condition 'sound': must be one of none, label, text, audio"),
    ({"condition": "label"}, "model.dim_category 0: must be at least 1 with condition 'label'"),
    ({"dim_category": 3}, "model.dim_category 3: must be 0 with condition 'none'"),
    ({"condition": "audio"}, "model.audio_stage: must name the checkpoint of its first stage with condition 'audio'"),
    ({"audio_stage": AUDIO}, "model.audio_stage: must be left out with condition 'none'"),
    ({"keep_probability": 1.5}, "model.keep_probability 1.5: must be between 0 and 1"),
    ({"latent_stride": 0}, "model.latent_stride 0: must be at least 1"),
    ({"n_head": 3}, "model.n_embd 8: must be a multiple of n_head, 3"),
    ({"block_size": 15}, "model.block_size 15: a clip needs 16, its tokens and the condition's less one"),
    ({"num_frames": 7}, "model.num_frames 7: must be a multiple of downsample, 2"),
    (
        {"position_table": (4, 1, 2)},
        "model.position_table [4, 1, 2]: is smaller than a clip, [4, 2, 2] latents",
    ),
    ({"weight_decay": -1.0}, "model.weight_decay -1: cannot be negative"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_impossible_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    assert refusal(lambda: TATS(**{**SMALL, **arguments})) == message


def test_a_longer_block_is_allowed() -> None:
    assert small(block_size=20).transformer.block == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"gap": 3},
            "model.num_frames 6: a clip must have the latents of one gap and both ends, 8 frames for gap 3, which is"
            " at least 2",
        ),
        (
            {"gap": 1, "num_frames": 4},
            "model.num_frames 4: a clip must have the latents of one gap and both ends, 4 frames for gap 1, which is"
            " at least 2",
        ),
        ({"gap": 0}, "model.gap 0: must be at least 1"),
        ({"mask": "d"}, "model.mask 'd': must be one of a, b, c"),
        ({"sampler": "greedy"}, "model.sampler 'greedy': must be one of consistent, official"),
        ({"dim_category": -1}, "model.dim_category -1: cannot be negative"),
    ],
)
def test_impossible_gaps_are_refused(arguments: dict[str, Any], message: str) -> None:
    assert refusal(lambda: TATSInterpolation(**{**BETWEEN, "keys": None, **arguments})) == message


def spec(**change: Any) -> DataSpec:
    fitting: dict[str, Any] = {"channels": 3, "resolution": 8, "num_frames": 8, "fps": None, "num_videos": 9}
    return DataSpec(**{**fitting, "min_length": 30, "max_length": 40, **change})


def encoded(model: Any, **change: Any) -> dict[str, Any]:
    about = {"key": "tokens", "stride": 2, "num_codes": CODES, "shape": [2, 2], "full_shape": [2, 2]}
    network = model.first_stage.encoder_fingerprint()
    return {**about, "latent_stride": 1, "model": "tats_vqgan", "fingerprint": "f", "network": network, **change}


def test_fitting_data_are_accepted() -> None:
    small("label", reads="video").check_data(spec(class_names=("a", "b", "c")))
    small("text").check_data(spec(text_length=5))
    small("text").check_data(spec(text_length=5, text_vocabulary=9))
    small("audio").check_data(spec(audio_size=(8, 4)))
    model = small()
    model.check_data(spec(encoding=encoded(model)))
    model.check_data(spec(encoding=encoded(model), resolution=64))
    model.check_data(spec(encoding=encoded(model, network="")))
    keys = small("keys")
    for stride in (1, 2):
        keys.check_data(spec(num_frames=16, encoding=encoded(keys, latent_stride=stride)))
    table = small("table", position_table=(4, 6, 5))
    table.check_data(spec(encoding=encoded(table, full_shape=[6, 5])))
    real = {**SMALL["first_stage"]["model_args"], "padding": "real", "real_frames": 2, "num_frames": 12}
    model = small(reads="video", first_stage={"model": "tats_vqgan", "model_args": real})
    model.check_data(spec(num_frames=12))
    assert refusal(lambda: model.check_data(spec(num_frames=8))) == (
        "model.num_frames: is 8, but the data has frames less padding ones 4; make them equal"
    )


FOREIGN = "model.first_stage: is not what the data was encoded by; name that, or encode the data with this one"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "0" * 64}, FOREIGN),
        ({"num_codes": 12}, FOREIGN),
        ({"stride": 4}, FOREIGN),
        (
            {"shape": [4, 2]},
            "model.resolution 8: a latent has 2 x 2 tokens then, but in the data 4 x 2; make them equal",
        ),
        ({"shape": [2, 3]}, "model.width 8: a latent has 2 x 2 tokens then, but in the data 2 x 3; make them equal"),
        (
            {"latent_stride": 2},
            "data.latent_stride 2: must be 1, or model.latent_stride, 1, as the model takes one of so many latents",
        ),
        ({"full_shape": [4, 2]}, "model.position_table [4, 3, 3]: is smaller than a latent of the data, [4, 2] tokens"),
    ],
)
def test_other_tokens_are_refused(change: dict[str, Any], message: str) -> None:
    model = small("table")
    assert refusal(lambda: model.check_data(spec(encoding=encoded(model, **change)))) == message


@pytest.mark.parametrize(
    ("variant", "change", "message"),
    [
        ("label", {"channels": 1}, "model.channels: is 3, but the data has channels 1; make them equal"),
        ("label", {"resolution": 16}, "model.resolution: is 8, but the data has resolution 16; make them equal"),
        ("label", {"width": 16}, "model.width: is 8, but the data has width 16; make them equal"),
        ("label", {"num_frames": 4}, "model.num_frames: is 8, but the data has num_frames 4; make them equal"),
        (
            "label",
            {},
            "model.dim_category 3: needs labelled videos, but the data has no classes; set it to 0",
        ),
        (
            "label",
            {"class_names": ("a", "b")},
            "model.dim_category: is 3, but the data has classes 2; make them equal",
        ),
        (
            "text",
            {"text_length": 7},
            "model.text_length: is 5, but the data has texts of length 7; make them equal",
        ),
        (
            "text",
            {"text_length": 5, "text_vocabulary": 10},
            "model.text_vocabulary 9: the data's texts have 10 ids; set it to that, or more",
        ),
        ("text", {}, "model.condition 'text': needs texts, but the data has none; set data.texts"),
        (
            "audio",
            {"audio_size": (8, 8)},
            "model.audio_stage: is [8, 4], but the data has sound of size [8, 8]; make them equal",
        ),
        ("audio", {}, "model.condition 'audio': needs sound, but the data has none; set data.audio"),
        ("default", {}, "model.reads 'tokens': the data holds videos; set it to 'video'"),
        (
            "label",
            {"encoding": {"key": "tokens"}},
            "model.reads 'video': the data holds tokens; set it to 'tokens'",
        ),
        (
            "default",
            {"encoding": {"key": "latents"}},
            "model.reads 'tokens': the data holds latents; encode it with the first stage, or give the videos",
        ),
    ],
)
def test_other_data_are_refused(variant: str, change: dict[str, Any], message: str) -> None:
    assert refusal(lambda: small(variant).check_data(spec(**change))) == message


def test_arguments_that_a_description_leaves_out_are_those_of_the_constructor() -> None:
    given = {"channels": 1, "n_codes": 5}
    opened = open_stage("first_stage", {"model": "tats_vqgan", "model_args": given}, "tats_vqgan")
    assert opened.arguments == TATSVQGAN(**given).init_args
