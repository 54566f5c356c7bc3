"""Tests of effdet/report/comparison.py."""

import json

import pytest

from effdet.evaluation.analysis import analyse
from effdet.evaluation.coco import evaluate_coco
from effdet.report.comparison import Candidate, comparison_numbers
from effdet.report.page import render_comparison
from tests.evaluation.detection_sets import dataset_of, random_set


def candidate(name, truth, results):
    dataset = dataset_of(truth)
    metrics = evaluate_coco(dataset, results, backend="pycocotools")
    history = [{"epoch": 1.0, "ap": metrics.ap, "loss": None}]
    return Candidate(name=name, metrics=metrics, analysis=analyse(dataset, results), history=history)


def test_each_is_compared_with_the_first():
    truth, results = random_set(0)
    pair = [candidate("all", truth, results), candidate("half", truth, results[::2])]
    numbers = json.loads(json.dumps(comparison_numbers(pair), allow_nan=False))
    assert [one["name"] for one in numbers["candidates"]] == ["all", "half"]
    (difference,) = numbers["differences"]
    assert (difference["first"], difference["second"]) == ("all", "half")
    assert difference["rows"][0]["difference"] == pytest.approx(pair[1].metrics.ap - pair[0].metrics.ap, abs=0.01)
    assert "all against half" not in render_comparison(numbers)  # the page makes its headings itself
    with pytest.raises(ValueError, match="two or more detectors to compare, got 1"):
        comparison_numbers(pair[:1])
