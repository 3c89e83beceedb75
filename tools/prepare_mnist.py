"""Checks MNIST's four files and unpacks them.

MNIST is 60,000 training and 10,000 test digits, 28 x 28 pixels, from handwriting. Obtain it at
https://ossci-datasets.s3.amazonaws.com/mnist/, a mirror of http://yann.lecun.com/exdb/mnist/: ``train-images``,
``train-labels``, ``t10k-images``, ``t10k-labels``, each ``-idx3-ubyte.gz`` or ``-idx1-ubyte.gz``, into one folder,
packed or unpacked (some programs unpack them as ``train-images.idx3-ubyte``):

    python tools/prepare_mnist.py --raw downloads/mnist --out data/mnist

Another set in the same format, such as Fashion-MNIST, without the notes that it is not MNIST:

    python tools/prepare_mnist.py --raw downloads/fashion --out data/fashion --any-content
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from preparation import Report, apart, keep_options, main, parser

from vidgen.atomic import atomic_file
from vidgen.data.moving_mnist import IDX_FILES, read_idx, write_idx
from vidgen.errors import UserError

SITE = (
    "Obtain it at https://ossci-datasets.s3.amazonaws.com/mnist/, a mirror of http://yann.lecun.com/exdb/mnist/"
    " (train-images-idx3-ubyte.gz and three more)"
)
MD5 = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""Of the gzipped files."""
NUMBER = {"train": 60_000, "test": 10_000}


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    made = parser("prepare_mnist", "Check and unpack MNIST.", "--raw downloads/mnist --out data/mnist")
    made.add_argument("--any-content", action="store_true", help="say nothing where the files are not MNIST's own")
    return made


def prepare(args: argparse.Namespace) -> Report:
    """Check and write both parts; what is there is kept.

    Args:
        args: of :func:`build_parser`.

    Raises:
        UserError: a file is missing, neither part can be used, or ``--out`` holds another data set.
    """
    apart(args.raw, args.out)
    report = Report(args.out)
    parts = read_parts(args.raw, args.any_content, report)
    contents = {name: write_idx(array) for arrays in parts.values() for name, array in arrays.items()}
    digest = hashlib.sha256(b"".join(contents.values())).hexdigest()
    keep_options(args.out, *IDX_FILES.values(), content=digest[:16])
    for name, content in contents.items():
        if not (args.out / name).exists():
            with atomic_file(args.out / name) as file:
                file.write(content)
    for part, arrays in parts.items():
        report.count(part, len(arrays[IDX_FILES[part, "images"]]))
    report.tell_config("moving_mnist", part_line(report))
    return report


def read_parts(raw: Path, any_content: bool, report: Report) -> dict[str, dict[str, NDArray[np.uint8]]]:
    """Read and check the four files.

    Args:
        raw: the download.
        any_content: say nothing where they are not MNIST's own.
        report: takes a part that cannot be used.

    Returns:
        Part -> MNIST's name of a file -> its contents, for each part that can be used.

    Raises:
        UserError: a file is missing, or neither part can be used.
    """
    files = {key: find_file(raw, name) for key, name in IDX_FILES.items()}
    parts = {}
    for part in NUMBER:
        names = {IDX_FILES[part, content]: files[part, content] for content in ("images", "labels")}
        try:
            arrays = {name: read_idx(path) for name, path in names.items()}
            check_part(*names.values(), *arrays.values())
        except UserError as error:
            report.skip(part, str(error))
            continue
        if not any_content:
            note_foreign(part, names, arrays)
        parts[part] = arrays
    if not parts:
        raise UserError(f"{str(raw)!r}: neither part can be used. {SITE}")
    return parts


def part_line(report: Report) -> str:
    """The line of a config that chooses the part."""
    return f"part: {report.first_of(NUMBER)}" + ("  # or test" if len(report.made) == 2 else "")


def find_file(raw: Path, name: str) -> Path:
    """The file of that name, packed or not; the packed one is preferred, because its checksum is known.

    Args:
        raw: the download.
        name: as in ``train-images-idx3-ubyte``.

    Raises:
        UserError: there is none.
    """
    spellings = (name, name.replace("-idx", ".idx"))
    for path in (raw / f"{spelling}{packed}" for packed in (".gz", "") for spelling in spellings):
        if path.is_file():
            return path
    raise UserError(f"{str(raw)!r} holds no {name}.gz, nor {name}. {SITE}")


def check_part(images_file: Path, labels_file: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    """Refuse images and labels that do not belong together.

    Args:
        images_file: named in messages.
        labels_file: named in messages.
        images: should be ``(N, 28, 28)``.
        labels: should be ``(N,)``, 0 to 9.

    Raises:
        UserError: they are of other shapes or values.
    """
    if images.shape[1:] != (28, 28) or not len(images):
        raise UserError(f"{str(images_file)!r} holds an array of shape {images.shape}; it should be N x 28 x 28")
    if labels.shape != images.shape[:1]:
        raise UserError(
            f"{str(labels_file)!r} holds an array of shape {labels.shape}; it should hold {len(images)} labels, as"
            f" {images_file.name!r} has images"
        )
    if labels.max() > 9:
        raise UserError(f"{str(labels_file)!r} holds the label {labels.max()}; labels should be from 0 to 9")


def note_foreign(part: str, files: dict[str, Path], arrays: dict[str, NDArray[np.uint8]]) -> None:
    """Say on the error stream what is not as in MNIST itself.

    Args:
        part: train or test.
        files: MNIST's name of a file -> the file.
        arrays: MNIST's name of a file -> its contents.
    """
    for name, path in files.items():
        reason = ""
        if len(arrays[name]) != NUMBER[part]:
            reason = f"{len(arrays[name])} items instead of {NUMBER[part]}"
        elif path.suffix == ".gz":
            found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            reason = f"MD5 {found} instead of {MD5[name]}" if found != MD5[name] else ""
        if reason:
            print(f"note: {path} is not the original ({reason}); --any-content leaves this out", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(build_parser(), prepare))
