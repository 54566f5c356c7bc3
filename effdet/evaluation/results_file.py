"""Read results in COCO's JSON format: a list of rows ``{"image_id", "category_id", "bbox", "score"}``."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effdet.evaluation.result_columns import Results, id_column

KEYS = ("image_id", "category_id", "bbox", "score")


def read_results(source: str | Path | Sequence[dict[str, Any]] | Results) -> tuple[Results, str]:
    """Return results in columns, and what messages call them.

    Args:
        source: A JSON file, its rows, or columns, which are checked.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not JSON, or a row is malformed or not finite.
    """
    rows, name = read_json(source, "results")
    if isinstance(rows, Results):
        rows.check(name)
        return rows, name
    if not isinstance(rows, Sequence) or isinstance(rows, (str, bytes)):
        raise ValueError(f"{name}: must be a list of detections, got {type(rows).__name__}")
    images, categories = _column(rows, "image_id", name), _column(rows, "category_id", name)
    boxes, scores = _numbers(rows, "bbox", (4,), name), _numbers(rows, "score", (), name)
    return Results(id_column(images), id_column(categories), boxes, scores), name


def is_plain_file(path: Path) -> bool:
    """Return whether every row of a results file has the four keys that it must have and no other.

    They are counted, without parsing the file: there must be as many objects as times that each key stands in it, no
    quotation marks but those of the keys, and no null. A fast reader that checks little can be trusted with such files.
    """
    text = path.read_bytes()
    rows = text.count(b"{")
    return (
        all(text.count(f'"{key}"'.encode()) == rows for key in KEYS)
        and int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8) == ord('"'))) == 2 * len(KEYS) * rows
        and b"null" not in text
        and text.lstrip()[:1] == b"["
    )


def read_json(source: Any, what: str) -> tuple[Any, str]:
    """Return the content of a JSON file, or ``source`` itself if it is no path, and what messages call it.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not JSON.
    """
    if not isinstance(source, (str, Path)):
        return source, what
    if not Path(source).is_file():
        raise FileNotFoundError(f"{what} file {source} does not exist")
    try:
        return json.loads(Path(source).read_bytes()), str(source)
    except RecursionError:
        raise ValueError(f"{source}: must be JSON, but its lists and objects are nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{source}: must be JSON: {error}") from error


def _column(rows: Sequence[Any], key: str, where: str) -> list[Any]:
    try:
        return [row[key] for row in rows]
    except (KeyError, TypeError, IndexError):
        number = next(n for n, row in enumerate(rows) if not (isinstance(row, dict) and key in row))
        raise ValueError(f"{where}: row {number} must have {key}, got {_short(rows[number])}") from None


def _numbers(rows: Sequence[Any], key: str, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Return one column as float64 (rows, *shape), or name the first row that is not finite numbers of that shape."""
    column = _column(rows, key, where)
    if not column:
        return np.zeros((0, *shape))
    with contextlib.suppress(ValueError):  # ragged lists
        values = np.asarray(column)
        if _are_numbers(values, (len(rows), *shape)):
            return values.astype(np.float64)
    number = next((n for n, value in enumerate(column) if not _are_numbers(value, shape)), None)
    if number is None:  # each row alone is fine, as numbers and true or false
        return np.array(column, dtype=np.float64)
    what = "four finite numbers x, y, width, height" if shape else "a finite number"
    raise ValueError(f"{where}: {key} of row {number} must be {what}, got {_short(rows[number])}")


def _are_numbers(value: Any, shape: tuple[int, ...]) -> bool:
    try:
        array = np.asarray(value)
    except ValueError:
        return False
    return array.dtype.kind in "fiu" and array.shape == shape and bool(np.isfinite(array).all())


def _short(row: Any) -> str:
    text = str(row)
    return text if len(text) <= 120 else text[:117] + "..."
