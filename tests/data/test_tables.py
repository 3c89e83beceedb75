"""Names in little memory, and files from folders and from zips of all kinds."""

from __future__ import annotations

import io
import logging
import multiprocessing
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vidgen.data.decoding import Unreadable
from vidgen.data.tables import FolderFiles, StringTable, ZipFiles, open_files
from vidgen.errors import UserError

FILES = {"a/1.png": b"first" * 30, "a/2.png": b"second", "b/1.png": b""}


def make_zip(path: Path, files: Mapping[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def contents(root: Path) -> dict[str, bytes]:
    files = open_files(root, "things")
    return {name: files.read(number) for number, name in enumerate(files.names)}


def message(root: Path) -> str:
    with pytest.raises(UserError) as error:
        open_files(root, "things")
    return str(error.value)


def reason(files: ZipFiles | FolderFiles, number: int = 0) -> str:
    with pytest.raises(Unreadable) as error:
        files.read(number)
    return str(error.value)


def patch(path: Path, signature: bytes, offset: int, layout: str, value: Any) -> None:
    """Overwrite a field of the first record of a kind."""
    data = bytearray(path.read_bytes())
    struct.pack_into(layout, data, data.index(signature) + offset, value)
    path.write_bytes(data)


def read_in_worker(files: ZipFiles, queue: Any) -> None:
    queue.put([files.read(number) for number in range(len(files))])


def test_a_table_is_a_sequence_of_its_strings():
    names = ["", "a", "ü/日本.png", "a"]
    table = StringTable(names)
    assert list(table) == names and len(table) == 4 and table[-1] == "a" and table[1:3] == names[1:3]
    assert "ü/日本.png" in table and table.index("a") == 1
    with pytest.raises(IndexError):
        table[4]
    assert list(StringTable()) == []


def test_names_that_are_no_text_are_kept_byte_for_byte():
    name = os.fsdecode(b"bad\xff.png")
    assert StringTable([name])[0] == name


@pytest.mark.parametrize("names", [["x", "", "long/name", "z"], ["x", "", "ü/日本", os.fsdecode(b"\xff")]])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 0], [2, 2], [1], []])
def test_rows_of_a_table_are_taken_in_the_order_asked_for(names, rows):
    taken = StringTable(names).take(np.array(rows, np.int64))
    assert list(taken) == [names[row] for row in rows] and [taken[n] for n in range(len(rows))] == list(taken)


def test_a_table_is_rebuilt_from_its_arrays():
    table = StringTable(["x", "yz"])
    assert list(StringTable.from_arrays(table.data, table.ends)) == ["x", "yz"]


def test_a_folder_gives_all_files_sorted_and_no_hidden_ones(tmp_path):
    for name in ("b/x.png", "a/y.png", "top.png", ".git/z.png", "a/.hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    assert contents(tmp_path) == {name: name.encode() for name in ("a/y.png", "b/x.png", "top.png")}


def test_links_are_followed_once(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"a")
    (tmp_path / "data" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "lost").symlink_to(tmp_path / "nowhere")
    files = open_files(tmp_path / "data", "things")
    assert list(files.names) == ["a.png", "lost"]
    assert reason(files, 1) == "a link that leads nowhere"


def make_folders(root: Path) -> Path:
    for name in ("a/1.png", "b/2.png", "c/3.png"):
        (root / name).parent.mkdir(parents=True)
        (root / name).write_bytes(name.encode())
    return root


def test_a_link_to_itself_is_listed_and_leads_nowhere(tmp_path, caplog):
    (make_folders(tmp_path) / "a" / "self").symlink_to("self")
    files = open_files(tmp_path, "things")
    assert list(files.names) == ["a/1.png", "a/self", "b/2.png", "c/3.png"] and not caplog.messages
    assert reason(files, 1) == "a link that leads nowhere"


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (PermissionError(13, "Permission denied"), "permission denied"),
        (FileNotFoundError(2, "No such file or directory"), "it is gone"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_passed_over_with_a_warning(tmp_path, monkeypatch, caplog, error, why):
    def scandir(place: str, scan: Any = os.scandir) -> Any:
        if place == f"{tmp_path}/b":
            raise error
        return scan(place)

    make_folders(tmp_path)
    monkeypatch.setattr(os, "scandir", scandir)
    with caplog.at_level(logging.WARNING, "vidgen.data"):
        assert list(open_files(tmp_path, "things").names) == ["a/1.png", "c/3.png"]
    assert caplog.record_tuples == [("vidgen.data", logging.WARNING, f"skipped {tmp_path}/b: {why}")]


def test_a_folder_that_disappears_during_the_walk_is_named(tmp_path, monkeypatch, caplog):
    def stat(place: Any, status: Any = os.stat, **options: Any) -> Any:
        if place == f"{tmp_path}/b":
            raise FileNotFoundError(2, "No such file or directory")
        return status(place, **options)

    make_folders(tmp_path)
    monkeypatch.setattr(os, "stat", stat)
    assert list(open_files(tmp_path, "things").names) == ["a/1.png", "c/3.png"]
    assert caplog.messages == [f"skipped {tmp_path}/b: it is gone"]


def test_a_file_that_vanishes_is_named(tmp_path):
    assert reason(FolderFiles(tmp_path, ["a.png"])) == "it is gone"
    (tmp_path / "sub").mkdir()
    assert reason(FolderFiles(tmp_path, ["sub"])) == "Is a directory"


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_gives_its_files_sorted(tmp_path, method):
    path = make_zip(tmp_path / "a.zip", dict(reversed(FILES.items())), method)
    assert contents(path) == FILES and list(contents(path)) == sorted(FILES)


def test_the_content_makes_a_zip_and_not_the_name(tmp_path):
    assert contents(make_zip(tmp_path / "data")) == FILES


def test_folder_entries_hidden_files_and_those_of_a_mac_are_left_out(tmp_path):
    others = {"a/": b"", ".x/1.png": b"x", "a/.DS_Store": b"x", "__MACOSX/a/1.png": b"x"}
    assert contents(make_zip(tmp_path / "a.zip", {**others, **FILES})) == FILES


def test_names_that_lead_outside_are_left_out(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    path = make_zip(tmp_path / "a.zip", {"../secret.png": b"x", "a/../../secret.png": b"x", **FILES})
    assert contents(path) == FILES and list(ZipFiles(path).names) == list(FILES)


def test_roots_and_dots_in_names_mean_the_zip_itself(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"/etc/1.png": b"1", "./b//2.png": b"2"})
    assert contents(path) == {"b/2.png": b"2", "etc/1.png": b"1"}
    assert open_files(path, "things").path(1) == f"{path}/etc/1.png"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_files_of_a_name_the_last_counts(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"old")
        archive.writestr("a.png", b"new")
    assert contents(tmp_path / "a.zip") == {"a.png": b"new"}


def test_bytes_before_the_zip_are_skipped(tmp_path):
    data = make_zip(tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(b"#!/bin/sh\nexit\n" * 7 + data)
    assert contents(tmp_path / "a.zip") == FILES


def test_sizes_behind_the_data_are_understood(tmp_path):
    class Pipe(io.RawIOBase):
        """Cannot seek, so that sizes are written behind each file."""

        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[arg-type]
        for name, data in FILES.items():
            archive.writestr(name, data)
    (tmp_path / "a.zip").write_bytes(pipe.data)
    assert contents(tmp_path / "a.zip") == FILES


def test_large_zips_are_understood(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    path = make_zip(tmp_path / "a.zip")
    assert b"PK\x06\x06" in path.read_bytes()  # the end record of the 64 bit format
    assert contents(path) == FILES


def test_names_in_the_zips_own_alphabet_are_read(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"ü/日本.png": b"x"})
    assert contents(path) == {"ü/日本.png": b"x"}


def test_a_damaged_entry_is_named_and_the_others_are_read(tmp_path):
    path = make_zip(tmp_path / "a.zip", method=zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"second", b"sec0nd"))
    files = open_files(path, "things")
    assert reason(files, 1) == "damaged inside the zip (its checksum is wrong)"
    assert files.read(0) == FILES["a/1.png"]


def test_a_damaged_packing_is_named(tmp_path):
    path = make_zip(tmp_path / "a.zip")
    start = path.read_bytes().index(b"1.png") + 5
    data = bytearray(path.read_bytes())
    data[start] = 0xFF
    path.write_bytes(data)
    assert reason(open_files(path, "things")).startswith("damaged inside the zip (Error -3 while decompressing")


def test_more_than_is_declared_is_not_unpacked(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"a.png": bytes(10**6)})
    patch(path, b"PK\x01\x02", 24, "<L", 100)
    assert reason(open_files(path, "things")) == "damaged inside the zip (its checksum is wrong)"


@pytest.mark.parametrize(("offset", "value"), [(20, 0xFFFFFFF0), (42, 0xFFFFFF), (42, 5)])
def test_sizes_and_places_that_are_wrong_are_named(tmp_path, offset, value):
    path = make_zip(tmp_path / "a.zip", {"a.png": b"x" * 50}, zipfile.ZIP_STORED)
    patch(path, b"PK\x01\x02", offset, "<L", value)
    assert reason(open_files(path, "things")).startswith("damaged inside the zip (")


def test_a_zip_that_vanishes_is_named(tmp_path):
    files = open_files(make_zip(tmp_path / "a.zip"), "things")
    os.remove(tmp_path / "a.zip")
    assert reason(files) == "the zip is gone"


def test_zips_that_cannot_be_used_are_refused_by_name(tmp_path):
    path = make_zip(tmp_path / "a.zip")
    patch(path, b"PK\x01\x02", 8, "<H", 1)
    assert message(path) == f"data.root '{path}' is encrypted; unpack it"
    make_zip(path, {"a.png": b"x"}, zipfile.ZIP_LZMA)
    assert message(path) == f"data.root '{path}': 'a.png' is neither stored nor deflated; pack it again"
    path.write_bytes(make_zip(path).read_bytes()[:-30])
    assert message(path) == f"data.root '{path}' is no zip that can be read: File is not a zip file; get it anew"
    patch(make_zip(path), b"PK\x01\x02", 0, "<L", 0)
    text = f"data.root '{path}' is no zip that can be read: Bad magic number for central directory; get it anew"
    assert message(path) == text
    patch(make_zip(path), b"PK\x01\x02", 6, "<H", 99)
    assert message(path) == f"data.root '{path}' is no zip that can be read: zip file version 9.9; get it anew"


def test_places_that_are_no_folder_are_refused_by_name(tmp_path):
    (tmp_path / "file.txt").write_text("text")
    wanted = "it should be a folder of things"
    assert message(tmp_path / "no") == f"data.root '{tmp_path}/no' does not exist; {wanted}"
    assert message(tmp_path / "file.txt") == f"data.root '{tmp_path}/file.txt' is not a folder; {wanted}"


def test_grids_beside_samples_are_left_out(tmp_path):
    kept = ["000.png", "other/grid.png", "other/side_by_side/000.png", "samples.json"]
    for name in (*kept, "grid.png", "side_by_side/000.png", "side_by_side/000/00000.png", "side_by_side/000.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"x")
    assert list(open_files(tmp_path, "things").names) == kept


def test_some_files_are_taken_in_the_order_asked_for(tmp_path):
    with zipfile.ZipFile(make_zip(tmp_path / "a.zip")) as archive:
        archive.extractall(tmp_path / "folder")
    for root in (tmp_path / "a.zip", tmp_path / "folder"):
        taken = open_files(root, "things").take(["a/2.png", "a/1.png"])
        assert list(taken.names) == ["a/2.png", "a/1.png"]
        assert [taken.read(0), taken.read(1)] == [FILES["a/2.png"], FILES["a/1.png"]]


def test_files_are_taken_by_number_as_by_name(tmp_path):
    with zipfile.ZipFile(make_zip(tmp_path / "a.zip")) as archive:
        archive.extractall(tmp_path / "folder")
    for root in (tmp_path / "a.zip", tmp_path / "folder"):
        files = open_files(root, "things")
        for rows in ([1, 0], [0, 1, 2], [2, 0, 1], [2], []):
            for taken in (files.take(np.array(rows, np.int64)), files.take([list(FILES)[row] for row in rows])):
                assert list(taken.names) == [list(FILES)[row] for row in rows]
                assert [taken.read(n) for n in range(len(taken))] == [list(FILES.values())[row] for row in rows]


def test_a_copy_reads_the_same(tmp_path):
    files = open_files(make_zip(tmp_path / "a.zip"), "things")
    files.read(0)
    assert pickle.loads(pickle.dumps(files)).read(0) == FILES["a/1.png"]


def test_a_forked_process_has_its_own_place_in_the_zip(tmp_path):
    large = {f"{number}.png": bytes([number]) * 50_000 for number in range(3)}
    files = open_files(make_zip(tmp_path / "a.zip", large, zipfile.ZIP_STORED), "things")
    files.read(0)
    before = os.lseek(files._file.fileno(), 0, os.SEEK_CUR)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=read_in_worker, args=(files, queue))
    process.start()
    assert queue.get() == list(large.values())
    process.join()
    assert os.lseek(files._file.fileno(), 0, os.SEEK_CUR) == before  # processes share the place of a shared file


@pytest.mark.slow
def test_a_spawned_process_reads_the_same(tmp_path):
    files = open_files(make_zip(tmp_path / "a.zip"), "things")
    files.read(0)
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=read_in_worker, args=(files, queue))
    process.start()
    assert queue.get() == list(FILES.values())
    process.join()
