"""Checks of the fields of an architecture: each takes a field's name and value, and returns the value in its own type.

Raises of every check:
    TypeError: If the value has a wrong type.
    ValueError: If it is out of its range.
"""

from __future__ import annotations

import difflib
import math
import reprlib
from collections.abc import Callable
from typing import Any, TypeAlias, get_args

from effdet.models.block_strings import parse_block

Check: TypeAlias = Callable[[str, Any], Any]

MAX_INPUT_PIXELS = 200_000_000  # of a network input; no machine runs an EfficientDet on one that large
_MOST, _MAX_LIST = 10**15, 1000


def _wrong_type(name: str, must: str, got: Any) -> TypeError:
    return TypeError(f"{name} must be {must}, got {reprlib.repr(got)}")


def text(name: str, value: Any) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str):
        raise _wrong_type(name, "text", value)
    if not value:
        raise ValueError(f"{name} must be the name of a model of timm, got ''")
    return value


def flag(name: str, value: Any) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise _wrong_type(name, "true or false", value)
    return value


def whole(least: int, most: int = _MOST) -> Check:
    """Return the check of a whole number in [least, most]."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong_type(name, "a whole number", value)
        if value < least:
            raise ValueError(f"{name} must be {least} or more, got {value}")
        if value > most:
            raise ValueError(f"{name} must be {most} or less, got {value!s:.40}")
        return value

    return check


def any_number(name: str, value: Any) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong_type(name, "a number", value)
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!s:.40}")
    return number


def positive(name: str, value: Any) -> float:
    """Return a finite number over 0."""
    number = any_number(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return number


def rate(name: str, value: Any) -> float:
    """Return a number in [0, 1)."""
    number = any_number(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value}")
    return number


def list_of(check_item: Check, what: str) -> Check:
    """Return the check of a list, each entry of which is checked; it becomes a tuple."""

    def check(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise _wrong_type(name, what, value)
        if not value:
            raise ValueError(f"{name} must be {what}, got an empty list")
        if len(value) > _MAX_LIST:
            raise ValueError(f"{name} must have {_MAX_LIST:,} entries or less, got {len(value):,}")
        return tuple(check_item(f"{name}[{index}]", item) for index, item in enumerate(value))

    return check


def block_string(name: str, value: Any) -> str:
    """Return a block string that can be read."""
    if not isinstance(value, str):
        raise _wrong_type(name, "a block string such as 'ir_r2_k3_s2_e6_c24_se0.25'", value)
    try:
        parse_block(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return value


def input_size(name: str, value: Any) -> tuple[int, ...]:
    """Return the (height, width) of a network input."""
    sides = list_of(whole(1), "two whole numbers [height, width]")(name, value)
    if len(sides) != 2:
        raise ValueError(f"{name} must be two whole numbers [height, width], got {reprlib.repr(list(sides))}")
    if sides[0] * sides[1] > MAX_INPUT_PIXELS:
        raise ValueError(f"{name} must have {MAX_INPUT_PIXELS:,} pixels or less, got {reprlib.repr(list(sides))}")
    return sides


def aspect_ratio(name: str, value: Any) -> tuple[float, float]:
    """Return (width, height) factors of a number, which is width / height, or of a pair."""
    if isinstance(value, (int, float)):
        ratio = positive(name, value)
        return math.sqrt(ratio), 1 / math.sqrt(ratio)
    factors = list_of(positive, "a number, or two factors [width, height]")(name, value)
    if len(factors) != 2:
        raise ValueError(f"{name} must be a number, or two factors [width, height], got {list(factors)}")
    return factors[0], factors[1]


def one_of(kind: Any) -> Check:
    """Return the check of a value of a ``Literal``."""
    known = get_args(kind)

    def check(name: str, value: Any) -> str:
        if value not in known:
            near = difflib.get_close_matches(f"{value!s:.40}", known, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {reprlib.repr(value)}{hint}")
        return str(value)

    return check


def or_none(check_value: Check) -> Check:
    """Return the check of a value that may be None."""
    return lambda name, value: None if value is None else check_value(name, value)
