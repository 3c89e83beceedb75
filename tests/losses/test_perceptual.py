"""The perceptual loss is LPIPS, costs a checkpoint nothing, and is never without weights."""

from __future__ import annotations

import copy
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidgen.errors import UserError
from vidgen.losses.perceptual import PerceptualLoss, load_perceptual
from vidgen.metrics.extractors.random_weights import filled_state
from vidgen.metrics.lpips_trunk import lpips_network
from vidgen.seeding import NoiseStream, noise_from
from vidgen.weights import VGG16

WIDTHS = (4, 5, 6, 7, 8)
BLOCKS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
OPTION = "model.perceptual_weights=FILE, or set model.perceptual_weight=0"


def trunk_state(widths: tuple[int, ...] = WIDTHS, names: str = "net.slice{block}.{place}") -> dict[str, Tensor]:
    """Weights in closed form, under the official names or others."""
    state: dict[str, Tensor] = {}
    before = 3
    for block, (width, places) in enumerate(zip(widths, BLOCKS, strict=True), 1):
        for place in places:
            name = names.format(block=block, place=place)
            shapes = {f"{place}.weight": (width, before, 3, 3), f"{place}.bias": (width,)}
            state |= {f"{name}.{key.split('.')[1]}": value for key, value in filled_state(shapes).items()}
            before = width
    return state


def head_state(widths: tuple[int, ...] = WIDTHS) -> dict[str, Tensor]:
    shapes = {f"lin{index}.model.1.weight": (1, width, 1, 1) for index, width in enumerate(widths)}
    return {key: value.abs() for key, value in filled_state(shapes).items()}


def small_loss(dropout: bool = False) -> PerceptualLoss:
    loss = PerceptualLoss(WIDTHS, dropout)
    loss.load_official_layout({**trunk_state(), **head_state()})
    return loss


def images(number: int = 2, channels: int = 3, side: int = 24, seed: int = 1) -> Tensor:
    return torch.rand(number, channels, side, side + 5, generator=torch.Generator().manual_seed(seed)) - 0.5


def torchvision_file(folder: Path) -> Path:
    names = "features.{place}"
    path = folder / "vgg.pth"
    torch.save({**trunk_state((64, 128, 256, 512, 512), names), "classifier.0.weight": torch.ones(2, 2)}, path)
    return path


# What it computes


def test_it_equals_the_formula() -> None:
    """Zhang et al., equation 1, with places of images in [-0.5, 0.5] as they are."""
    state = {**trunk_state(), **head_state()}
    first, second = images(seed=1), images(seed=2)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x = (torch.cat([first, second]) - shift.view(3, 1, 1)) / scale.view(3, 1, 1)
    expected = torch.zeros(2)
    for block, places in enumerate(BLOCKS, 1):
        x = F.max_pool2d(x, 2) if block > 1 else x
        for place in places:
            name = f"net.slice{block}.{place}"
            x = F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).relu()
        unit = F.normalize(x, dim=1, eps=1e-10)
        expected += ((unit[:2] - unit[2:]).square() * state[f"lin{block - 1}.model.1.weight"]).sum(1).mean((1, 2))
    torch.testing.assert_close(small_loss()(first, second), expected)


def test_it_equals_the_metric_on_the_published_layout(tmp_path: Path) -> None:
    file = torchvision_file(tmp_path)
    first, second = images(side=32, seed=1), images(side=32, seed=2)
    torch.testing.assert_close(
        load_perceptual(file)(first, second), lpips_network("vgg", file)(first, second), rtol=1e-4, atol=1e-6
    )


def test_equal_images_are_at_no_distance() -> None:
    assert small_loss()(images(), images()).tolist() == [0, 0]


def test_grey_images_are_seen_in_all_three_channels() -> None:
    loss = small_loss()
    first, second = images(channels=1, seed=1), images(channels=1, seed=2)
    tripled = loss(first.expand(-1, 3, -1, -1), second.expand(-1, 3, -1, -1))
    torch.testing.assert_close(loss(first, second), tripled)
    assert (tripled > 0.01).all()


def test_gradients_reach_the_second_image_alone() -> None:
    loss = small_loss()
    first, second = images(seed=1).requires_grad_(), images(seed=2).requires_grad_()
    loss(first, second).sum().backward()
    assert first.grad is None
    assert second.grad is not None and (second.grad != 0).float().mean() > 0.9
    assert not loss(first, second.detach()).requires_grad


def test_the_first_image_leaves_nothing_in_the_graph() -> None:
    loss, kept = small_loss(), []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss(images().requires_grad_(), images(seed=2))
    assert kept == []


def test_gradients_are_finite_where_nothing_is_seen() -> None:
    state = {**trunk_state(), **head_state()}
    state["net.slice5.28.bias"] = torch.full((8,), -1e3)  # the last map is 0 everywhere
    loss = PerceptualLoss(WIDTHS)
    loss.load_official_layout(state)
    second = images(seed=2).requires_grad_()
    with torch.autograd.set_detect_anomaly(True):  # nor are they NaN on the way
        loss(images(), second).sum().backward()
    assert not loss.features(second)[4].any()
    assert second.grad is not None and second.grad.isfinite().all() and second.grad.any()


def test_half_precision_around_it_keeps_the_distances_in_single() -> None:
    loss = small_loss()
    first, second = images(seed=1), images(seed=2).requires_grad_()
    expected = loss(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(first, second)
    found.sum().backward()
    assert found.dtype == torch.float32 and second.grad is not None and second.grad.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0)
    loss.to(torch.bfloat16)
    found = loss(first.bfloat16(), second.detach().bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected.detach(), rtol=0.03, atol=0)


def test_features_of_half_precision_are_compared_in_single() -> None:
    loss = small_loss()
    first, second = images(seed=1), images(seed=2)
    with torch.autocast("cpu", torch.bfloat16):
        found, *maps = loss(first, second), loss.features(first), loss.features(second)
    expected = torch.zeros(2)
    for index, (x, y) in enumerate(zip(*maps, strict=True)):
        assert x.dtype == torch.bfloat16
        difference = F.normalize(x.float(), dim=1, eps=1e-10) - F.normalize(y.float(), dim=1, eps=1e-10)
        expected += (difference.square() * head_state()[f"lin{index}.model.1.weight"]).sum(1).mean((1, 2))
    torch.testing.assert_close(found, expected)


def test_weights_in_double_precision_compute_in_it() -> None:
    first, second = images(seed=1), images(seed=2)
    found = small_loss().double()(first.double(), second.double())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, small_loss()(first, second).double(), rtol=1e-5, atol=0)
    assert not torch.equal(found, found.float().double())


def test_another_default_precision_changes_nothing() -> None:
    first, second = images(), images(seed=2)
    torch.set_default_dtype(torch.float64)
    try:
        other = small_loss()
        found = other(first, second)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, small_loss()(first, second)) and found.dtype == torch.float32


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((2, 3, 20, 20), (1, 3, 20, 20), "takes pairs of equal shapes, not (2, 3, 20, 20) and (1, 3, 20, 20)"),
        (
            (2, 2, 20, 20),
            (2, 2, 20, 20),
            "takes floating images (N, 3, H, W) or (N, 1, H, W), not torch.float32 (2, 2, 20, 20)",
        ),
        (
            (3, 20, 20),
            (3, 20, 20),
            "takes floating images (N, 3, H, W) or (N, 1, H, W), not torch.float32 (3, 20, 20)",
        ),
        ((2, 3, 20, 15), (2, 3, 20, 15), "needs images of at least 16x16 pixels, not 20x15"),
    ],
)
def test_what_is_no_pair_of_images_is_refused(first: tuple, second: tuple, expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        small_loss()(torch.zeros(first), torch.zeros(second))
    assert str(caught.value) == f"perceptual loss: {expected}"


def test_bytes_are_refused() -> None:
    picture = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"not torch\.uint8"):
        small_loss()(picture, picture)


def test_images_may_be_as_small_as_is_said() -> None:
    picture = torch.zeros(1, 3, 16, 16)
    assert small_loss()(picture, picture).tolist() == [0]


# Dropout


def test_dropout_acts_in_training_where_it_is_asked_for() -> None:
    first, second = images(seed=1), images(seed=2)
    plain, dropping = small_loss(), small_loss(dropout=True)
    expected = plain(first, second)
    assert torch.equal(plain.train()(first, second), expected)
    assert torch.equal(dropping.eval()(first, second), expected)
    dropping.train()
    draws = torch.stack([dropping(first, second) for _ in range(200)])
    assert (draws != expected).all()
    torch.testing.assert_close(draws.mean(0), expected, rtol=0.02, atol=0)


def test_half_of_the_differences_stay_and_count_twice() -> None:
    loss = small_loss(dropout=True)
    kept = loss._dropped(torch.ones(1, 4, 100, 100))
    assert set(kept.unique().tolist()) == {0, 2}
    assert kept.mean().item() == pytest.approx(1, abs=0.02)


def test_dropout_comes_from_the_noise_stream() -> None:
    loss = small_loss(dropout=True)
    first, second = images(seed=1), images(seed=2)
    state = torch.get_rng_state()

    def drawn(seed: int) -> Tensor:
        with noise_from(NoiseStream(seed)):
            return loss(first, second)

    assert torch.equal(drawn(3), drawn(3)) and not torch.equal(drawn(3), drawn(4))
    assert torch.equal(torch.get_rng_state(), state)


def test_two_ranks_drop_what_one_process_drops() -> None:
    loss = small_loss(dropout=True)
    first, second = images(4, seed=1), images(4, seed=2)
    with noise_from(NoiseStream(3)):
        whole = loss(first, second)
    for rank in range(2):
        with noise_from(NoiseStream(3, rank=rank, world_size=2)):
            torch.testing.assert_close(loss(first[rank::2], second[rank::2]), whole[rank::2])


# What it is to the module that holds it


def test_checkpoints_and_optimizers_see_nothing_of_it() -> None:
    module = nn.Sequential(nn.Linear(1, 1))
    expected = list(module.state_dict())
    module.append(small_loss())
    assert list(module.state_dict()) == expected and len(list(module.parameters())) == 2
    module.load_state_dict({key: torch.zeros_like(value) for key, value in module.state_dict().items()})


def test_its_weights_move_with_it() -> None:
    loss = small_loss()
    names = [name for name, _ in loss.named_buffers()]
    assert len(names) == 2 * 13 + 5 + 2
    loss.to(torch.float64)
    assert {buffer.dtype for buffer in loss.buffers()} == {torch.float64}
    assert {buffer.device.type for buffer in loss.to("meta").buffers()} == {"meta"}


def test_weights_come_to_where_it_is() -> None:
    loss = PerceptualLoss(WIDTHS).to("meta")
    loss.load_official_layout({**trunk_state(), **head_state()})
    assert {buffer.device.type for buffer in loss.buffers()} == {"meta"}


def test_a_copy_is_as_good() -> None:
    loss = small_loss()
    assert torch.equal(copy.deepcopy(loss)(images(), images(seed=2)), loss(images(), images(seed=2)))


def test_building_it_draws_and_downloads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    state = torch.get_rng_state()
    loss = PerceptualLoss()
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(buffer.numel() for buffer in loss.buffers()) == 6  # shift and scale
    assert loss.taps == (3, 8, 15, 22, 29) and len(loss.trunk) == 30


def test_importing_it_imports_no_library_of_networks() -> None:
    heavy = {"timm", "torchvision", "torchmetrics", "av", "vidgen.data", "vidgen.metrics"}
    script = f"import sys, vidgen.losses.perceptual, vidgen.text; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_there_is_a_width_for_every_block() -> None:
    with pytest.raises(ValueError) as caught:
        PerceptualLoss((8, 8))
    assert str(caught.value) == "widths: one for each of 5 blocks, not 2"


# Weights


def test_without_weights_it_computes_nothing() -> None:
    with pytest.raises(UserError) as caught:
        PerceptualLoss()(images(), images())
    assert str(caught.value) == (
        "perceptual loss: has no weights; load them with vidgen.losses.perceptual.load_perceptual"
    )


def test_random_weights_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        load_perceptual("random")
    assert str(caught.value) == (
        "model.perceptual_weights random: the perceptual loss needs trained weights, those of vgg16-397923af.pth "
        f"(https://download.pytorch.org/models/vgg16-397923af.pth); take auto, name them with {OPTION}"
    )


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_perceptual(tmp_path / "absent.pth")
    assert str(caught.value) == (
        f"{tmp_path / 'absent.pth'}: no such weight file; vgg16-397923af.pth "
        "(https://download.pytorch.org/models/vgg16-397923af.pth) is needed: take model.perceptual_weights=auto, "
        f"name it with {OPTION}"
    )


def test_without_a_file_one_line_tells_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIDGEN_OFFLINE", "1")
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        load_perceptual()
    assert str(caught.value) == (
        f"{VGG16.name}: not in the cache, and VIDGEN_OFFLINE is set; get {VGG16.url} ({VGG16.checksum}) and put it at "
        f"{tmp_path / 'weights' / VGG16.name}, or name it with {OPTION}"
    )


def test_the_official_layout_may_bring_its_heads(tmp_path: Path) -> None:
    constants = {"scaling_layer.shift": torch.ones(1, 3, 1, 1), "scaling_layer.scale": torch.full((1, 3, 1, 1), 2.0)}
    torch.save({**trunk_state(), **head_state(), **constants}, tmp_path / "lpips.pth")
    found = load_perceptual(tmp_path / "lpips.pth")
    assert found.widths == WIDTHS
    assert not torch.equal(found(images(), images(seed=2)), small_loss()(images(), images(seed=2)))
    expected = small_loss()
    expected.shift, expected.scale = constants["scaling_layer.shift"], constants["scaling_layer.scale"]
    assert torch.equal(found(images(), images(seed=2)), expected(images(), images(seed=2)))


def test_the_official_layout_without_heads_gets_the_public_ones(tmp_path: Path) -> None:
    trunk = trunk_state((64, 128, 256, 512, 512))
    torch.save(trunk, tmp_path / "official.pth")
    torch.save({key.replace(key[:11], "features."): value for key, value in trunk.items()}, tmp_path / "tv.pth")
    first, second = load_perceptual(tmp_path / "official.pth"), load_perceptual(tmp_path / "tv.pth")
    assert torch.equal(first(images(), images(seed=2)), second(images(), images(seed=2)))
    # Means of the heads of version 0.1.
    found = [getattr(first, f"head{index}").mean().item() for index in range(5)]
    assert found == pytest.approx([0.108219, 0.069206, 0.068418, 0.100628, 0.091865], abs=1e-6)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"net.slice3.12.bias": None}, "does not fit LPIPS (lacks 'features.12.bias')"),
        ({"net.slice5.30.weight": torch.ones(1)}, "does not fit LPIPS (has an unknown 'features.30.weight')"),
        ({"lin4.model.1.weight": torch.ones(1, 9, 1, 1)}, "does not fit LPIPS ('lin4.model.1.weight' is (1, 9, 1, 1)"),
        ({"net.slice1.0.bias": torch.full((4,), torch.nan)}, "'features.0.bias' holds NaN or infinity; is the file"),
    ],
)
def test_weights_of_another_network_are_refused(change: dict, expected: str) -> None:
    state = {**trunk_state(), **head_state(), **change}
    loss = PerceptualLoss(WIDTHS)
    with pytest.raises(UserError) as caught:
        loss.load_official_layout({key: value for key, value in state.items() if value is not None}, "f.pth")
    assert str(caught.value).startswith(f"f.pth: {expected}")


def test_a_file_of_heads_alone_is_refused(tmp_path: Path) -> None:
    torch.save(head_state(), tmp_path / "heads.pth")
    with pytest.raises(UserError) as caught:
        load_perceptual(tmp_path / "heads.pth")
    assert str(caught.value) == f"{tmp_path / 'heads.pth'}: does not fit LPIPS (lacks 'features.0.weight')"


def test_a_users_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save({**trunk_state(), **head_state()}, tmp_path / "lpips.pth")
    assert load_perceptual("~/lpips.pth").widths == WIDTHS
