"""Detections for the tests of the analysis: random ones with ties, crowds and empty images, and their data set."""

from pathlib import Path

import numpy as np

from effdet.data.formats.coco import parse_coco
from effdet.evaluation.ground_truth import GroundTruth
from effdet.evaluation.matching import match

CATEGORIES = (3, 5, 8, 9, 11)


def random_set(seed):
    """Return COCO ground truth and results with equal scores, crowds, empty images and all kinds of errors."""
    rng = np.random.default_rng(seed)
    images = (1 + rng.permutation(12)).tolist()
    annotations = []
    for number in range(80):
        box = [*rng.uniform(0, 80, 2).round(1), *rng.uniform(5, 60, 2).round(1)]
        annotations.append(
            {"id": number + 1, "image_id": int(rng.choice(images[1:])), "category_id": int(rng.choice([3, 5, 8]))}
            | {"bbox": [float(v) for v in box], "area": float(box[2] * box[3]), "iscrowd": int(rng.random() < 0.15)}
        )
    results = []
    for a in [annotations[n] for n in rng.integers(0, 80, 300)]:
        moved = np.array(a["bbox"]) + rng.normal(0, rng.choice([0.5, 6, 25]), 4)
        category = a["category_id"] if rng.random() < 0.7 else int(rng.choice([3, 5, 8, 9]))
        image = a["image_id"] if rng.random() < 0.9 else int(rng.choice(images))
        row = {"image_id": image, "category_id": category, "score": float(rng.choice([0.1, 0.3, 0.31, 0.6, 0.9]))}
        results.append({**row, "bbox": [*moved[:2].tolist(), *np.abs(moved[2:]).tolist()]})
    truth = {
        "images": [{"id": image, "width": 200, "height": 200} for image in images],
        "categories": [{"id": category, "name": f"class {category}"} for category in CATEGORIES],
        "annotations": annotations,
    }
    return truth, results


def dataset_of(truth):
    return parse_coco(truth, Path("truth.json"))


def matches_of(truth, results, **options):
    return match(GroundTruth(dataset_of(truth)), results, **options)


def hand_made(boxes, detections):
    """Return matches from rows (image, category, box) and (image, category, box, score) of two classes, 1 and 2."""
    truth = {
        "images": [{"id": image, "width": 100, "height": 100} for image in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
            for number, (image, category, box) in enumerate(boxes, start=1)
        ],
    }
    keys = ("image_id", "category_id", "bbox", "score")
    return matches_of(truth, [dict(zip(keys, row, strict=True)) for row in detections])
