"""Which detection finds which box: the detections and boxes of a data set in columns, with all their overlaps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.backends import ResultsSource
from effdet.evaluation.ground_truth import GroundTruth
from effdet.evaluation.results_file import read_results

MATCH_IOU = 0.5
_PAIRS_AT_ONCE = 1_000_000


@dataclass(frozen=True, eq=False)
class Pairs:
    """Detections and boxes of the same image that overlap, in the order of the detections."""

    detections: NDArray[np.int64]  # (P,) row of the detection
    boxes: NDArray[np.int64]  # (P,) row of the box
    ious: NDArray[np.float64]  # (P,) above 0

    def __getitem__(self, kept: NDArray[np.bool_]) -> Pairs:
        return Pairs(self.detections[kept], self.boxes[kept], self.ious[kept])

    def best(self, num_detections: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return (N,) the highest IoU of each detection and the first box that has it; 0 and -1 without one."""
        ious, boxes = np.zeros(num_detections), np.full(num_detections, -1)
        order = np.lexsort((self.boxes, -self.ious, self.detections))
        detections, first = np.unique(self.detections[order], return_index=True)
        ious[detections], boxes[detections] = self.ious[order][first], self.boxes[order][first]
        return ious, boxes


@dataclass(frozen=True, eq=False, kw_only=True)
class Matches:
    """The N detections and M boxes of a data set, and which detection found which box.

    Detections are ordered by image, then by score, best first. Boxes are ordered by image. Images are numbered by the
    rank of their id among those that count, labels by that of their category id.
    """

    num_images: int
    num_classes: int
    images: NDArray[np.int64]  # (N,) image of each detection
    labels: NDArray[np.int64]  # (N,) in [0, K)
    boxes: NDArray[np.float64]  # (N, 4) x, y, width, height in pixels
    scores: NDArray[np.float64]  # (N,)
    true_images: NDArray[np.int64]  # (M,) image of each box
    true_labels: NDArray[np.int64]  # (M,)
    true_boxes: NDArray[np.float64]  # (M, 4) x, y, width, height
    true_areas: NDArray[np.float64]  # (M,) pixels²
    is_crowd: NDArray[np.bool_]  # (M,)
    pairs: Pairs  # with boxes that are no crowds
    found_box: NDArray[np.int64]  # (N,) the box that the detection found; -1: none
    is_ignored: NDArray[np.bool_]  # (N,) found no box and lies in a crowd of its class: neither true nor false

    @property
    def is_true(self) -> NDArray[np.bool_]:
        """(N,) whether the detection found a box."""
        return self.found_box >= 0

    @property
    def is_found(self) -> NDArray[np.bool_]:
        """(M,) whether a detection found the box; a crowd is never found."""
        found = np.zeros(len(self.true_labels), dtype=bool)
        found[self.found_box[self.is_true]] = True
        return found

    @property
    def found_scores(self) -> NDArray[np.float64]:
        """(M,) the score of the detection that found the box; 0 where none did."""
        scores = np.zeros(len(self.true_labels))
        scores[self.found_box[self.is_true]] = self.scores[self.is_true]
        return scores

    @property
    def num_true_boxes(self) -> NDArray[np.int64]:
        """(K,) boxes of each class that are no crowds."""
        return np.bincount(self.true_labels[~self.is_crowd], minlength=self.num_classes)

    def at_iou(self, iou_threshold: float) -> Matches:
        """Return the same detections and boxes, matched at another IoU."""
        found = _match(self.pairs, self.labels, self.true_labels, iou_threshold)
        crowds = _overlaps(self, crowds=True)
        return replace(self, found_box=found, is_ignored=_in_crowd(self, crowds, found, iou_threshold))


def match(
    truth: GroundTruth, results: ResultsSource, *, iou_threshold: float = MATCH_IOU, max_detections: int = 100
) -> Matches:
    """Match detections with boxes of their class.

    The detections of an image choose in the order of their scores. Each takes the free box with the highest IoU, if
    this is at least ``iou_threshold``. One that found none is ignored if more than ``iou_threshold`` of its area lies
    in a crowd of its class.

    Args:
        truth: The images and boxes.
        results: A results file, its rows, or columns.
        iou_threshold: In [0, 1].
        max_detections: Best ones of each image that count.

    Raises:
        FileNotFoundError, ValueError: As ``read_results`` and ``GroundTruth.columns``.
    """
    found, boxes = truth.columns(*read_results(results)), truth.annotations
    order = np.lexsort((-found.scores, found.image_ids))
    order = order[_rank_in_group(found.image_ids[order]) < max_detections]
    by_image = np.argsort(boxes.image_ids, kind="stable")
    unmatched = Matches(
        num_images=truth.num_images,
        num_classes=len(truth.class_names),
        images=truth.places[found.image_ids[order]],
        labels=found.category_ids[order],
        boxes=found.boxes[order],
        scores=found.scores[order],
        true_images=truth.places[boxes.image_ids[by_image]],
        true_labels=boxes.category_ids[by_image],
        true_boxes=boxes.boxes[by_image],
        true_areas=boxes.areas[by_image],
        is_crowd=boxes.is_crowd[by_image].astype(bool),
        pairs=Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)),
        found_box=np.full(len(order), -1),
        is_ignored=np.zeros(len(order), dtype=bool),
    )
    return replace(unmatched, pairs=_overlaps(unmatched, crowds=False)).at_iou(iou_threshold)


def _rank_in_group(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many entries of the same group come before each; the groups are sorted."""
    _, first, counts = np.unique(groups, return_index=True, return_counts=True)
    return np.arange(len(groups)) - np.repeat(first, counts)


def _overlaps(matches: Matches, *, crowds: bool) -> Pairs:
    """Return all pairs of detections and boxes that overlap, as pycocotools computes their IoU.

    The IoU with a crowd is the part of the detection that lies in it.
    """
    rows = np.flatnonzero(matches.is_crowd == crowds)
    counts = np.bincount(matches.true_images[rows], minlength=matches.num_images)
    starts = np.cumsum(counts) - counts
    of_detection = counts[matches.images]
    parts = [Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    ends = np.cumsum(of_detection)
    first = 0
    while first < len(of_detection):
        last = max(first + 1, int(np.searchsorted(ends, ends[first] - of_detection[first] + _PAIRS_AT_ONCE)))
        chunk = np.arange(first, last)
        detections = np.repeat(chunk, of_detection[chunk])
        boxes = rows[_rank_in_group(detections) + np.repeat(starts[matches.images[chunk]], of_detection[chunk])]
        ious = _iou(matches.boxes[detections], matches.true_boxes[boxes], crowds=crowds)
        parts.append(Pairs(detections, boxes, ious)[ious > 0])
        first = last
    return Pairs(
        np.concatenate([part.detections for part in parts]),
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.ious for part in parts]),
    )


def _iou(found: NDArray[np.float64], true: NDArray[np.float64], *, crowds: bool) -> NDArray[np.float64]:
    ends = np.minimum(found[:, :2] + found[:, 2:], true[:, :2] + true[:, 2:])
    shared = np.clip(ends - np.maximum(found[:, :2], true[:, :2]), 0, None).prod(axis=1)
    area, true_area = found[:, 2] * found[:, 3], true[:, 2] * true[:, 3]
    union = area if crowds else area + true_area - shared
    return np.divide(shared, union, out=np.zeros(len(shared)), where=shared > 0)


def _match(
    pairs: Pairs, labels: NDArray[np.int64], true_labels: NDArray[np.int64], iou_threshold: float
) -> NDArray[np.int64]:
    pairs = pairs[(pairs.ious >= iou_threshold) & (labels[pairs.detections] == true_labels[pairs.boxes])]
    order = np.lexsort((pairs.boxes, -pairs.ious, pairs.detections))
    found, taken = [-1] * len(labels), bytearray(len(true_labels))
    for detection, box in zip(pairs.detections[order].tolist(), pairs.boxes[order].tolist(), strict=True):
        if found[detection] < 0 and not taken[box]:
            found[detection], taken[box] = box, 1
    return np.array(found, dtype=np.int64)


def _in_crowd(matches: Matches, crowds: Pairs, found: NDArray[np.int64], iou_threshold: float) -> NDArray[np.bool_]:
    same = matches.labels[crowds.detections] == matches.true_labels[crowds.boxes]
    inside = np.zeros(len(found), dtype=bool)
    inside[crowds.detections[same & (crowds.ious > iou_threshold)]] = True
    return inside & (found < 0)
