"""Every registered model samples, loads and documents itself as the contract says."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import docstring_parser
import pytest
import torch

import vidgen
from tests.contract.running import build, largest_difference, models, train, variants, weights
from vidgen.errors import UserError
from vidgen.models.base import Batch, VideoModel
from vidgen.registry import MODELS

every_variant = pytest.mark.parametrize(("name", "variant"), variants())
every_model = pytest.mark.parametrize("name", models())


def conditions(model: VideoModel, number: int, first: int = 0) -> dict[str, Batch]:
    """The batch of videos ``first`` and those that follow, for a model that samples from one."""
    if not model.sample_keys:
        return {}
    whole = model.example_batch(8)
    return {"batch": {key: whole[key][first : first + number] for key in model.sample_keys}}


def whole_groups(model: VideoModel, number: int) -> int:
    """The least number from ``number`` that is one of whole groups."""
    return -(-number // model.sampling_group) * model.sampling_group


def samples(model: VideoModel, number: int, **keywords: Any) -> torch.Tensor:
    """Sample videos of whole groups, at least ``number``, in eval mode."""
    model.eval()
    number = whole_groups(model, number)
    return model.sample(number, **conditions(model, number, keywords.get("first", 0)), **keywords)


def lively(name: str, variant: str) -> VideoModel:
    """A tiny model whose layers neither swallow nor drown what goes in, whatever its paper starts from."""
    model = build(name, variant)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
    return model


@every_variant
def test_shape_and_range(name: str, variant: str) -> None:
    model = lively(name, variant)
    arguments, number = model.init_args, whole_groups(model, 3)
    longest = model.max_frames
    for frames in (None, 1, arguments["num_frames"] + 3 if longest is None else longest):
        videos = samples(model, number, num_frames=frames, seed=1)
        length = frames or arguments["num_frames"]
        assert videos.shape == (number, arguments["channels"], length, arguments["resolution"], arguments["resolution"])
        assert videos.dtype == torch.float32 and videos.min() >= -1 and videos.max() <= 1
        assert not videos.requires_grad and videos.is_contiguous()


@every_variant
def test_seed_and_number_decide_a_video(name: str, variant: str) -> None:
    model = lively(name, variant)
    cut = whole_groups(model, 2)
    together = samples(model, 5, seed=3)
    torch.manual_seed(99)
    apart = torch.cat([samples(model, cut, seed=3), samples(model, len(together) - cut, seed=3, first=cut)])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
    assert torch.equal(together, samples(model, 5, seed=3))
    assert not torch.allclose(together[0], together[1], atol=1e-3)
    if model.stochastic:
        assert not torch.allclose(together, samples(model, 5, seed=4), atol=1e-3)
    else:
        assert torch.equal(together, samples(model, 5, seed=4))


@every_variant
def test_only_what_the_model_says_it_reads_matters(name: str, variant: str) -> None:
    model = lively(name, variant).eval()
    number = whole_groups(model, 2)
    batch = {key: value[:number] for key, value in model.example_batch(8).items()}
    others = ({key: value[:number] for key, value in model.example_batch(8, seed).items()} for seed in range(1, 50))
    other = next(found for found in others if not any(torch.equal(found[key], batch[key]) for key in batch))
    needed = {key: batch[key] for key in model.sample_keys}
    given = {"batch": needed} if needed else {}
    made = model.sample(number, seed=2, **given)
    if "video" in needed:
        if model.task == "autoencoder":  # all of a clip is read, and all of a sample is the model's own
            assert model.context_frames == model.init_args["num_frames"] and model.given_frames_for({}) == 0
        else:
            assert 0 < model.context_frames < batch["video"].shape[2]
            assert model.given_frames_for({}) == model.context_frames
        beginning = needed["video"][:, :, : model.context_frames]
        for rest in (other["video"], beginning[:, :, :0]):
            shown = {**needed, "video": torch.cat([beginning, rest], 2)}
            assert torch.equal(model.sample(number, seed=2, batch={**other, **shown}), made)
    for key in needed:
        changed = {**needed, key: other[key]}
        assert not torch.allclose(model.sample(number, seed=2, batch=changed), made, atol=1e-3), key
    assert model.keys_for({}) == model.sample_keys and model.context_frames_for({}) == model.context_frames
    assert model.sampling_group_for({}) == model.sampling_group


@every_variant
def test_sampling_leaves_no_trace(name: str, variant: str) -> None:
    model = lively(name, variant)
    samples(model, 2)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    before, generator = weights(model), torch.get_rng_state()
    samples(model, 2, num_frames=3)
    assert largest_difference(weights(model), before) == 0 and torch.equal(torch.get_rng_state(), generator)
    assert not any(module.training for module in model.modules()) and not model.meter.flush()
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(parameter.grad is None for parameter in model.parameters())


def settled_frames(model: VideoModel, wanted: int) -> tuple[int, int]:
    """Frames that the end of the longest video in a test leaves alone, ``wanted`` where the model makes so long ones.

    And how many it does not.

    Raises:
        AssertionError: there are none.
    """
    beyond = model.lookahead_frames
    assert beyond is not None, "all frames depend on the end of the video: what else can be asked of such a model?"
    if model.max_frames is None:
        return wanted, beyond
    settled = min(wanted, model.max_frames - beyond - 1)
    assert settled >= 1, "all frames depend on the end of the video: give the variant longer clips"
    return settled, beyond


@every_variant
def test_longer_videos_begin_like_shorter_ones(name: str, variant: str) -> None:
    model = lively(name, variant)
    settled, beyond = settled_frames(model, 4)
    shorter = settled + beyond
    longer = shorter + 4 if model.max_frames is None else model.max_frames
    short, long = samples(model, 2, num_frames=shorter, seed=5), samples(model, 2, num_frames=longer, seed=5)
    torch.testing.assert_close(long[:, :, :settled], short[:, :, :settled], rtol=0, atol=1e-5)


@every_variant
def test_impossible_lengths_are_refused(name: str, variant: str) -> None:
    model = build(name, variant)
    refused = [0] if model.max_frames is None else [0, model.max_frames + 1]
    for frames in refused:
        with pytest.raises(UserError, match=f"^num_frames {frames}: "):
            samples(model, 1, num_frames=frames)


def streamed(model: VideoModel, number: int, lengths: list[int], total: int | None) -> torch.Tensor:
    """Videos of several calls of ``stream``."""
    pieces, state, given = [], None, conditions(model, number)
    for length in lengths:
        frames, state = model.stream(
            given.get("batch"), state, num_videos=number, num_frames=length, seed=5, total_frames=total
        )
        assert frames.shape[2] == length
        pieces.append(frames)
    return torch.cat(pieces, 2)


@every_variant
def test_stream_concatenates_to_sample(name: str, variant: str) -> None:
    model = lively(name, variant).eval()
    assert model.streams or model.max_frames is not None
    piece = 4 if model.max_frames is None else model.max_frames // 4
    lengths = [piece, 2 * piece - 1, 1]
    number, total = whole_groups(model, 3), 3 * piece
    whole = samples(model, number, num_frames=total, seed=5)
    torch.testing.assert_close(streamed(model, number, lengths, total), whole, rtol=0, atol=1e-5)


@every_variant
def test_stream_without_an_end_makes_the_beginning_of_longer_videos(name: str, variant: str) -> None:
    model = lively(name, variant).eval()
    (settled, beyond), number = settled_frames(model, 12), whole_groups(model, 3)
    longer = samples(model, number, num_frames=settled + max(1, beyond), seed=5)
    lengths = [settled // 3, settled - settled // 3 - 1, 1]
    endless = streamed(model, number, [length for length in lengths if length], None)
    torch.testing.assert_close(endless, longer[:, :, :settled], rtol=0, atol=1e-5)


@every_variant
def test_checkpoint_round_trip(name: str, variant: str, tmp_path: Path) -> None:
    model = build(name, variant)
    train(model, 3, folder=tmp_path, ema=True)
    path = tmp_path / "iteration_00000003.ckpt"
    raw, averaged = vidgen.load(path, ema=False), vidgen.load(path)
    assert type(raw) is type(model) and raw.init_args == model.init_args and not raw.training
    assert largest_difference(weights(raw), weights(model)) == 0
    torch.testing.assert_close(samples(raw, 2), samples(model, 2), rtol=0, atol=0)
    if model.ema_modules:
        assert largest_difference(weights(averaged), weights(raw)) > 0
        for key in weights(raw):
            if not key.startswith(tuple(f"{module}." for module in model.ema_modules)):
                assert torch.equal(averaged.state_dict()[key], raw.state_dict()[key]), key


@every_model
def test_every_constructor_argument_is_typed_and_described(name: str) -> None:
    cls = MODELS.get(name)
    documentation = docstring_parser.parse(inspect.getdoc(cls) or "")
    described = {entry.arg_name: entry.description for entry in documentation.params}
    described |= {e.arg_name: e.description for e in docstring_parser.parse(inspect.getdoc(cls.__init__) or "").params}
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        assert parameter.annotation is not inspect.Parameter.empty, f"{parameter.name} has no type"
        assert len(described.get(parameter.name) or "") > 10, f"{parameter.name} is not described"
        assert parameter.kind is not inspect.Parameter.VAR_KEYWORD, "plain arguments only"


@every_model
def test_model_names_its_paper(name: str) -> None:
    cls = MODELS.get(name)
    assert cls.title and "arXiv" in cls.paper and cls.original
    assert cls.small_variants()


@every_variant
def test_sample_keywords_are_typed_and_described(name: str, variant: str) -> None:
    sample = MODELS.get(name).sample
    described = {e.arg_name: e.description for e in docstring_parser.parse(inspect.getdoc(sample) or "").params}
    for parameter in list(inspect.signature(sample).parameters.values())[1:]:
        assert parameter.annotation is not inspect.Parameter.empty and described.get(parameter.name), parameter.name
