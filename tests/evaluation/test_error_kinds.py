"""Tests of effdet/evaluation/error_kinds.py: every number against the package tidecv, and kinds typed by hand."""

import json

import pytest

from effdet.evaluation.error_kinds import NAMES, ErrorKind, cost_of_errors, find_errors
from tests.evaluation.detection_sets import matches_of, random_set


def errors_of(truth, results):
    matches = matches_of(truth, results)
    return cost_of_errors(matches, find_errors(matches))


def by_tidecv(truth, results):
    """Return AP50, the costs and the counts of tidecv 1.0.1, in our names; AP in [0, 1]."""
    tidecv = pytest.importorskip("tidecv", reason="tidecv is not installed: pip install --no-deps tidecv appdirs")
    truths, found = tidecv.Data("truth", max_dets=100), tidecv.Data("found", max_dets=100)
    for image in sorted(image["id"] for image in truth["images"]):
        truths.add_image(image, str(image))
    for category in truth["categories"]:
        truths.add_class(category["id"], category["name"])
    for box in truth["annotations"]:
        add = truths.add_ignore_region if box["iscrowd"] else truths.add_ground_truth
        add(box["image_id"], box["category_id"], box["bbox"])
    for row in results:
        found.add_detection(row["image_id"], row["category_id"], row["score"], row["bbox"])
    run = tidecv.TIDE().evaluate(truths, found, mode=tidecv.TIDE.BOX)
    names = {"Cls": "class", "Loc": "location", "Both": "both", "Dupe": "duplicate", "Bkg": "background"}
    names |= {"Miss": "missed", "FalsePos": "false_positives", "FalseNeg": "false_negatives"}
    costs = {**run.fix_main_errors(), **run.fix_special_errors()}
    costs = {names[kind.short_name]: cost / 100 for kind, cost in costs.items()}
    return run.ap / 100, costs, {names[kind.short_name]: count for kind, count in run.count_errors().items()}


def check_equal(truth, results):
    ap, costs, counts = by_tidecv(truth, results)
    ours = errors_of(truth, results)
    assert ours.ap50 == pytest.approx(ap, abs=1e-12)
    all_ours = {**ours.costs, "false_positives": ours.false_positives, "false_negatives": ours.false_negatives}
    assert all_ours == pytest.approx(costs, abs=1e-12)
    assert ours.counts == counts
    return ours


@pytest.mark.parametrize("seed", range(8))
def test_random_detections_have_the_errors_of_tidecv(seed):
    ours = check_equal(*random_set(seed))
    assert min(ours.counts.values()) > 0, "a kind of error does not occur, so it is not compared"


@pytest.mark.parametrize("split", ["val", "train"])
def test_real_detections_have_the_errors_of_tidecv(split, shared_data):
    truth = json.loads((shared_data / "coco_open" / f"{split}.json").read_text())
    results = json.loads((shared_data / "coco_open" / f"ssd_mobilenet_v1_quant.{split}.dets.json").read_text())
    check_equal(truth, results)


def test_kinds_by_hand():
    truth = {
        "images": [{"id": 1, "width": 100, "height": 100}, {"id": 2, "width": 100, "height": 100}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [50, 0, 10, 10], "area": 100, "iscrowd": 0},
            {"id": 3, "image_id": 1, "category_id": 1, "bbox": [0, 50, 10, 10], "area": 100, "iscrowd": 0},
        ],
    }
    by_hand = [  # image, category, box, what it is
        (1, 1, [0, 0, 10, 10], ErrorKind.none),
        (1, 1, [0, 1, 10, 10], ErrorKind.duplicate),  # IoU 9/11
        (1, 1, [50, 0, 10, 10], ErrorKind.classification),
        (1, 2, [50, 7, 10, 10], ErrorKind.location),  # IoU 3/17
        (1, 1, [50, 7, 10, 10], ErrorKind.both),
        (1, 1, [80, 80, 10, 10], ErrorKind.background),
        (2, 1, [0, 0, 10, 10], ErrorKind.background),  # an image without boxes
    ]
    results = [
        {"image_id": image, "category_id": category, "bbox": box, "score": 0.9 - 0.1 * number}
        for number, (image, category, box, _) in enumerate(by_hand)
    ]
    matches = matches_of(truth, results)
    errors = find_errors(matches)
    assert errors.kinds.tolist() == [kind for *_, kind in by_hand]
    assert errors.is_missed.tolist() == [False, False, True]  # of the second box, two detections are near
    costs = cost_of_errors(matches, errors)
    assert costs.counts == {NAMES[kind]: 1 for kind in NAMES} | {"background": 2}


def test_without_detections_all_boxes_are_missed():
    truth, _ = random_set(0)
    costs = errors_of(truth, [])
    assert costs.ap50 == 0
    assert costs.counts["missed"] == sum(not box["iscrowd"] for box in truth["annotations"])
    assert costs.false_negatives == costs.costs["missed"] == 1  # without the missed boxes, nothing is wrong
