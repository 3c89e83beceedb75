"""Parts between which nothing leaks."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidgen.data.splits import Split, group_of, select
from vidgen.errors import UserError

ROOT = Path("videos")
NUMBER = r"(\d+)\.\w+$"
WEIZMANN = [f"{action}/{number:08d}.jpg" for number, action in enumerate([1, 1, 0, 0, 3, 3, 4, 4] * 9)]


def message(paths: list[str], split: Split) -> str:
    with pytest.raises(UserError) as error:
        select(paths, split, ROOT)
    return str(error.value)


def performers(paths: list[str]) -> set[str]:
    return {group_of(path, NUMBER, 8) for path in paths}


def test_by_default_everything_is_taken():
    assert select(WEIZMANN, Split(), ROOT) == WEIZMANN


def test_groups_are_taken_whole():
    train = select(WEIZMANN, Split(by="group", pattern=NUMBER, divide=8, groups=[0, 1, 2, 3, 4, 5, 6]), ROOT)
    test = select(WEIZMANN, Split(by="group", pattern=NUMBER, divide=8, groups=[7, 8]), ROOT)
    assert len(train) == 56 and len(test) == 16
    assert performers(train) == set("0123456") and performers(test) == set("78")


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9, 0.99])
def test_a_fraction_by_group_leaks_no_group(seed, fraction):
    settings = {"by": "fraction", "fraction": fraction, "seed": seed, "pattern": NUMBER, "divide": 8}
    train = select(WEIZMANN, Split(**settings, part="train"), ROOT)
    val = select(WEIZMANN, Split(**settings, part="val"), ROOT)
    assert sorted(train + val) == sorted(WEIZMANN)
    assert train and val
    assert not performers(train) & performers(val)


def test_a_fraction_without_a_pattern_splits_files():
    paths = [f"{i}.png" for i in range(100)]
    train = select(paths, Split(by="fraction", fraction=0.7), ROOT)
    val = select(paths, Split(by="fraction", fraction=0.7, part="val"), ROOT)
    assert len(train) == 70 and set(train) | set(val) == set(paths) and not set(train) & set(val)


def test_the_seed_decides_the_fraction():
    paths = [f"{i}.png" for i in range(100)]
    parts = [select(paths, Split(by="fraction", fraction=0.5, seed=seed), ROOT) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_the_fraction_does_not_depend_on_the_order_of_the_files():
    paths = [f"{i}.png" for i in range(50)]
    split = Split(by="fraction", fraction=0.5)
    assert set(select(paths, split, ROOT)) == set(select(paths[::-1], split, ROOT))


def test_a_list_file_names_its_videos(tmp_path):
    (tmp_path / "train.txt").write_text("# the first two\n1/00000000.jpg\n\n0/00000002.jpg\n")
    taken = select(WEIZMANN, Split(by="file", file=tmp_path / "train.txt"), ROOT)
    assert taken == ["1/00000000.jpg", "0/00000002.jpg"]


@pytest.mark.parametrize(
    "text", ["\ufeff1/00000000.jpg\n", "1/00000000.jpg\r\n", "./1/00000000.jpg\n", "  1/00000000.jpg  "]
)
def test_lists_as_other_programs_write_them_are_read(tmp_path, text):
    (tmp_path / "train.txt").write_bytes(text.encode())
    assert select(WEIZMANN, Split(by="file", file=tmp_path / "train.txt"), ROOT) == ["1/00000000.jpg"]


def test_only_a_line_feed_ends_a_line(tmp_path):
    names = ["a\u2028b.avi", "a\x0bb.avi", "a\x85b.avi"]
    (tmp_path / "train.txt").write_bytes("\n".join(names).encode())
    assert select([*names, "b.avi"], Split(by="file", file=tmp_path / "train.txt"), ROOT) == names


def test_class_numbers_in_a_list_are_pointed_out(tmp_path):
    listed = tmp_path / "train.txt"
    listed.write_text("1/00000000.jpg 1\n0/00000002.jpg 2\n")
    assert message(WEIZMANN, Split(by="file", file=listed)) == (
        f"data.split.file '{listed}' lists '0/00000002.jpg 2' and 1 more, not found in 'videos'; one path per line,"
        " without the number"
    )


def test_a_folder_that_ends_in_a_number_is_found(tmp_path):
    (tmp_path / "train.txt").write_text("video 1\n")
    assert select(["video 1"], Split(by="file", file=tmp_path / "train.txt"), ROOT) == ["video 1"]


@pytest.mark.parametrize("folder", ["a/b", "a/b/", "./a/b", "a//b", "././a/./b//"])
def test_a_folder_has_one_spelling(folder):
    assert Split(by="folder", folder=folder) == Split(by="folder", folder="a/b")


@pytest.mark.parametrize("folder", ["..", "../a", "a/../b", "/a"])
def test_a_folder_outside_is_refused(folder):
    assert message(WEIZMANN, Split(by="folder", folder=folder)) == (
        f"data.split.folder '{folder}' must be the path of a folder below data.root, without '..', as 'train'"
    )


def test_the_root_is_no_folder_of_a_part():
    assert message(WEIZMANN, Split(by="folder", folder="./")) == "data.split.by 'folder' needs data.split.folder"


def test_a_group_is_what_the_pattern_says():
    assert group_of("a/person07_walk.avi", r"person(\d+)") == "7"
    assert group_of("a/person07_walk.avi", r"(?:a|b)/(?P<group>[a-z]+)(\d+)") == "person"
    assert group_of("a/v_g08_c01.avi", r"g\d+") == "g08"
    assert group_of("4/00000071.jpg", NUMBER, 8) == "8"
    assert group_of("4/00000071.jpg", None) == "4/00000071.jpg"


def test_numbers_of_groups_compare_as_numbers():
    paths = ["p07.png", "p08.png", "p09.png"]
    assert select(paths, Split(by="group", pattern=r"p(\d+)", groups=[7, "09"]), ROOT) == ["p07.png", "p09.png"]


def test_messages_name_the_setting(tmp_path):
    listed = tmp_path / "train.txt"
    listed.write_text("9/9.png\n8/8.png\n")
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n")
    gone = tmp_path / "gone.txt"
    cases = [
        (
            Split(by="file", file=listed),
            f"data.split.file '{listed}' lists '8/8.png' and 1 more, not found in 'videos'",
        ),
        (Split(by="file", file=empty), f"data.split.file '{empty}' lists no video"),
        (Split(by="file", file=gone), f"data.split.file '{gone}' cannot be read: No such file or directory"),
        (Split(by="file"), "data.split.by 'file' needs data.split.file"),
        (Split(by="folder"), "data.split.by 'folder' needs data.split.folder"),
        (Split(by="group", pattern=NUMBER), "data.split.by 'group' needs data.split.groups"),
        (
            Split(by="group", pattern=NUMBER, divide=8, groups=[9]),
            "data.split.groups: no video in 'videos' is of group '9' (groups: 0, 1, 2, 3, 4, 5, 6, 7, 8)",
        ),
        (
            Split(by="fraction", pattern="person"),
            "data.split.pattern 'person' finds no group in '1/00000000.jpg'; it must fit every video",
        ),
        (
            Split(by="fraction", pattern=r"\.(jpg)", divide=2),
            "data.split.divide needs a number, but data.split.pattern finds 'jpg' in '1/00000000.jpg'",
        ),
        (
            Split(by="fraction", pattern=r"\.jpg"),
            "data.split: 'videos' holds one group only ('.jpg'); a fraction needs two or more",
        ),
        (Split(by="fraction", fraction=1.0), "data.split.fraction is 1.0; it must lie between 0 and 1"),
        (Split(divide=8), "data.split.divide needs data.split.pattern, which says which number it divides"),
        (Split(by="fraction", pattern=NUMBER, divide=0), "data.split.divide is 0; it must be at least 1"),
        (Split(seed=3), "data.split.seed has no meaning with data.split.by 'none'; leave it out"),
        (
            Split(by="group", pattern="(", groups=[1]),
            "data.split.pattern '(' is not a regular expression: missing ), unterminated subpattern at position 0",
        ),
        (Split(by="random"), "data.split.by is 'random'; use one of none, folder, file, fraction, group"),  # type: ignore[arg-type]
    ]
    for settings, expected in cases:
        assert message(WEIZMANN, settings) == expected
