from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effdet.data.dataset import Dataset
from effdet.data.formats.coco import parse_coco, read_coco
from effdet.data.text_column import TextColumn
from effdet.images.reading import ImageError

COLUMNS = ("sizes", "boxes_xywh", "labels", "is_crowd", "areas", "annotation_ids", "offsets")


@pytest.fixture
def dataset(tmp_path: Path, write_coco: Callable[..., Path]) -> Dataset:
    return read_coco(write_coco(tmp_path), tmp_path / "images")


def test_an_image_of_another_size_than_annotated_is_an_error(dataset: Dataset) -> None:
    Image.new("RGB", (61, 40)).save(dataset.path(0))
    with pytest.raises(ImageError, match=r"b\.jpg: is 61×40 pixels, but .*train\.json was made for 60×40"):
        dataset.read(0)


def test_a_missing_image_is_named(dataset: Dataset) -> None:
    dataset.path(1).unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.jpg"):
        dataset.read(1)


def test_a_file_with_an_absolute_name_has_its_own_stamp(dataset: Dataset, tmp_path: Path) -> None:
    names = TextColumn.from_texts([str(dataset.path(index)) for index in range(3)])
    moved = replace(dataset, folder=tmp_path / "elsewhere", names=names)
    assert np.array_equal(moved.file_stamps, dataset.file_stamps)
    assert (dataset.file_stamps > 0).all()


@pytest.mark.parametrize("text_ids", [False, True])
def test_without_leaves_the_other_images_as_they_were(dataset: Dataset, text_ids: bool) -> None:
    if text_ids:
        dataset = replace(dataset, image_ids=TextColumn.from_texts(["x", "y", "z"]))
    for left_out in ([], [0], [1], [2], [0, 2], {0: "reason", 1: "reason"}, range(3)):
        rest = dataset.without(left_out)
        kept = [index for index in range(3) if index not in left_out]
        assert len(rest) == len(kept)
        for new, old in enumerate(kept):
            assert rest.image_id(new) == dataset.image_id(old)
            assert rest.path(new) == dataset.path(old)
            assert rest.sizes[new].tolist() == dataset.sizes[old].tolist()
            for ours, theirs in zip(rest.annotations(new), dataset.annotations(old), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        assert rest.class_names == dataset.class_names


def test_data_set_survives_pickling(dataset: Dataset) -> None:
    again = pickle.loads(pickle.dumps(dataset))
    assert again.names == dataset.names
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(again, name), getattr(dataset, name))
    assert again.fingerprint() == dataset.fingerprint()


# --- the fingerprint -----------------------------------------------------------------------------------------------

CONTENT: dict[str, list[dict[str, Any]]] = {
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 30, "height": 50},
        {"id": 2, "file_name": "b.jpg", "width": 30, "height": 50},
    ],
    "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 20], "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [1, 2, 10, 20], "iscrowd": 0},
    ],
}
GOLDEN = {
    "classes": "39eae6ae7f6e259bb9bcf56bb7be7abc",
    "image ids": "7716bd895af807332f40868fc19b227a",
    "images": "fb1d080a13d66d038a2ac25e5c4a5870",
    "boxes": "7b78a8bf2e2e9869938f16791ee5a8b0",
}


def fingerprint(key: str = "images", place: int = 0, file: str = "x.json", **changes: Any) -> dict[str, str]:
    content = json.loads(json.dumps(CONTENT))
    content[key][place].update(changes)
    return parse_coco(content, Path(file)).fingerprint()


def test_the_fingerprint_is_the_same_everywhere() -> None:
    assert fingerprint() == fingerprint(file="elsewhere/y.json") == GOLDEN


@pytest.mark.parametrize(
    ("key", "place", "changes", "part"),
    [
        ("images", 0, {"file_name": "c.jpg"}, "images"),
        ("images", 0, {"width": 31}, "images"),
        ("categories", 0, {"name": "fly"}, "classes"),
        ("annotations", 0, {"bbox": [1, 2, 10, 20.000001]}, "boxes"),
        ("annotations", 0, {"category_id": 2}, "boxes"),
        ("annotations", 0, {"image_id": 2}, "boxes"),
        ("annotations", 0, {"iscrowd": 1}, "boxes"),
    ],
)
def test_the_fingerprint_names_the_part_that_changed(key: str, place: int, changes: dict[str, Any], part: str) -> None:
    changed, before = fingerprint(key, place, **changes), fingerprint()
    assert [name for name in before if changed[name] != before[name]] == [part]
    assert changed == fingerprint(key, place, **changes)


def test_an_id_as_text_is_another_id() -> None:
    content = json.loads(json.dumps(CONTENT))
    for image in content["images"]:
        image["id"] = str(image["id"])
    changed = parse_coco(content, Path("x.json")).fingerprint()
    assert [name for name, value in fingerprint().items() if changed[name] != value] == ["image ids"]
