"""Boxes in another unit or order, made from right ones."""

from dataclasses import replace

import numpy as np
import pytest

from effdet.data.doctor.box_checks import namer, nearly_same
from effdet.data.doctor.box_frames import check_box_frames, find_misread
from effdet.data.formats import read_parts
from effdet.data.formats.finding import find_data


@pytest.fixture(scope="module")
def clean(photo_sets):
    return read_parts(photo_sets / "bccd")["train"]


def corners(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def from_corners(numbers):
    return np.concatenate([numbers[:, :2], numbers[:, 2:] - numbers[:, :2]], axis=1)


def as_centre_of(numbers):
    return numbers - np.pad(numbers[:, 2:] / 2, ((0, 0), (0, 2)))


# What a file holds -> what a reader of (x, y, width, height), or of two corners, or of a centre, makes of it.
WRONG = {
    ("coco", "x1, y1, x2, y2"): lambda boxes, size: corners(boxes),
    ("coco", "centre x, y, width, height"): lambda boxes, size: boxes + np.pad(boxes[:, 2:] / 2, ((0, 0), (0, 2))),
    ("coco", "y, x, height, width"): lambda boxes, size: boxes[:, [1, 0, 3, 2]],
    ("coco", "y1, x1, y2, x2"): lambda boxes, size: corners(boxes)[:, [1, 0, 3, 2]],
    ("coco", "parts of the image"): lambda boxes, size: boxes / np.tile(size, 2),
    ("coco", "thousandths of the image"): lambda boxes, size: boxes / np.tile(size, 2) * 1000,
    ("voc", "x, y, width, height"): lambda boxes, size: from_corners(boxes),
    ("voc", "x2, y2, x1, y1"): lambda boxes, size: from_corners(corners(boxes)[:, [2, 3, 0, 1]]),
    ("csv", "y1, x1, y2, x2"): lambda boxes, size: from_corners(corners(boxes)[:, [1, 0, 3, 2]]),
    ("yolo", "x1, y1, x2, y2"): lambda boxes, size: (
        corners(boxes) - np.pad(corners(boxes)[:, 2:] / 2, ((0, 0), (0, 2)))
    ),
    ("yolo", "x, y, width, height"): lambda boxes, size: as_centre_of(boxes),
    ("yolo", "pixels"): lambda boxes, size: boxes * np.tile(size, 2),
}


@pytest.mark.parametrize(("format", "meant"), WRONG)
def test_a_set_in_another_frame_is_recognised_and_converted(clean, format, meant):
    size = clean.sizes[clean.image_of_box][:, ::-1].astype(float)
    wrong = replace(clean, boxes_xywh=WRONG[format, meant](clean.boxes_xywh, size))
    (misread,) = find_misread(wrong, format)
    assert (misread.meant, misread.is_whole_set) == (meant, True)
    np.testing.assert_array_equal(misread.rows, np.arange(len(clean.boxes_xywh)))
    np.testing.assert_allclose(misread.boxes, clean.boxes_xywh, atol=1e-9)
    (finding,) = [found for found in check_box_frames(wrong, format, namer(wrong)) if found.severity == "error"]
    assert finding.text.startswith(f"boxes hold {meant}, where the format has ")
    assert finding.count == len(clean.boxes_xywh)


@pytest.mark.parametrize("format", ["coco", "yolo", "voc", "csv", "openimages", "cvat"])
@pytest.mark.parametrize("photos", ["bccd", "coco_open"])
def test_a_right_set_is_not_suspected(photo_sets, photos, format):
    for part, dataset in read_parts(photo_sets / photos).items():
        assert find_misread(dataset, format) == [], part
        assert list(check_box_frames(dataset, format, namer(dataset))) == []


def test_single_boxes_in_another_frame_are_named(clean):
    boxes = clean.boxes_xywh.copy()
    size = clean.sizes[clean.image_of_box][:, ::-1].astype(float)
    right = boxes[:, 0] > 300
    rows = np.flatnonzero(right)[:3]
    boxes[rows] = corners(boxes)[rows]
    boxes[100] /= np.tile(size[100], 2)
    found = {finding.text: finding for finding in check_box_frames(replace(clean, boxes_xywh=boxes), "coco", str)}
    assert set(found) == {
        "single boxes seem to hold x1, y1, x2, y2, where the format has x, y, width, height",
        "single boxes seem to hold parts of the image, where the format has x, y, width, height",
    }
    assert [finding.examples for finding in found.values()] == [("100",), tuple(map(str, rows))]
    for misread in find_misread(replace(clean, boxes_xywh=boxes), "coco"):
        np.testing.assert_allclose(misread.boxes, clean.boxes_xywh[misread.rows])


def test_boxes_that_were_drawn_on_smaller_images_are_named(clean):
    half = replace(clean, boxes_xywh=clean.boxes_xywh / 2)
    (finding,) = check_box_frames(half, "coco", namer(half))
    assert finding.text == "all boxes lie in the upper left 50% × 50% of their images"


def test_pairs_of_nearly_the_same_box_are_those_of_all_pairs(clean):
    rng = np.random.default_rng(0)
    boxes = clean.boxes_xywh.copy()
    for row in rng.choice(len(boxes) - 1, 40, replace=False):
        boxes[row + 1] = boxes[row] + rng.uniform(-4, 4, 4)
    dataset = replace(clean, boxes_xywh=boxes)
    images, two = dataset.image_of_box, corners(boxes)
    expected = set()
    for i in range(len(boxes)):
        for j in range(i + 1, len(boxes)):
            low, high = np.maximum(two[i, :2], two[j, :2]), np.minimum(two[i, 2:], two[j, 2:])
            shared = np.clip(high - low, 0, None).prod()
            union = boxes[i, 2:].prod() + boxes[j, 2:].prod() - shared
            if images[i] == images[j] and shared / union >= 0.9:
                expected.add((i, j))
    found = set(zip(*(column.tolist() for column in nearly_same(dataset)), strict=True))
    assert len(expected) > 10
    assert found == expected


def test_the_format_of_a_folder_is_known(photo_sets):
    assert {source.format for source in find_data(photo_sets / "bccd").parts.values()} == {"coco"}
