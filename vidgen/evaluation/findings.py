"""What makes numbers differ without anybody noticing: found in the videos that were measured, said in one line each."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from vidgen.data.stored import StoredVideos, counted
from vidgen.evaluation.passes import Facts
from vidgen.evaluation.sources import ClipSource, GeneratedClips, StoredClips, compression, is_lossy
from vidgen.metrics.base import FeatureMetric, MomentMetric
from vidgen.metrics.video_distances import PUBLISHED_NUM_VIDEOS

Side = tuple[ClipSource, Facts]


def find_warnings(sides: Mapping[str, Side], metrics: Sequence[FeatureMetric]) -> list[str]:
    """Warnings about the videos of an evaluation.

    Args:
        sides: ``real`` and ``fake``, those that were looked at, with what is known of their clips.
        metrics: what was measured.

    Returns:
        One line each; empty for clean input.
    """
    lines = _too_few(sides, metrics)
    for name, (source, facts) in sides.items():
        lines += _left_out(name, source, facts)
        lines += _duplicates(name, facts)
    if "fake" in sides:
        lines += _lossy(sides["fake"][0])
    if len(sides) == 2:
        lines += _differences(sides["real"], sides["fake"])
        lines += _overlap(sides["real"], sides["fake"])
    return lines


def _too_few(sides: Mapping[str, Side], metrics: Sequence[FeatureMetric]) -> list[str]:
    counts = {name: len(facts.digests) for name, (_, facts) in sides.items()}
    if not metrics or not counts:
        return []
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    lines = []
    if min(counts.values()) < PUBLISHED_NUM_VIDEOS:
        lines.append(
            f"few videos ({said}): published numbers take {PUBLISHED_NUM_VIDEOS}, and fewer give larger distances"
        )
    for metric in metrics:
        dim = metric.extractor.num_features
        rows = {name: count * _rows_per_clip(metric, sides[name][0]) for name, count in counts.items()}
        if isinstance(metric, MomentMetric) and min(rows.values()) <= dim:
            lines.append(
                f"{metric.label}: no more samples ({min(rows.values())}) than features ({dim}), so that the covariance"
                " is singular; the value is exact for these videos and a poor estimate for more of them"
            )
    return lines


def _rows_per_clip(metric: FeatureMetric, source: ClipSource) -> int:
    return source.clips.num_frames if metric.extractor.per_frame else 1


def _left_out(name: str, source: ClipSource, facts: Facts) -> list[str]:
    lines = []
    skipped = dict(source.dataset.skipped) if isinstance(source, StoredClips) else {}
    skipped |= {entry.path: entry.reason for entry in facts.unusable.values()}
    if skipped:
        path, reason = next(iter(sorted(skipped.items())))
        lines.append(f"{counted(len(skipped), f'{name} file')} left out as unreadable (the first, {path}: {reason})")
    if isinstance(source, StoredClips) and source.too_short:
        rule = source.clips
        lines.append(
            f"{counted(source.too_short, f'{name} video')} left out as too short: a clip of {rule.num_frames} frames"
            f" at stride {rule.stride} needs {rule.span}"
        )
    return lines


def _duplicates(name: str, facts: Facts) -> list[str]:
    count = len(facts.digests) - len(set(facts.digests.values()))
    return [f"{counted(count, f'{name} clip')} that another one equals, pixel for pixel"] if count else []


def _lossy(source: ClipSource) -> list[str]:
    compressed = compression(source.dataset) if isinstance(source, StoredClips) else None
    if not is_lossy(compressed):
        return []
    return [
        f"fake videos are compressed with loss ({compressed}), which a model is not to blame for;"
        " measure png, strips or npz, or the checkpoint itself"
    ]


def _differences(real: Side, fake: Side) -> list[str]:
    lines = []
    sizes = [_shown_sizes(facts) for _, facts in (real, fake)]
    if real[1].sizes and fake[1].sizes and set(real[1].sizes) != set(fake[1].sizes):
        lines.append(f"real and fake videos differ in size ({sizes[0]} and {sizes[1]}); give --resolution")
    rates = [_fps(source) for source, _ in (real, fake)]
    if rates[0] and rates[1] and abs(rates[0] - rates[1]) > 0.01 * max(rates[0], rates[1]):
        lines.append(f"real and fake videos differ in frame rate ({rates[0]:g} and {rates[1]:g} frames per second)")
    lengths = [_one_length(source) for source, _ in (real, fake)]
    if lengths[0] and lengths[1] and lengths[0] != lengths[1]:
        lines.append(
            f"real and fake videos differ in number of frames ({lengths[0]} and {lengths[1]});"
            f" clips of {fake[0].clips.num_frames} are measured"
        )
    return lines


def _shown_sizes(facts: Facts) -> str:
    shown = [f"{width}x{height}" for height, width in sorted(facts.sizes)]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def _fps(source: ClipSource) -> float | None:
    return source.dataset.spec.fps if isinstance(source, StoredClips) else None


def _one_length(source: ClipSource) -> int | None:
    """Frames of the videos, where all have as many."""
    if isinstance(source, GeneratedClips):
        return None
    lengths = set(source.dataset.lengths.tolist()) if isinstance(source, StoredClips) else set()
    return int(lengths.pop()) if len(lengths) == 1 else None


def _overlap(real: Side, fake: Side) -> list[str]:
    same = set(real[1].digests.values()) & set(fake[1].digests.values())
    count = sum(digest in same for digest in fake[1].digests.values())
    count = max(count, _same_files(real[0], fake[0]))
    return [f"{counted(count, 'fake video')} that also {'is' if count == 1 else 'are'} real videos"] if count else []


def _same_files(real: ClipSource, fake: ClipSource) -> int:
    """How many files of the fake videos have the content of a real one; only files of equal size are read."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in _files(real):
        by_size[_size(path)].append(path)
    candidates = [path for path in _files(fake) if by_size.get(_size(path))]
    known: set[bytes] = set()
    for size in {_size(path) for path in candidates}:
        known |= {_content(path) for path in by_size[size]}
    return sum(_content(path) in known for path in candidates)


def _files(source: ClipSource) -> list[Path]:
    """The files of videos that lie in one file each."""
    dataset = getattr(source, "dataset", None)
    if not isinstance(source, StoredClips) or not isinstance(dataset, StoredVideos):
        return []
    paths = [Path(source.path(number)) for number in range(len(source))]
    return [path for path in paths if path.is_file()]


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _content(path: Path) -> bytes:
    digest = blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError:
        return str(path).encode()
    return digest.digest()
