"""Attributes that only a share of the videos carries."""

from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.layouts import LENGTHS, SIDE, write_layouts
from tests.data.strips import make_strips
from vidgen.config import build_dataset
from vidgen.data.annotations import Attributes, Column, Labels
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.inspection import inspect
from vidgen.data.module import VideoDataModule
from vidgen.data.pack_files import PACK
from vidgen.data.packed import Packed
from vidgen.data.packing import pack
from vidgen.data.partial_labels import LabelShare, labelled_videos, lost_values, strata
from vidgen.data.request import ClipRequest
from vidgen.data.splits import Split
from vidgen.data.stored import StoredVideos
from vidgen.errors import UserError
from vidgen.evaluation.identity import data_identity

CLIP = {"resolution": 4, "num_frames": 2}
PEOPLE = r"/(?P<person>\w)(?P<take>\d)\.png$"
NAMES = [f"{action}/{person}{take}.png" for action in ("run", "walk") for person in "abcde" for take in (0, 1)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten strips of each of two classes, of five persons."""
    return make_strips(tmp_path_factory.mktemp("strips"), dict.fromkeys(NAMES, 3), side=4)


def strips(root: Path, fraction: float = 1.0, seed: int = 0, **settings: Any) -> FrameStrips:
    attributes = Attributes(PEOPLE, label_fraction=fraction, label_seed=seed)
    return FrameStrips(str(root), **{**CLIP, "attributes": attributes, **settings})


def labelled(data: StoredVideos) -> list[str]:
    """Names, without their ends, of the videos that carry attributes; the others have none at all."""
    assert data.attributes is not None
    there = np.isfinite(data.attributes)
    assert np.array_equal(there.any(axis=1), there.all(axis=1))
    for video in range(len(data)):
        carried = data.read(ClipRequest(video, (0,), data.spec.resolution))["attributes"].numpy()
        assert np.array_equal(carried, data.attributes[video], equal_nan=True)
    return [data.names[video].split(".")[0] for video in np.flatnonzero(there[:, 0])]


def in_classes(names: list[str]) -> list[int]:
    return [sum(name.startswith(f"{action}/") for name in names) for action in ("run", "walk")]


def message(root: Path, *arguments: Any, **settings: Any) -> str:
    with pytest.raises(UserError) as error:
        strips(root, *arguments, **settings)
    return str(error.value)


@pytest.mark.parametrize(
    ("fraction", "each"),
    [(0.0, 0), (0.01, 1), (0.1, 1), (0.14, 1), (0.2, 2), (0.36, 4), (0.5, 5), (0.96, 10), (1.0, 10)],
)
def test_every_class_keeps_its_rounded_share_and_at_least_one(root, fraction, each):
    assert in_classes(labelled(strips(root, fraction))) == [each, each]


def test_who_is_left_has_no_value_in_any_column_and_keeps_the_class(root):
    data = strips(root, 0.2)
    assert data.attributes is not None and data.all_attributes is not None
    hidden = np.isnan(data.attributes).all(axis=1)
    assert hidden.sum() == 16
    assert np.array_equal(data.attributes[~hidden], data.all_attributes[~hidden])
    assert np.array_equal(
        data.all_attributes, np.array([["abcde".index(n[-6]), int(n[-5])] for n in NAMES], np.float32)
    )
    assert data.labels is not None and data.labels.tolist() == [0] * 10 + [1] * 10
    assert data.spec.attribute_values == (("a", "b", "c", "d", "e"), ())


def test_the_draw_follows_its_own_seed_alone(root):
    draws = {tuple(labelled(strips(root, 0.2, seed))) for seed in range(8)}
    assert len(draws) > 4
    assert labelled(strips(root, 0.2, 3)) == labelled(strips(root, 0.2, 3, stride=1, resolution=2, num_frames=3))


def test_a_larger_share_holds_the_smaller_one(root):
    few, many = (set(labelled(strips(root, fraction))) for fraction in (0.2, 0.6))
    assert few < many


def test_labels_of_unlabelled_videos_may_be_scrambled(root, tmp_path):
    """Nothing that training reads changes: nothing of them gets through."""
    plain = strips(root, 0.3)
    hidden = [name for name in NAMES if name.split(".")[0] not in labelled(plain)]
    rng = np.random.default_rng(0)
    facts = {name: (name[-6], str(int(rng.integers(100)))) for name in NAMES}
    files = []
    for order in (hidden, [hidden[number] for number in rng.permutation(len(hidden))]):
        files.append(tmp_path / f"{len(files)}.csv")
        moved = facts | {name: facts[other] for name, other in zip(hidden, order, strict=True)}
        with open(files[-1], "w", newline="") as text:
            csv.writer(text).writerows([("path", "person", "age"), *((name, *moved[name]) for name in NAMES)])
    assert files[0].read_text() != files[1].read_text()
    batches = []
    for file in files:
        data = FrameStrips(str(root), **CLIP, attributes=Attributes(file=file, label_fraction=0.3))
        assert labelled(data) == labelled(plain)
        elements = islice(VideoDataModule(data, batch_size=5).train_dataloader(), 8)
        batches.append([{key: value.numpy().tobytes() for key, value in batch.items()} for batch in elements])
    assert batches[0] == batches[1]


def test_the_share_is_of_the_part_that_is_used(root):
    split = Split("group", pattern=PEOPLE, groups=["a", "b"])
    assert in_classes(labelled(strips(root, 0.5, split=split))) == [2, 2]


def test_without_classes_the_first_attribute_with_names_divides_the_videos(root):
    found = labelled(strips(root, 0.5, labels=Labels("none")))
    assert [sum(f"/{person}" in name for name in found) for person in "abcde"] == [2] * 5


def test_what_the_videos_are_divided_by():
    numbers = Column("n", (), np.zeros(3, np.float32))
    names = Column("who", ("x", "y"), np.array([1, np.nan, 0], np.float32))
    assert strata(np.array([4, 5, 4]), [names], 3).tolist() == [4, 5, 4]
    assert strata(None, [numbers, names], 3).tolist() == [1, -1, 0]
    assert strata(None, [numbers], 3).tolist() == [0, 0, 0]


def test_videos_without_attributes_are_not_counted():
    known = np.arange(20) % 2 == 0
    chosen = labelled_videos(np.arange(20) // 10, known, 0.4, 0)
    assert chosen.sum() == 4 and not chosen[~known].any() and chosen[:10].sum() == 2
    assert not labelled_videos(np.zeros(3, np.int64), np.zeros(3, bool), 0.5, 0).any()


def test_the_share_is_told(root, tmp_path):
    line = "left out the attributes of 12 of 20 videos (data.attributes.label_fraction 0.4, label_seed 2)"
    data = strips(root, 0.4, 2)
    assert data.describe().splitlines()[-1] == line
    text = str(inspect(VideoDataModule(data, batch_size=1), tmp_path, 4))
    assert line in text.splitlines() and ", unknown (12)" in text
    assert "left out" not in strips(root).describe()


def test_telling_the_share_is_no_warning(root, caplog):
    strips(root, 0.4, 2)
    strips(root, 0.0)
    assert not caplog.records


def test_values_that_no_video_carries_any_more_are_named(root, caplog):
    data = strips(root, 0.2, 3)
    lost = [person for person in "abcde" if not any(f"/{person}" in name for name in labelled(data))]
    assert lost == ["e"]
    line = "left out the attributes of 16 of 20 videos (data.attributes.label_fraction 0.2, label_seed 3)"
    assert data.notices == [f"{line}; none is left of person e"] == [record.message for record in caplog.records]


def test_of_many_lost_values_ten_are_named():
    names = tuple(f"p{number}" for number in range(14))
    who, kind = (
        Column("who", names, np.arange(14, dtype=np.float32)),
        Column("kind", ("x", "y"), np.ones(14, np.float32)),
    )
    left = np.full((14, 2), np.nan, np.float32)
    assert lost_values([who, kind], left) == "who p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 and 4 more; kind y"
    left[3] = 3, 1
    assert lost_values([who, kind], left).startswith("who p0, p1, p2, p4,") and "kind" not in lost_values(
        [who, kind], left
    )


def test_digest_and_identity_notice_the_share(root):
    whole, same, few, others = strips(root), strips(root, 0.999), strips(root, 0.2), strips(root, 0.2, 1)
    assert whole.spec.digest == same.spec.digest
    assert len({data.spec.digest for data in (whole, few, others)}) == 3
    assert len({str(data_identity(data)["files"]) for data in (whole, few, others)}) == 3


def test_shares_are_checked(root):
    reason = "it must be at least 0 and at most 1"
    assert message(root, 1.5) == f"data.attributes.label_fraction is 1.5; {reason}"
    assert message(root, -1.0) == f"data.attributes.label_fraction is -1; {reason}"


# Layouts -----------------------------------------------------------------------------------------------------------


def test_every_layout_labels_the_same_videos(tmp_path):
    sections = write_layouts(tmp_path)
    pattern = Attributes(r"(?P<kind>\w)/", label_fraction=0.5, label_seed=2)
    source = build_dataset({**sections["frame_strips"], "resolution": SIDE, "num_frames": 2, "attributes": pattern})
    pack(source, {}, tmp_path / "labelled", quiet=True)
    sections["packed"] = {"name": "packed", "root": str(tmp_path / "labelled")}
    found = {}
    for name, section in sections.items():
        more = {} if name == "packed" else {"attributes": pattern}
        data = build_dataset({**section, "resolution": SIDE, "num_frames": 2, **more})
        assert isinstance(data, StoredVideos) and len(data) == len(LENGTHS)
        found[name] = ([label.removeprefix("set/") for label in labelled(data)], data.spec.digest)
    assert len(found["packed"][0]) == 3  # 1 of 2 and 2 of 3
    assert all(value == found["packed"] for value in found.values())


@pytest.fixture
def packed(root: Path, tmp_path: Path) -> str:
    """A pack of a data set with few labels."""
    pack(strips(root, 0.2, 3), {}, tmp_path / "pack", quiet=True)
    return str(tmp_path / "pack")


def test_a_pack_labels_as_its_data_set_does(root, packed):
    data, source = Packed(packed, **CLIP), strips(root, 0.2, 3)
    assert labelled(data) == labelled(source) and data.spec == source.spec
    assert data.notices == source.notices and data.notices[0].startswith("left out the attributes of 16 of 20 videos")


@pytest.mark.parametrize(("fraction", "seed"), [(1.0, None), (0.5, None), (0.5, 1), (None, 1), (0.0, None)])
def test_a_pack_holds_all_attributes_and_the_share_is_chosen_anew(root, packed, fraction, seed):
    data = Packed(packed, **CLIP, attributes=LabelShare(fraction, seed))
    fraction, seed = 0.2 if fraction is None else fraction, 3 if seed is None else seed
    source = strips(root, fraction, seed)
    assert labelled(data) == labelled(source) and data.spec == source.spec


def test_a_part_of_a_pack_has_the_share_of_that_part(root, packed):
    split = Split("group", pattern=PEOPLE, groups=["a", "c", "d"])
    data = Packed(packed, **CLIP, split=split)
    assert labelled(data) == labelled(strips(root, 0.2, 3, split=split)) and in_classes(labelled(data)) == [1, 1]


def test_a_pack_that_says_nothing_of_a_share_has_all_attributes(root, packed):
    """As those that were made before there were shares."""
    about = json.loads((Path(packed) / PACK).read_text())
    (Path(packed) / PACK).write_text(
        json.dumps({key: value for key, value in about.items() if not key.startswith("label_")})
    )
    assert len(labelled(Packed(packed, **CLIP))) == 20


def test_a_pack_of_a_pack_holds_all_attributes(root, packed, tmp_path):
    pack(Packed(packed, **CLIP, attributes=LabelShare(0.5)), {}, tmp_path / "second", quiet=True)
    second = str(tmp_path / "second")
    assert labelled(Packed(second, **CLIP)) == labelled(strips(root, 0.5, 3))
    assert len(labelled(Packed(second, **CLIP, attributes=LabelShare(1.0)))) == 20


def test_other_attributes_or_shares_do_not_go_into_the_same_pack(root, tmp_path):
    reason = (
        "holds a pack of other videos, of files that were replaced since, or of other shards; choose another folder"
    )
    table, out = tmp_path / "table.csv", tmp_path / "pack"
    for ages, fraction in (((1, 2), 1.0), ((1, 3), 1.0), ((1, 2), 0.5)):
        table.write_text("path,age\n" + "".join(f"{name},{age}\n" for name, age in zip(NAMES, ages, strict=False)))
        data = FrameStrips(str(root), **CLIP, attributes=Attributes(file=table, label_fraction=fraction))
        if (ages, fraction) == ((1, 2), 1.0):
            pack(data, {}, out, quiet=True)
        else:
            with pytest.raises(UserError) as error:
                pack(data, {}, out, quiet=True)
            assert str(error.value) == f"--out: {out} {reason}"


def test_shares_of_packs_are_checked(root, packed, tmp_path):
    with pytest.raises(UserError) as error:
        Packed(packed, **CLIP, attributes=LabelShare(2.0))
    assert str(error.value) == "data.attributes.label_fraction is 2; it must be at least 0 and at most 1"
    pack(FrameStrips(str(root), **CLIP), {}, tmp_path / "plain", quiet=True)
    with pytest.raises(UserError) as error:
        Packed(str(tmp_path / "plain"), **CLIP, attributes=LabelShare(0.5))
    assert str(error.value) == f"data.attributes: the pack '{tmp_path}/plain' has no attributes; leave it out"
