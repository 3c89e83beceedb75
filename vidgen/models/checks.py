"""Checks of arguments and data that the files of several papers make in the same words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from vidgen.data.spec import DataSpec
from vidgen.errors import UserError


def check_positive(**sizes: int) -> None:
    """Raise when an argument of a model is below 1.

    Raises:
        UserError: naming the first one.
    """
    for key, value in sizes.items():
        if value < 1:
            raise UserError(f"model.{key} {value}: must be at least 1")


def check_not_negative(**values: float | None) -> None:
    """Raise when an argument of a model is below 0, infinite or NaN; None is none.

    Raises:
        UserError: naming the first one.
    """
    for key, value in values.items():
        if value is None:
            continue
        if not math.isfinite(value):
            raise UserError(f"model.{key} {value:g}: must be finite")
        if value < 0:
            raise UserError(f"model.{key} {value:g}: cannot be negative")


def check_above_zero(**values: float) -> None:
    """Raise when an argument of a model is not above 0, infinite or NaN.

    Raises:
        UserError: naming the first one.
    """
    for key, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"model.{key} {value:g}: must be above 0, and finite")


def check_decay(**rates: float) -> None:
    """Raise when a decay rate of an optimiser's average is outside [0, 1).

    Raises:
        UserError: naming the first one.
    """
    for key, value in rates.items():
        if not 0 <= value < 1:
            raise UserError(f"model.{key} {value:g}: must be at least 0 and below 1")


def check_power_of_two(least: int, **sizes: int) -> None:
    """Raise when an argument of a model is no power of two, or below ``least``.

    Raises:
        UserError: naming the first one.
    """
    for key, value in sizes.items():
        if value < least or value & (value - 1):
            raise UserError(f"model.{key} {value}: must be a power of two, {least} or more")


def check_one_of(**choices: tuple[object, Sequence[object]]) -> None:
    """Raise when an argument of a model is none of its values: ``name=(value, values)``.

    Raises:
        UserError: naming the first one.
    """
    for key, (value, values) in choices.items():
        if value not in values:
            raise UserError(f"model.{key} {value!r}: must be one of {', '.join(map(str, values))}")


def check_equal(key: str, configured: object, found: object, what: str) -> None:
    """Raise when a model argument and the data disagree.

    Raises:
        UserError: naming the config key, its value and what the data has.
    """
    if configured != found:
        raise UserError(f"model.{key}: is {configured}, but the data has {what} {found}; make them equal")


def check_clip_shape(spec: DataSpec, channels: int, resolution: int, num_frames: int) -> None:
    """Check that clips have the shape that a model of square videos reads.

    Raises:
        UserError: they do not; the message names the config key.
    """
    check_equal("channels", channels, spec.channels, "channels")
    check_equal("resolution", resolution, spec.resolution, "resolution")
    check_equal("resolution", resolution, spec.width or spec.resolution, "width")
    check_equal("num_frames", num_frames, spec.num_frames, "num_frames")


def check_classes(spec: DataSpec, dim_category: int) -> None:
    """Check that the data have the classes that a model is conditioned on.

    Raises:
        UserError: they do not; the message names the config key.
    """
    if dim_category and not spec.class_names:
        raise UserError(
            f"model.dim_category {dim_category}: needs labelled videos, but the data has no classes; set it to 0"
        )
    if dim_category:
        check_equal("dim_category", dim_category, len(spec.class_names), "classes")


def check_given(name: str, video: Tensor, channels: int, resolution: int) -> None:
    """Check the videos that a model is given to start from.

    Raises:
        UserError: they are of another shape than the model's.
    """
    if video.dim() != 5 or (video.shape[1], *video.shape[3:]) != (channels, resolution, resolution):
        wanted = f"(N, {channels}, T, {resolution}, {resolution})"
        raise UserError(f"{name}: the given videos are {tuple(video.shape)}; they must be {wanted}")


def check_length(name: str, num_frames: int, longest: int) -> None:
    """Check that a model can make videos of a length.

    Raises:
        UserError: it cannot.
    """
    if not 1 <= num_frames <= longest:
        raise UserError(f"num_frames {num_frames}: {name} makes videos of 1 to {longest} frames as it is configured")


def check_label(label: int | None, classes: int) -> None:
    """Check the class that videos are asked for.

    Raises:
        UserError: there is no such class.
    """
    if label is not None and not 0 <= label < classes:
        what = f"between 0 and {classes - 1}" if classes else "left out: the model has no classes"
        raise UserError(f"label {label}: must be {what}")
