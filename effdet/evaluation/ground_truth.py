"""The ground truth of a data set, and results for it, as evaluators read them: ids are contiguous numbers from 0."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.formats.values import look_up
from effdet.evaluation.result_columns import Results

if TYPE_CHECKING:
    from effdet.data.dataset import Dataset


class ResultColumns(NamedTuple):
    """Results of the images that count, ids as ranks from 0."""

    numbers: NDArray[np.int64]  # (N,) of the row among all that were given, from 1
    image_ids: NDArray[np.int64]  # (N,)
    category_ids: NDArray[np.int64]  # (N,)
    boxes: NDArray[np.float64]  # (N, 4) x, y, width, height
    scores: NDArray[np.float64]  # (N,)


class TruthColumns(NamedTuple):
    """Ground truth of the images that count, ids of images and categories as ranks from 0."""

    ids: NDArray[np.int64]  # (M,) the data set's own
    image_ids: NDArray[np.int64]  # (M,)
    category_ids: NDArray[np.int64]  # (M,)
    boxes: NDArray[np.float64]  # (M, 4) x, y, width, height
    areas: NDArray[np.float64]  # (M,)
    is_crowd: NDArray[np.int64]  # (M,)


class GroundTruth:
    """The ground truth of a data set in the form that evaluators take.

    Image and category ids become their rank in sorted order. This keeps the order that decides ties, and lets ids be
    texts or numbers of any size.

    Args:
        dataset: The images and boxes.
        image_ids: Only these images count; None: all.

    Attributes:
        name: What messages call it.
        annotations: The boxes that count, in columns.

    Raises:
        ValueError: If ``image_ids`` names an image that the data set does not have.
    """

    def __init__(self, dataset: Dataset, image_ids: Collection[Any] | None = None) -> None:
        self.name = str(dataset.annotation_file)
        self._dataset = dataset
        ids = dataset.image_ids.tolist()
        self._image_ranks = {value: rank for rank, value in enumerate(sorted(ids))}
        self._category_ranks = {value: rank for rank, value in enumerate(dataset.category_ids)}  # they are ascending
        self._counts = self._select(image_ids)  # by rank
        self.annotations = self._columns(self._ranks_of_images()[dataset.image_of_box])

    @property
    def num_images(self) -> int:
        """Images that count."""
        return int(self._counts.sum())

    @property
    def indices(self) -> NDArray[np.int64]:
        """(I,) the number in the data set of each image that counts, in the order of the ids."""
        return np.argsort(self._ranks_of_images(), kind="stable")[self._counts]

    @property
    def places(self) -> NDArray[np.int64]:
        """The place in ``indices`` of each rank; meaningless for images that do not count."""
        return np.cumsum(self._counts) - 1

    @property
    def images(self) -> list[dict[str, Any]]:
        """``images`` in COCO's form."""
        return [{"id": rank} for rank in np.flatnonzero(self._counts).tolist()]

    @property
    def categories(self) -> list[dict[str, Any]]:
        """``categories`` in COCO's form."""
        return [{"id": rank, "name": str(rank)} for rank in self._category_ranks.values()]

    @property
    def coco(self) -> dict[str, Any]:
        """``images``, ``categories`` and ``annotations`` in COCO's form."""
        keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd")
        columns = (column.tolist() for column in self.annotations)
        annotations = [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]
        return {"images": self.images, "categories": self.categories, "annotations": annotations}

    @property
    def class_names(self) -> list[str]:
        """Names in the order of category ids; a name that stands twice gets its id behind it."""
        names = self._dataset.class_names
        return [
            f"{name} ({category_id})" if names.count(name) > 1 else name
            for name, category_id in zip(names, self._dataset.category_ids, strict=True)
        ]

    def columns(self, results: Results, name: str) -> ResultColumns:
        """Return the results of the images that count, ids as ranks.

        Args:
            results: Checked columns.
            name: What messages call them.

        Raises:
            ValueError: If an image or category is unknown.
        """
        images = self._ranks(results.image_ids, self._image_ranks, f"{name}: image_id")
        categories = self._ranks(results.category_ids, self._category_ranks, f"{name}: category_id")
        kept = np.flatnonzero(self._counts[images])
        return ResultColumns(kept + 1, images[kept], categories[kept], results.boxes[kept], results.scores[kept])

    def result_rows(self, results: Results, name: str) -> list[dict[str, Any]]:
        """Return ``columns`` as rows with the keys that pycocotools' ``loadRes`` would add; it raises the same."""
        columns = self.columns(results, name)
        areas = columns.boxes[:, 2] * columns.boxes[:, 3]
        keys = ("id", "image_id", "category_id", "bbox", "score", "area")
        lists = (column.tolist() for column in (*columns, areas))
        return [{**dict(zip(keys, row, strict=True)), "iscrowd": 0} for row in zip(*lists, strict=True)]

    def own_ids(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Return the data set's own image and category ids by rank; None if an evaluator could not hold one of them.

        Whole numbers are ordered like their ranks, so the result is the same with either.
        """
        images, categories = list(self._image_ranks), list(self._category_ranks)
        if not all(isinstance(value, int) and 0 <= value < 2**63 for value in images + categories):
            return None
        return np.array(images, dtype=np.int64), np.array(categories, dtype=np.int64)

    def _select(self, image_ids: Collection[Any] | None) -> NDArray[np.bool_]:
        """Return (I,) which images count, by rank."""
        if image_ids is None:
            return np.ones(len(self._image_ranks), dtype=bool)
        counts = np.zeros(len(self._image_ranks), dtype=bool)
        for value in image_ids:
            value = value.item() if isinstance(value, np.generic) else value
            rank = look_up(value, self._image_ranks)
            if rank is None:
                raise ValueError(f"image_ids must be images of {self.name} ({_some(self._image_ranks)}), got {value!r}")
            counts[rank] = True
        return counts

    def _ranks_of_images(self) -> NDArray[np.int64]:
        """Return the rank of each image, in the order of the data set."""
        return np.array([self._image_ranks[value] for value in self._dataset.image_ids.tolist()], dtype=np.int64)

    def _columns(self, image_ranks: NDArray[np.int64]) -> TruthColumns:
        dataset, kept = self._dataset, self._counts[image_ranks]
        return TruthColumns(
            ids=dataset.annotation_ids[kept],
            image_ids=image_ranks[kept],
            category_ids=dataset.labels[kept],
            boxes=dataset.boxes_xywh[kept],
            areas=dataset.areas[kept],
            is_crowd=dataset.is_crowd[kept].astype(np.int64),
        )

    def _ranks(self, ids: NDArray[Any], table: Mapping[Any, int], where: str) -> NDArray[np.int64]:
        """Return the rank of each id; numbers are looked up once each."""
        values, places = (ids, None) if ids.dtype == object else np.unique(ids, return_inverse=True)
        ranks = [look_up(value, table) for value in values.tolist()]
        if None in ranks:
            row, value = next((n, value) for n, value in enumerate(ids.tolist()) if look_up(value, table) is None)
            raise ValueError(f"{where} of row {row} must be one of {self.name} ({_some(table)}), got {value!r}")
        found = np.array(ranks, dtype=np.int64)
        return found if places is None else found[places]


def _some(known: Collection[Any]) -> str:
    return ", ".join(map(str, list(known)[:5])) + (", …" if len(known) > 5 else "")
