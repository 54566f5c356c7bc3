"""Read single values of annotation files as tools really write them: numbers as text, flags in words, any ids."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

LARGEST_ID = 2**64  # ids are held in 64 bits
LARGEST_SIDE = 2**31  # pixels
_LEAST_PERCENT, _MOST_PERCENT = 50, 101  # of the largest number of a set of boxes in percent
_TRUE, _FALSE = {"1", "true", "yes"}, {"0", "false", "no", ""}


def number(value: Any) -> float | None:
    """Return a number, or a text that is one, as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and "_" in value:  # which Python would leave out
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf
    except ValueError:
        return None


def four_numbers(value: Any) -> tuple[float, float, float, float] | None:
    """Return a list of four numbers as floats; None for anything else."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    x, y, width, height = (number(part) for part in value)
    if x is None or y is None or width is None or height is None:
        return None
    return x, y, width, height


def whole_number(value: Any) -> int | None:
    """Return a whole number, or a text or float that is one, as an int; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and "_" not in value:
        try:
            return int(value)
        except ValueError:
            pass
    as_float = number(value)
    return int(as_float) if as_float is not None and as_float.is_integer() else None


def side(value: Any) -> int:
    """Return the width or height of an image in pixels, 0 where the value is none."""
    found = whole_number(value)
    return found if found is not None and 0 < found < LARGEST_SIDE else 0


def flag(value: Any) -> bool | None:
    """Return a yes or no, in numbers or in words; a missing value is no. None for anything else."""
    if value is None:
        return False
    if isinstance(value, int | float):
        return None if value != value else bool(value)  # NaN is neither
    text = value.strip().lower() if isinstance(value, str) else None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    as_float = number(value)
    return None if as_float is None or math.isnan(as_float) else as_float != 0


def identifier(value: Any) -> int | str | None:
    """Return an id: a whole number below 2⁶⁴, or a text, as it is; None for anything else."""
    if isinstance(value, str):
        return value if value and is_encodable(value) else None
    found = whole_number(value)
    return found if found is not None and -LARGEST_ID // 2 <= found < LARGEST_ID else None


def other_spelling(value: int | str) -> int | str | None:
    """Return an id as the other type: 7 for "7" and "7" for 7; None for a text that is no whole number."""
    return str(value) if isinstance(value, int) else whole_number(value)


def look_up(value: Any, table: Mapping[Any, int]) -> int | None:
    """Return what a table holds for an id, which may be written as a number here and as a text there; else None."""
    key = identifier(value)
    if key is None or key in table:
        return None if key is None else table[key]
    other = other_spelling(key)
    return None if other is None else table.get(other)


def is_encodable(text: str) -> bool:
    """Return whether a text can name a file or be written to one: no null, and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def short(value: Any) -> str:
    """Return a value for a message, on one line and not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def are_percent(boxes: NDArray[Any]) -> bool:
    """Return whether boxes (M, 4), x, y, width, height, lie in [0, 100], and one reaches far in it."""
    ends = boxes[:, :2] + boxes[:, 2:]
    return bool(len(boxes) and _LEAST_PERCENT < ends.max() <= _MOST_PERCENT)
