import json

import numpy as np
import pytest

from effdet.evaluation.coco import evaluate_coco
from effdet.evaluation.result_columns import Results, id_column, join_results

ROW = {"image_id": 7, "category_id": 2, "bbox": [1.0, 2.0, 30.0, 40.0], "score": 0.5}
TRUTH = {
    "images": [{"id": 7}, {"id": 9}],
    "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 2, "bbox": [1, 2, 30, 40]},
        {"id": 2, "image_id": 9, "category_id": 5, "bbox": [5, 5, 50, 60]},
    ],
}


def columns(rows):
    return Results(
        image_ids=np.array([row["image_id"] for row in rows], dtype=np.int64),
        category_ids=np.array([row["category_id"] for row in rows], dtype=np.int64),
        boxes=np.array([row["bbox"] for row in rows], dtype=np.float64).reshape(-1, 4),
        scores=np.array([row["score"] for row in rows], dtype=np.float64),
    )


def random_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(1, 60, (count, 4)).round(2).tolist()
    pairs = zip(rng.choice([7, 9], count).tolist(), rng.choice([2, 5], count).tolist(), strict=True)
    return [
        {"image_id": image, "category_id": kind, "bbox": box, "score": float(score)}
        for (image, kind), box, score in zip(pairs, boxes, rng.random(count).round(3), strict=True)
    ]


@pytest.mark.parametrize("backend", ["auto", "pycocotools"])
def test_columns_rows_and_files_score_the_same(tmp_path, backend):
    rows = [*random_rows(60), {**ROW, "score": 0.9}]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    (tmp_path / "more.json").write_text(json.dumps([{**row, "id": 4, "note": "x"} for row in rows]))
    expected = evaluate_coco(TRUTH, rows, backend=backend)
    assert expected.ap > 0
    for results in (columns(rows), tmp_path / "results.json", tmp_path / "more.json"):
        found = evaluate_coco(TRUTH, results, backend=backend)
        assert (found.numbers(), found.per_class) == (expected.numbers(), expected.per_class)


def test_columns_become_the_rows_that_they_came_from():
    rows = random_rows(5)
    assert columns(rows).to_rows() == rows
    assert join_results([columns(rows[:2]), columns(rows[2:])]).to_rows() == rows
    assert len(join_results([])) == 0


@pytest.mark.parametrize("backend", ["auto", "pycocotools"])
def test_no_detections_in_columns_score_zero(backend):
    assert evaluate_coco(TRUTH, join_results([]), backend=backend).ap == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": np.array([np.nan])}, r"results: scores must be finite, got nan in row 0, image 7"),
        (
            {"boxes": np.array([[0, 0, np.inf, 1]])},
            r"boxes must be finite, got \[0.0, 0.0, inf, 1.0\] in row 0, image 7",
        ),
        ({"scores": np.zeros(2)}, r"results: columns must have the shapes \(N,\), \(N,\), \(N, 4\), \(N,\), got"),
        ({"image_ids": np.array([8])}, r"results: image_id of row 0 must be one of annotations \(7, 9\), got 8"),
        ({"category_ids": np.array([3])}, r"results: category_id of row 0 must be one of annotations \(2, 5\), got 3"),
    ],
)
def test_columns_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        evaluate_coco(TRUTH, Results(**{**vars(columns([ROW])), **change}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps([ROW, {**ROW, "image_id": 8}]), r"image_id of row 1 must be one of annotations \(7, 9\), got 8"),
        (json.dumps([ROW, {**ROW, "category_id": 3}]), r"category_id of row 1 must be one of annotations"),
        (json.dumps([{**ROW, "score": float("nan")}]), r"score of row 0 must be a finite number"),
        (json.dumps([{**ROW, "bbox": [1, 2, 3]}]), r"bbox of row 0 must be four finite numbers"),
        (json.dumps([ROW])[:-3], r"must be JSON"),
    ],
)
def test_mistakes_in_plain_files_are_named(tmp_path, text, message):
    file = tmp_path / "results.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        evaluate_coco(TRUTH, file)


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        ([1, 2], np.int64),
        ([], np.int64),
        ([1, "a"], object),
        ([2**63], object),
        ([1.5], object),
        ([[1, 2], [3, 4]], object),
    ],
)
def test_ids_are_numbers_where_they_fit(ids, dtype):
    column = id_column(ids)
    assert column.dtype == dtype
    assert column.tolist() == ids


def test_parts_with_ids_of_different_types_keep_them():
    parts = [columns([ROW]), Results(id_column([2**63]), np.array([2]), np.zeros((1, 4)), np.zeros(1))]
    assert join_results(parts).image_ids.tolist() == [7, 2**63]
