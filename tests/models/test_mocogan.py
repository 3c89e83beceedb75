"""MoCoGAN is the paper's model: sizes, schedule, latents, sampling, and what it says when asked the impossible."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.contract.running import train
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.models.mocogan import (
    ImageDiscriminator,
    LatentDraws,
    MoCoGAN,
    PatchImageDiscriminator,
    PatchVideoDiscriminator,
    VideoDiscriminator,
    VideoGenerator,
    network_plan,
)

SMALL = MoCoGAN.small_variants()["default"]


def small(**arguments: Any) -> MoCoGAN:
    return MoCoGAN(**{**SMALL, **arguments}).eval()


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# Sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "count"), [(0, 3_249_684), (4, 3_282_452), (6, 3_298_836)])
def test_parameters_of_the_full_generator(classes: int, count: int) -> None:
    with torch.device("meta"):
        generator = MoCoGAN(dim_category=classes).generator
    assert parameters(generator) == count
    assert parameters(generator.recurrent) == 660


def test_parameters_of_the_full_discriminators() -> None:
    with torch.device("meta"):
        assert parameters(PatchImageDiscriminator(3, 64, 4)) == 663_296
        assert parameters(ImageDiscriminator(3, 64, 4)) == 2_765_568
        assert parameters(PatchVideoDiscriminator(3, 64, 4)) == 2_650_880
        assert parameters(VideoDiscriminator(3, 64, 4)) == 11_056_896
        assert parameters(MoCoGAN(dim_category=4).video_discriminator) == 11_187_968
        assert parameters(MoCoGAN(dim_category=6).video_discriminator) == 11_253_504
        assert (
            parameters(MoCoGAN(dim_category=6, use_categories=False, use_infogan=False).video_discriminator)
            == 11_056_896
        )


@pytest.mark.parametrize(
    ("resolution", "plan"), [(64, (4, 4)), (32, (4, 3)), (48, (6, 3)), (96, (6, 4)), (128, (4, 5))]
)
def test_depth_follows_the_resolution(resolution: int, plan: tuple[int, int]) -> None:
    assert network_plan(resolution) == plan


@pytest.mark.parametrize("kinds", [("patch", "full"), ("full", "patch")])
@pytest.mark.parametrize(("resolution", "frames"), [(16, 10), (24, 11), (32, 16), (56, 13), (64, 16), (128, 19)])
def test_every_resolution_fits_together(resolution: int, frames: int, kinds: tuple[str, str]) -> None:
    image, video = kinds
    sizes = {"resolution": resolution, "num_frames": frames, "image_discriminator": image, "video_discriminator": video}
    model = MoCoGAN(**{**SMALL, **sizes, "generator_width": 1, "discriminator_width": 1}).eval()
    made = model.sample(1)
    assert made.shape == (1, 3, frames, resolution, resolution)
    image_logits, (video_logits, _) = model.image_discriminator(made[:, :, 0]), model.video_discriminator(made)
    whole = network_plan(resolution)[0]
    assert image_logits.shape == ((1, 1, 1) if image == "full" else (1, whole, whole))
    time = frames - 3 * (network_plan(resolution)[1] + (video == "full"))
    assert video_logits.shape == ((1, time, 1, 1) if video == "full" else (1, time, whole, whole))


# Latents ---------------------------------------------------------------------------------------------------------


def draws(model: MoCoGAN, videos: int = 2, frames: int = 3) -> LatentDraws:
    category = torch.arange(videos) % model.dim_category if model.dim_category else None
    motion = torch.randn(frames, videos, model.dim_motion)
    return LatentDraws(torch.randn(videos, model.dim_content), category, torch.randn(videos, model.dim_motion), motion)


def test_first_frame_uses_the_first_state_after_the_initial_one() -> None:
    generator: VideoGenerator = small().generator
    given = draws(small())
    path = generator.motion_path(given.initial, given.motion, None)
    assert path.shape == (2, 3, SMALL["dim_motion"])
    assert torch.equal(path[:, 0], generator.recurrent(given.motion[0], given.initial))
    assert torch.equal(path[:, 2], generator.recurrent(given.motion[2], path[:, 1]))


def test_code_is_content_class_motion_and_only_motion_moves() -> None:
    model = small(dim_category=3)
    given = draws(model)
    latents = model.generator.latents(given)
    codes = model.generator.codes(latents["content"], latents["category"], latents["path"])
    content, category, motion = codes.split([SMALL["dim_content"], 3, SMALL["dim_motion"]], dim=2)
    for frame in range(3):
        assert torch.equal(content[:, frame], given.content)
        assert torch.equal(category[:, frame], torch.eye(3)[given.category])
    assert torch.equal(motion, latents["path"]) and not torch.allclose(motion[:, 0], motion[:, 1])


def test_class_enters_one_network_only() -> None:
    for where in ("generator", "motion"):
        model = small(dim_category=3, category_input=where)
        given = draws(model)
        other = given._replace(category=(given.category + 1) % 3)
        one, two = model.generator.latents(given), model.generator.latents(other)
        assert torch.equal(one["content"], two["content"])
        assert torch.equal(one["path"], two["path"]) == (where == "generator")
        assert ("category" in one) == (where == "generator")
        assert not torch.allclose(model.generator(given), model.generator(other))
    assert small(dim_category=3, category_input="motion").generator.recurrent.input_size == SMALL["dim_motion"] + 3


def test_chosen_frames_are_those_of_the_whole_videos() -> None:
    generator = small().generator
    given = draws(small(), videos=3, frames=4)
    frames = torch.tensor([[2], [0], [3]])
    whole, chosen = generator(given), generator(given, frames)
    assert chosen.shape == (3, 3, 1, 16, 16)
    for video, frame in enumerate(frames[:, 0]):
        torch.testing.assert_close(chosen[video, :, 0], whole[video, :, frame], rtol=0, atol=1e-6)


# Training --------------------------------------------------------------------------------------------------------


def test_updates_come_in_the_paper_order_each_on_fresh_fakes() -> None:
    seen: list[str] = []
    firsts: list[float] = []

    class Watched(MoCoGAN):
        def update(self, name: str, loss_fn: Any, *, retain_graph: bool = False) -> None:
            seen.append(name)
            super().update(name, loss_fn, retain_graph=retain_graph)

        def draw_videos(self, num_videos: int, stream: Any) -> LatentDraws:
            result = super().draw_videos(num_videos, stream)
            firsts.append(result.content[0, 0].item())
            return result

    model = Watched(**SMALL)
    train(model, 2)
    assert seen == ["image_discriminator", "video_discriminator", "generator"] * 2
    assert len(firsts) == len(set(firsts)) == 8
    assert model.generator.image_generator.norms[0].num_batches_tracked == 8, "four forwards of G in each iteration"
    assert model.video_discriminator.trunk[1].norm.num_batches_tracked == 6, "real and fake apart, then the generator's"


def test_weight_decay_is_an_l2_penalty_inside_adam() -> None:
    model = small(weight_decay=0.1, learning_rate=1e-2)
    optimizer = model.build_optimizers()["generator"]
    weight = model.generator.image_generator.output.weight
    before = weight.detach().clone()
    for parameter in model.generator.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # with no gradient but the penalty's, Adam's first step is the learning rate whatever the weight's size;
    # decoupled decay would shrink each weight by a thousandth of itself
    torch.testing.assert_close(before - weight, 1e-2 * before.sign(), rtol=0, atol=1e-4)


def test_optimisers_own_one_network_each_with_their_rates() -> None:
    model = small(learning_rate=1e-3, video_discriminator_learning_rate=5e-4, generator_learning_rate=0.0)
    optimizers = model.build_optimizers()
    assert list(optimizers) == ["image_discriminator", "video_discriminator", "generator"]
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers.values()]
    assert rates == [1e-3, 5e-4, 0.0]
    for name, optimizer in optimizers.items():
        assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)
        assert optimizer.param_groups[0]["weight_decay"] == 1e-5
        owned = {id(parameter) for parameter in optimizer.param_groups[0]["params"]}
        assert owned == {id(parameter) for parameter in getattr(model, name).parameters()}


@pytest.mark.parametrize("categories", [True, False])
@pytest.mark.parametrize("infogan", [True, False])
def test_class_losses_have_their_own_switches(categories: bool, infogan: bool) -> None:
    model = small(dim_category=3, use_categories=categories, use_infogan=infogan)
    assert ("label" in model.train_keys) == categories
    batches = [model.example_batch(2)]
    assert ("class" in model.video_discriminator_loss(batches)) == categories
    assert ("class" in model.generator_loss(batches)) == infogan
    assert model.video_discriminator.num_classes == (3 if categories or infogan else 0)


def test_old_initialisation() -> None:
    model = MoCoGAN(dim_category=4, initialization="torch_0_2", generator_width=16, discriminator_width=8)
    second = model.generator.image_generator.convolutions[1].weight  # 128 -> 64 channels, 4 x 4
    assert second.abs().max() <= (128 * 16) ** -0.5 and second.abs().max() > 0.99 * (128 * 16) ** -0.5
    gamma = model.generator.image_generator.norms[0].weight
    assert gamma.min() >= 0 and gamma.max() <= 1 and 0.4 < gamma.mean() < 0.6
    assert not model.generator.image_generator.norms[0].bias.any()
    today = MoCoGAN(generator_width=16, discriminator_width=8).generator.image_generator
    assert today.convolutions[1].weight.abs().max() > 1.2 * (128 * 16) ** -0.5 and (today.norms[0].weight == 1).all()


# Sampling --------------------------------------------------------------------------------------------------------


def test_exchange_keeps_content_in_rows_and_motion_in_columns() -> None:
    model = small(dim_category=3)
    grid = model.exchange(2, 3, num_frames=5, seed=4)
    assert grid.shape == (2, 3, 3, 5, 16, 16)
    plain = model.sample(3, num_frames=5, seed=4)
    for video in range(2):
        torch.testing.assert_close(grid[video, video], plain[video], rtol=0, atol=1e-5)
    latents = model.sample_latents(3, num_frames=5, seed=4)
    mixed = {"content": latents["content"][:1], "category": latents["category"][2:], "path": latents["path"][2:]}
    torch.testing.assert_close(grid[0, 2], model.decode(mixed)[0], rtol=0, atol=1e-5)


def test_label_asks_for_a_class_and_changes_nothing_else() -> None:
    model = small(dim_category=3)
    free, asked = model.sample_latents(4, seed=2), model.sample_latents(4, seed=2, label=1)
    assert torch.equal(free["content"], asked["content"]) and torch.equal(free["path"], asked["path"])
    assert torch.equal(asked["category"], torch.eye(3)[[1, 1, 1, 1]])
    drawn = model.sample_latents(64, num_frames=1)["category"].argmax(1)
    assert set(drawn.tolist()) == {0, 1, 2}


def test_sampling_uses_and_keeps_running_statistics_and_mode() -> None:
    model = small().train()
    before = model.generator.image_generator.norms[0].running_mean.clone()
    sampled = model.sample(2)
    assert model.generator.training and torch.equal(before, model.generator.image_generator.norms[0].running_mean)
    assert torch.equal(sampled, model.eval().sample(2))


def test_streams_cross_blocks_of_noise_in_any_pieces() -> None:
    model, pieces, state = small(dim_category=2), [], None
    for length in (1, 7, 16, 3, 13):
        frames, state = model.stream(None, state, num_videos=2, num_frames=length, seed=6, label=1)
        pieces.append(frames)
    torch.testing.assert_close(torch.cat(pieces, 2), model.sample(2, num_frames=40, seed=6, label=1), rtol=0, atol=1e-5)


# What it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"resolution": 50},
            "model.resolution 50: MoCoGAN needs 4, 5, 6 or 7 times a power of two (32, 48, 64, 96, 128, …)",
        ),
        (
            {"num_frames": 12, "resolution": 64},
            "model.num_frames 12: the full video discriminator needs at least 16 frames at resolution 64",
        ),
        (
            {"num_frames": 12, "resolution": 64, "video_discriminator": "patch"},
            "model.num_frames 12: the patch video discriminator needs at least 13 frames at resolution 64",
        ),
        ({"use_categories": True}, "model.use_categories: needs classes, but model.dim_category is 0"),
        ({"use_infogan": True}, "model.use_infogan: needs classes, but model.dim_category is 0"),
        ({"category_input": "motion"}, "model.category_input motion: needs classes, but model.dim_category is 0"),
        (
            {"dim_category": 3, "video_discriminator": "patch"},
            "model.video_discriminator patch: cannot name classes; use full, or set model.use_categories and "
            "model.use_infogan to false",
        ),
        ({"instance_noise": -0.1}, "model.instance_noise -0.1: a standard deviation cannot be negative"),
        ({"dim_motion": 0}, "model.dim_motion 0: must be at least 1"),
        ({"learning_rate": -1.0}, "model.learning_rate -1: cannot be negative"),
        ({"generator_learning_rate": float("nan")}, "model.generator_learning_rate nan: must be finite"),
        ({"beta2": 1.0}, "model.beta2 1: must be at least 0 and below 1"),
    ],
)
def test_impossible_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        MoCoGAN(**{**SMALL, **arguments})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 1}, "model.channels: is 3, but the data has channels 1; make them equal"),
        ({"resolution": 32}, "model.resolution: is 16, but the data has resolution 32; make them equal"),
        ({"width": 24}, "model.resolution: is 16, but the data has width 24; make them equal"),
        ({"num_frames": 12}, "model.num_frames: is 10, but the data has num_frames 12; make them equal"),
        ({"class_names": ("a", "b")}, "model.dim_category: is 3, but the data has classes 2; make them equal"),
        (
            {"class_names": ()},
            "model.use_categories: needs labelled videos, but the data has no classes; set it to false",
        ),
    ],
)
def test_data_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    fitting: dict[str, Any] = {"channels": 3, "resolution": 16, "num_frames": 10, "fps": None, "num_videos": 9}
    fitting |= {"min_length": 10, "max_length": 20, "class_names": ("a", "b", "c")}
    model = small(dim_category=3)
    model.check_data(DataSpec(**fitting))
    with pytest.raises(UserError) as caught:
        model.check_data(DataSpec(**{**fitting, **change}))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("classes", "message"),
    [(3, "label 3: must be between 0 and 2"), (0, "label 3: must be left out: the model has no classes")],
)
def test_label_out_of_range(classes: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        small(dim_category=classes).sample(1, label=3)
    assert str(caught.value) == message


def test_task_follows_the_classes() -> None:
    assert small().task == "unconditional" and small(dim_category=2).task == "class_conditional"
