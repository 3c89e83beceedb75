"""Where clips come from: how they are cut, read and made, and what they are known by."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.layouts import save_video
from tests.data.strips import make_strips, random_frames
from tests.evaluation.tiny import clips_of, videos
from tests.guessing_model import Guess
from tests.noise_model import SeededNoise
from vidgen.data.annotations import Labels
from vidgen.data.dataset import VideoDataset
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.moving_shapes import MovingShapes
from vidgen.data.spec import DataSpec
from vidgen.data.video_folder import VideoFolder
from vidgen.errors import UserError
from vidgen.evaluation.compression import compression, is_lossy
from vidgen.evaluation.identity import data_identity
from vidgen.evaluation.sources import Clip, ClipRule, ClipSource, GeneratedClips, StoredClips, Unusable
from vidgen.media import to_uint8

NONE = Labels("none")


def test_long_enough_videos_are_taken_in_an_order_of_the_seed():
    lengths = np.array([3, 20, 9, 16, 8, 40])
    rule = ClipRule(9)
    assert rule.span == 9
    assert sorted(rule.chosen(lengths).tolist()) == [1, 2, 3, 5]
    orders = {tuple(replace(rule, seed=seed).chosen(lengths)) for seed in range(8)}
    assert len(orders) > 3
    assert replace(rule, order="first").chosen(lengths).tolist() == [1, 2, 3, 5]
    assert replace(rule, num_frames=3, stride=8).chosen(lengths).tolist() != []
    assert sorted(replace(rule, num_frames=3, stride=8).chosen(lengths).tolist()) == [1, 5]


def test_all_videos_come_once_before_any_comes_twice():
    chosen = ClipRule(2, per_video=2).chosen(np.array([5, 5, 5]))
    assert sorted(chosen[:3].tolist()) == sorted(chosen[3:].tolist()) == [0, 1, 2]


def test_starts_are_drawn_over_the_whole_video_and_again_for_another_clip_of_it():
    rule = ClipRule(3, stride=2)
    starts = {rule.times(video, 9)[0] for video in range(100)}
    assert starts == {0, 1, 2, 3, 4}
    assert rule.times(7, 9) == rule.times(7, 9)
    assert any(rule.times(video, 9) != rule.times(video, 9, 1) for video in range(9))
    assert replace(rule, start="first").times(3, 9) == (0, 2, 4)
    assert rule.times(5, 5) == (0, 2, 4)


def test_dense_clips_begin_where_the_strided_ones_do():
    rule = ClipRule(3, stride=4)
    assert [rule.dense().times(v, 30)[::4] for v in range(9)] == [rule.times(v, 30) for v in range(9)]


def test_stored_clips_keep_their_size_or_are_brought_to_one(tmp_path):
    array = videos(1, frames=5, side=8)[0][:, :, :6]
    np.save(tmp_path / "a.npy", array)
    native = clips_of(tmp_path, ClipRule(5)).read([0])[0]
    assert isinstance(native, Clip)
    assert torch.equal(native.video, torch.from_numpy(array.transpose(3, 0, 1, 2).copy()))
    dataset = FrameStrips(str(make_strips(tmp_path / "strips", {"a.png": 5})), 4, 1, labels=NONE)
    resized = StoredClips(dataset, ClipRule(5), native=False, name="x").read([0])[0]
    assert isinstance(resized, Clip)
    assert resized.video.shape == (3, 5, 4, 4)
    assert sorted(resized.extras) == ["length", "times"]


def test_grey_videos_become_three_channels(tmp_path):
    np.save(tmp_path / "a.npy", videos(1, channels=1)[0])
    clip = clips_of(tmp_path, ClipRule(6)).read([0])[0]
    assert clip.video.shape == (3, 6, 8, 8)
    assert torch.equal(clip.video[0], clip.video[2])


def test_flips_are_not_drawn(tmp_path):
    root = str(make_strips(tmp_path, {f"{n}.png": 4 for n in range(8)}))
    plain, flipping = (FrameStrips(root, 8, 2, labels=NONE, flip=flip) for flip in (False, True))
    for one, other in zip(*(StoredClips(d, ClipRule(4), native=False, name="x").read(range(8)) for d in (plain, flipping)), strict=True):  # fmt: skip # noqa: E501
        assert torch.equal(one.video, other.video)


def test_a_video_that_cannot_be_read_says_why(tmp_path):
    make_strips(tmp_path, {"a.png": 4, "b.png": 4})
    dataset = FrameStrips(str(tmp_path), 8, 1, labels=NONE)
    content = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(content[: len(content) // 2])
    read = StoredClips(dataset, ClipRule(4, order="first"), native=True, name="x").read([0, 1])
    assert isinstance(read[0], Clip)
    assert isinstance(read[1], Unusable)
    assert (read[1].number, read[1].path, read[1].passing) == (1, str(tmp_path / "b.png"), False)
    assert read[1].reason


def identity(path: Path, rule: ClipRule = ClipRule(2), **settings: Any) -> str:  # noqa: B008 - frozen
    dataset = FrameStrips(str(path), settings.pop("resolution", 8), 1, labels=NONE, **settings)
    return json.dumps(StoredClips(dataset, rule, native=False, name="x").identity(), default=str)


def test_identity_stays_for_the_same_videos_however_they_are_named(tmp_path, monkeypatch):
    make_strips(tmp_path / "a", {"a.png": 4})
    monkeypatch.chdir(tmp_path)
    assert identity(tmp_path / "a") == identity(Path("a")) == identity(tmp_path / "a")


def test_identity_changes_with_anything_that_changes_pixels(tmp_path):
    path = make_strips(tmp_path / "a", {"a.png": 4, "b.png": 4}) / "a.png"
    known = {identity(tmp_path / "a")}
    for rule in (
        ClipRule(3),
        ClipRule(2, 2),
        ClipRule(2, seed=1),
        ClipRule(2, order="first"),
        ClipRule(2, start="first"),
    ):
        known.add(identity(tmp_path / "a", rule))
    for settings in ({"resolution": 4}, {"channels": 1}, {"resize": "stretch"}, {"interpolation": "box"}, {"width": 6}):
        known.add(identity(tmp_path / "a", **settings))
    known.add(identity(tmp_path / "a", frame_step=4))
    assert len(known) == 12
    status = path.stat()
    changed = bytearray(path.read_bytes())
    path.write_bytes(bytes(changed))  # same content and size at another time
    known.add(identity(tmp_path / "a"))
    assert len(known) == 13
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # an archive would set the time back
    known.add(identity(tmp_path / "a"))
    assert len(known) == 14
    make_strips(tmp_path / "a", {"c.png": 4})
    assert identity(tmp_path / "a") not in known


def test_equal_names_sizes_and_times_elsewhere_are_other_videos(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "x.npy", videos(1, seed=ord(folder)))
        os.utime(tmp_path / folder / "x.npy", (0, 0))

    def differ() -> bool:
        keys = [json.dumps(clips_of(tmp_path / folder, ClipRule(2)).identity()) for folder in ("a", "b")]
        return keys[0] != keys[1]

    assert differ()
    # Also where a file system tells times so coarsely that they are the same.
    monkeypatch.setattr(
        "vidgen.evaluation.identity._state", lambda path: str(path) if path.is_dir() else f"{path.name} 1"
    )
    assert differ()


def test_data_sets_that_make_their_videos_are_known_by_what_they_hold():
    make = [MovingShapes(resolution=16, num_frames=4, num_videos=n) for n in (4, 4, 5)]
    assert data_identity(make[0]) == data_identity(make[1]) != data_identity(make[2])


class Foreign(VideoDataset):
    """A data set of which nothing is known."""

    def read(self, request: Any) -> Any:
        """Nothing."""
        raise NotImplementedError


def test_of_foreign_data_sets_nothing_is_kept():
    dataset = Foreign(DataSpec(3, 8, 2, None, 1, 5, 5), [5])
    assert data_identity(dataset) != data_identity(dataset)


@pytest.mark.parametrize(
    ("kind", "lossy"),
    [
        ("h264", True), ("gif", True), ("jpg", True), ("jpeg, png", True), ("webp", True), ("mjpeg", True),
        (None, False), ("ffv1", False), ("png", False), ("bmp, tif", False), ("rawvideo", False),
    ],
)  # fmt: skip
def test_which_compressions_lose_something(kind, lossy):
    assert is_lossy(kind) == lossy


def test_compression_is_that_of_the_files(tmp_path):
    save_video(tmp_path / "videos" / "a.mkv", random_frames(4, 16))
    strips = FrameStrips(str(make_strips(tmp_path / "strips", {"a.PNG": 4, "b.jpg": 4})), 8, 1, labels=NONE)
    np.save(tmp_path / "a.npy", videos(1)[0])
    assert compression(VideoFolder(str(tmp_path / "videos"), 8, 1, labels=NONE)) == "ffv1"
    assert compression(strips) == "png"  # whatever the endings say
    with Image.open(tmp_path / "strips" / "b.jpg") as image:
        image.convert("RGB").save(tmp_path / "strips" / "b.jpg", format="JPEG")
    assert compression(strips) == "jpg, png"
    assert compression(clips_of(tmp_path / "a.npy", ClipRule(2)).dataset) is None


def test_a_pack_is_compressed_as_what_it_was_made_from(tmp_path):
    from vidgen.data.packed import Packed
    from vidgen.data.packing import pack

    for suffix in ("png", "jpg"):
        root = make_strips(tmp_path / suffix, {f"a.{suffix}": 4})
        settings = {"name": "frame_strips", "root": str(root)}
        pack(FrameStrips(str(root), 8, 1, labels=NONE), settings, tmp_path / f"pack_{suffix}", quiet=True)
        dataset = Packed(str(tmp_path / f"pack_{suffix}"), 8, 1)
        assert compression(dataset) == suffix
        assert is_lossy(compression(dataset)) == (suffix == "jpg")


def model(**settings: Any) -> SeededNoise:
    return SeededNoise(**settings).eval()


def numbers_of(read: list[Any]) -> list[int]:
    return [clip.number for clip in read]


def test_generated_clips_are_the_models_videos():
    clips = GeneratedClips(model(), 5, ClipRule(2, stride=2), seed=3, rounding="truncate", keywords={"label": 2})
    read = clips.read(range(1, 4))
    expected = to_uint8(model().sample(5, num_frames=3, seed=3, label=2), "truncate")[1:4, :, ::2]
    assert numbers_of(read) == [1, 2, 3]
    assert torch.equal(torch.stack([clip.video for clip in read]), expected)
    assert len(clips) == 5


def test_identity_of_generated_clips_changes_with_anything_that_changes_pixels():
    def key(made: SeededNoise | None = None, rule: ClipRule = ClipRule(2), **settings: Any) -> str:  # noqa: B008
        return json.dumps(GeneratedClips(made or model(), 5, rule, **settings).identity(), sort_keys=True)

    shifted = model()
    with torch.no_grad():
        shifted.shift += 1
    others = [key(shifted), key(rule=ClipRule(3)), key(rule=ClipRule(2, 2)), key(seed=1), key(rounding="truncate"),
              key(keywords={"label": 1}), key(about={"weights": "raw"}), key(fingerprint="x")]  # fmt: skip
    assert key() == key()
    assert len({key(), *others}) == 9


class Continues(SeededNoise):
    """Predicts the given video, brightened, and says what it was given."""

    given: list[torch.Tensor]

    def sample(self, num_videos: int, *, num_frames: int | None = None, seed: int = 0, first: int = 0, batch: Any = None) -> Any:  # type: ignore[override]  # fmt: skip # noqa: E501
        """Brighten."""
        self.__dict__.setdefault("given", []).append(batch["video"])
        self.calls.append((first, num_videos))
        assert batch["video"].shape[:3] == (num_videos, 3, num_frames)
        return batch["video"] + 0.1


def test_videos_are_made_for_real_ones(tmp_path):
    np.save(tmp_path / "a.npy", videos(5, frames=9))
    condition = clips_of(tmp_path / "a.npy", ClipRule(3, 4))
    clips = GeneratedClips(Continues(context="video"), 8, ClipRule(3, 4), condition=condition)
    assert len(clips) == 5
    read = clips.read(range(5))
    real = condition.read(range(5))
    for made, given in zip(read, real, strict=True):
        difference = made.video.int() - given.video.int()
        assert made.video.shape == (3, 3, 8, 8)
        assert (difference[given.video < 240] - 13).abs().max() <= 1
    assert clips.model.given[0].shape == (5, 3, 9, 8, 8)  # all frames, though every fourth is looked at
    assert (clips.model.given[0].min() >= -1) & (clips.model.given[0].max() <= 1)


def test_real_videos_that_cannot_be_read_cost_only_what_is_made_for_them(tmp_path):
    np.save(tmp_path / "a.npy", videos(5))
    condition = clips_of(tmp_path / "a.npy", ClipRule(6))

    class Holes(StoredClips):
        def read(self, numbers: Any) -> Any:
            return [Unusable(c.number, "a", "torn") if c.number == 2 else c for c in super().read(numbers)]

    holes = Holes(condition.dataset, ClipRule(6), native=True, name="x")
    model = Continues(context="video")
    read = GeneratedClips(model, 5, ClipRule(6), condition=holes).read(range(5))
    assert model.calls == [(0, 2), (3, 2)]  # the numbers of the others stay what they are
    assert sorted(numbers_of(read)) == [0, 1, 2, 3, 4]
    assert [item.number for item in read if isinstance(item, Unusable)] == [2]
    whole = GeneratedClips(Continues(context="video"), 5, ClipRule(6), condition=condition).read(range(5))
    by_number = {clip.number: clip for clip in read}
    assert all(torch.equal(by_number[n].video, whole[n].video) for n in (0, 1, 3, 4))


def test_draws_differ_and_the_first_is_the_source_itself():
    clips = GeneratedClips(model(), 3, ClipRule(3), seed=4)
    draws = [clips.draw(which).read([0])[0].video for which in range(3)]
    assert torch.equal(draws[0], clips.read([0])[0].video)
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[1], draws[2])
    assert len({json.dumps(clips.draw(which).identity(), sort_keys=True) for which in range(3)}) == 3


# --- models whose videos depend on each other ---

FIRST = ClipRule(6, order="first", start="first")


@pytest.fixture
def condition(tmp_path: Path) -> StoredClips:
    """Seven videos."""
    np.save(tmp_path / "a.npy", videos(7, frames=9))
    return clips_of(tmp_path / "a.npy", FIRST)


def guesses(condition: ClipSource, num: int = 7, **settings: Any) -> GeneratedClips:
    return GeneratedClips(Guess(group=3).eval(), num, FIRST, condition=condition, **settings)


def group_by_hand(condition: ClipSource, rows: list[int], first: int, seed: int = 0) -> torch.Tensor:
    given = torch.stack([clip.video for clip in condition.read(rows)])
    with torch.no_grad():
        made = Guess(group=3).sample(len(rows), seed=seed, first=first, batch={"video": given.float() / 127.5 - 1})
    return to_uint8(made)


def pixels(read: list[Any]) -> torch.Tensor:
    return torch.stack([clip.video for clip in read])


def test_groups_are_of_all_conditions_and_the_last_is_filled_up(condition):
    clips = guesses(condition)
    wanted = [group_by_hand(condition, [0, 1, 2], 0), group_by_hand(condition, [3, 4, 5], 3),
              group_by_hand(condition, [6, 0, 1], 6)[:1]]  # fmt: skip
    read = clips.read(range(7))
    assert numbers_of(read) == list(range(7))
    assert torch.equal(pixels(read), torch.cat(wanted))
    assert clips.model.calls == [(0, 3, 0), (3, 3, 0), (6, 3, 0)]
    assert not torch.equal(wanted[2], group_by_hand(condition, [6], 6))


@pytest.mark.parametrize("asked", [[[0]], [[4]], [[6]], [[2, 3]], [[5, 1]], [[0, 1], [2, 3], [4, 5], [6]], [[6], [0]]])
def test_a_video_is_the_same_whatever_is_asked_with_it(condition, asked):
    whole = pixels(guesses(condition).read(range(7)))
    clips = guesses(condition)
    for numbers in asked:
        read = clips.read(numbers)
        assert numbers_of(read) == numbers
        assert torch.equal(pixels(read), whole[numbers])
    fewer = guesses(condition, num=max(map(max, asked)) + 1)
    assert torch.equal(pixels(fewer.read(asked[-1])), whole[asked[-1]])


def test_a_group_is_not_made_again_for_the_rest_of_it(condition):
    clips = guesses(condition)
    for block in ([0, 1], [2, 3], [4], [5], [6]):
        clips.read(block)
    assert [call[0] for call in clips.model.calls] == [0, 3, 6]
    clips.read([0])
    assert [call[0] for call in clips.model.calls] == [0, 3, 6, 0]  # one is kept, not all


def test_draws_keep_groups_of_their_own(condition):
    clips = guesses(condition, seed=4)
    draws = [clips.draw(which) for which in range(3)]
    for block in ([0, 1], [2], [3, 4], [5]):
        for which, draw in enumerate(draws):
            first = block[0] // 3 * 3
            wanted = group_by_hand(condition, [first, first + 1, first + 2], first, draws[which].seed)
            assert torch.equal(pixels(draw.read(block)), wanted[[number - first for number in block]])
    assert len(clips.model.calls) == 2 * 3
    assert len({draw.seed for draw in draws}) == 3 and draws[0].seed == 4


def test_what_is_kept_has_a_limit(condition, monkeypatch):
    one = 3 * 3 * 6 * 8 * 8
    monkeypatch.setattr("vidgen.evaluation.sources.KEPT_BYTES", 2 * one)
    clips = guesses(condition)
    draws = [clips.draw(which) for which in range(3)]
    for block in ([0], [1], [2]):
        for draw in draws:
            draw.read(block)
    seeds = [seed for _, _, seed in clips.model.calls]
    assert [seeds.count(draw.seed) for draw in draws] == [1, 1, 3]
    monkeypatch.setattr("vidgen.evaluation.sources.KEPT_BYTES", one - 1)
    alone = guesses(condition)
    for block in ([0], [1], [2]):
        alone.read(block)
    assert len(alone.model.calls) == 1  # too large, but the only one


class Torn(ClipSource):
    """Clips some of which cannot be had."""

    def __init__(self, source: StoredClips, lost: set[int], passing: bool = False) -> None:
        self.source, self.lost, self.passing, self.clips = source, lost, passing, source.clips

    def __len__(self) -> int:
        return len(self.source)

    def read(self, numbers: Any) -> Any:
        """Those that can be had."""
        read = self.source.read(numbers)
        return [Unusable(c.number, "a", "torn", self.passing) if c.number in self.lost else c for c in read]

    def identity(self) -> dict[str, Any]:
        """That of the clips."""
        return self.source.identity()

    def describe(self) -> dict[str, Any]:
        """Those of the clips."""
        return self.source.describe()


def test_others_of_the_group_take_the_place_of_what_cannot_be_read(condition):
    clips = guesses(Torn(condition, {0, 4}))
    read = clips.read(range(7))
    assert numbers_of(read) == list(range(7))
    assert [item.number for item in read if isinstance(item, Unusable)] == [0, 4]
    whole = group_by_hand(condition, [1, 1, 2], 0), group_by_hand(condition, [3, 3, 5], 3)
    assert torch.equal(pixels([read[1], read[2]]), whole[0][1:])
    assert torch.equal(pixels([read[3], read[5]]), whole[1][[0, 2]])
    assert torch.equal(read[6].video, group_by_hand(condition, [6, 6, 1], 6)[0])  # a filler is replaced too
    lost = guesses(Torn(condition, {0, 1, 2})).read(range(3))
    assert lost == [Unusable(number, "a", "torn") for number in range(3)]


def test_a_group_waits_for_what_can_be_read_next_time(condition):
    clips = guesses(Torn(condition, {4}, passing=True))
    read = clips.read(range(2, 7))
    assert [item.number for item in read if isinstance(item, Clip)] == [2, 6]
    assert read[1:4] == [Unusable(number, "a", "torn", True) for number in (3, 4, 5)]


def test_what_decides_groups_is_part_of_the_identity(condition, tmp_path):
    def key(size: int, given: ClipSource, num: int = 3) -> str:
        clips = GeneratedClips(Guess(group=size).eval(), num, FIRST, condition=given, fingerprint="x")
        return json.dumps(clips.identity(), sort_keys=True)

    fewer = clips_of(tmp_path / "a.npy", FIRST, limit=4)
    assert len({key(1, condition), key(2, condition), key(3, condition), key(3, fewer)}) == 4
    assert key(1, condition) == key(1, fewer)
    assert key(3, condition, num=2) == key(3, condition)
    assert "group" not in json.loads(key(1, condition))


def test_keywords_may_take_groups_apart(condition):
    clips = guesses(condition, keywords={"apart": True})
    read = clips.read([0, 1, 4])
    assert clips.model.calls == [(0, 2, 0), (4, 1, 0)]
    single = GeneratedClips(Guess().eval(), 7, FIRST, condition=condition)
    assert torch.equal(pixels(read), pixels(single.read([0, 1, 4])))
    assert "group" not in clips.identity()


def test_groups_without_conditions():
    clips = GeneratedClips(Guess(group=3, optional=True).eval(), 4, ClipRule(6))
    read = clips.read([3, 1])
    assert numbers_of(read) == [3, 1] and clips.model.calls == [(0, 3, 0), (3, 3, 0)]


@pytest.mark.parametrize(("keywords", "read"), [({}, False), ({"observed": 0}, False), ({"observed": 3}, True)])
def test_keywords_say_whether_videos_are_made_for_real_ones(condition, keywords, read):
    model = Guess(optional=True).eval()
    clips = GeneratedClips(model, 9, FIRST, condition=condition, keywords=keywords)
    assert (clips.condition is not None) == read
    assert len(clips) == (7 if read else 9)
    made = clips.read([1])[0].video
    if read:
        assert torch.equal(made[:, :3], condition.read([1])[0].video[:, :3])
        with pytest.raises(UserError) as error:
            GeneratedClips(model, 9, FIRST, keywords=keywords)
        assert str(error.value) == "guess samples from given video; give --real"


def test_models_that_cannot_do_what_is_asked_say_so(tmp_path):
    np.save(tmp_path / "a.npy", videos(2))
    condition = clips_of(tmp_path / "a.npy", ClipRule(6))

    class Short(SeededNoise):
        def sample(self, num_videos: int, **_: Any) -> torch.Tensor:  # type: ignore[override]
            return torch.zeros(num_videos, 3, 4, 8, 8)

    def message(action: Any) -> str:
        with pytest.raises(UserError) as error:
            action()
        return str(error.value)

    needs = SeededNoise(context="video")
    assert (
        message(lambda: GeneratedClips(needs, 2, ClipRule(3))) == "seeded_noise samples from given video; give --real"
    )
    labels = GeneratedClips(SeededNoise(context="label"), 2, ClipRule(3), condition=condition)
    assert message(lambda: labels.read([0])) == (
        "--real: its videos have no 'label', which seeded_noise samples from; give a config that has it"
    )
    poisoned = GeneratedClips(SeededNoise(poisoned=1), 3, ClipRule(3), about={"path": "x.ckpt"})
    assert (
        message(lambda: poisoned.read([0, 1])) == "x.ckpt: makes videos with NaN or infinity; its weights are unusable"
    )
    assert message(lambda: GeneratedClips(Short(), 2, ClipRule(6)).read([0])) == (
        "Short: makes 4 frames where clips need 6; set --num-frames and --stride to what it makes"
    )
    (tmp_path / "b").mkdir()
    for number in range(2):
        np.save(tmp_path / "b" / f"{number}.npy", videos(1, side=8 + number)[0])
    mixed = clips_of(tmp_path / "b", ClipRule(6))
    assert message(
        lambda: GeneratedClips(Continues(context="video"), 2, ClipRule(6), condition=mixed).read([0, 1])
    ) == ("--real: its videos are of different sizes, and the model needs one; give --resolution")


def test_descriptions_are_plain(tmp_path):
    np.save(tmp_path / "a.npy", videos(2))
    stored = clips_of(tmp_path / "a.npy", ClipRule(6)).describe()
    assert json.loads(json.dumps(stored)) == {
        "source": "arrays",
        "path": str(tmp_path / "a.npy"),
        "num_videos": 2,
        "fps": None,
        "compression": None,
        "lossy": False,
        "resize": "none",
        "clips": asdict(ClipRule(6)),
    }
    about = {"path": "x.ckpt", "checkpoint": "cafe", "iteration": 3, "weights": "ema"}
    made = GeneratedClips(model(), 2, ClipRule(3), seed=5, about=about, fingerprint="beef").describe()
    assert json.loads(json.dumps(made)) == {
        "source": "checkpoint",
        **about,
        "model": "seeded_noise",
        "model_fingerprint": "beef",
        "seed": 5,
        "rounding": "round",
        "keywords": {},
        "fps": None,
        "compression": None,
        "lossy": False,
        "clips": asdict(ClipRule(3, order="first", start="first", seed=5)),
        "condition": None,
    }


def test_stylegan_v_leaves_out_what_has_not_all_strides() -> None:
    rule = ClipRule(16, stride=8, order="first", whole_strides=True)
    assert rule.span == 121 and rule.least_length == 128
    assert rule.chosen(np.array([121, 127, 128, 400])).tolist() == [2, 3]
    assert {rule.times(0, 128)[0] for _ in range(3)} <= set(range(8))
    assert ClipRule(16, stride=8).chosen(np.array([120, 121])).tolist() in ([1],)
