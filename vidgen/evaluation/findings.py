"""What makes numbers differ without anybody noticing: found in the videos that were measured, said in one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vidgen.data.stored import counted
from vidgen.evaluation.compression import compression, is_lossy
from vidgen.evaluation.copies import copies_among, copies_between
from vidgen.evaluation.passes import Facts
from vidgen.evaluation.sources import ClipSource, GeneratedClips, StoredClips
from vidgen.metrics.base import FeatureMetric
from vidgen.metrics.base import Side as SideName
from vidgen.metrics.video_distances import PUBLISHED_NUM_VIDEOS
from vidgen.registry import MODELS

Side = tuple[ClipSource, Facts]


def find_warnings(sides: Mapping[str, Side], metrics: Sequence[FeatureMetric]) -> list[str]:
    """Warnings about the videos of an evaluation.

    Args:
        sides: ``real`` and ``fake``, those that were looked at, with what is known of their clips.
        metrics: what was measured of them.

    Returns:
        One line each; empty for clean input.
    """
    lines = _too_few(sides, metrics)
    for name, (source, facts) in sides.items():
        lines += _left_out(name, source, facts)
        lines += _duplicates(name, source, facts)
    if "fake" in sides:
        lines += _lossy(sides["fake"][0])
    if len(sides) == 2:
        lines += _differences(sides["real"], sides["fake"])
        lines += _overlap(sides["real"], sides["fake"])
    return lines


def too_few_samples(counts: Mapping[SideName, int], frames: Mapping[SideName, int], metric: FeatureMetric) -> list[str]:
    """A warning of one metric alone, where its covariances are singular.

    Args:
        counts: clips that were looked at, by side.
        frames: frames of a clip, by side.
        metric: what was measured of them.
    """
    samples = [counts[side] * metric.samples_per_video(frames[side]) for side in counts if side in metric.sides]
    dim = metric.extractor.num_features
    if not metric.fits_gaussian or not samples or min(samples) > dim:
        return []
    return [
        f"{metric.label}: no more samples ({min(samples)}) than features ({dim}), so that the covariance is singular;"
        " the value is exact for these videos and a poor estimate for more of them"
    ]


def equal_samples(label: str, num_samples: int, source: ClipSource) -> list[str]:
    """A warning where several videos were drawn of a model that has one answer to each context.

    Args:
        label: of the value.
        num_samples: videos drawn for each real one.
        source: the generated videos.
    """
    if num_samples == 1 or not isinstance(source, GeneratedClips) or source.model.stochastic:
        return []
    name = MODELS.name_of(type(source.model))
    return [f"{label}: {name} makes the same video whatever the seed, so that its {num_samples} samples are equal"]


def paired_warnings(real: Side, fake: Side) -> list[str]:
    """What :func:`find_warnings` says of pairs, without the numbers of frames, of which pairing tells itself."""
    sides = {"real": real, "fake": fake}
    lines = [line for name, (source, facts) in sides.items() for line in _duplicates(name, source, facts)]
    return [*lines, *_lossy(fake[0]), *_rates(real, fake), *_overlap(real, fake)]


def _too_few(sides: Mapping[str, Side], metrics: Sequence[FeatureMetric]) -> list[str]:
    counts = {name: len(facts.digests) for name, (_, facts) in sides.items()}
    lines = []
    if metrics and counts and min(counts.values()) < PUBLISHED_NUM_VIDEOS:
        said = ", ".join(f"{count} {name}" for name, count in counts.items())
        effect = "fewer give larger distances" if len(sides) == 2 else "fewer give other values"
        lines.append(f"few videos ({said}): published numbers take {PUBLISHED_NUM_VIDEOS}, and {effect}")
    return lines


def _left_out(name: str, source: ClipSource, facts: Facts) -> list[str]:
    lost = {entry.path: entry.reason for entry in facts.unusable.values()}
    if isinstance(source, GeneratedClips):
        whose = "its real clip is" if len(facts.unusable) == 1 else "their real clips are"
        what = f"{counted(len(facts.unusable), f'{name} video')} not made, since {whose} unreadable"
        return [f"{what} (the first, {': '.join(min(lost.items()))})"] if lost else []
    skipped = {**source.dataset.skipped, **lost} if isinstance(source, StoredClips) else lost
    lines = []
    if skipped:
        path, reason = min(skipped.items())
        lines.append(f"{counted(len(skipped), f'{name} file')} left out as unreadable (the first, {path}: {reason})")
    if isinstance(source, StoredClips) and source.too_short:
        rule = source.clips
        lines.append(
            f"{counted(source.too_short, f'{name} video')} left out as too short: a clip of {rule.num_frames} frames"
            f" at stride {rule.stride} needs {rule.least_length}"
        )
    return lines


def _duplicates(name: str, source: ClipSource, facts: Facts) -> list[str]:
    pixels = len(facts.digests) - len(set(facts.digests.values()))
    count = max(pixels, copies_among(source))
    return [_copies(count, name, "another", "others")] if count else []


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
    lines += _rates(real, fake)
    lengths = [_one_length(source) for source, _ in (real, fake)]
    if lengths[0] and lengths[1] and lengths[0] != lengths[1]:
        lines.append(
            f"real and fake videos differ in number of frames ({lengths[0]} and {lengths[1]});"
            f" clips of {fake[0].clips.num_frames} are measured"
        )
    return lines


def _rates(real: Side, fake: Side) -> list[str]:
    rates = [_fps(source) for source, _ in (real, fake)]
    if rates[0] and rates[1] and abs(rates[0] - rates[1]) > 0.01 * max(rates[0], rates[1]):
        return [f"real and fake videos differ in frame rate ({rates[0]:g} and {rates[1]:g} frames per second)"]
    return []


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
    same = set(real[1].digests.values())
    pixels = sum(digest in same for digest in fake[1].digests.values())
    count = max(pixels, copies_between(real[0], fake[0]))
    return [_copies(count, "fake", "a real one", "real ones")] if count else []


def _copies(count: int, name: str, one: str, several: str) -> str:
    return f"1 {name} video is a copy of {one}" if count == 1 else f"{count} {name} videos are copies of {several}"
