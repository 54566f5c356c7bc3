import json

import numpy as np
import pytest
from PIL import Image

from benchmark import canvases
from effdet.data.formats import find_dataset


@pytest.fixture
def photos(tmp_path):
    """Four photos of one colour each, with a whole object and one that the right edge cuts."""
    images = [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30} for n in range(1, 5)]
    for image in images:
        Image.new("RGB", (40, 30), (image["id"] * 20, 0, 0)).save(tmp_path / image["file_name"])
    boxes = [[10, 8, 12, 9], [30, 5, 10, 10]]
    rows = [
        {"id": 2 * n + place, "image_id": n, "category_id": 7, "bbox": box}
        for n in range(1, 5)
        for place, box in enumerate(boxes)
    ]
    content = {"images": images, "annotations": rows, "categories": [{"id": 7, "name": "cell"}]}
    (tmp_path / "val.json").write_text(json.dumps(content))
    return find_dataset(tmp_path, "val")


def test_photos_are_pasted_with_their_boxes(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(canvases, "SIZE", (200, 300))
    canvases.write_canvases(photos, tmp_path / "out")
    pasted = find_dataset(tmp_path / "out", "val")
    assert len(pasted) == 2
    assert len(pasted.labels) == 8
    for index, (x, y, width, height) in zip(pasted.image_of_box, pasted.boxes_xywh.astype(int), strict=True):
        under = pasted.read(int(index))[y : y + height, x : x + width]
        assert len(np.unique(under.reshape(-1, 3), axis=0)) == 1
        assert under[0, 0, 0] in {20, 40, 60, 80}
        assert under[0, 0, 1] == 0


def test_objects_that_the_edge_of_a_photo_cuts_are_crowds_in_whole_json(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(canvases, "SIZE", (200, 300))
    canvases.write_canvases(photos, tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "whole.json").read_text())["annotations"]
    assert [row["iscrowd"] for row in rows] == [int(row["bbox"][2:] == [10, 10]) for row in rows]
    assert sum(row["iscrowd"] for row in rows) == 4
    assert not any(row["iscrowd"] for row in json.loads((tmp_path / "out" / "val.json").read_text())["annotations"])
