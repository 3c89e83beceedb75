"""Every recipe composes, is accepted by the checker and builds at full width; those of papers read what they should."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
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
from vidgen.data import texts
from vidgen.data.frame_folder import FrameFolder
from vidgen.data.module import VideoDataModule
from vidgen.data.moving_mnist import IDX_FILES, write_idx
from vidgen.models.base import VideoModel

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(path for path in CONFIGS.rglob("*.yaml") if "_base_" not in path.parts)

VGAN = {"generator": 16_245_383, "discriminator": 11_057_858}
G0, G1, CRITIC = 825_444, 3_622_691, 11_032_449
TGAN = {"generator.frame_seed": G0, "generator.image": G1, "discriminator": CRITIC}
CLASSES = 101
TATS = {
    "vqgan.encoder": 7_403_648,
    "vqgan.decoder": 16_116_995,
    "vqgan.project": 65_792,
    "vqgan.unproject": 65_792,
    "vqgan.image_discriminator": 2_766_529,
    "vqgan.video_discriminator": 11_057_857,
    "transformer.transformer": 336_914_432,
}
DIGITS = {"encoder": 3_805_376, "decoder": 6_558_529, "predictor": 1_121_152, "posterior": 564_500}
VIDEO_VAE = {
    "encoder": 6_953_280,
    "decoder": 6_952_771,
    "attr_net": 68_115,
    "post_q": 197_760,
    "post_a": 265_728,
    "post_dy": 328_832,
    "state_mlp": 131_712,
    "prior": 200_192,
    "lstm": 4_198_400,
}
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
    "svg/moving_mnist.yaml": {**DIGITS, "prior": 564_500},
    "svg/moving_mnist_fixed_prior.yaml": DIGITS,
    "svg/kth.yaml": {"encoder": 8_688_448, "decoder": 11_821_505, "predictor": 1_124_736, "posterior": 571_696},
    "svg/bair.yaml": {
        "encoder": 8_689_600,
        "decoder": 11_822_659,
        "predictor": 1_134_976,
        "posterior": 592_256,
        "prior": 592_256,
    },
    "tats/ucf101.yaml": {**TATS, "transformer.transformer": 337_121_280},
    "tats/ucf101_unconditional.yaml": TATS,
    "tats/sky_timelapse.yaml": TATS,
    "tats/taichi_hd.yaml": TATS,
    "tats/sky_timelapse_hierarchical.yaml": {
        **{network: number for network, number in TATS.items() if network.startswith("vqgan.")},
        "keys.transformer": 336_914_432,
        "interpolation.transformer": 337_176_576,
    },
    # The VQGAN of MUGEN is inferred; what is official is the transformer before whose 1024 codes stand 256 of a text.
    "tats/mugen_text.yaml": {"transformer.transformer": 438_363_136},
    # Those of sound: one channel has 2 x 27 x 32 weights less in the first convolution and 2 x (27 x 64 + 1) less in
    # the last; 64 codes of 1024 stand before 576 of 16384, in a block of 639.
    "tats/drums.yaml": {
        **{network: number for network, number in TATS.items() if network.startswith("vqgan.")},
        "audio_vqgan.encoder": 7_403_648 - 2 * 27 * 32,
        "audio_vqgan.decoder": 16_116_995 - 2 * (27 * 64 + 1),
        "transformer.transformer": 336_914_432 + (2 * 1024 + 639 - 1024) * 1024,
    },
    # There is no official code of VideoVAE; counted by hand. Every value of an attribute has 128 weights and a bias
    # behind the hidden layer of attr_net, and 128 weights each into those of post_a and prior.
    "video_vae/weizmann.yaml": VIDEO_VAE,
    "video_vae/mit_flickr.yaml": {
        **VIDEO_VAE,
        "attr_net": 68_115 - (19 - 4) * 129,
        "post_a": 265_728 - (19 - 4) * 128,
        "prior": 200_192 - (19 - 4) * 128,
    },
}
"""Counts of the official networks for the papers' settings; of recipes with several stages by stage and network."""

TOTALS = {
    "svg/moving_mnist.yaml": 12_614_057,
    "svg/moving_mnist_fixed_prior.yaml": 12_614_057 - 564_500,
    "svg/kth.yaml": 22_206_385,
    "svg/bair.yaml": 22_831_747,
    "video_vae/weizmann.yaml": 19_296_790,
}
"""Of whole models."""


def name(path: Path) -> str:
    """Path below configs/."""
    return path.relative_to(CONFIGS).as_posix()


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_builds_on_the_meta_device(path: Path, tmp_path: Path) -> None:
    (tmp_path / "a video").touch()  # the checker only asks that the folder holds something
    for beside in ("train.txt", "texts.jsonl"):
        (tmp_path / beside).touch()
    counts: dict[str, int] = {}
    expected = PARAMETERS.get(name(path), {})
    for run, model in stages(path, [] if path.stem == "quickstart" else [f"data.root={tmp_path}"]):
        prefix = f"{run.stage}." if run.stage else ""
        networks = {f"{prefix}{network}": size(module) for network, module in model.networks().items()}
        assert networks and all(networks.values())
        within = [network for network in expected if network.startswith(prefix) and network not in networks]
        counts |= networks
        counts |= {network: size(model.get_submodule(network.removeprefix(prefix))) for network in within}
        if name(path) in TOTALS:
            assert size(model) == TOTALS[name(path)]
    assert {network: counts[network] for network in expected} == expected


def stages(path: Path, overrides: list[str]) -> Iterator[tuple[RunConfig, VideoModel]]:
    """Each stage and its model on the meta device; in place of the checkpoints of earlier stages stand descriptions."""
    earlier: dict[str, Any] = {}
    for run in check(compose(path, overrides)):
        arguments = {key: earlier.get(str(value), value) for key, value in run.model.items()}
        with torch.device("meta"):
            model = build_model(replace(run, model=arguments))
        described = {"model": run.model["name"], "model_args": model.init_args}
        earlier[f"${{checkpoint:{run.stage}}}"] = described
        yield run, model


def size(network: torch.nn.Module) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("backbone", "encoder", "decoder"), [("dcgan", 8_001_216, 14_948_673), ("vgg", 15_770_944, 21_263_297)]
)
def test_svg_of_128_pixels_has_the_official_networks(backbone, encoder, decoder, tmp_path):
    (tmp_path / "a video").touch()
    overrides = [f"data.root={tmp_path}", "data.resolution=128", f"model.backbone={backbone}"]
    (run,) = check(compose(CONFIGS / "svg/kth.yaml", overrides))
    with torch.device("meta"):
        model = build_model(run)
    assert (size(model.get_submodule("encoder")), size(model.get_submodule("decoder"))) == (encoder, decoder)


def test_every_listed_recipe_exists() -> None:
    assert PARAMETERS.keys() | TOTALS.keys() <= {name(path) for path in RECIPES}


def test_every_recipe_of_official_networks_is_listed() -> None:
    papers = ("vgan", "tgan", "svg", "video_vae", "tats")
    official = {name(path) for path in RECIPES if path.parent.name in papers and "cpu" not in path.stem}
    assert official == {listed for listed in PARAMETERS if listed.split("/")[0] in papers}


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


SIZES = {"train/boxing/person01_boxing_d1_0": 20, "train/walking/person20_walking_d4_3": 26}


def frame_folders(root: Path, lengths: dict[str, int], side: int = 64) -> dict[str, np.ndarray]:
    """Videos as folders of frames; name -> frames."""
    videos = {name: random_frames(length, side, seed=seed) for seed, (name, length) in enumerate(lengths.items())}
    for video, frames in videos.items():
        (root / video).mkdir(parents=True)
        for time, frame in enumerate(frames):
            Image.fromarray(frame).save(root / video / f"{time:04d}.png")
    return videos


def test_svg_draws_two_digits_anew_for_every_clip(tmp_path):
    pictures = np.full((4, 28, 28), 255, np.uint8)
    for part in ("train", "test"):
        (tmp_path / IDX_FILES[part, "images"]).write_bytes(write_idx(pictures))
        (tmp_path / IDX_FILES[part, "labels"]).write_bytes(write_idx(np.zeros(4, np.uint8)))
    for stem in ("moving_mnist", "moving_mnist_fixed_prior"):
        _, data = recipe(f"svg/{stem}.yaml", f"data.root={tmp_path}")
        clips = []
        for batch, _ in zip(data.train_dataloader(), range(3), strict=False):
            assert batch["video"].shape == (2, 1, 15, 64, 64)
            clips += list((batch["video"] + 1) / 2)
        assert len({clip.numpy().tobytes() for clip in clips}) == 6  # of four digits, all alike
        ink = torch.stack(clips).sum(dim=(1, 3, 4))
        assert ink.min() >= 32**2 and 32**2 < ink.max() <= 2 * 32**2  # two squares that may overlap


def test_svg_reads_clips_of_20_frames_of_kth(tmp_path):
    short = {"train/boxing/person02_boxing_d1_1": 19, "test/boxing/person21_boxing_d1_0": 30}
    videos = frame_folders(tmp_path, {**SIZES, **short})
    _, data = recipe("svg/kth.yaml", f"data.root={tmp_path}")
    assert list(data.dataset.names) == list(SIZES)
    assert {data.dataset.clip_times(1, draw)[0] for draw in range(40)} == set(range(7))
    batch = next(iter(data.evaluation_loader(2)))
    assert batch["video"].shape == (2, 1, 20, 64, 64)
    for number, times in enumerate(batch["times"].int().tolist()):
        assert np.array_equal(levels(batch["video"][number])[..., 0], videos[data.dataset.names[number]][times, ..., 0])


def test_svg_always_reads_the_first_12_frames_of_bair(tmp_path):
    names = [f"train/traj_00000_to_00255_{number:03d}" for number in range(2)]
    videos = frame_folders(tmp_path, dict.fromkeys([*names, "test/traj_00000_to_00255_000"], 30))
    _, data = recipe("svg/bair.yaml", f"data.root={tmp_path}")
    assert list(data.dataset.names) == names and data.spec.class_names == ()
    assert {data.dataset.clip_times(0, draw) for draw in range(20)} == {tuple(range(12))}
    batch = next(iter(data.evaluation_loader(2)))
    for number, video in enumerate(names):
        assert np.array_equal(levels(batch["video"][number]), videos[video][:12])


ACTIONS = ("bend", "jack", "jump", "pjump", "run", "side", "skip", "walk", "wave1", "wave2")
PERSONS = ("daria", "denis", "eli", "ido", "ira", "lena", "lyova", "moshe", "shahar")


def test_video_vae_reads_weizmann_with_a_fifth_of_the_labels(tmp_path):
    taken = {(person, action): [""] for action in ACTIONS for person in PERSONS}
    taken |= {("lena", action): ["1", "2"] for action in ("run", "skip", "walk")}
    videos = {
        f"{part}/{action}/{person}_{action}{take}": length
        for (person, action), takes in taken.items()
        for take in takes
        for part, length in (("train", 10), ("test", 10 * (person == "eli")))
        if length
    }
    frame_folders(tmp_path, videos, side=8)
    run, data = recipe("video_vae/weizmann.yaml", f"data.root={tmp_path}")
    assert len(data.dataset) == 93
    assert data.spec.attribute_names == tuple(run.model["attributes"]) == ("action", "performer")
    assert data.spec.attribute_values == (ACTIONS, PERSONS)
    _, test = recipe("video_vae/weizmann.yaml", f"data.root={tmp_path}", "data.split.folder=test")
    assert len(test.dataset) == 10 and test.spec.attribute_values == (ACTIONS, PERSONS)
    assert isinstance(data.dataset, FrameFolder)
    attributes = data.dataset.attributes
    assert attributes is not None
    known = attributes[np.isfinite(attributes).all(axis=1)]
    assert np.bincount(known[:, 0].astype(int)).tolist() == [2] * 10
    assert set(known[:, 1].astype(int)) == set(range(9))  # with seed 0 somebody is known of everybody
    assert np.isnan(attributes).all(axis=1).sum() == 73
    assert first_batch(data)["attributes"].shape == (2, 2)


def test_video_vae_reads_scenes(tmp_path):
    scenes = ("beach", "golf", "hospital", "train_station")
    clips = {f"{scene}/b/{number}.jpg": random_frames(12, 128, seed=number) for scene in scenes for number in range(3)}
    for clip, frames in clips.items():
        save_strip(tmp_path / clip, frames, vertical=True)
    (tmp_path / "train.txt").write_text("".join(f"{clip}\n" for clip in clips if not clip.endswith("2.jpg")))
    _, data = recipe("video_vae/mit_flickr.yaml", f"data.root={tmp_path}")
    assert len(data.dataset) == 8 and data.spec.class_names == scenes
    assert data.spec.attribute_names == ("scene",) and data.spec.attribute_values == (scenes,)
    batch = next(iter(data.evaluation_loader(8)))
    known = torch.isfinite(batch["attributes"][:, 0])
    assert known.sum() == 4 and torch.equal(batch["attributes"][known, 0], batch["label"][known].float())
    frames = clips[data.dataset.names[0]][batch["times"][0].int().tolist()].astype(np.float64)
    halved = frames.reshape(10, 64, 2, 64, 2, 3).mean(axis=(2, 4))
    assert np.abs(levels(batch["video"][0]) - halved).max() <= 1


def staged(path: str, stage: str, *overrides: str) -> VideoDataModule:
    """The data of a stage, one clip in a batch; its model accepts them."""
    more = ["data.batch_size=1", "data.num_workers=0", *overrides]
    for run, model in stages(CONFIGS / path, more):
        if run.stage == stage:
            data = build_data(run, 0)
            for module in model.modules():
                if hasattr(module, "initialised"):  # as it is in an earlier stage that was trained
                    module.initialised = torch.tensor(True)
            model.check_data(data.spec)
            return data
    raise KeyError(stage)


@pytest.mark.parametrize("stage", ["vqgan", "transformer"])
def test_tats_reads_ucf101_as_officially(stage, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (18, 240, 320, 3), dtype=np.uint8)
    save_video(tmp_path / "train" / "000" / "a.mkv", frames)
    for number in range(1, CLASSES):
        save_video(tmp_path / "train" / f"{number:03d}" / "a.mkv", random_frames(16, 16, seed=number))
    data = staged("tats/ucf101.yaml", stage, f"data.root={tmp_path}")
    assert {data.dataset.clip_times(0, draw)[0] for draw in range(20)} == {0, 1, 2}
    batch = next(iter(data.evaluation_loader(2)))
    stored = torch.from_numpy(frames[batch["times"][0].int().tolist()]).permute(0, 3, 1, 2).float()
    scaled = torch.nn.functional.interpolate(stored, size=(128, 171), mode="bilinear", align_corners=False)
    wanted = scaled[..., 21 : 21 + 128].permute(0, 2, 3, 1).numpy()
    assert np.abs(levels(batch["video"][0]) - wanted).max() <= 0.5
    assert first_batch(data)["label"].shape == (1,)


@pytest.mark.parametrize(
    ("recipe", "stage", "frames", "stride"),
    [
        ("sky_timelapse", "transformer", 16, 1),
        ("sky_timelapse_hierarchical", "vqgan", 16, 1),
        ("sky_timelapse_hierarchical", "keys", 64, 1),
        ("sky_timelapse_hierarchical", "interpolation", 20, 1),
        ("taichi_hd", "vqgan", 16, 4),
        ("taichi_hd", "transformer", 16, 4),
    ],
)
def test_tats_reads_frames_as_officially(recipe, stage, frames, stride, tmp_path):
    span = frames * stride
    videos = frame_folders(tmp_path, {"train/a": span, "train/b": span + 1, "test/c": span + 1}, side=10)
    data = staged(f"tats/{recipe}.yaml", stage, f"data.root={tmp_path}")
    assert list(data.dataset.names) == ["train/b"] and data.spec.class_names == ()
    assert data.dataset.clip_times(0, 0) == tuple(range(0, span, stride))
    batch = next(iter(data.evaluation_loader(1)))
    assert batch["video"].shape == (1, 3, frames, 128, 128)
    (first,) = {int(time) for time in batch["times"][:, 0]}
    larger = Image.fromarray(videos["train/b"][first]).resize((128, 128), Image.Resampling.LANCZOS)
    assert np.array_equal(levels(batch["video"][0])[0], np.asarray(larger))


def test_tats_cuts_the_middle_of_wide_frames_before_it_scales(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (36, 64, 3), dtype=np.uint8)
    (tmp_path / "train/a").mkdir(parents=True)
    for time in range(17):
        Image.fromarray(frame).save(tmp_path / f"train/a/{time:02d}.png")
    data = staged("tats/sky_timelapse.yaml", "transformer", f"data.root={tmp_path}")
    square = Image.fromarray(frame).crop((14, 0, 50, 36)).resize((128, 128), Image.Resampling.LANCZOS)
    assert np.array_equal(levels(next(iter(data.evaluation_loader(1)))["video"][0])[3], np.asarray(square))


def test_tats_reads_the_captions_of_mugen(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "_tokenizer", lambda bpe, length: Lengths(length))
    for number in range(2):
        save_video(tmp_path / f"train/c{number}.mkv", random_frames(96, 16, seed=number))
    lines = [{"path": f"train/c{number}", "texts": ["a" * (number + 1)]} for number in range(2)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = staged("tats/mugen_text.yaml", "transformer", f"data.root={tmp_path}")
    assert {data.dataset.clip_times(0, draw)[0] for draw in range(40)} == set(range(6))
    batch = next(iter(data.evaluation_loader(2)))
    assert batch["video"].shape == (2, 3, 16, 256, 256) and batch["text"].shape == (2, 256)
    assert batch["text"][:, 0].tolist() == [1, 2]
    assert "text" not in first_batch(staged("tats/mugen_text.yaml", "vqgan", f"data.root={tmp_path}"))


class Lengths:
    """In place of an encoding, whose merges are not here: how long each text is."""

    def __init__(self, length: int) -> None:
        self.length = length

    def encode(self, captions: list[str]) -> Tensor:
        return torch.tensor([[len(caption)] * self.length for caption in captions])


def test_tats_reads_videos_of_drums_and_their_sound(tmp_path):
    save_video(tmp_path / "train/a.mp4", random_frames(20, 96))
    sound = np.random.default_rng(0).random((20, 45, 17)).astype(np.float32)
    np.save(tmp_path / "train/a.npy", sound)
    root = f"data.root={tmp_path}"
    audio = next(iter(staged("tats/drums.yaml", "audio_vqgan", root).evaluation_loader(1)))
    both = next(iter(staged("tats/drums.yaml", "transformer", root).evaluation_loader(1)))
    assert audio["video"].shape == both["audio"].shape == (1, 1, 16, 64, 16)
    assert torch.equal(audio["times"], both["times"]) and torch.equal(audio["video"], both["audio"])
    assert both["video"].shape == (1, 3, 16, 96, 96)
    assert first_batch(staged("tats/drums.yaml", "vqgan", root)).keys() == {"video", "times", "length"}


TATS_STAGES = {
    ("vqgan", 9e-5, 16): {"accumulate_grad_batches": 6, "gradient_clip_val": 1.0},
    ("audio_vqgan", 9e-5, 48): {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0},
    ("transformer", 1.08e-4, 24): {},
    ("keys", 1.44e-4, 32): {},
    ("interpolation", 1.08e-4, 24): {},
}
"""Stage, learning rate and batch -> what else its trainer is told."""


@pytest.mark.parametrize("path", [p for p in RECIPES if p.parent.name == "tats" and "cpu" not in p.stem], ids=name)
def test_settings_of_tats_are_the_official_ones(path, tmp_path):
    (tmp_path / "texts.jsonl").touch()
    for run in check(compose(path, [f"data.root={tmp_path}"])):
        keys = ("accumulate_grad_batches", "gradient_clip_val")
        told = {key: value for key, value in run.trainer.items() if key in keys}
        assert TATS_STAGES[str(run.stage), run.model["learning_rate"], run.data["batch_size"]] == told
        assert (run.seed, run.ema, run.trainer["precision"]) == (1234, None, "32-true")
        betas = (0.5, 0.9) if "vqgan" in str(run.stage) else (0.9, 0.95)
        assert (run.model["beta1"], run.model["beta2"]) == betas


def settings(path: str, tmp_path: Path) -> dict[str, Any]:
    """Everything that a recipe sets, by dotted key."""
    (tmp_path / "train.txt").touch()
    (run,) = check(compose(CONFIGS / path, [f"data.root={tmp_path}"]))
    found = {f"model.{key}": value for key, value in run.model.items()}
    found |= {"batch_size": run.data["batch_size"], "max_steps": run.trainer["max_steps"]}
    return {**found, "ema": run.ema, "seed": run.seed}


SVG = {
    "model.learning_rate": 0.002,
    "model.beta1": 0.9,
    "model.beta2": 0.999,
    "model.skip_frame": "last_but_one",
    "model.resolution": 64,
    "model.g_dim": 128,
    "model.rnn_size": 256,
    "batch_size": 100,
    "max_steps": 300 * 600,
    "ema": None,
    "seed": 1,
}
LP, FP = {"model.prior": "learned"}, {"model.prior": "fixed"}
SMMNIST = {
    "model.backbone": "dcgan",
    "model.channels": 1,
    "model.n_past": 5,
    "model.num_frames": 15,
    "model.z_dim": 10,
    "model.beta": 1e-4,
}
SVG_RECIPES: dict[str, dict[str, Any]] = {
    "moving_mnist": {**LP, **SMMNIST},
    "moving_mnist_fixed_prior": {**FP, **SMMNIST},
    "kth": {
        **FP,
        "model.backbone": "vgg",
        "model.channels": 1,
        "model.n_past": 10,
        "model.num_frames": 20,
        "model.z_dim": 24,
        "model.beta": 1e-6,
        "model.learning_rate": 8e-4,
    },
    "bair": {
        **LP,
        "model.backbone": "vgg",
        "model.channels": 3,
        "model.n_past": 2,
        "model.num_frames": 12,
        "model.z_dim": 64,
        "model.beta": 1e-4,
    },
}


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
        **{f"svg/{stem}.yaml": {**SVG, **own} for stem, own in SVG_RECIPES.items()},
        "video_vae/weizmann.yaml": {"model.learning_rate": 1e-4, "batch_size": 32, "model.num_frames": 10, "ema": None},
    }
    for path, wanted in expected.items():
        found = settings(path, tmp_path)
        assert {key: found[key] for key in wanted} == wanted
