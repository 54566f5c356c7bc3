"""Tests of effdet/evaluation/thresholds.py: against counting, threshold by threshold."""

import numpy as np
import pytest

from effdet.evaluation.thresholds import AtThreshold, at_threshold, best_threshold, threshold_curves
from tests.evaluation.detection_sets import matches_of, random_set


def test_curves_count_detections_of_each_class():
    matches = matches_of(*random_set(2))
    curves = threshold_curves(matches)
    for step, threshold in enumerate(curves.thresholds):
        for label in range(matches.num_classes):
            kept = (matches.labels == label) & (matches.scores >= threshold) & ~matches.is_ignored
            assert curves.true_positives[label, step] == sum(matches.is_true[kept])
            assert curves.false_positives[label, step] == sum(~matches.is_true[kept])
    assert curves.best_by_class[3] is None  # no boxes


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_higher_f1_than_the_best(seed):
    matches = matches_of(*random_set(seed))
    best = threshold_curves(matches).best
    tried = [at_threshold(matches, threshold) for threshold in [*np.unique(matches.scores), best.threshold]]
    assert best.f1 == max(at.f1 for at in tried)
    assert at_threshold(matches, best.threshold) == best


def test_best_threshold_by_hand():
    scores, is_true = np.array([0.2, 0.93, 0.81, 0.4]), np.array([True, True, True, False])
    assert best_threshold(scores, is_true, 3) == AtThreshold(
        threshold=0.2, true_positives=3, false_positives=1, missed=0
    )  # F1 6/7, more than 4/5 of two detections
    assert best_threshold(scores, is_true, 2).threshold == 0.8
    assert best_threshold(np.array([0.3, 0.3]), np.array([True, False]), 1).false_positives == 1


def test_nothing_true_recommends_to_show_nothing():
    nothing = best_threshold(np.array([0.3]), np.array([False]), 4)
    assert (nothing.threshold, nothing.missed, nothing.f1, nothing.precision, nothing.recall) == (1.0, 4, 0, 1, 0)
    assert AtThreshold(threshold=0.5, true_positives=0, false_positives=0, missed=0).recall == 1
