"""Perceptual path length."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import pytest
import torch

from tests.pair import ProcessPair
from vidgen.errors import UserError
from vidgen.metrics import perceptual_path
from vidgen.metrics.extractors.base import Weights
from vidgen.metrics.perceptual_path import (
    PerceptualPathLength,
    crop_face,
    filtered_mean,
    shrink,
    slerp,
    slerp_with_length,
)
from vidgen.seeding import current_noise, derive_seed


def test_slerp_walks_the_great_circle_at_a_constant_speed():
    a, b = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.tensor([0.0, 5.0], dtype=torch.float64)
    for t in (0.0, 0.25, 0.5, 1.0):
        angle = t * math.pi / 2
        torch.testing.assert_close(slerp(a, b, t), torch.tensor([math.cos(angle), math.sin(angle)]).double())


def test_slerp_takes_a_share_for_each_pair():
    a, b = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None]
    torch.testing.assert_close(slerp(a, b, t)[2], slerp(a[2], b[2], 0.5))
    torch.testing.assert_close(slerp(a, b, t).norm(dim=1), torch.ones(5, dtype=torch.float64))


def test_slerp_between_the_same_direction_stays():
    a = torch.tensor([[1.0, 2.0, 2.0]])
    torch.testing.assert_close(slerp(a, 3 * a, 0.3), a / 3)


def test_lengths_are_interpolated_where_they_count():
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0])
    torch.testing.assert_close(slerp_with_length(a, b, 0.0), a)
    torch.testing.assert_close(slerp_with_length(a, b, 0.5), torch.full((2,), 3 / 2**0.5))
    torch.testing.assert_close(slerp_with_length(a, b, 1.0), b)


def test_faces_are_cut_out_below_the_middle():
    image = torch.arange(256.0).view(1, 1, 16, 16)
    assert torch.equal(crop_face(image), image[..., 6:14, 4:12])


@pytest.mark.parametrize(("height", "width"), [(16, 24), (12, 12)])
def test_faces_are_squares_of_eighths(height, width):
    with pytest.raises(ValueError) as error:
        crop_face(torch.zeros(1, 3, height, width))
    assert str(error.value) == f"faces must be squares with sides that 8 divides, got {height}x{width}"


def test_large_images_are_averaged_over_boxes():
    image = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(shrink(image, 4), image.view(1, 1, 4, 2, 4, 2).mean((3, 5)))
    assert torch.equal(shrink(image, 5), image) and torch.equal(shrink(image, 16), image)


def test_the_shortest_and_the_longest_are_left_out():
    distances = torch.arange(301.0).flip(0)
    found = filtered_mean(distances)
    assert found == (150.0, 3.0, 297.0)
    assert filtered_mean(distances[:150]) == (225.5, 152.0, 299.0)  # 1% falls between two: outwards
    assert filtered_mean(distances, 0, 100) == (150.0, 0.0, 300.0)


def test_distances_are_numbers():
    with pytest.raises(ValueError, match=r"^distances hold NaN or infinity$"):
        filtered_mean(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match=r"^distances must be \(N,\) with N at least 1, got \(0,\)$"):
        filtered_mean(torch.zeros(0))


# The metric ---------------------------------------------------------------------------------------------------------


class Pixels:
    """Stands for LPIPS: the mean squared difference."""

    net = "vgg"
    weights = Weights("pixels", "0", published=True)

    def __call__(self, first, second):
        assert first.dtype == torch.float32 and first.shape[1] == 3 and first.abs().max() <= 1
        return (first.double() - second.double()).square().mean((1, 2, 3))

    device = None

    def to(self, device):
        self.device = device
        return self

    def settings(self):
        return {"net": self.net}


class Painter:
    """Its latents become colours: a grey or coloured video whose pixels are a fixed linear map of the latent."""

    device = torch.device("cpu")

    def __init__(self, as_images=False, named=True, noisy=False, size=8):
        self.as_images, self.named, self.noisy, self.size = as_images, named, noisy, size
        rng = torch.Generator().manual_seed(7)
        self.map = torch.randn(5, 3 * 2 * size * size, generator=rng, dtype=torch.float64) * 0.02
        self.other = torch.randn(2, 3 * 2 * size * size, generator=rng, dtype=torch.float64) * 0.1

    def sample_latents(self, num_videos, *, num_frames=None, seed=0, first=0):
        rows = [
            torch.randn(7, generator=torch.Generator().manual_seed(derive_seed(seed, n)), dtype=torch.float64)
            for n in range(first, first + num_videos)
        ]
        content, style = torch.stack(rows).split([5, 2], dim=1)
        return {"content": content, "style": style} if self.named else content

    def decode(self, latents):
        parts = latents if self.named else {"content": latents, "style": latents[:, :2]}
        pixels = parts["content"] @ self.map + parts["style"] @ self.other
        videos = pixels.view(-1, 3, 2, self.size, self.size)
        if self.noisy:
            videos = videos + 0.1 * current_noise().normal(*videos.shape)
        return videos[:, :, 0] if self.as_images else videos


@pytest.fixture(autouse=True)
def pixels(monkeypatch):
    monkeypatch.setattr(perceptual_path, "lpips_network", lambda net, weights: Pixels())


def measured(model, **settings):
    metric = PerceptualPathLength(num_samples=30, **settings)
    metric.measure(model)
    return metric


def linear_lengths(model, latent="content"):
    """Squared lengths of the model's derivative along straight ways, per pixel: the limit of small steps."""
    a, b = (model.sample_latents(30, seed=derive_seed(0, "ppl", end))[latent] for end in ("from", "to"))
    weights = model.map if latent == "content" else model.other
    return ((b - a) @ weights).square().mean(1)


@pytest.mark.parametrize("latent", ["content", "style"])
@pytest.mark.parametrize("path", ["full", "end"])
def test_straight_steps_through_a_linear_model(latent, path):
    metric = measured(Painter(), interpolation="lerp", latent=latent, path=path)
    wanted = filtered_mean(linear_lengths(Painter(), latent))
    assert metric.compute().item() == pytest.approx(wanted.mean, rel=1e-3)
    assert metric.details["shortest_kept"] == pytest.approx(wanted.low, rel=1e-3)
    assert metric.details["longest_kept"] == pytest.approx(wanted.high, rel=1e-3)


@pytest.mark.parametrize("path", ["full", "end"])
def test_steps_on_the_sphere(path):
    metric = measured(Painter(), path=path)
    a, b = (Painter().sample_latents(30, seed=derive_seed(0, "ppl", end))["content"] for end in ("from", "to"))
    draws = torch.Generator().manual_seed(derive_seed(0, "ppl", "places"))
    places = torch.rand(30, 1, generator=draws, dtype=torch.float64) * (path == "full")
    steps = slerp_with_length(a, b, places + 1e-4) - slerp_with_length(a, b, places)
    lengths = ((steps / 1e-4) @ Painter().map).square().mean(1)
    assert metric.compute().item() == pytest.approx(filtered_mean(lengths).mean, rel=1e-3)


def test_length_does_not_depend_on_a_small_epsilon():
    values = [float(measured(Painter(), epsilon=epsilon).compute()) for epsilon in (1e-2, 1e-3)]
    assert values[0] == pytest.approx(values[1], rel=2e-2)


def test_batches_of_any_size_give_the_same():
    values = [float(measured(Painter(), batch_size=size).compute()) for size in (1, 7, 30)]
    assert values == pytest.approx([values[0]] * 3, rel=1e-9)


def test_models_of_images_and_of_nameless_latents():
    videos, images = (measured(Painter(as_images=flag), interpolation="lerp").compute() for flag in (False, True))
    assert videos != images
    plain, named = measured(Painter(named=False)), measured(Painter())
    assert plain.distances.shape == named.distances.shape and plain.compute() > 0


def test_both_ends_of_a_step_have_the_same_noise():
    quiet, noisy = (float(measured(Painter(noisy=flag)).compute()) for flag in (False, True))
    assert noisy == pytest.approx(quiet, rel=1e-2)


def test_faces_are_cropped_where_asked():
    assert measured(Painter(), face_crop=True).compute() != measured(Painter()).compute()


def on_rank():
    perceptual_path.lpips_network = lambda net, weights: Pixels()
    metric = measured(Painter(), batch_size=4)
    return float(metric.compute()), metric.details


def test_two_processes_equal_one(pair: ProcessPair):
    alone = measured(Painter(), batch_size=4)
    value = float(alone.compute())
    assert pair.run(on_rank) == [(value, alone.details)] * 2


def test_measuring_again_begins_anew():
    metric, other = measured(Painter()), Painter()
    metric.compute()
    other.map *= 2
    metric.measure(other)
    assert metric.compute() == measured(other).compute()


def test_the_network_goes_where_the_model_is():
    metric = measured(Painter())
    assert metric.network.device == Painter.device


def test_all_that_the_value_depends_on_is_told():
    assert PerceptualPathLength(latent="w", interpolation="lerp", num_samples=9).protocol() == {
        "metric": "ppl",
        "latent": "w",
        "interpolation": "lerp",
        "path": "full",
        "num_samples": 9,
        "epsilon": 1e-4,
        "face_crop": False,
        "num_frames": None,
        "batch_size": 8,
        "seed": 0,
        "network": {"net": "vgg", "weights": {"name": "pixels", "fingerprint": "0", "published": True, "file": ""}},
    }


def test_random_weights_give_another_name_and_a_warning(monkeypatch):
    monkeypatch.setattr(Pixels, "weights", Weights("random", "", published=False))
    metric = PerceptualPathLength(num_samples=1)
    assert metric.label == "ppl_random_vgg"
    assert metric.warnings() == ["ppl_random_vgg: the weights of vgg are random; not comparable with published numbers"]


@pytest.mark.parametrize(
    ("offers", "missing"),
    [({}, "sample_latents and decode"), ({"decode": print}, "sample_latents"), ({"sample_latents": print}, "decode")],
)
def test_models_without_a_latent_space_are_refused(offers, missing):
    with pytest.raises(UserError) as error:
        measured(SimpleNamespace(**offers))
    assert str(error.value) == (f"ppl: SimpleNamespace does not offer {missing}; it has no latent space to look at")


def test_latents_have_the_names_that_they_have():
    with pytest.raises(UserError, match=r"^ppl: the model has no latent 'w' \(it has content, style\)$"):
        measured(Painter(), latent="w")
    message = r"^ppl: latent is 'w', but the model's latents have no names; leave it out$"
    with pytest.raises(UserError, match=message):
        measured(Painter(named=False), latent="w")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interpolation": "linear"}, "ppl: interpolation is 'linear'; it must be slerp or lerp"),
        ({"path": "start"}, "ppl: path is 'start'; it must be full or end"),
        ({"epsilon": 0.0}, "ppl: num_samples 50000, batch_size 8 and epsilon 0.0 must be above 0"),
    ],
)
def test_settings_that_are_none_are_refused(settings, message):
    with pytest.raises(UserError) as error:
        PerceptualPathLength(**settings)
    assert str(error.value) == message


def test_nothing_measured_has_no_value():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"^ppl: 0 of 30 steps were measured; call measure\(model\)$"):
            PerceptualPathLength(num_samples=30).compute()


def test_images_out_of_range_are_clamped():
    model = Painter()
    model.map *= 1000
    assert measured(model).compute().isfinite()
