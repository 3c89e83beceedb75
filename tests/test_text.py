"""Texts become the ids of CLIP's byte-pair encoding."""

from __future__ import annotations

import gzip
import pickle
import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from tests.clip_merges import NUMBER, clip_merges, common_merges, lines_of, write_merges
from vidgen.errors import UserError
from vidgen.text import END, FILE, START, VOCABULARY, ClipTokenizer, clean, find_merges

SMALL = {0: "i n", 7: "t h", 100: "th e</w>", 101: "a a", 102: "aa a</w>", 48_893: "' s</w>"}
"""Rank -> merge: "the" takes ranks 7 and 100, and "th" and "in" are parts of other words."""
WHERE = f"take {FILE.name} from {FILE.url}"


def symbols() -> list[str]:
    """What the ids of bytes stand for: printable characters of Latin-1, then the others from 256 on."""
    first = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {**{byte: chr(byte) for byte in first}}
    for byte in range(256):
        table.setdefault(byte, chr(256 + len(table) - len(first)))
    return list(table.values())


def ids_by_hand(words: list[str], merges: list[str]) -> list[int]:
    """Ids of words: every merge tried once, in order."""
    vocabulary = [*symbols(), *(symbol + "</w>" for symbol in symbols()), *(m.replace(" ", "") for m in merges)]
    ids = {symbol: place for place, symbol in enumerate(vocabulary)}
    codes = dict(zip([*range(33, 127), *range(161, 173), *range(174, 256)], symbols(), strict=False))
    rest = [byte for byte in range(256) if byte not in codes]
    codes |= dict(zip(rest, symbols()[188:], strict=True))
    found = []
    for word in words:
        parts = [codes[byte] for byte in word.encode()]
        parts[-1] += "</w>"
        for first, second in (merge.split(" ") for merge in merges):
            place = 0
            while (first, second) in pairwise(parts) and place < len(parts) - 1:
                if (parts[place], parts[place + 1]) == (first, second):
                    parts[place : place + 2] = [first + second]
                place += 1
        found += [ids[part] for part in parts]
    return found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_merges(tmp_path_factory.mktemp("merges") / "merges.txt", SMALL)


@pytest.fixture(scope="module")
def small(file: Path) -> ClipTokenizer:
    return ClipTokenizer(file, 16)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipTokenizer:
    return ClipTokenizer(clip_merges(tmp_path_factory.mktemp("clip")), 32)


def ids_of(tokenizer: ClipTokenizer, text: str) -> list[int]:
    """Ids between start and end."""
    row = tokenizer.encode([text])[0].tolist()
    assert row[0] == START
    return row[1 : row.index(END)]


# Encoding


def test_pairs_are_joined_in_the_order_of_their_ranks(small):
    merges = lines_of(SMALL)[1:]
    for words in (["the"], ["thin", "the", "thing"], ["aaa", "aaaa", "a"], ["x"], ["it", "'s"], ["them"]):
        text = " ".join(words).replace(" '", "'")
        assert ids_of(small, text) == ids_by_hand(words, merges), words


def test_the_ids_are_clips(clip):
    """Known ids of OpenAI's own encoding."""
    assert clip.encode(["a diagram", "a dog", "a cat"])[:, :4].tolist() == [
        [49406, 320, 22697, 49407],
        [49406, 320, 1929, 49407],
        [49406, 320, 2368, 49407],
    ]
    assert ids_of(clip, "Hello World!") == [3306, 1002, 256]


def test_rows_are_start_text_end_and_zeros(small):
    rows = small.encode(["the", ""])
    assert rows.dtype == torch.int64 and rows.shape == (2, 16)
    assert rows[0].tolist() == [49406, 512 + 100, 49407, *[0] * 13]
    assert rows[1].tolist() == [49406, 49407, *[0] * 14]
    assert small.encode([]).shape == (0, 16)


def test_of_a_long_text_the_end_is_left_out_but_not_its_mark(file):
    short, long = ClipTokenizer(file, 5), ClipTokenizer(file, 16)
    text = "the x the y the z"
    assert short.encode([text])[0].tolist() == [*long.encode([text])[0, :4].tolist(), END]
    exact = "the x the"
    assert short.encode([exact])[0].tolist() == long.encode([exact])[0, :5].tolist()
    assert ClipTokenizer(file, 2).encode([exact])[0].tolist() == [START, END]


def test_words_are_letters_single_digits_and_runs_of_signs(file):
    tokenizer = ClipTokenizer(file, 64)

    def words(text: str) -> list[str]:
        return tokenizer.decode(tokenizer.encode([text]))[0].split(" ")

    assert words("We'll see, it's 42!? (yes)") == ["we", "'ll", "see", ",", "it", "'s", "4", "2", "!?", "(", "yes", ")"]
    assert words("a_b-c'd he'd") == ["a", "_", "b", "-", "c", "'d", "he", "'d"]
    assert words("naïveté 中文 ½ⅣⅣ 🎉🎉 हिन्दी") == [
        *("naïveté", "中文", "½", "ⅳ", "ⅳ", "🎉🎉"),
        *("ह", "ि", "न", "्", "द", "ी"),  # vowel signs are no letters
    ]


def test_marks_inside_a_text_are_marks(small):
    assert ids_of(small, "<|startoftext|>the") == [START, 612]
    assert small.encode(["x<|endoftext|>"])[0, 1:4].tolist() == [ord("x") - 33 + 256, END, END]


def test_one_text_alone_is_refused(small):
    with pytest.raises(TypeError, match=r"^encode: takes a sequence of texts, not a single one$"):
        small.encode("the")


def test_there_is_room_for_start_and_end(file):
    with pytest.raises(ValueError, match=r"^context_length 1: start and end take 2$"):
        ClipTokenizer(file, 1)


def test_many_words_do_not_fill_the_memory(file, monkeypatch):
    monkeypatch.setattr("vidgen.text._CACHED_WORDS", 3)
    tokenizer = ClipTokenizer(file, 16)
    expected = tokenizer.encode(["the a b c d e the"])
    assert len(tokenizer._words) <= 3
    assert torch.equal(tokenizer.encode(["the a b c d e the"]), expected)


def test_it_goes_to_the_processes_of_a_loader(small):
    assert torch.equal(pickle.loads(pickle.dumps(small)).encode(["the thing"]), small.encode(["the thing"]))


# Cleaning


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A  Dog\truns\n\nfast ", "a dog runs fast"),
        ("it&#39;s &amp; &amp;amp; more &lt;b&gt;", "it's & & more <b>"),
        ("<b>&amp;amp;</b>", "<b>&</b>"),
        ("it&rsquo;s", "it's"),
        ("<b>it&rsquo;s</b>", "<b>it’s</b>"),  # ftfy leaves the entities of what looks like HTML alone
        ("“Don’t” ‘stop’", "\"don't\" 'stop'"),
        ("ﬁne ﬂow Ǆ ŉ", "fine flow dž 'n"),
        ("ＦＵＬＬ　ｗｉｄｔｈ １２", "full width 12"),
        ("e\u0301 \u00c9", "é é"),
        ("a\x00b\x07c\ufeff d\u2028e", "abc d e"),
        ("straße ÉCOLE İ", "straße école i̇"),
        ("", ""),
    ],
)
def test_texts_are_cleaned(text, expected):
    assert clean(text) == expected


# Decoding


def test_decoding_gives_the_clean_text(small):
    texts = ["the thing", "", "naïveté 🎉 !", "a!b"]
    assert small.decode(small.encode(texts)) == ["the thing", "", "naïveté 🎉 !", "a ! b"]


def test_decoding_stops_at_the_end(small):
    the, a = 612, ord("a") - 33 + 256
    assert small.decode(torch.tensor([[START, the, END, a, a], [a, the, a, 0, 0]])) == ["the", "a the a"]


def test_the_sign_whose_id_is_the_paddings_is_kept_inside(small):
    assert small.decode(torch.tensor([[START, 0, 256, END, 0]])) == ["!!"]


def test_half_a_character_is_marked(small):
    first, _ = "é".encode()
    assert small.decode(torch.tensor([[symbols().index(chr(first)), 256]])) == ["\ufffd!"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (torch.tensor([1, 2]), "decode: takes integers (N, L), not torch.int64 (2,)"),
        (torch.zeros(1, 2), "decode: takes integers (N, L), not torch.float32 (1, 2)"),
        (torch.tensor([[5, 49408]]), "decode: ids are 0 to 49407, not 5 to 49408"),
        (torch.tensor([[-1, 7]]), "decode: ids are 0 to 49407, not -1 to 7"),
    ],
)
def test_what_are_no_ids_is_refused(small, ids, expected):
    with pytest.raises(ValueError) as caught:
        small.decode(ids)
    assert str(caught.value) == expected


# The file


def test_the_vocabulary_has_clips_size():
    assert (VOCABULARY, START, END) == (49_408, 49_406, 49_407)


def test_zipped_and_longer_files_are_read(file, tmp_path, small):
    longer = file.read_text(encoding="utf-8") + "x y\nwhatever follows is not used\n"
    (tmp_path / "longer.txt").write_text(longer, encoding="utf-8")
    (tmp_path / "zipped").write_bytes(gzip.compress(longer.encode()))
    (tmp_path / "dos.txt").write_bytes(longer.replace("\n", "\r\n").encode())
    for name in ("longer.txt", "zipped", "dos.txt"):
        assert torch.equal(ClipTokenizer(tmp_path / name, 16).encode(["the thing"]), small.encode(["the thing"]))


def test_a_users_home_is_found(file, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m.txt").write_bytes(file.read_bytes())
    assert ClipTokenizer("~/m.txt").context_length == 256


@pytest.mark.parametrize(
    ("line", "text", "expected"),
    [
        (0, "i n", "its first line does not name a version"),
        (3, "a b c", "line 4 is no pair of symbols: 'a b c'"),
        (3, "", "line 4 is no pair of symbols: ''"),
        (3, "a bc", "line 4 merges 'bc', which no line before makes"),
        (3, "ab c", "line 4 merges 'ab', which no line before makes"),
        (3, "i n", "line 4 makes 'in' again"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, line, text, expected):
    lines = lines_of(SMALL)
    lines[line] = text
    (tmp_path / "f").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        ClipTokenizer(tmp_path / "f")
    assert str(caught.value) == f"{tmp_path / 'f'}: is not CLIP's file of merges ({expected}); {WHERE}"


def test_a_file_that_lacks_one_merge_is_refused(tmp_path):
    (tmp_path / "f").write_text("\n".join(lines_of(SMALL)[:-1]), encoding="utf-8")
    with pytest.raises(UserError, match=f"it holds {NUMBER - 1} merges of {NUMBER}"):
        ClipTokenizer(tmp_path / "f")


def test_a_file_with_merges_of_another_kind_is_refused(tmp_path):
    write_merges(tmp_path / "f", {0: "i n"})  # GPT-2's file, say
    with pytest.raises(UserError, match=re.escape("(none of its merges ends a word with </w>)")):
        ClipTokenizer(tmp_path / "f")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "its first line does not name a version"),
        (b"#version: 0.2\ni n\nt h\n", f"it holds 2 merges of {NUMBER}"),
        (b"#version: 0.2\n\xff\xfe\n", "it is no text in UTF-8"),
    ],
)
def test_another_file_is_refused(tmp_path, content, expected):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(UserError) as caught:
        ClipTokenizer(tmp_path / "f")
    assert str(caught.value) == f"{tmp_path / 'f'}: is not CLIP's file of merges ({expected}); {WHERE}"


@pytest.mark.parametrize("damage", [lambda zipped: zipped[:-2000], lambda zipped: zipped[:100] + b"x" * 900])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, file, damage):
    (tmp_path / "f").write_bytes(damage(gzip.compress(file.read_bytes())))
    with pytest.raises(UserError) as caught:
        ClipTokenizer(tmp_path / "f")
    line = str(caught.value)
    assert re.fullmatch(rf".*/f: cannot be read \(.+\); CLIP's merges, {FILE.name}, are at {FILE.url}", line)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError) as caught:
        ClipTokenizer(tmp_path / "absent")
    where = f"CLIP's merges, {FILE.name}, are at {FILE.url}"
    assert str(caught.value) == f"{tmp_path / 'absent'}: no such file; {where}"
    with pytest.raises(UserError) as caught:
        ClipTokenizer(tmp_path)
    assert str(caught.value) == f"{tmp_path}: is a folder, not CLIP's file of merges, {FILE.name}"


# Where it is found


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VIDGEN_OFFLINE", "1")
    (tmp_path / "packages").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "packages"), *sys.path])
    return tmp_path


@pytest.mark.parametrize("package", ["open_clip", "clip"])
def test_an_installed_package_may_have_it(offline, package, file):
    folder = offline / "packages" / package
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    with pytest.raises(UserError, match="not in the cache"):  # a package may be without the file
        ClipTokenizer()
    (folder / FILE.name).write_bytes(gzip.compress(file.read_bytes()))
    assert find_merges() == folder / FILE.name
    assert ids_of(ClipTokenizer(), "the") == [612]


def test_without_it_one_line_tells_what_to_do(offline):
    with pytest.raises(UserError) as caught:
        ClipTokenizer()
    assert str(caught.value) == (
        f"{FILE.name}: not in the cache, and VIDGEN_OFFLINE is set; get {FILE.url} ({FILE.checksum}) and put it at "
        f"{offline / 'cache' / 'weights' / FILE.name}, or name it with --bpe FILE or data.texts.bpe=FILE"
    )


def test_the_cache_goes_before_a_package_and_is_checked(offline, file):
    (offline / "packages" / "clip").mkdir()
    (offline / "packages" / "clip" / FILE.name).write_bytes(gzip.compress(file.read_bytes()))
    (offline / "packages" / "clip" / "__init__.py").touch()
    cached = offline / "cache" / "weights" / FILE.name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"other")
    with pytest.raises(UserError) as caught:
        find_merges()
    assert str(caught.value) == f"{cached}: 5 bytes where {FILE.name} has 1356917; remove it"


def test_the_table_of_the_tests_is_one_of_clips():
    table = common_merges()
    assert all(table[rank].count(" ") == 1 for rank in table) and max(table) < NUMBER
    assert set(range(6000)) < set(table)
