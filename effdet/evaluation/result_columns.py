"""The detections of a whole data set in columns: a hundredth of the Python objects that rows of a results file are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # scoring a results file needs no torch
    from effdet.structures import Detections


@dataclass(frozen=True)
class Results:
    """The detections of many images in columns."""

    image_ids: NDArray[Any]  # (N,) the data set's own: int64, or objects where they are texts or 2⁶³ and more
    category_ids: NDArray[Any]  # (N,) the data set's own
    boxes: NDArray[np.float64]  # (N, 4) x, y, width, height in pixels of the original image
    scores: NDArray[np.float64]  # (N,)

    def __len__(self) -> int:
        return len(self.scores)

    def check(self, name: str) -> None:
        """Raise unless all columns are equally long, and boxes and scores finite.

        Args:
            name: What the message calls them.

        Raises:
            ValueError: If they are not.
        """
        shapes = [column.shape for column in (self.image_ids, self.category_ids, self.boxes, self.scores)]
        if shapes != [(len(self),), (len(self),), (len(self), 4), (len(self),)]:
            raise ValueError(f"{name}: columns must have the shapes (N,), (N,), (N, 4), (N,), got {shapes}")
        for key, column in (("boxes", self.boxes), ("scores", self.scores)):
            if not np.isfinite(column).all():
                row = int(np.flatnonzero(~np.isfinite(column).reshape(len(self), -1).all(axis=1))[0])
                where = f"in row {row}, image {self.image_ids[row]}"
                raise ValueError(f"{name}: {key} must be finite, got {column[row].tolist()} {where}")

    def to_rows(self) -> list[dict[str, Any]]:
        """Return the rows of a COCO results file."""
        columns = (self.image_ids, self.category_ids, self.boxes, self.scores)
        return [
            {"image_id": image, "category_id": category, "bbox": box, "score": score}
            for image, category, box, score in zip(*(column.tolist() for column in columns), strict=True)
        ]


def id_column(ids: Sequence[Any]) -> NDArray[Any]:
    """Return ids as an int64 array where all are whole numbers that fit, else as an array of objects."""
    ids = [value.item() if isinstance(value, np.generic) else value for value in ids]
    if all(isinstance(value, int) for value in ids):
        try:
            return np.array(ids, dtype=np.int64)
        except OverflowError:
            pass
    column = np.empty(len(ids), dtype=object)
    for row, value in enumerate(ids):
        column[row] = value
    return column


def join_results(parts: Sequence[Results]) -> Results:
    """Return the detections of several parts as one, in their order."""
    empty = Results(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0))
    names = ("image_ids", "category_ids", "boxes", "scores")
    return Results(*(np.concatenate([getattr(part, name) for part in parts or [empty]]) for name in names))


def to_results(detections: Sequence[Detections], image_ids: Sequence[Any]) -> Results:
    """Return the detections of several images in columns.

    Args:
        detections: One per image, xyxy pixels of the original image.
        image_ids: The data set's own id of each image, a whole number or a text.

    Raises:
        ValueError: If there is not one id per image.
    """
    if len(detections) != len(image_ids):
        raise ValueError(f"there must be one image id per image: got {len(image_ids)} ids, {len(detections)} images")
    return join_results(
        [_image_results(found, image_id) for found, image_id in zip(detections, image_ids, strict=True)]
    )


def _image_results(found: Detections, image_id: Any) -> Results:
    boxes = found.boxes.double().cpu().numpy()  # (D, 4) xyxy
    return Results(
        image_ids=id_column([image_id] * len(boxes)),
        category_ids=np.array([found.category_id(label) for label in found.labels.tolist()], dtype=np.int64),
        boxes=np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),  # (D, 4) x, y, w, h
        scores=found.scores.double().cpu().numpy(),
    )
