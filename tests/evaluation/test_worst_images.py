"""Tests of effdet/evaluation/worst_images.py."""

from effdet.evaluation.error_kinds import find_errors
from effdet.evaluation.worst_images import hardest_false_positives, hardest_misses, score_images, suspected_labels
from tests.evaluation.detection_sets import hand_made

CAT, DOG, NOTHING = [0, 0, 10, 10], [50, 0, 20, 20], [80, 80, 10, 10]


def scene():
    boxes = [(1, 1, CAT), (1, 2, DOG), (2, 1, CAT), (2, 2, DOG)]
    detections = [
        (1, 1, CAT, 0.9),
        (1, 1, DOG, 0.8),  # of another class
        (2, 1, CAT, 0.7),
        (2, 1, NOTHING, 0.95),
        (3, 1, NOTHING, 0.3),
    ]
    return hand_made(boxes, detections)


def test_images_are_ordered_by_f1_then_by_errors():
    scores = score_images(scene(), 0.5)
    assert scores.true_positives.tolist() == [1, 1, 0]
    assert scores.false_positives.tolist() == [1, 1, 0]
    assert scores.missed.tolist() == [1, 1, 0]
    assert scores.f1.tolist() == [0.5, 0.5, 1.0]
    assert score_images(scene(), 0.2).f1.tolist() == [0.5, 0.5, 0.0]
    assert score_images(scene(), 0.2).worst_first().tolist() == [2, 0, 1]


def test_hardest_mistakes_come_first():
    matches = scene()
    assert matches.scores[hardest_false_positives(matches)].tolist() == [0.95, 0.8, 0.3]
    assert hardest_misses(matches, 0.5).tolist() == [1, 3]
    assert hardest_misses(matches, 0.91).tolist() == [1, 3, 0, 2]  # the larger ones first


def test_suspected_labels_are_confident_or_unseen():
    matches = scene()
    suspects = suspected_labels(matches, find_errors(matches), 0.5)
    assert matches.scores[suspects.unlabelled].tolist() == [0.95]
    assert matches.scores[suspects.misnamed].tolist() == [0.8]
    assert suspects.unseen.tolist() == [3]
