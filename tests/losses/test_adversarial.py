"""Adversarial losses are what their formulas say."""

from __future__ import annotations

import math

import torch

from vidgen.losses.adversarial import (
    accuracy_fake,
    accuracy_real,
    class_cross_entropy,
    cross_entropy_fake,
    cross_entropy_real,
    hinge_fake,
    hinge_generator,
    hinge_real,
)


def test_cross_entropies_are_means_over_batch_and_patches() -> None:
    logits = torch.tensor([[[0.0, 1.0]], [[-2.0, 3.0]]])
    real = [math.log(1 + math.exp(-value)) for value in logits.flatten().tolist()]
    fake = [math.log(1 + math.exp(value)) for value in logits.flatten().tolist()]
    torch.testing.assert_close(cross_entropy_real(logits).item(), sum(real) / 4)
    torch.testing.assert_close(cross_entropy_fake(logits).item(), sum(fake) / 4)


def test_cross_entropies_stay_finite_for_large_logits() -> None:
    logits = torch.tensor([1e4, -1e4])
    assert cross_entropy_real(logits) == cross_entropy_fake(logits) == 5e3


def test_hinge_losses_are_means_over_batch_and_patches() -> None:
    logits = torch.tensor([[[0.5, 1.5]], [[-0.25, -3.0]]])
    assert hinge_real(logits) == (0.5 + 0 + 1.25 + 4) / 4
    assert hinge_fake(logits) == (1.5 + 2.5 + 0.75 + 0) / 4
    assert hinge_generator(logits) == (-0.5 - 1.5 + 0.25 + 3) / 4


def test_a_discriminator_learns_nothing_beyond_the_hinge() -> None:
    logits = torch.tensor([2.0, -2.0, 0.0], requires_grad=True)
    for loss, gradient in ((hinge_real, [0, -1, -1]), (hinge_fake, [1, 0, 1]), (hinge_generator, [-1, -1, -1])):
        (found,) = torch.autograd.grad(loss(logits), logits)
        torch.testing.assert_close(found, torch.tensor(gradient) / 3)


def test_class_cross_entropy_asks_every_position() -> None:
    logits = torch.randn(2, 3, 4, 1, 1)
    label = torch.tensor([2, 0])
    parts = [-torch.log_softmax(logits[n, :, t, 0, 0], 0)[label[n]] for n in range(2) for t in range(4)]
    torch.testing.assert_close(class_cross_entropy(logits, label), torch.stack(parts).mean())
    torch.testing.assert_close(class_cross_entropy(logits[:, :, :1], label), (parts[0] + parts[4]) / 2)


def test_accuracy_is_the_share_of_right_answers() -> None:
    logits = torch.tensor([[-1.0, 2.0], [3.0, 0.0]])
    assert accuracy_real(logits) == 0.5 and accuracy_fake(logits) == 0.25
