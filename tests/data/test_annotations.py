"""Labels and attributes from folder names, patterns and tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidgen.data.annotations import Attributes, Labels, attributes_of, labels_of, natural, read_table
from vidgen.errors import UserError

PATHS = ["p1_run_d1.avi", "p1_walk_d2.avi", "p2_run_d1.avi"]
ROOT = Path("videos")


def labels(settings: Labels, paths: list[str] = PATHS, whole: str = "") -> tuple[tuple[str, ...], list[int]]:
    return labels_of(settings, paths, [whole + path for path in paths], ROOT, whole)


def label_error(settings: Labels, paths: list[str] = PATHS, whole: str = "") -> str:
    with pytest.raises(UserError) as error:
        labels(settings, paths, whole)
    return str(error.value)


def attributes(settings: Attributes, paths: list[str] = PATHS, whole: str = "") -> dict[str, Any]:
    columns = attributes_of(settings, paths, [whole + path for path in paths], ROOT, whole)
    return {column.name: (column.values, column.numbers.tolist()) for column in columns}


def attribute_error(settings: Attributes, paths: list[str] = PATHS) -> str:
    with pytest.raises(UserError) as error:
        attributes(settings, paths)
    return str(error.value)


def table(folder: Path, text: str, name: str = "table.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def dataset_json(folder: Path, entries: Any) -> Path:
    return table(folder, json.dumps({"labels": entries}), "dataset.json")


def same(found: list[float], wanted: list[float]) -> bool:
    return np.array_equal(np.array(found), np.array(wanted), equal_nan=True)


def test_numbers_in_names_sort_as_numbers():
    names = ["frame10", "frame2", "frame", "Frame3", "2", "10", "frame02", "a9b10", "a9b9"]
    assert sorted(names, key=natural) == ["2", "10", "Frame3", "a9b9", "a9b10", "frame", "frame02", "frame2", "frame10"]


def test_a_name_of_very_many_digits_sorts():
    names = ["9" * 6000, "1" * 5999]
    assert sorted(names, key=natural) == names[::-1]


def test_the_first_folder_is_the_class():
    paths = ["walk/a/1", "run/2", "walk/3"]
    assert labels(Labels(), paths) == (("run", "walk"), [1, 0, 1])


def test_without_folders_there_are_no_labels():
    assert labels(Labels()) == ((), [])
    assert labels(Labels(by="none"), ["run/1"]) == ((), [])


def test_a_pattern_finds_the_class_by_name_by_place_or_whole():
    wanted = (("run", "walk"), [0, 1, 0])
    assert labels(Labels("pattern", r"(p\d)_(?P<label>[a-z]+)")) == wanted
    assert labels(Labels("pattern", r"p\d_([a-z]+)_(d\d)")) == wanted
    assert labels(Labels("pattern", r"run|walk")) == wanted


def test_classes_that_are_numbers_are_sorted_as_numbers():
    assert labels(Labels("pattern", r"\d+"), ["v10", "v9", "v100"]) == (("9", "10", "100"), [1, 0, 2])


def test_a_table_gives_labels_of_the_column_asked_for(tmp_path):
    file = table(tmp_path, "action,path,label\nfast,p1_run_d1.avi,7\nslow,p1_walk_d2.avi,11\nfast,p2_run_d1.avi,7\n")
    assert labels(Labels("file", file=file)) == (("7", "11"), [0, 1, 0])
    assert labels(Labels("file", file=file, column="action")) == (("fast", "slow"), [0, 1, 0])


def test_classes_of_videos_that_are_not_here_keep_their_numbers(tmp_path):
    file = table(tmp_path, "path,label\nelsewhere,a\np1_run_d1.avi,b\n")
    assert labels(Labels("file", file=file), PATHS[:1]) == (("a", "b"), [1])


def test_tables_may_have_spaces_a_mark_and_other_line_ends(tmp_path):
    file = tmp_path / "table.csv"
    file.write_bytes("\ufeffpath, label\r\np1_run_d1.avi, run \r\n".encode())
    assert labels(Labels("file", file=file), PATHS[:1]) == (("run",), [0])


def test_a_json_of_frames_gives_their_videos_labels(tmp_path):
    file = dataset_json(tmp_path, [["v1/0.jpg", 3], ["v1/1.jpg", 3], ["v2/0.jpg", 12], ["deep/v3/0.jpg", 3]])
    assert labels(Labels("file", file=file), ["v1", "v2", "deep/v3"]) == (("3", "12"), [0, 1, 0])


def test_a_json_of_images_or_with_names_of_classes_is_read(tmp_path):
    file = dataset_json(tmp_path, [["0.png", "cat"], ["1.png", "ant"]])
    assert labels(Labels("file", file=file), ["1.png", "0.png"]) == (("ant", "cat"), [0, 1])


@pytest.mark.parametrize("prefix", ["", "set/"])
def test_tables_of_a_zip_may_leave_out_the_one_folder_in_it(tmp_path, prefix):
    file = dataset_json(tmp_path, [[f"{prefix}v1/0.jpg", 1], [f"{prefix}v2/0.jpg", 0]])
    assert labels(Labels("file", file=file), ["v1", "v2"], whole="set/") == (("0", "1"), [1, 0])
    file = table(tmp_path, f"path,size\n{prefix}v1,1\n{prefix}v2,2\n")
    assert attributes(Attributes(file=file), ["v1", "v2"], whole="set/") == {"size": ((), [1.0, 2.0])}


def test_frames_of_one_video_with_two_labels_are_refused(tmp_path):
    file = dataset_json(tmp_path, [["v1/0.jpg", 0], ["v1/1.jpg", 1], ["v1/2.jpg", 0], ["v2/1.jpg", 1]])
    assert label_error(Labels("file", file=file), ["v1"]) == (
        f"data.labels.file '{file}' gives the frames of 'v1' different labels; a video has one"
    )
    assert labels(Labels("file", file=file), ["v2"]) == (("0", "1"), [1])


def test_label_settings_that_contradict_are_refused_by_name():
    unused = "has no meaning with data.labels.by 'folder'; leave it out"
    assert label_error(Labels(pattern="x")) == f"data.labels.pattern {unused}"
    assert label_error(Labels(file=Path("x"))) == f"data.labels.file {unused}"
    assert label_error(Labels("pattern")) == "data.labels.by 'pattern' needs data.labels.pattern"
    assert label_error(Labels("pattern", "(")) == (
        "data.labels.pattern '(' is not a regular expression: missing ), unterminated subpattern at position 0"
    )


@pytest.mark.parametrize("pattern", ["(x)", "p1_(x)?", "p1(?P<label>)"])
def test_a_pattern_that_finds_no_class_is_refused(pattern):
    assert label_error(Labels("pattern", pattern)) == (
        f"data.labels.pattern '{pattern}' finds no class in 'p1_run_d1.avi'; it must fit every video"
    )


def test_tables_without_what_is_needed_are_refused_by_name(tmp_path):
    def error(text: str, column: str = "label") -> str:
        file = table(tmp_path, text)
        return label_error(Labels("file", file=file, column=column)).replace(f"data.labels.file '{file}' ", "")

    assert error("") == error("path,label\n") == "has no row"
    assert error("file,label\na,b\n") == "has no column 'path'; its first line must name the columns"
    assert error("path,lable\na,b\n") == (
        "has no column 'label'; did you mean 'lable'?; set data.labels.column (it has: lable)"
    )
    assert error("path\na\n") == "has no column 'label'; set data.labels.column (it has: path alone)"
    assert error("path,label\na,b\n") == "does not list 'p1_run_d1.avi', found in 'videos'"
    assert error("path,label\na,b\na,c\n") == "lists 'a' twice; keep one of the rows"
    assert error("path,label\np1_run_d1.avi,\n") == (
        "gives 'p1_run_d1.avi' no label; fill it in or leave the video out with data.split"
    )


def test_tables_that_cannot_be_read_are_refused_by_name(tmp_path):
    wrong = tmp_path / "a.csv"
    assert label_error(Labels("file", file=wrong)) == (
        f"data.labels.file '{wrong}' cannot be read: No such file or directory"
    )
    wrong.write_bytes(b"\xff\xfe\xff")
    assert label_error(Labels("file", file=wrong)) == f"data.labels.file '{wrong}' cannot be read: it is not a CSV"
    missing = tmp_path / "dataset.json"
    assert label_error(Labels("file", file=missing)) == (
        f"data.labels.file '{missing}' cannot be read: No such file or directory"
    )


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        '{"labels": null}',
        '{"labels": [["a"]]}',
        '{"labels": [["a", 1.5]]}',
        '{"labels": [["a", [1]]]}',
    ],
)
def test_a_json_of_another_form_is_refused(tmp_path, text):
    file = table(tmp_path, text, "dataset.json")
    assert label_error(Labels("file", file=file)) == (
        f"data.labels.file '{file}' is not of the form {{\"labels\": [[path, number], ...]}}"
    )


def test_a_table_has_a_row_by_path_with_empty_text_for_what_is_missing(tmp_path):
    file = table(tmp_path, "path,a,b\nx,1\ny,2,3,4\n")
    assert read_table(file, "table") == {"x": {"path": "x", "a": "1", "b": ""}, "y": {"path": "y", "a": "2", "b": "3"}}


def test_groups_of_a_pattern_are_attributes():
    found = attributes(Attributes(pattern=r"p(?P<person>\d)_(?P<action>[a-z]+)"))
    assert found == {"person": ((), [1.0, 1.0, 2.0]), "action": (("run", "walk"), [0.0, 1.0, 0.0])}


def test_what_a_pattern_does_not_find_is_not_a_number():
    found = attributes(Attributes(pattern=r"p1_(?P<action>run|walk)(?P<none>_x)?"))
    assert found["action"][0] == ("run", "walk") and same(found["action"][1], [0, 1, np.nan])
    assert found["none"][0] == () and same(found["none"][1], [np.nan] * 3)


def test_columns_of_a_table_are_attributes(tmp_path):
    file = table(tmp_path, "size,path,mood\n 1.5 ,p1_run_d1.avi,sad\n,p1_walk_d2.avi,glad\n")
    found = attributes(Attributes(file=file))
    assert list(found) == ["size", "mood"]
    assert same(found["size"][1], [1.5, np.nan, np.nan]) and found["size"][0] == ()
    assert found["mood"][0] == ("glad", "sad") and same(found["mood"][1], [1, 0, np.nan])
    assert list(attributes(Attributes(file=file, columns=["mood"]))) == ["mood"]
    assert list(attributes(Attributes(file=file, columns=["mood", "size"]))) == ["mood", "size"]


def test_values_of_other_videos_of_a_table_keep_their_numbers(tmp_path):
    file = table(tmp_path, f"path,mood,size\nelsewhere,glad,1\n{PATHS[0]},sad,2\n")
    assert attributes(Attributes(file=file), PATHS[:1]) == {"mood": (("glad", "sad"), [1.0]), "size": ((), [2.0])}


STRIPS = ["walk/00000007.png", "walk/00000016.png", "0/00000100.png", "walk/00000015.png"]


def test_numbers_are_divided_rounding_down():
    pattern = r"^(?P<action>[^/]+)/(?P<performer>\d+)"
    found = attributes(Attributes(pattern, divide={"performer": 8}), STRIPS)
    assert found == {"action": (("0", "walk"), [1.0, 1.0, 0.0, 1.0]), "performer": ((), [0.0, 2.0, 12.0, 1.0])}


def test_numbers_may_be_names_of_values():
    """They are sorted as numbers, and numbered; others stay plain."""
    settings = Attributes(r"(?P<performer>\d+)\.(?P<n>)", divide={"performer": 8}, categories=["performer"])
    assert attributes(settings, STRIPS)["performer"] == (("0", "1", "2", "12"), [0.0, 2.0, 3.0, 1.0])
    folders = Attributes(r"^(?P<action>\d+)/(?P<number>\d+)", categories=["action"])
    found = attributes(folders, ["10/1.png", "9/2.png", "walk/3.png"])
    assert found["action"][0] == ("9", "10") and same(found["action"][1], [1, 0, np.nan])
    assert found["number"][0] == () and same(found["number"][1], [1, 2, np.nan])


def test_columns_of_a_table_are_divided_and_numbered_too(tmp_path):
    file = table(tmp_path, f"path,age\n{PATHS[0]},35\n{PATHS[1]},\n{PATHS[2]},9\n")
    values, numbers = attributes(Attributes(file=file, divide={"age": 10}, categories=["age"]))["age"]
    assert values == ("0", "3") and same(numbers, [1, np.nan, 0])


def test_numbers_are_float32():
    column = attributes_of(Attributes(pattern=r"(?P<n>\d)"), PATHS, PATHS, ROOT)[0]
    assert column.numbers.dtype == np.float32


def test_without_settings_there_are_no_attributes():
    assert attributes(Attributes()) == {}


def test_attribute_settings_that_contradict_are_refused_by_name():
    both = Attributes(pattern="(?P<a>x)", file=Path("x"))
    assert attribute_error(both) == "data.attributes has both pattern and file; give one of them"
    assert attribute_error(Attributes(columns=["a"])) == (
        "data.attributes.columns needs data.attributes.file, whose columns it names"
    )
    assert attribute_error(Attributes(pattern="(x)")) == (
        "data.attributes.pattern '(x)' has no named group; write (?P<name>...) for each attribute"
    )
    assert attribute_error(Attributes(pattern="*")) == (
        "data.attributes.pattern '*' is not a regular expression: nothing to repeat at position 0"
    )


def test_attributes_of_other_names_are_refused(tmp_path):
    pattern = r"p(?P<person>\d)_(?P<action>[a-z]+)"
    assert attribute_error(Attributes(pattern, divide={"persn": 2})) == (
        "data.attributes.divide names 'persn', which is no attribute; did you mean 'person'?"
        " (attributes: person, action)"
    )
    file = table(tmp_path, f"path,age,name\n{PATHS[0]},1,a\n")
    assert attribute_error(Attributes(file=file, columns=["age"], categories=["name"])) == (
        "data.attributes.categories names 'name', which is no attribute (attributes: age)"
    )


def test_what_cannot_be_divided_is_named(tmp_path):
    pattern = r"p(?P<person>\d)_(?P<action>[a-z]+)"
    assert attribute_error(Attributes(pattern, divide={"person": 0})) == (
        "data.attributes.divide.person is 0; it must be at least 1"
    )
    assert attribute_error(Attributes(pattern, divide={"action": 2})) == (
        "data.attributes.divide.action needs a number, but data.attributes.pattern gives 'p1_run_d1.avi' the action"
        " 'run'"
    )
    file = table(tmp_path, f"path,age\n{PATHS[0]},1.5\n")
    assert attribute_error(Attributes(file=file, divide={"age": 2})) == (
        f"data.attributes.divide.age needs a number, but data.attributes.file '{file}' gives 'p1_run_d1.avi' the age"
        " '1.5'"
    )


@pytest.mark.parametrize(
    ("setting", "value"), [("divide", {"a": 2}), ("categories", ["a"]), ("label_fraction", 0.5), ("label_seed", 1)]
)
def test_settings_of_attributes_need_attributes(setting, value):
    assert attribute_error(Attributes(**{setting: value})) == (
        f"data.attributes.{setting} needs attributes; give data.attributes.pattern or file too"
    )


@pytest.mark.parametrize("fraction", [-0.1, 1.2, float("nan")])
def test_what_is_no_share_is_refused(fraction):
    assert attribute_error(Attributes("(?P<a>x)", label_fraction=fraction)) == (
        f"data.attributes.label_fraction is {fraction:g}; it must be at least 0 and at most 1"
    )


def test_attributes_that_fit_nothing_are_refused_by_name(tmp_path):
    assert attribute_error(Attributes(pattern="(?P<a>x)")) == (
        "data.attributes.pattern '(?P<a>x)' fits no video, for example 'p1_run_d1.avi'"
    )
    file = table(tmp_path, "path,size\nelsewhere,1\n")
    assert attribute_error(Attributes(file=file, columns=["sise"])) == (
        f"data.attributes.columns: '{file}' has no column 'sise'; did you mean 'size'? (it has: size)"
    )
    assert attribute_error(Attributes(file=file)) == (
        f"data.attributes.file '{file}' lists no video of 'videos'; its paths must be relative to that, as"
        " 'p1_run_d1.avi'"
    )


@pytest.mark.parametrize(
    "ids",
    [
        ("16777216", "16777217", "16777218"),
        ("16777216.0", "16777217.0", "16777218.0"),
        ("-16777217", "5", "6"),
        ("9007199254740992", "9007199254740993", "9007199254740994"),
        ("1", "2", "1" * 5000),
        ("1_1", "11", "12"),
    ],
)
def test_integers_that_float32_would_make_equal_are_categories(tmp_path, ids):
    rows = "".join(f"{path},{number}\n" for path, number in zip(PATHS, ids, strict=True))
    values, numbers = attributes(Attributes(file=table(tmp_path, "path,id\n" + rows)))["id"]
    assert values == tuple(sorted(ids, key=natural)) and [values[int(number)] for number in numbers] == list(ids)


@pytest.mark.parametrize("number", ["16777216", "-16777216.0", "16777218", "+7", "007", "1e20", "0.1", "3.4e38"])
def test_numbers_that_float32_holds_stay_numbers(tmp_path, number):
    values, numbers = attributes(Attributes(file=table(tmp_path, f"path,n\n{PATHS[0]},{number}\n")))["n"]
    assert values == () and numbers[0] == np.float32(number)


@pytest.mark.parametrize("number", ["inf", "-Infinity", "nan", "1e39", "-1e400"])
def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path, number):
    file = table(tmp_path, f"path,size\n{PATHS[0]},1\n{PATHS[1]},{number}\n")
    assert attribute_error(Attributes(file=file)) == (
        f"data.attributes.file '{file}': attribute 'size' has the value '{number}', which is no finite number of"
        " float32; correct it, or leave it empty where it is unknown"
    )


def test_a_word_that_python_reads_as_a_number_is_a_word_among_words(tmp_path):
    file = table(tmp_path, f"path,name\n{PATHS[0]},Nan\n{PATHS[1]},Tom\n")
    assert attributes(Attributes(file=file))["name"][0] == ("Nan", "Tom")
