from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError, Finding
from effdet.data.formats import find_dataset
from effdet.data.formats.coco import parse_coco, read_coco
from effdet.data.text_column import TextColumn


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


def parse(**changes: Any) -> Dataset:
    """Read as for training, without the image files."""
    return parse_coco(content(**changes), Path("train.json"), [Path("no-such-folder")])


def spoilt(key: str, place: int, **changes: Any) -> Dataset:
    """Read after one row was changed."""
    rows = content()[key]
    rows[place] = {name: value for name, value in (rows[place] | changes).items() if value is not ...}
    return parse(**{key: rows})


def kinds(dataset: Dataset) -> list[tuple[str, str]]:
    return [(finding.severity, finding.text) for finding in dataset.findings]


def test_category_ids_with_gaps_become_contiguous_labels_in_order_of_id() -> None:
    dataset = parse()
    assert dataset.category_ids == (0, 13, 90)
    assert dataset.class_names == ("ant", "bee", "cat")
    assert dataset.num_classes == 3
    assert dataset.image_ids.tolist() == [42, 7, 9]
    assert dataset.names.tolist() == ["b.jpg", "a.jpg", "c.jpg"]
    assert dataset.sizes.tolist() == [[40, 60], [50, 30], [20, 20]]
    assert dataset.annotation_ids.tolist() == [2, 1, 3]
    assert dataset.findings == ()


def test_boxes_are_xyxy_and_belong_to_their_image() -> None:
    dataset = parse()
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
    dataset = find_dataset(photo_sets / name, split)
    reference = COCO(str(photo_sets / name / f"{split}.json"))
    assert sorted(reference.cats) == list(dataset.category_ids)
    assert [reference.cats[i]["name"] for i in dataset.category_ids] == list(dataset.class_names)
    assert sorted(reference.imgs) == sorted(dataset.image_ids.tolist())
    for index, image_id in enumerate(dataset.image_ids.tolist()):
        rows = reference.imgToAnns[image_id]
        columns = slice(dataset.offsets[index], dataset.offsets[index + 1])
        assert dataset.boxes_xywh[columns].tolist() == [row["bbox"] for row in rows]
        assert dataset.areas[columns].tolist() == [row["area"] for row in rows]
        assert dataset.annotation_ids[columns].tolist() == [row["id"] for row in rows]
        assert dataset.is_crowd[columns].tolist() == [bool(row["iscrowd"]) for row in rows]
        boxes, labels, _ = dataset.annotations(index)
        x, y, w, h = np.array([row["bbox"] for row in rows]).reshape(-1, 4).T
        np.testing.assert_allclose(boxes, np.stack([x, y, x + w, y + h], axis=1), atol=0.02)  # clipping included
        assert [dataset.category_ids[label] for label in labels] == [row["category_id"] for row in rows]
    assert dataset.read(0).shape == (*dataset.sizes[0], 3)


def test_training_gets_clipped_boxes_and_evaluation_those_of_the_file() -> None:
    bboxes = [
        [-5, -5, 20, 20],  # reaches out at the top left
        [50, 30, 100, 100],  # and at the bottom right of 60×40
        [10, 10, 0, 5],  # no width
        [10, 10, 5, -5],  # negative height
        [70, 10, 5, 5],  # outside
        [float("nan"), 1, 2, 3],
        [1, 1, float("inf"), 3],
        [1e308, 1, 1e308, 3],  # the right side is infinite
        [59.5, 1, 1, 3],
    ]
    annotations = [{"id": n, "image_id": 42, "category_id": 0, "bbox": bbox} for n, bbox in enumerate(bboxes, 1)]
    dataset = parse(annotations=annotations)
    assert dataset.annotations(0).boxes.tolist() == [[0, 0, 15, 15], [50, 30, 60, 40], [59.5, 1, 60, 4]]
    assert dataset.boxes_xywh.tolist() == [*bboxes[:5], bboxes[8]]
    assert [(finding.text, finding.count) for finding in dataset.findings] == [
        ("boxes are not finite", 3),
        ("boxes have no area", 2),
        ("boxes lie outside of their image", 1),
    ]
    assert dataset.findings[0].examples[0] == "annotation 6 has [nan, 1, 2, 3]"
    assert {finding.severity for finding in dataset.findings} == {"warning"}


# --- values as tools write them ------------------------------------------------------------------------------------


def test_numbers_as_text_are_numbers() -> None:
    by_hand = parse()
    rows = content()
    for image in rows["images"]:
        image.update(width=str(image["width"]), height=f"{image['height']}.0")
    for annotation in rows["annotations"]:
        annotation.update(bbox=[str(value) for value in annotation["bbox"]], category_id=str(annotation["category_id"]))
        annotation.update(image_id=str(annotation["image_id"]), iscrowd=str(annotation.get("iscrowd", 0)))
    dataset = parse(**rows)
    assert dataset.findings == ()
    assert dataset.fingerprint() == by_hand.fingerprint()


@pytest.mark.parametrize("value", [0, 0.0, "0", "0.0", "", "false", "False", False, None, ...])
def test_what_is_no_crowd(value: Any) -> None:
    assert spoilt("annotations", 0, iscrowd=value).is_crowd.tolist() == [True, False, False]


@pytest.mark.parametrize("value", [1, 1.0, "1", "true", " True ", True])
def test_what_is_a_crowd(value: Any) -> None:
    assert spoilt("annotations", 0, iscrowd=value).is_crowd.tolist() == [True, True, False]


@pytest.mark.parametrize("value", ["", None, ...])
def test_a_missing_area_is_width_times_height(value: Any) -> None:
    dataset = spoilt("annotations", 0, area=value)
    assert dataset.areas.tolist() == [2400, 200, 30]
    assert dataset.findings == ()


@pytest.mark.parametrize("value", ["large", -1, float("nan"), float("inf"), [3], {"a": 1}, True])
def test_an_area_that_is_none_is_a_warning(value: Any) -> None:
    dataset = spoilt("annotations", 0, area=value)
    assert dataset.areas.tolist() == [2400, 200, 30]
    assert kinds(dataset) == [("warning", "areas are no numbers of 0 or more")]


def test_the_area_of_a_mask_is_kept() -> None:
    assert spoilt("annotations", 0, area="120.5").areas.tolist() == [2400, 120.5, 30]


def renamed(ids: dict[int, Any]) -> Dataset:
    rows = content()
    for image in rows["images"]:
        image["id"] = ids[image["id"]]
    for annotation in rows["annotations"]:
        annotation["image_id"] = ids[annotation["image_id"]]
    return parse(**rows)


@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        ({42: 2**63, 7: 2**63 + 1, 9: 2**64 - 1}, np.uint64),
        ({42: -1, 7: -(2**63), 9: 2**63 - 1}, np.int64),
        ({42: 1.0, 7: 2.0, 9: 3.0}, np.int64),
        ({42: "photo 1", 7: "ß/2", 9: "1"}, TextColumn),
        ({42: "007", 7: "7", 9: "8"}, TextColumn),  # text ids stay as they are
        ({42: 42, 7: "7", 9: 9}, np.int64),  # a mixture is numbers
    ],
)
def test_image_ids_are_kept_as_they_are(ids: dict[int, Any], kind: Any) -> None:
    dataset = renamed(ids)
    assert dataset.findings == ()
    expected = [value if kind is TextColumn else int(value) for value in (ids[42], ids[7], ids[9])]
    assert dataset.image_ids.tolist() == expected
    assert [dataset.image_id(index) for index in range(3)] == expected
    assert dataset.image_ids.dtype == kind if kind is not TextColumn else isinstance(dataset.image_ids, TextColumn)
    np.testing.assert_array_equal(dataset.boxes_xywh, parse().boxes_xywh)


@pytest.mark.parametrize("ids", [{42: 2**64, 7: 1, 9: 2}, {42: "x", 7: 1, 9: 2}, {42: 1.5, 7: 1, 9: 2}])
def test_image_ids_that_cannot_be_held_are_one_error(ids: dict[int, Any]) -> None:
    with pytest.raises(DataError, match=r"ids of images cannot be used: 1 \(images\[0\] has .*\); ids must be all"):
        renamed(ids).require_usable()


def test_negative_ids_beside_huge_ones_are_one_error() -> None:
    with pytest.raises(DataError, match=r"image ids are negative in part and above 2⁶³ in part; number"):
        renamed({42: -1, 7: 2**63, 9: 2}).require_usable()


def test_an_empty_bbox_is_a_note_and_its_image_a_negative() -> None:
    rows = [*content()["annotations"], {"id": 8, "image_id": 9, "category_id": None, "bbox": []}]
    dataset = parse(annotations=rows)
    assert dataset.findings == (
        Finding("note", "annotations have an empty bbox", "they do not count", 1, ("annotation 8",)),
    )
    assert dataset.annotations(2).boxes.shape == (0, 4)


def test_a_mask_without_bbox_gives_its_enclosing_box() -> None:
    polygon = [[5, 6, 9.5, 6, 7, 12], [1, 7, 2, 8, 2, 7]]
    dataset = spoilt("annotations", 0, bbox=..., segmentation=polygon)
    assert dataset.boxes_xywh[1].tolist() == [1, 6, 8.5, 6]
    assert dataset.findings == ()


def test_lvis_names_are_the_last_folder_and_file_of_the_address() -> None:
    address = "http://images.cocodataset.org/train2017/000000000139.jpg"
    assert spoilt("images", 0, file_name=..., coco_url=address).names[0] == "train2017/000000000139.jpg"


def test_the_category_of_a_whole_project_is_left_out() -> None:
    categories = [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 13, "name": "ant", "supercategory": "cells"},
        {"id": 90, "name": "bee", "supercategory": "cells"},
    ]
    rows = content()["annotations"]
    assert parse(categories=categories, annotations=rows).class_names == ("cells", "ant", "bee")  # it has boxes
    for row in rows:
        row["category_id"] = 90
    dataset = parse(categories=categories, annotations=rows)
    assert dataset.class_names == ("ant", "bee")
    assert [str(finding) for finding in dataset.findings] == [
        "category 0 'cells' is the supercategory of all others and has no box; it is left out of the classes; "
        "data.keep_parent=true keeps it"
    ]
    kept = parse_coco(content(categories=categories, annotations=rows), Path("a.json"), keep_parent=True)
    assert kept.class_names == ("cells", "ant", "bee")
    categories[2]["supercategory"] = "insects"  # an ordinary class that is not used
    assert parse(categories=categories, annotations=rows).class_names == ("cells", "ant", "bee")


def test_size_comes_from_the_image_file_when_the_annotations_lack_it(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "gone.jpg", "width": 10**30, "height": "x"}]
    annotations = [{"id": 1, "image_id": 1, "category_id": 0, "bbox": [30, 10, 100, 10]}]
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content(images=images, annotations=annotations)))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 60×40, upright 40×60
    (tmp_path / "images").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "images" / "a.jpg", exif=exif)
    dataset = read_coco(file, tmp_path / "images")
    assert dataset.sizes.tolist() == [[60, 40], [0, 0]]
    assert dataset.annotations(0).boxes.tolist() == [[30, 10, 40, 20]]
    assert dataset.read(0).shape == (60, 40, 3)
    assert kinds(dataset) == [("warning", "images have no width and height")]


# --- what is wrong -------------------------------------------------------------------------------------------------

IMAGE = {"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}
BOX = {"id": 5, "image_id": 7, "category_id": 0, "bbox": [0, 0, 2, 1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [IMAGE, IMAGE]}, r"image ids are given twice: 1 \(1\); give each image its own id"),
        ({"images": [{"file_name": "a.jpg"}]}, r"ids of images cannot be used: 1 \(images\[0\] has None\)"),
        ({"images": [IMAGE | {"id": True}]}, r"ids of images cannot be used: 1 \(images\[0\] has True\)"),
        ({"images": [IMAGE | {"id": [[[1]]]}]}, r"ids of images cannot be used: 1 \(images\[0\] has \[\[\[1\]\]\]\)"),
        ({"images": [IMAGE | {"id": ""}]}, "ids of images cannot be used"),
        ({"images": [{"id": 1}]}, r"images have no file_name: 1 \(image id 1 has None\)"),
        ({"images": [IMAGE | {"file_name": 3}]}, "images have no file_name"),
        ({"images": [IMAGE | {"file_name": "\ud800.jpg"}]}, "images have no file_name"),
        ({"images": [IMAGE | {"file_name": "a\0.jpg"}]}, "images have no file_name"),
        ({"images": []}, "there are no images"),
        ({"images": [3]}, r"entries of 'images' are no objects: 1 \(images\[0\] is a number\)"),
        ({"annotations": [None]}, r"entries of 'annotations' are no objects: 1 \(annotations\[0\] is null\)"),
        ({"categories": []}, "there are no categories"),
        ({"categories": [{"id": 1, "name": "a"}] * 2}, r"category ids are given twice: 1 \(1\)"),
        ({"categories": [{"name": "a"}]}, r"ids of categories are no whole numbers: 1 \(categories\[0\] has None\)"),
        ({"categories": [{"id": 10**30}]}, "ids of categories are no whole numbers"),
        ({"categories": [{"id": "ant"}]}, r"ids of categories are no whole numbers: 1 \(categories\[0\] has 'ant'\)"),
        ({"categories": [{"id": 0, "name": "\ud800"}]}, "names of categories hold letters that do not exist"),
        (
            {"annotations": [BOX | {"image_id": 1}]},
            r"annotations belong to images that are not listed: 1 \(annotation 5 has image_id 1\); list the images",
        ),
        ({"annotations": [{"category_id": 0, "bbox": [0, 0, 1, 1]}]}, r"annotations\[0\] has image_id None"),
        ({"annotations": [BOX | {"image_id": {"a": 1}}]}, "annotation 5 has image_id {'a': 1}"),
        ({"annotations": [BOX | {"category_id": 1}]}, "belong to categories that are not listed: 1 .*category_id 1"),
        (
            {"annotations": [BOX | {"bbox": [0, 0, 1]}]},
            r"annotations have no box: 1 \(annotation 5 has \[0, 0, 1\]\); bbox must be four numbers x, y, width",
        ),
        ({"annotations": [BOX | {"bbox": {"x": 0, "y": 0, "width": 1, "height": 1}}]}, "annotations have no box"),
        ({"annotations": [BOX | {"bbox": [0, 0, "wide", 1]}]}, "annotations have no box"),
        ({"annotations": [BOX | {"bbox": "0123"}]}, "annotations have no box"),
        ({"annotations": [BOX | {"bbox": None}]}, r"annotations have no box: 1 \(annotation 5 has None\)"),
        ({"annotations": [BOX | {"bbox": None, "segmentation": "x"}]}, "annotations have no box"),
        ({"annotations": [BOX | {"iscrowd": "maybe"}]}, r"values of iscrowd are neither 0 nor 1: 1 .*has 'maybe'"),
        ({"annotations": [BOX | {"iscrowd": float("nan")}]}, r"values of iscrowd are neither 0 nor 1: 1 .*has nan"),
        ({"annotations": [BOX | {"iscrowd": "nan"}]}, r"values of iscrowd are neither 0 nor 1: 1 .*has 'nan'"),
        ({"annotations": [BOX | {"bbox": ["1_0", "2", "3", "4"]}]}, r"annotations have no box: 1 .*has \['1_0', "),
        ({"annotations": []}, "no image has a box; there is nothing to learn or to measure"),
        ({"annotations": [BOX | {"iscrowd": 1}]}, r"every box is a crowd \(iscrowd is 1\); there is nothing to learn"),
        ({"annotations": [BOX | {"bbox": [5, 5, -3, 4]}]}, "no box has an area inside its image; there is nothing"),
        ({"annotations": [BOX | {"bbox": [90, 5, 3, 4]}]}, "no box has an area inside its image; there is nothing"),
        ({"categories": None}, "lists images, annotations and categories; 'categories' is null"),
        ({"annotations": {"1": BOX}}, "lists images, annotations and categories; 'annotations' is an object"),
    ],
)
def test_wrong_annotations_are_one_sentence_that_names_file_and_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"^train\.json: .*{message}") as caught:
        parse(**changes).require_usable()
    assert "\n" not in str(caught.value)


def test_relative_boxes_are_an_error() -> None:
    rows = [BOX | {"id": n, "bbox": [0.1, 0.2, 0.5, 0.25]} for n in (1, 2)]
    with pytest.raises(DataError, match=r"all boxes lie in \[0, 1\]; bbox must be in pixels"):
        parse(annotations=rows).require_usable()


def test_corners_are_an_error() -> None:
    rows = [BOX | {"id": 1, "bbox": [20, 30, 28, 45]}, BOX | {"id": 2, "bbox": [1, 2, 5, 8]}]  # in 30×50
    with pytest.raises(DataError, match=r"bbox holds two corners; bbox must be x, y, width, height"):
        parse(annotations=rows).require_usable()
    rows[1]["bbox"] = [9, 9, 5, 8]  # no corners
    assert parse(annotations=rows).require_usable()


def test_scoring_a_results_file_needs_no_file_names() -> None:
    images = [{"id": image["id"]} for image in content()["images"]]
    dataset = parse_coco(content(images=images), Path("train.json")).require_usable()
    assert dataset.names.tolist() == ["", "", ""]


def test_the_first_error_tells_how_many_more_there_are() -> None:
    changes = {"images": [*content()["images"], {"id": 1}], "annotations": [BOX, BOX | {"bbox": 3}, BOX | {"bbox": 4}]}
    with pytest.raises(DataError, match=r"no file_name.* \(1 more: effdet data check train\.json\)$"):
        parse(**changes).require_usable()


def test_a_finding_counts_all_places_and_names_three() -> None:
    rows = [BOX | {"id": n, "image_id": 99} for n in range(10, 1210)]
    (finding,) = parse(annotations=rows).findings
    assert finding.count == 1200
    assert finding.examples == tuple(f"annotation {n} has image_id 99" for n in (10, 11, 12))
    assert "not listed: 1,200 (annotation 10 has" in str(finding)
    assert str(finding).endswith(", …); list the images, or remove the annotations")


@pytest.mark.parametrize(
    ("ids", "found", "kept"),
    [
        ([1, 1, 2], ("warning", "annotation ids are given twice"), [1, 3, 2]),
        ([1, 1, None], ("warning", "annotation ids are given twice"), [1, 2, 3]),
        ([1, None, 2], ("note", "annotations have no id that is a whole number"), [1, 2, 3]),
        (["a", "b", "c"], ("note", "annotations have no id that is a whole number"), [1, 2, 3]),
        ([10**30, 1, 2], ("note", "annotations have no id that is a whole number"), [1, 2, 3]),
        ([0, 1, 2], ("warning", "an annotation has id 0"), [0, 1, 2]),
        (["5", 6.0, 7], None, [5, 6, 7]),
    ],
)
def test_annotation_ids_are_kept_where_each_is_a_number_of_its_own(ids: list[Any], found: Any, kept: list[int]) -> None:
    dataset = parse(annotations=[BOX | {"id": value} for value in ids])
    assert kinds(dataset) == ([found] if found else [])
    assert dataset.annotation_ids.tolist() == kept


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"images": [', r"is not valid JSON: .* line 1 column"),
        (b"\xff\xfe\x00broken", "is not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"image_id": 1, "score": 0.5}]', "lists images, annotations and categories; it holds a list"),
        (b"3", "it holds a number"),
        (b"{}", "'images' is not there"),
        (b'{"images": [{"id": ' + b"9" * 5000 + b"}]}", "is not valid JSON"),
    ],
)
def test_files_that_are_not_coco_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"annotation file .*a\.json does not exist"):
        read_coco(file, tmp_path)
    file.write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.json: .*{message}"):
        read_coco(file, tmp_path)


def test_a_folder_is_no_annotation_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_coco(tmp_path, tmp_path)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, True, 3, -1.5, "x", "", [], {}, [[]], float("nan"), 10**400, "\ud800", "a\0"])
def test_no_value_at_any_place_is_a_traceback(key: str, value: Any) -> None:
    for name in sorted({name for row in content()[key] for name in row} | {"iscrowd", "area", "segmentation"}):
        dataset = spoilt(key, 0, **{name: value})
        json.dumps([str(finding) for finding in dataset.findings])
        assert all(np.isfinite(dataset.boxes_xywh[row]).all() for row in range(len(dataset.boxes_xywh)))
        dataset.fingerprint()
