"""Tests of effdet/evaluation/calibration.py."""

import pytest

from effdet.evaluation.calibration import calibration
from tests.evaluation.detection_sets import hand_made


def test_expected_error_by_hand():
    box = [0, 0, 10, 10]
    matches = hand_made(
        [(1, 1, box), (2, 1, box)],
        [(1, 1, box, 0.95), (2, 1, box, 0.91), (3, 1, box, 0.97), (3, 2, box, 0.35), (3, 2, box, 0.01)],
    )
    found = calibration(matches)
    # 3 detections of mean score 0.943 and precision 2/3; one of score 0.35 and precision 0; 0.01 does not count
    assert found.expected_error == pytest.approx(3 / 4 * (2.83 / 3 - 2 / 3) + 1 / 4 * 0.35)
    assert [item.count for item in found.bins] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 3]
    assert found.bins[9].precision == pytest.approx(2 / 3)
    assert (found.bins[9].low, found.bins[9].high) == (0.9, 1.0)


def test_without_detections_the_error_is_zero():
    assert calibration(hand_made([(1, 1, [0, 0, 5, 5])], [])).expected_error == 0
