"""``vidgen eval`` on the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data.strips import make_strips, random_frames, save_strip
from tests.evaluation.tiny import METRICS, distance_of, videos
from tests.guessing_model import Guess
from tests.noise_model import SeededNoise, payload
from vidgen.checkpoint import write_checkpoint
from vidgen.cli.main import main
from vidgen.data.spec import DataSpec
from vidgen.evaluation.sources import StoredClips
from vidgen.export import export_checkpoint
from vidgen.media import to_uint8

TINY = METRICS + "TinyDistance"
REAL, FAKE = videos(30, seed=1), videos(20, seed=2)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    """Options that name 30 real and 20 fake videos."""
    np.savez(tmp_path / "real.npz", video=REAL)
    np.savez(tmp_path / "fake.npz", video=FAKE)
    return ["--real", str(tmp_path / "real.npz"), "--fake", str(tmp_path / "fake.npz")]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A model with raw and averaged weights, and the data that it was trained on."""
    make_strips(tmp_path / "strips", {f"walk/{n}.png": 8 for n in range(15)}, side=12)
    config = f"data: {{name: frame_strips, root: {tmp_path}/strips, resolution: 8, num_frames: 6}}\n"
    spec = DataSpec(3, 8, 6, None, 4, 8, 8).to_dict()
    path = tmp_path / "noise.ckpt"
    model = SeededNoise(size=8)
    write_checkpoint(path, payload(model, {"shift": torch.tensor(0.25)}, data_spec=spec, config=config, iteration=7))
    return path


def run(*words: str) -> int:
    return main(["eval", "--metric", TINY, "--num-frames", "6", "--device", "cpu", *map(str, words)])


def error_of(capsys: pytest.CaptureFixture[str], *words: Any, status: int = 2) -> str:
    assert main(["eval", *map(str, words)]) == status
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    return output.err.strip().removeprefix("vidgen: error: ")


def saved(path: Path, metric: str = "tiny_fd") -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)["metrics"][metric]


def test_table_and_json(places, tmp_path, capsys):
    out = tmp_path / "new" / "folder" / "result.json"
    assert run(*places, "--out", out) == 0
    lines = capsys.readouterr().out.splitlines()
    expected = distance_of(REAL, FAKE)
    name, value, real, fake = lines[1].split()
    assert (name, real, fake) == ("tiny_fd", "20", "20")
    assert lines[2] == (
        "warning: few videos (20 real, 20 fake): published numbers take 2048, and fewer give larger distances"
    )
    assert lines[3:] == [f"wrote {out}", f"wrote {out.with_name('result.samples.npz')}"]
    content = json.loads(out.read_text())
    assert content["metrics"]["tiny_fd"]["value"] == pytest.approx(float(value), rel=1e-5)
    assert content["metrics"]["tiny_fd"]["warnings"] == content["warnings"] == [lines[2].removeprefix("warning: ")]
    assert content["command"].startswith("vidgen eval --metric tests.evaluation.tiny.TinyDistance --num-frames 6")
    assert content["protocol"]["device"] == "cpu"
    assert run(*places, "--out", out, "--num-real", "30") == 0
    assert saved(out)["value"] == pytest.approx(expected, abs=1e-7)


def test_nothing_is_written_unless_asked(places, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    assert run(*places) == 0
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    assert (tmp_path / "cache" / "features").is_dir()


def test_without_cache_nothing_at_all(places, tmp_path):
    assert run(*places, "--no-cache") == 0
    assert not (tmp_path / "cache" / "features").exists()


def test_second_run_decodes_nothing(places, tmp_path, monkeypatch):
    run(*places, "--out", tmp_path / "a.json")
    monkeypatch.setattr(StoredClips, "read", None)
    assert run(*places, "--out", tmp_path / "b.json") == 0
    a, b = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert (a["metrics"], a["warnings"]) == (b["metrics"], b["warnings"])
    assert (tmp_path / "a.samples.npz").read_bytes() == (tmp_path / "b.samples.npz").read_bytes()


def test_samples_as_many_as_asked_for(places, tmp_path):
    run(*places, "--out", tmp_path / "a.json", "--samples", "2")
    with np.load(tmp_path / "a.samples.npz") as arrays:
        assert sorted(arrays.files) == ["fake_0", "fake_1", "real_0", "real_1"]
        assert arrays["real_0"].shape == (6, 8, 8, 3)
    run(*places, "--out", tmp_path / "a.json", "--samples", "0")
    assert not (tmp_path / "a.samples.npz").exists()


def test_a_checkpoint_makes_and_measures_in_one_go(checkpoint, tmp_path):
    before = set(tmp_path.iterdir())
    assert run("--ckpt", checkpoint, "--out", tmp_path / "a.json") == 0
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"a.json", "a.samples.npz", "cache"}
    found = saved(tmp_path / "a.json")
    fake = found["protocol"]["fake"]
    assert {key: fake[key] for key in ("source", "path", "model", "iteration", "weights", "seed", "rounding")} == {
        "source": "checkpoint", "path": str(checkpoint), "model": "seeded_noise", "iteration": 7, "weights": "ema",
        "seed": 0, "rounding": "round",
    }  # fmt: skip
    assert len(fake["checkpoint"]) == 64
    assert (fake["num_clips"], found["protocol"]["real"]["num_clips"]) == (15, 15)
    assert found["protocol"]["real"]["path"] == f"data of {checkpoint}"


@pytest.mark.parametrize(
    ("words", "keywords"),
    [
        (["--raw-weights"], {"shift": 0.0}),
        (["--sample-seed", "4"], {"seed": 4}),
        (["sample.contrast=0.5"], {"contrast": 0.5}),
        (["sample.style=mirrored", "sample.label=2"], {"style": "mirrored", "label": 2}),
        (["--rounding", "truncate"], {"rounding": "truncate"}),
        (["--batch-size", "3"], {}),
    ],
)
def test_options_and_the_models_keywords_arrive(checkpoint, tmp_path, places, words, keywords):
    assert run("--ckpt", checkpoint, *places[:2], "--out", tmp_path / "a.json", "--num-videos", "9", *words) == 0
    model = SeededNoise(size=8)
    shift, rounding = keywords.pop("shift", 0.25), keywords.pop("rounding", "round")
    with torch.no_grad():
        model.shift += shift
        made = to_uint8(model.sample(9, num_frames=6, **keywords), rounding).permute(0, 2, 3, 4, 1).numpy()
    order = saved(tmp_path / "a.json")["protocol"]["real"]
    assert order["num_clips"] == 9
    with np.load(tmp_path / "a.samples.npz") as arrays:
        assert all(np.array_equal(arrays[f"fake_{number}"], made[number]) for number in range(8))
    assert saved(tmp_path / "a.json")["protocol"]["fake"]["weights"] == ("raw" if shift == 0 else "ema")


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_takes_the_result(places, tmp_path, capsys, exists):
    out = tmp_path / "new" / "v1.2"
    if exists:
        out.mkdir(parents=True)
    assert run(*places, "--out", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["result.json", "result.samples.npz"]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"wrote {out}/result.json",
        f"wrote {out}/result.samples.npz",
    ]


def test_a_file_without_an_ending_that_is_there_is_replaced(places, tmp_path):
    (tmp_path / "result").write_text("{}")
    assert run(*places, "--out", tmp_path / "result", "--samples", "0") == 0
    assert saved(tmp_path / "result")["value"] > 0


def test_metrics_may_be_named_one_by_one(places, tmp_path):
    frames = METRICS + "FrameDistance"
    assert run(*places, "--metric", f"{frames},{TINY}", "--out", tmp_path / "a.json") == 0
    assert list(json.loads((tmp_path / "a.json").read_text())["metrics"]) == ["tiny_fd", "frame_fd"]


@pytest.fixture
def guesses(tmp_path: Path) -> list[str]:
    """Options that name a model of two given frames, and videos to give it."""
    np.save(tmp_path / "real.npy", videos(5, frames=6, side=32, seed=3))
    spec = DataSpec(3, 32, 6, None, 4, 6, 6).to_dict()
    write_checkpoint(tmp_path / "guess.ckpt", payload(Guess(n_past=2), data_spec=spec, iteration=7))
    return ["--ckpt", str(tmp_path / "guess.ckpt"), "--real", str(tmp_path / "real.npy")]


def test_predictions_are_measured_by_one_command(guesses, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--metric", "best_of_n", "--metric", "psnr", "--weights", "best_of_n=random", "best_of_n.num_samples=3"]
    assert run(*guesses, *words, "--out", out) == 0
    lines = capsys.readouterr().out.splitlines()
    labels = ["psnr_best_of_3", "ssim_best_of_3", "lpips_random_alex_best_of_3", "psnr"]
    assert [line.split()[0] for line in lines[1:6]] == ["tiny_fd", *labels]
    written = ["result.json", "result.samples.npz"]
    written += [f"result.{label}.{suffix}" for label in labels for suffix in ("csv", "png")]
    assert lines[-len(written) :] == [f"wrote {out}/{name}" for name in written]
    assert sorted(path.name for path in out.iterdir()) == sorted(written)
    content = json.loads((out / "result.json").read_text())["metrics"]
    assert {metric["protocol"]["context_frames"] for metric in content.values()} == {2}
    assert content["tiny_fd"]["protocol"]["skip_frames"] == 0
    assert {content[label]["protocol"]["num_frames"] for label in labels} == {4}
    assert {content[label]["protocol"]["num_samples"] for label in labels[:3]} == {3}
    for label in labels:
        rows = (out / f"result.{label}.csv").read_text().splitlines()
        assert len(rows) == 5 and rows[1].startswith("1,2,") and rows[4].startswith("4,5,")
    one = content["psnr_best_of_3"]["details"]
    assert one["own_choice"]["value"] >= one["chosen_by_ssim"]["value"] > one["mean_of_samples"]["value"]
    assert main(["eval", "report", str(out / "result.json"), "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text().count("<polygon") == 1 + 3 + 2 + 3


def test_of_several_processes_the_first_alone_writes(guesses, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vidgen.distributed.process_group", lambda: nullcontext(1))
    assert run(*guesses, "--metric", "psnr", "--out", tmp_path / "out") == 0
    assert capsys.readouterr().out == "" and not (tmp_path / "out").exists()


def test_settings_of_single_scores(guesses, tmp_path):
    words = ["--metric", "best_of_n,psnr", "best_of_n.metric=psnr", "best_of_n.num_samples=2", "psnr.context_frames=0"]
    assert run(*guesses, *words, "--out", tmp_path / "a.json") == 0
    assert list(json.loads((tmp_path / "a.json").read_text())["metrics"]) == ["tiny_fd", "psnr_best_of_2", "psnr"]
    assert saved(tmp_path / "a.json", "psnr_best_of_2")["protocol"]["context_frames"] == 2
    assert saved(tmp_path / "a.json", "psnr")["protocol"]["context_frames"] == 0


def test_mistakes_about_predictions_are_one_line(guesses, tmp_path, capsys, places):
    def message(*words: Any) -> str:
        return error_of(capsys, *guesses, "--device", "cpu", *words)

    assert message("--metric", "best_of_n", "best_of_n.metric=[psnr,mse]") == (
        "best_of_n.metric: expected 'psnr' | 'ssim' | 'lpips' | Sequence['psnr' | 'ssim' | 'lpips'],"
        " got ['psnr', 'mse'] (list)"
    )
    few = ["--metric", "best_of_n", "best_of_n.metric=[psnr,ssim]", "--num-frames", "2"]
    assert message(*few) == "best_of_n: 2 context frames of 2 leave none to compare; take longer videos"
    folder = ["--metric", "best_of_n", "best_of_n.metric=psnr", "--device", "cpu"]
    assert error_of(capsys, *folder, "--real", tmp_path / "real.npz", "--fake", tmp_path / "real.npz") == (
        "psnr_best_of_100: wants 100 generated videos for each real one, which a model makes; give --ckpt"
    )


def test_an_exported_folder_is_measured_too(checkpoint, tmp_path, places):
    export_checkpoint(checkpoint, tmp_path / "exported")
    for name, place in (("a", checkpoint), ("b", tmp_path / "exported")):
        assert run("--ckpt", place, *places[:2], "--out", tmp_path / f"{name}.json") == 0
    a, b = (saved(tmp_path / f"{name}.json") for name in "ab")
    assert a["value"] == b["value"]
    assert a["protocol"]["fake"]["checkpoint"] != b["protocol"]["fake"]["checkpoint"]


def test_settings_of_sides_and_metrics(tmp_path):
    for number in range(9):
        save_strip(tmp_path / "real" / f"{number}.png", random_frames(9, 12, seed=number))
        save_strip(tmp_path / "fake" / f"{number}.png", random_frames(9, 10, seed=50 + number))
    words = ["--real", tmp_path / "real", "--fake", tmp_path / "fake", "--out", tmp_path / "a.json", "--stride", "2"]
    more = ["real.resize=stretch", "--resolution", "8", f"{TINY}.factor=2", "--seed", "3", "--start", "first"]
    assert main(["eval", "--metric", TINY, "--num-frames", "4", "--device", "cpu", *map(str, [*words, *more])]) == 0
    found = saved(tmp_path / "a.json")["protocol"]
    assert (found["real"]["resize"], found["fake"]["resize"], found["fake"]["resolution"]) == (
        "stretch",
        "crop",
        [8, 8],
    )
    assert found["extractor"]["weights"]["fingerprint"] == "2.0"
    assert found["real"]["clips"] == {
        "num_frames": 4, "stride": 2, "order": "shuffled", "start": "first", "per_video": 1, "seed": 3,
        "whole_strides": False,
    }  # fmt: skip


def test_weights_of_single_metrics(places, tmp_path):
    assert run(*places, "--weights", f"{TINY}=random", "--out", tmp_path / "a.json") == 0
    content = json.loads((tmp_path / "a.json").read_text())
    assert list(content["metrics"]) == ["tiny_fd_random_tiny"]
    assert "tiny_fd_random_tiny: the weights of tiny are random; not comparable with any tiny_fd" in content["warnings"]


def test_a_folder_with_damaged_files_is_survived_and_reported(tmp_path, capsys):
    arrays = videos(12, seed=3)
    for name, fakes in (("clean", arrays), ("real", videos(12, seed=4))):
        (tmp_path / name).mkdir()
        for number, array in enumerate(fakes):
            np.savez(tmp_path / name / f"{number:02d}.npz", video=array)
    words = ["--real", tmp_path / "real", "--num-real", "12", "--out", tmp_path / "a.json"]
    assert run(*words, "--fake", tmp_path / "clean") == 0
    expected = saved(tmp_path / "a.json")["value"]
    content = (tmp_path / "clean" / "05.npz").read_bytes()
    (tmp_path / "clean" / "zz_cut.npz").write_bytes(content[:100])
    (tmp_path / "clean" / "zz_empty.npz").write_bytes(b"")
    (tmp_path / "clean" / "zz_photo.npz").write_text("no array")
    (tmp_path / "clean" / "readme.txt").write_text("hello")
    capsys.readouterr()
    assert run(*words, "--fake", tmp_path / "clean") == 0
    assert saved(tmp_path / "a.json")["value"] == pytest.approx(expected, rel=1e-9)
    assert (
        f"warning: 3 fake files left out as unreadable (the first, {tmp_path}/clean/zz_cut.npz: damaged (File is not a"
        " zip file))"
    ) in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--metric: missing; say what to measure, as in --metric fvd (vidgen eval --list lists them)"),
        (["--metric", "fvd"], "no generated videos: give --ckpt with a checkpoint or --fake with a folder of videos"),
        (
            ["--metric", "fvd", "--ckpt", "a", "--fake", "b"],
            "--ckpt and --fake: both name generated videos; give one of them",
        ),
        (["--metric", "fvd", "--fake", "b", "--num-videos", "0"], "--num-videos: expected at least 1, got 0"),
        (["--metric", "fvd", "--fake", "b", "--workers", "-1"], "--workers: expected at least 0, got -1"),
        (["--metric", "fvd", "--fake", "b", "--raw-weights"], "--raw-weights: belongs to --ckpt"),
        (["--metric", "fvd", "--fake", "b", "--model", "a.B"], "--model: belongs to --ckpt"),
        (["--metric", "fvd", "--fake", "b", "sample.label=1"], "sample.label=1: belongs to --ckpt"),
        (["--metric", "fvd", "--ckpt", "/none.ckpt"], "/none.ckpt: no such checkpoint"),
        (
            ["--metric", "psnr", "--fake", "b", "--precision", "bfloat16"],
            "--precision: none of the metrics (psnr) has such a setting",
        ),
        (
            ["--metric", "fid", "--fake", "b", "--protocol", "styleganv"],
            "--protocol: none of the metrics (fid) has such a setting",
        ),
        (
            ["--metric", "fvd", "--fake", "b", "--weights", "a", "--weights", "b"],
            "--weights: a and b both; say METRIC=FILE for each",
        ),
        (
            ["--metric", "fvd", "--fake", "b", "nonsense"],
            "override 'nonsense': expected key=value",
        ),
        (["--metrik", "fvd"], "unknown argument '--metrik'; did you mean '--metric'?"),
        (
            ["--metric", "fvd", "--fake", "b", "--num-videos", "many"],
            "argument --num-videos: invalid int value: 'many'; see vidgen eval --help",
        ),
    ],
)
def test_mistakes_are_one_line(capsys, words, message):
    assert error_of(capsys, *words) == message


def test_unknown_metrics_are_one_line(capsys):
    message = error_of(capsys, "--metric", "fvd,prcision", "--fake", "b")
    assert message.startswith("--metric: unknown metric 'prcision'; did you mean 'precision'? (known: acd, best_of_n, ")


def test_mistakes_about_places_are_one_line(capsys, tmp_path, places, checkpoint):
    def message(*words: Any) -> str:
        return error_of(capsys, "--metric", TINY, "--num-frames", "6", "--device", "cpu", *words)

    assert message("--fake", tmp_path / "none", *places[:2]) == (
        f"--fake '{tmp_path}/none' does not exist; give a folder of videos, a pack, an .npz or a config"
    )
    assert message("--fake", places[1]) == "tiny_fd: needs real videos; give --real"
    assert message(*places, "--num-videos", "21") == "--num-videos 21: --fake has 20 that are long enough"
    assert message("--ckpt", checkpoint, "sample.contrsat=1") == (
        "unknown argument '--contrsat'; did you mean '--contrast'?"
        " (keywords of this model: --label, --contrast, --style, --inverted, --tint)"
    )
    assert message("--ckpt", checkpoint, "fake.name=arrays") == "fake.name=arrays: belongs to --fake"
    (tmp_path / "strips").rename(tmp_path / "moved")
    assert message("--ckpt", checkpoint) == (
        f"{checkpoint}: the data that it was trained on: data.root: no such folder: {tmp_path}/strips; give --real"
    )


def test_a_result_that_could_not_be_written_is_found_before_the_work(places, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vidgen.evaluation.request.run", None)
    (tmp_path / "file").write_text("")
    words = ["--metric", TINY, *places]
    (tmp_path / "x.json" / "result.json").mkdir(parents=True)
    assert error_of(capsys, *words, "--out", tmp_path / "x.json") == (
        f"--out: {tmp_path}/x.json is a folder; give the name of a file, as in {tmp_path}/x.json/result.json"
    )
    assert error_of(capsys, *words, "--out", tmp_path / "file" / "folder") == (
        f"--out: {tmp_path}/file/folder/result.json cannot be written (Not a directory: {tmp_path}/file);"
        " choose another place"
    )
    assert error_of(capsys, *words, "--out", tmp_path / "file" / "a.json") == (
        f"--out: {tmp_path}/file/a.json cannot be written (Not a directory: {tmp_path}/file); choose another place"
    )
    assert error_of(capsys, *words, "--out", "/proc/self/a/b.json").startswith(
        "--out: /proc/self/a/b.json cannot be written ("
    )


def test_out_of_memory_names_what_to_lower(places, capsys, monkeypatch):
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("tests.evaluation.tiny.TinyExtractor.forward", full)
    message = error_of(capsys, "--metric", TINY, "--num-frames", "6", "--device", "cpu", *places)
    assert message == "out of memory: lower --batch-size or --num-frames"


def test_the_list_is_made_for_a_terminal(capsys):
    assert run("--list") == 0
    told = capsys.readouterr().out
    assert ":class:`" not in told and ":func:`" not in told
    assert (
        "    fid.weights (str, auto): of the Inception network: ``auto``, ``random`` or a path, see InceptionV3."
        in told
    )
    assert "    ppl.latent (str, ''): which of the model's latents" in told


def test_weights_of_a_metric_that_is_not_measured_are_an_error(capsys):
    words = ("--metric", "fvd", "--fake", "b", "--weights", "fid=random")
    assert error_of(capsys, *words) == "--weights fid=…: fid is none of the metrics (fvd)"


def test_metrics_are_listed_with_their_settings(capsys):
    assert main(["eval", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("fvd: Fréchet video distance") for line in lines)
    assert "    kid.subset_size (int, 1000): frames of a subset." in lines
    assert not any("kvd.ddof" in line for line in lines)


def test_results_are_compared_and_reported(places, tmp_path, capsys):
    for name, seed in (("a", "0"), ("b", "1")):
        run(*places, "--out", tmp_path / f"{name}.json", "--seed", seed)
    capsys.readouterr()
    assert main(["eval", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    assert "tiny_fd" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert main(["eval", "report", str(tmp_path / "a.json"), "--out", str(page)]) == 0
    assert capsys.readouterr().out == f"wrote {page}\n"
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert error_of(capsys, "report") == (
        "vidgen eval report: give results, as in vidgen eval report a.json b.json --out report.html"
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from vidgen.cli.main import main; status = main(['eval', '--help']);"
        "print(status, [name for name in ('torch', 'numpy', 'yaml', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ})
    assert done.stdout.splitlines()[0].startswith("usage: vidgen eval")
    assert done.stdout.splitlines()[-1] == "0 []"
