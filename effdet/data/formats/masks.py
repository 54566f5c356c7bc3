"""Boxes of objects that are annotated as masks only."""

from __future__ import annotations

from typing import Any

from effdet.data.formats.values import number

Box = tuple[float, float, float, float]  # x, y, width, height


def enclosing_box(segmentation: Any) -> Box | None:
    """Return the smallest box around a mask in any of COCO's forms; None if there is no such mask.

    Args:
        segmentation: A list of polygons [x1, y1, x2, y2, …]; or {"size": [height, width], "counts": …} with run
            lengths, column by column, as a list or in COCO's compressed text.
    """
    return _box_of_runs(segmentation) if isinstance(segmentation, dict) else _box_of_polygons(segmentation)


def _box_of_polygons(polygons: Any) -> Box | None:
    if not isinstance(polygons, list) or not all(isinstance(polygon, list) for polygon in polygons):
        return None
    numbers = [number(value) for polygon in polygons for value in polygon]
    known = [value for value in numbers if value is not None]
    if len(known) != len(numbers) or len(known) < 6 or any(len(polygon) % 2 for polygon in polygons):
        return None
    xs, ys = known[::2], known[1::2]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _box_of_runs(mask: dict[str, Any]) -> Box | None:
    counts, size = mask.get("counts"), _lengths(mask.get("size"))
    lengths = _unpacked(counts) if isinstance(counts, str) else _lengths(counts)
    if size is None or len(size) != 2 or lengths is None:
        return None
    return _box_of_lengths(lengths, size[0], size[1])


def _lengths(values: Any) -> list[int] | None:
    """Return a list of pixel counts, None for anything else."""
    is_list = isinstance(values, list) and all(type(value) is int and 0 <= value < 2**31 for value in values)
    return values if is_list else None


def _unpacked(counts: str) -> list[int] | None:
    """Unpack COCO's text: numbers in groups of five bits, from the third on as the difference to two before."""
    lengths: list[int] = []
    value, shift = 0, 0
    for letter in counts:
        group = ord(letter) - 48
        if not 0 <= group < 64:
            return None
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value, shift = 0, 0
    return _lengths(lengths) if not shift else None


def _box_of_lengths(lengths: list[int], height: int, width: int) -> Box | None:
    """Return the box of runs that alternate between outside and inside, down the columns from the left."""
    if sum(lengths) != height * width:
        return None
    columns: list[int] = []
    rows: list[int] = []
    start = 0
    for place, length in enumerate(lengths):
        end = start + length
        if place % 2 and length:
            first, last = divmod(start, height), divmod(end - 1, height)
            columns += [first[0], last[0]]
            rows += [first[1], last[1]] if first[0] == last[0] else [0, height - 1]
        start = end
    if not columns:
        return None
    left, top = min(columns), min(rows)
    return float(left), float(top), float(max(columns) - left + 1), float(max(rows) - top + 1)
