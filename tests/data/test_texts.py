"""Captions: where they are read from, which one a clip gets, and that packs keep them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.layouts import save_video
from tests.data.strips import make_strips, random_frames
from vidgen.config import build_dataset, check_data, compose
from vidgen.data import texts as module
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.module import VideoDataModule
from vidgen.data.packed import Packed
from vidgen.data.packing import pack
from vidgen.data.request import ClipRequest
from vidgen.data.splits import Split
from vidgen.data.texts import Texts, captions_of, choose_caption, read_captions
from vidgen.data.video_folder import VideoFolder
from vidgen.errors import UserError

CLIP = {"resolution": 8, "num_frames": 3}
NAMES = {"train/a.png": 5, "train/b.png": 9, "test/c.png": 6}
TEXTS = {"train/a.png": ["a dog", "a cat", "a hen"], "train/b": ["rain"], "test/c.png": ["it's  snow"]}


class Letters:
    """Stands for CLIP's encoding, whose merges are not here: the code of each character."""

    def __init__(self, merges: Path | None, length: int) -> None:
        self.merges, self.length = merges, length

    def encode(self, texts: list[str]) -> torch.Tensor:
        rows = [[*map(ord, text)][: self.length] for text in texts]
        return torch.tensor([row + [0] * (self.length - len(row)) for row in rows])


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_tokenizer", Letters)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_strips(tmp_path / "strips", NAMES, 8)
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS))
    return tmp_path


def strips(root: Path, **arguments: Any) -> FrameStrips:
    return FrameStrips(str(root / "strips"), **{**CLIP, "texts": Texts(root / "texts.json", length=10), **arguments})


def words(ids: torch.Tensor) -> str:
    return "".join(chr(number) for number in ids.tolist() if number)


TABLES = {
    "texts.csv": 'path,text,by\na.mp4,"a dog, wet",x\nb/c.mp4,rain,\na.mp4,a cat,y\nb/c.mp4,,\n',
    "texts.json": '{"a.mp4": ["a dog, wet", "a cat"], "b/c.mp4": "rain "}',
    "texts.jsonl": '{"path": "a.mp4", "texts": ["a dog, wet", "a cat"]}\n\n{"path": "b/c.mp4", "text": "rain"}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_every_kind_say_the_same(name, tmp_path):
    (tmp_path / name).write_text(TABLES[name])
    assert read_captions(tmp_path / name) == {"a.mp4": ["a dog, wet", "a cat"], "b/c.mp4": ["rain"]}


def test_a_video_is_found_with_or_without_its_ending_and_a_zip_without_its_only_folder(tmp_path):
    table = tmp_path / "texts.json"
    table.write_text(json.dumps({"a": "one", "x/b.mp4": "two", "c.d": "three"}))
    assert list(captions_of(table, ["a.mp4", "x/b.mp4", "c.d"], tmp_path)) == ['["one"]', '["two"]', '["three"]']
    assert list(captions_of(table, ["whole/a.mp4", "whole/c.d"], tmp_path / "a.zip")) == ['["one"]', '["three"]']


BAD = {
    "texts.txt": ("a dog", " is no table of captions; it must end in .csv, .json or .jsonl"),
    "texts.csv": ("file,text\na,b\n", " has no column 'path'; its first line must be path,text"),
    "a.json": ("{", " cannot be read: it is not JSON"),
    "b.json": ("[]", " is not of the form {path: text or [texts]}"),
    "c.json": ('{"a.mp4": [1]}', ", 'a.mp4': the caption must be a text or a list of texts"),
    "d.json": ('{"a.mp4": ["", " "]}', " holds no caption"),
    "a.jsonl": (
        '{"path": "a", "text": "x"}\n{"path": "a"}',
        ', line 2: it should be like {"path": "train/a.mp4", "texts": ["a dog runs"]}',
    ),
    "b.jsonl": ('{"path": "a", "texts": 3}', ", line 1: the caption must be a text or a list of texts"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_table_that_makes_no_sense_is_refused(name, tmp_path):
    file = tmp_path / name
    file.write_text(BAD[name][0])
    with pytest.raises(UserError) as caught:
        read_captions(file)
    assert str(caught.value) == f"data.texts.file {str(file)!r}{BAD[name][1]}"


def test_a_table_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe")
    for file, reason in (("a.json", "it is no text in UTF-8"), ("b.json", "No such file or directory")):
        with pytest.raises(UserError) as caught:
            read_captions(tmp_path / file)
        assert str(caught.value) == f"data.texts.file {str(tmp_path / file)!r} cannot be read: {reason}"


def test_a_clip_has_the_ids_of_a_caption(root):
    dataset = strips(root)
    assert (dataset.spec.text_length, dataset.spec.text_vocabulary) == (10, 49408)
    assert dataset.spec.audio_size is None
    assert "texts of 10 ids" in dataset.describe().splitlines()
    sample = dataset.read(ClipRequest(0, (0, 1, 2), 8))
    assert sample["text"].dtype == torch.int64 and sample["text"].shape == (10,)
    assert [words(dataset.read(ClipRequest(n, (0, 1, 2), 8))["text"]) for n in range(3)] == [
        "it's  snow",
        "a dog",
        "rain",
    ]


def test_one_of_several_captions_is_drawn_by_the_seed(root):
    dataset = strips(root)
    drawn = [words(dataset.read(ClipRequest(1, (0, 1, 2), 8, seed))["text"]) for seed in range(60)]
    assert all(12 <= drawn.count(text) <= 28 for text in ("a dog", "a cat", "a hen"))
    again = pickle.loads(pickle.dumps(dataset))  # as a worker process has it
    assert [words(again.read(ClipRequest(1, (0, 1, 2), 8, seed))["text"]) for seed in range(60)] == drawn
    assert choose_caption('["x", "y"]', None) == "x"


def test_batches_hold_text(root):
    data = VideoDataModule(strips(root), batch_size=2)
    assert next(iter(data.train_dataloader()))["text"].shape == (2, 10)
    assert "text" not in strips(root, texts=None).read(ClipRequest(0, (0, 1, 2), 8))


def test_a_video_without_a_caption_is_named(root):
    (root / "texts.json").write_text(json.dumps({"train/a": "x", "train/b": ["", " "], "test/c": "y"}))
    with pytest.raises(UserError) as caught:
        strips(root)
    assert str(caught.value) == (
        f"data.texts.file {str(root / 'texts.json')!r} has no text for 'train/b.png', found in"
        f" {str(root / 'strips')!r}; add one, or leave the video out with data.split"
    )
    (root / "list.txt").write_text("train/a.png\n")
    assert len(strips(root, split=Split(by="file", file=root / "list.txt"))) == 1


def test_settings_without_a_table_or_room_are_refused(root):
    with pytest.raises(UserError) as caught:
        strips(root, texts=Texts())
    assert str(caught.value) == "data.texts needs data.texts.file, the captions of the videos"
    with pytest.raises(UserError) as caught:
        strips(root, texts=Texts(root / "texts.json", length=2))
    assert str(caught.value) == "data.texts.length is 2; it must be at least 3"


def test_a_config_names_the_table(root):
    config = root / "config.yaml"
    config.write_text(
        f"data:\n  name: frame_strips\n  root: {root / 'strips'}\n  resolution: 8\n  num_frames: 3\n"
        f"  texts: {{file: {root / 'texts.json'}, length: 12}}\n"
    )
    data, _ = check_data(compose(config))
    assert build_dataset(data).spec.text_length == 12
    with pytest.raises(UserError) as caught:
        check_data(compose(config, ["data.texts.file=gone.json"]))
    assert str(caught.value) == "data.texts.file: no such file: gone.json"
    with pytest.raises(UserError) as caught:
        check_data(compose(config, ["data.texts.lenght=3"]))
    assert str(caught.value) == "data.texts.lenght: unknown key; did you mean 'length'?"


def test_other_captions_are_another_data_set(root):
    first = strips(root).spec.digest
    assert strips(root).spec.digest == first and strips(root, texts=None).spec.digest != first
    (root / "texts.json").write_text(json.dumps({**TEXTS, "train/b": ["sun"]}))
    assert strips(root).spec.digest != first


def test_a_pack_keeps_captions(root):
    dataset = strips(root)
    settings = {"name": "frame_strips", "root": str(root / "strips"), "texts": Texts(root / "texts.json", length=10)}
    pack(dataset, settings, root / "pack", quiet=True)
    packed = Packed(str(root / "pack"), **CLIP, texts=Texts(length=10))
    assert packed.spec.digest == dataset.spec.digest
    for seed in (None, *range(8)):
        request = ClipRequest(1, (0, 1, 2), 8, seed)
        assert torch.equal(packed.read(request)["text"], dataset.read(request)["text"])
    part = Packed(str(root / "pack"), **CLIP, texts=Texts(length=5), split=Split(by="folder", folder="train"))
    assert [words(part.read(ClipRequest(n, (0, 1, 2), 8))["text"]) for n in range(2)] == ["a dog", "rain"]
    assert "text" not in Packed(str(root / "pack"), **CLIP).read(ClipRequest(0, (0, 1, 2), 8))
    (root / "texts.json").write_text(json.dumps({"train": "x", **dict.fromkeys(NAMES, "y")}))
    other = Packed(str(root / "pack"), **CLIP, texts=Texts(root / "texts.json", length=5))
    assert words(other.read(ClipRequest(0, (0, 1, 2), 8))["text"]) == "y"


def test_a_pack_is_of_its_captions_but_not_of_their_length(root):
    settings = {"name": "frame_strips", "root": str(root / "strips"), "texts": Texts(root / "texts.json", length=10)}
    pack(strips(root), settings, root / "pack", quiet=True)
    longer = {**settings, "texts": Texts(root / "texts.json", root / "merges", 20)}
    pack(strips(root, texts=longer["texts"]), longer, root / "pack", quiet=True)
    (root / "texts.json").write_text(json.dumps({**TEXTS, "train/b": ["sun"]}))
    with pytest.raises(UserError, match="holds a pack of other videos"):
        pack(strips(root), settings, root / "pack", quiet=True)


def test_a_pack_without_captions_says_so(root):
    pack(strips(root, texts=None), {"name": "frame_strips", "root": str(root)}, root / "pack", quiet=True)
    with pytest.raises(UserError) as caught:
        Packed(str(root / "pack"), **CLIP, texts=Texts())
    assert str(caught.value) == f"data.texts: the pack {str(root / 'pack')!r} has no texts; give data.texts.file"


def test_tables_beside_videos_are_passed_over(tmp_path, caplog):
    save_video(tmp_path / "a.mkv", random_frames(4, 16))
    (tmp_path / "texts.jsonl").write_text('{"path": "a", "text": "rain"}\n')
    dataset = VideoFolder(str(tmp_path), **CLIP, texts=Texts(tmp_path / "texts.jsonl", length=6))
    assert words(dataset.read(ClipRequest(0, (0, 1, 2), 8))["text"]) == "rain"
    assert caplog.text == ""
