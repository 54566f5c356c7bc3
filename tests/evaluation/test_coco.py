"""Tests of effdet/evaluation/coco.py: every number against a plain run of pycocotools."""

import copy
import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet.data.findings import DataError
from effdet.data.formats.coco import parse_coco, read_coco
from effdet.evaluation.coco import evaluate_coco
from effdet.evaluation.result_columns import to_results
from effdet.install import hint
from effdet.structures import Detections
from tests.evaluation.pycocotools_run import accumulated

BACKENDS = ["pycocotools"] + (["hotcoco"] if importlib.util.find_spec("hotcoco") else [])
backends = pytest.mark.parametrize("backend", BACKENDS)


def reference(truth, results):
    """Run pycocotools as its demo does; return the 12 numbers and the AP of every class."""
    evaluation = accumulated(truth, results)
    precision = evaluation.eval["precision"][:, :, :, 0, 2]  # all areas, 100 detections
    per_class = [row[row > -1].mean() if (row > -1).any() else math.nan for row in np.moveaxis(precision, 2, 0)]
    return tuple(evaluation.stats.tolist()), per_class


def random_set(seed):
    """Return ground truth and results with ties, 50 % crowds, boxes without area and more than 100 in an image."""
    rng = np.random.default_rng(seed)
    image_ids = rng.choice(1000, size=6, replace=False).tolist()
    category_ids = sorted(rng.choice(90, size=4, replace=False).tolist())

    def boxes(count):
        sizes = rng.choice([0, 5, 20, 31.5, 60, 96, 150], size=(count, 2)) * rng.choice([1, 1, 0.93], size=(count, 1))
        return np.concatenate([rng.uniform(0, 40, (count, 2)).round(1), sizes], axis=1)

    annotations = [
        {
            "id": number,
            "image_id": int(rng.choice(image_ids[:-1])),  # the last image has none
            "category_id": int(rng.choice(category_ids[:-1])),  # neither has the last category
            "bbox": box.tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": int(rng.random() < 0.5),
        }
        for number, box in enumerate(boxes(60), start=1)
    ]
    truth = {
        "images": [{"id": image_id, "width": 200, "height": 200} for image_id in image_ids],
        "categories": [{"id": category_id, "name": f"class {category_id}"} for category_id in category_ids],
        "annotations": annotations,
    }
    found = np.concatenate([boxes(300), [[*a["bbox"][:2], a["bbox"][2] * 1.1, a["bbox"][3]] for a in annotations]])
    results = [
        {
            "image_id": int(image_ids[0] if rng.random() < 0.5 else rng.choice(image_ids)),
            "category_id": int(category_ids[0] if rng.random() < 0.5 else rng.choice(category_ids)),
            "bbox": box.tolist(),
            "score": float(rng.choice([0.1, 0.2, 0.5, 0.9])),
        }
        for box in found
    ]
    for row, annotation in zip(results[300:], annotations, strict=True):
        row.update(image_id=annotation["image_id"], category_id=annotation["category_id"])
    return truth, results


def small_set():
    """Return one image with a 50 x 50 box of each of two classes, and results that find the first one exactly."""
    truth = {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
        "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 6, "name": "emu"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 2, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0},
            {"id": 2, "image_id": 9, "category_id": 5, "bbox": [10, 10, 50, 50], "area": 2500, "iscrowd": 0},
        ],
    }
    results = [{"image_id": 7, "category_id": 2, "bbox": [10, 10, 50, 50], "score": 0.9}]
    return truth, results


@backends
@pytest.mark.parametrize("split", ["val", "train"])
def test_real_detections_score_as_in_pycocotools(photo_sets, split, backend):
    folder = photo_sets / "coco_open"
    truth, results = folder / f"{split}.json", folder / f"detections_{split}.json"
    numbers, per_class = reference(json.loads(truth.read_text()), json.loads(results.read_text()))

    metrics = evaluate_coco(truth, results, backend=backend)

    assert metrics.numbers() == numbers
    np.testing.assert_array_equal(list(metrics.per_class.values()), per_class)


@backends
def test_real_detections_score_as_typed_from_a_run_of_pycocotools(photo_sets, backend):
    folder = photo_sets / "coco_open"
    metrics = evaluate_coco(folder / "val.json", folder / "detections_val.json", backend=backend)
    by_pycocotools = [0.1624, 0.2709, 0.1509, 0.0103, 0.3893, 0.624, 0.1395, 0.1708, 0.1708, 0.0129, 0.3957, 0.6427]
    assert [round(value, 4) for value in metrics.numbers()] == by_pycocotools


@backends
@pytest.mark.parametrize("seed", range(25))
def test_random_sets_score_as_in_pycocotools(seed, backend):
    truth, results = random_set(seed)
    numbers, per_class = reference(truth, results)

    metrics = evaluate_coco(truth, results, backend=backend)

    assert metrics.numbers() == numbers
    np.testing.assert_array_equal(list(metrics.per_class.values()), per_class)
    assert list(metrics.per_class) == [item["name"] for item in truth["categories"]]
    assert metrics.backend == backend


@backends
@pytest.mark.parametrize("first_id", [0, 10**9])
def test_annotation_ids_count_as_in_pycocotools(first_id, backend):
    truth, results = random_set(99)
    for number, item in enumerate(truth["annotations"]):
        item["id"] = first_id + number
    assert evaluate_coco(truth, results, backend=backend).numbers() == reference(truth, results)[0]


@backends
def test_a_perfect_detector_scores_one_and_a_class_without_ground_truth_nothing(backend):
    truth, results = small_set()
    results.append({"image_id": 9, "category_id": 5, "bbox": [10, 10, 50, 50], "score": 0.1})
    metrics = evaluate_coco(truth, results, backend=backend)
    assert (metrics.ap, metrics.ap50, metrics.ap_medium, metrics.ar1) == pytest.approx((1, 1, 1, 1), abs=1e-12)
    assert metrics.ap_small == metrics.ap_large == metrics.ar_small == -1  # no such ground truth
    assert metrics.per_class == pytest.approx({"cat": 1, "dog": 1, "emu": math.nan}, nan_ok=True)


@backends
def test_no_detections_score_zero_where_there_is_ground_truth(backend):
    truth, _ = small_set()
    metrics = evaluate_coco(truth, [], backend=backend)
    assert metrics.numbers() == (0, 0, 0, -1, 0, -1, 0, 0, 0, -1, 0, -1)
    assert metrics.to_dict()["per_class"] == {"cat": 0, "dog": 0, "emu": None}


@backends
def test_no_detections_on_real_photos_score_zero_everywhere(photo_sets, backend):
    assert evaluate_coco(photo_sets / "coco_open" / "val.json", [], backend=backend).numbers() == (0,) * 12


@backends
@pytest.mark.parametrize("with_results", [True, False])
def test_a_data_set_without_ground_truth_scores_minus_one(with_results, backend):
    truth, results = small_set()
    dataset = parse_coco({**truth, "annotations": []}, Path("empty.json"))
    metrics = evaluate_coco(dataset, results if with_results else [], backend=backend)
    assert metrics.numbers() == (-1,) * 12
    assert all(math.isnan(ap) for ap in metrics.per_class.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.clear(), "annotations: no image has a box; there is nothing to learn or to measure"),
        (lambda rows: [row.update(iscrowd=1) for row in rows], "annotations: every box is a crowd"),
        (lambda rows: rows[1].update(image_id=-4), "annotations belong to images that are not listed: 1 .*image_id -4"),
        (lambda rows: rows[1].update(category_id=77), "annotations belong to categories that are not listed: 1"),
        (lambda rows: rows[1].update(bbox=[1, 2, 3]), r"annotations have no box: 1 .annotation 2 has \[1, 2, 3\]"),
    ],
)
def test_ground_truth_that_cannot_be_measured_is_refused(change, message):
    truth, results = small_set()
    change(truth["annotations"])
    with pytest.raises(DataError, match=message):
        evaluate_coco(truth, results)


@backends
def test_numbers_may_be_written_as_text(backend):
    truth, results = random_set(11)
    numbers = reference(truth, results)[0]
    for item in truth["annotations"]:
        item.update(bbox=[str(value) for value in item["bbox"]], iscrowd=str(item["iscrowd"]), area=str(item["area"]))
        item.update(image_id=str(item["image_id"]))
    for row in results:
        row.update(image_id=str(row["image_id"]), category_id=str(row["category_id"]))
    assert evaluate_coco(truth, results, backend=backend).numbers() == numbers


@backends
def test_a_data_set_scores_as_its_file(backend, tmp_path):
    truth, results = random_set(12)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    dataset = read_coco(tmp_path / "truth.json", [])
    (tmp_path / "truth.json").unlink()  # it is not read again
    expected = reference(truth, results)
    for found in (results, tmp_path / "results.json"):
        metrics = evaluate_coco(dataset, found, backend=backend)
        assert metrics.numbers() == expected[0]
        np.testing.assert_array_equal(list(metrics.per_class.values()), expected[1])


@backends
def test_crowds_are_neither_missed_nor_false(backend):
    truth, results = small_set()
    truth["annotations"][1].update(category_id=2, image_id=7, bbox=[100, 100, 90, 90], area=8100, iscrowd=1)
    results += [{"image_id": 7, "category_id": 2, "bbox": [110 + i, 110, 20, 20], "score": 0.95} for i in range(5)]
    assert evaluate_coco(truth, results, backend=backend).ap == pytest.approx(1)


@backends
def test_missing_area_and_iscrowd_are_width_times_height_and_zero(backend):
    truth, results = random_set(3)
    for item in truth["annotations"]:
        item["iscrowd"] = 0
    bare = copy.deepcopy(truth)
    for item in bare["annotations"]:
        del item["area"], item["iscrowd"]
    before = copy.deepcopy(bare)

    assert evaluate_coco(bare, results, backend=backend).numbers() == reference(truth, results)[0]
    assert bare == before


@backends
def test_missing_or_repeated_annotation_ids_are_numbered_anew(backend, caplog):
    truth, results = random_set(4)
    numbers = reference(truth, results)[0]
    without, twice = copy.deepcopy(truth), copy.deepcopy(truth)
    for item in without["annotations"]:
        del item["id"]
    twice["annotations"][5]["id"] = twice["annotations"][6]["id"]
    for broken in (without, twice):
        assert evaluate_coco(broken, results, backend=backend).numbers() == numbers
    assert "annotation ids are given twice: 1 (7); the later annotations get new ids" in caplog.text


@backends
def test_only_the_chosen_images_count(backend):
    truth, results = random_set(6)
    chosen = [item["id"] for item in truth["images"][:3]]
    part = {
        **truth,
        "images": truth["images"][:3],
        "annotations": [item for item in truth["annotations"] if item["image_id"] in chosen],
    }
    rows = [row for row in results if row["image_id"] in chosen]
    assert (
        evaluate_coco(truth, results, backend=backend, image_ids=np.array(chosen)).numbers() == reference(part, rows)[0]
    )


def test_the_order_of_rows_decides_ties_as_in_pycocotools():
    truth, results = random_set(7)
    backwards = results[::-1]
    assert evaluate_coco(truth, backwards).numbers() == reference(truth, backwards)[0]


@backends
def test_image_ids_may_be_texts_or_huge(backend):
    truth, results = random_set(8)
    numbers = reference(truth, results)[0]
    for rename in (lambda number: f"img {number:06}", lambda number: number + 2**61, lambda number: number + 2**63):
        other, rows = copy.deepcopy(truth), copy.deepcopy(results)
        for item in other["images"]:
            item["id"] = rename(item["id"])
        for item in other["annotations"] + rows:
            item["image_id"] = rename(item["image_id"])
        assert evaluate_coco(other, rows, backend=backend).numbers() == numbers


@backends
def test_nothing_is_printed(backend, capfd):
    evaluate_coco(*small_set(), backend=backend)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_auto_is_hotcoco_where_it_is_installed_else_pycocotools(monkeypatch):
    assert evaluate_coco(*small_set()).backend == BACKENDS[-1]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert evaluate_coco(*small_set()).backend == "pycocotools"


def test_an_absent_backend_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=re.escape(f"backend hotcoco must be installed: {hint('fast-eval')}")):
        evaluate_coco(*small_set(), backend="hotcoco")


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="backend must be auto, pycocotools or hotcoco, got 'fast'"):
        evaluate_coco(*small_set(), backend="fast")


def test_numbers_survive_json(tmp_path):
    metrics = evaluate_coco(*small_set())
    loaded = json.loads(json.dumps(metrics.to_dict(), allow_nan=False))
    assert tuple(loaded[name] for name in ("ap", "ap50", "ap75")) == metrics.numbers()[:3]
    assert loaded["per_class"]["emu"] is None


def test_classes_of_one_name_are_told_apart_by_their_id():
    truth, results = small_set()
    truth["categories"][1]["name"] = "cat"
    del truth["categories"][2]["name"]
    assert list(evaluate_coco(truth, results).per_class) == ["cat (2)", "cat (5)", "6"]


def detections(boxes, labels, scores, category_ids=()):
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(scores, dtype=torch.float32),
        category_ids=category_ids,
    )


def test_result_rows_are_those_of_each_image():
    found = [
        detections([[1, 2, 11, 22], [0.5, 0, 2.5, 4]], [1, 0], [0.75, 0.5], (7, 9)),
        detections([], [], [], (7, 9)),
        detections([[3, 3, 4, 4]], [0], [0.25], (7, 9)),
    ]
    assert to_results(found, [40, 41, 42]).to_rows() == [
        {"image_id": 40, "category_id": 9, "bbox": [1, 2, 10, 20], "score": 0.75},
        {"image_id": 40, "category_id": 7, "bbox": [0.5, 0, 2, 4], "score": 0.5},
        {"image_id": 42, "category_id": 7, "bbox": [3, 3, 1, 1], "score": 0.25},
    ]
    assert to_results(found[:1], [40]).to_rows() == found[0].to_coco(40)
    assert json.dumps(to_results(found, torch.tensor([40, 41, 42]).numpy()).to_rows())  # plain Python numbers


def test_result_rows_need_an_id_for_each_image():
    with pytest.raises(ValueError, match="there must be one image id per image: got 2 ids, 1 images"):
        to_results([detections([], [], [])], [1, 2])


def test_scoring_a_file_needs_no_torch(tmp_path):
    import subprocess
    import sys

    code = "import sys, effdet.evaluation.coco as c; c.evaluate_coco({0}, {1}); assert 'torch' not in sys.modules"
    truth, results = small_set()
    subprocess.run([sys.executable, "-c", code.format(truth, results)], check=True)
