"""Digits from fonts in MNIST's files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import make_digits
from preparation import main

from vidgen.data.moving_mnist import MovingMNIST, read_idx

SANS, STIX = make_digits.default_fonts()[0], make_digits.default_fonts()[7]
FEW = ("--num-train", "30", "--num-test", "12")


def run(out: Path, *more: str, font: str = SANS) -> int:
    arguments = ["--out", str(out), *FEW, "--font", font, *more]
    return main(make_digits.build_parser(), make_digits.prepare, arguments)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name[0] != "."}


def digits(out: Path) -> tuple[np.ndarray, np.ndarray]:
    return read_idx(out / "train-images-idx3-ubyte"), read_idx(out / "train-labels-idx1-ubyte")


def error(capsys) -> str:
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err.removeprefix("make_digits: error: ").removesuffix("\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("digits")
    assert run(out) == 0
    return out


def test_the_four_files_are_written(tmp_path, capsys):
    out = tmp_path / "out"
    assert run(out) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines() == [
        f"wrote {out}: 30 in train, 12 in test",
        "a config reads it with",
        "  name: moving_mnist",
        f"  root: {out}",
        "  part: train  # or test",
    ]
    assert sorted(contents(out)) == [
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
    ]
    assert read_idx(out / "t10k-images-idx3-ubyte").shape == (12, 28, 28)


def test_the_result_is_what_moving_mnist_reads(made):
    assert len(MovingMNIST(str(made), 64, 4, num_digits=1)) == 30
    assert len(MovingMNIST(str(made), 64, 4, part="test")) == 12


def test_digits_are_white_on_black_and_fit_into_the_box(made):
    images, _ = digits(made)
    for image in images:
        box = Image.fromarray(image).getbbox()
        assert box is not None
        assert 14 <= max(box[2] - box[0], box[3] - box[1]) <= 20
    assert images.max(axis=(1, 2)).min() > 150 and images[:, 0].max() == 0 and images.mean() < 80


def test_the_centre_of_mass_is_in_the_middle(made):
    for image in digits(made)[0].astype(np.float64):
        position = np.arange(28) + 0.5
        x, y = (image.sum(0) * position).sum() / image.sum(), (image.sum(1) * position).sum() / image.sum()
        assert abs(x - 14) <= 0.5001 and abs(y - 14) <= 0.5001


def test_labels_say_which_digit_it_is(made):
    images, labels = digits(made)
    masters = make_digits.font_masters(SANS)
    plain = [make_digits.centre(make_digits.fit(row[1], 0.5)).astype(float) for row in masters]
    nearest = [int(np.argmin([np.abs(image - one).sum() for one in plain])) for image in images.astype(float)]
    assert np.mean(nearest == labels) > 0.8 and len(set(labels.tolist())) > 6


def test_all_digits_differ(made):
    images = [image.tobytes() for part in ("train", "t10k") for image in read_idx(made / f"{part}-images-idx3-ubyte")]
    assert len(set(images)) == 42


def test_the_same_seed_gives_the_same_digits(made, tmp_path):
    assert run(tmp_path / "same") == 0 and run(tmp_path / "other", "--seed", "1") == 0
    assert contents(tmp_path / "same") == contents(made)
    assert contents(tmp_path / "other") != contents(made)


def test_the_first_digits_are_the_same_for_any_number(made, tmp_path):
    assert run(tmp_path, "--num-train", "5") == 0
    assert np.array_equal(digits(tmp_path)[0], digits(made)[0][:5])
    assert np.array_equal(digits(tmp_path)[1], digits(made)[1][:5])


def test_fonts_look_different(made, tmp_path):
    assert run(tmp_path, font=STIX) == 0
    assert not np.array_equal(digits(tmp_path)[0], digits(made)[0])
    assert np.array_equal(digits(tmp_path)[1], digits(made)[1])


def test_all_default_fonts_have_digits():
    assert len(make_digits.default_fonts()) == 14
    for font in make_digits.default_fonts():
        assert len(make_digits.font_masters(font)) == 10


def test_deforming_by_nothing_changes_nothing():
    master = make_digits.font_masters(SANS)[7][0]
    same = make_digits.deform(master, (0.5, 0.5, 0.5))
    assert np.array_equal(np.asarray(same), np.asarray(master))
    for shape in ((1, 0.5, 0.5), (0.5, 1, 0.5), (0.5, 0.5, 1)):
        assert make_digits.deform(master, shape).tobytes() != master.tobytes()


def test_a_second_run_keeps_what_is_there(tmp_path, capsys):
    assert run(tmp_path) == 0
    first, before = capsys.readouterr().out, contents(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"kept")
    assert run(tmp_path) == 0
    assert capsys.readouterr().out == first
    assert contents(tmp_path) == {**before, "train-labels-idx1-ubyte": b"kept"}


def test_other_digits_do_not_go_into_the_same_folder(tmp_path, capsys):
    assert run(tmp_path) == 0
    capsys.readouterr()
    assert run(tmp_path, "--seed", "3") == 2
    assert f"{str(tmp_path)!r} was begun with seed: 0" in error(capsys)


@pytest.mark.parametrize("part", ["train", "test"])
def test_numbers_below_one_are_refused(tmp_path, capsys, part):
    assert run(tmp_path / "out", f"--num-{part}", "0") == 2
    assert error(capsys) == f"--num-{part} is 0; it must be at least 1"
    assert not (tmp_path / "out").exists()


def test_a_font_that_is_none_is_refused(tmp_path, capsys):
    path = tmp_path / "font.ttf"
    path.write_bytes(b"no font")
    assert run(tmp_path / "out", font=str(path)) == 2
    text = error(capsys)
    assert text.startswith(f"--font {str(path)!r} cannot be read as a font (")
    assert text.endswith("); give a TTF or OTF file")


def test_a_font_without_digits_is_refused(tmp_path, capsys):
    path = str(Path(SANS).with_name("STIXSizOneSymReg.ttf"))
    assert run(tmp_path / "out", font=path) == 2
    assert error(capsys) == f"--font {path!r} has no pictures of the digits 0 to 9; give another one"


def test_what_is_random_about_a_digit_is_independent(monkeypatch):
    seen = []

    def deform(master, shape):
        seen.append([*master, *shape])
        return master

    def fit(master, size):
        seen[-1].append(size)

    monkeypatch.setattr(make_digits, "deform", deform)
    monkeypatch.setattr(make_digits, "fit", fit)
    monkeypatch.setattr(make_digits, "centre", lambda picture: np.zeros((28, 28), np.uint8))
    masters = [[[(font, digit, stroke) for stroke in range(4)] for digit in range(10)] for font in range(3)]
    _, labels = make_digits.draw_digits(masters, 3000, 0)
    columns = np.array(seen, float).T  # font, digit, stroke, three of shape, size
    assert columns[1].tolist() == labels.tolist()
    for column, number in zip(columns[:3], (3, 10, 4), strict=True):
        assert np.bincount(column.astype(int)).size == number
        assert np.bincount(column.astype(int)).min() > 0.75 * 3000 / number
    assert columns[3:].min() >= 0 and columns[3:].max() < 1
    assert (columns[3:].min(axis=1) < 0.01).all() and (columns[3:].max(axis=1) > 0.99).all()
    assert np.abs(np.corrcoef(columns) - np.eye(7)).max() < 0.1


@pytest.mark.parametrize(
    ("shape", "x", "y"),
    [((1, 0.5, 0.5), 50 * 0.98007 + 50 * 0.19867, 50 * 0.19867 - 50 * 0.98007), ((0.5, 1, 0.5), 37.5, -50),
     ((0.5, 0.5, 1), 50 * 1.07788, -50 / 1.07788), ((0.5, 0, 0.5), 62.5, -50)],
)  # fmt: skip
def test_a_point_goes_where_it_should(shape, x, y):
    field = Image.new("L", (200, 200))
    field.paste(255, (146, 46, 154, 54))  # about 50 to the right of the middle and 50 above
    pixels = np.asarray(make_digits.deform(field, shape), float)
    position = np.arange(200) + 0.5 - 100
    found = (pixels.sum(0) * position).sum() / pixels.sum(), (pixels.sum(1) * position).sum() / pixels.sum()
    assert found == pytest.approx((x, y), abs=0.6)


@pytest.mark.parametrize(
    ("size", "longer"), [(0, 17), (0.24, 17), (0.26, 18), (0.49, 18), (0.5, 19), (0.76, 20), (0.99, 20), (1, 20)]
)
def test_the_longer_side(size, longer):
    for width, height in ((60, 30), (30, 60)):
        picture = Image.new("L", (200, 200))
        picture.paste(255, (20, 20, 20 + width, 20 + height))
        fitted = make_digits.fit(picture, size)
        assert max(fitted.size) == longer and min(fitted.size) == round(longer / 2)


def test_edges_are_smooth():
    master = make_digits.font_masters(SANS)[1][0].point(lambda value: 255 * (value > 127))
    assert len(np.unique(np.asarray(make_digits.deform(master, (1, 1, 1))))) > 20
    assert len(np.unique(np.asarray(make_digits.fit(master, 1)))) > 5


def test_strengths_differ():
    sums = [[np.asarray(one, float).sum() for one in row] for row in make_digits.font_masters(SANS)]
    assert (np.diff(sums, axis=1) > 0).all()


def test_as_many_as_in_mnist_by_default():
    args = make_digits.build_parser().parse_args(["--out", "x"])
    assert (args.num_train, args.num_test, args.seed) == (60000, 10000, 0)
    assert len(set(make_digits.default_fonts())) == 14


def test_train_and_test_differ(tmp_path):
    assert run(tmp_path, "--num-test", "30") == 0
    assert not np.array_equal(read_idx(tmp_path / "t10k-labels-idx1-ubyte"), digits(tmp_path)[1])


def test_other_fonts_do_not_go_into_the_same_folder(tmp_path, capsys):
    assert run(tmp_path) == 0
    assert run(tmp_path, font=STIX) == 2
    assert "was begun with font: " in capsys.readouterr().err


def test_digits_and_mnist_are_not_mixed(tmp_path, made, capsys):
    import prepare_mnist

    def mnist(out: Path) -> int:
        arguments = ["--raw", str(made), "--out", str(out), "--any-content"]
        return main(prepare_mnist.build_parser(), prepare_mnist.prepare, arguments)

    assert mnist(tmp_path / "mnist") == 0
    assert run(tmp_path / "digits") == 0
    capsys.readouterr()
    assert run(tmp_path / "mnist") == 2
    assert error(capsys).startswith(f"'{tmp_path}/mnist' was begun with content: ")
    assert mnist(tmp_path / "digits") == 2
    assert f"'{tmp_path}/digits' was begun with num_train: 30, this run without it;" in capsys.readouterr().err


def test_files_of_unknown_origin_are_kept(tmp_path, capsys):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"MNIST")
    assert run(tmp_path) == 2
    assert error(capsys) == f"'{tmp_path}' holds train-images-idx3-ubyte of unknown origin; choose another --out"
    assert contents(tmp_path) == {"train-images-idx3-ubyte": b"MNIST"}
