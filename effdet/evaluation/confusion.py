"""Which class is taken for which."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.matching import MATCH_IOU, Matches, Pairs


def confusion_matrix(matches: Matches, threshold: float) -> NDArray[np.int64]:
    """Return how often a box of each class is detected as each class.

    First, detections and boxes of one class are matched, so the diagonal holds the true positives. Then the detections
    that are left take boxes of other classes that are left, the highest score first, if their IoU is at least 0.5. What
    still is left goes to the background. Detections in crowds of their class do not count.

    Args:
        matches: At IoU 0.5.
        threshold: Smallest score that counts.

    Returns:
        (K + 1, K + 1) rows: the class of the box; columns: that of the detection; the last is the background.
    """
    background = matches.num_classes
    kept = (matches.scores >= threshold) & ~matches.is_ignored
    found = np.where(kept, matches.found_box, -1)
    found_wrongly = _match_others(matches, kept, found)
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    for boxes in (found, found_wrongly):
        hit = boxes >= 0
        np.add.at(matrix, (matches.true_labels[boxes[hit]], matches.labels[hit]), 1)

    invented = kept & (found < 0) & (found_wrongly < 0)
    matrix[background, :background] = np.bincount(matches.labels[invented], minlength=background)
    missed = ~matches.is_crowd
    missed[np.concatenate([found, found_wrongly])[np.concatenate([found, found_wrongly]) >= 0]] = False
    matrix[:background, background] = np.bincount(matches.true_labels[missed], minlength=background)
    return matrix


def _match_others(matches: Matches, kept: NDArray[np.bool_], found: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) boxes of other classes that detections without a box lie on; -1: none."""
    taken = bytearray(len(matches.true_labels))
    for box in found[found >= 0].tolist():
        taken[box] = 1
    pairs: Pairs = matches.pairs
    free = kept & (found < 0)
    pairs = pairs[(pairs.ious >= MATCH_IOU) & free[pairs.detections]]
    order = np.lexsort((pairs.boxes, -pairs.ious, pairs.detections))
    others = [-1] * len(found)
    for detection, box in zip(pairs.detections[order].tolist(), pairs.boxes[order].tolist(), strict=True):
        if others[detection] < 0 and not taken[box]:
            others[detection], taken[box] = box, 1
    return np.array(others, dtype=np.int64)
