"""Tests of effdet/evaluation/differences.py: samples against data sets in which images really stand several times."""

import numpy as np
import pytest

from effdet.evaluation import differences
from effdet.evaluation.coco import evaluate_coco
from effdet.evaluation.differences import compare
from tests.evaluation.detection_sets import dataset_of, matches_of, random_set


def without_ties(results):
    return [{**row, "score": 1 - number / len(results)} for number, row in enumerate(results)]


def repeated(truth, results, times):
    """Return the set in which image i stands ``times[i]`` times."""
    annotations, rows, images = [], [], []
    for image, count in times.items():
        for copy in range(count):
            number = image * 100 + copy
            images.append({"id": number, "width": 200, "height": 200})
            annotations += [{**a, "image_id": number} for a in truth["annotations"] if a["image_id"] == image]
            rows += [{**row, "image_id": number} for row in results if row["image_id"] == image]
    annotations = [{**a, "id": number} for number, a in enumerate(annotations, start=1)]
    return {**truth, "images": images, "annotations": annotations}, rows


def test_drawing_an_image_twice_is_having_it_twice():
    truth, results = random_set(6)
    results = without_ties(results)
    rng = np.random.default_rng(0)
    weights = rng.integers(0, 4, (3, 12)).astype(np.float32)
    aps = differences._weighted_aps(matches_of(truth, results), weights)
    for row, drawn in zip(aps, weights, strict=True):
        metrics = evaluate_coco(dataset_of(repeated(truth, results, dict(enumerate(drawn.astype(int), 1)))[0]),
                                repeated(truth, results, dict(enumerate(drawn.astype(int), 1)))[1],
                                backend="pycocotools")  # fmt: skip
        np.testing.assert_allclose(row, list(metrics.per_class.values()), atol=0.02)  # copies have equal scores


def test_the_data_as_it_is_has_cocos_ap():
    truth, results = random_set(7)
    results = without_ties(results)
    matches = matches_of(truth, results)
    expected = evaluate_coco(dataset_of(truth), results, backend="pycocotools")
    found = compare(matches, matches, [f"class {c}" for c in (3, 5, 8, 9, 11)], draws=5)
    assert found.differences[0].first == pytest.approx(expected.ap, abs=1e-9)
    measured = {name: ap for name, ap in expected.per_class.items() if ap == ap}
    assert {row.name: row.first for row in found.differences[1:]} == pytest.approx(measured, abs=1e-9)
    assert not any(row.is_significant or row.difference for row in found.differences)


def test_a_clear_difference_is_significant_and_repeats():
    truth, results = random_set(8)
    better = [{**row, "score": 0.99} for row in map(_as_result, truth["annotations"])]
    pair = matches_of(truth, results), matches_of(truth, better)
    names = [f"class {c}" for c in (3, 5, 8, 9, 11)]
    found, again = compare(*pair, names, draws=100), compare(*pair, names, draws=100)
    assert found == again
    assert found.differences[0].is_significant
    assert 0 < found.differences[0].low <= found.differences[0].difference <= found.differences[0].high


def _as_result(box):
    return {key: box[key] for key in ("image_id", "category_id", "bbox")}


def test_the_boxes_must_be_the_same():
    with pytest.raises(ValueError, match="must be scored on the same boxes; evaluate them on the same data"):
        compare(matches_of(*random_set(0)), matches_of(*random_set(1)), ["a"] * 5)


def test_one_image_says_nothing_about_others():
    matches = matches_of(*repeated(*random_set(8), {1: 1}))
    with pytest.raises(ValueError, match="compared on two or more images, got 1; add validation images"):
        compare(matches, matches, [f"class {c}" for c in (3, 5, 8, 9, 11)])
