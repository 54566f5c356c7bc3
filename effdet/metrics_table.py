"""Read a run's ``metrics.csv``."""

from __future__ import annotations

import csv
import math
from pathlib import Path


def read_metrics(path: str | Path) -> list[dict[str, float | None]]:
    """Return the rows of a run's ``metrics.csv``, one an epoch, by the names of the columns.

    A number is None where nothing was measured: its cell is empty or missing, is not finite, or is the -1 that stands
    for an AP without ground truth.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it has no epoch column, or a cell is not a number.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"metrics file {path} does not exist")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows, header = list(reader), list(reader.fieldnames or ())
    if "epoch" not in header:
        raise ValueError(f"{path}: must have a column 'epoch', got {', '.join(header) or 'no header'}")
    return [{name: _number(row[name], path, name) for name in header} for row in rows]


def _number(cell: str | None, path: Path, name: str) -> float | None:
    try:
        value = float(cell) if cell else math.nan
    except ValueError:
        raise ValueError(f"{path}: column {name} must hold numbers, got '{cell}'") from None
    return value if 0 <= value < math.inf else None
