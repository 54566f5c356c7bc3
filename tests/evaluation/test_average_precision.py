"""Tests of effdet/evaluation/average_precision.py: against pycocotools at IoU 0.5."""

import math

import numpy as np
import pytest

from effdet.evaluation.average_precision import average_precision, mean_ap, measured_aps
from tests.evaluation.detection_sets import hand_made, matches_of, random_set
from tests.evaluation.pycocotools_run import accumulated


def ap50_of_pycocotools(truth, results):
    evaluation = accumulated(truth, results)
    precision = evaluation.eval["precision"][0, :, :, 0, 2]
    return np.where((precision > -1).all(axis=0), precision.mean(axis=0), np.nan)


@pytest.mark.parametrize("seed", range(4))
def test_ap_is_that_of_pycocotools(seed):
    truth, results = random_set(seed)
    for number, row in enumerate(results):
        row["score"] = 1 - number / len(results)  # no ties, which both break in their own way
    np.testing.assert_allclose(
        measured_aps(matches_of(truth, results)), ap50_of_pycocotools(truth, results), atol=1e-12
    )


def test_ap_by_hand():
    # recalls ½ and 1; the precision up to ½ is 1, behind it 2/3: 51 and 50 of the 101 places
    assert average_precision(np.array([True, False, True]), 2) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert average_precision(np.zeros(0, bool), 2) == average_precision(np.array([False]), 0) == 0


def test_classes_without_boxes_have_no_ap():
    matches = hand_made([(1, 1, [0, 0, 9, 9])], [(1, 1, [0, 0, 9, 9], 0.5), (1, 2, [0, 0, 9, 9], 0.5)])
    aps = measured_aps(matches)
    assert aps[0] == mean_ap(aps) == 1
    assert math.isnan(aps[1])
    assert math.isnan(mean_ap(aps[1:]))
