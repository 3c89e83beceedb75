"""TATS' perceptual loss (``lpips.pt``) and the ids of its texts (``tokens_*`` in ``data.pt``) are the original's.

``$VIDGEN_BPE`` may name OpenAI's ``bpe_simple_vocab_16e6.txt``; without it there are those of its merges that common
words need, from ``tests/fixtures/tats/merges.txt.gz``.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.clip_merges import clip_merges
from tests.parity.fixtures import Reference, files, folder
from tests.parity.suite import ReferenceSuite
from vidgen.losses.perceptual import PerceptualLoss
from vidgen.text import ClipTokenizer

TOLERANCE = 1e-4
"""Of the largest number of a tensor, as the specification has it."""
HEAD = "full."
"""Before the names of the weights for VGG16's own widths."""
OF_TEXTS = "tokens_"
"""The outputs of ``data.pt`` that are compared here."""


def compare(data: Reference, key: str, actual: Tensor) -> None:
    """Compare an output with the expected one as a share of the largest number of that."""
    expected = data.outputs[key]
    largest = expected.abs().max()
    data.outputs[key] = expected / largest
    data.compare(key, actual / largest)


def closed_form(number: int, shape: tuple[int, ...]) -> Tensor:
    """Weights by the formula that the file's configuration spells out."""
    wave = np.abs(np.sin(np.arange(1, math.prod(shape) + 1) * 12.9898 + (number + 1) * 78.233)) * 43758.5453
    fan = 9 * shape[1] if len(shape) > 1 else 100 * shape[0]
    values = (2 * (wave % 1) - 1) * math.sqrt(3) * math.sqrt(2 / fan)
    return torch.from_numpy(values.astype(np.float32)).view(shape)


def full_sized(data: Reference) -> PerceptualLoss:
    """The network of VGG16's widths."""
    heads = {key.removeprefix(HEAD): value for key, value in data.state.items() if key.startswith(HEAD)}
    loss = PerceptualLoss([heads[f"lin{index}.model.1.weight"].shape[1] for index in range(5)])
    shapes = dict(zip(data.config["formula_keys"], trunk_shapes(loss), strict=True))
    first = data.config["formula_offset"]
    trunk = {key: closed_form(first + number, shape) for number, (key, shape) in enumerate(shapes.items())}
    loss.load_official_layout({**heads, **trunk})
    return loss


def trunk_shapes(loss: PerceptualLoss) -> list[tuple[int, ...]]:
    """Of weight and bias of each convolution."""
    layers = [layer for layer in loss.trunk if isinstance(layer, torch.nn.Conv2d)]
    return [shape for each in layers for shape in ((each.out_channels, each.in_channels, 3, 3), (each.out_channels,))]


def lpips(data: Reference) -> None:
    assert set(data.config) == {"channels", "formula", "formula_keys", "formula_offset"}
    assert set(data.inputs) == {"a", "b", "a_full", "b_full"}
    loss = PerceptualLoss(data.config["channels"])
    loss.load_official_layout({key: value for key, value in data.state.items() if not key.startswith(HEAD)})
    first, second = data.inputs["a"], data.inputs["b"].clone().requires_grad_()
    distances = loss(first, second)
    compare(data, "narrow", distances.detach().view(-1, 1, 1, 1))
    (gradient,) = torch.autograd.grad(distances.mean(), second)
    compare(data, "narrow_grad_target", gradient)
    for index, maps in enumerate(loss.features(first)):
        compare(data, f"narrow_feat_{index}", maps)
    loss = full_sized(data)
    first, second = data.inputs["a_full"], data.inputs["b_full"]
    compare(data, "full", loss(first, second).view(-1, 1, 1, 1))
    maps = loss.features(first)
    compare(data, "full_feat_mean", torch.stack([each.mean() for each in maps]))
    compare(data, "full_feat_std", torch.stack([each.std() for each in maps]))


class TestPerceptualLoss(ReferenceSuite):
    model = "tats"
    tolerance = TOLERANCE
    checks = {"lpips.pt": lpips}

    def test_every_file_is_read(self) -> None:
        assert set(self.checks) <= set(files(self.model))  # test_tats.py knows who reads the others


@pytest.fixture
def texts() -> Reference:
    data = Reference(folder("tats") / "data.pt", 0)
    data.outputs = {key: value for key, value in data.outputs.items() if key.startswith(OF_TEXTS)}
    data.open = set(data.outputs)
    return data


def check_texts(data: Reference, folder: Path) -> None:
    merges = clip_merges(folder)
    captions: list[str] = data.config["texts"]
    tokenizer = ClipTokenizer(merges, data.config["context_length"])
    for number, caption in enumerate(captions):
        data.compare(f"tokens_{number}", tokenizer.encode([caption]))
    shorter = ClipTokenizer(merges, data.config["truncated_context_length"])
    data.compare("tokens_truncated", shorter.encode(captions[1:2]))


def test_ids_are_the_originals(texts, tmp_path):
    check_texts(texts, tmp_path)
    texts.finish()


def test_another_text_is_noticed(texts, tmp_path):
    texts.config["texts"][0] += "!"
    with pytest.raises(AssertionError, match="tokens_0: integers differ"):
        check_texts(texts, tmp_path)


def test_ids_that_nothing_compares_are_noticed(texts, tmp_path):
    texts.open.add("tokens_9")
    check_texts(texts, tmp_path)
    with pytest.raises(AssertionError, match=r"nothing compares \['tokens_9'\]"):
        texts.finish()
