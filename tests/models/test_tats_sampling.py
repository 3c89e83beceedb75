"""Samples of TATS: which token is chosen, the memory, sliding and dense windows, the hierarchy, streams, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.watching import enliven
from vidgen.errors import UserError
from vidgen.models.tats.gpt import GPT, Cache, interpolation_mask
from vidgen.models.tats.interpolation import TATSInterpolation
from vidgen.models.tats.sampling import (
    Choice,
    Uniform,
    filtered,
    generate,
    generate_uncached,
    greedy,
    interpolate,
    slide,
    slide_densely,
)
from vidgen.models.tats.transformer import TATS
from vidgen.seeding import NoiseStream, derive_seed, draw_numbered

VARIANTS = TATS.small_variants()
VARIANTS["table"] |= {"num_frames": 8, "position_table": (4, 3, 3)}
BETWEEN = TATSInterpolation.small_variants()
CODES, SIZE = 11, 4
OPTIONS: dict[str, Any] = {"top_k": 7, "top_p": 0.9, "temperature": 1.3}


def lively(model: Any) -> Any:
    """In float64, in use, with weights that matter."""
    for part in model.children():
        enliven(part, 1.0)
    return model.double().eval()


def small(variant: str = "default", **arguments: Any) -> TATS:
    torch.manual_seed(0)
    return lively(TATS(**{**VARIANTS[variant], **arguments}))


def between(variant: str = "default", **arguments: Any) -> TATSInterpolation:
    torch.manual_seed(0)
    return lively(TATSInterpolation(**{**BETWEEN[variant], **arguments}))


def gpt(vocabulary: int = 9, block: int = 20, table: tuple[int, int, int] | None = None) -> GPT:
    torch.manual_seed(0)
    return enliven(enliven(GPT(vocabulary, block, 2, 2, 8, table), 1.0), 1.0).double().eval()


def uniform(number: int, size: int, seed: int = 3) -> Tensor:
    return NoiseStream(seed, dtype=torch.float64).uniform(number, size)


def tokens(number: int, *shape: int, below: int = 9, seed: int = 4) -> Tensor:
    return NoiseStream(seed).integers(below, number, *shape)


def refusal(build: Callable[..., object], *arguments: Any, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        build(*arguments, **options)
    return str(error.value)


# Which token ---------------------------------------------------------------------------------------------------------


def plain_filter(row: list[float], top_k: int, top_p: float) -> list[bool]:
    """Which logits stay, from section 4 of the specification."""
    k = min(top_k, len(row))
    least = sorted(row, reverse=True)[k - 1] if k else -float("inf")
    stays = [value >= least for value in row]
    order = sorted((n for n in range(len(row)) if stays[n]), key=lambda n: -row[n])
    weights = torch.tensor([row[n] for n in order], dtype=torch.float64).softmax(0).tolist()
    total = 0.0
    for place, n in enumerate(order):
        if place and total > top_p:
            stays[n] = False
        total += weights[place]
    return stays


@pytest.mark.parametrize("top_k", [0, 1, 3, 9, 50])
@pytest.mark.parametrize("top_p", [0.0, 0.3, 0.92, 1.0])
def test_filters(top_k: int, top_p: float) -> None:
    logits = torch.randn(20, 9, dtype=torch.float64)
    found = filtered(logits, top_k, top_p)
    for row, kept in zip(logits, found, strict=True):
        stays = plain_filter(row.tolist(), top_k, top_p)
        assert (kept > -torch.inf).tolist() == stays and torch.equal(kept[stays], row[stays])


def test_ties_at_the_kth_value_stay() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0, 2.0]])
    for top_p, kept in ((1.0, [1, 2, 3, 5]), (0.999, [1, 2, 3, 5])):
        assert (filtered(logits, 2, top_p)[0] > -torch.inf).nonzero().flatten().tolist() == kept
    found = filtered(logits, 2, 0.0)[0] > -torch.inf
    assert found.nonzero().flatten().tolist() == [1], "the likeliest always stays"
    assert (filtered(torch.zeros(1, 4), 4, 0.5) > -torch.inf).sum() == 3, "dropped after what is above top_p"


def test_choice() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 4.0]], dtype=torch.float64)
    plain = Choice(2.0).probabilities(logits)
    assert plain.dtype == torch.float32
    torch.testing.assert_close(plain, (logits / 2).softmax(-1).float())
    assert torch.equal(Choice(2.0, None, 0.1).probabilities(logits), plain), "top_p acts with top_k alone"
    two = Choice(2.0, 2).probabilities(logits)
    torch.testing.assert_close(two[0, 2:], (logits[0, 2:] / 2).softmax(-1).float())
    assert not two[0, :2].any()
    # of temperature 2, 4 has 0.62 of the four and 0.73 of the two: top_k comes before top_p, temperature before both
    assert Choice(2.0, 2, 0.7).probabilities(logits)[0, 3] == 1
    assert Choice(2.0, 4, 0.7).probabilities(logits)[0, 2] > 0
    assert greedy(plain).tolist() == [3]


def test_uniform_numbers_invert_the_distribution() -> None:
    chances = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    number = 4000
    found = Uniform(uniform(number, 1))(chances.expand(number, -1))
    counted = torch.bincount(found, minlength=6)
    expected = number * chances
    assert not counted[chances == 0].any()
    statistic = ((counted - expected) ** 2 / expected.clamp(min=1e-9))[chances > 0].sum()
    assert statistic < 9.2, "a hundredth of samples of two degrees of freedom is farther off"
    drawn = Uniform(torch.tensor([[0.0], [0.19], [0.21], [0.69], [0.71], [1 - 2**-53]], dtype=torch.float64))
    assert drawn(chances.expand(6, -1)).tolist() == [1, 1, 3, 3, 4, 4]


def test_uniform_numbers_take_no_token_that_cannot_be() -> None:
    near = torch.tensor([0.0, 2.0**-53, 1 - 2.0**-53], dtype=torch.float64)
    for seed in range(20):
        chances = filtered(torch.randn(1, 40, generator=torch.Generator().manual_seed(seed)), 3, 0.9).softmax(-1)
        picked = Uniform(near[:, None])(chances.expand(3, -1))
        assert (
            chances[0, picked].all() and picked[0] == chances[0].nonzero()[0] and picked[2] == chances[0].nonzero()[-1]
        )


def test_uniform_numbers_are_used_one_after_the_other() -> None:
    pick = Uniform(torch.tensor([[0.1, 0.9, 0.5], [0.9, 0.1, 0.5]], dtype=torch.float64))
    chances = torch.tensor([[0.4, 0.4, 0.2]]).expand(2, -1)
    assert [pick(chances).tolist() for _ in range(3)] == [[0, 2], [2, 0], [1, 1]]


# Memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 5])
@torch.no_grad()
@pytest.mark.parametrize("choice", [Choice(), Choice(0.7, 4, 0.8), Choice(2.0, 3), Choice(1.0, 9, 0.5)])
def test_memory_changes_no_token(choice: Choice, length: int) -> None:
    found, given, numbers = gpt(), tokens(3, length), uniform(3, 12)
    expected = generate_uncached(found, given, 12, choice, Uniform(numbers))
    assert len(expected.unique()) > 1
    cache = Cache(found, 3, length + 11)
    assert torch.equal(generate(found, cache, given, 12, choice, Uniform(numbers)), expected)
    assert cache.filled == length + 11
    # the same in two parts, of which the second forgets what came after the first tokens
    cache.keep(length)
    prefix = expected[:, :6]
    tail = Uniform(numbers[:, 6:])
    assert torch.equal(generate(found, cache, prefix, 6, choice, tail), expected[:, 6:])


@torch.no_grad()
def test_memory_with_a_table_of_places() -> None:
    found = gpt(table=(3, 2, 2))
    given, numbers = tokens(2, 3), uniform(2, 12)
    places = found.places((3, 2, 2), None, lead=2)
    made = generate(found, Cache(found, 2, 14), given, 12, Choice(), Uniform(numbers), places)
    pick, sequence = Uniform(numbers), given
    for _ in range(12):
        logits = found(sequence, places=places[:, : sequence.shape[1]])[:, -1]
        sequence = torch.cat([sequence, pick(Choice().probabilities(logits))[:, None]], 1)
    assert torch.equal(made, sequence[:, 3:])


# Windows -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def plain_slide(
    found: Any, condition: Tensor, size: int, window: int, numbers: Tensor, choices: list[Choice]
) -> Tensor:
    """Latent after latent from the condition and those before it, everything read again; numbers ``(B, T, size)``."""
    made: list[Tensor] = []
    for latent in range(numbers.shape[1]):
        sequence = torch.cat([condition, *made[max(0, latent - window) :]], 1)
        pick = Uniform(numbers[:, latent])
        for _ in range(size):
            token = pick(choices[latent].probabilities(found(sequence)[:, -1]))
            sequence = torch.cat([sequence, token[:, None]], 1)
        made.append(sequence[:, -size:])
    return torch.stack(made, 1)


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 4])
@torch.no_grad()
def test_sliding_windows(window: int, length: int) -> None:
    found, condition, numbers = gpt(), tokens(3, length), uniform(3, 24).view(3, 6, 4)
    choices = [Choice(1.0, 9, 0.99)] * 2 + [Choice(0.8, 5, 0.9)] * 4
    expected = plain_slide(found, condition, 4, window, numbers, choices)
    assert len(expected.unique()) > 2
    made = slide(found, condition, 4, 6, window, lambda number: (choices[number], Uniform(numbers[:, number])))
    assert torch.equal(torch.stack(list(made), 1), expected)


@pytest.mark.parametrize("window", [1, 2])
@torch.no_grad()
def test_dense_windows(window: int) -> None:
    """Each token from the clip-sized window around it; those that are not made yet are 0 there, and are not seen."""
    trained, size, vocabulary = (3, 2, 2), (5, 3, 4), 9
    found = gpt(block=12, table=(3, 3, 4))
    condition, numbers = tokens(2, 1), uniform(2, 60)
    choice, pick = Choice(1.0, vocabulary), Uniform(numbers)
    volume = torch.zeros(2, *size, dtype=torch.int64)
    for t in range(size[0]):
        for y in range(size[1]):
            for x in range(size[2]):
                local = []
                for at, total, own, before in zip((t, y, x), size, trained, (window, 1, 1), strict=True):
                    if at <= before:
                        local.append(at)
                    elif total - at <= own - before:
                        local.append(own - (total - at))
                    else:
                        local.append(before)
                corner = [a - b for a, b in zip((t, y, x), local, strict=True)]
                part = volume[(slice(None), *(slice(c, c + s) for c, s in zip(corner, trained, strict=True)))]
                place = (local[0] * trained[1] + local[1]) * trained[2] + local[2]
                sequence = torch.cat([condition, part.flatten(1)], 1)[:, :-1]
                table = found.table[:, :3, corner[1] : corner[1] + 2, corner[2] : corner[2] + 2].flatten(1, 3)
                logits = found(sequence, places=table)[:, place]
                volume[:, t, y, x] = pick(choice.probabilities(logits))
    made = slide_densely(found, condition, size, trained, window, choice, Uniform(numbers))
    assert torch.equal(made, volume) and len(made.unique()) > 2


# Between two latents -------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("official", [False, True])
def test_what_lies_between(official: bool) -> None:
    n, length = 4, 20
    found = gpt()
    condition, left, right, numbers = tokens(30, 1), tokens(30, n), tokens(30, n, seed=8), uniform(30, length - 2 * n)
    choice = Choice(2.0, 8, 0.99)
    made = interpolate(found, condition, left, right, choice, Uniform(numbers), official)
    pick = Uniform(numbers)
    mask = interpolation_mask(length, n, "c")
    between: list[Tensor] = []
    for step in range(length - 2 * n):
        if official:
            ends, corner = torch.cat([condition, left, right], 1), mask[: 2 * n + 1, : 2 * n + 1]
            seen = torch.cat([ends, *between], 1)
            places = [*range(n + 1), *range(length - n, length), *range(n + 1, n + 1 + step)]
            sees = torch.ones(len(places), len(places), dtype=torch.bool).tril()
            sees[: 2 * n + 1, : 2 * n + 1] = corner
            logits = masked(found, seen, places, sees)[:, -1]
        else:
            filler = torch.zeros(30, length - 2 * n - step, dtype=torch.int64)
            whole = torch.cat([condition, left, *between, filler, right[:, :-1]], 1)
            logits = found(whole, mask)[:, n + step]
        between.append(pick(choice.probabilities(logits))[:, None])
    assert torch.equal(made, torch.cat(between, 1)) and len(made.unique()) > 2
    other = interpolate(found, condition, left, right, choice, Uniform(numbers), not official)
    assert not torch.equal(made, other)


def masked(found: GPT, seen: Tensor, places: list[int], mask: Tensor) -> Tensor:
    """Logits of tokens at places that are not in order."""
    x = found.token_embedding(seen) + found.positions[:, places]
    for block in found.blocks:
        x = block(x, mask)
    return found.head(found.norm(x))


# Models --------------------------------------------------------------------------------------------------------------


def draws(seed: int, what: str, number: int, videos: range, size: int) -> Tensor:
    part = derive_seed(seed, what, number)
    return draw_numbered(videos, part, lambda noise: torch.rand(size, generator=noise, dtype=torch.float64))


def first_latents(model: Any, number: int, **options: Any) -> Tensor:
    """Tokens ``(B, number, h * w)`` that the model makes."""
    start = model._starting(**{**defaults(model), **options})
    made: Iterator[Tensor] = start()
    with torch.no_grad():
        return torch.stack([next(made) for _ in range(number)], 1)


def defaults(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"num_videos": 2, "seed": 5, "first": 3, "label": None, "window": None, **OPTIONS}
    if isinstance(model, TATS):
        return {**found, "batch": None}
    return {**found, "first_top_k": None, "first_top_p": None, "sampler": None}


@pytest.mark.parametrize("variant", ["default", "label", "text", "audio"])
@pytest.mark.parametrize("window", [1, 2, None])
def test_tokens_of_a_model(variant: str, window: int | None) -> None:
    model = small(variant)
    batch = model.example_batch(2)
    batch = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    options: dict[str, Any] = {"batch": batch, "window": window}
    if variant == "label":
        options["label"] = 2
        batch["label"] = torch.tensor([2, 2])
    condition = model.condition_tokens(batch, 2)
    numbers = torch.stack([draws(5, "latent", latent, range(3, 5), SIZE) for latent in range(6)], 1)
    choices = [Choice(1.3, 7, 0.9)] * 6
    expected = plain_slide(model.transformer, condition, SIZE, window or 3, numbers, choices)
    expected = (expected - model.condition_vocabulary).clamp(0, CODES - 1)
    assert torch.equal(first_latents(model, 6, **options), expected) and len(expected.unique()) > 2
    frames = model.sample(2, num_frames=12, seed=5, first=3, **{**OPTIONS, **options})
    assert torch.equal(frames, model.first_stage.decode(expected.unflatten(2, (2, 2))))


@torch.no_grad()
def test_tokens_of_a_model_with_a_table() -> None:
    model = small("table")
    made = first_latents(model, 4)
    places = model.transformer.places((4, 2, 2))
    condition = torch.zeros(2, 1, dtype=torch.int64)
    numbers = torch.cat([draws(5, "latent", latent, range(3, 5), SIZE) for latent in range(4)], 1)
    cache = Cache(model.transformer, 2, 16)
    expected = generate(model.transformer, cache, condition, 16, Choice(1.3, 7, 0.9), Uniform(numbers), places)
    assert torch.equal(made.flatten(1), expected), "one window, of the whole clip"
    assert model.max_frames == 8
    dense = model.sample_densely(2, 10, 12, 12, seed=5, first=3, window=2)
    assert dense.shape == (2, 3, 10, 12, 12)
    rows = draws(5, "dense", 0, range(3, 5), 45)
    tokens_ = slide_densely(
        model.transformer, condition, (5, 3, 3), (4, 2, 2), 2, Choice(1.0, 2048, 1.0), Uniform(rows)
    )
    assert torch.equal(dense, model.first_stage.decode(tokens_))


def test_sparse_latents_stand_still() -> None:
    model = small("keys")
    made = first_latents(model, 6)
    assert torch.equal(made[:, ::2], made[:, 1::2]) and not torch.equal(made[:, 0], made[:, 2])


def test_classes_are_drawn_for_each_video() -> None:
    model = small("label")
    found = torch.cat([model._condition_of(range(n, n + 1), 5, None, None) for n in range(40)])[:, 0]
    assert torch.equal(model._condition_of(range(40), 5, None, None)[:, 0], found)
    assert set(found.tolist()) == {0, 1, 2}
    assert model._condition_of(range(2), 5, None, 1).tolist() == [[1], [1]]


@pytest.mark.parametrize("variant", ["default", "label"])
def test_hierarchy(variant: str) -> None:
    model = between(variant)
    assert model.key_model is not None
    options: dict[str, Any] = {"first_top_k": 9, "first_top_p": 0.99, "window": 2}
    options |= {"label": 1} if model.dim_category else {}
    made = first_latents(model, 9, **options)
    condition = torch.full((2, 1), 1 if model.dim_category else 0)
    numbers = torch.stack([draws(5, "latent", key, range(3, 5), SIZE) for key in range(5)], 1)
    choices = [Choice(1.3, 9, 0.99)] * 2 + [Choice(1.3, 7, 0.9)] * 3
    keys = plain_slide(model.key_model, condition, SIZE, 2, numbers, choices)
    assert torch.equal(made[:, ::2], (keys - model.dim_category).clamp(0, CODES - 1)), "at 0, gap, 2 gap, …"
    official = variant == "label"  # as that variant is configured
    for gap in range(4):
        pick = Uniform(draws(5, "between", gap, range(3, 5), SIZE))
        with torch.no_grad():
            between_ = interpolate(
                model.transformer, condition, keys[:, gap], keys[:, gap + 1], Choice(1.0, 7, 0.9), pick, official
            )
        assert torch.equal(made[:, 2 * gap + 1], (between_ - model.dim_category).clamp(0, CODES - 1))
    other = first_latents(model, 9, **options, sampler="consistent" if official else "official")
    assert torch.equal(other[:, ::2], made[:, ::2]) and not torch.equal(other, made)
    frames = model.sample(2, num_frames=17, seed=5, first=3, **{**OPTIONS, **options})
    assert torch.equal(frames, model.first_stage.decode(made.unflatten(2, (2, 2)))[:, :, :17])


@pytest.mark.parametrize("build", [small, between])
def test_stream_in_any_pieces_is_the_sample(build: Callable[[], Any]) -> None:
    model = build()
    expected = model.sample(2, num_frames=23, seed=5, first=3, **OPTIONS)
    for pieces in ([23], [1, 1, 5, 16], [8, 8, 7], [3, 20]):
        state, made = None, []
        for piece in pieces:
            options = {"seed": 5, "first": 3, "total_frames": 23, **OPTIONS}
            frames, state = model.stream(None, state, num_videos=2, num_frames=piece, **options)
            assert frames.shape[2] == piece
            made.append(frames)
            before, after = model.first_stage.decoder_reach
            first, end = max(0, state.frames // 2 - before), min(12, -(-state.frames // 2) + after)
            assert (state.first, len(state.kept)) == (first, end - first), "memory does not grow"
        torch.testing.assert_close(torch.cat(made, 2), expected, rtol=0, atol=1e-6)
    endless, _ = model.stream(num_videos=2, num_frames=12, seed=5, first=3, **OPTIONS)
    assert model.lookahead_frames is not None
    longer = model.sample(2, num_frames=12 + model.lookahead_frames, seed=5, first=3, **OPTIONS)
    torch.testing.assert_close(endless, longer[:, :, :12], rtol=0, atol=1e-6)


def test_long_videos_are_decoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    expected = model.sample(2, num_frames=22, seed=5)
    parts: list[int] = []
    decode = model.first_stage.decode
    monkeypatch.setattr(model.first_stage, "decode", lambda codes: parts.append(codes.shape[1]) or decode(codes))
    monkeypatch.setattr("vidgen.models.tats.token_model.CHUNK", 3)
    torch.testing.assert_close(model.sample(2, num_frames=22, seed=5), expected, rtol=0, atol=1e-6)
    assert len(parts) == 4, "3 latents at once, of 11"


@pytest.mark.parametrize("build", [lambda: small("label"), lambda: between("label")])
def test_videos_depend_on_seed_and_number_alone(build: Callable[[], Any]) -> None:
    model = build()
    together = model.sample(3, num_frames=8, seed=5, first=3, **OPTIONS)
    for video in range(3):
        alone = model.sample(1, num_frames=8, seed=5, first=3 + video, **OPTIONS)
        torch.testing.assert_close(together[video : video + 1], alone, rtol=0, atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    assert not torch.allclose(model.sample(3, num_frames=8, seed=6, first=3, **OPTIONS), together, atol=1e-3)
    generator = torch.get_rng_state()
    model.train().sample(1, num_frames=4)
    assert torch.equal(torch.get_rng_state(), generator)


# Refusals ------------------------------------------------------------------------------------------------------------


def test_videos_go_on_once() -> None:
    model = small()
    _, state = model.stream(num_frames=4)
    model.stream(None, state, num_frames=4)
    message = "stream: these videos went on from here before; continue what that call returned"
    assert refusal(model.stream, None, state, num_frames=4) == message
    _, state = model.stream(num_frames=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.first_stage, "decode_part", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model.stream(None, state, num_frames=4)
    assert refusal(model.stream, None, state, num_frames=4) == message, "latents were lost"


@pytest.mark.parametrize(
    ("mixing", "change"),
    [
        ("group norm", {"norm": "group", "n_hiddens": 16, "downsample": (2, 2, 2)}),
        ("circular padding", {"padding": "circular", "padding_scope": "all", "downsample": (2, 2, 2)}),
    ],
)
def test_a_decoder_that_needs_the_whole_video_does_not_stream(mixing: str, change: dict[str, Any]) -> None:
    first = {**VARIANTS["default"]["first_stage"]["model_args"], **change}
    model = small(first_stage={"model": "tats_vqgan", "model_args": first}, resolution=4, num_frames=4)
    whole, _ = model.stream(num_frames=7, total_frames=7)
    assert torch.equal(whole, model.sample(1, num_frames=7))
    message = f"stream: the first stage's {mixing} needs the whole video at once; use sample"
    assert refusal(model.stream, num_frames=4) == message
    assert refusal(model.stream, num_frames=4, total_frames=7) == message
    assert model.lookahead_frames is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vidgen.models.tats.token_model.CHUNK", 1)
        assert torch.equal(model.sample(1, num_frames=7), whole)


def test_a_transformer_that_diverged_makes_nothing() -> None:
    model = small()
    with torch.no_grad():
        model.transformer.head.weight[0, 0] = torch.nan
    message = "tats: the transformer's logits are NaN: its training diverged; take an earlier checkpoint"
    assert refusal(model.sample, 2) == message
    assert refusal(model.sample, 2, top_k=None) == message


WINDOW = "window {}: must be between 1 and {}, which fit beside a new {}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature 0: must be above 0"),
        ({"temperature": float("nan")}, "temperature nan: must be above 0"),
        ({"top_k": 0}, "top_k 0: must be at least 1, or left out"),
        ({"top_p": 1.5}, "top_p 1.5: must be between 0 and 1"),
        ({"top_p": float("nan")}, "top_p nan: must be between 0 and 1"),
        ({"label": 3}, "label 3: must be left out: the model has no classes"),
        ({"num_videos": 0}, "num_videos 0: must be at least 1"),
        ({"num_frames": 0}, "num_frames 0: must be at least 1"),
        ({"num_frames": -2}, "num_frames -2: must be at least 1"),
    ],
)
@pytest.mark.parametrize("build", [small, between])
def test_impossible_samples_are_refused(build: Callable[[], Any], options: dict[str, Any], message: str) -> None:
    model = build()
    given = {"num_videos": 1, "num_frames": 4, **options}
    assert refusal(model.sample, **given) == message
    assert refusal(model.stream, **given) == message


def test_impossible_windows_are_refused() -> None:
    model, hierarchy = small(), between()
    for window in (0, 4):
        assert refusal(model.sample, 1, window=window) == WINDOW.format(window, 3, "latent")
    for window in (0, 4):
        message = WINDOW.format(window, 3, "key frame")
        assert refusal(hierarchy.sample, 1, window=window) == message
    assert refusal(hierarchy.sample, 1, sampler="best") == ("sampler 'best': must be one of consistent, official")
    assert refusal(hierarchy.sample, 1, first_top_k=0) == "top_k 0: must be at least 1, or left out"
    assert refusal(hierarchy.sample, 1, first_top_p=2.0) == "top_p 2: must be between 0 and 1"
    assert refusal(small("label").sample, 1, label=3) == "label 3: must be between 0 and 2"
    assert refusal(model.stream, num_frames=9, total_frames=8) == (
        "num_frames 9: 0 frames were made, and the videos have 8"
    )
    _, state = model.stream(num_frames=6, total_frames=8)
    assert refusal(model.stream, None, state, num_frames=3, total_frames=8) == (
        "num_frames 3: 6 frames were made, and the videos have 8"
    )
    model.stream(None, state, num_frames=2, total_frames=8)


def test_conditions_that_do_not_fit_are_refused() -> None:
    text, audio = small("text"), small("audio")
    needs = "tats: makes videos from text; give a batch with 'text'"
    assert refusal(text.sample, 1) == needs
    assert refusal(text.sample, 1, batch={"video": torch.zeros(1)}) == needs
    rows = torch.zeros(2, 5, dtype=torch.int64)
    assert refusal(text.sample, 1, batch={"text": rows}) == "tats: 1 videos of 2 given texts; make the two equal"
    for wrong in (rows[:, :4], rows - 1, rows + 9, rows[0]):
        assert refusal(text.sample, len(wrong), batch={"text": wrong}) == (
            f"tats: the given text is {tuple(wrong.shape)}; it must be (N, 5) tokens below 9"
        )
    sound = torch.zeros(2, 1, 8, 8, 4, dtype=torch.float64)
    for wrong in (sound[:, :, :4], sound.expand(-1, 3, -1, -1, -1), sound[:, 0]):
        assert refusal(audio.sample, 2, batch={"audio": wrong}) == (
            f"tats: the given audio is {tuple(wrong.shape)}; it must be (2, 1, 8, 8, 4)"
        )
    frames, _ = audio.stream({"audio": sound}, num_frames=3)
    assert frames.shape == (2, 3, 3, 8, 8), "as many videos as there is sound for"


def test_lengths_that_cannot_be_are_refused() -> None:
    table = small("table")
    long = "num_frames 9: tats with a table of places makes videos of 1 to 8 frames"
    assert refusal(table.sample, 1, num_frames=9) == long
    begun, state = table.stream(num_frames=6)
    assert torch.equal(begun, table.sample(1)[:, :, :6]), "of a video of 8 frames"
    assert refusal(table.stream, None, state, num_frames=3) == long
    assert refusal(table.stream, num_frames=3, total_frames=9) == long
    single = small(num_frames=2)
    assert single.max_frames == 2 and single.sample(1).shape[2] == 2
    assert refusal(single.sample, 1, num_frames=3) == (
        "num_frames 3: tats of a single latent makes videos of 1 to 2 frames"
    )


def test_dense_windows_that_cannot_be_are_refused() -> None:
    model = small("table")
    needs = "tats: dense windows need model.position_table, and no condition but a label"
    assert refusal(small().sample_densely, 1, 8, 8, 8) == needs
    assert refusal(small("text", position_table=(4, 3, 3)).sample_densely, 1, 8, 8, 8) == needs
    sparse = small("table", latent_stride=2)
    assert refusal(sparse.sample_densely, 1, 8, 8, 8) == "tats: dense windows need all latents, not one of 2"
    for window in (0, 4):
        message = WINDOW.format(window, 3, "latent")
        assert refusal(model.sample_densely, 1, 8, 8, 8, window=window) == message
    for size, shape in (((6, 8, 8), [3, 2, 2]), ((8, 4, 8), [4, 1, 2]), ((8, 8, 16), [4, 2, 4])):
        assert refusal(model.sample_densely, 1, *size) == (
            f"tats: a video of {shape} latents must be no smaller than a clip, [4, 2, 2], and no higher or wider than"
            " the table of places, [4, 3, 3]"
        )
    assert refusal(model.sample_densely, 1, 8, 8, 9) == ("tats: makes videos of multiples of 2 x 4 x 4, not 8 x 8 x 9")
    assert refusal(model.sample_densely, 0, 8, 8, 8) == "num_videos 0: must be at least 1"
