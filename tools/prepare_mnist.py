"""Checks MNIST's four files and unpacks them.

MNIST is 60,000 training and 10,000 test digits, 28 x 28 pixels, from handwriting. Obtain it at
http://yann.lecun.com/exdb/mnist/ (a mirror: https://ossci-datasets.s3.amazonaws.com/mnist/): ``train-images``,
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
from preparation import Report, main, parser

from vidgen.atomic import atomic_file
from vidgen.data.moving_mnist import IDX_FILES, read_idx, write_idx
from vidgen.errors import UserError

SITE = (
    "Obtain it at http://yann.lecun.com/exdb/mnist/ or its mirror https://ossci-datasets.s3.amazonaws.com/mnist/"
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
        UserError: a file is missing, or neither part can be used.
    """
    report = Report(args.out, how_to_use=f"name: moving_mnist\nroot: {args.out}\npart: train  # or test")
    files = {key: find_file(args.raw, name) for key, name in IDX_FILES.items()}
    for part in NUMBER:
        names = {content: IDX_FILES[part, content] for content in ("images", "labels")}
        try:
            arrays = {name: read_idx(files[part, content]) for content, name in names.items()}
            check_part(*(files[part, content] for content in names), *arrays.values())
        except UserError as error:
            report.skip(part, str(error))
            continue
        if not args.any_content:
            note_foreign(part, {name: files[part, content] for content, name in names.items()}, arrays)
        for name, array in arrays.items():
            if not (args.out / name).exists():
                with atomic_file(args.out / name) as file:
                    file.write(write_idx(array))
        report.count(part, len(arrays[names["images"]]))
    if not report.made:
        raise UserError(f"{str(args.raw)!r}: neither part can be used. {SITE}")
    return report


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
    if images.ndim != 3 or images.shape[1:] != (28, 28) or not len(images):
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
