"""``vidgen sample`` on the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.clip_merges import clip_merges
from tests.noise_model import SeededNoise, payload
from vidgen.checkpoint import load, write_checkpoint
from vidgen.cli.main import main
from vidgen.data.spec import DataSpec
from vidgen.export import export_checkpoint
from vidgen.media import FORMATS, file_name, to_uint8
from vidgen.models.mocogan import MoCoGAN
from vidgen.models.tats.transformer import TATS
from vidgen.text import ClipTokenizer

SPEC = DataSpec(3, 16, 3, None, 4, 20, 30, class_names=("bend", "jack", "2", "walk"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint with raw and averaged weights and class names."""
    path = tmp_path / "noise.ckpt"
    write_checkpoint(path, payload(SeededNoise(), {"shift": torch.tensor(0.25)}, data_spec=SPEC.to_dict()))
    return path


def plain_checkpoint(path: Path, model: Any, **about: Any) -> Path:
    write_checkpoint(path, payload(model, **about))
    return path


def run(checkpoint: Path, out: Path, *words: str) -> int:
    return main(["sample", "--ckpt", str(checkpoint), "--out", str(out), "--device", "cpu", "--num", "3", *words])


def error_of(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert run(*arguments) == 2
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    return output.err.strip().removeprefix("vidgen: error: ")


def video(folder: Path, number: int = 1) -> np.ndarray:
    return np.load(folder / f"{number:06d}.npz")["video"].transpose(3, 0, 1, 2)


def expected(number: int = 1, shift: float = 0.25, **keywords: Any) -> np.ndarray:
    model = SeededNoise()
    with torch.no_grad():
        model.shift += shift
        return to_uint8(model.sample(3, **keywords))[number].numpy()


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_is_written_and_reported(checkpoint, tmp_path, capsys, format):
    out = tmp_path / "out"
    assert run(checkpoint, out, "--format", format) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        f"wrote 3 videos to {out}/; 0 were there already",
        f"  grid: {out}/grid.mp4",
        f"  grid: {out}/grid.gif",
    ]
    videos = [file_name(f"{number:06d}", format) for number in range(3)]
    assert sorted(os.listdir(out)) == [*videos, "grid.gif", "grid.mp4", "samples.json"]


def test_averaged_weights_by_default_and_raw_ones_on_request(checkpoint, tmp_path):
    run(checkpoint, tmp_path / "ema", "--format", "npz")
    run(checkpoint, tmp_path / "raw", "--format", "npz", "--raw-weights")
    assert np.array_equal(video(tmp_path / "ema"), expected())
    assert np.array_equal(video(tmp_path / "raw"), expected(shift=0))
    assert '"weights": "raw"' in (tmp_path / "raw" / "samples.json").read_text()


@pytest.mark.parametrize(
    ("words", "keywords"),
    [
        (["--class", "walk"], {"label": 3}),
        (["--class", "1"], {"label": 1}),
        (["--class", "2"], {"label": 2}),
        (["--label", "3"], {"label": 3}),
        (["--seed", "7", "--num-frames", "5"], {"seed": 7, "num_frames": 5}),
        (["--contrast", "0.5", "--style=mirrored"], {"contrast": 0.5, "style": "mirrored"}),
        (["--contrast", "0"], {"contrast": 0.0}),
        (["--inverted"], {"inverted": True}),
        (["--inverted", "false"], {}),
        (["--tint", "0.1", "-0.2", "1e-1"], {"tint": [0.1, -0.2, 0.1]}),
        (["--tint=[0.1,0,0]", "--fps", "12"], {"tint": [0.1, 0.0, 0.0]}),
        (["--batch-size", "1"], {}),
    ],
)
def test_options_and_the_models_keywords_arrive(checkpoint, tmp_path, words, keywords):
    assert run(checkpoint, tmp_path / "out", "--format", "npz", *words) == 0
    assert np.array_equal(video(tmp_path / "out"), expected(**keywords))


def test_rounding_rule_arrives(checkpoint, tmp_path):
    assert run(checkpoint, tmp_path / "out", "--format", "npz", "--rounding", "truncate") == 0
    with torch.no_grad():
        truncated = to_uint8(load(checkpoint).sample(3), "truncate")[1].numpy()
    assert np.array_equal(video(tmp_path / "out"), truncated)


def test_class_names_go_before_indices(tmp_path):
    spec = DataSpec(3, 16, 3, None, 4, 20, 30, class_names=("0", "1", "3", "4"))
    path = plain_checkpoint(tmp_path / "x.ckpt", SeededNoise(), data_spec=spec.to_dict())
    run(path, tmp_path / "out", "--format", "npz", "--class", "3")
    assert np.array_equal(video(tmp_path / "out"), expected(shift=0, label=2))


def test_same_command_again_goes_on(checkpoint, tmp_path, capsys):
    run(checkpoint, tmp_path / "out", "--format", "npz")
    (tmp_path / "out" / "000001.npz").unlink()
    capsys.readouterr()
    assert run(checkpoint, tmp_path / "out", "--format", "npz") == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote 1 videos to {tmp_path}/out/; 2 were there already"
    assert np.array_equal(video(tmp_path / "out"), expected())


def test_python_and_command_line_make_the_same_videos(tmp_path):
    torch.manual_seed(0)
    path = plain_checkpoint(tmp_path / "x.ckpt", MoCoGAN(**MoCoGAN.small_variants()["class_in_generator"]))
    assert run(path, tmp_path / "out", "--format", "npz", "--label", "1", "--num-frames", "6") == 0
    with torch.inference_mode():
        videos = to_uint8(load(path).sample(3, num_frames=6, label=1))
    assert np.array_equal(video(tmp_path / "out", 2), videos[2].numpy())


def test_exported_folder_makes_the_same_videos(checkpoint, tmp_path, capsys):
    export_checkpoint(checkpoint, tmp_path / "exported")
    assert run(tmp_path / "exported", tmp_path / "out", "--format", "npz", "--class", "walk") == 0
    assert np.array_equal(video(tmp_path / "out"), expected(label=3))
    capsys.readouterr()
    assert error_of(capsys, tmp_path / "exported", tmp_path / "raw", "--raw-weights") == (
        f"--raw-weights: {tmp_path}/exported has averaged weights only; export the raw ones as well"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class", "wlk"], "--class wlk: unknown class; did you mean 'walk'? (classes: bend, jack, 2, walk)"),
        (["--class", "4"], "--class 4: unknown class (classes: bend, jack, 2, walk)"),
        (["--class", "walk", "--label", "3"], "--class and --label: say the same thing; give one of them"),
        (
            ["--contrst", "0.5"],
            "unknown argument '--contrst'; did you mean '--contrast'? "
            "(keywords of this model: --label, --contrast, --style, --inverted, --tint)",
        ),
        (
            ["--batchsize", "5"],
            "unknown argument '--batchsize'; did you mean '--batch-size'? "
            "(keywords of this model: --label, --contrast, --style, --inverted, --tint)",
        ),
        (["--contrast", "much"], "--contrast: 'much' is of the wrong type (expected float)"),
        (["--contrast", "1", "2"], "--contrast: '1 2' is of the wrong type (expected float)"),
        (["--contrast"], "--contrast: has no value (expected float)"),
        (["--contrast", "1", "--contrast", "2"], "--contrast: given twice"),
        (["--style", "wild"], "--style: 'wild' is of the wrong type (expected 'plain' | 'mirrored')"),
        (["--label", "1.5"], "--label: '1.5' is of the wrong type (expected int | None)"),
        (["--tint", "red"], "--tint: 'red' is of the wrong type (expected Sequence[float] | None)"),
        (["walk"], "unexpected argument 'walk'; keywords are given as --name value"),
        (["--num", "many"], "argument --num: invalid int value: 'many'; see vidgen sample --help"),
        (["--num", "0"], "num: must be above 0, not 0"),
        (["--format", "avi"], "unknown format 'avi' (known: mp4, gif, png, strip, npz)"),
        (["--device", "tpu"], "--device tpu: unknown device; use cpu, cuda or cuda:N"),
        (["--model", "nosuch.Model"], "model 'nosuch.Model' cannot be imported: No module named 'nosuch'"),
    ],
)
def test_mistakes_are_one_line(checkpoint, tmp_path, capsys, words, message):
    assert error_of(capsys, checkpoint, tmp_path / "out", *words) == message
    assert not (tmp_path / "out").exists()


def test_missing_arguments_and_checkpoint_are_one_line(tmp_path, capsys):
    assert main(["sample"]) == 2
    assert capsys.readouterr().err == (
        "vidgen: error: the following arguments are required: --ckpt, --out; see vidgen sample --help\n"
    )
    assert error_of(capsys, tmp_path / "none.ckpt", tmp_path / "out") == f"{tmp_path}/none.ckpt: no such checkpoint"


def test_models_without_classes_or_their_names_say_so(tmp_path, capsys):
    unconditional = plain_checkpoint(tmp_path / "a.ckpt", MoCoGAN(**MoCoGAN.small_variants()["default"]))
    assert error_of(capsys, unconditional, tmp_path / "out", "--class", "1") == "--class 1: the model has no classes"
    unnamed = plain_checkpoint(tmp_path / "b.ckpt", SeededNoise())
    assert error_of(capsys, unnamed, tmp_path / "out", "--class", "walk") == (
        "--class walk: the checkpoint does not name its classes; give an index, from 0"
    )
    assert run(unnamed, tmp_path / "out", "--class", "1") == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_one_line(checkpoint, tmp_path, capsys):
    message = error_of(capsys, checkpoint, tmp_path / "out", "--device", "cuda")
    assert message == "--device cuda: no CUDA device here; use cpu"


def test_out_of_memory_names_what_to_lower(checkpoint, tmp_path, capsys, monkeypatch):
    def full(*args, **keywords):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(SeededNoise, "sample", full)
    monkeypatch.setattr("vidgen.cli.keywords.sample_keywords", lambda cls: {})
    message = error_of(capsys, checkpoint, tmp_path / "out")
    assert message == "out of memory: lower --batch-size, --chunk-frames or --num-frames"


def test_help_with_a_checkpoint_lists_the_models_keywords(checkpoint, capsys):
    assert main(["sample", "--ckpt", str(checkpoint), "--help"]) == 0
    text = capsys.readouterr().out
    listed = text[text.index("keywords of") : text.index("\n\nexample:")]
    assert listed.splitlines() == [
        "keywords of seeded_noise:",
        "  --label (int | None, default None): class of all videos, an index; None for any.",
        "  --contrast (float, default 1.0): factor of all values, in [0, 1].",
        "  --style ('plain' | 'mirrored', default plain): `mirrored` flips left and right.",
        "  --inverted (bool, default False): change the sign.",
        "  --tint (Sequence[float] | None, default None): added to each channel.",
    ]


def test_help_without_a_checkpoint_imports_nothing_heavy():
    code = (
        "import sys; from vidgen.cli.main import main; status = main(['sample', '--help']);"
        "print(status, [name for name in ('torch', 'numpy', 'yaml', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0].startswith("usage: vidgen sample")
    assert done.stdout.splitlines()[-1] == "0 []"


# A chain that paints captions -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of TATS, conditioned on texts of the real vocabulary."""
    arguments = {**TATS.small_variants()["text"], "text_vocabulary": 49408, "text_length": 8}
    torch.manual_seed(0)
    return plain_checkpoint(tmp_path_factory.mktemp("painter") / "tats.ckpt", TATS(**arguments))


def test_captions_in_a_file_become_videos(painter: Path, tmp_path: Path) -> None:
    merges = clip_merges(tmp_path)
    captions = ["a man walks", "two dogs run in the rain"]
    (tmp_path / "captions.txt").write_text("\n".join(captions))
    words = ["--context", str(tmp_path / "captions.txt"), "--bpe", str(merges), "--format", "npz"]
    arguments = ["sample", "--ckpt", str(painter), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main([*arguments, *words]) == 0
    model = load(painter)
    batch = {"text": ClipTokenizer(merges, 8).encode(captions)}
    made = to_uint8(model.sample(2, batch=batch))
    for number in range(2):
        assert np.array_equal(video(tmp_path / "out", number), made[number].numpy())


def test_merges_without_captions_are_refused(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "--bpe: encodes captions; give them with --context FILE.txt"
    assert error_of(capsys, checkpoint, tmp_path / "out", "--bpe", "merges.txt") == message
