"""Captions in a plain file, for models of texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from vidgen.data import texts as module
from vidgen.errors import UserError
from vidgen.evaluation.contexts import Captions, open_contexts
from vidgen.models.base import VideoModel


class Codes:
    """In place of CLIP's encoding, whose merges are not here: the code of the first character."""

    def __init__(self, bpe: Path | None, length: int) -> None:
        self.bpe, self.length = bpe, length

    def encode(self, captions: list[str]) -> Tensor:
        return torch.tensor([[ord(caption[0])] * self.length for caption in captions])


class Painter(VideoModel):
    """Says that it samples from texts of 5 ids."""

    sample_keys = ("text",)

    def __init__(self, text_length: int = 5) -> None:
        super().__init__()


@pytest.fixture(autouse=True)
def codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_tokenizer", Codes)


def test_each_line_is_a_caption(tmp_path):
    (tmp_path / "captions.txt").write_text("a dog runs\n\n  rain \n", encoding="utf-8-sig")
    contexts = open_contexts(str(tmp_path / "captions.txt"), Painter(), {})
    assert isinstance(contexts, Captions) and len(contexts) == 2
    assert contexts.batch([1, 0])["text"].tolist() == [[ord("r")] * 5, [ord("a")] * 5]
    assert contexts.truth(0, 16) is None
    assert contexts.identity() == {"captions": ["a dog runs", "rain"], "length": 5, "merges": None}
    digests = []
    for merges in ("a b", "a c"):
        (tmp_path / "merges").write_text(merges)
        named = open_contexts(str(tmp_path / "captions.txt"), Painter(), {}, bpe=tmp_path / "merges")
        digests.append(named.identity()["merges"])
    assert len({None, *digests}) == 3, "other merges are other ids, and those another sample"


def test_the_data_of_training_tell_the_length(tmp_path):
    (tmp_path / "captions.TXT").write_text("rain")
    about = {"data_spec": {"text_length": 3}}
    contexts = open_contexts(str(tmp_path / "captions.TXT"), Painter(), about, bpe=tmp_path / "merges")
    assert contexts.batch([0])["text"].shape == (1, 3)
    assert isinstance(contexts, Captions) and contexts.bpe == tmp_path / "merges"


def test_a_file_without_captions_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xfa")
    for name, message in (
        ("a.txt", "holds no caption; write one in each line"),
        ("b.txt", "cannot be read: it is no text in UTF-8"),
        ("c.txt", "cannot be read: No such file or directory"),
    ):
        with pytest.raises(UserError) as caught:
            open_contexts(str(tmp_path / name), Painter(), {})
        assert str(caught.value) == f"--context: {tmp_path / name} {message}"
