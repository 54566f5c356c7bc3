"""Tests of effdet/evaluation/ground_truth.py."""

from pathlib import Path

import numpy as np
import pytest

from effdet.data.formats.coco import parse_coco
from effdet.evaluation.ground_truth import GroundTruth
from effdet.evaluation.result_columns import Results
from effdet.evaluation.results_file import read_results


def truth(image_ids=None, **changes):
    content = {
        "images": [{"id": 9}, {"id": 7}],
        "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [10, 10, 50, 40], "area": 99, "iscrowd": 1}],
    }
    return GroundTruth(parse_coco({**content, **changes}, Path("annotations")), image_ids)


def result(**changes):
    return {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5, **changes}


def ranked(made, *rows):
    return made.result_rows(*read_results(rows))


def test_ids_become_ranks_in_sorted_order():
    made = truth()
    assert made.class_names == ["cat", "dog"]
    assert made.coco["images"] == [{"id": 0}, {"id": 1}]
    assert made.coco["annotations"] == [
        {"id": 1, "image_id": 0, "category_id": 0, "bbox": [10, 10, 50, 40], "area": 99, "iscrowd": 1}
    ]


def test_texts_are_ids_in_their_order():
    made = truth(images=[{"id": "b"}, {"id": "a"}], annotations=[])
    assert ranked(made, result(image_id="b"))[0]["image_id"] == 1
    assert made.own_ids() is None


@pytest.mark.parametrize("missing", [{"area": None, "iscrowd": None}, {}])
def test_missing_area_and_iscrowd_are_filled_in(missing):
    row = {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], **missing}
    (cleaned,) = truth(annotations=[row]).coco["annotations"]
    assert (cleaned["area"], cleaned["iscrowd"]) == (12, 0)


def test_results_get_the_keys_that_load_res_adds():
    assert ranked(truth(), result(image_id=9, category_id=5, segmentation=[], extra=1)) == [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, "area": 12, "iscrowd": 0}
    ]


@pytest.mark.parametrize("chosen", [[np.int64(9)], [9, 9], ["9"], np.array([9])])
def test_what_belongs_to_images_that_do_not_count_is_left_out(chosen):
    made = truth(image_ids=chosen)
    assert [row["image_id"] for row in ranked(made, result(), result(image_id=9))] == [1]
    assert made.coco["annotations"] == []
    assert made.coco["images"] == [{"id": 1}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (result(image_id=8), r"results: image_id of row 1 must be one of annotations \(7, 9\), got 8"),
        (result(image_id="x"), r"image_id of row 1 must be one of annotations \(7, 9\), got 'x'"),
        (result(image_id=[7]), r"image_id of row 1 must be one of annotations \(7, 9\), got \[7\]"),
        (result(image_id=2**70), r"image_id of row 1 must be one of annotations \(7, 9\), got 1180591620717411303424"),
        (result(image_id=None), r"image_id of row 1 must be one of annotations \(7, 9\), got None"),
        (result(category_id=1), r"category_id of row 1 must be one of annotations \(2, 5\), got 1"),
        (result(category_id={}), r"category_id of row 1 must be one of annotations \(2, 5\), got {}"),
    ],
)
def test_results_of_unknown_images_and_categories_are_named(row, message):
    with pytest.raises(ValueError, match=message):
        ranked(truth(), result(), row)


@pytest.mark.parametrize("image_id", [7.0, "7", np.int64(7)])
def test_an_id_may_be_written_in_another_type(image_id):
    assert ranked(truth(), result(image_id=image_id))[0]["image_id"] == 0


def test_columns_of_numbers_are_looked_up_too():
    made = truth()
    columns = Results(np.array([9, 7, 9]), np.array([5, 5, 2]), np.zeros((3, 4)), np.ones(3))
    found = made.columns(columns, "results")
    assert (found.image_ids.tolist(), found.category_ids.tolist()) == ([1, 0, 1], [1, 1, 0])
    with pytest.raises(ValueError, match=r"found: image_id of row 2 must be one of annotations \(7, 9\), got 3"):
        made.columns(Results(np.array([9, 7, 3]), np.array([5, 5, 2]), np.zeros((3, 4)), np.ones(3)), "found")


def test_chosen_images_must_exist():
    with pytest.raises(ValueError, match=r"image_ids must be images of annotations \(7, 9\), got 8"):
        truth(image_ids=[7, 8])


def test_many_ids_are_listed_in_part():
    many = truth(images=[{"id": number} for number in range(20)])
    with pytest.raises(ValueError, match=r"must be one of annotations \(0, 1, 2, 3, 4, …\), got 99"):
        ranked(many, result(image_id=99))


@pytest.mark.parametrize(("image_id", "fits"), [(0, True), (2**63 - 1, True), (-1, False), (2**63, False)])
def test_only_ids_that_an_evaluator_can_hold_are_handed_to_it(image_id, fits):
    made = truth(images=[{"id": image_id}], annotations=[])
    assert (made.own_ids() is not None) is fits
