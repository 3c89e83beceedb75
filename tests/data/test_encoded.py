"""Reading what was encoded: clips of codes, and everything that belongs to them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.strips import make_strips
from tests.data.test_encoding import ENCODER, ENCODING, Levels
from tests.encoding_models import CODES, tokens_of
from vidgen.data.annotations import Attributes
from vidgen.data.audio import Audio
from vidgen.data.clips import Clips
from vidgen.data.encoded import Encoded
from vidgen.data.encoding import Encoder, encode
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.inspection import inspect
from vidgen.data.module import VideoDataModule
from vidgen.data.packed import Packed
from vidgen.data.packing import pack
from vidgen.data.partial_labels import LabelShare
from vidgen.data.request import ClipRequest
from vidgen.data.spec import DataSpec
from vidgen.data.splits import Split
from vidgen.data.texts import Texts
from vidgen.errors import UserError
from vidgen.evaluation.opening import open_videos
from vidgen.evaluation.sources import ClipRule, StoredClips

LENGTHS = {"run/a1.png": 9, "run/a2.png": 12, "walk/b1.png": 14, "walk/b2.png": 7}


def message(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as error:
        call()
    return str(error.value)


def source(folder: Path, **settings: Any) -> FrameStrips:
    """Strips of two classes."""
    if not (folder / "strips").exists():
        make_strips(folder / "strips", LENGTHS)
    return FrameStrips(str(folder / "strips"), 8, 2, **settings)


def encoded(folder: Path, every: int | None = None, encoder: Encoder = ENCODER, **settings: Any) -> str:
    """A folder of their codes; its name."""
    dataset = source(folder, **settings)
    about = {"name": "frame_strips", "root": f"{folder}/strips", "resolution": 8, **settings}
    encode(dataset, about, folder / "codes", encoder, every=every, quiet=True)
    return str(folder / "codes")


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Whole videos, encoded."""
    return encoded(tmp_path)


def whole(folder: Path, video: int) -> Tensor:
    """The codes of a whole video."""
    dataset = source(folder)
    times = range(int(dataset.lengths[video]) // 2 * 2)
    return tokens_of(dataset.read(ClipRequest(video, tuple(times), 8))["video"][None])[0]


def test_a_clip_is_a_part_of_the_whole_video(tmp_path, root):
    data = Encoded(root, 4)
    assert list(data.names) == list(LENGTHS) and data.lengths.tolist() == [8, 12, 14, 6]
    starts = set()
    for draw in range(40):
        times = data.clip_times(2, draw)
        sample = data.read(ClipRequest(2, times, 8, seed=draw))
        start = times[0] // 2
        starts.add(times)
        assert sample["tokens"].dtype == torch.int64 and sample["tokens"].shape == (2, 2, 2)
        assert torch.equal(sample["tokens"], whole(tmp_path, 2)[start : start + 2])
        assert sample["times"].dtype == torch.float32 and sample["times"].tolist() == [2 * start, 2 * start + 2]
        assert sample["length"] == 14 and sample["label"] == 1
        assert sample.keys() == {"tokens", "times", "length", "label"}
    assert starts == {(start, start + 2) for start in range(0, 12, 2)}
    assert Encoded(root, 4, clips=Clips(start="first")).clip_times(2, 99) == (0, 2)


def test_the_spec_says_what_the_codes_are(root):
    data = Encoded(root, 4, latent_stride=2, crop=(1, 2))
    spec = data.spec
    assert (spec.channels, spec.resolution, spec.num_frames, spec.class_names) == (3, 8, 4, ("run", "walk"))
    assert (spec.num_videos, spec.min_length, spec.max_length, spec.width) == (4, 6, 14, None)
    assert spec.encoding == {
        "key": "tokens",
        "stride": 2,
        "num_codes": CODES,
        "shape": [1, 2],
        "full_shape": [2, 2],
        "latent_stride": 2,
        "model": "tiny",
        "fingerprint": "f" * 64,
        "network": "network",
    }
    assert DataSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    before = {key: value for key, value in spec.to_dict().items() if key != "encoding"}
    assert DataSpec.from_dict(before).encoding is None


def test_codes_of_another_encoder_have_another_digest(tmp_path):
    digests = set()
    for letter in "ab":
        encode(Levels((4, 4)), {}, tmp_path / letter, replace(ENCODER, fingerprint=letter * 64), quiet=True)
        digests.add(Encoded(str(tmp_path / letter), 2).spec.digest)
    assert len(digests) == 2


def test_sparse_steps_reach_over_the_same_frames(tmp_path, root):
    data = Encoded(root, 12, latent_stride=3)
    assert list(data.names) == ["run/a2.png", "walk/b1.png"]
    assert {data.clip_times(1, draw) for draw in range(20)} == {(0, 6), (2, 8)}
    sample = data.read(ClipRequest(1, (2, 8), 8))
    assert torch.equal(sample["tokens"], whole(tmp_path, 2)[[1, 4]])
    assert sample["times"].tolist() == [2, 8]


def test_a_crop_is_drawn_by_the_request_and_told(tmp_path, root):
    data = Encoded(root, 4, crop=(1, 2))
    boxes = set()
    for seed in range(20):
        sample = data.read(ClipRequest(0, (0, 2), 8, seed))
        y0, y1, x0, x1 = sample["box"].tolist()
        assert sample["box"].dtype == torch.int64 and (y1 - y0, x1 - x0) == (1, 2)
        assert torch.equal(sample["tokens"], whole(tmp_path, 0)[:2, y0:y1, x0:x1])
        assert torch.equal(data.read(ClipRequest(0, (0, 2), 8, seed))["box"], sample["box"])
        boxes.add((y0, y1, x0, x1))
    assert boxes == {(0, 1, 0, 2), (1, 2, 0, 2)}
    assert data.read(ClipRequest(0, (0, 2), 8))["box"].tolist() == [0, 1, 0, 2]
    wide = replace(ENCODER, encode=lambda video: tokens_of(video).repeat(1, 1, 2, 2))
    encode(Levels((4,)), {}, tmp_path / "wide", wide, quiet=True)
    middle = Encoded(str(tmp_path / "wide"), 2, crop=(2, 1)).read(ClipRequest(0, (0,), 8))["box"]
    assert middle.tolist() == [1, 3, 1, 2]


def test_batches_hold_no_video_and_do_not_depend_on_workers(root):
    batches = []
    for workers in (0, 2):
        module = VideoDataModule(Encoded(root, 4, crop=(2, 1)), batch_size=3, num_workers=workers, seed=5)
        loader = iter(module.train_dataloader())
        batches.append([next(loader) for _ in range(3)])
    for first, second in zip(*batches, strict=True):
        assert first.keys() == {"tokens", "times", "length", "label", "box"}
        assert first["tokens"].shape == (3, 2, 2, 1) and first["tokens"].dtype == torch.int64
        assert all(torch.equal(first[key], second[key]) for key in first)
    module = VideoDataModule(Encoded(root, 4), batch_size=2, seed=1)
    assert sum(len(batch["tokens"]) for batch in module.evaluation_loader()) == 4
    assert message(lambda: VideoDataModule(Encoded(root, 4), batch_size=2, images_per_batch=1)) == (
        "data.images_per_batch 1: the data holds tokens, no frames; leave it out"
    )


def test_parts_are_chosen_by_the_names_of_the_videos(tmp_path, root):
    (tmp_path / "list.txt").write_text("run/a2.png\nwalk/b2.png\n")
    assert list(Encoded(root, 2, split=Split(by="file", file=tmp_path / "list.txt")).names) == [
        "run/a2.png",
        "walk/b2.png",
    ]
    assert list(Encoded(root, 2, split=Split(by="folder", folder="walk")).names) == ["walk/b1.png", "walk/b2.png"]


def test_all_clips_of_a_video_are_in_one_part(tmp_path):
    root = encoded(tmp_path, every=2)
    data = Encoded(root, 4)
    assert len(data) == 3 + 5 + 6 + 2 and data.names[3] == "run/a2.png#000000"
    (tmp_path / "list.txt").write_text("run/a2.png\n")
    chosen = Encoded(root, 4, split=Split(by="file", file=tmp_path / "list.txt"))
    assert list(chosen.names) == [f"run/a2.png#{start:06d}" for start in (0, 2, 4, 6, 8)]
    assert chosen.read(ClipRequest(3, (0, 2), 8))["times"].tolist() == [6, 8]
    parts = [
        {name.split("#")[0] for name in Encoded(root, 4, split=Split(by="fraction", part=part, fraction=0.5)).names}
        for part in ("train", "test")
    ]
    assert len(parts[0]) == len(parts[1]) == 2 and not parts[0] & parts[1]
    grouped = Encoded(root, 4, split=Split(by="group", pattern=r"(\d)\.png", groups=[1]))
    assert {name.split("#")[0] for name in grouped.names} == {"run/a1.png", "walk/b1.png"}


def test_attributes_and_the_share_of_them_survive(tmp_path):
    attributes = Attributes(pattern=r"(?P<letter>[ab])(?P<number>\d)", label_fraction=0.5)
    root = encoded(tmp_path, attributes=attributes)
    data = Encoded(root, 2)
    expected = source(tmp_path, attributes=attributes)
    assert data.spec.attribute_names == ("letter", "number") and data.spec.attribute_values == (("a", "b"), ())
    assert np.array_equal(data.attributes, expected.attributes, equal_nan=True)
    every = Encoded(root, 2, attributes=LabelShare(label_fraction=1.0))
    assert every.read(ClipRequest(3, (0,), 8))["attributes"].tolist() == [1, 2]


def test_captions_survive_or_are_given_when_it_is_read(tmp_path):
    rows = [f"{name},about {name}" for name in LENGTHS]
    (tmp_path / "texts.csv").write_text("\n".join(["path,text", *rows]))
    texts = Texts(tmp_path / "texts.csv")
    root = encoded(tmp_path, every=4, texts=texts)
    for given in (Texts(), texts):
        data = Encoded(root, 4, texts=given)
        assert data.captions is not None and data.spec.text_length == 256
        assert [json.loads(text) for text in data.captions] == [[f"about {n.split('#')[0]}"] for n in data.names]


def test_sound_is_that_of_all_frames_of_a_clip(tmp_path):
    for name, length in LENGTHS.items():
        path = (tmp_path / "sound" / name).with_suffix(".npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.arange(length, dtype=np.float32)[:, None, None].repeat(2, 1).repeat(2, 2) / 100)
    audio = Audio(tmp_path / "sound", (2, 2))
    data = Encoded(encoded(tmp_path), 4, audio=audio, latent_stride=2)
    sample = data.read(ClipRequest(2, (6,), 8))
    assert sample["audio"].shape == (1, 4, 2, 2) and data.spec.audio_size == (2, 2)
    assert torch.allclose((sample["audio"][0, :, 0, 0] + 1) * 50, torch.arange(6.0, 10))
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "strips").symlink_to(tmp_path / "strips")
    clips = Encoded(encoded(tmp_path / "clips", every=3), 4, audio=audio)
    sample = clips.read(ClipRequest(list(clips.names).index("walk/b1.png#000009"), (0, 2), 8))
    assert torch.allclose((sample["audio"][0, :, 0, 0] + 1) * 50, torch.arange(9.0, 13))


def test_what_cannot_be_is_refused(tmp_path, root):
    assert message(lambda: Encoded(root, 3)) == (
        f"data.num_frames is 3; it must be a multiple of 2, the frames of one step of the tokens in {root!r}"
    )
    assert message(lambda: Encoded(root, 16)).startswith(
        f"data.root {root!r}: none of its 4 videos has 16 frames (the longest has 14)"
    )
    assert message(lambda: Encoded(root, 4, resolution=16)) == (
        f"data.resolution is 16, but the videos in {root!r} were encoded at 8; leave it out"
    )
    assert len(Encoded(root, 4, resolution=8)) == 4
    assert message(lambda: Encoded(root, 4, latent_stride=0)) == "data.latent_stride is 0; it must be at least 1"
    assert message(lambda: Encoded(root, 4, crop=(3, 1))) == (
        f"data.crop is [3, 1]; a step in {root!r} is 2 x 2, of which it must be a part"
    )
    assert message(lambda: Encoded(root, 4, clips=Clips(repeat_last=True))) == (
        "data.clips: of encoded videos only data.clips.start can be chosen; leave the rest out"
    )


def test_a_folder_of_something_else_is_refused(tmp_path, root):
    (tmp_path / "empty").mkdir()
    assert message(lambda: Encoded(f"{tmp_path}/empty", 4)) == (
        f"data.root '{tmp_path}/empty' holds no pack; make one with `vidgen data encode DATA --ckpt PATH --out DIR`"
    )
    pack(Levels((4,)), {}, tmp_path / "pack", quiet=True)
    assert message(lambda: Encoded(f"{tmp_path}/pack", 4)) == (
        f"data.root '{tmp_path}/pack' is a pack of frames, nothing is encoded; read it with data.name packed, or encode"
        " it with `vidgen data encode`"
    )
    assert message(lambda: Packed(root, 8, 2)) == (
        f"data.root {root!r} holds videos encoded as tokens, no frames; they are read as the data set `encoded`"
    )
    about = json.loads(Path(root, "pack.json").read_text())
    Path(root, "pack.json").write_text(json.dumps({**about, "format": 9}))
    assert message(lambda: Encoded(root, 4)) == f"data.root {root!r}: a pack of format 9, not 1; encode anew"


def test_codes_are_not_taken_for_frames_to_measure(root):
    rule = ClipRule(4)
    assert message(lambda: StoredClips(Encoded(root, 4), rule, native=False, name="codes.yaml")) == (
        "codes.yaml: holds tokens, no frames; give the videos that they were made from"
    )
    assert message(lambda: open_videos(root, "--real")) == (
        f"--real {root!r} holds videos encoded as tokens, no frames; they are read as the data set `encoded`"
    )


def test_damage_is_found(tmp_path, root):
    shard = Path(root, "shard-00001.bin")
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    data = Encoded(root, 4, verify=True)
    assert message(lambda: data.read(ClipRequest(1, (0, 2), 8))) == (
        f"'{shard} (run/a2.png)' cannot be read: frame 0 differs from its checksum; repair or remove it"
    )
    assert data.read(ClipRequest(1, (2, 4), 8))["tokens"].shape == (2, 2, 2)
    os.truncate(shard, 5)
    assert message(lambda: Encoded(root, 4)) == (
        f"{shard}: has 5 bytes and should have 48; run the `vidgen data encode` that made the pack again"
    )


def test_it_describes_itself(root):
    assert Encoded(root, 12, latent_stride=2, crop=(2, 1)).describe() == (
        f"encoded videos in {root}\n"
        "2 videos of 12 to 14 frames (26 in all)\n"
        f"clips of 12 frames as tokens below {CODES}, 3 x 2 x 1 (steps of 2 frames, one of 2 taken, cut out at random),"
        " encoded by tiny ffffffffffff\n"
        "2 classes: run (1), walk (1)\n"
        f"{root}: left out 2 videos shorter than 12 frames"
    )


def test_inspection_shows_codes(tmp_path, root):
    data = Encoded(root, 4)
    found = inspect(VideoDataModule(data, batch_size=1), tmp_path / "report")
    lines = str(found).splitlines()
    tokens = [data.read(ClipRequest(v, data.clip_times(v, 0), 8))["tokens"] for v in range(4)]
    assert lines[4] == f"clips: 4 frames as tokens below {CODES}, 2 x 2 x 2 (steps of 2 frames), encoded by tiny" + (
        " ffffffffffff"
    )
    used = int(lines[5].split()[1])
    assert lines[5] == f"codes: {used} of {CODES} occur (4 sampled clips)"
    assert 1 < used <= sum(len(clip.unique()) for clip in tokens) + 8
    assert "pixel mean" not in str(found) and "a clip spans: 29 to 67% of its video, median 42" in lines
    assert found.clip["used_codes"] == used and (tmp_path / "report" / "contact_sheet.png").stat().st_size > 0


def test_inspection_names_clips_whose_codes_stay_the_same(tmp_path):
    def same(video: Tensor) -> Tensor:
        return torch.zeros_like(tokens_of(video))

    data = Encoded(encoded(tmp_path, encoder=replace(ENCODER, encode=same)), 4)
    warnings = inspect(VideoDataModule(data, batch_size=1), tmp_path / "report").warnings
    assert warnings == (f"4 of 4 sampled clips frozen (all steps have the same codes): {', '.join(LENGTHS)}",)


def test_inspection_shows_latents(tmp_path):
    def latents(video: Tensor) -> Tensor:
        return tokens_of(video).flatten(2)[..., None].repeat(1, 1, 1, 5) / 256

    encoding = replace(ENCODING, key="latents", num_codes=None)
    data = Encoded(encoded(tmp_path, encoder=replace(ENCODER, encode=latents, encoding=encoding)), 4)
    assert data.read(ClipRequest(0, (0, 2), 8))["latents"].shape == (2, 4, 5)
    text = str(inspect(VideoDataModule(data, batch_size=1), tmp_path / "report"))
    assert "clips: 4 frames as latents, 2 x 4 x 5 (steps of 2 frames), encoded by tiny ffffffffffff\n" in text
    assert "codes: " not in text
