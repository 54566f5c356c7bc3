"""COCO ground truth and results as evaluators read them: checked, completed, with contiguous ids."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection, Container, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


class GroundTruth:
    """Ground truth that no evaluator stumbles over, made from a COCO file or its content, which stays as it is.

    Image and category ids become their rank in sorted order, which keeps the order that decides ties and lets ids be
    anything that can be sorted. A missing ``area`` is width x height, a missing ``iscrowd`` 0.

    Args:
        annotations: A JSON file or its content.
        image_ids: Only these images count; None: all.

    Attributes:
        name: The file, or what messages call the content.
        dataset: ``images``, ``categories`` and ``annotations`` in COCO's form.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not COCO ground truth, or ``image_ids`` names an image that it does not have.
    """

    def __init__(self, annotations: str | Path | dict[str, Any], image_ids: Collection[Any] | None = None) -> None:
        content, self.name = read_json(annotations, "annotations")
        if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
            raise ValueError(f"{self.name}: must be a COCO object with images, annotations and categories")

        ids = _column(content["categories"], "id", f"{self.name}: categories")
        self._category_names = {
            value: str(item.get("name", value)) for value, item in zip(ids, content["categories"], strict=True)
        }
        self._category_ranks = self._ranks(self._category_names, "category")
        self._known_images = self._ranks(_column(content["images"], "id", f"{self.name}: images"), "image")
        self._image_ranks = self._select(image_ids)
        self.dataset: dict[str, Any] = {
            "images": [{"id": rank} for rank in self._image_ranks.values()],
            "categories": [{"id": rank, "name": str(rank)} for rank in self._category_ranks.values()],
            "annotations": self._clean(content["annotations"]),
        }

    @property
    def class_names(self) -> list[str]:
        """Names in the order of category ids; a name that stands twice gets its id behind it."""
        names = [self._category_names[category_id] for category_id in self._category_ranks]
        return [
            f"{name} ({category_id})" if names.count(name) > 1 else name
            for name, category_id in zip(names, self._category_ranks, strict=True)
        ]

    def clean_results(self, results: str | Path | Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the results of the images that count, with the keys that pycocotools' ``loadRes`` would add.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If a row is malformed or not finite, or names an unknown image or category.
        """
        rows, name = read_json(results, "results")
        if not isinstance(rows, Sequence) or isinstance(rows, (str, bytes)):
            raise ValueError(f"{name}: must be a list of detections, got {type(rows).__name__}")
        images, categories = _column(rows, "image_id", name), _column(rows, "category_id", name)
        boxes, scores = _numbers(rows, "bbox", (4,), name), _numbers(rows, "score", (), name)
        self._check_known(images, self._known_images, "image_id", name)
        self._check_known(categories, self._category_ranks, "category_id", name)

        areas = boxes[:, 2] * boxes[:, 3]
        columns = zip(images, categories, boxes.tolist(), scores.tolist(), areas.tolist(), strict=True)
        return [
            {
                "id": number,
                "image_id": self._image_ranks[image],
                "category_id": self._category_ranks[category],
                "bbox": box,
                "score": score,
                "area": area,
                "iscrowd": 0,
            }
            for number, (image, category, box, score, area) in enumerate(columns, start=1)
            if image in self._image_ranks
        ]

    def _ranks(self, ids: Collection[Any], what: str) -> dict[Any, int]:
        try:
            return {value: rank for rank, value in enumerate(sorted(set(ids)))}
        except TypeError:
            raise ValueError(f"{self.name}: {what} ids must be all numbers or all texts, got a mixture") from None

    def _select(self, image_ids: Collection[Any] | None) -> dict[Any, int]:
        if image_ids is None:
            return self._known_images
        selected = {value.item() if isinstance(value, np.generic) else value for value in image_ids}
        for value in selected:
            if value not in self._known_images:
                raise ValueError(
                    f"image_ids must be images of {self.name} ({_some(self._known_images)}), got {value!r}"
                )
        return {value: rank for value, rank in self._known_images.items() if value in selected}

    def _clean(self, annotations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        where = f"{self.name}: annotations"
        images, categories = _column(annotations, "image_id", where), _column(annotations, "category_id", where)
        boxes = _numbers(annotations, "bbox", (4,), where, finite=False)
        finite = np.isfinite(boxes).all(axis=1)
        if not finite.all():
            logger.warning("%s: %d boxes that are not finite do not count", where, (~finite).sum())
        areas = self._areas(annotations, boxes)
        ids = self._annotation_ids(annotations)

        listed = [
            _is_among(image, self._known_images) and _is_among(category, self._category_ranks)
            for image, category in zip(images, categories, strict=True)
        ]
        if not all(listed):  # pycocotools passes over them in silence
            count = len(listed) - sum(listed)
            logger.warning("%s: %d annotations of images or categories that are not listed do not count", where, count)
        return [
            {
                "id": ids[index],
                "image_id": self._image_ranks[images[index]],
                "category_id": self._category_ranks[categories[index]],
                "bbox": boxes[index].tolist(),
                "area": areas[index],
                "iscrowd": int(bool(item.get("iscrowd"))),
            }
            for index, item in enumerate(annotations)
            if listed[index] and finite[index] and images[index] in self._image_ranks
        ]

    def _areas(self, annotations: Sequence[dict[str, Any]], boxes: np.ndarray) -> list[float]:
        areas: list[float] = (boxes[:, 2] * boxes[:, 3]).tolist()
        given = [index for index, item in enumerate(annotations) if item.get("area") is not None]
        values = _numbers([annotations[index] for index in given], "area", (), f"{self.name}: annotations")
        for index, value in zip(given, values.tolist(), strict=True):
            areas[index] = value
        return areas

    def _annotation_ids(self, annotations: Sequence[dict[str, Any]]) -> list[int]:
        """Return the file's own ids: pycocotools never counts a match with id 0, and its numbers are the reference."""
        ids = [item.get("id") for item in annotations]
        whole = [value for value in ids if isinstance(value, int) and value >= 0]
        if len(set(whole)) < len(ids):
            logger.warning("%s: annotation ids are missing or stand twice; they are numbered anew", self.name)
            return list(range(1, len(ids) + 1))
        if 0 in ids:
            logger.warning("%s: pycocotools never counts annotation id 0 as found; let ids start at 1", self.name)
        return whole

    def _check_known(self, values: list[Any], known: dict[Any, int], key: str, name: str) -> None:
        for number, value in enumerate(values):
            if not _is_among(value, known):
                raise ValueError(
                    f"{name}: {key} of row {number} must be one of {self.name} ({_some(known)}), got {value!r}"
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
    except ValueError as error:
        raise ValueError(f"{source}: must be JSON: {error}") from error


def _column(rows: Sequence[Any], key: str, where: str) -> list[Any]:
    try:
        return [row[key] for row in rows]
    except (KeyError, TypeError, IndexError):
        if not isinstance(rows, Sequence):
            raise ValueError(f"{where} must be a list, got {_short(rows)}") from None
        number = next(n for n, row in enumerate(rows) if not (isinstance(row, dict) and key in row))
        raise ValueError(f"{where}: row {number} must have {key}, got {_short(rows[number])}") from None


def _numbers(rows: Sequence[Any], key: str, shape: tuple[int, ...], where: str, *, finite: bool = True) -> np.ndarray:
    """Return one column as float64 (rows, *shape), or name the first row that is not (finite) numbers of that shape."""
    column = _column(rows, key, where)
    if not column:
        return np.zeros((0, *shape))
    with contextlib.suppress(ValueError):  # ragged lists
        values = np.asarray(column)
        if _are_numbers(values, (len(rows), *shape), finite):
            return values.astype(np.float64)
    number = next(n for n, value in enumerate(column) if not _are_numbers(value, shape, finite))
    what = f"{'four ' if shape else 'a '}{'finite ' if finite else ''}number{'s x, y, width, height' if shape else ''}"
    raise ValueError(f"{where}: {key} of row {number} must be {what}, got {_short(rows[number])}")


def _are_numbers(value: Any, shape: tuple[int, ...], finite: bool) -> bool:
    try:
        array = np.asarray(value)
    except ValueError:
        return False
    return array.dtype.kind in "fiu" and array.shape == shape and (not finite or bool(np.isfinite(array).all()))


def _is_among(value: Any, known: Container[Any]) -> bool:
    return isinstance(value, Hashable) and value in known


def _some(known: Collection[Any]) -> str:
    return ", ".join(map(str, list(known)[:5])) + (", …" if len(known) > 5 else "")


def _short(row: Any) -> str:
    text = str(row)
    return text if len(text) <= 120 else text[:117] + "..."
