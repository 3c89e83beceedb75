"""What README shows works as written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.contract.running import models
from tests.data.layouts import save_video
from tests.data.strips import random_frames
from tests.interop.legacy_file import LegacyFile
from tests.interop.svg_file import official_states, official_svg, uncounted
from tests.interop.torch7_file import Official, Torch7File
from vidgen.cli.main import main
from vidgen.models.svg import SVG
from vidgen.models.vgan import VGAN

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for kind, block in BLOCKS if not kind for line in block.splitlines() if line.startswith("vidgen ")]
SMALL = [
    "model.generator_width=4",
    "model.discriminator_width=4",
    "trainer.max_steps=3",
    "trainer.accelerator=cpu",
    "log.every=1",
    "log.num_samples=1",
    "log.samples_every=0",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def vidgen(folder: Path, *arguments: str) -> str:
    """Run one command in a folder, in this process, and expect success; what it prints."""
    printed, complaints, path = io.StringIO(), io.StringIO(), list(sys.path)
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complaints):
        status = main(list(arguments))
    sys.path[:] = path
    assert status == 0, f"{shlex.join(arguments)}\n{complaints.getvalue()}"
    return printed.getvalue()


def vidgen_process(folder: Path, *arguments: str) -> str:
    """The same in a process of its own, which may import what lies in the folder."""
    done = subprocess.run(
        [sys.executable, "-m", "vidgen", *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the configs, in which commands of README can be run."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    return tmp_path


def command(start: str) -> list[str]:
    """The one command of README that begins so, without the program."""
    found = [line for line in COMMANDS if line.startswith(start)]
    assert len(found) == 1, f"{len(found)} commands of README begin with {start!r}"
    return shlex.split(found[0])[1:]


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\S+)$", README, re.MULTILINE)
    assert targets == ["quickstart", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    assert "fit --config configs/quickstart.yaml" in makefile


def test_links_and_pictures_exist() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).is_file(), target


def test_every_command_is_covered() -> None:
    words = sorted({shlex.split(line)[1] for line in COMMANDS})
    assert words == ["convert", "data", "eval", "export", "fit", "sample"]
    assert len(COMMANDS) == 16


def test_own_videos_are_inspected_trained_on_and_packed_as_written(clone: Path) -> None:
    for seed in range(3):
        save_video(clone / "PATH/TO/VIDEOS" / f"{seed}.mkv", random_frames(40, 20, seed=seed))
    small = [*SMALL, "data.batch_size=2", "data.images_per_batch=2", "data.num_workers=0", "trainer.devices=1"]
    inspect, pack = command("vidgen data inspect"), command("vidgen data pack")
    assert "videos: 3\n" in vidgen(clone, *inspect)
    assert (clone / "data_report" / "index.html").is_file()
    fits = [shlex.split(line)[1:] for line in COMMANDS if "configs/mocogan/videos.yaml" in line and " fit " in line]
    dry, first, resumed = fits
    assert "generator" in vidgen(clone, *dry, *small)
    assert "trained 3 iterations" in vidgen(clone, *first, *small)
    assert "trained 4 iterations" in vidgen(clone, *resumed, *small, "trainer.max_steps=4")
    assert vidgen(clone, *pack).startswith("packs/videos: 3 videos, 120 frames, ")
    packed = "data={name: packed, root: packs/videos, resolution: 64, num_frames: 16, stride: 2, batch_size: 2,"
    vidgen(clone, *dry[:3], packed + " images_per_batch: 2}", *SMALL, "--out", "from_pack")


def test_own_model_trains_and_samples_as_written(clone: Path) -> None:
    (code,) = (block for kind, block in BLOCKS if kind == "python" and "class TinyGAN" in block)
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) <= 40
    (clone / "my_model.py").write_text(code)
    fit = command("vidgen fit --config configs/quickstart.yaml model=")
    vidgen_process(clone, *fit, *SMALL[2:], "--out", "run")
    checkpoint = "run/checkpoints/iteration_00000003.ckpt"
    vidgen_process(
        clone, "sample", "--ckpt", checkpoint, "--model", "my_model.TinyGAN", "--num", "2", "--out", "samples"
    )
    assert (clone / "samples" / "000001.mp4").is_file()


def test_quickstart_checkpoint_samples_and_exports_as_written(clone: Path) -> None:
    vidgen(clone, "fit", "--config", "configs/quickstart.yaml", "--out", "runs/quickstart", *SMALL)
    sample, export = command("vidgen sample --ckpt runs/quickstart"), command("vidgen export")
    named = Path(sample[sample.index("--ckpt") + 1])
    assert named == Path(export[export.index("--ckpt") + 1])
    (clone / "runs/quickstart/checkpoints/iteration_00000003.ckpt").rename(clone / named)
    vidgen(clone, *[("2" if word == "64" else word) for word in sample])
    assert (clone / "samples" / "000001.gif").is_file()
    vidgen(clone, *export)
    (code,) = (block for kind, block in BLOCKS if kind == "python" and "vidgen.load" in block)
    script = code + "\nassert videos.shape == (16, 3, 32, 32, 32)\n"
    subprocess.run([sys.executable, "-c", script], cwd=clone, env=ENVIRONMENT, check=True, timeout=120)


def test_official_files_convert_and_given_videos_are_continued_as_written(clone: Path) -> None:
    for seed in range(2):
        save_video(clone / "PATH/TO/VIDEOS" / f"{seed}.mkv", random_frames(4, 64, seed=seed))
    continuing = command("vidgen sample --ckpt runs/golf_first_frame")
    checkpoint = clone / continuing[continuing.index("--ckpt") + 1]
    checkpoint.parent.mkdir(parents=True)
    for condition, out in (("none", clone / "vgan.ckpt"), ("first_frame", checkpoint)):
        module = Official().generator(VGAN(width=1, condition=condition).generator)  # type: ignore[arg-type]
        Torch7File().write(clone / "iter65000_net.t7", module)
        vidgen(clone, *command("vidgen convert --model vgan"))
        (clone / "vgan.ckpt").rename(out)
    model = SVG(widths=(1, 1, 1, 1), g_dim=2, z_dim=2, rnn_size=2)
    LegacyFile(python=3).write(
        clone / "svglp_smmnist2.pth", official_svg(uncounted(official_states(model)), {"n_past": 2})
    )
    vidgen(clone, *command("vidgen convert --model svg"))
    vidgen(clone, *continuing)
    assert sorted(path.name for path in (clone / "futures").glob("0*")) == ["000000.mp4", "000001.mp4"]


def test_numbers_are_made_compared_and_reported_as_written(clone: Path) -> None:
    vidgen(clone, "fit", "--config", "configs/quickstart.yaml", "--out", "runs/quickstart", *SMALL)
    own, others = command("vidgen eval --ckpt"), command("vidgen eval --real")
    named = clone / own[own.index("--ckpt") + 1]
    (clone / "runs/quickstart/checkpoints/iteration_00000003.ckpt").rename(named)
    for seed in range(4):
        for side in ("REAL", "FAKE"):
            save_video(
                clone / "PATH/TO" / side / f"{seed}.mkv", random_frames(16, 20, seed=seed + 10 * (side == "FAKE"))
            )
    own = [("fvd" if word == "fvd,fid" else "2" if word == "2048" else word) for word in own]
    assert "fvd_random_i3d" in vidgen(clone, *own, "--weights", "random")
    assert "kvd_random_i3d" in vidgen(clone, *others, "--weights", "random")
    found = json.loads((clone / "theirs.json").read_text())["metrics"]["fvd_random_i3d"]
    assert found["value"] > 0 and found["protocol"]["protocol"] == "original"
    assert "fvd_random_i3d" in vidgen(clone, *command("vidgen eval compare"))
    vidgen(clone, *command("vidgen eval report"))
    assert "fvd_random_i3d" in (clone / "report.html").read_text()


def test_a_metric_is_used_from_python_as_written() -> None:
    (code,) = (block for kind, block in BLOCKS if kind == "python" and "FrechetVideoDistance" in block)
    assert len([line for line in code.splitlines() if line.strip()]) == 5
    code = code.replace('FrechetVideoDistance("styleganv")', 'FrechetVideoDistance("styleganv", weights="random")')
    videos = {f"{side}_videos": torch.randint(256, (2, 3, 9, 16, 16), dtype=torch.uint8) for side in ("real", "fake")}
    exec(code, videos)
    assert float(videos["fvd"].compute()) > 0


def test_the_table_of_protocols_is_that_of_the_code() -> None:
    from vidgen.metrics.video_distances import PROTOCOLS

    rows = re.findall(r"^\| (`\w+`[^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|([^|]*)\|$", README, re.MULTILINE)
    named = {name: row for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    assert named.keys() == PROTOCOLS.keys()
    for name, row in named.items():
        protocol, (_, resize, epsilon, denominator, clips) = PROTOCOLS[name], (cell.strip() for cell in row)
        assert float(epsilon) == protocol.bn_eps
        assert denominator == ("N − 1" if protocol.ddof else "N")
        assert clips.startswith(f"{protocol.num_frames} ")
        assert ("every 8th" in clips) == (protocol.stride == 8)
        assert ("the first videos" in clips) == (protocol.order == "first")
        assert ("TensorFlow 1" in resize) == (protocol.preprocessing.resize == "tf1")
        assert ("centre crop" in resize) == (protocol.preprocessing.crop == "short_side_center")


def test_named_checkpoint_is_the_last_one_of_the_quickstart() -> None:
    steps = re.search(r"max_steps: (\d+)", (ROOT / "configs" / "quickstart.yaml").read_text())
    assert steps is not None and f"iteration_{int(steps[1]):08d}.ckpt" in README


def test_models_table_agrees_with_the_registry() -> None:
    from vidgen.registry import MODELS

    rows = re.findall(r"^\| \[`(\w+)`\]\(([^)]+)\) \|(.*)\|$", README, re.MULTILINE)
    assert [row[0] for row in rows] == models()
    for name, path, rest in rows:
        cls = MODELS.get(name)
        assert cls.__module__.replace(".", "/") + ".py" == path
        licence = re.search(r"\(([^)]+)\)$", cls.original)
        assert licence is not None and licence[1] in rest
