"""Encoding a data set once: the codes of whole videos, the same bytes however often it was stopped, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import resource
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.strips import make_strips
from tests.data.test_packing import contents, killed, message
from tests.data.test_packing import kill_myself as end
from tests.encoding_models import CODES, HALO, STRIDE, tokens_of
from vidgen.data import pack_files
from vidgen.data.dataset import UnreadableVideo, VideoDataset
from vidgen.data.encoded import Encoded
from vidgen.data.encoding import Encoder, Encoding, clips_of, encode, whole_videos
from vidgen.data.frame_strips import FrameStrips
from vidgen.data.packing import PackReport, merge, pack
from vidgen.data.request import ClipRequest
from vidgen.data.spec import DataSpec
from vidgen.errors import UserError
from vidgen.models.tats.vqgan import TATSVQGAN

LENGTHS = (30, 2, 41, 1, 17, 5)
SETTINGS = {"name": "levels", "resolution": 8}
ENCODING = Encoding("tokens", STRIDE, HALO, CODES, fingerprint="network")
ENCODER = Encoder(tokens_of, ENCODING, "tiny", "f" * 64, "ema", 4)


def nothing(video: int, times: Sequence[int]) -> None:
    """What a data set does before it gives frames."""


class Levels(VideoDataset):
    """Noise that is a function of video and time; ``before`` is called ahead of each reading."""

    def __init__(
        self,
        lengths: Sequence[int] = LENGTHS,
        before: Callable[[int, Sequence[int]], None] = nothing,
        stride: int = 1,
        size: int = 8,
    ) -> None:
        spec = DataSpec(3, size, 2, None, len(lengths), min(lengths), max(lengths), class_names=("even", "odd"))
        super().__init__(spec, lengths, [number % 2 for number in range(len(lengths))], stride=stride)
        self.before = before
        self.asked: list[tuple[int, Sequence[int]]] = []

    def read(self, request: ClipRequest) -> dict[str, Tensor]:
        self.asked.append((request.video, request.times))
        self.before(request.video, request.times)
        assert request.seed is None
        levels = [
            np.random.default_rng((request.video, time)).integers(256, size=(3, self.spec.resolution, 8))
            for time in request.times
        ]
        return {"video": torch.tensor(np.stack(levels, 1) / 127.5 - 1).float(), **self.describe_clip(request)}

    def whole(self, video: int, stride: int = STRIDE) -> Tensor:
        """All frames that make whole steps, ``(1, C, T, H, W)``."""
        times = tuple(range(0, int(self.lengths[video]), self.stride))
        return self.read(ClipRequest(video, times[: len(times) // stride * stride], 8))["video"][None]


def made(out: Path, dataset: VideoDataset | None = None, encoder: Encoder = ENCODER, **arguments: Any) -> PackReport:
    settings = {"shard_bytes": 100, "quiet": True, "window": 8, "batch_size": 3, **arguments}
    return encode(dataset or Levels(), SETTINGS, out, encoder, **settings)


def codes(out: Path, video: int, key: str = "tokens") -> Tensor:
    """Everything that is stored of a video."""
    data = Encoded(str(out), STRIDE, verify=True)
    return data.read(ClipRequest(video, tuple(range(0, int(data.lengths[video]), STRIDE)), 8))[key]


@pytest.fixture(autouse=True)
def few_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the size of a shard alone makes."""
    monkeypatch.setattr(pack_files, "FEWEST_SHARDS", 1)


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    """The files of a run that was never stopped."""
    made(tmp_path / "whole")
    return contents(tmp_path / "whole")


@pytest.mark.parametrize("window", [2, 4, 6, 16, 40, 100])
@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_windows_of_any_size_give_the_codes_of_the_whole_video(tmp_path, window, batch_size):
    report = made(tmp_path / "codes", window=window, batch_size=batch_size)
    assert (report.num_videos, report.num_frames) == (5, 15 + 1 + 20 + 8 + 2)
    for number, video in enumerate((0, 1, 2, 4, 5)):
        assert torch.equal(codes(tmp_path / "codes", number), tokens_of(Levels().whole(video))[0])


def test_a_halo_that_is_too_small_would_be_seen(tmp_path):
    made(tmp_path / "codes", encoder=replace(ENCODER, encoding=replace(ENCODING, halo=2)))
    assert not torch.equal(codes(tmp_path / "codes", 0), tokens_of(Levels().whole(0))[0])


def test_the_tokens_of_a_vqgan_are_those_of_whole_videos(tmp_path):
    """With its real reach, at the strides and the norm that it is published with."""
    torch.manual_seed(1)
    shape = {"resolution": 8, "n_hiddens": 2, "downsample": (4, 4, 4), "embedding_dim": 3, "n_codes": 100}
    model = TATSVQGAN(num_frames=8, disc_channels=2, perceptual_weight=0.0, **shape).eval()
    codebook = model.autoencoder.codebook
    latents = model.autoencoder.latents(torch.rand(4, 3, 40, 8, 8) - 0.5).detach()
    codebook.embeddings.copy_(latents.movedim(1, -1).flatten(0, -2)[: codebook.n_codes])
    encoder = Encoder(model.encode, model.encoding, "tats_vqgan", "0" * 64, "raw", 8)
    made(tmp_path / "codes", Levels((150, 37)), encoder, window=16, batch_size=2)
    data = Encoded(str(tmp_path / "codes"), 4)
    for video in (0, 1):
        found = data.read(ClipRequest(video, tuple(range(0, int(data.lengths[video]), 4)), 8))["tokens"]
        expected = model.encode(Levels((150, 37)).whole(video, 4))[0]
        assert found.shape == expected.shape and len(expected.unique()) > 10
        assert (found != expected).float().mean() < 0.01  # rounding may decide between two codes


def test_every_frame_is_read_once_and_few_at_a_time(tmp_path):
    dataset = Levels((500, 3))
    seen: list[int] = []

    def watch(video: Tensor) -> Tensor:
        seen.append(video.shape[0] * video.shape[2])
        return tokens_of(video)

    made(tmp_path / "codes", dataset, replace(ENCODER, encode=watch), window=10)
    assert [time for video, times in dataset.asked for time in times if video == 0] == list(range(500))
    assert max(len(times) for _, times in dataset.asked) == 10 + HALO
    assert max(seen) == 3 * (10 + 2 * HALO) and len(seen) < 30


def test_short_videos_are_encoded_together(tmp_path):
    sizes: list[tuple[int, ...]] = []

    def watch(video: Tensor) -> Tensor:
        sizes.append(tuple(video.shape))
        return tokens_of(video)

    dataset = Levels((6, 4) * 4)
    made(tmp_path / "codes", dataset, replace(ENCODER, encode=watch), batch_size=4, shard_bytes=2**20)
    assert sizes[1:] == [(4, 3, 6, 8, 8), (4, 3, 4, 8, 8)]  # after the grey clip that tells the shape of a step
    for video in range(8):
        assert torch.equal(codes(tmp_path / "codes", video), tokens_of(dataset.whole(video))[0])


def test_a_window_of_rare_size_does_not_wait_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr("vidgen.data.encoding.AHEAD", 2)
    held = []
    dataset = Levels((6, *(4,) * 40))

    def watch(video: Tensor) -> Tensor:
        held.append((video.shape[2], len({number for number, _ in dataset.asked})))
        return tokens_of(video)

    made(tmp_path / "codes", dataset, replace(ENCODER, encode=watch), batch_size=2, shard_bytes=2**20)
    assert next(read for frames, read in held if frames == 6) <= 10
    assert torch.equal(codes(tmp_path / "codes", 0), tokens_of(dataset.whole(0))[0])


def test_the_report_says_what_was_left_out(tmp_path):
    report = made(tmp_path / "codes")
    assert str(report) == (
        f"{tmp_path}/codes: 5 videos, 46 steps of 2 frames, 0.00 GB\n"
        "left out 3 frames at the ends of 3 videos, which fill no step of 2\n"
        "left out 1 video of fewer than 2 frames\n"
        f"train from it with data='{{name: encoded, root: {tmp_path}/codes, ...}}'"
    )


def test_the_manifest_says_what_encoded_what(tmp_path):
    settings = {**SETTINGS, "root": "videos", "flip": True, "texts": {"file": Path("a.csv"), "bpe": None}}
    report = encode(Levels((4,)), settings, tmp_path / "codes", ENCODER, quiet=True)
    assert str(report).splitlines()[1] == "data.flip is passed over: videos are encoded as they are stored"
    about = json.loads((tmp_path / "codes" / "pack.json").read_text())["encoding"]
    assert about.pop("source")["data"] == {
        "name": "levels",
        "resolution": 8,
        "root": f"{os.getcwd()}/videos",
        "flip": True,
        "texts": {"file": f"{os.getcwd()}/a.csv", "bpe": None},
    }
    assert about == {
        "model": "tiny",
        "fingerprint": "f" * 64,
        "weights": "ema",
        "network": "network",
        "key": "tokens",
        "dtype": "int16",
        "stride": 2,
        "num_codes": CODES,
        "shape": [2, 2],
        "frame_stride": 1,
        "every": None,
        "clip_frames": None,
        "version": "0.1.0",
        "notices": ["data.flip is passed over: videos are encoded as they are stored"],
    }


def test_a_stride_of_the_data_set_is_kept(tmp_path):
    dataset = Levels((21, 3), stride=4)
    made(tmp_path / "codes", dataset)
    data = Encoded(str(tmp_path / "codes"), 2)
    assert data.lengths.tolist() == [6]  # frames 0, 4, ..., 20
    assert torch.equal(codes(tmp_path / "codes", 0), tokens_of(dataset.whole(0))[0])
    sample = data.read(ClipRequest(0, (2, 4), 8))
    assert sample["times"].tolist() == [8, 16] and sample["length"] == 24


def test_clips_are_encoded_each_by_itself(tmp_path):
    dataset = Levels((11, 3, 4))
    report = made(tmp_path / "codes", dataset, window=None, every=3)
    assert str(report).splitlines()[:3] == [
        f"{tmp_path}/codes: 4 videos, 8 steps of 2 frames, 0.00 GB",
        "clips of 4 frames, one every 3 frames",
        "left out 1 video of fewer than 4 frames",
    ]
    data = Encoded(str(tmp_path / "codes"), 4)
    assert list(data.names) == ["00000000#000000", "00000000#000003", "00000000#000006", "00000002#000000"]
    assert data.labels is not None and data.labels.tolist() == [0, 0, 0, 0]
    for number, (video, start) in enumerate(((0, 0), (0, 3), (0, 6), (2, 0))):
        clip = dataset.read(ClipRequest(video, tuple(range(start, start + 4)), 8))["video"]
        sample = data.read(ClipRequest(number, data.clip_times(number, 7), 8))
        assert torch.equal(sample["tokens"], tokens_of(clip[None])[0])
        assert sample["times"].tolist() == [start, start + 2]


def test_clips_begin_where_they_fit():
    items = clips_of(Levels((9, 10, 6, 7), stride=2), 4, 3)
    assert list(zip(items.videos.tolist(), items.starts.tolist(), strict=True)) == [(0, 0), (1, 0), (1, 3), (3, 0)]
    assert items.frames.tolist() == [4] * 4
    assert message(lambda: clips_of(Levels((6, 3)), 7, 1)) == "--clips: none of the 2 videos has the 7 frames of a clip"
    assert message(lambda: whole_videos(Levels((1, 1)), 2)) == (
        "none of the 2 videos has 2 frames, which make one step"
    )


@pytest.mark.parametrize("video", [0, 1, 2, 4, 5])
def test_a_process_killed_at_any_video_is_taken_up_again(tmp_path, whole, video):
    out = tmp_path / "codes"
    assert killed(lambda: made(out, Levels(before=lambda reached, _: end() if reached == video else None)))
    found = {name: data for name, data in contents(out).items() if not name.startswith(".")}
    assert all(whole[name] == data for name, data in found.items()) and "pack.json" not in found
    made(out)
    assert contents(out) == whole


def test_shards_that_are_there_are_not_made_again(tmp_path, whole):
    os.remove(tmp_path / "whole" / "shard-00001.bin")
    dataset = Levels()
    made(tmp_path / "whole", dataset)
    assert {video for video, _ in dataset.asked} == {1} and contents(tmp_path / "whole") == whole


def test_other_windows_and_batches_may_go_on_with_it(tmp_path, whole):
    """They do not change the codes of this encoder at all, and of others by rounding."""
    out = tmp_path / "codes"
    assert killed(lambda: made(out, Levels(before=lambda reached, _: end() if reached == 4 else None)))
    made(out, window=30, batch_size=1)
    assert contents(out) == whole


def test_shares_are_made_apart_and_merged(tmp_path, whole):
    first = made(tmp_path / "a", part=(0, 2))
    assert first.missing and str(first).splitlines()[3] == (
        f"shards still to be made: {len(first.missing)}; the last `vidgen data encode` joins them, or"
        f" `vidgen data merge {tmp_path}/a`"
    )
    assert message(lambda: merge([tmp_path / "a"], tmp_path / "a")).endswith("run their `vidgen data encode` first")
    assert message(lambda: Encoded(str(tmp_path / "a"), 2)) == (
        f"data.root '{tmp_path}/a' is not finished; run its `vidgen data encode` again, or `vidgen data merge`"
    )
    made(tmp_path / "b", part=(1, 2))
    assert str(merge([tmp_path / "a", tmp_path / "b"], tmp_path / "codes")).endswith("...}'")
    assert contents(tmp_path / "codes") == whole


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, whole, monkeypatch):
    out, real = tmp_path / "codes", os.fsync
    synced: list[int] = []

    def fsync(file: int) -> None:
        synced.append(file)
        if len(synced) == 4:  # after the plan and the two files of the first shard
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    assert message(lambda: made(out)) == (
        f"{out}/shard-00001.bin: no space left on the disk; free some, what was written before is intact"
    )
    assert sorted(os.listdir(out)) == ["plan.json", "shard-00000.bin", "shard-00000.npz"]
    made(out)
    assert contents(out) == whole


def test_no_thread_goes_on_reading_after_an_error(tmp_path, monkeypatch):
    synced: list[int] = []

    def fsync(file: int) -> None:
        synced.append(file)
        if len(synced) > 1:  # after the plan
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError) as caught:  # whose traceback keeps alive what was at work
        made(tmp_path / "codes", Levels((40, 40, 40)), window=4, batch_size=1)
    assert caught.tb is not None and len(synced) > 1
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("vidgen-reading")]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    child = os.fork()
    if not child:
        torch.set_num_threads(1)  # the threads of this process are not there, and would be waited for
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))
            made(tmp_path / "codes", Levels((2, 4000)), window=400)
        except UserError as error:
            expected = f"{tmp_path}/codes/shard-00001.bin: cannot be written (File too large); choose another place"
            status = 0 if str(error) == expected else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def unreadable(*videos: int, after: int = 0, passing: bool = False) -> Callable[[int, Sequence[int]], None]:
    """Some videos cannot be read, from a frame on."""

    def check(video: int, times: Sequence[int]) -> None:
        if video in videos and times[-1] >= after:
            raise UnreadableVideo(f"videos/{video}", "cut off", passing)

    return check


@pytest.mark.parametrize("after", [0, 25])
def test_a_damaged_video_is_left_out_and_listed(tmp_path, after):
    report = made(tmp_path / "codes", Levels(before=unreadable(0, 2, after=after)))
    assert report.skipped == {"00000000": "cut off", "00000002": "cut off"} and report.num_videos == 3
    assert "skipped 00000002: cut off" in str(report).splitlines()
    data = Encoded(str(tmp_path / "codes"), 2, verify=True)
    assert list(data.names) == ["00000001", "00000004", "00000005"] and data.lengths.tolist() == [2, 16, 4]
    for number, video in enumerate((1, 4, 5)):
        assert torch.equal(codes(tmp_path / "codes", number), tokens_of(Levels().whole(video))[0])


def test_a_video_that_is_gone_for_now_and_a_disk_that_vanished_stop_the_run(tmp_path, whole):
    out = tmp_path / "codes"
    assert message(lambda: made(out, Levels(before=unreadable(4, passing=True)))) == (
        "'videos/4' was there at the start and cannot be read now (cut off); put that right and give the command again"
    )
    made(out)
    assert contents(out) == whole
    many = Levels((2,) * 100, unreadable(*range(20, 100)))
    assert message(lambda: made(tmp_path / "many", many, shard_bytes=2**20)) == (
        "64 videos in a row cannot be read (the last, 'videos/83': cut off); is the disk still there?"
    )
    nothing_left = message(lambda: made(tmp_path / "none", Levels(before=unreadable(*range(6)))))
    assert nothing_left == (
        f"--out: {tmp_path}/none: none of its 5 videos could be read (the first, '00000000': cut off);"
        " remove the folder, repair them and encode anew"
    )


def test_other_encoders_clips_or_videos_do_not_go_into_the_same_folder(tmp_path, whole):
    out, choose = tmp_path / "whole", "choose another folder"
    held = f"--out: {out} holds videos encoded with"
    other = replace(ENCODER, fingerprint="0123456789abcdef")
    assert message(lambda: made(out, encoder=other)) == (
        f"{held} fingerprint ffffffffffff, now it is 0123456789ab; {choose}"
    )
    assert message(lambda: made(out, encoder=replace(ENCODER, weights="raw"))) == (
        f"{held} weights ema, now it is raw; {choose}"
    )
    assert message(lambda: made(out, window=None, every=4)) == f"{held} every None, now it is 4; {choose}"
    assert message(lambda: made(out, Levels(stride=2))) == f"{held} frame_stride 1, now it is 2; {choose}"
    assert message(lambda: encode(Levels(), {**SETTINGS, "resolution": 16}, out, ENCODER, quiet=True)) == (
        f"--out: {out} holds a pack with data.resolution 8, now it is 16; {choose}"
    )
    assert message(lambda: made(out, Levels((3, 5)))) == (
        f"--out: {out} holds a pack of other videos, of files that were replaced since, or of other shards; {choose}"
    )
    assert message(lambda: pack(Levels(), SETTINGS, out, quiet=True)) == (
        f"--out: {out} holds a pack of videos encoded as tokens; {choose}"
    )
    pack(Levels((4,)), SETTINGS, tmp_path / "pack", quiet=True)
    assert message(lambda: made(tmp_path / "pack", Levels((4,)))) == (
        f"--out: {tmp_path}/pack holds a pack of frames; {choose}"
    )
    assert contents(out) == whole


def test_windows_that_make_no_sense_are_refused(tmp_path):
    assert message(lambda: made(tmp_path / "codes", window=7)) == (
        "--window 7: must be a multiple of 2, the frames of one step of tiny"
    )
    assert message(lambda: made(tmp_path / "codes", every=4)) == (
        "--window and --clips: a clip is encoded as a whole; leave --window out"
    )
    everything = replace(ENCODER, encoding=replace(ENCODING, halo=None))
    assert message(lambda: made(tmp_path / "codes", encoder=everything)) == (
        "--window 8: tiny looks at all frames of a video at once, and the longest has 40; raise it to that, or give"
        " --clips"
    )
    assert not (tmp_path / "codes").exists()
    made(tmp_path / "codes", encoder=everything, window=40)
    assert torch.equal(codes(tmp_path / "codes", 2), tokens_of(Levels().whole(2))[0])
    made(tmp_path / "clips", encoder=everything, window=None, every=4)


def test_how_codes_are_stored():
    assert Encoding("tokens", 1, 0, 2**15).stored_dtype == np.int16
    assert Encoding("tokens", 1, 0, 2**15 + 1).stored_dtype == np.int32
    assert Encoding("tokens", 1, 0, 5, "int32").stored_dtype == np.int32
    assert Encoding("latents", 1, 0).stored_dtype == np.float32
    assert Encoding("latents", 1, 0, dtype="float16").stored_dtype == np.float16
    for wrong, said in (
        (Encoding("tokens", 1, 0, 2**15 + 1, "int16"), "32769 codes do not fit into int16"),
        (Encoding("tokens", 1, 0, 5, "float32"), "5 codes do not fit into float32"),
        (Encoding("tokens", 1, 0), "tokens need num_codes"),
        (Encoding("latents", 1, 0, dtype="int16"), "latents are floats, not int16"),
    ):
        with pytest.raises(ValueError, match=said):
            _ = wrong.stored_dtype


def test_tokens_of_many_codes_survive(tmp_path):
    def far(video: Tensor) -> Tensor:
        return tokens_of(video) + 60_000

    made(tmp_path / "codes", encoder=replace(ENCODER, encode=far, encoding=replace(ENCODING, num_codes=60_251)))
    assert torch.equal(codes(tmp_path / "codes", 0), far(Levels().whole(0))[0])


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_latents_of_any_shape_are_stored_as_floats(tmp_path, dtype):
    def latents(video: Tensor) -> Tensor:
        return tokens_of(video).flatten(2)[..., None].repeat(1, 1, 1, 5) / 256 + torch.arange(5)

    encoding = Encoding("latents", STRIDE, HALO, dtype=dtype)
    made(tmp_path / "codes", encoder=replace(ENCODER, encode=latents, encoding=encoding))
    found = codes(tmp_path / "codes", 0, "latents")
    assert found.dtype == torch.float32 and found.shape == (15, 4, 5)
    expected = latents(Levels().whole(0))[0]
    assert torch.equal(found, expected.half().float() if dtype == "float16" else expected)
    size = 15 * 20 * (2 if dtype == "float16" else 4)
    assert (tmp_path / "codes" / "shard-00000.bin").stat().st_size == size


def test_codes_that_are_none_are_refused(tmp_path):
    encoding = Encoding("latents", STRIDE, HALO, dtype="float16")
    for bad in (float("nan"), 1e6):
        broken = replace(ENCODER, encoding=encoding, encode=lambda video, bad=bad: tokens_of(video) * 0 + bad)
        assert message(lambda broken=broken: made(tmp_path / "codes", encoder=broken)) == (
            "tiny: makes latents with NaN or infinity (as float16); its weights are unusable"
        )
    few = replace(ENCODER, encoding=replace(ENCODING, num_codes=10))
    with pytest.raises(ValueError, match=r"tiny: made tokens from \d+ to \d+, and has 10 codes"):
        made(tmp_path / "few", encoder=few)
    slow = replace(ENCODER, encoding=replace(ENCODING, stride=1))
    with pytest.raises(ValueError, match="tiny: 4 frames gave 2 steps, and its stride is 1"):
        made(tmp_path / "slow", encoder=slow)


def test_what_was_encoded_is_not_encoded_or_packed_again(tmp_path, whole):
    data = Encoded(str(tmp_path / "whole"), 2)
    said = "data: holds videos encoded as tokens; give those that they were made from"
    assert message(lambda: pack(data, {}, tmp_path / "pack", quiet=True)) == said
    assert message(lambda: made(tmp_path / "codes", data)) == said


def test_pixels_of_files_are_encoded_unmirrored_and_without_their_captions(tmp_path):
    make_strips(tmp_path / "strips", {"a/x.png": 6, "b/y.png": 5})
    (tmp_path / "texts.csv").write_text("path,text\na/x,first\nb/y,second\n")
    from vidgen.data.texts import Texts

    texts = Texts(tmp_path / "texts.csv", tmp_path / "no merges")  # which only reading ids would need
    dataset = FrameStrips(str(tmp_path / "strips"), 8, 2, flip=True, texts=texts)
    encode(dataset, {"name": "frame_strips"}, tmp_path / "codes", ENCODER, quiet=True)
    plain = FrameStrips(str(tmp_path / "strips"), 8, 2)
    for video, length in ((0, 6), (1, 4)):
        clip = plain.read(ClipRequest(video, tuple(range(length)), 8))["video"]
        assert torch.equal(codes(tmp_path / "codes", video), tokens_of(clip[None])[0])
    data = Encoded(str(tmp_path / "codes"), 2, texts=Texts(bpe=tmp_path / "no merges"))
    assert data.captions is not None and list(data.captions) == ['["first"]', '["second"]']


def test_a_short_run_shows_no_progress_and_a_long_one_beside_the_output(tmp_path, capsys, monkeypatch):
    made(tmp_path / "short", quiet=False)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("vidgen.progress.SECONDS_BETWEEN_LINES", 0.0)
    made(tmp_path / "long", Levels((4, 20)), quiet=False)
    out, err = capsys.readouterr()
    assert out == "" and [", ".join(line.split(", ")[:2]) for line in err.splitlines()] == [
        "encoded 0/2 videos, 4/24 frames",
        *(f"encoded 1/2 videos, {done}/24 frames" for done in (12, 20, 24)),
    ]
    assert " frames/s, " in err


def test_frames_of_damaged_videos_count_as_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vidgen.progress.SECONDS_BETWEEN_LINES", 0.0)
    made(tmp_path / "codes", Levels((20, 4), unreadable(0, after=15)), quiet=False)
    assert capsys.readouterr().err.splitlines()[-1].startswith("encoded 1/2 videos, 24/24 frames")
