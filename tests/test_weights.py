"""Weight files: found, downloaded once, checked, read without executing anything."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import pickle
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from vidgen import weights as module
from vidgen.errors import UserError
from vidgen.weights import WeightFile, load_into, load_state, locate, matches

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


class Server(ThreadingHTTPServer):
    """Serves CONTENT; how, is set by each test."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str | None] = []
        self.ranges = True
        self.cuts: list[int] = []  # bytes after which each answer breaks off, one after the other
        self.status = 200
        self.length = True
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.shift = 0
        self.page: bytes | None = None  # what comes in place of CONTENT

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/net.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        self.server.entered.set()
        self.server.go_on.wait(10)
        if self.server.status == 0:
            return
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        if self.server.page is not None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.server.page)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and self.server.ranges else 0
        if start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.end_headers()
            return
        start = max(0, start - self.server.shift)
        body = CONTENT[start:]
        self.send_response(206 if asked and self.server.ranges else 200)
        if asked and self.server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        if self.server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VIDGEN_OFFLINE", raising=False)
    return tmp_path / "cache" / "weights"


def published(server: Server, checksum: str = f"sha256:{SHA}", size: int | None = len(CONTENT)) -> WeightFile:
    return WeightFile("net.pth", server.url, size, checksum, "Apache-2.0")


def message(file: WeightFile, weights: str | Path = "auto") -> str:
    with pytest.raises(UserError) as caught:
        locate(file, weights)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def remedy(file: WeightFile, cache: Path) -> str:
    checksum = file.checksum or "no checksum is published"
    return f"get {file.url} ({checksum}) and put it at {cache / 'net.pth'}, or name it with --weights FILE"


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


# Where a file is


def test_a_users_own_file_is_taken_whatever_is_in_it(tmp_path, server):
    (tmp_path / "mine.pth").write_bytes(b"other")
    assert locate(published(server), tmp_path / "mine.pth") == tmp_path / "mine.pth"
    assert locate(published(server), str(tmp_path / "mine.pth")) == tmp_path / "mine.pth"
    assert server.requests == []


def test_a_users_home_is_found(tmp_path, server, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.pth").write_bytes(b"x")
    assert locate(published(server), "~/mine.pth") == tmp_path / "mine.pth"


def test_a_file_that_is_not_there_is_named(tmp_path, server):
    assert (
        message(published(server), tmp_path / "absent.pth")
        == f"{tmp_path / 'absent.pth'}: no such weight file; give the path of one, auto or random"
    )


def test_a_folder_is_named(tmp_path, server):
    assert message(published(server), tmp_path) == f"{tmp_path}: is a folder, not a weight file"


def test_a_file_that_must_not_be_read_is_named(tmp_path, server, monkeypatch):
    (tmp_path / "mine.pth").write_bytes(b"x")
    monkeypatch.setattr(module.os, "access", lambda path, mode: False)  # root may read everything
    expected = f"{tmp_path / 'mine.pth'}: must not be read; permit it, or name another file"
    assert message(published(server), tmp_path / "mine.pth") == expected


def test_a_file_in_the_cache_is_not_downloaded_even_offline(cache, server, monkeypatch):
    monkeypatch.setenv("VIDGEN_OFFLINE", "1")
    cache.mkdir(parents=True)
    (cache / "net.pth").write_bytes(CONTENT)
    assert locate(published(server)) == cache / "net.pth"
    assert server.requests == []


def test_a_wrong_file_in_the_cache_is_refused_and_left_there(cache, server):
    cache.mkdir(parents=True)
    (cache / "net.pth").write_bytes(CONTENT)
    expected = f"{cache / 'net.pth'}: not the published file (sha256:{SHA[:8]} instead of sha256:00000000); remove it"
    assert message(published(server, "sha256:00000000")) == expected
    assert left(cache) == ["net.pth"] and server.requests == []


def test_a_short_file_in_the_cache_is_refused(cache, server):
    cache.mkdir(parents=True)
    (cache / "net.pth").write_bytes(b"12345")
    assert message(published(server, "")) == f"{cache / 'net.pth'}: 5 bytes where net.pth has 3000000; remove it"


# Downloading


def test_a_download_is_kept_for_the_next_time(cache, server):
    for _ in range(2):
        assert locate(published(server)).read_bytes() == CONTENT
    assert server.requests == [None] and left(cache) == ["net.pth"]


@pytest.mark.parametrize("length", [True, False])
def test_a_file_of_unknown_size_and_checksum_can_be_downloaded(server, length):
    server.length = length
    assert locate(published(server, "", None)).read_bytes() == CONTENT


def test_a_cut_download_is_continued(server):
    server.cuts = [1000, 500_000]
    assert locate(published(server)).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000-", "bytes=501000-"]


def test_a_cut_is_noticed_without_a_known_size(server):
    server.cuts = [1000]
    assert locate(published(server, "", None)).read_bytes() == CONTENT


def test_a_cut_is_noticed_where_the_server_tells_no_length(server):
    server.length, server.cuts = False, [1000]
    assert locate(published(server)).read_bytes() == CONTENT


def test_what_arrived_is_kept_for_a_later_call(cache, server):
    server.cuts = [1000, 0]
    file = published(server)
    reason = "the connection ended after 1000 of 3000000 bytes"
    assert message(file) == f"net.pth: cannot be downloaded ({reason}); {remedy(file, cache)}"
    assert left(cache) == [".net.pth.partial"]
    assert locate(file).read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=1000-" and left(cache) == ["net.pth"]


def test_a_server_without_ranges_is_asked_for_everything_again(server):
    server.ranges, server.cuts = False, [1000]
    assert locate(published(server)).read_bytes() == CONTENT


def test_a_server_that_always_breaks_off_at_the_same_place_is_given_up(cache, server):
    server.ranges, server.cuts = False, [1000] * 5
    assert "the connection ended after 1000 of 3000000 bytes" in message(published(server))
    assert len(server.requests) == 2


def test_a_part_that_begins_elsewhere_is_not_joined(server):
    server.shift, server.cuts = 7, [1000]
    assert locate(published(server)).read_bytes() == CONTENT
    assert server.requests == [None, "bytes=1000-", None]


@pytest.mark.parametrize(("size", "requests"), [(len(CONTENT), []), (None, ["bytes=3000000-"])])
def test_a_complete_but_unfinished_download_is_finished(cache, server, size, requests):
    cache.mkdir(parents=True)
    (cache / ".net.pth.partial").write_bytes(CONTENT)
    assert locate(published(server, size=size)).read_bytes() == CONTENT
    assert server.requests == requests


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_an_unfinished_download_that_is_too_long_is_started_again(cache, server, size):
    cache.mkdir(parents=True)
    (cache / ".net.pth.partial").write_bytes(CONTENT + b"more")
    assert locate(published(server, size=size)).read_bytes() == CONTENT


def test_another_file_at_the_address_is_dropped(cache, server):
    file = published(server, f"sha256:{OTHER}")
    expected = (
        f"net.pth: {server.url} gave another file, which was dropped (sha256:{SHA} instead of sha256:{OTHER}); "
        f"{remedy(file, cache)}"
    )
    assert message(file) == expected
    assert left(cache) == []


def test_a_file_of_another_size_is_not_downloaded(cache, server):
    file = published(server, size=17)
    expected = (
        f"net.pth: cannot be downloaded (the address gives 3000000 bytes, the file has 17); {remedy(file, cache)}"
    )
    assert message(file) == expected


def test_the_servers_refusal_is_told(cache, server):
    server.status = 404
    file = published(server, "")
    assert message(file) == f"net.pth: cannot be downloaded (404 Not Found); {remedy(file, cache)}"


def test_no_network_is_told(cache, server):
    server.shutdown()
    server.server_close()
    file = published(server)
    reason = "no connection: [Errno 111] Connection refused"
    assert message(file) == f"net.pth: cannot be downloaded ({reason}); {remedy(file, cache)}"


def test_a_server_that_hangs_up_is_told(cache, server):
    server.status = 0
    file = published(server)
    reason = "no connection: Remote end closed connection without response"
    assert message(file) == f"net.pth: cannot be downloaded ({reason}); {remedy(file, cache)}"


def test_a_server_that_never_answers_is_told(cache, server, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_OF_SILENCE", 0.1)
    server.go_on.clear()
    file = published(server)
    assert message(file) == f"net.pth: cannot be downloaded (no connection: timed out); {remedy(file, cache)}"
    server.go_on.set()


def test_offline_nothing_is_asked_for(cache, server, monkeypatch):
    monkeypatch.setenv("VIDGEN_OFFLINE", "1")
    file = published(server)
    assert message(file) == f"net.pth: not in the cache, and VIDGEN_OFFLINE is set; {remedy(file, cache)}"
    assert server.requests == [] and not cache.exists()


def test_a_message_names_the_file_as_its_reader_does(tmp_path, server, monkeypatch):
    file = published(server)
    for break_it in (
        lambda: setattr(server, "status", 404),
        lambda: monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "file")),
        lambda: monkeypatch.setenv("VIDGEN_OFFLINE", "1"),
    ):
        (tmp_path / "file").touch()
        break_it()
        with pytest.raises(UserError, match=r"name (it|the file) with data\.merges=FILE$"):
            locate(file, option="data.merges=FILE")


@pytest.mark.parametrize("value", ["0", "", "false", "No", "OFF"])
def test_offline_can_be_taken_back(server, monkeypatch, value):
    monkeypatch.setenv("VIDGEN_OFFLINE", value)
    assert locate(published(server)).is_file()


@pytest.mark.parametrize("value", ["true", "yes", "2"])
def test_offline_is_set_by_anything_else(server, monkeypatch, value):
    monkeypatch.setenv("VIDGEN_OFFLINE", value)
    assert "VIDGEN_OFFLINE is set" in message(published(server))


@pytest.mark.parametrize("size", [None, len(CONTENT)])
@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><html>sign in</html>", b"\n <HTML>proxy</HTML>", b"<?xml version='1.0'?>"]
)
def test_a_page_in_place_of_the_file_is_not_kept(cache, server, size, page):
    server.page = page
    file = published(server, "", size)
    reason = "the address gives a web page, not the file"
    assert message(file) == f"net.pth: cannot be downloaded ({reason}); {remedy(file, cache)}"
    server.page = None
    assert locate(file).read_bytes() == CONTENT
    assert server.requests == [None, None]


def test_an_empty_answer_is_not_kept(cache, server):
    server.page = b""
    file = published(server, "", None)
    reason = "the connection ended after 0 bytes"
    assert message(file) == f"net.pth: cannot be downloaded ({reason}); {remedy(file, cache)}"
    assert left(cache) == [".net.pth.partial"]


def test_a_cache_that_cannot_be_written_is_named(tmp_path, server, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "file"))
    expected = (
        f"{tmp_path / 'file' / 'weights' / 'net.pth'}: cannot be written (Not a directory); set VIDGEN_CACHE to "
        "another folder, or name the file with --weights FILE"
    )
    assert message(published(server)) == expected


def test_a_full_disk_is_told_and_what_arrived_stays(cache, server, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    assert "cannot be written (No space left on device); set VIDGEN_CACHE" in message(published(server))
    assert left(cache) == [".net.pth.partial"]


def test_two_threads_make_one_download(server):
    server.go_on.clear()
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(locate, published(server)) for _ in range(2)]
        server.entered.wait(10)
        server.go_on.set()
        assert [path.result().read_bytes() == CONTENT for path in both] == [True, True]
    assert server.requests == [None]


def test_two_processes_make_one_download(cache, server):
    script = (
        "import sys; from vidgen.weights import WeightFile, locate; "
        f"print(locate(WeightFile('net.pth', sys.argv[1], None, 'sha256:{SHA}', '')))"
    )
    server.go_on.clear()
    both = [subprocess.Popen([sys.executable, "-c", script, server.url], stdout=subprocess.PIPE) for _ in range(2)]
    server.entered.wait(60)
    server.go_on.set()
    assert [process.communicate(timeout=60)[0].decode().strip() for process in both] == [str(cache / "net.pth")] * 2
    assert server.requests == [None]


def test_without_locks_every_process_has_a_download_of_its_own(cache, server, monkeypatch):
    def unsupported(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    cache.mkdir(parents=True)
    (cache / ".net.pth.partial").write_bytes(b"somebody else's")
    assert locate(published(server)).read_bytes() == CONTENT
    assert left(cache) == [".net.pth.partial", "net.pth"]
    assert (cache / ".net.pth.partial").read_bytes() == b"somebody else's"


def test_without_locks_a_cut_download_leaves_nothing(cache, server, monkeypatch):
    monkeypatch.setattr(module, "_locked", lambda file: False)
    server.cuts = [1000, 0]
    assert "the connection ended after 1000 of 3000000 bytes" in message(published(server))
    assert left(cache) == []


def test_a_big_download_shows_how_far_it_is(server, monkeypatch, capsys):
    monkeypatch.setattr(module, "_WORTH_A_BAR", 1)
    locate(published(server))
    shown = capsys.readouterr()
    assert shown.out == "" and "net.pth: downloaded 3/3 MB" in shown.err


def test_a_small_download_is_silent(server, capsys):
    locate(published(server))
    assert capsys.readouterr() == ("", "")


# Checksums


def test_a_checksum_may_be_the_beginning_of_a_sha256(tmp_path):
    (tmp_path / "f").write_bytes(CONTENT)
    assert matches(tmp_path / "f", f"sha256:{SHA}") and matches(tmp_path / "f", f"sha256:{SHA[:8]}")
    assert not matches(tmp_path / "f", f"sha256:{SHA[1:9]}")


def test_git_names_files_by_their_blobs(tmp_path):
    (tmp_path / "f").write_bytes(b"what is up, doc?")  # the example of the book "Pro Git", chapter 10.2
    assert matches(tmp_path / "f", "gitblob:bd9dbf5aae1a3862dd1526723246b20206e5fc37")
    assert not matches(tmp_path / "f", "gitblob:bd9dbf5aae1a3862dd1526723246b20206e5fc38")


def test_every_file_has_the_empty_checksum(tmp_path):
    assert matches(tmp_path / "absent", "")


def test_an_unknown_kind_of_checksum_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=re.escape("checksums are 'gitblob:…' or 'sha256:…', not 'md5'")):
        matches(tmp_path / "f", "md5:0")


# Reading

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)}


def same(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(state[key], STATE[key]) for key in STATE)


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "f")
    assert same(load_state(tmp_path / "f"))


def test_arrays_are_read_in_any_byte_order(tmp_path):
    np.savez(tmp_path / "f.npz", **{"a.weight": STATE["a.weight"].numpy().astype(">f4"), "b": np.array(3)})
    assert same(load_state(tmp_path / "f.npz"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrappers", [[], ["state_dict"], ["model"], ["module"], ["model", "module"]])
def test_torch_files_are_read_and_unwrapped(tmp_path, zipped, wrappers):
    payload: dict = STATE
    for wrapper in reversed(wrappers):
        payload = {wrapper: payload, "epoch": 3}
    torch.save(payload, tmp_path / "f", _use_new_zipfile_serialization=zipped)
    assert same(load_state(tmp_path / "f"))


def test_the_module_of_a_parallel_run_is_left_out(tmp_path):
    torch.save({f"module.module.{key}": value for key, value in STATE.items()}, tmp_path / "f")
    assert same(load_state(tmp_path / "f"))


def test_a_network_with_a_part_called_module_keeps_its_names(tmp_path):
    torch.save({"module.w": torch.ones(1), "other.w": torch.ones(1)}, tmp_path / "f")
    assert load_state(tmp_path / "f").keys() == {"module.w", "other.w"}


def test_a_file_is_told_by_its_content_not_by_its_name(tmp_path):
    torch.save(STATE, tmp_path / "f.safetensors")
    save_file(STATE, tmp_path / "f.npz")
    assert same(load_state(tmp_path / "f.safetensors")) and same(load_state(tmp_path / "f.npz"))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("object", "it asks for getattr"), ("page", "it is nothing that torch.save writes of tensors")],
)
def test_nobody_is_told_to_read_a_refused_file_all_the_same(tmp_path, kind, reason):
    damaged(kind, tmp_path / "f")
    with pytest.raises(UserError) as caught:
        load_state(tmp_path / "f")
    assert str(caught.value).endswith(f"({reason})")


def test_parameters_are_read_as_plain_tensors(tmp_path):
    torch.save({"w": nn.Parameter(torch.ones(2))}, tmp_path / "f")
    read = load_state(tmp_path / "f")["w"]
    assert type(read) is torch.Tensor and not read.requires_grad


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def damaged(kind: str, path: Path) -> None:
    evil = Evil(path.with_suffix(".mark"))
    if kind == "object":
        torch.save({"w": evil}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(evil))
    elif kind == "pickled array":
        np.savez(path.with_suffix(".npz"), w=np.array([evil], dtype=object))
        path.with_suffix(".npz").rename(path)
    elif kind == "text array":
        np.savez(path.with_suffix(".npz"), w=np.array(["x"]))
        path.with_suffix(".npz").rename(path)
    elif kind == "page":
        path.write_bytes(b"<html>sign in</html>")
    elif kind == "empty":
        path.touch()
    elif kind == "torchscript":
        torch.jit.script(nn.Linear(1, 1)).save(str(path))
    elif kind == "header":
        path.write_bytes(b"\xff" * 8 + b"{")
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", b"\x93NUMPY\x01\x00")
    else:
        whole = path.with_suffix(".whole")
        (save_file if kind == "short safetensors" else torch.save)({"w": torch.ones(1000)}, whole)
        path.write_bytes(whole.read_bytes()[:-500])


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize(
    "kind",
    [
        *("object", "pickle", "pickled array", "text array", "page", "empty", "torchscript", "header", "zip"),
        *("short safetensors", "short torch"),
    ],
)
def test_hostile_and_damaged_files_are_refused_in_one_line(tmp_path, kind):
    damaged(kind, tmp_path / "f")
    with pytest.raises(UserError) as caught:
        load_state(tmp_path / "f")
    line = str(caught.value)
    assert not (tmp_path / "f.mark").exists()
    assert "\n" not in line and len(line) < 500
    assert line.startswith(
        f"{tmp_path / 'f'}: unreadable weights, a safetensors, npz or torch file of tensors alone is needed ("
    )


@pytest.mark.parametrize(
    "payload",
    [[torch.ones(1)], {}, {"w": 3}, {1: torch.ones(1)}, {"w": torch.ones(2).to_sparse()}, torch.ones(2)],
)
def test_what_is_no_state_dict_is_refused(tmp_path, payload):
    torch.save(payload, tmp_path / "f")
    with pytest.raises(UserError) as caught:
        load_state(tmp_path / "f")
    assert str(caught.value) == f"{tmp_path / 'f'}: holds no state dict, names with a dense tensor each"


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'f'}: no such weight file")):
        load_state(tmp_path / "f")


def test_an_array_that_fits_nowhere_is_refused(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000,)}"
    with zipfile.ZipFile(tmp_path / "f", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(UserError) as caught:
        load_state(tmp_path / "f")
    expected = f"{tmp_path / 'f'}: claims tensors that do not fit into memory; is it damaged?"
    assert str(caught.value) == expected


# Into a network


def small() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def small_state() -> dict[str, torch.Tensor]:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()


def test_a_network_on_the_meta_device_gets_its_weights():
    state = {key: value.half() if key == "0.weight" else value for key, value in small_state().items()}
    network = small()
    load_into(network, state, "f")
    for key, value in network.state_dict().items():
        assert value.device.type == "cpu" and torch.equal(value, state[key].to(value.dtype))
    assert network[0].weight.dtype == torch.float32


def test_weights_are_single_whatever_the_default_precision():
    torch.set_default_dtype(torch.float64)
    try:
        network = small()
    finally:
        torch.set_default_dtype(torch.float32)
    load_into(network, small_state(), "f")
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}


def test_the_counter_of_batches_may_be_absent():
    state = small_state()
    del state["1.num_batches_tracked"]
    network = small()
    load_into(network, state, "f")
    assert network[1].num_batches_tracked.item() == 0


def test_the_counter_of_batches_may_be_there_for_nothing():
    with torch.device("meta"):
        network = nn.Linear(2, 3)
    load_into(network, {**nn.Linear(2, 3).state_dict(), "bn.num_batches_tracked": torch.tensor(3)}, "f")
    assert network.weight.device.type == "cpu"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"0.bias": None}, "f.pth: does not fit Sequential (lacks '0.bias')"),
        ({"new": torch.ones(1)}, "f.pth: does not fit Sequential (has an unknown 'new')"),
        ({"0.bias": torch.ones(4)}, "f.pth: does not fit Sequential ('0.bias' is (4,) instead of (3,))"),
        ({"0.bias": torch.tensor([1, torch.nan, 1])}, "f.pth: '0.bias' holds NaN or infinity; is the file damaged?"),
        ({"0.bias": torch.ones(3, dtype=torch.int32)}, "f.pth: '0.bias' is torch.int32, not of floating numbers"),
        ({"0.bias": torch.ones(3) + 0j}, "f.pth: '0.bias' is torch.complex64, not of floating numbers"),
        (
            {"1.running_var": torch.tensor([1.0, -0.1, 1.0])},
            "f.pth: '1.running_var' holds negative variances; is the file damaged?",
        ),
    ],
)
def test_weights_of_another_network_are_refused(change, expected):
    state = {key: value for key, value in {**small_state(), **change}.items() if value is not None}
    with pytest.raises(UserError) as caught:
        load_into(small(), state, "f.pth")
    assert str(caught.value) == expected
