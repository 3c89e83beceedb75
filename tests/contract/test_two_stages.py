"""The contract, on models of the tests' own: a frozen first stage, an autoencoder, frames that depend on later ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract import test_sampling, test_training
from tests.contract.running import build, frozen_entries, train, weights
from tests.pair import ProcessPair
from tests.two_stage_model import SeenAhead, TinyAutoencoder

AUTOENCODER = ("tests.two_stage_model.TinyAutoencoder", "default")
AHEAD, ALONE = (("tests.two_stage_model.SeenAhead", variant) for variant in ("ahead", "alone"))
both_stages = pytest.mark.parametrize(("name", "variant"), [AUTOENCODER, AHEAD])
every_one = pytest.mark.parametrize(("name", "variant"), [AUTOENCODER, AHEAD, ALONE])


@every_one
@pytest.mark.parametrize(
    "check",
    [
        test_sampling.test_shape_and_range,
        test_sampling.test_seed_and_number_decide_a_video,
        test_sampling.test_only_what_the_model_says_it_reads_matters,
        test_sampling.test_sampling_leaves_no_trace,
        test_sampling.test_longer_videos_begin_like_shorter_ones,
        test_sampling.test_impossible_lengths_are_refused,
        test_sampling.test_stream_concatenates_to_sample,
        test_sampling.test_stream_without_an_end_makes_the_beginning_of_longer_videos,
    ],
)
def test_sampling_contract(name: str, variant: str, check: Callable[[str, str], None]) -> None:
    check(name, variant)


@both_stages
@pytest.mark.parametrize(
    "check",
    [
        test_training.test_updates_reach_what_their_optimisers_own,
        test_training.test_every_parameter_gets_a_gradient_unless_listed_or_frozen,
        test_training.test_gradients_that_are_left_over_do_not_count,
        test_training.test_same_seed_same_weights,
        test_training.test_clipping_limits_each_update,
        test_training.test_accumulation_averages_micro_batches_with_noise_of_their_own,
        test_training.test_compiled_networks_train_like_eager_ones,
    ],
)
def test_training_contract(name: str, variant: str, check: Callable[[str, str], None]) -> None:
    check(name, variant)


@both_stages
@pytest.mark.parametrize(
    "check",
    [
        test_sampling.test_checkpoint_round_trip,
        test_training.test_resumed_equals_uninterrupted_bit_for_bit,
        test_training.test_nan_stops_the_run_with_iteration_term_and_last_checkpoint,
    ],
)
def test_checkpoint_contract(name: str, variant: str, check: Callable[..., None], tmp_path: Path) -> None:
    check(name, variant, tmp_path)


@both_stages
def test_two_half_batches_equal_one_full_batch(name: str, variant: str, pair: ProcessPair) -> None:
    test_training.test_two_half_batches_equal_one_full_batch(name, variant, pair)


# What is frozen -----------------------------------------------------------------------------------------------------


@both_stages
def test_what_is_frozen_stays_in_the_model_its_average_and_its_checkpoint(
    name: str, variant: str, tmp_path: Path
) -> None:
    model = build(name, variant)
    held, before = frozen_entries(model), weights(model)
    assert held == (
        {f"first_stage.{key}" for key in model.first_stage.state_dict()}
        if isinstance(model, SeenAhead)
        else {"features.weight", "features.bias"}
    )
    train(model, 3, folder=tmp_path, ema=True)
    saved = torch.load(tmp_path / "iteration_00000003.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == before.keys()
    for found in (weights(model), saved["state_dict"]):
        assert {key for key, value in found.items() if torch.equal(value, before[key])} == held
    for key, value in saved.get("ema", {}).items():
        assert torch.equal(value, before[key]) == (key in held), key


class Untold(SeenAhead):
    """Does not listen to where the videos end."""

    def stream(self, *args: Any, **keywords: Any) -> Any:
        """As if they had no end, in parts."""
        keywords["total_frames"] = keywords["total_frames"] if keywords["num_frames"] == 12 else None
        return super().stream(*args, **keywords)


class Shortsighted(SeenAhead):
    """Looks further ahead than it says."""

    @property
    def lookahead_frames(self) -> int:
        """Too few."""
        return self.ahead - 1


class Awake(SeenAhead):
    """Lets its first stage go on counting frames."""

    def train(self, mode: bool = True) -> Awake:
        """All of it."""
        super().train(mode)
        self.first_stage.train(mode)
        return self


class Thawed(SeenAhead):
    """Trains its first stage along."""

    def configure_optimizers(self) -> Any:
        """All of it."""
        self.first_stage.requires_grad_(True)
        return super().configure_optimizers()


class Greedy(TinyAutoencoder):
    """Says that what it reconstructs was given."""

    def given_frames_for(self, keywords: Any) -> int:
        """All."""
        return self.num_frames


@pytest.mark.parametrize(
    ("model", "variant", "check"),
    [
        ("Untold", "ahead", test_sampling.test_stream_concatenates_to_sample),
        ("Shortsighted", "ahead", test_sampling.test_longer_videos_begin_like_shorter_ones),
        ("Shortsighted", "ahead", test_sampling.test_stream_without_an_end_makes_the_beginning_of_longer_videos),
        ("Awake", "ahead", test_training.test_every_parameter_gets_a_gradient_unless_listed_or_frozen),
        ("Thawed", "ahead", test_training.test_every_parameter_gets_a_gradient_unless_listed_or_frozen),
        ("Greedy", "default", test_sampling.test_only_what_the_model_says_it_reads_matters),
    ],
)
def test_the_contract_notices(model: str, variant: str, check: Callable[[str, str], None]) -> None:
    with pytest.raises(AssertionError):
        check(f"{__name__}.{model}", variant)
