from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from effdet.data.coco import CocoDataset, DataError, find_coco, read_coco
from effdet.images.reading import ImageError


def content(**changes: Any) -> dict[str, Any]:
    """Three images, category ids with a 0, gaps, an unused class and no order."""
    return {
        "images": [
            {"id": 42, "file_name": "b.jpg", "width": 60, "height": 40},
            {"id": 7, "file_name": "a.jpg", "width": 30, "height": 50},
            {"id": 9, "file_name": "c.jpg", "width": 20, "height": 20},
        ],
        "categories": [{"id": 90, "name": "cat"}, {"id": 0, "name": "ant"}, {"id": 13, "name": "bee"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 20]},
            {"id": 2, "image_id": 42, "category_id": 0, "bbox": [0, 0, 60, 40], "iscrowd": 1},
            {"id": 3, "image_id": 7, "category_id": 0, "bbox": [3.5, 4.5, 5, 6], "iscrowd": 0},
        ],
    } | changes


def write(root: Path, name: str = "train.json", folder: str = "images", **changes: Any) -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content(**changes)))
    (root / folder).mkdir(parents=True, exist_ok=True)
    for image in content(**changes)["images"]:
        if isinstance(image, dict) and image.get("width") and image.get("file_name"):
            Image.new("RGB", (image["width"], image["height"])).save(root / folder / image["file_name"])
    return file


def read(root: Path, **changes: Any) -> CocoDataset:
    return read_coco(write(root, **changes), root / "images")


def test_category_ids_with_gaps_become_contiguous_labels_in_order_of_id(tmp_path: Path) -> None:
    dataset = read(tmp_path)
    assert dataset.category_ids == (0, 13, 90)
    assert dataset.class_names == ("ant", "bee", "cat")
    assert dataset.num_classes == 3
    assert dataset.image_ids.tolist() == [42, 7, 9]
    assert [path.name for path in dataset.paths] == ["b.jpg", "a.jpg", "c.jpg"]
    assert dataset.sizes.tolist() == [[40, 60], [50, 30], [20, 20]]


def test_boxes_are_xyxy_and_belong_to_their_image(tmp_path: Path) -> None:
    dataset = read(tmp_path)
    boxes, labels, is_crowd = dataset.annotations(1)
    assert boxes.tolist() == [[1, 2, 11, 22], [3.5, 4.5, 8.5, 10.5]]
    assert labels.tolist() == [2, 0]
    assert is_crowd.tolist() == [False, False]
    assert (boxes.dtype, labels.dtype, is_crowd.dtype) == (np.float32, np.int64, np.bool_)
    assert dataset.annotations(0).is_crowd.tolist() == [True]
    assert dataset.annotations(2).boxes.shape == (0, 4)


@pytest.mark.parametrize("name", ["bccd", "coco_open"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_sets_read_as_pycocotools_reads_them(photo_sets: Path, name: str, split: Any) -> None:
    dataset = find_coco(photo_sets / name, split)
    reference = COCO(str(photo_sets / name / f"{split}.json"))
    assert sorted(reference.cats) == list(dataset.category_ids)
    assert [reference.cats[i]["name"] for i in dataset.category_ids] == list(dataset.class_names)
    assert sorted(reference.imgs) == sorted(dataset.image_ids.tolist())
    for index, image_id in enumerate(dataset.image_ids.tolist()):
        rows = reference.imgToAnns[image_id]
        boxes, labels, is_crowd = dataset.annotations(index)
        x, y, w, h = np.array([row["bbox"] for row in rows]).reshape(-1, 4).T
        np.testing.assert_allclose(boxes, np.stack([x, y, x + w, y + h], axis=1), atol=0.02)  # clipping included
        assert [dataset.category_ids[label] for label in labels] == [row["category_id"] for row in rows]
        assert is_crowd.tolist() == [bool(row["iscrowd"]) for row in rows]
    assert dataset.read(0).shape == (*dataset.sizes[0], 3)


def test_boxes_are_clipped_and_dropped_with_a_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bboxes = [
        [-5, -5, 20, 20],  # reaches out at the top left
        [50, 30, 100, 100],  # and at the bottom right of 60×40
        [10, 10, 0, 5],  # no width
        [10, 10, 5, -5],  # negative height
        [70, 10, 5, 5],  # outside
        [float("nan"), 1, 2, 3],
        [1, 1, float("inf"), 3],
        [59.5, 1, 1, 3],  # half a pixel out: rounding of the annotation tool
    ]
    annotations = [{"id": n, "image_id": 42, "category_id": 0, "bbox": bbox} for n, bbox in enumerate(bboxes)]
    with caplog.at_level(logging.WARNING):
        dataset = read(tmp_path, annotations=annotations)
    assert dataset.annotations(0).boxes.tolist() == [[0, 0, 15, 15], [50, 30, 60, 40], [59.5, 1, 60, 4]]
    assert (dataset.num_dropped, dataset.num_clipped) == (5, 2)
    assert "left out 5 boxes that have no area inside their image" in caplog.text


def test_size_comes_from_the_image_file_when_the_annotations_lack_it(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "gone.jpg"}]
    annotations = [{"id": 1, "image_id": 1, "category_id": 0, "bbox": [30, 10, 100, 10]}]
    file = write(tmp_path, images=images, annotations=annotations)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 60×40, upright 40×60
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "a.jpg", exif=exif)
    dataset = read_coco(file, tmp_path / "images")
    assert dataset.sizes.tolist() == [[60, 40], [0, 0]]
    assert dataset.annotations(0).boxes.tolist() == [[30, 10, 40, 20]]
    assert dataset.read(0).shape == (60, 40, 3)


def test_an_image_of_another_size_than_annotated_is_an_error(tmp_path: Path) -> None:
    dataset = read(tmp_path)
    Image.new("RGB", (61, 40)).save(tmp_path / "images" / "b.jpg")
    with pytest.raises(ImageError, match=r"b\.jpg: is 61×40 pixels, but .*train\.json was made for 60×40"):
        dataset.read(0)


def test_without_leaves_the_other_images_as_they_were(tmp_path: Path) -> None:
    dataset = read(tmp_path)
    for left_out in ([], [0], [1], [2], [0, 2], {0: "reason", 1: "reason"}):
        rest = dataset.without(left_out)
        kept = [index for index in range(3) if index not in left_out]
        assert len(rest) == len(kept)
        for new, old in enumerate(kept):
            assert rest.image_ids[new] == dataset.image_ids[old]
            assert rest.paths[new] == dataset.paths[old]
            assert rest.sizes[new].tolist() == dataset.sizes[old].tolist()
            for ours, theirs in zip(rest.annotations(new), dataset.annotations(old), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        assert rest.class_names == dataset.class_names


def test_data_set_survives_pickling(tmp_path: Path) -> None:
    dataset = read(tmp_path)
    again = pickle.loads(pickle.dumps(dataset))
    assert list(again.paths) == list(dataset.paths)
    np.testing.assert_array_equal(again.boxes, dataset.boxes)


IMAGE = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [IMAGE, IMAGE]}, "image id 1 is given twice"),
        ({"images": [{"file_name": "a.jpg"}]}, r"images\[0\]\.id must be an integer, got None"),
        ({"images": [IMAGE | {"id": "1"}]}, r"images\[0\]\.id must be an integer, got '1'"),
        ({"images": [{"id": 1}]}, "image id 1 has no file_name"),
        ({"images": []}, "has no images"),
        ({"images": [3]}, "every entry of 'images' must be an object"),
        ({"categories": []}, "has no categories"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "category id 1 is given twice"),
        ({"categories": [{"name": "a"}]}, r"categories\[0\]\.id must be an integer, got None"),
        ({"categories": None}, "the lists images, annotations and categories; 'categories' is not there"),
        (
            {"annotations": [{"id": 5, "image_id": 1, "category_id": 0, "bbox": [0, 0, 1, 1]}]},
            "annotation id 5: there is no image with id 1",
        ),
        ({"annotations": [{"category_id": 0}]}, r"annotations\[0\]: there is no image with id None"),
        (
            {"annotations": [{"id": 5, "image_id": 7, "category_id": 1, "bbox": [0, 0, 1, 1]}]},
            "annotation id 5: there is no category with id 1",
        ),
        (
            {"annotations": [{"id": 5, "image_id": 7, "category_id": 0, "bbox": [0, 0, 1]}]},
            r"annotation id 5: bbox must be four numbers x, y, width, height, got \[0, 0, 1\]",
        ),
        ({"annotations": [{"id": 5, "image_id": 7, "category_id": 0}]}, "annotation id 5: bbox must be .* got None"),
    ],
)
def test_wrong_annotations_name_file_and_id(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"train\.json: .*{message}"):
        read(tmp_path, **changes)


def test_files_that_are_not_coco_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"annotation file .*a\.json does not exist"):
        read_coco(file, tmp_path)
    file.write_text('{"images": [')
    with pytest.raises(DataError, match=r"a\.json: is not valid JSON: .* line 1 column"):
        read_coco(file, tmp_path)
    file.write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(DataError, match=r"a\.json: is not valid JSON"):
        read_coco(file, tmp_path)
    file.write_text('[{"image_id": 1, "score": 0.5}]')  # a results file
    with pytest.raises(DataError, match="must be COCO JSON with the lists images, annotations and categories"):
        read_coco(file, tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        read_coco(tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("split", "name", "images"),
    [
        ("train", "annotations/instances_train2017.json", "train2017"),
        ("val", "annotations/instances_val2017.json", "val2017"),
        ("val", "val.json", "images"),
        ("val", "val.json", "val"),
        ("val", "val.json", "images/val"),
        ("val", "val.json", "."),
        ("train", "train/_annotations.coco.json", "train"),
        ("val", "valid/_annotations.coco.json", "valid"),
    ],
)
def test_layouts_are_found(tmp_path: Path, split: Any, name: str, images: str) -> None:
    file = write(tmp_path, name, images)
    dataset = find_coco(tmp_path, split)
    assert dataset.annotation_file == file
    assert dataset.read(0).shape == (40, 60, 3)


def test_annotation_file_itself_may_be_the_root(tmp_path: Path) -> None:
    file = write(tmp_path, "boxes.json", "photos")
    assert find_coco(file, "val", images="photos").read(0).shape == (40, 60, 3)
    (tmp_path / "photos").rename(tmp_path / "boxes")  # a folder of the same name is found
    assert find_coco(file, "val").read(0).shape == (40, 60, 3)


def test_named_files_are_relative_to_the_root(tmp_path: Path) -> None:
    write(tmp_path, "labels/some.json", "photos")
    dataset = find_coco(tmp_path, "train", annotations="labels/some.json", images=tmp_path / "photos")
    assert dataset.read(0).shape == (40, 60, 3)


def test_missing_data_says_what_is_missing_and_how_to_get_coco(tmp_path: Path) -> None:
    command = "python tools/inspect_data.py download coco2017 --root "
    with pytest.raises(DataError, match=f"data folder data/none-coco does not exist; .*{command}data/none-coco$"):
        find_coco("data/none-coco", "train")
    with pytest.raises(DataError, match=rf"data folder {tmp_path}/own does not exist$"):
        find_coco(tmp_path / "own", "train")
    with pytest.raises(
        DataError, match=r"no val annotations in .*: looked for annotations/instances_val2017\.json, val"
    ):
        find_coco(tmp_path, "val")
    with pytest.raises(DataError, match=r"annotation file .*some\.json does not exist"):
        find_coco(tmp_path, "val", annotations="some.json")
    (write(tmp_path, "annotations/instances_val2017.json", "val2017").parent.parent / "val2017").rename(tmp_path / "x")
    with pytest.raises(
        DataError, match=f"image folder .*val2017 for the annotations in .* does not exist; .*{command}"
    ):
        find_coco(tmp_path, "val")
