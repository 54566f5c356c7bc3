"""Check what a file of this project says about its model; weights and exported files say it in the same words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from effdet.images.preprocessing import Preprocessing
from effdet.models.field_checks import MAX_INPUT_PIXELS
from effdet.ops.settings import PostprocessSettings
from effdet.weights.limits import short

_Values = TypeVar("_Values", PostprocessSettings, Preprocessing)


def check(good: bool, name: str, must: str, got: object) -> None:
    """Raise ``ValueError`` unless a value is good."""
    if not good:
        raise ValueError(f"{name} must {must}, got {short(repr(got)) if isinstance(got, str) else short(got)}")


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number, which true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_finite(value: object) -> bool:
    """Return whether a value is a number that a float can hold."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def check_names(names: Sequence[Any]) -> None:
    """Check the names of classes: one or more texts."""
    good = bool(names) and all(isinstance(name, str) for name in names)
    check(good, "class_names", "be texts, one or more", names)
    halves = next((name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name)), None)
    check(halves is None, "class_names", "be texts that can be written as UTF-8", halves)


def check_ids(ids: Sequence[Any], count: int) -> None:
    """Check the category ids of classes: as many whole numbers of 64 bits, each once."""
    check(all(map(is_whole, ids)), "category_ids", "be whole numbers", ids)
    check(len(ids) == count, "category_ids", f"be {count} numbers", len(ids))
    check(all(-(2**63) <= value < 2**63 for value in ids), "category_ids", "be whole numbers of 64 bits", ids)
    check(len(set(ids)) == len(ids), "category_ids", "differ from each other", ids)


def check_input_size(size: Sequence[Any]) -> None:
    """Check the height and width of a network input."""
    good = len(size) == 2 and all(is_whole(side) and side > 0 for side in size)
    check(good, "image_size", "be two whole numbers of pixels, height and width", size)
    check(size[0] * size[1] <= MAX_INPUT_PIXELS, "image_size", f"have {MAX_INPUT_PIXELS:,} pixels or less", size)


def check_normalisation(mean: Sequence[Any], std: Sequence[Any], channels: int) -> None:
    """Check the mean and the standard deviation of the channels of an image."""
    for name, values in (("mean", mean), ("std", std)):
        check(len(values) == channels and all(map(is_finite, values)), name, f"be {channels} finite numbers", values)
    check(min(std) > 0, "std", "be positive", std)


def check_threshold(value: object) -> None:
    """Check the score threshold of ``predict``: a number in [0, 1], or None."""
    good = value is None or (is_finite(value) and isinstance(value, int | float) and 0 <= value <= 1)
    check(good, "predict_threshold", "lie in [0, 1], or be null", value)


def list_of(values: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    """Return a list in a description as a tuple."""
    value = values[name]
    check(isinstance(value, list), name, "be a list", value)
    return tuple(value)


def settings_of(values: Any, name: str, kind: type[_Values]) -> _Values:
    """Return settings from the object in a description.

    Raises:
        ValueError: If it is no object, has an unknown entry, or a value is not valid.
    """
    check(isinstance(values, Mapping), name, "be an object of names and values", values)
    unknown = sorted(set(values) - {field.name for field in fields(kind)})
    if unknown:
        raise ValueError(
            f"it has the unknown {name} {short(', '.join(map(short, unknown)))}; another version of this package may "
            "have written it"
        )
    return kind(**values)
