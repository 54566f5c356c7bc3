"""Tests of effdet/evaluation/confusion.py."""

import numpy as np
import pytest

from effdet.evaluation.confusion import confusion_matrix
from tests.evaluation.detection_sets import hand_made, matches_of, random_set


def test_confusion_by_hand():
    boxes = [(1, 1, [0, 0, 10, 10]), (1, 2, [50, 0, 10, 10]), (1, 1, [0, 50, 10, 10])]
    detections = [
        (1, 1, [0, 0, 10, 10], 0.9),  # cat found
        (1, 1, [50, 0, 10, 10], 0.8),  # dog taken for a cat
        (1, 2, [50, 0, 10, 10], 0.2),  # below the threshold
        (1, 2, [80, 80, 10, 10], 0.7),  # nothing there
        (1, 2, [0, 0, 10, 10], 0.6),  # on a cat that is found already
    ]
    matrix = confusion_matrix(hand_made(boxes, detections), 0.5)
    assert matrix.tolist() == [[1, 0, 1], [1, 0, 0], [0, 2, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_sums_are_the_boxes_and_the_detections(seed):
    matches = matches_of(*random_set(seed))
    matrix = confusion_matrix(matches, 0.3)
    kept = (matches.scores >= 0.3) & ~matches.is_ignored
    assert np.array_equal(matrix.sum(axis=1)[:-1], matches.num_true_boxes)
    assert np.array_equal(matrix.sum(axis=0)[:-1], np.bincount(matches.labels[kept], minlength=matches.num_classes))
    assert np.diag(matrix)[:-1].sum() == matches.is_true[kept].sum()
