"""Kinds of errors and the AP that each costs: TIDE (Bolya, Foley, Hays, Hoffman, ECCV 2020), section 2.

A detection that is not true has the first of these that fits. IoU_same and IoU_other are its highest IoU with a box of
its own class and of other classes; the thresholds are t_f = 0.5 and t_b = 0.1.

    location    t_b ≤ IoU_same ≤ t_f            the name is right, the box is not
    class       IoU_other ≥ t_f                 the box is right, the name is not
    duplicate   IoU_same ≥ t_f                  a better detection has found this box
    background  IoU with every box ≤ t_b        nothing is there
    both        else                            a box of another class is near, and the box is wrong, too

A box is missed if no detection found it and correcting a class or location error would not find it either.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.average_precision import TIDE_RECALLS, class_aps, mean_ap
from effdet.evaluation.matching import MATCH_IOU, Matches

BACKGROUND_IOU = 0.1


class ErrorKind(IntEnum):
    """What is wrong with a detection; ``missed`` belongs to a box."""

    none = 0
    classification = 1
    location = 2
    both = 3
    duplicate = 4
    background = 5
    missed = 6


NAMES = {
    ErrorKind.classification: "class",
    ErrorKind.location: "location",
    ErrorKind.both: "both",
    ErrorKind.duplicate: "duplicate",
    ErrorKind.background: "background",
    ErrorKind.missed: "missed",
}


@dataclass(frozen=True, eq=False)
class Errors:
    """The kind of every error."""

    kinds: NDArray[np.int64]  # (N,) ErrorKind of each detection
    near_box: NDArray[np.int64]  # (N,) box that a class or location error has in mind; -1: none
    is_missed: NDArray[np.bool_]  # (M,)


@dataclass(frozen=True, kw_only=True)
class ErrorCosts:
    """What each kind of error costs in AP at IoU 0.5: the AP without it, less the AP with it.

    The costs do not add up, because one box may suffer from several errors.
    """

    ap50: float  # mean over the classes that have boxes or detections
    costs: dict[str, float]  # by the names of the six kinds, 0 or more
    false_positives: float  # without any false detection
    false_negatives: float  # without any box that was not found
    counts: dict[str, int]  # of all detections, whatever their score

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dict(vars(self))


def find_errors(matches: Matches) -> Errors:
    """Return the kind of every error of detections that were matched at IoU 0.5."""
    count, pairs = len(matches.scores), matches.pairs
    same = matches.labels[pairs.detections] == matches.true_labels[pairs.boxes]
    same_iou, same_box = pairs[same].best(count)
    other_iou, other_box = pairs[~same].best(count)
    used_iou, _ = pairs[same & matches.is_found[pairs.boxes]].best(count)
    has_boxes = np.bincount(matches.true_images[~matches.is_crowd], minlength=matches.num_images) > 0

    rules = (  # the first that fits
        (matches.is_true, ErrorKind.none),
        (~has_boxes[matches.images], ErrorKind.background),
        ((same_iou >= BACKGROUND_IOU) & (same_iou <= MATCH_IOU), ErrorKind.location),
        (other_iou >= MATCH_IOU, ErrorKind.classification),
        (used_iou >= MATCH_IOU, ErrorKind.duplicate),
        (np.maximum(same_iou, other_iou) <= BACKGROUND_IOU, ErrorKind.background),
    )
    kinds = np.select([fits for fits, _ in rules], [int(kind) for _, kind in rules], default=int(ErrorKind.both))
    near = np.where(kinds == ErrorKind.location, same_box, np.where(kinds == ErrorKind.classification, other_box, -1))
    usable = np.zeros(len(matches.true_labels), dtype=bool)
    usable[near[near >= 0]] = True
    return Errors(kinds, near, ~matches.is_crowd & ~matches.is_found & ~usable)


def cost_of_errors(matches: Matches, errors: Errors) -> ErrorCosts:
    """Return the AP at IoU 0.5 and what each kind of error takes from it.

    Correcting a class or location error makes the best of the detections that mean the same box true, and removes the
    others. Correcting a duplicate, background or both error removes the detection; correcting a missed box removes the
    box.
    """
    num_boxes = matches.num_true_boxes
    counted = ~matches.is_ignored
    plain = _Fixed(counted, matches.labels, matches.scores, matches.is_true)
    ap = _ap(plain, np.flatnonzero(counted), num_boxes)
    # Where scores are equal, false detections come first: so an AP is not raised by their order.
    order = np.argsort(matches.is_true, kind="stable")

    def without(fixed: _Fixed, boxes: NDArray[np.int64] = num_boxes) -> float:
        return _ap(fixed, order[fixed.kept[order]], boxes) - ap

    detected = [kind for kind in NAMES if kind is not ErrorKind.missed]
    costs = {NAMES[kind]: max(0.0, without(_corrected(matches, errors, kind))) for kind in detected}
    missed = np.bincount(matches.true_labels[errors.is_missed], minlength=matches.num_classes)
    costs["missed"] = max(0.0, without(plain, num_boxes - missed))
    unfound = ~matches.is_crowd & ~matches.is_found
    unfound_counts = np.bincount(matches.true_labels[unfound], minlength=matches.num_classes)
    counts = np.bincount(errors.kinds, minlength=len(ErrorKind))
    return ErrorCosts(
        ap50=ap,
        costs=costs,
        false_positives=without(_Fixed(counted, matches.labels, matches.is_true.astype(float), matches.is_true)),
        false_negatives=without(plain, num_boxes - unfound_counts),
        counts={NAMES[kind]: int(counts[kind]) for kind in detected} | {"missed": int(errors.is_missed.sum())},
    )


@dataclass(frozen=True, eq=False)
class _Fixed:
    """The detections after a correction."""

    kept: NDArray[np.bool_]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    is_true: NDArray[np.bool_]


def _ap(fixed: _Fixed, rows: NDArray[np.int64], num_boxes: NDArray[np.int64]) -> float:
    """Return the mean AP; 1 where no class has boxes or detections: nothing is wrong."""
    aps = class_aps(fixed.labels[rows], fixed.scores[rows], fixed.is_true[rows], num_boxes.tolist(), TIDE_RECALLS)
    return 1.0 if np.isnan(aps).all() else mean_ap(aps)


def _corrected(matches: Matches, errors: Errors, kind: ErrorKind) -> _Fixed:
    chosen = errors.kinds == kind
    kept, labels, is_true = ~matches.is_ignored & ~chosen, matches.labels.copy(), matches.is_true.copy()
    best = _best_for_its_box(matches, errors)
    rows = np.flatnonzero(chosen & best)
    kept[rows], is_true[rows] = True, True
    labels[rows] = matches.true_labels[errors.near_box[rows]]
    return _Fixed(kept, labels, matches.scores, is_true)


def _best_for_its_box(matches: Matches, errors: Errors) -> NDArray[np.bool_]:
    """(N,) whether a class or location error is the best one of those that mean the same box, which nobody found."""
    rows = np.flatnonzero(errors.near_box >= 0)
    rows = rows[~matches.is_found[errors.near_box[rows]]]
    _, first = np.unique(errors.near_box[rows], return_index=True)  # rows of an image are in the order of the scores
    best = np.zeros(len(errors.kinds), dtype=bool)
    best[rows[first]] = True
    return best
