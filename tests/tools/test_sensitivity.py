"""tools/sensitivity.py damages videos as it says, and keeps the halves apart."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data.strips import random_frames
from vidgen.data.arrays import ArrayVideos

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import sensitivity

METRIC = "tests.training.small_metric.ColourDistance"


def clip(seed: int = 0) -> Tensor:
    """A random clip, uint8 ``(3, 8, 12, 10)``."""
    return torch.randint(256, (3, 8, 12, 10), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_blur_keeps_the_mean_and_takes_contrast_away() -> None:
    plain = torch.full((3, 2, 9, 9), 77, dtype=torch.uint8)
    assert torch.equal(sensitivity.blur(plain, 2.0), plain)
    deviations = [clip().float().std(), *(sensitivity.blur(clip(), sigma).float().std() for sigma in (1.0, 2.0))]
    assert deviations[0] > 2 * deviations[1] > 2.5 * deviations[2]


def test_blur_is_that_of_scipy() -> None:
    from scipy.ndimage import gaussian_filter

    frame = clip()[0, 0].numpy().astype(np.float64)
    wanted = gaussian_filter(frame, 1.5, mode="nearest", truncate=10 / 3)
    found = sensitivity.blur(clip(), 1.5)[0, 0].numpy().astype(np.float64)
    assert np.abs(wanted - found).max() <= 0.51


def test_noise_has_the_strength_asked_for() -> None:
    grey = torch.full((3, 16, 32, 32), 128, dtype=torch.uint8)
    noisy = sensitivity.add_noise(grey, 20.0, 1)
    assert noisy.float().std() == pytest.approx(20, rel=0.02)
    assert not torch.equal(noisy, sensitivity.add_noise(grey, 20.0, 2))


@pytest.mark.parametrize(("share", "moved"), [(0.5, 4), (1.0, 8)])
def test_shuffling_moves_the_share_asked_for(share: float, moved: int) -> None:
    video = clip()
    shuffled = sensitivity.shuffle_time(video, share, 3)
    places = [t for t in range(8) if not torch.equal(shuffled[:, t], video[:, t])]
    assert len(places) == moved
    frames = {video[:, t].numpy().tobytes() for t in range(8)}
    assert {shuffled[:, t].numpy().tobytes() for t in range(8)} == frames


def test_frozen_clips_show_their_first_frame() -> None:
    frozen = sensitivity.freeze(clip())
    assert all(torch.equal(frozen[:, t], clip()[:, 0]) for t in range(8))


def arrays(folder: Path, brightness: int, count: int = 6) -> Path:
    """A folder of videos named after their performer, 10 numbers each."""
    folder.mkdir()
    for number in range(count):
        frames = (random_frames(12, 16, seed=number) // 8 + brightness).astype(np.uint8)
        np.savez(folder / f"{number * 10:04d}.npz", video=frames)
    return folder


def test_no_group_is_in_both_halves(tmp_path: Path) -> None:
    dataset = ArrayVideos(str(arrays(tmp_path / "a", 40)), 16, 8)
    first, second = sensitivity.halves(dataset, r"0*(\d+)\.npz", 20)  # two videos of each performer
    names = [{int(dataset.names[n][:4]) // 20 for n in half} for half in (first, second)]
    assert names[0].isdisjoint(names[1]) and len(first) + len(second) == 6


def test_a_pattern_that_does_not_fit_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place = str(arrays(tmp_path / "a", 40))
    assert sensitivity.main([place, "--metric", METRIC, "--groups", r"person(\d)"]) == 2
    assert capsys.readouterr().err == "error: --groups 'person(\\\\d)' does not fit '0000.npz'\n"


def test_the_table_has_a_row_for_each_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    place, others = str(arrays(tmp_path / "a", 40)), str(arrays(tmp_path / "b", 160))
    assert sensitivity.main([place, "--others", others, "--metric", METRIC]) == 2  # 12 frames hold no clip of 16
    assert capsys.readouterr().err == "error: no video has the 16 frames of a clip\n"
    lines = sensitivity.table(
        sensitivity.run(place, others, sensitivity.build_metrics([{"name": METRIC}]), clips=9, frames=8)  # type: ignore[arg-type]
    ).splitlines()
    assert lines[0] == "| compared with the first half | colour_distance |"
    rows = dict(line.strip("| ").split(" | ") for line in lines[2:])
    assert list(rows) == [*sensitivity.DAMAGE, sensitivity.OTHERS]
    assert float(rows[sensitivity.OTHERS]) > 10 * float(rows[sensitivity.SAME])
    assert float(rows["frozen"]) > float(rows[sensitivity.SAME])
