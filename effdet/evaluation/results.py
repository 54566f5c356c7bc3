"""Detections of a whole data set in columns, and results files that need no checking row by row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEYS = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True)
class Results:
    """The detections of many images in columns: a hundredth of the objects that rows of a results file are."""

    image_ids: NDArray[Any]  # (N,) the data set's own
    category_ids: NDArray[np.int64]  # (N,) the data set's own
    boxes: NDArray[np.float64]  # (N, 4) x, y, width, height in pixels of the original image
    scores: NDArray[np.float64]  # (N,)

    def __len__(self) -> int:
        return len(self.scores)

    def check(self, name: str) -> None:
        """Raise ValueError unless all columns are finite and equally long; ``name`` is what the message calls them."""
        shapes = [column.shape for column in (self.image_ids, self.category_ids, self.boxes, self.scores)]
        if shapes != [(len(self),), (len(self),), (len(self), 4), (len(self),)]:
            raise ValueError(f"{name}: columns must have the shapes (N,), (N,), (N, 4), (N,), got {shapes}")
        for key, column in (("boxes", self.boxes), ("scores", self.scores)):
            if not np.isfinite(column).all():
                row = int(np.flatnonzero(~np.isfinite(column).reshape(len(self), -1).all(axis=1))[0])
                raise ValueError(f"{name}: {key} must be finite, got {column[row].tolist()} in row {row}")

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the rows of a COCO results file."""
        columns = (self.image_ids, self.category_ids, self.boxes, self.scores)
        return [
            {"image_id": image, "category_id": category, "bbox": box, "score": score}
            for image, category, box, score in zip(*(column.tolist() for column in columns), strict=True)
        ]


def join_results(parts: Sequence[Results]) -> Results:
    """Return the detections of several parts as one, in their order."""
    empty = Results(np.empty(0, np.int64), np.empty(0, np.int64), np.empty((0, 4)), np.empty(0))
    names = ("image_ids", "category_ids", "boxes", "scores")
    return Results(*(np.concatenate([getattr(part, name) for part in parts or [empty]]) for name in names))


def is_plain_file(path: Path) -> bool:
    """Whether every row of a results file has the four keys that it must have and no other.

    Told by counting, since a reader that is fast and forgiving can then be trusted with the rest: as many objects as
    times that each key stands in the file, no quotation marks but those of the keys, and no null. In JSON without a key
    twice in an object, which the reader refuses, each object has each key once.
    """
    text = path.read_bytes()
    rows = text.count(b"{")
    return (
        all(text.count(f'"{key}"'.encode()) == rows for key in KEYS)
        and int(np.count_nonzero(np.frombuffer(text, dtype=np.uint8) == ord('"'))) == 2 * len(KEYS) * rows
        and b"null" not in text
        and text.lstrip()[:1] == b"["
    )
