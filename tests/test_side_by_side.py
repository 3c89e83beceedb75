"""Samples of each context beside the truth, in the folder of samples and on the command line."""

from __future__ import annotations

import gc
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import vidgen.sampling
from tests.guessing_model import Guess
from tests.noise_model import SeededNoise, payload
from tests.test_sampling import Killed, contents
from tests.test_sampling_groups import contexts, make, videos_in
from vidgen.checkpoint import write_checkpoint
from vidgen.cli.main import main
from vidgen.comparison import GIVEN, PREDICTED, Comparison
from vidgen.data.annotations import Labels
from vidgen.data.arrays import ArrayVideos
from vidgen.errors import UserError
from vidgen.evaluation.contexts import Contexts
from vidgen.evaluation.sources import ClipRule, GeneratedClips, StoredClips
from vidgen.media import FORMATS, VideoFile, file_name, write_video
from vidgen.models.vgan import VGAN
from vidgen.sampling import SamplingReport, draw_seed, sample_to_folder


def single() -> Guess:
    return Guess().eval()


def comparison(place: Path, number: int, samples: int) -> Comparison:
    """As it should be, from the samples of an evaluation."""
    dataset = ArrayVideos(str(place), 16, 1, labels=Labels("none"))
    real = StoredClips(dataset, ClipRule(6, order="first", start="first"), native=False, name="x")
    clips = GeneratedClips(single(), 5, ClipRule(6), condition=real)
    drawn = [clips.draw(which).read([number])[0].video for which in range(samples)]
    return Comparison(
        torch.stack(drawn), real.read([number])[0].video, 2, [draw_seed(0, which) for which in range(samples)]
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return videos_in(tmp_path / "videos", 5)


def made(folder: Path, number: int) -> np.ndarray:
    return np.load(folder / "side_by_side" / f"{number:06d}.npz")["video"].transpose(3, 0, 1, 2)


def test_each_context_has_truth_best_and_the_samples_of_an_evaluation(place: Path, tmp_path: Path) -> None:
    report = make(tmp_path / "out", place, single(), samples=4, batch_size=2)
    assert (report.written, report.compared, report.without_truth) == (5, 5, 0)
    for number in range(5):
        wanted = comparison(place, number, 4)
        assert np.array_equal(made(tmp_path / "out", number), wanted.side_by_side().numpy())
        assert (tmp_path / "out" / "side_by_side" / f"{number:06d}.json").read_text() == wanted.described()
    assert len(os.listdir(tmp_path / "out" / "side_by_side")) == 10
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["samples"] == 4


def test_the_first_sample_is_the_video_itself(place: Path, tmp_path: Path) -> None:
    make(tmp_path / "out", place, single(), samples=3)
    make(tmp_path / "plain", place, single())
    for number in range(5):
        name = f"{number:06d}.npz"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
        video = np.load(tmp_path / "out" / name)["video"].transpose(3, 0, 1, 2)
        assert np.array_equal(made(tmp_path / "out", number)[..., 2 * 22 + 2 : 2 * 22 + 18][:, :, 2:18], video)


@pytest.mark.parametrize("format", FORMATS)
def test_every_format(place: Path, tmp_path: Path, format: str) -> None:
    given = contexts(place, model := single())
    sample_to_folder(
        model, tmp_path / "out", num=2, context=given, samples=2, format=format, progress=False, rank=0, world_size=1
    )
    folder, wanted = tmp_path / "out" / "side_by_side", comparison(place, 1, 2)
    assert sorted(os.listdir(folder)) == sorted(
        [*(file_name(f"{number:06d}", format) for number in range(2)), "000000.json", "000001.json"]
    )
    path = folder / file_name("000001", format)
    if format == "strip":
        shown = np.array(Image.open(path)).transpose(2, 0, 1)
        assert np.array_equal(shown, wanted.over_time().numpy())
    elif format == "png":
        frames = [np.array(Image.open(path / f"{time:05d}.png")).transpose(2, 0, 1) for time in range(6)]
        assert np.array_equal(np.stack(frames, 1), wanted.side_by_side().numpy())
    elif format != "npz":
        write_video(tmp_path / "wanted", wanted.side_by_side(), 8, format)
        assert path.read_bytes() == (tmp_path / "wanted").read_bytes()


def test_grey_videos_that_are_no_squares(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.save(tmp_path / "a.npy", random.integers(256, size=(2, 8, 12, 20, 1), dtype=np.uint8))
    dataset = ArrayVideos(str(tmp_path / "a.npy"), 12, 1, width=20, channels=1, labels=Labels("none"))
    model = Guess(channels=1).eval()
    out = tmp_path / "out"
    sample_to_folder(model, out, num=2, context=Contexts(dataset, model, "x"), samples=2, format="npz",
                     progress=False, rank=0, world_size=1)  # fmt: skip
    sheet = made(out, 1)
    assert sheet.shape == (3, 6, 16, 4 * 26 - 2)
    inner = [sheet[:, :, 2:14, 26 * k + 2 : 26 * k + 22] for k in range(4)]
    true = np.load(tmp_path / "a.npy")[1, :6].transpose(3, 0, 1, 2)
    assert np.array_equal(inner[0], np.repeat(true, 3, axis=0))
    assert np.array_equal(inner[2][:1], np.load(out / "000001.npz")["video"].transpose(3, 0, 1, 2))
    assert tuple(sheet[:, 5, 0, 30]) == PREDICTED


def test_batch_size_and_processes_change_nothing(place: Path, tmp_path: Path) -> None:
    make(tmp_path / "one", place, single(), samples=3)
    make(tmp_path / "small", place, single(), samples=3, batch_size=2)
    for rank in (1, 0):
        make(tmp_path / "two", place, single(), samples=3, batch_size=2, rank=rank, world_size=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "small") == contents(tmp_path / "two")


@pytest.mark.parametrize("format", ["npz", "png"])
@pytest.mark.parametrize("at", [2, 5, 8, 9])
def test_a_killed_run_continues(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, at: int
) -> None:
    def run(out: Path) -> SamplingReport:
        model = single()
        given = contexts(place, model)
        return sample_to_folder(model, out, num=5, context=given, samples=2, format=format, batch_size=2,
                                progress=False, rank=0, world_size=1)  # fmt: skip

    run(tmp_path / "whole")
    written = []

    class Dying(VideoFile):
        def write(self, video: Tensor) -> None:
            path = self.path
            if ".grid" not in str(path):
                written.append(path)
            if len(written) == at:
                half = path.with_name(f".{path.name}.0123.partial")
                half.parent.mkdir(parents=True, exist_ok=True)
                half.mkdir() if format == "png" else half.write_bytes(b"half")
                raise Killed
            super().write(video)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(vidgen.sampling, "VideoFile", Dying)
        run(tmp_path / "killed")
    whole = contents(tmp_path / "whole")
    shown = {name: data for name, data in contents(tmp_path / "killed").items() if "/." not in f"/{name}"}
    assert shown.items() <= whole.items()
    again = run(tmp_path / "killed")
    assert again.skipped == sum(name.startswith("0") and name.count("/") == (format == "png") for name in shown) // (
        6 if format == "png" else 1
    )
    assert contents(tmp_path / "killed") == whole


@pytest.mark.parametrize("gone", ["000003.npz", "000003.json"])
def test_what_was_deleted_is_made_again_and_nothing_else(place: Path, tmp_path: Path, gone: str) -> None:
    make(tmp_path / "out", place, single(), samples=2, batch_size=2)
    before = contents(tmp_path / "out")
    (tmp_path / "out" / "side_by_side" / gone).unlink()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("0*") if "000003." not in path.name}
    model = single()
    assert make(tmp_path / "out", place, model, samples=2, batch_size=2) == SamplingReport(0, 5, (), 1)
    assert [call[:2] for call in model.calls] == [(2, 2)] * 2
    assert contents(tmp_path / "out") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times
    shutil.rmtree(tmp_path / "out" / "side_by_side")
    assert make(tmp_path / "out", place, single(), samples=2, batch_size=2) == SamplingReport(0, 5, (), 5)
    assert contents(tmp_path / "out") == before


def test_a_finished_folder_costs_nothing_and_grows(place: Path, tmp_path: Path) -> None:
    make(tmp_path / "out", place, single(), samples=2, num=2)
    model = single()
    assert make(tmp_path / "out", place, model, samples=2, num=2) == SamplingReport(0, 2)
    assert model.calls == []
    assert make(tmp_path / "out", place, single(), samples=2).compared == 3
    make(tmp_path / "whole", place, single(), samples=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_half_written_comparisons_of_others_are_left_alone(place: Path, tmp_path: Path) -> None:
    make(tmp_path / "out", place, single(), samples=2)
    for number in (1, 2):
        (tmp_path / "out" / "side_by_side" / f".{number:06d}.json.0123.partial").write_bytes(b"half")
    make(tmp_path / "out", place, single(), samples=2, batch_size=2, rank=0, world_size=2)
    left = [path.name for path in (tmp_path / "out" / "side_by_side").glob(".*")]
    assert left == [".000002.json.0123.partial"]


def test_what_is_in_memory_at_once_does_not_grow_with_the_number_of_contexts(tmp_path: Path) -> None:
    place = videos_in(tmp_path / "videos", 20)
    held = []

    class Counting(Guess):
        def sample(self, *args: Any, **keywords: Any) -> torch.Tensor:
            found = super().sample(*args, **keywords)
            self.given.clear()
            if len(self.calls) in (6, 30):  # of 3 for each block
                gc.collect()
                held.append(sum(thing.numel() for thing in gc.get_objects() if type(thing) is torch.Tensor))
            return found

    make(tmp_path / "out", place, Counting().eval(), samples=3, batch_size=2)
    assert len(held) == 2 and held[1] <= held[0]


def test_the_truth_of_a_video_that_ends_early_is_not_shown(tmp_path: Path) -> None:
    place = videos_in(tmp_path / "videos", 3)
    for number, length in ((0, 5), (2, 6)):  # of 6 that are made
        np.save(place / f"{number}.npy", np.load(place / f"{number}.npy")[:length])
    report = make(tmp_path / "out", place, single(), samples=3)
    assert (report.compared, report.without_truth) == (3, 1)
    found = [json.loads((tmp_path / "out" / "side_by_side" / f"{n:06d}.json").read_text()) for n in range(3)]
    assert [entry["shown"][0] for entry in found] == ["sample 1", "truth", "truth"]
    assert (found[0]["best"], found[0]["psnr"], found[0]["ssim"]) == (None, None, None)
    assert [made(tmp_path / "out", n).shape[-1] for n in range(3)] == [3 * 22 - 2, 5 * 22 - 2, 5 * 22 - 2]


def test_contexts_and_truth_go_at_the_stride_of_the_data(place: Path) -> None:
    dataset = ArrayVideos(str(place), 16, 2, stride=3, labels=Labels("none"))
    given = Contexts(dataset, single(), "x")
    video = torch.from_numpy(np.load(place / "1.npy")).permute(3, 0, 1, 2)
    assert torch.allclose((given.batch([1])["video"][0] + 1) / 2 * 255, video[:, [0, 3]].float(), atol=1e-3)
    truth = given.truth(1, 3)
    assert truth is not None and torch.equal(truth, video[:, [0, 3, 6]])
    assert given.truth(1, 4) is None


def test_a_truth_that_cannot_be_read_is_named(place: Path) -> None:
    given = contexts(place, single())
    (place / "1.npy").write_bytes(b"no array")
    with pytest.raises(UserError) as caught:
        given.truth(1, 6)
    assert str(caught.value).startswith(f"--context: {place}/1.npy: ") and str(caught.value).endswith("; take it out")


@pytest.mark.parametrize(
    ("model", "samples", "message"),
    [
        (Guess(), -1, "samples: must be at least 0, not -1"),
        (Guess(noise=0), 2, "samples: guess makes one video of a context, not 2; lower it to 1 or 0"),
        (Guess(optional=True), 2, "samples: no video is given that 2 of them could continue; leave it out"),
    ],
)
def test_nonsense_is_refused(place: Path, tmp_path: Path, model: Guess, samples: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        make(tmp_path / "out", place, model, samples=samples)
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


def test_another_number_of_samples_is_another_folder(place: Path, tmp_path: Path) -> None:
    make(tmp_path / "out", place, single(), samples=2)
    with pytest.raises(UserError) as caught:
        make(tmp_path / "out", place, single(), samples=3)
    assert str(caught.value) == f"{tmp_path}/out: holds samples with samples 2, not 3; choose another folder"


def test_folders_of_before_there_were_comparisons_go_on(place: Path, tmp_path: Path) -> None:
    make(tmp_path / "out", place, single(), num=2)
    manifest = tmp_path / "out" / "samples.json"
    saved = json.loads(manifest.read_text())
    del saved["samples"]
    manifest.write_text(json.dumps(saved))
    assert make(tmp_path / "out", place, single(), num=2) == SamplingReport(0, 2)


# --- on the command line ---


def checkpoint(folder: Path, model: Any) -> Path:
    write_checkpoint(path := folder / "model.ckpt", payload(model))
    return path


def sample(path: Path, out: Path, *words: str) -> int:
    return main(["sample", "--ckpt", str(path), "--out", str(out), "--device", "cpu", "--format", "npz", *words])


@pytest.mark.parametrize(
    ("model", "words", "cells"),
    [
        (Guess(), [], 7),
        (Guess(), ["--samples", "2"], 4),
        (Guess(), ["--samples", "1"], 2),
        (Guess(), ["--samples", "0"], 0),
        (Guess(noise=0), [], 2),
        (Guess(noise=0), ["--samples", "0"], 0),
        (Guess(optional=True), ["--observed", "2"], 7),
    ],
)
def test_five_samples_unless_told_otherwise(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Guess, words: list[str], cells: int
) -> None:
    out = tmp_path / "out"
    assert sample(checkpoint(tmp_path, model), out, "--context", str(place), "--num", "2", *words) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    side = [f"  side by side: {out}/side_by_side/"] if cells else []
    assert lines == [f"wrote 2 videos to {out}/; 0 were there already",
                     f"  grid: {out}/grid.mp4", f"  grid: {out}/grid.gif", *side]  # fmt: skip
    assert (out / "side_by_side").exists() == bool(cells)
    if cells:
        assert made(out, 1).shape[-1] == cells * 22 - 2


@pytest.mark.parametrize("observed", [1, 3])
def test_given_frames_are_as_many_as_are_observed(place: Path, tmp_path: Path, observed: int) -> None:
    path = checkpoint(tmp_path, Guess(optional=True))
    assert sample(path, tmp_path / "out", "--context", str(place), "--samples", "2", "--observed", str(observed)) == 0
    found = json.loads((tmp_path / "out" / "side_by_side" / "000000.json").read_text())
    assert found["context_frames"] == observed and len(found["ssim"][0]) == 6 - observed
    border = made(tmp_path / "out", 0)[:, :, 0, -1].transpose()  # of the last sample
    assert [tuple(colour) for colour in border] == [GIVEN] * observed + [PREDICTED] * (6 - observed)


def test_no_context_no_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(checkpoint(tmp_path, Guess(optional=True)), tmp_path / "out", "--num", "2") == 0
    assert not (tmp_path / "out" / "side_by_side").exists()
    assert sample(checkpoint(tmp_path, SeededNoise()), tmp_path / "other", "--num", "2", "--samples", "3") == 2
    message = "samples: no video is given that 3 of them could continue; leave it out"
    assert capsys.readouterr().err == f"vidgen: error: {message}\n"


def test_early_ends_are_told_in_one_line(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(place / "3.npy", np.load(place / "3.npy")[:4])
    assert sample(checkpoint(tmp_path, Guess()), tmp_path / "out", "--context", str(place)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "  1 of 5 contexts end before the videos made from them: shown without the truth and the best sample"
    )


@pytest.mark.parametrize("words", [[], ["--observed", "0"]])
def test_a_model_that_has_to_be_told_to_look_says_so(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert sample(checkpoint(tmp_path, Guess(optional=True)), tmp_path / "out", "--context", str(place), *words) == 2
    message = "--context: guess samples from a seed alone; say with --observed N how many of the frames it is given"
    assert capsys.readouterr().err == f"vidgen: error: {message}\n"


def test_a_model_that_is_told_to_look_needs_something_to_look_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample(checkpoint(tmp_path, Guess(optional=True)), tmp_path / "out", "--observed", "2") == 2
    message = "model 'guess' samples from given video, not from a seed alone; give --context"
    assert capsys.readouterr().err == f"vidgen: error: {message}\n"


def test_contexts_have_as_many_frames_as_are_observed(place: Path, tmp_path: Path) -> None:
    model = Guess(optional=True).eval()
    dataset = ArrayVideos(str(place), 16, 1, labels=Labels("none"))
    for observed in (1, 4):
        assert Contexts(dataset, model, "x", keywords={"observed": observed}).batch([0])["video"].shape[2] == observed
    with pytest.raises(UserError) as caught:
        Contexts(dataset, model, "x", keywords={"observed": 9})
    assert str(caught.value) == "--context: none of its 5 videos has the 9 frames that guess starts from"


def test_a_model_with_one_answer_shows_it_beside_the_truth(tmp_path: Path) -> None:
    place = videos_in(tmp_path / "videos", 2, frames=8)
    torch.manual_seed(0)
    path = checkpoint(tmp_path, VGAN(**VGAN.small_variants()["first_frame"]))
    assert sample(path, tmp_path / "out", "--context", str(place)) == 0
    found = json.loads((tmp_path / "out" / "side_by_side" / "000001.json").read_text())
    assert found["shown"] == ["truth", "sample 1"] and found["context_frames"] == 1
    assert len(found["ssim"][0]) == 7
