"""Every key of the config's section ``eval``: set to another value, what must differ."""

import csv
from dataclasses import fields

import pytest
import torch

from effdet.commands import main
from effdet.config import EvalConfig, load_config
from effdet.data.formats import find_dataset
from effdet.detector.efficientdet import EfficientDet
from effdet.runs.evaluate import detect_dataset
from effdet.runs.start_weights import build_model

CONFIG = """
model: {{name: lite0}}
data: {{root: {root}, image_size: [64, 64], workers: 0}}
train: {{epochs: 3, batch_size: 8}}
run: {{dir: {runs}, name: tiny, device: cpu, threads: 1, report: false}}
"""


@pytest.fixture
def config_file(demo_root, tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG.format(root=demo_root, runs=tmp_path / "runs"))
    return file


@pytest.fixture
def detections(demo_root, config_file):
    """Return a function from overrides to the detections of the model that a run with them starts with."""
    val = find_dataset(demo_root, "val")

    def detect(*overrides):
        torch.manual_seed(0)
        model = build_model(load_config(config_file, overrides), val, resumed=False).eval()
        return detect_dataset(model, val, batch_size=4, workers=0)

    return detect


def most_in_an_image(results):
    return max(results.image_ids.tolist().count(image) for image in set(results.image_ids.tolist()))


def test_max_detections_limits_those_of_an_image(detections):
    assert most_in_an_image(detections()) == 100
    assert most_in_an_image(detections("eval.max_detections=7")) == 7


def test_max_candidates_limits_what_nms_gets(detections):
    assert most_in_an_image(detections("eval.max_candidates=9")) == 9  # soft NMS drops none of so few


def test_score_threshold_is_the_smallest_score(detections):
    low = detections().scores.min()
    threshold = float(detections().scores.max()) * 0.99
    found = detections(f"eval.score_threshold={threshold}").scores
    assert len(found) > 0
    assert low < threshold <= found.min()


def test_nms_decays_scores_or_drops_boxes(detections):
    """Of the same candidates, hard NMS keeps scores as they are, soft NMS keeps more boxes."""
    few = ("eval.max_candidates=50",)
    raw = set(detections(*few, "eval.nms=hard", "eval.iou_threshold=1").scores.tolist())
    hard, soft = detections(*few, "eval.nms=hard"), detections(*few, "eval.nms=soft")
    assert set(hard.scores.tolist()) <= raw
    assert not set(soft.scores.tolist()) <= raw
    assert len(hard) < len(soft)


def test_iou_threshold_is_the_overlap_at_which_hard_nms_drops(detections):
    counts = [
        len(detections("eval.nms=hard", "eval.max_candidates=50", f"eval.iou_threshold={iou}")) for iou in (0.1, 0.5, 1)
    ]
    assert counts[0] < counts[1] < counts[2]


def test_sigma_is_the_width_of_the_decay(detections):
    sums = [detections("eval.max_candidates=50", f"eval.sigma={sigma}").scores.sum() for sigma in (0.1, 0.5, 5)]
    assert sums[0] < sums[1] < sums[2]


def evaluated_epochs(config_file, *overrides):
    """Train, and return the epochs whose row of metrics.csv has an AP."""
    assert main(["train", str(config_file), *overrides]) == 0
    with (config_file.parent / "runs" / "tiny" / "metrics.csv").open(newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file) if row["ap"]]


@pytest.mark.slow
@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3])])
def test_every_is_the_number_of_epochs_between_evaluations(config_file, every, epochs):
    assert evaluated_epochs(config_file, f"eval.every={every}") == epochs


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [3, 8])
def test_batch_size_is_the_number_of_images_that_are_evaluated_together(config_file, monkeypatch, batch_size):
    sizes = []
    detect = EfficientDet.detect

    def record(self, batch, **options):
        sizes.append(len(batch.images))
        return detect(self, batch, **options)

    monkeypatch.setattr(EfficientDet, "detect", record)
    evaluated_epochs(config_file, f"eval.batch_size={batch_size}", "train.epochs=1", "eval.every=1")
    assert sizes[: -(-8 // batch_size)] == ([3, 3, 2] if batch_size == 3 else [8])


def test_no_key_is_without_a_test():
    tested = {"every", "batch_size", "nms", "iou_threshold", "sigma"}
    tested |= {"score_threshold", "max_candidates", "max_detections"}
    tested.add("loss")  # in test_validation_loss.py
    assert {field.name for field in fields(EvalConfig)} == tested
