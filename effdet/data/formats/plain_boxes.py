"""COCO annotations whose values are all plain numbers, as arrays: the way of files with millions of boxes.

What is anything else, such as a number written as text, is left to ``effdet.data.formats.boxes``, row by row.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]

_SEPARATOR = re.compile(rb"\}\s*,\s*\{")


class PlainBoxes(NamedTuple):
    """Some annotations of a COCO file, in its order."""

    ids: NDArray[np.int64]  # (M,)
    image_ids: NDArray[np.int64]  # (M,)
    category_ids: NDArray[np.int64]  # (M,)
    boxes: NDArray[np.float64]  # (M, 4)
    is_crowd: NDArray[np.int64]  # (M,)
    areas: NDArray[np.float64]  # (M,) NaN where there is none

    def to_rows(self) -> list[Row]:
        """Return the annotations as COCO's rows."""
        columns = (self.ids, self.image_ids, self.category_ids, self.boxes, self.is_crowd, self.areas)
        keys = ("id", "image_id", "category_id", "bbox", "iscrowd", "area")
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [{key: value for key, value in zip(keys, row, strict=True) if value == value} for row in rows]


def parse_annotations(piece: bytes) -> PlainBoxes | list[Row]:
    """Return the annotations in a piece of JSON: objects with commas between them.

    Raises:
        ValueError: If it is not a sequence of whole objects.
    """
    plain = _parse_with_arrow(piece)
    if plain is not None and _is_usable(plain):
        return plain
    rows = parse_rows(piece)
    return plain_boxes(rows) or rows


def parse_rows(piece: bytes) -> list[Row]:
    """Return the objects in a piece of JSON.

    Raises:
        ValueError: If it is not a sequence of whole objects.
    """
    try:
        rows = json.loads(b"[" + piece + b"]")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("not all of them are objects")
    return list(rows)


def plain_boxes(rows: Sequence[Row]) -> PlainBoxes | None:
    """Return the columns of annotations; None if a value is missing or cannot be used as it is."""
    ids = [_column(rows, key, {int}) for key in ("id", "image_id", "category_id")]
    boxes = _boxes(rows)
    crowd = _optional(rows, "iscrowd", {int}, 0)
    areas = _optional(rows, "area", {int, float}, np.nan)
    if boxes is None or crowd is None or areas is None or any(column is None for column in ids):
        return None
    if np.isnan(areas).any() and any("area" in row for row in rows):
        return None
    plain = PlainBoxes(ids[0], ids[1], ids[2], boxes, crowd, areas.astype(np.float64))  # type: ignore[arg-type]
    return plain if _is_usable(plain) else None


def _column(rows: Sequence[Row], key: str, types: set[type]) -> NDArray[Any] | None:
    try:
        return _numbers([row[key] for row in rows], types)
    except KeyError:
        return None


def _optional(rows: Sequence[Row], key: str, types: set[type], default: float) -> NDArray[Any] | None:
    """Return a column, which may be missing as a whole."""
    if rows and not any(key in row for row in rows):
        return np.full(len(rows), default)
    return _column(rows, key, types)


def _boxes(rows: Sequence[Row]) -> NDArray[np.float64] | None:
    boxes = [row.get("bbox") for row in rows]
    if not all(type(box) is list and len(box) == 4 for box in boxes):
        return None
    numbers = _numbers(list(itertools.chain.from_iterable(boxes)), {int, float})  # type: ignore[arg-type]
    return None if numbers is None else numbers.astype(np.float64).reshape(-1, 4)


def _numbers(values: list[Any], types: set[type]) -> NDArray[Any] | None:
    if not set(map(type, values)) <= types:
        return None
    try:
        return np.array(values, dtype=np.int64 if types == {int} else np.float64)
    except OverflowError:
        return None


def _is_usable(boxes: PlainBoxes) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        ends = boxes.boxes[:, :2] + boxes.boxes[:, 2:]
        products = boxes.boxes[:, 2] * boxes.boxes[:, 3]
    finite = all(np.isfinite(values).all() for values in (boxes.boxes, ends, products))
    good_areas = np.isnan(boxes.areas) | ((boxes.areas >= 0) & (boxes.areas < np.inf))
    return finite and bool(np.isin(boxes.is_crowd, (0, 1)).all() and good_areas.all())


class Numbering:
    """The number of each id, looked up for whole columns.

    Args:
        table: The number by the id.
    """

    def __init__(self, table: Mapping[Any, int]) -> None:
        self.usable = all(type(key) is int and -(2**63) <= key < 2**63 for key in table)
        keys = np.array(list(table) if self.usable else [], dtype=np.int64)
        order = np.argsort(keys, kind="stable")
        self.ids = keys[order]
        self.numbers = np.array(list(table.values()) if self.usable else [], dtype=np.int64)[order]

    def look_up(self, values: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return the number of each id; None if one is not there."""
        if not self.usable or not len(self.ids):
            return None
        places = np.minimum(np.searchsorted(self.ids, values), len(self.ids) - 1)
        return self.numbers[places] if np.array_equal(self.ids[places], values) else None


# --- with pyarrow --------------------------------------------------------------------------------------------------


def _parse_with_arrow(piece: bytes) -> PlainBoxes | None:
    """Return the columns of annotations, read in a third of the time; None where pyarrow is missing or cannot."""
    try:
        import pyarrow
        from pyarrow import json as arrow_json
    except ImportError:
        return None
    whole = pyarrow.int64()
    number = pyarrow.float64()
    kinds = {"id": whole, "image_id": whole, "category_id": whole, "bbox": pyarrow.list_(number)}
    options = arrow_json.ParseOptions(
        explicit_schema=pyarrow.schema([*kinds.items(), ("iscrowd", whole), ("area", number)]),
        newlines_in_values=b"\n" in piece,
        unexpected_field_behavior="ignore",
    )
    separator = _SEPARATOR.search(piece)
    lines = piece.replace(separator[0], b"}\n{") if separator else piece
    try:
        table = arrow_json.read_json(pyarrow.BufferReader(lines), parse_options=options)
    except (pyarrow.ArrowException, ValueError):
        return None
    return _from_arrow({name: table.column(name).combine_chunks() for name in table.column_names})


def _from_arrow(columns: Mapping[str, Any]) -> PlainBoxes | None:
    ids = [columns[name] for name in ("id", "image_id", "category_id")]
    lists, crowd, areas = columns["bbox"], columns["iscrowd"], columns["area"]
    count = len(lists)
    if not areas.null_count and np.isnan(areas.to_numpy(zero_copy_only=False)).any():
        return None
    if any(column.null_count for column in (*ids, lists)) or any(part.null_count % count for part in (crowd, areas)):
        return None
    numbers = lists.flatten()
    lengths = np.diff(lists.offsets.to_numpy(zero_copy_only=False))
    if numbers.null_count or not (lengths == 4).all():
        return None
    own, image_ids, category_ids = (column.to_numpy(zero_copy_only=False) for column in ids)
    return PlainBoxes(
        own,
        image_ids,
        category_ids,
        numbers.to_numpy(zero_copy_only=False).reshape(-1, 4),
        np.zeros(count, np.int64) if crowd.null_count else crowd.to_numpy(zero_copy_only=False),
        np.full(count, np.nan) if areas.null_count else areas.to_numpy(zero_copy_only=False),
    )
