"""COCO ground truth and results as evaluators read them: checked, completed, with contiguous ids."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection, Container, Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.results import Results

logger = logging.getLogger(__name__)


class Columns(NamedTuple):
    """Checked results, ids as ranks from 0."""

    numbers: NDArray[np.int64]  # (N,) of the row among all that were given, from 1
    image_ids: NDArray[np.int64]  # (N,)
    category_ids: NDArray[np.int64]  # (N,)
    boxes: NDArray[np.float64]  # (N, 4) x, y, width, height
    scores: NDArray[np.float64]  # (N,)


class TruthColumns(NamedTuple):
    """Checked ground truth, ids of images and categories as ranks from 0."""

    ids: NDArray[np.int64]  # (M,) the file's own
    image_ids: NDArray[np.int64]  # (M,)
    category_ids: NDArray[np.int64]  # (M,)
    boxes: NDArray[np.float64]  # (M, 4) x, y, width, height
    areas: NDArray[np.float64]  # (M,)
    is_crowd: NDArray[np.int64]  # (M,)


class GroundTruth:
    """Ground truth that no evaluator stumbles over, made from a COCO file or its content, which stays as it is.

    Image and category ids become their rank in sorted order, which keeps the order that decides ties and lets ids be
    anything that can be sorted. A missing ``area`` is width x height, a missing ``iscrowd`` 0.

    Args:
        annotations: A JSON file or its content.
        image_ids: Only these images count; None: all.

    Attributes:
        name: The file, or what messages call the content.
        annotations: In columns.

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
        self.annotations = self._clean(content["annotations"])

    @property
    def images(self) -> list[dict[str, Any]]:
        """``images`` in COCO's form."""
        return [{"id": rank} for rank in self._image_ranks.values()]

    @property
    def categories(self) -> list[dict[str, Any]]:
        """``categories`` in COCO's form."""
        return [{"id": rank, "name": str(rank)} for rank in self._category_ranks.values()]

    @property
    def dataset(self) -> dict[str, Any]:
        """``images``, ``categories`` and ``annotations`` in COCO's form."""
        keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
        columns = (column.tolist() for column in self.annotations)
        annotations = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
        return {"images": self.images, "categories": self.categories, "annotations": annotations}

    @property
    def class_names(self) -> list[str]:
        """Names in the order of category ids; a name that stands twice gets its id behind it."""
        names = [self._category_names[category_id] for category_id in self._category_ranks]
        return [
            f"{name} ({category_id})" if names.count(name) > 1 else name
            for name, category_id in zip(names, self._category_ranks, strict=True)
        ]

    def clean_results(self, results: str | Path | Sequence[dict[str, Any]] | Results) -> list[dict[str, Any]]:
        """Return the results of the images that count, with the keys that pycocotools' ``loadRes`` would add.

        Raises: as ``columns``.
        """
        columns = self.columns(results)
        areas = columns.boxes[:, 2] * columns.boxes[:, 3]
        lists = (columns.numbers, columns.image_ids, columns.category_ids, columns.boxes, columns.scores, areas)
        return [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "score": score,
                "area": area,
                "iscrowd": 0,
            }
            for number, image, category, box, score, area in zip(*(c.tolist() for c in lists), strict=True)
        ]

    def columns(self, results: str | Path | Sequence[dict[str, Any]] | Results) -> Columns:
        """Return the results of the images that count, ids as ranks.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If a row is malformed or not finite, or names an unknown image or category.
        """
        rows, name = read_json(results, "results")
        if isinstance(rows, Results):
            rows.check(name)
            return self._ranked(rows, name)
        elif isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)):
            images, categories = _column(rows, "image_id", name), _column(rows, "category_id", name)
            boxes, scores = _numbers(rows, "bbox", (4,), name), _numbers(rows, "score", (), name)
        else:
            raise ValueError(f"{name}: must be a list of detections, got {type(rows).__name__}")
        self._check_known(images, self._known_images, "image_id", name)
        self._check_known(categories, self._category_ranks, "category_id", name)

        ranks = np.array([self._image_ranks.get(image, -1) for image in images], dtype=np.int64)
        counts = np.flatnonzero(ranks >= 0)  # images that were not selected have no rank
        category_ranks = np.array([self._category_ranks[category] for category in categories], dtype=np.int64)
        return Columns(counts + 1, ranks[counts], category_ranks[counts], boxes[counts], scores[counts])

    def _ranked(self, results: Results, name: str) -> Columns:
        """Return ``columns`` of what stands in columns already; each id is looked up once."""
        ranks = []
        for ids, known, table, key in (
            (results.image_ids, self._known_images, self._image_ranks, "image_id"),
            (results.category_ids, self._category_ranks, self._category_ranks, "category_id"),
        ):
            values, places = np.unique(ids, return_inverse=True)
            if not all(value in known for value in values.tolist()):
                self._check_known(ids.tolist(), known, key, name)
            ranks.append(np.array([table.get(value, -1) for value in values.tolist()], dtype=np.int64)[places])
        counts = np.flatnonzero(ranks[0] >= 0)
        return Columns(counts + 1, ranks[0][counts], ranks[1][counts], results.boxes[counts], results.scores[counts])

    def own_ids(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Return the file's own image and category ids by rank; None if they are not all whole numbers from 0 on.

        Whole numbers are ordered like their ranks, so an evaluator that knows only them gives the same result.
        """
        tables = (list(self._image_ranks), list(self._category_ranks))
        if not all(type(value) is int and value >= 0 for table in tables for value in table):
            return None
        images, categories = (np.array(table, dtype=np.int64) for table in tables)
        return images, categories

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

    def _clean(self, annotations: Sequence[dict[str, Any]]) -> TruthColumns:
        where = f"{self.name}: annotations"
        images, categories = _column(annotations, "image_id", where), _column(annotations, "category_id", where)
        boxes = _numbers(annotations, "bbox", (4,), where, finite=False)
        finite = np.isfinite(boxes).all(axis=1)
        if not finite.all():
            logger.warning("%s: %d boxes that are not finite do not count", where, (~finite).sum())
        areas = self._areas(annotations, boxes)
        ids = self._annotation_ids(annotations)

        pairs = zip(images, categories, strict=True)
        listed = np.array(
            [_is_among(image, self._known_images) and _is_among(kind, self._category_ranks) for image, kind in pairs],
            dtype=bool,
        )
        if not listed.all():  # pycocotools passes over them in silence
            count = int((~listed).sum())
            logger.warning("%s: %d annotations of images or categories that are not listed do not count", where, count)
        counted = [index for index in np.flatnonzero(listed & finite).tolist() if images[index] in self._image_ranks]
        return TruthColumns(
            ids=np.array(ids, dtype=np.int64)[counted],
            image_ids=np.array([self._image_ranks[images[index]] for index in counted], dtype=np.int64),
            category_ids=np.array([self._category_ranks[categories[index]] for index in counted], dtype=np.int64),
            boxes=boxes[counted],
            areas=areas[counted],
            is_crowd=np.array([int(bool(annotations[index].get("iscrowd"))) for index in counted], dtype=np.int64),
        )

    def _areas(self, annotations: Sequence[dict[str, Any]], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        areas = boxes[:, 2] * boxes[:, 3]
        given = [index for index, item in enumerate(annotations) if item.get("area") is not None]
        areas[given] = _numbers([annotations[index] for index in given], "area", (), f"{self.name}: annotations")
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
