"""Every recipe composes, is accepted by the checker and builds at full width; those of papers read what they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.data.layouts import save_video
from tests.data.strips import random_frames, save_strip
from vidgen.config import build_data, build_model, check, compose
from vidgen.config.run import RunConfig
from vidgen.data.module import VideoDataModule

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(path for path in CONFIGS.rglob("*.yaml") if "_base_" not in path.parts)

VGAN = {"generator": 16_245_383, "discriminator": 11_057_858}
G0, G1, CRITIC = 825_444, 3_622_691, 11_032_449
TGAN = {"generator.frame_seed": G0, "generator.image": G1, "discriminator": CRITIC}
CLASSES = 101
PARAMETERS = {
    "mocogan/weizmann.yaml": {
        "generator": 3_282_452,
        "image_discriminator": 663_296,
        "video_discriminator": 11_187_968,
    },
    "mocogan/shape_motion.yaml": {
        "generator": 3_249_684,
        "image_discriminator": 663_296,
        "video_discriminator": 11_056_896,
    },
    "vgan/golf.yaml": VGAN,
    "vgan/beach.yaml": VGAN,
    "vgan/train_station.yaml": VGAN,
    "vgan/baby.yaml": VGAN,
    "vgan/ucf101.yaml": VGAN,
    "vgan/golf_first_frame.yaml": {"generator": 68_216_455, "discriminator": 44_135_810},
    "tgan/ucf101.yaml": TGAN,
    "tgan/ucf101_weight_clipping.yaml": TGAN,
    "tgan/ucf101_vanilla.yaml": TGAN,
    "tgan/golf.yaml": TGAN,
    "tgan/moving_mnist.yaml": {
        "generator.frame_seed": G0,
        "generator.image": 3_622_113,
        "discriminator": 11_024_257,
    },
    # Not official. G0's first layer has 512 weights more per class. G1 has a linear layer to 256 channels of 4 x 4
    # pixels, a batch norm of as many numbers with a scale and a shift each, and 256 channels more that enter its first
    # deconvolution, of 256 channels and 4 x 4 pixels. The critic's first layer has 64 kernels of 4 x 4 x 4 more per
    # class.
    "tgan/ucf101_classes.yaml": {
        "generator.frame_seed": G0 + CLASSES * 512,
        "generator.image": G1 + CLASSES * 4096 + 2 * 4096 + 256 * 256 * 16,
        "discriminator": CRITIC + CLASSES * 64 * 64,
    },
}
"""Counts of the official networks for the papers' settings."""


def name(path: Path) -> str:
    """Path below configs/."""
    return path.relative_to(CONFIGS).as_posix()


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_builds_on_the_meta_device(path: Path, tmp_path: Path) -> None:
    (tmp_path / "a video").touch()  # the checker only asks that the folder holds something
    (tmp_path / "train.txt").touch()
    for run in check(compose(path, [] if path.stem == "quickstart" else [f"data.root={tmp_path}"])):
        with torch.device("meta"):
            model = build_model(run)
        networks = {network: number_of_parameters(model, network) for network in model.networks()}
        assert all(networks.values())
        expected = PARAMETERS.get(name(path), {})
        assert {network: number_of_parameters(model, network) for network in expected} == expected


def number_of_parameters(model: torch.nn.Module, network: str) -> int:
    """Parameters of a part of a model."""
    return sum(parameter.numel() for parameter in model.get_submodule(network).parameters())


def test_every_listed_recipe_exists() -> None:
    assert PARAMETERS.keys() <= {name(path) for path in RECIPES}


def test_every_recipe_of_official_networks_is_listed() -> None:
    official = {name(path) for path in RECIPES if path.parent.name in ("vgan", "tgan") and "cpu" not in path.stem}
    assert official == {listed for listed in PARAMETERS if listed.split("/")[0] in ("vgan", "tgan")}


# Data --------------------------------------------------------------------------------------------------------------


def recipe(path: str, *overrides: str) -> tuple[RunConfig, VideoDataModule]:
    """A recipe and its data, two clips in a batch; its model accepts them."""
    more = ["data.batch_size=2", "data.num_workers=0", *overrides]
    (run,) = check(compose(CONFIGS / path, more))
    data = build_data(run, 0)
    with torch.device("meta"):
        build_model(run).check_data(data.spec)
    return run, data


def first_batch(data: VideoDataModule) -> dict[str, Tensor]:
    """The first batch of training."""
    batch: dict[str, Tensor] = next(iter(data.train_dataloader()))
    return batch


def scene(root: Path) -> dict[str, np.ndarray]:
    """Clips of 128 x 128 pixels as the official code has them, three of four listed; name -> frames."""
    clips = {f"b/{stem}.jpg": random_frames(length, 128, seed=length) for stem, length in SCENE.items()}
    for clip, frames in clips.items():
        save_strip(root / clip, frames, vertical=True)
    (root / "train.txt").write_text("b/0002.jpg\nb/0001.jpg\nb/0003.jpg\n")
    return clips


SCENE = {"0001": 35, "0002": 20, "0003": 40, "0004": 33}
"""Clips and their frames."""


def levels(video: Tensor) -> np.ndarray:
    """Clips ``(C, T, H, W)`` in [-1, 1] as levels 0 to 255 ``(T, H, W, C)``."""
    return ((video.permute(1, 2, 3, 0).numpy() + 1) * 127.5).round()


SCENES = ["golf", "beach", "train_station", "baby", "golf_first_frame"]


@pytest.mark.parametrize("stem", SCENES)
def test_vgan_reads_the_first_32_frames_of_the_clips_in_the_list(stem, tmp_path):
    clips = scene(tmp_path)
    _, data = recipe(f"vgan/{stem}.yaml", f"data.root={tmp_path}")
    assert list(data.dataset.names) == ["b/0001.jpg", "b/0002.jpg", "b/0003.jpg"]
    assert data.spec.class_names == () and (data.spec.min_length, data.spec.max_length) == (20, 40)
    for video in range(3):
        assert data.dataset.clip_times(video, 12345)[:20] == tuple(range(20))
    batch = next(iter(data.evaluation_loader(3)))
    assert batch["video"].shape == (3, 3, 32, 64, 64)
    for number, shown in enumerate((range(32), [*range(20), *[19] * 12], range(32))):
        frames = clips[data.dataset.names[number]][list(shown)].astype(np.float64)
        halved = frames.reshape(32, 64, 2, 64, 2, 3).mean(axis=(2, 4))
        assert np.abs(levels(batch["video"][number]) - halved).max() <= 1  # rounded after rows and after columns
    assert first_batch(data)["video"].shape == (2, 3, 32, 64, 64)


def test_vgan_may_begin_anywhere(tmp_path):
    scene(tmp_path)
    _, data = recipe("vgan/golf.yaml", f"data.root={tmp_path}", "data.clips.start=random")
    assert {data.dataset.clip_times(0, draw)[0] for draw in range(20)} == {0, 1, 2, 3}


def test_tgan_reads_every_second_pixel_of_golf_clips(tmp_path):
    clips = scene(tmp_path)
    _, data = recipe("tgan/golf.yaml", f"data.root={tmp_path}")
    assert list(data.dataset.names) == ["b/0001.jpg", "b/0002.jpg", "b/0003.jpg"]
    assert {data.dataset.clip_times(1, draw)[0] for draw in range(20)} == {0, 1, 2, 3, 4}
    batch = next(iter(data.evaluation_loader(3)))
    for number, times in enumerate(batch["times"].int().tolist()):
        frames = clips[data.dataset.names[number]][times]
        assert np.array_equal(levels(batch["video"][number]), frames[:, 1::2, 1::2])


def test_tgan_reads_moving_mnist_as_it_is_downloaded(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (20, 5, 64, 64), dtype=np.uint8)  # time first
    np.save(tmp_path / "mnist_test_seq.npy", stored)
    _, data = recipe("tgan/moving_mnist.yaml", f"data.root={tmp_path / 'mnist_test_seq.npy'}")
    assert len(data.dataset) == 5 and data.spec.class_names == ()
    assert {data.dataset.clip_times(0, draw)[0] for draw in range(20)} == {0, 1, 2, 3, 4}
    batch = next(iter(data.evaluation_loader(5)))
    assert batch["video"].shape == (5, 1, 16, 64, 64)
    for number, times in enumerate(batch["times"].int().tolist()):
        assert np.array_equal(levels(batch["video"][number])[..., 0], stored[times, number])


UCF = ["vgan/ucf101", "tgan/ucf101", "tgan/ucf101_weight_clipping", "tgan/ucf101_vanilla", "tgan/ucf101_classes"]


@pytest.mark.parametrize("stem", UCF)
def test_ucf101_is_scaled_and_cropped_as_officially(stem, tmp_path):
    classes = CLASSES if stem.endswith("classes") else 2
    frames = np.random.default_rng(0).integers(0, 256, (18, 240, 320, 3), dtype=np.uint8)
    save_video(tmp_path / "train" / "000" / "a.mkv", frames)
    for number in range(1, classes):
        save_video(tmp_path / "train" / f"{number:03d}" / "a.mkv", random_frames(18, 16, seed=number))
    save_video(tmp_path / "test" / "000" / "b.mkv", random_frames(18, 16))
    run, data = recipe(f"{stem}.yaml", f"data.root={tmp_path}")
    assert len(data.dataset) == classes
    batch = next(iter(data.evaluation_loader(2)))
    shown = batch["times"][0].int().tolist()
    scaled = [Image.fromarray(frames[time]).resize((85, 64), Image.Resampling.NEAREST) for time in shown]
    assert np.array_equal(levels(batch["video"][0]), np.stack(scaled)[:, :, 10:74])
    if run.model["name"] == "vgan":
        assert shown == [*range(18), *[17] * 14]
    else:
        assert {data.dataset.clip_times(0, draw)[0] for draw in range(20)} == {0, 1, 2}
        assert shown == list(range(shown[0], shown[0] + 16))
    if stem.endswith("classes"):
        assert first_batch(data)["label"].shape == (2,)


def settings(path: str, tmp_path: Path) -> dict[str, Any]:
    """Everything that a recipe sets, by dotted key."""
    (tmp_path / "train.txt").touch()
    (run,) = check(compose(CONFIGS / path, [f"data.root={tmp_path}"]))
    found = {f"model.{key}": value for key, value in run.model.items()}
    return {**found, "batch_size": run.data["batch_size"], "max_steps": run.trainer["max_steps"], "ema": run.ema}


def test_settings_are_the_official_ones(tmp_path):
    expected = {
        "vgan/golf.yaml": {"model.learning_rate": 2e-4, "batch_size": 64, "ema": None, "model.mask_weight": 0.1},
        "vgan/golf_first_frame.yaml": {"model.condition": "first_frame", "model.width": 128, "batch_size": 32},
        "tgan/golf.yaml": {"model.initialization": "uniform", "model.uniform_scale": 0.01, "model.constraint": "svc"},
        "tgan/moving_mnist.yaml": {"model.initialization": "uniform", "model.channels": 1, "max_steps": 312_500},
        "tgan/ucf101.yaml": {
            "model.learning_rate": 5e-5,
            "batch_size": 32,
            "ema": None,
            "model.objective": "wgan",
            "model.constraint": "svc",
            "model.constraint_interval": 5,
            "model.initialization": "lecun_normal",
        },
        "tgan/ucf101_weight_clipping.yaml": {
            "model.objective": "wgan",
            "model.constraint": "weight_clipping",
            "model.constraint_interval": 1,
            "model.clip_value": 0.01,
            "model.initialization": "lecun_normal",
        },
        "tgan/ucf101_vanilla.yaml": {
            "model.objective": "vanilla",
            "model.constraint": "none",
            "model.instance_noise": 0.3,
            "model.initialization": "lecun_normal",
        },
        "tgan/ucf101_classes.yaml": {"model.dim_category": CLASSES, "model.constraint": "svc", "max_steps": 298_031},
    }
    for path, wanted in expected.items():
        found = settings(path, tmp_path)
        assert {key: found[key] for key in wanted} == wanted
