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


def shape(points: Any, kind: Any = "rectangle", label: Any = "cat") -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}}


def write(folder: Path, *shapes: Any, name: str = "a", **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"version": "5", "flags": {}, "shapes": list(shapes), "imagePath": f"{name}.jpg", "imageData": None}
    content |= {"imageHeight": 80, "imageWidth": 100, **changes}
    (folder / f"{name}.json").write_text(json.dumps(content))


def write_image(folder: Path, name: str = "a.jpg") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80)).save(folder / name)


def read(folder: Path) -> Dataset:
    return read_parts(folder)["all"]


@pytest.mark.parametrize(
    ("points", "kind", "box"),
    [
        ([[10.5, 20], [30, 60]], "rectangle", [10.5, 20, 19.5, 40]),
        ([[30, 60], [10, 20]], "rectangle", [10, 20, 20, 40]),
        ([[10, 20], [30, 25], [15.5, 60]], "polygon", [10, 20, 20, 40]),
        ([[20, 40], [23, 44]], "circle", [15, 35, 10, 10]),
        ([[10, 20], [30, 60]], "mask", [10, 20, 20, 40]),
    ],
)
def test_shapes_have_boxes(tmp_path: Path, points: Any, kind: str, box: list[float]) -> None:
    write_image(tmp_path)
    write(tmp_path, shape(points, kind))
    dataset = read(tmp_path)
    np.testing.assert_allclose(dataset.boxes_xywh, [box])
    assert dataset.findings == ()
    assert dataset.read(0).shape == (80, 100, 3)


@pytest.mark.parametrize(
    ("place", "images", "path"),
    [
        (".", ".", "a.jpg"),
        ("annotations", "images", "../images/a.jpg"),
        ("annotations", "images", "..\\images\\a.jpg"),
        ("annotations", "images", "/gone/of/another/a.jpg"),
        ("labels", ".", "gone.jpg"),
        ("json", "images", None),
    ],
)
def test_layouts(tmp_path: Path, place: str, images: str, path: Any) -> None:
    write_image(tmp_path / images)
    write(tmp_path / place, shape([[10, 20], [30, 60]]), imagePath=path)
    assert read(tmp_path).read(0).shape == (80, 100, 3)


def test_parts_and_a_list_of_classes(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_image(tmp_path / part)
        write(tmp_path / part, shape([[10, 20], [30, 60]]))
        (tmp_path / part / "labels.txt").write_text("__ignore__\n_background_\ndog\ncat\n")
    for dataset in find_train_and_val(tmp_path):
        assert dataset.class_names == ("dog", "cat")
        assert dataset.labels.tolist() == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        shape([[1, 2]]),
        shape([[1, 2], [3]]),
        shape([[1, 2], [3, "x"]]),
        shape(None),
        shape([[1, 2], [3, 4]], label=""),
        shape([[1, 2], [3, 4]], label=None),
        shape([[1, 2], [3, 4]], kind="polygon"),
        shape([[1, 2], [3, 4]], kind=["x"]),
        "a shape",
        None,
    ],
)
def test_wrong_shapes_are_errors(tmp_path: Path, wrong: Any) -> None:
    write_image(tmp_path)
    write(tmp_path, wrong, shape([[10, 20], [30, 60]]))
    finding = read(tmp_path).findings[0]
    assert finding.severity == "error"
    assert str(finding).startswith("shapes have no box or no label: 1 (shapes[0] of a.json has ")


def test_other_files_are_named(tmp_path: Path) -> None:
    for name in "abcd":
        write_image(tmp_path, f"{name}.jpg")
    write(tmp_path, shape([[10, 20], [30, 60]]), shape([[1, 2]], "point"))
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text("[]")
    found = [str(finding) for finding in read(tmp_path).findings]
    assert found[0].startswith("shapes of the kind point have no box: 1 (shapes[1] of a.json)")
    assert found[1].startswith("annotation files cannot be read: 1 (")
    assert found[2] == "JSON files are not LabelMe's: 1 (c.json); they are left out"
    assert found[3] == "images have no JSON file: 3 (b.jpg, c.jpg, d.jpg); they are left out"


def test_none_that_can_be_read_is_one_sentence(tmp_path: Path) -> None:
    write_image(tmp_path)
    (tmp_path / "a.json").write_text('{"shapes": 3}')
    with pytest.raises(DataError, match="none of its 1 JSON files can be read as LabelMe's"):
        read(tmp_path)
