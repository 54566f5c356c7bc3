"""Tests of effdet/evaluation/analysis.py."""

import json

import numpy as np

from effdet.evaluation.analysis import analyse
from tests.evaluation.detection_sets import dataset_of, random_set


def test_all_numbers_are_json_and_agree():
    truth, results = random_set(0)
    dataset = dataset_of(truth)
    analysis = analyse(dataset, results)
    numbers = json.loads(json.dumps(analysis.to_dict(), allow_nan=False))

    best = numbers["recommended_threshold"]
    assert np.trace(np.array(numbers["confusion"]["matrix"])) == best["true_positives"]
    assert analysis.image_scores.true_positives.sum() == best["true_positives"]
    assert analysis.image_scores.missed.sum() == best["missed"]
    assert [row["name"] for row in numbers["per_class"]] == [c["name"] for c in truth["categories"]]
    ids = dataset.image_ids[analysis.indices]
    assert ids.tolist() == sorted(ids.tolist())


def test_only_chosen_images_count():
    truth, results = random_set(0)
    dataset = dataset_of(truth)
    chosen = analyse(dataset, results, image_ids=[2, 3])
    part = {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in (2, 3)],
        "annotations": [row for row in truth["annotations"] if row["image_id"] in (2, 3)],
    }
    alone = analyse(dataset_of(part), [row for row in results if row["image_id"] in (2, 3)])
    assert chosen.to_dict() == alone.to_dict()
    assert chosen.matches.num_images == len(chosen.image_scores.f1) == 2
    assert dataset.image_ids[chosen.indices].tolist() == [2, 3]


def test_nothing_detected_is_analysed_too():
    truth, _ = random_set(0)
    numbers = json.loads(json.dumps(analyse(dataset_of(truth), []).to_dict(), allow_nan=False))
    assert numbers["recommended_threshold"]["f1"] == 0
