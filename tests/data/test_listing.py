"""Which videos of a data set are used, and what is known about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vidgen.data.annotations import Attributes, Labels
from vidgen.data.listing import Annotation, Listing, list_videos
from vidgen.data.splits import Split
from vidgen.errors import UserError

PARTS = ["test/walk/c", "train/run/a", "train/walk/b"]
WHAT = "frame strips"


def listed(names: list[str], root: Path, **annotation) -> Listing:
    return list_videos(names, root, Annotation(**annotation), WHAT)


def message(names: list[str], root: Path, **annotation) -> str:
    with pytest.raises(UserError) as error:
        listed(names, root, **annotation)
    return str(error.value)


@pytest.fixture
def zipped(tmp_path) -> Path:
    """A root that is no folder."""
    return tmp_path / "a.zip"


def test_folders_are_classes(tmp_path):
    found = listed(["run/a", "run/x/b", "walk/c"], tmp_path)
    assert found.names == ("run/a", "run/x/b", "walk/c")
    assert found.class_names == ("run", "walk") and found.labels.tolist() == [0, 0, 1]
    assert found.columns == () and found.groups is None


def test_videos_beside_classes_are_left_out(tmp_path):
    found = listed(["run/a", "stray"], tmp_path)
    assert found.names == ("run/a",) and found.loose == ("stray",)
    assert listed(["run/a", "run/b"], tmp_path).loose == ()


def test_when_most_videos_lie_beside_folders_these_are_taken_for_no_classes(tmp_path):
    with pytest.raises(UserError) as error:
        listed(["old/a", "b", "c"], tmp_path)
    assert str(error.value) == (
        f"data.root '{tmp_path}': 2 of 3 videos lie in no class folder (the first: 'b');"
        " set data.labels.by to none to use all without classes, or move them"
    )


@pytest.mark.parametrize("labels", [Labels("none"), Labels("pattern", r"\w$")])
def test_where_folders_are_no_classes_all_videos_stay(tmp_path, labels):
    assert listed(["run/a", "stray"], tmp_path, labels=labels).names == ("run/a", "stray")


def test_the_one_folder_in_a_zip_is_no_class(zipped):
    found = listed(["set/run/a", "set/walk/b"], zipped)
    assert found.names == ("set/run/a", "set/walk/b") and found.class_names == ("run", "walk")
    assert listed(["set/a", "set/b"], zipped).class_names == ()


def test_the_one_folder_of_a_folder_is_a_class(tmp_path):
    assert listed(["set/a", "set/b"], tmp_path).class_names == ("set",)


def test_patterns_do_not_see_the_one_folder_in_a_zip(zipped):
    names = ["set/v1", "set/v2"]
    assert listed(names, zipped, labels=Labels("pattern", r"^v\d")).class_names == ("v1", "v2")
    found = listed(names, zipped, split=Split("group", pattern=r"^v(\d)", groups=[2]))
    assert found.names == ("set/v2",) and found.groups == ("2",)


def test_lists_are_about_the_one_folder_in_a_zip(zipped, tmp_path):
    (tmp_path / "list.txt").write_text("v2\n")
    assert listed(["set/v1", "set/v2"], zipped, split=Split("file", file=tmp_path / "list.txt")).names == ("set/v2",)


@pytest.mark.parametrize("prefix", ["", "set/"])
def test_parts_agree_about_classes(zipped, prefix):
    names = [prefix + name for name in PARTS]
    test = listed(names, zipped, split=Split("folder", folder="test"))
    train = listed(names, zipped, split=Split("folder", folder="train"))
    assert test.names == (f"{prefix}test/walk/c",) and test.labels.tolist() == [1]
    assert train.names == (f"{prefix}train/run/a", f"{prefix}train/walk/b") and train.labels.tolist() == [0, 1]
    assert test.class_names == train.class_names == ("run", "walk")


def test_a_zip_of_one_part_alone_has_that_part(zipped):
    assert listed(["train/run/a"], zipped, split=Split("folder", folder="train")).class_names == ("run",)


def test_parts_without_training_have_their_own_classes(tmp_path):
    found = listed(["test/walk/c", "val/swim/d"], tmp_path, split=Split("folder", folder="test"))
    assert found.class_names == ("walk",) and found.labels.tolist() == [0]


def test_parts_agree_about_attributes(tmp_path):
    pattern = Attributes(pattern=r"(?P<who>\w)$")
    test = listed(PARTS, tmp_path, split=Split("folder", folder="test"), attributes=pattern)
    assert test.columns[0].values == ("a", "b", "c") and test.columns[0].numbers.tolist() == [2]


def test_a_split_takes_names_labels_and_attributes_together(tmp_path):
    names = ["run/p1", "run/p2", "walk/p1", "walk/p2"]
    split = Split("group", pattern=r"p(\d)", groups=[2])
    found = listed(names, tmp_path, split=split, attributes=Attributes(pattern=r"p(?P<person>\d)"))
    assert found.names == ("run/p2", "walk/p2") and found.labels.tolist() == [0, 1] and found.groups == ("2", "2")
    assert found.columns[0].numbers.tolist() == [2, 2]


@pytest.mark.parametrize(
    "split",
    [
        Split("group", pattern=r"p(\d)", groups=[2]),
        Split("folder", folder="walk"),
        Split("fraction", part="val", fraction=0.5, pattern=r"p(\d)"),
    ],
)
def test_values_of_attributes_are_numbered_over_all_parts(tmp_path, split):
    names = [f"{action}/p{person}_{take}" for action in ("run", "walk") for person in (0, 1, 2, 3) for take in "ab"]
    settings = Attributes(r"p(?P<person>\d)_(?P<take>\w)", categories=["person"])
    found = listed(names, tmp_path, split=split, attributes=settings)
    assert 0 < len(found.names) < len(names)
    person, take = found.columns
    assert person.values == ("0", "1", "2", "3") and take.values == ("a", "b")
    assert person.numbers.tolist() == [int(name.split("/p")[1][0]) for name in found.names]


def test_tables_are_about_paths_below_the_root(tmp_path):
    (tmp_path / "t.csv").write_text("path,label,size\ntrain/run/a,x,1\ntest/walk/c,y,2\ntrain/walk/b,z,3\n")
    labels, attributes = Labels("file", file=tmp_path / "t.csv"), Attributes(file=tmp_path / "t.csv", columns=["size"])
    found = listed(PARTS, tmp_path, split=Split("folder", folder="test"), labels=labels, attributes=attributes)
    assert found.class_names == ("x", "y", "z") and found.labels.tolist() == [1]
    assert found.columns[0].numbers.tolist() == [2]


def test_some_are_taken_with_all_that_is_known_of_them(tmp_path):
    found = listed(["run/p1", "run/p2", "walk/p1"], tmp_path, attributes=Attributes(pattern=r"p(?P<n>\d)"))
    taken = found.take(np.array([2, 1]))
    assert taken.names == ("walk/p1", "run/p2") and taken.labels.tolist() == [1, 0]
    assert taken.columns[0].numbers.tolist() == [1, 2] and taken.class_names == ("run", "walk")


def test_what_is_not_there_is_named(tmp_path, zipped):
    assert message([], tmp_path) == f"'{tmp_path}' holds no file; it should hold frame strips"
    (tmp_path / "val").mkdir()
    part = Split("folder", folder="val")
    assert message(PARTS, tmp_path, split=part) == f"'{tmp_path}/val' holds no file; it should hold frame strips"
    assert message(PARTS, zipped, split=part) == (
        f"data.split.folder 'val' in data.root '{zipped}' does not exist; it should be a folder of frame strips"
    )
    assert message(["test/swim/a", *PARTS], tmp_path, split=Split("folder", folder="test")) == (
        f"'{tmp_path}/test/swim/a' is of a class that the training folder does not have"
    )
