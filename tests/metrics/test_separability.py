"""Linear separability."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import optimize

from tests.pair import ProcessPair
from vidgen.errors import UserError
from vidgen.metrics.extractors.base import Extractor, Weights
from vidgen.metrics.separability import (
    LinearSeparability,
    conditional_entropy,
    linear_separability,
    linear_svm_sides,
    separation_table,
)
from vidgen.seeding import derive_seed


def cloud(number=200, dim=5, seed=0):
    return torch.randn(number, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("table", "bits"),
    [
        ([[50, 0], [0, 50]], 0.0),
        ([[25, 25], [25, 25]], 1.0),
        ([[100, 0], [0, 0]], 0.0),
        ([[2, 2], [0, 4]], 0.5),  # half of the samples with 1 bit, half with none
    ],
)
def test_entropy_that_the_side_leaves(table, bits):
    found = conditional_entropy(torch.tensor(table))
    assert found.item() == pytest.approx(bits, abs=1e-15) and not np.signbit(found.item())


def test_counts_and_shares_give_the_same():
    table = torch.tensor([[30, 10], [5, 55]])
    torch.testing.assert_close(conditional_entropy(table), conditional_entropy(table / 100.0))


def test_entropies_of_attributes_add_up():
    tables = torch.tensor([[[25, 25], [25, 25]], [[2, 2], [0, 4]]])
    assert linear_separability(tables).item() == pytest.approx(2**1.5)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (torch.zeros(2, 2), "a table must have no negative entries, and one above 0"),
        (torch.tensor([[3, -1], [1, 1]]), "a table must have no negative entries, and one above 0"),
        (torch.ones(2, 3), "a table must be (..., 2, 2), got (2, 3)"),
    ],
)
def test_tables_that_are_none_are_refused(table, message):
    with pytest.raises(ValueError) as error:
        conditional_entropy(table)
    assert str(error.value) == message


def test_what_a_plane_separates_is_separated():
    latents = cloud()
    labels = latents @ torch.arange(1.0, 6.0).double() > 1.5  # the plane does not pass through 0
    table = separation_table(latents, labels)
    assert table.sum() == 200
    assert table[0, 1] + table[1, 0] <= 2


def test_rows_are_sides_and_columns_labels():
    latents = torch.tensor([[-2.0], [-1.9], [-1.8], [1.8], [1.9], [2.0]])
    labels = torch.tensor([False, False, True, True, True, True])
    assert separation_table(latents, labels).tolist() == [[2, 1], [0, 3]]


def test_what_no_plane_separates_stays_mixed():
    latents = cloud()
    inside = latents.norm(dim=1) < latents.norm(dim=1).median()
    assert conditional_entropy(separation_table(latents, inside)) > 0.8


@pytest.mark.parametrize("label", [True, False])
def test_one_label_alone_counts_as_perfect(label):
    labels = torch.full((4,), label)
    assert torch.equal(linear_svm_sides(cloud(4), labels), labels)
    assert conditional_entropy(separation_table(cloud(4), labels)) == 0


def test_plane_is_that_of_a_general_solver():
    # The same problem with slack variables: 1/2 |w|^2 + sum of s^2, with y (w x) >= 1 - s and s >= 0.
    latents = cloud(24, 2, 3)
    labels = latents[:, 0] + 0.8 * cloud(24, 2, 4)[:, 1] > 0.2
    points = np.concatenate([latents.numpy(), np.ones((24, 1))], axis=1)
    signs = np.where(labels.numpy(), 1.0, -1.0)
    found = optimize.minimize(
        lambda v: 0.5 * v[:3] @ v[:3] + v[3:] @ v[3:],
        np.concatenate([np.zeros(3), np.ones(24)]),
        bounds=[(None, None)] * 3 + [(0, None)] * 24,
        constraints={"type": "ineq", "fun": lambda v: signs * (points @ v[:3]) - 1 + v[3:]},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert found.success
    assert linear_svm_sides(latents, labels).tolist() == (points @ found.x[:3] > 0).tolist()


def test_weights_are_kept_small_against_the_losses():
    latents = cloud(300, 1) + 3
    labels = latents[:, 0] + 0.5 * cloud(300, 1, 1)[:, 0] > 3.3
    signs = np.where(labels.numpy(), 1.0, -1.0)

    def loss(plane):
        missing = np.maximum(1 - signs * (latents[:, 0].numpy() * plane[0] + plane[1]), 0)
        return 0.5 * plane @ plane + 0.02 * missing @ missing

    found = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12}).x
    sides = linear_svm_sides(latents, labels, penalty=0.02)
    assert sides.tolist() == (latents[:, 0] * found[0] + found[1] > 0).tolist()
    assert (sides != linear_svm_sides(latents, labels, penalty=10.0)).double().mean() > 0.02


def test_latents_and_labels_fit():
    with pytest.raises(ValueError, match=r"^latents \(N, D\) and labels \(N,\), got \(4, 5\) and \(3,\)$"):
        linear_svm_sides(cloud(4), torch.ones(3))
    with pytest.raises(ValueError, match=r"^latents hold NaN or infinity$"):
        linear_svm_sides(cloud(4) * float("nan"), torch.tensor([True, False, True, False]))


# The metric ---------------------------------------------------------------------------------------------------------


class Painter:
    """Paints its latent, between -1 and 1, into the first pixels of the first channel."""

    device = torch.device("cpu")

    def __init__(self, as_images=False):
        self.as_images = as_images

    def sample_latents(self, num_videos, *, num_frames=None, seed=0, first=0):
        rows = [
            torch.rand(2, 2, generator=torch.Generator().manual_seed(derive_seed(seed, n))) * 2 - 1
            for n in range(first, first + num_videos)
        ]
        return {"z": torch.stack(rows), "noise": torch.stack(rows).flip(0)}

    def decode(self, latents):
        videos = torch.zeros(len(latents["z"]), 3, 2, 4, 4)
        videos[:, 0, :, 0] = latents["z"].flatten(1)[:, None]
        return videos[:, :, 0] if self.as_images else videos


class Attributes(Extractor):
    """Two attributes: whether the first pixel is bright, and whether the second is far from grey."""

    name = "attributes"
    num_features = 2
    classifies = True

    def __init__(self, weights="auto"):
        super().__init__()
        self.weights = Weights(weights, "0", published=True)

    def to(self, device):
        self.device = device
        return super().to(device)

    def logits(self, videos):
        first, second = (videos[:, 0, 0, 0, column].float() / 127.5 - 1 for column in (0, 1))
        return torch.stack([first, second.abs() - 0.5], dim=1)


class OfFrames(Attributes):
    per_frame = True

    def logits(self, videos):
        frames = super().logits(videos).repeat_interleave(videos.shape[2], dim=0)
        return frames * torch.tensor([0.5, 1.5]).repeat(len(videos))[:, None]


class Blind(Attributes):
    classifies = False


def measured(model=None, classifier=Attributes, **settings):
    metric = LinearSeparability(classifier=f"{__name__}.{classifier.__name__}", num_samples=300, **settings)
    metric.measure(model or Painter())
    return metric


def test_what_is_linear_in_the_latent_is_separated_and_what_is_not_is_not():
    metric = measured(keep=150)
    value = metric.compute().item()
    straight, bent = metric.details["entropies_bits"]
    assert straight < 0.1 and 0.7 < bent <= 1
    assert value == pytest.approx(2 ** (straight + bent), rel=1e-12)


def test_the_surest_are_kept():
    metric = measured(keep=40)
    latents = Painter().sample_latents(300, seed=derive_seed(0, "separability"))["z"].flatten(1)
    assert torch.equal(metric.latents, latents)
    surest = latents[:, 0].abs().argsort(descending=True)[:40]
    table = separation_table(latents[surest], latents[surest, 0] > 0)
    metric.compute()
    assert metric.details["entropies_bits"][0] == pytest.approx(conditional_entropy(table).item(), abs=1e-12)


def test_batches_of_any_size_images_and_frames_give_the_same():
    value = measured(keep=100).compute()
    assert measured(keep=100, batch_size=300).compute() == value
    assert measured(Painter(as_images=True), keep=100).compute() == value
    assert measured(classifier=OfFrames, keep=100).compute() == value


def test_the_latent_asked_for_is_looked_at():
    assert torch.equal(measured(latent="z", keep=9).latents, measured(keep=9).latents)
    assert not torch.equal(measured(latent="noise", keep=9).latents, measured(keep=9).latents)


def on_rank(batch_size):
    metric = measured(keep=100, batch_size=batch_size)
    return float(metric.compute()), metric.details


@pytest.mark.parametrize("batch_size", [16, 300])
def test_two_processes_equal_one(batch_size, pair: ProcessPair):
    alone = measured(keep=100)
    value = float(alone.compute())
    assert pair.run(on_rank, batch_size=batch_size) == [(value, alone.details)] * 2


def test_the_classifier_goes_where_the_model_is():
    assert measured(keep=9).classifier.device == Painter.device


def test_all_that_the_value_depends_on_is_told():
    metric = LinearSeparability(classifier=f"{__name__}.Attributes", weights="mine", latent="z")
    assert metric.protocol() == {
        "metric": "separability",
        "latent": "z",
        "num_samples": 200_000,
        "keep": 100_000,
        "num_frames": None,
        "batch_size": 8,
        "seed": 0,
        "classifier": {
            "name": "attributes",
            "weights": {"name": "mine", "fingerprint": "0", "published": True, "file": ""},
        },
    }
    assert metric.label == "separability"
    random = LinearSeparability(classifier=f"{__name__}.Attributes", weights="random")
    assert random.label == "separability_random_attributes"


def test_models_without_a_latent_space_are_refused():
    with pytest.raises(UserError) as error:
        measured(SimpleNamespace(decode=print), keep=1)
    message = "separability: SimpleNamespace does not offer sample_latents; it has no latent space to look at"
    assert str(error.value) == message


def test_nothing_measured_has_no_value():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = LinearSeparability(classifier=f"{__name__}.Attributes", num_samples=5, keep=5)
        with pytest.raises(ValueError, match=r"^separability: 0 of 5 samples were made; call measure\(model\)$"):
            metric.compute()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "separability: needs a classifier of attributes; name an extractor that classifies"),
        (
            {"classifier": f"{__name__}.Attributes", "num_samples": 5, "keep": 6},
            "separability: keep is 6 of num_samples 5; it must be 1 to 5",
        ),
        (
            {"classifier": f"{__name__}.Blind"},
            f"separability: {__name__}.Blind does not classify; name an extractor that does",
        ),
    ],
)
def test_settings_that_are_none_are_refused(settings, message):
    with pytest.raises(UserError) as error:
        LinearSeparability(**settings)
    assert str(error.value) == message


def test_random_classifiers_are_told_of():
    here = f"{__name__}.Attributes"
    assert LinearSeparability(classifier=here).warnings() == []
    assert LinearSeparability(classifier=here, weights="random").warnings() == [
        "separability_random_attributes: the weights of attributes are random; not comparable with any separability"
    ]
