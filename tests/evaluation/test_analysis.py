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
    chosen = analyse(dataset_of(truth), results, image_ids=[2, 3])
    assert set(chosen.matches.true_images.tolist()) | set(chosen.matches.images.tolist()) == {1, 2}


def test_nothing_detected_is_analysed_too():
    truth, _ = random_set(0)
    numbers = json.loads(json.dumps(analyse(dataset_of(truth), []).to_dict(), allow_nan=False))
    assert numbers["recommended_threshold"]["f1"] == 0
