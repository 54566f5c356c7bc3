"""Tests of effdet/evaluation/rows.py: what is refused, and how it is said."""

import json
import math

import numpy as np
import pytest

from effdet.evaluation.rows import GroundTruth, read_json


def truth(**changes):
    content = {
        "images": [{"id": 7}, {"id": 9}],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [10, 10, 50, 40], "area": 99, "iscrowd": 1}],
    }
    return {**content, **changes}


def annotation(**changes):
    return {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], **changes}


def result(**changes):
    return {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5, **changes}


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


def test_ids_become_ranks_in_sorted_order():
    made = GroundTruth(truth(images=[{"id": 9}, {"id": 7}], categories=[{"id": 5, "name": "dog"}, {"id": 2}]))
    assert made.class_names == ["2", "dog"]
    assert made.dataset["annotations"] == [
        {"id": 1, "image_id": 0, "category_id": 0, "bbox": [10, 10, 50, 40], "area": 99, "iscrowd": 1}
    ]


@pytest.mark.parametrize("missing", [None, "key"])
def test_missing_area_and_iscrowd_are_filled_in(missing):
    row = annotation(area=None, iscrowd=None) if missing is None else annotation()
    (cleaned,) = GroundTruth(truth(annotations=[row])).dataset["annotations"]
    assert (cleaned["area"], cleaned["iscrowd"]) == (12, 0)


def test_results_get_the_keys_that_load_res_adds():
    rows = GroundTruth(truth()).clean_results([result(image_id=9, category_id=5, segmentation=[], extra=1)])
    assert rows == [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, "area": 12, "iscrowd": 0}
    ]


def test_results_of_images_that_do_not_count_are_left_out():
    made = GroundTruth(truth(), image_ids=[np.int64(9)])
    assert [row["image_id"] for row in made.clean_results([result(), result(image_id=9)])] == [1]
    assert made.dataset["annotations"] == []


def test_ground_truth_that_is_not_finite_is_left_out_with_a_warning(caplog):
    made = GroundTruth(truth(annotations=[annotation(bbox=[1, math.nan, 3, 4]), annotation(id=2)]))
    assert [row["id"] for row in made.dataset["annotations"]] == [2]
    assert "1 boxes that are not finite do not count" in caplog.text


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (result(image_id=8), r"image_id of row 1 must be one of annotations \(7, 9\), got 8"),
        (result(image_id="7"), r"image_id of row 1 must be one of annotations \(7, 9\), got '7'"),
        (result(image_id=[7]), r"image_id of row 1 must be one of annotations \(7, 9\), got \[7\]"),
        (result(category_id=1), r"category_id of row 1 must be one of annotations \(2, 5\), got 1"),
        (result(score=math.nan), "score of row 1 must be a finite number, got .*nan"),
        (result(score=math.inf), "score of row 1 must be a finite number"),
        (result(score="0.5"), "score of row 1 must be a finite number"),
        (result(score=None), "score of row 1 must be a finite number"),
        (result(score=True), None),
        (result(bbox=[1, 2, 3, math.nan]), "bbox of row 1 must be four finite numbers x, y, width, height, got .*nan"),
        (result(bbox=[1, 2, -math.inf, 3]), "bbox of row 1 must be four finite numbers"),
        (result(bbox=[1, 2, 3]), "bbox of row 1 must be four finite numbers"),
        (result(bbox=[1, 2, 3, [4]]), "bbox of row 1 must be four finite numbers"),
        (result(bbox=None), "bbox of row 1 must be four finite numbers"),
        (result(bbox="abcd"), "bbox of row 1 must be four finite numbers"),
        (without(result(), "image_id"), "row 1 must have image_id, got {'category_id': 2"),
        (without(result(), "category_id"), "row 1 must have category_id"),
        (without(result(), "bbox"), "row 1 must have bbox"),
        (without(result(), "score"), "row 1 must have score"),
        (5, "row 1 must have image_id, got 5"),
        (None, "row 1 must have image_id, got None"),
    ],
)
def test_a_result_that_cannot_be_is_named(row, message):
    made = GroundTruth(truth())
    if message is None:
        assert made.clean_results([result(), row])[1]["score"] == 1
        return
    with pytest.raises(ValueError, match=message):
        made.clean_results([result(), row])


def test_a_long_row_is_shortened():
    with pytest.raises(ValueError, match=r"must have score, got .{117}\.\.\.$"):
        GroundTruth(truth()).clean_results([without(result(note="x" * 500), "score")])


@pytest.mark.parametrize("results", [{"annotations": []}, 3])
def test_results_must_be_a_list(results):
    with pytest.raises(ValueError, match="results: must be a list of detections, got "):
        GroundTruth(truth()).clean_results(results)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "annotations: must be a COCO object with images, annotations and categories"),
        (without(truth(), "categories"), "must be a COCO object with images, annotations and categories"),
        (truth(images=[{"id": 7}, {}]), "annotations: images: row 1 must have id, got {}"),
        (truth(images=5), "annotations: images must be a list, got 5"),
        (truth(categories=[{"name": "cat"}]), "annotations: categories: row 0 must have id"),
        (truth(images=[{"id": 7}, {"id": "8"}]), "image ids must be all numbers or all texts, got a mixture"),
        (truth(annotations=[without(annotation(), "bbox")]), "annotations: annotations: row 0 must have bbox"),
        (truth(annotations=[without(annotation(), "image_id")]), "row 0 must have image_id"),
        (
            truth(annotations=[annotation(bbox=[1, 2, 3])]),
            "bbox of row 0 must be four numbers x, y, width, height, got",
        ),
        (truth(annotations=[annotation(area="big")]), "area of row 0 must be a finite number, got"),
    ],
)
def test_ground_truth_that_cannot_be_is_named(content, message):
    with pytest.raises(ValueError, match=message):
        GroundTruth(content)


def test_chosen_images_must_exist():
    with pytest.raises(ValueError, match=r"image_ids must be images of annotations \(7, 9\), got 8"):
        GroundTruth(truth(), image_ids=[7, 8])


def test_many_ids_are_listed_in_part():
    many = truth(images=[{"id": number} for number in range(20)])
    with pytest.raises(ValueError, match=r"must be one of annotations \(0, 1, 2, 3, 4, …\), got 99"):
        GroundTruth(many).clean_results([result(image_id=99)])


def test_files_are_named_in_messages(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(truth()))
    (tmp_path / "broken.json").write_text("{")
    made = GroundTruth(tmp_path / "truth.json")
    with pytest.raises(FileNotFoundError, match=r"results file .*nowhere.json does not exist"):
        made.clean_results(tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match=r"broken.json: must be JSON: "):
        made.clean_results(str(tmp_path / "broken.json"))
    with pytest.raises(ValueError, match=r"image_id of row 0 must be one of .*truth.json \(7, 9\), got 8"):
        made.clean_results([result(image_id=8)])
    with pytest.raises(FileNotFoundError, match=r"annotations file .*nowhere.json does not exist"):
        GroundTruth(tmp_path / "nowhere.json")


def test_content_is_taken_as_it_is():
    assert read_json([1], "results") == ([1], "results")
