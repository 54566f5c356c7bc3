"""Tests of effdet/report/gallery.py."""

import json

import numpy as np

from effdet.evaluation.analysis import analyse
from effdet.report.gallery import make_gallery
from tests.evaluation.detection_sets import dataset_of, random_set

PHOTO = np.full((200, 200, 3), 90, np.uint8)


def gallery_of(seed, read=lambda index: PHOTO, **options):
    truth, results = random_set(seed)
    analysis = analyse(dataset_of(truth), results)
    return analysis, *make_gallery(analysis, lambda index: f"photo {index}", read, **options)


def test_worst_images_come_first_with_all_their_boxes():
    analysis, images, _ = gallery_of(0)
    assert len(images) == 12
    assert [image["f1"] for image in images] == sorted(image["f1"] for image in images)
    assert sum(len(image["boxes"]) for image in images) == len(analysis.matches.true_labels)
    threshold = analysis.image_scores.threshold
    missed = sum(0 <= box[5] < threshold for image in images for box in image["boxes"])
    wrong = sum(box[5] >= threshold and box[6] not in ("", "crowd") for image in images for box in image["found"])
    assert missed == analysis.image_scores.missed.sum()
    assert wrong == analysis.image_scores.false_positives.sum()
    json.dumps(images, allow_nan=False)


def test_number_of_images_is_limited_but_crops_come_from_all():
    read = []
    _, images, groups = gallery_of(1, lambda index: read.append(index) or PHOTO, max_images=3)
    assert len(images) == 3
    assert len(read) == len(set(read)) > 3  # each once
    assert {group["kind"] for group in groups} == {"false_positives", "misses", "unlabelled", "misnamed", "unseen"}
    assert all(item["source"].startswith("data:image") for group in groups for item in group["crops"])


def test_images_that_cannot_be_read_are_boxes_alone():
    _, images, groups = gallery_of(2, lambda index: None)
    assert {image["source"] for image in images} == {""}
    assert all(image["width"] > 0 and image["height"] > 0 for image in images)
    assert all(item["source"] == "" for group in groups for item in group["crops"])
