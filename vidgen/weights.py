"""Weight files of published networks: where they come from, whether they are the right ones, and what is in them.

A file is taken from where the user says, else from the cache, else it is downloaded once. Nothing is unpickled freely.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import http.client
import os
import pickle
import re
import sys
import urllib.error
import urllib.request
import uuid
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vidgen.atomic import PARTIAL_SUFFIX
from vidgen.cache import cache_dir
from vidgen.errors import UserError
from vidgen.progress import Progress

SECONDS_OF_SILENCE = 30.0
"""How long a server may send nothing before the connection counts as cut."""
_PIECE = 1 << 20  # bytes
_MEGABYTE = 10**6
_WORTH_A_BAR = 10 * _MEGABYTE
_WRAPPERS = ("state_dict", "model", "module")
_NO = ("", "0", "false", "no", "off")
_PAGES = (b"<!doctype", b"<html", b"<?xml")
"""How the page of a login or of a proxy begins, which comes where the file should, as if all were well."""
_UNKNOWN = "no checksum is published"
COUNTER = "num_batches_tracked"
"""Last part of the names of BatchNorm's counters, which say nothing about a frozen network."""


@dataclass(frozen=True)
class WeightFile:
    """A published file of weights.

    Args:
        name: of the file in the cache.
        url: its official address.
        size: bytes; None where it is stated nowhere.
        checksum: ``gitblob:`` and a SHA-1 in hexadecimal (Git's name of the file: the SHA-1 of ``blob SIZE``, a zero
            byte and the content), ``sha256:`` and a SHA-256 or its first digits, or empty where none is published.
        licence: of the weights; empty where none is stated.
    """

    name: str
    url: str
    size: int | None
    checksum: str
    licence: str


VGG16 = WeightFile(
    name="vgg16-397923af.pth",
    url="https://download.pytorch.org/models/vgg16-397923af.pth",
    size=553_433_881,
    checksum="sha256:397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    licence="BSD-3-Clause",
)
"""torchvision's VGG16, trained on ImageNet: the trunk of LPIPS as a metric and as a loss."""


def locate(file: WeightFile, weights: str | Path = "auto", *, option: str = "--weights FILE") -> Path:
    """Find a weight file, and download it where it is not there yet.

    Of several processes that want the same file at once, one downloads it while the others wait. What arrived before
    a connection was cut is kept and continued, in this call or in a later one. A download that is not the published
    file is dropped.

    Args:
        file: which one.
        weights: path of a file that the user has, taken as it is, or ``auto``: ``weights/NAME`` in the cache
            (``$VIDGEN_CACHE``, see :func:`vidgen.cache.cache_dir`).
        option: how the user names a file, for messages.

    Returns:
        The file.

    Raises:
        UserError: the user's file cannot be read; the one in the cache or at the address is another file; or it is
            not there and cannot be downloaded, or must not be because ``VIDGEN_OFFLINE`` is set (to anything but ``0``,
            ``false``, ``no``, ``off`` or nothing). The message says which file is needed, from where, its checksum,
            and where to put it.
    """
    if str(weights) != "auto":
        return _readable(Path(weights).expanduser())
    target = cache_dir() / "weights" / file.name
    if not target.is_file():
        if os.environ.get("VIDGEN_OFFLINE", "").strip().lower() not in _NO:
            raise UserError(
                f"{file.name}: not in the cache, and VIDGEN_OFFLINE is set; {_remedy(file, target, option)}"
            )
        _download_once(file, target, option)
        return target
    _readable(target)
    size = target.stat().st_size
    if file.size not in (None, size):
        raise UserError(f"{target}: {size} bytes where {file.name} has {file.size}; remove it")
    if not matches(target, file.checksum):
        raise UserError(
            f"{target}: not the published file ({_found(target, file)} instead of {file.checksum}); remove it"
        )
    return target


def matches(path: Path, checksum: str) -> bool:
    """Whether a file has a checksum as in :class:`WeightFile`; every file has the empty one.

    Raises:
        ValueError: a checksum of another kind.
        UserError: the file cannot be read.
    """
    return not checksum or _digest(path, checksum.partition(":")[0]).startswith(checksum)


def load_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file; nothing in it is executed.

    Args:
        path: a safetensors file, an npz archive of plain arrays, or what ``torch.save`` wrote of tensors and plain
            values. A state dict inside ``state_dict``, ``model`` or ``module`` entries is taken out of them, and
            ``module.`` before all names, which is from a parallel run, is left out.

    Returns:
        Name to dense tensor, on the CPU.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    path = _readable(Path(path))
    try:
        found = _read(path)
    except MemoryError:
        raise UserError(f"{path}: claims tensors that do not fit into memory; is it damaged?") from None
    except Exception as error:  # a hostile file may make a reader fail in any way
        reason = _reason(error)
        raise UserError(
            f"{path}: unreadable weights, a safetensors, npz or torch file of tensors alone is needed ({reason})"
        ) from None
    state = _without_module(_unwrapped(found))
    if not state or not all(isinstance(key, str) and _is_dense(value) for key, value in state.items()):
        raise UserError(f"{path}: holds no state dict, names with a dense tensor each")
    return {key: value.detach() for key, value in state.items()}


def load_into(network: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Give a network, which may be on the meta device, all of its weights, floating ones as float32.

    Batch normalisation's ``num_batches_tracked``, which old files lack, may be absent.

    Args:
        network: takes the weights, and may share memory with them.
        state: name to tensor, exactly the network's.
        path: of the file, for messages.

    Raises:
        UserError: a weight is missing, unknown, of another shape, not floating, not finite, or a negative variance.
    """
    network.load_state_dict(fitted(state, network.state_dict(), type(network).__name__, path), assign=True)


def fitted(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], network: str, path: str | Path
) -> dict[str, Tensor]:
    """The weights of a file that a network wants, floating ones as float32.

    Args:
        state: name to tensor, see :func:`load_into`.
        wanted: name to a tensor of the right shape and kind, which may be on the meta device.
        network: its name, for messages.
        path: of the file, for messages.

    Returns:
        What is wanted, in that order; it may share memory with ``state``.

    Raises:
        UserError: see :func:`load_into`.
    """
    given = {key: value for key, value in state.items() if key in wanted or not _is_counter(key)}
    for key, value in wanted.items():
        if key not in given:
            if not _is_counter(key):
                raise UserError(f"{path}: does not fit {network} (lacks {key!r})")
            given[key] = torch.zeros_like(value, device="cpu")
        elif given[key].shape != value.shape:
            shapes = f"{tuple(given[key].shape)} instead of {tuple(value.shape)}"
            raise UserError(f"{path}: does not fit {network} ({key!r} is {shapes})")
        elif value.is_floating_point() and not given[key].is_floating_point():
            raise UserError(f"{path}: {key!r} is {given[key].dtype}, not of floating numbers")
        elif not given[key].isfinite().all():
            raise UserError(f"{path}: {key!r} holds NaN or infinity; is the file damaged?")
    extra = next((key for key in given if key not in wanted), None)
    if extra is not None:
        raise UserError(f"{path}: does not fit {network} (has an unknown {extra!r})")
    negative = next((key for key in wanted if key.endswith("running_var") and bool((given[key] < 0).any())), None)
    if negative is not None:
        raise UserError(f"{path}: {negative!r} holds negative variances; is the file damaged?")
    # Not the network's own precision, which is that of torch.set_default_dtype.
    precision = {key: torch.float32 if value.is_floating_point() else value.dtype for key, value in wanted.items()}
    return {key: given[key].to(dtype).contiguous() for key, dtype in precision.items()}


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == COUNTER


def _readable(path: Path) -> Path:
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a weight file")
    if not path.is_file():
        raise UserError(f"{path}: no such weight file; give the path of one, auto or random")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: must not be read; permit it, or name another file")
    return path


def _remedy(file: WeightFile, target: Path, option: str) -> str:
    checksum = file.checksum or _UNKNOWN
    return f"get {file.url} ({checksum}) and put it at {target}, or name it with {option}"


def _found(path: Path, file: WeightFile) -> str:
    return _digest(path, file.checksum.partition(":")[0])[: len(file.checksum)]


def _digest(path: Path, kind: str) -> str:
    """``kind:`` and all digits."""
    if kind not in ("gitblob", "sha256"):
        raise ValueError(f"checksums are 'gitblob:…' or 'sha256:…', not {kind!r}")
    total = hashlib.sha256() if kind == "sha256" else hashlib.sha1(usedforsecurity=False)
    try:
        with open(path, "rb") as content:
            if kind == "gitblob":
                total.update(b"blob %d\0" % os.fstat(content.fileno()).st_size)
            while piece := content.read(_PIECE):
                total.update(piece)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    return f"{kind}:{total.hexdigest()}"


# Downloading


def _download_once(file: WeightFile, target: Path, option: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _turn(target) as partial:
            if not target.is_file():  # another process may have brought it meanwhile
                _download(file, target, partial, option)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{target}: cannot be written ({reason}); set VIDGEN_CACHE to another folder, or name the file with "
            f"{option}"
        ) from error


@contextmanager
def _turn(target: Path) -> Iterator[Path]:
    """Wait until no other process downloads the file; gives the name of its unfinished download.

    Where the file system has no locks every process makes a download of its own, which cannot be continued.
    """
    with open(target.with_name(f".{target.name}.lock"), "wb") as lock:
        if _locked(lock):
            yield target.with_name(f".{target.name}{PARTIAL_SUFFIX}")
            return
    own = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}")
    try:
        yield own
    finally:
        own.unlink(missing_ok=True)


def _locked(file: BinaryIO) -> bool:
    """Wait for the lock of a file; False where the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        raise
    return True


def _download(file: WeightFile, target: Path, partial: Path, option: str) -> None:
    with open(partial, "ab") as sink:
        try:
            with ExitStack() as stack:
                _Download(file, sink, stack).run()
        except _Refused as refusal:
            raise UserError(
                f"{file.name}: cannot be downloaded ({refusal}); {_remedy(file, target, option)}"
            ) from refusal
        sink.flush()
        os.fsync(sink.fileno())
    if not matches(partial, file.checksum):
        found = _found(partial, file)
        partial.unlink()
        raise UserError(
            f"{file.name}: {file.url} gave another file, which was dropped ({found} instead of {file.checksum}); "
            f"{_remedy(file, target, option)}"
        )
    os.replace(partial, target)


class _Refused(Exception):
    """The server or the network does not give the file; the message is the reason."""


class _Download:
    """Appends to an unfinished download what is missing of it.

    Args:
        file: what is downloaded.
        sink: the unfinished download, open for appending.
        stack: ends the progress that is shown.
    """

    def __init__(self, file: WeightFile, sink: BinaryIO, stack: ExitStack) -> None:
        self.file = file
        self.sink = sink
        self.stack = stack
        self.shown = 0
        self.progress: Progress | None = None

    def run(self) -> None:
        """Ask again after every cut as long as each answer brings the file further than all before."""
        furthest = self.sink.seek(0, os.SEEK_END)
        while (reason := self._ask()) is not None:
            if self.sink.tell() <= furthest:
                raise _Refused(reason)
            furthest = self.sink.tell()

    def _ask(self) -> str | None:
        """Take one answer; the reason why it was not the whole rest, or None."""
        start = self.sink.tell()
        if start == self.file.size:
            return None
        request = urllib.request.Request(self.file.url, headers={"User-Agent": "vidgen"})
        if start:
            request.add_header("Range", f"bytes={start}-")
        try:
            answer = urllib.request.urlopen(request, timeout=SECONDS_OF_SILENCE)
        except urllib.error.HTTPError as error:
            if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
                raise _Refused(f"{error.code} {error.reason}") from error
            if _total(error.headers) == start:
                return None
            self._restart()
            return self._ask()
        except (OSError, http.client.HTTPException) as error:
            return f"no connection: {getattr(error, 'reason', None) or error}"
        with answer:
            try:
                return self._take(answer, start)
            except _Cut as error:
                return str(error)

    def _take(self, answer: Any, start: int) -> str | None:
        if start and (answer.status != http.client.PARTIAL_CONTENT or _first(answer.headers) != start):
            self._restart()
            if answer.status == http.client.PARTIAL_CONTENT:
                return self._ask()
        total = _total(answer.headers)
        if None not in (total, self.file.size) and total != self.file.size:
            self.sink.truncate(0)
            raise _Refused(f"the address gives {total} bytes, the file has {self.file.size}")
        expected = self.file.size if total is None else total
        while piece := _read_piece(answer):
            if not self.sink.tell() and piece.lstrip()[:9].lower().startswith(_PAGES):
                raise _Refused("the address gives a web page, not the file")
            self.sink.write(piece)
            self._show(expected)
        if not self.sink.tell():
            return "the connection ended after 0 bytes"
        if expected in (None, self.sink.tell()):
            return None
        return f"the connection ended after {self.sink.tell()} of {expected} bytes"

    def _restart(self) -> None:
        self.sink.truncate(0)
        self.sink.seek(0)

    def _show(self, expected: int | None) -> None:
        if expected is None or expected < _WORTH_A_BAR:
            return
        if self.progress is None:
            verb = f"{self.file.name}: downloaded"
            self.progress = self.stack.enter_context(Progress(expected // _MEGABYTE, verb, "MB", file=sys.stderr))
        done = self.sink.tell() // _MEGABYTE
        if done > self.shown:
            self.progress.advance(done - self.shown)
            self.shown = done


class _Cut(Exception):
    """The connection broke while the file was coming."""


def _read_piece(answer: Any) -> bytes:
    # Apart from writing, whose OSErrors mean the disk.
    try:
        return answer.read(_PIECE)
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"the connection broke: {error or type(error).__name__}") from error


def _total(headers: Any) -> int | None:
    """Bytes of the whole file, from the headers of an answer."""
    given = re.fullmatch(r"bytes .*/(\d+)", headers.get("Content-Range") or "") or re.fullmatch(
        r"(\d+)", headers.get("Content-Length") or ""
    )
    return int(given[1]) if given else None


def _first(headers: Any) -> int | None:
    """Where the part of a file begins that an answer brings."""
    given = re.match(r"bytes (\d+)-", headers.get("Content-Range") or "")
    return int(given[1]) if given else None


# Reading


def _read(path: Path) -> Any:
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # eight bytes of length, then the JSON header
        return load_file(path)
    if start[:2] == b"PK" and _is_npz(path):
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(_native(arrays[key])) for key in arrays.files}
    with warnings.catch_warnings(), open(path, "rb") as file:  # opened, for torch would go by the name's ending
        warnings.simplefilter("ignore")  # about the age of a file's format
        return torch.load(file, map_location="cpu", weights_only=True)


def _reason(error: Exception) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's text says how to execute the file
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        return f"it asks for {named[1]}" if named else "it is nothing that torch.save writes of tensors"
    return re.sub(r"\s+", " ", str(error)).strip()[:160] or type(error).__name__


def _is_npz(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def _native(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape)


def _unwrapped(found: Any) -> Mapping[Any, Any]:
    while isinstance(found, Mapping):
        inside = next((found[name] for name in _WRAPPERS if isinstance(found.get(name), Mapping)), None)
        if inside is None:
            return found
        found = inside
    return {}


def _without_module(state: Mapping[Any, Any]) -> Mapping[Any, Any]:
    while state and all(isinstance(key, str) and key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _is_dense(value: Any) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized and not value.is_meta
