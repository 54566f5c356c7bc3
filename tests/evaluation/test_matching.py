"""Tests of effdet/evaluation/matching.py: against pycocotools and a literal loop of the rule."""

import numpy as np
import pytest
from pycocotools import mask

from effdet.evaluation import matching
from tests.evaluation.detection_sets import hand_made, matches_of, random_set


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("at_once", [7, 1_000_000])
def test_overlaps_are_those_of_pycocotools(seed, at_once, monkeypatch):
    monkeypatch.setattr(matching, "_PAIRS_AT_ONCE", at_once)
    matches = matches_of(*random_set(seed))
    for crowds in (False, True):
        pairs = matching._overlaps(matches, crowds=crowds)
        found = np.zeros((len(matches.scores), len(matches.true_labels)))
        found[pairs.detections, pairs.boxes] = pairs.ious
        chosen = matches.is_crowd == crowds
        expected = mask.iou(matches.boxes, matches.true_boxes, [crowds] * len(chosen))
        expected[matches.images[:, None] != matches.true_images] = 0
        expected[:, ~chosen] = 0
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("iou", [0.3, 0.5, 0.75])
def test_matching_is_greedy_by_score(iou):
    matches = matches_of(*random_set(3)).at_iou(iou)
    ious = np.zeros((len(matches.scores), len(matches.true_labels)))
    ious[matches.pairs.detections, matches.pairs.boxes] = matches.pairs.ious
    ious[matches.labels[:, None] != matches.true_labels] = 0
    taken = set()
    for row in range(len(ious)):  # by image, then best score first
        free = [(-ious[row, box], box) for box in range(ious.shape[1]) if box not in taken and ious[row, box] >= iou]
        expected = min(free)[1] if free else -1
        assert matches.found_box[row] == expected
        taken.add(expected)
    assert matches.is_found.sum() == matches.is_true.sum() > 0


def test_only_the_best_detections_of_an_image_count():
    truth, results = random_set(1)
    assert np.bincount(matches_of(truth, results, max_detections=4).images).max() == 4


def test_detection_in_a_crowd_of_its_class_is_ignored():
    truth, results = random_set(5)
    matches = matches_of(truth, results)
    assert matches.is_ignored.any()
    assert not (matches.is_ignored & matches.is_true).any()


def test_order_of_boxes_does_not_depend_on_the_order_of_images():
    matches = hand_made([(3, 1, [0, 0, 5, 5]), (1, 1, [0, 0, 9, 9])], [(1, 1, [0, 0, 9, 9], 0.5)])
    assert matches.true_images.tolist() == [0, 2]
    assert matches.found_box.tolist() == [0]
