"""Tests of effdet/evaluation/by_shape.py."""

import numpy as np
import pytest

from effdet.evaluation.by_shape import by_aspect_ratio, by_size, recall_by_size
from tests.evaluation.detection_sets import hand_made, matches_of, random_set


def test_sizes_by_hand():
    small, large, wide = [0, 0, 10, 10], [20, 0, 40, 40], [0, 60, 80, 20]
    matches = hand_made(
        [(1, 1, small), (1, 1, large), (2, 1, wide)],
        [(1, 1, [0, 5, 10, 10], 0.9), (1, 1, large, 0.8), (2, 1, wide, 0.7), (3, 1, large, 0.95)],
    )
    sizes = by_size(matches)
    assert [group.num_boxes for group in sizes] == [1, 0, 2, 0, 0, 0, 0]
    assert [group.recall for group in sizes[:3]] == [0, None, 1]
    assert [group.ap50 for group in sizes[:3]] == [
        0,
        None,
        pytest.approx(2 / 3),
    ]  # the false detection of image 3 is as large
    ratios = by_aspect_ratio(matches)
    assert [group.num_boxes for group in ratios] == [0, 0, 0, 2, 0, 0, 1]
    assert ratios[-1].ap50 == 1


def test_groups_hold_all_boxes():
    matches = matches_of(*random_set(4))
    for groups in (by_size(matches), by_aspect_ratio(matches)):
        assert sum(group.num_boxes for group in groups) == (~matches.is_crowd).sum()


def test_recall_by_size_counts_what_is_reached():
    rows = recall_by_size(np.array([3.0, 4.0, 20.0]), np.array([True, False, True]), edges=(0, 10, 30, 99))
    assert rows == ((0, 10, 2, 0.5), (10, 30, 1, 1.0), (30, 99, 0, None))
