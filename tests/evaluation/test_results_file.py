"""Tests of effdet/evaluation/results_file.py: what is refused, and how it is said."""

import json
import math

import pytest

from effdet.evaluation.results_file import is_plain_file, read_json, read_results

ROW = {"image_id": 7, "category_id": 2, "bbox": [1.0, 2.0, 30.0, 40.0], "score": 0.5}


def result(**changes):
    return {**ROW, **changes}


def without(row, key):
    return {name: value for name, value in row.items() if name != key}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (result(score=math.nan), "results: score of row 1 must be a finite number, got .*nan"),
        (result(score=math.inf), "score of row 1 must be a finite number"),
        (result(score="0.5"), "score of row 1 must be a finite number"),
        (result(score=None), "score of row 1 must be a finite number"),
        (result(bbox=[1, 2, 3, math.nan]), "bbox of row 1 must be four finite numbers x, y, width, height, got .*nan"),
        (result(bbox=[1, 2, -math.inf, 3]), "bbox of row 1 must be four finite numbers"),
        (result(bbox=[1, 2, 3]), "bbox of row 1 must be four finite numbers"),
        (result(bbox=[1, 2, 3, [4]]), "bbox of row 1 must be four finite numbers"),
        (result(bbox=None), "bbox of row 1 must be four finite numbers"),
        (result(bbox="abcd"), "bbox of row 1 must be four finite numbers"),
        (without(ROW, "image_id"), "row 1 must have image_id, got {'category_id': 2"),
        (without(ROW, "category_id"), "row 1 must have category_id"),
        (without(ROW, "bbox"), "row 1 must have bbox"),
        (without(ROW, "score"), "row 1 must have score"),
        (5, "row 1 must have image_id, got 5"),
        (None, "row 1 must have image_id, got None"),
        (without(result(note="x" * 500), "score"), r"must have score, got .{117}\.\.\.$"),
    ],
)
def test_a_result_that_cannot_be_is_named(row, message):
    with pytest.raises(ValueError, match=message):
        read_results([ROW, row])


def test_a_score_may_be_true():
    assert read_results([ROW, result(score=True)])[0].scores.tolist() == [0.5, 1]


@pytest.mark.parametrize("results", [{"annotations": []}, 3])
def test_results_must_be_a_list(results):
    with pytest.raises(ValueError, match="results: must be a list of detections, got "):
        read_results(results)


def test_files_are_named_in_messages(tmp_path):
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "rows.json").write_text(json.dumps([result(score=None)]))
    with pytest.raises(FileNotFoundError, match=r"results file .*nowhere.json does not exist"):
        read_results(tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match=r"broken.json: must be JSON: "):
        read_results(str(tmp_path / "broken.json"))
    with pytest.raises(ValueError, match=r"deep.json: must be JSON, but its lists and objects are nested too deeply"):
        read_results(tmp_path / "deep.json")
    with pytest.raises(ValueError, match=r"rows.json: score of row 0 must be a finite number"):
        read_results(tmp_path / "rows.json")


def test_content_is_taken_as_it_is():
    assert read_json([1], "results") == ([1], "results")


def test_plain_file_has_rows_of_the_four_keys(tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps([ROW, dict(reversed(ROW.items()))], indent=1))
    assert is_plain_file(file)


@pytest.mark.parametrize(
    "rows",
    [
        [ROW, {"image_id": 7, "category_id": 2, "score": 0.5}],
        [ROW, {**ROW, "id": 1}],
        [ROW, {**ROW, "score": "0.5"}],
        [ROW, {**ROW, "score": None}],
        [{**ROW, "bbox": {"score": 1}}, {key: ROW[key] for key in ("image_id", "category_id", "bbox")}],
        {"annotations": [ROW]},
        ROW,
    ],
)
def test_other_files_are_not_plain(tmp_path, rows):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(rows))
    assert not is_plain_file(file)
