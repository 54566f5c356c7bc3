"""Raw COCO annotations as they are, for the data doctor, and the findings that it writes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Row = dict[str, Any]

ERROR, WARNING, NOTE = "error", "warning", "note"

_EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """Something that a person should know about a data set."""

    level: str  # ERROR, WARNING or NOTE
    split: str  # "train", "val", or "" when it is about both
    text: str
    examples: tuple[str, ...] = ()  # the first few places


@dataclass(frozen=True)
class RawSplit:
    """One annotation file as it is, whatever is wrong with it; entries that are no objects are left out."""

    name: str  # "train" or "val"
    file: Path
    folder: Path
    images: list[Row]
    annotations: list[Row]
    categories: list[Row]

    @cached_property
    def image_of(self) -> dict[Any, Row]:
        """Images by id; the first one where an id is given twice."""
        return {key_of(image.get("id")): image for image in reversed(self.images)}

    @cached_property
    def names(self) -> dict[Any, str]:
        """Class names by category id."""
        return {key_of(row.get("id")): str(row.get("name", row.get("id"))) for row in self.categories}

    @cached_property
    def boxed(self) -> list[Row]:
        """Annotations whose ``bbox`` is four finite numbers."""
        return [row for row in self.annotations if is_bbox(row.get("bbox"))]

    @cached_property
    def boxes(self) -> NDArray[np.float64]:
        """(M, 4) x, y, width, height of ``boxed``."""
        return np.array([row["bbox"] for row in self.boxed], dtype=np.float64).reshape(-1, 4)

    @cached_property
    def sizes(self) -> NDArray[np.float64]:
        """(M, 2) height, width of the image of each row of ``boxed``; NaN where it is not known."""
        images = [self.image_of.get(key_of(row.get("image_id")), {}) for row in self.boxed]
        sides = [[positive(image.get("height")), positive(image.get("width"))] for image in images]
        return np.array(sides, dtype=np.float64).reshape(-1, 2)

    def class_counts(self) -> dict[str, int]:
        """Return the number of boxes of every class, unused ones included."""
        counts = Counter(key_of(row.get("category_id")) for row in self.boxed)
        return {name: counts[category_id] for category_id, name in self.names.items()}


@dataclass(frozen=True)
class ImageFile:
    """What opening an image file told."""

    name: str
    digest: str = ""  # of its bytes
    fault: str = ""  # why it cannot be used
    orientation: int = 1  # EXIF; 1 is upright


def read_raw(name: str, file: Path, folder: Path) -> tuple[RawSplit | None, list[Finding]]:
    """Return a split as its file has it, and what is wrong with the file as a whole; None if it cannot be read."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        return None, [Finding(ERROR, name, f"{file} cannot be read: {error.strerror}")]
    except ValueError as error:
        return None, [Finding(ERROR, name, f"{file} is not valid JSON: {error}")]
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        return None, [Finding(ERROR, name, f"{file} is not COCO JSON: it has no list {' and no list '.join(missing)}")]
    faults: list[Finding] = []
    for key in keys:
        bad = [f"{key}[{place}]" for place, row in enumerate(content[key]) if not isinstance(row, dict)]
        faults += found(ERROR, name, "entries are no objects", bad)
    lists = {key: [row for row in content[key] if isinstance(row, dict)] for key in keys}
    return RawSplit(name, file, folder, **lists), faults


def found(level: str, split: str, text: str, places: Sequence[str]) -> Iterator[Finding]:
    """Yield one finding about all the places, or none when there are none."""
    if places:
        yield Finding(level, split, f"{len(places):,} {text}", tuple(places[:_EXAMPLES]))


def image_words(row: Row) -> str:
    """Name an image for a person."""
    return str(row.get("file_name") or f"image {row.get('id')}")


def box_words(row: Row) -> str:
    """Name an annotation for a person."""
    return f"annotation {row.get('id', '?')} of image {row.get('image_id')}"


def repeated(values: Iterable[Any]) -> list[str]:
    """Return the values, as text, that are there more than once."""
    return [str(value) for value, count in Counter(map(key_of, values)).items() if count > 1 and value is not None]


def key_of(value: Any) -> Any:
    """Return an id as a key of a dictionary: lists and objects, which cannot be one, as their text."""
    return value if isinstance(value, int | str | float | None) else repr(value)


def is_id(value: Any) -> bool:
    """Whether a value can be an id."""
    return isinstance(value, int) and not isinstance(value, bool)


def positive(value: Any) -> float:
    """Return a positive number as a float, NaN for anything else."""
    return float(value) if isinstance(value, int | float) and value > 0 else math.nan


def is_bbox(bbox: Any) -> bool:
    """Whether a value is four finite numbers."""
    return (
        isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(v, int | float) and math.isfinite(v) for v in bbox)
    )
