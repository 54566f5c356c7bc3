from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats import find_train_and_val, read_parts

SIZE = {"original_width": 100, "original_height": 80}
BOX = {"x": 10, "y": 25, "width": 20, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]}  # 10, 20, 20, 40 pixels


def result(value: Any = BOX, kind: Any = "rectanglelabels", **changes: Any) -> dict[str, Any]:
    return {"id": "x", "type": kind, "from_name": "label", "to_name": "image", "value": value, **SIZE, **changes}


def task(*results: Any, image: Any = "/data/upload/1/0123abcd-a.jpg", **changes: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"image": image}, "annotations": [{"result": list(results)}], "predictions": [], **changes}


def read(folder: Path, *tasks: Any) -> Dataset:
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (100, 80)).save(folder / "images" / "a.jpg")
    (folder / "project-1.json").write_text(json.dumps(list(tasks)))
    return read_parts(folder)["all"]


@pytest.mark.parametrize(
    ("value", "kind", "box"),
    [
        (BOX, "rectanglelabels", [10, 20, 20, 40]),
        (BOX | {"rotation": 90}, "rectanglelabels", [-30, 20, 40, 20]),
        ({"points": [[10, 25], [30, 30], [15, 75]], "polygonlabels": ["cat"]}, "polygonlabels", [10, 20, 20, 40]),
        ({"x": 20, "y": 50, "radiusX": 10, "radiusY": 25, "ellipselabels": ["cat"]}, "ellipselabels", [10, 20, 20, 40]),
    ],
)
def test_shapes_have_boxes(tmp_path: Path, value: Any, kind: str, box: list[float]) -> None:
    dataset = read(tmp_path, task(result(value, kind)))
    np.testing.assert_allclose(dataset.boxes_xywh, [box], atol=1e-12)
    assert dataset.class_names == ("cat",)
    assert dataset.findings == ()
    assert dataset.read(0).shape == (80, 100, 3)


@pytest.mark.parametrize(
    "image",
    [
        "a.jpg",
        "/data/upload/3/0123abcd-a.jpg",
        "/data/local-files/?d=cells%2Fa.jpg",
        "s3://bucket/cells/a.jpg",
        "https://a.org/x/a.jpg?y=1",
    ],
)
def test_images_are_found_by_what_the_task_says(tmp_path: Path, image: str) -> None:
    assert read(tmp_path, task(result(), image=image)).read(0).shape == (80, 100, 3)


def test_a_name_that_no_file_can_have_is_an_error(tmp_path: Path) -> None:
    dataset = read(tmp_path, task(result(), image=f"{'x' * 3000}.jpg"))
    assert "names of images are longer than a file's can be" in str(dataset.findings)


def test_the_minimal_export(tmp_path: Path) -> None:
    dataset = read(tmp_path, {"id": 1, "image": "/data/upload/a.jpg", "label": [{**BOX, **SIZE}], "annotator": 1})
    np.testing.assert_allclose(dataset.boxes_xywh, [[10, 20, 20, 40]])
    assert read(tmp_path, {"id": 1, "image": "a.jpg", "label": [{**BOX, **SIZE}]}).read(0).shape == (80, 100, 3)


def test_one_annotation_of_several_counts(tmp_path: Path) -> None:
    other = result({**BOX, "rectanglelabels": ["dog"]})
    lists = [{"result": [result()]}, {"result": [other]}]
    dataset = read(tmp_path, task(annotations=lists))
    assert dataset.class_names == ("dog",)
    assert str(
        dataset.findings[0]
    ) == "tasks have several annotations: 1 (a.jpg); the ground truth, or the last one, counts" or (
        "several annotations: 1 (" in str(dataset.findings[0])
    )
    assert read(tmp_path, task(annotations=[{**lists[0], "ground_truth": True}, lists[1]])).class_names == ("cat",)
    assert read(tmp_path, task(annotations=[lists[0], {**lists[1], "was_cancelled": True}])).class_names == ("cat",)


def test_skipped_tasks_are_images_without_objects(tmp_path: Path) -> None:
    dataset = read(tmp_path, task(result()), task(image="b.jpg", annotations=[{"result": [], "was_cancelled": True}]))
    assert dataset.offsets.tolist() == [0, 1, 1]
    assert "tasks are skipped or have no result: 1 (b.jpg)" in str(dataset.findings[0])


@pytest.mark.parametrize(
    "wrong",
    [
        result({**BOX, "x": "left"}),
        result({**BOX, "rectanglelabels": []}),
        result({**BOX, "rectanglelabels": [3]}),
        result({**BOX, "rectanglelabels": "cat"}),
        result({**BOX, "rotation": "inf"}),
        result([1]),
        result(None),
        result({"points": [[1, 2], [3]], "polygonlabels": ["cat"]}, "polygonlabels"),
        result({"points": [[1, 2], [3, "x"], [1, 1]], "polygonlabels": ["cat"]}, "polygonlabels"),
        result(original_width=None),
        "text",
        None,
    ],
)
def test_wrong_results_are_errors(tmp_path: Path, wrong: Any) -> None:
    finding = read(tmp_path, task(wrong)).findings[0]
    assert finding.severity == "error"
    assert str(finding).startswith("results have no box or no label: 1 (result 1 of ")


def test_what_has_no_box_is_counted(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        task(result(), result({"choices": ["x"]}, "choices"), result({**BOX, "rectanglelabels": ["cat", "b"]})),
    )
    texts = [str(finding) for finding in found.findings]
    assert texts[0].startswith("results of the kind choices have no box: 1 (result 2 of ")
    assert texts[1].startswith("results have several labels: 1 (result 3 of ")


@pytest.mark.parametrize("wrong", [3, None, {"data": {}}, {"data": {"image": 3}}, {"data": 3}])
def test_tasks_without_an_image_are_errors(tmp_path: Path, wrong: Any) -> None:
    finding = read(tmp_path, task(result()), wrong).findings[0]
    assert str(finding).startswith("tasks have no image: 1 (task 2 has ")


def test_parts_and_other_files(tmp_path: Path) -> None:
    read(tmp_path, task(result()))
    (tmp_path / "project-1.json").rename(tmp_path / "train.json")
    (tmp_path / "val.json").write_bytes((tmp_path / "train.json").read_bytes())
    assert [len(dataset) for dataset in find_train_and_val(tmp_path)] == [1, 1]
    (tmp_path / "val.json").write_text('[{"data": 1}')
    with pytest.raises(DataError, match=r"val\.json: is not valid JSON"):
        find_train_and_val(tmp_path)
